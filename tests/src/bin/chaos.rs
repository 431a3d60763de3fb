//! Carries out runs of the matrix of faults, one after the other, and writes what was seen to `target/chaos.md`, after each of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use drover_tests::chaos::{BOUND_KIB, Fault, Run, Seen, Stage, carry_out, form_name};
use drover_tests::{Form, Pair, pairs, scripts};

const USAGE: &str = "usage: chaos [--runs N] [--seed N] [--pair NAME] [--form run|cluster]
    Carries out N runs (100) from this seed on (else one of the clock's); without a pair or a form each run has its own.
    Status 1 if a promise was broken.";

struct Options {
    runs: u64,
    seed: u64,
    pair: Option<(&'static str, Pair)>,
    form: Option<Form>,
}

impl Options {
    fn of_arguments() -> Result<Options> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % 1_000_000_000;
        let mut options = Options { runs: 100, seed: clock, pair: None, form: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} needs a value\n{USAGE}"))?;
            match word.as_str() {
                "--runs" => options.runs = value.parse().context("--runs")?,
                "--seed" => options.seed = value.parse().context("--seed")?,
                "--pair" => {
                    let all = pairs::all();
                    let names = all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                    let found = all.into_iter().find(|(name, _)| *name == value);
                    options.pair = Some(found.with_context(|| format!("no pair {value}: there are {names}"))?);
                }
                "--form" => {
                    options.form = Some(match value.as_str() {
                        "run" => Form::InProcess,
                        "cluster" => Form::Cluster,
                        _ => bail!("no form {value}: there are run and cluster"),
                    });
                }
                _ => bail!("{word}?\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// What all runs together have come to.
#[derive(Default)]
struct Report {
    runs: u64,
    failures: Vec<String>,
    /// Struck and missed, by place, kind and form.
    cells: BTreeMap<(String, String, &'static str), (u64, u64)>,
    pairs: BTreeMap<(&'static str, &'static str), u64>,
    peaks: BTreeMap<String, u64>,
    transactions: u64,
    readings: u64,
}

impl Report {
    fn add(&mut self, run: &Run, seen: &Seen, outcome: &Result<()>, keep: &Path) {
        let form = form_name(run.form);
        self.runs += 1;
        *self.pairs.entry((run.name, form)).or_default() += 1;
        let key = |f: &Fault| (f.place.to_string(), f.kind.to_string(), form);
        seen.struck.iter().for_each(|f| self.cells.entry(key(f)).or_default().0 += 1);
        seen.missed.iter().for_each(|f| self.cells.entry(key(f)).or_default().1 += 1);
        for (process, peak) in &seen.peaks {
            let most = self.peaks.entry(process.clone()).or_default();
            *most = (*most).max(*peak);
        }
        self.transactions += seen.transactions;
        self.readings += seen.readings;
        if let Err(error) = outcome {
            self.failures.push(format!(
                "### {run}\n\nAgain: `make chaos RUNS=1 SEED={} PAIR={} FORM={form}`; logs: `{}`\n\n```\n{error:?}\n```\n",
                run.seed,
                run.name,
                keep.display()
            ));
        }
    }

    fn text(&self, options: &Options, took: Duration) -> Result<String> {
        let mut out = String::new();
        writeln!(
            out,
            "# Chaos\n\n{} of {} runs from seed {} on in {:.0} s; {} broke a promise. {} transactions of the application, {} readings of the invariant.\n",
            self.runs,
            options.runs,
            options.seed,
            took.as_secs_f64(),
            self.failures.len(),
            self.transactions,
            self.readings
        )?;
        if !self.failures.is_empty() {
            writeln!(out, "## Broken promises\n\n{}", self.failures.join("\n"))?;
        }
        writeln!(out, "## Faults\n\nStruck, and in brackets those whose failpoint was not passed in their run.\n")?;
        writeln!(out, "| Where | What | run | cluster |\n|---|---|---|---|")?;
        let mut rows: Vec<(&String, &String)> = self.cells.keys().map(|(place, kind, _)| (place, kind)).collect();
        rows.dedup();
        for (place, kind) in rows {
            let cell = |form| match self.cells.get(&(place.clone(), kind.clone(), form)) {
                Some((struck, 0)) => struck.to_string(),
                Some((struck, missed)) => format!("{struck} ({missed})"),
                None => "–".to_owned(),
            };
            writeln!(out, "| {place} | {kind} | {} | {} |", cell("run"), cell("cluster"))?;
        }
        writeln!(out, "\n## Pairs\n\n| Pair | Form | Runs |\n|---|---|---|")?;
        for ((pair, form), runs) in &self.pairs {
            writeln!(out, "| {pair} | {form} | {runs} |")?;
        }
        writeln!(out, "\n## Memory\n\nThe most of each process, of {} MB that are promised.\n", BOUND_KIB / 1000)?;
        writeln!(out, "| Process | MB |\n|---|---|")?;
        for (process, peak) in &self.peaks {
            writeln!(out, "| {process} | {} |", peak / 1000)?;
        }
        Ok(out)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::of_arguments()?;
    let target = scripts::repository().join("target");
    let path = target.join("chaos.md");
    let (begin, mut report, mut stage) = (Instant::now(), Report::default(), None::<Stage>);
    for number in 0..options.runs {
        let run = Run::of(options.seed + number, options.pair, options.form);
        println!("run {} of {}: {run}", number + 1, options.runs);
        let keep: PathBuf = target.join("chaos").join(format!("{}-{}-{}", run.seed, run.name, form_name(run.form)));
        if stage.as_ref().is_some_and(|s| s.pair != run.pair) {
            stage = None;
        }
        let set = match stage.take() {
            Some(stage) => stage,
            None => Stage::new(run.pair).await.context("servers")?,
        };
        let (left, seen, outcome) = carry_out(set, &run, &keep).await;
        stage = left;
        report.add(&run, &seen, &outcome, &keep);
        if let Err(error) = &outcome {
            println!("{error:?}");
        }
        println!(
            "    {} struck, {} not reached, {:.1} s; {} of {} runs broke a promise",
            seen.struck.len(),
            seen.missed.len(),
            seen.took.as_secs_f64(),
            report.failures.len(),
            report.runs
        );
        std::fs::write(&path, report.text(&options, begin.elapsed())?).with_context(|| path.display().to_string())?;
    }
    println!("{}", path.display());
    if report.failures.is_empty() { Ok(()) } else { std::process::exit(1) }
}
