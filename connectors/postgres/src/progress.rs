//! What drover keeps at a destination, in schema `drover`: the progress of each migration with its epoch, the generation of each
//! table's copy, a mark for each loaded chunk. Whoever raises the epoch owns the migration from then on: no commit under an older epoch
//! can follow, and the sessions of the holder before are ended, so that nothing of theirs holds a lock.

use crate::connect::{Dialer, Session};
use crate::errors::{classify, is};
use crate::fit::{Misfits, Noted};
use crate::{apply, sql};
use drover_connectors_api::Progress;
use drover_model::doubt::{Changed, Replaced};
use drover_model::error::codes;
use drover_model::plan::Plans;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use drover_runtime::retry::Backoff;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

/// How long sessions that are being ended may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// How long to wait for a lock before its holder is looked for.
const PATIENCE: &str = "set local lock_timeout = '2s'";

/// `consistent`: from which position on no table has a tolerant stretch. `place` is the position without what rides along: what is compared. Marks and generations stay to the end of the migration.
const TABLES: &str = "\
    create table if not exists drover.drover_progress (migration uuid primary key, name text not null unique, \
        epoch bigint not null, position bytea, place bytea, position_text text, updated_at timestamptz not null default now()); \
    alter table drover.drover_progress add column if not exists consistent bytea; \
    create table if not exists drover.drover_table (migration uuid not null, table_id bigint not null, generation bigint not null, \
        primary key (migration, table_id)); \
    create table if not exists drover.drover_chunk (migration uuid not null, table_id bigint not null, generation bigint not null, \
        chunk bigint not null, rows bigint, loaded_at timestamptz not null default now(), \
        primary key (migration, table_id, generation, chunk)); \
    create table if not exists drover.drover_misfit (migration uuid not null, table_id bigint not null, column_name text not null, \
        table_name text not null, policy text not null, occurrences bigint not null, example text not null, \
        primary key (migration, table_id, column_name)); \
    create table if not exists drover.drover_misfit_value (migration uuid not null, table_id bigint not null, column_name text not null, \
        named text not null, primary key (migration, table_id, column_name)); \
    comment on table drover.drover_progress is 'drover 1'";

/// The format of these tables, which the progress's comment tells: `drover 1`, or none at all. It rises when an older drover would misread what is there; a table or
/// column more is no other format.
const FORMAT: u32 = 1;

const OURS: [&str; 5] = ["drover_progress", "drover_table", "drover_chunk", "drover_misfit", "drover_misfit_value"];

/// Bytes of the values that are named of a column, about.
const NAMED_BYTES: i32 = 16 << 10;

/// Counts values that a column's policy changed, in the transaction that writes them.
pub(crate) async fn note_misfits(
    session: &Session,
    migration: MigrationId,
    plans: &Plans,
    misfits: &Misfits,
    fault: Fault,
) -> Result<()> {
    let (mut ids, mut columns, mut tables, mut policies, mut counts, mut examples, mut named) =
        (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
    for ((table, column), Noted { count, example, values }) in misfits {
        let Some((plan, column)) = plans.get(table).and_then(|p| p.columns.get(usize::from(*column)).map(|c| (p, c)))
        else {
            continue;
        };
        ids.push(i64::from(*table));
        columns.push(column.source.clone());
        tables.push(plan.source.to_string());
        policies.push(format!("{:?}", column.misfit).to_lowercase());
        counts.push(i64::try_from(*count).unwrap_or(i64::MAX));
        examples.push(example.replace('\0', ""));
        named.push(Changed::lines(values));
    }
    let sql = "insert into drover.drover_misfit as m (migration, table_id, column_name, table_name, policy, occurrences, example) \
        select $1, * from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[]) \
        on conflict (migration, table_id, column_name) do update set occurrences = m.occurrences + excluded.occurrences";
    let failed = |e: tokio_postgres::Error| classify(&e, fault, "cannot count values that did not fit");
    let counted: &[&(dyn ToSql + Sync)] = &[&migration, &ids, &columns, &tables, &policies, &counts, &examples];
    session.execute(sql, counted).await.map_err(failed)?;
    let sql = "insert into drover.drover_misfit_value as v (migration, table_id, column_name, named) \
        select $1, * from unnest($2::bigint[], $3::text[], $4::text[]) \
        on conflict (migration, table_id, column_name) do update set named = v.named || E'\\n' || excluded.named \
        where octet_length(v.named) < $5";
    session.execute(sql, &[&migration, &ids, &columns, &named, &NAMED_BYTES]).await.map(drop).map_err(failed)
}

/// What [`note_misfits`] has counted.
pub(crate) async fn replaced(dialer: &Dialer, migration: MigrationId) -> Result<Vec<Replaced>> {
    let session = dialer.session("progress").await?;
    let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot read which values did not fit");
    // An earlier version did not have the table.
    let there =
        session.query_one("select to_regclass('drover.drover_misfit') is not null", &[]).await.map_err(failed)?;
    if !there.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let named = session.query_one("select to_regclass('drover.drover_misfit_value') is not null", &[]).await;
    let named = if named.map_err(failed)?.get(0) {
        "left join drover.drover_misfit_value v using (migration, table_id, column_name)"
    } else {
        "cross join (select null::text as named) v"
    };
    let sql = format!(
        "select table_name, column_name, policy, occurrences, example, v.named from drover.drover_misfit {named} \
         where migration = $1 order by table_name, column_name"
    );
    let rows = session.query(&sql, &[&migration]).await.map_err(failed)?;
    let of = |r: &tokio_postgres::Row| Replaced {
        table: r.get(0),
        column: r.get(1),
        policy: r.get(2),
        count: r.get::<_, i64>(3) as u64,
        example: r.get(4),
        values: r.get::<_, Option<&str>>(5).map(Changed::of_lines).unwrap_or_default(),
    };
    Ok(rows.iter().map(of).collect())
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
        .remedy("was drover's schema dropped, or is this another database? `drover cleanup` and start again")
}

fn decode(bytes: Option<Vec<u8>>) -> Result<Option<Position>> {
    bytes
        .map(|b| Position::from_bytes(&b).map_err(|e| Error::internal("the stored progress is damaged").cause(e)))
        .transpose()
}

/// Epoch and position of a migration right now.
pub(crate) async fn stand(session: &Session, migration: MigrationId, fault: Fault) -> Result<(u64, Option<Position>)> {
    let row = session
        .query_opt("select epoch, position from drover.drover_progress where migration = $1", &[&migration])
        .await
        .map_err(|e| classify(&e, fault, "cannot read the progress"))?;
    let row = row.ok_or_else(|| lost(migration))?;
    Ok((row.get::<_, i64>(0) as u64, decode(row.get(1))?))
}

/// Creates drover's tables if missing, and this migration's row.
pub async fn prepare(dialer: &Dialer, migration: MigrationId, name: &str) -> Result<Progress> {
    let session = dialer.session("prepare").await?;
    let failed =
        |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot create drover's tables at the destination");
    // The lock: two that create the same schema at once would collide. `if not exists` asks for the permission to create even where
    // the schema exists, so it is looked for first.
    session.batch_execute("begin; select pg_advisory_xact_lock(hashtext('drover schema'))").await.map_err(failed)?;
    let there: bool =
        session.query_one("select to_regnamespace('drover') is not null", &[]).await.map_err(failed)?.get(0);
    if there {
        readable(&session, dialer.fault()).await?;
    } else {
        session.batch_execute("create schema drover").await.map_err(failed)?;
    }
    let complete: bool = session
        .query_one(
            "select count(*) = cardinality($1::text[]) and exists (select from pg_attribute where attrelid = to_regclass('drover.drover_progress') \
                and attname = 'consistent' and not attisdropped) \
             from pg_class where relnamespace = to_regnamespace('drover') and relname = any($1)",
            &[&OURS.map(str::to_owned).to_vec()],
        )
        .await
        .map_err(failed)?
        .get(0);
    if !complete {
        session.batch_execute(TABLES).await.map_err(failed)?;
    }
    session
        .execute(
            "insert into drover.drover_progress (migration, name, epoch) values ($1, $2, 0) on conflict do nothing",
            &[&migration, &name],
        )
        .await
        .map_err(failed)?;
    session.batch_execute("commit").await.map_err(failed)?;
    match read(&session, dialer.fault(), name).await? {
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

async fn read(session: &Session, fault: Fault, name: &str) -> Result<Option<Progress>> {
    let row = session
        .query_opt("select migration, epoch, position from drover.drover_progress where name = $1", &[&name])
        .await
        .map_err(|e| classify(&e, fault, "cannot read the progress"))?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Progress {
        migration: row.get(0),
        name: name.to_owned(),
        epoch: row.get::<_, i64>(1) as u64,
        position: decode(row.get(2))?,
    }))
}

/// Refuses what a newer drover keeps in a form of its own.
async fn readable(session: &Session, fault: Fault) -> Result<()> {
    let sql = "select obj_description(to_regclass('drover.drover_progress'), 'pg_class')";
    let row = session.query_one(sql, &[]).await.map_err(|e| classify(&e, fault, "cannot read the progress"))?;
    let told = row.get::<_, Option<&str>>(0).and_then(|c| c.strip_prefix("drover ")?.parse().ok());
    drover_connectors_api::known_format(told, FORMAT)
}

/// The progress of a migration of this name, if any.
pub async fn progress(dialer: &Dialer, name: &str) -> Result<Option<Progress>> {
    let session = dialer.session("progress").await?;
    let there = session
        .query_one("select to_regclass('drover.drover_progress') is not null", &[])
        .await
        .map_err(|e| classify(&e, dialer.fault(), "cannot read the progress"))?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    readable(&session, dialer.fault()).await?;
    read(&session, dialer.fault(), name).await
}

/// Ends the sessions of our own role in this database for which `condition` (on `pg_stat_activity`) holds, and waits until they
/// are gone. Gives their number.
pub(crate) async fn end_sessions(session: &Session, fault: Fault, condition: &str) -> Result<u64> {
    let failed = |e: tokio_postgres::Error| classify(&e, fault, "cannot end the sessions of a former holder");
    let chosen = format!(
        "from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database() and usename = current_user and {condition}"
    );
    let ended = session
        .query(&format!("select pid, backend_start::text, pg_terminate_backend(pid) {chosen}"), &[])
        .await
        .map_err(failed)?;
    let pids: Vec<i32> = ended.iter().map(|r| r.get(0)).collect();
    let starts: Vec<String> = ended.iter().map(|r| r.get::<_, Option<String>>(1).unwrap_or_default()).collect();
    let mut pauses = Backoff::new(GONE_WITHIN, Duration::from_millis(5), Duration::from_millis(200));
    loop {
        let left: i64 = session
            .query_one(
                "select count(*) from pg_stat_activity a join unnest($1::int[], $2::text[]) as e(pid, start) \
                 on a.pid = e.pid and a.backend_start::text = e.start",
                &[&pids, &starts],
            )
            .await
            .map_err(failed)?
            .get(0);
        if left == 0 {
            return Ok(ended.len() as u64);
        }
        match pauses.pause() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                let what = format!("{left} sessions of a former holder do not end");
                return Err(Error::new(codes::TIMEOUT, fault, Retry::Other, what)
                    .remedy(format!("end the server processes {pids:?} by hand")));
            }
        }
    }
}

/// The condition for sessions of a purpose of this migration.
fn named(dialer: &Dialer, purpose: &str) -> String {
    format!("application_name = {}", sql::literal(&dialer.application_name(purpose)))
}

/// Becomes the one applier: raises the epoch, ends the former holder's sessions, reads the progress, in that order. A former
/// holder that is frozen within a commit holds the progress row: then its sessions are ended first.
pub async fn take_over(dialer: &Dialer, migration: MigrationId) -> Result<Progress> {
    let session = dialer.session("take over").await?;
    readable(&session, dialer.fault()).await?;
    let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot take over at the destination");
    let former = named(dialer, apply::PURPOSE);
    let mut tries = 0;
    let (epoch, name): (i64, String) = loop {
        session
            .batch_execute(&format!("begin; {PATIENCE}; set local synchronous_commit = on"))
            .await
            .map_err(failed)?;
        let raised = session
            .query_opt(
                "update drover.drover_progress set epoch = epoch + 1, updated_at = now() where migration = $1 returning epoch, name",
                &[&migration],
            )
            .await;
        match raised {
            Ok(Some(row)) => {
                session.batch_execute("commit").await.map_err(failed)?;
                break (row.get(0), row.get(1));
            }
            Ok(None) => return Err(lost(migration)),
            Err(e) if is(&e, &SqlState::LOCK_NOT_AVAILABLE) && tries < 5 => {
                tries += 1;
                session.batch_execute("rollback").await.map_err(failed)?;
                end_sessions(&session, dialer.fault(), &former).await?;
            }
            Err(e) => return Err(failed(e)),
        }
    };
    end_sessions(&session, dialer.fault(), &former).await?;
    let (now, position) = stand(&session, migration, dialer.fault()).await?;
    if now != epoch as u64 {
        return Err(fenced(epoch as u64, now));
    }
    Ok(Progress { migration, name, epoch: epoch as u64, position })
}

/// Sets the position from which changes are applied, once. Repeating it with the same position is a success.
pub async fn begin_at(dialer: &Dialer, migration: MigrationId, epoch: u64, start: &Position) -> Result<()> {
    let session = dialer.session("begin").await?;
    let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot set the position to begin at");
    session.batch_execute("set synchronous_commit = on").await.map_err(failed)?;
    let set = session
        .execute(
            "update drover.drover_progress set position = $1, place = $2, position_text = $3, updated_at = now() \
             where migration = $4 and epoch = $5 and position is null",
            &[&start.to_bytes(), &place(start), &start.text, &migration, &(epoch as i64)],
        )
        .await
        .map_err(failed)?;
    if set == 1 {
        return Ok(());
    }
    let (now, position) = stand(&session, migration, dialer.fault()).await?;
    match position {
        _ if now != epoch => Err(fenced(epoch, now)),
        Some(p) if p == *start => Ok(()),
        p => Err(Error::internal(format!("changes are to begin at {start}, but the progress stands at {p:?} already"))),
    }
}

/// Notes from which position on no table has a tolerant stretch. Nothing under a former epoch.
pub async fn note_consistent(dialer: &Dialer, migration: MigrationId, epoch: u64, from: &Position) -> Result<()> {
    let session = dialer.session("begin").await?;
    let sql = "update drover.drover_progress set consistent = $1 where migration = $2 and epoch = $3";
    session
        .execute(sql, &[&from.to_bytes(), &migration, &(epoch as i64)])
        .await
        .map(drop)
        .map_err(|e| classify(&e, dialer.fault(), "cannot note from where on the destination is consistent"))
}

/// What was noted by [`note_consistent`]; nothing for progress that an earlier drover wrote.
pub async fn consistent_from(dialer: &Dialer, migration: MigrationId) -> Result<Option<Position>> {
    let session = dialer.session("progress").await?;
    let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot read the progress");
    let sql = "select exists (select from pg_attribute where attrelid = to_regclass('drover.drover_progress') and attname = 'consistent' \
        and not attisdropped)";
    if !session.query_one(sql, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "select consistent from drover.drover_progress where migration = $1";
    let row = session.query_opt(sql, &[&migration]).await.map_err(failed)?;
    decode(row.and_then(|r| r.get(0)))
}

/// Forgets the position of a migration that begins its tables again; gives the highest generation of its copies.
pub async fn forget_position(dialer: &Dialer, migration: MigrationId) -> Result<u32> {
    take_over(dialer, migration).await?;
    let session = dialer.session("begin").await?;
    let failed = |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot forget the position");
    session.batch_execute("set synchronous_commit = on").await.map_err(failed)?;
    let sql = "update drover.drover_progress set position = null, place = null, position_text = null, consistent = null, \
        updated_at = now() where migration = $1";
    session.execute(sql, &[&migration]).await.map_err(failed)?;
    let sql = "select greatest((select max(generation) from drover.drover_table where migration = $1), \
        (select max(generation) from drover.drover_chunk where migration = $1), 0)";
    let highest: i64 = session.query_one(sql, &[&migration]).await.map_err(failed)?.get(0);
    u32::try_from(highest).map_err(|e| Error::internal("a generation is out of range").cause(e))
}

/// What a loading session is called while it holds a chunk: whoever comes after it can end just that one.
pub(crate) fn load_purpose(table: u32, generation: u32, chunk: u32) -> String {
    format!("load {table} {generation} {chunk}")
}

/// Empties a table for a new generation of its copy. A generation that is begun already (or past) is left alone, so the order may come twice.
pub async fn restart_table(dialer: &Dialer, migration: MigrationId, plan: &TablePlan, generation: u32) -> Result<()> {
    let session = dialer.session("restart table").await?;
    let fault = dialer.fault();
    let failed =
        |e: tokio_postgres::Error| classify(&e, fault, "cannot empty a table for a new copy").table(&plan.destination);
    apply::silence_triggers(&session, fault).await?;
    let older = format!(
        "case when application_name ~ {} then split_part(application_name, ' ', 5)::bigint < {generation} else false end",
        sql::literal(&format!("^{} [0-9]+ [0-9]+$", dialer.application_name(&format!("load {}", plan.id))))
    );
    for tries in 0.. {
        session
            .batch_execute(&format!("begin; {PATIENCE}; set local synchronous_commit = on"))
            .await
            .map_err(failed)?;
        let raised = session
            .execute(
                "insert into drover.drover_table as t (migration, table_id, generation) values ($1, $2, $3) \
                 on conflict (migration, table_id) do update set generation = excluded.generation \
                 where t.generation < excluded.generation",
                &[&migration, &i64::from(plan.id), &i64::from(generation)],
            )
            .await;
        match raised {
            Ok(0) => return session.batch_execute("rollback").await.map_err(failed),
            Ok(_) => break,
            // A load of an older generation holds it; it is void anyway.
            Err(e) if is(&e, &SqlState::LOCK_NOT_AVAILABLE) && tries < 5 => {
                session.batch_execute("rollback").await.map_err(failed)?;
                end_sessions(&session, fault, &older).await?;
            }
            Err(e) => return Err(failed(e)),
        }
    }
    for table in ["drover_misfit", "drover_misfit_value"] {
        let sql = format!("delete from drover.{table} where migration = $1 and table_id = $2");
        session.execute(&sql, &[&migration, &i64::from(plan.id)]).await.map_err(failed)?;
    }
    let table = sql::table(&plan.destination);
    let row = session
        .query_one(
            "select c.relkind <> 'p', exists (select from pg_constraint k where k.contype = 'f' and k.confrelid = c.oid \
             and k.conrelid <> c.oid) from pg_class c where c.oid = to_regclass($1)",
            &[&table],
        )
        .await
        .map_err(failed)?;
    let only = if row.get(0) { "only " } else { "" };
    let verb = if row.get(1) { "delete from" } else { "truncate" };
    session
        .batch_execute(&format!("set local lock_timeout = '60s'; {verb} {only}{table}; commit"))
        .await
        .map_err(failed)
}

/// Drops what drover keeps here for a migration, and its schema when nothing else is in it. Gives what it did, for people.
pub async fn cleanup(dialer: &Dialer, migration: Option<MigrationId>, name: &str) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let Some(known) = progress(dialer, name).await? else { return Ok(done) };
    if migration.is_some_and(|m| m != known.migration) {
        let what = format!("the destination knows {name} as another migration ({})", known.migration);
        return Err(Error::new(codes::STATE_LOST, Fault::User, Retry::Never, what));
    }
    let session = dialer.session("cleanup").await?;
    let failed =
        |e: tokio_postgres::Error| classify(&e, dialer.fault(), "cannot drop what drover keeps at the destination");
    let ours = sql::literal(&format!("^drover {} (apply|load [0-9]+ [0-9]+ [0-9]+)$", known.migration));
    end_sessions(&session, dialer.fault(), &format!("application_name ~ {ours}")).await?;
    session
        .batch_execute("begin; set local lock_timeout = '30s'; select pg_advisory_xact_lock(hashtext('drover schema'))")
        .await
        .map_err(failed)?;
    for table in OURS {
        let name = format!("drover.{table}");
        // An earlier version did not have all of them.
        let there = session.query_one("select to_regclass($1) is not null", &[&name]).await.map_err(failed)?;
        if !there.get::<_, bool>(0) {
            continue;
        }
        session
            .execute(&format!("delete from {name} where migration = $1"), &[&known.migration])
            .await
            .map_err(failed)?;
    }
    done.push(format!("progress and chunk marks of {name} removed from schema drover"));
    let row = session
        .query_one(
            "select not exists (select from drover.drover_progress), \
             not exists (select from pg_class c where c.relnamespace = to_regnamespace('drover') \
               and c.relkind not in ('i', 't') and c.relname <> all($1)) \
             and not exists (select from pg_proc where pronamespace = to_regnamespace('drover'))",
            &[&OURS.map(str::to_owned).to_vec()],
        )
        .await
        .map_err(failed)?;
    if row.get(0) {
        let list = sql::list(OURS.iter().map(|t| format!("drover.{t}")));
        session.batch_execute(&format!("drop table if exists {list}")).await.map_err(failed)?;
        if row.get(1) {
            session.batch_execute("drop schema drover").await.map_err(failed)?;
            done.push("schema drover dropped".to_owned());
        }
    }
    session.batch_execute("commit").await.map_err(failed)?;
    Ok(done)
}
