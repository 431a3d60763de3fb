//! Whether it is the same server, has its log still, or is one that took over.

use crate::bench::{Bench, dialer, inserted};
use drover_harness::mysql::{MySql, Release};
use drover_harness::wait;
use drover_model::error::codes;
use drover_model::{Position, Retry};
use std::time::Duration;

const TABLE: &str = "create table t (id int primary key, a varchar(20))";

async fn insert(bench: &mut Bench, ids: std::ops::Range<u64>) {
    for i in ids {
        bench.run(&format!("insert into t values ({i}, 'a')")).await;
    }
}

#[tokio::test]
async fn a_log_that_was_purged() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        insert(&mut bench, 0..2).await;
        bench.run("flush binary logs; flush binary logs").await;
        let file = bench.here().await.text.split(':').next().unwrap().to_owned();
        // A server keeps files that its engines may need for recovery yet.
        wait::until("the files are gone", Duration::from_secs(60), || {
            let server = &bench.server;
            let file = file.clone();
            async move {
                server.exec("d", &format!("purge binary logs to '{file}'")).await?;
                let mut session = server.connect("d").await?;
                let first: mysql_async::Row = drover_harness::mysql::one(&mut session, "show binary logs").await?;
                Ok((first.get::<String, _>(0) == Some(file)).then_some(()))
            }
        })
        .await
        .unwrap();
        let error = bench.open(&from).await.err().unwrap();
        assert_eq!((error.code.as_str(), error.retry), (codes::POSITION_LOST, Retry::Never), "{release:?}: {error}");
        assert!(error.message.contains("binlog.000001") && error.remedy.is_some(), "{error}");
    }
}

async fn another_second(server: &MySql) {
    let old = server.query_one_text("d", "select unix_timestamp()").await.unwrap();
    wait::until("another second", Duration::from_secs(10), || {
        let old = old.clone();
        async move { Ok((server.query_one_text("d", "select unix_timestamp()").await? != old).then_some(())) }
    })
    .await
    .unwrap();
}

/// Ids and file names begin anew with a reset, so what was behind may seem to be there again. The file's age tells.
#[tokio::test]
async fn a_log_that_was_reset() {
    let without: &[(&str, &str)] = &[("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF")];
    for (release, settings) in
        [(Release::MySql9, &[][..]), (Release::MySql9, without), (Release::MariaDb10, &[]), (Release::MariaDb11, &[])]
    {
        let mut bench = Bench::new(release, TABLE, settings).await;
        let start = bench.here().await;
        let mut follower = bench.follow(&start).await;
        insert(&mut bench, 0..3).await;
        assert_eq!(inserted(&bench.changes(&mut follower).await).len(), 3);
        let mut again = bench.follow(&follower.at).await;
        insert(&mut bench, 3..5).await;
        assert_eq!(inserted(&bench.changes(&mut again).await).len(), 2);
        another_second(&bench.server).await;
        let reset = if release == Release::MySql9 { "reset binary logs and gtids" } else { "reset master" };
        bench.run(&format!("{reset}; create database e; drop table t; {TABLE}")).await;
        insert(&mut bench, 0..5).await;
        let error = match bench.open(&again.at).await {
            Ok(stream) => {
                let opened = drover_connectors_api::Opened {
                    start: stream.start().clone(),
                    snapshot: None,
                    stream: Box::new(stream),
                };
                bench.end(&mut drover_connectors_suite::world::Follower::new(opened, &bench.plans)).await.1
            }
            Err(error) => error,
        };
        assert_eq!((error.code.as_str(), error.retry), (codes::POSITION_LOST, Retry::Never), "{release:?}: {error}");
        assert!(error.message.contains("reset"), "{error}");
    }
}

/// A second server that follows the first.
async fn replica(of: &MySql) -> MySql {
    let release = of.release();
    let settings: &[(&str, &str)] = if release == Release::MySql9 { &[] } else { &[("log-slave-updates", "ON")] };
    let server = MySql::start(release, settings).await.unwrap();
    let follow = match release {
        Release::MySql9 => format!(
            "change replication source to source_host='127.0.0.1', source_port={}, source_user='drover', get_source_public_key=1, \
             source_auto_position=1, source_connect_retry=1; start replica",
            of.port()
        ),
        _ => format!(
            "change master to master_host='127.0.0.1', master_port={}, master_user='drover', master_use_gtid=slave_pos, \
             master_connect_retry=1; start slave",
            of.port()
        ),
    };
    server.exec("drover", &follow).await.unwrap();
    server
}

/// Waits until the replica has as many rows.
async fn has(server: &MySql, rows: u64) {
    wait::until("the replica has the rows", Duration::from_secs(60), || async move {
        let count = server.query_one_text("drover", "select count(*) from d.t").await;
        Ok((count.ok().flatten().as_deref() == Some(&rows.to_string())).then_some(()))
    })
    .await
    .unwrap();
}

async fn promote(server: &MySql) {
    let sql = match server.release() {
        Release::MySql9 => "stop replica; reset replica all",
        _ => "stop slave; reset slave all",
    };
    server.exec("drover", sql).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_took_over() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let second = replica(&bench.server).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        insert(&mut bench, 0..5).await;
        let mut all = bench.changes(&mut follower).await;
        has(&second, 5).await;
        // Another file there, in the middle of what was read here; then what was not read here.
        second.exec("drover", "flush binary logs").await.unwrap();
        insert(&mut bench, 5..8).await;
        all.extend(bench.changes(&mut follower).await);
        insert(&mut bench, 8..10).await;
        has(&second, 10).await;
        bench.server.kill9().await.unwrap();
        promote(&second).await;
        second.exec("d", "insert into t values (10, 'b')").await.unwrap();
        bench.dialer = dialer(&second, bench.migration);
        bench.server = second;
        let before = follower.at.clone();
        let mut follower = bench.follow(&before).await;
        assert_eq!(follower.at, before);
        let more = bench.changes_of(&mut follower, 1).await;
        assert_eq!(follower.at.lineage, 1, "{release:?}");
        assert!(follower.at > before);
        all.extend(more);
        assert_eq!(inserted(&all), (0..11).map(|i| vec![i]).collect::<Vec<_>>(), "{release:?}");
        // And on from there, as from any place.
        bench.server.exec("d", "insert into t values (11, 'b')").await.unwrap();
        let mut follower = bench.follow(&follower.at).await;
        assert_eq!(inserted(&bench.changes_of(&mut follower, 1).await), [vec![11]], "{release:?}");
    }
}

/// Opened again at each batch's end while what is known has still to be passed over.
#[tokio::test]
async fn taken_over_while_passing_over() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let second = replica(&bench.server).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        insert(&mut bench, 0..30).await;
        bench.changes(&mut follower).await;
        insert(&mut bench, 30..32).await;
        has(&second, 32).await;
        bench.server.kill9().await.unwrap();
        promote(&second).await;
        bench.dialer = dialer(&second, bench.migration);
        bench.server = second;
        bench.batch_bytes = 50;
        let mark = Position { lineage: 1, ..bench.here().await };
        let (mut at, mut all) = (follower.at.clone(), Vec::new());
        while at < mark {
            let mut follower = bench.follow(&at).await;
            all.extend(follower.once().await.unwrap());
            at = follower.at.clone();
        }
        assert_eq!(inserted(&all), [vec![30], vec![31]], "{release:?}");
    }
}

#[tokio::test]
async fn servers_that_are_not_successors() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let second = replica(&bench.server).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        insert(&mut bench, 0..3).await;
        has(&second, 3).await;
        promote(&second).await;
        // Read here, unknown there; there is another one instead.
        insert(&mut bench, 3..4).await;
        bench.changes(&mut follower).await;
        second.exec("d", "insert into t values (99, 'b')").await.unwrap();
        let third = MySql::start(release, &[]).await.unwrap();
        for other in [&second, &third] {
            bench.dialer = dialer(other, bench.migration);
            let error = bench.open(&follower.at).await.err().unwrap();
            assert_eq!(
                (error.code.as_str(), error.retry),
                (codes::POSITION_LOST, Retry::Never),
                "{release:?}: {error}"
            );
            assert!(error.message.contains("another server"), "{error}");
        }
    }
}

/// Prepared on one server, committed on its successor.
#[tokio::test]
async fn prepared_transactions_move_along() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let second = replica(&bench.server).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench
            .server
            .exec("d", "xa start 'x'; insert into t values (100, 'a'); xa end 'x'; xa prepare 'x'")
            .await
            .unwrap();
        insert(&mut bench, 0..3).await;
        let mut all = bench.changes(&mut follower).await;
        has(&second, 3).await;
        second.exec("drover", "flush binary logs").await.unwrap();
        insert(&mut bench, 3..4).await;
        all.extend(bench.changes(&mut follower).await);
        has(&second, 4).await;
        bench.server.kill9().await.unwrap();
        promote(&second).await;
        second.exec("d", "xa commit 'x'; insert into t values (4, 'a')").await.unwrap();
        bench.dialer = dialer(&second, bench.migration);
        bench.server = second;
        let mut follower = bench.follow(&follower.at).await;
        all.extend(bench.changes_of(&mut follower, 1).await);
        assert_eq!(inserted(&all), [vec![0], vec![1], vec![2], vec![3], vec![100], vec![4]], "{release:?}");
    }
}

/// Ids with tags, and a server without ids.
#[tokio::test]
async fn ids_of_other_kinds() {
    let mut bench = Bench::new(Release::MySql9, TABLE, &[]).await;
    let second = replica(&bench.server).await;
    let from = bench.here().await;
    let mut follower = bench.follow(&from).await;
    bench.run("set gtid_next = 'AUTOMATIC:blue'").await;
    insert(&mut bench, 0..2).await;
    bench.run("set gtid_next = 'AUTOMATIC:green'").await;
    insert(&mut bench, 2..4).await;
    bench.run("set gtid_next = 'AUTOMATIC'").await;
    insert(&mut bench, 4..5).await;
    let mut all = bench.changes(&mut follower).await;
    let resume = drover_connectors_mysql::position::resume_of(&follower.at).unwrap();
    let executed = bench.server.query_one_text("d", "select @@gtid_executed").await.unwrap().unwrap();
    assert_eq!(resume.gtids.unwrap(), executed.replace('\n', ""));
    bench.run("set gtid_next = 'AUTOMATIC:blue'").await;
    insert(&mut bench, 5..7).await;
    has(&second, 7).await;
    promote(&second).await;
    bench.dialer = dialer(&second, bench.migration);
    bench.server = second;
    let mut follower = bench.follow(&follower.at).await;
    all.extend(bench.changes_of(&mut follower, 1).await);
    assert_eq!(inserted(&all), (0..7).map(|i| vec![i]).collect::<Vec<_>>());

    let settings = [("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF")];
    let mut bench = Bench::new(Release::MySql9, TABLE, &settings).await;
    let from = bench.here().await;
    insert(&mut bench, 0..2).await;
    let mut follower = bench.follow(&from).await;
    assert_eq!(inserted(&bench.changes(&mut follower).await), [vec![0], vec![1]]);
}

/// Who takes the stream over ends the former holder's session at the server.
#[tokio::test]
async fn one_holder_at_a_time() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let from = bench.here().await;
        let mut former = bench.follow(&from).await;
        insert(&mut bench, 0..2).await;
        assert_eq!(bench.changes(&mut former).await.len(), 2);
        let mut holder = bench.follow(&former.at).await;
        insert(&mut bench, 2..4).await;
        let (_, error) = bench.end(&mut former).await;
        assert_eq!(error.code, codes::CONNECTION, "{release:?}: {error}");
        assert_ne!(error.retry, Retry::Never, "{error}");
        assert_eq!(bench.changes(&mut holder).await.len(), 2, "{release:?}");
    }
}

/// The server waits while nobody reads, however short its own patience is.
#[tokio::test]
async fn a_reader_that_stands_still() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, "create table t (id int primary key, a longblob)", &[]).await;
        bench.batch_bytes = 1 << 20;
        bench.run("set global net_write_timeout = 1").await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        for i in 0..60 {
            bench.run(&format!("insert into t values ({i}, repeat('x', 1000000))")).await;
        }
        // Far more than the buffers between hold; several times as long as its patience.
        for _ in 0..4 {
            another_second(&bench.server).await;
            assert_eq!(dumps(&bench.server).await.len(), 1, "{release:?}");
        }
        assert_eq!(inserted(&bench.changes(&mut follower).await).len(), 60, "{release:?}");
    }
}

/// Numbers of the connections that are sent the log.
async fn dumps(server: &MySql) -> Vec<u64> {
    server.sessions(|_, command| command.starts_with("Binlog Dump")).await.unwrap()
}

/// As while the log is full: the server waits, far beyond its own patience with clients. Should it have hung up after all, the stream is opened anew where
/// it was, and nothing is missing.
#[tokio::test]
async fn nobody_reads_for_long() {
    for release in [Release::MySql9, Release::MariaDb11] {
        let table = "create table t (id int primary key, a mediumtext)";
        let mut bench = Bench::new(release, table, &[("net-write-timeout", "1")]).await;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        // More than sockets hold.
        let write = async |bench: &mut Bench, ids: std::ops::Range<u64>| {
            for i in ids {
                bench.run(&format!("insert into t values ({i}, repeat('x', 1000000))")).await;
            }
        };
        write(&mut bench, 0..30).await;
        for _ in 0..3 {
            another_second(&bench.server).await;
        }
        assert_eq!(dumps(&bench.server).await.len(), 1, "{release:?} hung up");
        assert_eq!(inserted(&bench.changes(&mut follower).await).concat(), (0..30).collect::<Vec<_>>());
        write(&mut bench, 30..60).await;
        for id in dumps(&bench.server).await {
            bench.run(&format!("kill {id}")).await;
        }
        let (mut seen, error) = bench.end(&mut follower).await;
        assert_eq!((error.code.as_str(), error.retry), (codes::CONNECTION, Retry::Connection), "{release:?}: {error}");
        let mut again = bench.follow(&follower.at).await;
        seen.extend(bench.changes(&mut again).await);
        assert_eq!(inserted(&seen).concat(), (30..60).collect::<Vec<_>>(), "{release:?}");
    }
}
