//! The harness itself: what all other tests stand on must be able to fail.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::{Kafka, PgOptions, Postgres, Process, bulk, process, wait};

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
