//! From PostgreSQL to MySQL and MariaDB: tables, rows and changes of every type, equal in the end by a comparison that knows nothing of drover and by
//! drover's own; what has no place there is refused, or decided by a policy, and named.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::{Deployment, Dialect, Form, Observer, Pair, chinook, compare, postgres_to_mysql, scene, workload};

const SOON: Duration = Duration::from_secs(60);

postgres_to_mysql! {
    the_chinook_sample;
    every_type;
    values_without_a_place;
    under_load_in_process;
    under_load_in_a_cluster;
    under_load_with_kills;
}

async fn the_chinook_sample(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    println!("{pair}: {}", chinook::load(&source, database).await?);
    let mut drover = Deployment::new(Form::InProcess, &source, &destination, scene::consent(pair.source), "").await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source.exec(database, chinook::changes(Dialect::Postgres)).await?;
    drover.wait_caught_up().await?;
    scene::equal(&source, &destination, &mut drover).await?;
    let mut from = source.connect(database).await?;
    let mut to = destination.connect(scene::there(&source, &destination)).await?;
    let ours = from
        .number(
            "SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f')
            AND conrelid::regclass::text <> 'dts_postgres_heartbeat'",
        )
        .await?;
    let theirs = to
        .number(
            "SELECT count(*) FROM information_schema.table_constraints WHERE constraint_schema = database()
            AND constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY')",
        )
        .await?;
    ensure!(ours == theirs && ours >= 18, "{ours} keys and foreign keys became {theirs}");
    scene::validated(&drover).await?;
    drover.cleanup().await?;
    let left = to.number("SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'drover'").await?;
    ensure!(left == 0, "cleanup leaves drover's database");
    Ok(())
}

/// Every type with awkward values, in keys too; changes that leave large values out.
const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s \ fine');
    CREATE DOMAIN percent AS numeric(5,2);
    CREATE TABLE kinds (k text, n integer, b boolean DEFAULT true, i2 smallint, i8 bigint, f4 real, f8 double precision, num numeric, d numeric(10,2),
        p percent DEFAULT 12.5, v varchar(10) DEFAULT 'it''s \', c char(5), y bytea DEFAULT '\x00ff', da date DEFAULT '2020-02-29', ti time, tz timetz,
        ts timestamp(3) DEFAULT now(), tstz timestamptz NOT NULL DEFAULT now(), iv interval, u uuid, j json, jb jsonb DEFAULT '{"a": 1}', vb bit varying(70),
        m mood DEFAULT 'so so', a integer[], r int4range, ip inet, x xml, big text, o oid, "Odd `name" text, PRIMARY KEY (k, n));
    ALTER TABLE kinds ALTER big SET STORAGE EXTERNAL;
    INSERT INTO kinds VALUES
        ('a', 1, true, -32768, 9223372036854775807, 0.1, 1.7976931348623157e308, 123.4500, 1.50, 99.99, 'it''s', 'ab', '\x00ff5c0a09270d', '2024-02-29', '23:59:59.5',
         '10:00+02', '2024-01-01 10:00:00.123', '2024-06-01 12:00:00.5+02', '1 year 2 days 03:04:05', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"b": 1,  "a": 2, "a": 3}',
         '{"b": 1.50, "a": [true, null, "x\u00e4\n"]}', '10101', E'it''s \\ fine', '{1,2,NULL}', '[1,5)', '10.0.0.1/8', '<a/>', repeat('x', 100000), 4294967295, 'odd'),
        ('a ', 1, false, 32767, -9223372036854775808, '-1e-30', 5e-324, 0, -0.01, 0, 'ß', '', '', '0001-01-01', '24:00:00', NULL, '1999-12-31 23:59:59.999',
         '1900-01-01 00:00:00+00', NULL, NULL, 'null', '"\u0001\\"', '', NULL, '{}', 'empty', NULL, NULL, E'tab\there\nnew\\line\r', 0, NULL),
        ('A', 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '9999-12-31 23:59:59.999999+00', NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (repeat('ä', 700) || '1', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-01-01', NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (repeat('ä', 700) || '2', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2024-01-01', NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    CREATE TABLE by_bytes (y bytea PRIMARY KEY, t timestamptz UNIQUE, u uuid UNIQUE, d numeric(8,3) UNIQUE, b boolean);
    INSERT INTO by_bytes SELECT decode(md5(i::text), 'hex'), timestamptz '2020-01-01' + i * interval '0.5 s', md5(i::text)::uuid, i / 8.0, i % 2 = 0
        FROM generate_series(1, 3000) i;
    CREATE TABLE child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k text, n integer, y bytea REFERENCES by_bytes,
        FOREIGN KEY (k, n) REFERENCES kinds (k, n) ON UPDATE CASCADE ON DELETE SET NULL);
    CREATE INDEX child_k ON child (k DESC, n);
    INSERT INTO child (k, n) VALUES ('a', 1), ('a ', 1), (NULL, NULL);
    CREATE TABLE keyless (a integer, b text, j jsonb, t timestamptz, c char(3));
    INSERT INTO keyless VALUES (1, 'x', '{"z": 1, "b": 2.50}', '2024-01-01', 'a'), (1, 'x', NULL, NULL, 'a'), (1, 'x', NULL, NULL, 'a'), (1, 'x ', NULL, NULL, 'a');
    CREATE TABLE parted (id integer, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (1000);
    INSERT INTO parted SELECT i, 'v' || i FROM generate_series(1, 300) i;
"#;
const CHANGES: &str = r#"
    UPDATE kinds SET b = NOT b WHERE k = 'a';
    UPDATE kinds SET tstz = '2040-01-01 00:00:00.000001+00', y = '\xdeadbeef', jb = '{"q": 1e2}', d = 99999999.99, c = 'x' WHERE k = 'a ';
    UPDATE kinds SET big = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 3000) i) WHERE n = 2;
    UPDATE kinds SET i2 = 7 WHERE n = 2;
    UPDATE kinds SET k = 'moved' WHERE n = 2;
    INSERT INTO kinds (k, n, f4, f8, num, ti) SELECT 'i' || i, i, i / 3.0, i / 7.0, i / 9.0, time '00:00' + i * interval '1.001 s' FROM generate_series(10, 900) i;
    DELETE FROM kinds WHERE n BETWEEN 100 AND 120;
    UPDATE kinds SET k = 'b' WHERE k = 'a';
    INSERT INTO keyless VALUES (2, 'two', '{"k": [1, 2.50]}', '2024-01-01 00:00:00+00', 'zz');
    DELETE FROM keyless WHERE a = 1 AND j IS NOT NULL;
    DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE a = 1 AND b = 'x' LIMIT 1);
    UPDATE keyless SET b = 'z' WHERE a = 2;
    UPDATE by_bytes SET d = d + 0.001 WHERE b; UPDATE by_bytes SET y = y || '\x00', u = NULL WHERE NOT b;
    BEGIN; UPDATE by_bytes SET t = NULL WHERE d < 100; UPDATE by_bytes SET t = timestamptz '2030-01-01' + d * interval '1 s' WHERE d < 100; COMMIT;
    DELETE FROM by_bytes WHERE d > 300;
    TRUNCATE parted; INSERT INTO parted VALUES (1, 'x'), (500, 'y'); UPDATE parted SET id = 700 WHERE id = 1;
"#;

async fn every_type(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source.exec(database, TYPES).await?;
    let mut drover = Deployment::new(Form::InProcess, &source, &destination, scene::consent(pair.source), "").await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source.exec(database, CHANGES).await?;
    drover.wait_caught_up().await?;
    scene::equal(&source, &destination, &mut drover).await?;
    scene::validated(&drover).await?;
    // The application goes on there: defaults and counters.
    let mut to = destination.connect(scene::there(&source, &destination)).await?;
    to.run("INSERT INTO kinds (k, n) VALUES ('new', 1); INSERT INTO child (n) VALUES (NULL)").await?;
    let made = to
        .number(
            "SELECT count(*) FROM kinds WHERE k = 'new' AND b = 1 AND p = 12.5 AND v = 'it''s \\\\' AND y = x'00ff' AND da = '2020-02-29'
            AND m = 'so so' AND jb LIKE '{\"a\": 1}' AND abs(timestampdiff(SECOND, tstz, utc_timestamp())) < 60",
        )
        .await?;
    ensure!(made == 1, "defaults are not the source's");
    let differs = to.number("SELECT count(*) FROM child").await?;
    ensure!(differs == 4, "{differs} children");
    // What is other there, validate finds.
    to.run("UPDATE kinds SET b = 1 - b WHERE k = 'b'; DELETE FROM kinds WHERE k = 'new'; DELETE FROM child WHERE k IS NULL AND id > 3").await?;
    let file = drover.file.display().to_string();
    let found = drover.call(&["validate", &file]).await?;
    ensure!(found.code != Some(0), "validate overlooks a changed row: {}", found.stdout);
    Ok(())
}

/// Values that the types there do not have.
async fn values_without_a_place(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source
        .exec(
            database,
            "CREATE TABLE odd (id integer PRIMARY KEY, at timestamptz, d date, n numeric(10,2), f double precision, long text UNIQUE);
             INSERT INTO odd VALUES (7, 'infinity', '2024-01-01', 1, 1, 'x')",
        )
        .await?;
    // By default it ends, and says where.
    let drover = Deployment::new(Form::InProcess, &source, &destination, "stages = [\"schema\", \"full\"]", "").await?;
    let file = drover.file.display().to_string();
    let ended = drover.call(&["run", &file]).await?;
    ensure!(ended.code == Some(1), "{ended:?}");
    for word in ["DR0014", "public.odd", "id=7", "column at", "infinity", "on_misfit"] {
        let named = ended.stderr.contains(word) || (word == "public.odd" && ended.stderr.contains("app.odd"));
        ensure!(named, "{word} is not named: {}", ended.stderr);
    }
    drover.call(&["cleanup", &file]).await?.expect(0)?;
    destination.exec(scene::there(&source, &destination), "DROP TABLE odd").await?;
    // Each policy does what it says.
    let policies = "[[objects]]\ninclude = \"public.*\"\n\
        columns = { on_misfit = { at = \"clamp\", d = \"null\", n = \"text\", f = \"null\", long = \"clamp\" } }\n";
    let mut drover = Deployment::new(Form::InProcess, &source, &destination, "", policies).await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source
        .exec(
            database,
            "INSERT INTO odd VALUES (8, '-infinity', '0044-03-15 BC', 'NaN', '-Infinity', repeat('ü', 769)), (9, '2024-01-01', '2024-01-01', 1.5, 1.5, 'y');
             UPDATE odd SET f = 'NaN' WHERE id = 9",
        )
        .await?;
    drover.wait_caught_up().await?;
    let mut to = destination.connect(scene::there(&source, &destination)).await?;
    let found = to.rows("SELECT concat_ws('|', id, at, coalesce(d, '-'), n, coalesce(f, '-'), char_length(`long`)) FROM odd ORDER BY id").await?;
    let found: Vec<String> = found.into_iter().flatten().flatten().collect();
    let wanted = [
        "7|9999-12-31 23:59:59.999999|2024-01-01|1.00|1|1",
        "8|0001-01-01 00:00:00.000000|-|NaN|-|768",
        "9|2024-01-01 00:00:00.000000|2024-01-01|1.50|-|1",
    ];
    ensure!(found == wanted, "{found:?}");
    let counted = to
        .rows(
            "SELECT concat_ws('|', column_name, policy, occurrences, example) FROM drover.drover_misfit
             WHERE column_name <> 'long' ORDER BY column_name",
        )
        .await?;
    let counted: Vec<String> = counted.into_iter().flatten().flatten().collect();
    let wanted = ["at|clamp|2|infinity", "d|null|1|0044-03-15 BC", "f|null|2|-Infinity"];
    ensure!(counted == wanted, "{counted:?}");
    let file = drover.file.display().to_string();
    let listed = drover.call(&["misfits", &file]).await?.expect(0)?.stdout;
    for named in [
        "id=7: infinity became 9999-12-31",
        "id=8: -infinity became 0001-01-01",
        "id=8: 0044-03-15 BC became null",
        "id=9: NaN became null",
    ] {
        ensure!(listed.contains(named), "{named}: {listed}");
    }
    ensure!(listed.contains("public.odd.at: 2 values") && listed.contains("the first of them infinity"), "{listed}");
    scene::validated(&drover).await?;
    let log = drover.log();
    ensure!(log.contains("does not fit") && log.contains("infinity"), "replaced values are named: {log}");
    Ok(())
}

async fn under_load(pair: Pair, form: Form, kills: usize) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    let options = workload::Options { seed: 1, rate: Some(60.0), ..workload::Options::default() };
    let mut application = source.connect(database).await?;
    workload::create(&mut application, &options).await?;
    let running = workload::start(&source.url(database), &options).await?;
    let mut drover =
        Deployment::new(form, &source, &destination, scene::consent(pair.source), scene::policies(pair)).await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    let there = scene::there(&source, &destination);
    let observer = Observer::start(&destination.url(there), options).await?;
    for _ in 0..kills {
        running.advance(60, SOON).await?;
        drover.kill9_all()?;
        drover.start().await?;
    }
    running.advance(400, SOON).await?;
    let transactions = running.stop().await.context("a statement of the application failed")?;
    drover.wait_caught_up().await?;
    let readings = observer.stop().await?;
    let mut copy = destination.connect(there).await?;
    compare::expect_equal(&mut application, &mut copy).await?;
    workload::check(&mut copy, &options).await?;
    ensure!(transactions > 400, "{transactions} transactions");
    println!("{transactions} transactions, {readings} readings");
    if form == Form::InProcess { scene::validated(&drover).await } else { Ok(()) }
}

async fn under_load_in_process(pair: Pair) -> Result<()> {
    under_load(pair, Form::InProcess, 0).await
}

async fn under_load_in_a_cluster(pair: Pair) -> Result<()> {
    under_load(pair, Form::Cluster, 0).await
}

async fn under_load_with_kills(pair: Pair) -> Result<()> {
    under_load(pair, Form::InProcess, 4).await
}
