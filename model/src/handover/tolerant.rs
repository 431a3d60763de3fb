//! Applying changes to ground of which some rows are newer than the change: rows of a later snapshot stand beside rows of an
//! earlier one, and which is which cannot be told.
//!
//! Why it comes out right. Take a row of the later snapshot (P2) and a change p ≤ P2. What p wrote is either still so at
//! P2, or a later change up to P2 writes it again and carries it (rule 2 of the module): so writing p's known cells over the
//! newer row, deleting a row that was deleted and inserted again since, or finding no row where one was deleted
//! since, all heal before P2. A row of the earlier snapshot is exact throughout.
//!
//! The one thing that does not heal is a row that *enters* a key without all its cells. Its base would be the row at the old
//! key, but that may be another row by now (the old key was taken again before P2), and nothing tells. So the new key
//! is always **owed**: the row is fetched on the P2 snapshot and written as it is there, or deleted if there is none. A complete
//! image or a delete of that key settles it as well.
//!
//! **When to pay.** At any time from the owing change up to P2: what is written then is a row of the later snapshot, and the paragraph
//! above speaks of those. After P2 would be wrong. Who applies in transactions pays in the transaction of the owing change: then nothing
//! that is owed outlives a transaction, and there is nothing to remember, to derive again after a restart, or to keep the log for.

use std::collections::BTreeMap;

/// The cells of a row; `None` is unknown (null is a value of `C`).
pub type Image<C> = Vec<Option<C>>;

/// A change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K, C> {
    Insert {
        key: K,
        row: Image<C>,
    },
    /// `old` is the key before, when it is another one. `before` is the image before, if the log has it.
    Update {
        old: Option<K>,
        key: K,
        row: Image<C>,
        before: Option<Image<C>>,
    },
    Delete {
        key: K,
    },
    Truncate,
}

/// A change's kind, for callers that keep rows encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Insert,
    /// The key stays.
    Update,
    /// The key changes.
    Move,
    Delete,
}

/// What is written at a change's (new) key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Nothing,
    /// Insert the row, or overwrite the whole row that is there.
    Replace,
    /// Set the known cells of the row that is there; there may be none.
    Patch,
}

/// How to apply a change to a tolerant stretch. In this order: delete the row at the old key (there may be none), write
/// at the new key, note what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Delete at the old key (of a delete: its key), and settle it.
    pub delete_old: bool,
    /// At the new key. [`Write::Replace`] settles it.
    pub write: Write,
    /// The new key is owed from now on.
    pub owe_new: bool,
}

/// The rule for a change of this kind; `complete`: no cell of the new image is unknown, after what a before image tells has
/// been filled in.
pub const fn rule(kind: Kind, complete: bool) -> Rule {
    match (kind, complete) {
        (Kind::Delete, _) => Rule { delete_old: true, write: Write::Nothing, owe_new: false },
        (Kind::Move, true) => Rule { delete_old: true, write: Write::Replace, owe_new: false },
        (Kind::Move, false) => Rule { delete_old: true, write: Write::Patch, owe_new: true },
        (Kind::Update | Kind::Insert, true) => Rule { delete_old: false, write: Write::Replace, owe_new: false },
        (Kind::Update, false) => Rule { delete_old: false, write: Write::Patch, owe_new: false },
        // Inserts are complete by contract; one that is not enters without a base, like a move.
        (Kind::Insert, false) => Rule { delete_old: false, write: Write::Patch, owe_new: true },
    }
}

/// A step at the destination. Each is repeatable, and none minds what it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act<K, C> {
    Delete { key: K },
    Replace { key: K, row: Vec<C> },
    Patch { key: K, cells: Image<C> },
    Clear,
}

/// Fills the unknown cells of `row` with those of the image before: an unknown cell was not changed.
pub fn fill<C: Clone>(row: &mut Image<C>, before: Option<&Image<C>>) {
    for (cell, old) in row.iter_mut().zip(before.into_iter().flatten()) {
        if cell.is_none() {
            cell.clone_from(old);
        }
    }
}

/// The row, if no cell of the image is unknown.
pub fn whole<C: Clone>(image: &Image<C>) -> Option<Vec<C>> {
    image.iter().cloned().collect()
}

/// Writes the known cells over a row.
pub fn patch<C: Clone>(row: &mut [C], cells: &Image<C>) {
    for (to, from) in row.iter_mut().zip(cells) {
        if let Some(from) = from {
            to.clone_from(from);
        }
    }
}

/// The rows of one table that are owed, each with the position of the change that made it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed<K, P> {
    keys: BTreeMap<K, P>,
}

impl<K, P> Default for Owed<K, P> {
    fn default() -> Self {
        Owed { keys: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, P: Ord + Clone> Owed<K, P> {
    /// The row at `key` is owed since the change at `at`.
    pub fn owe(&mut self, key: K, at: &P) {
        self.keys.entry(key).or_insert_with(|| at.clone());
    }
    /// The row at `key` is known: written whole, fetched, or deleted.
    pub fn settle(&mut self, key: &K) {
        self.keys.remove(key);
    }
    /// All rows are gone, or all were fetched.
    pub fn clear(&mut self) {
        self.keys.clear();
    }
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
    /// The keys to fetch.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.keys()
    }
    pub fn contains(&self, key: &K) -> bool {
        self.keys.contains_key(key)
    }
    /// Since when the oldest of them is owed.
    pub fn oldest(&self) -> Option<&P> {
        self.keys.values().min()
    }

    /// Notes a change of a tolerant stretch and gives the steps for the destination, in order. A reader that begins inside
    /// a window and remembers what is owed from before passes those changes through here, too, and leaves the steps undone.
    pub fn apply<C: Clone>(&mut self, at: &P, change: &Change<K, C>) -> Vec<Act<K, C>> {
        let (kind, old, key, row) = match change {
            Change::Truncate => {
                self.clear();
                return vec![Act::Clear];
            }
            Change::Delete { key } => {
                self.note(at, rule(Kind::Delete, true), Some(key), None);
                return vec![Act::Delete { key: key.clone() }];
            }
            Change::Insert { key, row } => (Kind::Insert, None, key, row.clone()),
            Change::Update { old, key, row, before } => {
                let mut row = row.clone();
                fill(&mut row, before.as_ref());
                let old = old.as_ref().filter(|old| *old != key);
                (if old.is_some() { Kind::Move } else { Kind::Update }, old, key, row)
            }
        };
        let row = whole(&row).ok_or(row);
        let rule = rule(kind, row.is_ok());
        self.note(at, rule, old, Some(key));
        let mut acts: Vec<_> = old.map(|key| Act::Delete { key: key.clone() }).into_iter().collect();
        acts.push(match row {
            Ok(row) => Act::Replace { key: key.clone(), row },
            Err(cells) => Act::Patch { key: key.clone(), cells },
        });
        acts
    }

    /// Notes what a rule says about the keys of a change: for callers that keep rows encoded. A truncation is
    /// [`Owed::clear`].
    pub fn note(&mut self, at: &P, rule: Rule, old: Option<&K>, new: Option<&K>) {
        if let (true, Some(old)) = (rule.delete_old, old) {
            self.settle(old);
        }
        if let Some(new) = new {
            if rule.owe_new {
                self.owe(new.clone(), at);
            } else if rule.write == Write::Replace {
                self.settle(new);
            }
        }
    }

    /// The steps that settle everything that is owed: `fetched` is each key's row as it is on the newest snapshot of the
    /// table. To be executed before any change after that snapshot, and committed not later than the progress passes the owing change. If
    /// that snapshot is lost before, fetch on a later one and widen the span to it: rows that were paid from the former stay.
    pub fn pay<C>(&mut self, mut fetched: impl FnMut(&K) -> Option<Vec<C>>) -> Vec<Act<K, C>> {
        let keys = std::mem::take(&mut self.keys).into_keys();
        keys.map(|key| match fetched(&key) {
            Some(row) => Act::Replace { key, row },
            None => Act::Delete { key },
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [Option<u8>; 2] = [Some(1), Some(2)];
    const PARTIAL: [Option<u8>; 2] = [Some(1), None];

    #[test]
    fn a_partial_move_owes_and_a_complete_image_or_delete_settles() {
        let moved = |row: [Option<u8>; 2], before: Option<[Option<u8>; 2]>| Change::Update {
            old: Some('a'),
            key: 'b',
            row: row.to_vec(),
            before: before.map(|b| b.to_vec()),
        };
        let partial = moved(PARTIAL, None);
        let settling = [
            Change::Insert { key: 'b', row: COMPLETE.to_vec() },
            Change::Update { old: None, key: 'b', row: COMPLETE.to_vec(), before: None },
            Change::Update { old: None, key: 'b', row: PARTIAL.to_vec(), before: Some(vec![Some(0), Some(2)]) },
            Change::Update { old: Some('b'), key: 'c', row: COMPLETE.to_vec(), before: None },
            Change::Delete { key: 'b' },
            Change::Truncate,
        ];
        for change in settling {
            let mut owed = Owed::default();
            owed.apply(&1, &partial);
            owed.apply(&2, &Change::Update { old: None, key: 'b', row: PARTIAL.to_vec(), before: None });
            assert_eq!((owed.contains(&'b'), owed.oldest()), (true, Some(&1)));
            owed.apply(&3, &change);
            assert!(owed.is_empty(), "{change:?}");
        }
        let mut owed = Owed::<_, i32>::default();
        let acts = owed.apply(&1, &moved(PARTIAL, Some([Some(9), Some(2)])));
        assert_eq!(acts, [Act::Delete { key: 'a' }, Act::Replace { key: 'b', row: vec![1, 2] }]);
        assert!(owed.is_empty(), "the image before told the rest");
    }
}
