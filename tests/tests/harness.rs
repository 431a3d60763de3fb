//! The harness itself: what all other tests stand on must be able to fail.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::{Kafka, PgOptions, Postgres, Process, bulk, compare, process, wait, workload};

const SOON: Duration = Duration::from_secs(60);

async fn lives_through_a_crash(version: u32) -> Result<()> {
    let mut server = Postgres::start(PgOptions { version, settings: &[("work_mem", "5MB")] }).await?;
    let number = server.query_one_text("drover", "SHOW server_version_num").await?.context("a version")?;
    ensure!(number.parse::<u32>()? / 10_000 == version, "{number}");
    ensure!(server.query_one_text("drover", "SHOW work_mem").await?.as_deref() == Some("5MB"));
    ensure!(server.query_one_text("drover", "SHOW wal_level").await?.as_deref() == Some("logical"));
    server.exec("drover", "CREATE TABLE t (id int); INSERT INTO t VALUES (7)").await?;
    let pids = server.pids()?;
    ensure!(pids.len() > 3, "processes: {pids:?}");
    server.kill9().await?;
    ensure!(server.connect("drover").await.is_err(), "it answers after SIGKILL");
    ensure!(pids.iter().all(|pid| !process::alive(*pid)));
    server.restart().await?;
    ensure!(server.query_one_text("drover", "SELECT id FROM t").await?.as_deref() == Some("7"));
    server.restart().await?;
    ensure!(server.query_one_text("drover", "SELECT id FROM t").await?.as_deref() == Some("7"));
    ensure!(server.cpu_seconds()? > 0.0);
    let pid = server.pid()?;
    drop(server);
    ensure!(!process::alive(pid), "it lives on after drop");
    Ok(())
}

#[tokio::test]
async fn postgres_15_lives_through_a_crash() -> Result<()> {
    lives_through_a_crash(15).await
}

#[tokio::test]
async fn postgres_17_lives_through_a_crash() -> Result<()> {
    lives_through_a_crash(17).await
}

#[tokio::test]
async fn servers_have_identities_of_their_own() -> Result<()> {
    let (one, two) = (Postgres::start_default().await?, Postgres::start_default().await?);
    let sql = "SELECT system_identifier FROM pg_control_system()";
    ensure!(one.query_one_text("drover", sql).await? != two.query_one_text("drover", sql).await?);
    ensure!(one.port() != two.port());
    Ok(())
}

#[tokio::test]
async fn psql_stops_at_the_first_error() -> Result<()> {
    let server = Postgres::start_default().await?;
    let file = server.folder().join("x.sql");
    std::fs::write(&file, "CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n")?;
    server.create_database("other").await?;
    server.psql_file("other", &file).await?;
    ensure!(server.query_one_text("other", "SELECT count(*) FROM a").await?.as_deref() == Some("1"));
    ensure!(server.psql_file("other", &file).await.is_err(), "the table is there already");
    Ok(())
}

#[tokio::test]
async fn kafka_lives_through_a_crash() -> Result<()> {
    let mut kafka = Kafka::start().await?;
    let topics = "org.apache.kafka.tools.TopicCommand";
    kafka.tool(topics, &["--create", "--topic", "planted"]).await?;
    let pid = kafka.pid()?;
    kafka.kill9().await?;
    ensure!(!process::alive(pid));
    kafka.restart().await?;
    ensure!(kafka.tool(topics, &["--list"]).await?.lines().any(|topic| topic == "planted"));
    ensure!(kafka.process()?.peak_kib()? > 10_000);
    kafka.stop().await
}

#[tokio::test]
async fn compare_finds_planted_differences_in_each_direction() -> Result<()> {
    let (source, destination) =
        (Postgres::start_default().await?, Postgres::start(PgOptions { version: 17, settings: &[] }).await?);
    let create = "CREATE TABLE t (id int, v text); CREATE TABLE \"Odd Name\" (\"a b\" int);
        INSERT INTO t SELECT i, E'x\\ty\\\\\\n' || chr(1 + i % 300) FROM generate_series(1, 5000) i;
        INSERT INTO t SELECT 0, NULL FROM generate_series(1, 3);";
    source.exec("drover", create).await?;
    destination.exec("drover", create).await?;
    let (from, to) = (source.connect("drover").await?, destination.connect("drover").await?);
    compare::expect_equal(&from, &to).await?;
    // Another order of rows and of columns is no difference.
    destination.exec("drover", "DELETE FROM t WHERE id < 100; ALTER TABLE t RENAME v TO w; ALTER TABLE t ADD v text; UPDATE t SET v = w; ALTER TABLE t DROP w").await?;
    destination.exec("drover", "INSERT INTO t (v, id) SELECT E'x\\ty\\\\\\n' || chr(1 + i % 300), i FROM generate_series(1, 99) i; INSERT INTO t SELECT 0 FROM generate_series(1, 3)").await?;
    compare::expect_equal(&from, &to).await?;

    let counts = async |sql: &str, undo: &str| -> Result<(u64, u64)> {
        to.batch_execute(sql).await?;
        let found = compare::tables(&from, &to, &[("t", "public.t")]).await?;
        to.batch_execute(undo).await?;
        compare::expect_equal(&from, &to).await?;
        ensure!(found.len() == 1 && !found[0].examples.is_empty(), "{found:?}");
        Ok((found[0].missing, found[0].extra))
    };
    ensure!(counts("INSERT INTO t VALUES (6000, 'z')", "DELETE FROM t WHERE id = 6000").await? == (0, 1));
    ensure!(
        counts("INSERT INTO t VALUES (0, NULL)", "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE id = 0)")
            .await?
            == (0, 1)
    );
    ensure!(counts("UPDATE t SET id = -5 WHERE id = 5", "UPDATE t SET id = 5 WHERE id = -5").await? == (1, 1));
    ensure!(counts("UPDATE t SET v = '' WHERE id = 0", "UPDATE t SET v = NULL WHERE id = 0").await? == (3, 3));
    from.batch_execute("INSERT INTO t VALUES (6000, 'z')").await?;
    let found = compare::databases(&from, &to).await?;
    ensure!(found.len() == 1 && (found[0].missing, found[0].extra) == (1, 0), "{found:?}");

    to.batch_execute("DROP TABLE \"Odd Name\"; ALTER TABLE t RENAME v TO w").await?;
    let found = compare::databases(&from, &to).await?;
    ensure!(found.len() == 2, "{found:?}");
    ensure!(compare::expect_none(&found).is_err());
    Ok(())
}

#[tokio::test]
async fn workload_keeps_its_invariant_and_check_sees_it_broken() -> Result<()> {
    let server = Postgres::start_default().await?;
    let client = server.connect("drover").await?;
    let options = workload::Options { writers: 3, rows: 20, accounts: 50, ..workload::Options::default() };
    workload::create(&client, &options).await?;
    let mut tables = compare::user_tables(&client).await?;
    tables.iter_mut().for_each(|name| *name = name.trim_start_matches("public.").to_owned());
    ensure!(tables == workload::TABLES, "{tables:?}");
    for _ in 0..2 {
        let running = workload::start(&server.url("drover"), &options).await?;
        for _ in 0..5 {
            running.advance(60, SOON).await?;
            workload::check(&client, &options).await?;
        }
        ensure!(running.stop().await? >= 300);
    }
    // Every kind of step was taken, and was undone, too.
    let kinds = "SELECT count(DISTINCT word) FROM journal, regexp_split_to_table(what, ' ') word";
    ensure!(server.query_one_text("drover", kinds).await?.as_deref() == Some("15"), "kinds of steps");
    for (damage, remedy) in [
        (
            "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
            "UPDATE accounts SET balance = balance - 1 WHERE id = 1",
        ),
        ("UPDATE counter SET n = n + 1 WHERE writer = 1", "UPDATE counter SET n = n - 1 WHERE writer = 1"),
        ("UPDATE swap SET spot = 1 WHERE id = (SELECT min(id) FROM swap)", "UPDATE swap SET spot = -99 WHERE spot = 1"),
        ("DELETE FROM journal WHERE n = 5 AND writer = 0", "SELECT 1"),
    ] {
        client.batch_execute(damage).await?;
        ensure!(workload::check(&client, &options).await.is_err(), "not seen: {damage}");
        client.batch_execute(remedy).await?;
    }
    Ok(())
}

#[tokio::test]
async fn workload_reports_a_failing_statement() -> Result<()> {
    let server = Postgres::start_default().await?;
    let client = server.connect("drover").await?;
    let options = workload::Options { rate: Some(50.0), ..workload::Options::default() };
    workload::create(&client, &options).await?;
    let running = workload::start(&server.url("drover"), &options).await?;
    client.batch_execute("ALTER TABLE journal ADD CHECK (n < 3) NOT VALID").await?;
    ensure!(running.advance(100_000, SOON).await.is_err());
    ensure!(running.stop().await.is_err());
    Ok(())
}

#[tokio::test]
async fn bulk_tables_have_the_rows_and_the_width_asked_for() -> Result<()> {
    let server = Postgres::start_default().await?;
    let client = server.connect("drover").await?;
    bulk::create_li(&client, 20_000).await?;
    bulk::create_sb(&client, 20_000).await?;
    for (table, least, most) in [("li", 130.0, 170.0), ("sb", 185.0, 210.0)] {
        // The text form of a row as COPY writes it: values and tabs.
        let sql = format!("SELECT count(*), avg(length(t::text)) FROM {table} t");
        let row = client.query_one(&format!("SELECT c, a::float8 FROM ({sql}) s(c, a)"), &[]).await?;
        let (rows, width): (i64, f64) = (row.get(0), row.get(1));
        ensure!(rows == 20_000 && (least..most).contains(&width), "{table}: {rows} rows of {width} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn processes_can_be_frozen_ended_and_killed() -> Result<()> {
    let logs = tempfile::tempdir()?;
    let script = |text: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", text]);
        command
    };
    // TERM, not INT: a shell that was started in the background cannot trap INT.
    let mut counting =
        Process::spawn("counting", script("trap 'exit 4' TERM; while :; do echo tick; done"), logs.path())?;
    let lines = |process: &Process| process.stdout().lines().count();
    wait::until("ticks", SOON, || std::future::ready(Ok((lines(&counting) > 10).then_some(())))).await?;
    counting.freeze()?;
    let state = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") T ");
    wait::until("it stands still", SOON, || std::future::ready(Ok(state(counting.pid()).then_some(())))).await?;
    let frozen = lines(&counting);
    counting.thaw()?;
    wait::until("it goes on", SOON, || std::future::ready(Ok((lines(&counting) > frozen).then_some(())))).await?;
    ensure!(counting.cpu_seconds()? >= 0.0 && counting.rss_kib()? > 0);
    counting.terminate()?;
    counting.expect_exit(SOON, 4).await?;
    ensure!(counting.terminate().is_err(), "a signal to an ended process");

    let mut failing = Process::spawn("failing", script("echo it broke >&2; exit 3"), logs.path())?;
    let error = failing.expect_exit(SOON, 0).await.err().context("status 3 is not 0")?;
    ensure!(format!("{error:#}").contains("it broke"), "{error:#}");

    let mut lasting = Process::spawn("lasting", script("exec sleep 600"), logs.path())?;
    let error = lasting.wait_exit(Duration::from_millis(50)).await.err().context("it lasts")?;
    ensure!(format!("{error:#}").contains("end of lasting"), "{error:#}");
    lasting.kill9()?;
    ensure!(!lasting.running() && !process::alive(lasting.pid()));
    Ok(())
}

#[tokio::test]
async fn waiting_tells_what_was_seen_last() -> Result<()> {
    let error =
        wait::until_eq("three", Duration::from_millis(60), 3, || async { Ok(2) }).await.err().context("2 is not 3")?;
    ensure!(format!("{error}").contains("three") && format!("{error}").contains("2 in place of 3"), "{error}");
    wait::until_eq("three", SOON, 3, || async { Ok(3) }).await
}
