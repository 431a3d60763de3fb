//! A destination of this family to test against: a real server, a migration prepared there, plans made of tables that exist.

#![allow(dead_code)]

pub mod extremes;
pub mod proxy;

use anyhow::{Context, Result};
use bytes::Bytes;
use drover_connectors_api::{LoadOutcome, Loader};
use drover_connectors_mysql::apply::MyApply;
use drover_connectors_mysql::connect::{Dialer, Settings, Tls, TlsMode};
use drover_connectors_mysql::load::MyLoader;
use drover_connectors_mysql::{CELLS, catalog, progress};
use drover_harness::mysql::{MySql, Release};
use drover_model::plan::{PlanColumn, RowFormat};
use drover_model::row::{Cell, put_cell};
use drover_model::schema::TableName;
use drover_model::{Fault, MigrationId, Position, TablePlan};
use mysql_async::prelude::Queryable;

pub const DATABASE: &str = "data";

pub struct Place {
    pub server: MySql,
    pub dialer: Dialer,
    pub migration: MigrationId,
}

impl Place {
    pub async fn start(release: Release) -> Result<Place> {
        Place::start_with(release, &[]).await
    }

    pub async fn start_with(release: Release, settings: &[(&str, &str)]) -> Result<Place> {
        let server = MySql::start(release, settings).await?;
        server.create_database(DATABASE).await?;
        let migration = MigrationId::new_v4();
        let dialer = dialer(migration, server.port());
        progress::prepare(&dialer, migration, "test").await?;
        Ok(Place { server, dialer, migration })
    }

    pub async fn exec(&self, sql: &str) -> Result<()> {
        let mut session = self.server.connect(DATABASE).await?;
        // Tables of tests have dates that only old servers took.
        session.query_drop("SET SESSION sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00'").await?;
        session.query_drop(sql).await.with_context(|| sql.chars().take(500).collect::<String>())
    }

    pub async fn text(&self, sql: &str) -> Result<Option<String>> {
        self.server.query_one_text(DATABASE, sql).await
    }

    /// All rows as texts, in the order given.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut session = self.server.connect(DATABASE).await?;
        let rows: Vec<mysql_async::Row> = session.query(sql).await.with_context(|| sql.to_owned())?;
        let text = |row: mysql_async::Row| row.unwrap().into_iter().map(mysql_async::from_value).collect();
        Ok(rows.into_iter().map(text).collect())
    }

    /// The plan of a table that exists, as if the source's were the same.
    pub async fn plan(&self, id: u32, table: &str, key: &[&str]) -> Result<TablePlan> {
        let mut session = self.dialer.session("plan").await?;
        let name = TableName::new(DATABASE, table);
        let mut shapes = catalog::shapes(&mut session, std::slice::from_ref(&name)).await?;
        let shape = shapes.remove(&name).with_context(|| format!("no table {table}"))?;
        let columns: Vec<PlanColumn> = shape
            .iter()
            .filter(|c| c.generated.is_none())
            .map(|c| {
                let data_type = c.my_type.as_ref().map_or(drover_model::schema::DataType::Other, |t| t.data_type());
                PlanColumn::new(&c.name, data_type, &c.origin_type)
            })
            .collect();
        let place = |k: &&str| columns.iter().position(|c| c.source == *k).map(|i| i as u16).context("no key column");
        Ok(TablePlan {
            key: key.iter().map(place).collect::<Result<_>>()?,
            format: RowFormat::Native(CELLS.into()),
            ..TablePlan::new(id, name, columns.clone())
        })
    }

    /// The first column of each row.
    pub async fn list(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.rows(sql).await?;
        Ok(rows.into_iter().map(|mut r| r.swap_remove(0).unwrap_or_else(|| "null".into())).collect())
    }

    /// Takes over and sets the progress to 0, then opens a session.
    pub async fn apply(&self, plans: &[TablePlan]) -> Result<MyApply> {
        let epoch = progress::take_over(&self.dialer, self.migration).await?.epoch;
        progress::begin_at(&self.dialer, self.migration, epoch, &at(0)).await?;
        self.session(plans.to_vec()).await
    }

    /// One more session under the epoch of now.
    pub async fn session(&self, plans: Vec<TablePlan>) -> Result<MyApply> {
        let now = progress::progress(&self.dialer, "test").await?.context("no progress")?;
        Ok(MyApply::open(&self.dialer, self.migration, now.epoch, &plans[..]).await?)
    }

    pub async fn load(&self, plan: &TablePlan, chunk: u32, rows: &[Vec<u8>]) -> drover_model::Result<LoadOutcome> {
        let mut loader = MyLoader::open(&self.dialer, self.migration).await?;
        load(&mut loader, plan, 0, chunk, rows).await
    }
}

/// Through this port: the server's, or that of something in between.
pub fn dialer(migration: MigrationId, port: u16) -> Dialer {
    dialer_as(migration, port, "drover", None)
}

pub fn dialer_as(migration: MigrationId, port: u16, user: &str, password: Option<&str>) -> Dialer {
    Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port,
        user: user.into(),
        password: password.map(str::to_owned),
        database: Some(DATABASE.into()),
        tls: Tls { mode: TlsMode::Off, ca: None, cert: None, key: None },
        migration,
        fault: Fault::Destination,
    })
}

pub async fn load(
    loader: &mut dyn Loader,
    plan: &TablePlan,
    generation: u32,
    chunk: u32,
    rows: &[Vec<u8>],
) -> drover_model::Result<LoadOutcome> {
    if let Some(outcome) = loader.begin(plan, generation, chunk).await? {
        return Ok(outcome);
    }
    for part in rows.chunks(500) {
        loader.block(Bytes::from(part.concat())).await?;
    }
    loader.finish(rows.len() as u64).await
}

/// Cells of these values.
pub fn cells(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|v| put_cell(&mut out, v.map_or(Cell::Null, Cell::Value)));
    out
}

/// Cells of these texts.
pub fn row(values: &[&str]) -> Vec<u8> {
    cells(&values.iter().map(|v| Some(v.as_bytes())).collect::<Vec<_>>())
}

/// Cells of these texts; `-` is null, `?` unknown.
pub fn partial(values: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        let cell = match *value {
            "-" => Cell::Null,
            "?" => Cell::Unknown,
            value => Cell::Value(value.as_bytes()),
        };
        put_cell(&mut out, cell);
    }
    out
}

pub fn at(place: u64) -> Position {
    Position {
        lineage: 1,
        order: place.to_be_bytes().to_vec(),
        resume: vec![7],
        text: format!("binlog.000001:{place}"),
    }
}

/// Makes a test of an async function for each server of the family.
#[macro_export]
macro_rules! on_each {
    ($($case:ident),+ $(,)?) => {
        $(mod $case {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql_9() -> anyhow::Result<()> {
                super::$case(drover_harness::mysql::Release::MySql9).await
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb_10() -> anyhow::Result<()> {
                super::$case(drover_harness::mysql::Release::MariaDb10).await
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb_11() -> anyhow::Result<()> {
                super::$case(drover_harness::mysql::Release::MariaDb11).await
            }
        })+
    };
}
