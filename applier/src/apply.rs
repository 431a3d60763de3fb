//! Applying the change stream. Guarantee: from the moment that everything up to the last window's high end is applied, a reader at the
//! destination sees the state after some whole source transaction, later ones never before earlier ones, whatever fails or is killed; and
//! nothing is reported as applied that a crash of the destination could take back.
//!
//! Batches run in several sessions beside each other and commit in log order ([`crate::schedule`]). A batch that fails away from the head is
//! rolled back and runs again as the head; one that fails as the head runs once more alone, if others held transactions meanwhile (it
//! may have been their victim), then, if rows collided, once more change by change in the source's order (a destination may take values for
//! equal that are not), and then ends the order: the coordinator decides about trying again. The progress at the destination,
//! moved by each commit from the previous position to the next under our epoch, says what is done.

mod feed;
mod huge;
mod setbacks;
mod units;

use self::feed::{Fed, feed};
use self::huge::Huge;
use self::units::{Unit, first_table, units};
use crate::changed::Changed;
use crate::compact::links::Links;
use crate::compact::{Parts, Shapes};
use crate::consume::{Consumer, Record, Trail, Verdict};
use crate::evolve;
use crate::owed::{Creditor, Owing};
use crate::schedule::{BatchId, Footprint, Schedule, State};
use crate::session::{self, Command, Common, Lasting, Reply, Work, mode_of};
use crate::windows::Windows;
use bytes::Bytes;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::{Committed, Destination, Shift};
use drover_log::{Log, Stream};
use drover_model::change::{Item, Reader};
use drover_model::ddl::{SchemaChange, Schemas};
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};
use drover_proto::order::{Description, Progress, Window};
use drover_runtime::{CancellationToken, task};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::Instant;

/// How changes are applied.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sessions at the destination at most.
    pub sessions: usize,
    /// A batch is cut at this many bytes or changes, whichever comes first.
    pub batch_bytes: usize,
    pub batch_changes: u64,
    /// Bytes of all batches that grow, wait or run; beyond it reading waits.
    pub memory: usize,
    /// The head batch may wait so long while later ones hold transactions.
    pub patience: Duration,
    /// Commits are made durable at least so often.
    pub flush: Duration,
    /// The log keeps what was committed at the source within so long before the applied position.
    pub keep: Duration,
    /// A stop waits so long for what is under way.
    pub grace: Duration,
    /// What a schema change does not wait for: has to be found out.
    #[cfg(test)]
    pub(crate) hasty: Hasty,
}

/// See [`Options::hasty`].
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hasty {
    No,
    /// Batches under way.
    Work,
    /// That what was committed is durable.
    Durability,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sessions: 4,
            batch_bytes: 4 << 20,
            batch_changes: 20_000,
            memory: 24 << 20,
            patience: Duration::from_secs(3),
            flush: Duration::from_secs(1),
            keep: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(5),
            #[cfg(test)]
            hasty: Hasty::No,
        }
    }
}

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
    let mut kept = Kept::default();
    loop {
        let in_order = kept.collided.take();
        let ended = once(task.clone(), &cancel, &mut kept, in_order.clone()).await;
        match (&ended, &kept.collided) {
            // Pieces of a huge transaction are not kept: they are read from the log again.
            (Err(error), Some(at)) if in_order.as_ref() != Some(at) => {
                tracing::info!(%error, "a huge transaction is executed again in the source's order, change by change");
            }
            _ => return ended,
        }
    }
}

/// What outlives one round of applying.
#[derive(Default)]
struct Kept {
    /// Everything up to here was applied before this order.
    began_at: Option<Position>,
    changed: Changed,
    /// A huge transaction that begins here met values in an order that the destination refuses.
    collided: Option<Position>,
}

/// Applies changes; the huge transaction that begins at `in_order` change by change.
async fn once(task: Task, cancel: &CancellationToken, kept: &mut Kept, in_order: Option<Position>) -> Result<()> {
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
    let (input, _reader) = feed(consumer, &task.options);
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
    let mut run = Run {
        windows: Windows::new(task.windows),
        options: task.options,
        tell: task.tell,
        log: task.log,
        common,
        schedule: Schedule::default(),
        works: HashMap::new(),
        slots: Vec::new(),
        replies,
        open: None,
        huge: None,
        began_at: kept.began_at.get_or_insert_with(|| have.clone()).clone(),
        kept,
        in_order,
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
    match run.run(input, answers, cancel.clone()).await {
        Err(error) => Err(run.explained(error, cancel).await),
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

/// A batch that still grows.
struct Open {
    stretch: usize,
    work: Work,
    bytes: usize,
    since: Instant,
}

struct Run<'k> {
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
    huge: Option<Huge>,
    /// Everything up to here was applied before this order.
    began_at: Position,
    kept: &'k mut Kept,
    /// The huge transaction that begins here is executed change by change.
    in_order: Option<Position>,
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

/// A schema change that is next.
struct Barrier {
    change: Box<SchemaChange>,
    previous: Position,
    next: Position,
    commit_micros: i64,
}

impl Run<'_> {
    async fn run(
        &mut self,
        mut input: mpsc::Receiver<Result<Fed>>,
        mut answers: mpsc::UnboundedReceiver<(usize, Reply)>,
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
            && self.huge.as_ref().is_none_or(|h| !h.complete)
            && self.open.as_ref().is_none_or(|o| !self.full(o))
    }

    fn full(&self, open: &Open) -> bool {
        open.bytes >= self.options.batch_bytes || open.work.rows >= self.options.batch_changes
    }

    /// Takes a record in.
    fn record(&mut self, fed: Fed) -> Result<()> {
        let Fed { offset, record: Record { head, admitted, payload }, taken } = fed;
        // What does not count must not decide what is kept: the log has to begin with a record of the newest epoch that was let in.
        if admitted.verdict != Verdict::Drop {
            self.trail.note(offset, &admitted.to, head.commit_micros, payload.len());
        }
        if admitted.discard
            && let Some(huge) = &mut self.huge
        {
            huge.discard();
        }
        if admitted.verdict != Verdict::Drop && head.schema_version != self.schemas.version {
            return Err(self.other_version(head.schema_version));
        }
        match admitted.verdict {
            Verdict::Drop => Ok(()),
            Verdict::Whole if head.schema => self.meet(&payload, admitted.to, head.commit_micros),
            Verdict::Piece { .. } => {
                if self.huge.is_none() {
                    self.cut()?;
                    let id = self.schedule.add(Footprint::Everything);
                    let (modes, previous) = (self.windows.modes(&admitted.to), self.cut_to.clone());
                    let in_order = self.in_order.as_ref() == Some(&previous);
                    let to = admitted.to.clone();
                    self.huge = Some(Huge::new(id, modes, in_order, previous, to, head.commit_micros));
                }
                let Some(huge) = &mut self.huge else { return Ok(()) };
                self.kept.changed.note(first_table(&self.common.shapes, &payload)?.as_slice(), &admitted.to);
                huge.push(&self.common.shapes, payload, taken);
                if let Verdict::Piece { last: true, .. } = admitted.verdict {
                    huge.complete = true;
                    huge.next = admitted.to.clone();
                    self.cut_to = admitted.to;
                }
                Ok(())
            }
            Verdict::Whole => {
                if let Some(huge) = self.huge.as_mut().filter(|h| !h.complete) {
                    // What was published in pieces comes whole after all: the transaction begun for the pieces (their discarding was
                    // noted above) ends empty, where it began.
                    huge.complete = true;
                    huge.next = huge.previous.clone();
                }
                let from = Position::from_bytes(&head.from).unwrap_or_else(|_| admitted.have.clone());
                let one_stretch = self.windows.one_stretch(&admitted.have, &admitted.to);
                if from == admitted.have && one_stretch {
                    let unit = Unit {
                        payload,
                        taken,
                        end: admitted.to.clone(),
                        transactions: u64::from(head.transactions),
                        changes: head.changes,
                        commit_micros: head.commit_micros,
                    };
                    return self.grow(unit);
                }
                for unit in units(&self.common.shapes, &payload, &taken, &admitted.have)? {
                    self.grow(unit)?;
                }
                // Behind the last transaction there may be an empty stretch.
                self.grow(Unit {
                    payload: Bytes::new(),
                    taken,
                    end: admitted.to,
                    transactions: 0,
                    changes: 0,
                    commit_micros: head.commit_micros,
                })
            }
        }
    }

    /// A schema change: nothing behind it is taken in before it is made.
    fn meet(&mut self, payload: &Bytes, next: Position, commit_micros: i64) -> Result<()> {
        self.cut()?;
        let mut reader = Reader::new(payload, &*self.common.shapes);
        while let Some(item) = reader.next_item().map_err(crate::compact::damaged)? {
            if let Item::Schema(change) = item {
                let previous = self.cut_to.clone();
                self.cut_to = next.clone();
                self.barrier = Some(Barrier { change, previous, next, commit_micros });
                return Ok(());
            }
        }
        Err(Error::new(codes::LOG, Fault::Log, Retry::Never, "a record of a schema change has none"))
    }

    fn other_version(&self, theirs: u64) -> Error {
        let ours = self.schemas.version;
        let text = format!("changes come with {theirs} schema changes before them, and {ours} are known here");
        Error::new(codes::LOG, Fault::Drover, Retry::Other, text)
    }

    /// Everything before the barrier is committed and durable, and no session is at work.
    fn at_barrier(&self) -> bool {
        let idle = self.schedule.is_empty() && self.huge.is_none();
        let durable = self.flushing.is_none() && self.committed <= self.durable;
        #[cfg(test)]
        let (idle, durable) =
            (idle || self.options.hasty == Hasty::Work, durable || self.options.hasty == Hasty::Durability);
        self.barrier.is_some() && self.stopping.is_none() && idle && durable
    }

    /// Makes the schema change that is next, and goes on with the plans behind it.
    async fn pass_barrier(&mut self) -> Result<()> {
        let Some(barrier) = &self.barrier else { return Ok(()) };
        let Barrier { change, previous, next, commit_micros } = barrier;
        let common = self.common.clone();
        let change = evolve::mapped(&*common.destination, &self.schemas, (**change).clone())?;
        let mut after = self.schemas.clone();
        after.apply(&change);
        let tables: Vec<u32> = change.tables.iter().filter_map(|t| t.id).collect();
        if let Some(table) = tables.iter().find(|t| self.windows.mode(**t, next) != crate::windows::Mode::Strict) {
            let name = self.schemas.plans.get(*table as usize).map(|p| p.source.clone());
            let text = "the table's schema was changed while its rows were being copied";
            let error = Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, text)
                .remedy("begin again: `drover cleanup`, then run the migration anew");
            return Err(name.map_or(error.clone(), |name| error.table(&name)));
        }
        let started = Instant::now();
        let shift = Shift { change: &change, previous, next, before: &self.schemas, after: &after };
        // Sessions know the tables as they were, and may hold locks on them.
        self.slots.clear();
        let made = if change.acts() {
            common.destination.change_schema(common.migration, common.epoch, &shift).await?
        } else {
            // Only to be known: the destination stays as it is.
            let plans = after.live();
            let mut session = common.destination.apply_session(common.migration, common.epoch, &plans).await?;
            let committed = session.commit(previous, next).await?;
            session.flush().await?;
            committed
        };
        match made {
            Committed::Fenced => return Err(fenced()),
            Committed::Yes => {}
        }
        let what = change.statement.as_deref().unwrap_or(&change.verb);
        tracing::info!(position = %next, seconds = started.elapsed().as_secs_f64(), what, "schema change made");
        let shapes = shapes(&*common.destination, &after).await?;
        self.kept.changed.note(&tables, next);
        self.commit_micros = self.commit_micros.max(*commit_micros);
        self.transactions += 1;
        (self.committed, self.durable) = (next.clone(), next.clone());
        self.common = Arc::new(Common {
            destination: common.destination.clone(),
            migration: common.migration,
            epoch: common.epoch,
            plans: after.plans.clone(),
            shapes,
            owing: common.owing.clone(),
            lasting: common.lasting.anew(),
        });
        self.schemas = after;
        self.barrier = None;
        self.report();
        Ok(())
    }

    /// Adds whole transactions to the batch that still grows.
    fn grow(&mut self, unit: Unit) -> Result<()> {
        let stretch = self.windows.stretch(&unit.end);
        let other = self.open.as_ref().is_some_and(|o| o.stretch != stretch && unit.transactions > 0);
        if other || self.open.as_ref().is_some_and(|o| self.full(o)) {
            self.cut()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open {
                stretch,
                work: Work {
                    payloads: Vec::new(),
                    taken: Vec::new(),
                    modes: Arc::new(self.windows.modes(&unit.end)),
                    previous: self.cut_to.clone(),
                    next: self.cut_to.clone(),
                    transactions: 0,
                    rows: 0,
                    commit_micros: unit.commit_micros,
                    owed: OnceCell::new(),
                    in_order: AtomicBool::new(false),
                },
                bytes: 0,
                since: Instant::now(),
            }),
        };
        if open.work.transactions == 0 && unit.transactions > 0 {
            (open.stretch, open.work.modes) = (stretch, Arc::new(self.windows.modes(&unit.end)));
        }
        open.bytes += unit.payload.len();
        open.work.rows += unit.changes;
        open.work.transactions += unit.transactions;
        open.work.commit_micros = open.work.commit_micros.max(unit.commit_micros);
        open.work.next = unit.end;
        if !unit.payload.is_empty() {
            open.work.payloads.push(unit.payload);
            open.work.taken.push(unit.taken);
        }
        Ok(())
    }

    /// Ends the batch that grows and schedules it.
    fn cut(&mut self) -> Result<()> {
        let Some(Open { work, .. }) = self.open.take() else { return Ok(()) };
        let mode = |t| mode_of(&work.modes, t);
        let folded = Parts::new(self.common.shapes.clone(), &work.payloads, mode, false)?;
        self.cut_to = work.next.clone();
        let keys = folded.keys();
        self.kept.changed.note(&keys.tables, &work.next);
        let id = self.schedule.add(Footprint::Keys(keys));
        self.works.insert(id, (Arc::new(work), Some(Box::new(folded))));
        Ok(())
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
        if let Some(id) = self.schedule.commit() {
            let (previous, next) = match (&self.huge, self.works.get(&id)) {
                (_, Some((work, _))) => (work.previous.clone(), work.next.clone()),
                (Some(huge), None) => (huge.previous.clone(), huge.next.clone()),
                (None, None) => return Err(Error::internal("a batch without work")),
            };
            let slot = self.slot_of(id)?;
            self.send(slot, Command::Commit { id, previous, next }).await?;
        }
        self.flush().await?;
        while self.stopping.is_none() && self.free_slot() {
            let Some(id) = self.schedule.start() else { break };
            let slot = self.take_slot(id);
            if let Some((work, folded)) = self.works.get_mut(&id) {
                let command = Command::Execute { id, work: work.clone(), folded: folded.take() };
                self.send(slot, command).await?;
            } else if let Some(huge) = &mut self.huge {
                huge.slot = Some(slot);
            }
        }
        self.pump_huge().await
    }

    async fn flush(&mut self) -> Result<()> {
        if self.flushing.is_some() || self.committed <= self.durable {
            return Ok(());
        }
        if !self.schedule.is_empty() && self.flushed_at.elapsed() < self.options.flush {
            return Ok(());
        }
        let idle = self.slots.iter().position(|s| s.busy.is_none() && s.canceller.is_some());
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
                if let Some(huge) = self.huge.as_mut().filter(|h| h.id == id) {
                    huge.done(rows);
                }
            }
            Reply::Undone(id) => {
                if let Some(huge) = self.huge.as_mut().filter(|h| h.id == id) {
                    huge.undone();
                } else {
                    self.release(slot, id);
                }
            }
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
                } else if let Some(huge) = self.huge.take_if(|h| h.id == id) {
                    self.committed = huge.next;
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
        let busy = self.schedule.head().is_some_and(active)
            && self.huge.as_ref().is_none_or(|h| h.slot.is_none() || h.complete);
        let settled = !busy && self.flushing.is_none() && (self.committed <= self.durable || !self.can_flush());
        settled || self.stopping.is_some_and(|s| s.elapsed() >= self.options.grace)
    }

    fn can_flush(&self) -> bool {
        self.slots.iter().any(|s| s.canceller.is_some())
    }

    fn free_slot(&self) -> bool {
        self.slots.len() < self.options.sessions || self.slots.iter().any(|s| s.busy.is_none())
    }

    fn take_slot(&mut self, id: BatchId) -> usize {
        let free = self.slots.iter().position(|s| s.busy.is_none());
        let slot = free.unwrap_or_else(|| {
            let number = self.slots.len();
            // One command of a batch and one flush may wait.
            let (commands, receiver) = mpsc::channel(4);
            let task = session::spawn(number, self.common.clone(), receiver, self.replies.clone());
            self.slots.push(Slot { commands, busy: None, canceller: None, _task: task });
            number
        });
        self.slots[slot].busy = Some(id);
        slot
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
            changed: self.kept.changed.latest(),
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
