//! Fetching rows that an apply order owes: their keys are read from the log, the rows on the snapshot, and what was found goes behind the
//! keys into the same partition. Guarantee: an attempt whose last block is in the log has the row, or that there is none, of every key.

use bytes::Bytes;
use drover_connectors_api::ChunkReader;
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::row::{Cell, put_cell, take_row};
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_proto::order::Owes;
use drover_proto::record::{frame, parse};
use drover_proto::v1::{BulkHead, Compression, Owed};
use drover_runtime::failpoint;

/// Rows are fetched in parts of about so many bytes, a block each.
const PART_BYTES: usize = 1 << 20;
/// Keys of the first part, whose rows may be of any size, and of any later part at most.
const PART_KEYS: (usize, usize) = (64, 8192);

/// Fetches what `owes` asks for under the lease of the fetch order; gives the number of rows found. Durable when it returns.
///
/// # Errors
/// LOG when the keys are not in the log any more, TABLE_CHANGED and SNAPSHOT_LOST as the reader says.
pub async fn fetch(
    log: &dyn Log,
    reader: &mut dyn ChunkReader,
    migration: MigrationId,
    plan: &TablePlan,
    owes: &Owes,
    lease: u64,
) -> Result<u64> {
    let keys = match keys(log, migration, plan, owes).await {
        Ok(keys) => keys,
        // Nobody waits: another attempt had answered, and what it paid for was trimmed.
        Err(_) if forgotten(log, owes).await? => return Ok(0),
        Err(error) => return Err(error),
    };
    failpoint("owed-not-fetched");
    let mut head = BulkHead {
        version: 1,
        migration: Bytes::copy_from_slice(migration.as_bytes()),
        table: plan.id,
        lease,
        plan_version: plan.version,
        compression: Compression::None.into(),
        owed: Some(Owed { apply: owes.keys.lease, round: owes.round, last: false }),
        ..BulkHead::default()
    };
    let mut appender = log.appender(Stream::Bulk(owes.keys.partition)).await?;
    let (mut rest, mut rows, mut part) = (&keys[..], 0, PART_KEYS.0);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(part.min(rest.len()));
        rest = later;
        let found = reader.fetch(plan, now).await?;
        let mut payload = Vec::new();
        for (key, row) in now.iter().zip(&found) {
            payload.extend_from_slice(key);
            put_cell(&mut payload, row.as_deref().map_or(Cell::Null, Cell::Value));
        }
        head.rows = found.iter().flatten().count() as u64;
        rows += head.rows;
        if let Some(owed) = &mut head.owed {
            owed.last = rest.is_empty();
        }
        appender.append(frame(&head, &payload)).await?;
        head.sequence += 1;
        part = (now.len() * PART_BYTES / payload.len().max(1)).clamp(1, PART_KEYS.1);
    }
    appender.flush().await?;
    failpoint("fetched-not-reported");
    Ok(rows)
}

/// The log has forgotten the keys, as it does once their rows are paid.
async fn forgotten(log: &dyn Log, owes: &Owes) -> Result<bool> {
    let span = log.span(Stream::Bulk(owes.keys.partition)).await?;
    Ok(owes.keys.records.is_some_and(|(first, _)| first < span.first))
}

/// The keys that are asked for.
async fn keys(log: &dyn Log, migration: MigrationId, plan: &TablePlan, owes: &Owes) -> Result<Vec<Bytes>> {
    let lost = |how: String| {
        let text = format!("the keys of rows that are owed cannot be read from the log: {how}");
        Error::new(codes::LOG, Fault::Log, Retry::Other, text).table(&plan.source)
    };
    let Some((first, last)) = owes.keys.records else { return Ok(Vec::new()) };
    let mut keys = Vec::with_capacity(owes.keys.rows as usize);
    let mut reader = log.reader(Stream::Bulk(owes.keys.partition), first).await?;
    loop {
        let (offset, record) = reader.next().await?;
        if offset > last {
            break;
        }
        let (head, payload) = parse::<BulkHead>(record).map_err(|e| lost("a record is broken".into()).cause(e))?;
        let of = head.owed.as_ref().map(|o| (o.apply, o.round));
        let ours = head.migration == migration.as_bytes()[..]
            && head.lease == owes.keys.lease
            && of == Some((owes.keys.lease, owes.round))
            && head.table == plan.id;
        if ours {
            let mut rest = &payload[..];
            while !rest.is_empty() {
                let key = take_row(&mut rest, plan.key.len()).ok_or_else(|| lost("half a key".into()))?;
                keys.push(payload.slice_ref(key));
            }
        }
        if offset == last {
            break;
        }
    }
    if keys.len() as u64 != owes.keys.rows {
        return Err(lost(format!("{} of {} are there", keys.len(), owes.keys.rows)));
    }
    Ok(keys)
}
