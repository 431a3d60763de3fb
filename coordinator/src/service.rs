//! The coordinator as a service: the desk behind a lock, the store behind a thread, and the clock. Nothing is answered before
//! what it rests on is durable.

use crate::access::Access;
use crate::desk::{Desk, Now, Tuning};
use crate::settings::Settings;
use crate::store::{Sqlite, Store};
use crate::turn::Turn;
use crate::view::{self, SnapshotView};
use crate::writer::{Pace, Writer, gone};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::{Error, Fault, MigrationId, Retry};
use drover_proto::control::Control;
use drover_proto::order::{Description, Outcome};
use drover_proto::v1;
use drover_runtime::task::{self, Owned};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a coordinator is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the store.
    pub folder: PathBuf,
    /// The workers live and die with this process: leases of a former process are void at once.
    pub alone: bool,
    pub tuning: Tuning,
}

impl Options {
    /// With the usual tuning.
    pub fn new(folder: impl Into<PathBuf>, alone: bool) -> Options {
        Options { folder: folder.into(), alone, tuning: Tuning::default() }
    }
}

/// A handle on the coordinator; clones are the same one. It ends with the last handle.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

struct Inner {
    desk: Mutex<Desk>,
    writer: Writer,
    /// Raised with every stored change.
    changed: watch::Sender<u64>,
    started: tokio::time::Instant,
    broken: AtomicBool,
    /// Looks through the leases.
    sweep: OnceLock<Owned<()>>,
}

/// How long a store that another process has is waited for.
const LOCKED: Duration = Duration::from_secs(2);
/// How long a poll waits for work: less than the second between a worker's chores, for which it leaves the poll.
const POLL_WAIT: Duration = Duration::from_millis(700);
/// How often leases are looked through.
const SWEEP: Duration = Duration::from_millis(500);
/// Events of a journal that are read at once.
const JOURNAL_PAGE: u32 = 10_000;

impl Inner {
    fn now(&self) -> Now {
        // A clock before 1970 gives 0: retry windows then end late, nothing else.
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one call at the desk and gives its answer once its turn is durable.
    async fn turn<T>(&self, call: impl FnOnce(&mut Desk, Now) -> Result<(T, Turn), Error>) -> Result<T, Error> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::new(
                codes::STATE,
                Fault::Drover,
                Retry::Connection,
                "the coordinator cannot store its state",
            )
            .remedy("see its log, mend the disk, and start it again"));
        }
        let (answer, wait) = {
            let mut desk = self.desk();
            let (answer, turn) = call(&mut desk, self.now())?;
            // Queued under the lock, so that the store sees turns in the order in which they were decided.
            (answer, (!turn.writes.is_empty()).then(|| self.writer.turn(turn)))
        };
        if let Some(wait) = wait {
            // Whoever is woken by this and acts on it has its own turn behind ours. Not after the wait: a caller may be gone by then.
            self.changed.send_modify(|n| *n += 1);
            let stored = wait.await.unwrap_or_else(|_| Err(gone()));
            if let Err(error) = stored {
                self.broken.store(true, Ordering::Release);
                return Err(error);
            }
        }
        Ok(answer)
    }
}

impl Coordinator {
    /// Opens the store in `options.folder` and takes up what it has. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The store cannot be opened, or another process has it.
    pub async fn open(options: Options) -> Result<Coordinator, Error> {
        let until = tokio::time::Instant::now() + LOCKED;
        let store = loop {
            match Sqlite::open(&options.folder) {
                // Whoever had it may be about to end, a former one of this process among them.
                Err(error) if error.fault == Fault::User && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(LOCKED / 40).await;
                }
                opened => break opened?,
            }
        };
        Self::with_store(Box::new(store), options.alone, options.tuning).await
    }

    /// The same over any store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn with_store(store: Box<dyn Store>, alone: bool, tuning: Tuning) -> Result<Coordinator, Error> {
        Self::opened(store, alone, tuning, Writer::start)
    }

    /// The same over a store that does not block, with no thread: each write takes as long as `pace` says, and what is not written when the
    /// last handle goes is lost, as with a process that is killed. For simulations.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn in_task(store: Box<dyn Store>, alone: bool, tuning: Tuning, pace: Pace) -> Result<Coordinator, Error> {
        Self::opened(store, alone, tuning, |store| Ok(Writer::in_task(store, pace)))
    }

    fn opened(
        mut store: Box<dyn Store>,
        alone: bool,
        tuning: Tuning,
        writer: impl FnOnce(Box<dyn Store>) -> Result<Writer, Error>,
    ) -> Result<Coordinator, Error> {
        let stored = store.load()?;
        let started = tokio::time::Instant::now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Now { mono_ms: 0, wall_ms: wall.as_millis() as u64 };
        let (desk, turn) = Desk::restore(tuning, stored, alone, now)?;
        store.commit(&[turn])?;
        let inner = Arc::new(Inner {
            desk: Mutex::new(desk),
            writer: writer(store)?,
            changed: watch::Sender::new(0),
            started,
            broken: AtomicBool::new(false),
            sweep: OnceLock::new(),
        });
        inner.sweep.get_or_init(|| task::spawn("sweep", sweep(Arc::downgrade(&inner))));
        Ok(Coordinator { inner })
    }

    /// Stores a migration, prechecks and starts it; a draft is only stored. Gives the JSON of `show`.
    ///
    /// # Errors
    /// The name is taken, or the store failed.
    pub async fn create(&self, migration: Migration, draft: bool) -> Result<Value, Error> {
        self.create_with(None, migration, draft).await
    }

    /// The same; `adopt`: with the id under which the destination has progress of it, which is taken over ([`crate::adopt`]).
    ///
    /// # Errors
    /// As [`Coordinator::create`], or it cannot be adopted.
    pub async fn create_with(
        &self,
        adopt: Option<MigrationId>,
        migration: Migration,
        draft: bool,
    ) -> Result<Value, Error> {
        let id = adopt.unwrap_or_else(MigrationId::new_v4);
        self.inner
            .turn(|desk, now| {
                let settings = Settings::of(&migration, desk.tuning().bulk_partitions);
                let settings = Settings { adopt: adopt.is_some(), ..settings };
                let turn = desk.create(id, migration, settings, draft, now)?;
                Ok((view::show(id, desk.entry(id)?, now.mono_ms), turn))
            })
            .await
    }

    /// JSON of all migrations, by name.
    pub fn list(&self) -> Value {
        let desk = self.inner.desk();
        let now = self.inner.now().mono_ms;
        let mut all: Vec<_> = desk.entries().collect();
        all.sort_by(|a, b| a.1.state.name.cmp(&b.1.state.name));
        Value::Array(all.into_iter().map(|(id, e)| view::show(*id, e, now)).collect())
    }

    /// JSON of one migration (design §7).
    ///
    /// # Errors
    /// There is none of this name.
    pub fn show(&self, name: &str) -> Result<Value, Error> {
        let desk = self.inner.desk();
        let id = desk.find(name)?;
        Ok(view::show(id, desk.entry(id)?, self.inner.now().mono_ms))
    }

    /// The same as a struct, for progress lines.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn snapshot_view(&self, name: &str) -> Result<SnapshotView, Error> {
        let desk = self.inner.desk();
        let id = desk.find(name)?;
        Ok(view::snapshot_view(id, desk.entry(id)?, self.inner.now().mono_ms))
    }

    /// Waits until a migration is as wanted, and gives what it then is. Progress is looked at four times a second.
    ///
    /// # Errors
    /// There is none of this name (any more).
    pub async fn wait_state(&self, name: &str, wanted: impl Fn(&SnapshotView) -> bool) -> Result<SnapshotView, Error> {
        let mut changed = self.inner.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let view = self.snapshot_view(name)?;
            if wanted(&view) {
                return Ok(view);
            }
            // Either ends the wait; the sender lives as long as `self`.
            let _ = tokio::time::timeout(Duration::from_millis(250), changed.changed()).await;
        }
    }

    /// Waits until drover has left both sides as far as it was asked to, after stop or delete. A deleted migration is done.
    pub async fn wait_cleaned(&self, name: &str) {
        // An error means that the migration is gone, which is what is waited for.
        let _ = self.wait_state(name, |v| !v.cleaning).await;
    }

    /// Takes a changed migration file up, as [`Desk::update`] says. For a coordinator whose workers start with it: running ones
    /// keep what they were told.
    ///
    /// # Errors
    /// Something that is fixed once a migration has begun was changed.
    pub async fn update(&self, migration: Migration) -> Result<(), Error> {
        let name = migration.name.clone();
        self.inner.turn(|desk, now| Ok(((), desk.update(&name, migration, now)?))).await
    }

    /// An operator's action: `pause`, `resume`, `stop`, `delete` (argument `{"force": true}`: without cleaning), `limits` (argument
    /// as `[limits]` of the file) or `cutover` (see [`Desk::cutover`]: to be repeated while it is wanted). Gives the JSON of `show`.
    ///
    /// # Errors
    /// The action is not allowed in the present state; the message says what is.
    pub async fn act(&self, name: &str, action: &str, argument: Option<Value>) -> Result<Value, Error> {
        self.inner
            .turn(|desk, now| {
                let argument = argument.unwrap_or(Value::Null);
                let turn = if action == "limits" {
                    desk.limits(name, &argument, now)?
                } else if action == "cutover" {
                    desk.cutover(name, &argument, now)?
                } else {
                    let force = argument.get("force").and_then(Value::as_bool).unwrap_or(false);
                    desk.act(name, action, force, now)?
                };
                let shown = match desk.find(name) {
                    Ok(id) => view::show(id, desk.entry(id)?, now.mono_ms),
                    Err(_) => json!({"name": name, "state": "deleted"}),
                };
                Ok((shown, turn))
            })
            .await
    }

    /// The log of a migration after an event number: an array of `{"seq", "at", "level", "message"}`, `at` in milliseconds since
    /// the Unix epoch.
    ///
    /// # Errors
    /// There is none of this name, or the store cannot be read.
    pub async fn log(&self, name: &str, after: u64) -> Result<Value, Error> {
        let id = self.inner.desk().find(name)?;
        let mut lines = Vec::new();
        let mut after = after;
        loop {
            let events = self.inner.writer.journal(id, after, JOURNAL_PAGE).await?;
            let full = events.len() == JOURNAL_PAGE as usize;
            let desk = self.inner.desk();
            let entry = desk.entry(id)?;
            for (seq, at, event) in &events {
                after = *seq;
                if let Some((level, message)) = view::log_line(&entry.state, event) {
                    lines.push(json!({"seq": seq, "at": at, "level": level, "message": message}));
                }
            }
            if !full {
                return Ok(Value::Array(lines));
            }
        }
    }

    /// Metrics in the text form of Prometheus: of the migrations, and of this process's memory.
    pub fn metrics(&self) -> String {
        let mut out = view::metrics(&self.inner.desk(), self.inner.now().mono_ms);
        drover_runtime::http::put_memory(&mut out);
        out
    }

    /// Whether the store still takes changes.
    pub fn is_ready(&self) -> bool {
        !self.inner.broken.load(Ordering::Acquire)
    }

    /// Listens for workers and verbs.
    ///
    /// # Errors
    /// CONFIGURATION (exit status 2): [`Access::permit`] refuses, or the address cannot be had.
    pub async fn bind(address: SocketAddr, access: &Access) -> Result<TcpListener, Error> {
        access.permit(address)?;
        TcpListener::bind(address).await.map_err(|e| {
            let text = format!("cannot listen on {address}");
            Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .cause(e)
                .remedy("choose another address, or stop whoever has this one")
        })
    }

    /// Serves workers and verbs over gRPC until `shutdown`.
    ///
    /// # Errors
    /// As [`Coordinator::bind`], or the server failed.
    pub async fn serve_grpc(
        &self,
        address: SocketAddr,
        access: &Access,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let listener = Self::bind(address, access).await?;
        self.serve_grpc_on(listener, access, shutdown).await
    }

    /// The same on a socket that listens already (see [`Coordinator::bind`]).
    ///
    /// # Errors
    /// The server failed.
    pub async fn serve_grpc_on(
        &self,
        listener: TcpListener,
        access: &Access,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        crate::grpc::serve(self.clone(), listener, access.clone(), shutdown).await
    }

    /// Serves verbs on this machine over a Unix socket. Who may open the socket's file may do everything: its permissions
    /// are the caller's to set.
    ///
    /// # Errors
    /// The server failed.
    pub async fn serve_unix(&self, listener: UnixListener, shutdown: CancellationToken) -> Result<(), Error> {
        crate::grpc::serve_unix(self.clone(), listener, shutdown).await
    }

    /// Serves `/healthz`, `/readyz` and `/metrics` until `shutdown`. The token, if there is one, is asked for `/metrics` only.
    ///
    /// # Errors
    /// As [`Coordinator::bind`], or the server failed.
    pub async fn serve_http(
        &self,
        address: SocketAddr,
        access: &Access,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let listener = Self::bind(address, access).await?;
        self.serve_http_on(listener, access, shutdown).await
    }

    /// The same on a socket that listens already.
    ///
    /// # Errors
    /// The server failed.
    pub async fn serve_http_on(
        &self,
        listener: TcpListener,
        access: &Access,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        crate::http::serve(self.clone(), listener, access.clone(), shutdown).await
    }
}

/// Looks through the leases as long as the coordinator lives.
async fn sweep(inner: Weak<Inner>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        // A failing store shows at the next call of anyone.
        let _ = inner.turn(|desk, now| Ok(((), desk.sweep(now)))).await;
    }
}

#[tonic::async_trait]
impl Control for Coordinator {
    async fn poll(&self, request: v1::PollRequest) -> Result<v1::PollReply, Error> {
        let until = tokio::time::Instant::now() + POLL_WAIT;
        let mut changed = self.inner.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let reply = self.inner.turn(|desk, now| desk.poll(&request, now)).await?;
            let busy = !reply.start.is_empty() || !reply.stop.is_empty() || request.leaving;
            if busy || tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                return Ok(reply);
            }
        }
    }

    async fn report(&self, request: v1::ReportRequest) -> Result<v1::ReportReply, Error> {
        let accepted = self.inner.turn(|desk, now| desk.report(&request, now)).await?;
        Ok(v1::ReportReply { accepted })
    }

    async fn outcome(&self, worker: &str, lease: &v1::Lease, outcome: &Outcome) -> Result<bool, Error> {
        self.inner.turn(|desk, now| Ok(desk.outcome(worker, lease, outcome.clone(), now))).await
    }

    async fn describe(&self, migration: String) -> Result<Arc<Description>, Error> {
        self.inner.desk().describe(&migration).map(Arc::new)
    }
}
