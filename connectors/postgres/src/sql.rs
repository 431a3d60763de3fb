//! Writing names and values into statements. Everything that comes from a catalogue or a file passes here.

use drover_model::TablePlan;
use drover_model::schema::TableName;

/// A name, quoted.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Schema and name, quoted.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// A text literal, whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A table's name, quoted.
pub fn table(name: &TableName) -> String {
    qualified(&name.schema, &name.name)
}

/// The destination names of a plan's columns, quoted, with commas between.
pub fn destination_columns(plan: &TablePlan) -> String {
    list(plan.columns.iter().map(|c| ident(&c.destination)))
}

/// Items with commas between.
pub fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_are_inert() {
        assert_eq!(qualified("a", r#"b"c"#), r#""a"."b""c""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
