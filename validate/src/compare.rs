//! One table: digests of both sides at the same time, then only what differs.

use crate::scan::{self, ENTRY, FINE, Keeping, Refining, Scanner, Summing, Wanted};
use crate::settle::{Table, Waiter};
use crate::{Counters, Options, TableReport};
use drover_connectors_api::{Destination, RowSink, Rows, Side, Source};
use drover_model::chunk::Bounds;
use drover_model::digest::{Digest, Sum};
use drover_model::{Error, Result, TablePlan};
use drover_runtime::memory::Account;
use drover_runtime::task::{Owned, spawn};
use futures::future::try_join;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One session on either side; lent to a task while it reads.
pub struct Sessions {
    source: Option<Box<dyn Rows>>,
    destination: Option<Box<dyn Rows>>,
}

type Reading<S> = Owned<(Box<dyn Rows>, S, Result<()>)>;

impl Sessions {
    pub async fn open(source: &dyn Source, destination: &dyn Destination) -> Result<Self> {
        let (source, destination) = try_join(source.rows(), destination.rows()).await?;
        Ok(Sessions { source: Some(source), destination: Some(destination) })
    }

    fn slot(&mut self, side: Side) -> &mut Option<Box<dyn Rows>> {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }

    /// The session of a side.
    pub fn side(&mut self, side: Side) -> Result<&mut Box<dyn Rows>> {
        self.slot(side).as_mut().ok_or_else(lost)
    }

    fn start<S: RowSink + 'static>(&mut self, plan: &Arc<TablePlan>, side: Side, mut sink: S) -> Result<Reading<S>> {
        let mut rows = self.slot(side).take().ok_or_else(lost)?;
        let plan = plan.clone();
        let name = if side == Side::Source { "compare source" } else { "compare destination" };
        Ok(spawn(name, async move {
            let read = rows.read(&plan, side, &Bounds::Whole, &mut sink).await;
            (rows, sink, read)
        }))
    }

    /// Reads the whole table on both sides at once, each in a task of its own.
    async fn both<S: RowSink + 'static>(&mut self, plan: &Arc<TablePlan>, [a, b]: [S; 2]) -> Result<[S; 2]> {
        let mut a = self.start(plan, Side::Source, a)?;
        let mut b = self.start(plan, Side::Destination, b)?;
        async fn end<S>(reading: &mut Reading<S>) -> Result<(Box<dyn Rows>, S)> {
            let (rows, sink, read) = reading
                .join()
                .await
                .map_err(|e| Error::internal("a task that read rows for comparison ended early").cause(e))?;
            read.map(|()| (rows, sink))
        }
        let ((source, a), (destination, b)) = try_join(end(&mut a), end(&mut b)).await?;
        (self.source, self.destination) = (Some(source), Some(destination));
        Ok([a, b])
    }
}

fn lost() -> Error {
    Error::internal("a session for comparison was used after it had failed")
}

/// Memory for keys and hashes of rows: of all tables together, and the share that one of them reckons with.
pub struct Room {
    pub account: Arc<Account>,
    pub share: usize,
}

/// Compares one table.
pub async fn table(
    plan: &TablePlan,
    sessions: &mut Sessions,
    waiter: &Waiter<'_>,
    options: &Options,
    room: &Room,
    counters: &Counters,
) -> Result<TableReport> {
    let plan = Arc::new(plan.clone());
    let summing = |rows: &Arc<AtomicU64>| Summing {
        scanner: Scanner::new(&plan),
        digest: Digest::default(),
        key_bytes: 0,
        rows: rows.clone(),
    };
    let [a, b] = sessions.both(&plan, [summing(&counters.source_rows), summing(&counters.destination_rows)]).await?;
    let differing = a.digest.differing(&b.digest);
    let mut table = Table::new(plan.clone(), waiter, options, a.digest.rows());
    if differing.is_empty() {
        return Ok(table.report);
    }

    let all = (a.digest.rows() + b.digest.rows()).max(1);
    let key = if plan.key.is_empty() { 0 } else { (a.key_bytes + b.key_bytes).div_ceil(all) };
    let row = ENTRY as u64 + key;
    let most = (room.share as u64 / row).max(1);
    let held: u64 = differing.iter().map(|&i| a.digest.buckets[i].rows + b.digest.buckets[i].rows).sum();
    let coarse = Wanted::buckets(&differing);
    tracing::debug!(table = %plan.source, buckets = differing.len(), rows = held, "a table differs at first sight");
    let passes = if held <= most {
        vec![(coarse, held)]
    } else {
        let coarse = Arc::new(coarse);
        let refining = || Refining {
            scanner: Scanner::new(&plan),
            wanted: coarse.clone(),
            parts: vec![Sum::default(); FINE],
            rows: counters.again_rows.clone(),
        };
        let [a, b] = sessions.both(&plan, [refining(), refining()]).await?;
        let groups = groups(&a.parts, &b.parts, most);
        groups.iter().map(|(parts, rows)| (coarse.with_fine(parts), *rows)).collect()
    };
    for (wanted, rows) in passes {
        let _taken = room.account.hold(usize::try_from(rows * row).unwrap_or(usize::MAX)).await;
        let wanted = Arc::new(wanted);
        let keeping = || Keeping::new(&plan, wanted.clone(), counters.again_rows.clone());
        let [a, b] = sessions.both(&plan, [keeping(), keeping()]).await?;
        let candidates = scan::candidates(a, b);
        counters.candidates.fetch_add(candidates.len() as u64, Ordering::Relaxed);
        table.settle(sessions, candidates).await?;
    }
    Ok(table.report)
}

/// Parts that differ, in groups of at most `room` rows (a part that is larger stands alone), with their rows.
fn groups(a: &[Sum], b: &[Sum], room: u64) -> Vec<(Vec<usize>, u64)> {
    let mut groups: Vec<(Vec<usize>, u64)> = Vec::new();
    for part in (0..a.len()).filter(|&i| a[i] != b[i]) {
        let more = a[part].rows + b[part].rows;
        match groups.last_mut() {
            Some((group, rows)) if *rows + more <= room => {
                group.push(part);
                *rows += more;
            }
            _ => groups.push((vec![part], more)),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_no_more_than_there_is_room_for() {
        let sums = |rows: &[u64]| rows.iter().map(|&rows| Sum { rows, sum: 0 }).collect::<Vec<_>>();
        let a = sums(&[1, 2, 3, 0, 9, 1]);
        let b = sums(&[0, 1, 3, 2, 0, 0]);
        assert_eq!(groups(&a, &b, 4), [(vec![0, 1], 4), (vec![3], 2), (vec![4], 9), (vec![5], 1)]);
        assert_eq!(groups(&a, &b, 100), [(vec![0, 1, 3, 4, 5], 16)]);
    }
}
