//! PostgreSQL 10 and later, and its cloud kin, as source and destination.

pub mod apply;
mod bytea;
pub mod catalog;
pub mod changes;
pub mod check;
pub mod connect;
pub mod connector;
pub mod destination;
mod doubts;
pub mod errors;
pub mod failover;
mod fit;
pub mod guard;
pub mod keys;
pub mod load;
pub mod lsn;
pub mod pgoutput;
pub mod progress;
pub mod replication;
pub mod rows;
mod scan;
pub mod schema;
pub mod slot;
pub mod snapshot;
pub mod source;
pub mod sql;
pub mod typemap;
