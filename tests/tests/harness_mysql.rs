//! The harness's part for MySQL and MariaDB: what the other tests stand on must be able to fail.

use anyhow::{Context, Result, ensure};
use drover_tests::{MySql, Release, mysql, process};

async fn lives_through_a_crash(release: Release, version: &str) -> Result<()> {
    let mut server = MySql::start(release, &[("max-connections", "55")]).await?;
    let found = server.query_one_text("drover", "SELECT version()").await?.context("a version")?;
    ensure!(found.starts_with(version) && found.contains("MariaDB") == release.is_mariadb(), "{found}");
    for (sql, expected) in [
        ("SELECT @@max_connections", "55"),
        ("SELECT @@server_id", &*server.port().to_string()),
        ("SELECT @@log_bin + @@local_infile + @@skip_name_resolve", "3"),
        ("SELECT concat_ws(' ', @@global.binlog_format, @@binlog_row_image, @@binlog_row_metadata)", "ROW FULL FULL"),
        (if release.is_mariadb() { "SELECT @@gtid_strict_mode" } else { "SELECT @@gtid_mode = 'ON'" }, "1"),
        ("SELECT current_user()", "drover@127.0.0.1"),
    ] {
        let got = server.query_one_text("drover", sql).await?;
        ensure!(got.as_deref() == Some(expected), "{sql}: {got:?}");
    }
    server.exec("drover", "CREATE TABLE t (id int); INSERT INTO t VALUES (7);").await?;
    // Errors of later statements count.
    ensure!(server.exec("drover", "INSERT INTO t VALUES (8); INSERT INTO nowhere VALUES (1);").await.is_err());
    let pid = server.pid()?;
    server.kill9().await?;
    ensure!(server.connect("drover").await.is_err() && !process::alive(pid), "it answers after SIGKILL");
    server.restart().await?;
    ensure!(server.query_one_text("drover", "SELECT sum(id) FROM t").await?.as_deref() == Some("15"));
    server.restart_with(&[("max-connections", "44")]).await?;
    let sql = "SELECT sum(id) + @@max_connections FROM t";
    ensure!(server.query_one_text("drover", sql).await?.as_deref() == Some("59"));
    let file = server.folder().join("x.sql");
    std::fs::write(&file, "CREATE TABLE a (id int, v text);\nINSERT INTO a VALUES (1, 'grüße');\n")?;
    server.create_database("other").await?;
    server.client_file("other", &file).await?;
    ensure!(server.query_one_text("other", "SELECT v FROM a").await?.as_deref() == Some("grüße"));
    ensure!(server.client_file("other", &file).await.is_err(), "the table exists already");
    ensure!(server.cpu_seconds()? > 0.0);
    let pid = server.pid()?;
    drop(server);
    ensure!(!process::alive(pid), "it lives on after drop");
    Ok(())
}

#[tokio::test]
async fn mysql_9_lives_through_a_crash() -> Result<()> {
    lives_through_a_crash(Release::MySql9, "9.").await
}

#[tokio::test]
async fn mariadb_10_lives_through_a_crash() -> Result<()> {
    lives_through_a_crash(Release::MariaDb10, "10.11.").await
}

#[tokio::test]
async fn mariadb_11_lives_through_a_crash() -> Result<()> {
    lives_through_a_crash(Release::MariaDb11, "11.8.").await
}

#[tokio::test]
async fn servers_have_identities_of_their_own() -> Result<()> {
    let (one, two) = tokio::try_join!(MySql::start(Release::MySql9, &[]), MySql::start(Release::MySql9, &[]))?;
    let sql = "SELECT @@server_uuid";
    ensure!(one.query_one_text("drover", sql).await? != two.query_one_text("drover", sql).await?);
    let sql = "SELECT @@server_id";
    ensure!(one.query_one_text("drover", sql).await? != two.query_one_text("drover", sql).await?);
    let mut session = mysql::connect(&one.url("drover")).await?;
    ensure!(mysql::one::<u16>(&mut session, "SELECT @@port").await? == one.port());
    Ok(())
}
