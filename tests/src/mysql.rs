//! A MySQL or MariaDB server of its own: fresh data folder, free port of 127.0.0.1, user `drover` with all rights and no password,
//! database `drover`, a binary log of whole rows with GTIDs. It dies with the test process. Its server id is its port.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{self, Process};
use crate::{scripts, wait};

/// How long a server may take to come up (recovery after a kill included) or to go down.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// MySQL 9, as Debian's unstable suite has it.
    MySql9,
    /// MariaDB 10.11.
    MariaDb10,
    /// MariaDB 11.8.
    MariaDb11,
}

impl Release {
    /// All of them.
    pub const ALL: [Release; 3] = [Release::MySql9, Release::MariaDb10, Release::MariaDb11];

    /// The kind of connection in a migration file, which is the script's name as well.
    pub fn kind(self) -> &'static str {
        match self {
            Release::MySql9 => "mysql",
            Release::MariaDb10 | Release::MariaDb11 => "mariadb",
        }
    }

    /// Whether it is a MariaDB.
    pub fn is_mariadb(self) -> bool {
        self != Release::MySql9
    }

    /// As `deploy/servers/mysql` and `deploy/servers/mariadb` take it.
    fn version(self) -> &'static str {
        match self {
            Release::MySql9 => "9",
            Release::MariaDb10 => "10.11",
            Release::MariaDb11 => "11.8",
        }
    }
}

/// A server; it is stopped and its data removed when the value is dropped.
#[derive(Debug)]
pub struct MySql {
    process: Option<Process>,
    port: Port,
    release: Release,
    settings: Vec<String>,
    folder: TempDir,
}

impl MySql {
    /// Starts a fresh server; it accepts connections when this returns. `settings` are those of its command line by name, over the
    /// harness's own (see `deploy/servers/mysql-family.sh`).
    pub async fn start(release: Release, settings: &[(&str, &str)]) -> Result<MySql> {
        let settings = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let folder = scripts::folder("my")?;
        scripts::output(release.kind(), &["init", path(&folder)?, release.version()]).await?;
        let mut server = MySql { process: None, port: Port::reserve()?, release, settings, folder };
        for attempt in 1.. {
            match server.serve().await {
                // Somebody who does not know our reservations may have taken the port since.
                Err(error) if attempt < 3 && format!("{error:#}").contains("Address already in use") => {
                    server.port = Port::reserve()?;
                }
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        Ok(server)
    }

    /// Starts the server process and waits until it accepts connections.
    async fn serve(&mut self) -> Result<()> {
        let name = self.release.kind();
        let mut command = Command::new(scripts::path(name));
        command.args(["run", path(&self.folder)?, &self.port().to_string()]).args(&self.settings);
        let mut process = Process::spawn(name, command, self.folder.path())?;
        // The one database that nobody drops.
        let url = self.url("mysql");
        let ready = wait::until("the server accepts connections", PATIENCE, || {
            let ended = process.try_exit();
            let url = url.clone();
            async move {
                if let Some(status) = ended? {
                    return Ok(Some(Err(anyhow!("the server ended with {status}"))));
                }
                connect(&url).await.map(|_| Some(Ok(())))
            }
        })
        .await;
        ready.and_then(|started| started).with_context(|| process.tail(30))?;
        self.process = Some(process);
        Ok(())
    }

    /// `mysql://drover@127.0.0.1:PORT/DATABASE`
    pub fn url(&self, database: &str) -> String {
        format!("mysql://drover@127.0.0.1:{}/{database}", self.port())
    }

    /// Its port on 127.0.0.1, which is its server id. It stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Which server it is.
    pub fn release(&self) -> Release {
        self.release
    }

    /// The folder that holds its data (`data/`, with the binary log's files) and its socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new session.
    pub async fn connect(&self, database: &str) -> Result<Conn> {
        connect(&self.url(database)).await
    }

    /// Runs statements that return nothing, in a session of their own. They stand in one string, each ended by `;`; each is a
    /// transaction unless the string begins one.
    pub async fn exec(&self, database: &str, sql: &str) -> Result<()> {
        let mut session = self.connect(database).await?;
        run(&mut session, sql).await?;
        Ok(session.disconnect().await?)
    }

    /// The first column of the first row as text (`None`: null), in a session of its own. No row is an error.
    pub async fn query_one_text(&self, database: &str, sql: &str) -> Result<Option<String>> {
        let mut session = self.connect(database).await?;
        let found = one::<Option<String>>(&mut session, sql).await?;
        session.disconnect().await?;
        Ok(found)
    }

    /// Numbers of the sessions for which `wanted` holds, asked with user and command, in ascending order. (Not from `information_schema`, which MySQL refuses
    /// to show while a statement with an emoji is under way.)
    pub async fn sessions(&self, wanted: impl Fn(&str, &str) -> bool) -> Result<Vec<u64>> {
        let mut session = self.connect("mysql").await?;
        let rows: Vec<mysql_async::Row> = session.query("SHOW PROCESSLIST").await?;
        session.disconnect().await?;
        let text = |row: &mysql_async::Row, i| row.get::<Option<String>, usize>(i).flatten().unwrap_or_default();
        let rows = rows.iter().filter(|row| wanted(&text(row, 1), &text(row, 4)));
        let mut found: Vec<u64> = rows.filter_map(|row| row.get(0)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.exec("mysql", &format!("CREATE DATABASE `{}`", name.replace('`', "``"))).await
    }

    /// A program of the server's own release: `mysql` (MariaDB: `mariadb`), with the arguments that make it log in.
    pub fn client(&self) -> Result<Command> {
        let prefix = std::fs::read_to_string(self.folder.path().join("prefix"))?;
        let name = if self.release.is_mariadb() { "mariadb" } else { "mysql" };
        let mut command = Command::new(Path::new(prefix.trim()).join("bin").join(name));
        command.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--user=drover", "--port"]);
        command.arg(self.port().to_string());
        Ok(command)
    }

    /// Feeds a file of SQL to the client program, which stops at the first error.
    pub async fn client_file(&self, database: &str, file: &Path) -> Result<()> {
        let mut command = self.client()?;
        command.args(["--default-character-set=utf8mb4", database]);
        command.stdin(Stdio::from(std::fs::File::open(file)?));
        let done = tokio::task::spawn_blocking(move || command.output()).await??;
        if !done.status.success() {
            bail!("{}: {}", file.display(), String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// The server process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the server is down")?.pid())
    }

    /// The process with its memory, output and signals (`freeze`, `thaw`).
    pub fn process_mut(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the server is down")
    }

    /// CPU seconds since its last start.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid()?)
    }

    /// The end of what the server has logged since its last start.
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.as_ref().map(|process| process.tail(lines)).unwrap_or_default()
    }

    /// Ends all sessions and shuts down cleanly (SIGTERM). Nothing happens when it is down.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate()?;
            process.wait_exit(PATIENCE).await?;
        }
        Ok(())
    }

    /// SIGKILL: a crash. [`MySql::restart`] brings it back, through recovery.
    pub async fn kill9(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Stops it if it is up, and starts it again on the same data and port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.serve().await
    }

    /// The same, with other settings from now on.
    pub async fn restart_with(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        self.settings = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.restart().await
    }
}

fn path(folder: &TempDir) -> Result<&str> {
    folder.path().to_str().context("the temporary folder's name is not UTF-8")
}

/// A session at `url`, over TCP.
pub async fn connect(url: &str) -> Result<Conn> {
    let options = OptsBuilder::from_opts(mysql_async::Opts::from_url(url)?).prefer_socket(false).stmt_cache_size(0);
    // Rows that a statement met, not only those it changed.
    let options = options.client_found_rows(true);
    Ok(Conn::new(options).await?)
}

/// Runs statements that return nothing, each ended by `;`, and stops at the first error.
pub async fn run(session: &mut Conn, sql: &str) -> Result<()> {
    // This reads the answers of all statements: an error of a later one is not lost.
    session.query_drop(sql).await.with_context(|| shown(sql))
}

/// The first row. No row is an error.
pub async fn one<T: FromRow + Send + 'static>(session: &mut Conn, sql: &str) -> Result<T> {
    session.query_first(sql).await.with_context(|| shown(sql))?.with_context(|| format!("no row: {}", shown(sql)))
}

/// A statement for a message, which may be very long.
pub(crate) fn shown(sql: &str) -> String {
    let mut short: String = sql.chars().take(400).collect();
    if short.len() < sql.len() {
        short.push('…');
    }
    short
}
