//! The MySQL family as source and destination: MySQL 5.x to 9 and MariaDB 10.3 and later.
//!
//! Cells (see `drover_model::row`) hold these bytes, the same whether they come from a chunk or from the log, so that a row is
//! one row wherever it was read:
//!
//! | type | bytes of a cell |
//! |---|---|
//! | integers | decimal digits, with a sign if negative |
//! | YEAR | four digits |
//! | DECIMAL | as the server prints it, with all digits of its scale |
//! | FLOAT, DOUBLE | the shortest decimal text that reads back as the same value |
//! | DATE, DATETIME, TIMESTAMP, TIME | as the server prints them with all digits of their precision; TIMESTAMP in UTC |
//! | BIT(n) | n digits `0` and `1` |
//! | ENUM, SET | labels in UTF-8 (of a set in the order of their definition, with commas) |
//! | JSON (of MySQL) | the server's text form |
//! | CHAR, VARCHAR, TEXT | in format [`CELLS`] bytes in the column's own character set, in canonical format UTF-8 |
//! | BINARY, VARBINARY, BLOB, geometry (SRID and WKB as stored), VECTOR | the bytes |
//! | UUID, INET4, INET6 (of MariaDB) | text |
//!
//! The canonical format, for other kinds of databases, differs besides text in this: a TIMESTAMP has `+00` behind it, a YEAR is a number.

pub mod apply;
pub mod binlog;
pub mod catalog;
pub mod cells;
pub mod changes;
pub mod charset;
pub mod check;
pub mod chunks;
pub mod condition;
pub mod connect;
pub mod connector;
pub mod ddl;
pub mod destination;
mod doubts;
pub mod encode;
pub mod errors;
pub mod fit;
pub mod flavor;
pub mod gtid;
pub mod intent;
pub mod keys;
pub mod load;
pub mod position;
mod processes;
pub mod progress;
pub mod reader;
pub mod restart;
pub mod round;
pub mod rows;
mod scan;
pub mod schema;
pub mod sessions;
mod shape;
pub mod snapshot;
pub mod source;
pub mod sql;
pub mod typemap;
pub mod types;
mod warnings;
pub mod wire;

/// The row format that two of the family agree on: cells of `drover_model::row`, text in the source column's character set.
pub const CELLS: &str = "mysql-cells";
