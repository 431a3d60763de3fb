//! Loading at real servers: every type's extremes by either way, what must be refused, attempts that meet.

mod place;

use anyhow::{Context, Result, ensure};
use drover_connectors_api::{LoadOutcome, Loader};
use drover_connectors_mysql::load::MyLoader;
use drover_connectors_mysql::restart::restart_table;
use drover_harness::mysql::Release;
use drover_model::error::codes;
use place::{Place, extremes, load, row};

async fn extremes_of_every_type(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    let cases = extremes::cases(release);
    let tables = ["by_infile", "by_insert"];
    let rows = extremes::create(&place, &cases, &tables).await?;
    for (id, table) in [(1, "by_infile"), (2, "by_insert")] {
        let plan = place.plan(id, table, &["id"]).await?;
        place.exec(&format!("SET GLOBAL local_infile = {}", u8::from(table == "by_infile"))).await?;
        let loaded = place.load(&plan, 0, &rows).await.with_context(|| format!("{release:?} {table}"))?;
        ensure!(loaded == LoadOutcome::Loaded { rows: rows.len() as u64 });
    }
    extremes::compare(&place, &cases, &tables).await
}

on_each!(extremes_of_every_type);
