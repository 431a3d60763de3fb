//! Commits of PostgreSQL that are more than one moment: in the log before anybody sees them (they wait for a standby), or promised before they are made (prepared). Each row
//! arrives once, whatever the snapshot saw of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use drover_tests::{Form, Pair, Server, Trial, scene, wait};

/// Writers, each in a session of its own.
const WRITERS: usize = 6;

async fn set(source: &Server, setting: &str, value: &str) -> Result<()> {
    let mut admin = source.admin().await?;
    admin.run(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await?;
    admin.run("SELECT pg_reload_conf()").await
}

/// One writer: a row in a table with a key and two in one without, until it shall end. Its commits wait for a standby where one is asked for.
async fn writes(url: String, number: usize, ends: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Result<()> {
    let mut session = drover_tests::Session::connect(&url).await?;
    session.run("SET synchronous_commit = on").await?;
    for n in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let statements = format!(
            "BEGIN; INSERT INTO keyed VALUES ({number}, {n}); INSERT INTO bare VALUES ({number}), ({number}); COMMIT"
        );
        session.run(&statements).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// While commits stand in the log that no snapshot of a session shows, slot and snapshot are made: the rows are in one of them, and not in both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_for_a_standby_come_once() -> Result<()> {
    // With an identity from the start: to give it one, drover would have to wait for the commits.
    let tables = "CREATE TABLE keyed (writer int, n int, PRIMARY KEY (writer, n)); CREATE TABLE bare (writer int);
        ALTER TABLE bare REPLICA IDENTITY FULL";
    let mut trial = Trial::new(Pair::POSTGRES, Form::InProcess, tables, "", "").await?;
    // Nobody else's commits wait.
    set(&trial.source, "synchronous_commit", "local").await?;
    let (ends, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let url = trial.source.url(trial.source.engine().database());
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(writes(url.clone(), n, ends.clone(), done.clone()))).collect();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let stalls = async |source: &Server| -> Result<()> {
        set(source, "synchronous_standby_names", "nobody").await?;
        wait::until("all commits wait", scene::SOON, async || {
            let now = source.admin().await?.number(waiting).await?;
            if now == WRITERS as i64 { Ok(Some(())) } else { Err(anyhow!("{now} do")) }
        })
        .await
    };
    let goes_on = async |source: &Server| -> Result<()> {
        let before = done.load(Ordering::Relaxed);
        set(source, "synchronous_standby_names", "").await?;
        wait::until("commits go on", scene::SOON, async || {
            Ok((done.load(Ordering::Relaxed) >= before + 3 * WRITERS as u64).then_some(()))
        })
        .await
    };
    // The slot is asked for in the midst of it, and waits for what is under way.
    stalls(&trial.source).await?;
    trial.drover.start().await?;
    wait::until("the slot is being made", scene::SOON, async || {
        // Not a session that asked this before and is about to go.
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND query ILIKE 'CREATE_REPLICATION_SLOT%'";
        Ok((trial.source.admin().await?.number(sql).await? > 0).then_some(()))
    })
    .await?;
    let seen = trial.source.admin().await?.number(waiting).await?;
    ensure!(seen == WRITERS as i64, "no commit waited while the slot was made: {seen}");
    // From there on in turns, until the copy is done.
    let mut rounds = 0;
    loop {
        goes_on(&trial.source).await?;
        rounds += 1;
        if rounds > 5 && trial.drover.log().contains("the destination is consistent") {
            break;
        }
        stalls(&trial.source).await?;
    }
    ends.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await?.context("a statement of the application failed")?;
    }
    trial.equal().await?;
    let (keyed, bare) =
        (trial.number("SELECT count(*) FROM keyed").await?, trial.number("SELECT count(*) FROM bare").await?);
    let all = i64::try_from(done.load(Ordering::Relaxed))?;
    ensure!((keyed, bare) == (all, 2 * all), "{keyed} and {bare} of {all} transactions");
    scene::validated(&trial.drover).await
}

/// What is prepared belongs to nobody until it is committed: then it comes, whatever became of drover meanwhile; what is rolled back never does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_come_when_they_are_committed() -> Result<()> {
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 10) i";
    let mut trial = Trial::new(Pair::POSTGRES, Form::InProcess, tables, "", "").await?;
    trial.source.admin().await?.run("ALTER SYSTEM SET max_prepared_transactions = 10").await?;
    trial.source.restart().await?;
    let mut trial = trial.begun().await?;
    for (name, statement) in [
        ("kept", "INSERT INTO t VALUES (20, 'prepared')"),
        ("gone", "INSERT INTO t VALUES (30, 'rolled back')"),
        ("late", "UPDATE t SET v = 'late' WHERE id = 1"),
    ] {
        trial.exec(&format!("BEGIN; {statement}; PREPARE TRANSACTION '{name}'")).await?;
    }
    trial.exec("INSERT INTO t VALUES (40, 'beside them')").await?;
    wait::until("what is committed arrives", scene::SOON, async || {
        Ok((trial.number("SELECT count(*) FROM t WHERE id = 40").await? == 1).then_some(()))
    })
    .await?;
    ensure!(trial.number("SELECT count(*) FROM t WHERE id IN (20, 30) OR v = 'late'").await? == 0, "it came too early");
    trial.drover.kill9_all()?;
    trial.exec("COMMIT PREPARED 'kept'").await?;
    trial.source.restart().await?;
    trial.drover.start().await?;
    trial.exec("ROLLBACK PREPARED 'gone'").await?;
    trial.exec("COMMIT PREPARED 'late'").await?;
    trial.equal().await?;
    let there = trial.number("SELECT count(*) FROM t WHERE id = 20 OR v = 'late'").await?;
    ensure!((there, trial.number("SELECT count(*) FROM t").await?) == (2, 12), "{there} of 2 are there");
    scene::validated(&trial.drover).await
}
