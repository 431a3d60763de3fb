//! The tables, and what is written to and read from them in a session.

use super::failed;
use drover_connectors_postgres::connect::Session;
use drover_coordinator::event::Event;
use drover_coordinator::lease::Grant;
use drover_coordinator::machine::State;
use drover_coordinator::store::Seal;
use drover_coordinator::turn::{Stored, Turn, Write};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use futures::future::try_join_all;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

/// Version of the tables below.
const VERSION: i64 = 1;

/// Who leads, before anything else: those who wait read it. Made under a lock, for two that create the same schema at once would collide.
pub const LEAD: &str = "begin; select pg_advisory_xact_lock(hashtext('drover coordinator'), 1); \
    create schema if not exists drover_coordinator; \
    create table if not exists drover_coordinator.lead (one boolean primary key, pid integer not null, address text not null, at timestamptz not null); \
    commit";

const SCHEMA: &str = "
create table if not exists drover_coordinator.meta (key text primary key, value bigint not null);
create table if not exists drover_coordinator.migration (id uuid primary key, name text not null unique, sealed bytea not null, epoch bigint not null default 0);
create table if not exists drover_coordinator.event (migration uuid not null, seq bigint not null, at bigint not null, body text not null,
    primary key (migration, seq));
create table if not exists drover_coordinator.state (migration uuid primary key, seq bigint not null, body text not null);
create table if not exists drover_coordinator.lease (migration uuid not null, key text not null, body text not null, primary key (migration, key));
insert into drover_coordinator.meta values ('version', 1) on conflict (key) do nothing;
";

/// What a row of a turn does.
#[derive(Debug, Clone, Copy)]
enum What {
    Migration,
    Event,
    State,
    Grant,
    Epoch,
    Release,
    Remove(usize),
}

/// A statement with its parameters.
pub struct Row {
    what: What,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

const WRITES: [&str; 6] = [
    "insert into drover_coordinator.migration (id, name, sealed) values ($1, $2, $3) on conflict (id) do update set sealed = excluded.sealed",
    "insert into drover_coordinator.event values ($1, $2, $3, $4)",
    "insert into drover_coordinator.state values ($1, $2, $3) on conflict (migration) do update set seq = excluded.seq, body = excluded.body",
    "insert into drover_coordinator.lease values ($1, $2, $3) on conflict (migration, key) do update set body = excluded.body",
    "update drover_coordinator.migration set epoch = greatest(epoch, $2) where id = $1",
    "delete from drover_coordinator.lease where migration = $1 and key = $2",
];

const REMOVES: [&str; 4] = [
    "delete from drover_coordinator.lease where migration = $1",
    "delete from drover_coordinator.state where migration = $1",
    "delete from drover_coordinator.event where migration = $1",
    "delete from drover_coordinator.migration where id = $1",
];

/// The statements of one transaction.
pub fn rows(turns: &[Turn], seal: &Seal) -> Result<Vec<Row>> {
    let json = |e| failed("something has no JSON form", e);
    let mut out = Vec::new();
    let mut add = |what, values| out.push(Row { what, values });
    for write in turns.iter().flat_map(|t| &t.writes) {
        match write {
            Write::Migration { id, name, migration } => {
                let sealed = seal.seal(*id, serde_json::to_vec(migration).map_err(json)?)?;
                add(What::Migration, vec![Box::new(*id), Box::new(name.clone()), Box::new(sealed)]);
            }
            Write::Event { id, seq, at_ms, event } => {
                let body = serde_json::to_string(event).map_err(json)?;
                add(What::Event, vec![Box::new(*id), Box::new(*seq as i64), Box::new(*at_ms as i64), Box::new(body)]);
            }
            Write::State { id, state } => {
                let body = serde_json::to_string(state).map_err(json)?;
                add(What::State, vec![Box::new(*id), Box::new(state.events as i64), Box::new(body)]);
            }
            Write::Grant(grant) => {
                let body = serde_json::to_string(grant).map_err(json)?;
                add(What::Grant, vec![Box::new(grant.migration), Box::new(grant.key.to_string()), Box::new(body)]);
                add(What::Epoch, vec![Box::new(grant.migration), Box::new(grant.epoch as i64)]);
            }
            Write::Release { id, key } => add(What::Release, vec![Box::new(*id), Box::new(key.to_string())]),
            Write::Remove { id } => (0..REMOVES.len()).for_each(|n| add(What::Remove(n), vec![Box::new(*id)])),
        }
    }
    Ok(out)
}

/// The tables with their statements prepared.
pub struct Tables {
    writes: Vec<Statement>,
    removes: Vec<Statement>,
}

impl Tables {
    /// Makes what is missing.
    pub async fn prepare(session: &Session) -> Result<Tables> {
        let sql = |e| failed("it cannot be set up", e);
        session.batch_execute(SCHEMA).await.map_err(sql)?;
        let row = session.query_one("select value from drover_coordinator.meta where key = 'version'", &[]).await;
        let version: i64 = row.map_err(sql)?.get(0);
        if version != VERSION {
            let text = format!("the store is of version {version}, this drover knows version {VERSION}");
            return Err(Error::new(codes::STATE, Fault::User, Retry::Never, text).remedy("use the newer drover"));
        }
        let writes = try_join_all(WRITES.iter().map(|text| session.prepare(text))).await.map_err(sql)?;
        let removes = try_join_all(REMOVES.iter().map(|text| session.prepare(text))).await.map_err(sql)?;
        Ok(Tables { writes, removes })
    }

    fn statement(&self, what: What) -> &Statement {
        match what {
            What::Migration => &self.writes[0],
            What::Event => &self.writes[1],
            What::State => &self.writes[2],
            What::Grant => &self.writes[3],
            What::Epoch => &self.writes[4],
            What::Release => &self.writes[5],
            What::Remove(n) => &self.removes[n],
        }
    }

    /// Writes rows as one transaction, all statements on their way at once.
    pub async fn write(&self, session: &Session, rows: Vec<Row>) -> Result<()> {
        let sql = |e| failed("it cannot be written", e);
        let values: Vec<Vec<&(dyn ToSql + Sync)>> =
            rows.iter().map(|row| row.values.iter().map(|v| v.as_ref() as &(dyn ToSql + Sync)).collect()).collect();
        session.batch_execute("begin").await.map_err(sql)?;
        let all = rows.iter().zip(&values).map(|(row, values)| session.execute(self.statement(row.what), values));
        try_join_all(all).await.map_err(sql)?;
        session.batch_execute("commit").await.map_err(sql)
    }

    /// Everything.
    pub async fn load(&self, session: &Session, seal: &Seal) -> Result<Vec<Stored>> {
        let sql = |e| failed("it cannot be read", e);
        let json = |e| failed("something in it cannot be understood", e);
        let found = session.query("select id, sealed, epoch from drover_coordinator.migration order by id", &[]).await;
        let mut out = Vec::new();
        for row in found.map_err(sql)? {
            let id: MigrationId = row.get(0);
            let migration = serde_json::from_slice(&seal.unseal(id, row.get(1))?).map_err(json)?;
            let epoch = row.get::<_, i64>(2) as u64;
            let kept =
                session.query_opt("select body from drover_coordinator.state where migration = $1", &[&id]).await;
            let state: Option<State> =
                kept.map_err(sql)?.map(|r| serde_json::from_str(r.get(0))).transpose().map_err(json)?;
            let after = state.as_ref().map_or(0, |s| s.events);
            let events = self.events(session, id, after, None).await?.into_iter().map(|(_, _, e)| e).collect();
            let leases = session.query("select body from drover_coordinator.lease where migration = $1", &[&id]).await;
            let grants: Vec<Grant> = leases
                .map_err(sql)?
                .iter()
                .map(|r| serde_json::from_str(r.get(0)))
                .collect::<std::result::Result<_, _>>()
                .map_err(json)?;
            out.push(Stored { id, migration, state, events, epoch, grants });
        }
        Ok(out)
    }

    /// The journal of a migration after an event.
    pub async fn events(
        &self,
        session: &Session,
        id: MigrationId,
        after: u64,
        limit: Option<u32>,
    ) -> Result<Vec<(u64, u64, Event)>> {
        let text = "select seq, at, body from drover_coordinator.event where migration = $1 and seq > $2 order by seq limit $3";
        let rows = session.query(text, &[&id, &(after as i64), &limit.map(i64::from)]).await;
        let rows = rows.map_err(|e| failed("it cannot be read", e))?;
        let event = |row: &tokio_postgres::Row| {
            let event = serde_json::from_str(row.get(2)).map_err(|e| failed("an event cannot be understood", e))?;
            Ok((row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64, event))
        };
        rows.iter().map(event).collect()
    }
}
