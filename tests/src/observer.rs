//! A reader at the destination who checks the workload's invariant again and again while changes are applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use crate::server::Session;
use crate::wait;
use crate::workload::{self, Options};

/// A running observer. Dropping it ends it without asking what it saw: use [`Observer::stop`].
#[derive(Debug)]
pub struct Observer {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    task: JoinHandle<Result<u64>>,
}

impl Observer {
    /// Starts to read at `url`, in a session of its own. From the first reading on everything must hold.
    pub async fn start(url: &str, options: Options) -> Result<Observer> {
        let mut session = Session::connect(url).await?;
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let reading = count.load(Ordering::Relaxed);
                workload::check(&mut session, &options).await.with_context(|| format!("reading {reading}"))?;
                count.store(reading + 1, Ordering::Relaxed);
                wait::pause().await;
            }
            Ok(count.load(Ordering::Relaxed))
        });
        Ok(Observer { stop, seen, task })
    }

    /// Waits until there are so many readings, or one was wrong.
    pub async fn reads(&self, least: u64) -> Result<()> {
        wait::until("the observer reads", Duration::from_secs(30), || async {
            Ok((self.task.is_finished() || self.seen.load(Ordering::Relaxed) >= least).then_some(()))
        })
        .await
    }

    /// Ends it; an error if any reading was wrong, or if there were hardly any.
    pub async fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = (&mut self.task).await?.context("the destination showed what the source never was")?;
        ensure!(seen >= 5, "only {seen} readings");
        Ok(seen)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
