//! Tables under incremental and under filters: K15, K17, K22, K31, K33; large objects: K18.

use crate::sql::qualified;
use crate::typemap;
use drover_model::TablePlan;
use drover_model::check::CheckItem;
use drover_model::schema::Catalog;
use tokio_postgres::{Client, Error};

/// Large objects stand in no table of the migration, and the log does not tell their changes in a form that can be followed.
pub(super) async fn large_objects(client: &Client, items: &mut Vec<CheckItem>) -> Result<(), Error> {
    let count: i64 = client.query_one("SELECT count(*) FROM pg_largeobject_metadata", &[]).await?.try_get(0)?;
    if count > 0 {
        items.push(CheckItem::warning(
            "K18",
            "large objects",
            format!("the database holds {count} large objects, which are not moved: columns with their numbers will point to nothing"),
            "move them by hand when nobody writes them any more (pg_dump with --blobs), or keep their content in columns of type bytea",
        ));
    }
    Ok(())
}

/// Whether every change of every table can be followed.
pub(super) async fn followed(
    client: &Client,
    set_identity: bool,
    plans: &[TablePlan],
    catalog: &Catalog,
    items: &mut Vec<CheckItem>,
) -> Result<(), Error> {
    let before = items.len();
    let managed: bool = client
        .query_one("SELECT current_setting('rds.logical_replication', true) IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    // A change of a partition is logged under the partition's own identity.
    let sql = "WITH RECURSIVE tree(root, oid) AS ( \
                 SELECT c.oid, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 \
                 UNION ALL SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class k ON k.oid = i.inhrelid AND k.relispartition) \
               SELECT n.nspname::text, c.relname::text, c.relpersistence::text FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'r' AND (c.relpersistence = 'u' OR NOT CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false \
                 WHEN 'i' THEN EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid) \
                 ELSE EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND x.indimmediate AND x.indisvalid) END)";
    for plan in plans {
        let Some(table) = catalog.table(&plan.source) else { continue };
        let object = plan.source.to_string();
        for column in typemap::bit_columns(table, plan) {
            items.push(CheckItem::failed(
                "K17",
                format!("{object}.{column}"),
                "columns of type bit cannot be followed by incremental",
                format!("leave it out (columns = {{ drop = [\"{column}\"] }}), or migrate without incremental"),
            ));
        }
        if plan.key.is_empty() && managed {
            let cause = "it has no key: rows may be doubled, or the migration may fail";
            items.push(CheckItem::warning("K15", &object, cause, "add a primary key"));
        }
        if table.options.contains_key("partition_by") && catalog.version < 130_000 {
            items.push(CheckItem::failed(
                "K33",
                &object,
                "before version 13 changes of partitions cannot be followed through their table",
                "leave the table out, or migrate it without incremental",
            ));
        }
        let published = plan.operations.update || plan.operations.delete;
        if table.options.contains_key("partition_by") && plan.key.is_empty() && published {
            let (cause, remedy) = if set_identity {
                (
                    "it has no key: a partition that is attached while drover runs gets its REPLICA IDENTITY within seconds, and until then the \
                     server refuses updates and deletes of it",
                    "ALTER TABLE … ADD PRIMARY KEY (…); or give each new partition REPLICA IDENTITY FULL before it is attached",
                )
            } else {
                (
                    "it has no key: the server will refuse updates and deletes of a partition that is attached while drover runs",
                    "ALTER TABLE … ADD PRIMARY KEY (…), or give each new partition REPLICA IDENTITY FULL before it is attached, or \
                     set_identity = true in [migrate]",
                )
            };
            let table = qualified(&plan.source.schema, &plan.source.name);
            items.push(CheckItem::warning("K31", &object, cause, remedy.replacen('…', &table, 1)));
        }
        let unfollowed = client.query(sql, &[&plan.source.schema, &plan.source.name]).await?;
        for r in &unfollowed {
            let (schema, name): (String, String) = (r.try_get(0)?, r.try_get(1)?);
            let statement = qualified(&schema, &name);
            if r.try_get::<_, String>(2)? == "u" {
                let cause = "the table is unlogged: its changes are not in the log";
                items.push(CheckItem::failed(
                    "K31",
                    format!("{schema}.{name}"),
                    cause,
                    format!("ALTER TABLE {statement} SET LOGGED, or leave it out"),
                ));
            } else if !plan.operations.update && !plan.operations.delete {
                // Inserts alone need no old rows. The publication then must not publish the others either.
            } else if set_identity {
                items.push(CheckItem::warning(
                    "K31",
                    format!("{schema}.{name}"),
                    "updates and deletes name no row in the log; drover sets REPLICA IDENTITY FULL during the migration, and cleanup restores it",
                    format!("ALTER TABLE {statement} ADD PRIMARY KEY (…) is better"),
                ));
            } else {
                items.push(CheckItem::failed(
                    "K31",
                    format!("{schema}.{name}"),
                    "updates and deletes name no row in the log; once published, the server would refuse them",
                    format!(
                        "ALTER TABLE {statement} ADD PRIMARY KEY (…), or ALTER TABLE {statement} REPLICA IDENTITY FULL, or let drover do the latter: \
                         set_identity = true in [migrate]"
                    ),
                ));
            }
        }
    }
    for item in ["K17", "K31", "K33"] {
        if items[before..].iter().all(|i| i.item != item) {
            items.push(CheckItem::passed(item, format!("{} tables", plans.len())));
        }
    }
    Ok(())
}

/// K22: the server parses each condition; nothing is executed.
pub(super) async fn filters(client: &Client, plans: &[TablePlan], items: &mut Vec<CheckItem>) -> Result<(), Error> {
    for plan in plans {
        let Some(filter) = &plan.filter else { continue };
        let object = plan.source.to_string();
        // The line ends so that a comment in the condition ends, too.
        let table = qualified(&plan.source.schema, &plan.source.name);
        let sql = format!("SELECT FROM {table} WHERE ({filter}\n)");
        // What closes the bracket around it and opens another fits one kind of brackets only.
        let enclosed = format!("SELECT FROM {table} WHERE (ARRAY[{filter}\n]::boolean[])[1]");
        let prepared = match client.prepare(&sql).await {
            Ok(statement) => {
                client.prepare(&enclosed).await.map(|_| Some(statement)).or_else(|e| match e.as_db_error() {
                    Some(_) => Ok(None),
                    None => Err(e),
                })
            }
            Err(e) => Err(e),
        };
        match prepared {
            Ok(Some(statement)) if statement.params().is_empty() => items.push(CheckItem::passed("K22", object)),
            Ok(None) => items.push(CheckItem::failed(
                "K22",
                object,
                format!(
                    "the condition {filter} closes a parenthesis that it has not opened, or is no condition but a query"
                ),
                "correct `where` in the migration file; a query in it stands in parentheses",
            )),
            Ok(Some(_)) => items.push(CheckItem::failed(
                "K22",
                object,
                "the condition has parameters ($1 …)",
                "write values into the condition",
            )),
            Err(e) => {
                let Some(db) = e.as_db_error() else { return Err(e) };
                let cause = format!("the server refuses the condition {filter}: {}", db.message());
                items.push(CheckItem::failed("K22", object, cause, "correct `where` in the migration file"));
            }
        }
    }
    Ok(())
}
