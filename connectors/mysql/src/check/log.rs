//! The binary log of a source: K23 and K24.

use super::{End, some};
use crate::connect::Session;
use crate::flavor::Flavor;
use drover_model::check::{CheckItem, Outcome};
use drover_model::{Result, TablePlan};
use mysql_async::Row;
use std::collections::{BTreeMap, BTreeSet};

const WHAT: &str = "checking the binary log's settings";

/// Global variables by name, in lower case.
pub(super) async fn variables(session: &mut Session) -> Result<BTreeMap<String, String>> {
    let rows: Vec<(String, Option<String>)> = session.all("SHOW GLOBAL VARIABLES", WHAT).await?;
    Ok(rows.into_iter().map(|(n, v)| (n.to_lowercase(), v.unwrap_or_default())).collect())
}

pub(super) fn is_on(value: Option<&String>) -> bool {
    value.is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("ON") || v.eq_ignore_ascii_case("YES"))
}

/// Whether changes can be followed, and for how long the log is kept.
pub(super) async fn check(
    session: &mut Session,
    variables: &BTreeMap<String, String>,
    plans: &[TablePlan],
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let since = items.len();
    let v = session.version.clone();
    let get = |name: &str| variables.get(name).map(String::as_str);
    let fail = |what: &str, cause: String, remedy: &str| CheckItem::failed("K23", what, cause, remedy);
    if let Some(item) = switch(variables) {
        let off = item.result == Outcome::Failed;
        items.push(item);
        if off {
            return Ok(());
        }
    }
    let format = get("binlog_format").unwrap_or("ROW").to_uppercase();
    if format != "ROW" {
        let cause = format!("binlog_format is {format}: the log has statements instead of rows");
        let remedy = "SET GLOBAL binlog_format = 'ROW' and in the server's configuration; sessions take it over when they connect anew";
        items.push(fail("binlog_format", cause, remedy));
    }
    // Before it existed, images were full.
    let image = get("binlog_row_image").unwrap_or("FULL").to_uppercase();
    if image != "FULL" {
        let cause = format!("binlog_row_image is {image}: rows in the log lack columns");
        let remedy = "SET GLOBAL binlog_row_image = 'FULL' and in the server's configuration; sessions take it over when they connect anew";
        items.push(fail("binlog_row_image", cause, remedy));
    }
    match get("binlog_row_metadata") {
        Some(metadata) if !metadata.eq_ignore_ascii_case("FULL") => {
            let cause = format!(
                "binlog_row_metadata is {metadata}: the log does not name columns, drover knows them from the catalogue only"
            );
            let remedy =
                "SET GLOBAL binlog_row_metadata = 'FULL': a table that is altered is then noticed at the first row";
            items.push(CheckItem::warning("K23", "binlog_row_metadata", cause, remedy));
        }
        _ => {}
    }
    if get("server_id").is_none_or(|id| id == "0") {
        let remedy = "SET GLOBAL server_id to a number of its own, and in the server's configuration";
        items.push(fail("server_id", "server_id is 0: the server gives its log to nobody".into(), remedy));
    }
    if v.mysql(50_600) && get("gtid_mode").is_some_and(|m| !m.eq_ignore_ascii_case("ON")) {
        let cause = "gtid_mode is not ON: the migration cannot go on at another server after a failover";
        let remedy = "turn gtid_mode on in the steps that the manual names, if the source may fail over";
        items.push(CheckItem::warning("K23", "gtid_mode", cause, remedy));
    }
    let second_hand = replica(session).await?;
    let logged = get("log_slave_updates")
        .or(get("log_replica_updates"))
        .is_none_or(|l| l == "1" || l.eq_ignore_ascii_case("ON"));
    if second_hand && !logged {
        let remedy = "start it with log_replica_updates (log_slave_updates) = ON, or point `url` at its primary";
        let cause = "the server is a replica, and what it replicates is not in its own log".to_owned();
        items.push(fail("log_replica_updates", cause, remedy));
    }
    filters(session, plans, items).await?;
    retention(session, variables, items).await?;
    super::passed(items, since, &[("K23", "binary log".to_owned())]);
    Ok(())
}

/// K23 and K24: the log's switch, which a PolarDB's cluster has elsewhere and turned off at first. `None`: it is on, and nobody wonders.
fn switch(variables: &BTreeMap<String, String>) -> Option<CheckItem> {
    let polar = variables.keys().any(|k| k.starts_with("polar") || k.starts_with("loose_polar"));
    match (is_on(variables.get("log_bin")), polar) {
        (true, true) => Some(CheckItem::passed("K24", "log_bin")),
        (true, false) => None,
        (false, true) => {
            let remedy = "set loose_polar_log_bin = ON in the cluster's parameters and restart it";
            Some(CheckItem::failed("K24", "log_bin", "the cluster's binary log is off", remedy))
        }
        (false, false) => {
            let cause = "the binary log is off: changes cannot be followed";
            let remedy = "start the server with log_bin (Amazon: turn automated backups on); this restarts it";
            Some(CheckItem::failed("K23", "log_bin", cause, remedy))
        }
    }
}

/// Whether the server replicates from another one, as far as the account may see that.
pub(super) async fn replica(session: &mut Session) -> Result<bool> {
    let newer = session.version.mysql(80_022) || session.version.mariadb(100_501);
    let sql = if newer { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" };
    match session.all::<Row>(sql, WHAT).await {
        Ok(rows) => Ok(!rows.is_empty()),
        Err(e) if e.code == drover_model::error::codes::PERMISSION => Ok(false),
        Err(e) => Err(e),
    }
}

/// Databases that the server keeps out of its log.
async fn filters(session: &mut Session, plans: &[TablePlan], items: &mut Vec<CheckItem>) -> Result<()> {
    let sql = if session.version.mysql(80_200) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let row = match session.first::<Row>(sql, WHAT).await {
        Ok(row) => row,
        // What is lacking is said with the privileges.
        Err(e) if e.code == drover_model::error::codes::PERMISSION => return Ok(()),
        Err(e) => return Err(e),
    };
    let Some(row) = row else { return Ok(()) };
    let list = |at: usize| -> BTreeSet<String> {
        let text: Option<String> = row.get_opt(at).and_then(std::result::Result::ok);
        text.unwrap_or_default().split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
    };
    let (only, ignored) = (list(2), list(3));
    let wanted: BTreeSet<&str> = plans.iter().map(|p| p.source.schema.as_str()).collect();
    let missing: Vec<String> = wanted
        .into_iter()
        .filter(|d| ignored.contains(*d) || (!only.is_empty() && !only.contains(*d)))
        .map(str::to_owned)
        .collect();
    if !missing.is_empty() {
        let cause = format!("the server keeps these databases out of its log: {}", some(&missing));
        let remedy = "take them out of binlog_do_db and binlog_ignore_db, and restart the server";
        items.push(CheckItem::failed("K23", "binlog_do_db, binlog_ignore_db", cause, remedy));
    }
    Ok(())
}

/// A day is what a longer interruption may take.
const ADVISED: u64 = 24 * 3600;

async fn retention(
    session: &mut Session,
    variables: &BTreeMap<String, String>,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    // Amazon's servers go by a table of their own.
    let amazon = "SELECT value FROM mysql.rds_configuration WHERE name = 'binlog retention hours'";
    let amazon: Option<Option<String>> = match session.first(amazon, WHAT).await {
        Ok(found) => found,
        Err(e) if e.code == drover_model::error::codes::CONNECTION => return Err(e),
        Err(_) => None,
    };
    let object = "binlog retention";
    if let Some(hours) = amazon {
        let call = "CALL mysql.rds_set_configuration('binlog retention hours', 24)";
        let hours: u64 = hours.and_then(|h| h.trim().parse().ok()).unwrap_or(0);
        items.push(if hours > 168 {
            CheckItem::failed(
                "K23",
                object,
                format!("binlog retention hours is {hours}; 168 is the most that counts"),
                call,
            )
        } else if hours < 24 {
            let cause =
                format!("binlog retention hours is {hours}: the log may be gone before it is read; 24 is advised");
            CheckItem::warning("K23", object, cause, call)
        } else {
            CheckItem { cause: format!("{hours} hours"), ..CheckItem::passed("K23", object) }
        });
        return Ok(());
    }
    let number = |name: &str| variables.get(name).and_then(|v| v.parse::<f64>().ok());
    let seconds = number("binlog_expire_logs_seconds").filter(|s| *s > 0.0);
    let days = number("expire_logs_days").filter(|d| *d > 0.0).map(|d| d * 86_400.0);
    let purges = variables.get("binlog_expire_logs_auto_purge").is_none_or(|v| v.eq_ignore_ascii_case("ON"));
    if let Some(kept) = seconds.or(days).filter(|_| purges)
        && kept < ADVISED as f64
    {
        let hours = kept / 3600.0;
        let setting = if session.version.mysql(80_000) || session.version.mariadb(100_601) {
            "SET GLOBAL binlog_expire_logs_seconds = 86400"
        } else {
            "SET GLOBAL expire_logs_days = 1"
        };
        let cause =
            format!("the log is kept for {hours:.1} hours: it may be gone before it is read; 24 hours are advised");
        items.push(CheckItem::warning("K23", object, cause, setting));
    }
    for name in ["binlog_space_limit", "max_binlog_total_size"] {
        if let Some(limit) = number(name).filter(|l| *l > 0.0) {
            let cause = format!("{name} is {limit}: a busy hour may drive the log out before it is read");
            items.push(CheckItem::warning(
                "K23",
                name,
                cause,
                format!("SET GLOBAL {name} = 0 for the time of the migration"),
            ));
        }
    }
    Ok(())
}

/// K7: Amazon's Aurora has one node that writes, and only its log is whole.
pub(super) fn topology(end: End, variables: &BTreeMap<String, String>, flavor: Flavor, items: &mut Vec<CheckItem>) {
    let object = if end == End::Source { "source" } else { "destination" };
    let aurora = variables.contains_key("aurora_version") || variables.keys().any(|k| k.starts_with("aurora_"));
    if aurora && is_on(variables.get("innodb_read_only")) {
        let cause = "the endpoint is a reader of an Aurora cluster (innodb_read_only is ON)";
        items.push(CheckItem::failed("K7", object, cause, "point `url` at the cluster's writer endpoint"));
    } else {
        items.push(CheckItem::passed("K7", format!("{object}: {}", flavor.title())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_polardb_has_a_switch_of_its_own() {
        let told = |list: &[(&str, &str)]| switch(&variables(list)).map(|i| (i.item, i.result, i.remedy));
        let (item, result, remedy) = told(&[("log_bin", "OFF"), ("polar_enable_x", "ON")]).unwrap();
        assert!(item == "K24" && result == Outcome::Failed && remedy.contains("loose_polar_log_bin"), "{remedy}");
        assert_eq!(told(&[("log_bin", "ON"), ("polar_enable_x", "ON")]).map(|t| t.1), Some(Outcome::Passed));
        assert_eq!(told(&[("log_bin", "OFF")]).map(|t| (t.0, t.1)), Some(("K23".to_owned(), Outcome::Failed)));
        assert_eq!(told(&[("log_bin", "ON")]), None);
    }

    #[test]
    fn of_an_aurora_the_writer_is_wanted() {
        let result = |list: &[(&str, &str)]| {
            let mut items = Vec::new();
            topology(End::Source, &variables(list), Flavor::MySql, &mut items);
            items.pop().unwrap().result
        };
        assert_eq!(result(&[("aurora_version", "3.04.0"), ("innodb_read_only", "ON")]), Outcome::Failed);
        assert_eq!(result(&[("aurora_version", "3.04.0"), ("innodb_read_only", "OFF")]), Outcome::Passed);
        assert_eq!(result(&[("innodb_read_only", "ON")]), Outcome::Passed);
    }
}
