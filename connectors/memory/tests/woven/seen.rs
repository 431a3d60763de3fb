//! What happened in histories, to see that all of it did.

/// What happened, to see that all of it did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub transactions: u64,
    /// A page was refused since a commit could not be seen.
    pub unseen: u64,
    pub owed_chunks: u64,
    pub moves: u64,
    pub truncates: u64,
    pub columns: u64,
    /// Attempts that a schema change discarded, and high marks that counted for nothing.
    pub void: u64,
    pub passed_over: u64,
    pub won: u64,
    pub died: u64,
    pub restarts: u64,
    /// … of those: behind an open low mark or an owed row.
    pub inside: u64,
    /// Comparisons while settled.
    pub compared: u64,
}

impl Seen {
    fn all(&mut self) -> [&mut u64; 13] {
        let s = self;
        [
            &mut s.transactions,
            &mut s.unseen,
            &mut s.owed_chunks,
            &mut s.moves,
            &mut s.truncates,
            &mut s.columns,
            &mut s.void,
            &mut s.passed_over,
            &mut s.won,
            &mut s.died,
            &mut s.restarts,
            &mut s.inside,
            &mut s.compared,
        ]
    }

    pub fn add(&mut self, mut other: Seen) {
        self.all().into_iter().zip(other.all()).for_each(|(sum, n)| *sum += *n);
    }

    pub fn each_happened(mut self) {
        assert!(self.all().iter().all(|n| **n > 0), "{self:?}");
    }
}
