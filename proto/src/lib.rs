//! What travels between the processes of drover: the control plane (gRPC) and the heads of the log's records. The generated
//! code lies in [`v1`]; [`order`] has the work orders and their outcomes, [`record`] frames log records, [`control`] is the
//! trait that a worker speaks to, over the network or in the same process.

pub mod control;
pub mod order;
pub mod record;

/// Generated from proto/*.proto.
#[allow(clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("drover.v1");
}
