//! A rich schema is carried to another database and found there again, by the catalogue and by the server's own dump.

#![allow(clippy::unwrap_used)]

mod common;

use common::{RICH, apply_all, dump, read, rule, select};
use drover_connectors_postgres::schema;
use drover_model::selection::ColumnRules;
use std::collections::BTreeMap;

fn difference(source: &[String], destination: &[String]) -> Vec<String> {
    let missing = source.iter().filter(|s| !destination.contains(s)).map(|s| format!("- {s}"));
    let extra = destination.iter().filter(|s| !source.contains(s)).map(|s| format!("+ {s}"));
    missing.chain(extra).collect()
}

#[tokio::test]
async fn the_whole_schema_arrives() {
    let server = common::server().await;
    server.exec("drover", RICH).await.unwrap();
    server.create_database("there").await.unwrap();
    let catalog = read(&server, "drover").await;
    let (plans, objects) = select(&catalog, &[]);
    apply_all(&server.connect("there").await.unwrap(), &catalog, &plans, &objects).await;
    let differs = difference(&dump(&server, "drover"), &dump(&server, "there"));
    // What cannot be carried, and only that.
    let left = schema::left_out(&catalog, &plans, &objects);
    assert!(left.iter().any(|i| i.object.contains("in_c")), "{left:?}");
    assert_eq!(left.len(), 1, "{left:?}");
    let differs: Vec<_> = differs.into_iter().filter(|d| !d.contains("in_c")).collect();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
    // The catalogue agrees with the dump.
    let there = read(&server, "there").await;
    for table in &catalog.tables {
        let copy = there.table(&table.name).unwrap_or_else(|| panic!("{} is missing", table.name));
        assert_eq!(copy.columns, table.columns, "{}", table.name);
        assert_eq!(copy.keys, table.keys, "{}", table.name);
        assert_eq!(copy.old_image, table.old_image, "{}", table.name);
        let strip = |t: &drover_model::schema::Table| {
            let mut parts: Vec<_> =
                t.parts.iter().map(|p| (p.kind.clone(), p.name.clone(), p.definition.clone())).collect();
            parts.sort();
            parts
        };
        assert_eq!(strip(copy), strip(table), "{}", table.name);
    }
}

#[tokio::test]
async fn names_change_and_what_depends_on_them_follows() {
    let server = common::server().await;
    server.exec("drover", RICH).await.unwrap();
    server.create_database("there").await.unwrap();
    let catalog = read(&server, "drover").await;
    let mut customer = rule("shop.customer");
    customer.rename = Some("crm.client".into());
    customer.columns = Some(ColumnRules {
        include: None,
        drop: vec!["fax".into()],
        rename: BTreeMap::from([("last_name".to_owned(), "Family Name".to_owned())]),
        on_misfit: Default::default(),
    });
    let (plans, objects) = select(&catalog, &[rule("shop.*"), customer]);
    let client = server.connect("there").await.unwrap();
    apply_all(&client, &catalog, &plans, &objects).await;
    let left = schema::left_out(&catalog, &plans, &objects);
    assert!(left.iter().any(|i| i.object == "check shop.customer.late_check" && i.item == "K20"), "{left:?}");
    // Check, index with an expression, foreign keys in both directions, views: all under the new names.
    client
        .batch_execute(
            "INSERT INTO shop.country VALUES (1, 'x');
             INSERT INTO crm.client (first_name, \"Family Name\", country_id, price, qty) VALUES ('a', 'b', 1, 2, 3);
             INSERT INTO shop.orders (customer_id, placed) SELECT id, '2024-01-01' FROM crm.client",
        )
        .await
        .unwrap();
    let n: i64 = client.query_one("SELECT n FROM shop.a_top", &[]).await.unwrap().get(0);
    assert_eq!(n, 1);
    let id: i32 =
        client.query_one("SELECT id FROM crm.client WHERE lower(\"Family Name\") = 'b'", &[]).await.unwrap().get(0);
    assert_eq!(id, 100);
    let bad = "INSERT INTO crm.client (first_name, \"Family Name\") VALUES ('a', 'a')";
    assert!(client.batch_execute(bad).await.is_err(), "the check holds under the new name");
    assert!(
        client.batch_execute("INSERT INTO shop.orders (customer_id, placed) VALUES (7, '2024-01-01')").await.is_err()
    );
    let there = read(&server, "there").await;
    let copy = there.table(&drover_model::schema::TableName::new("crm", "client")).unwrap();
    assert!(copy.column("fax").is_none() && copy.column("Family Name").is_some());
    assert!(
        copy.parts.iter().any(|p| p.name == "customer_name" && p.definition.contains("lower((\"Family Name\")::text)")),
        "{:?}",
        copy.parts
    );
}

#[tokio::test]
async fn one_table_brings_what_it_needs_and_no_more() {
    let server = common::server().await;
    server.exec("drover", RICH).await.unwrap();
    server.create_database("there").await.unwrap();
    let catalog = read(&server, "drover").await;
    let (plans, _) = select(&catalog, &[rule("shop.customer")]);
    apply_all(&server.connect("there").await.unwrap(), &catalog, &plans, &[]).await;
    let there = read(&server, "there").await;
    assert_eq!(there.tables.len(), 1);
    let mut objects: Vec<_> = there.objects.iter().filter(|o| o.kind != "schema").map(|o| o.name.as_str()).collect();
    objects.sort_unstable();
    assert_eq!(objects, ["address", "mood", "positive", "span", "twice(x integer)"]);
    let left = schema::left_out(&catalog, &plans, &[]);
    assert!(left.iter().any(|i| i.object.starts_with("foreign key") && i.cause.contains("shop.country")), "{left:?}");
}

#[tokio::test]
async fn an_existing_table_of_another_shape_is_an_error_that_names_it() {
    let server = common::server().await;
    server.exec("drover", "CREATE TABLE t (id int PRIMARY KEY, a text)").await.unwrap();
    server.create_database("there").await.unwrap();
    server.exec("there", "CREATE TABLE t (id int, a varchar(3))").await.unwrap();
    let catalog = read(&server, "drover").await;
    let (plans, objects) = select(&catalog, &[]);
    let client = server.connect("there").await.unwrap();
    let step = drover_connectors_api::SchemaStep::Base;
    let error = schema::apply(&client, &step, &catalog, &plans, &objects, false).await.unwrap_err();
    assert_eq!(error.table.as_deref(), Some("public.t"));
    assert!(error.message.contains("column a is of type"), "{error}");
}
