//! `drover validate`: both sides compared row by row, from this process; correct while changes flow.

use crate::exit::Exit;
use crate::progress::Bars;
use crate::{check, factories, file, reach};
use drover_model::error::codes;
use drover_model::migration::Stage;
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_validate::{Options, only, validate};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

/// Compares, prints the report, and says how it came out.
pub async fn run(path: &Path, tables: &[String], state: Option<PathBuf>, as_json: bool, bars: Bars) -> Result<Exit> {
    let migration = file::read(path)?;
    let (source, destination) = tokio::try_join!(
        factories::source(&migration, MigrationId::nil(), 0),
        factories::destination(&migration, MigrationId::nil())
    )?;
    let (catalog, mut plans) = check::plans(&*source, &*destination, &migration).await?;
    match renamed(path, state).await {
        Ok(choices) => drover_applier::renamed(&*destination, &catalog, &mut plans, &choices),
        Err(error) => {
            tracing::warn!(%error, "cannot ask which tables were renamed: their present names are looked up in the file");
        }
    }
    let plans = if tables.is_empty() {
        plans
    } else {
        let mut chosen = Vec::new();
        for table in tables {
            chosen.extend(only(&plans, table)?);
        }
        chosen
    };
    if plans.is_empty() {
        return Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, "no table is selected to be compared"));
    }
    let bar = bars.one();
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let options = Options::new(migration.name.clone(), migration.has(Stage::Incremental));
    let report = validate(&*source, &*destination, &plans, options, |p| show(&bar, &p)).await;
    bar.finish_and_clear();
    let report = report?;
    if as_json {
        let json = serde_json::to_string(&report).map_err(|e| Error::internal("cannot write the report").cause(e))?;
        println!("{json}");
    } else {
        print!("{report}");
    }
    Ok(if report.equal { Exit::Done } else { Exit::Failed })
}

/// How tables are carried that have been renamed since they were selected; none without a state folder.
async fn renamed(path: &Path, state: Option<PathBuf>) -> Result<Vec<TableChoice>> {
    let Some(reached) = reach::here(path, state).await? else { return Ok(Vec::new()) };
    let shown = reached.who.show(&reached.name).await?;
    let choices = shown.get("renamed").cloned().map(serde_json::from_value).transpose();
    Ok(choices
        .map_err(|e| Error::internal("the answer about renamed tables cannot be read").cause(e))?
        .unwrap_or_default())
}

fn show(bar: &ProgressBar, progress: &drover_validate::Progress) {
    bar.set_length(progress.estimated_rows.max(progress.source_rows).max(1));
    bar.set_position(progress.source_rows);
    bar.set_message(format!(
        "{} of {} tables, {} rows, {} keys to settle",
        progress.tables_done, progress.tables, progress.source_rows, progress.candidates
    ));
}
