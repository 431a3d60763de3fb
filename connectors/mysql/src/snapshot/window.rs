//! Snapshots without a lock: all sessions begin at once, and it is found out afterwards whether they saw the same state, and which.
//!
//! A MariaDB tells each session the place of the log that its snapshot has. A MySQL does not, and comparing `gtid_executed` before and after
//! the beginning is not enough: a transaction is visible shortly *before* its GTID is among the executed ones. So both the end of the log (to
//! which a transaction is written before it is visible) and the executed GTIDs must be the same before and after, in all sessions, and then
//! it must show that nothing had been on its way between the two: as transactions become visible in the order of the log
//! (`binlog_order_commits`), the first later one whose GTID is executed proves that all before it are, and what is executed then, less
//! what was logged later, must be what was executed at first. On a source that stands still there is no later one: a second without
//! any change serves instead.

use super::lock::Try;
use super::place_seen;
use super::take::{BEGIN, Server, give_up};
use crate::position::{self, Place};
use crate::sql;
use crate::wire::{TextRow, Wire, text};
use drover_model::{Error, Result};
use futures::future::join_all;
use std::time::{Duration, Instant};

/// Tries in a row before the caller looks for another way.
const TRIES: u32 = 5;
/// A commit is on its way from visible to executed for a moment only.
const STILL: Duration = Duration::from_secs(1);
/// After so long a try is given up.
const LATE: Duration = Duration::from_secs(5);

/// What one session, or one look at the log, saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    file: String,
    offset: u64,
    gtids: String,
}

fn seen(row: Option<&TextRow>) -> Option<Seen> {
    let row = row?;
    let gtids = text(row, 4).unwrap_or_default().split_whitespace().collect();
    Some(Seen { file: text(row, 0)?.to_owned(), offset: text(row, 1)?.parse().ok()?, gtids })
}

/// Opens all sessions on one snapshot, if they happen to agree.
pub async fn open(server: &mut Server, sessions: &mut [Wire], lineage: u32) -> Result<Try> {
    let mut why = String::new();
    for _ in 0..TRIES {
        let before = position::before(&mut server.session).await?;
        let tried = if server.session.version.is_mariadb() {
            mariadb(server, sessions).await?
        } else {
            mysql(server, sessions).await?
        };
        match tried {
            Ok((place, gtids)) => {
                // Prepared transactions of this moment, with the place and GTIDs of the snapshot.
                let here = position::here(&mut server.session, Some(&before), lineage).await;
                let made = here.and_then(|here| {
                    let resume = position::resume_of(&here)?;
                    position::position(lineage, &position::Resume { place, gtids, ..resume })
                });
                if made.is_err() {
                    give_up(sessions).await?;
                }
                return made.map(Try::Done);
            }
            Err(reason) => why = reason,
        }
        give_up(sessions).await?;
    }
    Ok(Try::Busy(why))
}

type Agreed = std::result::Result<(Place, Option<String>), String>;

async fn each(sessions: &mut [Wire], sql: &str) -> Result<Vec<Vec<Vec<TextRow>>>> {
    let asked = join_all(sessions.iter_mut().map(|s| s.results(sql, "cannot begin a transaction on a snapshot"))).await;
    asked.into_iter().collect()
}

async fn mariadb(server: &mut Server, sessions: &mut [Wire]) -> Result<Agreed> {
    let sql = format!("SHOW MASTER STATUS; {BEGIN}; SELECT @@GLOBAL.gtid_binlog_pos; SHOW MASTER STATUS");
    let answers = each(sessions, &sql).await?;
    let mut places = Vec::new();
    let mut still = None;
    for (session, results) in sessions.iter_mut().zip(&answers) {
        // One after the other: their answers get mixed up if they are asked at once.
        let seen = place_seen(session).await?;
        let place = seen.rsplit_once(':').and_then(|(file, offset)| Some(Place::new(file, offset.parse().ok()?)));
        let Some(place) = place else {
            return Err(Error::internal("this MariaDB does not tell which snapshot a session has"));
        };
        let status = |i: usize| {
            let row = results.get(i)?.first()?;
            Some(Place::new(text(row, 0)?, text(row, 1)?.parse().ok()?))
        };
        if status(0).as_ref() == Some(&place) && status(3).as_ref() == Some(&place) {
            // Nothing lies behind the place, so the log's last GTIDs are the snapshot's.
            still = results.get(2).and_then(|r| r.first()).and_then(|r| text(r, 0)).map(str::to_owned);
        }
        places.push(place);
    }
    let Some(first) = places.first().cloned() else { return Err(Error::internal("a snapshot without sessions")) };
    if places.iter().any(|p| *p != first) {
        return Ok(Err("transactions were committed while the sessions were opened".into()));
    }
    let gtids = match still {
        Some(gtids) => Some(gtids),
        None => {
            let ask = format!("SELECT BINLOG_GTID_POS({}, {})", sql::text(&first.file), first.offset);
            server.session.first::<Option<String>>(ask, "cannot tell the GTIDs of a place in the log").await?.flatten()
        }
    };
    Ok(Ok((first, gtids.filter(|g| !g.is_empty()))))
}

async fn mysql(server: &mut Server, sessions: &mut [Wire]) -> Result<Agreed> {
    let status = if server.session.version.mysql(80_200) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let answers = each(sessions, &format!("{status}; {BEGIN}; {status}")).await?;
    let began = Instant::now();
    let moved = || Ok(Err("transactions were committed while the sessions were opened".to_owned()));
    let all: Option<Vec<Seen>> = answers
        .iter()
        .flat_map(|r| [seen(r.first().and_then(|s| s.first())), seen(r.get(2).and_then(|s| s.first()))])
        .collect();
    let all = all.ok_or_else(|| Error::internal("the server does not tell where its log stands"))?;
    let Some(first) = all.first() else { return Err(Error::internal("a snapshot without sessions")) };
    if all.iter().any(|s| s != first) {
        return moved();
    }
    let agreed =
        || Ok(Ok((Place::new(first.file.clone(), first.offset), Some(first.gtids.clone()).filter(|g| !g.is_empty()))));
    // Wait for the proof, on any session: this does not touch its snapshot.
    let Some(asker) = sessions.first_mut() else { return moved() };
    loop {
        let now = asker.all(status, "cannot read where the binary log stands").await?;
        let now = seen(now.first()).ok_or_else(|| Error::internal("the server does not tell where its log stands"))?;
        if now.file != first.file || began.elapsed() > LATE {
            return moved();
        }
        if now.offset == first.offset {
            if now.gtids != first.gtids {
                return moved();
            }
            if began.elapsed() >= STILL {
                return agreed();
            }
        } else {
            let events = format!("SHOW BINLOG EVENTS IN {} FROM {} LIMIT 3000", sql::text(&first.file), first.offset);
            let told = match asker.all(events, "cannot read the end of the binary log").await {
                Err(error) if in_half(&error) => continue,
                told => told?,
            };
            let later: Vec<String> = told.iter().filter_map(gtid).collect();
            let Some(next) = later.first() else { continue };
            let less = format!(
                "SELECT GTID_SUBSET({}, {now}), GTID_SUBTRACT({now}, {}) ",
                sql::text(next),
                sql::text(&later.join(",")),
                now = sql::text(&now.gtids)
            );
            let row = asker.all(less, "cannot compare GTIDs").await?;
            let row = row.first().ok_or_else(|| Error::internal("GTIDs could not be compared"))?;
            if text(row, 0) == Some("1") {
                let rest: String = text(row, 1).unwrap_or_default().split_whitespace().collect();
                return if rest == first.gtids { agreed() } else { moved() };
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The GTID of a line of `SHOW BINLOG EVENTS`, if it has one: `SET @@SESSION.GTID_NEXT= 'uuid:7'`.
fn gtid(row: &TextRow) -> Option<String> {
    let info = text(row, 5)?.strip_prefix("SET @@SESSION.GTID_NEXT= '")?;
    let gtid = info.strip_suffix('\'')?;
    gtid.contains(':').then(|| gtid.to_owned())
}

/// Whether the server has come upon an event that a commit was just writing (error 1220): the next look sees it whole.
pub(super) fn in_half(error: &Error) -> bool {
    error.causes.iter().any(|cause| cause.contains("error 1220") && cause.contains("truncated in the middle"))
}
