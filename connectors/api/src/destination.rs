//! The writing side of a connector.

use crate::Rows;
use crate::apply::{ApplySession, Committed, Keys};
use async_trait::async_trait;
use bytes::Bytes;
use drover_model::check::CheckItem;
use drover_model::ddl::{SchemaChange, Schemas};
use drover_model::doubt::{Replaced, TableDoubts};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::RowFormat;
use drover_model::schema::{Catalog, Object, Table, TableName};
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a migration stands at its destination; written in the same transaction as the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub migration: MigrationId,
    pub name: String,
    /// Raised by every taking over; commits of an older epoch are refused by the destination.
    pub epoch: u64,
    /// `None`: nothing applied yet.
    pub position: Option<Position>,
}

/// A table mapped to this destination, purely from the source's schema: names, types, and what would be lost.
#[derive(Debug, Clone)]
pub struct MappedTable {
    /// Complete but for `id`, `version` (set by the caller) and `format` (agreed by the caller).
    pub plan: TablePlan,
    /// Row formats that the destination takes for this table, best first.
    pub formats: Vec<RowFormat>,
    /// What could not be carried over without loss, or not at all: blocks or warns.
    pub items: Vec<CheckItem>,
}

/// A table that exists already at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    pub table: TableName,
    pub empty: bool,
}

/// One step of creating schema, small enough to be repeated: repeated execution of a done step is a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaStep {
    /// Schemas, types, sequences, functions that tables need; then the tables themselves (without keys), then views.
    Base,
    /// Keys and indexes of one table, after its rows and before its first change.
    Table { id: u32 },
    /// Foreign keys (not valid, then validated), triggers.
    Final,
    /// With the switch, when nothing is applied any more: triggers, where drover's own writes would fire them. Elsewhere nothing.
    Cutover,
}

/// A schema change on its way to the destination.
#[derive(Debug, Clone, Copy)]
pub struct Shift<'a> {
    pub change: &'a SchemaChange,
    pub previous: &'a Position,
    pub next: &'a Position,
    /// Catalogue and plans before and after, the plans as this destination maps them.
    pub before: &'a Schemas,
    pub after: &'a Schemas,
}

fn unsupported(change: &SchemaChange) -> Error {
    let what = change.statement.as_deref().unwrap_or(&change.verb);
    let text = format!("this kind of destination does not carry schema changes over: {what}");
    let error = Error::new(codes::UNSUPPORTED, Fault::Destination, Retry::Never, text)
        .remedy("undo the change at the source, or migrate the table again");
    match change.table() {
        Some(table) => error.table(table),
        None => error,
    }
}

/// A destination. All methods may be called from many tasks at once.
#[async_trait]
pub trait Destination: Send + Sync {
    /// Which of these tables exist.
    async fn existing(&self, tables: &[TableName]) -> Result<Vec<Existing>>;

    /// Maps one table of a source to this destination. Pure: no I/O.
    fn map_table(&self, catalog: &Catalog, table: &Table, choice: &TableChoice) -> MappedTable;

    /// The precheck of this side. Changes nothing that stays.
    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>>;

    /// What of these tables' values may have no place here, one for each plan. By default nothing is in doubt.
    async fn doubts(&self, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<TableDoubts>> {
        let _ = catalog;
        Ok(vec![TableDoubts::default(); plans.len()])
    }

    /// Creates drover's own tables if missing and the progress row of this migration. If the row exists with another
    /// migration id under the same name: STATE_LOST.
    async fn prepare(&self, migration: MigrationId, name: &str) -> Result<Progress>;

    /// Executes a schema step: idempotent, so that an order which was given out twice does no harm. Gives the names of what it
    /// created. `objects` are those of the selection that the step concerns.
    async fn schema(
        &self,
        migration: MigrationId,
        step: &SchemaStep,
        catalog: &Catalog,
        plans: &[TablePlan],
        objects: &[Object],
        existing_allowed: bool,
    ) -> Result<Vec<String>>;

    /// The progress of a migration of this name, if any.
    async fn progress(&self, name: &str) -> Result<Option<Progress>>;

    /// Becomes the one applier: raises the epoch, ends the former holder's sessions, and reads the progress, in that order.
    async fn take_over(&self, migration: MigrationId) -> Result<Progress>;

    /// Sets the position from which changes are applied, once, before the first of them (epoch as in `apply`).
    async fn begin_at(&self, migration: MigrationId, epoch: u64, start: &Position) -> Result<()>;

    /// Notes from which position on no table has a tolerant stretch any more; called before [`Destination::begin_at`]. For
    /// migrations whose state gets lost. By default nothing is noted, and such a migration begins its tables again.
    async fn note_consistent(&self, migration: MigrationId, epoch: u64, from: &Position) -> Result<()> {
        let _ = (migration, epoch, from);
        Ok(())
    }

    /// What was noted by [`Destination::note_consistent`].
    async fn consistent_from(&self, migration: MigrationId) -> Result<Option<Position>> {
        let _ = migration;
        Ok(None)
    }

    /// Forgets the position, so that changes begin anew (epoch raised, former holder ended), and gives the highest generation
    /// of a table's copy that is known here. Repeating it does no harm before changes begin.
    async fn forget_position(&self, migration: MigrationId) -> Result<u32> {
        let what =
            format!("migration {migration} cannot be adopted here: this kind of destination does not forget positions");
        Err(Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, what)
            .remedy("`drover cleanup`, empty the destination, and run the migration anew"))
    }

    /// A session that loads chunks.
    async fn loader(&self, migration: MigrationId) -> Result<Box<dyn Loader>>;

    /// Empties a table for a new generation of its copy: raises the generation and truncates in one transaction. Loads of
    /// older generations are refused from then on.
    async fn restart_table(&self, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()>;

    /// Unique keys of the tables, from this destination's own catalogue, and how their values are compared.
    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>>;

    /// A session for applying changes; several run side by side.
    async fn apply_session(
        &self,
        migration: MigrationId,
        epoch: u64,
        plans: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>>;

    /// Makes a schema change, exactly once, and moves the progress from `shift.previous` to `shift.next`. Everything before is committed and
    /// durable, and no session of `epoch` is at work. What was begun by a former holder and broke off is found out and ended. Foreign keys and
    /// triggers are made as in the schema steps. Returns when it is durable.
    ///
    /// # Errors
    /// UNSUPPORTED when it cannot be done here without loss; STATEMENT when the destination refuses it; TABLE_CHANGED when the tables here are not what
    /// they should be. Each with table and remedy.
    async fn change_schema(&self, migration: MigrationId, epoch: u64, shift: &Shift<'_>) -> Result<Committed> {
        let _ = (migration, epoch);
        Err(unsupported(shift.change))
    }

    /// Values that policies (`on_misfit`) changed, by table and column, as they were counted with the rows. By default none are.
    async fn replaced(&self, migration: MigrationId) -> Result<Vec<Replaced>> {
        let _ = migration;
        Ok(Vec::new())
    }

    /// A session for comparisons.
    async fn rows(&self) -> Result<Box<dyn Rows>>;

    /// Which of the source's sequences have a counterpart here, with the name that it has here: pairs of the source's name and what
    /// [`Destination::set_sequences`] takes. Pure. By default every name stays.
    ///
    /// # Errors
    /// A selected sequence has no value: it cannot be read at the source.
    fn map_sequences(
        &self,
        catalog: &Catalog,
        plans: &[TablePlan],
        objects: &[Object],
        values: &[SequenceValue],
    ) -> Result<Vec<(String, SequenceValue)>> {
        let _ = (catalog, plans, objects);
        Ok(values.iter().map(|v| (format!("{}.{}", v.0, v.1), v.clone())).collect())
    }

    /// Sets sequences to these values, where they exist; names are this side's.
    async fn set_sequences(&self, values: &[(String, String, i64, bool)]) -> Result<()>;

    /// Drops what drover keeps here for this migration (and its schema when nothing else is in it). Idempotent.
    async fn cleanup(&self, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>>;
}

/// Of a sequence: schema, name, last value, whether that has been given out.
pub type SequenceValue = (String, String, i64, bool);

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    Loaded {
        rows: u64,
    },
    /// Its mark was there already.
    AlreadyLoaded,
    /// The table has been started over since: nothing was loaded.
    OldGeneration,
}

/// A session that loads chunks, one after the other.
#[async_trait]
pub trait Loader: Send {
    /// Begins a chunk: rows and mark in one transaction. `Some` says at once that there is nothing to do.
    async fn begin(&mut self, plan: &TablePlan, generation: u32, chunk: u32) -> Result<Option<LoadOutcome>>;
    /// Adds a block in the plan's format.
    async fn block(&mut self, data: Bytes) -> Result<()>;
    /// Commits rows and mark; `rows` is what the reader counted and must agree. Durable when it returns.
    async fn finish(&mut self, rows: u64) -> Result<LoadOutcome>;
    /// Gives the chunk up; nothing of it stays.
    async fn abort(&mut self) -> Result<()>;
}

/// Refuses tables of drover's own in a form that this drover does not know. `told`: the format that they say they have; those of the first versions say nothing.
///
/// # Errors
/// STATE, with what to do: a newer drover made them.
pub fn known_format(told: Option<u32>, known: u32) -> Result<()> {
    match told {
        Some(told) if told > known => {
            let text = format!("what drover keeps at the destination has the format {told}, this drover knows {known}");
            Err(Error::new(codes::STATE, Fault::User, Retry::Never, text)
                .remedy("use the drover that made it, or a newer one"))
        }
        _ => Ok(()),
    }
}
