//! Copying a chunk: blocks from the source become records of a bulk partition, each with its place in the chunk, so that a
//! loader can tell attempts apart and see that nothing is missing.

use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{BlockSink, ChunkRead, ChunkReader};
use drover_log::{Appender, Log, Stream};
use drover_model::chunk::Bounds;
use drover_model::{MigrationId, Result, TablePlan};
use drover_proto::order::Extent;
use drover_proto::record::frame;
use drover_proto::v1::{BulkHead, Compression};
use drover_runtime::memory::Account;
use drover_runtime::rate::{Amount, Limiter};
use std::sync::Arc;

/// Bytes of blocks, of all copies together, that are on their way into the log; beyond it copies wait for each other.
pub const BLOCKS: usize = 8 << 20;

/// What identifies the attempt.
pub struct Attempt<'a> {
    pub migration: MigrationId,
    pub plan: &'a TablePlan,
    pub generation: u32,
    pub chunk: u32,
    pub lease: u64,
    pub partition: u32,
}

struct Sink<'a> {
    limit: &'a Limiter,
    room: &'a Arc<Account>,
    appender: Box<dyn Appender>,
    head: BulkHead,
    news: &'a (dyn Fn(u64, u64) + Send + Sync),
    rows: u64,
    bytes: u64,
}

#[async_trait]
impl BlockSink for Sink<'_> {
    async fn block(&mut self, rows: u64, data: Bytes) -> Result<()> {
        // Paid before it passes; meanwhile the source waits for us to read on.
        self.limit.take(Amount { rows, bytes: data.len() as u64, queries: 0 }).await;
        let _taken = self.room.hold(data.len()).await;
        self.head.rows = rows;
        self.appender.append(frame(&self.head, &data)).await?;
        self.head.sequence += 1;
        self.rows += rows;
        self.bytes += data.len() as u64;
        (self.news)(self.rows, self.bytes);
        Ok(())
    }
}

/// Reads one chunk into its partition; returns when all of it is durable there. `room` has [`BLOCKS`]; `news` gets rows and bytes so far.
pub async fn copy(
    log: &dyn Log,
    reader: &mut dyn ChunkReader,
    attempt: &Attempt<'_>,
    bounds: &Bounds,
    limit: &Limiter,
    room: &Arc<Account>,
    news: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(Extent, String)> {
    let head = BulkHead {
        version: 1,
        migration: Bytes::copy_from_slice(attempt.migration.as_bytes()),
        table: attempt.plan.id,
        generation: attempt.generation,
        chunk: attempt.chunk,
        lease: attempt.lease,
        sequence: 0,
        rows: 0,
        plan_version: attempt.plan.version,
        compression: Compression::None.into(),
        owed: None,
    };
    let appender = log.appender(Stream::Bulk(attempt.partition)).await?;
    limit.take(Amount { queries: 1, ..Amount::default() }).await;
    let mut sink = Sink { limit, room, appender, head, news, rows: 0, bytes: 0 };
    let ChunkRead { rows, bytes, physical } = reader.read(attempt.plan, bounds, &mut sink).await?;
    let records = sink.appender.flush().await?;
    Ok((Extent { partition: attempt.partition, records, rows, bytes, lease: attempt.lease }, physical))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_log::local::{LocalLog, LocalOptions};
    use drover_runtime::rate::Limits;

    #[tokio::test]
    async fn a_block_waits_for_those_of_other_copies() {
        let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::from_u128(4));
        let log = LocalLog::open(dir.path(), id, LocalOptions::default()).await.unwrap();
        log.open(1).await.unwrap();
        let (room, limits) = (Account::new("test: blocks", 1000), Limits::default().of(id));
        let appender = log.appender(Stream::Bulk(0)).await.unwrap();
        let head = BulkHead::default();
        let mut sink = Sink { limit: &limits.full, room: &room, appender, head, news: &|_, _| {}, rows: 0, bytes: 0 };
        let other = room.hold(500).await;
        let block = Bytes::from(vec![7; 600]);
        let mut waits = Box::pin(sink.block(3, block.clone()));
        tokio::select! {
            biased;
            _ = &mut waits => panic!("it did not wait"),
            () = tokio::task::yield_now() => {}
        }
        drop(other);
        waits.await.unwrap();
        assert_eq!((sink.rows, sink.bytes, room.held()), (3, 600, 0));
        // Larger than all that there may be.
        sink.block(1, Bytes::from(vec![7; 5000])).await.unwrap();
        assert_eq!(room.held(), 0);
    }
}
