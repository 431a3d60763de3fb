//! The source's side: low mark, pages, high mark.

use super::{Mark, digested, marks, marks_table};
use crate::database::{Broken, Database};
use crate::read::key_texts;
use crate::table::{Row, encode, known};
use bytes::Bytes;
use drover_model::chunk::Bounds;
use drover_model::error::codes;
use drover_model::handover::woven::{Attempt, High};
use drover_model::schema::TableName;
use drover_model::{Error, Fault, MigrationId, Result, Retry};

/// What a chunk asks for.
#[derive(Debug, Clone)]
pub enum What {
    /// The rows within bounds of the key.
    Within(Bounds),
    /// These keys (cells of the key), to tell of each whether there is a row: for what is owed.
    Keys(Vec<Vec<u8>>),
}

/// A table that is read without a snapshot.
#[derive(Debug, Clone)]
pub struct Woven {
    db: Database,
    migration: MigrationId,
    table: TableName,
}

impl Woven {
    /// Creates the table of marks, if it is not there.
    ///
    /// # Errors
    /// STATEMENT without such a table; UNSUPPORTED if it has no key.
    pub fn new(db: Database, migration: MigrationId, table: TableName) -> Result<Self> {
        db.create(marks_table());
        if db.lock().visible(&table)?.0.def.identifying_key().is_none() {
            let what = "a table without a key cannot be read without a snapshot";
            return Err(Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, what).table(&table));
        }
        Ok(Woven { db, migration, table })
    }

    fn mark(&self, mark: Mark) -> Result<u64> {
        let mut inner = self.db.lock();
        self.db.transact_in(&mut inner, |t| t.insert(&marks(), mark.row(self.migration, &self.table)))?;
        Ok(inner.log.len() as u64)
    }

    /// Writes the low mark of an attempt, which no other attempt at the chunk has the number of.
    ///
    /// # Errors
    /// STATEMENT if there was one of this number.
    pub fn begin(&self, of: Attempt, what: What) -> Result<Window> {
        let low = self.mark(Mark::Low(of))?;
        Ok(Window { woven: self.clone(), of, what, low, last: None, done: 0, records: 0, digest: 0 })
    }
}

/// What reading on in a chunk gave.
#[derive(Debug, Clone)]
pub enum Page {
    /// A transaction of before the low mark cannot be seen yet: nothing was read.
    Unseen,
    /// To be made durable before the high mark is written.
    Record(Bytes),
    /// There are no more rows.
    End,
}

/// An open window: an attempt at a chunk. Dropped without a high mark, it is as if it had never been.
#[derive(Debug)]
pub struct Window {
    woven: Woven,
    pub of: Attempt,
    what: What,
    /// The low mark's place in the log.
    low: u64,
    /// The key that was read last.
    last: Option<Vec<String>>,
    /// Keys that were asked for.
    done: usize,
    records: u64,
    digest: u128,
}

impl Window {
    /// Waits until the chunk sees every transaction of before its low mark.
    pub async fn sighted(&self) {
        let mut commits = self.woven.db.commits.subscribe();
        loop {
            commits.borrow_and_update();
            if self.woven.db.lock().sees_all_before(self.low) {
                return;
            }
            // The database outlives its windows, so the sender is never gone.
            let _ = commits.changed().await;
        }
    }

    /// Reads the next rows (or keys), at most so many, as they are at this moment.
    ///
    /// # Errors
    /// STATEMENT if the table is gone.
    pub fn page(&mut self, rows: usize) -> Result<Page> {
        let db = self.woven.db.clone();
        let inner = db.lock();
        if inner.broken != Some(Broken::Sight) && !inner.sees_all_before(self.low) {
            return Ok(Page::Unseen);
        }
        let (data, visible) = inner.visible(&self.woven.table)?;
        let columns: Vec<usize> = (0..data.def.columns.len()).collect();
        let names = data.def.identifying_key().map(|k| &k.columns[..]).unwrap_or_default();
        let place = |name: &String| data.def.columns.iter().position(|c| &c.name == name);
        let key: Vec<usize> = names.iter().filter_map(place).collect();
        let mut record = Vec::new();
        let mut put = |key_cells: &[u8], row: Option<&Row>| {
            record.extend_from_slice(key_cells);
            record.push(u8::from(row.is_some()));
            if let Some(row) = row {
                encode(&mut record, row, &columns);
            }
        };
        match &self.what {
            What::Within(bounds) => {
                let mut found: Vec<(Vec<String>, Row)> =
                    visible.into_iter().map(|row| (key_texts(&row, &key), row)).collect();
                found.retain(|(k, _)| within(bounds, k) && self.last.as_ref().is_none_or(|last| last < k));
                found.sort();
                found.truncate(rows);
                for (_, row) in &found {
                    let mut cells = Vec::new();
                    encode(&mut cells, row, &key);
                    put(&cells, Some(row));
                }
                if let Some((last, _)) = found.pop() {
                    self.last = Some(last);
                }
            }
            What::Keys(keys) => {
                let next: Vec<&Vec<u8>> = keys.iter().skip(self.done).take(rows).collect();
                self.done += next.len();
                for cells in next {
                    let values = known(cells)?;
                    let same = |row: &&Row| key.iter().zip(&values).all(|(&c, v)| row.get(c) == Some(v));
                    put(cells, visible.iter().find(same));
                }
            }
        }
        if record.is_empty() {
            return Ok(Page::End);
        }
        self.records += 1;
        self.digest = digested(self.digest, &record);
        Ok(Page::Record(record.into()))
    }

    /// Writes the high mark: to be called when all records are durable.
    ///
    /// # Errors
    /// STATEMENT, as of any write.
    pub fn high(self) -> Result<High> {
        let high = High { of: self.of, records: self.records, digest: self.digest };
        self.woven.mark(Mark::High(high))?;
        Ok(high)
    }
}

fn within(bounds: &Bounds, key: &Vec<String>) -> bool {
    match bounds {
        Bounds::Keys { from, to } => {
            from.as_ref().is_none_or(|from| from <= key) && to.as_ref().is_none_or(|to| key < to)
        }
        // Places mean nothing without a snapshot: rows move.
        Bounds::Whole | Bounds::Physical { .. } => true,
    }
}
