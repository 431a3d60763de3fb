//! The one thread that writes to the store. Turns that wait together are written in one transaction, in the order in which
//! they were made. After a failure nothing is written any more: memory and store would tell different stories.

use crate::event::Event;
use crate::store::Store;
use crate::turn::Turn;
use drover_model::{Error, MigrationId};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

type Journal = Vec<(u64, u64, Event)>;

enum Job {
    Turn(Turn, oneshot::Sender<Result<(), Error>>),
    Journal { id: MigrationId, after: u64, limit: u32, done: oneshot::Sender<Result<Journal, Error>> },
}

/// Turns written at once, at most.
const TOGETHER: usize = 256;

pub(crate) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(store: Box<dyn Store>) -> Result<Writer, Error> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || run(store, &queue))
            .map_err(|e| Error::internal("the store's thread cannot be started").cause(e))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a turn; the receiver tells when it is durable. Turns are written in the order of these calls.
    pub(crate) fn turn(&self, turn: Turn) -> oneshot::Receiver<Result<(), Error>> {
        let (done, wait) = oneshot::channel();
        self.send(Job::Turn(turn, done));
        wait
    }

    pub(crate) async fn journal(&self, id: MigrationId, after: u64, limit: u32) -> Result<Journal, Error> {
        let (done, wait) = oneshot::channel();
        self.send(Job::Journal { id, after, limit, done });
        wait.await.map_err(|_| gone())?
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A dead thread shows at the receiver.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Writer {
    /// Waits for what was queued, so that the store is closed and unlocked afterwards.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn gone() -> Error {
    Error::internal("the store's thread has ended")
}

fn run(mut store: Box<dyn Store>, queue: &mpsc::Receiver<Job>) {
    let mut broken: Option<Error> = None;
    while let Ok(first) = queue.recv() {
        let mut turns = Vec::new();
        let mut waiting = Vec::new();
        let mut asked = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Turn(turn, done) => {
                    turns.push(turn);
                    waiting.push(done);
                }
                other => asked.push(other),
            }
            next = if turns.len() < TOGETHER { queue.try_recv().ok() } else { None };
        }
        if !turns.is_empty() {
            let result = match &broken {
                Some(error) => Err(error.clone()),
                None => store.commit(&turns),
            };
            if let Err(error) = &result {
                if broken.is_none() {
                    tracing::error!(%error, "the coordinator cannot store its state and stops working");
                }
                broken.get_or_insert_with(|| error.clone());
            }
            for done in waiting {
                let _ = done.send(result.clone());
            }
        }
        for job in asked {
            if let Job::Journal { id, after, limit, done } = job {
                let _ = done.send(store.journal(id, after, limit));
            }
        }
    }
}
