//! What is kept of a table when the snapshot it was being read on is gone. Only tables of which something is still unread ask;
//! a table that was read to its end needs its snapshot no more.
//!
//! A chunk that was copied counts as read even before it is loaded: its rows are durable in the log. (If they are not, as
//! after the loss of a log in memory, the caller says [`Stage::Unread`].)

use crate::TablePlan;
use crate::schema::Catalog;
use std::collections::BTreeSet;

/// How far a chunk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not read to its end, or what was read is void.
    Unread,
    /// Read; its rows wait in the log.
    Copied,
    /// At the destination.
    Loaded,
}

/// A chunk, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk<P> {
    /// Cut by key: its bounds mean the same on any snapshot ([`crate::chunk::Bounds::outlives_snapshot`]).
    pub by_key: bool,
    pub stage: Stage,
    /// The snapshot that it was read on, once it is.
    pub snapshot: Option<P>,
}

/// A table that was being copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<'a, P> {
    /// Rows have an identifying key.
    pub has_key: bool,
    pub chunks: &'a [Chunk<P>],
    /// Unique indexes besides the identifying key are in force at the destination already: rows of two times would collide
    /// in them.
    pub secondary_unique: bool,
    /// Shape and physical identity are what they were when the chunks were cut.
    pub same_shape: bool,
    /// Changes follow (stage incremental): they can bridge the time between two snapshots.
    pub incremental: bool,
}

/// Why a table has to be copied again from empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Chunks by physical place mean nothing on another snapshot, for rows move.
    Physical,
    NoKey,
    SecondaryUnique,
    Reshaped,
    /// No changes follow that would bridge the time between the snapshots.
    NothingBridges,
}

/// What to do with the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<P> {
    /// Read chunks stay; these (indexes) are read on the new snapshot, within the same bounds. Empty: nothing is to be done.
    /// `low` is the oldest snapshot among the chunks that stay: the span becomes (low, new snapshot] if anything remains.
    Keep { remaining: Vec<usize>, low: Option<P> },
    /// Nothing was read: cut it anew on the new snapshot, as if the former had never been.
    PlanAnew,
    /// Empty it and copy it again on the new snapshot, in a new generation; `keyed`: cut by key, so that the next
    /// loss costs less.
    BeginAgain { keyed: bool, why: Why },
}

/// Decides about one table.
pub fn decide<P: Ord + Clone>(table: &Table<'_, P>) -> Decision<P> {
    let read = |c: &&Chunk<P>| c.stage != Stage::Unread;
    let remaining: Vec<usize> =
        table.chunks.iter().enumerate().filter(|(_, c)| !read(c)).map(|(index, _)| index).collect();
    if remaining.len() == table.chunks.len() {
        return Decision::PlanAnew;
    }
    let again = |why| Decision::BeginAgain { keyed: table.has_key, why };
    if !table.same_shape {
        return again(Why::Reshaped);
    }
    let low = table.chunks.iter().filter(read).filter_map(|c| c.snapshot.clone()).min();
    if remaining.is_empty() {
        return Decision::Keep { remaining, low };
    }
    if !table.incremental {
        again(Why::NothingBridges)
    } else if !table.has_key {
        again(Why::NoKey)
    } else if table.chunks.iter().any(|c| !c.by_key) {
        again(Why::Physical)
    } else if table.secondary_unique {
        again(Why::SecondaryUnique)
    } else {
        Decision::Keep { remaining, low }
    }
}

/// Tables that must come from one snapshot, by number of their plan: those tied to each other by foreign keys that act without a trace
/// in the source's log ([`crate::schema::Unlogged`]). What a parent's change did to children of children can be done again only where all of them
/// stand at one position.
pub fn tied(catalog: &Catalog, plans: &[TablePlan]) -> Vec<BTreeSet<u32>> {
    let mut groups: Vec<BTreeSet<u32>> = Vec::new();
    for child in plans {
        for key in catalog.table(&child.source).map_or(&[][..], |t| &t.unlogged) {
            let Some(parent) = plans.iter().find(|p| p.source == key.parent) else { continue };
            let mut group = BTreeSet::from([child.id, parent.id]);
            groups.retain(|other| {
                let apart = !other.contains(&child.id) && !other.contains(&parent.id);
                if !apart {
                    group.extend(other);
                }
                apart
            });
            groups.push(group);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_its_decision() {
        let stages = [Stage::Unread, Stage::Copied, Stage::Loaded];
        let mut cases = 0;
        for bits in 0..64u8 {
            let bit = |n: u8| bits >> n & 1 == 1;
            for first in stages {
                for second in stages {
                    let chunk = |by_key, stage, at: u8| Chunk {
                        by_key,
                        stage,
                        snapshot: (stage != Stage::Unread).then_some(at),
                    };
                    let chunks = [chunk(bit(0), first, 8), chunk(bit(1), second, 7)];
                    let table = Table {
                        has_key: bit(2),
                        chunks: &chunks,
                        secondary_unique: bit(3),
                        same_shape: bit(4),
                        incremental: bit(5),
                    };
                    let (a, b) = (first != Stage::Unread, second != Stage::Unread);
                    let bridged = bit(5) && bit(2) && bit(0) && bit(1) && !bit(3);
                    match decide(&table) {
                        Decision::PlanAnew => assert!(!a && !b),
                        Decision::Keep { remaining, low } => {
                            assert!((a || b) && bit(4) && (a && b || bridged), "{table:?}");
                            assert_eq!(
                                remaining,
                                [(a, 0), (b, 1)].iter().filter(|r| !r.0).map(|r| r.1).collect::<Vec<_>>()
                            );
                            assert_eq!(low, if b { Some(7) } else { Some(8) });
                        }
                        Decision::BeginAgain { keyed, .. } => {
                            assert!((a || b) && (!bit(4) || a != b && !bridged), "{table:?}");
                            assert_eq!(keyed, bit(2));
                        }
                    }
                    cases += 1;
                }
            }
        }
        assert_eq!(cases, 576);
    }

    #[test]
    fn the_reason_is_told() {
        let chunks = |by_key| {
            vec![
                Chunk { by_key, stage: Stage::Loaded, snapshot: Some(1) },
                Chunk { by_key, stage: Stage::Unread, snapshot: None },
            ]
        };
        let keyed = chunks(true);
        let good =
            Table { has_key: true, chunks: &keyed, secondary_unique: false, same_shape: true, incremental: true };
        let why = |t: &Table<'_, i32>| match decide(t) {
            Decision::BeginAgain { why, .. } => Some(why),
            _ => None,
        };
        assert_eq!(why(&good), None);
        assert_eq!(why(&Table { has_key: false, ..good.clone() }), Some(Why::NoKey));
        assert_eq!(why(&Table { secondary_unique: true, ..good.clone() }), Some(Why::SecondaryUnique));
        assert_eq!(why(&Table { same_shape: false, ..good.clone() }), Some(Why::Reshaped));
        assert_eq!(why(&Table { incremental: false, ..good.clone() }), Some(Why::NothingBridges));
        assert_eq!(why(&Table { chunks: &chunks(false), ..good }), Some(Why::Physical));
    }

    #[test]
    fn tables_tied_by_foreign_keys_stand_together() {
        use crate::schema::{Effect, OldImage, TableName, Unlogged};
        let name = |id: u32| TableName::new("s", format!("t{id}"));
        let plan = |id: u32| TablePlan { key: vec![0], ..TablePlan::new(id, name(id), vec![]) };
        let parents = |id: u32| match id {
            1 => vec![0],
            4 => vec![3],
            5 => vec![4, 9],
            6 => vec![6],
            2 => vec![1],
            _ => vec![],
        };
        let key = |parent| Unlogged {
            name: "k".into(),
            parent: name(parent),
            columns: vec![],
            references: vec![],
            on_delete: Some(Effect::Cascade),
            on_update: None,
        };
        let table = |id: u32| crate::schema::Table {
            unlogged: parents(id).into_iter().map(key).collect(),
            ..crate::schema::Table::new(name(id), vec![], OldImage::Full)
        };
        let catalog = Catalog {
            origin: "a".into(),
            version: 1,
            version_text: String::new(),
            database: String::new(),
            identity: String::new(),
            scope: None,
            home: None,
            tables: (0..8).map(table).collect(),
            objects: vec![],
        };
        let plans: Vec<TablePlan> = (0..8).map(plan).collect();
        let mut groups = tied(&catalog, &plans);
        groups.sort();
        assert_eq!(groups, [BTreeSet::from([0, 1, 2]), BTreeSet::from([3, 4, 5]), BTreeSet::from([6])]);
    }
}
