//! The state of one migration: a fold of its events, and nothing else. Pure: no I/O, no clock, no randomness. The same journal
//! always gives the same state, whichever process folds it; a restart of the coordinator is a fold of what was stored.
//! What shall be worked on follows from the state alone ([`crate::wants`]), what an outcome means is decided in [`crate::decide`].

use crate::adopt::Adoption;
use crate::cutover::Cutover;
use crate::event::{Event, Side};
use crate::key::OrderKey;
use crate::settings::Settings;
use crate::table::{ChunkPlan, TableStage, TableState};
use drover_model::check::{self, CheckItem};
use drover_model::ddl::{Dated, Schemas};
use drover_model::error::codes;
use drover_model::plan::{Blur, SnapshotRef};
use drover_model::schema::{Catalog, Object};
use drover_model::{Error, Position, Retry, TablePlan};
use drover_proto::order::{Held, Opening, Owes, Step, Window};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where a migration is.
///
/// ```text
///  create --draft      create            all items passed        at once, or resume
///   ┌───────┐ resume ┌─────────────┐       ┌────────┐            ┌───────────┐   all stages ended  ┌───────────┐
///   │ Draft │───────▶│ Prechecking │──────▶│ Passed │───────────▶│ Migrating │────────────────────▶│ Completed │
///   └───────┘◀───────└─────────────┘       └────────┘            └───────────┘        stop         └───────────┘
///             pause    │       ▲ resume                 pause │ ▲    │ retry window   ▲ stop          │ delete
///                      ▼       │                              ▼ │    ▼ over           │ (Paused,      ▼
///                   ┌─────────────────┐                 Paused ─┘  Failed ── resume   │  Failed)   cleaned on both
///                   │ PrecheckFailed  │                    resume    └──▶ Migrating ──┘            sides: Deleted
///                   └─────────────────┘
/// ```
///
/// | state | set by | what holds | after a restart |
/// |---|---|---|---|
/// | Draft | create --draft, cancelled precheck | nothing was touched on either side | waits |
/// | Prechecking | create, resume | only checks run; the progress row may exist at the destination | goes on with the missing checks |
/// | PrecheckFailed | a failed item | the items are kept | waits |
/// | Passed | the last item passed | catalogue and plans are there | starts, if it was to start |
/// | Migrating | start, resume | orders follow from stages and tables | goes on; leases that workers still hold stay theirs |
/// | Paused | pause | no order runs, no snapshot is held; slot and log stay | waits |
/// | Failed | an error that stayed to the end of its window | as Paused, and the error is kept | waits |
/// | Completed | the last stage, cutover, stop | what drover left is being or was cleaned | goes on cleaning |
/// | Deleted | delete, once both sides are clean | the name is free again | gone |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Draft,
    Prechecking,
    PrecheckFailed,
    Passed,
    Migrating,
    Paused,
    Failed,
    Completed,
    Deleted,
}

/// A living snapshot. It dies with the last of its holders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snap {
    pub number: u32,
    pub position: Position,
    #[serde(default)]
    pub blur: Option<Blur>,
    pub taken_ms: u64,
    /// By worker.
    pub holders: BTreeMap<String, Holder>,
    /// Chunks that were copied from it.
    #[serde(default)]
    pub copied: u32,
    /// Workers that could not join, and when to try again.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
}

impl Snap {
    /// Up to where changes may be in the rows of a table that is read from it, if that is later than its position.
    pub fn until(&self, table: u32) -> Option<Position> {
        Blur::of(self.blur.as_ref(), table).cloned()
    }

    /// Whether a worker can join it, or has.
    pub fn may_read(&self, worker: &str) -> bool {
        self.holders.contains_key(worker) || self.holders.values().all(|h| h.snapshot.shared)
    }
}

/// Who holds a snapshot, by which order, and how others join through it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    pub snapshot: SnapshotRef,
    pub key: OrderKey,
}

/// An order that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failing {
    /// Of its first failure, of whatever kind.
    pub since_ms: u64,
    /// Of the first failure since then that was none of a lost connection, nothing of which lies behind it: an hour without a server
    /// is no part of the window of what the server says when it is back.
    #[serde(default)]
    pub other_since_ms: Option<u64>,
    pub attempts: u32,
    pub not_before_ms: u64,
    pub error: Error,
}

/// Which window an error is tried again in.
pub(crate) fn window(error: &Error) -> Retry {
    // Somebody else took over at the database; the lease is still ours, so ours is the one to go on.
    if error.code == codes::FENCED { Retry::Connection } else { error.retry }
}

/// Cleaning of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleaning {
    #[default]
    No,
    Wanted,
    Done,
    Failed,
}

/// Everything that is known of a migration, but for secrets and for progress that may be forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub settings: Settings,
    pub phase: Phase,
    /// Raised with everything that workers are told in the description.
    pub revision: u64,
    /// Number of events folded.
    pub events: u64,
    pub start_when_passed: bool,
    /// Something may have been made on a side, so that it needs cleaning.
    pub touched: bool,
    /// Shared, as plans and objects, with whoever works on the migration in this process.
    pub catalog: Option<Arc<Catalog>>,
    pub plans: Arc<Vec<TablePlan>>,
    pub objects: Arc<Vec<Object>>,
    pub items: Vec<CheckItem>,
    pub surveyed: bool,
    pub checked: bool,
    /// A check could not be carried out at all.
    pub broken: bool,
    pub base_done: bool,
    pub final_done: bool,
    pub stream_start: Option<Position>,
    /// How the stream was opened last.
    pub opening: Option<Opening>,
    pub snapshot: Option<Snap>,
    pub next_snapshot: u32,
    pub tables: Vec<TableState>,
    /// Table ids, the largest first.
    pub by_size: Vec<u32>,
    pub consistent: bool,
    /// What the running apply order owes and waits for.
    #[serde(default)]
    pub owed: Vec<Owes>,
    /// Schema changes that the stream has met: `catalog` and `plans` are those before them.
    #[serde(default)]
    pub schema_changes: Vec<Dated>,
    pub sequences: Option<Vec<(String, String, i64, bool)>>,
    pub sequences_set: bool,
    pub failures: BTreeMap<OrderKey, Failing>,
    pub error: Option<Error>,
    pub clean_source: Cleaning,
    pub clean_destination: Cleaning,
    pub deleting: bool,
    /// The latest cutover, under way or ended.
    #[serde(default)]
    pub cutover: Option<Cutover>,
    /// Of a migration whose state was lost: what the destination knew at the survey, and what came of it.
    #[serde(default)]
    pub held: Option<Held>,
    #[serde(default)]
    pub adoption: Option<Adoption>,
}

impl State {
    /// The state before the first event of a migration, which is `Created`.
    pub fn new(name: &str, settings: Settings) -> State {
        State {
            name: name.to_owned(),
            settings,
            phase: Phase::Draft,
            revision: 1,
            events: 0,
            start_when_passed: false,
            touched: false,
            catalog: None,
            plans: Arc::default(),
            objects: Arc::default(),
            items: Vec::new(),
            surveyed: false,
            checked: false,
            broken: false,
            base_done: false,
            final_done: false,
            stream_start: None,
            opening: None,
            snapshot: None,
            next_snapshot: 0,
            tables: Vec::new(),
            by_size: Vec::new(),
            consistent: false,
            owed: Vec::new(),
            schema_changes: Vec::new(),
            sequences: None,
            sequences_set: false,
            failures: BTreeMap::new(),
            error: None,
            clean_source: Cleaning::No,
            clean_destination: Cleaning::No,
            deleting: false,
            cutover: None,
            held: None,
            adoption: None,
        }
    }

    /// Folds a whole journal. `None` if it does not begin with `Created`.
    pub fn replay<'a>(mut events: impl Iterator<Item = &'a Event>) -> Option<State> {
        let first = events.next()?;
        let Event::Created { name, settings } = first else { return None };
        let mut state = State::new(name, settings.clone());
        state.apply(first);
        for event in events {
            state.apply(event);
        }
        Some(state)
    }

    /// The name of the state for people and for JSON. `retrying` is migrating while an order waits for another try.
    pub fn label(&self) -> &'static str {
        match self.phase {
            Phase::Draft => "draft",
            Phase::Prechecking => "prechecking",
            Phase::PrecheckFailed => "precheck_failed",
            Phase::Passed => "passed",
            Phase::Migrating if !self.failures.is_empty() => "retrying",
            Phase::Migrating => "migrating",
            Phase::Paused => "paused",
            Phase::Failed => "failed",
            Phase::Completed => "completed",
            Phase::Deleted => "deleted",
        }
    }

    /// Source name of a table, for messages.
    pub fn table_name(&self, table: u32) -> String {
        self.plans.get(table as usize).map_or_else(|| format!("table {table}"), |p| p.source.to_string())
    }

    /// The plans of the tables as the stream knows them last.
    pub fn present(&self) -> Arc<Vec<TablePlan>> {
        match &self.catalog {
            Some(catalog) if !self.schema_changes.is_empty() => {
                Schemas::new(catalog.clone(), self.plans.clone()).folded(&self.schema_changes, None).live()
            }
            _ => self.plans.clone(),
        }
    }

    /// The tables that are not followed any more, and why; in the order in which they were stopped.
    pub fn stopped_tables(&self) -> impl DoubleEndedIterator<Item = (String, &str)> {
        let tables = self.schema_changes.iter().flat_map(|d| &d.change.tables);
        tables.filter_map(|t| Some((t.before.as_ref()?.name.to_string(), t.stopped.as_deref()?)))
    }

    /// All tables have their rows and keys.
    pub fn tables_done(&self) -> bool {
        self.tables.iter().all(|t| t.stage == TableStage::Done)
    }

    /// Rows were read from snapshots of different positions: not until changes have bridged them do the tables fit each
    /// other, so that foreign keys cannot be validated before.
    pub fn is_mixed(&self) -> bool {
        let mut seen = None;
        self.tables.iter().any(|t| t.is_mixed() || t.low.as_ref().is_some_and(|low| *seen.get_or_insert(low) != low))
    }

    /// Rows of some table lie between two snapshots, and rows that changes alone cannot complete may have to be fetched.
    pub fn may_owe(&self) -> bool {
        self.settings.incremental && !self.consistent && self.tables.iter().any(TableState::is_mixed)
    }

    /// Work remains that reads from a snapshot.
    pub fn reads_remain(&self) -> bool {
        self.settings.full
            && self.tables.iter().any(|t| match t.stage {
                TableStage::Unplanned | TableStage::Restarting => true,
                TableStage::Chunks => !t.pending.is_empty(),
                TableStage::Loaded | TableStage::Done => false,
            })
    }

    /// The snapshot is held on to: for what is to be read, for copied blocks that could get lost, for rows that are owed.
    pub fn keeps_snapshot(&self) -> bool {
        self.reads_remain()
            || self.may_owe()
            || !self.owed.is_empty()
            || (!self.settings.durable_bulk && self.tables.iter().any(|t| !t.copied.is_empty()))
    }

    /// Whether the final schema step is due or done before changes are applied.
    pub fn final_before_apply(&self) -> bool {
        !self.settings.incremental || !self.is_mixed()
    }

    /// Changes may be applied.
    pub fn may_apply(&self) -> bool {
        self.settings.incremental
            && self.stream_start.is_some()
            && !self.is_switching()
            && self.tables_done()
            && (!self.settings.schema || (self.base_done && (self.final_done || !self.final_before_apply())))
            && !self.owes_without_snapshot()
    }

    /// For `Apply`: between which positions each table was read.
    pub fn windows(&self, start: &Position) -> Vec<Window> {
        let at = |p: &Option<Position>| p.clone().unwrap_or_else(|| start.clone());
        self.tables.iter().map(|t| Window { low: at(&t.low), high: at(&t.high) }).collect()
    }

    /// What follows by itself from the state; called after each event until it gives `None`. Stored like any other event.
    pub fn follow_up(&self) -> Option<Event> {
        // What failed may have become needless, after a lost snapshot for example: nothing waits for it then.
        if let Some(key) = self.failures.keys().find(|key| !self.still_wants(key)) {
            return Some(Event::Recovered { key: key.clone() });
        }
        match self.phase {
            Phase::Prechecking => {
                if self.checked {
                    return Some(Event::Prechecked { passed: check::passed(&self.items) });
                }
                self.broken.then_some(Event::Prechecked { passed: false })
            }
            Phase::Passed => self.start_when_passed.then_some(Event::Started),
            Phase::Migrating => self.follow_up_migrating(),
            Phase::Completed => {
                let clean = |c: Cleaning| matches!(c, Cleaning::Done | Cleaning::No);
                (self.deleting && clean(self.clean_source) && clean(self.clean_destination)).then_some(Event::Deleted)
            }
            _ => None,
        }
    }

    fn follow_up_migrating(&self) -> Option<Event> {
        if let Some(error) = self.may_not_begin_anew() {
            return Some(Event::Failed { error });
        }
        if self.begins_anew() {
            return None;
        }
        for (id, t) in self.tables.iter().enumerate() {
            if t.stage == TableStage::Chunks && t.pending.is_empty() && t.copied.is_empty() {
                return Some(Event::TableLoaded { table: id as u32, rows: t.rows });
            }
        }
        if let Some(snap) = &self.snapshot
            && !self.keeps_snapshot()
        {
            return Some(Event::SnapshotReleased { number: snap.number });
        }
        let s = &self.settings;
        let ended = !s.incremental
            && self.tables_done()
            && (!s.schema || (self.base_done && self.final_done))
            && (!s.full || self.sequences_set);
        if ended { Some(Event::Completed) } else { self.cutover_follow_up() }
    }

    /// Folds one event in. Total: an event that does not fit (only a damaged journal has one) changes what it can.
    pub fn apply(&mut self, event: &Event) {
        self.events += 1;
        match event {
            Event::Created { name, settings } => {
                self.name = name.clone();
                self.settings = settings.clone();
            }
            Event::PrecheckStarted { start } => {
                self.phase = Phase::Prechecking;
                self.start_when_passed = *start;
                self.forget_checks();
            }
            Event::PrecheckCancelled => {
                self.phase = Phase::Draft;
                self.forget_checks();
            }
            Event::Inspected { catalog, items } => {
                self.catalog = Some(catalog.clone());
                self.items.extend(items.iter().cloned());
                self.revision += 1;
            }
            Event::Surveyed { plans, objects, items, held } => {
                self.held = held.clone();
                self.plans = plans.clone();
                self.objects = objects.clone();
                self.items.extend(items.iter().cloned());
                self.surveyed = true;
                self.touched = true;
                self.revision += 1;
            }
            Event::Checked { items } => {
                self.items.extend(items.iter().cloned());
                self.checked = true;
            }
            Event::CheckBroken { item } => {
                self.items.push(item.clone());
                self.broken = true;
            }
            Event::Prechecked { passed } => {
                self.phase = if *passed { Phase::Passed } else { Phase::PrecheckFailed };
                self.failures.clear();
            }
            Event::Started => self.start(),
            Event::SchemaDone { step: Step::Base, .. } => self.base_done = true,
            Event::SchemaDone { step: Step::Final, .. } => self.final_done = true,
            // Part of the cutover.
            Event::SchemaDone { step: Step::Cutover, .. } => {}
            Event::SchemaDone { step: Step::Table { id }, .. } => {
                if let Some(t) = self.tables.get_mut(*id as usize) {
                    t.stage = TableStage::Done;
                }
            }
            Event::StreamOpened(opening) => {
                self.stream_start.get_or_insert_with(|| opening.start.clone());
                self.opening = Some(opening.clone());
            }
            Event::SchemaChanged { dated } => self.apply_schema_change(dated),
            Event::SchemaChangesVoid { after } => {
                self.schema_changes.retain(|d| d.position <= *after);
                self.revision += 1;
            }
            Event::SequencesRead { values } => self.sequences = Some(values.clone()),
            Event::SequencesSet => self.sequences_set = true,
            Event::Consistent => self.consistent = true,
            Event::Failure { key, error, at_ms, not_before_ms } => {
                let fresh = Failing {
                    since_ms: *at_ms,
                    other_since_ms: None,
                    attempts: 0,
                    not_before_ms: 0,
                    error: error.clone(),
                };
                let failing = self.failures.entry(key.clone()).or_insert(fresh);
                failing.other_since_ms = match window(error) {
                    Retry::Connection => None,
                    _ => failing.other_since_ms.or(Some(*at_ms)),
                };
                failing.attempts += 1;
                failing.not_before_ms = *not_before_ms;
                failing.error = error.clone();
            }
            Event::Away { by_ms } => {
                for failing in self.failures.values_mut() {
                    failing.since_ms += by_ms;
                    failing.other_since_ms = failing.other_since_ms.map(|at| at + by_ms);
                }
            }
            Event::ClockSet { by_ms } => {
                for failing in self.failures.values_mut() {
                    failing.since_ms = failing.since_ms.saturating_add_signed(*by_ms);
                    failing.other_since_ms = failing.other_since_ms.map(|at| at.saturating_add_signed(*by_ms));
                    failing.not_before_ms = failing.not_before_ms.saturating_add_signed(*by_ms);
                }
                if let Some(snap) = &mut self.snapshot {
                    snap.taken_ms = snap.taken_ms.saturating_add_signed(*by_ms);
                    snap.refused.values_mut().for_each(|at| *at = at.saturating_add_signed(*by_ms));
                }
            }
            Event::Recovered { key } => {
                self.failures.remove(key);
            }
            Event::Failed { error } => {
                self.drop_cutover("failed");
                self.phase = Phase::Failed;
                self.owed.clear();
                self.error = Some(error.clone());
                self.failures.clear();
            }
            Event::Paused => {
                self.drop_cutover("was paused");
                self.phase = Phase::Paused;
                self.owed.clear();
                self.failures.clear();
            }
            Event::Resumed => {
                self.phase = Phase::Migrating;
                self.error = None;
            }
            Event::LimitsChanged { snapshot_ms, .. } => {
                self.settings.snapshot_ms = *snapshot_ms;
                self.revision += 1;
            }
            Event::Cutover { change } => self.apply_cutover(change),
            Event::Stopped => {
                self.drop_cutover("was stopped");
                self.complete_stopped();
            }
            Event::Completed => {
                self.phase = Phase::Completed;
                self.snapshot = None;
                self.failures.clear();
            }
            Event::DeleteAsked => {
                self.phase = Phase::Completed;
                self.deleting = true;
                self.error = None;
                for side in [&mut self.clean_source, &mut self.clean_destination] {
                    if self.touched && *side != Cleaning::Done {
                        *side = Cleaning::Wanted;
                    }
                }
            }
            Event::Cleaned { side, .. } => {
                self.set_clean(*side, Cleaning::Done);
            }
            Event::CleanFailed { side, error } => {
                self.set_clean(*side, Cleaning::Failed);
                self.error = Some(error.clone());
                self.deleting = false;
            }
            Event::Deleted => self.phase = Phase::Deleted,
            Event::Warned { .. } => {}
            Event::Adopted { .. } | Event::AdoptedAnew { .. } | Event::Forgotten { .. } => self.apply_adoption(event),
            Event::Owes { .. } | Event::Fetched { .. } | Event::OwesVoid | Event::Widened { .. } => {
                self.apply_owed(event);
            }
            other => self.apply_copy(other),
        }
    }

    /// Ended for good: what drover made at the source goes.
    pub(crate) fn complete_stopped(&mut self) {
        self.phase = Phase::Completed;
        self.snapshot = None;
        self.owed.clear();
        self.failures.clear();
        self.clean_source = Cleaning::Wanted;
    }

    fn apply_schema_change(&mut self, dated: &Dated) {
        self.schema_changes.retain(|d| d.position < dated.position);
        self.schema_changes.push(dated.clone());
        // A new table is complete from its first change on.
        for id in dated.change.tables.iter().filter(|t| t.before.is_none()).filter_map(|t| t.id) {
            while self.tables.len() <= id as usize {
                self.tables.push(TableState::new(TableStage::Done));
            }
        }
        self.revision += 1;
    }

    fn set_clean(&mut self, side: Side, to: Cleaning) {
        let (place, key) = match side {
            Side::Source => (&mut self.clean_source, OrderKey::CleanSource),
            Side::Destination => (&mut self.clean_destination, OrderKey::CleanDestination),
        };
        *place = to;
        self.failures.remove(&key);
    }

    fn forget_checks(&mut self) {
        self.catalog = None;
        self.plans = Arc::default();
        self.objects = Arc::default();
        self.items.clear();
        self.surveyed = false;
        self.checked = false;
        self.broken = false;
        self.failures.clear();
        self.error = None;
        self.revision += 1;
    }

    fn start(&mut self) {
        self.phase = Phase::Migrating;
        let stage = match (self.settings.full, self.settings.schema) {
            (true, _) => TableStage::Unplanned,
            (false, true) => TableStage::Loaded,
            (false, false) => TableStage::Done,
        };
        self.tables = self.plans.iter().map(|_| TableState::new(stage)).collect();
        self.by_size = (0..self.plans.len() as u32).collect();
        let plans = &self.plans;
        self.by_size.sort_by_key(|id| std::cmp::Reverse(plans.get(*id as usize).map_or(0, |p| p.bytes)));
        if let Some(held) = self.held.clone().filter(|_| self.settings.adopt) {
            self.adopt(&held);
        }
    }

    /// Events of snapshots, tables and chunks.
    fn apply_copy(&mut self, event: &Event) {
        match event {
            Event::SnapshotTaken { number, snapshot, worker, key, at_ms } => {
                let holder = Holder { snapshot: snapshot.clone(), key: key.clone() };
                self.snapshot = Some(Snap {
                    number: *number,
                    position: snapshot.position.clone(),
                    blur: snapshot.blur.clone(),
                    taken_ms: *at_ms,
                    holders: BTreeMap::from([(worker.clone(), holder)]),
                    copied: 0,
                    refused: BTreeMap::new(),
                });
                self.next_snapshot = number + 1;
                // Whoever owed without a snapshot begins again and asks again.
                self.owed.clear();
            }
            Event::Joined { number, snapshot, worker } => {
                if let Some(snap) = self.snapshot.as_mut().filter(|s| s.number == *number) {
                    let key = OrderKey::Hold { number: *number, worker: worker.clone() };
                    snap.holders.insert(worker.clone(), Holder { snapshot: snapshot.clone(), key });
                    snap.refused.remove(worker);
                }
            }
            Event::HoldFailed { number, worker, not_before_ms } => {
                if let Some(snap) = self.snapshot.as_mut().filter(|s| s.number == *number) {
                    snap.refused.insert(worker.clone(), *not_before_ms);
                }
            }
            Event::HolderGone { number, worker } => {
                if let Some(snap) = self.snapshot.as_mut().filter(|s| s.number == *number) {
                    snap.holders.remove(worker);
                }
            }
            Event::SnapshotGone { number, .. } | Event::SnapshotReleased { number } => {
                self.snapshot.take_if(|s| s.number == *number);
            }
            Event::TableLoaded { table, .. } => {
                let stage = if self.settings.schema { TableStage::Loaded } else { TableStage::Done };
                if let Some(t) = self.tables.get_mut(*table as usize) {
                    t.stage = stage;
                }
            }
            Event::Planned { table, .. }
            | Event::Copied { table, .. }
            | Event::Loaded { table, .. }
            | Event::CopyAgain { table, .. }
            | Event::TableReplanned { table }
            | Event::TableRestart { table, .. }
            | Event::TableRestarted { table, .. } => {
                if let (Event::Copied { .. }, Some(snap)) = (event, &mut self.snapshot) {
                    snap.copied += 1;
                }
                if let Some(t) = self.tables.get_mut(*table as usize) {
                    apply_table(t, event);
                }
            }
            _ => {}
        }
    }
}

fn apply_table(t: &mut TableState, event: &Event) {
    match event {
        Event::Planned { snapshot, position, until, chunks, .. } => {
            t.stage = TableStage::Chunks;
            t.planned_on = *snapshot;
            t.chunks =
                chunks.iter().map(|c| ChunkPlan { bounds: c.bounds.clone(), rows: c.rows, bytes: c.bytes }).collect();
            t.pending = (0..t.chunks.len() as u32).collect();
            t.copied.clear();
            t.loaded.clear();
            t.read_at(position, until.as_ref());
        }
        Event::Copied { chunk, position, until, extent, .. } => {
            let was_pending = t.pending.remove(chunk);
            if was_pending {
                t.copied.insert(*chunk, *extent);
                t.touched = true;
                t.read_at(position, until.as_ref());
            }
        }
        Event::Loaded { chunk, rows, .. } => {
            if let Some(extent) = t.copied.remove(chunk) {
                t.loaded.insert(*chunk);
                t.rows += rows;
                t.bytes += extent.bytes;
            }
            // An empty map keeps half a kilobyte for what it had, and there may be ten thousand tables.
            if t.copied.is_empty() {
                t.copied = BTreeMap::new();
            }
            if t.pending.is_empty() {
                t.pending = BTreeSet::new();
            }
        }
        Event::CopyAgain { chunk, .. } => {
            t.pending.extend(t.copied.remove(chunk).map(|_| *chunk));
        }
        Event::TableReplanned { .. } => t.clear(),
        Event::TableRestart { generation, .. } => {
            t.clear();
            t.stage = TableStage::Restarting;
            t.generation = *generation;
        }
        Event::TableRestarted { generation, .. }
            if t.generation == *generation && t.stage == TableStage::Restarting =>
        {
            t.stage = TableStage::Unplanned;
        }
        _ => {}
    }
}
