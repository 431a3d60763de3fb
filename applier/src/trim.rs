//! Deleting loaded blocks from the log beside the loading: nobody waits for it. Only what is durable at the destination comes here. What is
//! not deleted when the process ends is deleted with the next chunk of the partition, or with the log. What the log refuses fails the next
//! load, so that it is tried again and told like any other failure.

use drover_log::{Log, Offset, Stream};
use drover_model::{Error, Result};
use drover_runtime::task::{self, Owned};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Deletes blocks of one log. Dropping it ends the work where it is.
pub(crate) struct Trimmer {
    log: Arc<dyn Log>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By bulk partition, one entry each: before which offset.
    wanted: BTreeMap<u32, Offset>,
    /// There while there is work.
    task: Option<Owned<()>>,
    failed: Option<Error>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trimmer {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Trimmer { log, state: Arc::default() }
    }

    /// Has everything before an offset of a bulk partition deleted soon. Must be called within a runtime.
    ///
    /// # Errors
    /// Why an earlier deletion failed; each failure is told once.
    pub(crate) fn trim(&self, partition: u32, before: Offset) -> Result<()> {
        let mut state = lock(&self.state);
        let wanted = state.wanted.entry(partition).or_default();
        *wanted = before.max(*wanted);
        if state.task.is_none() {
            state.task = Some(task::spawn("trim", work(self.log.clone(), self.state.clone())));
        }
        state.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Trimmer {
    fn drop(&mut self) {
        // The task holds the state, so it would outlive its owner.
        drop(lock(&self.state).task.take());
    }
}

async fn work(log: Arc<dyn Log>, state: Arc<Mutex<State>>) {
    loop {
        let next = {
            let mut state = lock(&state);
            let next = state.wanted.pop_first();
            if next.is_none() {
                state.task = None;
            }
            next
        };
        let Some((partition, before)) = next else { return };
        if let Err(error) = log.trim(Stream::Bulk(partition), before).await {
            tracing::debug!(%error, partition, "loaded blocks cannot be deleted from the log");
            lock(&state).failed = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeLog;
    use bytes::Bytes;
    use std::sync::atomic::Ordering;

    async fn idle(trimmer: &Trimmer) {
        while lock(&trimmer.state).task.is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_was_asked_for_is_deleted_and_a_refusal_is_told_with_the_next() {
        let log = FakeLog::default();
        for partition in [0, 1] {
            for _ in 0..10 {
                log.push(Stream::Bulk(partition), Bytes::from_static(b"x"));
            }
        }
        let trimmer = Trimmer::new(Arc::new(log.clone()));
        trimmer.trim(0, 3).unwrap();
        trimmer.trim(1, 5).unwrap();
        trimmer.trim(0, 2).unwrap();
        idle(&trimmer).await;
        assert_eq!(log.span(Stream::Bulk(0)).await.unwrap().first, 3);
        assert_eq!(log.span(Stream::Bulk(1)).await.unwrap().first, 5);

        log.refusals.store(1, Ordering::Relaxed);
        trimmer.trim(0, 6).unwrap();
        idle(&trimmer).await;
        assert!(trimmer.trim(0, 7).is_err());
        idle(&trimmer).await;
        assert_eq!(log.span(Stream::Bulk(0)).await.unwrap().first, 7, "the work goes on after a refusal");
        trimmer.trim(0, 8).unwrap();
    }
}
