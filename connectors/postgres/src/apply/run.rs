//! One `execute`: steps become statements, statements are sent without waiting, answers are checked in order.

use super::params::{Grid, Param};
use super::shape::Shape;
use super::statements::{self, Text};
use super::{copytext, failure, key_text, names, row_count, show};
use crate::connect::Session;
use crate::errors::classify;
use bytes::{Bytes, BytesMut};
use drover_connectors_api::Step;
use drover_model::plan::Plans;
use drover_model::row::Cell;
use drover_model::{Error, Fault, Result, TablePlan};
use drover_runtime::memory::{Account, Taken};
use futures::future::BoxFuture;
use futures::{SinkExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio_postgres::{CopyInSink, Row, Statement};

/// Rows of a set-wise statement, at most, and their bytes.
const PART_ROWS: usize = 10_000;
const PART_BYTES: usize = 4 << 20;
/// From so many rows on an insert travels by COPY, which costs a round trip more and far less a row.
const COPY_ROWS: usize = 200;
/// Statements under way before answers are waited for; [`PART_BYTES`] of them, too.
const AHEAD: usize = 32;
/// Size of a COPY message.
const COPY_BYTES: usize = 256 << 10;

/// What a prepared statement does; with its table, form and columns left out it is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Update,
    Count,
    Delete,
    Insert,
    Upsert,
    InsertMissing,
    Copy,
    Whole,
    Move,
    Differs,
    Holders(usize),
    Progress,
}

type CacheKey = (u32, Kind, bool);

/// Prepared statements of a session, and what it may have under way.
pub(super) struct Cache {
    statements: HashMap<CacheKey, Vec<(Vec<u16>, Statement)>>,
    under_way: Arc<Account>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { statements: HashMap::new(), under_way: Account::new("apply.statements", PART_BYTES) }
    }
}

impl Cache {
    pub(super) fn get(&self, key: &CacheKey, without: &[u16]) -> Option<Statement> {
        self.statements.get(key)?.iter().find(|(w, _)| w == without).map(|(_, s)| s.clone())
    }
    pub(super) fn put(&mut self, key: CacheKey, without: &[u16], statement: Statement) -> Statement {
        self.statements.entry(key).or_default().push((without.to_vec(), statement.clone()));
        statement
    }
}

enum Answer {
    Count(u64),
    Rows(Vec<Row>),
}

type Answered = Result<Answer, tokio_postgres::Error>;

/// What an answer must be.
enum Check<'f> {
    Any,
    /// One row for each key; `key` are the key's places in the grid.
    Each {
        grid: Grid<'f>,
        key: Vec<usize>,
    },
    /// So many rows inserted.
    Rows(u64),
    /// (number, ordinals if not all).
    Deleted {
        grid: Grid<'f>,
        tolerant: bool,
    },
    /// (ordinal, number) for each row.
    Whole {
        grid: Grid<'f>,
        counts: Vec<i64>,
    },
}

struct Sent<'f> {
    table: Option<u32>,
    what: &'static str,
    early: Option<Answered>,
    answer: BoxFuture<'f, Answered>,
    check: Check<'f>,
}

/// A run over some steps.
pub(super) struct Run<'f> {
    session: &'f Session,
    plans: &'f Plans,
    shapes: &'f HashMap<u32, Arc<Shape>>,
    cache: &'f mut Cache,
    fault: Fault,
    sent: VecDeque<Sent<'f>>,
    /// Bytes of the statements that were sent.
    taken: Option<Taken>,
}

impl<'f> Run<'f> {
    pub(super) fn new(
        session: &'f Session,
        plans: &'f Plans,
        shapes: &'f HashMap<u32, Arc<Shape>>,
        cache: &'f mut Cache,
        fault: Fault,
    ) -> Self {
        Run { session, plans, shapes, cache, fault, sent: VecDeque::new(), taken: None }
    }

    fn table(&self, table: u32) -> Result<(&'f TablePlan, &'f Arc<Shape>)> {
        let both = self.plans.get(&table).zip(self.shapes.get(&table));
        both.ok_or_else(|| Error::internal(format!("a change of unknown table {table}")))
    }

    /// Sends a statement without parameters.
    pub(super) async fn simple(&mut self, sql: &'static str) -> Result<()> {
        let session = self.session;
        let answer = Box::pin(async move { session.batch_execute(sql).await.map(|()| Answer::Count(0)) });
        self.push(None, "cannot apply changes", answer, Check::Any, 0).await
    }

    /// Polls once, which puts the statement on its way behind those before; the answer is taken by `drain`. A statement that finds no room beside those
    /// waits for them.
    async fn push(
        &mut self,
        table: Option<u32>,
        what: &'static str,
        mut answer: BoxFuture<'f, Answered>,
        check: Check<'f>,
        bytes: usize,
    ) -> Result<()> {
        if !self.taken.as_mut().is_some_and(|taken| taken.add(bytes)) {
            self.drain().await?;
            self.taken = self.cache.under_way.try_hold(bytes);
        }
        let early = match futures::poll!(&mut answer) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        self.sent.push_back(Sent { table, what, early, answer, check });
        if self.sent.len() >= AHEAD {
            self.drain().await?;
        }
        Ok(())
    }

    /// Waits for all answers and checks them in order.
    pub(super) async fn drain(&mut self) -> Result<()> {
        while let Some(sent) = self.sent.pop_front() {
            let answer = match sent.early {
                Some(answer) => answer,
                None => sent.answer.await,
            };
            let Some(table) = sent.table else {
                answer.map_err(|e| classify(&e, self.fault, sent.what))?;
                continue;
            };
            let (plan, shape) = self.table(table)?;
            let answer = answer.map_err(|e| failure::of_table(&e, self.fault, plan, sent.what))?;
            self.check(plan, shape, sent.check, answer).await?;
        }
        self.taken = None;
        Ok(())
    }

    async fn check(&mut self, plan: &TablePlan, shape: &Shape, check: Check<'f>, answer: Answer) -> Result<()> {
        match (check, answer) {
            (Check::Any, _) => Ok(()),
            (Check::Each { grid, key }, answer) => {
                let found = match answer {
                    Answer::Count(n) => n,
                    Answer::Rows(rows) => rows.len() as u64,
                };
                if found == grid.rows() as u64 {
                    return Ok(());
                }
                // What is still under way must be read before anything else can be asked; its outcome does not matter any more.
                for sent in std::mem::take(&mut self.sent) {
                    if sent.early.is_none() {
                        let _ = sent.answer.await;
                    }
                }
                Err(failure::miscounted(self.session, self.fault, plan, shape, &grid, &key, found).await?)
            }
            (Check::Rows(rows), Answer::Count(n)) if n == rows => Ok(()),
            (Check::Rows(rows), Answer::Count(n)) => {
                Err(row_count(self.fault, plan, format!("{n} of {rows} rows were inserted")))
            }
            (Check::Deleted { grid, tolerant }, Answer::Rows(rows)) => {
                let row = rows.first().ok_or_else(|| Error::internal("a delete gave no count"))?;
                let deleted = row.get::<_, i64>(0) as u64;
                if tolerant || deleted == grid.rows() as u64 {
                    return Ok(());
                }
                let ordinals: Vec<i64> = row.get::<_, Option<Vec<i64>>>(1).unwrap_or_default();
                Err(failure::not_deleted(self.fault, plan, &grid, deleted, &ordinals))
            }
            (Check::Deleted { grid, tolerant }, Answer::Count(n)) => {
                if tolerant || n == 1 {
                    return Ok(());
                }
                let key = key_text(plan, (0..plan.key.len()).map(|k| show(grid.cell(0, k))));
                Err(row_count(self.fault, plan, format!("{n} of 1 row to delete was found")).key(key))
            }
            (Check::Whole { grid, counts }, Answer::Rows(rows)) => {
                let mut left = counts.clone();
                for row in rows {
                    let n = usize::try_from(row.get::<_, i64>(0) - 1).ok().and_then(|i| left.get_mut(i));
                    *n.ok_or_else(|| Error::internal("a delete gave an unknown ordinal"))? -= row.get::<_, i64>(1);
                }
                let Some(at) = left.iter().position(|n| *n != 0) else { return Ok(()) };
                let row = plan.columns.iter().enumerate().map(|(i, c)| {
                    format!("{}={}", c.destination, show(grid.cell(at, i)).unwrap_or_else(|| "null".to_owned()))
                });
                let message = format!("{} of {} equal rows to delete were found", counts[at] - left[at], counts[at]);
                Err(row_count(self.fault, plan, message).key(row.collect::<Vec<_>>().join(", ")))
            }
            (Check::Rows(_) | Check::Whole { .. }, _) => {
                Err(Error::internal("a statement gave another kind of answer"))
            }
        }
    }

    /// A prepared statement. Making one waits for an answer, so those under way are read first.
    async fn statement(&mut self, key: CacheKey, without: &[u16], text: impl FnOnce() -> Text) -> Result<Statement> {
        if let Some(found) = self.cache.get(&key, without) {
            return Ok(found);
        }
        self.drain().await?;
        let text = text();
        let (plan, _) = self.table(key.0)?;
        let made = self.session.prepare_typed(&text.sql, &text.types).await;
        let made = made.map_err(|e| failure::of_table(&e, self.fault, plan, "cannot prepare a statement"))?;
        Ok(self.cache.put(key, without, made))
    }

    /// Sends a prepared statement; `rows` when its answer is rows.
    async fn send(
        &mut self,
        table: u32,
        what: &'static str,
        statement: Statement,
        params: Vec<Param<'f>>,
        rows: bool,
        check: Check<'f>,
        bytes: usize,
    ) -> Result<()> {
        let session = self.session;
        let answer: BoxFuture<'f, Answered> = if rows {
            Box::pin(async move { session.query_raw(&statement, params).await?.try_collect().await.map(Answer::Rows) })
        } else {
            Box::pin(async move { session.execute_raw(&statement, params).await.map(Answer::Count) })
        };
        self.push(Some(table), what, answer, check, bytes).await
    }

    /// Sends a statement whose rows cannot be looked up by an index: the planner may then join as it likes.
    async fn send_freely(
        &mut self,
        free: bool,
        table: u32,
        what: &'static str,
        statement: Statement,
        params: Vec<Param<'f>>,
        rows: bool,
        check: Check<'f>,
        bytes: usize,
    ) -> Result<()> {
        if free {
            self.simple(
                "set local enable_hashjoin = on; set local enable_mergejoin = on; set local enable_seqscan = on",
            )
            .await?;
        }
        self.send(table, what, statement, params, rows, check, bytes).await?;
        if free {
            self.simple(
                "set local enable_hashjoin = off; set local enable_mergejoin = off; set local enable_seqscan = off",
            )
            .await?;
        }
        Ok(())
    }

    pub(super) async fn step(&mut self, step: &Step<'f>) -> Result<()> {
        match step {
            Step::Delete { table, keys, tolerant } => {
                for part in parts(keys) {
                    self.delete(*table, part, *tolerant).await?;
                }
            }
            Step::Update { table, rows, unknown, tolerant } => {
                for part in parts(rows) {
                    self.update(*table, part, unknown, *tolerant).await?;
                }
            }
            Step::Move { table, old, new } => self.change_key(*table, old, new).await?,
            Step::Insert { table, rows, tolerant: true } => {
                for part in parts(rows) {
                    self.upsert(*table, part).await?;
                }
            }
            Step::Insert { table, rows, .. } if rows.len() >= COPY_ROWS => self.copy(*table, rows).await?,
            Step::Insert { table, rows, .. } => {
                for part in parts(rows) {
                    self.insert(*table, part).await?;
                }
            }
            Step::DeleteWhole { table, rows } => {
                for part in rows.chunks(PART_ROWS) {
                    self.delete_whole(*table, part).await?;
                }
            }
            Step::Truncate { tables } => self.truncate(tables).await?,
        }
        Ok(())
    }

    async fn delete(&mut self, table: u32, keys: &[&'f [u8]], tolerant: bool) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        let grid = Grid::read(keys, plan.key.len())?;
        known(&grid, 0..plan.key.len(), plan)?;
        let many = grid.rows() > 1;
        let statement = self.statement((table, Kind::Delete, many), &[], || statements::delete(shape, many)).await?;
        let params = (0..plan.key.len()).map(|k| grid.param(k)).collect();
        let check = Check::Deleted { grid, tolerant };
        self.send_freely(!shape.indexed, table, "cannot delete rows", statement, params, many, check, size(keys)).await
    }

    async fn update(&mut self, table: u32, rows: &[&'f [u8]], unknown: &[u16], tolerant: bool) -> Result<()> {
        if tolerant && unknown.is_empty() {
            return self.upsert(table, rows).await;
        }
        let (plan, shape) = self.table(table)?;
        let grid = Grid::read(rows, plan.columns.len())?;
        let mut set = statements::settable(shape, unknown);
        known(&grid, shape.key.iter().chain(&set).copied(), plan)?;
        let always: Vec<usize> = (0..plan.columns.len())
            .filter(|c| shape.columns[*c].identity_always && !shape.key.contains(c) && !unknown.contains(&(*c as u16)))
            .collect();
        let reset = !always.is_empty() && self.identity_differs(table, &grid, &always, unknown).await?;
        if reset {
            set.extend(&always);
        }
        let many = grid.rows() > 1;
        let what = "cannot update rows";
        let params = shape.key.iter().chain(&set).map(|&c| grid.param(c)).collect();
        let check = if tolerant { Check::Any } else { Check::Each { grid, key: shape.key.clone() } };
        if set.is_empty() {
            let statement = self.statement((table, Kind::Count, many), &[], || statements::count(shape, many)).await?;
            return self.send_freely(!shape.indexed, table, what, statement, params, true, check, size(rows)).await;
        }
        if !reset {
            let key = (table, Kind::Update, many);
            let statement = self.statement(key, unknown, || statements::update(shape, &set, many)).await?;
            return self.send_freely(!shape.indexed, table, what, statement, params, false, check, size(rows)).await;
        }
        let text = statements::update(shape, &set, many);
        self.unlocked(table, &always, text, params, check).await
    }

    /// Whether rows would get another value in a column that generates its values always.
    async fn identity_differs(
        &mut self,
        table: u32,
        grid: &Grid<'f>,
        always: &[usize],
        unknown: &[u16],
    ) -> Result<bool> {
        let (plan, shape) = self.table(table)?;
        let key = (table, Kind::Differs, true);
        let statement = self.statement(key, unknown, || statements::identity_differs(shape, always)).await?;
        self.drain().await?;
        let params: Vec<Param<'_>> = shape.key.iter().chain(always).map(|&c| grid.array(c)).collect();
        let failed = |e: tokio_postgres::Error| failure::of_table(&e, self.fault, plan, "cannot compare rows");
        let rows: Vec<Row> =
            self.session.query_raw(&statement, params).await.map_err(failed)?.try_collect().await.map_err(failed)?;
        Ok(!rows.is_empty())
    }

    /// Runs an update that sets columns which generate their values always: within the transaction they do so by default only.
    async fn unlocked(
        &mut self,
        table: u32,
        always: &[usize],
        text: Text,
        params: Vec<Param<'f>>,
        check: Check<'f>,
    ) -> Result<()> {
        self.drain().await?;
        let (plan, shape) = self.table(table)?;
        let alter = |to: &str| {
            let each = always.iter().map(|&c| format!("alter column {} set generated {to}", shape.columns[c].name));
            format!("alter table {} {}", shape.table, each.collect::<Vec<_>>().join(", "))
        };
        let fault = self.fault;
        let failed = |e: tokio_postgres::Error| failure::of_table(&e, fault, plan, "cannot change an identity");
        self.session.batch_execute(&alter("by default")).await.map_err(failed)?;
        let statement = self.session.prepare_typed(&text.sql, &text.types).await.map_err(failed)?;
        let answer = self.session.execute_raw(&statement, params).await.map_err(failed)?;
        self.check(plan, shape, check, Answer::Count(answer)).await?;
        self.session.batch_execute(&alter("always")).await.map_err(failed)
    }

    async fn change_key(&mut self, table: u32, old: &'f [u8], new: &'f [u8]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        let before = Grid::read(&[old], plan.key.len())?;
        let after = Grid::read(&[new], plan.columns.len())?;
        known(&before, 0..plan.key.len(), plan)?;
        known(&after, shape.key.iter().copied(), plan)?;
        let is = |c: usize| after.cell(0, c);
        let mut always = Vec::new();
        let mut set = Vec::new();
        for c in 0..plan.columns.len() {
            match shape.key.iter().position(|&k| k == c) {
                _ if is(c) == Cell::Unknown => continue,
                Some(k) if before.cell(0, k) == is(c) => continue,
                Some(_) if shape.columns[c].identity_always => always.push(c),
                None if shape.columns[c].identity_always => continue,
                _ => {}
            }
            set.push(c);
        }
        let without: Vec<u16> = (0..plan.columns.len()).filter(|c| !set.contains(c)).map(|c| c as u16).collect();
        let params = (0..plan.key.len()).map(|k| before.param(k)).chain(set.iter().map(|&c| after.param(c))).collect();
        let check = Check::Each { grid: before, key: (0..plan.key.len()).collect() };
        if set.is_empty() {
            let key = (table, Kind::Count, false);
            let statement = self.statement(key, &[], || statements::count(shape, false)).await?;
            return self.send(table, "cannot move a row", statement, params, true, check, 0).await;
        }
        if !always.is_empty() {
            return self.unlocked(table, &always, statements::move_key(shape, &set), params, check).await;
        }
        let key = (table, Kind::Move, false);
        let statement = self.statement(key, &without, || statements::move_key(shape, &set)).await?;
        let bytes = old.len() + new.len();
        self.send_freely(!shape.indexed, table, "cannot move a row", statement, params, false, check, bytes).await
    }

    async fn insert(&mut self, table: u32, rows: &[&'f [u8]]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        let grid = Grid::read(rows, plan.columns.len())?;
        known(&grid, 0..plan.columns.len(), plan)?;
        let many = grid.rows() > 1;
        let statement = self.statement((table, Kind::Insert, many), &[], || statements::insert(shape, many)).await?;
        let params = (0..plan.columns.len()).map(|c| grid.param(c)).collect();
        let check = Check::Rows(grid.rows() as u64);
        self.send(table, "cannot insert rows", statement, params, false, check, size(rows)).await
    }

    /// Inserts rows, overwriting those of the same identity.
    async fn upsert(&mut self, table: u32, rows: &[&'f [u8]]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        if plan.key.is_empty() {
            return Err(Error::internal("a table without a key cannot be applied tolerantly").table(&plan.destination));
        }
        let grid = Grid::read(rows, plan.columns.len())?;
        known(&grid, 0..plan.columns.len(), plan)?;
        let many = grid.rows() > 1;
        let what = "cannot write rows";
        let params: Vec<Param<'f>> = (0..plan.columns.len()).map(|c| grid.param(c)).collect();
        if shape.arbiter {
            let key = (table, Kind::Upsert, many);
            let statement = self.statement(key, &[], || statements::upsert(shape, many)).await?;
            return self.send(table, what, statement, params, false, Check::Any, size(rows)).await;
        }
        let set = statements::settable(shape, &[]);
        if !set.is_empty() {
            let statement =
                self.statement((table, Kind::Update, many), &[], || statements::update(shape, &set, many)).await?;
            let params = shape.key.iter().chain(&set).map(|&c| grid.param(c)).collect();
            self.send_freely(!shape.indexed, table, what, statement, params, false, Check::Any, size(rows)).await?;
        }
        let key = (table, Kind::InsertMissing, many);
        let statement = self.statement(key, &[], || statements::insert_missing(shape, many)).await?;
        self.send_freely(!shape.indexed, table, what, statement, params, false, Check::Any, size(rows)).await
    }

    /// Inserts many rows by COPY.
    async fn copy(&mut self, table: u32, rows: &[&'f [u8]]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        let text = || Text { sql: statements::copy_in(&shape.table, &names(shape), false), types: vec![] };
        let statement = self.statement((table, Kind::Copy, true), &[], text).await?;
        self.drain().await?;
        let failed = |e: tokio_postgres::Error| failure::of_table(&e, self.fault, plan, "cannot insert rows");
        let sink: CopyInSink<Bytes> = self.session.copy_in(&statement).await.map_err(failed)?;
        let mut sink = pin!(sink);
        let mut block = BytesMut::with_capacity(COPY_BYTES + (COPY_BYTES >> 3));
        for row in rows {
            copytext::put_line(&mut block, &mut &row[..], plan.columns.len())?;
            if block.len() >= COPY_BYTES {
                // The server's own reason comes with the answer to the end of the copy.
                if sink.send(block.split().freeze()).await.is_err() {
                    break;
                }
                block.reserve(COPY_BYTES + (COPY_BYTES >> 3));
            }
        }
        if !block.is_empty() {
            let _ = sink.send(block.freeze()).await;
        }
        let inserted = sink.finish().await.map_err(failed)?;
        self.check(plan, shape, Check::Rows(rows.len() as u64), Answer::Count(inserted)).await
    }

    async fn delete_whole(&mut self, table: u32, rows: &[(&'f [u8], u64)]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        let cells: Vec<&'f [u8]> = rows.iter().map(|r| r.0).collect();
        let counts: Vec<i64> = rows.iter().map(|r| i64::try_from(r.1).unwrap_or(i64::MAX)).collect();
        let grid = Grid::read(&cells, plan.columns.len())?;
        known(&grid, 0..plan.columns.len(), plan)?;
        let statement = self.statement((table, Kind::Whole, true), &[], || statements::delete_whole(shape)).await?;
        let mut params: Vec<Param<'f>> = (0..plan.columns.len()).map(|c| grid.array(c)).collect();
        params.push(Param::Numbers(counts.clone()));
        let check = Check::Whole { grid, counts };
        self.send_freely(true, table, "cannot delete rows", statement, params, true, check, size(&cells)).await
    }

    /// Empties tables together. A table that others reference by foreign key cannot be truncated without them; its rows are deleted.
    async fn truncate(&mut self, tables: &[u32]) -> Result<()> {
        self.drain().await?;
        let mut shapes = Vec::new();
        for &table in tables {
            shapes.push(self.table(table)?.1.clone());
        }
        let oids: Vec<u32> = shapes.iter().map(|s| s.oid).collect();
        let failed = |e: tokio_postgres::Error| classify(&e, self.fault, "cannot empty tables");
        let referenced = self
            .session
            .query_one(
                "select exists (select from pg_constraint where contype = 'f' and confrelid = any($1) \
                 and conrelid <> all($1))",
                &[&oids],
            )
            .await
            .map_err(failed)?;
        let sql = if referenced.get(0) {
            shapes.iter().map(|s| format!("delete from {}", s.only)).collect::<Vec<_>>().join("; ")
        } else {
            format!("truncate {}", shapes.iter().map(|s| s.only.clone()).collect::<Vec<_>>().join(", "))
        };
        self.session.batch_execute(&sql).await.map_err(failed)
    }
}

/// No value that a statement needs may be unknown: it would be written as null.
fn known(grid: &Grid<'_>, columns: impl IntoIterator<Item = usize>, plan: &TablePlan) -> Result<()> {
    for c in columns {
        if (0..grid.rows()).any(|r| grid.cell(r, c) == Cell::Unknown) {
            return Err(Error::internal("a change lacks a value that is needed to apply it").table(&plan.destination));
        }
    }
    Ok(())
}

fn size(rows: &[&[u8]]) -> usize {
    rows.iter().map(|r| r.len()).sum()
}

/// Cuts rows into parts that one statement takes.
fn parts<'r, 'f>(rows: &'r [&'f [u8]]) -> impl Iterator<Item = &'r [&'f [u8]]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (mut n, mut bytes) = (0, 0);
        while n < rest.len() && n < PART_ROWS && (n == 0 || bytes < PART_BYTES) {
            bytes += rest[n].len();
            n += 1;
        }
        let (part, after) = rest.split_at(n);
        rest = after;
        (n > 0).then_some(part)
    })
}
