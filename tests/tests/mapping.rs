//! What the migration file asks for arrives, in the copy and in the changes: filters, renamed schemas, tables and columns, columns
//! left out, operations left out, tables left out. And TRUNCATE.

use anyhow::{Result, ensure};
use drover_tests::{Form, Scene, compare};

const SOURCE: &str = r#"
    CREATE TABLE customer (id bigint PRIMARY KEY, first_name text, fax text, country integer NOT NULL, big text);
    ALTER TABLE customer ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
    INSERT INTO customer SELECT i, 'name ' || i, 'fax', i % 4, repeat(md5(i::text), 100) FROM generate_series(1, 400) i;
    CREATE TABLE audit_x (id int PRIMARY KEY); INSERT INTO audit_x VALUES (1);
    CREATE TABLE kept (id int PRIMARY KEY, v int); INSERT INTO kept SELECT i, i FROM generate_series(1, 50) i;
    CREATE TABLE emptied (id int PRIMARY KEY, v int); INSERT INTO emptied SELECT i, i FROM generate_series(1, 50) i;
    CREATE TABLE emptied_child (id int PRIMARY KEY, up int REFERENCES emptied); INSERT INTO emptied_child SELECT i, i FROM generate_series(1, 9) i;
"#;
const OBJECTS: &str = r#"
[[objects]]
include = "public.*"
exclude = ["public.audit_*"]
[[objects]]
include = "public.customer"
rename = "crm.client"
where = "country in (1, 2)"
columns = { drop = ["fax"], rename = { first_name = "given name" } }
[[objects]]
include = "public.kept"
operations = ["insert", "update"]
"#;

async fn as_asked(form: Form) -> Result<()> {
    let mut scene = Scene::with(form, SOURCE, "set_identity = true", OBJECTS).await?;
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    for sql in [
        // Into the filter, out of it, within it, its key, its large value, and never in it.
        "UPDATE customer SET country = 1 WHERE id % 10 = 0",
        "UPDATE customer SET country = 3 WHERE id % 10 = 1",
        "UPDATE customer SET first_name = upper(first_name), fax = 'new' WHERE id % 10 = 2",
        "UPDATE customer SET id = id + 1000 WHERE id % 10 = 5",
        "UPDATE customer SET big = NULL WHERE id % 10 = 6",
        "DELETE FROM customer WHERE id % 10 = 7",
        "INSERT INTO customer SELECT i, NULL, 'f', i % 4, 'b' FROM generate_series(2000, 2030) i",
        "INSERT INTO audit_x VALUES (2)",
        "UPDATE kept SET v = -v WHERE id < 20; DELETE FROM kept WHERE id > 30; INSERT INTO kept VALUES (100, 1)",
        "BEGIN; INSERT INTO emptied VALUES (100, 1); TRUNCATE emptied CASCADE; INSERT INTO emptied VALUES (1, 1), (101, 1); COMMIT",
        "INSERT INTO emptied_child VALUES (5, 101)",
        "TRUNCATE kinds",
    ] {
        scene.source.exec("drover", sql).await?;
        // The workload keeps rows of `kinds` in mind; it is quiet before they go.
        if sql.starts_with("INSERT INTO emptied_child") {
            scene.quiet().await?;
        }
    }
    scene.drover.wait_caught_up().await?;
    let (from, to) = (scene.source.connect("drover").await?, scene.destination.connect("drover").await?);
    let pairs = [(
        "SELECT id, first_name, country, big FROM customer WHERE country IN (1, 2)",
        "SELECT id, \"given name\", country, big FROM crm.client",
    )];
    compare::expect_none(&compare::queries(&from, &to, &pairs).await?)?;
    let count: i64 = to.query_one("SELECT count(*) FROM crm.client", &[]).await?.get(0);
    ensure!(count > 150, "{count} clients");
    let same = [
        "accounts",
        "child",
        "counter",
        "journal",
        "keyless",
        "kinds",
        "parent",
        "swap",
        "wide",
        "emptied",
        "emptied_child",
    ];
    let same: Vec<(&str, &str)> = same.iter().map(|name| (*name, *name)).collect();
    compare::expect_none(&compare::tables(&from, &to, &same).await?)?;
    let kept = "SELECT count(*) || ' ' || sum(v) FROM kept";
    // 50 rows and one inserted; the deleted ones stay.
    ensure!(scene.destination.query_one_text("drover", kept).await?.as_deref() == Some("51 896"), "kept");
    let tables = compare::user_tables(&to).await?;
    ensure!(tables.len() == 13 && !tables.iter().any(|t| t.contains("audit") || t.contains("customer")), "{tables:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_asked_in_process() -> Result<()> {
    as_asked(Form::InProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_asked_in_a_cluster() -> Result<()> {
    as_asked(Form::Cluster).await
}
