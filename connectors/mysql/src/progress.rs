//! What drover keeps at a destination, in database `drover`, or beside the data where that cannot be created: the progress of each
//! migration with its epoch, the generation of each table's copy, a mark for each loaded chunk. Whoever raises the epoch owns the migration
//! from then on: no commit under an older epoch can follow, and the sessions of the holder before are ended, so that nothing of theirs
//! holds a lock.

use crate::connect::{Dialer, Session};
use crate::errors::{classify, number};
use crate::sessions::{self, Purpose};
use crate::sql;
use drover_connectors_api::Progress;
use drover_model::doubt::{Changed, Replaced};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use mysql_async::prelude::Queryable;

/// The database of drover's own, where it may have one.
const OWN: &str = "drover";

/// Each table and its columns. `place` is the position without what rides along: what is compared. `session` is the number of the session
/// that wrote a row, for ending it. Marks and generations stay to the end of the migration.
const TABLES: [(&str, &str); 6] = [
    (
        "drover_progress",
        "migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, \
         name VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE, epoch BIGINT UNSIGNED NOT NULL, \
         position LONGBLOB, place BLOB, position_text LONGTEXT CHARACTER SET utf8mb4, consistent LONGBLOB, \
         updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)",
    ),
    (
        "drover_table",
        "migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, table_id INT UNSIGNED NOT NULL, \
         generation INT UNSIGNED NOT NULL, session BIGINT UNSIGNED, PRIMARY KEY (migration, table_id)",
    ),
    (
        "drover_chunk",
        "migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, table_id INT UNSIGNED NOT NULL, \
         generation INT UNSIGNED NOT NULL, chunk INT UNSIGNED NOT NULL, `rows` BIGINT UNSIGNED, session BIGINT UNSIGNED, \
         loaded_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), \
         PRIMARY KEY (migration, table_id, generation, chunk)",
    ),
    (
        "drover_intent",
        "migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
         step VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, statement LONGTEXT CHARACTER SET utf8mb4 NOT NULL, \
         fingerprint_before CHAR(32) CHARACTER SET ascii NOT NULL, fingerprint_after CHAR(32) CHARACTER SET ascii, \
         session BIGINT UNSIGNED NOT NULL, \
         updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), \
         PRIMARY KEY (migration, step)",
    ),
    (
        "drover_misfit",
        "migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, table_id INT UNSIGNED NOT NULL, \
         column_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, table_name TEXT CHARACTER SET utf8mb4 NOT NULL, \
         policy VARCHAR(16) CHARACTER SET ascii NOT NULL, occurrences BIGINT UNSIGNED NOT NULL, example TEXT CHARACTER SET utf8mb4 NOT NULL, \
         PRIMARY KEY (migration, table_id, column_name)",
    ),
    (
        "drover_misfit_value",
        "migration CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, table_id INT UNSIGNED NOT NULL, \
         column_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, named MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL, \
         PRIMARY KEY (migration, table_id, column_name)",
    ),
];

/// The format of these tables, which the progress's comment tells: `drover 1`, or none at all. It rises when an older drover would misread what is there; a table or
/// column more is no other format.
const FORMAT: u32 = 1;

/// Bytes of the values that are named of a column, about.
const NAMED_BYTES: usize = 16 << 10;

/// A text whatever is in it.
fn utf8(text: &str) -> String {
    let mut out = b"CONVERT(".to_vec();
    sql::put_hex(&mut out, text.as_bytes());
    out.extend_from_slice(b" USING utf8mb4)");
    String::from_utf8_lossy(&out).into_owned()
}

/// The statement that keeps the first few values of a column which its policy changed; `None`: there are none.
pub(crate) fn name_misfits(
    home: &Home,
    migration: MigrationId,
    plan: &TablePlan,
    column: usize,
    values: &[Changed],
) -> Option<String> {
    let of = plan.columns.get(column).filter(|_| !values.is_empty())?;
    let lines = Changed::lines(values);
    Some(format!(
        "INSERT INTO {} (migration, table_id, column_name, named) VALUES ('{migration}', {}, {}, {}) \
         ON DUPLICATE KEY UPDATE named = IF(LENGTH(named) < {NAMED_BYTES}, CONCAT(named, {}), named)",
        home.table("drover_misfit_value"),
        plan.id,
        utf8(&of.source),
        utf8(&lines),
        utf8(&format!("\n{lines}"))
    ))
}

/// The statement that counts values of a column (by its place in the plan) which its policy changed, for the transaction that writes them.
pub(crate) fn count_misfits(
    home: &Home,
    migration: MigrationId,
    plan: &TablePlan,
    column: usize,
    count: u64,
    example: &str,
) -> String {
    let Some(of) = plan.columns.get(column) else { return "DO 0".to_owned() };
    format!(
        "INSERT INTO {} (migration, table_id, column_name, table_name, policy, occurrences, example) \
         VALUES ('{migration}', {}, {}, {}, '{}', {count}, {}) ON DUPLICATE KEY UPDATE occurrences = occurrences + {count}",
        home.table("drover_misfit"),
        plan.id,
        utf8(&of.source),
        utf8(&plan.source.to_string()),
        format!("{:?}", of.misfit).to_lowercase(),
        utf8(example)
    )
}

/// What [`count_misfits`] has counted.
pub(crate) async fn replaced(dialer: &Dialer, migration: MigrationId) -> Result<Vec<Replaced>> {
    let what = "cannot read which values did not fit";
    let mut session = dialer.session("progress").await?;
    let Some(home) = find(&mut session, dialer, &format!("migration = '{migration}'")).await? else {
        return Ok(Vec::new());
    };
    let there = format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME IN ('drover_misfit', 'drover_misfit_value')",
        sql::text(&home.database)
    );
    // An earlier version did not have the tables; the next order makes them.
    if session.first::<u64>(there, what).await? != Some(2) {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT table_name, column_name, policy, occurrences, example, named FROM {} LEFT JOIN {} USING (migration, table_id, column_name) \
         WHERE migration = '{migration}' ORDER BY table_name, column_name",
        home.table("drover_misfit"),
        home.table("drover_misfit_value")
    );
    let rows: Vec<(String, String, String, u64, String, Option<String>)> = session.all(sql, what).await?;
    let of = |(table, column, policy, count, example, named): (_, _, _, _, _, Option<String>)| {
        let values = named.as_deref().map(Changed::of_lines).unwrap_or_default();
        Replaced { table, column, policy, count, example, values }
    };
    Ok(rows.into_iter().map(of).collect())
}

/// The comparable part of a position as bytes.
pub(crate) fn place(position: &Position) -> Vec<u8> {
    [&position.lineage.to_be_bytes()[..], &position.order].concat()
}

/// The error of a holder whose epoch has passed.
pub(crate) fn fenced(ours: u64, now: u64) -> Error {
    let what = format!("another applier took over: the destination is at epoch {now}, this one holds {ours}");
    Error::new(codes::FENCED, Fault::Drover, Retry::Never, what)
}

fn lost(migration: MigrationId) -> Error {
    let what = format!("the destination has no progress of migration {migration}");
    Error::new(codes::STATE_LOST, Fault::Destination, Retry::Never, what)
        .remedy("were drover's tables dropped, or is this another server? `drover cleanup` and start again")
}

fn decode(bytes: Option<Vec<u8>>) -> Result<Option<Position>> {
    bytes
        .map(|b| Position::from_bytes(&b).map_err(|e| Error::internal("the stored progress is damaged").cause(e)))
        .transpose()
}

/// The database that holds drover's tables for a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    database: String,
}

impl Home {
    /// The quoted name of one of drover's tables.
    pub(crate) fn table(&self, table: &str) -> String {
        format!("{}.{table}", sql::name(&self.database))
    }

    /// The quoted name of the database.
    pub(crate) fn database(&self) -> String {
        sql::name(&self.database)
    }

    /// Where drover's tables of this migration are.
    ///
    /// # Errors
    /// STATE_LOST when they are nowhere.
    pub async fn of(session: &mut Session, dialer: &Dialer, migration: MigrationId) -> Result<Home> {
        find(session, dialer, &format!("migration = '{migration}'")).await?.ok_or_else(|| lost(migration))
    }
}

/// The places where drover's tables may be, the best first.
fn places(dialer: &Dialer) -> Vec<String> {
    let mut places = vec![OWN.to_owned()];
    places.extend(dialer.settings().database.clone().filter(|d| d != OWN));
    places
}

async fn has_progress(session: &mut Session, database: &str) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = 'drover_progress'",
        sql::text(database)
    );
    Ok(session.first::<u8>(sql, "cannot look for drover's tables").await?.is_some())
}

/// Refuses what a newer drover keeps in a form of its own.
async fn readable(session: &mut Session, database: &str) -> Result<()> {
    let sql = format!(
        "SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = 'drover_progress'",
        sql::text(database)
    );
    let comment: Option<String> = session.first(sql, "cannot look for drover's tables").await?;
    let told = comment.as_deref().and_then(|c| c.strip_prefix("drover ")?.parse().ok());
    drover_connectors_api::known_format(told, FORMAT)
}

/// The place whose progress has a row that satisfies this condition.
async fn find(session: &mut Session, dialer: &Dialer, condition: &str) -> Result<Option<Home>> {
    for database in places(dialer) {
        if !has_progress(session, &database).await? {
            continue;
        }
        readable(session, &database).await?;
        let home = Home { database };
        let sql = format!("SELECT 1 FROM {} WHERE {condition}", home.table("drover_progress"));
        if session.first::<u8>(sql, "cannot read the progress").await?.is_some() {
            return Ok(Some(home));
        }
    }
    Ok(None)
}

/// Creates the first place in which drover's tables may be created.
async fn make(session: &mut Session, dialer: &Dialer) -> Result<Home> {
    let mut refused = None;
    for database in places(dialer) {
        let home = Home { database };
        match create(session, &home).await {
            Ok(()) => return Ok(home),
            Err(e) if e.code == codes::PERMISSION => {
                refused.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    let error = refused.unwrap_or_else(|| Error::internal("no place for drover's tables"));
    Err(error.remedy(
        "grant the account all privileges on database `drover`, or name in the destination's url a database in which it may create tables",
    ))
}

async fn create(session: &mut Session, home: &Home) -> Result<()> {
    let what = format!("cannot create drover's tables in database {}", home.database);
    let sql = format!("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}", sql::text(&home.database));
    if session.first::<u8>(sql, &what).await?.is_none() && home.database == OWN {
        session.run(format!("CREATE DATABASE IF NOT EXISTS {OWN} CHARACTER SET utf8mb4"), &what).await?;
    }
    for (table, columns) in TABLES {
        let sql = format!(
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = '{table}'",
            sql::text(&home.database)
        );
        // Even where the table exists, the statement would ask for the permission to create.
        if session.first::<u8>(sql, &what).await?.is_none() {
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {} ({columns}) ENGINE = InnoDB COMMENT = 'drover {FORMAT}'",
                home.table(table)
            );
            session.run(sql, &what).await?;
        }
    }
    Ok(())
}

/// Epoch and position of a migration right now.
pub(crate) async fn stand(
    session: &mut Session,
    home: &Home,
    migration: MigrationId,
) -> Result<(u64, Option<Position>)> {
    let sql = format!("SELECT epoch, position FROM {} WHERE migration = '{migration}'", home.table("drover_progress"));
    let row: Option<(u64, Option<Vec<u8>>)> = session.first(sql, "cannot read the progress").await?;
    let (epoch, position) = row.ok_or_else(|| lost(migration))?;
    Ok((epoch, decode(position)?))
}

/// Nobody else creates or drops drover's tables for as long as the session lives.
async fn alone(session: &mut Session) -> Result<()> {
    let got: Option<Option<u8>> =
        session.first("SELECT GET_LOCK('drover tables', 30)", "cannot take the lock of drover's tables").await?;
    if got == Some(Some(1)) {
        return Ok(());
    }
    let what = "another drover creates or drops its tables at the destination, for half a minute now";
    Err(Error::new(codes::TIMEOUT, session.fault, Retry::Other, what))
}

/// Creates drover's tables if missing, and this migration's row.
pub async fn prepare(dialer: &Dialer, migration: MigrationId, name: &str) -> Result<Progress> {
    let mut session = dialer.session("prepare").await?;
    alone(&mut session).await?;
    let condition = format!("name = {} OR migration = '{migration}'", sql::text(name));
    let home = match find(&mut session, dialer, &condition).await? {
        Some(home) => {
            // A newer drover may keep more than the one that began.
            create(&mut session, &home).await?;
            home
        }
        None => make(&mut session, dialer).await?,
    };
    let sql = format!(
        "INSERT INTO {} (migration, name, epoch) VALUES ('{migration}', {}, 0)",
        home.table("drover_progress"),
        sql::text(name)
    );
    match session.query_drop(sql).await {
        Err(e) if number(&e) != Some(1062) => return Err(classify(&e, dialer.fault(), "cannot write the progress")),
        _ => {}
    }
    match read(&mut session, &home, name).await? {
        Some(progress) if progress.migration == migration => Ok(progress),
        Some(other) => {
            let what =
                format!("the destination knows {name} as another migration ({}), not as {migration}", other.migration);
            Err(Error::new(codes::STATE_LOST, Fault::User, Retry::Never, what)
                .remedy("go on with the state that it began with, or begin anew after `drover cleanup`"))
        }
        None => Err(Error::internal(format!(
            "migration {migration} stands at the destination under another name than {name}"
        ))),
    }
}

async fn read(session: &mut Session, home: &Home, name: &str) -> Result<Option<Progress>> {
    let sql = format!(
        "SELECT migration, epoch, position FROM {} WHERE name = {}",
        home.table("drover_progress"),
        sql::text(name)
    );
    let row: Option<(String, u64, Option<Vec<u8>>)> = session.first(sql, "cannot read the progress").await?;
    let Some((migration, epoch, position)) = row else { return Ok(None) };
    let migration = MigrationId::parse_str(&migration)
        .map_err(|e| Error::internal("the stored progress names no migration").cause(e))?;
    Ok(Some(Progress { migration, name: name.to_owned(), epoch, position: decode(position)? }))
}

/// The progress of a migration of this name, if any.
pub async fn progress(dialer: &Dialer, name: &str) -> Result<Option<Progress>> {
    let mut session = dialer.session("progress").await?;
    match find(&mut session, dialer, &format!("name = {}", sql::text(name))).await? {
        Some(home) => read(&mut session, &home, name).await,
        None => Ok(None),
    }
}

/// Becomes the one applier: raises the epoch, ends the former holder's sessions, reads the progress, in that order. A former
/// holder that is frozen within a commit holds the progress row: then its sessions are ended first.
pub async fn take_over(dialer: &Dialer, migration: MigrationId) -> Result<Progress> {
    let mut session = dialer.session("take over").await?;
    let what = "cannot take over at the destination";
    let home = Home::of(&mut session, dialer, migration).await?;
    session.run("SET SESSION innodb_lock_wait_timeout = 2", what).await?;
    let raise =
        format!("UPDATE {} SET epoch = epoch + 1 WHERE migration = '{migration}'", home.table("drover_progress"));
    let mut tries = 0;
    loop {
        session.run("START TRANSACTION", what).await?;
        match session.query_drop(&raise).await {
            Ok(()) => break,
            Err(e) if number(&e) == Some(1205) && tries < 5 => {
                tries += 1;
                session.run("ROLLBACK", what).await?;
                sessions::end_all(&mut session, migration, Purpose::Apply).await?;
            }
            Err(e) => return Err(classify(&e, dialer.fault(), what)),
        }
    }
    let sql = format!("SELECT epoch, name FROM {} WHERE migration = '{migration}'", home.table("drover_progress"));
    let row: Option<(u64, String)> = session.first(sql, what).await?;
    let (epoch, name) = row.ok_or_else(|| lost(migration))?;
    session.run("COMMIT", what).await?;
    sessions::end_all(&mut session, migration, Purpose::Apply).await?;
    let (now, position) = stand(&mut session, &home, migration).await?;
    if now != epoch {
        return Err(fenced(epoch, now));
    }
    Ok(Progress { migration, name, epoch, position })
}

/// Sets the position from which changes are applied, once. Repeating it with the same position is a success.
pub async fn begin_at(dialer: &Dialer, migration: MigrationId, epoch: u64, start: &Position) -> Result<()> {
    let mut session = dialer.session("begin").await?;
    let home = Home::of(&mut session, dialer, migration).await?;
    let mut statement = format!("UPDATE {} SET ", home.table("drover_progress")).into_bytes();
    put_position(&mut statement, start);
    statement.extend_from_slice(
        format!(" WHERE migration = '{migration}' AND epoch = {epoch} AND position IS NULL").as_bytes(),
    );
    let what = "cannot set the position to begin at";
    let set = session.query_drop(statement).await;
    set.map_err(|e| classify(&e, dialer.fault(), what))?;
    if session.affected_rows() == 1 {
        return Ok(());
    }
    let (now, position) = stand(&mut session, &home, migration).await?;
    match position {
        _ if now != epoch => Err(fenced(epoch, now)),
        Some(p) if p == *start => Ok(()),
        p => Err(Error::internal(format!("changes are to begin at {start}, but the progress stands at {p:?} already"))),
    }
}

/// Notes from which position on no table has a tolerant stretch any more.
pub async fn note_consistent(dialer: &Dialer, migration: MigrationId, epoch: u64, from: &Position) -> Result<()> {
    let mut session = dialer.session("begin").await?;
    let home = Home::of(&mut session, dialer, migration).await?;
    let mut statement = format!("UPDATE {} SET consistent = ", home.table("drover_progress")).into_bytes();
    sql::put_hex(&mut statement, &from.to_bytes());
    statement.extend_from_slice(format!(" WHERE migration = '{migration}' AND epoch = {epoch}").as_bytes());
    let noted = session.query_drop(statement).await;
    noted.map_err(|e| classify(&e, dialer.fault(), "cannot note from where on the destination is consistent"))
}

/// What was noted by [`note_consistent`].
pub async fn consistent_from(dialer: &Dialer, migration: MigrationId) -> Result<Option<Position>> {
    let mut session = dialer.session("progress").await?;
    let Some(home) = find(&mut session, dialer, &format!("migration = '{migration}'")).await? else { return Ok(None) };
    let sql = format!("SELECT consistent FROM {} WHERE migration = '{migration}'", home.table("drover_progress"));
    decode(session.first::<Option<Vec<u8>>>(sql, "cannot read the progress").await?.flatten())
}

/// Forgets the position of a migration that begins its tables again; gives the highest generation of its copies.
pub async fn forget_position(dialer: &Dialer, migration: MigrationId) -> Result<u32> {
    take_over(dialer, migration).await?;
    let what = "cannot forget the position";
    let mut session = dialer.session("begin").await?;
    let home = Home::of(&mut session, dialer, migration).await?;
    let sql = format!(
        "UPDATE {} SET position = NULL, place = NULL, position_text = NULL, consistent = NULL WHERE migration = '{migration}'",
        home.table("drover_progress")
    );
    session.run(sql, what).await?;
    let highest = |table: &str| {
        format!("COALESCE((SELECT MAX(generation) FROM {} WHERE migration = '{migration}'), 0)", home.table(table))
    };
    let sql = format!("SELECT GREATEST({}, {})", highest("drover_table"), highest("drover_chunk"));
    Ok(session.first::<u32>(sql, what).await?.unwrap_or(0))
}

/// `position = …, place = …, position_text = …`. The same under any character set of the session.
pub(crate) fn put_position(out: &mut Vec<u8>, position: &Position) {
    out.extend_from_slice(b"position = ");
    sql::put_hex(out, &position.to_bytes());
    out.extend_from_slice(b", place = ");
    sql::put_hex(out, &place(position));
    out.extend_from_slice(b", position_text = CONVERT(");
    sql::put_hex(out, position.text.as_bytes());
    out.extend_from_slice(b" USING utf8mb4)");
}

/// Drops what drover keeps here for a migration, and its tables and database when nothing else is in them. Gives what it did, for
/// people.
pub async fn cleanup(dialer: &Dialer, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>> {
    let mut session = dialer.session("cleanup").await?;
    alone(&mut session).await?;
    let mut done = Vec::new();
    let Some(home) = find(&mut session, dialer, &format!("name = {}", sql::text(name))).await? else { return Ok(done) };
    let Some(known) = read(&mut session, &home, name).await? else { return Ok(done) };
    if migration.is_some_and(|m| m != known.migration) {
        let what = format!("the destination knows {name} as another migration ({})", known.migration);
        return Err(Error::new(codes::STATE_LOST, Fault::User, Retry::Never, what));
    }
    let what = "cannot drop what drover keeps at the destination";
    sessions::end_everything(&mut session, known.migration).await?;
    session.run("START TRANSACTION", what).await?;
    for (table, _) in TABLES.iter().rev() {
        let sql = format!("DELETE FROM {} WHERE migration = '{}'", home.table(table), known.migration);
        session.run(sql, what).await?;
    }
    session.run("COMMIT", what).await?;
    done.push(format!("progress and chunk marks of {name} removed from database {}", home.database));
    let sql = format!("SELECT 1 FROM {} LIMIT 1", home.table("drover_progress"));
    if session.first::<u8>(sql, what).await?.is_some() {
        return Ok(done);
    }
    for (table, _) in TABLES.iter().rev() {
        session.run(format!("DROP TABLE IF EXISTS {}", home.table(table)), what).await?;
    }
    if home.database == OWN && is_empty(&mut session, OWN).await? {
        session.run(format!("DROP DATABASE {OWN}"), what).await?;
        done.push(format!("database {OWN} dropped"));
    }
    Ok(done)
}

/// Whether nothing at all is in a database.
pub(crate) async fn is_empty(session: &mut Session, database: &str) -> Result<bool> {
    let d = sql::text(database);
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {d}) \
         + (SELECT COUNT(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = {d}) \
         + (SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = {d})"
    );
    Ok(session.first::<u64>(sql, "cannot look into drover's database").await? == Some(0))
}
