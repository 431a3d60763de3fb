//! Copies of the two large tables: the raw COPY pipe, pgcopydb, drover in one process, drover as a cluster.

use anyhow::Result;
use drover_tests::{Drover, bulk};

use crate::meter::{Role, Sample};
use crate::stage::{Cluster, DATABASE, PATIENCE, Stage};

const TABLES: [&str; 2] = ["li", "sb"];
/// Two primary keys and one index.
const INDEXES: i64 = 3;

/// `psql | psql` for each table, both at once, into tables without keys; then the keys, both at once. The rows alone, and all.
pub async fn pipe(stage: &mut Stage) -> Result<(Sample, Sample)> {
    stage.clean().await?;
    stage.destination.exec(DATABASE, &format!("{}; {}", bulk::LI, bulk::SB)).await?;
    let (psql, source, destination) =
        (stage.program("psql"), stage.source.url(DATABASE), stage.destination.url(DATABASE));
    let copy = |table: &str| {
        format!(
            "{psql} -X -q {source} -c 'COPY {table} TO STDOUT (FORMAT binary)' | \
            {psql} -X -q {destination} -c 'COPY {table} FROM STDIN (FORMAT binary)'"
        )
    };
    let meter = stage.meter(false, true)?;
    stage.shell("psql", &both(&copy("li"), &copy("sb")), &meter).await?;
    let rows = meter.finish()?;
    let keys = |sql: &str| format!("{psql} -X -q {destination} -c '{sql}'");
    let meter = stage.meter(false, true)?;
    stage.shell("psql", &both(&keys(bulk::LI_KEYS), &keys(bulk::SB_KEYS)), &meter).await?;
    let all = rows.clone().then(&meter.finish()?);
    stage.judge(&TABLES, INDEXES).await?;
    Ok((rows, all))
}

/// Two commands at once; the failure of either is one of the whole.
fn both(one: &str, other: &str) -> String {
    format!("( {one} ) & first=$!; ( {other} ); wait $first")
}

/// `pgcopydb clone` of the database, which has only the two tables. (It vacuums and analyses them, too.)
pub async fn pgcopydb(stage: &mut Stage) -> Result<Sample> {
    stage.clean().await?;
    let folder = tempfile::tempdir()?;
    let jobs = stage.options.jobs;
    let script = format!(
        "exec pgcopydb clone --source '{}' --target '{}' --dir {}/work --table-jobs {jobs} --index-jobs {jobs} \
        --split-tables-larger-than '200 MB' --no-owner --no-acl",
        stage.source.url(DATABASE),
        stage.destination.url(DATABASE),
        folder.path().display()
    );
    let meter = stage.meter(false, true)?;
    stage.shell("pgcopydb", &script, &meter).await?;
    let sample = meter.finish()?;
    stage.judge(&TABLES, INDEXES).await?;
    Ok(sample)
}

/// `drover run` with the stages schema and full, from its start to its end.
pub async fn run(stage: &mut Stage) -> Result<Sample> {
    stage.clean().await?;
    let drover = Drover::new()?;
    let file = drover.write("bench.toml", &stage.migration("\"schema\", \"full\"", &TABLES, false)?)?;
    let file = file.display().to_string();
    let meter = stage.meter(false, true)?;
    let mut process = drover.spawn(&["run", &file, "--state", "state"])?;
    meter.add(Role::Client, "drover run", process.pid(), 0.0);
    process.expect_exit(PATIENCE, 0).await?;
    let sample = meter.finish()?;
    stage.judge(&TABLES, INDEXES).await?;
    Ok(sample)
}

/// The same by a cluster over Kafka, from `migration create` to the state "completed".
pub async fn cluster(stage: &mut Stage, extractors: u32, appliers: u32) -> Result<Sample> {
    stage.clean().await?;
    let mut cluster = Cluster::start(extractors, appliers).await?;
    let text = stage.migration("\"schema\", \"full\"", &TABLES, true)?;
    let file = cluster.drover.write("bench.toml", &text)?.display().to_string();
    let meter = stage.meter(true, false)?;
    cluster.metered(&meter)?;
    cluster.verb(&["migration", "create", &file]).await?;
    let name = stage.name();
    cluster.until("the copy is complete", &name, |shown| shown["state"] == "completed").await?;
    let sample = meter.finish()?;
    stage.judge(&TABLES, INDEXES).await?;
    cluster.verb(&["migration", "delete", &name]).await?;
    Ok(sample)
}
