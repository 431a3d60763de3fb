//! Writing SQL text: every name is quoted, every literal escaped, so that any name a database allows passes through.

use drover_model::TablePlan;
use drover_model::schema::TableName;

/// A quoted identifier.
pub fn ident(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    push_ident(&mut out, name);
    out
}

/// Appends a quoted identifier.
pub fn push_ident(out: &mut String, name: &str) {
    out.push('"');
    for c in name.chars() {
        if c == '"' {
            out.push('"');
        }
        out.push(c);
    }
    out.push('"');
}

/// A string literal that means the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 3);
    if text.contains('\\') {
        out.push('E');
    }
    out.push('\'');
    for c in text.chars() {
        if c == '\'' || c == '\\' {
            out.push(c);
        }
        out.push(c);
    }
    out.push('\'');
    out
}

/// A qualified, quoted table name.
pub fn table(name: &TableName) -> String {
    let mut out = String::new();
    push_ident(&mut out, &name.schema);
    out.push('.');
    push_ident(&mut out, &name.name);
    out
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
    fn names_and_texts_are_quoted() {
        assert_eq!(ident(r#"weird "name"#), r#""weird ""name""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b'"), r"E'a\\b'''");
        assert_eq!(table(&TableName::new("a.b", "c")), r#""a.b"."c""#);
    }
}
