//! The loop of a worker: takes orders from the coordinator, keeps their leases, carries them out side by side, reports. The same for every
//! role: what an order means is the [`Handler`]'s matter.
//!
//! Guarantees: an outcome is reported until the coordinator has taken or refused it, and the lease is kept meanwhile; an order of which the
//! lease is lost is cancelled at once and its outcome is not reported. While the coordinator cannot be reached, running orders go
//! on: a lease is advice, the databases' own fences (epochs, marks) say who may write.

use async_trait::async_trait;
use drover_model::{Error, Fault, Result, Retry, error::codes};
use drover_proto::control::Control;
use drover_proto::order::{Description, Order, Outcome, Progress};
use drover_proto::v1;
use drover_runtime::{CancellationToken, task};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Carries orders out.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Carries one order out and says what came of it. `news` takes what a long order has to tell meanwhile. When `cancel` fires it ends soon, in
    /// a state from which the order can be carried out again; what it returns then is not looked at.
    async fn execute(
        &self,
        lease: &v1::Lease,
        order: Order,
        description: Arc<Description>,
        news: News,
        cancel: CancellationToken,
    ) -> Outcome;
}

/// What a running order tells.
#[derive(Clone)]
pub struct News {
    latest: Arc<Mutex<Option<Progress>>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl News {
    /// News, and where they come out: the latest progress and the intermediate outcomes in order.
    pub fn new() -> (News, Arc<Mutex<Option<Progress>>>, mpsc::UnboundedReceiver<Outcome>) {
        let (outcomes, receiver) = mpsc::unbounded_channel();
        let latest = Arc::new(Mutex::new(None));
        (News { latest: latest.clone(), outcomes }, latest, receiver)
    }
    /// Tells how far the order is; only the latest is sent, with the next poll.
    pub fn progress(&self, progress: Progress) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }
    /// Reports an outcome that does not end the order. In order, before the final one.
    pub fn outcome(&self, outcome: Outcome) {
        // Nobody listens any more when the lease is lost.
        let _ = self.outcomes.send(outcome);
    }
}

/// A worker.
pub struct Worker {
    pub control: Arc<dyn Control>,
    pub handler: Arc<dyn Handler>,
    /// For people.
    pub name: String,
    pub role: v1::Role,
    /// Orders side by side.
    pub slots: u32,
}

/// Pause after a poll that brought nothing (the coordinator waits by itself, so this only bounds a coordinator that does not).
const PAUSE: Duration = Duration::from_millis(50);
const RENEW: Duration = Duration::from_millis(1000);
const RETRY: Duration = Duration::from_millis(500);

type Key = (String, String, u64);

struct Running {
    lease: v1::Lease,
    cancel: CancellationToken,
    latest: Arc<Mutex<Option<Progress>>>,
    _task: task::Owned<()>,
}

fn key(lease: &v1::Lease) -> Key {
    (lease.migration.clone(), lease.order.clone(), lease.epoch)
}

struct Shared {
    control: Arc<dyn Control>,
    handler: Arc<dyn Handler>,
    worker: String,
    descriptions: tokio::sync::Mutex<HashMap<String, Arc<Description>>>,
}

impl Worker {
    /// Works until `shutdown`; then running orders are cancelled, and their leases given up.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let shared = Arc::new(Shared {
            control: self.control.clone(),
            handler: self.handler.clone(),
            worker: format!("{}-{}", self.name, uuid::Uuid::new_v4().simple()),
            descriptions: tokio::sync::Mutex::new(HashMap::new()),
        });
        let mut running: HashMap<Key, Running> = HashMap::new();
        let (ended, mut ends) = mpsc::unbounded_channel::<Key>();
        let (replied, mut replies) = mpsc::unbounded_channel::<(u32, Result<v1::PollReply>)>();
        // Polls on the way: (number of free slots asked for). One that asks for work and one that only renews may overlap.
        let (mut polls, mut asked, mut next_poll) = (Vec::new(), 0u32, tokio::time::Instant::now());
        let mut out = 0u32;
        while !shutdown.is_cancelled() {
            let free = self.slots.saturating_sub(running.len() as u32);
            let now = tokio::time::Instant::now();
            // Ask again at once when a slot came free while the poll on the way asked for none.
            if (out == 0 && now >= next_poll) || (out == 1 && asked == 0 && free > 0) {
                let request = self.request(&shared, &running, free, false);
                let (control, replied) = (shared.control.clone(), replied.clone());
                polls.push(task::spawn("poll", async move {
                    // The loop ended meanwhile: nobody needs the answer.
                    let _ = replied.send((free, control.poll(request).await));
                }));
                (out, asked) = (out + 1, asked + free);
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some((free, reply)) = replies.recv() => {
                    (out, asked) = (out - 1, asked - free);
                    polls.retain(|p: &task::Owned<()>| !p.is_finished());
                    match reply {
                        Ok(reply) => {
                            let idle = reply.start.is_empty();
                            self.take(&shared, &mut running, &ended, reply);
                            let pause = match (idle, free) { (true, 0) => RENEW, (true, _) => PAUSE, (false, _) => Duration::ZERO };
                            next_poll = tokio::time::Instant::now() + pause;
                        }
                        Err(error) => {
                            tracing::debug!(%error, "the coordinator does not answer");
                            next_poll = tokio::time::Instant::now() + RETRY;
                        }
                    }
                }
                Some(key) = ends.recv() => {
                    running.remove(&key);
                    next_poll = tokio::time::Instant::now();
                }
                () = tokio::time::sleep_until(next_poll), if out == 0 => {}
            }
        }
        running.values().for_each(|r| r.cancel.cancel());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(8);
        while !running.is_empty() {
            match tokio::time::timeout_at(deadline, ends.recv()).await {
                Ok(Some(key)) => running.remove(&key),
                _ => break,
            };
        }
        let goodbye = self.request(&shared, &running, 0, true);
        // A coordinator that is gone finds out by the leases' end.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.control.poll(goodbye)).await;
        Ok(())
    }

    fn request(&self, shared: &Shared, running: &HashMap<Key, Running>, free: u32, leaving: bool) -> v1::PollRequest {
        let latest = |r: &Running| r.latest.lock().unwrap_or_else(PoisonError::into_inner).take();
        v1::PollRequest {
            worker: shared.worker.clone(),
            name: self.name.clone(),
            role: self.role as i32,
            free,
            running: running.values().map(|r| r.lease.clone()).collect(),
            leaving,
            progress: running
                .values()
                .filter_map(latest)
                .filter_map(|p| serde_json::to_vec(&p).ok())
                .map(Into::into)
                .collect(),
        }
    }

    fn take(
        &self,
        shared: &Arc<Shared>,
        running: &mut HashMap<Key, Running>,
        ended: &mpsc::UnboundedSender<Key>,
        reply: v1::PollReply,
    ) {
        for lease in reply.stop {
            if let Some(r) = running.get(&key(&lease)) {
                tracing::info!(order = lease.order, "the lease is lost: the order stops");
                r.cancel.cancel();
            }
        }
        for leased in reply.start {
            let Some(lease) = leased.lease else { continue };
            let k = key(&lease);
            // Given out again because an answer was lost: it runs already.
            if running.contains_key(&k) {
                continue;
            }
            let cancel = CancellationToken::new();
            let (news, latest, outcomes) = News::new();
            let (shared, ended, token, l, id) =
                (shared.clone(), ended.clone(), cancel.clone(), lease.clone(), k.clone());
            let task = task::spawn("order", async move {
                tracing::debug!(order = l.order, epoch = l.epoch, "begins");
                shared.carry_out(&l, &leased.body, leased.revision, news, outcomes, token).await;
                // The loop may have ended.
                let _ = ended.send(id);
            });
            running.insert(k, Running { lease, cancel, latest, _task: task });
        }
    }
}

impl Shared {
    async fn carry_out(
        &self,
        lease: &v1::Lease,
        body: &[u8],
        revision: u64,
        news: News,
        mut outcomes: mpsc::UnboundedReceiver<Outcome>,
        cancel: CancellationToken,
    ) {
        let work = async {
            let order: Order = match serde_json::from_slice(body) {
                Ok(order) => order,
                Err(e) => return Outcome::Failed { error: unreadable("an order").cause(e) },
            };
            match self.description(&lease.migration, revision).await {
                Ok(d) => self.handler.execute(lease, order, d, news, cancel.clone()).await,
                Err(error) => Outcome::Failed { error },
            }
        };
        let mut work = std::pin::pin!(work);
        let outcome = loop {
            tokio::select! {
                biased;
                Some(outcome) = outcomes.recv() => self.report(lease, &outcome, &cancel).await,
                outcome = &mut work => break outcome,
            }
        };
        while let Ok(outcome) = outcomes.try_recv() {
            self.report(lease, &outcome, &cancel).await;
        }
        self.report(lease, &outcome, &cancel).await;
    }

    /// Reports until it is taken or refused, or the lease is lost.
    async fn report(&self, lease: &v1::Lease, outcome: &Outcome, cancel: &CancellationToken) {
        let outcome = match serde_json::to_vec(outcome) {
            Ok(json) => json,
            Err(error) => return tracing::error!(%error, "an outcome cannot be written"),
        };
        while !cancel.is_cancelled() {
            let request = v1::ReportRequest {
                worker: self.worker.clone(),
                lease: Some(lease.clone()),
                outcome: outcome.clone().into(),
            };
            match self.control.report(request).await {
                Ok(reply) => {
                    if !reply.accepted {
                        tracing::debug!(order = lease.order, "the report came too late");
                        cancel.cancel();
                    }
                    return;
                }
                Err(error) => tracing::debug!(%error, "a report did not arrive"),
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// The description of a migration, of this revision or a later one.
    async fn description(&self, migration: &str, revision: u64) -> Result<Arc<Description>> {
        let mut known = self.descriptions.lock().await;
        if let Some(d) = known.get(migration).filter(|d| d.revision >= revision) {
            return Ok(d.clone());
        }
        let json = self.control.describe(migration.to_owned()).await?;
        let d: Description =
            serde_json::from_slice(&json).map_err(|e| unreadable("a migration's description").cause(e))?;
        let d = Arc::new(d);
        known.insert(migration.to_owned(), d.clone());
        Ok(d)
    }
}

fn unreadable(what: &str) -> Error {
    Error::new(codes::INTERNAL, Fault::Drover, Retry::Never, format!("{what} cannot be read"))
        .remedy("run the same version of drover everywhere")
}
