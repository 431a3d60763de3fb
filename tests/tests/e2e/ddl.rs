//! Schema changes of the source while its changes are followed: each is made at the destination at its place, once, whatever is killed around it; what
//! cannot be carried over stops the migration by name, and nothing behind it is applied.

use std::time::Duration;

use anyhow::{Result, ensure};
use drover_tests::{Engine, Form, Pair, Release, Scene, Trial};

const SOON: Duration = Duration::from_secs(60);

const MYSQL: Pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::MySql(Release::MySql9) };
const MARIADB: Pair =
    Pair { source: Engine::MySql(Release::MariaDb11), destination: Engine::MySql(Release::MariaDb11) };
const CROSS: Pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::MySql(Release::MariaDb11) };

const TABLES: &str = "
    CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), n INT NOT NULL DEFAULT 1);
    CREATE TABLE u (id INT AUTO_INCREMENT PRIMARY KEY, t INT, KEY u_t (t), CONSTRAINT u_t FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE);
    INSERT INTO t (id, v) VALUES (1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO u (t) VALUES (1), (2);";

/// Rows before and after each statement; all of the list of statements that are carried over.
const LIST: &str = "
    INSERT INTO t (id, v) VALUES (10, 'before');
    ALTER TABLE t ADD COLUMN c INT;
    INSERT INTO t (id, v, c) VALUES (11, 'after', 5); UPDATE t SET c = id WHERE id < 10;
    ALTER TABLE t ADD d VARCHAR(10) CHARACTER SET latin1 DEFAULT 'ä' AFTER id, ADD (e DATETIME(6) DEFAULT NOW(6), f ENUM('a','b') NOT NULL);
    INSERT INTO t (id, d, f) VALUES (12, 'öü', 'b');
    ALTER TABLE t MODIFY n BIGINT UNSIGNED NOT NULL DEFAULT 7 FIRST, CHANGE v word VARCHAR(200), RENAME COLUMN c TO cc;
    UPDATE t SET n = 18446744073709551615, word = repeat('x', 150) WHERE id = 2; INSERT INTO t (id, cc, f) VALUES (13, -1, 'a');
    ALTER TABLE t DROP COLUMN d, ADD INDEX w (word(10) DESC), ADD UNIQUE KEY k (cc, id), COMMENT = 'it''s', AUTO_INCREMENT = 100;
    DELETE FROM t WHERE id = 11; INSERT INTO t (id, word, f) VALUES (14, 'x', 'a');
    CREATE INDEX by_n ON t (n); DROP INDEX w ON t; ALTER TABLE u DROP FOREIGN KEY u_t; ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (id, f);
    UPDATE t SET f = 'b' WHERE id = 14; DELETE FROM t WHERE id = 13;
    CREATE TABLE w (a INT NOT NULL, b TEXT, g INT AS (a * 2) STORED, UNIQUE KEY (a), CHECK (a > 0)) DEFAULT CHARSET = latin1;
    INSERT INTO w (a, b) VALUES (1, 'ä'), (2, NULL); ALTER TABLE w CONVERT TO CHARACTER SET utf8mb4; INSERT INTO w (a, b) VALUES (3, '漢');
    CREATE TABLE IF NOT EXISTS w (x INT); CREATE TABLE l LIKE w; INSERT INTO l (a) VALUES (9);
    RENAME TABLE l TO m, w TO l; INSERT INTO l (a) VALUES (50); UPDATE m SET a = 10; RENAME TABLE l TO x, m TO l, x TO m;
    INSERT INTO m (a) VALUES (60); INSERT INTO l (a) VALUES (70);
    ALTER TABLE m RENAME TO p, ADD z INT DEFAULT 3; INSERT INTO p (a) VALUES (61);
    TRUNCATE TABLE u; DROP TABLE u; CREATE TABLE u (only VARCHAR(5) PRIMARY KEY); INSERT INTO u VALUES ('again');
    ALTER TABLE p ALTER COLUMN z SET DEFAULT 8, ENGINE = InnoDB, ALGORITHM = COPY; INSERT INTO p (a) VALUES (62);
    ALTER TABLE t DROP KEY k, DROP COLUMN cc, ADD COLUMN cc VARCHAR(3) DEFAULT 'new'; INSERT INTO t (id, f) VALUES (15, 'a');
    ALTER TABLE t PARTITION BY KEY (id) PARTITIONS 3; INSERT INTO t (id, f) VALUES (16, 'a');
    CREATE TEMPORARY TABLE gone (a INT); DROP TEMPORARY TABLE gone; ALTER TABLE t REMOVE PARTITIONING;";

async fn whole_list(pair: Pair, form: Form) -> Result<()> {
    let mut trial = Trial::running(pair, form, TABLES, "").await?;
    trial.exec(LIST).await?;
    trial.equal().await?;
    if pair.same() {
        trial.same_structure().await?;
    }
    let left = trial.destination.admin().await?.number("SELECT count(*) FROM drover.drover_intent").await?;
    ensure!(left == 0, "{left} intents are left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_statements_of_mysql() -> Result<()> {
    whole_list(MYSQL, Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_statements_of_mariadb() -> Result<()> {
    whole_list(MARIADB, Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_statements_to_the_other_flavor() -> Result<()> {
    whole_list(CROSS, Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_statements_in_a_cluster() -> Result<()> {
    whole_list(MYSQL, Form::Cluster).await
}

/// Killed ahead of, in and behind each statement.
async fn killed(pair: Pair) -> Result<()> {
    let mut trial = Trial::running(pair, Form::InProcess, TABLES, "").await?;
    trial.drover.kill9_all()?;
    let points = [
        "schema-change-stored:1",
        "schema-intent-written:1",
        "schema-executed:1",
        "schema-made-not-noted:1",
        "schema-executed:2",
        "schema-intent-written:2",
    ];
    for (round, point) in points.into_iter().enumerate() {
        trial
            .exec(&format!(
                "INSERT INTO t (id, v) VALUES ({round}00 + 20, 'before'); ALTER TABLE t ADD COLUMN c{round} INT DEFAULT {round};
                 INSERT INTO t (id, v, c{round}) VALUES ({round}00 + 21, 'between', 77); CREATE TABLE n{round} (a INT PRIMARY KEY, b INT, KEY (b));
                 INSERT INTO n{round} VALUES (1, 2); ALTER TABLE t MODIFY c{round} BIGINT FIRST; UPDATE t SET c{round} = c{round} + 1"
            ))
            .await?;
        trial.drover.dies_at(point).await?;
    }
    trial.drover.start().await?;
    trial.drover.wait_consistent().await?;
    trial.equal().await?;
    trial.same_structure().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_around_statements_of_mysql() -> Result<()> {
    killed(MYSQL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_around_statements_of_mariadb() -> Result<()> {
    killed(MARIADB).await
}

/// What online tools do: a copy beside the table, filled by their own writes, then the exchange.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn online_tools_are_recognised() -> Result<()> {
    let tables = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), n INT NOT NULL DEFAULT 1); INSERT INTO t (id, v) VALUES (1, 'one'), (2, 'two'), (3, 'three')";
    let mut trial = Trial::running(MYSQL, Form::InProcess, tables, "").await?;
    trial
        .exec(
            "CREATE TABLE _t_gho LIKE t; CREATE TABLE _t_ghc (id BIGINT AUTO_INCREMENT PRIMARY KEY, hint VARCHAR(64), UNIQUE KEY (hint));
             INSERT INTO _t_ghc (hint) VALUES ('state'); ALTER TABLE _t_gho ADD COLUMN extra INT DEFAULT 4, MODIFY v VARCHAR(99);
             INSERT INTO _t_gho (id, v, n) SELECT id, v, n FROM t; INSERT INTO t (id, v) VALUES (20, 'while'); REPLACE INTO _t_gho (id, v, n) VALUES (20, 'while', 1);
             SET foreign_key_checks = 0; RENAME TABLE t TO _t_del, _t_gho TO t; SET foreign_key_checks = 1; INSERT INTO t (id, v, extra) VALUES (21, 'behind', 9); DROP TABLE _t_ghc",
        )
        .await?;
    trial.drover.wait_caught_up().await?;
    let mut to = trial.to().await?;
    let rows = to.number("SELECT count(*) FROM t WHERE extra IS NOT NULL").await?;
    ensure!(rows == 5, "{rows} rows at the destination");
    let strays = to.number("SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND table_name LIKE '\\_t\\_%'").await?;
    ensure!(strays == 0, "the tool's tables came along");
    trial.exec("DROP TABLE _t_del").await?;
    trial.equal().await
}

/// Names and columns of the file hold for schema changes, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mapped_names_hold() -> Result<()> {
    let database = MYSQL.source.database();
    let more = format!(
        "[[objects]]\ninclude = \"{database}.*\"\n[[objects]]\ninclude = \"{database}.t\"\nrename = \"{database}.client\"\n\
         columns = {{ drop = [\"v\"], rename = {{ n = \"number\" }} }}\n\
         [[objects]]\ninclude = \"{database}.u\"\noperations = [\"insert\", \"update\", \"delete\"]\n"
    );
    let tables = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), n INT); CREATE TABLE u (id INT PRIMARY KEY, a INT, b INT); INSERT INTO t VALUES (1, 'x', 2); INSERT INTO u VALUES (1, 2, 3)";
    let mut trial = Trial::running(MYSQL, Form::InProcess, tables, &more).await?;
    trial
        .exec(
            "ALTER TABLE t ADD c BIGINT AS (n + 1) STORED, MODIFY n BIGINT, ADD KEY by_n (n), DROP v; INSERT INTO t (id, n) VALUES (2, 5000000000);
             ALTER TABLE u ADD c INT DEFAULT 5, DROP b; INSERT INTO u VALUES (2, 3, 4)",
        )
        .await?;
    trial.drover.wait_caught_up().await?;
    let mut to = trial.to().await?;
    let rows = to.rows("SELECT id, number, c FROM client ORDER BY id").await?;
    ensure!(format!("{rows:?}").contains("5000000001"), "{rows:?}");
    let rows = to.rows("SELECT id, a, b FROM u ORDER BY id").await?;
    ensure!(format!("{rows:?}") == r#"[[Some("1"), Some("2"), Some("3")], [Some("2"), Some("3"), None]]"#, "{rows:?}");
    Ok(())
}

/// What cannot be carried over stops there; with `stop_table` the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_over_stops() -> Result<()> {
    let mut trial = Trial::running(MYSQL, Form::InProcess, TABLES, "").await?;
    trial.exec("INSERT INTO t (id, v) VALUES (30, 'x'); ALTER TABLE t DISCARD TABLESPACE").await.err();
    trial.exec("CREATE TABLE filled AS SELECT * FROM t; INSERT INTO u (t) VALUES (3)").await?;
    let status = trial.drover.main()?.wait_exit(SOON).await?;
    let log = trial.drover.log();
    ensure!(status.code() == Some(1) && log.contains("DR0009") && log.contains("filled"), "{status}\n{log}");
    let seen = trial.number("SELECT count(*) FROM t WHERE id = 30").await?;
    let behind = trial.number("SELECT count(*) FROM u WHERE t = 3").await?;
    ensure!((seen, behind) == (1, 0), "{seen} {behind}");
    Ok(())
}

/// What a statement says is what its client's character set makes of its bytes: here those of UTF-8, told to be another.
async fn foreign_clients(pair: Pair) -> Result<()> {
    let mut trial = Trial::running(pair, Form::InProcess, TABLES, "").await?;
    for (at, charset) in ["latin1", "gbk", "cp1251", "sjis", "utf8mb4"].iter().enumerate() {
        trial
            .exec(&format!(
                "SET NAMES {charset}; ALTER TABLE t ADD c{at} VARCHAR(20) CHARACTER SET utf8mb4 NOT NULL DEFAULT 'üä' COMMENT 'üä';
                 CREATE TABLE `üä{at}` (`üä` INT PRIMARY KEY, e ENUM('üä', 'x') CHARACTER SET utf8mb4 DEFAULT 'üä');
                 INSERT INTO `üä{at}` (`üä`) VALUES (1); TRUNCATE TABLE `üä{at}`; INSERT INTO `üä{at}` (`üä`) VALUES (2);
                 CREATE TABLE `ü{at}` LIKE `üä{at}`; INSERT INTO `ü{at}` VALUES (1, 'x'); DROP TABLE `ü{at}`"
            ))
            .await?;
    }
    trial.equal().await?;
    trial.same_structure().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_other_character_sets_of_mysql() -> Result<()> {
    foreign_clients(MYSQL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_other_character_sets_of_mariadb() -> Result<()> {
    foreign_clients(MARIADB).await
}

/// What a session of MySQL says of defaults holds for what it makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_of_a_session() -> Result<()> {
    let mut trial = Trial::running(MYSQL, Form::InProcess, TABLES, "").await?;
    trial
        .exec(
            "SET default_collation_for_utf8mb4 = utf8mb4_general_ci, explicit_defaults_for_timestamp = 0, sql_mode = '';
             CREATE TABLE g (id INT PRIMARY KEY, b VARCHAR(5) CHARACTER SET utf8mb4, a TIMESTAMP, z TIMESTAMP, UNIQUE (b));
             INSERT INTO g (id, b) VALUES (1, 'ß'), (2, 'ss'); ALTER TABLE g ADD c TIMESTAMP, ADD d VARCHAR(5) CHARACTER SET utf8mb4 DEFAULT 'x';
             SET default_collation_for_utf8mb4 = DEFAULT, explicit_defaults_for_timestamp = 1;
             CREATE TABLE h (id INT PRIMARY KEY, b VARCHAR(5) CHARACTER SET utf8mb4, a TIMESTAMP); INSERT INTO h (id, b) VALUES (1, 'x')",
        )
        .await?;
    trial.equal().await?;
    trial.same_structure().await
}

/// And of MariaDB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collations_of_a_session_of_mariadb() -> Result<()> {
    let mut trial = Trial::running(MARIADB, Form::InProcess, TABLES, "").await?;
    trial
        .exec(
            "SET character_set_collations = 'utf8mb4=utf8mb4_bin,latin1=latin1_german2_ci';
             CREATE TABLE g (id INT PRIMARY KEY, b VARCHAR(5) CHARACTER SET utf8mb4, l VARCHAR(5) CHARACTER SET latin1, UNIQUE (b));
             INSERT INTO g (id, b) VALUES (1, 'a'), (2, 'A'); ALTER TABLE g ADD d VARCHAR(5) CHARACTER SET utf8mb4 DEFAULT 'x';
             SET character_set_collations = ''; CREATE TABLE h (b VARCHAR(5) CHARACTER SET utf8mb4 PRIMARY KEY); INSERT INTO h VALUES ('x');
             SET character_set_collations = DEFAULT; CREATE TABLE i (b VARCHAR(5) CHARACTER SET utf8mb4 PRIMARY KEY); INSERT INTO i VALUES ('x')",
        )
        .await?;
    trial.equal().await?;
    trial.same_structure().await
}

/// New tables take over what their database says then, also in a process that begins behind it.
async fn database_defaults(pair: Pair) -> Result<()> {
    let mut trial = Trial::running(pair, Form::InProcess, TABLES, "").await?;
    trial.exec("ALTER DATABASE COLLATE utf8mb4_bin; CREATE TABLE b (k VARCHAR(5) UNIQUE); INSERT INTO b VALUES ('a'), ('A')").await?;
    trial.equal().await?;
    trial.exec("ALTER DATABASE CHARACTER SET latin1").await?;
    trial.drover.wait_caught_up().await?;
    trial.drover.kill9_all()?;
    trial.drover.start().await?;
    trial
        .exec("CREATE TABLE l (k VARCHAR(5) PRIMARY KEY, e ENUM('ä') DEFAULT 'ä'); INSERT INTO l (k) VALUES ('ö')")
        .await?;
    trial.equal().await?;
    trial.same_structure().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_defaults_of_mysql() -> Result<()> {
    database_defaults(MYSQL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_defaults_of_mariadb() -> Result<()> {
    database_defaults(MARIADB).await
}

/// A MariaDB logs CREATE TABLE … SELECT as a statement with rows behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_filled_as_it_is_made_stops() -> Result<()> {
    let mut trial = Trial::running(MARIADB, Form::InProcess, TABLES, "").await?;
    trial.exec("CREATE TABLE filled AS SELECT * FROM t").await?;
    let status = trial.drover.main()?.wait_exit(SOON).await?;
    let log = trial.drover.log();
    ensure!(status.code() == Some(1) && log.contains("DR0009") && log.contains("filled"), "{status}\n{log}");
    Ok(())
}

/// Random schema changes in the middle of the hostile workload, with kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_with_kills() -> Result<()> {
    let mut scene = Scene::of(MYSQL, Form::InProcess, "CREATE TABLE side (id INT PRIMARY KEY, v INT)").await?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    for round in 0..6 {
        scene
            .exec(&format!(
                "ALTER TABLE side ADD c{round} INT DEFAULT {round}; INSERT INTO side (id, v) VALUES ({round}, 1)"
            ))
            .await?;
        scene.advance(30).await?;
        if round % 2 == 1 {
            scene
                .exec(&format!(
                    "ALTER TABLE side DROP COLUMN c{}, CHANGE v v BIGINT FIRST; UPDATE side SET v = v + 1",
                    round - 1
                ))
                .await?;
            scene.drover.kill9_all()?;
            scene
                .exec(&format!(
                    "CREATE TABLE new{round} (id INT PRIMARY KEY, t TEXT); INSERT INTO new{round} VALUES (1, 'x')"
                ))
                .await?;
            scene.drover.start().await?;
        }
    }
    scene.finish().await
}
