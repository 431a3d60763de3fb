//! MySQL and MariaDB as destinations: the trait, put together from this crate's rooms.

use crate::apply::MyApply;
use crate::connect::{Dialer, Session};
use crate::load::MyLoader;
use crate::rows::MyRows;
use crate::typemap::{self, Known};
use crate::{check, doubts, intent, keys, progress, restart, schema, sql};
use async_trait::async_trait;
use drover_connectors_api::{
    ApplySession, Committed, Destination, Existing, Keys, Loader, MappedTable, Progress, Rows, SchemaStep,
    SequenceValue, Shift,
};
use drover_model::check::CheckItem;
use drover_model::doubt::{Replaced, TableDoubts};
use drover_model::migration::Migration;
use drover_model::schema::{Catalog, Object, Table, TableName};
use drover_model::selection::TableChoice;
use drover_model::{MigrationId, Position, Result, TablePlan};
use std::sync::Arc;

/// A destination server.
pub struct MyDestination {
    dialer: Dialer,
    known: Known,
}

impl MyDestination {
    /// Connects once, to see that it can, and asks what the server knows.
    pub async fn open(dialer: Dialer) -> Result<Self> {
        let known = Known::read(&mut dialer.session("inspect").await?).await?;
        Ok(MyDestination { dialer, known })
    }

    async fn session(&self) -> Result<Session> {
        self.dialer.session("schema").await
    }
}

#[async_trait]
impl Destination for MyDestination {
    async fn existing(&self, tables: &[TableName]) -> Result<Vec<Existing>> {
        let what = "cannot look for existing tables";
        let mut session = self.session().await?;
        let mut existing = Vec::new();
        for part in tables.chunks(500) {
            let pairs: Vec<String> =
                part.iter().map(|t| format!("({},{})", sql::text(&t.schema), sql::text(&t.name))).collect();
            let pairs = pairs.join(",");
            if pairs.is_empty() {
                continue;
            }
            let sql = format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE (TABLE_SCHEMA, TABLE_NAME) IN ({pairs})"
            );
            for (schema, name) in session.all::<(String, String)>(sql, what).await? {
                // The server may fold names: what was asked for decides how the table is called.
                let same = |t: &&TableName| {
                    (t.schema == schema && t.name == name)
                        || (self.known.lower_case
                            && t.schema.eq_ignore_ascii_case(&schema)
                            && t.name.eq_ignore_ascii_case(&name))
                };
                let table = part.iter().find(same).cloned().unwrap_or_else(|| TableName::new(schema, name));
                let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {} LIMIT 1)", sql::qualified(&table));
                let empty = session.first::<bool>(sql, what).await?.unwrap_or(false);
                existing.push(Existing { table, empty });
            }
        }
        Ok(existing)
    }

    fn map_table(&self, catalog: &Catalog, table: &Table, choice: &TableChoice) -> MappedTable {
        // What the source's application calls by no schema, the destination's finds in the database of its URL.
        let at_home = catalog.home.as_deref() == Some(choice.schema.as_str()) && choice.schema == table.name.schema;
        match &self.dialer.settings().database {
            Some(database) if at_home => {
                let choice = TableChoice { schema: database.clone(), ..choice.clone() };
                typemap::map_table(catalog, table, &choice, &self.known)
            }
            _ => typemap::map_table(catalog, table, choice, &self.known),
        }
    }

    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>> {
        let items = check::destination(&mut self.session().await?, &self.known, migration, plans, catalog).await;
        let mut items = items?;
        items.extend(self.dialer.settings().database.as_deref().and_then(|d| check::elsewhere(d, plans)));
        Ok(items)
    }

    async fn doubts(&self, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<TableDoubts>> {
        doubts::of(&mut self.session().await?, &self.known, plans, catalog).await
    }

    async fn prepare(&self, migration: MigrationId, name: &str) -> Result<Progress> {
        progress::prepare(&self.dialer, migration, name).await
    }

    async fn schema(
        &self,
        _migration: MigrationId,
        step: &SchemaStep,
        catalog: &Catalog,
        plans: &[TablePlan],
        objects: &[Object],
        existing_allowed: bool,
    ) -> Result<Vec<String>> {
        let mut session = self.session().await?;
        schema::apply(&mut session, &self.known, step, catalog, plans, objects, existing_allowed).await
    }

    async fn progress(&self, name: &str) -> Result<Option<Progress>> {
        progress::progress(&self.dialer, name).await
    }

    async fn take_over(&self, migration: MigrationId) -> Result<Progress> {
        progress::take_over(&self.dialer, migration).await
    }

    async fn begin_at(&self, migration: MigrationId, epoch: u64, start: &Position) -> Result<()> {
        progress::begin_at(&self.dialer, migration, epoch, start).await
    }

    async fn note_consistent(&self, migration: MigrationId, epoch: u64, from: &Position) -> Result<()> {
        progress::note_consistent(&self.dialer, migration, epoch, from).await
    }

    async fn consistent_from(&self, migration: MigrationId) -> Result<Option<Position>> {
        progress::consistent_from(&self.dialer, migration).await
    }

    async fn forget_position(&self, migration: MigrationId) -> Result<u32> {
        progress::forget_position(&self.dialer, migration).await
    }

    async fn loader(&self, migration: MigrationId) -> Result<Box<dyn Loader>> {
        Ok(Box::new(MyLoader::open(&self.dialer, migration).await?))
    }

    async fn restart_table(&self, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()> {
        restart::restart_table(&self.dialer, migration, plan, generation).await
    }

    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>> {
        keys::keys(&mut self.session().await?, plans).await
    }

    async fn apply_session(
        &self,
        migration: MigrationId,
        epoch: u64,
        plans: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>> {
        Ok(Box::new(MyApply::open(&self.dialer, migration, epoch, plans).await?))
    }

    async fn change_schema(&self, migration: MigrationId, epoch: u64, shift: &Shift<'_>) -> Result<Committed> {
        intent::change_schema(&self.dialer, &self.known, migration, epoch, shift).await
    }

    async fn replaced(&self, migration: MigrationId) -> Result<Vec<Replaced>> {
        progress::replaced(&self.dialer, migration).await
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(MyRows::open(&self.dialer).await?))
    }

    fn map_sequences(
        &self,
        catalog: &Catalog,
        plans: &[TablePlan],
        objects: &[Object],
        values: &[SequenceValue],
    ) -> Result<Vec<(String, SequenceValue)>> {
        Ok(schema::map_auto_increments(catalog, plans, objects, &self.known, values))
    }

    async fn set_sequences(&self, values: &[SequenceValue]) -> Result<()> {
        schema::set_auto_increments(&mut self.session().await?, values).await
    }

    async fn cleanup(&self, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>> {
        progress::cleanup(&self.dialer, migration, name).await
    }
}
