//! drover as a whole in one thread, out of one seed: coordinator, workers, log and both databases, with simulated time, network and
//! disks, and everything that can go wrong. Guarantee: the same seed gives the same run, step by step, and a broken promise is seen at the step
//! that breaks it.
//!
//! The code under test is production's own: the coordinator's machine and desk, the workers' loop and both roles. Simulated are what
//! lies outside: the store's disk, the log, the databases (the connector in memory), the network between them, clocks and randomness
//! ([`machine`]). Threads, SQLite and the Kafka client stay outside.

pub mod check;
pub mod control;
pub mod databases;
pub mod explore;
pub mod log;
pub mod machine;
pub mod net;
pub mod node;
pub mod run;
pub mod sim;
pub mod workload;

pub use run::{Options, Sabotage, run};
