//! Comparisons while nothing changes: what is found, how it is counted, listed and written.

use crate::stand_in::{Event, INT, TEXT, World, plan, row};
use drover_connectors_api::Side;
use drover_model::schema::DataType;
use drover_validate::{Options, Report, only, validate};
use serde_json::json;

fn a(id: u32) -> drover_model::TablePlan {
    plan(id, &format!("t{id}"), &[("id", INT), ("name", TEXT)], &[0])
}

async fn compare(world: &World, change: impl FnOnce(&mut Options)) -> Report {
    let mut options = Options::new("shop", false);
    change(&mut options);
    validate(world, world, &world.plans(), options, |_| {}).await.expect("the comparison can be made")
}

#[tokio::test]
async fn equal_tables_in_any_order() {
    let world = World::new(vec![
        (a(0), &["1 x", "2 ~", "3 z", "4 q"], &["4 q", "3 z", "1 x", "2 ~"]),
        (a(1), &[], &[]),
        (plan(2, "bag", &[("v", TEXT)], &[]), &["x", "x", "y"], &["y", "x", "x"]),
    ]);
    let last = std::sync::Mutex::new(None);
    let report =
        validate(&world, &world, &world.plans(), Options::new("shop", false), |p| *last.lock().unwrap() = Some(p))
            .await
            .unwrap();
    assert!(report.equal);
    assert_eq!(report.exit_status(), 0);
    assert_eq!(
        serde_json::to_value(&report.tables[0]).unwrap(),
        json!({"source": "public.t0", "destination": "crm.t0", "rows": 4, "missing": 0, "extra": 0, "different": 0,
               "unsettled": 0, "truncated": false, "not_compared": [], "keys": []})
    );
    let progress = last.lock().unwrap().unwrap();
    assert_eq!((progress.tables, progress.tables_done, progress.source_rows, progress.destination_rows), (3, 3, 7, 7));
    assert_eq!((progress.again_rows, progress.candidates), (0, 0));
    assert_eq!(world.lock().count(Event::Mark), 0, "nothing flows, so nothing is written");
}

#[tokio::test]
async fn every_kind_of_difference() {
    let world = World::new(vec![
        (a(0), &["1 x"], &["1 x"]),
        (a(1), &["1 x", "2 y", "30 ~", "5 same"], &["1 x", "2 Y", "4 w", "5 same"]),
    ]);
    let report = compare(&world, |_| {}).await;
    assert_eq!(report.exit_status(), 1);
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        json!({"equal": false, "tables": [
            {"source": "public.t0", "destination": "crm.t0", "rows": 1, "missing": 0, "extra": 0, "different": 0,
             "unsettled": 0, "truncated": false, "not_compared": [], "keys": []},
            {"source": "public.t1", "destination": "crm.t1", "rows": 4, "missing": 1, "extra": 1, "different": 1,
             "unsettled": 0, "truncated": false, "not_compared": [], "keys": [
                {"key": {"id": 2}, "difference": "different"},
                {"key": {"id": 4}, "difference": "extra"},
                {"key": {"id": 30}, "difference": "missing"}]}]})
    );
    let text = report.to_string();
    assert!(text.contains("public.t1 → crm.t1             4 rows  1 missing, 1 extra, 1 different\n"), "{text}");
    assert!(text.contains("    different  id=2\n"), "{text}");
    assert!(
        text.contains("2 tables, 5 rows compared: 1 not equal (1 missing, 1 extra, 1 different, 0 unsettled)."),
        "{text}"
    );
    assert!(text.contains("sequences"), "{text}");
}

#[tokio::test]
async fn null_is_not_the_empty_text_and_values_do_not_run_together() {
    let three = |id| plan(id, "t", &[("id", INT), ("a", TEXT), ("b", TEXT)], &[0]);
    let world = World::new(vec![(three(0), &["1 ~ ab", "2 a bc", "3 x y"], &["1  ab", "2 ab c", "3 x y"])]);
    let report = compare(&world, |_| {}).await;
    assert_eq!(report.tables[0].different, 2);
}

#[tokio::test]
async fn composite_keys_that_do_not_lead_the_row() {
    let shape = [("note", TEXT), ("active", DataType::Bool), ("id", INT), ("part", TEXT)];
    let world = World::new(vec![(
        plan(0, "c", &shape, &[2, 3, 1]),
        &["n t 7 a", "n f 7 a", "n t 8 a", "n t 9 a"],
        &["n t 7 a", "m f 7 a", "n t 8 b", "n t 9 a"],
    )]);
    let report = compare(&world, |_| {}).await;
    let mut keys: Vec<String> = report.tables[0].keys.iter().map(|k| serde_json::to_string(k).unwrap()).collect();
    keys.sort();
    assert_eq!(
        keys,
        [
            r#"{"key":{"id":7,"part":"a","active":false},"difference":"different"}"#,
            r#"{"key":{"id":8,"part":"a","active":true},"difference":"missing"}"#,
            r#"{"key":{"id":8,"part":"b","active":true},"difference":"extra"}"#,
        ]
    );
}

#[tokio::test]
async fn rows_without_a_key_are_counted() {
    let long = "z".repeat(100);
    let rows: Vec<String> = ["x 1", "x 1", "x 1", "y ~"].map(String::from).to_vec();
    let at_destination = ["x 1".to_owned(), "y ~".to_owned(), format!("{long} 2")];
    let (s, d): (Vec<&str>, Vec<&str>) =
        (rows.iter().map(|r| &**r).collect(), at_destination.iter().map(|r| &**r).collect());
    let world = World::new(vec![(plan(0, "bag", &[("v", TEXT), ("n", INT)], &[]), &s, &d)]);
    let report = compare(&world, |_| {}).await;
    let table = &report.tables[0];
    assert_eq!((table.rows, table.missing, table.extra, table.different, table.unsettled), (4, 2, 1, 0, 0));
    let mut keys: Vec<String> = table.keys.iter().map(|k| serde_json::to_string(k).unwrap()).collect();
    keys.sort();
    let extra = format!(r#"{{"key":{{"v":"{}…","n":2}},"difference":"extra"}}"#, "z".repeat(60));
    let missing = r#"{"key":{"v":"x","n":1},"difference":"missing"}"#;
    assert_eq!(keys, [missing, missing, &extra]);
}

#[tokio::test]
async fn a_key_that_the_destination_holds_twice_differs() {
    let world = World::new(vec![(a(0), &["1 x", "2 y"], &["1 x", "2 y", "2 y"])]);
    let report = compare(&world, |_| {}).await;
    assert_eq!((report.tables[0].different, report.tables[0].keys.len()), (1, 1));
}

#[tokio::test]
async fn the_list_of_keys_is_bounded_but_not_the_count() {
    for key in [&[0u16][..], &[]] {
        let world = World::new(vec![(
            plan(0, "t", &[("id", INT), ("name", TEXT)], key),
            &["1 a", "2 b", "3 c", "4 d", "5 e", "6 f"],
            &["6 f", "7 g"],
        )]);
        let report = compare(&world, |o| o.max_keys = 2).await;
        let table = &report.tables[0];
        assert_eq!((table.missing, table.extra, table.truncated, table.keys.len()), (5, 1, true, 2));
        assert!(report.to_string().contains("only 2 of these keys are listed"));
        let report = compare(&world, |o| o.max_keys = 6).await;
        assert_eq!((report.tables[0].truncated, report.tables[0].keys.len()), (false, 6));
    }
}

#[tokio::test]
async fn little_memory_means_more_passes_and_the_same_result() {
    for key in [&[0u16][..], &[]] {
        let rows: Vec<String> = (0..5000).map(|i| format!("{i} v{i}")).collect();
        let mut others = rows.clone();
        for i in (0..5000).step_by(7) {
            others[i] = format!("{i} other");
        }
        others.swap_remove(4999);
        let refs = |v: &[String]| v.iter().map(|s| row(s)).collect::<Vec<_>>();
        let run = async |memory: usize| {
            let world = World::new(vec![(plan(0, "t", &[("id", INT), ("name", TEXT)], key), &[], &[])]);
            world.lock().source[0] = refs(&rows);
            world.lock().destination[0] = refs(&others);
            let report = compare(&world, |o| (o.memory, o.max_keys) = (memory, 10_000)).await;
            let reads = world.lock().count(Event::Read(Side::Destination, 0));
            (report, reads)
        };
        let (wide, wide_reads) = run(64 << 20).await;
        let (narrow, narrow_reads) = run(20_000).await;
        let counts = |r: &Report| {
            let t = &r.tables[0];
            let mut keys: Vec<String> = t.keys.iter().map(|k| format!("{} {}", k.key, k.difference.as_str())).collect();
            keys.sort();
            (t.missing, t.extra, t.different, keys)
        };
        let expected = if key.is_empty() { (716, 715, 0) } else { (1, 0, 715) };
        let (missing, extra, different, keys) = counts(&wide);
        assert_eq!((missing, extra, different), expected);
        assert_eq!(keys.len() as u64, missing + extra + different);
        assert_eq!(counts(&narrow), counts(&wide));
        let looks = if key.is_empty() { 1 } else { 0 };
        assert_eq!(wide_reads, 2 + looks, "digest, keys");
        assert!(narrow_reads >= 2 + 3 * (1 + looks), "digest, finer digest, then several passes: {narrow_reads}");
    }
}

#[tokio::test]
async fn a_second_look_clears_what_was_put_right_meanwhile_and_doubts_what_vanished() {
    let world = World::new(vec![(a(0), &["1 x", "2 y", "3 z"], &["1 x", "2 Y"])]).script(|state, event| {
        if event == Event::Keys(Side::Source, 0) {
            state.destination[0] = vec![row("1 x"), row("2 y")];
            state.source[0] = vec![row("1 x"), row("2 y")];
        }
    });
    let report = compare(&world, |_| {}).await;
    let table = &report.tables[0];
    assert_eq!((table.missing, table.different, table.unsettled), (0, 0, 1));
    assert_eq!(table.keys[0].key.to_string(), "id=3");
    assert_eq!(report.exit_status(), 1);
}

#[tokio::test]
async fn many_tables_side_by_side_keep_their_order() {
    let world = World::new((0..20).map(|i| (a(i), &["1 x"] as &[&str], &["1 x"] as &[&str])).collect());
    world.lock().destination[13].clear();
    let report = compare(&world, |o| o.parallel = 4).await;
    let names: Vec<&str> = report.tables.iter().map(|t| t.source.as_str()).collect();
    assert_eq!(names, (0..20).map(|i| format!("public.t{i}")).collect::<Vec<_>>());
    assert_eq!(report.tables.iter().position(|t| !t.equal()), Some(13));
}

#[tokio::test]
async fn damaged_blocks_are_an_error_that_names_the_table() {
    let world = World::new(vec![(a(0), &["1 x"], &["1 x"])]);
    world.lock().damaged = true;
    let error = validate(&world, &world, &world.plans(), Options::new("shop", false), |_| {}).await.unwrap_err();
    assert_eq!(error.table.as_deref(), Some("public.t0"));
}

#[test]
fn a_table_is_picked_by_its_name() {
    let mut plans = vec![a(0), a(1), a(2)];
    plans[2].source.name = "t1".into();
    plans[2].source.schema = "other".into();
    let ids = |name: &str| only(&plans, name).map(|p| p.iter().map(|p| p.id).collect::<Vec<_>>());
    assert_eq!(ids("public.t1").unwrap(), [1]);
    assert_eq!(ids("crm.t0").unwrap(), [0]);
    assert_eq!(ids("t0").unwrap(), [0]);
    assert!(ids("t1").unwrap_err().to_string().contains("public.t1, other.t1"));
    assert!(ids("nothing").is_err());
}
