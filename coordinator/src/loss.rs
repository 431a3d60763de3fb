//! What becomes of the tables when a snapshot is lost before everything was read from it. One place, pure.
//!
//! The danger here is a load that nobody knows of any more: a frozen applier may commit a chunk long after its lease went to
//! another. Marks at the destination are per generation and chunk number, so chunk numbers of a generation are cut anew
//! only while nothing of that generation was ever copied (then no load can exist); in all other cases chunks keep their numbers
//! and bounds, or the generation rises.

use crate::event::Event;
use crate::machine::State;
use crate::table::{TableStage, TableState};
use drover_model::error::codes;
use drover_model::handover::loss;
use drover_model::{Error, Fault, Retry};
use std::collections::BTreeSet;

/// Events for all tables after the snapshot is gone. The last one is `Failed` if a table cannot go on at all.
pub fn plan_after_loss(state: &State) -> Vec<Event> {
    let mut events = Vec::new();
    let mut failed = None;
    let mut begun_again = false;
    let together = together(state, |id| state.tables.get(id as usize).is_some_and(reads_on));
    for (id, table) in state.tables.iter().enumerate() {
        let id = id as u32;
        let is_tied = together.contains(&id);
        // Where everything was read, the blocks wait in the log. Should they be gone, `after_lost_chunk` decides.
        let complete = table.stage != TableStage::Chunks || table.pending.is_empty();
        if complete && !(is_tied && has_read(table)) {
            continue;
        }
        begun_again = true;
        if !table.touched {
            events.push(Event::TableReplanned { table: id });
        } else if !is_tied && keeps_chunks(state, id, table) {
            events.push(Event::TableKept { table: id });
        } else {
            match restart(state, id, table, if is_tied { TIED } else { VOID }) {
                Ok(event) => events.push(event),
                Err(error) => failed = Some(error),
            }
        }
    }
    begun_again |= state.tables.iter().any(|t| matches!(t.stage, TableStage::Unplanned | TableStage::Restarting));
    if begun_again && !state.settings.incremental && state.tables.iter().any(|t| t.has_rows() || !t.copied.is_empty()) {
        events.push(Event::Warned {
            text: "the snapshot was lost: tables that are complete stay as they are, the others are read from a later \
                   one; the tables fit each other only if the source was not written to meanwhile"
                .into(),
        });
    }
    events.extend(failed.map(|error| Event::Failed { error }));
    events
}

/// The copied blocks of one chunk are gone. It is read again from the snapshot it was cut on if that is alive, else as after
/// a lost snapshot.
pub fn after_lost_chunk(state: &State, id: u32, chunk: u32) -> Vec<Event> {
    let Some(table) = state.tables.get(id as usize) else { return Vec::new() };
    let alive = state.snapshot.as_ref().is_some_and(|s| s.number == table.planned_on);
    let together = together(state, |other| other == id);
    if alive || (together.is_empty() && keeps_chunks(state, id, table)) {
        return vec![Event::CopyAgain { table: id, chunk }];
    }
    let tied = together.into_iter().filter(|&other| other != id);
    let others = tied.filter_map(|other| Some((other, state.tables.get(other as usize)?))).filter(|(_, t)| has_read(t));
    let restarts = std::iter::once((id, table, VOID)).chain(others.map(|(other, t)| (other, t, TIED)));
    let events: Result<Vec<Event>, Error> = restarts.map(|(id, table, why)| restart(state, id, table, why)).collect();
    events.unwrap_or_else(|error| vec![Event::Failed { error }])
}

/// Tables that have to be read from one snapshot with one of which `anew` says that it is going to be read from a later one.
fn together(state: &State, anew: impl Fn(u32) -> bool) -> BTreeSet<u32> {
    // Without changes that follow, nothing has to be done again.
    let Some(catalog) = state.catalog.as_ref().filter(|_| state.settings.incremental) else { return BTreeSet::new() };
    let groups = loss::tied(catalog, &state.plans);
    groups.into_iter().filter(|g| g.iter().any(|&id| anew(id))).flatten().collect()
}

/// Whether some of a table is still to be read.
fn reads_on(table: &TableState) -> bool {
    match table.stage {
        TableStage::Unplanned | TableStage::Restarting => true,
        TableStage::Chunks => !table.pending.is_empty(),
        TableStage::Loaded | TableStage::Done => false,
    }
}

/// Whether something of a table was read.
fn has_read(table: &TableState) -> bool {
    table.has_rows() || (table.stage == TableStage::Chunks && table.touched)
}

const VOID: &str = "the snapshot was lost, and its chunks mean nothing on another one";
const TIED: &str =
    "the snapshot was lost, and it must be read from the same one as tables that its foreign keys tie it to";

/// Whether chunks that were read may stay while the others are read from a later snapshot. A load that nobody knows of any more may
/// have happened, so the table is judged as if some of it were there already.
///
/// A secondary unique index counts as in force even if drover has yet to create it: it does so before the first change.
fn keeps_chunks(state: &State, id: u32, table: &TableState) -> bool {
    let Some(plan) = state.plans.get(id as usize) else { return false };
    let secondary_unique = state
        .catalog
        .as_ref()
        .and_then(|c| c.table(&plan.source))
        .is_none_or(|t| t.keys.len() > usize::from(t.identifying_key().is_some()));
    let chunk = |stage| loss::Chunk { by_key: table.by_key(), stage, snapshot: None::<u32> };
    let table = loss::Table {
        has_key: !plan.key.is_empty(),
        chunks: &[chunk(loss::Stage::Copied), chunk(loss::Stage::Unread)],
        secondary_unique,
        same_shape: true,
        incremental: state.settings.incremental,
    };
    matches!(loss::decide(&table), loss::Decision::Keep { .. })
}

fn restart(state: &State, id: u32, table: &TableState, why: &str) -> Result<Event, Error> {
    if state.settings.ignore_conflicts {
        return Err(Error::new(
            codes::SNAPSHOT_LOST,
            Fault::Source,
            Retry::Never,
            "the snapshot was lost, and the table would have to be emptied and copied again; it may hold rows that were \
             there before, since on_conflict is \"ignore\"",
        )
        .table(state.table_name(id))
        .remedy("stop and delete the migration, empty the table at the destination, and create the migration again"));
    }
    Ok(Event::TableRestart { table: id, generation: table.generation + 1, why: why.into() })
}
