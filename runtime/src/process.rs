//! Processes within one process, for simulations. Guarantee: what runs within a [`Process`], and every task that it spawns by
//! [`crate::task::spawn`], is polled only while that process may run: one that is killed or frozen stands still at its next await. Without
//! a simulation nothing here costs more than a look at an empty slot of the thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A simulated process.
pub trait Process: Send + Sync {
    /// Whether its tasks may run now. If not, it keeps the waker and wakes it when they may.
    fn may_run(&self, context: &mut Context<'_>) -> bool;
    /// A failpoint is passed. To end the process there it unwinds.
    fn passes(&self, failpoint: &str);
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Process>>> = const { RefCell::new(None) };
}

/// The process in which the caller runs, if it is a simulated one.
pub fn current() -> Option<Arc<dyn Process>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Restores what was current, also when a poll unwinds.
struct Before(Option<Arc<dyn Process>>);

impl Drop for Before {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A future that runs within a process.
pub struct Within<F> {
    process: Arc<dyn Process>,
    future: Pin<Box<F>>,
}

impl<F: Future> Within<F> {
    /// Has `future` run within `process`.
    pub fn new(process: Arc<dyn Process>, future: F) -> Self {
        Within { process, future: Box::pin(future) }
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.process.may_run(context) {
            return Poll::Pending;
        }
        let _before = Before(CURRENT.replace(Some(self.process.clone())));
        self.future.as_mut().poll(context)
    }
}
