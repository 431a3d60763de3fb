//! `make bench`: what drover costs beside the raw COPY pipe, pgcopydb and native logical replication, from one run on one machine.
//!
//! Each round measures every system once, one after the other, so that what else the machine does strikes them alike; of the
//! rounds the better run of each counts. Every run ends with a look at the rows. Nothing here is a test with a time limit: floors
//! are printed beside the numbers, and the exit status is 0 unless something could not be measured at all (1).

mod changes;
mod copy;
mod meter;
mod options;
mod report;
mod stage;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use meter::Sample;
use options::Options;
use report::Report;
use stage::{DATABASE, Stage};

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::from_env()?;
    let mut report = Report { machine: machine(), setup: setup(&options), ..Report::default() };
    eprintln!("starting servers, filling the source");
    let mut stage = Stage::prepare(options.clone()).await?;
    for round in 1..=options.rounds {
        copies(&mut stage, &mut report, round).await;
    }
    if ["drover", "cluster", "native"].iter().any(|part| options.has(part)) {
        changes::create(&stage).await?;
        for round in 1..=options.rounds {
            catching_up(&mut stage, &mut report, round).await;
        }
    }
    if options.has("memory") {
        huge(&mut stage, &mut report).await;
    }
    report.machine.insert("load at the end".into(), load());
    report.judge();
    println!();
    report.print();
    println!("\nThe same by hand (each into an empty database)\n{}", by_hand(&stage));
    std::fs::write(&options.json, serde_json::to_string_pretty(&report)?)?;
    println!("\nAs JSON: {}", options.json);
    std::process::exit(i32::from(!report.broken.is_empty()));
}

/// Takes the outcome of one run, or notes why there is none.
fn take<T>(report: &mut Report, what: String, begin: Instant, outcome: Result<T>, store: impl FnOnce(&mut Report, T)) {
    match outcome {
        Ok(value) => {
            eprintln!("  {what}: {:.1} s in all", begin.elapsed().as_secs_f64());
            store(report, value);
        }
        Err(error) => {
            eprintln!("  {what}: BROKEN: {error:#}");
            report.broken.push(format!("{what}: {error:#}"));
        }
    }
}

async fn copies(stage: &mut Stage, report: &mut Report, round: u32) {
    let options = stage.options.clone();
    let rows = options.rows * 2;
    eprintln!("copy, round {round} of {}", options.rounds);
    if options.has("pipe") {
        let begin = Instant::now();
        let outcome = copy::pipe(stage).await;
        take(report, "pipe".into(), begin, outcome, |report, (bare, all)| {
            report.take("copy", "pipe", rows, all);
            report.take("copy", "pipe, no keys", rows, bare);
        });
    }
    if options.has("pgcopydb") {
        let begin = Instant::now();
        let outcome = copy::pgcopydb(stage).await;
        take(report, "pgcopydb".into(), begin, outcome, |report, sample| report.take("copy", "pgcopydb", rows, sample));
    }
    if options.has("drover") {
        let begin = Instant::now();
        let outcome = copy::run(stage).await;
        take(report, "drover run".into(), begin, outcome, |report, sample| {
            report.take("copy", "drover run", rows, sample)
        });
    }
    for (extractors, appliers) in clusters(&options) {
        let begin = Instant::now();
        let name = format!("cluster {extractors}+{appliers}");
        let outcome = copy::cluster(stage, extractors, appliers).await;
        take(report, name.clone(), begin, outcome, |report, sample| report.take("copy", &name, rows, sample));
    }
}

async fn catching_up(stage: &mut Stage, report: &mut Report, round: u32) {
    let options = stage.options.clone();
    let bulk = options.bulk.div_ceil(options.bulk_transaction) * options.bulk_transaction.min(options.changing);
    let both = |report: &mut Report, system: &str, both: changes::Both| {
        report.take("single", system, options.singles, both.single);
        report.take("bulk", system, bulk, both.bulk);
    };
    eprintln!("changes, round {round} of {}", options.rounds);
    if options.has("native") {
        let begin = Instant::now();
        let outcome = changes::native(stage).await;
        take(report, "native".into(), begin, outcome, |report, pair| both(report, "native", pair));
    }
    if options.has("drover") {
        let begin = Instant::now();
        let outcome = changes::run(stage).await;
        take(report, "drover run".into(), begin, outcome, |report, pair| both(report, "drover run", pair));
    }
    for (extractors, appliers) in clusters(&options) {
        let begin = Instant::now();
        let name = format!("cluster {extractors}+{appliers}");
        let outcome = changes::cluster(stage, extractors, appliers).await;
        take(report, name.clone(), begin, outcome, |report, pair| both(report, &name, pair));
    }
}

async fn huge(stage: &mut Stage, report: &mut Report) {
    let options = stage.options.clone();
    let store =
        |system: String| move |report: &mut Report, sample: Sample| report.take("huge", &system, options.rows, sample);
    eprintln!("one transaction of {} rows", options.rows);
    if stage.options.has("drover") {
        let begin = Instant::now();
        let outcome = changes::huge_run(stage).await;
        take(report, "drover run".into(), begin, outcome, store("drover run".into()));
    }
    // Memory does not depend on how many they are.
    if let Some((extractors, appliers)) = clusters(&stage.options).first().copied() {
        let begin = Instant::now();
        let name = format!("cluster {extractors}+{appliers}");
        let outcome = changes::huge_cluster(stage, extractors, appliers).await;
        take(report, name.clone(), begin, outcome, store(name));
    }
}

fn clusters(options: &Options) -> Vec<(u32, u32)> {
    if options.has("cluster") { options.clusters.clone() } else { Vec::new() }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn machine() -> BTreeMap<String, String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    BTreeMap::from([
        ("processors".into(), format!("{cpus} × {}", model.map_or("unknown", |(_, name)| name))),
        ("load at the start".into(), load()),
    ])
}

fn setup(options: &Options) -> BTreeMap<String, String> {
    let changes = format!(
        "{} of one row; {} rows in transactions of {}; table of {}",
        options.singles, options.bulk, options.bulk_transaction, options.changing
    );
    BTreeMap::from([
        ("rows of li and sb".into(), options.rows.to_string()),
        ("changes".into(), changes),
        ("runs of each".into(), format!("{}, the better counts", options.rounds)),
        ("servers".into(), format!("PostgreSQL {}, both sides, fsync on, on 127.0.0.1", options.version)),
    ])
}

/// The commands that a reader may repeat.
fn by_hand(stage: &Stage) -> String {
    let jobs = stage.options.jobs;
    let streaming = if stage.options.version >= 16 { "parallel" } else { "on" };
    format!(
        "  pipe        psql SOURCE/{DATABASE} -c 'COPY li TO STDOUT (FORMAT binary)' | psql DESTINATION/{DATABASE} -c 'COPY li FROM STDIN (FORMAT binary)' & the same for sb, then the keys\n  \
        pgcopydb    pgcopydb clone --source SOURCE/{DATABASE} --target DESTINATION/{DATABASE} --table-jobs {jobs} --index-jobs {jobs} --split-tables-larger-than '200 MB'\n  \
        native      CREATE PUBLICATION bench FOR TABLE ev; CREATE SUBSCRIPTION bench … WITH (streaming = {streaming}, synchronous_commit = off); ALTER SUBSCRIPTION bench DISABLE; changes; ENABLE\n  \
        drover run  drover run bench.toml --state state                       (stages schema and full; for changes: incremental, too)\n  \
        cluster     drover coordinator; drover extractor; drover applier; drover migration create bench.toml   (pause; changes; resume)"
    )
}
