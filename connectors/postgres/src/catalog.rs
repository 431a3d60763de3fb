//! The catalogue of a PostgreSQL database (10 to 18): one query a kind, all in one read-only transaction, so that its parts agree.
//!
//! Guarantee: everything that a user owns is either in the [`Catalog`] or named there as something that cannot be carried (kind
//! `unsupported`). What extensions own belongs to the extensions; system schemas, drover's own schema and its helper tables are left out.
//!
//! How tables are told: partitions are parts (kind `partition`) of the topmost table and no tables of their own; its leaves
//! stand in option `leaves`. Inheritance children are tables of their own and read with ONLY. Parts of a table are of the kinds `partition`,
//! `column` (storage, statistics), `identity` (options of its sequence), `check`, `primary key`, `unique`, `exclude`, `index`, `foreign key`, `trigger`. Lists
//! in options are JSON.
//!
//! Sources: the manual's chapter "System Catalogs"; `pg_get_*def` of "System Catalog Information Functions".

mod objects;
pub mod order;
mod plain;
mod types;
mod variant;

use crate::errors::classify;
use drover_model::schema::{
    Catalog, Column, Identity, Object, OldImage, Phase, PlainForeignKey, PlainIndex, Table, TableName, UniqueKey,
};
use drover_model::{Error, Fault, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio_postgres::{Client, Row};
use types::Types;
pub use types::simple as builtin;

/// The kind of database in [`Catalog::origin`].
pub const ORIGIN: &str = "postgres";

/// The option with a table's number, and the one with its columns' numbers, in their order.
pub const OID: &str = "oid";
pub const NUMBERS: &str = "column_numbers";

/// The option of a table that has been renamed since it was selected: a JSON list of the schema and the name that it had then.
pub const SELECTED_AS: &str = "selected_as";

/// Numbers of the system catalogues that dependencies speak of; the same on every server.
const PG_CLASS: u32 = 1259;

type Rowed<T> = std::result::Result<T, tokio_postgres::Error>;

/// Reads the whole catalogue. The client must not be within a transaction; afterwards it is not either. Statements under way at the same
/// time on other sessions do no harm: all queries see one snapshot, but definitions that the server prints are those of this moment.
///
/// # Errors
/// As [`classify`] says, with the source at fault.
pub async fn read(client: &Client) -> Result<Catalog> {
    let failed = |e: tokio_postgres::Error| classify(&e, Fault::Source, "reading the catalogue");
    // Names are printed with their schema where the path is empty.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''; \
                 SET LOCAL quote_all_identifiers = off";
    client.batch_execute(begin).await.map_err(failed)?;
    let read = Reader::read(client).await;
    let ended = client.batch_execute(if read.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
    let (reader, version) = read.map_err(failed)?;
    ended.map_err(failed)?;
    let identity = identity(client, version.try_get("database_oid").map_err(failed)?).await?;
    reader.assemble(&version, identity).map_err(failed)
}

/// System identifier and timeline (`7301…:1`), the same for everything that is one history. Where the account may not ask, the
/// database's number stands for it, and the replication connection has to be asked.
pub async fn identity(client: &Client, database_oid: u32) -> Result<String> {
    match client.query_one(include_str!("catalog/identity.sql"), &[]).await {
        Ok(row) => {
            let get = || -> Rowed<String> {
                Ok(format!("{}:{}", row.try_get::<_, String>("system")?, row.try_get::<_, i32>("timeline")?))
            };
            get().map_err(|e| classify(&e, Fault::Source, "reading the server's identity"))
        }
        Err(e) if e.as_db_error().is_some() => Ok(format!("database {database_oid}")),
        Err(e) => Err(classify(&e, Fault::Source, "reading the server's identity")),
    }
}

/// The physical identity of a table: another text after any rewrite, TRUNCATE or change of its columns, partitions included. One cheap query.
///
/// **Not on a snapshot**: within an old snapshot the catalogue's columns and partitions would be old as well, so that is refused. Use a session
/// of its own (or one between transactions).
///
/// # Errors
/// TABLE_CHANGED when the table is gone; INTERNAL on a snapshot; else as [`classify`] says.
pub async fn physical(client: &Client, table: &TableName) -> Result<String> {
    let failed =
        |e: tokio_postgres::Error| classify(&e, Fault::Source, "reading a table's physical identity").table(table);
    let find = "SELECT c.oid, current_setting('transaction_isolation') <> 'read committed' AND now() <> statement_timestamp() \
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let Some(row) = client.query_opt(find, &[&table.schema, &table.name]).await.map_err(failed)? else {
        return Err(Error::new(
            drover_model::error::codes::TABLE_CHANGED,
            Fault::Source,
            drover_model::Retry::Never,
            "the table is gone from the source",
        )
        .table(table));
    };
    if row.try_get::<_, bool>(1).map_err(failed)? {
        return Err(Error::internal("the physical identity was asked for within a snapshot").table(table));
    }
    let oid: u32 = row.try_get(0).map_err(failed)?;
    let row = client.query_one(include_str!("catalog/physical.sql"), &[&vec![oid]]).await.map_err(failed)?;
    row.try_get("physical").map_err(failed)
}

/// A list in an option.
pub fn list(options: &BTreeMap<String, String>, key: &str) -> Vec<String> {
    options.get(key).and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
}

/// A list of tables in an option (`leaves`, `inherits`).
pub fn names(options: &BTreeMap<String, String>, key: &str) -> Vec<TableName> {
    let pairs: Vec<(String, String)> = options.get(key).and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    pairs.into_iter().map(|(schema, name)| TableName { schema, name }).collect()
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Lists of texts always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

/// How a table or object is named in `needs`.
pub fn key(schema: &str, name: &str) -> String {
    format!("{schema}.{name}")
}

/// The queries whose rows make a table, by name, on a server of this version.
pub fn told_queries(version: u32) -> [(&'static str, String); 6] {
    let of = |name, sql| (name, variant::variant(sql, version));
    [
        of("tables", include_str!("catalog/tables.sql")),
        of("columns", include_str!("catalog/columns.sql")),
        of("types_used", include_str!("catalog/types_used.sql")),
        of("constraints", include_str!("catalog/constraints.sql")),
        of("indexes", include_str!("catalog/indexes.sql")),
        of("sequences", include_str!("catalog/sequences.sql")),
    ]
}

/// Tables from rows of [`told_queries`] that were kept as JSON: an object with a list of rows for each query. Triggers and what else is told by other
/// queries are not in them.
///
/// # Errors
/// As [`classify`] says, with the source at fault.
pub async fn told(client: &Client, rows: &str) -> Result<Vec<Table>> {
    let failed = |e: tokio_postgres::Error| classify(&e, Fault::Source, "reading a changed table");
    let head = client.query_one(include_str!("catalog/version.sql"), &[]).await.map_err(failed)?;
    let version = head.try_get::<_, i32>("version").map_err(failed)? as u32;
    let mut sets = Vec::new();
    for (name, sql) in told_queries(version) {
        let prepared = client.prepare(&sql).await.map_err(failed)?;
        let columns: Vec<String> = prepared
            .columns()
            .iter()
            .map(|c| format!("{} pg_catalog.{}", crate::sql::ident(c.name()), crate::sql::ident(c.type_().name())))
            .collect();
        let sql = format!("SELECT * FROM jsonb_to_recordset($1::text::jsonb -> '{name}') AS q({})", columns.join(", "));
        sets.push(client.query(&sql, &[&rows]).await.map_err(failed)?);
    }
    let mut sets = sets.into_iter();
    let mut next = || sets.next().unwrap_or_default();
    let reader = Reader {
        version,
        tables: next(),
        columns: next(),
        types_used: next(),
        constraints: next(),
        indexes: next(),
        sequences: next(),
        schemas: Vec::new(),
        extensions: Vec::new(),
        triggers: Vec::new(),
        types: Vec::new(),
        functions: Vec::new(),
        operators: Vec::new(),
        views: Vec::new(),
        rules: Vec::new(),
        depend: Vec::new(),
        physical: HashMap::new(),
    };
    Ok(reader.assemble(&head, String::new()).map_err(failed)?.tables)
}

/// Answers of all queries, before they are put together.
struct Reader {
    version: u32,
    schemas: Vec<Row>,
    extensions: Vec<Row>,
    tables: Vec<Row>,
    columns: Vec<Row>,
    types_used: Vec<Row>,
    constraints: Vec<Row>,
    indexes: Vec<Row>,
    triggers: Vec<Row>,
    sequences: Vec<Row>,
    types: Vec<Row>,
    functions: Vec<Row>,
    operators: Vec<Row>,
    views: Vec<Row>,
    rules: Vec<Row>,
    depend: Vec<Row>,
    physical: HashMap<u32, String>,
}

impl Reader {
    async fn read(client: &Client) -> Rowed<(Reader, Row)> {
        let head = client.query_one(include_str!("catalog/version.sql"), &[]).await?;
        let version = head.try_get::<_, i32>("version")? as u32;
        macro_rules! rows {
            ($name:literal) => {
                client.query(&variant::variant(include_str!(concat!("catalog/", $name, ".sql")), version), &[]).await?
            };
        }
        let tables = rows!("tables");
        let mut physical = HashMap::new();
        let mut oids = Vec::new();
        for t in &tables {
            if !t.try_get::<_, bool>("is_partition")? {
                oids.push(t.try_get::<_, u32>("oid")?);
            }
        }
        for r in client.query(include_str!("catalog/physical.sql"), &[&oids]).await? {
            physical.insert(r.try_get("root")?, r.try_get("physical")?);
        }
        let reader = Reader {
            version,
            schemas: rows!("schemas"),
            extensions: rows!("extensions"),
            columns: rows!("columns"),
            types_used: rows!("types_used"),
            constraints: rows!("constraints"),
            indexes: rows!("indexes"),
            triggers: rows!("triggers"),
            sequences: rows!("sequences"),
            types: rows!("types"),
            functions: rows!("functions"),
            operators: rows!("operators"),
            views: rows!("views"),
            rules: rows!("rules"),
            depend: rows!("depend"),
            tables,
            physical,
        };
        Ok((reader, head))
    }

    /// Rows of a query by the relation that they belong to.
    fn by_relation<'a>(rows: &'a [Row], column: &str) -> Rowed<HashMap<u32, Vec<&'a Row>>> {
        let mut out: HashMap<u32, Vec<&Row>> = HashMap::new();
        for r in rows {
            out.entry(r.try_get(column)?).or_default().push(r);
        }
        Ok(out)
    }

    fn assemble(self, head: &Row, identity: String) -> Rowed<Catalog> {
        let types = Types::from_rows(&self.types_used)?;
        let columns = Self::by_relation(&self.columns, "relid")?;
        let constraints = Self::by_relation(&self.constraints, "relid")?;
        let indexes = Self::by_relation(&self.indexes, "relid")?;
        let triggers = Self::by_relation(&self.triggers, "relid")?;
        let mut identities: HashMap<u32, Vec<&Row>> = HashMap::new();
        let mut owned: HashMap<u32, Vec<&Row>> = HashMap::new();
        for s in &self.sequences {
            if let Some(owner) = s.try_get::<_, Option<u32>>("owner_relid")? {
                owned.entry(owner).or_default().push(s);
            }
            if let (true, Some(owner)) = (s.try_get("is_identity")?, s.try_get::<_, Option<u32>>("owner_relid")?) {
                identities.entry(owner).or_default().push(s);
            }
        }
        let mut relations: HashMap<u32, &Row> = HashMap::new();
        for t in &self.tables {
            relations.insert(t.try_get("oid")?, t);
        }
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for t in &self.tables {
            for parent in t.try_get::<_, Vec<u32>>("parents")? {
                children.entry(parent).or_default().push(t.try_get("oid")?);
            }
        }
        let mut needs = objects::Needs::new(&self, &relations)?;
        let mut unsupported = Vec::new();
        let mut tables = Vec::new();
        for t in &self.tables {
            let oid: u32 = t.try_get("oid")?;
            if t.try_get::<_, bool>("is_partition")? {
                continue;
            }
            let name = TableName::new(t.try_get::<_, String>("schema")?, t.try_get::<_, String>("name")?);
            if t.try_get::<_, String>("kind")? == "f" {
                unsupported.push(objects::unsupported(
                    &name.schema,
                    &name.name,
                    "foreign table",
                    "its rows live elsewhere",
                ));
                continue;
            }
            let part_rows = Parts { name: &name, constraints: &constraints, indexes: &indexes, triggers: &triggers };
            let mut parts = Vec::new();
            let (mut bytes, mut tuples) = (t.try_get::<_, i64>("bytes")?.max(0) as u64, estimate(t)?);
            // All partitions below, parents first.
            let mut leaves = Vec::new();
            let mut below: std::collections::VecDeque<u32> = children.get(&oid).cloned().unwrap_or_default().into();
            let mut members = vec![oid];
            if t.try_get::<_, String>("kind")? == "p" {
                while let Some(child) = below.pop_front() {
                    let Some(c) = relations.get(&child) else { continue };
                    members.push(child);
                    below.extend(children.get(&child).into_iter().flatten());
                    bytes += c.try_get::<_, i64>("bytes")?.max(0) as u64;
                    if c.try_get::<_, String>("kind")? != "p" {
                        tuples += estimate(c)?;
                        leaves.push((c.try_get::<_, String>("schema")?, c.try_get::<_, String>("name")?));
                    }
                    if c.try_get::<_, String>("kind")? == "f" {
                        let (s, n): (String, String) = (c.try_get("schema")?, c.try_get("name")?);
                        unsupported.push(objects::unsupported(&s, &n, "foreign partition", "its rows live elsewhere"));
                    }
                    parts.push(partition(c, &relations)?);
                }
            }
            let mut options = BTreeMap::new();
            for (column_name, label) in
                [("partition_by", "partition_by"), ("comment", "comment"), ("ident_index", "replica_index")]
            {
                if let Some(text) = t.try_get::<_, Option<String>>(column_name)? {
                    options.insert(label.to_owned(), text);
                }
            }
            if t.try_get::<_, String>("persistence")? == "u" {
                options.insert("unlogged".into(), "true".into());
            }
            if let Some(with) = t.try_get::<_, Option<Vec<String>>>("reloptions")? {
                options.insert("reloptions".into(), json(&with));
            }
            if t.try_get::<_, bool>("row_security")? {
                let force: bool = t.try_get("force_row_security")?;
                options.insert("row_security".into(), if force { "force" } else { "on" }.into());
            }
            if !leaves.is_empty() {
                options.insert("leaves".into(), json(&leaves));
            }
            options.insert("owner".into(), t.try_get("owner")?);
            let parents: Vec<(String, String)> = t
                .try_get::<_, Vec<u32>>("parents")?
                .iter()
                .filter_map(|p| relations.get(p))
                .map(|p| Ok((p.try_get("schema")?, p.try_get("name")?)))
                .collect::<Rowed<_>>()?;
            let table_columns = columns.get(&oid).map(Vec::as_slice).unwrap_or_default();
            if !parents.is_empty() {
                options.insert("inherits".into(), json(&parents));
                let inherited = table_columns.iter().filter_map(|c| match c.try_get::<_, bool>("is_local") {
                    Ok(true) => None,
                    Ok(false) => Some(c.try_get::<_, String>("name")),
                    Err(e) => Some(Err(e)),
                });
                options.insert("inherited_columns".into(), json(&inherited.collect::<Rowed<Vec<_>>>()?));
            }
            let replident: String = t.try_get("replident")?;
            options.insert("replica_identity".into(), replident.clone());
            let mut keys = Vec::new();
            for (i, member) in members.iter().enumerate() {
                let on = match i {
                    0 => name.clone(),
                    _ => relations
                        .get(member)
                        .map(|c| Ok(TableName::new(c.try_get::<_, String>("schema")?, c.try_get::<_, String>("name")?)))
                        .transpose()?
                        .unwrap_or_else(|| name.clone()),
                };
                part_rows.collect(*member, &on, &mut parts, if i == 0 { Some(&mut keys) } else { None })?;
            }
            let (plain_indexes, plain_foreign_keys) = part_rows.plain(oid)?;
            let owned = owned.get(&oid).map(Vec::as_slice).unwrap_or_default();
            let default = |name: &str| {
                let column = table_columns.iter().find(|c| c.try_get::<_, &str>("name").is_ok_and(|n| n == name));
                column.and_then(|c| c.try_get::<_, Option<String>>("expression").ok()).flatten()
            };
            options.extend(plain::counters(owned, default)?);
            for s in identities.get(&oid).into_iter().flatten() {
                let mut o = objects::sequence(s)?;
                o.kind = "identity".into();
                parts.push(o);
            }
            parts.extend(
                table_columns.iter().filter_map(|c| column_part(&name, c).transpose()).collect::<Rowed<Vec<_>>>()?,
            );
            let columns = table_columns.iter().map(|c| column(c, &types)).collect::<Rowed<Vec<_>>>()?;
            // What tables and columns are known by whatever their names become.
            options.insert(OID.into(), oid.to_string());
            let numbers = table_columns.iter().map(|c| c.try_get::<_, i16>("num")).collect::<Rowed<Vec<_>>>()?;
            options.insert(NUMBERS.into(), json(&numbers));
            let needed = needs.of(&members.iter().map(|m| (PG_CLASS, *m)).collect::<Vec<_>>());
            options.insert("needs".into(), json(&needed));
            let old_image = match replident.as_str() {
                "f" => OldImage::Full,
                "i" if options.contains_key("replica_index") => OldImage::Key,
                // A deferrable primary key names no rows in the log.
                "d" if keys.iter().any(|k: &UniqueKey| k.primary && k.identifies) => OldImage::Key,
                _ => OldImage::Nothing,
            };
            tables.push(Table {
                name,
                columns,
                keys,
                old_image,
                parts,
                rows: tuples,
                bytes,
                physical: self.physical.get(&oid).cloned().unwrap_or_default(),
                options,
                unlogged: Vec::new(),
                plain_indexes,
                plain_foreign_keys,
            });
        }
        let mut found = objects::all(&self, &mut needs, &indexes, &triggers)?;
        found.extend(unsupported);
        Ok(Catalog {
            scope: None,
            home: Some("public".into()),
            origin: ORIGIN.into(),
            version: self.version,
            version_text: head.try_get("text")?,
            database: head.try_get("database")?,
            identity,
            tables,
            objects: objects::ordered(found),
        })
    }
}

/// Rows of a table by the last ANALYZE; never analysed: about a hundred to a page.
fn estimate(t: &Row) -> Rowed<u64> {
    let tuples: f64 = t.try_get("tuples")?;
    let pages = t.try_get::<_, i32>("pages")?.max(0) as u64;
    let (kind, bytes): (String, i64) = (t.try_get("kind")?, t.try_get("bytes")?);
    let partitioned = kind == "p";
    Ok(match tuples {
        _ if partitioned => 0,
        n if n > 0.0 => n as u64,
        // Zero tuples on zero pages means "never analysed" before version 14.
        _ => pages.max(bytes.max(0) as u64 / 8192).saturating_mul(100),
    })
}

fn partition(c: &Row, relations: &HashMap<u32, &Row>) -> Rowed<Object> {
    let mut options = BTreeMap::new();
    if let Some(parent) = c.try_get::<_, Vec<u32>>("parents")?.first().and_then(|p| relations.get(p)) {
        options.insert("parent_schema".to_owned(), parent.try_get("schema")?);
        options.insert("parent_name".to_owned(), parent.try_get("name")?);
    }
    for (column_name, label) in [("partition_by", "partition_by"), ("comment", "comment")] {
        if let Some(text) = c.try_get::<_, Option<String>>(column_name)? {
            options.insert(label.to_owned(), text);
        }
    }
    if let Some(with) = c.try_get::<_, Option<Vec<String>>>("reloptions")? {
        options.insert("reloptions".into(), json(&with));
    }
    options.insert("replica_identity".into(), c.try_get("replident")?);
    if c.try_get::<_, String>("persistence")? == "u" {
        options.insert("unlogged".into(), "true".into());
    }
    Ok(Object {
        kind: "partition".into(),
        schema: c.try_get("schema")?,
        name: c.try_get("name")?,
        phase: Phase::Base,
        definition: c.try_get::<_, Option<String>>("bound")?.unwrap_or_default(),
        options,
        needs: Vec::new(),
    })
}

fn column(c: &Row, types: &Types) -> Rowed<Column> {
    let (oid, typmod): (u32, i32) = (c.try_get("type")?, c.try_get("typmod")?);
    let expression: Option<String> = c.try_get("expression")?;
    let generated = !c.try_get::<_, String>("generated")?.is_empty();
    let data_type = types.data_type(oid, typmod);
    let plain_default = expression.as_deref().filter(|_| !generated).and_then(|e| plain::default(e, &data_type));
    Ok(Column {
        name: c.try_get("name")?,
        origin_type: c.try_get("type_text")?,
        builtin: types.builtin(oid),
        nullable: !c.try_get::<_, bool>("not_null")?,
        default: if generated { None } else { expression.clone() },
        identity: match c.try_get::<_, String>("identity")?.as_str() {
            "a" => Some(Identity::Always),
            "d" => Some(Identity::ByDefault),
            _ => None,
        },
        generated: if generated { expression } else { None },
        collation: c.try_get("collation")?,
        comment: c.try_get("comment")?,
        plain_default,
        folds: false,
        data_type,
    })
}

/// What a column has beyond the model: how it is stored, compressed and sampled.
fn column_part(table: &TableName, c: &Row) -> Rowed<Option<Object>> {
    let mut options = BTreeMap::new();
    let storage = c.try_get::<_, Option<String>>("storage")?.and_then(|s| match s.as_str() {
        "p" => Some("PLAIN"),
        "e" => Some("EXTERNAL"),
        "m" => Some("MAIN"),
        "x" => Some("EXTENDED"),
        _ => None,
    });
    if let Some(storage) = storage {
        options.insert("storage".to_owned(), storage.to_owned());
    }
    match c.try_get::<_, String>("compression")?.as_str() {
        "p" => drop(options.insert("compression".to_owned(), "pglz".to_owned())),
        "l" => drop(options.insert("compression".to_owned(), "lz4".to_owned())),
        _ => {}
    }
    if let Some(n) = c.try_get::<_, Option<i32>>("statistics")? {
        options.insert("statistics".to_owned(), n.to_string());
    }
    // Virtual generated columns (18) are computed when read.
    if c.try_get::<_, String>("generated")? == "v" {
        options.insert("virtual".to_owned(), "true".to_owned());
    }
    if options.is_empty() {
        return Ok(None);
    }
    Ok(Some(Object {
        kind: "column".into(),
        schema: table.schema.clone(),
        name: c.try_get("name")?,
        phase: Phase::Base,
        definition: String::new(),
        options,
        needs: Vec::new(),
    }))
}

/// Where the parts of a table come from.
struct Parts<'a> {
    name: &'a TableName,
    constraints: &'a HashMap<u32, Vec<&'a Row>>,
    indexes: &'a HashMap<u32, Vec<&'a Row>>,
    triggers: &'a HashMap<u32, Vec<&'a Row>>,
}

impl Parts<'_> {
    /// Parts of one relation: the table itself or one of its partitions (`on`). Unique keys are gathered for the table itself.
    fn collect(
        &self,
        oid: u32,
        on: &TableName,
        parts: &mut Vec<Object>,
        mut keys: Option<&mut Vec<UniqueKey>>,
    ) -> Rowed<()> {
        let own = keys.is_some();
        let base = || {
            let mut options = BTreeMap::new();
            options.insert("on_schema".to_owned(), on.schema.clone());
            options.insert("on_name".to_owned(), on.name.clone());
            options
        };
        for k in self.constraints.get(&oid).into_iter().flatten() {
            let (kind, phase) = match k.try_get::<_, String>("kind")?.as_str() {
                "c" => ("check", Phase::Base),
                "p" => ("primary key", Phase::Table),
                "u" => ("unique", Phase::Table),
                "x" => ("exclude", Phase::Table),
                _ => ("foreign key", Phase::Final),
            };
            // What came from the parent comes with the parent again.
            let inherited = !k.try_get::<_, bool>("is_local")? && (kind == "check" || !own) || k.try_get("is_clone")?;
            let columns: Vec<String> = k.try_get("columns")?;
            let valid: bool = k.try_get("valid")?;
            let deferrable: bool = k.try_get("is_deferrable")?;
            if let (Some(keys), "primary key" | "unique") = (keys.as_deref_mut(), kind) {
                keys.push(UniqueKey {
                    name: k.try_get("name")?,
                    primary: kind == "primary key",
                    columns: columns.clone(),
                    identifies: valid && !deferrable && k.try_get::<_, bool>("all_not_null")?,
                });
            }
            let checks_here = kind == "check" && own && !k.try_get::<_, bool>("is_local")?;
            if inherited && !checks_here {
                continue;
            }
            let mut options = base();
            options.insert("columns".into(), json(&columns));
            if checks_here {
                options.insert("inherited".into(), "true".into());
            }
            if kind == "foreign key" {
                options.insert("foreign_columns".into(), json(&k.try_get::<_, Vec<String>>("foreign_columns")?));
                options.insert(
                    "foreign_schema".into(),
                    k.try_get::<_, Option<String>>("foreign_schema")?.unwrap_or_default(),
                );
                options
                    .insert("foreign_name".into(), k.try_get::<_, Option<String>>("foreign_name")?.unwrap_or_default());
            }
            if !k.try_get::<_, bool>("validated")? {
                options.insert("not_valid".into(), "true".into());
            }
            comment(k, &mut options)?;
            parts.push(self.part(kind, k, phase, options)?);
        }
        for x in self.indexes.get(&oid).into_iter().flatten() {
            // An index that was never completed (CONCURRENTLY, failed) is none.
            if !x.try_get::<_, bool>("valid")? {
                continue;
            }
            let columns: Vec<String> = x.try_get("columns")?;
            let plain = !x.try_get::<_, bool>("has_expressions")? && !x.try_get::<_, bool>("is_partial")?;
            if let (Some(keys), true) = (keys.as_deref_mut(), x.try_get::<_, bool>("is_unique")?) {
                keys.push(UniqueKey {
                    name: x.try_get("name")?,
                    primary: false,
                    columns: columns.iter().filter(|c| !c.is_empty()).cloned().collect(),
                    identifies: plain && x.try_get::<_, bool>("all_not_null")?,
                });
            }
            let mut options = base();
            options.insert("columns".into(), json(&columns));
            if !plain {
                options.insert("expressions".into(), "true".into());
            }
            if x.try_get::<_, bool>("clustered")? {
                options.insert("clustered".into(), "true".into());
            }
            comment(x, &mut options)?;
            parts.push(self.part("index", x, Phase::Table, options)?);
        }
        for g in self.triggers.get(&oid).into_iter().flatten() {
            let mut options = base();
            options.insert("enabled".into(), g.try_get("enabled")?);
            comment(g, &mut options)?;
            parts.push(self.part("trigger", g, Phase::Final, options)?);
        }
        Ok(())
    }

    /// Indexes and foreign keys of a table in no dialect.
    fn plain(&self, oid: u32) -> Rowed<(Vec<PlainIndex>, Vec<PlainForeignKey>)> {
        let (mut indexes, mut foreign_keys) = (Vec::new(), Vec::new());
        for k in self.constraints.get(&oid).into_iter().flatten() {
            match k.try_get::<_, String>("kind")?.as_str() {
                "u" => indexes.extend(plain::unique(k)?),
                "f" if k.try_get("is_local")? && !k.try_get::<_, bool>("is_clone")? => {
                    foreign_keys.extend(plain::foreign_key(k)?);
                }
                _ => {}
            }
        }
        for x in self.indexes.get(&oid).into_iter().flatten() {
            indexes.extend(plain::index(x)?);
        }
        Ok((indexes, foreign_keys))
    }

    fn part(&self, kind: &str, row: &Row, phase: Phase, options: BTreeMap<String, String>) -> Rowed<Object> {
        Ok(Object {
            kind: kind.into(),
            schema: self.name.schema.clone(),
            name: row.try_get("name")?,
            phase,
            definition: row.try_get("definition")?,
            options,
            needs: Vec::new(),
        })
    }
}

fn comment(row: &Row, options: &mut BTreeMap<String, String>) -> Rowed<()> {
    if let Some(text) = row.try_get::<_, Option<String>>("comment")? {
        options.insert("comment".to_owned(), text);
    }
    Ok(())
}

/// Names without doubles, sorted.
fn distinct(names: impl IntoIterator<Item = String>) -> Vec<String> {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}
