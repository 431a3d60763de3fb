//! A source on a server of its own, with plans for its tables.
#![allow(dead_code, clippy::unwrap_used)]

use drover_connectors_api::{Connector, Opened, Source, StreamSpec, Target};
use drover_connectors_postgres::connector::Postgres as PgConnector;
use drover_connectors_postgres::typemap;
use drover_connectors_suite::world::{Before, Change, Follower, Transaction, Val};
use drover_harness::{PgOptions, Postgres};
use drover_model::migration::{Endpoint, Tls, Url};
use drover_model::plan::RowFormat;
use drover_model::selection::{ObjectRule, Selection};
use drover_model::{Error, MigrationId, Position, TablePlan};
use tempfile::TempDir;
use tokio_postgres::Client;

pub struct Bench {
    pub server: Postgres,
    pub sql: Client,
    pub source: Box<dyn Source>,
    pub plans: Vec<TablePlan>,
    pub migration: MigrationId,
    spill: TempDir,
}

/// The version that DROVER_TEST_POSTGRES names (15 by default).
pub fn version() -> u32 {
    std::env::var("DROVER_TEST_POSTGRES").ok().and_then(|v| v.parse().ok()).unwrap_or(15)
}

pub async fn source(server: &Postgres, migration: MigrationId) -> Box<dyn Source> {
    let url = Url {
        scheme: "postgres".into(),
        host: "127.0.0.1".into(),
        port: Some(server.port()),
        user: Some("drover".into()),
        database: Some("drover".into()),
        params: vec![],
    };
    let endpoint = Endpoint { kind: "postgres".into(), url, password: None, tls: Tls::default() };
    let target = Target { endpoint, password: None, migration, name: "bench-1".into(), readers: 2 };
    PgConnector::default().source(target).await.unwrap()
}

impl Bench {
    /// All tables of schema `public`, after `ddl`.
    pub async fn new(ddl: &str, settings: &[(&str, &str)]) -> Bench {
        Bench::filtered(ddl, settings, None).await
    }

    pub async fn filtered(ddl: &str, settings: &[(&str, &str)], filter: Option<&str>) -> Bench {
        let server = Postgres::start(PgOptions { version: version(), settings }).await.unwrap();
        let sql = server.connect("drover").await.unwrap();
        sql.batch_execute(ddl).await.unwrap();
        let migration = MigrationId::new_v4();
        let source = source(&server, migration).await;
        let catalog = source.catalog().await.unwrap();
        let rule =
            ObjectRule { include: vec!["public.*".into()], filter: filter.map(str::to_owned), ..ObjectRule::default() };
        let selection = Selection::compile(&[rule]).unwrap();
        let mut plans = Vec::new();
        for table in &catalog.tables {
            let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
            if let Some(choice) = selection.decide(&table.name.schema, &table.name.name, &columns).unwrap() {
                let plan = typemap::map_table(&catalog, table, &choice, 150_000).plan;
                plans.push(TablePlan { id: plans.len() as u32, version: 1, format: RowFormat::Canonical, ..plan });
            }
        }
        let spill = tempfile::tempdir().unwrap();
        Bench { server, sql, source, plans, migration, spill }
    }

    pub fn plan(&self, name: &str) -> &TablePlan {
        self.plans.iter().find(|p| p.source.name == name).unwrap()
    }

    /// A stream made anew (`resume`: `None`), with consent.
    pub fn spec(&self, resume: Option<Position>) -> StreamSpec {
        StreamSpec {
            migration: self.migration,
            name: "bench-1".into(),
            tables: self.plans.clone().into(),
            fresh: resume.is_none(),
            epoch: 1,
            resume,
            schemas: None,
            may_set_identity: true,
            spill: self.spill.path().to_owned(),
            batch_bytes: 64 << 10,
        }
    }

    pub async fn open(&self, resume: Option<Position>) -> Opened {
        self.source.open_stream(self.spec(resume)).await.unwrap()
    }

    pub async fn follow(&self, resume: Option<Position>) -> Follower {
        Follower::new(self.open(resume).await, &self.plans)
    }

    /// Why a stream does not open.
    pub async fn refused(&self, spec: StreamSpec) -> Error {
        match self.source.open_stream(spec).await {
            Ok(_) => panic!("the stream opened"),
            Err(error) => error,
        }
    }

    pub async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    pub async fn text(&self, sql: &str) -> String {
        self.server.query_one_text("drover", sql).await.unwrap().unwrap_or_default()
    }

    /// Everything up to now.
    pub async fn changes(&self, follower: &mut Follower) -> Vec<Transaction> {
        let mark = self.source.mark().await.unwrap();
        follower.until(&mark).await.unwrap()
    }

    /// Files that wait for commits.
    pub fn spilled(&self) -> usize {
        std::fs::read_dir(self.spill.path()).unwrap().count()
    }
}

pub fn val(text: &str) -> Val {
    Val::Known(Some(text.into()))
}

/// First value of each inserted row.
pub fn inserted(transaction: &Transaction) -> Vec<u64> {
    let first = |c: &Change| match c {
        Change::Insert { new, .. } => match &new[0] {
            Val::Known(Some(v)) => v.parse().unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    transaction.changes.iter().map(first).collect()
}

pub fn update(table: u32, old: Before, new: &[Val]) -> Change {
    Change::Update { table, old, new: new.to_vec() }
}
