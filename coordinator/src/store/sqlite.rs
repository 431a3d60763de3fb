//! SQLite beside the process: the store of one coordinator on one machine.

use super::{Seal, Store};
use crate::event::Event;
use crate::lease::Grant;
use crate::machine::State;
use crate::turn::{Stored, Turn, Write};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Retry};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Version of the tables below.
const VERSION: i64 = 1;

const SCHEMA: &str = "
create table if not exists meta (key text primary key, value integer not null);
create table if not exists migration (id text primary key, name text not null unique, sealed blob not null, epoch integer not null default 0);
create table if not exists event (migration text not null, seq integer not null, at integer not null, body text not null,
    primary key (migration, seq)) without rowid;
create table if not exists state (migration text primary key, seq integer not null, body text not null);
create table if not exists lease (migration text not null, key text not null, body text not null,
    primary key (migration, key)) without rowid;
";

/// SQLite beside the process.
pub struct Sqlite {
    connection: Connection,
    seal: Seal,
    /// Held as long as the store is open: two coordinators on one store would each undo what the other does.
    _lock: File,
}

fn failed(what: &str, cause: impl std::error::Error) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Never, format!("the coordinator's store: {what}"))
        .cause(cause)
        .remedy("see that the folder is on a healthy local disk with free space, and that drover may write there")
}

fn damaged(what: &str) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Never, format!("the coordinator's store: {what}"))
        .remedy("restore the folder from a backup, with its secret.key")
}

impl Sqlite {
    /// Opens or creates the store in a folder and locks it.
    ///
    /// # Errors
    /// Another process has it, the disk failed, or a newer drover made it.
    pub fn open(folder: &Path) -> Result<Sqlite, Error> {
        std::fs::create_dir_all(folder).map_err(|e| failed("its folder cannot be made", e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("coordinator.lock"))
            .map_err(|e| failed("its lock file cannot be opened", e))?;
        lock.try_lock().map_err(|e| {
            let text = format!("another process uses the store in {}", folder.display());
            Error::new(codes::STATE, Fault::User, Retry::Never, text)
                .cause(e)
                .remedy("stop the other coordinator, or give this one a folder of its own")
        })?;
        let seal = Seal::open(&folder.join("secret.key"))?;
        let connection =
            Connection::open(folder.join("coordinator.sqlite")).map_err(|e| failed("it cannot be opened", e))?;
        let setup = || -> rusqlite::Result<i64> {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.execute_batch(SCHEMA)?;
            connection.execute("insert or ignore into meta values ('version', ?1)", [VERSION])?;
            connection.query_row("select value from meta where key = 'version'", [], |r| r.get(0))
        };
        let version = setup().map_err(|e| failed("it cannot be set up", e))?;
        if version != VERSION {
            let text = format!("the store is of version {version}, this drover knows version {VERSION}");
            return Err(Error::new(codes::STATE, Fault::User, Retry::Never, text).remedy("use the newer drover"));
        }
        Ok(Sqlite { connection, seal, _lock: lock })
    }

    fn write(&self, tx: &Connection, write: &Write) -> Result<(), Error> {
        let sql = |e| failed("it cannot be written", e);
        let json = |e| failed("something has no JSON form", e);
        match write {
            Write::Migration { id, name, migration } => {
                let sealed = self.seal.seal(*id, serde_json::to_vec(migration).map_err(json)?)?;
                let text = "insert into migration (id, name, sealed) values (?1, ?2, ?3)
                     on conflict (id) do update set sealed = excluded.sealed";
                tx.prepare_cached(text)
                    .and_then(|mut s| s.execute(params![id.to_string(), name, sealed]))
                    .map_err(sql)?;
            }
            Write::Event { id, seq, at_ms, event } => {
                let body = serde_json::to_string(event).map_err(json)?;
                let text = "insert into event values (?1, ?2, ?3, ?4)";
                let values = params![id.to_string(), *seq as i64, *at_ms as i64, body];
                tx.prepare_cached(text).and_then(|mut s| s.execute(values)).map_err(sql)?;
            }
            Write::State { id, state } => {
                let body = serde_json::to_string(state).map_err(json)?;
                let text = "insert or replace into state values (?1, ?2, ?3)";
                let values = params![id.to_string(), state.events as i64, body];
                tx.prepare_cached(text).and_then(|mut s| s.execute(values)).map_err(sql)?;
            }
            Write::Grant(grant) => {
                let body = serde_json::to_string(grant).map_err(json)?;
                let id = grant.migration.to_string();
                let text = "insert or replace into lease values (?1, ?2, ?3)";
                let values = params![id, grant.key.to_string(), body];
                tx.prepare_cached(text).and_then(|mut s| s.execute(values)).map_err(sql)?;
                let text = "update migration set epoch = max(epoch, ?2) where id = ?1";
                tx.prepare_cached(text).and_then(|mut s| s.execute(params![id, grant.epoch as i64])).map_err(sql)?;
            }
            Write::Release { id, key } => {
                let text = "delete from lease where migration = ?1 and key = ?2";
                let values = params![id.to_string(), key.to_string()];
                tx.prepare_cached(text).and_then(|mut s| s.execute(values)).map_err(sql)?;
            }
            Write::Remove { id } => {
                for text in [
                    "delete from lease where migration = ?1",
                    "delete from state where migration = ?1",
                    "delete from event where migration = ?1",
                    "delete from migration where id = ?1",
                ] {
                    tx.execute(text, [id.to_string()]).map_err(sql)?;
                }
            }
        }
        Ok(())
    }

    fn load_one(&self, id: MigrationId, sealed: Vec<u8>, epoch: u64) -> Result<Stored, Error> {
        let sql = |e| failed("it cannot be read", e);
        let json = |e| failed("something in it cannot be understood", e);
        let text_id = id.to_string();
        let migration = serde_json::from_slice(&self.seal.unseal(id, sealed)?).map_err(json)?;
        let kept: Option<String> = self
            .connection
            .query_row("select body from state where migration = ?1", [&text_id], |r| r.get(0))
            .optional()
            .map_err(sql)?;
        let state: Option<State> = kept.map(|body| serde_json::from_str(&body)).transpose().map_err(json)?;
        let after = state.as_ref().map_or(0, |s| s.events);
        let events = read_events(&self.connection, id, after, None)?.into_iter().map(|(_, _, e)| e).collect();
        let mut statement = self.connection.prepare("select body from lease where migration = ?1").map_err(sql)?;
        let bodies: Vec<String> =
            statement.query_map([&text_id], |r| r.get(0)).and_then(Iterator::collect).map_err(sql)?;
        let grants: Vec<Grant> =
            bodies.iter().map(|b| serde_json::from_str(b)).collect::<Result<_, _>>().map_err(json)?;
        Ok(Stored { id, migration, state, events, epoch, grants })
    }
}

impl Store for Sqlite {
    fn load(&mut self) -> Result<Vec<Stored>, Error> {
        let sql = |e| failed("it cannot be read", e);
        let mut rows = BTreeMap::new();
        {
            let mut statement = self.connection.prepare("select id, sealed, epoch from migration").map_err(sql)?;
            let mut found = statement.query([]).map_err(sql)?;
            while let Some(row) = found.next().map_err(sql)? {
                let id: String = row.get(0).map_err(sql)?;
                let id: MigrationId = id.parse().map_err(|_| damaged("a migration has no id"))?;
                let epoch: i64 = row.get(2).map_err(sql)?;
                rows.insert(id, (row.get::<_, Vec<u8>>(1).map_err(sql)?, epoch as u64));
            }
        }
        rows.into_iter().map(|(id, (sealed, epoch))| self.load_one(id, sealed, epoch)).collect()
    }

    fn commit(&mut self, turns: &[Turn]) -> Result<(), Error> {
        let sql = |e| failed("it cannot be written", e);
        let tx = self.connection.unchecked_transaction().map_err(sql)?;
        for write in turns.iter().flat_map(|t| &t.writes) {
            self.write(&tx, write)?;
        }
        tx.commit().map_err(sql)
    }

    fn journal(&mut self, id: MigrationId, after: u64, limit: u32) -> Result<Vec<(u64, u64, Event)>, Error> {
        read_events(&self.connection, id, after, Some(limit))
    }
}

fn read_events(
    connection: &Connection,
    id: MigrationId,
    after: u64,
    limit: Option<u32>,
) -> Result<Vec<(u64, u64, Event)>, Error> {
    let sql = |e| failed("it cannot be read", e);
    let text = "select seq, at, body from event where migration = ?1 and seq > ?2 order by seq limit ?3";
    let mut statement = connection.prepare_cached(text).map_err(sql)?;
    let limit = limit.map_or(-1, i64::from);
    let mut rows = statement.query(params![id.to_string(), after as i64, limit]).map_err(sql)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        let (seq, at): (i64, i64) = (row.get(0).map_err(sql)?, row.get(1).map_err(sql)?);
        let body: String = row.get(2).map_err(sql)?;
        let event = serde_json::from_str(&body).map_err(|e| failed("an event cannot be understood", e))?;
        out.push((seq as u64, at as u64, event));
    }
    Ok(out)
}
