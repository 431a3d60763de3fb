//! `drover cutover`: asks for the cutover until it is done or has failed, whoever carries it out: the `drover run` that works on the file,
//! the coordinator of a cluster, or, if nobody works on the file now, this process.
//!
//! The asking is part of it: a cutover that nobody asks for any more is called off. So a caller that is killed leaves nothing behind
//! that could end the migration later.

use crate::access::ToCoordinator;
use crate::exit::Exit;
use crate::reach::{self, Local, Who};
use crate::run::Engine;
use crate::state::{Door, StateDir};
use crate::verbs;
use clap::Args;
use drover_coordinator::service::{Coordinator, Options};
use drover_model::error::codes;
use drover_model::migration::parse_duration;
use drover_model::{Error, Fault, Result, Retry};
use drover_runtime::CancellationToken;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[derive(Args)]
pub struct CutoverArgs {
    /// The migration's file, or its name in a cluster.
    #[arg(value_name = "N|FILE")]
    migration: String,
    #[command(flatten)]
    coordinator: ToCoordinator,
    /// Where the `run` of a FILE keeps its state (default: .drover/NAME beside the file).
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How long it may take until the destination has caught up with the source.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    wait: String,
    /// One JSON document on standard output.
    #[arg(long)]
    json: bool,
}

/// Between two askings.
const ASK: Duration = Duration::from_millis(250);
/// How long the coordinator may be away, or a process may take to end.
const AWAY: Duration = Duration::from_secs(20);
/// How long dropping what drover made at the source is waited for.
const CLEANING: Duration = Duration::from_secs(60);

/// How the asking ended.
enum End {
    /// The JSON of `show`, its cutover done or failed.
    Settled(Value),
    /// Called off; why.
    CalledOff(&'static str),
}

/// Cuts over and reports.
pub async fn run(args: CutoverArgs) -> Result<Exit> {
    let wait = parse_duration(&args.wait).ok_or_else(|| {
        let text = format!("--wait {:?} is no duration", args.wait);
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text).remedy("write for example 90s, 10m or 1h30m")
    })?;
    let shutdown = CancellationToken::new();
    let _signals = crate::cluster::on_signal(shutdown.clone())?;
    let reached = reach::reach(&args.migration, args.state, &args.coordinator).await?;
    let name = reached.name;
    let mut asking = Asking { name: &name, wait, shutdown: &shutdown, number: None, step: String::new(), late: false };
    let end = match (reached.who, reached.local) {
        (Who::Stored { coordinator, dir }, Some(local)) => asking.by_ourselves(coordinator, dir, &local).await?,
        (who, local) => asking.of(who, local).await?,
    };
    let shown = match end {
        End::Settled(shown) => shown,
        End::CalledOff(why) => {
            eprintln!("drover: the cutover was called off: {why}; the migration goes on");
            return Ok(Exit::Interrupted);
        }
    };
    let done = shown["cutover"]["state"] == "done";
    if args.json {
        println!("{}", document(&shown, done));
    } else if done {
        print!("{}", text(&shown));
    }
    if done {
        return Ok(Exit::Done);
    }
    let error = &shown["cutover"]["error"];
    let said: Option<Error> = serde_json::from_value(error.clone()).ok();
    let said = said.unwrap_or_else(|| Error::internal(format!("the cutover failed: {error}")));
    eprintln!("drover: {said}");
    Ok(if said.code == codes::DIFFERENT { Exit::Failed } else { Exit::Interrupted })
}

struct Asking<'a> {
    name: &'a str,
    wait: Duration,
    shutdown: &'a CancellationToken,
    /// Of the cutover that we asked for.
    number: Option<Value>,
    step: String,
    /// It cannot be called off any more.
    late: bool,
}

impl Asking<'_> {
    /// Somebody else carries it out.
    async fn of(&mut self, mut who: Who, local: Option<Local>) -> Result<End> {
        let mut away: Option<Instant> = None;
        let began = Instant::now();
        loop {
            match who.act(self.name, "cutover", self.argument()).await {
                Ok(shown) => {
                    away = None;
                    if let Some(end) = self.heard(&shown)? {
                        return Ok(end);
                    }
                    if self.settled(&shown) && (shown["cleaning"] != true || began.elapsed() > self.wait + CLEANING) {
                        return Ok(End::Settled(shown));
                    }
                }
                // Before the first answer there is nothing to go on with.
                Err(error) if self.number.is_none() || error.retry == Retry::Never => return Err(error),
                Err(error) => {
                    if let Some(local) = local.as_ref().filter(|_| matches!(who, Who::Running(_)))
                        && let Some(shown) = self.after(local).await?
                    {
                        return Ok(End::Settled(shown));
                    }
                    if away.get_or_insert_with(Instant::now).elapsed() > AWAY {
                        return Err(error);
                    }
                }
            }
            if let Some(local) = local.as_ref().filter(|_| away.is_some())
                && let Some(door) = Door::of(&local.folder)?
            {
                who = Who::Running(door);
            }
            if let Some(why) = self.pause(began).await {
                // Should it not be heard, the cutover ends for want of asking.
                let reply = who.act(self.name, "cutover", json!({ "cancel": true })).await;
                if self.is_off(reply.as_ref().ok()) {
                    return Ok(End::CalledOff(why));
                }
            }
        }
    }

    /// The process that carried it out has ended: did it get to the end?
    async fn after(&self, local: &Local) -> Result<Option<Value>> {
        let began = Instant::now();
        let dir = loop {
            match StateDir::lock(&local.folder) {
                Ok(dir) => break dir,
                // It is about to end, or somebody has started another one, which can be asked.
                Err(_) if Door::of(&local.folder)?.is_some() => return Ok(None),
                Err(error) if began.elapsed() > AWAY => return Err(error),
                Err(_) => tokio::time::sleep(ASK).await,
            }
        };
        let coordinator = Coordinator::open(Options::new(&dir.path, true)).await?;
        let shown = coordinator.show(self.name)?;
        if self.settled(&shown) && Some(&shown["cutover"]["number"]) == self.number.as_ref() {
            return Ok(Some(shown));
        }
        Err(Error::new(
            codes::CUTOVER,
            Fault::Drover,
            Retry::Other,
            "the process that carried the cutover out ended before it was done",
        )
        .remedy("call `drover cutover` again: it goes on with what is there"))
    }

    /// Nobody works on it: this process does, for the time of the cutover.
    async fn by_ourselves(&mut self, coordinator: Coordinator, dir: StateDir, local: &Local) -> Result<End> {
        let shown = coordinator.show(self.name)?;
        if !matches!(shown["state"].as_str(), Some("migrating" | "retrying" | "paused" | "failed" | "completed")) {
            let text = format!("{} has not begun: it is {}", self.name, shown["state"]);
            return Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .remedy("`drover run` it first, and let it catch up"));
        }
        drop(coordinator);
        let engine = Engine::start(dir, &local.migration, false).await?;
        let ended = self.ask_ourselves(&engine.coordinator).await;
        if matches!(&ended, Ok(End::Settled(_))) {
            let cleaned = engine.coordinator.wait_cleaned(self.name);
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                cleaned = tokio::time::timeout(CLEANING, cleaned) => {
                    if cleaned.is_err() {
                        tracing::warn!("what drover made at the source is not dropped yet; `drover run` goes on with it");
                    }
                }
            }
        }
        engine.end().await;
        ended
    }

    async fn ask_ourselves(&mut self, coordinator: &Coordinator) -> Result<End> {
        let began = Instant::now();
        loop {
            let shown = coordinator.act(self.name, "cutover", Some(self.argument())).await?;
            if let Some(end) = self.heard(&shown)? {
                return Ok(end);
            }
            if self.settled(&shown) {
                return Ok(End::Settled(shown));
            }
            if let Some(why) = self.pause(began).await {
                let reply = coordinator.act(self.name, "cutover", Some(json!({ "cancel": true }))).await?;
                if self.is_off(Some(&reply)) {
                    return Ok(End::CalledOff(why));
                }
            }
        }
    }

    /// Whether calling off has worked. Where it came too late the end is waited for.
    fn is_off(&mut self, reply: Option<&Value>) -> bool {
        let late = reply.is_some_and(|r| matches!(r["cutover"]["state"].as_str(), Some("switching" | "done")));
        if late {
            tracing::warn!("too late to call it off: it is being finished");
            self.late = true;
        }
        !late
    }

    fn argument(&self) -> Value {
        self.number.as_ref().map_or(Value::Null, |number| json!({ "number": number }))
    }

    fn settled(&self, shown: &Value) -> bool {
        matches!(shown["cutover"]["state"].as_str(), Some("done" | "failed"))
    }

    /// Notes what was heard and tells of a new step. An end if the cutover is another than ours.
    fn heard(&mut self, shown: &Value) -> Result<Option<End>> {
        let cutover = &shown["cutover"];
        let ours = self.number.get_or_insert_with(|| cutover["number"].clone());
        if *ours != cutover["number"] {
            return Ok(Some(End::CalledOff("somebody else asked for another one")));
        }
        let step = cutover["state"].as_str().unwrap_or_default();
        if step != self.step {
            self.step = step.to_owned();
            let tables = cutover["tables"].as_array().map_or(0, Vec::len);
            match step {
                "zero_lag" => tracing::info!("waits until the destination has caught up"),
                "barrier" => tracing::info!("caught up; the barrier's mark is written, and waited for"),
                "sequences" => tracing::info!("barrier at {}; sets the sequences", cutover["position"]),
                "validating" => tracing::info!("compares {tables} tables, every row"),
                "switching" => tracing::info!("nothing has changed; makes what waits for the switch"),
                "closing" => tracing::info!("compared; sees that nothing has changed meanwhile"),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Waits for the next asking; tells why there shall be none.
    async fn pause(&self, began: Instant) -> Option<&'static str> {
        tokio::select! {
            () = self.shutdown.cancelled(), if !self.late => return Some("interrupted"),
            () = tokio::time::sleep(ASK) => {}
        }
        let waits = matches!(self.step.as_str(), "" | "zero_lag" | "barrier");
        (waits && began.elapsed() > self.wait).then_some("the destination did not catch up within --wait")
    }
}

/// What `--json` prints.
fn document(shown: &Value, done: bool) -> Value {
    let c = &shown["cutover"];
    json!({
        "name": shown["name"],
        "cut_over": done,
        "equal": c["equal"],
        "position": c["position"],
        "sequences": c["sequences"],
        "tables": c["tables"],
        "error": c["error"],
    })
}

fn text(shown: &Value) -> String {
    let c = &shown["cutover"];
    let all: Vec<&Value> = c["tables"].as_array().into_iter().flatten().collect();
    let compared = all.iter().filter(|t| t["compared"] == true);
    let rows: u64 = compared.clone().filter_map(|t| t["rows"].as_u64()).sum();
    let mut out = format!(
        "cut over at {}: {} tables, {rows} rows, equal on both sides; {} sequences set; the migration is completed\n",
        c["position"].as_str().unwrap_or_default(),
        compared.count(),
        c["sequences"]
    );
    for line in verbs::left_behind(shown) {
        out.push_str(&format!("{line}\n"));
    }
    for table in all.iter().filter(|t| t["compared"] != true) {
        let name = table["source"].as_str().unwrap_or_default();
        out.push_str(&format!("not compared, since not all kinds of changes are carried over: {name}\n"));
    }
    out
}
