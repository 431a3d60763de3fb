//! The simulated world of the desk: its workers, its clock, and what must hold after every turn.

use crate::common::{CHUNKS, ROWS, TABLES, answer_as, at};
use drover_coordinator::Tuning;
use drover_coordinator::desk::{Desk, Now};
use drover_coordinator::event::Event;
use drover_coordinator::key::OrderKey;
use drover_coordinator::lease::{Grant, Standing};
use drover_coordinator::machine::{Phase, State};
use drover_coordinator::settings::Settings;
use drover_coordinator::turn::{Stored, Turn, Write};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::Blur;
use drover_model::{Error, Fault, MigrationId, Retry};
use drover_proto::order::{Order, Outcome, Progress};
use drover_proto::v1;
use std::collections::{BTreeMap, BTreeSet};

pub struct Worker {
    pub id: String,
    pub role: v1::Role,
    pub running: Vec<(v1::Lease, Order, bool)>,
    pub frozen: bool,
}

pub struct Sim {
    pub desk: Desk,
    pub id: MigrationId,
    pub migration: Migration,
    pub now: Now,
    pub workers: Vec<Worker>,
    pub journal: Vec<Event>,
    pub grants: BTreeMap<OrderKey, Grant>,
    pub epoch: u64,
    pub spawned: u32,
    /// Whether snapshots can be joined by workers that did not make them.
    pub shared: bool,
    /// Tables that are changed while a snapshot is taken, whose place is not exact then.
    pub blur: Vec<u32>,
    /// What was read at different moments owes rows.
    pub owes: bool,
    /// Leases of apply orders for which the owed rows are in the log.
    pub fetched: BTreeSet<u64>,
    /// Every order ever given out, by its lease.
    pub leases: BTreeMap<u64, Order>,
}

pub fn boxed_error(retry: Retry) -> Error {
    Error::new(codes::CONNECTION, Fault::Source, retry, "cut")
}

impl Sim {
    pub fn new(stages: &str, durable: bool) -> Sim {
        let now = Now { mono_ms: 0, wall_ms: 1_000_000 };
        let (mut desk, _) = Desk::restore(Tuning::default(), Vec::new(), false, now).unwrap();
        let migration = crate::common::migration("shop", stages);
        let settings = Settings { durable_bulk: durable, ..Settings::of(&migration, 8) };
        let id = MigrationId::from_u128(7);
        let turn = desk.create(id, migration.clone(), settings, false, now).unwrap();
        let mut sim = Sim {
            desk,
            id,
            migration,
            now,
            workers: Vec::new(),
            journal: Vec::new(),
            grants: BTreeMap::new(),
            epoch: 0,
            spawned: 0,
            shared: true,
            blur: Vec::new(),
            owes: true,
            fetched: BTreeSet::new(),
            leases: BTreeMap::new(),
        };
        sim.store(turn);
        for role in [v1::Role::Extractor, v1::Role::Extractor, v1::Role::Applier, v1::Role::Applier] {
            sim.spawn(role);
        }
        sim
    }

    pub fn spawn(&mut self, role: v1::Role) {
        self.spawned += 1;
        self.workers.push(Worker { id: format!("w{}", self.spawned), role, running: Vec::new(), frozen: false });
    }

    pub fn store(&mut self, turn: Turn) {
        for write in turn.writes {
            match write {
                Write::Event { seq, event, .. } => {
                    self.journal.push(*event);
                    assert_eq!(seq, self.journal.len() as u64, "events are numbered without holes");
                }
                Write::Grant(grant) => {
                    self.leases.insert(grant.epoch, grant.order.clone());
                    assert!(grant.epoch > self.epoch, "epochs only rise");
                    self.epoch = grant.epoch;
                    let before = self.grants.insert(grant.key.clone(), *grant);
                    assert!(before.is_none(), "an order was leased that somebody has: {before:?}");
                }
                Write::Release { key, .. } => {
                    self.grants.remove(&key);
                }
                _ => {}
            }
        }
    }

    pub fn state(&self) -> &State {
        &self.desk.entry(self.id).unwrap().state
    }

    pub fn poll(&mut self, i: usize) {
        let w = &self.workers[i];
        let place = crate::common::at(self.now.wall_ms);
        let progress = w.running.iter().filter_map(|(lease, order, _)| {
            let migration = self.id;
            let news = match order {
                Order::Apply { windows, .. } => Progress::Apply {
                    migration,
                    applied: place.clone(),
                    rows: 1,
                    transactions: 1,
                    commit_micros: 0,
                    // A stretch is passed when what it owes is paid.
                    consistent: windows.iter().all(|w| w.low == w.high)
                        || self.fetched.contains(&lease.epoch)
                        || !self.owes,
                    from: Some(crate::common::at(0)),
                    changed: Vec::new(),
                    replaced: Vec::new(),
                },
                Order::Stream { .. } => Progress::Stream {
                    migration,
                    published: place.clone(),
                    reaching: None,
                    changes: 1,
                    bytes: 1,
                    commit_micros: 0,
                    log_bytes: 1,
                },
                _ => return None,
            };
            Some(serde_json::to_vec(&news).unwrap().into())
        });
        let request = v1::PollRequest {
            worker: w.id.clone(),
            name: w.id.clone(),
            role: w.role.into(),
            free: 4u32.saturating_sub(w.running.iter().filter(|(l, ..)| !key(l).is_long()).count() as u32),
            running: w.running.iter().map(|(l, ..)| l.clone()).collect(),
            leaving: false,
            progress: progress.collect(),
            number: 0,
        };
        let (reply, turn) = self.desk.poll(&request, self.now).unwrap();
        self.store(turn);
        let w = &mut self.workers[i];
        w.running.retain(|(l, ..)| !reply.stop.contains(l));
        for leased in reply.start {
            let order = serde_json::from_slice(&leased.body).unwrap();
            w.running.push((leased.lease.unwrap(), order, false));
        }
    }

    pub fn report(&mut self, i: usize, lease: &v1::Lease, outcome: &Outcome) -> bool {
        let request = v1::ReportRequest {
            worker: self.workers[i].id.clone(),
            lease: Some(lease.clone()),
            outcome: serde_json::to_vec(outcome).unwrap().into(),
        };
        let (accepted, turn) = self.desk.report(&request, self.now).unwrap();
        self.store(turn);
        if outcome.ends() {
            // What the first report made due is not the second one's doing.
            let due = self.desk.sweep(self.now);
            self.store(due);
            let again = self.desk.report(&request, self.now).unwrap();
            assert_eq!(again.0, accepted, "a repeated report is answered as the first");
            assert!(again.1.writes.is_empty(), "and changes nothing");
        }
        accepted
    }

    /// Worker `i` comes to the end of (or opens) one of its orders.
    pub fn work(&mut self, i: usize, pick: usize, how: u8) {
        let open: Vec<usize> = (0..self.workers[i].running.len()).filter(|n| !self.workers[i].running[*n].2).collect();
        let Some(&n) = open.get(pick % open.len().max(1)) else { return };
        let (lease, order, _) = self.workers[i].running[n].clone();
        let outcome = match how {
            0 => Some(Outcome::Failed { error: boxed_error(Retry::Connection) }),
            1 if matches!(
                order,
                Order::Copy { .. } | Order::Plan { .. } | Order::Hold { .. } | Order::Fetch { .. }
            ) =>
            {
                Some(Outcome::SnapshotLost { error: boxed_error(Retry::Other) })
            }
            2 if matches!(order, Order::Load { .. }) => Some(Outcome::BulkLost),
            _ if matches!(order, Order::Apply { .. }) && !self.owes => None,
            _ => answer_as(&order, &self.workers[i].id, self.now.wall_ms, lease.epoch, self.shared),
        };
        let outcome = outcome.map(|o| self.blurred(o));
        let Some(outcome) = outcome else {
            self.workers[i].running[n].2 = true;
            return;
        };
        if let (Order::Fetch { owes, snapshot }, Outcome::Fetched { .. }) = (&order, &outcome) {
            // Whoever holds that lease applies tolerantly up to the snapshot of the fetched rows.
            if let Some(Order::Apply { windows, .. }) = self.leases.get(&owes.keys.lease) {
                assert_eq!(windows[owes.table as usize].high, snapshot.position);
                assert!(snapshot.blur.is_none(), "what it sees of the owed row is not known");
            }
            self.fetched.insert(owes.keys.lease);
        }
        self.report(i, &lease, &outcome);
        let running = &mut self.workers[i].running;
        if outcome.ends() { drop(running.remove(n)) } else { running[n].2 = true }
    }

    fn blurred(&self, mut outcome: Outcome) -> Outcome {
        if let Outcome::StreamOpened { snapshot: Some(snapshot), .. } | Outcome::SnapshotTaken { snapshot } =
            &mut outcome
            && !self.blur.is_empty()
        {
            snapshot.blur = Some(Blur { until: at(self.now.wall_ms + 3), tables: self.blur.clone() });
        }
        outcome
    }

    /// Worker `i` ends the order of this key.
    pub fn end(&mut self, i: usize, order: &OrderKey, outcome: &Outcome) {
        let n = self.workers[i].running.iter().position(|(l, ..)| key(l) == *order).unwrap();
        let (lease, ..) = self.workers[i].running.remove(n);
        self.report(i, &lease, outcome);
    }

    /// Every holder of the snapshot says that it is gone.
    pub fn lose_snapshot(&mut self) {
        while let Some((worker, holder)) = self.state().snapshot.as_ref().and_then(|s| s.holders.first_key_value()) {
            let (worker, key) = (worker.clone(), holder.key.clone());
            let i = self.workers.iter().position(|w| w.id == worker).unwrap();
            self.end(i, &key, &Outcome::SnapshotLost { error: boxed_error(Retry::Other) });
        }
    }

    pub fn pass(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        let turn = self.desk.sweep(self.now);
        self.store(turn);
    }

    pub fn restart(&mut self) {
        let live = self.state().clone();
        let state = State::replay(self.journal.iter()).unwrap();
        assert_eq!(serde_json::to_value(&state).unwrap(), serde_json::to_value(&live).unwrap());
        let stored = Stored {
            id: self.id,
            migration: self.migration.clone(),
            state: Some(state),
            events: Vec::new(),
            epoch: self.epoch,
            grants: self.grants.values().cloned().collect(),
        };
        let (desk, turn) = Desk::restore(Tuning::default(), vec![stored], false, self.now).unwrap();
        self.desk = desk;
        self.store(turn);
    }

    pub fn check(&self) {
        if let Some(snap) = self.state().snapshot.as_ref().filter(|_| !self.shared) {
            assert_eq!(snap.holders.len(), 1, "a snapshot that cannot be shared has one holder");
        }
        for held in self.desk.leases().all().filter(|_| !self.shared) {
            let (Order::Hold { snapshot, .. } | Order::Plan { snapshot, .. } | Order::Copy { snapshot, .. }) =
                &held.grant.order
            else {
                continue;
            };
            // Tokens of the simulated source name their maker.
            let maker = snapshot.token.split('/').next();
            assert_eq!(maker, Some(&*held.grant.worker), "{} went to a worker that cannot read there", held.grant.key);
        }
        for long in [OrderKey::Stream, OrderKey::Apply] {
            let valid =
                self.workers.iter().flat_map(|w| w.running.iter().map(move |(l, ..)| (w, l))).filter(|(w, l)| {
                    key(l) == long
                        && self.desk.leases().standing(self.id, &long, l.epoch, &w.id, self.now.mono_ms)
                            == Standing::Valid
                });
            assert!(valid.count() <= 1, "two holders of {long}");
        }
        let partitions: Vec<u32> = self
            .desk
            .leases()
            .all()
            .filter_map(|h| if let Order::Copy { partition, .. } = h.grant.order { Some(partition) } else { None })
            .collect();
        let mut distinct = partitions.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), partitions.len(), "two copies own one partition");
        let waiting = || self.state().tables.iter().flat_map(|t| t.copied.values());
        for held in self.desk.leases().all() {
            let Order::Load { extent, trim, .. } = &held.grant.order else { continue };
            let others = waiting().filter(|e| e.partition == extent.partition && *e != extent);
            let kept = others.filter_map(|e| e.records).all(|(first, _)| *trim <= first);
            assert!(kept, "{:?} deletes what another load still reads", held.grant);
        }
    }

    pub fn at_end(&self) -> bool {
        let applying = self.workers.iter().any(|w| w.running.iter().any(|(_, o, _)| matches!(o, Order::Apply { .. })));
        let s = self.state();
        s.phase == Phase::Completed || (applying && s.final_done && s.failures.is_empty())
    }

    /// Nothing goes wrong any more.
    pub fn calm(&mut self) {
        if matches!(self.state().phase, Phase::Paused | Phase::Failed | Phase::PrecheckFailed | Phase::Draft) {
            let turn = self.desk.act("shop", "resume", false, self.now).unwrap();
            self.store(turn);
        }
        self.workers.retain(|w| !w.frozen);
        self.spawn(v1::Role::Extractor);
        self.spawn(v1::Role::Applier);
        for _ in 0..400 {
            for i in 0..self.workers.len() {
                self.poll(i);
                for _ in 0..4 {
                    self.work(i, 0, 9);
                }
                self.check();
            }
            if self.at_end() {
                return;
            }
            self.pass(700);
        }
        let s = self.state();
        let stages: Vec<_> = s.tables.iter().map(|t| (t.stage, t.pending.len(), t.copied.len())).collect();
        panic!("it does not come to an end: {:?} {stages:?} {:?} {:?} {:?}", s.phase, s.snapshot, s.error, s.failures);
    }

    pub fn verify(&self) {
        let s = self.state();
        assert_eq!(s.tables.len(), TABLES as usize);
        for (id, t) in s.tables.iter().enumerate() {
            let numbers: Vec<u32> = t.loaded.iter().copied().collect();
            assert_eq!(numbers, (0..CHUNKS).collect::<Vec<_>>());
            assert_eq!(t.rows, ROWS * u64::from(CHUNKS), "each chunk counts once");
            assert!(t.low <= t.high && t.low.is_some());
            // A table without a key has no tolerant stretch.
            assert!((id as u32) + 1 < TABLES || !t.is_mixed());
            // Since the table was last begun again, each chunk was loaded once.
            let begun = self.journal.iter().rposition(
                |e| matches!(e, Event::TableRestart { table, .. } | Event::TableReplanned { table } if *table == id as u32),
            );
            let mut loads = BTreeMap::new();
            for e in &self.journal[begun.unwrap_or(0)..] {
                match e {
                    Event::Loaded { table, chunk, .. } if *table == id as u32 => *loads.entry(*chunk).or_insert(0) += 1,
                    _ => {}
                }
            }
            assert_eq!(loads.len(), CHUNKS as usize);
            assert!(loads.values().all(|n| *n == 1));
        }
        let replayed = State::replay(self.journal.iter()).unwrap();
        assert_eq!(serde_json::to_value(&replayed).unwrap(), serde_json::to_value(s).unwrap());
    }
}

pub fn key(lease: &v1::Lease) -> OrderKey {
    lease.order.parse().unwrap()
}
