//! The applier as a handler of work orders.

use crate::apply;
use crate::load::{Chunk, Loaded, load};
use crate::owed::Creditor;
use crate::survey::survey;
use crate::trim::Trimmer;
use async_trait::async_trait;
use drover_connectors_api::{Destination, Loader, SchemaStep, Side};
use drover_log::{Log, LogFactory};
use drover_model::check::CheckItem;
use drover_model::doubt::Replaced;
use drover_model::error::codes;
use drover_model::migration::{Migration, OnConflict, Stage};
use drover_model::plan::Misfit;
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_proto::order::{Description, Held, Order, Outcome, Owes, Progress, Step};
use drover_runtime::worker::{Handler, Job, News};
use drover_runtime::{CancellationToken, task};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Opens the destination of a migration; the one place that knows connectors and secrets is outside.
#[async_trait]
pub trait DestinationFactory: Send + Sync {
    async fn destination(&self, description: &Description) -> Result<Box<dyn Destination>>;
}

/// Numbers about a load are told this often.
const NEWS: Duration = Duration::from_millis(200);

/// What policies changed is counted at the destination, and asked for this often.
const COUNTS: Duration = Duration::from_secs(5);

/// Loading sessions are closed when idle for so long.
const IDLE: Duration = Duration::from_secs(10);

type Idle = Vec<(Instant, Box<dyn Loader>)>;

/// The applier role.
pub struct Applier {
    destinations: Arc<dyn DestinationFactory>,
    logs: Arc<dyn LogFactory>,
    open: tokio::sync::Mutex<HashMap<MigrationId, Arc<dyn Destination>>>,
    prepared: tokio::sync::Mutex<HashSet<MigrationId>>,
    loaders: Mutex<HashMap<MigrationId, Idle>>,
    trimmers: Mutex<HashMap<MigrationId, Trimmer>>,
    options: apply::Options,
}

impl Applier {
    pub fn new(destinations: Arc<dyn DestinationFactory>, logs: Arc<dyn LogFactory>) -> Self {
        Applier {
            destinations,
            logs,
            open: tokio::sync::Mutex::default(),
            prepared: tokio::sync::Mutex::default(),
            loaders: Mutex::default(),
            trimmers: Mutex::default(),
            options: apply::Options::default(),
        }
    }

    /// Applies changes by other numbers than the usual ones.
    pub fn applying(self, options: apply::Options) -> Self {
        Applier { options, ..self }
    }

    async fn destination(&self, description: &Description) -> Result<Arc<dyn Destination>> {
        let mut open = self.open.lock().await;
        if let Some(destination) = open.get(&description.id) {
            return Ok(destination.clone());
        }
        let destination: Arc<dyn Destination> = Arc::from(self.destinations.destination(description).await?);
        open.insert(description.id, destination.clone());
        Ok(destination)
    }

    /// The destination with drover's own tables in it: what is written from here on has a place for its marks.
    async fn prepared(&self, description: &Description) -> Result<Arc<dyn Destination>> {
        let destination = self.destination(description).await?;
        let mut prepared = self.prepared.lock().await;
        if !prepared.contains(&description.id) {
            destination.prepare(description.id, &description.migration.name).await?;
            prepared.insert(description.id);
        }
        Ok(destination)
    }

    async fn log(&self, description: &Description) -> Result<Arc<dyn Log>> {
        let log = self.logs.log(description).await?;
        log.open(description.bulk_partitions).await?;
        Ok(log)
    }

    async fn survey(&self, job: &Job) -> Result<Outcome> {
        let d = &*job.description;
        // Credentials may have been changed since: open anew.
        self.open.lock().await.remove(&d.id);
        let destination = self.destination(d).await?;
        let catalog = d.catalog.as_ref().ok_or_else(|| Error::internal("the survey came before the catalogue"))?;
        let mut found = survey(&*destination, &accepting(d), catalog).await?;
        let known = destination.progress(&d.migration.name).await?;
        if let Some(other) = known.as_ref().filter(|p| p.migration != d.id) {
            let text = format!("the destination knows {} as another migration ({})", d.migration.name, other.migration);
            return Err(Error::new(codes::STATE_LOST, Fault::User, Retry::Never, text)
                .remedy("go on with the state that it began with, or begin anew after `drover cleanup`"));
        }
        let mut held = None;
        if d.adopted {
            found.items.retain(|i| i.item != "K11");
            found.items.push(CheckItem::passed("K11", "destination"));
            let consistent = destination.consistent_from(d.id).await?;
            held = Some(Held { position: known.and_then(|p| p.position), consistent });
        }
        Ok(Outcome::Surveyed { plans: found.plans.into(), objects: found.objects.into(), items: found.items, held })
    }

    async fn schema(&self, job: &Job, step: Step) -> Result<Outcome> {
        let d = &*job.description;
        let destination = self.prepared(d).await?;
        let catalog = d.catalog.as_ref().ok_or_else(|| Error::internal("a schema step came before the catalogue"))?;
        let step = match step {
            Step::Base => SchemaStep::Base,
            Step::Table { id } => SchemaStep::Table { id },
            Step::Final => SchemaStep::Final,
            Step::Cutover => SchemaStep::Cutover,
        };
        let allowed = accepting(d).on_conflict == OnConflict::Ignore;
        if step == SchemaStep::Cutover {
            // From here on the application writes here: an applier that stood still meanwhile commits nothing any more when it comes back.
            destination.take_over(d.id).await?;
            if !d.migration.has(Stage::Schema) {
                return Ok(Outcome::Done { what: Vec::new() });
            }
            let now = crate::evolve::latest(&*destination, d)?;
            let what = destination.schema(d.id, &step, &now.catalog, &now.live(), &d.objects, allowed).await?;
            return Ok(Outcome::Done { what });
        }
        let mut what = destination.schema(d.id, &step, catalog, &d.plans, &d.objects, allowed).await?;
        if step == SchemaStep::Final && !d.migration.has(Stage::Incremental) {
            // Nothing will be applied: what waits for the switch need not wait.
            let last = SchemaStep::Cutover;
            what.extend(destination.schema(d.id, &last, catalog, &d.plans, &d.objects, allowed).await?);
        }
        Ok(Outcome::Done { what })
    }

    async fn load(&self, job: &Job) -> Result<Option<Outcome>> {
        let Order::Load { table, generation, chunk, extent, trim } = &job.order else {
            return Err(Error::internal("not a load order"));
        };
        let d = &*job.description;
        let destination = self.prepared(d).await?;
        let log = self.log(d).await?;
        let idle = self.with_loaders(|l| l.get_mut(&d.id).and_then(Vec::pop));
        let mut loader = match idle {
            Some((_, loader)) => loader,
            None => destination.loader(d.id).await?,
        };
        let what = Chunk {
            migration: d.id,
            plan: plan_of(d, *table)?,
            generation: *generation,
            chunk: *chunk,
            extent: *extent,
        };
        let told = Mutex::new(Instant::now());
        let news = |rows, bytes| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.elapsed() >= NEWS {
                *told = Instant::now();
                job.news.progress(Progress::Load { migration: d.id, table: *table, chunk: *chunk, rows, bytes });
            }
        };
        // A cancelled load leaves its session in the middle of a transaction: the session is dropped, the server rolls back.
        let loaded = tokio::select! {
            () = job.cancel.cancelled() => return Ok(None),
            loaded = load(&*log, &mut *loader, &what, &news) => loaded?,
        };
        self.with_loaders(|l| l.entry(d.id).or_default().push((Instant::now(), loader)));
        Ok(Some(match loaded {
            Loaded::Rows(rows) => {
                if *trim > 0 {
                    let mut trimmers = self.trimmers.lock().unwrap_or_else(PoisonError::into_inner);
                    trimmers.entry(d.id).or_insert_with(|| Trimmer::new(log)).trim(extent.partition, *trim)?;
                }
                Outcome::Loaded { rows }
            }
            Loaded::Lost => Outcome::BulkLost,
        }))
    }

    /// Ends by cancellation (then there is no outcome: the order goes on elsewhere or later) or by an error.
    async fn apply(&self, job: &Job) -> Result<Option<Outcome>> {
        let Order::Apply { start, windows } = &job.order else {
            return Err(Error::internal("not an apply order"));
        };
        let d = &job.description;
        let news = job.news.clone();
        let destination = self.prepared(d).await?;
        let replaced: Arc<Mutex<Vec<Replaced>>> = Arc::default();
        // Ends with this order.
        let _counts = d.plans.iter().any(changes_values).then(|| {
            let (counts, destination, id) = (replaced.clone(), destination.clone(), d.id);
            task::spawn("replaced values", async move {
                loop {
                    // Numbers for people: whatever stands in the way is the order's own matter.
                    if let Ok(now) = destination.replaced(id).await {
                        *counts.lock().unwrap_or_else(PoisonError::into_inner) = now;
                    }
                    tokio::time::sleep(COUNTS).await;
                }
            })
        });
        let tell = move |mut progress| {
            if let Progress::Apply { replaced: to, .. } = &mut progress {
                to.clone_from(&replaced.lock().unwrap_or_else(PoisonError::into_inner));
            }
            news.progress(progress);
        };
        let task = apply::Task {
            description: d.clone(),
            destination,
            log: self.log(d).await?,
            start: start.clone(),
            windows: windows.clone(),
            options: self.options.clone(),
            tell: Arc::new(tell),
            lease: job.lease.epoch,
            creditor: Arc::new(Told { news: job.news.clone(), cancel: job.cancel.clone() }),
        };
        apply::apply(task, job.cancel.clone()).await.map(|()| None)
    }

    fn with_loaders<T>(&self, f: impl FnOnce(&mut HashMap<MigrationId, Idle>) -> T) -> T {
        f(&mut self.loaders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn dispatch(&self, job: &Job) -> Result<Option<Outcome>> {
        let d = &*job.description;
        let done = |what| Ok(Some(Outcome::Done { what }));
        match &job.order {
            Order::Survey => self.survey(job).await.map(Some),
            Order::Schema { step } => self.schema(job, *step).await.map(Some),
            Order::Load { .. } => self.load(job).await,
            Order::Apply { .. } => self.apply(job).await,
            Order::Forget => {
                let generation = self.prepared(d).await?.forget_position(d.id).await?;
                Ok(Some(Outcome::Forgotten { generation }))
            }
            Order::Restart { table, generation } => {
                self.prepared(d).await?.restart_table(d.id, plan_of(d, *table)?, *generation).await?;
                done(Vec::new())
            }
            Order::SetSequences { values } => {
                let destination = self.destination(d).await?;
                let now = crate::evolve::latest(&*destination, d)?;
                let mapped = destination.map_sequences(&now.catalog, &now.live(), &d.objects, values)?;
                let (names, values): (Vec<_>, Vec<_>) = mapped.into_iter().unzip();
                destination.set_sequences(&values).await?;
                drover_runtime::failpoint("sequences-set-not-reported");
                done(names)
            }
            Order::Digest { table, side: drover_proto::order::Side::Destination } => {
                let destination = self.destination(d).await?;
                let mut rows = destination.rows().await?;
                let plan = &crate::evolve::latest_plan(&*destination, d, *table)?;
                // A cancelled reading goes with its session.
                let summary = tokio::select! {
                    () = job.cancel.cancelled() => return Ok(None),
                    summary = drover_validate::summary(&mut *rows, plan, Side::Destination) => summary?,
                };
                drover_runtime::failpoint("digested-not-reported");
                Ok(Some(Outcome::Digested { rows: summary.rows, sum: summary.sum }))
            }
            Order::CleanDestination => {
                self.with_loaders(|l| l.remove(&d.id));
                self.trimmers.lock().unwrap_or_else(PoisonError::into_inner).remove(&d.id);
                self.prepared.lock().await.remove(&d.id);
                let what = self.destination(d).await?.cleanup(Some(d.id), &d.migration.name).await?;
                self.logs.log(d).await?.remove().await?;
                done(what)
            }
            other => Err(Error::internal(format!("{other:?} is no order for an applier"))),
        }
    }
}

/// The migration as far as existing tables go: those of an adopted one were made by it.
fn accepting(d: &Description) -> std::borrow::Cow<'_, Migration> {
    if !d.adopted {
        return std::borrow::Cow::Borrowed(&d.migration);
    }
    std::borrow::Cow::Owned(Migration { on_conflict: OnConflict::Ignore, ..d.migration.clone() })
}

/// Tells the coordinator what a running apply order owes.
struct Told {
    news: News,
    cancel: CancellationToken,
}

#[async_trait]
impl Creditor for Told {
    async fn owes(&self, owes: Owes) -> bool {
        self.news.outcome(&Outcome::Owes { owes }, &self.cancel).await
    }
}

/// Whether a policy of a table may change values.
fn changes_values(plan: &TablePlan) -> bool {
    plan.columns.iter().any(|c| matches!(c.misfit, Misfit::Null | Misfit::Clamp))
}

fn plan_of(description: &Description, table: u32) -> Result<&TablePlan> {
    let plan = description.plans.get(table as usize).filter(|p| p.id == table);
    plan.ok_or_else(|| Error::internal(format!("there is no plan for table {table}")))
}

#[async_trait]
impl Handler for Applier {
    async fn execute(&self, job: Job) -> Option<Outcome> {
        match self.dispatch(&job).await {
            Ok(outcome) => outcome,
            Err(_) if job.cancel.is_cancelled() => None,
            Err(error) => {
                if error.code == codes::PERMISSION {
                    // Its password may have been changed: the next try reads it again.
                    self.open.lock().await.remove(&job.description.id);
                }
                Some(Outcome::Failed { error: job.description.migration.with_account(error) })
            }
        }
    }

    fn tick(&self) {
        self.with_loaders(|loaders| {
            loaders.retain(|_, idle| {
                idle.retain(|(since, _)| since.elapsed() < IDLE);
                !idle.is_empty()
            });
        });
    }
}
