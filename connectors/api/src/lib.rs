//! What a connector is: the traits that every database family implements and the only way in which the core touches a
//! database. Traits take and give blocks, never rows. Reading the schema, reading rows, reading changes, writing schema and
//! writing data are things apart; what a database cannot do it declares in [`Abilities`], no method answers "unsupported".
//!
//! The reasons behind each method, thought through for other kinds of source and destination, stand in
//! docs/decisions/0002-connector-traits.md.

pub mod apply;
pub mod destination;
pub mod source;

pub use apply::{ApplySession, Committed, Follow, Keys, Norm, Step, UniqueColumns};
pub use destination::{
    Destination, Existing, LoadOutcome, Loader, MappedTable, Progress, SchemaStep, SequenceValue, Shift, known_format,
};
pub use source::{
    Batch, BlockSink, ChangeStream, ChunkRead, ChunkReader, Followed, Hold, Opened, Piece, Snapshot, Source, StreamSpec,
};

use async_trait::async_trait;
use bytes::Bytes;
pub use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};
use drover_model::{TablePlan, chunk::Bounds, migration::Endpoint};

/// What a kind of database can do, stated as data that plans read before work begins.
#[derive(Debug, Clone)]
pub struct Abilities {
    /// A snapshot whose position is exactly known.
    pub exact_snapshot: bool,
    /// Such a snapshot can be joined by sessions of other processes and held by each of them.
    pub shared_snapshot: bool,
    /// A new exact snapshot can be had while the stream runs.
    pub new_snapshot: bool,
    /// The destination applies whole transactions atomically.
    pub transactions: bool,
    /// Schema changes take part in transactions.
    pub transactional_ddl: bool,
    /// The source can read floating point numbers rounded ([`drover_model::plan::Floats::Round`]).
    pub rounds_floats: bool,
}

/// A kind of database, as it states itself to the core.
#[derive(Debug, Clone)]
pub struct About {
    /// The `kind` of the migration file.
    pub kind: &'static str,
    /// For people.
    pub title: &'static str,
    pub default_port: u16,
    pub source: Option<Abilities>,
    pub destination: Option<Abilities>,
}

/// An endpoint with its secrets resolved: what a connector needs to connect.
#[derive(Debug, Clone)]
pub struct Target {
    pub endpoint: Endpoint,
    /// Resolved password, whatever place it came from.
    pub password: Option<String>,
    /// The migration, for session names and owned objects.
    pub migration: MigrationId,
    pub name: String,
    /// Chunks that this process reads at once. A source whose snapshots cannot be joined later opens as many sessions ahead.
    pub readers: usize,
}

/// One family of databases. `connectors/all` lists them; the core looks them up by kind.
#[async_trait]
pub trait Connector: Send + Sync {
    fn about(&self) -> &About;
    /// Opens the source side. Connects once, so that wrong credentials show here.
    async fn source(&self, target: Target) -> Result<Box<dyn Source>>;
    /// Opens the destination side. Connects once.
    async fn destination(&self, target: Target) -> Result<Box<dyn Destination>>;
}

/// Takes rows in canonical cells, block by block; see [`Rows`].
pub trait RowSink: Send {
    /// `rows` encoded rows (see `drover_model::row`), one after the other. Called from one task, in no order of keys.
    fn block(&mut self, rows: usize, cells: Bytes) -> Result<()>;
}

/// Which name and column names of a plan a reading uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Reading rows for comparison, the same on both sides. Values are canonical texts: equal values have equal bytes on every
/// kind and version of database.
#[async_trait]
pub trait Rows: Send {
    /// Reads all rows of a table within the bounds (filter of the plan applied on the source side), in one statement and
    /// thus one consistent view. Columns in the plan's order.
    async fn read(&mut self, plan: &TablePlan, side: Side, bounds: &Bounds, sink: &mut dyn RowSink) -> Result<()>;
    /// Reads the rows with these keys (each the canonical cells of the plan's key), outside any older view.
    async fn read_keys(&mut self, plan: &TablePlan, side: Side, keys: &[Bytes], sink: &mut dyn RowSink) -> Result<()>;
}
