//! The sessions of a server, as it lists them. Guarantee: a list can be had whatever statements are under way, in whichever characters.
//!
//! `SHOW PROCESSLIST`, not `information_schema.PROCESSLIST`: that one's texts are `utf8mb3`, and MySQL refuses the whole query (error 3854) as long as
//! any session runs a statement with a character outside of it, an emoji for instance.

use crate::connect::Session;
use drover_model::Result;
use mysql_async::Row;

/// One session, where the account may see it (`PROCESS` for those of others).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub id: u64,
    pub user: String,
    pub command: String,
    /// How long it has been doing this.
    pub seconds: u64,
    /// The statement under way, its first 100 bytes; what is not UTF-8 is replaced.
    pub statement: Option<String>,
}

impl Process {
    /// Columns as of <https://dev.mysql.com/doc/refman/8.4/en/show-processlist.html>; MariaDB appends one.
    fn read(row: &Row) -> Option<Process> {
        let text = |i: usize| Some(String::from_utf8_lossy(&row.get_opt::<Option<Vec<u8>>, _>(i)?.ok()??).into_owned());
        Some(Process {
            id: row.get_opt(0)?.ok()?,
            user: text(1).unwrap_or_default(),
            command: text(4).unwrap_or_default(),
            // MariaDB: null before its first statement; MySQL: negative where the clock was set back.
            seconds: row.get_opt(5).and_then(std::result::Result::ok).unwrap_or(0),
            statement: text(7),
        })
    }
}

/// All sessions that the account may see.
///
/// # Errors
///
/// As those of any query; a missing right hides sessions and is none.
pub async fn list(session: &mut Session, what: &str) -> Result<Vec<Process>> {
    let rows: Vec<Row> = session.all("SHOW PROCESSLIST", what).await?;
    Ok(rows.iter().filter_map(Process::read).collect())
}
