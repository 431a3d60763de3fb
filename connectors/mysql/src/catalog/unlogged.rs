//! Foreign keys that change rows without a trace in the binary log. InnoDB executes CASCADE and SET NULL below the server, which logs the parent's
//! change only: so do all versions of MariaDB, and MySQL before 9.6, or since then where it is told to.

use super::create::{Foreign, Part, PartKind};
use crate::connect::Session;
use drover_model::Result;
use drover_model::schema::{Effect, TableName, Unlogged};

/// Whether this server's foreign keys act without a trace.
pub(crate) async fn silent(session: &mut Session) -> Result<bool> {
    if session.version.is_mariadb() || !session.version.mysql(90_600) {
        return Ok(true);
    }
    let sql = "SHOW VARIABLES LIKE 'innodb_native_foreign_keys'";
    let native: Option<(String, String)> = session.first(sql, super::READING).await?;
    Ok(native.is_some_and(|(_, v)| v.eq_ignore_ascii_case("ON") || v == "1"))
}

/// The foreign keys of a table that do something to its rows.
pub(crate) fn read(table: &TableName, parts: &[Part]) -> Vec<Unlogged> {
    let foreign = parts.iter().filter(|p| p.kind == PartKind::Foreign);
    foreign
        .filter_map(|part| {
            let key = Foreign::parse(&part.text)?;
            let (on_delete, on_update) = (effect(&key.actions, "ON DELETE"), effect(&key.actions, "ON UPDATE"));
            (on_delete.is_some() || on_update.is_some()).then(|| Unlogged {
                name: part.name.clone(),
                parent: TableName::new(key.schema.unwrap_or_else(|| table.schema.clone()), key.table),
                columns: key.columns,
                references: key.foreign_columns,
                on_delete,
                on_update,
            })
        })
        .collect()
}

/// What follows an event in a foreign key's actions; everything else refuses the parent's change, and leaves no effect.
fn effect(actions: &str, event: &str) -> Option<Effect> {
    let words: Vec<String> = actions.split_whitespace().map(str::to_uppercase).collect();
    let event: Vec<&str> = event.split(' ').collect();
    let at = words.windows(2).position(|w| w == event)?;
    match (words.get(at + 2)?.as_str(), words.get(at + 3).map(String::as_str)) {
        ("CASCADE", _) => Some(Effect::Cascade),
        ("SET", Some("NULL")) => Some(Effect::SetNull),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_that_change_rows() {
        let text = "ON DELETE CASCADE ON UPDATE SET NULL";
        assert_eq!(effect(text, "ON DELETE"), Some(Effect::Cascade));
        assert_eq!(effect(text, "ON UPDATE"), Some(Effect::SetNull));
        for text in ["", "ON DELETE RESTRICT", "ON DELETE NO ACTION ON UPDATE CASCADE", "ON DELETE SET DEFAULT"] {
            assert_eq!(effect(text, "ON DELETE"), None, "{text}");
        }
    }
}
