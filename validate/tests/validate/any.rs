//! Generated cases against a plain comparison, still and under random changes with a random lag.

use crate::stand_in::{Event, INT, Row, TEXT, World, plan};
use drover_connectors_api::Side;
use drover_validate::{Options, Report, validate};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn run(world: &World, options: Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let plans = world.plans();
    let compared = validate(world, world, &plans, options, |_| {});
    runtime.expect("a runtime").block_on(compared).expect("the comparison can be made")
}

fn as_rows(values: &BTreeMap<u16, u8>) -> Vec<Row> {
    values.iter().map(|(k, v)| vec![Some(k.to_string()), Some(format!("v{v}"))]).collect()
}

/// `(missing, extra, different)`
fn counts(report: &Report) -> (usize, usize, usize) {
    let t = &report.tables[0];
    (t.missing as usize, t.extra as usize, t.different as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn with_a_key(
        base in prop::collection::btree_map(0u16..2000, 0u8..3, 0..400),
        source in prop::collection::btree_map(0u16..2000, 0u8..3, 0..30),
        destination in prop::collection::btree_map(0u16..2000, 0u8..3, 0..30),
        memory in 1usize..20_000,
    ) {
        let (mut s, mut d) = (base.clone(), base);
        s.extend(&source);
        d.extend(&destination);
        let world = World::new(vec![(plan(0, "t", &[("id", INT), ("v", TEXT)], &[0]), &[], &[])]);
        (world.lock().source[0], world.lock().destination[0]) = (as_rows(&s), as_rows(&d));
        let mut options = Options::new("shop", false);
        options.memory = memory;
        let report = run(&world, options);
        let missing = s.keys().filter(|k| !d.contains_key(k)).count();
        let extra = d.keys().filter(|k| !s.contains_key(k)).count();
        let different = s.iter().filter(|(k, v)| d.get(k).is_some_and(|w| w != *v)).count();
        prop_assert_eq!(counts(&report), (missing, extra, different));
        prop_assert_eq!(report.equal, s == d);
        prop_assert_eq!(report.tables[0].keys.len(), missing + extra + different);
    }

    #[test]
    fn without_a_key(
        source in prop::collection::vec(0u8..40, 0..150),
        destination in prop::collection::vec(0u8..40, 0..150),
        memory in 1usize..5_000,
    ) {
        let world = World::new(vec![(plan(0, "bag", &[("v", INT)], &[]), &[], &[])]);
        let rows = |values: &[u8]| values.iter().map(|v| vec![Some(v.to_string())]).collect::<Vec<Row>>();
        (world.lock().source[0], world.lock().destination[0]) = (rows(&source), rows(&destination));
        let mut options = Options::new("shop", false);
        options.memory = memory;
        let report = run(&world, options);
        let of = |values: &[u8], v: u8| values.iter().filter(|w| **w == v).count();
        let missing: usize = (0..40).map(|v| of(&source, v).saturating_sub(of(&destination, v))).sum();
        let extra: usize = (0..40).map(|v| of(&destination, v).saturating_sub(of(&source, v))).sum();
        prop_assert_eq!(counts(&report), (missing, extra, 0));
    }

    /// A writer changes rows below 100 at every step, the destination applies now and then. Rows from 100 on stand still, and some of them are
    /// wrong at the destination: exactly these are reported.
    #[test]
    fn under_changes(
        still in prop::collection::btree_map(100u16..200, 0u8..3, 0..60),
        wrong in prop::collection::btree_map(100u16..200, 0u8..3, 0..6),
        mut dice in prop::collection::vec((0u16..100, 0u8..4, any::<bool>()), 1..60),
        memory in 1usize..4_000,
        keyed in any::<bool>(),
    ) {
        let key: &[u16] = if keyed { &[0] } else { &[] };
        let world = World::new(vec![(plan(0, "t", &[("id", INT), ("v", TEXT)], key), &[], &[])]);
        let mut damaged = still.clone();
        damaged.extend(&wrong);
        (world.lock().source[0], world.lock().destination[0]) = (as_rows(&still), as_rows(&damaged));
        let world = world.script(move |state, event| {
            // The writer rests after a while, so that every key settles in the end.
            if let Some((id, v, apply)) = dice.pop() {
                let id_text = Some(id.to_string());
                let old = state.source[0].iter().find(|r| r[0] == id_text).and_then(|r| r[1].clone());
                let old = old.map(|v| format!("{id} {v}"));
                let new = (v > 0).then(|| format!("{id} v{v}"));
                if old.is_some() || new.is_some() {
                    state.write(0, old.as_deref(), new.as_deref());
                }
                if apply {
                    state.apply();
                }
            } else if event == Event::Progress {
                state.apply();
            }
        });
        let mut options = Options::new("shop", true);
        (options.memory, options.tries) = (memory, 100);
        let report = run(&world, options);
        let extra = wrong.keys().filter(|k| !still.contains_key(k)).count();
        let different = wrong.iter().filter(|(k, v)| still.get(k).is_some_and(|w| w != *v)).count();
        let expected = if keyed { (0, extra, different) } else { (different, extra + different, 0) };
        prop_assert_eq!(counts(&report), expected, "{}", report);
        prop_assert_eq!(report.tables[0].unsettled, 0);
        prop_assert!(world.lock().count(Event::Read(Side::Source, 0)) > 0);
    }
}
