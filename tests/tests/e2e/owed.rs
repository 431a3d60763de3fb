//! Rows that move to other keys while no snapshot lives, in tables of which half is loaded, and whose large values, which did not change,
//! are in no log: neither the chunks read before the move nor those read after it have them. They are fetched from the source, whoever is
//! killed meanwhile, and both sides end equal.

use anyhow::{Result, ensure};
use drover_tests::owed::{TABLES, moves};
use drover_tests::{Form, Role, Scene, scene};

/// Half of the large tables is loaded when every snapshot dies.
async fn half_loaded(form: Form) -> Result<Scene> {
    let mut scene = Scene::new(form, TABLES).await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", "200000").env("DROVER_LEASE_MS", "3000");
    scene.load().await?;
    scene.drover.start().await?;
    scene.wait_chunks(25).await?;
    if form == Form::Cluster {
        scene.drover.kill9(Role::Extractor, 1)?;
        scene.drover.kill9(Role::Extractor, 0)?;
    } else {
        scene.drover.kill9_all()?;
    }
    let marks = scene.marks().await?;
    let largest = scene::largest(&marks)?;
    let count = marks.iter().filter(|m| m.0 == largest).count();
    // Otherwise the kill came too early or too late to show anything.
    ensure!((5..45).contains(&count), "{count} chunks were loaded");
    Ok(scene)
}

async fn rows_enter_loaded_ground(form: Form) -> Result<()> {
    let mut scene = half_loaded(form).await?;
    for round in 0..3 {
        moves(&scene, round).await?;
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    moves(&scene, 3).await?;
    scene.advance(60).await?;
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_enter_loaded_ground_in_process() -> Result<()> {
    rows_enter_loaded_ground(Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_enter_loaded_ground_in_a_cluster() -> Result<()> {
    rows_enter_loaded_ground(Form::Cluster).await
}

/// Each death takes the snapshot along that rows were to be fetched on: the next ones are fetched on a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_owes_in_process() -> Result<()> {
    let mut scene = half_loaded(Form::InProcess).await?;
    let points = [
        "owed-not-fetched",
        "fetched-not-reported",
        "owed-not-paid",
        "fetched-not-reported:2",
        "before-commit",
        "committed-not-reported",
    ];
    for (round, name) in points.into_iter().enumerate() {
        moves(&scene, round as i64).await?;
        scene.drover.dies_at(name).await?;
        ensure!(!scene.drover.log().contains("the destination is consistent"), "{name}: rows are still owed");
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_owes_in_a_cluster() -> Result<()> {
    let mut scene = half_loaded(Form::Cluster).await?;
    scene.drover.kill9(Role::Applier, 1)?;
    scene.drover.kill9(Role::Applier, 0)?;
    moves(&scene, 0).await?;
    let point = |name| [("DROVER_FAILPOINT", name)];
    scene.drover.start_role(Role::Applier, &point("owed-not-paid")).await?;
    // One after the other: the snapshot dies with each; the applier dies of the answer that the second one gives.
    for (round, name) in ["owed-not-fetched", "fetched-not-reported"].into_iter().enumerate() {
        scene.drover.start_role(Role::Extractor, &point(name)).await?;
        scene.drover.died(Role::Extractor, name).await?;
        moves(&scene, round as i64 + 1).await?;
    }
    scene.drover.died(Role::Applier, "owed-not-paid").await?;
    // One of two extractors dies and the snapshot lives on; appliers die around the commit of what was owed.
    scene.drover.start_role(Role::Extractor, &[]).await?;
    scene.drover.start_role(Role::Extractor, &[]).await?;
    for name in ["before-commit", "committed-not-reported"] {
        scene.drover.start_role(Role::Applier, &point(name)).await?;
        scene.drover.died(Role::Applier, name).await?;
        scene.drover.kill9(Role::Extractor, 0)?;
        scene.drover.start_role(Role::Extractor, &[]).await?;
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.finish().await
}
