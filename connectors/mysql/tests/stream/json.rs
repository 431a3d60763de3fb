//! JSON of MySQL: what the log has in binary form, and as differences, is the text that SELECT gives.

use crate::bench::Bench;
use crate::values::{Random, compare, images, selected};
use drover_harness::mysql::Release;

const OPAQUE: [&str; 14] = [
    "cast(1.50 as decimal(10,3))",
    "cast(-99999999999999999999999999999999999.123456789012345678901234567890 as decimal(65,30))",
    "cast(0 as decimal(5,0))",
    "cast('2020-02-29' as date)",
    "cast('0000-00-00' as date)",
    "cast('-838:59:59' as time)",
    "cast('-00:00:00.5' as time(1))",
    "cast('12:34:56.789' as time(6))",
    "cast('9999-12-31 23:59:59.999999' as datetime(6))",
    "cast('1000-01-01 00:00:00' as datetime)",
    "timestamp'2038-01-19 03:14:07.5'",
    "cast(x'00ff10' as binary)",
    "b'1010101010'",
    "st_geomfromtext('point(1.5 -2)')",
];

fn text(r: &mut Random) -> String {
    let plain = [
        "", "a", "é", "😀", "\\\"", "\\\\", "\\n", "\\t", "\\r", "\\b", "\\f", "\\u0001", "\\u001f", "\\u007f", "/",
        "'", "\u{2028}",
    ];
    let mut out = String::from("\"");
    for _ in 0..r.below(6) {
        out.push_str(plain[r.below(plain.len() as u64) as usize]);
    }
    if r.below(40) == 0 {
        out.push_str(&"long ".repeat(r.below(5000) as usize));
    }
    out.push('"');
    // As a SQL literal.
    format!("cast('{}' as json)", out.replace('\\', "\\\\").replace('\'', "''"))
}

fn number(r: &mut Random) -> String {
    match r.below(8) {
        0 => r.below(3).to_string(),
        1 => format!("-{}", r.below(40_000)),
        2 => r.below(70_000).to_string(),
        3 => format!("{}", r.next() as i32),
        4 => format!("{}", r.next() as i64),
        5 => format!("cast({} as unsigned)", r.next()),
        6 => format!("{:e}", f64::from_bits(r.next() & !(1 << 62) | 1 << 61)),
        _ => format!("{}.{}e0", r.below(1000), r.below(100)),
    }
}

/// An expression that gives a document.
fn document(r: &mut Random, depth: u64) -> String {
    match r.below(if depth == 0 { 9 } else { 13 }) {
        0 => "cast('null' as json)".into(),
        1 => "true".into(),
        2 => "false".into(),
        3..=5 => number(r),
        6 | 7 => text(r),
        8 => OPAQUE[r.below(OPAQUE.len() as u64) as usize].into(),
        9 | 10 => {
            let n = r.below(5);
            format!("json_array({})", (0..n).map(|_| document(r, depth - 1)).collect::<Vec<_>>().join(", "))
        }
        _ => {
            let n = r.below(5);
            let member = |r: &mut Random| {
                let key = match r.below(6) {
                    0 => "".to_owned(),
                    1 => format!("key {}", "x".repeat(r.below(300) as usize)),
                    2 => "q\"uo\\te".replace('\\', "\\\\"),
                    3 => "schlüssel".to_owned(),
                    _ => format!("k{}", r.below(20)),
                };
                format!("'{key}', {}", document(r, depth - 1))
            };
            format!("json_object({})", (0..n).map(|_| member(r)).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Gives the inserted or updated images since `from`, and compares them with the table.
async fn check(bench: &Bench, from: &drover_model::Position) {
    let plan = bench.plan("t").clone();
    let mut stream = bench.open(from).await.unwrap();
    let wanted = selected(bench, &plan).await;
    let found = images(&mut stream, &bench.plans, plan.id, &bench.here().await).await;
    let found = found.into_iter().map(|(k, (_, new))| (k, new.unwrap())).collect();
    compare(&plan, &wanted, &found);
}

#[tokio::test]
async fn documents() {
    let mut bench = Bench::new(Release::MySql9, "create table t (id int primary key, d json)", &[]).await;
    bench.batch_bytes = 1 << 20;
    bench.run("set sql_mode = ''").await;
    let from = bench.here().await;
    let mut r = Random::new(1);
    for group in 0..60 {
        let rows: Vec<String> =
            (0..50).map(|i| format!("({}, json_array({}))", group * 50 + i, document(&mut r, 4))).collect();
        bench.run(&format!("insert into t values {}", rows.join(", "))).await;
    }
    // What comes without an array around it, and what needs the large form.
    for (i, d) in [
        "'null'", "'true'", "'-1'", "'\"x\"'", "'{}'", "'[]'", "cast(1.25 as json)", "cast(cast(1.25 as decimal(4,2)) as json)",
        "concat('[', repeat('123456, ', 20000), '0]')",
        "concat('{\"a\": \"', repeat('x', 70000), '\", \"b\": [1, 70000, 5000000000, true], \"c\": \"', repeat('y', 20000), '\"}')",
        "concat('[\"', repeat('z', 3000000), '\"]')",
        "concat(repeat('[', 99), repeat(']', 99))",
        "json_array(repeat(x'00ff', 100000))",
    ]
    .iter()
    .enumerate()
    {
        bench.run(&format!("insert into t values ({}, {d})", 100_000 + i)).await;
    }
    check(&bench, &from).await;
}

#[tokio::test]
async fn differences_of_documents() {
    let ddl = "create table t (id int primary key, a int, d json, b varchar(10), e json, f json)";
    let mut bench = Bench::new(Release::MySql9, ddl, &[]).await;
    bench.batch_bytes = 1 << 20;
    bench.run("set sql_mode = '', binlog_row_value_options = 'PARTIAL_JSON'").await;
    let mut r = Random::new(2);
    let base = "json_object('a', 1, 'bb', json_array(1, 'two', json_object('x', repeat('y', 300))), 'long name', repeat('z', 500), 'q\"', true)";
    let rows: Vec<String> = (0..400)
        .map(|i| format!("({i}, 0, {base}, 'b', {base}, {})", if i % 3 == 0 { "null" } else { base }))
        .collect();
    bench.run(&format!("insert into t values {}", rows.join(", "))).await;
    let before = logged(&mut bench).await;
    let from = bench.here().await;
    let paths = [
        "$.a",
        "$.bb[0]",
        "$.bb[1]",
        "$.bb[2].x",
        "$.bb[9]",
        "$.\"long name\"",
        "$.\"q\\\\\"\"",
        "$.new",
        "$.bb[2].\"n e w\"",
        "$.bb",
    ];
    for round in 0..6 {
        for i in 0..400 {
            let change = |r: &mut Random, column: &str| {
                let path = paths[r.below(paths.len() as u64) as usize];
                match r.below(4) {
                    0 => format!("{column} = json_remove({column}, '{path}')"),
                    1 => format!("{column} = json_replace({column}, '{path}', {})", number(r)),
                    2 => format!("{column} = json_set({column}, '{path}', {}, '$.a', {})", document(r, 1), number(r)),
                    _ => format!("{column} = json_set({column}, '{path}', {})", text(r)),
                }
            };
            let mut sets = vec![format!("a = {round}")];
            for column in ["d", "e", "f"] {
                if r.below(2) == 0 {
                    sets.push(change(&mut r, column));
                }
            }
            bench.run(&format!("update t set {} where id = {i}", sets.join(", "))).await;
        }
    }
    check(&bench, &from).await;
    // Differences were logged indeed.
    let after = logged(&mut bench).await;
    assert!(after.1 > before.1 + 500, "{} partial updates", after.1);
}

/// Events in the log, and those of partial updates among them.
async fn logged(bench: &mut Bench) -> (usize, usize) {
    use mysql_async::prelude::Queryable;
    let rows: Vec<mysql_async::Row> = bench.sql.query("show binlog events").await.unwrap();
    let partial = rows.iter().filter(|r| r.get::<String, _>(2).unwrap() == "Update_rows_partial").count();
    (rows.len(), partial)
}
