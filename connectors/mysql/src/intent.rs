//! Schema changes at the destination, exactly once. DDL commits by itself here, so that progress and change cannot lie in one transaction.
//!
//! Guarantee: whatever is killed and whenever, each statement of a change is executed once, in order, by the holder of the epoch, and the progress
//! passes the change when all are done. How: before a statement its *intent* is written, with a fingerprint of the tables that it is about. Whoever
//! comes upon an intent ends the session that had it (the server undoes or completes what that was doing), and compares: tables that are as they
//! were before have not been changed. Statements of which the fingerprint does not tell whether they ran do no harm when they run again, since
//! nothing is applied between.

use crate::apply;
use crate::connect::{Dialer, Session};
use crate::ddl::zone;
use crate::errors::classify;
use crate::progress::{self, Home};
use crate::schema::change::{Made, statements};
use crate::schema::{self, prepare};
use crate::sessions::{self, Purpose};
use crate::sql;
use crate::typemap::Known;
use drover_connectors_api::{Committed, Shift};
use drover_model::error::codes;
use drover_model::schema::TableName;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};
use drover_runtime::failpoint;
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use xxhash_rust::xxh3::xxh3_128;

const WHAT: &str = "cannot carry a schema change over";

/// See [`drover_connectors_api::Destination::change_schema`].
pub async fn change_schema(
    dialer: &Dialer,
    known: &Known,
    migration: MigrationId,
    epoch: u64,
    shift: &Shift<'_>,
) -> Result<Committed> {
    let (mut session, id) = sessions::open(dialer, migration, Purpose::Apply).await?;
    let home = Home::of(&mut session, dialer, migration).await?;
    let (now, position) = progress::stand(&mut session, &home, migration).await?;
    match position {
        _ if now != epoch => return Ok(Committed::Fenced),
        Some(p) if p == *shift.next => return Ok(Committed::Yes),
        Some(p) if p == *shift.previous => {}
        other => return Err(apply::elsewhere(shift.previous, shift.next, other)),
    }
    let run = Run { home: &home, migration, epoch, id, place: hex(&progress::place(shift.next)) };
    if shift.change.acts() {
        let made = statements(shift, known)?;
        prepare(&mut session).await?;
        like_the_source(&mut session, shift).await?;
        for (number, made) in made.iter().enumerate() {
            if !run.once(&mut session, number, made).await.map_err(|e| with_table(e, shift))? {
                return Ok(Committed::Fenced);
            }
        }
        fits(&mut session, shift).await?;
    }
    failpoint("schema-made-not-noted");
    run.close(&mut session, dialer, shift.previous, shift.next).await
}

fn with_table(error: Error, shift: &Shift<'_>) -> Error {
    match shift.change.table() {
        Some(table) if error.table.is_none() => error.table(table),
        _ => error,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a String does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// What the statement's meaning depends on, as it was in the session that wrote it: how strict it was, when, and in which zone.
async fn like_the_source(session: &mut Session, shift: &Shift<'_>) -> Result<()> {
    let context = &shift.change.context;
    let mut settings = Vec::new();
    if let Some(modes) = context.get("sql_mode") {
        settings.push(format!("SESSION sql_mode = {}", sql::text(modes)));
    }
    if let Some(zone) = context.get("time_zone") {
        settings.push(format!("SESSION time_zone = {}", sql::text(zone)));
    }
    if let Some(time) = context.get("timestamp").filter(|t| t.chars().all(|c| c.is_ascii_digit() || c == '.')) {
        settings.push(format!("SESSION timestamp = {time}"));
    }
    for setting in settings {
        match session.query_drop(format!("SET {setting}")).await {
            Ok(()) => {}
            // In another zone values would become other ones.
            Err(mysql_async::Error::Server(e))
                if context.contains_key(zone::NEEDED) && setting.contains("time_zone") =>
            {
                let what =
                    format!("the schema change hangs on a time zone that the destination does not know: {}", e.message);
                return Err(Error::new(codes::TABLE_CHANGED, Fault::Destination, Retry::Never, what).remedy(
                    "load the zones at the destination (mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql mysql), then resume",
                ));
            }
            Err(mysql_async::Error::Server(e)) => {
                tracing::warn!(
                    setting,
                    why = e.message,
                    "a schema change is made without a setting of the source's session"
                );
            }
            Err(e) => return Err(classify(&e, session.fault, WHAT)),
        }
    }
    Ok(())
}

/// The tables are what rows will be written to.
async fn fits(session: &mut Session, shift: &Shift<'_>) -> Result<()> {
    let changed = shift.change.tables.iter().filter(|t| !t.apart && t.after.is_some()).filter_map(|t| t.id);
    for plan in changed.filter_map(|id| shift.after.plans.get(id as usize)).filter(|p| !p.is_gone()) {
        if let Some(why) = schema::misfit(session, plan).await? {
            let what = format!("after the schema change the table is not what it should be: {why}");
            return Err(Error::new(codes::TABLE_CHANGED, Fault::Destination, Retry::Never, what)
                .table(&plan.destination)
                .remedy("does somebody else change tables at the destination? Put it right by hand, then resume"));
        }
    }
    Ok(())
}

struct Run<'a> {
    home: &'a Home,
    migration: MigrationId,
    epoch: u64,
    /// The server's number of the session.
    id: u64,
    /// Of the change.
    place: String,
}

impl Run<'_> {
    fn intents(&self) -> String {
        self.home.table("drover_intent")
    }

    fn key(&self, number: usize) -> String {
        format!("migration = '{}' AND step = 'change {} {number}'", self.migration, self.place)
    }

    /// Executes one statement unless it was executed. `false`: another holds the epoch.
    async fn once(&self, session: &mut Session, number: usize, made: &Made) -> Result<bool> {
        let known: Option<(String, Option<String>, u64)> = session
            .first(
                format!(
                    "SELECT fingerprint_before, fingerprint_after, session FROM {} WHERE {}",
                    self.intents(),
                    self.key(number)
                ),
                WHAT,
            )
            .await?;
        match known {
            Some((_, Some(_), _)) => return Ok(true),
            Some((before, None, former)) => {
                sessions::end(session, self.migration, Purpose::Apply, &[former]).await?;
                if fingerprint(session, &made.tables).await? != before {
                    tracing::info!(statement = made.sql, "a schema change had been made already");
                    self.done(session, number, made).await?;
                    return Ok(true);
                }
            }
            None => {}
        }
        let before = fingerprint(session, &made.tables).await?;
        let mut intent = format!(
            "REPLACE INTO {} (migration, step, statement, fingerprint_before, session) \
             SELECT '{}', 'change {} {number}', CONVERT(",
            self.intents(),
            self.migration,
            self.place
        )
        .into_bytes();
        sql::put_hex(&mut intent, made.sql.as_bytes());
        intent.extend_from_slice(
            format!(
                " USING utf8mb4), '{before}', {} FROM {} WHERE migration = '{}' AND epoch = {} FOR UPDATE",
                self.id,
                self.home.table("drover_progress"),
                self.migration,
                self.epoch
            )
            .as_bytes(),
        );
        session.query_drop(intent).await.map_err(|e| classify(&e, session.fault, WHAT))?;
        if session.affected_rows() == 0 {
            return Ok(false);
        }
        failpoint("schema-intent-written");
        tracing::info!(statement = made.sql, "schema change");
        if let Some(database) = &made.database {
            session.run(format!("USE {}", sql::name(database)), WHAT).await?;
        }
        match session.query_drop(made.sql.as_str()).await {
            Ok(()) => {}
            // No such index or key.
            Err(mysql_async::Error::Server(e)) if made.drops && matches!(e.code, 1091 | 1176) => {
                tracing::warn!(statement = made.sql, why = e.message, "the destination has no such index or key");
            }
            Err(mysql_async::Error::Server(e)) if made.lenient => {
                tracing::error!(
                    statement = made.sql,
                    why = e.message,
                    "the destination does not take this: it is left out"
                );
            }
            Err(e) => {
                let what = format!("cannot carry a schema change over: {}", made.sql);
                let error = classify(&e, session.fault, what);
                return Err(match e {
                    // There is a table of this name.
                    mysql_async::Error::Server(e) if e.code == 1050 => {
                        Error { code: codes::UNSUPPORTED.into(), retry: Retry::Never, ..error }
                            .remedy("give what is there another name or drop it, then resume")
                    }
                    _ => error,
                });
            }
        }
        failpoint("schema-executed");
        self.done(session, number, made).await?;
        Ok(true)
    }

    async fn done(&self, session: &mut Session, number: usize, made: &Made) -> Result<()> {
        let after = fingerprint(session, &made.tables).await?;
        let sql = format!("UPDATE {} SET fingerprint_after = '{after}' WHERE {}", self.intents(), self.key(number));
        session.run(sql, WHAT).await
    }

    /// Moves the progress past the change, and forgets the intents.
    async fn close(
        &self,
        session: &mut Session,
        dialer: &Dialer,
        previous: &Position,
        next: &Position,
    ) -> Result<Committed> {
        let fault = dialer.fault();
        session.run("START TRANSACTION", WHAT).await?;
        let mut update = format!("UPDATE {} SET ", self.home.table("drover_progress")).into_bytes();
        progress::put_position(&mut update, next);
        update.extend_from_slice(
            format!(" WHERE migration = '{}' AND epoch = {} AND place = ", self.migration, self.epoch).as_bytes(),
        );
        sql::put_hex(&mut update, &progress::place(previous));
        session.query_drop(update).await.map_err(|e| classify(&e, fault, WHAT))?;
        if session.affected_rows() != 1 {
            session.run("ROLLBACK", WHAT).await?;
            let (epoch, position) = progress::stand(session, self.home, self.migration).await?;
            return if epoch == self.epoch {
                Err(apply::elsewhere(previous, next, position))
            } else {
                Ok(Committed::Fenced)
            };
        }
        let forget = format!("DELETE FROM {} WHERE migration = '{}'", self.intents(), self.migration);
        session.run(forget, WHAT).await?;
        // A commit whose answer is lost shows in the progress: whoever tries again finds it.
        session.run("COMMIT", WHAT).await?;
        Ok(Committed::Yes)
    }
}

/// What these tables are like: their definitions without what counts on by itself.
async fn fingerprint(session: &mut Session, tables: &[TableName]) -> Result<String> {
    let mut all = String::new();
    for table in tables {
        let shown = session.query_first::<Row, _>(format!("SHOW CREATE TABLE {}", sql::qualified(table))).await;
        match shown {
            Ok(row) => {
                let text: Vec<u8> = row.and_then(|r| r.get(1)).unwrap_or_default();
                all.push_str(&without_counter(&String::from_utf8_lossy(&text)));
            }
            // No such database or table.
            Err(mysql_async::Error::Server(e)) if matches!(e.code, 1049 | 1146) => all.push('-'),
            Err(e) => return Err(classify(&e, session.fault, WHAT)),
        }
        all.push('\0');
    }
    Ok(format!("{:032x}", xxh3_128(all.as_bytes())))
}

fn without_counter(text: &str) -> String {
    let Some(at) = text.rfind(" AUTO_INCREMENT=") else { return text.to_owned() };
    let tail = &text[at + " AUTO_INCREMENT=".len()..];
    let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{rest}", &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_on_is_no_change() {
        let a = "CREATE TABLE `t` (\n `id` int NOT NULL AUTO_INCREMENT\n) ENGINE=InnoDB AUTO_INCREMENT=17 DEFAULT CHARSET=utf8mb4";
        assert_eq!(without_counter(a), without_counter(&a.replace("=17", "=9000")));
        assert!(without_counter(a).contains("NOT NULL AUTO_INCREMENT\n"));
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
