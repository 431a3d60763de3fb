//! A MySQL at which drover's account may lock nothing and whose transactions have no GTIDs: snapshots are taken between two marks in the log, while writers never
//! rest, so that rows of the copy lie somewhere between the two. Snapshots are lost meanwhile. Both sides are equal in the end, and nothing is left at the source.

use anyhow::{Context, Result, ensure};
use drover_tests::scene::{self, SMALL_CHUNKS};
use drover_tests::server::deadlock;
use drover_tests::{Deployment, Form, Pair, Role, Scene, deployment, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
const ACCOUNT: &str = "mover";

/// Writers of a table that is changed between any two marks: rows come, change, move to other keys and go.
struct Busy {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Busy {
    const TABLE: &str = "CREATE TABLE busy (id bigint PRIMARY KEY, n bigint NOT NULL, filler varchar(400));
        INSERT INTO busy WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 900) SELECT i, 0, repeat('x', 300) FROM s;";

    async fn start(scene: &Scene, writers: i64) -> Result<Busy> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..writers {
            let (mut session, stop) = (scene.from().await?, stop.clone());
            tasks.push(tokio::spawn(async move {
                let mut n = 0i64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    // Each writer has keys of its own.
                    let (mine, other) = (n % 400 * writers + writer, (n * 7 % 400 + 400) * writers + writer);
                    for sql in [
                        format!("INSERT INTO busy VALUES ({mine}, {n}, 'new') ON DUPLICATE KEY UPDATE n = {n}"),
                        format!("UPDATE busy SET id = {other}, n = n + 1 WHERE id = {mine} AND NOT EXISTS (SELECT 1 FROM (SELECT id FROM busy WHERE id = {other}) there)"),
                        format!("DELETE FROM busy WHERE id = {other} AND n % 3 = 0"),
                    ] {
                        // They may meet in the key's gaps.
                        while let Err(error) = session.execute(&sql).await {
                            ensure!(deadlock(&error), "{sql}: {error:#}");
                        }
                    }
                }
                Ok(())
            }));
        }
        Ok(Busy { stop, tasks })
    }

    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn between_marks(form: Form) -> Result<()> {
    let settings = [("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF")];
    let (source, destination) = scene::servers_with(Pair::MYSQL, &settings).await?;
    let mut plan = deployment::Plan::between(&source, &destination, scene::consent(Pair::MYSQL.source), "");
    plan.source.1 = plan.source.1.replace("//drover@", &format!("//{ACCOUNT}@"));
    let drover = Deployment::with(form, plan).await?;
    let drover =
        drover.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS).env("DROVER_LEASE_MS", "3000").env("DROVER_LULL_MS", "0");
    let sql = format!("{}{}", scene::many(Pair::MYSQL.source.dialect()), Busy::TABLE);
    let mut scene = Scene::on(source, destination, &sql, drover).await?;
    let account = format!(
        "CREATE USER {ACCOUNT}@'127.0.0.1'; GRANT SELECT, SHOW VIEW, TRIGGER ON app.* TO {ACCOUNT}@'127.0.0.1';
        GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {ACCOUNT}@'127.0.0.1';"
    );
    scene.source.admin().await?.run(&account).await?;

    // Before it may write marks it is refused, and told how it could be done.
    let file = scene.drover.file.display().to_string();
    let refused = scene.drover.call(&["check", &file]).await?.expect(3)?;
    ensure!(refused.stdout.contains("ON drover.* TO"), "{}", refused.stdout);
    let marks = format!("GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON drover.* TO {ACCOUNT}@'127.0.0.1';");
    scene.source.admin().await?.run(&marks).await?;
    let warned = scene.drover.call(&["check", &file]).await?.expect(0)?;
    ensure!(warned.stdout.contains("between two marks"), "{}", warned.stdout);

    scene.load().await?;
    let busy = Busy::start(&scene, 3).await?;
    scene.drover.start().await?;
    for round in 1..=3 {
        scene.wait_chunks(4 * round).await?;
        if form == Form::Cluster {
            scene.drover.kill9(Role::Extractor, 1)?;
            scene.drover.kill9(Role::Extractor, 0)?;
            scene.drover.start_role(Role::Extractor, &[]).await?;
            scene.drover.start_role(Role::Extractor, &[]).await?;
        } else {
            scene.drover.kill9_all()?;
            scene.drover.start().await?;
        }
    }
    scene.drover.wait_consistent().await?;
    let observer = scene.observe().await?;
    scene.advance(60).await?;
    let told = scene.drover.call(&["migration", "log", &file]).await?.expect(0)?.stdout;
    ensure!(told.contains(", or later up to"), "no snapshot was blurred: it shows nothing\n{told}");
    println!("{}", told.lines().filter(|l| l.contains("or later up to")).collect::<Vec<_>>().join("\n"));
    busy.stop().await.context("a statement of the application failed")?;
    scene.finish().await?;
    observer.stop().await?;

    scene.drover.cleanup().await?;
    let left = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'drover'";
    wait::until("the mark is gone", SOON, async || {
        let n = scene.source.query_one_text("mysql", left).await?;
        Ok((n.as_deref() == Some("0")).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_marks_in_process() -> Result<()> {
    between_marks(Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_marks_in_a_cluster() -> Result<()> {
    between_marks(Form::Cluster).await
}
