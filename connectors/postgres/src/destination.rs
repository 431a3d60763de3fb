//! PostgreSQL as a destination: the trait, put together from this crate's rooms.

use crate::apply::PgApply;
use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::load::PgLoader;
use crate::snapshot::server_version;
use crate::sql::qualified;
use crate::{keys, progress, schema, shift, typemap};
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
use drover_model::{Fault, MigrationId, Position, Result, TablePlan};
use std::sync::Arc;

/// A destination server.
pub struct PgDestination {
    dialer: Dialer,
    version: u32,
}

impl PgDestination {
    /// Connects once, to see that it can.
    pub async fn open(dialer: Dialer, _name: String) -> Result<Self> {
        let session = dialer.session("inspect").await?;
        let version = server_version(&session).await?;
        Ok(PgDestination { dialer, version })
    }

    async fn session(&self) -> Result<Session> {
        self.dialer.session("schema").await
    }
}

#[async_trait]
impl Destination for PgDestination {
    async fn existing(&self, tables: &[TableName]) -> Result<Vec<Existing>> {
        let session = self.session().await?;
        let say = |e: tokio_postgres::Error| classify(&e, Fault::Destination, "cannot look for existing tables");
        let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
        let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
        let sql = "select n.nspname::text, c.relname::text from unnest($1::text[], $2::text[]) as w(schema, name) \
            join pg_namespace n on n.nspname = w.schema join pg_class c on c.relnamespace = n.oid and c.relname = w.name \
            where c.relkind in ('r', 'p', 'f', 'v', 'm')";
        let mut existing = Vec::new();
        for row in session.query(sql, &[&schemas, &names]).await.map_err(say)? {
            let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let sql = format!("select not exists (select from {})", qualified(&table.schema, &table.name));
            let empty = session.query_one(&sql, &[]).await.map_err(say)?.get(0);
            existing.push(Existing { table, empty });
        }
        Ok(existing)
    }

    fn map_table(&self, catalog: &Catalog, table: &Table, choice: &TableChoice) -> MappedTable {
        typemap::map_table(catalog, table, choice, self.version)
    }

    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>> {
        crate::check::destination(&*self.session().await?, migration, plans, catalog).await
    }

    async fn doubts(&self, plans: &[TablePlan], _catalog: &Catalog) -> Result<Vec<TableDoubts>> {
        Ok(plans.iter().map(crate::doubts::of).collect())
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
        schema::apply(&*self.session().await?, step, catalog, plans, objects, existing_allowed).await
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
        Ok(Box::new(PgLoader::open(&self.dialer, migration).await?))
    }

    async fn restart_table(&self, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()> {
        progress::restart_table(&self.dialer, migration, plan, generation).await
    }

    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>> {
        keys::keys(&*self.session().await?, plans, Fault::Destination).await
    }

    async fn apply_session(
        &self,
        migration: MigrationId,
        epoch: u64,
        plans: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>> {
        Ok(Box::new(PgApply::open(&self.dialer, migration, epoch, plans).await?))
    }

    async fn change_schema(&self, migration: MigrationId, epoch: u64, shift: &Shift<'_>) -> Result<Committed> {
        shift::change_schema(&self.dialer, migration, epoch, shift).await
    }

    async fn replaced(&self, migration: MigrationId) -> Result<Vec<Replaced>> {
        progress::replaced(&self.dialer, migration).await
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(crate::rows::PgRows::open(&self.dialer).await?))
    }

    fn map_sequences(
        &self,
        catalog: &Catalog,
        plans: &[TablePlan],
        objects: &[Object],
        values: &[SequenceValue],
    ) -> Result<Vec<(String, SequenceValue)>> {
        schema::map_sequences(catalog, plans, objects, values)
    }

    async fn set_sequences(&self, values: &[SequenceValue]) -> Result<()> {
        let session = self.session().await?;
        // In one statement: it sets all or none, and takes one round trip.
        let sql = "select setval(c, v, k) from unnest($1::text[], $2::text[], $3::bigint[], $4::bool[]) as t(s, n, v, k) \
            cross join lateral to_regclass(quote_ident(s) || '.' || quote_ident(n)) as c where c is not null";
        let (mut schemas, mut names, mut last, mut called) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (schema, name, value, is_called) in values {
            schemas.push(schema);
            names.push(name);
            last.push(value);
            called.push(is_called);
        }
        let set = session.query(sql, &[&schemas, &names, &last, &called]).await;
        set.map(drop).map_err(|e| classify(&e, Fault::Destination, "cannot set the sequences"))
    }

    async fn cleanup(&self, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>> {
        progress::cleanup(&self.dialer, migration, name).await
    }
}
