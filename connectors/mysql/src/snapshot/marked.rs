//! Snapshots between two marks in the log: for a MySQL at which no lock may be had and whose transactions have no GTIDs. Guarantee: a position is given out
//! as exact only where nothing of the selected tables was changed between the marks; else those that were are told ([`Blur`]), and they can bear it.
//!
//! The low mark is a row of drover's own, written and committed. Transactions become visible in the order of the log (`binlog_order_commits`), so once the
//! commit has returned, all that stands before the mark in the log is visible to whoever begins then. After all sessions have begun, the end of the log is the high
//! mark: a transaction is in the log before it is visible. What stands between the two tells `SHOW BINLOG EVENTS`.
//!
//! ```text
//! log:  … a b │ low mark │ c d e │ …            a, b: seen by every session     c … e: by some, by none, by all
//!             └ committed │       └ high mark    sessions begin between the two
//! ```
//!
//! A lull of some milliseconds between the two is enough for an exact snapshot, and one is waited for at first. Where there is none, tables that a key alone identifies
//! may be blurred: a change in between is applied to them whether the row has it already or not, and comes out the same. Others may not be touched in between: rows
//! without a key would double, a second unique key would be violated by rows of two times, and a cascade that the log does not show cannot be done again for a
//! row that may have it. (A cascade's tables count as touched when its parent is.)

use super::lock::Try;
use super::take::{Server, Wanted, begin_all, give_up};
use super::window::in_half;
use crate::connect::Session;
use crate::errors::{classify, number};
use crate::position::{self, Place};
use crate::sql;
use crate::wire::{TextRow, Wire, text};
use drover_model::error::codes;
use drover_model::plan::Blur;
use drover_model::schema::TableName;
use drover_model::{Error, Fault, MigrationId, Position, Result};
use mysql_async::prelude::Queryable;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Where the mark stands.
const HOME: &str = "drover";
const MARKS: &str = "drover_mark";
/// Tries go on for so long before the caller pauses.
const ROUND: Duration = Duration::from_secs(2);
/// Events of the log that may stand between the marks.
const EVENTS: u64 = 3000;

/// Server errors: no such database, no such table, read only.
const NO_DATABASE: u16 = 1049;
const NO_TABLE: u16 = 1146;
const READ_ONLY: [u16; 2] = [1290, 1836];

/// What decides whether a table can bear to be touched between the marks.
struct Frailty {
    /// With more than one unique key.
    keys: BTreeSet<String>,
    /// From a table to those that its foreign keys' actions change.
    cascades: BTreeMap<String, BTreeSet<String>>,
    /// Changes carry all columns.
    whole_rows: bool,
}

/// How a table is named in the log's listing; small letters, for a server may fold them.
fn listed(schema: &str, table: &str) -> String {
    format!("{schema}.{table}").to_lowercase()
}

impl Frailty {
    async fn look(session: &mut Session) -> Result<Frailty> {
        let what = "cannot ask which tables have several keys";
        let several = "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0 \
             GROUP BY TABLE_SCHEMA, TABLE_NAME HAVING COUNT(DISTINCT INDEX_NAME) > 1";
        let keys: Vec<(String, String)> = session.all(several, what).await?;
        let acting = "SELECT UNIQUE_CONSTRAINT_SCHEMA, REFERENCED_TABLE_NAME, CONSTRAINT_SCHEMA, TABLE_NAME \
             FROM information_schema.REFERENTIAL_CONSTRAINTS \
             WHERE UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION') OR DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION')";
        let acting: Vec<(String, String, String, String)> = session.all(acting, what).await?;
        let mut cascades: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (schema, parent, of, child) in acting {
            cascades.entry(listed(&schema, &parent)).or_default().insert(listed(&of, &child));
        }
        let whole: Option<i64> = session.first("SELECT @@GLOBAL.binlog_row_image = 'FULL'", what).await?;
        let keys = keys.iter().map(|(schema, table)| listed(schema, table)).collect();
        Ok(Frailty { keys, cascades, whole_rows: whole == Some(1) })
    }

    /// Adds what changes of these tables change without a trace.
    fn spread(&self, touched: &mut BTreeSet<String>) {
        let mut next: Vec<String> = touched.iter().cloned().collect();
        while let Some(parent) = next.pop() {
            for child in self.cascades.get(&parent).into_iter().flatten() {
                if touched.insert(child.clone()) {
                    next.push(child.clone());
                }
            }
        }
    }

    fn bears(&self, table: &str, has_key: bool) -> bool {
        let tied = self.cascades.contains_key(table) || self.cascades.values().any(|c| c.contains(table));
        self.whole_rows && has_key && !tied && !self.keys.contains(table)
    }
}

/// What stands between the end of the low mark and the high mark.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    /// The low mark's end.
    low: u64,
    /// Tables, as [`listed`].
    touched: BTreeSet<String>,
}

/// Reads the listing of the log from before the low mark up to `high`. An error is what is in the way.
fn stretch(rows: &[TextRow], high: u64) -> std::result::Result<Stretch, String> {
    let mark = listed(HOME, MARKS);
    let mut low = None;
    let mut in_mark = false;
    let mut touched = BTreeSet::new();
    let mut reached = 0;
    // Behind a compressed transaction the listing has its events, each with the end of the whole.
    let mut packed = false;
    for row in rows {
        let line = (text(row, 2), text(row, 4).and_then(|end| end.parse::<u64>().ok()), text(row, 5));
        let (Some(kind), Some(end), Some(info)) = line else {
            return Err("the listing of the log cannot be read".into());
        };
        if end > high {
            break;
        }
        reached = end;
        packed = kind == "Transaction_payload" || packed && kind != "Xid" && info != "COMMIT";
        match kind {
            "Table_map" => {
                let table = info.split_once('(').and_then(|(_, t)| t.strip_suffix(')')).unwrap_or(info).to_lowercase();
                in_mark |= table == mark;
                touched.insert(table);
            }
            "Xid" if in_mark && low.is_none() => {
                low = Some(end);
                touched.clear();
            }
            "Xid"
            | "Gtid"
            | "Gtid_tagged"
            | "Anonymous_Gtid"
            | "Rows_query"
            | "Previous_gtids"
            | "Format_desc"
            | "Transaction_payload" => {}
            _ if kind.starts_with("Write_rows") || kind.starts_with("Delete_rows") => {}
            _ if kind.starts_with("Update_rows") => {}
            "Query" if ["BEGIN", "COMMIT", "ROLLBACK"].contains(&info) || info.starts_with("SAVEPOINT") => {}
            // Statements that change schemas, XA, what no version so far has: none of it says which tables.
            _ if low.is_none() => {}
            _ => return Err(format!("between the marks stands {kind} {}", info.chars().take(80).collect::<String>())),
        }
    }
    match low {
        None => Err("the mark is not in the log".into()),
        Some(_) if reached < high || packed => Err("very much is written to the log".into()),
        Some(low) => Ok(Stretch { low, touched }),
    }
}

/// Writes the mark, and makes its table where it is missing. `Ok(Some)`: the account or the server does not permit it.
async fn mark(session: &mut Session, migration: MigrationId) -> Result<Option<Error>> {
    let what = "cannot write a mark into the source's log";
    let write = format!(
        "INSERT INTO {HOME}.{MARKS} (migration, n) VALUES ('{migration}', 1) ON DUPLICATE KEY UPDATE n = n + 1"
    );
    let database = format!("CREATE DATABASE IF NOT EXISTS {HOME}");
    let table = format!(
        "CREATE TABLE IF NOT EXISTS {HOME}.{MARKS} (migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, \
         n BIGINT UNSIGNED NOT NULL) ENGINE = InnoDB"
    );
    let failed = |error: &mysql_async::Error| {
        let read_only = number(error).is_some_and(|n| READ_ONLY.contains(&n));
        let error = classify(error, Fault::Source, what);
        if read_only || error.code == codes::PERMISSION { Ok(Some(error)) } else { Err(error) }
    };
    let Err(first) = session.query_drop(&write).await else { return Ok(None) };
    match number(&first) {
        Some(NO_DATABASE) => {
            if let Err(error) = session.query_drop(&database).await {
                return failed(&error);
            }
        }
        Some(NO_TABLE) => {}
        _ => return failed(&first),
    }
    for sql in [&table, &write] {
        if let Err(error) = session.query_drop(sql).await {
            return failed(&error);
        }
    }
    Ok(None)
}

/// Opens all sessions between two marks. `may_blur`: not only exactly.
pub(super) async fn open(
    wanted: &Wanted<'_>,
    server: &mut Server,
    sessions: &mut [Wire],
    may_blur: bool,
) -> Result<Try> {
    let what = "cannot prepare a session";
    server.session.run("SET SESSION autocommit = 1, SESSION completion_type = 0", what).await?;
    let frailty = Frailty::look(&mut server.session).await?;
    let migration = wanted.dialer.settings().migration;
    let begun = Instant::now();
    loop {
        let before = position::before(&mut server.session).await?;
        if let Some(error) = mark(&mut server.session, migration).await? {
            return Ok(Try::Denied(error));
        }
        let tried = between(wanted, server, sessions, &frailty, &before, may_blur).await;
        match tried {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => {
                give_up(sessions).await?;
                if begun.elapsed() > ROUND {
                    return Ok(Try::Busy(why));
                }
            }
            Err(error) => {
                give_up(sessions).await?;
                return Err(error);
            }
        }
    }
}

async fn between(
    wanted: &Wanted<'_>,
    server: &mut Server,
    sessions: &mut [Wire],
    frailty: &Frailty,
    before: &position::Before,
    may_blur: bool,
) -> Result<std::result::Result<Try, String>> {
    begin_all(sessions).await?;
    let here = position::here(&mut server.session, Some(before), wanted.lineage).await?;
    let resume = position::resume_of(&here)?;
    if resume.place.file != before.place().file {
        return Ok(Err("the log went on in another file".into()));
    }
    let Some(asker) = sessions.first_mut() else { return Err(Error::internal("a snapshot without sessions")) };
    let rows = listing(asker, before.place()).await?;
    let found = match stretch(&rows, resume.place.offset) {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let at = |offset: u64| -> Result<Position> {
        // What is executed may lag behind the place, and is no help on a server that does not name all transactions.
        let place = Place::new(resume.place.file.clone(), offset);
        position::position(wanted.lineage, &position::Resume { place, gtids: None, ..resume.clone() })
    };
    let until = at(resume.place.offset)?;
    let mut touched = found.touched;
    frailty.spread(&mut touched);
    let named = |t: &TableName| listed(&t.schema, &t.name);
    let concerned: Vec<_> = wanted.tables.iter().filter(|p| touched.contains(&named(&p.source))).collect();
    if concerned.is_empty() {
        return Ok(Ok(Try::Done(until)));
    }
    let frail = concerned.iter().find(|p| !frailty.bears(&named(&p.source), !p.key.is_empty()));
    let busy = |p: &TableName, why| Ok(Err(format!("{p} was changed while the sessions were opened{why}")));
    match (frail, concerned.first()) {
        (Some(p), _) => busy(&p.source, ", and its rows must be of one moment"),
        (None, Some(p)) if !may_blur => busy(&p.source, ""),
        _ => {
            let tables = concerned.iter().map(|p| p.id).collect();
            Ok(Ok(Try::Blurred(at(found.low)?, Blur { until, tables })))
        }
    }
}

async fn listing(asker: &mut Wire, from: &Place) -> Result<Vec<TextRow>> {
    let events = format!("SHOW BINLOG EVENTS IN {} FROM {} LIMIT {EVENTS}", sql::text(&from.file), from.offset);
    loop {
        match asker.all(&events, "cannot read the end of the binary log").await {
            Err(error) if in_half(&error) => {}
            told => return told,
        }
    }
}

/// What the account needs for marks and for removing them: privileges, and the database.
pub const NEEDS: (&[&str], &str) = (&["CREATE", "SELECT", "INSERT", "UPDATE", "DELETE", "DROP"], HOME);

/// Removes a migration's mark, and the table and database with the last one.
pub async fn cleanup(session: &mut Session, migration: MigrationId) -> Result<Vec<String>> {
    let what = "cannot remove the mark at the source";
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{HOME}' AND TABLE_NAME = '{MARKS}'"
    );
    if session.first::<u64>(sql, what).await? != Some(1) {
        return Ok(Vec::new());
    }
    session.run(format!("DELETE FROM {HOME}.{MARKS} WHERE migration = '{migration}'"), what).await?;
    let mut done = vec![format!("mark removed from {HOME}.{MARKS}")];
    if session.first::<u8>(format!("SELECT 1 FROM {HOME}.{MARKS} LIMIT 1"), what).await?.is_some() {
        return Ok(done);
    }
    session.run(format!("DROP TABLE {HOME}.{MARKS}"), what).await?;
    if crate::progress::is_empty(session, HOME).await? {
        // Whoever made the database may have given the account less than that.
        match session.run(format!("DROP DATABASE {HOME}"), what).await {
            Ok(()) => done.push(format!("database {HOME} dropped")),
            Err(error) => tracing::debug!(%error, "the empty database stays"),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, end: u64, info: &str) -> TextRow {
        let cell = |t: &str| Some(bytes::Bytes::copy_from_slice(t.as_bytes()));
        vec![cell("b.000001"), cell("0"), cell(kind), cell("1"), cell(&end.to_string()), cell(info)]
    }

    #[test]
    fn only_what_stands_behind_the_mark_counts() {
        let change = |table: &str, end| {
            [
                row("Query", end, "BEGIN"),
                row("Table_map", end + 1, &format!("table_id: 9 ({table})")),
                row("Update_rows", end + 2, ""),
                row("Xid", end + 3, ""),
            ]
        };
        let mut rows = change("shop.early", 10).to_vec();
        rows.extend(change("drover.drover_mark", 20));
        assert_eq!(stretch(&rows, 23), Ok(Stretch { low: 23, touched: BTreeSet::new() }));
        rows.extend(change("Shop.Late", 30));
        rows.push(row("Query", 40, "use `shop`; ALTER TABLE x ADD y int"));
        let late = Stretch { low: 23, touched: BTreeSet::from(["shop.late".to_owned()]) };
        assert_eq!(stretch(&rows, 33), Ok(late), "what stands behind the high mark is nobody's business");
        assert!(stretch(&rows, 40).unwrap_err().contains("ALTER"));
        assert!(stretch(&rows, 50).is_err(), "the listing ends too early");
        assert!(stretch(&rows[..4], 13).is_err(), "no mark");
    }

    #[test]
    fn compressed_transactions_are_listed_with_what_is_in_them() {
        let packed = |table: &str, end| {
            [
                row("Gtid", end - 1, "SET @@SESSION.GTID_NEXT= 'ANONYMOUS'"),
                row("Transaction_payload", end, "compression='ZSTD', decompressed_size=1191 bytes"),
                row("Query", end, "BEGIN"),
                row("Table_map", end, &format!("table_id: 9 ({table})")),
                row("Write_rows", end, ""),
                row("Xid", end, "COMMIT /* xid=10 */"),
            ]
        };
        let mut rows = packed("drover.drover_mark", 20).to_vec();
        rows.extend(packed("shop.late", 30));
        let late = Stretch { low: 20, touched: BTreeSet::from(["shop.late".to_owned()]) };
        assert_eq!(stretch(&rows, 30), Ok(late));
        for cut in 8..12 {
            assert!(stretch(&rows[..cut], 30).is_err(), "a listing that ends within a transaction: {cut}");
        }
    }

    #[test]
    fn what_a_cascade_may_have_changed_is_touched_and_bears_nothing() {
        let names = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<BTreeSet<String>>();
        let cascades =
            BTreeMap::from([("d.a".to_owned(), names(&["d.b"])), ("d.b".to_owned(), names(&["d.c", "d.a"]))]);
        let frailty = Frailty { keys: names(&["d.two"]), cascades, whole_rows: true };
        let mut touched = names(&["d.a", "d.z"]);
        frailty.spread(&mut touched);
        assert_eq!(touched, names(&["d.a", "d.b", "d.c", "d.z"]));
        assert!(frailty.bears("d.z", true) && !frailty.bears("d.z", false));
        assert!(["d.a", "d.c", "d.two"].iter().all(|t| !frailty.bears(t, true)));
        assert!(!Frailty { whole_rows: false, ..frailty }.bears("d.z", true));
    }
}
