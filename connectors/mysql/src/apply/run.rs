//! One `execute`: steps become statements, many statements go to the server in one packet, answers are checked in order.
//!
//! Before the first set-wise statement of a packet stands a savepoint. If one of them found fewer rows than it should, all is taken back to
//! there, and the server is asked which keys are missing.

use super::prepared::{self, Prepared};
use super::statements::{self, Given};
use super::{key_text, row_count};
use crate::connect::Session;
use crate::errors::classify;
use crate::load::{insert_head, load_data, packets, put_line, put_values};
use crate::shape::{Shape, show};
use crate::warnings::{self, Warning};
use bytes::Bytes;
use drover_connectors_api::Step;
use drover_model::error::codes;
use drover_model::plan::Plans;
use drover_model::row::{Cell, cells};
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use futures::StreamExt;
use mysql_async::prelude::Queryable;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of a set-wise statement, at most, and their bytes.
const PART_ROWS: usize = prepared::ROWS;
const PART_BYTES: usize = 512 << 10;
/// The same of an INSERT.
const INSERT_ROWS: usize = 1000;
const INSERT_BYTES: usize = 1 << 20;
/// From so many rows on an insert travels by LOAD DATA, which costs a round trip more and less a row.
const LOAD_ROWS: usize = 200;
/// Bytes and statements of a packet, about.
const PACKET_BYTES: usize = 1 << 20;
const PACKET_STATEMENTS: usize = 500;
/// Size of a piece of LOAD DATA.
const PIECE: usize = 256 << 10;
/// Keys named in an error.
const NAMED: usize = 20;

/// What the server's answer to a statement must be.
enum Check<'f> {
    Any,
    /// One row for each of these keys; `whole`: they stand in whole rows.
    Each {
        rows: Vec<&'f [u8]>,
        whole: bool,
    },
    /// The same, as a number that was asked for.
    Counted {
        rows: Vec<&'f [u8]>,
    },
    /// So many rows inserted.
    Rows(u64),
    /// So many rows equal to this one.
    Whole {
        row: &'f [u8],
        count: u64,
    },
    /// The warnings of the statement before.
    Warnings,
}

struct Sent<'f> {
    table: Option<u32>,
    what: &'static str,
    check: Check<'f>,
}

/// What a session can do, and what it is known by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Able {
    pub infile: bool,
    pub max_packet: usize,
}

/// A run over some steps.
pub(super) struct Run<'r, 'f> {
    session: &'r mut Session,
    plans: &'r Plans,
    shapes: &'r HashMap<u32, Arc<Shape>>,
    able: Able,
    prepared: &'r mut Prepared,
    packet: Vec<u8>,
    sent: Vec<Sent<'f>>,
    /// The packet has its savepoint.
    marked: bool,
}

impl<'r, 'f> Run<'r, 'f> {
    pub(super) fn new(
        session: &'r mut Session,
        plans: &'r Plans,
        shapes: &'r HashMap<u32, Arc<Shape>>,
        able: Able,
        prepared: &'r mut Prepared,
    ) -> Self {
        Run { session, plans, shapes, able, prepared, packet: Vec::new(), sent: Vec::new(), marked: false }
    }

    fn fault(&self) -> Fault {
        self.session.fault
    }

    fn table(&self, table: u32) -> Result<(&'r TablePlan, &'r Arc<Shape>)> {
        let both = self.plans.get(&table).zip(self.shapes.get(&table));
        both.ok_or_else(|| Error::internal(format!("a change of unknown table {table}")))
    }

    /// Bytes of cells that fit into a statement, escapes and all.
    fn bytes(&self, most: usize) -> usize {
        most.min(self.able.max_packet / 4)
    }

    /// Adds a statement without an answer.
    pub(super) fn simple(&mut self, sql: &str) {
        self.separate();
        self.packet.extend_from_slice(sql.as_bytes());
        self.sent.push(Sent { table: None, what: "cannot apply changes", check: Check::Any });
    }

    fn separate(&mut self) {
        if !self.packet.is_empty() {
            self.packet.push(b';');
        }
    }

    /// Adds a statement that `build` appends to the packet.
    async fn add(
        &mut self,
        table: u32,
        what: &'static str,
        check: Check<'f>,
        build: impl FnOnce(&mut Vec<u8>, &Shape) -> Result<()> + Send,
    ) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        let set_wise = matches!(&check, Check::Each { rows, .. } | Check::Counted { rows } if rows.len() > 1);
        if set_wise && !std::mem::replace(&mut self.marked, true) {
            self.simple("SAVEPOINT drover");
        }
        let before = self.packet.len();
        self.separate();
        build(&mut self.packet, shape).map_err(|e| e.table(&plan.destination))?;
        let size = self.packet.len() - before;
        if size >= self.able.max_packet - 1024 {
            return Err(too_large(size, self.fault()).table(&plan.destination));
        }
        if before > 0 && self.packet.len() >= self.able.max_packet - 1024 {
            // Too much with what is there already: that goes first, with its savepoint.
            let statement = self.packet.split_off(before);
            self.send().await?;
            self.marked = set_wise;
            self.packet.extend_from_slice(statement.strip_prefix(b";").unwrap_or(&statement));
        }
        self.sent.push(Sent { table: Some(table), what, check });
        if shape.noisy {
            self.packet.extend_from_slice(b";SHOW WARNINGS");
            self.sent.push(Sent { table: Some(table), what, check: Check::Warnings });
        }
        if self.packet.len() >= PACKET_BYTES || self.sent.len() >= PACKET_STATEMENTS {
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what has been gathered and checks every answer.
    pub(super) async fn send(&mut self) -> Result<()> {
        if self.sent.is_empty() {
            return Ok(());
        }
        self.marked = false;
        let packet = std::mem::take(&mut self.packet);
        let sent = std::mem::take(&mut self.sent);
        let mut failed = None;
        let fault = self.fault();
        let plans = self.plans;
        let classified = |e: &mysql_async::Error, n: usize| {
            let sent = &sent[n.min(sent.len() - 1)];
            let error = classify(e, fault, sent.what);
            match sent.table.and_then(|t| plans.get(&t)) {
                Some(plan) => error.table(&plan.destination),
                None => error,
            }
        };
        let mut answers = match self.session.query_iter(packet).await {
            Ok(answers) => answers,
            Err(e) => return Err(classified(&e, 0)),
        };
        for (n, sent) in sent.iter().enumerate() {
            let (affected, warned) = (answers.affected_rows(), answers.warnings());
            let rows: Vec<mysql_async::Row> = match answers.collect().await {
                Ok(rows) => rows,
                Err(e) => return Err(classified(&e, n)),
            };
            if failed.is_some() {
                continue;
            }
            let Some((plan, shape)) = sent.table.and_then(|t| plans.get(&t).zip(self.shapes.get(&t))) else { continue };
            failed = wrong(&sent.check, affected, &rows, plan, shape, fault).map(|error| (n, error));
            if failed.is_none() && warned > 0 && !shape.noisy {
                failed = Some((n, warned_about(warned, plan, fault)));
            }
        }
        drop(answers);
        match failed {
            None => Ok(()),
            Some((n, error)) => Err(self.explain(&sent[n], error).await),
        }
    }

    /// Names the keys that a set-wise statement did not find.
    async fn explain(&mut self, sent: &Sent<'f>, error: Error) -> Error {
        let (rows, whole) = match &sent.check {
            Check::Each { rows, whole } => (rows, *whole),
            Check::Counted { rows } => (rows, true),
            _ => return error,
        };
        let Some((plan, shape)) = sent.table.and_then(|t| self.table(t).ok()) else { return error };
        let given = if whole { Given::rows(shape, rows, &[]) } else { Given::keys(shape, rows) };
        let key_of = |row: &[u8]| {
            let all: Vec<Cell<'_>> = cells(row).collect();
            let cells = shape.key.iter().enumerate().map(|(i, &k)| if whole { all.get(k) } else { all.get(i) });
            key_text(plan, cells.map(|c| show(c.copied().unwrap_or(Cell::Null))))
        };
        if let [row] = rows[..] {
            return error.key(key_of(row));
        }
        let mut sql = b"ROLLBACK TO SAVEPOINT drover;".to_vec();
        if statements::missing(&mut sql, &given, NAMED).is_err() {
            return error;
        }
        let found: Result<Vec<mysql_async::Row>, mysql_async::Error> = async {
            let mut answers = self.session.query_iter(sql).await?;
            let _: Vec<mysql_async::Row> = answers.collect().await?;
            answers.collect().await
        }
        .await;
        match found {
            Ok(found) => named(error, found.iter().map(|r| key_text(plan, texts(r).into_iter())).collect()),
            // What counts is the count.
            Err(_) => error,
        }
    }

    pub(super) async fn step(&mut self, step: &Step<'f>) -> Result<()> {
        match step {
            Step::Delete { table, keys, tolerant } => {
                for part in parts(keys, PART_ROWS, self.bytes(PART_BYTES)) {
                    let check = if *tolerant { Check::Any } else { Check::Each { rows: part.to_vec(), whole: false } };
                    self.add(*table, "cannot delete rows", check, |out, shape| {
                        statements::delete(out, &Given::keys(shape, part))
                    })
                    .await?;
                }
            }
            Step::Update { table, rows, unknown, tolerant } => {
                for part in parts(rows, PART_ROWS, self.bytes(PART_BYTES)) {
                    self.update(*table, part, unknown, *tolerant).await?;
                }
            }
            Step::Move { table, old, new } => self.change_key(*table, old, new).await?,
            Step::Insert { table, rows, tolerant: true } => {
                for part in parts(rows, PART_ROWS, self.bytes(PART_BYTES)) {
                    self.upsert(*table, part).await?;
                }
            }
            // What a statement could not hold goes in by LOAD DATA as well.
            Step::Insert { table, rows, .. }
                if self.able.infile
                    && (rows.len() >= LOAD_ROWS || rows.iter().any(|r| r.len() > self.able.max_packet / 4)) =>
            {
                self.load(*table, rows).await?;
            }
            Step::Insert { table, rows, .. } => {
                for part in parts(rows, INSERT_ROWS, self.bytes(INSERT_BYTES)) {
                    let check = Check::Rows(part.len() as u64);
                    self.add(*table, "cannot insert rows", check, |out, shape| {
                        out.extend_from_slice(insert_head(shape).as_bytes());
                        for (n, row) in part.iter().enumerate() {
                            if n > 0 {
                                out.push(b',');
                            }
                            put_values(out, shape, &mut &row[..])?;
                        }
                        Ok(())
                    })
                    .await?;
                }
            }
            Step::DeleteWhole { table, rows } => {
                for &(row, count) in rows {
                    let check = Check::Whole { row, count };
                    self.add(*table, "cannot delete rows", check, |out, shape| {
                        statements::delete_whole(out, shape, row, count)
                    })
                    .await?;
                }
            }
            Step::Truncate { tables } => {
                // TRUNCATE would commit by itself.
                for &table in tables {
                    self.add(table, "cannot empty a table", Check::Any, |out, shape| {
                        out.extend_from_slice(format!("DELETE FROM {}", shape.table).as_bytes());
                        Ok(())
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }

    async fn update(&mut self, table: u32, rows: &[&'f [u8]], unknown: &[u16], tolerant: bool) -> Result<()> {
        if tolerant && unknown.is_empty() {
            return self.upsert(table, rows).await;
        }
        let (_, shape) = self.table(table)?;
        let set = settable(shape, unknown);
        let what = "cannot update rows";
        if set.is_empty() {
            let check = if tolerant { Check::Any } else { Check::Counted { rows: rows.to_vec() } };
            return self
                .add(table, what, check, |out, shape| statements::count(out, &Given::rows(shape, rows, &[])))
                .await;
        }
        if !tolerant && self.prepared(table, what, rows, &set).await? {
            return Ok(());
        }
        let check = if tolerant { Check::Any } else { Check::Each { rows: rows.to_vec(), whole: true } };
        self.add(table, what, check, |out, shape| statements::update(out, &Given::rows(shape, rows, &set), &set)).await
    }

    /// Updates rows by a prepared statement; says whether that can be done.
    async fn prepared(&mut self, table: u32, what: &'static str, rows: &[&'f [u8]], set: &[usize]) -> Result<bool> {
        let (plan, shape) = self.table(table)?;
        let Some(update) = prepared::update(self.session, shape, rows, set).map_err(|e| e.table(&plan.destination))?
        else {
            return Ok(false);
        };
        let fault = self.fault();
        let failed = |e: mysql_async::Error| classify(&e, fault, what).table(&plan.destination);
        let Some(statement) = self.prepared.get(self.session, &update).await.map_err(failed)? else {
            return Ok(false);
        };
        // What was gathered comes before it.
        self.simple("SAVEPOINT drover");
        self.send().await?;
        self.session.exec_drop(statement, update.values).await.map_err(failed)?;
        let (affected, warned) = (self.session.affected_rows(), self.session.get_warnings());
        let check = Check::Each { rows: rows.to_vec(), whole: true };
        if let Some(error) = wrong(&check, affected, &[], plan, shape, fault) {
            return Err(self.explain(&Sent { table: Some(table), what, check }, error).await);
        }
        if warned > 0 { Err(warned_about(warned, plan, fault)) } else { Ok(true) }
    }

    /// Inserts rows, overwriting those of the same identity; no other unique key decides. The key is written as well: it may be equal and have
    /// other bytes.
    async fn upsert(&mut self, table: u32, rows: &[&'f [u8]]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        if plan.key.is_empty() {
            return Err(Error::internal("a table without a key cannot be applied tolerantly").table(&plan.destination));
        }
        let all: Vec<usize> = (0..shape.columns.len()).collect();
        let what = "cannot write rows";
        self.add(table, what, Check::Any, |out, shape| statements::update(out, &Given::rows(shape, rows, &all), &all))
            .await?;
        self.add(table, what, Check::Any, |out, shape| statements::insert_missing(out, &Given::rows(shape, rows, &all)))
            .await
    }

    async fn change_key(&mut self, table: u32, old: &'f [u8], new: &'f [u8]) -> Result<()> {
        let known: Vec<usize> =
            cells(new).enumerate().filter(|(_, cell)| *cell != Cell::Unknown).map(|(i, _)| i).collect();
        let check = Check::Each { rows: vec![old], whole: false };
        self.add(table, "cannot move a row", check, |out, shape| {
            statements::change_key(out, &Given::keys(shape, &[old]), new, &known)
        })
        .await
    }

    /// Inserts many rows by LOAD DATA.
    async fn load(&mut self, table: u32, rows: &[&'f [u8]]) -> Result<()> {
        let (plan, shape) = self.table(table)?;
        self.send().await?;
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut piece = Vec::with_capacity(PIECE + (PIECE >> 3));
        for row in rows {
            put_line(&mut piece, shape, &mut &row[..]).map_err(|e| e.table(&plan.destination))?;
            if piece.len() >= PIECE {
                pieces.push(std::mem::replace(&mut piece, Vec::with_capacity(PIECE + (PIECE >> 3))).into());
            }
        }
        pieces.push(piece.into());
        let most = PIECE.min(self.able.max_packet / 2);
        let sent = pieces.into_iter().flat_map(move |piece| packets(piece, most)).map(Ok);
        self.session.set_infile_handler(async move { Ok(futures::stream::iter(sent).boxed()) });
        let loaded = self.session.query_drop(load_data(shape)).await;
        let fault = self.fault();
        loaded.map_err(|e| classify(&e, fault, "cannot insert rows").table(&plan.destination))?;
        let inserted = self.session.affected_rows();
        if self.session.get_warnings() > 0 {
            warnings::refuse(self.session, shape).await?;
        }
        match wrong(&Check::Rows(rows.len() as u64), inserted, &[], plan, shape, fault) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// The error of an answer that is not what it must be.
fn wrong(
    check: &Check<'_>,
    affected: u64,
    answer: &[mysql_async::Row],
    plan: &TablePlan,
    shape: &Shape,
    fault: Fault,
) -> Option<Error> {
    let number = |row: &mysql_async::Row| row.get_opt::<u64, _>(0).and_then(Result::ok);
    match check {
        Check::Any => None,
        Check::Each { rows, .. } if affected == rows.len() as u64 => None,
        Check::Each { rows, .. } => {
            Some(row_count(fault, plan, format!("{affected} of {} rows to change were found", rows.len())))
        }
        Check::Counted { rows } => {
            let found = answer.first().and_then(number).unwrap_or(0);
            (found != rows.len() as u64)
                .then(|| row_count(fault, plan, format!("{found} of {} rows to change were found", rows.len())))
        }
        Check::Rows(rows) => {
            (affected != *rows).then(|| row_count(fault, plan, format!("{affected} of {rows} rows were inserted")))
        }
        Check::Whole { row, count } => (affected != *count).then(|| {
            let values: Vec<String> =
                plan.columns.iter().zip(cells(row)).map(|(c, v)| format!("{}={}", c.destination, show(v))).collect();
            row_count(fault, plan, format!("{affected} of {count} equal rows to delete were found"))
                .key(values.join(", "))
        }),
        Check::Warnings => {
            let warnings: Vec<Warning> =
                answer.iter().filter_map(|r| mysql_async::from_row_opt(r.clone()).ok()).collect();
            warnings::error(&warnings, fault, shape)
        }
    }
}

/// The error of a statement that the server would not take.
pub(crate) fn too_large(size: usize, fault: Fault) -> Error {
    let what = format!("a statement of {size} bytes is more than the destination takes at once");
    Error::new(codes::LOSS, fault, Retry::Other, what).remedy("raise max_allowed_packet at the destination")
}

/// A statement changed a value on its way in: its text has been thrown away by the statements behind it.
fn warned_about(warned: u16, plan: &TablePlan, fault: Fault) -> Error {
    let what = format!("the destination would not keep values as they are ({warned} warnings)");
    Error::new(codes::LOSS, fault, Retry::Other, what).table(&plan.destination).remedy(
        "give the destination's columns types and character sets that hold the source's values, or leave columns out",
    )
}

/// The error about the first of these keys, the others in its text.
fn named(mut error: Error, keys: Vec<String>) -> Error {
    if keys.len() > 1 {
        error.message.push_str(&format!("; keys not found: {}", keys.join("; ")));
    }
    match keys.into_iter().next() {
        Some(first) => error.key(first),
        None => error,
    }
}

/// Columns that an update may set: not of the key, not unknown.
fn settable(shape: &Shape, unknown: &[u16]) -> Vec<usize> {
    (0..shape.columns.len()).filter(|c| !shape.key.contains(c) && !unknown.contains(&(*c as u16))).collect()
}

/// The texts of a row of the server.
pub(super) fn texts(row: &mysql_async::Row) -> Vec<String> {
    (0..row.len())
        .map(|i| match row.get_opt::<Option<Vec<u8>>, _>(i) {
            Some(Ok(Some(bytes))) => show(Cell::Value(&bytes)),
            _ => "null".to_owned(),
        })
        .collect()
}

/// Cuts rows into parts that one statement takes.
fn parts<'p, 'f>(rows: &'p [&'f [u8]], most: usize, most_bytes: usize) -> impl Iterator<Item = &'p [&'f [u8]]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (mut n, mut bytes) = (0, 0);
        while n < rest.len() && n < most && (n == 0 || bytes < most_bytes) {
            bytes += rest[n].len();
            n += 1;
        }
        let (part, after) = rest.split_at(n);
        rest = after;
        (n > 0).then_some(part)
    })
}
