//! PostgreSQL 10 and later, and its cloud kin, as source and destination.

pub mod apply;
pub mod changes;
pub mod connect;
pub mod errors;
pub mod keys;
pub mod load;
pub mod lsn;
pub mod pgoutput;
pub mod progress;
pub mod replication;
pub mod rows;
mod spill;
pub mod sql;
