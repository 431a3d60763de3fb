//! Rows that an apply order owes (`drover_model::handover::tolerant`): whom they are asked of, and what becomes of that when a side is
//! lost. Pure.
//!
//! ```text
//! Apply reports Owes ──▶ Fetch, on the living snapshot ──▶ the rows are in the log; Fetched ends it here, the applier goes on by itself
//!        │ no snapshot lives
//!        ▼
//! Apply is taken back ──▶ Snapshot ──▶ the spans of all mixed tables are widened to it, what was asked for is void
//!                                       ──▶ Apply begins again, with the wider windows, and owes again
//! ```
//!
//! What is asked for belongs to one lease of the apply order. With the lease it is void: nothing that is owed has been passed by the
//! progress, so the next holder comes upon it again.

use crate::event::Event;
use crate::key::OrderKey;
use crate::machine::State;
use crate::wants::Out;
use drover_model::Position;
use drover_proto::order::{Order, Owes};

impl State {
    /// The key of the order that fetches these rows.
    fn fetch_key(number: u32, owes: &Owes) -> OrderKey {
        OrderKey::Fetch { table: owes.table, snapshot: number, lease: owes.keys.lease, round: owes.round }
    }

    /// Fetches that can be started now.
    pub(crate) fn wants_fetches(&self, out: &mut Out<'_>) {
        let Some(snap) = &self.snapshot else { return };
        let Some(any) = snap.holders.values().next() else { return };
        for owes in &self.owed {
            let order = || Order::Fetch { owes: *owes, snapshot: any.snapshot.clone() };
            out.push(Self::fetch_key(snap.number, owes), order);
        }
    }

    /// Whether a fetch still means something.
    pub(crate) fn still_fetches(&self, key: &OrderKey) -> bool {
        self.snapshot.as_ref().is_some_and(|s| self.owed.iter().any(|o| Self::fetch_key(s.number, o) == *key))
    }

    /// Rows are owed and there is nothing to fetch them on: a new snapshot is taken, and nothing applied until then.
    pub(crate) fn owes_without_snapshot(&self) -> bool {
        !self.owed.is_empty() && self.snapshot.is_none()
    }

    /// A new snapshot is the one on which owed rows are fetched from now on. Tables with a tolerant stretch must be applied tolerantly
    /// up to it: one event each.
    pub(crate) fn widened(&self, to: &Position) -> Vec<Event> {
        if !self.settings.incremental || (self.consistent && self.owed.is_empty()) {
            return Vec::new();
        }
        let mixed = self.tables.iter().enumerate().filter(|(_, t)| t.is_mixed() && t.high.as_ref() < Some(to));
        mixed.map(|(id, _)| Event::Widened { table: id as u32, position: to.clone() }).collect()
    }

    /// The lease of the apply order is gone, and with it what it asked for.
    pub(crate) fn on_apply_lost(&self) -> Vec<Event> {
        if self.owed.is_empty() || self.snapshot.is_none() { Vec::new() } else { vec![Event::OwesVoid] }
    }

    pub(crate) fn apply_owed(&mut self, event: &Event) {
        match event {
            Event::Owes { owes } => {
                // A report may come twice; another lease means that what the one before asked for is void.
                self.owed.retain(|o| o.keys.lease == owes.keys.lease && o.round != owes.round);
                self.owed.push(*owes);
            }
            Event::Fetched { lease, round, .. } => {
                self.owed.retain(|o| (o.keys.lease, o.round) != (*lease, *round));
            }
            Event::OwesVoid => self.owed.clear(),
            Event::Widened { table, position } => {
                if let Some(t) = self.tables.get_mut(*table as usize) {
                    t.read_at(position, None);
                    self.consistent = false;
                }
            }
            _ => {}
        }
    }
}
