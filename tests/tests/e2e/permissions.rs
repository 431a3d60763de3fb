//! Rights and passwords that are taken away while a migration runs: it waits, says what it lacks, where and as whom, and goes on by itself once it has
//! that again. Nothing is lost, and both sides are equal in the end.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use drover_tests::scene::{self, SMALL_CHUNKS};
use drover_tests::server::Dialect;
use drover_tests::{Engine, Form, Pair, Release, Scene, Server, deployment, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// drover's account on both sides.
const ACCOUNT: &str = "mover";

/// What the account is given for a source.
fn source_account(server: &Server) -> String {
    match server.engine() {
        Engine::Postgres(_) => format!(
            "CREATE ROLE {ACCOUNT} LOGIN REPLICATION PASSWORD 'one'; GRANT CREATE ON DATABASE drover TO {ACCOUNT};
            GRANT ALL ON SCHEMA public TO {ACCOUNT};
            DO $$ DECLARE t regclass; BEGIN
                FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
                    EXECUTE format('ALTER TABLE %s OWNER TO {ACCOUNT}', t);
                END LOOP;
            END $$"
        ),
        Engine::MySql(_) => format!(
            "CREATE USER {ACCOUNT}@'127.0.0.1' IDENTIFIED BY 'one'; GRANT SELECT, SHOW VIEW, TRIGGER, LOCK TABLES ON app.* TO {ACCOUNT}@'127.0.0.1';
            GRANT RELOAD, PROCESS, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {ACCOUNT}@'127.0.0.1';"
        ),
    }
}

/// And for a destination.
fn destination_account(server: &Server) -> String {
    match server.engine() {
        Engine::Postgres(_) => format!(
            "CREATE ROLE {ACCOUNT} LOGIN PASSWORD 'one'; GRANT CREATE ON DATABASE drover TO {ACCOUNT}; GRANT ALL ON SCHEMA public TO {ACCOUNT};
            GRANT SET ON PARAMETER session_replication_role TO {ACCOUNT}"
        ),
        Engine::MySql(_) => format!(
            "CREATE USER {ACCOUNT}@'127.0.0.1' IDENTIFIED BY 'one'; GRANT ALL ON app.* TO {ACCOUNT}@'127.0.0.1';
            GRANT ALL ON drover.* TO {ACCOUNT}@'127.0.0.1';"
        ),
    }
}

/// A right on a table, taken or given.
fn right(server: &Server, give: bool, rights: &str, table: &str) -> String {
    let (verb, to) = if give { ("GRANT", "TO") } else { ("REVOKE", "FROM") };
    match server.dialect() {
        Dialect::Postgres => format!("{verb} {rights} ON {table} {to} {ACCOUNT}"),
        // Rights on a database cannot be taken of one of its tables.
        Dialect::MySql => format!("{verb} {rights} ON app.* {to} {ACCOUNT}@'127.0.0.1';"),
    }
}

/// Whether the account may log in.
fn login(server: &Server, may: bool) -> String {
    match server.dialect() {
        Dialect::Postgres => format!("ALTER ROLE {ACCOUNT} {}", if may { "LOGIN" } else { "NOLOGIN" }),
        Dialect::MySql => format!("ALTER USER {ACCOUNT}@'127.0.0.1' ACCOUNT {};", if may { "UNLOCK" } else { "LOCK" }),
    }
}

/// Whether it may read the change stream.
fn replication(server: &Server, may: bool) -> String {
    match (server.dialect(), may) {
        (Dialect::Postgres, _) => format!("ALTER ROLE {ACCOUNT} {}", if may { "REPLICATION" } else { "NOREPLICATION" }),
        (_, true) => format!("GRANT REPLICATION SLAVE ON *.* TO {ACCOUNT}@'127.0.0.1';"),
        (_, false) => format!("REVOKE REPLICATION SLAVE ON *.* FROM {ACCOUNT}@'127.0.0.1';"),
    }
}

fn password(server: &Server, password: &str) -> String {
    match server.dialect() {
        Dialect::Postgres => format!("ALTER ROLE {ACCOUNT} PASSWORD '{password}'"),
        Dialect::MySql => format!("ALTER USER {ACCOUNT}@'127.0.0.1' IDENTIFIED BY '{password}';"),
    }
}

/// Runs a statement as who may do everything, where it does not matter in which database.
async fn rule(server: &Server, sql: &str) -> Result<()> {
    server.admin().await?.run(sql).await
}

/// Ends all sessions of the account.
async fn hang_up(server: &Server) -> Result<()> {
    let mut admin = server.admin().await?;
    match server {
        Server::Postgres(_) => {
            let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ACCOUNT}'");
            admin.rows(&sql).await.map(drop)
        }
        Server::MySql(server) => {
            for id in server.sessions(|user, _| user == ACCOUNT).await? {
                // It may be gone by itself.
                let _ = admin.run(&format!("KILL {id};")).await;
            }
            Ok(())
        }
    }
}

/// From now on the account's password is asked for. (The harness lets everybody in.)
async fn ask_for_passwords(server: &Server) -> Result<()> {
    let Server::Postgres(postgres) = server else { return Ok(()) };
    let file = postgres.folder().join("data/pg_hba.conf");
    let rest = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("host all {ACCOUNT} 127.0.0.1/32 scram-sha-256\n{rest}"))?;
    rule(server, "SELECT pg_reload_conf()").await
}

async fn verb(scene: &Scene, verb: &str, more: &[&str]) -> Result<drover_tests::drover::Finished> {
    let file = scene.drover.file.display().to_string();
    scene.drover.call(&[&["migration", verb, &file], more].concat()).await?.expect(0)
}

/// Waits until the migration waits for a right, and sees that it says so: which server, which account, what to do; and the table, where `table` is
/// wanted.
async fn waits(scene: &Scene, what: &str, at_source: bool, table: bool) -> Result<()> {
    let (side, server) = if at_source { ("source", &scene.source) } else { ("destination", &scene.destination) };
    let port = server.port().to_string();
    let shown: Result<Value> = wait::until(what, SOON, || async {
        let view = verb(scene, "show", &["--json"]).await?.json()?;
        if view["state"] == "failed" {
            return Ok(Some(Err(anyhow!("{what}: it failed: {}", view["error"]))));
        }
        let error = &view["error"];
        let is_it = view["state"] == "retrying" && error["code"] == "DR0004" && error["fault"] == side;
        if is_it { Ok(Some(Ok(view))) } else { Err(anyhow!("{error}")) }
    })
    .await
    .and_then(|found| found);
    let error = shown.with_context(|| scene.drover.log())?["error"].clone();
    println!("{what}: {error:#}");
    let said = error["message"].as_str().context("no message")?;
    ensure!(said.contains(ACCOUNT) && said.contains(&port), "{what}: account and server: {said}");
    ensure!(error["remedy"].is_string(), "{what}: no remedy: {error:#}");
    ensure!(!table || error["table"].is_string(), "{what}: no table: {error:#}");
    // Whoever looks at its output is told as well, with the next look at what goes on.
    wait::until("the log tells", SOON, async || {
        let told = scene.drover.log();
        let told_now = told.contains("trying again: DR0004") && told.contains(said);
        if told_now { Ok(Some(())) } else { Err(anyhow!("{what}: nobody was told\n{told}")) }
    })
    .await
}

async fn taken_away(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let slow = "[limits]\nfull = { megabytes_per_second = 2 }\n";
    let mut plan = deployment::Plan::between(&source, &destination, scene::consent(pair.source), slow);
    for end in [&mut plan.source, &mut plan.destination] {
        end.1 = end.1.replace("//drover@", &format!("//{ACCOUNT}@"));
    }
    let drover = drover_tests::Deployment::of(Form::InProcess, &plan)?.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS);
    let folder = drover.drover.folder().to_owned();
    let text = std::fs::read_to_string(&drover.file)?;
    let text = text.replace("[destination]", "password = { file = \"source.secret\" }\n[destination]");
    let text = text.replace("[migrate]", "password = { file = \"destination.secret\" }\n[migrate]");
    std::fs::write(&drover.file, text)?;
    let secret = |side: &str, password: &str| std::fs::write(folder.join(format!("{side}.secret")), password);
    secret("source", "one")?;
    secret("destination", "one")?;

    let mut scene = Scene::on(source, destination, &scene::many(pair.source.dialect()), drover).await?;
    for (server, sql) in
        [(&scene.source, source_account(&scene.source)), (&scene.destination, destination_account(&scene.destination))]
    {
        ask_for_passwords(server).await?;
        rule(server, &sql).await?;
    }
    scene.load().await?;
    scene.drover.start().await?;

    // What is read is taken away in the midst of the copy.
    scene.wait_chunks(3).await.with_context(|| scene.drover.log())?;
    let many = |server: &Server, give| right(server, give, "SELECT", "many");
    rule(&scene.source, &many(&scene.source, false)).await?;
    waits(&scene, "SELECT during the copy", true, true).await?;
    rule(&scene.source, &many(&scene.source, true)).await?;
    verb(&scene, "limits", &["full.megabytes_per_second=0"]).await?;
    scene.drover.wait_consistent().await?;
    let observer = scene.observe().await?;

    // What is written is taken away while changes flow. The application does not notice.
    let accounts = |server: &Server, give| right(server, give, "INSERT, UPDATE", "accounts");
    rule(&scene.destination, &accounts(&scene.destination, false)).await?;
    scene.advance(20).await?;
    waits(&scene, "INSERT and UPDATE at the destination", false, true).await?;
    rule(&scene.destination, &accounts(&scene.destination, true)).await?;
    scene.reaches().await?;

    // The account may not read the log any more, or not even log in.
    for (what, statement) in [("REPLICATION", replication as fn(&Server, bool) -> String), ("the login", login)] {
        rule(&scene.source, &statement(&scene.source, false)).await?;
        hang_up(&scene.source).await?;
        waits(&scene, what, true, false).await?;
        scene.advance(20).await?;
        rule(&scene.source, &statement(&scene.source, true)).await?;
        scene.reaches().await.context(what)?;
    }

    // Another password on either side: once it stands where the file says, no new start is needed.
    for server in [&scene.source, &scene.destination] {
        rule(server, &password(server, "two")).await?;
        hang_up(server).await?;
    }
    waits(&scene, "the source's password", true, false).await?;
    secret("source", "two")?;
    waits(&scene, "the destination's password", false, false).await?;
    secret("destination", "two")?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_taken_away_between_postgresql_servers() -> Result<()> {
    taken_away(Pair { source: Engine::Postgres(15), destination: Engine::Postgres(17) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_taken_away_between_mysql_and_mariadb() -> Result<()> {
    let pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::MySql(Release::MariaDb11) };
    taken_away(pair).await
}
