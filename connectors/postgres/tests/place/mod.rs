//! A destination of its own for each test.
#![allow(dead_code)]

use anyhow::Result;
use drover_connectors_postgres::apply::PgApply;
use drover_connectors_postgres::connect::{Dialer, Settings, Tls, TlsMode};
use drover_connectors_postgres::progress;
use drover_harness::Postgres;
use drover_model::plan::PlanColumn;
use drover_model::row::{Cell, put_cell};
use drover_model::schema::{DataType, TableName};
use drover_model::{Fault, MigrationId, Position, TablePlan};
use tokio_postgres::{Client, SimpleQueryMessage};

pub struct Place {
    pub server: Postgres,
    pub dialer: Dialer,
    pub sql: Client,
    pub migration: MigrationId,
}

impl Place {
    pub async fn new(ddl: &str) -> Result<Place> {
        let server = Postgres::start_default().await?;
        let sql = server.connect("drover").await?;
        sql.batch_execute(ddl).await?;
        let migration = MigrationId::new_v4();
        let dialer = dialer(server.port(), migration)?;
        progress::prepare(&dialer, migration, "test").await?;
        Ok(Place { server, dialer, sql, migration })
    }

    /// Takes over, begins at 0 if nothing was applied yet, and opens a session.
    pub async fn apply(&self, plans: &[TablePlan]) -> Result<PgApply> {
        let taken = progress::take_over(&self.dialer, self.migration).await?;
        if taken.position.is_none() {
            progress::begin_at(&self.dialer, self.migration, taken.epoch, &at(0)).await?;
        }
        Ok(PgApply::open(&self.dialer, self.migration, taken.epoch, plans).await?)
    }

    /// All rows of a query, as the server's output texts.
    pub async fn texts(&self, query: &str) -> Result<Vec<Vec<Option<String>>>> {
        texts(&self.sql, query).await
    }

    /// One text for a whole result: rows with `|` between values and `;` between rows, null as `-`.
    pub async fn all(&self, query: &str) -> Result<String> {
        let rows = self.texts(query).await?;
        let rows = rows
            .into_iter()
            .map(|r| r.into_iter().map(|v| v.unwrap_or_else(|| "-".into())).collect::<Vec<_>>().join("|"));
        Ok(rows.collect::<Vec<_>>().join(";"))
    }
}

pub fn dialer(port: u16, migration: MigrationId) -> Result<Dialer> {
    Ok(Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port,
        user: "drover".into(),
        password: None,
        database: "drover".into(),
        tls: Tls { mode: TlsMode::Off, ca: None, cert: None, key: None },
        migration,
        fault: Fault::Destination,
    })?)
}

pub async fn texts(sql: &Client, query: &str) -> Result<Vec<Vec<Option<String>>>> {
    let mut out = Vec::new();
    for message in sql.simple_query(query).await? {
        if let SimpleQueryMessage::Row(row) = message {
            out.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
        }
    }
    Ok(out)
}

pub fn at(place: u64) -> Position {
    Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![1], text: format!("0/{place:X}") }
}

/// A plan whose columns are `name` or, for identity always, `name!`.
pub fn plan(id: u32, table: &str, columns: &[&str], key: &[u16]) -> TablePlan {
    let column = |c: &&str| PlanColumn {
        identity_always: c.ends_with('!'),
        ..PlanColumn::new(c.trim_end_matches('!'), DataType::Other, "text")
    };
    let columns = columns.iter().map(column).collect();
    TablePlan { key: key.to_vec(), ..TablePlan::new(id, TableName::new("public", table), columns) }
}

/// A row: `-` is null, `?` unknown.
pub fn row(values: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for v in values {
        put_cell(
            &mut out,
            match *v {
                "-" => Cell::Null,
                "?" => Cell::Unknown,
                v => Cell::Value(v.as_bytes()),
            },
        );
    }
    out
}

pub fn row_of(values: &[Option<String>]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|v| put_cell(&mut out, v.as_ref().map_or(Cell::Null, |v| Cell::Value(v.as_bytes()))));
    out
}
