//! What operators ask of the desk. Guarantee: a refused action changes nothing.

use super::{Desk, Entry, Live, Now, unknown};
use crate::event::{Event, Side};
use crate::machine::{Phase, State};
use crate::settings::Settings;
use crate::turn::{Turn, Write};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::{Error, Fault, MigrationId, Retry};

impl Desk {
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
        self.entries.insert(id, Entry { migration, state, live: Live::default(), epoch, kept: 0 });
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
            ("floats", old.floats == new.floats),
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
