//! Loading chunks: rows and mark in one destination transaction, durable when it ends.
//!
//! The mark is written first and is unique: of two attempts at a chunk the second waits for the first's end, and loads only if
//! nothing of the first stayed. The table's generation is locked (shared) meanwhile, so no load of an older generation can end
//! after the table has been started over. An attempt that is frozen is ended by the one that waits for it.

use crate::apply::{copy_in, copytext, silence_triggers};
use crate::connect::{Dialer, Session};
use crate::errors::{classify, is};
use crate::fit::{Fit, Misfits};
use crate::typemap::CELLS;
use crate::{progress, sql};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use drover_connectors_api::{LoadOutcome, Loader};
use drover_model::error::codes;
use drover_model::plan::{Plans, RowFormat};
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use futures::SinkExt;
use std::pin::Pin;
use std::sync::Arc;
use tokio_postgres::CopyInSink;
use tokio_postgres::error::SqlState;

/// COPY's binary format, passed on undecoded. Blocks of a chunk concatenate: the first begins with the format's header, the last
/// ends with its trailer.
pub const BINARY: &str = "postgres-copy-binary";

/// How often a lock of another attempt is waited for before it is given up.
const TRIES: u32 = 6;

struct Chunk {
    plan: TablePlan,
    generation: u32,
    number: u32,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    /// Of rows from another kind of database.
    fit: Option<Arc<Fit>>,
    misfits: Misfits,
}

/// A session that loads chunks.
pub struct PgLoader {
    dialer: Dialer,
    migration: MigrationId,
    session: Session,
    pid: i32,
    chunk: Option<Chunk>,
}

impl PgLoader {
    pub async fn open(dialer: &Dialer, migration: MigrationId) -> Result<Self> {
        let session = dialer.session("load").await?;
        let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot prepare a session");
        // Whatever the role's default is: a mark that is lost with the rows is right, one that is reported and then lost is not.
        session.batch_execute("set synchronous_commit = on").await.map_err(failed)?;
        silence_triggers(&session, dialer.fault()).await?;
        let pid = session.query_one("select pg_backend_pid()", &[]).await.map_err(failed)?.get(0);
        Ok(PgLoader { dialer: dialer.clone(), migration, session, pid, chunk: None })
    }

    fn fault(&self) -> Fault {
        self.dialer.fault()
    }

    /// Opens the transaction with generation lock and mark. `Some`: there is nothing to load.
    async fn mark(
        &self,
        plan: &TablePlan,
        generation: u32,
        chunk: u32,
    ) -> Result<Option<LoadOutcome>, tokio_postgres::Error> {
        let table = i64::from(plan.id);
        // The first load of a table makes its generation known.
        self.session
            .execute(
                "insert into drover.drover_table (migration, table_id, generation) values ($1, $2, $3) on conflict do nothing",
                &[&self.migration, &table, &i64::from(generation)],
            )
            .await?;
        self.session.batch_execute("begin; set local lock_timeout = '5s'").await?;
        let current: i64 = self
            .session
            .query_one(
                "select generation from drover.drover_table where migration = $1 and table_id = $2 for share",
                &[&self.migration, &table],
            )
            .await?
            .get(0);
        if current != i64::from(generation) {
            return Ok(Some(LoadOutcome::OldGeneration));
        }
        let marked = self
            .session
            .execute(
                "insert into drover.drover_chunk (migration, table_id, generation, chunk) values ($1, $2, $3, $4) \
                 on conflict do nothing",
                &[&self.migration, &table, &i64::from(generation), &i64::from(chunk)],
            )
            .await?;
        if marked == 0 {
            return Ok(Some(LoadOutcome::AlreadyLoaded));
        }
        self.session.batch_execute("set local lock_timeout = '60s'").await?;
        Ok(None)
    }

    async fn undo(&self) -> Result<()> {
        let failed = |e: tokio_postgres::Error| classify(&e, self.fault(), "cannot give a chunk up");
        let rename =
            format!("rollback; set application_name = {}", sql::literal(&self.dialer.application_name("load")));
        self.session.batch_execute(&rename).await.map_err(failed)
    }

    /// The outcome of a commit whose answer was lost: the old session is ended, then the mark tells.
    async fn resolve(&mut self, chunk: &Chunk, rows: u64, lost: Error) -> Result<LoadOutcome> {
        let fresh = PgLoader::open(&self.dialer, self.migration).await?;
        let name = progress::load_purpose(chunk.plan.id, chunk.generation, chunk.number);
        let name = sql::literal(&self.dialer.application_name(&name));
        let condition = format!("pid = {} and application_name = {name}", self.pid);
        progress::end_sessions(&fresh.session, self.fault(), &condition).await?;
        *self = fresh;
        let row = self
            .session
            .query_opt(
                "select rows from drover.drover_chunk where migration = $1 and table_id = $2 and generation = $3 and chunk = $4",
                &[&self.migration, &i64::from(chunk.plan.id), &i64::from(chunk.generation), &i64::from(chunk.number)],
            )
            .await
            .map_err(|e| classify(&e, self.fault(), "cannot find out whether a chunk was loaded"))?;
        match row {
            Some(row) if row.get::<_, Option<i64>>(0) == Some(rows as i64) => Ok(LoadOutcome::Loaded { rows }),
            Some(_) => Ok(LoadOutcome::AlreadyLoaded),
            None => Err(lost.with_retry(Retry::Connection)),
        }
    }
}

#[async_trait]
impl Loader for PgLoader {
    async fn begin(&mut self, plan: &TablePlan, generation: u32, chunk: u32) -> Result<Option<LoadOutcome>> {
        if self.chunk.is_some() {
            return Err(Error::internal("a chunk was begun before the one before had ended"));
        }
        let fault = self.fault();
        let failed = |e: tokio_postgres::Error| {
            classify(&e, fault, format!("cannot load chunk {chunk}")).table(&plan.destination)
        };
        let name = self.dialer.application_name(&progress::load_purpose(plan.id, generation, chunk));
        for tries in 1.. {
            let rename = format!("set application_name = {}", sql::literal(&name));
            self.session.batch_execute(&rename).await.map_err(failed)?;
            match self.mark(plan, generation, chunk).await {
                Ok(None) => break,
                Ok(Some(outcome)) => {
                    self.undo().await?;
                    return Ok(Some(outcome));
                }
                Err(e) if is(&e, &SqlState::LOCK_NOT_AVAILABLE) && tries < TRIES => {
                    self.undo().await?;
                    // Another attempt at this very chunk: given up by whoever gave it to us, slow or frozen.
                    let same = format!("application_name = {}", sql::literal(&name));
                    progress::end_sessions(&self.session, fault, &same).await?;
                }
                Err(e) => {
                    let error = failed(e);
                    // The error that counts is the first.
                    let _ = self.undo().await;
                    return Err(error);
                }
            }
        }
        let binary = match &plan.format {
            RowFormat::Canonical => false,
            RowFormat::Native(name) if name == CELLS => false,
            RowFormat::Native(name) if name == BINARY => true,
            RowFormat::Native(name) => return Err(Error::internal(format!("rows in the unknown format {name}"))),
        };
        let copy = copy_in(&sql::table(&plan.destination), &sql::destination_columns(plan), binary);
        match self.session.copy_in(&copy).await {
            Ok(sink) => {
                let (fit, misfits) = (Fit::of(plan), Misfits::new());
                let plan = plan.clone();
                self.chunk = Some(Chunk { plan, generation, number: chunk, sink: Box::pin(sink), fit, misfits });
                Ok(None)
            }
            Err(e) => {
                let error = failed(e);
                let _ = self.undo().await;
                Err(error)
            }
        }
    }

    async fn block(&mut self, data: Bytes) -> Result<()> {
        let fault = self.fault();
        let chunk = self.chunk.as_mut().ok_or_else(|| Error::internal("a block came without a chunk"))?;
        let data = match &chunk.plan.format {
            RowFormat::Native(name) if name == BINARY => data,
            _ => {
                let mut rows = &data[..];
                let mut lines = BytesMut::with_capacity(data.len() + (data.len() >> 3));
                let (width, mut row) = (chunk.plan.columns.len(), Vec::new());
                while !rows.is_empty() {
                    match &chunk.fit {
                        Some(fit) => {
                            row.clear();
                            fit.row(&mut rows, &mut row, &mut chunk.misfits)?;
                            copytext::put_line(&mut lines, &mut &row[..], width)?;
                        }
                        None => copytext::put_line(&mut lines, &mut rows, width)?,
                    }
                }
                lines.freeze()
            }
        };
        if chunk.sink.send(data).await.is_err() {
            // The server ended the copy; its reason comes with the answer.
            let Some(mut chunk) = self.chunk.take() else { return Ok(()) };
            let what = format!("cannot load chunk {}", chunk.number);
            let error = match chunk.sink.as_mut().finish().await {
                Err(e) => classify(&e, fault, what),
                Ok(_) => Error::internal(what),
            };
            let _ = self.undo().await;
            return Err(error.table(&chunk.plan.destination));
        }
        Ok(())
    }

    async fn finish(&mut self, rows: u64) -> Result<LoadOutcome> {
        let fault = self.fault();
        let mut chunk = self.chunk.take().ok_or_else(|| Error::internal("a chunk was ended that was not begun"))?;
        let what = format!("cannot load chunk {}", chunk.number);
        let loaded = match chunk.sink.as_mut().finish().await {
            Ok(loaded) => loaded,
            Err(e) => {
                let error = classify(&e, fault, what).table(&chunk.plan.destination);
                let _ = self.undo().await;
                return Err(error);
            }
        };
        if loaded != rows {
            self.undo().await?;
            let what = format!("chunk {} has {rows} rows, but {loaded} arrived at the destination", chunk.number);
            return Err(Error::new(codes::ROW_COUNT, fault, Retry::Other, what).table(&chunk.plan.destination));
        }
        if !chunk.misfits.is_empty() {
            let plans = Plans::from(std::slice::from_ref(&chunk.plan));
            progress::note_misfits(&self.session, self.migration, &plans, &chunk.misfits, fault).await?;
        }
        let values = (i64::from(chunk.plan.id), i64::from(chunk.generation), i64::from(chunk.number));
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&(rows as i64), &self.migration, &values.0, &values.1, &values.2];
        let counted = self
            .session
            .execute(
                "update drover.drover_chunk set rows = $1, loaded_at = now() \
                 where migration = $2 and table_id = $3 and generation = $4 and chunk = $5",
                &params,
            )
            .await;
        let committed = match counted {
            Ok(_) => self.session.batch_execute("commit").await,
            Err(e) => {
                let error = classify(&e, fault, what).table(&chunk.plan.destination);
                let _ = self.undo().await;
                return Err(error);
            }
        };
        match committed {
            Ok(()) => Ok(LoadOutcome::Loaded { rows }),
            Err(e) if e.as_db_error().is_some_and(|db| db.severity() == "ERROR") => {
                Err(classify(&e, fault, what).table(&chunk.plan.destination))
            }
            Err(e) => {
                let lost = classify(&e, fault, what).table(&chunk.plan.destination);
                self.resolve(&chunk, rows, lost).await
            }
        }
    }

    async fn abort(&mut self) -> Result<()> {
        // Dropping the sink tells the server that the copy failed.
        self.chunk = None;
        self.undo().await
    }
}
