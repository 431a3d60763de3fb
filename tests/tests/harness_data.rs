//! The harness's judges, on every engine: the workload keeps its invariant, whoever checks it sees it broken, and the comparison finds
//! what was planted.

use std::time::Duration;

use anyhow::{Result, ensure};
use drover_tests::server::Session;
use drover_tests::{Dialect, Engine, Observer, Pair, Release, Server, chinook, compare, scene, schemas, workload};

const SOON: Duration = Duration::from_secs(60);
const POSTGRES: Engine = Engine::Postgres(15);
const MYSQL: Engine = Engine::MySql(Release::MySql9);
const MARIADB_10: Engine = Engine::MySql(Release::MariaDb10);
const MARIADB_11: Engine = Engine::MySql(Release::MariaDb11);

async fn two(from: Engine, to: Engine) -> Result<(Server, Server, Session, Session)> {
    let (source, destination) = tokio::try_join!(Server::start(from, &[]), Server::start(to, &[]))?;
    let sessions = tokio::try_join!(source.connect("drover"), destination.connect("drover"))?;
    Ok((source, destination, sessions.0, sessions.1))
}

/// How many rows of `t` are missing and too many after `sql` at the destination; `undo` makes the sides equal again.
async fn counts(from: &mut Session, to: &mut Session, sql: &str, undo: &str) -> Result<(u64, u64)> {
    to.run(sql).await?;
    let found = compare::tables(from, to, &[("t", "t")]).await?;
    to.run(undo).await?;
    compare::expect_equal(from, to).await?;
    ensure!(found.len() == 1 && !found[0].examples.is_empty(), "{found:?}");
    Ok((found[0].missing, found[0].extra))
}

#[tokio::test]
async fn compare_finds_planted_differences_in_each_direction() -> Result<()> {
    let (_source, _destination, mut from, mut to) = two(POSTGRES, Engine::Postgres(17)).await?;
    let (from, to) = (&mut from, &mut to);
    let create = "CREATE TABLE t (id int, v text); CREATE TABLE \"Odd Name\" (\"a b\" int);
        INSERT INTO t SELECT i, E'x\\ty\\\\\\n' || chr(1 + i % 300) FROM generate_series(1, 5000) i;
        INSERT INTO t SELECT 0, NULL FROM generate_series(1, 3);";
    from.run(create).await?;
    to.run(create).await?;
    compare::expect_equal(from, to).await?;
    compare::same_structure(from, to).await?;
    // Another order of rows and of columns is no difference.
    to.run("DELETE FROM t WHERE id < 100; ALTER TABLE t RENAME v TO w; ALTER TABLE t ADD v text; UPDATE t SET v = w; ALTER TABLE t DROP w").await?;
    to.run("INSERT INTO t (v, id) SELECT E'x\\ty\\\\\\n' || chr(1 + i % 300), i FROM generate_series(1, 99) i; INSERT INTO t SELECT 0 FROM generate_series(1, 3)").await?;
    compare::expect_equal(from, to).await?;

    for (sql, undo, expected) in [
        ("INSERT INTO t VALUES (6000, 'z')", "DELETE FROM t WHERE id = 6000", (0, 1)),
        ("INSERT INTO t VALUES (0, NULL)", "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE id = 0)", (0, 1)),
        ("UPDATE t SET id = -5 WHERE id = 5", "UPDATE t SET id = 5 WHERE id = -5", (1, 1)),
        ("UPDATE t SET v = '' WHERE id = 0", "UPDATE t SET v = NULL WHERE id = 0", (3, 3)),
    ] {
        ensure!(counts(from, to, sql, undo).await? == expected, "{sql}");
    }
    from.run("INSERT INTO t VALUES (6000, 'z')").await?;
    let found = compare::databases(from, to).await?;
    ensure!(found.len() == 1 && (found[0].missing, found[0].extra) == (1, 0), "{found:?}");

    to.run("DROP TABLE \"Odd Name\"; ALTER TABLE t RENAME v TO w").await?;
    let found = compare::databases(from, to).await?;
    ensure!(found.len() == 2, "{found:?}");
    ensure!(compare::expect_none(&found).is_err());
    ensure!(compare::same_structure(from, to).await.is_err());
    Ok(())
}

async fn compares(source: Engine, destination: Engine) -> Result<()> {
    let (_source, _destination, mut from, mut to) = two(source, destination).await?;
    let (from, to) = (&mut from, &mut to);
    let create = format!(
        "CREATE TABLE t (id int, v text, f float, l varchar(10) CHARACTER SET latin1, b varbinary(9), ts timestamp(3) NULL, j json);
        CREATE TABLE `Odd ``Name` (`a b` int PRIMARY KEY AUTO_INCREMENT, u int UNIQUE,
            CONSTRAINT up FOREIGN KEY (u) REFERENCES `Odd ``Name` (`a b`) ON DELETE CASCADE);
        INSERT INTO t SELECT i, concat('x\\ty\\\\', char(1 + i % 100)), i / 3e0, 'ü', unhex(hex(i)), now(3), '[1]' FROM {} i;
        INSERT INTO t VALUES (0, NULL, NULL, NULL, NULL, NULL, NULL), (0, NULL, NULL, NULL, NULL, NULL, NULL);
        CREATE VIEW w AS SELECT id FROM t;
        CREATE TRIGGER g BEFORE INSERT ON `Odd ``Name` FOR EACH ROW SET NEW.u = NULL;
        CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN n * 2;",
        Dialect::MySql.series(2000)
    );
    // The same moment on both sides.
    let fixed =
        "ALTER DATABASE drover COLLATE utf8mb4_general_ci; SET timestamp = 1700000000.125; SET time_zone = '+00:00';";
    from.run(&format!("{fixed}{create}")).await?;
    to.run(&format!("{fixed}{create}")).await?;
    compare::expect_equal(from, to).await?;
    compare::same_structure(from, to).await?;
    // Another order of rows and the next number of a counter are no difference; neither is the session's time zone.
    to.run("DELETE FROM t WHERE id < 10; SET time_zone = '+05:00'; ALTER TABLE `Odd ``Name` AUTO_INCREMENT = 77;")
        .await?;
    let again = "SELECT i, concat('x\\ty\\\\', char(1 + i % 100)), i / 3e0, 'ü', unhex(hex(i)), now(3), '[1]'";
    to.run(&format!("INSERT INTO t {again} FROM {} i;", Dialect::MySql.series(9))).await?;
    to.run("INSERT INTO t (id) VALUES (0), (0)").await?;
    compare::expect_equal(from, to).await?;
    compare::same_structure(from, to).await?;

    for (sql, undo, expected) in [
        ("INSERT INTO t (id) VALUES (6000)", "DELETE FROM t WHERE id = 6000", (0, 1)),
        ("INSERT INTO t (id) VALUES (0)", "DELETE FROM t WHERE id = 0 LIMIT 1", (0, 1)),
        ("DELETE FROM t WHERE id = 0 LIMIT 1", "INSERT INTO t (id) VALUES (0)", (1, 0)),
        ("UPDATE t SET v = '' WHERE id = 0", "UPDATE t SET v = NULL WHERE id = 0", (2, 2)),
        ("UPDATE t SET l = 'Ü' WHERE id = 7", "UPDATE t SET l = 'ü' WHERE id = 7", (1, 1)),
        (
            "UPDATE t SET v = concat(v, ' ') WHERE id = 7",
            "UPDATE t SET v = left(v, char_length(v) - 1) WHERE id = 7",
            (1, 1),
        ),
        // Less than the six digits that a FLOAT is printed with.
        ("UPDATE t SET f = 666.66675 WHERE id = 2000", "UPDATE t SET f = 2000 / 3e0 WHERE id = 2000", (1, 1)),
        (
            "UPDATE t SET ts = ts + INTERVAL 1000 MICROSECOND WHERE id = 7",
            "UPDATE t SET ts = ts - INTERVAL 1000 MICROSECOND WHERE id = 7",
            (1, 1),
        ),
        (
            "UPDATE t SET b = concat(b, x'00') WHERE id = 7",
            "UPDATE t SET b = left(b, length(b) - 1) WHERE id = 7",
            (1, 1),
        ),
    ] {
        ensure!(counts(from, to, sql, undo).await? == expected, "{sql}");
    }
    for (sql, undo) in [
        ("ALTER TABLE t MODIFY id bigint", "ALTER TABLE t MODIFY id int"),
        ("ALTER TABLE t MODIFY v text COLLATE utf8mb4_bin", "ALTER TABLE t MODIFY v text"),
        ("ALTER TABLE t MODIFY id int DEFAULT 5", "ALTER TABLE t MODIFY id int"),
        ("ALTER TABLE t ADD KEY k (id)", "ALTER TABLE t DROP KEY k"),
        ("ALTER TABLE `Odd ``Name` MODIFY `a b` int", "ALTER TABLE `Odd ``Name` MODIFY `a b` int AUTO_INCREMENT"),
        ("DROP VIEW w", "CREATE VIEW w AS SELECT id FROM t"),
        ("DROP TRIGGER g", "CREATE TRIGGER g BEFORE INSERT ON `Odd ``Name` FOR EACH ROW SET NEW.u = NULL"),
        ("DROP FUNCTION twice", "CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN n * 2"),
        ("CREATE TABLE more (id int)", "DROP TABLE more"),
    ] {
        to.run(&format!("SET foreign_key_checks = 0; {sql}")).await?;
        ensure!(compare::same_structure(from, to).await.is_err(), "not seen: {sql}");
        to.run(undo).await?;
        compare::same_structure(from, to).await?;
    }
    from.run("INSERT INTO t (id) VALUES (6000)").await?;
    to.run("DROP TABLE `Odd ``Name`").await?;
    let found = compare::databases(from, to).await?;
    ensure!(found.len() == 2 && (found[1].missing, found[1].extra) == (1, 0), "{found:?}");
    ensure!(compare::expect_none(&found).is_err());
    Ok(())
}

#[tokio::test]
async fn compare_finds_planted_differences_in_mysql() -> Result<()> {
    compares(MYSQL, MYSQL).await
}

#[tokio::test]
async fn compare_finds_planted_differences_between_mysql_and_mariadb() -> Result<()> {
    compares(MYSQL, MARIADB_11).await
}

#[tokio::test]
async fn compare_finds_planted_differences_between_releases_of_mariadb() -> Result<()> {
    compares(MARIADB_11, MARIADB_10).await
}

#[tokio::test]
async fn engines_that_print_values_in_different_ways_are_not_compared() -> Result<()> {
    let (_source, _destination, mut from, mut to) = two(POSTGRES, MARIADB_10).await?;
    from.run("CREATE TABLE t (id int)").await?;
    ensure!(compare::expect_equal(&mut from, &mut to).await.is_err());
    ensure!(compare::same_structure(&mut from, &mut to).await.is_err());
    Ok(())
}

async fn keeps_its_invariant(engine: Engine) -> Result<()> {
    let server = Server::start(engine, &[]).await?;
    let url = server.url("drover");
    let mut session = server.connect("drover").await?;
    let options = workload::Options { writers: 3, rows: 20, accounts: 50, ..workload::Options::default() };
    workload::create(&mut session, &options).await?;
    let mut tables = compare::user_tables(&mut session).await?;
    tables.iter_mut().for_each(|name| *name = name.trim_start_matches("public.").trim_matches('`').to_owned());
    ensure!(tables == workload::TABLES, "{tables:?}");
    let observer = Observer::start(&url, options).await?;
    for _ in 0..2 {
        let running = workload::start(&url, &options).await?;
        for _ in 0..5 {
            running.advance(60, SOON).await?;
            workload::check(&mut session, &options).await?;
        }
        ensure!(running.stop().await? >= 300);
    }
    observer.stop().await?;
    // Every kind of step was taken, and was undone, too.
    let found = session.rows("SELECT DISTINCT what FROM journal").await?.into_iter().flatten().flatten();
    let mut kinds: Vec<String> =
        found.flat_map(|what| what.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    kinds.sort();
    kinds.dedup();
    ensure!(kinds.len() == 17, "kinds of steps: {kinds:?}");
    let lowest = session.number("SELECT min(id) FROM swap").await?;
    let spot = session.number(&format!("SELECT spot FROM swap WHERE id = {lowest}")).await?;
    for (damage, remedy) in [
        (
            "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
            "UPDATE accounts SET balance = balance - 1 WHERE id = 1",
        ),
        ("UPDATE counter SET n = n + 1 WHERE writer = 1", "UPDATE counter SET n = n - 1 WHERE writer = 1"),
        (
            &format!("UPDATE swap SET spot = 1 WHERE id = {lowest}"),
            &format!("UPDATE swap SET spot = {spot} WHERE spot = 1"),
        ),
        ("INSERT INTO words VALUES ('x', 0, 0, NULL, 0)", "DELETE FROM words WHERE word = 'x'"),
        ("DELETE FROM journal WHERE n = 5 AND writer = 0", "SELECT 1"),
    ] {
        session.run(damage).await?;
        ensure!(workload::check(&mut session, &options).await.is_err(), "not seen: {damage}");
        if remedy != "SELECT 1" {
            session.run(remedy).await?;
            workload::check(&mut session, &options).await?;
        }
    }
    // Who observes what is broken says so.
    let observer = Observer::start(&url, options).await?;
    ensure!(observer.stop().await.is_err());
    Ok(())
}

#[tokio::test]
async fn workload_keeps_its_invariant_and_check_sees_it_broken() -> Result<()> {
    keeps_its_invariant(POSTGRES).await
}

#[tokio::test]
async fn workload_keeps_its_invariant_on_mysql() -> Result<()> {
    keeps_its_invariant(MYSQL).await
}

#[tokio::test]
async fn workload_keeps_its_invariant_on_mariadb_10() -> Result<()> {
    keeps_its_invariant(MARIADB_10).await
}

#[tokio::test]
async fn workload_keeps_its_invariant_on_mariadb_11() -> Result<()> {
    keeps_its_invariant(MARIADB_11).await
}

async fn reports_a_failing_statement(engine: Engine, trap: &str) -> Result<()> {
    let server = Server::start(engine, &[]).await?;
    let mut session = server.connect("drover").await?;
    let options = workload::Options { rate: Some(50.0), ..workload::Options::default() };
    workload::create(&mut session, &options).await?;
    let running = workload::start(&server.url("drover"), &options).await?;
    session.run(trap).await?;
    ensure!(running.advance(100_000, SOON).await.is_err());
    ensure!(running.stop().await.is_err());
    Ok(())
}

#[tokio::test]
async fn workload_reports_a_failing_statement() -> Result<()> {
    reports_a_failing_statement(POSTGRES, "ALTER TABLE journal ADD CHECK (n < 3) NOT VALID").await
}

#[tokio::test]
async fn workload_reports_a_failing_statement_on_mysql() -> Result<()> {
    let trap = "CREATE TRIGGER trap BEFORE INSERT ON journal FOR EACH ROW SIGNAL SQLSTATE '45000'";
    reports_a_failing_statement(MYSQL, trap).await
}

/// What drover is asked to move unchanged is the same in all of the family: the workload's tables, made by the same statements.
#[tokio::test]
async fn the_family_prints_the_same_bytes() -> Result<()> {
    let options = workload::Options { rows: 200, ..workload::Options::default() };
    for (source, destination) in [(MYSQL, MARIADB_10), (MARIADB_10, MARIADB_11)] {
        let (_source, _destination, mut from, mut to) = two(source, destination).await?;
        for session in [&mut from, &mut to] {
            session.run("ALTER DATABASE drover COLLATE utf8mb4_general_ci").await?;
            workload::create(session, &options).await?;
        }
        // Ids of children are given in the order in which a server happens to read.
        let names: Vec<_> = workload::TABLES.iter().filter(|t| **t != "child").map(|t| (*t, *t)).collect();
        compare::expect_none(&compare::tables(&mut from, &mut to, &names).await?)?;
        compare::same_structure(&mut from, &mut to).await?;
    }
    Ok(())
}

/// Generated schemas and the sample can be made, and changed, on each engine.
async fn can_be_made(engine: Engine) -> Result<()> {
    let pair = Pair { source: engine, destination: engine };
    let (source, _) = scene::servers(pair).await?;
    let database = engine.database();
    let mut session = source.connect(database).await?;
    let made = schemas::generate(pair);
    for sql in made.create.iter().chain(&made.change) {
        session.run(sql).await?;
    }
    ensure!(compare::user_tables(&mut session).await?.len() == made.tables && made.tables > 50, "{}", made.tables);
    let changed = session.number("SELECT count(*) FROM t0 WHERE n > 40").await?;
    ensure!(changed == 13, "{changed}");
    if engine.dialect() == Dialect::MySql {
        source.create_database("chinook").await?;
    }
    let database = if engine.dialect() == Dialect::MySql { "chinook" } else { database };
    chinook::load(&source, database).await?;
    source.exec(database, chinook::changes(engine.dialect())).await?;
    Ok(())
}

#[tokio::test]
async fn schemas_can_be_made_on_postgres() -> Result<()> {
    can_be_made(POSTGRES).await
}

#[tokio::test]
async fn schemas_can_be_made_on_mysql() -> Result<()> {
    can_be_made(MYSQL).await
}

#[tokio::test]
async fn schemas_can_be_made_on_mariadb_10() -> Result<()> {
    can_be_made(MARIADB_10).await
}

#[tokio::test]
async fn schemas_can_be_made_on_mariadb_11() -> Result<()> {
    can_be_made(MARIADB_11).await
}
