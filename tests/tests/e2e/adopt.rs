//! The state is lost, the destination's progress is not: drover refuses to begin, and goes on from there when told to adopt it, from the
//! position where that is safe, with tables begun again where it is not, and not at all where the migration may have ended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::deployment::{log_end, place};
use drover_tests::scene::{Mark, SMALL_CHUNKS, many};
use drover_tests::{Deployment, Form, Pair, Role, Scene, suite, wait};

const SOON: Duration = Duration::from_secs(90);

/// SIGKILL, and the state is gone.
fn lose(drover: &mut Deployment) -> Result<()> {
    drover.kill9_all()?;
    let state = if drover.form == Form::Cluster { "store" } else { ".drover" };
    std::fs::remove_dir_all(drover.drover.folder().join(state)).context("the state")
}

/// Follows the source under load until the state is lost; the load goes on. Gives the marks from before.
async fn lost_while_it_follows(scene: &mut Scene) -> Result<Vec<Mark>> {
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.advance(60).await?;
    let before = scene.marks().await?;
    lose(&mut scene.drover)?;
    scene.advance(60).await?;
    Ok(before)
}

async fn adopted(scene: &mut Scene) -> Result<String> {
    let file = scene.drover.file.display().to_string();
    let refused = scene.drover.call(&["run", &file]).await?.expect(2)?;
    ensure!(refused.stderr.contains("--adopt") && refused.stderr.contains("cleanup"), "{}", refused.stderr);
    // The refusal has begun nothing that would pass for a state.
    let done = scene.drover.call(&["run", &file, "--adopt", "--until", "caught-up"]).await?.expect(0)?;
    Ok(done.stderr)
}

async fn said(drover: &Deployment) -> Result<String> {
    let file = drover.file.display().to_string();
    Ok(drover.call(&["migration", "log", &file]).await?.expect(0)?.stdout)
}

suite! {
    wide changes_go_on_from_the_destinations_position;
    both a_copy_half_way_begins_again;
    main a_cluster_whose_store_is_lost_goes_on_from_its_log;
}

async fn changes_go_on_from_the_destinations_position(pair: Pair) -> Result<()> {
    let mut scene = Scene::of(pair, Form::InProcess, "").await?;
    let before = lost_while_it_follows(&mut scene).await?;
    scene.quiet().await?;
    adopted(&mut scene).await?;
    let log = said(&scene.drover).await?;
    ensure!(log.contains("adopted: changes go on from"), "{log}");
    ensure!(scene.marks().await? == before, "something was copied again");
    scene.equal().await?;
    // The adopted state is a state like any other.
    scene.load().await?;
    scene.drover.start().await?;
    scene.advance(30).await?;
    scene.finish().await
}

async fn a_copy_half_way_begins_again(pair: Pair) -> Result<()> {
    let mut scene = Scene::of(pair, Form::InProcess, &many(pair.source.dialect())).await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS);
    scene.load().await?;
    scene.drover.start().await?;
    scene.wait_chunks(10).await?;
    lose(&mut scene.drover)?;
    scene.advance(30).await?;
    scene.quiet().await?;
    adopted(&mut scene).await?;
    let log = said(&scene.drover).await?;
    ensure!(log.contains("emptied and copied again"), "{log}");
    ensure!(scene.marks().await?.iter().any(|m: &Mark| m.1 != "0"), "no new generation");
    scene.equal().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_were_in_the_lost_state_only_mean_a_new_copy() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.drover.interrupt().await?;
    // As if drover had made them durable in its log, and told the source so, before it was lost.
    scene.source.exec("drover", "UPDATE accounts SET note = 'only in the log' WHERE id = 3").await?;
    let advance = "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots";
    scene.source.exec("drover", advance).await?;
    lose(&mut scene.drover)?;
    adopted(&mut scene).await?;
    let log = said(&scene.drover).await?;
    ensure!(log.contains("all tables begin again") && log.contains("lost state"), "{log}");
    scene.equal().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_has_ended_is_not_adopted_and_nothing_is_emptied() -> Result<()> {
    let mut scene = Scene::new(Form::InProcess, "").await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let file = scene.drover.file.display().to_string();
    scene.drover.call(&["cutover", &file]).await?.expect(0)?;
    scene.drover.main()?.expect_exit(SOON, 0).await?;
    lose(&mut scene.drover)?;
    scene
        .destination
        .exec("drover", "UPDATE accounts SET note = 'the application lives here now' WHERE id = 3")
        .await?;
    let refused = scene.drover.call(&["run", &file, "--adopt"]).await?.expect(1)?;
    ensure!(refused.stderr.contains("slot") && refused.stderr.contains("cleanup"), "{}", refused.stderr);
    let note = scene.destination.query_one_text("drover", "SELECT note FROM accounts WHERE id = 3").await?;
    ensure!(note.as_deref() == Some("the application lives here now"), "{note:?}");
    Ok(())
}

async fn a_cluster_whose_store_is_lost_goes_on_from_its_log(pair: Pair) -> Result<()> {
    let mut scene = Scene::of(pair, Form::Cluster, "").await?;
    let before = lost_while_it_follows(&mut scene).await?;
    let file = scene.drover.file.display().to_string();
    for role in [Role::Coordinator, Role::Extractor, Role::Applier] {
        scene.drover.start_role(role, &[]).await?;
    }
    let created = scene.drover.call(&["migration", "create", &file, "--adopt", "--json"]).await?.expect(0)?.json()?;
    let id = scene.destination.query_one_text("drover", "SELECT migration FROM drover.drover_progress").await?;
    ensure!(created["id"].as_str() == id.as_deref(), "{created:#}");
    let shown = scene.drover.wait_shown("consistent", |v| v["stages"]["incremental"]["consistent"] == true).await?;
    ensure!(shown["stages"]["incremental"]["state"] == "running", "{shown:#}");
    ensure!(scene.marks().await? == before, "something was copied again");
    let now = log_end(&mut scene.from().await?).await?;
    wait::until("changes flow again", SOON, || async {
        let at = scene.drover.show().await?["stages"]["incremental"]["position"].as_str().and_then(place);
        Ok((at > Some(now)).then_some(()))
    })
    .await?;
    scene.finish().await
}
