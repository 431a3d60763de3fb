//! Rows that a batch owes ([`crate::compact::Owed`]): asked for, awaited and read. Guarantee: what [`Owing::ask`] gives names blocks in
//! the log that have, of every key asked for, the row as of one snapshot, or that there is none; blocks of attempts never mix.
//!
//! A batch is committed together with what it owes. So the progress never passes a change whose row is still to come, the destination is
//! not told to be consistent before, and an applier that begins anew comes upon the same change and asks again: nothing is remembered.
//!
//! The keys go into a bulk partition, the coordinator is told where, an extractor appends the rows behind them. Only the coordinator's
//! bookkeeping passes through the coordinator.

use crate::compact::Owed;
use crate::consume::expand;
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{ApplySession, Step};
use drover_log::{Log, Offset, Stream};
use drover_model::error::codes;
use drover_model::row::{Cell, take_cell, take_row};
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_proto::order::{Extent, Owes};
use drover_proto::record::{frame, parse};
use drover_proto::v1::{self, BulkHead, Compression};
use drover_runtime::CancellationToken;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tells the coordinator what is owed.
#[async_trait]
pub trait Creditor: Send + Sync {
    /// Returns when it is stored; `false`: the order is not ours any more.
    async fn owes(&self, owes: Owes) -> bool;
}

/// What an apply order owes.
pub(crate) struct Owing {
    pub log: Arc<dyn Log>,
    pub migration: MigrationId,
    /// Lease of the apply order.
    pub lease: u64,
    pub partitions: u32,
    pub creditor: Arc<dyn Creditor>,
    pub cancel: CancellationToken,
    pub rounds: AtomicU32,
    /// For each round not paid yet its partition and an offset before which it needs nothing.
    pub open: Mutex<BTreeMap<u32, (u32, Offset)>>,
}

/// Rows that are in the log: blocks of one attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    table: u32,
    round: u32,
    partition: u32,
    first: Offset,
    last: Offset,
    attempt: u64,
}

fn damaged(plan: &TablePlan, how: &str) -> Error {
    let text = format!("rows that are owed cannot be read from the log: {how}");
    Error::new(codes::LOG, Fault::Log, Retry::Never, text).table(&plan.source)
}

impl Owing {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u32, (u32, Offset)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for what is owed and waits until all of it is in the log.
    ///
    /// # Errors
    /// FENCED when the order is cancelled or not ours any more; LOG; errors of the log.
    pub async fn ask(&self, owed: &[Owed], plans: &[TablePlan]) -> Result<Vec<Found>> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(taken_back()),
            found = self.asked(owed, plans) => found,
        }
    }

    async fn asked(&self, owed: &[Owed], plans: &[TablePlan]) -> Result<Vec<Found>> {
        let mut asked = Vec::with_capacity(owed.len());
        for o in owed {
            let plan = plan_of(plans, o.table)?;
            let owes = self.publish(o, plan).await?;
            if !self.creditor.owes(owes).await {
                return Err(taken_back());
            }
            asked.push((owes, plan));
        }
        let mut found = Vec::with_capacity(asked.len());
        for (owes, plan) in asked {
            found.push(self.found(&owes, plan).await?);
        }
        drover_runtime::failpoint("owed-not-paid");
        Ok(found)
    }

    /// Writes the keys to the log.
    async fn publish(&self, owed: &Owed, plan: &TablePlan) -> Result<Owes> {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        let partition = round % self.partitions.max(1);
        let stream = Stream::Bulk(partition);
        let next = self.log.span(stream).await?.next;
        self.open().insert(round, (partition, next));
        let mut head = BulkHead {
            version: 1,
            migration: Bytes::copy_from_slice(self.migration.as_bytes()),
            table: owed.table,
            lease: self.lease,
            plan_version: plan.version,
            compression: Compression::None.into(),
            owed: Some(v1::Owed { apply: self.lease, round, last: false }),
            ..BulkHead::default()
        };
        let mut appender = self.log.appender(stream).await?;
        for block in &owed.blocks {
            appender.append(frame(&head, block)).await?;
            head.sequence += 1;
        }
        let records = appender.flush().await?;
        let bytes = owed.blocks.iter().map(|b| b.len() as u64).sum();
        let keys = Extent { partition, records, rows: owed.keys, bytes, lease: self.lease };
        Ok(Owes { table: owed.table, round, keys })
    }

    /// Waits for a complete attempt.
    async fn found(&self, owes: &Owes, plan: &TablePlan) -> Result<Found> {
        let Some((_, last)) = owes.keys.records else { return Err(Error::internal("no keys are owed")) };
        let partition = owes.keys.partition;
        let mut reader = self.log.reader(Stream::Bulk(partition), last + 1).await?;
        // First offset and next block by attempt; none for one with a hole.
        let mut attempts: HashMap<u64, Option<(Offset, u32)>> = HashMap::new();
        loop {
            let (offset, record) = reader.next().await?;
            let (head, _) = parse::<BulkHead>(record).map_err(|e| damaged(plan, "a record is broken").cause(e))?;
            let Some(of) = self.answers(&head, owes.table, owes.round) else { continue };
            let attempt = attempts.entry(head.lease).or_insert(Some((offset, 0)));
            *attempt = attempt.filter(|(_, next)| *next == head.sequence).map(|(first, next)| (first, next + 1));
            if let (Some((first, _)), true) = (attempt, of.last) {
                let attempt = head.lease;
                return Ok(Found {
                    table: owes.table,
                    round: owes.round,
                    partition,
                    first: *first,
                    last: offset,
                    attempt,
                });
            }
        }
    }

    /// Whether a block has rows that were asked for in this round.
    fn answers(&self, head: &BulkHead, table: u32, round: u32) -> Option<v1::Owed> {
        let of = head.owed.filter(|o| (o.apply, o.round) == (self.lease, round) && head.lease != self.lease)?;
        (head.table == table && head.migration == self.migration.as_bytes()[..]).then_some(of)
    }

    /// Writes what was found in the session's transaction, block by block.
    ///
    /// # Errors
    /// LOG, errors of the log and of the session.
    pub async fn write(&self, found: &Found, plans: &[TablePlan], session: &mut dyn ApplySession) -> Result<()> {
        let plan = plan_of(plans, found.table)?;
        let mut reader = self.log.reader(Stream::Bulk(found.partition), found.first).await?;
        loop {
            let (offset, record) = reader.next().await?;
            let (head, payload) =
                parse::<BulkHead>(record).map_err(|e| damaged(plan, "a record is broken").cause(e))?;
            if head.lease == found.attempt && self.answers(&head, found.table, found.round).is_some() {
                let payload = expand(head.compression, payload)?;
                session.execute(&steps(&payload, plan)?).await?;
            }
            if offset >= found.last {
                return Ok(());
            }
        }
    }

    /// What was found has been written and is not needed again. The log forgets it, with all before that nobody waits for: tables are
    /// loaded before changes are applied, so bulk partitions have nothing else.
    pub async fn paid(&self, found: &[Found]) -> Result<()> {
        for f in found {
            let before = {
                let mut open = self.open();
                open.remove(&f.round);
                let others = open.values().filter(|(partition, _)| *partition == f.partition).map(|(_, first)| *first);
                others.chain([f.last + 1]).min().unwrap_or(0)
            };
            self.log.trim(Stream::Bulk(f.partition), before).await?;
        }
        Ok(())
    }
}

/// A block as steps: rows that are there are written over whatever the destination has, the others deleted.
fn steps<'a>(payload: &'a [u8], plan: &TablePlan) -> Result<Vec<Step<'a>>> {
    let (table, mut keys, mut rows) = (plan.id, Vec::new(), Vec::new());
    let mut rest = payload;
    while !rest.is_empty() {
        let key = take_row(&mut rest, plan.key.len()).ok_or_else(|| damaged(plan, "half a key"))?;
        match take_cell(&mut rest) {
            Some(Cell::Null) => keys.push(key),
            Some(Cell::Value(row)) => rows.push(row),
            _ => return Err(damaged(plan, "half a row")),
        }
    }
    let mut steps = Vec::with_capacity(2);
    if !keys.is_empty() {
        steps.push(Step::Delete { table, keys, tolerant: true });
    }
    if !rows.is_empty() {
        steps.push(Step::Insert { table, rows, tolerant: true });
    }
    Ok(steps)
}

fn plan_of(plans: &[TablePlan], table: u32) -> Result<&TablePlan> {
    let plan = plans.get(table as usize).filter(|p| p.id == table);
    plan.ok_or_else(|| Error::internal(format!("there is no plan for table {table}")))
}

fn taken_back() -> Error {
    Error::new(codes::FENCED, Fault::Drover, Retry::Other, "the order was taken back while rows were owed")
}
