//! A server with the rich schema, and what maps it.
#![allow(dead_code, clippy::unwrap_used)]

use drover_connectors_api::SchemaStep;
use drover_connectors_postgres::{catalog, schema, typemap};
use drover_harness::Postgres;
use drover_model::TablePlan;
use drover_model::schema::{Catalog, Object};
use drover_model::selection::{ObjectRule, Selection};
use std::process::Command;
use tokio_postgres::Client;

pub const RICH: &str = include_str!("../fixtures/rich.sql");

/// A fresh server, of the version that DROVER_TEST_POSTGRES names (15 by default).
pub async fn server() -> Postgres {
    let version = std::env::var("DROVER_TEST_POSTGRES").ok().and_then(|v| v.parse().ok()).unwrap_or(15);
    Postgres::start(drover_harness::postgres::PgOptions { version, ..Default::default() }).await.unwrap()
}

pub fn rule(include: &str) -> ObjectRule {
    ObjectRule { include: vec![include.into()], ..ObjectRule::default() }
}

/// The plans and objects that rules select.
pub fn select(catalog: &Catalog, rules: &[ObjectRule]) -> (Vec<TablePlan>, Vec<Object>) {
    let selection = Selection::compile(rules).unwrap();
    let mut plans = Vec::new();
    for table in &catalog.tables {
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        if let Some(choice) = selection.decide(&table.name.schema, &table.name.name, &columns).unwrap() {
            let mut plan = typemap::map_table(catalog, table, &choice, 150_000).plan;
            plan.id = plans.len() as u32;
            plans.push(plan);
        }
    }
    let objects = catalog.objects.iter().filter(|o| selection.selects_object(&o.schema, &o.name)).cloned().collect();
    (plans, objects)
}

/// All steps, each of them twice: the second time must create nothing.
pub async fn apply_all(client: &Client, catalog: &Catalog, plans: &[TablePlan], objects: &[Object]) {
    let mut steps = vec![SchemaStep::Base];
    steps.extend(plans.iter().map(|p| SchemaStep::Table { id: p.id }));
    steps.push(SchemaStep::Final);
    for step in steps {
        schema::apply(client, &step, catalog, plans, objects, false).await.unwrap_or_else(|e| panic!("{step:?}: {e}"));
        let again = schema::apply(client, &step, catalog, plans, objects, false)
            .await
            .unwrap_or_else(|e| panic!("{step:?} again: {e}"));
        assert!(again.is_empty(), "{step:?} repeated made {again:?}");
    }
}

/// The schema as the server's own program writes it, without what every dump of a database differs in.
pub fn dump(server: &Postgres, database: &str) -> Vec<String> {
    let bin = std::fs::read_to_string(server.folder().join("bin")).unwrap();
    let out = Command::new(std::path::Path::new(bin.trim()).join("pg_dump"))
        .args(["--schema-only", "--no-owner", "--no-privileges", "-N", "drover", "-d", &server.url(database)])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut statements: Vec<String> = text
        .lines()
        .filter(|l| !l.starts_with("--") && !l.starts_with("\\") && !l.starts_with("SET ") && !l.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
        .split(";\n")
        .map(|s| s.trim().trim_end_matches(';').to_owned())
        .collect();
    statements.sort();
    statements
}

pub async fn read(server: &Postgres, database: &str) -> Catalog {
    catalog::read(&server.connect(database).await.unwrap()).await.unwrap()
}
