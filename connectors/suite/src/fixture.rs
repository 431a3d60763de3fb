//! What the suite needs of a pair of empty databases, beside the connector.

use async_trait::async_trait;
use drover_connectors_api::{Connector, Side, Target};

/// A value, as text; `None` is null.
pub type Text = Option<String>;

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number of 64 bits.
    Int,
    /// Text of any length. Bounds of chunks and comparisons use the database's own order.
    Text,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub nullable: bool,
    /// Store it so that the log leaves it out where it is not changed, if the database knows such a thing.
    pub large: bool,
}

#[derive(Debug, Clone)]
pub struct TestTable {
    pub name: &'static str,
    pub columns: Vec<Column>,
    /// Columns of the primary key; empty: none. A table without gets whatever its changes need to be followed.
    pub primary: Vec<&'static str>,
    pub unique: Vec<Vec<&'static str>>,
}

/// A statement on one of the tables at the source.
#[derive(Debug, Clone)]
pub enum Write {
    Insert {
        table: &'static str,
        row: Vec<Text>,
    },
    /// `key`: the primary key's values.
    Update {
        table: &'static str,
        key: Vec<String>,
        set: Vec<(&'static str, Text)>,
    },
    Delete {
        table: &'static str,
        key: Vec<String>,
    },
    Truncate {
        table: &'static str,
    },
}

/// A source and a destination of one kind (or a stand-in for the side that the kind lacks).
#[async_trait]
pub trait Fixture: Send + Sync {
    fn connector(&self) -> &dyn Connector;
    /// Source or destination, always with the same migration.
    fn target(&self, side: Side) -> Target;
    /// Where the tables are, on both sides.
    fn schema(&self) -> &str;
    /// Whether the log leaves large columns out of updates that do not change them. If not, the cases about them prove less.
    fn leaves_out_unchanged(&self) -> bool {
        true
    }
    /// Whether other processes can join a snapshot.
    fn shares_snapshots(&self) -> bool {
        true
    }
    /// Whether the source itself keeps a place for a stream, such as a slot. If not, one that never was can be gone on with from any
    /// position, as long as the log is there.
    fn keeps_streams(&self) -> bool {
        true
    }
    /// Throws the source's log up to now away. Used where the source keeps no place for streams.
    async fn purge_log(&self) -> anyhow::Result<()> {
        anyhow::bail!("this fixture cannot throw a log away")
    }
    /// Creates a table at the source.
    async fn create(&self, table: &TestTable) -> anyhow::Result<()>;
    /// Executes these at the source in one transaction, and commits it or rolls it back.
    async fn transaction(&self, writes: &[Write], commit: bool) -> anyhow::Result<()>;
    /// All rows of a table, columns in the order of its definition, sorted.
    async fn rows(&self, side: Side, table: &str) -> anyhow::Result<Vec<Vec<Text>>>;
    /// Ends whatever holds snapshots, as if the sessions had died.
    async fn lose_snapshots(&self) -> anyhow::Result<()>;
    /// What of drover can be found on a side: slots, publications, schemas, sessions.
    async fn leftovers(&self, side: Side) -> anyhow::Result<Vec<String>>;
}
