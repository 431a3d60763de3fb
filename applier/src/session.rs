//! One destination session and the task that drives it: it executes what the loop in [`crate::apply`] gives it and answers.
//! Guarantee: after a failure the transaction has been rolled back, or the session is gone and with it the transaction, before the
//! failure is told.

use crate::compact::{Answer, Parts, Shapes, parts};
use crate::owed::{Found, Owing};
use crate::schedule::BatchId;
use crate::windows::Mode;
use bytes::Bytes;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::{ApplySession, Committed, Destination};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use drover_runtime::memory::Taken;
use drover_runtime::{failpoint, task};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{OnceCell, mpsc};

/// A batch of whole transactions, kept until it is committed so that it can be executed again.
#[derive(Debug)]
pub(crate) struct Work {
    pub payloads: Vec<Bytes>,
    /// Their bytes of the account of batches.
    pub taken: Vec<Arc<Taken>>,
    pub modes: Arc<Vec<Mode>>,
    pub previous: Position,
    pub next: Position,
    pub transactions: u64,
    pub rows: u64,
    pub commit_micros: i64,
    /// What it owed and where that is now, once it was asked for.
    pub owed: OnceCell<Vec<Found>>,
    /// Its changes are executed one by one, as the source did them.
    pub in_order: AtomicBool,
}

/// Mode of a table by the list that a work carries.
pub(crate) fn mode_of(modes: &[Mode], table: u32) -> Mode {
    modes.get(table as usize).copied().unwrap_or(Mode::Strict)
}

pub(crate) enum Command {
    /// Executes a batch; it is folded anew unless given.
    Execute {
        id: BatchId,
        work: Arc<Work>,
        folded: Option<Box<Parts>>,
    },
    /// Executes a piece of a huge transaction. Of an attempt nothing is executed behind what failed.
    Slice {
        id: BatchId,
        attempt: u32,
        folded: Result<Box<Parts>>,
        modes: Arc<Vec<Mode>>,
    },
    Commit {
        id: BatchId,
        previous: Position,
        next: Position,
    },
    Rollback {
        id: BatchId,
    },
    /// Makes what is committed durable, all up to here.
    Flush(Position),
}

pub(crate) enum Reply {
    Opened(Arc<dyn Canceller>),
    Executed(BatchId),
    SliceDone { id: BatchId, rows: u64 },
    Committed(BatchId, Committed),
    Failed(BatchId, Error),
    Undone(BatchId),
    Flushed(Result<()>),
}

/// What all sessions of an apply order share.
pub(crate) struct Common {
    pub destination: Arc<dyn Destination>,
    pub migration: MigrationId,
    pub epoch: u64,
    pub plans: Arc<Vec<TablePlan>>,
    pub shapes: Arc<Shapes>,
    pub owing: Arc<Owing>,
    pub lasting: Lasting,
}

/// That what is told to be durable is there.
///
/// Commits may be asynchronous, so a destination that crashed has lost the last of them. It ended all sessions then; one that was opened later
/// flushes without complaint what is not there any more. So the progress is read whenever a session was opened since it was last seen: after the
/// flush, which makes what is read lasting.
pub(crate) struct Lasting {
    /// Of the migration, by which its progress is found.
    name: String,
    /// Sessions opened so far, and how many of them were there when a flush last saw the progress.
    opened: AtomicU64,
    seen: AtomicU64,
}

impl Lasting {
    pub fn new(name: &str) -> Lasting {
        Lasting { name: name.to_owned(), opened: AtomicU64::new(0), seen: AtomicU64::new(0) }
    }

    /// For other tables of the same migration, whose sessions are all opened anew.
    pub fn anew(&self) -> Lasting {
        Lasting::new(&self.name)
    }

    fn opens(&self) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes everything up to `to` durable, and sees that it is there.
    ///
    /// # Errors
    /// CONNECTION if the destination has lost some of it.
    async fn flush(&self, destination: &dyn Destination, session: &mut dyn ApplySession, to: &Position) -> Result<()> {
        let opened = self.opened.load(Ordering::SeqCst);
        session.flush().await?;
        if self.seen.load(Ordering::SeqCst) >= opened {
            return Ok(());
        }
        match self.lost(destination, to).await? {
            Some(lost) => Err(lost),
            None => {
                self.seen.fetch_max(opened, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// The error that says so if the destination has lost some of what was committed up to `to`.
    pub async fn lost(&self, destination: &dyn Destination, to: &Position) -> Result<Option<Error>> {
        let there = destination.progress(&self.name).await?.and_then(|p| p.position);
        if there.as_ref().is_some_and(|at| at >= to) {
            return Ok(None);
        }
        let at = there.map_or("nowhere".to_owned(), |at| at.to_string());
        let what = format!("the destination lost what it had committed up to {to}: it stands at {at}");
        Ok(Some(Error::new(codes::CONNECTION, Fault::Destination, Retry::Connection, what)))
    }
}

/// Runs until the commands end. Replies carry the session's number.
pub(crate) fn spawn(
    number: usize,
    common: Arc<Common>,
    mut commands: mpsc::Receiver<Command>,
    replies: mpsc::UnboundedSender<(usize, Reply)>,
) -> task::Owned<()> {
    task::spawn("apply session", async move {
        let mut session: Option<Box<dyn ApplySession>> = None;
        let mut broken = None;
        while let Some(command) = commands.recv().await {
            let reply = match command {
                Command::Execute { id, work, folded } => {
                    let folded = match folded {
                        Some(folded) => Ok(*folded),
                        None => {
                            let (modes, in_order) = (work.modes.clone(), work.in_order.load(Ordering::Relaxed));
                            Parts::new(common.shapes.clone(), &work.payloads, |t| mode_of(&modes, t), in_order)
                        }
                    };
                    match run(number, &common, &mut session, folded, &work.modes, &work.owed, &replies).await {
                        Ok(_) => Reply::Executed(id),
                        Err(e) => fail(&mut session, id, e).await,
                    }
                }
                // Nothing of a transaction goes on without what failed before it.
                Command::Slice { id, attempt, .. } if broken == Some((id, attempt)) => continue,
                Command::Slice { id, attempt, folded, modes } => {
                    let owed = OnceCell::new();
                    let mut result =
                        run(number, &common, &mut session, folded.map(|f| *f), &modes, &owed, &replies).await;
                    // A slice that is executed once more asks once more.
                    if let (Ok(_), Some(found)) = (&result, owed.get()) {
                        result = common.owing.paid(found).await.and(result);
                    }
                    match result {
                        Ok(rows) => Reply::SliceDone { id, rows },
                        Err(e) => {
                            broken = Some((id, attempt));
                            fail(&mut session, id, e).await
                        }
                    }
                }
                Command::Commit { id, previous, next } => {
                    failpoint("before-commit");
                    let result = match session.as_mut() {
                        Some(s) => s.commit(&previous, &next).await,
                        // A flush in between may have found it dead: what was executed is rolled back, and executed again.
                        None => Err(Error::new(
                            codes::CONNECTION,
                            Fault::Destination,
                            Retry::Connection,
                            "the session of a batch ended before its commit",
                        )),
                    };
                    failpoint("committed-not-reported");
                    match result {
                        Ok(committed) => Reply::Committed(id, committed),
                        Err(e) => fail(&mut session, id, e).await,
                    }
                }
                Command::Rollback { id } => {
                    undo(&mut session).await;
                    Reply::Undone(id)
                }
                // A session that was given up is replaced: what others committed is flushed as well.
                Command::Flush(to) => Reply::Flushed(match opened(number, &common, &mut session, &replies).await {
                    Ok(s) => common.lasting.flush(&*common.destination, &mut **s, &to).await,
                    Err(e) => Err(e),
                }),
            };
            if replies.send((number, reply)).is_err() {
                return;
            }
        }
    })
}

/// The session, opened if need be.
async fn opened<'a>(
    number: usize,
    common: &Common,
    session: &'a mut Option<Box<dyn ApplySession>>,
    replies: &mpsc::UnboundedSender<(usize, Reply)>,
) -> Result<&'a mut Box<dyn ApplySession>> {
    match session {
        Some(s) => Ok(s),
        none => {
            let new = common.destination.apply_session(common.migration, common.epoch, &common.plans).await?;
            common.lasting.opens();
            // Nobody listens any more: the order is ending.
            let _ = replies.send((number, Reply::Opened(Arc::from(new.canceller()))));
            Ok(none.insert(new))
        }
    }
}

/// Waits for rows that are owed, opens the session if need be, asks what must be asked, executes. Gives the number of changes.
async fn run(
    number: usize,
    common: &Common,
    session: &mut Option<Box<dyn ApplySession>>,
    folded: Result<Parts>,
    modes: &[Mode],
    owed: &OnceCell<Vec<Found>>,
    replies: &mpsc::UnboundedSender<(usize, Reply)>,
) -> Result<u64> {
    let mut folded = folded?;
    // Before the first statement, so that no transaction stands open meanwhile.
    let owes = folded.owed();
    let found = match &owes[..] {
        [] => &[][..],
        owes => &owed.get_or_try_init(|| common.owing.ask(owes, &common.plans)).await?[..],
    };
    let session = opened(number, common, session, replies).await?;
    for part in &mut folded.parts {
        let mut answers = Vec::new();
        for question in part.folded.questions() {
            let holders = session.holders(question.table, question.index, &question.values).await?;
            answers.push(Answer { table: question.table, index: question.index, holders });
        }
        let steps = part.folded.plan(&answers);
        if !steps.is_empty() {
            session.execute(&steps).await?;
        }
        drop(steps);
        parts::follow(&common.shapes.links, &mut **session, &part.acts, &|t| mode_of(modes, t)).await?;
    }
    for found in found {
        common.owing.write(found, &common.plans, &mut **session).await?;
    }
    Ok(folded.changes())
}

async fn fail(session: &mut Option<Box<dyn ApplySession>>, id: BatchId, error: Error) -> Reply {
    undo(session).await;
    Reply::Failed(id, error)
}

async fn undo(session: &mut Option<Box<dyn ApplySession>>) {
    if let Some(s) = session
        && let Err(error) = s.rollback().await
    {
        tracing::debug!(%error, "a session could not roll back and is given up");
        *session = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeDestination, at};

    #[tokio::test]
    async fn what_a_crash_took_is_not_called_durable() {
        let destination = FakeDestination::new(|_| None);
        let lasting = Lasting::new("t");
        let mut session = destination.apply_session(MigrationId::from_u128(5), 1, &Arc::default()).await.unwrap();
        lasting.opens();
        // The destination was at 7; it crashed, and another session was opened.
        destination.state.lock().unwrap().position = Some(at(5));
        let lost = lasting.flush(&destination, &mut *session, &at(7)).await.unwrap_err();
        assert_eq!((lost.code.as_str(), lost.retry), (codes::CONNECTION, Retry::Connection));
        assert!(lost.message.contains('7') && lost.message.contains('5'), "{lost}");
        destination.state.lock().unwrap().position = Some(at(7));
        lasting.flush(&destination, &mut *session, &at(7)).await.unwrap();
        // As long as the sessions live nothing was lost: it is not asked again until one is opened.
        destination.state.lock().unwrap().position = Some(at(6));
        lasting.flush(&destination, &mut *session, &at(7)).await.unwrap();
        lasting.opens();
        lasting.flush(&destination, &mut *session, &at(7)).await.unwrap_err();
    }
}
