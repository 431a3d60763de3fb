//! A server of its own, plans for its tables, and its change stream.

use drover_connectors_api::{Opened, StreamSpec};
use drover_connectors_mysql::changes::{self, Changes};
use drover_connectors_mysql::connect::{Dialer, Session, Settings};
use drover_connectors_mysql::{CELLS, catalog, position, typemap};
use drover_connectors_suite::world::{Change, Follower, Transaction, Val};
use drover_harness::mysql::{MySql, Release};
use drover_model::migration::Tls;
use drover_model::plan::RowFormat;
use drover_model::selection::{ObjectRule, Selection};
use drover_model::{Error, Fault, MigrationId, Position, Result, TablePlan};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tempfile::TempDir;

pub struct Bench {
    pub server: MySql,
    pub sql: Conn,
    pub dialer: Dialer,
    pub plans: Vec<TablePlan>,
    pub migration: MigrationId,
    pub spill: TempDir,
    pub batch_bytes: usize,
}

pub fn dialer(server: &MySql, migration: MigrationId) -> Dialer {
    Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: "drover".into(),
        password: None,
        database: Some("drover".into()),
        tls: Tls::default(),
        migration,
        fault: Fault::Source,
    })
}

/// Plans of all tables of database `d`.
pub async fn plans(session: &mut Session) -> Vec<TablePlan> {
    let catalog = catalog::read(session, None).await.unwrap();
    let known = typemap::Known::read(session).await.unwrap();
    let rule = ObjectRule { include: vec!["d.*".into()], ..ObjectRule::default() };
    let selection = Selection::compile(&[rule]).unwrap();
    let mut plans = Vec::new();
    for table in &catalog.tables {
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        if let Some(choice) = selection.decide(&table.name.schema, &table.name.name, &columns).unwrap() {
            let mut plan = typemap::map_table(&catalog, table, &choice, &known).plan;
            for column in &mut plan.columns {
                column.ordinal = table.columns.iter().position(|c| c.name == column.source).map(|i| i as u16);
            }
            let format = RowFormat::Native(CELLS.into());
            plans.push(TablePlan { id: plans.len() as u32, version: 1, format, ..plan });
        }
    }
    plans
}

impl Bench {
    /// All tables of database `d` after `ddl`, which runs in it.
    pub async fn new(release: Release, ddl: &str, settings: &[(&str, &str)]) -> Bench {
        let server = MySql::start(release, settings).await.unwrap();
        server.create_database("d").await.unwrap();
        let mut sql = server.connect("d").await.unwrap();
        // Dates of every kind, as a server of before would take them.
        sql.query_drop("SET sql_mode = 'ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00'")
            .await
            .unwrap();
        let migration = MigrationId::new_v4();
        let dialer = dialer(&server, migration);
        let spill = tempfile::tempdir().unwrap();
        let mut bench = Bench { server, sql, dialer, plans: vec![], migration, spill, batch_bytes: 64 << 10 };
        bench.run(ddl).await;
        bench.plan_again().await;
        bench
    }

    pub async fn plan_again(&mut self) {
        let mut session = self.dialer.session("test").await.unwrap();
        self.plans = plans(&mut session).await;
    }

    pub fn plan(&self, name: &str) -> &TablePlan {
        self.plans.iter().find(|p| p.source.name == name).unwrap()
    }

    pub async fn run(&mut self, sql: &str) {
        if !sql.trim().is_empty() {
            self.sql.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }

    /// Where the source's log stands.
    pub async fn here(&self) -> Position {
        let mut session = self.dialer.session("test").await.unwrap();
        position::here(&mut session, None, 0).await.unwrap()
    }

    pub fn spec(&self, from: &Position) -> StreamSpec {
        StreamSpec {
            migration: self.migration,
            name: "bench".into(),
            tables: self.plans.clone().into(),
            fresh: false,
            epoch: 1,
            resume: Some(from.clone()),
            schemas: None,
            may_set_identity: false,
            spill: self.spill.path().to_owned(),
            batch_bytes: self.batch_bytes,
        }
    }

    pub async fn open(&self, from: &Position) -> Result<Changes> {
        changes::open(&self.dialer, &self.spec(from), from).await
    }

    pub async fn follow(&self, from: &Position) -> Follower {
        let stream = self.open(from).await.unwrap();
        let opened = Opened { start: stream.start().clone(), snapshot: None, stream: Box::new(stream) };
        Follower::new(opened, &self.plans)
    }

    /// Everything up to now.
    pub async fn changes(&self, follower: &mut Follower) -> Vec<Transaction> {
        self.changes_of(follower, follower.at.lineage).await
    }

    /// The same, of a server of this lineage.
    pub async fn changes_of(&self, follower: &mut Follower, lineage: u32) -> Vec<Transaction> {
        let mark = Position { lineage, ..self.here().await };
        follower.until(&mark).await.unwrap()
    }

    /// The error that the stream ends with, and what came before it.
    pub async fn end(&self, follower: &mut Follower) -> (Vec<Transaction>, Error) {
        let mut all = Vec::new();
        loop {
            match follower.once().await {
                Ok(some) => all.extend(some),
                Err(error) => return (all, error.downcast().unwrap()),
            }
        }
    }

    /// Files that wait for commits.
    pub fn spilled(&self) -> usize {
        std::fs::read_dir(self.spill.path()).unwrap().count()
    }
}

pub fn val(text: &str) -> Val {
    Val::Known(Some(text.into()))
}

/// First values of the inserted rows, of transactions of inserts only.
pub fn inserted(transactions: &[Transaction]) -> Vec<Vec<u64>> {
    let first = |c: &Change| match c {
        Change::Insert { new, .. } => match &new[0] {
            Val::Known(Some(v)) => v.parse().unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    transactions.iter().map(|t| t.changes.iter().map(first).collect()).collect()
}
