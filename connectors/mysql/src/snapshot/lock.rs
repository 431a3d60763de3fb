//! A lock that is asked for with little patience. While it waits, new statements of the application queue behind it; so a try is
//! stopped from outside after [`PATIENCE`], whatever the server does about its own timeouts.

use crate::connect::{Dialer, Session};
use crate::processes::{self, Process};
use drover_model::error::codes;
use drover_model::plan::Blur;
use drover_model::{Error, Position, Result};
use std::time::Duration;

/// So long a lock may be waited for.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// So long anything may take while a lock is held.
pub const HELD: Duration = Duration::from_secs(2);
/// What is under way after such a pause is no short statement.
const SHORT: Duration = Duration::from_millis(60);
/// A waiting replica, the server's own threads and idle sessions hold nothing up.
const IDLE: [&str; 7] = ["Sleep", "Daemon", "Binlog Dump", "Binlog Dump GTID", "Slave_IO", "Slave_SQL", "Slave_worker"];

/// What came of a try at a snapshot.
pub enum Try {
    Done(Position),
    /// Somewhere between this position and the end of the blur.
    Blurred(Position, Blur),
    /// Something was in the way: its description. Another try may help.
    Busy(String),
    /// This account or server cannot do it.
    Denied(Error),
}

/// What came of asking for a lock.
pub enum Acquired {
    /// It is held by this session.
    Locked(Session),
    Busy(String),
    Denied(Error),
}

/// Asks for a lock in a session of its own. `control` stops it and tells what it waited for.
pub async fn acquire(dialer: &Dialer, control: &mut Session, sql: &str) -> Result<Acquired> {
    let mut locker = dialer.session("lock").await?;
    // The second net: should we die, the server itself stops waiting.
    locker.run("SET SESSION lock_wait_timeout = 1", "cannot prepare a session").await?;
    let id = locker.id();
    let (outcome, waited_for) = {
        let asked = locker.run(sql, "cannot lock the source for a snapshot");
        tokio::pin!(asked);
        tokio::select! {
            done = &mut asked => (done, None),
            () = tokio::time::sleep(PATIENCE) => {
                let blockers = running(control, id).await;
                // If it was granted in this moment there is nothing to stop any more.
                let stopped = control.run(format!("KILL QUERY {id}"), "cannot stop waiting for a lock").await;
                if let Err(error) = &stopped {
                    tracing::debug!(%error, "a lock could not be given up by KILL; its own timeout ends it");
                }
                (asked.await, Some(blockers))
            }
        }
    };
    let error = match outcome {
        Ok(()) => return Ok(Acquired::Locked(locker)),
        Err(error) => error,
    };
    match waited_for {
        // What it may hold by now ends with its session.
        Some(blockers) => {
            let _ = locker.into_conn().disconnect().await;
            Ok(Acquired::Busy(blockers))
        }
        None if error.code == codes::TIMEOUT => Ok(Acquired::Busy(running(control, id).await)),
        None if error.code == codes::PERMISSION => Ok(Acquired::Denied(error)),
        None => Err(error),
    }
}

/// Statements of others that are under way, the longest first; none where none is, or none can be seen.
async fn statements(control: &mut Session) -> Result<Vec<Process>> {
    let own = u64::from(control.id());
    let mut found = processes::list(control, "cannot see which statements are running").await?;
    found.retain(|p| {
        p.id != own
            && p.statement.is_some()
            && !IDLE.contains(&p.command.as_str())
            && !["system user", "event_scheduler"].contains(&p.user.as_str())
    });
    found.sort_by_key(|p| std::cmp::Reverse(p.seconds));
    Ok(found)
}

fn describe(process: &Process) -> String {
    let statement = process.statement.as_deref().unwrap_or_default();
    let mut short: String = statement.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
    if short.is_empty() {
        short = "a transaction".into();
    }
    format!("connection {} of {}, for {} s: {short}", process.id, process.user, process.seconds)
}

/// Statements that have been running for a while: what a flush must not meet. `None` if there is none.
pub async fn long_statements(control: &mut Session) -> Result<Option<String>> {
    let before = statements(control).await?;
    if before.is_empty() {
        return Ok(None);
    }
    tokio::time::sleep(SHORT).await;
    let after = statements(control).await?;
    let still = |a: &Process| before.iter().any(|b| b.id == a.id && b.statement == a.statement);
    Ok(after.iter().find(|a| a.seconds > 1 || still(a)).map(describe))
}

/// What is under way, for people: a lock was asked for in vain by session `but`.
async fn running(control: &mut Session, but: u32) -> String {
    let mut found: Vec<String> = match statements(control).await {
        Ok(list) => list.iter().filter(|p| p.id != u64::from(but)).map(describe).collect(),
        Err(error) => return format!("something holds the lock up ({error})"),
    };
    let sql = "SELECT CAST(trx_mysql_thread_id AS SIGNED), CAST(TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS SIGNED) \
        FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0 ORDER BY trx_started LIMIT 3";
    let open: Result<Vec<(i64, Option<i64>)>> = control.all(sql, "cannot see which transactions are open").await;
    for (thread, seconds) in open.unwrap_or_default() {
        found.push(format!("an open transaction of connection {thread}, for {} s", seconds.unwrap_or(0)));
    }
    found.truncate(3);
    if found.is_empty() { "a transaction or statement that this account may not see".into() } else { found.join("; ") }
}
