//! The pieces of a huge transaction on their way from the log, apart from the loop: looked at as they come, so that its keys are known before it is
//! executed, and read again when they are to be executed. Guarantee: the keys that [`look`] gives are those of every piece of the
//! transaction, or there are none; [`again`] reads exactly the records that were looked at.

use crate::compact::{KeySet, Parts, Shapes};
use crate::consume::reread;
use crate::schedule::BatchId;
use crate::session::mode_of;
use crate::windows::Mode;
use bytes::Bytes;
use drover_log::{Log, Offset, Reader, Stream};
use drover_model::{MigrationId, Position, Result};
use drover_runtime::memory::{Account, Taken};
use drover_runtime::task;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What all pieces of a huge transaction have in common.
#[derive(Clone)]
pub(super) struct Whose {
    pub id: BatchId,
    pub to: Position,
    pub migration: MigrationId,
    pub shapes: Arc<Shapes>,
    pub modes: Arc<Vec<Mode>>,
}

impl Whose {
    fn fold(&self, payload: Bytes, in_order: bool) -> Result<Box<Parts>> {
        Parts::new(self.shapes.clone(), &[payload], |t| mode_of(&self.modes, t), in_order).map(Box::new)
    }
}

/// A piece as it was read.
pub(super) struct Look {
    pub payload: Bytes,
    pub taken: Arc<Taken>,
    /// Executed change by change.
    pub in_order: bool,
    pub last: bool,
}

/// The keys of a transaction, and their bytes of the account of keys.
#[derive(Debug)]
pub(super) struct Known {
    pub keys: KeySet,
    pub taken: Option<Taken>,
}

/// What the keys of a transaction are, as far as it was looked at.
#[derive(Debug)]
pub(super) enum Keys {
    Coming,
    /// All of them.
    All(Known),
    /// The schedule has been told of them; what they take is taken until the transaction is committed.
    Told {
        _taken: Option<Taken>,
    },
    /// There are too many, or a piece cannot be understood before it is its turn: nothing runs beside this transaction.
    Unknown,
}

/// News of a piece, for the loop.
pub(super) enum Seen {
    /// The next piece of the transaction was looked at. `round`: of how many attempts of extractors.
    Looked {
        id: BatchId,
        round: u32,
        piece: Result<Box<Parts>>,
        taken: Arc<Taken>,
        in_order: bool,
        bytes: usize,
        keys: Keys,
    },
    /// The next piece that was asked for was read again, or cannot be read. `attempt`: of how many executions.
    Again { id: BatchId, attempt: u32, read: Result<(Result<Box<Parts>>, Taken)> },
}

pub(super) type Tell = mpsc::UnboundedSender<Seen>;

/// Folds pieces in turn and gathers their keys, up to the last one's. Pieces have bytes of an account until they are told of.
pub(super) fn look(
    whose: Whose,
    round: u32,
    account: Arc<Account>,
    tell: Tell,
) -> (mpsc::UnboundedSender<Look>, task::Owned<()>) {
    let (send, mut pieces) = mpsc::unbounded_channel::<Look>();
    let looking = task::spawn("pieces ahead", async move {
        let mut gathered = Some(Gathered::new(account));
        while let Some(Look { payload, taken, in_order, last }) = pieces.recv().await {
            let bytes = payload.len();
            let piece = whose.fold(payload, in_order);
            let counted = match (&piece, &mut gathered) {
                (Ok(parts), Some(gathered)) => gathered.add(parts.keys()),
                _ => false,
            };
            if !counted {
                gathered = None;
            }
            let keys = match gathered.take_if(|_| last) {
                Some(all) => Keys::All(all.end()),
                None if gathered.is_none() => Keys::Unknown,
                None => Keys::Coming,
            };
            let id = whose.id;
            if tell.send(Seen::Looked { id, round, piece, taken, in_order, bytes, keys }).is_err() {
                return;
            }
        }
    });
    (send, looking)
}

/// Keys of the pieces so far.
struct Gathered {
    keys: KeySet,
    account: Arc<Account>,
    taken: Option<Taken>,
}

/// A hash.
const KEY: usize = size_of::<u64>();

impl Gathered {
    fn new(account: Arc<Account>) -> Gathered {
        Gathered { keys: KeySet::default(), account, taken: None }
    }

    /// Adds a piece's; says whether there was room.
    fn add(&mut self, more: KeySet) -> bool {
        let wanted = self.keys.len() + more.len();
        if !self.covers(wanted) {
            // Rows that change again and again are there again and again.
            self.keys.sort();
            if !self.covers(self.keys.len() + more.len()) {
                return false;
            }
        }
        self.keys.add(more);
        true
    }

    fn covers(&mut self, hashes: usize) -> bool {
        let bytes = hashes * KEY;
        bytes <= self.account.limit() && Taken::cover(&mut self.taken, &self.account, bytes)
    }

    fn end(mut self) -> Known {
        self.keys.sort();
        if let Some(taken) = &mut self.taken {
            taken.shrink(self.keys.len() * KEY);
        }
        Known { keys: self.keys, taken: self.taken }
    }
}

/// A piece to be read again.
pub(super) struct Wanted {
    pub index: u32,
    pub offset: Offset,
}

/// Reads pieces again, each at its offset, and folds them; waits for room in the account that they are to be kept in.
pub(super) fn again(
    whose: Whose,
    attempt: u32,
    in_order: bool,
    log: Arc<dyn Log>,
    room: Arc<Account>,
    tell: Tell,
) -> (mpsc::UnboundedSender<Wanted>, task::Owned<()>) {
    let (send, mut wanted) = mpsc::unbounded_channel::<Wanted>();
    let reading = task::spawn("pieces again", async move {
        let mut reader: Option<Box<dyn Reader>> = None;
        while let Some(next) = wanted.recv().await {
            let read = read(&*log, &mut reader, &whose, &next).await;
            let read = match read {
                Ok(payload) => {
                    let taken = room.hold(payload.len()).await;
                    Ok((whose.fold(payload, in_order), taken))
                }
                Err(error) => Err(error),
            };
            let end = read.is_err();
            if tell.send(Seen::Again { id: whose.id, attempt, read }).is_err() || end {
                return;
            }
        }
    });
    (send, reading)
}

async fn read(log: &dyn Log, reader: &mut Option<Box<dyn Reader>>, whose: &Whose, next: &Wanted) -> Result<Bytes> {
    let reader = match reader {
        Some(reader) => reader,
        none => none.insert(log.reader(Stream::Changes, next.offset).await?),
    };
    reread(&mut **reader, next.offset, whose.migration, &whose.to, next.index).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::at;
    use crate::loop_tests::{ID, description, insert, row, tx, update};

    fn whose() -> Whose {
        let shapes = Arc::new(Shapes::new(&description().plans, &[]));
        Whose { id: 7, to: at(2), migration: ID, shapes, modes: Arc::new(vec![Mode::Strict; 2]) }
    }

    fn payload(changes: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        tx(2, changes).1.into()
    }

    /// What is told of these pieces, looked at with room for so many keys.
    async fn looked(pieces: &[Bytes], room: usize) -> (Vec<bool>, Keys) {
        let (keys, read) = (Account::new("test: keys", room * KEY), Account::new("test: read", 1 << 20));
        let (tell, mut seen) = mpsc::unbounded_channel();
        let (send, _task) = look(whose(), 3, keys.clone(), tell);
        for (n, payload) in pieces.iter().enumerate() {
            let taken = Arc::new(read.hold(payload.len()).await);
            let last = n + 1 == pieces.len();
            assert!(send.send(Look { payload: payload.clone(), taken, in_order: false, last }).is_ok());
        }
        let (mut folded, mut known) = (Vec::new(), Keys::Coming);
        for _ in pieces {
            let Some(Seen::Looked { id: 7, round: 3, piece, keys, .. }) = seen.recv().await else { panic!() };
            assert!(matches!(known, Keys::Coming) || matches!((&known, &keys), (Keys::Unknown, Keys::Unknown)));
            folded.push(piece.is_ok());
            known = keys;
        }
        assert_eq!(read.held(), 0, "what was told of is given back");
        let taken = match &known {
            Keys::All(Known { keys, .. }) => keys.len() * KEY,
            _ => 0,
        };
        assert_eq!(keys.held(), taken);
        (folded, known)
    }

    #[tokio::test]
    async fn the_keys_are_those_of_all_pieces_or_none() {
        let pieces = [0..3, 0..3, 2..6].map(|ids: std::ops::Range<u64>| {
            payload(|out| {
                ids.clone().for_each(|id| update(out, 0, &row(id, "x")));
                update(out, 1, &row(ids.start, "y"));
            })
        });
        let all = Parts::new(whose().shapes, &pieces, |_| Mode::Strict, false).unwrap().keys();
        assert_eq!((all.len(), &all.tables[..]), (6 + 2, &[0, 1][..]));
        let (folded, keys) = looked(&pieces, 100).await;
        assert!(folded.iter().all(|f| *f));
        assert!(matches!(keys, Keys::All(known) if known.keys == all));
        // Less room than for the sum of the pieces' keys, of which some are the same.
        assert!(matches!(looked(&pieces, 9).await.1, Keys::All(known) if known.keys == all));
        assert!(matches!(looked(&pieces, 8).await.1, Keys::Unknown));
        // A row is inserted twice.
        let wrong = payload(|out| (0..2).for_each(|_| insert(out, 0, &row(8, "x"))));
        let (folded, keys) = looked(&[pieces[0].clone(), wrong, pieces[1].clone()], 100).await;
        assert_eq!(folded, [true, false, true]);
        assert!(matches!(keys, Keys::Unknown));
    }
}
