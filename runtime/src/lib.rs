//! What every process of drover stands on: named tasks, shutdown, rate limits, failpoints, secrets, telemetry, the http endpoints and
//! the loop in which a worker carries orders out. This crate alone spawns tasks and reads the clock for them, so that it is known who
//! runs, who owns it and how it ends.

pub mod failpoint;
pub mod http;
pub mod memory;
pub mod outgoing;
pub mod process;
pub mod rate;
pub mod retry;
pub mod secret;
pub mod spill;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod worker;

pub use failpoint::failpoint;
pub use tokio_util::sync::CancellationToken;
