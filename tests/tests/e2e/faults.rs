//! Processes that die in mid-copy, in both forms, and servers that die under load: they end with both sides equal, and what was loaded by key ranges before is
//! not read again. What dies at a failpoint or at any moment: `chaos.rs`.

use anyhow::{Result, ensure};
use drover_tests::scene::{self, SMALL_CHUNKS, touch};
use drover_tests::{Form, Pair, Role, Scene, suite};

async fn many(pair: Pair, form: Form) -> Result<Scene> {
    let mut scene = Scene::of(pair, form, &scene::many(pair.source.dialect())).await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS).env("DROVER_LEASE_MS", "3000");
    scene.load().await?;
    Ok(scene)
}

suite! {
    wide snapshot_lost_in_process;
    both snapshot_lost_in_a_cluster;
    wide servers_restart_under_load;
}

/// The snapshot dies with its last holder. Chunks of key ranges that are loaded stay and are not read again; what has no key is
/// begun again, from empty.
async fn snapshot_lost(pair: Pair, form: Form) -> Result<()> {
    let mut scene = many(pair, form).await?;
    scene.drover.start().await?;
    scene.wait_chunks(15).await?;
    if form == Form::Cluster {
        scene.drover.kill9(Role::Extractor, 1)?;
        scene.drover.kill9(Role::Extractor, 0)?;
    } else {
        scene.drover.kill9_all()?;
    }
    let before = scene.marks().await?;
    for round in 0..3 {
        touch(&scene, round).await?;
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let after = scene.marks().await?;
    // A table that grew meanwhile may have more chunks by now than the one whose copy was under way.
    let begun: Vec<scene::Mark> =
        after.iter().filter(|m| before.iter().filter(|b| b.0 == m.0).count() > 1).cloned().collect();
    let keyed = scene::largest(&begun)?;
    let all = after.iter().filter(|m| m.0 == keyed).count();
    let kept: Vec<_> = before.iter().filter(|m| m.0 == keyed).collect();
    // Otherwise the kill came too early or too late to show anything.
    ensure!(!kept.is_empty() && kept.len() < all, "{} of {all} chunks were loaded before", kept.len());
    ensure!(kept.iter().all(|m| after.contains(m)), "chunks were loaded again:\n{kept:?}\n{after:?}");
    scene.finish().await
}

async fn snapshot_lost_in_process(pair: Pair) -> Result<()> {
    snapshot_lost(pair, Form::InProcess).await
}

async fn snapshot_lost_in_a_cluster(pair: Pair) -> Result<()> {
    snapshot_lost(pair, Form::Cluster).await
}

async fn servers_restart_under_load(pair: Pair) -> Result<()> {
    let mut scene = many(pair, Form::InProcess).await?;
    scene.drover.start().await?;
    scene.wait_chunks(10).await?;
    scene.destination.restart().await?;
    scene.drover.wait_consistent().await?;
    scene.advance(60).await?;
    scene.destination.kill9().await?;
    scene.destination.restart().await?;
    scene.advance(60).await?;
    // The application's sessions end with its server.
    scene.quiet().await?;
    scene.source.restart().await?;
    scene.load().await?;
    scene.advance(60).await?;
    scene.quiet().await?;
    scene.source.kill9().await?;
    scene.source.restart().await?;
    scene.load().await?;
    scene.advance(60).await?;
    ensure!(scene.drover.main()?.running(), "it ended\n{}", scene.drover.tails(30));
    scene.finish().await
}
