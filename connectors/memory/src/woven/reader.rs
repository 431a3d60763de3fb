//! The reader's side: batches of the change stream through [`Weave`] to the destination.

use super::{Blocks, Mark, digested, marks_plan};
use crate::apply::{Owned, Working};
use crate::database::{Broken, Database, Note, ProgressRow, edit};
use crate::table::{Value, decode};
use drover_connectors_api::Batch;
use drover_model::change::{Item, Old, Reader};
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::handover::tolerant::{Act, Change, Image};
use drover_model::handover::woven::{Attempt, High, Weave};
use drover_model::row::{Cell, cells, put_cell, take_row};
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use std::collections::{BTreeSet, HashMap};

/// What a destination keeps about a woven table beside its position and the marks of chunks, written with them.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Where to begin reading: the oldest open low mark, or the applied position.
    pub from: Position,
    /// A low mark was met.
    pub begun: bool,
    /// The table's plan at `from`.
    pub plan: TablePlan,
}

/// What became of attempts in a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Their rows are at the destination now.
    pub won: Vec<Attempt>,
    /// Their high marks count for nothing: another attempt won, or their windows were discarded.
    pub passed_over: Vec<Attempt>,
    /// Discarded by a change of the table's shape: to be read again in a new attempt.
    pub void: Vec<Attempt>,
}

/// Something in a transaction.
enum Seen {
    Change(Change<Vec<u8>, Value>),
    Mark(Mark),
    Reshape(Box<SchemaChange>),
}

/// The reader of one woven table. It is the one that may write to it, as long as its epoch stands.
pub struct Weaver {
    db: Database,
    migration: MigrationId,
    epoch: u64,
    blocks: Blocks,
    weave: Weave<Vec<u8>, Value, Position>,
    /// The table's plans since where reading began, each with the position from which on it holds.
    plans: Vec<(Position, TablePlan)>,
    loaded: BTreeSet<u32>,
    begun: bool,
    /// Read up to here.
    read: Position,
    applied: Position,
    /// The position of the transaction under way, and what came of it so far.
    head: Option<Position>,
    open: Vec<Seen>,
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, what.to_string())
}

/// Key cells of a full row.
fn key_of(plan: &TablePlan, row: &[u8]) -> Vec<u8> {
    let all: Vec<Cell<'_>> = cells(row).collect();
    let mut key = Vec::new();
    plan.key.iter().filter_map(|&k| all.get(usize::from(k))).for_each(|cell| put_cell(&mut key, *cell));
    key
}

fn encoded(image: &Image<Value>) -> Vec<u8> {
    let mut row = Vec::new();
    for cell in image {
        put_cell(
            &mut row,
            match cell {
                None => Cell::Unknown,
                Some(None) => Cell::Null,
                Some(Some(value)) => Cell::Value(value),
            },
        );
    }
    row
}

/// A tolerant step.
fn step(table: u32, act: Act<Vec<u8>, Value>) -> Owned {
    match act {
        Act::Delete { key } => Owned::Delete { table, keys: vec![key], tolerant: true },
        Act::Replace { row, .. } => {
            let row = row.into_iter().map(Some).collect();
            Owned::Insert { table, rows: vec![encoded(&row)], tolerant: true }
        }
        Act::Patch { cells, .. } => Owned::Update { table, rows: vec![encoded(&cells)], tolerant: true },
        Act::Clear => Owned::Truncate { tables: vec![table] },
    }
}

/// A strict step.
fn strict(table: u32, change: &Change<Vec<u8>, Value>) -> Owned {
    match change {
        Change::Insert { row, .. } => Owned::Insert { table, rows: vec![encoded(row)], tolerant: false },
        Change::Update { old: Some(old), row, .. } => Owned::Move { table, old: old.clone(), new: encoded(row) },
        Change::Update { row, .. } => Owned::Update { table, rows: vec![encoded(row)], tolerant: false },
        Change::Delete { key } => Owned::Delete { table, keys: vec![key.clone()], tolerant: false },
        Change::Truncate => Owned::Truncate { tables: vec![table] },
    }
}

impl Weaver {
    /// Takes the table over at the destination: any reader of before can commit nothing any more. `plan` and `start` (where the stream was
    /// made) are those of the beginning, and are used only then. `wanted` are all chunks that there are to be, those of owed keys included.
    ///
    /// # Errors
    /// None but those of a broken promise of ours.
    pub fn take_over(
        db: Database,
        migration: MigrationId,
        plan: &TablePlan,
        start: &Position,
        wanted: impl IntoIterator<Item = u32>,
        blocks: Blocks,
    ) -> Result<Self> {
        let mut inner = db.lock();
        let row = inner.progress.entry(migration).or_insert_with(|| ProgressRow {
            name: "woven".into(),
            epoch: 0,
            position: None,
            before: None,
            chunks: BTreeSet::new(),
            generations: HashMap::new(),
            woven: None,
        });
        row.epoch += 1;
        let epoch = row.epoch;
        let applied = row.position.get_or_insert_with(|| start.clone()).clone();
        let first = || Standing { from: applied.clone(), begun: false, plan: plan.clone() };
        let standing = row.woven.get_or_insert_with(first).clone();
        let loaded: BTreeSet<u32> = row.chunks.iter().filter(|c| c.0 == plan.id).map(|c| c.2).collect();
        drop(inner);
        let wanted = wanted.into_iter().filter(|chunk| !loaded.contains(chunk));
        Ok(Weaver {
            weave: Weave::new(wanted, standing.begun),
            db,
            migration,
            epoch,
            blocks,
            read: standing.from.clone(),
            plans: vec![(standing.from, standing.plan)],
            loaded,
            begun: standing.begun,
            applied,
            head: None,
            open: Vec::new(),
        })
    }

    /// Where the stream that this reads has to begin.
    pub fn begins(&self) -> &Position {
        &self.read
    }

    /// The tables that the stream has to carry, as they are where reading stands: the woven one, and the marks.
    pub fn tables(&self) -> Vec<TablePlan> {
        let plan = self.plan().clone();
        let marks = marks_plan(plan.id + 1);
        vec![plan, marks]
    }

    fn plan(&self) -> &TablePlan {
        // The first stays as long as the reader does.
        &self.plans[self.plans.len() - 1].1
    }

    /// Another chunk is to come, see [`Weave::want`].
    pub fn want(&mut self, chunk: u32) {
        self.weave.want(chunk);
    }

    /// The keys (cells of the key) that are owed.
    pub fn owed(&self) -> Vec<Vec<u8>> {
        self.weave.owed().keys().cloned().collect()
    }

    /// All chunks are in and nothing is owed, and all that was read before is read again.
    pub fn settled(&self) -> bool {
        self.weave.settled() && self.read >= self.applied
    }

    /// The chunks that are in.
    pub fn loaded(&self) -> &BTreeSet<u32> {
        &self.loaded
    }

    /// Everything up to here is at the destination.
    pub fn applied(&self) -> &Position {
        &self.applied
    }

    /// Where a successor begins: neither confirmation nor deletion may pass it.
    pub fn resume_from(&self) -> Position {
        // While it is being read again, what is open there is not known yet.
        let known = self.weave.resume_from(&self.applied);
        if self.read < self.applied { known.min(self.plans[0].0.clone()) } else { known }
    }

    /// Takes what comes next of the stream.
    ///
    /// # Errors
    /// LOG for records that are not those that their high mark names; ROW_COUNT where a settled table does not fit; FENCED for who was taken
    /// over from. After an error only a successor goes on.
    pub fn take(&mut self, batch: &Batch) -> Result<Taken> {
        if batch.from > self.read {
            return Err(damaged(format!("a gap between {} and {}", self.read, batch.from)));
        }
        let (mut taken, tables) = (Taken::default(), self.tables());
        let mut reader = Reader::new(&batch.payload, &tables[..]);
        while let Some(item) = reader.next_item().map_err(damaged)? {
            match item {
                Item::Begin(begin) => self.head = Some(begin.position),
                Item::End => self.transaction(&mut taken)?,
                other => self.see(&tables, other)?,
            }
        }
        if self.head.is_none() && batch.to > self.read {
            self.read = batch.to.clone();
            if self.read > self.applied {
                self.commit(batch.to.clone(), &[], None, None)?;
            }
        }
        Ok(taken)
    }

    /// Keeps an item of the transaction under way.
    fn see(&mut self, tables: &[TablePlan], item: Item<'_>) -> Result<()> {
        let [plan, marks] = tables else { return Err(Error::internal("a woven table and its marks are two tables")) };
        let old_key = |old: Old<'_>| match old {
            Old::None => None,
            Old::Key(key) => Some(key.to_vec()),
            Old::Full(row) => Some(key_of(plan, row)),
        };
        self.open.push(match item {
            Item::Insert { table, new } if table == marks.id => {
                let row: Vec<Value> = decode(new).into_iter().flatten().collect();
                match Mark::of(&row, self.migration, &plan.source)? {
                    Some(mark) => Seen::Mark(mark),
                    None => return Ok(()),
                }
            }
            Item::Insert { table, new } if table == plan.id => {
                Seen::Change(Change::Insert { key: key_of(plan, new), row: decode(new) })
            }
            Item::Update { table, old, new } if table == plan.id => {
                let key = key_of(plan, new);
                let before = if let Old::Full(row) = old { Some(decode(row)) } else { None };
                let old = old_key(old).filter(|old| *old != key);
                Seen::Change(Change::Update { old, key, row: decode(new), before })
            }
            Item::Delete { table, old } if table == plan.id => {
                let key = old_key(old).ok_or_else(|| damaged("a delete without a key"))?;
                Seen::Change(Change::Delete { key })
            }
            Item::Truncate { tables } if tables.contains(&plan.id) => Seen::Change(Change::Truncate),
            Item::Schema(change) => Seen::Reshape(change),
            // Old marks may be deleted.
            _ => return Ok(()),
        });
        Ok(())
    }

    /// The transaction under way is complete.
    fn transaction(&mut self, taken: &mut Taken) -> Result<()> {
        let at = self.head.take().ok_or_else(|| damaged("an end without a beginning"))?;
        let before = std::mem::replace(&mut self.read, at.clone());
        // What is applied already is only folded.
        let apply = at > self.applied;
        let (mut steps, mut won, mut reshaped) = (Vec::new(), None, None);
        let table = self.plan().id;
        for seen in std::mem::take(&mut self.open) {
            match seen {
                Seen::Mark(Mark::Low(of)) => {
                    self.begun = true;
                    self.weave.low(of, &before);
                }
                Seen::Mark(Mark::High(high)) => match self.rows(&high)? {
                    Some(_) if !apply => return Err(Error::internal("a chunk that is loaded was wanted")),
                    Some(acts) => {
                        steps.extend(acts.into_iter().map(|act| step(table, act)));
                        won = Some(high.of);
                    }
                    None => taken.passed_over.push(high.of),
                },
                Seen::Change(change) if apply && self.weave.settled() => steps.push(strict(table, &change)),
                Seen::Change(change) => {
                    let acts = self.weave.change(&before, &change);
                    if apply {
                        steps.extend(acts.into_iter().map(|act| step(table, act)));
                    }
                }
                Seen::Reshape(change) => {
                    taken.void.extend(self.weave.reshape());
                    let plan = change.tables.iter().find(|t| t.id == Some(table)).and_then(|t| t.plan.clone());
                    self.plans.extend(plan.map(|plan| (at.clone(), plan)));
                    reshaped = Some(change);
                }
            }
        }
        if apply {
            self.commit(at, &steps, won, reshaped.as_deref())?;
            taken.won.extend(won);
        }
        Ok(())
    }

    /// A high mark: if its attempt wins, what its rows make of the destination.
    fn rows(&mut self, high: &High) -> Result<Option<Vec<Act<Vec<u8>, Value>>>> {
        let Some(nets) = self.weave.high(high) else { return Ok(None) };
        let records = self.blocks.of(high.of);
        let digest = records.iter().fold(0, |digest, record| digested(digest, record));
        high.verify(records.len() as u64, digest).map_err(damaged)?;
        let (width, key_width) = (self.plan().columns.len(), self.plan().key.len());
        let mut acts = Vec::new();
        for record in &records {
            let mut rest = &record[..];
            while !rest.is_empty() {
                let bad = || damaged("a record of a chunk is damaged");
                let key = take_row(&mut rest, key_width).ok_or_else(bad)?;
                let (&there, after) = rest.split_first().ok_or_else(bad)?;
                rest = after;
                let row = if there == 1 {
                    let row = take_row(&mut rest, width).ok_or_else(bad)?;
                    Some(decode(row).into_iter().collect::<Option<Vec<Value>>>().ok_or_else(bad)?)
                } else {
                    None
                };
                let folded = nets.row(&key.to_vec(), row);
                acts.extend(self.weave.wrote(key.to_vec(), folded));
            }
        }
        Ok(Some(acts))
    }

    /// One transaction of the destination: rows, position, mark of a chunk, and from where on to begin anew.
    fn commit(
        &mut self,
        next: Position,
        steps: &[Owned],
        won: Option<Attempt>,
        reshaped: Option<&SchemaChange>,
    ) -> Result<()> {
        let db = self.db.clone();
        let mut inner = db.lock();
        let plan = self.plan().clone();
        let (id, destination) = (plan.id, plan.destination.clone());
        let mut working = Working::new(&inner);
        for table in reshaped.iter().flat_map(|change| &change.tables).filter_map(|t| t.after.as_ref()) {
            let data = edit(&mut working.tables, &destination)?;
            table.columns.iter().for_each(|column| data.add_column(column.clone()));
        }
        let plans = HashMap::from([(id, plan)]);
        steps.iter().try_for_each(|step| working.run(&plans, step))?;
        let previous = std::mem::replace(&mut self.applied, next.clone());
        let broken = inner.broken == Some(Broken::Resume);
        let from = if broken { next.clone() } else { self.resume_from() };
        let held = self.plans.iter().rev().find(|(since, _)| *since <= from).map(|(_, plan)| plan.clone());
        let plan = held.ok_or_else(|| Error::internal("a plan of before reading began"))?;
        let row = inner.progress.get_mut(&self.migration);
        let row = row.ok_or_else(|| Error::internal("the progress row is gone"))?;
        if row.epoch != self.epoch {
            return Err(Error::new(codes::FENCED, Fault::Drover, Retry::Never, "another reader took over"));
        }
        if row.position.as_ref() != Some(&previous) {
            return Err(Error::internal(format!("the progress does not stand at {previous}")));
        }
        if won.is_some_and(|of| !row.chunks.insert((id, 0, of.chunk))) {
            return Err(Error::internal("a chunk was loaded twice"));
        }
        row.before = row.position.replace(next.clone());
        row.woven = Some(Standing { from, begun: self.begun, plan });
        inner.tables = working.tables;
        inner.version += 1;
        let note = Note::Applied { epoch: self.epoch, current: self.epoch, previous, next };
        db.commit_with(&mut inner, working.changes, Some((self.migration, note)));
        self.loaded.extend(won.map(|of| of.chunk));
        Ok(())
    }
}
