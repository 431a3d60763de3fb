//! PostgreSQL 10 and later, and its cloud kin, as source and destination.

pub mod catalog;
pub mod changes;
pub mod check;
pub mod connect;
pub mod errors;
pub mod lsn;
pub mod pgoutput;
pub mod replication;
pub mod schema;
mod spill;
pub mod sql;
pub mod typemap;
