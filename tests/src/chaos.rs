//! The matrix of faults: every failpoint of drover, any moment of each process, and the broker; killed there, frozen there and brought back, cut off from
//! its peers there, or with the answers lost; in both forms, between all pairs of engines. A [`Run`] is a few of these cells in one migration,
//! and follows from a seed. Whatever happens in it, the application's statements all succeed, a reader at the destination never sees what the
//! source never was, no process needs more memory than is promised, and in the end both sides hold the same rows.
//!
//! `tests/tests/chaos.rs` carries every failpoint out once; the program `chaos` carries out as many runs as one likes.

mod plan;
mod run;
mod stage;

pub use plan::{Fault, Kind, POINTS, Phase, Place, Point, Run, allowed, form_name};
pub use run::{Seen, carry_out};
pub use stage::Stage;

/// The promise: no process needs more, in KiB.
pub const BOUND_KIB: u64 = 200 * 1000;
