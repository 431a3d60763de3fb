//! `SHOW CREATE …`, many to a round trip.

use super::{READING, lex};
use crate::connect::Session;
use crate::errors::classify;
use drover_model::Result;
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};

/// Statements to a message.
const BATCH: usize = 100;

/// Why there is nothing to see.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// The server's error number.
    pub number: Option<u16>,
    pub reason: String,
}

/// What each statement prints in its column `at` (from zero), or why it does not.
///
/// # Errors
/// When the connection fails; a refused statement is no error here.
pub(super) async fn all(
    session: &mut Session,
    statements: impl Iterator<Item = String>,
    at: usize,
) -> Result<Vec<std::result::Result<String, Refused>>> {
    let rows = rows(session, statements.collect()).await?;
    Ok(rows.into_iter().map(|r| r.and_then(|row| text(&row, at).ok_or_else(not_shown))).collect())
}

/// Why a definition is NULL.
pub(super) fn not_shown() -> Refused {
    Refused { number: None, reason: "the account may not see its definition".to_owned() }
}

/// A text of a row.
pub(super) fn text(row: &Row, at: usize) -> Option<String> {
    match row.as_ref(at) {
        Some(Value::Bytes(bytes)) => Some(lex::decode(bytes)),
        _ => None,
    }
}

/// The first row of each statement, or why there is none.
///
/// # Errors
/// When the connection fails.
pub(super) async fn rows(
    session: &mut Session,
    statements: Vec<String>,
) -> Result<Vec<std::result::Result<Row, Refused>>> {
    let mut out: Vec<std::result::Result<Row, Refused>> = Vec::with_capacity(statements.len());
    let fault = session.fault;
    let refused = |e: mysql_async::Error| match e {
        mysql_async::Error::Server(server) => {
            Ok(Refused { number: Some(server.code), reason: format!("{} (error {})", server.message, server.code) })
        }
        e => Err(classify(&e, fault, READING)),
    };
    while out.len() < statements.len() {
        let end = (out.len() + BATCH).min(statements.len());
        let batch = statements[out.len()..end].join(";\n");
        // A refused statement ends the message; the next one begins behind it.
        let mut result = match session.query_iter(batch).await {
            Ok(result) => result,
            Err(e) => {
                out.push(Err(refused(e)?));
                continue;
            }
        };
        while out.len() < end {
            match result.collect::<Row>().await {
                Ok(rows) => out.push(rows.into_iter().next().ok_or_else(not_shown)),
                Err(e) => {
                    out.push(Err(refused(e)?));
                    break;
                }
            }
        }
        let dropped = result.drop_result().await;
        dropped.map_err(|e| classify(&e, fault, READING))?;
    }
    Ok(out)
}
