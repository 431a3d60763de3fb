//! Chunks of odd keys: together they hold every row once, on every server; and they are of about the wanted size.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod reading;

use drover_connectors_api::ChunkReader;
use drover_connectors_mysql::reader::Reader;
use drover_harness::Release;
use drover_model::TablePlan;
use drover_model::chunk::Bounds;
use mysql_async::prelude::Queryable;
use reading::{DATABASE, Place, Row, chunk};
use std::collections::BTreeMap;

/// Rows of each table.
const ROWS: usize = 3000;

/// A table: its definition, and an expression of each column but the filler over `n`, a number from 0.
struct Odd {
    name: &'static str,
    columns: &'static str,
    values: &'static str,
    /// More rows than this in one chunk are too many; there may be equal leading values.
    most: usize,
}

fn odd(name: &'static str, columns: &'static str, values: &'static str) -> Odd {
    Odd { name, columns, values, most: ROWS / 3 }
}

fn tables(release: Release) -> Vec<Odd> {
    let mut all = vec![
        odd("dense", "k int PRIMARY KEY", "n - 1500"),
        odd("sparse", "k bigint PRIMARY KEY", "n * n * n * 97 - 40000000000"),
        odd("huge", "k bigint unsigned PRIMARY KEY", "18446744073709551615 - n * 3000000000000"),
        odd("skewed", "k bigint PRIMARY KEY", "IF(n = 2999, 9223372036854775807, n)"),
        odd("twins", "a int, b int, PRIMARY KEY (a, b)", "n DIV 100, n MOD 100"),
        odd(
            "mixed",
            "a varchar(20) COLLATE utf8mb4_general_ci, b int, c date, PRIMARY KEY (a, b, c)",
            "CONCAT(IF(n MOD 2, 'Key', 'kEy'), n DIV 20), -n, DATE_ADD('2000-01-01', INTERVAL n DAY)",
        ),
        odd(
            "words",
            "k varchar(80) COLLATE utf8mb4_general_ci PRIMARY KEY",
            "CONCAT(IF(n MOD 2, 'a', 'B'), SHA2(n, 256))",
        ),
        odd(
            "accents",
            "k varchar(40) CHARACTER SET latin1 COLLATE latin1_swedish_ci PRIMARY KEY",
            "CONCAT(ELT(1 + n MOD 4, 'ä', 'b', 'Ö', 'z'), LPAD(n, 6, '0'))",
        ),
        odd(
            "unicode",
            "k varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY",
            "CONCAT(ELT(1 + n MOD 4, 'Ж', '語', '😀', 'z'), n)",
        ),
        odd(
            "wide",
            "k varchar(40) CHARACTER SET utf16 COLLATE utf16_general_ci PRIMARY KEY",
            "CONCAT('w', LPAD(n, 8, '0'))",
        ),
        odd("padded", "k char(20) PRIMARY KEY", "CONCAT('p ', n)"),
        odd("binary16", "k binary(16) PRIMARY KEY", "UNHEX(LEFT(SHA2(n, 256), 32))"),
        odd("bytes", "k varbinary(30) PRIMARY KEY", "CONCAT(CHAR(n MOD 256), UNHEX(LPAD(HEX(n), 6, '0')))"),
        odd("money", "k decimal(20,4) PRIMARY KEY", "n * 1234567.1234 - 1000000000"),
        odd(
            "moments",
            "k datetime(6) PRIMARY KEY",
            "TIMESTAMPADD(MICROSECOND, n * 86399999999, '1999-12-31 23:59:59')",
        ),
        odd("days", "k date PRIMARY KEY", "DATE_ADD('1970-01-01', INTERVAL n * 7 DAY)"),
        odd("stamps", "k timestamp PRIMARY KEY", "TIMESTAMPADD(MINUTE, n * 777, '2001-01-01')"),
        odd("times", "k time PRIMARY KEY", "SEC_TO_TIME(n * 900 - 1500000)"),
        odd("bits", "k bit(40) PRIMARY KEY", "n * 300000000"),
        odd("labels", "k enum('z','y','a','m','b') CHARACTER SET latin1, n int, PRIMARY KEY (k, n)", "1 + n MOD 5, n"),
        odd("unique_only", "k int NOT NULL, UNIQUE KEY (k)", "n * 5"),
    ];
    all.push(Odd { most: ROWS, ..odd("floats", "k double PRIMARY KEY", "n / 7") });
    // Its index is no key that identifies rows to drover.
    all.push(Odd {
        most: ROWS,
        ..odd("prefixed", "k varchar(200), PRIMARY KEY (k(12))", "CONCAT(LPAD(n, 12, '0'), ' tail')")
    });
    all.push(Odd { most: ROWS, ..odd("loose", "k int", "n MOD 10") });
    all.push(Odd {
        most: ROWS,
        ..odd("sets", "k set('a','b','c','d','e','f','g','h','i','j','k','l') PRIMARY KEY", "n")
    });
    if release.is_mariadb() {
        all.push(odd(
            "uuids",
            "k uuid PRIMARY KEY",
            "CAST(CONCAT(SUBSTR(SHA2(n, 256), 1, 12), '4', SUBSTR(SHA2(n, 256), 14, 3), 'a', SUBSTR(SHA2(n, 256), 18, 15)) AS uuid)",
        ));
        all.push(odd("addresses", "k inet6 PRIMARY KEY", "CONCAT('2001:db8::', HEX(n))"));
    } else {
        all.push(odd(
            "new_words",
            "k varchar(80) COLLATE utf8mb4_0900_ai_ci PRIMARY KEY",
            "CONCAT(IF(n MOD 2, 'a', 'B'), SHA2(n, 256))",
        ));
    }
    all
}

/// Tables whose keys can be cut without going through them.
const GUESSED: [&str; 14] = [
    "dense",
    "sparse",
    "huge",
    "skewed",
    "twins",
    "words",
    "new_words",
    "padded",
    "binary16",
    "money",
    "moments",
    "days",
    "times",
    "bits",
];

/// Steps that the server has made along its indexes so far.
async fn steps(place: &Place) -> u64 {
    let sql = "SHOW GLOBAL STATUS LIKE 'Handler_read_next'";
    let row: Option<(String, String)> = place.server.connect(DATABASE).await.unwrap().query_first(sql).await.unwrap();
    row.unwrap().1.parse().unwrap()
}

/// What a table has, from the server itself: keys as texts, with the count of each row.
fn counted(rows: impl IntoIterator<Item = Row>) -> BTreeMap<Row, usize> {
    let mut out = BTreeMap::new();
    rows.into_iter().for_each(|row| *out.entry(row).or_insert(0) += 1);
    out
}

async fn all_chunks(reader: &mut Reader, plan: &TablePlan, target: u64) -> (Vec<usize>, Vec<Row>) {
    let chunks = reader.plan(plan, target, true).await.unwrap();
    assert!(chunks.iter().enumerate().all(|(i, c)| c.number as usize == i));
    let (mut sizes, mut rows) = (Vec::new(), Vec::new());
    for c in &chunks {
        assert!(plan.key.is_empty() || c.bounds.outlives_snapshot());
        let found =
            chunk(reader, plan, &c.bounds).await.unwrap_or_else(|e| panic!("{}: {:?}: {e}", plan.source, c.bounds));
        sizes.push(found.len());
        rows.extend(found);
    }
    (sizes, rows)
}

async fn odd_keys(release: Release) {
    let place = Place::start(release, &[]).await;
    place.exec("CREATE TABLE numbers (n int PRIMARY KEY);").await;
    let list: Vec<String> = (0..ROWS).map(|n| format!("({n})")).collect();
    place.exec(&format!("INSERT INTO numbers VALUES {};", list.join(","))).await;
    let tables = tables(release);
    for t in &tables {
        place
            .exec(&format!("CREATE TABLE {} ({}, filler varchar(200)) CHARACTER SET utf8mb4;", t.name, t.columns))
            .await;
        place.exec(&format!("INSERT INTO {} SELECT {}, REPEAT('x', 150) FROM numbers;", t.name, t.values)).await;
    }
    let set = place.take(1).await;
    let hold = set.hold();
    let mut reader = Reader::open(&hold.snapshot()).await.unwrap();
    for t in &tables {
        let plan = place.plan(t.name).await;
        let whole = chunk(&mut reader, &plan, &Bounds::Whole).await.unwrap();
        assert_eq!(whole.len(), ROWS, "{}", t.name);
        // 64 KiB are some 350 rows; the server's own unit of allocation is not much smaller.
        let before = steps(&place).await;
        reader.plan(&plan, 64 << 10, true).await.unwrap();
        let steps = steps(&place).await - before;
        // Planning does not go through the table where its cuts can be guessed.
        assert!(!GUESSED.contains(&t.name) || steps < ROWS as u64 / 2, "{}: {steps} steps along an index", t.name);
        let (sizes, rows) = all_chunks(&mut reader, &plan, 64 << 10).await;
        println!("{release:?} {} {sizes:?}", t.name);
        assert_eq!(counted(rows), counted(whole), "{}: the chunks are not the table", t.name);
        assert!(*sizes.iter().max().unwrap() <= t.most, "{}: {sizes:?}", t.name);
        assert!(t.most == ROWS || sizes.len() > 3, "{}: {sizes:?}", t.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_keys_on_mysql() {
    odd_keys(Release::MySql9).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_keys_on_mariadb_10() {
    odd_keys(Release::MariaDb10).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_keys_on_mariadb_11() {
    odd_keys(Release::MariaDb11).await;
}

/// Tables that are odd otherwise: in parts, with generated columns, with names that need quoting, and with a condition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_tables() {
    for release in Release::ALL {
        let place = Place::start(release, &[]).await;
        place.exec("CREATE TABLE numbers (n int PRIMARY KEY);").await;
        let list: Vec<String> = (0..ROWS).map(|n| format!("({n})")).collect();
        place.exec(&format!("INSERT INTO numbers VALUES {};", list.join(","))).await;
        let definitions = [
            (
                "parts",
                "id int, v varchar(200), PRIMARY KEY (id)",
                "PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (100), PARTITION p1 VALUES LESS THAN (2000), PARTITION p2 VALUES LESS THAN MAXVALUE)",
                "id, v",
            ),
            (
                "hashed",
                "a varchar(40), b int, v varchar(200), PRIMARY KEY (a, b)",
                "PARTITION BY KEY (a) PARTITIONS 4",
                "a, b, v",
            ),
            (
                "made",
                "id int PRIMARY KEY, twice bigint AS (id * 2) STORED, thrice bigint AS (id * 3) VIRTUAL, v varchar(200)",
                "",
                "id, v",
            ),
            ("o`dd %_ näme", "`i``d %` int PRIMARY KEY, `'v\"` varchar(200)", "", "`i``d %`, `'v\"`"),
        ];
        for (name, columns, options, inserted) in definitions {
            let quoted = drover_connectors_mysql::sql::name(name);
            place.exec(&format!("CREATE TABLE {quoted} ({columns}) CHARACTER SET utf8mb4 {options};")).await;
            let values =
                if name == "hashed" { "CONCAT('key', n MOD 50), n, REPEAT('x', 150)" } else { "n, REPEAT('x', 150)" };
            place.exec(&format!("INSERT INTO {quoted} ({inserted}) SELECT {values} FROM numbers;")).await;
        }
        // The files of such a name are not found on MariaDB; its statistics then are what there is.
        place.exec("ANALYZE TABLE `o``dd %_ näme`;").await;
        let set = place.take(1).await;
        let hold = set.hold();
        let mut reader = Reader::open(&hold.snapshot()).await.unwrap();
        for (name, ..) in definitions {
            let plan = place.plan(name).await;
            assert!(plan.columns.len() < 4, "generated columns do not move");
            let whole = chunk(&mut reader, &plan, &Bounds::Whole).await.unwrap();
            assert_eq!(whole.len(), ROWS);
            let (sizes, rows) = all_chunks(&mut reader, &plan, 64 << 10).await;
            assert!(sizes.len() > 3, "{release:?} {name}: {sizes:?}");
            assert_eq!(counted(rows), counted(whole), "{release:?} {name}: the chunks are not the table");
        }
        // Only rows that satisfy the condition; it may be anything, a comment at its end too.
        let plan = place.plan("made").await;
        let some = TablePlan { filter: Some("id MOD 3 = 0 OR id = 1 -- why not".into()), ..plan };
        let (_, rows) = all_chunks(&mut reader, &some, 64 << 10).await;
        assert_eq!(rows.len(), ROWS / 3 + 1);
    }
}
