//! PostgreSQL as a source: the trait, put together from this crate's rooms.

use crate::changes::{Changes, Following, Within, lsn_of, position};
use crate::connect::{Dialer, Session};
use crate::ddl::follow::number;
use crate::ddl::watch;
use crate::errors::classify;
use crate::failover;
use crate::guard::Guard;
use crate::lsn::Lsn;
use crate::replication::StreamOptions;
use crate::slot::{self, Names};
use crate::snapshot::{Holder, Reader, server_version};
use async_trait::async_trait;
use drover_connectors_api::{ChunkReader, Hold, Opened, Rows, Source, StreamSpec};
use drover_model::check::CheckItem;
use drover_model::doubt::{Doubt, Scanned, TableDoubts};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::{PlanColumn, SnapshotRef};
use drover_model::schema::Catalog;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source server.
pub struct PgSource {
    dialer: Dialer,
    name: String,
    version: u32,
}

impl PgSource {
    /// Connects once, to see that it can.
    pub async fn open(dialer: Dialer, name: String) -> Result<Self> {
        let session = dialer.session("inspect").await?;
        let version = server_version(&session).await?;
        Ok(PgSource { dialer, name, version })
    }

    async fn session(&self) -> Result<Session> {
        self.dialer.session("inspect").await
    }

    /// Whether this server and account can decode the log. Where they cannot there is no stream that a snapshot has to meet.
    async fn decodes(&self) -> Result<bool> {
        let sql = "select current_setting('wal_level') = 'logical' \
            and exists (select from pg_roles where rolname = current_user and (rolreplication or rolsuper))";
        let row = self.session().await?.query_one(sql, &[]).await;
        Ok(row.map_err(|e| classify(&e, Fault::Source, "cannot ask whether the source decodes its log"))?.get(0))
    }

    /// A snapshot that belongs to no stream: for a copy alone. Its position is for people only.
    async fn alone(&self) -> Result<Box<dyn Hold>> {
        let failed = |e: tokio_postgres::Error| classify(&e, Fault::Source, "cannot take a snapshot");
        let session = self.dialer.session("snapshot").await?;
        session.batch_execute("begin isolation level repeatable read, read only").await.map_err(failed)?;
        let sql = "select pg_export_snapshot(), \
            (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end)::text";
        let row = session.query_one(sql, &[]).await.map_err(failed)?;
        let (token, lsn): (String, Option<String>) = (row.get(0), row.get(1));
        let lsn = lsn.and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO);
        Ok(Box::new(Holder::join(&self.dialer, &token, position(lsn), None).await?))
    }

    async fn hold(&self, temporary: bool) -> Result<Box<dyn Hold>> {
        let mut replication = self.dialer.replication("snapshot").await?;
        let name = format!("dts_sync_snapshot_{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let made = slot::create(&self.dialer, &mut replication, &name, temporary).await?;
        let hold = Holder::join(&self.dialer, &made.snapshot, position(made.consistent_point), None).await?;
        // The temporary slot has done its work; it goes with its session.
        Ok(Box::new(hold))
    }

    async fn fresh(&self, spec: &StreamSpec, names: &Names) -> Result<Opened> {
        let session = self.session().await?;
        slot::claim(&session, names, spec.epoch).await?;
        slot::cleanup(&session, self.version, names).await?;
        let mut replication = self.dialer.replication("stream").await?;
        let server = slot::server_of(&mut replication).await?;
        slot::publish(&session, self.version, names, spec, &server).await?;
        let watched = spec.schemas.is_some() && watch::create(&session, self.version, names).await?;
        let made = slot::create(&self.dialer, &mut replication, &names.slot, false).await?;
        let start = made.consistent_point;
        let hold = Holder::join(&self.dialer, &made.snapshot, position(start), None).await?;
        let types = slot::types(&session, &spec.tables).await?;
        self.start(replication, spec, types, names, (position(start), watched), Some(Box::new(hold))).await
    }

    async fn resumed(&self, spec: &StreamSpec, names: &Names) -> Result<Opened> {
        let session = self.session().await?;
        let gone = |how: String| {
            Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, how)
                .remedy("begin again: `drover cleanup`, then run the migration anew")
        };
        let slot = slot::free(&session, self.version, &names.slot).await?;
        let slot = slot.ok_or_else(|| gone(format!("the slot {} is gone from the source", names.slot)))?;
        if slot.lost {
            return Err(gone(format!("the source has thrown away log that the slot {} needs", names.slot)));
        }
        if failover::waits_for_promotion(&session, self.version, names).await? {
            let what = "the source is a standby, whose copy of the slot can be read when it is promoted";
            return Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Connection, what).remedy("promote it"));
        }
        let confirmed = slot.confirmed.unwrap_or(Lsn::ZERO);
        let from = spec.resume.as_ref().map(lsn_of).transpose()?.unwrap_or(confirmed);
        if confirmed > from {
            return Err(gone(format!(
                "the slot stands at {confirmed}, but the log ends at {from}: changes between are lost"
            )));
        }
        let mut replication = self.dialer.replication("stream").await?;
        failover::follow(&mut replication, &session, names, from).await?;
        let types = slot::types(&session, &spec.tables).await?;
        let watched = spec.schemas.is_some() && watch::exists(&session, names).await?;
        let from = spec.resume.clone().unwrap_or_else(|| position(from));
        self.start(replication, spec, types, names, (from, watched), None).await
    }

    async fn start(
        &self,
        mut replication: crate::replication::ReplicationSession,
        spec: &StreamSpec,
        types: Vec<Option<u32>>,
        names: &Names,
        (from, watched): (Position, bool),
        snapshot: Option<Box<dyn Hold>>,
    ) -> Result<Opened> {
        // A transaction that was given out in part is gone on with as a whole.
        let options = StreamOptions { streaming: Within::of(&from).is_none(), ..StreamOptions::default() };
        let start = lsn_of(&from)?;
        let started = replication.start(&names.slot, start, &[&names.publication], options).await;
        started.map_err(|e| {
            let (code, retry) = match e.sqlstate() {
                Some("55006") => (codes::TIMEOUT, Retry::Other),
                Some("42501") => (codes::PERMISSION, Retry::Other),
                Some("55000" | "42704" | "58P01") => (codes::POSITION_LOST, Retry::Never),
                Some(_) => (codes::STATEMENT, Retry::Other),
                None => (codes::CONNECTION, Retry::Connection),
            };
            Error::new(code, Fault::Source, retry, "cannot start streaming").cause(e)
        })?;
        let heartbeat = {
            // Partitions that are attached later have no identity of their own, unless the root's key gives them one.
            let grows = |p: &&TablePlan| spec.may_set_identity && p.key.is_empty() && slot::is_partitioned(p);
            let catalog = spec.schemas.as_ref().map(|f| &f.schemas.catalog);
            let numbered = |p: &TablePlan| (p.clone(), catalog.and_then(|c| number(c.table(&p.source)?)));
            let growing = spec.tables.iter().filter(grows).map(numbered).collect();
            slot::heartbeat(self.dialer.clone(), names.clone(), growing)
        };
        let spill = spec.spill.clone();
        let guard = Guard::new(self.dialer.clone(), &names.publication, &spec.tables, watched);
        let mut changes =
            Changes::new(replication, Some(heartbeat), spec.tables.clone(), types, start, spill, spec.batch_bytes)
                .within(&from)
                .guarded(guard);
        if let Some(followed) = &spec.schemas {
            let dialer = self.dialer.clone();
            changes = changes.following(Following::new(followed, watched, dialer, self.version, names.clone()));
        }
        Ok(Opened { start: from, snapshot, stream: Box::new(changes) })
    }
}

#[async_trait]
impl Source for PgSource {
    async fn catalog(&self) -> Result<Catalog> {
        crate::catalog::read(&*self.session().await?).await
    }

    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>> {
        crate::check::source(&*self.session().await?, migration, plans, catalog).await
    }

    fn may_hold(&self, column: &PlanColumn, doubt: &Doubt) -> bool {
        crate::scan::may_hold(column, doubt)
    }

    async fn scan(
        &self,
        plan: &TablePlan,
        doubts: &TableDoubts,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Scanned> {
        let session = self.dialer.session("scan").await?;
        crate::scan::scan(&session, self.version, self.dialer.fault(), plan, doubts, told).await
    }

    async fn open_stream(&self, spec: StreamSpec) -> Result<Opened> {
        let names = Names::new(&spec.name, spec.migration);
        if spec.fresh { self.fresh(&spec, &names).await } else { self.resumed(&spec, &names).await }
    }

    async fn kept_from(&self, migration: MigrationId) -> Result<Option<Position>> {
        let names = Names::new(&self.name, migration);
        let found = slot::find(&self.session().await?, self.version, &names.slot).await?;
        Ok(found.filter(|slot| !slot.lost).and_then(|slot| slot.confirmed).map(position))
    }

    async fn kept_log(&self, migration: MigrationId) -> Result<Option<String>> {
        slot::kept_log(&self.session().await?, self.version, &Names::new(&self.name, migration).slot).await
    }

    async fn new_snapshot(&self, _tables: &[TablePlan]) -> Result<Box<dyn Hold>> {
        if self.decodes().await? { self.hold(true).await } else { self.alone().await }
    }

    async fn join_snapshot(&self, snapshot: &SnapshotRef) -> Result<Box<dyn Hold>> {
        let hold =
            Holder::join(&self.dialer, &snapshot.token, snapshot.position.clone(), Some(&snapshot.proof)).await?;
        Ok(Box::new(hold))
    }

    async fn reader(&self, snapshot: &SnapshotRef) -> Result<Box<dyn ChunkReader>> {
        Ok(Box::new(Reader::open(&self.dialer, snapshot).await?))
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(crate::rows::PgRows::open(&self.dialer).await?))
    }

    async fn mark(&self) -> Result<Position> {
        Ok(position(slot::mark(&self.session().await?, "mark").await?))
    }

    async fn clock_skew(&self) -> Result<f64> {
        let session = self.session().await?;
        let row = session.query_one("select extract(epoch from clock_timestamp())::float8", &[]).await;
        let theirs: f64 = row.map_err(|e| classify(&e, Fault::Source, "cannot ask for the source's clock"))?.get(0);
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        Ok(theirs - ours)
    }

    async fn cleanup(&self, migration: MigrationId) -> Result<Vec<String>> {
        slot::cleanup(&self.session().await?, self.version, &Names::new(&self.name, migration)).await
    }

    async fn sequences(&self) -> Result<Vec<(String, String, i64, bool)>> {
        let sql = "select schemaname::text, sequencename::text, coalesce(last_value, start_value), last_value is not null \
            from pg_sequences where schemaname not in ('pg_catalog', 'information_schema', 'drover') \
            and has_sequence_privilege(format('%I.%I', schemaname, sequencename), 'SELECT, USAGE')";
        let rows = self.session().await?.query(sql, &[]).await;
        let rows = rows.map_err(|e| classify(&e, Fault::Source, "cannot read the sequences"))?;
        Ok(rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3))).collect())
    }
}
