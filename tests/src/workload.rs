//! A busy application: several writers, each with its own session and seeded random numbers, whose transactions reach into
//! every corner of change capture: transfers, unique-key swaps, primary key updates, foreign keys, tables without a key, large
//! values left alone, many types, text keys that differ in case alone, rollbacks and savepoints, several tables at once.
//!
//! What holds in **every prefix** of the source's history, and so must hold for each reader of a consistent destination
//! ([`check`]): the accounts' balances add up to [`Options::total`]; each writer's counter equals the number and the highest
//! number of its journal rows (each transaction adds one); swapped values are a permutation; each child has its parent; there are as
//! many words as ever.
//!
//! No statement of it may fail and each must touch the rows it means to: [`Running::stop`] says so. Writers never wait for each
//! other in a circle: accounts are locked in the order of their ids and once a transaction, everything else belongs to one writer.
//! (InnoDB knows circles by locks on gaps between keys: such a transaction counts as rolled back.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;

use crate::server::{Dialect, Session, number};
use crate::wait;

mod mysql;
mod postgres;
mod writer;

use writer::Writer;

/// The tables that [`create`] makes, in schema public or the session's database.
pub const TABLES: [&str; 10] =
    ["accounts", "child", "counter", "journal", "keyless", "kinds", "parent", "swap", "wide", "words"];

/// How much a workload does.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sessions that write, at most 100.
    pub writers: u32,
    /// The same seed gives each writer the same transactions.
    pub seed: u64,
    /// Accounts; each starts with [`BALANCE`].
    pub accounts: i64,
    /// Rows of each other table that belong to one writer at the start, at least 4 and below 100,000.
    pub rows: i64,
    /// Transactions a second that each writer begins; `None`: as many as it can.
    pub rate: Option<f64>,
}

/// What an account starts with.
pub const BALANCE: i64 = 1_000;

/// Each writer owns the keys from its number times this on.
const SPAN: i64 = 100_000_000;

impl Default for Options {
    fn default() -> Self {
        Options { writers: 4, seed: 1, accounts: 500, rows: 60, rate: None }
    }
}

impl Options {
    /// The sum over all accounts at any time.
    pub fn total(&self) -> i64 {
        self.accounts * BALANCE
    }
}

/// Creates the tables and their first rows in the session's database.
pub async fn create(session: &mut Session, options: &Options) -> Result<()> {
    let sql = match session.dialect() {
        Dialect::Postgres => postgres::create(options),
        Dialect::MySql => mysql::create(options),
    };
    session.run(&sql).await.context("create the workload's tables")
}

/// A reading of what must hold in every prefix of the source's history. An error says what does not.
pub async fn check(session: &mut Session, options: &Options) -> Result<()> {
    let sql = match session.dialect() {
        Dialect::Postgres => postgres::CHECK,
        Dialect::MySql => mysql::CHECK,
    };
    let row = session.row(sql).await?;
    let [total, holes, orphans, halfway, swaps, spots, words, owned, writers] = &row[..] else {
        bail!("{} values", row.len());
    };
    let total = number(total)?;
    if total != options.total() {
        bail!("balances add up to {total} in place of {}", options.total());
    }
    if let Some(holes) = holes {
        bail!("history has holes: {holes}");
    }
    let (orphans, halfway, writers) = (number(orphans)?, number(halfway)?, number(writers)?);
    let counts = [number(swaps)?, number(spots)?, number(words)?, number(owned)?];
    let expected = i64::from(options.writers) * options.rows;
    if orphans != 0 || halfway != 0 || counts != [expected; 4] || writers != i64::from(options.writers) {
        let [swaps, spots, words, owned] = counts;
        bail!(
            "{orphans} orphans, {halfway} half swaps, {swaps} rows with {spots} spots and {words} words of {owned} ids in place of \
             {expected}, {writers} writers"
        );
    }
    Ok(())
}

/// Writers at work. Dropping it ends them without asking how they fared: use [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Result<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.writers.iter().for_each(JoinHandle::abort);
    }
}

/// Starts the writers on the database at `url`, which [`create`] has prepared with the same options.
pub async fn start(url: &str, options: &Options) -> Result<Running> {
    let mut running = Running { stop: Arc::default(), committed: Arc::default(), writers: Vec::new() };
    for number in 0..options.writers {
        let mut writer = Writer::new(Session::connect(url).await?, number, *options).await?;
        let (stop, committed) = (Arc::clone(&running.stop), Arc::clone(&running.committed));
        running.writers.push(tokio::spawn(async move {
            let mut pace = options_pace(writer.rate());
            while !stop.load(Ordering::Relaxed) {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                if writer.transaction().await.with_context(|| format!("writer {number}"))? {
                    committed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        }));
    }
    Ok(running)
}

fn options_pace(rate: Option<f64>) -> Option<tokio::time::Interval> {
    rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate.clamp(0.01, 10_000.0))))
}

impl Running {
    /// Transactions committed so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until `more` further transactions are committed.
    pub async fn advance(&self, more: u64, within: Duration) -> Result<()> {
        let goal = self.committed() + more;
        wait::until("the workload goes on", within, || async {
            if self.committed() < goal && self.writers.iter().any(JoinHandle::is_finished) {
                return Ok(Some(Err(anyhow::anyhow!("a writer has ended: stop() says why"))));
            }
            Ok((self.committed() >= goal).then_some(Ok(())))
        })
        .await?
    }

    /// Ends the writers after their current transactions. The number of committed transactions, or what failed.
    pub async fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.await??;
        }
        Ok(self.committed())
    }
}
