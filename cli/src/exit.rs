//! Exit statuses.

use drover_model::error::codes;
use drover_model::{Error, Fault, Retry};
use std::process::ExitCode;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// The migration failed, or the sides differ.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The precheck failed.
    Precheck = 3,
    /// Interrupted, or could not be carried out; resumable.
    Interrupted = 4,
}

impl Exit {
    pub fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }

    /// The status that an error of a command means.
    pub fn of(error: &Error) -> Exit {
        match (error.fault, error.retry) {
            (Fault::User, _) => Exit::Usage,
            _ if error.code == codes::PRECHECK => Exit::Precheck,
            _ if error.code == codes::STATE_LOST => Exit::Usage,
            (_, Retry::Connection | Retry::Other) => Exit::Interrupted,
            _ => Exit::Failed,
        }
    }
}
