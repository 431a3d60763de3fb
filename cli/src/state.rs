//! The state folder of `drover run`: one process uses it at a time, and listens on a socket in it, by which the verbs that are given
//! the file reach it. Folder and socket are their owner's alone: who reaches the socket rules the migration.

use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::control::Remote;
use std::fs::{DirBuilder, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

const SOCKET: &str = "socket";
/// Longer names no socket can have (`sun_path`, with its final zero).
const LONGEST: usize = 107;

fn failed(what: &str, path: &Path, e: std::io::Error) -> Error {
    let text = format!("cannot {what} {}", path.display());
    Error::new(codes::STATE, Fault::Drover, Retry::Other, text).cause(e)
}

/// A locked state folder; the lock goes with it.
pub struct StateDir {
    pub path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the folder if need be and locks it.
    ///
    /// # Errors
    /// Another process has it (exit status 2), or the disk failed.
    pub fn lock(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| failed("create the state folder", path, e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(|e| failed("open the lock of", path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDir { path: path.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
                codes::STATE,
                Fault::User,
                Retry::Never,
                format!("another drover process works in {}", path.display()),
            )
            .remedy(
                "wait until it has ended, or end it by SIGINT; `drover migration show FILE` asks it how far it is",
            )),
            Err(std::fs::TryLockError::Error(e)) => Err(failed("lock", path, e)),
        }
    }

    /// Listens for verbs. What a process that was killed left there is replaced: the lock says that nobody uses it.
    pub fn listen(&self) -> Result<UnixListener> {
        let socket = self.path.join(SOCKET);
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove the socket", &socket, e));
            }
            _ => {}
        }
        let address = Address::of(&self.path)?;
        let listener = UnixListener::bind(&address.path).map_err(|e| failed("listen on", &socket, e))?;
        std::fs::set_permissions(&socket, Permissions::from_mode(0o600))
            .map_err(|e| failed("protect the socket", &socket, e))?;
        Ok(listener)
    }
}

/// A name of the socket that is short enough, however long the folder's is.
struct Address {
    path: PathBuf,
    _folder: Option<File>,
}

impl Address {
    fn of(folder: &Path) -> Result<Address> {
        let path = folder.join(SOCKET);
        if path.as_os_str().len() <= LONGEST {
            return Ok(Address { path, _folder: None });
        }
        let open = File::open(folder).map_err(|e| failed("open the state folder", folder, e))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd()));
        Ok(Address { path, _folder: Some(open) })
    }
}

/// The way to the process that works in a state folder.
pub struct Door {
    pub control: Remote,
    _address: Address,
}

impl Door {
    /// `None`: no process works there.
    pub fn of(folder: &Path) -> Result<Option<Door>> {
        if !folder.join(SOCKET).exists() {
            return Ok(None);
        }
        let address = Address::of(folder)?;
        match UnixStream::connect(&address.path) {
            Ok(_) => {
                let control = Remote::lazy(&format!("unix://{}", address.path.display()))?;
                Ok(Some(Door { control, _address: address }))
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound) => {
                Ok(None)
            }
            Err(e) => Err(failed("reach the process that works in", folder, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_has_one_user_and_its_socket_is_found_however_long_its_name() {
        let base = std::env::temp_dir().join(format!("drover-state-{}", std::process::id()));
        for folder in [base.join("short"), base.join("long".repeat(30))] {
            let dir = StateDir::lock(&folder).unwrap();
            let second = StateDir::lock(&folder).err().unwrap();
            assert!(second.message.contains("another drover process") && second.fault == Fault::User);
            assert!(Door::of(&folder).unwrap().is_none());
            let listener = dir.listen().unwrap();
            assert!(Door::of(&folder).unwrap().is_some());
            let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&folder), mode(&folder.join(SOCKET))), (0o700, 0o600));
            // As after SIGKILL: the file is there, and nobody listens.
            drop(listener);
            assert!(folder.join(SOCKET).exists() && Door::of(&folder).unwrap().is_none());
            drop(dir);
            let again = StateDir::lock(&folder).unwrap();
            let _listener = again.listen().unwrap();
            assert!(Door::of(&folder).unwrap().is_some());
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}
