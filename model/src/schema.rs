//! What a database holds, as far as drover moves it. Tables are structured, so that any destination can re-create them; what
//! only its own kind understands (views, routines, triggers) is carried as a definition in the dialect of its origin.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Schema (or database, or keyspace) and name of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What a column's values are, without the database's own name for it. `Other` stands for types that only their own
/// kind of database understands; they move between two of that kind only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataType {
    Bool,
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float {
        bytes: u8,
    },
    Decimal {
        precision: Option<u32>,
        scale: Option<i32>,
    },
    Text {
        max: Option<u32>,
        padded: bool,
    },
    Bytes {
        max: Option<u32>,
    },
    Date,
    Time {
        precision: u8,
        zone: bool,
    },
    Timestamp {
        precision: u8,
        zone: bool,
    },
    Interval,
    Uuid,
    /// A document that is kept by its value.
    Json,
    /// JSON that is kept as the text that it was given as.
    JsonText,
    Bit {
        max: Option<u32>,
        varying: bool,
    },
    Enum {
        labels: Vec<String>,
    },
    Array(Box<DataType>),
    Document,
    Other,
}

/// A column generates its values by itself when none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    Always,
    ByDefault,
}

/// A column's default in no dialect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlainDefault {
    /// This value, as a canonical cell's text (bytes in hexadecimal digits).
    Value(String),
    /// The moment at which the row is made.
    Now,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub data_type: DataType,
    /// As the origin writes the type, with length and precision.
    pub origin_type: String,
    /// Built into the origin's kind of database, recursively: native bytes may pass undecoded.
    pub builtin: bool,
    pub nullable: bool,
    /// Default expression in the origin's dialect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Expression of a generated column; such columns are not moved, they compute themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// When it is not the default of its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The default for other kinds of databases; `None` with a `default`: it has no such form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_default: Option<PlainDefault>,
    /// The column takes texts for equal that differ in case, accents or spaces at their end.
    #[serde(default)]
    pub folds: bool,
}

impl Column {
    /// A column of a built-in type that may be null, and nothing more.
    pub fn new(name: impl Into<String>, data_type: DataType, origin_type: impl Into<String>) -> Column {
        Column {
            name: name.into(),
            data_type,
            origin_type: origin_type.into(),
            builtin: true,
            nullable: true,
            default: None,
            identity: None,
            generated: None,
            collation: None,
            comment: None,
            plain_default: None,
            folds: false,
        }
    }
}

/// A column of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    pub name: String,
    /// Only so many characters (bytes, for binary types) from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u32>,
    #[serde(default)]
    pub descending: bool,
}

/// An index in no dialect: of columns, without condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainIndex {
    pub name: String,
    pub unique: bool,
    pub columns: Vec<IndexColumn>,
}

/// What becomes of rows that refer to a row which goes or gets another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The statement is refused.
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

/// A foreign key in no dialect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainForeignKey {
    pub name: String,
    pub columns: Vec<String>,
    pub parent: TableName,
    /// In pairs with `columns`.
    pub references: Vec<String>,
    pub on_delete: Action,
    pub on_update: Action,
}

/// A primary key or unique constraint or index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueKey {
    pub name: String,
    pub primary: bool,
    pub columns: Vec<String>,
    /// All columns are not null, no expression, no predicate: it identifies rows.
    pub identifies: bool,
}

/// How a change names its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldImage {
    /// Updates and deletes carry no old values: they cannot be followed.
    Nothing,
    /// The key's old values.
    Key,
    /// The whole row.
    Full,
}

/// What a foreign key does to rows of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// They go with the parent, or get its new values.
    Cascade,
    SetNull,
}

/// A foreign key of a table whose effects on the table's rows are not in the origin's log, as with InnoDB's own foreign keys.
/// Whoever applies the parent's changes has to do them as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlogged {
    /// The name of the foreign key.
    pub name: String,
    pub parent: TableName,
    /// Columns of this table, and those of the parent that they refer to, in pairs.
    pub columns: Vec<String>,
    pub references: Vec<String>,
    pub on_delete: Option<Effect>,
    pub on_update: Option<Effect>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: TableName,
    pub columns: Vec<Column>,
    pub keys: Vec<UniqueKey>,
    /// What the source's log says about old rows.
    pub old_image: OldImage,
    /// Parts that belong to the table and are created with it, in the origin's dialect: checks, indexes, foreign keys,
    /// triggers, comments.
    pub parts: Vec<Object>,
    /// Estimates.
    pub rows: u64,
    pub bytes: u64,
    /// Changes when the table is rewritten or its columns change (§ physical identity): an opaque text.
    pub physical: String,
    /// What else the origin wants to know again: partitioning, persistence, replica identity … For every kind of destination: `comment`, and
    /// `dialect_only`, what no other kind has, in words, one a line.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Foreign keys of this table that change its rows without a trace in the log.
    #[serde(default)]
    pub unlogged: Vec<Unlogged>,
    /// Indexes that other kinds of databases can have as well, the primary key's not among them. A part of kind `index` or `unique` whose name is not
    /// here has no such form.
    #[serde(default)]
    pub plain_indexes: Vec<PlainIndex>,
    /// Foreign keys, likewise.
    #[serde(default)]
    pub plain_foreign_keys: Vec<PlainForeignKey>,
}

impl Table {
    /// A table of columns, and nothing more.
    pub fn new(name: TableName, columns: Vec<Column>, old_image: OldImage) -> Table {
        Table {
            name,
            columns,
            keys: Vec::new(),
            old_image,
            parts: Vec::new(),
            rows: 0,
            bytes: 0,
            physical: String::new(),
            options: BTreeMap::new(),
            unlogged: Vec::new(),
            plain_indexes: Vec::new(),
            plain_foreign_keys: Vec::new(),
        }
    }
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
    /// The key that identifies rows: the primary key, else the first unique not-null key.
    pub fn identifying_key(&self) -> Option<&UniqueKey> {
        self.keys.iter().find(|k| k.primary).or_else(|| self.keys.iter().find(|k| k.identifies))
    }
}

/// When an object is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the rows: schemas, types, sequences, tables, views, functions.
    Base,
    /// For each table once its rows are loaded, before the first change of it: its keys and indexes.
    Table,
    /// After all rows: foreign keys, then triggers.
    Final,
    /// With the switch: what would do a change's work a second time, where it cannot be silenced (triggers that fire for every session).
    Cutover,
}

/// Any object that is not a table: a kind (`view`, `sequence`, `function`, `type`, `index`, `foreign key`, `trigger` …), its name,
/// and its definition in the origin's dialect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub kind: String,
    pub schema: String,
    pub name: String,
    pub phase: Phase,
    pub definition: String,
    /// Structured extras for rewriting under other names, by the connector that made them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Other objects that must exist before (`schema.name`).
    #[serde(default)]
    pub needs: Vec<String>,
}

/// What a source holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The kind of database, as the connector calls itself.
    pub origin: String,
    /// Version for comparisons (major * 10000 + minor …, as the server gives it) and for people.
    pub version: u32,
    pub version_text: String,
    pub database: String,
    /// The one schema that is selected where the migration file selects nothing by itself: where a server holds several databases, the one
    /// that its URL names. `None`: everything.
    #[serde(default)]
    pub scope: Option<String>,
    /// The schema in which names without one are looked for, where a database has several: what another kind has in the database that its URL
    /// names.
    #[serde(default)]
    pub home: Option<String>,
    /// Which server this is: system identifier and lineage, in the connector's own form.
    pub identity: String,
    pub tables: Vec<Table>,
    /// Everything else, in an order in which it can be created.
    pub objects: Vec<Object>,
}

impl Catalog {
    /// The table of this name. Quick where tables stand in the order of their names, as they do in a catalogue that was
    /// [sorted](Catalog::sort); one that was renamed or made since is found wherever it stands.
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        match self.tables.binary_search_by(|t| t.name.cmp(name)) {
            Ok(at) => self.tables.get(at),
            Err(_) => self.tables.iter().find(|t| &t.name == name),
        }
    }

    /// Puts tables into the order of their names.
    pub fn sort(&mut self) {
        self.tables.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
