//! Tables at the limits of the servers: as many columns as there may be, keys at both ends of their types.

use anyhow::Result;
use drover_tests::{Engine, Form, Pair, Release, Trial};
use std::fmt::Write as _;

const MYSQL: Pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::MySql(Release::MySql9) };

/// A key and small numbers up to `columns` columns; every seventh is NULL here and there.
fn wide(columns: usize) -> Result<String> {
    let (mut table, mut rows) = (String::from("CREATE TABLE wide (id INT PRIMARY KEY"), String::new());
    for c in 1..columns {
        write!(table, ", c{c} SMALLINT")?;
    }
    for id in 1..=40 {
        write!(rows, "{} ({id}", if id == 1 { "INSERT INTO wide VALUES" } else { "," })?;
        for c in 1..columns {
            if (c + id) % 7 == 0 { rows.push_str(", NULL") } else { write!(rows, ", {}", c * id % 3000)? }
        }
        rows.push(')');
    }
    Ok(format!("{table}); {rows};"))
}

/// Keys at both ends of each type, and about zero.
fn ends(types: &[(&str, &str, &str)]) -> String {
    let table = |(n, (kind, low, high)): (usize, &(&str, &str, &str))| {
        format!(
            "CREATE TABLE ends{n} (k {kind} PRIMARY KEY, v INT); \
             INSERT INTO ends{n} SELECT i, i FROM s WHERE i < 120; INSERT INTO ends{n} VALUES ({low}, 1), ({high}, 2);"
        )
    };
    types.iter().enumerate().map(table).collect()
}

async fn at_the_limits(pair: Pair, tables: String, kinds: usize) -> Result<()> {
    let mut trial = Trial::new(pair, Form::InProcess, &tables, "", "").await?;
    // A chunk of a few rows, so that the ends of keys are ends of chunks.
    trial.drover = trial.drover.env("DROVER_CHUNK_BYTES", "600");
    let mut trial = trial.begun().await?;
    let mut changes = String::from(
        "UPDATE wide SET c7 = 7, c900 = NULL WHERE id < 9; DELETE FROM wide WHERE id = 20; UPDATE wide SET id = 50 WHERE id = 21;",
    );
    for n in 0..kinds {
        write!(changes, "UPDATE ends{n} SET v = v + 1; DELETE FROM ends{n} WHERE k = 7;")?;
    }
    trial.exec(&changes).await?;
    trial.equal().await?;
    trial.same_structure().await
}

/// PostgreSQL has room for 1,600 columns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_postgres() -> Result<()> {
    let types = [
        ("SMALLINT", "-32768", "32767"),
        ("INT", "-2147483648", "2147483647"),
        ("BIGINT", "-9223372036854775808", "9223372036854775807"),
    ];
    let series = "CREATE TABLE s (i INT PRIMARY KEY); INSERT INTO s SELECT generate_series(-5, 130);";
    at_the_limits(Pair::POSTGRES, format!("{series}{}{}", ends(&types), wide(1600)?), types.len()).await
}

/// InnoDB has room for 1,017.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_mysql() -> Result<()> {
    let types = [
        ("TINYINT", "-128", "127"),
        ("MEDIUMINT", "-8388608", "8388607"),
        ("INT", "-2147483648", "2147483647"),
        ("BIGINT", "-9223372036854775808", "9223372036854775807"),
    ];
    let series = "CREATE TABLE s (i INT PRIMARY KEY); \
        INSERT INTO s WITH RECURSIVE n (i) AS (SELECT -5 UNION ALL SELECT i + 1 FROM n WHERE i < 130) SELECT i FROM n;";
    let unsigned = "CREATE TABLE big (k BIGINT UNSIGNED PRIMARY KEY, v INT); \
        INSERT INTO big SELECT i, i FROM s WHERE i >= 0; INSERT INTO big VALUES (18446744073709551615, 1), (9223372036854775808, 2);";
    at_the_limits(MYSQL, format!("{series}{unsigned}{}{}", ends(&types), wide(1017)?), types.len()).await
}

/// A label that an ENUM does not have becomes its error value where the server is not strict: it moves as such, by the copy and by changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error_values_of_enums() -> Result<()> {
    let maria = Engine::MySql(Release::MariaDb11);
    for pair in [MYSQL, Pair { source: maria, destination: MYSQL.destination }, Pair { destination: maria, ..MYSQL }] {
        let tables = "SET sql_mode = ''; CREATE TABLE e (id INT PRIMARY KEY, v ENUM('a', 'b') CHARACTER SET utf8mb4, w ENUM('', '0', 'ä') CHARACTER SET latin1);
            CREATE TABLE bare (v ENUM('a', 'b'), n INT); INSERT INTO e VALUES (1, 'none', '0'), (2, 'a', ''), (3, 'b', 'ä'); INSERT INTO bare VALUES ('none', 1), ('none', 1), ('a', 2);";
        let mut trial = Trial::running(pair, Form::InProcess, tables, "").await?;
        trial
            .exec(
                "SET sql_mode = ''; INSERT INTO e VALUES (4, 'none', 'ä'), (5, 'a', ''), (6, NULL, '0'); UPDATE e SET v = 'none' WHERE id = 3; UPDATE e SET v = 'b' WHERE id = 1;
                 UPDATE e SET id = 10 WHERE id = 4; INSERT INTO bare VALUES ('none', 3); UPDATE bare SET n = 4 WHERE v = 0 LIMIT 1; DELETE FROM bare WHERE v = 0 AND n = 1",
            )
            .await?;
        trial.equal().await?;
        let errors = trial
            .number(
                "SELECT (SELECT count(*) FROM e WHERE v + 0 = 0) * 10 + (SELECT count(*) FROM bare WHERE v + 0 = 0)",
            )
            .await?;
        anyhow::ensure!(errors == 22, "{errors} at {}", pair.destination.database());
    }
    Ok(())
}
