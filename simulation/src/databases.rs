//! Source and destination as a process reaches them: the databases in memory behind the simulated network. What a server does it does
//! also when the caller dies meanwhile; a connection that breaks takes sessions, transactions and holds with it.

use crate::check::Checker;
use crate::log::{Broker, SimLog};
use crate::net::{Connection, Link, Peer};
use crate::{note, sim};
use async_trait::async_trait;
use bytes::Bytes;
use drover_applier::DestinationFactory;
use drover_connectors_api::apply::{Canceller, Follow};
use drover_connectors_api::*;
use drover_connectors_memory::{CommitFault, Database, Memory};
use drover_extractor::SourceFactory;
use drover_log::{Log, LogFactory};
use drover_model::check::CheckItem;
use drover_model::chunk::{Bounds, Chunk};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::SnapshotRef;
use drover_model::schema::{Catalog, Object, Table, TableName};
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use drover_proto::order::Description;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// What a process opens databases and logs with.
#[derive(Clone)]
pub struct Factories {
    pub link: Link,
    pub destination: Database,
    /// The log of each migration, by its name.
    pub brokers: Arc<BTreeMap<String, Arc<Broker>>>,
    pub checker: Checker,
    /// Bytes of a batch of changes, of which each stream takes a part.
    pub batch: u64,
}

fn target(d: &Description, endpoint: &drover_model::migration::Endpoint) -> Target {
    Target { endpoint: endpoint.clone(), password: None, migration: d.id, name: d.migration.name.clone(), readers: 2 }
}

#[async_trait]
impl SourceFactory for Factories {
    async fn source(&self, d: &Description) -> Result<Box<dyn Source>> {
        let link = Link { peer: Peer::Source, ..self.link.clone() };
        link.connect().await?;
        let inner = Memory.source(target(d, &d.migration.source)).await?;
        Ok(Box::new(SimSource { inner: Arc::from(inner), link, batch: self.batch }))
    }
}

#[async_trait]
impl DestinationFactory for Factories {
    async fn destination(&self, d: &Description) -> Result<Box<dyn Destination>> {
        let link = Link { peer: Peer::Destination, ..self.link.clone() };
        link.connect().await?;
        let inner = Memory.destination(target(d, &d.migration.destination)).await?;
        let (db, checker) = (self.destination.clone(), self.checker.clone());
        Ok(Box::new(SimDestination { inner: Arc::from(inner), link, db, checker }))
    }
}

#[async_trait]
impl LogFactory for Factories {
    async fn log(&self, d: &Description) -> Result<Arc<dyn Log>> {
        let broker = self.brokers.get(&d.migration.name).ok_or_else(|| Error::internal("a log of no migration"))?;
        Ok(Arc::new(SimLog::new(broker.clone(), self.link.clone())))
    }
}

type Shared<T> = Arc<tokio::sync::Mutex<T>>;

fn shared<T>(inner: T) -> Shared<T> {
    Arc::new(tokio::sync::Mutex::new(inner))
}

struct SimSource {
    inner: Arc<dyn Source>,
    link: Link,
    batch: u64,
}

impl SimSource {
    fn taken(&self, connection: Connection, inner: Box<dyn Hold>) -> Box<dyn Hold> {
        if let Some(blur) = inner.snapshot().blur {
            sim::fault("snapshot blurred");
            note!("a snapshot between {} and {}", inner.snapshot().position.text, blur.until.text);
        }
        self.hold(connection, inner)
    }

    fn hold(&self, connection: Connection, inner: Box<dyn Hold>) -> Box<dyn Hold> {
        let reference = inner.snapshot();
        Box::new(SimHold { connection, reference, inner: Mutex::new(Some(Arc::from(inner))) })
    }

    async fn simple<T, F>(&self, what: &'static str, work: impl FnOnce(Arc<dyn Source>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.link.connect().await?.call(what, work(self.inner.clone())).await
    }
}

#[async_trait]
impl Source for SimSource {
    async fn catalog(&self) -> Result<Catalog> {
        self.simple("catalog", |s| async move { s.catalog().await }).await
    }

    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>> {
        self.link.cross().await?;
        self.inner.check(migration, plans, catalog).await
    }

    async fn open_stream(&self, spec: StreamSpec) -> Result<Opened> {
        let connection = self.link.connect().await?;
        let spec = StreamSpec { batch_bytes: sim::between(self.batch / 4, self.batch) as usize, ..spec };
        let inner = self.inner.clone();
        let opened = connection.call("open_stream", async move { inner.open_stream(spec).await }).await?;
        let snapshot = opened.snapshot.map(|hold| self.taken(connection.clone(), hold));
        let stream = SimStream { inner: opened.stream, connection, ready: None };
        Ok(Opened { start: opened.start, snapshot, stream: Box::new(stream) })
    }

    async fn new_snapshot(&self, tables: &[TablePlan]) -> Result<Box<dyn Hold>> {
        let connection = self.link.connect().await?;
        let (inner, tables) = (self.inner.clone(), tables.to_vec());
        let hold = connection.call("new_snapshot", async move { inner.new_snapshot(&tables).await }).await?;
        Ok(self.taken(connection, hold))
    }

    async fn join_snapshot(&self, snapshot: &SnapshotRef) -> Result<Box<dyn Hold>> {
        let connection = self.link.connect().await?;
        let (inner, snapshot) = (self.inner.clone(), snapshot.clone());
        let hold = connection.call("join_snapshot", async move { inner.join_snapshot(&snapshot).await }).await?;
        Ok(self.hold(connection, hold))
    }

    async fn reader(&self, snapshot: &SnapshotRef) -> Result<Box<dyn ChunkReader>> {
        let connection = self.link.connect().await?;
        let (inner, snapshot) = (self.inner.clone(), snapshot.clone());
        let inner = connection.call("reader", async move { inner.reader(&snapshot).await }).await?;
        Ok(Box::new(SimReader { inner, connection }))
    }

    async fn kept_from(&self, migration: MigrationId) -> Result<Option<Position>> {
        self.simple("kept_from", move |s| async move { s.kept_from(migration).await }).await
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        self.simple("rows", |s| async move { s.rows().await }).await
    }

    async fn mark(&self) -> Result<Position> {
        self.simple("mark", |s| async move { s.mark().await }).await
    }

    async fn clock_skew(&self) -> Result<f64> {
        self.inner.clock_skew().await
    }

    async fn cleanup(&self, migration: MigrationId) -> Result<Vec<String>> {
        self.simple("cleanup", move |s| async move { s.cleanup(migration).await }).await
    }

    async fn sequences(&self) -> Result<Vec<(String, String, i64, bool)>> {
        self.simple("sequences", |s| async move { s.sequences().await }).await
    }
}

/// A hold on a snapshot: gone with its connection.
struct SimHold {
    connection: Connection,
    reference: SnapshotRef,
    inner: Mutex<Option<Arc<dyn Hold>>>,
}

#[async_trait]
impl Hold for SimHold {
    fn snapshot(&self) -> SnapshotRef {
        self.reference.clone()
    }

    async fn lost(&self) -> Error {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lost = async {
            match &inner {
                Some(inner) => inner.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = lost => error,
            () = self.connection.cut() => {
                *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Error::new(codes::SNAPSHOT_LOST, Fault::Source, Retry::Never, "the session of the snapshot is gone")
            }
        }
    }
}

struct SimReader {
    inner: Box<dyn ChunkReader>,
    connection: Connection,
}

#[async_trait]
impl ChunkReader for SimReader {
    async fn plan(&mut self, plan: &TablePlan, target_bytes: u64, keyed: bool) -> Result<Vec<Chunk>> {
        self.connection.cross().await?;
        let chunks = self.inner.plan(plan, target_bytes, keyed).await?;
        note!("{} plans {} in {} chunks", self.connection.link.node.name, plan.source, chunks.len());
        self.connection.cross().await?;
        Ok(chunks)
    }

    async fn read(&mut self, plan: &TablePlan, bounds: &Bounds, sink: &mut dyn BlockSink) -> Result<ChunkRead> {
        self.connection.cross().await?;
        let mut small = Small { sink, connection: self.connection.clone() };
        let read = self.inner.read(plan, bounds, &mut small).await?;
        note!("{} reads {} rows of {}", self.connection.link.node.name, read.rows, plan.source);
        self.connection.cross().await?;
        Ok(read)
    }

    async fn fetch(&mut self, plan: &TablePlan, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        self.connection.cross().await?;
        let rows = self.inner.fetch(plan, keys).await?;
        self.connection.cross().await?;
        Ok(rows)
    }
}

/// Blocks come over the network.
struct Small<'a> {
    sink: &'a mut dyn BlockSink,
    connection: Connection,
}

#[async_trait]
impl BlockSink for Small<'_> {
    async fn block(&mut self, rows: u64, data: Bytes) -> Result<()> {
        self.connection.cross().await?;
        self.sink.block(rows, data).await
    }
}

struct SimStream {
    inner: Box<dyn ChangeStream>,
    connection: Connection,
    /// Sent by the source, and there at that time: a cancelled call loses nothing.
    ready: Option<(Instant, Batch)>,
}

#[async_trait]
impl ChangeStream for SimStream {
    async fn next(&mut self) -> Result<Batch> {
        let cut = || self.connection.link.lost("the stream's connection was lost");
        if self.ready.is_none() {
            let batch = tokio::select! {
                biased;
                () = self.connection.cut() => return Err(cut()),
                batch = self.inner.next() => batch?,
            };
            let slow = sim::chance(self.connection.link.net.weather().slow);
            let there = Instant::now() + if slow { sim::ms(10, 1_000) } else { sim::ms(0, 10) };
            self.ready = Some((there, batch));
        }
        if let Some((there, _)) = &self.ready {
            tokio::time::sleep_until(*there).await;
        }
        if self.connection.is_cut() {
            return Err(cut());
        }
        let (_, batch) = self.ready.take().ok_or_else(|| Error::internal("a batch was taken twice"))?;
        let name = &self.connection.link.node.name;
        note!("{name} receives ({}, {}] {} changes", batch.from.text, batch.to.text, batch.changes);
        Ok(batch)
    }

    async fn confirm(&mut self, position: &Position) -> Result<()> {
        self.connection.cross().await?;
        note!("{} confirms {}", self.connection.link.node.name, position.text);
        self.inner.confirm(position).await
    }

    async fn alive(&mut self) -> Result<()> {
        self.connection.cross().await
    }
}

struct SimDestination {
    inner: Arc<dyn Destination>,
    link: Link,
    db: Database,
    checker: Checker,
}

impl SimDestination {
    async fn simple<T, F>(&self, what: &'static str, work: impl FnOnce(Arc<dyn Destination>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (work, checker) = (work(self.inner.clone()), self.checker.clone());
        let work = async move {
            let done = work.await;
            checker.look();
            done
        };
        self.link.connect().await?.call(what, work).await
    }
}

#[async_trait]
impl Destination for SimDestination {
    async fn existing(&self, tables: &[TableName]) -> Result<Vec<Existing>> {
        let tables = tables.to_vec();
        self.simple("existing", |d| async move { d.existing(&tables).await }).await
    }

    fn map_table(&self, catalog: &Catalog, table: &Table, choice: &TableChoice) -> MappedTable {
        self.inner.map_table(catalog, table, choice)
    }

    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>> {
        self.link.cross().await?;
        self.inner.check(migration, plans, catalog).await
    }

    async fn prepare(&self, migration: MigrationId, name: &str) -> Result<Progress> {
        let name = name.to_owned();
        self.simple("prepare", move |d| async move { d.prepare(migration, &name).await }).await
    }

    async fn schema(
        &self,
        migration: MigrationId,
        step: &SchemaStep,
        catalog: &Catalog,
        plans: &[TablePlan],
        objects: &[Object],
        existing_allowed: bool,
    ) -> Result<Vec<String>> {
        let (step, catalog, plans, objects) = (step.clone(), catalog.clone(), plans.to_vec(), objects.to_vec());
        self.simple("schema", move |d| async move {
            d.schema(migration, &step, &catalog, &plans, &objects, existing_allowed).await
        })
        .await
    }

    async fn progress(&self, name: &str) -> Result<Option<Progress>> {
        let name = name.to_owned();
        self.simple("progress", move |d| async move { d.progress(&name).await }).await
    }

    async fn take_over(&self, migration: MigrationId) -> Result<Progress> {
        self.simple("take_over", move |d| async move { d.take_over(migration).await }).await
    }

    async fn begin_at(&self, migration: MigrationId, epoch: u64, start: &Position) -> Result<()> {
        let start = start.clone();
        self.simple("begin_at", move |d| async move { d.begin_at(migration, epoch, &start).await }).await
    }

    async fn loader(&self, migration: MigrationId) -> Result<Box<dyn Loader>> {
        let connection = self.link.connect().await?;
        let inner = self.inner.loader(migration).await?;
        Ok(Box::new(SimLoader { inner: shared(inner), connection, checker: self.checker.clone() }))
    }

    async fn restart_table(&self, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()> {
        let plan = plan.clone();
        self.simple("restart_table", move |d| async move { d.restart_table(migration, &plan, generation).await }).await
    }

    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>> {
        let plans = plans.to_vec();
        self.simple("keys", |d| async move { d.keys(&plans).await }).await
    }

    async fn apply_session(
        &self,
        migration: MigrationId,
        epoch: u64,
        plans: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>> {
        let connection = self.link.connect().await?;
        let inner = shared(self.inner.apply_session(migration, epoch, plans).await?);
        let (db, checker) = (self.db.clone(), self.checker.clone());
        Ok(Box::new(SimApply { inner, connection, db, checker, migration, epoch }))
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        self.simple("rows", |d| async move { d.rows().await }).await
    }

    async fn set_sequences(&self, values: &[(String, String, i64, bool)]) -> Result<()> {
        let values = values.to_vec();
        self.simple("set_sequences", |d| async move { d.set_sequences(&values).await }).await
    }

    async fn cleanup(&self, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>> {
        let name = name.to_owned();
        self.simple("cleanup", move |d| async move { d.cleanup(migration, &name).await }).await
    }
}

struct SimLoader {
    inner: Shared<Box<dyn Loader>>,
    connection: Connection,
    checker: Checker,
}

#[async_trait]
impl Loader for SimLoader {
    async fn begin(&mut self, plan: &TablePlan, generation: u32, chunk: u32) -> Result<Option<LoadOutcome>> {
        self.connection.cross().await?;
        self.inner.lock().await.begin(plan, generation, chunk).await
    }

    async fn block(&mut self, data: Bytes) -> Result<()> {
        self.connection.cross().await?;
        self.inner.lock().await.block(data).await
    }

    async fn finish(&mut self, rows: u64) -> Result<LoadOutcome> {
        let (inner, checker) = (self.inner.clone(), self.checker.clone());
        let work = async move {
            let done = inner.lock().await.finish(rows).await;
            checker.look();
            done
        };
        self.connection.call("load", work).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.lock().await.abort().await?;
        self.connection.cross().await
    }
}

struct SimApply {
    inner: Shared<Box<dyn ApplySession>>,
    connection: Connection,
    db: Database,
    checker: Checker,
    migration: MigrationId,
    epoch: u64,
}

impl SimApply {
    /// What became of a commit whose answer was lost: asked over a new connection.
    async fn resolve(&self, next: &Position, lost: Error) -> Result<Committed> {
        let link = &self.connection.link;
        link.connect().await?.cross().await?;
        match self.db.standing(self.migration) {
            Some((epoch, _)) if epoch != self.epoch => Ok(Committed::Fenced),
            Some((_, Some(position))) if position == *next => Ok(Committed::Yes),
            _ => Err(lost),
        }
    }
}

#[async_trait]
impl ApplySession for SimApply {
    async fn holders(&mut self, table: u32, index: usize, values: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.connection.cross().await?;
        let found = self.inner.lock().await.holders(table, index, values).await?;
        self.connection.cross().await?;
        Ok(found)
    }

    async fn follow(
        &mut self,
        table: u32,
        columns: &[u16],
        values: &[&[u8]],
        what: Follow<'_>,
        give: &[u16],
    ) -> Result<Vec<Vec<u8>>> {
        self.connection.cross().await?;
        let done = self.inner.lock().await.follow(table, columns, values, what, give).await;
        let text = done.as_ref().map_or_else(|e| e.to_string(), |rows| format!("{} rows", rows.len()));
        note!("{}: follow: {text}", self.connection.link.node.name);
        let before = done?;
        self.connection.cross().await?;
        Ok(before)
    }

    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        self.connection.cross().await?;
        let done = self.inner.lock().await.execute(steps).await;
        if let Err(error) = &done {
            note!("{}: execute: {error}", self.connection.link.node.name);
        }
        done?;
        self.connection.cross().await
    }

    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed> {
        let (inner, checker, db) = (self.inner.clone(), self.checker.clone(), self.db.clone());
        let ended = Arc::new(AtomicBool::new(false));
        let fault = match sim::below(100_000) / 100 {
            n if self.connection.link.net.weather().lost == 0 || n > 20 => None,
            n if n > 10 => Some(CommitFault::AnswerLost),
            _ => Some(CommitFault::RequestLost),
        };
        let (from, to, is_ended) = (previous.clone(), next.clone(), ended.clone());
        let work = async move {
            let mut session = inner.lock().await;
            if is_ended.load(Ordering::Relaxed) {
                return Err(Error::internal("the session was ended"));
            }
            if let Some(fault) = fault {
                sim::fault("answer to a commit lost");
                db.fail_commits([fault]);
            }
            let done = session.commit(&from, &to).await;
            note!("commit ({}, {}]: {:?}", from.text, to.text, done.as_ref().map_err(|e| &e.message));
            checker.look();
            done
        };
        match self.connection.call("commit", work).await {
            Err(error) if error.code == codes::CONNECTION => {
                // The old session is ended first, else it could still commit.
                ended.store(true, Ordering::Relaxed);
                sim::fault("outcome of a commit asked for");
                self.resolve(next, error).await
            }
            other => other,
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        self.inner.lock().await.rollback().await?;
        self.connection.cross().await
    }

    async fn flush(&mut self) -> Result<()> {
        let inner = self.inner.clone();
        self.connection.call("flush", async move { inner.lock().await.flush().await }).await
    }

    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(Nothing)
    }
}

/// No statement takes so long here that it would have to be broken off.
struct Nothing;

#[async_trait]
impl Canceller for Nothing {
    async fn cancel(&self) {}
}
