//! Reading for comparison: the same values give the same bytes on every member of the family, whichever side they are on.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod reading;

use bytes::Bytes;
use drover_connectors_api::{RowSink, Rows, Side};
use drover_connectors_mysql::rows::MyRows;
use drover_connectors_mysql::typemap;
use drover_harness::Release;
use drover_model::TablePlan;
use drover_model::chunk::Bounds;
use drover_model::row::{Cell, put_cell};
use drover_model::schema::DataType;
use mysql_async::prelude::Queryable;
use reading::types::COLUMNS;
use reading::{DATABASE, Place, Row, rows};

#[derive(Default)]
struct Collect {
    rows: usize,
    cells: Vec<u8>,
}

impl RowSink for Collect {
    fn block(&mut self, rows: usize, cells: Bytes) -> drover_model::Result<()> {
        self.rows += rows;
        self.cells.extend_from_slice(&cells);
        Ok(())
    }
}

async fn read(from: &mut MyRows, plan: &TablePlan, side: Side) -> Vec<Row> {
    let mut sink = Collect::default();
    from.read(plan, side, &Bounds::Whole, &mut sink).await.unwrap_or_else(|e| panic!("{e}"));
    let mut found = rows(&sink.cells, plan.columns.len());
    assert_eq!(found.len(), sink.rows);
    found.sort();
    found
}

fn key(values: &[&[u8]]) -> Bytes {
    let mut out = Vec::new();
    values.iter().for_each(|v| put_cell(&mut out, Cell::Value(v)));
    Bytes::from(out)
}

async fn fill(place: &Place, table: &str, definition: &str, values: &[&str]) {
    let mut session = place.server.connect(DATABASE).await.unwrap();
    session.query_drop("SET NAMES utf8mb4, sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'").await.unwrap();
    let sql = format!("CREATE TABLE {table} (id int PRIMARY KEY, c {definition})");
    session.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    session.query_drop(format!("INSERT INTO {table} VALUES (0, NULL)")).await.unwrap();
    for (n, value) in values.iter().enumerate() {
        session.query_drop(format!("INSERT INTO {table} VALUES ({}, {value})", n + 1)).await.unwrap();
    }
}

/// Every type from one release to the other, as the type map has it.
async fn both_sides(source: Release, destination: Release) {
    let packets = [("max-allowed-packet", "64M")];
    let (from, to) = (Place::start(source, &packets).await, Place::start(destination, &packets).await);
    for (i, c) in COLUMNS.iter().enumerate() {
        fill(&from, &format!("t{i:02}"), c.definition, c.values).await;
    }
    // Documents that are the same, each as its server was given it.
    let documents = [r#"'{"b": [1, 2.50, null, true], "a": "\\u00e9"}'"#, "'18446744073709551615'", "'[ ]'"];
    let others = [r#"'{"a":"é",   "b":[1,2.5,null,true]}'"#, "'18446744073709551615'", "'[]'"];
    fill(&from, "tjs", "json", &documents).await;
    let mut session = to.dialer.session("test").await.unwrap();
    let known = typemap::Known::read(&mut session).await.unwrap();
    let mut plans = from.plans().await;
    for plan in &mut plans {
        for column in &mut plan.columns {
            column.destination_type = typemap::type_at(&column.origin_type, &known).unwrap().text;
        }
    }
    for (i, c) in COLUMNS.iter().enumerate() {
        let of = &plans[i].columns[1].destination_type;
        fill(&to, &format!("t{i:02}"), of, c.values).await;
    }
    fill(&to, "tjs", "json", &others).await;
    let (mut left, mut right) = (MyRows::open(&from.dialer).await.unwrap(), MyRows::open(&to.dialer).await.unwrap());
    for plan in &plans {
        let (a, b) = (read(&mut left, plan, Side::Source).await, read(&mut right, plan, Side::Destination).await);
        assert!(a.len() > 1);
        if plan.columns[1].data_type == DataType::JsonText && source.is_mariadb() {
            // A text there, kept as one and compared as one.
            assert_ne!(a, b);
            continue;
        }
        assert!(a == b, "{source:?} → {destination:?} {}: {a:?} is not {b:?}", plan.columns[1].origin_type);
        // Some rows by their keys, set-wise, also ones that are not there.
        let keys: Vec<Bytes> = (0..1200).rev().map(|n: u32| key(&[n.to_string().as_bytes()])).collect();
        let mut sink = Collect::default();
        right.read_keys(plan, Side::Destination, &keys, &mut sink).await.unwrap();
        let mut found = rows(&sink.cells, 2);
        found.sort();
        assert_eq!(found, b);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_and_mariadb_10() {
    both_sides(Release::MySql9, Release::MariaDb10).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_10_and_mysql() {
    both_sides(Release::MariaDb10, Release::MySql9).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_and_mariadb_11() {
    both_sides(Release::MySql9, Release::MariaDb11).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_10_and_11() {
    both_sides(Release::MariaDb10, Release::MariaDb11).await;
}

/// Keys of odd types are found by what reading gave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_found_by_keys_of_every_kind() {
    for release in [Release::MySql9, Release::MariaDb10] {
        let place = Place::start(release, &[]).await;
        let keys = [
            ("varchar(30) CHARACTER SET latin1 COLLATE latin1_german1_ci", "'\u{e4}', 'B', 'c c'"),
            ("varchar(30) CHARACTER SET utf16", "'\u{1f600}', 'b', ''"),
            ("binary(4)", "X'00ff', 'ab', X'ffffffff'"),
            ("float", "0.1, -3.5e38 / 10, 16777216"),
            ("double", "0.1, 1e300, 5e-324"),
            ("decimal(20,5)", "1.5, -7, 0"),
            ("bit(9)", "1, 511, 256"),
            ("enum('z','\u{e9}','a') CHARACTER SET latin1", "1, 2, 3"),
            ("set('z','\u{e9}') CHARACTER SET latin1", "1, 2, 3"),
            ("datetime(6)", "'2024-01-01 00:00:00.000001', '0001-01-01', '9999-12-31 23:59:59.999999'"),
            ("timestamp(3)", "'2024-01-01 00:00:00.001', '1970-01-01 00:00:01', '2038-01-19 03:14:07'"),
            ("time(2)", "'-838:59:58.99', '0', '12:00:00.5'"),
            ("year", "1901, 2155, 2000"),
            ("bigint unsigned", "0, 18446744073709551615, 9223372036854775808"),
        ];
        let mut session = place.server.connect(DATABASE).await.unwrap();
        session.query_drop("SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = ''").await.unwrap();
        for (i, (kind, values)) in keys.iter().enumerate() {
            session.query_drop(format!("CREATE TABLE k{i:02} (k {kind}, n int, PRIMARY KEY (n, k))")).await.unwrap();
            for value in values.split(", ") {
                session.query_drop(format!("INSERT INTO k{i:02} VALUES ({value}, 5)")).await.unwrap();
            }
        }
        let mut reader = MyRows::open(&place.dialer).await.unwrap();
        for plan in place.plans().await {
            let all = read(&mut reader, &plan, Side::Source).await;
            assert_eq!(all.len(), 3);
            let of = |row: &Row| {
                let cells: Vec<&[u8]> = plan.key.iter().map(|k| row[usize::from(*k)].as_deref().unwrap()).collect();
                key(&cells)
            };
            for row in &all {
                let mut sink = Collect::default();
                reader.read_keys(&plan, Side::Source, &[of(row)], &mut sink).await.unwrap();
                let found = rows(&sink.cells, 2);
                assert_eq!(found, std::slice::from_ref(row), "{release:?} {}", plan.columns[0].origin_type);
            }
        }
    }
}
