//! What drover talks about: rows, changes, positions, tables, plans, digests, errors. Everything here is pure: no I/O, no
//! clock, no async, and nothing names a database. What the parts of drover send each other is made of these types.

pub mod canonical;
pub mod change;
pub mod check;
pub mod chunk;
pub mod ddl;
pub mod digest;
pub mod doubt;
pub mod error;
pub mod handover;
pub mod migration;
pub mod plan;
pub mod position;
pub mod row;
pub mod schema;
pub mod selection;

pub use error::{Error, Fault, Result, Retry};
pub use plan::TablePlan;
pub use position::Position;

/// The random id of a migration. It is in every record, mark, progress row and session name; whatever carries another
/// id is not ours.
pub type MigrationId = uuid::Uuid;
