//! Numbers that rows get when a table gets an AUTO_INCREMENT column. Pure. Guarantee: such a change is only carried over if the destination comes to
//! the same number for each row; rows are named by these numbers in all that follows.

use crate::catalog::create::{Index, KeyPart};
use crate::types::MyType;
use drover_model::ddl::TableChange;
use drover_model::schema::Table;

/// Whether each row gets the number that it has at the source. `steps`: the session's numbers are not 1, 2, 3 …
///
/// # Errors
/// Why not.
pub fn told(change: &TableChange, steps: bool) -> Result<(), String> {
    let (Some(before), Some(after)) = (&change.before, &change.after) else { return Ok(()) };
    if change.apart {
        return Ok(());
    }
    let filled = |name: &str| {
        change.anew.iter().any(|c| c == name)
            || before.column(name).is_none() && !change.renamed.iter().any(|(_, to)| to == name)
    };
    let Some(column) = after.columns.iter().find(|c| c.identity.is_some() && filled(&c.name)) else { return Ok(()) };
    let why = match unordered(before) {
        Some(why) => why,
        None if steps => "by steps of the session (auto_increment_increment, auto_increment_offset)".into(),
        None => return Ok(()),
    };
    Err(format!(
        "rows that are there get numbers in the new column {} {why}, which cannot be repeated elsewhere; \
         add the column without AUTO_INCREMENT, fill it, and make it AUTO_INCREMENT then",
        column.name
    ))
}

/// Why rows do not stand in the same order on each server: it is that of the primary key, in InnoDB.
fn unordered(table: &Table) -> Option<String> {
    let by_place = Some("in the order in which they happen to be stored".to_owned());
    if table.options.get("engine").is_some_and(|e| !e.eq_ignore_ascii_case("InnoDB")) {
        return by_place;
    }
    let Some(key) = table.parts.iter().find(|p| p.kind == "primary key") else { return by_place };
    for part in Index::parse(&key.definition).map(|i| i.parts).unwrap_or_default() {
        let KeyPart::Column { name, .. } = part else { continue };
        let column = table.columns.iter().find(|c| c.name.eq_ignore_ascii_case(&name))?;
        let text =
            MyType::parse(&column.origin_type).is_some_and(|t| t.is_text() && t.charset.as_deref() != Some("binary"));
        if text && !column.collation.as_deref().is_some_and(|c| c.ends_with("_bin")) {
            return Some(format!("in the order of the texts in {}", column.name));
        }
    }
    None
}
