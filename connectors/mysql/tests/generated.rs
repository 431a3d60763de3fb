//! Generated schemas: types × nullability × defaults × keys × character sets × collations × generated columns × checks × partitions, made at
//! one release and carried to another. What the source refuses is left out; what it takes must arrive.
//!
//! `DROVER_TEST_SEED` repeats a run, `DROVER_TEST_CASES` makes it longer.

#![allow(clippy::unwrap_used)]

mod schemas;

use drover_harness::{MySql, Release};
use drover_model::check::Outcome;
use mysql_async::prelude::Queryable;
use schemas::{described, dump, recreate, rule, server};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const TEXTS: [&str; 22] = [
    "latin1 COLLATE latin1_swedish_ci",
    "latin1 COLLATE latin1_bin",
    "latin1 COLLATE latin1_general_cs",
    "utf8mb4 COLLATE utf8mb4_general_ci",
    "utf8mb4 COLLATE utf8mb4_bin",
    "utf8mb4 COLLATE utf8mb4_unicode_520_ci",
    "utf8mb4 COLLATE utf8mb4_spanish2_ci",
    "utf8mb3 COLLATE utf8mb3_general_ci",
    "utf8mb3 COLLATE utf8mb3_unicode_ci",
    "ascii COLLATE ascii_bin",
    "ucs2 COLLATE ucs2_general_ci",
    "utf16 COLLATE utf16_bin",
    "utf16le COLLATE utf16le_general_ci",
    "utf32 COLLATE utf32_unicode_ci",
    "cp1251 COLLATE cp1251_general_ci",
    "gbk COLLATE gbk_chinese_ci",
    "sjis COLLATE sjis_japanese_ci",
    "big5 COLLATE big5_chinese_ci",
    "koi8r COLLATE koi8r_general_ci",
    "euckr COLLATE euckr_bin",
    "utf8mb4",
    "binary",
];

const WORDS: [&str; 12] =
    ["'plain'", "''", "'it''s'", "'\\\\'", "'a\\nb'", "'%_'", "'NULL'", "'\"'", "'`'", "'-- x'", "'/* y */'", "'0x41'"];

const NAMES: [&str; 14] =
    ["id", "key", "a b", "c``d", "e'f", "g\"h", "ä", "select", "i.j", "k%l", "M", "--", "/*", "\\"];

struct Column {
    name: String,
    text: String,
    kind: Kind,
    not_null: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Int,
    Other,
    Text,
    Long,
    Generated,
    Point,
}

fn column(r: &mut Random, name: String, ints: &[String]) -> Column {
    let quoted = format!("`{name}`");
    let number = r.below(1000);
    let (kind, type_text, defaults): (Kind, String, Vec<String>) = match r.below(24) {
        0..=3 => {
            let unsigned = r.of(&["", " unsigned", " unsigned zerofill"]);
            let base = r.of(&["tinyint", "smallint", "mediumint", "int", "bigint", "int(7)", "tinyint(1)"]);
            (Kind::Int, format!("{base}{unsigned}"), vec![(number % 128).to_string(), "0".into(), "'7'".into()])
        }
        4 => {
            (Kind::Other, format!("decimal({},{})", 10 + r.below(55), r.below(10)), vec!["1.5".into(), "'0.25'".into()])
        }
        5 => (
            Kind::Other,
            r.of(&["float", "double", "float(9,3)", "double(20,5)", "float unsigned"]).into(),
            vec!["1.5".into(), "1e5".into(), "0".into()],
        ),
        6 => (Kind::Other, format!("bit({})", 1 + r.below(64)), vec!["b'1'".into(), "1".into()]),
        7 => (Kind::Other, "date".into(), vec!["'2020-02-29'".into(), "'0000-00-00'".into()]),
        8 => (Kind::Other, format!("time({})", r.below(7)), vec!["'12:13:14.5'".into(), "'-838:59:59'".into()]),
        9 => {
            let digits = r.below(7);
            let digits = if digits == 0 { String::new() } else { format!("({digits})") };
            let now = format!("CURRENT_TIMESTAMP{digits}");
            (
                Kind::Other,
                format!("datetime{digits}"),
                vec!["'2001-02-03 04:05:06'".into(), now.clone(), format!("{now} ON UPDATE {now}")],
            )
        }
        10 => {
            let now = "CURRENT_TIMESTAMP";
            (
                Kind::Other,
                "timestamp".into(),
                vec!["'2001-02-03 04:05:06'".into(), now.into(), format!("{now} ON UPDATE {now}"), "0".into()],
            )
        }
        11 => (Kind::Other, "year".into(), vec!["2001".into(), "0".into()]),
        12..=14 => {
            let charset = r.of(&TEXTS.each_ref().map(|t| *t));
            let base = r.of(&["varchar", "char"]);
            (
                Kind::Text,
                format!("{base}({}) CHARACTER SET {charset}", 5 + r.below(30)),
                vec![r.of(&WORDS.each_ref().map(|t| *t)).into()],
            )
        }
        15 => {
            let charset = r.of(&TEXTS.each_ref().map(|t| *t));
            (
                Kind::Long,
                format!("{} CHARACTER SET {charset}", r.of(&["tinytext", "text", "mediumtext", "longtext"])),
                vec![],
            )
        }
        16 => (
            Kind::Text,
            format!("{}({})", r.of(&["varbinary", "binary"]), 3 + r.below(20)),
            vec!["0xff00".into(), "'x'".into(), "''".into(), "'\\0a'".into()],
        ),
        17 => (Kind::Long, r.of(&["tinyblob", "blob", "mediumblob", "longblob"]).into(), vec![]),
        18 => {
            let charset = r.of(&[
                "",
                " CHARACTER SET latin1",
                " CHARACTER SET utf8mb3 COLLATE utf8mb3_bin",
                " CHARACTER SET cp1251",
            ]);
            let base = r.of(&["enum", "set"]);
            (Kind::Other, format!("{base}('a','b''c','d\\\\e','f g'){charset}"), vec!["'a'".into(), "'b''c'".into()])
        }
        19 => (Kind::Long, "json".into(), vec![]),
        20 => (Kind::Point, r.of(&["point", "geometry", "linestring", "geometrycollection"]).into(), vec![]),
        _ if !ints.is_empty() => {
            let from = r.of(&ints.iter().map(String::as_str).collect::<Vec<_>>()).to_owned();
            let stored = r.of(&["VIRTUAL", "STORED"]);
            let expression = match r.below(4) {
                0 => format!("int GENERATED ALWAYS AS (`{from}` % 7) {stored}"),
                1 => format!(
                    "varchar(60) CHARACTER SET latin1 GENERATED ALWAYS AS (concat('x''\\\\', `{from}`, \"q\")) {stored}"
                ),
                2 => format!("bigint GENERATED ALWAYS AS (if(`{from}` > 5, 1, -1) * 3) {stored}"),
                _ => format!(
                    "tinyint(1) GENERATED ALWAYS AS (`{from}` between 1 and 3 or `{from}` is null) {stored} COMMENT 'it''s'"
                ),
            };
            return Column { text: format!("{quoted} {expression}"), name, kind: Kind::Generated, not_null: false };
        }
        _ => (Kind::Int, "int".into(), vec!["3".into()]),
    };
    let not_null = r.chance(40);
    let mut text = format!("{quoted} {type_text}{}", if not_null { " NOT NULL" } else { " NULL" });
    if !defaults.is_empty() && r.chance(60) {
        text.push_str(&format!(" DEFAULT {}", defaults[r.below(defaults.len())]));
    } else if kind != Kind::Point && r.chance(10) && type_text.starts_with("varchar") {
        text.push_str(" DEFAULT (concat('a', 'b'))");
    }
    // MariaDB wants a default for it.
    if r.chance(10) && (!not_null || text.contains(" DEFAULT ")) {
        text.push_str(" INVISIBLE");
    }
    if r.chance(15) {
        text.push_str(&format!(" COMMENT {}", r.of(&WORDS.each_ref().map(|t| *t))));
    }
    Column { text, name, kind, not_null }
}

fn table(r: &mut Random, name: &str) -> String {
    let mut columns: Vec<Column> = Vec::new();
    let count = 1 + r.below(9);
    for i in 0..count {
        let ints: Vec<String> = columns.iter().filter(|c| c.kind == Kind::Int).map(|c| c.name.clone()).collect();
        let base = r.of(&NAMES.each_ref().map(|t| *t));
        columns.push(column(r, format!("{base}{i}"), &ints));
    }
    // The older engines of MySQL lack descending indexes and those over virtual columns.
    let old_engine = r.chance(10);
    let mut lines: Vec<String> = columns.iter().map(|c| c.text.clone()).collect();
    let part = |r: &mut Random, c: &Column, key: bool| {
        let prefix = match c.kind {
            Kind::Long => format!("({})", 2 + r.below(10)),
            Kind::Text if r.chance(30) => "(3)".into(),
            _ => String::new(),
        };
        format!("`{}`{prefix}{}", c.name, if r.chance(20) && !key && !old_engine { " DESC" } else { "" })
    };
    let usable: Vec<usize> = (0..columns.len())
        .filter(|i| {
            columns[*i].kind != Kind::Point
                && (columns[*i].kind != Kind::Generated || !old_engine)
                && !columns[*i].text.contains("json")
        })
        .collect();
    let pick = |r: &mut Random, n: usize| -> Vec<usize> {
        let mut out: Vec<usize> = Vec::new();
        for _ in 0..n {
            if usable.is_empty() {
                break;
            }
            let i = usable[r.below(usable.len())];
            if !out.contains(&i) {
                out.push(i);
            }
        }
        out
    };
    let mut partitionable = None;
    if r.chance(75) {
        let n = 1 + r.below(2);
        let key = pick(r, n);
        let key: Vec<usize> = key.into_iter().filter(|i| columns[*i].kind != Kind::Generated).collect();
        if !key.is_empty() {
            let parts: Vec<String> = key.iter().map(|i| part(r, &columns[*i], true)).collect();
            lines.push(format!("PRIMARY KEY ({})", parts.join(", ")));
            partitionable = key.iter().find(|i| columns[**i].kind == Kind::Int).map(|i| columns[*i].name.clone());
        }
    }
    for k in 0..r.below(4) {
        let n = 1 + r.below(3);
        let on = pick(r, n);
        if on.is_empty() {
            continue;
        }
        let unique = if r.chance(30) && partitionable.is_none() { "UNIQUE " } else { "" };
        let parts: Vec<String> = on.iter().map(|i| part(r, &columns[*i], false)).collect();
        let comment =
            if r.chance(20) { format!(" COMMENT {}", r.of(&WORDS.each_ref().map(|t| *t))) } else { String::new() };
        lines.push(format!("{unique}KEY `k {k}` ({}){comment}", parts.join(", ")));
    }
    if let Some(c) = columns.iter().find(|c| c.kind == Kind::Point && c.not_null).filter(|_| r.chance(50)) {
        lines.push(format!("SPATIAL KEY `sp` (`{}`)", c.name));
    }
    if let Some(c) = columns
        .iter()
        .find(|c| matches!(c.kind, Kind::Text | Kind::Long) && c.text.contains("utf8mb4_"))
        .filter(|_| r.chance(40))
    {
        lines.push(format!("FULLTEXT KEY `ft` (`{}`)", c.name));
    }
    if let Some(c) = columns.iter().find(|c| c.kind == Kind::Int).filter(|_| r.chance(30)) {
        lines.push(format!(
            "CONSTRAINT `{name} check` CHECK (`{0}` >= 0 or `{0}` is null or `{0}` <> 1000 and 'it''s \\\\' <> 'x')",
            c.name
        ));
    }
    let mut options = String::new();
    if r.chance(40) {
        options.push_str(&format!(" DEFAULT CHARACTER SET {}", r.of(&TEXTS.each_ref().map(|t| *t))));
    }
    if r.chance(20) {
        options.push_str(&format!(" ROW_FORMAT={}", r.of(&["DYNAMIC", "COMPACT", "REDUNDANT", "COMPRESSED"])));
    }
    if r.chance(20) {
        options.push_str(&format!(" COMMENT={}", r.of(&WORDS.each_ref().map(|t| *t))));
    }
    if old_engine {
        options.push_str(r.of(&[" ENGINE=MyISAM", " ENGINE=MEMORY"]));
    }
    // MariaDB takes more than this, but not its own definition of it.
    let whole = columns.iter().all(|c| c.kind != Kind::Point) && !lines.iter().any(|l| l.starts_with("FULLTEXT"));
    if let Some(by) = partitionable.filter(|_| r.chance(35) && !old_engine && whole) {
        options.push_str(&match r.below(4) {
            0 => format!(" PARTITION BY HASH (`{by}`) PARTITIONS 3"),
            1 => format!(" PARTITION BY KEY (`{by}`) PARTITIONS 2"),
            2 => format!(" PARTITION BY RANGE (`{by}`) (PARTITION p0 VALUES LESS THAN (10), PARTITION `p 1` VALUES LESS THAN MAXVALUE COMMENT 'it''s')"),
            _ => format!(" PARTITION BY LIST (`{by}` % 3) (PARTITION a VALUES IN (0, 1), PARTITION b VALUES IN (2, NULL))"),
        });
    }
    format!("CREATE TABLE `{name}` (\n  {}\n){options}", lines.join(",\n  "))
}

/// A row of each table that is left to its defaults.
async fn rows(server: &MySql, database: &str, tables: &[String]) -> Vec<String> {
    let mut s = server.connect(database).await.unwrap();
    s.query_drop(
        "SET NAMES utf8mb4, SESSION sql_mode = '', SESSION time_zone = '+00:00', SESSION timestamp = 1700000000",
    )
    .await
    .unwrap();
    let mut out = Vec::new();
    for table in tables {
        let columns: Vec<String> = s
            .query(format!(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = '{database}' AND table_name = '{table}' ORDER BY ordinal_position"
            ))
            .await
            .unwrap();
        // What has no default at all (geometry) refuses.
        let inserted = s.query_drop(format!("INSERT IGNORE INTO `{table}` () VALUES ()")).await;
        let list: Vec<String> =
            columns.iter().map(|c| format!("COALESCE(HEX(`{}`), 'null')", c.replace('`', "``"))).collect();
        let row: Vec<String> =
            s.query(format!("SELECT CONCAT_WS(' ', {}) FROM `{table}`", list.join(", "))).await.unwrap();
        out.push(format!("{table}: {} {row:?}", inserted.is_ok()));
    }
    s.disconnect().await.unwrap();
    out
}

#[tokio::test]
async fn generated_schemas_arrive() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("DROVER_TEST_SEED").unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs())
    });
    let cases = number("DROVER_TEST_CASES").unwrap_or(25) as usize;
    println!("DROVER_TEST_SEED={seed}");
    let mut r = Random(seed);
    let mut servers = Vec::new();
    for release in Release::ALL {
        servers.push(server(release).await);
    }
    let (mut made, mut refused) = (0, 0);
    for from in &servers {
        let mut s = from.connect("mysql").await.unwrap();
        s.query_drop(
            "CREATE DATABASE gen CHARACTER SET utf8mb4; USE gen; SET SESSION sql_mode = 'ALLOW_INVALID_DATES'",
        )
        .await
        .unwrap();
        let mut tables: Vec<String> = Vec::new();
        for i in 0..cases {
            let name = format!("t{i}");
            let text = table(&mut r, &name);
            match s.query_drop(&text).await {
                Ok(()) => tables.push(name),
                Err(e) => {
                    refused += 1;
                    if std::env::var("DROVER_TEST_SHOW").is_ok() {
                        println!("{:?} refused: {e}\n{text}", from.release());
                    }
                }
            }
        }
        s.disconnect().await.unwrap();
        made += tables.len();
        let there = described(from, "gen").await;
        for to in &servers {
            let pair = format!("seed {seed}: {:?} to {:?}", from.release(), to.release());
            to.exec("mysql", "CREATE DATABASE IF NOT EXISTS other; DROP DATABASE other;").await.unwrap();
            let (_, chosen) = recreate(from, to, &[rule("gen.*", Some("other.*"))]).await;
            let failed: Vec<_> = chosen.items.iter().filter(|i| i.result == Outcome::Failed).collect();
            assert!(failed.is_empty(), "{pair}: {failed:#?}");
            if from.release() == to.release() {
                let (there, here) = (dump(from, "gen").await, dump(to, "other").await);
                for (t, h) in there.iter().zip(&here) {
                    assert_eq!(t, h, "{pair}");
                }
                assert_eq!(there.len(), here.len(), "{pair}");
            }
            let here = described(to, "other").await;
            for (table, columns) in &there {
                let theirs = here.get(table).unwrap_or_else(|| panic!("{pair}: {table} is missing"));
                // Another engine than the source's, which is said then, has indexes of its own kind.
                let replaced = chosen.items.iter().any(|i| {
                    let text = format!("{} {}", i.object, i.cause);
                    text.contains("ENGINE=") && text.split(' ').any(|word| word == format!("gen.{table}"))
                });
                let same = |lines: &[String]| -> Vec<String> {
                    lines.iter().map(|l| if replaced { l.replace("/A/BTREE", "//HASH") } else { l.clone() }).collect()
                };
                assert_eq!(same(columns), same(theirs), "{pair}: {table}");
            }
            let (there, here) = (rows(from, "gen", &tables).await, rows(to, "other", &tables).await);
            // Where a column has no default, the flavors differ in what they put there, or put nothing.
            for (t, h) in there.iter().zip(&here).filter(|(t, h)| !t.ends_with(" []") && !h.ends_with(" []")) {
                assert_eq!(t, h, "{pair}");
            }
            from.exec("gen", &tables.iter().map(|t| format!("DELETE FROM `{t}`;")).collect::<String>()).await.unwrap();
        }
    }
    println!("{made} tables, {refused} refused");
    assert!(made > refused, "{made} tables, {refused} refused: the generator has lost its way");
}
