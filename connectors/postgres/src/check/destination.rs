//! The destination's items: K3–K5, K9–K14, K18, K20, K21.

use super::{End, connected, some, version};
use crate::errors::classify;
use crate::schema;
use crate::sql::{ident, qualified};
use drover_model::check::CheckItem;
use drover_model::migration::{Migration, OnConflict, Stage};
use drover_model::schema::{Catalog, Object, TableName};
use drover_model::selection::Selection;
use drover_model::{Fault, Result, TablePlan};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// The destination's items. The session must not be within a transaction.
///
/// # Errors
/// When the check itself could not be done.
pub async fn check(
    client: &Client,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
) -> Result<Vec<CheckItem>> {
    let at = |e: tokio_postgres::Error| classify(&e, Fault::Destination, "checking the destination");
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_user::text, current_database()::text, \
             has_database_privilege(current_database(), 'CREATE'), current_setting('server_encoding'), pg_is_in_recovery()",
            &[],
        )
        .await
        .map_err(at)?;
    let number = row.try_get::<_, i32>(0).map_err(at)? as u32;
    let text: String = row.try_get(1).map_err(at)?;
    let user: String = row.try_get(2).map_err(at)?;
    let database: String = row.try_get(3).map_err(at)?;
    let mut items =
        vec![connected(client, End::Destination).await.map_err(at)?, version("K4", "destination", number, &text)];
    let same_kind = catalog.origin == crate::catalog::ORIGIN;
    items.push(if same_kind && catalog.version / 10_000 != number / 10_000 {
        let cause = format!("the source has version {}, the destination {text}", catalog.version_text);
        CheckItem::warning(
            "K5",
            "versions",
            cause,
            "try the application with the destination's version before the switch",
        )
    } else {
        CheckItem::passed("K5", "versions")
    });
    let encoding: String = row.try_get(5).map_err(at)?;
    if encoding != "UTF8" {
        let cause = format!("the database's encoding is {encoding}: characters that it lacks cannot be written");
        items.push(CheckItem::warning("K5", "encoding", cause, "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"));
    }
    if row.try_get(6).map_err(at)? {
        items.push(CheckItem::failed(
            "K9",
            "destination",
            "the server is a standby: nothing can be written there",
            "point `url` at the primary server",
        ));
    }
    items.push(CheckItem::passed("K6", format!("{} to postgres", catalog.origin)));
    items.push(CheckItem::passed("K12", &database));
    let found = Found::read(client, plans).await.map_err(at)?;
    let create: bool = row.try_get(4).map_err(at)?;
    permissions(client, migration, plans, &found, create, &user, &database, &mut items).await?;
    space(plans, &mut items);
    tables(client, migration, plans, &found, &mut items).await?;
    names(plans, &mut items);
    if migration.has(Stage::Schema) {
        objects(client, migration, plans, catalog, &mut items).await?;
    }
    Ok(items)
}

/// What of the plans' names exists.
struct Found {
    /// Schema → whether the account may create in it.
    schemas: BTreeMap<String, bool>,
    /// Table → kind, and what the account lacks.
    tables: BTreeMap<TableName, (String, Vec<&'static str>)>,
}

impl Found {
    async fn read(client: &Client, plans: &[TablePlan]) -> std::result::Result<Found, tokio_postgres::Error> {
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            plans.iter().map(|p| (p.destination.schema.as_str(), p.destination.name.as_str())).unzip();
        let mut out = Found { schemas: BTreeMap::new(), tables: BTreeMap::new() };
        let sql = "SELECT nspname::text, has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = ANY($1)";
        for r in client.query(sql, &[&schemas]).await? {
            out.schemas.insert(r.try_get(0)?, r.try_get(1)?);
        }
        let sql = "SELECT n.nspname::text, c.relname::text, c.relkind::text, has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'), \
                          has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE'), has_table_privilege(c.oid, 'TRUNCATE') \
                     FROM unnest($1::text[], $2::text[]) AS t(s, t) JOIN pg_namespace n ON n.nspname = t.s \
                     JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.t";
        for r in client.query(sql, &[&schemas, &names]).await? {
            let mut lacks = Vec::new();
            for (i, privilege) in ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"].into_iter().enumerate() {
                if !r.try_get::<_, bool>(3 + i)? {
                    lacks.push(privilege);
                }
            }
            out.tables
                .insert(TableName::new(r.try_get::<_, String>(0)?, r.try_get::<_, String>(1)?), (r.try_get(2)?, lacks));
        }
        Ok(out)
    }
}

/// K9 and K13.
async fn permissions(
    client: &Client,
    migration: &Migration,
    plans: &[TablePlan],
    found: &Found,
    create: bool,
    user: &str,
    database: &str,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let before = items.len();
    let account = ident(user);
    let ours = client
        .query_one("SELECT coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'drover'), false)", &[])
        .await
        .and_then(|r| r.try_get::<_, bool>(0))
        .map_err(|e| classify(&e, Fault::Destination, "checking drover's schema"))?;
    let wanted: BTreeSet<&str> = plans.iter().map(|p| p.destination.schema.as_str()).collect();
    let missing: Vec<String> =
        wanted.iter().filter(|s| !found.schemas.contains_key(**s)).map(|s| (*s).to_owned()).collect();
    if !create && (!ours || (migration.has(Stage::Schema) && !missing.is_empty())) {
        let cause = format!(
            "account {user} may not create schemas in {database} (drover's own: drover; missing: {})",
            some(&missing)
        );
        items.push(CheckItem::failed(
            "K9",
            database,
            cause,
            format!("GRANT CREATE ON DATABASE {} TO {account}", ident(database)),
        ));
    }
    if migration.has(Stage::Schema) {
        for (schema, _) in found.schemas.iter().filter(|(_, may)| !**may) {
            let cause = format!("account {user} may not create tables in schema {schema}");
            items.push(CheckItem::failed(
                "K9",
                schema,
                cause,
                format!("GRANT USAGE, CREATE ON SCHEMA {} TO {account}", ident(schema)),
            ));
        }
    }
    for (table, (_, lacks)) in found.tables.iter().filter(|(_, (_, lacks))| !lacks.is_empty()) {
        let remedy = format!("GRANT {} ON {} TO {account}", lacks.join(", "), qualified(&table.schema, &table.name));
        items.push(CheckItem::failed(
            "K9",
            table.to_string(),
            format!("account {user} lacks {}", lacks.join(", ")),
            remedy,
        ));
    }
    // Asked of the server itself: who may set it differs by version and by cloud.
    if let Err(e) = client.batch_execute("BEGIN; SET LOCAL session_replication_role = replica; ROLLBACK").await {
        if e.as_db_error().is_none() {
            return Err(classify(&e, Fault::Destination, "checking session_replication_role"));
        }
        // The message's later statements were not executed.
        client.batch_execute("ROLLBACK").await.map_err(|e| classify(&e, Fault::Destination, "ending a check"))?;
        let cause = format!(
            "account {user} may not set session_replication_role: triggers and foreign keys would fire for every change"
        );
        let remedy = format!(
            "GRANT SET ON PARAMETER session_replication_role TO {account} (from version 15), or use a superuser's account"
        );
        items.push(if migration.has(Stage::Incremental) {
            CheckItem::failed("K9", "session_replication_role", cause, remedy)
        } else {
            CheckItem::warning("K9", "session_replication_role", cause, remedy)
        });
    }
    if items[before..].iter().all(|i| i.item != "K9") {
        items.push(CheckItem::passed("K9", format!("account {user}")));
    }
    if missing.is_empty() || migration.has(Stage::Schema) {
        items.push(CheckItem::passed("K13", "schemas"));
    }
    for schema in missing.iter().filter(|_| !migration.has(Stage::Schema)) {
        let remedy = format!("CREATE SCHEMA {}, or add \"schema\" to the stages", ident(schema));
        items.push(CheckItem::failed("K13", schema, "the schema does not exist at the destination", remedy));
    }
    Ok(())
}

/// K10: a server does not tell how much disk it has left.
fn space(plans: &[TablePlan], items: &mut Vec<CheckItem>) {
    let bytes: u64 = plans.iter().map(|p| p.bytes).sum();
    let mib = bytes.div_ceil(1 << 20);
    let cause = format!(
        "the selected tables take {mib} MiB at the source, without indexes; the server does not tell how much space is free: \
         see to it that it is more, with indexes and log"
    );
    items.push(CheckItem::skipped("K10", "free space", cause));
}

/// K11 and K14.
async fn tables(
    client: &Client,
    migration: &Migration,
    plans: &[TablePlan],
    found: &Found,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let before = items.len();
    let schema_stage = migration.has(Stage::Schema);
    let fail = migration.on_conflict == OnConflict::Fail;
    for plan in plans {
        let object = plan.destination.to_string();
        let Some((kind, lacks)) = found.tables.get(&plan.destination) else {
            if !schema_stage {
                let remedy = "create the table, or add \"schema\" to the stages";
                items.push(CheckItem::failed("K14", object, "the table does not exist at the destination", remedy));
            }
            continue;
        };
        if schema_stage && fail {
            let cause = "a table of this name exists at the destination";
            let remedy = "drop or rename it, map to another name with rename, or set on_conflict = \"ignore\"";
            items.push(CheckItem::failed("K11", object, cause, remedy));
            continue;
        }
        if !matches!(kind.as_str(), "r" | "p") {
            items.push(CheckItem::failed(
                "K14",
                object,
                "what has this name at the destination is no table",
                "map to another name with rename",
            ));
            continue;
        }
        if let Some(misfit) = schema::misfit(client, plan).await? {
            items.push(CheckItem::failed(
                "K14",
                object,
                misfit,
                "change the table at the destination, or leave the column out",
            ));
            continue;
        }
        if fail && lacks.is_empty() {
            let sql =
                format!("SELECT EXISTS (SELECT FROM {})", qualified(&plan.destination.schema, &plan.destination.name));
            let full: bool = client.query_one(&sql, &[]).await.and_then(|r| r.try_get(0)).map_err(|e| {
                classify(&e, Fault::Destination, "looking whether a table is empty").table(&plan.destination)
            })?;
            if full {
                let remedy = format!(
                    "TRUNCATE {}, or set on_conflict = \"ignore\"",
                    qualified(&plan.destination.schema, &plan.destination.name)
                );
                items.push(CheckItem::failed("K11", object, "the table at the destination is not empty", remedy));
            }
        }
    }
    if !fail {
        items.push(CheckItem::skipped("K11", "same-named tables", "on_conflict is ignore"));
    }
    for item in ["K11", "K14"] {
        if items[before..].iter().all(|i| i.item != item) {
            items.push(CheckItem::passed(item, format!("{} tables", plans.len())));
        }
    }
    Ok(())
}

/// K21: no two tables become one.
fn names(plans: &[TablePlan], items: &mut Vec<CheckItem>) {
    let mut by_name: BTreeMap<&TableName, Vec<String>> = BTreeMap::new();
    for plan in plans {
        by_name.entry(&plan.destination).or_default().push(plan.source.to_string());
    }
    let doubled: Vec<_> = by_name.into_iter().filter(|(_, sources)| sources.len() > 1).collect();
    if doubled.is_empty() {
        items.push(CheckItem::passed("K21", "names"));
    }
    for (name, sources) in doubled {
        let cause = format!("{} would all become this table", sources.join(", "));
        items.push(CheckItem::failed("K21", name.to_string(), cause, "give each a name of its own with rename"));
    }
}

/// K18 and K20: what cannot be carried, and extensions that the destination does not have.
async fn objects(
    client: &Client,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let before = items.len();
    // Rules that do not compile have been refused with the file.
    let selected: Vec<Object> = match Selection::compile_within(&migration.objects, catalog.scope.as_deref()) {
        Ok(s) => catalog.objects.iter().filter(|o| s.selects_object(&o.schema, &o.name)).cloned().collect(),
        Err(_) => Vec::new(),
    };
    items.extend(schema::left_out(catalog, plans, &selected));
    let work = schema::work::Work::new(catalog, plans, &selected);
    let extensions: Vec<&str> =
        work.objects.iter().filter(|o| o.kind == "extension").map(|o| o.name.as_str()).collect();
    let sql = "SELECT e FROM unnest($1::text[]) AS x(e) WHERE NOT EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = e)";
    let at = |e: tokio_postgres::Error| classify(&e, Fault::Destination, "asking for extensions");
    for r in client.query(sql, &[&extensions]).await.map_err(at)? {
        let name: String = r.try_get(0).map_err(at)?;
        let cause = "the selected objects need this extension, and it is not installed on the destination's machine";
        items.push(CheckItem::failed(
            "K18",
            format!("extension {name}"),
            cause,
            "install its package there, or leave out what needs it",
        ));
    }
    for (plan, table) in &work.tables {
        for trigger in table.parts.iter().filter(|p| p.kind == "trigger") {
            if let Some("A" | "R") = trigger.options.get("enabled").map(String::as_str) {
                items.push(CheckItem::warning(
                    "K19",
                    format!("trigger {} on {}", trigger.name, plan.source),
                    "it is enabled for replicated changes: at the destination it would fire for every change that drover applies",
                    "drop it at the destination after the copy if its effects are in the source's tables already",
                ));
            }
        }
    }
    for item in ["K18", "K20"] {
        if items[before..].iter().all(|i| i.item != item) {
            items.push(CheckItem::passed(item, "objects"));
        }
    }
    Ok(())
}
