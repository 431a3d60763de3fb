//! The one error that travels unchanged from a connector to the command line: whose fault it is, whether to try again,
//! what to do, and where (table, key, column). The text says what drover was trying to do; the cause stays apart.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Result with drover's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is: it decides who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The configuration or the way that drover is used.
    User,
    Source,
    Destination,
    /// The log between extractor and applier.
    Log,
    /// Drover itself: a bug, or its own machine (disk full).
    Drover,
}

/// Whether trying again may help. The windows are `[retry]` in the migration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// Circumstances: a lost connection, a server that restarts. Within `[retry] connection`.
    Connection,
    /// Anything else that may pass: lock timeouts, a full disk, a constraint. Within `[retry] other`.
    Other,
    /// Trying again cannot help; a person has to act first.
    Never,
}

/// An error with all that a person needs to act on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Stable code with a page under docs/errors, for example `DR0007`.
    pub code: String,
    pub fault: Fault,
    pub retry: Retry,
    /// What drover was trying to do and what went wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

impl Error {
    /// A new error; `code` has a page in docs/errors.
    pub fn new(code: &str, fault: Fault, retry: Retry, message: impl Into<String>) -> Self {
        Error {
            code: code.into(),
            fault,
            retry,
            message: message.into(),
            remedy: None,
            causes: Vec::new(),
            table: None,
            key: None,
            column: None,
        }
    }
    /// A bug or a broken promise inside drover.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(codes::INTERNAL, Fault::Drover, Retry::Never, message)
    }
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
    pub fn table(mut self, table: impl fmt::Display) -> Self {
        self.table = Some(table.to_string());
        self
    }
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.key = Some(key.to_string());
        self
    }
    pub fn column(mut self, column: impl fmt::Display) -> Self {
        self.column = Some(column.to_string());
        self
    }
    /// Adds an error and its sources as causes.
    pub fn cause(mut self, cause: impl std::error::Error) -> Self {
        self.causes.push(cause.to_string());
        let mut next = cause.source();
        while let Some(e) = next {
            self.causes.push(e.to_string());
            next = e.source();
        }
        self
    }
    /// The same error after another try has been decided against or for.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        for (what, value) in [("table", &self.table), ("key", &self.key), ("column", &self.column)] {
            if let Some(value) = value {
                write!(f, " ({what} {value})")?;
            }
        }
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The codes. Each has a page `docs/errors/<code>.md`; a code never changes its meaning.
pub mod codes {
    /// A promise inside drover was broken: please report it.
    pub const INTERNAL: &str = "DR0001";
    /// The migration file or the command line is wrong.
    pub const CONFIGURATION: &str = "DR0002";
    /// A database cannot be reached, or the connection was lost.
    pub const CONNECTION: &str = "DR0003";
    /// A database refused the account or lacks a permission.
    pub const PERMISSION: &str = "DR0004";
    /// A database refused a statement of drover.
    pub const STATEMENT: &str = "DR0005";
    /// The precheck found errors.
    pub const PRECHECK: &str = "DR0006";
    /// The source no longer has the position that drover needs, or is another server.
    pub const POSITION_LOST: &str = "DR0007";
    /// The snapshot ended before the copy did.
    pub const SNAPSHOT_LOST: &str = "DR0008";
    /// A table changed its shape or its files while it was copied or streamed.
    pub const TABLE_CHANGED: &str = "DR0009";
    /// A change found no row, or more than one, at the destination.
    pub const ROW_COUNT: &str = "DR0010";
    /// Another holder took over: this one is fenced.
    pub const FENCED: &str = "DR0011";
    /// The log has a gap, is damaged, or belongs to another migration.
    pub const LOG: &str = "DR0012";
    /// The destination knows this migration, the state folder does not.
    pub const STATE_LOST: &str = "DR0013";
    /// A value or object that the destination cannot hold.
    pub const LOSS: &str = "DR0014";
    /// Something in the selection is not supported.
    pub const UNSUPPORTED: &str = "DR0015";
    /// A database was too slow: a lock or a statement did not come to an end in time.
    pub const TIMEOUT: &str = "DR0016";
    /// The state folder or disk of drover itself failed.
    pub const STATE: &str = "DR0017";
    /// The cutover could not be carried out; the migration goes on.
    pub const CUTOVER: &str = "DR0018";
    /// Source and destination differ.
    pub const DIFFERENT: &str = "DR0019";
}
