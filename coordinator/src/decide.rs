//! What an outcome, a lost lease or an operator's action means: events, decided from the state. Pure; time is given.
//!
//! Callers have made sure that the outcome came under a valid lease. An outcome that the state has no use for any more is
//! [`Stale`]: it is answered as not accepted.

use crate::event::{Event, Side};
use crate::key::OrderKey;
use crate::loss::{after_lost_chunk, plan_after_loss};
use crate::machine::{Cleaning, Phase, State, window};
use drover_model::check::CheckItem;
use drover_model::ddl::Dated;
use drover_model::error::codes;
use drover_model::plan::SnapshotRef;
use drover_model::{Error, Fault, Retry};
use drover_proto::order::{Order, Outcome, Step};

/// The outcome belongs to work that means nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the order means nothing any more")]
pub struct Stale;

/// An outcome with all that is known of where it came from.
pub struct Report<'a> {
    pub key: &'a OrderKey,
    /// The order as it was given out.
    pub order: &'a Order,
    pub worker: &'a str,
    pub outcome: Outcome,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// First and longest pause between two tries, milliseconds.
pub(crate) const BACKOFF_MS: (u64, u64) = (1_000, 30_000);
/// Generations of a table that `[limits] snapshot` may cost.
const RESTARTS: u32 = 3;
/// A check is tried so often before it counts as failed.
const CHECK_TRIES: u32 = 3;

impl State {
    /// For who begins: for how long nobody was there who could have tried again what had failed.
    pub(crate) fn away(&self, now_ms: u64) -> Option<Event> {
        let due = self.failures.values().map(|f| f.not_before_ms).max()?;
        now_ms.checked_sub(due).filter(|by| *by > 0).map(|by_ms| Event::Away { by_ms })
    }

    /// Decides what an outcome means.
    ///
    /// # Errors
    /// [`Stale`] if the state does not want the order any more.
    pub fn on_outcome(&self, report: Report<'_>) -> Result<Vec<Event>, Stale> {
        if !self.still_wants(report.key) {
            return Err(Stale);
        }
        let key = report.key;
        let mut events = match report.outcome {
            Outcome::Failed { error } if error.code == codes::SNAPSHOT_LOST => {
                return Ok(self.on_snapshot_lost(key, report.order, report.worker, report.now_ms));
            }
            Outcome::Failed { error } => return Ok(self.on_failed(key, error, report.now_ms)),
            Outcome::SnapshotLost { .. } => {
                return Ok(self.on_snapshot_lost(key, report.order, report.worker, report.now_ms));
            }
            outcome => self.on_success(key, report.order, report.worker, outcome, report.now_ms)?,
        };
        // Long orders prove themselves by progress, not by having begun.
        if self.failures.contains_key(key) && !matches!(key, OrderKey::Stream | OrderKey::Apply) {
            events.push(Event::Recovered { key: key.clone() });
        }
        Ok(events)
    }

    fn on_success(
        &self,
        key: &OrderKey,
        order: &Order,
        worker: &str,
        outcome: Outcome,
        now_ms: u64,
    ) -> Result<Vec<Event>, Stale> {
        let one = |event| Ok(vec![event]);
        match (key, outcome) {
            (OrderKey::Inspect, Outcome::Inspected { catalog, items }) => one(Event::Inspected { catalog, items }),
            (OrderKey::Survey, Outcome::Surveyed { plans, objects, items, held }) => {
                one(Event::Surveyed { plans, objects, items, held })
            }
            (OrderKey::CheckSource, Outcome::Checked { items }) => one(Event::Checked { items }),
            (OrderKey::SchemaBase, Outcome::Done { what }) => one(Event::SchemaDone { step: Step::Base, what }),
            (OrderKey::SchemaFinal, Outcome::Done { what }) => one(Event::SchemaDone { step: Step::Final, what }),
            (OrderKey::SchemaTable { table }, Outcome::Done { what }) => {
                one(Event::SchemaDone { step: Step::Table { id: *table }, what })
            }
            (OrderKey::Forget, Outcome::Forgotten { generation }) => one(Event::Forgotten { generation }),
            (OrderKey::Stream, Outcome::StreamOpened { opening, snapshot, first }) => {
                let adopted = self.on_adopted_stream(first.as_ref().unwrap_or(&opening.start));
                if let Some(anew @ Event::AdoptedAnew { .. }) = adopted {
                    return one(anew);
                }
                // What was stored and did not come into the log is met again.
                let void = self.schema_changes.iter().any(|d| d.position > opening.start);
                let mut events = Vec::new();
                events.extend(void.then(|| Event::SchemaChangesVoid { after: opening.start.clone() }));
                events.push(Event::StreamOpened(opening));
                if let Some(snapshot) = snapshot
                    && self.snapshot.is_none()
                    && self.settings.full
                {
                    events.push(self.taken(self.next_snapshot, snapshot, worker, key, now_ms));
                }
                events.extend(adopted);
                Ok(events)
            }
            (OrderKey::Snapshot { number }, Outcome::SnapshotTaken { snapshot }) => {
                if self.snapshot.is_some() {
                    return Ok(Vec::new());
                }
                let widened = self.widened(snapshot.blur.as_ref().map_or(&snapshot.position, |b| &b.until));
                let mut events = vec![self.taken(*number, snapshot, worker, key, now_ms)];
                events.extend(widened);
                Ok(events)
            }
            (OrderKey::Hold { number, .. }, Outcome::Joined { snapshot }) => {
                one(Event::Joined { number: *number, snapshot, worker: worker.to_owned() })
            }
            (OrderKey::Plan { table, .. }, Outcome::Planned { chunks }) => {
                let snap = self.snapshot.as_ref().ok_or(Stale)?;
                let (position, until) = (snap.position.clone(), snap.until(*table));
                one(Event::Planned { table: *table, snapshot: snap.number, position, until, chunks })
            }
            (OrderKey::Copy { table, chunk, .. }, Outcome::Copied { extent, physical }) => {
                let snap = self.snapshot.as_ref().ok_or(Stale)?;
                if self.plans.get(*table as usize).is_some_and(|p| p.physical != physical) {
                    return Ok(self.fail(table_changed(self.table_name(*table))));
                }
                let (position, until) = (snap.position.clone(), snap.until(*table));
                one(Event::Copied { table: *table, chunk: *chunk, position, until, extent })
            }
            (OrderKey::Load { table, chunk, .. }, Outcome::Loaded { rows }) => {
                one(Event::Loaded { table: *table, chunk: *chunk, rows })
            }
            (OrderKey::Load { table, chunk, .. }, Outcome::BulkLost) => {
                let mut events = after_lost_chunk(self, *table, *chunk);
                if matches!(events.last(), Some(Event::Failed { .. })) {
                    let failed = events.pop();
                    events.extend(self.give_up_snapshot("the migration failed", false));
                    events.extend(failed);
                }
                Ok(events)
            }
            (OrderKey::Restart { table, generation }, Outcome::Done { .. }) => {
                one(Event::TableRestarted { table: *table, generation: *generation })
            }
            (OrderKey::Stream, Outcome::SchemaChanged { position, change }) => {
                one(Event::SchemaChanged { dated: Box::new(Dated { position, change: *change }) })
            }
            (OrderKey::Apply, Outcome::Owes { owes }) => {
                let mut events = vec![Event::Owes { owes }];
                if self.snapshot.as_ref().is_some_and(|s| s.blur.is_some()) {
                    // The change that owes the row may be later than what the snapshot sees.
                    events
                        .extend(self.give_up_snapshot("rows are owed, which one between two marks may not have", true));
                }
                Ok(events)
            }
            (OrderKey::Fetch { lease, round, .. }, Outcome::Fetched { rows }) => {
                one(Event::Fetched { lease: *lease, round: *round, rows })
            }
            (OrderKey::ReadSequences, Outcome::Sequences { values }) => one(Event::SequencesRead { values }),
            (OrderKey::SetSequences, Outcome::Done { .. }) => one(Event::SequencesSet),
            (OrderKey::CleanSource, Outcome::Done { what }) => one(Event::Cleaned { side: Side::Source, what }),
            (OrderKey::CleanDestination, Outcome::Done { what }) => {
                one(Event::Cleaned { side: Side::Destination, what })
            }
            (key, outcome) if key.is_cutover() => {
                let text = format!("the order {key} ended with {}", outcome_name(&outcome));
                let decided = self.on_cutover_outcome(key, outcome);
                Ok(decided.unwrap_or_else(|| self.fail_cutover(Error::internal(text))))
            }
            // A long order that its worker gave back: it is simply given out again.
            (
                OrderKey::Stream | OrderKey::Snapshot { .. } | OrderKey::Hold { .. } | OrderKey::Apply,
                Outcome::Done { .. },
            ) => Ok(Vec::new()),
            (_, outcome) => {
                let text = format!("the order {key} ({}) ended with {}", order_name(order), outcome_name(&outcome));
                Ok(self.fail(Error::internal(text)))
            }
        }
    }

    fn taken(&self, number: u32, snapshot: SnapshotRef, worker: &str, key: &OrderKey, at_ms: u64) -> Event {
        Event::SnapshotTaken { number, snapshot, worker: worker.to_owned(), key: key.clone(), at_ms }
    }

    fn on_failed(&self, key: &OrderKey, mut error: Error, now_ms: u64) -> Vec<Event> {
        if let Some(table) = key.table().filter(|_| error.table.is_none()) {
            error = error.table(self.table_name(table));
        }
        let failing = self.failures.get(key);
        let attempts = failing.map_or(1, |f| f.attempts + 1);
        let pause = BACKOFF_MS.0.saturating_mul(1 << (attempts - 1).min(10)).min(BACKOFF_MS.1);
        let again =
            Event::Failure { key: key.clone(), error: error.clone(), at_ms: now_ms, not_before_ms: now_ms + pause };
        let since = failing.map_or(now_ms, |f| f.since_ms);
        let other_since = failing.and_then(|f| f.other_since_ms).unwrap_or(now_ms);
        let retry = window(&error);
        let (begun, lasts) = match retry {
            Retry::Connection => (since, self.settings.retry_connection_ms),
            Retry::Other => (other_since, self.settings.retry_other_ms),
            Retry::Never => (now_ms, 0),
        };
        // Whatever it is in turn, it does not go on for longer than a connection may be away.
        let passed = |from: u64, lasts| now_ms.saturating_sub(from) >= lasts;
        let over = passed(begun, lasts) || passed(since, self.settings.retry_connection_ms);
        match key {
            OrderKey::Hold { number, worker } => {
                let not_before_ms = now_ms + BACKOFF_MS.1;
                let mut events = vec![Event::HoldFailed { number: *number, worker: worker.clone(), not_before_ms }];
                events.extend(self.on_lost(key, worker));
                events
            }
            OrderKey::Inspect | OrderKey::Survey | OrderKey::CheckSource => {
                if retry == Retry::Never || attempts >= CHECK_TRIES {
                    let cause = error.to_string();
                    let remedy = error.remedy.clone().unwrap_or_default();
                    // Connectivity of the one side and of the other.
                    let (item, object) =
                        if *key == OrderKey::Survey { ("K3", "destination") } else { ("K1", "source") };
                    vec![Event::CheckBroken { item: CheckItem::failed(item, object, cause, remedy) }]
                } else {
                    vec![again]
                }
            }
            OrderKey::CleanSource | OrderKey::CleanDestination => {
                let side = if *key == OrderKey::CleanSource { Side::Source } else { Side::Destination };
                // Cleaning waits for nobody longer than the short window: the operator is told instead.
                if retry == Retry::Never || now_ms.saturating_sub(since) >= self.settings.retry_other_ms {
                    vec![Event::CleanFailed { side, error }]
                } else {
                    vec![again]
                }
            }
            // The destination's or source's trouble, not the migration's: that goes on.
            key if over && key.is_cutover() => self.fail_cutover(error),
            _ if over => self.fail(error),
            _ => vec![again],
        }
    }

    /// The migration fails: nothing runs any more, so the snapshot is given up as well.
    fn fail(&self, error: Error) -> Vec<Event> {
        let mut events = self.give_up_snapshot("the migration failed", true);
        events.push(Event::Failed { error });
        events
    }

    /// A reader or holder says that its snapshot is gone: so is the holder through which it was joined. Others may live.
    fn on_snapshot_lost(&self, key: &OrderKey, order: &Order, worker: &str, now_ms: u64) -> Vec<Event> {
        let Some(snap) = &self.snapshot else { return Vec::new() };
        let given = match order {
            Order::Plan { snapshot, .. } | Order::Copy { snapshot, .. } | Order::Fetch { snapshot, .. } => {
                Some(snapshot)
            }
            Order::Hold { snapshot, .. } if snap.holders.get(worker).is_none_or(|h| h.key != *key) => Some(snapshot),
            _ => None,
        };
        let holder = match given {
            Some(given) => snap.holders.iter().find(|(_, h)| h.snapshot.token == given.token).map(|(w, _)| w.clone()),
            None => snap.holders.get(worker).filter(|h| h.key == *key).map(|_| worker.to_owned()),
        };
        let mut events = Vec::new();
        if let OrderKey::Hold { number, worker } = key {
            let not_before_ms = now_ms + BACKOFF_MS.0;
            events.push(Event::HoldFailed { number: *number, worker: worker.clone(), not_before_ms });
        }
        if let Some(holder) = holder {
            events.extend(self.holder_gone(&holder));
        }
        events
    }

    /// A worker holds the snapshot no longer; with the last one it is gone.
    fn holder_gone(&self, worker: &str) -> Vec<Event> {
        let Some(snap) = self.snapshot.as_ref().filter(|s| s.holders.contains_key(worker)) else { return Vec::new() };
        let mut events = vec![Event::HolderGone { number: snap.number, worker: worker.to_owned() }];
        if snap.holders.len() == 1 {
            events.extend(self.give_up_snapshot("its last holder is gone", true));
        }
        events
    }

    /// Events that give the living snapshot up, with what becomes of the tables. A table that cannot go on adds `Failed`
    /// at the end, if `with_failure`: callers that fail the migration anyway have an error of their own.
    fn give_up_snapshot(&self, why: &str, with_failure: bool) -> Vec<Event> {
        let Some(snap) = &self.snapshot else { return Vec::new() };
        let mut events = vec![Event::SnapshotGone { number: snap.number, why: why.to_owned() }];
        events.extend(plan_after_loss(self));
        if !with_failure {
            events.retain(|e| !matches!(e, Event::Failed { .. }));
        }
        events
    }

    /// The snapshot is older than `[limits] snapshot` allows: it is given up, and what remains is read from a new one. Not before
    /// a chunk was read from it, or the copy would never get on; and a table that begins again each time ends the migration at last.
    /// One that is kept only for rows that may come to be owed goes as soon as none is; whoever owes later gets a new one.
    pub fn on_tick(&self, now_ms: u64) -> Vec<Event> {
        let limit = self.settings.snapshot_ms;
        let over = |snap: &&crate::machine::Snap| {
            let served = if self.reads_remain() { snap.copied > 0 } else { self.owed.is_empty() };
            limit > 0 && served && now_ms.saturating_sub(snap.taken_ms) >= limit
        };
        if self.phase != Phase::Migrating || self.snapshot.as_ref().filter(over).is_none() {
            return Vec::new();
        }
        let events = self.give_up_snapshot("it was held as long as [limits] snapshot allows", true);
        let vain = events.iter().find_map(|e| match e {
            Event::TableRestart { table, generation, .. } if *generation > RESTARTS => Some(*table),
            _ => None,
        });
        match vain {
            None => events,
            Some(table) => self.fail(
                Error::new(
                    codes::SNAPSHOT_LOST,
                    Fault::User,
                    Retry::Never,
                    "the table cannot be read within [limits] snapshot, and without a key it begins again with each new snapshot",
                )
                .table(self.table_name(table))
                .remedy("raise or remove `snapshot` in [limits], then resume"),
            ),
        }
    }

    /// The lease of an order was lost or ended without an outcome that keeps what the order held.
    pub fn on_lost(&self, key: &OrderKey, worker: &str) -> Vec<Event> {
        if *key == OrderKey::Apply {
            return self.on_apply_lost();
        }
        let holds = |s: &crate::machine::Snap| s.holders.get(worker).is_some_and(|h| h.key == *key);
        if self.snapshot.as_ref().is_some_and(holds) { self.holder_gone(worker) } else { Vec::new() }
    }

    /// Progress of a long order went beyond what it was when it failed.
    pub fn on_progress(&self, key: &OrderKey) -> Vec<Event> {
        if self.failures.contains_key(key) { vec![Event::Recovered { key: key.clone() }] } else { Vec::new() }
    }

    /// An operator's action: `pause`, `resume`, `stop` or `delete` (requirements §4.1).
    ///
    /// # Errors
    /// The action is unknown or not allowed in this state; the message names the state and what is allowed.
    pub fn on_action(&self, action: &str) -> Result<Vec<Event>, Error> {
        let refuse = |why: &str, remedy: &str| {
            let text = format!("cannot {action} the migration {:?}: it is {}{why}", self.name, self.label());
            Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text).remedy(remedy))
        };
        match (action, self.phase) {
            ("pause", Phase::Prechecking) => Ok(vec![Event::PrecheckCancelled]),
            ("pause", Phase::Migrating) => {
                let mut events = self.give_up_snapshot("the migration was paused", true);
                if let Some(Event::Failed { error }) = events.pop_if(|e| matches!(e, Event::Failed { .. })) {
                    // Pausing gives the snapshot up, and this migration could not go on without it.
                    return Err(error);
                }
                events.push(Event::Paused);
                Ok(events)
            }
            ("pause", _) => refuse("", "only a migration that is prechecking, migrating or retrying can be paused"),
            ("resume", Phase::Draft | Phase::PrecheckFailed) => Ok(vec![Event::PrecheckStarted { start: true }]),
            ("resume", Phase::Passed) => Ok(vec![Event::Started]),
            ("resume", Phase::Paused | Phase::Failed) => {
                let mut events = plan_after_loss(self);
                if let Some(Event::Failed { error }) = events.pop_if(|e| matches!(e, Event::Failed { .. })) {
                    return Err(error);
                }
                events.push(Event::Resumed);
                Ok(events)
            }
            ("resume", Phase::Prechecking | Phase::Migrating) => {
                refuse(" and runs already", "nothing needs to be done")
            }
            ("resume", _) => refuse("", "create it again to migrate again"),
            ("stop", Phase::Migrating | Phase::Paused | Phase::Failed) => Ok(vec![Event::Stopped]),
            ("stop", _) => refuse("", "only a migration that is migrating, retrying, paused or failed can be stopped"),
            ("delete", Phase::Completed) if self.deleting => refuse(" and being deleted", "wait"),
            ("delete", Phase::Draft | Phase::PrecheckFailed | Phase::Passed | Phase::Completed) => {
                Ok(vec![Event::DeleteAsked])
            }
            ("delete", _) => refuse("", "stop it first: only a completed migration can be deleted"),
            _ => Err(Error::new(
                codes::CONFIGURATION,
                Fault::User,
                Retry::Never,
                format!("there is no action {action:?}"),
            )
            .remedy("actions are pause, resume, stop, delete and limits")),
        }
    }

    /// Some side is still to be cleaned.
    pub fn cleaning(&self) -> bool {
        self.phase == Phase::Completed
            && (self.clean_source == Cleaning::Wanted || self.clean_destination == Cleaning::Wanted)
    }
}

fn table_changed(table: String) -> Error {
    Error::new(
        codes::TABLE_CHANGED,
        Fault::Source,
        Retry::Never,
        "the table was rewritten or its columns changed while it was copied",
    )
    .table(table)
    .remedy("stop and delete the migration and create it again; keep schema changes out of the time of the copy")
}

/// What kind of order or outcome it is, without its contents.
fn tag(value: Result<serde_json::Value, serde_json::Error>) -> String {
    value.ok().and_then(|v| v.get("kind").and_then(|k| k.as_str()).map(str::to_owned)).unwrap_or_default()
}
fn order_name(order: &Order) -> String {
    tag(serde_json::to_value(order))
}
fn outcome_name(outcome: &Outcome) -> String {
    tag(serde_json::to_value(outcome))
}
