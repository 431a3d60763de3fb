//! The coordinator as a simulated process, its disk, and the way of workers to it.

use crate::check::Checker;
use crate::net::{Link, Net, Peer};
use crate::node::Node;
use crate::{note, sim};
use drover_coordinator::cutover::Change;
use drover_coordinator::event::Event;
use drover_coordinator::lease::Grant;
use drover_coordinator::machine::State;
use drover_coordinator::store::Store;
use drover_coordinator::turn::{Stored, Turn, Write};
use drover_coordinator::{Coordinator, Tuning};
use drover_model::migration::Migration;
use drover_model::{Error, MigrationId, Result};
use drover_proto::control::Control;
use drover_proto::order::{Description, Order, Outcome, Progress};
use drover_proto::v1;
use drover_runtime::process::Within;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What is on the coordinator's disk. Writes that were not synced when it died are not there.
#[derive(Clone)]
pub struct Disk {
    kept: Arc<Mutex<BTreeMap<MigrationId, Kept>>>,
    /// Bytes that may be copied and not loaded: more is a broken promise.
    ahead: u64,
    checker: Checker,
}

struct Kept {
    migration: Migration,
    state: Option<State>,
    events: Vec<(u64, u64, String)>,
    /// All of the events folded.
    folded: Option<State>,
    epoch: u64,
    grants: BTreeMap<String, Grant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn json(error: serde_json::Error) -> Error {
    Error::internal("it has no JSON form").cause(error)
}

impl Disk {
    /// An empty one. So many bytes may be copied and not loaded.
    pub fn new(ahead: u64, checker: Checker) -> Disk {
        Disk { kept: Arc::default(), ahead, checker }
    }

    /// The journal folds to the state that was kept with it.
    pub fn check(&self) -> Result<()> {
        for kept in lock(&self.kept).values() {
            let events: Vec<Event> =
                kept.events.iter().map(|(_, _, e)| serde_json::from_str(e)).collect::<Result<_, _>>().map_err(json)?;
            let Some(state) = &kept.state else { continue };
            let folded = State::replay(events[..state.events as usize].iter());
            let (folded, state) =
                (serde_json::to_value(folded).map_err(json)?, serde_json::to_value(state).map_err(json)?);
            if folded != state {
                return Err(Error::internal("the journal does not fold to the state that was kept"));
            }
        }
        Ok(())
    }
}

impl Store for Disk {
    fn load(&mut self) -> Result<Vec<Stored>> {
        let mut all = Vec::new();
        for (id, kept) in lock(&self.kept).iter() {
            let after = kept.state.as_ref().map_or(0, |s| s.events);
            let events = kept.events.iter().filter(|(seq, ..)| *seq > after).map(|(_, _, e)| serde_json::from_str(e));
            all.push(Stored {
                id: *id,
                migration: kept.migration.clone(),
                state: kept.state.clone(),
                events: events.collect::<Result<_, _>>().map_err(json)?,
                epoch: kept.epoch,
                grants: kept.grants.values().cloned().collect(),
            });
        }
        Ok(all)
    }

    fn commit(&mut self, turns: &[Turn]) -> Result<()> {
        let mut disk = lock(&self.kept);
        for write in turns.iter().flat_map(|t| &t.writes) {
            match write {
                Write::Migration { id, migration, .. } => {
                    let new = || Kept {
                        migration: (**migration).clone(),
                        state: None,
                        events: Vec::new(),
                        folded: None,
                        epoch: 0,
                        grants: BTreeMap::new(),
                    };
                    disk.entry(*id).or_insert_with(new).migration = (**migration).clone();
                }
                Write::Event { id, seq, at_ms, event } => {
                    let text = serde_json::to_string(event).map_err(json)?;
                    note!("journal {seq}: {:.100}", text);
                    if let Some(kept) = disk.get_mut(id) {
                        if *seq != kept.events.len() as u64 + 1 {
                            sim::violated(format!("event {seq} of the journal comes after {}", kept.events.len()));
                        }
                        kept.events.push((*seq, *at_ms, text));
                        match &mut kept.folded {
                            Some(state) => state.apply(event),
                            none => *none = State::replay([&**event].into_iter()),
                        }
                        if let Event::Cutover { change: Change::Done } = &**event {
                            self.checker.cut_over(*id, kept.folded.as_ref().and_then(|s| s.cutover.as_ref()));
                        }
                        let ahead = kept.folded.as_ref().map_or(0, |s| s.copied_ahead().1);
                        if ahead > self.ahead {
                            sim::violated(format!("{ahead} bytes are copied and not loaded, {} may be", self.ahead));
                        }
                    }
                }
                Write::State { id, state } => {
                    if let Some(kept) = disk.get_mut(id) {
                        kept.state = Some((**state).clone());
                    }
                }
                Write::Grant(grant) => {
                    note!("lease {}: {} to {}", grant.epoch, grant.key, grant.worker);
                    if let Some(kept) = disk.get_mut(&grant.migration) {
                        if grant.epoch <= kept.epoch {
                            sim::violated(format!("lease {} was given after {}", grant.epoch, kept.epoch));
                        }
                        kept.epoch = kept.epoch.max(grant.epoch);
                        if let Some(before) = kept.grants.insert(grant.key.to_string(), (**grant).clone()) {
                            sim::violated(format!("{} was leased while {} had it", grant.key, before.worker));
                        }
                    }
                }
                Write::Release { id, key } => {
                    note!("release {key}");
                    if let Some(kept) = disk.get_mut(id) {
                        kept.grants.remove(&key.to_string());
                    }
                }
                Write::Remove { id } => drop(disk.remove(id)),
            }
        }
        Ok(())
    }

    fn journal(&mut self, id: MigrationId, after: u64, limit: u32) -> Result<Vec<(u64, u64, Event)>> {
        let disk = lock(&self.kept);
        let events = disk.get(&id).into_iter().flat_map(|k| &k.events).filter(|(seq, ..)| *seq > after);
        let read = |(seq, at, e): &(u64, u64, String)| Ok((*seq, *at, serde_json::from_str(e).map_err(json)?));
        events.take(limit as usize).map(read).collect()
    }
}

/// The coordinator that is there now, if any.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Option<(Arc<Node>, Coordinator)>>>);

impl Desk {
    /// Starts one over the disk.
    pub async fn start(&self, node: Arc<Node>, disk: Disk, alone: bool, tuning: Tuning, net: Arc<Net>) -> Result<()> {
        let pace = Box::new(move || {
            if sim::chance(net.weather().slow_disk) {
                sim::fault("slow disk");
                return sim::ms(50, 3_000);
            }
            sim::ms(0, 4)
        });
        let opened = Within::new(node.clone(), Coordinator::in_task(Box::new(disk), alone, tuning, pace)).await?;
        *lock(&self.0) = Some((node, opened));
        Ok(())
    }

    /// It is gone, with what it had not written.
    pub fn stop(&self) {
        *lock(&self.0) = None;
    }

    pub fn get(&self) -> Option<(Arc<Node>, Coordinator)> {
        lock(&self.0).clone()
    }
}

/// A worker's way to the coordinator.
pub struct SimControl {
    pub desk: Desk,
    pub link: Link,
    /// Worker and coordinator are one process: nothing lies between.
    pub alone: bool,
    pub checker: Checker,
    /// Which tables changed last is not told.
    pub blind: bool,
}

/// Aborts the handling of a call whose caller has gone, or lets it go on.
struct Gone(Option<tokio::task::AbortHandle>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(task) = self.0.take()
            && sim::chance(500_000)
        {
            task.abort();
        }
    }
}

impl SimControl {
    async fn call<T, F>(&self, make: impl Fn(Coordinator) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let away = || self.link.lost("the coordinator is away");
        if self.alone {
            let (_, desk) = self.desk.get().ok_or_else(away)?;
            return make(desk).await;
        }
        self.link.cross().await?;
        let (node, desk) = self.desk.get().ok_or_else(away)?;
        if sim::chance(self.link.net.weather().twice) {
            sim::fault("call delivered twice");
            let (later, work) = (self.desk.clone(), make(desk.clone()));
            tokio::spawn(async move {
                tokio::time::sleep(sim::ms(0, 5_000)).await;
                if let Some((node, _)) = later.get() {
                    // Nobody waits for the answer.
                    let _ = tokio::time::timeout(sim::ms(1_000, 2_000), Within::new(node, work)).await;
                }
            });
        }
        let (done, answer) = oneshot::channel();
        let work = Within::new(node.clone(), make(desk));
        let task = tokio::spawn(async move {
            // The caller may be gone.
            let _ = done.send(work.await);
        });
        let mut gone = Gone(Some(task.abort_handle()));
        let reply = tokio::select! {
            biased;
            () = node.died() => return Err(away()),
            reply = answer => reply.unwrap_or_else(|_| Err(away()))?,
        };
        gone.0 = None;
        self.link.cross().await?;
        Ok(reply)
    }
}

#[tonic::async_trait]
impl Control for SimControl {
    async fn poll(&self, mut request: v1::PollRequest) -> Result<v1::PollReply> {
        for news in &mut request.progress {
            let Ok(mut told) = serde_json::from_slice(news) else { continue };
            let Progress::Apply { migration, applied, changed, .. } = &mut told else { continue };
            self.checker.told(*migration, applied);
            if self.blind {
                changed.clear();
                *news = serde_json::to_vec(&told).map_err(json)?.into();
            }
        }
        let reply = self.call(|desk| {
            let request = request.clone();
            async move { desk.poll(request).await }
        });
        let reply = reply.await?;
        for order in &reply.start {
            let lease = order.lease.as_ref().map(|l| (l.order.clone(), l.epoch)).unwrap_or_default();
            note!("{} is given {} under {}", self.link.node.name, lease.0, lease.1);
            let id = order.lease.as_ref().and_then(|l| l.migration.parse().ok());
            if let (Ok(Order::Apply { windows, .. }), Some(id)) = (serde_json::from_slice(&order.body), id) {
                self.checker.windows(id, windows);
            }
        }
        for lease in &reply.stop {
            note!("{} is told to stop {} under {}", self.link.node.name, lease.order, lease.epoch);
        }
        Ok(reply)
    }

    async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportReply> {
        let reply = self.call(|desk| {
            let request = request.clone();
            async move { desk.report(request).await }
        });
        let reply = reply.await?;
        let lease = request.lease.as_ref().map(|l| (l.order.clone(), l.epoch)).unwrap_or_default();
        if let Ok(outcome) = serde_json::from_slice::<Outcome>(&request.outcome) {
            let what = match &outcome {
                Outcome::Failed { error } => format!("failed: {error}"),
                Outcome::SnapshotLost { .. } => "snapshot lost".into(),
                Outcome::BulkLost => "bulk lost".into(),
                other if other.ends() => "done".into(),
                _ => "under way".into(),
            };
            let heard = if reply.accepted { "" } else { " (too late)" };
            note!("{} reports {} under {}: {what}{heard}", self.link.node.name, lease.0, lease.1);
        }
        Ok(reply)
    }

    async fn describe(&self, migration: String) -> Result<Arc<Description>> {
        self.call(|desk| {
            let migration = migration.clone();
            async move { desk.describe(migration).await }
        })
        .await
    }
}

/// A way from a node to the coordinator.
pub fn way(net: &Arc<Net>, node: &Arc<Node>) -> Link {
    Link { net: net.clone(), node: node.clone(), peer: Peer::Coordinator }
}
