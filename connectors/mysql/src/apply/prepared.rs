//! Large updates of MySQL servers by prepared statements. A statement is parsed and resolved once and executed with rows of parameters, which costs
//! the server a seventh less than texts do. Guarantee: a parameter gives the column the very value that the literal of
//! [`statements`](super::statements) gives, or the rows are left to the texts.
//!
//! The list of rows is read first and the table looked up by it. Where the keys are consecutive integers it is the other way round: the table is
//! read from the first key to the last, which are just these rows and no others, so that nothing is read or locked in vain, no key is
//! looked up, and the server updates each row as it comes to it instead of remembering it for a second pass.

use super::statements::Given;
use crate::connect::Session;
use crate::encode::Typed;
use crate::errors::number;
use crate::shape::{Column, Shape};
use crate::types::Kind;
use drover_model::row::{Cell, cells};
use drover_model::{Error, Result};
use mysql_async::prelude::Queryable;
use mysql_async::{Statement, Value};
use std::collections::HashMap;

/// Rows of a statement. What is left over is null: no row has that key.
pub(super) const ROWS: usize = 500;
/// Fewer rows travel as texts.
const FEWEST: usize = ROWS / 2;
/// Bytes of a row, at most: the parameters' types hold them.
const ROW_BYTES: usize = 8 << 10;
/// Parameters of a statement, at most.
const PARAMETERS: usize = 65_535;
/// Statements that a session keeps at the server.
const KEPT: usize = 8;
/// Since this version a list of rows may stand for a table, and parameters keep their types.
const SINCE: u32 = 80_022;

/// A statement and what it is executed with.
pub(super) struct Update {
    sql: String,
    pub values: Vec<Value>,
}

/// The update of these columns of these rows; `None` where it is for texts.
///
/// # Errors
/// LOSS of a value that does not fit, INTERNAL for a damaged row.
pub(super) fn update(session: &Session, shape: &Shape, rows: &[&[u8]], set: &[usize]) -> Result<Option<Update>> {
    let given = Given::rows(shape, rows, set);
    let fits = (FEWEST..=ROWS).contains(&rows.len())
        && given.fields.len() * ROWS + 2 <= PARAMETERS
        && rows.iter().all(|row| row.len() <= ROW_BYTES);
    // Values that become others are counted when they are written: once.
    if !fits || !session.version.mysql(SINCE) || shape.noisy || !shape.changing.is_empty() {
        return Ok(None);
    }
    let kinds: Vec<Typed> = given.fields.iter().map(|&(_, c)| typed(&shape.columns[c])).collect();
    let mut values = Vec::with_capacity(given.fields.len() * ROWS + 2);
    let mut all: Vec<Cell<'_>> = Vec::new();
    for row in rows {
        all.clear();
        all.extend(cells(row));
        for (&(cell, column), kind) in given.fields.iter().zip(&kinds) {
            let cell = all.get(cell).copied().ok_or_else(|| Error::internal("a damaged row"))?;
            match shape.columns[column].encoder.parameter(*kind, cell).map_err(|e| shape.of_row(e, row))? {
                Some(value) => values.push(value),
                None => return Ok(None),
            }
        }
    }
    let range = consecutive(shape, &values, given.fields.len());
    values.resize(given.fields.len() * ROWS, Value::NULL);
    let sql = text(&given, &kinds, set, range.is_some());
    values.extend(range.into_iter().flatten());
    Ok(Some(Update { sql, values }))
}

fn typed(column: &Column) -> Typed {
    column.encoder.typed(matches!(column.kind, Kind::Int { .. }), column.unsigned)
}

/// The first and the last key, if all between them are there: values of rows, `width` each, keys first.
fn consecutive(shape: &Shape, values: &[Value], width: usize) -> Option<[Value; 2]> {
    let [key] = shape.key[..] else { return None };
    if shape.index.is_none() || !matches!(shape.columns[key].kind, Kind::Int { .. }) {
        return None;
    }
    let keys: Option<Vec<i128>> = values.iter().step_by(width).map(whole).collect();
    let keys = keys?;
    let first = *keys.iter().min()?;
    let mut seen = vec![false; keys.len()];
    for key in &keys {
        let seen = seen.get_mut(usize::try_from(key - first).ok()?)?;
        if std::mem::replace(seen, true) {
            return None;
        }
    }
    let at = |key: i128| keys.iter().position(|k| *k == key).and_then(|n| values.get(n * width)).cloned();
    at(first).zip(at(first + keys.len() as i128 - 1)).map(|(first, last)| [first, last])
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(n) => Some(i128::from(*n)),
        Value::UInt(n) => Some(i128::from(*n)),
        _ => None,
    }
}

fn text(given: &Given<'_, '_>, kinds: &[Typed], set: &[usize], range: bool) -> String {
    let shape = given.shape;
    let row: Vec<&str> = kinds.iter().map(|k| k.placeholder()).collect();
    let row = format!("ROW({})", row.join(","));
    let names: Vec<String> = given.fields.iter().map(|(_, column)| format!("c{column}")).collect();
    let list = format!("(VALUES {}) AS m({})", vec![row; ROWS].join(","), names.join(","));
    let set = given.set(set);
    match (range, &shape.index, &shape.key[..]) {
        (true, Some(index), &[key]) => {
            let (table, name) = (&shape.table, &shape.columns[key].name);
            format!(
                "UPDATE {table} FORCE INDEX ({index}) STRAIGHT_JOIN {list} ON {table}.{name} = m.c{key} SET {set} WHERE {table}.{name} BETWEEN ? AND ?"
            )
        }
        _ => format!("UPDATE {list}{} SET {set}", given.join("STRAIGHT_JOIN")),
    }
}

/// The statements that a session has prepared.
#[derive(Default)]
pub(super) struct Prepared {
    known: HashMap<String, Statement>,
    refused: bool,
}

impl Prepared {
    /// The statement, prepared where it was not; `None` where the server refuses that.
    pub async fn get(&mut self, session: &mut Session, update: &Update) -> mysql_async::Result<Option<Statement>> {
        if self.refused {
            return Ok(None);
        }
        if let Some(known) = self.known.get(&update.sql) {
            return Ok(Some(known.clone()));
        }
        if self.known.len() >= KEPT {
            for (_, statement) in self.known.drain() {
                session.close(statement).await?;
            }
        }
        match session.prep(update.sql.as_str()).await {
            Ok(statement) => {
                self.known.insert(update.sql.clone(), statement.clone());
                Ok(Some(statement))
            }
            // There are too many of them, or a proxy does not know such statements.
            Err(e) if matches!(number(&e), Some(1047 | 1064 | 1295 | 1390 | 1461)) => {
                tracing::debug!(error = %e, "no prepared statements: changes travel as texts");
                self.refused = true;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}
