//! Whether the source still publishes every table that is followed. A table that is dropped leaves the publication, and one that is made again
//! under its name does not come back: the log says nothing of either, nor of the new table's rows.
//!
//! Guarantee: such a table ends the stream with TABLE_CHANGED, within [`EVERY`] and before a mark is handed on that was written later. Where event
//! triggers tell that a table is dropped, it does so only when the stream has passed the place at which the table was missed and still follows it.

use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::lsn::Lsn;
use drover_model::error::codes;
use drover_model::schema::TableName;
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked at without a mark.
const EVERY: Duration = Duration::from_secs(10);

/// See the module.
pub struct Guard {
    dialer: Dialer,
    publication: String,
    tables: Vec<TableName>,
    session: Option<Session>,
    due: Instant,
    /// A mark was read and is not handed on.
    marked: bool,
    /// The stream tells itself what becomes of tables.
    told: bool,
    /// A table that is missed, and up to where the stream may tell why.
    missed: Option<(TableName, Lsn)>,
}

impl Guard {
    /// Watches over these plans' tables in a publication. Connects when it looks for the first time, at once. `told`: the stream tells when a table
    /// is dropped.
    pub fn new(dialer: Dialer, publication: &str, plans: &[TablePlan], told: bool) -> Self {
        let publication = publication.to_owned();
        let due = Instant::now();
        let mut guard =
            Guard { dialer, publication, tables: Vec::new(), session: None, due, marked: false, told, missed: None };
        guard.watch(plans.iter());
        guard
    }

    /// Watches over these plans' tables from here on.
    pub fn watch<'p>(&mut self, plans: impl Iterator<Item = &'p TablePlan>) {
        self.tables = plans.map(|p| p.source.clone()).collect();
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
        if let Some((table, upto)) = &self.missed {
            if !self.tables.contains(table) {
                self.missed = None;
            } else if read >= *upto {
                return Err(unpublished(table));
            }
        }
        if !self.marked && Instant::now() < self.due {
            return Ok(());
        }
        match self.gone().await {
            Ok(gone) => {
                (self.due, self.marked) = (Instant::now() + EVERY, false);
                match gone {
                    Some((table, now)) if self.told && read < now => {
                        self.missed.get_or_insert((table, now));
                        Ok(())
                    }
                    Some((table, _)) => Err(unpublished(&table)),
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

    /// The first table that is not in the publication, and where the log ends now. Without the publication the stream ends by itself.
    async fn gone(&mut self) -> Result<Option<(TableName, Lsn)>> {
        let session = match self.session.take().filter(|s| !s.is_closed()) {
            Some(session) => session,
            None => self.dialer.session("tables").await?,
        };
        let session = self.session.insert(session);
        let sql = "select u.s, u.t, (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end)::text from unnest($1::text[], $2::text[]) as u(s, t) join pg_publication p on p.pubname = $3 \
             where not exists (select from pg_publication_rel r join pg_class c on c.oid = r.prrelid \
               join pg_namespace n on n.oid = c.relnamespace where r.prpubid = p.oid and n.nspname = u.s and c.relname = u.t) limit 1";
        let schemas: Vec<&str> = self.tables.iter().map(|t| t.schema.as_str()).collect();
        let names: Vec<&str> = self.tables.iter().map(|t| t.name.as_str()).collect();
        let found = session.query_opt(sql, &[&schemas, &names, &self.publication]).await;
        let found = found.map_err(|e| classify(&e, Fault::Source, "cannot look which tables are published"))?;
        Ok(found.map(|row| {
            let now = row.get::<_, Option<String>>(2).and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO);
            (TableName { schema: row.get(0), name: row.get(1) }, now)
        }))
    }
}

fn unpublished(table: &TableName) -> Error {
    let what = "the table's changes are not published any more: it was dropped (and perhaps made again), renamed, or taken out of the publication";
    Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what).table(table).remedy(
        "migrate the table again; or leave it out: stop and delete the migration, and create it without the table",
    )
}
