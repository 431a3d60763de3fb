//! Transactions on their way out: whole, in pieces, or in parts with schema changes between them. A part has its own interval of positions; within a
//! transaction these lie in its commit record, where no other position can be.

use super::{Changes, EMPTY_EVERY, position, spilled};
use crate::lsn::Lsn;
use drover_connectors_api::{Batch, Piece};
use drover_model::change;
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};
use drover_runtime::memory::{Account, Taken};
use drover_runtime::spill::{Spill, SpillReader};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::time::Instant;

/// A place within a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within {
    /// Where the transaction's commit record begins.
    commit: Lsn,
    /// Parts before it.
    parts: u32,
    /// Changes and schema changes before it, as the log tells them.
    changes: u64,
}

impl Within {
    /// As a position. `before`: up to where the log is behind, the transaction not included.
    fn position(&self, before: Lsn) -> Position {
        let order = (self.commit.0 + u64::from(self.parts)).to_be_bytes().to_vec();
        let mut resume = before.0.to_be_bytes().to_vec();
        resume.extend_from_slice(&self.commit.0.to_be_bytes());
        resume.extend_from_slice(&self.parts.to_be_bytes());
        resume.extend_from_slice(&self.changes.to_be_bytes());
        Position { lineage: 0, order, resume, text: format!("{}+{}", self.commit, self.parts) }
    }

    /// Where a position lies within a transaction; `None`: between two.
    pub fn of(position: &Position) -> Option<Within> {
        let rest = position.resume.get(8..)?;
        let (commit, rest) = rest.split_first_chunk::<8>()?;
        let (parts, rest) = rest.split_first_chunk::<4>()?;
        let changes = rest.first_chunk::<8>()?;
        Some(Within {
            commit: Lsn(u64::from_be_bytes(*commit)),
            parts: u32::from_be_bytes(*parts),
            changes: u64::from_be_bytes(*changes),
        })
    }

    /// Whether the transaction that begins is the one that was given out in part.
    pub(super) fn at(wanted: &mut Option<Within>, commit: Lsn) -> Result<Option<Within>> {
        match wanted {
            Some(w) if w.commit == commit => Ok(wanted.take()),
            Some(w) if w.commit < commit => {
                let what = format!(
                    "the transaction committed at {} was given out in part, and the source does not have it any more",
                    w.commit
                );
                Err(Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, what)
                    .remedy("begin again: `drover cleanup`, then run the migration anew"))
            }
            _ => Ok(None),
        }
    }
}

/// A transaction that is not yet committed.
pub(super) struct Open {
    pub buffer: Vec<u8>,
    pub changes: u64,
    pub spill: Option<Spill>,
    /// Of the buffer.
    taken: Option<Taken>,
    commit: Lsn,
    /// Changes and schema changes so far, and how many of them have been given out.
    seen: u64,
    behind: u64,
    /// Parts so far, those included that have been given out.
    count: u32,
    parts: Vec<(Part, Within)>,
    /// Tables whose rows are being written anew, and why.
    pub rewritten: HashMap<u32, i32>,
}

enum Part {
    Rows { buffer: Vec<u8>, changes: u64, spill: Option<Spill>, taken: Option<Taken> },
    Schema(Box<SchemaChange>),
}

impl Open {
    pub fn new(buffer: Vec<u8>, commit: Lsn, within: Option<Within>) -> Open {
        Open {
            buffer,
            changes: 0,
            spill: None,
            taken: None,
            commit,
            seen: 0,
            behind: within.map_or(0, |w| w.changes),
            count: within.map_or(0, |w| w.parts),
            parts: Vec::new(),
            rewritten: HashMap::new(),
        }
    }

    /// The next change; whether it has been given out.
    pub fn passes(&mut self) -> bool {
        self.seen += 1;
        self.seen <= self.behind
    }

    /// Changes that have come so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    fn push(&mut self, part: Part, changes: u64) {
        self.count += 1;
        self.parts.push((part, Within { commit: self.commit, parts: self.count, changes }));
    }

    /// Whether there is room for so many bytes in the buffer.
    pub fn covers(&mut self, room: &Arc<Account>, bytes: usize) -> bool {
        Taken::cover(&mut self.taken, room, bytes)
    }

    /// The rows so far are a part.
    fn rows(&mut self, changes: u64) {
        if !self.buffer.is_empty() || self.spill.is_some() {
            // It stays as it is until the commit.
            self.buffer.shrink_to_fit();
            if let Some(taken) = &mut self.taken {
                taken.shrink(self.buffer.len());
            }
            let part = Part::Rows {
                buffer: std::mem::take(&mut self.buffer),
                changes: std::mem::take(&mut self.changes),
                spill: self.spill.take(),
                taken: self.taken.take(),
            };
            self.push(part, changes);
        }
    }

    /// A schema change stands here. `before_last`: the change that was seen last comes behind it.
    pub fn schema(&mut self, change: SchemaChange, before_last: bool) {
        self.rows(self.seen - 1);
        self.push(Part::Schema(Box::new(change)), self.seen - u64::from(before_last));
    }
}

/// What goes out.
pub(super) enum Out {
    /// With what it had in memory as a part of a transaction.
    Batch(Batch, Option<Taken>),
    Pieces(Giving),
}

/// A spilled transaction, or a part of one, that is given out piece by piece.
pub(super) struct Giving {
    /// Open from its first piece on, if it is known that there is one: several may wait behind each other.
    reader: Reader,
    aborted: HashSet<u32>,
    begin: change::Begin,
    from: Position,
    next: u32,
    /// A piece read ahead, so that the last is known to be the last.
    ahead: Option<(Vec<u8>, u64)>,
}

enum Reader {
    Waiting(Option<Spill>),
    Open(SpillReader),
}

impl Giving {
    /// `None`: there is nothing in it, or everything was rolled back.
    fn new(
        mut spill: Spill,
        last: (&[u8], u64),
        aborted: HashSet<u32>,
        begin: change::Begin,
        from: Position,
        batch_bytes: usize,
    ) -> Result<Option<Giving>> {
        spill.add(0, last.0, last.1).map_err(spilled)?;
        if spill.is_empty() {
            return Ok(None);
        }
        spill.rest().map_err(spilled)?;
        let (maybe_nothing, reader) = (!aborted.is_empty(), Reader::Waiting(Some(spill)));
        let mut giving = Giving { reader, aborted, begin, from, next: 0, ahead: None };
        if maybe_nothing {
            giving.open(batch_bytes)?;
        }
        Ok((!maybe_nothing || giving.ahead.is_some()).then_some(giving))
    }

    /// Reads the first piece, if that has not been done.
    fn open(&mut self, batch_bytes: usize) -> Result<()> {
        if let Reader::Waiting(spill) = &mut self.reader
            && let Some(spill) = spill.take()
        {
            let mut reader = spill.into_reader().map_err(spilled)?;
            self.ahead = reader.next_piece(batch_bytes, &self.aborted).map_err(spilled)?;
            self.reader = Reader::Open(reader);
        }
        Ok(())
    }

    /// The next piece, and whether it is the last.
    fn piece(&mut self, batch_bytes: usize) -> Result<Option<(Batch, bool)>> {
        self.open(batch_bytes)?;
        let (Some((mut payload, changes)), Reader::Open(reader)) = (self.ahead.take(), &mut self.reader) else {
            return Ok(None);
        };
        self.ahead = reader.next_piece(batch_bytes, &self.aborted).map_err(spilled)?;
        let last = self.ahead.is_none();
        if self.next == 0 {
            let mut head = Vec::with_capacity(payload.len() + 64);
            change::put_begin(&mut head, &self.begin);
            head.extend_from_slice(&payload);
            payload = head;
        }
        if last {
            change::put_end(&mut payload);
        }
        let batch = Batch {
            from: self.from.clone(),
            to: self.begin.position.clone(),
            payload: payload.into(),
            piece: Some(Piece { index: self.next, last }),
            transactions: u32::from(last),
            changes,
            commit_micros: self.begin.commit_micros,
            schema: None,
        };
        self.next += 1;
        Ok(Some((batch, last)))
    }
}

impl Changes {
    /// The next of what waits to go out.
    pub(super) fn queued(&mut self) -> Result<Option<Batch>> {
        let batch = match self.queue.pop_front() {
            None => return Ok(None),
            Some(Out::Batch(batch, taken)) => {
                // It is the caller's from here on.
                drop(taken);
                batch
            }
            Some(Out::Pieces(mut giving)) => {
                let Some((batch, last)) = giving.piece(self.batch_bytes)? else {
                    return Err(Error::internal("a transaction in pieces has none left"));
                };
                if !last {
                    self.queue.push_front(Out::Pieces(giving));
                }
                batch
            }
        };
        self.empty_due = Instant::now() + EMPTY_EVERY;
        Ok(Some(batch))
    }

    /// A transaction ended. Small ones join the batch; for a spilled one, or one in parts, the batch so far is given out first.
    pub(super) fn commit(&mut self, mut open: Open, aborted: HashSet<u32>, end: Lsn, micros: i64) -> Result<()> {
        let before = self.to;
        self.to = end;
        self.commit_micros = micros;
        if open.parts.is_empty() && open.spill.is_none() {
            if !open.buffer.is_empty() {
                change::put_begin(&mut self.out, &change::Begin { position: position(end), commit_micros: micros });
                self.out.extend_from_slice(&open.buffer);
                change::put_end(&mut self.out);
                self.transactions += 1;
                self.changes += open.changes;
            }
            self.spare = open.buffer;
            self.spare.clear();
            return Ok(());
        }
        if !self.out.is_empty() {
            self.to = before;
            let early = self.cut();
            self.queue.push_back(Out::Batch(early, None));
            self.to = end;
        }
        // From where the server sends the transaction again.
        let resend = super::lsn_of(&self.from)?;
        let seen = open.seen;
        open.rows(seen);
        let last = open.parts.len() - 1;
        for (i, (part, within)) in open.parts.into_iter().enumerate() {
            let to = if i == last { position(end) } else { within.position(resend) };
            if i != last && within.commit.0 + u64::from(within.parts) >= end.0 {
                let what = "a transaction has more schema changes among its rows than can be told apart";
                return Err(Error::new(codes::UNSUPPORTED, Fault::Source, Retry::Never, what)
                    .remedy("migrate the tables that it changed again"));
            }
            let from = std::mem::replace(&mut self.from, to.clone());
            let begin = change::Begin { position: to.clone(), commit_micros: micros };
            let whole = |changes: u64, schema: Option<Box<SchemaChange>>, put: &dyn Fn(&mut Vec<u8>)| {
                let mut payload = Vec::new();
                change::put_begin(&mut payload, &begin);
                put(&mut payload);
                change::put_end(&mut payload);
                let (from, to) = (from.clone(), to.clone());
                let payload = payload.into();
                Batch { from, to, payload, piece: None, transactions: 1, changes, commit_micros: micros, schema }
            };
            let out = match part {
                Part::Schema(change) => {
                    let put = |out: &mut Vec<u8>| change::put_schema(out, &change);
                    Out::Batch(whole(0, Some(change.clone()), &put), None)
                }
                Part::Rows { buffer, changes, spill: None, taken } => {
                    Out::Batch(whole(changes, None, &|out| out.extend_from_slice(&buffer)), taken)
                }
                Part::Rows { buffer, changes, spill: Some(spill), .. } => {
                    let made =
                        Giving::new(spill, (&buffer, changes), aborted.clone(), begin, from.clone(), self.batch_bytes)?;
                    match made {
                        Some(giving) => Out::Pieces(giving),
                        // All of it was rolled back: the stretch is as good as empty, and begins where it began.
                        None => {
                            self.from = from;
                            continue;
                        }
                    }
                }
            };
            self.queue.push_back(out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_within_a_transaction_lie_between_those_around_it() {
        let within = Within { commit: Lsn(1000), parts: 2, changes: 7 };
        let place = within.position(Lsn(900));
        assert_eq!((super::super::lsn_of(&place).unwrap(), Within::of(&place)), (Lsn(900), Some(within)));
        assert!(position(Lsn(900)) < place && place < position(Lsn(1100)) && Within::of(&position(Lsn(900))).is_none());
        let mut wanted = Some(within);
        assert_eq!(Within::at(&mut wanted, Lsn(950)).unwrap(), None);
        assert_eq!(Within::at(&mut wanted, Lsn(1000)).unwrap(), Some(within));
        assert!(wanted.is_none() && Within::at(&mut Some(within), Lsn(1200)).is_err());
        // The first two of three changes were given out.
        let mut open = Open::new(Vec::new(), Lsn(1000), Some(Within { changes: 2, ..within }));
        assert_eq!([open.passes(), open.passes(), open.passes()], [true, true, false]);
    }

    #[test]
    fn parts_that_wait_for_the_commit_are_counted() {
        let room = Account::new("test: parts of a transaction", 100_000);
        let mut open = Open::new(Vec::new(), Lsn(1000), None);
        assert!(open.covers(&room, 30_000));
        open.buffer.extend(vec![7; 30_000]);
        open.rows(1);
        assert_eq!((room.held(), open.buffer.capacity()), (30_000, 0));
        assert!(open.covers(&room, 70_000) && !open.covers(&room, 70_001));
        drop(open);
        assert_eq!(room.held(), 0);
    }
}
