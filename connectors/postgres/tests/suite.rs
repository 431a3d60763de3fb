//! The connectors' suite on real servers, of the two versions that are prepared for tests. Each case has a server of its own with
//! two databases, source and destination.

use anyhow::Context;
use async_trait::async_trait;
use drover_connectors_api::{Connector, Side, Target};
use drover_connectors_postgres::connector::{KIND, Postgres};
use drover_connectors_suite::{Fixture, Kind, TestTable, Text, Write, connector_suite};
use drover_harness::{PgOptions, wait};
use drover_model::migration::{Endpoint, Tls, Url};
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

const SCHEMA: &str = "suite";

struct OnServer {
    connector: Postgres,
    server: drover_harness::Postgres,
    migration: Uuid,
}

async fn start(version: u32) -> anyhow::Result<OnServer> {
    let server = drover_harness::Postgres::start(PgOptions { version, ..PgOptions::default() }).await?;
    for side in [Side::Source, Side::Destination] {
        server.create_database(database(side)).await?;
    }
    server.exec(database(Side::Source), &format!("create schema {SCHEMA}")).await?;
    Ok(OnServer { connector: Postgres::default(), server, migration: Uuid::new_v4() })
}

fn database(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Destination => "destination",
    }
}

fn literal(value: &Text) -> String {
    value.as_ref().map_or("null".into(), |v| format!("'{}'", v.replace('\'', "''")))
}

fn statement(write: &Write) -> String {
    // All tables of the suite that have a key have one column as such.
    let by_key = |key: &[String]| format!("where id = '{}'", key.join("', '"));
    match write {
        Write::Insert { table, row } => {
            let values: Vec<String> = row.iter().map(literal).collect();
            format!("insert into {SCHEMA}.{table} values ({})", values.join(", "))
        }
        Write::Update { table, key, set } => {
            let set: Vec<String> = set.iter().map(|(column, v)| format!("{column} = {}", literal(v))).collect();
            format!("update {SCHEMA}.{table} set {} {}", set.join(", "), by_key(key))
        }
        Write::Delete { table, key } => format!("delete from {SCHEMA}.{table} {}", by_key(key)),
        Write::Truncate { table } => format!("truncate {SCHEMA}.{table}"),
    }
}

#[async_trait]
impl Fixture for OnServer {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn target(&self, side: Side) -> Target {
        let url = Url {
            scheme: KIND.into(),
            host: "127.0.0.1".into(),
            port: Some(self.server.port()),
            user: Some("drover".into()),
            database: Some(database(side).into()),
            params: vec![],
        };
        let endpoint = Endpoint { kind: KIND.into(), url, password: None, tls: Tls::default() };
        Target { endpoint, password: None, migration: self.migration, name: "suite".into(), readers: 2 }
    }

    fn schema(&self) -> &str {
        SCHEMA
    }

    async fn create(&self, table: &TestTable) -> anyhow::Result<()> {
        let mut parts: Vec<String> = Vec::new();
        for column in &table.columns {
            let kind = if column.kind == Kind::Int { "bigint" } else { "text" };
            parts.push(format!("{} {kind}{}", column.name, if column.nullable { "" } else { " not null" }));
        }
        if !table.primary.is_empty() {
            parts.push(format!("primary key ({})", table.primary.join(", ")));
        }
        parts.extend(table.unique.iter().map(|u| format!("unique ({})", u.join(", "))));
        let mut sql = format!("create table {SCHEMA}.{} ({});", table.name, parts.join(", "));
        for column in table.columns.iter().filter(|c| c.large) {
            sql.push_str(&format!("alter table {SCHEMA}.{} alter {} set storage external;", table.name, column.name));
        }
        self.server.exec(database(Side::Source), &sql).await
    }

    async fn transaction(&self, writes: &[Write], commit: bool) -> anyhow::Result<()> {
        let statements: Vec<String> = writes.iter().map(statement).collect();
        let end = if commit { "commit" } else { "rollback" };
        self.server.exec(database(Side::Source), &format!("begin; {}; {end}", statements.join("; "))).await
    }

    async fn rows(&self, side: Side, table: &str) -> anyhow::Result<Vec<Vec<Text>>> {
        let session = self.server.connect(database(side)).await?;
        let found = session.simple_query(&format!("select * from {SCHEMA}.{table}")).await?;
        let mut rows: Vec<Vec<Text>> = found
            .iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
                _ => None,
            })
            .collect();
        rows.sort();
        Ok(rows)
    }

    async fn lose_snapshots(&self) -> anyhow::Result<()> {
        // Who stands in a transaction while no statement runs: that is how a snapshot is held.
        let session = self.server.connect("postgres").await?;
        let holders = "from pg_stat_activity where datname = 'source' and backend_type = 'client backend' and xact_start is not null";
        session.batch_execute(&format!("select pg_terminate_backend(pid) {holders}")).await?;
        wait::until_eq("holders are gone", Duration::from_secs(10), 0i64, || async {
            Ok(session.query_one(&format!("select count(*) {holders}"), &[]).await?.get(0))
        })
        .await
    }

    async fn leftovers(&self, side: Side) -> anyhow::Result<Vec<String>> {
        let session = self.server.connect(database(side)).await?;
        let sql = "select 'slot ' || slot_name::text from pg_replication_slots where database = current_database() \
            union all select 'publication ' || pubname::text from pg_publication \
            union all select 'schema ' || nspname::text from pg_namespace where nspname ~ 'drover' \
            union all select 'relation ' || relname::text from pg_class where relname ~ '^(dts_|drover)' and relkind in ('r', 'S', 'v') \
            union all select 'identity of ' || relname::text from pg_class where relreplident = 'f' and relnamespace = to_regnamespace('suite')";
        let rows = session.query(sql, &[]).await.context("leftovers")?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }
}

mod version_15 {
    async fn fixture() -> anyhow::Result<super::OnServer> {
        super::start(15).await
    }
    super::connector_suite!(fixture);
}

mod version_17 {
    async fn fixture() -> anyhow::Result<super::OnServer> {
        super::start(17).await
    }
    super::connector_suite!(fixture);
}
