//! Work orders: everything that a worker does is one, leased by the coordinator under an epoch. They are data (JSON in the
//! control plane and in the store); a worker that carries one out twice does no harm.
//!
//! Who does what in a migration of schema, rows and changes:
//!
//! ```text
//! Inspect (extractor) → Survey (applier) → Schema base (applier) → Stream (extractor, long; makes the snapshot)
//!   → Hold (every extractor, long) → Plan (per table) → Copy → Load (per chunk) → Schema table (per table)
//!   → Schema final → Apply (applier, long) ⇄ Fetch (extractor; only after a lost snapshot)
//! ```

use drover_model::check::CheckItem;
use drover_model::chunk::{Bounds, Chunk};
use drover_model::ddl::{Dated, SchemaChange, Schemas};
use drover_model::doubt::Replaced;
use drover_model::migration::Migration;
use drover_model::plan::SnapshotRef;
use drover_model::schema::{Catalog, Object};
use drover_model::{Error, MigrationId, Position, TablePlan};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which role carries an order out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Extractor,
    Applier,
}

/// What a worker needs to know of a migration, beside the order. Fetched once per revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Description {
    pub id: MigrationId,
    /// Raised whenever anything here changes.
    pub revision: u64,
    pub migration: Migration,
    /// From `Inspect`; empty before.
    #[serde(default)]
    pub catalog: Option<Arc<Catalog>>,
    /// From `Survey`; empty before. Index = table id.
    #[serde(default)]
    pub plans: Arc<Vec<TablePlan>>,
    /// Objects besides tables that are selected.
    #[serde(default)]
    pub objects: Arc<Vec<Object>>,
    /// Bulk partitions of the log.
    pub bulk_partitions: u32,
    /// The state was lost, and taken over from the destination: its tables are ours.
    #[serde(default)]
    pub adopted: bool,
    /// Schema changes that the stream has met, in its order: `catalog` and `plans` are those before them.
    #[serde(default)]
    pub schema_changes: Vec<Dated>,
}

impl Description {
    /// Catalogue and plans as of a position, as the source's side knows them (`None`: the latest).
    ///
    /// # Errors
    /// There is no catalogue yet.
    pub fn schemas(&self, upto: Option<&Position>) -> Result<Schemas, Error> {
        let catalog = self.catalog.clone().ok_or_else(|| Error::internal("an order came before the catalogue"))?;
        Ok(Schemas::new(catalog, self.plans.clone()).folded(&self.schema_changes, upto))
    }
}

/// What the destination knows of a migration whose state is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Changes are applied up to here.
    pub position: Option<Position>,
    /// From this position on the destination shows whole transactions of the source, and no table has a tolerant stretch.
    pub consistent: Option<Position>,
}

/// Between which positions a table's rows were read: changes up to `low` are in all of them, changes after `high` in none;
/// between the two some rows have them and some don't (the tolerant stretch; empty when `low == high`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub low: Position,
    pub high: Position,
}

/// Where a chunk's blocks lie in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub partition: u32,
    /// Offsets of the first and last record; `None` for an empty chunk (no record at all).
    pub records: Option<(u64, u64)>,
    pub rows: u64,
    pub bytes: u64,
    /// Lease epoch of the copy: other attempts' records between these offsets are skipped.
    pub lease: u64,
}

/// Rows that an apply order owes: they moved to other keys, and the change stream did not carry all of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owes {
    pub table: u32,
    /// Counts what one apply order asks for. Its lease is that of the keys.
    pub round: u32,
    /// Where the keys lie in the log: blocks of canonical key cells.
    pub keys: Extent,
}

/// A change stream as an extractor opened it. Known before its first record is published, so whoever comes after can tell its records in the
/// log from late ones of extractors before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Where it goes on: where the log ended then.
    pub start: Position,
    /// What its records carry.
    #[serde(default)]
    pub epoch: u64,
    /// Its records lie at this offset of the log, or behind it.
    #[serde(default)]
    pub offset: u64,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// Extractor: read the catalogue, compile the selection, check the source.
    Inspect,
    /// Applier: map the selected tables, check the destination, prepare its progress row. Needs the catalogue.
    Survey,
    /// Extractor: the source's precheck for the mapped tables.
    CheckSource,
    /// Applier: a schema step.
    Schema {
        step: Step,
    },
    /// Extractor, long: open the change stream, anew or (`resume`) where the log ends, and publish to the log. Reports `StreamOpened` first.
    /// `start`: where the stream began; it goes on there while the log is empty. `last`: how it was opened last; nobody has published under
    /// a higher epoch.
    Stream {
        resume: bool,
        #[serde(default)]
        start: Option<Position>,
        #[serde(default)]
        last: Option<Opening>,
    },
    /// Extractor, long: take a new exact snapshot and hold it. Reports `Snapshot` first.
    Snapshot {
        number: u32,
    },
    /// Extractor, long, one for each extractor beside the one that made it: join and hold. Reports `Joined` first.
    Hold {
        number: u32,
        snapshot: SnapshotRef,
    },
    /// Extractor: cut a table into chunks. `keyed`: key ranges only, for tables that go on after a lost snapshot.
    Plan {
        table: u32,
        snapshot: SnapshotRef,
        target_bytes: u64,
        keyed: bool,
    },
    /// Extractor: read a chunk into a bulk partition.
    Copy {
        table: u32,
        generation: u32,
        chunk: u32,
        bounds: Bounds,
        snapshot: SnapshotRef,
        partition: u32,
    },
    /// Applier: load a chunk. `trim`: once it is loaded, nothing before this offset of its partition is needed any more.
    Load {
        table: u32,
        generation: u32,
        chunk: u32,
        extent: Extent,
        trim: u64,
    },
    /// Applier: forget the position at the destination, so that all tables can begin again. Answers with the highest generation of
    /// a table that is known there.
    Forget,
    /// Applier: begin a table again, from empty.
    Restart {
        table: u32,
        generation: u32,
    },
    /// Applier, long: apply changes from the log. `windows[i]` belongs to table i. Reports positions by progress.
    Apply {
        start: Position,
        windows: Vec<Window>,
    },
    /// Extractor: fetch the rows that an apply order owes, on the snapshot, and append them to the partition that their keys are in.
    Fetch {
        owes: Owes,
        snapshot: SnapshotRef,
    },
    /// Extractor: write a mark into the source's log.
    Mark,
    /// Extractor or applier: sum up all rows of a table on its side.
    Digest {
        table: u32,
        side: Side,
    },
    /// Extractor: sequences' values for the destination.
    ReadSequences,
    /// Applier: set them.
    SetSequences {
        values: Vec<(String, String, i64, bool)>,
    },
    /// Extractor / applier: drop what drover created on that side.
    CleanSource,
    CleanDestination,
}

/// A side of the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Source,
    Destination,
}

/// A step of creating schema, as data of an order (the connectors' `SchemaStep`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Base,
    Table { id: u32 },
    Final,
    Cutover,
}

/// What came of an order. Long orders report intermediate outcomes under the same lease; those do not end it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    Inspected {
        catalog: Arc<Catalog>,
        items: Vec<CheckItem>,
    },
    Surveyed {
        plans: Arc<Vec<TablePlan>>,
        objects: Arc<Vec<Object>>,
        items: Vec<CheckItem>,
        /// Of an adopted migration.
        #[serde(default)]
        held: Option<Held>,
    },
    Checked {
        items: Vec<CheckItem>,
    },
    /// Schema step, restart, sequences set, cleaned: nothing to tell but what was done.
    Done {
        what: Vec<String>,
    },
    /// Not an end: the stream runs, and will publish; `snapshot` if it was made now.
    StreamOpened {
        opening: Opening,
        snapshot: Option<SnapshotRef>,
        /// Of an adopted migration: from where on its log has the changes, if that is before `start`.
        #[serde(default)]
        first: Option<Position>,
    },
    /// Not an end.
    SnapshotTaken {
        snapshot: SnapshotRef,
    },
    /// Not an end: this worker holds the snapshot too.
    Joined {
        snapshot: SnapshotRef,
    },
    /// Not an end: the stream has met a schema change, which goes into the log once this is stored.
    SchemaChanged {
        position: Position,
        change: Box<SchemaChange>,
    },
    /// Not an end: applying goes on when the log has the rows, behind the keys and in the same partition.
    Owes {
        owes: Owes,
    },
    /// The rows that were owed are in the log.
    Fetched {
        rows: u64,
    },
    /// The snapshot, or the hold on it, is gone.
    SnapshotLost {
        error: Error,
    },
    Planned {
        chunks: Vec<Chunk>,
    },
    Copied {
        extent: Extent,
        physical: String,
    },
    Loaded {
        rows: u64,
    },
    Forgotten {
        generation: u32,
    },
    /// The records of the chunk are not in the log any more (a process without a durable bulk log was restarted): copy it again.
    BulkLost,
    Sequences {
        values: Vec<(String, String, i64, bool)>,
    },
    Marked {
        position: Position,
    },
    /// Equal rows on both sides have equal `sum`s (a hash, as text).
    Digested {
        rows: u64,
        sum: String,
    },
    Failed {
        error: Error,
    },
}

impl Outcome {
    /// Whether the order ends with this.
    pub fn ends(&self) -> bool {
        use Outcome::{Joined, Owes, SchemaChanged, SnapshotTaken, StreamOpened};
        !matches!(self, StreamOpened { .. } | SnapshotTaken { .. } | Joined { .. } | Owes { .. } | SchemaChanged { .. })
    }
}

/// Amounts per second; 0: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub queries: f64,
    pub rows: f64,
    pub bytes: f64,
}

/// What one worker may do of a migration's `[limits]`: all workers' shares add up to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub migration: MigrationId,
    pub full: Rates,
    pub incremental: Rates,
}

/// News of a running order, beside the lease renewals. Never stored as state; lost news do no harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Progress {
    Copy {
        migration: MigrationId,
        table: u32,
        chunk: u32,
        rows: u64,
        bytes: u64,
    },
    Load {
        migration: MigrationId,
        table: u32,
        chunk: u32,
        rows: u64,
        bytes: u64,
    },
    Stream {
        migration: MigrationId,
        published: Position,
        /// The end of a transaction of which some pieces are published and some are not.
        #[serde(default)]
        reaching: Option<Position>,
        changes: u64,
        bytes: u64,
        commit_micros: i64,
        log_bytes: u64,
    },
    Apply {
        migration: MigrationId,
        applied: Position,
        rows: u64,
        transactions: u64,
        commit_micros: i64,
        consistent: bool,
        /// Everything up to here was applied before this order began: it knows of no change before.
        #[serde(default)]
        from: Option<Position>,
        /// Tables that changed last and where, the latest first; some at most. No later change than the first one's is applied
        /// up to `applied`.
        #[serde(default)]
        changed: Vec<(u32, Position)>,
        /// Values that policies changed, counted at the destination; in the copy, too.
        #[serde(default)]
        replaced: Vec<Replaced>,
    },
}
