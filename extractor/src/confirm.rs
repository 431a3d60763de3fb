//! What the source is told to forget. It has to be durable in the log; and where the log would be lost together with drover's state (one
//! process), the source keeps it until the destination holds it, too, for a minute at most. So a migration whose state folder is lost can go
//! on from the source, as long as the destination kept up, and a destination that does not keep up does not make the source's log pile up.

use drover_model::Position;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the source keeps what is durable in the log and not yet applied.
const KEEP: Duration = Duration::from_secs(60);

/// Positions on their way to being confirmed, in order.
#[derive(Debug, Default)]
pub struct Confirming {
    /// With the number of records that had been appended when the position was complete.
    appended: VecDeque<(u64, Position)>,
    /// Durable since then.
    durable: VecDeque<(Instant, Position)>,
}

impl Confirming {
    /// A position is complete with the `records`-th record.
    pub fn appended(&mut self, records: u64, position: Position) {
        self.appended.push_back((records, position));
    }

    /// So many records are durable now.
    pub fn durable(&mut self, records: u64, now: Instant) {
        let done = self.appended.iter().take_while(|(n, _)| *n <= records).count();
        self.durable.extend(self.appended.drain(..done).map(|(_, position)| (now, position)));
    }

    /// Whether something is durable and waits for the destination alone.
    pub fn holds(&self) -> bool {
        !self.durable.is_empty()
    }

    /// The latest position that may be confirmed now. `applied`: what the destination holds, if the log knows that.
    pub fn due(&mut self, applied: Option<&Position>, now: Instant) -> Option<Position> {
        let free = |since: Instant, position: &Position| {
            applied.is_none_or(|applied| position <= applied) || now.duration_since(since) >= KEEP
        };
        let done = self.durable.iter().take_while(|(since, position)| free(*since, position)).count();
        self.durable.drain(..done).next_back().map(|(_, position)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Position {
        Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
    }

    #[test]
    fn nothing_is_confirmed_before_it_is_durable_and_nothing_held_for_long() {
        let (mut c, now) = (Confirming::default(), Instant::now());
        for n in 1..=5 {
            c.appended(n, at(n * 10));
        }
        assert_eq!(c.due(Some(&at(100)), now), None);
        assert!(!c.holds());
        c.durable(3, now);
        assert!(c.holds());
        // Known to be applied up to 20: the rest is kept.
        assert_eq!(c.due(Some(&at(25)), now), Some(at(20)));
        assert_eq!(c.due(Some(&at(25)), now + KEEP / 2), None);
        assert_eq!(c.due(Some(&at(25)), now + KEEP), Some(at(30)));
        c.durable(5, now);
        // A log that does not know, or outlives the state: at once.
        assert_eq!(c.due(None, now), Some(at(50)));
        assert!(!c.holds());
        assert_eq!(c.due(None, now), None);
    }
}
