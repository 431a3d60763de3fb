//! `drover migration …`: the operator's calls to the coordinator of a cluster, or to the `drover run` that works on a file.

use crate::access::ToCoordinator;
use crate::exit::Exit;
use crate::reach::{self, Who};
use crate::run;
use crate::{file, misfits};
use clap::{Args, Subcommand};
use drover_model::check::{self, CheckItem};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::v1;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub struct Which {
    /// The migration's file, or its name in a cluster.
    #[arg(value_name = "N|FILE")]
    migration: String,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Store a migration in a cluster, precheck it and start it.
    Create {
        /// The migration file.
        file: PathBuf,
        /// Only store it; `resume` starts it.
        #[arg(long)]
        draft: bool,
        /// The coordinator's state is lost: take id and position from the destination, which this command reads, and go on from there. What
        /// cannot go on is emptied and copied again.
        #[arg(long)]
        adopt: bool,
        #[arg(long)]
        json: bool,
    },
    /// List all migrations of a cluster.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show one migration: state, stages, tables, lag, error.
    Show {
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        json: bool,
    },
    /// Stop its work, to be resumed.
    Pause {
        #[command(flatten)]
        which: Which,
    },
    /// Go on with a paused or failed migration, or start a draft.
    Resume {
        #[command(flatten)]
        which: Which,
    },
    /// End it for good: it counts as completed, and what drover created at the source is dropped.
    Stop {
        #[command(flatten)]
        which: Which,
    },
    /// Remove a completed migration of a cluster and what drover created on both sides.
    Delete {
        #[command(flatten)]
        which: Which,
    },
    /// Change limits while it runs, as KEY=VALUE, for example full.rows_per_second=5000 (0: unlimited).
    Limits {
        #[command(flatten)]
        which: Which,
        #[arg(required = true, value_name = "KEY=VALUE")]
        limits: Vec<String>,
    },
    /// What happened, line by line.
    Log {
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        json: bool,
    },
}

/// Carries a verb out. `state`: the state folder of a migration that is given by its file.
pub async fn carry_out(coordinator: &ToCoordinator, state: Option<PathBuf>, verb: Verb) -> Result<Exit> {
    let reached = async |which: &Which| reach::reach(&which.migration, state.clone(), coordinator).await;
    let act = async |which: &Which, action: &str, argument: Value| {
        let r = reached(which).await?;
        r.who.act(&r.name, action, argument).await
    };
    let (value, as_json) = match &verb {
        Verb::Create { file, draft, adopt, json } => {
            let migration = file::read(file)?;
            let known = if *adopt { run::known_at_destination(&migration).await? } else { None };
            if *adopt && known.is_none() {
                let text = format!("there is nothing to adopt: the destination knows no migration {}", migration.name);
                return Err(
                    Error::new(codes::STATE_LOST, Fault::User, Retry::Never, text).remedy("leave --adopt out to begin")
                );
            }
            let body =
                serde_json::to_vec(&migration).map_err(|e| Error::internal("a migration has no JSON form").cause(e))?;
            let request = v1::CreateRequest {
                migration: body.into(),
                draft: *draft,
                adopt: known.map(|id| id.to_string()).unwrap_or_default(),
            };
            (reach::answer(coordinator.remote()?.client().create(request).await)?, *json)
        }
        Verb::List { json } => (reach::answer(coordinator.remote()?.client().list(v1::ListRequest {}).await)?, *json),
        Verb::Show { which, json } => {
            let r = reached(which).await?;
            let mut shown = r.who.show(&r.name).await?;
            // With the file at hand the destination itself is asked, which knows it to the value; a coordinator knows what workers told.
            if let Some(local) = r.local.as_ref().filter(|l| misfits::possible(&l.migration)) {
                match misfits::counted(&local.migration).await {
                    Ok(replaced) => shown["replaced"] = json!(replaced),
                    Err(error) => tracing::warn!(%error, "cannot ask the destination which values did not fit"),
                }
            }
            (shown, *json)
        }
        Verb::Log { which, json } => {
            let r = reached(which).await?;
            (r.who.log(&r.name).await?, *json)
        }
        Verb::Pause { which } => (act(which, "pause", Value::Null).await?, false),
        Verb::Resume { which } => (act(which, "resume", Value::Null).await?, false),
        Verb::Stop { which } => (act(which, "stop", Value::Null).await?, false),
        Verb::Delete { which } => {
            let r = reached(which).await?;
            if !matches!(r.who, Who::Cluster(_)) {
                let text = format!("{} runs in one process: there is nothing to delete but its traces", r.name);
                return Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                    .remedy("end `drover run`, then `drover cleanup FILE`"));
            }
            (r.who.act(&r.name, "delete", Value::Null).await?, false)
        }
        Verb::Limits { which, limits } => {
            let mut argument = serde_json::Map::new();
            for limit in limits {
                let Some((key, value)) = limit.split_once('=') else {
                    return Err(Error::new(
                        codes::CONFIGURATION,
                        Fault::User,
                        Retry::Never,
                        format!("{limit:?} is no limit"),
                    )
                    .remedy("write KEY=VALUE, for example full.rows_per_second=5000"));
                };
                argument.insert(key.to_owned(), Value::String(value.to_owned()));
            }
            (act(which, "limits", Value::Object(argument)).await?, false)
        }
    };
    if as_json {
        println!("{value}");
    } else {
        print!("{}", render(&value));
    }
    Ok(Exit::Done)
}

fn render(value: &Value) -> String {
    match value {
        Value::Array(all) if all.first().is_some_and(|v| v.get("stages").is_none()) => {
            all.iter().map(|line| format!("{}\n", log_line(line))).collect()
        }
        Value::Array(all) => all.iter().map(summary).collect(),
        one if one.get("stages").is_some() => detail(one),
        other => format!("{other:#}\n"),
    }
}

/// One line of the log: when (seconds since the Unix epoch), how grave, what.
fn log_line(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    format!("{:.3} {:7} {}", line["at"].as_f64().unwrap_or_default() / 1e3, text("level"), text("message"))
}

fn summary(one: &Value) -> String {
    let full = &one["stages"]["full"];
    format!(
        "{:30} {:16} {:>12} rows  lag {}\n",
        one["name"].as_str().unwrap_or_default(),
        one["state"].as_str().unwrap_or_default(),
        full["rows"],
        lag(one)
    )
}

fn lag(one: &Value) -> String {
    match one["stages"]["incremental"]["lag_seconds"].as_f64() {
        Some(lag) if lag < 0.5 => "not delayed".into(),
        Some(lag) => format!("{lag:.0} s"),
        None => "-".into(),
    }
}

/// What the operator may take away after a migration that is shown as `one`.
pub fn left_behind(one: &Value) -> Vec<String> {
    let items: Vec<CheckItem> = serde_json::from_value(one["items"].clone()).unwrap_or_default();
    check::left_behind(&items)
}

fn detail(one: &Value) -> String {
    let mut text = summary(one);
    for (name, stage) in one["stages"].as_object().into_iter().flatten() {
        text.push_str(&format!("  {name:12} {}\n", json!(stage)));
    }
    for table in one["tables"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "  {:40} {:10} {} of about {} rows\n",
            table["source"].as_str().unwrap_or_default(),
            table["state"].as_str().unwrap_or_default(),
            table["rows"],
            table["estimated_rows"]
        ));
    }
    for r in one["replaced"].as_array().into_iter().flatten() {
        let word = |key: &str| r[key].as_str().unwrap_or_default();
        text.push_str(&format!(
            "  {}.{}: {} values did not fit, changed by on_misfit = \"{}\", the first of them {}\n",
            word("table"),
            word("column"),
            r["count"],
            word("policy"),
            word("example")
        ));
    }
    for item in
        one["items"].as_array().into_iter().flatten().filter(|i| i["result"] == "failed" || i["result"] == "warning")
    {
        text.push_str(&format!(
            "  {} {} {}: {}; {}\n",
            item["result"].as_str().unwrap_or_default(),
            item["item"].as_str().unwrap_or_default(),
            item["object"].as_str().unwrap_or_default(),
            item["cause"].as_str().unwrap_or_default(),
            item["remedy"].as_str().unwrap_or_default()
        ));
    }
    if one["state"] == "completed" {
        left_behind(one).iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    if !one["error"].is_null() {
        text.push_str(&format!("  error: {}\n", one["error"]));
    }
    text
}
