//! Comparison of two PostgreSQL databases, row by row and in both directions.
//!
//! Each side sends its rows as text, sorted bytewise by the server; the two streams are merged, so memory does not grow with the
//! tables. Every row of one side must meet one equal row of the other: a row that is there twice needs a partner twice. The
//! comparison shares no code with drover's own `validate`.

use std::fmt;
use std::pin::Pin;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use futures::TryStreamExt;
use tokio_postgres::{Client, CopyOutStream};

/// How many examples of each kind are kept.
const EXAMPLES: usize = 5;

/// What differs in one table (or query). A changed row counts on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The table's name, both names if they differ.
    pub table: String,
    /// Rows that only the source has.
    pub missing: u64,
    /// Rows that only the destination has.
    pub extra: u64,
    /// Some of each, or the reason why rows could not be compared.
    pub examples: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} rows missing, {} too many", self.table, self.missing, self.extra)?;
        self.examples.iter().try_for_each(|example| write!(f, "\n    {example}"))
    }
}

/// All tables that users own, `schema.table` quoted where necessary, sorted. A partitioned table stands for its partitions.
/// The schema `drover` and the table of drover's heartbeat are left out.
pub async fn user_tables(client: &Client) -> Result<Vec<String>> {
    let sql =
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'drover') AND c.relname <> 'dts_postgres_heartbeat'
        ORDER BY 1";
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Compares tables by pairs of names (as SQL writes them): equal column names, equal rows. Empty result: no difference. Each
/// side is read in one transaction, so that all tables of a side show one state. The clients must not be used meanwhile.
pub async fn tables(source: &Client, destination: &Client, pairs: &[(&str, &str)]) -> Result<Vec<Difference>> {
    begin(source).await?;
    begin(destination).await?;
    let mut found = Vec::new();
    for (from, to) in pairs {
        let name = if from == to { (*from).to_owned() } else { format!("{from} → {to}") };
        let columns = (columns(source, from).await?, columns(destination, to).await?);
        let (Some(ours), Some(theirs)) = &columns else {
            let example =
                format!("no such table at the {}", if columns.0.is_none() { "source" } else { "destination" });
            found.push(Difference { table: name, examples: vec![example], ..Difference::default() });
            continue;
        };
        if ours != theirs {
            let example =
                format!("columns {} at the source, {} at the destination", ours.join(", "), theirs.join(", "));
            found.push(Difference { table: name, examples: vec![example], ..Difference::default() });
            continue;
        }
        let row = ours.join(", ");
        let (ours, theirs) = (format!("SELECT {row} FROM {from}"), format!("SELECT {row} FROM {to}"));
        found.extend(merge(&name, source, destination, &ours, &theirs).await?);
    }
    source.batch_execute("COMMIT").await?;
    destination.batch_execute("COMMIT").await?;
    Ok(found)
}

/// Compares the rows of two queries (columns dropped, renamed or filtered on the way), in any order.
pub async fn queries(source: &Client, destination: &Client, pairs: &[(&str, &str)]) -> Result<Vec<Difference>> {
    begin(source).await?;
    begin(destination).await?;
    let mut found = Vec::new();
    for (from, to) in pairs {
        found.extend(merge(from, source, destination, from, to).await?);
    }
    source.batch_execute("COMMIT").await?;
    destination.batch_execute("COMMIT").await?;
    Ok(found)
}

/// Compares all user tables of two databases by name; a table that one side lacks is a difference, too.
pub async fn databases(source: &Client, destination: &Client) -> Result<Vec<Difference>> {
    let mut names = user_tables(source).await?;
    names.extend(user_tables(destination).await?);
    names.sort();
    names.dedup();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    tables(source, destination, &pairs).await
}

/// Takes any difference for an error that lists them all; a comparison of no table at all is an error as well.
pub async fn expect_equal(source: &Client, destination: &Client) -> Result<()> {
    if user_tables(source).await?.is_empty() {
        bail!("nothing to compare: the source has no table");
    }
    expect_none(&databases(source, destination).await?)
}

/// Takes any difference for an error that lists them all.
pub fn expect_none(found: &[Difference]) -> Result<()> {
    if !found.is_empty() {
        let list: Vec<String> = found.iter().map(Difference::to_string).collect();
        bail!("the sides differ\n{}", list.join("\n"));
    }
    Ok(())
}

/// Opens a transaction in which values are printed the same way whatever the database's settings are.
async fn begin(client: &Client) -> Result<()> {
    let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC';
        SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3; SET LOCAL search_path = public";
    Ok(client.batch_execute(sql).await?)
}

/// The columns' names, quoted and sorted; `None` when there is no such table.
async fn columns(client: &Client, table: &str) -> Result<Option<Vec<String>>> {
    let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "SELECT quote_ident(attname) FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY 1";
    Ok(Some(client.query(sql, &[&table]).await?.iter().map(|row| row.get(0)).collect()))
}

async fn merge(
    name: &str,
    source: &Client,
    destination: &Client,
    ours: &str,
    theirs: &str,
) -> Result<Option<Difference>> {
    let mut left = Rows::open(source, ours).await?;
    let mut right = Rows::open(destination, theirs).await?;
    let mut found = Difference { table: name.to_owned(), ..Difference::default() };
    let (mut a, mut b) = (left.next().await?, right.next().await?);
    loop {
        let order = match (&a, &b) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        if order.is_lt() {
            found.missing += 1;
            if found.missing <= EXAMPLES as u64 {
                found.examples.push(format!("missing: {}", shown(a.as_deref())));
            }
        }
        if order.is_gt() {
            found.extra += 1;
            if found.extra <= EXAMPLES as u64 {
                found.examples.push(format!("too many: {}", shown(b.as_deref())));
            }
        }
        if order.is_le() {
            a = left.next().await?;
        }
        if order.is_ge() {
            b = right.next().await?;
        }
    }
    Ok((found.missing + found.extra > 0).then_some(found))
}

fn shown(row: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(row.unwrap_or_default());
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The rows of a query as text, sorted bytewise.
struct Rows {
    stream: Pin<Box<CopyOutStream>>,
    buffer: BytesMut,
}

impl Rows {
    async fn open(client: &Client, query: &str) -> Result<Rows> {
        // A row's text quotes its values and tells null from an empty string.
        let sql = format!("COPY (SELECT ROW(t.*)::text COLLATE \"C\" FROM ({query}) t ORDER BY 1) TO STDOUT");
        let stream = client.copy_out(&sql).await.with_context(|| sql)?;
        Ok(Rows { stream: Box::pin(stream), buffer: BytesMut::new() })
    }

    /// The next row with COPY's escapes undone, since they would change the order.
    async fn next(&mut self) -> Result<Option<Bytes>> {
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
