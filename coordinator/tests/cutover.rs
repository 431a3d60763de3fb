//! The cutover against a source that is written to, an applier that is replaced, tables that differ: it is done only if nothing changed
//! between its marks and both sides held the same, and a failed one leaves the migration as it was.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod common;

use common::{TABLES, at, catalog, migration, plans};
use drover_coordinator::cutover::{Applied, Cutover, Step};
use drover_coordinator::decide::Report;
use drover_coordinator::event::Event;
use drover_coordinator::key::OrderKey;
use drover_coordinator::machine::{Cleaning, Phase, State};
use drover_coordinator::settings::Settings;
use drover_coordinator::wants::{Budget, View};
use drover_model::ddl::{Dated, SchemaChange, TableChange};
use drover_model::error::codes;
use drover_model::plan::PlanColumn;
use drover_model::schema::{DataType, Table, TableName};
use drover_model::{Error, Fault, Position, Retry};
use drover_proto::order::{Order, Outcome, Side};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A migration that follows changes.
fn following() -> State {
    let mut state = State::new("shop", Settings::of(&migration("shop", r#"["schema", "full", "incremental"]"#), 4));
    state.plans = plans().into();
    state.apply(&Event::Started);
    for t in &mut state.tables {
        t.stage = drover_coordinator::table::TableStage::Done;
    }
    state.stream_start = Some(at(0));
    state.base_done = true;
    state.final_done = true;
    state.consistent = true;
    state
}

fn fold(state: &mut State, events: Vec<Event>) {
    for event in events {
        state.apply(&event);
    }
    while let Some(event) = state.follow_up() {
        state.apply(&event);
    }
}

fn begin(state: &mut State) {
    let events = state.begin_cutover().unwrap();
    fold(state, events);
}

fn cutover(state: &State) -> &Cutover {
    state.cutover.as_ref().unwrap()
}

/// The orders of the cutover that are wanted now.
fn wanted(state: &State) -> Vec<(OrderKey, Order)> {
    let budget = Budget { chunks: 1, bytes: 1, target_bytes: 1 };
    let view = View { extractors: &[], running: &|_| false, copies: 0, budget };
    state.wants(&view).into_iter().filter(|w| w.key.is_cutover()).map(|w| (w.key, w.order)).collect()
}

fn report(state: &mut State, key: &OrderKey, order: &Order, outcome: Outcome) -> bool {
    let report = Report { key, order, worker: "w", outcome, now_ms: 1 };
    match state.on_outcome(report) {
        Ok(events) => {
            fold(state, events);
            true
        }
        Err(_) => false,
    }
}

/// A source, a destination and an applier between them. A table's rows are its changes, so that its sum is their number.
struct World {
    state: State,
    now: u64,
    /// Position and table.
    commits: Vec<(u64, u32)>,
    sequence: i64,
    /// What the applier has taken in, and what it has told as applied.
    cut: u64,
    applied: u64,
    from: u64,
    changed: BTreeMap<u32, u64>,
    /// The destination lacks a row of this table.
    damaged: Option<u32>,
}

impl World {
    fn new() -> World {
        World {
            state: following(),
            now: 10,
            commits: Vec::new(),
            sequence: 1,
            cut: 10,
            applied: 10,
            from: 10,
            changed: BTreeMap::new(),
            damaged: None,
        }
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn commit(&mut self, table: u32) {
        let now = self.tick();
        self.commits.push((now, table));
    }

    /// A batch up to here, committed: its end stands for all changes in it.
    fn apply(&mut self, to: u64) {
        let to = to.clamp(self.cut, self.now);
        for (_, table) in self.commits.iter().filter(|(p, _)| *p > self.cut && *p <= to) {
            self.changed.insert(*table, to);
        }
        self.cut = to;
        self.applied = to;
    }

    fn replace_applier(&mut self) {
        (self.from, self.cut) = (self.applied, self.applied);
        self.changed.clear();
    }

    fn news(&mut self) {
        let mut changed: Vec<(u32, Position)> = self.changed.iter().map(|(t, p)| (*t, at(*p))).collect();
        changed.sort_by(|a, b| b.1.cmp(&a.1));
        let (applied, from) = (at(self.applied), at(self.from));
        let news = Applied { applied: &applied, from: Some(&from), changed: &changed };
        let events = self.state.on_applied(&news);
        fold(&mut self.state, events);
    }

    fn rows(&self, table: u32, until: u64) -> u64 {
        self.commits.iter().filter(|(p, t)| *t == table && *p <= until).count() as u64
    }

    fn answer(&mut self, key: &OrderKey, order: &Order) -> bool {
        let outcome = match order {
            Order::Mark => Outcome::Marked { position: at(self.tick()) },
            Order::ReadSequences => {
                let other = ("s".into(), "not_ours".into(), self.now as i64, true);
                Outcome::Sequences { values: vec![("s".into(), "q".into(), self.sequence, true), other] }
            }
            Order::SetSequences { .. } => Outcome::Done { what: vec!["s.q".into()] },
            Order::Digest { table, side: Side::Source } => {
                let rows = self.rows(*table, self.now);
                Outcome::Digested { rows, sum: rows.to_string() }
            }
            Order::Digest { table, side: Side::Destination } => {
                let rows = self.rows(*table, self.applied) + u64::from(self.damaged == Some(*table)) * 1000;
                Outcome::Digested { rows, sum: rows.to_string() }
            }
            Order::Schema { .. } => Outcome::Done { what: vec!["trigger t".into()] },
            other => panic!("{other:?}"),
        };
        report(&mut self.state, key, order, outcome)
    }

    /// Everything wanted is answered, everything applied, until nothing more happens.
    fn calm(&mut self) {
        for _ in 0..200 {
            for (key, order) in wanted(&self.state) {
                self.answer(&key, &order);
            }
            self.apply(self.now);
            self.news();
            if !cutover(&self.state).is_running() {
                return;
            }
        }
        panic!("it does not come to an end: {:?}", self.state.cutover);
    }
}

fn place(position: &Option<Position>) -> u64 {
    position.as_ref().unwrap().text.parse().unwrap()
}

#[test]
fn a_quiet_source_is_cut_over_and_a_second_call_finds_it_done() {
    let mut w = World::new();
    w.commit(1);
    begin(&mut w.state);
    begin(&mut w.state);
    w.calm();
    let c = cutover(&w.state).clone();
    assert_eq!((c.step, c.number, c.attempt), (Step::Done, 1, 2));
    assert_eq!(w.state.phase, Phase::Completed);
    assert_eq!(w.state.clean_source, Cleaning::Wanted, "the slot goes");
    assert_eq!(w.state.clean_destination, Cleaning::No);
    assert_eq!(c.compared.len(), TABLES as usize);
    assert!(w.state.begin_cutover().unwrap().is_empty());
}

/// A table that the source has made since the copy is compared like the others.
#[test]
fn a_table_that_was_made_meanwhile_is_compared_as_well() {
    let mut w = World::new();
    let column = PlanColumn::new("a", DataType::Other, "");
    std::sync::Arc::make_mut(&mut w.state.plans).iter_mut().for_each(|p| p.columns = vec![column.clone()]);
    let name = TableName::new("s", "made");
    let mut plan = w.state.plans[0].clone();
    (plan.id, plan.source, plan.destination) = (TABLES, name.clone(), name.clone());
    let made = TableChange {
        id: Some(TABLES),
        before: None,
        after: Some(Table { name, ..catalog().tables[0].clone() }),
        plan: Some(plan),
        renamed: Vec::new(),
        anew: Vec::new(),
        clauses: Vec::new(),
        filled: Vec::new(),
        apart: false,
        stopped: None,
    };
    let change = SchemaChange {
        verb: "CREATE TABLE".into(),
        statement: None,
        context: BTreeMap::new(),
        tables: vec![made],
        objects: Vec::new(),
    };
    w.state.catalog = Some(catalog().into());
    w.state.apply(&Event::SchemaChanged { dated: Box::new(Dated { position: at(w.now), change }) });
    w.commit(TABLES);
    begin(&mut w.state);
    w.calm();
    let c = cutover(&w.state);
    assert_eq!(c.step, Step::Done);
    assert!(c.compared.contains(&TABLES) && c.equal(TABLES) == Some(true), "{c:?}");
}

#[test]
fn while_it_switches_nothing_is_applied_and_nobody_calls_it_off() {
    let mut w = World::new();
    begin(&mut w.state);
    while cutover(&w.state).step != Step::Switching {
        assert!(w.state.may_apply());
        for (key, order) in wanted(&w.state) {
            w.answer(&key, &order);
        }
        w.apply(w.now);
        w.news();
    }
    assert!(!w.state.may_apply() && w.state.call_off("late").is_empty());
    let orders = wanted(&w.state);
    assert_eq!(orders.len(), 1);
    assert!(matches!(orders[0].1, Order::Schema { .. }));
    // It cannot be made: the migration goes on.
    let mut other = w.state.clone();
    let error = Error::new(codes::STATEMENT, Fault::Destination, Retry::Never, "no");
    report(&mut other, &orders[0].0, &orders[0].1, Outcome::Failed { error });
    assert!(cutover(&other).step == Step::Failed && other.may_apply());
    w.calm();
    assert_eq!(cutover(&w.state).step, Step::Done);
}

#[test]
fn asking_again_means_the_source_as_it_is_then() {
    let mut w = World::new();
    begin(&mut w.state);
    while cutover(&w.state).step != Step::Validating {
        for (key, order) in wanted(&w.state) {
            w.answer(&key, &order);
        }
        w.apply(w.now);
        w.news();
    }
    w.commit(2);
    begin(&mut w.state);
    w.calm();
    let c = cutover(&w.state);
    assert_eq!((c.step, c.number, c.attempt), (Step::Done, 1, 2));
}

#[test]
fn what_changes_after_the_barrier_is_named_and_the_migration_goes_on() {
    let mut w = World::new();
    begin(&mut w.state);
    while cutover(&w.state).step != Step::Validating {
        for (key, order) in wanted(&w.state) {
            w.answer(&key, &order);
        }
        w.apply(w.now);
        w.news();
    }
    w.commit(2);
    w.calm();
    let c = cutover(&w.state).clone();
    assert_eq!(c.step, Step::Failed);
    let error = c.error.unwrap();
    assert_eq!(error.code, codes::CUTOVER);
    assert!(error.message.contains("s.t2") && !error.message.contains("s.t1"), "{error}");
    assert_eq!(w.state.phase, Phase::Migrating);
    assert!(wanted(&w.state).is_empty());
    begin(&mut w.state);
    w.calm();
    let c = cutover(&w.state);
    assert_eq!((c.step, c.number), (Step::Done, 2));
}

#[test]
fn a_sequence_that_moves_is_a_change_but_only_one_of_ours() {
    let mut w = World::new();
    begin(&mut w.state);
    while cutover(&w.state).step != Step::Closing {
        for (key, order) in wanted(&w.state) {
            w.answer(&key, &order);
        }
        w.apply(w.now);
        w.news();
    }
    w.sequence += 1;
    w.calm();
    let error = cutover(&w.state).error.clone().unwrap();
    assert!(error.message.contains("s.q") && !error.message.contains("not_ours"), "{error}");
}

#[test]
fn tables_that_differ_are_named_after_three_looks() {
    let mut w = World::new();
    w.damaged = Some(1);
    begin(&mut w.state);
    w.calm();
    let c = cutover(&w.state).clone();
    let error = c.error.clone().unwrap();
    assert_eq!((c.step, c.looks, error.code.as_str()), (Step::Failed, 2, codes::DIFFERENT));
    assert!(error.message.contains("s.t1") && !error.message.contains("s.t0"), "{error}");
    assert_eq!(w.state.phase, Phase::Migrating);
}

#[test]
fn a_replaced_applier_means_new_marks_and_old_outcomes_mean_nothing() {
    let mut w = World::new();
    begin(&mut w.state);
    while cutover(&w.state).step != Step::Validating {
        for (key, order) in wanted(&w.state) {
            w.answer(&key, &order);
        }
        w.apply(w.now);
        w.news();
    }
    let old = wanted(&w.state);
    w.tick();
    w.apply(w.now);
    w.replace_applier();
    w.news();
    assert_eq!((cutover(&w.state).step, cutover(&w.state).attempt), (Step::ZeroLag, 2));
    for (key, order) in old {
        assert!(!w.answer(&key, &order), "{key} was of the attempt before");
    }
    w.calm();
    assert_eq!(cutover(&w.state).step, Step::Done);
}

#[test]
fn an_order_that_cannot_be_carried_out_fails_the_cutover_alone() {
    for (retry, fails) in [(Retry::Never, true), (Retry::Connection, false)] {
        let mut w = World::new();
        begin(&mut w.state);
        let (key, order) = wanted(&w.state).remove(0);
        let error = Error::new(codes::STATEMENT, Fault::Source, retry, "no");
        assert!(report(&mut w.state, &key, &order, Outcome::Failed { error }));
        assert_eq!(cutover(&w.state).step == Step::Failed, fails);
        assert_eq!(w.state.phase, Phase::Migrating);
    }
}

#[test]
fn pausing_stopping_and_failing_end_it_and_states_without_changes_refuse_it() {
    for event in [Event::Paused, Event::Stopped, Event::Failed { error: Error::internal("x") }] {
        let mut w = World::new();
        begin(&mut w.state);
        fold(&mut w.state, vec![event]);
        assert_eq!(cutover(&w.state).step, Step::Failed);
        assert!(cutover(&w.state).error.is_some());
        let refused = w.state.begin_cutover().unwrap_err();
        assert!(refused.remedy.is_some() && refused.fault == Fault::User);
    }
    let mut copy = following();
    copy.settings.incremental = false;
    assert!(copy.begin_cutover().unwrap_err().message.contains("ends by itself"));
    // Asked for during the copy it waits.
    let mut early = following();
    early.consistent = false;
    begin(&mut early);
    assert!(wanted(&early).is_empty());
    early.consistent = true;
    assert_eq!(wanted(&early).len(), 1);
}

#[derive(Debug, Clone)]
enum Act {
    Commit(u32),
    Answer(usize),
    Apply(u64),
    News,
    Replace,
    Sequence,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in which order: a cutover that is done was right, and the journal of events tells the same story.
    #[test]
    fn done_means_that_nothing_changed_and_nothing_differed(
        acts in proptest::collection::vec(prop_oneof![
            1 => (0..TABLES).prop_map(Act::Commit),
            12 => (0..8usize).prop_map(Act::Answer),
            6 => (0..12u64).prop_map(Act::Apply),
            8 => Just(Act::News),
            1 => Just(Act::Replace),
            1 => Just(Act::Sequence),
        ], 0..120),
        damaged in proptest::option::weighted(0.2, 0..TABLES),
    ) {
        let mut w = World::new();
        w.damaged = damaged;
        begin(&mut w.state);
        for act in acts {
            match act {
                Act::Commit(table) => w.commit(table),
                Act::Answer(n) => {
                    let all = wanted(&w.state);
                    if let Some((key, order)) = all.get(n % all.len().max(1)) {
                        w.answer(key, order);
                    }
                }
                Act::Apply(more) => w.apply(w.applied + more),
                Act::News => w.news(),
                Act::Replace => w.replace_applier(),
                Act::Sequence => w.sequence += 1,
            }
            if !cutover(&w.state).is_running() {
                break;
            }
        }
        let c = cutover(&w.state).clone();
        if c.step == Step::Done {
            let (barrier, closing) = (place(&c.barrier), place(&c.closing));
            prop_assert!(!w.commits.iter().any(|(p, _)| *p > barrier && *p <= closing));
            prop_assert!(w.applied >= closing);
            prop_assert!(w.damaged.is_none());
            prop_assert_eq!(w.state.phase, Phase::Completed);
        } else {
            prop_assert_eq!(w.state.phase, Phase::Migrating);
        }
    }
}
