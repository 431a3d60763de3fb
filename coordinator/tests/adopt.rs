//! What an adopted migration does, by what the destination and the source still have.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod common;

use common::{TABLES, at, migration, plans};
use drover_coordinator::decide::Report;
use drover_coordinator::event::Event;
use drover_coordinator::key::OrderKey;
use drover_coordinator::machine::{Phase, State};
use drover_coordinator::settings::Settings;
use drover_coordinator::wants::{Budget, View};
use drover_model::Position;
use drover_model::error::codes;
use drover_proto::order::{Held, Opening, Order, Outcome, Step};

fn fold(state: &mut State, events: Vec<Event>) {
    for event in events {
        state.apply(&event);
    }
    while let Some(event) = state.follow_up() {
        state.apply(&event);
    }
}

/// Started, with this much known at the destination.
fn adopted(position: Option<u64>, consistent: Option<u64>, ignore: bool) -> State {
    let settings = Settings::of(&migration("shop", r#"["schema", "full", "incremental"]"#), 4);
    let settings = Settings { adopt: true, ignore_conflicts: ignore, ..settings };
    let mut state = State::new("shop", settings);
    let held = Held { position: position.map(at), consistent: consistent.map(at) };
    let surveyed =
        Event::Surveyed { plans: plans().into(), objects: Default::default(), items: Vec::new(), held: Some(held) };
    fold(&mut state, vec![surveyed, Event::Started]);
    state
}

fn wants(state: &State) -> Vec<(OrderKey, Order)> {
    let budget = Budget { chunks: 1, bytes: 1, target_bytes: 1 };
    let view = View { extractors: &[], running: &|_| false, copies: 0, budget };
    state.wants(&view).into_iter().map(|w| (w.key, w.order)).collect()
}

fn report(state: &mut State, key: OrderKey, outcome: Outcome) {
    let order = wants(state).into_iter().find(|(k, _)| *k == key).unwrap().1;
    let events = state.on_outcome(Report { key: &key, order: &order, worker: "w", outcome, now_ms: 1 }).unwrap();
    fold(state, events);
}

fn opened(start: u64, first: Option<Position>) -> Outcome {
    let opening = Opening { start: at(start), epoch: 0, offset: 0 };
    Outcome::StreamOpened { opening, snapshot: None, first }
}

/// The position is forgotten, the schema seen to, and every table emptied under a generation that nobody has used.
fn begins_again(mut state: State) {
    assert_eq!(wants(&state), [(OrderKey::Forget, Order::Forget)]);
    report(&mut state, OrderKey::Forget, Outcome::Forgotten { generation: 3 });
    assert_eq!(wants(&state), [(OrderKey::SchemaBase, Order::Schema { step: Step::Base })]);
    report(&mut state, OrderKey::SchemaBase, Outcome::Done { what: Vec::new() });
    let all = wants(&state);
    assert!(all.contains(&(OrderKey::Stream, Order::Stream { resume: false, start: None, last: None })));
    for table in 0..TABLES {
        assert!(all.contains(&(OrderKey::Restart { table, generation: 4 }, Order::Restart { table, generation: 4 })));
    }
}

#[test]
fn a_consistent_position_is_gone_on_from_if_what_came_after_is_still_there() {
    for (first, goes_on) in [(Some(5), true), (Some(10), true), (Some(11), false), (None, false)] {
        let mut state = adopted(Some(10), Some(10), false);
        let all = wants(&state);
        assert!(all.contains(&(OrderKey::Stream, Order::Stream { resume: true, start: Some(at(10)), last: None })));
        assert!(all.iter().any(|(k, _)| *k == OrderKey::SchemaFinal), "it may have been missing");
        assert!(!all.iter().any(|(k, _)| matches!(k, OrderKey::Restart { .. } | OrderKey::Forget)));
        report(&mut state, OrderKey::Stream, opened(20, first.map(at)));
        if !goes_on {
            begins_again(state);
            continue;
        }
        report(&mut state, OrderKey::SchemaFinal, Outcome::Done { what: Vec::new() });
        let apply = wants(&state).into_iter().find(|(k, _)| *k == OrderKey::Apply).unwrap().1;
        let Order::Apply { start, windows, .. } = apply else { panic!("{apply:?}") };
        assert_eq!(start, at(10));
        assert!(windows.iter().all(|w| w.low == at(10) && w.high == at(10)), "all changes after it are strict");
    }
}

#[test]
fn the_source_itself_may_have_what_came_after() {
    let mut state = adopted(Some(10), Some(7), false);
    report(&mut state, OrderKey::Stream, opened(9, None));
    assert!(!wants(&state).iter().any(|(k, _)| *k == OrderKey::Forget));
}

#[test]
fn without_a_consistent_position_all_tables_begin_again() {
    for (position, consistent) in [(None, None), (Some(10), None), (Some(10), Some(11))] {
        begins_again(adopted(position, consistent, false));
    }
}

#[test]
fn tables_that_may_hold_rows_of_others_are_not_emptied() {
    let state = adopted(None, None, true);
    assert_eq!(state.phase, Phase::Failed);
    assert_eq!(state.error.clone().unwrap().code, codes::STATE_LOST);
    assert!(wants(&state).is_empty());
    // Going on needs no emptying.
    assert_eq!(adopted(Some(10), Some(10), true).phase, Phase::Migrating);
}
