//! `drover check --scan`: where a column's type alone does not say whether its values fit, the source looks at them before the start; without
//! `--scan` the precheck says where that is worth while.

use crate::progress::Bars;
use drover_connectors_api::{Destination, Source};
use drover_model::check::{CheckItem, Outcome};
use drover_model::doubt::{Alike, Doubt, Found, KeyDoubt, Scanned, TableDoubts};
use drover_model::plan::{Misfit, PlanColumn};
use drover_model::schema::Catalog;
use drover_model::{Result, TablePlan};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The item that all of this is about: values that the destination's types hold.
const ITEM: &str = "K17";
/// Without a terminal a line comes so often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Which tables have something in doubt, and what.
pub async fn doubts<'p>(
    source: &dyn Source,
    destination: &dyn Destination,
    plans: &'p [TablePlan],
    catalog: &Catalog,
) -> Result<Vec<(&'p TablePlan, TableDoubts)>> {
    let all = destination.doubts(plans, catalog).await?;
    let mut out = Vec::new();
    for (plan, mut doubts) in plans.iter().zip(all) {
        doubts.values.retain(|(c, d)| plan.columns.get(usize::from(*c)).is_some_and(|c| source.may_hold(c, d)));
        if !doubts.is_empty() {
            out.push((plan, doubts));
        }
    }
    Ok(out)
}

/// What was not looked at: an item for each table.
pub fn advice(doubts: &[(&TablePlan, TableDoubts)]) -> Vec<CheckItem> {
    let item = |(plan, doubts): &(&TablePlan, TableDoubts)| {
        let columns: Vec<&str> = doubts.values.iter().filter_map(|(c, _)| name(plan, *c)).collect();
        let keys: Vec<&str> = doubts.keys.iter().map(|k| k.name.as_str()).collect();
        let mut parts = Vec::new();
        if !columns.is_empty() {
            parts.push(format!("whether all values of {} fit", columns.join(", ")));
        }
        if !keys.is_empty() {
            parts.push(format!("whether {} stays unique", keys.join(", ")));
        }
        let cause = format!("not looked at, for only the rows can say: {}", parts.join("; "));
        CheckItem {
            remedy: "`drover check --scan FILE` looks at the rows at the source".to_owned(),
            ..CheckItem::skipped(ITEM, plan.source.to_string(), cause)
        }
    };
    doubts.iter().map(item).collect()
}

/// Looks at all of them, one table after the other, with a line of progress.
pub async fn scan(source: &dyn Source, doubts: &[(&TablePlan, TableDoubts)], bars: &Bars) -> Result<Vec<CheckItem>> {
    let mut items = Vec::new();
    let bar = bars.one();
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let all: u64 = doubts.iter().map(|(p, _)| p.rows).sum();
    let line = Line { bar, all, done: 0, told: Mutex::new(Instant::now()) };
    let mut line = line;
    for (n, (plan, doubts)) in doubts.iter().enumerate() {
        let told = |rows: u64| line.tell(&plan.source.to_string(), n, rows);
        let found = source.scan(plan, doubts, &told).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                line.bar.finish_and_clear();
                return Err(error);
            }
        };
        line.done += found.rows.max(plan.rows);
        let since = items.len();
        values(plan, doubts, &found, &mut items);
        keys(plan, doubts, &found, &mut items);
        if items.len() == since {
            let cause = format!("{} rows looked at", found.rows);
            items.push(CheckItem { cause, ..CheckItem::passed(ITEM, format!("{} rows", plan.source)) });
        }
    }
    line.bar.finish_and_clear();
    Ok(items)
}

/// The line of progress.
struct Line {
    bar: ProgressBar,
    /// Rows as estimated.
    all: u64,
    done: u64,
    told: Mutex<Instant>,
}

impl Line {
    fn tell(&self, table: &str, number: usize, rows: u64) {
        let done = self.done + rows;
        self.bar.set_length(self.all.max(done).max(1));
        self.bar.set_position(done);
        self.bar.set_message(format!("looking at {table}: {rows} rows"));
        let Ok(mut told) = self.told.lock() else { return };
        if self.bar.is_hidden() && told.elapsed() >= PLAIN_EVERY {
            *told = Instant::now();
            tracing::info!("table {} of the scan, {table}: {rows} rows, {done} of about {}", number + 1, self.all);
        }
    }
}

fn name(plan: &TablePlan, column: u16) -> Option<&str> {
    plan.columns.get(usize::from(column)).map(|c| c.source.as_str())
}

fn at(keys: &[String]) -> String {
    if keys.is_empty() { String::new() } else { format!("; for example at {}", keys.join("; ")) }
}

fn values(plan: &TablePlan, doubts: &TableDoubts, found: &Scanned, items: &mut Vec<CheckItem>) {
    for ((column, doubt), (count, keys)) in doubts.values.iter().zip(&found.values) {
        let Some(column) = plan.columns.get(usize::from(*column)).filter(|_| *count > 0) else { continue };
        items.push(CheckItem {
            found: Some(Found {
                table: plan.source.to_string(),
                columns: vec![column.source.clone()],
                count: *count,
                keys: keys.clone(),
            }),
            ..value(plan, column, doubt, *count, keys)
        });
    }
}

fn value(plan: &TablePlan, column: &PlanColumn, doubt: &Doubt, count: u64, keys: &[String]) -> CheckItem {
    let object = format!("{}.{}", plan.source, column.source);
    let cause = format!(
        "{count} values have no place in a column of type {} ({}){}",
        column.destination_type,
        doubt.what(),
        at(keys)
    );
    let name = &column.source;
    match column.misfit {
        Misfit::Null | Misfit::Clamp => {
            let becomes = if column.misfit == Misfit::Null {
                "null takes their place"
            } else {
                "the nearest value takes their place"
            };
            let remedy = format!("nothing, if that is meant: on_misfit is set for {name}");
            CheckItem {
                result: Outcome::Warning,
                ..CheckItem::failed(ITEM, object, format!("{cause}; {becomes}"), remedy)
            }
        }
        Misfit::Fail | Misfit::Text => CheckItem::failed(
            ITEM,
            object,
            cause,
            format!(
                "correct them at the source, or decide what becomes of such values: columns = {{ on_misfit = {{ {name} = \"null\" }} }} \
                 (or \"clamp\", or \"text\": the column becomes a text), or leave the column out"
            ),
        ),
    }
}

fn keys(plan: &TablePlan, doubts: &TableDoubts, found: &Scanned, items: &mut Vec<CheckItem>) {
    for (key, alike) in doubts.keys.iter().zip(&found.keys).filter(|(_, a)| a.values > 0) {
        let columns = key.columns.iter().filter_map(|(c, _)| name(plan, *c)).map(str::to_owned).collect();
        items.push(CheckItem {
            found: Some(Found {
                table: plan.source.to_string(),
                columns,
                count: alike.values,
                keys: alike.examples.clone(),
            }),
            ..collision(plan, key, alike)
        });
    }
}

fn collision(plan: &TablePlan, key: &KeyDoubt, alike: &Alike) -> CheckItem {
    let collations: Vec<&str> = key.columns.iter().filter_map(|(_, f)| Some(f.as_ref()?.collation.as_str())).collect();
    let cause = format!(
        "{} values of the unique key {} are each of several rows that the destination ({}) takes for equal{}",
        alike.values,
        key.name,
        collations.join(", "),
        at(&alike.examples)
    );
    let object = plan.source.to_string();
    if alike.rough {
        let remedy = "they were compared in a collation that the source has, and which takes more for equal: look at them, and correct what collides";
        return CheckItem::warning(ITEM, object, format!("{cause} (perhaps)"), remedy);
    }
    let remedy = "change one of each pair at the source, or give the columns a collation at the destination that tells them apart";
    CheckItem::failed(ITEM, object, cause, remedy)
}
