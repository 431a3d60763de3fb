//! A PostgreSQL server of its own: fresh data folder, free port of 127.0.0.1, superuser and database `drover`, any password
//! (or none) accepted, `wal_level = logical`. It dies with the test process. Each server has a system identifier of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::ports::Port;
use crate::process::{self, Process};
use crate::{scripts, wait};

/// How long a server may take to come up (recovery after a kill included) or to go down.
const PATIENCE: Duration = Duration::from_secs(60);

/// What server to start.
#[derive(Clone, Copy, Debug)]
pub struct PgOptions<'a> {
    /// Major version: 15 and 17 are prepared by `deploy/servers/install test`; 13 and 18 are fetched on demand.
    pub version: u32,
    /// Server settings by name, over the harness's own (see `deploy/servers/postgres`).
    pub settings: &'a [(&'a str, &'a str)],
}

impl Default for PgOptions<'_> {
    fn default() -> Self {
        PgOptions { version: 15, settings: &[] }
    }
}

/// A server; it is stopped and its data removed when the value is dropped.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    port: Port,
    version: u32,
    settings: Vec<String>,
    folder: TempDir,
}

impl Postgres {
    /// Starts a fresh server; it accepts connections when this returns.
    pub async fn start(options: PgOptions<'_>) -> Result<Postgres> {
        let settings = options.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let folder = scripts::folder("pg")?;
        let version = options.version;
        scripts::output("postgres", &["init", path(&folder)?, &version.to_string()]).await?;
        let mut server = Postgres { process: None, port: Port::reserve()?, version, settings, folder };
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

    /// A version 15 server with the harness's settings.
    pub async fn start_default() -> Result<Postgres> {
        Postgres::start(PgOptions::default()).await
    }

    /// Starts a standby of this server, which keeps copies of its failover slots; the server gets a slot of this name for it.
    pub async fn standby(&self, slot: &str) -> Result<Postgres> {
        let folder = scripts::folder("pg")?;
        let (version, port) = (self.version.to_string(), self.port().to_string());
        scripts::output("postgres", &["standby", path(&folder)?, &version, &port, slot]).await?;
        let settings = ["hot_standby_feedback=on", "sync_replication_slots=on"].map(str::to_owned).into();
        let mut standby = Postgres { process: None, port: Port::reserve()?, version: self.version, settings, folder };
        standby.serve().await?;
        Ok(standby)
    }

    /// What operators do when the primary is dead: the standby is promoted, and clients reach it where the primary was, whose value this one
    /// becomes. The former primary's folder goes with the value that is returned.
    pub async fn fail_over(&mut self, mut standby: Postgres) -> Result<Postgres> {
        standby.stop().await?;
        std::mem::swap(&mut self.port, &mut standby.port);
        std::mem::swap(self, &mut standby);
        self.serve().await?;
        self.exec("postgres", "SELECT pg_promote()").await?;
        Ok(standby)
    }

    /// Starts the server process and waits until it accepts connections.
    async fn serve(&mut self) -> Result<()> {
        let mut command = Command::new(scripts::path("postgres"));
        command.args(["run", path(&self.folder)?, &self.port().to_string()]).args(&self.settings);
        let mut process = Process::spawn("postgres", command, self.folder.path())?;
        let url = self.url("drover");
        let ready = wait::until("PostgreSQL accepts connections", PATIENCE, || {
            let ended = process.try_exit();
            let url = url.clone();
            async move {
                if let Some(status) = ended? {
                    return Ok(Some(Err(anyhow!("PostgreSQL ended with {status}"))));
                }
                connect(&url).await.map(|_| Some(Ok(())))
            }
        })
        .await;
        ready.and_then(|started| started).with_context(|| process.tail(30))?;
        self.process = Some(process);
        Ok(())
    }

    /// `postgres://drover@127.0.0.1:PORT/DATABASE`
    pub fn url(&self, database: &str) -> String {
        format!("postgres://drover@127.0.0.1:{}/{database}", self.port())
    }

    /// Its port on 127.0.0.1. It stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Major version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The folder that holds its data (`data/`) and its socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new session; a task of the current runtime drives it until the client is dropped.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.url(database)).await
    }

    /// Runs statements that return nothing, in a session of their own. Several in one string are one transaction.
    pub async fn exec(&self, database: &str, sql: &str) -> Result<()> {
        self.connect(database).await?.batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    /// The first column of the first row as text (`None`: null), in a session of its own. No row is an error.
    pub async fn query_one_text(&self, database: &str, sql: &str) -> Result<Option<String>> {
        query_one_text(&self.connect(database).await?, sql).await
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.exec("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await
    }

    /// Feeds a file of SQL to `psql`, which stops at the first error.
    pub async fn psql_file(&self, database: &str, file: &Path) -> Result<()> {
        let programs = std::fs::read_to_string(self.folder.path().join("bin"))?;
        let mut command = Command::new(Path::new(programs.trim()).join("psql"));
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-f"]).arg(file);
        let done = tokio::task::spawn_blocking(move || command.output()).await??;
        if !done.status.success() {
            bail!("psql -f {}: {}", file.display(), String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// The main server process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("PostgreSQL is down")?.pid())
    }

    /// The main server process with its memory, output and signals.
    pub fn process_mut(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("PostgreSQL is down")
    }

    /// All processes of the server that live now.
    pub fn pids(&self) -> Result<Vec<u32>> {
        Ok(process::tree(self.pid()?))
    }

    /// CPU seconds of all its processes since its last start.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid()?)
    }

    /// The end of what the server has logged since its last start.
    pub fn log_tail(&self, lines: usize) -> String {
        self.process.as_ref().map(|process| process.tail(lines)).unwrap_or_default()
    }

    /// Ends all sessions and shuts down cleanly (SIGINT). Nothing happens when it is down.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.interrupt()?;
            process.wait_exit(PATIENCE).await?;
        }
        Ok(())
    }

    /// SIGKILL to all processes of the server at once: a crash. [`Postgres::restart`] brings it back, through recovery.
    pub async fn kill9(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let mut pids = process::tree(process.pid());
        // The main process first: it would begin a recovery of its own when it sees a child die.
        process.kill9()?;
        pids.iter().for_each(|pid| process::send(*pid, Signal::KILL));
        wait::until("all PostgreSQL processes are gone", PATIENCE, || {
            pids.retain(|pid| process::alive(*pid));
            std::future::ready(if pids.is_empty() { Ok(Some(())) } else { Err(anyhow!("{pids:?} live")) })
        })
        .await
    }

    /// Stops it if it is up, and starts it again on the same data and port.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.serve().await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // An immediate shutdown, for a killed server would leave a shared memory segment behind.
            if process.signal(Signal::QUIT).is_ok() {
                wait::blocking(Duration::from_secs(5), || !process.running());
            }
        }
    }
}

fn path(folder: &TempDir) -> Result<&str> {
    folder.path().to_str().context("the temporary folder's name is not UTF-8")
}

/// A session at `url`, driven by a task of the current runtime until the client is dropped.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column of the first row as text (`None`: null). No row is an error.
pub async fn query_one_text(client: &Client, sql: &str) -> Result<Option<String>> {
    let messages = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.with_context(|| format!("no row: {sql}"))?.get(0).map(str::to_owned))
}
