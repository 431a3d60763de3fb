//! CPU time by role and peak memory by process, from `/proc`.
//!
//! CPU of a server is that of its main process, of its living children and of those it has waited for. CPU of a client that has
//! ended is what this program's own children have used; that of one still at work is read from it. Both differences together
//! are the client's share, whichever way it ends. Memory is looked at four times a second; what counts for drover, Kafka and
//! pgcopydb is the kernel's own high-water mark (VmHWM), so nothing is missed between two looks, but for the last ones of a
//! process that ends. A database server's processes share most of their memory: for them it is the largest private part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use drover_tests::process;
use serde::Serialize;
use tokio::task::JoinHandle;

/// Who uses time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The database that is read.
    Source,
    /// drover, or what is compared with it.
    Client,
    /// The broker.
    Kafka,
    /// The database that is written.
    Destination,
}

/// CPU seconds by role.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    pub source: f64,
    pub client: f64,
    pub kafka: f64,
    pub destination: f64,
    /// What all other processes of the machine used meanwhile: noise.
    pub others: f64,
}

impl Cpu {
    /// All roles, without the noise.
    pub fn total(&self) -> f64 {
        self.source + self.client + self.kafka + self.destination
    }

    /// Each of them times `factor`.
    pub fn scaled(&self, factor: f64) -> Cpu {
        Cpu {
            source: self.source * factor,
            client: self.client * factor,
            kafka: self.kafka * factor,
            destination: self.destination * factor,
            others: self.others * factor,
        }
    }
}

/// One measured run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub wall_seconds: f64,
    pub cpu_seconds: Cpu,
    /// Peak memory in MiB by process.
    pub peak_mib: BTreeMap<String, f64>,
}

impl Sample {
    /// Two parts of one run, one after the other.
    pub fn then(mut self, next: &Sample) -> Sample {
        let (a, b) = (&mut self.cpu_seconds, &next.cpu_seconds);
        a.source += b.source;
        a.client += b.client;
        a.kafka += b.kafka;
        a.destination += b.destination;
        a.others += b.others;
        self.wall_seconds += next.wall_seconds;
        for (name, peak) in &next.peak_mib {
            let known = self.peak_mib.entry(name.clone()).or_default();
            *known = known.max(*peak);
        }
        self
    }
}

#[derive(Clone, Debug)]
struct Watched {
    role: Role,
    name: String,
    pid: u32,
    before: f64,
}

type Shared<T> = Arc<Mutex<T>>;

/// A measurement under way.
pub struct Meter {
    begin: Instant,
    watched: Shared<Vec<Watched>>,
    peaks: Shared<BTreeMap<String, f64>>,
    looker: JoinHandle<()>,
    /// CPU of ended children at the beginning; `None` when they do not count.
    children: Option<f64>,
    busy: f64,
}

impl Meter {
    /// Begins. `children`: whether clients that this program starts, and that end within the measurement, count.
    pub fn start(processes: &[(Role, &str, u32)], children: bool) -> Result<Meter> {
        let watched: Shared<Vec<Watched>> = Arc::default();
        let peaks: Shared<BTreeMap<String, f64>> = Arc::default();
        let looker = tokio::spawn(look(Arc::clone(&watched), Arc::clone(&peaks)));
        let children = if children { Some(ended_children()?) } else { None };
        let mut meter = Meter { begin: Instant::now(), watched, peaks, looker, children, busy: 0.0 };
        for (role, name, pid) in processes {
            meter.add(*role, name, *pid, process::cpu_seconds(*pid)?);
        }
        meter.busy = machine_busy()?;
        meter.begin = Instant::now();
        Ok(meter)
    }

    /// Watches one more process; `before` is what it had used before the measurement.
    pub fn add(&self, role: Role, name: &str, pid: u32, before: f64) {
        lock(&self.watched).push(Watched { role, name: name.to_owned(), pid, before });
    }

    /// Ends.
    pub fn finish(self) -> Result<Sample> {
        let wall_seconds = self.begin.elapsed().as_secs_f64();
        let mut cpu = Cpu::default();
        let watched = lock(&self.watched).clone();
        for one in &watched {
            // An ended client is among the children.
            let used = process::cpu_seconds(one.pid).map_or(0.0, |now| now - one.before);
            match one.role {
                Role::Source => cpu.source += used,
                Role::Client => cpu.client += used,
                Role::Kafka => cpu.kafka += used,
                Role::Destination => cpu.destination += used,
            }
        }
        if let Some(before) = self.children {
            cpu.client += ended_children()? - before;
        }
        cpu.others = (machine_busy()? - self.busy - cpu.total()).max(0.0);
        look_once(&watched, &mut lock(&self.peaks));
        self.looker.abort();
        let peak_mib = lock(&self.peaks).clone();
        Ok(Sample { wall_seconds, cpu_seconds: cpu, peak_mib })
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(watched: Shared<Vec<Watched>>, peaks: Shared<BTreeMap<String, f64>>) {
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    loop {
        pace.tick().await;
        let now = lock(&watched).clone();
        look_once(&now, &mut lock(&peaks));
    }
}

fn look_once(watched: &[Watched], peaks: &mut BTreeMap<String, f64>) {
    for one in watched {
        let server = matches!(one.role, Role::Source | Role::Destination);
        let field = if server { "RssAnon:" } else { "VmHWM:" };
        let mut pids = vec![one.pid];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            pids.extend(children(*pid));
            next += 1;
        }
        let most = pids.iter().filter_map(|pid| mib(*pid, field)).fold(0.0, f64::max);
        let known = peaks.entry(one.name.clone()).or_default();
        *known = known.max(most);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn mib(pid: u32, field: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// CPU seconds of this program's children (and theirs) that have ended: cutime and cstime of proc(5).
fn ended_children() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    Ok(ticks(fields.skip(13).take(2)))
}

/// CPU seconds of the whole machine that were neither idle nor waiting for a disk.
fn machine_busy() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    // cpu user nice system idle iowait irq softirq steal …; guests are counted within user and nice
    let fields: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).collect();
    let used = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at).copied());
    Ok(ticks(used))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> f64 {
    let sum: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    sum as f64 / rustix::param::clock_ticks_per_second() as f64
}
