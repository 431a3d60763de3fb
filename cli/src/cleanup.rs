//! `drover cleanup`: nothing of ours stays on either side, nor here. The migrated data stay.

use crate::exit::Exit;
use crate::factories::{self, Factories};
use crate::file;
use crate::state::StateDir;
use drover_coordinator::service::{Coordinator, Options};
use drover_log::LogFactory;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_proto::order::Description;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Cleans up after the migration of this file.
pub async fn run(path: &Path, state: Option<PathBuf>) -> Result<Exit> {
    let migration = file::read(path)?;
    let folder = file::state_dir(path, &migration.name, state);
    let dir = if folder.exists() { Some(StateDir::lock(&folder)?) } else { None };
    let stored = match &dir {
        Some(dir) => {
            let coordinator = Coordinator::open(Options::new(&dir.path, true)).await?;
            coordinator.snapshot_view(&migration.name).ok().map(|view| view.id)
        }
        None => None,
    };
    let destination = factories::destination(&migration, MigrationId::nil()).await?;
    let found = destination.progress(&migration.name).await?.map(|p| p.migration);
    if let (Some(a), Some(b)) = (stored, found)
        && a != b
    {
        return Err(Error::new(
            codes::STATE_LOST,
            Fault::User,
            Retry::Never,
            format!("the state folder belongs to migration {a}, the destination's progress to {b}"),
        )
        .remedy("clean up with the state folder of each of them"));
    }
    let Some(id) = stored.or(found) else {
        println!(
            "nothing to clean up: neither the state folder nor the destination knows a migration {}",
            migration.name
        );
        return Ok(Exit::Done);
    };
    let source = factories::source(&migration, id, 0).await?;
    let mut did = source.cleanup(id).await?;
    did.extend(destination.cleanup(Some(id), &migration.name).await?);
    if migration.log.kafka.is_some() {
        let description = Description {
            id,
            revision: 0,
            migration: migration.clone(),
            catalog: None,
            plans: Arc::default(),
            objects: Arc::default(),
            bulk_partitions: 0,
            adopted: false,
            schema_changes: Vec::new(),
        };
        Factories::new(None, 0).log(&description).await?.remove().await?;
        did.push("deleted the topics".into());
    }
    if let Some(dir) = dir {
        std::fs::remove_dir_all(&dir.path).map_err(|e| {
            let text = format!("cannot remove the state folder {}", dir.path.display());
            Error::new(codes::STATE, Fault::Drover, Retry::Other, text).cause(e)
        })?;
        did.push("removed the state folder".into());
    }
    for line in did {
        println!("{line}");
    }
    Ok(Exit::Done)
}
