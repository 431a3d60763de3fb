//! `drover validate`: both sides compared row by row, from this process; correct while changes flow.

use crate::exit::Exit;
use crate::progress::Bars;
use crate::{check, factories, file};
use drover_model::error::codes;
use drover_model::migration::Stage;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_validate::{Options, only, validate};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// Compares, prints the report, and says how it came out.
pub async fn run(path: &Path, tables: &[String], as_json: bool, bars: Bars) -> Result<Exit> {
    let migration = file::read(path)?;
    let (source, destination) = tokio::try_join!(
        factories::source(&migration, MigrationId::nil(), 0),
        factories::destination(&migration, MigrationId::nil())
    )?;
    let (_, plans) = check::plans(&*source, &*destination, &migration).await?;
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

fn show(bar: &ProgressBar, progress: &drover_validate::Progress) {
    bar.set_length(progress.estimated_rows.max(progress.source_rows).max(1));
    bar.set_position(progress.source_rows);
    bar.set_message(format!(
        "{} of {} tables, {} rows, {} keys to settle",
        progress.tables_done, progress.tables, progress.source_rows, progress.candidates
    ));
}
