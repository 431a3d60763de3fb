//! The change stream: reads the log behind a position, whole transactions at a time.

use crate::database::{Commit, Database, Inner, Logged, no_table, place, position};
use crate::table::{Mapping, Row, TableData, encode};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{Batch, ChangeStream, Piece, StreamSpec};
use drover_model::change::{self, Begin, OldKind};
use drover_model::ddl::{SchemaChange, TableChange};
use drover_model::error::codes;
use drover_model::plan::PlanColumn;
use drover_model::row::{Cell, put_cell};
use drover_model::schema::{OldImage, Table, TableName};
use drover_model::{Error, Fault, Position, Result, Retry, TablePlan};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// A key of [`drover_model::schema::Table::options`]: columns, parted by commas, that an update which does not change them
/// leaves out of the log.
pub const LARGE: &str = "large";

struct Watched {
    plan: TablePlan,
    map: Mapping,
    full: bool,
    /// For each column of the plan whether it is left out when unchanged.
    large: Vec<bool>,
}

/// See [`ChangeStream`].
pub struct MemoryStream {
    db: Database,
    spec: StreamSpec,
    holder: u64,
    tables: HashMap<TableName, Watched>,
    at: u64,
    lineage: u32,
    /// Batches that are made already: pieces of one transaction.
    ready: VecDeque<Batch>,
}

/// One change encoded, or nothing where it is not selected.
fn put(out: &mut Vec<u8>, change: &Logged, tables: &HashMap<TableName, Watched>) -> bool {
    let old_cells = |out: &mut Vec<u8>, t: &Watched, old: &Row| {
        encode(out, old, if t.full { &t.map.columns } else { &t.map.key });
    };
    match change {
        Logged::Insert { table, new } => {
            let Some(t) = tables.get(table).filter(|t| t.plan.operations.insert) else { return false };
            change::put_insert(out, t.plan.id);
            encode(out, new, &t.map.columns);
        }
        Logged::Update { table, old, new } => {
            let Some(t) = tables.get(table).filter(|t| t.plan.operations.update) else { return false };
            let moved = t.map.key.iter().any(|&c| old.get(c) != new.get(c));
            if t.full {
                change::put_update(out, t.plan.id, OldKind::Full);
            } else {
                change::put_update(out, t.plan.id, if moved { OldKind::Key } else { OldKind::None });
            }
            if t.full || moved {
                old_cells(out, t, old);
            }
            for (&column, &large) in t.map.columns.iter().zip(&t.large) {
                if large && !t.full && old.get(column) == new.get(column) {
                    put_cell(out, Cell::Unknown);
                } else {
                    encode(out, new, &[column]);
                }
            }
        }
        Logged::Delete { table, old } => {
            let Some(t) = tables.get(table).filter(|t| t.plan.operations.delete) else { return false };
            change::put_delete(out, t.plan.id, if t.full { OldKind::Full } else { OldKind::Key });
            old_cells(out, t, old);
        }
        Logged::Truncate { tables: emptied } => {
            let selected = |name| tables.get(name).filter(|t| t.plan.operations.truncate).map(|t| t.plan.id);
            let ids: Vec<u32> = emptied.iter().filter_map(selected).collect();
            if ids.is_empty() {
                return false;
            }
            change::put_truncate(out, &ids);
        }
        Logged::AddColumn { .. } => return false,
    }
    true
}

impl Watched {
    fn new(plan: TablePlan, def: &Table) -> Result<Self> {
        let listed = def.options.get(LARGE).map(String::as_str).unwrap_or_default();
        Ok(Watched {
            map: Mapping::new(&plan, &TableData::new(def.clone()), true)?,
            full: def.old_image == OldImage::Full || plan.key.is_empty(),
            large: plan.columns.iter().map(|c| listed.split(',').any(|l| l == c.source)).collect(),
            plan,
        })
    }

    /// What a column that was added makes of the table.
    fn reshaped(&self, before: &Table, after: &Table) -> SchemaChange {
        let mut plan = TablePlan { version: self.plan.version + 1, ..self.plan.clone() };
        let added = after.columns.iter().skip(before.columns.len());
        plan.columns.extend(added.map(|c| PlanColumn::new(&c.name, c.data_type.clone(), &c.origin_type)));
        let table = TableChange {
            id: Some(plan.id),
            before: Some(before.clone()),
            after: Some(after.clone()),
            plan: Some(plan),
            renamed: Vec::new(),
            anew: Vec::new(),
            filled: Vec::new(),
            clauses: Vec::new(),
            apart: false,
            stopped: None,
        };
        SchemaChange {
            verb: "ALTER TABLE".into(),
            statement: None,
            context: BTreeMap::new(),
            tables: vec![table],
            objects: Vec::new(),
        }
    }
}

/// The shape that a table had at a place in the log.
fn shape_at(inner: &Inner, at: u64, name: &TableName) -> Result<Table> {
    let later = inner.log.iter().skip(at as usize).flat_map(|commit| &commit.changes);
    let mut altered = later.filter_map(|change| match change {
        Logged::AddColumn { before, .. } if before.name == *name => Some(Table::clone(before)),
        _ => None,
    });
    let now = || inner.tables.get(name).map(|data| data.def.clone());
    altered.next().or_else(now).ok_or_else(|| no_table(name))
}

impl MemoryStream {
    pub fn new(db: Database, spec: StreamSpec, holder: u64, at: u64) -> Result<Self> {
        let (mut tables, lineage) = (HashMap::new(), db.lock().lineage);
        for plan in spec.tables.iter() {
            let def = shape_at(&db.lock(), at, &plan.source)?;
            tables.insert(plan.source.clone(), Watched::new(plan.clone(), &def)?);
        }
        Ok(MemoryStream { db, spec, holder, tables, at, lineage, ready: VecDeque::new() })
    }

    fn here(&self, at: u64) -> Position {
        position(self.lineage, at)
    }

    /// Everything of one transaction that is selected: changes, each encoded.
    fn selected(&self, commit: &Commit) -> Vec<Vec<u8>> {
        let mut changes = Vec::new();
        let logged = commit.changes.iter().enumerate().filter(|(n, _)| !commit.unlogged.contains(n));
        for (_, change) in logged {
            let mut out = Vec::new();
            if put(&mut out, change, &self.tables) {
                changes.push(out);
            }
        }
        changes
    }

    fn batch(&self, from: u64, to: u64, micros: i64, payload: Vec<u8>, transactions: u32, changes: u64) -> Batch {
        Batch {
            from: self.here(from),
            to: self.here(to),
            payload: Bytes::from(payload),
            piece: None,
            transactions,
            changes,
            commit_micros: micros,
            schema: None,
        }
    }

    /// Cuts a transaction of its own into pieces at changes.
    fn pieces(&self, from: u64, to: u64, begin: &Begin, changes: Vec<Vec<u8>>) -> VecDeque<Batch> {
        let mut payloads = vec![(Vec::new(), 0u64)];
        change::put_begin(&mut payloads[0].0, begin);
        for change in changes {
            if payloads.last().is_some_and(|(p, n)| *n > 0 && p.len() + change.len() > self.spec.batch_bytes) {
                payloads.push((Vec::new(), 0));
            }
            if let Some((payload, n)) = payloads.last_mut() {
                payload.extend(change);
                *n += 1;
            }
        }
        if let Some((payload, _)) = payloads.last_mut() {
            change::put_end(payload);
        }
        let last = payloads.len() - 1;
        let pieces = payloads.into_iter().enumerate().map(|(index, (payload, n))| {
            let piece = (last > 0).then_some(Piece { index: index as u32, last: index == last });
            Batch { piece, ..self.batch(from, to, begin.commit_micros, payload, u32::from(index == last), n) }
        });
        pieces.collect()
    }

    /// A column was added to a watched table: a batch of its own.
    fn altered(&mut self, from: u64, to: u64, micros: i64, before: &Table, after: &Table) -> Result<Batch> {
        let watched = self.tables.get(&before.name).ok_or_else(|| no_table(&before.name))?;
        if self.spec.schemas.is_none() {
            let what = "a column was added, and schema changes are not followed";
            return Err(Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what).table(&before.name));
        }
        let change = watched.reshaped(before, after);
        for plan in change.tables.iter().filter_map(|t| t.plan.clone()) {
            self.tables.insert(before.name.clone(), Watched::new(plan, after)?);
        }
        let mut payload = Vec::new();
        change::put_begin(&mut payload, &Begin { position: self.here(to), commit_micros: micros });
        change::put_schema(&mut payload, &change);
        change::put_end(&mut payload);
        Ok(Batch { schema: Some(Box::new(change)), ..self.batch(from, to, micros, payload, 1, 0) })
    }

    /// What the log has behind `at`; `None`: nothing new.
    fn gather(&mut self) -> Result<Option<Batch>> {
        let db = self.db.clone();
        let inner = db.lock();
        if inner.streams.get(&self.spec.migration).is_none_or(|s| s.holder != self.holder) {
            let message = "the stream was taken over by another holder";
            return Err(Error::new(codes::FENCED, Fault::Drover, Retry::Never, message));
        }
        let from = self.at;
        let (mut payload, mut transactions, mut count, mut micros) = (Vec::new(), 0, 0, 0);
        let commits = inner.log.iter().enumerate().skip(from as usize);
        for (index, commit) in commits {
            let to = index as u64 + 1;
            if let Some(Logged::AddColumn { before, after }) = commit.changes.first()
                && self.tables.contains_key(&before.name)
            {
                if transactions > 0 {
                    break;
                }
                self.at = to;
                return self.altered(from, to, commit.micros, before, after).map(Some);
            }
            let changes = self.selected(commit);
            if changes.is_empty() {
                micros = commit.micros;
                self.at = to;
                continue;
            }
            let size: usize = changes.iter().map(Vec::len).sum();
            if transactions > 0 && payload.len() + size > self.spec.batch_bytes {
                break;
            }
            let begin = Begin { position: self.here(to), commit_micros: commit.micros };
            if size > self.spec.batch_bytes {
                // Of its own; what was passed without a change belongs to its interval.
                self.ready = self.pieces(from, to, &begin, changes);
                self.at = to;
                return Ok(self.ready.pop_front());
            }
            change::put_begin(&mut payload, &begin);
            count += changes.len() as u64;
            changes.iter().for_each(|c| payload.extend(c));
            change::put_end(&mut payload);
            transactions += 1;
            micros = commit.micros;
            self.at = to;
        }
        Ok((self.at > from).then(|| self.batch(from, self.at, micros, payload, transactions, count)))
    }
}

#[async_trait]
impl ChangeStream for MemoryStream {
    async fn next(&mut self) -> Result<Batch> {
        if let Some(piece) = self.ready.pop_front() {
            return Ok(piece);
        }
        let mut commits = self.db.commits.subscribe();
        loop {
            commits.borrow_and_update();
            if let Some(batch) = self.gather()? {
                return Ok(batch);
            }
            // The database outlives its streams, so the sender is never gone.
            let _ = commits.changed().await;
        }
    }

    async fn confirm(&mut self, position: &Position) -> Result<()> {
        let at = place(position)?;
        if at > self.at {
            return Err(Error::internal(format!("{position} was confirmed, but not given out yet")));
        }
        if let Some(stream) = self.db.lock().streams.get_mut(&self.spec.migration)
            && stream.holder == self.holder
        {
            stream.confirmed = stream.confirmed.max(at);
        }
        Ok(())
    }
}
