//! What runs beside what, and who commits when. Pure: a state machine over batches that the loop in [`crate::apply`] drives.
//!
//! Guarantee: batches commit in the order in which they were added; two batches with keys in common never run at the same time;
//! every batch is committed once; whatever fails or is cancelled away from the head runs again, with nothing before it uncommitted,
//! so an order in which batches hold each other up always ends at the head, which depends on nobody.
//!
//! ```text
//!            start                 executed               commit            committed
//! Waiting ──────────▶ Running ──────────────▶ Executed ──────────▶ Committing ──────────▶ gone
//!    ▲                   │ failed, cancelled      │ cancelled
//!    └─── Undoing ◀──────┴────────────────────────┘     (then it starts only as the head)
//! ```

use crate::compact::KeySet;
use std::collections::VecDeque;

/// Number of a batch; they rise.
pub type BatchId = u64;

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    Executed,
    Committing,
    /// Being rolled back.
    Undoing,
}

/// What a batch writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Footprint {
    Keys(KeySet),
    /// Nothing may run beside it: a huge transaction that comes in pieces, of which the keys are not known yet.
    Everything,
}

impl Footprint {
    fn conflicts(&self, other: &Footprint) -> bool {
        match (self, other) {
            (Footprint::Keys(a), Footprint::Keys(b)) => a.conflicts(b),
            _ => true,
        }
    }
}

#[derive(Debug)]
struct Entry {
    id: BatchId,
    footprint: Footprint,
    state: State,
    /// It failed or was cancelled once: it starts as the head only.
    as_head: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: VecDeque<Entry>,
    next: BatchId,
}

impl Schedule {
    /// Adds the next batch in log order.
    pub fn add(&mut self, footprint: Footprint) -> BatchId {
        let id = self.next;
        self.next += 1;
        self.entries.push_back(Entry { id, footprint, state: State::Waiting, as_head: false });
        id
    }

    fn entry(&mut self, id: BatchId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.id == id)
    }

    /// State of a batch; `None` once committed.
    pub fn state(&self, id: BatchId) -> Option<State> {
        self.entries.iter().find(|e| e.id == id).map(|e| e.state)
    }

    /// The oldest batch that is not committed.
    pub fn head(&self) -> Option<BatchId> {
        self.entries.front().map(|e| e.id)
    }

    /// Batches not committed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether some batch waits to be started.
    pub fn any_waiting(&self) -> bool {
        self.entries.iter().any(|e| e.state == State::Waiting)
    }

    /// Batches behind the head that hold a transaction.
    pub fn behind_head(&self) -> Vec<BatchId> {
        let busy = |e: &&Entry| matches!(e.state, State::Running | State::Executed | State::Undoing);
        self.entries.iter().skip(1).filter(busy).map(|e| e.id).collect()
    }

    /// The oldest batch that may start now; it is running from here on. The caller has a session for it.
    pub fn start(&mut self) -> Option<BatchId> {
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            if entry.state != State::Waiting || (entry.as_head && at > 0) {
                continue;
            }
            // Also those which wait come before it.
            if self.entries.iter().take(at).all(|e| !e.footprint.conflicts(&entry.footprint)) {
                let entry = &mut self.entries[at];
                entry.state = State::Running;
                return Some(entry.id);
            }
        }
        None
    }

    /// All statements of a batch are executed; it waits for its turn.
    pub fn executed(&mut self, id: BatchId) {
        if let Some(e) = self.entry(id).filter(|e| e.state == State::Running) {
            e.state = State::Executed;
        }
    }

    /// The batch whose turn to commit it is, if it is ready; it is committing from here on.
    pub fn commit(&mut self) -> Option<BatchId> {
        let head = self.entries.front_mut().filter(|e| e.state == State::Executed)?;
        head.state = State::Committing;
        Some(head.id)
    }

    /// The commit was a success.
    pub fn committed(&mut self, id: BatchId) {
        if self.entries.front().is_some_and(|e| e.id == id && e.state == State::Committing) {
            self.entries.pop_front();
        }
    }

    /// A batch failed or is to give way: it is being rolled back.
    pub fn undo(&mut self, id: BatchId) {
        if let Some(e) = self.entry(id).filter(|e| matches!(e.state, State::Running | State::Executed)) {
            e.state = State::Undoing;
            e.as_head = true;
        }
    }

    /// It has been rolled back.
    pub fn undone(&mut self, id: BatchId) {
        if let Some(e) = self.entry(id).filter(|e| e.state == State::Undoing) {
            e.state = State::Waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn keys(list: &[u64]) -> Footprint {
        Footprint::Keys(KeySet { keys: list.to_vec(), tables: vec![0], ..KeySet::default() })
    }

    /// Events that the world may bring: each running batch may end well or badly, a commit comes back, the head's
    /// patience ends.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    enum Event {
        Executed(BatchId),
        Failed(BatchId),
        Undone(BatchId),
        Committed(BatchId),
        HeadStuck,
    }

    struct World {
        footprints: Vec<Footprint>,
        sessions: usize,
        failures: u32,
        seen: HashSet<String>,
        ends: usize,
        /// Batches are committed as they are executed, whichever is the head: has to be found out.
        unordered: bool,
    }

    impl World {
        fn build(&self, history: &[Event]) -> (Schedule, Vec<BatchId>, u32) {
            let mut s = Schedule::default();
            self.footprints.iter().for_each(|f| {
                s.add(f.clone());
            });
            let (mut committed, mut failures) = (Vec::new(), 0);
            self.pump(&mut s);
            for event in history {
                match *event {
                    Event::Executed(id) => s.executed(id),
                    Event::Failed(id) => {
                        failures += 1;
                        s.undo(id);
                    }
                    Event::Undone(id) => s.undone(id),
                    Event::Committed(id) => {
                        s.committed(id);
                        committed.push(id);
                    }
                    Event::HeadStuck => {
                        failures += 1;
                        s.behind_head().into_iter().for_each(|id| s.undo(id));
                    }
                }
                self.pump(&mut s);
            }
            (s, committed, failures)
        }

        fn pump(&self, s: &mut Schedule) {
            if self.unordered {
                let executed = s.entries.iter_mut().find(|e| e.state == State::Executed);
                executed.into_iter().for_each(|e| e.state = State::Committing);
            }
            s.commit();
            let busy = |s: &Schedule| s.entries.iter().filter(|e| e.state != State::Waiting).count();
            while busy(s) < self.sessions && s.start().is_some() {}
            let active: Vec<&Entry> = s.entries.iter().filter(|e| e.state != State::Waiting).collect();
            for (i, a) in active.iter().enumerate() {
                for b in &active[i + 1..] {
                    assert!(!a.footprint.conflicts(&b.footprint), "{} beside {}", a.id, b.id);
                }
            }
        }

        fn explore(&mut self, history: &mut Vec<Event>) {
            let (s, committed, failures) = self.build(history);
            let in_order: Vec<BatchId> = (0..committed.len() as u64).collect();
            assert_eq!(committed, in_order);
            let state: String =
                format!("{failures} {:?}", s.entries.iter().map(|e| (e.id, e.state, e.as_head)).collect::<Vec<_>>());
            if !self.seen.insert(state) {
                return;
            }
            if s.is_empty() {
                assert_eq!(committed.len(), self.footprints.len());
                self.ends += 1;
                return;
            }
            let mut next = Vec::new();
            for e in &s.entries {
                match e.state {
                    State::Running => {
                        next.push(Event::Executed(e.id));
                        if failures < self.failures {
                            next.push(Event::Failed(e.id));
                        }
                    }
                    State::Committing => next.push(Event::Committed(e.id)),
                    State::Undoing => next.push(Event::Undone(e.id)),
                    State::Waiting | State::Executed => {}
                }
            }
            if failures < self.failures && !s.behind_head().is_empty() {
                next.push(Event::HeadStuck);
            }
            assert!(!next.is_empty(), "stuck after {history:?}");
            for event in next {
                history.push(event);
                self.explore(history);
                history.pop();
            }
        }
    }

    #[test]
    fn every_interleaving_commits_all_in_order() {
        let cases: Vec<Vec<Footprint>> = vec![
            vec![keys(&[1]), keys(&[2]), keys(&[3])],
            vec![keys(&[1]), keys(&[1]), keys(&[2])],
            vec![keys(&[1]), keys(&[2]), keys(&[1, 2]), keys(&[3])],
            vec![keys(&[1]), Footprint::Everything, keys(&[2])],
            vec![keys(&[1, 2]), keys(&[2, 3]), keys(&[3, 4]), keys(&[1, 4])],
        ];
        for footprints in cases {
            for sessions in 1..=4 {
                let mut world = World {
                    footprints: footprints.clone(),
                    sessions,
                    failures: 3,
                    seen: HashSet::new(),
                    ends: 0,
                    unordered: false,
                };
                world.explore(&mut Vec::new());
                assert!(world.ends > 0);
            }
        }
    }

    #[test]
    fn commits_without_order_are_found_out() {
        let footprints = vec![keys(&[1]), keys(&[2]), keys(&[3])];
        let explored = std::panic::catch_unwind(|| {
            let mut world =
                World { footprints, sessions: 3, failures: 0, seen: HashSet::new(), ends: 0, unordered: true };
            world.explore(&mut Vec::new());
        });
        assert!(explored.is_err());
    }

    #[test]
    fn one_that_waits_is_not_overtaken_by_what_needs_it() {
        let mut s = Schedule::default();
        let (a, b, c) = (s.add(keys(&[1])), s.add(keys(&[1, 2])), s.add(keys(&[2])));
        assert_eq!((s.start(), s.start()), (Some(a), None));
        s.executed(a);
        assert_eq!(s.commit(), Some(a));
        assert_eq!(s.start(), None, "not before the commit is known");
        s.committed(a);
        assert_eq!((s.start(), s.start()), (Some(b), None));
        assert_eq!(s.state(c), Some(State::Waiting));
    }

    #[test]
    fn what_gave_way_runs_as_head_only() {
        let mut s = Schedule::default();
        let (a, b) = (s.add(keys(&[1])), s.add(keys(&[2])));
        assert_eq!((s.start(), s.start()), (Some(a), Some(b)));
        s.undo(b);
        s.undone(b);
        assert_eq!(s.start(), None);
        s.executed(a);
        s.commit();
        s.committed(a);
        assert_eq!(s.start(), Some(b));
    }
}
