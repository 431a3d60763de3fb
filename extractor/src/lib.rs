//! The reading role: inspects the source, cuts tables into chunks, copies them into the log's bulk partitions, and
//! publishes the change stream. It never touches the destination.
//!
//! What it promises: a chunk is reported only when all its blocks are durable in the log; a source position is confirmed
//! only when everything up to it is durable in the log (and, where that could get lost with the state, usually applied); the snapshot is held until the coordinator lets go of it.

mod confirm;
mod copy;
mod fetch;
mod inspect;
mod readers;
mod roles;
mod stream;
#[cfg(test)]
mod stream_tests;

pub use inspect::select;
pub use roles::{Extractor, SourceFactory};
pub use stream::End;
