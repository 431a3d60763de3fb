//! State of one table and its chunks within a migration. Pure data; [`crate::machine`] folds events into it.
//!
//! ```text
//! Unplanned ──Planned──▶ Chunks ──all loaded──▶ Loaded ──keys made──▶ Done
//!     ▲                    │ lost snapshot, nothing copied: Unplanned again
//!     └──── Restarting ◀───┘ lost snapshot, cannot be kept: emptied under a new generation
//! ```

use drover_model::Position;
use drover_model::chunk::Bounds;
use drover_proto::order::Extent;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where a table is. A restart of the coordinator changes none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableStage {
    /// Waits to be cut into chunks on a living snapshot.
    Unplanned,
    /// Chunks are being copied and loaded.
    Chunks,
    /// All rows are in; its keys and indexes are to be made.
    Loaded,
    /// Rows and keys are there: changes may be applied.
    Done,
    /// Is to be emptied at the destination, under a generation that is one higher.
    Restarting,
}

/// A chunk as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkPlan {
    pub bounds: Bounds,
    pub rows: u64,
    pub bytes: u64,
}

/// A table. Each chunk is in exactly one of `pending`, `copied`, `loaded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    pub stage: TableStage,
    pub generation: u32,
    /// Snapshot on which the chunks were cut.
    pub planned_on: u32,
    pub chunks: Vec<ChunkPlan>,
    pub pending: BTreeSet<u32>,
    pub copied: BTreeMap<u32, Extent>,
    pub loaded: BTreeSet<u32>,
    /// Something of this generation was copied once, so that a load of it may be under way somewhere, even one that
    /// nobody knows of any more.
    pub touched: bool,
    pub rows: u64,
    pub bytes: u64,
    /// Lowest and highest position of the snapshots that rows of this generation were read from.
    pub low: Option<Position>,
    pub high: Option<Position>,
}

impl TableState {
    pub(crate) fn new(stage: TableStage) -> Self {
        TableState {
            stage,
            generation: 0,
            planned_on: 0,
            chunks: Vec::new(),
            pending: BTreeSet::new(),
            copied: BTreeMap::new(),
            loaded: BTreeSet::new(),
            touched: false,
            rows: 0,
            bytes: 0,
            low: None,
            high: None,
        }
    }

    /// All rows are at the destination.
    pub fn has_rows(&self) -> bool {
        matches!(self.stage, TableStage::Loaded | TableStage::Done)
    }

    /// Its rows come from snapshots of more than one position.
    pub fn is_mixed(&self) -> bool {
        self.low != self.high
    }

    /// All chunks are key ranges, which mean the same on every snapshot.
    pub fn by_key(&self) -> bool {
        self.chunks.iter().all(|c| c.bounds.outlives_snapshot())
    }

    /// Forgets the chunks: the table is as before its first plan, but for its generation.
    pub(crate) fn clear(&mut self) {
        *self = TableState { generation: self.generation, ..TableState::new(TableStage::Unplanned) };
    }

    /// Widens the window by the position of a snapshot that was read from, and by the end of its blur.
    pub(crate) fn read_at(&mut self, position: &Position, until: Option<&Position>) {
        if self.low.as_ref().is_none_or(|low| position < low) {
            self.low = Some(position.clone());
        }
        let end = until.unwrap_or(position);
        if self.high.as_ref().is_none_or(|high| end > high) {
            self.high = Some(end.clone());
        }
    }
}
