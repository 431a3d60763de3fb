//! How a snapshot is taken, so that its position is exact and no statement of an application waits noticeably. The ways, in the order in which
//! they are tried:
//!
//! - MariaDB: without any lock. A session there knows the place of the log that its snapshot has; all sessions are opened at once, again
//!   until they have the same. Then under `FLUSH TABLES WITH READ LOCK`, which does not wait for readers there. In the end with one session,
//!   which always is exact.
//! - MySQL from 8: under `LOCK TABLES … READ` of the selected tables, then `FLUSH TABLES WITH READ LOCK`, then without a lock
//!   ([`super::window`]).
//! - MySQL before 8: `FLUSH TABLES WITH READ LOCK`, then without a lock.
//! - MySQL where none of these may be had: between two marks in the log ([`super::marked`]).
//!
//! What is wrong with `FLUSH TABLES WITH READ LOCK` on MySQL: it declares all open tables outdated before it waits for their readers. New
//! statements on such a table wait for the *old reader*, even when our statement was killed long ago. So it is tried only while no
//! statement has been running for a while. `LOCK TABLES … READ` is only a wait for writing transactions of these tables; given up, it leaves nothing
//! behind. (Before version 8 it does not keep cascading foreign keys out, and so it is no way there.)
//!
//! Each try is short ([`lock::PATIENCE`]), because new statements queue behind it. Between tries there are pauses that become longer.

use super::lock::{self, Try};
use super::{Set, lost, marked, place_seen, window};
use crate::connect::{Dialer, Session};
use crate::position::{self, Before};
use crate::sql::qualified;
use crate::wire::Wire;
use drover_model::error::codes;
use drover_model::plan::{Blur, SnapshotRef};
use drover_model::schema::TableName;
use drover_model::{Error, Fault, Position, Result, Retry, TablePlan};
use futures::future::{join_all, try_join_all};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Begins a transaction on a snapshot of now.
pub(super) const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
/// Each session has this savepoint at the start of its transaction. Going back to it gives up the metadata locks of the tables
/// that were read since, so that the application's DDL never waits for more than a chunk.
pub(super) const MARK: &str = "SAVEPOINT drover";
/// See [`MARK`].
pub(crate) const BACK: &str = "ROLLBACK TO SAVEPOINT drover";

/// Before each session's transaction. Text comes as it is stored.
const READING: &str = "SET SESSION lock_wait_timeout = 60, SESSION character_set_results = NULL";

/// So long other ways than those that need nothing but patience are tried.
const LONG: Duration = Duration::from_secs(45);
/// See [`Wanted::lull`]. Some milliseconds without a commit are enough, and four writers without a pause leave such in every second.
pub const LULL: Duration = Duration::from_secs(3);
/// First and longest pause between two rounds.
const PAUSES: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(8));
/// `LOCK TABLES` opens each table while those before are locked already: beyond so many it would hold writers up.
const MANY: usize = 1000;

/// What a snapshot is to be of.
pub struct Wanted<'a> {
    pub dialer: &'a Dialer,
    /// Sessions to open: chunks read at once.
    pub readers: usize,
    pub tables: &'a [TablePlan],
    /// Lineage of the position.
    pub lineage: u32,
    /// A stream has to meet it: without a known position it is of no use.
    pub exact: bool,
    /// Between marks ([`super::marked`]) a lull is waited for that long before a snapshot is taken whose place is not exact. [`LULL`] as a rule.
    pub lull: Duration,
}

/// What of the server decides how.
pub(super) struct Server {
    pub session: Session,
    /// It writes a binary log, and this account may see where that stands.
    pub logs: bool,
    /// MySQL: transactions become visible in the order of the log.
    pub ordered: bool,
    /// And they have GTIDs.
    pub ordered_gtids: bool,
    /// Statements of all accounts can be seen.
    pub sees_all: bool,
}

impl Server {
    async fn look(dialer: &Dialer, exact: bool) -> Result<Server> {
        let mut session = dialer.session("snapshot").await?;
        let what = "cannot ask how the source writes its log";
        let mut logs = session.first::<i64>("SELECT @@GLOBAL.log_bin", what).await?.unwrap_or(0) != 0;
        match position::status(&mut session).await {
            Ok(_) => {}
            // Who may not follow the log copies only.
            Err(error) if !exact && (!logs || error.code == codes::PERMISSION) => logs = false,
            Err(error) => return Err(error),
        }
        let (mut ordered, mut ordered_gtids) = (false, false);
        if session.version.mysql(50_600) {
            let sql = "SELECT @@GLOBAL.binlog_order_commits = 1";
            ordered = session.first::<i64>(sql, what).await?.unwrap_or(0) != 0;
        }
        if ordered && session.version.mysql(50_700) {
            let sql = "SELECT @@GLOBAL.gtid_mode = 'ON'";
            ordered_gtids = session.first::<i64>(sql, what).await?.unwrap_or(0) != 0;
        }
        let sql =
            "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN ('PROCESS', 'SUPER')";
        let sees_all = session.first::<i64>(sql, what).await?.unwrap_or(0) > 0;
        Ok(Server { session, logs, ordered, ordered_gtids, sees_all })
    }
}

/// A way to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Free,
    Tables,
    Global,
    Marked,
}

fn ways(server: &Server, tables: usize) -> Vec<Way> {
    let version = &server.session.version;
    if version.is_mariadb() {
        return if server.logs { vec![Way::Free, Way::Global] } else { vec![Way::Global] };
    }
    let mut ways = Vec::new();
    let few = (1..=MANY).contains(&tables);
    if version.mysql(80_000) && few {
        ways.push(Way::Tables);
    }
    if server.sees_all {
        ways.push(Way::Global);
    }
    if server.logs && server.ordered_gtids {
        ways.push(Way::Free);
    }
    ways
}

/// Takes a snapshot. Its position is exact if the server writes a binary log; else it is for people only.
///
/// # Errors
/// TIMEOUT if the lock could not be had for long, naming what holds it up; PERMISSION or CONFIGURATION if there is no way at all.
pub async fn take(wanted: &Wanted<'_>) -> Result<Arc<Set>> {
    let mut server = Server::look(wanted.dialer, wanted.exact).await?;
    let mut sessions = try_join_all((0..wanted.readers.max(1)).map(|_| reading(wanted.dialer))).await?;
    let mut ways = ways(&server, wanted.tables.len());
    let begun = Instant::now();
    let mut pause = PAUSES.0;
    let mut waits_for = String::new();
    let mut denied = None;
    let mut tried_marks = false;
    loop {
        for way in ways.clone() {
            let tried = match way {
                Way::Free => window::open(&mut server, &mut sessions, wanted.lineage).await?,
                Way::Marked => marked::open(wanted, &mut server, &mut sessions, begun.elapsed() >= wanted.lull).await?,
                Way::Tables | Way::Global => {
                    let sql = match way {
                        Way::Tables => lock_tables(wanted.tables),
                        _ => "FLUSH TABLES WITH READ LOCK".to_owned(),
                    };
                    under_lock(wanted, &mut server, &mut sessions, &sql, way == Way::Global).await?
                }
            };
            match tried {
                Try::Done(position) => return finish(wanted, &server, sessions, position, None).await,
                Try::Blurred(position, blur) => return finish(wanted, &server, sessions, position, Some(blur)).await,
                Try::Busy(why) => waits_for = why,
                Try::Denied(error) => {
                    tracing::debug!(%error, ?way, "this way to a snapshot is barred");
                    ways.retain(|w| *w != way);
                    denied = Some(error);
                }
            }
        }
        if !server.logs {
            // The source must not be written to during such a copy anyhow; the lock would only have made sure.
            if ways.is_empty() || begun.elapsed() > LONG {
                tracing::warn!(
                    waits_for,
                    "the sessions of this copy are not on one snapshot: the source must not be written to"
                );
                begin_all(&mut sessions).await?;
                return finish(wanted, &server, sessions, nowhere(wanted.lineage, "no binary log".into()), None).await;
            }
        } else if ways.is_empty() && !wanted.exact {
            // A session agrees with itself, and no stream has to meet it.
            sessions.truncate(1);
            begin_all(&mut sessions).await?;
            let about = position::status(&mut server.session).await?.place;
            tracing::warn!("no lock can be had: all chunks are read by one session, which alone has a snapshot");
            return finish(wanted, &server, sessions, nowhere(wanted.lineage, format!("about {about}")), None).await;
        } else if ways.is_empty() && server.ordered && !tried_marks {
            tried_marks = true;
            ways.push(Way::Marked);
            continue;
        } else if ways.is_empty() {
            return Err(no_way(&server, denied));
        } else if begun.elapsed() > LONG || ways == [Way::Free] {
            // The fewer sessions, the easier they agree, and the sooner they have begun.
            if (ways.contains(&Way::Free) || ways == [Way::Marked]) && sessions.len() > 1 {
                let fewer = sessions.len().div_ceil(2);
                sessions.truncate(fewer);
                tracing::warn!(waits_for, sessions = fewer, "the snapshot is taken with fewer sessions");
                continue;
            }
            if begun.elapsed() > 2 * LONG {
                return Err(too_long(&waits_for, &server, &ways));
            }
        }
        tracing::warn!(waits_for, "waiting to take a snapshot");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn too_long(waits_for: &str, server: &Server, ways: &[Way]) -> Error {
    let text = format!("no snapshot could be taken without holding up the application: {waits_for}");
    let error = Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, text);
    if ways == [Way::Marked] {
        return error.remedy(format!("{}; drover tries again", grants(server)));
    }
    error.remedy("wait for these statements and transactions to end, or end them; drover tries again")
}

fn no_way(server: &Server, denied: Option<Error>) -> Error {
    let text = "the account can take no snapshot whose position is known";
    let mut error = Error::new(codes::PERMISSION, Fault::Source, Retry::Other, text).remedy(grants(server));
    error.causes.extend(denied.map(|d| d.to_string()));
    error
}

/// What lets a snapshot with a known position be taken.
fn grants(server: &Server) -> &'static str {
    let version = &server.session.version;
    if version.is_mariadb() {
        "grant it RELOAD"
    } else if version.mysql(80_000) {
        "grant it LOCK TABLES on the selected databases, or RELOAD and PROCESS, or ALL on a database drover of its own, or set gtid_mode = ON; \
         the last two need binlog_order_commits = ON"
    } else {
        "grant it RELOAD and PROCESS, or ALL on a database drover of its own, or set gtid_mode = ON; the last two need binlog_order_commits = ON"
    }
}

/// A position for people.
fn nowhere(lineage: u32, text: String) -> Position {
    Position { lineage, order: vec![0; 16], resume: Vec::new(), text }
}

/// A session that is ready to begin.
async fn reading(dialer: &Dialer) -> Result<Wire> {
    let mut wire = Wire::connect(dialer, "read").await?;
    wire.run(READING, "cannot prepare a reading session").await?;
    if wire.version.is_mariadb() {
        // Else it keeps the metadata locks of all tables to the end. Needs a privilege; without it DDL waits for the copy.
        if let Err(error) = wire.run("SET SESSION sql_log_bin = 0", "cannot prepare a reading session").await {
            tracing::debug!(%error, "the application's schema changes will wait for the copy");
        }
    }
    Ok(wire)
}

fn lock_tables(tables: &[TablePlan]) -> String {
    let names: Vec<&TableName> = tables.iter().map(|t| &t.source).collect();
    let list: Vec<String> = names.iter().map(|t| format!("{} READ", qualified(t))).collect();
    format!("LOCK TABLES {}", list.join(", "))
}

/// Begins a transaction in every session at once.
pub(super) async fn begin_all(sessions: &mut [Wire]) -> Result<()> {
    let what = "cannot begin a transaction on a snapshot";
    let begun = join_all(sessions.iter_mut().map(|s| s.run(BEGIN, what)));
    let late = |_| Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what);
    let begun = tokio::time::timeout(lock::HELD, begun).await.map_err(late)?;
    begun.into_iter().collect()
}

/// Ends what was begun for a try that came to nothing.
pub(super) async fn give_up(sessions: &mut [Wire]) -> Result<()> {
    let ended = join_all(sessions.iter_mut().map(|s| s.run("ROLLBACK", "cannot end a transaction"))).await;
    ended.into_iter().collect()
}

async fn under_lock(
    wanted: &Wanted<'_>,
    server: &mut Server,
    sessions: &mut [Wire],
    sql: &str,
    global: bool,
) -> Result<Try> {
    // A flush leaves something behind when it meets a reader, see the module.
    let flushes = global && !server.session.version.mariadb(101_100);
    if flushes && let Some(why) = lock::long_statements(&mut server.session).await? {
        return Ok(Try::Busy(why));
    }
    let before: Option<Before> = if server.logs { Some(position::before(&mut server.session).await?) } else { None };
    let mut locker = match lock::acquire(wanted.dialer, &mut server.session, sql).await? {
        lock::Acquired::Locked(locker) => locker,
        lock::Acquired::Busy(why) => return Ok(Try::Busy(why)),
        lock::Acquired::Denied(error) => return Ok(Try::Denied(error)),
    };
    // The lock is held: nothing here may take long.
    let logs = server.logs;
    let here = async {
        if !logs {
            return Ok(nowhere(wanted.lineage, "no binary log".into()));
        }
        let here = position::here(&mut server.session, before.as_ref(), wanted.lineage);
        let late =
            |_| Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, "cannot read where the binary log stands");
        tokio::time::timeout(lock::HELD, here).await.map_err(late)?
    };
    let (begun, position) = tokio::join!(begin_all(sessions), here);
    let released = locker.run("UNLOCK TABLES", "cannot release the lock").await;
    drop(locker);
    match begun.and(position).and_then(|p| released.map(|()| p)) {
        Ok(position) => Ok(Try::Done(position)),
        Err(error) => {
            give_up(sessions).await?;
            Err(error)
        }
    }
}

/// Asserts that all sessions are on one snapshot, and makes it one.
async fn finish(
    wanted: &Wanted<'_>,
    server: &Server,
    mut sessions: Vec<Wire>,
    position: Position,
    blur: Option<Blur>,
) -> Result<Arc<Set>> {
    let marked = join_all(sessions.iter_mut().map(|s| s.run(MARK, "cannot mark the start of a transaction"))).await;
    marked.into_iter().collect::<Result<()>>()?;
    let mut place = String::new();
    if server.logs && !position.resume.is_empty() && server.session.version.is_mariadb() {
        for session in &mut sessions {
            let seen = place_seen(session).await?;
            if seen != position.text {
                return Err(Error::internal(format!("a session is at {seen}, but its snapshot is at {position}")));
            }
            place = seen;
        }
    }
    if let Some(out) = sessions.iter().find(|s| !s.in_transaction()) {
        return Err(lost(&format!("{out:?} is in no transaction")));
    }
    let token = uuid::Uuid::new_v4().to_string();
    let proof = format!("{position} of {token}");
    let until = blur.as_ref().map(|b| tracing::field::display(&b.until));
    tracing::info!(%position, until, sessions = sessions.len(), "a snapshot was taken");
    let reference = SnapshotRef { position, blur, token, proof, shared: false };
    Ok(Set::new(wanted.dialer.clone(), reference, place, sessions))
}
