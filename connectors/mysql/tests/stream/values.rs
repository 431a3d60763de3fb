//! Every type with ordinary and extreme values: the image in the log is what SELECT gives, cell by cell.

use crate::bench::Bench;
use drover_connectors_api::ChangeStream;
use drover_connectors_mysql::cells;
use drover_connectors_mysql::types::{Kind, MyType};
use drover_connectors_mysql::wire::Wire;
use drover_harness::mysql::Release;
use drover_model::change::{Item, Old, Reader};
use drover_model::row::{self, Cell};
use drover_model::{Position, TablePlan};
use std::collections::HashMap;

/// Numbers without a pattern, the same each time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) ^ (self.0 << 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn digits(&mut self, n: u64) -> String {
        (0..n).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }
    fn bytes(&mut self, n: u64) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn list(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn quoted(values: &[&str]) -> Vec<String> {
    values.iter().map(|v| format!("'{v}'")).collect()
}

/// Bytes, as few as none and as many as fit.
fn binary(r: &mut Random, most: u64) -> Vec<String> {
    let mut out = list(&["''", "0x00", "0x0000ff", "0x2000", "0xff0000"]);
    out.extend([most, most / 2, 255.min(most), 256.min(most)].map(|n| hex(&r.bytes(n.max(1)))));
    out.push(hex(&vec![0; most as usize]));
    out
}

fn time(r: &mut Random, digits: u64) -> Vec<String> {
    let mut out = quoted(&["00:00:00", "838:59:59", "-838:59:59", "-00:00:01", "23:59:59", "100:00:00"]);
    for f in ["-00:00:00", "-12:34:56", "-00:00:59", "12:34:56", "-838:59:58", "01:00:00"] {
        out.push(format!("'{f}.{}'", r.digits(digits.max(1))));
        out.push(format!("'{f}.{}'", "9".repeat(digits as usize)));
        out.push(format!("'{f}.{}1'", "0".repeat(digits.saturating_sub(1) as usize)));
    }
    out
}

fn datetime(r: &mut Random, digits: u64) -> Vec<String> {
    let mut out = quoted(&["0000-00-00 00:00:00", "1000-01-01 00:00:00", "2024-00-00 01:02:03", "2023-02-31 23:59:59"]);
    out.push(format!("'9999-12-31 23:59:59.{}'", "9".repeat(digits as usize)));
    for _ in 0..6 {
        let (y, m, d) = (1000 + r.below(8999), 1 + r.below(12), 1 + r.below(28));
        out.push(format!(
            "'{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}.{}'",
            r.below(24),
            r.below(60),
            r.below(60),
            r.digits(6)
        ));
    }
    out
}

fn timestamp(r: &mut Random, digits: u64) -> Vec<String> {
    let mut out = quoted(&["0000-00-00 00:00:00", "1970-01-01 00:00:01", "2038-01-19 03:14:07", "2000-02-29 12:00:00"]);
    out.push(format!("'2038-01-19 03:14:06.{}'", "9".repeat(digits as usize)));
    for _ in 0..6 {
        out.push(format!("from_unixtime({}.{})", 1 + r.below(2_147_483_000), r.digits(6)));
    }
    out
}

/// Texts that these character sets have.
fn texts(charset: &str, longest: usize) -> Vec<String> {
    let own = match charset {
        "latin1" => "çaéß€",
        "koi8r" => "привет",
        "gbk" | "gb18030" => "数据库表",
        "sjis" | "cp932" | "ujis" => "表ソ能十",
        "big5" => "功許蓋表",
        "ascii" => "plain",
        "utf8mb4" | "utf16" | "utf32" | "utf16le" => "😀é数\u{10FFFF}",
        _ => "é数ß",
    };
    let literal = |text: &str| format!("convert(_utf8mb4 {} using {charset})", hex(text.as_bytes()));
    let mut out = list(&["''"]);
    out.extend(
        ["a", " ", "a  ", "  a", "'\"\\\n\t", own]
            .iter()
            .map(|t| literal(&t.chars().take(longest).collect::<String>())),
    );
    out.push(literal(&"x".repeat(longest)));
    out.push(literal(&own.chars().cycle().take(longest).collect::<String>()));
    out
}

/// Types and literals for them.
fn columns(release: Release, r: &mut Random) -> Vec<(String, Vec<String>)> {
    let mut out: Vec<(String, Vec<String>)> = Vec::new();
    let mut add = |kind: &str, values: Vec<String>| out.push((kind.to_owned(), values));
    for (name, bits) in [("tinyint", 8u32), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)] {
        let most = ((1u128 << (bits - 1)) - 1) as i128;
        let mut signed: Vec<String> = [0, 1, -1, most, -most - 1, most / 2].map(|n| n.to_string()).to_vec();
        signed.extend((0..4).map(|_| (r.next() as i64 as i128 % (most + 1)).to_string()));
        add(name, signed);
        let all = (1u128 << bits) - 1;
        add(&format!("{name} unsigned"), [0, 1, all, all / 2, all / 2 + 1, 200].map(|n| n.to_string()).to_vec());
        add(&format!("{name}(6) zerofill"), [0u128, 7, all].map(|n| n.to_string()).to_vec());
    }
    add("bool", list(&["0", "1", "-128"]));
    for bits in [1u32, 8, 9, 10, 33, 64] {
        let all = u64::MAX >> (64 - bits);
        add(&format!("bit({bits})"), [0, 1, all, all / 2 + 1, r.next() & all].map(|n| n.to_string()).to_vec());
    }
    for (precision, scale) in [(65u64, 30u64), (10, 2), (5, 0), (1, 0), (30, 30), (9, 9), (18, 9), (38, 20), (20, 19)] {
        let whole = precision - scale;
        let full =
            |d: char| format!("{}.{}0", d.to_string().repeat(whole as usize), d.to_string().repeat(scale as usize));
        let mut values = list(&["0", "-0.0"]);
        values.extend([
            full('9'),
            format!("-{}", full('9')),
            format!("0.{}1", "0".repeat(scale.saturating_sub(1) as usize)),
        ]);
        for _ in 0..5 {
            let (a, b) = (r.below(whole + 1), r.below(scale + 1));
            let sign = if r.below(2) == 0 { "" } else { "-" };
            values.push(format!("{sign}{}.{}0", r.digits(a), r.digits(b)));
        }
        add(&format!("decimal({precision},{scale})"), values);
    }
    add("decimal(12,3) unsigned zerofill", list(&["0", "1.5", "999999999.999"]));
    let mut doubles = list(&[
        "0",
        "-0e0",
        "1",
        "-1.5",
        "0.1",
        "1e14",
        "1e15",
        "123456789012345678",
        "1e-14",
        "1e-15",
        "1e-16",
        "1.5e300",
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "2.2250738585072014e-308",
        "5e-324",
        "1e22",
        "1e23",
        "9007199254740993",
        "100000",
        "0.000001",
        "12345.678901234567",
    ]);
    doubles.extend((0..40).map(|_| format!("{:e}", f64::from_bits(r.next() & !(1 << 62) | 1 << 61))));
    doubles.extend((0..40).map(|_| format!("{}.{}", r.below(1_000_000), r.digits(9))));
    add("double", doubles);
    add("double(20,5)", list(&["0", "1.5", "-99999.12345", "123456789012345.12345"]));
    let mut floats = list(&[
        "0",
        "1",
        "-1.5",
        "0.1",
        "16777216",
        "16777217",
        "3.4028234e38",
        "-3.4028234e38",
        "1.1754944e-38",
        "1e-45",
        "1e10",
        "0.3333333",
    ]);
    floats.extend((0..40).map(|_| format!("{:e}", f32::from_bits(r.next() as u32 & 0x3fff_ffff | 0x1000_0000))));
    add("float", floats);
    add("float(7,3)", list(&["0", "1.1", "-1234.567", "9999.999"]));
    add("float unsigned", list(&["0", "0.5"]));
    add("year", list(&["0", "1901", "2155", "1999", "2000"]));
    add(
        "date",
        quoted(&["0000-00-00", "1000-01-01", "9999-12-31", "2024-00-15", "2023-02-30", "2024-02-29", "0001-01-01"]),
    );
    for digits in 0..=6 {
        add(&format!("time({digits})"), time(r, digits));
        add(&format!("datetime({digits})"), datetime(r, digits));
        add(&format!("timestamp({digits}) null"), timestamp(r, digits));
    }
    let mut sets = vec![
        "latin1", "utf8mb4", "utf8mb3", "ucs2", "utf16", "utf32", "gbk", "sjis", "cp932", "ujis", "big5", "koi8r",
        "ascii", "utf16le",
    ];
    if release == Release::MySql9 {
        sets.push("gb18030");
    }
    for set in sets {
        add(&format!("char(10) character set {set}"), texts(set, 10));
        add(&format!("varchar(70) character set {set}"), texts(set, 70));
    }
    add("char(255) character set utf8mb4", texts("utf8mb4", 255));
    add("varchar(255) character set latin1", texts("latin1", 255));
    add("varchar(256) character set latin1", texts("latin1", 256));
    add("tinytext character set latin1", texts("latin1", 255));
    add("text character set utf8mb4", texts("utf8mb4", 300));
    add("mediumtext character set gbk", texts("gbk", 1000));
    add("longtext character set utf8mb4", texts("utf8mb4", 70_000));
    for n in [1u64, 5, 16, 255] {
        add(&format!("binary({n})"), binary(r, n));
    }
    for n in [1u64, 255, 256, 300] {
        add(&format!("varbinary({n})"), binary(r, n));
    }
    add("tinyblob", binary(r, 255));
    add("blob", binary(r, 5000));
    add("mediumblob", binary(r, 70_000));
    add("longblob", binary(r, 100));
    add("enum('a','b','','c d','it''s','é') character set utf8mb4", list(&["1", "2", "3", "4", "5", "6", "'c d'"]));
    let many: Vec<String> = (0..300).map(|i| format!("'label {i}'")).collect();
    add(&format!("enum({})", many.join(",")), list(&["1", "255", "256", "300"]));
    add("enum('ä','ö') character set latin1", list(&["1", "2"]));
    add("set('a','b','c') character set latin1", list(&["''", "'a'", "'c,a'", "7"]));
    for n in [8u32, 9, 17, 25, 33, 64] {
        let labels: Vec<String> = (0..n).map(|i| format!("'m{i}'")).collect();
        let all = u64::MAX >> (64 - n);
        add(
            &format!("set({})", labels.join(",")),
            [0, 1, all, all / 2 + 1, r.next() & all].map(|n| n.to_string()).to_vec(),
        );
    }
    let shapes = [
        "point(1 2)",
        "linestring(0 0,1 1.5,-3e10 4)",
        "polygon((0 0,10 0,10 10,0 0))",
        "geometrycollection(point(1 1),linestring(0 0,2 2))",
    ];
    add("geometry", shapes.iter().map(|s| format!("st_geomfromtext('{s}')")).collect());
    add(
        "point",
        list(&["st_geomfromtext('point(1 2)')", "st_geomfromtext('point(-1 2e300)', 4326)"])
            .into_iter()
            .take(if release == Release::MySql9 { 1 } else { 2 })
            .collect(),
    );
    match release {
        Release::MySql9 => {
            add(
                "json",
                list(&[
                    "'null'",
                    "'{\"a\": [1, 2.50, \"x\"], \"bb\": {}}'",
                    "cast(1.5 as json)",
                    "json_array(cast('2020-01-01' as date))",
                    "'\"\"'",
                ]),
            );
            add("vector(3)", list(&["string_to_vector('[1,2.5,-3]')", "string_to_vector('[0,0,0]')"]));
            add("vector(300)", vec![format!("string_to_vector('[{}]')", vec!["0.25"; 300].join(","))]);
        }
        _ => {
            add("json", list(&["'null'", "'{\"a\": [1, 2.50, \"x\"]}'", "'  [1]'"]));
            add(
                "uuid",
                quoted(&[
                    "123e4567-e89b-12d3-a456-426614174000",
                    "00000000-0000-0000-0000-000000000000",
                    "ffffffff-ffff-ffff-ffff-ffffffffffff",
                    "0190c5a8-5d0f-7cc0-8000-00000000abcd",
                    "123e4567-e89b-62d3-a456-426614174000",
                    "123e4567-e89b-42d3-0456-426614174000",
                ]),
            );
            add(
                "inet6",
                quoted(&[
                    "::",
                    "::1",
                    "2001:db8::ff00:42:8329",
                    "::ffff:192.0.2.128",
                    "fe80::1",
                    "1:2:3:4:5:6:7:8",
                    "::c0a8:101",
                    "0:0:1::",
                    "1:0:0:2::",
                    "ffff::",
                ]),
            );
            add("inet4", quoted(&["0.0.0.0", "255.255.255.255", "10.1.2.0", "1.0.0.0"]));
            add("varchar(1000) compressed character set utf8mb4", texts("utf8mb4", 1000));
            add("varbinary(200) compressed", binary(r, 200));
            add("blob compressed", binary(r, 5000));
            add("mediumtext compressed character set latin1", texts("latin1", 3000));
            add("tinyblob compressed", binary(r, 200));
        }
    }
    if release == Release::MariaDb11 {
        add("vector(3) not null", list(&["vec_fromtext('[1,2.5,-3]')", "vec_fromtext('[0,0,0]')"]));
    }
    out
}

/// The expression under which the server prints what a cell has.
fn expression(name: &str, my: &MyType) -> String {
    match my.kind {
        Kind::Bit { length } => format!("lpad(bin(`{name}`), {length}, '0')"),
        Kind::Enum { .. } | Kind::Set { .. } => format!("convert(`{name}` using utf8mb4)"),
        Kind::Int { .. } | Kind::Decimal { .. } if my.zerofill => format!("`{name}` + 0"),
        Kind::Float { .. } | Kind::Double { declared: Some(_) } => format!("`{name}` + 0e0"),
        _ => format!("`{name}`"),
    }
}

type Row = Vec<Option<Vec<u8>>>;

/// All rows by their first column, as cells.
pub async fn selected(bench: &Bench, plan: &TablePlan) -> HashMap<Vec<u8>, Row> {
    let mut wire = Wire::connect(&bench.dialer, "test").await.unwrap();
    wire.run("SET character_set_results = NULL", "test").await.unwrap();
    let types: Vec<MyType> = plan.columns.iter().map(|c| MyType::parse(&c.origin_type).unwrap()).collect();
    let list: Vec<String> = plan.columns.iter().zip(&types).map(|(c, t)| expression(&c.source, t)).collect();
    let sql = format!("SELECT {} FROM `{}`.`{}`", list.join(", "), plan.source.schema, plan.source.name);
    let rows = wire.all(&sql, "test").await.unwrap();
    let cell = |bytes: &[u8], my: &MyType| -> Vec<u8> {
        let number = || std::str::from_utf8(bytes).unwrap().parse::<f64>().unwrap();
        match my.kind {
            Kind::Float { .. } => cells::float_text(number() as f32).as_bytes().to_vec(),
            Kind::Double { declared: Some(_) } => cells::double_text(number()).as_bytes().to_vec(),
            _ => bytes.to_vec(),
        }
    };
    rows.into_iter()
        .map(|r| {
            let row: Row = r.iter().zip(&types).map(|(v, t)| v.as_ref().map(|v| cell(v, t))).collect();
            (row[0].clone().unwrap(), row)
        })
        .collect()
}

/// What changes say of each row: (old, new).
pub type Images = HashMap<Vec<u8>, (Option<Row>, Option<Row>)>;

/// The changes of one table until a position.
pub async fn images(stream: &mut dyn ChangeStream, plans: &[TablePlan], table: u32, mark: &Position) -> Images {
    let known = |bytes: &[u8]| -> Row {
        row::cells(bytes)
            .map(|c| match c {
                Cell::Null => None,
                Cell::Value(v) => Some(v.to_vec()),
                Cell::Unknown => panic!("an unknown cell"),
            })
            .collect()
    };
    let full = |old: Old<'_>| match old {
        Old::Full(row) => known(row),
        other => panic!("{other:?}"),
    };
    let mut out = Images::new();
    loop {
        let batch = stream.next().await.unwrap();
        let mut reader = Reader::new(&batch.payload, plans);
        while let Some(item) = reader.next_item().unwrap() {
            let (of, old, new) = match item {
                Item::Insert { table, new } => (table, None, Some(known(new))),
                Item::Update { table, old, new } => (table, Some(full(old)), Some(known(new))),
                Item::Delete { table, old } => (table, Some(full(old)), None),
                _ => continue,
            };
            if of == table {
                let key = new.as_ref().or(old.as_ref()).unwrap()[0].clone().unwrap();
                out.insert(key, (old, new));
            }
        }
        if batch.to >= *mark && batch.piece.is_none_or(|p| p.last) {
            return out;
        }
    }
}

pub fn compare(plan: &TablePlan, wanted: &HashMap<Vec<u8>, Row>, found: &HashMap<Vec<u8>, Row>) {
    assert_eq!(wanted.len(), found.len(), "rows");
    for (key, row) in wanted {
        for (i, (a, b)) in row.iter().zip(&found[key]).enumerate() {
            let show = |v: &Option<Vec<u8>>| match v {
                None => "null".to_owned(),
                Some(v) => {
                    format!("{} ({:02x?})", String::from_utf8_lossy(&v[..v.len().min(200)]), &v[..v.len().min(40)])
                }
            };
            let kind: String = plan.columns[i].origin_type.chars().take(60).collect();
            let id = String::from_utf8_lossy(key);
            assert!(a == b, "row {id}, {kind}: SELECT {}, the log {}", show(a), show(b));
        }
    }
}

async fn every_type(release: Release, settings: &[(&str, &str)]) {
    let seed = std::env::var("DROVER_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(release as u64 + 1);
    println!("DROVER_TEST_SEED={seed}");
    let mut r = Random(seed);
    let mut columns = columns(release, &mut r);
    // Each kind stands beside every other at some time: what the log says of columns, it says of those of a kind in a row.
    for i in (1..columns.len()).rev() {
        columns.swap(i, r.below(i as u64 + 1) as usize);
    }
    // Rows have a size limit, so the columns go over several tables.
    let groups: Vec<&[(String, Vec<String>)]> = columns.chunks(12).collect();
    let mut ddl = String::from("set sql_mode = '';");
    for (t, group) in groups.iter().enumerate() {
        let list: Vec<String> = group.iter().enumerate().map(|(i, (kind, _))| format!("c{i} {kind}")).collect();
        ddl.push_str(&format!("create table t{t} (id int primary key, {}) engine = innodb;", list.join(", ")));
    }
    let mut bench = Bench::new(release, &ddl, settings).await;
    bench.batch_bytes = 1 << 20;
    let from = bench.here().await;
    for (t, group) in groups.iter().enumerate() {
        let plan = bench.plan(&format!("t{t}")).clone();
        assert_eq!(plan.columns.len(), group.len() + 1, "{:?}", plan.left_out);
        let from = if t == 0 { from.clone() } else { bench.here().await };
        let rows = group.iter().map(|(_, values)| values.len()).max().unwrap();
        let row = |i: usize| -> String {
            let pick = |(c, (kind, values)): (usize, &(String, Vec<String>))| match (i + c) % 11 {
                5 if !kind.contains("not null") => "null".to_owned(),
                _ => values[i % values.len()].clone(),
            };
            group.iter().enumerate().map(pick).collect::<Vec<_>>().join(", ")
        };
        for i in 0..rows {
            bench.run(&format!("insert into t{t} values ({i}, {})", row(i))).await;
        }
        let mut stream = bench.open(&from).await.unwrap();
        let before = selected(&bench, &plan).await;
        let mark = bench.here().await;
        let found = images(&mut stream, &bench.plans, plan.id, &mark).await;
        compare(&plan, &before, &found.into_iter().map(|(k, (_, new))| (k, new.unwrap())).collect());
        // Each row takes the values of the next.
        for i in 0..rows {
            let values = row(i + 1);
            bench.run(&format!("replace into t{t} values ({i}, {values})")).await;
        }
        let after = selected(&bench, &plan).await;
        bench.run(&format!("delete from t{t}")).await;
        let mark = bench.here().await;
        let mut stream = bench.open(&mark_of(&stream)).await.unwrap();
        let found = images(&mut stream, &bench.plans, plan.id, &mark).await;
        compare(&plan, &after, &found.into_iter().map(|(k, (old, _))| (k, old.unwrap())).collect());
    }
}

fn mark_of(stream: &drover_connectors_mysql::changes::Changes) -> Position {
    stream.reached().clone()
}

#[tokio::test]
async fn every_type_of_mysql() {
    every_type(Release::MySql9, &[]).await;
}

#[tokio::test]
async fn every_type_of_mariadb() {
    every_type(Release::MariaDb10, &[]).await;
}

#[tokio::test]
async fn every_type_of_new_mariadb() {
    every_type(Release::MariaDb11, &[]).await;
}

/// Without names and types in the log: by the plans alone.
#[tokio::test]
async fn every_type_without_metadata() {
    every_type(Release::MySql9, &[("binlog-row-metadata", "MINIMAL")]).await;
    every_type(Release::MariaDb10, &[("binlog-row-metadata", "NO_LOG")]).await;
}

/// Dates and times in the forms of before MySQL 5.6 and MariaDB 10.1, which live on in tables from then.
#[tokio::test]
async fn old_forms_of_dates_and_times() {
    let ddl = "create table t0 (id int primary key, a time, b datetime, c timestamp null, d date); create table f (id int primary key, a time(3))";
    let mut bench = Bench::new(Release::MariaDb10, ddl, &[("mysql56-temporal-format", "OFF")]).await;
    let from = bench.here().await;
    for (i, (a, b, c, d)) in [
        ("-12:34:56", "2024-02-29 23:59:59", "2038-01-19 03:14:07", "9999-12-31"),
        ("838:59:59", "0000-00-00 00:00:00", "0000-00-00 00:00:00", "0000-00-00"),
        ("-838:59:59", "9999-12-31 23:59:59", "1970-01-01 00:00:01", "2024-00-01"),
        ("00:00:00", "2023-02-31 01:02:03", "2000-02-29 12:00:00", "2023-02-30"),
    ]
    .iter()
    .enumerate()
    {
        bench.run(&format!("insert into t0 values ({i}, '{a}', '{b}', '{c}', '{d}')")).await;
    }
    let plan = bench.plan("t0").clone();
    let mut stream = bench.open(&from).await.unwrap();
    let found = images(&mut stream, &bench.plans, plan.id, &bench.here().await).await;
    compare(&plan, &selected(&bench, &plan).await, &found.into_iter().map(|(k, (_, new))| (k, new.unwrap())).collect());
    // With fractions nobody can tell their length.
    bench.run("insert into f values (1, '12:00:00.5')").await;
    let error = loop {
        if let Err(error) = stream.next().await {
            break error;
        }
    };
    assert!(error.code == drover_model::error::codes::UNSUPPORTED && error.message.contains("column a"), "{error}");
}

/// Columns that nobody sees, and tables in parts.
#[tokio::test]
async fn odd_tables() {
    let ddl = "create table t0 (id int, a int, g int generated always as (a * 2) virtual, s int generated always as (a * 3) stored, j json, \
                 primary key (id), index f ((a + 1)), index m ((cast(j->'$[*]' as unsigned array)))); \
               create table t1 (id int primary key, a int invisible, b int) partition by hash (id) partitions 4; \
               create table t2 (id int, a int) partition by range (a) (partition p0 values less than (10), partition p1 values less than maxvalue); \
               set sql_generate_invisible_primary_key = on; create table t3 (a int)";
    for metadata in ["FULL", "MINIMAL"] {
        let mut bench = Bench::new(Release::MySql9, ddl, &[("binlog-row-metadata", metadata)]).await;
        let from = bench.here().await;
        bench.run("insert into t0 (id, a, j) values (1, 5, '[1, 2]'), (2, null, null)").await;
        bench.run("insert into t1 (id, a, b) values (1, 2, 3), (2, 3, 4), (3, 4, 5); insert into t2 values (1, 1), (2, 20)").await;
        bench.run("insert into t3 values (7), (8)").await;
        // Rows move to another part.
        bench.run("update t2 set a = a + 9; update t1 set id = id + 10").await;
        let mark = bench.here().await;
        for plan in bench.plans.clone() {
            let mut stream = bench.open(&from).await.unwrap();
            let found = images(&mut stream, &bench.plans, plan.id, &mark).await;
            let wanted = selected(&bench, &plan).await;
            let last = found.into_iter().filter_map(|(k, (_, new))| Some((k, new?)));
            // What was updated later has another key by now.
            let found = last.filter(|(k, _)| wanted.contains_key(k)).collect();
            compare(&plan, &wanted, &found);
        }
    }
}
