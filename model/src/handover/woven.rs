//! Tables read without an exact snapshot: chunk and stream are woven together by marks that go through the source's own
//! log. For each attempt at a chunk: the low mark is written, the chunk is read, its rows are made durable in our log,
//! *then* the high mark is written, which names attempt, number of records and digest.
//!
//! **Precondition**, which the connector has to secure before it reads: *the chunk sees every transaction committed before its
//! low mark.* A commit may be in the source's log before readers see it; without waiting for that, a change before the low mark
//! would be in neither side. (Ways: the mark's own transaction ordered behind all others, a read at a time not before the mark's,
//! a comparison of what is visible with what is in the log.) The tests show what happens without.
//!
//! What a reader of the stream does, in the order of the log ([`Weave`]):
//! - Changes before the table's first low mark are dropped: every chunk sees them. From there to the last high mark they are
//!   applied tolerantly, as they come, to whatever is there already; after it strictly. Rows at the destination are never newer than
//!   the applied position, only missing.
//! - For each open window it folds the changes of each key into a [`Net`]. At the high mark the chunk's rows pass through the
//!   nets and replace what is at the destination. TRUNCATE touches every key. Which chunk a key belongs to is never asked: nets
//!   of keys that are not in the chunk stay unused.
//! - The first high mark of a chunk wins, and only with the records of its own attempt; later ones, and those whose low mark was not
//!   met or whose window was discarded, count for nothing.
//! - A schema change discards every open window of the table: those chunks are read again, in a new attempt.
//! - A row that entered a key without all its cells is owed, and read again as a chunk of single keys, woven like any other.
//! - Who begins anew goes back to [`Weave::resume_from`], the oldest open low mark, and folds without applying up to where he stands;
//!   which chunks are loaded already the destination's marks tell. Neither deletion from the log nor confirmation passes that.
//!
//! Who drives it: `weavings` beside this enumerates all small histories. `connectors/memory` (its module `woven`) reads a database so, with
//! marks in its log, its change stream, commits that are seen late, schema changes, readers that die, and a destination that is compared after every
//! transaction: `cargo test -p drover-connectors-memory --test woven` (`WOVEN_SEEDS=20000 WOVEN_SEED=1` for more histories).

use super::tolerant::{Act, Change, Image, Owed, fill, patch, whole};
use std::collections::{BTreeMap, BTreeSet};

/// What the changes of a window make of one key, whatever the chunk's row was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net<C> {
    /// This row.
    Row(Vec<C>),
    /// No row.
    Gone,
    /// These cells over the chunk's row, if it has one.
    Patch(Image<C>),
    /// A row of which some cells are unknown, and for which the chunk's row is no safe base.
    Owed,
}

/// What becomes of a chunk's row at the high mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folded<C> {
    /// Write this row, over whatever is there.
    Row(Vec<C>),
    /// Write nothing; delete what is there.
    Gone,
    /// Write nothing: the row is owed.
    Owed,
}

/// The nets of an open window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nets<K, C> {
    keys: BTreeMap<K, Net<C>>,
    /// All keys without a net of their own are gone.
    truncated: bool,
}

impl<K: Ord + Clone, C: Clone> Default for Nets<K, C> {
    fn default() -> Self {
        Nets { keys: BTreeMap::new(), truncated: false }
    }
}

impl<K: Ord + Clone, C: Clone> Nets<K, C> {
    /// Folds a change in.
    pub fn fold(&mut self, change: &Change<K, C>) {
        match change {
            Change::Truncate => {
                self.keys.clear();
                self.truncated = true;
            }
            Change::Delete { key } => self.set(key, Net::Gone),
            Change::Insert { key, row } => self.set(key, whole(row).map_or(Net::Owed, Net::Row)),
            Change::Update { old, key, row, before } => {
                let mut row = row.clone();
                fill(&mut row, before.as_ref());
                let old = old.as_ref().filter(|old| *old != key);
                let was = self.keys.get(old.unwrap_or(key)).cloned();
                if let Some(old) = old {
                    self.set(old, Net::Gone);
                }
                if let Some(row) = whole(&row) {
                    return self.set(key, Net::Row(row));
                }
                let net = match was {
                    Some(Net::Row(mut base)) => {
                        patch(&mut base, &row);
                        Net::Row(base)
                    }
                    // Beyond this line the base would be a row of the chunk, which may be a later one by now.
                    _ if old.is_some() => Net::Owed,
                    Some(Net::Patch(mut cells)) => {
                        cells.iter_mut().zip(row).for_each(|(to, from)| {
                            if from.is_some() {
                                *to = from;
                            }
                        });
                        Net::Patch(cells)
                    }
                    None if !self.truncated => Net::Patch(row),
                    _ => Net::Owed,
                };
                self.set(key, net);
            }
        }
    }

    fn set(&mut self, key: &K, net: Net<C>) {
        self.keys.insert(key.clone(), net);
    }

    /// Passes a row of the chunk through (`None`: the chunk was asked for this key, and it was not there).
    pub fn row(&self, key: &K, row: Option<Vec<C>>) -> Folded<C> {
        match (self.keys.get(key), row) {
            (None, Some(row)) if !self.truncated => Folded::Row(row),
            (None, _) | (Some(Net::Gone), _) => Folded::Gone,
            (Some(Net::Row(row)), _) => Folded::Row(row.clone()),
            (Some(Net::Owed), _) => Folded::Owed,
            (Some(Net::Patch(cells)), Some(mut row)) => {
                patch(&mut row, cells);
                Folded::Row(row)
            }
            // It was updated within the window, so either a change that removed it follows or one that brought it went before:
            // this cannot be, and reading it again is safe.
            (Some(Net::Patch(_)), None) => Folded::Owed,
        }
    }
}

/// Names an attempt at a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    pub chunk: u32,
    /// Lease epoch of the reader, or any number that no other attempt at the chunk has.
    pub attempt: u64,
}

/// A high mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct High {
    pub of: Attempt,
    /// How many records hold the rows of this attempt.
    pub records: u64,
    /// Of those records' bytes, in order.
    pub digest: u128,
}

/// The records of an attempt are not those that its high mark names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("chunk {} attempt {}: the high mark names {want} records, {got} of that digest were found", .of.chunk, .of.attempt)]
pub struct Incomplete {
    pub of: Attempt,
    pub want: u64,
    pub got: u64,
}

impl High {
    /// Whether these are the records that the mark names: rows become durable before the mark is written, so anything else is
    /// a damaged log.
    pub fn verify(&self, records: u64, digest: u128) -> Result<(), Incomplete> {
        if records == self.records && digest == self.digest {
            return Ok(());
        }
        Err(Incomplete { of: self.of, want: self.records, got: records })
    }
}

#[derive(Debug, Clone)]
struct Window<K, C, P> {
    /// Just before the low mark.
    low: P,
    nets: Nets<K, C>,
}

/// The reader's side of one woven table. Feed it everything in the order of the log.
#[derive(Debug, Clone)]
pub struct Weave<K, C, P> {
    /// Chunks that are still to come. Chunks of owed keys join later.
    wanted: BTreeSet<u32>,
    open: BTreeMap<Attempt, Window<K, C, P>>,
    owed: Owed<K, P>,
    begun: bool,
}

impl<K: Ord + Clone, C: Clone, P: Ord + Clone> Weave<K, C, P> {
    /// `wanted`: the table's chunks without those of which the destination has the mark already. `begun`: a low mark of this
    /// table lies before where reading begins.
    pub fn new(wanted: impl IntoIterator<Item = u32>, begun: bool) -> Self {
        Weave { wanted: wanted.into_iter().collect(), open: BTreeMap::new(), owed: Owed::default(), begun }
    }

    /// Another chunk is to come: owed keys are read again.
    pub fn want(&mut self, chunk: u32) {
        self.wanted.insert(chunk);
    }

    /// A low mark. `before` is the position just before it: who goes back there meets the mark again.
    pub fn low(&mut self, of: Attempt, before: &P) {
        self.begun = true;
        if self.wanted.contains(&of.chunk) {
            self.open.insert(of, Window { low: before.clone(), nets: Nets::default() });
        }
    }

    /// A change; `before` is the position just before its transaction. Gives the steps for the destination; to be left undone for
    /// what is applied already. Before the first low mark they are none. Once [`Weave::settled`], changes are to be
    /// applied strictly and need not come here any more.
    pub fn change(&mut self, before: &P, change: &Change<K, C>) -> Vec<Act<K, C>> {
        if !self.begun {
            return Vec::new();
        }
        self.open.values_mut().for_each(|w| w.nets.fold(change));
        self.owed.apply(before, change)
    }

    /// The table's shape changed: gives the attempts that are void, whose chunks must be read again under another attempt.
    pub fn reshape(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.open).into_keys().collect()
    }

    /// A high mark. `Some`: this attempt wins. Gives what its rows have to pass through ([`Nets::row`]) before they are
    /// written, together with the chunk's mark and the progress to `high`, when everything before the mark is applied and nothing
    /// after it. Tell the outcome of each row to [`Weave::wrote`].
    pub fn high(&mut self, mark: &High) -> Option<Nets<K, C>> {
        let window = self.open.remove(&mark.of)?;
        self.wanted.remove(&mark.of.chunk);
        self.open.retain(|of, _| of.chunk != mark.of.chunk);
        Some(window.nets)
    }

    /// A row of a winning chunk was passed through: it settles what was owed. `Some`: write, or delete; `None`: it stays owed.
    pub fn wrote(&mut self, key: K, folded: Folded<C>) -> Option<Act<K, C>> {
        match folded {
            Folded::Owed => None,
            Folded::Row(row) => {
                self.owed.settle(&key);
                Some(Act::Replace { key, row })
            }
            Folded::Gone => {
                self.owed.settle(&key);
                Some(Act::Delete { key })
            }
        }
    }

    /// Keys to be read again, once no chunk is wanted that might have them.
    pub fn owed(&self) -> &Owed<K, P> {
        &self.owed
    }

    /// All chunks are in and nothing is owed: from here on the table is exact.
    pub fn settled(&self) -> bool {
        self.wanted.is_empty() && self.owed.is_empty()
    }

    /// Where somebody begins to read who has to go on after `applied`.
    pub fn resume_from(&self, applied: &P) -> P {
        let open = self.open.values().map(|w| &w.low).chain(self.owed.oldest());
        open.chain([applied]).min().unwrap_or(applied).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Attempt = Attempt { chunk: 0, attempt: 1 };
    const B: Attempt = Attempt { chunk: 0, attempt: 2 };
    fn high(of: Attempt) -> High {
        High { of, records: 2, digest: 7 }
    }
    fn insert(key: u8) -> Change<u8, u8> {
        Change::Insert { key, row: vec![Some(key)] }
    }

    #[test]
    fn the_first_high_mark_wins_and_attempts_do_not_mix() {
        let mut weave = Weave::new([0], false);
        assert!(weave.change(&1, &insert(1)).is_empty(), "before the first low mark");
        weave.low(A, &2);
        weave.change(&3, &insert(3));
        weave.low(B, &4);
        weave.change(&5, &insert(5));
        assert_eq!(weave.resume_from(&5), 2);
        assert!(weave.high(&high(Attempt { chunk: 0, attempt: 9 })).is_none(), "its low mark was never met");
        let nets = weave.high(&high(B)).unwrap();
        assert_eq!(nets.row(&3, Some(vec![0])), Folded::Row(vec![0]), "a change before B's low mark is not B's");
        assert_eq!(nets.row(&5, None), Folded::Row(vec![5]));
        assert!(weave.high(&high(A)).is_none() && weave.settled());
        assert_eq!(weave.resume_from(&5), 5);
    }

    #[test]
    fn a_schema_change_voids_open_windows_only() {
        let mut weave = Weave::<u8, u8, u8>::new([0], false);
        weave.low(A, &1);
        assert_eq!(weave.reshape(), [A]);
        weave.low(B, &2);
        assert!(weave.high(&high(A)).is_none());
        assert!(weave.high(&high(B)).is_some());
    }

    #[test]
    fn other_records_than_the_mark_names_are_refused() {
        assert!(high(A).verify(2, 7).is_ok());
        assert!(high(A).verify(1, 7).is_err() && high(A).verify(2, 8).is_err());
    }
}
