//! Loading a chunk. Guarantee: the rows of exactly one reading of the chunk arrive, all of them, in one transaction with the chunk's mark; records
//! of other attempts between them are skipped, missing ones are noticed.

use crate::consume::expand;
use crate::orders::News;
use bytes::Bytes;
use drover_connectors_api::{LoadOutcome, Loader};
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_proto::order::{Extent, Outcome, Progress};
use drover_proto::record::parse;
use drover_proto::v1::BulkHead;
use drover_runtime::{failpoint, task};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A chunk that lies in the log.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub migration: MigrationId,
    pub generation: u32,
    pub chunk: u32,
    pub extent: Extent,
}

/// Blocks read ahead of the destination.
const AHEAD: usize = 2;

/// Loads a chunk through a session that is between chunks. Gives `Loaded` or `BulkLost`.
///
/// # Errors
/// Those of the destination and of the log; then the session's transaction has been given up.
pub async fn load(
    log: Arc<dyn Log>,
    loader: &mut dyn Loader,
    plan: &TablePlan,
    chunk: &Chunk,
    news: &News,
) -> Result<Outcome> {
    if let Some(outcome) = loader.begin(plan, chunk.generation, chunk.chunk).await? {
        return settled(outcome, plan, chunk);
    }
    match blocks(log, loader, plan, chunk, news).await {
        Ok(true) => {
            let outcome = loader.finish(chunk.extent.rows).await?;
            failpoint("loaded-not-reported");
            settled(outcome, plan, chunk)
        }
        Ok(false) => {
            loader.abort().await?;
            Ok(Outcome::BulkLost)
        }
        Err(error) => {
            loader.abort().await?;
            Err(error)
        }
    }
}

fn settled(outcome: LoadOutcome, plan: &TablePlan, chunk: &Chunk) -> Result<Outcome> {
    match outcome {
        LoadOutcome::Loaded { rows } => Ok(Outcome::Loaded { rows }),
        LoadOutcome::AlreadyLoaded => Ok(Outcome::Loaded { rows: chunk.extent.rows }),
        LoadOutcome::OldGeneration => Err(Error::new(
            codes::TABLE_CHANGED,
            Fault::Drover,
            Retry::Other,
            "the table has been begun again since this chunk was read",
        )
        .table(&plan.destination)),
    }
}

/// Feeds the blocks; `false` if records are missing.
async fn blocks(
    log: Arc<dyn Log>,
    loader: &mut dyn Loader,
    plan: &TablePlan,
    chunk: &Chunk,
    news: &News,
) -> Result<bool> {
    let Some((first, last)) = chunk.extent.records else { return Ok(chunk.extent.rows == 0) };
    let stream = Stream::Bulk(chunk.extent.partition);
    let span = log.span(stream).await?;
    if span.first > first || span.next <= last {
        return Ok(false);
    }
    let mut reader = match log.reader(stream, first).await {
        Ok(reader) => reader,
        Err(e) if e.code == codes::LOG => return Ok(false),
        Err(e) => return Err(e),
    };
    let (feed, mut records) = mpsc::channel(AHEAD);
    let _reader = task::spawn("bulk reader", async move {
        loop {
            let next = reader.next().await;
            let end = next.as_ref().map_or(true, |(offset, _)| *offset >= last);
            if feed.send(next).await.is_err() || end {
                return;
            }
        }
    });
    let (mut sequence, mut rows, mut bytes) = (0, 0, 0);
    while let Some(record) = records.recv().await {
        let (offset, record) = match record {
            Ok(record) => record,
            Err(e) if e.code == codes::LOG => return Ok(false),
            Err(e) => return Err(e),
        };
        if offset > last {
            return Ok(false);
        }
        let Some((head, payload)) = ours(record, plan, chunk)? else { continue };
        // A block that was appended twice is passed over, one that is missing is noticed by the next one.
        if head.sequence < sequence {
            continue;
        }
        if head.sequence > sequence {
            return Ok(false);
        }
        let block = expand(head.compression, payload)?;
        (sequence, rows, bytes) = (sequence + 1, rows + head.rows, bytes + block.len() as u64);
        loader.block(block).await?;
        news.progress(Progress::Load { migration: chunk.migration, table: plan.id, chunk: chunk.chunk, rows, bytes });
        if offset == last {
            break;
        }
    }
    Ok(rows == chunk.extent.rows)
}

/// Head and payload, if the record is of this reading of this chunk.
fn ours(record: Bytes, plan: &TablePlan, chunk: &Chunk) -> Result<Option<(BulkHead, Bytes)>> {
    let broken = |what: String| Error::new(codes::LOG, Fault::Log, Retry::Never, what).table(&plan.source);
    let (head, payload) =
        parse::<BulkHead>(record).map_err(|e| broken("a bulk record cannot be read".into()).cause(e))?;
    if head.version != 1 {
        return Err(broken(format!("a bulk record has format {}, not 1", head.version)));
    }
    if head.migration[..] != chunk.migration.as_bytes()[..] {
        return Err(broken("a bulk record belongs to another migration".into()));
    }
    let wanted = (plan.id, chunk.generation, chunk.chunk, chunk.extent.lease);
    if (head.table, head.generation, head.chunk, head.lease) != wanted {
        return Ok(None);
    }
    if head.plan_version != plan.version {
        let what =
            format!("a block was encoded with version {} of the table's plan, not {}", head.plan_version, plan.version);
        return Err(broken(what));
    }
    Ok(Some((head, payload)))
}
