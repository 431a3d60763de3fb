//! `simulate`: runs of the simulation by seeds, each in a process of its own (so that nothing of one run is left for the next), as many at
//! once as there are cores. Says which failpoints were reached and what went wrong on purpose; of a seed that breaks a promise it says how to see
//! it again.

use clap::{Parser, ValueEnum};
use drover_connectors_memory as memory;
use drover_simulation::{Options, Sabotage, log, run};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Args {
    /// So many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first of them; without it a fresh one, by the clock.
    #[arg(long)]
    first: Option<u64>,
    /// Begins no further seed after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs at once; without it one for each core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Carries one seed out in this process and prints what came of it as JSON.
    #[arg(long)]
    one: Option<u64>,
    /// With --one: prints the trace.
    #[arg(long)]
    trace: bool,
    /// Nothing goes wrong.
    #[arg(long)]
    calm: bool,
    /// A promise that is broken on purpose.
    #[arg(long)]
    sabotage: Option<Broken>,
    /// Goes on after a broken promise.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Broken {
    Epoch,
    Order,
    Marks,
    Outcome,
    Halves,
    Loses,
    Reorders,
    Early,
    Blind,
    Blur,
}

fn sabotage(broken: Option<Broken>) -> Sabotage {
    use Sabotage::{Destination, Log, Source};
    match broken {
        None => Sabotage::None,
        Some(Broken::Epoch) => Destination(memory::Broken::Epoch),
        Some(Broken::Order) => Destination(memory::Broken::Order),
        Some(Broken::Marks) => Destination(memory::Broken::Marks),
        Some(Broken::Outcome) => Destination(memory::Broken::Outcome),
        Some(Broken::Halves) => Destination(memory::Broken::Halves),
        Some(Broken::Loses) => Log(log::Broken::Loses),
        Some(Broken::Reorders) => Log(log::Broken::Reorders),
        Some(Broken::Early) => Log(log::Broken::Early),
        Some(Broken::Blind) => Sabotage::Blind,
        Some(Broken::Blur) => Source(memory::Broken::Blur),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.one {
        Some(seed) => one(&args, seed),
        None => many(&args),
    }
}

fn one(args: &Args, seed: u64) -> ExitCode {
    if std::env::var("RUST_LOG").is_ok() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stdout).init();
    }
    let report = run(Options { seed, calm: args.calm, print: args.trace, sabotage: sabotage(args.sabotage) });
    let line = json!({
        "hash": format!("{:016x}", report.hash),
        "steps": report.steps,
        "comparisons": report.comparisons,
        "reached": report.reached,
        "faults": report.faults,
        "broken": report.violation,
    });
    println!("{line}");
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A run may take so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a seed in a process of its own.
fn child(args: &Args, seed: u64) -> Result<Value, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(exe);
    command.args(["--one", &seed.to_string()]).args(args.calm.then_some("--calm"));
    if let Some(name) = args.sabotage.as_ref().and_then(ValueEnum::to_possible_value) {
        command.args(["--sabotage", name.get_name()]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let began = Instant::now();
    // Its one line fits into the pipe.
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        if began.elapsed() > PATIENCE {
            // It may have ended just now.
            let _ = child.kill();
            return Err("it takes too long: it hangs without time passing".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("it ended with {}: {}", output.status, stderr.lines().last().unwrap_or_default())
    })
}

#[derive(Default)]
struct Sums {
    seeds: u64,
    steps: u64,
    short: u64,
    comparisons: u64,
    reached: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    broken: Vec<(u64, String)>,
}

/// Steps that a run has at least, as promised.
const STEPS: u64 = 300;

impl Sums {
    fn add(&mut self, seed: u64, result: Result<Value, String>) {
        self.seeds += 1;
        let value = match result {
            Ok(value) => value,
            Err(error) => return self.broken.push((seed, error)),
        };
        let steps = value["steps"].as_u64().unwrap_or_default();
        self.steps += steps;
        self.short += u64::from(steps < STEPS);
        self.comparisons += value["comparisons"].as_u64().unwrap_or_default();
        for (of, sums) in [("reached", &mut self.reached), ("faults", &mut self.faults)] {
            for (name, n) in value[of].as_object().into_iter().flatten() {
                *sums.entry(name.clone()).or_default() += n.as_u64().unwrap_or_default();
            }
        }
        if let Some(broken) = value["broken"].as_str() {
            self.broken.push((seed, broken.to_owned()));
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let clock = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let first = args.first.unwrap_or(clock.as_millis() as u64 % 1_000_000_000_000);
    let seeds = if args.seconds.is_some() && args.seeds == 1 { u64::MAX - first } else { args.seeds };
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("simulate: seeds from {first}, {jobs} at once");
    let (next, sums, began) = (AtomicU64::new(first), Mutex::new(Sums::default()), Instant::now());
    let over = |sums: &Sums| {
        (!sums.broken.is_empty() && !args.all) || args.seconds.is_some_and(|s| began.elapsed().as_secs() >= s)
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - first >= seeds || sums.lock().is_ok_and(|s| over(&s)) {
                        return;
                    }
                    let result = child(args, seed);
                    let Ok(mut sums) = sums.lock() else { return };
                    let before = sums.broken.len();
                    sums.add(seed, result);
                    if let Some((seed, broken)) = sums.broken.get(before) {
                        println!("seed {seed}: {broken}");
                    }
                    if sums.seeds.is_multiple_of(250) {
                        let minutes = began.elapsed().as_secs_f64() / 60.0;
                        println!("{} seeds, {:.0} a minute", sums.seeds, sums.seeds as f64 / minutes);
                    }
                }
            });
        }
    });
    let Ok(sums) = sums.into_inner() else { return ExitCode::FAILURE };
    print(args, &sums, began.elapsed())
}

fn print(args: &Args, sums: &Sums, took: Duration) -> ExitCode {
    let list = |of: &BTreeMap<String, u64>| of.iter().map(|(k, n)| format!("{k} {n}")).collect::<Vec<_>>().join(", ");
    println!("failpoints reached: {}", list(&sums.reached));
    println!("went wrong on purpose: {}", list(&sums.faults));
    println!(
        "{} seeds in {:.0} s ({:.0} a minute), {} steps a seed ({} seeds with less than {STEPS}), {} states compared",
        sums.seeds,
        took.as_secs_f64(),
        sums.seeds as f64 * 60.0 / took.as_secs_f64().max(0.001),
        sums.steps / sums.seeds.max(1),
        sums.short,
        sums.comparisons,
    );
    if sums.broken.is_empty() {
        println!("no promise was broken");
        return ExitCode::SUCCESS;
    }
    println!("{} seeds broke a promise:", sums.broken.len());
    let exe = std::env::current_exe().map_or_else(|_| "simulate".into(), |e| e.display().to_string());
    let mut also = if args.calm { " --calm".to_owned() } else { String::new() };
    if let Some(name) = args.sabotage.as_ref().and_then(ValueEnum::to_possible_value) {
        also = format!("{also} --sabotage {}", name.get_name());
    }
    for (seed, broken) in sums.broken.iter().take(20) {
        println!("  seed {seed}: {broken}\n    {exe} --one {seed}{also} --trace");
    }
    ExitCode::FAILURE
}
