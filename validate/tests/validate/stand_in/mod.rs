//! Stand-ins for a source and a destination: rows in memory, a log between them that is applied only when a test's script says so.
//! They exist to put changes at exact places of a comparison; real databases are compared in the end-to-end tests.

use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{
    ApplySession, Destination, Existing, Hold, Keys, Loader, MappedTable, Opened, Progress, RowSink, Rows, SchemaStep,
    Side, Source, StreamSpec,
};
use drover_model::check::CheckItem;
use drover_model::chunk::Bounds;
use drover_model::migration::Migration;
use drover_model::plan::{PlanColumn, SnapshotRef};
use drover_model::row::{Cell, put_cell};
use drover_model::schema::{Catalog, DataType, Object, Table, TableName};
use drover_model::selection::TableChoice;
use drover_model::{Error, MigrationId, Position, Result, TablePlan};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const INT: DataType = DataType::Int { bytes: 8, unsigned: false };
pub const TEXT: DataType = DataType::Text { max: None, padded: false };

pub type Row = Vec<Option<String>>;

/// A row from words; `~` is null.
pub fn row(text: &str) -> Row {
    text.split(' ').map(|v| (v != "~").then(|| v.to_owned())).collect()
}

pub fn plan(id: u32, name: &str, columns: &[(&str, DataType)], key: &[u16]) -> TablePlan {
    let column = |(name, data_type): &(&str, DataType)| PlanColumn {
        destination: format!("{name}_d"),
        ..PlanColumn::new(*name, data_type.clone(), "")
    };
    TablePlan {
        destination: TableName::new("crm", name),
        key: key.to_vec(),
        ..TablePlan::new(id, TableName::new("public", name), columns.iter().map(column).collect())
    }
}

/// What the comparison is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Read(Side, u32),
    Keys(Side, u32),
    Mark,
    Progress,
}

struct Change {
    table: u32,
    old: Option<Row>,
    new: Option<Row>,
}

pub type Script = Box<dyn FnMut(&mut State, Event) + Send>;

/// Both databases.
pub struct State {
    pub plans: Vec<TablePlan>,
    pub source: Vec<Vec<Row>>,
    pub destination: Vec<Vec<Row>>,
    log: Vec<Option<Change>>,
    applied: usize,
    pub events: Vec<Event>,
    script: Option<Script>,
    /// Reading gives blocks that are cut off.
    pub damaged: bool,
}

impl State {
    /// A committed change at the source.
    pub fn write(&mut self, table: u32, old: Option<&str>, new: Option<&str>) {
        let (old, new) = (old.map(row), new.map(row));
        let rows = &mut self.source[table as usize];
        if let Some(old) = &old {
            let at = rows.iter().position(|r| r == old).expect("the script changes a row that is there");
            rows.remove(at);
        }
        rows.extend(new.clone());
        self.log.push(Some(Change { table, old, new }));
    }
    /// The destination applies everything.
    pub fn apply(&mut self) {
        while self.applied < self.log.len() {
            if let Some(Change { table, old, new }) = &self.log[self.applied] {
                let plan = &self.plans[*table as usize];
                let rows = &mut self.destination[*table as usize];
                if let Some(old) = old {
                    let at = rows.iter().position(|r| identity(plan, r) == identity(plan, old));
                    rows.remove(at.expect("the changed row is at the destination"));
                }
                rows.extend(new.clone());
            }
            self.applied += 1;
        }
    }
    pub fn count(&self, event: Event) -> usize {
        self.events.iter().filter(|e| **e == event).count()
    }
}

fn identity<'a>(plan: &TablePlan, row: &'a Row) -> Vec<&'a Option<String>> {
    if plan.key.is_empty() { row.iter().collect() } else { plan.key.iter().map(|&k| &row[usize::from(k)]).collect() }
}

fn encode<'a>(values: impl IntoIterator<Item = &'a Option<String>>, out: &mut Vec<u8>) {
    for v in values {
        put_cell(out, v.as_ref().map_or(Cell::Null, |v| Cell::Value(v.as_bytes())));
    }
}

#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl World {
    pub fn new(tables: Vec<(TablePlan, &[&str], &[&str])>) -> World {
        let rows = |texts: &[&str]| texts.iter().map(|t| row(t)).collect::<Vec<_>>();
        World(Arc::new(Mutex::new(State {
            source: tables.iter().map(|t| rows(t.1)).collect(),
            destination: tables.iter().map(|t| rows(t.2)).collect(),
            plans: tables.into_iter().map(|t| t.0).collect(),
            log: vec![],
            applied: 0,
            events: vec![],
            script: None,
            damaged: false,
        })))
    }
    pub fn script(self, script: impl FnMut(&mut State, Event) + Send + 'static) -> World {
        self.lock().script = Some(Box::new(script));
        self
    }
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn plans(&self) -> Vec<TablePlan> {
        self.lock().plans.clone()
    }
    fn event(&self, event: Event) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.events.push(event);
        if let Some(mut script) = state.script.take() {
            script(&mut state, event);
            state.script = Some(script);
        }
        state
    }
}

fn position(n: usize) -> Position {
    Position { lineage: 1, order: (n as u64).to_be_bytes().to_vec(), resume: vec![], text: n.to_string() }
}

fn absent<T>() -> Result<T> {
    Err(Error::internal("the stand-in has no such thing"))
}

struct Session(World);

impl State {
    fn rows(&self, plan: &TablePlan, side: Side) -> Vec<Row> {
        let all = if side == Side::Source { &self.source } else { &self.destination };
        all[plan.id as usize].clone()
    }
}

fn send(rows: &[Row], damaged: bool, sink: &mut dyn RowSink) -> Result<()> {
    for rows in rows.chunks(3) {
        let mut block = Vec::new();
        for r in rows {
            encode(r, &mut block);
        }
        block.truncate(block.len() - usize::from(damaged));
        sink.block(rows.len(), Bytes::from(block))?;
    }
    Ok(())
}

#[async_trait]
impl Rows for Session {
    async fn read(&mut self, plan: &TablePlan, side: Side, bounds: &Bounds, sink: &mut dyn RowSink) -> Result<()> {
        assert_eq!(*bounds, Bounds::Whole);
        let (rows, damaged) = {
            let state = self.0.event(Event::Read(side, plan.id));
            (state.rows(plan, side), state.damaged)
        };
        send(&rows, damaged, sink)
    }
    async fn read_keys(&mut self, plan: &TablePlan, side: Side, keys: &[Bytes], sink: &mut dyn RowSink) -> Result<()> {
        let rows = self.0.event(Event::Keys(side, plan.id)).rows(plan, side);
        let wanted = |r: &Row| {
            let mut key = Vec::new();
            encode(identity(plan, r), &mut key);
            keys.iter().any(|k| k[..] == key[..])
        };
        send(&rows.into_iter().filter(wanted).collect::<Vec<_>>(), false, sink)
    }
}

#[async_trait]
impl Source for World {
    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(Session(self.clone())))
    }
    async fn mark(&self) -> Result<Position> {
        let mut state = self.event(Event::Mark);
        state.log.push(None);
        Ok(position(state.log.len()))
    }
    async fn catalog(&self) -> Result<Catalog> {
        absent()
    }
    async fn check(&self, _: &Migration, _: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
        absent()
    }
    async fn open_stream(&self, _: StreamSpec) -> Result<Opened> {
        absent()
    }
    async fn new_snapshot(&self, _: &[TablePlan]) -> Result<Box<dyn Hold>> {
        absent()
    }
    async fn join_snapshot(&self, _: &SnapshotRef) -> Result<Box<dyn Hold>> {
        absent()
    }
    async fn reader(&self, _: &SnapshotRef) -> Result<Box<dyn drover_connectors_api::ChunkReader>> {
        absent()
    }
    async fn clock_skew(&self) -> Result<f64> {
        absent()
    }
    async fn cleanup(&self, _: MigrationId) -> Result<Vec<String>> {
        absent()
    }
    async fn sequences(&self) -> Result<Vec<(String, String, i64, bool)>> {
        absent()
    }
}

#[async_trait]
impl Destination for World {
    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(Session(self.clone())))
    }
    async fn progress(&self, name: &str) -> Result<Option<Progress>> {
        assert_eq!(name, "shop");
        let position = position(self.event(Event::Progress).applied);
        Ok(Some(Progress { migration: MigrationId::nil(), name: name.into(), epoch: 1, position: Some(position) }))
    }
    async fn existing(&self, _: &[TableName]) -> Result<Vec<Existing>> {
        absent()
    }
    fn map_table(&self, _: &Catalog, _: &Table, _: &TableChoice) -> MappedTable {
        MappedTable { plan: plan(0, "none", &[], &[]), formats: vec![], items: vec![] }
    }
    async fn check(&self, _: &Migration, _: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
        absent()
    }
    async fn prepare(&self, _: MigrationId, _: &str) -> Result<Progress> {
        absent()
    }
    async fn schema(
        &self,
        _: MigrationId,
        _: &SchemaStep,
        _: &Catalog,
        _: &[TablePlan],
        _: &[Object],
        _: bool,
    ) -> Result<Vec<String>> {
        absent()
    }
    async fn take_over(&self, _: MigrationId) -> Result<Progress> {
        absent()
    }
    async fn begin_at(&self, _: MigrationId, _: u64, _: &Position) -> Result<()> {
        absent()
    }
    async fn loader(&self, _: MigrationId) -> Result<Box<dyn Loader>> {
        absent()
    }
    async fn restart_table(&self, _: MigrationId, _: &TablePlan, _: u32) -> Result<()> {
        absent()
    }
    async fn keys(&self, _: &[TablePlan]) -> Result<Vec<Keys>> {
        absent()
    }
    async fn apply_session(&self, _: MigrationId, _: u64, _: &Arc<Vec<TablePlan>>) -> Result<Box<dyn ApplySession>> {
        absent()
    }
    async fn set_sequences(&self, _: &[(String, String, i64, bool)]) -> Result<()> {
        absent()
    }
    async fn cleanup(&self, _: Option<MigrationId>, _: &str) -> Result<Vec<String>> {
        absent()
    }
}
