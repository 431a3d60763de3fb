//! What is evaluated on changes is what the server says: for each condition the rows that the stream leaves at a destination are those that the server
//! selects, after inserts, and after updates and deletes that take rows in and out.

use crate::bench::Bench;
use drover_connectors_mysql::connect::Session;
use drover_connectors_suite::world::{Before, Change, Transaction, Val};
use drover_harness::mysql::Release;
use drover_model::{Position, TablePlan};
use mysql_async::prelude::Queryable;
use std::collections::BTreeSet;
use std::fmt::Write;

const TABLE: &str =
    "create table t (id int unsigned primary key, n bigint, u bigint unsigned, tiny tinyint(1), price decimal(20,4),
    bin varchar(20) character set utf8mb4 collate utf8mb4_bin, latin char(8) character set latin1 collate latin1_bin,
    folded text character set utf8mb4, state enum('new','done','Off') character set utf8mb4,
    day date, moment datetime(3), stamp timestamp(2) null, `odd name` int not null) default character set utf8mb4";

const VALUES: [(&str, &[&str]); 11] = [
    ("n", &["null", "0", "-1", "5", "9007199254740993", "-9223372036854775808"]),
    ("u", &["null", "0", "7", "18446744073709551615"]),
    ("tiny", &["null", "0", "1", "2"]),
    ("price", &["null", "0", "-0.0001", "1.5", "12.3400", "-9999999999999999.9999"]),
    ("bin", &["null", "''", "' '", "'a'", "'a '", "'A'", "'á'", "'b\\t'", "'it''s'"]),
    ("latin", &["null", "''", "'x'", "'X'", "'é'"]),
    ("folded", &["null", "'a'", "'A'", "'a  '", "'á'"]),
    ("state", &["null", "'new'", "'done'", "'Off'", "0"]),
    ("day", &["null", "'0000-00-00'", "'1999-12-31'", "'2024-02-29'", "'2024-02-30'", "'2024-03-00'"]),
    ("moment", &["null", "'0000-00-00'", "'2024-01-01'", "'2024-01-01 00:00:00.5'", "'2024-01-01 10:00:00'"]),
    ("stamp", &["null", "0", "'2024-01-01'", "'2024-01-01 00:00:00.25'", "'2037-12-31 23:59:59'"]),
];

const CONDITIONS: [&str; 48] = [
    "n = 5",
    "n <> 5 or u is null",
    "not n = 5",
    "n > -1 and n < 9007199254740993",
    "n in (5, 0) or n = -9223372036854775808",
    "n in ('5', '-1')",
    "n not in (5, 0)",
    "n between -1 and 5.5",
    "not (n between 0 and 5)",
    "n = 9007199254740992",
    "n = 9007199254740992.5",
    "u = 18446744073709551615",
    "u >= 18446744073709551616",
    "u < 18446744073709551614.5",
    "u > -1",
    "tiny = true",
    "tiny <> false and tiny < 2",
    "price = 1.5",
    "price = -.0001",
    "price > -0.00005",
    "price >= 12.34 or price <= -9999999999999999.9999",
    "price in (0, 1.50, 7)",
    "price between -1 and 1",
    "bin = 'a'",
    "bin <> 'a'",
    "bin in ('', 'A', 'it''s')",
    "bin not in ('a', 'b')",
    "'a' = bin",
    "bin = \"a \"",
    "latin = 'x'",
    "latin in ('', 'X')",
    "folded collate utf8mb4_bin = 'a'",
    "folded collate utf8mb4_bin in ('A', 'a ')",
    "state = 'new'",
    "state <> 'new'",
    "state in ('done', 'Off')",
    "day = '2024-02-29'",
    "day > '2024-02-29' and day < '2024-03-01'",
    "day between '1999-12-31' and '2024-12-31' or day is null",
    "not day < '2000-01-01'",
    "moment = '2024-01-01'",
    "moment > '2024-01-01 00:00:00' and moment <= '2024-01-01 00:00:00.500'",
    "moment < '2024-01-01 00:00:00.4'",
    "stamp >= '2024-01-01 00:00:00.25'",
    "stamp in ('2024-01-01', '2037-12-31 23:59:59')",
    "stamp < '2024-01-01'",
    "n is null and not (u is not null) or `odd name` >= 3 and t.n is not null",
    "(n = 5 or n is null) and (price < 1.5 or d.t.price is null)",
];

struct Random(u64);
impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
    fn value(&mut self, column: usize) -> &'static str {
        let values = VALUES[column].1;
        values[self.below(values.len())]
    }
}

fn id(row: &[Val]) -> u32 {
    match &row[0] {
        Val::Known(Some(text)) => text.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What a destination holds after these transactions.
fn apply(rows: &mut BTreeSet<u32>, transactions: &[Transaction], what: &str) {
    for change in transactions.iter().flat_map(|t| &t.changes) {
        let old = |old: &Before| match old {
            Before::Full(row) => id(row),
            other => panic!("{other:?}"),
        };
        match change {
            Change::Insert { new, .. } => assert!(rows.insert(id(new)), "{what}: {change:?}"),
            Change::Delete { old: row, .. } => assert!(rows.remove(&old(row)), "{what}: {change:?}"),
            Change::Update { old: row, new, .. } => {
                assert!(rows.remove(&old(row)) && rows.insert(id(new)), "{what}: {change:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Applies what the stream gives of a condition to the rows so far, and compares with what the server selects now.
async fn agree(
    bench: &mut Bench,
    plan: &TablePlan,
    session: &mut Session,
    condition: &str,
    (from, to): (&Position, &Position),
    mut rows: BTreeSet<u32>,
) -> BTreeSet<u32> {
    let what = format!("{:?} {condition}", bench.server.release());
    bench.plans = vec![TablePlan { filter: Some(condition.into()), ..plan.clone() }];
    let mut follower = bench.follow(from).await;
    apply(&mut rows, &follower.until(to).await.unwrap(), &what);
    let sql = format!("select id from d.t where ({condition}\n)");
    let selected: Vec<u32> = session.query(&sql).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(rows, selected.into_iter().collect(), "{what}");
    rows
}

#[tokio::test]
async fn the_same_rows_as_the_server_selects() {
    for release in [Release::MySql9, Release::MariaDb11] {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let plan = bench.plan("t").clone();
        let mut session = bench.dialer.session("test").await.unwrap();
        let from = bench.here().await;
        let mut random = Random(7);
        let mut sql = String::from("insert into t values ");
        for id in 0..400 {
            write!(sql, "{}({id}", if id == 0 { "" } else { ", " }).unwrap();
            (0..VALUES.len()).for_each(|c| write!(sql, ", {}", random.value(c)).unwrap());
            write!(sql, ", {})", random.below(5)).unwrap();
        }
        bench.run(&sql).await;
        let middle = bench.here().await;
        let mut then = Vec::new();
        for condition in CONDITIONS {
            then.push(agree(&mut bench, &plan, &mut session, condition, (&from, &middle), BTreeSet::new()).await);
        }
        for i in 0..200 {
            let (id, column) = (random.below(400), random.below(VALUES.len()));
            let (name, value) = (VALUES[column].0, random.value(column));
            bench.run(&format!("update t set {name} = {value}, `odd name` = {} where id = {id}", i % 5)).await;
            match i % 20 {
                0 => bench.run(&format!("delete from t where id = {}", random.below(400))).await,
                1 => bench.run(&format!("update t set id = {} where id = {}", 1000 + i, random.below(400))).await,
                _ => {}
            }
        }
        let mark = bench.here().await;
        let mut decided = 0;
        for (condition, rows) in CONDITIONS.iter().zip(then) {
            let rows = agree(&mut bench, &plan, &mut session, condition, (&middle, &mark), rows).await;
            decided += usize::from(!rows.is_empty() && rows.len() < 300);
        }
        assert!(decided > 35, "{decided} conditions chose");
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_refused() {
    let mut bench = Bench::new(Release::MySql9, TABLE, &[]).await;
    let plan = bench.plan("t").clone();
    let from = bench.here().await;
    for (condition, remedy) in [("folded = 'a'", "COLLATE"), ("n + 1 = 2", "IN"), ("day is null or rand() < 1", "IN")] {
        bench.plans = vec![TablePlan { filter: Some(condition.into()), ..plan.clone() }];
        let error = bench.open(&from).await.err().unwrap();
        assert_eq!(error.code, drover_model::error::codes::UNSUPPORTED, "{condition}");
        assert!(error.remedy.as_ref().is_some_and(|r| r.contains(remedy)), "{error:?}");
    }
    // Images that lack what the condition is about.
    bench.plans = vec![TablePlan { filter: Some("n > 0".into()), ..plan }];
    let mut follower = bench.follow(&from).await;
    bench.run("insert into t (id, n, `odd name`) values (1, 1, 1); set session binlog_row_image = minimal; update t set tiny = 1").await;
    let (_, error) = bench.end(&mut follower).await;
    assert!(error.code == drover_model::error::codes::UNSUPPORTED && error.message.contains("condition"), "{error:?}");
}
