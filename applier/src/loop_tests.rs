//! The loop, loading and the worker against a log and a destination in memory.

use crate::apply::{Options, Task, apply};
use crate::compact::tests::plan;
use crate::fake::{FakeDestination, FakeLog, at};
use crate::load::{Chunk, Loaded, load};
use crate::owed::Creditor;
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::Destination;
use drover_log::Stream;
use drover_model::change::{Begin, OldKind, put_begin, put_end, put_insert, put_update};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::row::{Cell, cells, put_cell};
use drover_model::{Error, MigrationId, Result, Retry};
use drover_proto::order::{Description, Extent, Owes, Progress, Window};
use drover_proto::record::frame;
use drover_proto::v1::{BulkHead, ChangesHead};
use drover_runtime::CancellationToken;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const ID: MigrationId = MigrationId::from_u128(5);
const ACCOUNTS: u64 = 40;

pub(crate) fn description() -> Arc<Description> {
    let text = "name = \"shop\"\n[source]\nkind = \"a\"\nurl = \"a://app@127.0.0.1:1/shop\"\n\
                [destination]\nkind = \"a\"\nurl = \"a://app@127.0.0.1:2/shop\"\n";
    let migration = Migration::parse(text, Path::new("shop.toml"), &["a"]).unwrap();
    Arc::new(Description {
        id: ID,
        revision: 1,
        migration,
        catalog: None,
        plans: vec![plan(0, 2, &[0]), plan(1, 2, &[0])].into(),
        objects: Arc::default(),
        bulk_partitions: 1,
        adopted: false,
        schema_changes: vec![],
    })
}

pub(crate) fn row(id: u64, value: impl ToString) -> Vec<u8> {
    let mut out = Vec::new();
    put_cell(&mut out, Cell::Value(id.to_string().as_bytes()));
    put_cell(&mut out, Cell::Value(value.to_string().as_bytes()));
    out
}

/// Writes records as an extractor would.
pub(crate) struct Author {
    pub log: FakeLog,
    pub epoch: u64,
}

pub(crate) type Tx = (u64, Vec<u8>);

pub(crate) fn tx(place: u64, changes: impl FnOnce(&mut Vec<u8>)) -> Tx {
    let mut out = Vec::new();
    put_begin(&mut out, &Begin { position: at(place), commit_micros: place as i64 });
    changes(&mut out);
    put_end(&mut out);
    (place, out)
}

pub(crate) fn insert(out: &mut Vec<u8>, table: u32, row: &[u8]) {
    put_insert(out, table);
    out.extend_from_slice(row);
}

pub(crate) fn update(out: &mut Vec<u8>, table: u32, row: &[u8]) {
    put_update(out, table, OldKind::None);
    out.extend_from_slice(row);
}

impl Author {
    fn head(&self, from: u64, to: u64) -> ChangesHead {
        ChangesHead {
            version: 1,
            migration: ID.as_bytes().to_vec().into(),
            epoch: self.epoch,
            from: at(from).to_bytes().into(),
            to: at(to).to_bytes().into(),
            commit_micros: to as i64,
            ..Default::default()
        }
    }
    pub(crate) fn record(&self, from: u64, txs: &[Tx]) {
        let to = txs.last().map_or(from, |t| t.0);
        let payload: Vec<u8> = txs.iter().flat_map(|t| t.1.clone()).collect();
        let head = ChangesHead { transactions: txs.len() as u32, changes: txs.len() as u64, ..self.head(from, to) };
        self.log.push(Stream::Changes, frame(&head, &payload));
    }
    pub(crate) fn piece(&self, to: u64, piece: u32, last: bool, payload: &[u8]) {
        let head = ChangesHead { pieces: true, piece, last_piece: last, changes: 1, ..self.head(to - 1, to) };
        self.log.push(Stream::Changes, frame(&head, payload));
    }
    /// A transaction in pieces, each with such changes.
    pub(crate) fn huge(&self, to: u64, pieces: &[&dyn Fn(&mut Vec<u8>)]) {
        self.some_of(to, pieces, pieces.len());
    }
    /// Its first pieces.
    pub(crate) fn some_of(&self, to: u64, pieces: &[&dyn Fn(&mut Vec<u8>)], upto: usize) {
        let (_, bare) = tx(to, |_| {});
        let (begin, end) = bare.split_at(bare.len() - 1);
        for (n, changes) in pieces.iter().enumerate().take(upto) {
            let (first, last) = (n == 0, n + 1 == pieces.len());
            let mut payload = if first { begin.to_vec() } else { Vec::new() };
            changes(&mut payload);
            payload.extend_from_slice(if last { end } else { &[] });
            self.piece(to, n as u32, last, &payload);
        }
    }
}

/// Transfers between accounts: transaction 1 opens them all, every later one moves money between two.
fn bank(n: u64) -> (Vec<Tx>, BTreeMap<u64, i64>) {
    let mut accounts: BTreeMap<u64, i64> = (0..ACCOUNTS).map(|i| (i, 100)).collect();
    let mut txs = vec![tx(1, |out| accounts.iter().for_each(|(i, v)| insert(out, 0, &row(*i, v))))];
    let mut seed = 99u64;
    for place in 2..=n {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
        let (a, b) = ((seed >> 33) % ACCOUNTS, (seed >> 41) % ACCOUNTS);
        txs.push(tx(place, |out| {
            for (account, by) in [(a, -1), (b, 1)] {
                *accounts.get_mut(&account).unwrap() += by;
                update(out, 0, &row(account, accounts[&account]));
            }
        }));
    }
    (txs, accounts)
}

fn sum_is_constant(rows: &BTreeMap<(u32, Vec<u8>), Vec<u8>>) -> Option<String> {
    let value = |r: &Vec<u8>| -> i64 {
        let cell = cells(r).nth(1).unwrap().value().unwrap().to_vec();
        String::from_utf8(cell).unwrap().parse().unwrap_or(0)
    };
    let sum: i64 = rows.iter().filter(|((t, _), _)| *t == 0).map(|(_, r)| value(r)).sum();
    (sum != 0 && sum != 100 * ACCOUNTS as i64).then(|| format!("the sum is {sum}"))
}

pub(crate) fn task(
    log: &FakeLog,
    destination: &FakeDestination,
    windows: Vec<Window>,
    options: Options,
) -> (Task, Latest) {
    let latest = Latest::default();
    let told = latest.clone();
    let task = Task {
        description: description(),
        destination: Arc::new(destination.clone()),
        log: Arc::new(log.clone()),
        start: at(0),
        windows,
        options,
        tell: Arc::new(move |progress| *told.lock().unwrap() = Some(progress)),
        lease: 1,
        creditor: Arc::new(Nothing),
    };
    (task, latest)
}

/// For tests in which nothing is owed.
struct Nothing;

#[async_trait]
impl Creditor for Nothing {
    async fn owes(&self, owes: Owes) -> bool {
        panic!("{owes:?}")
    }
}

pub(crate) type Latest = Arc<Mutex<Option<Progress>>>;

/// Small batches, so that many run side by side.
pub(crate) fn small() -> Options {
    Options { batch_changes: 3, patience: Duration::from_millis(150), ..Options::default() }
}

/// Applies until everything up to `to` is durably applied; gives the last news.
pub(crate) async fn until(task: Task, latest: Latest, to: u64) -> Result<Progress> {
    let cancel = CancellationToken::new();
    let mut running = Box::pin(apply(task, cancel.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut last = None;
    let mut look = tokio::time::interval(Duration::from_millis(2));
    loop {
        tokio::select! {
            ended = &mut running => {
                ended?;
                return Err(Error::internal("it ended by itself"));
            }
            _ = look.tick() => {
                assert!(tokio::time::Instant::now() < deadline, "not applied in time: {last:?}");
                last = latest.lock().unwrap().take().or(last);
                if matches!(&last, Some(Progress::Apply { applied, .. }) if *applied >= at(to)) {
                    cancel.cancel();
                    running.await?;
                    return Ok(last.unwrap());
                }
            }
        }
    }
}

fn check(destination: &FakeDestination, accounts: &BTreeMap<u64, i64>) {
    let state = destination.state.lock().unwrap();
    assert_eq!(state.torn, None);
    let wanted: Vec<Vec<u8>> = {
        let mut rows: Vec<_> = accounts.iter().map(|(i, v)| row(*i, v)).collect();
        rows.sort();
        rows
    };
    let mut got: Vec<Vec<u8>> = state.rows.iter().filter(|((t, _), _)| *t == 0).map(|(_, r)| r.clone()).collect();
    got.sort();
    assert_eq!(got, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_applied_in_parallel_and_read_in_order() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    let (txs, accounts) = bank(400);
    for (i, chunk) in txs.chunks(2).enumerate() {
        author.record(i as u64 * 2, chunk);
        // Published again, cut otherwise, and by a dead one.
        if i % 7 == 3 {
            author.record(i as u64 * 2 - 1, &txs[i * 2 - 1..i * 2 + 1]);
            Author { log: log.clone(), epoch: 0 }.record(0, &txs[..1]);
        }
    }
    let destination = FakeDestination::new(sum_is_constant);
    let (task, latest) = task(&log, &destination, vec![], small());
    let news = until(task, latest, 400).await.unwrap();
    check(&destination, &accounts);
    let Progress::Apply { consistent, .. } = news else { panic!("{news:?}") };
    assert!(consistent);
    let state = destination.state.lock().unwrap();
    assert!(state.most_open > 1, "batches ran beside each other: {}", state.most_open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_goes_on_where_it_was() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    let (txs, accounts) = bank(300);
    for (i, chunk) in txs.chunks(3).enumerate() {
        author.record(i as u64 * 3, chunk);
    }
    let destination = FakeDestination::new(sum_is_constant);
    let mut kills = 0;
    loop {
        let target = destination.state.lock().unwrap().commits + 1;
        let (task, latest) = task(&log, &destination, vec![], small());
        let commits = async {
            while destination.state.lock().unwrap().commits < target {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            done = until(task, latest, 300) => {
                done.unwrap();
                break;
            }
            () = commits => kills += 1,
        }
    }
    assert!(kills >= 3, "{kills}");
    check(&destination, &accounts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_ends_the_order_and_the_next_one_goes_on() {
    let log = FakeLog::default();
    let (txs, accounts) = bank(60);
    Author { log: log.clone(), epoch: 1 }.record(0, &txs[..30]);
    Author { log: log.clone(), epoch: 1 }.record(30, &txs[30..]);
    let destination = FakeDestination::new(sum_is_constant);
    destination.state.lock().unwrap().failing = vec![2];
    let (first, latest) = task(&log, &destination, vec![], small());
    assert_eq!(until(first, latest, 60).await.unwrap_err().code, codes::CONNECTION);
    let (second, latest) = task(&log, &destination, vec![], small());
    until(second, latest, 60).await.unwrap();
    check(&destination, &accounts);
}

/// A session that is opened after a crash knows nothing of it: it commits behind what the crash took.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_lost_commits_is_gone_on_with_from_where_it_stands() {
    let log = FakeLog::default();
    let (txs, accounts) = bank(60);
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &txs[..10]);
    let destination = FakeDestination::new(sum_is_constant);
    let (first, latest) = task(&log, &destination, vec![], small());
    until(first, latest, 10).await.unwrap();
    let (rows, position) = {
        let state = destination.state.lock().unwrap();
        (state.rows.clone(), state.position.clone())
    };
    author.record(10, &txs[10..30]);
    let (second, latest) = task(&log, &destination, vec![], small());
    let cancel = CancellationToken::new();
    let running = tokio::spawn(apply(second, cancel));
    let applied = || matches!(&*latest.lock().unwrap(), Some(Progress::Apply { applied, .. }) if *applied == at(30));
    while !applied() {
        tokio::task::yield_now().await;
    }
    {
        let mut state = destination.state.lock().unwrap();
        (state.rows, state.position) = (rows, position);
    }
    author.record(30, &txs[30..]);
    let ended = running.await.unwrap().unwrap_err();
    assert_eq!((ended.code.as_str(), ended.retry), (codes::CONNECTION, Retry::Connection), "{ended}");
    let (third, latest) = task(&log, &destination, vec![], small());
    until(third, latest, 60).await.unwrap();
    check(&destination, &accounts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_lost_the_destination_is_fenced() {
    let log = FakeLog::default();
    let (txs, accounts) = bank(10);
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &txs[..5]);
    let destination = FakeDestination::new(sum_is_constant);
    let (old, latest) = task(&log, &destination, vec![], small());
    let frozen = tokio::spawn(apply(old, CancellationToken::new()));
    let applied = || matches!(&*latest.lock().unwrap(), Some(Progress::Apply { applied, .. }) if *applied == at(5));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !applied() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    destination.take_over(ID).await.unwrap();
    author.record(5, &txs[5..]);
    assert_eq!(frozen.await.unwrap().unwrap_err().code, codes::FENCED);
    let (new, latest) = task(&log, &destination, vec![], small());
    until(new, latest, 10).await.unwrap();
    check(&destination, &accounts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_batch_that_holds_up_the_head_gives_way() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &[tx(1, |out| insert(out, 1, &row(1, "first")))]);
    author.record(1, &[tx(2, |out| insert(out, 1, &row(2, "second")))]);
    let destination = FakeDestination::new(|_| None);
    let (task, latest) = task(&log, &destination, vec![], Options { batch_changes: 1, ..small() });
    until(task, latest, 2).await.unwrap();
    let state = destination.state.lock().unwrap();
    assert_eq!((state.rows.len(), state.commits, state.rollbacks, state.cancels), (2, 2, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_batch_that_hangs_in_a_statement_is_broken_off() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &[tx(1, |out| insert(out, 1, &row(1, "first")))]);
    author.record(1, &[tx(2, |out| insert(out, 1, &row(2, "hangs")))]);
    let destination = FakeDestination::new(|_| None);
    let (task, latest) = task(&log, &destination, vec![], Options { batch_changes: 1, ..small() });
    until(task, latest, 2).await.unwrap();
    let state = destination.state.lock().unwrap();
    assert_eq!((state.rows.len(), state.commits, state.rollbacks, state.cancels), (2, 2, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_that_come_whole_after_all_are_forgotten() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    let (_, whole) = tx(2, |out| insert(out, 1, &row(2, "b")));
    author.record(0, &[tx(1, |out| insert(out, 1, &row(1, "a")))]);
    author.piece(2, 0, false, &whole[..whole.len() - 1]);
    let destination = FakeDestination::new(|_| None);
    let (task, latest) = task(&log, &destination, vec![], small());
    let applied = until(task, latest, 3);
    let publish = async {
        // The piece is being executed when the other extractor comes.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while destination.state.lock().unwrap().most_open == 0 || destination.state.lock().unwrap().commits == 0 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        let next = Author { log: log.clone(), epoch: 2 };
        next.record(1, &[tx(2, |out| insert(out, 1, &row(2, "b"))), tx(3, |out| insert(out, 1, &row(3, "c")))]);
    };
    let (done, ()) = tokio::join!(applied, publish);
    done.unwrap();
    assert_eq!(destination.state.lock().unwrap().rows.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_transaction_is_one_and_begins_again_with_its_extractor() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &[tx(1, |out| insert(out, 1, &row(900, "x")))]);
    let (_, whole) = tx(2, |out| (0..6).for_each(|i| insert(out, 1, &row(i, i))));
    // Cut at change boundaries: the head, then the changes, which are all equally long, then the end.
    let (_, head) = tx(2, |_| {});
    let body = &whole[head.len() - 1..];
    let one = (body.len() - 1) / 6;
    let cut = |from: usize, to: usize| [&whole[..head.len() - 1], &body[from * one..to * one]].concat();
    author.piece(2, 0, false, &cut(0, 2));
    author.piece(2, 1, false, &body[2 * one..3 * one]);
    // The extractor died; another begins the transaction again and cuts it otherwise. A record of the dead one slips in.
    let next = Author { log: log.clone(), epoch: 2 };
    next.piece(2, 0, false, &cut(0, 4));
    author.piece(2, 2, true, &body[3 * one..]);
    next.piece(2, 1, true, &body[4 * one..]);
    next.record(2, &[tx(3, |out| insert(out, 1, &row(901, "y")))]);
    let whole_or_nothing = |rows: &BTreeMap<(u32, Vec<u8>), Vec<u8>>| {
        (![1, 7, 8].contains(&rows.len())).then(|| format!("{} rows", rows.len()))
    };
    let destination = FakeDestination::new(whole_or_nothing);
    let (task, latest) = task(&log, &destination, vec![], small());
    until(task, latest, 3).await.unwrap();
    let state = destination.state.lock().unwrap();
    assert_eq!((state.rows.len(), state.commits, state.torn.clone()), (8, 3, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_huge_transaction_goes_on_behind_a_piece_that_failed() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &[tx(1, |out| [1, 2].iter().for_each(|i| insert(out, 0, &row(*i, "x"))))]);
    let (_, head) = tx(2, |_| {});
    // Fails set-wise, and succeeds in the source's order.
    let (_, first) = tx(2, |out| [1, 2].iter().for_each(|i| update(out, 0, &row(*i, "collides"))));
    author.piece(2, 0, false, &first[..first.len() - 1]);
    for i in 1..20 {
        let (_, whole) = tx(2, |out| insert(out, 1, &row(u64::from(i), i)));
        let end = whole.len() - usize::from(i < 19);
        author.piece(2, i, i == 19, &whole[head.len() - 1..end]);
    }
    let destination = FakeDestination::new(|_| None);
    let (task, latest) = task(&log, &destination, vec![], small());
    until(task, latest, 2).await.unwrap();
    // The first transaction, the piece that fails, then all of it; those behind were at hand when it failed.
    let state = destination.state.lock().unwrap();
    assert_eq!((state.rows.len(), state.commits, state.executed), (21, 2, 1 + 1 + 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_decide_what_is_dropped_and_what_is_tolerated() {
    let log = FakeLog::default();
    // Table 0 was copied at 2 (with both changes), table 1 half at 0, half at 2.
    let txs: Vec<Tx> = vec![
        tx(1, |out| insert(out, 0, &row(1, "a"))),
        tx(2, |out| {
            insert(out, 0, &row(2, "b"));
            insert(out, 1, &row(1, "c"));
            insert(out, 1, &row(2, "d"));
        }),
        tx(3, |out| {
            update(out, 0, &row(1, "e"));
            update(out, 1, &row(2, "f"));
        }),
    ];
    Author { log: log.clone(), epoch: 1 }.record(0, &txs);
    let destination = FakeDestination::new(|_| None);
    for (t, r) in [(0, row(1, "a")), (0, row(2, "b")), (1, row(2, "d"))] {
        let mut key = Vec::new();
        cells(&r).take(1).for_each(|c| put_cell(&mut key, c));
        destination.state.lock().unwrap().rows.insert((t, key), r);
    }
    let windows = vec![Window { low: at(2), high: at(2) }, Window { low: at(0), high: at(2) }];
    let (task, latest) = task(&log, &destination, windows, Options::default());
    until(task, latest, 3).await.unwrap();
    let got: Vec<Vec<u8>> = destination.state.lock().unwrap().rows.values().cloned().collect();
    assert_eq!(got, [row(1, "e"), row(2, "b"), row(1, "c"), row(2, "f")]);
}

fn block(log: &FakeLog, lease: u64, sequence: u32, rows: u64) -> u64 {
    let head = BulkHead {
        version: 1,
        migration: ID.as_bytes().to_vec().into(),
        table: 0,
        generation: 0,
        chunk: 4,
        lease,
        sequence,
        rows,
        plan_version: 1,
        compression: 0,
        owed: None,
    };
    log.push(Stream::Bulk(0), frame(&head, format!("{lease}/{sequence}").as_bytes()))
}

#[tokio::test]
async fn a_chunk_is_loaded_from_its_own_records_once() {
    let log = FakeLog::default();
    let first = block(&log, 7, 0, 10);
    block(&log, 6, 1, 99);
    let middle = block(&log, 7, 1, 10);
    let last = block(&log, 7, 2, 5);
    let destination = FakeDestination::new(|_| None);
    let extent = Extent { partition: 0, records: Some((first, last)), rows: 25, bytes: 0, lease: 7 };
    let description = description();
    let run = async |extent: Extent| {
        let chunk = Chunk { migration: ID, plan: &description.plans[0], generation: 0, chunk: 4, extent };
        let mut loader = destination.loader(ID).await.unwrap();
        load(&log, &mut *loader, &chunk, &|_, _| {}).await
    };
    assert_eq!(run(Extent { rows: 24, ..extent }).await.unwrap_err().code, codes::LOG);
    for _ in 0..2 {
        assert_eq!(run(extent).await, Ok(Loaded::Rows(25)));
    }
    let blocks = destination.state.lock().unwrap().loaded.remove(&(0, 4)).unwrap();
    assert_eq!(blocks, [Bytes::from("7/0"), Bytes::from("7/1"), Bytes::from("7/2")]);
    log.forget(Stream::Bulk(0), middle);
    assert_eq!(run(extent).await.unwrap_err().code, codes::LOG, "a block is missing");
    log.forget(Stream::Bulk(0), last);
    assert_eq!(run(extent).await, Ok(Loaded::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_collides_set_wise_is_executed_in_the_sources_order() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    let opening = tx(1, |out| (0..6).for_each(|i| insert(out, 0, &row(i, i))));
    let both = tx(2, |out| [1, 2].iter().for_each(|i| update(out, 0, &row(*i, "collides"))));
    let more = tx(3, |out| update(out, 0, &row(3, "fine")));
    author.record(0, &[opening, both, more]);
    // The same in a huge transaction, of which a piece collides.
    let (_, whole) = tx(4, |out| [3, 4, 5].iter().for_each(|i| update(out, 0, &row(*i, "collides"))));
    let (_, empty) = tx(4, |_| {});
    let change = (whole.len() - empty.len()) / 3;
    let cut = empty.len() - 1 + change;
    author.piece(4, 0, false, &whole[..cut]);
    author.piece(4, 1, true, &whole[cut..]);
    author.record(4, &[tx(5, |out| update(out, 0, &row(1, "end")))]);
    let destination = FakeDestination::new(|_| None);
    let (task, latest) = task(&log, &destination, vec![], Options::default());
    let last = until(task, latest, 5).await.unwrap();
    // The order began where it began, whatever it took.
    assert!(matches!(last, Progress::Apply { from: Some(from), .. } if from == at(0)));
    let rows = destination.state.lock().unwrap().rows.clone();
    let wanted =
        [row(0, 0), row(1, "end"), row(2, "collides"), row(3, "collides"), row(4, "collides"), row(5, "collides")];
    assert_eq!(rows.into_values().collect::<Vec<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_in_the_sources_order_as_well_ends_the_order() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &[tx(1, |out| insert(out, 0, &row(1, "a"))), tx(2, |out| update(out, 0, &row(9, "nowhere")))]);
    let destination = FakeDestination::new(|_| None);
    let (task, latest) = task(&log, &destination, vec![], Options::default());
    let error = until(task, latest, 2).await.unwrap_err();
    assert_eq!(error.code, codes::ROW_COUNT);
}
