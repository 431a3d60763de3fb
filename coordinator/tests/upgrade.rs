//! What an earlier drover has stored is understood by this one: the store of a migration in the midst of its copy, with a bit of everything in it, lies in
//! `tests/fixtures` as each format wrote it (with the key that seals its one made-up password), and is taken up and brought to its end. A change of a
//! stored structure that would refuse, lose or misread what is there fails here.
//!
//! When the form of the store changes: write one more fixture, by the name of the day's version,
//! `DROVER_FIXTURE=0.2 cargo test -p drover-coordinator --test upgrade -- --ignored`; those that are there stay.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod common;

use common::{CHUNKS, ROWS, TABLES, answer, at, migration};
use drover_coordinator::{Coordinator, Options};
use drover_model::check::CheckItem;
use drover_model::ddl::{SchemaChange, TableChange};
use drover_model::error::codes;
use drover_model::plan::{Misfit, PlanColumn};
use drover_model::schema::{
    Action, Catalog, Column, DataType, Effect, Identity, IndexColumn, Object, Phase, PlainDefault, PlainForeignKey,
    PlainIndex, Table, TableName, Unlogged,
};
use drover_model::{Error, Fault, Retry, TablePlan};
use drover_proto::control::Control;
use drover_proto::order::{Order, Outcome, Progress};
use drover_proto::v1;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ALL: &str = r#"["schema", "full", "incremental"]"#;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A catalogue in which every field has something in it.
fn catalog() -> Catalog {
    let mut catalog = common::catalog();
    let column = |name: &str, data_type: DataType| Column {
        default: Some("now()".into()),
        identity: Some(Identity::ByDefault),
        generated: Some("a + 1".into()),
        collation: Some("de_DE".into()),
        comment: Some("a comment".into()),
        plain_default: Some(PlainDefault::Value("7".into())),
        folds: true,
        ..Column::new(name, data_type, "a type")
    };
    let types = vec![
        DataType::Bool,
        DataType::Int { bytes: 8, unsigned: true },
        DataType::Float { bytes: 4 },
        DataType::Decimal { precision: Some(12), scale: Some(-2) },
        DataType::Text { max: Some(7), padded: true },
        DataType::Bytes { max: None },
        DataType::Date,
        DataType::Time { precision: 3, zone: false },
        DataType::Timestamp { precision: 6, zone: true },
        DataType::Interval,
        DataType::Uuid,
        DataType::Json,
        DataType::JsonText,
        DataType::Bit { max: Some(3), varying: true },
        DataType::Enum { labels: vec!["x".into(), "y".into()] },
        DataType::Array(Box::new(DataType::Date)),
        DataType::Document,
        DataType::Other,
    ];
    let options = BTreeMap::from([("comment".to_owned(), "a table".to_owned())]);
    let object = |kind: &str, phase| Object {
        kind: kind.into(),
        schema: "s".into(),
        name: "o".into(),
        phase,
        definition: "create something".into(),
        options: options.clone(),
        needs: vec!["s.t1".into()],
    };
    let table = &mut catalog.tables[0];
    table.columns = types.into_iter().enumerate().map(|(i, t)| column(&format!("c{i}"), t)).collect();
    table.columns.push(Column::new("plain", DataType::Date, "date"));
    table.parts = vec![object("index", Phase::Table), object("trigger", Phase::Cutover)];
    table.options = options.clone();
    table.unlogged = vec![Unlogged {
        name: "u".into(),
        parent: TableName::new("s", "t1"),
        columns: vec!["a".into()],
        references: vec!["b".into()],
        on_delete: Some(Effect::Cascade),
        on_update: Some(Effect::SetNull),
    }];
    let key = IndexColumn { name: "c1".into(), prefix: Some(4), descending: true };
    table.plain_indexes = vec![PlainIndex { name: "i".into(), unique: true, columns: vec![key] }];
    table.plain_foreign_keys = vec![PlainForeignKey {
        name: "f".into(),
        columns: vec!["a".into()],
        parent: TableName::new("s", "t1"),
        references: vec!["b".into()],
        on_delete: Action::Restrict,
        on_update: Action::SetDefault,
    }];
    catalog.scope = Some("s".into());
    catalog.home = Some("public".into());
    catalog.objects = vec![object("view", Phase::Base), object("foreign key", Phase::Final)];
    catalog
}

fn plans() -> Vec<TablePlan> {
    let mut plans = common::plans();
    let column = PlanColumn {
        identity_always: true,
        ordinal: Some(3),
        misfit: Misfit::Clamp,
        ..PlanColumn::new("c1", DataType::Date, "date")
    };
    plans[0].columns = vec![column];
    plans[0].left_out = vec!["c2".into()];
    plans[0].filter = Some("c1 > 7".into());
    plans
}

/// A schema change, as it stands in the journal.
fn change() -> SchemaChange {
    let mut plan = plans().swap_remove(2);
    plan.version = 2;
    let after = Table { name: TableName::new("s", "t2"), ..catalog().tables.swap_remove(2) };
    SchemaChange {
        verb: "ALTER TABLE".into(),
        statement: Some("ALTER TABLE t2 ADD b date".into()),
        context: BTreeMap::from([("database".to_owned(), "s".to_owned())]),
        tables: vec![TableChange {
            id: Some(2),
            before: Some(catalog().tables.swap_remove(2)),
            after: Some(after),
            plan: Some(plan),
            renamed: vec![("a".into(), "b".into())],
            anew: vec!["c".into()],
            filled: vec![("d".into(), "7".into())],
            clauses: vec!["ADD b date".into()],
            apart: false,
            stopped: None,
        }],
        objects: Vec::new(),
    }
}

/// Two workers that do every order at once, until `enough` says so of the chunks loaded.
async fn work(coordinator: &Coordinator, enough: impl Fn(&serde_json::Value) -> bool) {
    let mut running: BTreeMap<&str, Vec<v1::Lease>> = BTreeMap::new();
    let mut failed = false;
    for round in 0.. {
        assert!(round < 1000, "it does not get on: {:#}", coordinator.show("shop").unwrap());
        for (worker, role) in [("x", v1::Role::Extractor), ("a", v1::Role::Applier)] {
            let view = coordinator.show("shop").unwrap();
            // Nobody gets orders of it then: rather than wait for them, say so.
            assert!(view["state"] != "failed", "{view:#}");
            if enough(&view) {
                return;
            }
            let mine = running.entry(worker).or_default();
            let applying = mine.iter().find(|l| l.order == "apply").map(|l| Progress::Apply {
                migration: l.migration.parse().unwrap(),
                applied: at(60),
                rows: 3,
                transactions: 1,
                commit_micros: 2_000_000,
                consistent: true,
                from: Some(at(1)),
                changed: Vec::new(),
                replaced: Vec::new(),
            });
            let request = v1::PollRequest {
                worker: worker.into(),
                name: worker.into(),
                role: role.into(),
                free: 1,
                running: mine.clone(),
                leaving: false,
                progress: applying.iter().map(|p| serde_json::to_vec(p).unwrap().into()).collect(),
                number: round,
            };
            let reply = coordinator.poll(request).await.unwrap();
            mine.retain(|l| !reply.stop.contains(l));
            for leased in reply.start {
                let (lease, order): (_, Order) = (leased.lease.unwrap(), serde_json::from_slice(&leased.body).unwrap());
                let mut outcomes = Vec::from_iter(match &order {
                    Order::Inspect => {
                        let items = vec![CheckItem::warning("K1", "a", "b", "c")];
                        Some(Outcome::Inspected { catalog: catalog().into(), items })
                    }
                    Order::Survey => {
                        let objects = catalog().objects;
                        Some(Outcome::Surveyed {
                            plans: plans().into(),
                            objects: objects.into(),
                            items: Vec::new(),
                            held: None,
                        })
                    }
                    // One that has to be tried again.
                    Order::Load { .. } if !std::mem::replace(&mut failed, true) => {
                        let error =
                            Error::new(codes::TIMEOUT, Fault::Destination, Retry::Other, "locked").remedy("wait");
                        Some(Outcome::Failed { error: error.table("s.t0").key("a=1").column("a") })
                    }
                    order => answer(order, worker, 50, lease.epoch),
                });
                if matches!(order, Order::Stream { .. }) {
                    outcomes.push(Outcome::SchemaChanged { position: at(55), change: Box::new(change()) });
                }
                mine.push(lease.clone());
                for outcome in outcomes {
                    let report = v1::ReportRequest {
                        worker: worker.into(),
                        lease: Some(lease.clone()),
                        outcome: serde_json::to_vec(&outcome).unwrap().into(),
                    };
                    coordinator.report(report).await.unwrap();
                    if outcome.ends() {
                        mine.retain(|l| *l != lease);
                    }
                }
            }
        }
    }
}

fn loaded(view: &serde_json::Value) -> u64 {
    view["stages"]["full"]["rows"].as_u64().unwrap() / ROWS
}

#[tokio::test]
#[ignore = "writes a fixture"]
async fn write() {
    let version = std::env::var("DROVER_FIXTURE").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    let folder = fixtures().join(version);
    std::fs::create_dir_all(&folder).unwrap();
    let coordinator = Coordinator::open(Options::new(&folder, true)).await.unwrap();
    coordinator.create(migration("shop", ALL), false).await.unwrap();
    work(&coordinator, |view| loaded(view) >= 5).await;
    drop(coordinator);
    // As small as it gets.
    rusqlite::Connection::open(folder.join("coordinator.sqlite"))
        .unwrap()
        .execute_batch("PRAGMA journal_mode = delete; VACUUM")
        .unwrap();
    std::fs::remove_file(folder.join("coordinator.lock")).unwrap();
}

#[tokio::test]
async fn a_migration_that_an_earlier_drover_began_goes_on() {
    let mut versions = 0;
    for version in std::fs::read_dir(fixtures()).unwrap() {
        let version = version.unwrap().path();
        versions += 1;
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(&version).unwrap() {
            let file = file.unwrap().path();
            std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
        let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
        let shown = coordinator.show("shop").unwrap();
        assert!(shown["state"] == "migrating" || shown["state"] == "retrying", "{version:?}: {shown:#}");
        // A table without a key begins again: the snapshot has died with the process.
        assert!((1..u64::from(CHUNKS * TABLES)).contains(&loaded(&shown)), "{shown:#}");
        // What it knows is what was stored, to the last field.
        let description = coordinator.describe(shown["id"].as_str().unwrap().to_owned()).await.unwrap();

        assert_eq!(description.migration, migration("shop", ALL), "with its password: {version:?}");
        assert_eq!(description.catalog.as_deref(), Some(&catalog()), "{version:?}");
        assert_eq!(*description.plans, plans(), "{version:?}");
        assert_eq!(*description.objects, catalog().objects, "{version:?}");
        let change = description.schema_changes.first().map(|d| &d.change);
        assert_eq!(change, Some(&self::change()), "{version:?}");
        // It goes on: what was loaded is not loaded again, and all of it comes to its end.
        let before = loaded(&shown);
        work(&coordinator, |view| view["stages"]["incremental"]["consistent"] == true).await;
        let shown = coordinator.show("shop").unwrap();
        assert_eq!(shown["stages"]["full"]["rows"], ROWS * u64::from(CHUNKS * TABLES), "{version:?}: {shown:#}");
        let log = coordinator.log("shop", 0).await.unwrap().to_string();
        for line in ["migration shop created", "precheck passed", "locked", "schema change at 55", "is consistent"] {
            assert!(log.contains(line), "{version:?}: {line}: {log}");
        }
        assert!(before > 0 && shown["error"].is_null(), "{shown:#}");
        coordinator.act("shop", "stop", None).await.unwrap();
    }
    assert!(versions > 0, "no fixture");
}
