//! `drover misfits`: the values that policies (`on_misfit`) changed on their way, as the destination counted them.

use crate::exit::Exit;
use crate::{factories, file};
use drover_model::doubt::{Changed, Replaced};
use drover_model::migration::Migration;
use drover_model::{MigrationId, Result};
use serde_json::json;
use std::path::Path;

/// Lists them.
pub async fn run(path: &Path, as_json: bool) -> Result<Exit> {
    let migration = file::read(path)?;
    let found = counted(&migration).await?;
    if as_json {
        println!("{}", json!({ "name": migration.name, "replaced": found }));
    } else if found.is_empty() {
        println!("every value arrived as it was");
    } else {
        for r in &found {
            println!("{r}");
            for Changed { key, before, after } in &r.values {
                // No control character of a value reaches a terminal.
                let after = after.as_deref().unwrap_or("null");
                println!("    {}: {} became {}", key.escape_debug(), before.escape_debug(), after.escape_debug());
            }
            if (r.values.len() as u64) < r.count {
                println!("    … only {} of them are named", r.values.len());
            }
        }
    }
    Ok(Exit::Done)
}

/// Whether a policy of the file may change values.
pub fn possible(migration: &Migration) -> bool {
    migration.objects.iter().any(|rule| rule.columns.as_ref().is_some_and(|c| !c.on_misfit.is_empty()))
}

/// What the destination counted; nothing if it knows no such migration.
pub async fn counted(migration: &Migration) -> Result<Vec<Replaced>> {
    let destination = factories::destination(migration, MigrationId::nil()).await?;
    match destination.progress(&migration.name).await? {
        Some(progress) => destination.replaced(progress.migration).await,
        None => Ok(Vec::new()),
    }
}

/// Says at the end of a run what became of values that did not fit.
pub async fn tell(migration: &Migration) {
    if !possible(migration) {
        return;
    }
    match counted(migration).await {
        Ok(found) => found.iter().for_each(|r| tracing::warn!("{r}")),
        Err(error) => tracing::warn!(%error, "cannot say which values did not fit; `drover misfits FILE` asks again"),
    }
}
