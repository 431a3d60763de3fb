//! The writing side.

use crate::apply::MemoryApply;
use crate::catalog;
use crate::database::{Broken, Database, Inner, Logged, Note, ProgressRow, edit, no_table};
use crate::read::MemoryRows;
use crate::table::{Mapping, TableData, known};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{
    ApplySession, Destination, Existing, Keys, LoadOutcome, Loader, MappedTable, Norm, Progress, Rows, SchemaStep,
    UniqueColumns,
};
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::row::take_row;
use drover_model::schema::{Catalog, Object, Table, TableName, UniqueKey};
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub struct MemoryDestination {
    pub db: Database,
}

fn state_lost(why: &str) -> Error {
    Error::new(codes::STATE_LOST, Fault::Destination, Retry::Never, why)
}

fn told(migration: MigrationId, row: &ProgressRow) -> Progress {
    Progress { migration, name: row.name.clone(), epoch: row.epoch, position: row.position.clone() }
}

fn progress_row(inner: &mut Inner, migration: MigrationId) -> Result<&mut ProgressRow> {
    inner.progress.get_mut(&migration).ok_or_else(|| state_lost("this migration has no progress here"))
}

/// The unique keys of a planned table, as the table here has them.
pub fn keys_of(db: &Database, plan: &TablePlan) -> Result<Keys> {
    let inner = db.lock();
    let data = inner.tables.get(&plan.destination).ok_or_else(|| no_table(&plan.destination))?;
    let index = |name: &String| plan.columns.iter().position(|c| &c.destination == name).map(|i| i as u16);
    let columns = |key: &UniqueKey| key.columns.iter().map(index).collect::<Option<Vec<u16>>>();
    let exact = |name: &str, columns: Vec<u16>| UniqueColumns {
        name: name.into(),
        columns: columns.into_iter().map(|c| (c, Norm::Exact)).collect(),
    };
    let is_identity = |columns: &[u16]| !plan.key.is_empty() && columns == plan.key;
    let mut keys = Keys { table: plan.id, ..Keys::default() };
    if !plan.key.is_empty() {
        let name = data.def.keys.iter().find(|k| columns(k).is_some_and(|c| is_identity(&c)));
        keys.identity = Some(exact(name.map_or("identity", |k| &k.name), plan.key.clone()));
    }
    for key in &data.def.keys {
        match columns(key) {
            Some(c) if is_identity(&c) => {}
            Some(c) => keys.others.push(exact(&key.name, c)),
            None => keys.serial = Some(format!("unique key {} has columns that do not move", key.name)),
        }
    }
    Ok(keys)
}

#[async_trait]
impl Destination for MemoryDestination {
    async fn existing(&self, tables: &[TableName]) -> Result<Vec<Existing>> {
        let inner = self.db.lock();
        let existing = tables.iter().filter_map(|name| {
            let data = inner.tables.get(name)?;
            Some(Existing { table: name.clone(), empty: data.rows.is_empty() })
        });
        Ok(existing.collect())
    }

    fn map_table(&self, _: &Catalog, table: &Table, choice: &TableChoice) -> MappedTable {
        catalog::map(table, choice)
    }

    async fn check(&self, _: &Migration, plans: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
        Ok(plans.iter().map(|p| CheckItem::passed("K20", p.destination.to_string())).collect())
    }

    async fn prepare(&self, migration: MigrationId, name: &str) -> Result<Progress> {
        let mut inner = self.db.lock();
        if inner.progress.iter().any(|(id, row)| row.name == name && *id != migration) {
            return Err(state_lost("another migration of this name was here").remedy("run cleanup"));
        }
        let row = inner.progress.entry(migration).or_insert_with(|| ProgressRow {
            name: name.into(),
            epoch: 0,
            position: None,
            before: None,
            chunks: BTreeSet::new(),
            generations: HashMap::new(),
            woven: None,
        });
        let progress = told(migration, row);
        inner.make_durable();
        Ok(progress)
    }

    async fn schema(
        &self,
        _: MigrationId,
        step: &SchemaStep,
        catalog: &Catalog,
        plans: &[TablePlan],
        _: &[Object],
        existing_allowed: bool,
    ) -> Result<Vec<String>> {
        let mut inner = self.db.lock();
        inner.version += 1;
        let mut created = Vec::new();
        match step {
            SchemaStep::Base => {
                for plan in plans {
                    if let Some(there) = inner.tables.get(&plan.destination) {
                        // Ours of an attempt before, or empty all the same.
                        if !there.rows.is_empty() && !existing_allowed {
                            let message = "the table exists already and holds rows";
                            return Err(Error::new(codes::STATEMENT, Fault::User, Retry::Never, message)
                                .table(&plan.destination));
                        }
                        continue;
                    }
                    let def = catalog::definition(plan, catalog.table(&plan.source));
                    created.push(plan.destination.to_string());
                    inner.tables.insert(plan.destination.clone(), Arc::new(TableData::new(def)));
                }
            }
            SchemaStep::Table { id } => {
                for plan in plans.iter().filter(|p| p.id == *id) {
                    let source = catalog.table(&plan.source);
                    let data = edit(&mut inner.tables, &plan.destination)?;
                    for key in source.into_iter().flat_map(|t| &t.keys) {
                        if let Some(key) = catalog::key(plan, key) {
                            created.push(key.name.clone());
                            data.add_key(key)?;
                        }
                    }
                }
            }
            SchemaStep::Final | SchemaStep::Cutover => {}
        }
        inner.make_durable();
        Ok(created)
    }

    async fn progress(&self, name: &str) -> Result<Option<Progress>> {
        let inner = self.db.lock();
        Ok(inner.progress.iter().find(|(_, row)| row.name == name).map(|(id, row)| told(*id, row)))
    }

    async fn take_over(&self, migration: MigrationId) -> Result<Progress> {
        let mut inner = self.db.lock();
        let row = progress_row(&mut inner, migration)?;
        row.epoch += 1;
        let mut progress = told(migration, row);
        let before = row.before.clone();
        if inner.broken == Some(Broken::Order) {
            progress.position = before.or(progress.position);
        }
        inner.make_durable();
        Ok(progress)
    }

    async fn begin_at(&self, migration: MigrationId, epoch: u64, start: &Position) -> Result<()> {
        let mut inner = self.db.lock();
        let row = progress_row(&mut inner, migration)?;
        if row.epoch != epoch {
            return Err(Error::new(codes::FENCED, Fault::Drover, Retry::Never, "another applier took over"));
        }
        row.position.get_or_insert_with(|| start.clone());
        inner.make_durable();
        Ok(())
    }

    async fn loader(&self, migration: MigrationId) -> Result<Box<dyn Loader>> {
        Ok(Box::new(MemoryLoader { db: self.db.clone(), migration, chunk: None }))
    }

    async fn restart_table(&self, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()> {
        let mut inner = self.db.lock();
        let row = progress_row(&mut inner, migration)?;
        let now = row.generations.entry(plan.id).or_default();
        if *now >= generation {
            // Carried out before: emptying again would lose what was loaded since.
            return Ok(());
        }
        *now = generation;
        inner.version += 1;
        edit(&mut inner.tables, &plan.destination)?.clear();
        let note = Note::Restarted { table: plan.id, generation };
        let emptied = vec![Logged::Truncate { tables: vec![plan.destination.clone()] }];
        self.db.commit_with(&mut inner, emptied, Some((migration, note)));
        inner.make_durable();
        Ok(())
    }

    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>> {
        plans.iter().map(|plan| keys_of(&self.db, plan)).collect()
    }

    async fn apply_session(
        &self,
        migration: MigrationId,
        epoch: u64,
        plans: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>> {
        Ok(Box::new(MemoryApply::new(self.db.clone(), migration, epoch, plans)?))
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(MemoryRows { db: self.db.clone() }))
    }

    async fn set_sequences(&self, values: &[(String, String, i64, bool)]) -> Result<()> {
        let mut inner = self.db.lock();
        for (schema, name, value, called) in values {
            if let Some(sequence) = inner.sequences.get_mut(&(schema.clone(), name.clone())) {
                *sequence = (*value, *called);
            }
        }
        Ok(())
    }

    async fn cleanup(&self, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>> {
        let mut inner = self.db.lock();
        let mut dropped = Vec::new();
        inner.progress.retain(|id, row| {
            let ours = migration.map_or(row.name == name, |m| m == *id);
            if ours {
                dropped.push(format!("progress of {}", row.name));
            }
            !ours
        });
        Ok(dropped)
    }
}

struct Loading {
    plan: TablePlan,
    generation: u32,
    chunk: u32,
    blocks: Vec<Bytes>,
}

/// See [`Loader`].
struct MemoryLoader {
    db: Database,
    migration: MigrationId,
    chunk: Option<Loading>,
}

/// Why there is nothing to load, if so.
fn refusal(row: &ProgressRow, plan: &TablePlan, generation: u32, chunk: u32) -> Option<LoadOutcome> {
    let now = row.generations.get(&plan.id).copied().unwrap_or_default();
    if generation < now {
        return Some(LoadOutcome::OldGeneration);
    }
    row.chunks.contains(&(plan.id, generation, chunk)).then_some(LoadOutcome::AlreadyLoaded)
}

#[async_trait]
impl Loader for MemoryLoader {
    async fn begin(&mut self, plan: &TablePlan, generation: u32, chunk: u32) -> Result<Option<LoadOutcome>> {
        let mut inner = self.db.lock();
        let broken = inner.broken == Some(Broken::Marks);
        let refused = refusal(progress_row(&mut inner, self.migration)?, plan, generation, chunk).filter(|_| !broken);
        self.chunk = refused.is_none().then(|| Loading { plan: plan.clone(), generation, chunk, blocks: Vec::new() });
        Ok(refused)
    }

    async fn block(&mut self, data: Bytes) -> Result<()> {
        let chunk = self.chunk.as_mut().ok_or_else(|| Error::internal("a block outside a chunk"))?;
        chunk.blocks.push(data);
        Ok(())
    }

    async fn finish(&mut self, rows: u64) -> Result<LoadOutcome> {
        let chunk = self.chunk.take().ok_or_else(|| Error::internal("the end of no chunk"))?;
        let mut inner = self.db.lock();
        // Another attempt may have come first, or the table may have been begun again, since this one began.
        let broken = inner.broken == Some(Broken::Marks);
        let row = progress_row(&mut inner, self.migration)?;
        let refused = refusal(row, &chunk.plan, chunk.generation, chunk.chunk);
        if let Some(refused) = refused.filter(|_| !broken) {
            return Ok(refused);
        }
        let mut tables = inner.tables.clone();
        let data = edit(&mut tables, &chunk.plan.destination)?;
        let map = Mapping::new(&chunk.plan, data, false)?;
        let (mut loaded, mut changes) = (0, Vec::new());
        for block in &chunk.blocks {
            let mut rest = &block[..];
            while !rest.is_empty() {
                let cells = take_row(&mut rest, map.columns.len());
                let cells = cells.ok_or_else(|| Error::internal("a block of a chunk is damaged"))?;
                let mut new = vec![None; data.def.columns.len()];
                for (&column, value) in map.columns.iter().zip(known(cells)?) {
                    new[column] = value;
                }
                data.insert(new.clone())?;
                changes.push(Logged::Insert { table: chunk.plan.destination.clone(), new });
                loaded += 1;
            }
        }
        if loaded != rows {
            let message = format!("{loaded} rows arrived of a chunk of {rows}");
            return Err(Error::new(codes::LOG, Fault::Log, Retry::Never, message).table(&chunk.plan.destination));
        }
        inner.tables = tables;
        inner.version += 1;
        progress_row(&mut inner, self.migration)?.chunks.insert((chunk.plan.id, chunk.generation, chunk.chunk));
        let note = Note::Loaded { table: chunk.plan.id, generation: chunk.generation, chunk: chunk.chunk };
        self.db.commit_with(&mut inner, changes, Some((self.migration, note)));
        inner.make_durable();
        Ok(LoadOutcome::Loaded { rows })
    }

    async fn abort(&mut self) -> Result<()> {
        self.chunk = None;
        Ok(())
    }
}
