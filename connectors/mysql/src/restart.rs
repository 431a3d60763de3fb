//! Emptying a table for a new generation of its copy. Guarantee: rows of the new generation are never thrown away, however often the order
//! is given and whoever wakes up late; loads of older generations are refused from the moment that the generation is raised.
//!
//! TRUNCATE commits by itself, so this takes three steps: the generation is raised together with the number of the session that is going
//! to empty the table; the table is emptied; the number is taken out. Whoever finds a number ends that session first and empties the
//! table again: an attempt that froze in between has no session left in which it could do harm.

use crate::connect::{Dialer, Session};
use crate::errors::{classify, number};
use crate::progress::Home;
use crate::sessions::{self, Purpose};
use crate::sql;
use drover_model::error::codes;
use drover_model::{Error, MigrationId, Result, Retry, TablePlan};
use mysql_async::prelude::Queryable;

/// How often the row of a table's generation is tried to be changed.
const TRIES: u32 = 8;

/// Empties a table for a new generation of its copy. A generation that is begun already (or past) is left alone.
pub async fn restart_table(dialer: &Dialer, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()> {
    let (mut session, ours) = sessions::open(dialer, migration, Purpose::Restart).await?;
    let home = Home::of(&mut session, dialer, migration).await?;
    let begun = raise(&mut session, &home, migration, plan, generation, ours).await;
    if !begun.map_err(|e| e.table(&plan.destination))? {
        return Ok(());
    }
    let emptied = empty(&mut session, plan).await;
    emptied.map_err(|e| e.table(&plan.destination))?;
    for table in ["drover_misfit", "drover_misfit_value"] {
        let counts =
            format!("DELETE FROM {} WHERE migration = '{migration}' AND table_id = {}", home.table(table), plan.id);
        session.run(counts, "cannot forget what did not fit").await?;
    }
    let done = format!(
        "UPDATE {} SET session = NULL WHERE migration = '{migration}' AND table_id = {} AND session = {ours}",
        home.table("drover_table"),
        plan.id
    );
    session.run(done, "cannot note that a table is empty").await
}

/// Raises the generation, with our number beside it; `false`: it is begun and done, or past. Each statement is a transaction of its
/// own, so that nobody can freeze while it holds the row.
async fn raise(
    session: &mut Session,
    home: &Home,
    migration: MigrationId,
    plan: &TablePlan,
    generation: u32,
    ours: u64,
) -> Result<bool> {
    let what = "cannot begin a new copy of a table";
    let row = format!("migration = '{migration}' AND table_id = {}", plan.id);
    let table = home.table("drover_table");
    session.run("SET SESSION innodb_lock_wait_timeout = 2", what).await?;
    for _ in 0..TRIES {
        let sql = format!("SELECT generation, session FROM {table} WHERE {row}");
        let Some((now, other)) = session.first::<(u32, Option<u64>)>(sql, what).await? else {
            first_generation(session, home, migration, plan.id, 0).await?;
            continue;
        };
        if now > generation || (now == generation && other.is_none()) {
            return Ok(false);
        }
        if let Some(other) = other {
            sessions::end(session, migration, Purpose::Restart, &[other]).await?;
        }
        let found = other.map_or("NULL".to_owned(), |o| o.to_string());
        let sql = format!(
            "UPDATE {table} SET generation = {generation}, session = {ours} \
             WHERE {row} AND generation = {now} AND session <=> {found}"
        );
        match session.query_drop(sql).await {
            Ok(()) if session.affected_rows() == 1 => return Ok(true),
            Ok(()) => {}
            // A load of an older generation holds it; it is void anyway.
            Err(e) if number(&e) == Some(1205) => {
                let older = format!("{row} AND generation < {generation}");
                let loads = loading(session, home, &older).await?;
                sessions::end(session, migration, Purpose::Load, &loads).await?;
            }
            Err(e) => return Err(classify(&e, session.fault, what)),
        }
    }
    let what = "the generation of a table cannot be raised: others hold it all the time";
    Err(Error::new(codes::TIMEOUT, session.fault, Retry::Other, what))
}

async fn empty(session: &mut Session, plan: &TablePlan) -> Result<()> {
    let what = "cannot empty a table for a new copy";
    session.run("SET SESSION innodb_lock_wait_timeout = 60", what).await?;
    let name = sql::qualified(&plan.destination);
    match session.query_drop(format!("TRUNCATE TABLE {name}")).await {
        Ok(()) => Ok(()),
        // 1142: truncating asks for the permission to drop. 1701: foreign keys of others refer to it.
        Err(e) if matches!(number(&e), Some(1142 | 1701)) => session.run(format!("DELETE FROM {name}"), what).await,
        Err(e) => Err(classify(&e, session.fault, what)),
    }
}

/// Makes the generation of a table known, if it is not.
pub(crate) async fn first_generation(
    session: &mut Session,
    home: &Home,
    migration: MigrationId,
    table: u32,
    generation: u32,
) -> Result<()> {
    let sql = format!(
        "INSERT INTO {} (migration, table_id, generation) VALUES ('{migration}', {table}, {generation})",
        home.table("drover_table")
    );
    match session.query_drop(sql).await {
        Err(e) if number(&e) != Some(1062) => {
            Err(classify(&e, session.fault, "cannot write the generation of a table"))
        }
        _ => Ok(()),
    }
}

/// Sessions that hold marks of chunks which satisfy this condition and are not committed: marks say who wrote them, and a dirty read
/// sees them.
pub(crate) async fn loading(session: &mut Session, home: &Home, condition: &str) -> Result<Vec<u64>> {
    let what = "cannot look for a former attempt";
    session.run("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", what).await?;
    let sql = format!("SELECT session FROM {} WHERE {condition} AND `rows` IS NULL", home.table("drover_chunk"));
    Ok(session.all::<Option<u64>>(sql, what).await?.into_iter().flatten().collect())
}
