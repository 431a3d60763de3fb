//! A transaction far larger than any buffer passes in bounded memory, in both forms; and one that is rolled back leaves nothing.

use anyhow::{Context, Result, ensure};
use drover_tests::{Form, Scene};

/// The promise: no process above that.
const BOUND_KIB: u64 = 200 * 1000;

/// Rows of the transaction; the promise is about two million (`DROVER_BIG_ROWS`), with an optimised program.
fn rows() -> u64 {
    std::env::var("DROVER_BIG_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000)
}

async fn bounded(form: Form) -> Result<()> {
    let rows = rows();
    let table = "CREATE TABLE big (id bigint PRIMARY KEY, v bigint NOT NULL, filler text); INSERT INTO big VALUES (0, 0, 'first')";
    let mut scene = Scene::new(form, table).await?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let insert = format!("INSERT INTO big SELECT i, i, repeat(md5(i::text), 3) FROM generate_series(1, {rows}) i");
    scene.source.exec("drover", &insert).await?;
    let several = "UPDATE big SET v = v + 1; SAVEPOINT s; DELETE FROM big WHERE id % 2 = 0; ROLLBACK TO s; DELETE FROM big WHERE id % 9 = 1";
    scene.source.exec("drover", &format!("BEGIN; {several}; ROLLBACK")).await?;
    scene.source.exec("drover", &format!("BEGIN; {several}; COMMIT")).await?;
    scene.quiet().await?;
    // In one process the run that has worked so far would end; its peak is read before.
    let to = scene.destination.connect("drover").await?;
    let expected: i64 =
        scene.source.connect("drover").await?.query_one("SELECT sum(v)::bigint FROM big", &[]).await?.get(0);
    drover_tests::wait::until("the large transactions are applied", drover_tests::deployment::PATIENCE, || async {
        let sum: Option<i64> = to.query_one("SELECT sum(v)::bigint FROM big", &[]).await?.get(0);
        ensure!(sum == Some(expected), "{sum:?} in place of {expected}");
        Ok(Some(()))
    })
    .await
    .with_context(|| scene.drover.tails(10))?;
    let mut worst = 0;
    for process in scene.drover.processes() {
        let peak = process.peak_kib()?;
        println!("{form:?} {process}: {} MB", peak / 1000, process = process.name());
        worst = worst.max(peak);
    }
    ensure!(worst < BOUND_KIB, "{worst} KiB for a transaction of {rows} rows");
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_in_process() -> Result<()> {
    bounded(Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_in_a_cluster() -> Result<()> {
    bounded(Form::Cluster).await
}
