//! A lock that is asked for with little patience. While it waits, new statements of the application queue behind it; so a try is
//! stopped from outside after [`PATIENCE`], whatever the server does about its own timeouts.

use crate::connect::{Dialer, Session};
use drover_model::error::codes;
use drover_model::plan::Blur;
use drover_model::{Error, Position, Result};
use mysql_async::Row;
use std::time::Duration;

/// So long a lock may be waited for.
pub const PATIENCE: Duration = Duration::from_millis(300);
/// So long anything may take while a lock is held.
pub const HELD: Duration = Duration::from_secs(2);
/// What is under way after such a pause is no short statement.
const SHORT: Duration = Duration::from_millis(60);

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

/// Statements of others that are under way, the longest first; `None` where none is, or none can be seen.
async fn statements(control: &mut Session) -> Result<Vec<(u64, String, u64, String)>> {
    // A waiting replica, the server's own threads and idle sessions hold nothing up.
    let sql = "SELECT ID, USER, TIME, COALESCE(STATE, ''), LEFT(COALESCE(INFO, ''), 200) FROM information_schema.PROCESSLIST \
        WHERE COMMAND NOT IN ('Sleep', 'Daemon', 'Binlog Dump', 'Binlog Dump GTID', 'Slave_IO', 'Slave_SQL', 'Slave_worker') \
        AND ID <> CONNECTION_ID() AND USER NOT IN ('system user', 'event_scheduler') AND INFO IS NOT NULL ORDER BY TIME DESC";
    let rows: Vec<Row> = control.all(sql, "cannot see which statements are running").await?;
    let read = |row: Row| -> Option<(u64, String, u64, String)> {
        let text = |i: usize| row.get_opt::<Option<String>, _>(i)?.ok()?;
        let number = |i: usize| row.get_opt::<Option<i64>, _>(i)?.ok()?;
        let id = u64::try_from(number(0)?).ok()?;
        let seconds = u64::try_from(number(2).unwrap_or(0)).unwrap_or(0);
        Some((id, text(1).unwrap_or_default(), seconds, text(4).unwrap_or_default()))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

fn describe(id: u64, user: &str, seconds: u64, info: &str) -> String {
    let mut short: String = info.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
    if short.is_empty() {
        short = "a transaction".into();
    }
    format!("connection {id} of {user}, for {seconds} s: {short}")
}

/// Statements that have been running for a while: what a flush must not meet. `None` if there is none.
pub async fn long_statements(control: &mut Session) -> Result<Option<String>> {
    let before = statements(control).await?;
    if before.is_empty() {
        return Ok(None);
    }
    tokio::time::sleep(SHORT).await;
    let after = statements(control).await?;
    let same = after.into_iter().find(|a| a.2 > 1 || before.iter().any(|b| b.0 == a.0 && b.3 == a.3));
    Ok(same.map(|(id, user, seconds, info)| describe(id, &user, seconds, &info)))
}

/// What is under way, for people: a lock was asked for in vain by session `but`.
async fn running(control: &mut Session, but: u32) -> String {
    let mut found: Vec<String> = match statements(control).await {
        Ok(list) => {
            list.into_iter().filter(|s| s.0 != u64::from(but)).map(|(i, u, s, t)| describe(i, &u, s, &t)).collect()
        }
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
