//! For tests: a log and a destination in memory. The destination is strict about counts, order of commits and epochs, and can be made to
//! fail, to lock, and to be watched.

use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::*;
use drover_log::{Appender, Log, Offset, Reader, Span, Stream};
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::row::{Cell, cells, put_cell};
use drover_model::schema::{Catalog, Object, Table, TableName};
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub fn at(place: u64) -> Position {
    Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
}

type Records = BTreeMap<Offset, Bytes>;

#[derive(Clone)]
pub struct FakeLog {
    streams: Arc<Mutex<HashMap<Stream, Records>>>,
    /// Offset of the next record: it stays when all are trimmed.
    next: Arc<Mutex<HashMap<Stream, Offset>>>,
    changed: watch::Sender<u64>,
    /// So many deletions will fail.
    pub refusals: Arc<AtomicU32>,
}

impl Default for FakeLog {
    fn default() -> Self {
        FakeLog {
            streams: Arc::default(),
            next: Arc::default(),
            changed: watch::channel(0).0,
            refusals: Arc::default(),
        }
    }
}

impl FakeLog {
    pub fn push(&self, stream: Stream, record: Bytes) -> Offset {
        let mut streams = self.streams.lock().unwrap();
        let records = streams.entry(stream).or_default();
        let mut next = self.next.lock().unwrap();
        let next = next.entry(stream).or_default();
        let offset = *next;
        *next += 1;
        records.insert(offset, record);
        self.changed.send_modify(|n| *n += 1);
        offset
    }
    /// A record is lost; if it was the last one, as if it had never been.
    pub fn forget(&self, stream: Stream, offset: Offset) {
        self.next.lock().unwrap().entry(stream).and_modify(|next| *next -= u64::from(*next == offset + 1));
        self.streams.lock().unwrap().get_mut(&stream).unwrap().remove(&offset);
    }
}

struct FakeAppender {
    log: FakeLog,
    stream: Stream,
    appended: u64,
    span: Option<(Offset, Offset)>,
}

#[async_trait]
impl Appender for FakeAppender {
    async fn append(&mut self, record: Bytes) -> Result<()> {
        let offset = self.log.push(self.stream, record);
        self.appended += 1;
        self.span = Some((self.span.map_or(offset, |s| s.0), offset));
        Ok(())
    }
    fn durable(&self) -> u64 {
        self.appended
    }
    async fn durable_beyond(&mut self, _: u64) -> Result<u64> {
        Ok(self.appended)
    }
    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>> {
        Ok(self.span.take())
    }
}

struct FakeReader {
    log: FakeLog,
    stream: Stream,
    next: Offset,
}

#[async_trait]
impl Reader for FakeReader {
    async fn next(&mut self) -> Result<(Offset, Bytes)> {
        let mut changed = self.log.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let found = {
                let streams = self.log.streams.lock().unwrap();
                streams.get(&self.stream).and_then(|r| r.range(self.next..).next().map(|(o, b)| (*o, b.clone())))
            };
            if let Some((offset, record)) = found {
                self.next = offset + 1;
                return Ok((offset, record));
            }
            changed.changed().await.map_err(|_| Error::internal("the log is gone"))?;
        }
    }
}

#[async_trait]
impl Log for FakeLog {
    async fn open(&self, _: u32) -> Result<()> {
        Ok(())
    }
    async fn appender(&self, stream: Stream) -> Result<Box<dyn Appender>> {
        Ok(Box::new(FakeAppender { log: self.clone(), stream, appended: 0, span: None }))
    }
    async fn reader(&self, stream: Stream, from: Offset) -> Result<Box<dyn Reader>> {
        Ok(Box::new(FakeReader { log: self.clone(), stream, next: from }))
    }
    async fn span(&self, stream: Stream) -> Result<Span> {
        let streams = self.streams.lock().unwrap();
        let next = self.next.lock().unwrap().get(&stream).copied().unwrap_or_default();
        let first = streams.get(&stream).and_then(|r| r.first_key_value()).map_or(next, |(o, _)| *o);
        Ok(Span { first, next })
    }
    async fn last(&self, _: Stream) -> Result<Option<(Offset, Bytes)>> {
        Ok(None)
    }
    async fn trim(&self, stream: Stream, before: Offset) -> Result<()> {
        tokio::task::yield_now().await;
        if self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::internal("refused"));
        }
        self.streams.lock().unwrap().entry(stream).or_default().retain(|o, _| *o >= before);
        Ok(())
    }
    async fn bytes(&self, _: Stream) -> Result<u64> {
        Ok(0)
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

/// A change that a session has executed and not committed.
#[derive(Clone)]
enum Write {
    Put(u32, Vec<u8>, bool),
    Insert(u32, Vec<u8>),
    Delete(u32, Vec<u8>, bool),
    Clear(u32),
}

type Rows = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

#[derive(Default)]
pub struct State {
    pub rows: Rows,
    pub position: Option<Position>,
    pub epoch: u64,
    pub commits: u64,
    /// Commits that will fail, by number of attempt.
    pub failing: Vec<u64>,
    pub attempts: u64,
    pub cancels: u64,
    /// Transactions with statements in them that were rolled back.
    pub rollbacks: u64,
    /// Calls that executed steps.
    pub executed: u64,
    /// A statement hung once until it was broken off.
    pub hung: bool,
    pub torn: Option<String>,
    pub most_open: usize,
    pub open: usize,
    pub loaded: BTreeMap<(u32, u32), Vec<Bytes>>,
}

#[derive(Clone)]
pub struct FakeDestination {
    pub state: Arc<Mutex<State>>,
    /// Called on every committed state; a text says what is wrong with it.
    pub watch: Arc<dyn Fn(&Rows) -> Option<String> + Send + Sync>,
    /// A lock that rows with the value "first", "second" and "hangs" take; "first" only after somebody had it.
    lock: Arc<Semaphore>,
    taken: watch::Sender<u64>,
    /// Sessions that came to a row with the value "meets": they wait until there are two.
    met: watch::Sender<usize>,
}

impl FakeDestination {
    pub fn new(watch: impl Fn(&Rows) -> Option<String> + Send + Sync + 'static) -> Self {
        let lock = Arc::new(Semaphore::new(1));
        let (taken, met) = (watch::channel(0).0, watch::channel(0).0);
        FakeDestination { state: Arc::default(), watch: Arc::new(watch), lock, taken, met }
    }
}

struct Session {
    destination: FakeDestination,
    epoch: u64,
    writes: Vec<Write>,
    open: bool,
    permit: Option<OwnedSemaphorePermit>,
    cancel: Arc<Mutex<CancellationToken>>,
}

fn key(row: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    cells(row).take(1).for_each(|c| put_cell(&mut out, c));
    out
}

/// The known cells of `new` over a row.
fn over(row: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    cells(row).zip(cells(new)).for_each(|(old, new)| put_cell(&mut out, if new == Cell::Unknown { old } else { new }));
    out
}

fn count(what: &str) -> Error {
    Error::new(codes::ROW_COUNT, Fault::Destination, Retry::Never, what)
}

impl Session {
    fn end(&mut self) {
        self.writes.clear();
        self.permit = None;
        if std::mem::take(&mut self.open) {
            self.destination.state.lock().unwrap().open -= 1;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

struct Breaker(Arc<Mutex<CancellationToken>>, Arc<Mutex<State>>);
#[async_trait]
impl Canceller for Breaker {
    async fn cancel(&self) {
        self.1.lock().unwrap().cancels += 1;
        self.0.lock().unwrap().cancel();
    }
}

#[async_trait]
impl ApplySession for Session {
    async fn holders(&mut self, _: u32, _: usize, _: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(vec![])
    }
    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        if !std::mem::replace(&mut self.open, true) {
            let mut state = self.destination.state.lock().unwrap();
            state.open += 1;
            state.most_open = state.most_open.max(state.open);
        }
        self.destination.state.lock().unwrap().executed += 1;
        let token = CancellationToken::new();
        *self.cancel.lock().unwrap() = token.clone();
        // What a unique index does that takes these for equal, if they are written in any order but the source's.
        let together = |row: &&[u8]| cells(row).any(|c| c == Cell::Value(b"collides"));
        let set_wise = |step: &Step<'_>| matches!(step, Step::Update { rows, .. } if rows.iter().filter(|r| together(r)).count() > 1);
        if steps.iter().any(set_wise) {
            return Err(Error::new(codes::STATEMENT, Fault::Destination, Retry::Other, "a value is there already"));
        }
        for step in steps {
            match step {
                Step::Delete { table, keys, tolerant } => {
                    self.writes.extend(keys.iter().map(|k| Write::Delete(*table, k.to_vec(), *tolerant)));
                }
                Step::Update { table, rows, tolerant, .. } => {
                    self.writes.extend(rows.iter().map(|r| Write::Put(*table, r.to_vec(), *tolerant)));
                }
                Step::Move { table, old, new } => {
                    self.writes.push(Write::Delete(*table, old.to_vec(), false));
                    self.writes.push(Write::Insert(*table, new.to_vec()));
                }
                Step::Insert { table, rows, tolerant } => self.writes.extend(rows.iter().map(|r| {
                    if *tolerant { Write::Put(*table, r.to_vec(), true) } else { Write::Insert(*table, r.to_vec()) }
                })),
                Step::DeleteWhole { .. } => return Err(Error::internal("not needed")),
                Step::Truncate { tables } => self.writes.extend(tables.iter().map(|t| Write::Clear(*t))),
            }
        }
        let has = |w: &Write, text: &[u8]| match w {
            Write::Put(_, r, _) | Write::Insert(_, r) => cells(r).any(|c| c == Cell::Value(text)),
            _ => false,
        };
        let any = |text: &[u8]| self.writes.iter().any(|w| has(w, text));
        let (first, hangs) = (any(b"first"), any(b"hangs"));
        let second = hangs || any(b"second");
        if (first || second) && self.permit.is_none() {
            let mut taken = self.destination.taken.subscribe();
            let wait = async {
                if first {
                    taken.wait_for(|n| *n > 0).await.unwrap();
                }
                self.destination.lock.clone().acquire_owned().await.unwrap()
            };
            tokio::select! {
                permit = wait => self.permit = Some(permit),
                () = token.cancelled() => return Err(Error::new(codes::TIMEOUT, Fault::Destination, Retry::Other, "cancelled")),
            }
            self.destination.taken.send_modify(|n| *n += 1);
        }
        if hangs && !std::mem::replace(&mut self.destination.state.lock().unwrap().hung, true) {
            token.cancelled().await;
            return Err(Error::new(codes::TIMEOUT, Fault::Destination, Retry::Other, "cancelled"));
        }
        let meets = |step: &Step<'_>| matches!(step, Step::Insert { rows, .. } if rows.iter().any(|r| cells(r).any(|c| c == Cell::Value(b"meets"))));
        if steps.iter().any(meets) {
            self.destination.met.send_modify(|n| *n += 1);
            let mut met = self.destination.met.subscribe();
            tokio::select! {
                both = met.wait_for(|n| *n >= 2) => drop(both.unwrap()),
                () = token.cancelled() => return Err(Error::new(codes::TIMEOUT, Fault::Destination, Retry::Other, "cancelled")),
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }
    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed> {
        let destination = self.destination.clone();
        let mut state = destination.state.lock().unwrap();
        state.attempts += 1;
        if state.epoch != self.epoch {
            return Ok(Committed::Fenced);
        }
        let attempts = state.attempts;
        if state.failing.contains(&attempts) {
            return Err(Error::new(codes::CONNECTION, Fault::Destination, Retry::Connection, "lost"));
        }
        if state.position.as_ref() != Some(previous) {
            return Err(Error::internal(format!("{:?} is not {previous:?}", state.position)));
        }
        for write in std::mem::take(&mut self.writes) {
            match write {
                Write::Insert(t, row) => {
                    if state.rows.insert((t, key(&row)), row).is_some() {
                        return Err(count("there already"));
                    }
                }
                Write::Put(t, row, tolerant) => {
                    let whole = cells(&row).all(|c| c != Cell::Unknown);
                    match state.rows.get_mut(&(t, key(&row))) {
                        Some(there) => *there = over(there, &row),
                        None if tolerant && whole => drop(state.rows.insert((t, key(&row)), row)),
                        None if tolerant => {}
                        None => return Err(count("no row to update")),
                    }
                }
                Write::Delete(t, key, tolerant) => {
                    if state.rows.remove(&(t, key)).is_none() && !tolerant {
                        return Err(count("no row to delete"));
                    }
                }
                Write::Clear(t) => state.rows.retain(|(table, _), _| *table != t),
            }
        }
        state.position = Some(next.clone());
        state.commits += 1;
        if let Some(what) = (self.destination.watch)(&state.rows) {
            state.torn.get_or_insert(format!("at {next}: {what}"));
        }
        drop(state);
        self.end();
        Ok(Committed::Yes)
    }
    async fn rollback(&mut self) -> Result<()> {
        self.destination.state.lock().unwrap().rollbacks += u64::from(self.open);
        self.end();
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(Breaker(self.cancel.clone(), self.destination.state.clone()))
    }
}

struct FakeLoader {
    destination: FakeDestination,
    at: Option<(u32, u32)>,
    blocks: Vec<Bytes>,
}

#[async_trait]
impl Loader for FakeLoader {
    async fn begin(&mut self, plan: &TablePlan, _: u32, chunk: u32) -> Result<Option<LoadOutcome>> {
        self.at = Some((plan.id, chunk));
        let there = self.destination.state.lock().unwrap().loaded.contains_key(&(plan.id, chunk));
        Ok(there.then_some(LoadOutcome::AlreadyLoaded))
    }
    async fn block(&mut self, data: Bytes) -> Result<()> {
        self.blocks.push(data);
        Ok(())
    }
    async fn finish(&mut self, rows: u64) -> Result<LoadOutcome> {
        let blocks = std::mem::take(&mut self.blocks);
        self.destination.state.lock().unwrap().loaded.insert(self.at.take().unwrap(), blocks);
        Ok(LoadOutcome::Loaded { rows })
    }
    async fn abort(&mut self) -> Result<()> {
        self.blocks.clear();
        Ok(())
    }
}

#[async_trait]
impl Destination for FakeDestination {
    async fn existing(&self, _: &[TableName]) -> Result<Vec<Existing>> {
        Ok(vec![])
    }
    fn map_table(&self, _: &Catalog, table: &Table, _: &TableChoice) -> MappedTable {
        let mut plan = crate::compact::tests::plan(0, table.columns.len(), &[0]);
        plan.destination = table.name.clone();
        MappedTable { plan, formats: vec![], items: vec![] }
    }
    async fn check(&self, _: &Migration, _: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
        Ok(vec![])
    }
    async fn prepare(&self, migration: MigrationId, name: &str) -> Result<Progress> {
        Ok(Progress { migration, name: name.into(), epoch: 0, position: None })
    }
    async fn schema(
        &self,
        _: MigrationId,
        step: &SchemaStep,
        _: &Catalog,
        _: &[TablePlan],
        _: &[Object],
        _: bool,
    ) -> Result<Vec<String>> {
        Ok(vec![format!("{step:?}")])
    }
    async fn progress(&self, _: &str) -> Result<Option<Progress>> {
        let state = self.state.lock().unwrap();
        Ok(Some(Progress {
            migration: crate::loop_tests::ID,
            name: "t".into(),
            epoch: state.epoch,
            position: state.position.clone(),
        }))
    }
    async fn take_over(&self, migration: MigrationId) -> Result<Progress> {
        let mut state = self.state.lock().unwrap();
        state.epoch += 1;
        Ok(Progress { migration, name: "t".into(), epoch: state.epoch, position: state.position.clone() })
    }
    async fn begin_at(&self, _: MigrationId, _: u64, start: &Position) -> Result<()> {
        self.state.lock().unwrap().position = Some(start.clone());
        Ok(())
    }
    async fn loader(&self, _: MigrationId) -> Result<Box<dyn Loader>> {
        Ok(Box::new(FakeLoader { destination: self.clone(), at: None, blocks: vec![] }))
    }
    async fn restart_table(&self, _: MigrationId, _: &TablePlan, _: u32) -> Result<()> {
        Ok(())
    }
    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>> {
        Ok(plans.iter().map(|p| Keys { table: p.id, ..Keys::default() }).collect())
    }
    async fn apply_session(
        &self,
        _: MigrationId,
        epoch: u64,
        _: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>> {
        Ok(Box::new(Session {
            destination: self.clone(),
            epoch,
            writes: vec![],
            open: false,
            permit: None,
            cancel: Arc::default(),
        }))
    }
    async fn rows(&self) -> Result<Box<dyn drover_connectors_api::Rows>> {
        Err(Error::internal("not needed"))
    }
    async fn set_sequences(&self, _: &[(String, String, i64, bool)]) -> Result<()> {
        Ok(())
    }
    async fn cleanup(&self, _: Option<MigrationId>, _: &str) -> Result<Vec<String>> {
        Ok(vec![])
    }
}
