//! The memory database read without a snapshot, by woven windows: what [`drover_model::handover::woven`] asks of a source and of a
//! reader of its log, done with a real log, a real change stream and a real destination.
//!
//! Guarantee: once a [`Weaver`] is settled, the destination's table equals the source's at the applied position, after every single
//! transaction; before that, nothing that a window has seen is lost by whoever dies.
//!
//! - [`Woven`] is the source's side. It writes the low mark through the database's own log (a row of [`marks`], the one helper
//!   object), makes sure that the chunk sees every transaction committed before the mark, reads the chunk from the rows of now in
//!   pages, each at another moment, and writes the high mark, which names attempt, records and digest.
//! - [`Blocks`] are the chunks' records, durable before their high mark is written.
//! - [`Weaver`] is the reader: it takes the batches of the change stream, in which marks are inserts into a table like any other, feeds
//!   [`Weave`](drover_model::handover::woven::Weave) and applies its steps, one source transaction at a time, in one commit with
//!   position, marks of chunks, and from where on to begin anew.
//!
//! **How the source knows what a chunk sees.** A commit may be in the log before readers see it ([`Database::transact_unseen`]). The
//! database tells which ones: no page is read while one of before the low mark is among them. Other engines will have to compare what is
//! in progress or visible with the log in their own ways.
//!
//! A coordinator's part is left to the caller: which chunks there are, a new attempt where one died or was discarded, and chunks of
//! single keys for rows that are owed.

mod reader;
mod source;

pub use reader::{Standing, Taken, Weaver};
pub use source::{Page, What, Window, Woven};

use crate::table::{Row, Value};
use bytes::Bytes;
use drover_model::digest::row_hash;
use drover_model::handover::woven::{Attempt, High};
use drover_model::plan::{PlanColumn, TablePlan};
use drover_model::schema::{Column, DataType, OldImage, Table, TableName, UniqueKey};
use drover_model::{Error, MigrationId, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The table of marks at a source.
pub fn marks() -> TableName {
    TableName::new("drover", "drover_mark")
}

const COLUMNS: [&str; 7] = ["migration", "table", "chunk", "attempt", "kind", "records", "digest"];
const KEY: usize = 5;

fn text() -> DataType {
    DataType::Text { max: None, padded: false }
}

/// The plan by which a stream carries the marks, as table `id`.
pub fn marks_plan(id: u32) -> TablePlan {
    let columns = COLUMNS.map(|c| PlanColumn::new(c, text(), "text")).to_vec();
    TablePlan { key: (0..KEY as u16).collect(), ..TablePlan::new(id, marks(), columns) }
}

fn marks_table() -> Table {
    let key = COLUMNS.iter().take(KEY).map(|c| (*c).to_owned()).collect();
    Table {
        keys: vec![UniqueKey { name: "drover_mark_pk".into(), primary: true, columns: key, identifies: true }],
        ..Table::new(marks(), COLUMNS.map(|c| Column::new(c, text(), "text")).to_vec(), OldImage::Key)
    }
}

/// A mark in the source's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Low(Attempt),
    High(High),
}

impl Mark {
    fn row(self, migration: MigrationId, table: &TableName) -> Row {
        let (of, kind, records, digest) = match self {
            Mark::Low(of) => (of, "low", 0, 0),
            Mark::High(high) => (high.of, "high", high.records, high.digest),
        };
        let (chunk, attempt) = (of.chunk.to_string(), of.attempt.to_string());
        let cells = [
            migration.to_string(),
            table.to_string(),
            chunk,
            attempt,
            kind.into(),
            records.to_string(),
            digest.to_string(),
        ];
        cells.map(|cell| Some(cell.into_bytes())).to_vec()
    }

    /// `None`: a mark of another migration or table.
    fn of(row: &[Value], migration: MigrationId, table: &TableName) -> Result<Option<Mark>> {
        let texts: Option<Vec<&str>> = row.iter().map(|v| std::str::from_utf8(v.as_deref()?).ok()).collect();
        let damaged = || Error::internal("a row of the table of marks is none of ours");
        let texts = texts.ok_or_else(damaged)?;
        let [id, name, chunk, attempt, kind, records, digest] = texts[..] else { return Err(damaged()) };
        if id != migration.to_string() || name != table.to_string() {
            return Ok(None);
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| damaged());
        let chunk = u32::try_from(number(chunk)?).map_err(|_| damaged())?;
        let of = Attempt { chunk, attempt: number(attempt)? };
        match kind {
            "low" => Ok(Some(Mark::Low(of))),
            "high" => {
                let digest = digest.parse().map_err(|_| damaged())?;
                Ok(Some(Mark::High(High { of, records: number(records)?, digest })))
            }
            _ => Err(damaged()),
        }
    }
}

/// The digest over records, one after the other; 0 before the first.
fn digested(so_far: u128, record: &[u8]) -> u128 {
    row_hash(&[&so_far.to_le_bytes(), record].concat())
}

/// Records of chunks, by attempt, in order. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    records: Arc<Mutex<BTreeMap<Attempt, Vec<Bytes>>>>,
}

impl Blocks {
    /// Appends a record; it is durable when this comes back.
    pub fn append(&self, of: Attempt, record: Bytes) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).entry(of).or_default().push(record);
    }

    /// The records of an attempt.
    pub fn of(&self, of: Attempt) -> Vec<Bytes> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(&of).cloned().unwrap_or_default()
    }
}
