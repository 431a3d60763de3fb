//! The world of the model: a destination of which each answer waits until the explorer gives it, and says at once what is wrong; and a log.

use crate::compact::tests::plan;
use crate::fake::{FakeLog, at};
use crate::loop_tests::{ID, description, insert, tx};
use crate::owed::Creditor;
use async_trait::async_trait;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::*;
use drover_log::Stream;
use drover_model::change::put_schema;
use drover_model::check::CheckItem;
use drover_model::ddl::{Dated, SchemaChange, TableChange};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::RowFormat;
use drover_model::row::{Cell, cells, put_cell};
use drover_model::schema::{Catalog, Column, DataType, Object, OldImage, Table, TableName};
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use drover_proto::order::{Description, Owes};
use drover_proto::record::frame;
use drover_proto::v1::ChangesHead;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::oneshot;

/// What the source's log has, from position 1 on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Entry {
    Transaction,
    /// One that comes in so many pieces.
    Pieces(u64),
    Schema,
}

// ---- the destination ----

/// What a crash of the destination leaves or takes.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct Data {
    /// Transactions of which there are rows, with the number of these rows.
    pub rows: BTreeMap<u64, u64>,
    /// Schema changes made.
    pub schema: usize,
    pub position: Option<Position>,
}

#[derive(Default)]
pub(super) struct Work {
    pub epoch: u64,
    pub open: bool,
    /// Transaction and columns of each row that was written.
    pub written: Vec<(u64, usize)>,
    /// The server has ended it.
    pub ended: bool,
}

pub(super) type Answer = Box<dyn FnOnce(&mut State, Fate) + Send>;

#[derive(Default)]
pub(super) struct State {
    pub entries: Vec<Entry>,
    pub now: Data,
    pub durable: Data,
    pub epoch: u64,
    pub sessions: BTreeMap<u64, Work>,
    /// Calls that wait for their answer: holder, session, what.
    pub asked: BTreeMap<(u64, u64, &'static str), Answer>,
    /// Told to be applied for good.
    pub told: Option<Position>,
    pub broken: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// It does not happen, and that is said as a lost connection.
    Lost,
    /// It happens, and its answer is lost.
    AnswerLost,
}

fn lost() -> Error {
    Error::new(codes::CONNECTION, Fault::Destination, Retry::Connection, "the connection was lost")
}

pub(super) fn place(position: Option<&Position>) -> u64 {
    position.map_or(0, |p| p.text.parse().unwrap())
}

impl State {
    pub fn wrong(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Rows are those of all transactions up to the position, whole.
    fn look(&mut self) {
        let upto = place(self.now.position.as_ref());
        let rows = |entry: &Entry| match entry {
            Entry::Transaction => 1,
            Entry::Pieces(n) => *n,
            Entry::Schema => 0,
        };
        let all = (1..).zip(&self.entries).take_while(|(place, _)| *place <= upto);
        let wanted: BTreeMap<u64, u64> = all.map(|(place, e)| (place, rows(e))).filter(|(_, n)| *n > 0).collect();
        let schemas = self.entries.iter().take(upto as usize).filter(|e| **e == Entry::Schema).count();
        if (&wanted, schemas) != (&self.now.rows, self.now.schema) {
            self.wrong(format!("at {upto} it shows {:?} and {} schema changes", self.now.rows, self.now.schema));
        }
    }

    fn commit(&mut self, number: u64, previous: &Position, next: &Position) -> Result<Committed> {
        let Some(work) = self.sessions.get_mut(&number).filter(|w| !w.ended) else { return Err(lost()) };
        if work.epoch != self.epoch {
            return Ok(Committed::Fenced);
        }
        work.open = false;
        let written = std::mem::take(&mut work.written);
        if self.now.position.as_ref() != Some(previous) {
            self.wrong(format!("a commit goes on from {previous} at {}", place(self.now.position.as_ref())));
        }
        for (transaction, columns) in written {
            if columns != 2 + self.now.schema {
                let made = self.now.schema;
                self.wrong(format!("{transaction} is written with {columns} columns after {made} schema changes"));
            }
            *self.now.rows.entry(transaction).or_default() += 1;
        }
        self.now.position = Some(next.clone());
        self.look();
        Ok(Committed::Yes)
    }

    /// What a schema change may count on.
    fn is_quiet(&mut self, epoch: u64, previous: &Position) {
        if epoch != self.epoch {
            return;
        }
        let there = [("committed", &self.now), ("durable", &self.durable)].map(|(w, d)| (w, d.position.clone()));
        for (what, position) in there {
            if position.as_ref() != Some(previous) {
                let at = place(position.as_ref());
                return self.wrong(format!("a schema change behind {previous} is made where {at} is {what}"));
            }
        }
        let at_work = self.sessions.iter().find(|(_, w)| w.epoch == epoch && w.open && !w.ended);
        if let Some((number, _)) = at_work {
            let what = format!("a schema change is made beside session {number}, which is at work");
            self.wrong(what);
        }
    }

    pub fn crash(&mut self, loses: bool) {
        if loses {
            self.now = self.durable.clone();
        }
        self.durable = self.now.clone();
        self.sessions.values_mut().for_each(|w| w.ended = true);
        for (_, answer) in std::mem::take(&mut self.asked) {
            answer(self, Fate::Lost);
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<State>>);

impl Watched {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A call: it happens, and comes back, when the explorer says so. It happens also when the caller has gone meanwhile.
    async fn ask<T: Send + 'static>(
        &self,
        who: (u64, u64),
        what: &'static str,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let call = move |state: &mut State, fate| {
            let result = match fate {
                Fate::Done => effect(state),
                Fate::Lost => Err(lost()),
                Fate::AnswerLost => effect(state).and_then(|_| Err(lost())),
            };
            // The caller may be gone.
            let _ = done.send(result);
        };
        {
            let mut state = self.state();
            let beside = state.asked.keys().any(|(epoch, _, other)| *epoch == who.0 && *other == "schema");
            if beside && what != "schema" {
                state.wrong(format!("{what} beside a schema change under way"));
            }
            state.asked.insert((who.0, who.1, what), Box::new(call));
        }
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

struct Session {
    destination: Watched,
    epoch: u64,
    number: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(work) = self.destination.state().sessions.get_mut(&self.number) {
            (work.open, work.ended) = (false, true);
        }
    }
}

pub(super) struct Nothing;

#[async_trait]
impl Canceller for Nothing {
    async fn cancel(&self) {}
}

#[async_trait]
impl Creditor for Nothing {
    async fn owes(&self, owes: Owes) -> bool {
        panic!("{owes:?}")
    }
}

#[async_trait]
impl ApplySession for Session {
    async fn holders(&mut self, _: u32, _: usize, _: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(vec![])
    }
    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        let mut written = Vec::new();
        for step in steps {
            let Step::Insert { rows, .. } = step else { return Err(Error::internal("only inserts are expected")) };
            for row in rows {
                let transaction = cells(row).nth(1).and_then(|c| c.value().map(<[u8]>::to_vec)).unwrap();
                written.push((String::from_utf8(transaction).unwrap().parse().unwrap(), cells(row).count()));
            }
        }
        let number = self.number;
        self.destination.state().sessions.get_mut(&number).unwrap().open = true;
        let effect = move |state: &mut State| match state.sessions.get_mut(&number).filter(|w| !w.ended) {
            Some(work) => {
                work.written.extend(written);
                Ok(())
            }
            None => Err(lost()),
        };
        self.destination.ask((self.epoch, number), "execute", effect).await
    }
    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed> {
        let (number, previous, next) = (self.number, previous.clone(), next.clone());
        let effect = move |state: &mut State| state.commit(number, &previous, &next);
        self.destination.ask((self.epoch, number), "commit", effect).await
    }
    async fn rollback(&mut self) -> Result<()> {
        let number = self.number;
        let effect = move |state: &mut State| match state.sessions.get_mut(&number).filter(|w| !w.ended) {
            Some(work) => {
                work.open = false;
                work.written.clear();
                Ok(())
            }
            None => Err(lost()),
        };
        self.destination.ask((self.epoch, number), "rollback", effect).await
    }
    async fn flush(&mut self) -> Result<()> {
        let number = self.number;
        let effect = move |state: &mut State| match state.sessions.get(&number).filter(|w| !w.ended) {
            Some(_) => {
                state.durable = state.now.clone();
                Ok(())
            }
            None => Err(lost()),
        };
        self.destination.ask((self.epoch, number), "flush", effect).await
    }
    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(Nothing)
    }
}

fn unneeded<T>() -> Result<T> {
    Err(Error::internal("not needed"))
}

#[async_trait]
impl Destination for Watched {
    async fn existing(&self, _: &[TableName]) -> Result<Vec<Existing>> {
        unneeded()
    }
    fn map_table(&self, _: &Catalog, table: &Table, _: &TableChoice) -> MappedTable {
        MappedTable { plan: plan(0, table.columns.len(), &[0]), formats: vec![RowFormat::Canonical], items: vec![] }
    }
    async fn check(&self, _: &Migration, _: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
        unneeded()
    }
    async fn prepare(&self, _: MigrationId, _: &str) -> Result<Progress> {
        unneeded()
    }
    async fn schema(
        &self,
        _: MigrationId,
        _: &SchemaStep,
        _: &Catalog,
        _: &[TablePlan],
        _: &[Object],
        _: bool,
    ) -> Result<Vec<String>> {
        unneeded()
    }
    async fn progress(&self, _: &str) -> Result<Option<Progress>> {
        let state = self.state();
        let (epoch, position) = (state.epoch, state.now.position.clone());
        Ok(Some(Progress { migration: ID, name: "t".into(), epoch, position }))
    }
    async fn take_over(&self, migration: MigrationId) -> Result<Progress> {
        let mut state = self.state();
        state.epoch += 1;
        // Made durable, and with it all that was committed.
        state.durable = state.now.clone();
        Ok(Progress { migration, name: "t".into(), epoch: state.epoch, position: state.now.position.clone() })
    }
    async fn begin_at(&self, _: MigrationId, _: u64, start: &Position) -> Result<()> {
        let mut state = self.state();
        state.now.position.get_or_insert_with(|| start.clone());
        state.durable = state.now.clone();
        Ok(())
    }
    async fn loader(&self, _: MigrationId) -> Result<Box<dyn Loader>> {
        unneeded()
    }
    async fn restart_table(&self, _: MigrationId, _: &TablePlan, _: u32) -> Result<()> {
        unneeded()
    }
    async fn keys(&self, plans: &[TablePlan]) -> Result<Vec<Keys>> {
        Ok(plans.iter().map(|p| Keys { table: p.id, ..Keys::default() }).collect())
    }
    async fn apply_session(
        &self,
        _: MigrationId,
        epoch: u64,
        _: &Arc<Vec<TablePlan>>,
    ) -> Result<Box<dyn ApplySession>> {
        let mut state = self.state();
        let number = state.sessions.len() as u64;
        state.sessions.insert(number, Work { epoch, ..Work::default() });
        Ok(Box::new(Session { destination: self.clone(), epoch, number }))
    }
    async fn change_schema(&self, _: MigrationId, epoch: u64, shift: &Shift<'_>) -> Result<Committed> {
        let (previous, next) = (shift.previous.clone(), shift.next.clone());
        self.state().is_quiet(epoch, &previous);
        let effect = move |state: &mut State| {
            if state.epoch != epoch {
                return Ok(Committed::Fenced);
            }
            state.is_quiet(epoch, &previous);
            state.now.schema += 1;
            state.now.position = Some(next);
            state.durable = state.now.clone();
            state.look();
            Ok(Committed::Yes)
        };
        self.ask((epoch, u64::MAX), "schema", effect).await
    }
    async fn rows(&self) -> Result<Box<dyn Rows>> {
        unneeded()
    }
    async fn set_sequences(&self, _: &[(String, String, i64, bool)]) -> Result<()> {
        unneeded()
    }
    async fn cleanup(&self, _: Option<MigrationId>, _: &str) -> Result<Vec<String>> {
        unneeded()
    }
}

// ---- the log ----

fn table(columns: usize) -> Table {
    let column = |i: usize| Column::new(format!("c{i}"), DataType::Text { max: None, padded: false }, "text");
    Table::new(TableName::new("s", "t0"), (0..columns).map(column).collect(), OldImage::Full)
}

/// The table gets one more column.
fn wider(columns: usize) -> SchemaChange {
    let table = TableChange {
        id: Some(0),
        before: Some(table(columns)),
        after: Some(table(columns + 1)),
        plan: Some(plan(0, columns + 1, &[0])),
        renamed: vec![],
        anew: vec![],
        clauses: vec![],
        filled: vec![],
        apart: false,
        stopped: None,
    };
    SchemaChange {
        verb: "ALTER TABLE".into(),
        statement: None,
        context: BTreeMap::new(),
        tables: vec![table],
        objects: vec![],
    }
}

/// The records of all this, and what the coordinator knows of the schema changes.
pub(super) fn written(entries: &[Entry]) -> (FakeLog, Arc<Description>) {
    let log = FakeLog::default();
    let mut changes: Vec<Dated> = Vec::new();
    for (to, entry) in (1..).zip(entries) {
        let version = changes.len() as u64;
        let row = |id: String| {
            let mut row = Vec::new();
            put_cell(&mut row, Cell::Value(id.as_bytes()));
            (0..=version).for_each(|_| put_cell(&mut row, Cell::Value(to.to_string().as_bytes())));
            row
        };
        let head = ChangesHead {
            version: 1,
            migration: ID.as_bytes().to_vec().into(),
            epoch: 1,
            from: at(to - 1).to_bytes().into(),
            to: at(to).to_bytes().into(),
            changes: 1,
            transactions: 1,
            schema_version: version,
            ..Default::default()
        };
        let push = |head: ChangesHead, payload: &[u8]| {
            log.push(Stream::Changes, frame(&head, payload));
        };
        match entry {
            Entry::Transaction => push(head, &tx(to, |out| insert(out, 0, &row(to.to_string()))).1),
            Entry::Pieces(n) => {
                // Begin in the first piece, end in the last.
                let bare = tx(to, |_| {}).1;
                let (begin, end) = bare.split_at(bare.len() - 1);
                for piece in 0..*n {
                    let (first, last) = (piece == 0, piece + 1 == *n);
                    let mut payload = if first { begin.to_vec() } else { Vec::new() };
                    insert(&mut payload, 0, &row(format!("{to}/{piece}")));
                    payload.extend_from_slice(if last { end } else { &[] });
                    push(ChangesHead { pieces: true, piece: piece as u32, last_piece: last, ..head.clone() }, &payload);
                }
            }
            Entry::Schema => {
                let change = wider(2 + changes.len());
                let mut payload = Vec::new();
                put_schema(&mut payload, &change);
                push(ChangesHead { schema: true, transactions: 0, ..head }, &payload);
                changes.push(Dated { position: at(to), change });
            }
        }
    }
    let description = Description { schema_changes: changes, ..(*description()).clone() };
    (log, Arc::new(description))
}
