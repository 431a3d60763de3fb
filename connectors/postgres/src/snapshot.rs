//! Snapshots and chunks. Every reading session imports one exported snapshot and asserts that it really is on it; a session
//! that imported a snapshot exports it again, so that it dies only with the last of its holders.
//!
//! Source: PostgreSQL manual, "Snapshot Synchronization Functions" and SET TRANSACTION.

use crate::bytea::{self, is_raw};
use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::sql::{ident, literal, qualified};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use drover_connectors_api::{BlockSink, ChunkRead, ChunkReader, Hold};
use drover_model::chunk::{Bounds, Chunk};
use drover_model::error::codes;
use drover_model::plan::{PlanColumn, RowFormat, SnapshotRef};
use drover_model::row::{Cell, put_cell};
use drover_model::{Error, Fault, Position, Result, Retry, TablePlan};
use futures::StreamExt;
use std::borrow::Cow;
use std::pin::pin;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

pub use crate::typemap::COPY_BINARY;

/// Size of a block: large enough that its record's cost does not count, small enough to stay far below brokers' limits.
const BLOCK_BYTES: usize = 1 << 20;

/// Snapshot text as the server writes it; equal texts mean equal snapshots.
async fn proof(session: &Session, version: u32) -> Result<String> {
    let sql =
        if version >= 130_000 { "select pg_current_snapshot()::text" } else { "select txid_current_snapshot()::text" };
    let row = session.query_one(sql, &[]).await;
    row.map(|r| r.get(0)).map_err(|e| classify(&e, Fault::Source, "cannot read the snapshot of a session"))
}

fn lost(what: &str) -> Error {
    Error::new(codes::SNAPSHOT_LOST, Fault::Source, Retry::Other, what.to_owned())
        .remedy("nothing needs to be done: what is not yet copied goes on from a new snapshot")
}

/// A session inside a transaction on the snapshot named `token`; asserts `want` where it is known.
async fn on_snapshot(
    dialer: &Dialer,
    purpose: &str,
    token: &str,
    want: Option<&str>,
) -> Result<(Session, u32, String)> {
    let session = dialer.session(purpose).await?;
    let version = server_version(&session).await?;
    let begin = format!(
        "begin isolation level repeatable read read only; set transaction snapshot {}; \
         set local max_parallel_workers_per_gather = 0; set local jit = off",
        literal(token)
    );
    // `jit` came with 11; older servers get the same without it.
    let begin = if version >= 110_000 { begin } else { begin.replace("; set local jit = off", "") };
    session.batch_execute(&begin).await.map_err(|e| match e.code() {
        Some(
            &SqlState::INVALID_PARAMETER_VALUE
            | &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            | &SqlState::UNDEFINED_OBJECT,
        ) => lost("the snapshot is gone").cause(e),
        _ => classify(&e, Fault::Source, "cannot join the snapshot"),
    })?;
    let seen = proof(&session, version).await?;
    if want.is_some_and(|want| want != seen) {
        return Err(Error::internal(format!(
            "a session joined snapshot {seen}, but it should be on {}",
            want.unwrap_or("")
        )));
    }
    Ok((session, version, seen))
}

/// `server_version_num`.
pub async fn server_version(session: &Session) -> Result<u32> {
    let row = session.query_one("select current_setting('server_version_num')::int4", &[]).await;
    row.map(|r| r.get::<_, i32>(0) as u32)
        .map_err(|e| classify(&e, Fault::Source, "cannot ask for the server's version"))
}

/// Holds a snapshot in an open transaction.
pub struct Holder {
    session: Session,
    snapshot: SnapshotRef,
}

impl Holder {
    /// Joins the snapshot that somebody exported as `token` and exports it again.
    pub async fn join(dialer: &Dialer, token: &str, position: Position, want: Option<&str>) -> Result<Self> {
        let (session, _, proof) = on_snapshot(dialer, "hold", token, want).await?;
        let row = session.query_one("select pg_export_snapshot()", &[]).await;
        let token = row.map_err(|e| classify(&e, Fault::Source, "cannot export the snapshot again"))?.get(0);
        Ok(Holder { session, snapshot: SnapshotRef { position, blur: None, token, proof, shared: true } })
    }
}

#[async_trait]
impl Hold for Holder {
    fn snapshot(&self) -> SnapshotRef {
        self.snapshot.clone()
    }
    async fn lost(&self) -> Error {
        self.session.closed().await;
        lost("the session that held the snapshot has ended")
    }
}

/// Reads chunks on a snapshot.
pub struct Reader {
    session: Session,
    /// Sees the catalogue as it is now, which the snapshot's session must not.
    peek: Session,
    version: u32,
    fault: Fault,
}

impl Reader {
    pub async fn open(dialer: &Dialer, snapshot: &SnapshotRef) -> Result<Self> {
        let (session, version, _) = on_snapshot(dialer, "read", &snapshot.token, Some(&snapshot.proof)).await?;
        let peek = dialer.session("peek").await?;
        Ok(Reader { session, peek, version, fault: dialer.fault() })
    }

    /// The rows of a query. It leaves no lock behind (see [`Reader::read`]).
    async fn texts(&self, sql: &str, what: &str) -> Result<Vec<Vec<Option<String>>>> {
        let failed = |e: tokio_postgres::Error| classify(&e, self.fault, what.to_owned());
        self.session.batch_execute("savepoint chunk").await.map_err(failed)?;
        let rows = self.session.query(sql, &[]).await.map_err(failed)?;
        self.session.batch_execute("rollback to savepoint chunk; release savepoint chunk").await.map_err(failed)?;
        Ok(rows.iter().map(|r| (0..r.len()).map(|i| r.get(i)).collect()).collect())
    }

    /// Kind and size in pages of a table now, and correlation of its leading key column with the place of rows.
    async fn shape(&self, plan: &TablePlan) -> Result<(bool, i64, Option<f32>)> {
        let sql = "select c.relkind = 'p', greatest((with recursive tree(oid) as (select c.oid union all select i.inhrelid from tree t \
               join pg_inherits i on i.inhparent = t.oid where c.relkind = 'p') select sum(pg_relation_size(t.oid)) from tree t)::int8 \
               / current_setting('block_size')::int8, 1), (select s.correlation from pg_stats s where s.schemaname = $1 and s.tablename = $2 and s.attname = $3 and s.inherited = (c.relkind = 'p')) \
             from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2";
        let key = plan.key.first().map_or("", |&k| plan.columns[usize::from(k)].source.as_str());
        let row = self.peek.query_opt(sql, &[&plan.source.schema, &plan.source.name, &key]).await;
        let row = row.map_err(|e| classify(&e, self.fault, "cannot look at a table's size").table(&plan.source))?;
        let row = row.ok_or_else(|| changed(plan, "it does not exist any more"))?;
        Ok((row.get(0), row.get(1), row.get(2)))
    }

    /// `count - 1` key values that cut the table into about equal parts, from a sample of its pages.
    async fn key_bounds(&self, plan: &TablePlan, count: u64, pages: i64) -> Result<Vec<Vec<String>>> {
        let keys: Vec<String> = key_columns(plan).map(ident).collect();
        let list = keys.join(", ");
        // Some 20 pages for each cut are enough to make parts of about equal size; the sample is repeatable only by chance.
        let percent = (count as f64 * 2000.0 / pages as f64).clamp(0.01, 100.0);
        let sample = if percent >= 50.0 { String::new() } else { format!(" tablesample system ({percent:.4})") };
        let texts: Vec<String> = keys.iter().map(|k| format!("{k}::text")).collect();
        let sql = format!(
            "select {} from (select {list}, row_number() over (order by {list}) as drover_n, count(*) over () as drover_all from {}{sample}) s \
             where drover_n > 1 and (drover_n - 1) % greatest((drover_all + {} ) / {count}, 1) = 0 order by drover_n",
            texts.join(", "),
            from_clause(plan),
            count - 1,
        );
        let rows = self.texts(&sql, "cannot cut a table into chunks").await.map_err(|e| e.table(&plan.source))?;
        Ok(rows.into_iter().map(|r| r.into_iter().map(Option::unwrap_or_default).collect()).collect())
    }
}

fn changed(plan: &TablePlan, how: &str) -> Error {
    Error::new(
        codes::TABLE_CHANGED,
        Fault::Source,
        Retry::Never,
        format!("the table changed while it was copied: {how}"),
    )
    .table(&plan.source)
    .remedy("start the migration again, and change no selected table before the changes are flowing")
}

fn key_columns(plan: &TablePlan) -> impl Iterator<Item = &str> {
    plan.key.iter().map(|&k| plan.columns[usize::from(k)].source.as_str())
}

/// `only` keeps tables that merely inherit out; a partitioned table has no rows of its own.
pub(crate) fn from_clause(plan: &TablePlan) -> String {
    let name = qualified(&plan.source.schema, &plan.source.name);
    if plan.physical.starts_with("partitioned") { name } else { format!("only {name}") }
}

/// The condition of a chunk, with the plan's filter.
pub fn condition(plan: &TablePlan, bounds: &Bounds) -> String {
    let mut parts = Vec::new();
    if let Some(filter) = &plan.filter {
        // On a line of its own end: it may close with a comment.
        parts.push(format!("({filter}\n)"));
    }
    match bounds {
        Bounds::Whole => {}
        Bounds::Keys { from, to } => {
            let keys: Vec<String> = key_columns(plan).map(ident).collect();
            let row = |values: &[String]| {
                let typed = values
                    .iter()
                    .zip(&plan.key)
                    .map(|(v, &k)| format!("{}::{}", literal(v), plan.columns[usize::from(k)].origin_type));
                format!("({})", typed.collect::<Vec<_>>().join(", "))
            };
            for (op, bound) in [(">=", from), ("<", to)] {
                if let Some(bound) = bound {
                    parts.push(format!("({}) {op} {}", keys.join(", "), row(bound)));
                }
            }
        }
        Bounds::Physical { from, to } => {
            for (op, bound) in [(">=", from), ("<", to)] {
                if let Some(bound) = bound {
                    parts.push(format!("ctid {op} {}::tid", literal(bound)));
                }
            }
        }
    }
    if parts.is_empty() { String::new() } else { format!(" where {}", parts.join(" and ")) }
}

/// A column in its type's output form, which is what the change stream has, too. Casting to text is quicker but gives some types another form
/// (booleans, padded text, network addresses, types of users).
fn output(column: &PlanColumn) -> String {
    const CAST: [&str; 13] = [
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "real",
        "double",
        "text",
        "character varying",
        "uuid",
        "bytea",
        "date",
        "time",
        "json",
    ];
    let name = ident(&column.source);
    if !column.origin_type.ends_with(']') && CAST.iter().any(|t| column.origin_type.starts_with(t)) {
        return format!("{name}::text");
    }
    format!("case when {name} is not distinct from null then null else concat({name}) end")
}

/// Whether COPY's binary form of a column is its cell.
fn as_sent(plan: &TablePlan, column: &PlanColumn) -> bool {
    is_binary(plan) || is_raw(plan, column)
}

/// Whether blocks have COPY's binary form.
fn is_binary(plan: &TablePlan) -> bool {
    matches!(&plan.format, RowFormat::Native(name) if name == COPY_BINARY)
}

fn select(plan: &TablePlan, bounds: &Bounds) -> String {
    let columns: Vec<String> =
        plan.columns.iter().map(|c| if as_sent(plan, c) { ident(&c.source) } else { output(c) }).collect();
    format!("select {} from {}{}", columns.join(", "), from_clause(plan), condition(plan, bounds))
}

/// Reads the cells of one row of COPY's binary form. Source: manual of COPY, "Binary Format".
fn cells_of_tuple(mut tuple: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, rest) = from.split_at_checked(n)?;
        *from = rest;
        Some(head)
    }
    let count = i16::from_be_bytes(take(&mut tuple, 2)?.try_into().ok()?);
    if count < 0 {
        return Some(false);
    }
    for _ in 0..count {
        let len = i32::from_be_bytes(take(&mut tuple, 4)?.try_into().ok()?);
        match usize::try_from(len) {
            Ok(len) => put_cell(out, Cell::Value(take(&mut tuple, len)?)),
            Err(_) => put_cell(out, Cell::Null),
        }
    }
    Some(true)
}

/// Signature, flags and length of an empty extension area.
const COPY_HEADER: usize = 19;

#[async_trait]
impl ChunkReader for Reader {
    async fn plan(&mut self, plan: &TablePlan, target_bytes: u64, keyed: bool) -> Result<Vec<Chunk>> {
        let (partitioned, pages, correlation) = self.shape(plan).await?;
        let has_key = !plan.key.is_empty();
        let count = plan.bytes.div_ceil(target_bytes.max(1)).clamp(1, 1_000_000);
        let chunk = |number: usize, of: usize, bounds| Chunk {
            number: number as u32,
            bounds,
            rows: plan.rows / of as u64,
            bytes: plan.bytes / of as u64,
        };
        if count == 1 {
            let bounds = if has_key { Bounds::Keys { from: None, to: None } } else { Bounds::Whole };
            return Ok(vec![chunk(0, 1, bounds)]);
        }
        // A key that says nothing about where its rows lie (a random UUID) would read every page for every chunk.
        let scattered = correlation.is_some_and(|c| c.abs() < 0.2);
        // Before 14 a range of places is not an access path: each chunk would read the whole table.
        let physical = !partitioned && self.version >= 140_000;
        if has_key && (keyed || !scattered || !physical) {
            let cuts = self.key_bounds(plan, count, pages).await?;
            let of = cuts.len() + 1;
            let mut from = None;
            let mut chunks = Vec::with_capacity(of);
            for (number, cut) in cuts.into_iter().map(Some).chain([None]).enumerate() {
                chunks.push(chunk(number, of, Bounds::Keys { from: from.take(), to: cut.clone() }));
                from = cut;
            }
            return Ok(chunks);
        }
        if !physical {
            return Ok(vec![chunk(0, 1, Bounds::Whole)]);
        }
        let step = (pages as u64).div_ceil(count).max(1);
        let cuts: Vec<u64> = (1..count).map(|i| i * step).filter(|&p| p < pages as u64).collect();
        let of = cuts.len() + 1;
        let place = |page: u64| Some(format!("({page},0)"));
        Ok((0..of)
            .map(|i| {
                let from = if i == 0 { None } else { place(cuts[i - 1]) };
                let to = cuts.get(i).copied().and_then(place);
                chunk(i, of, Bounds::Physical { from, to })
            })
            .collect())
    }

    async fn read(&mut self, plan: &TablePlan, bounds: &Bounds, sink: &mut dyn BlockSink) -> Result<ChunkRead> {
        let native = is_binary(plan);
        let whole = matches!(
            bounds,
            Bounds::Whole | Bounds::Keys { from: None, to: None } | Bounds::Physical { from: None, to: None }
        );
        // A range of keys is read along its index, whatever stale statistics say; the whole table from front to back.
        let scan = if whole { "on" } else { "off" };
        let ranged = matches!(bounds, Bounds::Keys { .. });
        let (seq, bitmap) = if ranged { (scan, scan) } else { ("on", "on") };
        let failed =
            |e: tokio_postgres::Error, fault: Fault| classify(&e, fault, "cannot read a chunk").table(&plan.source);
        // What is locked after a savepoint is unlocked by going back to it: the application's DDL never waits for more than a chunk. The
        // savepoint is released after that, or they would pile up, one for each chunk.
        let begin =
            format!("savepoint chunk; set local enable_seqscan = {seq}; set local enable_bitmapscan = {bitmap}");
        self.session.batch_execute(&begin).await.map_err(|e| failed(e, self.fault))?;
        let sql = format!("copy ({}) to stdout (format binary)", select(plan, bounds));
        let stream = self.session.copy_out(&sql).await.map_err(|e| failed(e, self.fault))?;
        let mut stream = pin!(stream);
        let mut block = BytesMut::with_capacity(BLOCK_BYTES + (64 << 10));
        let mut cells = Vec::new();
        let (mut rows, mut bytes, mut in_block) = (0u64, 0u64, 0u64);
        let mut first = true;
        while let Some(message) = stream.next().await {
            let message: Bytes = message.map_err(|e| failed(e, self.fault))?;
            let mut tuple = &message[..];
            if std::mem::take(&mut first) {
                tuple = tuple.get(COPY_HEADER..).ok_or_else(|| Error::internal("COPY began without its header"))?;
            }
            // The server sends one message for each row; the header shares the first one's, the trailer (-1) stands alone.
            let is_row = tuple.len() >= 2 && tuple[..2] != [0xff, 0xff];
            in_block += u64::from(is_row);
            if native {
                block.extend_from_slice(&message);
            } else if is_row {
                cells.clear();
                cells_of_tuple(tuple, &mut cells).ok_or_else(|| Error::internal("COPY sent half a row"))?;
                block.extend_from_slice(&cells);
            }
            if block.len() >= BLOCK_BYTES {
                (rows, bytes) = (rows + in_block, bytes + block.len() as u64);
                sink.block(std::mem::take(&mut in_block), block.split().freeze()).await?;
                block.reserve(BLOCK_BYTES + (64 << 10));
            }
        }
        if !block.is_empty() {
            (rows, bytes) = (rows + in_block, bytes + block.len() as u64);
            sink.block(in_block, block.freeze()).await?;
        }
        self.session
            .batch_execute("rollback to savepoint chunk; release savepoint chunk")
            .await
            .map_err(|e| failed(e, self.fault))?;
        let physical = crate::catalog::physical(&self.peek, &plan.source).await?;
        Ok(ChunkRead { rows, bytes, physical })
    }

    async fn fetch(&mut self, plan: &TablePlan, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let raw: Vec<bool> = plan.columns.iter().map(|c| is_raw(plan, c)).collect();
        let mut columns: Vec<Vec<Option<Cow<'_, str>>>> = vec![Vec::with_capacity(keys.len()); plan.key.len()];
        for key in keys {
            let mut cells = drover_model::row::cells(key);
            for (column, &k) in columns.iter_mut().zip(&plan.key) {
                let value = cells.next().and_then(Cell::value);
                column.push(match raw[usize::from(k)] {
                    true => value.map(|v| bytea::shown(v).into()),
                    false => value.and_then(|v| std::str::from_utf8(v).ok()).map(Cow::Borrowed),
                });
            }
        }
        let failed =
            |e: tokio_postgres::Error| classify(&e, self.fault, "cannot fetch rows that are owed").table(&plan.source);
        let params: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as &(dyn ToSql + Sync)).collect();
        // By the key's index, whatever stale statistics say. As in `read`, no lock stays.
        let begin = "savepoint chunk; set local enable_seqscan = off";
        self.session.batch_execute(begin).await.map_err(failed)?;
        let rows = self.session.query(&fetch_sql(plan), &params).await.map_err(failed)?;
        self.session.batch_execute("rollback to savepoint chunk; release savepoint chunk").await.map_err(failed)?;
        let mut found = vec![None; keys.len()];
        for row in rows {
            let mut out = Vec::new();
            for (i, raw) in (1..row.len()).zip(&raw) {
                match row.get::<_, Option<&str>>(i) {
                    Some(text) if *raw => bytea::put_raw(&mut out, text.as_bytes())?,
                    text => put_cell(&mut out, text.map_or(Cell::Null, |v| Cell::Value(v.as_bytes()))),
                }
            }
            let place = usize::try_from(row.get::<_, i64>(0) - 1).ok().and_then(|n| found.get_mut(n));
            *place.ok_or_else(|| Error::internal("a fetched row has no key that was asked for"))? =
                Some(Bytes::from(out));
        }
        // Of a rewritten or truncated table the snapshot shows nothing, and says nothing about it.
        if crate::catalog::physical(&self.peek, &plan.source).await? != plan.physical {
            return Err(changed(plan, "it was rewritten or truncated"));
        }
        Ok(found)
    }
}

/// Rows by key, with the number of the key; one array of texts is given for each column of the key.
fn fetch_sql(plan: &TablePlan) -> String {
    let columns: Vec<String> = plan.columns.iter().map(output).collect();
    let arrays: Vec<String> = (1..=plan.key.len()).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<String> = (1..=plan.key.len()).map(|n| format!("k{n}")).collect();
    // The table's own columns come first where a name is not qualified, so none of them is taken for the list's.
    let equal = plan.key.iter().zip(&names).map(|(&k, name)| {
        let column = &plan.columns[usize::from(k)];
        format!("{} = drover_keys.{name}::{}", ident(&column.source), column.origin_type)
    });
    let filter = plan.filter.iter().map(|filter| format!("({filter}\n)"));
    let condition: Vec<String> = equal.chain(filter).collect();
    format!(
        "select drover_keys.n, drover_row.* from unnest({}) with ordinality drover_keys ({}, n), \
         lateral (select {} from {} where {}) drover_row",
        arrays.join(", "),
        names.join(", "),
        columns.join(", "),
        from_clause(plan),
        condition.join(" and "),
    )
}
