//! K8: what the source's account may do.

use super::some;
use crate::sql::{ident, qualified};
use drover_model::TablePlan;
use drover_model::check::CheckItem;
use drover_model::schema::Catalog;
use tokio_postgres::{Client, Error};

pub(super) async fn source(
    client: &Client,
    incremental: bool,
    plans: &[TablePlan],
    catalog: &Catalog,
    items: &mut Vec<CheckItem>,
) -> Result<(), Error> {
    let before = items.len();
    let who = client
        .query_one(
            "SELECT current_user::text, r.rolsuper, r.rolbypassrls, r.rolreplication, has_database_privilege(current_database(), 'CREATE'), \
             EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_superuser', 'rds_replication', 'cloudsqlsuperuser', 'azure_pg_admin') \
                       AND pg_has_role(m.oid, 'MEMBER')) \
             FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .await?;
    let user: String = who.try_get(0)?;
    let (superuser, bypass, replication, create, managed): (bool, bool, bool, bool, bool) =
        (who.try_get(1)?, who.try_get(2)?, who.try_get(3)?, who.try_get(4)?, who.try_get(5)?);
    let account = ident(&user);
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        plans.iter().map(|p| (p.source.schema.as_str(), p.source.name.as_str())).unzip();
    let rows = client
        .query(
            "SELECT n.nspname::text, c.relname::text, has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), \
                    pg_has_role(c.relowner, 'USAGE'), c.relrowsecurity, c.relforcerowsecurity, \
                    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                             AND has_column_privilege(c.oid, a.attnum, 'SELECT')) \
               FROM unnest($1::text[], $2::text[]) AS t(s, t) JOIN pg_namespace n ON n.nspname = t.s \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.t",
            &[&schemas, &names],
        )
        .await?;
    let mut no_usage = Vec::new();
    let mut not_owned = Vec::new();
    for r in &rows {
        let (schema, name): (String, String) = (r.try_get(0)?, r.try_get(1)?);
        let object = format!("{schema}.{name}");
        if !r.try_get::<_, bool>(2)? && !no_usage.contains(&schema) {
            let cause = format!("account {user} may not use schema {schema}");
            items.push(CheckItem::failed(
                "K8",
                &schema,
                cause,
                format!("GRANT USAGE ON SCHEMA {} TO {account}", ident(&schema)),
            ));
            no_usage.push(schema.clone());
        }
        let readable: Vec<String> = r.try_get(7)?;
        let plan = plans.iter().find(|p| p.source.schema == schema && p.source.name == name);
        let all = plan.is_some_and(|p| p.columns.iter().all(|c| readable.contains(&c.source)));
        if !r.try_get::<_, bool>(3)? && !all {
            let cause = format!("account {user} may not read it");
            items.push(CheckItem::failed(
                "K8",
                &object,
                cause,
                format!("GRANT SELECT ON {} TO {account}", qualified(&schema, &name)),
            ));
        }
        let owner: bool = r.try_get(4)?;
        if r.try_get(5)? && !superuser && !bypass && (!owner || r.try_get(6)?) {
            items.push(CheckItem::failed(
                "K8",
                &object,
                format!("row security hides rows of it from account {user}: they would be lost silently"),
                format!("ALTER ROLE {account} BYPASSRLS"),
            ));
        }
        if !owner && !superuser {
            not_owned.push(object);
        }
    }
    for object in catalog.tables.iter().filter(|t| t.options.contains_key("row_security")) {
        if plans.iter().any(|p| p.source == object.name) {
            let cause = "its row security policies are not carried over";
            items.push(CheckItem::warning(
                "K18",
                object.name.to_string(),
                cause,
                "create the policies at the destination by hand",
            ));
        }
    }
    if incremental {
        if !replication && !superuser && !managed {
            let cause = format!("account {user} may not read the log");
            items.push(CheckItem::failed(
                "K8",
                "replication",
                cause,
                format!("ALTER ROLE {account} REPLICATION (Amazon: GRANT rds_replication TO {account})"),
            ));
        }
        if !create && !superuser {
            let remedy = format!("GRANT CREATE ON DATABASE {} TO {account}", ident(&catalog.database));
            items.push(CheckItem::failed(
                "K8",
                "publication",
                format!("account {user} may not create a publication in this database"),
                remedy,
            ));
        }
        if !not_owned.is_empty() {
            items.push(CheckItem::failed(
                "K8",
                some(&not_owned),
                format!("a publication of tables needs their owner, which account {user} is not"),
                format!("GRANT the owning role TO {account}, or use the owner's or a superuser's account"),
            ));
        }
    }
    if items[before..].iter().all(|i| i.item != "K8") {
        items.push(CheckItem::passed("K8", format!("account {user}")));
    }
    Ok(())
}
