//! The memory that the change stream takes: a process of its own, in which nothing else grows meanwhile.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // shared with the other tests of the stream
#[path = "../stream/bench.rs"]
mod bench;
mod large;
