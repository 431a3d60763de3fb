//! What other kinds of databases can have as well, in no dialect: indexes of plain columns, foreign keys, defaults that are values.

use super::Rowed;
use drover_model::schema::{Action, DataType, IndexColumn, PlainDefault, PlainForeignKey, PlainIndex, TableName};
use tokio_postgres::Row;

/// A unique constraint in no dialect; `None`: it is checked late, or takes nulls for equal.
pub(super) fn unique(k: &Row) -> Rowed<Option<PlainIndex>> {
    if k.try_get::<_, bool>("is_deferrable")?
        || k.try_get::<_, bool>("nulls_alike")?
        || !k.try_get::<_, bool>("valid")?
    {
        return Ok(None);
    }
    let columns: Vec<String> = k.try_get("columns")?;
    let columns = columns.into_iter().map(|name| IndexColumn { name, prefix: None, descending: false }).collect();
    Ok(Some(PlainIndex { name: k.try_get("name")?, unique: true, columns }))
}

/// An index in no dialect; `None`: it has expressions or a condition, is of another method, or takes nulls for equal.
pub(super) fn index(x: &Row) -> Rowed<Option<PlainIndex>> {
    let names: Vec<String> = x.try_get("columns")?;
    let descending: Vec<bool> = x.try_get("descending")?;
    let method: String = x.try_get("method")?;
    let plain = !x.try_get::<_, bool>("has_expressions")?
        && !x.try_get::<_, bool>("is_partial")?
        && !x.try_get::<_, bool>("nulls_alike")?
        && x.try_get::<_, bool>("valid")?
        && (method == "btree" || method == "hash")
        && names.iter().all(|n| !n.is_empty());
    if !plain {
        return Ok(None);
    }
    let columns = names.into_iter().enumerate().map(|(i, name)| IndexColumn {
        name,
        prefix: None,
        descending: descending.get(i).copied().unwrap_or_default(),
    });
    Ok(Some(PlainIndex { name: x.try_get("name")?, unique: x.try_get("is_unique")?, columns: columns.collect() }))
}

/// A foreign key in no dialect; `None`: it does something of this kind's own.
pub(super) fn foreign_key(k: &Row) -> Rowed<Option<PlainForeignKey>> {
    let columns: Vec<String> = k.try_get("columns")?;
    let action = |letter: String| match letter.as_str() {
        "c" => Action::Cascade,
        "n" => Action::SetNull,
        "d" => Action::SetDefault,
        _ => Action::Restrict,
    };
    let full = k.try_get::<_, String>("matching")? == "f" && columns.len() > 1;
    if full || k.try_get::<_, bool>("sets_some")? {
        return Ok(None);
    }
    let (schema, name) =
        (k.try_get::<_, Option<String>>("foreign_schema")?, k.try_get::<_, Option<String>>("foreign_name")?);
    let (Some(schema), Some(name)) = (schema, name) else { return Ok(None) };
    Ok(Some(PlainForeignKey {
        name: k.try_get("name")?,
        columns,
        parent: TableName::new(schema, name),
        references: k.try_get("foreign_columns")?,
        on_delete: action(k.try_get("on_delete")?),
        on_update: action(k.try_get("on_update")?),
    }))
}

/// A default that is a value or the present moment, as the server prints it: `'x'::text`, `(-1)`, `true`, `now()`.
pub(super) fn default(expression: &str, data_type: &DataType) -> Option<PlainDefault> {
    let text = expression.trim();
    let bare = text.split_once('(').map_or(text, |(name, _)| name).to_ascii_lowercase();
    let moment = matches!(data_type, DataType::Timestamp { .. })
        && ["now", "current_timestamp", "localtimestamp", "transaction_timestamp"].contains(&bare.as_str())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_()".contains(c));
    if moment {
        return Some(PlainDefault::Now);
    }
    let value = match text.strip_prefix('\'') {
        Some(_) => literal(text)?,
        None => number(text)?,
    };
    let value = match data_type {
        DataType::Bool => match value.as_str() {
            "true" | "t" => "t".to_owned(),
            "false" | "f" => "f".to_owned(),
            _ => return None,
        },
        DataType::Bytes { .. } => value.strip_prefix("\\x")?.to_owned(),
        DataType::Int { .. } | DataType::Float { .. } | DataType::Decimal { .. } => {
            value.parse::<f64>().ok().map(|_| value)?
        }
        // `'now'::date` and the like are values of each moment.
        DataType::Date | DataType::Time { .. } | DataType::Timestamp { .. } => {
            let given = value.starts_with(|c: char| c.is_ascii_digit() || c == '-') || value == "infinity";
            given.then_some(value)?
        }
        _ if text.starts_with('\'') => value,
        _ => return None,
    };
    Some(PlainDefault::Value(value))
}

/// `'it''s'::character varying(20)` without its cast; `None` for anything else behind the quotes.
fn literal(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => {
                rest = after;
                break;
            }
        }
    }
    if rest.is_empty() {
        return Some(value);
    }
    // A second operator, or a cast of a cast, is an expression.
    let cast = rest.strip_prefix("::")?;
    let fine = |c: char| c.is_alphanumeric() || "_ .\"(,)[]".contains(c);
    (cast.chars().all(fine) && !cast.contains("::")).then_some(value)
}

/// `5`, `(-1.5)`, `true`, with a cast behind it or not.
fn number(text: &str) -> Option<String> {
    let (bare, cast) = text.split_once("::").unwrap_or((text, ""));
    let bare = bare.strip_prefix('(').and_then(|t| t.strip_suffix(')')).unwrap_or(bare);
    let fine = cast.chars().all(|c| c.is_alphanumeric() || "_ .\"(,)".contains(c));
    let value = bare == "true" || bare == "false" || bare.parse::<f64>().is_ok_and(f64::is_finite);
    (value && fine).then(|| bare.to_owned())
}

/// Sequences from which columns of a table take their values: option `counter:<column>` with the sequence's name.
pub(super) fn counters(sequences: &[&Row], defaults: impl Fn(&str) -> Option<String>) -> Rowed<Vec<(String, String)>> {
    let mut out = Vec::new();
    for s in sequences {
        let Some(column) = s.try_get::<_, Option<String>>("owner_column")? else { continue };
        let serial = || defaults(&column).is_some_and(|d| d.starts_with("nextval("));
        if s.try_get::<_, bool>("is_identity")? || serial() {
            let name = format!("{}.{}", s.try_get::<_, String>("schema")?, s.try_get::<_, String>("name")?);
            out.push((format!("counter:{column}"), name));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_that_are_values() {
        let text = || DataType::Text { max: None, padded: false };
        let int = || DataType::Int { bytes: 4, unsigned: false };
        let instant = || DataType::Timestamp { precision: 6, zone: true };
        let value = |v: &str| Some(PlainDefault::Value(v.to_owned()));
        for (expression, data_type, wanted) in [
            ("'it''s'::character varying(20)", text(), value("it's")),
            ("'so so'::shop.mood", DataType::Enum { labels: vec![] }, value("so so")),
            ("'{}'::text[]", DataType::Array(Box::new(text())), value("{}")),
            ("5", int(), value("5")),
            ("'-1'::integer", int(), value("-1")),
            ("(-1)", int(), value("-1")),
            ("(0)::numeric", DataType::Decimal { precision: None, scale: None }, value("0")),
            ("true", DataType::Bool, value("t")),
            ("'\\x00ff'::bytea", DataType::Bytes { max: None }, value("00ff")),
            ("now()", instant(), Some(PlainDefault::Now)),
            ("CURRENT_TIMESTAMP", instant(), Some(PlainDefault::Now)),
            ("CURRENT_TIMESTAMP(3)", instant(), Some(PlainDefault::Now)),
            ("'2024-01-01 00:00:00+00'::timestamp with time zone", instant(), value("2024-01-01 00:00:00+00")),
            ("'now'::date", DataType::Date, None),
            ("nextval('a_seq'::regclass)", int(), None),
            ("(now() + '1 day'::interval)", instant(), None),
            ("('a'::text || 'b'::text)", text(), None),
            ("'a'::text || 'b'::text", text(), None),
            ("NULL::text", text(), None),
            ("gen_random_uuid()", DataType::Uuid, None),
            ("lower('X'::text)", text(), None),
        ] {
            assert_eq!(default(expression, &data_type), wanted, "{expression}");
        }
    }
}
