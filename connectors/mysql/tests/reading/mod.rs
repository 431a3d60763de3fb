//! What the tests of the reading side share: a server of each release, plans of its tables, and rows as texts.
#![allow(dead_code)]

pub mod types;

use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{BlockSink, ChunkReader};
use drover_connectors_mysql::connect::{Dialer, Settings, Tls};
use drover_connectors_mysql::snapshot::{LULL, Set, Wanted, take};
use drover_connectors_mysql::{catalog, typemap};
use drover_harness::{MySql, Release};
use drover_model::chunk::Bounds;
use drover_model::plan::Operations;
use drover_model::row::{Cell, cells, take_row};
use drover_model::schema::TableName;
use drover_model::selection::{ColumnChoice, TableChoice};
use drover_model::{Fault, Result, TablePlan};
use std::sync::Arc;

pub const DATABASE: &str = "shop";

/// A server with an empty database.
pub struct Place {
    pub server: MySql,
    pub dialer: Dialer,
}

impl Place {
    pub async fn start(release: Release, settings: &[(&str, &str)]) -> Place {
        let server = MySql::start(release, settings).await.unwrap();
        server.create_database(DATABASE).await.unwrap();
        let dialer = dialer(&server, "drover", None);
        Place { server, dialer }
    }

    pub async fn exec(&self, sql: &str) {
        self.server.exec(DATABASE, sql).await.unwrap();
    }

    /// An account with these rights at all tables, and a dialer for it.
    pub async fn account(&self, name: &str, rights: &str) -> Dialer {
        self.exec(&format!(
            "CREATE USER {name}@'%' IDENTIFIED BY 'x&y'; GRANT {rights} ON *.* TO {name}@'%'; GRANT SELECT ON *.* TO {name}@'%';"
        ))
        .await;
        dialer(&self.server, name, Some("x&y"))
    }

    /// Plans of all tables of the database, in the order of their names.
    pub async fn plans(&self) -> Vec<TablePlan> {
        let mut session = self.dialer.session("test").await.unwrap();
        let catalog = catalog::read(&mut session, Some(DATABASE)).await.unwrap();
        let known = typemap::Known::read(&mut session).await.unwrap();
        let mut tables: Vec<_> = catalog.tables.iter().collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
            .into_iter()
            .enumerate()
            .map(|(id, table)| {
                let keep = |c: &drover_model::schema::Column| ColumnChoice::same(&c.name);
                let choice = TableChoice {
                    source: table.name.clone(),
                    schema: table.name.schema.clone(),
                    table: table.name.name.clone(),
                    columns: table.columns.iter().map(keep).collect(),
                    filter: None,
                    operations: Operations::ALL,
                    floats: None,
                };
                let mapped = typemap::map_table(&catalog, table, &choice, &known);
                TablePlan { id: id as u32, version: 1, ..mapped.plan }
            })
            .collect()
    }

    pub async fn plan(&self, table: &str) -> TablePlan {
        let name = TableName::new(DATABASE, table);
        self.plans().await.into_iter().find(|p| p.source == name).unwrap()
    }

    pub async fn take(&self, readers: usize) -> Arc<Set> {
        let plans = self.plans().await;
        take_with(&self.dialer, readers, &plans).await.unwrap()
    }
}

pub fn dialer(server: &MySql, user: &str, password: Option<&str>) -> Dialer {
    Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: user.into(),
        password: password.map(str::to_owned),
        database: Some(DATABASE.into()),
        tls: Tls::default(),
        migration: uuid::Uuid::new_v4(),
        fault: Fault::Source,
    })
}

pub async fn take_with(dialer: &Dialer, readers: usize, tables: &[TablePlan]) -> Result<Arc<Set>> {
    take(&Wanted { dialer, readers, tables, lineage: 0, exact: true, lull: LULL }).await
}

/// Collects blocks.
#[derive(Default)]
pub struct Blocks {
    pub rows: u64,
    pub data: Vec<Bytes>,
}

#[async_trait]
impl BlockSink for Blocks {
    async fn block(&mut self, rows: u64, data: Bytes) -> Result<()> {
        self.rows += rows;
        self.data.push(data);
        Ok(())
    }
}

pub type Row = Vec<Option<Vec<u8>>>;

/// The rows of a block.
pub fn rows(mut block: &[u8], width: usize) -> Vec<Row> {
    let mut out = Vec::new();
    while !block.is_empty() {
        let row = take_row(&mut block, width).expect("a damaged row");
        out.push(
            cells(row)
                .map(|c| match c {
                    Cell::Null => None,
                    Cell::Value(v) => Some(v.to_vec()),
                    Cell::Unknown => panic!("an unknown cell"),
                })
                .collect(),
        );
    }
    out
}

/// A chunk's rows. What was counted must be what came.
pub async fn chunk(reader: &mut dyn ChunkReader, plan: &TablePlan, bounds: &Bounds) -> Result<Vec<Row>> {
    let mut blocks = Blocks::default();
    let read = reader.read(plan, bounds, &mut blocks).await?;
    assert_eq!(read.rows, blocks.rows);
    assert_eq!(read.bytes, blocks.data.iter().map(|b| b.len() as u64).sum::<u64>());
    assert_eq!(read.physical, plan.physical, "{}", plan.source);
    let rows = rows(&blocks.data.concat(), plan.columns.len());
    assert_eq!(rows.len() as u64, read.rows);
    Ok(rows)
}

/// A column of rows as text.
pub fn column(rows: &[Row], at: usize) -> Vec<String> {
    rows.iter().map(|r| r[at].as_ref().map_or("NULL".into(), |v| String::from_utf8_lossy(v).into_owned())).collect()
}
