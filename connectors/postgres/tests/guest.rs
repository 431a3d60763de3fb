//! What drover does to its source, and that no statement of an application fails or waits because of it.
#![allow(clippy::unwrap_used)]

mod bench;

use bench::Bench;
use drover_connectors_api::StreamSpec;
use drover_connectors_suite::world::{Before, Change, Follower};
use drover_harness::wait;
use drover_model::error::codes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const DDL: &str = "create table keyed (id int primary key, v int); create table loose (a int, v int); create table never (a int, v int);
     create table part (a int, v int) partition by list (a); create table part_1 partition of part for values in (1);
     create table part_2 partition of part default;
     alter table never replica identity nothing;
     insert into keyed values (1, 0), (2, 0); insert into loose values (1, 0), (2, 0); insert into never values (1, 0), (2, 0);
     insert into part values (1, 0), (2, 0)";

/// Updates and deletes without a pause; no statement may fail, or take longer than a second.
struct Application {
    ended: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Application {
    async fn start(bench: &Bench) -> Application {
        let (ended, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for table in ["keyed", "loose", "never", "part"] {
            let session = bench.server.connect("drover").await.unwrap();
            let (ended, rounds) = (ended.clone(), rounds.clone());
            let key = if table == "keyed" { "id" } else { "a" };
            let statements = [
                format!("update {table} set v = v + 1 where {key} = 1"),
                format!("insert into {table} values (3, 0)"),
                format!("update {table} set v = v + 1"),
                format!("delete from {table} where {key} = 3"),
            ];
            tasks.push(tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    for statement in &statements {
                        let began = Instant::now();
                        session.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
                        assert!(began.elapsed() < Duration::from_secs(1), "{statement} took {:?}", began.elapsed());
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        let app = Application { ended, rounds, tasks };
        app.goes_on().await;
        app
    }

    /// Waits until it has done some more.
    async fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        wait::until("the application goes on", PATIENCE, || {
            let now = self.rounds.load(Ordering::Relaxed);
            std::future::ready(Ok((now > before + 40 || self.tasks.iter().any(|t| t.is_finished())).then_some(())))
        })
        .await
        .unwrap();
    }

    async fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn identities(bench: &Bench) -> String {
    let sql = "select string_agg(relname || '=' || relreplident::text, ' ' order by relname) from pg_class \
        where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and relname !~ '^dts'";
    bench.text(sql).await
}

async fn leftovers(bench: &Bench) -> String {
    let sql = "select coalesce(string_agg(x, ' '), '') from (select slot_name::text from pg_replication_slots \
        union all select pubname::text from pg_publication union all select relname::text from pg_class where relname ~ '^dts_') as f(x)";
    bench.text(sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_without_a_key_need_consent_and_no_statement_fails() {
    let bench = Bench::new(DDL, &[]).await;
    let before = identities(&bench).await;
    assert_eq!(before, "keyed=d loose=d never=n part=d part_1=d part_2=d");
    let app = Application::start(&bench).await;
    let error = bench.refused(StreamSpec { may_set_identity: false, ..bench.spec(None) }).await;
    assert_eq!(error.code, codes::UNSUPPORTED, "{error}");
    let told = error.to_string();
    for table in ["public.loose", "public.never", "public.part_1", "public.part_2"] {
        assert!(told.contains(table), "{told}");
    }
    assert!(!told.contains("public.keyed"), "{told}");
    assert_eq!((identities(&bench).await, leftovers(&bench).await), (before.clone(), String::new()), "after a refusal");
    app.goes_on().await;
    for _ in 0..3 {
        let mut follower = bench.follow(None).await;
        assert_eq!(identities(&bench).await, "keyed=d loose=f never=f part=f part_1=f part_2=f");
        app.goes_on().await;
        let seen = bench.changes(&mut follower).await;
        for table in ["keyed", "loose", "never", "part"] {
            let id = bench.plan(table).id;
            let of = |c: &&Change| match c {
                Change::Update { table, old, .. } | Change::Delete { table, old } => {
                    *table == id && (*old != Before::None || id == bench.plan("keyed").id)
                }
                _ => false,
            };
            assert!(
                seen.iter().flat_map(|t| &t.changes).filter(of).count() > 0,
                "no change of {table} with an old row"
            );
        }
        assert!(leftovers(&bench).await.contains("dts_sync_bench_1_"));
        let all =
            "select string_agg(schemaname || '.' || tablename, ' ' order by tablename) from pg_publication_tables";
        assert_eq!(bench.text(all).await, "public.keyed public.loose public.never public.part");
        app.goes_on().await;
        drop(follower);
        let did = bench.source.cleanup(bench.migration).await.unwrap();
        assert!(did.iter().any(|d| d.contains("public.loose")) && did.iter().any(|d| d.contains("slot")), "{did:?}");
        assert_eq!(
            (identities(&bench).await, leftovers(&bench).await),
            (before.clone(), String::new()),
            "after cleanup"
        );
        app.goes_on().await;
    }
    assert!(bench.source.cleanup(bench.migration).await.unwrap().is_empty());
    app.end().await;
}

#[tokio::test]
async fn partitions_that_come_later_get_an_identity_and_lose_it() {
    let ddl = "create table part (a int, v int) partition by list (a); create table part_1 partition of part for values in (1)";
    let bench = Bench::new(ddl, &[]).await;
    let mut follower = bench.follow(None).await;
    bench.run("create table part_2 partition of part for values in (2)").await;
    let wanted = "part=f part_1=f part_2=f".to_owned();
    wait::until_eq("the new partition's identity", PATIENCE, wanted, || async { Ok(identities(&bench).await) })
        .await
        .unwrap();
    bench.run("insert into part values (2, 1); update part set v = 2; delete from part").await;
    let seen = bench.changes(&mut follower).await;
    assert_eq!(seen.iter().flat_map(|t| &t.changes).count(), 3, "{seen:?}");
    drop(follower);
    // It is given back whatever the table is called by now, and another that took the name is left alone.
    bench
        .run("alter table part rename to parted; create table part (a int); alter table part replica identity full")
        .await;
    bench.source.cleanup(bench.migration).await.unwrap();
    let left = (identities(&bench).await, leftovers(&bench).await);
    assert_eq!((left.0.as_str(), left.1.as_str()), ("part=f part_1=d part_2=d parted=d", ""));
    bench.run("update part_2 set v = 2").await;
}

#[tokio::test]
async fn cleanup_ends_a_live_stream_and_takes_the_heartbeat_along() {
    let bench = Bench::new("create table t (id int primary key)", &[]).await;
    let follower = bench.follow(None).await;
    let beats = "select count(*)::text from pg_class where relname = 'dts_postgres_heartbeat'";
    wait::until_eq("the heartbeat's table", PATIENCE, "1".to_owned(), || async { Ok(bench.text(beats).await) })
        .await
        .unwrap();
    let beats = "select count(*)::text from public.dts_postgres_heartbeat where revice_lsn is not null";
    wait::until_eq("a heartbeat", PATIENCE, "1".to_owned(), || async { Ok(bench.text(beats).await) }).await.unwrap();
    // It is neither in the catalogue nor in the publication.
    assert_eq!(bench.source.catalog().await.unwrap().tables.len(), 1);
    bench.source.cleanup(bench.migration).await.unwrap();
    assert_eq!(leftovers(&bench).await, "");
    drop(follower);
}

#[tokio::test]
async fn who_makes_a_stream_ends_an_older_attempt_and_is_not_ended_by_it() {
    let bench = Bench::new(DDL, &[]).await;
    let spec = |epoch| StreamSpec { epoch, ..bench.spec(None) };
    // A slot is made only when transactions that run have ended, so the first attempt stands still in its midst.
    let running = bench.server.connect("drover").await.unwrap();
    running.batch_execute("begin; update keyed set v = 7 where id = 1").await.unwrap();
    let walsender = async || {
        let row = bench.sql.query_opt("select active_pid from pg_replication_slots where active", &[]).await.unwrap();
        row.map(|r| r.get::<_, i32>(0))
    };
    let first = bench.source.open_stream(spec(3));
    let second = async {
        let old = wait::until("the first attempt waits", PATIENCE, async || Ok(walsender().await)).await.unwrap();
        let ended = async {
            let other = async || Ok(walsender().await.filter(|pid| *pid != old));
            wait::until("the second took its place", PATIENCE, other).await.unwrap();
            running.batch_execute("commit").await.unwrap();
        };
        tokio::join!(bench.source.open_stream(spec(4)), ended).0
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err(), "the older attempt came to its end");
    let mut follower = Follower::new(second.unwrap(), &bench.plans);
    let late = bench.refused(spec(3)).await;
    assert_eq!(late.code, codes::FENCED, "{late}");
    bench.sql.batch_execute("update keyed set v = 8 where id = 1").await.unwrap();
    let mark = bench.source.mark().await.unwrap();
    assert_eq!(follower.until(&mark).await.unwrap().len(), 1, "the stream was taken away");
}
