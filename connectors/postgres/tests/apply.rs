//! Applying against a real server.

mod place;

use anyhow::{Result, bail};
use drover_connectors_api::{ApplySession, Committed, Norm, RowSink, Rows, Side, Step};
use drover_connectors_postgres::apply::PgApply;
use drover_connectors_postgres::rows::PgRows;
use drover_connectors_postgres::{keys, progress};
use drover_harness::wait;
use drover_model::chunk::Bounds;
use drover_model::error::codes;
use drover_model::row::{Cell, cells, take_row};
use drover_model::{Fault, Retry, TablePlan};
use place::{Place, at, plan, row, row_of, texts};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn refs(rows: &[Vec<u8>]) -> Vec<&[u8]> {
    rows.iter().map(Vec::as_slice).collect()
}

/// Executes and commits one batch.
async fn apply(session: &mut PgApply, from: u64, steps: &[Step<'_>]) -> Result<()> {
    session.execute(steps).await?;
    match session.commit(&at(from), &at(from + 1)).await? {
        Committed::Yes => Ok(()),
        Committed::Fenced => bail!("fenced"),
    }
}

async fn failure(session: &mut PgApply, steps: &[Step<'_>]) -> Result<drover_model::Error> {
    let error = session.execute(steps).await.expect_err("this must fail");
    session.rollback().await?;
    Ok(error)
}

const T: &str = "create table t (id int, part text, a varchar(5), b numeric(10,2), big text, primary key (id, part))";

fn t() -> TablePlan {
    plan(7, "t", &["id", "part", "a", "b", "big"], &[0, 1])
}

#[tokio::test]
async fn every_strict_step_with_one_row_and_with_many() -> Result<()> {
    let place = Place::new(T).await?;
    let mut s = place.apply(&[t()]).await?;
    let all = "select * from t order by id, part";
    let rows =
        [row(&["1", "x", "a", "1.50", "-"]), row(&["2", "x", "", "-", "l1"]), row(&["3", "y", "c", "NaN", "l2"])];
    apply(&mut s, 0, &[Step::Insert { table: 7, rows: refs(&rows[..1]), tolerant: false }]).await?;
    apply(&mut s, 1, &[Step::Insert { table: 7, rows: refs(&rows[1..]), tolerant: false }]).await?;
    assert_eq!(place.all(all).await?, "1|x|a|1.50|-;2|x||-|l1;3|y|c|NaN|l2");

    // Unknown is not null: what is unknown stays.
    let partial = [row(&["2", "x", "B", "2", "?"]), row(&["3", "y", "-", "3", "?"])];
    apply(&mut s, 2, &[Step::Update { table: 7, rows: refs(&partial), unknown: vec![4], tolerant: false }]).await?;
    let one = [row(&["1", "x", "?", "-", "it's \\ \"q\"\n"])];
    apply(&mut s, 3, &[Step::Update { table: 7, rows: refs(&one), unknown: vec![2], tolerant: false }]).await?;
    assert_eq!(place.all(all).await?, "1|x|a|-|it's \\ \"q\"\n;2|x|B|2.00|l1;3|y|-|3.00|l2");

    let (old, new) = (row(&["2", "x"]), row(&["20", "x", "m", "?", "?"]));
    let gone = [row(&["1", "x"])];
    let steps =
        [Step::Delete { table: 7, keys: refs(&gone), tolerant: false }, Step::Move { table: 7, old: &old, new: &new }];
    apply(&mut s, 4, &steps).await?;
    assert_eq!(place.all(all).await?, "3|y|-|3.00|l2;20|x|m|2.00|l1");
    let gone = [row(&["3", "y"]), row(&["20", "x"])];
    apply(&mut s, 5, &[Step::Delete { table: 7, keys: refs(&gone), tolerant: false }]).await?;
    assert_eq!(place.all(all).await?, "");
    // Nothing but the progress.
    assert_eq!(s.commit(&at(6), &at(9)).await?, Committed::Yes);
    assert_eq!(place.all("select position_text, epoch from drover.drover_progress").await?, "0/9|1");
    s.flush().await?;
    Ok(())
}

#[tokio::test]
async fn tolerant_steps_meet_rows_or_not() -> Result<()> {
    let place =
        Place::new(&format!("{T}; insert into t values (1, 'x', 'old', 1, 'big'), (2, 'x', 'old', 1, 'big')")).await?;
    let mut s = place.apply(&[t()]).await?;
    for many in [false, true] {
        let n = if many { 3 } else { 1 };
        let base = if many { 4 } else { 0 };
        place.sql.batch_execute("delete from t where id > 2; update t set a = 'old', b = 1").await?;
        // One that is there, two that are not.
        let rows: Vec<_> = ["2", "3", "4"][..n].iter().map(|i| row(&[i, "x", "new", "2", "-"])).collect();
        apply(&mut s, base, &[Step::Insert { table: 7, rows: refs(&rows), tolerant: true }]).await?;
        let expected = if many { "1|old;2|new;3|new;4|new" } else { "1|old;2|new" };
        assert_eq!(place.all("select id, a from t order by id").await?, expected);
        let full: Vec<_> = ["1", "5", "6"][..n].iter().map(|i| row(&[i, "x", "full", "2", "-"])).collect();
        apply(&mut s, base + 1, &[Step::Update { table: 7, rows: refs(&full), unknown: vec![], tolerant: true }])
            .await?;
        let partial: Vec<_> = ["8", "9", "1"][..n].iter().map(|i| row(&[i, "x", "part", "?", "?"])).collect();
        let step = Step::Update { table: 7, rows: refs(&partial), unknown: vec![3, 4], tolerant: true };
        apply(&mut s, base + 2, &[step]).await?;
        let expected = if many { "1|part;2|new;3|new;4|new;5|full;6|full" } else { "1|full;2|new" };
        assert_eq!(place.all("select id, a from t order by id").await?, expected);
        let keys: Vec<_> = ["77", "5", "6"][..n].iter().map(|i| row(&[i, "x"])).collect();
        apply(&mut s, base + 3, &[Step::Delete { table: 7, keys: refs(&keys), tolerant: true }]).await?;
        let expected = if many { "1;2;3;4" } else { "1;2" };
        assert_eq!(place.all("select id from t order by id").await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_tolerant_insert_never_overwrites_by_another_unique_key() -> Result<()> {
    let ddl = "create table u (id int primary key, name text unique); insert into u values (1, 'a');
        create table d (id int primary key deferrable initially immediate, v text); insert into d values (1, 'old')";
    let place = Place::new(ddl).await?;
    let plans = [plan(1, "u", &["id", "name"], &[0]), plan(2, "d", &["id", "v"], &[0])];
    let mut s = place.apply(&plans).await?;
    let rows = [row(&["2", "a"])];
    let error = failure(&mut s, &[Step::Insert { table: 1, rows: refs(&rows), tolerant: true }]).await?;
    assert_eq!(error.table.as_deref(), Some("public.u"));
    assert_eq!(error.key.as_deref(), Some("name=a"));
    assert_eq!(place.all("select * from u").await?, "1|a");
    // A deferrable key cannot decide a conflict; the outcome is the same.
    let rows = [row(&["1", "new"]), row(&["2", "new"])];
    apply(&mut s, 0, &[Step::Insert { table: 2, rows: refs(&rows), tolerant: true }]).await?;
    apply(&mut s, 1, &[Step::Insert { table: 2, rows: refs(&rows[1..]), tolerant: true }]).await?;
    assert_eq!(place.all("select * from d order by 1").await?, "1|new;2|new");
    Ok(())
}

#[tokio::test]
async fn wrong_counts_name_table_and_key() -> Result<()> {
    let ddl =
        format!("{T}; insert into t select i, 'x' from generate_series(1, 5) i; create table k (id int primary key)");
    let place = Place::new(&ddl).await?;
    let mut s = place.apply(&[t(), plan(8, "k", &["id"], &[0])]).await?;
    let keys: Vec<_> = ["1", "66", "3"].iter().map(|i| row(&[i, "x"])).collect();
    let rows: Vec<_> = ["1", "66", "3"].iter().map(|i| row(&[i, "x", "v", "1", "-"])).collect();
    let (old, new) = (row(&["66", "x"]), row(&["67", "x", "-", "-", "-"]));
    let only = [row(&["66"])];
    let update = |rows| Step::Update { table: 7, rows, unknown: vec![], tolerant: false };
    for step in [
        Step::Delete { table: 7, keys: refs(&keys), tolerant: false },
        Step::Delete { table: 7, keys: refs(&keys[1..2]), tolerant: false },
        update(refs(&rows)),
        update(refs(&rows[1..2])),
        Step::Move { table: 7, old: &old, new: &new },
    ] {
        // Statements behind it are on their way already; the first error is the one that is told.
        let error = failure(&mut s, &[step.clone(), update(refs(&rows[..1])), update(refs(&rows[2..]))]).await?;
        assert_eq!(
            (error.code.as_str(), error.table.as_deref()),
            (codes::ROW_COUNT, Some("public.t")),
            "{step:?}: {error}"
        );
        assert_eq!(error.key.as_deref(), Some("id=66, part=x"), "{step:?}: {error}");
    }
    // An update that has nothing to set still needs its row.
    let step = Step::Update { table: 8, rows: refs(&only), unknown: vec![], tolerant: false };
    assert_eq!(failure(&mut s, &[step]).await?.key.as_deref(), Some("id=66"));
    // A row that is there already.
    for n in [1, 3, 300] {
        let rows: Vec<_> = (5..5 + n).map(|i| row(&[&i.to_string(), "x", "-", "-", "-"])).collect();
        let error = failure(&mut s, &[Step::Insert { table: 7, rows: refs(&rows), tolerant: false }]).await?;
        assert_eq!(error.table.as_deref(), Some("public.t"), "{error}");
        assert_eq!(error.key.as_deref(), Some("id, part=5, x"), "{error}");
    }
    // Nothing is cut silently.
    for n in [1, 3, 300] {
        let rows: Vec<_> = (100..100 + n).map(|i| row(&[&i.to_string(), "x", "longer", "-", "-"])).collect();
        let error = failure(&mut s, &[Step::Insert { table: 7, rows: refs(&rows), tolerant: false }]).await?;
        assert!(error.to_string().contains("22001"), "{error}");
    }
    assert_eq!(place.all("select count(*), count(a) from t").await?, "5|0");
    // A value that is unknown is not null.
    let rows = [row(&["1", "x", "?", "1", "-"])];
    assert_eq!(failure(&mut s, &[update(refs(&rows))]).await?.code, codes::INTERNAL);
    Ok(())
}

#[tokio::test]
async fn rows_without_a_key_are_counted() -> Result<()> {
    let ddl = "create table w (a int, b bool, c inet, d char(4), e float8, j json, n numeric(10,2));
        insert into w select 1, true, '10.0.0.1', 'x', 0.1, '{\"a\": 1}', 1.5 from generate_series(1, 3);
        insert into w select 1, null, '10.0.0.1', 'x', 0.1, null, null from generate_series(1, 2);
        insert into w select 1, true, '10.0.0.1', '', 0.1, '{}', 1 from generate_series(1, 2)";
    let place = Place::new(ddl).await?;
    let mut s = place.apply(&[plan(3, "w", &["a", "b", "c", "d", "e", "j", "n"], &[])]).await?;
    let (first, second) = (
        row(&["1", "t", "10.0.0.1", "x   ", "0.1", "{\"a\": 1}", "1.50"]),
        row(&["1", "-", "10.0.0.1", "x   ", "0.1", "-", "-"]),
    );
    apply(&mut s, 0, &[Step::DeleteWhole { table: 3, rows: vec![(&first, 2), (&second, 1)] }]).await?;
    assert_eq!(
        place.all("select b, d, count(*) from w group by 1, 2 order by 1, 2").await?,
        "t|    |2;t|x   |1;-|x   |1"
    );
    let error = failure(&mut s, &[Step::DeleteWhole { table: 3, rows: vec![(&second, 1), (&first, 2)] }]).await?;
    assert_eq!((error.code.as_str(), error.table.as_deref()), (codes::ROW_COUNT, Some("public.w")));
    assert!(error.key.as_deref().is_some_and(|k| k.starts_with("a=1, b=t")), "{error}");
    assert_eq!(place.all("select count(*) from w").await?, "4");
    Ok(())
}

#[tokio::test]
async fn truncate_together_and_where_others_refer() -> Result<()> {
    let ddl = "create table a (id int primary key); create table b (id int references a); create table c (id int references a);
        insert into a values (1); insert into b values (1); insert into c values (1)";
    let place = Place::new(ddl).await?;
    let mut s =
        place.apply(&[plan(1, "a", &["id"], &[0]), plan(2, "b", &["id"], &[]), plan(3, "c", &["id"], &[])]).await?;
    apply(&mut s, 0, &[Step::Truncate { tables: vec![2, 3] }, Step::Truncate { tables: vec![1] }]).await?;
    assert_eq!(
        place.all("select (select count(*) from a), (select count(*) from b), (select count(*) from c)").await?,
        "0|0|0"
    );
    place.sql.batch_execute("insert into a values (1); insert into b values (1)").await?;
    apply(&mut s, 1, &[Step::Truncate { tables: vec![1, 2, 3] }]).await?;
    assert_eq!(place.all("select count(*) from b").await?, "0");
    Ok(())
}

#[tokio::test]
async fn unique_values_swap_by_single_steps_and_holders_are_found() -> Result<()> {
    let ddl =
        "create table u (id int primary key, email text not null, flag bool, unique (email), unique (flag, email));
        insert into u values (1, 'a@x', true), (2, 'b@x', false), (3, 'c@x', null)";
    let place = Place::new(ddl).await?;
    let plans = [plan(4, "u", &["id", "email", "flag"], &[0])];
    let mut s = place.apply(&plans).await?;
    let steps = [row(&["1", "tmp", "t"]), row(&["2", "a@x", "f"]), row(&["1", "b@x", "t"])];
    let steps: Vec<_> =
        steps.iter().map(|r| Step::Update { table: 4, rows: vec![r], unknown: vec![], tolerant: false }).collect();
    apply(&mut s, 0, &steps).await?;
    assert_eq!(place.all("select id, email from u order by 1").await?, "1|b@x;2|a@x;3|c@x");

    let keys = keys::keys(&place.sql, &plans, Fault::Destination).await?;
    let index = keys[0].others.iter().position(|u| u.columns.len() == 2).unwrap();
    let order: Vec<u16> = keys[0].others[index].columns.iter().map(|c| c.0).collect();
    assert_eq!(order, [2, 1]);
    let values = [row(&["t", "b@x"]), row(&["t", "a@x"]), row(&["-", "c@x"])];
    // What the batch itself has written counts.
    let change = row(&["3", "a@x", "t"]);
    let free = row(&["2", "z", "f"]);
    s.execute(&[
        Step::Update { table: 4, rows: vec![&free], unknown: vec![], tolerant: false },
        Step::Update { table: 4, rows: vec![&change], unknown: vec![], tolerant: false },
    ])
    .await?;
    let mut held = s.holders(4, index, &refs(&values)).await?;
    held.sort();
    assert_eq!(held, [(row(&["1"]), row(&["t", "b@x"])), (row(&["3"]), row(&["t", "a@x"]))]);
    s.rollback().await?;
    assert_eq!(place.all("select email from u where id = 3").await?, "c@x");
    Ok(())
}

#[tokio::test]
async fn keys_come_from_the_catalogue_or_say_why_not() -> Result<()> {
    let ddl = "create extension citext; create extension btree_gist;
        create type mood as enum ('a', 'b'); create domain code as char(3);
        create collation ci (provider = icu, locale = 'und', deterministic = false);
        create table ok (id bigint primary key, a text, b numeric, c code, d mood, e uuid, f timestamptz, g int not null);
        create unique index ok_a on ok (a) where g > 0; create unique index ok_b on ok (b, c) include (e);
        create unique index ok_d on ok (d, f); create unique index ok_id on ok (g, id);
        create table f (id float8 primary key); create table c (id int primary key, x citext unique);
        create table n (id int primary key, x text collate ci unique); create table x (id int primary key, x text);
        create unique index on x (lower(x)); create table nn (id int primary key, x int unique nulls not distinct);
        create table ex (id int primary key, r int4range, exclude using gist (r with &&));
        create table g (id int primary key, x int generated always as (1) stored unique); create table none (x int)";
    let place = Place::new(ddl).await?;
    let plans = [
        plan(1, "ok", &["id", "a", "b", "c", "d", "e", "f", "g"], &[0]),
        plan(2, "f", &["id"], &[0]),
        plan(3, "c", &["id", "x"], &[0]),
        plan(4, "n", &["id", "x"], &[0]),
        plan(5, "x", &["id", "x"], &[0]),
        plan(6, "nn", &["id", "x"], &[0]),
        plan(7, "ex", &["id", "r"], &[0]),
        plan(8, "g", &["id"], &[0]),
        plan(9, "none", &["x"], &[]),
        plan(10, "x", &["x"], &[0]),
    ];
    let keys = keys::keys(&place.sql, &plans, Fault::Destination).await?;
    assert_eq!(keys.iter().map(|k| k.table).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    let ok = &keys[0];
    assert_eq!(ok.serial, None);
    assert_eq!(
        ok.identity.as_ref().map(|i| (i.name.as_str(), i.columns.clone())),
        Some(("ok_pkey", vec![(0, Norm::Exact)]))
    );
    let others: Vec<_> = ok.others.iter().map(|u| (u.name.as_str(), u.columns.clone())).collect();
    let expected = [
        ("ok_a", vec![(1, Norm::Exact)]),
        ("ok_b", vec![(2, Norm::Decimal), (3, Norm::TrimEnd)]),
        ("ok_d", vec![(4, Norm::Exact), (6, Norm::Exact)]),
    ];
    assert_eq!(others, expected);
    let why = ["float8", "operator class", "nondeterministic", "expression", "nulls", "exclusion", "generated"];
    for (key, why) in keys[1..8].iter().zip(why) {
        assert!(key.serial.as_deref().is_some_and(|s| s.contains(why)), "{why}: {key:?}");
    }
    assert_eq!((keys[8].identity.as_ref(), keys[8].serial.as_ref()), (None, None));
    assert!(keys[9].serial.is_some());
    Ok(())
}

#[tokio::test]
async fn identity_always_columns_keep_their_values() -> Result<()> {
    let ddl =
        "create table i (id int generated always as identity primary key, v text, n int generated always as identity)";
    let place = Place::new(ddl).await?;
    let mut s = place.apply(&[plan(1, "i", &["id!", "v", "n!"], &[0])]).await?;
    let many: Vec<_> = (1..=300).map(|i| row(&[&i.to_string(), "a", &(i * 10).to_string()])).collect();
    apply(&mut s, 0, &[Step::Insert { table: 1, rows: refs(&many), tolerant: false }]).await?;
    let more: Vec<_> = (301..=303).map(|i| row(&[&i.to_string(), "a", "5"])).collect();
    apply(&mut s, 1, &[Step::Insert { table: 1, rows: refs(&more), tolerant: false }]).await?;
    let rows = [row(&["1", "b", "10"]), row(&["2", "b", "20"])];
    apply(&mut s, 2, &[Step::Update { table: 1, rows: refs(&rows), unknown: vec![], tolerant: false }]).await?;
    apply(&mut s, 3, &[Step::Insert { table: 1, rows: refs(&rows), tolerant: true }]).await?;
    // Changed at the source by SET DEFAULT: the transaction unlocks the column.
    let rows = [row(&["1", "c", "11"]), row(&["2", "c", "20"])];
    apply(&mut s, 4, &[Step::Update { table: 1, rows: refs(&rows), unknown: vec![], tolerant: false }]).await?;
    let (old, new) = (row(&["3"]), row(&["999", "moved", "30"]));
    apply(&mut s, 5, &[Step::Move { table: 1, old: &old, new: &new }]).await?;
    assert_eq!(
        place.all("select * from i where id < 4 or id > 302 order by id").await?,
        "1|c|11;2|c|20;303|a|5;999|moved|30"
    );
    assert_eq!(
        place.all("select attidentity from pg_attribute where attrelid = 'i'::regclass and attnum in (1, 3)").await?,
        "a;a"
    );
    Ok(())
}

#[tokio::test]
async fn a_frozen_former_holder_is_ended_and_fenced() -> Result<()> {
    let place = Place::new(T).await?;
    let plans = [t()];
    let rows = [row(&["1", "x", "-", "-", "-"])];
    let insert = [Step::Insert { table: 7, rows: refs(&rows), tolerant: false }];
    let mut first = place.apply(&plans).await?;
    first.execute(&insert).await?;
    // It sits in its transaction with locks on rows, and another session of it even on the progress.
    let frozen = place.dialer.session("apply").await?;
    frozen.batch_execute("begin; update drover.drover_progress set updated_at = now()").await?;
    let mut second = place.apply(&plans).await?;
    assert!(frozen.batch_execute("commit").await.is_err());
    apply(&mut second, 0, &insert).await?;
    assert_eq!(first.commit(&at(0), &at(1)).await?, Committed::Fenced);
    // A session that was not ended is fenced by the epoch alone.
    place.sql.batch_execute("update drover.drover_progress set epoch = epoch + 1").await?;
    let more = [row(&["2", "x", "-", "-", "-"])];
    second.execute(&[Step::Insert { table: 7, rows: refs(&more), tolerant: false }]).await?;
    assert_eq!(second.commit(&at(1), &at(2)).await?, Committed::Fenced);
    assert_eq!(place.all("select id from t").await?, "1");
    let error = PgApply::open(&place.dialer, place.migration, 2, &plans[..]).await.err().unwrap();
    assert_eq!(error.code, codes::FENCED);
    assert_eq!(progress::begin_at(&place.dialer, place.migration, 2, &at(0)).await.unwrap_err().code, codes::FENCED);
    Ok(())
}

#[tokio::test]
async fn the_progress_moves_only_from_where_it_stands() -> Result<()> {
    let place = Place::new(T).await?;
    let mut s = place.apply(&[t()]).await?;
    let rows = [row(&["1", "x", "-", "-", "-"])];
    let insert = [Step::Insert { table: 7, rows: refs(&rows), tolerant: false }];
    s.execute(&insert).await?;
    let error = s.commit(&at(5), &at(6)).await.unwrap_err();
    assert!(error.code == codes::INTERNAL && error.message.contains("0/0") && error.message.contains("0/5"), "{error}");
    assert_eq!(place.all("select count(*) from t").await?, "0");
    progress::begin_at(&place.dialer, place.migration, 1, &at(0)).await?;
    assert!(progress::begin_at(&place.dialer, place.migration, 1, &at(3)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn the_outcome_of_a_lost_commit_is_found_out() -> Result<()> {
    let place = Place::new(T).await?;
    let mut s = place.apply(&[t()]).await?;
    let rows = [row(&["1", "x", "-", "-", "-"])];
    let insert = [Step::Insert { table: 7, rows: refs(&rows), tolerant: false }];
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'drover % apply'";
    s.execute(&insert).await?;
    place.sql.batch_execute(end).await?;
    let error = s.commit(&at(0), &at(1)).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retry), (codes::CONNECTION, Retry::Connection), "{error}");
    // The session goes on.
    apply(&mut s, 0, &insert).await?;
    // Lost within a batch: giving it up begins a new session.
    place.sql.batch_execute(end).await?;
    assert_eq!(s.execute(&insert).await.unwrap_err().retry, Retry::Connection);
    s.rollback().await?;
    // Committed, but nobody heard: the progress tells.
    s.execute(&[]).await?;
    let next = at(2);
    let moved = "update drover.drover_progress set position = $1, place = $2";
    let place_bytes = [&next.lineage.to_be_bytes()[..], &next.order].concat();
    place.sql.execute(moved, &[&next.to_bytes(), &place_bytes]).await?;
    place.sql.batch_execute(end).await?;
    assert_eq!(s.commit(&at(1), &next).await?, Committed::Yes);
    assert_eq!(place.all("select count(*) from t").await?, "1");
    Ok(())
}

#[tokio::test]
async fn a_statement_under_way_is_broken_off() -> Result<()> {
    let place = Place::new(&format!("{T}; insert into t values (1, 'x')")).await?;
    let mut s = place.apply(&[t()]).await?;
    place.sql.batch_execute("begin; update t set a = 'lock'").await?;
    let watcher = place.server.connect("drover").await?;
    let canceller = s.canceller();
    let rows = [row(&["1", "x", "v", "1", "-"])];
    let steps = [Step::Update { table: 7, rows: refs(&rows), unknown: vec![], tolerant: false }];
    let cancel = async {
        let waiting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name like 'drover %'";
        wait::until_eq("the update waits", PATIENCE, "1".to_owned(), async || {
            Ok(texts(&watcher, waiting).await?[0][0].clone().unwrap_or_default())
        })
        .await?;
        canceller.cancel().await;
        anyhow::Ok(())
    };
    let (done, cancelled) = futures::join!(s.execute(&steps), cancel);
    cancelled?;
    assert_eq!(done.unwrap_err().code, codes::TIMEOUT);
    s.rollback().await?;
    place.sql.batch_execute("rollback").await?;
    apply(&mut s, 0, &steps).await?;
    assert_eq!(place.all("select a from t").await?, "v");
    Ok(())
}

/// Column types and values; each value is a row.
const TYPES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("int2", &["-32768"]),
    ("int4", &["2147483647"]),
    ("int8", &["-9223372036854775808"]),
    ("numeric", &["NaN", "Infinity", "-Infinity", "0.000", "12345678901234567890.123456789", "1e-30"]),
    ("numeric(12,3)", &["1.500", "NaN"]),
    ("float4", &["NaN", "Infinity", "-Infinity", "-0", "1.1", "1e-45", "3.4028235e38"]),
    ("float8", &["NaN", "Infinity", "-Infinity", "-0", "0.1", "5e-324", "1.7976931348623157e308"]),
    ("text", &["", "it's \\ \"q\"", "a\nb\r\tc", "\\N", "\\.", "äöü 漢字 🦀", "null"]),
    ("varchar", &["x "]),
    ("varchar(10)", &["", "0123456789"]),
    ("char(5)", &["", "ab", "abcde"]),
    ("bpchar", &["ab  "]),
    ("\"char\"", &["a", ""]),
    ("name", &["some_name"]),
    ("bytea", &["", "\\x00ff5c0a"]),
    ("date", &["2024-02-29", "infinity", "-infinity", "0044-03-15 BC"]),
    ("time", &["23:59:59.999999", "24:00:00"]),
    ("time(3)", &["01:02:03.123"]),
    ("timetz", &["01:02:03+05:30"]),
    ("timestamp", &["2024-01-01 00:00:00.000001", "infinity", "0001-01-01 00:00:00 BC", "294276-12-31 23:59:59"]),
    ("timestamp(3)", &["2024-01-01 00:00:00.123"]),
    ("timestamptz", &["2024-06-01 12:00:00+02", "infinity", "-infinity"]),
    ("timestamptz(0)", &["2024-06-01 12:00:00+02"]),
    ("interval", &["1 year 2 mons -3 days 04:05:06.789", "-00:00:01", "0"]),
    ("interval day to second(3)", &["3 days 04:05:06.789"]),
    ("interval year to month", &["1 year 2 mons"]),
    ("money", &["$1,234.56", "-$0.01"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["{\"b\":1,  \"a\":[null,\"\\u00e4\"]}", "null"]),
    ("jsonb", &["{\"b\":1,\"a\":[1.50,\"q\\\"\"]}", "null"]),
    ("jsonpath", &["$.a[*]"]),
    ("xml", &["<a b=\"c\">x &amp; y</a>", "<a/><b/>", ""]),
    ("inet", &["10.0.0.1", "10.0.0.0/8", "::1/64"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(5)", &["10110"]),
    ("varbit", &["", "101"]),
    ("varbit(8)", &["1011"]),
    ("point", &["(1.5,-2)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(1,2),(3,4)]"]),
    ("box", &["(3,4),(1,2)"]),
    ("path", &["((1,2),(3,4))", "[(1,2),(3,4)]"]),
    ("polygon", &["((1,2),(3,4),(5,6))"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["'a':1A 'it''s':2"]),
    ("tsquery", &["'a' & !'b'"]),
    ("int4range", &["[1,5)", "empty", "(,)"]),
    ("numrange", &["[1.0,2.50]"]),
    ("tstzrange", &["[\"2024-01-01 00:00:00+00\",infinity)"]),
    ("int4multirange", &["{[1,3),[5,9)}", "{}"]),
    ("int4[]", &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={7,8}"]),
    ("text[]", &["{\"\",\"a,b\",\"q\\\"\",NULL,\"NULL\",\"\\\\\"}"]),
    ("varchar(3)[]", &["{abc,d}"]),
    ("char(3)[]", &["{\"a  \",abc}"]),
    ("float8[]", &["{NaN,0.1,-0}"]),
    ("timestamptz[]", &["{\"2024-01-01 00:00:00+00\"}"]),
    ("bytea[]", &["{\"\\\\x00ff\"}"]),
    ("mood", &["it's", "so so"]),
    ("mood[]", &["{\"so so\"}"]),
    ("short", &["abc"]),
    ("short2", &["abc"]),
    ("positive", &["12.5"]),
    ("short[]", &["{abc}"]),
    ("pair", &["(1,\"a,\\\"b\")", "(,)", "(1,)"]),
    ("pair[]", &["{\"(1,x)\",NULL}"]),
    ("textrange", &["[a,c)"]),
    ("\"odd \"\"schema\".\"odd(type)\"", &["v"]),
    ("citext", &["MiXed"]),
    ("hstore", &["\"a\"=>\"1\", \"b\"=>NULL"]),
    ("oid", &["4294967295"]),
    ("regclass", &["pg_class"]),
    ("pg_lsn", &["16/B374D848"]),
    ("xid", &["42"]),
    ("tid", &["(1,2)"]),
];

#[tokio::test]
async fn values_of_many_types_arrive_as_they_were() -> Result<()> {
    let mut ddl = "create extension citext; create extension hstore; create type mood as enum ('it''s', 'so so');
        create domain short as varchar(3); create domain short2 as short not null default 'x';
        create domain positive as numeric(10,3) check (value > 0);
        create type pair as (a int, b text); create type textrange as range (subtype = text);
        create schema \"odd \"\"schema\"; create type \"odd \"\"schema\".\"odd(type)\" as enum ('v'); "
        .to_owned();
    let columns: Vec<String> = (0..TYPES.len()).map(|i| format!("weird \"\"{i}.")).collect();
    for table in ["source \"\"t", "dest \"\"t"] {
        let list: Vec<String> = TYPES.iter().zip(&columns).map(|((ty, _), c)| format!("\"{c}\" {ty}")).collect();
        ddl.push_str(&format!("create table \"{table}\" (id int primary key, {}); ", list.join(", ")));
    }
    let place = Place::new(&ddl).await?;
    place.sql.batch_execute("set timezone = 'UTC'; set extra_float_digits = 3; set search_path = public").await?;
    let most = TYPES.iter().map(|t| t.1.len()).max().unwrap_or(0);
    for n in 0..=most {
        let mut values = vec![n.to_string()];
        for (ty, list) in TYPES {
            let value = list.get(n).map(|v| format!("'{}'::text::{ty}", v.replace('\'', "''")));
            values.push(value.unwrap_or_else(|| if *ty == "short2" { "'y'".into() } else { "null".into() }));
        }
        place.sql.batch_execute(&format!("insert into \"source \"\"t\" values ({})", values.join(", "))).await?;
    }
    // A large value.
    place
        .sql
        .batch_execute(&format!(
            "update \"source \"\"t\" set \"{}\" = repeat(E'x\\\\\\n\\t', 250000) where id = 0",
            columns[8]
        ))
        .await?;

    let names: Vec<String> =
        std::iter::once("id".to_owned()).chain(columns.iter().map(|c| c.replace("\"\"", "\""))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut made = plan(1, "dest \"t", &names, &[0]);
    made.source.name = "source \"t".into();
    for (column, (ty, _)) in made.columns.iter_mut().skip(1).zip(TYPES) {
        column.destination_type = (*ty).into();
    }
    let mut s = place.apply(std::slice::from_ref(&made)).await?;
    let sources = place.texts("select * from \"source \"\"t\" order by id").await?;
    let rows: Vec<Vec<u8>> = sources.iter().map(|r| row_of(r)).collect();
    let same = async |place: &Place| -> Result<()> {
        let there = place.texts("select * from \"dest \"\"t\" where id <= 100 order by id").await?;
        for (a, b) in sources.iter().zip(&there) {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert_eq!(a, b, "column {i}, {}", if i > 0 { TYPES[i - 1].0 } else { "id" });
            }
        }
        assert_eq!(sources.len(), there.len());
        Ok(())
    };
    let truncate = Step::Truncate { tables: vec![1] };
    let insert = |rows| Step::Insert { table: 1, rows, tolerant: false };
    // Set-wise; one by one; by COPY; by updates of both forms; tolerantly.
    apply(&mut s, 0, &[insert(refs(&rows))]).await?;
    same(&place).await?;
    let mut steps = vec![truncate.clone()];
    steps.extend(rows.iter().map(|r| insert(vec![r.as_slice()])));
    apply(&mut s, 1, &steps).await?;
    same(&place).await?;
    let blank: Vec<&str> = TYPES.iter().map(|(ty, _)| if *ty == "short2" { "y" } else { "-" }).collect();
    let fill = |i: usize| -> Vec<u8> { row(&[&[i.to_string().as_str()][..], &blank].concat()) };
    let mut large = rows.clone();
    large.extend((101..350).map(fill));
    apply(&mut s, 2, &[truncate.clone(), insert(refs(&large))]).await?;
    same(&place).await?;
    let blanks: Vec<Vec<u8>> = (0..rows.len()).map(fill).collect();
    let update = |rows, tolerant| Step::Update { table: 1, rows, unknown: vec![], tolerant };
    for (n, tolerant) in [(3, false), (4, true)] {
        apply(&mut s, n, &[update(refs(&blanks), tolerant), update(refs(&rows), tolerant)]).await?;
        same(&place).await?;
    }
    let mut steps = vec![update(refs(&blanks), false)];
    steps.extend(rows.iter().map(|r| update(vec![r], false)));
    apply(&mut s, 5, &steps).await?;
    same(&place).await?;

    // Both ways of reading for comparison give the same bytes on both sides.
    let mut reader = PgRows::open(&place.dialer).await?;
    let mut here = Kept(made.columns.len(), Vec::new());
    let mut there = Kept(made.columns.len(), Vec::new());
    let mut by_key = Kept(made.columns.len(), Vec::new());
    let bounds = Bounds::Keys { from: None, to: Some(vec!["100".into()]) };
    reader.read(&made, Side::Source, &Bounds::Whole, &mut here).await?;
    reader.read(&made, Side::Destination, &bounds, &mut there).await?;
    let keys: Vec<bytes::Bytes> = (0..rows.len()).map(|i| row(&[&i.to_string()]).into()).collect();
    reader.read_keys(&made, Side::Destination, &keys, &mut by_key).await?;
    for kept in [&mut here, &mut there, &mut by_key] {
        kept.1.sort();
    }
    assert_eq!(here.1.len(), rows.len());
    for other in [&there.1, &by_key.1] {
        for (a, b) in here.1.iter().zip(other) {
            for (i, (a, b)) in cells(a).zip(cells(b)).enumerate() {
                assert_eq!(a, b, "column {i}");
            }
        }
        assert_eq!(&here.1, other);
    }
    Ok(())
}

struct Kept(usize, Vec<Vec<u8>>);

impl RowSink for Kept {
    fn block(&mut self, rows: usize, cells: bytes::Bytes) -> drover_model::Result<()> {
        let mut rest = &cells[..];
        for _ in 0..rows {
            self.1.push(take_row(&mut rest, self.0).ok_or_else(|| drover_model::Error::internal("a row"))?.to_vec());
        }
        assert!(rest.is_empty());
        Ok(())
    }
}

#[tokio::test]
async fn comparison_reads_within_bounds_and_filter() -> Result<()> {
    let place = Place::new(
        "create table t (a int, b text, f float8, primary key (a, b));
        insert into t select i, 'x' || i, i * 0.1 from generate_series(1, 9) i",
    )
    .await?;
    let mut made = plan(1, "t", &["f", "a", "b"], &[1, 2]);
    made.filter = Some("a <> 4".into());
    let mut reader = PgRows::open(&place.dialer).await?;
    let mut kept = Kept(3, Vec::new());
    let bounds = Bounds::Keys { from: Some(vec!["3".into(), "x3".into()]), to: Some(vec!["5".into(), "x5".into()]) };
    reader.read(&made, Side::Source, &bounds, &mut kept).await?;
    reader.read(&made, Side::Destination, &bounds, &mut kept).await?;
    let ids: Vec<_> = kept
        .1
        .iter()
        .map(|r| String::from_utf8_lossy(cells(r).nth(1).and_then(Cell::value).unwrap()).into_owned())
        .collect();
    assert_eq!(ids, ["3", "3", "4"]);
    let mut kept = Kept(3, Vec::new());
    let keys: Vec<bytes::Bytes> = ["4", "7", "99"].iter().map(|i| row(&[i, &format!("x{i}")]).into()).collect();
    reader.read_keys(&made, Side::Source, &keys, &mut kept).await?;
    assert_eq!(kept.1.len(), 1);
    Ok(())
}

#[tokio::test]
async fn cleanup_leaves_nothing() -> Result<()> {
    let place = Place::new(T).await?;
    let other = progress::prepare(&place.dialer, uuid_of(1), "other").await?;
    assert_eq!((other.epoch, other.position), (0, None));
    let clash = progress::prepare(&place.dialer, uuid_of(2), "test").await.unwrap_err();
    assert_eq!(clash.code, codes::STATE_LOST);
    assert_eq!(progress::prepare(&place.dialer, place.migration, "test").await?.migration, place.migration);
    assert_eq!(progress::cleanup(&place.dialer, Some(place.migration), "test").await?.len(), 1);
    assert_eq!(progress::progress(&place.dialer, "test").await?, None);
    assert!(progress::progress(&place.dialer, "other").await?.is_some());
    assert_eq!(progress::cleanup(&place.dialer, None, "other").await?.len(), 2);
    assert!(progress::cleanup(&place.dialer, None, "other").await?.is_empty());
    assert_eq!(progress::progress(&place.dialer, "other").await?, None);
    assert_eq!(place.all("select to_regnamespace('drover')").await?, "-");
    Ok(())
}

fn uuid_of(n: u128) -> drover_model::MigrationId {
    drover_model::MigrationId::from_u128(n)
}

/// Prints rates; asserts only what is applied.
#[tokio::test]
async fn rates_of_set_wise_statements() -> Result<()> {
    let place = Place::new("create table r (id int primary key, a int, b text, c timestamptz)").await?;
    let mut s = place.apply(&[plan(1, "r", &["id", "a", "b", "c"], &[0])]).await?;
    const N: usize = 100_000;
    let rows: Vec<Vec<u8>> =
        (0..N).map(|i| row(&[&i.to_string(), "5", "some text of a row", "2024-01-01 00:00:00+00"])).collect();
    let keys: Vec<Vec<u8>> = (0..N).map(|i| row(&[&i.to_string()])).collect();
    let tell = |what: &str, n: usize, begin: Instant| {
        println!("{what}: {:.0} rows/s", n as f64 / begin.elapsed().as_secs_f64());
    };
    let begin = Instant::now();
    apply(&mut s, 0, &[Step::Insert { table: 1, rows: refs(&rows), tolerant: false }]).await?;
    tell("insert by COPY", N, begin);
    let begin = Instant::now();
    apply(&mut s, 1, &[Step::Update { table: 1, rows: refs(&rows), unknown: vec![], tolerant: false }]).await?;
    tell("update, one batch", N, begin);
    let begin = Instant::now();
    for (n, part) in rows.chunks(500).enumerate() {
        apply(&mut s, 2 + n as u64, &[Step::Update { table: 1, rows: refs(part), unknown: vec![], tolerant: false }])
            .await?;
    }
    tell("update, batches of 500", N, begin);
    let n = 2 + N as u64 / 500;
    let begin = Instant::now();
    let steps: Vec<_> = rows[..5000]
        .iter()
        .map(|r| Step::Update { table: 1, rows: vec![r], unknown: vec![], tolerant: false })
        .collect();
    apply(&mut s, n, &steps).await?;
    tell("update, one row a statement", 5000, begin);
    let begin = Instant::now();
    apply(&mut s, n + 1, &[Step::Insert { table: 1, rows: refs(&rows), tolerant: true }]).await?;
    tell("insert, tolerant", N, begin);
    let begin = Instant::now();
    apply(&mut s, n + 2, &[Step::Delete { table: 1, keys: refs(&keys), tolerant: false }]).await?;
    tell("delete", N, begin);
    assert_eq!(place.all("select count(*) from r").await?, "0");
    let begin = Instant::now();
    for part in rows.chunks(150).take(200) {
        s.execute(&[Step::Insert { table: 1, rows: refs(part), tolerant: false }]).await?;
    }
    s.rollback().await?;
    tell("insert by arrays of 150", 30_000, begin);
    Ok(())
}
