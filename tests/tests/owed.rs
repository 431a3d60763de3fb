//! Rows that move to other keys while no snapshot lives, in tables of which half is loaded, and whose large values, which did not change,
//! are in no log: neither the chunks read before the move nor those read after it have them. They are fetched from the source, whoever is
//! killed meanwhile, and both sides end equal.

use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use drover_tests::deployment::PATIENCE;
use drover_tests::{Form, Role, Scene, scene};

/// Tables of many small chunks and the default identity: one with a plain key, one with a key of two columns in an order of its own.
const TABLES: &str = "CREATE TABLE tall (id bigint PRIMARY KEY, small integer NOT NULL, large text);
    ALTER TABLE tall ALTER large SET STORAGE EXTERNAL;
    INSERT INTO tall SELECT i, 0, CASE WHEN i % 50 = 0 THEN NULL ELSE repeat(md5(i::text), 100) END FROM generate_series(1, 3000) i;
    CREATE TABLE pairs (large bytea, name text, small integer NOT NULL, part numeric(8,2), PRIMARY KEY (name, part));
    ALTER TABLE pairs ALTER large SET STORAGE EXTERNAL;
    INSERT INTO pairs SELECT decode(repeat(md5(i::text), 100), 'hex'), 'n ' || i % 40, 0, i / 4.0 FROM generate_series(1, 1500) i;";
const SIGABRT: i32 = 6;

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

/// Rows of the ground that is read last move to where all is loaded, in every way; each round others. One transaction a line.
async fn moves(scene: &Scene, round: i64) -> Result<()> {
    // The last 60 rows that no round before has touched.
    let (from, to) = (3000 - 60 * round - 59, 3000 - 60 * round);
    let of = |first: i64, last: i64| format!("BETWEEN {} AND {}", from + first, from + last);
    let back = |first: i64, last: i64| format!("BETWEEN {} AND {}", -from - last, -from - first);
    let (a, b) = (from + 50, from + 51);
    let lines = [
        // 1 → 1001, and 1 → 1001 → 2001.
        format!("UPDATE tall SET id = -id, small = 1 WHERE id {}", of(0, 14)),
        format!("UPDATE tall SET id = id - 100000 WHERE id {}", back(5, 14)),
        "UPDATE tall SET id = id - 100000, small = 2 WHERE id < -100000 AND id > -200000 AND id % 2 = 0".to_owned(),
        // Moved and deleted; moved and then given another large value, or a small one.
        format!("UPDATE tall SET id = -id WHERE id {}", of(15, 34)),
        format!("DELETE FROM tall WHERE id {}", back(15, 19)),
        format!("UPDATE tall SET large = repeat('new', 1000) WHERE id {}", back(20, 24)),
        format!("UPDATE tall SET small = 3 WHERE id {}", back(25, 29)),
        // The keys that were left are taken by others, whose large values are unknown as well.
        format!("UPDATE tall SET id = id - 20 WHERE id {}", of(35, 39)),
        format!("INSERT INTO tall SELECT i, 4, 'another' FROM generate_series({}, {}) i", from + 20, from + 22),
        // There and back, in one transaction and in two; two rows exchange their keys.
        format!(
            "UPDATE tall SET id = -id WHERE id {0}; UPDATE tall SET id = -id WHERE id {1}",
            of(40, 44),
            back(40, 44)
        ),
        format!("UPDATE tall SET id = -id WHERE id {}", of(45, 49)),
        format!("UPDATE tall SET id = -id, small = 5 WHERE id {}", back(45, 49)),
        format!(
            "UPDATE tall SET id = 0 WHERE id = {a}; UPDATE tall SET id = {a} WHERE id = {b}; UPDATE tall SET id = {b} WHERE id = 0"
        ),
        // From loaded ground to the end.
        format!("UPDATE tall SET id = {} WHERE id = {}", 10_000 + round, round + 1),
        format!("UPDATE tall SET small = 6 WHERE id = {to}"),
        format!("UPDATE pairs SET name = 'a ' || name, part = part + 0.5 WHERE part % 7 = {round} AND name > 'n 3'"),
        format!("UPDATE pairs SET name = 'b ' || name WHERE part % 7 = {round}.5 AND name < 'n'"),
        "DELETE FROM pairs WHERE name LIKE 'b a n 35%'".to_owned(),
    ];
    for line in lines {
        scene.exec(&line).await.with_context(|| line.clone())?;
    }
    Ok(())
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
        scene.drover.start_with(&[("DROVER_FAILPOINT", name)]).await?;
        let status = scene.drover.main()?.wait_exit(PATIENCE).await.with_context(|| name.to_owned())?;
        ensure!(status.signal() == Some(SIGABRT), "{name}: {status}\n{}", scene.drover.tails(20));
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
        died(&mut scene, Role::Extractor, name).await?;
        moves(&scene, round as i64 + 1).await?;
    }
    died(&mut scene, Role::Applier, "owed-not-paid").await?;
    // One of two extractors dies and the snapshot lives on; appliers die around the commit of what was owed.
    scene.drover.start_role(Role::Extractor, &[]).await?;
    scene.drover.start_role(Role::Extractor, &[]).await?;
    for name in ["before-commit", "committed-not-reported"] {
        scene.drover.start_role(Role::Applier, &point(name)).await?;
        died(&mut scene, Role::Applier, name).await?;
        scene.drover.kill9(Role::Extractor, 0)?;
        scene.drover.start_role(Role::Extractor, &[]).await?;
    }
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    scene.finish().await
}

/// The only worker of the role dies at its failpoint.
async fn died(scene: &mut Scene, role: Role, name: &str) -> Result<()> {
    let status = scene.drover.workers(role)?[0].wait_exit(PATIENCE).await.with_context(|| name.to_owned())?;
    ensure!(status.signal() == Some(SIGABRT), "{name}: {status}\n{}", scene.drover.tails(20));
    scene.drover.workers(role)?.clear();
    Ok(())
}
