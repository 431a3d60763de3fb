//! Whether the source still publishes every table that is followed. A table that is dropped leaves the publication, and one that is made again
//! under its name does not come back: the log says nothing of either, nor of the new table's rows. One that is renamed stays in it.
//!
//! Guarantee: such a table ends the stream with TABLE_CHANGED, within [`EVERY`] and before a mark is handed on that was written later. Where event
//! triggers tell that a table is dropped or renamed, it does so only when the stream has passed the place at which the table was missed and still
//! follows it under the same name.

use crate::changes::UNTOLD;
use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::lsn::Lsn;
use drover_model::error::codes;
use drover_model::schema::TableName;
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked at without a mark.
const EVERY: Duration = Duration::from_secs(10);

/// A table that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    name: TableName,
    /// Zero: not known.
    number: u32,
}

/// A table that is not there as it should be.
struct Missed {
    table: Table,
    /// Its name now, if it is published.
    now: Option<TableName>,
    /// Where the log ended when it was missed.
    upto: Lsn,
}

/// See the module.
pub struct Guard {
    dialer: Dialer,
    publication: String,
    tables: Vec<Table>,
    /// Names that the stream has seen tables give up: one may still show where the commit waits for a standby.
    former: HashMap<u32, HashSet<TableName>>,
    session: Option<Session>,
    due: Instant,
    /// A mark was read and is not handed on.
    marked: bool,
    /// The stream tells itself what becomes of tables.
    told: bool,
    /// A table that is missed, and up to where the stream may tell why.
    missed: Option<Missed>,
}

impl Guard {
    /// Watches over these plans' tables in a publication. Connects when it looks for the first time, at once. `told`: the stream tells when a table
    /// is dropped.
    pub fn new(dialer: Dialer, publication: &str, plans: &[TablePlan], told: bool) -> Self {
        let publication = publication.to_owned();
        let due = Instant::now();
        let tables = plans.iter().map(|p| Table { name: p.source.clone(), number: 0 }).collect();
        let former = HashMap::new();
        Guard { dialer, publication, tables, former, session: None, due, marked: false, told, missed: None }
    }

    /// Watches over these tables from here on: see [`crate::ddl::follow::Follower::followed`].
    pub fn watch<'t>(&mut self, tables: impl Iterator<Item = (&'t TableName, Option<u32>)>) {
        let tables = tables.map(|(name, number)| Table { name: name.clone(), number: number.unwrap_or(0) });
        let before = std::mem::replace(&mut self.tables, tables.collect());
        for table in before.into_iter().filter(|t| t.number != 0 && !self.tables.contains(t)) {
            self.former.entry(table.number).or_default().insert(table.name);
        }
        // Whatever it was called when it was missed, it has been told since.
        self.missed = self.missed.take().filter(|m| self.tables.contains(&m.table));
    }

    /// A mark was read: it is time to look.
    pub fn marked(&mut self) {
        self.marked = true;
    }

    /// Looks if it is time to. `read`: up to where the stream has come. Cancel-safe.
    ///
    /// # Errors
    /// TABLE_CHANGED: a table is not published any more. CONNECTION: at a mark it could not be found out.
    pub async fn look(&mut self, read: Lsn) -> Result<()> {
        if let Some(missed) = self.missed.as_ref().filter(|m| read >= m.upto) {
            return Err(missed.error(self.told));
        }
        if !self.marked && Instant::now() < self.due {
            return Ok(());
        }
        match self.gone().await {
            Ok(gone) => {
                (self.due, self.marked) = (Instant::now() + EVERY, false);
                match gone {
                    Some(missed) if self.told && read < missed.upto => {
                        self.missed.get_or_insert(missed);
                        Ok(())
                    }
                    Some(missed) => Err(missed.error(self.told)),
                    None => Ok(()),
                }
            }
            Err(error) if self.marked => Err(error),
            Err(error) => {
                tracing::debug!(%error, "cannot look which tables are published, this time");
                self.session = None;
                self.due = Instant::now() + EVERY;
                Ok(())
            }
        }
    }

    /// The first table that is not in the publication under its name, and where the log ends now. Without the publication the stream ends by itself.
    async fn gone(&mut self) -> Result<Option<Missed>> {
        let session = match self.session.take().filter(|s| !s.is_closed()) {
            Some(session) => session,
            None => self.dialer.session("tables").await?,
        };
        let session = self.session.insert(session);
        let sql = "select u.n, x.nspname::text, c.relname::text, \
               (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end)::text \
             from unnest($1::text[], $2::text[], $3::oid[]) with ordinality as u(s, t, o, n) join pg_publication p on p.pubname = $4 \
             left join pg_publication_rel r on r.prpubid = p.oid \
               and r.prrelid = coalesce(nullif(u.o, 0::oid), to_regclass(format('%I.%I', u.s, u.t))::oid) \
             left join pg_class c on c.oid = r.prrelid left join pg_namespace x on x.oid = c.relnamespace \
             where x.nspname is distinct from u.s or c.relname is distinct from u.t order by u.n";
        let schemas: Vec<&str> = self.tables.iter().map(|t| t.name.schema.as_str()).collect();
        let names: Vec<&str> = self.tables.iter().map(|t| t.name.name.as_str()).collect();
        let numbers: Vec<u32> = self.tables.iter().map(|t| t.number).collect();
        let found = session.query(sql, &[&schemas, &names, &numbers, &self.publication]).await;
        let found = found.map_err(|e| classify(&e, Fault::Source, "cannot look which tables are published"))?;
        let mut missed = found.iter().filter_map(|row| {
            let table = self.tables.get(usize::try_from(row.get::<_, i64>(0)).ok()?.checked_sub(1)?)?.clone();
            let now = row.get::<_, Option<String>>(1).zip(row.get::<_, Option<String>>(2));
            let now = now.map(|(schema, name)| TableName { schema, name });
            let upto = row.get::<_, Option<String>>(3).and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO);
            let known = now.as_ref().is_some_and(|n| self.former.get(&table.number).is_some_and(|f| f.contains(n)));
            (!known).then_some(Missed { table, now, upto })
        });
        Ok(missed.next())
    }
}

impl Missed {
    fn error(&self, told: bool) -> Error {
        const AGAIN: &str =
            "migrate the table again; or leave it out: stop and delete the migration, and create it without the table";
        let (what, remedy) = match &self.now {
            Some(now) if told => (format!("the table is called {now} now, and nothing told it"), AGAIN),
            Some(now) => (format!("the table is called {now} now"), UNTOLD),
            None => {
                let what = "the table's changes are not published any more: it was dropped (and perhaps made again), or taken out of the publication";
                (what.to_owned(), AGAIN)
            }
        };
        Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what).table(&self.table.name).remedy(remedy)
    }
}
