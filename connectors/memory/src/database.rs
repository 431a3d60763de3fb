//! The database itself: tables, a log of committed transactions, snapshots, and what drover keeps in a destination. A
//! transaction happens at once, under one lock, or not at all.

use crate::table::{Place, Row, TableData, Value};
use drover_model::schema::{Table, TableName};
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, error::codes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What a transaction did to one row or table, as the log has it.
#[derive(Debug, Clone)]
pub enum Logged {
    Insert { table: TableName, new: Row },
    Update { table: TableName, old: Row, new: Row },
    Delete { table: TableName, old: Row },
    Truncate { tables: Vec<TableName> },
}

/// A committed transaction; its position is its index in the log plus one.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub changes: Vec<Logged>,
}

pub(crate) type Tables = BTreeMap<TableName, Arc<TableData>>;

#[derive(Debug)]
pub(crate) struct SnapshotData {
    pub tables: Tables,
    pub at: u64,
    /// Tokens of those who hold it.
    pub holders: BTreeSet<String>,
    /// Becomes true when it is lost.
    pub lost: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
pub(crate) struct StreamState {
    /// Raised by everyone who opens it; former holders are fenced.
    pub holder: u64,
    /// The log up to here may be forgotten.
    pub confirmed: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct ProgressRow {
    pub name: String,
    pub epoch: u64,
    pub position: Option<Position>,
    /// (table, generation, chunk) of the chunks that are loaded.
    pub chunks: BTreeSet<(u32, u32, u32)>,
    pub generations: HashMap<u32, u32>,
}

/// What goes wrong on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// The commit happens, its answer is lost.
    AnswerLost,
    /// The commit does not happen, and its answer is lost.
    RequestLost,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub tables: Tables,
    pub log: Vec<Commit>,
    pub lineage: u32,
    pub snapshots: HashMap<u64, SnapshotData>,
    pub tokens: u64,
    pub streams: HashMap<MigrationId, StreamState>,
    pub progress: HashMap<MigrationId, ProgressRow>,
    pub sequences: BTreeMap<(String, String), (i64, bool)>,
    pub commit_faults: Vec<CommitFault>,
    /// Raised by every write, so that a destination's transaction sees whether others came between.
    pub version: u64,
}

/// A database in memory. Cheap to clone; all clones are the same database.
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Mutex<Inner>>,
    /// The number of commits, for those who wait.
    pub(crate) commits: Arc<watch::Sender<u64>>,
}

impl Default for Database {
    fn default() -> Self {
        let inner = Inner {
            tables: BTreeMap::new(),
            log: Vec::new(),
            lineage: 1,
            snapshots: HashMap::new(),
            tokens: 0,
            streams: HashMap::new(),
            progress: HashMap::new(),
            sequences: BTreeMap::new(),
            commit_faults: Vec::new(),
            version: 0,
        };
        Database { inner: Arc::new(Mutex::new(inner)), commits: Arc::new(watch::Sender::new(0)) }
    }
}

/// A transaction under way; see [`Database::transact`].
pub struct Transaction {
    tables: Tables,
    changes: Vec<Logged>,
}

pub(crate) fn no_table(name: &TableName) -> Error {
    Error::new(codes::STATEMENT, Fault::Source, Retry::Never, "there is no such table").table(name)
}

/// A table of a map, to be changed. Copies it if a snapshot shares it.
pub(crate) fn edit<'a>(tables: &'a mut Tables, name: &TableName) -> Result<&'a mut TableData> {
    tables.get_mut(name).map(Arc::make_mut).ok_or_else(|| no_table(name))
}

impl Transaction {
    fn one(&self, name: &TableName, key: &[Value]) -> Result<Place> {
        let data = self.tables.get(name).ok_or_else(|| no_table(name))?;
        let column = |c: &String| data.def.columns.iter().position(|d| &d.name == c);
        let columns: Vec<usize> = match data.def.identifying_key() {
            Some(k) => k.columns.iter().filter_map(column).collect(),
            None => (0..data.def.columns.len()).collect(),
        };
        let missing = || Error::new(codes::ROW_COUNT, Fault::User, Retry::Never, "there is no such row").table(name);
        data.find(&columns, key).first().copied().ok_or_else(missing)
    }

    /// Inserts a row, in the order of the table's columns.
    pub fn insert(&mut self, table: &TableName, row: Row) -> Result<()> {
        edit(&mut self.tables, table)?.insert(row.clone())?;
        self.changes.push(Logged::Insert { table: table.clone(), new: row });
        Ok(())
    }

    /// Sets columns of the row with this key (the whole row, in tables without a key).
    pub fn update(&mut self, table: &TableName, key: &[Value], set: &[(&str, Value)]) -> Result<()> {
        let place = self.one(table, key)?;
        let data = edit(&mut self.tables, table)?;
        let mut row = data.rows.get(&place).cloned().unwrap_or_default();
        for (name, value) in set {
            let column = data.def.columns.iter().position(|c| c.name == *name);
            let cell = column.and_then(|c| row.get_mut(c));
            cell.ok_or_else(|| no_table(table).column(name))?.clone_from(value);
        }
        let old = data.update(place, row.clone())?;
        self.changes.push(Logged::Update { table: table.clone(), old, new: row });
        Ok(())
    }

    /// Deletes the row with this key.
    pub fn delete(&mut self, table: &TableName, key: &[Value]) -> Result<()> {
        let place = self.one(table, key)?;
        if let Some(old) = edit(&mut self.tables, table)?.delete(place) {
            self.changes.push(Logged::Delete { table: table.clone(), old });
        }
        Ok(())
    }

    /// Empties tables together.
    pub fn truncate(&mut self, tables: &[TableName]) -> Result<()> {
        for table in tables {
            edit(&mut self.tables, table)?.clear();
        }
        self.changes.push(Logged::Truncate { tables: tables.to_vec() });
        Ok(())
    }
}

impl Database {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a table, empty. An existing one is kept.
    pub fn create(&self, def: Table) {
        let mut inner = self.lock();
        inner.version += 1;
        inner.tables.entry(def.name.clone()).or_insert_with(|| Arc::new(TableData::new(def)));
    }

    /// Drops a table.
    pub fn drop_table(&self, name: &TableName) {
        let mut inner = self.lock();
        inner.version += 1;
        inner.tables.remove(name);
    }

    /// Runs a transaction. An `Err` rolls all of it back, and nothing of it is in the log.
    pub fn transact<T>(&self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<T> {
        let mut inner = self.lock();
        let mut transaction = Transaction { tables: inner.tables.clone(), changes: Vec::new() };
        let out = work(&mut transaction)?;
        inner.tables = transaction.tables;
        inner.version += 1;
        self.commit(&mut inner, transaction.changes);
        Ok(out)
    }

    pub(crate) fn commit(&self, inner: &mut Inner, changes: Vec<Logged>) -> u64 {
        inner.log.push(Commit { changes });
        let at = inner.log.len() as u64;
        self.commits.send_replace(at);
        at
    }

    /// All rows of a table, in order of place.
    pub fn rows(&self, name: &TableName) -> Result<Vec<Row>> {
        let inner = self.lock();
        Ok(inner.tables.get(name).ok_or_else(|| no_table(name))?.rows.values().cloned().collect())
    }

    /// The position of the last commit.
    pub fn position(&self) -> Position {
        let inner = self.lock();
        position(inner.lineage, inner.log.len() as u64)
    }

    /// Ends every snapshot, as a restart of the server does.
    pub fn lose_snapshots(&self) {
        for (_, snapshot) in self.lock().snapshots.drain() {
            snapshot.lost.send_replace(true);
        }
    }

    /// Rewrites a table as some ALTER TABLE do: its physical identity changes, older snapshots show no row of it, and the log says
    /// nothing.
    pub fn rewrite(&self, name: &TableName) -> Result<()> {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        edit(&mut inner.tables, name)?.def.physical = format!("rewritten {version}");
        for snapshot in inner.snapshots.values_mut() {
            if let Ok(table) = edit(&mut snapshot.tables, name) {
                table.clear();
            }
        }
        Ok(())
    }

    /// The next commits of apply sessions go wrong in these ways, one each.
    pub fn fail_commits(&self, faults: impl IntoIterator<Item = CommitFault>) {
        self.lock().commit_faults.extend(faults);
    }

    /// Another server takes this one's place: streams of before do not go on here.
    pub fn replace_server(&self) {
        self.lock().lineage += 1;
    }

    /// Whether anything of drover is left here: streams, held snapshots, progress, marks.
    pub fn leftovers(&self) -> Vec<String> {
        let inner = self.lock();
        let streams = inner.streams.keys().map(|m| format!("stream of {m}"));
        let snapshots = inner.snapshots.keys().map(|s| format!("snapshot {s}"));
        let progress = inner.progress.keys().map(|m| format!("progress of {m}"));
        streams.chain(snapshots).chain(progress).collect()
    }
}

pub(crate) fn position(lineage: u32, at: u64) -> Position {
    Position { lineage, order: at.to_be_bytes().to_vec(), resume: Vec::new(), text: at.to_string() }
}

/// The place in the log that a position names.
pub(crate) fn place(position: &Position) -> Result<u64> {
    let bytes: [u8; 8] = position.order.as_slice().try_into().map_err(|_| {
        Error::new(
            codes::POSITION_LOST,
            Fault::Source,
            Retry::Never,
            format!("{position} is no position of this source"),
        )
    })?;
    Ok(u64::from_be_bytes(bytes))
}
