//! A session with a walsender: slots with exported snapshots, and the change stream (manual, "Streaming Replication
//! Protocol").
//!
//! Guarantee: the server hears as flushed only what [`ReplicationSession::confirm`] was given, never what was merely
//! received; the session's own status updates and its answers to the server's questions repeat that. Nothing is hidden:
//! keepalives reach the caller, who needs them to move an idle slot. Nothing piles up here: what is not asked for stays
//! in the socket, and the server waits.
//!
//! Messages are handed out by the [`Block`], all that one read brought: no allocation and no await for each.

use std::time::Duration;

use bytes::BufMut;
use postgres_protocol::message::frontend;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;

use crate::lsn::Lsn;
use crate::pgoutput::EPOCH_SHIFT_MICROS;

mod block;
mod paced;
mod wire;

pub use block::{Block, Frame, Frames};
use wire::Wire;

/// Where and as whom to connect. The user needs the REPLICATION attribute.
#[derive(Clone)]
pub struct Endpoint {
    /// Name or address, or the folder of a Unix socket (begins with `/`).
    pub host: String,
    /// TCP port, also part of a Unix socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<Vec<u8>>,
    /// The database that is decoded.
    pub dbname: String,
    /// Shown in `pg_stat_replication`. It must not be listed in `synchronous_standby_names`.
    pub application_name: String,
    /// `Disable`, `Prefer` (encrypted where the server can) or `Require`. Unix sockets are never encrypted.
    pub ssl_mode: SslMode,
    /// For connecting and authenticating.
    pub connect_timeout: Duration,
}

impl Endpoint {
    /// From the configuration of the SQL connections: its first host and port.
    pub fn from_config(config: &tokio_postgres::Config) -> Result<Self, Error> {
        let user = config.get_user().ok_or(Error::State("the endpoint names no user"))?;
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.to_string_lossy().into_owned(),
            None => config.get_hostaddrs().first().ok_or(Error::State("the endpoint names no host"))?.to_string(),
        };
        Ok(Endpoint {
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            user: user.to_owned(),
            password: config.get_password().map(<[u8]>::to_vec),
            dbname: config.get_dbname().unwrap_or(user).to_owned(),
            application_name: config.get_application_name().unwrap_or("drover").to_owned(),
            ssl_mode: config.get_ssl_mode(),
            connect_timeout: config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(30)),
        })
    }

    fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}/{} ({:?})", self.user, self.host, self.port, self.dbname, self.ssl_mode)
    }
}

/// What the server says of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{severity} {code}: {message}{}{}", opt("; ", .detail), opt("; hint: ", .hint))]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, untranslated.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What the server advises.
    pub hint: Option<String>,
}

fn opt(before: &str, text: &Option<String>) -> String {
    text.as_ref().map(|text| format!("{before}{text}")).unwrap_or_default()
}

/// Why a session failed. After any error but [`Error::Server`] of a command, [`Error::State`] and
/// [`Error::ConfirmedTooFar`] it is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection.
    #[error("replication connection: {0}")]
    Io(#[from] std::io::Error),
    /// Encryption.
    #[error("TLS: {0}")]
    Tls(Box<dyn std::error::Error + Send + Sync>),
    /// An error that the server reports.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// Logging in, apart from what the server reports.
    #[error("authentication: {0}")]
    Authentication(&'static str),
    /// Bytes that the protocol does not know here.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server ended the stream in good order (it shuts down, or follows a new timeline).
    #[error("the server ended the stream")]
    Ended,
    /// Nothing was heard for too long, though an answer was asked for.
    #[error("nothing heard from the server for {0:?}")]
    Silent(Duration),
    /// The session cannot do this now.
    #[error("{0}")]
    State(&'static str),
    /// A confirmation of what was never received: it would lose changes.
    #[error("{flushed} was confirmed, but only {received} was received")]
    ConfirmedTooFar { flushed: Lsn, received: Lsn },
}

impl Error {
    /// The server's SQLSTATE, e.g. `42704` for a slot that is not there, `55006` for one in use.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Server(error) => Some(&error.code),
            _ => None,
        }
    }
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's identifier; a restored copy has the same.
    pub system_identifier: String,
    /// The timeline: differs after a promotion.
    pub timeline: u32,
    /// How far the log is written and flushed.
    pub xlogpos: Lsn,
    /// The database.
    pub dbname: String,
}

/// A slot just created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Transactions that commit at or behind it are streamed; those before are in the snapshot.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT` in other sessions, until this session's next command or its end.
    pub snapshot: String,
}

/// How changes shall be streamed. What a server is too old for is left out (streaming, messages, binary: before 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Large transactions before their commit, in parts (protocol 2).
    pub streaming: bool,
    /// `pg_logical_emit_message` too.
    pub messages: bool,
    /// Values in binary form where their types have one.
    pub binary: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions { streaming: true, messages: true, binary: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    /// A command was sent; its answer is not read. Stays so when the command's future is dropped.
    Waiting,
    Streaming,
    Broken,
}

/// A replication connection: a walsender of its own.
pub struct ReplicationSession {
    wire: Wire,
    state: State,
    received: Lsn,
    confirmed: Lsn,
    next_status: Instant,
    last_heard: Instant,
    status_interval: Duration,
    silence_limit: Duration,
    streamed: bool,
}

impl ReplicationSession {
    /// Connects. `tls` is asked where `endpoint.ssl_mode` wants it; the connector that SQL sessions use will do.
    pub async fn connect<T>(endpoint: &Endpoint, tls: Option<T>) -> Result<Self, Error>
    where
        T: MakeTlsConnect<TcpStream>,
        T::Stream: Send + Sync + 'static,
    {
        let limit = endpoint.connect_timeout;
        let wire = timeout(limit, Wire::connect(endpoint, tls)).await.map_err(|_| Error::Silent(limit))??;
        let now = Instant::now();
        Ok(ReplicationSession {
            wire,
            state: State::Idle,
            received: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            next_status: now,
            last_heard: now,
            status_interval: Duration::from_secs(10),
            silence_limit: Duration::from_secs(300),
            streamed: false,
        })
    }

    /// `server_version_num`, e.g. 150013.
    pub fn server_version(&self) -> u32 {
        self.wire.server_version
    }

    /// The walsender's process, for `pg_terminate_backend`: the way to end a wait in [`create_slot`](Self::create_slot).
    pub fn backend_pid(&self) -> u32 {
        self.wire.backend_pid
    }

    /// How often a status is sent unasked (10 s unless told), and after what silence the server counts as gone (300 s).
    pub fn set_times(&mut self, status_interval: Duration, silence_limit: Duration) {
        self.status_interval = status_interval;
        self.silence_limit = silence_limit;
        self.next_status = self.next_status.min(Instant::now() + status_interval);
    }

    /// IDENTIFY_SYSTEM. Ends an exported snapshot.
    pub async fn identify(&mut self) -> Result<Identity, Error> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        match row.as_slice() {
            [Some(system), Some(timeline), Some(position), Some(dbname), ..] => Ok(Identity {
                system_identifier: system.clone(),
                timeline: timeline.parse().map_err(|_| unreadable("IDENTIFY_SYSTEM"))?,
                xlogpos: position.parse().map_err(|_| unreadable("IDENTIFY_SYSTEM"))?,
                dbname: dbname.clone(),
            }),
            _ => Err(unreadable("IDENTIFY_SYSTEM")),
        }
    }

    /// TIMELINE_HISTORY: which timelines came before this one, and where each was left. The first has none.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<String, Error> {
        let row = self.one_row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        match row.as_slice() {
            [_, Some(content), ..] => Ok(content.clone()),
            _ => Err(unreadable("TIMELINE_HISTORY")),
        }
    }

    /// A replication connection to a database takes queries as well.
    async fn is_standby(&mut self) -> Result<bool, Error> {
        let row = self.one_row("SELECT pg_is_in_recovery()").await?;
        Ok(row.first().is_some_and(|v| v.as_deref() == Some("t")))
    }

    /// CREATE_REPLICATION_SLOT … LOGICAL pgoutput, exporting a snapshot. Waits until all transactions that run have
    /// ended, without a limit; a temporary slot goes with the session, any other is kept on standbys too where the server can do that (17). When the future is dropped, so has the session to
    /// be (and the walsender may wait on: see [`backend_pid`](Self::backend_pid)).
    pub async fn create_slot(&mut self, name: &str, temporary: bool) -> Result<CreatedSlot, Error> {
        let failover = self.wire.server_version >= 170_000 && !temporary && !self.is_standby().await?;
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let export = match self.wire.server_version {
            170_000.. if failover => "(SNAPSHOT 'export', FAILOVER)",
            150_000.. => "(SNAPSHOT 'export')",
            _ => "EXPORT_SNAPSHOT",
        };
        let sql = format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {export}", identifier(name));
        let row = self.one_row(&sql).await?;
        match row.as_slice() {
            [Some(name), Some(point), Some(snapshot), ..] => Ok(CreatedSlot {
                name: name.clone(),
                consistent_point: point.parse().map_err(|_| unreadable("CREATE_REPLICATION_SLOT"))?,
                snapshot: snapshot.clone(),
            }),
            _ => Err(unreadable("CREATE_REPLICATION_SLOT")),
        }
    }

    /// DROP_REPLICATION_SLOT. With `wait`, a slot in use is waited for; without, it is an error (55006).
    pub async fn drop_slot(&mut self, name: &str, wait: bool) -> Result<(), Error> {
        let wait = if wait { " WAIT" } else { "" };
        self.command(&format!("DROP_REPLICATION_SLOT {}{wait}", identifier(name))).await.map(drop)
    }

    /// START_REPLICATION with pgoutput. The server begins at the later of `from` and the slot's own confirmed position
    /// ([`Lsn::ZERO`]: at the latter). Nothing is confirmed by it. Once a session: a walsender that has ended one logical
    /// stream ends a second one at once (seen with 15), so connect anew.
    pub async fn start(
        &mut self,
        slot: &str,
        from: Lsn,
        publications: &[&str],
        options: StreamOptions,
    ) -> Result<(), Error> {
        self.expect(State::Idle)?;
        if self.streamed {
            return Err(Error::State("a replication session streams once"));
        }
        let new = self.wire.server_version >= 140_000;
        let names: Vec<String> = publications.iter().map(|name| identifier(name)).collect();
        let mut sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '{}', publication_names {}",
            identifier(slot),
            if new && options.streaming { 2 } else { 1 },
            literal(&names.join(",")),
        );
        for (wanted, option) in [
            (options.streaming, ", streaming 'on'"),
            (options.messages, ", messages 'true'"),
            (options.binary, ", binary 'true'"),
        ] {
            if new && wanted {
                sql.push_str(option);
            }
        }
        sql.push(')');
        self.state = State::Waiting;
        let result = self.wire.begin_copy(&sql).await;
        self.state = match &result {
            Ok(()) => State::Streaming,
            Err(Error::Server(error)) if error.severity == "ERROR" => State::Idle,
            Err(_) => State::Broken,
        };
        result?;
        self.streamed = true;
        let now = Instant::now();
        (self.received, self.confirmed) = (from, Lsn::ZERO);
        (self.last_heard, self.next_status) = (now, now + self.status_interval);
        Ok(())
    }

    /// The next messages, at least one: all that has arrived. While it waits, the status is repeated every interval and
    /// whenever the server asks.
    ///
    /// Cancel safe: a dropped future loses nothing, so it may stand in a `select!` beside a timer that confirms. A
    /// caller that does something else for long meanwhile wraps that in [`alive_while`](Self::alive_while), else the
    /// server hangs up after its `wal_sender_timeout`.
    pub async fn next_block(&mut self) -> Result<Block, Error> {
        self.expect(State::Streaming)?;
        let result = self.read_block().await;
        if result.is_err() {
            self.state = State::Broken;
        }
        result
    }

    async fn read_block(&mut self) -> Result<Block, Error> {
        loop {
            let scan = block::scan(&self.wire.input)?;
            if scan.length > 0 {
                self.received = self.received.max(scan.wal_end);
                self.last_heard = Instant::now();
                let bytes = self.wire.input.split_to(scan.length).freeze();
                if scan.reply_requested || self.last_heard >= self.next_status {
                    self.queue_status(false);
                    let written = self.wire.write_now().await;
                    // What was read is to be handed out first; a broken socket says so at the next read.
                    drop(written);
                }
                return Ok(Block::new(bytes));
            }
            if let Some(tag) = scan.terminal {
                loop {
                    // Notices may stand before it.
                    let (found, body) = self.wire.message().await?;
                    if found == tag {
                        return Err(if tag == b'E' { wire::server_error(&body) } else { Error::Ended });
                    }
                }
            }
            match timeout_at(self.next_status, self.wire.fill()).await {
                Ok(read) => read?,
                Err(_) => {
                    let silent = self.last_heard.elapsed();
                    if silent >= self.silence_limit {
                        return Err(Error::Silent(silent));
                    }
                    self.queue_status(silent >= self.silence_limit / 2);
                }
            }
        }
    }

    /// Lets messages gather in the socket: until the next call of [`next_block`](Self::next_block) they wake nobody.
    pub fn rest(&mut self) -> Result<(), Error> {
        self.expect(State::Streaming)?;
        self.wire.rest().inspect_err(|_| self.state = State::Broken)
    }

    /// Tells the server that everything up to `flushed` is durable downstream, and so may be forgotten: an `end_lsn` of
    /// a commit or, when all that came before is durable, the `wal_end` of a keepalive (that moves an idle slot, and
    /// lets the server shut down). It never goes back: a smaller place repeats the greater. With `reply`, the server
    /// answers by a keepalive. Cancel safe: the status stays queued.
    pub async fn confirm(&mut self, flushed: Lsn, reply: bool) -> Result<(), Error> {
        self.expect(State::Streaming)?;
        if flushed > self.received {
            return Err(Error::ConfirmedTooFar { flushed, received: self.received });
        }
        self.confirmed = self.confirmed.max(flushed);
        self.queue_status(reply);
        let result = self.wire.flush().await;
        if result.is_err() {
            self.state = State::Broken;
        }
        result
    }

    /// What was confirmed last, zero if nothing.
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// How far the stream was received.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Tells the server that we are there, though nothing is read now: to be called more often than every `wal_sender_timeout` by who
    /// cannot use [`alive_while`](Self::alive_while). Cancel safe.
    pub async fn alive(&mut self) -> Result<(), Error> {
        self.confirm(self.confirmed, false).await?;
        // Time in which nobody listens is no silence of the server's.
        self.last_heard = Instant::now();
        Ok(())
    }

    /// Waits for `work` (the log that is full, say) and repeats the status meanwhile, without reading.
    pub async fn alive_while<F: Future>(&mut self, work: F) -> Result<F::Output, Error> {
        self.expect(State::Streaming)?;
        let mut work = std::pin::pin!(work);
        loop {
            match timeout_at(self.next_status, work.as_mut()).await {
                Ok(output) => {
                    // Time in which nobody listened is no silence of the server's.
                    self.last_heard = Instant::now();
                    return Ok(output);
                }
                Err(_) => {
                    self.queue_status(false);
                    self.wire.flush().await.inspect_err(|_| self.state = State::Broken)?;
                }
            }
        }
    }

    /// Ends the stream in good order, dropping what still comes; the slot is free, and the session takes commands again
    /// (but streams no more).
    pub async fn stop(&mut self) -> Result<(), Error> {
        self.expect(State::Streaming)?;
        self.state = State::Waiting;
        frontend::copy_done(&mut self.wire.output);
        self.wire.flush().await?;
        let mut failed = None;
        loop {
            let (tag, body) = self.wire.message().await?;
            match tag {
                b'E' => failed = Some(wire::server_error(&body)),
                b'Z' => break,
                _ => {}
            }
        }
        self.state = State::Idle;
        failed.map_or(Ok(()), Err)
    }

    /// Hangs up in good order. (Dropping the session does it without.)
    pub async fn close(mut self) -> Result<(), Error> {
        frontend::terminate(&mut self.wire.output);
        self.wire.flush().await
    }

    /// Standby status update: 'r', written, flushed, applied, clock, whether to reply.
    fn queue_status(&mut self, reply: bool) {
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let out = &mut self.wire.output;
        // At most a few wait at a time: the socket would have to be full.
        if out.len() > 16 * 1024 {
            return;
        }
        out.put_u8(b'd');
        out.put_u32(4 + 34);
        out.put_u8(b'r');
        out.put_u64(self.received.0);
        out.put_u64(self.confirmed.0);
        out.put_u64(self.confirmed.0);
        out.put_i64(clock - EPOCH_SHIFT_MICROS);
        out.put_u8(reply.into());
        self.next_status = Instant::now() + self.status_interval;
    }

    fn expect(&self, wanted: State) -> Result<(), Error> {
        match self.state {
            state if state == wanted => Ok(()),
            State::Idle => Err(Error::State("the replication session does not stream")),
            State::Streaming => Err(Error::State("the replication session streams")),
            State::Waiting => Err(Error::State("a command of the replication session was abandoned")),
            State::Broken => Err(Error::State("the replication session has failed before")),
        }
    }

    async fn command(&mut self, sql: &str) -> Result<wire::Rows, Error> {
        self.expect(State::Idle)?;
        self.state = State::Waiting;
        let result = self.wire.query(sql).await;
        self.state = match &result {
            Ok(_) => State::Idle,
            Err(Error::Server(error)) if error.severity == "ERROR" => State::Idle,
            Err(_) => State::Broken,
        };
        result
    }

    async fn one_row(&mut self, sql: &str) -> Result<Vec<Option<String>>, Error> {
        self.command(sql).await?.pop().ok_or_else(|| unreadable("a command"))
    }
}

fn unreadable(what: &str) -> Error {
    Error::Protocol(format!("an unreadable answer to {what}"))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal(&identifier("o'b")), r#"'"o''b"'"#);
    }
}
