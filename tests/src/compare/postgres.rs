//! PostgreSQL's part of the comparison: rows as text, sorted bytewise by the server, so that memory does not grow with the tables.

use std::pin::Pin;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use futures::TryStreamExt;
use tokio_postgres::{Client, CopyOutStream};

use super::Column;

/// The schema `drover` and the table of drover's heartbeat are left out.
pub const TABLES: &str =
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'drover') AND c.relname <> 'dts_postgres_heartbeat'
    ORDER BY 1";

pub const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC';
    SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3; SET LOCAL search_path = public";

/// One text a line.
pub const STRUCTURE: &str = "
    SELECT 'column ' || attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '
           || attidentity::text || attgenerated::text || ' ' || coalesce(pg_get_expr(adbin, adrelid), '')
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema', 'drover') AND nspname !~ '^pg_toast'
       AND relname <> 'dts_postgres_heartbeat' AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(k.oid) || ' ' || convalidated
      FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace
     WHERE conrelid <> 0 AND conrelid::regclass::text !~ 'dts_' AND contype <> 'n'
       AND nspname NOT IN ('pg_catalog', 'information_schema', 'drover')
    UNION ALL
    SELECT 'index ' || indexdef FROM pg_indexes
     WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'drover') AND tablename !~ 'dts_'";

/// The columns, sorted by name; `None` when there is no such table.
pub async fn columns(client: &Client, table: &str) -> Result<Option<Vec<Column>>> {
    let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "SELECT quote_ident(attname) FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY 1";
    let names = client.query(sql, &[&table]).await?;
    Ok(Some(names.iter().map(|row| (row.get(0), row.get(0))).collect()))
}

/// The rows of a query as text, sorted bytewise.
pub struct Rows {
    stream: Pin<Box<CopyOutStream>>,
    buffer: BytesMut,
}

impl Rows {
    pub async fn open(client: &Client, query: &str) -> Result<Rows> {
        // A row's text quotes its values and tells null from an empty string.
        let sql = format!("COPY (SELECT ROW(t.*)::text COLLATE \"C\" FROM ({query}) t ORDER BY 1) TO STDOUT");
        let stream = client.copy_out(&sql).await.with_context(|| sql)?;
        Ok(Rows { stream: Box::pin(stream), buffer: BytesMut::new() })
    }

    /// The next row with COPY's escapes undone, since they would change the order.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return Ok(Some(unescape(line.freeze())));
            }
            match self.stream.try_next().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(None),
                None => bail!("the server's answer ends within a row"),
            }
        }
    }
}

fn unescape(line: Bytes) -> Bytes {
    if !line.contains(&b'\\') {
        return line;
    }
    let mut plain = BytesMut::with_capacity(line.len());
    let mut rest = line.iter().copied();
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { rest.next() } else { None };
        plain.extend_from_slice(&[match escaped {
            None => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => other,
        }]);
    }
    plain.freeze()
}
