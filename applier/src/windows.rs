//! Which changes concern a table, and how strictly. Guarantee: a change that the copied rows already contain is never applied
//! a second time, and one that some of them may contain is applied so that it does no harm twice.
//!
//! | position of the transaction   | mode     | why                                             |
//! |-------------------------------|----------|-------------------------------------------------|
//! | `position <= low`             | drop     | in every copied row already                     |
//! | `low < position <= high`      | tolerant | in some copied rows, in others not              |
//! | `position > high`             | strict   | in no copied row                                |

use drover_model::Position;
use drover_model::handover::exact::verdict;
use drover_proto::order::Window;

/// How changes of a table are applied: the hand-over's verdict on them.
pub use drover_model::handover::exact::Verdict as Mode;

/// The windows of all tables, by table id.
#[derive(Debug, Clone)]
pub struct Windows {
    windows: Vec<Window>,
    /// All distinct bounds in order: between two of them every table has one mode.
    bounds: Vec<Position>,
}

impl Windows {
    /// `windows[i]` belongs to table `i`.
    pub fn new(windows: Vec<Window>) -> Self {
        let mut bounds: Vec<Position> = windows.iter().flat_map(|w| [w.low.clone(), w.high.clone()]).collect();
        bounds.sort();
        bounds.dedup();
        Windows { windows, bounds }
    }

    /// Mode of a table for a transaction at this position. A table without a window was copied before the start: strict.
    pub fn mode(&self, table: u32, position: &Position) -> Mode {
        self.windows.get(table as usize).map_or(Mode::Strict, |w| verdict(&w.low, &w.high, position))
    }

    /// Number of the stretch that a transaction lies in: transactions of one stretch have the same mode in every table, and a
    /// batch never crosses from one into the next.
    pub fn stretch(&self, position: &Position) -> usize {
        self.bounds.partition_point(|b| b < position)
    }

    /// Whether all transactions in `(from, to]` lie in one stretch.
    pub fn one_stretch(&self, from: &Position, to: &Position) -> bool {
        self.bounds.partition_point(|b| b <= from) == self.stretch(to)
    }

    /// Modes of all tables within the stretch of this position.
    pub fn modes(&self, position: &Position) -> Vec<Mode> {
        (0..self.windows.len()).map(|t| self.mode(t as u32, position)).collect()
    }

    /// Whether the destination shows whole transactions only, once everything up to here is applied.
    pub fn consistent_at(&self, applied: &Position) -> bool {
        self.windows.iter().all(|w| *applied >= w.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Position {
        Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
    }

    #[test]
    fn modes_and_stretches_agree() {
        let w = Windows::new(vec![
            Window { low: at(10), high: at(10) },
            Window { low: at(10), high: at(20) },
            Window { low: at(20), high: at(20) },
        ]);
        use Mode::{Drop, Strict, Tolerant};
        for (p, modes) in [
            (10, [Drop, Drop, Drop]),
            (11, [Strict, Tolerant, Drop]),
            (20, [Strict, Tolerant, Drop]),
            (21, [Strict, Strict, Strict]),
        ] {
            assert_eq!(w.modes(&at(p)), modes, "at {p}");
        }
        for a in 5..30 {
            for b in a..30 {
                if w.stretch(&at(a)) == w.stretch(&at(b)) {
                    assert_eq!(w.modes(&at(a)), w.modes(&at(b)), "{a} {b}");
                }
            }
        }
        assert!(!w.consistent_at(&at(19)) && w.consistent_at(&at(20)));
        assert_eq!(w.mode(7, &at(1)), Strict);
    }
}
