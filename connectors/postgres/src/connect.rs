//! Sessions. Every session of drover names itself (`drover <migration> <purpose>`), so that an operator sees what it is and a
//! new holder can end the former one's, and has settings under which values have one text form on every version.

use crate::errors::{classify, grant};
use crate::replication::{Endpoint, ReplicationSession};
use drover_model::error::codes;
pub use drover_model::migration::{Tls, TlsMode};
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_runtime::task;
use drover_runtime::tls::client_config;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A host name, an address, or the folder of a socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub tls: Tls,
    pub migration: MigrationId,
    /// Whose server this is, for errors.
    pub fault: Fault,
}

/// Opens sessions at one endpoint. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    settings: Arc<Settings>,
    tls: Option<MakeRustlsConnect>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({}@{}:{})", self.settings.user, self.settings.host, self.settings.port)
    }
}

/// A session: the client, and the task that moves its bytes, which ends with it.
pub struct Session {
    client: Client,
    closed: watch::Receiver<bool>,
    _connection: task::Owned<()>,
}

impl Session {
    /// Waits until the connection has ended, for whatever reason. Cancel-safe.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the sender, and with it the connection's task, is gone.
        let _ = closed.wait_for(|ended| *ended).await;
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}
impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Set at the start of every session. `search_path` is empty but for the system's, so that every name that drover writes or
/// reads back is qualified; text forms do not depend on the server's, the database's or the role's settings, nor does what literals and
/// comparisons mean, nor what a transaction sees that does not say it. No session ends because it takes long or waits; the last two limits
/// are of servers since 14 and 17.
const SETTINGS: &str = "set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set extra_float_digits = 3; \
    set timezone = 'UTC'; set bytea_output = 'hex'; set client_encoding = 'UTF8'; set statement_timeout = 0; \
    set lock_timeout = 0; set idle_in_transaction_session_timeout = 0; set search_path = pg_catalog; \
    set xmloption = content; set check_function_bodies = off; set row_security = off; set client_min_messages = warning; \
    set array_nulls = on; set transform_null_equals = off; set standard_conforming_strings = on; set quote_all_identifiers = off; \
    set default_transaction_isolation = 'read committed'; set default_transaction_deferrable = off; \
    select set_config(name, '0', false) from pg_settings where name in ('idle_session_timeout', 'transaction_timeout')";

impl Dialer {
    /// Reads the TLS material; does not connect.
    pub fn new(settings: Settings) -> Result<Self> {
        let tls = match settings.tls.mode {
            TlsMode::Off => None,
            _ => Some(MakeRustlsConnect::new(client_config(&settings.tls)?)),
        };
        Ok(Dialer { settings: Arc::new(settings), tls })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    pub fn fault(&self) -> Fault {
        self.settings.fault
    }
    /// The name that sessions for this purpose carry.
    pub fn application_name(&self, purpose: &str) -> String {
        // The server cuts names at 63 bytes; the id stands first so that it is never cut.
        format!("drover {} {purpose}", self.settings.migration)
    }

    /// A new session with drover's settings. Times out after 10 s.
    pub async fn session(&self, purpose: &str) -> Result<Session> {
        let session = self.raw(purpose).await?;
        session.batch_execute(SETTINGS).await.map_err(|e| classify(&e, self.fault(), "cannot prepare a session"))?;
        Ok(session)
    }

    /// The client's configuration for this purpose.
    fn config(&self, purpose: &str) -> tokio_postgres::Config {
        let s = &*self.settings;
        let mut config = tokio_postgres::Config::new();
        config.user(&s.user).dbname(&s.database).port(s.port);
        config.application_name(self.application_name(purpose)).connect_timeout(Duration::from_secs(10));
        config.keepalives(true).keepalives_idle(Duration::from_secs(30)).keepalives_interval(Duration::from_secs(10));
        if s.host.starts_with('/') {
            config.host_path(&s.host)
        } else {
            config.host(&s.host)
        };
        if let Some(password) = &s.password {
            config.password(password);
        }
        config.ssl_mode(if self.encrypted().is_some() { SslMode::Require } else { SslMode::Disable });
        config
    }

    /// Sockets are never encrypted.
    fn encrypted(&self) -> Option<&MakeRustlsConnect> {
        self.tls.as_ref().filter(|_| !self.settings.host.starts_with('/'))
    }

    /// A replication connection to the same place.
    pub async fn replication(&self, purpose: &str) -> Result<ReplicationSession> {
        let s = &*self.settings;
        let what = format!("cannot open a replication connection to {}:{} as {}", s.host, s.port, s.user);
        let endpoint = Endpoint::from_config(&self.config(purpose)).map_err(|e| Error::internal(&*what).cause(e))?;
        ReplicationSession::connect(&endpoint, self.encrypted().cloned()).await.map_err(|e| {
            let (code, retry) = match e.sqlstate() {
                Some("28000" | "28P01" | "42501") => (codes::PERMISSION, Retry::Other),
                _ => (codes::CONNECTION, Retry::Connection),
            };
            let remedy = e.sqlstate().and_then(|state| grant(state, s.fault));
            Error { remedy: remedy.map(str::to_owned), ..Error::new(code, s.fault, retry, what).cause(e) }
        })
    }

    async fn raw(&self, purpose: &str) -> Result<Session> {
        let s = &*self.settings;
        let config = self.config(purpose);
        let what = || format!("cannot connect to {}:{} as {}, database {}", s.host, s.port, s.user, s.database);
        let failed = |e: tokio_postgres::Error| classify(&e, s.fault, what());
        match self.encrypted() {
            Some(tls) => {
                let (client, connection) = config.connect(tls.clone()).await.map_err(failed)?;
                Ok(drive(client, connection))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                Ok(drive(client, connection))
            }
        }
    }
}

fn drive<F>(client: Client, connection: F) -> Session
where
    F: Future<Output = std::result::Result<(), tokio_postgres::Error>> + Send + 'static,
{
    let (ended, closed) = watch::channel(false);
    let connection = task::spawn("postgres connection", async move {
        // Whoever waits for an answer gets the error; here it only ends the task.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session ended");
        }
        ended.send_replace(true);
    });
    Session { client, closed, _connection: connection }
}
