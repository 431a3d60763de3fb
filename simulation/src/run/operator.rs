//! The operator: looks whether all goes well, raises limits, resumes, cuts over, and in the end wants both sides to be equal.

use super::{PATIENCE, World};
use crate::{note, sim};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_runtime::process::Within;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How a cutover ended.
enum Cut {
    Done,
    Failed(String),
    /// It was called off, or is not possible now.
    Not,
}

/// An operator who tries to cut over all the time, whatever goes on.
pub(super) async fn impatient(world: Arc<World>) {
    loop {
        tokio::time::sleep(sim::ms(500, 40_000)).await;
        sim::fault("cutover tried");
        let Some((name, _)) = sim::pick(&world.plan.migrations) else { return };
        if let Cut::Done = world.cut_over(name, sim::ms(500, 60_000)).await {
            sim::fault("cutover done among faults");
            return;
        }
    }
}

impl World {
    /// Nothing that goes wrong for a while makes the migration fail; but for a limit that an operator has to raise.
    pub(super) fn look_at_state(&self, name: &str) {
        let Some(view) = self.desk.get().and_then(|(_, desk)| desk.snapshot_view(name).ok()) else { return };
        let limited = |e: &Error| e.code == codes::SNAPSHOT_LOST && e.fault == Fault::User;
        if let Some(error) = view.error.filter(|e| view.state == "failed" && !limited(e)) {
            sim::violated(format!("the migration failed: {error}"));
        }
    }

    /// Without faults all comes to its end.
    pub(super) async fn finish(&self, name: &str) {
        let until = Instant::now() + PATIENCE;
        let late = || Instant::now() > until;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let view = self.desk.get().and_then(|(_, desk)| desk.snapshot_view(name).ok());
            if sim::is_violated() {
                return;
            }
            if let Some(view) = &view {
                if view.state == "completed" || view.consistent && view.copied && self.checker.caught_up(name) {
                    break;
                }
                // What an operator is asked to do: raise a limit that the faults made too low, or go on.
                match view.state {
                    "failed" => {
                        self.look_at_state(name);
                        self.act(name, "limits", Some(json!({"snapshot": "0s"}))).await;
                        self.act(name, "resume", None).await;
                    }
                    "paused" | "draft" | "precheck_failed" | "passed" => self.act(name, "resume", None).await,
                    _ => {}
                }
            }
            if late() {
                let state =
                    view.map(|v| format!("{} copied {} consistent {} {:?}", v.state, v.copied, v.consistent, v.error));
                return sim::violated(format!("it does not come to its end: {state:?}"));
            }
        }
        // Whoever cut over while the application went on has what the source had then.
        if !self.checker.is_cut_over(name)
            && let Err(difference) = self.checker.equal(name)
        {
            sim::violated(difference);
        }
        if !self.checker.is_cut_over(name) && sim::chance(600_000) {
            loop {
                match self.cut_over(name, PATIENCE).await {
                    Cut::Done => break,
                    // A process that stood still at the end has not heard of the asking; an operator's earlier order came late.
                    Cut::Failed(why) if why.contains("called off") || why.contains("was paused") => {}
                    Cut::Failed(why) => return sim::violated(format!("nobody writes, and the cutover fails: {why}")),
                    Cut::Not if late() => return sim::violated("nobody writes, and the cutover is not done".into()),
                    Cut::Not => self.act(name, "resume", None).await,
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            if let Err(difference) = self.checker.equal(name) {
                sim::violated(difference);
            }
        }
        while self.checker.is_cut_over(name) && !sim::is_violated() {
            let view = self.desk.get().and_then(|(_, desk)| desk.snapshot_view(name).ok());
            if view.is_some_and(|v| !v.cleaning) {
                if let Some(left) = self.checker.left_behind(name) {
                    sim::violated(format!("the source is said to be clean, and holds a {left}"));
                }
                break;
            }
            if late() {
                return sim::violated("what drover made at the source stays there after the cutover".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        note!("{name} is at its end");
    }

    /// An action, as a command sends it to the coordinator.
    async fn ask(&self, name: &str, action: &str, argument: Option<Value>) -> Result<Value> {
        let away = || Error::new(codes::CONNECTION, Fault::Drover, Retry::Connection, "the coordinator is away");
        let (node, desk) = self.desk.get().ok_or_else(away)?;
        let (name, action) = (name.to_owned(), action.to_owned());
        let act = Within::new(node, async move { desk.act(&name, &action, argument).await });
        tokio::time::timeout(Duration::from_secs(20), act).await.unwrap_or_else(|_| Err(away()))
    }

    pub(super) async fn act(&self, name: &str, action: &str, argument: Option<Value>) {
        if self.desk.get().is_some() {
            let done = self.ask(name, action, argument).await;
            note!("operator: {action} {name}: {}", done.is_ok());
        }
    }

    /// Cuts over, as `drover cutover` does: asks until it has ended, one way or the other, or for so long.
    async fn cut_over(&self, name: &str, patience: Duration) -> Cut {
        let began = Instant::now();
        let mut number = Value::Null;
        note!("operator: begins to cut {name} over");
        loop {
            let argument = if number.is_null() { json!({}) } else { json!({ "number": number }) };
            match self.ask(name, "cutover", Some(argument)).await {
                Ok(shown) => {
                    let cutover = &shown["cutover"];
                    if number.is_null() {
                        number = cutover["number"].clone();
                    }
                    match cutover["state"].as_str() {
                        Some("done") => return Cut::Done,
                        Some("failed") if cutover["number"] == number => {
                            note!("operator: the cutover failed: {}", cutover["error"]["message"]);
                            return Cut::Failed(cutover["error"].to_string());
                        }
                        _ => {}
                    }
                }
                Err(error) if number.is_null() && error.retry == Retry::Never => {
                    note!("operator: no cutover now: {}", error.message);
                    return Cut::Not;
                }
                Err(_) => {}
            }
            if sim::is_violated() {
                return Cut::Not;
            }
            if began.elapsed() > patience {
                // Sometimes the operator just leaves.
                if sim::chance(500_000) {
                    self.act(name, "cutover", Some(json!({"cancel": true}))).await;
                }
                return Cut::Not;
            }
            tokio::time::sleep(sim::ms(100, 1_000)).await;
        }
    }
}
