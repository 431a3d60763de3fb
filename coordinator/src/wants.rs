//! Which orders should run, from the state alone: [`State::wants`] lists what can be started now, the most urgent first, and
//! [`State::still_wants`] tells whether an order under way still means something. Pure.

use crate::decide::BACKOFF_MS;
use crate::key::OrderKey;
use crate::machine::{Cleaning, Holder, Phase, State};
use crate::table::TableStage;
use drover_model::plan::SnapshotRef;
use drover_proto::order::{Extent, Order, Role, Step};

/// What besides the state decides: who is there, and what runs already.
pub struct View<'a> {
    /// Live extractors.
    pub extractors: &'a [String],
    /// Orders under way.
    pub running: &'a dyn Fn(&OrderKey) -> bool,
    /// Copies under way.
    pub copies: usize,
    pub budget: Budget,
}

/// How far copying may run ahead of loading.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Chunks copied, or being copied, but not loaded.
    pub chunks: usize,
    /// Bytes copied but not loaded.
    pub bytes: u64,
    /// Size of a chunk that plans aim at.
    pub target_bytes: u64,
}

/// An order that can be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    pub key: OrderKey,
    pub order: Order,
    /// Not before this time (milliseconds since the Unix epoch): it failed shortly ago.
    pub not_before_ms: u64,
}

impl Want {
    pub fn role(&self) -> Role {
        self.key.role()
    }

    /// Whether it may be started now. A time beyond any pause is one of a clock that was set back while nobody looked.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.not_before_ms <= now_ms || self.not_before_ms > now_ms + BACKOFF_MS.1
    }
}

/// Chunks that may wait unread before further tables are planned.
const PLAN_AHEAD: usize = 64;
/// Tables of one chunk are planned many at a time.
const PLANS_AT_ONCE: usize = 16;

impl State {
    /// Orders that can be started now, the most urgent first. `partition` of copies is given when the order is leased.
    pub fn wants(&self, view: &View<'_>) -> Vec<Want> {
        let mut out = Out { state: self, view, list: Vec::new() };
        match self.phase {
            Phase::Prechecking => self.wants_checks(&mut out),
            Phase::Migrating => {
                self.wants_stages(&mut out);
                if self.settings.full {
                    self.wants_copy(&mut out);
                }
                self.wants_end(&mut out);
            }
            Phase::Completed => {
                out.push(OrderKey::CleanSource, || Order::CleanSource);
                out.push(OrderKey::CleanDestination, || Order::CleanDestination);
            }
            _ => {}
        }
        out.list
    }

    fn wants_checks(&self, out: &mut Out<'_>) {
        out.push(OrderKey::Inspect, || Order::Inspect);
        out.push(OrderKey::Survey, || Order::Survey);
        out.push(OrderKey::CheckSource, || Order::CheckSource);
    }

    fn wants_stages(&self, out: &mut Out<'_>) {
        out.push(OrderKey::Forget, || Order::Forget);
        out.push(OrderKey::SchemaBase, || Order::Schema { step: Step::Base });
        out.push(OrderKey::Stream, || {
            let start = self.stream_start.clone();
            Order::Stream { resume: start.is_some(), start, last: self.opening.clone() }
        });
        let number = self.next_snapshot;
        out.push(OrderKey::Snapshot { number }, || Order::Snapshot { number });
        if let Some(snap) = &self.snapshot
            && let Some(any) = snap.holders.values().next()
        {
            // The stream's holder joins as well: its hold should not hang on the stream's connection.
            for worker in out.view.extractors.iter().filter(|w| snap.may_read(w)) {
                let key = OrderKey::Hold { number: snap.number, worker: worker.clone() };
                out.push(key, || Order::Hold { number: snap.number, snapshot: any.snapshot.clone() });
            }
        }
    }

    fn wants_copy(&self, out: &mut Out<'_>) {
        let budget = out.view.budget;
        // One look at all tables, of which there may be very many; at any moment only a few of them are in chunks.
        let (mut chunked, mut unplanned) = (Vec::new(), Vec::new());
        for &table in &self.by_size {
            let Some(t) = self.tables.get(table as usize) else { continue };
            match t.stage {
                TableStage::Loaded => {
                    out.push(OrderKey::SchemaTable { table }, || Order::Schema { step: Step::Table { id: table } })
                }
                TableStage::Restarting => {
                    let generation = t.generation;
                    out.push(OrderKey::Restart { table, generation }, || Order::Restart { table, generation });
                }
                TableStage::Chunks => chunked.push((table, t)),
                TableStage::Unplanned if unplanned.len() < PLANS_AT_ONCE => unplanned.push((table, t)),
                TableStage::Unplanned | TableStage::Done => {}
            }
        }
        let copied: Vec<Extent> = chunked.iter().flat_map(|(_, t)| t.copied.values().copied()).collect();
        for &(table, t) in &chunked {
            for (&chunk, &extent) in &t.copied {
                let generation = t.generation;
                out.push(OrderKey::Load { table, generation, chunk }, || Order::Load {
                    table,
                    generation,
                    chunk,
                    extent,
                    trim: spent(&copied, &extent),
                });
            }
        }
        let Some(snap) = &self.snapshot else { return };
        let Some(any) = snap.holders.values().next() else { return };
        let waiting: usize = chunked.iter().map(|(_, t)| t.pending.len()).sum();
        if waiting >= PLAN_AHEAD {
            unplanned.clear();
        }
        for (table, t) in unplanned {
            let Some(plan) = self.plans.get(table as usize) else { continue };
            let key = OrderKey::Plan { table, generation: t.generation, snapshot: snap.number };
            out.push(key, || Order::Plan {
                table,
                snapshot: any.snapshot.clone(),
                target_bytes: budget.target_bytes,
                keyed: snap.number > 0 && !plan.key.is_empty(),
            });
        }
        let (ahead, bytes) = (copied.len(), copied.iter().map(|e| e.bytes).sum::<u64>());
        let mut room = budget.chunks.saturating_sub(ahead + out.view.copies);
        if bytes >= budget.bytes {
            return;
        }
        for &(table, t) in &chunked {
            for &chunk in &t.pending {
                if room == 0 {
                    return;
                }
                let Some(planned) = t.chunks.get(chunk as usize) else { continue };
                let generation = t.generation;
                let before = out.list.len();
                out.push(OrderKey::Copy { table, generation, chunk, snapshot: snap.number }, || Order::Copy {
                    table,
                    generation,
                    chunk,
                    bounds: planned.bounds.clone(),
                    snapshot: any.snapshot.clone(),
                    partition: 0,
                });
                room -= out.list.len() - before;
            }
        }
    }

    fn wants_end(&self, out: &mut Out<'_>) {
        if !self.settings.full {
            for table in 0..self.tables.len() as u32 {
                out.push(OrderKey::SchemaTable { table }, || Order::Schema { step: Step::Table { id: table } });
            }
        }
        out.push(OrderKey::SchemaFinal, || Order::Schema { step: Step::Final });
        if let Some(start) = &self.stream_start {
            out.push(OrderKey::Apply, || Order::Apply { start: start.clone(), windows: self.windows(start) });
        }
        self.wants_fetches(out);
        out.push(OrderKey::ReadSequences, || Order::ReadSequences);
        out.push(OrderKey::SetSequences, || Order::SetSequences { values: self.sequences.clone().unwrap_or_default() });
        for key in self.cutover_keys() {
            let order = match &key {
                OrderKey::CutoverRead { .. } => Order::ReadSequences,
                OrderKey::CutoverSet { .. } => {
                    let values = self.cutover.as_ref().and_then(|c| c.sequences.clone());
                    Order::SetSequences { values: values.unwrap_or_default() }
                }
                OrderKey::CutoverSchema { .. } => Order::Schema { step: Step::Cutover },
                OrderKey::CutoverSum { side, table, .. } => Order::Digest { table: *table, side: *side },
                _ => Order::Mark,
            };
            out.push(key, || order);
        }
    }

    /// Whether an order, running or not, belongs to the work of this state. An order that does not is taken back.
    pub fn still_wants(&self, key: &OrderKey) -> bool {
        let s = &self.settings;
        let table = |id: &u32| self.tables.get(*id as usize);
        let ready = !s.schema || self.base_done;
        match (self.phase, key) {
            (Phase::Prechecking, OrderKey::Inspect) => self.catalog.is_none(),
            (Phase::Prechecking, OrderKey::Survey) => self.catalog.is_some() && !self.surveyed,
            (Phase::Prechecking, OrderKey::CheckSource) => self.surveyed && !self.checked,
            (Phase::Completed, OrderKey::CleanSource) => self.clean_source == Cleaning::Wanted,
            (Phase::Completed, OrderKey::CleanDestination) => self.clean_destination == Cleaning::Wanted,
            (Phase::Migrating, key) if self.begins_anew() => *key == OrderKey::Forget,
            (Phase::Migrating, key) => match key {
                OrderKey::SchemaBase => s.schema && !self.base_done,
                OrderKey::Stream => s.incremental && ready,
                OrderKey::Snapshot { number } => match &self.snapshot {
                    None => {
                        *number == self.next_snapshot
                            && ready
                            && (!s.incremental || self.stream_start.is_some())
                            && (self.reads_remain() || self.owes_without_snapshot())
                    }
                    Some(snap) => snap.number == *number && snap.holders.values().any(|h| h.key == *key),
                },
                OrderKey::Hold { number, worker } => self.snapshot.as_ref().is_some_and(|snap| {
                    let joined = |h: &Holder| h.key == *key || h.key == OrderKey::Stream;
                    snap.number == *number && snap.holders.get(worker).is_none_or(joined)
                }),
                OrderKey::Plan { table: id, generation, snapshot } => {
                    self.snapshot.as_ref().is_some_and(|s| s.number == *snapshot)
                        && table(id).is_some_and(|t| t.stage == TableStage::Unplanned && t.generation == *generation)
                }
                OrderKey::Copy { table: id, generation, chunk, snapshot } => {
                    self.snapshot.as_ref().is_some_and(|s| s.number == *snapshot)
                        && table(id).is_some_and(|t| {
                            t.stage == TableStage::Chunks && t.generation == *generation && t.pending.contains(chunk)
                        })
                }
                OrderKey::Load { table: id, generation, chunk } => table(id).is_some_and(|t| {
                    t.stage == TableStage::Chunks && t.generation == *generation && t.copied.contains_key(chunk)
                }),
                OrderKey::Restart { table: id, generation } => {
                    ready && table(id).is_some_and(|t| t.stage == TableStage::Restarting && t.generation == *generation)
                }
                OrderKey::SchemaTable { table: id } => {
                    s.schema && ready && table(id).is_some_and(|t| t.stage == TableStage::Loaded)
                }
                OrderKey::SchemaFinal => {
                    s.schema
                        && ready
                        && !self.final_done
                        && self.tables_done()
                        && (self.final_before_apply() || self.consistent)
                }
                OrderKey::Apply => self.may_apply(),
                key @ OrderKey::Fetch { .. } => self.still_fetches(key),
                OrderKey::ReadSequences => {
                    s.full
                        && !s.incremental
                        && self.tables_done()
                        && (!s.schema || self.final_done)
                        && self.sequences.is_none()
                }
                OrderKey::SetSequences => s.full && self.sequences.is_some() && !self.sequences_set,
                key => self.cutover_wants(key),
            },
            _ => false,
        }
    }

    /// Whether this worker may take an order: holds name theirs, and a snapshot that cannot be shared is read by its maker only.
    pub fn may_take(&self, key: &OrderKey, worker: &str) -> bool {
        match key {
            OrderKey::Hold { worker: only, .. } => only == worker,
            OrderKey::Plan { .. } | OrderKey::Copy { .. } | OrderKey::Fetch { .. } => {
                self.snapshot.as_ref().is_none_or(|s| s.may_read(worker))
            }
            _ => true,
        }
    }

    /// The same snapshot, joined through the given worker's own hold where it has one.
    pub fn snapshot_for(&self, worker: &str) -> Option<&SnapshotRef> {
        let snap = self.snapshot.as_ref()?;
        snap.holders.get(worker).or_else(|| snap.holders.values().next()).map(|h| &h.snapshot)
    }

    /// Chunks and bytes copied but not loaded.
    pub fn copied_ahead(&self) -> (usize, u64) {
        let extents = self.tables.iter().flat_map(|t| t.copied.values());
        extents.fold((0, 0), |(n, bytes), e| (n + 1, bytes + e.bytes))
    }

    /// Bulk partitions with chunks that are not loaded.
    pub fn waiting_partitions(&self) -> impl Iterator<Item = u32> + '_ {
        self.tables.iter().flat_map(|t| t.copied.values()).map(|e| e.partition)
    }
}

/// The offset of a chunk's partition before which no load reads any more once this chunk is loaded. `copied`: all that are not loaded.
fn spent(copied: &[Extent], extent: &Extent) -> u64 {
    let others = copied.iter().filter(|e| e.partition == extent.partition && e.records != extent.records);
    let first = others.filter_map(|e| e.records).map(|(first, _)| first).min();
    // Whatever is copied to this partition later lies behind this chunk.
    first.or(extent.records.map(|(_, last)| last + 1)).unwrap_or(0)
}

pub(crate) struct Out<'a> {
    state: &'a State,
    view: &'a View<'a>,
    list: Vec<Want>,
}

impl Out<'_> {
    /// Adds an order if the state wants it and it does not run yet.
    pub(crate) fn push(&mut self, key: OrderKey, order: impl FnOnce() -> Order) {
        if !self.state.still_wants(&key) || (self.view.running)(&key) {
            return;
        }
        let refused = match (&key, &self.state.snapshot) {
            (OrderKey::Hold { worker, .. }, Some(snap)) => snap.refused.get(worker).copied().unwrap_or(0),
            _ => 0,
        };
        let failed = self.state.failures.get(&key).map_or(0, |f| f.not_before_ms);
        self.list.push(Want { key, order: order(), not_before_ms: failed.max(refused) });
    }
}
