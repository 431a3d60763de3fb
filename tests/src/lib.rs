//! The harness of drover's tests, benchmarks and demo: real servers, the real program, and the means to judge the outcome.
//!
//! - [`postgres`], [`mysql`] and [`kafka`] start servers in temporary folders on free ports. They die with the test process, however
//!   that ends; nothing of the machine's own services is touched.
//!   [`server`] is one of either engine, for tests that run against all.
//! - [`process`] holds a child process: its output, its signals, its memory and CPU. [`drover`] finds and starts the program
//!   under test with it.
//! - [`workload`] changes a database while drover moves it and knows what must hold in any prefix of its history; [`bulk`]
//!   fills the two large tables that all measurements use.
//! - [`compare`] compares two databases row by row, both ways.
//! - [`deployment`] runs drover in either form from one description; [`scene`] puts servers, workload and it
//!   together, [`trial`] servers with tables of a test's own and it; [`observer`] reads the invariant at the destination meanwhile.
//! - [`chaos`] is the matrix of faults and carries runs of it out; [`relay`] cuts connections for it.
//! - [`wait`] is the only place that may sleep: everything else waits for a condition, with a deadline.
//!
//! It depends on no other crate of drover, so that every crate's tests can use it.

pub mod brokers;
pub mod bulk;
pub mod chaos;
pub mod chinook;
pub mod compare;
pub mod deployment;
pub mod drover;
pub mod kafka;
pub mod mysql;
pub mod observer;
pub mod owed;
pub mod pairs;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod random;
pub mod relay;
pub mod scene;
pub mod schemas;
pub mod scripts;
pub mod server;
pub mod trial;
pub mod wait;
pub mod workload;

pub use brokers::Brokers;
pub use deployment::{Deployment, Form, Role};
pub use drover::Drover;
pub use kafka::Kafka;
pub use mysql::{MySql, Release};
pub use observer::Observer;
pub use pairs::Pair;
pub use postgres::{PgOptions, Postgres};
pub use process::Process;
pub use random::Random;
pub use relay::Relay;
pub use scene::Scene;
pub use server::{Dialect, Engine, Server, Session};
pub use trial::Trial;
