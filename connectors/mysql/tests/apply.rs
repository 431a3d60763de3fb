//! Applying at real servers.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod place;

use anyhow::{Context, Result, bail, ensure};
use drover_connectors_api::{ApplySession, Committed, Follow, Step};
use drover_connectors_mysql::apply::MyApply;
use drover_connectors_mysql::{keys, progress};
use drover_harness::mysql::Release;
use drover_harness::wait;
use drover_model::error::codes;
use drover_model::{Retry, TablePlan};
use place::proxy::Proxy;
use place::{Place, at, cells, extremes, partial, row};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn refs(rows: &[Vec<u8>]) -> Vec<&[u8]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// Executes and commits one batch.
async fn apply(session: &mut MyApply, from: u64, steps: &[Step<'_>]) -> Result<()> {
    session.execute(steps).await?;
    match session.commit(&at(from), &at(from + 1)).await? {
        Committed::Yes => Ok(()),
        Committed::Fenced => bail!("fenced"),
    }
}

async fn failure(session: &mut MyApply, steps: &[Step<'_>]) -> Result<drover_model::Error> {
    let error = session.execute(steps).await.err().context("this must fail")?;
    session.rollback().await?;
    Ok(error)
}

fn insert(rows: &[Vec<u8>]) -> Step<'_> {
    Step::Insert { table: 1, rows: refs(rows), tolerant: false }
}
fn update(rows: &[Vec<u8>]) -> Step<'_> {
    Step::Update { table: 1, rows: refs(rows), unknown: vec![], tolerant: false }
}
fn delete(keys: &[Vec<u8>]) -> Step<'_> {
    Step::Delete { table: 1, keys: refs(keys), tolerant: false }
}

const T: &str =
    "CREATE TABLE t (id int, part varchar(20), a varchar(5), b decimal(10,2), big longtext, PRIMARY KEY (id, part))";
const ALL: &str =
    "SELECT concat_ws('|', id, part, coalesce(a, '-'), coalesce(b, '-'), coalesce(big, '-')) FROM t ORDER BY id, part";

async fn t(release: Release) -> Result<(Place, TablePlan)> {
    let place = Place::start(release).await?;
    place.exec(T).await?;
    let plan = place.plan(1, "t", &["id", "part"]).await?;
    Ok((place, plan))
}

async fn every_strict_step_with_one_row_and_with_many(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    let mut s = place.apply(&[plan]).await?;
    let rows = [
        cells(&[Some(b"1"), Some(b"x"), Some(b"a"), Some(b"1.50"), None]),
        cells(&[Some(b"2"), Some(b"x"), Some(b""), None, Some(b"l1")]),
        cells(&[Some(b"3"), Some("y\u{e4}".as_bytes()), Some(b"c"), Some(b"-3.00"), Some(b"l2")]),
    ];
    apply(&mut s, 0, &[insert(&rows[..1])]).await?;
    apply(&mut s, 1, &[insert(&rows[1..])]).await?;
    ensure!(place.list(ALL).await? == ["1|x|a|1.50|-", "2|x||-|l1", "3|yä|c|-3.00|l2"]);

    // Unknown is not null: what is unknown stays.
    let some = [partial(&["2", "x", "B", "2", "?"]), partial(&["3", "yä", "-", "3", "?"])];
    apply(&mut s, 2, &[Step::Update { table: 1, rows: refs(&some), unknown: vec![4], tolerant: false }]).await?;
    let one = [partial(&["1", "x", "?", "-", "it's \\ \"q\"\n"])];
    apply(&mut s, 3, &[Step::Update { table: 1, rows: refs(&one), unknown: vec![2], tolerant: false }]).await?;
    ensure!(place.list(ALL).await? == ["1|x|a|-|it's \\ \"q\"\n", "2|x|B|2.00|l1", "3|yä|-|3.00|l2"]);
    // An update that changes nothing finds its rows all the same.
    apply(&mut s, 4, &[Step::Update { table: 1, rows: refs(&some), unknown: vec![4], tolerant: false }]).await?;
    let only = [partial(&["2", "x", "?", "?", "?"]), partial(&["3", "yä", "?", "?", "?"])];
    apply(&mut s, 5, &[Step::Update { table: 1, rows: refs(&only), unknown: vec![2, 3, 4], tolerant: false }]).await?;

    let (old, new) = (row(&["2", "x"]), partial(&["20", "X", "m", "?", "?"]));
    let gone = [row(&["1", "x"])];
    apply(&mut s, 6, &[delete(&gone), Step::Move { table: 1, old: &old, new: &new }]).await?;
    ensure!(place.list(ALL).await? == ["3|yä|-|3.00|l2", "20|X|m|2.00|l1"]);
    // Letters' case alone: the same key at the server, other bytes.
    let (old, new) = (row(&["20", "X"]), partial(&["20", "x", "m", "?", "?"]));
    apply(&mut s, 7, &[Step::Move { table: 1, old: &old, new: &new }]).await?;
    ensure!(place.list(ALL).await? == ["3|yä|-|3.00|l2", "20|x|m|2.00|l1"]);
    let gone = [row(&["3", "yä"]), row(&["20", "x"])];
    apply(&mut s, 8, &[delete(&gone)]).await?;
    ensure!(place.list(ALL).await?.is_empty());

    // So many that each form is split, and inserts travel by LOAD DATA.
    let many = |v: &str| (0..2500).map(|i| row(&[&i.to_string(), "x", v, "1.00", "t\t\n\\"])).collect::<Vec<_>>();
    let (first, second) = (many("a"), many("b"));
    apply(&mut s, 9, &[insert(&first)]).await?;
    apply(&mut s, 10, &[update(&second)]).await?;
    let sum = place.text("SELECT concat(count(*), min(a), max(a), sum(length(big))) FROM t").await?;
    ensure!(sum.as_deref() == Some("2500bb10000"), "{sum:?}");
    let keys: Vec<Vec<u8>> = (0..2500).map(|i| row(&[&i.to_string(), "x"])).collect();
    apply(&mut s, 11, &[delete(&keys)]).await?;
    place.exec("SET GLOBAL local_infile = 0").await?;
    let mut other = place.session(s_plans(&place).await?).await?;
    apply(&mut other, 12, &[insert(&first)]).await?;
    ensure!(place.text("SELECT count(*) FROM t").await?.as_deref() == Some("2500"));
    // Nothing but the progress.
    ensure!(other.commit(&at(13), &at(99)).await? == Committed::Yes);
    let progress = place.text("SELECT concat(position_text, ' ', epoch) FROM drover.drover_progress").await?;
    ensure!(progress.as_deref() == Some("binlog.000001:99 1"), "{progress:?}");
    other.flush().await?;
    Ok(())
}

async fn s_plans(place: &Place) -> Result<Vec<TablePlan>> {
    Ok(vec![place.plan(1, "t", &["id", "part"]).await?])
}

async fn values_of_every_type_are_updated_exactly(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    let cases = extremes::cases(release);
    let tables = ["one_by_one", "all_at_once", "upserted", "inserted"];
    let rows = extremes::create(&place, &cases, &tables).await?;
    let mut plans = Vec::new();
    for (id, table) in tables.iter().enumerate() {
        plans.push(place.plan(id as u32, table, &["id"]).await?);
        let ids: Vec<String> = (0..rows.len()).map(|n| format!("({n})")).collect();
        if *table != "inserted" {
            place.exec(&format!("INSERT INTO {table} (id) VALUES {}", ids.join(", "))).await?;
        }
    }
    let mut s = place.apply(&plans).await?;
    let one = |row| Step::Update { table: 0, rows: vec![row], unknown: vec![], tolerant: false };
    let mut steps: Vec<Step<'_>> = rows.iter().map(|r| one(&r[..])).collect();
    steps.push(Step::Update { table: 1, rows: refs(&rows), unknown: vec![], tolerant: false });
    steps.push(Step::Insert { table: 2, rows: refs(&rows), tolerant: true });
    steps.push(Step::Insert { table: 3, rows: refs(&rows), tolerant: true });
    apply(&mut s, 0, &steps).await.with_context(|| format!("{release:?}"))?;
    extremes::compare(&place, &cases, &tables).await?;
    // And each row, whatever is in it, is found by all of its values.
    let mut whole = plans[3].clone();
    whole.key.clear();
    let mut s = place.session(vec![whole]).await?;
    let rows: Vec<(&[u8], u64)> = rows.iter().map(|r| (&r[..], 1)).collect();
    apply(&mut s, 1, &[Step::DeleteWhole { table: 3, rows }]).await.with_context(|| format!("{release:?}"))?;
    ensure!(place.text("SELECT count(*) FROM inserted").await?.as_deref() == Some("0"));
    Ok(())
}

/// So many rows that they travel as parameters: keys that are consecutive and keys that are not.
async fn values_of_every_type_are_updated_exactly_in_large_parts(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    let mut cases = extremes::cases(release);
    // As long as the parameters may be.
    cases.retain(|c| c.values.iter().all(|(cell, _)| cell.len() < 1000));
    let long = "ä".repeat(3500);
    cases.push(extremes::Case {
        kind: "varchar(4000) character set utf8mb4",
        values: vec![(long.clone().into_bytes(), format!("'{long}'"))],
    });
    let rows = extremes::create(&place, &cases, &["t"]).await?;
    let columns = (0..cases.len()).map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ");
    let kinds = rows.len();
    let most = 1300;
    place
        .exec(&format!(
            "CREATE TABLE n AS WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 999) SELECT n FROM n; \
             INSERT INTO n SELECT n + 1000 FROM n WHERE n + 1000 < {most}; \
             INSERT INTO wanted SELECT n, {columns} FROM n JOIN wanted ON id = n % {kinds} WHERE n >= {kinds}"
        ))
        .await?;
    let mut plan = place.plan(0, "t", &["id"]).await?;
    plan.id = 0;
    let mut s = place.apply(&[plan]).await?;
    // The id is the first cell.
    let first = |id: usize| row(&[&id.to_string()]);
    let all: Vec<Vec<u8>> =
        (0..most).map(|id| [&first(id)[..], &rows[id % kinds][first(id % kinds).len()..]].concat()).collect();
    // Backwards, with a part of few rows; every other row, and then the others; shuffled a little.
    let orders: [Vec<usize>; 3] = [
        (0..most).rev().collect(),
        (0..most).step_by(2).chain((1..most).step_by(2)).collect(),
        (0..most).map(|id| id ^ 1).collect(),
    ];
    for (n, order) in orders.iter().enumerate() {
        place.exec("DELETE FROM t; INSERT INTO t (id) SELECT n FROM n").await?;
        let some = order.iter().map(|&id| &all[id][..]).collect();
        let step = Step::Update { table: 0, rows: some, unknown: vec![], tolerant: false };
        apply(&mut s, n as u64, &[step]).await.with_context(|| format!("{release:?}, order {n}"))?;
        extremes::compare(&place, &cases, &["t"]).await?;
    }
    Ok(())
}

async fn large_parts_are_counted(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec("CREATE TABLE t (id bigint unsigned primary key, a int, b varchar(5), KEY (a))").await?;
    let mut s = place.apply(&[place.plan(1, "t", &["id"]).await?]).await?;
    let base = u64::MAX - 10_000;
    let rows = |a: &str, b: &str| -> Vec<Vec<u8>> { (0..500).map(|i| row(&[&(base + i).to_string(), a, b])).collect() };
    apply(&mut s, 0, &[insert(&rows("1", "x"))]).await?;
    // Consecutive, and with gaps; in both one is missing, and told.
    place.exec(&format!("INSERT INTO t SELECT {base} + 1000 + 3 * (id - {base}), a, b FROM t")).await?;
    let apart = |a: &str, b: &str| -> Vec<Vec<u8>> {
        (0..500).map(|i| row(&[&(base + 1000 + 3 * i).to_string(), a, b])).collect()
    };
    for (gone, rows) in [(base + 7, rows("2", "y")), (base + 1015, apart("2", "y"))] {
        place.exec(&format!("DELETE FROM t WHERE id = {gone}")).await?;
        let old = place.text("SELECT concat(count(*), ' ', sum(a), max(b)) FROM t").await?;
        let before = [row(&["1", "1", "new"])];
        let error = failure(&mut s, &[insert(&before), update(&rows)]).await?;
        ensure!(error.code == codes::ROW_COUNT && error.table.as_deref() == Some("data.t"), "{error}");
        ensure!(error.key == Some(format!("id={gone}")), "{error:?}");
        ensure!(place.text("SELECT concat(count(*), ' ', sum(a), max(b)) FROM t").await? == old);
    }
    // Too long for the column.
    place.exec(&format!("INSERT INTO t VALUES ({}, 1, 'x')", base + 7)).await?;
    let error = failure(&mut s, &[update(&rows("2", "longer"))]).await?;
    ensure!(error.code == codes::STATEMENT, "{error}");
    // What is equal already is found all the same; of consecutive rows none is visited twice.
    let again = || async {
        let status = place.rows("SHOW GLOBAL STATUS LIKE 'Handler_read_rnd'").await?;
        anyhow::Ok(status[0][1].as_deref().context("a number")?.parse::<u64>()?)
    };
    let before = again().await?;
    apply(&mut s, 1, &[update(&rows("2", "y")), update(&rows("2", "y"))]).await?;
    let wanted =
        place.text("SELECT concat(count(*), ' ', min(id), ' ', max(id)) FROM t WHERE a = 2 AND b = 'y'").await?;
    ensure!(wanted == Some(format!("500 {base} {}", base + 499)), "{wanted:?}");
    let visited = again().await? - before;
    ensure!(release.is_mariadb() || visited < 500, "{visited} rows were visited again");
    Ok(())
}

async fn tolerant_steps_meet_rows_or_not(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    place.exec("INSERT INTO t VALUES (1, 'x', 'old', 1, 'big'), (2, 'X', 'old', 1, 'big')").await?;
    let mut s = place.apply(&[plan]).await?;
    for many in [false, true] {
        let n = if many { 3 } else { 1 };
        let base = if many { 4 } else { 0 };
        place.exec("DELETE FROM t WHERE id > 2; UPDATE t SET a = 'old', b = 1").await?;
        // One that is there (by another letter), two that are not.
        let rows: Vec<_> = ["2", "3", "4"][..n].iter().map(|i| partial(&[i, "x", "new", "2", "-"])).collect();
        apply(&mut s, base, &[Step::Insert { table: 1, rows: refs(&rows), tolerant: true }]).await?;
        let expected: &[&str] = if many { &["1xold", "2xnew", "3xnew", "4xnew"] } else { &["1xold", "2xnew"] };
        let all = "SELECT concat(id, part, a) FROM t ORDER BY id";
        ensure!(place.list(all).await? == expected, "{:?}", place.list(all).await?);
        let full: Vec<_> = ["1", "5", "6"][..n].iter().map(|i| partial(&[i, "x", "full", "2", "-"])).collect();
        let step = Step::Update { table: 1, rows: refs(&full), unknown: vec![], tolerant: true };
        apply(&mut s, base + 1, &[step]).await?;
        let some: Vec<_> = ["8", "9", "1"][..n].iter().map(|i| partial(&[i, "x", "part", "?", "?"])).collect();
        let step = Step::Update { table: 1, rows: refs(&some), unknown: vec![3, 4], tolerant: true };
        apply(&mut s, base + 2, &[step]).await?;
        let expected: &[&str] =
            if many { &["1xpart", "2xnew", "3xnew", "4xnew", "5xfull", "6xfull"] } else { &["1xfull", "2xnew"] };
        ensure!(place.list(all).await? == expected);
        let keys: Vec<_> = ["77", "5", "6"][..n].iter().map(|i| row(&[i, "x"])).collect();
        apply(&mut s, base + 3, &[Step::Delete { table: 1, keys: refs(&keys), tolerant: true }]).await?;
        let left = place.text("SELECT group_concat(id ORDER BY id) FROM t").await?;
        ensure!(left.as_deref() == Some(if many { "1,2,3,4" } else { "1,2" }));
    }
    // Another unique key never decides.
    place.exec("CREATE TABLE u (id int primary key, name varchar(9) unique); INSERT INTO u VALUES (1, 'a')").await?;
    let mut s = place.session(vec![place.plan(1, "u", &["id"]).await?]).await?;
    let error = failure(&mut s, &[Step::Insert { table: 1, rows: vec![&row(&["2", "A"])], tolerant: true }]).await?;
    ensure!(error.code == codes::STATEMENT && error.table.as_deref() == Some("data.u"), "{error}");
    ensure!(place.list("SELECT concat(id, name) FROM u").await? == ["1a"]);
    Ok(())
}

async fn wrong_counts_name_table_and_key(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    place.exec("INSERT INTO t (id, part) VALUES (1, 'x'), (2, 'x'), (3, 'x'), (4, 'x')").await?;
    place.exec("CREATE TABLE k (id int primary key)").await?;
    let only_key = place.plan(2, "k", &["id"]).await?;
    let mut s = place.apply(&[plan, only_key]).await?;
    let keys: Vec<_> = ["1", "66", "3"].iter().map(|i| row(&[i, "x"])).collect();
    let rows: Vec<_> = ["1", "66", "3"].iter().map(|i| partial(&[i, "x", "v", "1", "-"])).collect();
    let (old, new) = (row(&["66", "x"]), partial(&["67", "x", "-", "-", "-"]));
    let only = [row(&["66"]), row(&["67"])];
    let nothing = Step::Update { table: 2, rows: refs(&only), unknown: vec![], tolerant: false };
    let unfound = [
        delete(&keys),
        delete(&keys[1..2]),
        update(&rows),
        update(&rows[1..2]),
        Step::Move { table: 1, old: &old, new: &new },
        nothing,
    ];
    for (n, step) in unfound.iter().enumerate() {
        // Behind others that are fine, and before others.
        let fine = partial(&["2", "x", "fine", "-", "-"]);
        let before = Step::Update { table: 1, rows: vec![&fine], unknown: vec![], tolerant: false };
        let error = failure(&mut s, &[before.clone(), step.clone(), before.clone()]).await?;
        ensure!(error.code == codes::ROW_COUNT && error.retry == Retry::Other, "{n}: {error}");
        let table = if n == 5 { "data.k" } else { "data.t" };
        ensure!(error.table.as_deref() == Some(table), "{n}: {error}");
        let wanted = if n == 5 { "id=66" } else { "id=66, part=x" };
        ensure!(error.key.as_deref() == Some(wanted), "{n}: {error}");
        ensure!(n != 5 || error.message.contains("id=67"), "{error}");
    }
    ensure!(place.text("SELECT count(*) FROM t WHERE a IS NOT NULL").await?.as_deref() == Some("0"));
    // What is there already.
    for n in [1, 300] {
        let twice: Vec<_> = (4..4 + n).map(|i| partial(&[&i.to_string(), "x", "-", "-", "-"])).collect();
        let error = failure(&mut s, &[insert(&twice)]).await?;
        ensure!(error.code == codes::STATEMENT && error.table.as_deref() == Some("data.t"), "{error}");
        ensure!(error.causes.iter().any(|c| c.contains("4-x")), "{error}");
    }
    Ok(())
}

async fn values_that_do_not_fit_are_refused(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec("CREATE TABLE t (id int primary key, d decimal(5,1), v varchar(3), l varchar(9) character set latin1, e enum('a','b'))").await?;
    let mut plan = place.plan(1, "t", &["id"]).await?;
    plan.columns[3].origin_type = "varchar(9) character set utf8mb4".into();
    plan.columns[4].origin_type = "enum('a','b','c','') character set utf8mb4".into();
    let mut s = place.apply(std::slice::from_ref(&plan)).await?;
    let good = partial(&["1", "1.5", "abc", "ä", "a"]);
    apply(&mut s, 0, &[insert(std::slice::from_ref(&good))]).await?;
    for bad in [
        ["2", "1.25", "x", "x", "a"],
        ["2", "99999", "x", "x", "a"],
        ["2", "1.0", "abcd", "x", "a"],
        ["2", "1.0", "x", "☃", "a"],
        ["2", "1.0", "x", "x", "c"],
        ["2", "1.0", "x", "x", ""],
    ] {
        let rows: Vec<_> = (2..302)
            .map(|i: i32| {
                let mut cells = bad;
                let id = i.to_string();
                cells[0] = &id;
                partial(&cells)
            })
            .collect();
        let mut changed = bad;
        changed[0] = "1";
        let changed = [partial(&changed)];
        let two = [changed[0].clone(), good.clone()];
        for step in [insert(&rows[..1]), insert(&rows[..2]), insert(&rows), update(&changed), update(&two)] {
            let error = s.execute(std::slice::from_ref(&step)).await.err();
            let error = error.with_context(|| format!("{bad:?} was taken by {step:?}"))?;
            s.rollback().await?;
            ensure!(error.table.as_deref() == Some("data.t") && error.retry == Retry::Other, "{error}");
        }
        let error = place.load(&plan, 7, &rows).await.err().context("loaded")?;
        ensure!(error.code == codes::LOSS && error.column.is_some() && error.remedy.is_some(), "{error}");
        ensure!(error.causes.iter().any(|c| c.contains("row 1")), "{error}");
    }
    ensure!(place.text("SELECT count(*) FROM t").await?.as_deref() == Some("1"));
    Ok(())
}

async fn rows_larger_than_a_statement_go_in_or_are_refused(release: Release) -> Result<()> {
    let place = Place::start_with(release, &[("max-allowed-packet", "1M")]).await?;
    place.exec("CREATE TABLE t (id int primary key, v longblob)").await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    let mut s = place.apply(std::slice::from_ref(&plan)).await?;
    let large = |id: &str| cells(&[Some(id.as_bytes()), Some(&vec![b'\''; 3 << 20])]);
    apply(&mut s, 0, &[insert(&[row(&["1", "x"]), large("2")])]).await?;
    // Several that fit one by one, and not together.
    let half = |id: &str, byte| cells(&[Some(id.as_bytes()), Some(&vec![byte; 400 << 10])]);
    let some: Vec<Vec<u8>> = (10..14).map(|i| half(&i.to_string(), b'a')).collect();
    apply(&mut s, 1, &[insert(&some)]).await?;
    let other: Vec<Vec<u8>> = (10..14).map(|i| half(&i.to_string(), b'b')).collect();
    let single = |r| Step::Update { table: 1, rows: vec![r], unknown: vec![], tolerant: false };
    apply(&mut s, 2, &[single(&other[0][..]), update(&other[1..])]).await?;
    ensure!(place.list("SELECT DISTINCT left(v, 1) FROM t WHERE id >= 10").await? == ["b"]);
    let error = failure(&mut s, &[update(&[large("1")])]).await?;
    ensure!(
        error.code == codes::LOSS && error.remedy.as_deref().is_some_and(|r| r.contains("max_allowed_packet")),
        "{error}"
    );
    ensure!(place.load(&plan, 0, &[large("3")]).await.is_ok());
    place.exec("SET GLOBAL local_infile = 0").await?;
    ensure!(place.load(&plan, 1, &some[..0]).await.is_ok());
    let error = place.load(&plan, 2, &[large("4")]).await.err().context("loaded")?;
    ensure!(error.code == codes::LOSS, "{error}");
    let lengths = place.list("SELECT length(v) FROM t WHERE id < 10 ORDER BY id").await?;
    ensure!(lengths == ["1", "3145728", "3145728"], "{lengths:?}");
    Ok(())
}

async fn rows_without_a_key_are_counted(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec("CREATE TABLE l (a varchar(9), f double, j json, c char(3) character set latin1, KEY (a))").await?;
    let plan = place.plan(1, "l", &[]).await?;
    let mut s = place.apply(&[plan]).await?;
    let of = |a: &str| partial(&[a, "0.1", "[1]", "x"]);
    let null = partial(&["-", "-", "-", "-"]);
    // Equal to the server, and not the same.
    let (lower, upper, spaced) = (of("a"), of("A"), of("a "));
    let rows = [lower.clone(), lower.clone(), lower.clone(), upper.clone(), spaced.clone(), null.clone(), null.clone()];
    apply(&mut s, 0, &[insert(&rows)]).await?;
    let step = Step::DeleteWhole { table: 1, rows: vec![(&lower, 2), (&spaced, 1), (&null, 1)] };
    apply(&mut s, 1, &[step]).await?;
    let left = place.list("SELECT coalesce(hex(a), '-') FROM l ORDER BY 1").await?;
    ensure!(left == ["-", "41", "61"], "{left:?}");
    let error = failure(&mut s, &[Step::DeleteWhole { table: 1, rows: vec![(&lower, 2)] }]).await?;
    ensure!(error.code == codes::ROW_COUNT && error.key.as_deref() == Some("a=a, f=0.1, j=[1], c=x"), "{error}");
    let other = partial(&["A", "0.1", "[1.0]", "x"]);
    let error = failure(&mut s, &[Step::DeleteWhole { table: 1, rows: vec![(&other, 1)] }]).await?;
    ensure!(error.code == codes::ROW_COUNT, "{error}");
    apply(&mut s, 2, &[Step::Truncate { tables: vec![1] }]).await?;
    ensure!(place.text("SELECT count(*) FROM l").await?.as_deref() == Some("0"));
    Ok(())
}

/// Whatever the type of a key is, rows are looked up and not searched for.
async fn keys_of_every_type_are_looked_up(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    // Limits beyond which a list of keys is no range any more.
    let limits: &[&str] = if release.is_mariadb() {
        &["optimizer_max_sel_arg_weight = 20", "in_predicate_conversion_threshold = 20"]
    } else {
        &["range_optimizer_max_mem_size = 1000"]
    };
    for limit in limits {
        place.exec(&format!("SET GLOBAL {limit}")).await?;
    }
    let mut s = None;
    let uuid = |i: u32| format!("{i:08x}-0000-4000-8000-000000000000");
    let number = |i: u32| i.to_string();
    type Key = Box<dyn Fn(u32) -> String>;
    let text = |prefix: &'static str| -> Key { Box::new(move |i| format!("{prefix}{i}")) };
    let day = |i: u32| format!("{:04}-{:02}-{:02}", 1000 + i / 300, 1 + i % 12, 1 + i / 12 % 25);
    let mut kinds: Vec<(&str, Key)> = vec![
        ("int", Box::new(number)),
        ("bigint unsigned", Box::new(|i| (u64::MAX - u64::from(i)).to_string())),
        ("decimal(20,3)", Box::new(|i| format!("{i}.125"))),
        ("double", Box::new(|i| format!("{i}.1"))),
        ("float", Box::new(|i| format!("{i}.5"))),
        ("date", Box::new(day)),
        ("datetime(6)", Box::new(move |i| format!("{} 00:00:00.{i:06}", day(i)))),
        ("timestamp", Box::new(|i| format!("2020-01-01 {:02}:{:02}:{:02}", i / 3600, i / 60 % 60, i % 60))),
        ("time", Box::new(|i| format!("-{:02}:{:02}:{:02}", i / 3600, i / 60 % 60, i % 60))),
        ("bit(16)", Box::new(|i| format!("{i:016b}"))),
        ("varchar(20) character set utf8mb4", text("ä")),
        ("varchar(20) character set latin1", Box::new(|i| format!("x{i}"))),
        ("char(20) character set utf8mb4 collate utf8mb4_bin", text("x")),
        ("varchar(20) character set utf8mb3", text("x")),
        ("varbinary(20)", text("x")),
        ("binary(6)", Box::new(|i| format!("{i:06}"))),
    ];
    if release.is_mariadb() {
        kinds.push(("uuid", Box::new(uuid)));
        kinds.push(("inet6", Box::new(|i| format!("::{i:x}"))));
    }
    for (n, (kind, key)) in kinds.iter().enumerate() {
        let table = format!("k{n}");
        place.exec(&format!("CREATE TABLE {table} (k {kind}, v int, PRIMARY KEY (k))")).await?;
        let plan = TablePlan { id: 1, ..place.plan(1, &table, &["k"]).await? };
        let mut session = match s.take() {
            None => place.apply(&[plan]).await?,
            Some(()) => place.session(vec![plan]).await?,
        };
        s = Some(());
        let base = 10 * n as u64;
        let rows = |v: &str| (1..3001).map(|i| row(&[&key(i), v])).collect::<Vec<_>>();
        apply(&mut session, base, &[insert(&rows("1"))]).await.with_context(|| kind.to_string())?;
        place.exec(&format!("ANALYZE TABLE {table}")).await?;
        let counted = || async {
            let rows = place.rows("SHOW GLOBAL STATUS LIKE 'Handler_read%'").await?;
            let numbers = rows.iter().filter_map(|r| r[1].as_deref()?.parse::<u64>().ok());
            anyhow::Ok(numbers.sum::<u64>())
        };
        let some: Vec<_> = (1..3001).step_by(100).map(|i| row(&[&key(i), "2"])).collect();
        let keys: Vec<_> = (1..3001).step_by(100).map(|i| row(&[&key(i)])).collect();
        let before = counted().await?;
        let steps = [update(&some), update(&some[..1]), delete(&keys[..1]), delete(&keys[1..])];
        apply(&mut session, base + 1, &steps).await.with_context(|| kind.to_string())?;
        let read = counted().await? - before;
        ensure!(read < 1500, "{release:?} {kind}: {read} rows were read for 61");
        ensure!(place.text(&format!("SELECT count(*) FROM {table}")).await?.as_deref() == Some("2970"));
        // As many rows as travel as parameters, and the rest.
        let left: Vec<_> = (1..3001).filter(|i| i % 100 != 1).map(|i| row(&[&key(i), "3"])).collect();
        let before = counted().await?;
        session.execute(&[update(&left)]).await.with_context(|| kind.to_string())?;
        let read = counted().await? - before;
        ensure!(read < 6 * 2970, "{release:?} {kind}: {read} rows were read for 2970");
        // The next table's changes begin where a round position stands.
        ensure!(session.commit(&at(base + 2), &at(base + 10)).await? == Committed::Yes);
        let changed = place.text(&format!("SELECT count(*) FROM {table} WHERE v = 3")).await?;
        ensure!(changed.as_deref() == Some("2970"), "{release:?} {kind}: {changed:?}");
        // And all but a few are deleted.
        let gone: Vec<_> = (11..3001).filter(|i| i % 100 != 1).map(|i| row(&[&key(i)])).collect();
        let before = counted().await?;
        session.execute(&[delete(&gone)]).await.with_context(|| kind.to_string())?;
        let read = counted().await? - before;
        ensure!(read < 6 * 2960, "{release:?} {kind}: {read} rows were read for 2960");
        session.rollback().await?;
    }
    Ok(())
}

async fn unique_values_swap_by_single_steps_and_holders_are_found(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place
        .exec("CREATE TABLE t (id int primary key, u varchar(9) character set latin1, w float, g varchar(30) as (lower(u)) stored, \
               UNIQUE u (u, w), UNIQUE part (u(3)), UNIQUE g (g), UNIQUE w (w))")
        .await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    let mut session = place.dialer.session("keys").await?;
    let found = keys::keys(&mut session, std::slice::from_ref(&plan)).await?;
    let names: Vec<&str> = found[0].others.iter().map(|o| o.name.as_str()).collect();
    ensure!(names == ["u", "w"] && found[0].serial.is_none(), "{found:?}");
    ensure!(found[0].identity.as_ref().is_some_and(|i| i.name == "PRIMARY"));
    let mut s = place.apply(&[plan]).await?;
    let latin = |id: &str, u: &[u8], w: &str| cells(&[Some(id.as_bytes()), Some(u), Some(w.as_bytes())]);
    let rows = [latin("1", b"\xe4", "0.1"), latin("2", b"b", "0.2"), latin("3", b"c", "0.3")];
    apply(&mut s, 0, &[insert(&rows)]).await?;
    let single = |row| Step::Update { table: 1, rows: vec![row], unknown: vec![], tolerant: false };
    let (x, y, z) = (latin("1", b"tmp", "9"), latin("2", b"\xe4", "0.1"), latin("1", b"b", "0.2"));
    apply(&mut s, 1, &[single(&x[..]), single(&y), single(&z)]).await?;
    let value = |u: &[u8], w: &str| cells(&[Some(u), Some(w.as_bytes())]);
    let (a, b, none) = (value(b"\xc4", "0.1"), value(b"b", "0.2"), value(b"b", "0.1"));
    let mut held = s.holders(1, 0, &[&a, &b, &none]).await?;
    held.sort();
    ensure!(held == [(row(&["1"]), value(b"b", "0.2")), (row(&["2"]), value(b"\xe4", "0.1"))], "{held:?}");
    s.execute(&[delete(&[row(&["2"])])]).await?;
    ensure!(s.holders(1, 0, &[&a]).await?.is_empty());
    ensure!(s.commit(&at(2), &at(3)).await? == Committed::Yes);
    // Both at once collide in the middle, and the index says so.
    let both = [latin("1", b"c", "0.3"), latin("3", b"b", "0.2")];
    let error = failure(&mut s, &[update(&both)]).await?;
    ensure!(error.code == codes::STATEMENT, "{error}");
    Ok(())
}

async fn what_foreign_keys_did_is_done_to_all_rows_that_refer(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place
        .exec("CREATE TABLE c (id int primary key, p varchar(9), q int, f float, KEY (q, p)); \
               CREATE TABLE d (id int primary key, p varchar(9), q int, f float); \
               INSERT INTO c VALUES (1, 'a', 1, 0.1), (2, 'A', 1, 0.2), (3, 'b', 1, 0.3), (4, 'a', 2, 0.4), (5, NULL, 1, 0.5); \
               INSERT INTO d SELECT * FROM c")
        .await?;
    for table in ["c", "d"] {
        let plan = place.plan(1, table, &["id"]).await?;
        let mut s = if table == "c" { place.apply(&[plan]).await? } else { place.session(vec![plan]).await? };
        let from = if table == "c" { 0 } else { 1 };
        let (a1, b1, x1) = (row(&["a", "1"]), row(&["b", "1"]), row(&["x", "7"]));
        // By the server's own idea of what is equal.
        let mut gone = s.follow(1, &[1, 2], &[&a1], Follow::Set(&x1), &[0, 3]).await?;
        gone.sort();
        ensure!(gone == [row(&["1", "0.1"]), row(&["2", "0.2"])], "{gone:?}");
        ensure!(s.follow(1, &[1, 2], &[&b1, &row(&["c", "1"])], Follow::SetNull, &[]).await?.is_empty());
        ensure!(s.follow(1, &[1, 2], &[&x1, &a1], Follow::Delete, &[0]).await?.len() == 2);
        ensure!(s.follow(1, &[1, 2], &[&x1], Follow::Delete, &[0]).await?.is_empty(), "none is fine");
        ensure!(s.commit(&at(from), &at(from + 1)).await? == Committed::Yes);
        let all = format!("SELECT concat_ws(' ', id, coalesce(p, '-'), coalesce(q, '-')) FROM {table} ORDER BY id");
        ensure!(place.list(&all).await? == ["3 - -", "4 a 2", "5 - 1"], "{:?}", place.list(&all).await?);
    }
    Ok(())
}

async fn a_former_holder_is_ended_and_fenced(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    let proxy = Proxy::start(place.server.port()).await?;
    let slow = place::dialer(place.migration, proxy.port);
    let epoch = progress::take_over(&place.dialer, place.migration).await?.epoch;
    progress::begin_at(&place.dialer, place.migration, epoch, &at(0)).await?;
    let mut former = MyApply::open(&slow, place.migration, epoch, std::slice::from_ref(&plan)).await?;
    // Somebody else's sessions, of the same account, stay alive; and another migration's.
    let stranger = place.server.connect("data").await?;
    let other = uuid_of(7);
    let theirs = place::dialer(other, place.server.port());
    progress::prepare(&theirs, other, "other").await?;
    let their_epoch = progress::take_over(&theirs, other).await?.epoch;
    let mut neighbour = MyApply::open(&theirs, other, their_epoch, &[][..]).await?;
    // It holds the row, and its process stands still.
    former.execute(&[insert(&[partial(&["1", "x", "old", "1", "-"])])]).await?;
    proxy.freeze();
    let taken = progress::take_over(&place.dialer, place.migration).await?;
    ensure!(taken.epoch == epoch + 1 && taken.position == Some(at(0)));
    let mut session = MyApply::open(&place.dialer, place.migration, taken.epoch, std::slice::from_ref(&plan)).await?;
    apply(&mut session, 0, &[insert(&[partial(&["1", "x", "new", "1", "-"])])]).await?;
    let late = MyApply::open(&place.dialer, place.migration, epoch, std::slice::from_ref(&plan)).await.err();
    ensure!(late.is_some_and(|e| e.code == codes::FENCED));
    ensure!(place.list("SELECT a FROM t").await? == ["new"]);
    progress::begin_at(&theirs, other, their_epoch, &at(0)).await?;
    ensure!(neighbour.commit(&at(0), &at(5)).await? == Committed::Yes, "another migration's session was ended");
    drop(stranger);
    // A holder that was not ended, but is past: nothing is committed.
    progress::take_over(&theirs, other).await?;
    let now = progress::take_over(&place.dialer, place.migration).await?.epoch;
    let mut unaware = MyApply::open(&place.dialer, place.migration, now, std::slice::from_ref(&plan)).await?;
    place.exec("UPDATE drover.drover_progress SET epoch = epoch + 1").await?;
    unaware.execute(&[delete(&[row(&["1", "x"])])]).await?;
    ensure!(unaware.commit(&at(1), &at(2)).await? == Committed::Fenced);
    ensure!(place.list("SELECT a FROM t").await? == ["new"]);
    Ok(())
}

fn uuid_of(n: u128) -> drover_model::MigrationId {
    drover_model::MigrationId::from_u128(n)
}

async fn a_holder_frozen_within_its_commit_is_ended(release: Release) -> Result<()> {
    let (place, _) = t(release).await?;
    let epoch = progress::take_over(&place.dialer, place.migration).await?.epoch;
    progress::begin_at(&place.dialer, place.migration, epoch, &at(0)).await?;
    // What a session looks like that has moved the progress and did not commit yet.
    let (mut frozen, id) = drover_connectors_mysql::sessions::open(
        &place.dialer,
        place.migration,
        drover_connectors_mysql::sessions::Purpose::Apply,
    )
    .await?;
    frozen.run("START TRANSACTION", "test").await?;
    frozen.run("UPDATE drover.drover_progress SET position_text = 'held'", "test").await?;
    let taken = progress::take_over(&place.dialer, place.migration).await?;
    ensure!(taken.epoch == epoch + 1);
    ensure!(frozen.run("SELECT 1", "test").await.is_err(), "session {id} lives");
    Ok(())
}

async fn the_progress_moves_only_from_where_it_stands(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    let mut s = place.apply(&[plan]).await?;
    s.execute(&[insert(&[partial(&["1", "x", "a", "1", "-"])])]).await?;
    ensure!(s.commit(&at(5), &at(6)).await.is_err());
    ensure!(place.list(ALL).await?.is_empty());
    apply(&mut s, 0, &[insert(&[partial(&["1", "x", "a", "1", "-"])])]).await?;
    s.execute(&[insert(&[partial(&["2", "x", "a", "1", "-"])])]).await?;
    ensure!(s.commit(&at(0), &at(1)).await.is_err(), "the same step twice");
    ensure!(place.text("SELECT count(*) FROM t").await?.as_deref() == Some("1"));
    // A migration that begins its tables again forgets where it stood, and knows its generations.
    progress::note_consistent(&place.dialer, place.migration, 1, &at(40)).await?;
    ensure!(progress::consistent_from(&place.dialer, place.migration).await? == Some(at(40)));
    place
        .exec(&format!(
            "INSERT INTO drover.drover_table (migration, table_id, generation) VALUES ('{}', 3, 7)",
            place.migration
        ))
        .await?;
    let other = place::dialer(uuid_of(3), place.server.port());
    progress::prepare(&other, uuid_of(3), "another").await?;
    progress::take_over(&other, uuid_of(3)).await?;
    ensure!(progress::forget_position(&other, uuid_of(3)).await? == 0);
    ensure!(progress::consistent_from(&other, uuid_of(3)).await?.is_none());
    ensure!(progress::consistent_from(&other, uuid_of(4)).await?.is_none());
    // The row is gone: nothing is committed either.
    place.exec("DELETE FROM drover.drover_progress").await?;
    s.execute(&[insert(&[partial(&["2", "x", "a", "1", "-"])])]).await?;
    let error = s.commit(&at(1), &at(2)).await.err().context("committed without a progress")?;
    ensure!(error.code == codes::STATE_LOST, "{error}");
    ensure!(place.text("SELECT count(*) FROM t").await?.as_deref() == Some("1"));
    progress::prepare(&place.dialer, place.migration, "test").await?;
    ensure!(progress::forget_position(&place.dialer, place.migration).await? == 7);
    ensure!(progress::progress(&place.dialer, "test").await?.is_some_and(|p| p.position.is_none() && p.epoch == 1));
    Ok(())
}

async fn the_outcome_of_a_lost_commit_is_found_out(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    let epoch = progress::take_over(&place.dialer, place.migration).await?.epoch;
    progress::begin_at(&place.dialer, place.migration, epoch, &at(0)).await?;
    let proxy = Proxy::start(place.server.port()).await?;
    let through = place::dialer(place.migration, proxy.port);
    let mut s = MyApply::open(&through, place.migration, epoch, &[plan][..]).await?;
    s.execute(&[insert(&[partial(&["1", "x", "a", "1", "-"])])]).await?;
    proxy.cut_after();
    ensure!(s.commit(&at(0), &at(1)).await? == Committed::Yes, "it was committed");
    s.execute(&[insert(&[partial(&["2", "x", "a", "1", "-"])])]).await?;
    proxy.cut_before();
    let error = s.commit(&at(1), &at(2)).await.err().context("it was not committed")?;
    ensure!(error.retry == Retry::Connection, "{error}");
    s.rollback().await?;
    // The session goes on, over a new connection.
    apply(&mut s, 1, &[insert(&[partial(&["2", "x", "a", "1", "-"])])]).await?;
    ensure!(place.text("SELECT group_concat(id ORDER BY id) FROM t").await?.as_deref() == Some("1,2"));
    // The answer is lost, and another took over meanwhile.
    s.execute(&[insert(&[partial(&["3", "x", "a", "1", "-"])])]).await?;
    progress::take_over(&place.dialer, place.migration).await?;
    ensure!(s.commit(&at(2), &at(3)).await? == Committed::Fenced);
    ensure!(place.text("SELECT group_concat(id ORDER BY id) FROM t").await?.as_deref() == Some("1,2"));
    Ok(())
}

async fn statements_that_wait_are_broken_off_and_deadlocks_can_be_tried_again(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    place.exec("INSERT INTO t (id, part) VALUES (1, 'x'), (2, 'x')").await?;
    let mut a = place.apply(std::slice::from_ref(&plan)).await?;
    let mut b = place.session(vec![plan]).await?;
    let of = |id: &str, v: &str| [partial(&[id, "x", v, "1", "-"])];
    let (a1, a2, b1, b2) = (of("1", "a"), of("2", "a"), of("1", "b"), of("2", "b"));
    a.execute(&[update(&a1)]).await?;
    let canceller = b.canceller();
    let steps = [update(&b1)];
    let waiting = b.execute(&steps);
    let breaking = async {
        wait::until("the other waits", PATIENCE, || async {
            let rows = place.rows("SHOW FULL PROCESSLIST").await?;
            let waits = rows.iter().any(|r| r[7].as_deref().is_some_and(|s| s.contains("UPDATE `data`.`t`")));
            Ok(waits.then_some(()))
        })
        .await?;
        canceller.cancel().await;
        anyhow::Ok(())
    };
    let (broken, done) = tokio::join!(waiting, breaking);
    done?;
    let error = broken.err().context("it did not wait")?;
    ensure!(error.code == codes::TIMEOUT && error.retry == Retry::Other, "{error}");
    b.rollback().await?;
    // Each holds what the other wants: one of them is the victim, and can be tried again.
    b.execute(&[update(&b2)]).await?;
    let (of_a, of_b) = ([update(&a2)], [update(&b1)]);
    let first = a.execute(&of_a);
    let (first, second) = tokio::join!(first, b.execute(&of_b));
    ensure!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    let error = first.err().or(second.err()).context("no victim")?;
    ensure!(error.code == codes::TIMEOUT && error.retry == Retry::Other, "{error}");
    b.rollback().await?;
    a.rollback().await?;
    apply(&mut a, 0, &[update(&a1), update(&a2)]).await?;
    apply(&mut b, 1, &[update(&b1), update(&b2)]).await?;
    ensure!(place.list("SELECT a FROM t").await? == ["b", "b"]);
    // A session that is ended in the middle says that the connection is gone, and can be used after a rollback.
    b.execute(&[update(&a1)]).await?;
    progress_sessions_end(&place).await?;
    let error = b.execute(&[update(&a2)]).await.err().context("it lives")?;
    ensure!(error.retry == Retry::Connection, "{error}");
    b.rollback().await?;
    apply(&mut b, 2, &[update(&a1)]).await?;
    Ok(())
}

async fn progress_sessions_end(place: &Place) -> Result<()> {
    use drover_connectors_mysql::sessions::{Purpose, end_all};
    let mut session = place.dialer.session("test").await?;
    ensure!(end_all(&mut session, place.migration, Purpose::Apply).await? >= 1);
    Ok(())
}

async fn cleanup_leaves_nothing_and_home_moves_beside_the_data(release: Release) -> Result<()> {
    let (place, plan) = t(release).await?;
    let mut s = place.apply(std::slice::from_ref(&plan)).await?;
    apply(&mut s, 0, &[insert(&[partial(&["1", "x", "a", "1", "-"])])]).await?;
    place.exec("CREATE TABLE drover.not_ours (id int)").await?;
    let other = place::dialer(uuid_of(9), place.server.port());
    progress::prepare(&other, uuid_of(9), "other").await?;
    progress::cleanup(&place.dialer, Some(place.migration), "test").await?;
    ensure!(s.commit(&at(1), &at(2)).await.is_err(), "a session outlived the cleanup");
    ensure!(progress::progress(&place.dialer, "test").await?.is_none());
    ensure!(progress::progress(&other, "other").await?.is_some());
    progress::cleanup(&other, None, "other").await?;
    let left = place.list("SELECT table_name FROM information_schema.tables WHERE table_schema = 'drover'").await?;
    ensure!(left == ["not_ours"], "{left:?}");
    // An account that may not create databases keeps its progress beside the data.
    place.exec("DROP DATABASE drover; CREATE USER small@'127.0.0.1' IDENTIFIED BY 'p'; GRANT ALL ON data.* TO small@'127.0.0.1'").await?;
    let small = place::dialer_as(place.migration, place.server.port(), "small", Some("p"));
    progress::prepare(&small, place.migration, "test").await?;
    let epoch = progress::take_over(&small, place.migration).await?.epoch;
    progress::begin_at(&small, place.migration, epoch, &at(0)).await?;
    let mut s = MyApply::open(&small, place.migration, epoch, &[plan][..]).await?;
    apply(&mut s, 0, &[insert(&[partial(&["2", "x", "a", "1", "-"])])]).await?;
    ensure!(place.text("SELECT position_text FROM data.drover_progress").await?.as_deref() == Some("binlog.000001:1"));
    progress::take_over(&small, place.migration).await?;
    ensure!(s.commit(&at(1), &at(2)).await? == Committed::Fenced);
    progress::cleanup(&small, None, "test").await?;
    let left = place.list("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'drover%' AND table_schema = 'data'").await?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

on_each!(
    every_strict_step_with_one_row_and_with_many,
    values_of_every_type_are_updated_exactly,
    values_of_every_type_are_updated_exactly_in_large_parts,
    large_parts_are_counted,
    tolerant_steps_meet_rows_or_not,
    wrong_counts_name_table_and_key,
    values_that_do_not_fit_are_refused,
    rows_larger_than_a_statement_go_in_or_are_refused,
    rows_without_a_key_are_counted,
    keys_of_every_type_are_looked_up,
    unique_values_swap_by_single_steps_and_holders_are_found,
    what_foreign_keys_did_is_done_to_all_rows_that_refer,
    a_former_holder_is_ended_and_fenced,
    a_holder_frozen_within_its_commit_is_ended,
    the_progress_moves_only_from_where_it_stands,
    the_outcome_of_a_lost_commit_is_found_out,
    statements_that_wait_are_broken_off_and_deadlocks_can_be_tried_again,
    cleanup_leaves_nothing_and_home_moves_beside_the_data,
);
