//! Schema changes within the stream. They were told in the log, in their transaction; the transactions come in the order of their commits, so that plans
//! change exactly where rows do.
//!
//! A transaction that the server streams before its commit may still be rolled back, in part or as a whole, and other transactions come between. So
//! one that changes schema is not followed while it is streamed: when it has been committed it is read again, from a session that does not stream.

use super::{Changes, failed};
use crate::catalog::OID;
use crate::connect::{Dialer, Session};
use crate::ddl::follow::{Follower, Refused};
use crate::ddl::told::{Told, Types};
use crate::ddl::watch;
use crate::pgoutput::Decoder;
use crate::replication::StreamOptions;
use crate::slot::{self, Names};
use drover_connectors_api::Followed;
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::migration::SchemaPolicy;
use drover_model::schema::TableName;
use drover_model::{Error, Fault, Result, Retry, TablePlan};

const REMEDY: &str =
    "make the change in another way (see the guide's page on schema changes) or undo it, and migrate the table again";
/// What to do where nothing tells schema changes.
pub const UNTOLD: &str = "schema changes are carried over only where drover's account may create event triggers at the source, from version 14 on: undo the \
     change there, or migrate the table again";

/// What schema changes are followed with.
pub struct Following {
    follower: Follower,
    policy: SchemaPolicy,
    /// Event triggers tell schema changes.
    watched: bool,
    prefix: String,
    dialer: Dialer,
    version: u32,
    names: Names,
    session: Option<Session>,
}

impl Following {
    /// `watched`: drover's event triggers are at work at the source.
    pub fn new(followed: &Followed, watched: bool, dialer: Dialer, version: u32, names: Names) -> Following {
        let follower = Follower::new(followed.schemas.clone(), followed.selection.clone());
        let prefix = watch::prefix(&names.publication);
        Following { follower, policy: followed.policy, watched, prefix, dialer, version, names, session: None }
    }

    pub(super) fn remedy(&self) -> &'static str {
        if self.watched { REMEDY } else { UNTOLD }
    }

    pub(super) fn is_told_by(&self, prefix: &str) -> bool {
        prefix == self.prefix
    }

    /// The tables that are followed: see [`Follower::followed`].
    pub(super) fn followed(&self) -> impl Iterator<Item = (&TableName, Option<u32>)> {
        self.follower.followed()
    }

    /// Other names of tables are told.
    pub(super) fn is_told(&self) -> bool {
        self.watched
    }

    /// Some tables are not followed any more: their rows may still come.
    pub(super) fn lost_some(&self) -> bool {
        self.follower.schemas.plans.iter().any(TablePlan::is_gone)
    }

    /// A table that cannot be followed stops by itself.
    pub(super) fn stops_tables(&self) -> bool {
        self.policy == SchemaPolicy::StopTable
    }
}

impl Changes {
    /// Counts the next change of a transaction; whether it has been given out already.
    pub(super) fn passed(&mut self) -> bool {
        self.block_of.is_none() && self.open.as_mut().is_some_and(super::Open::passes)
    }

    /// A row of a table that is not what was planned, in this subtransaction where one is streamed.
    pub(super) fn wrong(&mut self, xid: Option<u32>, error: Error) -> Result<()> {
        if let Some(streamed) = self.unfinished() {
            streamed.failed = Some((xid.unwrap_or_default(), error));
            return Ok(());
        }
        let stopped = self.following.as_ref().filter(|f| f.stops_tables()).and_then(|f| {
            let name = error.table.as_deref()?;
            let plans = f.follower.schemas.live();
            let plan = plans.iter().find(|p| p.source.to_string() == name)?;
            f.follower.stopped(&plan.source, "", &error.message)
        });
        match stopped {
            Some(change) => {
                tracing::error!(table = error.table, why = error.message, "the table is not followed any more");
                self.altered(change, |_| Types::new(), true)
            }
            None => Err(error),
        }
    }

    /// Works off what was told. Cancel-safe.
    pub(super) async fn work_told_off(&mut self) -> Result<()> {
        let (Some(content), Some(following)) = (&self.told, &mut self.following) else { return Ok(()) };
        let told = Told::read(content)?;
        let refuse = |table: Option<&TableName>, why: &str| {
            let what = format!("a schema change cannot be carried over ({why}): {}", told.statement);
            let error = Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what).remedy(REMEDY);
            table.map_or(error.clone(), |t| error.table(t))
        };
        let no_transaction = || Error::internal("a schema change was told outside of any transaction");
        if let Some(rewritten) = told.rewritten {
            let open = self.open.as_mut().ok_or_else(no_transaction)?;
            *open.rewritten.entry(rewritten.relid).or_default() |= rewritten.reason;
            self.told = None;
            return Ok(());
        }
        if let Some(why) = &told.failed {
            return Err(refuse(None, &format!("the source could not tell it: {why}")));
        }
        let session = match following.session.take().filter(|s| !s.is_closed()) {
            Some(session) => session,
            None => following.dialer.session("tables").await?,
        };
        let found = told.tables(following.session.insert(session)).await?;
        // Nothing waits from here on.
        let open = self.open.as_mut().ok_or_else(no_transaction)?;
        let followed = following.follower.follow(&told, found, &open.rewritten);
        if told.ended {
            open.rewritten.clear();
        }
        let change = match followed {
            Ok(None) => None,
            Ok(Some((change, deep))) if deep && following.policy == SchemaPolicy::Stop => {
                return Err(refuse(change.table(), "schema_changes.policy is \"stop\""));
            }
            Ok(Some((change, _))) => Some(change),
            Err(Refused { table, why }) => {
                let stopped = following.follower.stopped(&table, &told.statement, &why);
                let Some(stopped) = stopped.filter(|_| following.stops_tables()) else {
                    return Err(refuse(Some(&table), &why));
                };
                tracing::error!(%table, why, statement = told.statement, "the table is not followed any more");
                Some(stopped)
            }
        };
        self.told = None;
        match change {
            Some(change) => self.altered(change, |oid| told.types(oid), false),
            None => Ok(()),
        }
    }

    /// What follows is read with the plans behind the change.
    fn altered(&mut self, change: SchemaChange, types: impl Fn(u32) -> Types, before_last: bool) -> Result<()> {
        let (Some(following), Some(open)) = (&mut self.following, &mut self.open) else {
            return Err(Error::internal("a schema change outside of any transaction"));
        };
        following.follower.apply(&change);
        for table in &change.tables {
            let Some(id) = table.id else { continue };
            let plan = table.plan.as_ref().map(|plan| {
                let oid = table.after.as_ref().and_then(|t| t.options.get(OID)?.parse().ok()).unwrap_or(0);
                let types = types(oid);
                let of = |name: &str| {
                    types.get(name).map_or((None, None), |(kind, modifier)| (Some(*kind), Some(*modifier)))
                };
                (plan.clone(), plan.columns.iter().map(|c| of(&c.source)).collect())
            });
            self.tables.replace(id, plan);
        }
        self.tables.number(following.follower.followed(), following.watched);
        self.tables.rebind(self.relations.values_mut());
        if let Some(guard) = &mut self.guard {
            guard.watch(following.follower.followed());
        }
        open.schema(change, before_last);
        Ok(())
    }

    /// Begins behind what was given out, on a session that does not stream transactions before their commit. Cancel-safe: it begins again.
    pub(super) async fn read_again(&mut self) -> Result<()> {
        let Some(following) = &self.following else { return Err(Error::internal("nothing to read again with")) };
        tracing::info!(from = %self.to, "a large transaction changes schema: it is read again");
        let session = following.dialer.session("stream").await?;
        slot::free(&session, following.version, &following.names.slot).await?;
        let mut replication = following.dialer.replication("stream").await?;
        let options = StreamOptions { streaming: false, ..StreamOptions::default() };
        let started = replication.start(&following.names.slot, self.to, &[&following.names.publication], options).await;
        started.map_err(failed)?;
        self.session = replication;
        self.decoder = Decoder::new();
        self.relations.clear();
        self.streamed.clear();
        (self.block_of, self.current, self.open) = (None, None, None);
        self.again = false;
        Ok(())
    }
}
