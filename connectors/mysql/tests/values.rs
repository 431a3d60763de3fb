//! Values of every type, extreme and odd ones: what a chunk holds is what the server itself says of them.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

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
use reading::types::{Column, columns};
use reading::{DATABASE, Place, Row, chunk};

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
