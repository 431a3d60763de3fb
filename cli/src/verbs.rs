//! `drover migration …`: the operator's calls to the coordinator of a cluster.

use crate::exit::Exit;
use crate::file;
use clap::Subcommand;
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::control::{Remote, from_status};
use drover_proto::v1;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum Verb {
    /// Store a migration, precheck it and start it.
    Create {
        /// The migration file.
        file: PathBuf,
        /// Only store it; `resume` starts it.
        #[arg(long)]
        draft: bool,
        #[arg(long)]
        json: bool,
    },
    /// List all migrations.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show one migration: state, stages, tables, lag, error.
    Show {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Stop its work, to be resumed.
    Pause { name: String },
    /// Go on with a paused or failed migration, or start a draft.
    Resume { name: String },
    /// End it for good: it counts as completed, and what drover created at the source is dropped.
    Stop { name: String },
    /// Remove a completed migration and what drover created on both sides.
    Delete { name: String },
    /// Change limits while it runs, as KEY=VALUE, for example full.rows_per_second=5000 (0: unlimited).
    Limits {
        name: String,
        #[arg(required = true, value_name = "KEY=VALUE")]
        limits: Vec<String>,
    },
    /// What happened, line by line.
    Log {
        name: String,
        #[arg(long)]
        json: bool,
    },
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::internal("the coordinator's answer cannot be read").cause(e)
}

/// Carries a verb out.
pub async fn run(coordinator: &str, verb: Verb) -> Result<Exit> {
    let mut client = Remote::lazy(coordinator)?.client();
    let (reply, as_json) = match verb {
        Verb::Create { file, draft, json } => {
            let migration = file::read(&file)?;
            let body = serde_json::to_vec(&migration).map_err(unreadable)?;
            (client.create(v1::CreateRequest { migration: body.into(), draft }).await, json)
        }
        Verb::List { json } => (client.list(v1::ListRequest {}).await, json),
        Verb::Show { name, json } => (client.show(v1::NameRequest { name }).await, json),
        Verb::Log { name, json } => (client.log(v1::LogRequest { name, after: 0 }).await, json),
        Verb::Pause { name } => (client.act(act(name, "pause", Value::Null)).await, false),
        Verb::Resume { name } => (client.act(act(name, "resume", Value::Null)).await, false),
        Verb::Stop { name } => (client.act(act(name, "stop", Value::Null)).await, false),
        Verb::Delete { name } => (client.act(act(name, "delete", Value::Null)).await, false),
        Verb::Limits { name, limits } => {
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
            (client.act(act(name, "limits", Value::Object(argument))).await, false)
        }
    };
    let reply = reply.map_err(|s| from_status(&s))?.into_inner();
    let value: Value = serde_json::from_slice(&reply.json).map_err(unreadable)?;
    if as_json {
        println!("{value}");
    } else {
        print!("{}", render(&value));
    }
    Ok(Exit::Done)
}

fn act(name: String, action: &str, argument: Value) -> v1::ActRequest {
    let argument = if argument.is_null() { Vec::new() } else { argument.to_string().into_bytes() };
    v1::ActRequest { name, action: action.into(), argument: argument.into() }
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
    if !one["error"].is_null() {
        text.push_str(&format!("  error: {}\n", one["error"]));
    }
    text
}
