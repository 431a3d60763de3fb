//! What is read, what is refused, and how values compare. That servers say the same is shown by `tests/conditions.rs`.

use super::*;
use crate::condition::operand::moments;
use drover_model::plan::{PlanColumn, RowFormat};
use drover_model::schema::{DataType, TableName};

const COLUMNS: [(&str, &str, Option<&str>); 9] = [
    ("id", "bigint unsigned", None),
    ("price", "decimal(20,4)", None),
    ("Name", "varchar(40) character set utf8mb4", Some("utf8mb4_bin")),
    ("folded", "varchar(40) character set utf8mb4", Some("utf8mb4_0900_ai_ci")),
    ("exact", "varchar(40) character set utf8mb4", Some("utf8mb4_0900_bin")),
    ("state", "enum('new','done','Ä') character set utf8mb4", Some("utf8mb4_0900_ai_ci")),
    ("day", "date", None),
    ("at", "datetime(3)", None),
    ("ratio", "double", None),
];

fn plan() -> (TablePlan, Vec<Detail>) {
    let column = |(i, (name, of, _)): (usize, &(&str, &str, Option<&str>))| PlanColumn {
        ordinal: Some(i as u16),
        ..PlanColumn::new(*name, DataType::Other, *of)
    };
    let columns = COLUMNS.iter().enumerate().map(column).collect();
    let plan = TablePlan {
        key: vec![0],
        format: RowFormat::Native(crate::CELLS.into()),
        ..TablePlan::new(1, TableName::new("app", "t"), columns)
    };
    // `at` can be null, `day` cannot.
    let detail = |c: &(&str, &str, Option<&str>)| Detail { collation: c.2.map(str::to_owned), nullable: c.0 != "day" };
    (plan, COLUMNS.iter().map(detail).collect())
}

fn parse(text: &str) -> Result<Condition, Refusal> {
    let (plan, details) = plan();
    Condition::parse(text, &plan, &details)
}

/// What a condition says of a row, of which some columns are given and the others are null.
fn holds(text: &str, row: &[(&str, &str)]) -> bool {
    let condition = parse(text).unwrap_or_else(|r| panic!("{text}: {r:?}"));
    let read: Vec<usize> = condition.columns().collect();
    condition.holds(|n| row.iter().find(|(name, _)| *name == COLUMNS[read[n]].0).map(|(_, v)| v.as_bytes()))
}

#[test]
fn numbers_and_what_is_unknown() {
    assert!(holds("id > 100", &[("id", "101")]) && !holds("id > 100", &[("id", "100")]));
    assert!(holds("100 < id AND `t`.`ID` <= 18446744073709551615", &[("id", "18446744073709551615")]));
    assert!(holds("price = 1.50", &[("price", "1.5000")]) && holds("price > -.5", &[("price", "0.0000")]));
    assert!(holds("price between -2 and -1", &[("price", "-1.5000")]));
    assert!(holds("not price between -2 and -1", &[("price", "-0.5000")]));
    assert!(holds("id in ('1', '22')", &[("id", "22")]) && !holds("id not in (1, 22)", &[("id", "22")]));
    assert!(holds("price = 0", &[("price", "-0.0000")]));
    // Null is neither in nor out of anything.
    assert!(
        !holds("id = 1", &[]) && !holds("not id = 1", &[]) && !holds("id in (1)", &[]) && !holds("id not in (1)", &[])
    );
    assert!(holds("id = 1 or price is null", &[]) && !holds("id = 1 and price is null", &[]));
    assert!(!holds("not (id = 1 and price is null)", &[]) && holds("id is null and at is null", &[]));
    assert!(holds("id = true and id <> +2", &[("id", "1")]));
}

#[test]
fn texts_labels_and_moments() {
    assert!(holds("name = 'a'", &[("Name", "a  ")]) && !holds("name = 'a'", &[("Name", "A")]));
    assert!(holds("name in ('a', 'b ')", &[("Name", "b")]) && holds("name <> 'a'", &[("Name", "á")]));
    assert!(!holds("exact = 'a'", &[("exact", "a ")]) && holds("exact = 'it''s'", &[("exact", "it's")]));
    assert!(holds("folded collate utf8mb4_bin = 'a'", &[("folded", "a")]));
    assert!(!holds("folded collate utf8mb4_bin = 'a'", &[("folded", "A")]));
    assert!(holds("state in ('new', 'Ä')", &[("state", "Ä")]) && !holds("state = 'new'", &[("state", "")]));
    assert!(
        holds("day < '2024-03-01'", &[("day", "0000-00-00")]) && holds("day = '2024-02-29'", &[("day", "2024-02-29")])
    );
    assert!(holds("at >= '2024-01-01'", &[("at", "2024-01-01 00:00:00.000")]));
    assert!(holds("at > '2024-01-01'", &[("at", "2024-01-01 00:00:00.001")]));
    assert!(holds("at = '2024-01-01 10:00:00.5'", &[("at", "2024-01-01 10:00:00.500")]));
    assert!(moments(b"2024-01-01", b"2024-01-01 00:00:00.000").is_eq());
    assert!(moments(b"2024-01-01", b"2024-01-01 00:00:00.001").is_lt());
    assert!(moments(b"2024-01-01 00:00:00+00", b"2024-01-01").is_eq());
    assert!(moments(b"2024-01-01 00:00:00.5+00", b"2024-01-01 00:00:00").is_gt());
}

#[test]
fn what_cannot_be_told_exactly_is_refused() {
    for text in [
        "folded = 'a'",
        "name < 'b'",
        "name = 'ä'",
        "name = 1",
        "name like 'a%'",
        "price = '1.5'",
        "price = 1.5e0",
        "id = '1.0'",
        "id = '01'",
        "id = '9007199254740992'",
        "id in (1, '2')",
        "ratio > 1",
        "state = 'NEW'",
        "state = 1",
        "day = '2024-2-9'",
        "day = '2023-02-29'",
        "day = '2024-02-29 10:00:00'",
        "day is null",
        "at = '2024-01-01 10:00:00.1234'",
        "at = 20240101",
        "id = price",
        "id + 1 = 2",
        "id = 1 = 1",
        "id <=> 1",
        "id = null",
        "id in (1, null)",
        "id",
        "other.id = 1",
        "gone = 1",
        "abs(id) = 1",
        "id = 1 -- all",
        "id = 1 /*! or 1 */",
        r"name = 'a\'",
        "name = x'61'",
        "name = _utf8mb4'a'",
        "binary name = 'a'",
        "id = 1 || id = 2",
        "id = 1 xor id = 2",
        "! id = 1",
        "id = 1)",
        "id = 1 or 1",
        "day = current_date",
        "exists (select 1)",
        "id in (select 1)",
        "id = 1; drop table t",
        "",
    ] {
        assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
    }
    let deep = format!("{}id = 1{}", "(".repeat(2000), ")".repeat(2000));
    assert!(parse(&deep).is_err());
    assert!(parse("folded = 'a'").unwrap_err().remedy.contains("COLLATE"));
}
