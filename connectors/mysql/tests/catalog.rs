//! What the catalogue says of rich schemas.

#![allow(clippy::unwrap_used)]

mod schemas;

use drover_connectors_mysql::catalog::{self, auto_increments, physical, shapes};
use drover_connectors_mysql::types::Kind;
use drover_connectors_mysql::{schema, typemap::Known};
use drover_harness::Release;
use drover_model::schema::{Catalog, DataType, Identity, OldImage, Phase};
use drover_model::{Fault, error::codes};
use schemas::{dialer_as, dump, name, read, recreate, rich, rule, server, session};

#[tokio::test]
async fn tables_are_told_with_all_their_parts() {
    for release in Release::ALL {
        let server = rich(release).await;
        server
            .exec("mysql", "CREATE DATABASE IF NOT EXISTS drover; CREATE TABLE drover.x (i int); CREATE TABLE shop.drover_progress (i int); \
                CREATE TABLE shop.drover_chunk (migration char(36) CHARACTER SET ascii NOT NULL);")
            .await
            .unwrap();
        let mut s = session(&server, Fault::Source).await;
        let c = catalog::read(&mut s, Some("shop")).await.unwrap();
        assert_eq!(
            (c.origin.as_str(), c.scope.as_deref(), c.database.as_str()),
            (release.kind(), Some("shop"), "shop")
        );
        let uuid = c.identity.len() == 36 && !release.is_mariadb();
        assert!(uuid || c.identity == format!("id:{}", server.port()), "{}", c.identity);
        assert!(c.tables.iter().all(|t| t.name.schema == "shop" || t.name.schema == "we`ird db"));
        assert!(
            c.table(&name("shop", "drover_progress")).is_none() && c.table(&name("we`ird db", "tab`le x")).is_some()
        );
        // A helper of drover's own is nothing to tell of, another table of its name is.
        let reserved: Vec<_> = c.objects.iter().filter(|o| o.name.starts_with("drover_")).collect();
        assert!(matches!(reserved[..], [o] if o.kind == "unsupported" && o.name == "drover_progress"), "{reserved:?}");
        let customer = c.table(&name("shop", "customer")).unwrap();
        let column = |n: &str| customer.column(n).unwrap();
        assert_eq!(customer.old_image, OldImage::Full);
        assert_eq!(column("id").identity, Some(Identity::ByDefault));
        assert_eq!(column("id").data_type, DataType::Int { bytes: 8, unsigned: true });
        // MariaDB tells a default of the text NULL from none by its quotes.
        assert_eq!((column("nick").default.as_deref(), column("name").default.as_deref()), (Some("'NULL'"), None));
        assert_eq!(column("empty").default.as_deref(), Some("''"));
        assert_eq!(column("lat").origin_type, "varchar(20) character set latin1");
        assert_eq!(column("lat").collation.as_deref(), Some("latin1_german2_ci"));
        assert_eq!(column("ts").comment.as_deref(), Some("it's when;"));
        // A MariaDB keeps the text.
        assert_eq!(column("j").data_type, if release.is_mariadb() { DataType::JsonText } else { DataType::Json });
        assert!(column("g1").generated.is_some() && column("g2").generated.is_some());
        let labels = ["a", "it's", "x\\y", "line\nbreak", ""].map(String::from).to_vec();
        assert_eq!(column("e").data_type, DataType::Enum { labels });
        // Binary defaults survive their zero byte.
        let bin = column("bin").default.clone().unwrap().to_lowercase();
        assert!(bin == "0x00ff41" || bin == "x'00ff41'", "{bin}");
        let keys: Vec<_> = customer.keys.iter().map(|k| (k.name.as_str(), k.primary, k.identifies)).collect();
        assert_eq!(
            keys,
            [("PRIMARY", true, true), ("email", false, true), ("nn", false, false), ("pre", false, false)]
        );
        let uniq = c.table(&name("shop", "uniq")).unwrap();
        assert_eq!(uniq.identifying_key().map(|k| k.columns.clone()), Some(vec!["a".to_owned(), "b".to_owned()]));
        let orders = c.table(&name("shop", "orders")).unwrap();
        assert_eq!(orders.options.get("auto_increment").map(String::as_str), Some("1000"));
        let all = orders.parts.iter().filter(|p| p.kind == "trigger");
        let triggers: Vec<_> = all.filter(|p| p.name != "up").map(|p| (p.name.as_str(), p.phase)).collect();
        assert_eq!(triggers, ["tr0", "tr1", "tr2"].map(|n| (n, Phase::Cutover)), "in the order in which they fire");
        assert!(orders.parts.iter().any(|p| p.kind == "foreign key" && p.phase == Phase::Final));
        let at =
            |n: &str| c.objects.iter().position(|o| o.name == n && o.schema == "shop").unwrap_or_else(|| panic!("{n}"));
        assert!(at("f1") < at("z_base") && at("z_base") < at("a_top"), "views come after what they need");
        let event = &c.objects[at("ev1")];
        assert_eq!(
            (event.kind.as_str(), event.options.get("kind").map(String::as_str)),
            ("unsupported", Some("event"))
        );
        if release.is_mariadb() {
            assert_eq!(c.objects[at("seq")].kind, "sequence");
        }
    }
}

#[tokio::test]
async fn shapes_have_every_column_in_its_place() {
    for release in [Release::MySql9, Release::MariaDb10] {
        let server = rich(release).await;
        let mut s = session(&server, Fault::Source).await;
        let wanted = [name("shop", "customer"), name("shop", "hidden"), name("shop", "gone")];
        let found = shapes(&mut s, &wanted).await.unwrap();
        assert_eq!(found.len(), 2);
        let customer = &found[&wanted[0]];
        assert_eq!((customer[0].name.as_str(), customer.last().unwrap().name.as_str()), ("id", "j"));
        let of = |n: &str| customer.iter().find(|c| c.name == n).unwrap();
        assert_eq!((of("g1").generated, of("g2").generated, of("z").generated), (Some(false), Some(true), None));
        assert!(of("id").auto_increment && of("z").my_type.as_ref().unwrap().zerofill);
        assert_eq!(of("mt").my_type.as_ref().unwrap().charset.as_deref(), Some("ascii"));
        let json = if release.is_mariadb() { Kind::Text { prefix: 4 } } else { Kind::Json };
        assert_eq!(of("j").my_type.as_ref().unwrap().kind, json);
        let hidden: Vec<_> = found[&wanted[1]].iter().map(|c| (c.name.as_str(), c.invisible)).collect();
        assert_eq!(hidden, [("a", false), ("b", true), ("ex", false), ("ej", false)]);
        assert!(shapes(&mut s, &[]).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn physical_identity_notices_what_changes_rows() {
    for release in Release::ALL {
        let server = rich(release).await;
        let c = read(&server).await;
        let mut s = session(&server, Fault::Source).await;
        let table = name("shop", "ev");
        let mut before = physical(&mut s, &table).await.unwrap();
        assert_eq!(before, c.table(&table).unwrap().physical);
        for (sql, changes) in [
            ("INSERT INTO shop.ev VALUES (1, '2019-01-01')", false),
            ("ALTER TABLE shop.ev ADD COLUMN note varchar(10)", true),
            ("ALTER TABLE shop.ev MODIFY COLUMN note varchar(11)", true),
            ("ALTER TABLE shop.ev RENAME COLUMN note TO remark", true),
            (
                "ALTER TABLE shop.ev REORGANIZE PARTITION p1 INTO (PARTITION p1 VALUES LESS THAN (2030), PARTITION p2 VALUES LESS THAN MAXVALUE)",
                true,
            ),
            ("UPDATE shop.ev SET remark = 'x'", false),
        ] {
            server.exec("mysql", sql).await.unwrap();
            let after = physical(&mut s, &table).await.unwrap();
            assert_eq!(before != after, changes, "{release:?}: {sql}");
            before = after;
        }
        let gone = physical(&mut s, &name("shop", "gone")).await.unwrap_err();
        assert_eq!(gone.code, codes::TABLE_CHANGED);
        // A counter that moves on is no change.
        let orders = physical(&mut s, &name("shop", "orders")).await.unwrap();
        server
            .exec("mysql", "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', SESSION foreign_key_checks = 0; INSERT INTO shop.orders (customer_id) VALUES (1);")
            .await
            .unwrap();
        assert_eq!(physical(&mut s, &name("shop", "orders")).await.unwrap(), orders);
    }
}

/// The guard where the physical identity sees nothing: an older snapshot refuses a table that was emptied or rewritten since.
#[tokio::test]
async fn an_older_snapshot_refuses_a_table_that_was_emptied() {
    use mysql_async::prelude::Queryable;
    for release in Release::ALL {
        let server = rich(release).await;
        server.exec("mysql", "INSERT INTO shop.pk VALUES (1), (2)").await.unwrap();
        let mut old = server.connect("mysql").await.unwrap();
        old.query_drop("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT")
            .await
            .unwrap();
        server.exec("mysql", "TRUNCATE shop.pk").await.unwrap();
        let read = old.query::<u64, _>("SELECT count(*) FROM shop.pk").await;
        let Err(mysql_async::Error::Server(e)) = read else { panic!("{release:?}: {read:?}") };
        assert_eq!(e.code, 1412, "{release:?}");
    }
}

#[tokio::test]
async fn next_values_arrive_under_other_names() {
    for release in Release::ALL {
        let (from, to) = (rich(release).await, server(release).await);
        let (c, chosen) =
            recreate(&from, &to, &[rule("shop.*", Some("other.*")), rule("shop.orders", Some("other.order_s"))]).await;
        // Beyond what a signed number holds.
        from.exec("mysql", "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', SESSION foreign_key_checks = 0; INSERT INTO shop.orders (id, customer_id) VALUES (5000, 1); DELETE FROM shop.orders;\
            ALTER TABLE shop.customer AUTO_INCREMENT = 18446744073709551610;").await.unwrap();
        let mut s = session(&from, Fault::Source).await;
        let values = auto_increments(&mut s).await.unwrap();
        assert!(values.contains(&("shop".into(), "orders".into(), 5001, false)), "{values:?}");
        let mut d = session(&to, Fault::Destination).await;
        let known = Known::read(&mut d).await.unwrap();
        let mapped = schema::map_auto_increments(&c, &chosen.plans, &chosen.objects, &known, &values);
        let (names, values): (Vec<_>, Vec<_>) = mapped.into_iter().unzip();
        assert!(names.contains(&"shop.orders".to_owned()));
        schema::set_auto_increments(&mut d, &values).await.unwrap();
        schema::set_auto_increments(&mut d, &values).await.unwrap();
        let next = |t: &'static str| {
            let to = &to;
            async move {
                let sql = format!(
                    "SET SESSION information_schema_stats_expiry = 0; SELECT auto_increment FROM information_schema.tables WHERE table_schema = 'other' AND table_name = '{t}'"
                );
                let sql = if release.is_mariadb() { sql.split_once("; ").unwrap().1.to_owned() } else { sql };
                let mut conn = to.connect("mysql").await.unwrap();
                use mysql_async::prelude::Queryable;
                let mut last: Option<u64> = None;
                let mut result = conn.query_iter(sql).await.unwrap();
                while !result.is_empty() {
                    if let Some(found) = result.collect::<Option<u64>>().await.unwrap().pop() {
                        last = found;
                    }
                }
                last
            }
        };
        assert_eq!(
            (next("order_s").await, next("customer").await),
            (Some(5001), Some(18_446_744_073_709_551_610)),
            "{release:?}"
        );
        if release.is_mariadb() {
            from.exec("mysql", "DO NEXTVAL(shop.seq); DO NEXTVAL(shop.seq); DO NEXTVAL(shop.seq);").await.unwrap();
            let values = auto_increments(&mut s).await.unwrap();
            let mapped = schema::map_auto_increments(&c, &chosen.plans, &chosen.objects, &known, &values);
            let values: Vec<_> = mapped.into_iter().map(|(_, v)| v).collect();
            schema::set_auto_increments(&mut d, &values).await.unwrap();
            let theirs = from.query_one_text("mysql", "SELECT next_not_cached_value FROM shop.seq").await.unwrap();
            let first = to.query_one_text("mysql", "SELECT NEXTVAL(other.seq)").await.unwrap();
            assert_eq!(theirs, first);
        }
    }
}

/// Whatever is missing, and nothing else, is made by a repeated step.
#[tokio::test]
async fn a_step_that_was_broken_off_is_taken_up() {
    use drover_connectors_api::SchemaStep;
    for release in [Release::MySql9, Release::MariaDb10] {
        let (from, to) = (rich(release).await, server(release).await);
        let (c, chosen) = recreate(&from, &to, &[rule("shop.*", None)]).await;
        let whole = dump(&to, "shop").await;
        to.exec("shop", "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', SESSION foreign_key_checks = 0; ALTER TABLE orders DROP FOREIGN KEY fk_c; ALTER TABLE customer DROP INDEX email, DROP INDEX ft2; DROP VIEW a_top; \
            DROP FUNCTION f1; DROP TRIGGER tr0; DROP TABLE compact;").await.unwrap();
        let mut d = session(&to, Fault::Destination).await;
        let known = Known::read(&mut d).await.unwrap();
        let customer = chosen.plans.iter().find(|p| p.source.name == "customer").unwrap().id;
        let mut made = Vec::new();
        for step in [SchemaStep::Base, SchemaStep::Table { id: customer }, SchemaStep::Final, SchemaStep::Cutover] {
            made.extend(schema::apply(&mut d, &known, &step, &c, &chosen.plans, &chosen.objects, false).await.unwrap());
        }
        made.sort();
        assert_eq!(
            made,
            [
                "foreign key shop.fk_c",
                "function shop.f1",
                "index shop.customer.email",
                "index shop.customer.ft2",
                "table shop.compact",
                "trigger shop.tr0",
                "view shop.a_top"
            ]
        );
        // The trigger fires last of its kind now; all else is as it was.
        let again: Vec<_> = dump(&to, "shop").await.into_iter().filter(|t| !t.starts_with("orders BEFORE")).collect();
        assert_eq!(again, whole.into_iter().filter(|t| !t.starts_with("orders BEFORE")).collect::<Vec<_>>());
        // A table of other columns is not taken for ours.
        to.exec("shop", "ALTER TABLE pl MODIFY k varchar(3) NOT NULL").await.unwrap();
        let error = schema::apply(&mut d, &known, &SchemaStep::Base, &c, &chosen.plans, &chosen.objects, true)
            .await
            .unwrap_err();
        assert!(error.message.contains("column k") && error.table.as_deref() == Some("shop.pl"), "{error}");
    }
}

/// Names at a destination that stores them in lower case.
#[tokio::test]
async fn a_destination_that_folds_names() {
    let from = server(Release::MySql9).await;
    from.exec(
        "mysql",
        "CREATE DATABASE Shop; USE Shop; CREATE TABLE Parent (Id int PRIMARY KEY, U int, UNIQUE KEY MixedKey (U)); \
         CREATE TABLE Child (Id int PRIMARY KEY, P int, CONSTRAINT Fk FOREIGN KEY (P) REFERENCES Parent (Id)); \
         CREATE VIEW Seen AS SELECT c.Id FROM Child c JOIN Parent p ON p.Id = c.P; \
         CREATE TRIGGER Noted BEFORE INSERT ON Child FOR EACH ROW SET NEW.P = NEW.P; CREATE PROCEDURE Proc() SELECT 1;",
    )
    .await
    .unwrap();
    for release in [Release::MySql9, Release::MariaDb11] {
        let settings: &[(&str, &str)] = &[("lower-case-table-names", "1")];
        let to = match drover_harness::MySql::start(release, settings).await {
            Ok(to) => to,
            // MySQL 8 and later take the setting only when the data folder is made.
            Err(_) if !release.is_mariadb() => continue,
            Err(e) => panic!("{e:#}"),
        };
        let (_, chosen) = recreate(&from, &to, &[rule("Shop.*", None)]).await;
        assert_eq!(chosen.plans.len(), 2);
        let made = dump(&to, "shop").await;
        assert_eq!(made.len(), 6, "{made:#?}");
    }
}

/// A view that does not work is named, with those over it, and is not made; one whose definer is gone is made.
#[tokio::test]
async fn views_that_do_not_work_are_named() {
    for release in Release::ALL {
        let server = server(release).await;
        let sql = "CREATE DATABASE shop; USE shop; CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE gone (id int PRIMARY KEY); \
            CREATE FUNCTION f() RETURNS int DETERMINISTIC NO SQL RETURN 1; \
            CREATE VIEW fine AS SELECT id FROM t; CREATE VIEW bad AS SELECT id FROM gone; CREATE VIEW overlying AS SELECT * FROM bad; \
            CREATE VIEW bad_column AS SELECT v FROM t; CREATE VIEW bad_function AS SELECT f() AS x; \
            CREATE DEFINER = nobody@nowhere VIEW orphan AS SELECT id FROM t; \
            CREATE DEFINER = nobody@nowhere VIEW bad_orphan AS SELECT id FROM gone; \
            DROP TABLE gone; DROP FUNCTION f; ALTER TABLE t DROP COLUMN v;";
        server.exec("mysql", sql).await.unwrap();
        let c = read(&server).await;
        let of = |kind: &str| -> Vec<&str> {
            let mut names: Vec<_> = c.objects.iter().filter(|o| o.kind == kind).map(|o| o.name.as_str()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(of("view"), ["fine", "orphan"], "{release:?}: {:?}", c.objects);
        assert_eq!(of("unsupported"), ["bad", "bad_column", "bad_function", "bad_orphan", "overlying"], "{release:?}");
        let reason = &c.objects.iter().find(|o| o.name == "bad").unwrap().options["reason"];
        assert!(reason.contains("does not work at the source"), "{reason}");
    }
}

/// What an account cannot see is said, or is not there at all for it; nothing else is lost.
#[tokio::test]
async fn an_account_that_sees_little() {
    for release in [Release::MySql9, Release::MariaDb11] {
        let server = rich(release).await;
        server.exec("mysql", "CREATE USER little@'127.0.0.1'; GRANT SELECT ON shop.* TO little@'127.0.0.1'; GRANT EXECUTE ON PROCEDURE shop.p1 TO little@'127.0.0.1';").await.unwrap();
        let mut s = dialer_as(&server, "little", None, Fault::Source).session("test").await.unwrap();
        let c: Catalog = catalog::read(&mut s, None).await.unwrap();
        assert!(c.scope.is_none());
        let reasons: Vec<_> = c
            .objects
            .iter()
            .filter(|o| o.kind == "unsupported")
            .map(|o| (o.options["kind"].as_str(), o.name.as_str()))
            .collect();
        for view in ["a_top", "z_base", "sub"] {
            assert!(reasons.contains(&("view", view)), "{release:?}: {reasons:?}");
        }
        assert!(reasons.contains(&("procedure", "p1")), "{release:?}: {reasons:?}");
        assert!(c.tables.len() > 8 && c.tables.iter().all(|t| t.name.schema == "shop"));
    }
}

/// Of the server's own zone is known how far it is ahead of UTC, and until when.
#[tokio::test]
async fn the_next_change_of_clocks_is_known() {
    for release in [Release::MySql9, Release::MariaDb11] {
        let server = server(release).await;
        server.create_database("app").await.unwrap();
        let mut s = session(&server, Fault::Source).await;
        let option = |c: &Catalog, name: &str| c.objects.iter().find_map(|o| o.options.get(name).cloned());
        let c = catalog::read(&mut s, Some("app")).await.unwrap();
        assert_eq!((option(&c, "server.zone_seconds"), option(&c, "server.zone_until")), (Some("0".into()), None));
        // In a month, to the half hour.
        let turn = (std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 1800 + 30 * 48) * 1800;
        let zone = format!(
            "INSERT INTO time_zone VALUES (77, 'N'); INSERT INTO time_zone_name VALUES ('Some/Where', 77);
             INSERT INTO time_zone_transition_type VALUES (77, 0, -12600, 0, 'A'), (77, 1, -9000, 1, 'B');
             INSERT INTO time_zone_transition VALUES (77, 1000000000, 0), (77, {turn}, 1); SET GLOBAL time_zone = 'Some/Where';"
        );
        server.exec("mysql", &zone).await.unwrap();
        let c = catalog::read(&mut s, Some("app")).await.unwrap();
        let known = (option(&c, "server.zone_seconds"), option(&c, "server.zone_until"));
        assert_eq!(known, (Some("-12600".into()), Some(turn.to_string())), "{release:?}");
    }
}
