//! The reading side of a connector.

use crate::Rows;
use async_trait::async_trait;
use bytes::Bytes;
use drover_model::check::CheckItem;
use drover_model::chunk::{Bounds, Chunk};
use drover_model::ddl::{SchemaChange, Schemas};
use drover_model::doubt::{Doubt, Scanned, TableDoubts};
use drover_model::error::codes;
use drover_model::migration::{Migration, SchemaPolicy};
use drover_model::plan::{PlanColumn, SnapshotRef};
use drover_model::schema::Catalog;
use drover_model::selection::Selection;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use std::sync::Arc;

/// A source. All methods may be called from many tasks at once and open sessions of their own as they need.
#[async_trait]
pub trait Source: Send + Sync {
    /// Reads the catalogue of everything that a user owns, helper objects of drover left out. Changes nothing.
    async fn catalog(&self) -> Result<Catalog>;

    /// The precheck of this side for the selected tables. Changes nothing that stays (a test slot is dropped again). An
    /// `Err` means that the check itself could not be done.
    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>>;

    /// Whether a column may hold values of this doubt. Pure.
    fn may_hold(&self, column: &PlanColumn, doubt: &Doubt) -> bool {
        let _ = (column, doubt);
        true
    }

    /// Looks at all rows of a table (those that the plan's filter takes), now and in short transactions, for what is in doubt; the server does the
    /// looking. `told` is called with the rows seen so far. Doubts that [`Source::may_hold`] denies are not found.
    async fn scan(
        &self,
        plan: &TablePlan,
        doubts: &TableDoubts,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Scanned> {
        let _ = (doubts, told);
        let what = "this kind of source does not look at its rows before the start";
        Err(Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, what)
            .table(&plan.source)
            .remedy("check without --scan"))
    }

    /// Opens the change stream, or takes it over. Called by the one holder of the stream order.
    ///
    /// First call of a migration (`fresh`): creates what streaming needs (publication,
    /// slot …) and returns the exact snapshot that belongs to the start. If remains of an attempt exist whose snapshot is gone, they
    /// are dropped and made anew, because nothing can have been copied yet; FENCED if they were made under a later epoch.
    /// Later calls: ends the session of a former holder, asserts the source's identity and that it still has
    /// `resume`, and goes on there; `snapshot` is then `None`. Errors with POSITION_LOST if it has not.
    async fn open_stream(&self, spec: StreamSpec) -> Result<Opened>;

    /// A new exact snapshot of these tables (it may be one of more), while the stream runs or without any stream. Exactly what is committed
    /// up to its position is in it, so that changes after it can be told from those before.
    async fn new_snapshot(&self, tables: &[TablePlan]) -> Result<Box<dyn Hold>>;

    /// The same beside a stream, which must be able to meet it: its position belongs to the history of `seen`, the stream's last position in the log
    /// (none: it has published nothing yet). Sources whose positions have but one history do not look at it.
    ///
    /// # Errors
    /// Besides, where the stream has yet to follow to another server: worth another try.
    async fn snapshot_beside(&self, tables: &[TablePlan], seen: Option<&Position>) -> Result<Box<dyn Hold>> {
        let _ = seen;
        self.new_snapshot(tables).await
    }

    /// Joins a snapshot of another process and holds it too (with a token of its own). SNAPSHOT_LOST if it is gone.
    async fn join_snapshot(&self, snapshot: &SnapshotRef) -> Result<Box<dyn Hold>>;

    /// A session on the snapshot for planning and reading chunks. It asserts that it really is on it.
    async fn reader(&self, snapshot: &SnapshotRef) -> Result<Box<dyn ChunkReader>>;

    /// From where on the source keeps changes for this migration of its own accord (a slot); `None`: it keeps none so. For a migration
    /// whose log is lost.
    async fn kept_from(&self, migration: MigrationId) -> Result<Option<Position>> {
        let _ = migration;
        Ok(None)
    }

    /// What the source keeps of its log for this migration of its own accord, in words, for who watches its disk; `None`: nothing, or that is not
    /// known.
    async fn kept_log(&self, migration: MigrationId) -> Result<Option<String>> {
        let _ = migration;
        Ok(None)
    }

    /// A session for comparisons, on no snapshot.
    async fn rows(&self) -> Result<Box<dyn Rows>>;

    /// A position such that everything committed before this call lies at or before it, and which the stream will pass
    /// soon even if the source is idle: written into the source's log, or reported by it afterwards.
    async fn mark(&self) -> Result<Position>;

    /// The same in the history of `seen`, as [`Source::snapshot_beside`] has it.
    async fn mark_beside(&self, seen: Option<&Position>) -> Result<Position> {
        let _ = seen;
        self.mark().await
    }

    /// Seconds by which the source's clock is ahead of ours, for lag.
    async fn clock_skew(&self) -> Result<f64>;

    /// Drops everything that drover created here for this migration, restores what it changed. Idempotent. Returns what it did, for people.
    async fn cleanup(&self, migration: MigrationId) -> Result<Vec<String>>;

    /// Sequences' current values `(schema, name, last value, is called)` of the selected schemas.
    async fn sequences(&self) -> Result<Vec<(String, String, i64, bool)>>;
}

/// What a stream is opened with.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    pub migration: MigrationId,
    pub name: String,
    /// Index = number of the table; those that are gone have no columns.
    pub tables: Arc<Vec<TablePlan>>,
    /// What the tables look like where the stream begins, and which others would belong to the migration: for schema changes. Without them, and
    /// with sources that do not tell schema changes, a changed table ends the stream as TABLE_CHANGED.
    pub schemas: Option<Arc<Followed>>,
    /// Nothing of the stream has been used yet: make it anew, with its snapshot.
    pub fresh: bool,
    /// Epoch of the order under which the stream is opened. What a source keeps for a stream is never made anew under a lower one than it
    /// was made under: an order that was taken back may still be on its way.
    pub epoch: u64,
    /// Otherwise go on here: the last position that is durable in the log or, while the log is empty, the start that the first call gave.
    /// `None` only if that is not known: where the source itself stands, if it keeps a place for the stream; else POSITION_LOST.
    pub resume: Option<Position>,
    /// Consent to set a replica identity on tables that have none (undone by cleanup).
    pub may_set_identity: bool,
    /// Where unfinished and huge transactions spill.
    pub spill: std::path::PathBuf,
    /// Target size of a batch's payload in bytes (1–4 MiB).
    pub batch_bytes: usize,
}

/// What schema changes are followed with.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The tables of the migration, and such as are only known, as they are where the stream begins.
    pub schemas: Schemas,
    pub selection: Selection,
    /// What happens on a schema change that cannot be carried over.
    pub policy: SchemaPolicy,
}

/// An opened stream.
pub struct Opened {
    /// The first batch's `from`.
    pub start: Position,
    /// The snapshot that belongs to `start`; only when the stream was created by this call.
    pub snapshot: Option<Box<dyn Hold>>,
    pub stream: Box<dyn ChangeStream>,
}

/// Keeps a snapshot alive as long as it is not dropped. Several processes may hold one; it dies with the last.
#[async_trait]
pub trait Hold: Send + Sync {
    /// How others join through this holder.
    fn snapshot(&self) -> SnapshotRef;
    /// Ends with an error when the holding session is lost. Cancel-safe.
    async fn lost(&self) -> drover_model::Error;
}

/// Short for a boxed [`Hold`].
pub type Snapshot = Box<dyn Hold>;

/// A piece of a transaction too large for one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub index: u32,
    pub last: bool,
}

/// Whole transactions in commit order, or a piece of one huge transaction.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The interval `(from, to]` that this covers; `from` is the `to` of the batch before. All pieces of a transaction share
    /// one interval. An empty payload covers a stretch without changes for us; with `from` equal to `to` it only says that the source is alive
    /// and that nothing happened.
    pub from: Position,
    pub to: Position,
    /// See `drover_model::change`.
    pub payload: Bytes,
    pub piece: Option<Piece>,
    pub transactions: u32,
    pub changes: u64,
    /// Commit time of the last transaction, microseconds since the Unix epoch; for an empty stretch the source's clock.
    pub commit_micros: i64,
    /// The payload is this schema change and nothing else: one transaction that is a batch of its own.
    pub schema: Option<Box<SchemaChange>>,
}

/// The change stream. One task uses it.
#[async_trait]
pub trait ChangeStream: Send {
    /// The next batch: filled up to the target size while more is at hand, given out at once when nothing more is. Empty
    /// stretches are given out when the source says so, every second or so. Only the selected tables' selected columns and operations are in it.
    /// Cancel-safe: a cancelled call loses nothing.
    async fn next(&mut self) -> Result<Batch>;
    /// Everything up to here is durable downstream: the source may forget it. Never called with a later position than the last batch's.
    async fn confirm(&mut self, position: &Position) -> Result<()>;
    /// Called every few seconds while no batch is asked for: tells a source that would end a silent session that we are there.
    async fn alive(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Takes blocks of rows in the plan's row format.
#[async_trait]
pub trait BlockSink: Send {
    /// One block of 1–4 MiB (the last one smaller). Waits when too much is under way. Blocks of one chunk concatenate.
    async fn block(&mut self, rows: u64, data: Bytes) -> Result<()>;
}

/// What reading a chunk found.
#[derive(Debug, Clone)]
pub struct ChunkRead {
    pub rows: u64,
    pub bytes: u64,
    /// The table's physical identity after the read, to be compared with the plan's.
    pub physical: String,
}

/// A session on a snapshot. One task uses it, for many chunks.
#[async_trait]
pub trait ChunkReader: Send {
    /// Cuts a table into chunks of about `target_bytes`, without reading all of it. Key ranges where a usable key exists (they outlive the
    /// snapshot), else physical ranges, else the whole table. `keyed` demands key ranges where there is any key.
    async fn plan(&mut self, plan: &TablePlan, target_bytes: u64, keyed: bool) -> Result<Vec<Chunk>>;
    /// Reads one chunk in the plan's format. On `Err` the blocks already given out are void.
    async fn read(&mut self, plan: &TablePlan, bounds: &Bounds, sink: &mut dyn BlockSink) -> Result<ChunkRead>;
    /// Fetches rows by key (canonical key cells), on the snapshot, for rows that are owed: for each key, in order, its row as canonical cells
    /// in change form, or `None` if the snapshot has none (or the plan's filter leaves it out). One round trip, not one for each key; the caller
    /// gives as many keys as it can take the rows of. TABLE_CHANGED when the table is not the one that was planned any more: the snapshot may
    /// show no rows then.
    async fn fetch(&mut self, plan: &TablePlan, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>>;
}
