//! `drover check`: connectivity and the precheck, from this process, changing nothing.

use crate::exit::Exit;
use crate::progress::Bars;
use crate::{factories, file, scan};
use drover_connectors_api::{Destination, Source};
use drover_model::check::{self, CheckItem, Outcome};
use drover_model::migration::{Endpoint, Migration};
use drover_model::schema::Catalog;
use drover_model::{Error, MigrationId, Result, TablePlan};
use serde_json::json;
use std::path::Path;

/// Tables whose rows were not looked at, at most so many lines.
const LINES: usize = 20;

/// Checks, prints, and says how it came out.
pub async fn run(path: &Path, rows: bool, as_json: bool, bars: Bars) -> Result<Exit> {
    let migration = file::read(path)?;
    let items = items(&migration, rows, &bars).await?;
    let passed = check::passed(&items);
    if as_json {
        println!("{}", json!({ "passed": passed, "items": items }));
    } else {
        print!("{}", render(&items));
    }
    Ok(if passed { Exit::Done } else { Exit::Precheck })
}

/// Opens both sides; a side that cannot be reached is an item, not an error.
async fn items(migration: &Migration, rows: bool, bars: &Bars) -> Result<Vec<CheckItem>> {
    let id = MigrationId::nil();
    let (source, destination) =
        tokio::join!(factories::source(migration, id, 0), factories::destination(migration, id));
    let mut items = Vec::new();
    let reached = source.is_ok() && destination.is_ok();
    let sides = [
        ("K1", "source", source.as_ref().err(), &migration.source),
        ("K3", "destination", destination.as_ref().err(), &migration.destination),
    ];
    for (item, side, error, endpoint) in sides {
        match error {
            Some(error) => items.push(unreachable(item, side, error, endpoint).await),
            // The side itself says more, unless nobody asks it.
            None if !reached => items.push(CheckItem::passed(item, side)),
            None => {}
        }
    }
    if let (Ok(source), Ok(destination)) = (source, destination) {
        let (found, plans, catalog) = look(&*source, &*destination, migration).await?;
        items.extend(found);
        let doubts = scan::doubts(&*source, &*destination, &plans, &catalog).await?;
        items.extend(if rows { scan::scan(&*source, &doubts, bars).await? } else { scan::advice(&doubts) });
    }
    Ok(items)
}

async fn unreachable(item: &str, side: &str, error: &Error, endpoint: &Endpoint) -> CheckItem {
    let mut cause = std::iter::once(error.message.clone()).chain(error.causes.clone()).collect::<Vec<_>>().join(": ");
    // What a firewall or an allow list there has to let in.
    if let Some(address) = drover_runtime::outgoing::address(&endpoint.url.host).await {
        cause.push_str(&format!("; this machine goes there from {address}"));
    }
    let remedy = error.remedy.clone().unwrap_or_else(|| {
        "check host, port, user and password in the migration file, that the server runs, and that it lets this machine in".into()
    });
    CheckItem::failed(item, side, cause, remedy)
}

/// The precheck of both sides for the selected tables, with the plans that it found.
pub async fn look(
    source: &dyn Source,
    destination: &dyn Destination,
    migration: &Migration,
) -> Result<(Vec<CheckItem>, Vec<TablePlan>, Catalog)> {
    let (catalog, mut items) = drover_extractor::select(migration, source.catalog().await?)?;
    let survey = drover_applier::survey(destination, migration, &catalog).await?;
    items.extend(survey.items);
    items.extend(source.check(migration, &survey.plans, &catalog).await?);
    Ok((items, survey.plans, catalog))
}

/// The selected catalogue and the plans of its tables at this destination, without any check.
pub async fn plans(
    source: &dyn Source,
    destination: &dyn Destination,
    migration: &Migration,
) -> Result<(Catalog, Vec<TablePlan>)> {
    let (catalog, _) = drover_extractor::select(migration, source.catalog().await?)?;
    let plans = drover_applier::map(destination, migration, &catalog)?.plans;
    Ok((catalog, plans))
}

/// The items for people: what needs attention first.
pub fn render(items: &[CheckItem]) -> String {
    let mut text = String::new();
    let of = |wanted: Outcome| items.iter().filter(move |i| i.result == wanted);
    for (wanted, word) in [(Outcome::Failed, "failed"), (Outcome::Warning, "warning")] {
        for item in of(wanted) {
            text.push_str(&format!("{word:8} {:4} {}: {}\n", item.item, item.object, item.cause));
            if !item.remedy.is_empty() {
                text.push_str(&format!("              {}\n", item.remedy));
            }
        }
    }
    let unseen: Vec<&CheckItem> = of(Outcome::Skipped).filter(|i| !i.remedy.is_empty()).collect();
    for item in unseen.iter().take(LINES) {
        text.push_str(&format!("skipped  {:4} {}: {}\n", item.item, item.object, item.cause));
    }
    if let Some(item) = unseen.first() {
        let more = unseen.len().saturating_sub(LINES);
        let more = if more > 0 { format!("and {more} more, which --json lists; ") } else { String::new() };
        text.push_str(&format!("              {more}{}\n", item.remedy));
    }
    // As whom and from where.
    for item in of(Outcome::Passed).filter(|i| ["K1", "K3"].contains(&i.item.as_str()) && !i.cause.is_empty()) {
        text.push_str(&format!("passed   {:4} {}: {}\n", item.item, item.object, item.cause));
    }
    for (wanted, word) in [(Outcome::Skipped, "skipped"), (Outcome::Passed, "passed")] {
        let mut list: Vec<&str> = of(wanted).map(|i| i.item.as_str()).collect();
        list.dedup();
        if !list.is_empty() {
            text.push_str(&format!("{word:8} {}\n", list.join(" ")));
        }
    }
    let (failed, warnings) = (of(Outcome::Failed).count(), of(Outcome::Warning).count());
    let verdict = if failed == 0 { "passed" } else { "failed" };
    text.push_str(&format!("precheck {verdict}: {failed} errors, {warnings} warnings, {} items\n", items.len()));
    text
}
