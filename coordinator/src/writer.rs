//! The one thread that writes to the store. Turns that wait together are written in one transaction, in the order in which
//! they were made. After a failure nothing is written any more: memory and store would tell different stories.

use crate::event::Event;
use crate::store::Store;
use crate::turn::Turn;
use drover_model::{Error, MigrationId};
use drover_runtime::task::{self, Owned};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

type Journal = Vec<(u64, u64, Event)>;

enum Job {
    Turn(Turn, oneshot::Sender<Result<(), Error>>),
    Journal { id: MigrationId, after: u64, limit: u32, done: oneshot::Sender<Result<Journal, Error>> },
}

/// Turns written at once, at most.
const TOGETHER: usize = 256;

pub(crate) struct Writer {
    jobs: Option<Jobs>,
    thread: Option<JoinHandle<()>>,
    _task: Option<Owned<()>>,
}

enum Jobs {
    Thread(mpsc::Sender<Job>),
    Task(tokio::sync::mpsc::UnboundedSender<Job>),
}

/// How long a simulated disk takes until the next write is there, and then until that is known: a process that dies between may
/// find it, which nobody was told.
pub type Pace = Box<dyn Fn() -> Duration + Send>;

impl Writer {
    pub(crate) fn start(store: Box<dyn Store>) -> Result<Writer, Error> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || run(store, &queue))
            .map_err(|e| Error::internal("the store's thread cannot be started").cause(e))?;
        Ok(Writer { jobs: Some(Jobs::Thread(jobs)), thread: Some(thread), _task: None })
    }

    /// The same as a task, for a store that does not block. With the writer ends what was not written yet.
    pub(crate) fn in_task(store: Box<dyn Store>, pace: Pace) -> Writer {
        let (jobs, mut queue) = tokio::sync::mpsc::unbounded_channel();
        let task = task::spawn("store", async move {
            let mut book = Book { store, broken: None };
            while let Some(first) = queue.recv().await {
                tokio::time::sleep(pace()).await;
                let answers = book.take(first, || queue.try_recv().ok());
                tokio::time::sleep(pace()).await;
                answers.give();
            }
        });
        Writer { jobs: Some(Jobs::Task(jobs)), thread: None, _task: Some(task) }
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
        // A dead thread or task shows at the receiver.
        match &self.jobs {
            Some(Jobs::Thread(jobs)) => drop(jobs.send(job)),
            Some(Jobs::Task(jobs)) => drop(jobs.send(job)),
            None => {}
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

fn run(store: Box<dyn Store>, queue: &mpsc::Receiver<Job>) {
    let mut book = Book { store, broken: None };
    while let Ok(first) = queue.recv() {
        book.take(first, || queue.try_recv().ok()).give();
    }
}

/// What came of jobs, for those who wait.
struct Answers {
    turns: Vec<oneshot::Sender<Result<(), Error>>>,
    written: Result<(), Error>,
    journals: Vec<(oneshot::Sender<Result<Journal, Error>>, Result<Journal, Error>)>,
}

impl Answers {
    fn give(self) {
        // Whoever asked may be gone.
        for done in self.turns {
            let _ = done.send(self.written.clone());
        }
        for (done, journal) in self.journals {
            let _ = done.send(journal);
        }
    }
}

struct Book {
    store: Box<dyn Store>,
    broken: Option<Error>,
}

impl Book {
    /// Carries a job out, together with those that wait behind it.
    fn take(&mut self, first: Job, mut waiting_jobs: impl FnMut() -> Option<Job>) -> Answers {
        let mut turns = Vec::new();
        let mut answers = Answers { turns: Vec::new(), written: Ok(()), journals: Vec::new() };
        let mut asked = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Turn(turn, done) => {
                    turns.push(turn);
                    answers.turns.push(done);
                }
                other => asked.push(other),
            }
            next = if turns.len() < TOGETHER { waiting_jobs() } else { None };
        }
        if !turns.is_empty() {
            let result = match &self.broken {
                Some(error) => Err(error.clone()),
                None => self.store.commit(&turns),
            };
            if let Err(error) = &result {
                if self.broken.is_none() {
                    tracing::error!(%error, "the coordinator cannot store its state and stops working");
                }
                self.broken.get_or_insert_with(|| error.clone());
            }
            answers.written = result;
        }
        for job in asked {
            if let Job::Journal { id, after, limit, done } = job {
                answers.journals.push((done, self.store.journal(id, after, limit)));
            }
        }
        answers
    }
}
