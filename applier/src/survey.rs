//! From a source's catalogue to the plans of its tables at one destination. The destination's mapping is pure; what exists there already
//! is the one thing looked at.

use crate::compact::links;
use drover_connectors_api::Destination;
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::{Migration, OnConflict, Stage};
use drover_model::plan::RowFormat;
use drover_model::schema::{Catalog, Object, Table};
use drover_model::selection::{Selection, TableChoice, collisions};
use drover_model::{Error, Fault, Result, Retry, TablePlan};

/// What a survey finds.
pub struct Survey {
    pub plans: Vec<TablePlan>,
    /// Objects besides tables that move.
    pub objects: Vec<Object>,
    pub items: Vec<CheckItem>,
}

/// Maps the selected tables (the catalogue has these only) to the destination. Needs no network.
pub fn map(destination: &dyn Destination, migration: &Migration, catalog: &Catalog) -> Result<Survey> {
    let selection = Selection::compile_within(&migration.objects, catalog.scope.as_deref()).map_err(|errors| {
        let text: Vec<String> = errors.iter().map(|e| format!("{}; {}", e.message, e.remedy)).collect();
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text.join("; "))
    })?;
    let selection = selection.reading(migration.floats);
    let (mut plans, mut items, mut choices) = (Vec::new(), Vec::new(), Vec::new());
    for table in &catalog.tables {
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let choice = match selection.decide(&table.name.schema, &table.name.name, &columns) {
            Ok(Some(choice)) => choice,
            Ok(None) => continue,
            Err(errors) => {
                items.extend(errors.into_iter().map(|e| CheckItem::failed("K21", e.table, e.message, e.remedy)));
                continue;
            }
        };
        let (mut plan, found) = plan(destination, catalog, table, &choice);
        items.extend(found);
        plan.id = plans.len() as u32;
        // A destination may know better where a table belongs.
        let (schema, table) = (plan.destination.schema.clone(), plan.destination.name.clone());
        plans.push(plan);
        choices.push(TableChoice { schema, table, ..choice });
    }
    for collision in collisions(&choices) {
        let sources: Vec<String> = collision.sources.iter().map(ToString::to_string).collect();
        items.push(CheckItem::failed(
            "K21",
            collision.destination.to_string(),
            format!("{} would become one table", sources.join(" and ")),
            "give one of them another name by rename in [[objects]]",
        ));
    }
    if migration.has(Stage::Incremental) {
        items.extend(links::obstacles(catalog, &plans));
    }
    let objects = catalog
        .objects
        .iter()
        .filter(|o| selection.selects_object(&o.schema, &o.name) || needed(o, catalog))
        .cloned()
        .collect();
    Ok(Survey { plans, objects, items })
}

/// The plan of one table, without a number, and what was found.
fn plan(
    destination: &dyn Destination,
    catalog: &Catalog,
    table: &Table,
    choice: &TableChoice,
) -> (TablePlan, Vec<CheckItem>) {
    let mapped = destination.map_table(catalog, table, choice);
    let mut plan = mapped.plan;
    plan.version = 1;
    for column in &mut plan.columns {
        column.ordinal = table.columns.iter().position(|c| c.name == column.source).map(|i| i as u16);
    }
    // Native formats are offered to sources that have them only; the destination's best comes first.
    plan.format = mapped.formats.into_iter().next().unwrap_or(RowFormat::Canonical);
    (plan, mapped.items)
}

/// Plans of [`map`] as tables are carried that have been renamed since they were selected: these choices go before those of the file.
pub fn renamed(destination: &dyn Destination, catalog: &Catalog, plans: &mut [TablePlan], choices: &[TableChoice]) {
    for choice in choices {
        let (Some(table), Some(place)) =
            (catalog.table(&choice.source), plans.iter_mut().find(|p| p.source == choice.source))
        else {
            continue;
        };
        *place = TablePlan { id: place.id, ..plan(destination, catalog, table, choice).0 };
    }
}

/// Objects that selected tables cannot do without move with them, whatever else is selected: they say so themselves.
fn needed(object: &Object, catalog: &Catalog) -> bool {
    let Some(tables) = object.options.get("needed_by") else { return false };
    tables.split('\n').any(|t| catalog.tables.iter().any(|table| table.name.to_string() == t))
}

/// The destination's side of the precheck, with what the mapping found.
pub async fn survey(destination: &dyn Destination, migration: &Migration, catalog: &Catalog) -> Result<Survey> {
    let mut found = map(destination, migration, catalog)?;
    let schema = migration.has(Stage::Schema);
    let names: Vec<_> = found.plans.iter().map(|p| p.destination.clone()).collect();
    let existing = destination.existing(&names).await?;
    if migration.on_conflict == OnConflict::Fail {
        for table in &existing {
            if schema {
                found.items.push(CheckItem::failed(
                    "K11",
                    table.table.to_string(),
                    "a table of this name exists at the destination",
                    "rename or drop it there, map the source's to another name, or set on_conflict = \"ignore\"",
                ));
            } else if !table.empty {
                found.items.push(CheckItem::failed(
                    "K11",
                    table.table.to_string(),
                    "the table at the destination is not empty",
                    "empty it, or set on_conflict = \"ignore\"",
                ));
            }
        }
        if existing.is_empty() && schema {
            found.items.push(CheckItem::passed("K11", "destination"));
        }
    } else {
        found.items.push(CheckItem::skipped("K11", "destination", "on_conflict = \"ignore\""));
    }
    if !schema {
        for name in names.iter().filter(|n| !existing.iter().any(|e| e.table == **n)) {
            found.items.push(CheckItem::failed(
                "K14",
                name.to_string(),
                "the table does not exist at the destination, and the schema stage is not selected",
                "create it, or add \"schema\" to stages",
            ));
        }
    }
    found.items.extend(destination.check(migration, &found.plans, catalog).await?);
    Ok(found)
}
