//! What outside tests and scripts rely on: exit statuses, the items of the precheck, keys of the JSON documents, resuming after
//! SIGINT, and that cleanup leaves nothing behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drover_tests::drover::Finished;
use drover_tests::{Deployment, Dialect, Form, Pair, Scene, Server, Session, compare, scene, suite, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

suite! {
    main endpoints_that_do_not_answer_are_status_3;
    wide the_precheck_finds_what_stands_in_the_way;
    wide interrupted_resumed_and_cleaned_up_in_process;
    main cleaned_up_in_a_cluster;
    main two_processes_do_not_share_a_state_and_lost_state_is_told;
}

/// A deployment of a file in which `from` stands as `to`.
async fn edited(source: &Server, destination: &Server, from: &str, to: &str) -> Result<Deployment> {
    let drover = Deployment::new(Form::InProcess, source, destination, "", "").await?;
    let text = std::fs::read_to_string(&drover.file)?;
    ensure!(text.contains(from), "{from} is not in {text}");
    std::fs::write(&drover.file, text.replace(from, to))?;
    Ok(drover)
}

async fn call(drover: &Deployment, verb: &str, more: &[&str]) -> Result<Finished> {
    let file = drover.file.display().to_string();
    drover.call(&[&[verb, &file], more].concat()).await
}

/// The items of `check --json` with this number and result; `passed` must be true to the items and to the exit status.
async fn items(drover: &Deployment, number: &str, result: &str) -> Result<Vec<Value>> {
    let done = call(drover, "check", &["--json"]).await?;
    let json = done.json()?;
    let items = json["items"].as_array().context("items")?.clone();
    for item in &items {
        for key in ["item", "result", "object", "cause", "remedy"] {
            ensure!(item[key].is_string(), "{key} in {item}");
        }
    }
    let failed = items.iter().any(|i| i["result"] == "failed");
    ensure!(json["passed"] == !failed && done.code == Some(if failed { 3 } else { 0 }), "{:?} {json:#}", done.code);
    let found: Vec<Value> = items.into_iter().filter(|i| i["item"] == number && i["result"] == result).collect();
    ensure!(!found.is_empty(), "no {number} {result} in {json:#}");
    ensure!(result != "failed" || found.iter().all(|i| i["remedy"] != "" && i["cause"] != ""), "{found:?}");
    Ok(found)
}

#[tokio::test]
async fn wrong_files_and_usage_are_status_2() -> Result<()> {
    let (source, destination) = scene::servers(Pair::POSTGRES).await?;
    for (from, to, said) in [
        ("[migrate]", "[migrate]\nstagez = []", "stages"),
        ("[migrate]", "[migrate]\non_conflict = \"perhaps\"", "ignore"),
        ("[migrate]", "[migrate]\nfloats = \"exact\"", "lossless"),
        ("[migrate]", "[migrate]\nfloats = \"round\"", "PostgreSQL as source"),
        ("kind = \"postgres\"", "kind = \"postgrez\"", "postgres"),
        ("[migrate]", "[migrate", "migration.toml:8"),
    ] {
        let drover = edited(&source, &destination, from, to).await?;
        for verb in ["check", "run", "validate", "cleanup"] {
            let done = call(&drover, verb, &[]).await?.expect(2)?;
            ensure!(done.stdout.is_empty(), "{verb} {to}: {}", done.stdout);
            // File and line, and the nearest right word.
            ensure!(done.stderr.contains("migration.toml:"), "{verb} {to}: {}", done.stderr);
            ensure!(done.stderr.contains(said), "{verb} {to}: {}", done.stderr);
        }
    }
    let drover = edited(&source, &destination, "[migrate]", "[migrate]").await?;
    let done = call(&drover, "run", &["--until", "done"]).await?.expect(2)?;
    ensure!(done.stderr.contains("caught-up"), "{}", done.stderr);
    call(&drover, "run", &["--until", "whenever"]).await?.expect(2)?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    for (address, said) in [("0.0.0.0:0".to_owned(), "127.0.0.1"), (taken.local_addr()?.to_string(), "another port")] {
        let done = call(&drover, "run", &["--http", &address]).await?.expect(2)?;
        ensure!(done.stderr.contains(&address) && done.stderr.contains(said), "{}", done.stderr);
    }
    drover.call(&["check", "no-such-file.toml"]).await?.expect(2)?;
    drover.call(&["gallop"]).await?.expect(2)?;
    Ok(())
}

async fn endpoints_that_do_not_answer_are_status_3(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let port = format!(":{}/", source.port());
    let drover = edited(&source, &destination, &port, ":9/").await?;
    let found = items(&drover, "K1", "failed").await?;
    ensure!(found[0]["object"] == "source", "{found:?}");
    ensure!(found[0]["cause"].as_str().is_some_and(|c| c.ends_with("from 127.0.0.1")), "{found:?}");
    call(&drover, "run", &[]).await?.expect(3)?;
    let drover = edited(&source, &destination, &format!(":{}/", destination.port()), ":9/").await?;
    items(&drover, "K3", "failed").await?;

    let database = pair.source.database();
    if let Server::Postgres(source) = &source {
        source.exec(database, "CREATE ROLE checked LOGIN SUPERUSER PASSWORD 'right'").await?;
        let hba = source.folder().join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&hba)?;
        std::fs::write(&hba, format!("host all checked 127.0.0.1/32 scram-sha-256\n{rules}"))?;
        source.exec(database, "SELECT pg_reload_conf()").await?;
    } else {
        let user = "CREATE USER checked@'127.0.0.1' IDENTIFIED BY 'right'; GRANT ALL ON *.* TO checked@'127.0.0.1'";
        source.exec(database, user).await?;
    }
    source.exec(database, "CREATE TABLE t (id int PRIMARY KEY)").await?;
    let user = format!("drover@127.0.0.1:{}", source.port());
    let url = |password: &str| format!("checked:{password}@127.0.0.1:{}", source.port());
    wait::until("the password counts", SOON, || async {
        let refused = Session::connect(&source.url(database).replace(&user, &url("wrong"))).await.is_err();
        Ok(refused.then_some(()))
    })
    .await?;
    let drover = edited(&source, &destination, &user, &url("wrong")).await?;
    let found = items(&drover, "K1", "failed").await?;
    ensure!(found[0]["object"] == "source" && !found[0].to_string().contains("wrong@"), "{found:?}");
    call(&drover, "run", &[]).await?.expect(3)?;
    let drover = edited(&source, &destination, &user, &url("right")).await?;
    let found = items(&drover, "K1", "passed").await?;
    ensure!(found.len() == 1 && found[0]["cause"] == "as checked from 127.0.0.1", "{found:?}");
    Ok(())
}

async fn the_precheck_finds_what_stands_in_the_way(pair: Pair) -> Result<()> {
    let database = pair.source.database();
    // A log that says too little; and what the checklist calls it.
    let (settings, log, schema): (&[(&str, &str)], _, _) = match pair.source.dialect() {
        Dialect::Postgres => (&[("wal_level", "replica")], "K25", "public"),
        Dialect::MySql => (&[("binlog-row-image", "MINIMAL")], "K23", database),
    };
    let (source, destination) =
        tokio::try_join!(Server::start(pair.source, settings), Server::start(pair.destination, &[]))?;
    if pair.source.dialect() == Dialect::MySql {
        source.create_database(database).await?;
        destination.create_database(database).await?;
    }
    source.exec(database, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int)").await?;
    destination.exec(database, "CREATE TABLE a (id int PRIMARY KEY)").await?;
    let drover = edited(&source, &destination, "[migrate]", "[migrate]").await?;
    items(&drover, log, "failed").await?;
    let found = items(&drover, "K11", "failed").await?;
    ensure!(found[0]["object"].as_str().is_some_and(|o| o.contains(&format!("{schema}.a"))), "{found:?}");
    let mut expected = vec![log, "K11"];
    if pair.source.dialect() == Dialect::Postgres {
        let found = items(&drover, "K31", "failed").await?;
        ensure!(
            found[0]["object"] == "public.b" && found[0]["remedy"].as_str().is_some_and(|r| r.contains("set_identity"))
        );
        expected.push("K31");
    }
    let done = call(&drover, "run", &[]).await?.expect(3)?;
    ensure!(expected.iter().all(|k| done.stderr.contains(k)), "{}", done.stderr);
    let (mut from, mut to) = (source.connect(database).await?, destination.connect(database).await?);
    ensure!(compare::user_tables(&mut to).await?.len() == 1, "it made something");
    // Nothing of that matters to a copy alone into an empty place.
    to.run("DROP TABLE a").await?;
    let drover = edited(&source, &destination, "[migrate]", "[migrate]\nstages = [\"schema\", \"full\"]").await?;
    from.run("INSERT INTO b VALUES (1), (1), (NULL)").await?;
    let file = drover.file.display().to_string();
    items(&drover, "C6", "warning").await?;
    let done = drover.call(&["run", &file, "--until", "done"]).await?.expect(0)?;
    ensure!(done.stderr.contains("destination: drover came as drover from"), "{}", done.stderr);
    compare::expect_equal(&mut from, &mut to).await?;
    let rest = call(&drover, "run", &[]).await?.expect(0)?;
    ensure!(rest.stdout.is_empty(), "{}", rest.stdout);
    Ok(())
}

fn keyless(dialect: Dialect) -> String {
    let rows = dialect.series(100);
    match dialect {
        Dialect::Postgres => {
            format!("CREATE TABLE bare (a int); INSERT INTO bare SELECT i / 2 FROM {rows} i; CREATE SEQUENCE numbers")
        }
        Dialect::MySql => format!("CREATE TABLE bare (a int); INSERT INTO bare SELECT i DIV 2 FROM {rows} i"),
    }
}

/// What drover may have left on a server.
async fn remains(server: &Server) -> Result<String> {
    let sql = match server.dialect() {
        Dialect::Postgres => {
            "SELECT concat_ws(', ', (SELECT string_agg('slot ' || slot_name, ', ') FROM pg_replication_slots),
            (SELECT string_agg('publication ' || pubname, ', ') FROM pg_publication),
            (SELECT string_agg('schema ' || nspname, ', ') FROM pg_namespace WHERE nspname ~ 'drover'),
            (SELECT string_agg('table ' || relname, ', ') FROM pg_class WHERE relname ~ '^_?dts|drover'),
            (SELECT string_agg('origin ' || roname, ', ') FROM pg_replication_origin))"
        }
        Dialect::MySql => {
            "SELECT concat_ws(', ',
            (SELECT group_concat('database ', schema_name) FROM information_schema.schemata WHERE schema_name LIKE '%drover%'),
            (SELECT group_concat('table ', table_schema, '.', table_name) FROM information_schema.tables
              WHERE table_name LIKE '%drover%' OR table_name LIKE '%dts%'),
            (SELECT group_concat('routine ', routine_name) FROM information_schema.routines WHERE routine_name LIKE '%drover%'))"
        }
    };
    Ok(server.admin().await?.text(sql).await?.unwrap_or_default())
}

/// The replica identity of `bare`, where there is such a thing.
async fn identity(scene: &Scene) -> Result<Option<String>> {
    if scene.source.dialect() == Dialect::MySql {
        return Ok(None);
    }
    scene.from().await?.text("SELECT relreplident::text FROM pg_class WHERE relname = 'bare'").await
}

async fn leaves_nothing(pair: Pair, form: Form) -> Result<()> {
    let dialect = pair.source.dialect();
    let postgres = dialect == Dialect::Postgres;
    let mut scene = Scene::of(pair, form, &keyless(dialect)).await?;
    ensure!(remains(&scene.source).await?.is_empty() && remains(&scene.destination).await?.is_empty());
    ensure!(!postgres || identity(&scene).await?.as_deref() == Some("d"));
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    ensure!(!postgres || identity(&scene).await?.as_deref() == Some("f"), "identity with consent");
    // With the identity set no statement on the table fails.
    scene.exec("UPDATE bare SET a = a + 1 WHERE a % 3 = 0; DELETE FROM bare WHERE a = 10").await?;
    scene.advance(30).await?;
    if form == Form::InProcess {
        scene.drover.interrupt().await?;
        scene.advance(30).await?;
        scene.drover.start().await?;
        scene.advance(30).await?;
    } else {
        let name = scene.drover.name.clone();
        scene.drover.call(&["migration", "pause", &name]).await?.expect(0)?;
        scene.drover.wait_state("paused").await?;
        scene.advance(30).await?;
        scene.drover.call(&["migration", "resume", &name]).await?.expect(0)?;
        scene.drover.wait_state("migrating").await?;
        scene.drover.call(&["migration", "resume", "no-such-migration"]).await?.expect(2)?;
    }
    scene.finish().await?;
    ensure!(!remains(&scene.destination).await?.is_empty(), "it works without a trace: the check is blind");
    // From a MySQL source drover only reads.
    ensure!(remains(&scene.source).await?.is_empty() != postgres, "{}", remains(&scene.source).await?);
    if form == Form::InProcess {
        validates(&mut scene).await?;
    } else {
        shown(&scene.drover.show().await?)?;
        let list = scene.drover.call(&["migration", "list", "--json"]).await?.expect(0)?.json()?;
        ensure!(list.as_array().is_some_and(|l| l.len() == 1 && l[0]["name"] == scene.drover.name.as_str()), "{list}");
    }
    let brokers = if form == Form::Cluster { Some(drover_tests::deployment::shared_kafka().await?) } else { None };
    scene.drover.cleanup().await?;
    for server in [&scene.source, &scene.destination] {
        ensure!(remains(server).await?.is_empty(), "left: {}", remains(server).await?);
    }
    ensure!(!postgres || identity(&scene).await?.as_deref() == Some("d"), "identity restored");
    if let Some(kafka) = brokers {
        let topics = kafka.tool("org.apache.kafka.tools.TopicCommand", &["--list"]).await?;
        ensure!(!topics.contains(&scene.drover.name), "{topics}");
    } else {
        let states = std::fs::read_dir(scene.drover.drover.folder().join(".drover"));
        ensure!(states.map_or(0, Iterator::count) == 0, "the state is left");
        // A second time there is nothing to do, and that is no error.
        call(&scene.drover, "cleanup", &[]).await?.expect(0)?;
    }
    Ok(())
}

/// `drover validate` finds both sides equal, and then what was planted.
async fn validates(scene: &mut Scene) -> Result<()> {
    // A difference is certain only where the destination is known to have passed a mark: drover must be at work.
    scene.drover.start().await?;
    let done = call(&scene.drover, "validate", &["--json"]).await?.expect(0)?.json()?;
    validated(&done, true)?;
    let mut to = scene.to().await?;
    let victim = to.number("SELECT min(id) FROM swap").await?;
    to.run(&format!("UPDATE accounts SET note = 'x' WHERE id = 7; DELETE FROM swap WHERE id = {victim}")).await?;
    let done = call(&scene.drover, "validate", &["--json"]).await?.expect(1)?.json()?;
    validated(&done, false)?;
    let schema = if scene.source.dialect() == Dialect::Postgres { "public" } else { scene.database };
    let of = |name: &str| {
        let name = format!("{schema}.{name}");
        done["tables"].as_array().and_then(|t| t.iter().find(|t| t["source"] == name.as_str())).cloned()
    };
    let accounts = of("accounts").context("accounts")?;
    ensure!(accounts["different"] == 1 && accounts["keys"][0]["key"]["id"] == 7, "{accounts}");
    ensure!(accounts["keys"][0]["difference"] == "different", "{accounts}");
    let swap = of("swap").context("swap")?;
    ensure!(swap["missing"] == 1 && swap["keys"][0]["difference"] == "missing", "{swap}");
    scene.drover.interrupt().await
}

fn validated(json: &Value, equal: bool) -> Result<()> {
    ensure!(json["equal"] == equal, "{json:#}");
    let tables = json["tables"].as_array().context("tables")?;
    ensure!(tables.len() >= 10, "{json:#}");
    for table in tables {
        ensure!(
            table["source"].is_string() && table["destination"].is_string() && table["truncated"].is_boolean(),
            "{table}"
        );
        for key in ["rows", "missing", "extra", "different", "unsettled"] {
            ensure!(table[key].is_u64(), "{key} in {table}");
        }
        ensure!(table["keys"].is_array(), "{table}");
    }
    Ok(())
}

fn shown(json: &Value) -> Result<()> {
    ensure!(json["state"] == "migrating" && json["error"].is_null() && json["name"].is_string(), "{json:#}");
    let stages = &json["stages"];
    ensure!(stages["schema"]["state"].is_string() && stages["schema"]["done"] == stages["schema"]["total"], "{json:#}");
    for key in ["rows", "estimated_rows", "bytes"] {
        ensure!(stages["full"][key].as_u64().is_some_and(|n| n > 0), "{key} in {json:#}");
    }
    ensure!(stages["full"]["state"] == "completed" && stages["incremental"]["state"] == "running", "{json:#}");
    ensure!(
        stages["incremental"]["lag_seconds"].is_number() && stages["incremental"]["position"].is_string(),
        "{json:#}"
    );
    ensure!(stages["incremental"]["rows"].as_u64().is_some_and(|n| n > 0), "{json:#}");
    Ok(())
}

async fn interrupted_resumed_and_cleaned_up_in_process(pair: Pair) -> Result<()> {
    leaves_nothing(pair, Form::InProcess).await
}

async fn cleaned_up_in_a_cluster(pair: Pair) -> Result<()> {
    leaves_nothing(pair, Form::Cluster).await
}

async fn two_processes_do_not_share_a_state_and_lost_state_is_told(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let sql = "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)";
    source.exec(pair.source.database(), sql).await?;
    let mut drover = edited(&source, &destination, "[migrate]", "[migrate]").await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    call(&drover, "run", &[]).await?.expect(2)?;
    drover.interrupt().await?;
    std::fs::remove_dir_all(drover.drover.folder().join(".drover"))?;
    let done = call(&drover, "run", &["--until", "caught-up"]).await?;
    ensure!(matches!(done.code, Some(2 | 3)) && done.stderr.contains("cleanup"), "{done:?}");
    call(&drover, "cleanup", &[]).await?.expect(0)?;
    ensure!(remains(&source).await?.is_empty() && remains(&destination).await?.is_empty());
    Ok(())
}
