//! The change stream as batches, against a real server.
#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Bench, inserted, update, val};
use drover_connectors_suite::world::{Before, Change, Val};
use drover_harness::wait;
use drover_model::error::codes;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const T: &str = "create table t (id int primary key, v text)";

fn rows(from: u32, to: u32) -> String {
    format!("insert into t select i, repeat(md5(i::text), 10) from generate_series({from}, {to}) i")
}

/// Whether the server streamed a transaction before its commit: the path that is on trial must have been taken. Servers before 14 cannot.
async fn assert_streamed(bench: &Bench, wanted: bool) {
    if bench::version() >= 14 {
        let sql = "select (coalesce(sum(stream_txns), 0) > 0)::text from pg_stat_replication_slots";
        assert_eq!(bench.text(sql).await, wanted.to_string(), "streamed before the commit");
    }
}

/// A transaction of some 100 times a batch, with savepoints, some of them rolled back.
async fn a_large_transaction(settings: &[(&str, &str)], is_streamed: bool) {
    let bench = Bench::new(T, settings).await;
    let mut follower = bench.follow(None).await;
    bench.run("insert into t values (1, 'before')").await;
    bench.run("begin").await;
    bench.run(&rows(1001, 4000)).await;
    bench.run("savepoint a").await;
    bench.run(&rows(4001, 7000)).await;
    bench.run("savepoint b").await;
    bench.run(&rows(7001, 8000)).await;
    bench.run("rollback to b").await;
    bench.run(&rows(8001, 9000)).await;
    bench.run("rollback to a").await;
    bench.run(&rows(9001, 9100)).await;
    bench.run("savepoint c").await;
    bench.run(&rows(9101, 12000)).await;
    bench.run("release c").await;
    bench.run(&rows(12001, 14000)).await;
    bench.run("commit").await;
    bench.run("insert into t values (2, 'after')").await;
    let seen = bench.changes(&mut follower).await;
    let ids: Vec<Vec<u64>> = seen.iter().map(inserted).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!((&ids[0][..], &ids[2][..]), (&[1][..], &[2][..]));
    assert_eq!(ids[1], (1001..=4000).chain(9001..=14000).collect::<Vec<u64>>());
    assert!(follower.pieces > 20, "{} pieces", follower.pieces);
    assert_streamed(&bench, is_streamed).await;
    assert_eq!(bench.spilled(), 0, "spill files stay behind");
}

#[tokio::test]
async fn a_large_transaction_is_given_out_in_pieces() {
    a_large_transaction(&[], false).await;
}

#[tokio::test]
async fn a_large_streamed_transaction_is_given_out_in_pieces() {
    a_large_transaction(&[("logical_decoding_work_mem", "64kB")], true).await;
}

#[tokio::test]
async fn streamed_transactions_interleave_and_come_in_commit_order() {
    let bench = Bench::new(T, &[("logical_decoding_work_mem", "64kB")]).await;
    let mut follower = bench.follow(None).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = bench.server.connect("drover").await.unwrap();
        session.batch_execute("begin").await.unwrap();
        sessions.push(session);
    }
    for round in 0..10u32 {
        for (i, session) in (0..).zip(&sessions) {
            let from = 100_000 * (i + 1) + round * 200;
            session.batch_execute(&rows(from, from + 199)).await.unwrap();
        }
        bench.run(&rows(round, round)).await;
    }
    for (i, end) in [(1, "commit"), (2, "rollback"), (0, "commit")] {
        sessions[i].batch_execute(end).await.unwrap();
    }
    let seen = bench.changes(&mut follower).await;
    let ids: Vec<Vec<u64>> = seen.iter().map(inserted).collect();
    let mut wanted: Vec<Vec<u64>> = (0..10).map(|i| vec![i]).collect();
    wanted.push((200_000..202_000).collect());
    wanted.push((100_000..102_000).collect());
    assert_eq!(ids.iter().map(Vec::len).collect::<Vec<_>>(), wanted.iter().map(Vec::len).collect::<Vec<_>>());
    assert_eq!(ids, wanted);
    assert_streamed(&bench, true).await;
    assert_eq!(bench.spilled(), 0, "spill files stay behind");
}

#[tokio::test]
async fn a_schema_change_that_is_rolled_back_stops_nothing() {
    let bench = Bench::new(T, &[("logical_decoding_work_mem", "64kB")]).await;
    let mut follower = bench.follow(None).await;
    let change = "alter table t add more int default 5, drop v";
    let more = "insert into t select i, i from generate_series(1001, 5000) i";
    bench.run(&format!("begin; {}; {change}; {more}", rows(1, 1000))).await;
    bench.run("rollback").await;
    bench.run(&format!("begin; {}; savepoint a; {change}; {more}", rows(1, 1000))).await;
    bench.run(&format!("rollback to a; {}; commit", rows(1001, 1500))).await;
    let seen = bench.changes(&mut follower).await;
    assert_eq!(seen.iter().map(inserted).collect::<Vec<_>>(), [(1..=1500).collect::<Vec<u64>>()]);
    assert_streamed(&bench, true).await;
    // Committed, it does.
    bench.run(&format!("begin; {}; {change}; insert into t values (9999, 1); commit", rows(2001, 4000))).await;
    let mark = bench.source.mark().await.unwrap();
    let error = follower.until(&mark).await.unwrap_err().downcast::<drover_model::Error>().unwrap();
    assert_eq!(error.code, codes::TABLE_CHANGED, "{error}");
}

#[tokio::test]
async fn images_keys_and_truncations() {
    let ddl = "create table a (id int primary key, n int, big text); alter table a alter big set storage external;
         create table b (like a including all); alter table b replica identity full;
         insert into a values (1, 1, repeat('x', 9000)), (2, 1, repeat('y', 9000)); insert into b select * from a";
    let bench = Bench::new(ddl, &[]).await;
    let mut follower = bench.follow(None).await;
    let (a, b) = (bench.plan("a").id, bench.plan("b").id);
    bench.run("update a set n = 2 where id = 1").await;
    bench.run("update b set n = 2 where id = 1").await;
    bench.run("update a set id = 7, n = null where id = 2").await;
    bench.run("update b set id = 7 where id = 2").await;
    bench.run("delete from a where id = 1").await;
    bench.run("truncate a, b").await;
    let (x, y) = (val(&"x".repeat(9000)), val(&"y".repeat(9000)));
    let seen: Vec<Change> = bench.changes(&mut follower).await.into_iter().flat_map(|t| t.changes).collect();
    let one = val("1");
    let wanted = [
        update(a, Before::None, &[one.clone(), val("2"), Val::Unknown]),
        update(b, Before::Full(vec![one.clone(), one.clone(), x.clone()]), &[one.clone(), val("2"), x]),
        update(a, Before::Key(vec![val("2")]), &[val("7"), Val::Known(None), Val::Unknown]),
        update(b, Before::Full(vec![val("2"), one.clone(), y.clone()]), &[val("7"), one.clone(), y]),
        Change::Delete { table: a, old: Before::Key(vec![one]) },
        Change::Truncate { tables: vec![a, b] },
    ];
    for (seen, wanted) in seen.iter().zip(&wanted) {
        assert!(seen == wanted, "{seen:.200?} instead of {wanted:.200?}");
    }
    assert_eq!(seen.len(), wanted.len());
}

#[tokio::test]
async fn an_idle_source_moves_on() {
    let bench = Bench::new(T, &[]).await;
    let mut follower = bench.follow(None).await;
    for _ in 0..3 {
        let (mark, began) = (bench.source.mark().await.unwrap(), Instant::now());
        assert!(follower.until(&mark).await.unwrap().is_empty());
        assert!(began.elapsed() < Duration::from_secs(2), "a mark took {:?}", began.elapsed());
    }
    // What others write moves the position as well, though nothing of it is ours.
    bench.run("create table other (id int primary key)").await;
    let before = follower.empty;
    bench.run("insert into other select generate_series(1, 1000)").await;
    let end = bench.text("select pg_current_wal_lsn()").await;
    let mut text = String::new();
    let deadline = Instant::now() + PATIENCE;
    while bench.text(&format!("select '{}'::pg_lsn >= '{end}'::pg_lsn", follower.at.text)).await != "t" {
        assert!(follower.once().await.unwrap().is_empty());
        text.push_str(&follower.at.text);
        assert!(Instant::now() < deadline, "the position stands still: {text}");
    }
    assert!(follower.empty > before);
    // Confirmed, the slot follows.
    let at = follower.at.clone();
    follower.stream.confirm(&at).await.unwrap();
    let sql = format!("select (confirmed_flush_lsn >= '{}')::text from pg_replication_slots", at.text);
    wait::until_eq("the slot is where it was confirmed", PATIENCE, "true".to_owned(), || async {
        Ok(bench.text(&sql).await)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn resuming_loses_nothing_and_repeats_nothing() {
    let bench = Bench::new(T, &[("logical_decoding_work_mem", "64kB")]).await;
    let mut follower = bench.follow(None).await;
    let mut kept: Vec<u64> = Vec::new();
    let mut next = 1;
    for round in 0..6 {
        // Open over the change of readers: begun before, committed after.
        let late = bench.server.connect("drover").await.unwrap();
        late.batch_execute(&format!("begin; {}", rows(next, next + 999))).await.unwrap();
        bench.run(&rows(next + 1000, next + 1009)).await;
        kept.extend(bench.changes(&mut follower).await.iter().flat_map(inserted));
        let durable = follower.at.clone();
        if round % 2 == 0 {
            follower.stream.confirm(&durable).await.unwrap();
        }
        // Read, but not durable anywhere.
        bench.run(&rows(next + 1010, next + 1019)).await;
        assert_eq!(bench.changes(&mut follower).await.iter().flat_map(inserted).count(), 10);
        late.batch_execute("commit").await.unwrap();
        // The former reader may live on or be gone.
        let former = follower;
        follower = bench.follow(Some(durable.clone())).await;
        assert_eq!(follower.at, durable);
        if round % 3 == 0 {
            drop(former);
        }
        next += 1020;
    }
    kept.extend(bench.changes(&mut follower).await.iter().flat_map(inserted));
    let mut sorted = kept.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..u64::from(next)).collect::<Vec<_>>(), "lost or doubled");
}

#[tokio::test]
async fn a_live_former_reader_is_ended() {
    let bench = Bench::new(T, &[]).await;
    let mut former = bench.follow(None).await;
    let start = former.at.clone();
    let pid = "select active_pid from pg_replication_slots";
    let first = bench.text(pid).await;
    let mut follower = bench.follow(Some(start)).await;
    assert_ne!(bench.text(pid).await, first, "the same walsender");
    let noticed = async {
        loop {
            if let Err(error) = former.once().await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, noticed).await.expect("the former reader reads on");
    let error = error.downcast::<drover_model::Error>().unwrap();
    assert_eq!(error.code, codes::CONNECTION, "{error}");
    bench.run("insert into t values (1, 'x')").await;
    assert_eq!(bench.changes(&mut follower).await.len(), 1);
}

#[tokio::test]
async fn a_changed_table_stops_the_stream_by_name() {
    for (change, column) in [
        ("alter table t add more int", "more"),
        ("alter table t drop v", "v"),
        ("alter table t rename v to w", "v"),
        ("alter table t alter v type varchar(9)", "v"),
    ] {
        let bench = Bench::new(T, &[]).await;
        let mut follower = bench.follow(None).await;
        bench.run("insert into t values (1)").await;
        assert_eq!(bench.changes(&mut follower).await.len(), 1);
        bench.run(change).await;
        bench.run("insert into t values (2)").await;
        let mark = bench.source.mark().await.unwrap();
        let error = follower.until(&mark).await.unwrap_err().downcast::<drover_model::Error>().unwrap();
        assert_eq!(error.code, codes::TABLE_CHANGED, "{change}: {error}");
        assert_eq!(error.table.as_deref(), Some("public.t"), "{change}: {error}");
        assert_eq!(error.column.as_deref(), Some(column), "{change}: {error}");
    }
    let bench = Bench::new(T, &[]).await;
    let mut follower = bench.follow(None).await;
    bench.run("alter table t rename to u; insert into u values (2)").await;
    let mark = bench.source.mark().await.unwrap();
    let error = follower.until(&mark).await.unwrap_err().downcast::<drover_model::Error>().unwrap();
    // By the name that it was selected by, or by the new one, whatever is seen first.
    assert_eq!(error.code, codes::TABLE_CHANGED, "{error}");
    assert!(["public.t", "public.u"].contains(&error.table.as_deref().unwrap()), "{error}");
}

#[tokio::test]
async fn a_table_made_again_under_its_name_stops_the_stream() {
    let bench = Bench::new(T, &[]).await;
    let mut follower = bench.follow(None).await;
    bench.run("insert into t values (1)").await;
    let seen = bench.changes(&mut follower).await;
    assert_eq!(seen.len(), 1);
    let twin = "create table twin (like t including all); insert into twin values (2); drop table t; alter table twin rename to t";
    bench.run(twin).await;
    // The log has nothing of the new table: only the mark tells, and it must not be handed on.
    let mark = bench.source.mark().await.unwrap();
    let error = follower.until(&mark).await.unwrap_err().downcast::<drover_model::Error>().unwrap();
    assert_eq!((error.code.as_str(), error.table.as_deref()), (codes::TABLE_CHANGED, Some("public.t")), "{error}");
    drop(follower);
    // Whoever begins anew finds out before anything else.
    let mut again = bench.open(Some(mark)).await;
    let error = again.stream.next().await.unwrap_err();
    assert_eq!((error.code.as_str(), error.table.as_deref()), (codes::TABLE_CHANGED, Some("public.t")), "{error}");
}

#[tokio::test]
async fn another_server_or_a_lost_slot_is_a_lost_position() {
    let bench = Bench::new(T, &[]).await;
    let start = bench.open(None).await.start;
    let publication = bench.text("select pubname from pg_publication").await;
    let note = bench.text("select obj_description(oid, 'pg_publication') from pg_publication").await;
    let system = bench.text("select system_identifier from pg_control_system()").await;
    assert!(note.contains(&system), "{note}");
    bench.run(&format!("comment on publication {publication} is '{}'", note.replace(&system, "4711"))).await;
    let error = bench.refused(bench.spec(Some(start.clone()))).await;
    assert_eq!(error.code, codes::POSITION_LOST, "{error}");
    assert!(error.to_string().contains("4711"), "{error}");
    bench.run(&format!("comment on publication {publication} is '{note}'")).await;
    drop(bench.open(Some(start.clone())).await);
    // A slot that somebody moved on: what lies between is gone.
    bench.run("insert into t values (1, 'x')").await;
    let slot = bench.text("select slot_name from pg_replication_slots").await;
    let free = "select count(*)::text from pg_replication_slots where active";
    wait::until_eq("the slot is free", PATIENCE, "0".to_owned(), || async { Ok(bench.text(free).await) })
        .await
        .unwrap();
    bench.run(&format!("select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")).await;
    let error = bench.refused(bench.spec(Some(start.clone()))).await;
    assert_eq!(error.code, codes::POSITION_LOST, "{error}");
    bench.run(&format!("select pg_drop_replication_slot('{slot}')")).await;
    let error = bench.refused(bench.spec(Some(start))).await;
    assert_eq!(error.code, codes::POSITION_LOST, "{error}");
    assert!(error.to_string().contains(&slot), "{error}");
}

/// Gathers what is said as a warning on this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<String>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn event(&self, event: &tracing::Event<'_>) {
        let mut visit = |_: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            self.0.lock().unwrap().push_str(&format!("{value:?} "));
        };
        event.record(&mut visit);
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

#[tokio::test]
async fn an_open_transaction_holds_the_slot_up_no_longer_than_it_lasts() {
    let bench = Bench::new(T, &[]).await;
    let warnings = Warnings::default();
    let _here = tracing::subscriber::set_default(warnings.clone());
    bench.run("begin; insert into t values (1, 'open')").await;
    let open = bench.follow(None);
    let end = async {
        // It must be seen to wait, and to say so, before our transaction ends.
        wait::until("a warning that names who holds the slot up", PATIENCE, || {
            let said = warnings.0.lock().unwrap().clone();
            std::future::ready(Ok((said.contains("waits for") && said.contains("idle in transaction")).then_some(())))
        })
        .await
        .unwrap();
        bench.run("commit").await;
    };
    let (mut follower, ()) = tokio::join!(open, end);
    assert!(bench.changes(&mut follower).await.is_empty(), "committed before the snapshot");
    bench.run("insert into t values (2, 'after')").await;
    assert_eq!(bench.changes(&mut follower).await.len(), 1);
}
