//! The desk in a simulated world: workers that die, freeze, fail and lose snapshots, an operator who pauses, a coordinator that
//! restarts, all in simulated time. Whatever happens: no order has two valid holders, every chunk counts once, the journal folds to
//! the live state, and once things calm down the migration comes to its end.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

#[path = "../common/mod.rs"]
mod common;
mod world;

use common::{TABLES, answer};
use drover_coordinator::cutover::Step;
use drover_coordinator::event::Event;
use drover_coordinator::key::OrderKey;
use drover_coordinator::machine::{Phase, State};
use drover_coordinator::settings::Settings;
use drover_model::error::codes;
use drover_model::schema::{Effect, Unlogged};
use drover_model::{Fault, Retry};
use drover_proto::order::{Order, Outcome, Share, Window};
use drover_proto::v1;
use proptest::prelude::*;
use world::*;

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
fn a_snapshot_that_cannot_be_shared_is_read_by_its_maker_only_and_is_lost_with_it() {
    for stages in [ALL, COPY] {
        let mut sim = Sim::new(stages, true);
        sim.shared = false;
        let turns = |sim: &mut Sim, until: &dyn Fn(&Sim) -> bool| {
            for _ in 0..200 {
                for i in 0..sim.workers.len() {
                    sim.poll(i);
                    sim.check();
                    sim.work(i, 0, 9);
                    if until(sim) {
                        return true;
                    }
                }
                sim.pass(100);
            }
            false
        };
        let copied = |sim: &Sim| sim.state().tables.iter().any(|t| !t.copied.is_empty() && !t.pending.is_empty());
        assert!(turns(&mut sim, &copied), "nothing is ever copied");
        let maker = sim.state().snapshot.as_ref().unwrap().holders.keys().next().unwrap().clone();
        let place = sim.workers.iter().position(|w| w.id == maker).unwrap();
        // The other extractor has polled all the time, and got nothing of this snapshot.
        let copies = |sim: &Sim, who: &str| {
            let leases = sim.desk.leases();
            leases
                .of_worker(who)
                .iter()
                .filter(|(_, k)| matches!(k, OrderKey::Copy { .. } | OrderKey::Hold { .. }))
                .count()
        };
        let other = sim.workers.iter().find(|w| w.role == v1::Role::Extractor && w.id != maker).unwrap().id.clone();
        assert_eq!(copies(&sim, &other), 0);
        // The maker dies: what remains is read by the other one, from a snapshot of its own.
        sim.workers.remove(place);
        let second = |sim: &Sim| sim.state().snapshot.as_ref().is_some_and(|s| s.number == 1);
        assert!(turns(&mut sim, &second), "no second snapshot");
        assert!(sim.state().snapshot.as_ref().unwrap().holders.contains_key(&other));
        assert!(sim.journal.iter().any(|e| matches!(e, Event::SnapshotGone { number: 0, .. })));
        sim.calm();
        sim.verify();
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
fn a_cutover_goes_on_only_while_it_is_asked_for() {
    let mut sim = Sim::new(ALL, true);
    let ask = |sim: &mut Sim, argument: serde_json::Value| {
        let turn = sim.desk.cutover("shop", &argument, sim.now).unwrap();
        sim.store(turn);
    };
    let step = |sim: &Sim| sim.state().cutover.as_ref().unwrap().step;
    while !sim.state().consistent {
        (0..4).for_each(|i| {
            sim.poll(i);
            sim.work(i, 0, 9);
        });
        sim.pass(100);
    }
    ask(&mut sim, serde_json::Value::Null);
    for _ in 0..10 {
        sim.pass(20_000);
        ask(&mut sim, serde_json::json!({"number": 1}));
    }
    // Asking for another one is no asking for this one, and begins nothing.
    for _ in 0..3 {
        assert_eq!(step(&sim), Step::ZeroLag);
        sim.restart();
        sim.pass(10_000);
        ask(&mut sim, serde_json::json!({"number": 7}));
    }
    assert_eq!(step(&sim), Step::ZeroLag, "each restart gives a moment to show up");
    sim.pass(30_000);
    assert_eq!(step(&sim), Step::Failed);
    let error = sim.state().cutover.clone().unwrap().error.unwrap();
    assert!(error.message.contains("gone") && sim.state().phase == Phase::Migrating, "{error}");
    ask(&mut sim, serde_json::json!({"number": 1}));
    assert_eq!(step(&sim), Step::Failed, "what has ended is not begun again by its number");
    ask(&mut sim, serde_json::Value::Null);
    assert_eq!(step(&sim), Step::ZeroLag);
    ask(&mut sim, serde_json::json!({"cancel": true}));
    assert_eq!(step(&sim), Step::Failed);
    ask(&mut sim, serde_json::Value::Null);
    for _ in 0..200 {
        for i in 0..4 {
            sim.poll(i);
            (0..4).for_each(|_| sim.work(i, 0, 9));
        }
        ask(&mut sim, serde_json::json!({"number": 3}));
        sim.pass(100);
    }
    assert_eq!((step(&sim), sim.state().phase), (Step::Done, Phase::Completed));
    let replayed = State::replay(sim.journal.iter()).unwrap();
    assert_eq!(serde_json::to_value(&replayed).unwrap(), serde_json::to_value(sim.state()).unwrap());
}

#[test]
fn the_workers_shares_add_up_to_the_limit_and_a_change_reaches_them() {
    let mut sim = Sim::new(ALL, true);
    let copies = |sim: &Sim, i: usize| {
        sim.workers[i].running.iter().filter(|(l, ..)| matches!(key(l), OrderKey::Copy { .. })).count()
    };
    let limit = |sim: &mut Sim, text: &str, n: u64| {
        let turn = sim.desk.limits("shop", &serde_json::json!({ text: n }), sim.now).unwrap();
        sim.store(turn);
    };
    limit(&mut sim, "full.rows_per_second", 1000);
    limit(&mut sim, "incremental.megabytes_per_second", 3);
    for _ in 0..1000 {
        for i in 0..4 {
            sim.poll(i);
            // Copies stay under way.
            if copies(&sim, i) == 0 {
                sim.work(i, 0, 9);
            }
        }
        sim.pass(100);
        if copies(&sim, 0) > 0 && copies(&sim, 1) > 0 {
            break;
        }
    }
    let shares = |sim: &mut Sim| -> Vec<Option<Share>> {
        let ask = |sim: &mut Sim, i: usize| {
            let w = &sim.workers[i];
            let request = v1::PollRequest {
                worker: w.id.clone(),
                role: w.role.into(),
                running: w.running.iter().map(|(l, ..)| l.clone()).collect(),
                ..Default::default()
            };
            let (reply, turn) = sim.desk.poll(&request, sim.now).unwrap();
            sim.store(turn);
            reply.shares.first().map(|s| serde_json::from_slice(s).unwrap())
        };
        (0..2).map(|i| ask(sim, i)).collect()
    };
    let both = shares(&mut sim);
    let rows: f64 = both.iter().flatten().map(|s| s.full.rows).sum();
    assert!((rows - 1000.0).abs() < 1e-6, "{both:?}");
    assert!(both.iter().flatten().all(|s| s.full.rows > 0.0 && s.incremental.bytes == 3e6 && s.full.bytes == 0.0));
    limit(&mut sim, "full.rows_per_second", 0);
    limit(&mut sim, "incremental.megabytes_per_second", 0);
    assert!(shares(&mut sim).iter().all(Option::is_none), "unlimited is not named");
}

#[test]
fn a_snapshot_is_given_up_at_its_limit_but_not_before_it_was_of_use() {
    let mut sim = Sim::new(ALL, true);
    let turn = sim.desk.limits("shop", &serde_json::json!({"snapshot": "10s"}), sim.now).unwrap();
    sim.store(turn);
    let number = |sim: &Sim| sim.state().snapshot.as_ref().map(|s| s.number);
    // Everything is done but copies.
    let turn = |sim: &mut Sim, copies: &mut usize| {
        for i in 0..4 {
            sim.poll(i);
            let open: Vec<usize> =
                (0..sim.workers[i].running.len()).filter(|n| !sim.workers[i].running[*n].2).collect();
            let is_copy = |n: &usize| matches!(sim.workers[i].running[*n].1, Order::Copy { .. });
            let pick = open.iter().position(|n| !is_copy(n) || *copies > 0);
            if let Some(pick) = pick {
                *copies -= usize::from(is_copy(&open[pick]));
                sim.work(i, pick, 9);
            }
        }
        sim.pass(1_000);
    };
    for _ in 0..60 {
        turn(&mut sim, &mut 0);
    }
    assert_eq!(number(&sim), Some(0), "nothing was copied from it yet");
    let mut one = 1;
    for _ in 0..20 {
        turn(&mut sim, &mut one);
    }
    assert_eq!((one, number(&sim)), (0, Some(1)), "it was of use, and over its time");
    sim.calm();
    sim.verify();
}

#[test]
fn a_table_that_never_gets_done_within_a_snapshot_ends_the_migration() {
    let mut sim = Sim::new(ALL, true);
    let turn = sim.desk.limits("shop", &serde_json::json!({"snapshot": "1s"}), sim.now).unwrap();
    sim.store(turn);
    // Of the table without a key (the last one) no more than one chunk is ever read from one snapshot.
    let last = TABLES - 1;
    for _ in 0..4_000 {
        for i in 0..4 {
            sim.poll(i);
            let begun = sim.state().tables.get(last as usize).is_some_and(|t| t.touched);
            let open: Vec<usize> =
                (0..sim.workers[i].running.len()).filter(|n| !sim.workers[i].running[*n].2).collect();
            let stays =
                |n: &usize| matches!(sim.workers[i].running[*n].1, Order::Copy { table, .. } if table == last && begun);
            if let Some(pick) = open.iter().position(|n| !stays(n)) {
                sim.work(i, pick, 9);
            }
        }
        sim.pass(500);
        if sim.state().phase == Phase::Failed {
            let error = sim.state().error.clone().unwrap();
            assert!(error.table.as_deref() == Some("s.t2") && error.remedy.is_some_and(|r| r.contains("[limits]")));
            return;
        }
    }
    panic!("it goes on for ever: {:?}", sim.state().tables.last());
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

/// A broker that was away for long says that it does not know a topic yet when it is back: what it says then has a window of its own.
#[test]
fn a_long_outage_uses_up_the_window_of_no_other_error() {
    let mut sim = Sim::new(ALL, true);
    (0..4).for_each(|_| (0..4).for_each(|i| (sim.poll(i), sim.work(i, 0, 9)).1));
    let other = sim.state().settings.retry_other_ms;
    let back = sim.now.wall_ms + 2 * other;
    while sim.state().phase == Phase::Migrating {
        let retry = if sim.now.wall_ms < back { Retry::Connection } else { Retry::Other };
        (0..4).for_each(|i| sim.poll(i));
        for i in 0..4 {
            while let Some((lease, ..)) = sim.workers[i].running.first().cloned() {
                let _ = sim.report(i, &lease, &Outcome::Failed { error: boxed_error(retry) });
                sim.workers[i].running.remove(0);
            }
        }
        sim.pass(5_000);
        assert!(sim.now.wall_ms < back + other + 120_000, "it ends");
    }
    assert_eq!(sim.state().phase, Phase::Failed);
    assert!(sim.now.wall_ms >= back + other, "{} ms after it was back", sim.now.wall_ms.saturating_sub(back));
    sim.calm();
    sim.verify();
}

/// The wall clock is set while an order waits to be tried again: neither is its window used up, nor does it wait the longer.
#[test]
fn a_clock_that_is_set_neither_ends_a_window_nor_prolongs_a_pause() {
    for by_ms in [-3_600_000i64, 3_600_000] {
        let mut sim = Sim::new(ALL, true);
        sim.now.wall_ms = 100_000_000;
        let fail = |sim: &mut Sim| {
            (0..4).for_each(|i| sim.poll(i));
            for i in 0..4 {
                while let Some((lease, ..)) = sim.workers[i].running.first().cloned() {
                    let error = boxed_error(Retry::Connection);
                    assert!(sim.report(i, &lease, &Outcome::Failed { error }));
                    sim.workers[i].running.remove(0);
                }
            }
        };
        // Checks are tried a few times only: they pass.
        while sim.state().phase != Phase::Migrating {
            (0..4).for_each(|i| (sim.poll(i), sim.work(i, 0, 9)).1);
        }
        fail(&mut sim);
        assert!(!sim.state().failures.is_empty());
        sim.now.wall_ms = sim.now.wall_ms.saturating_add_signed(by_ms);
        sim.pass(0);
        sim.restart();
        sim.pass(1_500);
        fail(&mut sim);
        let attempts = sim.state().failures.values().map(|f| f.attempts).max();
        assert_eq!((sim.state().phase, attempts), (Phase::Migrating, Some(2)), "the clock was set by {by_ms}");
    }
}

/// A migration whose first table was read from two snapshots, at the moment when its apply order has told what it owes. Gives
/// the lease of that order and its windows.
fn owing(sim: &mut Sim) -> (u64, Vec<Window>) {
    let mut lost = false;
    for _ in 0..400 {
        for i in 0..sim.workers.len() {
            sim.poll(i);
            // The second half of the first table waits for the loss, and fetches are what tests are about.
            let may = |order: &Order| match order {
                Order::Fetch { .. } => false,
                Order::Copy { table: 0, chunk, .. } => lost || *chunk < 2,
                _ => true,
            };
            let next = |w: &Worker| w.running.iter().filter(|r| !r.2).position(|(_, o, _)| may(o));
            while let Some(n) = next(&sim.workers[i]) {
                sim.work(i, n, 9);
                if let Some(owes) = sim.state().owed.first() {
                    let lease = owes.keys.lease;
                    let Order::Apply { windows, .. } = &sim.leases[&lease] else { panic!() };
                    return (lease, windows.clone());
                }
            }
            if sim.state().tables.first().is_some_and(|t| t.loaded.len() == 2) && !std::mem::replace(&mut lost, true) {
                sim.lose_snapshot();
            }
        }
        sim.pass(100);
    }
    panic!("nothing was ever owed: {:?}", sim.state().tables);
}

#[test]
fn what_is_owed_is_fetched_on_the_snapshot_which_is_kept_until_then() {
    let mut sim = Sim::new(ALL, true);
    let (lease, windows) = owing(&mut sim);
    let snap = sim.state().snapshot.clone().unwrap();
    assert!(windows[0].low < windows[0].high && windows[0].high == snap.position);
    // Long after: the snapshot is held, the report may come again, and the order stays with its holder.
    for _ in 0..20 {
        (0..4).for_each(|i| sim.poll(i));
        sim.pass(1_000);
    }
    assert_eq!(sim.state().snapshot.as_ref().map(|s| s.number), Some(snap.number));
    let applier = sim.workers.iter().position(|w| w.running.iter().any(|(l, ..)| l.epoch == lease)).unwrap();
    let order = sim.workers[applier].running.iter().find(|(l, ..)| l.epoch == lease).unwrap().clone();
    let owes = answer(&order.1, "w", 1, lease).unwrap();
    assert!(sim.report(applier, &order.0, &owes));
    assert_eq!(sim.state().owed.len(), 1);
    assert!(!sim.state().consistent && !sim.state().final_done);
    sim.restart();
    sim.calm();
    assert!(sim.state().consistent && sim.state().owed.is_empty() && sim.fetched.contains(&lease));
    let taken = |e: &&Event| matches!(e, Event::SnapshotTaken { .. });
    assert_eq!(sim.journal.iter().filter(taken).count(), 2);
    (0..20).for_each(|_| (0..4).for_each(|i| sim.poll(i)));
    assert!(sim.state().snapshot.is_none(), "then it is let go");
    sim.verify();
}

#[test]
fn a_snapshot_for_owed_rows_is_held_no_longer_than_the_limit_but_while_some_are_owed() {
    let mut sim = Sim::new(ALL, true);
    let (lease, _) = owing(&mut sim);
    let number = sim.state().snapshot.as_ref().unwrap().number;
    let turn = sim.desk.limits("shop", &serde_json::json!({"snapshot": "10s"}), sim.now).unwrap();
    sim.store(turn);
    for _ in 0..20 {
        (0..4).for_each(|i| sim.poll(i));
        sim.pass(1_000);
    }
    assert_eq!(sim.state().snapshot.as_ref().map(|s| s.number), Some(number), "somebody waits for rows on it");
    'fetching: loop {
        for i in 0..4 {
            sim.poll(i);
            if let Some(n) = sim.workers[i].running.iter().position(|r| matches!(r.1, Order::Fetch { .. }) && !r.2) {
                sim.work(i, n, 9);
            }
            if sim.state().owed.is_empty() {
                break 'fetching;
            }
        }
        sim.pass(100);
    }
    // Now nobody does, but somebody may.
    assert!(sim.fetched.contains(&lease) && sim.state().may_owe() && sim.state().snapshot.is_none());
    sim.calm();
    assert!(sim.state().consistent);
    sim.verify();
}

#[test]
fn owed_rows_without_a_snapshot_get_a_later_one_and_wider_windows() {
    let mut sim = Sim::new(ALL, true);
    let (lease, windows) = owing(&mut sim);
    let number = sim.state().snapshot.as_ref().unwrap().number;
    sim.lose_snapshot();
    // Nobody applies until there is another snapshot.
    assert!(sim.desk.leases().get(sim.id, &OrderKey::Apply).is_none());
    (2..4).for_each(|i| sim.poll(i));
    assert!(sim.desk.leases().get(sim.id, &OrderKey::Apply).is_none());
    sim.pass(500);
    sim.calm();
    let state = sim.state();
    let high = state.tables[0].high.clone().unwrap();
    assert!(high > windows[0].high && state.tables[0].low.as_ref() == Some(&windows[0].low));
    assert!(state.consistent && state.next_snapshot == number + 2);
    assert!(!sim.fetched.contains(&lease), "what the former asked for is void");
    let (_, last) = sim.leases.iter().rev().find(|(_, o)| matches!(o, Order::Apply { .. })).unwrap();
    let Order::Apply { windows, .. } = last else { panic!() };
    assert_eq!(windows[0].high, high);
    sim.verify();
}

/// A snapshot between two marks: tables that were changed in between are applied tolerantly up to its end, whatever is read of them and when, others from its position
/// on. What waits for consistency waits for the end.
#[test]
fn a_blurred_snapshot_widens_the_windows_of_its_tables_alone() {
    for loses in [false, true] {
        let mut sim = Sim::new(ALL, true);
        (sim.blur, sim.owes) = (vec![0], false);
        while sim.state().tables.iter().map(|t| t.copied.len() + t.loaded.len()).sum::<usize>() < 2 {
            (0..sim.workers.len()).for_each(|i| {
                sim.poll(i);
                sim.work(i, 0, 9);
            });
            sim.pass(10);
        }
        let first = sim.state().snapshot.clone().unwrap();
        if loses {
            sim.lose_snapshot();
            sim.pass(1_000);
        }
        sim.calm();
        let applying = sim.leases.iter().rev().find_map(|(_, o)| match o {
            Order::Apply { windows, .. } => Some(windows.clone()),
            _ => None,
        });
        let windows = applying.unwrap();
        let last = sim.journal.iter().rev().find_map(|e| match e {
            Event::SnapshotTaken { snapshot, .. } => Some(snapshot.clone()),
            _ => None,
        });
        let last = last.unwrap();
        let until = last.blur.as_ref().map(|b| b.until.clone()).unwrap();
        assert_eq!(loses, last.position != first.position);
        assert!(windows[0].low <= last.position && windows[0].high == until, "{windows:?}");
        assert!(windows[1..].iter().all(|w| w.high < until) && windows[2].low == windows[2].high, "{windows:?}");
        assert!(loses || windows[1].low == windows[1].high, "{windows:?}");
        // The foreign keys are made when the destination has passed the end.
        let at = |wanted: fn(&Event) -> bool| sim.journal.iter().position(wanted).unwrap();
        assert!(
            at(|e| matches!(e, Event::Consistent))
                < at(|e| matches!(e, Event::SchemaDone { step: drover_proto::order::Step::Final, .. }))
        );
        sim.verify();
    }
}

/// Nobody knows whether such a snapshot is as new as the change that owes a row: rows are fetched on the first one whose place is exact.
#[test]
fn owed_rows_are_not_fetched_on_a_blurred_snapshot() {
    let mut sim = Sim::new(ALL, true);
    sim.blur = vec![0];
    let taken = |sim: &Sim| sim.state().next_snapshot;
    for _ in 0..2_000 {
        for i in 0..sim.workers.len() {
            sim.poll(i);
            sim.work(i, 0, 9);
        }
        sim.pass(100);
        if taken(&sim) == 3 {
            break;
        }
    }
    assert!(taken(&sim) >= 3 && sim.fetched.is_empty() && !sim.state().consistent, "each is given up");
    sim.blur = Vec::new();
    sim.calm();
    let state = sim.state();
    assert!(state.consistent && !sim.fetched.is_empty());
    let last = sim.journal.iter().rev().find_map(|e| match e {
        Event::SnapshotTaken { snapshot, .. } => Some(snapshot.position.clone()),
        _ => None,
    });
    assert_eq!(state.tables[0].high, last, "and applied tolerantly up to it");
    sim.verify();
}

#[test]
fn who_takes_an_apply_order_over_asks_for_itself() {
    let mut sim = Sim::new(ALL, true);
    let (lease, _) = owing(&mut sim);
    let applier = sim.workers.iter().position(|w| w.running.iter().any(|(l, ..)| l.epoch == lease)).unwrap();
    sim.workers.remove(applier);
    while !sim.state().owed.is_empty() {
        sim.pass(1_000);
        (0..3).for_each(|i| sim.poll(i));
        assert!(sim.now.mono_ms < 60_000, "what it asked for outlives its lease");
    }
    let number = sim.state().snapshot.as_ref().unwrap().number;
    sim.calm();
    assert_eq!(sim.state().next_snapshot, number + 1, "on the same snapshot");
    assert!(sim.state().consistent && !sim.fetched.contains(&lease));
    sim.verify();
}

/// Whenever the snapshot is lost: tables that foreign keys tie to each other, without a trace in the log, stand at one position in the end.
#[test]
fn tables_that_foreign_keys_tie_are_read_from_one_snapshot() {
    let mut mixed_without = 0;
    for (steps, tie) in (1..60).flat_map(|steps| [(steps, true), (steps, false)]) {
        let mut sim = Sim::new(ALL, true);
        let mut taken = 0;
        'steps: for _ in 0..100 {
            for i in 0..sim.workers.len() {
                sim.poll(i);
                let open = |w: &Worker| w.running.iter().find(|r| !r.2).cloned();
                while let Some((lease, order, _)) = open(&sim.workers[i]) {
                    if taken == steps {
                        break 'steps;
                    }
                    taken += 1;
                    if !tie || order != Order::Inspect {
                        sim.work(i, 0, 9);
                        continue;
                    }
                    let mut catalog = common::catalog();
                    let parent = catalog.tables[0].name.clone();
                    catalog.tables[1].unlogged.push(Unlogged {
                        name: "k".into(),
                        parent,
                        columns: vec![],
                        references: vec![],
                        on_delete: Some(Effect::Cascade),
                        on_update: None,
                    });
                    let outcome = Outcome::Inspected { catalog: catalog.into(), items: vec![] };
                    sim.end(i, &key(&lease), &outcome);
                }
            }
            sim.pass(10);
        }
        sim.lose_snapshot();
        sim.calm();
        sim.verify();
        let windows: Vec<_> = sim.state().tables[..2].iter().map(|t| (t.low.clone(), t.high.clone())).collect();
        let one = windows[0] == windows[1] && windows[0].0 == windows[0].1;
        assert!(one || !tie, "after {steps} steps: {windows:?}");
        mixed_without += u32::from(!one);
    }
    assert!(mixed_without > 0, "without the tie some losses leave them apart");
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
    fn whatever_happens_the_migration_ends_right(acts in acts(), incremental: bool, durable: bool, shared: bool) {
        let mut sim = Sim::new(if incremental { ALL } else { COPY }, durable);
        sim.shared = shared;
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
