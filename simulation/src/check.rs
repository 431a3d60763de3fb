//! The checker: it follows every transaction of both databases and says at once when a promise is broken.
//!
//! For each state of the source it keeps one hash a table (a sum over rows, so that order does not matter); the same for the destination.
//! With every commit there it knows the position that the destination claims, and so the very state that it has to show.

use crate::{note, sim};
use drover_connectors_memory::{Database, Logged, Note, Row};
use drover_coordinator::cutover::Cutover;
use drover_model::schema::TableName;
use drover_model::{MigrationId, Position};
use drover_proto::order::Window;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::Xxh3;

/// The hash of a table's rows: a sum, so that it can be kept up row by row.
type Sum = u128;

fn row_sum(row: &Row) -> Sum {
    let mut hasher = Xxh3::new();
    for cell in row {
        match cell {
            None => hasher.update(&[0]),
            Some(value) => {
                hasher.update(&[1]);
                hasher.update(&(value.len() as u64).to_le_bytes());
                hasher.update(value);
            }
        }
    }
    hasher.digest128()
}

/// Tables of one side, as sums.
#[derive(Clone, Default)]
struct Side {
    sums: Vec<Sum>,
}

impl Side {
    fn follow(&mut self, index: &HashMap<TableName, usize>, changes: &[Logged]) {
        for change in changes {
            let mut add = |table: &TableName, row: &Row, plus: bool| {
                if let Some(sum) = index.get(table).and_then(|&i| self.sums.get_mut(i)) {
                    *sum = if plus { sum.wrapping_add(row_sum(row)) } else { sum.wrapping_sub(row_sum(row)) };
                }
            };
            match change {
                Logged::Insert { table, new } => add(table, new, true),
                Logged::Delete { table, old } => add(table, old, false),
                Logged::Update { table, old, new } => {
                    add(table, old, false);
                    add(table, new, true);
                }
                Logged::Truncate { tables } => {
                    for table in tables {
                        if let Some(sum) = index.get(table).and_then(|&i| self.sums.get_mut(i)) {
                            *sum = 0;
                        }
                    }
                }
                // No application of ours does it.
                Logged::AddColumn { .. } => {}
            }
        }
    }
}

/// A migration, as far as it is followed.
struct Part {
    name: String,
    id: MigrationId,
    /// Its tables, by their numbers here; their place in this list is their number in the migration.
    tables: Vec<usize>,
    windows: Vec<Window>,
    loaded: BTreeSet<(u32, u32, u32)>,
    /// The latest position that was told to be applied for good.
    told: Option<Position>,
    cut_over: bool,
}

struct State {
    source: Database,
    destination: Database,
    tables: Vec<TableName>,
    index: HashMap<TableName, usize>,
    parts: Vec<Part>,
    /// By position: the source's tables.
    history: Vec<Side>,
    /// By transaction of the destination: its tables, and the position that it claims for each migration.
    states: Vec<(Side, Vec<Option<Position>>)>,
}

/// See the module.
#[derive(Clone)]
pub struct Checker(Arc<Mutex<State>>);

fn place(position: &Position) -> usize {
    position.order.as_slice().try_into().map_or(usize::MAX, |b| u64::from_be_bytes(b) as usize)
}

impl Checker {
    /// Follows migrations, each with its tables in the order of their names.
    pub fn new(source: Database, destination: Database, migrations: &[(String, Vec<TableName>)]) -> Checker {
        let tables: Vec<TableName> = migrations.iter().flat_map(|(_, tables)| tables.clone()).collect();
        let index: HashMap<_, _> = tables.iter().enumerate().map(|(i, t)| (t.clone(), i)).collect();
        let part = |(name, tables): &(String, Vec<TableName>)| Part {
            name: name.clone(),
            id: MigrationId::nil(),
            tables: tables.iter().map(|t| index[t]).collect(),
            windows: Vec::new(),
            loaded: BTreeSet::new(),
            told: None,
            cut_over: false,
        };
        let parts: Vec<Part> = migrations.iter().map(part).collect();
        let empty = Side { sums: vec![0; tables.len()] };
        Checker(Arc::new(Mutex::new(State {
            source,
            destination,
            tables,
            index,
            history: vec![empty.clone()],
            states: vec![(empty, vec![None; parts.len()])],
            parts,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a migration that is followed.
    pub fn migration(&self, name: &str, id: MigrationId) {
        if let Some(part) = self.state().parts.iter_mut().find(|p| p.name == name) {
            part.id = id;
        }
    }

    /// Looks at everything that was committed on both sides since the last time.
    pub fn look(&self) {
        self.state().look();
    }

    /// Changes are applied under these windows from now on.
    pub fn windows(&self, id: MigrationId, windows: Vec<Window>) {
        if let Some(part) = self.state().part(id) {
            part.windows = windows;
        }
    }

    /// Somebody says that everything up to here is applied for good.
    pub fn told(&self, id: MigrationId, applied: &Position) {
        let mut state = self.state();
        state.look();
        let there = state.stands(id);
        if there.as_ref().is_none_or(|there| there < applied) {
            let at = there.map_or_else(|| "nowhere".into(), |p| p.text);
            sim::violated(format!("{applied} is told to be applied, but the destination stands at {at}"));
        }
        if let Some(part) = state.part(id).filter(|p| p.told.as_ref().is_none_or(|told| told < applied)) {
            part.told = Some(applied.clone());
        }
    }

    /// The destination crashed and has so many transactions left.
    pub fn crashed(&self, left: usize) {
        let mut state = self.state();
        state.states.truncate(left + 1);
        for part in &state.parts {
            let there = state.stands(part.id);
            note!("the destination crashes: {} stands at {}", part.name, there.as_ref().map_or("nowhere", |p| &p.text));
            if part.told > there {
                let told = part.told.as_ref().map_or("", |p| &p.text);
                sim::violated(format!("{told} was told to be applied for good, and a crash took it back"));
            }
        }
    }

    /// A cutover is said to be done: what moves stood still between its marks, and the destination has it all.
    pub fn cut_over(&self, id: MigrationId, cutover: Option<&Cutover>) {
        let mut state = self.state();
        state.look();
        let there = state.stands(id);
        let Some(part) = state.part(id) else { return };
        part.cut_over = true;
        let tables = part.tables.clone();
        let marks = cutover.and_then(|c| c.barrier.as_ref().zip(c.closing.as_ref()));
        let Some((barrier, closing)) = marks else {
            return sim::violated("a cutover is done without its marks".into());
        };
        let between = state.history.get(place(barrier)..=place(closing)).unwrap_or_default();
        if between.is_empty() || between.iter().any(|side| tables.iter().any(|&t| side.sums[t] != between[0].sums[t])) {
            let text = format!("a cutover is done, and rows changed between its marks {barrier} and {closing}");
            return sim::violated(text);
        }
        if there.is_none_or(|there| there < *closing) {
            sim::violated(format!("a cutover is done, and the destination is not at {closing}"));
        }
        note!("cut over between {barrier} and {closing}");
    }

    /// Whether a cutover was done.
    pub fn is_cut_over(&self, name: &str) -> bool {
        self.state().parts.iter().any(|p| p.name == name && p.cut_over)
    }

    /// What drover has left at the source for this migration, other than it should once it has cleaned up.
    pub fn left_behind(&self, name: &str) -> Option<String> {
        let state = self.state();
        let part = state.parts.iter().find(|p| p.name == name)?;
        let ours = format!("stream of {}", part.id);
        state.source.leftovers().into_iter().find(|left| *left == ours)
    }

    /// Both sides hold the same rows, in both directions.
    pub fn equal(&self, name: &str) -> Result<(), String> {
        let state = self.state();
        let part = state.parts.iter().filter(|p| p.name == name);
        for table in part.flat_map(|p| &p.tables).map(|&t| &state.tables[t]) {
            let read = |db: &Database| db.rows(table).map_err(|e| e.to_string());
            let (mut a, mut b) = (read(&state.source)?, read(&state.destination)?);
            a.sort();
            b.sort();
            if a != b {
                let show = |rows: &[Row], other: &[Row]| {
                    let only: Vec<&Row> = rows.iter().filter(|r| !other.contains(r)).take(3).collect();
                    format!("{} rows, of which {:?} …", rows.len(), only.iter().map(|r| text(r)).collect::<Vec<_>>())
                };
                return Err(format!("{table}: the source has {}, the destination {}", show(&a, &b), show(&b, &a)));
            }
        }
        Ok(())
    }

    /// Whether the destination has got as far as the source.
    pub fn caught_up(&self, name: &str) -> bool {
        let mut state = self.state();
        state.look();
        let part = state.parts.iter().find(|p| p.name == name);
        part.and_then(|p| state.stands(p.id)).is_some_and(|p| p >= state.source.position())
    }
}

fn text(row: &Row) -> String {
    let cell = |v: &Option<Vec<u8>>| v.as_ref().map_or("null".into(), |v| String::from_utf8_lossy(v).into_owned());
    row.iter().map(cell).collect::<Vec<_>>().join(",")
}

impl State {
    fn part(&mut self, id: MigrationId) -> Option<&mut Part> {
        self.parts.iter_mut().find(|p| p.id == id)
    }

    /// Where the destination stands.
    fn stands(&self, id: MigrationId) -> Option<Position> {
        self.destination.standing(id).and_then(|s| s.1)
    }

    fn look(&mut self) {
        for commit in self.source.committed(self.history.len() - 1) {
            let mut side = self.history.last().cloned().unwrap_or_default();
            side.follow(&self.index, &commit.changes);
            self.history.push(side);
        }
        for commit in self.destination.committed(self.states.len() - 1) {
            let (mut side, mut at) = self.states.last().cloned().unwrap_or_default();
            side.follow(&self.index, &commit.changes);
            let of = commit.note.as_ref().and_then(|(id, _)| self.parts.iter().position(|p| p.id == *id));
            match (&commit.note, of) {
                (Some((_, Note::Applied { epoch, current, previous, next })), Some(of)) => {
                    self.applied(*epoch, *current, at[of].as_ref(), previous, next);
                    at[of] = Some(next.clone());
                    self.compare(of, &side, next);
                }
                (Some((_, Note::Loaded { table, generation, chunk })), Some(of)) => {
                    let first = self.parts[of].loaded.insert((*table, *generation, *chunk));
                    if !first {
                        let what = format!("chunk {chunk} of table {table}, generation {generation}, was loaded twice");
                        sim::violated(what);
                    }
                }
                _ => {}
            }
            self.states.push((side, at));
        }
    }

    fn applied(&self, epoch: u64, current: u64, at: Option<&Position>, previous: &Position, next: &Position) {
        if epoch != current {
            sim::violated(format!("a commit of epoch {epoch} was taken, the destination's is {current}"));
        }
        if at.is_some_and(|at| at != previous) {
            let at = at.map_or("", |p| &p.text);
            sim::violated(format!("a commit goes on from {previous}, the destination stood at {at}"));
        }
        if next < previous {
            sim::violated(format!("progress goes back, from {previous} to {next}"));
        }
    }

    /// Tables that are consistent at this position show what the source had there.
    fn compare(&self, of: usize, side: &Side, position: &Position) {
        let Some(wanted) = self.history.get(place(position)) else {
            return sim::violated(format!("the destination claims {position}, which the source never had"));
        };
        let part = &self.parts[of];
        for (number, &table) in part.tables.iter().enumerate() {
            let consistent = part.windows.get(number).is_some_and(|w| *position >= w.high);
            if consistent && side.sums[table] != wanted.sums[table] {
                sim::violated(format!("{} is not what the source had at {position}", self.tables[table]));
            }
        }
        sim::compared();
    }
}
