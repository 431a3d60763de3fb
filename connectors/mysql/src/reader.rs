//! Reading chunks on a snapshot: rows come in the server's binary form and are written straight into a block's cells, see the
//! table in the crate's head. Nothing is allocated for a row or a value.

pub(crate) mod decode;

use crate::catalog;
use crate::charset::NONE;
use crate::chunks::range::{key_columns, within};
use crate::chunks::{self, Size, changed};
use crate::round::Rounding;
use crate::snapshot::{BACK, Seat, Set};
use crate::sql;
use crate::types::{Kind, MyType};
use crate::wire::{Flow, Statement};
use async_trait::async_trait;
use bytes::Bytes;
use decode::{Decoder, decoders, own_charset, put_row};
use drover_connectors_api::{BlockSink, ChunkRead, ChunkReader};
use drover_model::chunk::{Bounds, Chunk};
use drover_model::plan::{PlanColumn, RowFormat, SnapshotRef};
use drover_model::row::{Cell, cells, take_cell, take_row};
use drover_model::{Error, Result, TablePlan};
use mysql_async::prelude::Queryable;
use std::collections::HashMap;

/// Size of a block: large enough that its record's cost does not count, small enough to stay far below brokers' limits.
const BLOCK_BYTES: usize = 1 << 20;
/// Keys looked up by one statement.
const KEYS_AT_ONCE: usize = 200;

const READING: &str = "cannot read a chunk";

/// A session on a snapshot.
pub struct Reader {
    seat: Seat,
    /// Names of the indexes by which tables are read.
    indexes: HashMap<u32, Option<String>>,
}

/// Character sets whose bytes are UTF-8.
pub(crate) fn is_utf8(charset: &str) -> bool {
    matches!(charset, "utf8mb4" | "utf8mb3" | "utf8" | "ascii")
}

/// How text comes that is not stored in UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Texts {
    /// As it is stored.
    Stored,
    /// In UTF-8, by the server, with question marks for what is no character: to be compared with the same.
    Converted,
    /// So that [`decoders`] of a canonical plan make UTF-8 of it, and nothing of what is no character.
    Canonical,
}

impl Texts {
    fn of(plan: &TablePlan) -> Texts {
        if plan.format == RowFormat::Canonical { Texts::Canonical } else { Texts::Stored }
    }
}

/// A condition: the server makes other text of a column than it is, because bytes are no character of their set. Null for null.
pub(crate) fn is_no_text(c: &str, charset: &str) -> String {
    let bytes = format!("CAST({c} AS BINARY)");
    // A server that takes bytes for text gives back others, or nothing, where they are none.
    let broken = format!("NOT (CAST(CONVERT({bytes} USING {charset}) AS BINARY) <=> {bytes})");
    if is_utf8(charset) || ["ucs2", "utf16", "utf16le", "utf32"].contains(&charset) {
        return broken;
    }
    let marks = |text: &str| format!("LENGTH({text}) - LENGTH(REPLACE({text}, X'3f', ''))");
    format!("{broken} OR {} <> {}", marks(&format!("CAST(CONVERT({c} USING utf8mb4) AS BINARY)")), marks(&bytes))
}

/// A column as it is to be selected: labels always in UTF-8, text as it is asked for.
fn output(column: &PlanColumn, texts: Texts) -> String {
    let name = sql::name(&column.source);
    let Some(t) = MyType::parse(&column.origin_type) else { return name };
    let labels = matches!(t.kind, Kind::Enum { .. } | Kind::Set { .. });
    let Some(charset) = t.charset.as_deref().filter(|c| !is_utf8(c)) else { return name };
    let converted = format!("CONVERT({name} USING utf8mb4)");
    match texts {
        _ if labels => converted,
        Texts::Converted if t.is_text() => converted,
        // What drover has no table for, the server converts; a byte behind it says that it could not.
        Texts::Canonical if t.is_text() && own_charset(&t).is_none() => {
            let bytes = format!("CAST({converted} AS BINARY)");
            format!("IF({}, CONCAT({bytes}, X'{NONE:02x}'), {bytes})", is_no_text(&name, charset))
        }
        _ => name,
    }
}

impl Reader {
    /// A session of the snapshot. Waits while all of them are at work; SNAPSHOT_LOST if it is gone.
    pub async fn open(snapshot: &SnapshotRef) -> Result<Reader> {
        let seat = Set::find(snapshot)?.borrow().await?;
        Ok(Reader { seat, indexes: HashMap::new() })
    }

    /// The unique index that has the plan's key as its columns.
    async fn index(&mut self, plan: &TablePlan) -> Result<Option<String>> {
        if let Some(known) = self.indexes.get(&plan.id) {
            return Ok(known.clone());
        }
        let sql = format!(
            "SELECT index_name, column_name FROM information_schema.statistics WHERE table_schema = {} AND table_name = {} \
             AND non_unique = 0 ORDER BY index_name = 'PRIMARY' DESC, index_name, seq_in_index",
            sql::text(&plan.source.schema),
            sql::text(&plan.source.name)
        );
        let set = self.seat.set()?;
        let mut peek = set.peek().await?;
        let rows: Vec<(String, Option<String>)> = peek.all(sql, "cannot read a table's indexes").await?;
        peek.keep();
        let key: Vec<&str> = plan.key.iter().map(|&k| plan.columns[usize::from(k)].source.as_str()).collect();
        let mut found = None;
        for group in rows.chunk_by(|a, b| a.0 == b.0) {
            let columns: Vec<&str> = group.iter().map(|r| r.1.as_deref().unwrap_or_default()).collect();
            if columns.len() == key.len() && columns.iter().zip(&key).all(|(a, b)| a.eq_ignore_ascii_case(b)) {
                found = Some(group[0].0.clone());
                break;
            }
        }
        self.indexes.insert(plan.id, found.clone());
        Ok(found)
    }

    /// Size of a table now. What the catalogue says may be old; the size of its files is not, where it can be seen.
    async fn size(&mut self, plan: &TablePlan) -> Result<Size> {
        let (schema, name) = (&plan.source.schema, &plan.source.name);
        let of = format!("table_schema = {} AND table_name = {}", sql::text(schema), sql::text(name));
        let sizes = format!(
            "SELECT COALESCE(table_rows, 0), COALESCE(data_length, 0), COALESCE(index_length, 0), COALESCE(data_free, 0) FROM information_schema.tables WHERE {of}"
        );
        let space = format!("{schema}/{name}");
        let pattern = sql::text(&format!(
            "{}#p#%",
            space.to_lowercase().replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%")
        ));
        let space = sql::text(&space);
        let set = self.seat.set()?;
        let mut peek = set.peek().await?;
        let found = peek.first::<(u64, u64, u64, u64)>(sizes, "cannot ask for a table's size").await?;
        let (rows, data, index, free) = found.unwrap_or_default();
        let view = if peek.version.mysql(80_000) { "innodb_tablespaces" } else { "innodb_sys_tablespaces" };
        let files = format!(
            "SELECT CAST(COALESCE(SUM(file_size), 0) AS SIGNED) FROM information_schema.{view} \
             WHERE name = {space} OR LOWER(name) LIKE {pattern}"
        );
        // Needs a privilege, and names in odd characters are written otherwise there.
        let files = peek.query_first::<i64, _>(files).await.ok().flatten();
        let files = files.and_then(|f| u64::try_from(f).ok()).unwrap_or(0);
        peek.keep();
        let data = data.max(files.saturating_sub(index).saturating_sub(free));
        Ok(Size { rows: rows.max(plan.rows), bytes: data.max(plan.bytes) })
    }

    /// After the table's rows were looked at: its metadata lock is given up.
    async fn let_go(&mut self) -> Result<()> {
        self.seat.run(BACK, "cannot go back to the start of a chunk").await?;
        self.seat.clean();
        Ok(())
    }

    /// The error of a statement on a table; some say that it is another table now.
    fn failed(&self, plan: &TablePlan, error: Error) -> Error {
        match self.seat.last_error() {
            // Definition changed, no such table or column, statement must be prepared again.
            Some(1412 | 1146 | 1054 | 1615) => changed(plan, error),
            _ => error.table(&plan.source),
        }
    }

    /// Begins a SELECT. Its rows are then taken from the session, and it is ended by [`Reader::end`].
    async fn select(&mut self, plan: &TablePlan, sql: &str) -> Result<(Statement, Vec<Decoder>)> {
        self.seat.soil();
        let statement = match self.seat.prepare(sql, READING).await {
            Ok(statement) => statement,
            Err(error) => return Err(self.failed(plan, error)),
        };
        let decoders = decoders(plan, &statement.columns)?;
        match self.seat.execute(&statement, READING).await {
            Ok(()) => Ok((statement, decoders)),
            Err(error) => Err(self.failed(plan, error)),
        }
    }

    async fn end(&mut self, statement: &Statement) -> Result<()> {
        self.seat.close(statement).await?;
        self.let_go().await
    }

    async fn physical(&self, plan: &TablePlan) -> Result<String> {
        let set = self.seat.set()?;
        let mut peek = set.peek().await?;
        let physical = catalog::physical(&mut peek, &plan.source).await?;
        peek.keep();
        Ok(physical)
    }

    fn from(&self, plan: &TablePlan, index: Option<&str>) -> String {
        let hint = index.map(|i| format!(" FORCE INDEX ({})", sql::name(i))).unwrap_or_default();
        format!("{}{hint}", sql::qualified(&plan.source))
    }
}

/// The condition of a statement on a plan's rows, with `WHERE`.
pub(crate) fn filtered(plan: &TablePlan, condition: Option<String>) -> String {
    // The filter on lines of its own: it may close with a comment.
    let filter = plan.filter.as_ref().map(|f| format!("({f}\n)"));
    let parts: Vec<String> = filter.into_iter().chain(condition.map(|c| format!("({c})"))).collect();
    if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) }
}

pub(crate) fn column_list(plan: &TablePlan, texts: Texts) -> String {
    let read = |(i, column)| match Rounding::of(plan, i) {
        Some(rounding) => rounding.expression(&output(column, texts)),
        None => output(column, texts),
    };
    plan.columns.iter().enumerate().map(read).collect::<Vec<_>>().join(", ")
}

fn is_native(plan: &TablePlan) -> bool {
    plan.format == RowFormat::Native(crate::CELLS.into())
}

#[async_trait]
impl ChunkReader for Reader {
    async fn plan(&mut self, plan: &TablePlan, target_bytes: u64, _keyed: bool) -> Result<Vec<Chunk>> {
        let size = self.size(plan).await?;
        let index = if plan.key.is_empty() { None } else { self.index(plan).await? };
        self.seat.soil();
        match chunks::cut(&mut self.seat, plan, index.as_deref(), size, target_bytes).await {
            Ok(chunks) => {
                self.let_go().await?;
                Ok(chunks)
            }
            Err(error) => Err(self.failed(plan, error)),
        }
    }

    async fn read(&mut self, plan: &TablePlan, bounds: &Bounds, sink: &mut dyn BlockSink) -> Result<ChunkRead> {
        let condition = within(&key_columns(plan), bounds)?;
        // A range goes along its index, whatever stale statistics say; the whole table from front to back.
        let index = if condition.is_some() { self.index(plan).await? } else { None };
        let sql = format!(
            "SELECT {} FROM {}{}",
            column_list(plan, Texts::of(plan)),
            self.from(plan, index.as_deref()),
            filtered(plan, condition)
        );
        let room = BLOCK_BYTES + (256 << 10);
        let mut block = Vec::with_capacity(room);
        let (mut rows, mut bytes, mut in_block) = (0u64, 0u64, 0u64);
        let (statement, decoders) = self.select(plan, &sql).await?;
        loop {
            let mut put = |row: &[u8]| {
                in_block += 1;
                put_row(row, &decoders, &mut block).ok_or_else(|| Error::internal("the server sent a damaged row"))
            };
            let flow = match self.seat.rows(&mut put, READING).await {
                Ok(flow) => flow,
                Err(error) => return Err(self.failed(plan, error)),
            };
            if block.len() >= BLOCK_BYTES || (flow == Flow::End && in_block > 0) {
                (rows, bytes) = (rows + in_block, bytes + block.len() as u64);
                let full = std::mem::replace(&mut block, Vec::with_capacity(room));
                sink.block(std::mem::take(&mut in_block), Bytes::from(full)).await?;
            }
            if flow == Flow::End {
                break;
            }
        }
        self.end(&statement).await?;
        Ok(ChunkRead { rows, bytes, physical: self.physical(plan).await? })
    }

    async fn fetch(&mut self, plan: &TablePlan, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_AT_ONCE) {
            self.fetch_some(plan, keys, &mut found).await?;
        }
        let physical = self.physical(plan).await?;
        if physical != plan.physical {
            return Err(changed(plan, Error::internal(format!("it is {physical}, not {}", plan.physical))));
        }
        Ok(found)
    }
}

impl Reader {
    /// The row of each key, in order, by one statement.
    async fn fetch_some(&mut self, plan: &TablePlan, keys: &[Bytes], out: &mut Vec<Option<Bytes>>) -> Result<()> {
        let native = is_native(plan);
        let index = self.index(plan).await?;
        let conditions: Vec<String> = keys.iter().map(|key| lookup(plan, key, native)).collect::<Result<_>>()?;
        // Which key a row is of, only the server can say.
        let which: Vec<String> = conditions.iter().enumerate().map(|(i, c)| format!("WHEN {c} THEN {i}")).collect();
        let sql = format!(
            "SELECT {}, CASE {} END FROM {}{}",
            column_list(plan, Texts::of(plan)),
            which.join(" "),
            self.from(plan, index.as_deref()),
            filtered(plan, Some(conditions.join(" OR ")))
        );
        let mut found = vec![None; keys.len()];
        let (statement, decoders) = self.select(plan, &sql).await?;
        loop {
            let mut put = |row: &[u8]| {
                let mut cells = Vec::new();
                put_row(row, &decoders, &mut cells).ok_or_else(|| Error::internal("the server sent a damaged row"))?;
                let length = take_row(&mut &cells[..], plan.columns.len()).map_or(0, <[u8]>::len);
                let place = match take_cell(&mut &cells[length..]) {
                    Some(Cell::Value(n)) => std::str::from_utf8(n).ok().and_then(|n| n.parse::<usize>().ok()),
                    _ => None,
                };
                let place = place.and_then(|i| found.get_mut(i));
                let place = place.ok_or_else(|| Error::internal("a row came that was not asked for"))?;
                cells.truncate(length);
                *place = Some(Bytes::from(cells));
                Ok(())
            };
            match self.seat.rows(&mut put, READING).await {
                Ok(Flow::More) => {}
                Ok(Flow::End) => break,
                Err(error) => return Err(self.failed(plan, error)),
            }
        }
        out.append(&mut found);
        self.end(&statement).await
    }
}

/// The condition of one key, given by its cells.
pub(crate) fn lookup(plan: &TablePlan, key: &[u8], native: bool) -> Result<String> {
    let mut parts = Vec::with_capacity(plan.key.len());
    let mut values = cells(key);
    for &k in &plan.key {
        let column = &plan.columns[usize::from(k)];
        let name = sql::name(&column.source);
        let condition = match values.next() {
            Some(Cell::Value(value)) => format!("{name} = {}", value_of(&column.origin_type, value, native)?),
            Some(Cell::Null) => format!("{name} IS NULL"),
            _ => return Err(Error::internal("a key without all of its values").table(&plan.source)),
        };
        parts.push(condition);
    }
    Ok(format!("({})", parts.join(" AND ")))
}

/// A cell as a literal that compares with a column of this type. `native`: text in the column's own character set, else in UTF-8.
pub(crate) fn value_of(column_type: &str, cell: &[u8], native: bool) -> Result<String> {
    let unknown = || Error::internal(format!("a value of the type {column_type:?} cannot be compared"));
    let t = MyType::parse(column_type).ok_or_else(unknown)?;
    let shown = || std::str::from_utf8(cell).map_err(|_| unknown());
    let hex = || {
        let mut out = Vec::with_capacity(cell.len() * 2 + 3);
        sql::put_hex(&mut out, cell);
        String::from_utf8_lossy(&out).into_owned()
    };
    Ok(match t.kind {
        Kind::Int { .. } | Kind::Year | Kind::Decimal { .. } | Kind::Double { .. } => {
            let text = shown()?;
            if !text.bytes().all(|b| b.is_ascii_digit() || b"+-.e".contains(&b)) || text.is_empty() {
                return Err(unknown());
            }
            text.to_owned()
        }
        // Compared as a DOUBLE: so it needs the digits of that.
        Kind::Float { .. } => f64::from(shown()?.parse::<f32>().map_err(|_| unknown())?).to_string(),
        Kind::Bit { .. } => u64::from_str_radix(shown()?, 2).map_err(|_| unknown())?.to_string(),
        Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } => {
            let charset = t.charset.as_deref().filter(|_| native).unwrap_or("utf8mb4");
            format!("_{charset} {}", hex())
        }
        Kind::Enum { .. } | Kind::Set { .. } => format!("_utf8mb4 {}", hex()),
        Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. } => hex(),
        // In canonical form UTC stands behind it.
        Kind::Timestamp { .. } => sql::text(shown()?.trim_end_matches("+00")),
        _ => sql::text(shown()?),
    })
}
