//! Verbs that are given a file reach the process that works on it, or say clearly that none does.

use anyhow::{Result, ensure};
use drover_tests::drover::Finished;
use drover_tests::{Deployment, Form, Scene, wait};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

async fn verb(drover: &Deployment, verb: &str, more: &[&str]) -> Result<Finished> {
    let file = drover.file.display().to_string();
    drover.call(&[&["migration", verb, &file], more].concat()).await
}

/// Something may be tried again just then: the slot of a killed process, for example, is in use for a moment.
fn at_work(view: &Value) -> bool {
    view["state"] == "migrating" || view["state"] == "retrying"
}

async fn state_is(drover: &Deployment, state: &str) -> Result<()> {
    wait::until(state, SOON, || async {
        let view = verb(drover, "show", &["--json"]).await?.expect(0)?.json()?;
        Ok((view["state"] == state).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_leads_to_the_process_that_works_on_it() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    let file = scene.drover.file.display().to_string();
    let none = verb(&scene.drover, "show", &[]).await?.expect(2)?;
    ensure!(none.stderr.contains("has not begun here"), "{}", none.stderr);
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;

    // There is no lag to tell before a first transaction was applied.
    let view = wait::until("a lag is shown", SOON, || async {
        let view = verb(&scene.drover, "show", &["--json"]).await?.expect(0)?.json()?;
        Ok(view["stages"]["incremental"]["lag_seconds"].is_number().then_some(view))
    })
    .await?;
    ensure!(at_work(&view) && view["name"] == scene.drover.name.as_str(), "{view:#}");
    let second = scene.drover.call(&["run", &file]).await?.expect(2)?;
    ensure!(second.stderr.contains("another drover process works in"), "{}", second.stderr);
    let refused = scene.drover.call(&["cleanup", &file]).await?.expect(2)?;
    ensure!(refused.stderr.contains("another drover process works in"), "{}", refused.stderr);

    verb(&scene.drover, "pause", &[]).await?.expect(0)?;
    state_is(&scene.drover, "paused").await?;
    scene.advance(30).await?;
    verb(&scene.drover, "pause", &[]).await?.expect(2)?;
    verb(&scene.drover, "resume", &[]).await?.expect(0)?;
    state_is(&scene.drover, "migrating").await?;
    verb(&scene.drover, "limits", &["full.rows_per_second=7"]).await?.expect(0)?;
    verb(&scene.drover, "limits", &["full.rows=7"]).await?.expect(2)?;
    verb(&scene.drover, "delete", &[]).await?.expect(2)?;
    let log = verb(&scene.drover, "log", &["--json"]).await?.expect(0)?.json()?.to_string();
    ensure!(["paused", "resumed", "rows_per_second"].iter().all(|word| log.contains(word)), "{log}");

    // A killed process leaves its socket behind. The folder still tells how far it was; nobody is there to act.
    scene.drover.kill9_all()?;
    let view = verb(&scene.drover, "show", &["--json"]).await?.expect(0)?.json()?;
    ensure!(at_work(&view), "{view:#}");
    let nobody = verb(&scene.drover, "pause", &[]).await?.expect(4)?;
    ensure!(nobody.stderr.contains("no drover process works on"), "{}", nobody.stderr);
    scene.drover.start().await?;
    scene.advance(30).await?;
    scene.quiet().await?;
    let view = wait::until("all is applied", SOON, || async {
        let view = verb(&scene.drover, "show", &["--json"]).await?.expect(0)?.json()?;
        Ok((view["stages"]["incremental"]["lag_seconds"].as_f64() == Some(0.0)).then_some(view))
    })
    .await?;
    ensure!(at_work(&view), "{view:#}");
    verb(&scene.drover, "stop", &[]).await?.expect(0)?;
    scene.drover.main()?.expect_exit(SOON, 0).await?;
    let slots = scene.source.query_one_text("drover", "SELECT count(*)::text FROM pg_replication_slots").await?;
    ensure!(slots.as_deref() == Some("0"), "{slots:?} slots are left");
    let view = verb(&scene.drover, "show", &["--json"]).await?.expect(0)?.json()?;
    ensure!(view["state"] == "completed", "{view:#}");
    let text = verb(&scene.drover, "show", &[]).await?.expect(0)?.stdout;
    for side in ["source", "destination"] {
        ensure!(text.contains(&format!("{side}: drover came as drover from 127.0.0.1; drop the account")), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_state_folder_a_file_leads_to_the_cluster() -> Result<()> {
    let mut scene = Scene::new(Form::Cluster, "").await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let view = verb(&scene.drover, "show", &["--json"]).await?.expect(0)?.json()?;
    ensure!(at_work(&view) && view["name"] == scene.drover.name.as_str(), "{view:#}");
    verb(&scene.drover, "pause", &[]).await?.expect(0)?;
    state_is(&scene.drover, "paused").await?;
    scene.drover.wait_state("paused").await?;
    Ok(())
}
