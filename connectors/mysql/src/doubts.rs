//! What of a source's values may have no place here, said before the start: values that [`crate::fit`] refuses, and unique keys of text whose
//! collation here takes more for equal than the source's does.

use crate::connect::Session;
use crate::fit::Fit;
use crate::flavor::Flavor;
use crate::sql;
use crate::typemap::{Known, collate, foreign};
use crate::types::MyType;
use drover_model::doubt::{Folding, KeyDoubt, TableDoubts};
use drover_model::plan::{PlanColumn, RowFormat};
use drover_model::schema::{Catalog, Table};
use drover_model::{Result, TablePlan};
use std::collections::BTreeMap;

/// What a collation takes for equal; `None`: equal bytes only.
pub(crate) fn folding(collation: &str) -> Option<Folding> {
    let name = collation.to_ascii_lowercase();
    let binary = name == "binary" || name.ends_with("_bin");
    let case = !binary && !name.contains("_cs");
    // Old ones that fold case fold accents as well.
    let accents = !binary && !name.contains("_as_") && (case || name.contains("_ai_"));
    let spaces = name != "binary" && !name.contains("_0900_") && !name.contains("_nopad_") && !name.ends_with("_0900");
    (case || accents || spaces).then_some(Folding { collation: name, case, accents, spaces })
}

/// Collations that take at least as much for equal, for a server that does not know the one in question; best first.
pub(crate) fn foldings(folding: &Folding) -> Vec<String> {
    let names: &[&str] = match (folding.case, folding.accents) {
        (false, false) => &["utf8mb4_bin"],
        (_, false) => &["utf8mb4_0900_as_ci", "utf8mb4_uca1400_as_ci", "utf8mb4_unicode_520_ci"],
        _ => &["utf8mb4_0900_ai_ci", "utf8mb4_uca1400_ai_ci", "utf8mb4_unicode_520_ci", "utf8mb4_unicode_ci"],
    };
    // Those of Unicode 9 count spaces.
    let fits = |n: &&&str| !(folding.spaces && n.contains("_0900_"));
    names.iter().filter(fits).map(|n| (*n).to_owned()).collect()
}

/// The doubts about these tables, one for each plan.
///
/// # Errors
/// When the destination cannot be asked for the collations of tables that exist there.
pub(crate) async fn of(
    session: &mut Session,
    known: &Known,
    plans: &[TablePlan],
    catalog: &Catalog,
) -> Result<Vec<TableDoubts>> {
    let family = Flavor::of_origin(&catalog.origin).is_some();
    let mut all = Vec::with_capacity(plans.len());
    for plan in plans {
        let mut doubts = TableDoubts::default();
        if plan.format == RowFormat::Canonical {
            let columns = plan.columns.iter().enumerate();
            doubts.values = columns.filter_map(|(i, c)| Some((i as u16, value(c)?))).collect();
        }
        if let Some(table) = catalog.table(&plan.source) {
            let there = collations(session, plan).await?;
            doubts.keys = keys(plan, table, known, family, &there);
        }
        all.push(doubts);
    }
    Ok(all)
}

fn value(column: &PlanColumn) -> Option<drover_model::doubt::Doubt> {
    Fit::new(column, &MyType::parse(&column.destination_type)?).doubt(&column.data_type)
}

/// Collations of a table's columns, where it exists already.
async fn collations(session: &mut Session, plan: &TablePlan) -> Result<BTreeMap<String, String>> {
    let sql = format!(
        "SELECT LOWER(COLUMN_NAME), COLLATION_NAME FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} AND COLLATION_NAME IS NOT NULL",
        sql::text(&plan.destination.schema),
        sql::text(&plan.destination.name)
    );
    let rows: Vec<(String, String)> = session.all(sql, "cannot read the collations of a table").await?;
    Ok(rows.into_iter().collect())
}

fn keys(
    plan: &TablePlan,
    table: &Table,
    known: &Known,
    family: bool,
    there: &BTreeMap<String, String>,
) -> Vec<KeyDoubt> {
    let mut sets: Vec<(String, Vec<String>)> = table.keys.iter().map(|k| (k.name.clone(), k.columns.clone())).collect();
    for index in table.plain_indexes.iter().filter(|i| i.unique) {
        sets.push((index.name.clone(), index.columns.iter().map(|c| c.name.clone()).collect()));
    }
    let mut out: Vec<KeyDoubt> = Vec::new();
    for (name, columns) in sets {
        let places: Option<Vec<u16>> = columns.iter().map(|c| plan.column_index(c)).collect();
        let Some(places) = places.filter(|p| !p.is_empty()) else { continue };
        let columns: Vec<(u16, Option<Folding>)> = places
            .into_iter()
            .map(|p| (p, plan.columns.get(usize::from(p)).and_then(|c| of_column(c, table, known, family, there))))
            .collect();
        let doubtful = columns.iter().any(|c| c.1.is_some());
        if doubtful && !out.iter().any(|k| k.columns == columns) {
            out.push(KeyDoubt { name, columns });
        }
    }
    out
}

/// What a column here takes for equal besides what the source does.
fn of_column(
    column: &PlanColumn,
    table: &Table,
    known: &Known,
    family: bool,
    there: &BTreeMap<String, String>,
) -> Option<Folding> {
    let charset = MyType::parse(&column.destination_type)?.charset?;
    let source = table.column(&column.source)?;
    let here = match there.get(&column.destination.to_lowercase()) {
        Some(found) => found.to_ascii_lowercase(),
        None if family => {
            let of_source = source.collation.clone().unwrap_or_else(|| known.default_collation(&charset));
            collate::collation(&of_source, &charset, known).name().to_owned()
        }
        None => foreign::binary_collation(&charset, known),
    };
    if family && source.collation.as_ref().is_some_and(|s| s.eq_ignore_ascii_case(&here)) {
        return None;
    }
    // Padding of a fixed length counts nowhere, and a number as text has neither case nor blanks.
    let fixed = charset == "ascii" && !family;
    folding(&here).filter(|f| !fixed || f.case && f.accents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_collations_take_for_equal() {
        for (name, case, accents, spaces) in [
            ("utf8mb4_0900_ai_ci", true, true, false),
            ("utf8mb4_0900_as_ci", true, false, false),
            ("utf8mb4_0900_as_cs", false, false, false),
            ("utf8mb4_0900_bin", false, false, false),
            ("utf8mb4_nopad_bin", false, false, false),
            ("utf8mb4_bin", false, false, true),
            ("latin1_swedish_ci", true, true, true),
            ("utf8mb4_uca1400_nopad_as_ci", true, false, false),
            ("latin1_general_cs", false, false, true),
            ("binary", false, false, false),
        ] {
            let f = folding(name);
            let found = f.as_ref().map_or((false, false, false), |f| (f.case, f.accents, f.spaces));
            assert_eq!(found, (case, accents, spaces), "{name}");
        }
    }
}
