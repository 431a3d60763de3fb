//! What goes wrong on demand: commits whose outcome is not told, a zombie's load, another server, a rewritten table, and batches that
//! run side by side.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use bytes::Bytes;
use drover_connectors_api::{Committed, Connector, Destination, LoadOutcome, SchemaStep, Step, StreamSpec, Target};
use drover_connectors_memory::{CommitFault, Database, Memory, database, forget};
use drover_model::error::codes;
use drover_model::migration::{Endpoint, Tls, Url};
use drover_model::plan::{Operations, TablePlan};
use drover_model::row::{Cell, put_cell};
use drover_model::schema::{Column, DataType, OldImage, Table, TableName, UniqueKey};
use drover_model::selection::{ColumnChoice, TableChoice};
use drover_model::{Position, Result};
use uuid::Uuid;

struct Pair {
    migration: Uuid,
    host: String,
    plan: TablePlan,
    destination: Box<dyn Destination>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        forget(&self.host);
    }
}

fn target(host: &str, migration: Uuid) -> Target {
    let (scheme, host) = ("memory".to_owned(), host.to_owned());
    let url = Url { scheme, host, port: None, user: None, database: None, params: vec![] };
    let endpoint = Endpoint { kind: "memory".into(), url, password: None, tls: Tls::default() };
    Target { endpoint, password: None, migration, name: "faults".into(), readers: 2 }
}

/// One database is both sides: the table `s.t` moves to `d.t`.
async fn pair() -> Result<Pair> {
    let (migration, name) = (Uuid::new_v4(), TableName::new("s", "t"));
    let host = format!("faults-{migration}");
    let column = |name: &str, nullable| Column {
        nullable,
        ..Column::new(name, DataType::Text { max: None, padded: false }, "text")
    };
    database(&host).create(Table {
        keys: vec![UniqueKey { name: "t_pkey".into(), primary: true, columns: vec!["k".into()], identifies: true }],
        physical: "as created".into(),
        ..Table::new(name.clone(), vec![column("k", false), column("v", true)], OldImage::Key)
    });
    let source = Memory.source(target(&host, migration)).await?;
    let destination = Memory.destination(target(&host, migration)).await?;
    let catalog = source.catalog().await?;
    let choice = TableChoice {
        source: name.clone(),
        schema: "d".into(),
        table: "t".into(),
        columns: ["k", "v"].map(ColumnChoice::same).to_vec(),
        filter: None,
        operations: Operations::ALL,
        floats: None,
    };
    let plan = destination.map_table(&catalog, catalog.table(&name).unwrap(), &choice).plan;
    destination.prepare(migration, "faults").await?;
    for step in [SchemaStep::Base, SchemaStep::Table { id: 0 }] {
        destination.schema(migration, &step, &catalog, std::slice::from_ref(&plan), &[], false).await?;
    }
    Ok(Pair { migration, host, plan, destination })
}

impl Pair {
    fn db(&self) -> Database {
        database(&self.host)
    }
    fn loaded(&self) -> usize {
        self.db().rows(&TableName::new("d", "t")).unwrap().len()
    }
    async fn positions(&self) -> [Position; 3] {
        let source = Memory.source(target(&self.host, self.migration)).await.unwrap();
        [source.mark().await.unwrap(), source.mark().await.unwrap(), source.mark().await.unwrap()]
    }
}

fn row(k: &str, v: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_cell(&mut out, Cell::Value(k.as_bytes()));
    put_cell(&mut out, Cell::Value(v.as_bytes()));
    out
}

#[tokio::test]
async fn a_commit_without_an_answer_is_found_out_by_the_progress() {
    let pair = pair().await.unwrap();
    let [from, to, _] = pair.positions().await;
    let epoch = pair.destination.take_over(pair.migration).await.unwrap().epoch;
    pair.destination.begin_at(pair.migration, epoch, &from).await.unwrap();
    let plans = &vec![pair.plan.clone()].into();
    let mut session = pair.destination.apply_session(pair.migration, epoch, plans).await.unwrap();
    pair.db().fail_commits([CommitFault::RequestLost, CommitFault::AnswerLost]);
    let one = row("1", "x");
    let insert = [Step::Insert { table: 0, rows: vec![&one], tolerant: false }];
    session.execute(&insert).await.unwrap();
    let error = session.commit(&from, &to).await.unwrap_err();
    assert_eq!((error.code.as_str(), pair.loaded()), (codes::CONNECTION, 0));
    session.rollback().await.unwrap();
    session.execute(&insert).await.unwrap();
    assert_eq!(session.commit(&from, &to).await.unwrap(), Committed::Yes);
    assert_eq!(pair.loaded(), 1);
}

#[tokio::test]
async fn batches_side_by_side_commit_in_order_and_see_each_other_at_the_commit() {
    let pair = pair().await.unwrap();
    let [a, b, c] = pair.positions().await;
    let epoch = pair.destination.take_over(pair.migration).await.unwrap().epoch;
    pair.destination.begin_at(pair.migration, epoch, &a).await.unwrap();
    let plans = &vec![pair.plan.clone()].into();
    let mut first = pair.destination.apply_session(pair.migration, epoch, plans).await.unwrap();
    let mut second = pair.destination.apply_session(pair.migration, epoch, plans).await.unwrap();
    let (one, two) = (row("1", "x"), row("2", "y"));
    second.execute(&[Step::Insert { table: 0, rows: vec![&two], tolerant: false }]).await.unwrap();
    first.execute(&[Step::Insert { table: 0, rows: vec![&one], tolerant: false }]).await.unwrap();
    assert_eq!(first.commit(&a, &b).await.unwrap(), Committed::Yes);
    assert_eq!(second.commit(&b, &c).await.unwrap(), Committed::Yes);
    assert_eq!(pair.loaded(), 2, "neither lost the other's row");
}

#[tokio::test]
async fn a_zombie_that_began_before_the_restart_loads_nothing() {
    let pair = pair().await.unwrap();
    let mut zombie = pair.destination.loader(pair.migration).await.unwrap();
    assert!(zombie.begin(&pair.plan, 0, 0).await.unwrap().is_none());
    zombie.block(Bytes::from(row("1", "old"))).await.unwrap();
    pair.destination.restart_table(pair.migration, &pair.plan, 1).await.unwrap();
    assert_eq!(zombie.finish(1).await.unwrap(), LoadOutcome::OldGeneration);
    // Two appliers with the same chunk: the second one comes too late only at the end.
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let mut loader = pair.destination.loader(pair.migration).await.unwrap();
        assert!(loader.begin(&pair.plan, 1, 0).await.unwrap().is_none());
        loader.block(Bytes::from(row("1", "new"))).await.unwrap();
        pairs.push(loader);
    }
    let mut outcomes = Vec::new();
    for mut loader in pairs {
        outcomes.push(loader.finish(1).await.unwrap());
    }
    assert_eq!(outcomes, [LoadOutcome::Loaded { rows: 1 }, LoadOutcome::AlreadyLoaded]);
    assert_eq!(pair.loaded(), 1);
}

#[tokio::test]
async fn another_server_and_a_forgotten_position_are_refused() {
    let pair = pair().await.unwrap();
    let source = Memory.source(target(&pair.host, pair.migration)).await.unwrap();
    let spec = |resume: Option<Position>| StreamSpec {
        fresh: resume.is_none(),
        epoch: 1,
        migration: pair.migration,
        name: "faults".into(),
        tables: vec![pair.plan.clone()].into(),
        resume,
        schemas: None,
        may_set_identity: false,
        spill: std::path::PathBuf::new(),
        batch_bytes: 1 << 20,
    };
    let mut opened = source.open_stream(spec(None)).await.unwrap();
    let early = source.mark().await.unwrap();
    let late = source.mark().await.unwrap();
    while opened.stream.next().await.unwrap().to < late {}
    assert!(source.open_stream(spec(Some(early.clone()))).await.is_ok(), "not confirmed yet");
    let mut opened = source.open_stream(spec(Some(early.clone()))).await.unwrap();
    while opened.stream.next().await.unwrap().to < late {}
    opened.stream.confirm(&late).await.unwrap();
    let refused = |r: Result<_>| r.err().map(|e: drover_model::Error| e.code);
    assert_eq!(refused(source.open_stream(spec(Some(early))).await.map(drop)), Some(codes::POSITION_LOST.into()));
    assert!(source.open_stream(spec(Some(late.clone()))).await.is_ok());
    pair.db().replace_server();
    assert_eq!(refused(source.open_stream(spec(Some(late))).await.map(drop)), Some(codes::POSITION_LOST.into()));
}

#[tokio::test]
async fn a_rewritten_table_shows_an_older_snapshot_no_row_and_another_identity() {
    struct Count(u64);
    #[async_trait::async_trait]
    impl drover_connectors_api::BlockSink for Count {
        async fn block(&mut self, rows: u64, _: Bytes) -> Result<()> {
            self.0 += rows;
            Ok(())
        }
    }
    let pair = pair().await.unwrap();
    let name = TableName::new("s", "t");
    pair.db().transact(|t| t.insert(&name, vec![Some(b"1".to_vec()), None])).unwrap();
    let source = Memory.source(target(&pair.host, pair.migration)).await.unwrap();
    let hold = source.new_snapshot(&[]).await.unwrap();
    let mut reader = source.reader(&hold.snapshot()).await.unwrap();
    let whole = drover_model::chunk::Bounds::Whole;
    let (mut before, mut after) = (Count(0), Count(0));
    let read = reader.read(&pair.plan, &whole, &mut before).await.unwrap();
    assert_eq!((before.0, &read.physical), (1, &pair.plan.physical));
    pair.db().rewrite(&name).unwrap();
    let read = reader.read(&pair.plan, &whole, &mut after).await.unwrap();
    assert_eq!(after.0, 0);
    assert_ne!(read.physical, pair.plan.physical);
}
