//! The coordinator as its users meet it: the store over reopening, the lock, what is on disk, workers over gRPC, health and
//! metrics.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod common;

use common::{CHUNKS, ROWS, TABLES, answer, migration};
use drover_coordinator::{Access, Coordinator, Options};
use drover_model::error::codes;
use drover_proto::control::{Control, Remote};
use drover_proto::order::{Order, Outcome, Progress};
use drover_proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ALL: &str = r#"["schema", "full", "incremental"]"#;

/// A worker that does every order at once; long ones until told to stop.
async fn worker(control: Arc<dyn Control>, name: &'static str, role: v1::Role, stop: CancellationToken) {
    let mut running: Vec<(v1::Lease, Order)> = Vec::new();
    while !stop.is_cancelled() {
        let progress = running.iter().filter_map(|(l, order)| {
            let migration = l.migration.parse().unwrap();
            let news = match order {
                Order::Stream { .. } => Progress::Stream {
                    migration,
                    published: common::at(50),
                    reaching: None,
                    changes: 3,
                    bytes: 9,
                    commit_micros: 2_000_000,
                    log_bytes: 1,
                },
                Order::Apply { .. } => Progress::Apply {
                    migration,
                    applied: common::at(50),
                    rows: 3,
                    transactions: 1,
                    commit_micros: 2_000_000,
                    consistent: true,
                    from: Some(common::at(1)),
                    changed: Vec::new(),
                    replaced: Vec::new(),
                },
                _ => return None,
            };
            Some(serde_json::to_vec(&news).unwrap().into())
        });
        let request = v1::PollRequest {
            worker: name.into(),
            name: name.into(),
            role: role.into(),
            free: 4,
            running: running.iter().map(|(l, _)| l.clone()).collect(),
            leaving: false,
            progress: progress.collect(),
            number: 0,
        };
        let reply = tokio::select! {
            () = stop.cancelled() => break,
            reply = control.poll(request) => reply.unwrap(),
        };
        running.retain(|(l, _)| !reply.stop.contains(l));
        for leased in reply.start {
            let lease = leased.lease.unwrap();
            let order: Order = serde_json::from_slice(&leased.body).unwrap();
            let description = control.describe(lease.migration.clone()).await.unwrap();
            assert_eq!(description.id.to_string(), lease.migration);
            running.push((lease.clone(), order.clone()));
            let Some(outcome) = answer(&order, name, 50, lease.epoch) else { continue };
            let report = v1::ReportRequest {
                worker: name.into(),
                lease: Some(lease.clone()),
                outcome: serde_json::to_vec(&outcome).unwrap().into(),
            };
            control.report(report).await.unwrap();
            if outcome.ends() {
                running.retain(|(l, _)| *l != lease);
            }
        }
    }
    let leave = v1::PollRequest { worker: name.into(), role: role.into(), leaving: true, ..Default::default() };
    control.poll(leave).await.unwrap();
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took too long"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_over_grpc_carry_a_migration_through_and_verbs_rule_it() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::open(Options::new(folder.path(), false)).await.unwrap();
    let listener = Coordinator::bind("127.0.0.1:0".parse().unwrap(), &Access::open()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        async move { coordinator.serve_grpc_on(listener, &Access::open(), stop).await }
    });
    let remote = Remote::lazy(&url).unwrap();
    let leave = CancellationToken::new();
    let control: Arc<dyn Control> = Arc::new(remote.clone());
    let workers = [("x1", v1::Role::Extractor), ("x2", v1::Role::Extractor), ("a1", v1::Role::Applier)]
        .map(|(name, role)| tokio::spawn(worker(control.clone(), name, role, leave.clone())));

    let mut verbs = remote.client();
    let file = serde_json::to_vec(&migration("shop", ALL)).unwrap();
    let request = v1::CreateRequest { migration: file.clone().into(), draft: false, ..Default::default() };
    verbs.create(request.clone()).await.unwrap();
    let taken = drover_proto::control::from_status(&verbs.create(request).await.unwrap_err());
    assert_eq!(taken.code, codes::CONFIGURATION, "a name is taken once");

    let view =
        soon("zero lag", coordinator.wait_state("shop", |v| v.consistent && v.lag_seconds == Some(0.0))).await.unwrap();
    assert_eq!(view.state, "migrating");
    let reply = verbs.show(v1::NameRequest { name: "shop".into() }).await.unwrap().into_inner();
    let shown: serde_json::Value = serde_json::from_slice(&reply.json).unwrap();
    assert_eq!(shown["state"], "migrating");
    assert_eq!(shown["stages"]["full"]["state"], "completed");
    assert_eq!(shown["stages"]["full"]["rows"], ROWS * u64::from(CHUNKS * TABLES));
    assert_eq!(shown["stages"]["schema"]["state"], "completed");
    assert_eq!(shown["stages"]["schema"]["done"], shown["stages"]["schema"]["total"]);
    assert_eq!(shown["stages"]["incremental"]["state"], "running");
    assert_eq!(shown["stages"]["incremental"]["lag_seconds"], 0.0);
    assert_eq!(shown["stages"]["incremental"]["position"], "50");
    assert_eq!(shown["error"], serde_json::Value::Null);

    let act = |action: &str, argument: &str| v1::ActRequest {
        name: "shop".into(),
        action: action.into(),
        argument: argument.as_bytes().to_vec().into(),
    };
    let refused = drover_proto::control::from_status(&verbs.act(act("delete", "")).await.unwrap_err());
    assert!(refused.message.contains("migrating") && refused.remedy.is_some());
    verbs.act(act("limits", r#"{"full": {"rows_per_second": 5}, "incremental.rows_per_second": "6"}"#)).await.unwrap();
    assert!(verbs.act(act("limits", r#"{"fool": 5}"#)).await.is_err());
    let id = shown["id"].as_str().unwrap().to_owned();
    let description = serde_json::to_value(&*control.describe(id).await.unwrap()).unwrap();
    assert_eq!(description["migration"]["limits"]["full"]["rows_per_second"], 5);
    assert_eq!(description["migration"]["limits"]["incremental"]["rows_per_second"], 6);
    verbs.act(act("pause", "")).await.unwrap();
    verbs.act(act("resume", "")).await.unwrap();
    verbs.act(act("stop", "")).await.unwrap();
    soon("cleaning", coordinator.wait_cleaned("shop")).await;
    assert_eq!(coordinator.snapshot_view("shop").unwrap().state, "completed");
    let log = verbs.log(v1::LogRequest { name: "shop".into(), after: 0 }).await.unwrap().into_inner();
    let log = String::from_utf8(log.json.to_vec()).unwrap();
    for line in ["migration started", "s.t2: all 40 rows loaded", "paused", "stopped", "source cleaned"] {
        assert!(log.contains(line), "{line} is missing in {log}");
    }
    verbs.act(act("delete", "")).await.unwrap();
    soon("deleting", coordinator.wait_cleaned("shop")).await;
    assert!(coordinator.show("shop").is_err());
    verbs.create(v1::CreateRequest { migration: file.into(), draft: true, ..Default::default() }).await.unwrap();
    assert_eq!(coordinator.show("shop").unwrap()["state"], "draft");

    leave.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    stop.cancel();
    soon("shutdown", server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_poll_that_was_overtaken_takes_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
    coordinator.create(migration("shop", ALL), false).await.unwrap();
    let poll = |number, running| v1::PollRequest {
        worker: "x".into(),
        role: v1::Role::Extractor.into(),
        free: 1,
        number,
        running,
        ..Default::default()
    };
    let reply = coordinator.poll(poll(2, vec![])).await.unwrap();
    let lease = reply.start[0].lease.clone().unwrap();
    let late = coordinator.poll(poll(1, vec![])).await.unwrap();
    assert!(late.start.is_empty() && late.stop.is_empty(), "{late:?}");
    let next = coordinator.poll(poll(3, vec![lease])).await.unwrap();
    assert!(next.stop.is_empty(), "the lease stands: {next:?}");
}

#[tokio::test]
async fn a_reopened_store_goes_on_where_it_was_and_gives_no_secret_away() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Coordinator::open(Options::new(folder.path(), true));
    let first = open().await.unwrap();
    first.create(migration("shop", ALL), false).await.unwrap();
    let request =
        v1::PollRequest { worker: "x".into(), role: v1::Role::Extractor.into(), free: 1, ..Default::default() };
    let reply = first.poll(request.clone()).await.unwrap();
    let lease = reply.start[0].lease.clone().unwrap();
    assert_eq!(lease.order, "inspect");
    assert_eq!(open().await.err().unwrap().code, codes::STATE, "a store has one user");
    let report = |lease: &v1::Lease| v1::ReportRequest {
        worker: "x".into(),
        lease: Some(lease.clone()),
        outcome: serde_json::to_vec(&answer(&Order::Inspect, "x", 1, 1).unwrap()).unwrap().into(),
    };
    let before = first.show("shop").unwrap();
    drop(first);

    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(9).any(|w| w == b"hush-hush"), "a password is readable on disk");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(folder.path().join("secret.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let second = open().await.unwrap();
    assert_eq!(second.show("shop").unwrap(), before);
    assert!(!second.report(report(&lease)).await.unwrap().accepted, "leases of the former process are void");
    let again = second.poll(request).await.unwrap().start[0].lease.clone().unwrap();
    assert!(again.epoch > lease.epoch, "epochs rise over restarts");
    assert!(second.report(report(&again)).await.unwrap().accepted);
    assert!(second.report(report(&again)).await.unwrap().accepted, "a repeated report does no harm");
    drop(second);
    let third = open().await.unwrap();
    let id = third.show("shop").unwrap()["id"].as_str().unwrap().to_owned();
    let description = third.describe(id).await.unwrap();
    assert_eq!(description.migration, migration("shop", ALL));
    assert_eq!(description.catalog.as_deref(), Some(&common::catalog()));
}

#[tokio::test]
async fn a_changed_file_is_taken_up_but_not_a_changed_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
    let shown = coordinator.create(migration("shop", ALL), true).await.unwrap();
    let mut changed = migration("shop", ALL);
    changed.limits.full.rows_per_second = 7;
    coordinator.update(changed.clone()).await.unwrap();
    changed.stages.pop();
    let refused = coordinator.update(changed).await.unwrap_err();
    assert_eq!(refused.code, codes::CONFIGURATION);
    assert!(refused.message.contains("stages"), "{refused}");
    drop(coordinator);
    let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
    let description = coordinator.describe(shown["id"].as_str().unwrap().to_owned()).await.unwrap();
    assert_eq!(description.migration.limits.full.rows_per_second, 7, "kept over a restart");
    assert_eq!(description.migration.stages.len(), 3);
}

#[tokio::test]
async fn a_check_that_cannot_be_done_fails_the_precheck_and_resume_tries_again() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
    coordinator.create(migration("shop", ALL), false).await.unwrap();
    let request =
        v1::PollRequest { worker: "x".into(), role: v1::Role::Extractor.into(), free: 1, ..Default::default() };
    let lease = coordinator.poll(request.clone()).await.unwrap().start[0].lease.clone().unwrap();
    let error = drover_model::Error::new(
        codes::PERMISSION,
        drover_model::Fault::Source,
        drover_model::Retry::Never,
        "no entry",
    )
    .remedy("grant it");
    let outcome = serde_json::to_vec(&Outcome::Failed { error }).unwrap().into();
    coordinator.report(v1::ReportRequest { worker: "x".into(), lease: Some(lease), outcome }).await.unwrap();
    let shown = coordinator.show("shop").unwrap();
    assert_eq!(shown["state"], "precheck_failed");
    assert_eq!((&shown["items"][0]["result"], &shown["items"][0]["remedy"]), (&"failed".into(), &"grant it".into()));
    coordinator.act("shop", "resume", None).await.unwrap();
    assert_eq!(coordinator.poll(request).await.unwrap().start.len(), 1);
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_tells_its_health() {
    let off = Coordinator::bind("0.0.0.0:0".parse().unwrap(), &Access::open()).await.unwrap_err();
    assert_eq!((off.code.as_str(), off.fault), (codes::CONFIGURATION, drover_model::Fault::User));
    assert!(off.message.contains("TLS"));

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
    coordinator.create(migration("shop", ALL), true).await.unwrap();
    let listener = Coordinator::bind("127.0.0.1:0".parse().unwrap(), &Access::open()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        async move { coordinator.serve_http_on(listener, &Access::open(), stop).await }
    });
    for (path, wanted) in
        [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "drover_migrations{state=\"draft\"} 1")]
    {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(path, socket.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(wanted), "{answer}");
    }
    stop.cancel();
    soon("shutdown", server).await.unwrap().unwrap();
}

#[tokio::test]
async fn over_tls_metrics_are_for_those_with_the_token_and_a_silent_caller_holds_nobody_up() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let access = Access::open().with_tls(&cert, &key).unwrap().with_token("0123456789abcdef").unwrap();
    let coordinator = Coordinator::open(Options::new(folder.path(), true)).await.unwrap();
    let listener = Coordinator::bind("127.0.0.1:0".parse().unwrap(), &access).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        async move { coordinator.serve_http_on(listener, &access, stop).await }
    });
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for (path, header, status) in [
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/metrics", "", 401),
        ("/metrics", "authorization: Bearer 0123456789abcdeX\r\n", 401),
        ("/metrics", "authorization: Bearer 0123456789abcdef\r\n", 200),
    ] {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let mut socket = soon("handshake", connector.connect(name, socket)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(path, socket.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {header}: {answer}");
    }
    stop.cancel();
    soon("shutdown", server).await.unwrap().unwrap();
}
