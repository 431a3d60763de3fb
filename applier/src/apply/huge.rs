//! A transaction too large for a batch, which comes in pieces. Guarantee: its pieces are executed one after the other, in order, in one
//! transaction at the destination, beside which nothing else runs; what began to come and is discarded is rolled back before anything
//! of the transaction is executed again. How many of its pieces are in memory is bounded where they come in ([`super::feed`]).
//!
//! Folding a piece takes time in which the destination could work already. So pieces are folded as they come, each in a task of its own,
//! and a session has the next one at hand when it has executed one.

use super::Run;
use crate::compact::{Parts, Shapes};
use crate::schedule::{BatchId, State};
use crate::session::{Command, mode_of};
use crate::windows::Mode;
use bytes::Bytes;
use drover_model::{Position, Result};
use drover_runtime::memory::Taken;
use drover_runtime::task;
use std::collections::VecDeque;
use std::sync::Arc;

/// Pieces given to the session: one that is executed, one that follows at once.
const GIVEN: usize = 2;

/// See the module.
pub(super) struct Huge {
    pub id: BatchId,
    pub slot: Option<usize>,
    /// Its last piece came.
    pub complete: bool,
    pub previous: Position,
    pub next: Position,
    pub rows: u64,
    pub commit_micros: i64,
    modes: Arc<Vec<Mode>>,
    in_order: bool,
    waiting: VecDeque<Piece>,
    /// The bytes of the pieces that the session has.
    given: VecDeque<Arc<Taken>>,
    /// All that was executed is to be rolled back before anything else.
    restart: bool,
    undoing: bool,
}

struct Piece {
    taken: Arc<Taken>,
    folded: task::Owned<Result<Parts>>,
}

impl Huge {
    /// One that leads from `previous` to `next`; `in_order`: executed change by change.
    pub fn new(
        id: BatchId,
        modes: Vec<Mode>,
        in_order: bool,
        previous: Position,
        next: Position,
        commit_micros: i64,
    ) -> Self {
        Huge {
            id,
            slot: None,
            complete: false,
            previous,
            next,
            rows: 0,
            commit_micros,
            modes: Arc::new(modes),
            in_order,
            waiting: VecDeque::new(),
            given: VecDeque::new(),
            restart: false,
            undoing: false,
        }
    }

    /// Takes the next piece and begins to fold it.
    pub fn push(&mut self, shapes: &Arc<Shapes>, payload: Bytes, taken: Arc<Taken>) {
        let (shapes, modes, in_order) = (shapes.clone(), self.modes.clone(), self.in_order);
        let folded =
            task::spawn("fold", async move { Parts::new(shapes, &[payload], |t| mode_of(&modes, t), in_order) });
        self.waiting.push_back(Piece { taken, folded });
    }

    /// The pieces so far are void: the transaction comes anew.
    pub fn discard(&mut self) {
        self.waiting.clear();
        self.restart = self.slot.is_some();
        self.rows = 0;
    }

    /// A piece was executed.
    pub fn done(&mut self, rows: u64) {
        self.given.pop_front();
        self.rows += rows;
    }

    /// What was executed is rolled back.
    pub fn undone(&mut self) {
        self.undoing = false;
        self.rows = 0;
    }
}

impl Run<'_> {
    /// Gives the huge transaction's session what it may do next.
    pub(super) async fn pump_huge(&mut self) -> Result<()> {
        let Some(huge) = &mut self.huge else { return Ok(()) };
        let Some(slot) = huge.slot.filter(|_| !huge.undoing) else { return Ok(()) };
        let id = huge.id;
        if huge.restart {
            if huge.given.is_empty() {
                (huge.restart, huge.undoing) = (false, true);
                self.send(slot, Command::Rollback { id }).await?;
            }
            return Ok(());
        }
        while let Some(huge) = &mut self.huge
            && huge.given.len() < GIVEN
            && let Some(Piece { taken, folded }) = huge.waiting.pop_front()
        {
            huge.given.push_back(taken);
            let modes = huge.modes.clone();
            self.send(slot, Command::Slice { id, folded, modes }).await?;
        }
        let Some(huge) = &self.huge else { return Ok(()) };
        if huge.complete && huge.given.is_empty() && self.schedule.state(id) == Some(State::Running) {
            self.schedule.executed(id);
            if self.schedule.commit() == Some(id) {
                let (previous, next) = (huge.previous.clone(), huge.next.clone());
                return self.send(slot, Command::Commit { id, previous, next }).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::at;
    use crate::loop_tests::{insert, row, tx};
    use drover_runtime::memory::Account;

    #[tokio::test]
    async fn folding_begins_before_anybody_asks_for_it_and_counts_until_it_is_executed() {
        let shapes = Arc::new(Shapes::new(&crate::loop_tests::description().plans, &[]));
        let mut huge = Huge::new(7, vec![Mode::Strict; 2], false, at(1), at(2), 0);
        let account = Account::new("test: pieces", 1000);
        let (_, payload) = tx(2, |out| (0..3).for_each(|i| insert(out, 1, &row(i, "x"))));
        for _ in 0..2 {
            huge.push(&shapes, payload.clone().into(), Arc::new(account.hold(400).await));
        }
        // Nobody joins it, and it ends.
        while !huge.waiting[0].folded.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(huge.waiting[0].folded.join().await.unwrap().unwrap().changes(), 3);
        huge.given.extend(huge.waiting.pop_front().map(|p| p.taken));
        assert_eq!(account.held(), 800, "what is executed counts");
        huge.done(3);
        assert_eq!((huge.rows, account.held()), (3, 400));
        huge.discard();
        assert_eq!(account.held(), 0);
    }
}
