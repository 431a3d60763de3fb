//! Drover's writing sessions at a destination, and how they are ended. Guarantee: only a session that drover itself opened, for this
//! purpose and this migration, is ever killed.
//!
//! Each writing session holds a named lock of the server (`GET_LOCK`) for as long as it lives; the name holds purpose, migration and the
//! session's own number. A number is killed only while `IS_USED_LOCK` says that the lock of this very name is held by this very number:
//! numbers are given out again after a restart of the server, locks are not. The server lets go of such a lock after it has rolled the
//! session's transaction back, so its absence tells that the transaction is gone too.

use crate::connect::{Dialer, Session};
use crate::errors::{classify, number};
use crate::processes;
use drover_model::error::codes;
use drover_model::{Error, MigrationId, Result, Retry};
use drover_runtime::retry::Backoff;
use mysql_async::prelude::Queryable;
use std::time::Duration;

/// How long sessions that are being ended may take to go: a large transaction is rolled back first.
const GONE_WITHIN: Duration = Duration::from_secs(120);

/// Settings of a session that writes. Literals are bytes and mean what the column says; foreign keys do not fire, their effects are applied
/// from the log; keys are checked; commits of others are seen at once, so that a statement waits for single rows and not for gaps
/// between them; a list of keys is a range of the index, whatever limits the server has beyond which it would read the whole index instead.
const SETTINGS: &str = "SET NAMES binary, SESSION foreign_key_checks = 0, SESSION unique_checks = 1, \
    SESSION innodb_lock_wait_timeout = 60, SESSION lock_wait_timeout = 60 \
    /*!50709 , SESSION range_optimizer_max_mem_size = 0 */ \
    /*M!100509 , SESSION optimizer_max_sel_arg_weight = 0, SESSION in_predicate_conversion_threshold = 0 */";

/// What a writing session is for: part of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Apply,
    Load,
    /// Emptying a table for a new copy.
    Restart,
    /// Statements that commit by themselves.
    Schema,
}

impl Purpose {
    const ALL: [Purpose; 4] = [Purpose::Apply, Purpose::Load, Purpose::Restart, Purpose::Schema];

    fn word(self) -> &'static str {
        match self {
            Purpose::Apply => "apply",
            Purpose::Load => "load",
            Purpose::Restart => "restart",
            Purpose::Schema => "schema",
        }
    }
}

/// The lock that the session of this number holds; at most 64 characters.
fn lock(purpose: Purpose, migration: MigrationId, id: u64) -> String {
    format!("drover {} {} {id}", purpose.word(), migration.simple())
}

/// Opens a session that writes and can be ended by others that know migration and purpose. Gives it with its number.
pub async fn open(dialer: &Dialer, migration: MigrationId, purpose: Purpose) -> Result<(Session, u64)> {
    let mut session = dialer.session(purpose.word()).await?;
    session.run(SETTINGS, "cannot prepare a session").await?;
    read_committed(&mut session).await?;
    let id: Option<u64> = session.first("SELECT CONNECTION_ID()", "cannot prepare a session").await?;
    let id = id.ok_or_else(|| Error::internal("the server gave a session no number"))?;
    let sql = format!("SELECT GET_LOCK('{}', 0)", lock(purpose, migration, id));
    match session.first::<Option<u8>>(sql, "cannot take a session's lock").await? {
        Some(Some(1)) => Ok((session, id)),
        other => {
            let what = format!("the server refuses a session's lock ({other:?})");
            Err(Error::new(codes::STATEMENT, dialer.fault(), Retry::Other, what).remedy(
                "named locks (GET_LOCK) must work at the destination; a proxy in between may hide the sessions",
            ))
        }
    }
}

/// Row locks only, where the server's binary log allows it: with statements in the log it insists on gap locks.
async fn read_committed(session: &mut Session) -> Result<()> {
    let what = "cannot prepare a session";
    let format: Option<(bool, String)> = session.first("SELECT @@log_bin, @@binlog_format", what).await?;
    if format.is_some_and(|(on, format)| on && format.eq_ignore_ascii_case("statement")) {
        match session.query_drop("SET SESSION binlog_format = ROW").await {
            Ok(()) => {}
            // Not permitted: the server's default isolation stays, which locks more and is as right.
            Err(e) if number(&e).is_some() => return Ok(()),
            Err(e) => return Err(classify(&e, session.fault, what)),
        }
    }
    session.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", what).await
}

/// Which of these numbers are live sessions of this purpose and migration.
async fn alive(session: &mut Session, migration: MigrationId, purpose: Purpose, ids: &[u64]) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for part in ids.chunks(200) {
        let used: Vec<String> = part
            .iter()
            .map(|id| format!("SELECT {id} FROM DUAL WHERE IS_USED_LOCK('{}') = {id}", lock(purpose, migration, *id)))
            .collect();
        found.extend(session.all::<u64>(used.join(" UNION ALL "), "cannot look for drover's sessions").await?);
    }
    Ok(found)
}

/// The numbers of all live sessions of this purpose and migration, our own account's.
pub async fn of(session: &mut Session, migration: MigrationId, purpose: Purpose) -> Result<Vec<u64>> {
    let all = processes::list(session, "cannot look for drover's sessions").await?;
    let ids: Vec<u64> = all.iter().map(|process| process.id).collect();
    alive(session, migration, purpose, &ids).await
}

/// Ends those of these sessions that are of this purpose and migration, and waits until they and their transactions are gone. Gives
/// how many there were. Numbers of other sessions are left alone.
pub async fn end(session: &mut Session, migration: MigrationId, purpose: Purpose, ids: &[u64]) -> Result<u64> {
    let fault = session.fault;
    let mut left = alive(session, migration, purpose, ids).await?;
    let ended = left.len() as u64;
    let mut pauses = Backoff::new(GONE_WITHIN, Duration::from_millis(5), Duration::from_millis(200));
    for &id in &left {
        match session.query_drop(format!("KILL CONNECTION {id}")).await {
            Ok(()) => {}
            // 1094: it is gone already.
            Err(e) if number(&e) == Some(1094) => {}
            Err(e) => return Err(classify(&e, fault, format!("cannot end drover's former session {id}"))),
        }
    }
    while !left.is_empty() {
        let Some(pause) = pauses.pause() else {
            let what = format!("{} sessions of a former holder do not end", left.len());
            return Err(Error::new(codes::TIMEOUT, fault, Retry::Other, what)
                .remedy(format!("end the server's sessions {left:?} by hand")));
        };
        tokio::time::sleep(pause).await;
        left = alive(session, migration, purpose, &left).await?;
    }
    Ok(ended)
}

/// Breaks the statement under way of a session off. A number that is not of this purpose and migration is left alone.
pub async fn interrupt(dialer: &Dialer, migration: MigrationId, purpose: Purpose, id: u64) -> Result<()> {
    let mut session = dialer.session("cancel").await?;
    for id in alive(&mut session, migration, purpose, &[id]).await? {
        match session.query_drop(format!("KILL QUERY {id}")).await {
            Err(e) if number(&e) != Some(1094) => {
                return Err(classify(&e, session.fault, "cannot break a statement off"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends all sessions of this purpose and migration.
pub async fn end_all(session: &mut Session, migration: MigrationId, purpose: Purpose) -> Result<u64> {
    let ids = of(session, migration, purpose).await?;
    end(session, migration, purpose, &ids).await
}

/// Ends every writing session of a migration.
pub async fn end_everything(session: &mut Session, migration: MigrationId) -> Result<()> {
    for purpose in Purpose::ALL {
        end_all(session, migration, purpose).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_locks_fit() {
        for purpose in Purpose::ALL {
            assert!(lock(purpose, MigrationId::new_v4(), u64::from(u32::MAX)).len() <= 64);
        }
    }
}
