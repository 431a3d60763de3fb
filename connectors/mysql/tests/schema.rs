//! Schemas made at a destination of either flavor.

#![allow(clippy::unwrap_used)]

mod schemas;

use drover_harness::Release;
use drover_model::check::Outcome;
use schemas::{described, dump, filled, recreate, rich, rule, server};

/// How the text of a source should read at a destination of the same release.
fn expected(text: &str) -> String {
    let mut text = text.replace("SQL SECURITY DEFINER VIEW", "SQL SECURITY INVOKER VIEW");
    let routine = ["PROCEDURE", "FUNCTION", "AGGREGATE"].iter().any(|k| text.starts_with(&format!("CREATE  {k}")));
    if routine && !text.contains("SQL SECURITY INVOKER") {
        // Behind the other characteristics, ahead of a comment.
        text.push_str(" +INVOKER");
    }
    text
}

fn invoked(text: &str, expected: &str) -> String {
    if !expected.ends_with(" +INVOKER") {
        return text.to_owned();
    }
    assert!(text.contains("\n    SQL SECURITY INVOKER"), "{text}");
    format!("{} +INVOKER", text.replace("\n    SQL SECURITY INVOKER", ""))
}

#[tokio::test]
async fn a_server_of_the_same_release_gets_the_same_schema() {
    for release in Release::ALL {
        let (from, to) = (rich(release).await, server(release).await);
        let rules = [rule("shop.*", None), rule("we`ird db.*", None)];
        let (_, chosen) = recreate(&from, &to, &rules).await;
        assert!(!chosen.items.iter().any(|i| i.result == Outcome::Failed), "{:#?}", chosen.items);
        for database in ["shop", "we`ird db"] {
            let (there, here) = (dump(&from, database).await, dump(&to, database).await);
            let there: Vec<String> = there.iter().map(|t| expected(t)).collect();
            let here: Vec<String> = here.iter().zip(&there).map(|(h, t)| invoked(h, t)).collect();
            for (h, t) in here.iter().zip(&there) {
                assert_eq!(h, t, "{release:?}");
            }
            assert_eq!(here.len(), there.len());
        }
    }
}

/// From every release to every other one: tables have the same columns and keys, and a row that is left to its defaults is the same row.
#[tokio::test]
async fn the_other_flavor_gets_all_that_it_can_hold() {
    let mut sources = Vec::new();
    for release in Release::ALL {
        sources.push(rich(release).await);
    }
    for from in &sources {
        for release in Release::ALL.into_iter().filter(|r| *r != from.release()) {
            let to = server(release).await;
            let (_, chosen) = recreate(from, &to, &[rule("shop.*", Some("other.*"))]).await;
            let pair = format!("{:?} to {release:?}", from.release());
            let failed: Vec<_> = chosen.items.iter().filter(|i| i.result == Outcome::Failed).collect();
            assert!(failed.is_empty(), "{pair}: {failed:#?}");
            let (there, here) = (described(from, "shop").await, described(&to, "other").await);
            for (table, columns) in &there {
                if !table.starts_with("only_") {
                    assert_eq!(Some(columns), here.get(table), "{pair}: {table}");
                }
            }
            assert_eq!(there.len(), here.len(), "{pair}");
            assert_eq!(filled(from, "shop").await, filled(&to, "other").await, "{pair}");
            let told = |item: &str, text: &str| {
                let has =
                    chosen.items.iter().any(|i| i.item == item && format!("{} {}", i.object, i.cause).contains(text));
                assert!(has, "{pair}: nothing is said of {text}");
            };
            told("K18", "event shop.ev1");
            told("K19", "trigger other.tr1");
            told("K20", "procedure shop.p1");
            match (from.release().is_mariadb(), release.is_mariadb()) {
                (false, true) => {
                    for text in [
                        "vector",
                        "NOT NULL is left out",
                        "lax",
                        "SRID",
                        "fx",
                        "mv",
                        "ngram",
                        "COMPRESSION",
                        "AUTOEXTEND",
                    ] {
                        let items = &chosen.items;
                        let vector_known = text == "vector" && release == Release::MariaDb11;
                        let said = items.iter().any(|i| format!("{} {}", i.object, i.cause).contains(text));
                        assert!(said || vector_known, "{pair}: nothing is said of {text}");
                    }
                    told("K17", "shop.customer.j");
                }
                (true, false) => {
                    told("K17", "shop.only_maria.id");
                    told("K17", "shop.only_maria.i6");
                    told("K18", "sequence shop.seq");
                    told("K5", "nextval");
                    told("K5", "COMPRESSED");
                    told("K20", "lk");
                    told("K5", "DESC is left out");
                    told("K20", "virtual_v");
                    told("K5", "ENGINE=Aria");
                    told("K5", "ENGINE=MEMORY");
                    told("K20", "partitioning shop.dflt");
                    told("K18", "function shop.agg");
                }
                _ => {}
            }
        }
    }
}

/// Under other names: databases, tables and columns are renamed wherever tables name them; what cannot be renamed is named.
#[tokio::test]
async fn renamed_and_dropped_columns() {
    use drover_model::selection::ColumnRules;
    use std::collections::BTreeMap;
    for release in [Release::MySql9, Release::MariaDb11] {
        let (from, to) = (rich(release).await, server(release).await);
        let mut customer = rule("shop.customer", Some("crm.client"));
        let renamed = [("id", "number"), ("price", "cost`s"), ("z", "zz"), ("name", "full name")];
        customer.columns = Some(ColumnRules {
            include: None,
            drop: vec!["yr".into(), "e".into()],
            rename: BTreeMap::from(renamed.map(|(a, b)| (a.to_owned(), b.to_owned()))),
            on_misfit: Default::default(),
        });
        let mut partitions = rule("shop.ev", None);
        partitions.columns = Some(ColumnRules {
            include: None,
            drop: vec![],
            rename: BTreeMap::from([("at".into(), "day".into()), ("id".into(), "p0".into())]),
            on_misfit: Default::default(),
        });
        let (_, chosen) = recreate(&from, &to, &[rule("shop.*", Some("crm.*")), customer, partitions]).await;
        let dump = dump(&to, "crm").await;
        let find =
            |start: &str| dump.iter().find(|t| t.starts_with(start)).unwrap_or_else(|| panic!("{start}: {dump:#?}"));
        let client = find("CREATE TABLE `client`");
        for part in [
            "`number` bigint",
            "PRIMARY KEY (`number`)",
            "`cost``s`",
            "KEY `n` (`full name` DESC,`cost``s`)",
            "`zz` + 1",
            "concat(`full name`",
        ] {
            assert!(client.contains(part), "{part}: {client}");
        }
        assert!(!client.contains("`yr`") && !client.contains("`com`"), "{client}");
        assert!(find("CREATE TABLE `orders`").contains("REFERENCES `client` (`number`)"));
        let ev = find("CREATE TABLE `ev`");
        assert!(
            ev.contains("year(`day`)")
                && ev.contains("HASH (`p0`)")
                && ev.contains("p0 VALUES LESS") | ev.contains("`p0` VALUES LESS"),
            "{ev}"
        );
        let said = |text: &str| chosen.items.iter().any(|i| format!("{} {}", i.object, i.cause).contains(text));
        assert!(
            said("view shop.z_base") && said("view shop.a_top") && said("shop.customer.com"),
            "{:#?}",
            chosen.items
        );
        assert!(!dump.iter().any(|t| t.contains("VIEW")), "{dump:#?}");
    }
}

/// The period stays behind, and so must keys over it: a MariaDB refused the table.
#[tokio::test]
async fn keys_over_periods_are_left_out_with_them() {
    for release in [Release::MariaDb10, Release::MariaDb11] {
        let (from, to) = (server(release).await, server(release).await);
        let sql = "CREATE DATABASE shop; CREATE TABLE shop.stay (id int, room int, a date NOT NULL, b date NOT NULL, PERIOD FOR p (a, b), \
            PRIMARY KEY (id, p WITHOUT OVERLAPS), UNIQUE KEY free (room, p WITHOUT OVERLAPS), KEY plain (room))";
        from.exec("mysql", sql).await.unwrap();
        let (_, chosen) = recreate(&from, &to, &[rule("shop.*", None)]).await;
        for object in ["period shop.stay.p", "primary key shop.stay.PRIMARY", "shop.stay.free"] {
            assert!(
                chosen.items.iter().any(|i| i.item == "K20" && i.object.ends_with(object)),
                "{object}: {:#?}",
                chosen.items
            );
        }
        let here = dump(&to, "shop").await.join("\n");
        assert!(here.contains("KEY `plain`") && !here.contains("OVERLAPS") && !here.contains("PERIOD"), "{here}");
    }
}
