//! The binary log: its transport, its events, and the decoding of rows into drover's cells.
//!
//! Guarantee: no bytes, however damaged, make any of this panic or allocate more than in proportion to their own size, and what cannot be understood
//! is an error, never left out.

pub mod bind;
pub mod bytes;
pub mod dump;
pub mod event;
pub mod json;
pub mod json_diff;
pub mod lex;
pub mod payload;
pub mod query;
pub mod rows;
pub mod table_map;
pub mod values;
