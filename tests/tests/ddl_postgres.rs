//! Schema changes of a PostgreSQL source while its changes are followed: each is made at the destination at its place in its transaction, once, whatever
//! is killed around it; what cannot be carried over stops the migration by name, and nothing behind it is applied.

use std::time::Duration;

use anyhow::{Result, ensure};
use drover_tests::deployment::Plan;
use drover_tests::{Engine, Form, Pair, Release, Trial, wait};

const SOON: Duration = Duration::from_secs(60);

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v varchar(20), n int NOT NULL DEFAULT 1);
    CREATE TABLE u (id int PRIMARY KEY, t int CONSTRAINT u_t REFERENCES t (id), w text);
    CREATE TABLE other (id int PRIMARY KEY, v text);
    INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO u VALUES (1, 1, 'x'), (2, 2, 'y'); INSERT INTO other VALUES (1, 'a');";

/// Rows before and after each statement; all that is carried over. Statements that stand on one line are one transaction.
const LIST: [&str; 24] = [
    "INSERT INTO t (id, v) VALUES (10, 'before'); ALTER TABLE t ADD COLUMN c int; INSERT INTO t (id, v, c) VALUES (11, 'after', 5); UPDATE t SET c = id WHERE id < 10",
    "ALTER TABLE t ADD d timestamptz NOT NULL DEFAULT now(), ADD e text DEFAULT 'it''s', ADD f int[] DEFAULT '{1,2}'",
    "INSERT INTO t (id, d) VALUES (12, '2020-01-01 00:00:00+00')",
    "INSERT INTO t (id, v) VALUES (13, 'x'); ALTER TABLE t ALTER n TYPE bigint, ALTER v TYPE varchar(200); UPDATE t SET n = 5000000000, v = repeat('x', 150) WHERE id = 2",
    "ALTER TABLE t RENAME COLUMN v TO word; INSERT INTO t (id, word) VALUES (14, 'w'); ALTER TABLE t ALTER word TYPE text; UPDATE t SET word = repeat('y', 3000) WHERE id = 3",
    "ALTER TABLE t DROP COLUMN c; INSERT INTO t (id, word) VALUES (15, 'no c'); ALTER TABLE t ADD COLUMN c text; UPDATE t SET c = 'text now' WHERE id = 15",
    "ALTER TABLE t DROP COLUMN c, ADD COLUMN c int DEFAULT 7", // again the last, under the same name
    "INSERT INTO t (id) VALUES (16); DELETE FROM t WHERE id = 11",
    "CREATE INDEX by_n ON t (n, lower(word)) WHERE n > 1; INSERT INTO t (id, n) VALUES (17, 3)",
    "CREATE UNIQUE INDEX u_w ON u (w) INCLUDE (t)",
    "DROP INDEX by_n; UPDATE u SET w = 'changed' WHERE id = 1",
    "CREATE INDEX CONCURRENTLY late ON t (word)",
    "ALTER INDEX late RENAME TO later",
    "ALTER TABLE u DROP CONSTRAINT u_t; INSERT INTO u VALUES (3, 999, 'z'); DELETE FROM u WHERE id = 3; ALTER TABLE u ADD CONSTRAINT u_t2 FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE",
    "ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0), ADD g bigint GENERATED ALWAYS AS (n * 2) STORED; INSERT INTO t (id, n) VALUES (18, 9)",
    "ALTER TABLE t ALTER n DROP NOT NULL, ALTER n SET DEFAULT 40; INSERT INTO t (id, n) VALUES (19, NULL)",
    "UPDATE t SET n = 1 WHERE n IS NULL; ALTER TABLE t ALTER n SET NOT NULL, ALTER e DROP DEFAULT",
    "ALTER TABLE t DROP CONSTRAINT t_pkey CASCADE, ADD PRIMARY KEY (id, n); INSERT INTO t (id, n) VALUES (19, 2); DELETE FROM t WHERE id = 19 AND n = 1",
    "ALTER TABLE t ADD h numeric(10,2) DEFAULT 1.5; ALTER TABLE t ALTER h TYPE numeric(20,2); UPDATE t SET h = 123456789012.25 WHERE id = 1; TRUNCATE u",
    "ALTER TABLE t ALTER h TYPE text; INSERT INTO u VALUES (50, NULL, 'again')",
    "ALTER TABLE t ADD i bytea DEFAULT '\\x00ff', ADD j uuid, ADD k varchar(5) COLLATE \"C\" NOT NULL DEFAULT 'k'; UPDATE t SET j = md5(id::text)::uuid",
    "ALTER TABLE t SET (fillfactor = 70); ALTER TABLE t ALTER word SET STATISTICS 50; COMMENT ON TABLE t IS 'a comment'",
    "CREATE TABLE aside (a int PRIMARY KEY); ALTER TABLE aside ADD b int; INSERT INTO aside VALUES (1, 2); DROP TABLE aside",
    "DROP TABLE other; INSERT INTO t (id) VALUES (20)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_statements() -> Result<()> {
    let mut trial = Trial::running(Pair::POSTGRES, Form::InProcess, TABLES, "").await?;
    for statements in LIST {
        trial.exec(statements).await?;
    }
    trial.equal().await?;
    ensure!(trial.number("SELECT count(*) FROM pg_class WHERE relname IN ('other', 'aside')").await? == 0);
    trial
        .exec(
            "COMMENT ON TABLE t IS NULL; ALTER TABLE t RESET (fillfactor); ALTER TABLE t ALTER word SET STATISTICS -1",
        )
        .await?;
    trial.same_structure().await?;
    // Nothing stays at the source.
    trial.drover.cleanup().await?;
    let mut source = trial.from().await?;
    let left = "SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'tell%') \
        + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'drover%') + (SELECT count(*) FROM pg_publication)";
    ensure!(source.number(left).await? == 0, "something is left at the source");
    Ok(())
}

/// Killed ahead of, in and behind statements among rows of one transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_around_statements() -> Result<()> {
    let mut trial = Trial::running(Pair::POSTGRES, Form::InProcess, TABLES, "").await?;
    trial.drover.kill9_all()?;
    let points = [
        "schema-change-stored:1",
        "schema-executed:1",
        "schema-made-not-noted:1",
        "schema-change-stored:2",
        "schema-executed:2",
    ];
    for (round, point) in points.into_iter().enumerate() {
        trial
            .exec(&format!(
                "BEGIN; INSERT INTO t (id, v) VALUES ({round}00 + 20, 'before'); ALTER TABLE t ADD COLUMN c{round} int DEFAULT {round};
                 INSERT INTO t (id, v, c{round}) VALUES ({round}00 + 21, 'between', 77); UPDATE other SET v = 'other {round}';
                 ALTER TABLE t ALTER c{round} TYPE bigint; UPDATE t SET c{round} = c{round} + 1; COMMIT; DELETE FROM t WHERE id = {round}00 + 20"
            ))
            .await?;
        trial.drover.dies_at(point).await?;
    }
    trial.drover.start().await?;
    trial.drover.wait_consistent().await?;
    trial.equal().await?;
    trial.same_structure().await
}

/// Statements that are rolled back do nothing; large transactions that the server streams before their end are followed as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolled_back_and_streamed() -> Result<()> {
    let mut trial = Trial::new(Pair::POSTGRES, Form::InProcess, TABLES, "", "").await?;
    trial.exec("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'").await?;
    trial.exec("SELECT pg_reload_conf()").await?;
    trial.drover.start().await?;
    trial.drover.wait_consistent().await?;
    let rows = |from: u32, columns: &str, values: &str| {
        format!("INSERT INTO t (id, v{columns}) SELECT i, 'row'{values} FROM generate_series({from}, {from} + 2999) i;")
    };
    let (plain, wide) = (rows(1000, "", ""), rows(5000, ", c", ", i"));
    trial.exec(&format!("BEGIN; {plain} ALTER TABLE t ADD c int; {wide} ROLLBACK")).await?;
    trial.exec(&format!("BEGIN; {plain} SAVEPOINT a; ALTER TABLE t ADD c text; ROLLBACK TO a; ALTER TABLE t ADD c int; {wide} COMMIT")).await?;
    trial.exec("INSERT INTO t (id, c) VALUES (20000, 3)").await?;
    // A savepoint around the statement, rows right behind it.
    trial
        .exec("BEGIN; SAVEPOINT a; ALTER TABLE t ADD d int; RELEASE a; INSERT INTO t (id, d) VALUES (20001, 4); COMMIT")
        .await?;
    trial.equal().await?;
    trial.same_structure().await
}

/// What cannot be carried over stops there, by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_over_stops() -> Result<()> {
    for (statement, why) in [
        ("ALTER TABLE t ALTER n TYPE bigint USING n * 2", "an expression that the log does not tell"),
        ("ALTER TABLE t ADD r float8 DEFAULT random()", "a value of its own for each row"),
        ("ALTER TABLE t RENAME TO renamed", "was renamed to public.renamed"),
    ] {
        let mut trial = Trial::running(Pair::POSTGRES, Form::InProcess, TABLES, "").await?;
        trial.exec(&format!("INSERT INTO t (id) VALUES (30); {statement}")).await?;
        trial.exec("INSERT INTO other VALUES (3, 'behind')").await?;
        let status = trial.drover.main()?.wait_exit(SOON).await?;
        let log = trial.drover.log();
        ensure!(status.code() == Some(1) && log.contains("DR0009") && log.contains(why), "{status}\n{log}");
        ensure!(trial.number("SELECT count(*) FROM other WHERE id = 3").await? == 0, "went on");
    }
    Ok(())
}

/// Partitions that come while changes are followed: made as such, or attached; one that brings rows along stops the migration, since nothing tells them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions() -> Result<()> {
    let tables = "CREATE TABLE p (id int, d int, PRIMARY KEY (id, d)) PARTITION BY LIST (d);
        CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); INSERT INTO p VALUES (1, 1);";
    let mut trial = Trial::running(Pair::POSTGRES, Form::InProcess, tables, "").await?;
    trial.exec("CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2); INSERT INTO p VALUES (2, 2)").await?;
    let apart = |n: u32| format!("CREATE TABLE p{n} (id int NOT NULL, d int NOT NULL)");
    let attach = |n: u32| format!("ALTER TABLE p ATTACH PARTITION p{n} FOR VALUES IN ({n})");
    trial
        .exec(&format!("{}; {}; INSERT INTO p VALUES (3, 3); UPDATE p SET id = 30 WHERE d = 3", apart(3), attach(3)))
        .await?;
    trial.equal().await?;
    trial.same_structure().await?;
    trial.drover.start().await?;
    trial.exec(&format!("{}; INSERT INTO p4 VALUES (4, 4); {}", apart(4), attach(4))).await?;
    let status = trial.drover.main()?.wait_exit(SOON).await?;
    let log = trial.drover.log();
    ensure!(
        status.code() == Some(1) && log.contains("DR0009") && log.contains("p4 was attached with rows in it"),
        "{status}\n{log}"
    );
    Ok(())
}

/// With `stop_table` the others go on; with `stop` nothing does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_hold() -> Result<()> {
    let mut trial =
        Trial::running(Pair::POSTGRES, Form::InProcess, TABLES, "[schema_changes]\npolicy = \"stop_table\"\n").await?;
    trial
        .exec("INSERT INTO t (id) VALUES (30); ALTER TABLE t ALTER n TYPE bigint USING n * 2; INSERT INTO t (id) VALUES (31); INSERT INTO other VALUES (2, 'b')")
        .await?;
    trial.exec("ALTER TABLE other ADD c int DEFAULT 4; INSERT INTO other VALUES (3, 'c', 5)").await?;
    trial.drover.wait_caught_up().await?;
    ensure!(trial.number("SELECT sum(c) FROM other").await? == 13, "the other table goes on");
    ensure!(trial.number("SELECT count(*) FROM t WHERE id > 29").await? <= 1, "the table stopped");
    let mut trial =
        Trial::running(Pair::POSTGRES, Form::InProcess, TABLES, "[schema_changes]\npolicy = \"stop\"\n").await?;
    trial.exec("CREATE INDEX i ON t (v)").await?;
    // A stop does not wait for what is on its way: that is applied when the migration is resumed.
    let made = "SELECT count(*) FROM pg_class WHERE relname = 'i'";
    wait::until("an index is no change of columns", SOON, || async {
        Ok((trial.number(made).await? == 1).then_some(()))
    })
    .await?;
    trial.exec("ALTER TABLE t ADD c int").await?;
    let status = trial.drover.main()?.wait_exit(SOON).await?;
    let log = trial.drover.log();
    ensure!(status.code() == Some(1) && log.contains("DR0009") && log.contains("ADD c int"), "{status}\n{log}");
    Ok(())
}

/// An account that may not create event triggers: a changed table stops the migration, or by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_event_triggers_a_changed_table_stops() -> Result<()> {
    for (policy, code) in [("replicate", Some(1)), ("stop_table", None)] {
        let role = "CREATE ROLE plain LOGIN REPLICATION; GRANT CREATE ON DATABASE drover TO plain; ALTER TABLE t OWNER TO plain; \
            ALTER TABLE u OWNER TO plain; ALTER TABLE other OWNER TO plain";
        let more = format!("[schema_changes]\npolicy = \"{policy}\"\n");
        let as_plain = |mut plan: Plan| {
            plan.source.1 = plan.source.1.replace("drover@", "plain@");
            plan
        };
        let tables = format!("{TABLES} {role}");
        let trial = Trial::with(Pair::POSTGRES, Form::InProcess, &tables, "", &more, as_plain).await?;
        let mut trial = trial.begun().await?;
        trial
            .exec("ALTER TABLE t ADD c int; INSERT INTO t (id, c) VALUES (30, 1); INSERT INTO other VALUES (2, 'b')")
            .await?;
        match code {
            Some(code) => {
                let status = trial.drover.main()?.wait_exit(SOON).await?;
                let log = trial.drover.log();
                ensure!(
                    status.code() == Some(code) && log.contains("DR0009") && log.contains("event triggers"),
                    "{status}\n{log}"
                );
            }
            None => {
                trial.drover.wait_caught_up().await?;
                ensure!(trial.number("SELECT count(*) FROM other").await? == 2, "the other table goes on");
                ensure!(trial.number("SELECT count(*) FROM t").await? == 3, "the table stopped");
            }
        }
    }
    Ok(())
}

/// A sequence of schema changes as they fall, with rows between them, in transactions of several statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_they_fall() -> Result<()> {
    let mut trial = Trial::running(Pair::POSTGRES, Form::InProcess, TABLES, "").await?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    // Columns besides the key, and whether each is a number.
    let mut columns: Vec<(String, bool)> = vec![("v".into(), false), ("n".into(), true)];
    for step in 0..60 {
        let mut sql = String::from("BEGIN;");
        for part in 0..=next(3) {
            let at = next(columns.len());
            let name = columns[at].0.clone();
            let fresh = format!("c{step}_{part}");
            match next(6) {
                0 => {
                    sql.push_str(&format!("ALTER TABLE t ADD {fresh} int DEFAULT {step};"));
                    columns.push((fresh, true));
                }
                1 => {
                    sql.push_str(&format!("ALTER TABLE t ADD {fresh} varchar(99);"));
                    columns.push((fresh, false));
                }
                2 if columns.len() > 3 => {
                    sql.push_str(&format!("ALTER TABLE t DROP {name};"));
                    columns.remove(at);
                }
                3 => {
                    sql.push_str(&format!("ALTER TABLE t RENAME {name} TO {fresh};"));
                    columns[at].0 = fresh;
                }
                4 => {
                    let to = if columns[at].1 { "numeric" } else { "text" };
                    sql.push_str(&format!("ALTER TABLE t ALTER {name} TYPE {to};"));
                }
                _ => sql.push_str(&format!("CREATE INDEX i{fresh} ON t ({name});")),
            }
            let names: Vec<&str> = columns.iter().map(|c| c.0.as_str()).collect();
            let values: Vec<String> =
                columns.iter().map(|c| if c.1 { step.to_string() } else { format!("'row {step}'") }).collect();
            sql.push_str(&format!(
                "INSERT INTO t (id, {}) VALUES ({}, {}); UPDATE t SET {} = {} WHERE id % 3 = 0;",
                names.join(", "),
                1000 + step * 10 + part,
                values.join(", "),
                names[0],
                values[0]
            ));
        }
        sql.push_str(if next(5) == 0 { "COMMIT; BEGIN; ALTER TABLE t ADD never int; ROLLBACK" } else { "COMMIT" });
        trial.exec(&sql).await?;
    }
    trial.equal().await?;
    trial.same_structure().await
}

/// Between kinds: the same structures, in the destination's own statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_mysql() -> Result<()> {
    let pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::Postgres(15) };
    let tables = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), n INT NOT NULL DEFAULT 1); CREATE TABLE u (id INT PRIMARY KEY, w VARCHAR(9));
        INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2); INSERT INTO u VALUES (1, 'x')";
    let mut trial = Trial::running(pair, Form::InProcess, tables, "").await?;
    trial
        .exec(
            "INSERT INTO t (id, v) VALUES (10, 'before'); ALTER TABLE t ADD c INT; INSERT INTO t (id, v, c) VALUES (11, 'after', 5);
             ALTER TABLE t ADD d VARCHAR(10) NOT NULL DEFAULT 'it''s' AFTER id, ADD e INT NOT NULL, ADD f VARCHAR(3) NOT NULL; INSERT INTO t (id, e, f) VALUES (12, 3, 'f');
             ALTER TABLE t MODIFY n BIGINT NOT NULL DEFAULT 7, CHANGE v word VARCHAR(200); UPDATE t SET n = 5000000000, word = repeat('x', 150) WHERE id = 10;
             ALTER TABLE t DROP COLUMN c, ADD INDEX w (word), ALTER e SET DEFAULT 9; INSERT INTO t (id, f) VALUES (13, 'g');
             ALTER TABLE t RENAME COLUMN d TO tmp, RENAME COLUMN word TO d; UPDATE t SET tmp = 'swapped' WHERE id = 13;
             CREATE UNIQUE INDEX k ON u (w); DROP INDEX w ON t; TRUNCATE TABLE u; INSERT INTO u VALUES (5, 'again');
             CREATE TABLE fresh (a INT PRIMARY KEY, b TEXT); INSERT INTO fresh VALUES (1, 'x'); ALTER TABLE t MODIFY n BIGINT NULL; INSERT INTO t (id, n, f) VALUES (14, NULL, 'h')",
        )
        .await?;
    trial.equal().await?;
    let left = trial.number("SELECT count(*) FROM pg_indexes WHERE indexname IN ('u_k', 't_w')").await?;
    ensure!(left == 1, "{left} indexes");
    // What could change values stops.
    trial.drover.start().await?;
    trial.exec("ALTER TABLE t MODIFY n INT").await.err();
    trial.exec("UPDATE t SET n = 1; ALTER TABLE t MODIFY n INT").await?;
    let status = trial.drover.main()?.wait_exit(SOON).await?;
    let log = trial.drover.log();
    ensure!(status.code() == Some(1) && log.contains("was converted from"), "{status}\n{log}");
    Ok(())
}
