//! Looking into payloads. Guarantee: a payload is cut between transactions only, and none of them is left out or changed.

use crate::compact::{Shapes, damaged};
use bytes::Bytes;
use drover_model::change::{Item, Reader};
use drover_model::{Position, Result};
use drover_runtime::memory::Taken;
use std::sync::Arc;

/// Whole transactions of one payload.
pub(super) struct Unit {
    pub payload: Bytes,
    /// Of the record that it is a part of.
    pub taken: Arc<Taken>,
    pub end: Position,
    pub transactions: u64,
    pub changes: u64,
    pub commit_micros: i64,
}

/// Cuts a payload into its transactions, without those up to `have`.
pub(super) fn units(shapes: &Shapes, payload: &Bytes, taken: &Arc<Taken>, have: &Position) -> Result<Vec<Unit>> {
    let mut reader = Reader::new(payload, shapes);
    let mut units = Vec::new();
    let (mut begin, mut start, mut changes) = (None, 0, 0);
    loop {
        let at = reader.offset();
        match reader.next_item().map_err(damaged)? {
            None => return Ok(units),
            Some(Item::Begin(b)) => (begin, start, changes) = (Some(b), at, 0),
            Some(Item::End) => {
                if let Some(b) = begin.take().filter(|b| b.position > *have) {
                    units.push(Unit {
                        payload: payload.slice(start..reader.offset()),
                        taken: taken.clone(),
                        end: b.position,
                        transactions: 1,
                        changes,
                        commit_micros: b.commit_micros,
                    });
                }
            }
            Some(Item::Alone) => {}
            Some(_) => changes += 1,
        }
    }
}

/// The table of a payload's first row.
pub(super) fn first_table(shapes: &Shapes, payload: &Bytes) -> Result<Option<u32>> {
    let mut reader = Reader::new(payload, shapes);
    loop {
        match reader.next_item().map_err(damaged)? {
            None => return Ok(None),
            Some(Item::Insert { table, .. } | Item::Update { table, .. } | Item::Delete { table, .. }) => {
                return Ok(Some(table));
            }
            Some(Item::Truncate { tables }) if !tables.is_empty() => return Ok(tables.into_iter().next()),
            Some(_) => {}
        }
    }
}
