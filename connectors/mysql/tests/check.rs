//! The precheck against servers that lack something on purpose: each lack is found, and what the remedy says mends it.

#![allow(clippy::unwrap_used)]

mod schemas;

use drover_connectors_mysql::check::{self, End};
use drover_connectors_mysql::{catalog, typemap::Known};
use drover_harness::{MySql, Release};
use drover_model::check::{CheckItem, Outcome};
use drover_model::migration::Migration;
use drover_model::schema::Catalog;
use drover_model::{Fault, TablePlan};
use schemas::{choose, dialer_as, rich, server, session};
use std::path::Path;

fn migration(more: &str) -> Migration {
    let text = format!(
        "name = \"x\"\n[source]\nkind = \"mysql\"\nurl = \"mysql://a@127.0.0.1:1/shop\"\n[destination]\nkind = \"mysql\"\n\
         url = \"mysql://a@127.0.0.1:2/shop\"\n{more}"
    );
    Migration::parse(&text, Path::new("x.toml"), &["mysql"]).unwrap_or_else(|e| panic!("{e:?}"))
}

/// Everything, as the scope has it.
const ALL: &str = "[[objects]]\ninclude = \"shop.*\"\nexclude = [\"shop.mem\", \"shop.aria_t\", \"shop.only_isam\", \"shop.only_memory\"]\n";

async fn known(server: &MySql) -> Known {
    Known::read(&mut session(server, Fault::Destination).await).await.unwrap()
}

async fn source_as(server: &MySql, user: &str, more: &str) -> Vec<CheckItem> {
    let mut s = dialer_as(server, user, None, Fault::Source).session("test").await.unwrap();
    let c = catalog::read(&mut s, Some("shop")).await.unwrap();
    let migration = migration(more);
    let plans = choose(&c, &migration.objects, &known(server).await).plans;
    check::source(&mut s, &migration, &plans, &c).await.unwrap()
}

async fn destination_as(to: &MySql, user: &str, c: &Catalog, more: &str) -> Vec<CheckItem> {
    let mut s = dialer_as(to, user, None, Fault::Destination).session("test").await.unwrap();
    let known = known(to).await;
    let migration = migration(more);
    let plans: Vec<TablePlan> = choose(c, &migration.objects, &known).plans;
    check::destination(&mut s, &known, &migration, &plans, c).await.unwrap()
}

fn of<'a>(items: &'a [CheckItem], item: &str, object: &str) -> &'a CheckItem {
    let found = items.iter().find(|i| i.item == item && i.object.contains(object));
    found.unwrap_or_else(|| panic!("no {item} about {object}: {items:#?}"))
}

fn failed(items: &[CheckItem]) -> Vec<&CheckItem> {
    items.iter().filter(|i| i.result == Outcome::Failed).collect()
}

fn lacking(items: &[CheckItem]) -> Vec<&CheckItem> {
    items
        .iter()
        .filter(|i| {
            matches!(i.result, Outcome::Failed | Outcome::Warning) && matches!(i.item.as_str(), "K8" | "K9" | "K12")
        })
        .collect()
}

#[tokio::test]
async fn grants_that_are_lacking_are_named_and_suffice() {
    for release in Release::ALL {
        let (from, to) = (rich(release).await, server(release).await);
        from.exec("mysql", "CREATE USER poor@'127.0.0.1'; GRANT SELECT ON shop.orders TO poor@'127.0.0.1'; GRANT INSERT ON shop.customer TO poor@'127.0.0.1';").await.unwrap();
        let mut rounds = 0;
        let items = loop {
            let items = source_as(&from, "poor", ALL).await;
            let lacking = lacking(&items);
            if lacking.is_empty() {
                break items;
            }
            rounds += 1;
            assert!(rounds < 6, "{release:?}: {lacking:#?}");
            for i in lacking {
                let first = i.remedy.split("; or ").next().unwrap().split(", or ").next().unwrap();
                assert!(first.starts_with("GRANT "), "{release:?}: {i:#?}");
                from.exec("mysql", first).await.unwrap_or_else(|e| panic!("{release:?}: {first}: {e:#}"));
            }
        };
        assert!(failed(&items).is_empty(), "{release:?}: {:#?}", failed(&items));
        // What it may do now is enough to see all that there is.
        let mut s = dialer_as(&from, "poor", None, Fault::Source).session("test").await.unwrap();
        let (poor, rich) = (catalog::read(&mut s, Some("shop")).await.unwrap(), schemas::read(&from).await);
        let here = |c: &Catalog| -> Vec<String> {
            c.objects
                .iter()
                .filter(|o| o.schema == "shop" && !o.options.contains_key("reason"))
                .map(|o| format!("{} {}", o.kind, o.name))
                .collect()
        };
        assert_eq!(here(&poor), here(&rich), "{release:?}");
        let triggers = |c: &Catalog| c.tables.iter().flat_map(|t| &t.parts).filter(|p| p.kind == "trigger").count();
        assert_eq!(triggers(&poor), triggers(&rich));

        let c = rich;
        to.exec("mysql", "CREATE USER poor@'127.0.0.1'; SET GLOBAL log_bin_trust_function_creators = 0;")
            .await
            .unwrap();
        let items = destination_as(&to, "poor", &c, ALL).await;
        of(&items, "K12", "shop");
        assert_eq!(of(&items, "K9", "log_bin_trust").result, Outcome::Failed);
        let mut rounds = 0;
        loop {
            let items = destination_as(&to, "poor", &c, ALL).await;
            let lacking = lacking(&items);
            if lacking.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < 6, "{release:?}: {lacking:#?}");
            for i in lacking {
                let first = i.remedy.split(" for the time").next().unwrap().split(", or ").next().unwrap();
                to.exec("mysql", first).await.unwrap_or_else(|e| panic!("{release:?}: {first}: {e:#}"));
            }
        }
        // And it is enough to make everything.
        let mut s = dialer_as(&to, "poor", None, Fault::Destination).session("test").await.unwrap();
        let known = Known::read(&mut s).await.unwrap();
        let chosen = choose(&c, &migration(ALL).objects, &known);
        schemas::apply_all(&mut s, &known, &c, &chosen).await;
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_followed() {
    let no_log = MySql::start(Release::MySql9, &[("skip-log-bin", "1")]).await.unwrap();
    no_log.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.t (a int PRIMARY KEY);").await.unwrap();
    let items = source_as(&no_log, "drover", "").await;
    let item = of(&items, "K23", "log_bin");
    assert!(item.result == Outcome::Failed && item.remedy.contains("log_bin"), "{item:#?}");
    // Without incremental nobody needs it.
    let copy = "[migrate]\nstages = [\"schema\", \"full\"]\n";
    assert!(!source_as(&no_log, "drover", copy).await.iter().any(|i| i.item == "K23"));

    let releases: [(Release, &[(&str, &str)]); 2] = [
        (
            Release::MySql9,
            &[
                ("binlog-row-image", "MINIMAL"),
                ("binlog-row-metadata", "MINIMAL"),
                ("binlog-expire-logs-seconds", "3600"),
            ],
        ),
        (
            Release::MariaDb10,
            &[
                ("binlog-format", "MIXED"),
                ("binlog-row-image", "NOBLOB"),
                ("binlog-row-metadata", "NO_LOG"),
                ("expire-logs-days", "0.5"),
                ("binlog-ignore-db", "shop"),
                ("max-allowed-packet", "64M"),
            ],
        ),
    ];
    for (release, settings) in releases {
        let server = MySql::start(release, settings).await.unwrap();
        server.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.t (a int PRIMARY KEY); CREATE TABLE shop.i (a int) ENGINE=MyISAM;").await.unwrap();
        let items = source_as(&server, "drover", "").await;
        assert_eq!(of(&items, "K23", "binlog_row_image").result, Outcome::Failed);
        assert_eq!(of(&items, "K23", "binlog_row_metadata").result, Outcome::Warning);
        assert!(of(&items, "K23", "retention").cause.contains(if release == Release::MySql9 { "1.0" } else { "12.0" }));
        assert_eq!(of(&items, "K5", "shop.i").result, Outcome::Failed);
        if release.is_mariadb() {
            assert_eq!(of(&items, "K23", "binlog_format").result, Outcome::Failed);
            assert_eq!(of(&items, "K23", "binlog_do_db").result, Outcome::Failed);
        }
        // As Amazon's servers have it.
        server.exec("mysql", "CREATE TABLE mysql.rds_configuration (name varchar(50), value varchar(50)); INSERT INTO mysql.rds_configuration VALUES ('binlog retention hours', NULL);").await.unwrap();
        for (hours, outcome) in [
            ("NULL", Outcome::Warning),
            ("12", Outcome::Warning),
            ("24", Outcome::Passed),
            ("168", Outcome::Passed),
            ("169", Outcome::Failed),
        ] {
            server.exec("mysql", &format!("UPDATE mysql.rds_configuration SET value = {hours}")).await.unwrap();
            let items = source_as(&server, "drover", "").await;
            let item = of(&items, "K23", "retention");
            assert_eq!(item.result, outcome, "{hours}");
            assert!(outcome == Outcome::Passed || item.remedy.contains("rds_set_configuration"));
        }
    }
}

#[tokio::test]
async fn conditions_are_parsed_by_the_server() {
    let server = server(Release::MariaDb10).await;
    server.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.t (a int PRIMARY KEY);").await.unwrap();
    let (yes, no) = (Outcome::Passed, Outcome::Failed);
    for (filter, copied, followed) in [
        ("a > 5 -- mine", yes, no),
        ("a in (1, 2)", yes, yes),
        ("abs(a) = 1", yes, no),
        ("nonsense > 5", no, no),
        ("a > ?", no, no),
        // Would break out of the conditions of chunks.
        ("a > 5) or (1 = 1", no, no),
        ("a <> ')' and (a > 1)", yes, no),
        ("a >", no, no),
    ] {
        let rule = format!("[[objects]]\ninclude = \"shop.t\"\nwhere = \"{filter}\"\n");
        let items = source_as(&server, "drover", &rule).await;
        assert_eq!(of(&items, "K22", "shop.t").result, followed, "{filter}");
        let copy = format!("[migrate]\nstages = [\"full\"]\n{rule}");
        let items = source_as(&server, "drover", &copy).await;
        assert_eq!(of(&items, "K22", "shop.t").result, copied, "{filter}");
    }
    // What foreign keys do to rows that a condition is about is not in this server's log.
    server
        .exec("mysql", "CREATE TABLE shop.up (a int PRIMARY KEY); CREATE TABLE shop.down (a int PRIMARY KEY, up int, b int, FOREIGN KEY (up) REFERENCES shop.up (a) ON UPDATE CASCADE);")
        .await
        .unwrap();
    for (table, filter, outcome) in
        [("down", "up > 5", no), ("down", "b > 5", yes), ("up", "a > 5", no), ("t", "a > 5", yes)]
    {
        let rule = format!(
            "[[objects]]\ninclude = \"shop.*\"\n[[objects]]\ninclude = \"shop.{table}\"\nwhere = \"{filter}\"\n"
        );
        let items = source_as(&server, "drover", &rule).await;
        assert_eq!(of(&items, "K22", &format!("shop.{table}")).result, outcome, "{table} {filter}");
    }
    // Metadata locks that are kept to the end of the copy.
    assert!(!source_as(&server, "drover", "").await.iter().any(|i| i.object == "schema changes"));
    server.exec("mysql", "CREATE USER plain@'127.0.0.1'; GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO plain@'127.0.0.1';").await.unwrap();
    let items = source_as(&server, "plain", "").await;
    assert!(of(&items, "K57", "schema changes").remedy.contains("BINLOG ADMIN"));
    let plans = choose(&schemas::read(&server).await, &[], &known(&server).await).plans;
    assert!(check::elsewhere("shop", &plans).is_none() && check::elsewhere("SHOP", &plans).is_none());
    assert_eq!(check::elsewhere("other", &plans).map(|i| i.item).as_deref(), Some("K16"));
}

#[tokio::test]
async fn a_table_that_is_named_like_one_of_drovers() {
    for release in [Release::MySql9, Release::MariaDb11] {
        let from = server(release).await;
        let sql = "CREATE DATABASE shop; CREATE TABLE shop.t (id int PRIMARY KEY); CREATE TABLE shop.drover_table (id int PRIMARY KEY)";
        from.exec("mysql", sql).await.unwrap();
        for rules in ["", "[[objects]]\ninclude = \"shop.*\"\n", "[[objects]]\ninclude = \"shop.*e\"\n"] {
            let items = source_as(&from, "drover", rules).await;
            let item = of(&items, "K55", "shop.drover_table");
            assert_eq!(item.result, Outcome::Failed, "{release:?}: {item:?}");
            assert!(item.remedy.contains("RENAME TABLE `shop`.`drover_table`"), "{item:?}");
        }
        for rules in ["include = \"shop.*\"\nexclude = \"shop.drover_table\"", "include = \"shop.t\""] {
            let items = source_as(&from, "drover", &format!("[[objects]]\n{rules}\n")).await;
            assert!(items.iter().all(|i| !i.object.contains("drover_table")), "{release:?}: {items:#?}");
            assert_eq!(of(&items, "K55", "tables").result, Outcome::Passed);
        }
    }
}

#[tokio::test]
async fn a_destination_that_takes_nothing() {
    let from = server(Release::MySql9).await;
    from.exec(
        "mysql",
        "CREATE DATABASE shop; CREATE TABLE shop.t (a int PRIMARY KEY, b varchar(10) CHARACTER SET gb18030, c varchar(5)); CREATE TABLE shop.Same (a int PRIMARY KEY);\
         CREATE TABLE shop.same (a int PRIMARY KEY); CREATE TABLE shop.keyless (a int);",
    )
    .await
    .unwrap();
    let c = schemas::read(&from).await;
    let to = MySql::start(
        Release::MySql9,
        &[
            ("lower-case-table-names", "0"),
            ("local-infile", "OFF"),
            ("sql-require-primary-key", "ON"),
            ("slow-query-log", "ON"),
            ("max-allowed-packet", "1M"),
            ("default-time-zone", "+05:00"),
        ],
    )
    .await
    .unwrap();
    let all = "[[objects]]\ninclude = \"shop.*\"\n";
    let items = destination_as(&to, "drover", &c, all).await;
    assert!(failed(&items).is_empty(), "{items:#?}");
    for (item, object) in [("K57", "local_infile"), ("K5", "max_allowed_packet"), ("K5", "time_zone")] {
        assert_eq!(of(&items, item, object).result, Outcome::Warning);
    }
    assert!(
        items.iter().any(|i| i.item == "K57" && i.object == "slow_query_log")
            || std::thread::available_parallelism().unwrap().get() >= 2
    );
    // An account that may not lift the rule about keys.
    to.exec("mysql", "CREATE USER plain@'127.0.0.1'; GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, TRIGGER, CREATE VIEW, CREATE ROUTINE ON *.* TO plain@'127.0.0.1';").await.unwrap();
    assert_eq!(of(&destination_as(&to, "plain", &c, all).await, "K15", "shop.keyless").result, Outcome::Failed);
    to.exec("mysql", "SET GLOBAL super_read_only = ON").await.unwrap();
    let items = destination_as(&to, "drover", &c, all).await;
    assert_eq!(
        (of(&items, "K9", "super_read_only").result, of(&items, "K9", "read_only").result),
        (Outcome::Failed, Outcome::Failed)
    );
    to.exec("mysql", "SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF;").await.unwrap();

    // Tables that are there.
    to.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.t (a bigint PRIMARY KEY, b varchar(10) CHARACTER SET gb18030, c varchar(5) CHARACTER SET latin1); CREATE VIEW shop.same AS SELECT 1 AS a;\
        CREATE TABLE shop.Same (a int PRIMARY KEY); CREATE TRIGGER shop.noisy BEFORE INSERT ON shop.Same FOR EACH ROW SET @a = 1;").await.unwrap();
    let items =
        destination_as(&to, "drover", &c, &format!("[migrate]\nstages = [\"full\", \"incremental\"]\n{all}")).await;
    assert!(of(&items, "K14", "shop.t").cause.contains("column c"), "{items:#?}");
    assert!(of(&items, "K14", "shop.same").cause.contains("no table"));
    assert_eq!(of(&items, "K19", "shop.Same").result, Outcome::Failed);

    // A server that folds names and lacks the character set.
    let maria = MySql::start(Release::MariaDb11, &[("lower-case-table-names", "1")]).await.unwrap();
    let items = destination_as(&maria, "drover", &c, all).await;
    assert_eq!(of(&items, "K16", "shop.Same").result, Outcome::Failed);
    let mapped = choose(&c, &migration(all).objects, &known(&maria).await).items;
    assert_eq!(of(&mapped, "K17", "shop.t.b").result, Outcome::Failed);
    assert!(of(&mapped, "K17", "shop.t.b").remedy.contains("drop"));
    assert_eq!(of(&mapped, "K16", "shop.Same").result, Outcome::Warning);
}

/// From a managed server to one of one's own each table needs a key.
#[tokio::test]
async fn tables_without_a_key_leave_a_managed_server_only_for_another_one() {
    let from = server(Release::MySql9).await;
    from.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.keyless (a int);").await.unwrap();
    let c = schemas::read(&from).await;
    let mut s = session(&from, Fault::Source).await;
    let mut migration = migration("[[objects]]\ninclude = \"shop.*\"\n");
    let plans = choose(&c, &migration.objects, &known(&from).await).plans;
    for (source, destination, outcome) in [
        ("10.0.0.1", "10.0.0.2", None),
        ("rm-x.mysql.rds.aliyuncs.com", "10.0.0.2", Some(Outcome::Failed)),
        ("rm-x.mysql.rds.aliyuncs.com", "rm-y.mysql.rds.aliyuncs.com", None),
    ] {
        (migration.source.url.host, migration.destination.url.host) = (source.into(), destination.into());
        let items = check::source(&mut s, &migration, &plans, &c).await.unwrap();
        let found = items.iter().find(|i| i.item == "K15" && i.object == "shop.keyless");
        assert_eq!(found.map(|i| i.result), outcome, "{source} to {destination}");
    }
}

/// A server that calls itself by the version of a DRDS: tables are to be there already, and of changes only rows are carried.
#[tokio::test]
async fn a_destination_that_is_another_service() {
    let from = server(Release::MySql9).await;
    from.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.t (a int PRIMARY KEY, b varchar(10));").await.unwrap();
    let c = schemas::read(&from).await;
    let drds = MySql::start(Release::MariaDb11, &[("version", "5.6.29-TDDL-5.3.2-1658858")]).await.unwrap();
    drds.exec("mysql", "CREATE DATABASE shop; CREATE TABLE shop.t (a int PRIMARY KEY, b varchar(10));").await.unwrap();
    let all = "[[objects]]\ninclude = \"shop.*\"\n";
    let items = destination_as(&drds, "drover", &c, all).await;
    for (object, remedy) in [("stages", "stages = [\"full\", \"incremental\"]"), ("operations", "operations = [")] {
        let item = of(&items, "K6", object);
        assert!(item.result == Outcome::Failed && item.remedy.contains(remedy), "{item:#?}");
    }
    assert_eq!(of(&items, "K7", "behind").result, Outcome::Warning);
    // What the remedies say is enough.
    let rows = format!(
        "[migrate]\nstages = [\"full\", \"incremental\"]\n{all}operations = [\"insert\", \"update\", \"delete\"]\n"
    );
    let items = destination_as(&drds, "drover", &c, &rows).await;
    assert!(!failed(&items).iter().any(|i| i.item == "K6"), "{items:#?}");
    assert_eq!(of(&items, "K6", "rows to DRDS").result, Outcome::Passed);
    // Nothing follows a proxy's log.
    let mut s = session(&drds, Fault::Source).await;
    assert!(catalog::read(&mut s, Some("shop")).await.unwrap_err().to_string().contains("is DRDS"));

    let items = destination_as(&from, "drover", &c, all).await;
    assert!(!items.iter().any(|i| i.item == "K6" && i.result != Outcome::Passed), "{items:#?}");
}

#[tokio::test]
async fn connections_that_fail_say_why() {
    let server = server(Release::MariaDb10).await;
    let failure = async |dialer: drover_connectors_mysql::connect::Dialer| {
        let error = dialer.session("test").await.err().unwrap();
        check::connect_failure(End::Source, &error)
    };
    let wrong = failure(dialer_as(&server, "drover", Some("wrong"), Fault::Source)).await;
    assert!(wrong.item == "K1" && wrong.remedy.contains("password"), "{wrong:#?}");
    let mut stopped = server;
    stopped.stop().await.unwrap();
    let refused = failure(dialer_as(&stopped, "drover", None, Fault::Source)).await;
    assert!(refused.remedy.contains("listens"), "{refused:#?}");
}
