//! A transaction far larger than any buffer passes in bounded memory, in both forms; and one that is rolled back leaves nothing.

use anyhow::{Context, Result, ensure};
use drover_tests::deployment::PATIENCE;
use drover_tests::{Dialect, Form, Pair, Process, Scene, suite, wait};
use std::collections::BTreeSet;

/// The promise: no process above that.
const BOUND_KIB: u64 = 200 * 1000;

/// What buffers may hold together, in MiB, by process: so that there is room for everything else below the promise. The coordinator has none.
const BUFFERS_MIB: [(&str, u64); 4] = [("run", 160), ("extractor", 64), ("applier", 96), ("coordinator", 0)];

/// All buffers, in the order in which `docs/architecture.md` lists them.
const BUFFERS: [&str; 13] = [
    "copy.blocks",
    "stream.transactions",
    "log.changes",
    "log.recent",
    "log.bulk",
    "log.producer",
    "log.parts",
    "load.pieces",
    "apply.batches",
    "apply.pieces",
    "apply.keys",
    "apply.statements",
    "validate.keys",
];

/// Those that a process must have while changes are applied.
fn working(pair: Pair, form: Form) -> Vec<&'static str> {
    let mut all = vec!["copy.blocks", "stream.transactions", "apply.batches", "apply.pieces", "apply.keys"];
    all.extend(match form {
        Form::InProcess => ["log.changes", "log.recent", "log.bulk"].as_slice(),
        Form::Cluster => &["log.producer", "log.parts"],
    });
    all.extend((pair.destination.dialect() == Dialect::Postgres).then_some("apply.statements"));
    all
}

/// What a process says of its buffers: name, bytes now, at most so far, and at most.
async fn buffers(process: &Process) -> Result<Vec<(String, [u64; 3])>> {
    let answer = process.answer("/metrics").await?;
    let of = |metric: &str| -> Result<Vec<(String, u64)>> {
        let head = format!("drover_buffer_{metric}{{buffer=\"");
        let lines = answer.lines().filter_map(|line| line.strip_prefix(&head)?.split_once("\"} "));
        lines.map(|(name, bytes)| Ok((name.to_owned(), bytes.parse()?))).collect()
    };
    let (now, peak, limit) = (of("bytes")?, of("peak_bytes")?, of("limit_bytes")?);
    ensure!(answer.contains("drover_buffer_bytes") && now.len() == limit.len() && now.len() == peak.len(), "{answer}");
    Ok(now
        .into_iter()
        .zip(peak)
        .zip(limit)
        .map(|(((name, now), peak), limit)| (name, [now, peak.1, limit.1]))
        .collect())
}

/// No buffer is beyond its limit, the limits of a process go together, and every buffer that must be there is.
async fn within_limits(scene: &mut Scene, pair: Pair, form: Form) -> Result<()> {
    let mut found = BTreeSet::new();
    for process in scene.drover.processes() {
        let mut sum = 0;
        for (name, [now, peak, limit]) in buffers(process).await? {
            println!("{} {name}: {now} now, {peak} at most, of {limit}", process.name());
            ensure!(now <= limit && peak <= limit, "{name} of {}: {now}, {peak} of {limit}", process.name());
            ensure!(BUFFERS.contains(&&*name), "the buffer {name} is in no list");
            sum += limit;
            found.insert(name);
        }
        let bound = BUFFERS_MIB.iter().find(|(role, _)| process.name().contains(role)).map(|(_, mib)| mib << 20);
        let bound = bound.with_context(|| format!("no bound for {}", process.name()))?;
        ensure!(sum <= bound, "the buffers of {} may have {sum} bytes of {bound}", process.name());
    }
    let missing: Vec<_> = working(pair, form).into_iter().filter(|name| !found.contains(*name)).collect();
    ensure!(missing.is_empty(), "no account of {missing:?}, only {found:?}");
    Ok(())
}

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
    within_limits(&mut scene, pair, form).await?;
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
