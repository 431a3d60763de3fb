//! Every item of the precheck against a server that violates it, and against one that does not.

#![allow(clippy::unwrap_used)]

mod common;

use common::{read, rule, select};
use drover_connectors_postgres::check::{self, End};
use drover_connectors_postgres::errors::classify;
use drover_harness::Postgres;
use drover_harness::postgres::PgOptions;
use drover_model::Fault;
use drover_model::check::{CheckItem, Outcome, passed};
use drover_model::migration::Migration;
use drover_model::selection::ObjectRule;
use tokio_postgres::NoTls;

fn migration(stages: &str, more: &str) -> Migration {
    let text = format!(
        "name = \"t\"\n[source]\nkind = \"postgres\"\nurl = \"postgres://a@127.0.0.1/x\"\n[destination]\nkind = \"postgres\"\n\
         url = \"postgres://a@127.0.0.1/y\"\n[migrate]\nstages = [{stages}]\n{more}\n"
    );
    Migration::parse(&text, std::path::Path::new("t.toml"), &["postgres"]).unwrap()
}

const ALL: &str = "\"schema\", \"full\", \"incremental\"";

fn find<'a>(items: &'a [CheckItem], item: &str, object: &str) -> &'a CheckItem {
    items
        .iter()
        .find(|i| i.item == item && i.object.contains(object) && i.result != Outcome::Passed)
        .unwrap_or_else(|| panic!("no {item} about {object}: {items:#?}"))
}

async fn session(server: &Postgres, user: &str, database: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&format!("postgres://{user}@127.0.0.1:{}/{database}", server.port()), NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    client
}

async fn source(server: &Postgres, user: &str, migration: &Migration, rules: &[ObjectRule]) -> Vec<CheckItem> {
    let catalog = read(server, "drover").await;
    let (plans, _) = select(&catalog, rules);
    check::source(&session(server, user, "drover").await, migration, &plans, &catalog).await.unwrap()
}

async fn destination(server: &Postgres, user: &str, migration: &Migration) -> Vec<CheckItem> {
    let catalog = read(server, "drover").await;
    let (plans, _) = select(&catalog, &migration.objects);
    check::destination(&session(server, user, "there").await, migration, &plans, &catalog).await.unwrap()
}

#[tokio::test]
async fn a_good_pair_passes() {
    let server = Postgres::start_default().await.unwrap();
    server.exec("drover", "CREATE TABLE t (id int PRIMARY KEY, a text)").await.unwrap();
    server.create_database("there").await.unwrap();
    let m = migration(ALL, "");
    let mut items = source(&server, "drover", &m, &[]).await;
    items.extend(destination(&server, "drover", &m).await);
    assert!(passed(&items), "{items:#?}");
    assert!(items.iter().all(|i| i.result != Outcome::Warning), "{items:#?}");
    for item in
        ["K1", "K2", "K3", "K4", "K5", "K8", "K9", "K10", "K11", "K12", "K13", "K25", "K26", "K31", "K34", "K57"]
    {
        assert!(items.iter().any(|i| i.item == item), "{item} is missing");
    }
}

#[tokio::test]
async fn settings_that_forbid_incremental() {
    let settings = [("wal_level", "replica"), ("max_replication_slots", "1"), ("max_prepared_transactions", "5")];
    let server = Postgres::start(PgOptions { settings: &settings, ..PgOptions::default() }).await.unwrap();
    server.exec("drover", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let open = server.connect("drover").await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'o''pen'").await.unwrap();
    let items = source(&server, "drover", &migration(ALL, ""), &[]).await;
    let item = find(&items, "K25", "wal_level");
    assert!(item.result == Outcome::Failed && item.remedy.contains("ALTER SYSTEM SET wal_level = logical"), "{item:?}");
    assert_eq!(find(&items, "K26", "max_replication_slots").result, Outcome::Failed);
    let item = find(&items, "K34", "o'pen");
    assert!(item.result == Outcome::Warning && item.remedy.contains("ROLLBACK PREPARED 'o''pen'"), "{item:?}");
    // Without incremental none of this matters.
    assert!(passed(&source(&server, "drover", &migration("\"schema\", \"full\"", ""), &[]).await));
}

#[tokio::test]
async fn tables_that_cannot_be_followed() {
    let server = Postgres::start_default().await.unwrap();
    server
        .exec(
            "drover",
            "CREATE TABLE none (a int); CREATE UNLOGGED TABLE un (id int PRIMARY KEY); CREATE TABLE bits (id int PRIMARY KEY, b bit(3), v varbit(3));
             CREATE TABLE p (id int, d int) PARTITION BY LIST (d); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); SELECT lo_from_bytea(0, 'x')",
        )
        .await
        .unwrap();
    let items = source(&server, "drover", &migration(ALL, ""), &[]).await;
    let item = find(&items, "K18", "large objects");
    assert!(item.result == Outcome::Warning && item.cause.contains("holds 1 large"), "{item:?}");
    let item = find(&items, "K31", "public.none");
    assert!(item.result == Outcome::Failed && item.remedy.contains("REPLICA IDENTITY FULL"), "{item:?}");
    assert_eq!(find(&items, "K31", "public.un").result, Outcome::Failed);
    assert_eq!(find(&items, "K31", "public.p1").result, Outcome::Failed);
    let root = |items: &[CheckItem]| items.iter().find(|i| i.item == "K31" && i.object == "public.p").cloned().unwrap();
    let item = root(&items);
    assert!(item.result == Outcome::Warning && item.cause.contains("will refuse"), "{item:?}");
    assert_eq!(find(&items, "K17", "public.bits.b").result, Outcome::Failed);
    assert!(!items.iter().any(|i| i.object == "public.bits.v"));
    let items = source(&server, "drover", &migration(ALL, "set_identity = true"), &[]).await;
    assert_eq!(find(&items, "K31", "public.none").result, Outcome::Warning);
    let item = root(&items);
    assert!(item.result == Outcome::Warning && item.cause.contains("until then"), "{item:?}");
}

#[tokio::test]
async fn an_account_that_may_nothing_is_told_each_grant() {
    let server = Postgres::start_default().await.unwrap();
    server
        .exec(
            "drover",
            "CREATE ROLE poor LOGIN; CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); CREATE TABLE r (id int PRIMARY KEY);
             ALTER TABLE r ENABLE ROW LEVEL SECURITY; GRANT SELECT ON r TO poor",
        )
        .await
        .unwrap();
    server.create_database("there").await.unwrap();
    server.exec("there", "CREATE SCHEMA s; REVOKE CREATE ON SCHEMA public FROM PUBLIC").await.unwrap();
    let m = migration(ALL, "");
    let items = source(&server, "poor", &m, &[]).await;
    for (object, remedy) in [
        ("s", "GRANT USAGE ON SCHEMA \"s\" TO \"poor\""),
        ("s.t", "GRANT SELECT ON \"s\".\"t\" TO \"poor\""),
        ("public.r", "BYPASSRLS"),
        ("replication", "ALTER ROLE \"poor\" REPLICATION"),
        ("publication", "GRANT CREATE ON DATABASE \"drover\" TO \"poor\""),
    ] {
        let found = items
            .iter()
            .any(|i| i.item == "K8" && i.object == object && i.result == Outcome::Failed && i.remedy.contains(remedy));
        assert!(found, "{object}: {remedy}: {items:#?}");
    }
    assert!(items.iter().any(|i| i.item == "K8" && i.cause.contains("owner")), "{items:#?}");
    let items = destination(&server, "poor", &m).await;
    assert!(find(&items, "K9", "there").remedy.contains("GRANT CREATE ON DATABASE \"there\""));
    assert!(find(&items, "K9", "s").remedy.contains("GRANT "));
    let item = find(&items, "K9", "session_replication_role");
    assert!(item.result == Outcome::Failed && item.remedy.contains("GRANT SET ON PARAMETER"), "{item:?}");
    server.exec("there", "GRANT SET ON PARAMETER session_replication_role TO poor").await.unwrap();
    let items = destination(&server, "poor", &m).await;
    assert!(!items.iter().any(|i| i.object == "session_replication_role"), "{items:#?}");
}

#[tokio::test]
async fn tables_at_the_destination() {
    let server = Postgres::start_default().await.unwrap();
    server.exec("drover", "CREATE TABLE a (id int PRIMARY KEY, x text); CREATE TABLE b (id int PRIMARY KEY); CREATE SCHEMA q; CREATE TABLE q.c (id int PRIMARY KEY)").await.unwrap();
    server.create_database("there").await.unwrap();
    server.exec("there", "CREATE TABLE a (id int, x int); CREATE TABLE b (id int, must text NOT NULL)").await.unwrap();
    let items = destination(&server, "drover", &migration(ALL, "")).await;
    assert_eq!(find(&items, "K11", "public.a").result, Outcome::Failed);
    let items = destination(&server, "drover", &migration(ALL, "on_conflict = \"ignore\"")).await;
    assert_eq!(find(&items, "K11", "same-named").result, Outcome::Skipped);
    assert!(find(&items, "K14", "public.a").cause.contains("column x is of type integer"));
    let full = "\"full\"";
    let items = destination(&server, "drover", &migration(full, "")).await;
    assert!(find(&items, "K14", "public.b").cause.contains("column must demands"));
    assert!(find(&items, "K14", "q.c").cause.contains("does not exist"));
    assert!(find(&items, "K13", "q").remedy.contains("CREATE SCHEMA \"q\""));
    server
        .exec("there", "DROP TABLE a, b; CREATE TABLE a (id int, x text); CREATE TABLE b (id int); INSERT INTO b VALUES (1); CREATE SCHEMA q; CREATE TABLE q.c (id int)")
        .await
        .unwrap();
    let items = destination(&server, "drover", &migration(full, "")).await;
    assert!(find(&items, "K11", "public.b").cause.contains("not empty"));
    assert!(passed(&destination(&server, "drover", &migration(full, "on_conflict = \"ignore\"")).await));
}

#[tokio::test]
async fn objects_that_cannot_be_carried_and_names_that_meet() {
    let server = Postgres::start_default().await.unwrap();
    server
        .exec(
            "drover",
            "CREATE FUNCTION in_c() RETURNS int LANGUAGE internal AS 'pg_backend_pid'; CREATE TABLE a (id int PRIMARY KEY, x text); \
             CREATE TABLE b (id int PRIMARY KEY REFERENCES a); CREATE VIEW v AS SELECT x FROM a",
        )
        .await
        .unwrap();
    server.create_database("there").await.unwrap();
    let items = destination(&server, "drover", &migration(ALL, "")).await;
    assert!(find(&items, "K18", "in_c").cause.contains("written in C"));
    let m = migration(ALL, "[[objects]]\ninclude = \"public.b\"\n");
    assert!(find(&destination(&server, "drover", &m).await, "K20", "foreign key").cause.contains("public.a"));
    let m = migration(
        ALL,
        "[[objects]]\ninclude = \"public.*\"\n[[objects]]\ninclude = \"public.a\"\ncolumns = { rename = { x = \"y\" } }\n",
    );
    assert!(find(&destination(&server, "drover", &m).await, "K20", "view public.v").cause.contains("another name"));
    let m = migration(
        ALL,
        "[[objects]]\ninclude = \"public.*\"\n[[objects]]\ninclude = \"public.a\"\nrename = \"public.b\"\n",
    );
    assert_eq!(find(&destination(&server, "drover", &m).await, "K21", "public.b").result, Outcome::Failed);
}

#[tokio::test]
async fn filters_are_parsed_by_the_server() {
    let server = Postgres::start_default().await.unwrap();
    server.exec("drover", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await.unwrap();
    for (filter, good) in [
        ("id > 3", true),
        ("id in (1, 2) -- few", true),
        ("nothing = 1", false),
        ("id", false),
        ("true); DROP TABLE b; SELECT (1", false),
        ("id > 5) or (1 = 1", false),
        ("id > 5 /* ) or ( */ and '(' <> ')' -- (", true),
        ("id in (select id from b)", true),
        ("NULL", true),
        ("select true", false),
    ] {
        let mut a = rule("public.a");
        a.filter = Some(filter.into());
        let items = source(&server, "drover", &migration(ALL, ""), &[a]).await;
        let item = items.iter().find(|i| i.item == "K22").unwrap();
        assert_eq!(item.result == Outcome::Passed, good, "{filter}: {item:?}");
    }
    assert_eq!(server.query_one_text("drover", "SELECT count(*)::text FROM b").await.unwrap().as_deref(), Some("0"));
}

#[tokio::test]
async fn why_a_connection_fails() {
    let server = Postgres::start_default().await.unwrap();
    let try_url = |url: String| async move {
        let error = tokio_postgres::connect(&url, NoTls).await.err().unwrap();
        check::connect_failure(End::Source, &classify(&error, Fault::Source, "connecting"))
    };
    let item = try_url(server.url("nowhere")).await;
    assert!(item.item == "K1" && item.remedy.contains("CREATE DATABASE"), "{item:?}");
    let item = try_url(format!("postgres://nobody@127.0.0.1:{}/drover", server.port())).await;
    assert!(item.remedy.contains("pg_hba.conf"), "{item:?}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let item = try_url(format!("postgres://a@127.0.0.1:{free}/x")).await;
    assert!(item.remedy.contains("nothing listens"), "{item:?}");
}
