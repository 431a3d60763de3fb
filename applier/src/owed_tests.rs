//! Rows that are owed, against a log and a destination in memory; the test is coordinator and extractor.

use crate::apply::{Options, Task, apply};
use crate::fake::{FakeDestination, FakeLog, at};
use crate::loop_tests::{Author, ID, Latest, Tx, insert, row, small, task, tx, until, update};
use crate::owed::Creditor;
use async_trait::async_trait;
use drover_log::{Log, Stream};
use drover_model::change::{OldKind, put_delete, put_update};
use drover_model::error::codes;
use drover_model::row::{Cell, cells, put_cell, take_row};
use drover_proto::order::{Owes, Window};
use drover_proto::record::{frame, parse};
use drover_proto::v1::{BulkHead, Owed};
use drover_runtime::CancellationToken;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Hands on what is owed.
struct Desk(mpsc::UnboundedSender<Owes>);

#[async_trait]
impl Creditor for Desk {
    async fn owes(&self, owes: Owes) -> bool {
        self.0.send(owes).is_ok()
    }
}

fn partial(id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_cell(&mut out, Cell::Value(id.to_string().as_bytes()));
    put_cell(&mut out, Cell::Unknown);
    out
}

fn key(id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_cell(&mut out, Cell::Value(id.to_string().as_bytes()));
    out
}

/// A change of key that leaves the value out.
fn moved(out: &mut Vec<u8>, from: u64, to: u64) {
    put_update(out, 0, OldKind::Key);
    out.extend(key(from));
    out.extend(partial(to));
}

/// Table 0 was read at 0 and at 10, table 1 at 0.
fn mixed(
    log: &FakeLog,
    destination: &FakeDestination,
    lease: u64,
    options: Options,
) -> (Task, Latest, mpsc::UnboundedReceiver<Owes>) {
    let windows = vec![Window { low: at(0), high: at(10) }, Window { low: at(0), high: at(0) }];
    let (task, latest) = task(log, destination, windows, options);
    let (desk, asked) = mpsc::unbounded_channel();
    (Task { lease, creditor: Arc::new(Desk(desk)), ..task }, latest, asked)
}

fn load(destination: &FakeDestination, rows: &[(u64, &str)]) {
    let mut state = destination.state.lock().unwrap();
    state.rows.extend(rows.iter().map(|(id, value)| ((0, key(*id)), row(*id, value))));
}

fn has(destination: &FakeDestination, wanted: &[(u64, &str)]) {
    let mut wanted: Vec<_> = wanted.iter().map(|(id, v)| row(*id, v)).collect();
    wanted.sort();
    let state = destination.state.lock().unwrap();
    let mut got: Vec<_> = state.rows.iter().filter(|((t, _), _)| *t == 0).map(|(_, r)| r.clone()).collect();
    got.sort();
    assert_eq!(got, wanted);
    assert_eq!(state.torn, None);
}

/// The keys that are asked for, as numbers.
async fn keys(log: &FakeLog, owes: &Owes) -> Vec<u64> {
    let (first, last) = owes.keys.records.unwrap();
    let mut reader = log.reader(Stream::Bulk(owes.keys.partition), first).await.unwrap();
    let mut found = Vec::new();
    loop {
        let (offset, record) = reader.next().await.unwrap();
        let (head, payload) = parse::<BulkHead>(record).unwrap();
        let ours = Owed { apply: owes.keys.lease, round: owes.round, last: false };
        if head.lease == owes.keys.lease && head.owed == Some(ours) {
            let mut rest = &payload[..];
            while let Some(key) = take_row(&mut rest, 1) {
                let value = cells(key).next().and_then(Cell::value).unwrap();
                found.push(std::str::from_utf8(value).unwrap().parse().unwrap());
            }
        }
        if offset >= last {
            assert_eq!(found.len() as u64, owes.keys.rows);
            found.sort_unstable();
            return found;
        }
    }
}

/// A block of an answer: rows of the source as of 10, or that there is none.
fn answer(log: &FakeLog, owes: &Owes, lease: u64, sequence: u32, last: bool, rows: &[(u64, Option<&str>)]) {
    let mut payload = Vec::new();
    for (id, value) in rows {
        payload.extend(key(*id));
        let row = value.map(|v| row(*id, v));
        put_cell(&mut payload, row.as_deref().map_or(Cell::Null, Cell::Value));
    }
    let head = BulkHead {
        version: 1,
        migration: ID.as_bytes().to_vec().into(),
        table: owes.table,
        lease,
        sequence,
        owed: Some(Owed { apply: owes.keys.lease, round: owes.round, last }),
        ..BulkHead::default()
    };
    log.push(Stream::Bulk(owes.keys.partition), frame(&head, &payload));
}

/// One batch that owes: 5 → 1 and 6 → 2 without their values, and a row of another table in the same transaction.
fn owing(log: &FakeLog) {
    let first: Tx = tx(1, |out| {
        moved(out, 5, 1);
        moved(out, 6, 2);
        insert(out, 1, &row(1, "beside"));
    });
    let rest = [tx(2, |out| update(out, 0, &row(9, "later"))), tx(10, |out| insert(out, 1, &row(2, "end")))];
    let author = Author { log: log.clone(), epoch: 1 };
    author.record(0, &[first]);
    author.record(1, &rest);
    author.record(10, &[tx(11, |out| update(out, 0, &row(1, "strict")))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_owed_is_committed_with_its_change_and_from_one_attempt() {
    let log = FakeLog::default();
    owing(&log);
    // Either none of the transaction is there or all of it, with the rows that it owed.
    let watched = FakeDestination::new(|rows| {
        let beside = rows.contains_key(&(1, key(1)));
        (beside != rows.contains_key(&(0, key(1))) || beside == rows.contains_key(&(0, key(5))))
            .then(|| format!("{rows:?}"))
    });
    load(&watched, &[(5, "five"), (9, "nine"), (2, "from before")]);
    let (task, latest, mut asked) = mixed(&log, &watched, 7, Options { batch_changes: 1, ..small() });
    let extractor = async {
        let owes = asked.recv().await.unwrap();
        assert_eq!((owes.table, owes.keys.lease, keys(&log, &owes).await), (0, 7, vec![1, 2]));
        // Answers to others, an attempt that ends in the middle, one that lost a block; then a whole one, in between.
        answer(&log, &Owes { round: 77, ..owes }, 8, 0, true, &[(1, Some("of another round"))]);
        answer(&log, &Owes { table: 1, ..owes }, 8, 0, true, &[(1, Some("of another table"))]);
        answer(&log, &owes, 9, 0, false, &[(1, Some("half an attempt"))]);
        answer(&log, &owes, 10, 0, false, &[(1, Some("whole"))]);
        answer(&log, &owes, 11, 1, true, &[(2, Some("the end of an attempt"))]);
        assert_eq!(watched.state.lock().unwrap().commits, 0, "nothing may pass what is owed");
        answer(&log, &owes, 10, 1, true, &[(2, None)]);
    };
    let (done, ()) = tokio::join!(until(task, latest, 11), extractor);
    done.unwrap();
    has(&watched, &[(1, "strict"), (9, "later")]);
    // Nothing of it stays in the log.
    let span = log.span(Stream::Bulk(0)).await.unwrap();
    assert_eq!(span.first, span.next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_owes_it_owes_again_under_its_own_lease() {
    let log = FakeLog::default();
    owing(&log);
    let destination = FakeDestination::new(|_| None);
    load(&destination, &[(5, "five"), (9, "nine")]);
    // Killed before the answer, then with the answer there but not committed, then after the commit.
    let mut before = None;
    for lease in [20, 21] {
        let (task, latest, mut asked) = mixed(&log, &destination, lease, small());
        let owes = tokio::select! {
            done = until(task, latest, 11) => panic!("{done:?}"),
            owes = asked.recv() => owes.unwrap(),
        };
        assert_eq!(keys(&log, &owes).await, [1, 2]);
        if let Some(former) = before.replace(owes) {
            // What the dead one asked for comes late: it is not for this one.
            answer(&log, &former, 30, 0, true, &[(1, Some("for the dead")), (2, Some("for the dead"))]);
        }
    }
    destination.state.lock().unwrap().failing = vec![1];
    for (lease, fails) in [(22, true), (23, false)] {
        let (task, latest, mut asked) = mixed(&log, &destination, lease, small());
        let extractor = async {
            let owes = asked.recv().await.unwrap();
            answer(&log, &owes, 40 + lease, 0, true, &[(1, Some("one")), (2, Some("two"))]);
        };
        let (done, ()) = tokio::join!(until(task, latest, if fails { 11 } else { 1 }), extractor);
        assert_eq!(done.is_err(), fails);
    }
    // From here on nothing is owed any more: nobody answers.
    let (task, latest, mut asked) = mixed(&log, &destination, 24, small());
    until(task, latest, 11).await.unwrap();
    assert!(asked.try_recv().is_err());
    has(&destination, &[(1, "strict"), (2, "two"), (9, "later")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_move_on_and_come_back_owe_what_is_left_of_them() {
    let log = FakeLog::default();
    // 5 → 1 → 2; 6 → 3, deleted; 7 → 4, then written whole; 8 → 0 and back, its value unknown: a snapshot between has no row there.
    let txs = [
        tx(1, |out| {
            moved(out, 5, 1);
            moved(out, 6, 3);
            moved(out, 7, 4);
            moved(out, 8, 0);
        }),
        tx(2, |out| {
            moved(out, 1, 2);
            put_delete(out, 0, OldKind::Key);
            out.extend(key(3));
            update(out, 0, &row(4, "four"));
            moved(out, 0, 8);
        }),
        tx(10, |out| insert(out, 1, &row(1, "end"))),
    ];
    let source = BTreeMap::from([(2, "five"), (4, "four"), (8, "eight")]);
    // In one batch, and in one for each transaction.
    for (options, wanted) in [
        (Options::default(), vec![vec![2, 8]]),
        (Options { batch_changes: 1, ..small() }, vec![vec![0, 1, 3, 4], vec![2, 8]]),
    ] {
        let log = if wanted.len() == 1 { log.clone() } else { FakeLog::default() };
        let author = Author { log: log.clone(), epoch: 1 };
        match wanted.len() {
            1 => author.record(0, &txs),
            _ => txs.iter().zip([0, 1, 2]).for_each(|(t, from)| author.record(from, std::slice::from_ref(t))),
        }
        let destination = FakeDestination::new(|_| None);
        load(&destination, &[(5, "five"), (6, "six"), (7, "seven"), (8, "eight")]);
        let (task, latest, mut asked) = mixed(&log, &destination, 7, options);
        let extractor = async {
            for wanted in wanted {
                let owes = asked.recv().await.unwrap();
                let keys = keys(&log, &owes).await;
                assert_eq!(keys, wanted);
                let rows: Vec<_> = keys.iter().map(|k| (*k, source.get(k).copied())).collect();
                answer(&log, &owes, 60 + u64::from(owes.round), 0, true, &rows);
            }
        };
        let (done, ()) = tokio::join!(until(task, latest, 10), extractor);
        done.unwrap();
        has(&destination, &[(2, "five"), (4, "four"), (8, "eight")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_transaction_pays_piece_by_piece_and_commits_once() {
    let log = FakeLog::default();
    let author = Author { log: log.clone(), epoch: 1 };
    let (_, whole) = tx(1, |out| {
        moved(out, 5, 1);
        moved(out, 6, 2);
    });
    let (_, empty) = tx(1, |_| {});
    let one = (whole.len() - empty.len()) / 2;
    let head = empty.len() - 1;
    author.piece(1, 0, false, &whole[..head + one]);
    author.piece(1, 1, true, &whole[head + one..]);
    author.record(1, &[tx(10, |out| insert(out, 1, &row(1, "end")))]);
    let destination = FakeDestination::new(|rows| {
        let both = [1, 2].map(|k| rows.contains_key(&(0, key(k))));
        (both[0] != both[1]).then(|| format!("{rows:?}"))
    });
    load(&destination, &[(5, "five"), (6, "six")]);
    let (task, latest, mut asked) = mixed(&log, &destination, 7, small());
    let extractor = async {
        for (key, value) in [(1, "five"), (2, "six")] {
            let owes = asked.recv().await.unwrap();
            assert_eq!(keys(&log, &owes).await, [key]);
            answer(&log, &owes, 9, 0, true, &[(key, Some(value))]);
        }
    };
    let (done, ()) = tokio::join!(until(task, latest, 10), extractor);
    done.unwrap();
    has(&destination, &[(1, "five"), (2, "six")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_rows_stops_at_once() {
    let log = FakeLog::default();
    owing(&log);
    let destination = FakeDestination::new(|_| None);
    load(&destination, &[(5, "five"), (9, "nine")]);
    let (task, _latest, mut asked) =
        mixed(&log, &destination, 7, Options { grace: std::time::Duration::from_secs(600), ..small() });
    let cancel = CancellationToken::new();
    let running = tokio::spawn(apply(task, cancel.clone()));
    asked.recv().await.unwrap();
    cancel.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), running).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().code, codes::FENCED, "its order is cancelled: nobody reads the error");
    assert_eq!(destination.state.lock().unwrap().commits, 0);
}
