//! Tasks have a name and an owner. The owner keeps the handle: dropping an [`Owned`] ends its task.

use crate::process::{self, Within};
use std::future::Future;
use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Owned<T>(JoinHandle<T>);

impl<T> Owned<T> {
    /// Waits for the task's end. Cancel-safe: the task goes on if this is cancelled.
    pub async fn join(&mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
    /// Ends it at its next await.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a task under a name that its log lines carry. It is aborted when the returned owner is dropped.
pub fn spawn<F>(name: &'static str, future: F) -> Owned<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let future = future.instrument(tracing::debug_span!("task", name));
    match process::current() {
        None => Owned(tokio::spawn(future)),
        Some(process) => Owned(tokio::spawn(Within::new(process, future))),
    }
}
