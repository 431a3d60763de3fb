//! A reader at the destination who checks the workload's invariant again and again while changes are applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use crate::server::Session;
use crate::wait;
use crate::workload::{self, Options};

/// A running observer. Dropping it ends it without asking what it saw: use [`Observer::stop`].
#[derive(Debug)]
pub struct Observer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<u64>>,
}

impl Observer {
    /// Starts to read at `url`, in a session of its own. From the first reading on everything must hold.
    pub async fn start(url: &str, options: Options) -> Result<Observer> {
        let mut session = Session::connect(url).await?;
        let stop = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut seen = 0;
            while !ended.load(Ordering::Relaxed) {
                workload::check(&mut session, &options).await.with_context(|| format!("reading {seen}"))?;
                seen += 1;
                wait::pause().await;
            }
            Ok(seen)
        });
        Ok(Observer { stop, task })
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
