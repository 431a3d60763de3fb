//! Values of every type, extreme and odd ones: what a chunk holds is what the server itself says of them.

mod reading;

use bytes::Bytes;
use drover_connectors_api::ChunkReader;
use drover_connectors_mysql::reader::Reader;
use drover_harness::Release;
use drover_model::TablePlan;
use drover_model::chunk::Bounds;
use drover_model::plan::RowFormat;
use drover_model::row::{Cell, cells, put_cell};
use mysql_async::prelude::Queryable;
use reading::{DATABASE, Place, Row, chunk};

/// A column: its type, values to insert, and what the server shows of `c` that the cell must be.
struct Column {
    definition: &'static str,
    values: &'static [&'static str],
    shown: &'static str,
}

const fn column(definition: &'static str, shown: &'static str, values: &'static [&'static str]) -> Column {
    Column { definition, values, shown }
}

const PLAIN: &str = "c";
/// A FLOAT as the server sees it when it computes.
const WIDENED: &str = "c + 0e0";

const COLUMNS: &[Column] = &[
    column("tinyint", PLAIN, &["-128", "127", "0"]),
    column("tinyint(1)", PLAIN, &["-1", "1", "0"]),
    column("tinyint unsigned", PLAIN, &["255", "0"]),
    column("smallint", PLAIN, &["-32768", "32767"]),
    column("smallint unsigned", PLAIN, &["65535"]),
    column("mediumint", PLAIN, &["-8388608", "8388607", "-1"]),
    column("mediumint unsigned", PLAIN, &["16777215"]),
    column("int", PLAIN, &["-2147483648", "2147483647"]),
    column("int unsigned", PLAIN, &["4294967295"]),
    column("int(8) unsigned zerofill", "c + 0", &["42", "0", "4294967295"]),
    column("bigint", PLAIN, &["-9223372036854775808", "9223372036854775807"]),
    column("bigint unsigned", PLAIN, &["18446744073709551615", "9223372036854775808"]),
    column(
        "decimal(65,30)",
        PLAIN,
        &[
            "-99999999999999999999999999999999999.999999999999999999999999999999",
            "0",
            "0.000000000000000000000000000001",
        ],
    ),
    column("decimal(10)", PLAIN, &["-9999999999", "7"]),
    column("decimal(5,5)", PLAIN, &["-0.99999", "0.5", "0"]),
    column("decimal(12,2) zerofill", "c + 0", &["42.5", "0"]),
    column("float", WIDENED, &["-3.402823466e38", "1.175494351e-38", "0.1", "16777217", "0", "-0.0", "1.17549e-45"]),
    column("float(7,3)", WIDENED, &["1234.567", "-0.001"]),
    column(
        "double",
        PLAIN,
        &[
            "-1.7976931348623157e308",
            "2.2250738585072014e-308",
            "0.1",
            "1e15",
            "123456789012345678",
            "5e-324",
            "0.30000000000000004",
        ],
    ),
    column("double unsigned", PLAIN, &["3.14"]),
    column("bit(1)", "LPAD(BIN(c), 1, '0')", &["b'0'", "b'1'"]),
    column("bit(11)", "LPAD(BIN(c), 11, '0')", &["b'11111111111'", "b'1'"]),
    column("bit(64)", "LPAD(BIN(c), 64, '0')", &["18446744073709551615", "1"]),
    column("year", PLAIN, &["1901", "2155", "0"]),
    column(
        "date",
        PLAIN,
        &[
            "'0000-00-00'",
            "'9999-12-31'",
            "'2024-00-00'",
            "'2024-02-00'",
            "'1000-01-01'",
            "'0001-01-01'",
            "'2023-02-31'",
        ],
    ),
    column("time", PLAIN, &["'-838:59:59'", "'838:59:59'", "'-00:00:01'", "'0'", "'101:00:00'"]),
    column("time(6)", PLAIN, &["'-838:59:58.999999'", "'-00:00:00.000001'", "'12:34:56.5'", "'0'"]),
    column("time(3)", PLAIN, &["'-01:02:03.004'", "'23:59:59.999'"]),
    column(
        "datetime",
        PLAIN,
        &["'0000-00-00 00:00:00'", "'9999-12-31 23:59:59'", "'1000-01-01 00:00:00'", "'2024-02-30 12:00:00'"],
    ),
    column(
        "datetime(6)",
        PLAIN,
        &["'9999-12-31 23:59:59.999999'", "'2024-01-01 00:00:00.000001'", "'2024-01-01'", "'0000-00-00'"],
    ),
    column("datetime(2)", PLAIN, &["'2024-01-01 10:20:30.05'"]),
    column("timestamp NULL", PLAIN, &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'0000-00-00 00:00:00'"]),
    column(
        "timestamp(6) NULL",
        PLAIN,
        &["'1970-01-01 00:00:01.000001'", "'2038-01-19 03:14:07.999999'", "'2024-10-27 00:30:00'"],
    ),
    column("char(10) CHARACTER SET latin1", PLAIN, &["'h\u{e9}llo'", "''", "'  a'", "'0'"]),
    column("char(10) CHARACTER SET utf8mb4", PLAIN, &["'\u{1f600}'", "'a  '"]),
    column(
        "varchar(50) CHARACTER SET utf8mb4",
        PLAIN,
        &["'\u{1f600} \u{8a9e}'", "''", "'a  '", r#"'\\ '' \" \n \0 \Z'"#],
    ),
    column("varchar(50) CHARACTER SET utf16", PLAIN, &["'\u{1f600}a'", "''"]),
    column("varchar(50) CHARACTER SET cp1251", PLAIN, &["'\u{0416}'"]),
    column("varchar(50) CHARACTER SET ucs2", PLAIN, &["'ab'"]),
    column("tinytext CHARACTER SET latin1", PLAIN, &["REPEAT('x', 255)"]),
    column("text", PLAIN, &["REPEAT('\u{e9}', 30000)", "''"]),
    column("mediumtext", PLAIN, &["REPEAT('ab', 100000)"]),
    column("longtext", PLAIN, &["REPEAT('ab', 9000000)"]),
    column("binary(5)", PLAIN, &["'a'", "X'00ff00ff00'", "''"]),
    column("varbinary(300)", PLAIN, &["X'00'", "''", "REPEAT(X'fe', 300)"]),
    column("tinyblob", PLAIN, &["REPEAT(X'fb', 251)"]),
    column("longblob", PLAIN, &["REPEAT(X'00ff', 40000)", "''"]),
    column(
        "enum('', 'a', 'h\u{e9}', 'it''s', 'x,y') CHARACTER SET latin1",
        "CONVERT(c USING utf8mb4)",
        &["1", "2", "3", "4", "5"],
    ),
    column("enum('one', 'two')", PLAIN, &["'TWO'"]),
    column(
        "set('a', 'b', '\u{e9}', 'd e') CHARACTER SET latin1",
        "CONVERT(c USING utf8mb4)",
        &["''", "15", "'d e,a'", "4"],
    ),
    column("geometry", PLAIN, &["ST_GeomFromText('POINT(1 -2.5)')", "ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))')"]),
];

const OF_MYSQL: &[Column] = &[
    column(
        "json",
        PLAIN,
        &[
            r#"'{"b": [1, 2.50, null, true], "a": "\\u00e9\\ud83d\\ude00"}'"#,
            "'null'",
            "'[]'",
            "'18446744073709551615'",
            "CAST(CAST('2024-01-01' AS date) AS json)",
        ],
    ),
    column("vector(3)", PLAIN, &["STRING_TO_VECTOR('[1,-2.5,3e10]')"]),
    column("geometry SRID 4326", PLAIN, &["ST_GeomFromText('POINT(10 20)', 4326)"]),
];

const OF_MARIADB: &[Column] = &[
    column("uuid", PLAIN, &["'123e4567-e89b-12d3-a456-426655440000'", "'ffffffff-ffff-ffff-ffff-fffffffffffe'"]),
    column("inet4", PLAIN, &["'255.0.0.1'", "'0.0.0.0'"]),
    column("inet6", PLAIN, &["'::'", "'2001:db8::ff00:42:8329'", "'::ffff:10.0.0.1'"]),
    column("json", PLAIN, &[r#"'{"b":1,  "a":2.50}'"#]),
];

fn columns(release: Release) -> Vec<&'static Column> {
    let own = if release.is_mariadb() { OF_MARIADB } else { OF_MYSQL };
    COLUMNS.iter().chain(own).collect()
}

/// Numbers are equal if they are the same number; all else if the bytes are.
fn same(definition: &str, cell: &[u8], shown: &[u8]) -> bool {
    let number = |v: &[u8]| std::str::from_utf8(v).ok().and_then(|t| t.parse::<f64>().ok());
    if definition.starts_with("float") {
        return number(cell).map(|n| (n as f32).to_bits()) == number(shown).map(|n| (n as f32).to_bits());
    }
    if definition.starts_with("double") {
        return number(cell).map(f64::to_bits) == number(shown).map(f64::to_bits);
    }
    cell == shown
}

async fn every_type(release: Release) {
    let place = Place::start(release, &[("max-allowed-packet", "64M")]).await;
    let columns = columns(release);
    let mut session = place.server.connect(DATABASE).await.unwrap();
    session.query_drop("SET NAMES utf8mb4, sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'").await.unwrap();
    for (i, c) in columns.iter().enumerate() {
        let sql = format!("CREATE TABLE t{i:02} (id int PRIMARY KEY, c {})", c.definition);
        session.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        session.query_drop(format!("INSERT INTO t{i:02} VALUES (0, NULL)")).await.unwrap();
        for (n, value) in c.values.iter().enumerate() {
            let sql = format!("INSERT INTO t{i:02} VALUES ({}, {value})", n + 1);
            session.query_drop(&sql).await.unwrap_or_else(|e| panic!("{}: {sql}: {e}", c.definition));
        }
    }
    let plans = place.plans().await;
    assert_eq!(plans.len(), columns.len());
    let set = place.take(1).await;
    let hold = set.hold();
    let mut reader = Reader::open(&hold.snapshot()).await.unwrap();
    session.query_drop("SET character_set_results = NULL").await.unwrap();
    for (i, (c, plan)) in columns.iter().zip(&plans).enumerate() {
        let shown: Vec<(i32, Option<Vec<u8>>)> =
            session.query(format!("SELECT id, {} FROM t{i:02} ORDER BY id", c.shown)).await.unwrap();
        let read = chunk(&mut reader, plan, &Bounds::Keys { from: None, to: None }).await.unwrap();
        assert_eq!(read.len(), shown.len());
        for (row, (id, shown)) in read.iter().zip(&shown) {
            assert_eq!(row[0].as_deref(), Some(id.to_string().as_bytes()));
            match (&row[1], shown) {
                (None, None) => {}
                (Some(cell), Some(shown)) => {
                    let short = |v: &[u8]| String::from_utf8_lossy(&v[..v.len().min(80)]).into_owned();
                    assert!(
                        same(c.definition, cell, shown),
                        "{release:?} {} {id}: {:?} is not {:?}",
                        c.definition,
                        short(cell),
                        short(shown)
                    );
                }
                (cell, shown) => panic!("{}: {cell:?} is not {shown:?}", c.definition),
            }
        }
        fetched(&mut reader, plan, &read).await;
    }
    in_utf8(&mut reader, &plans, &columns).await;
}

/// Single rows look as in a chunk; keys without a row have none.
async fn fetched(reader: &mut Reader, plan: &TablePlan, read: &[Row]) {
    let key = |n: &[u8]| {
        let mut out = Vec::new();
        put_cell(&mut out, Cell::Value(n));
        Bytes::from(out)
    };
    let keys = [key(b"1"), key(b"777"), key(b"0")];
    let found = reader.fetch(plan, &keys).await.unwrap();
    let values = |row: &Bytes| -> Row { cells(row).map(|c| c.value().map(<[u8]>::to_vec)).collect() };
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].as_ref().map(values).as_ref(), Some(&read[1]), "{}", plan.source);
    assert_eq!(found[1], None);
    assert_eq!(found[2].as_ref().map(values).as_ref(), Some(&read[0]));
}

/// In the canonical format text is UTF-8, whatever its column's character set.
async fn in_utf8(reader: &mut Reader, plans: &[TablePlan], columns: &[&Column]) {
    for (c, plan) in columns.iter().zip(plans) {
        let texts: &[&str] = match c.definition {
            "char(10) CHARACTER SET latin1" => &["h\u{e9}llo", "", "  a", "0"],
            "varchar(50) CHARACTER SET utf16" => &["\u{1f600}a", ""],
            "varchar(50) CHARACTER SET cp1251" => &["\u{0416}"],
            _ => continue,
        };
        let plan = TablePlan { format: RowFormat::Canonical, ..plan.clone() };
        let read = chunk(reader, &plan, &Bounds::Whole).await.unwrap();
        let read: Vec<String> = read[1..].iter().map(|r| String::from_utf8(r[1].clone().unwrap()).unwrap()).collect();
        assert_eq!(read, texts, "{}", c.definition);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_on_mysql() {
    every_type(Release::MySql9).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_on_mariadb_10() {
    every_type(Release::MariaDb10).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_on_mariadb_11() {
    every_type(Release::MariaDb11).await;
}
