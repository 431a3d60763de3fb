//! Helpers: the tables of the suite, their plans, reading streams and chunks into plain values.

use crate::fixture::{Column, Fixture, Kind, TestTable, Text, Write};
use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{
    Batch, BlockSink, ChangeStream, ChunkReader, Destination, Opened, Rows, Side, Source, StreamSpec,
};
use drover_model::change::{Item, Old, Reader};
use drover_model::chunk::Bounds;
use drover_model::plan::{Operations, RowFormat};
use drover_model::row::{Cell, cells, put_cell, take_row};
use drover_model::schema::{Catalog, TableName};
use drover_model::selection::{ColumnChoice, TableChoice};
use drover_model::{Position, TablePlan};
use std::time::Duration;

/// How long anything may take before a test gives up waiting.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const ITEMS: &str = "suite_items";
pub const LOOSE: &str = "suite_loose";

/// A table with a primary key, another unique key, and a column that updates leave out.
pub fn items() -> TestTable {
    let column = |name, kind, nullable, large| Column { name, kind, nullable, large };
    TestTable {
        name: ITEMS,
        columns: vec![
            column("id", Kind::Int, false, false),
            column("name", Kind::Text, true, false),
            column("code", Kind::Text, true, false),
            column("story", Kind::Text, true, true),
        ],
        primary: vec!["id"],
        unique: vec![vec!["code"]],
    }
}

/// A table without any key.
pub fn loose() -> TestTable {
    let column = |name, kind| Column { name, kind, nullable: true, large: false };
    TestTable {
        name: LOOSE,
        columns: vec![column("a", Kind::Int), column("b", Kind::Text)],
        primary: vec![],
        unique: vec![],
    }
}

pub fn text(value: impl ToString) -> Text {
    Some(value.to_string())
}

/// A row of [`items`]; the code is derived from the id, the story is long.
pub fn item(id: u64, name: &str) -> Vec<Text> {
    vec![text(id), text(name), text(format!("c{id}")), text(story(id))]
}

/// Long, and hard to compress: databases move only such values out of the row.
pub fn story(id: u64) -> String {
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        format!("{x:016x}")
    };
    (0..700).map(|_| word()).collect()
}

pub fn insert(id: u64, name: &str) -> Write {
    Write::Insert { table: ITEMS, row: item(id, name) }
}

pub fn rename(id: u64, name: &str) -> Write {
    Write::Update { table: ITEMS, key: vec![id.to_string()], set: vec![("name", text(name))] }
}

/// Cells of these values.
pub fn encoded(values: &[Text]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        put_cell(&mut out, value.as_ref().map_or(Cell::Null, |v| Cell::Value(v.as_bytes())));
    }
    out
}

/// A value out of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Val {
    Unknown,
    Known(Text),
}

pub fn values(row: &[u8]) -> Vec<Val> {
    let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
    let val = |cell: Cell<'_>| match cell {
        Cell::Unknown => Val::Unknown,
        Cell::Null => Val::Known(None),
        Cell::Value(v) => Val::Known(Some(text(v))),
    };
    cells(row).map(val).collect()
}

/// Rows of canonical cells as values; an unknown cell is an error.
pub fn known_rows(mut block: &[u8], width: usize) -> anyhow::Result<Vec<Vec<Text>>> {
    let mut rows = Vec::new();
    while !block.is_empty() {
        let row = take_row(&mut block, width).context("a damaged row")?;
        let known = |v| match v {
            Val::Known(v) => Ok(v),
            Val::Unknown => bail!("an unknown cell"),
        };
        rows.push(values(row).into_iter().map(known).collect::<anyhow::Result<_>>()?);
    }
    Ok(rows)
}

/// Both ends opened, the tables created, and their plans.
pub struct World<'a> {
    pub fixture: &'a dyn Fixture,
    pub source: Box<dyn Source>,
    pub destination: Box<dyn Destination>,
    pub catalog: Catalog,
    /// [`items`] and [`loose`].
    pub plans: Vec<TablePlan>,
    spill: std::path::PathBuf,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        // Only what a stream spilled; nothing depends on it.
        let _ = std::fs::remove_dir_all(&self.spill);
    }
}

impl<'a> World<'a> {
    /// With rows already there when drover first comes.
    pub async fn new(fixture: &'a dyn Fixture, before: &[Write]) -> anyhow::Result<World<'a>> {
        for table in [items(), loose()] {
            fixture.create(&table).await?;
        }
        if !before.is_empty() {
            fixture.transaction(before, true).await?;
        }
        let source = fixture.connector().source(fixture.target(Side::Source)).await?;
        let destination = fixture.connector().destination(fixture.target(Side::Destination)).await?;
        let catalog = source.catalog().await?;
        let mut plans = Vec::new();
        for (id, test) in [items(), loose()].iter().enumerate() {
            let name = TableName::new(fixture.schema(), test.name);
            let table = catalog.table(&name).with_context(|| format!("{name} is not in the catalogue"))?;
            let keep = |c: &drover_model::schema::Column| ColumnChoice::same(&c.name);
            let choice = TableChoice {
                source: name.clone(),
                schema: name.schema.clone(),
                table: name.name.clone(),
                columns: table.columns.iter().map(keep).collect(),
                filter: None,
                operations: Operations::ALL,
                floats: None,
            };
            let mapped = destination.map_table(&catalog, table, &choice);
            ensure!(mapped.formats.contains(&RowFormat::Canonical), "canonical rows must be taken");
            let format = RowFormat::Canonical;
            plans.push(TablePlan { id: id as u32, version: 1, format, ..mapped.plan });
        }
        let spill = std::env::temp_dir().join(format!("drover-suite-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&spill)?;
        Ok(World { fixture, source, destination, catalog, plans, spill })
    }

    pub fn migration(&self) -> drover_model::MigrationId {
        self.fixture.target(Side::Source).migration
    }
    pub fn name(&self) -> String {
        self.fixture.target(Side::Source).name
    }
    /// The plans as sessions share them.
    pub fn shared(&self) -> std::sync::Arc<Vec<TablePlan>> {
        self.plans.clone().into()
    }
    pub fn items(&self) -> &TablePlan {
        &self.plans[0]
    }
    pub fn loose(&self) -> &TablePlan {
        &self.plans[1]
    }

    /// `resume`: `None` makes the stream anew.
    pub fn spec(&self, resume: Option<Position>, batch_bytes: usize) -> StreamSpec {
        StreamSpec {
            fresh: resume.is_none(),
            epoch: 1,
            migration: self.migration(),
            name: self.name(),
            tables: self.plans.clone().into(),
            resume,
            schemas: None,
            may_set_identity: true,
            spill: self.spill.clone(),
            batch_bytes,
        }
    }

    pub async fn open(&self, resume: Option<Position>) -> anyhow::Result<Opened> {
        Ok(self.source.open_stream(self.spec(resume, 1 << 20)).await?)
    }

    /// The rows of a table at the source, as the fixture sees them.
    pub async fn source_rows(&self, table: &str) -> anyhow::Result<Vec<Vec<Text>>> {
        self.fixture.rows(Side::Source, table).await
    }
    pub async fn destination_rows(&self, table: &str) -> anyhow::Result<Vec<Vec<Text>>> {
        self.fixture.rows(Side::Destination, table).await
    }

    /// Destination prepared, tables with keys created, and an epoch taken.
    pub async fn ready(&self) -> anyhow::Result<u64> {
        use drover_connectors_api::SchemaStep;
        self.destination.prepare(self.migration(), &self.name()).await?;
        let steps = [SchemaStep::Base, SchemaStep::Table { id: 0 }, SchemaStep::Table { id: 1 }];
        for step in steps {
            self.schema(&step).await?;
        }
        Ok(self.destination.take_over(self.migration()).await?.epoch)
    }

    pub async fn schema(&self, step: &drover_connectors_api::SchemaStep) -> anyhow::Result<Vec<String>> {
        let objects = &self.catalog.objects;
        Ok(self.destination.schema(self.migration(), step, &self.catalog, &self.plans, objects, false).await?)
    }

    /// Two positions of the source, in order, that stand for before and after a batch.
    pub async fn two_positions(&self) -> anyhow::Result<(Position, Position)> {
        let first = self.source.mark().await?;
        self.fixture.transaction(&[insert(900_000, "between")], true).await?;
        let second = self.source.mark().await?;
        ensure!(first < second, "marks do not rise: {first}, {second}");
        Ok((first, second))
    }
}

/// Collects blocks.
#[derive(Default)]
pub struct Blocks {
    pub rows: u64,
    pub data: Vec<Bytes>,
}

#[async_trait]
impl BlockSink for Blocks {
    async fn block(&mut self, rows: u64, data: Bytes) -> drover_model::Result<()> {
        self.rows += rows;
        self.data.push(data);
        Ok(())
    }
}

/// Reads a chunk into values. The count must be what was told.
pub async fn chunk(reader: &mut dyn ChunkReader, plan: &TablePlan, bounds: &Bounds) -> anyhow::Result<Vec<Vec<Text>>> {
    let mut blocks = Blocks::default();
    let read = reader.read(plan, bounds, &mut blocks).await?;
    ensure!(read.rows == blocks.rows, "told {} rows, gave {}", read.rows, blocks.rows);
    ensure!(read.physical == plan.physical, "the physical identity changed by itself");
    let mut rows = known_rows(&blocks.data.concat(), plan.columns.len())?;
    ensure!(rows.len() as u64 == read.rows, "told {} rows, {} are in the blocks", read.rows, rows.len());
    rows.sort();
    Ok(rows)
}

struct Collect {
    rows: Vec<Vec<Text>>,
    width: usize,
}

impl drover_connectors_api::RowSink for Collect {
    fn block(&mut self, rows: usize, cells: Bytes) -> drover_model::Result<()> {
        let more = known_rows(&cells, self.width).map_err(|e| drover_model::Error::internal(e.to_string()))?;
        if more.len() != rows {
            return Err(drover_model::Error::internal("a block has another number of rows than told"));
        }
        self.rows.extend(more);
        Ok(())
    }
}

/// Reads rows for comparison, sorted; `keys`: only these.
pub async fn compared(
    session: &mut dyn Rows,
    plan: &TablePlan,
    side: Side,
    keys: Option<&[Bytes]>,
) -> anyhow::Result<Vec<Vec<Text>>> {
    let mut sink = Collect { rows: vec![], width: plan.columns.len() };
    match keys {
        Some(keys) => session.read_keys(plan, side, keys, &mut sink).await?,
        None => session.read(plan, side, &Bounds::Whole, &mut sink).await?,
    }
    sink.rows.sort();
    Ok(sink.rows)
}

/// An old image out of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    None,
    Key(Vec<Val>),
    Full(Vec<Val>),
}

/// A change out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Insert { table: u32, new: Vec<Val> },
    Update { table: u32, old: Before, new: Vec<Val> },
    Delete { table: u32, old: Before },
    Truncate { tables: Vec<u32> },
}

/// A whole transaction out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub position: Position,
    pub changes: Vec<Change>,
}

/// Follows a stream and insists on its form.
pub struct Follower {
    pub stream: Box<dyn ChangeStream>,
    plans: Vec<TablePlan>,
    /// Up to here everything was given out.
    pub at: Position,
    /// A transaction of which the end is still to come.
    open: Option<Transaction>,
    next_piece: u32,
    pub pieces: u32,
    pub empty: u32,
}

impl Follower {
    pub fn new(opened: Opened, plans: &[TablePlan]) -> Self {
        let Opened { start, stream, .. } = opened;
        Follower { stream, plans: plans.to_vec(), at: start, open: None, next_piece: 0, pieces: 0, empty: 0 }
    }

    /// All transactions up to where the stream has passed `mark`.
    pub async fn until(&mut self, mark: &Position) -> anyhow::Result<Vec<Transaction>> {
        let mut out = Vec::new();
        while self.at < *mark || self.open.is_some() {
            let batch = tokio::time::timeout(PATIENCE, self.stream.next()).await;
            let batch = batch.with_context(|| format!("nothing came between {} and {mark}", self.at))??;
            self.take(&batch, &mut out)?;
        }
        Ok(out)
    }

    /// The next batch, whatever it is.
    pub async fn once(&mut self) -> anyhow::Result<Vec<Transaction>> {
        let mut out = Vec::new();
        let batch = tokio::time::timeout(PATIENCE, self.stream.next()).await??;
        self.take(&batch, &mut out)?;
        Ok(out)
    }

    fn take(&mut self, batch: &Batch, out: &mut Vec<Transaction>) -> anyhow::Result<()> {
        ensure!(batch.from == self.at, "a gap: {} follows {}", batch.from, self.at);
        ensure!(batch.to >= batch.from, "a batch backwards to {}", batch.to);
        // An idle source may say that it is alive.
        ensure!(batch.to > batch.from || batch.payload.is_empty(), "changes without progress at {}", batch.to);
        let before = out.len();
        let mut changes = 0;
        let mut reader = Reader::new(&batch.payload, &self.plans[..]);
        while let Some(found) = reader.next_item()? {
            match found {
                Item::Begin(begin) => {
                    ensure!(self.open.is_none(), "a transaction begins inside another");
                    let last = out.last().map_or(&batch.from, |t| &t.position);
                    ensure!(begin.position > *last && begin.position <= batch.to, "{} is out of order", begin.position);
                    self.open = Some(Transaction { position: begin.position, changes: vec![] });
                }
                // Says something about the change behind it.
                Item::Alone => {}
                Item::End => out.push(self.open.take().context("an end without a begin")?),
                change => {
                    changes += 1;
                    self.open.as_mut().context("a change outside a transaction")?.changes.push(owned(change)?);
                }
            }
        }
        ensure!(changes == batch.changes, "told {} changes, gave {changes}", batch.changes);
        self.empty += u32::from(batch.payload.is_empty());
        match batch.piece {
            None => ensure!(self.open.is_none() && self.next_piece == 0, "half a transaction in a whole batch"),
            Some(piece) => {
                ensure!(piece.index == self.next_piece, "piece {} where {} was due", piece.index, self.next_piece);
                ensure!(piece.last == self.open.is_none(), "the last piece has the end");
                self.pieces += 1;
                self.next_piece = if piece.last { 0 } else { piece.index + 1 };
            }
        }
        if batch.piece.is_none_or(|p| p.last) {
            self.at = batch.to.clone();
            ensure!(
                (out.len() - before) as u32 == batch.transactions || batch.piece.is_some(),
                "transactions miscounted"
            );
        }
        Ok(())
    }
}

fn owned(item: Item<'_>) -> anyhow::Result<Change> {
    let before = |old: Old<'_>| match old {
        Old::None => Before::None,
        Old::Key(k) => Before::Key(values(k)),
        Old::Full(f) => Before::Full(values(f)),
    };
    Ok(match item {
        Item::Insert { table, new } => Change::Insert { table, new: values(new) },
        Item::Update { table, old, new } => Change::Update { table, old: before(old), new: values(new) },
        Item::Delete { table, old } => Change::Delete { table, old: before(old) },
        Item::Truncate { tables } => Change::Truncate { tables },
        other => bail!("{other:?} is no change"),
    })
}

/// Applies the changes of one table to rows, insisting that each finds its row.
pub fn replay(rows: &mut Vec<Vec<Text>>, plan: &TablePlan, transactions: &[Transaction]) -> anyhow::Result<()> {
    let pick = |row: &[Val]| -> Vec<Val> { plan.key.iter().map(|&k| row[usize::from(k)].clone()).collect() };
    let full = |row: &[Text]| -> Vec<Val> { row.iter().cloned().map(Val::Known).collect() };
    let known = |row: &[Val]| -> anyhow::Result<Vec<Text>> {
        let one = |v: &Val| match v {
            Val::Known(v) => Ok(v.clone()),
            Val::Unknown => bail!("an insert with an unknown cell"),
        };
        row.iter().map(one).collect()
    };
    let find = |rows: &[Vec<Text>], old: &Before, new: Option<&[Val]>| -> anyhow::Result<usize> {
        let place = match (old, new) {
            (Before::Full(image), _) if plan.key.is_empty() => rows.iter().position(|r| &full(r) == image),
            (Before::Full(image), _) => rows.iter().position(|r| pick(&full(r)) == pick(image)),
            (Before::Key(key), _) => rows.iter().position(|r| &pick(&full(r)) == key),
            (Before::None, Some(new)) => rows.iter().position(|r| pick(&full(r)) == pick(new)),
            (Before::None, None) => None,
        };
        place.context("a change of a row that is not there")
    };
    for change in transactions.iter().flat_map(|t| &t.changes) {
        match change {
            Change::Insert { table, new } if *table == plan.id => rows.push(known(new)?),
            Change::Update { table, old, new } if *table == plan.id => {
                let place = find(rows, old, Some(new))?;
                for (cell, value) in rows[place].iter_mut().zip(new) {
                    if let Val::Known(value) = value {
                        cell.clone_from(value);
                    }
                }
            }
            Change::Delete { table, old } if *table == plan.id => {
                let place = find(rows, old, None)?;
                rows.remove(place);
            }
            Change::Truncate { tables } if tables.contains(&plan.id) => rows.clear(),
            _ => {}
        }
    }
    rows.sort();
    Ok(())
}
