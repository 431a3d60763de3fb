//! A whole migration under load, in both forms: schema, rows, changes; equal in the end, and from the moment of "consistent" on a
//! reader at the destination sees nothing but prefixes of the source's history. No statement of the application fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::{Deployment, Dialect, Form, Observer, Pair, compare, mysql_to_postgres, scene, suite, workload};

const SOON: Duration = Duration::from_secs(60);

/// Types, keys, defaults and objects beside the workload's tables.
const POSTGRES: &str = r#"
    CREATE SCHEMA shop;
    CREATE TYPE shop.mood AS ENUM ('sad', 'so so', 'happy');
    CREATE DOMAIN shop.percent AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100);
    CREATE SEQUENCE shop.number START 1000 INCREMENT 7;
    CREATE TABLE shop."Odd Name" (
        "the key" integer GENERATED ALWAYS AS IDENTITY, part text COLLATE "C", mood shop.mood DEFAULT 'so so', share shop.percent,
        moods shop.mood[], r int4range, doubled integer GENERATED ALWAYS AS (number * 2) STORED,
        number integer NOT NULL DEFAULT nextval('shop.number'), "Große Spalte" varchar(20) CHECK ("Große Spalte" <> 'never'),
        PRIMARY KEY ("the key", part), UNIQUE (number));
    CREATE INDEX odd_partial ON shop."Odd Name" (lower("Große Spalte")) WHERE mood = 'happy';
    CREATE TABLE shop.leaf (tree text DEFAULT 'x', line bigserial PRIMARY KEY, "at" timestamptz DEFAULT now(), bare text);
    CREATE TABLE shop.nothing_in (id uuid PRIMARY KEY);
    INSERT INTO shop."Odd Name" (part, mood, share, moods, r, "Große Spalte")
        SELECT 'p' || i % 10, (ARRAY['sad', 'so so', 'happy', NULL])[i % 4 + 1]::shop.mood, i % 101, ARRAY['sad', NULL]::shop.mood[],
               int4range(i, i + 5), CASE WHEN i % 3 = 0 THEN NULL ELSE 'ß' || i END FROM generate_series(1, 500) i;
    INSERT INTO shop.leaf (bare) SELECT repeat('y', i) FROM generate_series(1, 300) i;
"#;
const POSTGRES_CHANGES: &str = "
    INSERT INTO shop.\"Odd Name\" (part, mood, r) VALUES ('live', 'happy', 'empty'), ('live', NULL, '(,7]');
    UPDATE shop.\"Odd Name\" SET share = 33.33, moods = '{}' WHERE number % 3 = 0; DELETE FROM shop.leaf WHERE line % 7 = 0;
    UPDATE shop.leaf SET line = line + 100000 WHERE line % 5 = 0; INSERT INTO shop.nothing_in VALUES (gen_random_uuid())";

/// The same for the MySQL family. A trigger must not act twice; cascades reach further than one table.
fn mysql() -> String {
    let series = |last| Dialect::MySql.series(last);
    format!(
        r#"
    CREATE TABLE `Odd ``Name` (
        `the key` integer NOT NULL AUTO_INCREMENT, part varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        mood enum('sad', 'so so', 'happy''s') DEFAULT 'so so', share decimal(5,2) DEFAULT 0.50 COMMENT 'it''s a \\ part',
        moods set('sad', 'glad'), doubled integer GENERATED ALWAYS AS (number * 2) STORED,
        halved integer GENERATED ALWAYS AS (number / 2) VIRTUAL, number integer NOT NULL DEFAULT 7, `Große Spalte` varchar(20),
        PRIMARY KEY (`the key`, part), UNIQUE KEY odd_number (number), KEY odd_prefix (`Große Spalte`(3), number DESC),
        CONSTRAINT odd_share CHECK (share BETWEEN 0 AND 100)) COMMENT 'an odd one';
    CREATE TABLE leaf (tree varchar(10) DEFAULT 'x', line bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
        `at` timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, bare mediumtext, FULLTEXT KEY words (bare));
    CREATE TABLE seen (line bigint unsigned, what text);
    CREATE TABLE nothing_in (id binary(16) PRIMARY KEY);
    CREATE TABLE parted (id integer NOT NULL, v varchar(20), PRIMARY KEY (id)) PARTITION BY HASH (id) PARTITIONS 3;
    CREATE TABLE top (id integer PRIMARY KEY, up integer, KEY top_up (up),
        CONSTRAINT top_up FOREIGN KEY (up) REFERENCES top (id) ON DELETE CASCADE);
    CREATE TABLE leg (id integer PRIMARY KEY, top integer, note varchar(20) UNIQUE, KEY leg_top (top),
        CONSTRAINT leg_top FOREIGN KEY (top) REFERENCES top (id) ON UPDATE CASCADE ON DELETE CASCADE);
    CREATE TABLE foot (id integer PRIMARY KEY, leg integer, KEY foot_leg (leg),
        CONSTRAINT foot_leg FOREIGN KEY (leg) REFERENCES leg (id) ON DELETE SET NULL);
    CREATE VIEW cheerful AS SELECT part, mood FROM `Odd ``Name` WHERE mood = 'happy''s';
    CREATE TRIGGER leaf_seen AFTER INSERT ON leaf FOR EACH ROW INSERT INTO seen VALUES (NEW.line, 'new');
    CREATE FUNCTION twice(n integer) RETURNS integer DETERMINISTIC RETURN n * 2;
    CREATE PROCEDURE nothing(IN n integer) SELECT n;
    INSERT INTO `Odd ``Name` (part, mood, share, moods, number, `Große Spalte`)
        SELECT concat('p', i % 10), elt(i % 4 + 1, 'sad', 'so so', 'happy''s', NULL), i % 101, 'sad,glad', i * 7,
               CASE WHEN i % 3 = 0 THEN NULL ELSE concat('ß', i) END FROM {} i;
    INSERT INTO leaf (bare) SELECT repeat('y', i) FROM {} i;
    INSERT INTO parted SELECT i, concat('v', i) FROM {} i;
    INSERT INTO top SELECT i, CASE WHEN i > 10 THEN i DIV 10 END FROM {} i;
    INSERT INTO leg SELECT i, i % 99 + 1, concat('n', i) FROM {} i;
    INSERT INTO foot SELECT i, i % 200 + 1 FROM {} i;
    "#,
        series(500),
        series(300),
        series(100),
        series(99),
        series(200),
        series(400),
    )
}
const MYSQL_CHANGES: &str = "
    INSERT INTO `Odd ``Name` (part, mood, number) VALUES ('live', 'happy''s', 1), ('live', NULL, 2);
    UPDATE `Odd ``Name` SET share = 33.33, moods = '' WHERE number % 3 = 0; DELETE FROM leaf WHERE line % 7 = 0;
    UPDATE leaf SET line = line + 100000 WHERE line % 5 = 0; INSERT INTO leaf (bare) VALUES ('live'), (NULL);
    INSERT INTO nothing_in VALUES (unhex(replace(uuid(), '-', ''))); UPDATE parted SET id = id + 1000 WHERE id % 3 = 0;
    DELETE FROM top WHERE id = 2; BEGIN; DELETE FROM top WHERE id IN (50, 51);
    INSERT INTO top VALUES (50, NULL); INSERT INTO leg VALUES (1000, 50, 'n49'); COMMIT;
    REPLACE INTO leg VALUES (3, 5, 'n7'); INSERT INTO parted VALUES (1, 'x') ON DUPLICATE KEY UPDATE v = 'y';
    UPDATE leg SET note = NULL WHERE id < 3;";

async fn whole(pair: Pair, form: Form) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    let options = workload::Options { seed: 1, rate: Some(60.0), ..workload::Options::default() };
    let mut application = source.connect(database).await?;
    workload::create(&mut application, &options).await?;
    let (rich, changes) = match pair.source.dialect() {
        Dialect::Postgres => (POSTGRES.to_owned(), POSTGRES_CHANGES),
        Dialect::MySql => (mysql(), MYSQL_CHANGES),
    };
    application.run(&rich).await?;
    let running = workload::start(&source.url(database), &options).await?;
    let mut drover =
        Deployment::new(form, &source, &destination, scene::consent(pair.source), scene::policies(pair)).await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    let observer = Observer::start(&destination.url(scene::there(&source, &destination)), options).await?;
    application.run(changes).await?;
    running.advance(400, SOON).await?;
    let transactions = running.stop().await.context("a statement of the application failed")?;
    drover.wait_caught_up().await?;
    let readings = observer.stop().await?;
    let mut copy = destination.connect(scene::there(&source, &destination)).await?;
    compare::expect_equal(&mut application, &mut copy).await?;
    // MySQL's triggers would act on what is applied: they are made when the application moves over.
    if application.dialect() == copy.dialect() {
        compare::same_structure_but(&mut application, &mut copy, "trigger").await?;
    }
    workload::check(&mut copy, &options).await?;
    ensure!(transactions > 400, "{transactions} transactions");
    println!("{transactions} transactions, {readings} readings");
    Ok(())
}

suite! {
    everywhere in_process;
    wide in_a_cluster;
}

mysql_to_postgres! {
    between_kinds_in_process;
    between_kinds_in_a_cluster;
}

async fn between_kinds_in_process(pair: Pair) -> Result<()> {
    whole(pair, Form::InProcess).await
}

async fn between_kinds_in_a_cluster(pair: Pair) -> Result<()> {
    whole(pair, Form::Cluster).await
}

async fn in_process(pair: Pair) -> Result<()> {
    whole(pair, Form::InProcess).await
}

async fn in_a_cluster(pair: Pair) -> Result<()> {
    whole(pair, Form::Cluster).await
}
