//! The change stream: from the plug-in's messages to batches of whole transactions in drover's own form.
//!
//! Guarantees: a batch holds whole committed transactions in commit order, or a piece of one; nothing of a transaction or
//! subtransaction that rolled back is ever in one; memory stays bounded whatever a transaction's size (it spills to
//! a file until its commit); every position is an `end_lsn` of a commit, a place that the server said it had read up to, or, where a transaction is
//! cut by schema changes, a place within its commit record ([`Within`]).

mod bind;
mod parts;
mod steer;

use crate::guard::Guard;
use crate::lsn::Lsn;
use crate::pgoutput::{Decoder, Message};
use crate::replication::{Block, Frame, ReplicationSession};
use async_trait::async_trait;
use bind::{Bound, Known, Tables, encode};
use bytes::Bytes;
use drover_connectors_api::{Batch, ChangeStream};
use drover_model::change;
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry, TablePlan};
use drover_runtime::memory::Account;
use drover_runtime::spill::Spill;
use drover_runtime::task;
use futures::FutureExt;
pub use parts::Within;
use parts::{Open, Out};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
pub use steer::{Following, UNTOLD};
use tokio::time::{Duration, Instant};

/// How often an empty stretch is given out: how quickly an idle source's position moves on.
const EMPTY_EVERY: Duration = Duration::from_secs(1);

/// How long rows of a transaction that is under way gather in the socket, by how many of them have come: its end comes later by this much at most.
/// The server sends each row by itself. Once the window is full, that is no more than a copy in its kernel; as long as it is open, each row makes
/// a packet and wakes whoever reads, which costs the server as much as all its decoding.
const GATHER: [(u64, Duration); 2] = [(1000, Duration::from_millis(2)), (u64::MAX, Duration::from_millis(20))];

/// Batches smaller than they could be follow each other no faster than this: small ones (the first pair), larger ones. A server that is behind
/// sends each message by itself; taken as they come, each would cost both sides a wakeup and become a batch of its own.
const PACE: [(usize, Duration); 2] = [(8 << 10, Duration::from_millis(5)), (256 << 10, Duration::from_millis(20))];

/// Bytes of changes that are gathered before they are written to a spill file that exists, at most.
const RUN_BYTES: usize = 256 << 10;

/// Bytes of transactions that are gathered in memory, with those parts of one that wait for its commit; beyond it they go to a file.
const GATHERED: usize = 4 << 20;

/// Messages with this prefix are drover's own marks: an otherwise empty stretch that ends in one is given out at once.
pub const MARK_PREFIX: &str = "drover";

/// A place in the log as a position. Its order key is the place itself; transactions that end at or before it are behind it.
pub fn position(lsn: Lsn) -> Position {
    let bytes = lsn.0.to_be_bytes().to_vec();
    Position { lineage: 0, order: bytes.clone(), resume: bytes, text: lsn.to_string() }
}

/// Up to where the log is behind a position: the reverse of [`position`]. Within a transaction, the place before it.
pub fn lsn_of(position: &Position) -> Result<Lsn> {
    let bytes = position.resume.first_chunk::<8>();
    bytes
        .map(|b| Lsn(u64::from_be_bytes(*b)))
        .ok_or_else(|| Error::internal(format!("{position:?} is no place in this log")))
}

/// A transaction that the server streams before its commit.
struct Streamed {
    spill: Spill,
    /// The subtransaction whose changes stand in the buffer. Between two blocks of the stream it is empty.
    sub: u32,
    buffer: Vec<u8>,
    changes: u64,
    aborted: HashSet<u32>,
    /// It changed a table, in this subtransaction: an error if that is committed, nothing if it is rolled back. What follows is not kept.
    failed: Option<(u32, Error)>,
    /// What the log calls tables by within it: nobody else sees it before its commit.
    relations: HashMap<u32, Known>,
    /// It changes schema: what follows is not kept, for it has to be read again.
    alters: bool,
}

impl Streamed {
    fn write_out(&mut self) -> Result<()> {
        self.spill.add(self.sub, &self.buffer, self.changes).map_err(spilled)?;
        self.buffer.clear();
        self.changes = 0;
        Ok(())
    }
}

/// The stream of one slot.
pub struct Changes {
    session: ReplicationSession,
    _heartbeat: Option<task::Owned<()>>,
    guard: Option<Guard>,
    decoder: Decoder,
    tables: Tables,
    /// What the log calls tables by.
    relations: HashMap<u32, Known>,
    following: Option<Following>,
    /// A schema change was told and is not worked off.
    told: Option<Vec<u8>>,
    /// A streamed transaction that changes schema has been committed: it is read again, after its commit.
    again: bool,
    /// The transaction that was given out in part.
    within: Option<Within>,
    spill_dir: PathBuf,
    batch_bytes: usize,
    /// The transaction between Begin and Commit.
    open: Option<Open>,
    streamed: HashMap<u32, Streamed>,
    /// Top-level transaction of the stream block that we are in.
    block_of: Option<u32>,
    /// What goes out before anything else is read.
    queue: VecDeque<Out>,
    /// A block of messages, worked off up to an offset.
    current: Option<(Block, usize)>,
    scratch: Vec<u8>,
    /// The buffer of the transaction before, for the next one.
    spare: Vec<u8>,
    /// The buffer of the stream's block before, for the next one.
    spare_run: Vec<u8>,
    room: Arc<Account>,
    spills: u64,
    /// What will be the next batch.
    out: Vec<u8>,
    from: Position,
    to: Lsn,
    transactions: u32,
    changes: u64,
    commit_micros: i64,
    marked: bool,
    empty_due: Instant,
    /// When the last batch was given out.
    cut_at: Instant,
}

fn failed(error: crate::replication::Error) -> Error {
    use crate::replication::Error as E;
    let (code, retry) = match &error {
        E::Server(e) if e.code == "42501" => (codes::PERMISSION, Retry::Other),
        E::Server(e) if e.code.starts_with("42") => (codes::POSITION_LOST, Retry::Never),
        E::Server(e) if e.code == "55000" || e.code == "58P01" => (codes::POSITION_LOST, Retry::Never),
        E::State(_) | E::Protocol(_) | E::ConfirmedTooFar { .. } => (codes::INTERNAL, Retry::Other),
        _ => (codes::CONNECTION, Retry::Connection),
    };
    Error::new(code, Fault::Source, retry, "the change stream broke off").cause(error)
}

fn spilled(error: std::io::Error) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Other, "cannot spill a large transaction to the work directory")
        .cause(error)
        .remedy("make room there, or give another place by --work-dir (or --state)")
}

impl Changes {
    /// A session that streams from `start` on. `types`: type of each column of all `plans`, one after the other, where it is known.
    pub fn new(
        session: ReplicationSession,
        heartbeat: Option<task::Owned<()>>,
        plans: Arc<Vec<TablePlan>>,
        types: Vec<Option<u32>>,
        start: Lsn,
        spill_dir: PathBuf,
        batch_bytes: usize,
    ) -> Self {
        Changes {
            session,
            _heartbeat: heartbeat,
            guard: None,
            decoder: Decoder::new(),
            tables: Tables::new(plans, types),
            relations: HashMap::new(),
            following: None,
            told: None,
            again: false,
            within: None,
            spill_dir,
            batch_bytes,
            open: None,
            streamed: HashMap::new(),
            block_of: None,
            queue: VecDeque::new(),
            current: None,
            scratch: Vec::new(),
            spare: Vec::new(),
            spare_run: Vec::new(),
            room: Account::new("stream.transactions", GATHERED),
            spills: 0,
            out: Vec::with_capacity(batch_bytes + batch_bytes / 4),
            from: position(start),
            to: start,
            transactions: 0,
            changes: 0,
            commit_micros: 0,
            marked: false,
            empty_due: Instant::now() + EMPTY_EVERY,
            cut_at: Instant::now(),
        }
    }

    /// Goes on within a transaction that was given out in part, if the position lies there. The server must not stream transactions then before
    /// their commit.
    pub fn within(mut self, resume: &Position) -> Self {
        self.within = Within::of(resume);
        if self.within.is_some() {
            self.from = resume.clone();
        }
        self
    }

    /// Carries schema changes over.
    pub fn following(mut self, following: Following) -> Self {
        self.tables.remedy = following.remedy();
        self.tables.number(following.followed(), following.is_told());
        if let Some(guard) = &mut self.guard {
            guard.watch(following.followed());
        }
        self.following = Some(following);
        self
    }

    /// Ends when a table is not published any more.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    fn spill(&mut self) -> Result<Spill> {
        self.spills += 1;
        Spill::create(&self.spill_dir.join(format!("transaction-{}", self.spills))).map_err(spilled)
    }

    /// Takes what has been collected as a batch.
    fn cut(&mut self) -> Batch {
        let to = position(self.to);
        let from = std::mem::replace(&mut self.from, to.clone());
        self.marked = false;
        self.cut_at = Instant::now();
        self.empty_due = self.cut_at + EMPTY_EVERY;
        // A small batch takes a buffer of its own size along, a large one the whole buffer.
        let payload = if self.out.len() < self.batch_bytes / 4 {
            let payload = Bytes::copy_from_slice(&self.out);
            self.out.clear();
            payload
        } else {
            std::mem::replace(&mut self.out, Vec::with_capacity(self.batch_bytes + self.batch_bytes / 4)).into()
        };
        Batch {
            from,
            to,
            payload,
            piece: None,
            transactions: std::mem::take(&mut self.transactions),
            changes: std::mem::take(&mut self.changes),
            commit_micros: self.commit_micros,
            schema: None,
        }
    }

    /// Until when what has been collected may grow.
    fn ripe(&self) -> Instant {
        let pace = PACE.iter().find(|(bytes, _)| self.out.len() < *bytes);
        pace.map_or(self.cut_at, |(_, pace)| self.cut_at + *pace)
    }

    /// How long the rest of a transaction may gather.
    fn gather(&self) -> Duration {
        // One that comes before its commit is a large one.
        let seen = if self.streamed.is_empty() { self.open.as_ref().map_or(0, Open::seen) } else { u64::MAX };
        GATHER.iter().find(|(most, _)| seen <= *most).map_or(Duration::ZERO, |(_, pause)| *pause)
    }

    fn moved(&self) -> bool {
        lsn_of(&self.from).is_ok_and(|from| self.to > from)
    }

    /// Encodes one change into the buffer of its transaction.
    fn on_change(&mut self, message: &Message<'_>) -> Result<()> {
        let (xid, oid) = match message {
            Message::Insert { xid, oid, .. } | Message::Update { xid, oid, .. } | Message::Delete { xid, oid, .. } => {
                (*xid, *oid)
            }
            Message::Truncate { xid, .. } => (*xid, 0),
            _ => return Ok(()),
        };
        if self.passed() {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let wrote = match message {
            Message::Truncate { oids, .. } => {
                let mut tables = Vec::new();
                for oid in oids.iter() {
                    match self.known(oid).map(|k| &k.bound) {
                        Some(Bound::Rows(mapping)) if mapping.operations.truncate => tables.push(mapping.table),
                        Some(Bound::Wrong(error)) => return self.wrong(xid, error.clone()),
                        _ => {}
                    }
                }
                if !tables.is_empty() {
                    change::put_truncate(&mut scratch, &tables);
                }
                !tables.is_empty()
            }
            other => match self.known(oid).map(|k| &k.bound) {
                Some(Bound::Rows(mapping)) => {
                    encode(mapping, other, &mut scratch).map_err(|e| match self.tables.of(mapping.table) {
                        Some(plan) => e.table(&plan.source),
                        None => e,
                    })?
                }
                // Tables that are not followed any more are still published.
                Some(Bound::Other(_)) if self.following.as_ref().is_some_and(Following::lost_some) => false,
                // The publication has the selected tables only, so this is one of them under another name.
                Some(Bound::Other(name)) => {
                    let what = "a change of a table that is none of the selected ones: one of them was renamed";
                    return Err(Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what)
                        .table(name)
                        .remedy("give the table its former name back, or migrate it again"));
                }
                Some(Bound::Wrong(error)) => return self.wrong(xid, error.clone()),
                None => return Err(Error::internal("a change of a table that the stream has not described")),
            },
        };
        if wrote {
            self.keep(xid, &scratch)?;
        }
        self.scratch = scratch;
        Ok(())
    }

    /// A relation as it is known here.
    fn known(&self, oid: u32) -> Option<&Known> {
        let own = self.block_of.and_then(|top| self.streamed.get(&top)?.relations.get(&oid));
        own.or_else(|| self.relations.get(&oid))
    }

    /// Adds an encoded change to the transaction that it belongs to.
    fn keep(&mut self, xid: Option<u32>, bytes: &[u8]) -> Result<()> {
        // Runs are read back whole, so they are no longer than a batch.
        let run = RUN_BYTES.min(self.batch_bytes);
        if let (Some(sub), Some(top)) = (xid, self.block_of) {
            if let Some(streamed) = self.streamed.get_mut(&top) {
                if streamed.sub != sub || streamed.buffer.len() >= run {
                    streamed.write_out()?;
                    streamed.sub = sub;
                }
                streamed.buffer.extend_from_slice(bytes);
                streamed.changes += 1;
            }
            return Ok(());
        }
        let open = self.open.as_mut().ok_or_else(|| Error::internal("a change outside of any transaction"))?;
        let fits = open.covers(&self.room, open.buffer.len() + bytes.len());
        if open.spill.is_none() && (open.buffer.len() >= self.batch_bytes || !fits) {
            let fresh = self.spill()?;
            let open = self.open.as_mut().ok_or_else(|| Error::internal("a change outside of any transaction"))?;
            open.spill = Some(fresh);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Some(spill) = &mut open.spill
            && (open.buffer.len() >= run || !fits)
        {
            spill.add(0, &open.buffer, open.changes).map_err(spilled)?;
            open.buffer.clear();
            open.changes = 0;
            if !open.covers(&self.room, bytes.len())
                && let Some(spill) = &mut open.spill
            {
                return spill.add(0, bytes, 1).map_err(spilled);
            }
        }
        open.buffer.extend_from_slice(bytes);
        open.changes += 1;
        Ok(())
    }

    /// Works the block at hand off until it ends or something has to be given out first; `false` without a block.
    fn work_off(&mut self) -> Result<bool> {
        let Some((block, at)) = self.current.take() else { return Ok(false) };
        let mut frames = block.frames_at(at);
        while let Some(frame) = frames.next() {
            match frame {
                Frame::Data { bytes, .. } => self.on_message(bytes)?,
                // Between a Begin and its Commit it says nothing about what is complete.
                Frame::Keepalive { wal_end, server_time, .. } if self.open.is_none() => {
                    self.to = self.to.max(wal_end);
                    self.commit_micros = self.commit_micros.max(server_time);
                }
                Frame::Keepalive { .. } => {}
            }
            if !self.queue.is_empty() || self.told.is_some() || self.again || self.out.len() >= self.batch_bytes {
                let at = frames.offset(&block);
                self.current = Some((block, at));
                break;
            }
        }
        Ok(true)
    }

    /// The streamed transaction whose block this is.
    fn unfinished(&mut self) -> Option<&mut Streamed> {
        self.streamed.get_mut(&self.block_of?)
    }

    /// One message of the plug-in.
    fn on_message(&mut self, bytes: &[u8]) -> Result<()> {
        let mut decoder = self.decoder;
        let message = decoder.decode(bytes).map_err(|e| {
            Error::new(codes::INTERNAL, Fault::Source, Retry::Never, "the change stream cannot be decoded").cause(e)
        })?;
        self.decoder = decoder;
        match message {
            Message::Begin { final_lsn, .. } => {
                let buffer = std::mem::take(&mut self.spare);
                self.open = Some(Open::new(buffer, final_lsn, Within::at(&mut self.within, final_lsn)?));
            }
            Message::Commit { end_lsn, commit_time, .. } => {
                let open = self.open.take().ok_or_else(|| Error::internal("a commit outside of any transaction"))?;
                return self.commit(open, HashSet::new(), end_lsn, commit_time);
            }
            Message::Relation(relation) => {
                let known = self.tables.describe(&relation);
                match self.unfinished() {
                    Some(streamed) => streamed.relations.insert(relation.oid, known),
                    None => self.relations.insert(relation.oid, known),
                };
            }
            Message::StreamStart { xid, .. } => {
                if !self.streamed.contains_key(&xid) {
                    let spill = self.spill()?;
                    let fresh = Streamed {
                        spill,
                        sub: xid,
                        buffer: Vec::new(),
                        changes: 0,
                        aborted: HashSet::new(),
                        failed: None,
                        relations: HashMap::new(),
                        alters: false,
                    };
                    self.streamed.insert(xid, fresh);
                }
                if let Some(streamed) = self.streamed.get_mut(&xid) {
                    streamed.buffer = std::mem::take(&mut self.spare_run);
                }
                self.block_of = Some(xid);
            }
            Message::StreamStop => {
                // Any number of transactions may be under way: none keeps memory while others have their turn.
                if let Some(streamed) = self.unfinished() {
                    streamed.write_out()?;
                    streamed.spill.rest().map_err(spilled)?;
                    self.spare_run = std::mem::take(&mut streamed.buffer);
                }
                self.block_of = None;
            }
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time, .. } => {
                let Some(streamed) = self.streamed.remove(&xid) else {
                    return Err(Error::internal("the commit of a transaction that was never streamed"));
                };
                if streamed.alters {
                    self.again = true;
                    return Ok(());
                }
                if let Some((_, error)) = streamed.failed {
                    if self.following.as_ref().is_some_and(Following::stops_tables) {
                        self.again = true;
                        return Ok(());
                    }
                    return Err(error);
                }
                self.relations.extend(streamed.relations);
                let mut open = Open::new(Vec::new(), commit_lsn, None);
                open.spill = Some(streamed.spill);
                return self.commit(open, streamed.aborted, end_lsn, commit_time);
            }
            Message::StreamAbort { xid, subxid } => {
                if xid == subxid {
                    self.streamed.remove(&xid);
                } else if let Some(streamed) = self.streamed.get_mut(&xid) {
                    streamed.aborted.insert(subxid);
                    streamed.failed = streamed.failed.take().filter(|(sub, _)| *sub != subxid);
                }
            }
            Message::Message { prefix, .. } if prefix == MARK_PREFIX => {
                self.marked = true;
                self.guard.iter_mut().for_each(Guard::marked);
            }
            Message::Message { prefix, content, .. }
                if self.following.as_ref().is_some_and(|f| f.is_told_by(prefix)) =>
            {
                if let Some(streamed) = self.unfinished() {
                    streamed.alters = true;
                } else if self.open.is_none() {
                    return Err(Error::internal("a schema change was told outside of any transaction"));
                } else if !self.passed() {
                    self.told = Some(content.to_vec());
                }
            }
            Message::Message { .. } => {}
            Message::Origin { .. } | Message::Type { .. } => {}
            change => {
                if self.unfinished().is_none_or(|s| s.failed.is_none() && !s.alters) {
                    self.on_change(&change)?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ChangeStream for Changes {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(guard) = &mut self.guard {
                guard.look(self.to).await?;
            }
            if let Some(batch) = self.queued()? {
                return Ok(batch);
            }
            if self.told.is_some() {
                self.work_told_off().await?;
                continue;
            }
            if self.again {
                if !self.out.is_empty() {
                    return Ok(self.cut());
                }
                self.read_again().await?;
            }
            if self.out.len() >= self.batch_bytes {
                return Ok(self.cut());
            }
            if self.work_off()? {
                continue;
            }
            let collected = !self.out.is_empty() || self.marked && self.moved();
            let block = if collected {
                match self.session.next_block().now_or_never() {
                    Some(block) => block.map_err(failed)?,
                    // Nothing more at hand: give out what there is, or let the socket fill first.
                    None if Instant::now() >= self.ripe() => return Ok(self.cut()),
                    None => {
                        self.session.rest().map_err(failed)?;
                        tokio::time::sleep_until(self.ripe()).await;
                        continue;
                    }
                }
            } else {
                // In the midst of a transaction nothing can be given out yet: the socket fills first, rather than wake us for each row.
                let amid = self.open.is_some() || !self.streamed.is_empty();
                if amid && let Some(block) = self.session.next_block().now_or_never() {
                    self.current = Some((block.map_err(failed)?, 0));
                    continue;
                }
                if amid {
                    self.session.rest().map_err(failed)?;
                    tokio::time::sleep(self.gather()).await;
                }
                tokio::select! {
                    block = self.session.next_block() => block.map_err(failed)?,
                    () = tokio::time::sleep_until(self.empty_due) => {
                        self.empty_due = Instant::now() + EMPTY_EVERY;
                        if self.moved() { return Ok(self.cut()) } else { continue }
                    }
                }
            };
            self.current = Some((block, 0));
        }
    }

    async fn confirm(&mut self, position: &Position) -> Result<()> {
        self.session.confirm(lsn_of(position)?, false).await.map_err(failed)
    }

    async fn alive(&mut self) -> Result<()> {
        self.session.alive().await.map_err(failed)
    }
}
