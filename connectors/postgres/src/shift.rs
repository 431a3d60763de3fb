//! Schema changes at the destination, exactly once. Guarantee: the statements of a change and the progress that passes it are one transaction, under
//! the epoch of their holder; whatever is killed and whenever, both are there or neither is.

use crate::connect::Dialer;
use crate::errors::classify;
use crate::schema::{self, change};
use crate::{apply, progress};
use drover_connectors_api::{Committed, Shift};
use drover_model::error::codes;
use drover_model::{Error, MigrationId, Result, Retry};
use drover_runtime::failpoint;
use tokio_postgres::error::SqlState;

/// How long a statement waits for a lock: nothing of drover's holds one.
const SETTINGS: &str = "begin; set local synchronous_commit = on; set local lock_timeout = '60s'; set local search_path = ''; \
    set local check_function_bodies = off; set local client_min_messages = warning; set local maintenance_work_mem = '256MB'";

/// See [`drover_connectors_api::Destination::change_schema`].
pub async fn change_schema(
    dialer: &Dialer,
    migration: MigrationId,
    epoch: u64,
    shift: &Shift<'_>,
) -> Result<Committed> {
    let fault = dialer.fault();
    let of_table = |error: Error| match shift.change.table() {
        Some(table) if error.table.is_none() => error.table(table),
        _ => error,
    };
    let failed = |e: tokio_postgres::Error| of_table(classify(&e, fault, "cannot carry a schema change over"));
    // Whoever takes over ends sessions of this purpose.
    let session = dialer.session(apply::PURPOSE).await?;
    let (now, position) = progress::stand(&session, migration, fault).await?;
    match position {
        _ if now != epoch => return Ok(Committed::Fenced),
        Some(p) if p == *shift.next => return Ok(Committed::Yes),
        Some(p) if p == *shift.previous => {}
        other => return Err(apply::elsewhere(shift.previous, shift.next, other)),
    }
    let statements = change::statements(shift)?;
    apply::silence_triggers(&session, fault).await?;
    session.batch_execute(SETTINGS).await.map_err(failed)?;
    // First: whoever took over meanwhile has the row.
    let moved = session
        .execute(
            "update drover.drover_progress set position = $1, place = $2, position_text = $3, updated_at = now() \
             where migration = $4 and epoch = $5 and place = $6",
            &[
                &shift.next.to_bytes(),
                &progress::place(shift.next),
                &shift.next.text,
                &migration,
                &(epoch as i64),
                &progress::place(shift.previous),
            ],
        )
        .await
        .map_err(failed)?;
    if moved != 1 {
        session.batch_execute("rollback").await.map_err(failed)?;
        let (now, position) = progress::stand(&session, migration, fault).await?;
        return if now == epoch {
            Err(apply::elsewhere(shift.previous, shift.next, position))
        } else {
            Ok(Committed::Fenced)
        };
    }
    for sql in &statements {
        tracing::info!(statement = sql, "schema change");
        session.batch_execute(sql).await.map_err(|e| {
            let what = format!("cannot carry a schema change over: {sql}");
            let error = of_table(classify(&e, fault, what));
            match e.code() {
                Some(&SqlState::DUPLICATE_TABLE) => {
                    Error { code: codes::UNSUPPORTED.into(), retry: Retry::Never, ..error }
                        .remedy("give what is there another name or drop it, then resume")
                }
                _ => error,
            }
        })?;
    }
    let changed = shift.change.tables.iter().filter(|t| !t.apart && t.after.is_some()).filter_map(|t| t.id);
    for plan in changed.filter_map(|id| shift.after.plans.get(id as usize)).filter(|p| !p.is_gone()) {
        if let Some(why) = schema::misfit(&session, plan).await? {
            let what = format!("after the schema change the table is not what it should be: {why}");
            return Err(Error::new(codes::TABLE_CHANGED, fault, Retry::Never, what)
                .table(&plan.destination)
                .remedy("does somebody else change tables at the destination? Put it right by hand, then resume"));
        }
    }
    failpoint("schema-executed");
    // A commit whose answer is lost shows in the progress: whoever tries again finds it.
    session.batch_execute("commit").await.map_err(failed)?;
    failpoint("schema-made-not-noted");
    Ok(Committed::Yes)
}
