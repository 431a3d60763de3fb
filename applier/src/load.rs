//! Loading a chunk: its blocks are read from the log and written with their mark in one destination transaction.
//!
//! Attempts never mix: only records of the copy order's own lease count, and they must be complete: numbered from 0 without
//! a gap, with as many rows as the copy reported. Anything else loads nothing.

use crate::consume::VERSION;
use bytes::Bytes;
use drover_connectors_api::{LoadOutcome, Loader};
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_proto::order::Extent;
use drover_proto::record::parse;
use drover_proto::v1::{BulkHead, Compression};

/// Which chunk, and where its records lie.
pub struct Chunk<'a> {
    pub migration: MigrationId,
    pub plan: &'a TablePlan,
    pub generation: u32,
    pub chunk: u32,
    pub extent: Extent,
}

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    Rows(u64),
    /// The records are not in the log any more.
    Lost,
}

fn damaged(chunk: &Chunk<'_>, how: String) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, format!("a chunk in the log cannot be used: {how}"))
        .table(&chunk.plan.source)
}

fn inflate(head: &BulkHead, payload: Bytes, chunk: &Chunk<'_>) -> Result<Bytes> {
    match head.compression() {
        Compression::None => Ok(payload),
        Compression::Zstd => {
            let plain = zstd::stream::decode_all(&payload[..]);
            plain.map(Bytes::from).map_err(|e| damaged(chunk, "its compression is broken".into()).cause(e))
        }
    }
}

/// Loads one chunk. `news` gets rows and bytes so far. A chunk whose mark is there already is a success.
pub async fn load(
    log: &dyn Log,
    loader: &mut dyn Loader,
    chunk: &Chunk<'_>,
    news: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Loaded> {
    if let Some(outcome) = loader.begin(chunk.plan, chunk.generation, chunk.chunk).await? {
        return Ok(rows_of(outcome, chunk));
    }
    match fill(log, loader, chunk, news).await {
        Ok(true) => {}
        Ok(false) => {
            loader.abort().await?;
            return Ok(Loaded::Lost);
        }
        Err(error) => {
            loader.abort().await?;
            return Err(error);
        }
    }
    let outcome = loader.finish(chunk.extent.rows).await?;
    drover_runtime::failpoint("loaded-not-reported");
    Ok(rows_of(outcome, chunk))
}

fn rows_of(outcome: LoadOutcome, chunk: &Chunk<'_>) -> Loaded {
    match outcome {
        LoadOutcome::Loaded { rows } => Loaded::Rows(rows),
        LoadOutcome::AlreadyLoaded | LoadOutcome::OldGeneration => Loaded::Rows(chunk.extent.rows),
    }
}

/// Feeds the chunk's records to the loader; `false` if the log has lost them.
async fn fill(
    log: &dyn Log,
    loader: &mut dyn Loader,
    chunk: &Chunk<'_>,
    news: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<bool> {
    let Some((first, last)) = chunk.extent.records else { return Ok(true) };
    let stream = Stream::Bulk(chunk.extent.partition);
    let span = log.span(stream).await?;
    if first < span.first || last >= span.next {
        return Ok(false);
    }
    let mut reader = log.reader(stream, first).await?;
    let (mut rows, mut bytes, mut next) = (0u64, 0u64, 0u32);
    loop {
        let (offset, record) = reader.next().await?;
        if offset > last {
            break;
        }
        let (head, payload) =
            parse::<BulkHead>(record).map_err(|e| damaged(chunk, "a record is broken".into()).cause(e))?;
        if head.migration != chunk.migration.as_bytes()[..] {
            return Err(damaged(chunk, "it belongs to another migration".into()));
        }
        let ours = head.lease == chunk.extent.lease
            && (head.table, head.generation, head.chunk) == (chunk.plan.id, chunk.generation, chunk.chunk);
        if ours {
            if head.version != VERSION {
                let what = format!("its blocks have format {}, not {VERSION}", head.version);
                return Err(damaged(chunk, what).remedy("run the same version of drover everywhere"));
            }
            if head.sequence != next {
                return Err(damaged(chunk, format!("block {} came where {next} was due", head.sequence)));
            }
            if head.plan_version != chunk.plan.version {
                return Err(damaged(chunk, "it was read by another version of the table's plan".into()));
            }
            next += 1;
            rows += head.rows;
            let payload = inflate(&head, payload, chunk)?;
            bytes += payload.len() as u64;
            loader.block(payload).await?;
            news(rows, bytes);
        }
        if offset == last {
            break;
        }
    }
    if rows != chunk.extent.rows {
        return Err(damaged(chunk, format!("it has {rows} rows instead of {}", chunk.extent.rows)));
    }
    Ok(true)
}
