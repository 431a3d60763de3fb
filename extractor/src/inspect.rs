//! What of a source is selected. Pure: the catalogue and the migration file decide.

use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::{Migration, Stage};
use drover_model::schema::Catalog;
use drover_model::selection::{Candidate, Selection};
use drover_model::{Error, Fault, Result, Retry};

/// Keeps the selected tables and objects of a catalogue, and says what the operator should know: rules that match nothing, columns that
/// do not exist.
pub fn select(migration: &Migration, mut catalog: Catalog) -> Result<(Catalog, Vec<CheckItem>)> {
    catalog.sort();
    let selection = Selection::compile_within(&migration.objects, catalog.scope.as_deref()).map_err(|errors| {
        let text: Vec<String> = errors.iter().map(|e| format!("{}; {}", e.message, e.remedy)).collect();
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text.join("; "))
    })?;
    let mut items = Vec::new();
    let names: Vec<Vec<&str>> =
        catalog.tables.iter().map(|t| t.columns.iter().map(|c| c.name.as_str()).collect()).collect();
    let all: Vec<Candidate<'_>> = catalog
        .tables
        .iter()
        .zip(&names)
        .map(|(t, columns)| Candidate { schema: &t.name.schema, table: &t.name.name, columns })
        .collect();
    for text in selection.unmatched(&all) {
        items.push(CheckItem::warning("K21", "objects", text, "correct the name in [[objects]], or take the rule out"));
    }
    let mut keep = Vec::with_capacity(all.len());
    for candidate in &all {
        match selection.decide(candidate.schema, candidate.table, candidate.columns) {
            Ok(choice) => keep.push(choice.is_some()),
            Err(errors) => {
                for e in errors {
                    items.push(CheckItem::failed("K21", e.table, e.message, e.remedy));
                }
                keep.push(false);
            }
        }
    }
    let mut kept = keep.into_iter();
    catalog.tables.retain(|_| kept.next().unwrap_or(false));
    if migration.has(Stage::Full) && !migration.has(Stage::Incremental) {
        items.push(CheckItem::warning(
            "C6",
            "stages",
            "without incremental, what is written to the source while it is copied may be missing at the destination",
            "see that nothing writes to the source until the copy has ended, or select incremental",
        ));
    }
    if catalog.tables.is_empty() {
        items.push(CheckItem::failed(
            "K12",
            catalog.database.clone(),
            "no table is selected",
            "check [[objects]] and the database named in the source's url",
        ));
    }
    Ok((catalog, items))
}
