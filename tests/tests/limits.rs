//! Speed limits, measured by counting what arrives: in one process and shared by the workers of a cluster, changed while they hold.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use drover_tests::{Form, Scene, wait};

const SOON: Duration = Duration::from_secs(90);
/// Rows of a chunk are some 250, so that counts grow evenly.
const CHUNKS: &str = "15000";
const PER_SECOND: u64 = 2000;

async fn verb(scene: &Scene, verb: &str, more: &[&str]) -> Result<()> {
    let file = scene.drover.file.display().to_string();
    scene.drover.call(&[&["migration", verb, &file], more].concat()).await?.expect(0).map(drop)
}

/// Rows a second that arrive at the destination while `least` more of them do, from when there are `from`.
async fn rate(scene: &Scene, count: &str, from: i64, least: i64) -> Result<f64> {
    let mut to = scene.to().await?;
    let mut reach = async |wanted: i64| -> Result<(i64, Instant)> {
        let begin = Instant::now();
        loop {
            let n = to.number(count).await?;
            if n >= wanted {
                return Ok((n, Instant::now()));
            }
            ensure!(begin.elapsed() < SOON, "{n} of {wanted} rows");
            wait::pause().await;
        }
    };
    let (n0, t0) = reach(from).await?;
    let (n1, t1) = reach(n0 + least).await?;
    Ok((n1 - n0) as f64 / t1.duration_since(t0).as_secs_f64())
}

/// The limit holds, and is used: a busy machine may be slower, never faster.
fn limited(rate: f64) -> Result<()> {
    println!("{rate:.0} rows a second");
    ensure!(rate <= PER_SECOND as f64 * 1.25 && rate >= PER_SECOND as f64 * 0.25, "{rate:.0} in place of {PER_SECOND}");
    Ok(())
}

async fn copied(form: Form) -> Result<()> {
    let sql = "CREATE TABLE slow (id bigint PRIMARY KEY, filler text);
        INSERT INTO slow SELECT i, repeat('x', 40) FROM generate_series(1, 60000) i;";
    let more = format!("[limits]\nfull = {{ rows_per_second = {PER_SECOND} }}\n");
    let mut scene = Scene::with(form, sql, "set_identity = true", &more).await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", CHUNKS);
    scene.drover.start().await?;
    let count = "SELECT coalesce(sum(rows), 0)::bigint FROM drover.drover_chunk";
    wait::until("the first chunk is loaded", SOON, async || Ok(scene.wait_chunks(1).await.ok())).await?;
    limited(rate(&scene, count, 2000, 10_000).await?)?;
    // Four times as much from now on, then no limit at all.
    verb(&scene, "limits", &["full.rows_per_second=8000"]).await?;
    let faster = rate(&scene, count, 16_000, 12_000).await?;
    println!("then {faster:.0} rows a second");
    ensure!(faster > PER_SECOND as f64 * 1.25 && faster < 8000.0 * 1.25, "{faster:.0} in place of 8000");
    verb(&scene, "limits", &["full.rows_per_second=0"]).await?;
    scene.drover.wait_consistent().await?;
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_keeps_to_its_limit_in_process() -> Result<()> {
    copied(Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_the_limit_of_a_copy() -> Result<()> {
    copied(Form::Cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_keep_to_their_limit() -> Result<()> {
    let sql = "CREATE TABLE events (id bigint PRIMARY KEY, filler text)";
    let more = format!("[limits]\nincremental = {{ rows_per_second = {PER_SECOND} }}\n");
    let mut scene = Scene::with(Form::InProcess, sql, "set_identity = true", &more).await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let mut from = scene.from().await?;
    for n in 0..600 {
        let insert = format!("INSERT INTO events SELECT {n} * 50 + i, repeat('x', 40) FROM generate_series(1, 50) i");
        from.run(&insert).await?;
    }
    let count = "SELECT count(*) FROM events";
    limited(rate(&scene, count, 2000, 12_000).await?)?;
    verb(&scene, "limits", &["incremental.rows_per_second=0"]).await?;
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_snapshot_is_given_up_and_the_copy_goes_on_from_a_new_one() -> Result<()> {
    let sql = "CREATE TABLE slow (id bigint PRIMARY KEY, filler text);
        INSERT INTO slow SELECT i, repeat('x', 40) FROM generate_series(1, 20000) i;";
    let more = format!("[limits]\nsnapshot = \"2s\"\nfull = {{ rows_per_second = {PER_SECOND} }}\n");
    let mut scene = Scene::with(Form::InProcess, sql, "set_identity = true", &more).await?;
    scene.drover = scene.drover.env("DROVER_CHUNK_BYTES", CHUNKS);
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let file = scene.drover.file.display().to_string();
    let log = scene.drover.call(&["migration", "log", &file]).await?.expect(0)?.stdout;
    let given_up = log.matches("as long as [limits] snapshot allows").count();
    let taken = log.matches(" taken at ").count();
    // The last one may be given up, too, once all has been read and before the destination is consistent.
    ensure!(given_up >= 2 && taken >= given_up, "{log}");
    scene.finish().await
}
