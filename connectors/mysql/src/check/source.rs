//! The source's items: K1, K2, K5–K8, K15, K17, K22–K24, K53, K55–K57.

use super::grants::Grants;
use super::{End, connected, log, managed, selected, some, version};
use crate::catalog::{RESERVED, lex};
use crate::condition::{Condition, Detail, Refusal};
use crate::connect::Session;
use crate::round;
use crate::snapshot::marked;
use crate::sql;
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::{Migration, Stage};
use drover_model::plan::RowFormat;
use drover_model::schema::{Catalog, Effect};
use drover_model::selection::Selection;
use drover_model::{Result, TablePlan};
use mysql_async::prelude::Queryable;
use std::collections::BTreeSet;

/// The source's items. The session must not be within a transaction.
///
/// # Errors
/// When the check itself could not be done.
pub async fn check(
    session: &mut Session,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
) -> Result<Vec<CheckItem>> {
    let incremental = migration.has(Stage::Incremental);
    let variables = log::variables(session).await?;
    let mut items = vec![connected(session, End::Source).await?, version("K2", "source", &session.version)];
    items.push(CheckItem::passed("K53", "retry windows"));
    items.push(CheckItem::passed("K56", "TLS material"));
    log::topology(End::Source, &variables, session.version.flavor, &mut items);
    permissions(session, migration, plans, catalog, incremental, &mut items).await?;
    if incremental {
        log::check(session, &variables, plans, &mut items).await?;
    }
    engines(plans, catalog, incremental, &mut items);
    keys(migration, plans, catalog, variables.keys().any(|k| k.starts_with("rds_")), &mut items);
    damaged(plans, catalog, migration, &mut items);
    doubtful_texts(plans, catalog, &mut items);
    round::announce(plans, &mut items);
    if incremental {
        charsets(plans, &mut items);
    }
    filters(session, plans, catalog, incremental, &mut items).await?;
    held_schema_changes(session, &mut items).await?;
    let mut hint = CheckItem::passed("K57", "load");
    hint.cause =
        "the copy reads and writes with all its sessions: below 30 % CPU on both sides is a good time for it".into();
    items.push(hint);
    Ok(items)
}

/// K8: what the account may do, by what each stage needs.
async fn permissions(
    session: &mut Session,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
    incremental: bool,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let since = items.len();
    let grants = Grants::read(session).await?;
    let account = &grants.account;
    let lacks = |what: &str, needed: &str, object: String, remedy: String| {
        CheckItem::failed("K8", object, format!("account {account} lacks {what}, which {needed} needs"), remedy)
    };
    let mut unread: BTreeSet<&str> = BTreeSet::new();
    for plan in plans {
        let columns: Vec<&str> = plan.columns.iter().map(|c| c.source.as_str()).collect();
        if !grants.table("SELECT", &plan.source.schema, &plan.source.name, &columns) {
            unread.insert(&plan.source.schema);
        }
    }
    for database in unread {
        let remedy = format!("GRANT SELECT ON {}.* TO {account}", sql::name(database));
        items.push(lacks("SELECT", "reading rows", database.to_owned(), remedy));
    }
    let databases: BTreeSet<&str> = plans.iter().map(|p| p.source.schema.as_str()).collect();
    if migration.has(Stage::Schema) {
        for database in whole_databases(migration, catalog) {
            let has_views = catalog.objects.iter().any(|o| {
                o.schema == database && (o.kind == "view" || o.options.get("kind").is_some_and(|k| k == "view"))
            });
            if has_views && !grants.database("SHOW VIEW", &database) {
                let remedy = format!("GRANT SHOW VIEW ON {}.* TO {account}", sql::name(&database));
                items.push(lacks("SHOW VIEW", "carrying views", database.clone(), remedy));
            }
            if !grants.database("TRIGGER", &database) {
                let cause = format!(
                    "account {account} lacks TRIGGER: if tables here have triggers, it does not see them, and they are left out"
                );
                let remedy = format!("GRANT TRIGGER ON {}.* TO {account}", sql::name(&database));
                items.push(CheckItem::warning("K8", &database, cause, remedy));
            }
            let sees_routines = grants.global("SELECT")
                || grants.global("SHOW_ROUTINE")
                || grants.database("SHOW CREATE ROUTINE", &database)
                || grants.table("SELECT", "mysql", "proc", &[]);
            if !sees_routines {
                let cause = format!(
                    "account {account} may not see routines of others: if there are any here, they are left out"
                );
                let remedy = if session.version.mysql(80_020) {
                    format!("GRANT SHOW_ROUTINE ON *.* TO {account}")
                } else if session.version.mysql(80_000) {
                    format!("GRANT SELECT ON *.* TO {account}")
                } else {
                    format!("GRANT SELECT ON mysql.proc TO {account}")
                };
                items.push(CheckItem::warning("K8", &database, cause, remedy));
            }
        }
    }
    if incremental {
        for privilege in ["REPLICATION SLAVE", "REPLICATION CLIENT"] {
            let super_may = privilege == "REPLICATION CLIENT" && grants.global("SUPER");
            if !grants.global(privilege) && !super_may {
                let printed = if session.version.mariadb(100_502) && privilege == "REPLICATION CLIENT" {
                    "BINLOG MONITOR"
                } else {
                    privilege
                };
                let remedy = format!("GRANT {printed} ON *.* TO {account}");
                items.push(lacks(printed, "reading the binary log", "replication".into(), remedy));
            }
        }
        snapshot(session, &grants, &databases, items).await?;
    }
    super::passed(items, since, &[("K8", format!("account {account}"))]);
    Ok(())
}

/// A snapshot whose position is known needs a short lock, or a log whose order is that of visibility.
async fn snapshot(
    session: &mut Session,
    grants: &Grants,
    databases: &BTreeSet<&str>,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let v = session.version.clone();
    if v.is_mariadb() || grants.global("RELOAD") || grants.global("FLUSH_TABLES") {
        return Ok(());
    }
    let locks = databases.iter().all(|d| grants.database("LOCK TABLES", d));
    if v.mysql(80_000) && locks {
        return Ok(());
    }
    let account = &grants.account;
    let mut ordered = false;
    if v.mysql(50_600) {
        let settings: Option<(String, u8)> = session
            .first("SELECT @@GLOBAL.gtid_mode, @@GLOBAL.binlog_order_commits", "checking the snapshot's settings")
            .await?;
        ordered = settings.as_ref().is_some_and(|(_, ordered)| *ordered == 1);
        if ordered && settings.is_some_and(|(mode, _)| mode == "ON") {
            return Ok(());
        }
    }
    let (privileges, home) = marked::NEEDS;
    let lock = if v.mysql(80_000) {
        let grants: Vec<String> =
            databases.iter().map(|d| format!("GRANT LOCK TABLES ON {}.* TO {account}", sql::name(d))).collect();
        format!("{}; or GRANT RELOAD, PROCESS ON *.* TO {account}", grants.join("; "))
    } else {
        format!("GRANT RELOAD, PROCESS ON *.* TO {account}")
    };
    if ordered && privileges.iter().all(|p| grants.database(p, home)) {
        let cause = format!(
            "account {account} may take no lock: the snapshot is taken between two marks in the log, at a moment in which no table \
             without a primary key, with several unique keys or with cascading foreign keys is written to; on a busy source it may have to wait for one"
        );
        items.push(CheckItem::warning("K8", "snapshot", cause, lock));
        return Ok(());
    }
    let cause =
        format!("account {account} may take no lock under which a snapshot and its position in the log are one");
    let remedy = if ordered {
        format!(
            "{lock}; or, for a snapshot between two marks in the log, GRANT {} ON {home}.* TO {account}",
            privileges.join(", ")
        )
    } else {
        lock
    };
    items.push(CheckItem::failed("K8", "snapshot", cause, remedy));
    Ok(())
}

/// Databases of which everything is selected.
fn whole_databases(migration: &Migration, catalog: &Catalog) -> BTreeSet<String> {
    selected(migration, catalog).into_iter().filter(|o| o.kind == "database").map(|o| o.name).collect()
}

/// Whether rows of this engine's tables are written in transactions.
pub(crate) fn transactional(engine: &str) -> bool {
    const SAFE: [&str; 6] = ["INNODB", "XENGINE", "ROCKSDB", "TOKUDB", "NDBCLUSTER", "NDB"];
    SAFE.contains(&engine.to_uppercase().as_str())
}

/// K5: rows of engines without transactions are in no snapshot.
fn engines(plans: &[TablePlan], catalog: &Catalog, incremental: bool, items: &mut Vec<CheckItem>) {
    let since = items.len();
    for plan in plans {
        let Some(table) = catalog.table(&plan.source) else { continue };
        let engine = table.options.get("engine").map_or("InnoDB", String::as_str);
        if transactional(engine) {
            continue;
        }
        let object = plan.source.to_string();
        let statement = format!("ALTER TABLE {} ENGINE = InnoDB", sql::qualified(&plan.source));
        items.push(if incremental {
            let cause = format!("engine {engine} has no transactions: its rows are in no snapshot, and changes during the copy would be lost or doubled");
            CheckItem::failed("K5", object, cause, format!("{statement}, or migrate the table without incremental"))
        } else {
            let cause = format!("engine {engine} has no transactions: rows that are written during the copy may or may not be in it");
            CheckItem::warning("K5", object, cause, "let nobody write to it during the copy")
        });
    }
    super::passed(items, since, &[("K5", "storage engines of the source".to_owned())]);
}

/// K15, where a key is mandatory: from a managed server to one of one's own.
fn keys(migration: &Migration, plans: &[TablePlan], catalog: &Catalog, rds: bool, items: &mut Vec<CheckItem>) {
    let aliyun = rds || migration.source.url.host.ends_with(".rds.aliyuncs.com");
    if !aliyun || managed(&migration.destination.url.host) {
        return;
    }
    for plan in plans.iter().filter(|p| p.key.is_empty()) {
        if catalog.table(&plan.source).is_some() {
            let remedy = format!("ALTER TABLE {} ADD PRIMARY KEY (…)", sql::qualified(&plan.source));
            let cause = "from a managed server to one of your own each table needs a primary key or a unique key of not-null columns";
            items.push(CheckItem::failed("K15", plan.source.to_string(), cause, remedy));
        }
    }
}

/// K55: tables that the server cannot open, and those whose names are drover's.
fn damaged(plans: &[TablePlan], catalog: &Catalog, migration: &Migration, items: &mut Vec<CheckItem>) {
    let since = items.len();
    reserved(catalog, migration, items);
    for o in selected(migration, catalog) {
        let named = o.options.get("reason").is_some_and(|r| r == RESERVED);
        if o.kind == "unsupported" && !named && o.options.get("kind").is_some_and(|k| k == "table") {
            let reason = o.options.get("reason").cloned().unwrap_or_default();
            let remedy = format!(
                "CHECK TABLE and REPAIR TABLE {}.{}, or leave it out by exclude",
                sql::name(&o.schema),
                sql::name(&o.name)
            );
            items.push(CheckItem::warning(
                "K55",
                format!("{}.{}", o.schema, o.name),
                format!("it is left out: {reason}"),
                remedy,
            ));
        }
    }
    super::passed(items, since, &[("K55", format!("{} tables", plans.len()))]);
}

/// K55: what a rule selects, a pattern too, but is left out because it has the name of one of drover's tables.
fn reserved(catalog: &Catalog, migration: &Migration, items: &mut Vec<CheckItem>) {
    // Rules that do not compile have been refused with the file.
    let Ok(selection) = Selection::compile_within(&migration.objects, catalog.scope.as_deref()) else { return };
    for o in catalog.objects.iter().filter(|o| o.options.get("reason").is_some_and(|r| r == RESERVED)) {
        if matches!(selection.decide(&o.schema, &o.name, &[]), Ok(None)) {
            continue;
        }
        let remedy = format!(
            "rename it at the source (RENAME TABLE {0}.{1} TO {0}.…), or leave it out by exclude = [\"{2}.{3}\"]",
            sql::name(&o.schema),
            sql::name(&o.name),
            o.schema,
            o.name
        );
        let object = format!("{}.{}", o.schema, o.name);
        items.push(CheckItem::failed("K55", object, format!("it would be left out: {RESERVED}"), remedy));
    }
}

/// K17: texts that the server itself prints with a question mark in place of a character that its printing cannot carry.
fn doubtful_texts(plans: &[TablePlan], catalog: &Catalog, items: &mut Vec<CheckItem>) {
    use crate::types::{Kind, MyType};
    for plan in plans {
        let Some(table) = catalog.table(&plan.source) else { continue };
        for column in &plan.columns {
            let Some(found) = table.column(&column.source) else { continue };
            let labels = match MyType::parse(&column.origin_type).map(|t| t.kind) {
                Some(Kind::Enum { labels } | Kind::Set { labels }) => labels,
                _ => Vec::new(),
            };
            let label = labels.iter().find(|l| l.contains('?'));
            let default = found.default.as_ref().filter(|d| d.contains('?') && found.collation.is_some());
            if let Some(text) = label.or(default) {
                let cause = format!(
                    "its definition contains {text}: the server prints a character beyond the basic plane (an emoji) as ?"
                );
                let remedy =
                    "if no question mark is meant there, create the table at the destination by hand beforehand";
                items.push(CheckItem::warning("K17", format!("{}.{}", plan.source, column.source), cause, remedy));
            }
        }
    }
}

/// K17: texts that can be copied, because the server converts them, but whose changes nobody can convert.
fn charsets(plans: &[TablePlan], items: &mut Vec<CheckItem>) {
    use crate::types::MyType;
    for plan in plans.iter().filter(|p| p.format == RowFormat::Canonical) {
        for column in &plan.columns {
            let Some(t) = MyType::parse(&column.origin_type).filter(MyType::is_text) else { continue };
            let Some(charset) = t.charset.filter(|c| crate::charset::Charset::of(c).is_none()) else { continue };
            items.push(CheckItem::failed(
                "K17",
                format!("{}.{}", plan.source, column.source),
                format!("changes of text in the character set {charset} cannot be converted to UTF-8"),
                format!(
                    "ALTER TABLE {} MODIFY the column to CHARACTER SET utf8mb4, leave it out, or migrate without incremental",
                    sql::qualified(&plan.source)
                ),
            ));
        }
    }
}

/// K57: a MariaDB gives metadata locks back before the end of a copy only to sessions that do not write to its log.
async fn held_schema_changes(session: &mut Session, items: &mut Vec<CheckItem>) -> Result<()> {
    if !session.version.is_mariadb() {
        return Ok(());
    }
    let grants = Grants::read(session).await?;
    let named = session.version.mariadb(100_502);
    if grants.global("SUPER") && !named || named && grants.global("BINLOG ADMIN") {
        return Ok(());
    }
    let (account, privilege) = (&grants.account, if named { "BINLOG ADMIN" } else { "SUPER" });
    let cause = format!(
        "account {account} lacks {privilege}: an ALTER TABLE of the application waits until the copy ends, and statements on that table behind it"
    );
    items.push(CheckItem::warning("K57", "schema changes", cause, format!("GRANT {privilege} ON *.* TO {account}")));
    Ok(())
}

/// Whether a condition stays within the parentheses that are put around it.
fn enclosed(filter: &str) -> bool {
    let mut depth = 0i64;
    for token in lex::words(filter) {
        depth += i64::from(token.is("(")) - i64::from(token.is(")"));
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// Why a condition cannot be followed in the log.
fn on_changes(plan: &TablePlan, plans: &[TablePlan], catalog: &Catalog) -> Option<Refusal> {
    let table = catalog.table(&plan.source)?;
    let detail = |name: &str| {
        let column = table.columns.iter().find(|c| c.name == name);
        column.map(|c| Detail { collation: c.collation.clone(), nullable: c.nullable }).unwrap_or_default()
    };
    let details: Vec<Detail> = plan.columns.iter().map(|c| detail(&c.source)).collect();
    let condition = match Condition::of(plan, &details) {
        Ok(condition) => condition?,
        Err(refusal) => return Some(refusal),
    };
    // What foreign keys do is not in the log there: the destination does it, to the rows that it has.
    let tested: Vec<&str> = condition.columns().map(|c| plan.columns[c].source.as_str()).collect();
    let remedy = "leave the condition out, or migrate this table without \"incremental\"";
    let own = table.unlogged.iter().find(|key| {
        let changes = key.on_update.is_some() || key.on_delete == Some(Effect::SetNull);
        changes && key.columns.iter().any(|c| tested.contains(&c.as_str()))
    });
    if let Some(key) = own {
        let why = format!("foreign key {} may change a column of the condition, and the log does not tell", key.name);
        return Some(Refusal { why, remedy: remedy.into() });
    }
    let children = plans.iter().filter_map(|p| Some((p, catalog.table(&p.source)?)));
    let acting = children.flat_map(|(p, t)| t.unlogged.iter().map(move |key| (p, key)));
    let (child, key) = acting.into_iter().find(|(_, key)| key.parent == plan.source)?;
    let why = format!(
        "foreign key {} of {} follows rows of this table that do not move, and the log does not tell when",
        key.name, child.source
    );
    Some(Refusal { why, remedy: remedy.into() })
}

/// K22: the server parses each condition; nothing is executed. With incremental it must be one that drover evaluates on changes itself.
async fn filters(
    session: &mut Session,
    plans: &[TablePlan],
    catalog: &Catalog,
    incremental: bool,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    for plan in plans {
        let Some(filter) = &plan.filter else { continue };
        let object = plan.source.to_string();
        if !enclosed(filter) {
            let cause =
                format!("the condition {filter} closes a parenthesis that it has not opened, or leaves one open");
            items.push(CheckItem::failed("K22", object, cause, "correct `where` in the migration file"));
            continue;
        }
        // The line ends so that a comment in the condition ends, too.
        let sql = format!("SELECT 1 FROM {} WHERE ({filter}\n)", sql::qualified(&plan.source));
        match session.prep(sql).await {
            Ok(statement) => {
                let parameters = statement.num_params();
                session
                    .close(statement)
                    .await
                    .map_err(|e| crate::errors::classify(&e, session.fault, "checking a filter"))?;
                let refused = if incremental { on_changes(plan, plans, catalog) } else { None };
                items.push(match refused {
                    _ if parameters > 0 => {
                        let cause = "the condition has parameters (?)";
                        CheckItem::failed("K22", object, cause, "write values into the condition")
                    }
                    Some(refusal) => CheckItem::failed("K22", object, refusal.why, refusal.remedy),
                    None => CheckItem::passed("K22", object),
                });
            }
            Err(e) => {
                let error = crate::errors::classify(&e, session.fault, "checking a filter");
                if error.code == codes::CONNECTION {
                    return Err(error);
                }
                let cause = format!("the server refuses the condition {filter}: {}", some(&error.causes));
                items.push(CheckItem::failed("K22", object, cause, "correct `where` in the migration file"));
            }
        }
    }
    Ok(())
}
