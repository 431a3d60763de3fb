//! Compares the rows of a source and a destination, table by table, in canonical values, down to the keys that differ.
//!
//! What it promises:
//!
//! - A row that is at one side only, or differs in any selected column, is found (but for a probability of about 2⁻¹²⁸ a table).
//! - While changes flow nothing is called a difference that is merely on its way: a key is reported only when the destination,
//!   having applied everything up to a mark written after the source's row was read, still held another row, and the
//!   source's row was the same before and after; seen several times in a row. A key about which that cannot be said is
//!   *unsettled*, never equal.
//! - Memory is bounded by [`Options::memory`] whatever the size of the tables: first digests by bucket, then only keys and hashes of
//!   the buckets that differ, in several passes where need be.
//!
//! Columns whose values a policy may have changed on their way (`on_misfit` null or clamp) are not compared, unless they are of the key.
//!
//! Nothing is written but marks at the source. Tables are read whole, each side in one consistent view: key ranges cannot be cut alike on two
//! databases whose collations differ.

mod compare;
mod report;
mod scan;
mod settle;

pub use report::{Difference, Key, KeyDifference, Report, TableReport};

use drover_connectors_api::{Destination, Rows, Side, Source};
use drover_model::chunk::Bounds;
use drover_model::digest::{Digest, row_hash};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use drover_runtime::memory::Account;
use futures::future::try_join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How a comparison is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// The migration's name, by which its progress is found at the destination.
    pub name: String,
    /// Changes are applied while the comparison runs (incremental is among the stages).
    pub flowing: bool,
    /// Tables compared at the same time; each takes one session on either side.
    pub parallel: usize,
    /// Keys listed for each table; the counts go on beyond, and `truncated` says so.
    pub max_keys: usize,
    /// How long the destination may take to apply up to a mark.
    pub settle: Duration,
    /// How often a key that keeps changing is looked at before it is called unsettled.
    pub tries: usize,
    /// How many looks in a row must show the same two differing rows. One is not enough: a row that flips to and fro could look
    /// still by chance, and a commit may reach the destination before the source itself shows it (synchronous replication).
    /// Never more than `tries`.
    pub confirm: usize,
    /// Bytes for keys and hashes of the buckets that differ, all tables together.
    pub memory: usize,
}

impl Options {
    /// The usual settings.
    pub fn new(name: impl Into<String>, flowing: bool) -> Self {
        Options {
            name: name.into(),
            flowing,
            parallel: 2,
            max_keys: 1000,
            settle: Duration::from_secs(30),
            tries: 10,
            confirm: 3,
            memory: 64 << 20,
        }
    }
}

/// How far a comparison is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub tables: usize,
    pub tables_done: usize,
    /// Rows read in the first pass on either side.
    pub source_rows: u64,
    pub destination_rows: u64,
    /// What the plans expect at the source.
    pub estimated_rows: u64,
    /// Rows read again, both sides together, because a part of a table differed.
    pub again_rows: u64,
    /// Keys that differed at first and are being looked at again, or were.
    pub candidates: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub tables_done: AtomicUsize,
    pub source_rows: Arc<AtomicU64>,
    pub destination_rows: Arc<AtomicU64>,
    pub again_rows: Arc<AtomicU64>,
    pub candidates: AtomicU64,
}

/// How often the caller hears of progress.
const TICK: Duration = Duration::from_millis(200);

/// Compares these tables. `progress` is called about five times a second, and once at the end. Differences are no error: they are
/// in the report. An `Err` means that the comparison could not be carried out; no part of it may then be taken for a result.
pub async fn validate(
    source: &dyn Source,
    destination: &dyn Destination,
    plans: &[TablePlan],
    options: Options,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Report> {
    let counters = Counters::default();
    let lost: Vec<Vec<String>> = plans.iter().map(TablePlan::not_compared).collect();
    let plans: Vec<TablePlan> = plans.iter().map(TablePlan::comparable).collect();
    let workers = options.parallel.clamp(1, plans.len().max(1));
    let room =
        compare::Room { account: Account::new("validate.keys", options.memory), share: options.memory / workers };
    let waiter = settle::Waiter::new(source, destination, &options);
    let next = AtomicUsize::new(0);
    let worker = || async {
        let mut reports = Vec::new();
        let mut sessions = None;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(plan) = plans.get(index) else { return Ok::<_, Error>(reports) };
            let sessions = match &mut sessions {
                Some(open) => open,
                none => none.insert(compare::Sessions::open(source, destination).await?),
            };
            let report = compare::table(plan, sessions, &waiter, &options, &room, &counters)
                .await
                .map_err(|e| if e.table.is_none() { e.table(&plan.source) } else { e })?;
            counters.tables_done.fetch_add(1, Ordering::Relaxed);
            reports.push((index, report));
        }
    };
    let now = || Progress {
        tables: plans.len(),
        tables_done: counters.tables_done.load(Ordering::Relaxed),
        source_rows: counters.source_rows.load(Ordering::Relaxed),
        destination_rows: counters.destination_rows.load(Ordering::Relaxed),
        estimated_rows: plans.iter().map(|p| p.rows).sum(),
        again_rows: counters.again_rows.load(Ordering::Relaxed),
        candidates: counters.candidates.load(Ordering::Relaxed),
    };
    let mut work = Box::pin(try_join_all((0..workers).map(|_| worker())));
    let mut tick = tokio::time::interval(TICK);
    let reports = loop {
        tokio::select! {
            biased;
            reports = &mut work => break reports?,
            _ = tick.tick() => progress(now()),
        }
    };
    progress(now());
    let mut reports: Vec<(usize, TableReport)> = reports.into_iter().flatten().collect();
    reports.sort_by_key(|(index, _)| *index);
    let with_lost = |(index, report): (usize, TableReport)| TableReport {
        not_compared: lost.get(index).cloned().unwrap_or_default(),
        ..report
    };
    Ok(Report::new(reports.into_iter().map(with_lost).collect()))
}

/// The rows of a table on one side, summed up: equal sets of rows give equal sums on every kind and version of database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub rows: u64,
    /// A 128-bit hash as text.
    pub sum: String,
}

/// Sums up all rows of a table on one side, in one consistent view.
///
/// # Errors
/// The table cannot be read.
pub async fn summary(rows: &mut dyn Rows, plan: &TablePlan, side: Side) -> Result<Summary> {
    let plan = &plan.comparable();
    let mut sink = scan::Summing {
        scanner: scan::Scanner::new(plan),
        digest: Digest::default(),
        key_bytes: 0,
        rows: Arc::default(),
    };
    rows.read(plan, side, &Bounds::Whole, &mut sink).await?;
    let mut bytes = Vec::with_capacity(sink.digest.buckets.len() * 24);
    for bucket in &sink.digest.buckets {
        bytes.extend_from_slice(&bucket.rows.to_le_bytes());
        bytes.extend_from_slice(&bucket.sum.to_le_bytes());
    }
    Ok(Summary { rows: sink.digest.rows(), sum: format!("{:032x}", row_hash(&bytes)) })
}

/// The plans of one table, named as `schema.name` at either side, or by its bare name where that says enough; for `--table`.
pub fn only(plans: &[TablePlan], table: &str) -> Result<Vec<TablePlan>> {
    let pick = |by: &dyn Fn(&TablePlan) -> bool| plans.iter().filter(|p| by(p)).cloned().collect::<Vec<_>>();
    let mut found = pick(&|p| p.source.to_string() == table);
    if found.is_empty() {
        found = pick(&|p| p.destination.to_string() == table);
    }
    if found.is_empty() {
        found = pick(&|p| p.source.name == table || p.destination.name == table);
    }
    let wrong = |message: String, remedy: String| {
        Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, message).remedy(remedy))
    };
    match found.len() {
        0 => wrong(format!("no selected table is named {table}"), "name it as schema.table".into()),
        1 => Ok(found),
        _ => {
            let names: Vec<String> = found.iter().map(|p| p.source.to_string()).collect();
            wrong(format!("more than one selected table is named {table}"), format!("name one of {}", names.join(", ")))
        }
    }
}
