//! Which tables changed last, and where: a cutover succeeds only if no table changed after its barrier. Noted when a batch is cut,
//! that is before it is applied: whoever hears that a position is applied has heard of every change up to it.

use drover_model::Position;
use std::collections::HashMap;
use std::sync::Arc;

/// Tables named to the coordinator at most: the latest ones, so that the first is the last change of all.
const NAMED: usize = 8;

/// The last change of each table since the order began.
#[derive(Debug, Default)]
pub(crate) struct Changed(HashMap<u32, Arc<Position>>);

impl Changed {
    /// Changes of these tables end at `at`, or before it within the same batch.
    pub fn note(&mut self, tables: &[u32], at: &Position) {
        if tables.is_empty() {
            return;
        }
        let at = Arc::new(at.clone());
        for &table in tables {
            self.0.insert(table, at.clone());
        }
    }

    /// The tables that changed last, the latest first.
    pub fn latest(&self) -> Vec<(u32, Position)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_unstable_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        all.into_iter().take(NAMED).map(|(table, at)| (*table, (**at).clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_all_is_always_named() {
        let at = |place: u64| Position {
            lineage: 1,
            order: place.to_be_bytes().to_vec(),
            resume: Vec::new(),
            text: place.to_string(),
        };
        let mut changed = Changed::default();
        assert!(changed.latest().is_empty());
        for n in 0..30 {
            changed.note(&[n % 10, 50], &at(u64::from(n)));
        }
        let latest = changed.latest();
        assert_eq!(latest.len(), NAMED);
        assert_eq!(latest[0], (9, at(29)));
        assert_eq!(latest[1], (50, at(29)));
        assert_eq!(latest[2], (8, at(28)));
    }
}
