//! A transaction too large for a batch, which comes in pieces. Guarantee: its pieces are executed one after the other, in order, in one
//! transaction at the destination; nothing with a key in common runs beside it, and nothing at all as long as its keys are not known; what
//! began to come and is discarded is rolled back before anything of the transaction is executed again. What it has in memory is bounded:
//! pieces that are folded and wait to be executed have a room of their own, so no transaction waits for the memory of another.
//!
//! Its keys are known when all of it was looked at ([`super::ahead`]), which goes on beside its execution. What follows it may run beside it
//! then. Pieces for which there was no room are read from the log again when it is their turn; so is all of it when it has been
//! rolled back. One that has too many keys is not looked ahead in: its pieces are taken in as they are executed, and nothing behind it.

use super::Run;
use super::ahead::{self, Keys, Known, Look, Seen, Tell, Wanted, Whose};
use crate::compact::Parts;
use crate::schedule::{BatchId, State};
use crate::session::Command;
use bytes::Bytes;
use drover_log::{Log, Offset};
use drover_model::{Position, Result};
use drover_runtime::memory::{Account, Taken};
use drover_runtime::task;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces given to the session: one that is executed, one that follows at once.
const GIVEN: usize = 2;
/// Pieces that are looked at or wait for it.
const LOOKING: usize = 2;

/// See the module.
pub(super) struct Huge {
    pub whose: Whose,
    pub slot: Option<usize>,
    /// Its last piece came.
    pub complete: bool,
    /// It comes whole after all, or it has nothing in it: it is to be taken out of the schedule.
    pub void: bool,
    pub previous: Position,
    pub rows: u64,
    pub commit_micros: i64,
    pub in_order: bool,
    /// Where its pieces that wait to be executed are counted. Without it none is kept, and it does not run.
    pub room: Option<Arc<Account>>,
    /// Attempt of an extractor, attempt of executing it.
    round: u32,
    attempt: u32,
    keys: Keys,
    look: (mpsc::UnboundedSender<Look>, task::Owned<()>),
    /// Offsets of its pieces so far, and how many of them were looked at.
    offsets: Vec<Offset>,
    looked: usize,
    /// Bytes of the last one that was looked at.
    last: usize,
    /// So many pieces were given to the session or wait to be.
    ready: usize,
    waiting: VecDeque<Piece>,
    /// The bytes of the pieces that the session has.
    given: VecDeque<Arc<Taken>>,
    again: Option<Again>,
    /// The session was told to roll back.
    undoing: bool,
}

/// Bytes are of the room; for a piece that found none there, of what was read ahead.
struct Piece {
    taken: Arc<Taken>,
    folded: Result<Box<Parts>>,
}

/// Reading again, and up to which piece that was asked for.
struct Again {
    wanted: mpsc::UnboundedSender<Wanted>,
    asked: usize,
    _task: task::Owned<()>,
}

impl Huge {
    /// One that begins at `previous`.
    pub fn new(whose: Whose, previous: Position, commit_micros: i64, keys: Arc<Account>, tell: Tell) -> Self {
        Huge {
            slot: None,
            complete: false,
            void: false,
            previous,
            rows: 0,
            commit_micros,
            in_order: false,
            room: None,
            round: 0,
            attempt: 0,
            keys: Keys::Coming,
            look: ahead::look(whose.clone(), 0, keys, tell),
            offsets: Vec::new(),
            looked: 0,
            last: 0,
            ready: 0,
            waiting: VecDeque::new(),
            given: VecDeque::new(),
            again: None,
            undoing: false,
            whose,
        }
    }

    /// Takes the next piece in.
    pub fn push(&mut self, offset: Offset, payload: Bytes, taken: Arc<Taken>, last: bool) {
        self.offsets.push(offset);
        self.complete = last;
        // The task ends with this.
        let _ = self.look.0.send(Look { payload, taken, in_order: self.in_order, last });
    }

    /// The pieces so far are void: the transaction comes anew.
    pub fn discard(&mut self, keys: Arc<Account>, tell: Tell) {
        self.round += 1;
        self.look = ahead::look(self.whose.clone(), self.round, keys, tell);
        self.keys = Keys::Coming;
        self.offsets.clear();
        self.looked = 0;
        self.rewind();
    }

    /// All is to be executed from the first piece on. What the session has is told of before it is told to be rolled back.
    fn rewind(&mut self) {
        self.attempt += 1;
        self.waiting.clear();
        self.ready = 0;
        self.rows = 0;
        self.again = None;
    }

    /// What was executed is rolled back.
    pub fn undone(&mut self) {
        self.slot = None;
        self.undoing = false;
        self.given.clear();
        self.rewind();
    }

    /// A piece was executed.
    pub fn done(&mut self, rows: u64) {
        self.given.pop_front();
        self.rows += rows;
    }

    /// Whether the session has something to do.
    pub fn is_busy(&self) -> bool {
        !self.given.is_empty()
    }

    /// All that is left of it is at hand.
    pub fn is_at_hand(&self) -> bool {
        self.complete && self.ready == self.offsets.len()
    }

    /// Whether what follows in the log may be read.
    pub fn takes_more(&self) -> bool {
        let looking = self.offsets.len() - self.looked;
        match self.keys {
            Keys::Told { .. } => true,
            _ if self.complete => false,
            Keys::Unknown => self.slot.is_some() && looking == 0 && self.ready == self.looked && self.has_room(),
            _ => looking < LOOKING,
        }
    }

    /// Whether there is room for another piece like the last one, beside those at hand, wherever they are counted.
    fn has_room(&self) -> bool {
        let at_hand: usize = self.waiting.iter().map(|p| &p.taken).chain(&self.given).map(|t| t.bytes()).sum();
        let room = self.room.as_ref().map_or(0, |room| room.limit());
        at_hand == 0 || at_hand + self.last <= room
    }

    /// Its keys, once, if they are known and it may run beside others.
    fn known(&mut self) -> Option<Known> {
        self.room.as_ref()?;
        match std::mem::replace(&mut self.keys, Keys::Coming) {
            Keys::All(known) => Some(known),
            other => {
                self.keys = other;
                None
            }
        }
    }

    /// The next piece was looked at: it is kept if it is the next to be executed and there is room for it.
    fn looked(&mut self, folded: Result<Box<Parts>>, taken: Arc<Taken>, in_order: bool, bytes: usize, keys: Keys) {
        if !matches!(self.keys, Keys::Unknown) {
            if matches!(keys, Keys::Unknown) {
                tracing::debug!(to = %self.whose.to, "nothing runs beside a huge transaction: its keys remain unknown");
            }
            self.keys = keys;
        }
        self.last = bytes;
        let index = self.looked;
        self.looked += 1;
        if index != self.ready || in_order != self.in_order || self.undoing {
            return;
        }
        let taken = match self.room.as_ref().and_then(|room| room.try_hold(bytes)) {
            Some(kept) => Arc::new(kept),
            None if matches!(self.keys, Keys::Unknown) && self.slot.is_some() => taken,
            None => return,
        };
        self.keep(Piece { taken, folded });
    }

    fn keep(&mut self, piece: Piece) {
        self.waiting.push_back(piece);
        self.ready += 1;
    }

    /// Has the pieces read again that were looked at and not kept.
    fn read_again(&mut self, log: &Arc<dyn Log>, tell: &Tell) {
        let Some(room) = self.room.clone().filter(|_| self.ready < self.looked) else { return };
        let (whose, attempt, in_order, ready) = (&self.whose, self.attempt, self.in_order, self.ready);
        let again = self.again.get_or_insert_with(|| {
            let (wanted, task) = ahead::again(whose.clone(), attempt, in_order, log.clone(), room, tell.clone());
            Again { wanted, asked: ready, _task: task }
        });
        // What was kept since it had caught up.
        again.asked = again.asked.max(ready);
        for index in again.asked..self.looked {
            // The task ends when it has told of an error.
            let _ = again.wanted.send(Wanted { index: index as u32, offset: self.offsets[index] });
        }
        again.asked = self.looked;
    }
}

impl Run {
    pub(super) fn huge(&mut self, id: BatchId) -> Option<&mut Huge> {
        self.huges.iter_mut().find(|h| h.whose.id == id)
    }

    /// The one of which more pieces come.
    pub(super) fn coming(&mut self) -> Option<&mut Huge> {
        self.huges.back_mut().filter(|h| !h.complete)
    }

    /// Pieces that were taken in are void.
    pub(super) fn discard(&mut self) {
        let (account, tell) = (self.keys.clone(), self.tell_seen.clone());
        let Some(huge) = self.coming() else { return };
        huge.discard(account, tell);
        let id = huge.whose.id;
        // If it runs: it is rolled back when the session has done what it has.
        self.schedule.undo(id);
    }

    pub(super) fn seen(&mut self, seen: Seen) -> Result<()> {
        match seen {
            Seen::Looked { id, round, piece, taken, in_order, bytes, keys } => {
                if let Some(huge) = self.huge(id).filter(|h| h.round == round) {
                    huge.looked(piece, taken, in_order, bytes, keys);
                }
            }
            Seen::Again { id, attempt, read } => {
                if let Some(huge) = self.huge(id).filter(|h| h.attempt == attempt) {
                    let (folded, taken) = read?;
                    huge.keep(Piece { taken: Arc::new(taken), folded });
                }
            }
        }
        Ok(())
    }

    /// What huge transactions need before anything is started: a room, a footprint; those that are void go.
    pub(super) fn settle_huges(&mut self) {
        self.huges.iter().filter(|h| h.void).for_each(|h| self.schedule.withdraw(h.whose.id));
        self.huges.retain(|h| self.schedule.state(h.whose.id).is_some());
        for at in 0..self.huges.len() {
            if self.huges[at].room.is_none() {
                let used = |room: &Arc<Account>| {
                    self.huges.iter().any(|h| h.room.as_ref().is_some_and(|r| Arc::ptr_eq(r, room)))
                };
                let free = self.rooms.iter().find(|room| !used(room)).cloned();
                self.huges[at].room = free;
            }
            if let Some(Known { keys, taken }) = self.huges[at].known() {
                let huge = &mut self.huges[at];
                huge.keys = Keys::Told { _taken: taken };
                tracing::debug!(to = %huge.whose.to, hashes = keys.len(), "the keys of a huge transaction are known");
                self.schedule.known(huge.whose.id, keys);
            }
        }
    }

    /// Gives the sessions of huge transactions what they may do next.
    pub(super) async fn pump_huges(&mut self) -> Result<()> {
        for at in 0..self.huges.len() {
            let huge = &mut self.huges[at];
            let (id, Some(slot)) = (huge.whose.id, huge.slot) else { continue };
            match self.schedule.state(id) {
                Some(State::Undoing) if huge.given.is_empty() && !huge.undoing => {
                    huge.undoing = true;
                    self.send(slot, Command::Rollback { id }).await?;
                    continue;
                }
                Some(State::Running) => {}
                _ => continue,
            }
            while let Some(huge) = self.huges.get_mut(at)
                && huge.given.len() < GIVEN
                && let Some(Piece { taken, folded }) = huge.waiting.pop_front()
            {
                huge.given.push_back(taken);
                let (attempt, modes) = (huge.attempt, huge.whose.modes.clone());
                self.send(slot, Command::Slice { id, attempt, folded, modes }).await?;
            }
            let (log, tell) = (self.log.clone(), self.tell_seen.clone());
            let Some(huge) = self.huges.get_mut(at) else { continue };
            huge.read_again(&log, &tell);
            if huge.is_at_hand() && huge.waiting.is_empty() && huge.given.is_empty() {
                self.schedule.executed(id);
                self.commit_head().await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compact::Shapes;
    use crate::fake::at;
    use crate::loop_tests::{ID, description, insert, row, tx};
    use crate::windows::Mode;

    /// One of which the keys are unknown, with room for `room` bytes, in a session.
    fn huge(room: usize) -> (Huge, mpsc::UnboundedReceiver<Seen>) {
        let shapes = Arc::new(Shapes::new(&description().plans, &[]));
        let whose = Whose { id: 7, to: at(2), migration: ID, shapes, modes: Arc::new(vec![Mode::Strict; 2]) };
        let (tell, seen) = mpsc::unbounded_channel();
        let mut huge = Huge::new(whose, at(1), 0, Account::new("test: keys", 0), tell);
        (huge.room, huge.slot) = (Some(Account::new("test: pieces", room)), Some(0));
        (huge, seen)
    }

    #[tokio::test]
    async fn one_with_unknown_keys_takes_in_no_more_than_it_has_room_for() {
        let payload: Bytes = tx(2, |out| (0..3).for_each(|i| insert(out, 1, &row(i, "x")))).1.into();
        let size = payload.len();
        // Room for three and a half; for less than one.
        for (room, wanted) in [(size * 7 / 2, 3), (size / 2, 1)] {
            let read = Account::new("test: read", 100 * size);
            let (mut huge, mut seen) = huge(room);
            let mut next = async |huge: &mut Huge, n: u64| {
                huge.push(n, payload.clone(), Arc::new(read.hold(size).await), false);
                assert!(!huge.takes_more() || n == 0, "not before it was looked at");
                let Some(Seen::Looked { piece, taken, in_order, bytes, keys, .. }) = seen.recv().await else {
                    panic!()
                };
                huge.looked(piece, taken, in_order, bytes, keys);
            };
            let mut pieces = 0;
            while huge.takes_more() && pieces < 10 {
                next(&mut huge, pieces).await;
                pieces += 1;
            }
            assert_eq!((pieces, huge.waiting.len(), read.held()), (wanted, wanted as usize, 0));
            // One is executed: there is room for one more.
            huge.given.extend(huge.waiting.pop_front().map(|p| p.taken));
            assert!(!huge.takes_more(), "what is executed counts");
            huge.done(3);
            assert!(huge.takes_more());
            next(&mut huge, pieces).await;
            assert!(!huge.takes_more() && huge.waiting.len() == wanted as usize && huge.rows == 3);
        }
    }
}
