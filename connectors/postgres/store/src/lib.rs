//! The coordinator's store in PostgreSQL, for more than one coordinator: one leads, the others wait to take over.
//!
//! The guarantee: two never write. Who leads holds an advisory lock with the one session through which everything is written, so
//! a leader whose session has ended cannot write any more, whatever it believes. Each second the leader notes that it is there; one that has not done so
//! for [`STALE`] (frozen, cut off) is ended by whoever waits.

mod tables;
mod url;

use drover_connectors_postgres::connect::{Dialer, Session};
use drover_coordinator::event::Event;
use drover_coordinator::store::{Opened, Seal, Store};
use drover_coordinator::turn::{Stored, Turn};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_runtime::{CancellationToken, task};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tables::Tables;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use url::{FORM, is_url};

/// Where such a store lies, for people.
pub const PLACE: &str = "PostgreSQL";
/// After so long without a sign a leader is ended.
pub const STALE: Duration = Duration::from_secs(10);
const SIGN: Duration = Duration::from_secs(1);
/// How often those who wait look.
const LOOK: Duration = Duration::from_millis(500);
/// How often they say that they wait.
const SAY: Duration = Duration::from_secs(60);

/// The lock of the one that leads; keys of advisory locks hold for a database.
const LOCK: &str = "select pg_try_advisory_lock(hashtext('drover coordinator'), 0)";

/// The store of the coordinator that leads.
pub struct PgStore {
    session: Arc<Mutex<Session>>,
    tables: Arc<Tables>,
    seal: Arc<Seal>,
    /// Calls of a store block; its session lives here.
    runtime: Option<Runtime>,
}

/// Tells when the store can be written no more.
pub struct Leading {
    lost: CancellationToken,
    _sign: task::Owned<()>,
}

impl Leading {
    /// Waits until the session has ended: another coordinator may lead now.
    pub async fn lost(&self) -> Error {
        self.lost.cancelled().await;
        let text = "the session with the store has ended: another coordinator may lead now";
        Error::new(codes::STATE, Fault::Drover, Retry::Other, text)
            .remedy("start this one again: it waits until it can take over")
    }
}

fn failed(what: &str, cause: impl std::error::Error) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Never, format!("the coordinator's store: {what}"))
        .cause(cause)
        .remedy("see that its PostgreSQL can be reached and written; start the coordinator again")
}

/// [`PgStore::open`], in the coordinator's form.
///
/// # Errors
/// As there.
pub async fn open(url: &str, key: &Path) -> Result<Opened> {
    let (store, leading) = PgStore::open(url, key).await?;
    Ok(Opened { store: Box::new(store), lost: Box::pin(async move { leading.lost().await }) })
}

impl PgStore {
    /// Waits until this process may lead, and opens the store. `key`: the file that seals secrets, the same for all coordinators of a store.
    ///
    /// # Errors
    /// The url is none, the server cannot be reached, the account may not create tables, a newer drover made the store, or the key file is unusable.
    pub async fn open(url: &str, key: &Path) -> Result<(PgStore, Leading)> {
        let dialer = Dialer::new(url::settings(url)?)?;
        let seal = Arc::new(Seal::open(key)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-session")
            .enable_all()
            .build()
            .map_err(|e| failed("its thread cannot be started", e))?;
        let opening = runtime.spawn(async move {
            let session = lead(&dialer).await?;
            let tables = Tables::prepare(&session).await?;
            Ok::<_, Error>((session, tables))
        });
        // The runtime must not be dropped where one may not wait.
        let opened = opening.await.map_err(|e| failed("its thread has ended", e)).and_then(|o| o);
        let (session, tables) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let session = Arc::new(Mutex::new(session));
        let lost = CancellationToken::new();
        let sign = {
            let _inside = runtime.enter();
            task::spawn("leading", sign(session.clone(), lost.clone()))
        };
        let store = PgStore { session, tables: Arc::new(tables), seal, runtime: Some(runtime) };
        Ok((store, Leading { lost, _sign: sign }))
    }

    /// Carries something out where the session lives, and waits for it.
    fn wait<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let ended = || Error::internal("the store's thread has ended");
        let runtime = self.runtime.as_ref().ok_or_else(ended)?;
        let (done, result) = std::sync::mpsc::sync_channel(1);
        let _work = runtime.spawn(async move {
            let _ = done.send(work.await);
        });
        result.recv().map_err(|_| ended())?
    }
}

impl Drop for PgStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for PgStore {
    fn load(&mut self) -> Result<Vec<Stored>> {
        let (session, tables, seal) = (self.session.clone(), self.tables.clone(), self.seal.clone());
        self.wait(async move { tables.load(&*session.lock().await, &seal).await })
    }

    fn commit(&mut self, turns: &[Turn]) -> Result<()> {
        let (session, tables) = (self.session.clone(), self.tables.clone());
        let rows = tables::rows(turns, &self.seal)?;
        self.wait(async move { tables.write(&*session.lock().await, rows).await })
    }

    fn journal(&mut self, id: MigrationId, after: u64, limit: u32) -> Result<Vec<(u64, u64, Event)>> {
        let (session, tables) = (self.session.clone(), self.tables.clone());
        self.wait(async move { tables.events(&*session.lock().await, id, after, Some(limit)).await })
    }
}

/// Waits until this session leads.
async fn lead(dialer: &Dialer) -> Result<Session> {
    let sql = |e: tokio_postgres::Error| failed("it cannot be set up", e);
    let session = dialer.session("coordinator").await?;
    session.batch_execute(tables::LEAD).await.map_err(sql)?;
    let mut said: Option<Instant> = None;
    while !session.query_one(LOCK, &[]).await.map_err(sql)?.get::<_, bool>(0) {
        if said.is_none_or(|at| at.elapsed() > SAY) {
            let row = session.query_opt("select address from drover_coordinator.lead", &[]).await.map_err(sql)?;
            let address: String = row.map_or_else(|| "unknown".into(), |r| r.get(0));
            tracing::info!(leader = address, "another coordinator leads; this one waits to take over");
            said = Some(Instant::now());
        }
        // Only who holds the lock and has said nothing for too long: a session that has just begun to lead has told so first.
        let silent = format!(
            "select pg_terminate_backend(l.pid) from drover_coordinator.lead l where l.at < clock_timestamp() - interval '{} ms' \
             and exists (select from pg_locks k where k.locktype = 'advisory' and k.pid = l.pid and k.granted and k.objsubid = 2 and k.objid = 0 \
             and k.classid::bigint = hashtext('drover coordinator')::bigint & 4294967295 \
             and k.database = (select oid from pg_database where datname = current_database()))",
            STALE.as_millis()
        );
        if session.execute(&silent, &[]).await.map_err(sql)? > 0 {
            tracing::warn!("the leading coordinator gave no sign for {STALE:?}: its session is ended");
        }
        tokio::time::sleep(LOOK).await;
    }
    let now = "insert into drover_coordinator.lead (one, pid, address, at) \
        values (true, pg_backend_pid(), coalesce(host(inet_client_addr()), 'this machine'), clock_timestamp()) \
        on conflict (one) do update set pid = excluded.pid, address = excluded.address, at = excluded.at";
    session.execute(now, &[]).await.map_err(sql)?;
    tracing::info!("this coordinator leads");
    Ok(session)
}

/// Says each second that the leader is there; ends with the session.
async fn sign(session: Arc<Mutex<Session>>, lost: CancellationToken) {
    let sql = "update drover_coordinator.lead set at = clock_timestamp() where pid = pg_backend_pid()";
    loop {
        let told = async { session.lock().await.execute(sql, &[]).await };
        // Whoever waits has ended this session by now.
        if !matches!(tokio::time::timeout(STALE, told).await, Ok(Ok(1))) {
            break;
        }
        tokio::time::sleep(SIGN).await;
    }
    lost.cancel();
}
