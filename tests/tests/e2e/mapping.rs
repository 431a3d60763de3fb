//! What the migration file asks for arrives, in the copy and in the changes: filters, renamed schemas, tables and columns, columns
//! left out, operations left out, tables left out. And TRUNCATE.

use anyhow::{Result, ensure};
use drover_tests::{Dialect, Form, Pair, Scene, compare, scene, suite};

fn source(dialect: Dialect) -> String {
    let all = dialect.series(400);
    let small = dialect.series(50);
    let plain = format!(
        "CREATE TABLE audit_x (id int PRIMARY KEY); INSERT INTO audit_x VALUES (1);
        CREATE TABLE kept (id int PRIMARY KEY, v int); INSERT INTO kept SELECT i, i FROM {small} i;
        CREATE TABLE emptied (id int PRIMARY KEY, v int); INSERT INTO emptied SELECT i, i FROM {small} i;"
    );
    match dialect {
        Dialect::Postgres => format!(
            "CREATE TABLE customer (id bigint PRIMARY KEY, first_name text, fax text, country integer NOT NULL, big text);
            ALTER TABLE customer ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
            INSERT INTO customer SELECT i, 'name ' || i, 'fax', i % 4, repeat(md5(i::text), 100) FROM {all} i; {plain}
            CREATE TABLE emptied_child (id int PRIMARY KEY, up int REFERENCES emptied);
            INSERT INTO emptied_child SELECT i, i FROM generate_series(1, 9) i;"
        ),
        // A table that others refer to cannot be truncated.
        Dialect::MySql => format!(
            "CREATE TABLE customer (id bigint PRIMARY KEY, first_name varchar(60), fax text, country integer NOT NULL, big mediumtext);
            INSERT INTO customer SELECT i, concat('name ', i), 'fax', i % 4, repeat(sha2(i, 256), 50) FROM {all} i; {plain}
            CREATE TABLE emptied_child (id int PRIMARY KEY, up int); INSERT INTO emptied_child VALUES (1, 1), (2, 2);"
        ),
    }
}

/// `{}` stands for the schema, or the database.
const OBJECTS: &str = r#"
[[objects]]
include = "{}.*"
exclude = ["{}.audit_*"]
[[objects]]
include = "{}.customer"
rename = "crm.client"
where = "country in (1, 2)"
columns = { drop = ["fax"], rename = { first_name = "given name" } }
[[objects]]
include = "{}.kept"
operations = ["insert", "update"]
"#;

async fn as_asked(pair: Pair, form: Form) -> Result<()> {
    let dialect = pair.source.dialect();
    let (schema, given_name, truncated) = match dialect {
        Dialect::Postgres => (
            "public",
            "\"given name\"",
            "BEGIN; INSERT INTO emptied VALUES (100, 1); TRUNCATE emptied CASCADE; INSERT INTO emptied VALUES (1, 1), (101, 1); COMMIT",
        ),
        Dialect::MySql => (
            pair.source.database(),
            "`given name`",
            "INSERT INTO emptied VALUES (100, 1); TRUNCATE emptied; TRUNCATE emptied_child; INSERT INTO emptied VALUES (1, 1), (101, 1)",
        ),
    };
    let objects = OBJECTS.replace("{}", schema);
    let mut scene = Scene::of_with(pair, form, &source(dialect), scene::consent(pair.source), &objects).await?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let insert =
        format!("INSERT INTO customer SELECT i + 1999, NULL, 'f', (i + 1999) % 4, 'b' FROM {} i", dialect.series(31));
    for sql in [
        // Into the filter, out of it, within it, its key, its large value, and never in it.
        "UPDATE customer SET country = 1 WHERE id % 10 = 0",
        "UPDATE customer SET country = 3 WHERE id % 10 = 1",
        "UPDATE customer SET first_name = upper(first_name), fax = 'new' WHERE id % 10 = 2",
        "UPDATE customer SET id = id + 1000 WHERE id % 10 = 5",
        "UPDATE customer SET big = NULL WHERE id % 10 = 6",
        "DELETE FROM customer WHERE id % 10 = 7",
        &insert,
        "INSERT INTO audit_x VALUES (2)",
        "UPDATE kept SET v = -v WHERE id < 20; DELETE FROM kept WHERE id > 30; INSERT INTO kept VALUES (100, 1)",
        truncated,
        "INSERT INTO emptied_child VALUES (5, 101)",
    ] {
        scene.exec(sql).await?;
    }
    // The workload keeps rows of `kinds` in mind; it is quiet before they go.
    scene.quiet().await?;
    scene.exec("TRUNCATE TABLE kinds").await?;
    scene.drover.wait_caught_up().await?;
    let (mut from, mut to) = (scene.from().await?, scene.to().await?);
    let clients = format!("SELECT id, {given_name}, country, big FROM crm.client");
    let pairs = [("SELECT id, first_name, country, big FROM customer WHERE country IN (1, 2)", clients.as_str())];
    compare::expect_none(&compare::queries(&mut from, &mut to, &pairs).await?)?;
    let count = to.number("SELECT count(*) FROM crm.client").await?;
    ensure!(count > 150, "{count} clients");
    let mut same = drover_tests::workload::TABLES.to_vec();
    same.extend(["emptied", "emptied_child"]);
    let same: Vec<(&str, &str)> = same.iter().map(|name| (*name, *name)).collect();
    compare::expect_none(&compare::tables(&mut from, &mut to, &same).await?)?;
    // 50 rows and one inserted; the deleted ones stay.
    let kept = (to.number("SELECT count(*) FROM kept").await?, to.number("SELECT sum(v) FROM kept").await?);
    ensure!(kept == (51, 896), "kept: {kept:?}");
    let tables = compare::user_tables(&mut to).await?;
    // In PostgreSQL those of all schemas.
    let expected = if pair.destination.dialect() == Dialect::Postgres { 14 } else { 13 };
    ensure!(
        tables.len() == expected && !tables.iter().any(|t| t.contains("audit") || t.contains("customer")),
        "{tables:?}"
    );
    Ok(())
}

suite! {
    wide as_asked_in_process;
    main as_asked_in_a_cluster;
}

async fn as_asked_in_process(pair: Pair) -> Result<()> {
    as_asked(pair, Form::InProcess).await
}

async fn as_asked_in_a_cluster(pair: Pair) -> Result<()> {
    as_asked(pair, Form::Cluster).await
}
