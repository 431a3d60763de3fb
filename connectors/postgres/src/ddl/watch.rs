//! The event triggers at the source. Guarantee: while they are there, each committed schema change of a published table stands in the log at its
//! place in its transaction, with the table's structure right behind the statement; no statement of the application fails because of them, and
//! nothing of them stays behind a cleanup.
//!
//! Only superusers may create event triggers, and servers before version 14 do not hand messages on. Where there are none the stream ends when a row
//! shows that its table has changed.

use crate::catalog;
use crate::connect::Session;
use crate::errors::classify;
use crate::slot::Names;
use crate::sql::{ident, literal, qualified};
use drover_model::{Error, Fault, Result};
use tokio_postgres::error::SqlState;

/// From this version on the log's messages come with the stream.
const SINCE: u32 = 140_000;

/// Where the function lives: not in the application's schemas, and in none that a role's own name could lead to.
const SCHEMA: &str = "drover_ddl";

/// What begins messages that say nothing.
const PAD: &str = "drover pad";

/// What begins a message in the log; each migration has its own.
pub fn prefix(publication: &str) -> String {
    format!("drover ddl {publication}")
}

/// Names of the function and of the triggers: short enough for any name of a migration.
struct Own {
    function: String,
    triggers: [String; 3],
}

impl Own {
    fn of(names: &Names) -> Own {
        let id = names.publication.rsplit('_').next().unwrap_or(&names.publication);
        let triggers = ["changed", "dropped", "rewritten"].map(|what| format!("drover_{id}_{what}"));
        Own { function: qualified(SCHEMA, &format!("tell_{id}")), triggers }
    }
}

fn say(error: &tokio_postgres::Error, what: &str) -> Error {
    classify(error, Fault::Source, what)
}

/// The statements that create function and triggers on a server of this version.
fn statements(version: u32, names: &Names) -> String {
    let own = Own::of(names);
    let of = |relation: &str| format!("q.{relation} = ANY (d_every)");
    let types = "q.oid IN (WITH RECURSIVE t(oid) AS (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = ANY (d_every) AND a.attnum > 0 \
         UNION SELECT x.oid FROM t JOIN pg_type y ON y.oid = t.oid CROSS JOIN LATERAL (VALUES (y.typelem), (y.typbasetype)) x(oid) \
         WHERE x.oid <> 0) SELECT t.oid FROM t)";
    let conditions = [of("oid"), of("relid"), types.to_owned(), of("relid"), of("relid"), of("owner_relid")];
    let queries: Vec<String> = catalog::told_queries(version)
        .into_iter()
        .zip(conditions)
        .map(|((name, sql), condition)| {
            format!("'{name}', coalesce((SELECT jsonb_agg(to_jsonb(q)) FROM (\n{sql}\n) q WHERE {condition}), '[]')")
        })
        .collect();
    let [changed, dropped, rewritten] = own.triggers.each_ref().map(|t| ident(t));
    include_str!("watch.sql")
        .replace("{queries}", &queries.join(",\n"))
        .replace("{function}", &own.function)
        .replace("{publication}", &literal(&names.publication))
        .replace("{prefix}", &literal(&prefix(&names.publication)))
        .replace("{pad}", &literal(PAD))
        .replace("{changed}", &changed)
        .replace("{dropped}", &dropped)
        .replace("{rewritten}", &rewritten)
}

/// Creates them, all or none. `false`: this server has no way of telling, or the account may not create them.
pub async fn create(session: &Session, version: u32, names: &Names) -> Result<bool> {
    if version < SINCE {
        return Ok(false);
    }
    let sql = format!("create schema if not exists {SCHEMA}; {}", statements(version, names));
    // One message is one transaction.
    match session.batch_execute(&sql).await {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_OBJECT)) => {
            let why = Error { remedy: None, ..classify(&e, Fault::Source, "no event triggers at the source") };
            tracing::warn!(
                %why,
                "the account may not create event triggers: a schema change of a table that is followed will end the migration"
            );
            Ok(false)
        }
        Err(e) => Err(say(&e, "cannot create event triggers")),
    }
}

/// Whether they are there and at work.
pub async fn exists(session: &Session, names: &Names) -> Result<bool> {
    let own = Own::of(names);
    let sql = "select count(*) = 3 from pg_event_trigger where evtname = any($1) and evtenabled = 'A'";
    let row = session.query_one(sql, &[&own.triggers.to_vec()]).await;
    Ok(row.map_err(|e| say(&e, "cannot look for event triggers"))?.get(0))
}

/// Drops what [`create`] made. Tells what it did.
pub async fn drop(session: &Session, names: &Names) -> Result<Vec<String>> {
    let own = Own::of(names);
    let sql = "select evtname::text from pg_event_trigger where evtname = any($1) order by 1";
    let found = session.query(sql, &[&own.triggers.to_vec()]).await;
    let mut did = Vec::new();
    for row in found.map_err(|e| say(&e, "cannot look for event triggers"))? {
        let name: String = row.get(0);
        let sql = format!("drop event trigger if exists {}", ident(&name));
        session.batch_execute(&sql).await.map_err(|e| say(&e, "cannot drop an event trigger"))?;
        did.push(format!("dropped event trigger {name}"));
    }
    let there = session.query_one("select to_regprocedure($1) is not null", &[&format!("{}()", own.function)]).await;
    if there.map_err(|e| say(&e, "cannot look for the function of the event triggers"))?.get(0) {
        let sql = format!("drop function if exists {}()", own.function);
        session.batch_execute(&sql).await.map_err(|e| say(&e, "cannot drop the function of the event triggers"))?;
        did.push(format!("dropped function {}", own.function));
        // Another migration, or a destination's progress, may lie in it: then it stays.
        match session.batch_execute(&format!("drop schema if exists {SCHEMA}")).await {
            Ok(()) => did.push(format!("dropped schema {SCHEMA}")),
            Err(e) if e.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {}
            Err(e) => return Err(say(&e, "cannot drop drover's schema")),
        }
    }
    Ok(did)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        let names = Names::new("a-name", uuid::Uuid::nil());
        let sql = statements(150_000, &names);
        assert!(!sql.contains("{f") && !sql.contains("{p") && !sql.contains("{q") && !sql.contains("{c"), "{sql}");
        assert!(sql.contains("'drover ddl drover_a_name_00000000'") && sql.contains("\"drover_00000000_changed\""));
    }
}
