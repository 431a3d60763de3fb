//! The unique keys of tables, from the server's own catalogue, and how their values compare.
//!
//! A key is given out for parallel applying only if equality of two values at this server is equality of their texts after
//! a normal form that drover can compute exactly. Every other key (and any exclusion constraint) makes its table serial, with the reason.
//! A partial unique index counts as a full one: then some rows are held apart that could not collide, and none collide
//! that are taken for apart.

use drover_connectors_api::{Keys, Norm, UniqueColumns};
use drover_model::plan::{Misfit, RowFormat};
use drover_model::{Fault, Result, TablePlan};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// One row for each key column of every index that forbids some pair of rows. `to_jsonb` reaches columns of the catalogue
/// that older versions lack.
const INDEXES: &str = r#"
select t.n::int4, ic.relname::text, i.indisunique,
    coalesce((to_jsonb(i)->>'indnullsnotdistinct')::boolean, false), i.indisexclusion,
    a.attname::text, coalesce(a.attname is not null and to_jsonb(a)->>'attgenerated' <> '', false),
    bn.nspname::text, b.typname::text, b.typtype::text,
    coalesce((to_jsonb(co)->>'collisdeterministic')::boolean, true), ocn.nspname::text, co.collname::text
from unnest($1::text[], $2::text[]) with ordinality as t(s, r, n)
join pg_namespace ns on ns.nspname = t.s
join pg_class c on c.relnamespace = ns.oid and c.relname = t.r
join pg_index i on i.indrelid = c.oid and i.indisready and (i.indisunique or i.indisexclusion)
join pg_class ic on ic.oid = i.indexrelid
cross join lateral generate_series(0, coalesce((to_jsonb(i)->>'indnkeyatts')::int, i.indnatts) - 1) as g(g)
left join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[g.g] and i.indkey[g.g] <> 0
left join lateral (
    with recursive r(oid, typtype, base) as (
        select y.oid, y.typtype, y.typbasetype from pg_type y where y.oid = a.atttypid
        union all
        select y.oid, y.typtype, y.typbasetype from r join pg_type y on y.oid = r.base where r.typtype = 'd')
    select r.oid from r where r.typtype <> 'd') as base on true
left join pg_type b on b.oid = base.oid
left join pg_namespace bn on bn.oid = b.typnamespace
left join pg_collation co on co.oid = i.indcollation[g.g]
left join pg_opclass oc on oc.oid = i.indclass[g.g]
left join pg_namespace ocn on ocn.oid = oc.opcnamespace
order by t.n, i.indisprimary desc, ic.relname, g.g"#;

struct Index {
    name: String,
    columns: Vec<(u16, Norm)>,
    /// Why it cannot be compared exactly.
    obstacle: Option<String>,
}

/// The keys of these tables, one for each plan, in order. `fault` says whose server this is.
pub async fn keys(client: &Client, plans: &[TablePlan], fault: Fault) -> Result<Vec<Keys>> {
    let schemas: Vec<&str> = plans.iter().map(|p| p.destination.schema.as_str()).collect();
    let names: Vec<&str> = plans.iter().map(|p| p.destination.name.as_str()).collect();
    let rows = client
        .query(INDEXES, &[&schemas, &names])
        .await
        .map_err(|e| crate::errors::classify(&e, fault, "cannot read the unique keys of the tables"))?;
    let mut indexes: Vec<Vec<Index>> = plans.iter().map(|_| Vec::new()).collect();
    for row in &rows {
        let n = row.get::<_, i32>(0) as usize - 1;
        let name: String = row.get(1);
        let plan = &plans[n];
        if indexes[n].last().is_none_or(|i| i.name != name) {
            let obstacle = if row.get(4) {
                Some("it is an exclusion constraint".to_owned())
            } else {
                row.get::<_, bool>(3).then(|| "it takes nulls for equal".to_owned())
            };
            indexes[n].push(Index { name, columns: Vec::new(), obstacle });
        }
        let Some(index) = indexes[n].last_mut() else { continue };
        match column(row, plan) {
            Ok(column) => index.columns.push(column),
            Err(why) => index.obstacle = index.obstacle.take().or(Some(why)),
        }
    }
    Ok(plans.iter().zip(indexes).map(|(plan, indexes)| of_table(plan, indexes)).collect())
}

/// A key column as an index into the plan's columns, with its normal form; or why it cannot be compared.
fn column(row: &tokio_postgres::Row, plan: &TablePlan) -> Result<(u16, Norm), String> {
    let Some(name) = row.get::<_, Option<&str>>(5) else { return Err("it is made on an expression".into()) };
    if row.get(6) {
        return Err(format!("its column {name} is generated"));
    }
    let Some(at) = plan.columns.iter().position(|c| c.destination == name) else {
        return Err(format!("its column {name} is not among those that move"));
    };
    let moved = &plan.columns[at];
    if plan.format == RowFormat::Canonical && matches!(moved.misfit, Misfit::Null | Misfit::Clamp) {
        return Err(format!("values of column {name} that do not fit become others here"));
    }
    let (schema, type_name, kind): (&str, &str, &str) = (
        row.get::<_, Option<_>>(7).unwrap_or_default(),
        row.get::<_, Option<_>>(8).unwrap_or_default(),
        row.get::<_, Option<_>>(9).unwrap_or_default(),
    );
    if !row.get::<_, bool>(10) {
        let collation = row.get::<_, Option<&str>>(12).unwrap_or_default();
        return Err(format!("column {name} has the nondeterministic collation {collation}"));
    }
    if row.get::<_, Option<&str>>(11).is_some_and(|s| s != "pg_catalog") {
        return Err(format!("column {name} is compared by an operator class of its own"));
    }
    let norm = if kind == "e" { Some(Norm::Exact) } else { norm(schema, type_name) };
    norm.map(|n| (at as u16, n))
        .ok_or_else(|| format!("equal values of type {type_name} (column {name}) can have several texts"))
}

/// How texts of a type are compared; `None`: equal values have several texts, or the text depends on settings.
fn norm(schema: &str, name: &str) -> Option<Norm> {
    if schema != "pg_catalog" {
        return None;
    }
    match name {
        "int2" | "int4" | "int8" | "oid" | "bool" | "uuid" | "text" | "varchar" | "name" | "char" | "bytea"
        | "date" | "time" | "timetz" | "timestamp" | "timestamptz" | "inet" | "cidr" | "macaddr" | "macaddr8"
        | "bit" | "varbit" | "pg_lsn" | "int4range" | "int8range" | "daterange" => Some(Norm::Exact),
        "bpchar" => Some(Norm::TrimEnd),
        "numeric" => Some(Norm::Decimal),
        _ => None,
    }
}

fn of_table(plan: &TablePlan, indexes: Vec<Index>) -> Keys {
    let key: BTreeSet<u16> = plan.key.iter().copied().collect();
    let mut serial = None;
    let mut norms: BTreeMap<u16, Norm> = BTreeMap::new();
    let mut others: Vec<UniqueColumns> = Vec::new();
    let mut identity_name = None;
    for index in indexes {
        let columns: BTreeSet<u16> = index.columns.iter().map(|c| c.0).collect();
        let is_identity = !key.is_empty() && columns == key;
        if let Some(why) = index.obstacle {
            // Columns that an obstacle hides are missing in `columns`, so this index cannot be skipped.
            serial.get_or_insert_with(|| format!("unique index {}: {why}", index.name));
            continue;
        }
        norms.extend(index.columns.iter().copied());
        if is_identity {
            identity_name.get_or_insert(index.name);
        } else if key.is_empty() || !columns.is_superset(&key) {
            // One that has all columns of the key can only collide where the key collides.
            others.push(UniqueColumns { name: index.name, columns: index.columns });
        }
    }
    let identity = (!plan.key.is_empty()).then(|| {
        if identity_name.is_none() {
            serial.get_or_insert_with(|| "no unique index of the table has the columns of its key".to_owned());
        }
        UniqueColumns {
            name: identity_name.unwrap_or_default(),
            columns: plan.key.iter().map(|&c| (c, norms.get(&c).copied().unwrap_or(Norm::Exact))).collect(),
        }
    });
    Keys { table: plan.id, identity, others, serial }
}
