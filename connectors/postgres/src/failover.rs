//! Following the source to a standby that was promoted (manual, "Replication Slot Synchronization" and "Timelines").
//!
//! The guarantee: the stream goes on at another server only if that one's history is ours up to where the log ends. A promoted standby
//! writes a new timeline from the place at which it stopped following; it may have stopped before changes that the former primary
//! had sent, and then nothing that comes from it fits what was applied.

use crate::connect::Session;
use crate::errors::classify;
use crate::lsn::Lsn;
use crate::replication::{Identity, ReplicationSession};
use crate::slot::{self, Names};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};

/// How a server is told from others in notes: identifier and timeline.
pub fn server(identity: &Identity) -> String {
    format!("{}/{}", identity.system_identifier, identity.timeline)
}

/// Where a timeline was left, by the history file of a later one: a line for each timeline before it, with the place of the switch. `None`: it is
/// none of its ancestors.
pub fn left_at(history: &str, timeline: u32) -> Option<Lsn> {
    let lines = history.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of = |words: &Vec<&str>| words.len() >= 2 && words[0].parse() == Ok(timeline);
    lines.filter(of).find_map(|words| words[1].parse().ok())
}

fn another(what: String) -> Error {
    Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, what)
        .remedy("connect to the server that the migration began on, or begin again after `drover cleanup`")
}

/// Sees that this is the server that the stream began on, or one that was promoted from a standby of it with everything up to `from`,
/// where the log ends. What it found is noted at the source.
pub async fn follow(replication: &mut ReplicationSession, session: &Session, names: &Names, from: Lsn) -> Result<()> {
    let failed = |e: crate::replication::Error, what: &str| {
        Error::new(codes::CONNECTION, Fault::Source, Retry::Connection, what).cause(e)
    };
    let now = replication.identify().await.map_err(|e| failed(e, "cannot ask the source who it is"))?;
    let noted = slot::noted_server(session, names).await?;
    if noted == server(&now) {
        return Ok(());
    }
    let (system, timeline) = noted.split_once('/').unwrap_or((&noted, ""));
    let timeline: u32 = timeline.parse().unwrap_or(0);
    if system != now.system_identifier || timeline > now.timeline {
        let what = format!("the source is another server: {}, where the migration stands on {noted}", server(&now));
        return Err(another(what));
    }
    let history = replication.timeline_history(now.timeline).await;
    let history = history.map_err(|e| failed(e, "cannot ask the source for its history"))?;
    let Some(left) = left_at(&history, timeline) else {
        let what =
            format!("the source's timeline {} does not come from {timeline}, where the migration stands", now.timeline);
        return Err(another(what));
    };
    if from > left {
        let what = format!(
            "the source was promoted at {left}, but the log has changes of its former primary up to {from}: the new one lacks them"
        );
        return Err(Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, what)
            .remedy("`drover cleanup`, then begin again; list the standby in `synchronized_standby_slots` of the primary, and this cannot happen"));
    }
    tracing::warn!(timeline, now = now.timeline, promoted_at = %left, "the source is a promoted standby; the stream follows it");
    slot::note_server(session, names, &server(&now)).await
}

/// Whether the server is a standby that keeps the slot only as a copy: nothing can be read from it before it is promoted.
pub async fn waits_for_promotion(session: &Session, version: u32, names: &Names) -> Result<bool> {
    if version < 170_000 {
        return Ok(false);
    }
    let sql = "select synced and pg_is_in_recovery() from pg_replication_slots where slot_name = $1";
    let row = session.query_opt(sql, &[&names.slot]).await;
    let row = row.map_err(|e| classify(&e, Fault::Source, "cannot look a slot up"))?;
    Ok(row.is_some_and(|r| r.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_files_tell_where_timelines_were_left() {
        let history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000060\tbefore 2026-01-01 00:00:00+00\n";
        assert_eq!(left_at(history, 1).map(|l| l.to_string()).as_deref(), Some("0/3000148"));
        assert_eq!(left_at(history, 2).map(|l| l.to_string()).as_deref(), Some("0/5000060"));
        assert_eq!(left_at(history, 3), None);
        assert_eq!(left_at("", 1), None);
        assert_eq!(left_at("# a comment\n1 broken", 1), None);
    }
}
