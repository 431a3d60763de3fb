//! drover-coordinator: it owns the migrations, splits them into work orders, leases these to workers, and keeps states in
//! its store. It opens no database of the user's.
//!
//! Rooms: [`machine`] (state of a migration as the fold of its [`event`]s), [`wants`] (what shall run), [`decide`] (what an
//! outcome means), [`loss`] (tables after a lost snapshot), [`cutover`] (the last act), [`adopt`] (a lost state) and [`lease`] are pure. [`desk`] puts them together, still without
//! I/O: each call gives an answer and a turn, which must be durable in the [`store`] before the answer is given.
//! [`service`] does that, for workers in the same process and over gRPC; [`http`] has health and metrics.

pub mod access;
pub mod adopt;
pub mod cutover;
pub mod decide;
pub mod desk;
pub mod event;
mod grpc;
pub mod http;
pub mod key;
pub mod lease;
pub mod loss;
pub mod machine;
mod owed;
pub mod service;
pub mod settings;
pub mod store;
pub mod table;
pub mod turn;
pub mod view;
pub mod wants;
mod writer;

pub use access::Access;
pub use desk::Tuning;
pub use service::{Coordinator, Options};
pub use view::{SnapshotView, TableView};
pub use writer::Pace;
