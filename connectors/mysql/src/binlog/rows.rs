//! Row events: the images of changed rows, read in place and written as changes in drover's form.
//!
//! Guarantee: nothing is allocated per value. A column that an image leaves out (`binlog_row_image` other than FULL) is taken from the other image of the
//! change where that has it; else it is unknown in an update whose row is named, and in any other case the change is refused.

use super::bind::Binding;
use super::bytes::{Fields, little};
use super::event::{Event, kind};
use super::values::{Decode, Width, unpack};
use super::{event, json_diff};
use crate::condition::Condition;
use drover_model::change::{self, OldKind};
use drover_model::row::{self, Cell, put_cell};

/// What rows of an event went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Insert,
    Update,
    Delete,
}

/// A row event, its rows still to be read.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Number of the TABLE_MAP.
    pub id: u64,
    pub action: Action,
    /// Updates may carry differences of JSON documents.
    partial: bool,
    /// The statement ends here: its TABLE_MAPs do, too.
    pub ends: bool,
    /// No foreign key did anything for these changes that the log lacks.
    alone: bool,
    /// Rows are compressed (MariaDB).
    packed: bool,
    columns: usize,
    before: Present<'a>,
    after: Present<'a>,
    pub body: &'a [u8],
}

/// Which columns an image has.
#[derive(Debug, Clone, Copy)]
struct Present<'a> {
    bits: &'a [u8],
    count: usize,
}

impl<'a> Present<'a> {
    fn take(f: &mut Fields<'a>, columns: usize) -> Option<Present<'a>> {
        let bits = f.take(columns.div_ceil(8))?;
        let whole: u32 = bits.iter().take(columns / 8).map(|b| b.count_ones()).sum();
        let rest = bits.get(columns / 8).map_or(0, |b| (b & ((1 << (columns % 8)) - 1)).count_ones());
        Some(Present { bits, count: (whole + rest) as usize })
    }
}

#[inline]
fn bit(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 == 1)
}

/// Flags of a row event: the session had foreign keys off; the server (MySQL 9.6 and later) did what they do itself and logged it.
const NO_FOREIGN_KEY_CHECKS: u16 = 2;
const USE_SQL_FOREIGN_KEY: u16 = 16;

/// Reads the head of a row event; `head` is the description's `table_map_head`. `None` if it is damaged.
pub fn parse<'a>(event: &Event<'a>, head: u8) -> Option<Rows<'a>> {
    use kind::*;
    let (action, second, packed) = match event.head.kind {
        WRITE_ROWS_V1 => (Action::Insert, false, false),
        UPDATE_ROWS_V1 => (Action::Update, false, false),
        DELETE_ROWS_V1 => (Action::Delete, false, false),
        WRITE_ROWS => (Action::Insert, true, false),
        UPDATE_ROWS | PARTIAL_UPDATE_ROWS => (Action::Update, true, false),
        DELETE_ROWS => (Action::Delete, true, false),
        MARIADB_WRITE_ROWS_COMPRESSED_V1 => (Action::Insert, false, true),
        MARIADB_UPDATE_ROWS_COMPRESSED_V1 => (Action::Update, false, true),
        MARIADB_DELETE_ROWS_COMPRESSED_V1 => (Action::Delete, false, true),
        MARIADB_WRITE_ROWS_COMPRESSED => (Action::Insert, true, true),
        MARIADB_UPDATE_ROWS_COMPRESSED => (Action::Update, true, true),
        MARIADB_DELETE_ROWS_COMPRESSED => (Action::Delete, true, true),
        _ => return None,
    };
    let mut f = Fields(event.body);
    let id = f.uint(if head == 6 { 4 } else { 6 })?;
    let flags = f.u16()?;
    if second {
        // Partitions and the like; the length counts itself.
        let extra = usize::from(f.u16()?);
        f.take(extra.checked_sub(2)?)?;
    }
    let columns = usize::try_from(f.length()?).ok()?;
    let first = Present::take(&mut f, columns)?;
    let (before, after) = match action {
        Action::Update => (first, Present::take(&mut f, columns)?),
        _ => (first, first),
    };
    let partial = event.head.kind == PARTIAL_UPDATE_ROWS;
    let alone = flags & (NO_FOREIGN_KEY_CHECKS | USE_SQL_FOREIGN_KEY) != 0;
    Some(Rows { id, action, partial, ends: flags & 1 == 1, alone, packed, columns, before, after, body: f.0 })
}

impl<'a> Rows<'a> {
    /// The rows' bytes, unpacked into `buffer` if they are packed. `None` if they are damaged.
    pub fn bytes<'b>(&self, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        if !self.packed {
            return Some(self.body);
        }
        buffer.clear();
        unpack_mariadb(self.body, buffer)?;
        Some(buffer)
    }
}

/// MariaDB's form of compressed events (`binlog_buf_compress` in its sql/log_event.cc): a byte with the method and the bytes of the length, the
/// length, a zlib stream. Appends to `out`.
pub fn unpack_mariadb(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (&head, rest) = bytes.split_first()?;
    if head & 0x80 == 0 || head >> 4 & 7 != 0 {
        return None;
    }
    let (length, data) = rest.split_at_checked(usize::from(head & 7))?;
    unpack(data, super::bytes::big(length), false, out)
}

/// A value in an image, by its place in the rows' bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Raw {
    Absent,
    Null,
    Value(usize, usize),
    /// Differences to the JSON document of the old image.
    Differences(usize, usize),
}

/// Room that is used again for each row.
#[derive(Debug, Default)]
pub struct Scratch {
    before: Vec<Raw>,
    after: Vec<Raw>,
    text: Vec<u8>,
    tested: Tested,
}

/// The cells that a condition reads.
#[derive(Debug, Default)]
struct Tested {
    cells: Vec<u8>,
    /// Where each lies in there; `None`: null.
    places: Vec<Option<(usize, usize)>>,
}

/// Why a row cannot be carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The bytes are no row of this table.
    Damaged,
    /// The image lacks columns that are needed.
    Partial(Action),
    /// The images lack columns that the table's condition is about, or some of a row that satisfies it from now on.
    Untold,
    /// Differences of a document whose old image is not there.
    NoBase,
}

/// Reads one image from `bytes` at `at`; gives where it ends.
fn scan(
    cells: &mut Vec<Raw>,
    widths: &[Width],
    present: Present<'_>,
    bytes: &[u8],
    mut at: usize,
    partial: Option<(&[bool], &[u8])>,
) -> Option<usize> {
    let nulls = bytes.get(at..)?.get(..present.count.div_ceil(8))?;
    at += nulls.len();
    let all = present.count == widths.len();
    let (mut n, mut json) = (0, 0);
    cells.clear();
    for (i, width) in widths.iter().enumerate() {
        // Each JSON column of the table has a bit, whether it is in the image or not.
        let differences = match partial {
            Some((is_json, bits)) if is_json.get(i) == Some(&true) => {
                json += 1;
                bit(bits, json - 1)
            }
            _ => false,
        };
        if !all && !bit(present.bits, i) {
            cells.push(Raw::Absent);
            continue;
        }
        n += 1;
        if bit(nulls, n - 1) {
            cells.push(Raw::Null);
            continue;
        }
        let (from, length) = match *width {
            Width::Fixed(length) => (at, length),
            Width::Counted(prefix) => (at + prefix, little(bytes.get(at..)?.get(..prefix)?) as usize),
        };
        let end = from.checked_add(length)?;
        if end > bytes.len() {
            return None;
        }
        cells.push(if differences { Raw::Differences(from, end) } else { Raw::Value(from, end) });
        at = end;
    }
    Some(at)
}

/// The bits that say which JSON values of a row's new image are differences, and where the image begins. `None` if damaged.
fn partial_bits<'a>(binding: &Binding, bytes: &'a [u8], at: usize) -> Option<(Option<&'a [u8]>, usize)> {
    let mut f = Fields(bytes.get(at..)?);
    let options = f.length()?;
    if options & 1 == 0 {
        return Some((None, bytes.len() - f.0.len()));
    }
    let json = binding.json.iter().filter(|j| **j).count();
    let bits = f.take(json.div_ceil(8))?;
    Some((Some(bits), bytes.len() - f.0.len()))
}

/// Writes the change of the row at `at` to `out`, and gives where the next row begins. Nothing is written of a row that does not satisfy the table's
/// condition; one that satisfies it from now on is inserted, one that did until now is deleted.
pub fn put_change(
    rows: &Rows<'_>,
    binding: &Binding,
    bytes: &[u8],
    at: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<usize, Refused> {
    if rows.columns != binding.widths.len() {
        return Err(Refused::Damaged);
    }
    let Scratch { before, after, text, tested } = scratch;
    let read = |cells: &mut Vec<Raw>, present, at| {
        scan(cells, &binding.widths, present, bytes, at, None).ok_or(Refused::Damaged)
    };
    let end = match rows.action {
        Action::Insert => {
            let end = read(after, rows.after, at)?;
            if binding.columns.iter().any(|(place, _)| after[*place] == Raw::Absent) {
                return Err(Refused::Partial(Action::Insert));
            }
            if satisfies(binding, bytes, after, None, tested, text)? {
                change::put_insert(out, binding.table);
                put_image(out, binding, bytes, after, None, text)?;
            }
            end
        }
        Action::Delete => {
            let end = read(before, rows.before, at)?;
            let old = old_kind(binding, before).ok_or(Refused::Partial(Action::Delete))?;
            if satisfies(binding, bytes, before, None, tested, text)? {
                if rows.alone {
                    change::put_alone(out);
                }
                change::put_delete(out, binding.table, old);
                put_old(out, binding, bytes, before, old, text)?;
            }
            end
        }
        Action::Update => {
            let middle = read(before, rows.before, at)?;
            let end = if rows.partial {
                let (bits, middle) = partial_bits(binding, bytes, middle).ok_or(Refused::Damaged)?;
                let partial = bits.map(|bits| (&binding.json[..], bits));
                scan(after, &binding.widths, rows.after, bytes, middle, partial).ok_or(Refused::Damaged)?
            } else {
                read(after, rows.after, middle)?
            };
            let old = old_kind(binding, before).ok_or(Refused::Partial(Action::Update))?;
            let was = satisfies(binding, bytes, before, None, tested, text)?;
            let is = satisfies(binding, bytes, after, Some(before), tested, text)?;
            match (was, is) {
                (true, true) => {
                    if rows.alone {
                        change::put_alone(out);
                    }
                    change::put_update(out, binding.table, old);
                    put_old(out, binding, bytes, before, old, text)?;
                    put_image(out, binding, bytes, after, Some(before), text)?;
                }
                (false, true) => {
                    let absent = |i: usize| after[i] == Raw::Absent && before[i] == Raw::Absent;
                    if binding.columns.iter().any(|(place, _)| absent(*place)) {
                        return Err(Refused::Untold);
                    }
                    change::put_insert(out, binding.table);
                    put_image(out, binding, bytes, after, Some(before), text)?;
                }
                (true, false) => {
                    // At the source it is still there: nothing of what refers to it has gone.
                    change::put_alone(out);
                    change::put_delete(out, binding.table, old);
                    put_old(out, binding, bytes, before, old, text)?;
                }
                (false, false) => {}
            }
            end
        }
    };
    // An event of rows without columns would never end.
    if end <= at { Err(Refused::Damaged) } else { Ok(end) }
}

/// Whether a row satisfies the table's condition; what its image lacks is in `base`.
fn satisfies(
    binding: &Binding,
    bytes: &[u8],
    cells: &[Raw],
    base: Option<&[Raw]>,
    tested: &mut Tested,
    text: &mut Vec<u8>,
) -> Result<bool, Refused> {
    let Some(condition) = &binding.condition else { return Ok(true) };
    tested.cells.clear();
    tested.places.clear();
    for column in condition.columns() {
        let (place, decode) = &binding.columns[column];
        let from = tested.cells.len();
        put_raw(&mut tested.cells, decode, bytes, cells[*place], base.map(|b| b[*place]), text)?;
        let value = match row::cells(&tested.cells[from..]).next() {
            Some(Cell::Value(value)) => Some((tested.cells.len() - value.len(), tested.cells.len())),
            Some(Cell::Null) => None,
            _ => return Err(Refused::Untold),
        };
        tested.places.push(value);
    }
    Ok(holds(condition, tested))
}

fn holds(condition: &Condition, tested: &Tested) -> bool {
    condition.holds(|n| tested.places[n].map(|(from, end)| &tested.cells[from..end]))
}

/// Which old image there is: all columns, or those of the key.
fn old_kind(binding: &Binding, before: &[Raw]) -> Option<OldKind> {
    let there = |(place, _): &(usize, Decode)| before[*place] != Raw::Absent;
    if binding.columns.iter().all(there) {
        return Some(OldKind::Full);
    }
    let named = !binding.key.is_empty() && binding.key.iter().all(|&k| there(&binding.columns[k]));
    named.then_some(OldKind::Key)
}

fn put_old(
    out: &mut Vec<u8>,
    binding: &Binding,
    bytes: &[u8],
    before: &[Raw],
    old: OldKind,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    match old {
        OldKind::None => Ok(()),
        OldKind::Full => put_image(out, binding, bytes, before, None, text),
        OldKind::Key => {
            for &k in &binding.key {
                let (place, decode) = &binding.columns[k];
                put_raw(out, decode, bytes, before[*place], None, text)?;
            }
            Ok(())
        }
    }
}

/// All columns of the plan; those that the image lacks from `base`.
fn put_image(
    out: &mut Vec<u8>,
    binding: &Binding,
    bytes: &[u8],
    cells: &[Raw],
    base: Option<&[Raw]>,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    for (place, decode) in &binding.columns {
        let base = base.map(|b| b[*place]);
        put_raw(out, decode, bytes, cells[*place], base, text)?;
    }
    Ok(())
}

#[inline]
fn put_raw(
    out: &mut Vec<u8>,
    decode: &Decode,
    bytes: &[u8],
    raw: Raw,
    base: Option<Raw>,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    match raw {
        Raw::Value(from, end) => decode.put(out, &bytes[from..end], text).ok_or(Refused::Damaged),
        Raw::Null => {
            put_cell(out, Cell::Null);
            Ok(())
        }
        Raw::Absent => match base {
            Some(base @ (Raw::Value(..) | Raw::Null)) => put_raw(out, decode, bytes, base, None, text),
            _ => {
                put_cell(out, Cell::Unknown);
                Ok(())
            }
        },
        Raw::Differences(from, end) => {
            let Some(Raw::Value(base_from, base_end)) = base else { return Err(Refused::NoBase) };
            text.clear();
            json_diff::put_text(text, &bytes[base_from..base_end], &bytes[from..end]).ok_or(Refused::Damaged)?;
            put_cell(out, Cell::Value(text));
            Ok(())
        }
    }
}

/// Whether an event has rows that this module reads.
pub fn is_rows(kind: u8) -> bool {
    use event::kind::*;
    matches!(
        kind,
        WRITE_ROWS_V1..=DELETE_ROWS_V1
            | WRITE_ROWS..=DELETE_ROWS
            | PARTIAL_UPDATE_ROWS
            | MARIADB_WRITE_ROWS_COMPRESSED_V1..=MARIADB_DELETE_ROWS_COMPRESSED
    )
}
