//! What the state machine needs of a migration file, fixed when the migration is created (limits may change, these may not).

use drover_model::migration::Migration;
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
}

impl Settings {
    /// Reads them from the migration. `bulk_partitions` is the coordinator's option.
    pub fn of(migration: &Migration, bulk_partitions: u32) -> Settings {
        // Placeholder until the file's model is there: the JSON form of the same.
        let json = serde_json::to_value(migration).unwrap_or_default();
        let stages = json.get("stages").and_then(|s| s.as_array()).cloned();
        let has = |name: &str| stages.as_ref().is_none_or(|s| s.iter().any(|v| v == name));
        let _ = has("schema");
        Settings {
            schema: has("schema"),
            full: has("full"),
            incremental: has("incremental"),
            ignore_conflicts: json.get("on_conflict").is_some_and(|v| v == "ignore"),
            retry_connection_ms: 12 * 3_600_000,
            retry_other_ms: 10 * 60_000,
            durable_bulk: json.pointer("/log/kafka").is_some_and(|v| !v.is_null()),
            bulk_partitions,
            snapshot_ms: 0,
        }
    }
}
