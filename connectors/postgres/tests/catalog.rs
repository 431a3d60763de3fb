//! What the catalogue says of a rich schema.

#![allow(clippy::unwrap_used)]

mod common;

use common::{RICH, read};
use drover_connectors_postgres::catalog;
use drover_model::schema::{DataType, OldImage, TableName};

#[tokio::test]
async fn tables_are_told_with_all_their_parts() {
    let server = common::server().await;
    server.exec("drover", RICH).await.unwrap();
    server
        .exec(
            "drover",
            "CREATE SCHEMA drover; CREATE TABLE drover.x (i int); CREATE TABLE public.dts_postgres_heartbeat (i int)",
        )
        .await
        .unwrap();
    let c = read(&server, "drover").await;
    assert_eq!((c.origin.as_str(), c.version / 10_000, c.database.as_str()), ("postgres", server.version(), "drover"));
    let (system, timeline) = c.identity.split_once(':').unwrap();
    assert!(system.parse::<u64>().is_ok() && timeline == "1", "{}", c.identity);
    let names: Vec<_> = c.tables.iter().filter(|t| t.name.schema == "shop").map(|t| t.name.name.as_str()).collect();
    assert_eq!(names, ["base", "cache", "child", "country", "customer", "event", "orders"]);
    assert!(!c.tables.iter().any(|t| t.name.schema == "drover" || t.name.name.starts_with("dts_")));
    let t = |name: &str| c.table(&TableName::new("shop", name)).unwrap();
    let customer = t("customer");
    let column = |name: &str| customer.column(name).unwrap();
    assert_eq!(column("price").data_type, DataType::Decimal { precision: Some(10), scale: Some(2) });
    assert_eq!(column("qty").data_type, DataType::Int { bytes: 4, unsigned: false });
    assert_eq!(
        column("feeling").data_type,
        DataType::Enum { labels: vec!["sad".into(), "it's ok".into(), "happy".into()] }
    );
    let builtin: Vec<_> = customer.columns.iter().filter(|c| !c.builtin).map(|c| c.name.as_str()).collect();
    assert_eq!(builtin, ["feeling", "home", "qty", "valid"]);
    assert!(column("doubled").generated.is_some() && column("doubled").default.is_none());
    assert_eq!(column("last_name").collation.as_deref(), Some("pg_catalog.\"C\""));
    assert_eq!(
        (t("orders").old_image, t("cache").old_image, customer.old_image),
        (OldImage::Full, OldImage::Nothing, OldImage::Key)
    );
    let event = t("event");
    let leaves = catalog::names(&event.options, "leaves");
    assert_eq!(leaves.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().len(), 3);
    assert_eq!(event.parts.iter().filter(|p| p.kind == "partition").count(), 4);
    assert!(c.objects.iter().any(|o| o.kind == "extension" && o.name == "pgcrypto"));
    assert!(!c.objects.iter().any(|o| o.name.starts_with("gen_salt")), "what an extension owns is the extension's");
    assert!(c.objects.iter().any(|o| o.kind == "unsupported" && o.name.starts_with("in_c")));
    let at = |name: &str| c.objects.iter().position(|o| o.name == name).unwrap_or_else(|| panic!("{name}"));
    assert!(at("v_base") < at("a_top") && at("grouped") < at("on_grouped"));
}

#[tokio::test]
async fn physical_identity_notices_every_rewrite() {
    let server = common::server().await;
    server.exec("drover", RICH).await.unwrap();
    server
        .exec("drover", "INSERT INTO shop.event VALUES (1, '2023-05-05', 'a'); INSERT INTO shop.base VALUES (1, 'x')")
        .await
        .unwrap();
    let client = server.connect("drover").await.unwrap();
    let c = read(&server, "drover").await;
    for (table, statements) in [
        (
            "event",
            [
                "TRUNCATE shop.event_2023",
                "ALTER TABLE shop.event_2023 ALTER kind SET STATISTICS 7",
                "ALTER TABLE shop.event DETACH PARTITION shop.event_2023",
            ],
        ),
        (
            "base",
            [
                "ALTER TABLE shop.base ALTER a TYPE varchar(77)",
                "UPDATE shop.base SET a = 'y'",
                "ALTER TABLE shop.base RENAME a TO aa",
            ],
        ),
    ] {
        let name = TableName::new("shop", table);
        let mut before = catalog::physical(&client, &name).await.unwrap();
        assert_eq!(before, c.table(&name).unwrap().physical);
        for (i, sql) in statements.iter().enumerate() {
            server.exec("drover", sql).await.unwrap();
            let after = catalog::physical(&client, &name).await.unwrap();
            // The second statement of each changes nothing physical.
            assert_eq!(before == after, i == 1, "{sql}");
            before = after;
        }
    }
    assert_eq!(catalog::physical(&client, &TableName::new("shop", "gone")).await.unwrap_err().code, "DR0009");
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    assert_eq!(catalog::physical(&client, &TableName::new("shop", "base")).await.unwrap_err().code, "DR0001");
}

#[tokio::test]
async fn tables_are_mapped_without_loss_or_with_a_reason() {
    use drover_connectors_postgres::typemap::{self, CELLS, COPY_BINARY};
    use drover_model::plan::RowFormat;
    use drover_model::selection::{ColumnRules, Selection};
    let server = common::server().await;
    server.exec("drover", RICH).await.unwrap();
    let c = read(&server, "drover").await;
    let map = |table: &str, drop: &[&str]| {
        let mut rule = common::rule(&format!("shop.{table}"));
        rule.columns = Some(ColumnRules { drop: drop.iter().map(|d| (*d).to_owned()).collect(), ..Default::default() });
        let t = c.table(&TableName::new("shop", table)).unwrap();
        let columns: Vec<&str> = t.columns.iter().map(|c| c.name.as_str()).collect();
        let choice = Selection::compile(&[rule]).unwrap().decide("shop", table, &columns).unwrap().unwrap();
        (typemap::map_table(&c, t, &choice, 150_000), t)
    };
    let native = RowFormat::Native(COPY_BINARY.into());
    let (orders, _) = map("orders", &[]);
    let cells = RowFormat::Native(CELLS.into());
    assert_eq!(orders.formats, [native.clone(), cells.clone(), RowFormat::Canonical]);
    assert_eq!((orders.plan.key.as_slice(), orders.items.len()), ([0].as_slice(), 0));
    let (customer, table) = map("customer", &[]);
    assert_eq!(customer.formats, [cells, RowFormat::Canonical], "types of users have other numbers elsewhere");
    assert_eq!(customer.plan.left_out, ["doubled"]);
    assert!(customer.plan.columns[0].identity_always);
    assert_eq!(typemap::bit_columns(table, &customer.plan), ["flags"]);
    let (plain, _) = map("customer", &["feeling", "home", "qty", "valid"]);
    assert_eq!(plain.formats[0], native);
    // Without its key's column, rows are what they are as a whole.
    let (keyless, _) = map("orders", &["id"]);
    assert!(
        keyless.plan.key.is_empty() && keyless.items.iter().any(|i| i.item == "K15" && i.cause.contains("orders_pkey"))
    );
    assert!(map("cache", &[]).0.items.iter().any(|i| i.item == "K15"));
}
