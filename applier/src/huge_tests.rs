//! Huge transactions beside each other and beside batches, against a log and a destination in memory.

use crate::apply::Options;
use crate::fake::{FakeDestination, FakeLog, at};
use crate::loop_tests::{Author, insert, row, small, task, tx, until, update};
use drover_proto::order::Progress;
use std::collections::BTreeMap;
use std::time::Duration;

type Rows = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

/// Inserts rows of table 0 with a value.
fn rows(ids: std::ops::Range<u64>, value: &'static str) -> impl Fn(&mut Vec<u8>) {
    move |out| ids.clone().for_each(|id| insert(out, 0, &row(id, value)))
}

/// Updates them.
fn updates(ids: std::ops::Range<u64>, value: &'static str) -> impl Fn(&mut Vec<u8>) {
    move |out| ids.clone().for_each(|id| update(out, 0, &row(id, value)))
}

fn author() -> (FakeLog, Author) {
    let log = FakeLog::default();
    (log.clone(), Author { log, epoch: 1 })
}

/// Only such numbers of rows are ever seen.
fn counts(counts: &'static [usize]) -> impl Fn(&Rows) -> Option<String> {
    move |rows| (!counts.contains(&rows.len())).then(|| format!("{} rows", rows.len()))
}

fn values(destination: &FakeDestination) -> Vec<Vec<u8>> {
    let state = destination.state.lock().unwrap();
    assert_eq!(state.torn, None);
    state.rows.values().cloned().collect()
}

/// Room for all pieces, for some, for less than one: then all are read again. Nobody is impatient, however slow the machine is.
fn rooms() -> [Options; 3] {
    [3 << 20, 40, 1].map(|pieces| Options { pieces, patience: Duration::from_secs(60), ..small() })
}

/// The same, impatient.
fn impatient() -> [Options; 3] {
    rooms().map(|options| Options { patience: Duration::from_millis(500), ..options })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_without_common_keys_run_beside_each_other_and_commit_in_order() {
    for options in rooms() {
        let (log, author) = author();
        // Neither comes to its end unless the other has come so far; then a third one.
        author.huge(1, &[&rows(0..2, "a"), &rows(2..3, "meets"), &rows(3..6, "a")]);
        author.huge(2, &[&rows(10..11, "b"), &rows(11..12, "meets"), &rows(12..14, "b"), &rows(14..15, "b")]);
        author.huge(3, &[&rows(20..21, "c"), &rows(21..22, "c"), &updates(20..22, "d")]);
        author.record(3, &[tx(4, |out| insert(out, 1, &row(1, "e")))]);
        let destination = FakeDestination::new(counts(&[6, 11, 13, 14]));
        let (task, latest) = task(&log, &destination, vec![], options);
        let news = until(task, latest, 4).await.unwrap();
        assert_eq!(values(&destination).len(), 14);
        let Progress::Apply { rows, transactions, .. } = news else { panic!("{news:?}") };
        assert_eq!((rows, transactions), (6 + 5 + 4 + 1, 4));
        let state = destination.state.lock().unwrap();
        // Each piece was executed once.
        assert_eq!((state.commits, state.rollbacks, state.executed), (4, 0, 3 + 4 + 3 + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_run_beside_one_before_them() {
    for options in rooms() {
        let (log, author) = author();
        author.record(0, &[tx(1, |out| insert(out, 1, &row(1, "x")))]);
        author.huge(2, &[&rows(0..2, "a"), &rows(2..3, "meets"), &rows(3..6, "a")]);
        author.record(2, &[tx(3, |out| insert(out, 0, &row(9, "meets")))]);
        author.record(3, &[tx(4, |out| update(out, 0, &row(5, "after")))]);
        let destination = FakeDestination::new(counts(&[1, 7, 8]));
        let (task, latest) = task(&log, &destination, vec![], Options { batch_changes: 1, ..options });
        until(task, latest, 4).await.unwrap();
        let values = values(&destination);
        assert!(values.len() == 8 && values.contains(&row(5, "after")), "{values:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_with_a_key_in_common_run_one_after_the_other() {
    for options in rooms() {
        let (log, author) = author();
        author.huge(1, &[&rows(0..2, "a"), &rows(2..4, "a"), &rows(4..6, "a")]);
        // Only its last piece has something of the first one.
        author.huge(2, &[&rows(10..12, "b"), &rows(12..13, "b"), &updates(4..5, "b")]);
        let destination = FakeDestination::new(counts(&[6, 9]));
        let (task, latest) = task(&log, &destination, vec![], options);
        until(task, latest, 2).await.unwrap();
        let values = values(&destination);
        assert!(values.contains(&row(4, "b")) && values.contains(&row(5, "a")), "{values:?}");
        let state = destination.state.lock().unwrap();
        assert_eq!((state.most_open, state.commits, state.rollbacks, state.executed), (1, 2, 0, 6));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_too_many_keys_runs_alone() {
    for options in rooms() {
        // Room for four keys: the first has six, the second four, and the third eight.
        let (log, author) = author();
        author.huge(1, &[&rows(0..2, "a"), &rows(2..4, "a"), &rows(4..5, "a"), &rows(5..6, "a")]);
        author.huge(2, &[&rows(10..12, "b"), &rows(12..14, "b"), &updates(10..14, "b")]);
        author.huge(3, &[&rows(20..26, "c"), &rows(26..28, "c")]);
        author.record(3, &[tx(4, |out| insert(out, 1, &row(1, "d")))]);
        let destination = FakeDestination::new(counts(&[6, 10, 18, 19]));
        let options = Options { keys: 4 * 8, memory: 100, ..options };
        let (task, latest) = task(&log, &destination, vec![], options);
        until(task, latest, 4).await.unwrap();
        assert_eq!(values(&destination).len(), 19);
        let state = destination.state.lock().unwrap();
        assert_eq!((state.most_open, state.commits, state.rollbacks, state.executed), (1, 4, 0, 4 + 3 + 2 + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_holds_up_the_one_before_gives_way_and_is_read_again() {
    for options in impatient() {
        let (log, author) = author();
        // The first waits for a lock that the second one has.
        author.huge(1, &[&rows(0..2, "a"), &rows(2..3, "first"), &rows(3..6, "a")]);
        author.huge(2, &[&rows(10..11, "b"), &rows(11..12, "second"), &rows(12..15, "b"), &rows(15..16, "b")]);
        let destination = FakeDestination::new(counts(&[6, 12]));
        let (task, latest) = task(&log, &destination, vec![], options);
        until(task, latest, 2).await.unwrap();
        assert_eq!(values(&destination).len(), 12);
        let state = destination.state.lock().unwrap();
        assert_eq!((state.commits, state.rollbacks), (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_behind_the_first_is_broken_off_in_mid_piece() {
    for options in impatient() {
        let (log, author) = author();
        author.huge(1, &[&rows(0..2, "a"), &rows(2..3, "first"), &rows(3..6, "a")]);
        author.huge(2, &[&rows(10..11, "b"), &rows(11..12, "hangs"), &rows(12..15, "b"), &rows(15..16, "b")]);
        let destination = FakeDestination::new(counts(&[6, 12]));
        let (task, latest) = task(&log, &destination, vec![], options);
        until(task, latest, 2).await.unwrap();
        assert_eq!(values(&destination).len(), 12);
        let state = destination.state.lock().unwrap();
        assert_eq!((state.commits, state.rollbacks, state.cancels), (2, 1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_collides_beside_another_is_executed_in_order_as_the_first() {
    for options in rooms() {
        let (log, author) = author();
        author.record(0, &[tx(1, rows(0..4, "x"))]);
        author.huge(2, &[&rows(10..12, "a"), &rows(12..14, "a")]);
        author.huge(3, &[&rows(20..21, "b"), &updates(0..2, "collides"), &updates(2..4, "collides")]);
        let destination = FakeDestination::new(counts(&[4, 8, 9]));
        let (task, latest) = task(&log, &destination, vec![], options);
        until(task, latest, 3).await.unwrap();
        let values = values(&destination);
        assert_eq!(values.iter().filter(|v| (0..4).any(|i| **v == row(i, "collides"))).count(), 4, "{values:?}");
        let state = destination.state.lock().unwrap();
        assert_eq!(state.commits, 3);
    }
}

/// The second one's extractor dies in mid-transaction while the first one is executed; its successor cuts it otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_that_come_anew_beside_another_replace_what_came() {
    for options in rooms() {
        for whole in [false, true] {
            let (log, author) = author();
            author.huge(1, &[&rows(0..2, "a"), &rows(2..3, "meets"), &rows(3..6, "a")]);
            author.some_of(2, &[&rows(10..12, "b"), &rows(12..13, "b"), &rows(13..14, "meets")], 2);
            let next = Author { log: log.clone(), epoch: 2 };
            let changes = |out: &mut Vec<u8>| {
                rows(10..13, "b")(out);
                rows(13..14, "meets")(out);
            };
            if whole {
                next.record(1, &[tx(2, changes)]);
            } else {
                next.some_of(2, &[&rows(10..11, "b"), &changes], 1);
                author.piece(2, 2, true, &[]);
                let last = Author { log: log.clone(), epoch: 3 };
                last.huge(2, &[&rows(10..11, "b"), &rows(11..13, "b"), &rows(13..14, "meets")]);
            }
            Author { log: log.clone(), epoch: 3 }.record(2, &[tx(3, |out| insert(out, 1, &row(1, "c")))]);
            let destination = FakeDestination::new(counts(&[6, 10, 11]));
            let (task, latest) = task(&log, &destination, vec![], options.clone());
            until(task, latest, 3).await.unwrap();
            assert_eq!(values(&destination).len(), 11);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_piece_it_goes_on_with_the_whole_transaction() {
    for options in rooms() {
        let (log, author) = author();
        author.record(0, &[tx(1, rows(0..1, "x"))]);
        author.huge(2, &[&rows(10..12, "a"), &rows(12..14, "a"), &updates(10..12, "a")]);
        author.huge(3, &[&rows(20..22, "b"), &rows(22..24, "b"), &updates(20..24, "b")]);
        author.record(3, &[tx(4, updates(0..1, "y"))]);
        author.huge(5, &[&updates(10..12, "c"), &updates(20..24, "c")]);
        let destination = FakeDestination::new(counts(&[1, 5, 9]));
        let (mut kills, mut enough) = (0, false);
        while !enough {
            let target = destination.state.lock().unwrap().executed + 1 + kills % 5;
            let (task, latest) = task(&log, &destination, vec![], options.clone());
            let executed = async {
                while destination.state.lock().unwrap().executed < target {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                done = until(task, latest, 5) => {
                    done.unwrap();
                    enough = true;
                }
                () = executed => kills += 1,
            }
            assert!(kills < 1000, "it does not come on");
        }
        let values = values(&destination);
        assert!(values.len() == 9 && values.contains(&row(0, "y")) && values.contains(&row(11, "c")), "{values:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_keeps_what_is_to_be_read_again() {
    let (log, author) = author();
    author.record(0, &[tx(1, rows(0..1, "x"))]);
    // Many marks of what may be trimmed, all of them behind the applied position.
    let large: &'static str = String::leak("l".repeat(3 << 20));
    author.huge(2, &[&rows(10..12, large), &rows(12..14, large), &rows(14..15, "first"), &rows(15..16, large)]);
    author.huge(3, &[&rows(20..22, large), &rows(22..24, large), &rows(24..25, "second")]);
    let destination = FakeDestination::new(counts(&[1, 7, 12]));
    let [.., options] = impatient();
    let options = Options { keep: Duration::ZERO, flush: Duration::from_millis(1), ..options };
    let (task, latest) = task(&log, &destination, vec![], options);
    until(task, latest, 3).await.unwrap();
    assert_eq!(values(&destination).len(), 12);
    assert_eq!(destination.state.lock().unwrap().position, Some(at(3)));
}
