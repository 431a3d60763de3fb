//! What comes in from the log. Guarantee: the changes that were read take no more than [`super::Options::memory`] bytes until they are committed
//! as batches, or looked at as pieces of a huge transaction, those under way to here included; reading waits for room. One record that is
//! larger passes alone.

use crate::consume::{Consumer, Record};
use drover_log::Offset;
use drover_model::Result;
use drover_runtime::memory::{Account, Taken};
use drover_runtime::task;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Records that may wait to be looked at.
const AHEAD: usize = 4;

/// A record, and the bytes that its payload takes as long as anybody has some of it.
pub(super) struct Fed {
    pub offset: Offset,
    pub record: Record,
    pub taken: Arc<Taken>,
}

/// Reads on in a task of its own.
pub(super) fn feed(mut consumer: Consumer, memory: usize) -> (mpsc::Receiver<Result<Fed>>, task::Owned<()>) {
    let (feed, input) = mpsc::channel(AHEAD);
    let account = Account::new("apply.batches", memory);
    let reader = task::spawn("changes reader", async move {
        loop {
            let fed = match consumer.next().await {
                Ok((offset, record)) => {
                    let taken = Arc::new(account.hold(record.payload.len()).await);
                    Ok(Fed { offset, record, taken })
                }
                Err(error) => Err(error),
            };
            let end = fed.is_err();
            if feed.send(fed).await.is_err() || end {
                return;
            }
        }
    });
    (input, reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Options;
    use crate::fake::{FakeDestination, FakeLog, at};
    use crate::loop_tests::{Author, ID, insert, row, small, task, tx, until};

    /// Whole transactions of these sizes, as they come out of the log.
    async fn fed(sizes: &[usize], memory: usize) -> (mpsc::Receiver<Result<Fed>>, task::Owned<()>) {
        let author = Author { log: FakeLog::default(), epoch: 1 };
        for (place, size) in (1..).zip(sizes) {
            author.record(place - 1, &[tx(place, |out| insert(out, 0, &row(place, "x".repeat(*size))))]);
        }
        feed(Consumer::open(&author.log, ID, at(0)).await.unwrap(), memory)
    }

    #[tokio::test]
    async fn reading_waits_for_room_and_a_large_one_passes_alone() {
        let (mut input, _reader) = fed(&[1000, 1000, 1000, 9000, 1000], 2500).await;
        // The reader goes as far as it can while this one yields.
        let settle = async || {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        settle().await;
        assert_eq!(input.len(), 2);
        let (first, second) = (input.recv().await.unwrap().unwrap(), input.recv().await.unwrap().unwrap());
        let kept = first.taken.clone();
        drop(first);
        settle().await;
        assert!(input.is_empty(), "a part of the first is still in use");
        drop(kept);
        let third = input.recv().await.unwrap().unwrap();
        drop(second);
        settle().await;
        assert!(input.is_empty(), "the large one waits for all others");
        drop(third);
        let large = input.recv().await.unwrap().unwrap();
        assert!(large.record.payload.len() > 9000 && large.taken.bytes() == 2500);
        settle().await;
        assert!(input.is_empty());
        drop(large);
        input.recv().await.unwrap().unwrap();
    }

    /// However little there is, it is applied: batches in turn, then a huge transaction of pieces larger than all there may be.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_room_everything_goes_one_by_one() {
        const PIECES: usize = 1 << 20;
        let log = FakeLog::default();
        let author = Author { log: log.clone(), epoch: 1 };
        for place in 1..=50 {
            author.record(place - 1, &[tx(place, |out| insert(out, 0, &row(place, "x".repeat(100))))]);
        }
        let (_, whole) = tx(51, |out| (51..=56).for_each(|i| insert(out, 0, &row(i, "x".repeat(PIECES)))));
        let (_, begin) = tx(51, |_| ());
        let (_, one) = tx(51, |out| insert(out, 0, &row(51, "x".repeat(PIECES))));
        let change = one.len() - begin.len();
        let head = begin.len() - 1;
        for n in 0..6 {
            let (from, to) = (head + n * change, head + (n + 1) * change);
            let from = if n == 0 { 0 } else { from };
            author.piece(51, n as u32, n == 5, &whole[from..if n == 5 { whole.len() } else { to }]);
        }
        let destination = FakeDestination::new(|_| None);
        let (task, latest) = task(&log, &destination, vec![], Options { memory: 1, pieces: 1, ..small() });
        until(task, latest, 51).await.unwrap();
        assert_eq!(destination.state.lock().unwrap().rows.len(), 56);
    }
}
