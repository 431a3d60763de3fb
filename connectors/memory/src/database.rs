//! The database itself: tables, a log of committed transactions, snapshots, and what drover keeps in a destination. A
//! transaction happens at once, under one lock, or not at all.

use crate::table::{Place, Row, TableData, Value};
use crate::visible::Unseen;
use drover_model::schema::{Effect, Table, TableName};
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, error::codes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// What a transaction did to one row or table, as the log has it.
#[derive(Debug, Clone)]
pub enum Logged {
    Insert {
        table: TableName,
        new: Row,
    },
    Update {
        table: TableName,
        old: Row,
        new: Row,
    },
    Delete {
        table: TableName,
        old: Row,
    },
    Truncate {
        tables: Vec<TableName>,
    },
    /// A column was added behind the others; alone in its transaction.
    AddColumn {
        before: Arc<Table>,
        after: Arc<Table>,
    },
}

/// What drover wrote with a transaction at a destination, beside rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A batch was applied by a session of this epoch while the destination's epoch was `current`.
    Applied { epoch: u64, current: u64, previous: Position, next: Position },
    /// A chunk was loaded.
    Loaded { table: u32, generation: u32, chunk: u32 },
    /// A table was begun again.
    Restarted { table: u32, generation: u32 },
}

/// A committed transaction; its position is its index in the log plus one.
#[derive(Debug, Clone)]
pub struct Commit {
    pub changes: Vec<Logged>,
    /// Of these changes the ones that the log does not show: effects of foreign keys that are not logged.
    pub unlogged: BTreeSet<usize>,
    /// When it was committed: microseconds since the Unix epoch.
    pub micros: i64,
    /// What drover wrote with it, and for which migration.
    pub note: Option<(MigrationId, Note)>,
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
    /// Under which it was made.
    pub epoch: u64,
    /// The log up to here may be forgotten.
    pub confirmed: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct ProgressRow {
    pub name: String,
    pub epoch: u64,
    pub position: Option<Position>,
    /// Where it stood before the last commit.
    pub before: Option<Position>,
    /// (table, generation, chunk) of the chunks that are loaded.
    pub chunks: BTreeSet<(u32, u32, u32)>,
    pub generations: HashMap<u32, u32>,
    /// Where a woven table stands.
    pub woven: Option<crate::woven::Standing>,
}

/// A state that a crash may leave behind.
#[derive(Debug)]
pub(crate) struct Saved {
    tables: Tables,
    progress: HashMap<MigrationId, ProgressRow>,
    log: usize,
}

/// Promises that are broken on demand, to see that a checker sees it: those of a destination, but for the first of the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Commits of an older epoch are taken, wherever they go on from.
    Epoch,
    /// Who takes over is told where the progress stood one commit before, and no commit is refused for going on from there.
    Order,
    /// The mark of a chunk is not looked at: what comes twice is loaded twice.
    Marks,
    /// A commit that did not happen is told as if it had.
    Outcome,
    /// Rows and progress are committed apart from each other: a reader sees half a batch.
    Halves,
    /// A source's woven chunk is read without waiting until what is in the log before its low mark can be seen.
    Sight,
    /// Who goes on with a woven table begins where it is applied, not at the oldest open low mark.
    Resume,
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
    /// Raised by every crash: sessions of before are gone.
    pub server: u64,
    pub foreign_keys: Vec<ForeignKey>,
    /// States since the last one that is durable, that one first; kept once a crash is possible.
    saved: Option<Vec<Saved>>,
    pub broken: Option<Broken>,
    /// Transactions that are in the log and that no reader sees yet.
    pub unseen: Vec<Unseen>,
}

impl Inner {
    /// Keeps what is there now as a state that a crash may leave.
    fn save(&mut self) {
        if let Some(saved) = &mut self.saved {
            saved.push(Saved { tables: self.tables.clone(), progress: self.progress.clone(), log: self.log.len() });
        }
    }

    /// Nothing up to now can be lost any more.
    pub fn make_durable(&mut self) {
        if let Some(saved) = &mut self.saved {
            saved.clear();
            self.save();
        }
    }
}

/// A foreign key.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    pub child: TableName,
    pub columns: Vec<String>,
    pub parent: TableName,
    pub references: Vec<String>,
    /// When the parent's row goes or changes.
    pub effect: Effect,
    /// Its effects on rows are logged, each row for itself; else they are in no log, as InnoDB's.
    pub logged: bool,
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
            server: 0,
            foreign_keys: Vec::new(),
            saved: None,
            broken: None,
            unseen: Vec::new(),
        };
        Database { inner: Arc::new(Mutex::new(inner)), commits: Arc::new(watch::Sender::new(0)) }
    }
}

/// A transaction under way; see [`Database::transact`].
pub struct Transaction {
    tables: Tables,
    changes: Vec<Logged>,
    unlogged: BTreeSet<usize>,
    /// What happens now is the effect of a foreign key that is not logged.
    silent: bool,
    foreign_keys: Vec<ForeignKey>,
}

/// A place in a transaction to which it can go back.
pub struct Savepoint {
    tables: Tables,
    changes: usize,
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

    /// All rows of a table as the transaction sees them, in order of place.
    pub fn rows(&self, name: &TableName) -> Result<Vec<Row>> {
        Ok(self.tables.get(name).ok_or_else(|| no_table(name))?.rows.values().cloned().collect())
    }

    /// A place to which [`Transaction::rollback_to`] goes back.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint { tables: self.tables.clone(), changes: self.changes.len() }
    }

    /// Undoes what was done since.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        self.tables = savepoint.tables;
        self.changes.truncate(savepoint.changes);
        self.unlogged.retain(|change| *change < savepoint.changes);
        self.silent = false;
    }

    /// Inserts a row, in the order of the table's columns.
    pub fn insert(&mut self, table: &TableName, row: Row) -> Result<()> {
        self.put_row(table, row.clone())?;
        self.has_parents(table, &row)
    }

    fn put_row(&mut self, table: &TableName, row: Row) -> Result<()> {
        edit(&mut self.tables, table)?.insert(row.clone())?;
        self.log(Logged::Insert { table: table.clone(), new: row });
        Ok(())
    }

    fn log(&mut self, change: Logged) {
        if self.silent {
            self.unlogged.insert(self.changes.len());
        }
        self.changes.push(change);
    }

    /// Sets columns of the row with this key (the whole row, in tables without a key).
    pub fn update(&mut self, table: &TableName, key: &[Value], set: &[(&str, Value)]) -> Result<()> {
        let place = self.one(table, key)?;
        self.set(table, place, set)
    }

    fn set(&mut self, table: &TableName, place: Place, set: &[(&str, Value)]) -> Result<()> {
        let data = edit(&mut self.tables, table)?;
        let mut row = data.rows.get(&place).cloned().unwrap_or_default();
        for (name, value) in set {
            let column = data.def.columns.iter().position(|c| c.name == *name);
            let cell = column.and_then(|c| row.get_mut(c));
            cell.ok_or_else(|| no_table(table).column(name))?.clone_from(value);
        }
        let old = data.update(place, row.clone())?;
        self.log(Logged::Update { table: table.clone(), old: old.clone(), new: row.clone() });
        self.follow(table, &old, Some(&row))?;
        self.has_parents(table, &row)
    }

    /// Deletes the row with this key.
    pub fn delete(&mut self, table: &TableName, key: &[Value]) -> Result<()> {
        let place = self.one(table, key)?;
        self.remove(table, place)
    }

    fn remove(&mut self, table: &TableName, place: Place) -> Result<()> {
        if let Some(old) = edit(&mut self.tables, table)?.delete(place) {
            self.log(Logged::Delete { table: table.clone(), old: old.clone() });
            self.follow(table, &old, None)?;
        }
        Ok(())
    }

    fn values(&self, table: &TableName, columns: &[String], row: &Row) -> Result<Option<Vec<Value>>> {
        let data = self.tables.get(table).ok_or_else(|| no_table(table))?;
        let cell = |name: &String| {
            let column = data.def.columns.iter().position(|c| &c.name == name);
            column.and_then(|c| row.get(c)).cloned().ok_or_else(|| no_table(table).column(name))
        };
        let values = columns.iter().map(cell).collect::<Result<Vec<Value>>>()?;
        Ok(values.iter().all(Option::is_some).then_some(values))
    }

    fn places(&self, table: &TableName, columns: &[String], values: &[Value]) -> Result<Vec<Place>> {
        let data = self.tables.get(table).ok_or_else(|| no_table(table))?;
        let column = |name: &String| data.def.columns.iter().position(|c| &c.name == name);
        let columns: Vec<usize> = columns.iter().filter_map(column).collect();
        Ok(data.find(&columns, values))
    }

    /// A row refers to rows that are there.
    fn has_parents(&self, table: &TableName, row: &Row) -> Result<()> {
        for key in self.foreign_keys.iter().filter(|k| &k.child == table) {
            if let Some(values) = self.values(table, &key.columns, row)?
                && self.places(&key.parent, &key.references, &values)?.is_empty()
            {
                let message = "a row refers to one that is not there";
                return Err(Error::new(codes::STATEMENT, Fault::User, Retry::Never, message).table(table));
            }
        }
        Ok(())
    }

    /// Has the rows that refer to a row follow what became of it, each of which is logged.
    fn follow(&mut self, table: &TableName, old: &Row, new: Option<&Row>) -> Result<()> {
        for key in self.foreign_keys.clone().iter().filter(|k| &k.parent == table) {
            let Some(before) = self.values(table, &key.references, old)? else { continue };
            let after = new.map(|row| self.values(table, &key.references, row)).transpose()?.flatten();
            if after.as_ref() == Some(&before) {
                continue;
            }
            let silent = self.silent;
            self.silent |= !key.logged;
            for place in self.places(&key.child, &key.columns, &before)? {
                match (&key.effect, &after) {
                    (Effect::Cascade, None) => self.remove(&key.child, place)?,
                    (Effect::Cascade, Some(after)) => {
                        let set: Vec<(&str, Value)> =
                            key.columns.iter().map(String::as_str).zip(after.iter().cloned()).collect();
                        self.set(&key.child, place, &set)?;
                    }
                    (Effect::SetNull, _) => {
                        let set: Vec<(&str, Value)> = key.columns.iter().map(|c| (c.as_str(), None)).collect();
                        self.set(&key.child, place, &set)?;
                    }
                }
            }
            self.silent = silent;
        }
        Ok(())
    }

    /// Empties tables together.
    pub fn truncate(&mut self, tables: &[TableName]) -> Result<()> {
        if let Some(key) = self.foreign_keys.iter().find(|k| tables.contains(&k.parent) && !tables.contains(&k.child)) {
            let message = format!("{} refers to this table and is not emptied with it", key.child);
            return Err(Error::new(codes::STATEMENT, Fault::User, Retry::Never, message).table(&key.parent));
        }
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
        self.transact_in(&mut self.lock(), work)
    }

    pub(crate) fn transact_in<T>(
        &self,
        inner: &mut Inner,
        work: impl FnOnce(&mut Transaction) -> Result<T>,
    ) -> Result<T> {
        let foreign_keys = inner.foreign_keys.clone();
        let (tables, unlogged) = (inner.tables.clone(), BTreeSet::new());
        let mut transaction = Transaction { tables, changes: Vec::new(), unlogged, silent: false, foreign_keys };
        let out = work(&mut transaction)?;
        inner.have_waited(&transaction.tables);
        inner.tables = transaction.tables;
        inner.version += 1;
        self.commit(inner, transaction.changes);
        if let Some(commit) = inner.log.last_mut() {
            commit.unlogged = transaction.unlogged;
        }
        Ok(out)
    }

    pub(crate) fn commit(&self, inner: &mut Inner, changes: Vec<Logged>) -> u64 {
        self.commit_with(inner, changes, None)
    }

    pub(crate) fn commit_with(
        &self,
        inner: &mut Inner,
        changes: Vec<Logged>,
        note: Option<(MigrationId, Note)>,
    ) -> u64 {
        // A clock before 1970 gives 0; only lag is reckoned with it.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        inner.log.push(Commit { changes, unlogged: BTreeSet::new(), micros: now.as_micros() as i64, note });
        inner.save();
        let at = inner.log.len() as u64;
        self.commits.send_replace(at);
        at
    }

    /// Adds a foreign key, from now on.
    pub fn add_foreign_key(&self, key: ForeignKey) {
        self.lock().foreign_keys.push(key);
    }

    /// The transactions behind so many.
    pub fn committed(&self, after: usize) -> Vec<Commit> {
        self.lock().log.get(after..).unwrap_or_default().to_vec()
    }

    /// From now on the server can lose commits that nothing made durable ([`Database::crash`]).
    pub fn may_crash(&self) {
        let mut inner = self.lock();
        inner.saved = Some(Vec::new());
        inner.make_durable();
    }

    /// The server crashes and comes back at once: sessions are gone, and of the states since the last durable one the one stays that `keep`
    /// picks out of so many (0: the durable one). Gives the number of transactions that are left.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) -> usize {
        let mut inner = self.lock();
        inner.server += 1;
        inner.version += 1;
        inner.unseen.clear();
        if let Some(mut saved) = inner.saved.take().filter(|s| !s.is_empty()) {
            let state = saved.swap_remove(keep(saved.len()).min(saved.len() - 1));
            inner.tables = state.tables;
            inner.progress = state.progress;
            inner.log.truncate(state.log);
            inner.saved = Some(Vec::new());
            inner.make_durable();
        }
        inner.log.len()
    }

    /// Breaks a promise of a destination from now on.
    pub fn break_promise(&self, broken: Broken) {
        self.lock().broken = Some(broken);
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

    /// Where a migration's changes stand here: epoch and position.
    pub fn standing(&self, migration: MigrationId) -> Option<(u64, Option<Position>)> {
        self.lock().progress.get(&migration).map(|row| (row.epoch, row.position.clone()))
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
