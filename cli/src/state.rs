//! The state folder of `drover run`: one process uses it at a time.

use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A locked state folder; the lock goes with it.
pub struct StateDir {
    pub path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the folder if need be and locks it.
    pub fn lock(path: &Path) -> Result<Self> {
        let failed = |what: &str, e: std::io::Error| {
            Error::new(codes::STATE, Fault::Drover, Retry::Other, format!("cannot {what} {}", path.display())).cause(e)
        };
        std::fs::create_dir_all(path).map_err(|e| failed("create the state folder", e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(|e| failed("open the lock of", e))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDir { path: path.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
                codes::STATE,
                Fault::User,
                Retry::Never,
                format!("another drover process works in {}", path.display()),
            )
            .remedy("wait until it has ended, or end it")),
            Err(std::fs::TryLockError::Error(e)) => Err(failed("lock", e)),
        }
    }
}
