//! The desk in a simulated world: workers that die, freeze, fail and lose snapshots, an operator who pauses, a coordinator that
//! restarts, all in simulated time. Whatever happens: no order has two valid holders, every chunk counts once, the journal folds to
//! the live state, and once things calm down the migration comes to its end.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod common;

use common::{CHUNKS, ROWS, TABLES, answer};
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
use drover_model::{Error, Fault, MigrationId, Retry};
use drover_proto::order::{Order, Outcome, Progress};
use drover_proto::v1;
use proptest::prelude::*;
use std::collections::BTreeMap;

struct Worker {
    id: String,
    role: v1::Role,
    running: Vec<(v1::Lease, Order, bool)>,
    frozen: bool,
}

struct Sim {
    desk: Desk,
    id: MigrationId,
    migration: Migration,
    now: Now,
    workers: Vec<Worker>,
    journal: Vec<Event>,
    grants: BTreeMap<OrderKey, Grant>,
    epoch: u64,
    spawned: u32,
}

fn boxed_error(retry: Retry) -> Error {
    Error::new(codes::CONNECTION, Fault::Source, retry, "cut")
}

impl Sim {
    fn new(stages: &str, durable: bool) -> Sim {
        let now = Now { mono_ms: 0, wall_ms: 1_000_000 };
        let (mut desk, _) = Desk::restore(Tuning::default(), Vec::new(), false, now).unwrap();
        let migration = common::migration("shop", stages);
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
        };
        sim.store(turn);
        for role in [v1::Role::Extractor, v1::Role::Extractor, v1::Role::Applier, v1::Role::Applier] {
            sim.spawn(role);
        }
        sim
    }

    fn spawn(&mut self, role: v1::Role) {
        self.spawned += 1;
        self.workers.push(Worker { id: format!("w{}", self.spawned), role, running: Vec::new(), frozen: false });
    }

    fn store(&mut self, turn: Turn) {
        for write in turn.writes {
            match write {
                Write::Event { seq, event, .. } => {
                    self.journal.push(*event);
                    assert_eq!(seq, self.journal.len() as u64, "events are numbered without holes");
                }
                Write::Grant(grant) => {
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

    fn state(&self) -> &State {
        &self.desk.entry(self.id).unwrap().state
    }

    fn poll(&mut self, i: usize) {
        let w = &self.workers[i];
        let place = common::at(self.now.wall_ms);
        let progress = w.running.iter().filter_map(|(_, order, _)| {
            let migration = self.id;
            let news = match order {
                Order::Apply { .. } => Progress::Apply {
                    migration,
                    applied: place.clone(),
                    rows: 1,
                    transactions: 1,
                    commit_micros: 0,
                    consistent: true,
                },
                Order::Stream { .. } => Progress::Stream {
                    migration,
                    published: place.clone(),
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

    fn report(&mut self, i: usize, lease: &v1::Lease, outcome: &Outcome) -> bool {
        let request = v1::ReportRequest {
            worker: self.workers[i].id.clone(),
            lease: Some(lease.clone()),
            outcome: serde_json::to_vec(outcome).unwrap().into(),
        };
        let (accepted, turn) = self.desk.report(&request, self.now).unwrap();
        self.store(turn);
        if outcome.ends() {
            let again = self.desk.report(&request, self.now).unwrap();
            assert_eq!(again.0, accepted, "a repeated report is answered as the first");
            assert!(again.1.writes.is_empty(), "and changes nothing");
        }
        accepted
    }

    /// Worker `i` comes to the end of (or opens) one of its orders.
    fn work(&mut self, i: usize, pick: usize, how: u8) {
        let open: Vec<usize> = (0..self.workers[i].running.len()).filter(|n| !self.workers[i].running[*n].2).collect();
        let Some(&n) = open.get(pick % open.len().max(1)) else { return };
        let (lease, order, _) = self.workers[i].running[n].clone();
        let outcome = match how {
            0 => Some(Outcome::Failed { error: boxed_error(Retry::Connection) }),
            1 if matches!(order, Order::Copy { .. } | Order::Plan { .. } | Order::Hold { .. }) => {
                Some(Outcome::SnapshotLost { error: boxed_error(Retry::Other) })
            }
            2 if matches!(order, Order::Load { .. }) => Some(Outcome::BulkLost),
            _ => answer(&order, &self.workers[i].id, self.now.wall_ms, lease.epoch),
        };
        let Some(outcome) = outcome else {
            self.workers[i].running[n].2 = true;
            return;
        };
        self.report(i, &lease, &outcome);
        let running = &mut self.workers[i].running;
        if outcome.ends() { drop(running.remove(n)) } else { running[n].2 = true }
    }

    fn pass(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        let turn = self.desk.sweep(self.now);
        self.store(turn);
    }

    fn restart(&mut self) {
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

    fn check(&self) {
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

    fn at_end(&self) -> bool {
        let applying = self.workers.iter().any(|w| w.running.iter().any(|(_, o, _)| matches!(o, Order::Apply { .. })));
        let s = self.state();
        s.phase == Phase::Completed || (applying && s.final_done && s.failures.is_empty())
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) {
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

    fn verify(&self) {
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

fn key(lease: &v1::Lease) -> OrderKey {
    lease.order.parse().unwrap()
}

const ALL: &str = r#"["schema", "full", "incremental"]"#;
const COPY: &str = r#"["schema", "full"]"#;

#[test]
fn a_quiet_migration_runs_through_its_stages() {
    for (stages, phase) in [(ALL, Phase::Migrating), (COPY, Phase::Completed), (r#"["full"]"#, Phase::Completed)] {
        let mut sim = Sim::new(stages, true);
        for _ in 0..200 {
            for i in 0..sim.workers.len() {
                sim.poll(i);
                (0..4).for_each(|_| sim.work(i, 0, 9));
            }
            sim.pass(100);
        }
        assert_eq!(sim.state().phase, phase, "{stages}");
        sim.verify();
        assert!(sim.state().snapshot.is_none(), "the snapshot is let go");
    }
    for stages in [r#"["schema"]"#, r#"["incremental"]"#, r#"["schema", "incremental"]"#] {
        let mut sim = Sim::new(stages, true);
        for _ in 0..100 {
            for i in 0..sim.workers.len() {
                sim.poll(i);
                (0..4).for_each(|_| sim.work(i, 0, 9));
            }
            sim.pass(100);
        }
        let applying = sim.desk.leases().is_held(sim.id, &OrderKey::Apply);
        assert_eq!(applying, stages.contains("incremental"), "{stages}");
        assert_eq!(sim.state().phase == Phase::Completed, !applying, "{stages}");
        assert!(!sim.journal.iter().any(|e| matches!(e, Event::Planned { .. })));
    }
}

#[test]
fn a_dead_workers_orders_move_within_the_term_and_the_dead_one_is_refused() {
    let mut sim = Sim::new(ALL, true);
    for _ in 0..200 {
        (0..sim.workers.len()).for_each(|i| {
            sim.poll(i);
            (0..4).for_each(|_| sim.work(i, 0, 9));
        });
        sim.pass(100);
    }
    let holder = sim.workers.iter().position(|w| w.running.iter().any(|(l, ..)| key(l) == OrderKey::Apply)).unwrap();
    let other = (2..4).find(|i| *i != holder).unwrap();
    let (lease, ..) = sim.workers[holder].running.iter().find(|(l, ..)| key(l) == OrderKey::Apply).unwrap().clone();
    let died = sim.now.mono_ms;
    while !sim.workers[other].running.iter().any(|(l, ..)| key(l) == OrderKey::Apply) {
        sim.pass(1_000);
        for i in (0..4).filter(|i| *i != holder) {
            sim.poll(i);
        }
        assert!(sim.now.mono_ms - died <= 15_000, "nobody took over");
    }
    // The last renewal may lie up to a second before the death.
    assert!(sim.now.mono_ms - died >= sim.desk.tuning().lease_ms - 1_000, "taken while the lease still held");
    let taken = sim.desk.leases().get(sim.id, &OrderKey::Apply).unwrap().grant.epoch;
    assert!(taken > lease.epoch);
    let failed = Outcome::Failed { error: boxed_error(Retry::Never) };
    assert!(!sim.report(holder, &lease, &failed), "the frozen one has nothing to say");
    sim.poll(holder);
    assert!(sim.workers[holder].running.iter().all(|(l, ..)| key(l) != OrderKey::Apply), "and is told to stop");
    assert_eq!(sim.state().phase, Phase::Migrating);
}

#[test]
fn a_lease_outlives_the_coordinator() {
    let mut sim = Sim::new(ALL, true);
    (0..30).for_each(|_| {
        (0..4).for_each(|i| {
            sim.poll(i);
            sim.work(i, 0, 9);
        });
        sim.pass(100);
    });
    let before = sim.desk.leases().get(sim.id, &OrderKey::Stream).unwrap().grant.clone();
    sim.restart();
    sim.pass(3_000);
    (0..4).for_each(|i| sim.poll(i));
    assert_eq!(sim.desk.leases().get(sim.id, &OrderKey::Stream).unwrap().grant, before);
}

#[test]
fn actions_are_allowed_where_the_table_of_states_says_so() {
    let allowed = |phase: Phase| -> &[&str] {
        match phase {
            Phase::Draft | Phase::PrecheckFailed | Phase::Passed => &["resume", "delete"],
            Phase::Prechecking => &["pause"],
            Phase::Migrating => &["pause", "stop"],
            Phase::Paused | Phase::Failed => &["resume", "stop"],
            Phase::Completed => &["delete"],
            Phase::Deleted => &[],
        }
    };
    let settings = Settings::of(&common::migration("shop", ALL), 4);
    for phase in [
        Phase::Draft,
        Phase::Prechecking,
        Phase::PrecheckFailed,
        Phase::Passed,
        Phase::Migrating,
        Phase::Paused,
        Phase::Failed,
        Phase::Completed,
        Phase::Deleted,
    ] {
        let mut state = State::new("shop", settings.clone());
        state.phase = phase;
        for action in ["pause", "resume", "stop", "delete"] {
            let result = state.on_action(action);
            assert_eq!(result.is_ok(), allowed(phase).contains(&action), "{action} in {phase:?}");
            if let Err(error) = result {
                assert!(error.message.contains(state.label()) && error.remedy.is_some() && error.fault == Fault::User);
            }
        }
        assert!(state.on_action("explode").is_err());
    }
}

#[test]
fn an_error_that_stays_fails_the_migration_at_the_end_of_its_window_and_not_before() {
    let mut sim = Sim::new(ALL, true);
    (0..4).for_each(|_| (0..4).for_each(|i| (sim.poll(i), sim.work(i, 0, 9)).1));
    let other = sim.state().settings.retry_other_ms;
    let begun = sim.now.wall_ms;
    let mut seen_retrying = false;
    while sim.state().phase == Phase::Migrating {
        (0..4).for_each(|i| sim.poll(i));
        for i in 0..4 {
            while let Some((lease, ..)) = sim.workers[i].running.first().cloned() {
                let _ = sim.report(i, &lease, &Outcome::Failed { error: boxed_error(Retry::Other) });
                sim.workers[i].running.remove(0);
            }
        }
        seen_retrying |= sim.state().label() == "retrying";
        sim.pass(5_000);
        assert!(sim.now.wall_ms < begun + other + 120_000);
    }
    assert_eq!(sim.state().phase, Phase::Failed);
    assert!(seen_retrying && sim.now.wall_ms >= begun + other);
    assert!(sim.desk.leases().of_migration(sim.id).next().is_none(), "nothing runs any more");
    sim.calm();
    sim.verify();
}

#[test]
fn a_table_that_was_rewritten_is_named() {
    let mut sim = Sim::new(ALL, true);
    for _ in 0..50 {
        for i in 0..4 {
            sim.poll(i);
            if let Some((lease, Order::Copy { .. }, _)) =
                sim.workers[i].running.iter().find(|(_, o, _)| matches!(o, Order::Copy { .. })).cloned()
            {
                let Some(Outcome::Copied { extent, .. }) =
                    answer(&sim.workers[i].running.iter().find(|r| r.0 == lease).unwrap().1, "w", 1, 1)
                else {
                    panic!()
                };
                assert!(sim.report(i, &lease, &Outcome::Copied { extent, physical: "other".into() }));
                assert_eq!(sim.state().phase, Phase::Failed);
                let error = sim.state().error.clone().unwrap();
                assert_eq!(error.code, codes::TABLE_CHANGED);
                assert!(error.table.unwrap().starts_with("s.t"));
                return;
            }
            sim.work(i, 0, 9);
        }
    }
    panic!("no copy was ever given");
}

#[derive(Debug, Clone)]
enum Act {
    Poll(usize),
    Work(usize, usize, u8),
    Pass(u64),
    Kill(usize),
    Freeze(usize),
    Restart,
    Pause,
    Resume,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        12 => (0..8usize).prop_map(Act::Poll),
        20 => (0..8usize, 0..8usize, 0..24u8).prop_map(|(a, b, c)| Act::Work(a, b, c)),
        4 => (10..3_000u64).prop_map(Act::Pass),
        1 => Just(Act::Pass(11_000)),
        1 => (0..8usize).prop_map(Act::Kill),
        1 => (0..8usize).prop_map(Act::Freeze),
        1 => Just(Act::Restart),
        1 => Just(Act::Pause),
        3 => Just(Act::Resume),
    ];
    proptest::collection::vec(act, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_migration_ends_right(acts in acts(), incremental: bool, durable: bool) {
        let mut sim = Sim::new(if incremental { ALL } else { COPY }, durable);
        for act in acts {
            let n = sim.workers.len();
            match act {
                Act::Poll(i) if !sim.workers[i % n].frozen => sim.poll(i % n),
                Act::Work(i, pick, how) => sim.work(i % n, pick, how),
                Act::Pass(ms) => sim.pass(ms),
                Act::Kill(i) => {
                    let dead = sim.workers.remove(i % n);
                    sim.spawn(dead.role);
                }
                Act::Freeze(i) => sim.workers[i % n].frozen ^= true,
                Act::Restart => sim.restart(),
                Act::Pause | Act::Resume => {
                    let action = if matches!(act, Act::Pause) { "pause" } else { "resume" };
                    if let Ok(turn) = sim.desk.act("shop", action, false, sim.now) {
                        sim.store(turn);
                    }
                }
                Act::Poll(_) => {}
            }
            sim.check();
        }
        sim.calm();
        sim.verify();
    }
}
