//! MySQL and MariaDB as sources: the trait, put together from this crate's rooms. Nothing is created at a source: the log is there anyhow, its
//! place is read, and a snapshot is a handful of transactions. (Where no lock may be had and transactions have no GTIDs, a mark has to be written.)

use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::position;
use crate::reader::Reader;
use crate::rows::MyRows;
use crate::snapshot::{LULL, Set, Wanted, marked, take};
use crate::{catalog, changes, check};
use async_trait::async_trait;
use drover_connectors_api::{ChunkReader, Hold, Opened, Rows, Source, StreamSpec};
use drover_model::check::CheckItem;
use drover_model::doubt::{Doubt, Scanned, TableDoubts};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::{PlanColumn, SnapshotRef};
use drover_model::schema::Catalog;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use mysql_async::prelude::Queryable;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source server.
pub struct MySource {
    dialer: Dialer,
    /// Chunks read at once.
    readers: usize,
}

impl MySource {
    /// Connects once, to see that it can. `readers`: sessions of a snapshot.
    pub async fn open(dialer: Dialer, readers: usize) -> Result<Self> {
        dialer.session("inspect").await?;
        Ok(MySource { dialer, readers })
    }

    async fn session(&self) -> Result<Session> {
        self.dialer.session("inspect").await
    }

    async fn snapshot(&self, tables: &[TablePlan], lineage: u32, exact: bool) -> Result<Arc<Set>> {
        // For tests `DROVER_LULL_MS` makes it content with a blurred snapshot earlier.
        let lull =
            std::env::var("DROVER_LULL_MS").ok().and_then(|ms| ms.parse().ok()).map_or(LULL, Duration::from_millis);
        take(&Wanted { dialer: &self.dialer, readers: self.readers, tables, lineage, exact, lull }).await
    }
}

#[async_trait]
impl Source for MySource {
    async fn catalog(&self) -> Result<Catalog> {
        catalog::read(&mut self.session().await?, self.dialer.settings().database.as_deref()).await
    }

    async fn check(&self, migration: &Migration, plans: &[TablePlan], catalog: &Catalog) -> Result<Vec<CheckItem>> {
        check::source(&mut self.session().await?, migration, plans, catalog).await
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
        crate::scan::scan(&mut self.dialer.session("scan").await?, plan, doubts, told).await
    }

    async fn open_stream(&self, spec: StreamSpec) -> Result<Opened> {
        let (from, snapshot) = if spec.fresh {
            let set = self.snapshot(&spec.tables, 0, true).await?;
            let hold = set.hold();
            (hold.snapshot().position, Some(hold))
        } else {
            let unknown = || {
                let why = "nothing tells where the stream was: the source keeps no place for it";
                Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, why)
                    .remedy("begin again: `drover cleanup`, then run the migration anew")
            };
            (spec.resume.clone().ok_or_else(unknown)?, None)
        };
        let stream = changes::open(&self.dialer, &spec, &from).await?;
        Ok(Opened { start: stream.start().clone(), snapshot, stream: Box::new(stream) })
    }

    async fn new_snapshot(&self, tables: &[TablePlan]) -> Result<Box<dyn Hold>> {
        Ok(self.snapshot(tables, 0, false).await?.hold())
    }

    async fn snapshot_beside(&self, tables: &[TablePlan], seen: Option<&Position>) -> Result<Box<dyn Hold>> {
        if let Some(seen) = seen {
            position::same_server(&mut self.session().await?, seen).await?;
        }
        let hold = self.snapshot(tables, seen.map_or(0, |s| s.lineage), true).await?.hold();
        // Another server may have taken over meanwhile.
        if let Some(seen) = seen {
            let server = position::resume_of(&hold.snapshot().position)?.server;
            position::must_be(&server, seen)?;
        }
        Ok(hold)
    }

    async fn join_snapshot(&self, snapshot: &SnapshotRef) -> Result<Box<dyn Hold>> {
        Ok(Set::find(snapshot)?.hold())
    }

    async fn reader(&self, snapshot: &SnapshotRef) -> Result<Box<dyn ChunkReader>> {
        Ok(Box::new(Reader::open(snapshot).await?))
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(MyRows::open(&self.dialer).await?))
    }

    async fn mark(&self) -> Result<Position> {
        // Nothing has to be written: whatever was committed before is behind the end of the log.
        position::here(&mut self.session().await?, None, 0).await
    }

    async fn mark_beside(&self, seen: Option<&Position>) -> Result<Position> {
        match seen {
            Some(seen) => position::mark(&mut self.session().await?, seen).await,
            None => self.mark().await,
        }
    }

    async fn clock_skew(&self) -> Result<f64> {
        let mut session = self.session().await?;
        let asked = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let theirs = session.query_first::<f64, _>("SELECT UNIX_TIMESTAMP(SYSDATE(6)) + 0e0").await;
        let theirs = theirs.map_err(|e| classify(&e, Fault::Source, "cannot ask for the source's clock"))?;
        let answered = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        Ok(theirs.unwrap_or(asked) - (asked + answered) / 2.0)
    }

    async fn cleanup(&self, migration: MigrationId) -> Result<Vec<String>> {
        marked::cleanup(&mut self.session().await?, migration).await
    }

    async fn sequences(&self) -> Result<Vec<(String, String, i64, bool)>> {
        catalog::auto_increments(&mut self.session().await?).await
    }
}
