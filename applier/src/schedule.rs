//! What runs beside what, and who commits when. Pure: a state machine over batches that the loop in [`crate::apply`] drives.
//!
//! Guarantee: batches commit in the order in which they were added; two batches with keys in common never run at the same time, and nothing
//! runs beside one of which the keys are not known; every batch is committed once; whatever fails or is cancelled away from the head runs again,
//! with nothing before it uncommitted, so an order in which batches hold each other up always ends at the head, which depends on nobody.
//!
//! ```text
//!            start                 executed               commit            committed
//! Waiting ──────────▶ Running ──────────────▶ Executed ──────────▶ Committing ──────────▶ gone
//!    ▲                   │ failed, cancelled      │ cancelled
//!    └─── Undoing ◀──────┴────────────────────────┘     (then it starts only as the head)
//! ```
//!
//! Two batches are compared once, when the keys of both are known: each has a list of those before it that it has to wait for, and starts when
//! that is empty.

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
    /// Nothing may run beside it: a huge transaction that comes in pieces, of which the keys are not known, or not yet ([`Schedule::known`]).
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
    /// Those before it, not committed yet, that it has keys in common with.
    after: Vec<BatchId>,
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
        self.entries.push_back(Entry { id, footprint, state: State::Waiting, as_head: false, after: Vec::new() });
        self.compare(self.entries.len() - 1);
        id
    }

    /// The keys of one that was added with [`Footprint::Everything`] are all known: what shares none of them may run beside it from here on.
    pub fn known(&mut self, id: BatchId, keys: KeySet) {
        let Some(at) = self.entries.iter().position(|e| e.id == id) else { return };
        self.entries[at].footprint = Footprint::Keys(keys);
        (at..self.entries.len()).for_each(|n| self.compare(n));
    }

    /// Finds out what an entry has to wait for. Also those which wait come before it.
    fn compare(&mut self, at: usize) {
        let entry = &self.entries[at];
        let before = self.entries.iter().take(at);
        let after = before.filter(|e| e.footprint.conflicts(&entry.footprint)).map(|e| e.id).collect();
        self.entries[at].after = after;
    }

    /// Takes one out that waits: there is nothing to do for it after all.
    pub fn withdraw(&mut self, id: BatchId) {
        if self.state(id) == Some(State::Waiting) {
            self.entries.retain(|e| e.id != id);
            self.gone(id);
        }
    }

    fn gone(&mut self, id: BatchId) {
        self.entries.iter_mut().for_each(|e| e.after.retain(|a| *a != id));
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
        let may =
            |(at, e): &(usize, &mut Entry)| e.state == State::Waiting && e.after.is_empty() && (!e.as_head || *at == 0);
        let (_, entry) = self.entries.iter_mut().enumerate().find(may)?;
        entry.state = State::Running;
        Some(entry.id)
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
            self.gone(id);
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

    fn set(list: &[u64]) -> KeySet {
        KeySet { keys: list.to_vec(), tables: vec![0], ..KeySet::default() }
    }
    fn keys(list: &[u64]) -> Footprint {
        Footprint::Keys(set(list))
    }

    /// Events that the world may bring: each running batch may end well or badly, a commit comes back, the head's
    /// patience ends.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    enum Event {
        Executed(BatchId),
        Failed(BatchId),
        Undone(BatchId),
        Committed(BatchId),
        /// All keys of a huge one are known.
        Known(BatchId),
        /// There is nothing to do for a huge one after all.
        Withdrawn(BatchId),
        HeadStuck,
    }

    /// What is broken on purpose, and has to be found out.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Broken {
        Nothing,
        /// Batches are committed as they are executed, whichever is the head.
        Order,
        /// The keys of a huge one are told when only its first piece was looked at.
        Halves,
    }

    struct World {
        /// What batches write.
        footprints: Vec<KeySet>,
        /// Those of which it is not known at first.
        huge: Vec<BatchId>,
        sessions: usize,
        failures: u32,
        seen: HashSet<String>,
        ends: usize,
        broken: Broken,
    }

    impl World {
        fn new(footprints: &[KeySet], huge: &[BatchId], sessions: usize, failures: u32) -> World {
            let (footprints, huge) = (footprints.to_vec(), huge.to_vec());
            World { footprints, huge, sessions, failures, seen: HashSet::new(), ends: 0, broken: Broken::Nothing }
        }

        fn build(&self, history: &[Event]) -> (Schedule, Vec<BatchId>, u32) {
            let mut s = Schedule::default();
            for (id, keys) in (0..).zip(&self.footprints) {
                let footprint = Footprint::Keys(keys.clone());
                s.add(if self.huge.contains(&id) { Footprint::Everything } else { footprint });
            }
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
                    Event::Known(id) => {
                        let mut keys = self.footprints[id as usize].clone();
                        if self.broken == Broken::Halves {
                            keys.keys.truncate(1);
                        }
                        s.known(id, keys);
                    }
                    Event::Withdrawn(id) => s.withdraw(id),
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
            if self.broken == Broken::Order {
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
                    let wrote = |e: &Entry| &self.footprints[e.id as usize];
                    assert!(!wrote(a).conflicts(wrote(b)), "{} and {} write the same", a.id, b.id);
                }
            }
        }

        fn explore(&mut self, history: &mut Vec<Event>) {
            let (s, committed, failures) = self.build(history);
            let withdrawn = |id: &BatchId| history.contains(&Event::Withdrawn(*id));
            let left = |id: &BatchId| s.state(*id).is_some();
            let all = 0..self.footprints.len() as BatchId;
            let in_order: Vec<BatchId> = all.filter(|id| !withdrawn(id) && !left(id)).collect();
            assert_eq!(committed, in_order);
            assert!(s.entries.iter().all(|e| committed.iter().all(|c| *c < e.id)), "not in order: {committed:?}");
            let entry = |e: &Entry| (e.id, e.state, e.as_head, e.footprint == Footprint::Everything, e.after.clone());
            let state: String = format!("{failures} {:?}", s.entries.iter().map(entry).collect::<Vec<_>>());
            if !self.seen.insert(state) {
                return;
            }
            if s.is_empty() {
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
                if self.huge.contains(&e.id) && e.footprint == Footprint::Everything {
                    next.push(Event::Known(e.id));
                    if e.state == State::Waiting {
                        next.push(Event::Withdrawn(e.id));
                    }
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
        // What they write, and which of them are huge.
        let cases: &[(&[&[u64]], &[BatchId])] = &[
            (&[&[1], &[2], &[3]], &[]),
            (&[&[1], &[1], &[2]], &[]),
            (&[&[1], &[2], &[1, 2], &[3]], &[]),
            (&[&[1, 2], &[2, 3], &[3, 4], &[1, 4]], &[]),
            (&[&[1], &[5, 6], &[2]], &[1]),
            (&[&[1, 2], &[3, 4], &[5]], &[0, 1]),
            (&[&[1, 2], &[2, 3], &[3]], &[0, 1]),
            (&[&[1], &[2, 3], &[3, 4], &[5]], &[1, 2]),
        ];
        for (footprints, huge) in cases {
            let footprints: Vec<KeySet> = footprints.iter().map(|list| set(list)).collect();
            for sessions in 1..=4 {
                let mut world = World::new(&footprints, huge, sessions, 3);
                world.explore(&mut Vec::new());
                assert!(world.ends > 0);
            }
        }
    }

    #[test]
    fn what_is_broken_is_found_out() {
        let cases: [(Broken, &[&[u64]], &[BatchId]); 2] =
            [(Broken::Order, &[&[1], &[2], &[3]], &[]), (Broken::Halves, &[&[1, 2], &[2, 3]], &[0])];
        for (broken, footprints, huge) in cases {
            let footprints: Vec<KeySet> = footprints.iter().map(|list| set(list)).collect();
            let explored = std::panic::catch_unwind(|| {
                let mut world = World { broken, ..World::new(&footprints, huge, 3, 0) };
                world.explore(&mut Vec::new());
            });
            assert!(explored.is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_huge_one_is_passed_by_what_shares_no_key_once_its_keys_are_known() {
        let mut s = Schedule::default();
        let huge = s.add(Footprint::Everything);
        let (same, other) = (s.add(keys(&[1])), s.add(keys(&[3])));
        assert_eq!((s.start(), s.start()), (Some(huge), None));
        s.known(huge, set(&[1, 2]));
        assert_eq!((s.start(), s.start()), (Some(other), None));
        s.executed(other);
        assert_eq!(s.commit(), None);
        s.executed(huge);
        assert_eq!(s.commit(), Some(huge));
        s.committed(huge);
        assert_eq!(s.start(), Some(same));
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
