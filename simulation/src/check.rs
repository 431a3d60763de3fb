//! The checker: it follows every transaction of both databases and says at once when a promise is broken.
//!
//! For each state of the source it keeps one hash a table (a sum over rows, so that order does not matter); the same for the destination.
//! With every commit there it knows the position that the destination claims, and so the very state that it has to show.

use crate::{note, sim};
use drover_connectors_memory::{Database, Logged, Note, Row};
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
            }
        }
    }
}

struct State {
    source: Database,
    destination: Database,
    migration: MigrationId,
    tables: Vec<TableName>,
    index: HashMap<TableName, usize>,
    /// By position: the source's tables.
    history: Vec<Side>,
    /// By transaction of the destination: its tables, and the position that it claims.
    states: Vec<(Side, Option<Position>)>,
    windows: Vec<Window>,
    loaded: BTreeSet<(u32, u32, u32)>,
    /// The latest position that was told to be applied for good.
    told: Option<Position>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Checker(Arc<Mutex<State>>);

fn place(position: &Position) -> usize {
    position.order.as_slice().try_into().map_or(usize::MAX, |b| u64::from_be_bytes(b) as usize)
}

impl Checker {
    pub fn new(source: Database, destination: Database, tables: Vec<TableName>) -> Checker {
        let index = tables.iter().enumerate().map(|(i, t)| (t.clone(), i)).collect();
        let empty = Side { sums: vec![0; tables.len()] };
        Checker(Arc::new(Mutex::new(State {
            source,
            destination,
            migration: MigrationId::nil(),
            tables,
            index,
            history: vec![empty.clone()],
            states: vec![(empty, None)],
            windows: Vec::new(),
            loaded: BTreeSet::new(),
            told: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the migration that is followed.
    pub fn migration(&self, id: MigrationId) {
        self.state().migration = id;
    }

    /// Looks at everything that was committed on both sides since the last time.
    pub fn look(&self) {
        self.state().look();
    }

    /// Changes are applied under these windows from now on.
    pub fn windows(&self, windows: Vec<Window>) {
        self.state().windows = windows;
    }

    /// Somebody says that everything up to here is applied for good.
    pub fn told(&self, applied: &Position) {
        let mut state = self.state();
        state.look();
        let there = state.destination.standing(state.migration).and_then(|s| s.1);
        if there.as_ref().is_none_or(|there| there < applied) {
            let at = there.map_or_else(|| "nowhere".into(), |p| p.text);
            sim::violated(format!("{applied} is told to be applied, but the destination stands at {at}"));
        }
        if state.told.as_ref().is_none_or(|told| told < applied) {
            state.told = Some(applied.clone());
        }
    }

    /// The destination crashed and has so many transactions left.
    pub fn crashed(&self, left: usize) {
        let mut state = self.state();
        state.states.truncate(left + 1);
        let there = state.destination.standing(state.migration).and_then(|s| s.1);
        note!("the destination crashes and stands at {}", there.as_ref().map_or("nowhere", |p| &p.text));
        if state.told > there {
            let told = state.told.as_ref().map_or("", |p| &p.text);
            sim::violated(format!("{told} was told to be applied for good, and a crash took it back"));
        }
    }

    /// Both sides hold the same rows, in both directions.
    pub fn equal(&self) -> Result<(), String> {
        let state = self.state();
        for table in &state.tables {
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
    pub fn caught_up(&self) -> bool {
        let mut state = self.state();
        state.look();
        let stands = state.destination.standing(state.migration).and_then(|s| s.1);
        stands.is_some_and(|p| p >= state.source.position())
    }
}

fn text(row: &Row) -> String {
    let cell = |v: &Option<Vec<u8>>| v.as_ref().map_or("null".into(), |v| String::from_utf8_lossy(v).into_owned());
    row.iter().map(cell).collect::<Vec<_>>().join(",")
}

impl State {
    fn look(&mut self) {
        for commit in self.source.committed(self.history.len() - 1) {
            let mut side = self.history.last().cloned().unwrap_or_default();
            side.follow(&self.index, &commit.changes);
            self.history.push(side);
        }
        for commit in self.destination.committed(self.states.len() - 1) {
            let (mut side, mut at) = self.states.last().cloned().unwrap_or_default();
            side.follow(&self.index, &commit.changes);
            let applied = match &commit.note {
                Some(Note::Applied { epoch, current, previous, next }) => {
                    self.applied(*epoch, *current, at.as_ref(), previous, next);
                    at = Some(next.clone());
                    Some(next)
                }
                Some(Note::Loaded { table, generation, chunk }) => {
                    if !self.loaded.insert((*table, *generation, *chunk)) {
                        sim::violated(format!(
                            "chunk {chunk} of table {table}, generation {generation}, was loaded twice"
                        ));
                    }
                    None
                }
                _ => None,
            };
            if let Some(position) = applied {
                self.compare(&side, position);
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
    fn compare(&mut self, side: &Side, position: &Position) {
        let Some(wanted) = self.history.get(place(position)) else {
            return sim::violated(format!("the destination claims {position}, which the source never had"));
        };
        for (i, table) in self.tables.iter().enumerate() {
            let consistent = self.windows.get(i).is_some_and(|w| *position >= w.high);
            if consistent && side.sums[i] != wanted.sums[i] {
                sim::violated(format!("{table} is not what the source had at {position}"));
            }
        }
        sim::compared();
    }
}
