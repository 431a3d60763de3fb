//! From folded rows to steps. See [`super`].

use super::fold::{Entry, Event, Kind, NONE, TableFold, scan};
use super::{Buffers, Folded, Shape};
use drover_connectors_api::Step;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_128;

/// Which rows of a table hold these values of a unique index right now? `index` counts [`drover_connectors_api::Keys::others`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    pub table: u32,
    pub index: usize,
    pub values: Vec<&'a [u8]>,
}

/// The answer: (identity key cells, value cells) of the rows found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub table: u32,
    pub index: usize,
    pub holders: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It came and went.
    Nothing,
    Deleted,
    Updated,
    Moved,
    Inserted,
}

impl Folded {
    /// What the destination must be asked before [`Folded::plan`]: one question a table and index at most.
    pub fn questions(&self) -> Vec<Question<'_>> {
        let mut out = Vec::new();
        for (table, fold) in self.tables.iter().enumerate() {
            let Some(fold) = fold.as_ref().filter(|f| !f.serial && !f.opaque) else { continue };
            for (index, _) in fold.blind.iter().enumerate().filter(|(_, blind)| **blind) {
                let values: Vec<&[u8]> = fold
                    .entries
                    .iter()
                    .filter(|e| e.index as usize == index + 1)
                    .map(|e| self.buffers.get(e.raw))
                    .collect();
                if !values.is_empty() {
                    out.push(Question { table: table as u32, index, values });
                }
            }
        }
        out
    }

    /// The steps, in the order in which they are to be executed. What the run owes ([`Folded::owed`]) is to be written after them.
    pub fn plan(&mut self, answers: &[Answer]) -> Vec<Step<'_>> {
        let shapes = self.shapes.clone();
        for (table, fold) in self.tables.iter_mut().enumerate() {
            let (Some(fold), Some(shape)) = (fold.as_mut(), shapes.get(table as u32)) else { continue };
            fold.settle(shape, &mut self.buffers);
            for answer in answers.iter().filter(|a| a.table == table as u32) {
                fold.learn(shape, &self.buffers, answer);
            }
        }
        let mut single: Vec<Vec<bool>> = Vec::with_capacity(self.tables.len());
        for fold in &mut self.tables {
            single.push(fold.as_mut().map(|f| f.tied()).unwrap_or_default());
        }
        let mut steps: Vec<Step<'_>> = self.truncates.iter().map(|t| Step::Truncate { tables: t.clone() }).collect();
        for (table, fold) in self.tables.iter().enumerate() {
            let (Some(fold), Some(shape)) = (fold.as_ref(), self.shapes.get(table as u32)) else { continue };
            if shape.key.is_empty() {
                fold.counted(shape, &self.buffers, &mut steps);
            } else {
                fold.steps(shape, &self.buffers, &single[table], &mut steps);
            }
        }
        steps
    }
}

impl TableFold {
    /// Takes in which rows hold values before the run.
    fn learn(&mut self, shape: &Shape, b: &Buffers, answer: &Answer) {
        for (key, value) in &answer.holders {
            let Some(at) = self.find(shape, b, answer.index + 1, value) else {
                // The destination finds equal what is different here: no order but the source's is safe.
                self.opaque = true;
                continue;
            };
            let holder = self.find(shape, b, 0, key).map_or(NONE, |k| self.entries[k as usize].origin);
            if holder != NONE {
                let entry = &mut self.entries[at as usize];
                entry.origin = holder;
                let last = entry.last;
                self.union(holder, last);
            }
        }
    }

    pub(super) fn fate(&self, b: &Buffers, row: u32, key: &mut Vec<u8>, shape: &Shape) -> Fate {
        let r = &self.rows[row as usize];
        match (r.origin.is_none(), r.current.is_none()) {
            (true, true) => Fate::Nothing,
            (false, true) => Fate::Deleted,
            (true, false) => Fate::Inserted,
            (false, false) => {
                key_of(shape, b.get(r.current), key);
                let same = b.get(r.origin) == &key[..];
                match (same, r.entered) {
                    (true, true) => Fate::Inserted,
                    // What lies under its key need not be it.
                    (true, false) if self.tolerant && r.displaced => Fate::Moved,
                    (true, false) => Fate::Updated,
                    (false, _) => Fate::Moved,
                }
            }
        }
    }

    /// For each row whether it has to be executed change by change.
    fn tied(&mut self) -> Vec<bool> {
        let n = self.rows.len();
        if self.serial || self.opaque {
            return vec![true; n];
        }
        if self.tolerant {
            return vec![false; n];
        }
        let mut roots = vec![false; n];
        for i in 0..self.entries.len() {
            let (origin, now) = (self.entries[i].origin, self.entries[i].now);
            if origin == NONE || now == NONE || origin == now {
                continue;
            }
            // Given up by an update and taken by an update: a delete comes before all, an insert after all.
            let lives = !self.rows[origin as usize].current.is_none();
            let came = self.rows[now as usize].origin.is_none();
            if lives && !came {
                let root = self.root(now);
                roots[root as usize] = true;
                let root = self.root(origin);
                roots[root as usize] = true;
            }
        }
        (0..n as u32).map(|r| roots[self.root(r) as usize]).collect()
    }

    fn counted<'a>(&'a self, shape: &Shape, b: &'a Buffers, steps: &mut Vec<Step<'a>>) {
        let table = shape.table;
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let row = b.get(entry.raw);
            match entry.count {
                n if n < 0 => gone.push((row, n.unsigned_abs())),
                n => come.extend(std::iter::repeat_n(row, n as usize)),
            }
        }
        if !gone.is_empty() {
            steps.push(Step::DeleteWhole { table, rows: gone });
        }
        if !come.is_empty() {
            steps.push(Step::Insert { table, rows: come, tolerant: false });
        }
    }

    fn steps<'a>(&'a self, shape: &Shape, b: &'a Buffers, single: &[bool], steps: &mut Vec<Step<'a>>) {
        let (table, tolerant) = (shape.table, self.tolerant);
        let mut deletes: Vec<&[u8]> = Vec::new();
        let mut inserts: Vec<&[u8]> = Vec::new();
        let mut moves = Vec::new();
        let mut groups: Vec<(Vec<u16>, Vec<&[u8]>)> = Vec::new();
        let mut masks: HashMap<u128, usize> = HashMap::new();
        let mut deleted = vec![false; if tolerant { self.entries.len() } else { 0 }];
        let (mut bounds, mut key, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..self.rows.len() as u32 {
            if single[row as usize] {
                continue;
            }
            let r = &self.rows[row as usize];
            let fate = self.fate(b, row, &mut key, shape);
            let delete = fate == Fate::Deleted || (tolerant && fate == Fate::Moved);
            // A key may come and go several times in the tolerant stretch; it is deleted once.
            if delete && !(tolerant && std::mem::replace(&mut deleted[r.origin_entry as usize], true)) {
                deletes.push(b.get(r.origin));
            }
            match fate {
                Fate::Nothing | Fate::Deleted => {}
                Fate::Inserted => inserts.push(b.get(r.current)),
                // Without all of its values it is owed.
                Fate::Moved if tolerant && scan(b.get(r.current), &mut bounds) => {}
                Fate::Moved if tolerant => inserts.push(b.get(r.current)),
                Fate::Moved => moves.push(Step::Move { table, old: b.get(r.origin), new: b.get(r.current) }),
                Fate::Updated => {
                    let image = b.get(r.current);
                    let mask = mask(image, &mut bounds, &mut unknown);
                    let group = *masks.entry(mask).or_insert_with(|| {
                        groups.push((unknown.clone(), Vec::new()));
                        groups.len() - 1
                    });
                    groups[group].1.push(image);
                }
            }
        }
        // What a row only passed through, a snapshot between may have shown there.
        if tolerant && !self.serial && !self.opaque {
            let left = |(i, e): &(usize, &Entry)| e.index == 0 && e.now == NONE && !deleted[*i];
            deletes.extend(self.entries.iter().enumerate().filter(left).map(|(_, e)| b.get(e.raw)));
        }
        if !deletes.is_empty() {
            steps.push(Step::Delete { table, keys: deletes, tolerant });
        }
        let serial = self.serial || self.opaque;
        for event in self.events.iter().filter(|e| serial || single[e.row as usize]) {
            one(shape, b, event, tolerant, &mut bounds, &mut unknown, steps);
        }
        steps.extend(groups.into_iter().map(|(unknown, rows)| Step::Update { table, rows, unknown, tolerant }));
        steps.extend(moves);
        if !inserts.is_empty() {
            steps.push(Step::Insert { table, rows: inserts, tolerant });
        }
    }
}

/// One change as it came.
fn one<'a>(
    shape: &Shape,
    b: &'a Buffers,
    event: &Event,
    tolerant: bool,
    bounds: &mut Vec<(u32, u32)>,
    unknown: &mut Vec<u16>,
    steps: &mut Vec<Step<'a>>,
) {
    let table = shape.table;
    match event.kind {
        Kind::Insert => steps.push(Step::Insert { table, rows: vec![b.get(event.new)], tolerant }),
        Kind::Delete => steps.push(Step::Delete { table, keys: vec![b.get(event.old)], tolerant }),
        Kind::Update if event.moved && tolerant => {
            let new = b.get(event.new);
            steps.push(Step::Delete { table, keys: vec![b.get(event.old)], tolerant });
            if !scan(new, bounds) {
                steps.push(Step::Insert { table, rows: vec![new], tolerant });
            }
        }
        Kind::Update if event.moved => steps.push(Step::Move { table, old: b.get(event.old), new: b.get(event.new) }),
        Kind::Update => {
            let new = b.get(event.new);
            mask(new, bounds, unknown);
            steps.push(Step::Update { table, rows: vec![new], unknown: unknown.clone(), tolerant });
        }
    }
}

/// The key's cells of a row.
pub(super) fn key_of(shape: &Shape, row: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut bounds: [(u32, u32); 64] = [(0, 0); 64];
    let mut rest = row;
    let last = shape.key.iter().max().copied().unwrap_or(0) as usize;
    if last < bounds.len() {
        for bound in bounds.iter_mut().take(last + 1) {
            let start = (row.len() - rest.len()) as u32;
            drover_model::row::take_cell(&mut rest);
            *bound = (start, (row.len() - rest.len()) as u32);
        }
        for &c in &shape.key {
            let (from, to) = bounds[c as usize];
            out.extend_from_slice(&row[from as usize..to as usize]);
        }
    } else {
        let mut all = Vec::new();
        scan(row, &mut all);
        for &c in &shape.key {
            let (from, to) = all[c as usize];
            out.extend_from_slice(&row[from as usize..to as usize]);
        }
    }
}

/// Which cells are unknown: as a list, and as something to group by (bits for the first 128 columns, else a hash of 128 bits).
fn mask(row: &[u8], bounds: &mut Vec<(u32, u32)>, unknown: &mut Vec<u16>) -> u128 {
    unknown.clear();
    if !scan(row, bounds) {
        return 0;
    }
    let cells = bounds.iter().enumerate().filter(|(_, (from, to))| row[*from as usize..*to as usize] == [1]);
    unknown.extend(cells.map(|(i, _)| i as u16));
    if bounds.len() <= 128 {
        return unknown.iter().fold(0, |m, &c| m | 1 << c);
    }
    let bytes: Vec<u8> = unknown.iter().flat_map(|c| c.to_le_bytes()).collect();
    xxh3_128(&bytes)
}
