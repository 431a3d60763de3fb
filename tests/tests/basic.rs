//! A whole migration under load, in both forms: schema, rows, changes; equal in the end, and from the moment of "consistent" on a
//! reader at the destination sees nothing but prefixes of the source's history. No statement of the application fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::{Deployment, Form, Observer, PgOptions, Postgres, compare, workload};

const SOON: Duration = Duration::from_secs(60);
const ALL: &str = "set_identity = true";

/// Types, keys, defaults and objects beside the workload's tables.
const RICH: &str = r#"
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

/// What the catalogue says about a table beyond its columns' names, as one text a line.
const STRUCTURE: &str = "
    SELECT 'column ' || attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '
           || attidentity::text || attgenerated::text || ' ' || coalesce(pg_get_expr(adbin, adrelid), '')
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind = 'r' AND nspname IN ('public', 'shop') AND relname <> 'dts_postgres_heartbeat' AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(k.oid) || ' ' || convalidated
      FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace
     WHERE conrelid <> 0 AND conrelid::regclass::text !~ 'dts_' AND contype <> 'n' AND nspname IN ('public', 'shop')
    UNION ALL
    SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname IN ('public', 'shop') AND tablename !~ 'dts_'";

async fn whole(form: Form, from: u32, to: u32) -> Result<()> {
    let (source, destination) = tokio::try_join!(
        Postgres::start(PgOptions { version: from, settings: &[] }),
        Postgres::start(PgOptions { version: to, settings: &[] })
    )?;
    let options = workload::Options { seed: u64::from(from * 100 + to), rate: Some(60.0), ..workload::Options::default() };
    let application = source.connect("drover").await?;
    workload::create(&application, &options).await?;
    application.batch_execute(RICH).await?;
    let running = workload::start(&source.url("drover"), &options).await?;
    let mut drover = Deployment::new(form, &source, &destination, ALL, "").await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    let observer = Observer::start(&destination.url("drover"), options).await?;
    let changes = "INSERT INTO shop.\"Odd Name\" (part, mood, r) VALUES ('live', 'happy', 'empty'), ('live', NULL, '(,7]');
        UPDATE shop.\"Odd Name\" SET share = 33.33, moods = '{}' WHERE number % 3 = 0; DELETE FROM shop.leaf WHERE line % 7 = 0;
        UPDATE shop.leaf SET line = line + 100000 WHERE line % 5 = 0; INSERT INTO shop.nothing_in VALUES (gen_random_uuid())";
    application.batch_execute(changes).await?;
    running.advance(400, SOON).await?;
    let transactions = running.stop().await.context("a statement of the application failed")?;
    drover.wait_caught_up().await?;
    let readings = observer.stop().await?;
    let copy = destination.connect("drover").await?;
    compare::expect_equal(&application, &copy).await?;
    compare::expect_none(&compare::queries(&application, &copy, &[(STRUCTURE, STRUCTURE)]).await?)?;
    workload::check(&copy, &options).await?;
    ensure!(transactions > 400, "{transactions} transactions");
    println!("{transactions} transactions, {readings} readings");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_process() -> Result<()> {
    whole(Form::InProcess, 15, 15).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() -> Result<()> {
    whole(Form::Cluster, 15, 15).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_15_to_17() -> Result<()> {
    whole(Form::InProcess, 15, 17).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_17_to_15() -> Result<()> {
    whole(Form::InProcess, 17, 15).await
}
