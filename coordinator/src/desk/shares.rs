//! How `[limits]` are divided among the workers: their shares add up to them.

use super::Desk;
use crate::key::OrderKey;
use drover_proto::order::{Rates, Share};

impl Desk {
    /// What a worker may do of the limits of the migrations that it works on: of those of the copy as much as it has of the orders that
    /// read for it.
    pub(super) fn shares(&self, worker: &str) -> Vec<Share> {
        let mut shares = Vec::new();
        for (id, entry) in &self.entries {
            let limits = &entry.migration.limits;
            let (full, incremental) = (&limits.full, &limits.incremental);
            let megabytes = |n: u64| n as f64 * 1e6;
            let full = Rates {
                queries: full.queries_per_second as f64,
                rows: full.rows_per_second as f64,
                bytes: megabytes(full.megabytes_per_second),
            };
            let incremental = Rates {
                queries: 0.0,
                rows: incremental.rows_per_second as f64,
                bytes: megabytes(incremental.megabytes_per_second),
            };
            if full == Rates::default() && incremental == Rates::default() {
                continue;
            }
            let reads =
                |key: &OrderKey| matches!(key, OrderKey::Plan { .. } | OrderKey::Copy { .. } | OrderKey::Fetch { .. });
            let (mut mine, mut all, mut works) = (0u32, 0u32, false);
            for held in self.leases.of_migration(*id) {
                let is_mine = held.grant.worker == worker;
                works |= is_mine;
                if reads(&held.grant.key) {
                    all += 1;
                    mine += u32::from(is_mine);
                }
            }
            if !works {
                continue;
            }
            // Who reads nothing now, and is given something with a later answer, hears of its share with that.
            let part = if mine == 0 { 1.0 } else { f64::from(mine) / f64::from(all) };
            let full = Rates { queries: full.queries * part, rows: full.rows * part, bytes: full.bytes * part };
            shares.push(Share { migration: *id, full, incremental });
        }
        shares
    }
}
