//! What of a table can be told in no dialect: defaults, indexes, foreign keys. For destinations of other kinds.

use super::create::{Definition, Foreign, Index, KeyPart, PartKind};
use super::lex::{self, Kind as Token};
use crate::types::{Kind, MyType};
use drover_model::schema::{Action, IndexColumn, PlainDefault, PlainForeignKey, PlainIndex, TableName};

/// A default as the server prints it. `None`: an expression, or a value that it does not print whole.
pub(crate) fn default(printed: &str, my: &MyType) -> Option<PlainDefault> {
    let tokens = lex::words(printed);
    let (first, rest) = tokens.split_first()?;
    if ["CURRENT_TIMESTAMP", "NOW", "LOCALTIMESTAMP"].iter().any(|w| first.is(w)) {
        return Some(PlainDefault::Now);
    }
    // `_utf8mb4'a'`
    let (first, rest) = match rest.split_first() {
        Some((next, after)) if first.text.starts_with('_') && next.kind == Token::Literal => (next, after),
        _ => (first, rest),
    };
    let bare = printed.trim();
    let digits = |text: &str| text.len() > 2 && (text.starts_with("b'") || text.starts_with("x'"));
    if digits(&bare.to_ascii_lowercase()) {
        let inner = bare.get(2..bare.len() - 1)?;
        return match (&my.kind, bare.as_bytes()[0].to_ascii_lowercase()) {
            (Kind::Bit { length }, b'b') => {
                let width = usize::from(*length);
                Some(PlainDefault::Value(format!("{inner:0>width$}")))
            }
            (Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. }, b'x') => {
                Some(PlainDefault::Value(inner.to_ascii_lowercase()))
            }
            _ => None,
        };
    }
    let bytes = matches!(my.kind, Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. });
    if bytes && bare.starts_with("0x") && rest.is_empty() {
        return Some(PlainDefault::Value(bare[2..].to_ascii_lowercase()));
    }
    let value = match first.kind {
        Token::Literal if rest.is_empty() => lex::unescape(first.text),
        // A number, perhaps with a sign, which is a token of its own.
        _ if bare.parse::<f64>().is_ok() && !bare.contains(['n', 'N', 'i', 'I']) => bare.to_owned(),
        _ => return None,
    };
    // What is no UTF-8 is not printed whole; nor is anything but ASCII of bytes.
    if value.contains('\u{fffd}') || bytes && !value.is_ascii() {
        return None;
    }
    Some(PlainDefault::Value(match &my.kind {
        Kind::Binary { length } => {
            let mut hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
            while hex.len() < 2 * *length as usize {
                hex.push_str("00");
            }
            hex
        }
        Kind::VarBinary { .. } | Kind::Blob { .. } => value.bytes().map(|b| format!("{b:02x}")).collect(),
        // Printed in the session's time zone, which is UTC.
        Kind::Timestamp { .. } => value + "+00",
        Kind::Int { .. } | Kind::Year | Kind::Decimal { .. } => unpadded(&value),
        Kind::Bit { .. } | Kind::Geometry { .. } | Kind::Vector { .. } => return None,
        _ => value,
    }))
}

/// ZEROFILL prints leading zeros.
fn unpadded(value: &str) -> String {
    let (sign, digits) = value.strip_prefix('-').map_or(("", value), |d| ("-", d));
    let whole = digits.find('.').unwrap_or(digits.len());
    let zeros = digits[..whole.saturating_sub(1)].bytes().take_while(|b| *b == b'0').count();
    format!("{sign}{}", &digits[zeros..])
}

/// Indexes of columns; those of expressions, of words in a text and of places are left out.
pub(crate) fn indexes(definition: &Definition) -> Vec<PlainIndex> {
    let parts = definition.parts.iter();
    parts
        .filter_map(|part| {
            let index = Index::parse(&part.text)?;
            let wanted = match part.kind {
                PartKind::Unique | PartKind::Index => true,
                // On beginnings of texts it names no rows: a unique index like others.
                PartKind::Primary => index.whole_columns().is_none(),
                _ => false,
            };
            if !wanted {
                return None;
            }
            let columns: Option<Vec<IndexColumn>> = index
                .parts
                .into_iter()
                .map(|p| match p {
                    KeyPart::Column { name, prefix, descending } => Some(IndexColumn { name, prefix, descending }),
                    KeyPart::Expression { .. } => None,
                })
                .collect();
            Some(PlainIndex { name: part.name.clone(), unique: part.kind != PartKind::Index, columns: columns? })
        })
        .collect()
}

/// Foreign keys.
pub(crate) fn foreign_keys(table: &TableName, definition: &Definition) -> Vec<PlainForeignKey> {
    let parts = definition.parts.iter().filter(|p| p.kind == PartKind::Foreign);
    parts
        .filter_map(|part| {
            let key = Foreign::parse(&part.text)?;
            Some(PlainForeignKey {
                name: part.name.clone(),
                on_delete: action(&key.actions, "ON DELETE"),
                on_update: action(&key.actions, "ON UPDATE"),
                columns: key.columns,
                parent: TableName::new(key.schema.unwrap_or_else(|| table.schema.clone()), key.table),
                references: key.foreign_columns,
            })
        })
        .collect()
}

fn action(actions: &str, event: &str) -> Action {
    let upper = actions.to_uppercase();
    match upper.split_once(event).map(|(_, after)| after.trim_start()) {
        Some(after) if after.starts_with("CASCADE") => Action::Cascade,
        Some(after) if after.starts_with("SET NULL") => Action::SetNull,
        Some(after) if after.starts_with("SET DEFAULT") => Action::SetDefault,
        _ => Action::Restrict,
    }
}

/// Whether a collation takes texts for equal that are not: all but those of bytes and of the newest case-sensitive kind. Most of the former
/// still pay no regard to spaces at the end.
pub(crate) fn folds(collation: Option<&str>) -> bool {
    collation.is_some_and(|c| !(c == "binary" || c.ends_with("_bin") || c.ends_with("_0900_as_cs")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(printed: &str, column_type: &str) -> Option<String> {
        match default(printed, &MyType::parse(column_type).unwrap())? {
            PlainDefault::Value(value) => Some(value),
            PlainDefault::Now => Some("now".into()),
        }
    }

    #[test]
    fn defaults_without_a_dialect() {
        for (printed, column_type, wanted) in [
            ("'it''s'", "varchar(10) character set latin1", Some("it's")),
            ("_utf8mb4'a'", "varchar(10) character set utf8mb4", Some("a")),
            ("'007'", "int(3) unsigned zerofill", Some("7")),
            ("-1.50", "decimal(5,2)", Some("-1.50")),
            ("0", "tinyint(1)", Some("0")),
            ("b'101'", "bit(5)", Some("00101")),
            ("x'4142'", "varbinary(4)", Some("4142")),
            ("0x41", "binary(1)", Some("41")),
            ("'ab'", "binary(4)", Some("61620000")),
            ("CURRENT_TIMESTAMP(6)", "datetime(6)", Some("now")),
            ("current_timestamp()", "timestamp", Some("now")),
            ("'2020-01-01 00:00:00'", "timestamp", Some("2020-01-01 00:00:00+00")),
            ("'a,b'", "set('a','b') character set utf8mb4", Some("a,b")),
            ("(uuid())", "varchar(36) character set utf8mb4", None),
            ("uuid()", "uuid", None),
            ("nextval(`d`.`s`)", "bigint(20)", None),
        ] {
            assert_eq!(of(printed, column_type).as_deref(), wanted, "{printed}");
        }
    }

    #[test]
    fn actions_of_foreign_keys() {
        assert_eq!(action("ON DELETE CASCADE ON UPDATE SET NULL", "ON DELETE"), Action::Cascade);
        assert_eq!(action("ON DELETE CASCADE ON UPDATE SET NULL", "ON UPDATE"), Action::SetNull);
        assert_eq!(action("ON DELETE NO ACTION", "ON DELETE"), Action::Restrict);
        assert_eq!(action("", "ON UPDATE"), Action::Restrict);
    }
}
