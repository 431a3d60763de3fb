//! What an apply order is told about how to work.

use std::time::Duration;

/// How changes are applied.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sessions at the destination at most.
    pub sessions: usize,
    /// A batch is cut at this many bytes or changes, whichever comes first.
    pub batch_bytes: usize,
    pub batch_changes: u64,
    /// Bytes of all batches that grow, wait or run, and of pieces of huge transactions that are looked at; beyond it reading waits.
    pub memory: usize,
    /// Bytes of pieces that a huge transaction has at hand; [`ABREAST`] of them have so many. Folded ones take several times as much.
    pub pieces: usize,
    /// Bytes of the keys of huge transactions, eight for each unique value; one that has more is executed alone.
    pub keys: usize,
    /// The head batch may wait so long while later ones hold transactions.
    pub patience: Duration,
    /// Commits are made durable at least so often.
    pub flush: Duration,
    /// The log keeps what was committed at the source within so long before the applied position.
    pub keep: Duration,
    /// A stop waits so long for what is under way.
    pub grace: Duration,
    /// What a schema change does not wait for: has to be found out.
    #[cfg(test)]
    pub(crate) hasty: Hasty,
}

/// See [`Options::hasty`].
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hasty {
    No,
    /// Batches under way.
    Work,
    /// That what was committed is durable.
    Durability,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sessions: 4,
            batch_bytes: 4 << 20,
            batch_changes: 20_000,
            memory: 16 << 20,
            pieces: 3 << 20,
            keys: 8 << 20,
            patience: Duration::from_secs(3),
            flush: Duration::from_secs(1),
            keep: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(5),
            #[cfg(test)]
            hasty: Hasty::No,
        }
    }
}

/// Huge transactions that may be executed beside each other.
pub(super) const ABREAST: usize = 2;
