//! The MySQL family's part of the comparison: the bytes of all values as the server stores them, with no conversion between character
//! sets, sorted here, since a server would sort by collations. A test's tables fit into memory.

use anyhow::{Context, Result};
use bytes::Bytes;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::{Column, Difference};
use crate::mysql::{one, shown};

/// Those of the session's database.
pub const TABLES: &str = "SELECT concat('`', replace(table_name, '`', '``'), '`') FROM information_schema.tables
    WHERE table_schema = database() AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'drover\\_%' ORDER BY 1";

pub const BEGIN: &str = "SET time_zone = '+00:00', character_set_results = NULL;
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Names and messages come in UTF-8 again; the time zone is the server's.
pub const END: &str = "COMMIT; SET character_set_results = utf8mb4, time_zone = DEFAULT";

/// The columns, sorted by name; `None` when there is no such table.
pub async fn columns(conn: &mut Conn, table: &str, signless: bool) -> Result<Option<Vec<Column>>> {
    let name = table.trim_matches('`').replace("``", "`");
    let sql =
        "SELECT convert(column_name using utf8mb4), convert(data_type using utf8mb4) FROM information_schema.columns
        WHERE table_schema = database() AND table_name = ? ORDER BY 1";
    let found: Vec<(String, String)> = conn.exec(sql, (name,)).await?;
    let columns = found.into_iter().map(|(name, kind)| {
        let name = format!("`{}`", name.replace('`', "``"));
        // By itself a FLOAT is printed with six digits. A sum is no minus zero.
        let sql = if kind == "float" || kind == "double" && signless { format!("{name} + 0e0") } else { name.clone() };
        (name, sql)
    });
    let columns: Vec<Column> = columns.collect();
    Ok((!columns.is_empty()).then_some(columns))
}

/// The rows of a query, sorted: values with tabs between them, null as `\N`, a backslash before tabs and backslashes.
pub async fn rows(conn: &mut Conn, query: &str) -> Result<Vec<Bytes>> {
    let found = conn.query_iter(query).await.with_context(|| shown(query))?;
    let mut rows = Vec::new();
    found
        .for_each_and_drop(|row: Row| {
            let mut line = Vec::new();
            for value in row.unwrap() {
                match value {
                    Value::Bytes(bytes) => bytes.iter().for_each(|byte| match byte {
                        b'\t' => line.extend_from_slice(b"\\t"),
                        b'\\' => line.extend_from_slice(b"\\\\"),
                        _ => line.push(*byte),
                    }),
                    _ => line.extend_from_slice(b"\\N"),
                }
                line.push(b'\t');
            }
            rows.push(Bytes::from(line));
        })
        .await
        .with_context(|| shown(query))?;
    rows.sort_unstable();
    Ok(rows)
}

/// MariaDB 10 stores zero for minus zero.
pub async fn signless(conn: &mut Conn) -> Result<bool> {
    Ok(version(conn).await?.starts_with("10."))
}

async fn version(conn: &mut Conn) -> Result<String> {
    one(conn, "SELECT version()").await
}

/// The servers' own sums over all rows, which only the same release makes in the same way. MariaDB (10.11, 11.8) gives different sums of a table and
/// its `INSERT … SELECT` copy where there are generated columns and nulls, and others again after FLUSH TABLES: they say nothing there.
pub async fn checksums(source: &mut Conn, destination: &mut Conn, names: &[String]) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    let release = version(source).await?;
    if release != version(destination).await? || release.contains("MariaDB") {
        return Ok(found);
    }
    for table in names {
        let sql = format!("CHECKSUM TABLE {table}");
        let (_, ours): (String, Option<u64>) = one(source, &sql).await?;
        let (_, theirs): (String, Option<u64>) = one(destination, &sql).await?;
        if ours != theirs || ours.is_none() {
            let example = format!("checksum {ours:?} at the source, {theirs:?} at the destination; no row differs");
            found.push(Difference { table: table.clone(), examples: vec![example], ..Difference::default() });
        }
    }
    Ok(found)
}

/// The structure of both sides, a line for each thing.
pub async fn structures(source: &mut Conn, destination: &mut Conn) -> Result<(Vec<String>, Vec<String>)> {
    if version(source).await? == version(destination).await? {
        return Ok((definitions(source).await?, definitions(destination).await?));
    }
    Ok((catalog(source).await?, catalog(destination).await?))
}

/// Statements that would create everything, as `mysqldump --no-data` prints them, without definers and numbers that were reached.
async fn definitions(conn: &mut Conn) -> Result<Vec<String>> {
    let list = "SELECT 'TABLE', table_name FROM information_schema.tables
            WHERE table_schema = database() AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'drover\\_%'
        UNION ALL SELECT 'VIEW', table_name FROM information_schema.views WHERE table_schema = database()
        UNION ALL SELECT 'TRIGGER', trigger_name FROM information_schema.triggers WHERE trigger_schema = database()
        UNION ALL SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = database()
        UNION ALL SELECT 'DATABASE', database() ORDER BY 1, 2";
    let objects: Vec<(String, String)> = conn.query(list).await?;
    let qualifier = format!("`{}`.", one::<String>(conn, "SELECT database()").await?);
    let mut lines = Vec::new();
    for (kind, name) in objects {
        let sql = format!("SHOW CREATE {kind} `{}`", name.replace('`', "``"));
        let row: Row = one(conn, &sql).await?;
        // Name, (of routines and triggers the SQL mode,) statement; what follows are session settings of the definer.
        let columns = if matches!(kind.as_str(), "TABLE" | "VIEW" | "DATABASE") { 1..2 } else { 1..3 };
        // A default of bytes stands in it as it is: any bytes become some text, others another one.
        let exact = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap_or_else(|e| e.as_bytes().iter().map(|b| *b as char).collect())
        };
        let texts = columns.map(|i| exact(row.get::<Option<Vec<u8>>, usize>(i).flatten().unwrap_or_default()));
        let mut text = plain(&texts.collect::<Vec<_>>().join(" "));
        if kind == "TRIGGER" {
            // Kept as it was written, with its names qualified and quoted or not.
            text = text.replace(&qualifier, "").replace('`', "");
        }
        lines.push(format!("{kind} {name}: {text}"));
    }
    Ok(lines)
}

/// A statement without who defined the object, whose rights it has, and the next number of a counter.
fn plain(statement: &str) -> String {
    let mut text = statement.to_owned();
    if let Some(start) = text.find(" AUTO_INCREMENT=") {
        let digits = text[start + 16..].chars().take_while(char::is_ascii_digit).count();
        text.replace_range(start..start + 16 + digits, "");
    }
    // DEFINER=`user`@`host`
    if let Some(start) = text.find("DEFINER=`")
        && let Some((end, _)) = text[start..].match_indices('`').nth(3)
    {
        text.replace_range(start..=start + end, "");
    }
    let text = text.replace("SQL SECURITY DEFINER", "").replace("SQL SECURITY INVOKER", "");
    text.trim_end_matches(';').split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What any two of the family can say in the same words. Display widths of integers, the words for JSON, the spelling of defaults and
/// the names of the newest collations differ between them.
async fn catalog(conn: &mut Conn) -> Result<Vec<String>> {
    let columns = "SELECT c.table_name, c.ordinal_position, c.column_name, c.data_type, c.column_type, c.is_nullable,
            coalesce(c.character_set_name, ''), coalesce(c.collation_name, ''), coalesce(c.column_default, 'NULL'), c.extra, c.column_comment
        FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
        WHERE c.table_schema = database() AND t.table_type = 'BASE TABLE' AND c.table_name NOT LIKE 'drover\\_%'";
    let found: Vec<Row> = conn.query(columns).await?;
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|row| {
            let texts = row.unwrap().into_iter().map(|value| match value {
                Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                _ => String::new(),
            });
            column(&texts.collect::<Vec<_>>())
        })
        .collect();
    for (what, sql) in [
        (
            "index",
            "SELECT concat_ws(' ', table_name, index_name, non_unique, seq_in_index, column_name, coalesce(sub_part, ''), index_type)
            FROM information_schema.statistics WHERE table_schema = database() AND table_name NOT LIKE 'drover\\_%'",
        ),
        (
            "foreign key",
            "SELECT concat_ws(' ', k.table_name, k.constraint_name, k.ordinal_position, k.column_name, k.referenced_table_name,
                k.referenced_column_name, replace(r.update_rule, 'NO ACTION', 'RESTRICT'), replace(r.delete_rule, 'NO ACTION', 'RESTRICT'))
            FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r
                USING (constraint_schema, constraint_name, table_name) WHERE k.constraint_schema = database()",
        ),
        ("view", "SELECT table_name FROM information_schema.views WHERE table_schema = database()"),
        (
            "trigger",
            "SELECT concat_ws(' ', trigger_name, action_timing, event_manipulation, event_object_table, action_statement)
            FROM information_schema.triggers WHERE trigger_schema = database()",
        ),
        (
            "routine",
            "SELECT concat_ws(' ', routine_type, routine_name, trim(trailing ';' from routine_definition), is_deterministic, sql_data_access)
            FROM information_schema.routines WHERE routine_schema = database()",
        ),
        (
            "database",
            "SELECT default_character_set_name FROM information_schema.schemata WHERE schema_name = database()",
        ),
    ] {
        let found: Vec<String> = conn.query(sql).await.with_context(|| what.to_owned())?;
        lines.extend(found.iter().map(|line| format!("{what} {}", line.trim_end_matches(';'))));
    }
    Ok(lines)
}

/// One line of the catalog about a column, in common words.
fn column(texts: &[String]) -> String {
    let [table, place, name, kind, full, null, set, collation, default, extra, comment] = texts else {
        return texts.join(" ");
    };
    let mut full = full.clone();
    if kind.ends_with("int") || kind == "year" {
        // int(11) unsigned
        if let (Some(open), Some(close)) = (full.find('('), full.find(')')) {
            full.replace_range(open..=close, "");
        }
    }
    let (mut full, mut set, mut collation) = (full, set.clone(), collation.clone());
    if full == "json" || full == "longtext" {
        // MariaDB's JSON is a LONGTEXT with a check.
        (full, set, collation) = ("json or longtext".into(), String::new(), String::new());
    }
    if ["0900", "uca1400"].iter().any(|c| collation.contains(c)) {
        collation = "newest".into();
    }
    // Each prints bytes in a way of its own, MySQL none of them.
    let default = if kind.ends_with("binary") && default != "NULL" { "bytes" } else { default };
    let default = default.trim_matches('\'').to_lowercase().replace("()", "");
    let counted = if extra.contains("auto_increment") { "auto_increment" } else { "" };
    let updated = if extra.to_lowercase().contains("on update") { "on update" } else { "" };
    let generated = if extra.contains("GENERATED") && !extra.contains("DEFAULT_GENERATED") { extra } else { "" };
    format!(
        "column {table} {place} {name} {full} null={null} {set} {collation} default={default} {counted} {updated} {generated} {comment}"
    )
}
