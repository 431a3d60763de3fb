//! Leases: who works on which order, under which epoch, until when. Pure: time is given, in milliseconds of a clock that
//! never goes back.
//!
//! Guarantees: an order has at most one valid lease; epochs of a migration only rise, over restarts as well; a lease that was
//! not renewed for a term is free for others, and a report under it is refused. A lease is advice on who should work: what a
//! frozen holder may still do is decided by the fences at the databases and by the marks there.

use crate::key::OrderKey;
use drover_model::MigrationId;
use drover_proto::order::{Order, Role};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A lease, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub migration: MigrationId,
    pub key: OrderKey,
    pub epoch: u64,
    pub worker: String,
    /// The order as it was given out.
    pub order: Order,
}

/// A lease that is valid now.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub grant: Grant,
    pub expires_ms: u64,
}

/// A worker that polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub name: String,
    pub role: Role,
    pub seen_ms: u64,
    /// Orders that it can carry out at once, as far as known.
    pub slots: usize,
    /// Of its latest poll.
    pub poll: u64,
}

/// How a lease relates to what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Valid,
    /// This very lease ended with an accepted report: a repetition does no harm.
    Ended,
    Void,
}

/// Ended leases that are remembered, to answer repeated reports.
const REMEMBERED: usize = 4096;

/// All leases and workers.
#[derive(Debug, Clone)]
pub struct Leases {
    term_ms: u64,
    workers: BTreeMap<String, Worker>,
    held: BTreeMap<(MigrationId, OrderKey), Held>,
    ended: HashMap<(MigrationId, u64), OrderKey>,
    ended_order: VecDeque<(MigrationId, u64)>,
}

impl Leases {
    pub fn new(term_ms: u64) -> Leases {
        Leases {
            term_ms,
            workers: BTreeMap::new(),
            held: BTreeMap::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
        }
    }

    pub fn term_ms(&self) -> u64 {
        self.term_ms
    }

    /// A lease from the store, after a restart: its holder has one term to show up.
    pub fn restore(&mut self, grant: Grant, now_ms: u64) {
        let key = (grant.migration, grant.key.clone());
        self.held.insert(key, Held { grant, expires_ms: now_ms + self.term_ms });
    }

    /// Whether a worker's poll was overtaken by a later one.
    pub fn overtaken(&self, id: &str, poll: u64) -> bool {
        self.workers.get(id).is_some_and(|w| poll < w.poll)
    }

    /// A worker is there.
    pub fn seen(&mut self, id: &str, name: &str, role: Role, slots: usize, poll: u64, now_ms: u64) {
        let worker = Worker { name: name.to_owned(), role, seen_ms: now_ms, slots, poll };
        self.workers.insert(id.to_owned(), worker);
    }

    /// Renews a lease if it is valid and belongs to the worker; says whether.
    pub fn renew(&mut self, migration: MigrationId, key: &OrderKey, epoch: u64, worker: &str, now_ms: u64) -> bool {
        let term = self.term_ms;
        match self.held.get_mut(&(migration, key.clone())) {
            Some(h) if h.grant.epoch == epoch && h.grant.worker == worker && h.expires_ms > now_ms => {
                h.expires_ms = now_ms + term;
                true
            }
            _ => false,
        }
    }

    /// Where a lease stands.
    pub fn standing(&self, migration: MigrationId, key: &OrderKey, epoch: u64, worker: &str, now_ms: u64) -> Standing {
        match self.held.get(&(migration, key.clone())) {
            Some(h) if h.grant.epoch == epoch && h.grant.worker == worker && h.expires_ms > now_ms => Standing::Valid,
            _ if self.ended.get(&(migration, epoch)) == Some(key) => Standing::Ended,
            _ => Standing::Void,
        }
    }

    /// Gives a lease. The caller has made sure that nobody has it and that the epoch is new.
    pub fn grant(&mut self, grant: Grant, now_ms: u64) {
        self.restore(grant, now_ms);
    }

    pub fn get(&self, migration: MigrationId, key: &OrderKey) -> Option<&Held> {
        self.held.get(&(migration, key.clone()))
    }

    pub fn is_held(&self, migration: MigrationId, key: &OrderKey) -> bool {
        self.held.contains_key(&(migration, key.clone()))
    }

    /// Ends a lease; `accepted`: with an outcome, which may be reported again.
    pub fn end(&mut self, migration: MigrationId, key: &OrderKey, accepted: bool) -> Option<Grant> {
        let held = self.held.remove(&(migration, key.clone()))?;
        if accepted {
            let id = (migration, held.grant.epoch);
            self.ended.insert(id, key.clone());
            self.ended_order.push_back(id);
            if self.ended_order.len() > REMEMBERED
                && let Some(old) = self.ended_order.pop_front()
            {
                self.ended.remove(&old);
            }
        }
        Some(held.grant)
    }

    /// Leases whose term is over at this time. They stay until [`Leases::end`].
    pub fn expired(&self, now_ms: u64) -> Vec<(MigrationId, OrderKey)> {
        self.held.iter().filter(|(_, h)| h.expires_ms <= now_ms).map(|(k, _)| k.clone()).collect()
    }

    /// Leases of one worker.
    pub fn of_worker(&self, worker: &str) -> Vec<(MigrationId, OrderKey)> {
        self.held.iter().filter(|(_, h)| h.grant.worker == worker).map(|(k, _)| k.clone()).collect()
    }

    /// Leases of one migration.
    pub fn of_migration(&self, migration: MigrationId) -> impl Iterator<Item = &Held> {
        self.held.values().filter(move |h| h.grant.migration == migration)
    }

    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// A worker has said goodbye.
    pub fn leave(&mut self, worker: &str) {
        self.workers.remove(worker);
    }

    /// Forgets workers that have been silent for a term; says how many.
    pub fn forget_silent(&mut self, now_ms: u64) -> usize {
        let before = self.workers.len();
        let term = self.term_ms;
        self.workers.retain(|_, w| w.seen_ms + term > now_ms);
        before - self.workers.len()
    }

    /// Workers of a role that have polled within the term.
    pub fn live(&self, role: Role) -> Vec<String> {
        self.workers.iter().filter(|(_, w)| w.role == role).map(|(id, _)| id.clone()).collect()
    }

    /// What live workers of a role can carry out at once.
    pub fn slots(&self, role: Role) -> usize {
        self.workers.values().filter(|w| w.role == role).map(|w| w.slots).sum()
    }

    pub fn workers(&self) -> impl Iterator<Item = (&String, &Worker)> {
        self.workers.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(epoch: u64, worker: &str) -> Grant {
        let migration = MigrationId::nil();
        Grant { migration, key: OrderKey::Apply, epoch, worker: worker.into(), order: Order::Inspect }
    }

    #[test]
    fn a_lease_that_is_not_renewed_is_void_after_its_term_and_a_renewed_one_is_not() {
        let id = MigrationId::nil();
        let mut leases = Leases::new(10_000);
        leases.grant(grant(1, "a"), 0);
        assert!(leases.renew(id, &OrderKey::Apply, 1, "a", 9_999));
        assert!(leases.expired(19_998).is_empty());
        assert_eq!(leases.expired(19_999).len(), 1);
        assert!(!leases.renew(id, &OrderKey::Apply, 1, "a", 19_999), "no revival after the term");
        assert_eq!(leases.standing(id, &OrderKey::Apply, 1, "a", 19_999), Standing::Void);
    }

    #[test]
    fn neither_another_worker_nor_an_older_epoch_has_the_lease() {
        let id = MigrationId::nil();
        let mut leases = Leases::new(10_000);
        leases.grant(grant(4, "a"), 0);
        assert!(!leases.renew(id, &OrderKey::Apply, 4, "b", 1));
        assert!(!leases.renew(id, &OrderKey::Apply, 3, "a", 1));
        leases.end(id, &OrderKey::Apply, true);
        assert_eq!(leases.standing(id, &OrderKey::Apply, 4, "a", 1), Standing::Ended);
        assert_eq!(leases.standing(id, &OrderKey::Apply, 3, "a", 1), Standing::Void);
    }
}
