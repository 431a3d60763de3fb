//! From the server's error numbers to drover's errors. Connectors only classify: by number, never by message text.
//! Numbers: the server's error reference (`mysqld_error`), the same in both flavors where listed here.

use drover_model::error::codes;
use drover_model::{Error, Fault, Retry};

/// What a server's error number means for trying again.
fn policy(number: u16) -> (&'static str, Retry) {
    match number {
        // Too many connections, shutting down, killed, interrupted, aborted connection, server gone, lost.
        1040 | 1053 | 1152 | 1158..=1161 | 1203 | 1226 | 1927 | 2006 | 2013 | 3169 | 4031 => {
            (codes::CONNECTION, Retry::Connection)
        }
        // Access denied: user, database, table, column, routine, privilege; read-only server; host not allowed or blocked; an account that is
        // locked (MySQL, MariaDB, after wrong passwords) or whose password has run out.
        1044 | 1045 | 1129 | 1130 | 1142 | 1143 | 1227 | 1290 | 1370 | 1698 | 1792 | 1820 | 1836 | 1862 | 3118
        | 3159 | 3955 | 4151 => (codes::PERMISSION, Retry::Other),
        // Unknown database.
        1049 => (codes::CONFIGURATION, Retry::Other),
        // Lock wait timeout, deadlock, query interrupted or timed out, kill.
        1205 | 1213 | 1317 | 1969 | 3024 | 3572 => (codes::TIMEOUT, Retry::Other),
        // Purged binary log, missing GTIDs, both by the number that a dump ends with.
        1236 | 1789 => (codes::POSITION_LOST, Retry::Never),
        _ => (codes::STATEMENT, Retry::Other),
    }
}

/// What to do about a login or statement that was refused, by the server's number.
fn grant(number: u16, fault: Fault) -> Option<&'static str> {
    match (number, fault) {
        (1045 | 1698, _) => Some(
            "correct the password where the migration file says it stands (a { file } is read again with each try, after any other start or \
             resume), or the account at the server",
        ),
        (1820 | 1862, _) => {
            Some("give the account a password that has not run out: ALTER USER … PASSWORD EXPIRE NEVER")
        }
        (3118 | 3955 | 4151, _) => Some("let the account in again: ALTER USER … ACCOUNT UNLOCK"),
        (1044 | 1142 | 1143, Fault::Source) => {
            Some("GRANT SELECT ON the table to the account; `drover check` prints each grant that is lacking")
        }
        (1044 | 1142 | 1143, _) => Some(
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX ON the table's database to the account; `drover check` prints each \
             grant that is lacking",
        ),
        (1227 | 1370, _) => {
            Some("GRANT what the server names to the account; `drover check` prints each grant that is lacking")
        }
        _ => None,
    }
}

/// The server's error number, if the error came from the server.
pub fn number(error: &mysql_async::Error) -> Option<u16> {
    match error {
        mysql_async::Error::Server(server) => Some(server.code),
        _ => None,
    }
}

/// Turns an error of the client library into drover's: `what` says what drover was trying to do, `fault` whose server it was.
pub fn classify(error: &mysql_async::Error, fault: Fault, what: impl Into<String>) -> Error {
    let what = what.into();
    match error {
        mysql_async::Error::Server(server) => {
            let (code, retry) = policy(server.code);
            let mut out = Error::new(code, fault, retry, what);
            out.remedy = grant(server.code, fault).map(str::to_owned);
            out.causes.push(format!("{} (error {}, SQLSTATE {})", server.message, server.code, server.state));
            out
        }
        mysql_async::Error::Io(_) => Error::new(codes::CONNECTION, fault, Retry::Connection, what).cause(error),
        mysql_async::Error::Driver(
            mysql_async::DriverError::ConnectionClosed | mysql_async::DriverError::PoolDisconnected,
        ) => Error::new(codes::CONNECTION, fault, Retry::Connection, what).cause(error),
        mysql_async::Error::Driver(mysql_async::DriverError::UnknownAuthPlugin { name }) => {
            let mut out = unknown_login(fault, name);
            out.message = format!("{what}: {}", out.message);
            out
        }
        _ => Error::new(codes::STATEMENT, fault, Retry::Other, what).cause(error),
    }
}

/// An account that logs in by a plugin that is not known here. A MySQL asks for such a one as well when there is no such account at all, so as not to
/// tell.
pub fn unknown_login(fault: Fault, plugin: &str) -> Error {
    let text = format!("the account does not exist, or logs in by {plugin}, which drover does not know");
    Error::new(codes::PERMISSION, fault, Retry::Other, text).remedy(
        "check the user's name and from where it may connect; give the account caching_sha2_password, mysql_native_password or ed25519",
    )
}
