//! The table of types from the MySQL family to PostgreSQL, made from the code itself. `DROVER_WRITE_DOCS=1` writes the page anew.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use drover_connectors_mysql::types::MyType;
use drover_connectors_postgres::typemap::foreign_type;
use drover_model::plan::Misfit;
use drover_model::schema::DataType;

/// A type of each sort, and what has to be known about its values.
const TYPES: &[(&str, &str)] = &[
    ("tinyint", ""),
    ("tinyint(1)", "stays a number: it may hold more than 0 and 1"),
    ("tinyint unsigned", ""),
    ("smallint", ""),
    ("smallint unsigned", ""),
    ("mediumint", ""),
    ("mediumint unsigned", ""),
    ("int", "AUTO_INCREMENT becomes an identity"),
    ("int unsigned", ""),
    ("bigint", ""),
    ("bigint unsigned", "AUTO_INCREMENT becomes a sequence that the column owns"),
    ("decimal(10,2)", ""),
    ("decimal(65,30)", ""),
    ("float", ""),
    ("double", ""),
    ("bit(1)", ""),
    ("bit(64)", ""),
    ("year", "0000 is 0"),
    ("date", "a date with a zero in it, or that does not exist, does not fit"),
    ("time", "what is below 0 or beyond 24 hours does not fit"),
    ("time(6)", "likewise"),
    ("datetime(6)", "as date"),
    ("timestamp(6)", "a moment, in UTC; the zero date does not fit"),
    (
        "char(10) character set latin1",
        "without blanks at the end, as the source shows it; the character of number 0 does not fit",
    ),
    ("varchar(200) character set utf8mb4", "the character of number 0 does not fit"),
    ("longtext character set utf8mb4", "likewise"),
    ("binary(16)", "with the zeros at its end"),
    ("varbinary(200)", ""),
    ("longblob", ""),
    ("enum('a','b') character set utf8mb4", "the label; the error value is the empty text"),
    ("set('a','b') character set utf8mb4", "the labels, with commas between them"),
    ("json", "of MySQL, by its value; `\\u0000` in a text does not fit"),
    ("point", "SRID and WKB as the source stores them"),
    ("geometry", "likewise"),
    ("vector(3)", "as the source stores it"),
    ("uuid", "of MariaDB"),
    ("inet4", "of MariaDB"),
    ("inet6", "of MariaDB"),
];

const HEAD: &str = "# From MySQL and MariaDB to PostgreSQL: types

Made from the code by a test (`DROVER_WRITE_DOCS=1 cargo test -p drover-connectors-all --test mysql_to_postgresql`).

Every value arrives as it is, or the migration stops and names its row ([DR0014](../errors/DR0014.md)), or the column's policy decides: `on_misfit` in
the [migration file](../guide/migration-file.md). With `text` the column becomes a `text`.

| source | destination | values |
|---|---|---|
";

const TAIL: &str = "
- **Character sets**: texts become UTF-8. drover converts the Unicode sets, ascii, latin1, latin2, latin7, greek, hebrew,
  cp866, cp932, cp1250, cp1251, cp1256, cp1257, koi8r, koi8u, sjis, gbk, euckr, each character as the source converts it. Columns in others (big5, ujis …) are
  converted by the source, and refused by `drover check` where changes are to be followed. Bytes that are no character of their set do not fit: they end the migration, or become what `on_misfit` says
  (`null`; `clamp`: the text with U+FFFD in their place).
- **Collations**: texts are compared to the letter. Where a key of the source pays no regard to case, accents or blanks at the end, `check` names it.
- **Defaults**: constants and CURRENT_TIMESTAMP. Other defaults, ON UPDATE CURRENT_TIMESTAMP, generated columns, checks, partitions, full-text and spatial
  indexes, views, routines and triggers are of the source's dialect: they are left out, each named by `check`.
- **Indexes** on beginnings of texts become indexes on `left(…)`. Names of keys and indexes get the table's name in front, since they are unique in a schema.
- **Names**: a database becomes a schema of the same name, or what `rename` says.
- **Comparison**: `drover validate` and `drover cutover` leave out columns whose values `null` or `clamp` may have changed; `drover.drover_misfit` at the
  destination counts how often such a value was written, with one of them for each column.
";

fn page() -> String {
    let mut out = HEAD.to_owned();
    for (name, note) in TYPES {
        let there = foreign_type(&MyType::parse(name).unwrap().data_type(), Misfit::Fail).unwrap();
        out.push_str(&format!("| `{name}` | `{there}` | {note} |\n"));
    }
    let json = foreign_type(&DataType::JsonText, Misfit::Fail).unwrap();
    out.push_str(&format!("| `json` of MariaDB (a `longtext` with a check) | `{json}` | the text as it is |\n"));
    out + TAIL
}

#[test]
fn the_page_says_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/types/mysql-to-postgresql.md");
    if std::env::var_os("DROVER_WRITE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page(), "run it with DROVER_WRITE_DOCS=1");
}
