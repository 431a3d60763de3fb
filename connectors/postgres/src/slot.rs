//! What drover creates in a source: a slot, a publication of the selected tables, event triggers, a heartbeat row; and, with the operator's
//! consent, replica identities. All of it is found again by the migration's id and taken away by [`cleanup`].
//!
//! No statement of the application fails because of it: a table joins the publication only when its updates and deletes have
//! an identity to be logged by (else the server would refuse them), and no lock is waited for longer than [`LOCK_WAIT`]. One gap is left:
//! a partition that the application attaches to a published table without a key gets its identity up to [`MEND`] later; until then the
//! server refuses updates and deletes of it.

use crate::changes::MARK_PREFIX;
use crate::connect::{Dialer, Session};
use crate::ddl::watch;
use crate::errors::classify;
use crate::failover;
use crate::lsn::Lsn;
use crate::replication::{CreatedSlot, ReplicationSession};
use crate::sql::{ident, literal, qualified};
use drover_connectors_api::StreamSpec;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry, TablePlan};
use drover_runtime::task;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

/// Statements of the application queue behind a lock that drover waits for, so it waits no longer than this at a time.
const LOCK_WAIT: &str = "400ms";

/// How often a lock is tried for before giving up.
const LOCK_TRIES: u32 = 25;

/// How long creating the slot may wait for running transactions.
const SLOT_WAIT: Duration = Duration::from_secs(120);

/// How often the heartbeat moves an idle slot.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How often partitions without an identity are looked for, where there may be some.
const MEND: Duration = Duration::from_secs(1);

const HEARTBEAT_TABLE: &str = "public.dts_postgres_heartbeat";

/// Names of what belongs to a migration.
#[derive(Debug, Clone)]
pub struct Names {
    pub slot: String,
    pub publication: String,
}

impl Names {
    pub fn new(name: &str, id: MigrationId) -> Self {
        let short = &id.simple().to_string()[..8];
        let name = name.replace('-', "_");
        Names { slot: format!("dts_sync_{name}_{short}"), publication: format!("drover_{name}_{short}") }
    }
}

/// Written as the publication's comment: what it belongs to, and what has to be restored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Note {
    drover: MigrationId,
    /// Epoch under which the stream was made.
    #[serde(default)]
    epoch: u64,
    /// System identifier of the server and its timeline.
    server: String,
    /// Tables whose replica identity was set to FULL, and what it was before.
    identities: Vec<(String, String, String)>,
    /// The numbers of these tables, which may have other names by now. Notes of earlier versions have none.
    #[serde(default)]
    numbers: Vec<u32>,
}

/// A table whose updates or deletes the server could not log once it is published.
#[derive(Debug)]
pub struct Lacking {
    pub schema: String,
    pub table: String,
    /// Its replica identity, as the catalogue has it.
    identity: String,
    number: u32,
}

impl Note {
    fn add(&mut self, lacking: &[Lacking]) {
        self.numbers.resize(self.identities.len(), 0);
        for l in lacking {
            if self.numbers.contains(&l.number) {
                continue;
            }
            self.identities.push((l.schema.clone(), l.table.clone(), l.identity.clone()));
            self.numbers.push(l.number);
        }
    }
}

fn say(error: &tokio_postgres::Error, what: &str) -> Error {
    classify(error, Fault::Source, what)
}

/// Executes a statement that needs a lock, in short tries.
async fn patiently(session: &Session, sql: &str, what: &str) -> Result<()> {
    for attempt in 1.. {
        let sql = format!("set lock_timeout = '{LOCK_WAIT}'; {sql}");
        match session.batch_execute(&sql).await {
            Ok(()) => break,
            Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && attempt < LOCK_TRIES => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(e) => return Err(say(&e, what)),
        }
    }
    Ok(())
}

/// Which server this is, as two sessions can compare it.
pub async fn server_of(session: &mut ReplicationSession) -> Result<String> {
    let identity = session.identify().await.map_err(|e| {
        Error::new(codes::CONNECTION, Fault::Source, Retry::Connection, "cannot ask the source who it is").cause(e)
    })?;
    Ok(failover::server(&identity))
}

/// Tables (partitions one by one) whose updates or deletes the server could not log once they are published. The tables come with their numbers, where
/// these are known: names may have been given to others.
pub async fn without_identity(session: &Session, plans: &[(TablePlan, Option<u32>)]) -> Result<Vec<Lacking>> {
    let schemas: Vec<&str> = plans.iter().map(|(p, _)| p.source.schema.as_str()).collect();
    let tables: Vec<&str> = plans.iter().map(|(p, _)| p.source.name.as_str()).collect();
    let filtered: Vec<bool> = plans.iter().map(|(p, _)| p.filter.is_some()).collect();
    let numbers: Vec<u32> = plans.iter().map(|(_, number)| number.unwrap_or(0)).collect();
    let sql = include_str!("catalog/without_identity.sql");
    let rows = session.query(sql, &[&schemas, &tables, &filtered, &numbers]).await;
    let rows = rows.map_err(|e| say(&e, "cannot look at the tables' replica identities"))?;
    let one =
        |r: &tokio_postgres::Row| Lacking { schema: r.get(0), table: r.get(1), identity: r.get(2), number: r.get(3) };
    Ok(rows.iter().map(one).collect())
}

/// The types that the plans' columns were planned with, all columns one after the other; `None` where there is no such type any more.
pub async fn types(session: &Session, plans: &[TablePlan]) -> Result<Vec<Option<u32>>> {
    let texts: Vec<&str> = plans.iter().flat_map(|p| &p.columns).map(|c| c.origin_type.as_str()).collect();
    let sql = "select to_regtype(t)::oid from unnest($1::text[]) with ordinality as u(t, n) order by n";
    let rows = session.query(sql, &[&texts]).await.map_err(|e| say(&e, "cannot look the columns' types up"))?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// Whether a table was partitioned when it was planned.
pub fn is_partitioned(plan: &TablePlan) -> bool {
    plan.physical.starts_with("partitioned")
}

/// Creates the publication of exactly these tables, after giving them an identity where they lack one and the operator consents.
pub async fn publish(session: &Session, version: u32, names: &Names, spec: &StreamSpec, server: &str) -> Result<()> {
    let plans = &spec.tables;
    let filtered: Vec<String> = plans.iter().filter(|p| p.filter.is_some()).map(|p| p.source.to_string()).collect();
    if version < 150_000 && !filtered.is_empty() {
        let what = format!(
            "a server before version 15 cannot filter changes; these tables have a condition: {}",
            filtered.join(", ")
        );
        return Err(Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, what)
            .remedy("leave `where` out, or move these tables without the incremental stage"));
    }
    let named: Vec<(TablePlan, Option<u32>)> = plans.iter().map(|p| (p.clone(), None)).collect();
    let lacking = without_identity(session, &named).await?;
    if !lacking.is_empty() && !spec.may_set_identity {
        let list: Vec<String> = lacking.iter().map(|l| format!("{}.{}", l.schema, l.table)).collect();
        return Err(Error::new(
            codes::UNSUPPORTED,
            Fault::User,
            Retry::Never,
            format!("updates and deletes of these tables cannot be followed: {}", list.join(", ")),
        )
        .remedy("give them a primary key or REPLICA IDENTITY FULL, exclude them, or consent by set_identity = true in [migrate]"));
    }
    // The note comes first: whatever happens after it can be undone.
    let mut note = Note { drover: spec.migration, epoch: spec.epoch, server: server.to_owned(), ..Note::default() };
    note.add(&lacking);
    let note_json = serde_json::to_string(&note).map_err(|e| Error::internal("cannot write a note").cause(e))?;
    let publication = ident(&names.publication);
    let mut with = "publish = 'insert, update, delete'".to_owned();
    if version >= 110_000 {
        with = "publish = 'insert, update, delete, truncate'".to_owned();
    }
    if version >= 130_000 {
        with.push_str(", publish_via_partition_root = true");
    }
    let sql = format!(
        "begin; create publication {publication} with ({with}); comment on publication {publication} is {}; commit",
        literal(&note_json)
    );
    session.batch_execute(&sql).await.map_err(|e| say(&e, "cannot create a publication"))?;
    set_identities(session, &lacking).await?;
    for plan in plans.iter() {
        let only = if is_partitioned(plan) { "" } else { "only " };
        let filter = match &plan.filter {
            Some(filter) if version >= 150_000 => format!(" where ({filter}\n)"),
            _ => String::new(),
        };
        let table = qualified(&plan.source.schema, &plan.source.name);
        let sql = format!("alter publication {publication} add table {only}{table}{filter}");
        patiently(session, &sql, "cannot publish a table").await.map_err(|e| e.table(&plan.source))?;
    }
    Ok(())
}

/// Creates the slot, and names who holds it up if it takes long. The snapshot lives until the session's next command.
pub async fn create(
    dialer: &Dialer,
    session: &mut ReplicationSession,
    name: &str,
    temporary: bool,
) -> Result<CreatedSlot> {
    let pid = session.backend_pid() as i32;
    let watch = dialer.session("watch").await?;
    let mut create = std::pin::pin!(session.create_slot(name, temporary));
    let began = Instant::now();
    loop {
        tokio::select! {
            slot = &mut create => {
                return slot.map_err(|e| {
                    let (code, retry) = match e.sqlstate() {
                        Some("53400") => (codes::STATEMENT, Retry::Other),
                        Some("55000") => (codes::STATEMENT, Retry::Other),
                        Some(_) => (codes::STATEMENT, Retry::Other),
                        None => (codes::CONNECTION, Retry::Connection),
                    };
                    Error::new(code, Fault::Source, retry, "cannot create a replication slot").cause(e)
                });
            }
            () = tokio::time::sleep(Duration::from_secs(2)) => {
                let blockers = blockers(&watch, pid).await?;
                tracing::warn!(waited = ?began.elapsed(), "creating the slot waits for running transactions: {blockers}");
                if began.elapsed() > SLOT_WAIT {
                    // The walsender would wait on, and leave a slot behind in the end.
                    let ended = watch.execute("select pg_terminate_backend($1)", &[&pid]).await;
                    ended.map_err(|e| say(&e, "cannot end a waiting walsender"))?;
                    let what = format!("creating the slot waited too long for running transactions: {blockers}");
                    return Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what)
                        .remedy("end these transactions, or wait until they have ended"));
                }
            }
        }
    }
}

async fn blockers(session: &Session, own: i32) -> Result<String> {
    let sql = "select coalesce(string_agg(format('pid %s (%s, %s, since %s): %s', pid, usename, state, \
        date_trunc('second', xact_start), left(query, 60)), '; ' order by xact_start), 'prepared transactions') \
        from pg_stat_activity where backend_xid is not null and pid <> $1";
    let row = session.query_one(sql, &[&own]).await;
    row.map(|r| r.get(0)).map_err(|e| say(&e, "cannot list running transactions"))
}

/// A slot as the server lists it.
#[derive(Debug, Clone)]
pub struct Slot {
    pub active_pid: Option<i32>,
    pub confirmed: Option<Lsn>,
    /// The server has thrown away log that the slot needs.
    pub lost: bool,
}

/// Looks a slot up.
pub async fn find(session: &Session, version: u32, name: &str) -> Result<Option<Slot>> {
    let lost = if version >= 130_000 { "coalesce(wal_status = 'lost', false)" } else { "false" };
    let sql =
        format!("select active_pid, confirmed_flush_lsn::text, {lost} from pg_replication_slots where slot_name = $1");
    let row = session.query_opt(&sql, &[&name]).await.map_err(|e| say(&e, "cannot look a slot up"))?;
    Ok(row.map(|r| Slot {
        active_pid: r.get(0),
        confirmed: r.get::<_, Option<String>>(1).and_then(|t| t.parse().ok()),
        lost: r.get(2),
    }))
}

/// How much of the server's log a slot keeps, and how much more it may; `None`: there is no such slot, or it keeps nothing any more.
pub async fn kept_log(session: &Session, version: u32, name: &str) -> Result<Option<String>> {
    let more = if version >= 130_000 { "safe_wal_size" } else { "null::bigint" };
    let sql = format!(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, {more} from pg_replication_slots \
         where slot_name = $1 and restart_lsn is not null and not pg_is_in_recovery()"
    );
    let row = session.query_opt(&sql, &[&name]).await.map_err(|e| say(&e, "cannot ask what a slot keeps"))?;
    let megabytes = |bytes: i64| bytes.max(0) / 1_000_000;
    Ok(row.map(|row| {
        let kept = megabytes(row.get(0));
        match row.get::<_, Option<i64>>(1) {
            Some(more) => format!(
                "the source keeps {kept} MB of its log for it, and throws that away after {} MB more (max_slot_wal_keep_size)",
                megabytes(more)
            ),
            None => format!("the source keeps {kept} MB of its log for it, without a limit (max_slot_wal_keep_size)"),
        }
    }))
}

/// Ends whoever uses the slot, and waits until it is free.
pub async fn free(session: &Session, version: u32, name: &str) -> Result<Option<Slot>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let slot = find(session, version, name).await?;
        let Some(pid) = slot.as_ref().and_then(|s| s.active_pid) else { return Ok(slot) };
        session
            .execute("select pg_terminate_backend($1)", &[&pid])
            .await
            .map_err(|e| say(&e, "cannot end the former reader of the slot"))?;
        if Instant::now() > deadline {
            let what = format!("the slot {name} is still used by process {pid}");
            return Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what)
                .remedy("end that process at the source by pg_terminate_backend"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn note(session: &Session, names: &Names) -> Result<Option<Note>> {
    let sql = "select obj_description(oid, 'pg_publication') from pg_publication where pubname = $1";
    let row =
        session.query_opt(sql, &[&names.publication]).await.map_err(|e| say(&e, "cannot look a publication up"))?;
    let text: Option<String> = row.and_then(|r| r.get(0));
    Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
}

/// Makes this session the only one that may make the stream anew, as long as it lasts: whoever was at it is ended. The order of one that was
/// frozen or cut off meanwhile may have been carried out by another, whose stream is not to be taken away: FENCED then.
pub async fn claim(session: &Session, names: &Names, epoch: u64) -> Result<()> {
    let failed = |e: tokio_postgres::Error| say(&e, "cannot claim the stream");
    let deadline = Instant::now() + Duration::from_secs(30);
    let key = "hashtext('drover stream'), hashtext($1)";
    // Keys of advisory locks are listed as if they were object identifiers.
    let holder = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted and objsubid = 2 \
        and database = (select oid from pg_database where datname = current_database()) \
        and classid::bigint = hashtext('drover stream')::bigint & 4294967295 and objid::bigint = hashtext($1)::bigint & 4294967295";
    let lock = format!("select pg_try_advisory_lock({key})");
    while !session.query_one(&lock, &[&names.slot]).await.map_err(failed)?.get::<_, bool>(0) {
        if Instant::now() > deadline {
            let what = format!("another session makes the stream of {} and does not end", names.slot);
            return Err(Error::new(codes::TIMEOUT, Fault::Source, Retry::Other, what));
        }
        session.execute(holder, &[&names.slot]).await.map_err(failed)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match note(session, names).await? {
        Some(note) if note.epoch > epoch => {
            let what = format!(
                "another extractor made the stream: the source is at epoch {}, this one holds {epoch}",
                note.epoch
            );
            Err(Error::new(codes::FENCED, Fault::Drover, Retry::Never, what))
        }
        _ => Ok(()),
    }
}

/// The server that the stream was last seen to be on.
pub async fn noted_server(session: &Session, names: &Names) -> Result<String> {
    let note = note(session, names).await?.ok_or_else(|| {
        Error::new(
            codes::POSITION_LOST,
            Fault::Source,
            Retry::Never,
            format!("the publication {} is gone from the source", names.publication),
        )
        .remedy("begin again after `drover cleanup`")
    })?;
    Ok(note.server)
}

/// Notes another server.
pub async fn note_server(session: &Session, names: &Names, server: &str) -> Result<()> {
    let Some(note) = note(session, names).await? else { return Ok(()) };
    let note = Note { server: server.to_owned(), ..note };
    let json = serde_json::to_string(&note).map_err(|e| Error::internal("cannot write a note").cause(e))?;
    let sql = format!("comment on publication {} is {}", ident(&names.publication), literal(&json));
    session.batch_execute(&sql).await.map_err(|e| say(&e, "cannot note the source's new timeline"))
}

/// Writes a mark into the log; everything committed before lies before the place that it returns.
pub async fn mark(session: &Session, text: &str) -> Result<Lsn> {
    let sql = format!("select pg_logical_emit_message(true, {}, {})::text", literal(MARK_PREFIX), literal(text));
    let written = session.query_one(&sql, &[]).await;
    let row = match written {
        Ok(row) => row,
        // Where nothing may be written, a place that the source reports afterwards does as well.
        Err(e)
            if matches!(e.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION | &SqlState::INSUFFICIENT_PRIVILEGE)) =>
        {
            session
                .query_one("select pg_current_wal_insert_lsn()::text", &[])
                .await
                .map_err(|e| say(&e, "cannot ask for the log's end"))?
        }
        Err(e) => return Err(say(&e, "cannot write a mark into the log")),
    };
    let text: String = row.get(0);
    text.parse().map_err(|e| Error::internal("the server's answer is no place in its log").cause(e))
}

/// Keeps an idle slot moving: without it, other databases' changes would pile up behind it. Gives partitions that are attached to
/// tables without a key an identity, for the server refuses updates of them until they have one. Ends with its owner.
pub fn heartbeat(dialer: Dialer, names: Names, growing: Vec<(TablePlan, Option<u32>)>) -> task::Owned<()> {
    task::spawn("heartbeat", async move {
        let mut session: Option<Session> = None;
        let mut due = Instant::now();
        loop {
            if session.as_ref().is_none_or(|s| s.is_closed()) {
                session = dialer.session("heartbeat").await.ok();
                if let Some(session) = &session {
                    create_heartbeat(session).await;
                }
            }
            if let Some(session) = &session
                && !growing.is_empty()
                && let Err(error) = mend(session, &names, &growing).await
            {
                tracing::warn!(%error, "new partitions may lack a replica identity");
            }
            if let Some(session) = &session
                && Instant::now() >= due
            {
                due = Instant::now() + HEARTBEAT;
                if let Err(error) = beat(session, &names.slot).await {
                    tracing::debug!(%error, "no heartbeat this time");
                }
            }
            let pause = if growing.is_empty() { HEARTBEAT } else { MEND };
            tokio::time::sleep(pause).await;
        }
    })
}

/// Gives tables that have lost or never had an identity one, after noting it down.
async fn mend(session: &Session, names: &Names, plans: &[(TablePlan, Option<u32>)]) -> Result<()> {
    let lacking = without_identity(session, plans).await?;
    if lacking.is_empty() {
        return Ok(());
    }
    let Some(mut note) = note(session, names).await? else { return Ok(()) };
    note.add(&lacking);
    let note_json = serde_json::to_string(&note).map_err(|e| Error::internal("cannot write a note").cause(e))?;
    let sql = format!("comment on publication {} is {}", ident(&names.publication), literal(&note_json));
    session.batch_execute(&sql).await.map_err(|e| say(&e, "cannot note a replica identity down"))?;
    set_identities(session, &lacking).await
}

async fn set_identities(session: &Session, lacking: &[Lacking]) -> Result<()> {
    for Lacking { schema, table, .. } in lacking {
        let sql = format!("alter table only {} replica identity full", qualified(schema, table));
        patiently(session, &sql, "cannot set a replica identity")
            .await
            .map_err(|e| e.table(format!("{schema}.{table}")))?;
    }
    Ok(())
}

/// The table of the heartbeat. Where it may not be created, a message in the log does.
async fn create_heartbeat(session: &Session) {
    let sql = format!(
        "create table if not exists {HEARTBEAT_TABLE} (slot_name text primary key, revice_time bigint, revice_lsn pg_lsn, \
         flushed_lsn pg_lsn, update_time timestamp with time zone, dts_service_time bigint)"
    );
    if let Err(error) = session.batch_execute(&sql).await {
        tracing::debug!(%error, "no heartbeat table");
    }
}

async fn beat(session: &Session, slot: &str) -> Result<()> {
    let millis = "(extract(epoch from clock_timestamp()) * 1000)::bigint";
    let sql = format!(
        "insert into {HEARTBEAT_TABLE} values ($1::text, {millis}, pg_current_wal_lsn(), \
         (select confirmed_flush_lsn from pg_replication_slots where slot_name = $1::text), clock_timestamp(), {millis}) \
         on conflict (slot_name) do update set revice_time = excluded.revice_time, revice_lsn = excluded.revice_lsn, \
         flushed_lsn = excluded.flushed_lsn, update_time = excluded.update_time, dts_service_time = excluded.dts_service_time"
    );
    if let Err(error) = session.execute(&sql, &[&slot]).await {
        tracing::debug!(%error, "no heartbeat in its table; a message in the log does");
        mark(session, "heartbeat").await?;
    }
    Ok(())
}

/// Takes all tables out of the publication, which itself stays: its comment says what is still to be restored. A published table
/// whose identity is taken away could not be updated by the application any more; a partition is published with its root.
async fn unpublish(session: &Session, names: &Names) -> Result<()> {
    let sql = "select n.nspname::text, c.relname::text from pg_publication p join pg_publication_rel r on r.prpubid = p.oid \
        join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace where p.pubname = $1";
    let published = session.query(sql, &[&names.publication]).await;
    for row in published.map_err(|e| say(&e, "cannot list the published tables"))? {
        let table = qualified(row.get(0), row.get(1));
        let sql = format!("alter publication {} drop table {table}", ident(&names.publication));
        patiently(session, &sql, "cannot take a table out of the publication").await?;
    }
    Ok(())
}

/// Takes away everything that a migration left at the source. Tells what it did.
pub async fn cleanup(session: &Session, version: u32, names: &Names) -> Result<Vec<String>> {
    let mut did = Vec::new();
    // For a switch the database may have been made read-only; what is ours has to go all the same.
    session
        .batch_execute("set default_transaction_read_only = off")
        .await
        .map_err(|e| say(&e, "cannot prepare a session for cleaning"))?;
    if free(session, version, &names.slot).await?.is_some() {
        let dropped = session.execute("select pg_drop_replication_slot($1)", &[&names.slot]).await;
        dropped.map_err(|e| say(&e, "cannot drop the slot"))?;
        did.push(format!("dropped slot {}", names.slot));
    }
    if let Some(note) = note(session, names).await? {
        if !note.identities.is_empty() {
            unpublish(session, names).await?;
        }
        for (at, (schema, table, before)) in note.identities.iter().enumerate() {
            let how = if before == "n" { "nothing" } else { "default" };
            let number = note.numbers.get(at).copied().unwrap_or(0);
            let sql = "select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                where c.oid = coalesce(nullif($1, 0::oid), to_regclass($2)::oid) and c.relreplident = 'f'";
            let still = session.query_opt(sql, &[&number, &qualified(schema, table)]).await;
            if let Some(row) = still.map_err(|e| say(&e, "cannot look at a replica identity"))? {
                let (schema, table): (String, String) = (row.get(0), row.get(1));
                let sql = format!("alter table only {} replica identity {how}", qualified(&schema, &table));
                patiently(session, &sql, "cannot restore a replica identity").await?;
                did.push(format!("restored the replica identity of {schema}.{table}"));
            }
        }
    }
    did.extend(watch::drop(session, names).await?);
    let known = session.query_opt("select 1 from pg_publication where pubname = $1", &[&names.publication]).await;
    if known.map_err(|e| say(&e, "cannot look a publication up"))?.is_some() {
        let sql = format!("drop publication if exists {}", ident(&names.publication));
        patiently(session, &sql, "cannot drop the publication").await?;
        did.push(format!("dropped publication {}", names.publication));
    }
    let table = session.query_one("select to_regclass($1) is not null", &[&HEARTBEAT_TABLE]).await;
    if table.map_err(|e| say(&e, "cannot look for the heartbeat table"))?.get(0) {
        let sql = format!("delete from {HEARTBEAT_TABLE} where slot_name = $1");
        // Another owner's table is not ours to touch.
        if session.execute(&sql, &[&names.slot]).await.is_ok() {
            let rest = session.query_one(&format!("select count(*) from {HEARTBEAT_TABLE}"), &[]).await;
            if rest.map_err(|e| say(&e, "cannot count heartbeats"))?.get::<_, i64>(0) == 0 {
                patiently(
                    session,
                    &format!("drop table if exists {HEARTBEAT_TABLE}"),
                    "cannot drop the heartbeat table",
                )
                .await?;
                did.push(format!("dropped table {HEARTBEAT_TABLE}"));
            }
        }
    }
    Ok(did)
}
