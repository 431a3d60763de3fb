//! What a statement makes of the zone of the session that wrote it. Pure. Guarantee: a schema change whose values hang on a zone is followed only where the zone is
//! known to the second for all of them, or where the destination has to know it by its name; otherwise it is refused, never made in another zone.
//!
//! The server's own zone (`SYSTEM`) has no name in the log. What is known of it is how far it was ahead of UTC when the catalogue was read, and until when that holds.

use super::follow::Written;
use crate::cells;
use drover_model::ddl::TableChange;
use drover_model::row;
use drover_model::schema::{Column, DataType, PlainDefault};

/// The option of a schema change's context that says: it must be made in the session's zone, or not at all.
pub const NEEDED: &str = "zone_needed";

/// A session's zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Zone {
    /// Always so many seconds ahead of UTC.
    Fixed(i64),
    /// Ahead of UTC by as many seconds as the server's own zone was then, at the statement's moment; at others it is not.
    Turning(i64),
    /// A name, which a server resolves that has it.
    Named(String),
    /// The server's own, whose clocks have been changed since the catalogue was read, or of which nothing is known.
    Unknown,
}

impl Zone {
    /// `own`: by how many seconds the server's zone was ahead of UTC; `until`: the second from which on it is not, if there is one.
    pub(super) fn of(written: &Written, own: Option<i64>, until: Option<i64>) -> Zone {
        match (written.zone.as_deref(), own, until) {
            (None | Some("SYSTEM"), Some(own), None) => Zone::Fixed(own),
            (None | Some("SYSTEM"), Some(own), Some(until)) if i64::from(written.seconds) < until => Zone::Turning(own),
            (None | Some("SYSTEM"), _, _) => Zone::Unknown,
            (Some("UTC"), _, _) => Zone::Fixed(0),
            (Some(zone), _, _) => offset(zone).map_or_else(|| Zone::Named(zone.to_owned()), Zone::Fixed),
        }
    }

    /// As a session is told of it; `None`: nothing can be told.
    pub(super) fn setting(&self) -> Option<String> {
        match self {
            Zone::Fixed(seconds) | Zone::Turning(seconds) => {
                let sign = if *seconds < 0 { '-' } else { '+' };
                let minutes = seconds.abs() / 60;
                Some(format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60))
            }
            Zone::Named(name) => Some(name.clone()),
            Zone::Unknown => None,
        }
    }

    /// Seconds ahead of UTC at the statement's moment.
    fn now(&self) -> Option<i64> {
        match self {
            Zone::Fixed(seconds) | Zone::Turning(seconds) => Some(*seconds),
            Zone::Named(_) | Zone::Unknown => None,
        }
    }
}

/// What rows from before have in new columns whose default is the present moment: that of the statement. Where the hour is not known, the column is left
/// out, and a destination of another kind then refuses it.
pub(super) fn moments(change: &TableChange, written: &Written, zone: &Zone) -> Vec<(String, String)> {
    let now = fresh(change).filter(|c| c.plain_default == Some(PlainDefault::Now));
    now.filter_map(|column| {
        let DataType::Timestamp { precision, zone: instant } = column.data_type else { return None };
        let ahead = if instant { 0 } else { zone.now()? };
        let seconds = u32::try_from(i64::from(written.seconds) + ahead).ok()?;
        let mut cell = Vec::new();
        cells::put_timestamp(&mut cell, seconds, written.micros, precision, instant);
        let text = row::cells(&cell).next()?.value()?.to_vec();
        Some((column.name.clone(), String::from_utf8(text).ok()?))
    })
    .collect()
}

/// Columns that rows from before did not have.
fn fresh(change: &TableChange) -> impl Iterator<Item = &Column> {
    let after = change.before.as_ref().and(change.after.as_ref());
    after.into_iter().flat_map(|t| &t.columns).filter(|c| former(change, c).is_none())
}

/// What a column was before.
fn former<'a>(change: &'a TableChange, column: &Column) -> Option<&'a Column> {
    let renamed = change.renamed.iter().find(|(_, new)| *new == column.name).map(|(old, _)| old);
    change.before.as_ref()?.column(renamed.unwrap_or(&column.name)).filter(|_| !change.anew.contains(&column.name))
}

fn instant(column: &Column) -> bool {
    matches!(column.data_type, DataType::Timestamp { zone: true, .. })
}

/// Whether the change has to be made in the session's own zone, by its name, or not at all. `foreign`: the destination is of another kind, and resolves no zone.
///
/// # Errors
/// Nobody can say what it makes of the values.
pub(super) fn needed(change: &TableChange, zone: &Zone, foreign: bool) -> Result<bool, String> {
    let Some(after) = &change.after else { return Ok(false) };
    let refused = |column: &Column, what: &str| {
        let why = match zone {
            Zone::Named(name) => format!("{name} is a zone that this destination is not asked for"),
            Zone::Fixed(_) => "the session's zone is not UTC".to_owned(),
            Zone::Turning(_) => "the server's own zone changes its clocks".to_owned(),
            Zone::Unknown => "how far the server's own zone was ahead of UTC then is not known".to_owned(),
        };
        format!(
            "{what} column {} by the zone of the session that says it, and {why}; SET time_zone = '+00:00' before such a statement",
            column.name
        )
    };
    let mut named = false;
    for column in &after.columns {
        let old = former(change, column);
        if let Some(old) = old.filter(|old| instant(old) != instant(column)) {
            // Another kind of database refuses conversions anyway.
            match zone {
                Zone::Fixed(_) => {}
                Zone::Named(_) => named = true,
                Zone::Turning(_) | Zone::Unknown => {
                    let to = format!("it converts {} to {} in", old.origin_type, column.origin_type);
                    return Err(refused(column, &to));
                }
            }
        }
        let literal = match &column.plain_default {
            // A zero date is one in every zone.
            Some(PlainDefault::Value(text)) => instant(column) && !text.starts_with("0000"),
            _ => false,
        };
        let same = old.is_some_and(|old| instant(old) && old.plain_default == column.plain_default);
        if literal && !same {
            match zone {
                Zone::Fixed(0) => {}
                Zone::Fixed(_) if !foreign => {}
                Zone::Named(_) if !foreign => named = true,
                _ => return Err(refused(column, "it names the default moment of")),
            }
        }
        let moment = matches!(column.data_type, DataType::Timestamp { zone: false, .. })
            && column.plain_default == Some(PlainDefault::Now)
            && old.is_none()
            && change.before.is_some();
        if moment && !foreign {
            match zone {
                Zone::Fixed(_) | Zone::Turning(_) => {}
                Zone::Named(_) => named = true,
                Zone::Unknown => return Err(refused(column, "it fills the new")),
            }
        }
    }
    Ok(named)
}

/// Seconds of a zone that is written as `+02:00`.
fn offset(zone: &str) -> Option<i64> {
    let (sign, digits) = match zone.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, zone.strip_prefix('+').filter(|_| zone.len() > 1)?),
    };
    let (hours, minutes) = digits.split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}
