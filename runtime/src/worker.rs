//! The loop in which a worker, of either role, gets orders from the coordinator and carries them out.
//!
//! Leases are renewed by every poll; the work goes on while the coordinator is away, because the destination, not the lease, says who
//! may commit. An outcome is reported until the coordinator has stored it or says that the lease is stale. A lost poll reply
//! costs nothing: the coordinator hands out again what it leased to this worker and what the worker does not name as running.

use crate::task::{self, Owned};
use async_trait::async_trait;
use bytes::Bytes;
use drover_model::error::codes;
use drover_model::{Result, Retry};
use drover_proto::control::{Control, unreadable};
use drover_proto::order::{Description, Order, Outcome, Progress, Share};
use drover_proto::v1;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One order to carry out.
pub struct Job {
    pub lease: v1::Lease,
    pub order: Order,
    pub description: Arc<Description>,
    pub news: News,
    /// Stop soon: the lease was lost, the migration was paused, or the process ends.
    pub cancel: CancellationToken,
}

/// How a handler tells of a job under way.
#[derive(Clone)]
pub struct News {
    control: Arc<dyn Control>,
    worker: String,
    lease: v1::Lease,
    progress: Arc<Mutex<HashMap<String, Progress>>>,
}

impl News {
    /// Stores an intermediate outcome with the coordinator; returns when it is stored. `false`: the lease is stale, stop.
    pub async fn outcome(&self, outcome: &Outcome, cancel: &CancellationToken) -> bool {
        report(&*self.control, &self.worker, &self.lease, outcome, cancel).await
    }
    /// Numbers for people; sent along with the next poll, the newest only.
    pub fn progress(&self, progress: Progress) {
        let key = format!("{}/{}", self.lease.migration, self.lease.order);
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).insert(key, progress);
    }
}

/// Carries orders out.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Returns the outcome that ends the order, or `None` if it was cancelled. Failures are an [`Outcome::Failed`].
    async fn execute(&self, job: Job) -> Option<Outcome>;
    /// This worker's shares of limits as they are now; a migration that is not named is unlimited. Called with every answer of the
    /// coordinator, before the orders that it brings are started.
    fn limits(&self, _shares: &[Share]) {}
    /// Called every second or so, for chores.
    fn tick(&self) {}
}

/// A worker's place in the cluster.
#[derive(Clone)]
pub struct Options {
    pub control: Arc<dyn Control>,
    pub role: v1::Role,
    /// For people; the process adds what makes it unique.
    pub name: String,
    /// Short orders carried out at once; long ones (streams, holds, applying) do not count.
    pub slots: u32,
    /// Where the worker tells how it is.
    pub vitals: Arc<Vitals>,
}

/// How a worker is: for its `/readyz` and `/metrics`.
#[derive(Debug, Default)]
pub struct Vitals {
    answered: Mutex<Option<tokio::time::Instant>>,
    running: AtomicUsize,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Vitals {
    /// How long ago the coordinator last answered; `None` before the first time.
    pub fn silent(&self) -> Option<Duration> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
    /// Orders under way.
    pub fn running(&self) -> usize {
        self.running.load(Relaxed)
    }
    /// Orders that were carried out since the process began.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }
    /// Orders that failed since the process began.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }
    fn answer(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::time::Instant::now());
    }
}

struct Running {
    epoch: u64,
    cancel: CancellationToken,
    long: bool,
    task: Owned<()>,
}

type Key = (String, String);

/// How long jobs may take to stop after a shutdown was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Between polls that bring nothing new.
const IDLE: Duration = Duration::from_millis(20);

fn is_long(order: &Order) -> bool {
    matches!(order, Order::Stream { .. } | Order::Snapshot { .. } | Order::Hold { .. } | Order::Apply { .. })
}

async fn report(
    control: &dyn Control,
    worker: &str,
    lease: &v1::Lease,
    outcome: &Outcome,
    cancel: &CancellationToken,
) -> bool {
    loop {
        match control.outcome(worker, lease, outcome).await {
            Ok(accepted) => return accepted,
            // It has no form to be written in: another try would not help.
            Err(error) if error.code == codes::INTERNAL && error.retry == Retry::Never => {
                tracing::error!(%error, order = lease.order, "an outcome cannot be reported");
                return false;
            }
            Err(error) => tracing::warn!(%error, order = lease.order, "cannot report to the coordinator, trying again"),
        }
        tokio::select! {
            () = cancel.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Works until `shutdown`, then stops all jobs, gives the leases back and returns.
pub async fn run(options: Options, handler: Arc<dyn Handler>, shutdown: CancellationToken) -> Result<()> {
    let worker = format!("{}-{}", options.name, uuid::Uuid::new_v4());
    let mut looped = Loop {
        worker,
        handler,
        running: HashMap::new(),
        descriptions: HashMap::new(),
        progress: Arc::default(),
        polls: 0,
        options,
    };
    let (ended, mut ends) = mpsc::unbounded_channel::<(Key, u64)>();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while !shutdown.is_cancelled() {
        while let Ok((key, epoch)) = ends.try_recv() {
            looped.forget(&key, epoch);
        }
        let request = looped.request(false);
        tokio::select! {
            () = shutdown.cancelled() => break,
            // Something ended: ask again at once, with more free slots.
            Some((key, epoch)) = ends.recv() => looped.forget(&key, epoch),
            _ = ticks.tick() => looped.handler.tick(),
            reply = looped.options.control.poll(request) => match reply {
                // A reply that brings nothing new comes at once when jobs take a moment to stop: they need the thread.
                Ok(reply) => if !looped.take(reply, &ended).await {
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        Some((key, epoch)) = ends.recv() => looped.forget(&key, epoch),
                        () = tokio::time::sleep(IDLE) => {}
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "the coordinator does not answer; work goes on, trying again");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(Duration::from_millis(500)) => {}
                    }
                }
            },
        }
    }
    looped.stop().await;
    Ok(())
}

struct Loop {
    options: Options,
    worker: String,
    handler: Arc<dyn Handler>,
    running: HashMap<Key, Running>,
    descriptions: HashMap<String, Arc<Description>>,
    progress: Arc<Mutex<HashMap<String, Progress>>>,
    polls: u64,
}

impl Loop {
    fn request(&mut self, leaving: bool) -> v1::PollRequest {
        self.polls += 1;
        let short = self.running.values().filter(|r| !r.long).count() as u32;
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        v1::PollRequest {
            worker: self.worker.clone(),
            name: self.options.name.clone(),
            role: self.options.role.into(),
            free: if leaving { 0 } else { self.options.slots.saturating_sub(short) },
            running: self
                .running
                .iter()
                .map(|((migration, order), r)| v1::Lease {
                    migration: migration.clone(),
                    order: order.clone(),
                    epoch: r.epoch,
                })
                .collect(),
            leaving,
            number: self.polls,
            progress: progress.values().filter_map(|p| serde_json::to_vec(p).ok()).map(Bytes::from).collect(),
        }
    }

    fn forget(&mut self, key: &Key, epoch: u64) {
        if self.running.get(key).is_some_and(|r| r.epoch == epoch) {
            self.running.remove(key);
            self.options.vitals.running.store(self.running.len(), Relaxed);
            let name = format!("{}/{}", key.0, key.1);
            self.progress.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        }
    }

    /// Carries a reply out; `false` if there was nothing new in it.
    async fn take(&mut self, reply: v1::PollReply, ended: &mpsc::UnboundedSender<(Key, u64)>) -> bool {
        let mut new = false;
        self.options.vitals.answer();
        // Shares that cannot be read leave a worker of another version unlimited rather than stuck.
        let shares: Vec<Share> = reply.shares.iter().filter_map(|s| serde_json::from_slice(s).ok()).collect();
        self.handler.limits(&shares);
        for lease in reply.stop {
            let key = (lease.migration, lease.order);
            let held = self.running.get(&key).filter(|r| r.epoch <= lease.epoch && !r.cancel.is_cancelled());
            if let Some(running) = held {
                tracing::debug!(order = key.1, "told to stop");
                running.cancel.cancel();
                new = true;
            }
        }
        for leased in reply.start {
            let Some(lease) = leased.lease else { continue };
            let key = (lease.migration.clone(), lease.order.clone());
            match self.running.get(&key) {
                Some(running) if running.epoch == lease.epoch => continue,
                // An older lease of the same order is void: stop that work before doing it anew.
                Some(_) => drop(self.running.remove(&key)),
                None => {}
            }
            match self.start(lease.clone(), &leased.body, leased.revision, ended).await {
                Ok(running) => {
                    self.running.insert(key, running);
                    self.options.vitals.running.store(self.running.len(), Relaxed);
                    new = true;
                }
                // The lease runs on; the coordinator will hand it out again with the next poll.
                Err(error) => tracing::warn!(%error, order = lease.order, "cannot start an order"),
            }
        }
        new
    }

    async fn start(
        &mut self,
        lease: v1::Lease,
        body: &[u8],
        revision: u64,
        ended: &mpsc::UnboundedSender<(Key, u64)>,
    ) -> Result<Running> {
        let order: Order = serde_json::from_slice(body).map_err(|e| unreadable("an order", e))?;
        let description = self.describe(&lease.migration, revision).await?;
        let cancel = CancellationToken::new();
        let news = News {
            control: self.options.control.clone(),
            worker: self.worker.clone(),
            lease: lease.clone(),
            progress: self.progress.clone(),
        };
        let long = is_long(&order);
        let epoch = lease.epoch;
        tracing::debug!(order = lease.order, epoch, "begins");
        let job = Job { lease: lease.clone(), order, description, news, cancel: cancel.clone() };
        let (handler, ended, worker) = (self.handler.clone(), ended.clone(), self.worker.clone());
        let (control, stop, vitals) = (self.options.control.clone(), cancel.clone(), self.options.vitals.clone());
        let task = task::spawn("order", async move {
            if let Some(outcome) = handler.execute(job).await {
                tracing::debug!(order = lease.order, ?outcome, "ends");
                let ended = if matches!(outcome, Outcome::Failed { .. }) { &vitals.failed } else { &vitals.done };
                ended.fetch_add(1, Relaxed);
                report(&*control, &worker, &lease, &outcome, &stop).await;
            }
            // The loop outlives its jobs; when it is gone nobody needs to know.
            let _ = ended.send(((lease.migration, lease.order), epoch));
        });
        Ok(Running { epoch, cancel, long, task })
    }

    async fn describe(&mut self, migration: &str, revision: u64) -> Result<Arc<Description>> {
        if let Some(known) = self.descriptions.get(migration).filter(|d| d.revision >= revision) {
            return Ok(known.clone());
        }
        // The one before goes first, unless orders hold it still: they are large where there are many tables.
        self.descriptions.remove(migration);
        let description = self.options.control.describe(migration.to_owned()).await?;
        self.descriptions.insert(migration.to_owned(), description.clone());
        Ok(description)
    }

    async fn stop(&mut self) {
        for running in self.running.values() {
            running.cancel.cancel();
        }
        let deadline = tokio::time::Instant::now() + GRACE;
        for ((_, order), running) in &mut self.running {
            if tokio::time::timeout_at(deadline, running.task.join()).await.is_err() {
                tracing::warn!(order, "did not stop in time and is aborted");
            }
        }
        self.running.clear();
        let request = self.request(true);
        let left = self.options.control.poll(request);
        if !matches!(tokio::time::timeout(Duration::from_secs(2), left).await, Ok(Ok(_))) {
            tracing::debug!("could not take leave of the coordinator; the leases will run out");
        }
    }
}
