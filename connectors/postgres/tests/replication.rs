//! The decoder and the replication session against a real server, and against streams recorded from one.
//!
//! `RECORD=1 cargo test -p drover-connectors-postgres --test replication` writes the recordings in `testdata/` anew.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use drover_connectors_postgres::lsn::Lsn;
use drover_connectors_postgres::pgoutput::{Decoder, Message};
use drover_connectors_postgres::replication::{Endpoint, Error, Frame, ReplicationSession, StreamOptions};
use support::{Postgres, Teller, first_number, record, recorded};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(60);

async fn session(server: &Postgres) -> Result<ReplicationSession> {
    let endpoint = Endpoint::from_config(&server.url().parse()?)?;
    Ok(ReplicationSession::connect(&endpoint, None::<NoTls>).await?)
}

/// A server with tables, a publication of them and a stream that has begun.
struct Bench {
    server: Postgres,
    sql: Client,
    session: ReplicationSession,
}

impl Bench {
    async fn new(ddl: &str, options: StreamOptions) -> Result<Bench> {
        let server = Postgres::start(&["logical_decoding_work_mem=64kB"]).await?;
        let sql = server.connect().await?;
        sql.batch_execute(ddl).await?;
        sql.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await?;
        let mut session = session(&server).await?;
        let slot = session.create_slot("s", false).await?;
        session.start("s", slot.consistent_point, &["p"], options).await?;
        Ok(Bench { server, sql, session })
    }

    /// All messages up to a mark that is written now.
    async fn messages(&mut self) -> Result<Vec<Vec<u8>>> {
        self.sql.batch_execute("SELECT pg_logical_emit_message(false, 'mark', '')").await?;
        let (mut messages, mut decoder) = (Vec::new(), Decoder::new());
        loop {
            let block = timeout(PATIENCE, self.session.next_block()).await??;
            for frame in block.frames() {
                let Frame::Data { bytes, .. } = frame else { continue };
                if let Message::Message { prefix: "mark", .. } = decoder.decode(bytes)? {
                    return Ok(messages);
                }
                messages.push(bytes.to_vec());
            }
        }
    }
}

fn told(messages: &[Vec<u8>]) -> Result<Vec<String>> {
    let (mut decoder, mut teller) = (Decoder::new(), Teller::default());
    let mut lines = Vec::new();
    for message in messages {
        lines.extend(teller.tell(&decoder.decode(message)?));
    }
    Ok(lines)
}

/// Compares the live stream and the recorded one with what they have to say.
async fn check(name: &str, ddl: &str, statements: &[&str], expected: &[&str]) -> Result<()> {
    let mut bench = Bench::new(ddl, StreamOptions::default()).await?;
    for statement in statements {
        bench.sql.batch_execute(statement).await.with_context(|| (*statement).to_owned())?;
    }
    let live = bench.messages().await?;
    assert_eq!(told(&live)?, expected, "live");
    if std::env::var_os("RECORD").is_some() {
        record(name, &live)?;
    }
    assert_eq!(told(&recorded(name)?)?, expected, "recorded");
    Ok(())
}

#[tokio::test]
async fn rows_keys_and_truncate() -> Result<()> {
    check(
        "rows",
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE TABLE a (id int PRIMARY KEY, name text, mood mood);
         CREATE TABLE b (id serial PRIMARY KEY, a int REFERENCES a)",
        &[
            "INSERT INTO a VALUES (1, 'one', 'glad'), (2, NULL, NULL)",
            "UPDATE a SET name = 'eins' WHERE id = 1",
            "UPDATE a SET id = 3 WHERE id = 2",
            "DELETE FROM a WHERE id = 1",
            "SELECT pg_logical_emit_message(true, 'drover', 'hello')",
            "INSERT INTO b (a) VALUES (3)",
            "TRUNCATE a, b",
            "TRUNCATE a RESTART IDENTITY CASCADE",
        ],
        &[
            "begin",
            "type public.mood",
            "relation public.a Default (*id:23, name:25, mood:own)",
            "insert a (1, one, glad)",
            "insert a (2, null, null)",
            "commit",
            "begin",
            "update a to (1, eins, glad)",
            "commit",
            "begin",
            "update a key (2, null, null) to (3, null, null)",
            "commit",
            "begin",
            "delete a key (1, null, null)",
            "commit",
            "begin",
            "message true drover hello",
            "commit",
            "begin",
            "relation public.b Default (*id:23, a:23)",
            "insert b (1, 3)",
            "commit",
            "begin",
            // Emptied tables have new files, so their shapes are sent again.
            "type public.mood",
            "relation public.a Default (*id:23, name:25, mood:own)",
            "relation public.b Default (*id:23, a:23)",
            "truncate a, b cascade=false restart=false",
            "commit",
            "begin",
            "type public.mood",
            "relation public.a Default (*id:23, name:25, mood:own)",
            "relation public.b Default (*id:23, a:23)",
            "truncate a, b cascade=true restart=true",
            "commit",
        ],
    )
    .await
}

#[tokio::test]
async fn full_identity_and_large_values() -> Result<()> {
    check(
        "large",
        "CREATE TABLE f (id int, v text);
         ALTER TABLE f REPLICA IDENTITY FULL;
         CREATE TABLE l (id int PRIMARY KEY, n int, big text);
         ALTER TABLE l ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE u (a int NOT NULL, b text);
         CREATE UNIQUE INDEX ua ON u (a);
         ALTER TABLE u REPLICA IDENTITY USING INDEX ua",
        &[
            "INSERT INTO f VALUES (1, 'x')",
            "UPDATE f SET v = 'y'",
            "DELETE FROM f",
            "INSERT INTO l VALUES (1, 1, repeat('x', 9000))",
            "UPDATE l SET n = 2",
            "UPDATE l SET big = repeat('y', 9001)",
            "UPDATE l SET id = 2",
            "INSERT INTO u VALUES (1, 'q')",
            "DELETE FROM u",
        ],
        &[
            "begin",
            "relation public.f Full (*id:23, *v:25)",
            "insert f (1, x)",
            "commit",
            "begin",
            "update f full (1, x) to (1, y)",
            "commit",
            "begin",
            "delete f full (1, y)",
            "commit",
            "begin",
            "relation public.l Default (*id:23, n:23, big:25)",
            "insert l (1, 1, <9000 bytes>)",
            "commit",
            "begin",
            "update l to (1, 2, unchanged)",
            "commit",
            "begin",
            "update l to (1, 2, <9001 bytes>)",
            "commit",
            "begin",
            "update l key (1, null, null) to (2, 2, unchanged)",
            "commit",
            "begin",
            "relation public.u Index (*a:23, b:25)",
            "insert u (1, q)",
            "commit",
            "begin",
            "delete u key (1, null)",
            "commit",
        ],
    )
    .await
}

#[tokio::test]
async fn rolled_back_work_does_not_appear() -> Result<()> {
    check(
        "rollback",
        "CREATE TABLE a (id int PRIMARY KEY)",
        &[
            "BEGIN; INSERT INTO a VALUES (1); ROLLBACK",
            "BEGIN; INSERT INTO a VALUES (2); SAVEPOINT s; INSERT INTO a VALUES (3); ROLLBACK TO s;
             INSERT INTO a VALUES (4); SAVEPOINT t; INSERT INTO a VALUES (5); RELEASE t; COMMIT",
        ],
        &["begin", "relation public.a Default (*id:23)", "insert a (2)", "insert a (4)", "insert a (5)", "commit"],
    )
    .await
}

/// What became of the transactions of a stream, by the rules of protocol 2.
#[derive(Debug, Default)]
struct Outcome {
    committed: Vec<BTreeSet<i64>>,
    parts: usize,
    switches: usize,
    whole_aborts: usize,
    part_aborts: usize,
}

fn outcome(messages: &[Vec<u8>]) -> Result<Outcome> {
    let mut decoder = Decoder::new();
    let mut open: BTreeMap<u32, Vec<(u32, i64)>> = BTreeMap::new();
    let (mut current, mut last, mut out) = (None, None, Outcome::default());
    for bytes in messages {
        match decoder.decode(bytes)? {
            Message::StreamStart { xid, first } => {
                anyhow::ensure!(first != open.contains_key(&xid), "first part of {xid}: {first}");
                open.entry(xid).or_default();
                out.parts += 1;
                out.switches += usize::from(last.is_some_and(|last| last != xid));
                (current, last) = (Some(xid), Some(xid));
            }
            Message::StreamStop => current = None,
            Message::Insert { xid: Some(sub), new, .. } => {
                let rows = open.get_mut(&current.context("an insert with an xid outside of a block")?);
                rows.context("unknown")?.push((sub, first_number(&new)?));
            }
            Message::StreamCommit { xid, commit_lsn, end_lsn, .. } => {
                anyhow::ensure!(commit_lsn < end_lsn);
                out.committed.push(open.remove(&xid).context("unknown")?.into_iter().map(|(_, id)| id).collect());
            }
            Message::StreamAbort { xid, subxid } if xid == subxid => {
                open.remove(&xid).context("unknown")?;
                out.whole_aborts += 1;
            }
            Message::StreamAbort { xid, subxid } => {
                open.get_mut(&xid).context("unknown")?.retain(|(sub, _)| *sub != subxid);
                out.part_aborts += 1;
            }
            Message::Relation(r) => anyhow::ensure!(r.xid.is_some() == current.is_some()),
            Message::Begin { .. } | Message::Commit { .. } => {}
            other => bail!("unexpected {other:?}"),
        }
    }
    anyhow::ensure!(open.is_empty(), "unfinished: {:?}", open.keys());
    Ok(out)
}

fn ids(first: i64, last: i64) -> BTreeSet<i64> {
    (first..=last).collect()
}

fn insert(first: i64, last: i64) -> String {
    format!("INSERT INTO a SELECT i, repeat('x', 50) FROM generate_series({first}, {last}) i")
}

const STREAMED: &str = "CREATE TABLE a (id int PRIMARY KEY, v text)";

#[tokio::test]
async fn a_streamed_transaction_and_a_savepoint_rolled_back() -> Result<()> {
    let mut bench = Bench::new(STREAMED, StreamOptions::default()).await?;
    bench.sql.batch_execute(&format!("BEGIN; {}; SAVEPOINT s; {}", insert(1, 600), insert(2001, 2600))).await?;
    bench.sql.batch_execute(&format!("ROLLBACK TO s; {}; COMMIT", insert(4001, 4300))).await?;
    let live = bench.messages().await?;
    let check = |outcome: Outcome| {
        let expected = &ids(1, 600) | &ids(4001, 4300);
        assert_eq!(outcome.committed, [expected]);
        assert!(outcome.parts > 1 && outcome.part_aborts == 1, "{} {}", outcome.parts, outcome.part_aborts);
    };
    check(outcome(&live)?);
    if std::env::var_os("RECORD").is_some() {
        record("streamed", &live)?;
    }
    check(outcome(&recorded("streamed")?)?);
    Ok(())
}

#[tokio::test]
async fn a_streamed_transaction_rolled_back() -> Result<()> {
    let mut bench = Bench::new(STREAMED, StreamOptions::default()).await?;
    bench.sql.batch_execute(&format!("BEGIN; {}", insert(1, 3000))).await?;
    // The server streams what it has read: the abort has to come when a part is out, else nothing is sent at all.
    let mut first = Vec::new();
    let mut decoder = Decoder::new();
    bench
        .sql
        .batch_execute(&format!("{}; SELECT pg_logical_emit_message(false, 'mark', '')", insert(3001, 4000)))
        .await?;
    'parts: loop {
        let block = timeout(PATIENCE, bench.session.next_block()).await??;
        for frame in block.frames() {
            let Frame::Data { bytes, .. } = frame else { continue };
            if let Message::Message { prefix: "mark", .. } = decoder.decode(bytes)? {
                break 'parts;
            }
            first.push(bytes.to_vec());
        }
    }
    bench.sql.batch_execute("ROLLBACK").await?;
    first.extend(bench.messages().await?);
    let outcome = outcome(&first)?;
    assert!(outcome.committed.is_empty());
    assert!(outcome.parts > 0 && outcome.whole_aborts == 1, "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn two_streamed_transactions_interleaved() -> Result<()> {
    let mut bench = Bench::new(STREAMED, StreamOptions::default()).await?;
    let other = bench.server.connect().await?;
    bench.sql.batch_execute(&format!("BEGIN; {}", insert(1, 1000))).await?;
    other.batch_execute(&format!("BEGIN; {}", insert(10_001, 11_000))).await?;
    bench.sql.batch_execute(&insert(1001, 2000)).await?;
    other.batch_execute(&format!("{}; COMMIT", insert(11_001, 12_000))).await?;
    bench.sql.batch_execute(&format!("{}; COMMIT", insert(2001, 3000))).await?;
    let live = bench.messages().await?;
    let outcome = outcome(&live)?;
    assert_eq!(outcome.committed, [ids(10_001, 12_000), ids(1, 3000)]);
    assert!(outcome.switches >= 2, "{} switches in {} parts", outcome.switches, outcome.parts);
    Ok(())
}

#[tokio::test]
async fn protocol_one_and_binary_values() -> Result<()> {
    let mut bench = Bench::new(STREAMED, StreamOptions { streaming: false, messages: true, binary: true }).await?;
    bench.sql.batch_execute(&insert(1, 3000)).await?;
    let lines = told(&bench.messages().await?)?;
    assert_eq!(lines.len(), 3 + 3000);
    assert!(lines[2].starts_with("insert a ([0, 0, 0, 1], [120, 120"), "{}", lines[2]);
    Ok(())
}

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(sql: &Client, query: &str) -> Result<T> {
    Ok(sql.query_one(query, &[]).await?.try_get(0)?)
}

#[tokio::test]
async fn only_what_was_confirmed_counts_as_flushed() -> Result<()> {
    let mut bench = Bench::new(STREAMED, StreamOptions::default()).await?;
    bench.session.set_times(Duration::from_millis(100), PATIENCE);
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 's'";
    let before: String = one(&bench.sql, confirmed).await?;
    let watcher = bench.server.connect().await?;
    bench.sql.batch_execute(&insert(1, 3000)).await?;
    let messages = bench.messages().await?;
    let end = match Decoder::new().decode(messages.last().context("nothing")?)? {
        Message::StreamCommit { end_lsn, .. } | Message::Commit { end_lsn, .. } => end_lsn,
        other => bail!("{other:?}"),
    };
    // Statuses go out by themselves while nothing arrives; wait until the server has seen one that tells of the commit as
    // written, and look what it believes flushed.
    let seen = format!("SELECT (write_lsn >= '{end}' AND flush_lsn IS NULL) IS TRUE FROM pg_stat_replication");
    let wait = async {
        while !one::<bool>(&watcher, &seen).await? {
            let _ = timeout(Duration::from_millis(20), bench.session.next_block()).await.map(|block| block.map(drop));
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, wait).await??;
    assert_eq!(one::<String>(&watcher, confirmed).await?, before);

    let beyond = Lsn(bench.session.received().0 + 1);
    assert!(matches!(bench.session.confirm(beyond, false).await, Err(Error::ConfirmedTooFar { .. })));
    bench.session.confirm(end, true).await?;
    bench.session.confirm(Lsn(1), false).await?;
    let moved = format!("SELECT confirmed_flush_lsn = '{end}' FROM pg_replication_slots WHERE slot_name = 's'");
    // Kept alive without reading, as behind a full log.
    let wait = async {
        while !one::<bool>(&watcher, &moved).await? {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, bench.session.alive_while(wait)).await???;

    // A second reader resumes behind what was confirmed, and sees nothing twice.
    bench.session.stop().await?;
    let again = bench.session.start("s", Lsn::ZERO, &["p"], StreamOptions::default()).await;
    assert!(matches!(again, Err(Error::State(_))));
    bench.session = session(&bench.server).await?;
    bench.session.start("s", Lsn::ZERO, &["p"], StreamOptions::default()).await?;
    assert_eq!(told(&bench.messages().await?)?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn who_reads_nothing_for_long_stays_connected_by_signs_of_life() -> Result<()> {
    let server = Postgres::start(&["wal_sender_timeout=2s"]).await?;
    let sql = server.connect().await?;
    sql.batch_execute("CREATE TABLE a (id int PRIMARY KEY, t text); CREATE PUBLICATION p FOR TABLE a").await?;
    let mut session = session(&server).await?;
    // It must not take its own rest for the server's silence.
    session.set_times(Duration::from_millis(50), Duration::from_secs(1));
    let slot = session.create_slot("s", true).await?;
    session.start("s", slot.consistent_point, &["p"], StreamOptions::default()).await?;
    // More than the socket takes: the server waits in the middle of a transaction, for longer than its patience.
    let insert = tokio::spawn(async move {
        sql.batch_execute("INSERT INTO a SELECT i, repeat('x', 1000) FROM generate_series(1, 30000) i").await
    });
    let begun = std::time::Instant::now();
    let mut sign = tokio::time::interval(Duration::from_millis(100));
    while !insert.is_finished() || begun.elapsed() < Duration::from_secs(6) {
        sign.tick().await;
        session.alive().await?;
    }
    insert.await??;
    let mut rows = 0;
    while rows < 30_000 {
        let block = timeout(PATIENCE, session.next_block()).await??;
        rows += block.frames().filter(|f| matches!(f, Frame::Data { bytes, .. } if bytes[0] == b'I')).count();
    }
    // Nothing more comes; that is no reason to hang up.
    let quiet = timeout(Duration::from_millis(300), session.next_block()).await;
    assert!(quiet.is_err() || quiet.is_ok_and(|b| b.is_ok()));
    Ok(())
}

#[tokio::test]
async fn an_idle_stream_outlives_the_servers_patience() -> Result<()> {
    let server = Postgres::start(&["wal_sender_timeout=600ms"]).await?;
    let sql = server.connect().await?;
    sql.batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE a").await?;
    let mut session = session(&server).await?;
    session.set_times(Duration::from_secs(3600), PATIENCE);
    let slot = session.create_slot("s", true).await?;
    session.start("s", slot.consistent_point, &["p"], StreamOptions::default()).await?;
    // Without answers the server would hang up before it has asked three times.
    let mut asked = 0;
    while asked < 4 {
        let block = timeout(PATIENCE, session.next_block()).await??;
        asked += block.frames().filter(|f| matches!(f, Frame::Keepalive { reply_requested: true, .. })).count();
    }
    assert_eq!(session.confirmed(), Lsn::ZERO);
    Ok(())
}

#[tokio::test]
async fn slots_snapshots_and_errors() -> Result<()> {
    let server = Postgres::start(&[]).await?;
    let sql = server.connect().await?;
    sql.batch_execute("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await?;
    let mut session = session(&server).await?;
    assert!((150_000..160_000).contains(&session.server_version()));
    let identity = session.identify().await?;
    assert_eq!(
        identity.system_identifier,
        one::<String>(&sql, "SELECT system_identifier::text FROM pg_control_system()").await?
    );
    assert_eq!((identity.timeline, identity.dbname.as_str()), (1, "drover"));
    let slot = session.create_slot("s", false).await?;
    assert!(slot.consistent_point >= identity.xlogpos);

    sql.batch_execute("INSERT INTO a VALUES (2)").await?;
    sql.batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'", slot.snapshot))
        .await?;
    assert_eq!(one::<i64>(&sql, "SELECT count(*) FROM a").await?, 1);
    sql.batch_execute("COMMIT").await?;

    let error = session.create_slot("s", false).await.expect_err("the name is taken");
    assert_eq!(error.sqlstate(), Some("42710"), "{error}");
    let error = session.start("nowhere", Lsn::ZERO, &["p"], StreamOptions::default()).await.expect_err("no slot");
    assert_eq!(error.sqlstate(), Some("42704"), "{error}");
    assert!(matches!(session.next_block().await, Err(Error::State(_))));
    session.drop_slot("s", true).await?;
    assert_eq!(one::<i64>(&sql, "SELECT count(*) FROM pg_replication_slots").await?, 0);
    Ok(())
}

#[tokio::test]
async fn passwords_are_proven_by_scram_and_by_md5() -> Result<()> {
    let server = Postgres::start(&[]).await?;
    let sql = server.connect().await?;
    sql.batch_execute(
        "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'geheim';
         SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'geheim'",
    )
    .await?;
    let hba =
        "host all drover all trust\nhost all,replication scram all scram-sha-256\nhost all,replication md5 all md5\n";
    std::fs::write(server.folder().join("data/pg_hba.conf"), hba)?;
    sql.batch_execute("SELECT pg_reload_conf()").await?;
    let mut endpoint = Endpoint::from_config(&server.url().parse()?)?;
    for user in ["scram", "md5"] {
        user.clone_into(&mut endpoint.user);
        // The new rules come into force a little later.
        let rejected = async {
            loop {
                endpoint.password = Some(b"wrong".to_vec());
                if let Err(error) = ReplicationSession::connect(&endpoint, None::<NoTls>).await {
                    return error;
                }
            }
        };
        let error = timeout(PATIENCE, rejected).await?;
        assert_eq!(error.sqlstate(), Some("28P01"), "{user}: {error}");
        endpoint.password = Some(b"geheim".to_vec());
        let mut session = ReplicationSession::connect(&endpoint, None::<NoTls>).await?;
        assert_eq!(session.identify().await?.dbname, "drover");
    }
    endpoint.ssl_mode = tokio_postgres::config::SslMode::Require;
    assert!(matches!(ReplicationSession::connect(&endpoint, None::<NoTls>).await, Err(Error::Tls(_))));
    Ok(())
}
