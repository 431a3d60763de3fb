//! The compiled plan of a table: which columns move, under which names, how rows are identified and encoded. It is made
//! once from the catalogue and the migration file, stored, and given to every worker; a record names the version that it was
//! encoded with.

use crate::schema::{DataType, TableName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How the rows of a table's snapshot blocks are encoded. Source and destination agree on one per table: the first of the
/// destination's preferences that the source can produce.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// [`crate::row`] cells in the form of [`crate::canonical`], which no kind of database owns; then the plan's changes have that form, too.
    Canonical,
    /// Bytes that only the kind of database which names the format understands; they pass undecoded.
    Native(String),
}

/// Statements of the source that are carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
    pub ddl: bool,
}

impl Operations {
    pub const ALL: Operations = Operations { insert: true, update: true, delete: true, truncate: true, ddl: true };
}

/// What becomes of a value that the destination's column cannot hold, while others of its type fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfit {
    /// The migration stops and names table, key, column and value.
    #[default]
    Fail,
    /// It becomes null.
    Null,
    /// It becomes the nearest value that fits.
    Clamp,
    /// The column is a text at the destination, and holds the text of each value.
    Text,
}

impl Misfit {
    /// As the migration file writes them.
    pub const NAMES: [&'static str; 4] = ["fail", "null", "clamp", "text"];

    pub fn parse(word: &str) -> Option<Misfit> {
        let all = [Misfit::Fail, Misfit::Null, Misfit::Clamp, Misfit::Text];
        Self::NAMES.iter().position(|n| *n == word).map(|i| all[i])
    }
}

/// How a source that knows both ways reads floating point numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Floats {
    /// With all their digits: what arrives is the same number, bit by bit.
    #[default]
    Lossless,
    /// Rounded to a number of decimal places, as `ROUND(column, places)` of the source does it.
    Round,
}

/// A column that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanColumn {
    pub source: String,
    pub destination: String,
    pub data_type: DataType,
    /// As the source writes the type.
    pub origin_type: String,
    /// As the destination writes the type of its column; statements cast to it.
    pub destination_type: String,
    /// The destination generates the values itself unless told otherwise (identity always): never set by an update.
    #[serde(default)]
    pub identity_always: bool,
    /// Place in the source's table when the plan was made, from 0, all of its columns counted: for logs that do not name columns.
    #[serde(default)]
    pub ordinal: Option<u16>,
    /// For values that do not fit there, between different kinds of databases.
    #[serde(default)]
    pub misfit: Misfit,
}

impl PlanColumn {
    /// A column that moves as it is, under its own name and into the type of the same name.
    pub fn new(name: impl Into<String>, data_type: DataType, origin_type: impl Into<String>) -> PlanColumn {
        let (name, origin_type) = (name.into(), origin_type.into());
        PlanColumn {
            source: name.clone(),
            destination: name,
            data_type,
            destination_type: origin_type.clone(),
            origin_type,
            identity_always: false,
            ordinal: None,
            misfit: Misfit::default(),
        }
    }
}

/// A table's plan. Rows of this table, in blocks and in changes, have `columns` in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlan {
    /// Number of the table within the migration; plans are stored by it.
    pub id: u32,
    /// Raised with every change of the table's shape.
    pub version: u32,
    pub source: TableName,
    pub destination: TableName,
    pub columns: Vec<PlanColumn>,
    /// Source columns that were there when the plan was made and do not move (left out, or generated).
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Indexes into `columns` of the key that identifies rows; empty: the whole row does.
    pub key: Vec<u16>,
    /// Condition in the source's dialect; only rows that satisfy it move.
    pub filter: Option<String>,
    pub operations: Operations,
    /// How the source reads FLOAT and DOUBLE columns that do not identify rows.
    #[serde(default)]
    pub floats: Floats,
    /// Encoding of snapshot blocks.
    pub format: RowFormat,
    /// Physical identity at planning time: compared after each chunk.
    pub physical: String,
    /// Estimates, for progress.
    pub rows: u64,
    pub bytes: u64,
}

impl TablePlan {
    /// All rows and changes of a table that is called the same on both sides, in the first version, without a key.
    pub fn new(id: u32, name: TableName, columns: Vec<PlanColumn>) -> TablePlan {
        TablePlan {
            id,
            version: 1,
            source: name.clone(),
            destination: name,
            columns,
            left_out: Vec::new(),
            key: Vec::new(),
            filter: None,
            operations: Operations::ALL,
            floats: Floats::default(),
            format: RowFormat::Canonical,
            physical: String::new(),
            rows: 0,
            bytes: 0,
        }
    }

    pub fn column_index(&self, source: &str) -> Option<u16> {
        self.columns.iter().position(|c| c.source == source).map(|i| i as u16)
    }
    /// The plan of what both sides hold alike: without columns whose values a policy may have changed (`null`, `clamp`), unless they are of the key.
    pub fn comparable(&self) -> TablePlan {
        let kept: Vec<usize> = (0..self.columns.len()).filter(|i| self.is_comparable(*i)).collect();
        let place = |k: &u16| kept.iter().position(|i| *i == usize::from(*k)).map(|i| i as u16);
        TablePlan {
            columns: kept.iter().map(|i| self.columns[*i].clone()).collect(),
            key: self.key.iter().filter_map(place).collect(),
            ..self.clone()
        }
    }

    /// The columns that [`TablePlan::comparable`] lacks, by their names at the source.
    pub fn not_compared(&self) -> Vec<String> {
        let lost = (0..self.columns.len()).filter(|i| !self.is_comparable(*i));
        lost.map(|i| self.columns[i].source.clone()).collect()
    }

    fn is_comparable(&self, i: usize) -> bool {
        !matches!(self.columns[i].misfit, Misfit::Null | Misfit::Clamp) || self.is_key(i as u16)
    }

    /// Whether the table is gone from the migration (dropped, or not followed any more): what is left is its number.
    pub fn is_gone(&self) -> bool {
        self.columns.is_empty()
    }
    /// Whether a column (by index) belongs to the identifying key.
    pub fn is_key(&self, column: u16) -> bool {
        self.key.contains(&column)
    }
}

/// A snapshot that reading sessions can join, as data that travels to other workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The transactions up to here are in it, and no others; with a [`Blur`], some later ones may be, too.
    pub position: crate::Position,
    /// Where the place of the snapshot is not known exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blur: Option<Blur>,
    /// What a session joins it by; one for each process that holds it.
    pub token: String,
    /// What a session that joined must see itself on, as the source writes it.
    pub proof: String,
    /// Whether sessions of other processes can join it. If not, only the process that made it can hold it and read on it, and it is lost
    /// with that process.
    #[serde(default = "yes")]
    pub shared: bool,
}

fn yes() -> bool {
    true
}

/// A snapshot that lies somewhere between two marks of the source's log, as data that travels to other workers. What was changed between the
/// two is in it or is not; the changes of that stretch are applied as between two snapshots ([`crate::handover::tolerant`]).
///
/// **What the source answers for**: nothing later than `until` is in it; no table but those named was changed between, and no schema; and the tables
/// named can bear it: they have an identifying key and no other unique one, and no foreign key ties them whose actions the log does not show. Rows that are owed are
/// not fetched from such a snapshot, for the change that owes one may be later than what it sees; a new one is taken for them, until its place is exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blur {
    /// Nothing later is in the snapshot.
    pub until: crate::Position,
    /// Tables, by number, that were changed between the snapshot's position and `until`. All others stand at both.
    pub tables: Vec<u32>,
}

impl Blur {
    /// Up to where changes may be in a table's rows, if that is later than the snapshot's position.
    pub fn of(blur: Option<&Blur>, table: u32) -> Option<&crate::Position> {
        blur.filter(|b| b.tables.contains(&table)).map(|b| &b.until)
    }
}

/// Plans of tables, shared by all who work with them, to be found by a table's number.
#[derive(Debug, Clone, Default)]
pub struct Plans(Arc<Vec<TablePlan>>);

impl Plans {
    /// The plan of a table, if it is among them.
    pub fn get(&self, table: &u32) -> Option<&TablePlan> {
        // Most lists have every table at the place of its number.
        let there = self.0.get(*table as usize).filter(|p| p.id == *table);
        there.or_else(|| self.0.iter().find(|p| p.id == *table))
    }

    /// All of them.
    pub fn all(&self) -> &[TablePlan] {
        &self.0
    }
}

impl From<&Arc<Vec<TablePlan>>> for Plans {
    fn from(plans: &Arc<Vec<TablePlan>>) -> Plans {
        Plans(plans.clone())
    }
}

impl From<&[TablePlan]> for Plans {
    fn from(plans: &[TablePlan]) -> Plans {
        Plans(Arc::new(plans.to_vec()))
    }
}
