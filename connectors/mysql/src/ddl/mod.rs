//! Schema changes that are met in the log: what they are, what they make of a table's structure, and what of them belongs to the migration.

pub mod column;
pub mod follow;
pub mod numbers;
pub mod parse;
pub mod shape;
pub mod text;
pub mod zone;
