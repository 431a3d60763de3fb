//! Applying batches: steps work on the rows as they were when the transaction began; the commit swaps them in, or carries the
//! steps out again on the rows of now if others committed between. Progress and epoch are checked in the same moment.

use crate::database::{Broken, CommitFault, Database, Inner, Logged, Note, Tables, edit, no_table};
use crate::table::{Mapping, Row, TableData, Value, decode, encode, known};
use async_trait::async_trait;
use drover_connectors_api::apply::{ApplySession, Canceller, Committed, Follow, Step};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use std::collections::HashMap;

/// A [`Step`] that owns its rows, so that it can be carried out again.
#[derive(Debug, Clone)]
pub(crate) enum Owned {
    Delete { table: u32, keys: Vec<Vec<u8>>, tolerant: bool },
    Update { table: u32, rows: Vec<Vec<u8>>, tolerant: bool },
    Move { table: u32, old: Vec<u8>, new: Vec<u8> },
    Insert { table: u32, rows: Vec<Vec<u8>>, tolerant: bool },
    DeleteWhole { table: u32, rows: Vec<(Vec<u8>, u64)> },
    Truncate { tables: Vec<u32> },
    Follow { table: u32, columns: Vec<u16>, values: Vec<Vec<u8>>, what: Effect },
}

/// A [`Follow`] that owns its cells.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Delete,
    Set(Vec<Value>),
}

fn own(step: &Step<'_>) -> Owned {
    let all = |rows: &[&[u8]]| rows.iter().map(|r| r.to_vec()).collect();
    match step {
        Step::Delete { table, keys, tolerant } => Owned::Delete { table: *table, keys: all(keys), tolerant: *tolerant },
        Step::Update { table, rows, tolerant, .. } => {
            Owned::Update { table: *table, rows: all(rows), tolerant: *tolerant }
        }
        Step::Move { table, old, new } => Owned::Move { table: *table, old: old.to_vec(), new: new.to_vec() },
        Step::Insert { table, rows, tolerant } => Owned::Insert { table: *table, rows: all(rows), tolerant: *tolerant },
        Step::DeleteWhole { table, rows } => {
            Owned::DeleteWhole { table: *table, rows: rows.iter().map(|(r, n)| (r.to_vec(), *n)).collect() }
        }
        Step::Truncate { tables } => Owned::Truncate { tables: tables.clone() },
    }
}

/// Steps carried out on the rows of one moment.
pub(crate) struct Working {
    version: u64,
    pub tables: Tables,
    steps: Vec<Owned>,
    pub changes: Vec<Logged>,
}

pub struct MemoryApply {
    pub db: Database,
    pub migration: MigrationId,
    pub epoch: u64,
    pub plans: HashMap<u32, TablePlan>,
    working: Option<Working>,
    failed: bool,
    /// The server's incarnation that this is a session of.
    server: u64,
}

fn wrong_count(plan: &TablePlan, key: &[Value], what: &str) -> Error {
    let text = |v: &Value| v.as_ref().map_or_else(|| "null".into(), |v| String::from_utf8_lossy(v).into_owned());
    let key = key.iter().map(text).collect::<Vec<_>>().join(", ");
    Error::new(codes::ROW_COUNT, Fault::Destination, Retry::Never, what).table(&plan.destination).key(key)
}

fn gone() -> Error {
    Error::new(codes::CONNECTION, Fault::Destination, Retry::Connection, "the connection was lost")
}

fn fenced() -> Error {
    Error::new(codes::FENCED, Fault::Drover, Retry::Never, "another applier took over")
}

/// Writes a plan's known cells into a row of the table.
fn write(row: &mut Row, map: &Mapping, cells: &[Option<Value>]) {
    for (&column, cell) in map.columns.iter().zip(cells) {
        if let (Some(to), Some(value)) = (row.get_mut(column), cell) {
            to.clone_from(value);
        }
    }
}

fn whole_row(data: &TableData, map: &Mapping, cells: &[Option<Value>]) -> Result<Row> {
    if cells.len() != map.columns.len() || cells.iter().any(Option::is_none) {
        return Err(Error::internal("a row to insert lacks cells"));
    }
    let mut row = vec![None; data.def.columns.len()];
    write(&mut row, map, cells);
    Ok(row)
}

fn key_of(plan: &TablePlan, cells: &[Option<Value>]) -> Result<Vec<Value>> {
    let key = plan.key.iter().map(|&k| cells.get(usize::from(k)).cloned().flatten());
    key.collect::<Option<_>>().ok_or_else(|| Error::internal("a row without its key"))
}

impl Working {
    /// On the rows of now.
    pub fn new(inner: &Inner) -> Self {
        Working { version: inner.version, tables: inner.tables.clone(), steps: Vec::new(), changes: Vec::new() }
    }

    pub fn run(&mut self, plans: &HashMap<u32, TablePlan>, step: &Owned) -> Result<()> {
        let plan = |id: u32| plans.get(&id).ok_or_else(|| Error::internal(format!("a change of unknown table {id}")));
        match step {
            Owned::Truncate { tables } => {
                let names =
                    tables.iter().map(|&t| plan(t).map(|p| p.destination.clone())).collect::<Result<Vec<_>>>()?;
                for name in &names {
                    edit(&mut self.tables, name)?.clear();
                }
                self.changes.push(Logged::Truncate { tables: names });
            }
            Owned::Follow { table, columns, values, what } => {
                let plan = plan(*table)?;
                for place in self.followed(plan, columns, values)? {
                    match what {
                        Effect::Delete => self.delete(plan, place)?,
                        Effect::Set(set) => {
                            let mut cells = vec![None; plan.columns.len()];
                            for (&column, value) in columns.iter().zip(set) {
                                if let Some(cell) = cells.get_mut(usize::from(column)) {
                                    *cell = Some(value.clone());
                                }
                            }
                            self.update(plan, place, &cells)?;
                        }
                    }
                }
            }
            Owned::Delete { table, keys, tolerant } => {
                let plan = plan(*table)?;
                for key in keys {
                    let key = known(key)?;
                    match self.one(plan, &key)? {
                        Some(place) => self.delete(plan, place)?,
                        None if *tolerant => {}
                        None => return Err(wrong_count(plan, &key, "a row to delete is not there")),
                    }
                }
            }
            Owned::Update { table, rows, tolerant } => {
                let plan = plan(*table)?;
                for row in rows {
                    let cells = decode(row);
                    let key = key_of(plan, &cells)?;
                    match self.one(plan, &key)? {
                        Some(place) => self.update(plan, place, &cells)?,
                        None if *tolerant && cells.iter().all(Option::is_some) => self.insert(plan, &cells)?,
                        None if *tolerant => {}
                        None => return Err(wrong_count(plan, &key, "a row to update is not there")),
                    }
                }
            }
            Owned::Move { table, old, new } => {
                let plan = plan(*table)?;
                let (old, new) = (known(old)?, decode(new));
                let place =
                    self.one(plan, &old)?.ok_or_else(|| wrong_count(plan, &old, "a row to move is not there"))?;
                self.update(plan, place, &new)?;
            }
            Owned::Insert { table, rows, tolerant } => {
                let plan = plan(*table)?;
                for row in rows {
                    let cells = decode(row);
                    let there = if *tolerant { self.one(plan, &key_of(plan, &cells)?)? } else { None };
                    match there {
                        Some(place) => self.update(plan, place, &cells)?,
                        None => self.insert(plan, &cells)?,
                    }
                }
            }
            Owned::DeleteWhole { table, rows } => {
                let plan = plan(*table)?;
                for (row, times) in rows {
                    let values = known(row)?;
                    let data = edit(&mut self.tables, &plan.destination)?;
                    let map = Mapping::new(plan, data, false)?;
                    let places = data.find(&map.columns, &values);
                    if (places.len() as u64) < *times {
                        return Err(wrong_count(plan, &values, "rows to delete are not there"));
                    }
                    for place in places.into_iter().take(*times as usize) {
                        self.delete(plan, place)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn table(&self, plan: &TablePlan) -> Result<&TableData> {
        self.tables.get(&plan.destination).map(|t| &**t).ok_or_else(|| no_table(&plan.destination))
    }

    /// The rows of which these columns have one of these values.
    fn followed(&self, plan: &TablePlan, columns: &[u16], values: &[Vec<u8>]) -> Result<Vec<u64>> {
        let data = self.table(plan)?;
        let map = Mapping::new(plan, data, false)?;
        let columns: Vec<usize> = columns.iter().filter_map(|&c| map.columns.get(usize::from(c)).copied()).collect();
        let mut places = Vec::new();
        for value in values {
            let value = known(value)?;
            let same = |row: &Row| columns.iter().zip(&value).all(|(&c, v)| row.get(c) == Some(v));
            places.extend(data.rows.iter().filter(|(_, row)| same(row)).map(|(place, _)| *place));
        }
        Ok(places)
    }

    /// The one row with this key; several are an error.
    fn one(&self, plan: &TablePlan, key: &[Value]) -> Result<Option<u64>> {
        let data = self.table(plan)?;
        let places = data.find(&Mapping::new(plan, data, false)?.key, key);
        if places.len() > 1 {
            return Err(wrong_count(plan, key, "several rows have this key"));
        }
        Ok(places.first().copied())
    }

    fn delete(&mut self, plan: &TablePlan, place: u64) -> Result<()> {
        if let Some(old) = edit(&mut self.tables, &plan.destination)?.delete(place) {
            self.changes.push(Logged::Delete { table: plan.destination.clone(), old });
        }
        Ok(())
    }

    fn update(&mut self, plan: &TablePlan, place: u64, cells: &[Option<Value>]) -> Result<()> {
        let data = edit(&mut self.tables, &plan.destination)?;
        let map = Mapping::new(plan, data, false)?;
        let mut new = data.rows.get(&place).cloned().unwrap_or_default();
        write(&mut new, &map, cells);
        let old = data.update(place, new.clone())?;
        self.changes.push(Logged::Update { table: plan.destination.clone(), old, new });
        Ok(())
    }

    fn insert(&mut self, plan: &TablePlan, cells: &[Option<Value>]) -> Result<()> {
        let data = edit(&mut self.tables, &plan.destination)?;
        let new = whole_row(data, &Mapping::new(plan, data, false)?, cells)?;
        data.insert(new.clone())?;
        self.changes.push(Logged::Insert { table: plan.destination.clone(), new });
        Ok(())
    }
}

impl MemoryApply {
    pub fn new(db: Database, migration: MigrationId, epoch: u64, plans: &[TablePlan]) -> Result<Self> {
        let plans = plans.iter().map(|p| (p.id, p.clone())).collect();
        let server = db.lock().server;
        let session = MemoryApply { db, migration, epoch, plans, working: None, failed: false, server };
        if session.stand(&session.db.lock())?.0 != epoch {
            return Err(fenced());
        }
        Ok(session)
    }

    /// Epoch and position at the destination.
    fn stand(&self, inner: &Inner) -> Result<(u64, Option<Position>)> {
        let row = inner.progress.get(&self.migration);
        let missing = || Error::new(codes::STATE_LOST, Fault::Destination, Retry::Never, "the progress row is gone");
        row.map(|r| (r.epoch, r.position.clone())).ok_or_else(missing)
    }

    /// The server has not crashed since the session began.
    fn alive(&self) -> Result<()> {
        if self.db.lock().server == self.server { Ok(()) } else { Err(gone()) }
    }

    fn open(&mut self) -> Result<&mut Working> {
        self.alive()?;
        if self.failed {
            return Err(Error::internal("a batch that failed was carried on instead of rolled back"));
        }
        let db = &self.db;
        Ok(self.working.get_or_insert_with(|| Working::new(&db.lock())))
    }

    /// The commit as the server carries it out.
    fn commit_now(&mut self, mut working: Working, previous: &Position, next: &Position) -> Result<Committed> {
        let db = self.db.clone();
        let mut inner = db.lock();
        let (epoch, position) = self.stand(&inner)?;
        let broken = inner.broken;
        if epoch != self.epoch && broken != Some(Broken::Epoch) {
            return Ok(Committed::Fenced);
        }
        let may_go_on = match broken {
            Some(Broken::Order) => true,
            Some(Broken::Epoch) => epoch != self.epoch,
            _ => false,
        };
        if position.as_ref() != Some(previous) && !may_go_on {
            let at = position.map_or_else(|| "none".to_owned(), |p| p.text);
            return Err(Error::internal(format!("the progress stands at {at}, not at {previous}")));
        }
        if inner.version != working.version {
            // Others committed between: the steps see their rows.
            working.tables = inner.tables.clone();
            working.changes.clear();
            for step in std::mem::take(&mut working.steps) {
                working.run(&self.plans, &step)?;
            }
        }
        inner.tables = working.tables;
        inner.version += 1;
        if let Some(row) = inner.progress.get_mut(&self.migration) {
            row.before = row.position.replace(next.clone());
        }
        let note = Note::Applied { epoch: self.epoch, current: epoch, previous: previous.clone(), next: next.clone() };
        let note = (self.migration, note);
        let mut changes = working.changes;
        if broken == Some(Broken::Halves) && changes.len() > 1 {
            let rest = changes.split_off(changes.len() / 2);
            db.commit_with(&mut inner, changes, Some(note.clone()));
            changes = rest;
        }
        db.commit_with(&mut inner, changes, Some(note));
        Ok(Committed::Yes)
    }
}

#[async_trait]
impl ApplySession for MemoryApply {
    async fn holders(&mut self, table: u32, index: usize, values: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let plan = self.plans.get(&table).cloned();
        let plan = plan.ok_or_else(|| Error::internal(format!("a question about unknown table {table}")))?;
        let keys = crate::destination::keys_of(&self.db, &plan)?;
        let unknown = || Error::internal(format!("table {table} has no unique index {index}"));
        let unique = keys.others.get(index).cloned().ok_or_else(unknown)?;
        let working = self.open()?;
        let data = working.table(&plan)?;
        let map = Mapping::new(&plan, data, false)?;
        let columns: Vec<usize> =
            unique.columns.iter().filter_map(|(c, _)| map.columns.get(usize::from(*c)).copied()).collect();
        let mut found = Vec::new();
        for value in values {
            for place in data.find(&columns, &known(value)?) {
                let Some(row) = data.rows.get(&place) else { continue };
                let (mut key, mut cells) = (Vec::new(), Vec::new());
                encode(&mut key, row, &map.key);
                encode(&mut cells, row, &columns);
                found.push((key, cells));
            }
        }
        Ok(found)
    }

    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        let plans = std::mem::take(&mut self.plans);
        let done = self.open().and_then(|working| {
            for step in steps {
                let step = own(step);
                working.run(&plans, &step)?;
                working.steps.push(step);
            }
            Ok(())
        });
        self.plans = plans;
        self.failed |= done.is_err();
        done
    }

    async fn follow(
        &mut self,
        table: u32,
        columns: &[u16],
        values: &[&[u8]],
        what: Follow<'_>,
        give: &[u16],
    ) -> Result<Vec<Vec<u8>>> {
        let plan = self.plans.get(&table).cloned();
        let plan = plan.ok_or_else(|| Error::internal(format!("a foreign key of unknown table {table}")))?;
        let what = match what {
            Follow::Delete => Effect::Delete,
            Follow::SetNull => Effect::Set(vec![None; columns.len()]),
            Follow::Set(cells) => Effect::Set(known(cells)?),
        };
        let values: Vec<Vec<u8>> = values.iter().map(|v| v.to_vec()).collect();
        let step = Owned::Follow { table, columns: columns.to_vec(), values: values.clone(), what };
        let working = self.open()?;
        let data = working.table(&plan)?;
        let map = Mapping::new(&plan, data, false)?;
        let give: Vec<usize> = give.iter().filter_map(|&c| map.columns.get(usize::from(c)).copied()).collect();
        let mut before = Vec::new();
        for place in working.followed(&plan, columns, &values)? {
            let mut cells = Vec::new();
            if let Some(row) = data.rows.get(&place) {
                encode(&mut cells, row, &give);
            }
            before.push(cells);
        }
        let plans = HashMap::from([(table, plan)]);
        let done = working.run(&plans, &step);
        working.steps.push(step);
        self.failed |= done.is_err();
        done.map(|()| before)
    }

    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed> {
        self.open()?;
        let Some(working) = self.working.take() else { return Err(Error::internal("no transaction is open")) };
        let fault = {
            let mut inner = self.db.lock();
            if inner.commit_faults.is_empty() { None } else { Some(inner.commit_faults.remove(0)) }
        };
        if fault == Some(CommitFault::RequestLost) && self.db.lock().broken == Some(Broken::Outcome) {
            return Ok(Committed::Yes);
        }
        if fault != Some(CommitFault::RequestLost) {
            let outcome = self.commit_now(working, previous, next);
            if fault.is_none() {
                return outcome;
            }
        }
        // The answer was lost: the progress tells.
        let (epoch, position) = self.stand(&self.db.lock())?;
        match position {
            _ if epoch != self.epoch => Ok(Committed::Fenced),
            Some(p) if p == *next => Ok(Committed::Yes),
            _ => Err(gone()),
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        self.working = None;
        self.failed = false;
        self.alive()
    }

    async fn flush(&mut self) -> Result<()> {
        self.alive()?;
        self.db.lock().make_durable();
        Ok(())
    }

    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(Nothing)
    }
}

/// No statement takes time here, so there is nothing to break off.
struct Nothing;

#[async_trait]
impl Canceller for Nothing {
    async fn cancel(&self) {}
}
