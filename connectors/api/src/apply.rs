//! Applying changes: what the core hands to a destination after scheduling and compacting.
//!
//! A batch of whole source transactions becomes one destination transaction: `execute` some steps (several times for a huge
//! transaction), then `commit` with the progress. Steps are set-wise: one statement for all their rows. A step with one row is the
//! row-by-row form, used where the order of single rows matters.

use async_trait::async_trait;
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};

/// How key values are brought into a form in which equal means equal at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Bytes as they are.
    Exact,
    /// Trailing spaces do not count.
    TrimEnd,
    /// Decimal numbers: trailing zeros of the fraction do not count.
    Decimal,
}

/// A unique index of a destination table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueColumns {
    pub name: String,
    /// Indexes into the plan's columns, each with its normal form. Nulls never collide.
    pub columns: Vec<(u16, Norm)>,
}

/// The unique keys of a table, from the destination's own catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    pub table: u32,
    /// The identifying key of the plan as an index here, with normal forms; `None` for tables without one.
    pub identity: Option<UniqueColumns>,
    /// All other unique indexes that can be compared exactly.
    pub others: Vec<UniqueColumns>,
    /// Why the table must be applied serially and in the source's order: a key that cannot be compared exactly here (names it).
    pub serial: Option<String>,
}

/// One step of a batch. Rows are encoded cells of the plan's columns, keys are cells of the plan's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// Delete these keys. Each must exist, unless tolerant.
    Delete { table: u32, keys: Vec<&'a [u8]>, tolerant: bool },
    /// Set the known non-key cells of these rows; all rows have the same unknown cells, `unknown` lists those columns. Each row
    /// must exist; tolerant: full rows are inserted when missing, partial ones may be missing.
    Update { table: u32, rows: Vec<&'a [u8]>, unknown: Vec<u16>, tolerant: bool },
    /// Change the key of one row. `old` are key cells. The row must exist.
    Move { table: u32, old: &'a [u8], new: &'a [u8] },
    /// Insert these rows. Tolerant: an existing row of the same identity is overwritten.
    Insert { table: u32, rows: Vec<&'a [u8]>, tolerant: bool },
    /// Delete as many rows equal to each of these full rows as said (tables without a key). They must exist.
    DeleteWhole { table: u32, rows: Vec<(&'a [u8], u64)> },
    /// Empty these tables together.
    Truncate { tables: Vec<u32> },
}

/// What a foreign key does to rows, see [`ApplySession::follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow<'a> {
    Delete,
    /// The columns become null.
    SetNull,
    /// The columns get these cells.
    Set(&'a [u8]),
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    Yes,
    /// The epoch at the destination is not ours any more; nothing was committed.
    Fenced,
}

/// A session that applies batches, one transaction at a time. One task uses it.
#[async_trait]
pub trait ApplySession: Send {
    /// Which rows hold these values of unique index `index` (into [`Keys::others`]) of a table right now, in the batch's
    /// transaction (opened if need be): pairs of (identity key cells, value cells).
    async fn holders(&mut self, table: u32, index: usize, values: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
    /// Executes steps in order, in the batch's transaction (opened if need be). A wrong count of affected rows is an error
    /// ROW_COUNT with the key. After an `Err` only `rollback` may be called.
    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()>;
    /// Does to rows what a foreign key did to them at the source without a trace in its log: to those rows of `table` of which `columns` equal
    /// one of `values` (cells of these columns, none of them null). Any number of rows, also none. Gives for each the cells of columns
    /// `give` before. In the batch's transaction, opened if need be. Values may be many, rows many more.
    async fn follow(
        &mut self,
        table: u32,
        columns: &[u16],
        values: &[&[u8]],
        what: Follow<'_>,
        give: &[u16],
    ) -> Result<Vec<Vec<u8>>> {
        let _ = (columns, values, what, give);
        let what = format!("this kind of destination cannot do what foreign keys of the source did to table {table}");
        Err(Error::new(codes::UNSUPPORTED, Fault::Destination, Retry::Never, what)
            .remedy("leave the tables out whose foreign keys cascade or set null, or drop these foreign keys at the source"))
    }
    /// Moves the progress from `previous` to `next` and commits, all in the batch's transaction (opened if need be). The caller
    /// calls it only when the batch before is committed. Returns the outcome even when the answer to the commit was lost: it is
    /// then found out by reading the progress over a new connection.
    async fn commit(&mut self, previous: &Position, next: &Position) -> Result<Committed>;
    /// Gives the transaction up.
    async fn rollback(&mut self) -> Result<()>;
    /// Makes everything committed so far durable (commits may be asynchronous).
    async fn flush(&mut self) -> Result<()>;
    /// A handle that can break a statement under way off from another task, for a batch that holds up an earlier one.
    fn canceller(&self) -> Box<dyn Canceller>;
}

/// See [`ApplySession::canceller`].
#[async_trait]
pub trait Canceller: Send + Sync {
    async fn cancel(&self);
}
