//! Taking change records in. Guarantee: every transaction after the starting position is handed on exactly once, in commit order,
//! or the reading fails; what an extractor published twice, or a dead one slipped in, changes nothing.
//!
//! [`Gate`] is the pure core. It knows what it *has* (everything up to a position), the newest epoch it saw, and, inside a huge transaction that
//! comes in pieces, which piece is next. For a record covering `(from, to]`:
//!
//! | record                                        | verdict                                             |
//! |-----------------------------------------------|-----------------------------------------------------|
//! | other format, other migration, `from > to`    | LOG error                                           |
//! | epoch older than the newest seen              | drop                                                |
//! | epoch newer                                   | an unfinished huge transaction is discarded, then … |
//! | `to <= have`                                  | drop                                                |
//! | `from > have`                                 | LOG error: a gap                                    |
//! | whole transactions, `from <= have < to`       | take those after `have`                             |
//! | piece 0                                       | take; one under way is discarded: it begins again   |
//! | piece `n`, the next one of the one under way  | take; with the last one `to` is what we have        |
//! | piece `n`, one that we have (same `to`)       | drop                                                |
//! | any other piece                               | LOG error: a gap                                    |
//!
//! Where to start after a restart: the reader begins at the stream's first record and skips by the heads alone what lies
//! behind the applied position. The log keeps little behind it, so this is cheap; no offset has to be stored.

use bytes::Bytes;
use drover_log::{Log, Offset, Reader, Stream};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};
use drover_proto::record::parse;
use drover_proto::v1::{ChangesHead, Compression};
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Format of records that is understood.
pub(crate) const VERSION: u32 = 1;
/// A record decompresses to this at most.
const MOST: usize = 256 << 20;

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing of it is new, or it is a dead extractor's.
    Drop,
    /// Whole transactions: those after `have` are new. There may be none: then only the position moves.
    Whole,
    /// The next piece of a huge transaction.
    Piece { first: bool, last: bool },
}

/// A verdict with its circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    pub verdict: Verdict,
    /// Pieces taken before are to be forgotten.
    pub discard: bool,
    /// What we had before this record.
    pub have: Position,
    pub to: Position,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Partial {
    to: Position,
    next: u32,
}

/// Decides about records by their heads. See the module.
#[derive(Debug, Clone)]
pub struct Gate {
    migration: MigrationId,
    have: Position,
    epoch: u64,
    partial: Option<Partial>,
}

impl Gate {
    /// Everything up to `have` is applied.
    pub fn new(migration: MigrationId, have: Position) -> Self {
        Gate { migration, have, epoch: 0, partial: None }
    }

    /// Everything up to here has been handed on.
    pub fn have(&self) -> &Position {
        &self.have
    }

    /// Decides about the next record.
    ///
    /// # Errors
    /// LOG, see the table above. The gate is not usable afterwards.
    pub fn admit(&mut self, head: &ChangesHead) -> Result<Admitted> {
        if head.version != VERSION {
            return Err(broken(format!("a changes record has format {}, not {VERSION}", head.version))
                .remedy("run the same version of drover everywhere"));
        }
        if head.migration[..] != self.migration.as_bytes()[..] {
            return Err(
                broken("a changes record belongs to another migration").remedy("give each migration a log of its own")
            );
        }
        let position =
            |bytes: &[u8]| Position::from_bytes(bytes).map_err(|e| broken("a changes record has no position").cause(e));
        let (from, to) = (position(&head.from)?, position(&head.to)?);
        if from > to {
            return Err(broken(format!("a changes record goes backwards, from {from} to {to}")));
        }
        let have = self.have.clone();
        let drop = |discard| Admitted { verdict: Verdict::Drop, discard, have: have.clone(), to: to.clone() };
        if head.epoch < self.epoch {
            return Ok(drop(false));
        }
        let mut discard = head.epoch > self.epoch && self.partial.take().is_some();
        self.epoch = head.epoch;
        if to <= self.have {
            return Ok(drop(discard));
        }
        if from > self.have {
            return Err(gap(&self.have, &from));
        }
        let verdict = if !head.pieces {
            discard |= self.partial.take().is_some();
            self.have = to.clone();
            Verdict::Whole
        } else {
            match &self.partial {
                _ if head.piece == 0 => discard |= self.partial.take().is_some(),
                Some(p) if p.to == to && head.piece == p.next => {}
                Some(p) if p.to == to && head.piece < p.next => return Ok(drop(discard)),
                _ => {
                    return Err(broken(format!(
                        "piece {} of the transaction at {to} came, but not the one before it",
                        head.piece
                    ))
                    .remedy(drover_log::BEGIN_AGAIN));
                }
            }
            if head.last_piece {
                self.partial = None;
                self.have = to.clone();
            } else {
                self.partial = Some(Partial { to: to.clone(), next: head.piece + 1 });
            }
            Verdict::Piece { first: head.piece == 0, last: head.last_piece }
        };
        Ok(Admitted { verdict, discard, have, to })
    }
}

fn broken(what: impl Into<String>) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, what)
}

fn gap(have: &Position, from: &Position) -> Error {
    broken(format!("the log has a gap: changes after {have} up to {from} are missing")).remedy(drover_log::BEGIN_AGAIN)
}

/// A record that was let in.
#[derive(Debug)]
pub struct Record {
    pub head: ChangesHead,
    pub admitted: Admitted,
    pub payload: Bytes,
}

/// Reads the changes stream through a [`Gate`].
pub struct Consumer {
    reader: Box<dyn Reader>,
    gate: Gate,
}

impl Consumer {
    /// Reads everything after `have`.
    ///
    /// # Errors
    /// Those of the log. That the first records are gone shows as a gap with the first one read.
    pub async fn open(log: &dyn Log, migration: MigrationId, have: Position) -> Result<Self> {
        let span = log.span(Stream::Changes).await?;
        let reader = log.reader(Stream::Changes, span.first).await?;
        Ok(Consumer { reader, gate: Gate::new(migration, have) })
    }

    /// The next record, and its offset; those that are dropped come without payload. Cancel-safe.
    ///
    /// # Errors
    /// LOG: a gap, damage, another migration; and those of the log.
    pub async fn next(&mut self) -> Result<(Offset, Record)> {
        let (offset, bytes) = self.reader.next().await?;
        let (head, payload) = parse::<ChangesHead>(bytes)
            .map_err(|e| broken(format!("the record at offset {offset} of the changes cannot be read")).cause(e))?;
        let admitted = self.gate.admit(&head)?;
        let payload = match admitted.verdict {
            Verdict::Drop => Bytes::new(),
            _ => expand(head.compression, payload)?,
        };
        Ok((offset, Record { head, admitted, payload }))
    }
}

/// The payload of a piece that was let in before, from a reader that stands at it or before it.
///
/// # Errors
/// LOG when the record is gone, damaged, or another one than that piece of the transaction that ends at `to`.
pub async fn reread(
    reader: &mut dyn Reader,
    offset: Offset,
    migration: MigrationId,
    to: &Position,
    piece: u32,
) -> Result<Bytes> {
    let record = loop {
        let (at, record) = reader.next().await?;
        match at.cmp(&offset) {
            Ordering::Less => {}
            Ordering::Equal => break record,
            Ordering::Greater => return Err(broken(format!("the record at offset {offset} of the changes is gone"))),
        }
    };
    let (head, payload) = parse::<ChangesHead>(record)
        .map_err(|e| broken(format!("the record at offset {offset} of the changes cannot be read")).cause(e))?;
    let same = head.migration[..] == migration.as_bytes()[..] && head.pieces && head.piece == piece;
    if !same || Position::from_bytes(&head.to).ok().as_ref() != Some(to) {
        return Err(broken(format!("the record at offset {offset} of the changes is another one than it was")));
    }
    expand(head.compression, payload)
}

/// Undoes a record's compression.
///
/// # Errors
/// LOG when it is damaged or unknown.
pub fn expand(compression: i32, payload: Bytes) -> Result<Bytes> {
    match Compression::try_from(compression) {
        Ok(Compression::None) => Ok(payload),
        Ok(Compression::Zstd) => {
            use std::io::Read;
            let mut out = Vec::with_capacity(payload.len() * 3);
            let read = zstd::stream::read::Decoder::new(&payload[..])
                .and_then(|d| d.take(MOST as u64 + 1).read_to_end(&mut out))
                .map_err(|e| broken("a record cannot be decompressed").cause(e))?;
            if read > MOST {
                return Err(broken("a record decompresses to more than drover writes"));
            }
            Ok(Bytes::from(out))
        }
        Err(_) => Err(broken(format!("a record has the unknown compression {compression}"))),
    }
}

/// Which records may be deleted: remembers where in the stream positions and commit times lie. Sparse: one mark for some megabytes.
#[derive(Debug, Default)]
pub struct Trail {
    marks: VecDeque<(Offset, Position, i64)>,
    since: usize,
}

/// Bytes between two marks.
const STRIDE: usize = 4 << 20;

impl Trail {
    /// A record of `bytes` bytes at `offset` ended at `to`.
    pub fn note(&mut self, offset: Offset, to: &Position, commit_micros: i64, bytes: usize) {
        self.since += bytes;
        if self.since >= STRIDE || self.marks.is_empty() {
            self.since = 0;
            self.marks.push_back((offset, to.clone(), commit_micros));
        }
    }

    /// The offset before which nothing is needed any more: everything before it is durably applied (`durable`) and was committed at the
    /// source before `until` (microseconds).
    pub fn trim(&mut self, durable: &Position, until: i64) -> Option<Offset> {
        let mut last = None;
        while self.marks.front().is_some_and(|(_, to, micros)| to <= durable && *micros <= until) {
            last = self.marks.pop_front().map(|(offset, _, _)| offset);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Position {
        Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
    }
    const ID: MigrationId = MigrationId::from_u128(7);

    fn head(epoch: u64, from: u64, to: u64) -> ChangesHead {
        ChangesHead {
            version: 1,
            migration: ID.as_bytes().to_vec().into(),
            epoch,
            from: at(from).to_bytes().into(),
            to: at(to).to_bytes().into(),
            ..Default::default()
        }
    }
    fn piece(epoch: u64, to: u64, n: u32, last: bool) -> ChangesHead {
        ChangesHead { pieces: true, piece: n, last_piece: last, ..head(epoch, to - 1, to) }
    }

    #[test]
    fn what_is_not_ours_stops_the_reader() {
        let mut other = head(1, 0, 1);
        other.migration = MigrationId::from_u128(8).as_bytes().to_vec().into();
        let mut newer = head(1, 0, 1);
        newer.version = 2;
        for bad in [other, newer, head(1, 3, 2), head(1, 6, 7)] {
            assert_eq!(Gate::new(ID, at(5)).admit(&bad).unwrap_err().code, codes::LOG);
        }
    }

    /// All sequences of four records out of all cuts of transactions 1..=4 by two epochs: whatever is let in covers each transaction once, in
    /// order; or the gate fails.
    #[test]
    fn each_transaction_once_whatever_comes() {
        let mut records = Vec::new();
        for epoch in 1..=2 {
            for from in 0..4 {
                for to in from..=4 {
                    records.push((epoch, from, to));
                }
            }
        }
        let n = records.len();
        let (mut complete, mut failed) = (0, 0);
        for code in 0..n.pow(4) {
            let mut gate = Gate::new(ID, at(0));
            let (mut applied, mut epoch, mut rest) = (0, 0, code);
            for _ in 0..4 {
                let (e, from, to) = records[rest % n];
                rest /= n;
                let Ok(a) = gate.admit(&head(e, from, to)) else {
                    assert!(from > applied && e >= epoch, "only a gap fails");
                    failed += 1;
                    break;
                };
                assert_eq!(a.verdict == Verdict::Whole, e >= epoch && from <= applied && to > applied);
                epoch = epoch.max(e);
                if a.verdict == Verdict::Whole {
                    assert_eq!(a.have, at(applied));
                    applied = to;
                }
                assert_eq!(gate.have(), &at(applied));
            }
            complete += u32::from(applied == 4);
        }
        assert!(complete > 1000 && failed > 1000);
    }

    /// All sequences of five out of all pieces of a transaction of three, by two epochs, and the same transaction whole.
    #[test]
    fn pieces_come_from_one_attempt_without_holes() {
        let all: Vec<ChangesHead> = (1..=2)
            .flat_map(|e| [piece(e, 1, 0, false), piece(e, 1, 1, false), piece(e, 1, 2, true), head(e, 0, 1)])
            .collect();
        let n = all.len();
        let mut done = 0;
        for code in 0..n.pow(5) {
            let mut gate = Gate::new(ID, at(0));
            let mut taken: Vec<(u64, u32)> = Vec::new();
            let mut rest = code;
            for _ in 0..5 {
                let h = &all[rest % n];
                rest /= n;
                let finished = *gate.have() == at(1);
                let Ok(a) = gate.admit(h) else { break };
                if a.discard {
                    taken.clear();
                }
                match a.verdict {
                    Verdict::Drop => {}
                    Verdict::Whole => {
                        assert!(!finished && taken.is_empty());
                        done += 1;
                    }
                    Verdict::Piece { first, last } => {
                        assert!(!finished && first == taken.is_empty());
                        taken.push((h.epoch, h.piece));
                        assert!(taken.iter().enumerate().all(|(i, t)| *t == (h.epoch, i as u32)), "{taken:?}");
                        if last {
                            assert_eq!(taken.len(), 3);
                            done += 1;
                        }
                    }
                }
            }
        }
        assert!(done > 1000);
    }

    #[tokio::test]
    async fn a_piece_is_read_again_where_it_was_or_not_at_all() {
        let log = crate::fake::FakeLog::default();
        let push =
            |head: &ChangesHead, payload: &[u8]| log.push(Stream::Changes, drover_proto::record::frame(head, payload));
        push(&piece(1, 1, 0, false), b"one");
        push(&head(0, 0, 1), b"a late one");
        let at_1 = push(&piece(1, 1, 1, true), b"two");
        let read = async |from: Offset, offset: Offset, to: u64, index: u32| {
            let mut reader = log.reader(Stream::Changes, from).await.unwrap();
            reread(&mut *reader, offset, ID, &at(to), index).await
        };
        assert_eq!(read(0, 0, 1, 0).await.unwrap(), "one");
        assert_eq!(read(0, at_1, 1, 1).await.unwrap(), "two");
        for (from, offset, to, index) in [(0, at_1, 1, 0), (0, at_1, 2, 1), (0, 1, 1, 1), (at_1, 1, 1, 1)] {
            assert_eq!(read(from, offset, to, index).await.unwrap_err().code, codes::LOG);
        }
    }

    #[test]
    fn a_stretch_without_transactions_moves_the_position() {
        let mut gate = Gate::new(ID, at(5));
        assert_eq!(gate.admit(&head(1, 5, 9)).unwrap().verdict, Verdict::Whole);
        assert_eq!(gate.have(), &at(9));
    }

    #[test]
    fn compressed_payloads_come_back_and_damaged_ones_fail() {
        let data = vec![7u8; 100_000];
        let packed = Bytes::from(zstd::stream::encode_all(&data[..], 1).unwrap());
        assert_eq!(expand(Compression::Zstd as i32, packed.clone()).unwrap(), data);
        assert!(expand(Compression::Zstd as i32, packed.slice(..packed.len() - 3)).is_err());
        assert!(expand(9, packed).is_err());
    }

    #[test]
    fn only_what_is_applied_and_old_is_trimmed() {
        let mut trail = Trail::default();
        for n in 0..10 {
            trail.note(n, &at(n), n as i64 * 100, STRIDE);
        }
        assert_eq!(trail.trim(&at(3), 10_000), Some(3));
        assert_eq!(trail.trim(&at(9), 500), Some(5));
        assert_eq!(trail.trim(&at(9), 500), None);
    }
}
