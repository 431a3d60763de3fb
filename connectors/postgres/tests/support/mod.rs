//! What the replication tests share: a server, a way to say what a stream holds, and recorded streams.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use drover_connectors_postgres::pgoutput::{Message, Old, Tuple, Value};
use tokio_postgres::{Client, NoTls};

/// A PostgreSQL 15 server that dies with the test.
pub struct Postgres {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Postgres {
    pub async fn start(settings: &[&str]) -> Result<Postgres> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/servers/postgres");
        let folder = tempfile::Builder::new().prefix("pg").tempdir()?;
        // The server's own user has to get in.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let done = Command::new(&script).arg("init").arg(folder.path()).arg("15").output()?;
        if !done.status.success() {
            bail!("init: {}", String::from_utf8_lossy(&done.stderr));
        }
        for _ in 0..3 {
            let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let log = std::fs::File::create(folder.path().join("log"))?;
            let mut child = Command::new(&script)
                .arg("run")
                .arg(folder.path())
                .arg(port.to_string())
                .args(settings)
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?;
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            while tokio::time::Instant::now() < deadline && child.try_wait()?.is_none() {
                if connect(port).await.is_ok() {
                    return Ok(Postgres { child, port, folder });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        bail!("no start: {}", std::fs::read_to_string(folder.path().join("log"))?)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn connect(&self) -> Result<Client> {
        connect(self.port).await
    }

    pub fn url(&self) -> String {
        format!("postgres://drover@127.0.0.1:{}/drover", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT to our own child: a polite shutdown would wait for streams that never confirm.
        let _ = Command::new("kill").arg("-QUIT").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

async fn connect(port: u16) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(&format!("postgres://drover@127.0.0.1:{port}/drover"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Says what a stream holds in words that are the same in each run: names for ids, no positions, no times.
#[derive(Default)]
pub struct Teller {
    relations: HashMap<u32, String>,
}

impl Teller {
    pub fn tell(&mut self, message: &Message<'_>) -> Option<String> {
        let name = |oid: &u32| self.relations.get(oid).cloned().unwrap_or_else(|| "?".into());
        Some(match message {
            Message::Begin { .. } => "begin".into(),
            Message::Commit { .. } => "commit".into(),
            Message::Relation(r) => {
                self.relations.insert(r.oid, r.name.to_owned());
                let columns: Vec<String> = r
                    .columns
                    .iter()
                    .map(|c| format!("{}{}:{}", if c.key { "*" } else { "" }, c.name, kind(c.type_oid)))
                    .collect();
                format!("relation {}.{} {:?} ({})", r.namespace, r.name, r.replica_identity, columns.join(", "))
            }
            Message::Type { namespace, name, .. } => format!("type {namespace}.{name}"),
            Message::Insert { oid, new, .. } => format!("insert {} {}", name(oid), row(new)),
            Message::Update { oid, old, new, .. } => format!("update {}{} to {}", name(oid), before(old), row(new)),
            Message::Delete { oid, old, .. } => format!("delete {}{}", name(oid), before(old)),
            Message::Truncate { oids, cascade, restart_identity, .. } => {
                let names: Vec<String> = oids.iter().map(|oid| name(&oid)).collect();
                format!("truncate {} cascade={cascade} restart={restart_identity}", names.join(", "))
            }
            Message::Message { transactional, prefix, content, .. } => {
                format!("message {transactional} {prefix} {}", String::from_utf8_lossy(content))
            }
            other => format!("{other:?}"),
        })
    }
}

fn before(old: &Old<'_>) -> String {
    match old {
        Old::None => String::new(),
        Old::Key(tuple) => format!(" key {}", row(tuple)),
        Old::Full(tuple) => format!(" full {}", row(tuple)),
    }
}

fn row(tuple: &Tuple<'_>) -> String {
    let values: Vec<String> = tuple
        .iter()
        .map(|value| match value {
            Value::Null => "null".into(),
            Value::Unchanged => "unchanged".into(),
            Value::Text(text) if text.len() > 100 => format!("<{} bytes>", text.len()),
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Value::Binary(bytes) => format!("{bytes:?}"),
        })
        .collect();
    format!("({})", values.join(", "))
}

/// The first text value, as a number.
pub fn first_number(tuple: &Tuple<'_>) -> Result<i64> {
    match tuple.iter().next() {
        Some(Value::Text(text)) => Ok(std::str::from_utf8(text)?.parse()?),
        other => bail!("no number: {other:?}"),
    }
}

fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.bin"))
}

/// Writes a recording: each message behind its length (32 bits, big endian).
pub fn record(name: &str, messages: &[Vec<u8>]) -> Result<()> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
        bytes.extend_from_slice(message);
    }
    Ok(std::fs::write(recording(name), bytes)?)
}

/// Reads a recording.
pub fn recorded(name: &str) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(recording(name)).with_context(|| format!("the recording {name}"))?;
    let (mut rest, mut messages) = (&bytes[..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (message, behind) =
            behind.split_at_checked(u32::from_be_bytes(*length) as usize).context("a torn recording")?;
        messages.push(message.to_vec());
        rest = behind;
    }
    Ok(messages)
}

/// A type's id; those of user-defined types differ from run to run.
fn kind(oid: u32) -> String {
    if oid < 16384 { oid.to_string() } else { "own".into() }
}
