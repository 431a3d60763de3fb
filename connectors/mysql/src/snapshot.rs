//! Snapshots. All reading sessions of one are opened together ([`take`]), each in a transaction that sees exactly what is committed up to one
//! position; none can be added later, and no other process can join. They wait in a [`Set`], from which readers borrow one each.
//!
//! A session is lent only if it proves that it still is in its transaction: it never connects again by itself, the server says with each answer
//! whether a transaction is open, and a MariaDB also says on which place of the log it is. A snapshot is lost when its last session is.

mod lock;
pub(crate) mod marked;
mod take;
mod window;

pub(crate) use take::BACK;
pub use take::{LULL, Wanted, take};

use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::wire::{Wire, text};
use async_trait::async_trait;
use drover_connectors_api::Hold;
use drover_model::error::codes;
use drover_model::plan::SnapshotRef;
use drover_model::{Error, Fault, Result, Retry};
use drover_runtime::task::{self, Owned};
use mysql_async::prelude::Queryable;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Idle sessions are looked after this often.
const LOOK: Duration = Duration::from_secs(3);
/// A session that does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The living snapshots of this process, by token.
static SETS: LazyLock<Mutex<HashMap<String, Weak<Set>>>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of whoever needs a snapshot that is gone.
pub fn lost(what: &str) -> Error {
    Error::new(codes::SNAPSHOT_LOST, Fault::Source, Retry::Other, what)
        .remedy("nothing needs to be done: what is not yet copied goes on from a new snapshot")
}

/// The sessions of one snapshot.
pub struct Set {
    reference: SnapshotRef,
    dialer: Dialer,
    /// Where a MariaDB's sessions see themselves; empty where the server does not tell.
    place: String,
    /// Numbers of the connections that were opened for it.
    members: Vec<u32>,
    idle: Mutex<Vec<Wire>>,
    freed: Notify,
    /// Sessions that are on it still, lent or not.
    alive: watch::Sender<usize>,
    /// Sees the catalogue as it is now.
    peek: tokio::sync::Mutex<Option<Session>>,
    tasks: Mutex<Vec<Owned<()>>>,
}

impl Set {
    /// Takes the sessions over. They must all be on `reference`.
    fn new(dialer: Dialer, reference: SnapshotRef, place: String, sessions: Vec<Wire>) -> Arc<Set> {
        let token = reference.token.clone();
        let set = Arc::new(Set {
            reference,
            dialer,
            place,
            members: sessions.iter().map(Wire::id).collect(),
            alive: watch::Sender::new(sessions.len()),
            idle: Mutex::new(sessions),
            freed: Notify::new(),
            peek: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        });
        let watched = Arc::downgrade(&set);
        locked(&set.tasks).push(task::spawn("snapshot sessions", look_after(watched)));
        let mut sets = locked(&SETS);
        sets.retain(|_, set| set.strong_count() > 0);
        sets.insert(token, Arc::downgrade(&set));
        set
    }

    /// The snapshot of this reference, if this process has it.
    ///
    /// # Errors
    /// SNAPSHOT_LOST if it is gone, or was never here; internal if the reference is another one's.
    pub fn find(reference: &SnapshotRef) -> Result<Arc<Set>> {
        let found = locked(&SETS).get(&reference.token).and_then(Weak::upgrade);
        let set = found
            .filter(|s| *s.alive.borrow() > 0)
            .ok_or_else(|| lost("the snapshot is gone: its sessions have ended, or belong to another process"))?;
        if set.reference.proof != reference.proof {
            let text = format!("snapshot {} is {}, not {}", reference.token, set.reference.proof, reference.proof);
            return Err(Error::internal(text));
        }
        Ok(set)
    }

    /// Sessions that are on it still, lent or not.
    pub fn sessions(&self) -> usize {
        *self.alive.borrow()
    }

    /// A hold on it.
    pub fn hold(self: &Arc<Self>) -> Box<dyn Hold> {
        Box::new(SetHold(self.clone()))
    }

    /// Borrows a session; waits while all are lent. SNAPSHOT_LOST when the last one is gone.
    pub async fn borrow(self: &Arc<Self>) -> Result<Seat> {
        let mut alive = self.alive.subscribe();
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if *alive.borrow_and_update() == 0 {
                return Err(lost("the last session of the snapshot has ended"));
            }
            let idle = locked(&self.idle).pop();
            if let Some(wire) = idle {
                // In its seat already, should this be given up in the middle.
                let mut seat = Seat { set: Arc::downgrade(self), wire: Some(wire), soiled: false };
                match self.prove(&mut seat).await {
                    Ok(()) => return Ok(seat),
                    Err(error) => {
                        seat.wire = None;
                        self.lose(&error);
                    }
                }
                continue;
            }
            tokio::select! {
                () = freed => {}
                // The sender lives as long as the set.
                _ = alive.changed() => {}
            }
        }
    }

    /// That a session is on the snapshot.
    async fn prove(&self, wire: &mut Wire) -> Result<()> {
        let asked = async {
            wire.ping().await?;
            if self.place.is_empty() { Ok(String::new()) } else { place_seen(wire).await }
        };
        let late = |_| lost("a session of the snapshot does not answer");
        let place = tokio::time::timeout(PATIENCE, asked).await.map_err(late)??;
        if !wire.in_transaction() {
            return Err(lost("a session of the snapshot is in no transaction any more"));
        }
        if !self.members.contains(&wire.id()) || place != self.place {
            return Err(Error::internal(format!("{wire:?} sees {place:?}, but the snapshot is {:?}", self.place)));
        }
        Ok(())
    }

    /// A session has left the snapshot.
    fn lose(&self, why: &Error) {
        tracing::warn!(%why, snapshot = self.reference.proof, "a reading session left its snapshot");
        self.alive.send_modify(|n| *n = n.saturating_sub(1));
    }

    fn give(&self, wire: Wire) {
        locked(&self.idle).push(wire);
        self.freed.notify_one();
    }

    /// Runs a task that belongs to this set.
    fn own(&self, task: Owned<()>) {
        let mut tasks = locked(&self.tasks);
        tasks.retain(|t| !t.is_finished());
        tasks.push(task);
    }

    /// A session that sees the catalogue as it is now; there is one for all readers, who wait for each other.
    pub async fn peek(&self) -> Result<Peek<'_>> {
        let mut place = self.peek.lock().await;
        let mut kept = place.take();
        if let Some(session) = &mut kept
            && session.ping().await.is_err()
        {
            kept = None;
        }
        let session = match kept {
            Some(session) => session,
            None => {
                let mut session = self.dialer.session("peek").await?;
                if session.version.mysql(80_000) {
                    // Sizes of now, not those of a day ago.
                    session.run("SET SESSION information_schema_stats_expiry = 0", "cannot prepare a session").await?;
                }
                session
            }
        };
        Ok(Peek { place, session: Some(session) })
    }
}

/// See [`Set::peek`]. A session that failed, or was left in the middle of something, is not used again: those in order are given back by
/// [`Peek::keep`].
pub struct Peek<'a> {
    place: tokio::sync::MutexGuard<'a, Option<Session>>,
    session: Option<Session>,
}

impl Peek<'_> {
    /// Everything went well: others may use the session.
    pub fn keep(mut self) {
        *self.place = self.session.take();
    }
}

impl Deref for Peek<'_> {
    type Target = Session;
    fn deref(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("it is given back by value"),
        }
    }
}
impl DerefMut for Peek<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut self.session {
            Some(session) => session,
            None => unreachable!("it is given back by value"),
        }
    }
}

/// How often in a row a session must say the same of its snapshot.
const SAYS: usize = 3;
/// So many rounds of asking before it is given up.
const ASKED: usize = 20;

/// Which place of the log a MariaDB's session sees: `binlog.000001:2546`.
///
/// The server puts the answer together in variables that all sessions share (`TC_LOG_BINLOG::set_status_variables` in its sql/log.cc), so that
/// it may be another session's, or where the log stands now, if anyone asks for any status in that moment. An answer counts only if it comes
/// several times in a row.
async fn place_seen(wire: &mut Wire) -> Result<String> {
    let sql = [r"SHOW SESSION STATUS LIKE 'binlog\_snapshot\_%'"; SAYS].join("; ");
    for _ in 0..ASKED {
        let answers = wire.results(&sql, "cannot ask a session for its snapshot").await?;
        let mut places = answers.iter().map(|rows| {
            let of = |name: &str| {
                let row = rows.iter().find(|r| text(r, 0).is_some_and(|n| n.eq_ignore_ascii_case(name)));
                row.and_then(|r| text(r, 1)).unwrap_or_default().to_owned()
            };
            let (file, offset) = (of("Binlog_snapshot_file"), of("Binlog_snapshot_position"));
            if file.is_empty() { String::new() } else { format!("{file}:{offset}") }
        });
        let Some(first) = places.next() else { break };
        if places.all(|place| place == first) {
            return Ok(first);
        }
    }
    let what = "a session cannot be asked for its snapshot: others ask for the server's status all the time";
    Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what))
}

/// Sees that idle sessions live, and that they are not taken for dead on the way.
async fn look_after(set: Weak<Set>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(set) = set.upgrade() else { return };
        let idle = locked(&set.idle).len();
        for _ in 0..idle {
            // From the front: readers take from the back.
            let first = {
                let mut idle = locked(&set.idle);
                if idle.is_empty() { None } else { Some(idle.remove(0)) }
            };
            let Some(mut wire) = first else { break };
            match tokio::time::timeout(PATIENCE, wire.ping()).await {
                Ok(Ok(())) if wire.in_transaction() => set.give(wire),
                Ok(Ok(())) => set.lose(&lost("its transaction has ended")),
                Ok(Err(error)) => set.lose(&error),
                Err(_) => set.lose(&lost("it does not answer")),
            }
        }
        if *set.alive.borrow() == 0 {
            return;
        }
    }
}

struct SetHold(Arc<Set>);

#[async_trait]
impl Hold for SetHold {
    fn snapshot(&self) -> SnapshotRef {
        self.0.reference.clone()
    }
    async fn lost(&self) -> Error {
        let mut alive = self.0.alive.subscribe();
        // The sender lives as long as the set.
        let _ = alive.wait_for(|n| *n == 0).await;
        lost("the last session of the snapshot has ended")
    }
}

/// A session that is borrowed from a snapshot. When dropped it goes back, if it is in order; one in the middle of an answer is first brought
/// to its end.
pub struct Seat {
    set: Weak<Set>,
    wire: Option<Wire>,
    /// Something was read since the start of the transaction.
    soiled: bool,
}

impl Seat {
    /// The snapshot, which may be gone by now.
    pub fn set(&self) -> Result<Arc<Set>> {
        self.set.upgrade().ok_or_else(|| lost("the snapshot was let go"))
    }
    /// To be said before rows are looked at.
    pub fn soil(&mut self) {
        self.soiled = true;
    }
    /// To be said when the session was brought back to the start of its transaction.
    pub fn clean(&mut self) {
        self.soiled = false;
    }
}

impl Deref for Seat {
    type Target = Wire;
    fn deref(&self) -> &Wire {
        match &self.wire {
            Some(wire) => wire,
            None => unreachable!("a seat has its session until it is dropped"),
        }
    }
}
impl DerefMut for Seat {
    fn deref_mut(&mut self) -> &mut Wire {
        match &mut self.wire {
            Some(wire) => wire,
            None => unreachable!("a seat has its session until it is dropped"),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (Some(set), Some(wire)) = (self.set.upgrade(), self.wire.take()) else { return };
        if !self.soiled && !wire.is_busy() && wire.in_transaction() {
            return set.give(wire);
        }
        let weak = self.set.clone();
        set.own(task::spawn("reading session", async move {
            let id = wire.id();
            let mended = tokio::time::timeout(PATIENCE, mend(&weak, wire)).await;
            let Some(set) = weak.upgrade() else { return };
            match mended {
                Ok(Ok(wire)) => set.give(wire),
                Ok(Err(error)) => set.lose(&error),
                Err(_) => set.lose(&lost(&format!("session {id} does not come to an end"))),
            }
        }));
    }
}

/// Brings a session that was left in the middle of an answer to the end of it: the statement is stopped, the transaction stays.
async fn mend(set: &Weak<Set>, mut wire: Wire) -> Result<Wire> {
    if wire.is_busy() {
        let set = set.upgrade().ok_or_else(|| lost("the snapshot was let go"))?;
        let mut peek = set.peek().await?;
        let killed = peek.query_drop(format!("KILL QUERY {}", wire.id())).await;
        killed.map_err(|e| classify(&e, Fault::Source, "cannot stop a statement of drover's own"))?;
        peek.keep();
        wire.drain().await?;
    }
    wire.run(take::BACK, "cannot go back to the start of a chunk").await?;
    if !wire.in_transaction() {
        return Err(lost("its transaction has ended"));
    }
    Ok(wire)
}

#[cfg(test)]
mod tests;
