//! A database server whatever its engine, and a session on one: what lets one description of a test run against all of them.
//! Statements are texts in the engine's own dialect, values come back as text.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use mysql_async::prelude::Queryable;
use tokio_postgres::SimpleQueryMessage;

use crate::mysql::shown;
use crate::process::Process;
use crate::{MySql, PgOptions, Postgres, Release, mysql, postgres};

/// Which server program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// PostgreSQL of this major version.
    Postgres(u32),
    /// MySQL or MariaDB.
    MySql(Release),
}

/// The SQL that an engine speaks, as far as tests must tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    Postgres,
    /// Of MySQL and MariaDB.
    MySql,
}

impl Engine {
    /// The kind of connection in a migration file.
    pub fn kind(self) -> &'static str {
        match self {
            Engine::Postgres(_) => "postgres",
            Engine::MySql(release) => release.kind(),
        }
    }

    /// Its SQL.
    pub fn dialect(self) -> Dialect {
        match self {
            Engine::Postgres(_) => Dialect::Postgres,
            Engine::MySql(_) => Dialect::MySql,
        }
    }

    /// Where tests keep the data that is migrated. With MySQL `drover` is the database of drover's own tables.
    pub fn database(self) -> &'static str {
        match self {
            Engine::Postgres(_) => "drover",
            Engine::MySql(_) => "app",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Postgres(version) => write!(f, "PostgreSQL {version}"),
            Engine::MySql(Release::MySql9) => f.write_str("MySQL 9"),
            Engine::MySql(Release::MariaDb10) => f.write_str("MariaDB 10.11"),
            Engine::MySql(Release::MariaDb11) => f.write_str("MariaDB 11.8"),
        }
    }
}

impl Dialect {
    /// A relation of one column `i` with the numbers from 1 to `last`, to stand in FROM with the alias `i`.
    pub fn series(self, last: u64) -> String {
        match self {
            Dialect::Postgres => format!("generate_series(1, {last}::bigint)"),
            Dialect::MySql => {
                // One relation of ten digits for each digit of the last number: servers bound the depth of recursion.
                let ten = (0..10).map(|d| format!("SELECT {d} AS d")).collect::<Vec<_>>().join(" UNION ALL ");
                let places = last.saturating_sub(1).to_string().len();
                let sum = (0..places).map(|p| format!("d{p}.d * {}", 10_u64.pow(p as u32))).collect::<Vec<_>>();
                let from = (0..places).map(|p| format!("({ten}) d{p}")).collect::<Vec<_>>();
                let sum = sum.join(" + ");
                format!("(SELECT 1 + {sum} AS i FROM {} WHERE {sum} < {last})", from.join(", "))
            }
        }
    }
}

/// A running server of any engine; it is stopped and its data removed when the value is dropped.
#[derive(Debug)]
pub enum Server {
    Postgres(Postgres),
    MySql(MySql),
}

/// Calls the method of the server that it is.
macro_rules! either {
    ($self:expr, $server:ident => $call:expr) => {
        match $self {
            Server::Postgres($server) => $call,
            Server::MySql($server) => $call,
        }
    };
}

impl Server {
    /// Starts a fresh server; `settings` by name over the harness's own. It accepts connections when this returns.
    pub async fn start(engine: Engine, settings: &[(&str, &str)]) -> Result<Server> {
        match engine {
            Engine::Postgres(version) => Postgres::start(PgOptions { version, settings }).await.map(Server::Postgres),
            Engine::MySql(release) => MySql::start(release, settings).await.map(Server::MySql),
        }
    }

    /// Which server program it is.
    pub fn engine(&self) -> Engine {
        match self {
            Server::Postgres(server) => Engine::Postgres(server.version()),
            Server::MySql(server) => Engine::MySql(server.release()),
        }
    }

    /// Its SQL.
    pub fn dialect(&self) -> Dialect {
        self.engine().dialect()
    }

    /// The URL of one of its databases, as a migration file takes it.
    pub fn url(&self, database: &str) -> String {
        either!(self, server => server.url(database))
    }

    /// Its port on 127.0.0.1. It stays the same over restarts.
    pub fn port(&self) -> u16 {
        either!(self, server => server.port())
    }

    /// The folder that holds its data and its socket.
    pub fn folder(&self) -> &Path {
        either!(self, server => server.folder())
    }

    /// A new session.
    pub async fn connect(&self, database: &str) -> Result<Session> {
        Session::connect(&self.url(database)).await
    }

    /// A new session in a database that is there whatever becomes of the others.
    pub async fn admin(&self) -> Result<Session> {
        match self {
            Server::Postgres(server) => Session::connect(&server.url("drover")).await,
            Server::MySql(server) => Session::connect(&server.url("mysql")).await,
        }
    }

    /// Runs statements that return nothing, in a session of their own. Whether several in one string are one transaction is
    /// the engine's custom: in PostgreSQL they are.
    pub async fn exec(&self, database: &str, sql: &str) -> Result<()> {
        either!(self, server => server.exec(database, sql).await)
    }

    /// The first column of the first row as text (`None`: null), in a session of its own. No row is an error.
    pub async fn query_one_text(&self, database: &str, sql: &str) -> Result<Option<String>> {
        either!(self, server => server.query_one_text(database, sql).await)
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        either!(self, server => server.create_database(name).await)
    }

    /// The server as a PostgreSQL one.
    pub fn postgres(&self) -> Result<&Postgres> {
        match self {
            Server::Postgres(server) => Ok(server),
            Server::MySql(_) => bail!("{} is no PostgreSQL", self.engine()),
        }
    }

    /// The server as one of the MySQL family.
    pub fn mysql(&self) -> Result<&MySql> {
        match self {
            Server::MySql(server) => Ok(server),
            Server::Postgres(_) => bail!("{} is no MySQL", self.engine()),
        }
    }

    /// The main server process, to send it signals.
    pub fn process_mut(&mut self) -> Result<&mut Process> {
        either!(self, server => server.process_mut())
    }

    /// The end of what the server has logged since its last start.
    pub fn log_tail(&self, lines: usize) -> String {
        either!(self, server => server.log_tail(lines))
    }

    /// Ends all sessions and shuts down cleanly. Nothing happens when it is down.
    pub async fn stop(&mut self) -> Result<()> {
        either!(self, server => server.stop().await)
    }

    /// SIGKILL: a crash. [`Server::restart`] brings it back, through recovery.
    pub async fn kill9(&mut self) -> Result<()> {
        either!(self, server => server.kill9().await)
    }

    /// Stops it if it is up, and starts it again on the same data and port.
    pub async fn restart(&mut self) -> Result<()> {
        either!(self, server => server.restart().await)
    }
}

impl From<Postgres> for Server {
    fn from(server: Postgres) -> Server {
        Server::Postgres(server)
    }
}

impl From<MySql> for Server {
    fn from(server: MySql) -> Server {
        Server::MySql(server)
    }
}

/// A session on a server of any engine.
#[derive(Debug)]
pub enum Session {
    Postgres(tokio_postgres::Client),
    MySql(mysql_async::Conn),
}

/// A value as text, `None` for null. What is no UTF-8 is replaced by marks: for bytes ask the server for a text form of them.
pub type Text = Option<String>;

impl Session {
    /// A session at `url`, by its scheme.
    pub async fn connect(url: &str) -> Result<Session> {
        match url.split_once("://") {
            Some(("postgres", _)) => Ok(Session::Postgres(postgres::connect(url).await?)),
            Some(("mysql", _)) => Ok(Session::MySql(mysql::connect(url).await?)),
            _ => bail!("no engine is known for {url}"),
        }
    }

    /// Its SQL.
    pub fn dialect(&self) -> Dialect {
        match self {
            Session::Postgres(_) => Dialect::Postgres,
            Session::MySql(_) => Dialect::MySql,
        }
    }

    /// Runs statements that return nothing.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        match self {
            Session::Postgres(client) => client.batch_execute(sql).await.with_context(|| shown(sql)),
            Session::MySql(conn) => mysql::run(conn, sql).await,
        }
    }

    /// Runs one statement and returns how many rows it touched.
    pub async fn execute(&mut self, sql: &str) -> Result<u64> {
        match self {
            Session::Postgres(client) => {
                let answers = client.simple_query(sql).await.with_context(|| shown(sql))?;
                let count = answers.iter().find_map(|answer| match answer {
                    SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                    _ => None,
                });
                count.with_context(|| format!("no answer: {sql}"))
            }
            Session::MySql(conn) => {
                conn.query_drop(sql).await.with_context(|| shown(sql))?;
                Ok(conn.affected_rows())
            }
        }
    }

    /// All rows of a query as texts.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Text>>> {
        match self {
            Session::Postgres(client) => {
                let answers = client.simple_query(sql).await.with_context(|| shown(sql))?;
                let rows = answers.iter().filter_map(|answer| match answer {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                    }
                    _ => None,
                });
                Ok(rows.collect())
            }
            Session::MySql(conn) => {
                let rows: Vec<mysql_async::Row> = conn.query(sql).await.with_context(|| shown(sql))?;
                rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
            }
        }
    }

    /// The only row of a query. Any other number of rows is an error.
    pub async fn row(&mut self, sql: &str) -> Result<Vec<Text>> {
        let rows = self.rows(sql).await?;
        match <[Vec<Text>; 1]>::try_from(rows) {
            Ok([row]) => Ok(row),
            Err(rows) => Err(anyhow!("{} rows in place of one: {sql}", rows.len())),
        }
    }

    /// The first column of the only row.
    pub async fn text(&mut self, sql: &str) -> Result<Text> {
        self.row(sql).await?.into_iter().next().with_context(|| format!("no column: {sql}"))
    }

    /// The same as a whole number.
    pub async fn number(&mut self, sql: &str) -> Result<i64> {
        number(&self.text(sql).await?).with_context(|| shown(sql))
    }

    /// All rows of a query of whole numbers that are not null.
    pub async fn numbers(&mut self, sql: &str) -> Result<Vec<Vec<i64>>> {
        let rows = self.rows(sql).await?;
        let rows = rows.iter().map(|row| row.iter().map(number).collect::<Result<Vec<i64>>>());
        rows.collect::<Result<_>>().with_context(|| shown(sql))
    }
}

/// A text as a whole number.
pub fn number(text: &Text) -> Result<i64> {
    let text = text.as_deref().context("null in place of a number")?;
    text.parse().with_context(|| format!("no whole number: {text}"))
}

fn text(value: mysql_async::Value) -> Result<Text> {
    match value {
        mysql_async::Value::NULL => Ok(None),
        mysql_async::Value::Bytes(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // Answers in the binary protocol only.
        other => bail!("{other:?} in a text answer"),
    }
}

/// Whether the server chose this transaction as the victim of a circle of waiting, and has rolled it back. With InnoDB any two
/// transactions may meet in one, by locks on the gaps between keys, and an application has to be ready to begin again.
pub fn deadlock(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<mysql_async::Error>(), Some(mysql_async::Error::Server(error)) if error.code == 1213)
}
