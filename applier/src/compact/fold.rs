//! Folding the changes of one table into rows. See [`super`].

use super::{Buffers, Shape, Span, keys};
use drover_model::change::Old;
use drover_model::error::codes;
use drover_model::row::{Cell, cells, take_cell};
use drover_model::{Error, Fault, Result, Retry};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// No row, no entry.
pub(super) const NONE: u32 = u32::MAX;

/// An old image as a span.
#[derive(Debug, Clone, Copy)]
pub(super) enum OldSpan {
    None,
    Key(Span),
    Full(Span),
}

impl OldSpan {
    pub fn of(old: Old<'_>, span: impl Fn(&[u8]) -> Span) -> Self {
        match old {
            Old::None => OldSpan::None,
            Old::Key(s) => OldSpan::Key(span(s)),
            Old::Full(s) => OldSpan::Full(span(s)),
        }
    }
}

/// The map's keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct Pass(u64);
impl Hasher for Pass {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// A row of the table, followed through the run.
#[derive(Debug)]
pub(super) struct Row {
    /// Its key's cells before the run; none if it came in the run.
    pub origin: Span,
    /// The entry of that key.
    pub origin_entry: u32,
    /// Its latest image, cells unknown where nothing told them; none if it is deleted.
    pub current: Span,
    /// Its whole image before the run, if that is known.
    pub base: Span,
    /// It was inserted in the run, although (in the tolerant stretch) it may have been there before.
    pub entered: bool,
    /// It was away from its key meanwhile, or another row had it: in the tolerant stretch a snapshot may have shown that key without a row,
    /// or with the other one.
    pub displaced: bool,
}

/// A unique value that the run touches. Index 0 is the identity, `i + 1` the table's other index `i`.
#[derive(Debug)]
pub(super) struct Entry {
    pub index: u16,
    pub hash: u64,
    /// The value's cells, normalised and as they came.
    pub norm: Span,
    pub raw: Span,
    /// The row that held it before the run, as far as is known.
    pub origin: u32,
    /// The row that holds it now. For other indexes filled in at the end.
    pub now: u32,
    /// The row that touched it last: union-find links through it.
    pub last: u32,
    /// Tables without a key: how many more (or fewer) of this row.
    pub count: i64,
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// A change as it came, for executing one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub kind: Kind,
    pub row: u32,
    /// Key cells before.
    pub old: Span,
    pub new: Span,
    pub moved: bool,
}

/// The fold of one table.
#[derive(Debug)]
pub(super) struct TableFold {
    pub tolerant: bool,
    pub serial: bool,
    pub rows: Vec<Row>,
    pub parents: Vec<u32>,
    pub entries: Vec<Entry>,
    map: HashMap<u64, u32, BuildHasherDefault<Pass>>,
    pub events: Vec<Event>,
    /// Other indexes of which a row gives up an unknown value by an update.
    pub blind: Vec<bool>,
    /// A value of an index is known in part only: execute the whole table one by one.
    pub opaque: bool,
    /// The run must be the table's only writer.
    pub whole: bool,
    scan: Vec<(u32, u32)>,
    scan_base: Vec<(u32, u32)>,
}

/// What a value of an index is.
enum Value {
    At(Span),
    /// Has a null in it: collides with nothing.
    Null,
    /// All its cells are unknown: unchanged.
    Unchanged,
    /// Some of its cells are unknown.
    Partly,
}

/// Fills `out` with the cells' bounds; says whether any is unknown.
pub(super) fn scan(row: &[u8], out: &mut Vec<(u32, u32)>) -> bool {
    out.clear();
    let (mut rest, mut unknown) = (row, false);
    while !rest.is_empty() {
        let start = (row.len() - rest.len()) as u32;
        match take_cell(&mut rest) {
            Some(cell) => unknown |= cell == Cell::Unknown,
            None => break,
        }
        out.push((start, (row.len() - rest.len()) as u32));
    }
    unknown
}

impl TableFold {
    pub fn new(shape: &Shape, tolerant: bool) -> Self {
        TableFold {
            tolerant,
            serial: shape.serial,
            rows: Vec::new(),
            parents: Vec::new(),
            entries: Vec::new(),
            map: HashMap::default(),
            events: Vec::new(),
            blind: vec![false; if tolerant { 0 } else { shape.others.len() }],
            opaque: false,
            whole: shape.serial,
            scan: Vec::new(),
            scan_base: Vec::new(),
        }
    }

    /// Hashes of all values touched.
    pub fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().map(|e| e.hash)
    }

    pub fn insert(&mut self, shape: &Shape, b: &mut Buffers, new: Span) -> Result<()> {
        if shape.key.is_empty() {
            return self.count(shape, b, new, 1);
        }
        if scan(b.get(new), &mut self.scan) {
            return Err(Error::internal("an insert lacks values of the row").table(&shape.name));
        }
        let key = self.project_key(shape, b, new);
        let row = self.rows.len() as u32;
        self.events.push(Event { kind: Kind::Insert, row, old: key, new, moved: false });
        if self.serial {
            return Ok(());
        }
        let at = self.entry(shape, b, 0, key);
        let entry = &self.entries[at as usize];
        if entry.now != NONE {
            return Err(contradiction(shape, b, key, "is inserted although it is there already"));
        }
        let last = entry.last;
        let (origin, origin_entry) = if self.tolerant { (key, at) } else { (Span::NONE, NONE) };
        self.rows.push(Row { origin, origin_entry, current: new, base: Span::NONE, entered: true, displaced: false });
        self.parents.push(row);
        self.displace(at, row);
        self.union(row, last);
        let entry = &mut self.entries[at as usize];
        (entry.now, entry.last) = (row, row);
        self.others(shape, b, row, new)
    }

    pub fn update(&mut self, shape: &Shape, b: &mut Buffers, old: OldSpan, mut new: Span) -> Result<()> {
        let mut unknown = scan(b.get(new), &mut self.scan);
        if shape.key.is_empty() {
            let OldSpan::Full(old) = old else { return Err(no_before_image(shape)) };
            if unknown {
                new = self.merge(b, new, old);
            }
            self.count(shape, b, old, -1)?;
            return self.count(shape, b, new, 1);
        }
        let (given, base) = self.old_key(shape, b, old);
        if unknown && self.key_unknown(shape, b, new) {
            if given.is_none() {
                return Err(Error::internal("an update does not name its row").table(&shape.name));
            }
            new = self.fill_key(shape, b, new, given);
            unknown = scan(b.get(new), &mut self.scan);
        }
        let key = self.project_key(shape, b, new);
        let old_key = if given.is_none() { key } else { given };
        let moved = b.get(old_key) != b.get(key);
        let fresh = self.rows.len() as u32;
        if self.serial {
            if moved && unknown && self.tolerant && !base.is_none() {
                new = self.merge(b, new, base);
            }
            self.events.push(Event { kind: Kind::Update, row: fresh, old: old_key, new, moved });
            return Ok(());
        }
        let from = self.entry(shape, b, 0, old_key);
        let row = self.holder(shape, b, from, old_key, base)?;
        self.events.push(Event { kind: Kind::Update, row, old: old_key, new, moved });
        let whole = if unknown {
            let known = &self.rows[row as usize];
            let under = if known.current.is_none() { known.base } else { known.current };
            if under.is_none() { new } else { self.merge(b, new, under) }
        } else {
            new
        };
        if moved {
            self.entries[from as usize].now = NONE;
            let to = self.entry(shape, b, 0, key);
            let entry = &mut self.entries[to as usize];
            if entry.now != NONE {
                return Err(contradiction(shape, b, key, "is taken by another row although it is there already"));
            }
            let last = std::mem::replace(&mut entry.last, row);
            entry.now = row;
            self.union(row, last);
            self.displace(to, row);
            self.rows[row as usize].displaced = true;
        }
        if !shape.others.is_empty() && !self.tolerant {
            scan(b.get(new), &mut self.scan);
            self.blindness(shape, b, row, new);
        }
        self.rows[row as usize].current = whole;
        self.others(shape, b, row, whole)
    }

    pub fn delete(&mut self, shape: &Shape, b: &mut Buffers, old: OldSpan) -> Result<()> {
        if shape.key.is_empty() {
            let OldSpan::Full(old) = old else { return Err(no_before_image(shape)) };
            return self.count(shape, b, old, -1);
        }
        let (key, base) = self.old_key(shape, b, old);
        if key.is_none() {
            return Err(Error::internal("a delete does not name its row").table(&shape.name));
        }
        let row = if self.serial {
            self.rows.len() as u32
        } else {
            let at = self.entry(shape, b, 0, key);
            let row = self.holder(shape, b, at, key, base)?;
            self.entries[at as usize].now = NONE;
            let known = &mut self.rows[row as usize];
            known.current = Span::NONE;
            // The value it gives up is unknown: nobody else may take it beside this run.
            if !known.origin.is_none() && known.base.is_none() && !shape.others.is_empty() && !self.tolerant {
                self.whole = true;
            }
            row
        };
        self.events.push(Event { kind: Kind::Delete, row, old: key, new: Span::NONE, moved: false });
        Ok(())
    }

    /// `row` takes a key: whoever had it before the run cannot count on what lies there.
    fn displace(&mut self, entry: u32, row: u32) {
        let origin = self.entries[entry as usize].origin;
        if origin != NONE && origin != row {
            self.rows[origin as usize].displaced = true;
        }
    }

    /// The row that holds a key now; one that the run has not touched yet was there before it.
    fn holder(&mut self, shape: &Shape, b: &mut Buffers, at: u32, key: Span, base: Span) -> Result<u32> {
        let entry = &self.entries[at as usize];
        if entry.now != NONE {
            return Ok(entry.now);
        }
        if entry.last != NONE && !self.tolerant {
            return Err(contradiction(shape, b, key, "is changed although it is gone"));
        }
        let row = self.rows.len() as u32;
        let last = entry.last;
        self.rows.push(Row {
            origin: key,
            origin_entry: at,
            current: Span::NONE,
            base,
            entered: false,
            displaced: false,
        });
        self.parents.push(row);
        self.union(row, last);
        let entry = &mut self.entries[at as usize];
        (entry.origin, entry.now, entry.last) = (row, row, row);
        if !base.is_none() && !self.tolerant {
            for i in 0..shape.others.len() {
                scan(b.get(base), &mut self.scan);
                if let Value::At(value) = self.value(shape, b, i, base) {
                    let at = self.entry(shape, b, i + 1, value);
                    let entry = &mut self.entries[at as usize];
                    entry.origin = row;
                    let last = std::mem::replace(&mut entry.last, row);
                    self.union(row, last);
                }
            }
        }
        Ok(row)
    }

    /// Notes which other indexes this update may change without telling the value that it gives up. `scan` is of `new`.
    fn blindness(&mut self, shape: &Shape, b: &Buffers, row: u32, new: Span) {
        let known = &self.rows[row as usize];
        if known.origin.is_none() || !known.base.is_none() {
            return;
        }
        for (i, index) in shape.others.iter().enumerate() {
            if index.columns.iter().any(|(c, _)| !self.is_unknown(b, new, *c)) {
                self.blind[i] = true;
                self.whole = true;
            }
        }
    }

    /// Links the row with all that touched the values of other indexes which it takes.
    fn others(&mut self, shape: &Shape, b: &mut Buffers, row: u32, image: Span) -> Result<()> {
        if shape.others.is_empty() || self.tolerant {
            return Ok(());
        }
        scan(b.get(image), &mut self.scan);
        for i in 0..shape.others.len() {
            match self.value(shape, b, i, image) {
                Value::At(value) => {
                    let at = self.entry(shape, b, i + 1, value);
                    let last = std::mem::replace(&mut self.entries[at as usize].last, row);
                    self.union(row, last);
                }
                Value::Partly => (self.opaque, self.whole) = (true, true),
                Value::Null | Value::Unchanged => {}
            }
        }
        Ok(())
    }

    /// At the end: which row holds which value of the other indexes.
    pub fn settle(&mut self, shape: &Shape, b: &mut Buffers) {
        if shape.others.is_empty() || self.tolerant || self.serial {
            return;
        }
        for row in 0..self.rows.len() as u32 {
            let image = self.rows[row as usize].current;
            if image.is_none() {
                continue;
            }
            scan(b.get(image), &mut self.scan);
            for i in 0..shape.others.len() {
                if let Value::At(value) = self.value(shape, b, i, image) {
                    let at = self.entry(shape, b, i + 1, value);
                    self.entries[at as usize].now = row;
                }
            }
        }
    }

    fn count(&mut self, shape: &Shape, b: &mut Buffers, row: Span, by: i64) -> Result<()> {
        if self.tolerant {
            return Err(Error::internal("a table without a key is copied in more than one snapshot").table(&shape.name));
        }
        let at = self.entry(shape, b, 0, row);
        self.entries[at as usize].count += by;
        Ok(())
    }

    /// Key cells and whole image of an old image.
    fn old_key(&mut self, shape: &Shape, b: &mut Buffers, old: OldSpan) -> (Span, Span) {
        match old {
            OldSpan::None => (Span::NONE, Span::NONE),
            OldSpan::Key(key) => (key, Span::NONE),
            OldSpan::Full(row) => {
                std::mem::swap(&mut self.scan, &mut self.scan_base);
                let partial = scan(b.get(row), &mut self.scan);
                let key = self.project_key(shape, b, row);
                std::mem::swap(&mut self.scan, &mut self.scan_base);
                (key, if partial { Span::NONE } else { row })
            }
        }
    }

    /// The key's cells of the row whose bounds are in `scan`.
    fn project_key(&self, shape: &Shape, b: &mut Buffers, row: Span) -> Span {
        let first = self.scan[shape.key[0] as usize].0;
        if shape.contiguous {
            let last = self.scan[shape.key[shape.key.len() - 1] as usize].1;
            return row.sub(first, last);
        }
        let start = b.arena.len();
        for &column in &shape.key {
            let (from, to) = self.scan[column as usize];
            b.append(row.sub(from, to));
        }
        b.since(start)
    }

    fn is_unknown(&self, b: &Buffers, row: Span, column: u16) -> bool {
        let (from, to) = self.scan[column as usize];
        b.get(row.sub(from, to)) == [1]
    }

    fn key_unknown(&self, shape: &Shape, b: &Buffers, row: Span) -> bool {
        shape.key.iter().any(|&c| self.is_unknown(b, row, c))
    }

    /// The value of another index in the row whose bounds are in `scan`.
    fn value(&self, shape: &Shape, b: &mut Buffers, index: usize, row: Span) -> Value {
        let columns = &shape.others[index].columns;
        let (mut unknown, mut null) = (0, false);
        for &(column, _) in columns {
            let (from, to) = self.scan[column as usize];
            match b.get(row.sub(from, to)) {
                [1] => unknown += 1,
                [0] => null = true,
                _ => {}
            }
        }
        if unknown == columns.len() {
            return Value::Unchanged;
        }
        if unknown > 0 {
            return Value::Partly;
        }
        if null {
            return Value::Null;
        }
        if let [(column, _)] = columns[..] {
            let (from, to) = self.scan[column as usize];
            return Value::At(row.sub(from, to));
        }
        let start = b.arena.len();
        for &(column, _) in columns {
            let (from, to) = self.scan[column as usize];
            b.append(row.sub(from, to));
        }
        Value::At(b.since(start))
    }

    /// `new` with its unknown cells taken from `under`.
    fn merge(&mut self, b: &mut Buffers, new: Span, under: Span) -> Span {
        scan(b.get(new), &mut self.scan);
        scan(b.get(under), &mut self.scan_base);
        let start = b.arena.len();
        for i in 0..self.scan.len() {
            let (from, to) = self.scan[i];
            let cell = new.sub(from, to);
            if b.get(cell) == [1] {
                let (from, to) = self.scan_base[i];
                b.append(under.sub(from, to));
            } else {
                b.append(cell);
            }
        }
        b.since(start)
    }

    /// `new` with unknown key cells taken from the key that is named beside it.
    fn fill_key(&mut self, shape: &Shape, b: &mut Buffers, new: Span, key: Span) -> Span {
        scan(b.get(key), &mut self.scan_base);
        let start = b.arena.len();
        for i in 0..self.scan.len() {
            let (from, to) = self.scan[i];
            let cell = new.sub(from, to);
            match shape.key.iter().position(|&c| c as usize == i) {
                Some(k) if b.get(cell) == [1] => {
                    let (from, to) = self.scan_base[k];
                    b.append(key.sub(from, to));
                }
                _ => b.append(cell),
            }
        }
        b.since(start)
    }

    /// The entry of a value, made if there is none. `raw` are the value's cells in the index's order.
    fn entry(&mut self, shape: &Shape, b: &mut Buffers, index: usize, raw: Span) -> u32 {
        let kept = b.arena.len();
        let norm = normalised(shape, b, index, raw);
        let hash = hash(shape.table, index, b.get(norm));
        let first = self.map.get(&hash).copied();
        let mut at = first;
        while let Some(n) = at {
            let entry = &self.entries[n as usize];
            if entry.index as usize == index && b.get(entry.norm) == b.get(norm) {
                if norm.buffer == 0 && norm.start as usize >= kept {
                    b.arena.truncate(kept);
                }
                return n;
            }
            at = (entry.next != NONE).then_some(entry.next);
        }
        let n = self.entries.len() as u32;
        let next = first.unwrap_or(NONE);
        self.entries.push(Entry {
            index: index as u16,
            hash,
            norm,
            raw,
            origin: NONE,
            now: NONE,
            last: NONE,
            count: 0,
            next,
        });
        self.map.insert(hash, n);
        n
    }

    /// The entry of a value that came from outside, if the run touches it.
    pub fn find(&self, shape: &Shape, b: &Buffers, index: usize, value: &[u8]) -> Option<u32> {
        let mut norm = Vec::new();
        keys::put_normal_cells(&mut norm, index_of(shape, index)?, value);
        let mut at = self.map.get(&hash(shape.table, index, &norm)).copied();
        while let Some(n) = at {
            let entry = &self.entries[n as usize];
            if entry.index as usize == index && b.get(entry.norm) == norm {
                return Some(n);
            }
            at = (entry.next != NONE).then_some(entry.next);
        }
        None
    }

    /// Whether the run touched the key of this row.
    pub fn knows(&self, shape: &Shape, b: &Buffers, row: &[u8]) -> bool {
        let mut key = Vec::new();
        super::plan::key_of(shape, row, &mut key);
        !shape.key.is_empty() && !self.serial && self.find(shape, b, 0, &key).is_some()
    }

    pub fn root(&mut self, mut row: u32) -> u32 {
        while self.parents[row as usize] != row {
            let up = self.parents[self.parents[row as usize] as usize];
            self.parents[row as usize] = up;
            row = up;
        }
        row
    }

    pub fn union(&mut self, a: u32, b: u32) {
        if a == NONE || b == NONE || a == b {
            return;
        }
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

fn index_of(shape: &Shape, index: usize) -> Option<&keys::Index> {
    match index {
        0 => Some(&shape.identity),
        n => shape.others.get(n - 1),
    }
}

fn normalised(shape: &Shape, b: &mut Buffers, index: usize, raw: Span) -> Span {
    match index_of(shape, index) {
        Some(i) if !i.exact => {
            let mut out = std::mem::take(&mut b.arena);
            let start = out.len();
            if raw.buffer == 0 {
                // The arena is being written to: normalise a copy of the value.
                let value = out[raw.start as usize..(raw.start + raw.len) as usize].to_vec();
                keys::put_normal_cells(&mut out, i, &value);
            } else {
                keys::put_normal_cells(&mut out, i, b.get(raw));
            }
            b.arena = out;
            b.since(start)
        }
        _ => raw,
    }
}

fn hash(table: u32, index: usize, norm: &[u8]) -> u64 {
    xxh3_64_with_seed(norm, u64::from(table) << 16 | index as u64)
}

/// A key's cells for people.
pub(super) fn key_text(key: &[u8]) -> String {
    let parts: Vec<String> = cells(key)
        .map(|c| match c {
            Cell::Value(v) => String::from_utf8_lossy(v).into_owned(),
            Cell::Null => "null".into(),
            Cell::Unknown => "?".into(),
        })
        .collect();
    parts.join(", ")
}

fn contradiction(shape: &Shape, b: &Buffers, key: Span, what: &str) -> Error {
    Error::new(codes::ROW_COUNT, Fault::Destination, Retry::Never, format!("a row {what}, by the source's changes"))
        .table(&shape.name)
        .key(key_text(b.get(key)))
        .remedy("compare the table with `drover validate`; a unique key of the destination may treat values as equal that differ at the source")
}

fn no_before_image(shape: &Shape) -> Error {
    Error::internal("a change of a table without a key lacks the row's old values").table(&shape.name)
}
