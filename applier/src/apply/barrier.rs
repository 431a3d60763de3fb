//! Schema changes. Guarantee: one is made where everything before it is committed and durable and no session is at work, and nothing behind it
//! is taken in before.

use super::{Run, fenced, shapes};
use crate::evolve;
use crate::session::Common;
use bytes::Bytes;
use drover_connectors_api::{Committed, Shift};
use drover_model::change::{Item, Reader};
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};
use std::sync::Arc;
use tokio::time::Instant;

/// A schema change that is next.
pub(super) struct Barrier {
    change: Box<SchemaChange>,
    previous: Position,
    next: Position,
    commit_micros: i64,
}

impl Run {
    /// A schema change: nothing behind it is taken in before it is made.
    pub(super) fn meet(&mut self, payload: &Bytes, next: Position, commit_micros: i64) -> Result<()> {
        self.cut()?;
        let mut reader = Reader::new(payload, &*self.common.shapes);
        while let Some(item) = reader.next_item().map_err(crate::compact::damaged)? {
            if let Item::Schema(change) = item {
                let previous = self.cut_to.clone();
                self.cut_to = next.clone();
                self.barrier = Some(Barrier { change, previous, next, commit_micros });
                return Ok(());
            }
        }
        Err(Error::new(codes::LOG, Fault::Log, Retry::Never, "a record of a schema change has none"))
    }

    pub(super) fn other_version(&self, theirs: u64) -> Error {
        let ours = self.schemas.version;
        let text = format!("changes come with {theirs} schema changes before them, and {ours} are known here");
        Error::new(codes::LOG, Fault::Drover, Retry::Other, text)
    }

    /// Everything before the barrier is committed and durable, and no session is at work.
    pub(super) fn at_barrier(&self) -> bool {
        let idle = self.schedule.is_empty() && self.huges.is_empty();
        let durable = self.flushing.is_none() && self.committed <= self.durable;
        #[cfg(test)]
        let (idle, durable) = (
            idle || self.options.hasty == super::Hasty::Work,
            durable || self.options.hasty == super::Hasty::Durability,
        );
        self.barrier.is_some() && self.stopping.is_none() && idle && durable
    }

    /// Makes the schema change that is next, and goes on with the plans behind it.
    pub(super) async fn pass_barrier(&mut self) -> Result<()> {
        let Some(barrier) = &self.barrier else { return Ok(()) };
        let Barrier { change, previous, next, commit_micros } = barrier;
        let common = self.common.clone();
        let change = evolve::mapped(&*common.destination, &self.schemas, (**change).clone())?;
        let mut after = self.schemas.clone();
        after.apply(&change);
        let tables: Vec<u32> = change.tables.iter().filter_map(|t| t.id).collect();
        if let Some(table) = tables.iter().find(|t| self.windows.mode(**t, next) != crate::windows::Mode::Strict) {
            let name = self.schemas.plans.get(*table as usize).map(|p| p.source.clone());
            let text = "the table's schema was changed while its rows were being copied";
            let error = Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, text)
                .remedy("begin again: `drover cleanup`, then run the migration anew");
            return Err(name.map_or(error.clone(), |name| error.table(&name)));
        }
        let started = Instant::now();
        let shift = Shift { change: &change, previous, next, before: &self.schemas, after: &after };
        // Sessions know the tables as they were, and may hold locks on them.
        self.slots.clear();
        let made = if change.acts() {
            common.destination.change_schema(common.migration, common.epoch, &shift).await?
        } else {
            // Only to be known: the destination stays as it is.
            let plans = after.live();
            let mut session = common.destination.apply_session(common.migration, common.epoch, &plans).await?;
            let committed = session.commit(previous, next).await?;
            session.flush().await?;
            committed
        };
        match made {
            Committed::Fenced => return Err(fenced()),
            Committed::Yes => {}
        }
        let what = change.statement.as_deref().unwrap_or(&change.verb);
        tracing::info!(position = %next, seconds = started.elapsed().as_secs_f64(), what, "schema change made");
        let shapes = shapes(&*common.destination, &after).await?;
        self.changed.note(&tables, next);
        self.commit_micros = self.commit_micros.max(*commit_micros);
        self.transactions += 1;
        (self.committed, self.durable) = (next.clone(), next.clone());
        self.common = Arc::new(Common {
            destination: common.destination.clone(),
            migration: common.migration,
            epoch: common.epoch,
            plans: after.plans.clone(),
            shapes,
            owing: common.owing.clone(),
            lasting: common.lasting.anew(),
        });
        self.schemas = after;
        self.barrier = None;
        self.report();
        Ok(())
    }
}
