//! The coordinator's store in a real PostgreSQL: what it keeps, who may write, and how another takes over.
#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use drover_connectors_postgres_store::{Leading, PgStore};
use drover_coordinator::Coordinator;
use drover_coordinator::desk::Tuning;
use drover_harness::{Postgres, wait};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_proto::control::Control;
use drover_proto::order::Outcome;
use drover_proto::v1;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn migration() -> Migration {
    let text = "name = \"shop\"\n[source]\nkind = \"memory\"\nurl = \"memory://u:hush-hush@127.0.0.1:1/a\"\n\
         [destination]\nkind = \"memory\"\nurl = \"memory://u@127.0.0.1:2/b\"\n";
    Migration::parse(text, Path::new("test.toml"), &["memory"]).unwrap()
}

async fn lead(server: &Postgres, folder: &Path) -> (Coordinator, Leading) {
    let (store, leading) = PgStore::open(&server.url("drover"), &folder.join("secret.key")).await.unwrap();
    (Coordinator::with_store(Box::new(store), false, Tuning::default()).await.unwrap(), leading)
}

fn poll() -> v1::PollRequest {
    v1::PollRequest { worker: "x".into(), role: v1::Role::Extractor.into(), free: 1, ..Default::default() }
}

fn failed(lease: &v1::Lease) -> v1::ReportRequest {
    let error =
        drover_model::Error::new(codes::CONNECTION, drover_model::Fault::Source, drover_model::Retry::Never, "no");
    let outcome = serde_json::to_vec(&Outcome::Failed { error }).unwrap().into();
    v1::ReportRequest { worker: "x".into(), lease: Some(lease.clone()), outcome }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_goes_on_where_the_former_was_and_no_secret_is_readable() {
    let server = Postgres::start_default().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (first, leading) = lead(&server, folder.path()).await;
    first.create(migration(), false).await.unwrap();
    let lease = first.poll(poll()).await.unwrap().start[0].lease.clone().unwrap();
    let before = first.show("shop").unwrap();
    drop((first, leading));

    let sql = "select count(*) from drover_coordinator.migration where position('hush-hush'::bytea in sealed) > 0 or name <> 'shop'";
    assert_eq!(server.query_one_text("drover", sql).await.unwrap().as_deref(), Some("0"));
    // Another key cannot read it, and says which file is wrong.
    let other = tempfile::tempdir().unwrap();
    let (store, other_leads) = PgStore::open(&server.url("drover"), &other.path().join("secret.key")).await.unwrap();
    let error = Coordinator::with_store(Box::new(store), false, Tuning::default()).await.err().unwrap();
    assert!(error.to_string().contains("secret.key"), "{error}");
    drop(other_leads);

    let (second, _leading) = lead(&server, folder.path()).await;
    assert_eq!(second.show("shop").unwrap(), before);
    assert!(second.report(failed(&lease)).await.unwrap().accepted, "workers go on with their leases");
    second.act("shop", "resume", None).await.unwrap();
    let again = second.poll(poll()).await.unwrap().start[0].lease.clone().unwrap();
    assert!(again.epoch > lease.epoch, "epochs rise when another takes over");
    let log = second.log("shop", 0).await.unwrap();
    assert!(log.to_string().contains("created"), "{log}");
    let id = second.show("shop").unwrap()["id"].as_str().unwrap().to_owned();
    let description = second.describe(id).await.unwrap();
    assert_eq!(description.migration, migration(), "with its password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_leads_and_one_that_gives_no_sign_is_ended() {
    let server = Postgres::start_default().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (first, leading) = lead(&server, folder.path()).await;
    let second = lead(&server, folder.path());
    tokio::pin!(second);
    // As long as the first one is there, the second waits: it has asked for the lock in vain more than once.
    let asked = "select count(*) from pg_stat_activity where application_name like '%coordinator' and query like '%pg_terminate_backend%'";
    let waits = wait::until("the second one waits", SOON, async || {
        Ok((server.query_one_text("drover", asked).await? == Some("1".into())).then_some(()))
    });
    tokio::select! {
        _ = &mut second => panic!("two lead"),
        waits = waits => waits.unwrap(),
    }
    first.create(migration(), true).await.unwrap();
    // Frozen: no sign any more.
    drop(leading);
    server.exec("drover", "update drover_coordinator.lead set at = at - interval '1 hour'").await.unwrap();
    let (second, _leading) = tokio::time::timeout(SOON, second).await.unwrap();
    assert_eq!(second.show("shop").unwrap()["state"], "draft");
    // What the former one has in hand is not written.
    let late = first.act("shop", "resume", None).await.map(drop).unwrap_err();
    assert_eq!(late.code, codes::STATE, "{late}");
    assert_eq!(second.show("shop").unwrap()["state"], "draft");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_notices_that_it_does_not_lead_any_more() {
    let server = Postgres::start_default().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_first, leading) = lead(&server, folder.path()).await;
    let end = "select pg_terminate_backend(pid) from drover_coordinator.lead";
    server.exec("drover", end).await.unwrap();
    let error = tokio::time::timeout(SOON, leading.lost()).await.unwrap();
    assert_eq!(error.code, codes::STATE);
    let (_second, _leading) = tokio::time::timeout(SOON, lead(&server, folder.path())).await.unwrap();
}
