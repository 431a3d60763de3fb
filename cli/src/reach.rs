//! Who answers a verb. A migration is named by its file or by its name. A file leads to the `drover run` that works on it, by the socket
//! in its state folder; to the folder itself where no process works; and, if its log lies in Kafka, to the coordinator of a cluster where there is no such folder. A name
//! leads to the coordinator.

use crate::access::ToCoordinator;
use crate::file;
use crate::state::{Door, StateDir};
use drover_coordinator::service::{Coordinator, Options};
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::control::{Remote, from_status};
use drover_proto::v1;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a verb's argument names a migration.
pub enum Named {
    Name(String),
    File(PathBuf),
}

impl Named {
    /// What cannot be a migration's name is a file.
    pub fn parse(text: &str) -> Named {
        let is_name = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if is_name { Named::Name(text.to_owned()) } else { Named::File(PathBuf::from(text)) }
    }
}

/// One who answers.
pub enum Who {
    /// The coordinator of a cluster.
    Cluster(Remote),
    /// The process that works in the state folder.
    Running(Door),
    /// Nobody works there: what the state folder tells.
    Stored { coordinator: Coordinator, dir: StateDir },
}

/// A migration and who answers for it.
pub struct Reached {
    pub name: String,
    pub who: Who,
    /// Its file, where that was given.
    pub local: Option<Local>,
}

/// A migration given by its file.
pub struct Local {
    pub migration: Migration,
    pub folder: PathBuf,
}

impl Local {
    /// Reads the file.
    pub fn read(path: &Path, state: Option<PathBuf>) -> Result<Local> {
        let migration = file::read(path)?;
        let folder = file::state_dir(path, &migration.name, state);
        Ok(Local { migration, folder })
    }
}

/// Finds who answers.
pub async fn reach(named: &str, state: Option<PathBuf>, coordinator: &ToCoordinator) -> Result<Reached> {
    let local = match Named::parse(named) {
        Named::Name(name) => {
            return Ok(Reached { name, who: Who::Cluster(coordinator.remote()?), local: None });
        }
        Named::File(path) => Local::read(&path, state)?,
    };
    let name = local.migration.name.clone();
    let who = match by_folder(&local.folder).await? {
        Some(who) => who,
        None if local.migration.log.kafka.is_some() => Who::Cluster(coordinator.remote()?),
        None => {
            let text = format!("{name} has not begun here: there is no state in {}", local.folder.display());
            return Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .remedy("start it by `drover run FILE`, or give the folder that it runs with by --state"));
        }
    };
    Ok(Reached { name, who, local: Some(local) })
}

/// The same for a file whose migration has begun on this machine; else `None`.
pub async fn here(path: &Path, state: Option<PathBuf>) -> Result<Option<Reached>> {
    let local = Local::read(path, state)?;
    let who = by_folder(&local.folder).await?;
    Ok(who.map(|who| Reached { name: local.migration.name.clone(), who, local: Some(local) }))
}

/// So long whoever has the folder may take to open his socket, or to end: a run that begins, or another verb.
const PRESENTLY: Duration = Duration::from_secs(5);

async fn by_folder(folder: &Path) -> Result<Option<Who>> {
    let began = Instant::now();
    loop {
        if let Some(door) = Door::of(folder)? {
            return Ok(Some(Who::Running(door)));
        }
        if !has_begun(folder) {
            return Ok(None);
        }
        match StateDir::lock(folder) {
            Ok(dir) => {
                let coordinator = Coordinator::open(Options::new(&dir.path, true)).await?;
                return Ok(Some(Who::Stored { coordinator, dir }));
            }
            Err(e) if e.fault == Fault::User && began.elapsed() < PRESENTLY => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Whether a migration has begun with this folder.
fn has_begun(folder: &Path) -> bool {
    folder.join("coordinator.sqlite").exists()
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::internal("the coordinator's answer cannot be read").cause(e)
}

/// The JSON of a reply.
pub fn answer(reply: std::result::Result<tonic::Response<v1::JsonReply>, tonic::Status>) -> Result<Value> {
    let reply = reply.map_err(|s| from_status(&s))?.into_inner();
    serde_json::from_slice(&reply.json).map_err(unreadable)
}

impl Who {
    /// Somebody who can be asked to do something.
    fn control(&self) -> Option<&Remote> {
        match self {
            Who::Cluster(remote) => Some(remote),
            Who::Running(door) => Some(&door.control),
            Who::Stored { .. } => None,
        }
    }

    pub async fn show(&self, name: &str) -> Result<Value> {
        match self {
            Who::Stored { coordinator, .. } => coordinator.show(name),
            Who::Cluster(remote) | Who::Running(Door { control: remote, .. }) => {
                answer(remote.client().show(v1::NameRequest { name: name.to_owned() }).await)
            }
        }
    }

    pub async fn log(&self, name: &str) -> Result<Value> {
        match self {
            Who::Stored { coordinator, .. } => coordinator.log(name, 0).await,
            Who::Cluster(remote) | Who::Running(Door { control: remote, .. }) => {
                answer(remote.client().log(v1::LogRequest { name: name.to_owned(), after: 0 }).await)
            }
        }
    }

    /// An operator's action; `argument` may be null.
    pub async fn act(&self, name: &str, action: &str, argument: Value) -> Result<Value> {
        let Some(remote) = self.control() else {
            let text = format!("no drover process works on {name} now");
            return Err(Error::new(codes::STATE, Fault::Drover, Retry::Other, text)
                .remedy(format!("start `drover run` with its file; `{action}` then reaches it")));
        };
        let argument = if argument.is_null() { Vec::new() } else { argument.to_string().into_bytes() };
        let request = v1::ActRequest { name: name.to_owned(), action: action.into(), argument: argument.into() };
        answer(remote.client().act(request).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_has_just_begun_is_waited_for() {
        let base = std::env::temp_dir().join(format!("drover-reach-{}", std::process::id()));
        assert!(by_folder(&base).await.unwrap().is_none(), "nothing has begun there");
        let dir = StateDir::lock(&base).unwrap();
        std::fs::write(base.join("coordinator.sqlite"), "").unwrap();
        let opens = async {
            tokio::task::yield_now().await;
            dir.listen().unwrap()
        };
        let (who, _listener) = tokio::join!(by_folder(&base), opens);
        assert!(matches!(who.unwrap(), Some(Who::Running(_))));
        std::fs::remove_dir_all(base).unwrap();
    }
}
