//! Decides about keys that differed at first sight. While changes flow the two views that a pass compared are of different times, so
//! each key is read at the source, a mark is written, and only what the destination holds once it has applied up to that mark counts.

use crate::compare::Sessions;
use crate::report::{Difference, Key};
use crate::scan::{Candidate, Finding, Scanner};
use crate::{Options, TableReport};
use bytes::Bytes;
use drover_connectors_api::{Destination, Side, Source};
use drover_model::chunk::Bounds;
use drover_model::digest::Sum;
use drover_model::error::codes;
use drover_model::{Position, Result, TablePlan};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Keys of one statement.
const BATCH: usize = 1000;
/// Keys settled with one mark: more would keep each of them in flight for longer.
const GROUP: usize = 10_000;
/// Between two looks at the destination's progress.
const POLL: Duration = Duration::from_millis(50);

/// Waits until the destination has applied everything that the source has committed.
pub struct Waiter<'a> {
    source: &'a dyn Source,
    destination: &'a dyn Destination,
    name: &'a str,
    settle: Duration,
    /// Where the destination stood when it did not get on in time: while it still stands there, nobody waits again.
    stalled: Mutex<Option<Option<Position>>>,
}

impl<'a> Waiter<'a> {
    pub fn new(source: &'a dyn Source, destination: &'a dyn Destination, options: &'a Options) -> Self {
        Waiter { source, destination, name: &options.name, settle: options.settle, stalled: Mutex::new(None) }
    }

    /// Marks the source's log and waits for the mark at the destination; false when it does not come in time.
    async fn pass_mark(&self) -> Result<bool> {
        let deadline = Instant::now() + self.settle;
        let mark = loop {
            let at = self.destination.progress(self.name).await?.and_then(|p| p.position);
            match self.source.mark_beside(at.as_ref()).await {
                Ok(mark) => break mark,
                // The stream has yet to follow to another server.
                Err(e) if e.code == codes::TIMEOUT && Instant::now() < deadline => sleep(POLL).await,
                Err(e) => return Err(e),
            }
        };
        loop {
            let at = self.destination.progress(self.name).await?.and_then(|p| p.position);
            if at.as_ref().is_some_and(|at| *at >= mark) {
                return Ok(true);
            }
            {
                let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
                if Instant::now() >= deadline || stalled.as_ref() == Some(&at) {
                    if stalled.is_none() {
                        let at = at.as_ref().map_or("nothing", |p| &p.text);
                        tracing::warn!(%mark, applied = at, "changes are not applied in time: keys stay unsettled");
                    }
                    *stalled = Some(at);
                    return Ok(false);
                }
            }
            sleep(POLL).await;
        }
    }
}

/// A key that is looked at.
struct Open {
    candidate: Candidate,
    source: Sum,
    destination: Sum,
    /// How often in a row the same two rows were seen while the source's stood still, and which.
    seen: usize,
    last: Option<(Sum, Sum)>,
}

/// The comparison of one table.
pub struct Table<'a> {
    plan: Arc<TablePlan>,
    waiter: &'a Waiter<'a>,
    options: &'a Options,
    /// Rows without a key, as they are shown, by hash.
    shown: HashMap<u128, Key>,
    pub report: TableReport,
}

impl<'a> Table<'a> {
    pub fn new(plan: Arc<TablePlan>, waiter: &'a Waiter<'a>, options: &'a Options, rows: u64) -> Self {
        let report = TableReport::new(&plan, rows);
        Table { plan, waiter, options, shown: HashMap::new(), report }
    }

    /// Decides about these keys and reports those that differ.
    pub async fn settle(&mut self, sessions: &mut Sessions, mut candidates: Vec<Candidate>) -> Result<()> {
        // Without a key every look is a pass over the table: the fewer the better.
        let size = if self.plan.key.is_empty() { usize::MAX } else { GROUP };
        while !candidates.is_empty() {
            let rest = candidates.split_off(candidates.len().min(size));
            let open = candidates.into_iter().map(|candidate| Open {
                candidate,
                source: Sum::default(),
                destination: Sum::default(),
                seen: 0,
                last: None,
            });
            let mut open: Vec<Open> = open.collect();
            self.look(sessions, Side::Source, &mut open).await?;
            if self.options.flowing {
                self.settle_flowing(sessions, open).await?;
            } else {
                self.settle_still(sessions, open).await?;
            }
            self.shown.clear();
            candidates = rest;
        }
        Ok(())
    }

    /// Nothing changes: what a second look confirms is a difference.
    async fn settle_still(&mut self, sessions: &mut Sessions, mut open: Vec<Open>) -> Result<()> {
        self.look(sessions, Side::Destination, &mut open).await?;
        for o in open {
            if o.source.rows + o.destination.rows == 0 {
                // Seen by the pass, now on neither side, although nothing is said to change.
                self.unsettled(&o);
            } else if o.source != o.destination {
                self.differs(&o);
            }
        }
        Ok(())
    }

    async fn settle_flowing(&mut self, sessions: &mut Sessions, mut open: Vec<Open>) -> Result<()> {
        let tries = self.options.tries.max(1);
        let confirm = self.options.confirm.clamp(1, tries);
        for _ in 0..tries {
            let reached = self.waiter.pass_mark().await?;
            self.look(sessions, Side::Destination, &mut open).await?;
            open.retain(|o| o.source != o.destination);
            if open.is_empty() {
                return Ok(());
            }
            if !reached {
                break;
            }
            let before: Vec<Sum> = open.iter().map(|o| o.source).collect();
            self.look(sessions, Side::Source, &mut open).await?;
            let mut still = Vec::new();
            for (mut o, before) in open.into_iter().zip(before) {
                if o.source == o.destination {
                    // The destination had the source's newest row already.
                    continue;
                }
                if o.source != before {
                    (o.seen, o.last) = (0, None);
                } else {
                    let pair = Some((o.source, o.destination));
                    o.seen = if o.last == pair { o.seen + 1 } else { 1 };
                    o.last = pair;
                }
                if o.seen >= confirm {
                    self.differs(&o);
                } else {
                    still.push(o);
                }
            }
            open = still;
            if open.is_empty() {
                return Ok(());
            }
        }
        for o in &open {
            self.unsettled(o);
        }
        Ok(())
    }

    /// Reads the keys at one side.
    async fn look(&mut self, sessions: &mut Sessions, side: Side, open: &mut [Open]) -> Result<()> {
        let places: HashMap<u128, usize> = open.iter().enumerate().map(|(i, o)| (o.candidate.hash, i)).collect();
        let mut sums = vec![Sum::default(); open.len()];
        let Table { plan, shown, options, .. } = self;
        let keyless = plan.key.is_empty();
        shown.retain(|hash, _| places.contains_key(hash));
        let mut first = |hash: u128, row: &[u8]| {
            if keyless && shown.len() < options.max_keys {
                shown.entry(hash).or_insert_with(|| Key::of_row(plan, row));
            }
        };
        let mut finding = Finding { scanner: Scanner::new(plan), places: &places, sums: &mut sums, first: &mut first };
        let rows = sessions.side(side)?;
        if keyless {
            rows.read(plan, side, &Bounds::Whole, &mut finding).await?;
        } else {
            let keys: Vec<Bytes> = open.iter().map(|o| o.candidate.key.clone()).collect();
            for batch in keys.chunks(BATCH) {
                rows.read_keys(plan, side, batch, &mut finding).await?;
            }
        }
        for (o, sum) in open.iter_mut().zip(sums) {
            match side {
                Side::Source => o.source = sum,
                Side::Destination => o.destination = sum,
            }
        }
        Ok(())
    }

    fn differs(&mut self, o: &Open) {
        let (s, d) = (o.source.rows, o.destination.rows);
        if self.plan.key.is_empty() {
            let difference = if s > d { Difference::Missing } else { Difference::Extra };
            self.found(o, difference, s.abs_diff(d));
        } else {
            let difference = match (s, d) {
                (_, 0) => Difference::Missing,
                (0, _) => Difference::Extra,
                _ => Difference::Different,
            };
            self.found(o, difference, 1);
        }
    }

    fn unsettled(&mut self, o: &Open) {
        self.found(o, Difference::Unsettled, 1);
    }

    fn found(&mut self, o: &Open, difference: Difference, times: u64) {
        let Table { plan, shown, report, options, .. } = self;
        report.found(difference, times, options.max_keys, || {
            if plan.key.is_empty() {
                shown.get(&o.candidate.hash).cloned()
            } else {
                Some(Key::of_key(plan, &o.candidate.key))
            }
        });
    }
}
