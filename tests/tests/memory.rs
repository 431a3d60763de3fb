//! A transaction far larger than any buffer passes in bounded memory, in both forms; and one that is rolled back leaves nothing.

use anyhow::{Context, Result, ensure};
use drover_tests::deployment::PATIENCE;
use drover_tests::{Dialect, Form, Pair, Scene, suite, wait};

/// The promise: no process above that.
const BOUND_KIB: u64 = 200 * 1000;

/// Rows of the transaction; the promise is about two million (`DROVER_BIG_ROWS`), with an optimised program.
fn rows() -> u64 {
    std::env::var("DROVER_BIG_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000)
}

async fn bounded(pair: Pair, form: Form) -> Result<()> {
    let rows = rows();
    let table = "CREATE TABLE big (id bigint PRIMARY KEY, v bigint NOT NULL, filler text); INSERT INTO big VALUES (0, 0, 'first')";
    let mut scene = Scene::of(pair, form, table).await?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let dialect = pair.source.dialect();
    let filler = match dialect {
        Dialect::Postgres => "repeat(md5(i::text), 3)",
        Dialect::MySql => "left(repeat(sha2(i, 256), 2), 96)",
    };
    scene.exec(&format!("INSERT INTO big SELECT i, i, {filler} FROM {} i", dialect.series(rows))).await?;
    let several = "UPDATE big SET v = v + 1; SAVEPOINT s; DELETE FROM big WHERE id % 2 = 0; ROLLBACK TO SAVEPOINT s; DELETE FROM big WHERE id % 9 = 1";
    scene.exec(&format!("BEGIN; {several}; ROLLBACK")).await?;
    scene.exec(&format!("BEGIN; {several}; COMMIT")).await?;
    scene.quiet().await?;
    // In one process the run that has worked so far would end; its peak is read before.
    let sum = "SELECT coalesce(sum(v), 0) FROM big";
    let expected = scene.from().await?.text(sum).await?;
    wait::until("the large transactions are applied", PATIENCE, || async {
        let found = scene.to().await?.text(sum).await?;
        ensure!(found == expected, "{found:?} in place of {expected:?}");
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

suite! {
    wide a_large_transaction_in_process;
    main a_large_transaction_in_a_cluster;
}

async fn a_large_transaction_in_process(pair: Pair) -> Result<()> {
    bounded(pair, Form::InProcess).await
}

async fn a_large_transaction_in_a_cluster(pair: Pair) -> Result<()> {
    bounded(pair, Form::Cluster).await
}
