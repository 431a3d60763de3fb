//! What a failed or miscounted statement says about its row.

use super::params::{Grid, Param};
use super::shape::Shape;
use super::{key_text, row_count, show, statements};
use crate::connect::Session;
use crate::errors::classify;
use drover_model::{Error, Fault, Result, TablePlan};
use futures::TryStreamExt;

/// A server's error about a statement on one table, with table and, where the server tells, key.
pub(super) fn of_table(error: &tokio_postgres::Error, fault: Fault, plan: &TablePlan, what: &str) -> Error {
    let mut out = classify(error, fault, what);
    out.table.get_or_insert_with(|| plan.destination.to_string());
    // `Key (id, part)=(7, x) already exists.` There is no other place where the server gives it.
    if let Some(detail) = error.as_db_error().and_then(|db| db.detail())
        && let Some((columns, rest)) = detail.split_once(")=(")
        && let Some((_, columns)) = columns.split_once('(')
        && let Some((values, _)) = rest.rsplit_once(')')
    {
        out = out.key(format!("{columns}={values}"));
    }
    out
}

/// Finds the keys among those of a statement which have not exactly one row, and names them. `key` are the places of the
/// key's columns in the grid.
pub(super) async fn miscounted(
    session: &Session,
    fault: Fault,
    plan: &TablePlan,
    shape: &Shape,
    grid: &Grid<'_>,
    key: &[usize],
    found: u64,
) -> Result<Error> {
    let error = row_count(fault, plan, format!("{found} of {} rows to change were found", grid.rows()));
    let at = |row: usize| key_text(plan, key.iter().map(|&k| show(grid.cell(row, k))));
    if grid.rows() == 1 {
        return Ok(error.key(at(0)));
    }
    let text = statements::wrong_counts(shape);
    let failed = |e: tokio_postgres::Error| classify(&e, fault, "cannot find out which rows are missing");
    let statement = session.prepare_typed(&text.sql, &text.types).await.map_err(failed)?;
    let params: Vec<Param<'_>> = key.iter().map(|&k| grid.array(k)).collect();
    let rows: Vec<tokio_postgres::Row> =
        session.query_raw(&statement, params).await.map_err(failed)?.try_collect().await.map_err(failed)?;
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|r| usize::try_from(r.get::<_, i64>(0) - 1).ok())
        .filter(|&i| i < grid.rows())
        .map(at)
        .collect();
    Ok(named(error, wrong))
}

/// The keys among those of a delete that are not among the deleted ordinals.
pub(super) fn not_deleted(fault: Fault, plan: &TablePlan, grid: &Grid<'_>, deleted: u64, ordinals: &[i64]) -> Error {
    let error = row_count(fault, plan, format!("{deleted} of {} rows to delete were found", grid.rows()));
    let mut times = vec![0u32; grid.rows()];
    for &i in ordinals {
        if let Some(n) = usize::try_from(i - 1).ok().and_then(|i| times.get_mut(i)) {
            *n += 1;
        }
    }
    let wrong = times.iter().enumerate().filter(|(_, n)| **n != 1).take(20);
    let wrong = wrong.map(|(i, _)| key_text(plan, (0..plan.key.len()).map(|k| show(grid.cell(i, k)))));
    named(error, wrong.collect())
}

/// The error about the first of these keys, the others in its text.
pub(super) fn named(mut error: Error, keys: Vec<String>) -> Error {
    if keys.len() > 1 {
        error.message.push_str(&format!("; keys not found exactly once: {}", keys.join("; ")));
    }
    match keys.into_iter().next() {
        Some(first) => error.key(first),
        None => error,
    }
}
