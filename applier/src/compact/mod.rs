//! Compacting: from a run of whole source transactions to few set-wise statements. Pure.
//!
//! Guarantee: executing the steps in order, in one transaction, on a table in the state before the run gives exactly the state
//! after it, and no statement on the way meets a unique value that is still held by another row, whatever order the
//! destination handles the rows of a statement in.
//!
//! How: changes are folded into *rows* (one for each row of the table that was there before or that came in the run), followed over
//! changes of their key. The last write wins; a row that came and went is nothing. What is left of a table is done set-wise:
//! deletes, then updates grouped by their unknown cells, then changes of keys, then inserts. In this order a value given up by a
//! delete can be taken by anything, and a value given up by an update by an insert. What it cannot do is an update that
//! takes a value which another update gives up: the rows tied together by such values (everything that shares a unique value
//! at any time, found by union-find) are executed one by one as the source did. A key that was deleted and
//! inserted again stays a delete and an insert: the source did delete the row, with what hangs on it.
//!
//! The value that an update gives up is known from a full before image only. Where it is missing, [`Folded::questions`] lists the values
//! written to that index, the destination is asked once which rows hold them, and [`Folded::plan`] takes the answers.
//!
//! In the tolerant stretch rows may be there or not, changed already or not: an insert overwrites, an update of a whole
//! row inserts it when missing, a change of key is a delete and an insert, a key that a row only passed through is deleted; a row that moves without all of its values is owed, and
//! written when it was fetched from the source. Secondary unique indexes don't exist there yet.
//!
//! Where foreign keys acted at the source without a trace in its log, a run is cut into parts: see [`parts`].
//!
//! Nothing is allocated for a value: rows are spans of the records' payloads or of one arena, found by hash and compared.

mod fold;
mod keys;
pub mod links;
mod owed;
pub mod parts;
#[cfg(test)]
mod parts_tests;
mod plan;
#[cfg(test)]
pub(crate) mod tests;

pub use keys::{Index, Shape, put_normal, put_normal_cells};
pub use owed::Owed;
pub use parts::Parts;
pub use plan::{Answer, Question};

use crate::windows::Mode;
use bytes::Bytes;
use drover_connectors_api::Keys;
use drover_model::change::{Item, Reader, Widths};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use fold::TableFold;
use links::Links;
use std::collections::HashMap;
use std::sync::Arc;

/// What compacting knows of all tables; index = table id.
#[derive(Debug, Clone)]
pub struct Shapes {
    tables: Vec<Shape>,
    /// Foreign keys of which the source's log lacks the effects.
    pub links: Links,
}

impl Shapes {
    /// From the plans and the destination's unique keys (any order; a table that is not among them has its key only).
    pub fn new(plans: &[TablePlan], keys: &[Keys]) -> Self {
        let none = Keys::default();
        let keys: HashMap<u32, &Keys> = keys.iter().map(|k| (k.table, k)).collect();
        let shape = |p: &TablePlan| Shape::new(p, keys.get(&p.id).copied().unwrap_or(&none));
        Shapes { tables: plans.iter().map(shape).collect(), links: Links::default() }
    }
    /// With the foreign keys that act without a trace.
    pub fn linked(self, links: Links) -> Self {
        Shapes { links, ..self }
    }
    pub fn get(&self, table: u32) -> Option<&Shape> {
        self.tables.get(table as usize).filter(|s| s.table == table)
    }
}

impl Widths for Shapes {
    fn widths(&self, table: u32) -> Option<(usize, usize)> {
        self.get(table).map(|s| (s.width, s.key.len()))
    }
}

/// A run of bytes in one of the buffers. Buffer 0 is the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    buffer: u32,
    start: u32,
    len: u32,
}

impl Span {
    const NONE: Span = Span { buffer: u32::MAX, start: 0, len: 0 };
    fn is_none(self) -> bool {
        self.buffer == u32::MAX
    }
    fn sub(self, from: u32, to: u32) -> Span {
        Span { buffer: self.buffer, start: self.start + from, len: to - from }
    }
}

/// Where the bytes of rows lie.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    arena: Vec<u8>,
    payloads: Vec<Bytes>,
}

impl Buffers {
    #[inline]
    fn get(&self, span: Span) -> &[u8] {
        let whole: &[u8] = match span.buffer {
            0 => &self.arena,
            n => &self.payloads[n as usize - 1],
        };
        &whole[span.start as usize..(span.start + span.len) as usize]
    }
    /// Appends a span to the arena's end.
    fn append(&mut self, span: Span) {
        let range = span.start as usize..(span.start + span.len) as usize;
        match span.buffer {
            0 => self.arena.extend_from_within(range),
            n => self.arena.extend_from_slice(&self.payloads[n as usize - 1][range]),
        }
    }
    /// What was appended to the arena since it was `start` long.
    fn since(&self, start: usize) -> Span {
        Span { buffer: 0, start: start as u32, len: (self.arena.len() - start) as u32 }
    }
}

/// Key hashes of a run, for deciding what may run beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    /// Hashes of every unique value written or given up, sorted.
    pub keys: Vec<u64>,
    /// Hashes of values that must not change beside the run, but may be read by others, sorted.
    pub reads: Vec<u64>,
    /// Tables written, sorted.
    pub tables: Vec<u32>,
    /// Tables of which the run must be the only writer, sorted.
    pub whole: Vec<u32>,
}

impl KeySet {
    /// Whether two runs may not be executed beside each other.
    pub fn conflicts(&self, other: &KeySet) -> bool {
        meet(&self.whole, &other.tables)
            || meet(&self.tables, &other.whole)
            || meet(&self.keys, &other.keys)
            || meet(&self.keys, &other.reads)
            || meet(&self.reads, &other.keys)
    }

    /// Hashes in it.
    pub fn len(&self) -> usize {
        self.keys.len() + self.reads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.reads.is_empty() && self.tables.is_empty()
    }

    /// Adds what another run writes; to be sorted ([`KeySet::sort`]) before it is compared.
    pub fn add(&mut self, more: KeySet) {
        for (list, more) in [(&mut self.keys, more.keys), (&mut self.reads, more.reads)] {
            // Many are added: a list that doubles would have half of its memory for nothing.
            if list.capacity() - list.len() < more.len() {
                list.reserve_exact(more.len().max(list.len() / 8));
            }
            list.extend(more);
        }
        for (list, more) in [(&mut self.tables, more.tables), (&mut self.whole, more.whole)] {
            list.extend(more);
            list.sort_unstable();
            list.dedup();
        }
    }

    pub fn sort(&mut self) {
        for list in [&mut self.keys, &mut self.reads] {
            list.sort_unstable();
            list.dedup();
        }
        for list in [&mut self.tables, &mut self.whole] {
            list.sort_unstable();
            list.dedup();
        }
    }
}

/// Lists whose lengths differ by more than this are compared by searching the longer one.
const UNEQUAL: usize = 16;

/// Whether two sorted lists have an element in common.
fn meet<'a, T: Ord>(mut a: &'a [T], mut b: &'a [T]) -> bool {
    if a.len() > b.len() {
        (a, b) = (b, a);
    }
    if b.len() / UNEQUAL > a.len() {
        return a.iter().any(|x| b.binary_search(x).is_ok());
    }
    while let (Some(x), Some(y)) = (a.first(), b.first()) {
        match x.cmp(y) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => a = &a[1..],
            std::cmp::Ordering::Greater => b = &b[1..],
        }
    }
    false
}

/// A run of changes, folded. See the module.
#[derive(Debug)]
pub struct Folded {
    shapes: Arc<Shapes>,
    buffers: Buffers,
    tables: Vec<Option<Box<TableFold>>>,
    truncates: Vec<Vec<u32>>,
    /// Changes that concerned a table (not dropped).
    pub changes: u64,
}

impl Folded {
    /// Folds the items of these payloads, in order. `mode` gives a table's mode; it is the same for the whole run.
    ///
    /// # Errors
    /// LOG when a payload is damaged; ROW_COUNT when the run contradicts itself (a row changed after it was deleted);
    /// INTERNAL for what an extractor must not send.
    pub fn new(shapes: Arc<Shapes>, payloads: &[Bytes], mode: impl Fn(u32) -> Mode) -> Result<Self> {
        let mut folded = Folded::empty(shapes.clone(), payloads);
        for (n, payload) in payloads.iter().enumerate() {
            let mut reader = Reader::new(payload, &*shapes);
            while let Some(item) = reader.next_item().map_err(damaged)? {
                folded.take(item, n as u32 + 1, reader.offset() as u32, &mode)?;
            }
        }
        Ok(folded)
    }

    /// Nothing yet of these payloads.
    fn empty(shapes: Arc<Shapes>, payloads: &[Bytes]) -> Self {
        let tables = (0..shapes.tables.len()).map(|_| None).collect();
        let buffers = Buffers { arena: Vec::new(), payloads: payloads.to_vec() };
        Folded { shapes, buffers, tables, truncates: Vec::new(), changes: 0 }
    }

    /// Takes the next item in: of payload `buffer` (counted from 1), ending there at `end`. A row ends where its item ends, an old image where
    /// the new row begins: so slices become spans.
    fn take(&mut self, item: Item<'_>, buffer: u32, end: u32, mode: &impl Fn(u32) -> Mode) -> Result<()> {
        let shapes = self.shapes.clone();
        let span = |end: u32, slice: &[u8]| Span { buffer, start: end - slice.len() as u32, len: slice.len() as u32 };
        match item {
            Item::Begin(_) | Item::End | Item::Alone => {}
            Item::Schema(_) => return Err(Error::internal("a schema change among changes of rows")),
            Item::Truncate { tables } => {
                let tables: Vec<u32> = tables.into_iter().filter(|&t| mode(t) != Mode::Drop).collect();
                for &t in &tables {
                    if let Some(slot) = self.tables.get_mut(t as usize) {
                        *slot = None;
                    }
                }
                self.changes += tables.len() as u64;
                if !tables.is_empty() {
                    self.truncates.push(tables);
                }
            }
            Item::Insert { table, new } => {
                if let Some((t, shape, b)) = self.table(table, &shapes, mode)? {
                    t.insert(shape, b, span(end, new))?;
                }
            }
            Item::Update { table, old, new } => {
                if let Some((t, shape, b)) = self.table(table, &shapes, mode)? {
                    let new_span = span(end, new);
                    t.update(shape, b, fold::OldSpan::of(old, |s| span(new_span.start, s)), new_span)?;
                }
            }
            Item::Delete { table, old } => {
                if let Some((t, shape, b)) = self.table(table, &shapes, mode)? {
                    t.delete(shape, b, fold::OldSpan::of(old, |s| span(end, s)))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the run touched the key of this row of a table.
    fn knows(&self, table: u32, row: &[u8]) -> bool {
        let fold = self.tables.get(table as usize).and_then(Option::as_deref);
        fold.zip(self.shapes.get(table)).is_some_and(|(f, shape)| f.knows(shape, &self.buffers, row))
    }

    fn table<'s>(
        &mut self,
        table: u32,
        shapes: &'s Shapes,
        mode: &impl Fn(u32) -> Mode,
    ) -> Result<Option<(&mut TableFold, &'s Shape, &mut Buffers)>> {
        let shape = shapes.get(table).ok_or_else(|| Error::internal("a change of an unknown table"))?;
        let tolerant = match mode(table) {
            Mode::Drop => return Ok(None),
            Mode::Tolerant => true,
            Mode::Strict => false,
        };
        self.changes += 1;
        let slot = &mut self.tables[table as usize];
        let fold = slot.get_or_insert_with(|| Box::new(TableFold::new(shape, tolerant)));
        Ok(Some((fold, shape, &mut self.buffers)))
    }

    /// The same changes one by one, as the source did them: for a destination that takes values for equal which are not, and refused
    /// what came out of another order. Rows of tables without a key are counted as ever.
    pub fn in_order(mut self) -> Self {
        self.tables.iter_mut().flatten().for_each(|fold| fold.opaque = true);
        self
    }

    /// What this run writes, for scheduling.
    pub fn keys(&self) -> KeySet {
        let mut set = KeySet::default();
        for (table, fold) in self.tables.iter().enumerate() {
            let Some(fold) = fold else { continue };
            set.tables.push(table as u32);
            if fold.whole {
                set.whole.push(table as u32);
            } else {
                set.keys.extend(fold.hashes());
            }
        }
        for &table in self.truncates.iter().flatten() {
            set.tables.push(table);
            set.whole.push(table);
        }
        set.sort();
        set
    }
}

/// A payload that cannot be read.
pub(crate) fn damaged(error: drover_model::change::Damaged) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, "a changes record cannot be read").cause(error)
}
