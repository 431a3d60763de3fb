//! What fails, and what holds others up. Guarantee: a batch that fails away from the head, or is in the head's way, is rolled back and runs
//! again as the head; what fails as the head for no fault of its own gets one more try, then the order ends with its error.

use super::Run;
use crate::schedule::{BatchId, State};
use crate::session::Command;
use drover_model::error::codes;
use drover_model::{Error, Result};
use drover_runtime::{CancellationToken, task};
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl Run {
    pub(super) async fn failed(&mut self, slot: usize, id: BatchId, error: Error) -> Result<()> {
        let gave_way = self.schedule.state(id) == Some(State::Undoing);
        let committing = self.schedule.state(id) == Some(State::Committing);
        if committing || error.code == codes::FENCED || self.stopping.is_some() && !gave_way {
            return Err(error);
        }
        if gave_way {
            self.release(slot, id);
            return Ok(());
        }
        if self.schedule.head() == Some(id) {
            let others = !self.schedule.behind_head().is_empty();
            if others && self.retried != Some(id) {
                self.retried = Some(id);
                self.give_way().await?;
            } else if !self.in_order(id, &error) {
                return Err(error);
            }
        }
        tracing::debug!(%error, batch = id, "a batch is executed again as the first");
        self.schedule.undo(id);
        self.release(slot, id);
        Ok(())
    }

    /// What an order ends with. A destination that crashed has lost the last commits that nothing made durable; what runs on behind them, in a
    /// session opened since, fails in ways that look like anything else. Then the loss is what is told: whoever goes on begins where the destination
    /// stands now.
    pub(super) async fn explained(&self, error: Error, cancel: &CancellationToken) -> Error {
        if [codes::FENCED, codes::CONNECTION].contains(&error.code.as_str()) {
            return error;
        }
        let lost = self.common.lasting.lost(&*self.common.destination, &self.committed);
        let found = tokio::select! {
            () = cancel.cancelled() => return error,
            found = lost => found,
        };
        match found {
            Ok(None) => error,
            Ok(Some(lost)) => {
                tracing::info!(%error, %lost, "an order ends because the destination lost commits");
                lost
            }
            Err(unknown) => {
                tracing::debug!(%unknown, "where the destination stands cannot be read");
                // It failed for what it failed, unless the destination is away: then nothing is known.
                if unknown.code == codes::CONNECTION { unknown } else { error }
            }
        }
    }

    /// Whether a batch that failed by itself is to be tried once more, change by change: the destination may have met values that it
    /// takes for equal in another order than the source.
    fn in_order(&mut self, id: BatchId, error: &Error) -> bool {
        if !collided(error) {
            return false;
        }
        let first = if let Some(huge) = self.huge(id) {
            !std::mem::replace(&mut huge.in_order, true)
        } else {
            let several = self.works.get(&id).filter(|(work, _)| work.rows > 1);
            several.is_some_and(|(work, _)| !work.in_order.swap(true, Ordering::Relaxed))
        };
        if first {
            tracing::info!(%error, "a batch is executed again in the source's order, change by change");
        }
        first
    }

    pub(super) fn release(&mut self, slot: usize, id: BatchId) {
        self.schedule.undone(id);
        self.slots[slot].busy = None;
        if let Some(huge) = self.huge(id) {
            huge.undone();
        }
    }

    /// The oldest batch does not wait: it has come on.
    pub(super) fn goes_on(&mut self, id: BatchId) {
        if self.head.is_some_and(|(head, ..)| head == id) {
            self.head = Some((id, Instant::now(), false));
        }
    }

    /// Everything behind the head rolls back.
    pub(super) async fn give_way(&mut self) -> Result<()> {
        for id in self.schedule.behind_head() {
            let state = self.schedule.state(id);
            self.schedule.undo(id);
            let slot = self.slot_of(id)?;
            // A session that has nothing of a huge transaction to do is told to roll back when the loop comes by.
            if self.huge(id).is_some_and(|h| !h.is_busy()) {
                continue;
            }
            match state {
                Some(State::Executed) => self.send(slot, Command::Rollback { id }).await?,
                Some(State::Running) => {
                    if let Some(canceller) = self.slots[slot].canceller.clone() {
                        self.cancels.push(task::spawn("cancel", async move { canceller.cancel().await }));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn tick(&mut self) -> Result<()> {
        self.cancels.retain(|c| !c.is_finished());
        let running = self.schedule.head().filter(|&id| self.schedule.state(id) == Some(State::Running));
        if let Some(id) = running
            && self.huge(id).is_some_and(|h| !h.is_busy())
        {
            // It waits for its pieces, and not for what others hold.
            self.goes_on(id);
        }
        match (running, self.head) {
            (None, _) => self.head = None,
            (Some(id), Some((head, since, gave_way))) if id == head => {
                if !gave_way && since.elapsed() >= self.options.patience && !self.schedule.behind_head().is_empty() {
                    tracing::info!("the oldest batch waits too long: later ones give way");
                    self.head = Some((id, since, true));
                    self.give_way().await?;
                }
            }
            (Some(id), _) => self.head = Some((id, Instant::now(), false)),
        }
        Ok(())
    }
}

/// Whether an error may come from the order of changes: a refused statement, or rows that were not there.
fn collided(error: &Error) -> bool {
    error.code == codes::STATEMENT || error.code == codes::ROW_COUNT
}
