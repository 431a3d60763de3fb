//! The migration file: what an operator asks for, read from TOML and checked as far as that goes without a database.
//!
//! Guarantees: a file is either understood to its last key or refused with every fault found, each with line and remedy;
//! no password is ever shown by `Debug` or a finding. Pure: nothing is read but the text given, so that `{ env }` and
//! `{ file }` stay references until the worker that opens the connection resolves them.

mod build;
mod finding;
pub mod keys;
mod read;
mod units;
mod url;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::codes;
use crate::{Error, Fault};

pub use self::finding::Finding;
pub use self::units::{format_duration, format_size, parse_duration, parse_size};
pub use self::url::Url;
pub use crate::plan::{Floats, Operations};
pub use crate::selection::{ColumnRules, ObjectRule};

/// A whole migration, as its file describes it. As JSON (the form in which it is stored and sent to workers) it holds
/// inline passwords in clear: who stores it encrypts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// 1 to 40 of `a-z`, `0-9` and `-`. Names topics, slots and progress rows.
    pub name: String,
    pub source: Endpoint,
    pub destination: Endpoint,
    /// In the order in which they run; each once, one at least.
    pub stages: Vec<Stage>,
    pub on_conflict: OnConflict,
    pub names: Names,
    /// Consent: drover may make the source log whole old rows of tables whose updates and deletes could not be followed
    /// otherwise. Undone by cleanup.
    #[serde(default)]
    pub set_identity: bool,
    /// How floating point numbers are read. None: without loss wherever both sides can.
    #[serde(default)]
    pub floats: Option<Floats>,
    /// None selects everything that a user owns.
    pub objects: Vec<ObjectRule>,
    pub limits: Limits,
    pub retry: RetryWindows,
    /// What happens when a table's schema changes while its changes are followed.
    #[serde(default)]
    pub schema_changes: SchemaPolicy,
    pub log: Log,
}

impl Migration {
    /// Reads a migration file. `origin` is the file's path: it names the file in findings, and relative paths of files are
    /// resolved against its folder. `kinds` are the kinds of database that this build knows.
    ///
    /// # Errors
    /// All faults, in the order of the file.
    pub fn parse(text: &str, origin: &Path, kinds: &[&str]) -> Result<Migration, Vec<Finding>> {
        build::parse(text, origin, kinds)
    }

    /// Whether the stage was asked for.
    pub fn has(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }

    /// A refusal (PERMISSION) with the server and the account that it is about, where its text does not name them. Other errors stay as they are.
    pub fn with_account(&self, mut error: Error) -> Error {
        let (side, endpoint) = match error.fault {
            Fault::Source => ("source", &self.source),
            Fault::Destination => ("destination", &self.destination),
            _ => return error,
        };
        let url = &endpoint.url;
        let user = url.user.as_deref().unwrap_or_default();
        if error.code == codes::PERMISSION && !(error.message.contains(&url.host) && error.message.contains(user)) {
            let port = url.port.map_or_else(String::new, |port| format!(":{port}"));
            error.message = format!("{} ({side} {}{port}, account {user:?})", error.message, url.host);
        }
        error
    }
}

/// A database to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which connector opens it.
    pub kind: String,
    pub url: Url,
    /// Whether it stood in the url or apart.
    pub password: Option<SecretSource>,
    pub tls: Tls,
}

/// A secret text. It is shown by no `Debug`; `Display` it lacks on purpose.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the connection that needs it and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret comes from. The worker that opens the connection resolves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    Inline(Secret),
    /// Name of an environment variable of the worker.
    Env(String),
    /// A file of the worker; a line end at its end does not belong to the secret.
    File(PathBuf),
}

/// How a connection is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    pub mode: TlsMode,
    /// Certificates that sign the server's; None: those of the system.
    pub ca: Option<PathBuf>,
    /// Certificate that we show; always together with `key`.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What of the server's certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No encryption.
    #[default]
    Off,
    /// Encrypted, but with whom is not verified; the operator said `unverified = true`.
    Require,
    /// Signed by `ca`, whatever the host's name.
    VerifyCa,
    /// Signed by `ca`, and for this host.
    VerifyFull,
}

/// What a migration is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Schema,
    Full,
    Incremental,
}

impl Stage {
    /// In the order in which they run.
    pub const ALL: [Stage; 3] = [Stage::Schema, Stage::Full, Stage::Incremental];
}

/// What happens when a table of that name exists at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    #[default]
    Fail,
    Ignore,
}

/// What happens when the schema of a selected table changes while its changes are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaPolicy {
    /// It is carried over; what cannot be carried over stops the migration at its place.
    #[default]
    Replicate,
    /// It is carried over; where it cannot be, the table is not followed any more, and the others go on.
    StopTable,
    /// Any change of columns, rows or existence stops the migration at its place.
    Stop,
}

/// Capitalization of names at the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    #[default]
    Default,
    /// As the source does by default.
    Source,
    /// As the destination does by default.
    Destination,
}

/// Bounds of the load that drover puts on the databases; each may change while the migration runs. 0: unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub full: FullLimits,
    pub incremental: IncrementalLimits,
    /// A snapshot is given up after so long, and a new one taken. Zero: never.
    #[serde(with = "units::duration_text")]
    pub snapshot: Duration,
}

impl Limits {
    /// Changes one limit, named as in the file, such as `full.rows_per_second` or `snapshot`.
    ///
    /// # Errors
    /// What is wrong with the key or the value, in one line.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let limit = match key {
            "full.queries_per_second" => &mut self.full.queries_per_second,
            "full.rows_per_second" => &mut self.full.rows_per_second,
            "full.megabytes_per_second" => &mut self.full.megabytes_per_second,
            "incremental.rows_per_second" => &mut self.incremental.rows_per_second,
            "incremental.megabytes_per_second" => &mut self.incremental.megabytes_per_second,
            "snapshot" => {
                let wrong = || format!("snapshot = {value:?} is no duration; write 1h30m");
                self.snapshot = parse_duration(value).ok_or_else(wrong)?;
                return Ok(());
            }
            _ => return Err(format!("unknown limit {key:?}; known: {}", Self::KEYS.join(", "))),
        };
        *limit = value.parse().map_err(|_| format!("{key} = {value:?} is no whole number from 0"))?;
        Ok(())
    }

    /// What [`Limits::set`] takes.
    pub const KEYS: [&'static str; 6] = [
        "full.queries_per_second",
        "full.rows_per_second",
        "full.megabytes_per_second",
        "incremental.rows_per_second",
        "incremental.megabytes_per_second",
        "snapshot",
    ];
}

/// Bounds of the full copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullLimits {
    /// Queries sent to the source.
    pub queries_per_second: u64,
    pub rows_per_second: u64,
    /// In units of 1 000 000 bytes.
    pub megabytes_per_second: u64,
}

/// Bounds of the changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncrementalLimits {
    pub rows_per_second: u64,
    /// In units of 1 000 000 bytes.
    pub megabytes_per_second: u64,
}

/// How long drover goes on trying before a migration fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryWindows {
    /// While source, destination or log cannot be reached: 10 minutes to 24 hours.
    #[serde(with = "units::duration_text")]
    pub connection: Duration,
    /// With any other error: 1 minute to 24 hours, shorter than `connection`.
    #[serde(with = "units::duration_text")]
    pub other: Duration,
}

impl Default for RetryWindows {
    fn default() -> Self {
        build::retry(&read::Node::missing(&keys::RETRY))
    }
}

/// Where changes and snapshot blocks wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Bytes of unapplied changes at which the reader slows down.
    pub budget: u64,
    /// None: in this process.
    pub kafka: Option<Kafka>,
}

impl Default for Log {
    fn default() -> Self {
        Log { budget: read::Node::missing(&keys::LOG).size("budget"), kafka: None }
    }
}

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kafka {
    /// `host:port` each, one at least.
    pub brokers: Vec<String>,
    pub sasl: Option<Sasl>,
    pub tls: Tls,
}

/// Authentication at the brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub user: String,
    pub password: SecretSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "plain")]
    Plain,
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

#[cfg(test)]
mod tests;
