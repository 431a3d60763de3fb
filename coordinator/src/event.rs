//! What can happen to a migration. The state of a migration is the fold of its events; an event is stored before anything
//! acts on it. Events carry the outcome of a decision, never the question, so that a journal of years ago folds to the same state
//! whatever the rules are today.

use crate::cutover::Change;
use crate::key::OrderKey;
use crate::settings::Settings;
use drover_model::check::CheckItem;
use drover_model::chunk::Chunk;
use drover_model::ddl::Dated;
use drover_model::plan::SnapshotRef;
use drover_model::schema::{Catalog, Object};
use drover_model::{Error, Position, TablePlan};
pub use drover_proto::order::Side;
use drover_proto::order::{Extent, Held, Opening, Owes, Step};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An event. New kinds may be added; the fields of a kind never change their meaning, and new fields have defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Created {
        name: String,
        settings: Settings,
    },
    /// A precheck begins, the first or another; `start`: the migration starts when it passes.
    PrecheckStarted {
        start: bool,
    },
    PrecheckCancelled,
    Inspected {
        catalog: Arc<Catalog>,
        items: Vec<CheckItem>,
    },
    Surveyed {
        plans: Arc<Vec<TablePlan>>,
        objects: Arc<Vec<Object>>,
        items: Vec<CheckItem>,
        #[serde(default)]
        held: Option<Held>,
    },
    Checked {
        items: Vec<CheckItem>,
    },
    /// A check could not be carried out at all; `item` says why.
    CheckBroken {
        item: CheckItem,
    },
    Prechecked {
        passed: bool,
    },
    Started,
    SchemaDone {
        step: Step,
        what: Vec<String>,
    },
    StreamOpened(Opening),
    /// Of an adopted migration: changes go on from the destination's position.
    Adopted {
        position: Position,
    },
    /// Of an adopted migration: they cannot, and the tables begin again.
    AdoptedAnew {
        why: String,
    },
    /// The destination has forgotten its position; `generation`: the highest of a table there.
    Forgotten {
        generation: u32,
    },
    SnapshotTaken {
        number: u32,
        snapshot: SnapshotRef,
        worker: String,
        key: OrderKey,
        at_ms: u64,
    },
    Joined {
        number: u32,
        snapshot: SnapshotRef,
        worker: String,
    },
    HoldFailed {
        number: u32,
        worker: String,
        not_before_ms: u64,
    },
    HolderGone {
        number: u32,
        worker: String,
    },
    /// No holder is left, or the snapshot was given up.
    SnapshotGone {
        number: u32,
        why: String,
    },
    /// It is not needed any more.
    SnapshotReleased {
        number: u32,
    },
    Planned {
        table: u32,
        snapshot: u32,
        position: Position,
        /// Of a blurred snapshot: what lies between may be in the rows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Position>,
        chunks: Vec<Chunk>,
    },
    Copied {
        table: u32,
        chunk: u32,
        position: Position,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Position>,
        extent: Extent,
    },
    Loaded {
        table: u32,
        chunk: u32,
        rows: u64,
    },
    /// The copied blocks of a chunk are gone: it is read again.
    CopyAgain {
        table: u32,
        chunk: u32,
    },
    TableLoaded {
        table: u32,
        rows: u64,
    },
    /// After a lost snapshot: the loaded chunks stay, the others are read from a later snapshot.
    TableKept {
        table: u32,
    },
    /// After a lost snapshot: nothing was copied yet, the table is cut anew on the next one.
    TableReplanned {
        table: u32,
    },
    /// The table is begun again, from empty, under a new generation.
    TableRestart {
        table: u32,
        generation: u32,
        why: String,
    },
    TableRestarted {
        table: u32,
        generation: u32,
    },
    /// The apply order owes rows that are to be fetched.
    Owes {
        owes: Owes,
    },
    /// They are in the log; `lease` is that of the apply order that owes them.
    Fetched {
        lease: u64,
        round: u32,
        rows: u64,
    },
    /// The apply order ended: what it owed is not asked for any more.
    OwesVoid,
    /// Owed rows of the table are fetched on a later snapshot: changes up to its position may be in some rows.
    Widened {
        table: u32,
        position: Position,
    },
    /// The stream has met a schema change. One of the same position takes the place of the former.
    SchemaChanged {
        dated: Box<Dated>,
    },
    /// The stream begins again behind `after`: schema changes beyond are met again.
    SchemaChangesVoid {
        after: Position,
    },
    SequencesRead {
        values: Vec<(String, String, i64, bool)>,
    },
    SequencesSet,
    /// The destination was seen to show a prefix of the source's history.
    Consistent,
    /// An order failed and is tried again after `not_before_ms`.
    Failure {
        key: OrderKey,
        error: Error,
        at_ms: u64,
        not_before_ms: u64,
    },
    /// An order that had failed succeeded.
    Recovered {
        key: OrderKey,
    },
    Failed {
        error: Error,
    },
    Paused,
    /// The operator starts a paused or failed migration again.
    Resumed,
    LimitsChanged {
        limits: serde_json::Value,
        snapshot_ms: u64,
    },
    /// The cutover gets on, fails, or ends the migration.
    Cutover {
        change: Change,
    },
    Stopped,
    Completed,
    DeleteAsked,
    Cleaned {
        side: Side,
        what: Vec<String>,
    },
    CleanFailed {
        side: Side,
        error: Error,
    },
    Deleted,
    Warned {
        text: String,
    },
    /// The wall clock was set, by so many milliseconds: times that are waited for move along.
    ClockSet {
        by_ms: i64,
    },
    /// There was no coordinator for so long after something was to be tried again: that is no part of any retry window.
    Away {
        by_ms: u64,
    },
}
