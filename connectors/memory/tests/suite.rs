//! The connectors' suite on the database in memory, and what only this one can be made to do.

use async_trait::async_trait;
use drover_connectors_api::{Connector, Side, Target};
use drover_connectors_memory::{Database, KIND, Memory, Value, database, forget};
use drover_connectors_suite::{Fixture, Kind, TestTable, Text, Write, connector_suite};
use drover_model::migration::{Endpoint, Tls, Url};
use drover_model::schema::{Column, DataType, OldImage, Table, TableName, UniqueKey};
use std::collections::BTreeMap;
use uuid::Uuid;

const SCHEMA: &str = "suite";

struct InMemory {
    connector: Memory,
    migration: Uuid,
    hosts: [String; 2],
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.hosts.iter().for_each(|h| forget(h));
    }
}

async fn fixture() -> anyhow::Result<InMemory> {
    let migration = Uuid::new_v4();
    let hosts = [format!("source-{migration}"), format!("destination-{migration}")];
    Ok(InMemory { connector: Memory, migration, hosts })
}

impl InMemory {
    fn host(&self, side: Side) -> &str {
        &self.hosts[usize::from(side == Side::Destination)]
    }
    fn db(&self, side: Side) -> Database {
        database(self.host(side))
    }
}

fn bytes(text: &Text) -> Value {
    text.as_ref().map(|t| t.as_bytes().to_vec())
}

#[async_trait]
impl Fixture for InMemory {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn target(&self, side: Side) -> Target {
        let url = Url {
            scheme: KIND.into(),
            host: self.host(side).into(),
            port: None,
            user: None,
            database: None,
            params: vec![],
        };
        let endpoint = Endpoint { kind: KIND.into(), url, password: None, tls: Tls::default() };
        Target { endpoint, password: None, migration: self.migration, name: "suite".into(), readers: 2 }
    }

    fn schema(&self) -> &str {
        SCHEMA
    }

    async fn create(&self, table: &TestTable) -> anyhow::Result<()> {
        let data_type = |kind| match kind {
            Kind::Int => DataType::Int { bytes: 8, unsigned: false },
            Kind::Text => DataType::Text { max: None, padded: false },
        };
        let column = |c: &drover_connectors_suite::Column| Column {
            nullable: c.nullable,
            ..Column::new(c.name, data_type(c.kind), "text")
        };
        let names = |columns: &[&str]| columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let mut keys = Vec::new();
        if !table.primary.is_empty() {
            let columns = names(&table.primary);
            keys.push(UniqueKey { name: format!("{}_pkey", table.name), primary: true, columns, identifies: true });
        }
        for (i, unique) in table.unique.iter().enumerate() {
            let columns = names(unique);
            keys.push(UniqueKey { name: format!("{}_u{i}", table.name), primary: false, columns, identifies: false });
        }
        let large: Vec<&str> = table.columns.iter().filter(|c| c.large).map(|c| c.name).collect();
        self.db(Side::Source).create(Table {
            keys,
            physical: "as created".into(),
            options: BTreeMap::from([("large".to_owned(), large.join(","))]),
            ..Table::new(TableName::new(SCHEMA, table.name), table.columns.iter().map(column).collect(), OldImage::Key)
        });
        Ok(())
    }

    async fn transaction(&self, writes: &[Write], commit: bool) -> anyhow::Result<()> {
        let name = |table: &str| TableName::new(SCHEMA, table);
        let key = |key: &[String]| key.iter().map(|k| Some(k.as_bytes().to_vec())).collect::<Vec<_>>();
        let rolled_back = drover_model::Error::internal("rolled back by the test");
        let done = self.db(Side::Source).transact(|t| {
            for write in writes {
                match write {
                    Write::Insert { table, row } => t.insert(&name(table), row.iter().map(bytes).collect())?,
                    Write::Update { table, key: k, set } => {
                        let set: Vec<_> = set.iter().map(|(column, v)| (*column, bytes(v))).collect();
                        t.update(&name(table), &key(k), &set)?;
                    }
                    Write::Delete { table, key: k } => t.delete(&name(table), &key(k))?,
                    Write::Truncate { table } => t.truncate(&[name(table)])?,
                }
            }
            if commit { Ok(()) } else { Err(rolled_back.clone()) }
        });
        match done {
            Err(error) if commit || error != rolled_back => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn rows(&self, side: Side, table: &str) -> anyhow::Result<Vec<Vec<Text>>> {
        let text = |v: Value| v.map(|v| String::from_utf8_lossy(&v).into_owned());
        let rows = self.db(side).rows(&TableName::new(SCHEMA, table))?;
        let mut rows: Vec<Vec<Text>> = rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect();
        rows.sort();
        Ok(rows)
    }

    async fn lose_snapshots(&self) -> anyhow::Result<()> {
        self.db(Side::Source).lose_snapshots();
        Ok(())
    }

    async fn leftovers(&self, side: Side) -> anyhow::Result<Vec<String>> {
        Ok(self.db(side).leftovers())
    }
}

connector_suite!(fixture);
