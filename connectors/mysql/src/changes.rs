//! The change stream: from the binary log's events to batches of whole transactions in drover's own form.
//!
//! Guarantees: a batch holds whole committed transactions in commit order, or a piece of one; nothing that rolled back is ever in one, and a
//! prepared (XA) transaction only where it commits; memory stays bounded whatever a transaction's size; each event's checksum is verified where the
//! server keeps checksums; every position is the end of a transaction or of a stretch without one. Rows are read with the columns that their table had
//! at that place. What cannot be followed (a schema change of a selected table, a statement where rows are due) ends the stream there, by name, after
//! everything before it has been given out.

mod open;
mod pending;
mod steer;
mod tables;
#[cfg(test)]
mod tests;

pub use open::open;

use crate::binlog::dump::{Arrived, Block, Dump, Error as DumpError, Large};
use crate::binlog::event::{Checksums, Event, Xid, kind};
use crate::binlog::payload::Payload;
use crate::binlog::query;
use crate::binlog::rows::Scratch;
use crate::ddl::follow::Follower;
use crate::flavor::Flavor;
use crate::gtid::{Gtid, GtidSet};
use crate::position::{self, Place, Resume};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{Batch, ChangeStream, Piece};
use drover_model::change;
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::migration::SchemaPolicy;
use drover_model::{Error, Fault, Position, Result, Retry};
use drover_runtime::spill::SpillReader;
use futures::FutureExt;
use open::Start;
use pending::{Pending, Room, Whole, spilled};
use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};
use tables::Tables;
use tokio::time::{Duration, Instant};

/// How often an empty stretch is given out: how quickly an idle source's position moves on. The server's heartbeat comes as often.
const EMPTY_EVERY: Duration = Duration::from_secs(1);
/// The same where not even the position moved: a sign of life.
const ALIVE_EVERY: Duration = Duration::from_secs(3);
/// Heartbeats come every second: without anything for so long the connection is dead. (MySQL before 5.5 has none.)
const SILENCE: Duration = Duration::from_secs(60);
/// MariaDB: another dump was begun under the same number, by who took over. (MySQL has the number of lost positions for that, too.)
const SAME_REPLICA: u16 = 4052;
/// Bytes of an unpacked transaction that are worked off at once, before others have their turn.
const TURN: usize = 256 << 10;

/// The transaction that is being read.
struct Open {
    pending: Pending,
    gtid: Option<Gtid>,
    /// Commit time by the event that begins it.
    micros: Option<i64>,
    /// Where its first event begins.
    start: Place,
    /// An end follows (COMMIT, XID …); else one statement is all of it.
    begun: bool,
    /// See [`crate::binlog::event::Start::half`].
    half: bool,
    xid: Option<Xid>,
    /// It is behind the position that was resumed from.
    behind: bool,
    /// It is this schema change.
    schema: Option<Box<SchemaChange>>,
}

/// What a transaction that has ended is known by.
#[derive(Default)]
struct Ids {
    gtid: Option<Gtid>,
    /// The prepared transaction that it ends.
    xid: Option<Xid>,
}

/// A prepared transaction that waits for its end.
struct Held {
    pending: Pending,
    start: Place,
    gtid: Option<Gtid>,
}

/// A spilled transaction that is given out piece by piece.
struct Giving {
    reader: SpillReader,
    aborted: HashSet<u32>,
    begin: change::Begin,
    from: Position,
    to: Position,
    next: u32,
    /// A piece read ahead, so that the last is known to be the last.
    ahead: Option<(Vec<u8>, u64)>,
}

/// What was passed over, for logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Schema changes of other tables, and of accounts, views, routines, indexes …
    pub schema: u64,
    /// Changes in statement form that name no selected table.
    pub statements: u64,
}

/// The stream of one server's binary log.
pub struct Changes {
    start: Position,
    dump: Dump,
    /// The server, as positions name it.
    flavor: Flavor,
    server: String,
    lineage: u32,
    /// By how much the server's clock is ahead of ours, in microseconds.
    skew: i64,
    tables: Tables,
    room: Room,

    // Reading.
    checksums: Checksums,
    table_map_head: u8,
    /// The file was written by one.
    mariadb: bool,
    /// The end of the event that was read last.
    place: Place,
    /// Bytes of events since then whose own end the server does not tell.
    unplaced: u64,
    /// When the file of `place` was begun.
    born: Option<u32>,
    /// What it must be, until that has been seen.
    expected_born: Option<u32>,
    current: Option<(Block, usize)>,
    payload: Option<Payload>,
    open: Option<Open>,
    held: HashMap<Xid, Held>,
    /// Transactions behind `to`.
    gtids: Option<GtidSet>,
    /// Up to here everything is behind what was resumed from.
    behind: Option<Place>,
    /// Transactions by their ids that are behind it, wherever they stand.
    known: Option<GtidSet>,
    /// MariaDB after a failover: the ids that still have to pass, one for each domain.
    passing: Option<GtidSet>,
    /// Where the last transaction of this file begins that begins below 4 GiB: a dump cannot begin beyond.
    near: u64,
    spare: Vec<u8>,
    packed: Vec<u8>,
    scratch: Scratch,

    // Giving out.
    giving: Option<Giving>,
    /// A batch that goes out before the pieces of `giving`.
    early: Option<Batch>,
    /// Why there will be nothing more.
    failed: Option<Error>,
    out: Vec<u8>,
    from: Position,
    to: Place,
    /// `to` is beyond `from`.
    moved: bool,
    /// A heartbeat came since the last batch.
    alive: bool,
    /// One ever came.
    beats: bool,
    transactions: u32,
    changes: u64,
    commit_micros: i64,
    given: Instant,
    begin: change::Begin,
    skipped: Skipped,
    last_schema_change: Option<query::SchemaChange>,
    /// Schema changes are followed with it; `None`: they end the stream.
    follower: Option<Follower>,
    policy: SchemaPolicy,
    /// A schema change goes out, behind `early`.
    altered: Option<Batch>,
}

impl Changes {
    /// A stream that goes on behind `from`, whose place is `place`, as `start` says.
    fn new(
        dump: Dump,
        from: Position,
        flavor: Flavor,
        server: String,
        start: Start,
        tables: Tables,
        room: Room,
        skew: i64,
        place: Place,
    ) -> Changes {
        // A new lineage is told at once.
        let raised = start.lineage != from.lineage;
        let empty = Position { lineage: start.lineage, order: Vec::new(), resume: Vec::new(), text: String::new() };
        Changes {
            dump,
            flavor,
            server,
            lineage: start.lineage,
            skew,
            tables,
            checksums: Checksums::Unknown,
            table_map_head: 8,
            mariadb: flavor == Flavor::MariaDb,
            to: if raised { start.read.clone() } else { place },
            place: start.read,
            unplaced: 0,
            born: None,
            expected_born: start.born,
            current: None,
            payload: None,
            open: None,
            held: HashMap::new(),
            gtids: start.gtids,
            behind: start.behind,
            known: start.known,
            passing: start.passing,
            near: 4,
            spare: Vec::new(),
            packed: Vec::new(),
            scratch: Scratch::default(),
            giving: None,
            early: None,
            failed: None,
            out: Vec::with_capacity(room.batch_bytes + room.batch_bytes / 4),
            room,
            start: from.clone(),
            from,
            moved: raised,
            alive: false,
            beats: false,
            transactions: 0,
            changes: 0,
            commit_micros: now() + skew,
            given: Instant::now(),
            begin: change::Begin { position: empty, commit_micros: 0 },
            skipped: Skipped::default(),
            last_schema_change: None,
            follower: None,
            policy: SchemaPolicy::default(),
            altered: None,
        }
    }

    /// The first batch's `from`.
    pub fn start(&self) -> &Position {
        &self.start
    }

    /// The end of the last batch that was given out.
    pub fn reached(&self) -> &Position {
        &self.from
    }

    /// The number of the server's history that positions carry: raised when another server took over.
    pub fn lineage(&self) -> u32 {
        self.lineage
    }

    /// What has been passed over so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// The last schema change of a selected table that left its columns and rows alone.
    pub fn last_schema_change(&self) -> Option<&query::SchemaChange> {
        self.last_schema_change.as_ref()
    }

    /// An error of the stream at the place that has been read to.
    fn fail(&self, code: &str, message: impl std::fmt::Display) -> Error {
        Error::new(code, Fault::Source, Retry::Never, format!("{message} (in the binary log at {})", self.place))
    }

    fn resume(&self) -> Resume {
        let mut reread: Option<Place> = None;
        for held in self.held.values() {
            if reread.as_ref().is_none_or(|r| held.start.order() < r.order()) {
                reread = Some(held.start.clone());
            }
        }
        if self.to.offset > u64::from(u32::MAX) {
            let near = Place::new(self.to.file.clone(), self.near);
            reread = Some(reread.filter(|r| r.order() < near.order()).unwrap_or(near));
        }
        Resume {
            flavor: self.flavor,
            server: self.server.clone(),
            place: self.to.clone(),
            born: self.born.filter(|_| self.to.file == self.place.file),
            gtids: self.gtids.as_ref().map(ToString::to_string),
            reread,
            held: self.held.values().filter_map(|h| h.gtid.as_ref().map(ToString::to_string)).collect(),
            passing: self.passing.as_ref().map(ToString::to_string),
        }
    }

    fn position(&self) -> Result<Position> {
        position::position(self.lineage, &self.resume())
    }

    /// Everything up to `place` is behind: complete transactions only.
    fn reach(&mut self, place: Place) {
        // Reading again what was behind already does not take the position back.
        if place.order() > self.to.order() {
            self.to = place;
            self.moved = true;
        }
    }

    /// A batch was given out.
    fn rest(&mut self) {
        self.moved = false;
        self.alive = false;
        self.given = Instant::now();
    }

    /// When an empty stretch has to be given out.
    fn empty_due(&self) -> Option<Instant> {
        match (self.moved, self.alive) {
            (true, _) => Some(self.given + EMPTY_EVERY),
            (false, true) => Some(self.given + ALIVE_EVERY),
            _ => None,
        }
    }

    /// The head of a transaction that ends at `to`.
    fn begin(&mut self, micros: i64) {
        use std::fmt::Write;
        self.begin.commit_micros = micros;
        self.begin.position.lineage = self.lineage;
        self.begin.position.order.clear();
        self.begin.position.order.extend_from_slice(&self.to.order());
        self.begin.position.text.clear();
        // Writing to a String does not fail.
        let _ = write!(self.begin.position.text, "{}", self.to);
    }

    /// Takes what has been collected as a batch.
    fn cut(&mut self) -> Result<Batch> {
        let to = self.position()?;
        let from = std::mem::replace(&mut self.from, to.clone());
        self.rest();
        let wanted = self.room.batch_bytes;
        // A small batch takes a buffer of its own size along, a large one the whole buffer.
        let payload = if self.out.len() < wanted / 4 {
            let payload = Bytes::copy_from_slice(&self.out);
            self.out.clear();
            payload
        } else {
            std::mem::replace(&mut self.out, Vec::with_capacity(wanted + wanted / 4)).into()
        };
        Ok(Batch {
            from,
            to,
            payload,
            piece: None,
            transactions: std::mem::take(&mut self.transactions),
            changes: std::mem::take(&mut self.changes),
            commit_micros: self.commit_micros,
            schema: None,
        })
    }

    /// The next piece of a spilled transaction.
    fn piece(&mut self) -> Result<Option<Batch>> {
        let Some(giving) = &mut self.giving else { return Ok(None) };
        let Some((mut payload, changes)) = giving.ahead.take() else {
            self.giving = None;
            return Ok(None);
        };
        giving.ahead = giving.reader.next_piece(self.room.batch_bytes, &giving.aborted).map_err(spilled)?;
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
            to: giving.to.clone(),
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
            self.rest();
        }
        Ok(Some(batch))
    }

    /// A transaction has ended at `place`. Small ones join the batch; for a spilled one the batch so far is given out first, then its pieces. `ids` are
    /// what is behind from then on, and not before: a batch that ends ahead of it must not say so.
    fn give(&mut self, pending: Pending, place: Place, micros: i64, ids: Ids) -> Result<()> {
        match pending.into_whole()? {
            Whole::Memory { bytes, changes } => {
                self.note(ids);
                self.reach(place);
                self.commit_micros = micros;
                if !bytes.is_empty() {
                    self.begin(micros);
                    change::put_begin(&mut self.out, &self.begin);
                    self.out.extend_from_slice(&bytes);
                    change::put_end(&mut self.out);
                    self.transactions += 1;
                    self.changes += changes;
                }
                self.spare = bytes;
                self.spare.clear();
            }
            Whole::File { mut reader, aborted } => {
                let ahead = reader.next_piece(self.room.batch_bytes, &aborted).map_err(spilled)?;
                if ahead.is_some() && !self.out.is_empty() {
                    self.early = Some(self.cut()?);
                }
                self.note(ids);
                self.reach(place);
                self.commit_micros = micros;
                if ahead.is_some() {
                    self.begin(micros);
                    let (begin, from, to) = (self.begin.clone(), self.from.clone(), self.position()?);
                    self.giving = Some(Giving { reader, aborted, begin, from, to, next: 0, ahead });
                }
            }
        }
        Ok(())
    }

    /// A schema change has ended at `place`: what is before it goes out first, then it alone.
    fn give_schema(&mut self, change: Box<SchemaChange>, place: Place, micros: i64, ids: Ids) -> Result<()> {
        if !self.out.is_empty() {
            self.early = Some(self.cut()?);
        }
        self.note(ids);
        self.reach(place);
        self.commit_micros = micros;
        self.begin(micros);
        let mut payload = Vec::new();
        change::put_begin(&mut payload, &self.begin);
        change::put_schema(&mut payload, &change);
        change::put_end(&mut payload);
        let to = self.position()?;
        let from = std::mem::replace(&mut self.from, to.clone());
        self.rest();
        self.altered = Some(Batch {
            from,
            to,
            payload: payload.into(),
            piece: None,
            transactions: 1,
            changes: 0,
            commit_micros: micros,
            schema: Some(change),
        });
        Ok(())
    }

    /// A transaction is behind.
    fn note(&mut self, ids: Ids) {
        if let Some(xid) = &ids.xid {
            self.held.remove(xid);
        }
        let Some(gtid) = &ids.gtid else { return };
        if let Some(set) = &mut self.gtids {
            set.add(gtid);
        }
        if let Some(passing) = &mut self.passing
            && passing.is_last(gtid)
        {
            passing.remove_domain(gtid);
            if passing.is_empty() {
                self.passing = None;
            }
        }
    }

    fn full(&self) -> bool {
        self.giving.is_some() || self.altered.is_some() || self.out.len() >= self.room.batch_bytes
    }

    /// Works off what is at hand until it ends or something has to be given out first; `false` if nothing was.
    fn work_off(&mut self) -> Result<bool> {
        if let Some(mut payload) = self.payload.take() {
            let mut done = 0;
            while done < TURN && !self.full() {
                match payload.event() {
                    Ok(Some(event)) => self.on_event(&event, true)?,
                    Ok(None) => return Ok(true),
                    Err(e) => {
                        return Err(self.fail(codes::INTERNAL, "a compressed transaction cannot be unpacked").cause(e));
                    }
                }
                done += payload.last_length();
            }
            self.payload = Some(payload);
            return Ok(true);
        }
        let Some((block, mut at)) = self.current.take() else { return Ok(false) };
        loop {
            let next = match block.event_at(at) {
                Ok(next) => next,
                Err(e) => return Err(self.broken(e)),
            };
            let Some((bytes, after)) = next else { return Ok(true) };
            at = after;
            self.on_bytes(bytes)?;
            if self.full() || self.payload.is_some() {
                self.current = Some((block, at));
                return Ok(true);
            }
        }
    }

    /// One event of the log.
    fn on_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let event = Event::parse(bytes, self.checksums);
        let event =
            event.map_err(|e| self.fail(codes::CONNECTION, "a damaged event").cause(e).with_retry(Retry::Other))?;
        if event.head.kind == kind::TRANSACTION_PAYLOAD {
            self.move_to(&event.head);
            return self.unpack(Payload::of_bytes(Bytes::copy_from_slice(event.body)));
        }
        self.on_event(&event, false)
    }

    fn on_large(&mut self, large: Large) -> Result<()> {
        match large {
            Large::Memory(bytes) => self.on_bytes(&bytes),
            Large::File { head, file, expected, found } => {
                if self.checksums == Checksums::Crc32 && expected != found {
                    return Err(self.fail(codes::CONNECTION, "a damaged event").with_retry(Retry::Other));
                }
                self.move_to(&head);
                self.unpack(Payload::of_file(file))
            }
        }
    }

    fn unpack(&mut self, payload: std::io::Result<Payload>) -> Result<()> {
        let failed = |e| self.fail(codes::INTERNAL, "a compressed transaction cannot be unpacked").cause(e);
        self.payload = Some(payload.map_err(failed)?);
        Ok(())
    }

    /// Why the dump broke off. The server has one number for a file that is gone and for other ends of a dump: which it was shows when the stream is
    /// opened again, so that is tried.
    fn broken(&self, error: DumpError) -> Error {
        let what = format!("the change stream broke off at {}", self.place);
        match error {
            DumpError::Server { number, message } => {
                let server = mysql_async::ServerError { code: number, message, state: "HY000".into() };
                let error = crate::errors::classify(&mysql_async::Error::Server(server), Fault::Source, what);
                if error.code == codes::POSITION_LOST || number == SAME_REPLICA {
                    return Error { code: codes::CONNECTION.into(), retry: Retry::Other, ..error };
                }
                error
            }
            DumpError::Spill(..) => Error::new(codes::STATE, Fault::Drover, Retry::Other, what).cause(error),
            DumpError::Protocol(_) => Error::new(codes::INTERNAL, Fault::Source, Retry::Other, what).cause(error),
            _ => Error::new(codes::CONNECTION, Fault::Source, Retry::Connection, what).cause(error),
        }
    }

    /// Waits for what comes next; `None` if an empty stretch is due.
    async fn arrive(&mut self) -> Result<Option<Arrived>> {
        let due = self.empty_due();
        tokio::select! {
            arrived = self.dump.next() => arrived.map(Some).map_err(|e| self.broken(e)),
            () = tokio::time::sleep(SILENCE), if self.beats => {
                let what = format!("the source has been silent for {} s, heartbeats included", SILENCE.as_secs());
                Err(Error::new(codes::CONNECTION, Fault::Source, Retry::Connection, what))
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Ok(None),
        }
    }

    async fn advance(&mut self) -> Result<Option<Batch>> {
        if self.work_off()? {
            // A large transaction is unpacked in turns.
            if self.payload.is_some() {
                tokio::task::yield_now().await;
            }
            return Ok(None);
        }
        let arrived = if self.out.is_empty() {
            match self.arrive().await? {
                Some(arrived) => arrived,
                None => return self.cut().map(Some),
            }
        } else {
            // Nothing more at hand: give out what there is.
            match self.dump.next().now_or_never() {
                Some(arrived) => arrived.map_err(|e| self.broken(e))?,
                None => return self.cut().map(Some),
            }
        };
        match arrived {
            Arrived::Block(block) => self.current = Some((block, 0)),
            Arrived::Large(large) => self.on_large(large)?,
        }
        Ok(None)
    }
}

/// Microseconds since the Unix epoch by our clock.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

#[async_trait]
impl ChangeStream for Changes {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.early.take() {
                return Ok(batch);
            }
            if let Some(batch) = self.altered.take() {
                return Ok(batch);
            }
            if let Some(batch) = self.piece()? {
                return Ok(batch);
            }
            if self.out.len() >= self.room.batch_bytes {
                return self.cut();
            }
            if let Some(error) = &self.failed {
                let error = error.clone();
                // What came before it goes out first.
                return if self.out.is_empty() { Err(error) } else { self.cut() };
            }
            match self.advance().await {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(error) => self.failed = Some(error),
            }
        }
    }

    /// A binary log is forgotten by the server's own rules: nothing is held back for drover.
    async fn confirm(&mut self, _position: &Position) -> Result<()> {
        Ok(())
    }
}
