//! What people and programs see of a migration: the JSON of `show` and `list`, progress for terminals, the log, metrics. All
//! of it is derived; nothing here decides.

use crate::cutover::{Change, Step as Cut};
use crate::desk::{ApplyNews, Desk, Entry, StreamNews};
use crate::event::{Event, Side};
use crate::machine::{Cleaning, Phase, State};
use crate::table::TableStage;
use drover_model::check::CheckItem;
use drover_model::schema::{Object, Phase as Made};
use drover_model::selection::TableChoice;
use drover_model::{Error, MigrationId, Position, TablePlan};
use drover_proto::order::{Role, Step};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A migration for progress bars and for waiting.
#[derive(Debug, Clone)]
pub struct SnapshotView {
    pub id: MigrationId,
    pub name: String,
    /// `draft`, `prechecking` …, as in `show`.
    pub state: &'static str,
    pub tables: Vec<TableView>,
    pub rows: u64,
    pub estimated_rows: u64,
    pub bytes: u64,
    pub estimated_bytes: u64,
    /// All tables have their rows and keys, and the schema is complete as far as it can be before changes are applied.
    pub copied: bool,
    pub published: Option<Position>,
    pub applied: Option<Position>,
    pub applied_rows: u64,
    pub lag_seconds: Option<f64>,
    pub consistent: bool,
    /// A side is still being cleaned, after stop or delete.
    pub cleaning: bool,
    pub items: Vec<CheckItem>,
    /// The error of a failed migration, or of an order that is tried again.
    pub error: Option<Error>,
    /// Tables that are not followed any more, and why.
    pub stopped: Vec<(String, String)>,
}

/// A table in progress.
#[derive(Debug, Clone, Serialize)]
pub struct TableView {
    pub source: String,
    pub destination: String,
    /// pending, copying, loaded, completed, restarting
    pub state: &'static str,
    pub rows: u64,
    pub estimated_rows: u64,
    pub bytes: u64,
    pub estimated_bytes: u64,
    pub chunks: usize,
    pub chunks_loaded: usize,
    pub generation: u32,
}

/// Everything about a migration as a struct.
pub fn snapshot_view(id: MigrationId, entry: &Entry, now_ms: u64) -> SnapshotView {
    let s = &entry.state;
    let mut loading: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for ((table, _), (rows, bytes)) in &entry.live.loads {
        let sum = loading.entry(*table).or_default();
        *sum = (sum.0 + rows, sum.1 + bytes);
    }
    let tables: Vec<TableView> = s
        .plans
        .iter()
        .enumerate()
        .map(|(i, plan)| {
            let t = s.tables.get(i);
            let more = loading.get(&(i as u32)).copied().unwrap_or_default();
            let rows = t.map_or(0, |t| t.rows) + more.0;
            let bytes = t.map_or(0, |t| t.bytes) + more.1;
            let full = t.is_some_and(|t| t.has_rows());
            TableView {
                source: plan.source.to_string(),
                destination: plan.destination.to_string(),
                state: match t.map(|t| t.stage) {
                    None | Some(TableStage::Unplanned) => "pending",
                    Some(TableStage::Chunks) => "copying",
                    Some(TableStage::Loaded) => "loaded",
                    Some(TableStage::Done) => "completed",
                    Some(TableStage::Restarting) => "restarting",
                },
                rows,
                estimated_rows: if full { rows } else { plan.rows.max(rows) },
                bytes,
                estimated_bytes: if full { bytes } else { plan.bytes.max(bytes) },
                chunks: t.map_or(0, |t| t.chunks.len()),
                chunks_loaded: t.map_or(0, |t| t.loaded.len()),
                generation: t.map_or(0, |t| t.generation),
            }
        })
        .collect();
    let sum = |f: fn(&TableView) -> u64| tables.iter().map(f).sum();
    let retrying = s.failures.values().max_by_key(|f| f.not_before_ms).map(|f| f.error.clone());
    SnapshotView {
        id,
        name: s.name.clone(),
        state: s.label(),
        rows: sum(|t| t.rows),
        estimated_rows: sum(|t| t.estimated_rows),
        bytes: sum(|t| t.bytes),
        estimated_bytes: sum(|t| t.estimated_bytes),
        copied: s.tables_done() && !s.tables.is_empty() && (!s.settings.schema || s.final_done || s.may_apply()),
        published: entry.live.stream.as_ref().map(|n| n.published.clone()),
        applied: entry.live.apply.as_ref().map(|n| n.applied.clone()),
        applied_rows: applied_rows(entry),
        lag_seconds: lag(entry, now_ms),
        consistent: s.consistent,
        cleaning: s.cleaning(),
        items: s.items.clone(),
        error: s.error.clone().or(retrying),
        stopped: s.stopped_tables().map(|(table, why)| (table, why.to_owned())).collect(),
        tables,
    }
}

fn applied_rows(entry: &Entry) -> u64 {
    entry.live.apply_rows_before + entry.live.apply.as_ref().map_or(0, |a| a.rows)
}

/// Seconds by which the destination is behind the source, by the source's clock: nothing when all that was published is
/// applied, else the distance between the commit times of what was last published and what was last applied; and in both cases
/// the time for which the stream has been silent, if that is more than its reports' usual distance.
fn lag(entry: &Entry, now_ms: u64) -> Option<f64> {
    behind(entry.live.stream.as_ref()?, entry.live.apply.as_ref()?, now_ms)
}

fn behind(stream: &StreamNews, apply: &ApplyNews, now_ms: u64) -> Option<f64> {
    let silent = now_ms.saturating_sub(stream.at_ms);
    let silent = if silent > 5_000 { silent as f64 / 1e3 } else { 0.0 };
    // A transaction that is still being published in pieces is not applied, wherever the last complete one ends.
    if apply.applied >= *stream.reaching.as_ref().unwrap_or(&stream.published) {
        return Some(silent);
    }
    // Nothing applied yet has no commit time to go by.
    if apply.commit_micros == 0 || stream.commit_micros == 0 {
        return None;
    }
    Some(silent + (stream.commit_micros - apply.commit_micros).max(0) as f64 / 1e6)
}

/// The JSON of `drover migration show`.
pub fn show(id: MigrationId, entry: &Entry, now_ms: u64) -> Value {
    let v = snapshot_view(id, entry, now_ms);
    let s = &entry.state;
    let (done, total) = schema_objects(s);
    let stage = |on: bool, begun: bool, ended: bool| match (on, begun, ended, s.phase) {
        (false, ..) => "skipped",
        (_, _, true, _) => "completed",
        (_, true, _, Phase::Failed) => "failed",
        (_, true, _, Phase::Paused) => "paused",
        (_, true, _, Phase::Completed) => "stopped",
        (_, true, _, _) => "running",
        _ => "pending",
    };
    let rows_in = !s.tables.is_empty() && s.tables.iter().all(|t| t.has_rows());
    let started = !matches!(s.phase, Phase::Draft | Phase::Prechecking | Phase::PrecheckFailed | Phase::Passed);
    let rows_in = rows_in || (started && s.plans.is_empty());
    let begun = started && (!s.settings.schema || s.base_done);
    json!({
        "name": v.name,
        "id": id.to_string(),
        "state": v.state,
        "stages": {
            "schema": {
                "state": stage(s.settings.schema, started, s.base_done && s.final_done),
                "done": done,
                "total": total,
            },
            "full": {
                "state": stage(s.settings.full, begun, rows_in),
                "rows": v.rows,
                "estimated_rows": v.estimated_rows,
                "bytes": v.bytes,
                "estimated_bytes": v.estimated_bytes,
            },
            "incremental": {
                "state": stage(s.settings.incremental, s.may_apply(), false),
                "lag_seconds": v.lag_seconds,
                "rows": v.applied_rows,
                "position": v.applied.as_ref().map(|p| p.text.clone()),
                "published": v.published.as_ref().map(|p| p.text.clone()),
                "start": s.stream_start.as_ref().map(|p| p.text.clone()),
                "consistent": v.consistent,
            },
        },
        "error": v.error,
        "items": v.items,
        "tables": v.tables,
        "renamed": renamed(s),
        "replaced": entry.live.replaced,
        "cleaning": v.cleaning,
        "cutover": cutover(s),
        "snapshot": s.snapshot.as_ref().map(|n| json!({"number": n.number, "position": n.position.text, "holders": n.holders.len()})),
    })
}

/// Tables that have another name at the source than when they were selected, as they are carried now.
fn renamed(s: &State) -> Vec<TableChoice> {
    let was = |p: &TablePlan| s.plans.get(p.id as usize).is_some_and(|planned| planned.source != p.source);
    s.present().iter().filter(|p| was(p)).map(TableChoice::of).collect()
}

/// Objects of the schema that exist by now, and all of them. Tables count as one, their keys and parts each.
fn schema_objects(s: &State) -> (usize, usize) {
    if !s.settings.schema {
        return (0, 0);
    }
    let (mut done, mut total) = (0, 0);
    let mut count = |n: usize, made: bool| {
        total += n;
        done += if made { n } else { 0 };
    };
    let at = |objects: &[Object], phase: Made| objects.iter().filter(|o| o.phase == phase).count();
    let tables_done = s.tables_done() && !s.tables.is_empty();
    count(s.plans.len() + at(&s.objects, Made::Base), s.base_done);
    count(at(&s.objects, Made::Table), tables_done);
    count(at(&s.objects, Made::Final), s.final_done);
    for (i, plan) in s.plans.iter().enumerate() {
        let Some(table) = s.catalog.as_ref().and_then(|c| c.table(&plan.source)) else { continue };
        count(at(&table.parts, Made::Base), s.base_done);
        let keyed = s.tables.get(i).is_some_and(|t| t.stage == TableStage::Done);
        count(table.keys.len() + at(&table.parts, Made::Table), keyed);
        count(at(&table.parts, Made::Final), s.final_done);
    }
    (done, total)
}

/// One line of the log for people; `None` for events that would only flood it.
pub fn log_line(state: &State, event: &Event) -> Option<(&'static str, String)> {
    let table = |id: &u32| state.table_name(*id);
    let info = |text: String| Some(("info", text));
    match event {
        Event::Created { name, .. } => info(format!("migration {name} created")),
        Event::PrecheckStarted { .. } => info("precheck started".into()),
        Event::PrecheckCancelled => info("precheck cancelled".into()),
        Event::Inspected { catalog, .. } => {
            info(format!("source inspected: {} tables, {} other objects", catalog.tables.len(), catalog.objects.len()))
        }
        Event::Surveyed { plans, .. } => info(format!("destination surveyed: {} tables selected", plans.len())),
        Event::Checked { .. } => info("source checked".into()),
        Event::CheckBroken { item } => Some(("error", format!("check of the {}: {}", item.object, item.cause))),
        Event::Prechecked { passed: true } => info("precheck passed".into()),
        Event::Prechecked { passed: false } => Some(("error", "precheck failed".into())),
        Event::Started => info("migration started".into()),
        Event::SchemaDone { step: Step::Base, what } => info(format!("schema made: {} objects", what.len())),
        Event::SchemaDone { step: Step::Table { id }, what } => {
            info(format!("{}: {} keys and indexes made", table(id), what.len()))
        }
        Event::SchemaDone { step: Step::Cutover, what } => {
            info(format!("what waited for the switch made: {} objects", what.len()))
        }
        Event::SchemaDone { step: Step::Final, what } => {
            info(format!("rest of the schema made: {} objects", what.len()))
        }
        Event::StreamOpened(o) => info(format!("change stream open from {}", o.start)),
        Event::Adopted { position } => info(format!("adopted: changes go on from {position}")),
        Event::AdoptedAnew { why } => Some(("warning", format!("adopted, but all tables begin again: {why}"))),
        Event::Forgotten { .. } => Some(("warning", "adopted: all tables are emptied and copied again".into())),
        Event::SnapshotTaken { number, snapshot, worker, .. } => {
            let until = snapshot.blur.as_ref().map(|b| {
                let tables: Vec<String> = b.tables.iter().map(&table).collect();
                format!(
                    ", or later up to {}: changes in between are applied to what has them already, of {}",
                    b.until,
                    tables.join(", ")
                )
            });
            info(format!("snapshot {number} taken at {}{} by {worker}", snapshot.position, until.unwrap_or_default()))
        }
        Event::Joined { number, worker, .. } => info(format!("{worker} joined snapshot {number}")),
        Event::HolderGone { number, worker } => Some(("warning", format!("{worker} lost snapshot {number}"))),
        Event::SnapshotGone { number, why } => Some(("warning", format!("snapshot {number} is gone: {why}"))),
        Event::SnapshotReleased { number } => info(format!("snapshot {number} released: all was read")),
        Event::Planned { table: id, chunks, .. } => info(format!("{}: {} chunks", table(id), chunks.len())),
        Event::CopyAgain { table: id, chunk } => {
            Some(("warning", format!("{}: chunk {chunk} is copied again, its blocks were lost", table(id))))
        }
        Event::TableLoaded { table: id, rows } => info(format!("{}: all {rows} rows loaded", table(id))),
        Event::TableKept { table: id } => info(format!("{}: loaded chunks stay, the others follow", table(id))),
        Event::TableReplanned { table: id } => info(format!("{}: will be read from the next snapshot", table(id))),
        Event::TableRestart { table: id, why, .. } => Some(("warning", format!("{}: begun again: {why}", table(id)))),
        Event::TableRestarted { table: id, .. } => info(format!("{}: emptied", table(id))),
        Event::Owes { owes } => info(format!(
            "{}: {} rows changed their keys while the snapshot was lost and are fetched from the source",
            table(&owes.table),
            owes.keys.rows
        )),
        Event::Widened { table: id, position } => {
            info(format!("{}: rows are fetched as of {position}, consistent from there on", table(id)))
        }
        Event::SchemaChanged { dated } => {
            let change = &dated.change;
            let what = change.statement.as_deref().unwrap_or(&change.verb);
            let what: String = what.chars().take(200).collect();
            let stopped = change.tables.iter().find_map(|t| t.stopped.as_ref());
            match (stopped, change.table()) {
                (Some(why), Some(table)) => {
                    Some(("error", format!("{table} is not followed any more from {} on: {why}", dated.position)))
                }
                _ => info(format!("schema change at {}: {what}", dated.position)),
            }
        }
        Event::SchemaChangesVoid { .. } => None,
        Event::SequencesSet => info("sequences set".into()),
        Event::Consistent => info("the destination is consistent".into()),
        Event::Failure { key, error, at_ms, not_before_ms } => {
            let pause = not_before_ms.saturating_sub(*at_ms).div_ceil(1000);
            Some(("warning", format!("{key} failed and is tried again in {pause} s: {error}")))
        }
        Event::Recovered { key } => info(format!("{key} fails no longer")),
        Event::Failed { error } => Some(("error", format!("migration failed: {error}"))),
        Event::Paused => info("paused".into()),
        Event::Resumed => info("resumed".into()),
        Event::LimitsChanged { limits, .. } => info(format!("limits changed: {limits}")),
        Event::Cutover { change } => cutover_line(state, change),
        Event::Stopped => info("stopped".into()),
        Event::Completed => info("completed".into()),
        Event::DeleteAsked => info("to be deleted".into()),
        Event::Cleaned { side, what } => info(format!("{} cleaned: {}", side_name(*side), what.join(", "))),
        Event::CleanFailed { side, error } => {
            let side = side_name(*side);
            Some(("error", format!("{side} could not be cleaned, what drover made there stays: {error}")))
        }
        Event::Warned { text } => Some(("warning", text.clone())),
        Event::ClockSet { by_ms } => Some(("warning", format!("the clock was set by {:.1} s", *by_ms as f64 / 1e3))),
        Event::HoldFailed { .. }
        | Event::Copied { .. }
        | Event::Loaded { .. }
        | Event::Fetched { .. }
        | Event::OwesVoid
        | Event::SequencesRead { .. }
        | Event::Away { .. }
        | Event::Deleted => None,
    }
}

fn cutover_line(state: &State, change: &Change) -> Option<(&'static str, String)> {
    let info = |text: String| Some(("info", format!("cutover: {text}")));
    match change {
        Change::Begun { .. } => info("begun".into()),
        Change::Marked { position } => info(format!("mark written at {position}")),
        Change::Passed { .. } => info("the mark is applied".into()),
        Change::SequencesSet { names } => info(format!("{} sequences set", names.len())),
        Change::LookAgain { tables } => {
            let names: Vec<String> = tables.iter().map(|t| state.table_name(*t)).collect();
            Some(("warning", format!("cutover: {} differ at first sight", names.join(", "))))
        }
        Change::Compared => info("both sides are compared".into()),
        Change::Again { why, .. } => Some(("warning", format!("cutover: begun again: {why}"))),
        Change::Failed { error } => Some(("error", format!("cutover failed, the migration goes on: {error}"))),
        Change::Agreed => info("nothing has changed, nothing differs".into()),
        Change::Done => info("done; the destination takes over".into()),
        Change::SequencesRead { .. } | Change::SequencesStood | Change::Summed { .. } => None,
    }
}

/// The latest cutover, as `drover cutover --json` gives it.
fn cutover(s: &State) -> Value {
    let Some(c) = &s.cutover else { return Value::Null };
    let table = |plan: &drover_model::TablePlan| {
        let rows = |side: &BTreeMap<u32, crate::cutover::Summed>| side.get(&plan.id).map(|d| d.rows);
        json!({
            "source": plan.source.to_string(),
            "destination": plan.destination.to_string(),
            "compared": c.compared.contains(&plan.id),
            "rows": rows(&c.source),
            "destination_rows": rows(&c.destination),
            "equal": c.equal(plan.id),
        })
    };
    let all = c.compared.iter().all(|t| c.equal(*t) == Some(true));
    let differs = c.compared.iter().any(|t| c.equal(*t) == Some(false));
    json!({
        "number": c.number,
        "attempt": c.attempt,
        "state": c.step.as_str(),
        "equal": if differs { Some(false) } else { (all && c.step >= Cut::Closing && c.step != Cut::Failed).then_some(true) },
        "position": c.barrier.as_ref().map(|p| p.text.clone()),
        "sequences": c.sequences_set.as_ref().map(|s| s.len()),
        "tables": s.present().iter().map(table).collect::<Vec<_>>(),
        "error": c.error,
    })
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Source => "source",
        Side::Destination => "destination",
    }
}

/// Metrics in the text form that scrapers read.
pub fn metrics(desk: &Desk, now_ms: u64) -> String {
    let mut out = String::new();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, entry) in desk.entries() {
        *states.entry(entry.state.label()).or_default() += 1;
    }
    let mut head = |name: &str, kind: &str, help: &str, lines: Vec<(String, f64)>| {
        // Writing to a String cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let by_state = states.iter().map(|(s, n)| (format!("{{state=\"{s}\"}}"), *n as f64)).collect();
    head("drover_migrations", "gauge", "Migrations by state.", by_state);
    let views: Vec<_> = desk.entries().map(|(id, e)| (snapshot_view(*id, e, now_ms), e)).collect();
    let each = |f: &dyn Fn(&SnapshotView, &Entry) -> Option<f64>| {
        views.iter().filter_map(|(v, e)| Some((format!("{{migration=\"{}\"}}", v.name), f(v, e)?))).collect::<Vec<_>>()
    };
    head("drover_copied_rows", "gauge", "Rows loaded by the full copy.", each(&|v, _| Some(v.rows as f64)));
    head("drover_copied_bytes", "gauge", "Bytes loaded by the full copy.", each(&|v, _| Some(v.bytes as f64)));
    head(
        "drover_applied_rows",
        "gauge",
        "Rows changed by the change stream.",
        each(&|v, _| Some(v.applied_rows as f64)),
    );
    head("drover_lag_seconds", "gauge", "Seconds behind the source.", each(&|v, _| v.lag_seconds));
    let log_bytes = |_: &SnapshotView, e: &Entry| e.live.stream.as_ref().map(|s| s.log_bytes as f64);
    head("drover_log_bytes", "gauge", "Bytes of changes waiting in the log.", each(&log_bytes));
    let cleaning = |_: &SnapshotView, e: &Entry| {
        let failed = [e.state.clean_source, e.state.clean_destination].contains(&Cleaning::Failed);
        Some(f64::from(u8::from(failed)))
    };
    head("drover_cleaning_failed", "gauge", "1 if something of drover's was left on a side.", each(&cleaning));
    let leases = desk.leases();
    head("drover_leases", "gauge", "Work orders under way.", vec![(String::new(), leases.all().count() as f64)]);
    let of = |role| leases.live(role).len() as f64;
    let workers = vec![
        ("{role=\"extractor\"}".to_owned(), of(Role::Extractor)),
        ("{role=\"applier\"}".to_owned(), of(Role::Applier)),
    ];
    head("drover_workers", "gauge", "Workers that polled within the term of a lease.", workers);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Position {
        Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
    }

    #[test]
    fn a_huge_transaction_on_its_way_is_a_delay() {
        let mut stream = StreamNews {
            published: at(10),
            reaching: None,
            changes: 1,
            bytes: 1,
            commit_micros: 5_000_000,
            log_bytes: 0,
            at_ms: 0,
        };
        let mut apply = ApplyNews {
            applied: at(10),
            rows: 1,
            transactions: 1,
            commit_micros: 5_000_000,
            consistent: true,
            epoch: 1,
        };
        assert_eq!(behind(&stream, &apply, 0), Some(0.0));
        // Its first pieces are published: it was committed 60 s after what is applied.
        (stream.reaching, stream.commit_micros) = (Some(at(20)), 65_000_000);
        assert_eq!(behind(&stream, &apply, 0), Some(60.0));
        // All of it is published and none of it committed at the destination.
        (stream.reaching, stream.published) = (None, at(20));
        assert_eq!(behind(&stream, &apply, 7_000), Some(67.0));
        (apply.applied, apply.commit_micros) = (at(20), 65_000_000);
        assert_eq!(behind(&stream, &apply, 0), Some(0.0));
    }
}
