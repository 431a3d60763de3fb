//! A table as this server has it: types to cast texts to, the operator that compares a key column, what its key's index allows.
//! Taken from the catalogue, not from type names: a cast target must carry no length, or the server would cut values silently.

use crate::errors::classify;
use crate::sql;
use drover_model::error::codes;
use drover_model::schema::TableName;
use drover_model::{Error, Fault, Result, Retry};
use std::collections::HashMap;
use tokio_postgres::Client;

/// A column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Quoted name.
    pub name: String,
    /// The base type (below domains) without length or precision: texts are cast to it, and the assignment to the column
    /// then applies length and domain, and fails where they do not fit.
    pub cast: String,
    /// The column's own type with length and precision.
    pub full: String,
    /// How a value is compared with another.
    pub equals: String,
    pub identity_always: bool,
    /// `float4`, `float8`, `_float4`, `_float8` and others, as the catalogue calls the base type.
    pub type_name: String,
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub name: TableName,
    pub oid: u32,
    /// Quoted name with `ONLY` unless it is partitioned: children of plain inheritance are tables of their own.
    pub only: String,
    /// Quoted name.
    pub table: String,
    /// In the order asked for.
    pub columns: Vec<Column>,
    /// Key columns, as indexes into `columns`.
    pub key: Vec<usize>,
    /// Some index begins with the key's columns: rows are looked up by it.
    pub indexed: bool,
    /// A unique index on exactly the key, without predicate and not deferrable.
    pub arbiter: bool,
}

/// What to look up: a table, its columns by name, and its key as indexes into them.
pub(crate) struct Wanted<'a> {
    pub name: &'a TableName,
    pub columns: Vec<&'a str>,
    pub key: Vec<usize>,
}

const COLUMNS: &str = r#"
select t.n::int4, c.oid, c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod), format_type(base.oid, -1),
    a.attidentity::text, (select y.typname::text from pg_type y where y.oid = base.oid),
    (select n.nspname::text from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
        where o.oprname = '=' and o.oprleft = base.oid and o.oprright = base.oid limit 1)
from unnest($1::text[], $2::text[]) with ordinality as t(s, r, n)
join pg_namespace ns on ns.nspname = t.s
join pg_class c on c.relnamespace = ns.oid and c.relname = t.r and c.relkind in ('r', 'p', 'f', 'v', 'm')
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
cross join lateral (
    with recursive r(oid, typtype, base) as (
        select y.oid, y.typtype, y.typbasetype from pg_type y where y.oid = a.atttypid
        union all
        select y.oid, y.typtype, y.typbasetype from r join pg_type y on y.oid = r.base where r.typtype = 'd')
    select r.oid from r where r.typtype <> 'd') as base"#;

const INDEXES: &str = r#"
select i.indrelid, i.indisunique and i.indimmediate and i.indisvalid,
    array(select coalesce(a.attname::text, '') from generate_series(0, coalesce((to_jsonb(i)->>'indnkeyatts')::int, i.indnatts) - 1) g
        left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[g] and a.attnum <> 0 order by g)
from pg_index i where i.indrelid = any($1) and i.indpred is null and i.indexprs is null and i.indisready and i.indisvalid"#;

/// Looks tables up, all in two statements. A table or column that does not exist is an error that names it.
pub(crate) async fn load(client: &Client, wanted: &[Wanted<'_>], fault: Fault) -> Result<Vec<Shape>> {
    let failed = |e: tokio_postgres::Error| classify(&e, fault, "cannot read the tables' columns from the catalogue");
    let schemas: Vec<&str> = wanted.iter().map(|w| w.name.schema.as_str()).collect();
    let names: Vec<&str> = wanted.iter().map(|w| w.name.name.as_str()).collect();
    let rows = client.query(COLUMNS, &[&schemas, &names]).await.map_err(failed)?;
    let mut found: Vec<HashMap<String, Column>> = wanted.iter().map(|_| HashMap::new()).collect();
    let mut tables: Vec<Option<(u32, bool)>> = vec![None; wanted.len()];
    for row in &rows {
        let n = row.get::<_, i32>(0) as usize - 1;
        tables[n] = Some((row.get(1), row.get::<_, &str>(2) == "r"));
        let name: &str = row.get(3);
        let column = Column {
            name: sql::ident(name),
            cast: row.get(5),
            full: row.get(4),
            equals: match row.get::<_, Option<&str>>(8) {
                Some(schema) if schema != "pg_catalog" => format!("operator({}.=)", sql::ident(schema)),
                _ => "=".to_owned(),
            },
            identity_always: row.get::<_, &str>(6) == "a",
            type_name: row.get(7),
        };
        found[n].insert(name.to_owned(), column);
    }
    let oids: Vec<u32> = tables.iter().flatten().map(|t| t.0).collect();
    let indexes = client.query(INDEXES, &[&oids]).await.map_err(failed)?;
    let mut shapes = Vec::with_capacity(wanted.len());
    for ((w, table), mut found) in wanted.iter().zip(tables).zip(found) {
        let missing = |what: String| {
            Error::new(codes::TABLE_CHANGED, fault, Retry::Never, what)
                .table(w.name)
                .remedy("restore the table's shape, or leave it out")
        };
        let (oid, plain) = table.ok_or_else(|| missing("a table does not exist".into()))?;
        let mut columns = Vec::with_capacity(w.columns.len());
        for name in &w.columns {
            let column =
                found.remove(*name).ok_or_else(|| missing(format!("column {name} does not exist")).column(name))?;
            columns.push(column);
        }
        let mut key: Vec<&str> = w.key.iter().map(|&i| w.columns[i]).collect();
        key.sort_unstable();
        let (mut indexed, mut arbiter) = (false, false);
        for row in indexes.iter().filter(|r| r.get::<_, u32>(0) == oid && !key.is_empty()) {
            let mut parts: Vec<&str> = row.get(2);
            let exact = parts.len() == key.len();
            parts.truncate(key.len());
            parts.sort_unstable();
            if parts == key {
                indexed = true;
                arbiter |= exact && row.get::<_, bool>(1);
            }
        }
        let table = sql::table(w.name);
        let only = if plain { format!("only {table}") } else { table.clone() };
        shapes.push(Shape { name: w.name.clone(), oid, only, table, columns, key: w.key.clone(), indexed, arbiter });
    }
    Ok(shapes)
}
