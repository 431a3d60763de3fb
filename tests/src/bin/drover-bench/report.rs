//! What was measured, as a table for people and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::meter::Sample;

/// One line of the report: a system doing a piece of work, its better run.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// `copy`, `single`, `bulk` or `huge`.
    pub work: &'static str,
    /// `pipe`, `pgcopydb`, `native`, `drover run`, `cluster 1+2` …
    pub system: String,
    /// Rows copied or changed.
    pub rows: u64,
    /// Of how many runs it is the better.
    pub runs: u32,
    #[serde(flatten)]
    pub best: Sample,
    /// CPU seconds per million rows, by role.
    pub cpu_per_million: crate::meter::Cpu,
    /// Rows a second by the wall clock.
    pub rows_per_second: f64,
}

/// A floor and how it was met.
#[derive(Clone, Debug, Serialize)]
pub struct Floor {
    pub what: String,
    pub wanted: String,
    pub measured: f64,
    pub met: bool,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: BTreeMap<String, String>,
    pub setup: BTreeMap<String, String>,
    pub lines: Vec<Line>,
    pub floors: Vec<Floor>,
    /// What could not be measured, and why.
    pub broken: Vec<String>,
}

/// What is being copied or applied, for the headings.
pub const WORKS: [(&str, &str); 4] = [
    ("copy", "Copy of li and sb, with their keys"),
    ("single", "Catching up with transactions of one updated row"),
    ("bulk", "Catching up with transactions of many updated rows"),
    ("huge", "Catching up with one transaction that updates every row of sb"),
];

impl Report {
    /// Takes a run; of two runs of the same the one with the shorter wall time stays, with the higher memory of both.
    pub fn take(&mut self, work: &'static str, system: &str, rows: u64, sample: Sample) {
        let million = rows as f64 / 1e6;
        // A long program that is interrupted should have said something.
        eprintln!(
            "    {work}, {system}: {:.2} s, {:.0} k rows/s, {:.1} CPU-s/M; MiB: {}",
            sample.wall_seconds,
            rows as f64 / sample.wall_seconds / 1e3,
            sample.cpu_seconds.total() / million,
            peaks(&sample)
        );
        let line = |best: Sample, runs: u32| Line {
            work,
            system: system.to_owned(),
            rows,
            runs,
            cpu_per_million: best.cpu_seconds.scaled(1.0 / million),
            rows_per_second: rows as f64 / best.wall_seconds,
            best,
        };
        let Some(known) = self.lines.iter_mut().find(|line| line.work == work && line.system == system) else {
            self.lines.push(line(sample, 1));
            return;
        };
        let (mut best, other) = if sample.wall_seconds < known.best.wall_seconds {
            (sample, &known.best)
        } else {
            (known.best.clone(), &sample)
        };
        for (name, peak) in &other.peak_mib {
            let most = best.peak_mib.entry(name.clone()).or_default();
            *most = most.max(*peak);
        }
        *known = line(best, known.runs + 1);
    }

    /// The line of one system, if it was measured.
    pub fn line(&self, work: &str, system: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.work == work && line.system == system)
    }

    /// How many times as fast as `reference` a system is, by the wall clock.
    pub fn ratio(&self, work: &str, system: &str, reference: &str) -> Option<f64> {
        Some(self.line(work, system)?.rows_per_second / self.line(work, reference)?.rows_per_second)
    }

    /// Sets every measured ratio and memory beside its floor.
    pub fn judge(&mut self) {
        let clusters: Vec<String> = self.systems("cluster");
        let mut floors = Vec::new();
        let mut floor = |what: String, wanted: f64, measured: Option<f64>| {
            floors.extend(measured.map(|measured| Floor {
                what,
                wanted: format!("at least {wanted}"),
                measured,
                met: measured >= wanted,
            }));
        };
        floor("copy, drover run / pgcopydb".into(), 0.8, self.ratio("copy", "drover run", "pgcopydb"));
        // The cluster is free to have as many workers as serve it best.
        let best = |work: &str, reference: &str| {
            let ratios = clusters.iter().filter_map(|system| self.ratio(work, system, reference));
            ratios.fold(None, |most: Option<f64>, ratio| Some(most.map_or(ratio, |most| most.max(ratio))))
        };
        floor("copy, best cluster / pgcopydb".into(), 0.5, best("copy", "pgcopydb"));
        for work in ["single", "bulk"] {
            floor(format!("{work}, drover run / native"), 1.0, self.ratio(work, "drover run", "native"));
            floor(format!("{work}, best cluster / native"), 1.0, best(work, "native"));
        }
        for (process, peak) in self.peaks() {
            if ["drover run", "coordinator", "extractor", "applier"].contains(&process.as_str()) {
                floors.push(Floor {
                    what: format!("peak memory of {process}, MiB"),
                    wanted: "below 200 MB (190 MiB)".into(),
                    measured: peak,
                    met: peak * 1.048_576 < 200.0,
                });
            }
        }
        self.floors = floors;
    }

    fn systems(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.lines.iter().map(|line| line.system.clone()).filter(|name| name.starts_with(prefix)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The highest memory of each process over all works.
    fn peaks(&self) -> BTreeMap<String, f64> {
        let mut peaks: BTreeMap<String, f64> = BTreeMap::new();
        for (name, peak) in self.lines.iter().flat_map(|line| &line.best.peak_mib) {
            let most = peaks.entry(name.clone()).or_default();
            *most = most.max(*peak);
        }
        peaks
    }

    /// For people.
    pub fn print(&self) {
        for (name, value) in self.machine.iter().chain(&self.setup) {
            println!("{name:<22} {value}");
        }
        for (work, title) in WORKS {
            let lines: Vec<&Line> = self.lines.iter().filter(|line| line.work == work).collect();
            if !lines.is_empty() {
                self.table(title, &lines);
            }
        }
        println!("\nPeak memory, MiB");
        for (work, _) in WORKS {
            for line in self.lines.iter().filter(|line| line.work == work) {
                println!("  {:<14} {work:<8} {}", line.system, peaks(&line.best));
            }
        }
        println!("  (of a database server: the largest private memory of one of its processes)");
        if !self.floors.is_empty() {
            println!("\nFloors");
            for floor in &self.floors {
                let verdict = if floor.met { "met" } else { "NOT MET" };
                println!("  {:<40} {:>8.2}   {:<24} {verdict}", floor.what, floor.measured, floor.wanted);
            }
        }
        for broken in &self.broken {
            println!("\nBROKEN  {broken}");
        }
    }

    fn table(&self, title: &str, lines: &[&Line]) {
        let references: Vec<&str> = ["pipe", "pgcopydb", "native"]
            .into_iter()
            .filter(|name| lines.iter().any(|line| line.system == *name))
            .collect();
        println!("\n{title} ({} rows)", lines.first().map_or(0, |line| line.rows));
        let heads: Vec<String> = references.iter().map(|name| format!("{:>10}", format!("/{name}"))).collect();
        println!(
            "  {:<16}{:>8}{:>10}{}   CPU-s/M: {:>7}{:>8}{:>8}{:>8}{:>8}{:>8}",
            "",
            "wall s",
            "k rows/s",
            heads.concat(),
            "source",
            "client",
            "Kafka",
            "dest.",
            "total",
            "others"
        );
        for line in lines {
            let ratios: Vec<String> = references
                .iter()
                .map(|reference| {
                    self.ratio(line.work, &line.system, reference)
                        .map_or_else(String::new, |ratio| format!("{ratio:.2}"))
                })
                .map(|ratio| format!("{ratio:>10}"))
                .collect();
            let cpu = &line.cpu_per_million;
            println!(
                "  {:<16}{:>8.2}{:>10.0}{}            {:>7.2}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>8.2}",
                line.system,
                line.best.wall_seconds,
                line.rows_per_second / 1e3,
                ratios.concat(),
                cpu.source,
                cpu.client,
                cpu.kafka,
                cpu.destination,
                cpu.total(),
                cpu.others
            );
        }
    }
}

fn peaks(sample: &Sample) -> String {
    sample.peak_mib.iter().map(|(name, peak)| format!("{name} {peak:.0}")).collect::<Vec<_>>().join(", ")
}
