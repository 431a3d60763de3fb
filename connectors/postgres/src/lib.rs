//! PostgreSQL 10 and later, and its cloud kin, as source and destination.

pub mod catalog;
pub mod connect;
pub mod errors;
