//! The change stream: from the plug-in's messages to batches of whole transactions in drover's own form.
//!
//! Guarantees: a batch holds whole committed transactions in commit order, or a piece of one; nothing of a transaction or
//! subtransaction that rolled back is ever in one; memory stays bounded whatever a transaction's size (it spills to
//! a file until its commit); every position is an `end_lsn` of a commit or a place that the server said it had read up to.

use crate::bytea::{self, is_raw};
use crate::guard::Guard;
use crate::lsn::Lsn;
use crate::pgoutput::{Decoder, Message, Old, Relation, Tuple, Value};
use crate::replication::{Block, Frame, ReplicationSession};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{Batch, ChangeStream, Piece};
use drover_model::change::{self, OldKind};
use drover_model::error::codes;
use drover_model::row::{Cell, put_cell};
use drover_model::{Error, Fault, Position, Result, Retry, TablePlan};
use drover_runtime::spill::{Spill, SpillReader};
use drover_runtime::task;
use futures::FutureExt;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use tokio::time::{Duration, Instant};

/// How often an empty stretch is given out: how quickly an idle source's position moves on.
const EMPTY_EVERY: Duration = Duration::from_secs(1);

/// How long rows of a transaction that is under way gather in the socket. Its end comes later by this much at most.
const GATHER: Duration = Duration::from_millis(2);

/// Batches smaller than they could be follow each other no faster than this: small ones (the first pair), larger ones. A server that is behind
/// sends each message by itself; taken as they come, each would cost both sides a wakeup and become a batch of its own.
const PACE: [(usize, Duration); 2] = [(8 << 10, Duration::from_millis(5)), (256 << 10, Duration::from_millis(20))];

/// Bytes of changes that are gathered before they are written to a spill file, at most: each streamed transaction has such a buffer.
const RUN_BYTES: usize = 256 << 10;

/// Messages with this prefix are drover's own marks: an otherwise empty stretch that ends in one is given out at once.
pub const MARK_PREFIX: &str = "drover";

/// A place in the log as a position. Its order key is the place itself; transactions that end at or before it are behind it.
pub fn position(lsn: Lsn) -> Position {
    let bytes = lsn.0.to_be_bytes().to_vec();
    Position { lineage: 0, order: bytes.clone(), resume: bytes, text: lsn.to_string() }
}

/// The reverse of [`position`].
pub fn lsn_of(position: &Position) -> Result<Lsn> {
    let bytes = <[u8; 8]>::try_from(&position.resume[..]);
    bytes
        .map(|b| Lsn(u64::from_be_bytes(b)))
        .map_err(|_| Error::internal(format!("{position:?} is no place in this log")))
}

/// How a relation's tuples become rows of a plan.
#[derive(Debug, Clone)]
struct Mapping {
    table: u32,
    /// For each column of the plan, its place in the tuple.
    columns: Vec<u16>,
    /// For each column of the plan's key, its place in the tuple.
    key: Vec<u16>,
    /// Places of columns whose cells are bytes, where the tuple has digits.
    raw: Vec<u16>,
    /// All key columns belong to the replica identity.
    key_logged: bool,
    operations: drover_model::plan::Operations,
}

/// Why and how a transaction that is not yet committed is kept.
struct Open {
    buffer: Vec<u8>,
    changes: u64,
    spill: Option<Spill>,
}

/// A transaction that the server streams before its commit.
struct Streamed {
    spill: Spill,
    /// The subtransaction whose changes stand in the buffer.
    sub: u32,
    buffer: Vec<u8>,
    changes: u64,
    aborted: HashSet<u32>,
    /// It changed a table, in this subtransaction: an error if that is committed, nothing if it is rolled back. What follows is not kept.
    failed: Option<(u32, Error)>,
}

/// A spilled transaction that is given out piece by piece.
struct Giving {
    reader: SpillReader,
    aborted: HashSet<u32>,
    begin: change::Begin,
    from: Position,
    next: u32,
    /// A piece read ahead, so that the last is known to be the last.
    ahead: Option<(Vec<u8>, u64)>,
}

/// The stream of one slot.
pub struct Changes {
    session: ReplicationSession,
    _heartbeat: Option<task::Owned<()>>,
    guard: Option<Guard>,
    decoder: Decoder,
    tables: HashMap<(String, String), TablePlan>,
    /// Types of the plans' columns, and their modifiers once seen; by table.
    types: HashMap<u32, Vec<(Option<u32>, Option<i32>)>>,
    /// What the log calls tables by: a mapping, or the name of one that is not ours (a partition, announced beside its root).
    relations: HashMap<u32, std::result::Result<Mapping, String>>,
    spill_dir: PathBuf,
    batch_bytes: usize,
    /// The transaction between Begin and Commit.
    open: Option<Open>,
    streamed: HashMap<u32, Streamed>,
    /// Top-level transaction of the stream block that we are in.
    block_of: Option<u32>,
    giving: Option<Giving>,
    /// A batch that goes out before the pieces of `giving`.
    early: Option<Batch>,
    /// A block of messages, worked off up to an offset.
    current: Option<(Block, usize)>,
    scratch: Vec<u8>,
    /// The buffer of the transaction before, for the next one.
    spare: Vec<u8>,
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
        plans: &[TablePlan],
        types: Vec<Option<u32>>,
        start: Lsn,
        spill_dir: PathBuf,
        batch_bytes: usize,
    ) -> Self {
        let tables = plans
            .iter()
            .map(|p| ((p.source.schema.clone(), p.source.name.clone()), p.clone()))
            .collect::<HashMap<_, _>>();
        let mut types = types.into_iter().map(|t| (t, None));
        let types = plans.iter().map(|p| (p.id, types.by_ref().take(p.columns.len()).collect())).collect();
        Changes {
            session,
            _heartbeat: heartbeat,
            guard: None,
            decoder: Decoder::new(),
            tables,
            types,
            relations: HashMap::new(),
            spill_dir,
            batch_bytes,
            open: None,
            streamed: HashMap::new(),
            block_of: None,
            giving: None,
            early: None,
            current: None,
            scratch: Vec::new(),
            spare: Vec::new(),
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

    fn moved(&self) -> bool {
        lsn_of(&self.from).is_ok_and(|from| self.to > from)
    }

    /// The next piece of a spilled transaction.
    fn piece(&mut self) -> Result<Option<Batch>> {
        let Some(giving) = &mut self.giving else { return Ok(None) };
        let Some((mut payload, changes)) = giving.ahead.take() else {
            self.giving = None;
            return Ok(None);
        };
        giving.ahead = giving.reader.next_piece(self.batch_bytes, &giving.aborted).map_err(spilled)?;
        let last = giving.ahead.is_none();
        if giving.next == 0 {
            let mut head = Vec::with_capacity(payload.len() + 64);
            change::put_begin(&mut head, &giving.begin);
            head.extend_from_slice(&payload);
            payload = head;
        }
        if last {
            change::put_end(&mut payload);
        }
        let batch = Batch {
            from: giving.from.clone(),
            to: giving.begin.position.clone(),
            payload: payload.into(),
            piece: Some(Piece { index: giving.next, last }),
            transactions: u32::from(last),
            changes,
            commit_micros: giving.begin.commit_micros,
            schema: None,
        };
        giving.next += 1;
        if last {
            self.giving = None;
            self.from = batch.to.clone();
            self.empty_due = Instant::now() + EMPTY_EVERY;
        }
        Ok(Some(batch))
    }

    /// A transaction ended. Small ones join the batch; for a spilled one the batch so far is given out first, then its pieces.
    fn commit(&mut self, open: Open, aborted: HashSet<u32>, end: Lsn, micros: i64) -> Result<()> {
        let before = self.to;
        self.to = end;
        self.commit_micros = micros;
        let begin = change::Begin { position: position(end), commit_micros: micros };
        let Some(mut spill) = open.spill else {
            if !open.buffer.is_empty() {
                change::put_begin(&mut self.out, &begin);
                self.out.extend_from_slice(&open.buffer);
                change::put_end(&mut self.out);
                self.transactions += 1;
                self.changes += open.changes;
            }
            self.spare = open.buffer;
            self.spare.clear();
            return Ok(());
        };
        spill.add(0, &open.buffer, open.changes).map_err(spilled)?;
        let mut reader = spill.into_reader().map_err(spilled)?;
        let ahead = reader.next_piece(self.batch_bytes, &aborted).map_err(spilled)?;
        if ahead.is_none() {
            return Ok(());
        }
        if !self.out.is_empty() {
            self.to = before;
            self.early = Some(self.cut());
            self.to = end;
        }
        let from = self.from.clone();
        self.giving = Some(Giving { reader, aborted, begin, from, next: 0, ahead });
        Ok(())
    }

    fn on_relation(&mut self, relation: &Relation<'_>) -> Result<()> {
        let name = (relation.namespace.to_owned(), relation.name.to_owned());
        let Some(plan) = self.tables.get(&name) else {
            self.relations.insert(relation.oid, Err(format!("{}.{}", name.0, name.1)));
            return Ok(());
        };
        let place = |wanted: &str| relation.columns.iter().position(|c| c.name == wanted).map(|i| i as u16);
        let changed = |how: String| {
            Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, format!("the table's columns changed: {how}"))
                .table(&plan.source)
                .remedy("schema changes are not carried over for this pair: undo the change at the source, or migrate the table again")
        };
        let mut columns = Vec::with_capacity(plan.columns.len());
        for column in &plan.columns {
            columns.push(
                place(&column.source)
                    .ok_or_else(|| changed(format!("{} is gone", column.source)).column(&column.source))?,
            );
        }
        for column in relation.columns.iter() {
            let known =
                plan.columns.iter().any(|c| c.source == column.name) || plan.left_out.iter().any(|c| c == column.name);
            if !known {
                return Err(changed(format!("{} was added", column.name)).column(column.name));
            }
        }
        let mut types = self.types.get_mut(&plan.id).into_iter().flatten();
        for (planned, &place) in plan.columns.iter().zip(&columns) {
            let (Some(column), Some(known)) = (relation.columns.iter().nth(usize::from(place)), types.next()) else {
                continue;
            };
            let same =
                known.0.is_none_or(|t| t == column.type_oid) && known.1.is_none_or(|m| m == column.type_modifier);
            if !same {
                let how = format!("{} has another type than {}", planned.source, planned.origin_type);
                return Err(changed(how).column(&planned.source));
            }
            *known = (Some(column.type_oid), Some(column.type_modifier));
        }
        let key: Vec<u16> = plan.key.iter().map(|&k| columns[usize::from(k)]).collect();
        let logged: Vec<bool> = relation.columns.iter().map(|c| c.key).collect();
        let key_logged = key.iter().all(|&k| logged.get(usize::from(k)).copied().unwrap_or(false));
        let raw = plan.columns.iter().zip(&columns).filter(|(c, _)| is_raw(plan, c)).map(|(_, &place)| place).collect();
        let mapping = Mapping { table: plan.id, columns, key, raw, key_logged, operations: plan.operations };
        self.relations.insert(relation.oid, Ok(mapping));
        Ok(())
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
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let wrote = match message {
            Message::Truncate { oids, .. } => {
                let tables: Vec<u32> = oids
                    .iter()
                    .filter_map(|oid| self.relations.get(&oid)?.as_ref().ok())
                    .filter(|m| m.operations.truncate)
                    .map(|m| m.table)
                    .collect();
                if !tables.is_empty() {
                    change::put_truncate(&mut scratch, &tables);
                }
                !tables.is_empty()
            }
            other => match self.relations.get(&oid) {
                Some(Ok(mapping)) => {
                    encode(mapping, other, &mut scratch).map_err(|e| match self.plan_of(mapping.table) {
                        Some(plan) => e.table(&plan.source),
                        None => e,
                    })?
                }
                // The publication has the selected tables only, so this is one of them under another name.
                Some(Err(name)) => {
                    let what = "a change of a table that is none of the selected ones: one of them was renamed";
                    return Err(Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what)
                        .table(name)
                        .remedy("give the table its former name back, or migrate it again"));
                }
                None => return Err(Error::internal("a change of a table that the stream has not described")),
            },
        };
        if wrote {
            self.keep(xid, &scratch)?;
        }
        self.scratch = scratch;
        Ok(())
    }

    fn plan_of(&self, table: u32) -> Option<&TablePlan> {
        self.tables.values().find(|p| p.id == table)
    }

    /// Adds an encoded change to the transaction that it belongs to.
    fn keep(&mut self, xid: Option<u32>, bytes: &[u8]) -> Result<()> {
        // Runs are read back whole, so they are no longer than a batch.
        let run = RUN_BYTES.min(self.batch_bytes);
        if let (Some(sub), Some(top)) = (xid, self.block_of) {
            if let Some(streamed) = self.streamed.get_mut(&top) {
                if streamed.sub != sub || streamed.buffer.len() >= run {
                    streamed.spill.add(streamed.sub, &streamed.buffer, streamed.changes).map_err(spilled)?;
                    streamed.buffer.clear();
                    streamed.changes = 0;
                    streamed.sub = sub;
                }
                streamed.buffer.extend_from_slice(bytes);
                streamed.changes += 1;
            }
            return Ok(());
        }
        let needs = self.open.as_ref().is_some_and(|o| o.spill.is_none() && o.buffer.len() >= self.batch_bytes);
        let fresh = if needs { Some(self.spill()?) } else { None };
        let open = self.open.as_mut().ok_or_else(|| Error::internal("a change outside of any transaction"))?;
        if fresh.is_some() {
            open.spill = fresh;
        }
        if let Some(spill) = &mut open.spill
            && open.buffer.len() >= run
        {
            spill.add(0, &open.buffer, open.changes).map_err(spilled)?;
            open.buffer.clear();
            open.changes = 0;
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
            if self.giving.is_some() || self.out.len() >= self.batch_bytes {
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
            Message::Begin { .. } => {
                let buffer = std::mem::take(&mut self.spare);
                self.open = Some(Open { buffer, changes: 0, spill: None });
            }
            Message::Commit { end_lsn, commit_time, .. } => {
                let open = self.open.take().ok_or_else(|| Error::internal("a commit outside of any transaction"))?;
                return self.commit(open, HashSet::new(), end_lsn, commit_time);
            }
            Message::Relation(relation) => {
                let described = self.on_relation(&relation);
                match self.unfinished() {
                    Some(streamed) => {
                        if let Err(error) = described
                            && streamed.failed.is_none()
                        {
                            streamed.failed = Some((relation.xid.unwrap_or_default(), error));
                        }
                    }
                    None => described?,
                }
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
                    };
                    self.streamed.insert(xid, fresh);
                }
                self.block_of = Some(xid);
            }
            Message::StreamStop => self.block_of = None,
            Message::StreamCommit { xid, end_lsn, commit_time, .. } => {
                let Some(mut streamed) = self.streamed.remove(&xid) else {
                    return Err(Error::internal("the commit of a transaction that was never streamed"));
                };
                if let Some((_, error)) = streamed.failed {
                    return Err(error);
                }
                streamed.spill.add(streamed.sub, &streamed.buffer, streamed.changes).map_err(spilled)?;
                let open = Open { buffer: Vec::new(), changes: 0, spill: Some(streamed.spill) };
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
            Message::Message { .. } => {}
            Message::Origin { .. } | Message::Type { .. } => {}
            change => {
                if self.unfinished().is_none_or(|s| s.failed.is_none()) {
                    self.on_change(&change)?;
                }
            }
        }
        Ok(())
    }
}

fn put_value(out: &mut Vec<u8>, value: Value<'_>, raw: bool) -> Result<()> {
    match value {
        Value::Text(shown) if raw => return bytea::put_raw(out, shown),
        Value::Null => put_cell(out, Cell::Null),
        Value::Unchanged => put_cell(out, Cell::Unknown),
        Value::Text(text) => put_cell(out, Cell::Value(text)),
        Value::Binary(_) => return Err(Error::internal("a binary value in a stream of texts")),
    }
    Ok(())
}

/// Writes the values at these places. Places usually rise one by one, so the tuple is walked once.
fn put_row(out: &mut Vec<u8>, tuple: &Tuple<'_>, places: &[u16], raw: &[u16], base: Option<&Tuple<'_>>) -> Result<()> {
    let mut walk = tuple.iter();
    let mut at = 0u16;
    for &place in places {
        if place < at {
            walk = tuple.iter();
            at = 0;
        }
        let value = walk.nth(usize::from(place - at)).ok_or_else(|| Error::internal("a row with too few values"))?;
        at = place + 1;
        // The full old row has what the new one leaves out.
        let known = match (value, base) {
            (Value::Unchanged, Some(base)) => base.iter().nth(usize::from(place)).unwrap_or(value),
            _ => value,
        };
        put_value(out, known, raw.contains(&place))?;
    }
    Ok(())
}

/// Writes an old image and says of which kind it is.
fn old_kind(mapping: &Mapping, old: &Old<'_>) -> Result<OldKind> {
    match old {
        // Without an old image the key is the same, provided that the server would have told a change of it.
        Old::None if mapping.key_logged && !mapping.key.is_empty() => Ok(OldKind::None),
        Old::Full(_) => Ok(OldKind::Full),
        Old::Key(_) if mapping.key_logged && !mapping.key.is_empty() => Ok(OldKind::Key),
        Old::Key(_) | Old::None => Err(Error::new(
            codes::TABLE_CHANGED,
            Fault::Source,
            Retry::Never,
            "the log names old rows by other columns than the key that drover goes by",
        )
        .remedy("set REPLICA IDENTITY DEFAULT (with a primary key) or FULL, and migrate the table again")),
    }
}

/// Encodes a row change; `false` if the operation is not selected.
fn encode(mapping: &Mapping, message: &Message<'_>, out: &mut Vec<u8>) -> Result<bool> {
    let put_old = |out: &mut Vec<u8>, old: &Old<'_>| match old {
        Old::None => Ok(()),
        Old::Key(tuple) => put_row(out, tuple, &mapping.key, &mapping.raw, None),
        Old::Full(tuple) => put_row(out, tuple, &mapping.columns, &mapping.raw, None),
    };
    match message {
        Message::Insert { new, .. } if mapping.operations.insert => {
            change::put_insert(out, mapping.table);
            put_row(out, new, &mapping.columns, &mapping.raw, None)?;
        }
        Message::Update { old, new, .. } if mapping.operations.update => {
            change::put_update(out, mapping.table, old_kind(mapping, old)?);
            put_old(out, old)?;
            let base = if let Old::Full(tuple) = old { Some(tuple) } else { None };
            put_row(out, new, &mapping.columns, &mapping.raw, base)?;
        }
        Message::Delete { old, .. } if mapping.operations.delete => {
            change::put_delete(out, mapping.table, old_kind(mapping, old)?);
            put_old(out, old)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

#[async_trait]
impl ChangeStream for Changes {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(guard) = &mut self.guard {
                guard.look().await?;
            }
            if let Some(batch) = self.early.take() {
                return Ok(batch);
            }
            if let Some(batch) = self.piece()? {
                return Ok(batch);
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
                    tokio::time::sleep(GATHER).await;
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
