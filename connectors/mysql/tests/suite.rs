//! The connectors' suite on real servers of each release. Each case has two servers of its own, source and destination, since a schema is a database
//! here and has one name on both sides.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use anyhow::Context;
use async_trait::async_trait;
use drover_connectors_api::{Connector, Side, Target};
use drover_connectors_mysql::connector::MySqlFamily;
use drover_connectors_mysql::flavor::Flavor;
use drover_connectors_suite::{Column, Fixture, Kind, TestTable, Text, Write, connector_suite};
use drover_harness::{MySql, Release, wait};
use drover_model::migration::{Endpoint, Tls, Url};
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use std::time::Duration;
use uuid::Uuid;

const SCHEMA: &str = "suite";
/// The account that drover uses; the fixture's own sessions use another.
const ACCOUNT: &str = "mover";

struct OnServers {
    connector: MySqlFamily,
    source: MySql,
    destination: MySql,
    migration: Uuid,
}

async fn start(release: Release) -> anyhow::Result<OnServers> {
    let (source, destination) = tokio::join!(MySql::start(release, &[]), MySql::start(release, &[]));
    let (source, destination) = (source?, destination?);
    for server in [&source, &destination] {
        let sql = format!("CREATE USER {ACCOUNT}@'%'; GRANT ALL PRIVILEGES ON *.* TO {ACCOUNT}@'%' WITH GRANT OPTION;");
        server.exec("drover", &sql).await?;
    }
    source.create_database(SCHEMA).await?;
    let flavor = if release.is_mariadb() { Flavor::MariaDb } else { Flavor::MySql };
    Ok(OnServers { connector: MySqlFamily::new(flavor), source, destination, migration: Uuid::new_v4() })
}

impl OnServers {
    fn server(&self, side: Side) -> &MySql {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
        }
    }

    async fn sessions(&self, side: Side) -> anyhow::Result<Vec<u64>> {
        self.server(side).sessions(|user, _| user == ACCOUNT).await
    }
}

fn literal(value: &Text) -> String {
    value.as_ref().map_or("NULL".into(), |v| format!("'{}'", v.replace('\\', "\\\\").replace('\'', "''")))
}

fn statement(write: &Write) -> String {
    // All tables of the suite that have a key have one column as such.
    let by_key = |key: &[String]| format!("WHERE id = '{}'", key.join("', '"));
    match write {
        Write::Insert { table, row } => {
            let values: Vec<String> = row.iter().map(literal).collect();
            format!("INSERT INTO {SCHEMA}.{table} VALUES ({})", values.join(", "))
        }
        Write::Update { table, key, set } => {
            let set: Vec<String> = set.iter().map(|(column, v)| format!("{column} = {}", literal(v))).collect();
            format!("UPDATE {SCHEMA}.{table} SET {} {}", set.join(", "), by_key(key))
        }
        Write::Delete { table, key } => format!("DELETE FROM {SCHEMA}.{table} {}", by_key(key)),
        Write::Truncate { table } => format!("TRUNCATE {SCHEMA}.{table}"),
    }
}

fn definition(column: &Column) -> String {
    let kind = match (column.kind, column.large) {
        (Kind::Int, _) => "bigint",
        (Kind::Text, true) => "longtext",
        (Kind::Text, false) => "varchar(100)",
    };
    format!("{} {kind}{}", column.name, if column.nullable { "" } else { " NOT NULL" })
}

#[async_trait]
impl Fixture for OnServers {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn target(&self, side: Side) -> Target {
        let kind = self.connector.about().kind;
        let url = Url {
            scheme: kind.into(),
            host: "127.0.0.1".into(),
            port: Some(self.server(side).port()),
            user: Some(ACCOUNT.into()),
            database: None,
            params: vec![],
        };
        let endpoint = Endpoint { kind: kind.into(), url, password: None, tls: Tls::default() };
        Target { endpoint, password: None, migration: self.migration, name: "suite".into(), readers: 2 }
    }

    fn schema(&self) -> &str {
        SCHEMA
    }
    fn leaves_out_unchanged(&self) -> bool {
        false
    }
    fn shares_snapshots(&self) -> bool {
        false
    }
    fn keeps_streams(&self) -> bool {
        false
    }

    async fn purge_log(&self) -> anyhow::Result<()> {
        self.source.exec("mysql", "FLUSH BINARY LOGS;").await?;
        // A file goes only when nothing in it is needed for recovery, which takes a moment.
        wait::until("the log is gone", Duration::from_secs(20), || async {
            let mut session = self.source.connect("mysql").await?;
            let logs: Vec<Row> = session.query("SHOW BINARY LOGS").await?;
            let last: String = logs.last().and_then(|l| l.get(0)).context("a server without logs")?;
            session.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await?;
            Ok((logs.len() == 1).then_some(()))
        })
        .await
    }

    async fn create(&self, table: &TestTable) -> anyhow::Result<()> {
        let mut parts: Vec<String> = table.columns.iter().map(definition).collect();
        if !table.primary.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", table.primary.join(", ")));
        }
        parts.extend(table.unique.iter().map(|u| format!("UNIQUE KEY ({})", u.join(", "))));
        let sql = format!("CREATE TABLE {SCHEMA}.{} ({}) CHARACTER SET utf8mb4;", table.name, parts.join(", "));
        self.source.exec(SCHEMA, &sql).await
    }

    async fn transaction(&self, writes: &[Write], commit: bool) -> anyhow::Result<()> {
        let mut session = self.source.connect(SCHEMA).await?;
        session.query_drop("START TRANSACTION").await?;
        for write in writes {
            session.query_drop(statement(write)).await?;
        }
        session.query_drop(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok(session.disconnect().await?)
    }

    async fn rows(&self, side: Side, table: &str) -> anyhow::Result<Vec<Vec<Text>>> {
        let mut session = self.server(side).connect(SCHEMA).await?;
        let found: Vec<Row> = session.query(format!("SELECT * FROM {SCHEMA}.{table}")).await?;
        let text = |value: Value| match value {
            Value::NULL => Ok(None),
            Value::Bytes(bytes) => Ok(Some(String::from_utf8(bytes)?)),
            other => anyhow::bail!("{other:?} is no text"),
        };
        let mut rows: Vec<Vec<Text>> =
            found.into_iter().map(|r| r.unwrap().into_iter().map(text).collect()).collect::<anyhow::Result<_>>()?;
        rows.sort();
        Ok(rows)
    }

    async fn lose_snapshots(&self) -> anyhow::Result<()> {
        let mut session = self.source.connect("mysql").await?;
        for id in self.sessions(Side::Source).await? {
            // It may have ended by itself.
            let _ = session.query_drop(format!("KILL {id}")).await;
        }
        wait::until_eq("drover's sessions are gone", Duration::from_secs(10), 0, || async {
            Ok(self.sessions(Side::Source).await?.len())
        })
        .await
    }

    async fn leftovers(&self, side: Side) -> anyhow::Result<Vec<String>> {
        let mut session = self.server(side).connect("mysql").await?;
        let sql = "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables \
            WHERE table_schema = 'drover' OR table_name LIKE 'drover\\_%' \
            UNION ALL SELECT schema_name FROM information_schema.schemata WHERE schema_name = 'drover_progress'";
        let mut found: Vec<String> = session.query(sql).await?;
        if side == Side::Source {
            // What stays is what is there after a while: sessions end behind the back of who drops them.
            let gone = wait::until("drover's sessions are gone", Duration::from_secs(3), || async {
                Ok(self.sessions(side).await?.is_empty().then_some(()))
            });
            if gone.await.is_err() {
                found.extend(self.sessions(side).await?.iter().map(|id| format!("session {id}")));
            }
        }
        Ok(found)
    }
}

mod mysql_9 {
    async fn fixture() -> anyhow::Result<super::OnServers> {
        super::start(drover_harness::Release::MySql9).await
    }
    super::connector_suite!(fixture);
}

mod mariadb_10 {
    async fn fixture() -> anyhow::Result<super::OnServers> {
        super::start(drover_harness::Release::MariaDb10).await
    }
    super::connector_suite!(fixture);
}

mod mariadb_11 {
    async fn fixture() -> anyhow::Result<super::OnServers> {
        super::start(drover_harness::Release::MariaDb11).await
    }
    super::connector_suite!(fixture);
}
