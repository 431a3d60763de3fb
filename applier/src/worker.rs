//! The applier: what its orders mean. Connections are made on first use and shared by the orders of a migration.

use crate::apply::{self, Options as ApplyOptions};
use crate::load::{self, Chunk};
use crate::orders::{Handler, News, Worker};
use crate::survey::{existing_allowed, survey};
use async_trait::async_trait;
use drover_connectors_api::{Destination, Loader, SchemaStep};
use drover_log::{Log, Stream};
use drover_model::{Error, MigrationId, Result, TablePlan};
use drover_proto::control::Control;
use drover_proto::order::{Description, Order, Outcome, Step};
use drover_proto::v1;
use drover_runtime::CancellationToken;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Finds the log of a migration.
#[async_trait]
pub trait LogFactory: Send + Sync {
    async fn log(&self, description: &Description) -> Result<Arc<dyn Log>>;
}

/// Opens destinations: looks the connector up by kind and resolves the secrets.
#[async_trait]
pub trait Connect: Send + Sync {
    async fn destination(&self, description: &Description) -> Result<Arc<dyn Destination>>;
}

/// What a worker is made of.
pub struct Options {
    pub control: Arc<dyn Control>,
    /// For people.
    pub name: String,
    /// Orders side by side.
    pub slots: u32,
    pub connect: Arc<dyn Connect>,
    pub logs: Arc<dyn LogFactory>,
    pub apply: ApplyOptions,
}

/// Works as an applier until `shutdown`.
///
/// # Errors
/// None so far: what goes wrong with an order is its outcome.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    let applier = Applier {
        connect: options.connect,
        logs: options.logs,
        apply: options.apply,
        open: Mutex::new(HashMap::new()),
    };
    let worker = Worker {
        control: options.control,
        handler: Arc::new(applier),
        name: options.name,
        role: v1::Role::Applier,
        slots: options.slots,
    };
    worker.run(shutdown).await
}

/// What is open for a migration.
struct Room {
    destination: Arc<dyn Destination>,
    log: Arc<dyn Log>,
    /// Sessions between two chunks.
    loaders: Mutex<Vec<Box<dyn Loader>>>,
}

/// Carries an applier's orders out.
struct Applier {
    connect: Arc<dyn Connect>,
    logs: Arc<dyn LogFactory>,
    apply: ApplyOptions,
    open: Mutex<HashMap<MigrationId, Arc<Room>>>,
}

#[async_trait]
impl Handler for Applier {
    async fn execute(
        &self,
        _lease: &v1::Lease,
        order: Order,
        description: Arc<Description>,
        news: News,
        cancel: CancellationToken,
    ) -> Outcome {
        let id = description.id;
        let applies = matches!(order, Order::Apply { .. });
        let work = self.carry_out(order, description, news, cancel.clone());
        // Applying ends by itself, in order; everything else may be broken off anywhere.
        let result = tokio::select! {
            result = work => result,
            () = cancel.cancelled(), if !applies => Ok(Outcome::Done { what: Vec::new() }),
        };
        result.unwrap_or_else(|error| {
            tracing::debug!(%error, migration = %id, "an order failed");
            Outcome::Failed { error }
        })
    }
}

impl Applier {
    async fn room(&self, description: &Description) -> Result<Arc<Room>> {
        let mut open = self.open.lock().await;
        if let Some(room) = open.get(&description.id) {
            return Ok(room.clone());
        }
        let destination = self.connect.destination(description).await?;
        let log = self.logs.log(description).await?;
        log.open(description.bulk_partitions).await?;
        let room = Arc::new(Room { destination, log, loaders: Mutex::new(Vec::new()) });
        open.insert(description.id, room.clone());
        Ok(room)
    }

    async fn carry_out(
        &self,
        order: Order,
        description: Arc<Description>,
        news: News,
        cancel: CancellationToken,
    ) -> Result<Outcome> {
        let id = description.id;
        match order {
            Order::Survey => survey(&*self.connect.destination(&description).await?, &description).await,
            Order::Schema { step } => {
                let destination = self.connect.destination(&description).await?;
                let step = match step {
                    Step::Base => SchemaStep::Base,
                    Step::Table { id } => SchemaStep::Table { id },
                    Step::Final => SchemaStep::Final,
                };
                let catalog =
                    description.catalog.as_ref().ok_or_else(|| Error::internal("a schema step without a catalogue"))?;
                let (plans, objects) = (&description.plans, &description.objects);
                let allowed = existing_allowed(&description);
                let what = destination.schema(id, &step, catalog, plans, objects, allowed).await?;
                Ok(Outcome::Done { what })
            }
            Order::Restart { table, generation } => {
                let plan = plan(&description, table)?;
                self.room(&description).await?.destination.restart_table(id, plan, generation).await?;
                Ok(Outcome::Done { what: vec![plan.destination.to_string()] })
            }
            Order::Load { table, generation, chunk, extent, trim } => {
                let room = self.room(&description).await?;
                let plan = plan(&description, table)?;
                let free = room.loaders.lock().await.pop();
                let mut loader = match free {
                    Some(loader) => loader,
                    None => room.destination.loader(id).await?,
                };
                let job = Chunk { migration: id, generation, chunk, extent };
                // After an error the session is not used again.
                let outcome = load::load(room.log.clone(), &mut *loader, plan, &job, &news).await?;
                room.loaders.lock().await.push(loader);
                if trim > 0 {
                    room.log.trim(Stream::Bulk(extent.partition), trim).await?;
                }
                Ok(outcome)
            }
            Order::Apply { start, windows, owed_snapshot: _ } => {
                let room = self.room(&description).await?;
                let task = apply::Task {
                    destination: room.destination.clone(),
                    log: room.log.clone(),
                    description,
                    start,
                    windows,
                    options: self.apply.clone(),
                    news,
                };
                apply::apply(task, cancel).await?;
                Ok(Outcome::Done { what: Vec::new() })
            }
            Order::SetSequences { values } => {
                self.connect.destination(&description).await?.set_sequences(&values).await?;
                Ok(Outcome::Done { what: values.into_iter().map(|(s, n, _, _)| format!("{s}.{n}")).collect() })
            }
            Order::CleanDestination => {
                self.open.lock().await.remove(&id);
                let destination = self.connect.destination(&description).await?;
                Ok(Outcome::Done { what: destination.cleanup(Some(id), &description.migration.name).await? })
            }
            other => Err(Error::internal(format!("an applier was given an extractor's order: {other:?}"))),
        }
    }
}

fn plan(description: &Description, table: u32) -> Result<&TablePlan> {
    let plan = description.plans.iter().find(|p| p.id == table);
    plan.ok_or_else(|| Error::internal(format!("an order names table {table}, which has no plan")))
}
