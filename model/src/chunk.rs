//! A chunk: a part of a table that is read and loaded as one. It is plain data, can be stored and given to any worker, and
//! reading it needs nothing but the chunk, the table's plan and a snapshot.

use serde::{Deserialize, Serialize};

/// How a chunk is cut. Bounds are values in the text form of the source, one for each key column; which chunk a key belongs
/// to is decided by the source alone, never by comparing these texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bounds {
    /// The whole table.
    Whole,
    /// `from <= key < to`; `None` is open.
    Keys { from: Option<Vec<String>>, to: Option<Vec<String>> },
    /// A range of physical places, `from <= place < to`; means something on one snapshot only, since rows move.
    Physical { from: Option<String>, to: Option<String> },
}

impl Bounds {
    /// Whether the chunk keeps its meaning on another snapshot.
    pub fn outlives_snapshot(&self) -> bool {
        matches!(self, Bounds::Keys { .. })
    }
}

/// A chunk of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Number within the table and generation, from 0.
    pub number: u32,
    pub bounds: Bounds,
    /// Estimates, for progress.
    pub rows: u64,
    pub bytes: u64,
}
