//! What the state machine needs of a migration file, fixed when the migration is created (limits may change, these may not).

use drover_model::migration::{Migration, OnConflict, Stage};
use serde::{Deserialize, Serialize};

/// Extract of the migration file that decides the flow of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub schema: bool,
    pub full: bool,
    pub incremental: bool,
    /// Tables that exist at the destination are written to: they may hold rows that are not ours, and indexes.
    pub ignore_conflicts: bool,
    /// `[retry] connection` and `other`, milliseconds.
    pub retry_connection_ms: u64,
    pub retry_other_ms: u64,
    /// Copied chunks outlive the processes that copied them.
    pub durable_bulk: bool,
    /// Bulk partitions of the log.
    pub bulk_partitions: u32,
    /// A snapshot is given up after so long, milliseconds; 0: never.
    #[serde(default)]
    pub snapshot_ms: u64,
    /// The state was lost and is taken over from the destination.
    #[serde(default)]
    pub adopt: bool,
}

impl Settings {
    /// Reads them from the migration. `bulk_partitions` is the coordinator's option.
    pub fn of(migration: &Migration, bulk_partitions: u32) -> Settings {
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Settings {
            schema: migration.has(Stage::Schema),
            full: migration.has(Stage::Full),
            incremental: migration.has(Stage::Incremental),
            ignore_conflicts: migration.on_conflict == OnConflict::Ignore,
            retry_connection_ms: ms(migration.retry.connection),
            retry_other_ms: ms(migration.retry.other),
            durable_bulk: migration.log.kafka.is_some(),
            bulk_partitions,
            snapshot_ms: ms(migration.limits.snapshot),
            adopt: false,
        }
    }
}
