//! Progress for people: on a terminal a line for each table in work and a total, then the lag; elsewhere plain log lines.

use drover_coordinator::view::{SnapshotView, TableView};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Lines without a terminal come this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Tables that are shown at once.
const LINES: usize = 12;

/// The lines at the bottom of the terminal.
#[derive(Clone)]
pub struct Bars {
    multi: Option<MultiProgress>,
}

impl Bars {
    /// Bars if `wanted` and standard error is a terminal.
    pub fn new(wanted: bool) -> Self {
        Bars { multi: (wanted && std::io::stderr().is_terminal()).then(MultiProgress::new) }
    }
    /// One bar; hidden without a terminal.
    pub fn one(&self) -> ProgressBar {
        self.multi.as_ref().map_or_else(ProgressBar::hidden, |multi| multi.add(ProgressBar::new(1)))
    }
    /// A writer for log lines that keeps clear of the bars.
    pub fn writer(&self) -> Above {
        Above(self.multi.clone())
    }
}

/// See [`Bars::writer`].
#[derive(Clone)]
pub struct Above(Option<MultiProgress>);

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &self.0 {
            Some(multi) => multi.suspend(|| std::io::stderr().write_all(bytes))?,
            None => std::io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Above {
    type Writer = Above;
    fn make_writer(&'a self) -> Above {
        self.clone()
    }
}

/// Tables that have a line: those that rows arrive of and those whose keys are built, the largest first. One that is only planned has none.
fn in_work(tables: &[TableView]) -> Vec<&TableView> {
    let busy = |t: &&TableView| t.state == "loaded" || t.state == "copying" && t.rows > 0;
    let mut found: Vec<&TableView> = tables.iter().filter(busy).collect();
    found.sort_by_key(|t| std::cmp::Reverse(t.estimated_rows));
    found.truncate(LINES);
    found
}

/// Shows a migration as it goes on.
pub struct Display {
    bars: Bars,
    tables: HashMap<String, ProgressBar>,
    total: Option<ProgressBar>,
    began: Instant,
    first: Option<(u64, u64)>,
    told: Option<Instant>,
    last: String,
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Display {
    pub fn new(bars: Bars) -> Self {
        Display {
            bars,
            tables: HashMap::new(),
            total: None,
            began: Instant::now(),
            first: None,
            told: None,
            last: String::new(),
        }
    }

    /// Brings the lines up to date.
    pub fn show(&mut self, view: &SnapshotView) {
        let line = self.line(view);
        match self.bars.multi.clone() {
            Some(multi) => self.draw(&multi, view, &line),
            None => {
                let due = self.told.is_none_or(|t| t.elapsed() >= PLAIN_EVERY);
                let turned = view.copied && !self.last.starts_with("changes") || self.last.is_empty();
                if (due || turned) && line != self.last {
                    self.told = Some(Instant::now());
                    tracing::info!("{line}");
                    self.last = line;
                }
            }
        }
    }

    /// All that is going on, in one line; and what it waits for, if something is tried again.
    fn line(&mut self, view: &SnapshotView) -> String {
        let line = self.flow(view);
        match view.error.as_ref().filter(|_| view.state == "retrying") {
            Some(error) => format!("{line}; waits, tries again: {} {}", error.code, error.message),
            None => line,
        }
    }

    fn flow(&mut self, view: &SnapshotView) -> String {
        if view.copied {
            let lag = match view.lag_seconds {
                Some(lag) if lag < 0.5 => "not delayed".to_owned(),
                Some(lag) => format!("{lag:.0} s behind"),
                None => "lag not yet known".to_owned(),
            };
            let at = view.applied.as_ref().map(|p| format!(", at {p}")).unwrap_or_default();
            let consistent = if view.consistent { "consistent" } else { "not yet consistent" };
            return format!("changes: {lag}, {} rows applied{at}, {consistent}", view.applied_rows);
        }
        let (rows0, bytes0) = *self.first.get_or_insert((view.rows, view.bytes));
        let seconds = self.began.elapsed().as_secs_f64().max(0.1);
        let rate = (view.rows - rows0.min(view.rows)) as f64 / seconds;
        let pace = (view.bytes - bytes0.min(view.bytes)) as f64 / seconds;
        let left = view.estimated_rows.saturating_sub(view.rows) as f64;
        let eta = if rate > 1.0 { format!("{:.0} s left", left / rate) } else { "estimating".into() };
        let ready = view.tables.iter().filter(|t| t.state == "completed").count();
        format!(
            "{}: {ready} of {} tables, {} of about {} rows, {:.1} MB, {rate:.0} rows/s, {:.1} MB/s, {eta}",
            view.state,
            view.tables.len(),
            view.rows,
            view.estimated_rows,
            megabytes(view.bytes),
            pace / 1e6,
        )
    }

    fn draw(&mut self, multi: &MultiProgress, view: &SnapshotView, line: &str) {
        let plain = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let total = self.total.get_or_insert_with(|| multi.add(ProgressBar::new(0).with_style(plain)));
        total.set_message(line.to_owned());
        let running = in_work(&view.tables);
        self.tables.retain(|name, bar| {
            let keep = running.iter().any(|t| &t.source == name);
            if !keep {
                bar.finish_and_clear();
            }
            keep
        });
        for table in running {
            let bar = self.tables.entry(table.source.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("{prefix:40} {bar:30} {percent:>3}% {msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                multi.insert(0, ProgressBar::new(1).with_style(style)).with_prefix(table.source.clone())
            });
            bar.set_length(table.estimated_rows.max(table.rows).max(1));
            bar.set_position(table.rows);
            let building = if table.state == "loaded" { ", building keys and indexes" } else { "" };
            bar.set_message(format!("{} rows, {:.1} MB{building}", table.rows, megabytes(table.bytes)));
        }
    }

    /// Takes the lines away.
    pub fn end(&mut self) {
        self.tables.drain().for_each(|(_, bar)| bar.finish_and_clear());
        if let Some(total) = self.total.take() {
            total.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_in_work_have_lines_and_not_the_first_by_name() {
        let table = |name: &str, state: &'static str, rows, estimated_rows| TableView {
            source: name.into(),
            destination: name.into(),
            state,
            rows,
            estimated_rows,
            bytes: 0,
            estimated_bytes: 0,
            chunks: 1,
            chunks_loaded: 0,
            generation: 0,
        };
        let mut tables: Vec<TableView> = (0..20).map(|n| table(&format!("a{n}"), "copying", 0, 5)).collect();
        tables.push(table("big", "copying", 10, 1_000));
        tables.push(table("done", "completed", 9, 9));
        tables.push(table("huge", "copying", 10, 9_000));
        tables.push(table("keys", "loaded", 3, 3));
        let shown: Vec<&str> = in_work(&tables).iter().map(|t| t.source.as_str()).collect();
        assert_eq!(shown, ["huge", "big", "keys"]);
    }
}
