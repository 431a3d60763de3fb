//! How changes lie in a record: whole transactions in commit order, each a header, its changes and an end. One buffer, read
//! in place. A transaction too large for one record is cut into pieces at change boundaries: its first piece has
//! the header, its last the end.
//!
//! A change is identified by (commit position, ordinal within the transaction). Old images come in three kinds, because
//! unknown is not null: none, the key only (cells of the plan's key columns), or the full row. Rows have the columns of the
//! table's plan in the plan's order.

use crate::ddl::SchemaChange;
use crate::position::Position;
use crate::row::{put_varint, take_row, take_varint};

const BEGIN: u8 = 1;
const INSERT: u8 = 2;
const UPDATE: u8 = 3;
const DELETE: u8 = 4;
const TRUNCATE: u8 = 5;
const END: u8 = 6;
const ALONE: u8 = 7;
const SCHEMA: u8 = 8;

/// The image of a row before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old<'a> {
    /// Not given: the key did not change.
    None,
    /// Cells of the key columns, in the order of the plan's key.
    Key(&'a [u8]),
    /// All cells of the plan's columns.
    Full(&'a [u8]),
}

/// The head of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The position that is reached once this transaction is applied.
    pub position: Position,
    /// Commit time at the source, microseconds since the Unix epoch.
    pub commit_micros: i64,
}

/// One item of a record's payload. Rows are encoded cells (see [`crate::row`]).
#[derive(Debug, Clone, PartialEq)]
pub enum Item<'a> {
    Begin(Begin),
    Insert {
        table: u32,
        new: &'a [u8],
    },
    Update {
        table: u32,
        old: Old<'a>,
        new: &'a [u8],
    },
    /// `old` is never [`Old::None`].
    Delete {
        table: u32,
        old: Old<'a>,
    },
    /// These tables were emptied together.
    Truncate {
        tables: Vec<u32>,
    },
    /// The change right behind this had no effects beside it that the log lacks: foreign keys were not in force for it, or the log has
    /// what they did. Matters only for tables whose foreign keys act without a trace (see [`crate::schema::Unlogged`]).
    Alone,
    /// Tables change. Alone in its transaction and in its record: what is behind it is encoded with the plans that it brings.
    Schema(Box<SchemaChange>),
    End,
}

/// The payload of a changes record is damaged, or names a table that the reader does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a changes record is damaged at byte {offset}: {what}")]
pub struct Damaged {
    pub offset: usize,
    pub what: &'static str,
}

/// Appends the head of a transaction.
pub fn put_begin(out: &mut Vec<u8>, begin: &Begin) {
    out.push(BEGIN);
    out.extend_from_slice(&begin.commit_micros.to_le_bytes());
    let position = begin.position.to_bytes();
    put_varint(out, position.len() as u64);
    out.extend_from_slice(&position);
}

/// Appends an insert's head; the caller appends the new row's cells.
pub fn put_insert(out: &mut Vec<u8>, table: u32) {
    out.push(INSERT);
    put_varint(out, u64::from(table));
}

/// Kind of an old image, as written ahead of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OldKind {
    None = 0,
    Key = 1,
    Full = 2,
}

/// Appends an update's head; the caller appends the old cells (none for [`OldKind::None`]) and the new row's.
pub fn put_update(out: &mut Vec<u8>, table: u32, old: OldKind) {
    out.push(UPDATE);
    put_varint(out, u64::from(table));
    out.push(old as u8);
}

/// Appends a delete's head; the caller appends the old cells.
pub fn put_delete(out: &mut Vec<u8>, table: u32, old: OldKind) {
    out.push(DELETE);
    put_varint(out, u64::from(table));
    out.push(old as u8);
}

/// Appends a truncation of several tables at once.
pub fn put_truncate(out: &mut Vec<u8>, tables: &[u32]) {
    out.push(TRUNCATE);
    put_varint(out, tables.len() as u64);
    for &t in tables {
        put_varint(out, u64::from(t));
    }
}

/// Appends the mark that the change behind it stands alone, see [`Item::Alone`]; the two must not be cut apart.
pub fn put_alone(out: &mut Vec<u8>) {
    out.push(ALONE);
}

/// Appends a schema change.
pub fn put_schema(out: &mut Vec<u8>, change: &SchemaChange) {
    out.push(SCHEMA);
    // Texts, numbers and maps of texts always have a JSON form.
    let json = serde_json::to_vec(change).unwrap_or_default();
    put_varint(out, json.len() as u64);
    out.extend_from_slice(&json);
}

/// Appends a transaction's end.
pub fn put_end(out: &mut Vec<u8>) {
    out.push(END);
}

/// Width of a table's rows: what a reader must know to find a row's end.
pub trait Widths {
    /// (cells of a row, cells of a key) of a table; `None` for an unknown table.
    fn widths(&self, table: u32) -> Option<(usize, usize)>;
}

impl Widths for [crate::TablePlan] {
    fn widths(&self, table: u32) -> Option<(usize, usize)> {
        let plan =
            self.get(table as usize).filter(|p| p.id == table).or_else(|| self.iter().find(|p| p.id == table))?;
        Some((plan.columns.len(), plan.key.len()))
    }
}

/// Reads the items of a payload in place.
pub struct Reader<'a, W: ?Sized> {
    whole: usize,
    rest: &'a [u8],
    widths: &'a W,
}

impl<'a, W: Widths + ?Sized> Reader<'a, W> {
    pub fn new(payload: &'a [u8], widths: &'a W) -> Self {
        Reader { whole: payload.len(), rest: payload, widths }
    }

    /// Bytes read so far: an offset at which another reader may go on.
    pub fn offset(&self) -> usize {
        self.whole - self.rest.len()
    }

    /// The next item, or `None` at the end of the payload.
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, Damaged> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let offset = self.offset();
        self.item().map(Some).map_err(|what| Damaged { offset, what })
    }

    fn item(&mut self) -> Result<Item<'a>, &'static str> {
        let (&tag, rest) = self.rest.split_first().ok_or("it ends early")?;
        self.rest = rest;
        match tag {
            BEGIN => {
                let (micros, rest) = self.rest.split_first_chunk::<8>().ok_or("it ends early")?;
                self.rest = rest;
                let len = take_varint(&mut self.rest).ok_or("bad length")? as usize;
                let (position, rest) = self.rest.split_at_checked(len).ok_or("it ends early")?;
                self.rest = rest;
                let position = Position::from_bytes(position).map_err(|_| "bad position")?;
                Ok(Item::Begin(Begin { position, commit_micros: i64::from_le_bytes(*micros) }))
            }
            INSERT => {
                let (table, wide, _) = self.table()?;
                Ok(Item::Insert { table, new: self.row(wide)? })
            }
            UPDATE => {
                let (table, wide, key) = self.table()?;
                let old = self.old(wide, key)?;
                Ok(Item::Update { table, old, new: self.row(wide)? })
            }
            DELETE => {
                let (table, wide, key) = self.table()?;
                match self.old(wide, key)? {
                    Old::None => Err("a delete without an old image"),
                    old => Ok(Item::Delete { table, old }),
                }
            }
            TRUNCATE => {
                let n = take_varint(&mut self.rest).ok_or("bad count")?;
                let mut tables = Vec::new();
                for _ in 0..n {
                    tables.push(take_varint(&mut self.rest).and_then(|t| u32::try_from(t).ok()).ok_or("bad table")?);
                }
                Ok(Item::Truncate { tables })
            }
            ALONE => Ok(Item::Alone),
            SCHEMA => {
                let len = take_varint(&mut self.rest).ok_or("bad length")? as usize;
                let (json, rest) = self.rest.split_at_checked(len).ok_or("it ends early")?;
                self.rest = rest;
                serde_json::from_slice(json).map(|c| Item::Schema(Box::new(c))).map_err(|_| "bad schema change")
            }
            END => Ok(Item::End),
            _ => Err("unknown tag"),
        }
    }

    fn table(&mut self) -> Result<(u32, usize, usize), &'static str> {
        let table = take_varint(&mut self.rest).and_then(|t| u32::try_from(t).ok()).ok_or("bad table")?;
        let (wide, key) = self.widths.widths(table).ok_or("unknown table")?;
        Ok((table, wide, key))
    }

    fn row(&mut self, cells: usize) -> Result<&'a [u8], &'static str> {
        take_row(&mut self.rest, cells).ok_or("bad row")
    }

    fn old(&mut self, wide: usize, key: usize) -> Result<Old<'a>, &'static str> {
        let (&kind, rest) = self.rest.split_first().ok_or("it ends early")?;
        self.rest = rest;
        match kind {
            0 => Ok(Old::None),
            1 => Ok(Old::Key(self.row(key)?)),
            2 => Ok(Old::Full(self.row(wide)?)),
            _ => Err("bad kind of old image"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Cell, put_cell};

    struct Two;
    impl Widths for Two {
        fn widths(&self, table: u32) -> Option<(usize, usize)> {
            (table == 9).then_some((2, 1))
        }
    }

    fn row(values: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        values.iter().for_each(|v| put_cell(&mut out, Cell::Value(v.as_bytes())));
        out
    }

    #[test]
    fn a_transaction_comes_back_item_by_item() {
        let position = Position { lineage: 1, order: vec![0, 9], resume: vec![], text: "9".into() };
        let begin = Begin { position, commit_micros: -5 };
        let mut out = Vec::new();
        put_begin(&mut out, &begin);
        put_insert(&mut out, 9);
        out.extend(row(&["1", "a"]));
        put_update(&mut out, 9, OldKind::Key);
        out.extend(row(&["1"]));
        out.extend(row(&["2", "b"]));
        put_delete(&mut out, 9, OldKind::Full);
        out.extend(row(&["2", "b"]));
        put_truncate(&mut out, &[9]);
        put_alone(&mut out);
        put_end(&mut out);
        let mut reader = Reader::new(&out, &Two);
        let mut items = Vec::new();
        while let Some(item) = reader.next_item().unwrap() {
            items.push(item);
        }
        let (a, k, b) = (row(&["1", "a"]), row(&["1"]), row(&["2", "b"]));
        assert_eq!(
            items,
            vec![
                Item::Begin(begin),
                Item::Insert { table: 9, new: &a },
                Item::Update { table: 9, old: Old::Key(&k), new: &b },
                Item::Delete { table: 9, old: Old::Full(&b) },
                Item::Truncate { tables: vec![9] },
                Item::Alone,
                Item::End
            ]
        );
        for cut in 1..out.len() {
            let mut reader = Reader::new(&out[..cut], &Two);
            while let Ok(Some(_)) = reader.next_item() {}
        }
    }
}
