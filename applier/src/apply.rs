//! Applying the change stream. Guarantee: from the moment that everything up to the last window's high end is applied, a reader at the
//! destination sees the state after some whole source transaction, later ones never before earlier ones, whatever fails or is killed; and
//! nothing is reported as applied that a crash of the destination could take back.
//!
//! Batches run in several sessions beside each other and commit in log order ([`crate::schedule`]). A batch that fails away from the head is
//! rolled back and runs again as the head; one that fails as the head runs once more alone, if others held transactions meanwhile (it
//! may have been their victim), then, if rows collided, once more change by change in the source's order (a destination may take values for
//! equal that are not), and then ends the order: the coordinator decides about trying again. The progress at the destination,
//! moved by each commit from the previous position to the next under our epoch, says what is done.

mod ahead;
mod barrier;
mod feed;
mod huge;
mod intake;
mod options;
mod setbacks;
mod units;

#[cfg(test)]
pub(crate) use self::options::Hasty;
pub use self::options::Options;

use self::ahead::Seen;
use self::barrier::Barrier;
use self::feed::{Fed, feed};
use self::huge::Huge;
use self::intake::Open;
use crate::changed::Changed;
use crate::compact::links::Links;
use crate::compact::{Parts, Shapes};
use crate::consume::{Consumer, Trail};
use crate::evolve;
use crate::owed::{Creditor, Owing};
use crate::schedule::{BatchId, Schedule, State};
use crate::session::{self, Command, Common, Lasting, Reply, Work};
use crate::windows::Windows;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::{Committed, Destination};
use drover_log::{Log, Stream};
use drover_model::ddl::Schemas;
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};
use drover_proto::order::{Description, Progress, Window};
use drover_runtime::memory::Account;
use drover_runtime::{CancellationToken, task};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Takes the numbers of a running apply order, the newest only; called often, must not wait.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// What an apply order works on.
#[derive(Clone)]
pub struct Task {
    pub description: Arc<Description>,
    pub destination: Arc<dyn Destination>,
    pub log: Arc<dyn Log>,
    pub start: Position,
    pub windows: Vec<Window>,
    pub options: Options,
    pub tell: Tell,
    /// Lease of the order, and who hears of rows that it owes.
    pub lease: u64,
    pub creditor: Arc<dyn Creditor>,
}

/// Applies changes until it is cancelled (then `Ok`: everything applied is durable, the rest is not begun) or fails.
///
/// # Errors
/// FENCED when another applier took over; LOG when the stream has a gap or belongs to another migration; errors of the destination.
pub async fn apply(task: Task, cancel: CancellationToken) -> Result<()> {
    let id = task.description.id;
    let progress = task.destination.take_over(id).await?;
    let consistent = task.windows.iter().map(|w| &w.high).max().unwrap_or(&task.start);
    task.destination.note_consistent(id, progress.epoch, consistent).await?;
    let have = match progress.position {
        Some(position) => position,
        None => {
            task.destination.begin_at(id, progress.epoch, &task.start).await?;
            task.start.clone()
        }
    };
    let schemas = evolve::schemas_at(&*task.destination, &task.description, &have)?;
    let shapes = shapes(&*task.destination, &schemas).await?;
    let consumer = Consumer::open(&*task.log, id, have.clone()).await?;
    let (input, _reader) = feed(consumer, task.options.memory);
    let owing = Arc::new(Owing {
        log: task.log.clone(),
        migration: id,
        lease: task.lease,
        partitions: task.description.bulk_partitions,
        creditor: task.creditor,
        cancel: cancel.clone(),
        rounds: AtomicU32::default(),
        open: Mutex::default(),
    });
    let common = Arc::new(Common {
        destination: task.destination,
        migration: id,
        epoch: progress.epoch,
        plans: schemas.plans.clone(),
        shapes,
        owing,
        lasting: Lasting::new(&progress.name),
    });
    let (replies, answers) = mpsc::unbounded_channel();
    let (tell_seen, seen) = mpsc::unbounded_channel();
    let options = task.options;
    let mut run = Run {
        windows: Windows::new(task.windows),
        rooms: (0..options::ABREAST).map(|_| Account::new("apply.pieces", options.pieces)).collect(),
        keys: Account::new("apply.keys", options.keys),
        options,
        tell: task.tell,
        log: task.log,
        common,
        schedule: Schedule::default(),
        works: HashMap::new(),
        slots: Vec::new(),
        replies,
        open: None,
        huges: VecDeque::new(),
        tell_seen,
        began_at: have.clone(),
        changed: Changed::default(),
        committed: have.clone(),
        durable: have.clone(),
        flushing: None,
        flushed_at: Instant::now(),
        cut_to: have,
        rows: 0,
        transactions: 0,
        commit_micros: 0,
        trail: Trail::default(),
        head: None,
        retried: None,
        cancels: Vec::new(),
        stopping: None,
        schemas,
        barrier: None,
    };
    run.report();
    match run.run(input, answers, seen, cancel.clone()).await {
        Err(error) => Err(run.explained(error, &cancel).await),
        ended => ended,
    }
}

/// What compacting knows, from the destination's catalogue of now.
async fn shapes(destination: &dyn Destination, schemas: &Schemas) -> Result<Arc<Shapes>> {
    let plans = &schemas.plans;
    let keys = destination.keys(&schemas.live()).await?;
    for k in &keys {
        if let Some(why) = &k.serial {
            let table = plans.iter().find(|p| p.id == k.table).map(|p| p.destination.to_string()).unwrap_or_default();
            tracing::warn!(table, why, "the table's changes are applied one by one");
        }
    }
    Ok(Arc::new(Shapes::new(plans, &keys).linked(Links::new(&schemas.catalog, plans))))
}

/// A session at the destination and what it works on.
struct Slot {
    commands: mpsc::Sender<Command>,
    busy: Option<BatchId>,
    canceller: Option<Arc<dyn Canceller>>,
    _task: task::Owned<()>,
}

struct Run {
    windows: Windows,
    options: Options,
    tell: Tell,
    log: Arc<dyn Log>,
    common: Arc<Common>,
    schedule: Schedule,
    works: HashMap<BatchId, (Arc<Work>, Option<Box<Parts>>)>,
    slots: Vec<Slot>,
    replies: mpsc::UnboundedSender<(usize, Reply)>,
    open: Option<Open>,
    /// In log order; of the last one more pieces may come.
    huges: VecDeque<Huge>,
    /// Where huge transactions have their pieces, one room each.
    rooms: Vec<Arc<Account>>,
    /// For the keys of all of them.
    keys: Arc<Account>,
    tell_seen: ahead::Tell,
    /// Everything up to here was applied before this order.
    began_at: Position,
    changed: Changed,
    committed: Position,
    durable: Position,
    /// A flush is under way, of everything committed up to here.
    flushing: Option<Position>,
    flushed_at: Instant,
    /// End of the last batch that was cut.
    cut_to: Position,
    rows: u64,
    transactions: u64,
    commit_micros: i64,
    trail: Trail,
    /// The head and since when it runs; the flag: others gave way to it already.
    head: Option<(BatchId, Instant, bool)>,
    /// The head that runs for the second time.
    retried: Option<BatchId>,
    cancels: Vec<task::Owned<()>>,
    stopping: Option<Instant>,
    /// Catalogue and plans of everything that is taken in.
    schemas: Schemas,
    /// A schema change waits for everything before it.
    barrier: Option<Barrier>,
}

impl Run {
    async fn run(
        &mut self,
        mut input: mpsc::Receiver<Result<Fed>>,
        mut answers: mpsc::UnboundedReceiver<(usize, Reply)>,
        mut seen: mpsc::UnboundedReceiver<Seen>,
        cancel: CancellationToken,
    ) -> Result<()> {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.pump(input.is_empty()).await?;
            if self.at_barrier() {
                tokio::select! {
                    // What is under way at the destination is found out by who goes on.
                    () = cancel.cancelled() => return Ok(()),
                    passed = self.pass_barrier() => passed?,
                }
                continue;
            }
            if self.stopping.is_some() && self.stopped() {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some((slot, reply)) = answers.recv() => self.reply(slot, reply).await?,
                () = cancel.cancelled(), if self.stopping.is_none() => self.stop(),
                Some(seen) = seen.recv() => self.seen(seen)?,
                record = input.recv(), if self.takes_more() => match record {
                    Some(record) => self.record(record?)?,
                    None => return Err(Error::internal("the reader of the changes ended")),
                },
                _ = tick.tick() => self.tick().await?,
            }
        }
    }

    fn takes_more(&self) -> bool {
        self.stopping.is_none()
            && self.barrier.is_none()
            && self.schedule.len() < 2 * self.options.sessions
            && self.huges.back().is_none_or(Huge::takes_more)
            && self.open.as_ref().is_none_or(|o| !self.full(o))
    }

    fn full(&self, open: &Open) -> bool {
        open.bytes >= self.options.batch_bytes || open.work.rows >= self.options.batch_changes
    }

    /// Does everything that can be done now.
    async fn pump(&mut self, input_empty: bool) -> Result<()> {
        if let Some(open) = &self.open {
            // Small batches only when a session has nothing else to do; while all are busy, the batch grows.
            let idle = input_empty && !self.schedule.any_waiting() && self.schedule.len() < self.options.sessions;
            let worth = open.work.transactions > 0 || open.since.elapsed() >= Duration::from_millis(200);
            if self.full(open) || (idle && worth && self.stopping.is_none()) {
                self.cut()?;
            }
        }
        self.settle_huges();
        self.commit_head().await?;
        self.flush().await?;
        while self.stopping.is_none() && self.may_start() {
            let Some(id) = self.schedule.start() else { break };
            let Some(slot) = self.free() else { return Err(Error::internal("a batch without a session")) };
            self.slots[slot].busy = Some(id);
            if let Some((work, folded)) = self.works.get_mut(&id) {
                let command = Command::Execute { id, work: work.clone(), folded: folded.take() };
                self.send(slot, command).await?;
            } else {
                let alone = self.schedule.head() == Some(id);
                let Some(huge) = self.huge(id) else { continue };
                tracing::debug!(to = %huge.whose.to, alone, "a huge transaction begins");
                huge.slot = Some(slot);
            }
        }
        self.pump_huges().await
    }

    /// Commits the oldest batch if it is executed.
    async fn commit_head(&mut self) -> Result<()> {
        let Some(id) = self.schedule.commit() else { return Ok(()) };
        let (previous, next) = match (self.works.get(&id), self.huges.front()) {
            (Some((work, _)), _) => (work.previous.clone(), work.next.clone()),
            (None, Some(huge)) if huge.whose.id == id => (huge.previous.clone(), huge.whose.to.clone()),
            (None, _) => return Err(Error::internal("a batch without work")),
        };
        let slot = self.slot_of(id)?;
        self.send(slot, Command::Commit { id, previous, next }).await
    }

    async fn flush(&mut self) -> Result<()> {
        if self.flushing.is_some() || self.committed <= self.durable {
            return Ok(());
        }
        if !self.schedule.is_empty() && self.flushed_at.elapsed() < self.options.flush {
            return Ok(());
        }
        let idle = self.slots.iter().position(|s| s.busy.is_none() && s.canceller.is_some());
        // While a huge transaction runs it may be long before another session has nothing to do.
        let idle = idle.or_else(|| self.is_long().then(|| self.free()).flatten());
        if let Some(slot) = idle {
            self.flushing = Some(self.committed.clone());
            self.send(slot, Command::Flush(self.committed.clone())).await?;
        }
        Ok(())
    }

    async fn reply(&mut self, slot: usize, reply: Reply) -> Result<()> {
        match reply {
            Reply::Opened(canceller) => self.slots[slot].canceller = Some(canceller),
            Reply::Executed(id) => {
                if self.schedule.state(id) == Some(State::Undoing) {
                    return self.send(slot, Command::Rollback { id }).await;
                }
                self.schedule.executed(id);
            }
            Reply::SliceDone { id, rows } => {
                if let Some(huge) = self.huge(id) {
                    huge.done(rows);
                    self.goes_on(id);
                }
            }
            Reply::Undone(id) => self.release(slot, id),
            Reply::Committed(_, Committed::Fenced) => return Err(fenced()),
            Reply::Committed(id, Committed::Yes) => {
                self.slots[slot].busy = None;
                self.schedule.committed(id);
                if let Some((work, _)) = self.works.remove(&id) {
                    self.committed = work.next.clone();
                    self.rows += work.rows;
                    self.transactions += work.transactions;
                    self.commit_micros = self.commit_micros.max(work.commit_micros);
                    if let Some(found) = work.owed.get() {
                        self.common.owing.paid(found).await?;
                    }
                } else if self.huges.front().is_some_and(|h| h.whose.id == id)
                    && let Some(huge) = self.huges.pop_front()
                {
                    self.committed = huge.whose.to;
                    self.rows += huge.rows;
                    self.transactions += 1;
                    self.commit_micros = self.commit_micros.max(huge.commit_micros);
                }
            }
            Reply::Failed(id, error) => return self.failed(slot, id, error).await,
            Reply::Flushed(result) => {
                result?;
                self.flushed_at = Instant::now();
                if let Some(position) = self.flushing.take() {
                    self.durable = position;
                    self.report();
                    self.trim().await?;
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.stopping = Some(Instant::now());
        self.open = None;
    }

    /// Whether a stop has come to its end: what ran is committed and durable, or the patience is over.
    fn stopped(&self) -> bool {
        // What waits is not begun any more; what is ready behind it rolls back with its session.
        let active = |id| self.schedule.state(id).is_some_and(|s| s != State::Waiting);
        // A huge transaction that is not at hand takes longer than anybody waits.
        let far = |id| self.huges.front().is_some_and(|h| h.whose.id == id && !h.is_at_hand());
        let busy = self.schedule.head().is_some_and(|id| active(id) && !far(id));
        let settled = !busy && self.flushing.is_none() && (self.committed <= self.durable || !self.can_flush());
        settled || self.stopping.is_some_and(|s| s.elapsed() >= self.options.grace)
    }

    fn can_flush(&self) -> bool {
        self.slots.iter().any(|s| s.canceller.is_some())
    }

    /// The oldest batch runs, and it is a huge transaction.
    fn is_long(&self) -> bool {
        self.schedule.head().is_some_and(|id| self.huges.front().is_some_and(|h| h.whose.id == id && h.slot.is_some()))
    }

    /// Whether a session may be given to a batch. What runs behind a huge transaction keeps its session until that is committed; one is left to make
    /// durable what was committed before.
    fn may_start(&self) -> bool {
        let free = self.options.sessions.saturating_sub(self.slots.iter().filter(|s| s.busy.is_some()).count());
        free > usize::from(self.is_long() && self.committed > self.durable)
    }

    /// A session that has nothing to do.
    fn free(&mut self) -> Option<usize> {
        let free = self.slots.iter().position(|s| s.busy.is_none());
        free.or_else(|| {
            let number = self.slots.len();
            (number < self.options.sessions).then(|| {
                // Two pieces or one command of a batch, and one flush may wait.
                let (commands, receiver) = mpsc::channel(4);
                let task = session::spawn(number, self.common.clone(), receiver, self.replies.clone());
                self.slots.push(Slot { commands, busy: None, canceller: None, _task: task });
                number
            })
        })
    }

    fn slot_of(&self, id: BatchId) -> Result<usize> {
        self.slots.iter().position(|s| s.busy == Some(id)).ok_or_else(|| Error::internal("a batch without a session"))
    }

    async fn send(&self, slot: usize, command: Command) -> Result<()> {
        let sent = self.slots[slot].commands.send(command).await;
        sent.map_err(|_| Error::internal("a session's task ended"))
    }

    fn report(&self) {
        self.log.note_applied(&self.durable);
        (self.tell)(Progress::Apply {
            migration: self.common.migration,
            applied: self.durable.clone(),
            rows: self.rows,
            transactions: self.transactions,
            commit_micros: self.commit_micros,
            consistent: self.windows.consistent_at(&self.durable),
            from: Some(self.began_at.clone()),
            changed: self.changed.latest(),
            replaced: Vec::new(),
        });
    }

    async fn trim(&mut self) -> Result<()> {
        let keep = i64::try_from(self.options.keep.as_micros()).unwrap_or(i64::MAX);
        match self.trail.trim(&self.durable, self.commit_micros.saturating_sub(keep)) {
            Some(before) => self.log.trim(Stream::Changes, before).await,
            None => Ok(()),
        }
    }
}

fn fenced() -> Error {
    Error::new(
        codes::FENCED,
        Fault::Drover,
        Retry::Never,
        "another applier took this migration over at the destination",
    )
}
