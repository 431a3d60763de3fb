//! How much memory a process needs for many tables, most of which goes into what is known of them. To be run by hand:
//!
//!     cargo build -p drover-cli
//!     DROVER_TABLES=10000 cargo test -p drover-tests --test many_tables -- --ignored --nocapture

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drover_tests::{Form, Scene, wait};

/// Tables of five rows and two indexes each.
fn tables() -> u64 {
    std::env::var("DROVER_TABLES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

/// Megabytes that a process may need, whatever the number of its tables.
const BOUND: u64 = 200;

async fn needs(form: Form) -> Result<()> {
    let mut scene = Scene::new(form, "").await?;
    let mut from = scene.from().await?;
    let tables = tables();
    for begin in (0..tables).step_by(500) {
        let end = (begin + 500).min(tables) - 1;
        let sql = format!(
            "DO $$ BEGIN FOR i IN {begin}..{end} LOOP
                EXECUTE format('CREATE TABLE many_%s (id bigint PRIMARY KEY, name varchar(40) NOT NULL, at timestamptz DEFAULT now())', i);
                EXECUTE format('CREATE INDEX many_%s_name ON many_%s (name)', i, i);
                EXECUTE format('CREATE INDEX many_%s_at ON many_%s (at)', i, i);
                EXECUTE format('INSERT INTO many_%s SELECT n, md5(n::text) FROM generate_series(1, 5) n', i);
            END LOOP; END $$"
        );
        from.run(&sql).await?;
    }
    let begin = Instant::now();
    scene.drover.start().await?;
    let patience = Duration::from_secs(3000);
    let counted = "SELECT count(*) FROM drover.drover_chunk";
    wait::until("all is copied", patience, async || {
        let loaded = scene.destination.admin().await?.number(counted).await.unwrap_or(0);
        Ok((loaded >= i64::try_from(tables)?).then_some(()))
    })
    .await?;
    scene.drover.wait_consistent().await.context("it does not become consistent")?;
    scene.exec("UPDATE many_1 SET name = 'changed'").await?;
    scene.reaches().await?;
    println!("{tables} tables, {form:?}: {:.0} s", begin.elapsed().as_secs_f64());
    let mut most = 0;
    for process in scene.drover.processes() {
        let (now, peak) = (process.rss_kib()? >> 10, process.peak_kib()? >> 10);
        println!("{}: {now} MB now, {peak} MB at most", process.name());
        most = most.max(peak);
    }
    ensure!(most < BOUND, "{most} MB");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn in_one_process() -> Result<()> {
    needs(Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn in_a_cluster() -> Result<()> {
    needs(Form::Cluster).await
}
