//! Opening the stream: is it the same server, does it still have what is needed, and where does reading begin.
//!
//! The same server goes on by file and offset. Another one is accepted only if it has executed every transaction that is behind the position (a replica
//! that took over); positions then get a lineage one higher, and reading begins in the file before which nothing is missing, where transactions that are
//! known by their ids are passed over. This needs no other way of asking for a dump, and ids of every kind will do. In every other case the
//! stream stops loudly.

use super::pending::Room;
use super::tables::Tables;
use super::{Changes, now};
use crate::binlog::bind::{Collations, Shape};
use crate::binlog::dump::Dump;
use crate::charset::Charset;
use crate::condition::{Condition, Detail};
use crate::connect::{Dialer, Session};
use crate::ddl::column::Env;
use crate::ddl::follow::Follower;
use crate::ddl::text::Modes;
use crate::errors::classify;
use crate::flavor::Flavor;
use crate::gtid::{GtidSet, mariadb_gtid};
use crate::position::{self, Place, Resume};
use crate::sql;
use crate::typemap::Known;
use crate::types::MyType;
use crate::wire::Wire;
use drover_connectors_api::{Followed, StreamSpec};
use drover_model::error::codes;
use drover_model::plan::RowFormat;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use mysql_async::Row;
use std::sync::Arc;

/// How a stream goes on.
pub(super) struct Start {
    pub lineage: u32,
    /// Where reading begins.
    pub read: Place,
    /// What is behind: places before this one, on the same server.
    pub behind: Option<Place>,
    pub born: Option<u32>,
    pub known: Option<GtidSet>,
    pub passing: Option<GtidSet>,
    pub gtids: Option<GtidSet>,
}

fn lost(why: impl Into<String>) -> Error {
    Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, why)
        .remedy("begin again: `drover cleanup`, then run the migration anew")
}

/// Opens the stream behind `from`: a position of [`crate::position::here`], or the last one that is durable in the log.
///
/// # Errors
/// POSITION_LOST if the server no longer has its log from there on, or is another one that lacks transactions of the one before;
/// UNSUPPORTED for plans that cannot be followed (a condition that cannot be told exactly on changes; text that would have to be converted).
pub async fn open(dialer: &Dialer, spec: &StreamSpec, from: &Position) -> Result<Changes> {
    spec.tables.iter().try_for_each(can_follow)?;
    let resume = position::resume_of(from)?;
    let mut session = dialer.session("stream").await?;
    let status = position::status(&mut session).await?;
    filtered(&status, &spec.tables)?;
    let server = position::server(&mut session).await?;
    let start = start(&mut session, from.lineage, &resume, &server).await?;
    let tables = tables(&mut session, &spec.tables).await?;
    let follower = match &spec.schemas {
        Some(followed) => Some(follower(&mut session, followed).await?),
        None => None,
    };
    let skew = skew(&mut session).await?;
    let dump = dump(dialer, &session, spec, &start.read).await?;
    let room = Room::new(spec.spill.clone(), spec.batch_bytes);
    let flavor = session.version.flavor;
    let mut changes = Changes::new(dump, from.clone(), flavor, server, start, tables, room, skew, resume.place);
    if let Some(follower) = &follower {
        // As they are here, not as they are now.
        changes.tables.reshape(followed_shapes(follower)?);
    }
    changes.follower = follower;
    changes.policy = spec.schemas.as_ref().map(|s| s.policy).unwrap_or_default();
    Ok(changes)
}

/// What schema changes are followed with, beside what the migration knows.
async fn follower(session: &mut Session, followed: &Followed) -> Result<Follower> {
    let what = "cannot read what schema changes are followed with";
    let known = Known::read(session).await?;
    let silent = crate::catalog::unlogged::silent(session).await?;
    let explicit: Option<(String, String)> =
        session.first("SHOW GLOBAL VARIABLES LIKE 'explicit_defaults_for_timestamp'", what).await?;
    let explicit_timestamps = explicit.is_some_and(|(_, v)| v.eq_ignore_ascii_case("ON") || v == "1");
    let folds = known.lower_case;
    let names = Arc::new(by_collation(session, "COLLATION_NAME", what).await?.collect());
    let env = Env { known, names, explicit_timestamps, silent, modes: Modes::default() };
    Ok(Follower::new(followed.schemas.clone(), followed.selection.clone(), env, folds))
}

/// What cannot be followed is refused before anything is read.
fn can_follow(plan: &TablePlan) -> Result<()> {
    let refuse = |why: String, remedy: &str| {
        Err(Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, why).table(&plan.source).remedy(remedy))
    };
    for column in &plan.columns {
        let Some(my) = MyType::parse(&column.origin_type) else { continue };
        if plan.format == RowFormat::Canonical
            && my.is_text()
            && my.charset.as_deref().is_some_and(|c| Charset::of(c).is_none())
        {
            let set = my.charset.unwrap_or_default();
            let why = format!("changes of text in {set} cannot be converted to UTF-8");
            return refuse(why, "convert the column to utf8mb4 at the source, or leave it out")
                .map_err(|e| e.column(&column.source));
        }
    }
    Ok(())
}

/// Whether the server keeps selected databases out of its log.
fn filtered(status: &position::Status, tables: &[TablePlan]) -> Result<()> {
    let has = |list: &[String], name: &str| list.iter().any(|d| d.eq_ignore_ascii_case(name));
    let out = tables.iter().find(|p| {
        let database = &p.source.schema;
        has(&status.never, database) || !status.only.is_empty() && !has(&status.only, database)
    });
    match out {
        None => Ok(()),
        Some(plan) => {
            let why = format!("the source does not log changes of the database {}", plan.source.schema);
            Err(Error::new(codes::CONFIGURATION, Fault::Source, Retry::Never, why)
                .table(&plan.source)
                .remedy("take the database out of binlog_ignore_db (or into binlog_do_db) and migrate again"))
        }
    }
}

/// The files of the log with their sizes, oldest first.
async fn files(session: &mut Session) -> Result<Vec<(String, u64)>> {
    let rows: Vec<Row> = session.all("SHOW BINARY LOGS", "cannot list the binary log's files").await?;
    Ok(rows.iter().filter_map(|r| Some((r.get(0)?, r.get(1)?))).collect())
}

async fn start(session: &mut Session, lineage: u32, resume: &Resume, server: &str) -> Result<Start> {
    let flavor = session.version.flavor;
    let place = &resume.place;
    if resume.flavor != flavor {
        let (had, has) = (resume.flavor.title(), flavor.title());
        return Err(lost(format!("the source is a {has} now, and was a {had}")));
    }
    let files = files(session).await?;
    let gtids = resume.gtids.as_deref().map(|text| {
        GtidSet::parse(flavor, text).ok_or_else(|| Error::internal(format!("{text:?} is no set of transaction ids")))
    });
    let gtids = gtids.transpose()?;
    let has_all = match &gtids {
        Some(gtids) => has_all(session, gtids).await?,
        None => None,
    };
    // The first place that is needed.
    let read = resume.reread.as_ref().unwrap_or(place);
    let size = |file: &str| files.iter().find(|(name, _)| name == file).map(|(_, size)| *size);
    if server == resume.server && has_all != Some(false) {
        let there = size(&read.file).is_some() && size(&place.file).is_some_and(|size| place.offset <= size);
        if there {
            let passing = resume.passing.as_deref().and_then(|text| GtidSet::parse(flavor, text));
            return Ok(Start {
                lineage,
                read: read.clone(),
                behind: (read != place).then(|| place.clone()),
                born: resume.born.filter(|_| read.file == place.file),
                known: gtids.clone().filter(|_| flavor == Flavor::MySql),
                passing,
                gtids,
            });
        }
    }
    let same = server == resume.server;
    let first = files.first().map_or("none", |(name, _)| name);
    let gone = if same {
        match size(&place.file) {
            None => format!(
                "the source no longer has {} of its log, which drover stands in; its first file is {first}",
                place.file
            ),
            Some(size) if place.offset > size => {
                format!(
                    "{} of the source's log ends at {size}, before {}: the source lost its end, or was reset",
                    place.file, place.offset
                )
            }
            _ => format!("the source no longer has {}, where a prepared transaction begins", read.file),
        }
    } else {
        format!("this is another server ({server}) than the one that was read before ({})", resume.server)
    };
    match (has_all, gtids) {
        (Some(true), Some(gtids)) => successor(session, lineage, resume, &files, gtids, &gone).await,
        (Some(false), _) => Err(lost(format!(
            "{gone}, and it lacks transactions that were read before: it was reset, or is no replica of it"
        ))),
        _ => Err(lost(format!("{gone}, and without transaction ids (GTID) there is no other way to find the place"))),
    }
}

/// Whether the server's log has, or had, all of these transactions; `None` if it cannot tell.
async fn has_all(session: &mut Session, gtids: &GtidSet) -> Result<Option<bool>> {
    let what = "cannot ask which transactions the source has";
    let sql = match gtids {
        GtidSet::MariaDb(_) => "SELECT @@GLOBAL.gtid_binlog_state",
        GtidSet::MySql(_) if session.version.number >= 50_605 => "SELECT @@GLOBAL.gtid_executed",
        GtidSet::MySql(_) => return Ok(None),
    };
    let text: Option<String> = session.first(sql, what).await?;
    let text: String = text.unwrap_or_default().split_whitespace().collect();
    Ok(match gtids {
        GtidSet::MySql(_) => GtidSet::parse(Flavor::MySql, &text).map(|executed| executed.holds_all(gtids)),
        // The last id of each server in each domain. The highest of a domain alone does not tell who descends from whom.
        GtidSet::MariaDb(wanted) => {
            let state: Vec<_> = text.split(',').filter_map(mariadb_gtid).collect();
            Some(wanted.last().all(|(domain, server, sequence)| {
                state.iter().any(|s| s.0 == domain && s.1 == server && s.2 >= sequence)
            }))
        }
    })
}

/// A server that has all transactions that are behind, and its own places for them.
async fn successor(
    session: &mut Session,
    lineage: u32,
    resume: &Resume,
    files: &[(String, u64)],
    gtids: GtidSet,
    gone: &str,
) -> Result<Start> {
    let flavor = session.version.flavor;
    // Prepared transactions have to be read again.
    let held: Vec<_> = resume.held.iter().filter_map(|text| GtidSet::parse(flavor, text)).collect();
    for (file, _) in files.iter().rev() {
        let Some(before) = before_file(session, file).await? else { continue };
        let (starts_early, passing) = match (&before, &gtids) {
            (GtidSet::MySql(_), _) => (gtids.holds_all(&before) && !held.iter().any(|h| before.holds_all(h)), None),
            (GtidSet::MariaDb(before), GtidSet::MariaDb(wanted)) => {
                let (early, passing) = passing(before, wanted);
                (early && !held.iter().any(|h| GtidSet::MariaDb(before.clone()).holds_all(h)), Some(passing))
            }
            _ => (false, None),
        };
        if !starts_early {
            continue;
        }
        tracing::warn!(file, "another server has taken over; it has all transactions that were read before");
        return Ok(Start {
            lineage: lineage + 1,
            read: Place::new(file, 4),
            behind: None,
            born: None,
            known: Some(gtids.clone()).filter(|_| flavor == Flavor::MySql),
            passing: passing.map(GtidSet::MariaDb).filter(|p| !p.is_empty()),
            gtids: Some(gtids),
        });
    }
    Err(lost(format!("{gone}, and its log begins behind that place")))
}

/// Whether a file that begins behind `before` has everything that comes after `wanted`, and which ids have to pass in it until then.
fn passing(before: &crate::gtid::MariaDbSet, wanted: &crate::gtid::MariaDbSet) -> (bool, crate::gtid::MariaDbSet) {
    let mut passing = wanted.clone();
    for (domain, server, sequence) in before.last() {
        match wanted.last().find(|w| w.0 == domain) {
            // The file begins exactly behind it.
            Some(w) if w == (domain, server, sequence) => passing.remove(domain),
            Some(w) if sequence < w.2 => {}
            // Something after it lies before this file.
            _ => return (false, passing),
        }
    }
    (true, passing)
}

/// The transactions that lie before a file, as the file says at its beginning. `None` if it does not say.
async fn before_file(session: &mut Session, file: &str) -> Result<Option<GtidSet>> {
    let what = "cannot read the beginning of a file of the binary log";
    let rows: Vec<Row> = session.all(format!("SHOW BINLOG EVENTS IN {} LIMIT 4", sql::text(file)), what).await?;
    let flavor = session.version.flavor;
    for row in rows {
        let (kind, info): (Option<String>, Option<String>) = (row.get(2), row.get(5));
        let (kind, info) = (kind.unwrap_or_default(), info.unwrap_or_default());
        match (flavor, kind.as_str()) {
            (Flavor::MySql, "Previous_gtids") => {
                let info: String = info.split_whitespace().collect();
                return Ok(GtidSet::parse(flavor, &info));
            }
            (Flavor::MariaDb, "Gtid_list") => {
                let inside = info.trim_start_matches('[').split(']').next().unwrap_or_default().to_owned();
                let all = inside.split(',').filter(|g| !g.trim().is_empty()).all(|g| mariadb_gtid(g).is_some());
                return Ok(GtidSet::parse(flavor, &inside).filter(|_| all));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// `COLLATION_NAME` or `CHARACTER_SET_NAME`, in lower case, of each collation by its number.
async fn by_collation(session: &mut Session, column: &str, what: &str) -> Result<impl Iterator<Item = (u16, String)>> {
    let sql = if !session.version.mariadb(101_000) {
        format!("SELECT ID, {column} FROM information_schema.COLLATIONS")
    } else {
        // One collation serves several character sets, with a number and a full name for each.
        let column = if column == "COLLATION_NAME" { "FULL_COLLATION_NAME" } else { column };
        format!("SELECT ID, {column} FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY")
    };
    let rows: Vec<(Option<u64>, Option<String>)> = session.all(sql, what).await?;
    Ok(rows.into_iter().filter_map(|(id, text)| Some((u16::try_from(id?).ok()?, text?.to_ascii_lowercase()))))
}

/// The selected tables, with what the server's catalogue has to say where the plans do not know it.
async fn tables(session: &mut Session, plans: &[TablePlan]) -> Result<Tables> {
    let what = "cannot read what the change stream is decoded with";
    let collations: Collations = by_collation(session, "CHARACTER_SET_NAME", what).await?.collect();
    let folds: Option<u64> = session.first("SELECT @@GLOBAL.lower_case_table_names", what).await?;
    let mut shapes = Vec::with_capacity(plans.len());
    for plan in plans {
        shapes.push(shape(plan, condition(session, plan).await?)?);
    }
    for shape in shapes.iter_mut().filter(|s| !s.knows_places()) {
        let source = &shape.plan.source;
        let sql = format!(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
             ORDER BY ORDINAL_POSITION",
            sql::text(&source.schema),
            sql::text(&source.name)
        );
        shape.catalogue = Some(session.all(sql, what).await?);
    }
    Ok(Tables::new(shapes, collations, folds.unwrap_or(0) != 0))
}

/// A plan, ready to be bound.
pub(super) fn shape(plan: &TablePlan, condition: Option<Condition>) -> Result<Shape> {
    Shape::new(plan.clone(), None, condition).map_err(|m| {
        Error::new(codes::UNSUPPORTED, Fault::Source, Retry::Never, m.how)
            .table(&plan.source)
            .column(m.column.unwrap_or_default())
            .remedy("leave the column out")
    })
}

/// The plans with what is known of their columns at the place that has been read to.
pub(super) fn followed_shapes(follower: &Follower) -> Result<Vec<Shape>> {
    let tables = &follower.schemas.catalog;
    let shapes = follower.schemas.plans.iter().filter(|p| !p.is_gone()).map(|plan| {
        let columns = tables.table(&plan.source).map(|t| t.columns.as_slice()).unwrap_or_default();
        let detail = |name: &str| {
            let column = columns.iter().find(|c| c.name == name);
            column.map(|c| Detail { collation: c.collation.clone(), nullable: c.nullable }).unwrap_or_default()
        };
        let details: Vec<Detail> = plan.columns.iter().map(|c| detail(&c.source)).collect();
        shape(plan, compiled(plan, &details)?)
    });
    shapes.collect()
}

/// The plan's condition, ready to be evaluated on changes.
async fn condition(session: &mut Session, plan: &TablePlan) -> Result<Option<Condition>> {
    if plan.filter.is_none() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT COLUMN_NAME, COLLATION_NAME, IS_NULLABLE = 'YES' FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        sql::text(&plan.source.schema),
        sql::text(&plan.source.name)
    );
    let rows: Vec<(String, Option<String>, bool)> =
        session.all(sql, "cannot read what a condition is evaluated with").await?;
    let detail = |name: &str| {
        let row = rows.iter().find(|r| r.0 == name);
        row.map(|r| Detail { collation: r.1.clone(), nullable: r.2 }).unwrap_or_default()
    };
    let details: Vec<Detail> = plan.columns.iter().map(|c| detail(&c.source)).collect();
    compiled(plan, &details)
}

/// The same with what is known of the columns, in the plan's order.
pub(super) fn compiled(plan: &TablePlan, details: &[Detail]) -> Result<Option<Condition>> {
    if plan.filter.is_none() {
        return Ok(None);
    }
    Condition::of(plan, details).map_err(|refusal| {
        Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, refusal.why)
            .table(&plan.source)
            .remedy(refusal.remedy)
    })
}

/// By how much the server's clock is ahead of ours, in microseconds.
async fn skew(session: &mut Session) -> Result<i64> {
    let fractions = session.version.is_mariadb() || session.version.mysql(50_604);
    let sql = if fractions {
        "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)"
    } else {
        "SELECT UNIX_TIMESTAMP() * 1000000"
    };
    let theirs: Option<u64> = session.first(sql, "cannot ask for the source's clock").await?;
    Ok(theirs.map_or(0, |t| t as i64 - now()))
}

/// A number for this migration among the replicas of a server; the same each time, so that a former holder's dump ends.
fn replica_number(migration: MigrationId) -> u32 {
    // Numbers of real replicas are small as a rule.
    xxhash_rust::xxh3::xxh3_64(migration.as_bytes()) as u32 | 0x8000_0000
}

async fn dump(dialer: &Dialer, session: &Session, spec: &StreamSpec, from: &Place) -> Result<Dump> {
    let what = "cannot begin to read the binary log";
    let version = &session.version;
    let mut wire = Wire::connect(dialer, "stream").await?;
    // While the log is full nobody reads, and a replica has no way to say that it is there: so the server waits as long as it can (a year). It keeps
    // the files that a dump stands in meanwhile. Besides a sign of life each second, which also tells how far an idle source has come.
    let mut settings = "SET SESSION net_write_timeout = 31536000, @master_heartbeat_period = 1000000000, @source_heartbeat_period = 1000000000".to_owned();
    if version.is_mariadb() {
        // It may send its own events as they are.
        settings.push_str(", @mariadb_slave_capability = 4");
    }
    if version.is_mariadb() || version.mysql(50_602) {
        settings.push_str(
            ", @master_binlog_checksum = @@GLOBAL.binlog_checksum, @source_binlog_checksum = @@GLOBAL.binlog_checksum",
        );
    }
    let uuid = spec.migration;
    settings.push_str(&format!(", @slave_uuid = '{uuid}', @replica_uuid = '{uuid}'"));
    wire.run(settings, what).await?;
    let Ok(offset) = u32::try_from(from.offset) else {
        return Err(lost(format!("{from} lies beyond 4 GiB, where a server cannot be asked to begin")));
    };
    let number = replica_number(spec.migration);
    Dump::begin(wire, number, &from.file, offset, &spec.spill).await.map_err(|e| match e {
        crate::binlog::dump::Error::Server { number, message } => {
            let server = mysql_async::ServerError { code: number, message, state: "HY000".into() };
            let error = classify(&mysql_async::Error::Server(server), Fault::Source, what);
            // The session has logged in: it is not the password, whatever the number says elsewhere.
            if error.code == codes::PERMISSION {
                return error.remedy("GRANT REPLICATION SLAVE ON *.* TO the account");
            }
            error
        }
        e => Error::new(codes::CONNECTION, Fault::Source, Retry::Connection, what).cause(e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gtid::MariaDbSet;

    #[test]
    fn a_file_that_begins_early_enough() {
        let set = |text: &str| match GtidSet::parse(Flavor::MariaDb, text).unwrap() {
            GtidSet::MariaDb(set) => set,
            GtidSet::MySql(_) => unreachable!(),
        };
        let told = |before: &str, wanted: &str| {
            let (early, passing) = passing(&set(before), &set(wanted));
            early.then(|| GtidSet::MariaDb(passing).to_string())
        };
        assert_eq!(told("0-1-10", "0-1-15").as_deref(), Some("0-1-15"));
        assert_eq!(told("0-1-15", "0-1-15").as_deref(), Some(""));
        assert_eq!(told("", "0-1-15,1-2-3").as_deref(), Some("0-1-15,1-2-3"));
        assert_eq!(told("0-1-16", "0-1-15"), None);
        assert_eq!(told("0-1-3,2-1-1", "0-1-15"), None);
        // Another server's transaction of the same number is another transaction.
        assert_eq!(told("0-2-15", "0-1-15"), None);
        let _: MariaDbSet = set("");
    }

    #[test]
    fn one_number_for_a_migration() {
        let id = MigrationId::from_u128(7);
        assert_eq!(replica_number(id), replica_number(id));
        assert!(replica_number(id) >= 0x8000_0000);
    }
}
