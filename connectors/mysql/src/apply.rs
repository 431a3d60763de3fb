//! Applying batches of changes: one destination transaction each, closed by moving the progress.
//!
//! - Rows travel as literals in few set-wise statements, several statements to a packet; a large insert travels by LOAD DATA, a large update of a
//!   MySQL server as parameters of a prepared statement.
//! - Affected (matched) rows are counted. A key that is not there stops the batch with `ROW_COUNT` and is named. A warning about a value stops it too.
//! - The progress moves in the same transaction from exactly the position before, under exactly our epoch, or nothing is committed.
//! - What the server does not keep apart but the source's bytes do (letters' case, trailing spaces, zeros with a sign) needs no care here: rows
//!   are found as the key's own index finds them, and what collides is the server's error. See docs/decisions/0007-apply.md.

mod prepared;
mod run;
mod statements;

use crate::cells::put_float;
use crate::connect::{Dialer, Session};
use crate::errors::{classify, number};
use crate::progress::{self, Home};
use crate::sessions::{self, Purpose};
use crate::shape::{self, Column, Shape};
use crate::types::Kind;
use crate::{fit, keys, load, sql};
use async_trait::async_trait;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::{ApplySession, Committed, Follow, Keys, Step};
use drover_model::error::codes;
use drover_model::plan::Plans;
use drover_model::row::{Cell, put_cell};
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use mysql_async::prelude::Queryable;
use prepared::Prepared;
pub(crate) use run::too_large;
use run::{Able, Run};
use statements::Referring;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Open,
    Failed,
}

/// A session that applies batches.
pub struct MyApply {
    dialer: Dialer,
    migration: MigrationId,
    epoch: u64,
    home: Home,
    plans: Plans,
    session: Session,
    /// The server's number of `session`; shared with the cancellers.
    id: Arc<AtomicU64>,
    able: Able,
    /// Of `session`.
    prepared: Prepared,
    shapes: HashMap<u32, Arc<Shape>>,
    keys: HashMap<u32, Keys>,
    /// Indexes that begin with some columns, where there are any.
    leading: HashMap<(u32, Vec<usize>), Option<String>>,
    state: State,
    /// Values that policies changed and that are counted, or given up: by table and place of the column.
    counted: HashMap<(u32, usize), u64>,
}

async fn connect(dialer: &Dialer, migration: MigrationId) -> Result<(Session, u64, Home, Able)> {
    let (mut session, id) = sessions::open(dialer, migration, Purpose::Apply).await?;
    let home = Home::of(&mut session, dialer, migration).await?;
    // Some servers want a default database wherever a statement has a derived table.
    session.run(format!("USE {}", home.database()), "cannot prepare a session").await?;
    let (infile, max_packet) = load::able(&mut session).await?;
    Ok((session, id, home, Able { infile, max_packet }))
}

impl MyApply {
    /// Opens a session for the holder of `epoch`; FENCED if another took over.
    pub async fn open(dialer: &Dialer, migration: MigrationId, epoch: u64, plans: impl Into<Plans>) -> Result<Self> {
        let plans = plans.into();
        let (mut session, id, home, able) = connect(dialer, migration).await?;
        let (now, _) = progress::stand(&mut session, &home, migration).await?;
        if now != epoch {
            return Err(progress::fenced(epoch, now));
        }
        Ok(MyApply {
            dialer: dialer.clone(),
            migration,
            epoch,
            home,
            plans,
            session,
            id: Arc::new(AtomicU64::new(id)),
            able,
            prepared: Prepared::default(),
            shapes: HashMap::new(),
            keys: HashMap::new(),
            leading: HashMap::new(),
            state: State::Idle,
            counted: HashMap::new(),
        })
    }

    /// Looks up the tables that are not known yet.
    async fn learn(&mut self, tables: impl Iterator<Item = u32>) -> Result<()> {
        for id in tables {
            if self.shapes.contains_key(&id) {
                continue;
            }
            let plan = self.plans.get(&id).ok_or_else(|| Error::internal(format!("a change of unknown table {id}")))?;
            let shape = shape::load(&mut self.session, plan).await?;
            self.shapes.insert(id, Arc::new(shape));
        }
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
        let (mut session, id, home, able) = connect(&self.dialer, self.migration).await?;
        let old = self.id.load(Ordering::Relaxed);
        sessions::end(&mut session, self.migration, Purpose::Apply, &[old]).await?;
        (self.session, self.home, self.able) = (session, home, able);
        self.prepared = Prepared::default();
        self.id.store(id, Ordering::Relaxed);
        self.state = State::Idle;
        Ok(())
    }

    /// The outcome of a commit whose answer was lost. The old session is ended first, else it could still commit.
    async fn resolve(&mut self, previous: &Position, next: &Position, lost: Error) -> Result<Committed> {
        self.reconnect().await?;
        let (epoch, position) = progress::stand(&mut self.session, &self.home, self.migration).await?;
        match position {
            _ if epoch != self.epoch => Ok(Committed::Fenced),
            Some(p) if p == *next => Ok(Committed::Yes),
            Some(p) if p == *previous => Err(lost.with_retry(Retry::Connection)),
            other => Err(elsewhere(previous, next, other)),
        }
    }

    /// Statements that count the values of this batch which policies changed.
    fn misfits(&self, packet: &mut Vec<u8>) {
        for (id, shape) in &self.shapes {
            for (i, column) in shape.columns.iter().enumerate() {
                let (count, example) = column.encoder.replaced();
                let new = count - self.counted.get(&(*id, i)).copied().unwrap_or(0);
                if let (1.., Some(plan)) = (new, self.plans.get(id)) {
                    let sql = progress::count_misfits(&self.home, self.migration, plan, i, new, example);
                    packet.extend_from_slice(sql.as_bytes());
                    packet.push(b';');
                    let values = column.encoder.changing().map(fit::Fit::take).unwrap_or_default();
                    if let Some(sql) = progress::name_misfits(&self.home, self.migration, plan, i, &values) {
                        packet.extend_from_slice(sql.as_bytes());
                        packet.push(b';');
                    }
                }
            }
        }
    }

    /// A batch has ended, one way or the other.
    fn settle(&mut self) {
        for (id, shape) in &self.shapes {
            for (i, column) in shape.columns.iter().enumerate() {
                if let (count @ 1.., _) = column.encoder.replaced() {
                    self.counted.insert((*id, i), count);
                }
            }
        }
    }

    /// The packet that moves the progress and commits. If no row stood at that place and epoch, the middle statement fails, and what is
    /// behind it is not executed: its subquery gives two rows where one may be.
    fn closing(&self, previous: &Position, next: &Position) -> Vec<u8> {
        let mut packet = Vec::new();
        if self.state == State::Idle {
            packet.extend_from_slice(b"START TRANSACTION;");
        }
        self.misfits(&mut packet);
        packet.extend_from_slice(format!("UPDATE {} SET ", self.home.table("drover_progress")).as_bytes());
        progress::put_position(&mut packet, next);
        let condition = format!(" WHERE migration = '{}' AND epoch = {} AND place = ", self.migration, self.epoch);
        packet.extend_from_slice(condition.as_bytes());
        sql::put_hex(&mut packet, &progress::place(previous));
        packet.extend_from_slice(b";SELECT IF(ROW_COUNT() = 1, 1, (SELECT 1 UNION ALL SELECT 2));COMMIT");
        packet
    }
}

pub(crate) fn elsewhere(previous: &Position, next: &Position, found: Option<Position>) -> Error {
    let found = found.map_or_else(|| "none".to_owned(), |p| p.text);
    Error::internal(format!("the progress stands at {found}, not at {previous}, from where {next} was to be committed"))
}

/// The server's number for a subquery with more than one row.
const TWO_ROWS: u16 = 1242;

#[async_trait]
impl ApplySession for MyApply {
    async fn holders(&mut self, table: u32, index: usize, values: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.usable()?;
        self.learn(std::iter::once(table)).await?;
        if self.keys.is_empty() {
            let keys = keys::keys(&mut self.session, self.plans.all()).await?;
            self.keys = keys.into_iter().map(|k| (k.table, k)).collect();
        }
        let unknown = || Error::internal(format!("table {table} has no unique index {index}"));
        let shape = self.shapes.get(&table).ok_or_else(unknown)?;
        let plan = self.plans.get(&table).ok_or_else(unknown)?;
        let unique = self.keys.get(&table).and_then(|k| k.others.get(index)).ok_or_else(unknown)?;
        let columns: Vec<usize> = unique.columns.iter().map(|c| usize::from(c.0)).collect();
        let index = sql::name(&unique.name);
        let begun = self.state == State::Open;
        self.state = State::Failed;
        let failed = |e: mysql_async::Error| {
            classify(&e, self.dialer.fault(), "cannot ask which rows hold some unique values").table(&plan.destination)
        };
        if !begun {
            self.session.query_drop("START TRANSACTION").await.map_err(failed)?;
        }
        let mut found = Vec::new();
        for part in values.chunks(500) {
            let mut statement = Vec::new();
            statements::holding(&mut statement, shape, part, &columns, &index)?;
            let rows: Vec<mysql_async::Row> = self.session.query(statement).await.map_err(failed)?;
            for row in rows {
                let mut shown = (Vec::new(), Vec::new());
                for (i, &column) in shape.key.iter().chain(&columns).enumerate() {
                    let out = if i < shape.key.len() { &mut shown.0 } else { &mut shown.1 };
                    let value: Option<Vec<u8>> = row.get(i).unwrap_or(None);
                    put_shown(out, &shape.columns[column], value.as_deref());
                }
                found.push(shown);
            }
        }
        self.state = State::Open;
        Ok(found)
    }

    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        self.usable()?;
        if steps.is_empty() {
            return Ok(());
        }
        self.learn(steps.iter().flat_map(tables)).await?;
        let begun = self.state == State::Open;
        self.state = State::Failed;
        let mut run = Run::new(&mut self.session, &self.plans, &self.shapes, self.able, &mut self.prepared);
        if !begun {
            run.simple("START TRANSACTION");
        }
        for step in steps {
            run.step(step).await?;
        }
        run.send().await?;
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
        let shape = self.shapes.get(&table).ok_or_else(unknown)?.clone();
        let plan = self.plans.get(&table).ok_or_else(unknown)?;
        let columns: Vec<usize> = columns.iter().map(|&c| usize::from(c)).collect();
        let give: Vec<usize> = give.iter().map(|&c| usize::from(c)).collect();
        let key = (table, columns.clone());
        if !self.leading.contains_key(&key) {
            let found = shape::leading_index(&mut self.session, plan, &columns).await?;
            self.leading.insert(key.clone(), found);
        }
        let index = self.leading.get(&key).cloned().flatten();
        let begun = self.state == State::Open;
        self.state = State::Failed;
        let fault = self.dialer.fault();
        let failed = |e: mysql_async::Error| {
            classify(&e, fault, "cannot do what a foreign key of the source did").table(&plan.destination)
        };
        if !begun {
            self.session.query_drop("START TRANSACTION").await.map_err(failed)?;
        }
        let mut given = Vec::new();
        for part in values.chunks(500) {
            let referring = Referring::new(&shape, part, &columns, index.as_deref());
            if !give.is_empty() {
                let mut statement = Vec::new();
                referring.select(&mut statement, &give)?;
                let rows: Vec<mysql_async::Row> = self.session.query(statement).await.map_err(failed)?;
                for row in rows {
                    let mut cells = Vec::new();
                    for (i, &column) in give.iter().enumerate() {
                        let value: Option<Vec<u8>> = row.get(i).unwrap_or(None);
                        put_shown(&mut cells, &shape.columns[column], value.as_deref());
                    }
                    given.push(cells);
                }
            }
            let mut statement = Vec::new();
            match what {
                Follow::Delete => referring.delete(&mut statement)?,
                Follow::SetNull => referring.set(&mut statement, None)?,
                Follow::Set(new) => referring.set(&mut statement, Some(new))?,
            }
            self.session.query_drop(statement).await.map_err(failed)?;
        }
        self.state = State::Open;
        Ok(given)
    }

    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed> {
        self.usable()?;
        let packet = self.closing(previous, next);
        self.settle();
        let fault = self.dialer.fault();
        self.state = State::Failed;
        // An error of any statement ends the packet.
        match self.session.query_drop(packet).await {
            Ok(()) => {
                self.state = State::Idle;
                Ok(Committed::Yes)
            }
            Err(e) if number(&e) == Some(TWO_ROWS) => {
                self.rollback().await?;
                let (epoch, position) = progress::stand(&mut self.session, &self.home, self.migration).await?;
                if epoch == self.epoch { Err(elsewhere(previous, next, position)) } else { Ok(Committed::Fenced) }
            }
            Err(e) => {
                let lost = classify(&e, fault, format!("cannot commit the changes up to {next}"));
                // Whichever statement it was about, the transaction is over once the session is.
                self.resolve(previous, next, lost).await
            }
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        self.settle();
        if self.state != State::Idle {
            match self.session.query_drop("ROLLBACK").await {
                Ok(()) => self.state = State::Idle,
                // The connection is gone; at the server its transaction may linger with its locks.
                Err(_) => self.reconnect().await?,
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.state != State::Idle {
            return Err(Error::internal("a flush was asked for within a batch"));
        }
        // A session of this family cannot choose how durable a commit is: each is as durable as the server makes it.
        Ok(())
    }

    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(MyCanceller { dialer: self.dialer.clone(), migration: self.migration, id: self.id.clone() })
    }
}

/// A value as the server shows it, as a cell.
fn put_shown(out: &mut Vec<u8>, column: &Column, value: Option<&[u8]>) {
    let Some(value) = value else { return put_cell(out, Cell::Null) };
    if let Kind::Float { .. } = column.kind
        && let Some(exact) = std::str::from_utf8(value).ok().and_then(|t| t.parse::<f64>().ok())
    {
        return put_float(out, exact as f32);
    }
    match &column.canonical {
        Some(data_type) => put_cell(out, Cell::Value(&fit::canonical(data_type, value))),
        None => put_cell(out, Cell::Value(value)),
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
struct MyCanceller {
    dialer: Dialer,
    migration: MigrationId,
    id: Arc<AtomicU64>,
}

#[async_trait]
impl Canceller for MyCanceller {
    async fn cancel(&self) {
        let id = self.id.load(Ordering::Relaxed);
        if let Err(error) = sessions::interrupt(&self.dialer, self.migration, Purpose::Apply, id).await {
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

/// A key for people: `id=7, part=x`, of the plan's key columns and their values.
fn key_text(plan: &TablePlan, values: impl Iterator<Item = String>) -> String {
    let parts = plan.key.iter().zip(values).map(|(&k, value)| {
        let name = plan.columns.get(usize::from(k)).map_or("?", |c| c.destination.as_str());
        format!("{name}={value}")
    });
    parts.collect::<Vec<_>>().join(", ")
}
