//! Sessions. Every session of drover names itself (`drover <migration> <purpose>` as program name) and has settings under which
//! statements mean the same and values have one text form on every server.

use crate::errors::classify;
use crate::flavor::Version;
use drover_model::error::codes;
pub use drover_model::migration::{Tls, TlsMode};
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, Opts, OptsBuilder, SslOpts};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A host name, an address, or the path of a socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    /// The database that the URL names.
    pub database: Option<String>,
    pub tls: Tls,
    pub migration: MigrationId,
    /// Whose server this is, for errors.
    pub fault: Fault,
}

/// Opens sessions at one endpoint. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    settings: Arc<Settings>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({}@{}:{})", self.settings.user, self.settings.host, self.settings.port)
    }
}

/// A session, and which server it is on.
pub struct Session {
    conn: Conn,
    pub version: Version,
    pub fault: Fault,
}

impl Deref for Session {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.conn
    }
}
impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl Session {
    /// Runs a statement that gives no rows. `what` is for the error.
    pub async fn run(&mut self, sql: impl AsRef<str>, what: &str) -> Result<()> {
        let done = self.conn.query_drop(sql.as_ref()).await;
        done.map_err(|e| classify(&e, self.fault, what))
    }

    /// All rows of a statement.
    pub async fn all<T>(&mut self, sql: impl AsRef<str>, what: &str) -> Result<Vec<T>>
    where
        T: mysql_async::prelude::FromRow + Send + 'static,
    {
        let rows = self.conn.query(sql.as_ref()).await;
        rows.map_err(|e| classify(&e, self.fault, what))
    }

    /// The first row of a statement, if any.
    pub async fn first<T>(&mut self, sql: impl AsRef<str>, what: &str) -> Result<Option<T>>
    where
        T: mysql_async::prelude::FromRow + Send + 'static,
    {
        let row = self.conn.query_first(sql.as_ref()).await;
        row.map_err(|e| classify(&e, self.fault, what))
    }

    /// The bare connection, for a binary log dump, which consumes it.
    pub fn into_conn(self) -> Conn {
        self.conn
    }
}

/// Set at the start of every session, with [`ISOLATION`]. Strict, with every date that a table may hold; zero is a value of an auto-increment
/// column like others; timestamps are UTC; nobody is cut off while the other side is slow. What the server's global settings or its
/// `init_connect` say does not hold: each statement commits by itself unless a transaction was begun, results come whole, statements
/// are not refused for the rows that they would look at, and definitions are printed with quotes.
pub(crate) const SETTINGS: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', \
    SESSION time_zone = '+00:00', SESSION wait_timeout = 86400, SESSION net_read_timeout = 3600, \
    SESSION net_write_timeout = 3600, SESSION sql_auto_is_null = 0, SESSION group_concat_max_len = 1048576, \
    SESSION autocommit = 1, SESSION completion_type = 0, SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1, \
    SESSION sql_safe_updates = 0, SESSION sql_notes = 1, SESSION sql_quote_show_create = 1, NAMES utf8mb4";

/// Set at the start of every session, too. Nobody sees what others have not committed.
pub(crate) const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";

/// Nobody ends a session because it takes long or waits: not a copy, nor the building of an index.
pub(crate) fn endless(version: &Version) -> Option<&'static str> {
    if version.mariadb(100_300) {
        Some(
            "SET SESSION max_statement_time = 0, SESSION idle_transaction_timeout = 0, \
             SESSION idle_readonly_transaction_timeout = 0, SESSION idle_write_transaction_timeout = 0",
        )
    } else if version.mariadb(100_100) {
        Some("SET SESSION max_statement_time = 0")
    } else if version.mysql(50_708) {
        Some("SET SESSION max_execution_time = 0")
    } else {
        None
    }
}

impl Dialer {
    pub fn new(settings: Settings) -> Self {
        Dialer { settings: Arc::new(settings) }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    pub fn fault(&self) -> Fault {
        self.settings.fault
    }
    /// The name that sessions for this purpose carry.
    pub fn program_name(&self, purpose: &str) -> String {
        format!("drover {} {purpose}", self.settings.migration)
    }

    fn options(&self, purpose: &str) -> Opts {
        let s = &*self.settings;
        let mut builder = OptsBuilder::default()
            .user(Some(&s.user))
            .pass(s.password.as_deref())
            // The database of the URL may not exist yet at a destination; statements name theirs.
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            // Matched rows, not changed ones: a count that can be checked.
            .client_found_rows(true)
            .stmt_cache_size(0)
            .connect_attribute("program_name", self.program_name(purpose));
        builder = if s.host.starts_with('/') {
            builder.socket(Some(&s.host)).prefer_socket(true)
        } else {
            builder.ip_or_hostname(&s.host).tcp_port(s.port)
        };
        if s.tls.mode != TlsMode::Off && !s.host.starts_with('/') {
            let mut tls = SslOpts::default();
            if let Some(ca) = &s.tls.ca {
                tls = tls.with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true);
            }
            if let (Some(cert), Some(key)) = (&s.tls.cert, &s.tls.key) {
                tls = tls.with_client_identity(Some(ClientIdentity::new(cert.clone().into(), key.clone().into())));
            }
            tls = match s.tls.mode {
                TlsMode::Off | TlsMode::VerifyFull => tls,
                TlsMode::VerifyCa => tls.with_danger_skip_domain_validation(true),
                TlsMode::Require => tls.with_danger_accept_invalid_certs(true),
            };
            builder = builder.ssl_opts(tls);
        }
        builder.into()
    }

    /// A new session with drover's settings. Times out after 10 s.
    pub async fn session(&self, purpose: &str) -> Result<Session> {
        let s = &*self.settings;
        let what = || format!("cannot connect to {}:{} as {}", s.host, s.port, s.user);
        let dialed = tokio::time::timeout(Duration::from_secs(10), Conn::new(self.options(purpose))).await;
        let late =
            |_| Error::new(codes::CONNECTION, s.fault, Retry::Connection, what()).remedy("nobody answered within 10 s");
        let mut conn = dialed.map_err(late)?.map_err(|e| classify(&e, s.fault, what()))?;
        let prepared = async {
            conn.query_drop(SETTINGS).await?;
            conn.query_drop(ISOLATION).await?;
            conn.query_first::<String, _>("SELECT VERSION()").await
        };
        let failed = |e| classify(&e, s.fault, "cannot prepare a session");
        let text = prepared.await.map_err(failed)?.unwrap_or_default();
        let version = Version::parse(&text).ok_or_else(|| {
            Error::new(codes::CONFIGURATION, s.fault, Retry::Never, format!("{text:?} is no version of this family"))
        })?;
        if let Some(endless) = endless(&version) {
            conn.query_drop(endless).await.map_err(failed)?;
        }
        Ok(Session { conn, version, fault: s.fault })
    }
}
