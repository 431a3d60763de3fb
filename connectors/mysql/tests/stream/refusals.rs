//! What cannot be followed ends the stream by name, after everything before it.

use crate::bench::{Bench, inserted, val};
use drover_connectors_suite::world::{Before, Change, Val};
use drover_harness::mysql::Release;
use drover_model::error::codes;

const TABLE: &str = "create table t (id int primary key, a varchar(20), b text, c int default 5); create table other (id int primary key, a int)";

async fn ends(bench: &mut Bench, sql: &str, code: &str, says: &str) {
    bench.sql = bench.server.connect("d").await.unwrap();
    bench.run(&format!("drop table if exists t, u, other; {TABLE}")).await;
    bench.plan_again().await;
    bench.plans.retain(|p| p.source.name == "t");
    let release = bench.server.release();
    let from = bench.here().await;
    let mut follower = bench.follow(&from).await;
    bench.run("insert into t values (1, 'a', 'b', 1)").await;
    bench.run(sql).await;
    let (before, error) = bench.end(&mut follower).await;
    assert_eq!(inserted(&before), [vec![1]], "{release:?}, {sql}");
    assert_eq!(error.code, code, "{release:?}, {sql}: {error}");
    assert!(error.to_string().contains(says), "{release:?}, {sql}: {error}");
    assert!(error.message.contains("binlog.00000"), "{error}");
    // It stays so.
    assert_eq!(follower.stream.next().await.unwrap_err().code, code);
}

#[tokio::test]
async fn what_ends_a_stream() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, "", &[]).await;
        for sql in [
            "alter table t add column d int",
            "ALTER TABLE `d`.`t` DROP COLUMN `c`",
            "rename table t to u",
            "drop table t",
            "alter table t modify c bigint, add index (c)",
        ] {
            ends(&mut bench, sql, codes::TABLE_CHANGED, "d.t").await;
        }
        // Rows in statement form.
        for sql in ["update t set c = c + 1", "insert into t select id + 10, a, b, c from t", "delete from d.t"] {
            ends(&mut bench, &format!("set binlog_format = statement; {sql}"), codes::UNSUPPORTED, sql).await;
        }
        // A function that may change any table.
        let called = "create function f() returns int deterministic begin insert into t values (77, 'x', '', 1); return 1; end; \
                      set binlog_format = statement; do f()";
        let called = if release == Release::MySql9 {
            called.replace("do f()", "set @a = 1; select f() into @a")
        } else {
            called.to_owned()
        };
        ends(&mut bench, &called, codes::UNSUPPORTED, "f").await;
        // Columns that take their default.
        let partial = "set binlog_row_image = 'MINIMAL'; insert into t (id) values (7)";
        ends(&mut bench, partial, codes::UNSUPPORTED, "binlog_row_image").await;
        ends(&mut bench, "drop database d; create database d", codes::TABLE_CHANGED, "DROP DATABASE").await;
    }
}

/// What concerns other tables, or leaves columns and rows alone, does not disturb.
#[tokio::test]
async fn harmless_statements() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        bench.plans.retain(|p| p.source.name == "t");
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        let mut id = 0;
        for sql in [
            "alter table other add column z int, drop column a",
            "drop table other",
            "alter table t add index i (c)",
            "alter table t comment = 'drop column a'",
            "drop index i on t",
            "create table u like t",
            "alter table u rename to v",
            "create view w as select * from t",
            "create trigger tr before insert on v for each row set new.c = 1",
            "create temporary table t (x int); insert into t values (1); drop temporary table t",
            "analyze table t",
            "alter table t force",
            "create user somebody",
            "set binlog_format = statement; insert into v values (1, 'update t set', '', 1); set binlog_format = row",
            "create procedure p() begin insert into t values (1000, 'a', 'b', 1); end",
        ] {
            bench.run(sql).await;
            id += 1;
            bench.run(&format!("insert into d.t values ({id}, 'a', 'b', 1)")).await;
        }
        let found = bench.changes(&mut follower).await;
        assert_eq!(inserted(&found), (1..=id).map(|i| vec![i]).collect::<Vec<_>>(), "{release:?}");
    }
}

/// Images that lack columns: what is not there is unknown, and what is needed is refused.
#[tokio::test]
async fn minimal_images() {
    for release in Release::ALL {
        let mut bench = Bench::new(release, TABLE, &[]).await;
        let table = bench.plan("t").id;
        let from = bench.here().await;
        let mut follower = bench.follow(&from).await;
        bench.run("insert into t values (1, 'a', 'b', 1), (2, 'a', null, 2)").await;
        bench.run("set binlog_row_image = 'MINIMAL'").await;
        bench
            .run("update t set a = 'z' where id = 1; update t set id = 3 where id = 2; delete from t where id = 3")
            .await;
        bench.run("set binlog_row_image = 'NOBLOB'").await;
        bench.run("update t set a = 'y' where id = 1; update t set b = 'n' where id = 1").await;
        let found = bench.changes(&mut follower).await;
        let changes: Vec<Change> = found[1..].iter().flat_map(|t| t.changes.clone()).collect();
        let key = |id: &str| Before::Key(vec![val(id)]);
        let update = |old: Before, new: Vec<Val>| Change::Update { table, old, new };
        let unknown = || Val::Unknown;
        assert_eq!(
            changes,
            [
                update(key("1"), vec![val("1"), val("z"), unknown(), unknown()]),
                update(key("2"), vec![val("3"), unknown(), unknown(), unknown()]),
                Change::Delete { table, old: key("3") },
                update(key("1"), vec![val("1"), val("y"), unknown(), val("1")]),
                update(key("1"), vec![val("1"), val("y"), val("n"), val("1")]),
            ],
            "{release:?}"
        );
    }
}

/// A partial update of a document is of no use without the document.
#[tokio::test]
async fn differences_without_a_document() {
    let mut bench = Bench::new(Release::MySql9, "create table t (id int primary key, d json)", &[]).await;
    let from = bench.here().await;
    let mut follower = bench.follow(&from).await;
    bench.run("insert into t values (1, concat('{\"a\": 1, \"b\": \"', repeat('x', 100), '\"}'))").await;
    bench.run("set binlog_row_image = 'MINIMAL', binlog_row_value_options = 'PARTIAL_JSON'; update t set d = json_set(d, '$.a', 2)").await;
    let (before, error) = bench.end(&mut follower).await;
    assert_eq!(before.len(), 1);
    assert!(error.code == codes::UNSUPPORTED && error.message.contains("JSON"), "{error}");
}

#[tokio::test]
async fn plans_that_cannot_be_followed() {
    let mut bench =
        Bench::new(Release::MariaDb10, "create table t (id int primary key, a varchar(20) character set ujis)", &[])
            .await;
    let from = bench.here().await;
    bench.plans[0].filter = Some("id + 1 > 5".into());
    let error = bench.open(&from).await.err().unwrap();
    assert!(error.code == codes::UNSUPPORTED && error.table.as_deref() == Some("d.t"), "{error}");
    bench.plans[0].filter = None;
    bench.plans[0].format = drover_model::plan::RowFormat::Canonical;
    let error = bench.open(&from).await.err().unwrap();
    assert!(error.code == codes::UNSUPPORTED && error.message.contains("ujis"), "{error}");
}

/// A column that changed places is found by its name in the log, and by the plan where the log has none.
#[tokio::test]
async fn left_out_columns_without_metadata() {
    for release in [Release::MySql9, Release::MariaDb10] {
        let metadata = if release == Release::MySql9 { "MINIMAL" } else { "NO_LOG" };
        let ddl = "create table t (g int generated always as (id + 1) virtual, id int primary key, x varchar(5), y varchar(5))";
        let mut bench = Bench::new(release, ddl, &[("binlog-row-metadata", metadata)]).await;
        assert_eq!(bench.plans[0].left_out, ["g"]);
        let from = bench.here().await;
        bench.run("insert into t (id, x, y) values (1, 'x', 'y')").await;
        for ordinals in [true, false] {
            if !ordinals {
                bench.plans[0].columns.iter_mut().for_each(|c| c.ordinal = None);
            }
            let mut follower = bench.follow(&from).await;
            let found = bench.changes(&mut follower).await;
            assert_eq!(
                found[0].changes,
                [Change::Insert { table: 0, new: vec![val("1"), val("x"), val("y")] }],
                "{release:?}"
            );
        }
    }
}

/// Names that statements write in other ways than the catalogue.
#[tokio::test]
async fn names_however_they_are_written() {
    for release in [Release::MySql9, Release::MariaDb10] {
        for (setting, sql) in [
            ("set sql_mode = 'ANSI_QUOTES'", "alter table \"Größer`\" drop column \"c\""),
            ("set names latin1", "alter table `Gr\u{f6}\u{df}er```  drop column c"),
            ("set @a = 1", "alter /* x */ table d . `Größer``` -- y\n drop column c"),
            ("set @a = 1", "/*!40000 alter table */ `Größer``` drop column c"),
        ] {
            let mut bench = Bench::new(release, "create table `Größer``` (id int primary key, c int)", &[]).await;
            let from = bench.here().await;
            let mut follower = bench.follow(&from).await;
            bench.run(setting).await;
            let bytes: Vec<u8> = if setting.contains("latin1") {
                sql.chars().map(|c| c as u8).collect()
            } else {
                sql.as_bytes().to_vec()
            };
            mysql_async::prelude::Queryable::query_drop(&mut bench.sql, bytes).await.unwrap();
            let (_, error) = bench.end(&mut follower).await;
            assert_eq!(error.code, codes::TABLE_CHANGED, "{release:?} {sql}: {error}");
            assert_eq!(error.table.as_deref(), Some("d.Größer`"));
        }
    }
    // A server that knows no case.
    let mut bench = Bench::new(
        Release::MariaDb10,
        "create table Folded (id int primary key, c int)",
        &[("lower-case-table-names", "1")],
    )
    .await;
    let from = bench.here().await;
    let mut follower = bench.follow(&from).await;
    bench.run("insert into FOLDED values (1, 1); alter table D.fOLDED drop column c").await;
    let (before, error) = bench.end(&mut follower).await;
    assert_eq!(before.len(), 1);
    assert_eq!(error.code, codes::TABLE_CHANGED, "{error}");
}
