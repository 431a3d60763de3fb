//! Surveying: which tables of the source move, how they map to the destination, and whether the destination is fit for
//! them. Nothing stays changed unless every item passed; then the progress row is there.

use drover_connectors_api::Destination;
use drover_model::check::{self, CheckItem};
use drover_model::error::codes;
use drover_model::migration::{OnConflict, Stage};
use drover_model::plan::RowFormat;
use drover_model::selection::{Selection, collisions};
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::order::{Description, Outcome};

/// Number of the item "tables of the same name at the destination" among the requirements.
const SAME_NAME: &str = "K11";
/// Number of the item "the destination's structures exist and fit", without the schema stage.
const STRUCTURES: &str = "K14";
/// Number of the item "mapped names are legal and unique, columns exist".
const SELECTION: &str = "K21";

/// Whether existing tables are taken as they are.
pub fn existing_allowed(description: &Description) -> bool {
    let migration = &description.migration;
    migration.on_conflict == OnConflict::Ignore || !migration.has(Stage::Schema)
}

/// Carries the order out; gives `Surveyed`.
///
/// # Errors
/// CONFIGURATION for a selection that cannot be compiled; STATE_LOST when the destination knows another migration of this name; and those of
/// the destination.
pub async fn survey(destination: &dyn Destination, description: &Description) -> Result<Outcome> {
    let migration = &description.migration;
    let catalog = description.catalog.as_ref().ok_or_else(|| Error::internal("a survey without a catalogue"))?;
    let selection = Selection::compile(&migration.objects).map_err(|faults| {
        let what: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, what.join("; "))
    })?;
    let (mut plans, mut items, mut choices) = (Vec::new(), Vec::new(), Vec::new());
    let same_kind = migration.source.kind == migration.destination.kind;
    for table in &catalog.tables {
        let columns: Vec<&str> =
            table.columns.iter().filter(|c| c.generated.is_none()).map(|c| c.name.as_str()).collect();
        let choice = match selection.decide(&table.name.schema, &table.name.name, &columns) {
            Ok(Some(choice)) => choice,
            Ok(None) => continue,
            Err(faults) => {
                items.extend(faults.into_iter().map(|f| CheckItem::failed(SELECTION, f.table, f.message, f.remedy)));
                continue;
            }
        };
        let mapped = destination.map_table(catalog, table, &choice);
        let mut plan = mapped.plan;
        (plan.id, plan.version) = (plans.len() as u32, 1);
        // A source produces the native formats of its own kind, and cells always.
        plan.format = match mapped.formats.into_iter().next() {
            Some(best) if same_kind => best,
            _ => RowFormat::Canonical,
        };
        items.extend(mapped.items);
        plans.push(plan);
        choices.push(choice);
    }
    for c in collisions(&choices) {
        let sources: Vec<String> = c.sources.iter().map(ToString::to_string).collect();
        let cause = format!("{} would become one table", sources.join(" and "));
        items.push(CheckItem::failed(SELECTION, c.destination.to_string(), cause, "rename one of them in [[objects]]"));
    }
    let names: Vec<_> = plans.iter().map(|p| p.destination.clone()).collect();
    let there = destination.existing(&names).await?;
    items.extend(same_names(description, &there, &names));
    items.extend(destination.check(migration, &plans, catalog).await?);
    if check::passed(&items) {
        destination.prepare(description.id, &migration.name).await?;
    }
    let objects = catalog.objects.iter().filter(|o| selection.selects_object(&o.schema, &o.name)).cloned().collect();
    Ok(Outcome::Surveyed { plans, objects, items })
}

fn same_names(
    description: &Description,
    there: &[drover_connectors_api::Existing],
    wanted: &[drover_model::schema::TableName],
) -> Vec<CheckItem> {
    let migration = &description.migration;
    let fail = migration.on_conflict == OnConflict::Fail;
    let mut items = Vec::new();
    if migration.has(Stage::Schema) {
        for t in there.iter().filter(|_| fail) {
            let remedy = "drop or rename it, leave it out with exclude, or set on_conflict = \"ignore\"";
            items.push(CheckItem::failed(
                SAME_NAME,
                t.table.to_string(),
                "the table exists at the destination",
                remedy,
            ));
        }
    } else {
        for name in wanted.iter().filter(|n| !there.iter().any(|t| t.table == **n)) {
            let remedy = "create it, or add \"schema\" to stages";
            items.push(CheckItem::failed(
                STRUCTURES,
                name.to_string(),
                "the table does not exist at the destination",
                remedy,
            ));
        }
        for t in there.iter().filter(|t| fail && !t.empty && migration.has(Stage::Full)) {
            let remedy = "empty it, or set on_conflict = \"ignore\"";
            items.push(CheckItem::failed(SAME_NAME, t.table.to_string(), "the table is not empty", remedy));
        }
    }
    if items.is_empty() {
        items.push(CheckItem::passed(SAME_NAME, "tables of the same name"));
    }
    items
}
