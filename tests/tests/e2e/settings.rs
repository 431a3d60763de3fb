//! What an administrator set for the application's sessions does not hold for drover's.

use anyhow::{Result, ensure};
use drover_tests::{Engine, Form, Pair, Trial};

/// A server since 17 knows all of them.
const PAIR: Pair = Pair { source: Engine::Postgres(17), destination: Engine::Postgres(17) };

/// Of a database: what literals and texts mean, what a transaction sees, and how long it may take.
const SETTINGS: [(&str, &str); 11] = [
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("standard_conforming_strings", "off"),
    ("quote_all_identifiers", "on"),
    ("default_transaction_isolation", "serializable"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Asia/Kathmandu"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-3"),
    ("transaction_timeout", "3s"),
];

const TABLES: &str = r"CREATE TABLE t (id int PRIMARY KEY, texts text[], whens timestamptz, span interval, bytes bytea, ratio float8,
        word text DEFAULT E'a\\b' CHECK (word <> E'\\'), day date);
    CREATE INDEX marked ON t (id) WHERE word = E'a\\b';
    CREATE VIEW backslashes AS SELECT id FROM t WHERE word LIKE E'%\\\\%' OR texts IS NULL;
    INSERT INTO t SELECT i, ARRAY['NULL', NULL, 'a\b', 'x'], timestamptz '2020-03-04 05:06:07.123456+00' + i * interval '1 hour',
        interval '1 mon -2 days 03:04:05', decode(md5(i::text), 'hex'), 1.0 / (i + 1), E'a\\b', date '2020-03-04' + i FROM generate_series(1, 1000) i;
    CREATE TABLE big (id int PRIMARY KEY, filler text);
    INSERT INTO big SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 1000) i";

/// A copy that takes longer than a transaction may, and changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_postgresql_database() -> Result<()> {
    let slow = "[limits]\nfull = { megabytes_per_second = 2 }\n";
    let mut trial = Trial::new(PAIR, Form::InProcess, TABLES, "", slow).await?;
    for server in [&trial.source, &trial.destination] {
        let database = server.engine().database();
        for (name, value) in SETTINGS {
            server.exec(database, &format!("ALTER DATABASE {database} SET {name} = '{value}'")).await?;
        }
    }
    let begun = std::time::Instant::now();
    trial = trial.begun().await?;
    ensure!(begun.elapsed().as_secs() > 3, "the copy took no longer than a transaction may");
    trial
        .exec(
            r#"UPDATE t SET texts = '{"NULL",b}', word = 'c\\d', ratio = ratio * 3, whens = whens + interval '1 second' WHERE id % 3 = 0;
            UPDATE t SET texts = ARRAY[NULL, 'NULL'] WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0; UPDATE big SET filler = id::text WHERE id < 500"#,
        )
        .await?;
    trial.equal().await?;
    trial.same_structure().await?;
    // As stored, whatever this session's settings make of it.
    let sums = "SELECT md5(string_agg(row_to_json(t)::text, ',' ORDER BY id)) FROM t";
    let (from, to) = (trial.from().await?.text(sums).await?, trial.to().await?.text(sums).await?);
    ensure!(from.is_some() && from == to, "{from:?} {to:?}");
    Ok(())
}
