//! The desk: migrations, leases and workers together, still without I/O or clock. Every call takes the time and gives, beside
//! its answer, a [`Turn`] of changes; the caller makes the turn durable before it passes the answer on. So a worker never acts on
//! something that a crash could undo, and after a crash the store tells the same story that the workers know.

use crate::cutover::Applied;
use crate::decide::Report;
use crate::event::{Event, Side};
use crate::key::OrderKey;
use crate::lease::{Grant, Leases, Standing};
use crate::machine::{Phase, State};
use crate::settings::Settings;
use crate::turn::{Stored, Turn, Write};
use crate::wants::{Budget, View, Want};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::{Error, Fault, MigrationId, Position, Retry};
use drover_proto::order::{Description, Order, Outcome, Progress, Rates, Role, Share};
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
    /// When the cutover under way was asked for last, by the clock that never goes back.
    cutover_asked_ms: u64,
    /// How far a long order had come when it failed.
    failed_at: HashMap<OrderKey, Position>,
}

/// Latest news of the stream.
#[derive(Debug, Clone)]
pub struct StreamNews {
    pub published: Position,
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
}

/// See the module.
pub struct Desk {
    tuning: Tuning,
    entries: BTreeMap<MigrationId, Entry>,
    leases: Leases,
    turns: usize,
}

impl Desk {
    /// From what the store has. `alone`: the workers live and die with this process, so that all stored leases are void.
    ///
    /// # Errors
    /// A migration without a beginning: the store is damaged.
    pub fn restore(tuning: Tuning, stored: Vec<Stored>, alone: bool, now: Now) -> Result<(Desk, Turn), Error> {
        let mut desk = Desk { tuning, entries: BTreeMap::new(), leases: Leases::new(tuning.lease_ms), turns: 0 };
        let mut turn = Turn::default();
        for s in stored {
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
            desk.entries.insert(s.id, Entry { migration: s.migration, state, live, epoch: s.epoch });
            for grant in s.grants {
                desk.leases.restore(grant, now.mono_ms);
            }
            // What a crash left undone follows by itself.
            desk.commit(s.id, Vec::new(), now, &mut turn);
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

    /// What a worker may do of the limits of the migrations that it works on: of those of the copy as much as it has of the orders that
    /// read for it.
    fn shares(&self, worker: &str) -> Vec<Share> {
        let mut shares = Vec::new();
        for (id, entry) in &self.entries {
            let limits = &entry.migration.limits;
            let (full, incremental) = (&limits.full, &limits.incremental);
            let megabytes = |n: u64| n as f64 * 1e6;
            let full = Rates {
                queries: full.queries_per_second as f64,
                rows: full.rows_per_second as f64,
                bytes: megabytes(full.megabytes_per_second),
            };
            let incremental = Rates {
                queries: 0.0,
                rows: incremental.rows_per_second as f64,
                bytes: megabytes(incremental.megabytes_per_second),
            };
            if full == Rates::default() && incremental == Rates::default() {
                continue;
            }
            let reads =
                |key: &OrderKey| matches!(key, OrderKey::Plan { .. } | OrderKey::Copy { .. } | OrderKey::Fetch { .. });
            let (mut mine, mut all, mut works) = (0u32, 0u32, false);
            for held in self.leases.of_migration(*id) {
                let is_mine = held.grant.worker == worker;
                works |= is_mine;
                if reads(&held.grant.key) {
                    all += 1;
                    mine += u32::from(is_mine);
                }
            }
            if !works {
                continue;
            }
            // Who reads nothing now, and is given something with a later answer, hears of its share with that.
            let part = if mine == 0 { 1.0 } else { f64::from(mine) / f64::from(all) };
            let full = Rates { queries: full.queries * part, rows: full.rows * part, bytes: full.bytes * part };
            shares.push(Share { migration: *id, full, incremental });
        }
        shares
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
                .filter(|w| w.role() == role && w.not_before_ms <= now.wall_ms)
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
        let mut turn = Turn::default();
        let outcome: Outcome = serde_json::from_slice(&request.outcome)
            .map_err(|e| Error::internal("a worker's report cannot be read").cause(e))?;
        self.sweep_into(now, &mut turn);
        let lease = request.lease.as_ref().ok_or_else(|| Error::internal("a report without a lease"))?;
        let Some((id, key)) = parse_lease(lease) else { return Ok((false, turn)) };
        match self.leases.standing(id, &key, lease.epoch, &request.worker, now.mono_ms) {
            Standing::Void => return Ok((false, turn)),
            Standing::Ended => return Ok((true, turn)),
            Standing::Valid => {}
        }
        let Some(held) = self.leases.get(id, &key) else { return Ok((false, turn)) };
        let order = held.grant.order.clone();
        let Some(entry) = self.entries.get_mut(&id) else { return Ok((false, turn)) };
        let ends = outcome.ends();
        let report = Report { key: &key, order: &order, worker: &request.worker, outcome, now_ms: now.wall_ms };
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
            let lost = self.entries.get(&id).map(|e| e.state.on_lost(&key, &request.worker)).unwrap_or_default();
            self.commit(id, lost, now, &mut turn);
        }
        Ok((accepted, turn))
    }

    /// Leases whose term is over are taken back; snapshots that are too old are given up. Called now and then.
    pub fn sweep(&mut self, now: Now) -> Turn {
        let mut turn = Turn::default();
        self.sweep_into(now, &mut turn);
        turn
    }

    fn sweep_into(&mut self, now: Now, turn: &mut Turn) {
        self.leases.forget_silent(now.mono_ms);
        for (id, key) in self.leases.expired(now.mono_ms) {
            self.lose(id, &key, now, turn);
        }
        let due: Vec<_> = self.entries.iter().map(|(id, e)| (*id, e.due(now))).filter(|(_, e)| !e.is_empty()).collect();
        for (id, events) in due {
            self.commit(id, events, now, turn);
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
        let keep_every = self.tuning.keep_state_every.max(1);
        let mut add = |entry: &mut Entry, event: Event| {
            entry.state.apply(&event);
            if let Event::Failure { key, .. } = &event {
                entry.live.note_failure(key);
            }
            let seq = entry.state.events;
            turn.writes.push(Write::Event { id, seq, at_ms: now.wall_ms, event: Box::new(event) });
            if seq.is_multiple_of(keep_every) {
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
            Progress::Stream { published, changes, bytes, commit_micros, log_bytes, .. } => {
                if entry.live.went_beyond(&OrderKey::Stream, &published, &entry.state) {
                    events.extend(entry.state.on_progress(&OrderKey::Stream));
                }
                let at_ms = now.mono_ms;
                entry.live.stream = Some(StreamNews { published, changes, bytes, commit_micros, log_bytes, at_ms });
            }
            Progress::Apply { applied, rows, transactions, commit_micros, consistent, from, changed, .. } => {
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

    // ---- operators ----

    /// Stores a migration; prechecks and starts it unless it is a draft.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create(
        &mut self,
        id: MigrationId,
        migration: Migration,
        settings: Settings,
        draft: bool,
        now: Now,
    ) -> Result<Turn, Error> {
        let name = migration.name.clone();
        if settings.adopt && !(settings.full && settings.incremental) {
            let text = format!("{name:?} cannot be adopted: that needs both the full and the incremental stage");
            return Err(Error::new(codes::STATE_LOST, Fault::User, Retry::Never, text)
                .remedy("`drover cleanup`, empty the destination, and begin anew"));
        }
        if self.find(&name).is_ok() {
            let text = format!("there is a migration {name:?} already");
            return Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .remedy("delete it first, or choose another name"));
        }
        let mut turn = Turn::default();
        let stored = Box::new(migration.clone());
        turn.writes.push(Write::Migration { id, name: name.clone(), migration: stored });
        let state = State::new(&name, settings.clone());
        // Records in the log carry epochs: ours must be above all that the lost state has given out, one a millisecond at most.
        let epoch = if settings.adopt { now.wall_ms } else { 0 };
        self.entries.insert(id, Entry { migration, state, live: Live::default(), epoch });
        let mut events = vec![Event::Created { name, settings }];
        if !draft {
            events.push(Event::PrecheckStarted { start: true });
        }
        self.commit(id, events, now, &mut turn);
        Ok(turn)
    }

    /// Pause, resume, stop or delete. `force` deletes without cleaning: for a side that does not exist any more.
    ///
    /// # Errors
    /// See [`State::on_action`]; or there is no such migration.
    pub fn act(&mut self, name: &str, action: &str, force: bool, now: Now) -> Result<Turn, Error> {
        let id = self.find(name)?;
        let state = &self.entry(id)?.state;
        let mut events = match (action, state.phase) {
            ("delete", Phase::Completed) if force => vec![Event::DeleteAsked],
            _ => state.on_action(action)?,
        };
        if force && action == "delete" {
            let what = vec!["nothing: deleted by force".to_owned()];
            events.push(Event::Cleaned { side: Side::Source, what: what.clone() });
            events.push(Event::Cleaned { side: Side::Destination, what });
        }
        let mut turn = Turn::default();
        self.commit(id, events, now, &mut turn);
        Ok(turn)
    }

    /// A cutover: begins one, or renews the asking for the one under way. `{"number": n}` in the argument: only if that is the n-th, so that
    /// one that has ended is not begun again; `{"cancel": true}`: calls it off.
    ///
    /// # Errors
    /// See [`State::begin_cutover`]; or there is no such migration.
    pub fn cutover(&mut self, name: &str, argument: &serde_json::Value, now: Now) -> Result<Turn, Error> {
        let id = self.find(name)?;
        let mut turn = Turn::default();
        let entry = self.entries.get_mut(&id).ok_or_else(|| unknown(name))?;
        let known = entry.state.cutover.as_ref().map(|c| u64::from(c.number));
        let asked = argument.get("number").and_then(serde_json::Value::as_u64);
        if asked.is_some() && asked != known {
            return Ok(turn);
        }
        entry.live.cutover_asked_ms = now.mono_ms;
        let events = if argument.get("cancel").and_then(serde_json::Value::as_bool).unwrap_or(false) {
            entry.state.call_off("by the operator")
        } else if asked.is_some() {
            Vec::new()
        } else {
            entry.state.begin_cutover()?
        };
        self.commit(id, events, now, &mut turn);
        Ok(turn)
    }

    /// Takes a changed migration file up: endpoints, retry windows and limits may change between two runs, what is migrated and how may not
    /// (requirements R234). No change is a success.
    ///
    /// # Errors
    /// Something else changed; the message names it. Or there is no such migration.
    pub fn update(&mut self, name: &str, new: Migration, now: Now) -> Result<Turn, Error> {
        let id = self.find(name)?;
        let entry = self.entries.get_mut(&id).ok_or_else(|| unknown(name))?;
        let old = &entry.migration;
        let mut turn = Turn::default();
        if *old == new {
            return Ok(turn);
        }
        let fixed = [
            ("stages", old.stages == new.stages),
            ("on_conflict", old.on_conflict == new.on_conflict),
            ("names", old.names == new.names),
            ("[[objects]]", old.objects == new.objects),
            (
                "the kinds of the endpoints",
                old.source.kind == new.source.kind && old.destination.kind == new.destination.kind,
            ),
            ("where the log lies", old.log.kafka.is_some() == new.log.kafka.is_some()),
        ];
        if let Some((what, _)) = fixed.iter().find(|(_, same)| !same) {
            let text = format!("{what} may not change once the migration {name:?} has begun");
            return Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .remedy("put it back, or begin anew: `drover cleanup`, then run again"));
        }
        let limits = (old.limits != new.limits).then(|| new.limits.clone());
        entry.migration = new.clone();
        turn.writes.push(Write::Migration { id, name: name.to_owned(), migration: Box::new(new) });
        if let Some(limits) = limits {
            self.commit(id, vec![changed(&limits)], now, &mut turn);
        }
        Ok(turn)
    }

    /// Changes limits while the migration runs. `change` has the form of the file's `[limits]`; what it leaves out stays.
    ///
    /// # Errors
    /// The values are not understood, or there is no such migration.
    pub fn limits(&mut self, name: &str, change: &serde_json::Value, now: Now) -> Result<Turn, Error> {
        let id = self.find(name)?;
        let bad = |why: String| {
            Error::new(
                codes::CONFIGURATION,
                Fault::User,
                Retry::Never,
                format!("these limits are not understood: {why}"),
            )
            .remedy("give them as in [limits] of the migration file")
        };
        let entry = self.entries.get_mut(&id).ok_or_else(|| unknown(name))?;
        let mut limits = entry.migration.limits.clone();
        for (key, value) in flatten(change) {
            limits.set(&key, &value).map_err(bad)?;
        }
        entry.migration.limits = limits;
        let event = changed(&entry.migration.limits);
        let mut turn = Turn::default();
        let stored = Box::new(entry.migration.clone());
        turn.writes.push(Write::Migration { id, name: name.to_owned(), migration: stored });
        self.commit(id, vec![event], now, &mut turn);
        Ok(turn)
    }

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

fn changed(limits: &drover_model::migration::Limits) -> Event {
    let snapshot_ms = u64::try_from(limits.snapshot.as_millis()).unwrap_or(u64::MAX);
    Event::LimitsChanged { limits: serde_json::to_value(limits).unwrap_or_default(), snapshot_ms }
}

/// `{"full": {"rows_per_second": 5}}` and `{"full.rows_per_second": "5"}` alike, as keys and texts.
fn flatten(change: &serde_json::Value) -> Vec<(String, String)> {
    use serde_json::Value;
    let mut out = Vec::new();
    for (key, value) in change.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) => out.extend(flatten(value).into_iter().map(|(k, v)| (format!("{key}.{k}"), v))),
            Value::String(text) => out.push((key.clone(), text.clone())),
            other => out.push((key.clone(), other.to_string())),
        }
    }
    out
}
