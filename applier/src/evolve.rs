//! Plans as they change. Guarantee: the plans that changes are applied with are those of the position that they are applied at, whoever took over and
//! whenever; a change of schema that this destination cannot map without loss is refused before anything is done.
//!
//! The source's side says how rows are encoded; names and types at the destination are the destination's mapping of the same structures,
//! made anew for each change. Both are pure, so that nothing but the schema changes themselves has to be kept.

use drover_connectors_api::Destination;
use drover_model::check::Outcome;
use drover_model::ddl::{Dated, SchemaChange, Schemas, TableChange};
use drover_model::error::codes;
use drover_model::schema::{Catalog, Table};
use drover_model::selection::TableChoice;
use drover_model::{Error, Fault, Position, Result, Retry, TablePlan};
use drover_proto::order::Description;

/// Catalogue and plans of the destination's side where everything up to `have` is applied.
pub(crate) fn schemas_at(destination: &dyn Destination, d: &Description, have: &Position) -> Result<Schemas> {
    fold(destination, d, d.schema_changes.iter().filter(|c| c.position <= *have))
}

/// Catalogue and plans as the stream knows them last.
pub(crate) fn latest(destination: &dyn Destination, d: &Description) -> Result<Schemas> {
    fold(destination, d, d.schema_changes.iter())
}

/// The plan of a table as the stream knows it last, for comparisons.
pub(crate) fn latest_plan(destination: &dyn Destination, d: &Description, table: u32) -> Result<TablePlan> {
    let plans = latest(destination, d)?.plans;
    let plan = plans.iter().find(|p| p.id == table && !p.is_gone());
    plan.cloned().ok_or_else(|| Error::internal(format!("there is no table {table} any more")))
}

fn fold<'a>(
    destination: &dyn Destination,
    d: &Description,
    changes: impl Iterator<Item = &'a Dated>,
) -> Result<Schemas> {
    // Without a catalogue there is nothing that could change.
    let catalog = d.catalog.clone().unwrap_or_else(|| nothing().into());
    let mut schemas = Schemas::new(catalog, d.plans.clone());
    for dated in changes {
        let change = mapped(destination, &schemas, dated.change.clone())?;
        schemas.apply(&change);
    }
    Ok(schemas)
}

fn nothing() -> Catalog {
    Catalog {
        origin: String::new(),
        version: 0,
        version_text: String::new(),
        database: String::new(),
        scope: None,
        home: None,
        identity: String::new(),
        tables: Vec::new(),
        objects: Vec::new(),
    }
}

/// The change with plans as this destination maps them.
///
/// # Errors
/// UNSUPPORTED, with table and column, when the destination cannot hold what comes.
pub(crate) fn mapped(
    destination: &dyn Destination,
    before: &Schemas,
    mut change: SchemaChange,
) -> Result<SchemaChange> {
    for table in &mut change.tables {
        let TableChange { id: Some(_), after: Some(after), plan: Some(plan), .. } = table else { continue };
        *plan = map(destination, &before.catalog, after, plan)?;
    }
    Ok(change)
}

fn map(destination: &dyn Destination, catalog: &Catalog, table: &Table, plan: &TablePlan) -> Result<TablePlan> {
    let refused = |why: String, remedy: String| {
        Error::new(codes::UNSUPPORTED, Fault::User, Retry::Never, why).table(&table.name).remedy(remedy)
    };
    // What moves and under which names, the source's side has decided: by the rules for the name that the table was selected under.
    let choice = TableChoice { source: table.name.clone(), ..TableChoice::of(plan) };
    let found = destination.map_table(catalog, table, &choice);
    if let Some(item) = found.items.iter().find(|i| i.result == Outcome::Failed) {
        return Err(refused(
            format!("the table has changed, and cannot be carried any more: {}: {}", item.object, item.cause),
            item.remedy.clone(),
        ));
    }
    let mut mapped = found.plan;
    let encoded: Vec<&str> = plan.columns.iter().map(|c| c.source.as_str()).collect();
    let here: Vec<&str> = mapped.columns.iter().map(|c| c.source.as_str()).collect();
    if encoded != here || plan.key != mapped.key {
        let what = format!("both sides make different plans of the changed table: {encoded:?} and {here:?}");
        return Err(Error::internal(what).table(&table.name));
    }
    if !found.formats.contains(&plan.format) {
        return Err(refused(
            "the destination does not take the rows of the changed table".into(),
            "migrate it anew".into(),
        ));
    }
    for (to, from) in mapped.columns.iter_mut().zip(&plan.columns) {
        to.ordinal = from.ordinal;
    }
    Ok(TablePlan {
        id: plan.id,
        version: plan.version,
        format: plan.format.clone(),
        physical: plan.physical.clone(),
        ..mapped
    })
}
