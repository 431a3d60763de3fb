//! Time zones: servers and writers whose clocks stand in Europe/Berlin, where the hour from 2 to 3 comes twice on 25 October 2026 (until 01:00 UTC in summer time,
//! from then on in winter time) and is left out on 29 March. Every moment arrives as the moment that it was, every hour of a wall clock as it was written, in the copy,
//! in the changes, in keys and in schema changes.

use anyhow::{Context, Result, ensure};
use drover_tests::{
    Dialect, Engine, Form, Pair, Release, Server, Session, Trial, mysql_to_postgres, postgres_to_mysql, scene, suite,
    wait,
};

suite! { both clocks_within_a_kind; }
mysql_to_postgres! { clocks_of_mysql; }
postgres_to_mysql! { clocks_of_postgres; }

const MARIADB: Pair =
    Pair { source: Engine::MySql(Release::MariaDb11), destination: Engine::MySql(Release::MariaDb11) };

/// The second at which the clocks go back: 25 October 2026, 01:00 UTC.
const BACK: i64 = 1_792_890_000;
/// The second at which they go forward: 29 March 2026, 01:00 UTC.
const FORWARD: i64 = 1_774_746_000;

/// One zone, as the tables of MySQL and MariaDB describe zones: from 2025 to 2027.
fn berlin() -> String {
    let turns = [(1_761_440_400, 0), (FORWARD, 1), (BACK, 0), (1_806_195_600, 1)];
    let turns = turns.map(|(second, kind)| format!("(77, {second}, {kind})")).join(", ");
    format!(
        "SET sql_log_bin = 0; INSERT INTO mysql.time_zone VALUES (77, 'N'); INSERT INTO mysql.time_zone_name VALUES ('Europe/Berlin', 77);
         INSERT INTO mysql.time_zone_transition_type VALUES (77, 0, 3600, 0, 'CET'), (77, 1, 7200, 1, 'CEST');
         INSERT INTO mysql.time_zone_transition VALUES {turns};"
    )
}

/// The server's own zone is Berlin's: sessions that say nothing else have it.
async fn moves_to_berlin(server: &Server) -> Result<()> {
    let mut admin = server.admin().await?;
    match server.dialect() {
        Dialect::Postgres => {
            admin.run("ALTER SYSTEM SET timezone = 'Europe/Berlin'").await?;
            admin.run("SELECT pg_reload_conf()").await?;
        }
        Dialect::MySql => {
            admin.run(&berlin()).await?;
            admin.run("SET GLOBAL time_zone = 'Europe/Berlin'").await?;
        }
    }
    wait::until("sessions begin in Berlin", scene::SOON, || async {
        let mut session = server.admin().await?;
        // Half past two, the second time.
        let second = BACK + 1800;
        let sql = match server.dialect() {
            Dialect::Postgres => format!("SELECT to_timestamp({second})::text"),
            Dialect::MySql => format!("SELECT CAST(FROM_UNIXTIME({second}) AS CHAR)"),
        };
        let shown = session.text(&sql).await?.context("no time")?;
        Ok(shown.starts_with("2026-10-25 02:30:00").then_some(()))
    })
    .await
}

/// `hours` has moments and hours of wall clocks; in `by_moment` a moment is the key, so that two rows have keys that Berlin's clocks show alike; `bare` has no key.
fn tables(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => {
            "CREATE TABLE hours (id int PRIMARY KEY, moment timestamptz(6) NOT NULL, shown timestamp(6) NOT NULL, made timestamptz(6) NOT NULL DEFAULT '2026-10-25 01:30:00+00');
             CREATE TABLE by_moment (moment timestamptz(6) PRIMARY KEY, v int NOT NULL);
             CREATE TABLE bare (moment timestamptz(6), shown timestamp(6), v int); ALTER TABLE bare REPLICA IDENTITY FULL"
        }
        Dialect::MySql => {
            "SET time_zone = '+00:00';
             CREATE TABLE hours (id int PRIMARY KEY, moment timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), shown datetime(6) NOT NULL,
                made timestamp(6) NOT NULL DEFAULT '2026-10-25 01:30:00');
             CREATE TABLE by_moment (moment timestamp(6) PRIMARY KEY DEFAULT CURRENT_TIMESTAMP(6), v int NOT NULL);
             CREATE TABLE bare (moment timestamp(6) NULL DEFAULT CURRENT_TIMESTAMP(6), shown datetime(6), v int);"
        }
    }
}

/// Statements by which an application in Berlin makes a row for this moment, as its clock shows it. MySQL takes a moment of a repeated hour from its own clock only,
/// where that is a column's default: NOW() is a text of Berlin's clock on its way into the column.
fn row(dialect: Dialect, id: i64, moment: i64) -> String {
    let id_and = |moment: &str, shown: &str| {
        format!(
            "INSERT INTO hours (id, moment, shown) VALUES ({id}, {moment}, {shown}); INSERT INTO by_moment VALUES ({moment}, {id});
             INSERT INTO bare VALUES ({moment}, {shown}, {id} / 2);"
        )
    };
    match dialect {
        Dialect::Postgres => id_and(&format!("to_timestamp({moment})"), &format!("to_timestamp({moment})::timestamp")),
        Dialect::MySql => format!("SET timestamp = {moment}; {}", id_and("DEFAULT", "NOW()")),
    }
}

/// From an hour before to an hour after each of the two turns, every ten minutes.
fn moments() -> impl Iterator<Item = i64> {
    [FORWARD, BACK].into_iter().flat_map(|turn| (-12..=12).map(move |step| turn + step * 600))
}

/// Number of the row of a moment: those of the copy begin at 0, those of the changes at 1000.
fn first_id(changes: bool) -> i64 {
    if changes { 1000 } else { 0 }
}

/// An application in Berlin writes a row for each moment. The changes are a second later, so that keys differ.
async fn writes(session: &mut Session, changes: bool) -> Result<()> {
    for (id, moment) in (first_id(changes)..).zip(moments()) {
        let statements = row(session.dialect(), id, moment + i64::from(changes));
        session.run(&statements).await?;
    }
    Ok(())
}

/// Changes by key within the repeated hour: one row of each pair that Berlin's clocks show alike.
fn edits(dialect: Dialect) -> String {
    // Half past two the first time, and ten to three the second.
    let (first, second) = (BACK - 1800, BACK + 3000);
    let at = |moment: i64| match dialect {
        Dialect::Postgres => format!("to_timestamp({moment})"),
        Dialect::MySql => "DEFAULT".to_owned(),
    };
    let clock = |moment: i64| match dialect {
        Dialect::Postgres => String::new(),
        Dialect::MySql => format!("SET timestamp = {moment};"),
    };
    let spring = match dialect {
        // An hour that Berlin's clocks never showed is one that a wall clock of elsewhere did.
        Dialect::Postgres => "timestamp '2026-03-29 02:30:00.000001'",
        Dialect::MySql => "'2026-03-29 02:30:00.000001'",
    };
    format!(
        "{}UPDATE hours SET moment = {}, shown = {spring} WHERE id IN (3, 1003); {}UPDATE hours SET moment = {} WHERE id IN (4, 1004);
         UPDATE hours SET id = id + 100 WHERE id IN (30, 1030); UPDATE bare SET v = -v WHERE v = 17; DELETE FROM bare WHERE v = 18;
         {}",
        clock(first),
        at(first),
        clock(second),
        at(second),
        match dialect {
            Dialect::Postgres => format!(
                "UPDATE by_moment SET v = 7001 WHERE moment = to_timestamp({first}); DELETE FROM by_moment WHERE moment = to_timestamp({second});
                 UPDATE by_moment SET moment = to_timestamp({second}) WHERE moment = to_timestamp({})",
                second - 3600
            ),
            // By number: with a clock in Berlin, no condition on the moment tells the two apart.
            Dialect::MySql => format!(
                "SET time_zone = '+00:00'; UPDATE by_moment SET v = 7001 WHERE moment = FROM_UNIXTIME({first}); DELETE FROM by_moment WHERE moment = FROM_UNIXTIME({second});
                 UPDATE by_moment SET moment = FROM_UNIXTIME({second}) WHERE moment = FROM_UNIXTIME({}); SET time_zone = 'Europe/Berlin'",
                second - 3600
            ),
        }
    )
}

/// Number, moment in microseconds since 1970, and the wall clock's text, of each row; by the server's own arithmetic.
async fn told(session: &mut Session) -> Result<Vec<String>> {
    let types =
        "SELECT max(data_type) FROM information_schema.columns WHERE table_name = 'hours' AND column_name = 'moment'";
    let (moment, shown) = match session.dialect() {
        Dialect::Postgres => {
            ("(extract(epoch FROM moment) * 1000000)::bigint", "to_char(shown, 'YYYY-MM-DD HH24:MI:SS.US')")
        }
        // Moments from PostgreSQL are hours of UTC there.
        Dialect::MySql if session.text(types).await?.as_deref() == Some("datetime") => {
            ("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', moment)", "CAST(shown AS CHAR)")
        }
        Dialect::MySql => ("CAST(UNIX_TIMESTAMP(moment) * 1000000 AS SIGNED)", "CAST(shown AS CHAR)"),
    };
    let mut all = Vec::new();
    for sql in [
        format!("SELECT concat_ws(' ', 'hours', id, {moment}, {shown}) FROM hours ORDER BY id"),
        format!("SELECT concat_ws(' ', 'made', {}) FROM hours ORDER BY id", moment.replace("moment", "made")),
        format!("SELECT concat_ws(' ', 'by', {moment}, v) FROM by_moment ORDER BY v, moment"),
        format!("SELECT concat_ws(' ', 'bare', v, {moment}, {shown}) FROM bare ORDER BY v, moment"),
    ] {
        all.extend(session.rows(&sql).await?.into_iter().flatten().flatten());
    }
    Ok(all)
}

async fn clocks(pair: Pair) -> Result<()> {
    let mut trial =
        Trial::new(pair, Form::InProcess, tables(pair.source.dialect()), scene::consent(pair.source), "").await?;
    moves_to_berlin(&trial.source).await?;
    moves_to_berlin(&trial.destination).await?;
    let mut from = trial.from().await?;
    writes(&mut from, false).await?;
    // A few rows a chunk: ends of chunks lie in the repeated hour.
    trial.drover = trial.drover.env("DROVER_CHUNK_BYTES", "200");
    let mut trial = trial.begun().await?;
    writes(&mut from, true).await?;
    from.run(&edits(pair.source.dialect())).await?;
    trial.equal().await?;
    let mut to = trial.to().await?;
    let (ours, theirs) = (told(&mut from).await?, told(&mut to).await?);
    ensure!(ours == theirs, "{}", differences(&ours, &theirs));
    // What was tried is what was meant: both of two moments that Berlin shows alike, under one wall clock's hour.
    let shown = format!("{:06}000000 2026-10-25 02:30:00.000000", BACK - 1800);
    let again = format!("{:06}000000 2026-10-25 02:30:00.000000", BACK + 1800);
    let has = |what: &str| theirs.iter().filter(|row| row.starts_with("hours") && row.ends_with(what)).count();
    ensure!((has(&shown), has(&again)) == (1, 1), "the hour is not there twice: {theirs:#?}");
    ensure!(theirs.iter().any(|row| row.ends_with("2026-03-29 02:30:00.000001")), "{theirs:#?}");
    scene::validated(&trial.drover).await
}

fn differences(ours: &[String], theirs: &[String]) -> String {
    let missing = ours.iter().filter(|row| !theirs.contains(row)).map(|row| format!("- {row}"));
    let extra = theirs.iter().filter(|row| !ours.contains(row)).map(|row| format!("+ {row}"));
    missing.chain(extra).collect::<Vec<_>>().join("\n")
}

async fn clocks_within_a_kind(pair: Pair) -> Result<()> {
    clocks(pair).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_within_mariadb() -> Result<()> {
    clocks(MARIADB).await
}

async fn clocks_of_mysql(pair: Pair) -> Result<()> {
    clocks(pair).await
}

async fn clocks_of_postgres(pair: Pair) -> Result<()> {
    clocks(pair).await
}

/// A schema change by which the server converts values, or makes some, in the zone of the session that says it: the destination makes the same of them.
const TURNED: &str = "SET time_zone = '+00:00'; CREATE TABLE turned (id int PRIMARY KEY, d datetime NOT NULL, s timestamp NOT NULL DEFAULT '2026-01-01 00:00:00');
    INSERT INTO turned (id, d) VALUES (1, '2026-01-15 12:00:00'), (2, '2026-07-15 12:00:00'), (3, '2026-10-25 02:30:00'), (4, '2026-10-25 03:00:00');";
const TURNS: &str = "INSERT INTO turned (id, d) VALUES (5, '2026-10-25 01:59:59'); ALTER TABLE turned MODIFY d timestamp NOT NULL, MODIFY s datetime NOT NULL,
    ADD shown datetime NOT NULL DEFAULT CURRENT_TIMESTAMP, ADD due timestamp NOT NULL DEFAULT '2026-07-01 12:00:00'; INSERT INTO turned (id, d, s) VALUES (6, '2026-08-01', '2026-08-01');";

async fn turned(pair: Pair) -> Result<()> {
    let mut trial = Trial::running(pair, Form::InProcess, TURNED, "").await?;
    // The source's clock stands in Berlin; the destination has never heard of it.
    moves_to_berlin(&trial.source).await?;
    trial.exec(TURNS).await?;
    let status = trial.drover.main()?.wait_exit(scene::SOON).await?;
    let log = trial.drover.log();
    ensure!(
        status.code() == Some(1) && log.contains("hangs on a time zone that the destination does not know"),
        "{status}\n{log}"
    );
    let made = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'turned' AND (column_name IN ('shown', 'due') OR column_name = 'd' AND data_type <> 'datetime')";
    ensure!(trial.number(made).await? == 0, "it was made all the same");
    // What the message says is enough.
    trial.destination.admin().await?.run(&berlin()).await?;
    let mut trial = trial.begun().await?;
    trial.equal().await?;
    let mut to = trial.to().await?;
    // From one zone in another: an hour in winter, two in summer.
    to.run("SET time_zone = '+00:00'").await?;
    let found = to.rows("SELECT concat_ws(' ', id, d, s, due) FROM turned WHERE id < 3 ORDER BY id").await?;
    let found: Vec<String> = found.into_iter().flatten().flatten().collect();
    let wanted = [
        "1 2026-01-15 11:00:00 2026-01-01 01:00:00 2026-07-01 10:00:00",
        "2 2026-07-15 10:00:00 2026-01-01 01:00:00 2026-07-01 10:00:00",
    ];
    ensure!(found == wanted, "{found:?}");
    scene::validated(&trial.drover).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_of_mysql_in_a_zone() -> Result<()> {
    turned(Pair::MYSQL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_of_mariadb_in_a_zone() -> Result<()> {
    turned(MARIADB).await
}

/// Another kind of database resolves no zone: the statement stops, and in UTC it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_in_a_zone_to_another_kind() -> Result<()> {
    let pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::Postgres(17) };
    let mut trial = Trial::running(pair, Form::InProcess, TURNED, "").await?;
    trial.exec("SET time_zone = '+00:00'; ALTER TABLE turned ADD due timestamp NOT NULL DEFAULT '2026-07-01 12:00:00'; INSERT INTO turned (id, d) VALUES (5, '2026-01-01')").await?;
    trial.equal().await?;
    let due = trial.number("SELECT count(*) FROM turned WHERE due = '2026-07-01 12:00:00+00'").await?;
    ensure!(due == 5, "{due}");
    trial.drover.start().await?;
    trial
        .exec("SET time_zone = '+02:00'; ALTER TABLE turned ADD other timestamp NOT NULL DEFAULT '2026-07-01 12:00:00'")
        .await?;
    let status = trial.drover.main()?.wait_exit(scene::SOON).await?;
    let log = trial.drover.log();
    ensure!(status.code() == Some(1) && log.contains("DR0009") && log.contains("column other"), "{status}\n{log}");
    Ok(())
}
