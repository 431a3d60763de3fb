//! Applying batches of changes: one destination transaction each, closed by moving the progress.
//!
//! - Rows travel as arrays of texts, one for each column, in few set-wise statements; a large insert travels by COPY. Texts are cast to
//!   the column's type without its length, so a value that does not fit is an error and never cut.
//! - Affected rows are counted. A key that is not there, or there twice, stops the batch with `ROW_COUNT` and is named.
//! - The progress moves in the same transaction from exactly the position before, under exactly our epoch, or nothing is committed.
//! - Commits are asynchronous: the progress is lost together with the data. [`ApplySession::flush`] makes all of them durable.
//!
//! Statements are pipelined: sent without waiting for the answers of those before. The first error is the one that is reported,
//! for in an aborted transaction all later statements fail too.

pub(crate) mod copytext;
mod failure;
pub(crate) mod params;
mod run;
pub(crate) mod shape;
mod statements;

use crate::connect::{Dialer, Session};
use crate::errors::{classify, is};
use crate::fit::{Fit, Fitted, Misfits, fitted_values, put_like_source};
use crate::progress;
use crate::{keys, sql};
use async_trait::async_trait;
use drover_connectors_api::apply::{Canceller, Follow};
use drover_connectors_api::{ApplySession, Committed, Keys, Step};
use drover_model::error::codes;
use drover_model::plan::Plans;
use drover_model::row::{Cell, put_cell};
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use futures::FutureExt;
use params::Param;
use run::{Cache, Run};
use shape::{Shape, Wanted};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use tokio_postgres::error::SqlState;

pub(crate) use statements::copy_in;

/// What sessions that apply are called, after the migration's id.
pub(crate) const PURPOSE: &str = "apply";

/// Settings of a session that applies; those that a server does not know are left out. Rows are looked up by their key's index, always:
/// with the planner's guess of how many rows an array parameter holds, it would read whole tables for a few rows.
const SETTINGS: &str = "select set_config(s.name, v.value, false) from (values ('synchronous_commit', 'off'), \
    ('lock_timeout', '60s'), ('plan_cache_mode', 'force_generic_plan'), ('jit', 'off'), ('enable_seqscan', 'off'), \
    ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('max_parallel_workers_per_gather', '0')) as v(name, value) \
    join pg_settings s on s.name = v.name";

/// Foreign keys and triggers do not fire in drover's sessions: their effects are in the source's log already. Where the role may not
/// silence them this is said once, and they fire.
pub(crate) async fn silence_triggers(session: &Session, fault: Fault) -> Result<()> {
    static SAID: std::sync::Once = std::sync::Once::new();
    match session.batch_execute("set session_replication_role = replica").await {
        Ok(()) => Ok(()),
        Err(e) if is(&e, &SqlState::INSUFFICIENT_PRIVILEGE) => {
            SAID.call_once(|| {
                tracing::warn!(
                    "the destination's role may not set session_replication_role: foreign keys and triggers fire for drover's writes"
                );
            });
            Ok(())
        }
        Err(e) => Err(classify(&e, fault, "cannot prepare a session")),
    }
}

/// Values that one statement follows a foreign key with.
const FOLLOWED_AT_ONCE: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Open,
    Failed,
}

/// A session that applies batches at a PostgreSQL destination.
pub struct PgApply {
    dialer: Dialer,
    migration: MigrationId,
    epoch: u64,
    plans: Plans,
    session: Session,
    /// The server process of `session`; shared with the cancellers.
    pid: Arc<AtomicI32>,
    shapes: HashMap<u32, Arc<Shape>>,
    keys: HashMap<u32, Keys>,
    /// How rows of other kinds of databases are written; by table.
    fits: HashMap<u32, Option<Arc<Fit>>>,
    /// What policies changed in the batch.
    misfits: Misfits,
    cache: Cache,
    state: State,
}

impl PgApply {
    /// Opens a session for the holder of `epoch`; FENCED if another took over.
    pub async fn open(dialer: &Dialer, migration: MigrationId, epoch: u64, plans: impl Into<Plans>) -> Result<Self> {
        let plans = plans.into();
        let (session, pid) = connect(dialer).await?;
        let (now, _) = progress::stand(&session, migration, dialer.fault()).await?;
        if now != epoch {
            return Err(progress::fenced(epoch, now));
        }
        Ok(PgApply {
            dialer: dialer.clone(),
            migration,
            epoch,
            session,
            pid: Arc::new(AtomicI32::new(pid)),
            shapes: HashMap::new(),
            keys: HashMap::new(),
            fits: plans.all().iter().map(|p| (p.id, Fit::of(p))).collect(),
            plans,
            misfits: Misfits::new(),
            cache: Cache::default(),
            state: State::Idle,
        })
    }

    /// Looks up the tables that are not known yet.
    async fn learn(&mut self, tables: impl Iterator<Item = u32>) -> Result<()> {
        let mut ids: Vec<u32> = tables.filter(|t| !self.shapes.contains_key(t)).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let mut wanted = Vec::new();
        for id in &ids {
            let plan = self.plans.get(id).ok_or_else(|| Error::internal(format!("a change of unknown table {id}")))?;
            wanted.push(Wanted {
                name: &plan.destination,
                columns: plan.columns.iter().map(|c| c.destination.as_str()).collect(),
                key: plan.key.iter().map(|&k| usize::from(k)).collect(),
            });
        }
        let shapes = shape::load(&self.session, &wanted, self.dialer.fault()).await?;
        self.shapes.extend(ids.into_iter().zip(shapes.into_iter().map(Arc::new)));
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        match self.state {
            State::Failed => Err(Error::internal("a batch that failed was carried on instead of rolled back")),
            _ => Ok(()),
        }
    }

    /// Ends what is left of the session at the server, and begins a new one.
    async fn reconnect(&mut self) -> Result<()> {
        let (session, pid) = connect(&self.dialer).await?;
        let old = self.pid.load(Ordering::Relaxed);
        let name = sql::literal(&self.dialer.application_name(PURPOSE));
        let condition = format!("pid = {old} and application_name = {name}");
        progress::end_sessions(&session, self.dialer.fault(), &condition).await?;
        self.session = session;
        self.pid.store(pid, Ordering::Relaxed);
        self.cache = Cache::default();
        self.state = State::Idle;
        Ok(())
    }

    /// The outcome of a commit whose answer was lost. The old session is ended first, else it could still commit.
    async fn resolve(&mut self, previous: &Position, next: &Position, lost: Error) -> Result<Committed> {
        self.reconnect().await?;
        let (epoch, position) = progress::stand(&self.session, self.migration, self.dialer.fault()).await?;
        match position {
            _ if epoch != self.epoch => Ok(Committed::Fenced),
            Some(p) if p == *next => Ok(Committed::Yes),
            Some(p) if p == *previous => Err(lost.with_retry(Retry::Connection)),
            other => Err(elsewhere(previous, next, other)),
        }
    }
}

/// A session and the number of its server process.
async fn connect(dialer: &Dialer) -> Result<(Session, i32)> {
    let session = dialer.session(PURPOSE).await?;
    let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot prepare a session");
    session.batch_execute(SETTINGS).await.map_err(failed)?;
    silence_triggers(&session, dialer.fault()).await?;
    let pid = session.query_one("select pg_backend_pid()", &[]).await.map_err(failed)?.get(0);
    Ok((session, pid))
}

pub(crate) fn elsewhere(previous: &Position, next: &Position, found: Option<Position>) -> Error {
    let found = found.map_or_else(|| "none".to_owned(), |p| p.text);
    Error::internal(format!("the progress stands at {found}, not at {previous}, from where {next} was to be committed"))
}

/// Whether an error leaves the outcome of a commit open: the connection is gone or going.
fn outcome_unknown(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_none_or(|db| matches!(db.severity(), "FATAL" | "PANIC") || db.code().code().starts_with("57P"))
}

#[async_trait]
impl ApplySession for PgApply {
    async fn holders(&mut self, table: u32, index: usize, values: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.usable()?;
        self.learn(std::iter::once(table)).await?;
        if self.keys.is_empty() {
            let keys = keys::keys(&self.session, self.plans.all(), self.dialer.fault()).await?;
            self.keys = keys.into_iter().map(|k| (k.table, k)).collect();
        }
        let unknown = || Error::internal(format!("table {table} has no unique index {index}"));
        let (shape, plan) = (self.shapes.get(&table).ok_or_else(unknown)?, self.plans.get(&table).ok_or_else(unknown)?);
        let unique = self.keys.get(&table).and_then(|k| k.others.get(index)).ok_or_else(unknown)?;
        let columns: Vec<usize> = unique.columns.iter().map(|c| usize::from(c.0)).collect();
        let places: Vec<u16> = unique.columns.iter().map(|c| c.0).collect();
        let fit = self.fits.get(&table).and_then(Option::as_ref);
        let fitted = fitted_values(fit, &places, values)?;
        let grid = fitted.grid(columns.len())?;
        let failed = |e: tokio_postgres::Error| {
            classify(&e, self.dialer.fault(), "cannot ask which rows hold some unique values").table(&plan.destination)
        };
        let begun = self.state == State::Open;
        self.state = State::Failed;
        if !begun {
            self.session.batch_execute("begin").await.map_err(failed)?;
        }
        let text = statements::holders(shape, &columns);
        let kind = (table, run::Kind::Holders(index), true);
        let statement = match self.cache.get(&kind, &[]) {
            Some(found) => found,
            None => {
                let made = self.session.prepare_typed(&text.sql, &text.types).await.map_err(failed)?;
                self.cache.put(kind, &[], made)
            }
        };
        let params: Vec<Param<'_>> = (0..columns.len()).map(|c| grid.array(c)).collect();
        let stream = self.session.query_raw(&statement, params).await.map_err(failed)?;
        let rows: Vec<tokio_postgres::Row> = futures::TryStreamExt::try_collect(stream).await.map_err(failed)?;
        self.state = State::Open;
        let cells = |row: &tokio_postgres::Row, from: usize, columns: &[usize]| -> Result<Vec<u8>> {
            let mut out = Vec::new();
            for (i, &c) in columns.iter().enumerate() {
                let shown = row.get::<_, &str>(from + i).as_bytes();
                match fit {
                    Some(_) => put_like_source(&mut out, &plan.columns[c], shown)?,
                    None => put_cell(&mut out, Cell::Value(shown)),
                }
            }
            Ok(out)
        };
        let split = shape.key.len();
        rows.iter().map(|r| Ok((cells(r, 0, &shape.key)?, cells(r, split, &columns)?))).collect()
    }

    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        self.usable()?;
        if steps.is_empty() {
            return Ok(());
        }
        self.learn(steps.iter().flat_map(tables)).await?;
        let begun = self.state == State::Open;
        self.state = State::Failed;
        let fitted = Fitted::of(&self.fits, steps, &mut self.misfits)?;
        let owned = fitted.as_ref().map(|f| f.steps(&self.fits, steps));
        let steps = owned.as_deref().unwrap_or(steps);
        let mut run = Run::new(&self.session, &self.plans, &self.shapes, &mut self.cache, self.dialer.fault());
        if !begun {
            run.simple("begin").await?;
        }
        for step in steps {
            run.step(step).await?;
        }
        run.drain().await?;
        self.state = State::Open;
        Ok(())
    }

    async fn follow(
        &mut self,
        table: u32,
        columns: &[u16],
        values: &[&[u8]],
        what: Follow<'_>,
        give: &[u16],
    ) -> Result<Vec<Vec<u8>>> {
        self.usable()?;
        self.learn(std::iter::once(table)).await?;
        let unknown = || Error::internal(format!("a foreign key of unknown table {table}"));
        let shape = self.shapes.get(&table).ok_or_else(unknown)?;
        let plan = self.plans.get(&table).ok_or_else(unknown)?;
        let fit = self.fits.get(&table).and_then(Option::as_ref);
        let places: Vec<usize> = columns.iter().map(|&c| usize::from(c)).collect();
        let given: Vec<usize> = give.iter().map(|&c| usize::from(c)).collect();
        let set = match what {
            Follow::Set(new) => Some(fitted_values(fit, columns, &[new])?),
            Follow::Delete | Follow::SetNull => None,
        };
        let set = set.as_ref().map(|s| s.grid(places.len())).transpose()?;
        let text = statements::follow(shape, &places, what, &given);
        let fault = self.dialer.fault();
        let failed = |e: tokio_postgres::Error| {
            classify(&e, fault, "cannot do what a foreign key of the source did").table(&plan.destination)
        };
        let begun = self.state == State::Open;
        self.state = State::Failed;
        if !begun {
            self.session.batch_execute("begin").await.map_err(failed)?;
        }
        // No index may serve these columns.
        self.session
            .batch_execute("set local enable_hashjoin = on; set local enable_seqscan = on")
            .await
            .map_err(failed)?;
        let statement = self.session.prepare_typed(&text.sql, &text.types).await.map_err(failed)?;
        let mut out = Vec::new();
        for part in values.chunks(FOLLOWED_AT_ONCE) {
            let fitted = fitted_values(fit, columns, part)?;
            let grid = fitted.grid(places.len())?;
            let params = (0..places.len()).map(|c| grid.array(c));
            let params: Vec<Param<'_>> = match &set {
                Some(set) => params.chain((0..places.len()).map(|c| set.param(c))).collect(),
                None => params.collect(),
            };
            let stream = self.session.query_raw(&statement, params).await.map_err(failed)?;
            let mut stream = std::pin::pin!(stream);
            while let Some(row) = futures::TryStreamExt::try_next(&mut stream).await.map_err(failed)? {
                let mut cells = Vec::new();
                for (i, &c) in given.iter().enumerate() {
                    match (row.get::<_, Option<&str>>(i), fit) {
                        (None, _) => put_cell(&mut cells, Cell::Null),
                        (Some(text), Some(_)) => put_like_source(&mut cells, &plan.columns[c], text.as_bytes())?,
                        (Some(text), None) => put_cell(&mut cells, Cell::Value(text.as_bytes())),
                    }
                }
                if !given.is_empty() {
                    out.push(cells);
                }
            }
        }
        self.session
            .batch_execute("set local enable_hashjoin = off; set local enable_seqscan = off")
            .await
            .map_err(failed)?;
        self.state = State::Open;
        Ok(out)
    }

    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed> {
        self.usable()?;
        let misfits = std::mem::take(&mut self.misfits);
        if !misfits.is_empty() && self.state == State::Open {
            self.state = State::Failed;
            progress::note_misfits(&self.session, self.migration, &self.plans, &misfits, self.dialer.fault()).await?;
            self.state = State::Open;
        }
        let kind = (u32::MAX, run::Kind::Progress, false);
        let begun = self.state == State::Open;
        self.state = State::Failed;
        // Division by zero where no row is at that place and epoch: the commit that is already on its way then finds an
        // aborted transaction. One round trip.
        const MOVE: &str = "with u as (update drover.drover_progress set position = $1, place = $2, position_text = $3, updated_at = now() \
            where migration = $4 and epoch = $5 and place = $6 returning 1) select 1 / count(*) from u";
        let what = || format!("cannot commit the changes up to {next}");
        let fault = self.dialer.fault();
        let outcome: Result<(), tokio_postgres::Error> = async {
            let statement = match self.cache.get(&kind, &[]) {
                Some(found) => found,
                None => {
                    let made = self.session.prepare(MOVE).await?;
                    self.cache.put(kind, &[], made)
                }
            };
            let (bytes, place, before) = (next.to_bytes(), progress::place(next), progress::place(previous));
            let epoch = self.epoch as i64;
            let session = &self.session;
            let begin = async { if begun { Ok(()) } else { session.batch_execute("begin").await } };
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&bytes, &place, &next.text, &self.migration, &epoch, &before];
            let moved = session.query(&statement, &values);
            let (begin, moved, committed) = futures::join!(begin, moved, session.batch_execute("commit"));
            begin?;
            moved?;
            committed
        }
        .await;
        match outcome {
            Ok(()) => {
                self.state = State::Idle;
                Ok(Committed::Yes)
            }
            Err(e) if outcome_unknown(&e) => self.resolve(previous, next, classify(&e, fault, what())).await,
            Err(e) if is(&e, &SqlState::DIVISION_BY_ZERO) => {
                self.rollback().await?;
                let (epoch, position) = progress::stand(&self.session, self.migration, fault).await?;
                if epoch == self.epoch { Err(elsewhere(previous, next, position)) } else { Ok(Committed::Fenced) }
            }
            Err(e) => Err(classify(&e, fault, what())),
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        self.misfits.clear();
        if self.state != State::Idle {
            match self.session.batch_execute("rollback").await {
                Ok(()) => self.state = State::Idle,
                // The connection is gone; at the server its transaction may linger with its locks.
                Err(e) if outcome_unknown(&e) => self.reconnect().await?,
                Err(e) => return Err(classify(&e, self.dialer.fault(), "cannot roll a batch back")),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.state != State::Idle {
            return Err(Error::internal("a flush was asked for within a batch"));
        }
        // A synchronous commit waits until the log is durable up to it. It must write something itself: a transaction without a
        // record of its own does not wait.
        self.state = State::Failed;
        self.session
            .batch_execute(
                "begin; set local synchronous_commit = on; \
                 select pg_catalog.pg_logical_emit_message(true, 'drover', ''); commit",
            )
            .await
            .map_err(|e| classify(&e, self.dialer.fault(), "cannot make the applied changes durable"))?;
        self.state = State::Idle;
        Ok(())
    }

    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(PgCanceller { dialer: self.dialer.clone(), pid: self.pid.clone() })
    }
}

fn tables(step: &Step<'_>) -> Vec<u32> {
    match step {
        Step::Delete { table, .. }
        | Step::Update { table, .. }
        | Step::Move { table, .. }
        | Step::Insert { table, .. }
        | Step::DeleteWhole { table, .. } => vec![*table],
        Step::Truncate { tables } => tables.clone(),
    }
}

/// Breaks the statement under way of a session off, over a session of its own.
struct PgCanceller {
    dialer: Dialer,
    pid: Arc<AtomicI32>,
}

#[async_trait]
impl Canceller for PgCanceller {
    async fn cancel(&self) {
        let pid = self.pid.load(Ordering::Relaxed);
        let cancelled = async {
            let session = self.dialer.session("cancel").await?;
            session
                .query("select pg_cancel_backend($1)", &[&pid])
                .await
                .map_err(|e| classify(&e, self.dialer.fault(), "cannot break a statement off"))
        };
        if let Err(error) = cancelled.boxed().await {
            tracing::warn!(%error, "a statement could not be broken off");
        }
    }
}

/// An error about rows that are not there, or too often.
fn row_count(fault: Fault, plan: &TablePlan, message: String) -> Error {
    Error::new(codes::ROW_COUNT, fault, Retry::Other, message)
        .table(&plan.destination)
        .remedy("compare the sides with `drover validate`; somebody else may write to the destination")
}

/// A key for people: `id=7, part=x`, of the plan's key columns and their cells.
fn key_text(plan: &TablePlan, cells: impl Iterator<Item = Option<String>>) -> String {
    let parts = plan.key.iter().zip(cells).map(|(&k, value)| {
        let name = plan.columns.get(usize::from(k)).map_or("?", |c| c.destination.as_str());
        format!("{name}={}", value.unwrap_or_else(|| "null".to_owned()))
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// A value for people, cut where it is long.
fn show(cell: Cell<'_>) -> Option<String> {
    let value = cell.value()?;
    let text = String::from_utf8_lossy(&value[..value.len().min(200)]);
    Some(if value.len() > 200 { format!("{text}…") } else { text.into_owned() })
}

/// The quoted names of a table's columns, with commas between.
fn names(shape: &Shape) -> String {
    sql::list(shape.columns.iter().map(|c| c.name.clone()))
}
