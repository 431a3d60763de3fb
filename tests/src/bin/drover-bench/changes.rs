//! Catching up: changes are made while nobody applies them, then the time from the start of the applying to the last change's
//! arrival is taken. Native logical replication is the reference, on the same tables, with the same `synchronous_commit` (off: it
//! is the subscription's default and what drover applies with).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use drover_tests::{Drover, Process};
use tokio_postgres::Client;

use crate::meter::{Meter, Role, Sample};
use crate::stage::{Cluster, DATABASE, PATIENCE, Stage, arrives, destination};

const FENCE: &str = "SELECT v FROM ev WHERE id = 0";
const RUNNING: &str = "\"schema\", \"full\", \"incremental\"";

/// The two histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Transactions of one updated row.
    Single,
    /// Transactions that update many rows.
    Bulk,
}

/// One measurement of each kind.
pub struct Both {
    pub single: Sample,
    pub bulk: Sample,
}

/// The table that changes. Row 0 is the fence: its value says how far one has come.
pub async fn create(stage: &Stage) -> Result<()> {
    let client = stage.source.connect(DATABASE).await?;
    let sql = format!(
        "CREATE TABLE ev (id bigint PRIMARY KEY, v bigint NOT NULL, note text NOT NULL);
        INSERT INTO ev SELECT i, 0, 'event ' || md5(i::text) FROM generate_series(0, {}::bigint) i",
        stage.options.changing
    );
    client.batch_execute(&sql).await?;
    Ok(client.batch_execute("VACUUM ANALYZE ev").await?)
}

/// Changes `ev` and moves its fence; the fence's new value.
async fn generate(stage: &Stage, kind: Kind) -> Result<i64> {
    let client = stage.source.connect(DATABASE).await?;
    client.batch_execute("VACUUM ev").await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    let rows = stage.options.changing;
    match kind {
        Kind::Single => {
            let sql = format!(
                "DO $$ BEGIN FOR i IN 1..{} LOOP
                    UPDATE ev SET v = v + 1 WHERE id = i::bigint * 2654435761 % {rows} + 1; COMMIT;
                END LOOP; END $$",
                stage.options.singles
            );
            client.batch_execute(&sql).await?;
        }
        Kind::Bulk => {
            let step = stage.options.bulk_transaction.min(rows);
            let mut first = 1;
            for _ in 0..stage.options.bulk.div_ceil(step) {
                if first + step > rows + 1 {
                    first = 1;
                }
                let sql = format!("UPDATE ev SET v = v + 1 WHERE id >= {first} AND id < {}", first + step);
                if client.execute(&sql, &[]).await? != step {
                    bail!("not {step} rows: {sql}");
                }
                first += step;
            }
        }
    }
    client.batch_execute("SET synchronous_commit = on").await?;
    fence(&client).await
}

async fn fence(client: &Client) -> Result<i64> {
    Ok(client.query_one("UPDATE ev SET v = v + 1 WHERE id = 0 RETURNING v", &[]).await?.get(0))
}

/// An error unless both sides of `ev` add up to the same.
async fn judge(stage: &Stage) -> Result<()> {
    let sql = "SELECT format('%s rows, %s, %s', count(*), sum(v), sum(hashtextextended(t::text, 0))) FROM ev t";
    let source = stage.source.query_one_text(DATABASE, sql).await?;
    let destination = stage.destination.query_one_text(DATABASE, sql).await?;
    if source != destination {
        bail!("ev: {source:?} at the source, {destination:?} at the destination");
    }
    Ok(())
}

/// `CREATE SUBSCRIPTION`.
pub async fn native(stage: &mut Stage) -> Result<Both> {
    stage.clean().await?;
    let (source, target) = (stage.source.connect(DATABASE).await?, destination(stage).await?);
    source.batch_execute("CREATE PUBLICATION bench FOR TABLE ev").await?;
    target.batch_execute("CREATE TABLE ev (id bigint PRIMARY KEY, v bigint NOT NULL, note text NOT NULL)").await?;
    let streaming = if stage.options.version >= 16 { "parallel" } else { "on" };
    let sql = format!(
        "CREATE SUBSCRIPTION bench CONNECTION 'host=127.0.0.1 port={} dbname={DATABASE} user=drover' PUBLICATION bench
        WITH (streaming = {streaming}, synchronous_commit = off)",
        stage.source.port()
    );
    target.batch_execute(&sql).await?;
    arrives(&target, FENCE, fence(&source).await?, None).await?;
    let mut samples = Vec::new();
    for kind in [Kind::Single, Kind::Bulk] {
        target.batch_execute("ALTER SUBSCRIPTION bench DISABLE").await?;
        nobody_reads(&source).await?;
        let value = generate(stage, kind).await?;
        settle(&source, &target).await?;
        let meter = stage.meter(false, false)?;
        target.batch_execute("ALTER SUBSCRIPTION bench ENABLE").await?;
        arrives(&target, FENCE, value, None).await?;
        samples.push(meter.finish()?);
        judge(stage).await?;
    }
    target.batch_execute("DROP SUBSCRIPTION bench").await?;
    pair(samples)
}

/// `drover run`: caught up and stopped, then started again on what was written meanwhile. Its start is part of the time.
pub async fn run(stage: &mut Stage) -> Result<Both> {
    stage.clean().await?;
    let drover = Drover::new()?;
    let file = drover.write("bench.toml", &stage.migration(RUNNING, &["ev"], false)?)?.display().to_string();
    caught_up(&drover, &file).await?;
    let (source, target) = (stage.source.connect(DATABASE).await?, destination(stage).await?);
    let mut samples = Vec::new();
    for kind in [Kind::Single, Kind::Bulk] {
        nobody_reads(&source).await?;
        let value = generate(stage, kind).await?;
        settle(&source, &target).await?;
        let meter = stage.meter(false, false)?;
        let mut process = started(&drover, &file, &meter)?;
        arrives(&target, FENCE, value, Some(&mut process)).await?;
        samples.push(meter.finish()?);
        stopped(&mut process).await?;
        judge(stage).await?;
    }
    pair(samples)
}

/// The cluster: paused, then resumed on what was written meanwhile.
pub async fn cluster(stage: &mut Stage, extractors: u32, appliers: u32) -> Result<Both> {
    stage.clean().await?;
    let mut cluster = Cluster::start(extractors, appliers).await?;
    let name = follow(stage, &mut cluster, "ev").await?;
    let (source, target) = (stage.source.connect(DATABASE).await?, destination(stage).await?);
    cluster.arrives(&name, &target, FENCE, fence(&source).await?).await?;
    let mut samples = Vec::new();
    for kind in [Kind::Single, Kind::Bulk] {
        pause(&mut cluster, &name).await?;
        nobody_reads(&source).await?;
        let value = generate(stage, kind).await?;
        settle(&source, &target).await?;
        let meter = stage.meter(true, false)?;
        cluster.metered(&meter)?;
        cluster.verb(&["migration", "resume", &name]).await?;
        cluster.arrives(&name, &target, FENCE, value).await?;
        samples.push(meter.finish()?);
        judge(stage).await?;
    }
    finish(&cluster, &name).await?;
    pair(samples)
}

/// One transaction that updates every row of `sb`, by `drover run`.
pub async fn huge_run(stage: &mut Stage) -> Result<Sample> {
    stage.clean().await?;
    let drover = Drover::new()?;
    let file = drover.write("bench.toml", &stage.migration(RUNNING, &["sb"], false)?)?.display().to_string();
    caught_up(&drover, &file).await?;
    let (value, target) = (huge(stage).await?, destination(stage).await?);
    let meter = stage.meter(false, false)?;
    let mut process = started(&drover, &file, &meter)?;
    arrives(&target, HUGE_FENCE, value, Some(&mut process)).await?;
    let sample = meter.finish()?;
    stopped(&mut process).await?;
    Ok(sample)
}

/// The same by a cluster.
pub async fn huge_cluster(stage: &mut Stage, extractors: u32, appliers: u32) -> Result<Sample> {
    stage.clean().await?;
    let mut cluster = Cluster::start(extractors, appliers).await?;
    let name = follow(stage, &mut cluster, "sb").await?;
    pause(&mut cluster, &name).await?;
    let (value, target) = (huge(stage).await?, destination(stage).await?);
    let meter = stage.meter(true, false)?;
    cluster.metered(&meter)?;
    cluster.verb(&["migration", "resume", &name]).await?;
    cluster.arrives(&name, &target, HUGE_FENCE, value).await?;
    let sample = meter.finish()?;
    finish(&cluster, &name).await?;
    Ok(sample)
}

/// Whole transactions arrive whole, so any row of the one will do.
const HUGE_FENCE: &str = "SELECT k::bigint FROM sb WHERE id = 1";

async fn huge(stage: &Stage) -> Result<i64> {
    let client = stage.source.connect(DATABASE).await?;
    nobody_reads(&client).await?;
    client.batch_execute("UPDATE sb SET k = k + 1").await?;
    let value = client.query_one(HUGE_FENCE, &[]).await?.get(0);
    client.batch_execute("CHECKPOINT").await?;
    Ok(value)
}

/// Schema and rows are copied and the first changes applied when this returns.
async fn caught_up(drover: &Drover, file: &str) -> Result<()> {
    let arguments = ["run", file, "--state", "state", "--until", "caught-up"];
    drover.run(&arguments, PATIENCE).await?.expect(0).map(|_| ())
}

fn started(drover: &Drover, file: &str, meter: &Meter) -> Result<Process> {
    let process = drover.spawn(&["run", file, "--state", "state"])?;
    meter.add(Role::Client, "drover run", process.pid(), 0.0);
    Ok(process)
}

/// Ctrl-C; there is always more to do.
async fn stopped(process: &mut Process) -> Result<()> {
    process.interrupt()?;
    process.expect_exit(Duration::from_secs(60), 4).await
}

/// A migration with changes of one table in the cluster, its copy finished; its name.
async fn follow(stage: &Stage, cluster: &mut Cluster, table: &str) -> Result<String> {
    let file = cluster.drover.write("bench.toml", &stage.migration(RUNNING, &[table], true)?)?.display().to_string();
    cluster.verb(&["migration", "create", &file]).await?;
    let name = stage.name();
    let copied = |shown: &serde_json::Value| shown["stages"]["full"]["state"] == "completed";
    cluster.until("the copy is complete", &name, copied).await?;
    Ok(name)
}

async fn pause(cluster: &mut Cluster, name: &str) -> Result<()> {
    cluster.verb(&["migration", "pause", name]).await?;
    cluster.until("it is paused", name, |shown| shown["state"] == "paused").await
}

async fn finish(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.verb(&["migration", "stop", name]).await?;
    cluster.verb(&["migration", "delete", name]).await
}

/// Waits until no slot is in use: what is written from now on has to be caught up with.
async fn nobody_reads(source: &Client) -> Result<()> {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE active";
    drover_tests::wait::until_eq("the slot is free", Duration::from_secs(60), 0_i64, || async {
        Ok(source.query_one(sql, &[]).await?.get(0))
    })
    .await
}

/// The generation's dirty pages are not to be written during the measurement; the destination's dead rows may be used again.
async fn settle(source: &Client, target: &Client) -> Result<()> {
    target.batch_execute("VACUUM ev").await?;
    source.batch_execute("CHECKPOINT").await?;
    Ok(target.batch_execute("CHECKPOINT").await?)
}

fn pair(samples: Vec<Sample>) -> Result<Both> {
    let [single, bulk] = <[Sample; 2]>::try_from(samples).ok().context("two samples")?;
    Ok(Both { single, bulk })
}
