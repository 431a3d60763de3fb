//! Commits that are in the log before anybody sees them, and columns that are added. In many engines a commit is written to the log
//! first and becomes visible a moment later, which may be after a later one: here that moment lasts as long as a test wants.
//!
//! As with locks on rows, a transaction that touches a row or a unique value of an unseen one has waited until that one is seen, so
//! that unseen transactions never touch each other. Only who reads *without* a snapshot is concerned ([`crate::woven`]); exact
//! snapshots hold what is committed, seen or not.

use crate::database::{Database, Inner, Logged, Tables, Transaction, edit, no_table};
use crate::table::{Place, Row, TableData};
use drover_model::Result;
use drover_model::schema::{Column, TableName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A transaction that nobody sees yet.
#[derive(Debug)]
pub(crate) struct Unseen {
    /// Its place in the log.
    at: u64,
    touched: Vec<Touched>,
}

/// What a transaction did to one row.
#[derive(Debug)]
struct Touched {
    table: TableName,
    place: Place,
    before: Option<Row>,
    /// Its values in each unique key (by number), before and after.
    keys: BTreeSet<(usize, Vec<Vec<u8>>)>,
}

impl Unseen {
    fn meets(&self, others: &[Touched]) -> bool {
        let meet = |a: &Touched, b: &Touched| {
            a.table == b.table && (a.place == b.place || a.keys.intersection(&b.keys).next().is_some())
        };
        self.touched.iter().any(|a| others.iter().any(|b| meet(a, b)))
    }
}

/// The rows in which two states differ.
fn touched(before: &Tables, after: &Tables) -> Vec<Touched> {
    let mut all = Vec::new();
    for (name, now) in after {
        let Some(was) = before.get(name).filter(|was| !Arc::ptr_eq(was, now)) else { continue };
        let places: BTreeSet<Place> = was.rows.keys().chain(now.rows.keys()).copied().collect();
        for place in places {
            let (old, new) = (was.rows.get(&place), now.rows.get(&place));
            if old == new {
                continue;
            }
            let keys = now.def.keys.iter().enumerate();
            let values = keys.flat_map(|(n, key)| {
                let value = |row: Option<&Row>| Some((n, now.key_values(key, row?)?));
                [value(old), value(new)].into_iter().flatten()
            });
            all.push(Touched { table: name.clone(), place, before: old.cloned(), keys: values.collect() });
        }
    }
    all
}

impl Inner {
    /// A transaction is about to leave the tables so: those whose rows it touches are seen by now.
    pub fn have_waited(&mut self, after: &Tables) {
        if !self.unseen.is_empty() {
            let touched = touched(&self.tables, after);
            self.unseen.retain(|unseen| !unseen.meets(&touched));
        }
    }

    /// Whether every transaction before this place in the log is seen.
    pub fn sees_all_before(&self, at: u64) -> bool {
        self.unseen.iter().all(|unseen| unseen.at >= at)
    }

    /// A table's definition, and its rows as readers see them at this moment.
    pub fn visible(&self, name: &TableName) -> Result<(&TableData, Vec<Row>)> {
        let data = self.tables.get(name).ok_or_else(|| no_table(name))?;
        let mut rows = data.rows.clone();
        for touched in self.unseen.iter().flat_map(|u| &u.touched).filter(|t| &t.table == name) {
            match &touched.before {
                Some(row) => drop(rows.insert(touched.place, row.clone())),
                None => drop(rows.remove(&touched.place)),
            }
        }
        Ok((data, rows.into_values().collect()))
    }
}

impl Database {
    /// Runs a transaction as [`Database::transact`] does, but for this: once it is committed and in the log, no reader sees it until
    /// [`Database::show`]. Gives its place in the log.
    ///
    /// # Errors
    /// Those of the transaction; nothing of it has happened then.
    pub fn transact_unseen<T>(&self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<(T, u64)> {
        let mut inner = self.lock();
        let before = inner.tables.clone();
        let out = self.transact_in(&mut inner, work)?;
        let (at, touched) = (inner.log.len() as u64, touched(&before, &inner.tables));
        inner.unseen.push(Unseen { at, touched });
        Ok((out, at))
    }

    /// The transaction at this place in the log is seen from now on.
    pub fn show(&self, at: u64) {
        self.lock().unseen.retain(|unseen| unseen.at != at);
        // Wakes those who wait for it.
        self.commits.send_modify(|_| {});
    }

    /// Places in the log of the transactions that are not seen yet.
    pub fn unseen(&self) -> Vec<u64> {
        self.lock().unseen.iter().map(|unseen| unseen.at).collect()
    }

    /// Adds a column behind the others, null in all rows: a transaction of its own, which is in the log. It has waited for all
    /// transactions that are not seen yet.
    ///
    /// # Errors
    /// STATEMENT without such a table.
    pub fn add_column(&self, table: &TableName, column: Column) -> Result<()> {
        let mut inner = self.lock();
        inner.unseen.clear();
        let data = edit(&mut inner.tables, table)?;
        let before = Arc::new(data.def.clone());
        data.add_column(column);
        let after = Arc::new(data.def.clone());
        inner.version += 1;
        self.commit(&mut inner, vec![Logged::AddColumn { before, after }]);
        Ok(())
    }
}
