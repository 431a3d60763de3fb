//! The extractor as a handler of work orders.

use crate::copy::{Attempt, BLOCKS, copy};
use crate::fetch::fetch;
use crate::inspect;
use crate::readers::Readers;
use crate::stream::{self, Publisher, Register, begin_of_log, end_of_log, seen_in_log};
use async_trait::async_trait;
use drover_connectors_api::{Followed, Hold, Side, Source, StreamSpec};
use drover_log::{LogFactory, Stream};
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::migration::{IncrementalLimits, Stage};
use drover_model::plan::SnapshotRef;
use drover_model::selection::Selection;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use drover_proto::order::{Description, Opening, Order, Outcome, Owes, Progress, Share};
use drover_runtime::CancellationToken;
use drover_runtime::memory::Account;
use drover_runtime::rate::{Amount, Limits};
use drover_runtime::worker::{Handler, Job, News};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Opens the source of a migration; the one place that knows connectors and secrets is outside.
#[async_trait]
pub trait SourceFactory: Send + Sync {
    async fn source(&self, description: &Description) -> Result<Box<dyn Source>>;
}

/// The extractor role.
pub struct Extractor {
    sources: Arc<dyn SourceFactory>,
    logs: Arc<dyn LogFactory>,
    work_dir: PathBuf,
    open: tokio::sync::Mutex<HashMap<MigrationId, Arc<dyn Source>>>,
    readers: Readers,
    limits: Limits,
    /// Of the blocks of all copies.
    blocks: Arc<Account>,
    /// The snapshot that came with a stream, until this worker's own hold has joined it (or the stream ends).
    made: Mutex<HashMap<MigrationId, Box<dyn Hold>>>,
}

/// Target size of a changes record.
const BATCH_BYTES: usize = 1 << 20;

/// Under a limit records are smaller, so that changes come at an even pace: about a quarter of what a second may bring.
fn batch_bytes(limits: &IncrementalLimits) -> usize {
    /// Bytes of a row, where only rows are limited.
    const ROW: u64 = 100;
    let by_rows = limits.rows_per_second.saturating_mul(ROW) / 4;
    let by_bytes = limits.megabytes_per_second.saturating_mul(1_000_000) / 4;
    let least = [by_rows, by_bytes].into_iter().filter(|n| *n > 0).min().unwrap_or(u64::MAX);
    least.clamp(16 << 10, BATCH_BYTES as u64) as usize
}

/// How long the source may take to say what it keeps of its log.
const KEPT_WITHIN: Duration = Duration::from_secs(5);

/// Numbers about a copy are told this often.
const NEWS: Duration = Duration::from_millis(200);

impl Extractor {
    /// `work_dir` takes what spills (large transactions).
    pub fn new(sources: Arc<dyn SourceFactory>, logs: Arc<dyn LogFactory>, work_dir: PathBuf) -> Self {
        Extractor {
            sources,
            logs,
            work_dir,
            open: tokio::sync::Mutex::default(),
            readers: Readers::default(),
            limits: Limits::default(),
            blocks: Account::new("copy.blocks", BLOCKS),
            made: Mutex::default(),
        }
    }

    async fn source(&self, description: &Description) -> Result<Arc<dyn Source>> {
        let mut open = self.open.lock().await;
        if let Some(source) = open.get(&description.id) {
            return Ok(source.clone());
        }
        let source: Arc<dyn Source> = Arc::from(self.sources.source(description).await?);
        open.insert(description.id, source.clone());
        Ok(source)
    }

    fn keep_hold(&self, id: MigrationId, hold: Box<dyn Hold>) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(id, hold);
    }
    fn drop_hold(&self, id: MigrationId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// What the source keeps of its log; who cannot tell within a moment does not.
    async fn kept_log(&self, description: &Description) -> Option<String> {
        let asked = async { self.source(description).await?.kept_log(description.id).await };
        match tokio::time::timeout(KEPT_WITHIN, asked).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the source does not say what it keeps");
                None
            }
            Err(_) => None,
        }
    }

    async fn inspect(&self, job: &Job) -> Result<Outcome> {
        // Credentials may have been changed since: open anew.
        self.open.lock().await.remove(&job.description.id);
        let source = self.source(&job.description).await?;
        let (catalog, items) = inspect::select(&job.description.migration, source.catalog().await?)?;
        Ok(Outcome::Inspected { catalog: catalog.into(), items })
    }

    async fn check(&self, job: &Job) -> Result<Outcome> {
        let d = &*job.description;
        let source = self.source(d).await?;
        let catalog =
            d.catalog.as_ref().ok_or_else(|| Error::internal("the source's check came before its catalogue"))?;
        Ok(Outcome::Checked { items: source.check(&d.migration, &d.plans, catalog).await? })
    }

    async fn stream(
        &self,
        job: &Job,
        resume: bool,
        start: Option<&Position>,
        last: Option<&Opening>,
    ) -> Result<Option<Outcome>> {
        let d = &*job.description;
        let source = self.source(d).await?;
        let log = self.logs.log(d).await?;
        log.open(d.bulk_partitions).await?;
        // Whatever this order publishes comes behind it.
        let offset = log.span(Stream::Changes).await?.next;
        let ended = if resume { end_of_log(&*log, last).await? } else { None };
        let mut first = None;
        if resume && d.adopted {
            first = begin_of_log(&*log).await?;
            // The former log is lost: what it alone had is, too, if the source has been told to forget it.
            if ended.is_none()
                && let (Some(wanted), Some(kept)) = (start, source.kept_from(d.id).await?)
                && kept > *wanted
            {
                let opening = Opening { start: kept, epoch: job.lease.epoch, offset };
                job.news.outcome(&Outcome::StreamOpened { opening, snapshot: None, first: None }, &job.cancel).await;
                return Ok(None);
            }
        }
        let end = if resume { ended.or_else(|| start.cloned()) } else { None };
        let spec = StreamSpec {
            migration: d.id,
            name: d.migration.name.clone(),
            tables: Arc::default(),
            schemas: None,
            fresh: !resume,
            epoch: job.lease.epoch,
            resume: end,
            may_set_identity: d.migration.set_identity,
            spill: self.work_dir.join(format!("spill-{}", d.id)),
            batch_bytes: batch_bytes(&d.migration.limits.incremental),
        };
        let publisher = Publisher {
            log: &*log,
            migration: d.id,
            epoch: job.lease.epoch,
            revision: d.revision,
            budget: d.migration.log.budget,
            limits: self.limits.of(d.id),
            followed: &|begin| followed(d, begin),
            register: Arc::new(Told { news: job.news.clone(), cancel: job.cancel.clone() }),
        };
        let (mut opened, schema_version) = tokio::select! {
            () = job.cancel.cancelled() => return Ok(None),
            opened = publisher.open(&*source, spec) => opened?,
        };
        let snapshot = opened.snapshot.as_ref().map(|h| h.snapshot());
        if let Some(hold) = opened.snapshot.take() {
            self.keep_hold(d.id, hold);
        }
        let start = opened.start;
        let opening = Opening { start: start.clone(), epoch: job.lease.epoch, offset };
        if !job.news.outcome(&Outcome::StreamOpened { opening, snapshot, first }, &job.cancel).await {
            self.drop_hold(d.id);
            return Ok(None);
        }
        let news = |n: stream::News| {
            job.news.progress(Progress::Stream {
                migration: d.id,
                published: n.published,
                reaching: n.reaching,
                changes: n.changes,
                bytes: n.bytes,
                commit_micros: n.commit_micros,
                log_bytes: n.log_bytes,
            });
        };
        let ended = publisher.run(&mut *opened.stream, start, schema_version, news, &job.cancel).await;
        self.drop_hold(d.id);
        ended.map(|()| None)
    }

    /// Holds a snapshot, made or joined, until cancelled.
    async fn hold(&self, job: &Job, hold: Box<dyn Hold>, outcome: Outcome) -> Option<Outcome> {
        if job.news.outcome(&outcome, &job.cancel).await {
            // Joined by its own session now: the one that came with the stream can go.
            if matches!(outcome, Outcome::Joined { .. }) {
                self.drop_hold(job.description.id);
            }
            tokio::select! {
                () = job.cancel.cancelled() => {}
                error = hold.lost() => {
                    self.readers.close(job.description.id);
                    return Some(Outcome::SnapshotLost { error });
                }
            }
        }
        self.readers.close(job.description.id);
        None
    }

    async fn plan(
        &self,
        job: &Job,
        table: u32,
        snapshot: &SnapshotRef,
        target: u64,
        keyed: bool,
    ) -> Result<Option<Outcome>> {
        let d = &*job.description;
        let source = self.source(d).await?;
        let mut reader = self.readers.take(d.id, &*source, snapshot).await?;
        let limits = self.limits.of(d.id);
        tokio::select! {
            () = job.cancel.cancelled() => return Ok(None),
            () = limits.full.take(Amount { queries: 1, ..Amount::default() }) => {}
        }
        let chunks = reader.plan(plan_of(d, table)?, target, keyed).await?;
        self.readers.give(d.id, snapshot, reader);
        Ok(Some(Outcome::Planned { chunks }))
    }

    async fn copy(&self, job: &Job) -> Result<Option<Outcome>> {
        let Order::Copy { table, generation, chunk, bounds, snapshot, partition } = &job.order else {
            return Err(Error::internal("not a copy order"));
        };
        let d = &*job.description;
        let source = self.source(d).await?;
        let log = self.logs.log(d).await?;
        log.open(d.bulk_partitions).await?;
        let mut reader = self.readers.take(d.id, &*source, snapshot).await?;
        let attempt = Attempt {
            migration: d.id,
            plan: plan_of(d, *table)?,
            generation: *generation,
            chunk: *chunk,
            lease: job.lease.epoch,
            partition: *partition,
        };
        let limits = self.limits.of(d.id);
        let told = Mutex::new(Instant::now());
        let news = |rows, bytes| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= NEWS {
                *told = Instant::now();
                job.news.progress(Progress::Copy { migration: d.id, table: *table, chunk: *chunk, rows, bytes });
            }
        };
        // A cancelled read leaves its session in the middle of a statement: the session is dropped with it.
        let (extent, physical) = tokio::select! {
            () = job.cancel.cancelled() => return Ok(None),
            copied = copy(&*log, &mut *reader, &attempt, bounds, &limits.full, &self.blocks, &news) => copied?,
        };
        self.readers.give(d.id, snapshot, reader);
        drover_runtime::failpoint("copied-not-reported");
        Ok(Some(Outcome::Copied { extent, physical }))
    }

    async fn fetch(&self, job: &Job, owes: &Owes, snapshot: &SnapshotRef) -> Result<Option<Outcome>> {
        let d = &*job.description;
        let source = self.source(d).await?;
        let log = self.logs.log(d).await?;
        log.open(d.bulk_partitions).await?;
        let mut reader = self.readers.take(d.id, &*source, snapshot).await?;
        let plan = plan_of(d, owes.table)?;
        let limits = self.limits.of(d.id);
        let rows = tokio::select! {
            () = job.cancel.cancelled() => return Ok(None),
            rows = async {
                limits.full.take(Amount { queries: 1, ..Amount::default() }).await;
                fetch(&*log, &mut *reader, d.id, plan, owes, job.lease.epoch).await
            } => rows?,
        };
        self.readers.give(d.id, snapshot, reader);
        Ok(Some(Outcome::Fetched { rows }))
    }

    async fn dispatch(&self, job: &Job) -> Result<Option<Outcome>> {
        let d = &*job.description;
        match &job.order {
            Order::Inspect => self.inspect(job).await.map(Some),
            Order::CheckSource => self.check(job).await.map(Some),
            Order::Stream { resume, start, last } => self.stream(job, *resume, start.as_ref(), last.as_ref()).await,
            Order::Snapshot { .. } => {
                let source = self.source(d).await?;
                let live = d.schemas(None)?.live();
                let hold = if d.migration.has(Stage::Incremental) {
                    let seen = seen_in_log(&*self.logs.log(d).await?).await?;
                    source.snapshot_beside(&live, seen.as_ref()).await?
                } else {
                    source.new_snapshot(&live).await?
                };
                let outcome = Outcome::SnapshotTaken { snapshot: hold.snapshot() };
                Ok(self.hold(job, hold, outcome).await)
            }
            Order::Hold { snapshot, .. } => {
                let hold = self.source(d).await?.join_snapshot(snapshot).await?;
                let outcome = Outcome::Joined { snapshot: hold.snapshot() };
                Ok(self.hold(job, hold, outcome).await)
            }
            Order::Plan { table, snapshot, target_bytes, keyed } => {
                self.plan(job, *table, snapshot, *target_bytes, *keyed).await
            }
            Order::Copy { .. } => self.copy(job).await,
            Order::Fetch { owes, snapshot } => self.fetch(job, owes, snapshot).await,
            Order::Mark => {
                let seen = seen_in_log(&*self.logs.log(d).await?).await?;
                let position = self.source(d).await?.mark_beside(seen.as_ref()).await?;
                drover_runtime::failpoint("marked-not-reported");
                Ok(Some(Outcome::Marked { position }))
            }
            Order::Digest { table, side: drover_proto::order::Side::Source } => {
                let mut rows = self.source(d).await?.rows().await?;
                let plan = &latest_plan(d, *table)?;
                // A cancelled reading goes with its session.
                let summary = tokio::select! {
                    () = job.cancel.cancelled() => return Ok(None),
                    summary = drover_validate::summary(&mut *rows, plan, Side::Source) => summary?,
                };
                Ok(Some(Outcome::Digested { rows: summary.rows, sum: summary.sum }))
            }
            Order::ReadSequences => Ok(Some(Outcome::Sequences { values: self.source(d).await?.sequences().await? })),
            Order::CleanSource => {
                self.readers.close(d.id);
                self.drop_hold(d.id);
                Ok(Some(Outcome::Done { what: self.source(d).await?.cleanup(d.id).await? }))
            }
            other => Err(Error::internal(format!("{other:?} is no order for an extractor"))),
        }
    }
}

/// What the stream knows of schemas where it begins; a fresh stream begins with what was planned.
fn followed(d: &Description, begin: Option<&Position>) -> Result<Followed> {
    let schemas = match begin {
        Some(begin) => d.schemas(Some(begin))?,
        None => Description { schema_changes: Vec::new(), ..d.clone() }.schemas(None)?,
    };
    let selection = Selection::compile_within(&d.migration.objects, schemas.catalog.scope.as_deref())
        .map_err(|errors| Error::internal(format!("the selection does not compile any more: {errors:?}")))?
        .reading(d.migration.floats);
    Ok(Followed { schemas, selection, policy: d.migration.schema_changes })
}

/// Tells the coordinator of schema changes.
struct Told {
    news: News,
    cancel: CancellationToken,
}

#[async_trait]
impl Register for Told {
    async fn schema_changed(&self, position: &Position, change: &SchemaChange) -> bool {
        let outcome = Outcome::SchemaChanged { position: position.clone(), change: Box::new(change.clone()) };
        self.news.outcome(&outcome, &self.cancel).await
    }
}

/// The plan of a table as it is now, for comparisons.
fn latest_plan(description: &Description, table: u32) -> Result<TablePlan> {
    let plans = description.schemas(None)?.plans;
    let plan = plans.iter().find(|p| p.id == table && !p.is_gone());
    plan.cloned().ok_or_else(|| Error::internal(format!("there is no table {table} any more")))
}

fn plan_of(description: &Description, table: u32) -> Result<&TablePlan> {
    let plan = description.plans.get(table as usize).filter(|p| p.id == table);
    plan.ok_or_else(|| Error::internal(format!("there is no plan for table {table}")))
}

#[async_trait]
impl Handler for Extractor {
    async fn execute(&self, job: Job) -> Option<Outcome> {
        // Long orders watch the token themselves, at points from which they can be resumed.
        match self.dispatch(&job).await {
            Ok(outcome) => outcome,
            Err(_) if job.cancel.is_cancelled() => None,
            Err(error) if error.code == codes::SNAPSHOT_LOST => {
                self.readers.close(job.description.id);
                Some(Outcome::SnapshotLost { error })
            }
            Err(error) => {
                if error.code == codes::PERMISSION {
                    // Its password may have been changed: the next try reads it again.
                    self.open.lock().await.remove(&job.description.id);
                }
                let mut error = job.description.migration.with_account(error);
                if matches!(job.order, Order::Stream { .. }) && error.fault == Fault::Log && error.retry != Retry::Never
                {
                    // It may take long: what grows meanwhile is the source's log.
                    if let Some(kept) = self.kept_log(&job.description).await {
                        error.message = format!("{}; meanwhile {kept}", error.message);
                    }
                }
                Some(Outcome::Failed { error })
            }
        }
    }

    fn limits(&self, shares: &[Share]) {
        self.limits.set(shares);
    }

    fn tick(&self) {
        self.readers.sweep();
    }
}
