//! Comparison between engines: values are read as texts that say the same on both sides (numbers, bytes in hexadecimal digits, moments in UTC), and
//! brought into one form here. Which form a column has, its type at the MySQL side says. A test's tables fit into memory.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::{Difference, EXAMPLES};
use crate::server::{Dialect, Session};

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Number,
    Float,
    Double,
    Bytes,
    Bits,
    Time,
    Json,
}

fn form(data_type: &str) -> Form {
    match data_type {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" => Form::Number,
        "float" => Form::Float,
        "double" => Form::Double,
        "bit" => Form::Bits,
        "date" | "datetime" | "timestamp" | "time" => Form::Time,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector" => Form::Bytes,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
        | "geomcollection" | "geometrycollection" => Form::Bytes,
        "json" => Form::Json,
        _ => Form::Text,
    }
}

fn in_mysql(name: &str, form: Form) -> String {
    let name = format!("`{}`", name.replace('`', "``"));
    match form {
        Form::Bytes => format!("HEX({name})"),
        Form::Bits => format!("BIN({name})"),
        // By itself it is printed with six digits; a sum is no minus zero.
        Form::Float => format!("{name} + 0e0"),
        // One of DOUBLE(m, d) is printed with d digits, whatever it holds.
        Form::Double => format!("IF({name} = 0, {name}, {name} + 0e0)"),
        Form::Number | Form::Time => format!("CAST({name} AS CHAR)"),
        Form::Text | Form::Json => format!("CONVERT({name} USING utf8mb4)"),
    }
}

fn in_postgres(name: &str, form: Form) -> String {
    let name = format!("\"{}\"", name.replace('"', "\"\""));
    match form {
        Form::Bytes => format!("encode({name}, 'hex')"),
        // Of the MySQL side's single precision, too: there it is widened to read it whole.
        Form::Float | Form::Double => format!("{name}::float8::text"),
        // A cast shows more of a network's address than its column does.
        _ => format!(
            "CASE WHEN {name} IS NULL THEN NULL WHEN pg_typeof({name})::text = 'inet' THEN concat({name}) ELSE {name}::text END"
        ),
    }
}

/// The value in the one form.
fn normal(form: Form, text: &str) -> String {
    match form {
        // The one character that PostgreSQL's texts lack: where it comes, the tests' policy leaves it out.
        Form::Text => text.replace('\0', ""),
        Form::Bytes => text.to_lowercase(),
        Form::Number => {
            let text = match text {
                "t" | "true" => "1",
                "f" | "false" => "0",
                text => text,
            };
            let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
            let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
            let sign = if whole.is_empty() && fraction.is_empty() { "" } else { sign };
            format!("{sign}{whole}.{fraction}")
        }
        Form::Float | Form::Double => match text.parse::<f64>() {
            Ok(number) if form == Form::Float => format!("{:e}", number + 0.0),
            Ok(number) => format!("{number:e}"),
            Err(_) => text.to_owned(),
        },
        Form::Bits => text.trim_start_matches('0').to_owned(),
        Form::Time => {
            let text = text.strip_suffix("+00").unwrap_or(text);
            match text.split_once('.') {
                Some((seconds, fraction)) => {
                    format!("{seconds}.{}", fraction.trim_end_matches('0')).trim_end_matches('.').to_owned()
                }
                None => text.to_owned(),
            }
        }
        Form::Json => {
            serde_json::from_str::<serde_json::Value>(text).map_or_else(|_| text.to_owned(), |v| document(&v))
        }
    }
}

fn document(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Number(n) => n.as_i64().map_or_else(|| format!("{:?}", n.as_f64()), |n| n.to_string()),
        Value::Array(items) => format!("[{}]", items.iter().map(document).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let sorted: BTreeMap<&String, String> = map.iter().map(|(k, v)| (k, document(v))).collect();
            format!("{sorted:?}")
        }
        other => other.to_string(),
    }
}

/// The user tables of a session's database (of PostgreSQL: of its first schema) without drover's own.
async fn tables(session: &mut Session) -> Result<Vec<String>> {
    let sql = match session.dialect() {
        Dialect::MySql => {
            "SELECT convert(table_name USING utf8mb4) FROM information_schema.tables WHERE table_schema = database()
            AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'drover\\_%' ORDER BY 1"
        }
        Dialect::Postgres => {
            "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
            AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'dts_postgres_heartbeat' ORDER BY relname::text COLLATE \"C\""
        }
    };
    let mut names: Vec<String> = session.rows(sql).await?.into_iter().flatten().flatten().collect();
    names.sort();
    Ok(names)
}

/// Columns of a MySQL table with their forms, in one order.
async fn forms(session: &mut Session, table: &str) -> Result<Vec<(String, Form)>> {
    let sql = format!(
        "SELECT convert(column_name USING utf8mb4), convert(data_type USING utf8mb4), convert(extra USING utf8mb4), column_name IN
            (SELECT c.constraint_name FROM information_schema.check_constraints c WHERE c.constraint_schema = database()
             AND c.check_clause LIKE 'json_valid%')
         FROM information_schema.columns WHERE table_schema = database() AND table_name = '{}' ORDER BY 1",
        table.replace('\\', "\\\\").replace('\'', "''")
    );
    let mut out = Vec::new();
    for row in session.rows(&sql).await? {
        let text = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        if text(2).to_uppercase().contains("VIRTUAL") || text(2).to_uppercase().contains("STORED") {
            continue;
        }
        let json = text(3) == "1" && text(1) == "longtext";
        out.push((text(0), if json { Form::Json } else { form(&text(1)) }));
    }
    Ok(out)
}

async fn rows(session: &mut Session, table: &str, columns: &[(String, Form)]) -> Result<Vec<String>> {
    let list = |of: fn(&str, Form) -> String| {
        columns.iter().map(|(name, form)| of(name, *form)).collect::<Vec<_>>().join(", ")
    };
    let sql = match session.dialect() {
        Dialect::MySql => format!("SELECT {} FROM `{}`", list(in_mysql), table.replace('`', "``")),
        Dialect::Postgres => format!("SELECT {} FROM \"{}\"", list(in_postgres), table.replace('"', "\"\"")),
    };
    let found = session.rows(&sql).await.with_context(|| sql.clone())?;
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|row| {
            let cells = row.iter().zip(columns).map(|(cell, (name, form))| match cell {
                Some(text) => format!("{name}={:?}", normal(*form, text)),
                None => format!("{name}=null"),
            });
            cells.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort_unstable();
    Ok(lines)
}

/// Compares all tables of two databases of different engines, in both directions.
pub async fn databases(source: &mut Session, destination: &mut Session) -> Result<Vec<Difference>> {
    for session in [&mut *source, &mut *destination] {
        let sql = match session.dialect() {
            Dialect::MySql => {
                super::mysql::BEGIN.replace("character_set_results = NULL", "character_set_results = utf8mb4")
            }
            Dialect::Postgres => super::postgres::BEGIN.replace("; SET LOCAL search_path = public", ""),
        };
        session.run(&sql).await?;
    }
    let (ours, theirs) = (tables(source).await?, tables(destination).await?);
    if ours.is_empty() {
        bail!("nothing to compare: the source has no table");
    }
    let mut names: Vec<&String> = ours.iter().chain(&theirs).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let mut difference = Difference { table: name.clone(), ..Difference::default() };
        if !ours.contains(name) || !theirs.contains(name) {
            let side = if ours.contains(name) { "destination" } else { "source" };
            difference.examples.push(format!("no such table at the {side}"));
            found.push(difference);
            continue;
        }
        let side = if source.dialect() == Dialect::MySql { &mut *source } else { &mut *destination };
        let columns = forms(side, name).await?;
        let (left, right) = (rows(source, name, &columns).await?, rows(destination, name, &columns).await?);
        let (mut a, mut b) = (left.iter().peekable(), right.iter().peekable());
        loop {
            let (missing, extra) = match (a.peek(), b.peek()) {
                (None, None) => break,
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some(x), Some(y)) => (x < y, x > y),
            };
            let (ours, theirs) = (if extra { None } else { a.next() }, if missing { None } else { b.next() });
            difference.missing += u64::from(missing);
            difference.extra += u64::from(extra);
            if let (true, Some(row)) = (missing && difference.missing <= EXAMPLES as u64, ours) {
                difference.examples.push(format!("missing: {}", super::shown(Some(row.as_bytes()))));
            }
            if let (true, Some(row)) = (extra && difference.extra <= EXAMPLES as u64, theirs) {
                difference.examples.push(format!("too many: {}", super::shown(Some(row.as_bytes()))));
            }
        }
        if difference.missing + difference.extra > 0 {
            found.push(difference);
        }
    }
    for session in [source, destination] {
        let sql = if session.dialect() == Dialect::MySql { super::mysql::END } else { "COMMIT" };
        session.run(sql).await?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_for_equal_values() {
        for (form, one, other) in [
            (Form::Number, "1.50", "1.5"),
            (Form::Number, "-0.00", "0"),
            (Form::Number, "0", "f"),
            (Form::Double, "1e20", "1e+20"),
            (Form::Bits, "101", "00000101"),
            (Form::Time, "2024-01-01 00:00:00.500000", "2024-01-01 00:00:00.5+00"),
            (Form::Json, r#"{"b": 1, "a": [1.0]}"#, r#"{"a":[1.0],"b":1}"#),
        ] {
            assert_eq!(normal(form, one), normal(form, other));
        }
        assert_ne!(normal(Form::Number, "10"), normal(Form::Number, "1"));
    }
}
