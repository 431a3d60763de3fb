//! Random histories, executed as the source would and as compacted steps on a strict table that handles the rows of each
//! statement in an adversarial order.

use super::*;
use crate::windows::Mode;
use drover_connectors_api::{Norm, Step, UniqueColumns};
use drover_model::change::{OldKind, put_begin, put_delete, put_end, put_insert, put_truncate, put_update};
use drover_model::plan::PlanColumn;
use drover_model::row::{Cell, cells, put_cell, take_row};
use drover_model::schema::{DataType, TableName};
use drover_model::{Position, TablePlan};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Columns a, u, b, v. `u` is unique where the table has a key; null is -1.
type Model = [i32; 4];
const NULL: i32 = -1;

pub(crate) fn plan(id: u32, width: usize, key: &[u16]) -> TablePlan {
    let column = |i: usize| PlanColumn::new(format!("c{i}"), DataType::Text { max: None, padded: false }, "text");
    TablePlan {
        destination: TableName::new("d", format!("t{id}")),
        key: key.to_vec(),
        ..TablePlan::new(id, TableName::new("s", format!("t{id}")), (0..width).map(column).collect())
    }
}

fn unique(columns: &[u16], norm: Norm) -> UniqueColumns {
    UniqueColumns { name: "u".into(), columns: columns.iter().map(|&c| (c, norm)).collect() }
}

#[derive(Debug, Clone, Copy)]
struct Config {
    key: &'static [u16],
    old: OldKind,
    serial: bool,
    unknown: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Insert(i32, i32, i32),
    /// Row by number; new key part, u, v where given; whether unchanged cells are left out.
    Update(usize, Option<i32>, Option<i32>, Option<i32>, bool),
    Delete(usize),
    /// u of two rows, through a temporary value.
    Swap(usize, usize),
    /// Keys of two rows, through a temporary key.
    SwapKeys(usize, usize),
    Truncate,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6i32, -1..5i32, 0..9i32).prop_map(|(a, u, v)| Op::Insert(a, u, v)),
        8 => (0..6usize, prop::option::weighted(0.3, 0..6i32), prop::option::weighted(0.4, -1..5i32), prop::option::of(0..9i32), any::<bool>())
            .prop_map(|(r, a, u, v, p)| Op::Update(r, a, u, v, p)),
        4 => (0..6usize).prop_map(Op::Delete),
        3 => (0..6usize, 0..6usize).prop_map(|(a, b)| Op::Swap(a, b)),
        2 => (0..6usize, 0..6usize).prop_map(|(a, b)| Op::SwapKeys(a, b)),
        1 => Just(Op::Truncate),
    ]
}

fn put(out: &mut Vec<u8>, n: i32) {
    if n == NULL { put_cell(out, Cell::Null) } else { put_cell(out, Cell::Value(n.to_string().as_bytes())) }
}

/// The source: executes operations and writes the log.
struct Source {
    config: Config,
    rows: Vec<Model>,
    heap: Vec<Model>,
    log: Vec<u8>,
}

impl Source {
    fn key(&self, row: &Model) -> Vec<i32> {
        self.config.key.iter().map(|&c| row[c as usize]).collect()
    }
    fn image(row: &Model, unknown: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, &n) in row.iter().enumerate() {
            if unknown.contains(&i) { put_cell(&mut out, Cell::Unknown) } else { put(&mut out, n) }
        }
        out
    }
    fn free(&self, row: &Model, but: Option<usize>) -> bool {
        let others = self.rows.iter().enumerate().filter(|(i, _)| Some(*i) != but);
        others.into_iter().all(|(_, r)| self.key(r) != self.key(row) && (row[1] == NULL || r[1] != row[1]))
    }
    fn old(&mut self, kind: OldKind, row: &Model) {
        match kind {
            OldKind::None => {}
            OldKind::Key => self.key(row).iter().for_each(|&n| put(&mut self.log, n)),
            OldKind::Full => self.log.extend(Self::image(row, &[])),
        }
    }
    fn update(&mut self, at: usize, new: Model, partial: bool) {
        let old = self.rows[at];
        if !self.free(&new, Some(at)) {
            return;
        }
        let kind = if self.key(&old) != self.key(&new) && self.config.old == OldKind::None {
            OldKind::Key
        } else {
            self.config.old
        };
        let unknown: Vec<usize> =
            [1, 3].into_iter().filter(|&c| partial && self.config.unknown && old[c] == new[c]).collect();
        put_update(&mut self.log, 0, kind);
        self.old(kind, &old);
        self.log.extend(Self::image(&new, &unknown));
        self.rows[at] = new;
        // The table without a key sees the same values.
        if let Some(h) = self.heap.iter().position(|h| h[1..] == old[1..]) {
            let old = self.heap[h];
            put_update(&mut self.log, 1, OldKind::Full);
            self.log.extend(Self::image(&old, &[]));
            let new = [7, new[1], new[2], new[3]];
            self.log.extend(Self::image(&new, if partial && old[3] == new[3] { &[3] } else { &[] }));
            self.heap[h] = new;
        }
    }
    fn run(&mut self, op: &Op) {
        match *op {
            Op::Insert(a, u, v) => {
                let row = [a, u, a * 2, v];
                if self.free(&row, None) {
                    put_insert(&mut self.log, 0);
                    self.log.extend(Self::image(&row, &[]));
                    self.rows.push(row);
                    let row = [7, u, a * 2, v];
                    put_insert(&mut self.log, 1);
                    self.log.extend(Self::image(&row, &[]));
                    self.heap.push(row);
                }
            }
            Op::Update(r, a, u, v, partial) if r < self.rows.len() => {
                let mut row = self.rows[r];
                if let Some(a) = a {
                    (row[0], row[2]) = (a, a * 2);
                }
                row[1] = u.unwrap_or(row[1]);
                row[3] = v.unwrap_or(row[3]);
                self.update(r, row, partial);
            }
            Op::Delete(r) if r < self.rows.len() => {
                let row = self.rows.swap_remove(r);
                let kind = if self.config.old == OldKind::Full { OldKind::Full } else { OldKind::Key };
                put_delete(&mut self.log, 0, kind);
                self.old(kind, &row);
                if let Some(h) = self.heap.pop() {
                    put_delete(&mut self.log, 1, OldKind::Full);
                    self.log.extend(Self::image(&h, &[]));
                }
            }
            Op::Swap(a, b) if a < self.rows.len() && b < self.rows.len() && a != b => {
                let (x, y) = (self.rows[a], self.rows[b]);
                self.update(a, [x[0], 77, x[2], x[3]], true);
                self.update(b, [y[0], x[1], y[2], y[3]], false);
                self.update(a, [x[0], y[1], x[2], x[3]], true);
            }
            Op::SwapKeys(a, b) if a < self.rows.len() && b < self.rows.len() && a != b => {
                let (x, y) = (self.rows[a], self.rows[b]);
                self.update(a, [55, x[1], 110, x[3]], true);
                self.update(b, [x[0], y[1], x[2], y[3]], true);
                self.update(a, [y[0], x[1], y[2], x[3]], true);
            }
            Op::Truncate => {
                put_truncate(&mut self.log, &[0, 1]);
                self.rows.clear();
                self.heap.clear();
            }
            _ => {}
        }
    }
}

type Row = Vec<Option<Vec<u8>>>;

/// A strict destination.
#[derive(Default)]
struct Table {
    key: Vec<u16>,
    rows: BTreeMap<Vec<u8>, Row>,
    heap: HashMap<Vec<u8>, u64>,
    salt: u64,
    /// Secondary unique indexes don't exist in the tolerant stretch.
    no_u: bool,
}

fn decode(row: &[u8]) -> Vec<Cell<'_>> {
    cells(row).collect()
}

impl Table {
    fn key(&self, row: &Row) -> Vec<u8> {
        let mut out = Vec::new();
        for &c in &self.key {
            put_cell(&mut out, row[c as usize].as_deref().map_or(Cell::Null, Cell::Value));
        }
        out
    }
    fn key_of(&self, row: &[u8]) -> Vec<u8> {
        let all = decode(row);
        let mut out = Vec::new();
        self.key.iter().for_each(|&c| put_cell(&mut out, all[c as usize]));
        out
    }
    fn shuffle<T>(&mut self, mut list: Vec<T>) -> Vec<T> {
        for i in (1..list.len()).rev() {
            self.salt = self.salt.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            list.swap(i, (self.salt >> 33) as usize % (i + 1));
        }
        list
    }
    fn unique(&self) -> Result<(), String> {
        let mut seen = std::collections::HashSet::new();
        if self.no_u {
            return Ok(());
        }
        match self.rows.values().filter_map(|r| r[1].clone()).find(|u| !seen.insert(u.clone())) {
            Some(u) => Err(format!("u = {} twice", String::from_utf8_lossy(&u))),
            None => Ok(()),
        }
    }
    fn place(&mut self, row: Row) -> Result<(), String> {
        let key = self.key(&row);
        match self.rows.insert(key, row) {
            Some(old) => Err(format!("key of {old:?} twice")),
            None => self.unique(),
        }
    }
    fn write(&mut self, key: &[u8], new: &[u8], may_move: bool) -> Result<(), String> {
        let Some(mut row) = self.rows.remove(key) else { return Err("no row to update".into()) };
        for (i, cell) in cells(new).enumerate() {
            match cell {
                Cell::Null => row[i] = None,
                Cell::Unknown => {}
                Cell::Value(v) => row[i] = Some(v.to_vec()),
            }
        }
        assert!(may_move || self.key(&row) == key, "an update changes a key");
        self.place(row)
    }
    fn run(&mut self, step: &Step<'_>) -> Result<(), String> {
        match step {
            Step::Truncate { .. } => {
                self.rows.clear();
                self.heap.clear();
            }
            Step::Delete { keys, tolerant, .. } => {
                for key in keys {
                    if self.rows.remove(*key).is_none() && !tolerant {
                        return Err("no row to delete".into());
                    }
                }
            }
            Step::Update { rows, unknown, tolerant, .. } => {
                for row in self.shuffle(rows.clone()) {
                    let given: Vec<u16> = decode(row)
                        .iter()
                        .enumerate()
                        .filter(|(_, c)| **c == Cell::Unknown)
                        .map(|(i, _)| i as u16)
                        .collect();
                    assert_eq!(&given, unknown);
                    let key = self.key_of(row);
                    match self.rows.contains_key(&key) {
                        false if *tolerant && unknown.is_empty() => self.insert(row)?,
                        false if *tolerant => {}
                        _ => self.write(&key, row, false)?,
                    }
                }
            }
            Step::Move { old, new, .. } => self.write(old, new, true)?,
            Step::Insert { table: 1, rows, .. } => {
                rows.iter().for_each(|r| *self.heap.entry(r.to_vec()).or_default() += 1);
            }
            Step::Insert { rows, tolerant, .. } => {
                for row in self.shuffle(rows.clone()) {
                    if *tolerant {
                        let key = self.key_of(row);
                        self.rows.remove(&key);
                    }
                    self.insert(row)?;
                }
            }
            Step::DeleteWhole { rows, .. } => {
                for (row, n) in rows {
                    let have = self.heap.entry(row.to_vec()).or_default();
                    *have = have.checked_sub(*n).ok_or("too few equal rows")?;
                }
            }
        }
        self.heap.retain(|_, n| *n > 0);
        Ok(())
    }
    fn insert(&mut self, row: &[u8]) -> Result<(), String> {
        let row = cells(row).map(|c| c.value().map(<[u8]>::to_vec)).collect();
        self.place(row)
    }
    fn answers(&self, questions: &[Question<'_>]) -> Vec<Answer> {
        let mut out = Vec::new();
        for q in questions {
            let mut holders = Vec::new();
            for row in self.rows.values() {
                let mut value = Vec::new();
                put_cell(&mut value, row[1].as_deref().map_or(Cell::Null, Cell::Value));
                if q.values.contains(&&value[..]) {
                    holders.push((self.key(row), value));
                }
            }
            out.push(Answer { table: q.table, index: q.index, holders });
        }
        out
    }
}

fn shapes(config: Config, others: bool) -> Arc<Shapes> {
    let keys = Keys {
        table: 0,
        identity: Some(unique(config.key, Norm::Exact)),
        others: if others { vec![unique(&[1], Norm::Decimal)] } else { vec![] },
        serial: config.serial.then(|| "a test".to_owned()),
    };
    Arc::new(Shapes::new(&[plan(0, 4, config.key), plan(1, 4, &[])], &[keys]))
}

fn same(source: &Source, table: &Table) -> Result<(), TestCaseError> {
    let mut wanted = BTreeMap::new();
    for row in &source.rows {
        let image = Source::image(row, &[]);
        wanted.insert(table.key_of(&image), image);
    }
    let got: BTreeMap<Vec<u8>, Vec<u8>> = table
        .rows
        .iter()
        .map(|(k, r)| {
            let mut image = Vec::new();
            r.iter().for_each(|c| put_cell(&mut image, c.as_deref().map_or(Cell::Null, Cell::Value)));
            (k.clone(), image)
        })
        .collect();
    prop_assert_eq!(got, wanted);
    let mut heap: HashMap<Vec<u8>, u64> = HashMap::new();
    source.heap.iter().for_each(|r| *heap.entry(Source::image(r, &[])).or_default() += 1);
    prop_assert_eq!(&table.heap, &heap);
    Ok(())
}

/// Keys of one column or of two, as many as there are.
fn keys_of(owed: &Owed) -> Vec<Vec<u8>> {
    let all = owed.blocks.concat();
    let count = cells(&all).count() / owed.keys as usize;
    let mut rest = &all[..];
    let keys = (0..owed.keys).filter_map(|_| take_row(&mut rest, count));
    keys.map(<[u8]>::to_vec).collect()
}

fn config() -> impl Strategy<Value = Config> {
    let old = prop_oneof![Just(OldKind::None), Just(OldKind::Key), Just(OldKind::Full)];
    let key: BoxedStrategy<&'static [u16]> = prop_oneof![Just(&[0u16][..]), Just(&[2u16, 0][..])].boxed();
    (key, old, prop::bool::weighted(0.1), any::<bool>()).prop_map(|(key, old, serial, unknown)| Config {
        key,
        old,
        serial,
        unknown,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn compacted_steps_end_where_the_source_is(
        config in config(), slices in prop::collection::vec(prop::collection::vec(op(), 0..14), 1..6), salt in any::<u64>()
    ) {
        let shapes = shapes(config, true);
        let mut source = Source { config, rows: vec![], heap: vec![], log: vec![] };
        let mut table = Table { key: config.key.to_vec(), salt, ..Table::default() };
        for slice in &slices {
            source.log.clear();
            slice.iter().for_each(|op| source.run(op));
            let log = Bytes::from(source.log.clone());
            let mut folded = Folded::new(shapes.clone(), &[log], |_| Mode::Strict).unwrap();
            let answers = table.answers(&folded.questions());
            let steps = folded.plan(&answers);
            for step in &steps {
                if let Err(what) = table.run(step) {
                    return Err(TestCaseError::fail(format!("{what} at {step:?} of {steps:#?}")));
                }
            }
            same(&source, &table)?;
        }
    }

    /// The tolerant stretch: the destination holds, for each row by itself, the state of any moment within the run (or what was
    /// before it), and still ends where the source is.
    #[test]
    fn tolerant_runs_end_where_the_source_is_from_any_mixture(
        key in prop_oneof![Just(&[0u16][..]), Just(&[2u16, 0][..])],
        old in prop_oneof![Just(OldKind::None), Just(OldKind::Key), Just(OldKind::Full)],
        serial in prop::bool::weighted(0.2), unknown in any::<bool>(),
        before in prop::collection::vec(op(), 0..8), slices in prop::collection::vec(prop::collection::vec(op(), 0..8), 1..4),
        salt in any::<u64>()
    ) {
        let config = Config { key, old, serial, unknown };
        let shapes = shapes(config, false);
        let mut source = Source { config, rows: vec![], heap: vec![], log: vec![] };
        before.iter().for_each(|op| source.run(op));
        let mut moments = vec![source.rows.clone()];
        let mut logs = Vec::new();
        for slice in &slices {
            source.log.clear();
            for op in slice.iter().filter(|op| !matches!(op, Op::Truncate)) {
                source.run(op);
                moments.push(source.rows.clone());
            }
            logs.push(Bytes::from(source.log.clone()));
        }
        // Several snapshots may have been lost: of which one a row is depends on its key.
        let mut table = Table { key: config.key.to_vec(), salt, no_u: true, ..Table::default() };
        let read_at = |k: &[u8]| xxhash_rust::xxh3::xxh3_64_with_seed(k, salt) as usize % moments.len();
        for (moment, rows) in moments.iter().enumerate() {
            for row in rows {
                let image = Source::image(row, &[]);
                let key = table.key_of(&image);
                if read_at(&key) == moment {
                    table.rows.insert(key, cells(&image).map(|c| c.value().map(<[u8]>::to_vec)).collect());
                }
            }
        }
        for log in logs {
            let mode = |t: u32| if t == 0 { Mode::Tolerant } else { Mode::Drop };
            let mut folded = Folded::new(shapes.clone(), &[log], mode).unwrap();
            prop_assert!(folded.questions().is_empty());
            let owed = folded.owed();
            prop_assert!(owed.is_empty() || (unknown && old != OldKind::Full));
            for step in folded.plan(&[]) {
                table.run(&step).map_err(TestCaseError::fail)?;
            }
            // Paid in the same transaction, as of the later snapshot.
            for key in owed.iter().flat_map(keys_of) {
                table.rows.remove(&key);
                for row in source.rows.iter().map(|row| Source::image(row, &[])) {
                    if table.key_of(&row) == key {
                        table.insert(&row).map_err(TestCaseError::fail)?;
                    }
                }
            }
        }
        source.heap.clear();
        same(&source, &table)?;
    }
}

#[test]
fn a_history_becomes_few_statements() {
    let config = Config { key: &[0], old: OldKind::Full, serial: false, unknown: false };
    let mut source = Source { config, rows: vec![], heap: vec![], log: vec![] };
    for a in 0..100 {
        source.run(&Op::Insert(a, a + 100, 0));
    }
    source.log.clear();
    for a in 0..50 {
        source.run(&Op::Update(a, None, None, Some(3), false));
    }
    source.run(&Op::Swap(60, 61));
    let mut folded = Folded::new(shapes(config, true), &[Bytes::from(source.log)], |_| Mode::Strict).unwrap();
    assert!(folded.questions().is_empty());
    let steps = folded.plan(&[]);
    let of_keyed = |s: &&Step<'_>| matches!(s, Step::Update { table: 0, .. });
    let sizes: Vec<usize> =
        steps.iter().filter(of_keyed).map(|s| if let Step::Update { rows, .. } = s { rows.len() } else { 0 }).collect();
    assert_eq!(sizes, [1, 1, 1, 50], "the swap one by one, the rest in one statement");
}

#[test]
fn a_partial_row_that_moves_into_a_tolerant_table_is_owed() {
    let config = Config { key: &[0], old: OldKind::Key, serial: false, unknown: true };
    let mut source = Source { config, rows: vec![], heap: vec![], log: vec![] };
    source.run(&Op::Insert(1, 1, 1));
    source.log.clear();
    source.run(&Op::Update(0, Some(2), None, None, true));
    let mut folded = Folded::new(shapes(config, false), &[Bytes::from(source.log)], |_| Mode::Tolerant);
    let folded = folded.as_mut().unwrap_err();
    assert!(folded.message.contains("without a key"), "{folded}");
    let mut source = Source { config, rows: vec![[1, 1, 2, 1]], heap: vec![], log: vec![] };
    source.run(&Op::Update(0, Some(2), None, None, true));
    let mut folded = Folded::new(shapes(config, false), &[Bytes::from(source.log)], |t| {
        if t == 0 { Mode::Tolerant } else { Mode::Drop }
    })
    .unwrap();
    let owed = folded.owed();
    let mut key = Vec::new();
    put(&mut key, 2);
    assert_eq!(owed.iter().flat_map(keys_of).collect::<Vec<_>>(), [key]);
    let steps = folded.plan(&[]);
    assert!(matches!(&steps[..], [Step::Delete { tolerant: true, .. }]), "{steps:?}");
}

/// A key that a row only passes through may be what a snapshot between the two changes has shown.
#[test]
fn a_key_that_is_left_again_is_deleted_in_a_tolerant_table() {
    let config = Config { key: &[0], old: OldKind::Full, serial: false, unknown: false };
    let mut source = Source { config, rows: vec![[1, 1, 2, 1]], heap: vec![], log: vec![] };
    for to in [2, 3] {
        source.run(&Op::Update(0, Some(to), None, None, false));
    }
    let mode = |t: u32| if t == 0 { Mode::Tolerant } else { Mode::Drop };
    let mut folded = Folded::new(shapes(config, false), &[Bytes::from(source.log)], mode).unwrap();
    let mut key = Vec::new();
    put(&mut key, 2);
    let steps = folded.plan(&[]);
    let deletes = |s: &Step<'_>| matches!(s, Step::Delete { keys, .. } if keys.iter().any(|k| *k == key));
    assert!(steps.iter().any(deletes), "{steps:?}");
}

/// Its key has been another row's meanwhile, or nobody's: the destination may hold that other row under it, or none.
#[test]
fn a_partial_row_that_comes_back_to_its_key_is_owed() {
    let config = Config { key: &[0], old: OldKind::None, serial: false, unknown: true };
    let away = Op::Update(0, Some(2), None, None, true);
    let another = vec![away.clone(), Op::Insert(1, -1, 0), Op::SwapKeys(0, 1)];
    let nobody = vec![away, Op::Update(0, Some(1), None, None, true)];
    for ops in [another, nobody] {
        let mut source = Source { config, rows: vec![[1, 1, 2, 1]], heap: vec![], log: vec![] };
        ops.iter().for_each(|op| source.run(op));
        let mode = |t: u32| if t == 0 { Mode::Tolerant } else { Mode::Drop };
        let folded = Folded::new(shapes(config, false), &[Bytes::from(source.log)], mode).unwrap();
        let mut key = Vec::new();
        put(&mut key, 1);
        assert!(folded.owed().iter().flat_map(keys_of).any(|k| k == key), "{ops:?}");
    }
}

#[test]
fn key_sets_meet_where_order_matters() {
    let fold = |old: OldKind, rows: Vec<Model>, ops: &[Op]| {
        let config = Config { key: &[0], old, serial: false, unknown: false };
        let mut source = Source { config, rows, heap: vec![], log: vec![] };
        ops.iter().for_each(|op| source.run(op));
        Folded::new(shapes(config, true), &[Bytes::from(source.log)], |_| Mode::Strict).unwrap().keys()
    };
    let full = OldKind::Full;
    let two = || vec![[1, 11, 2, 0], [2, 12, 4, 0]];
    let one = fold(full, two(), &[Op::Update(0, None, Some(13), None, false)]);
    let other = fold(full, two(), &[Op::Update(1, None, Some(14), None, false)]);
    assert!(!one.conflicts(&other) && one.conflicts(&one));
    let takes_old = fold(full, vec![], &[Op::Insert(9, 11, 0)]);
    assert!(one.conflicts(&takes_old), "the value before counts");
    let blind = fold(OldKind::None, two(), &[Op::Update(0, None, Some(13), None, false)]);
    assert!(blind.conflicts(&other) && other.conflicts(&blind), "an unknown value before serialises the table");
    let emptied = fold(full, two(), &[Op::Truncate]);
    assert!(emptied.conflicts(&other));
}

#[test]
fn what_a_change_costs() {
    let mut log = Vec::new();
    let position = Position { lineage: 1, order: vec![0; 8], resume: vec![], text: String::new() };
    let n = 200_000u64;
    for i in 0..n {
        put_begin(&mut log, &drover_model::change::Begin { position: position.clone(), commit_micros: 0 });
        put_update(&mut log, 0, OldKind::None);
        for c in 0..4u64 {
            put_cell(&mut log, Cell::Value(format!("{}", if c == 0 { i * 7919 % 50_000 } else { i * c }).as_bytes()));
        }
        put_end(&mut log);
    }
    let config = Config { key: &[0], old: OldKind::None, serial: false, unknown: false };
    let log = Bytes::from(log);
    let began = std::time::Instant::now();
    let mut folded = Folded::new(shapes(config, false), &[log], |_| Mode::Strict).unwrap();
    let fold = began.elapsed();
    let keys = folded.keys().keys.len();
    let steps = folded.plan(&[]).len();
    let all = began.elapsed();
    println!("{} ns a change to fold, {} in all", fold.as_nanos() as u64 / n, all.as_nanos() as u64 / n);
    assert_eq!((keys, steps), (50_000, 1));
}
