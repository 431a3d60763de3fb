//! From the server's error codes to drover's errors. Connectors only classify: by SQLSTATE, never by message text.

use drover_model::error::codes;
use drover_model::{Error, Fault, Retry};
use tokio_postgres::error::SqlState;

/// What a server's answer means for trying again.
fn policy(state: &SqlState) -> (&'static str, Retry) {
    match *state {
        // Out of connections, starting up, shutting down, ended by an administrator.
        SqlState::TOO_MANY_CONNECTIONS
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => (codes::CONNECTION, Retry::Connection),
        SqlState::INVALID_PASSWORD
        | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        | SqlState::INSUFFICIENT_PRIVILEGE => (codes::PERMISSION, Retry::Other),
        SqlState::INVALID_CATALOG_NAME => (codes::CONFIGURATION, Retry::Other),
        SqlState::LOCK_NOT_AVAILABLE
        | SqlState::QUERY_CANCELED
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::OBJECT_IN_USE => (codes::TIMEOUT, Retry::Other),
        ref other => match &other.code()[..2] {
            "08" | "57" => (codes::CONNECTION, Retry::Connection),
            // Disk full, out of memory, too many …: circumstances that an operator mends.
            "53" | "58" => (codes::STATEMENT, Retry::Other),
            _ => (codes::STATEMENT, Retry::Other),
        },
    }
}

/// What to do about a login or statement that was refused, by SQLSTATE.
pub fn grant(state: &str, fault: Fault) -> Option<&'static str> {
    match (state, fault) {
        ("28P01", _) => Some(
            "correct the password where the migration file says it stands: a { file } is read again with each try, after any other start or resume",
        ),
        ("28000", _) => Some(
            "let the account in again: ALTER ROLE … LOGIN, at the source with REPLICATION; and a line in pg_hba.conf that fits",
        ),
        ("42501", Fault::Source) => Some(
            "GRANT SELECT ON the table and USAGE ON its schema to the account, for the change stream ALTER ROLE … REPLICATION; \
             `drover check` prints each grant that is lacking",
        ),
        ("42501", _) => Some(
            "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON the table and USAGE ON its schema to the account; `drover check` prints each grant \
             that is lacking",
        ),
        _ => None,
    }
}

/// Turns an error of the client library into drover's: `what` says what drover was trying to do, `fault` whose server it was.
pub fn classify(error: &tokio_postgres::Error, fault: Fault, what: impl Into<String>) -> Error {
    let what = what.into();
    let Some(db) = error.as_db_error() else {
        return Error::new(codes::CONNECTION, fault, Retry::Connection, what).cause(error);
    };
    let (code, retry) = policy(db.code());
    let mut out = Error::new(code, fault, retry, what);
    let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
    for part in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(part);
    }
    out.causes.push(text);
    if let Some(table) = db.table() {
        out.table = Some(db.schema().map_or_else(|| table.to_owned(), |s| format!("{s}.{table}")));
    }
    out.column = db.column().map(str::to_owned);
    out.remedy = grant(db.code().code(), fault).map(str::to_owned);
    out
}

/// Whether an error is this SQLSTATE.
pub fn is(error: &tokio_postgres::Error, state: &SqlState) -> bool {
    error.code() == Some(state)
}
