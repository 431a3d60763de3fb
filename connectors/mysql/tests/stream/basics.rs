//! Transactions of every kind come once, whole, in order.

use crate::bench::{Bench, inserted, val};
use drover_connectors_suite::world::{Before, Change};
use drover_harness::mysql::Release;

const TABLE: &str = "create table t (id int primary key, a varchar(20), b int)";

#[tokio::test]
async fn rows_of_each_kind() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("insert into t values (1, 'x', null), (2, null, -7)").await;
        bench.run("update t set a = 'y', id = 3 where id = 1").await;
        bench.run("delete from t where id = 2").await;
        bench.run("replace into t values (3, 'z', 1)").await;
        bench.run("truncate t").await;
        let found = bench.changes(&mut follower).await;
        let table = bench.plan("t").id;
        let row = |id: &str, a: Option<&str>, b: Option<&str>| {
            let known = |v: Option<&str>| drover_connectors_suite::world::Val::Known(v.map(Into::into));
            vec![val(id), known(a), known(b)]
        };
        let changes: Vec<_> = found.iter().map(|t| t.changes.clone()).collect();
        assert_eq!(
            changes,
            [
                vec![
                    Change::Insert { table, new: row("1", Some("x"), None) },
                    Change::Insert { table, new: row("2", None, Some("-7")) },
                ],
                vec![Change::Update {
                    table,
                    old: Before::Full(row("1", Some("x"), None)),
                    new: row("3", Some("y"), None)
                }],
                vec![Change::Delete { table, old: Before::Full(row("2", None, Some("-7"))) }],
                vec![Change::Update {
                    table,
                    old: Before::Full(row("3", Some("y"), None)),
                    new: row("3", Some("z"), Some("1"))
                }],
                vec![Change::Truncate { tables: vec![table] }],
            ],
            "{release:?}"
        );
    }
}

#[tokio::test]
async fn what_rolls_back_never_comes() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("begin; insert into t values (1, 'a', 1); rollback").await;
        bench.run("begin; insert into t values (2, 'a', 1); savepoint s; insert into t values (3, 'a', 1); rollback to s; insert into t values (4, 'a', 1); commit").await;
        // Something that cannot be rolled back makes the server log savepoints instead of forgetting what followed them.
        bench
            .run(
                "create temporary table m (a int) engine = myisam; \
                  begin; insert into t values (5, 'a', 1); savepoint s; insert into t values (6, 'a', 1); \
                  drop temporary table m; rollback to s; insert into t values (7, 'a', 1); commit",
            )
            .await;
        bench.run("insert into t values (8, 'a', 1)").await;
        let found = bench.changes(&mut follower).await;
        assert_eq!(inserted(&found), [vec![2, 4], vec![5, 7], vec![8]], "{release:?}");
    }
}

#[tokio::test]
async fn statements_of_a_transaction_come_together() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        bench.run("create table u (id int primary key, a varchar(20), b int); create database other; create table other.t (id int)").await;
        bench.plan_again().await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("begin; insert into t values (1, 'a', 1); insert into u values (2, 'a', 1); insert into other.t values (9); \
                   insert into t values (3, 'a', 1); commit; insert into other.t values (9); insert into u values (4, 'a', 1)").await;
        let found = bench.changes(&mut follower).await;
        assert_eq!(inserted(&found), [vec![1, 2, 3], vec![4]], "{release:?}");
    }
}

/// Operations that are not selected stay out, the others come.
#[tokio::test]
async fn selected_operations_only() {
    let mut bench = Bench::new(Release::MySql9, TABLE, &[]).await;
    let operations =
        drover_model::plan::Operations { update: false, truncate: false, ..drover_model::plan::Operations::ALL };
    bench.plans[0].operations = operations;
    let from = bench.here().await;
    let mut follower = bench.follow(&from).await;
    bench.run("insert into t values (1, 'a', 1); update t set a = 'b'; delete from t; truncate t; insert into t values (2, 'a', 1)").await;
    let found = bench.changes(&mut follower).await;
    let kinds: Vec<&str> = found
        .iter()
        .flat_map(|t| &t.changes)
        .map(|c| match c {
            Change::Insert { .. } => "insert",
            Change::Delete { .. } => "delete",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["insert", "delete", "insert"]);
}

/// Goes on where a batch ended, over log files that follow one another, and over a crash of the server.
#[tokio::test]
async fn rotation_and_restarts() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        let mut all = Vec::new();
        for i in 0..5 {
            bench.run(&format!("insert into t values ({i}, 'a', 1); flush binary logs")).await;
            all.extend(bench.changes(&mut follower).await);
        }
        assert!(follower.at.text.contains("00000"), "{}", follower.at.text);
        bench.run("insert into t values (5, 'a', 1)").await;
        bench.server.kill9().await.unwrap();
        let (more, error) = bench.end(&mut follower).await;
        all.extend(more);
        assert_eq!(
            (error.code.as_str(), error.retry),
            (drover_model::error::codes::CONNECTION, drover_model::Retry::Connection)
        );
        bench.server.restart().await.unwrap();
        bench.sql = bench.server.connect("d").await.unwrap();
        bench.run("insert into t values (6, 'a', 1)").await;
        let mut follower = bench.follow(&follower.at).await;
        all.extend(bench.changes(&mut follower).await);
        assert_eq!(inserted(&all), (0..7).map(|i| vec![i]).collect::<Vec<_>>(), "{release:?}");
    }
}

/// Every batch's end is a place to go on from: nothing twice, nothing missing.
#[tokio::test]
async fn each_end_is_a_place_to_go_on_from() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        bench.batch_bytes = 200;
        let from = bench.here().await;
        for i in 0..40 {
            bench.run(&format!("insert into t values ({i}, 'aaaaaaaaaaaaaaaaaaaa', {i})")).await;
            if i % 10 == 0 {
                bench.run("flush binary logs; create table if not exists x (a int); drop table x").await;
            }
        }
        let mark = bench.here().await;
        let mut at = from;
        let mut all = Vec::new();
        while at < mark {
            let mut follower = bench.follow(&at).await;
            all.extend(follower.once().await.unwrap());
            assert!(follower.at >= at);
            at = follower.at.clone();
        }
        assert_eq!(inserted(&all), (0..40).map(|i| vec![i]).collect::<Vec<_>>(), "{release:?}");
    }
}

/// The same among transactions that go through a file: a small batch ahead of one must not say that it is behind.
#[tokio::test]
async fn each_end_ahead_of_a_large_transaction() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        bench.batch_bytes = 500;
        let from = bench.here().await;
        let mut wanted = Vec::new();
        for i in 0..20u64 {
            bench.run(&format!("insert into t values ({i}, 'small', {i})")).await;
            wanted.push(vec![i]);
            let large: Vec<u64> = (0..40).map(|n| 1000 * (i + 1) + n).collect();
            let rows: Vec<String> = large.iter().map(|n| format!("({n}, repeat('x', 20), 1)")).collect();
            if i % 3 == 0 {
                // As a prepared one, whose end is what counts.
                let rows = rows.join(", ");
                bench
                    .server
                    .exec(
                        "d",
                        &format!("xa start 'x{i}'; insert into t values {rows}; xa end 'x{i}'; xa prepare 'x{i}'"),
                    )
                    .await
                    .unwrap();
                bench.run(&format!("insert into t values ({}, 'between', 1)", 500 + i)).await;
                // It belongs to the session that prepared it until the server has seen that one go.
                let end = format!("xa commit 'x{i}'");
                let free = || async { Ok(Some(bench.server.exec("d", &end).await?)) };
                drover_harness::wait::until(
                    "the prepared transaction is free",
                    std::time::Duration::from_secs(20),
                    free,
                )
                .await
                .unwrap();
                wanted.push(vec![500 + i]);
            } else {
                bench.run(&format!("insert into t values {}", rows.join(", "))).await;
            }
            wanted.push(large);
        }
        let mark = bench.here().await;
        let (mut at, mut all, mut large) = (from, Vec::new(), 0);
        while at < mark {
            let mut follower = bench.follow(&at).await;
            // Up to the end of a batch, or of a transaction in pieces.
            let before = follower.at.clone();
            while follower.at == before {
                all.extend(follower.once().await.unwrap());
            }
            large += follower.pieces;
            at = follower.at.clone();
        }
        assert_eq!(inserted(&all), wanted, "{release:?}");
        assert!(large >= 40, "{large} pieces");
        assert_eq!(bench.spilled(), 0);
    }
}

/// Changes elsewhere move the position on, and a source without any says that it is alive.
#[tokio::test]
async fn stretches_without_changes_for_us() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        bench.run("create database other; create table other.t (id int)").await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("insert into other.t values (1)").await;
        let mark = bench.here().await;
        assert_eq!(bench.changes(&mut follower).await.len(), 0);
        assert!(follower.at >= mark && follower.empty > 0, "{release:?}");
        let before = follower.empty;
        assert_eq!(follower.once().await.unwrap().len(), 0);
        assert_eq!(follower.at, mark);
        assert_eq!(follower.empty, before + 1);
    }
}

/// A call that is given up loses nothing, at whichever await.
#[tokio::test]
async fn cancelled_calls() {
    use drover_connectors_api::ChangeStream;
    use drover_model::change::{Item, Reader};
    use futures::FutureExt;
    let mut bench = Bench::new(Release::MySql9, TABLE, &[]).await;
    bench.batch_bytes = 2000;
    let from = bench.here().await;
    let mut stream = bench.open(&from).await.unwrap();
    let mut writer = bench.server.connect("d").await.unwrap();
    let writing = tokio::spawn(async move {
        for i in 0..200 {
            let sql = format!("insert into t values ({i}, repeat('x', 20), 1)");
            mysql_async::prelude::Queryable::query_drop(&mut writer, sql).await.unwrap();
        }
    });
    let (mut found, mut given_up) = (0, 0);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while found < 200 {
        assert!(tokio::time::Instant::now() < deadline, "nothing comes after {found}");
        let Some(batch) = stream.next().now_or_never() else {
            given_up += 1;
            tokio::task::yield_now().await;
            continue;
        };
        let batch = batch.unwrap();
        let mut reader = Reader::new(&batch.payload, &bench.plans[..]);
        while let Some(item) = reader.next_item().unwrap() {
            found += u64::from(matches!(item, Item::Insert { .. }));
        }
    }
    writing.await.unwrap();
    assert_eq!(found, 200);
    assert!(given_up > 20, "{given_up}");
}

/// Checksums or none, and the change from one to the other while the log is read.
#[tokio::test]
async fn checksums() {
    for release in Release::ALL {
        for first in ["CRC32", "NONE"] {
            let second = if first == "NONE" { "CRC32" } else { "NONE" };
            let mut bench = Bench::new(release, TABLE, &[("binlog-checksum", first)]).await;
            let from = bench.here().await;
            let mut follower = bench.follow(&from).await;
            bench.run("insert into t values (1, 'a', 1)").await;
            let mut all = bench.changes(&mut follower).await;
            bench.run(&format!("set global binlog_checksum = {second}; insert into t values (2, 'a', 1)")).await;
            let changed = bench.here().await;
            match follower.until(&changed).await {
                Ok(more) => all.extend(more),
                // A server may refuse to go on in another way than agreed; the next session agrees anew.
                Err(error) => {
                    let error: drover_model::Error = error.downcast().unwrap();
                    assert_ne!(error.retry, drover_model::Retry::Never, "{release:?} {first}: {error}");
                    let mut again = bench.follow(&follower.at).await;
                    all.extend(bench.changes(&mut again).await);
                }
            }
            assert_eq!(inserted(&all), [vec![1], vec![2]], "{release:?} {first}");
        }
    }
}
