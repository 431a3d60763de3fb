//! Processes that die at the worst moments, in both forms: at named failpoints, at random, in mid-copy. Started again without a
//! word to them they end with both sides equal, and what was loaded by key ranges before is not read again.

use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use drover_tests::deployment::PATIENCE;
use drover_tests::scene::{self, SMALL_CHUNKS, touch};
use drover_tests::{Form, Pair, Role, Scene, suite};

const SIGABRT: i32 = 6;

async fn many(pair: Pair, form: Form) -> Result<Scene> {
    let mut scene = Scene::of(pair, form, &scene::many(pair.source.dialect())).await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS).env("DROVER_LEASE_MS", "3000");
    scene.load().await?;
    Ok(scene)
}

suite! {
    wide failpoints_in_process;
    both failpoints_in_a_cluster;
    wide random_kills_of_run;
    wide snapshot_lost_in_process;
    both snapshot_lost_in_a_cluster;
    wide servers_restart_under_load;
}

async fn failpoints_in_process(pair: Pair) -> Result<()> {
    let mut scene = many(pair, Form::InProcess).await?;
    let mut observer = None;
    for (round, name) in [
        "copied-not-reported:4",
        "loaded-not-reported:6",
        "loaded-not-reported:20",
        "before-commit:2",
        "committed-not-reported:3",
        "published-not-confirmed:2",
        "committed-not-reported:1",
    ]
    .into_iter()
    .enumerate()
    {
        touch(&scene, round as u64).await?;
        scene.drover.start_with(&[("DROVER_FAILPOINT", name)]).await?;
        let status = scene.drover.main()?.wait_exit(PATIENCE).await.with_context(|| name.to_owned())?;
        ensure!(status.signal() == Some(SIGABRT), "{name}: {status}\n{}", scene.drover.tails(20));
        if observer.is_none() && scene.drover.log().contains("the destination is consistent") {
            observer = Some(scene.observe().await?);
        }
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.finish().await?;
    if let Some(observer) = observer {
        observer.stop().await?;
    }
    Ok(())
}

async fn failpoints_in_a_cluster(pair: Pair) -> Result<()> {
    let mut scene = many(pair, Form::Cluster).await?;
    let drover = &mut scene.drover;
    drover.start_role(Role::Coordinator, &[]).await?;
    drover.start_role(Role::Extractor, &[("DROVER_FAILPOINT", "copied-not-reported:4")]).await?;
    // No more than the first extractor has reported: the next one may be gone before it has copied anything.
    drover.start_role(Role::Applier, &[("DROVER_FAILPOINT", "loaded-not-reported:2")]).await?;
    drover.create().await?;
    // Each is replaced by one that dies at the next point; the last ones live.
    let plan = [
        (Role::Extractor, "published-not-confirmed:3"),
        (Role::Applier, "before-commit:2"),
        // Without an extractor nothing is copied, and nothing applied before that.
        (Role::Extractor, ""),
        (Role::Applier, "committed-not-reported:3"),
        (Role::Applier, ""),
    ];
    for (round, (role, next)) in plan.into_iter().enumerate() {
        let status =
            scene.drover.workers(role)?[0].wait_exit(PATIENCE).await.with_context(|| format!("before {next}"))?;
        ensure!(status.signal() == Some(SIGABRT), "{role:?}: {status}\n{}", scene.drover.tails(20));
        scene.drover.workers(role)?.clear();
        touch(&scene, round as u64).await?;
        let environment = [("DROVER_FAILPOINT", next)];
        scene.drover.start_role(role, if next.is_empty() { &[] } else { &environment }).await?;
    }
    scene.finish().await
}

/// Seed of this run, printed so that a failure can be repeated with `DROVER_SEED`.
fn seed() -> u64 {
    let given = std::env::var("DROVER_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("DROVER_SEED={seed}");
    seed
}

async fn random_kills_of_run(pair: Pair) -> Result<()> {
    let mut random = seed() | 1;
    let mut below = move |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut scene = many(pair, Form::InProcess).await?;
    for round in 0..7 {
        scene.drover.start().await?;
        // The workload is the clock: 120 transactions a second.
        scene.advance(below(150) + 5).await?;
        touch(&scene, round).await?;
        ensure!(scene.drover.main()?.running(), "it ended by itself\n{}", scene.drover.tails(20));
        scene.drover.kill9_all()?;
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.finish().await
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
