//! The log between extractors and appliers: it carries blocks of rows and batches of changes and keeps them until they
//! are applied. Two implementations promise the same and pass one suite: [`local`] (one process: memory, then checksummed
//! segment files) and [`kafka`].
//!
//! The promise: when [`Appender::flush`] returns, everything appended before is durable and will be read by every later
//! reader, in the order appended, exactly once, until it is trimmed; nothing that was never appended is read. One stream has one
//! appender at a time; an appender of a former epoch may still slip records in before it notices that it is dead, so records carry the
//! epoch and readers drop older ones (see `drover_proto::record`).

pub mod kafka;
pub mod local;
pub mod suite;

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::{Position, Result};

/// A stream of a migration's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Change batches in commit order.
    Changes,
    /// A bulk partition: blocks of chunks. A reading session owns one for the time of a chunk.
    Bulk(u32),
}

/// Place of a record in its stream. Offsets rise; they may have holes.
pub type Offset = u64;

/// What a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The first record that is still there (or would be).
    pub first: Offset,
    /// The offset that the next record will have or exceed.
    pub next: Offset,
}

/// What is left to do when records are gone: nothing brings them back.
pub const BEGIN_AGAIN: &str =
    "nothing that is still there fills the gap: `drover cleanup`, then run the migration anew into emptied tables";

/// The log of one migration.
#[async_trait]
pub trait Log: Send + Sync {
    /// Makes the streams (changes and `bulk` partitions) if missing, and verifies those that exist: retention, replicas, message size and that
    /// they belong to this migration. Idempotent; called by every worker before its first use.
    async fn open(&self, bulk: u32) -> Result<()>;

    /// The one appender of a stream. Opening it does not end a former one.
    async fn appender(&self, stream: Stream) -> Result<Box<dyn Appender>>;

    /// A reader from the first record at or after `from`. LOG error if `from` lies before the first record that is still there.
    async fn reader(&self, stream: Stream, from: Offset) -> Result<Box<dyn Reader>>;

    /// What a stream holds now (durable records only).
    async fn span(&self, stream: Stream) -> Result<Span>;

    /// The last durable record of a stream, whole, if there is one.
    async fn last(&self, stream: Stream) -> Result<Option<(Offset, Bytes)>>;

    /// Deletes records before an offset (perhaps later, perhaps less).
    async fn trim(&self, stream: Stream, before: Offset) -> Result<()>;

    /// Bytes that a stream holds, for budgets; an estimate.
    async fn bytes(&self, stream: Stream) -> Result<u64>;

    /// The destination holds everything up to here, durably. Of use to a log within one process only.
    fn note_applied(&self, position: &Position) {
        let _ = position;
    }

    /// What [`Log::note_applied`] was told last; `None`: nothing, or this log does not carry it.
    fn applied(&self) -> Option<Position> {
        None
    }

    /// Deletes all streams of this migration. Idempotent.
    async fn remove(&self) -> Result<()>;
}

/// Opens the log of a migration, the same one for all who ask in one process.
#[async_trait]
pub trait LogFactory: Send + Sync {
    async fn log(&self, description: &drover_proto::order::Description) -> Result<std::sync::Arc<dyn Log>>;
}

/// Appends to a stream. One task uses it.
#[async_trait]
pub trait Appender: Send {
    /// Takes a record of any size (split below if the medium has a limit). Waits while more than a bounded number of bytes is on
    /// the way. Accepted is not durable. Not cancel-safe: a cancelled call may or may not have appended.
    async fn append(&mut self, record: Bytes) -> Result<()>;
    /// Number of records appended by this appender that are durable (a prefix of them).
    fn durable(&self) -> u64;
    /// Waits until `durable()` has grown beyond `seen` (returns at once if it has), or fails. Cancel-safe.
    async fn durable_beyond(&mut self, seen: u64) -> Result<u64>;
    /// Waits until all appended records are durable; gives the offsets of the first and last record appended since the
    /// former flush (or since opening), `None` if there were none.
    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>>;
}

/// Reads a stream.
#[async_trait]
pub trait Reader: Send {
    /// The next record; waits for it if need be. Cancel-safe. LOG error if it was trimmed away or is damaged.
    async fn next(&mut self) -> Result<(Offset, Bytes)>;
}
