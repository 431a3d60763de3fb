//! Reading rows: chunks on a snapshot, and comparisons on the rows of now.

use crate::database::{Database, Tables, no_table};
use crate::table::{Mapping, Row, TableData, encode, known};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{BlockSink, ChunkRead, ChunkReader, RowSink, Rows, Side};
use drover_model::chunk::{Bounds, Chunk};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry, TablePlan};

const BLOCK: usize = 1 << 20;

/// The error of everything that is asked of a snapshot that is gone.
pub fn lost() -> Error {
    Error::new(codes::SNAPSHOT_LOST, Fault::Source, Retry::Never, "the snapshot is gone")
}

/// Key texts of a row, for bounds: null does not occur in a key.
pub fn key_texts(row: &Row, key: &[usize]) -> Vec<String> {
    let text = |&c: &usize| row.get(c).and_then(Option::as_ref).map(|v| String::from_utf8_lossy(v).into_owned());
    key.iter().map(|c| text(c).unwrap_or_default()).collect()
}

/// The rows within bounds: by key in the order of the texts, by place in the order of places.
fn within<'a>(data: &'a TableData, map: &Mapping, bounds: &Bounds) -> Result<Vec<&'a Row>> {
    Ok(match bounds {
        Bounds::Whole => data.rows.values().collect(),
        Bounds::Keys { from, to } => {
            let inside = |row: &&Row| {
                let key = key_texts(row, &map.key);
                from.as_ref().is_none_or(|from| *from <= key) && to.as_ref().is_none_or(|to| key < *to)
            };
            data.rows.values().filter(inside).collect()
        }
        Bounds::Physical { from, to } => {
            let number = |text: &Option<String>, open: u64| -> Result<u64> {
                let Some(text) = text else { return Ok(open) };
                text.parse().map_err(|_| Error::internal(format!("{text:?} is no physical place")))
            };
            let (from, to) = (number(from, 0)?, number(to, u64::MAX)?);
            if from < to { data.rows.range(from..to).map(|(_, row)| row).collect() } else { Vec::new() }
        }
    })
}

/// A session on a snapshot.
pub struct MemoryReader {
    pub db: Database,
    pub snapshot: u64,
}

impl MemoryReader {
    fn tables(&self) -> Result<Tables> {
        self.db.lock().snapshots.get(&self.snapshot).map(|s| s.tables.clone()).ok_or_else(lost)
    }

    fn physical(&self, plan: &TablePlan) -> String {
        let inner = self.db.lock();
        inner.tables.get(&plan.source).map_or_else(|| "dropped".into(), |t| t.def.physical.clone())
    }
}

#[async_trait]
impl ChunkReader for MemoryReader {
    async fn plan(&mut self, plan: &TablePlan, target_bytes: u64, keyed: bool) -> Result<Vec<Chunk>> {
        let tables = self.tables()?;
        let data = tables.get(&plan.source).ok_or_else(|| no_table(&plan.source))?;
        let map = Mapping::new(plan, data, true)?;
        let mut rows: Vec<(Vec<String>, u64, u64)> =
            data.rows.iter().map(|(&p, row)| (key_texts(row, &map.key), p, TableData::size(row))).collect();
        if plan.key.is_empty() && (keyed || rows.is_empty()) {
            let bytes = rows.iter().map(|r| r.2).sum();
            return Ok(vec![Chunk { number: 0, bounds: Bounds::Whole, rows: rows.len() as u64, bytes }]);
        }
        rows.sort();
        let mut cuts: Vec<(Option<usize>, u64, u64)> = vec![(None, 0, 0)];
        for (i, row) in rows.iter().enumerate() {
            if let Some((_, count, bytes)) = cuts.last_mut()
                && (*count == 0 || *bytes + row.2 <= target_bytes)
            {
                *count += 1;
                *bytes += row.2;
                continue;
            }
            cuts.push((Some(i), 1, row.2));
        }
        let starts: Vec<Option<usize>> = cuts.iter().map(|c| c.0).chain([None]).collect();
        let bound = |i: Option<usize>| i.and_then(|i| rows.get(i));
        let chunks = cuts.iter().enumerate().map(|(n, &(_, count, bytes))| {
            let (from, to) = (bound(starts[n]), bound(starts[n + 1]));
            let bounds = if plan.key.is_empty() {
                Bounds::Physical { from: from.map(|r| r.1.to_string()), to: to.map(|r| r.1.to_string()) }
            } else {
                Bounds::Keys { from: from.map(|r| r.0.clone()), to: to.map(|r| r.0.clone()) }
            };
            Chunk { number: n as u32, bounds, rows: count, bytes }
        });
        Ok(chunks.collect())
    }

    async fn read(&mut self, plan: &TablePlan, bounds: &Bounds, sink: &mut dyn BlockSink) -> Result<ChunkRead> {
        let tables = self.tables()?;
        let data = tables.get(&plan.source).ok_or_else(|| no_table(&plan.source))?;
        let map = Mapping::new(plan, data, true)?;
        let (mut rows, mut bytes, mut block, mut block_rows) = (0, 0, Vec::new(), 0);
        for row in within(data, &map, bounds)? {
            encode(&mut block, row, &map.columns);
            block_rows += 1;
            if block.len() >= BLOCK {
                rows += block_rows;
                bytes += block.len() as u64;
                sink.block(std::mem::take(&mut block_rows), Bytes::from(std::mem::take(&mut block))).await?;
            }
        }
        if block_rows > 0 {
            rows += block_rows;
            bytes += block.len() as u64;
            sink.block(block_rows, Bytes::from(block)).await?;
        }
        // Lost while it was read: what was given out is void.
        self.tables()?;
        Ok(ChunkRead { rows, bytes, physical: self.physical(plan) })
    }

    async fn fetch(&mut self, plan: &TablePlan, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let found = {
            let tables = self.tables()?;
            let data = tables.get(&plan.source).ok_or_else(|| no_table(&plan.source))?;
            by_keys(data, &Mapping::new(plan, data, true)?, keys)?
        };
        let physical = self.physical(plan);
        if physical != plan.physical {
            let text = format!("the table changed while it was copied: it is {physical}, not {}", plan.physical);
            return Err(Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, text).table(&plan.source));
        }
        Ok(found)
    }
}

/// The row of each key, if there is one.
fn by_keys(data: &TableData, map: &Mapping, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
    let row = |key: &Bytes| {
        let place = data.find(&map.key, &known(key)?).first().copied();
        Ok(place.and_then(|place| data.rows.get(&place)).map(|row| {
            let mut cells = Vec::new();
            encode(&mut cells, row, &map.columns);
            Bytes::from(cells)
        }))
    };
    keys.iter().map(row).collect()
}

/// A session for comparisons.
pub struct MemoryRows {
    pub db: Database,
}

impl MemoryRows {
    fn table(&self, plan: &TablePlan, side: Side) -> Result<(std::sync::Arc<TableData>, Mapping)> {
        let name = if side == Side::Source { &plan.source } else { &plan.destination };
        let data = self.db.lock().tables.get(name).cloned().ok_or_else(|| no_table(name))?;
        let map = Mapping::new(plan, &data, side == Side::Source)?;
        Ok((data, map))
    }
}

#[async_trait]
impl Rows for MemoryRows {
    async fn read(&mut self, plan: &TablePlan, side: Side, bounds: &Bounds, sink: &mut dyn RowSink) -> Result<()> {
        let (data, map) = self.table(plan, side)?;
        for rows in within(&data, &map, bounds)?.chunks(4096) {
            let mut cells = Vec::new();
            rows.iter().for_each(|row| encode(&mut cells, row, &map.columns));
            sink.block(rows.len(), Bytes::from(cells))?;
        }
        Ok(())
    }
    async fn read_keys(&mut self, plan: &TablePlan, side: Side, keys: &[Bytes], sink: &mut dyn RowSink) -> Result<()> {
        let (data, map) = self.table(plan, side)?;
        for row in by_keys(&data, &map, keys)?.into_iter().flatten() {
            sink.block(1, row)?;
        }
        Ok(())
    }
}
