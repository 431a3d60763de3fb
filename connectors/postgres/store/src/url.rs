//! The url of a store: postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…&sslrootcert=FILE, as PostgreSQL's own clients take it.

use drover_connectors_postgres::connect::Settings;
use drover_model::error::codes;
use drover_model::migration::{Tls, TlsMode, Url};
use drover_model::{Error, Fault, Result, Retry};

/// What it is and how it is written, for the help of the command line.
pub const FORM: &str = "postgres://USER@HOST/DATABASE, where several coordinators may wait to take over. The password may stand in \
    PGPASSWORD; ?sslmode=verify-full, verify-ca, require or disable and sslrootcert=FILE as elsewhere";

/// Whether a store is given as a url, and is no folder.
pub fn is_url(store: &str) -> bool {
    store.starts_with("postgres://") || store.starts_with("postgresql://")
}

fn wrong(what: String, remedy: &str) -> Error {
    Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, format!("--store: {what}")).remedy(remedy)
}

/// The password may stand in PGPASSWORD instead. Without `sslmode` the server is verified (`verify-full`), unless it is on this machine.
///
/// # Errors
/// What is wrong with the url.
pub fn settings(url: &str) -> Result<Settings> {
    let (url, password) = Url::parse(url).map_err(|(what, remedy)| wrong(what.to_owned(), remedy))?;
    for (name, _) in &url.params {
        if !matches!(name.as_str(), "sslmode" | "sslrootcert" | "sslcert" | "sslkey") {
            return Err(wrong(
                format!("unknown parameter {name}"),
                "sslmode, sslrootcert, sslcert and sslkey are known",
            ));
        }
    }
    let mode = match url.param("sslmode") {
        None if url.is_local() => TlsMode::Off,
        None | Some("verify-full") => TlsMode::VerifyFull,
        Some("verify-ca") => TlsMode::VerifyCa,
        Some("require") => TlsMode::Require,
        Some("disable") => TlsMode::Off,
        Some(other) => {
            return Err(wrong(format!("sslmode={other}"), "one of verify-full, verify-ca, require and disable"));
        }
    };
    let file = |name: &str| url.param(name).map(Into::into);
    let tls = Tls { mode, ca: file("sslrootcert"), cert: file("sslcert"), key: file("sslkey") };
    let user =
        url.user.clone().ok_or_else(|| wrong("the url names no user".into(), "postgres://user@host:port/database"))?;
    Ok(Settings {
        database: url.database.clone().unwrap_or_else(|| user.clone()),
        host: url.host.clone(),
        port: url.port.unwrap_or(5432),
        user,
        password: password.or_else(|| std::env::var("PGPASSWORD").ok()),
        tls,
        migration: uuid::Uuid::nil(),
        fault: Fault::Drover,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_far_server_is_verified_unless_told_otherwise() {
        let mode = |url: &str| settings(url).unwrap().tls.mode;
        assert_eq!(mode("postgres://d@127.0.0.1/x"), TlsMode::Off);
        assert_eq!(mode("postgres://d@db.example/x"), TlsMode::VerifyFull);
        assert_eq!(mode("postgresql://d@db.example:5/x?sslmode=disable"), TlsMode::Off);
    }

    #[test]
    fn a_wrong_url_is_told() {
        for (url, what) in [
            ("postgres://db.example/x", "names no user"),
            ("postgres://d@db.example/x?sslmode=perhaps", "sslmode=perhaps"),
            ("postgres://d@db.example/x?colour=red", "unknown parameter colour"),
        ] {
            let error = settings(url).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
