//! PostgreSQL 10 and later, and its cloud kin, as source and destination.

pub mod connect;
pub mod errors;

pub mod apply;
pub mod keys;
pub mod load;
pub mod progress;
pub mod rows;
pub mod sql;
