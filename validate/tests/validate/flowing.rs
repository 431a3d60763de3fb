//! Comparisons while changes flow: keys in flight are no differences, differences stay differences, and what cannot be said is unsettled.

use crate::stand_in::{Event, INT, TEXT, World, plan};
use drover_connectors_api::Side::{Destination, Source};
use drover_model::TablePlan;
use drover_validate::{Options, Report, TableReport, validate};
use std::time::Duration;

fn a(id: u32) -> TablePlan {
    plan(id, &format!("t{id}"), &[("id", INT), ("name", TEXT)], &[0])
}

fn options() -> Options {
    let mut options = Options::new("shop", true);
    options.settle = Duration::from_secs(20);
    options
}

async fn compare(world: &World, options: Options) -> Report {
    validate(world, world, &world.plans(), options, |_| {}).await.expect("the comparison can be made")
}

fn counts(t: &TableReport) -> (u64, u64, u64, u64) {
    (t.missing, t.extra, t.different, t.unsettled)
}

#[tokio::test(start_paused = true)]
async fn keys_in_flight_are_no_differences_and_real_ones_are_found() {
    let mut polls = 0;
    let mut first = true;
    // The destination lags: it applies at every second look at its progress. Row 5 was damaged, 6 is lost, 7 was never at the source.
    let world = World::new(vec![(
        a(0),
        &["1 x", "2 y", "3 z", "5 right", "6 there"],
        &["1 x", "2 y", "3 z", "5 wrong", "7 alien"],
    )])
    .script(move |state, event| match event {
        Event::Read(Source, 0) if first => {
            first = false;
            state.write(0, Some("1 x"), Some("1 xx"));
            state.write(0, Some("2 y"), None);
            state.write(0, None, Some("4 new"));
        }
        Event::Progress => {
            polls += 1;
            if polls % 2 == 0 {
                state.apply();
            }
        }
        _ => {}
    });
    let report = compare(&world, options()).await;
    let table = &report.tables[0];
    assert_eq!(counts(table), (1, 1, 1, 0));
    let mut keys: Vec<String> = table.keys.iter().map(|k| format!("{} {}", k.key, k.difference.as_str())).collect();
    keys.sort();
    assert_eq!(keys, ["id=5 different", "id=6 missing", "id=7 extra"]);
    assert_eq!(world.lock().count(Event::Mark), 3, "a difference is seen three times before it is one");
}

#[tokio::test(start_paused = true)]
async fn only_keys_in_flight_make_an_equal_report() {
    let mut n = 0;
    let world = World::new(vec![(a(0), &["1 v0", "2 x"], &["1 v0", "2 x"])]).script(move |state, event| match event {
        // The row changes between the source's reading and the destination's, for the first few rounds.
        Event::Read(Source, 0) | Event::Mark if n < 4 => {
            state.write(0, Some(&format!("1 v{n}")), Some(&format!("1 v{}", n + 1)));
            n += 1;
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert!(report.equal, "{report}");
    assert!(world.lock().count(Event::Mark) > 0, "the key was looked at again");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_flips_to_and_fro_is_not_a_difference() {
    let mut looks = 0;
    // At each of the first two looks the destination shows `b` while the source shows `a` before and after.
    let world = World::new(vec![(a(0), &["1 a"], &["1 z"])]).script(move |state, event| match event {
        Event::Keys(Destination, 0) => {
            looks += 1;
            if looks <= 2 {
                state.write(0, Some("1 a"), Some("1 b"));
                state.apply();
                state.write(0, Some("1 b"), Some("1 a"));
            }
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert!(report.equal, "{report}");
    assert_eq!(world.lock().count(Event::Keys(Destination, 0)), 3);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_never_stands_still_is_unsettled() {
    let mut n = 0;
    let world = World::new(vec![(a(0), &["1 v0", "2 x"], &["1 old", "2 x"])]).script(move |state, event| match event {
        Event::Keys(Destination, 0) => {
            // The destination shows neither what the source showed before nor what it shows afterwards.
            for _ in 0..2 {
                state.apply();
                state.write(0, Some(&format!("1 v{n}")), Some(&format!("1 v{}", n + 1)));
                n += 1;
            }
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let mut options = options();
    options.tries = 4;
    let report = compare(&world, options).await;
    assert_eq!(counts(&report.tables[0]), (0, 0, 0, 1));
    assert!(!report.equal);
    assert_eq!(world.lock().count(Event::Mark), 4);
}

#[tokio::test(start_paused = true)]
async fn without_an_applier_differing_keys_are_unsettled_and_nobody_waits_twice() {
    let world = World::new(vec![
        (a(0), &["1 x", "2 y"], &["1 x", "2 Y"]),
        (a(1), &["1 x"], &[]),
        (a(2), &["1 x"], &["1 x"]),
        (plan(3, "bag", &[("v", TEXT)], &[]), &["x"], &["y"]),
    ]);
    let mut options = options();
    options.parallel = 1;
    options.settle = Duration::from_millis(300);
    let report = compare(&world, options).await;
    let found: Vec<_> = report.tables.iter().map(counts).collect();
    assert_eq!(found, [(0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0), (0, 0, 0, 2)]);
    assert_eq!(report.exit_status(), 1);
    let keys: Vec<String> = report.tables[3].keys.iter().map(|k| k.key.to_string()).collect();
    assert!(keys.contains(&"v=\"x\"".to_owned()) && keys.contains(&"v=\"y\"".to_owned()), "{keys:?}");
    let events = world.lock().events.clone();
    let second = events.iter().position(|e| *e == Event::Read(Source, 1)).unwrap();
    assert!(events[..second].iter().filter(|e| **e == Event::Progress).count() > 2);
    // What the mark is to lie beside, and one look at whether it has come.
    let looks = events[second..].iter().filter(|e| **e == Event::Progress).count();
    assert_eq!(looks, 2 * 2, "one look for each later table");
}

#[tokio::test(start_paused = true)]
async fn rows_without_a_key_in_flight() {
    let mut reads = 0;
    let world = World::new(vec![(
        plan(0, "bag", &[("v", TEXT)], &[]),
        &["x", "x", "y", "lost", "lost"],
        &["x", "x", "y", "lost"],
    )])
    .script(move |state, event| match event {
        Event::Read(Source, 0) => {
            reads += 1;
            if reads <= 3 {
                state.write(0, Some("x"), None);
                state.write(0, None, Some("y"));
                state.write(0, None, Some("x"));
            }
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert_eq!(counts(&report.tables[0]), (1, 0, 0, 0));
    assert_eq!(report.tables[0].keys[0].key.to_string(), "v=\"lost\"");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_moves_while_it_is_looked_at() {
    let mut moved = false;
    let world = World::new(vec![(a(0), &["1 x", "2 y"], &["1 x", "2 y"])]).script(move |state, event| match event {
        Event::Read(Source, 0) if !moved => {
            moved = true;
            state.write(0, Some("1 x"), Some("9 x"));
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert!(report.equal, "{report}");
    assert!(world.lock().count(Event::Keys(Source, 0)) > 0);
}

/// A caller may spawn the comparison.
#[test]
fn the_comparison_can_be_sent() {
    fn sent<T: Send>(_: T) {}
    let world = World::new(vec![]);
    let plans = world.plans();
    sent(validate(&world, &world, &plans, options(), |_| {}));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_keeps_changing_under_a_source_that_seems_still_is_unsettled() {
    let mut n = 0;
    let world = World::new(vec![(a(0), &["1 a"], &["1 z"])]).script(move |state, event| match event {
        Event::Keys(Destination, 0) => {
            n += 1;
            state.write(0, Some("1 a"), Some(&format!("1 v{n}")));
            state.apply();
            state.write(0, Some(&format!("1 v{n}")), Some("1 a"));
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert_eq!(counts(&report.tables[0]), (0, 0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_look_during_which_the_source_changed_does_not_count() {
    let mut looks = 0;
    let world = World::new(vec![(a(0), &["1 a"], &["1 wrong"])]).script(move |state, event| match event {
        Event::Keys(Destination, 0) => {
            looks += 1;
            if looks == 1 {
                state.write(0, Some("1 a"), Some("1 b"));
                // Lost on its way: the destination keeps its row.
                let before = state.destination[0].clone();
                state.apply();
                state.destination[0] = before;
            }
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert_eq!(counts(&report.tables[0]), (0, 0, 1, 0));
    assert_eq!(world.lock().count(Event::Mark), 4);
}

#[tokio::test(start_paused = true)]
async fn the_newest_row_at_the_destination_settles_a_key() {
    let mut looks = 0;
    let world = World::new(vec![(a(0), &["1 a"], &["1 z"])]).script(move |state, event| match event {
        Event::Keys(Destination, 0) => {
            looks += 1;
            if looks == 1 {
                state.write(0, Some("1 a"), Some("1 b"));
                state.apply();
            }
        }
        Event::Progress => state.apply(),
        _ => {}
    });
    let report = compare(&world, options()).await;
    assert!(report.equal, "{report}");
    assert_eq!(world.lock().count(Event::Mark), 1);
}
