//! Tables read from exact snapshots. A table's *span* reaches from the oldest to the newest snapshot that any of its chunks
//! was read on: a change up to `low` is in all of them, one after `high` in none, and of those between some rows have it
//! and some don't. With one snapshot `low == high` and nothing is ever tolerant.
//!
//! A table without a single row has a span too: the snapshot on which it was found empty.

/// What a table's rows say about changes, over the snapshot positions of its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<P> {
    /// The oldest snapshot.
    pub low: P,
    /// The newest snapshot.
    pub high: P,
}

/// What becomes of a change of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All rows have it already.
    Drop,
    /// Some rows have it: apply as [`super::tolerant`] says.
    Tolerant,
    /// No row has it: apply and insist on the number of affected rows.
    Strict,
}

/// What becomes of a table when its shape changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reshape {
    /// All rows were read in the new shape.
    Drop,
    /// Rows were read in both shapes: copy the table again, from empty.
    BeginAgain,
    /// All rows are in the old shape: drain, change the destination, go on.
    Barrier,
}

/// The verdict for a change at `at` on a table whose chunks were read on snapshots from `low` to `high`.
#[inline]
pub fn verdict<P: Ord>(low: &P, high: &P, at: &P) -> Verdict {
    if at <= low {
        Verdict::Drop
    } else if at <= high {
        Verdict::Tolerant
    } else {
        Verdict::Strict
    }
}

impl<P: Ord + Clone> Span<P> {
    /// The span of a table that was read on one snapshot.
    pub fn at(snapshot: P) -> Self {
        Span { low: snapshot.clone(), high: snapshot }
    }

    /// The span over the snapshots of a table's chunks; `None` without any.
    pub fn over(snapshots: impl IntoIterator<Item = P>) -> Option<Self> {
        let mut snapshots = snapshots.into_iter();
        let mut span = Span::at(snapshots.next()?);
        snapshots.for_each(|s| span.widen(&s));
        Some(span)
    }

    /// Takes in another snapshot: a chunk, or an owed row, was read on it.
    pub fn widen(&mut self, snapshot: &P) {
        if *snapshot < self.low {
            self.low = snapshot.clone();
        }
        if *snapshot > self.high {
            self.high = snapshot.clone();
        }
    }

    /// See [`verdict`].
    #[inline]
    pub fn verdict(&self, at: &P) -> Verdict {
        verdict(&self.low, &self.high, at)
    }

    /// What a change of the table's shape at `at` means.
    pub fn reshape(&self, at: &P) -> Reshape {
        match self.verdict(at) {
            Verdict::Drop => Reshape::Drop,
            Verdict::Tolerant => Reshape::BeginAgain,
            Verdict::Strict => Reshape::Barrier,
        }
    }
}

/// The position from which the destination is consistent: the newest snapshot of all tables. It is so only if, besides,
/// everything that was owed is paid when this position is passed. `None` without tables.
pub fn consistent_from<'a, P: Ord + Clone + 'a>(spans: impl IntoIterator<Item = &'a Span<P>>) -> Option<P> {
    spans.into_iter().map(|s| &s.high).max().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_over_one_snapshot_is_never_tolerant_and_a_wide_one_between_its_ends() {
        let one = Span::at(5);
        assert_eq!([4, 5, 6].map(|p| one.verdict(&p)), [Verdict::Drop, Verdict::Drop, Verdict::Strict]);
        let wide = Span::over([7, 5, 6]).unwrap();
        assert_eq!(wide, Span { low: 5, high: 7 });
        assert_eq!(
            [5, 6, 7, 8].map(|p| wide.verdict(&p)),
            [Verdict::Drop, Verdict::Tolerant, Verdict::Tolerant, Verdict::Strict]
        );
        assert_eq!([5, 6, 8].map(|p| wide.reshape(&p)), [Reshape::Drop, Reshape::BeginAgain, Reshape::Barrier]);
        assert_eq!(Span::<u8>::over([]), None);
    }

    #[test]
    fn consistent_from_is_the_newest() {
        let spans = [Span { low: 3, high: 9 }, Span::at(1), Span { low: 2, high: 4 }];
        assert_eq!(consistent_from(&spans), Some(9));
        assert_eq!(consistent_from::<u8>([]), None);
    }
}
