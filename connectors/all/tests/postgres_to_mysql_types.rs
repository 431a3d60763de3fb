//! The table of types from PostgreSQL to MySQL and MariaDB, as the code maps them, stands in docs/types/postgresql-to-mysql.md; this test fails where
//! the page says something else. `DROVER_WRITE_DOCS=1` writes the page anew.

use drover_connectors_mysql::flavor::Version;
use drover_connectors_mysql::typemap::{Known, foreign};
use drover_connectors_postgres::catalog::builtin;
use drover_model::plan::{Misfit, Operations};
use drover_model::schema::{Catalog, Column, DataType, OldImage, Table, TableName, UniqueKey};
use drover_model::selection::{ColumnChoice, TableChoice};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const HEAD: &str = "# Types: PostgreSQL to MySQL and MariaDB

This page is written by a test from the code that maps the types (`connectors/mysql/src/typemap/foreign.rs`); the reasons stand in
[decisions/0011](../decisions/0011-postgresql-to-mysql.md).

A value arrives as it is, or the migration ends at it and names table, key, column and value. `on_misfit` of a column says what becomes of such values
instead: `null`, `clamp` (the nearest value that fits) or `text` (the column becomes LONGTEXT and keeps each value's text).

";

const TAIL: &str = "
Text, whatever its type, is utf8mb4 and compares byte by byte, spaces at the end included (`utf8mb4_0900_bin`, `utf8mb4_nopad_bin`): keys that differ stay
different. A key takes 3072 bytes in all: text and bytes without a limit become as long a VARCHAR or VARBINARY as their keys have room for where they belong to a primary,
unique or foreign key, and a longer value does not fit. Other indexes take the first 191 characters.

Columns of a domain are what the domain is made of. Generated columns are left out. `varchar(n)` and `bit varying(n)` become LONGTEXT beyond 16,000 characters, or
where a row would exceed 65,535 bytes.
";

fn table(data_type: DataType, key: bool) -> Table {
    let keys = if key {
        vec![UniqueKey { name: "k".into(), primary: true, columns: vec!["c".into()], identifies: true }]
    } else {
        vec![]
    };
    Table { keys, ..Table::new(TableName::new("s", "t"), vec![Column::new("c", data_type, "x")], OldImage::Key) }
}

fn mapped(data_type: &DataType, key: bool, known: &Known) -> Result<foreign::Mapped, String> {
    let table = table(data_type.clone(), key);
    let catalog = Catalog {
        origin: "elsewhere".into(),
        version: 0,
        version_text: String::new(),
        database: String::new(),
        scope: None,
        home: None,
        identity: String::new(),
        tables: vec![table.clone()],
        objects: vec![],
    };
    let choice = TableChoice {
        source: table.name.clone(),
        schema: "s".into(),
        table: "t".into(),
        columns: vec![ColumnChoice { source: "c".into(), destination: "c".into(), misfit: Misfit::Fail }],
        filter: None,
        operations: Operations::ALL,
        floats: None,
    };
    foreign::types(&catalog, &table, &choice, known).remove("c").expect("the column is chosen")
}

fn known(version: &str, collation: &str) -> Known {
    Known {
        version: Version::parse(version).expect("a version"),
        collations: BTreeSet::from([collation.to_owned()]),
        charsets: BTreeSet::from(["utf8mb4".to_owned(), "ascii".to_owned()]),
        defaults: BTreeMap::new(),
        engines: BTreeSet::from(["INNODB".to_owned()]),
        lower_case: false,
    }
}

fn numeric(precision: i32, scale: i32) -> i32 {
    4 + (precision << 16) + (scale & 0x7ff)
}

fn page() -> String {
    let servers = [known("9.7.0", "utf8mb4_0900_bin"), known("11.8.3-MariaDB", "utf8mb4_nopad_bin")];
    let of = |name: &str, modifier: i32| builtin(name, modifier);
    let kinds: Vec<(&str, DataType)> = vec![
        ("boolean", of("bool", -1)),
        ("smallint", of("int2", -1)),
        ("integer", of("int4", -1)),
        ("bigint", of("int8", -1)),
        ("oid", of("oid", -1)),
        ("real", of("float4", -1)),
        ("double precision", of("float8", -1)),
        ("numeric", of("numeric", -1)),
        ("numeric(10,2)", of("numeric", numeric(10, 2))),
        ("numeric(3,-2)", of("numeric", numeric(3, -2))),
        ("numeric(3,5)", of("numeric", numeric(3, 5))),
        ("numeric(80,40)", of("numeric", numeric(80, 40))),
        ("money", of("money", -1)),
        ("text", of("text", -1)),
        ("varchar(20)", of("varchar", 24)),
        ("varchar", of("varchar", -1)),
        ("char(5)", of("bpchar", 9)),
        ("char(300)", of("bpchar", 304)),
        ("name", of("name", -1)),
        ("bytea", of("bytea", -1)),
        ("date", of("date", -1)),
        ("time", of("time", -1)),
        ("time(0)", of("time", 0)),
        ("time with time zone", of("timetz", -1)),
        ("timestamp", of("timestamp", -1)),
        ("timestamp(3)", of("timestamp", 3)),
        ("timestamp with time zone", of("timestamptz", -1)),
        ("interval", of("interval", -1)),
        ("uuid", of("uuid", -1)),
        ("json", of("json", -1)),
        ("jsonb", of("jsonb", -1)),
        ("bit(8)", of("bit", 8)),
        ("bit(100)", of("bit", 100)),
        ("bit varying(20)", of("varbit", 20)),
        ("bit varying", of("varbit", -1)),
        ("enum ('a', 'it''s')", DataType::Enum { labels: vec!["a".into(), "it's".into()] }),
        ("enum ('a ')", DataType::Enum { labels: vec!["a ".into()] }),
        ("integer[], any array", DataType::Array(Box::new(of("int4", -1)))),
        ("inet, cidr, macaddr", of("inet", -1)),
        ("int4range, any range or multirange", of("int4range", -1)),
        ("point and other geometry, tsvector, xml, pg_lsn, types of extensions and composite types", of("point", -1)),
    ];
    let mut out = String::from(HEAD);
    out.push_str("| PostgreSQL | MySQL 9 | MariaDB 11 | In a key | What does not fit, and what to know |\n|---|---|---|---|---|\n");
    for (name, data_type) in &kinds {
        let bare = |text: &str| text.replace(" character set utf8mb4", "").replace(" character set ascii", " (ascii)");
        let [mysql, mariadb] = servers.each_ref().map(|s| mapped(data_type, false, s).expect("every type has a place"));
        let in_key = match mapped(data_type, true, &servers[0]) {
            Ok(m) if m.text == mysql.text && m.text == "json" => "none".to_owned(),
            Ok(m) if m.text == mysql.text => "the same".to_owned(),
            Ok(m) => bare(&m.text),
            Err(_) => "refused".to_owned(),
        };
        let beyond = match data_type {
            DataType::Float { .. } => "NaN, infinity",
            DataType::Decimal { .. } => "NaN, infinity, longer numbers",
            DataType::Date | DataType::Timestamp { .. } => "infinity, years before 1 and after 9999",
            DataType::Json => "numbers that neither 64 bits nor a DOUBLE hold with all digits (MySQL)",
            _ => "",
        };
        let notes: Vec<&str> =
            [Some(beyond).filter(|b| !b.is_empty()), mysql.note.as_deref()].into_iter().flatten().collect();
        writeln!(out, "| {name} | {} | {} | {in_key} | {} |", bare(&mysql.text), bare(&mariadb.text), notes.join("; "))
            .expect("a text takes everything");
    }
    out.push_str(TAIL);
    out
}

#[test]
fn the_page_says_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/types/postgresql-to-mysql.md");
    let page = page();
    if std::env::var_os("DROVER_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("the page can be written");
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(there == page, "docs/types/postgresql-to-mysql.md is stale: run this test with DROVER_WRITE_DOCS=1");
}
