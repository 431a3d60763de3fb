//! The catalogue of a server: MySQL 5.x to 9, MariaDB 10.3 and later.
//!
//! Guarantee: everything that a user owns is either in the [`Catalog`] or named there as something that cannot be carried (kind
//! `unsupported`). System databases, drover's own and its helper tables are left out.
//!
//! What there is comes from information_schema, set-wise. What it looks like comes from `SHOW CREATE`, many to a round trip: only there
//! expressions, binary defaults, index parsers and bodies are printed as they are.
//!
//! How tables are told: `parts` of a table are of the kinds `column` (the definition behind the column's name) and those of
//! [`create::PartKind`], further `partitioning` and `trigger`. Options: `engine`, `charset`, `collation`, `comment`, `auto_increment` (the
//! next value), `options` (the others, a JSON list of pairs), `versioned` (system-versioned). Other objects: `database` (with what the server
//! says of itself: `server.sql_mode`, `server.max_allowed_packet`, `server.zone_seconds`, `server.zone_until`), `view`, `procedure`,
//! `function`, `sequence`, `package`, `package body`.
//!
//! There is no snapshot of a catalogue here: a table that is altered meanwhile shows by its physical identity.

pub mod create;
pub mod lex;
mod objects;
pub(crate) mod plain;
mod shows;
pub(crate) mod unlogged;

use crate::check::variant;
use crate::connect::Session;
use crate::flavor::Version;
use crate::sql;
use crate::types::MyType;
use create::{Definition, Index, PartKind};
use drover_model::error::codes;
use drover_model::schema::{
    Catalog, Column, DataType, Identity, Object, OldImage, Phase, PlainDefault, Table, TableName, UniqueKey,
};
use drover_model::{Error, Fault, Result, Retry};
use std::collections::{BTreeMap, HashMap};
use xxhash_rust::xxh3::Xxh3;

/// Databases that are the server's or drover's own.
pub const SYSTEM: [&str; 7] =
    ["mysql", "information_schema", "performance_schema", "sys", "ndbinfo", "drover", "__recycle_bin__"];

/// Tables that drover keeps beside the data where it may not create a database.
pub const HELPERS: [&str; 6] =
    ["drover_progress", "drover_chunk", "drover_table", "drover_intent", "drover_misfit", "drover_misfit_value"];

/// Why something of the user's that is named like one of them is not carried.
pub(crate) const RESERVED: &str = "drover keeps its own state in tables of this name";

/// `('mysql', 'information_schema', …)`, for NOT IN.
pub(crate) fn system_list() -> String {
    format!("({})", SYSTEM.map(|s| format!("'{s}'")).join(", "))
}

/// Reads the whole catalogue. `database` is the one that the URL names: it becomes the scope.
///
/// # Errors
/// As [`crate::errors::classify`] says, with the session's side at fault.
pub async fn read(session: &mut Session, database: Option<&str>) -> Result<Catalog> {
    variant::can_be_source(&session.version)?;
    live_statistics(session).await?;
    let identity = identity(session).await?;
    let image =
        session.first::<(Option<String>, Option<String>)>("SHOW VARIABLES LIKE 'binlog_row_image'", READING).await?;
    let full = image.and_then(|(_, v)| v).is_none_or(|v| v.eq_ignore_ascii_case("FULL"));
    let silent = unlogged::silent(session).await?;
    let mut relations = relations(session).await?;
    let mut columns = columns(session, None).await?;
    let mut found = objects::databases(session).await?;
    relations.retain(|r| {
        let reserved = HELPERS.contains(&r.name.name.as_str());
        if reserved && !of_drover(columns.get(&r.name)) {
            found.push(objects::unsupported(&r.name.schema, &r.name.name, "table", RESERVED));
        }
        !reserved
    });
    let mut partitions = partition_times(session, None).await?;
    let names = |wanted: &[&str]| -> Vec<&Relation> {
        relations.iter().filter(|r| wanted.contains(&r.kind.as_str())).collect()
    };
    let tables = names(&["BASE TABLE", "SYSTEM VERSIONED"]);
    let printed =
        shows::all(session, tables.iter().map(|r| format!("SHOW CREATE TABLE {}", sql::qualified(&r.name))), 1).await?;
    let mut triggers = objects::triggers(session).await?;
    let mut out = Vec::with_capacity(tables.len());
    for (relation, printed) in tables.into_iter().zip(printed) {
        let parsed = match printed {
            Ok(text) => Definition::parse(&text).map_err(|e| e.to_string()),
            // Dropped a moment ago; anything else has to be said.
            Err(refused) if refused.number == Some(NO_SUCH_TABLE) => continue,
            Err(refused) => Err(refused.reason),
        };
        let definition = match parsed {
            Ok(definition) => definition,
            Err(reason) => {
                found.push(objects::unsupported(&relation.name.schema, &relation.name.name, "table", &reason));
                continue;
            }
        };
        if let Some(reason) = elsewhere(relation) {
            found.push(objects::unsupported(&relation.name.schema, &relation.name.name, "table", reason));
            continue;
        }
        let columns = columns.remove(&relation.name).unwrap_or_default();
        let partition = partitions.remove(&relation.name);
        let mut table = assemble(&session.version, relation, columns, definition, partition);
        if !silent {
            table.unlogged.clear();
        }
        table.old_image = if full { OldImage::Full } else { OldImage::Key };
        table.parts.extend(triggers.remove(&relation.name).unwrap_or_default());
        out.push(table);
    }
    found.extend(objects::sequences(session, &names(&["SEQUENCE"])).await?);
    found.extend(objects::routines(session).await?);
    let known: Vec<&Relation> = names(&["BASE TABLE", "SYSTEM VERSIONED", "VIEW", "SEQUENCE"]);
    found.extend(objects::views(session, &names(&["VIEW"]), &known).await?);
    found.extend(objects::events(session).await?);
    Ok(Catalog {
        origin: session.version.flavor.kind().into(),
        version: session.version.number,
        version_text: session.version.text.clone(),
        database: database.unwrap_or_default().to_owned(),
        scope: database.map(str::to_owned),
        home: None,
        identity,
        tables: out,
        objects: objects::ordered(found),
    })
}

/// The server's error number for a table that does not exist.
const NO_SUCH_TABLE: u16 = 1146;

/// By how many seconds the server's own time zone is ahead of UTC; NULL where it cannot say.
pub(crate) const ZONE: &str =
    "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', @@GLOBAL.time_zone))";

/// The second since 1970 from which on that is another number; NULL where it stays for more than a year. Clocks are changed at full and half hours of UTC, and each
/// of the next 20,000 is looked at.
pub(crate) const ZONE_UNTIL: &str = "SELECT CAST(MIN(n) AS SIGNED) FROM (SELECT (FLOOR(UNIX_TIMESTAMP() / 1800) + 1 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d) * 1800 AS n \
     FROM (SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) a, \
     (SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) b, \
     (SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) c, \
     (SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) e, \
     (SELECT 0 d UNION ALL SELECT 1) f) s \
     WHERE TIMESTAMPDIFF(SECOND, FROM_UNIXTIME(n), CONVERT_TZ(FROM_UNIXTIME(n), '+00:00', @@GLOBAL.time_zone)) \
       <> TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', @@GLOBAL.time_zone))";

pub(crate) const READING: &str = "cannot read the catalogue";

/// Which server this is: `server_uuid`, or `id:<server_id>` where a server has none.
pub async fn identity(session: &mut Session) -> Result<String> {
    if !session.version.is_mariadb()
        && session.version.mysql(50_600)
        && let Some(uuid) = session.first::<Option<String>>("SELECT @@server_uuid", READING).await?.flatten()
    {
        return Ok(uuid);
    }
    let id = session.first::<u64>("SELECT @@server_id", READING).await?;
    Ok(format!("id:{}", id.unwrap_or_default()))
}

/// Statistics of now, not of a day ago.
async fn live_statistics(session: &mut Session) -> Result<()> {
    if session.version.mysql(80_000) {
        session.run("SET SESSION information_schema_stats_expiry = 0", READING).await?;
    }
    Ok(())
}

/// A row of TABLES.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub name: TableName,
    pub kind: String,
    engine: Option<String>,
    rows: u64,
    bytes: u64,
    next: Option<u64>,
    created: Option<String>,
    collation: Option<String>,
    comment: Option<String>,
}

async fn relations(session: &mut Session) -> Result<Vec<Relation>> {
    let sql = format!(
        "SELECT table_schema, table_name, table_type, engine, table_rows, data_length, auto_increment, CAST(create_time AS CHAR), \
         table_collation, table_comment FROM information_schema.tables WHERE table_schema NOT IN {} ORDER BY 1, 2",
        system_list()
    );
    type Row = (
        String,
        String,
        String,
        Option<String>,
        Option<u64>,
        Option<u64>,
        Option<u64>,
        Option<String>,
        Option<String>,
        Option<String>,
    );
    let rows: Vec<Row> = session.all(sql, READING).await?;
    let out =
        rows.into_iter().map(|(schema, name, kind, engine, rows, bytes, next, created, collation, comment)| Relation {
            name: TableName::new(schema, name),
            kind,
            engine,
            rows: rows.unwrap_or(0),
            bytes: bytes.unwrap_or(0),
            next,
            created,
            collation,
            comment,
        });
    Ok(out.collect())
}

/// Whether a table of a helper's name has that helper's columns; of another one of this name nothing may be left out silently.
fn of_drover(columns: Option<&Vec<ShapeColumn>>) -> bool {
    columns.and_then(|c| c.first()).is_some_and(|c| c.name == "migration" && c.origin_type.starts_with("char(36)"))
}

/// Engines whose rows are not in the table.
fn elsewhere(relation: &Relation) -> Option<&'static str> {
    let engine = relation.engine.as_deref().unwrap_or_default().to_uppercase();
    match engine.as_str() {
        "FEDERATED" | "SPIDER" | "CONNECT" => Some("its rows lie at another server"),
        "MRG_MYISAM" => Some("it merges other tables and has no rows of its own"),
        "PERFORMANCE_SCHEMA" | "VIDEX" => Some("it has no rows of its own"),
        _ => None,
    }
}

/// A column as the log and reading sessions see it: all of them, in ordinal order, generated and invisible ones too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeColumn {
    pub name: String,
    /// COLUMN_TYPE, with ` character set X` behind it for text, ENUM and SET.
    pub origin_type: String,
    /// `None`: no type known here.
    pub my_type: Option<MyType>,
    pub collation: Option<String>,
    pub nullable: bool,
    /// `Some(true)`: generated and stored, `Some(false)`: generated and virtual.
    pub generated: Option<bool>,
    pub invisible: bool,
    pub auto_increment: bool,
}

/// The columns of these tables as they are now; a table that does not exist is missing in the answer.
///
/// # Errors
/// As [`crate::errors::classify`] says, with the session's side at fault.
pub async fn shapes(session: &mut Session, tables: &[TableName]) -> Result<HashMap<TableName, Vec<ShapeColumn>>> {
    if tables.is_empty() {
        return Ok(HashMap::new());
    }
    columns(session, Some(tables)).await
}

/// A list of schemas and tables for WHERE. Pairs in IN are not pushed down by old servers; both names alone are.
fn restriction(tables: &[TableName]) -> String {
    let list = |names: Vec<&str>| {
        let mut names = names;
        names.sort_unstable();
        names.dedup();
        names.iter().map(|n| sql::text(n)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "table_schema IN ({}) AND table_name IN ({})",
        list(tables.iter().map(|t| t.schema.as_str()).collect()),
        list(tables.iter().map(|t| t.name.as_str()).collect())
    )
}

async fn columns(session: &mut Session, tables: Option<&[TableName]>) -> Result<HashMap<TableName, Vec<ShapeColumn>>> {
    let place = match tables {
        Some(tables) => restriction(tables),
        None => format!("table_schema NOT IN {}", system_list()),
    };
    let sql = format!(
        "SELECT table_schema, table_name, column_name, column_type, character_set_name, collation_name, is_nullable, extra \
         FROM information_schema.columns WHERE {place} ORDER BY table_schema, table_name, ordinal_position"
    );
    type Row = (String, String, String, String, Option<String>, Option<String>, String, Option<String>);
    let rows: Vec<Row> = session.all(sql, READING).await?;
    let mut out: HashMap<TableName, Vec<ShapeColumn>> = HashMap::new();
    for (schema, table, name, column_type, charset, collation, nullable, extra) in rows {
        let extra = extra.unwrap_or_default().to_uppercase();
        // MySQL does not tell the character set of labels that are bytes.
        let labels = column_type.starts_with("enum(") || column_type.starts_with("set(");
        let (charset, collation) = match charset {
            None if labels => (Some("binary".to_owned()), Some("binary".to_owned())),
            charset => (charset, collation),
        };
        let origin_type = origin_type(&column_type, charset.as_deref());
        let generated = if extra.contains("VIRTUAL GENERATED") || extra == "VIRTUAL" {
            Some(false)
        } else if extra.contains("STORED GENERATED") || extra.contains("PERSISTENT") {
            Some(true)
        } else {
            None
        };
        out.entry(TableName::new(schema, table)).or_default().push(ShapeColumn {
            name,
            my_type: MyType::parse(&origin_type),
            origin_type,
            collation,
            nullable: nullable == "YES",
            generated,
            invisible: extra.split([' ', ',']).any(|w| w == "INVISIBLE"),
            auto_increment: extra.contains("AUTO_INCREMENT"),
        });
    }
    if let Some(tables) = tables {
        out.retain(|name, _| tables.contains(name));
    }
    Ok(out)
}

/// COLUMN_TYPE without comments (MariaDB puts COMPRESSED into one), and with the character set.
fn origin_type(column_type: &str, charset: Option<&str>) -> String {
    let mut out: String =
        lex::tokens(column_type).iter().filter(|t| !t.text.starts_with("/*")).map(|t| t.text).collect();
    out.truncate(out.trim_end().len());
    if let Some(charset) = charset {
        out.push_str(" character set ");
        out.push_str(charset);
    }
    out
}

/// When the youngest partition was made, and how many there are, by table.
async fn partition_times(session: &mut Session, table: Option<&TableName>) -> Result<HashMap<TableName, String>> {
    let place = match table {
        Some(t) => restriction(std::slice::from_ref(t)),
        None => format!("table_schema NOT IN {}", system_list()),
    };
    let sql = format!(
        "SELECT table_schema, table_name, CONCAT(COUNT(*), ' ', COALESCE(CAST(MAX(create_time) AS CHAR), '')) \
         FROM information_schema.partitions WHERE partition_name IS NOT NULL AND {place} GROUP BY table_schema, table_name"
    );
    let rows: Vec<(String, String, String)> = session.all(sql, READING).await?;
    Ok(rows.into_iter().map(|(s, n, text)| (TableName::new(s, n), text)).collect())
}

/// The physical identity of a table: another text once its columns, its engine or its partitions changed, or it was made anew. Not noticed
/// here is a TRUNCATE by MariaDB; the server itself refuses to read such a table on an older snapshot (error 1412).
///
/// # Errors
/// TABLE_CHANGED when the table is gone; else as [`crate::errors::classify`] says.
pub async fn physical(session: &mut Session, table: &TableName) -> Result<String> {
    let gone = || {
        Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, "the table is gone from the source").table(table)
    };
    let sql = format!(
        "SELECT CAST(create_time AS CHAR) FROM information_schema.tables WHERE {}",
        restriction(std::slice::from_ref(table))
    );
    let Some(created) = session.first::<Option<String>>(sql, READING).await? else {
        return Err(unseen(session, table, gone()).await);
    };
    let show = format!("SHOW CREATE TABLE {}", sql::qualified(table));
    let printed = shows::all(session, [show].into_iter(), 1).await?.pop();
    let definition = match printed {
        Some(Ok(text)) => Definition::parse(&text).map_err(|e| Error::internal(e.to_string()).table(table))?,
        _ => return Err(unseen(session, table, gone()).await),
    };
    let partition = match definition.partitioning {
        Some(_) => partition_times(session, Some(table)).await?.remove(table),
        None => None,
    };
    Ok(fingerprint(&definition, created.as_deref(), partition.as_deref()))
}

/// Why the catalogue does not show a table: it is `gone`, or the account may do nothing with it any more, from which the server hides it.
pub(crate) async fn unseen(session: &mut Session, table: &TableName, gone: Error) -> Error {
    let look = format!("SELECT 1 FROM {} LIMIT 0", sql::qualified(table));
    match session.run(look, "cannot look at a table").await {
        Err(error) if error.code == codes::PERMISSION || error.code == codes::CONNECTION => error.table(table),
        _ => gone,
    }
}

fn fingerprint(definition: &Definition, created: Option<&str>, partition: Option<&str>) -> String {
    let mut hash = Xxh3::new();
    let mut add = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    for (name, column) in &definition.columns {
        add(name);
        // Comments change nothing.
        add(&format!("{:?}", create::ColumnDefinition { comment: None, ..column.clone() }));
    }
    add(definition.option("ENGINE").unwrap_or_default());
    add(definition.partitioning.as_deref().unwrap_or_default());
    let created = created.unwrap_or("?").replace(' ', "T");
    let partition = partition.map(|p| format!(" {}", p.replace(' ', "/"))).unwrap_or_default();
    format!("{created}{partition} {:016x}", hash.digest())
}

/// Puts a table together.
fn assemble(
    version: &Version,
    relation: &Relation,
    shape: Vec<ShapeColumn>,
    definition: Definition,
    partition: Option<String>,
) -> Table {
    let physical = fingerprint(&definition, relation.created.as_deref(), partition.as_deref());
    let name = &relation.name;
    let printed: HashMap<&str, &create::ColumnDefinition> =
        definition.columns.iter().map(|(n, d)| (n.as_str(), d)).collect();
    let columns: Vec<Column> = shape.into_iter().map(|c| column(version, c, &printed)).collect();
    let part = |kind: &str, name_of: &str, phase: Phase, text: &str| Object {
        kind: kind.into(),
        schema: name.schema.clone(),
        name: name_of.into(),
        phase,
        definition: text.into(),
        options: BTreeMap::new(),
        needs: Vec::new(),
    };
    let mut parts: Vec<Object> = definition
        .columns
        .iter()
        .map(|(n, d)| part("column", n, Phase::Base, &create::ColumnDefinition::printed(d)))
        .collect();
    let mut keys = Vec::new();
    for p in &definition.parts {
        let phase = match p.kind {
            PartKind::Primary | PartKind::Check | PartKind::Period | PartKind::Other => Phase::Base,
            PartKind::Foreign => Phase::Final,
            _ => Phase::Table,
        };
        parts.push(part(p.kind.name(), &p.name, phase, &p.text));
        if matches!(p.kind, PartKind::Primary | PartKind::Unique) {
            keys.push(unique_key(p, &columns));
        }
    }
    if let Some(partitioning) = &definition.partitioning {
        parts.push(part("partitioning", &name.name, Phase::Base, partitioning));
    }
    Table {
        name: name.clone(),
        columns,
        keys,
        old_image: OldImage::Full,
        parts,
        rows: relation.rows,
        bytes: relation.bytes,
        physical,
        options: options(relation, &definition),
        unlogged: unlogged::read(name, &definition.parts),
        plain_indexes: plain::indexes(&definition),
        plain_foreign_keys: plain::foreign_keys(name, &definition),
    }
}

fn column(version: &Version, shape: ShapeColumn, printed: &HashMap<&str, &create::ColumnDefinition>) -> Column {
    let definition = printed.get(shape.name.as_str());
    let default = definition.and_then(|d| d.default.clone()).filter(|d| !d.eq_ignore_ascii_case("NULL"));
    let json = version.is_mariadb() && definition.is_some_and(|d| is_json_check(d, &shape.name));
    let data_type = match &shape.my_type {
        Some(_) if json => DataType::JsonText,
        Some(t) => t.data_type(),
        None => DataType::Other,
    };
    Column {
        data_type,
        builtin: shape.my_type.is_some(),
        origin_type: shape.origin_type,
        nullable: shape.nullable,
        default,
        identity: shape.auto_increment.then_some(Identity::ByDefault),
        generated: definition.and_then(|d| d.generated.clone()).map(|(e, _)| e),
        folds: plain::folds(shape.collation.as_deref()),
        collation: shape.collation,
        comment: definition.and_then(|d| d.comment.as_deref()).map(lex::unescape),
        plain_default: default_of(definition, shape.my_type.as_ref()),
        name: shape.name,
    }
}

fn default_of(definition: Option<&&create::ColumnDefinition>, my: Option<&MyType>) -> Option<PlainDefault> {
    let printed = definition?.default.as_deref().filter(|d| !d.eq_ignore_ascii_case("NULL"))?;
    plain::default(printed, my?)
}

/// MariaDB's JSON: a LONGTEXT with this check.
pub(crate) fn is_json_check(definition: &create::ColumnDefinition, name: &str) -> bool {
    let wanted = format!("(json_valid({}))", sql::name(name));
    definition.type_text.eq_ignore_ascii_case("longtext")
        && definition.check.as_deref().is_some_and(|c| c.eq_ignore_ascii_case(&wanted))
}

pub(crate) fn unique_key(part: &create::Part, columns: &[Column]) -> UniqueKey {
    let index = Index::parse(&part.text).unwrap_or_default();
    let whole = index.whole_columns();
    let required = |name: &String| columns.iter().any(|c| &c.name == name && !c.nullable);
    let identifies = whole.as_ref().is_some_and(|names| !names.is_empty() && names.iter().all(required));
    let names = index.parts.iter().filter_map(|p| match p {
        create::KeyPart::Column { name, .. } => Some(name.clone()),
        create::KeyPart::Expression { .. } => None,
    });
    UniqueKey {
        name: part.name.clone(),
        primary: part.kind == PartKind::Primary,
        columns: whole.clone().unwrap_or_else(|| names.collect()),
        identifies,
    }
}

fn options(relation: &Relation, definition: &Definition) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Some(engine) = definition.option("ENGINE").or(relation.engine.as_deref()) {
        out.insert("engine".to_owned(), engine.to_owned());
    }
    if let Some(collation) = &relation.collation {
        out.insert("collation".to_owned(), collation.clone());
    }
    if let Some(charset) = definition.option("CHARSET") {
        out.insert("charset".to_owned(), charset.to_owned());
    }
    if let Some(next) = relation.next {
        out.insert("auto_increment".to_owned(), next.to_string());
    }
    if let Some(comment) = relation.comment.as_ref().filter(|c| !c.is_empty()) {
        out.insert("comment".to_owned(), comment.clone());
    }
    if relation.kind == "SYSTEM VERSIONED" {
        out.insert("versioned".to_owned(), "true".into());
    }
    let updated = definition.columns.iter().filter(|(_, c)| c.on_update.is_some());
    let own: Vec<String> = updated.map(|(name, _)| format!("ON UPDATE CURRENT_TIMESTAMP of column {name}")).collect();
    if !own.is_empty() {
        out.insert("dialect_only".to_owned(), own.join("\n"));
    }
    let known = ["ENGINE", "AUTO_INCREMENT", "CHARSET", "COLLATE", "COMMENT"];
    let others: Vec<&(String, String)> =
        definition.options.iter().filter(|(n, _)| !known.contains(&n.as_str())).collect();
    if !others.is_empty() {
        // Pairs of texts always have a JSON form.
        out.insert("options".to_owned(), serde_json::to_string(&others).unwrap_or_default());
    }
    out
}

/// The next values of all auto-increment columns and of MariaDB's sequences `(database, table, value, false)`. Tables that have not given out
/// a value yet are left out.
///
/// # Errors
/// As [`crate::errors::classify`] says, with the session's side at fault.
pub async fn auto_increments(session: &mut Session) -> Result<Vec<(String, String, i64, bool)>> {
    live_statistics(session).await?;
    let sql = format!(
        "SELECT table_schema, table_name, table_type, COALESCE(auto_increment, 0) FROM information_schema.tables \
         WHERE (auto_increment > 1 OR table_type = 'SEQUENCE') AND table_schema NOT IN {}",
        system_list()
    );
    let rows: Vec<(String, String, String, u64)> = session.all(sql, READING).await?;
    let rows = rows.into_iter().filter(|(_, name, ..)| !HELPERS.contains(&name.as_str()));
    let (sequences, tables): (Vec<_>, Vec<_>) = rows.partition(|(_, _, kind, _)| kind == "SEQUENCE");
    // Beyond i64 the value travels as its bits.
    let mut out: Vec<_> =
        tables.into_iter().map(|(schema, name, _, next)| (schema, name, next as i64, false)).collect();
    let ask = sequences.iter().map(|(schema, name, ..)| {
        format!("SELECT next_not_cached_value FROM {}", sql::qualified(&TableName::new(schema.as_str(), name.as_str())))
    });
    let values = shows::rows(session, ask.collect()).await?;
    for ((schema, name, ..), row) in sequences.into_iter().zip(values) {
        // Dropped since, or beyond the account's rights: then it keeps the value that it was created with.
        if let Some(value) = row.ok().and_then(|r| r.get_opt::<i64, _>(0)).and_then(std::result::Result::ok) {
            out.push((schema, name, value, false));
        }
    }
    Ok(out)
}
