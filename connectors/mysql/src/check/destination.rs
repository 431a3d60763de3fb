//! The destination's items: K3–K7, K9–K12, K14–K16, K18–K21, K57.

use super::grants::Grants;
use super::{End, connected, log, selected, some, variant, version};
use crate::catalog::lex;
use crate::connect::Session;
use crate::flavor::{Flavor, Version};
use crate::schema::{self, rewrite};
use crate::sql;
use crate::typemap::Known;
use crate::types::{Kind, MyType};
use drover_model::check::CheckItem;
use drover_model::migration::{Migration, OnConflict, Stage};
use drover_model::schema::{Catalog, Object, TableName};
use drover_model::{Result, TablePlan};
use std::collections::{BTreeMap, BTreeSet};

const WHAT: &str = "checking the destination";

/// The destination's items. The session must not be within a transaction.
///
/// # Errors
/// When the check itself could not be done.
pub async fn check(
    session: &mut Session,
    known: &Known,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
) -> Result<Vec<CheckItem>> {
    let variables = log::variables(session).await?;
    let mut items = vec![connected(session, End::Destination).await?, version("K4", "destination", &session.version)];
    versions(catalog, &session.version, &mut items);
    items.push(CheckItem::passed("K6", format!("{} to {}", catalog.origin, session.version.flavor.kind())));
    log::topology(End::Destination, &variables, session.version.flavor, &mut items);
    variant::check(session, &variables, migration, plans, &mut items).await?;
    let objects = selected(migration, catalog);
    writable(session, &variables, &mut items).await?;
    // What is written in another kind's language is not created.
    let own = if Flavor::of_origin(&catalog.origin).is_some() { &objects[..] } else { &[] };
    permissions(session, migration, plans, catalog, own, &variables, &mut items).await?;
    settings(session, plans, catalog, &variables, &mut items).await?;
    space(plans, &mut items);
    tables(session, migration, plans, &mut items).await?;
    names(plans, known, &mut items);
    if migration.has(Stage::Schema) {
        let since = items.len();
        items.extend(schema::left_out(catalog, plans, &objects, known));
        filtered_parents(plans, catalog, &mut items);
        super::passed(&mut items, since, &[("K18", "objects".to_owned()), ("K20", "objects".to_owned())]);
    }
    load(session, &variables, &mut items).await;
    Ok(items)
}

/// K5: versions and flavors of both sides.
fn versions(catalog: &Catalog, v: &Version, items: &mut Vec<CheckItem>) {
    let series = |flavor: Option<Flavor>, number: u32| match flavor {
        // 9.7 and 9.6 are of one kind, 10.6 and 10.11 are not.
        Some(Flavor::MySql) if number >= 80_000 => number / 10_000 * 10_000,
        _ => number / 100 * 100,
    };
    let origin = Flavor::of_origin(&catalog.origin);
    let same = origin == Some(v.flavor) && series(origin, catalog.version) == series(origin, v.number);
    items.push(if same {
        CheckItem::passed("K5", "versions")
    } else {
        let title = origin.map_or_else(|| catalog.origin.clone(), |f| f.title().to_owned());
        let cause = format!("the source is {title} {}, the destination {v}", catalog.version_text);
        let remedy = "try the application with the destination's version before the switch";
        CheckItem::warning("K5", "versions", cause, remedy)
    });
}

/// K9: a server that takes no writes.
async fn writable(
    session: &mut Session,
    variables: &BTreeMap<String, String>,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    for name in ["read_only", "super_read_only", "innodb_read_only", "transaction_read_only", "tx_read_only"] {
        let value = variables.get(name);
        // MariaDB's read_only has kinds.
        let closed = log::is_on(value) || value.is_some_and(|v| v.starts_with("NO_LOCK"));
        if closed {
            let remedy = format!("SET GLOBAL {name} = OFF, or point `url` at the primary server");
            items.push(CheckItem::failed("K9", name, format!("{name} is on: nothing can be written there"), remedy));
        }
    }
    if log::replica(session).await? {
        let cause = "the server is a replica of another one: what both write may collide";
        let remedy = "stop the replication there (STOP REPLICA), or point `url` at the primary server";
        items.push(CheckItem::warning("K9", "replication", cause, remedy));
    }
    Ok(())
}

/// K9 and K12: what the account may do.
async fn permissions(
    session: &mut Session,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
    objects: &[Object],
    variables: &BTreeMap<String, String>,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let since = items.len();
    let grants = Grants::read(session).await?;
    let account = &grants.account;
    let there: BTreeSet<String> = session
        .all::<String>("SELECT schema_name FROM information_schema.schemata", WHAT)
        .await?
        .into_iter()
        .map(|s| s.to_lowercase())
        .collect();
    let schema_stage = migration.has(Stage::Schema);
    let mut needed = vec!["SELECT", "INSERT", "UPDATE", "DELETE", "DROP"];
    if schema_stage {
        needed.extend(["CREATE", "ALTER", "INDEX", "REFERENCES"]);
        for (kind, privilege) in
            [("view", "CREATE VIEW"), ("procedure", "CREATE ROUTINE"), ("function", "CREATE ROUTINE")]
        {
            if objects.iter().any(|o| o.kind == kind) && !needed.contains(&privilege) {
                needed.push(privilege);
            }
        }
        let family = Flavor::of_origin(&catalog.origin).is_some();
        let triggers = catalog
            .tables
            .iter()
            .filter(|_| family)
            .any(|t| t.parts.iter().any(|p| p.kind == "trigger") && plans.iter().any(|p| p.source == t.name));
        if triggers {
            needed.push("TRIGGER");
        }
    }
    let wanted: BTreeSet<&str> = plans.iter().map(|p| p.destination.schema.as_str()).collect();
    for database in &wanted {
        let tables: Vec<&TablePlan> = plans.iter().filter(|p| p.destination.schema == **database).collect();
        let lacking: Vec<&str> = needed
            .iter()
            .copied()
            .filter(|p| !tables.iter().all(|t| grants.table(p, database, &t.destination.name, &[])))
            .collect();
        if !lacking.is_empty() {
            let list = lacking.join(", ");
            let remedy = format!("GRANT {list} ON {}.* TO {account}", sql::name(database));
            items.push(CheckItem::failed("K9", *database, format!("account {account} lacks {list}"), remedy));
        }
        if !there.contains(&database.to_lowercase()) {
            items.push(if !schema_stage {
                let remedy = format!("CREATE DATABASE {}, or add \"schema\" to the stages", sql::name(database));
                CheckItem::failed("K12", *database, "the database does not exist at the destination", remedy)
            } else if grants.database("CREATE", database) {
                CheckItem { cause: "it will be created".into(), ..CheckItem::passed("K12", *database) }
            } else {
                let remedy =
                    format!("GRANT CREATE ON {}.* TO {account}, or CREATE DATABASE {0} by hand", sql::name(database));
                CheckItem::failed(
                    "K12",
                    *database,
                    "the database does not exist, and the account may not create it",
                    remedy,
                )
            });
        }
    }
    let ours = ["CREATE", "ALTER", "DROP", "SELECT", "INSERT", "UPDATE", "DELETE"];
    let lacking: Vec<&str> = ours.into_iter().filter(|p| !grants.database(p, "drover")).collect();
    if !lacking.is_empty() {
        let cause = format!(
            "account {account} lacks {} on drover's own database: its tables will lie beside the data",
            lacking.join(", ")
        );
        let remedy = format!("GRANT {} ON drover.* TO {account}", lacking.join(", "));
        items.push(CheckItem::warning("K9", "drover", cause, remedy));
    }
    trusted(&grants, catalog, plans, objects, variables, schema_stage, items);
    super::passed(
        items,
        since,
        &[
            ("K9", format!("account {account}")),
            ("K12", some(&wanted.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())),
        ],
    );
    Ok(())
}

/// K9: with a binary log, functions that do not say what they do are refused to everybody, functions and triggers to whoever lacks SUPER.
fn trusted(
    grants: &Grants,
    catalog: &Catalog,
    plans: &[TablePlan],
    objects: &[Object],
    variables: &BTreeMap<String, String>,
    schema_stage: bool,
    items: &mut Vec<CheckItem>,
) {
    let logs = log::is_on(variables.get("log_bin"));
    if !schema_stage || !logs || log::is_on(variables.get("log_bin_trust_function_creators")) {
        return;
    }
    let power = grants.global("SUPER");
    let functions = objects.iter().filter(|o| o.kind == "function" && (!power || !declared(&o.definition)));
    let functions = functions.map(|o| format!("function {}.{}", o.schema, o.name));
    let family = Flavor::of_origin(&catalog.origin).is_some();
    let tables = catalog.tables.iter().filter(|t| family && !power && plans.iter().any(|p| p.source == t.name));
    let triggers = tables.flat_map(|t| t.parts.iter().filter(|p| p.kind == "trigger"));
    let found: Vec<String> = functions.chain(triggers.map(|o| format!("trigger {}.{}", o.schema, o.name))).collect();
    if found.is_empty() {
        return;
    }
    let why = if power {
        "are not declared DETERMINISTIC, NO SQL or READS SQL DATA"
    } else {
        "may be created by accounts with SUPER only"
    };
    let cause = format!("log_bin_trust_function_creators is off, and these {why}: {}", some(&found));
    let remedy =
        "SET GLOBAL log_bin_trust_function_creators = ON for the time of the migration, or leave these objects out";
    items.push(CheckItem::failed("K9", "log_bin_trust_function_creators", cause, remedy));
}

/// Whether a function says that it is harmless to a log of statements.
fn declared(definition: &str) -> bool {
    let Some((_, tail)) = rewrite::routine(definition) else { return false };
    let words = lex::words(tail);
    let at = |i: usize, word: &str| words.get(i).is_some_and(|t| t.is(word));
    // Characteristics stand in front of the body; none of them is a statement's first word.
    let body =
        words.iter().position(|t| ["BEGIN", "RETURN", "IF", "CASE"].iter().any(|w| t.is(w))).unwrap_or(words.len());
    (0..body).any(|i| {
        (at(i, "DETERMINISTIC") && !(i > 0 && at(i - 1, "NOT")))
            || (at(i, "NO") && at(i + 1, "SQL"))
            || (at(i, "READS") && at(i + 1, "SQL"))
    })
}

/// Settings of the server that change what statements or values mean.
async fn settings(
    session: &mut Session,
    plans: &[TablePlan],
    catalog: &Catalog,
    variables: &BTreeMap<String, String>,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let since = items.len();
    // What the source says of itself stands with its databases.
    let source = |name: &str| {
        catalog.objects.iter().filter(|o| o.kind == "database").find_map(|o| o.options.get(name)).map(String::as_str)
    };
    let here = |name: &str| variables.get(name).map(String::as_str).unwrap_or_default();
    let modes = |text: &str| text.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect::<BTreeSet<String>>();
    if let Some(theirs) = source("server.sql_mode") {
        let (theirs, ours) = (modes(theirs), modes(here("sql_mode")));
        // Those without a meaning for statements of an application that runs at both.
        let differ: Vec<String> =
            theirs.symmetric_difference(&ours).filter(|m| *m != "NO_AUTO_CREATE_USER").cloned().collect();
        if !differ.is_empty() {
            let cause = format!(
                "sql_mode differs between the servers in {}: after the switch the same statement may mean or allow something else",
                some(&differ)
            );
            let wanted = theirs.into_iter().collect::<Vec<_>>().join(",");
            items.push(CheckItem::warning(
                "K5",
                "sql_mode",
                cause,
                format!("SET GLOBAL sql_mode = '{wanted}' at the destination, as far as it knows these modes"),
            ));
        }
    }
    let offset: Option<Option<i64>> = session.first(crate::catalog::ZONE, WHAT).await?;
    if let (Some(theirs), Some(ours)) =
        (source("server.zone_seconds").and_then(|s| s.parse::<i64>().ok()), offset.flatten())
        && theirs != ours
    {
        let cause = format!(
            "the servers' time zones differ by {} minutes: NOW() and DATETIME defaults will give other values after the switch",
            (ours - theirs) / 60
        );
        let remedy = "SET GLOBAL time_zone at the destination to the source's, if the application relies on it (rows are carried in UTC and stay right)";
        items.push(CheckItem::warning("K5", "time_zone", cause, remedy));
    }
    let number = |text: &str| text.parse::<u64>().ok();
    if let (Some(theirs), Some(ours)) =
        (source("server.max_allowed_packet").and_then(number), number(here("max_allowed_packet")))
        && ours < theirs
    {
        let cause = format!(
            "max_allowed_packet is {ours} here and {theirs} at the source: a larger row or statement is refused"
        );
        items.push(CheckItem::warning(
            "K5",
            "max_allowed_packet",
            cause,
            format!("SET GLOBAL max_allowed_packet = {theirs}"),
        ));
    }
    if log::is_on(variables.get("sql_require_primary_key")) {
        let keyless: Vec<String> = plans.iter().filter(|p| p.key.is_empty()).map(|p| p.source.to_string()).collect();
        let may: bool = session.run("SET SESSION sql_require_primary_key = 0", WHAT).await.is_ok();
        if !keyless.is_empty() && !may {
            let remedy = "SET GLOBAL sql_require_primary_key = OFF for the time of the migration, or add primary keys at the source";
            items.push(CheckItem::failed(
                "K15",
                some(&keyless),
                "the server refuses tables without a primary key (sql_require_primary_key)",
                remedy,
            ));
        }
    }
    if variables.get("explicit_defaults_for_timestamp").is_some_and(|v| v == "OFF" || v == "0")
        && session.run("SET SESSION explicit_defaults_for_timestamp = 1", WHAT).await.is_err()
    {
        let bare: Vec<String> = plans
            .iter()
            .filter_map(|p| Some((p, catalog.table(&p.source)?)))
            .flat_map(|(p, t)| {
                p.columns.iter().filter_map(|c| t.column(&c.source)).map(|c| (t.name.clone(), c)).collect::<Vec<_>>()
            })
            .filter(|(_, c)| {
                let timestamp = MyType::parse(&c.origin_type).is_some_and(|t| matches!(t.kind, Kind::Timestamp { .. }));
                timestamp && !c.nullable && c.default.is_none()
            })
            .map(|(t, c)| format!("{t}.{}", c.name))
            .collect();
        if !bare.is_empty() {
            let cause = "explicit_defaults_for_timestamp is off: the server gives these columns a default (and the first one ON UPDATE) of its own";
            items.push(CheckItem::warning(
                "K5",
                some(&bare),
                cause,
                "start the destination with explicit_defaults_for_timestamp = ON",
            ));
        }
    }
    super::passed(items, since, &[("K5", "settings".to_owned())]);
    Ok(())
}

/// K10: a server does not tell how much disk it has left.
fn space(plans: &[TablePlan], items: &mut Vec<CheckItem>) {
    let bytes: u64 = plans.iter().map(|p| p.bytes).sum();
    let mib = bytes.div_ceil(1 << 20);
    let cause = format!(
        "the selected tables take {mib} MiB at the source, without indexes; the server does not tell how much space is free: \
         see to it that it is more, with indexes and binary log"
    );
    items.push(CheckItem::skipped("K10", "free space", cause));
}

/// K14 and K19: tables that are there. (K11 is the survey's.)
async fn tables(
    session: &mut Session,
    migration: &Migration,
    plans: &[TablePlan],
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    if migration.has(Stage::Schema) && migration.on_conflict == OnConflict::Fail {
        // None may be there.
        return Ok(());
    }
    let since = items.len();
    let list: BTreeSet<String> = plans.iter().map(|p| sql::text(&p.destination.schema)).collect();
    let list = list.into_iter().collect::<Vec<_>>().join(", ");
    let rows: Vec<(String, String, String)> = if list.is_empty() {
        Vec::new()
    } else {
        let sql = format!(
            "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema IN ({list})"
        );
        session.all(sql, WHAT).await?
    };
    let fold = |t: &TableName| (t.schema.to_lowercase(), t.name.to_lowercase());
    let kinds: BTreeMap<(String, String), String> =
        rows.into_iter().map(|(s, n, kind)| ((s.to_lowercase(), n.to_lowercase()), kind)).collect();
    for plan in plans {
        let object = plan.destination.to_string();
        let Some(kind) = kinds.get(&fold(&plan.destination)) else { continue };
        if kind.contains("VIEW") || kind == "SEQUENCE" {
            let cause = "what has this name at the destination is no table";
            items.push(CheckItem::failed("K14", object, cause, "map to another name with rename"));
        } else if let Some(misfit) = schema::misfit(session, plan).await? {
            let remedy = "change the table at the destination, or leave the column out";
            items.push(CheckItem::failed("K14", object, misfit, remedy));
        }
    }
    let triggers: Vec<(String, String, String)> = if list.is_empty() {
        Vec::new()
    } else {
        let sql = format!(
            "SELECT event_object_schema, event_object_table, trigger_name FROM information_schema.triggers WHERE event_object_schema IN ({list})"
        );
        session.all(sql, WHAT).await?
    };
    for (schema, table, name) in triggers {
        if plans.iter().any(|p| fold(&p.destination) == (schema.to_lowercase(), table.to_lowercase())) {
            let cause = format!(
                "the table has trigger {name}: it would do its work a second time for every row that drover writes"
            );
            let remedy = format!("DROP TRIGGER {}.{} until the switch", sql::name(&schema), sql::name(&name));
            items.push(CheckItem::failed("K19", format!("{schema}.{table}"), cause, remedy));
        }
    }
    super::passed(items, since, &[("K14", format!("{} tables", plans.len()))]);
    Ok(())
}

/// K16: names that become one where case does not count.
fn names(plans: &[TablePlan], known: &Known, items: &mut Vec<CheckItem>) {
    let since = items.len();
    if known.lower_case {
        let mut by_name: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for plan in plans {
            let key = (plan.destination.schema.to_lowercase(), plan.destination.name.to_lowercase());
            by_name.entry(key).or_default().insert(plan.destination.to_string());
        }
        for doubled in by_name.into_values().filter(|names| names.len() > 1) {
            let doubled: Vec<String> = doubled.into_iter().collect();
            let cause = "names of tables differ in case only, and the destination does not tell them apart (lower_case_table_names)";
            items.push(CheckItem::failed("K16", some(&doubled), cause, "give each a name of its own with rename"));
        }
    }
    super::passed(items, since, &[("K16", "names".to_owned())]);
}

/// K20: rows that reference rows which a filter leaves out.
fn filtered_parents(plans: &[TablePlan], catalog: &Catalog, items: &mut Vec<CheckItem>) {
    use crate::catalog::create::Foreign;
    for plan in plans {
        let Some(table) = catalog.table(&plan.source) else { continue };
        for key in &table.plain_foreign_keys {
            let parent = plans.iter().find(|p| p.source == key.parent);
            if Flavor::of_origin(&catalog.origin).is_none()
                && parent.is_some_and(|p| p.filter.is_some() && p.source != plan.source)
            {
                let cause = format!(
                    "foreign key {} references {}, of which only some rows move: rows may reference what is not there",
                    key.name, key.parent
                );
                let remedy = "filter this table by the same condition";
                items.push(CheckItem::warning("K20", plan.source.to_string(), cause, remedy));
            }
        }
        for key in table.parts.iter().filter(|p| p.kind == "foreign key") {
            let Some(foreign) = Foreign::parse(&key.definition) else { continue };
            let schema = foreign.schema.as_deref().unwrap_or(&plan.source.schema);
            let parent = plans.iter().find(|p| p.source.schema == schema && p.source.name == foreign.table);
            if parent.is_some_and(|p| p.filter.is_some() && p.source != plan.source) {
                let cause = format!(
                    "foreign key {} references {schema}.{}, of which only some rows move: rows may reference what is not there",
                    key.name, foreign.table
                );
                items.push(CheckItem::warning(
                    "K20",
                    plan.source.to_string(),
                    cause,
                    "filter this table by the same condition",
                ));
            }
        }
    }
}

/// K57: what makes loading slower than it need be.
async fn load(session: &mut Session, variables: &BTreeMap<String, String>, items: &mut Vec<CheckItem>) {
    if !log::is_on(variables.get("local_infile")) {
        let cause = "local_infile is off: rows are inserted by statements, which takes the server several times as long as LOAD DATA";
        items.push(CheckItem::warning(
            "K57",
            "local_infile",
            cause,
            "SET GLOBAL local_infile = ON for the time of the copy",
        ));
    }
    if !log::is_on(variables.get("slow_query_log")) {
        return;
    }
    // Neither flavor says how many processors there are; each has something that follows from it.
    let cores = if session.version.is_mariadb() {
        variables.get("thread_pool_size").and_then(|n| n.parse::<usize>().ok())
    } else {
        let sql = "SELECT CAST(vcpu_ids AS CHAR) FROM information_schema.resource_groups WHERE resource_group_name = 'USR_default'";
        session.first::<Option<String>>(sql, WHAT).await.ok().flatten().flatten().map(|ids| processors(&ids))
    };
    let advice = "SET GLOBAL slow_query_log = OFF for the time of the copy";
    match cores {
        Some(n) if n >= 2 => {}
        Some(n) => {
            let cause = format!("the destination has {n} processor core, and its slow log is on");
            items.push(CheckItem::warning("K57", "slow_query_log", cause, advice));
        }
        None => {
            let mut item = CheckItem::passed("K57", "slow_query_log");
            item.cause = format!("the slow log is on; if the destination has fewer than 2 processor cores: {advice}");
            items.push(item);
        }
    }
}

/// How many processors a list such as `0-3,6` names.
fn processors(ids: &str) -> usize {
    let count = |range: &str| match range.split_once('-') {
        Some((from, to)) => {
            let (from, to) = (from.trim().parse::<usize>(), to.trim().parse::<usize>());
            from.ok().zip(to.ok()).map_or(0, |(from, to)| to.saturating_sub(from) + 1)
        }
        None => usize::from(!range.trim().is_empty()),
    };
    ids.split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn functions_that_say_what_they_do() {
        let f = |c: &str| {
            super::declared(&format!("CREATE DEFINER=`a`@`b` FUNCTION `f`(x int) RETURNS int{c}\nBEGIN RETURN 1; END"))
        };
        assert!(f("\n    DETERMINISTIC") && f("\n    NO SQL\n    COMMENT 'x'") && f("\n    READS SQL DATA"));
        assert!(!f("") && !f("\n    MODIFIES SQL DATA") && !f("\n    COMMENT 'NO SQL'"));
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(super::processors("0-3,6"), 5);
        assert_eq!(super::processors("0"), 1);
    }
}
