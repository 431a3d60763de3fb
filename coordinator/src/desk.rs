//! The desk: migrations, leases and workers together, still without I/O or clock. Every call takes the time and gives, beside
//! its answer, a [`Turn`] of changes; the caller makes the turn durable before it passes the answer on. So a worker never acts on
//! something that a crash could undo, and after a crash the store tells the same story that the workers know.

mod operate;
mod shares;

use crate::cutover::Applied;
use crate::decide::Report;
use crate::event::Event;
use crate::key::OrderKey;
use crate::lease::{Grant, Leases, Standing};
use crate::machine::{Phase, State};
use crate::turn::{Stored, Turn, Write};
use crate::wants::{Budget, View, Want};
use drover_model::doubt::Replaced;
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::{Error, Fault, MigrationId, Position, Retry};
use drover_proto::order::{Description, Order, Outcome, Progress, Role};
use drover_proto::v1;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The time, as a caller sees it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// What can be tuned.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Time after which an unrenewed lease is free.
    pub lease_ms: u64,
    /// Bytes copied but not loaded.
    pub bulk_bytes: u64,
    /// Bulk partitions of a new migration's log: an upper bound of copies at once.
    pub bulk_partitions: u32,
    /// Size of chunks that plans aim at.
    pub chunk_bytes: u64,
    /// Events after which the state is kept as a whole.
    pub keep_state_every: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            lease_ms: 8_000,
            bulk_bytes: 256 << 20,
            bulk_partitions: 16,
            chunk_bytes: 32 << 20,
            keep_state_every: 256,
        }
    }
}

/// News of the long orders and of chunks under way; forgotten with the process.
#[derive(Debug, Default)]
pub struct Live {
    /// Rows and bytes by (table, chunk).
    pub loads: HashMap<(u32, u32), (u64, u64)>,
    pub copies: HashMap<(u32, u32), (u64, u64)>,
    pub stream: Option<StreamNews>,
    pub apply: Option<ApplyNews>,
    /// Rows that earlier holders of the apply order had applied.
    pub apply_rows_before: u64,
    /// Values that policies changed.
    pub replaced: Vec<Replaced>,
    /// When the cutover under way was asked for last, by the clock that never goes back.
    cutover_asked_ms: u64,
    /// How far a long order had come when it failed.
    failed_at: HashMap<OrderKey, Position>,
}

/// Latest news of the stream.
#[derive(Debug, Clone)]
pub struct StreamNews {
    pub published: Position,
    /// The end of a transaction that is published in part.
    pub reaching: Option<Position>,
    pub changes: u64,
    pub bytes: u64,
    pub commit_micros: i64,
    pub log_bytes: u64,
    pub at_ms: u64,
}

/// Latest news of the apply order.
#[derive(Debug, Clone)]
pub struct ApplyNews {
    pub applied: Position,
    pub rows: u64,
    pub transactions: u64,
    pub commit_micros: i64,
    pub consistent: bool,
    pub epoch: u64,
}

/// A migration at the desk.
#[derive(Debug)]
pub struct Entry {
    pub migration: Migration,
    pub state: State,
    pub live: Live,
    epoch: u64,
    /// Events behind which the state was last kept as a whole.
    kept: u64,
}

/// See the module.
pub struct Desk {
    tuning: Tuning,
    entries: BTreeMap<MigrationId, Entry>,
    leases: Leases,
    turns: usize,
    /// The time of the latest call.
    seen: Now,
}

impl Desk {
    /// From what the store has. `alone`: the workers live and die with this process, so that all stored leases are void.
    ///
    /// # Errors
    /// A migration without a beginning: the store is damaged.
    pub fn restore(tuning: Tuning, stored: Vec<Stored>, alone: bool, now: Now) -> Result<(Desk, Turn), Error> {
        let mut desk =
            Desk { tuning, entries: BTreeMap::new(), leases: Leases::new(tuning.lease_ms), turns: 0, seen: now };
        let mut turn = Turn::default();
        for s in stored {
            let kept = s.state.as_ref().map_or(0, |s| s.events);
            let state = match s.state {
                Some(mut state) => {
                    s.events.iter().for_each(|e| state.apply(e));
                    Some(state)
                }
                None => State::replay(s.events.iter()),
            };
            let state = state.ok_or_else(|| {
                Error::new(codes::STATE, Fault::Drover, Retry::Never, "the journal of a migration has no beginning")
                    .remedy("restore the store from a backup; progress at the destination is not affected")
            })?;
            // Who asked for a cutover has a moment to show up.
            let live = Live { cutover_asked_ms: now.mono_ms, ..Live::default() };
            desk.entries.insert(s.id, Entry { migration: s.migration, state, live, epoch: s.epoch, kept });
            for grant in s.grants {
                desk.leases.restore(grant, now.mono_ms);
            }
            // What a crash left undone follows by itself.
            let away = desk.entries.get(&s.id).and_then(|e| e.state.away(now.wall_ms));
            desk.commit(s.id, Vec::from_iter(away), now, &mut turn);
        }
        if alone {
            let all: Vec<_> = desk.leases.all().map(|h| (h.grant.migration, h.grant.key.clone())).collect();
            for (id, key) in all {
                desk.lose(id, &key, now, &mut turn);
            }
        }
        desk.drop_orphan_holders(now, &mut turn);
        Ok((desk, turn))
    }

    /// Holders of snapshots whose lease is not known hold nothing.
    fn drop_orphan_holders(&mut self, now: Now, turn: &mut Turn) {
        let mut gone = Vec::new();
        for (id, entry) in &self.entries {
            for (worker, holder) in entry.state.snapshot.iter().flat_map(|s| &s.holders) {
                let lease = self.leases.get(*id, &holder.key);
                if lease.is_none_or(|h| h.grant.worker != *worker) {
                    gone.push((*id, holder.key.clone(), worker.clone()));
                }
            }
        }
        for (id, key, worker) in gone {
            let events = self.entries.get(&id).map(|e| e.state.on_lost(&key, &worker)).unwrap_or_default();
            self.commit(id, events, now, turn);
        }
    }

    // ---- workers ----

    /// A worker polls: leases are renewed, news noted, new orders given.
    ///
    /// # Errors
    /// The request names no role.
    pub fn poll(&mut self, request: &v1::PollRequest, now: Now) -> Result<(v1::PollReply, Turn), Error> {
        let mut turn = Turn::default();
        let role = match request.role() {
            v1::Role::Extractor => Role::Extractor,
            v1::Role::Applier => Role::Applier,
            v1::Role::Unspecified => return Err(Error::internal("a worker polled without a role")),
        };
        self.sweep_into(now, &mut turn);
        let mut reply = v1::PollReply { lease_millis: self.leases.term_ms(), ..Default::default() };
        // What the worker lists there is out of date: leases of the later poll would be taken back.
        if self.leases.overtaken(&request.worker, request.number) {
            return Ok((reply, turn));
        }
        if request.leaving {
            self.leases.leave(&request.worker);
            for (id, key) in self.leases.of_worker(&request.worker) {
                self.lose(id, &key, now, &mut turn);
            }
            return Ok((reply, turn));
        }
        let short = |l: &&v1::Lease| parse_lease(l).is_some_and(|(_, k)| !k.is_long());
        let slots = request.free as usize + request.running.iter().filter(short).count();
        self.leases.seen(&request.worker, &request.name, role, slots, request.number, now.mono_ms);
        let mut listed = HashSet::new();
        for lease in &request.running {
            listed.extend(parse_lease(lease));
            let known = parse_lease(lease);
            let renewed =
                known.is_some_and(|(id, key)| self.leases.renew(id, &key, lease.epoch, &request.worker, now.mono_ms));
            if !renewed {
                reply.stop.push(lease.clone());
            }
        }
        // A worker lists all it works on until its report was answered. What it does not list it never heard of (the reply to
        // its last poll was lost) or has given up: others need not wait for the term to end.
        for lease in self.leases.of_worker(&request.worker).into_iter().filter(|l| !listed.contains(l)) {
            self.lose(lease.0, &lease.1, now, &mut turn);
        }
        for news in &request.progress {
            // Lost or garbled news do no harm.
            if let Ok(progress) = serde_json::from_slice::<Progress>(news) {
                self.note(&request.worker, progress, now, &mut turn);
            }
        }
        self.assign(&request.worker, role, request.free as usize, now, &mut reply, &mut turn);
        reply.shares =
            self.shares(&request.worker).iter().filter_map(|s| serde_json::to_vec(s).ok()).map(Into::into).collect();
        Ok((reply, turn))
    }

    fn assign(&mut self, worker: &str, role: Role, free: usize, now: Now, reply: &mut v1::PollReply, turn: &mut Turn) {
        let extractors = self.leases.live(Role::Extractor);
        let load_slots = self.leases.slots(Role::Applier);
        let budget =
            Budget { chunks: 2 * load_slots + 2, bytes: self.tuning.bulk_bytes, target_bytes: self.tuning.chunk_bytes };
        // Migrations take turns at being first.
        self.turns += 1;
        let mut ids: Vec<MigrationId> = self.entries.keys().copied().collect();
        if !ids.is_empty() {
            let first = self.turns % ids.len();
            ids.rotate_left(first);
        }
        for id in ids {
            if reply.start.len() >= free {
                return;
            }
            let Some(entry) = self.entries.get(&id) else { continue };
            let leases = &self.leases;
            let held: Vec<_> = leases.of_migration(id).collect();
            let mut partitions: HashSet<u32> = held.iter().filter_map(|h| partition(&h.grant.order)).collect();
            let copies = held.iter().filter(|h| matches!(h.grant.key, OrderKey::Copy { .. })).count();
            drop(held);
            let running = |key: &OrderKey| leases.is_held(id, key);
            let view = View { extractors: &extractors, running: &running, copies, budget };
            let wants = entry.state.wants(&view);
            let mine = wants
                .into_iter()
                .filter(|w| w.role() == role && w.is_due(now.wall_ms))
                .filter(|w| entry.state.may_take(&w.key, worker));
            let mut grants = Vec::new();
            for want in mine {
                if reply.start.len() + grants.len() >= free {
                    break;
                }
                if let Some(want) = localize(want, &entry.state, worker, &mut partitions) {
                    grants.push(want);
                }
            }
            for want in grants {
                if let Some(leased) = self.grant(id, want, worker, now, turn) {
                    reply.start.push(leased);
                }
            }
        }
    }

    fn grant(
        &mut self,
        id: MigrationId,
        want: Want,
        worker: &str,
        now: Now,
        turn: &mut Turn,
    ) -> Option<v1::LeasedOrder> {
        let entry = self.entries.get_mut(&id)?;
        let body = serde_json::to_vec(&want.order).ok()?;
        entry.epoch += 1;
        let grant =
            Grant { migration: id, key: want.key, epoch: entry.epoch, worker: worker.to_owned(), order: want.order };
        let lease = v1::Lease { migration: id.to_string(), order: grant.key.to_string(), epoch: grant.epoch };
        turn.writes.push(Write::Grant(Box::new(grant.clone())));
        self.leases.grant(grant, now.mono_ms);
        Some(v1::LeasedOrder { lease: Some(lease), body: body.into(), revision: entry.state.revision })
    }

    /// A worker reports an outcome. The answer is whether the lease was still good.
    ///
    /// # Errors
    /// The report cannot be read.
    pub fn report(&mut self, request: &v1::ReportRequest, now: Now) -> Result<(bool, Turn), Error> {
        let outcome: Outcome = serde_json::from_slice(&request.outcome)
            .map_err(|e| Error::internal("a worker's report cannot be read").cause(e))?;
        let lease = request.lease.as_ref().ok_or_else(|| Error::internal("a report without a lease"))?;
        Ok(self.outcome(&request.worker, lease, outcome, now))
    }

    /// The same of an outcome that has not been written down.
    pub fn outcome(&mut self, worker: &str, lease: &v1::Lease, outcome: Outcome, now: Now) -> (bool, Turn) {
        let mut turn = Turn::default();
        self.sweep_into(now, &mut turn);
        let Some((id, key)) = parse_lease(lease) else { return (false, turn) };
        match self.leases.standing(id, &key, lease.epoch, worker, now.mono_ms) {
            Standing::Void => return (false, turn),
            Standing::Ended => return (true, turn),
            Standing::Valid => {}
        }
        let Some(held) = self.leases.get(id, &key) else { return (false, turn) };
        let order = held.grant.order.clone();
        let Some(entry) = self.entries.get_mut(&id) else { return (false, turn) };
        let ends = outcome.ends();
        let report = Report { key: &key, order: &order, worker, outcome, now_ms: now.wall_ms };
        let decided = entry.state.on_outcome(report);
        let accepted = decided.is_ok();
        if ends {
            self.leases.end(id, &key, accepted);
            turn.writes.push(Write::Release { id, key: key.clone() });
            if let (OrderKey::Load { table, chunk, .. } | OrderKey::Copy { table, chunk, .. }, Some(e)) =
                (&key, self.entries.get_mut(&id))
            {
                e.live.copies.remove(&(*table, *chunk));
                e.live.loads.remove(&(*table, *chunk));
            }
        }
        self.commit(id, decided.unwrap_or_default(), now, &mut turn);
        if ends {
            let lost = self.entries.get(&id).map(|e| e.state.on_lost(&key, worker)).unwrap_or_default();
            self.commit(id, lost, now, &mut turn);
        }
        (accepted, turn)
    }

    /// Leases whose term is over are taken back; snapshots that are too old are given up. Called now and then.
    pub fn sweep(&mut self, now: Now) -> Turn {
        let mut turn = Turn::default();
        self.sweep_into(now, &mut turn);
        turn
    }

    fn sweep_into(&mut self, now: Now, turn: &mut Turn) {
        self.look_at_clocks(now, turn);
        self.leases.forget_silent(now.mono_ms);
        for (id, key) in self.leases.expired(now.mono_ms) {
            self.lose(id, &key, now, turn);
        }
        let due: Vec<_> = self.entries.iter().map(|(id, e)| (*id, e.due(now))).filter(|(_, e)| !e.is_empty()).collect();
        for (id, events) in due {
            self.commit(id, events, now, turn);
        }
    }

    /// Pauses and windows outlive restarts, so they are times of the wall clock. When that is set they move along: an hour more must not use
    /// a window up, an hour less must not make a pause of it.
    fn look_at_clocks(&mut self, now: Now, turn: &mut Turn) {
        let seen = std::mem::replace(&mut self.seen, now);
        let passed = |now: u64, seen: u64| now as i64 - seen as i64;
        let by_ms = passed(now.wall_ms, seen.wall_ms) - passed(now.mono_ms, seen.mono_ms);
        if by_ms.abs() < CLOCKS_APART_MS {
            return;
        }
        let waits = |e: &Entry| !e.state.failures.is_empty() || e.state.snapshot.is_some();
        let concerned: Vec<_> = self.entries.iter().filter(|(_, e)| waits(e)).map(|(id, _)| *id).collect();
        for id in concerned {
            self.commit(id, vec![Event::ClockSet { by_ms }], now, turn);
        }
    }

    /// A lease is taken back, with what hung on it.
    fn lose(&mut self, id: MigrationId, key: &OrderKey, now: Now, turn: &mut Turn) {
        let Some(grant) = self.leases.end(id, key, false) else { return };
        turn.writes.push(Write::Release { id, key: key.clone() });
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let OrderKey::Load { table, chunk, .. } | OrderKey::Copy { table, chunk, .. } = key {
            entry.live.copies.remove(&(*table, *chunk));
            entry.live.loads.remove(&(*table, *chunk));
        }
        let events = entry.state.on_lost(key, &grant.worker);
        self.commit(id, events, now, turn);
    }

    /// Folds events in, then whatever follows from them, and takes back orders that mean nothing any more.
    fn commit(&mut self, id: MigrationId, events: Vec<Event>, now: Now, turn: &mut Turn) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        // A state of many tables is long, and most of it is what the first events have brought: it is kept when the events to be read instead would be
        // about as long.
        let keep_every = self.tuning.keep_state_every.max(KEPT_AS_EVENTS * entry.state.tables.len() as u64).max(1);
        let mut add = |entry: &mut Entry, event: Event| {
            entry.state.apply(&event);
            if let Event::Failure { key, .. } = &event {
                entry.live.note_failure(key);
            }
            let seq = entry.state.events;
            turn.writes.push(Write::Event { id, seq, at_ms: now.wall_ms, event: Box::new(event) });
            if seq >= entry.kept + keep_every {
                entry.kept = seq;
                turn.writes.push(Write::State { id, state: Box::new(entry.state.clone()) });
            }
        };
        let mut let_go = Vec::new();
        for event in events {
            if let Event::HolderGone { number, worker } = &event {
                let_go.push(OrderKey::Hold { number: *number, worker: worker.clone() });
            }
            add(entry, event);
        }
        while let Some(event) = entry.state.follow_up() {
            add(entry, event);
        }
        let state = &entry.state;
        let void: Vec<OrderKey> = self
            .leases
            .of_migration(id)
            .map(|h| &h.grant.key)
            .filter(|key| !state.still_wants(key) || let_go.contains(key))
            .cloned()
            .collect();
        let deleted = state.phase == Phase::Deleted;
        for key in void {
            self.leases.end(id, &key, false);
            turn.writes.push(Write::Release { id, key });
        }
        if deleted {
            self.entries.remove(&id);
            turn.writes.push(Write::Remove { id });
        }
    }

    fn note(&mut self, worker: &str, progress: Progress, now: Now, turn: &mut Turn) {
        let (id, key) = match &progress {
            Progress::Copy { migration, .. } | Progress::Load { migration, .. } => (*migration, None),
            Progress::Stream { migration, .. } => (*migration, Some(OrderKey::Stream)),
            Progress::Apply { migration, .. } => (*migration, Some(OrderKey::Apply)),
        };
        let mut epoch = 0;
        if let Some(key) = &key {
            // Only the holder knows.
            match self.leases.get(id, key) {
                Some(held) if held.grant.worker == worker => epoch = held.grant.epoch,
                _ => return,
            }
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let mut events = Vec::new();
        match progress {
            Progress::Copy { table, chunk, rows, bytes, .. } => {
                entry.live.copies.insert((table, chunk), (rows, bytes));
            }
            Progress::Load { table, chunk, rows, bytes, .. } => {
                let of = entry.state.tables.get(table as usize);
                if of.is_some_and(|t| t.copied.contains_key(&chunk)) {
                    entry.live.loads.insert((table, chunk), (rows, bytes));
                }
            }
            Progress::Stream { published, reaching, changes, bytes, commit_micros, log_bytes, .. } => {
                if entry.live.went_beyond(&OrderKey::Stream, &published, &entry.state) {
                    events.extend(entry.state.on_progress(&OrderKey::Stream));
                }
                let at_ms = now.mono_ms;
                let news = StreamNews { published, reaching, changes, bytes, commit_micros, log_bytes, at_ms };
                entry.live.stream = Some(news);
            }
            Progress::Apply {
                applied, rows, transactions, commit_micros, consistent, from, changed, replaced, ..
            } => {
                if !replaced.is_empty() {
                    entry.live.replaced = replaced;
                }
                if entry.live.went_beyond(&OrderKey::Apply, &applied, &entry.state) {
                    events.extend(entry.state.on_progress(&OrderKey::Apply));
                }
                if consistent && !entry.state.consistent {
                    events.push(Event::Consistent);
                }
                let news = Applied { applied: &applied, from: from.as_ref(), changed: &changed };
                events.extend(entry.state.on_applied(&news));
                if let Some(last) = entry.live.apply.as_ref().filter(|l| l.epoch != epoch) {
                    entry.live.apply_rows_before += last.rows;
                }
                entry.live.apply = Some(ApplyNews { applied, rows, transactions, commit_micros, consistent, epoch });
            }
        }
        if !events.is_empty() {
            self.commit(id, events, now, turn);
        }
    }

    /// What workers need to know of a migration.
    ///
    /// # Errors
    /// There is no such migration.
    pub fn describe(&self, id: &str) -> Result<Description, Error> {
        let entry = id.parse().ok().and_then(|id: MigrationId| Some((id, self.entries.get(&id)?)));
        let (id, entry) = entry.ok_or_else(|| unknown(id))?;
        let s = &entry.state;
        Ok(Description {
            id,
            revision: s.revision,
            migration: entry.migration.clone(),
            catalog: s.catalog.clone(),
            plans: s.plans.clone(),
            schema_changes: s.schema_changes.clone(),
            objects: s.objects.clone(),
            bulk_partitions: s.settings.bulk_partitions,
            adopted: s.settings.adopt,
        })
    }

    // ---- looking things up ----

    /// The migration of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<MigrationId, Error> {
        let found = self.entries.iter().find(|(_, e)| e.state.name == name);
        found.map(|(id, _)| *id).ok_or_else(|| unknown(name))
    }

    /// A migration by id.
    ///
    /// # Errors
    /// There is none.
    pub fn entry(&self, id: MigrationId) -> Result<&Entry, Error> {
        self.entries.get(&id).ok_or_else(|| unknown(&id.to_string()))
    }

    pub fn entries(&self) -> impl Iterator<Item = (&MigrationId, &Entry)> {
        self.entries.iter()
    }

    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub fn tuning(&self) -> Tuning {
        self.tuning
    }
}

/// By so much both clocks may come apart between two calls before the wall clock counts as set.
const CLOCKS_APART_MS: i64 = 2_000;

/// So many events are about as long as what is kept of a table: columns, indexes, plan.
const KEPT_AS_EVENTS: u64 = 8;

/// A cutover goes on for so long without being asked for.
const CUTOVER_ASKED_MS: u64 = 30_000;

impl Entry {
    /// What is due by the clocks.
    fn due(&self, now: Now) -> Vec<Event> {
        let mut events = self.state.on_tick(now.wall_ms);
        if now.mono_ms.saturating_sub(self.live.cutover_asked_ms) >= CUTOVER_ASKED_MS {
            events.extend(self.state.call_off("who asked for it is gone"));
        }
        events
    }
}

impl Live {
    fn note_failure(&mut self, key: &OrderKey) {
        let at = match key {
            OrderKey::Stream => self.stream.as_ref().map(|s| s.published.clone()),
            OrderKey::Apply => self.apply.as_ref().map(|a| a.applied.clone()),
            _ => None,
        };
        if let Some(at) = at {
            self.failed_at.insert(key.clone(), at);
        }
    }

    /// Whether a long order that failed has come further than it was then. Where that was is not known after a restart: it
    /// is then the first position heard of.
    fn went_beyond(&mut self, key: &OrderKey, position: &Position, state: &State) -> bool {
        if !state.failures.contains_key(key) {
            return false;
        }
        match self.failed_at.get(key) {
            Some(at) => position > at,
            None => {
                self.failed_at.insert(key.clone(), position.clone());
                false
            }
        }
    }
}

/// Gives a copy its partition, and orders that read a snapshot the worker's own way into it.
fn localize(mut want: Want, state: &State, worker: &str, used: &mut HashSet<u32>) -> Option<Want> {
    match &mut want.order {
        Order::Copy { partition, snapshot, .. } => {
            // A partition without chunks that wait, if there is one: a reader fetches ahead, and what it finds behind its chunk is
            // fetched for nothing.
            let waiting: HashSet<u32> = state.waiting_partitions().collect();
            let free = || (0..state.settings.bulk_partitions).filter(|p| !used.contains(p));
            let free = free().find(|p| !waiting.contains(p)).or_else(|| free().next())?;
            used.insert(free);
            *partition = free;
            *snapshot = state.snapshot_for(worker)?.clone();
        }
        Order::Plan { snapshot, .. } | Order::Fetch { snapshot, .. } => *snapshot = state.snapshot_for(worker)?.clone(),
        _ => {}
    }
    Some(want)
}

fn partition(order: &Order) -> Option<u32> {
    match order {
        Order::Copy { partition, .. } => Some(*partition),
        _ => None,
    }
}

fn parse_lease(lease: &v1::Lease) -> Option<(MigrationId, OrderKey)> {
    Some((lease.migration.parse().ok()?, lease.order.parse().ok()?))
}

fn unknown(name: &str) -> Error {
    let text = format!("there is no migration {name:?}");
    Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
        .remedy("`drover migration list` names those there are")
}
