//! The source's primary dies and a standby takes its place (PostgreSQL 17, failover slots): the stream follows it, unless it lacks
//! what the former primary had sent; then the migration stops, for nothing that the new one sends would fit.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use drover_tests::{Engine, Form, Pair, Postgres, Scene, Server, wait};

const SOON: Duration = Duration::from_secs(90);
const PAIR: Pair = Pair { source: Engine::Postgres(17), destination: Engine::Postgres(15) };

fn primary(scene: &mut Scene) -> Result<&mut Postgres> {
    match &mut scene.source {
        Server::Postgres(server) => Ok(server),
        Server::MySql(_) => bail!("no PostgreSQL"),
    }
}

/// A migration under load whose slot the source's standby has a copy of.
async fn protected(wait_for_standby: bool) -> Result<(Scene, Postgres)> {
    let mut scene = Scene::of(PAIR, Form::InProcess, "").await?;
    let source = primary(&mut scene)?;
    let standby = source.standby("standby").await?;
    if wait_for_standby {
        source.exec("postgres", "ALTER SYSTEM SET synchronized_standby_slots = 'standby'").await?;
        source.exec("postgres", "SELECT pg_reload_conf()").await?;
    }
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let copied = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary";
    wait::until("the standby has the slot", SOON, async || {
        // The first copy of a slot waits for the slot to move.
        let has = standby.query_one_text("postgres", copied).await?;
        if has.as_deref() == Some("1") { Ok(Some(())) } else { Err(anyhow!("{has:?}")) }
    })
    .await
    .with_context(|| standby.log_tail(20))?;
    Ok((scene, standby))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_follows_a_promoted_standby() -> Result<()> {
    let (mut scene, standby) = protected(true).await?;
    let observer = scene.observe().await?;
    scene.advance(60).await?;
    // In the midst of the application's work, some of which may be lost: the standby decides what has happened.
    let running = scene.running.take().context("no workload")?;
    primary(&mut scene)?.kill9().await?;
    ensure!(running.stop().await.is_err(), "the application noticed nothing");
    let _former = primary(&mut scene)?.fail_over(standby).await?;
    scene.load().await?;
    scene.advance(60).await?;
    ensure!(scene.drover.log().contains("promoted standby") || scene.drover.main()?.running(), "it ended");
    // Resumed on the new timeline once more: the new server is the one that the migration stands on now.
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_that_lacks_changes_stops_the_migration() -> Result<()> {
    let (mut scene, mut standby) = protected(false).await?;
    standby.stop().await?;
    scene.advance(40).await?;
    scene.quiet().await?;
    scene.drover.wait_caught_up().await?;
    primary(&mut scene)?.kill9().await?;
    let _former = primary(&mut scene)?.fail_over(standby).await?;
    scene.drover.start().await?;
    let main = scene.drover.main()?;
    main.wait_exit(SOON).await?;
    let said = main.stderr();
    ensure!(said.contains("the new one lacks them") && said.contains("DR0007"), "{said}");
    Ok(())
}
