//! Snapshots against real servers: that their position is exact while others write, on every way to one; that an application is not held up;
//! and what becomes of sessions that die.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod reading;

use drover_connectors_api::{ChunkReader, Source};
use drover_connectors_mysql::connect::Dialer;
use drover_connectors_mysql::position::{Place as LogPlace, resume_of};
use drover_connectors_mysql::reader::Reader;
use drover_connectors_mysql::snapshot::{LULL, Wanted, take};
use drover_connectors_mysql::source::MySource;
use drover_harness::{MySql, Release, wait};
use drover_model::chunk::Bounds;
use drover_model::error::codes;
use drover_model::{Position, TablePlan};
use mysql_async::prelude::Queryable;
use reading::{Blocks, DATABASE, Place, chunk, column, take_with};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Writers that insert one row a transaction, half of them through a table that is not of interest.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<u64>>>,
}

impl Writers {
    async fn start(server: &MySql, count: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..count {
            let mut session = server.connect(DATABASE).await.unwrap();
            let stop = stop.clone();
            tasks.push(tokio::spawn(async move {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    session.query_drop(format!("INSERT INTO entry (writer, n) VALUES ({writer}, {n})")).await?;
                    session.query_drop("UPDATE other SET n = n + 1").await?;
                    n += 1;
                }
                Ok(n)
            }));
        }
        Writers { stop, tasks }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }
}

const TABLES: &str = "CREATE TABLE entry (id bigint AUTO_INCREMENT PRIMARY KEY, writer int, n int); \
    CREATE TABLE other (id int PRIMARY KEY, n bigint); INSERT INTO other VALUES (1, 0);";

/// Without any a snapshot would show nothing.
async fn rows_are_written(place: &Place) {
    wait::until("rows are written", Duration::from_secs(20), || async {
        let n = place.server.query_one_text(DATABASE, "SELECT COUNT(*) > 50 FROM entry").await?;
        Ok((n.as_deref() == Some("1")).then_some(()))
    })
    .await
    .unwrap();
}

/// Changed rows of a table that the log has up to a place, from the log itself.
async fn logged(place: &Place, table: &str, position: &Position) -> u64 {
    let at: LogPlace = resume_of(position).unwrap().place;
    let mut session = place.server.connect(DATABASE).await.unwrap();
    let mut logs: Vec<mysql_async::Row> = session.query("SHOW BINARY LOGS").await.unwrap();
    let mut count = 0;
    for log in logs.drain(..) {
        let name: String = log.get(0).unwrap();
        if name > at.file {
            break;
        }
        // A commit that is just writing an event makes the server stumble over its half.
        let in_half = |e: &mysql_async::Error| matches!(e, mysql_async::Error::Server(s) if s.code == 1220);
        let events: Vec<mysql_async::Row> = loop {
            match session.query(format!("SHOW BINLOG EVENTS IN '{name}'")).await {
                Err(error) if in_half(&error) => {}
                told => break told.unwrap(),
            }
        };
        let mut of_table = false;
        for event in events {
            let (kind, end, info): (String, u64, String) =
                (event.get(2).unwrap(), event.get(4).unwrap(), event.get(5).unwrap());
            if name == at.file && end > at.offset {
                break;
            }
            if kind == "Table_map" {
                of_table = info.ends_with(&format!("({DATABASE}.{table})"));
            }
            let first = table != "entry" && kind.starts_with("Write_rows");
            count +=
                u64::from(of_table && !first && (kind.starts_with("Write_rows") || kind.starts_with("Update_rows")));
        }
    }
    count
}

async fn exact(place: &Place, dialer: &Dialer, readers: usize, plans: &[TablePlan]) {
    let set = take_with(dialer, readers, plans).await.unwrap();
    let hold = set.hold();
    let reference = hold.snapshot();
    assert!(!reference.shared);
    let mut seen = Vec::new();
    let mut open = Vec::new();
    let of = plans.iter().find(|p| p.source.name == "entry").unwrap();
    let other = plans.iter().find(|p| p.source.name == "other").unwrap();
    for _ in 0..set.sessions() {
        open.push(Reader::open(&reference).await.unwrap());
    }
    for reader in &mut open {
        let rows = chunk(reader, of, &Bounds::Whole).await.unwrap();
        let counter = column(&chunk(reader, other, &Bounds::Whole).await.unwrap(), 1);
        seen.push((rows.len() as u64, counter));
    }
    assert!(seen.windows(2).all(|w| w[0] == w[1]), "the sessions see different states: {seen:?}");
    let logged = logged(place, "entry", &reference.position).await;
    assert_eq!(seen[0].0, logged, "{} rows in the snapshot at {}", seen[0].0, reference.position);
    assert!(seen[0].0 > 0);
}

async fn position_is_exact(release: Release) {
    let place = Place::start(release, &[]).await;
    place.exec(TABLES).await;
    let plans = place.plans().await;
    let log = "REPLICATION CLIENT, REPLICATION SLAVE";
    let mut ways = vec![("all", place.dialer.clone())];
    ways.push(("flush", place.account("flush", &format!("RELOAD, PROCESS, {log}")).await));
    ways.push(("bare", place.account("bare", log).await));
    let writers = Writers::start(&place.server, 4).await;
    rows_are_written(&place).await;
    for (name, dialer) in &ways {
        for round in 0..4 {
            println!("{release:?} {name} {round}");
            exact(&place, dialer, 3, &plans).await;
        }
    }
    writers.end().await;
    // And on a source that stands still.
    for (_, dialer) in &ways {
        exact(&place, dialer, 3, &plans).await;
    }
}

/// Where no lock may be had and transactions have no GTIDs, the snapshot lies between two marks. Of a table that was changed between them, the rows are those of
/// some moment in between; one that cannot bear that stands at the position exactly, and so does every table while its writers pause now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_marks() {
    marked("OFF").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_marks_of_a_compressed_log() {
    marked("ON").await;
}

async fn marked(compression: &str) {
    let settings =
        [("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF"), ("binlog-transaction-compression", compression)];
    let place = Place::start(Release::MySql9, &settings).await;
    place.exec(TABLES).await;
    place
        .exec("CREATE TABLE frail (id int PRIMARY KEY, n bigint, u int UNIQUE); INSERT INTO frail VALUES (1, 0, 0);")
        .await;
    let plans = place.plans().await;
    let log = "REPLICATION CLIENT, REPLICATION SLAVE";
    let bare = place.account("bare", log).await;
    let Err(error) = take_with(&bare, 3, &plans).await else { panic!("a snapshot came from nowhere") };
    assert_eq!(error.code, codes::PERMISSION, "{error}");
    assert!(error.remedy.as_ref().unwrap().contains("database drover"), "{error:?}");
    let dialer = place.account("marks", log).await;
    place.exec("GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON drover.* TO marks@'%';").await;

    // Nobody writes: exact at once.
    let set = take_with(&dialer, 3, &plans).await.unwrap();
    assert!(set.hold().snapshot().blur.is_none() && set.sessions() == 3);
    drop(set);

    let writers = Writers::start(&place.server, 4).await;
    let stop = Arc::new(AtomicBool::new(false));
    let frail = {
        let (mut session, stop) = (place.server.connect(DATABASE).await.unwrap(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                session.query_drop("UPDATE frail SET n = n + 1").await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    rows_are_written(&place).await;
    let mut taken = Vec::new();
    for lull in
        [LULL, Duration::ZERO, Duration::ZERO, Duration::ZERO, LULL, Duration::ZERO, Duration::ZERO, Duration::ZERO]
    {
        let begun = Instant::now();
        let set =
            take(&Wanted { dialer: &dialer, readers: 3, tables: &plans, lineage: 0, exact: true, lull }).await.unwrap();
        let took = begun.elapsed();
        let reference = set.hold().snapshot();
        let mut open = Vec::new();
        for _ in 0..set.sessions() {
            open.push(Reader::open(&reference).await.unwrap());
        }
        let mut seen = Vec::new();
        for reader in &mut open {
            let mut counts = BTreeMap::new();
            for plan in &plans {
                let rows = chunk(reader, plan, &Bounds::Whole).await.unwrap();
                let count =
                    if plan.source.name == "entry" { rows.len() as u64 } else { column(&rows, 1)[0].parse().unwrap() };
                counts.insert(plan.source.name.clone(), count);
            }
            seen.push(counts);
        }
        println!("{took:?} at {}, {:?}: {seen:?}", reference.position, reference.blur.as_ref().map(|b| &b.tables));
        taken.push((reference, seen));
    }
    stop.store(true, Ordering::Relaxed);
    frail.await.unwrap();
    writers.end().await;
    for (reference, seen) in &taken {
        let until = reference.blur.as_ref().map_or(&reference.position, |b| &b.until);
        assert!(reference.position <= *until);
        for plan in &plans {
            let name = &plan.source.name;
            let (low, high) = (logged(&place, name, &reference.position).await, logged(&place, name, until).await);
            let named = reference.blur.as_ref().is_some_and(|b| b.tables.contains(&plan.id));
            assert_eq!(named, low != high, "{name} was changed between the marks, or was not");
            assert!(!(named && name == "frail"), "it has two unique keys");
            for counts in seen {
                assert!((low..=high).contains(&counts[name]), "{name}: {} rows, not {low} to {high}", counts[name]);
            }
        }
    }
    assert!(taken.iter().any(|(r, _)| r.blur.is_some()), "the writers rest all the time");
    assert!(taken.iter().any(|(r, _)| r.blur.is_none()), "the writers never rest");

    // The stream of a migration goes on behind the position, and cleanup leaves nothing.
    let source = MySource::open(dialer.clone(), 2).await.unwrap();
    let removed = source.cleanup(dialer.settings().migration).await.unwrap();
    assert!(removed.iter().any(|r| r.contains("mark")), "{removed:?}");
    let left = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'drover'";
    assert_eq!(place.server.query_one_text(DATABASE, left).await.unwrap().as_deref(), Some("0"));
    assert!(source.cleanup(dialer.settings().migration).await.unwrap().is_empty(), "there is nothing any more");
}

/// Transactions that become visible in another order than that of the log give no mark a meaning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_need_the_order_of_the_log() {
    let settings = [("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF"), ("binlog-order-commits", "0")];
    let (place, plans) = with_rows(Release::MySql9, &settings).await;
    let dialer = place.account("marks", "REPLICATION CLIENT, REPLICATION SLAVE").await;
    place.exec("GRANT ALL ON drover.* TO marks@'%';").await;
    let Err(error) = take_with(&dialer, 2, &plans).await else { panic!("a snapshot came from nowhere") };
    assert_eq!(error.code, codes::PERMISSION, "{error}");
    // A copy alone has one session, which agrees with itself.
    let set = take(&Wanted { dialer: &dialer, readers: 4, tables: &plans, lineage: 0, exact: false, lull: LULL })
        .await
        .unwrap();
    assert_eq!(set.sessions(), 1);
    let reference = set.hold().snapshot();
    assert!(reference.position.text.starts_with("about "), "{}", reference.position);
    let mut reader = Reader::open(&reference).await.unwrap();
    assert_eq!(chunk(&mut reader, &plans[0], &Bounds::Whole).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_is_exact_on_mysql() {
    position_is_exact(Release::MySql9).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_is_exact_on_mariadb_10() {
    position_is_exact(Release::MariaDb10).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_is_exact_on_mariadb_11() {
    position_is_exact(Release::MariaDb11).await;
}

/// A MariaDB tells sessions of their snapshots in variables that all sessions share: who asks for the status beside us must not mix them up.
async fn position_is_exact_beside_a_monitor(release: Release) {
    let place = Place::start(release, &[]).await;
    place.exec(TABLES).await;
    let plans = place.plans().await;
    let writers = Writers::start(&place.server, 2).await;
    rows_are_written(&place).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut monitors = Vec::new();
    for _ in 0..3 {
        let (mut session, stop) = (place.server.connect(DATABASE).await.unwrap(), stop.clone());
        monitors.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                session.query_drop(r"SHOW GLOBAL STATUS LIKE 'binlog\_snapshot\_%'").await.unwrap();
            }
        }));
    }
    for round in 0..3 {
        println!("{release:?} {round}");
        exact(&place, &place.dialer, 3, &plans).await;
    }
    // A session is asked again whenever it is lent, and must not be taken for lost.
    let set = take_with(&place.dialer, 3, &plans).await.unwrap();
    let reference = set.hold().snapshot();
    for _ in 0..1500 {
        drop(Reader::open(&reference).await.unwrap());
    }
    assert_eq!(set.sessions(), 3);
    stop.store(true, Ordering::Relaxed);
    for monitor in monitors {
        monitor.await.unwrap();
    }
    writers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_is_exact_beside_a_monitor_on_mariadb() {
    for release in [Release::MariaDb10, Release::MariaDb11] {
        position_is_exact_beside_a_monitor(release).await;
    }
}

/// An application's short statements on `entry`, and how long the slowest took.
struct Application {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<Duration>>>,
}

impl Application {
    async fn start(server: &MySql) -> Application {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        let statements = [
            "SELECT COUNT(*) FROM entry WHERE id = 3",
            "INSERT INTO entry (writer, n) VALUES (99, 0)",
            "UPDATE other SET n = n + 1 WHERE id = 1",
        ];
        for sql in statements {
            let mut session = server.connect(DATABASE).await.unwrap();
            let stop = stop.clone();
            tasks.push(tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    session.query_drop(sql).await?;
                    slowest = slowest.max(begun.elapsed());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(slowest)
            }));
        }
        Application { stop, tasks }
    }

    async fn slowest(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut slowest = Duration::ZERO;
        for task in self.tasks {
            slowest = slowest.max(task.await.unwrap().unwrap());
        }
        slowest
    }
}

/// Nobody notices a wait that is shorter, on a machine that is busy with other tests.
const NOTICEABLE: Duration = Duration::from_millis(1500);

/// A statement of an application. Its characters are not in those of `information_schema.PROCESSLIST`, which cannot be asked meanwhile.
const LONG: &str = "SELECT SLEEP(100), '🐑' FROM entry LIMIT 1";

/// A statement that runs until it is killed.
struct Long {
    id: u32,
    task: tokio::task::JoinHandle<()>,
}

impl Long {
    async fn start(place: &Place, sql: &'static str) -> Long {
        let mut session = place.server.connect(DATABASE).await.unwrap();
        let id = session.id();
        let task = tokio::spawn(async move {
            // It is killed in the end, or comes to its own.
            let _ = session.query_drop(sql).await;
        });
        wait::until("the long statement runs", Duration::from_secs(10), || async {
            let busy = place.server.sessions(|_, command| command == "Query").await?;
            Ok(busy.contains(&u64::from(id)).then_some(()))
        })
        .await
        .unwrap();
        Long { id, task }
    }

    async fn end(self, place: &Place) {
        place.exec(&format!("KILL QUERY {};", self.id)).await;
        self.task.await.unwrap();
    }
}

async fn with_rows(release: Release, settings: &[(&str, &str)]) -> (Place, Vec<TablePlan>) {
    let place = Place::start(release, settings).await;
    place.exec(TABLES).await;
    place.exec("INSERT INTO entry (writer, n) VALUES (1, 1), (1, 2), (1, 3);").await;
    let plans = place.plans().await;
    (place, plans)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_reader_holds_nobody_up() {
    for release in Release::ALL {
        let (place, plans) = with_rows(release, &[]).await;
        let long = Long::start(&place, LONG).await;
        let application = Application::start(&place.server).await;
        for _ in 0..3 {
            let begun = Instant::now();
            let set = take_with(&place.dialer, 2, &plans).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "{release:?}: it waited for the reader");
            assert_eq!(set.sessions(), 2);
        }
        let slowest = application.slowest().await;
        assert!(slowest < NOTICEABLE, "{release:?}: a statement of the application took {slowest:?}");
        long.end(&place).await;
    }
}

/// Where only a flush is possible it is not even tried while somebody reads for long: on MySQL new readers of that table would wait for the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_waits_its_turn() {
    let (place, plans) = with_rows(Release::MySql9, &[("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF")]).await;
    let dialer = place.account("flush", "RELOAD, PROCESS, REPLICATION CLIENT, REPLICATION SLAVE").await;
    let long = Long::start(&place, LONG).await;
    let application = Application::start(&place.server).await;
    let taking = {
        let (dialer, plans) = (dialer.clone(), plans.clone());
        tokio::spawn(async move { take_with(&dialer, 2, &plans).await })
    };
    // As long as the reader reads, there is no snapshot and nobody waits.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!taking.is_finished());
    let slowest = application.slowest().await;
    assert!(slowest < NOTICEABLE, "a statement of the application took {slowest:?}");
    long.end(&place).await;
    let set = tokio::time::timeout(Duration::from_secs(30), taking).await.unwrap().unwrap().unwrap();
    assert_eq!(set.sessions(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_holds_nobody_up() {
    for release in Release::ALL {
        let (place, plans) = with_rows(release, &[]).await;
        let mut writer = place.server.connect(DATABASE).await.unwrap();
        writer.query_drop("START TRANSACTION").await.unwrap();
        writer.query_drop("UPDATE entry SET n = 77 WHERE id = 2").await.unwrap();
        let application = Application::start(&place.server).await;
        let set = take_with(&place.dialer, 2, &plans).await.unwrap();
        let slowest = application.slowest().await;
        assert!(slowest < NOTICEABLE, "{release:?}: a statement of the application took {slowest:?}");
        writer.query_drop("COMMIT").await.unwrap();
        // What was not committed then is not in it.
        let mut reader = Reader::open(&set.hold().snapshot()).await.unwrap();
        let n = column(&chunk(&mut reader, &plans[0], &Bounds::Whole).await.unwrap(), 2);
        assert_eq!(&n[..3], ["1", "2", "3"]);
    }
}

/// A long writing statement is what a global lock has to wait for: it is asked for in short tries, and says what it waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_writer_is_waited_for_in_short_tries() {
    for release in [Release::MySql9, Release::MariaDb11] {
        let gtids: &[(&str, &str)] =
            if release.is_mariadb() { &[] } else { &[("gtid-mode", "OFF"), ("enforce-gtid-consistency", "OFF")] };
        let (place, plans) = with_rows(release, gtids).await;
        place.exec("CREATE TABLE third (id int PRIMARY KEY, n int); INSERT INTO third VALUES (1, 1);").await;
        let long = Long::start(&place, "UPDATE third SET n = SLEEP(100)").await;
        let application = Application::start(&place.server).await;
        let taking = {
            let (dialer, plans) = (place.dialer.clone(), place.plans().await);
            tokio::spawn(async move { take_with(&dialer, 3, &plans).await })
        };
        tokio::time::sleep(Duration::from_secs(3)).await;
        let slowest = application.slowest().await;
        assert!(slowest < NOTICEABLE, "{release:?}: a statement of the application took {slowest:?}");
        long.end(&place).await;
        let set = tokio::time::timeout(Duration::from_secs(40), taking).await.unwrap().unwrap().unwrap();
        assert!(set.sessions() > 0);
        drop(plans);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_dies_is_missed_and_the_last_one_takes_the_snapshot_along() {
    for release in [Release::MySql9, Release::MariaDb10] {
        let (place, plans) = with_rows(release, &[]).await;
        let dialer = place.account("reader", "ALL PRIVILEGES").await;
        let set = take_with(&dialer, 3, &plans).await.unwrap();
        let hold = set.hold();
        drop(set);
        let reference = hold.snapshot();
        let mut reader = Reader::open(&reference).await.unwrap();
        assert_eq!(chunk(&mut reader, &plans[0], &Bounds::Whole).await.unwrap().len(), 3);
        drop(reader);
        // One of them dies, and the session that looks at the catalogue: the others go on.
        let mine = wait::until("only what the snapshot needs is left", Duration::from_secs(10), || async {
            let ids = place.server.sessions(|user, _| user == "reader").await?;
            Ok((ids.len() == 4).then_some(ids))
        })
        .await
        .unwrap();
        let mut session = place.server.connect("mysql").await.unwrap();
        let set = drover_connectors_mysql::snapshot::Set::find(&reference).unwrap();
        session.query_drop(format!("KILL {}", mine[0])).await.unwrap();
        session.query_drop(format!("KILL {}", mine[3])).await.unwrap();
        wait::until("the loss is noticed", Duration::from_secs(20), || {
            let left = set.sessions();
            async move { Ok((left == 2).then_some(())) }
        })
        .await
        .unwrap();
        let mut again = Reader::open(&reference).await.unwrap();
        place.exec("INSERT INTO entry (writer, n) VALUES (5, 5);").await;
        assert_eq!(chunk(&mut again, &plans[0], &Bounds::Whole).await.unwrap().len(), 3, "it is the same snapshot");
        drop(again);
        assert!(tokio::time::timeout(Duration::from_millis(50), hold.lost()).await.is_err(), "lost too early");
        let ids = place.server.sessions(|user, _| user == "reader").await.unwrap();
        for id in ids {
            session.query_drop(format!("KILL {id}")).await.unwrap();
        }
        let error = tokio::time::timeout(Duration::from_secs(20), hold.lost()).await.unwrap();
        assert_eq!(error.code, codes::SNAPSHOT_LOST);
        let Err(error) = Reader::open(&reference).await else { panic!("a lost snapshot was read") };
        assert_eq!(error.code, codes::SNAPSHOT_LOST, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_that_is_given_up_leaves_its_session_usable() {
    for release in [Release::MySql9, Release::MariaDb10] {
        let (place, _) = with_rows(release, &[]).await;
        place.exec("CREATE TABLE big (id int PRIMARY KEY, t longtext);").await;
        for i in 0..30 {
            place.exec(&format!("INSERT INTO big VALUES ({i}, REPEAT('x', 3000000));")).await;
        }
        let plan = place.plan("big").await;
        let set = place.take(1).await;
        let reference = set.hold().snapshot();
        let hold = set.hold();
        /// Gives up at its first block.
        struct Stuck;
        #[async_trait::async_trait]
        impl drover_connectors_api::BlockSink for Stuck {
            async fn block(&mut self, _: u64, _: bytes::Bytes) -> drover_model::Result<()> {
                std::future::pending().await
            }
        }
        for _ in 0..2 {
            let mut reader = Reader::open(&reference).await.unwrap();
            let mut stuck = Stuck;
            let read = reader.read(&plan, &Bounds::Whole, &mut stuck);
            assert!(tokio::time::timeout(Duration::from_millis(300), read).await.is_err());
            drop(reader);
            // There is one session only: it must come back, and be on the snapshot still.
            place.exec("INSERT INTO entry (writer, n) VALUES (5, 5);").await;
            let mut reader =
                tokio::time::timeout(Duration::from_secs(20), Reader::open(&reference)).await.unwrap().unwrap();
            let entry = place.plan("entry").await;
            assert_eq!(chunk(&mut reader, &entry, &Bounds::Whole).await.unwrap().len(), 3);
        }
        assert_eq!(set.sessions(), 1);
        drop(hold);
    }
}

/// The application may change a table while a copy is under way elsewhere: it waits for a chunk at most. Who reads the table later is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_do_not_wait_for_the_snapshot() {
    for release in Release::ALL {
        let (place, plans) = with_rows(release, &[]).await;
        let set = place.take(1).await;
        let hold = set.hold();
        let mut reader = Reader::open(&hold.snapshot()).await.unwrap();
        chunk(&mut reader, &plans[0], &Bounds::Whole).await.unwrap();
        reader.plan(&plans[0], 1 << 20, true).await.unwrap();
        let begun = Instant::now();
        let altered = place.exec("SET lock_wait_timeout = 5; ALTER TABLE entry ADD COLUMN later int, ALGORITHM=COPY;");
        tokio::time::timeout(Duration::from_secs(20), altered).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{release:?}: the change waited for the snapshot");
        let mut blocks = Blocks::default();
        match reader.read(&plans[0], &Bounds::Whole, &mut blocks).await {
            Ok(read) => assert_ne!(read.physical, plans[0].physical, "{release:?}"),
            Err(error) => assert_eq!(error.code, codes::TABLE_CHANGED, "{release:?}: {error}"),
        }
        // Another table is read as before, by the same session.
        assert_eq!(chunk(&mut reader, &plans[1], &Bounds::Whole).await.unwrap().len(), 1);
        place.exec("DROP TABLE entry;").await;
        let Err(error) = reader.read(&plans[0], &Bounds::Whole, &mut Blocks::default()).await else {
            panic!("a dropped table was read")
        };
        assert_eq!(error.code, codes::TABLE_CHANGED, "{release:?}: {error}");
    }
}

/// Who may not follow the log, or where there is none, copies from sessions that see one state all the same, if a lock can be had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_log_there_is_a_snapshot_for_a_copy_alone() {
    let (place, plans) = with_rows(Release::MySql9, &[("skip-log-bin", "1")]).await;
    let poor = place.account("poor", "SHOW DATABASES").await;
    let locks = place.account("locks", "LOCK TABLES").await;
    for dialer in [&place.dialer, &locks, &poor] {
        let wanted = |exact| Wanted { dialer, readers: 2, tables: &plans, lineage: 0, exact, lull: LULL };
        let set = take(&wanted(false)).await.unwrap();
        let reference = set.hold().snapshot();
        let hold = set.hold();
        assert_eq!(reference.position.text, "no binary log");
        let mut first = Reader::open(&reference).await.unwrap();
        place.exec("INSERT INTO entry (writer, n) VALUES (5, 5);").await;
        let mut second = Reader::open(&reference).await.unwrap();
        let n = chunk(&mut first, &plans[0], &Bounds::Whole).await.unwrap().len();
        assert_eq!(chunk(&mut second, &plans[0], &Bounds::Whole).await.unwrap().len(), n);
        // A stream could not meet it.
        let Err(error) = take(&wanted(true)).await else { panic!("a position was made up") };
        assert!([codes::CONFIGURATION, codes::PERMISSION].contains(&error.code.as_str()), "{error}");
        drop(hold);
    }
    // With a log that the account may not see.
    let (place, plans) = with_rows(Release::MariaDb10, &[]).await;
    let poor = place.account("poor", "SHOW DATABASES").await;
    let set = take(&Wanted { dialer: &poor, readers: 2, tables: &plans, lineage: 0, exact: false, lull: LULL })
        .await
        .unwrap();
    assert_eq!(set.sessions(), 2);
    let Err(error) =
        take(&Wanted { dialer: &poor, readers: 2, tables: &plans, lineage: 0, exact: true, lull: LULL }).await
    else {
        panic!("a position was made up")
    };
    assert_eq!(error.code, codes::PERMISSION, "{error}");
}
