//! The log within one process, under a folder of its own.
//!
//! **Changes** lie in checksummed segment files ([`segment`]); a record is durable when `fdatasync` has returned for it, and only durable
//! records are read. What was cut short by a crash and never durable is cut off at the next start; a durable record that is missing or
//! damaged is a LOG error, never a shorter log.
//!
//! **Bulk** streams carry what can be read from the source again, so they do not outlive the process: records stay in memory (the reader
//! gets the very buffer that was appended) and overflow to files that are never synced. A chunk that was copied but not loaded when the
//! process ended must be copied again. Its offsets never come back: bulk offsets begin above those of every former process, so an order
//! that names lost records fails with [`is_bulk_lost`] and never meets other ones.
//!
//! Memory: changes at most [`LocalOptions::in_flight`] (16 MiB) on their way to the disk and [`LocalOptions::recent`] (8 MiB) kept for
//! readers that keep up, 1 MiB for each reader that lags (or one record, if larger); bulk at most [`LocalOptions::bulk_memory`] and the
//! one record that each appender is just spilling. On their way, kept, and bulk are the accounts `log.changes`, `log.recent` and `log.bulk` of
//! `drover_runtime::memory`. No call blocks the runtime: files are written by a thread of the log's own and read on the runtime's blocking threads.

mod bulk;
mod changes;
mod segment;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};

use crate::{Appender, Log, Offset, Reader, Span, Stream};

/// Sizes, all in bytes.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Memory of all bulk streams together; what exceeds it is spilled to files.
    pub bulk_memory: usize,
    /// A segment file is closed when it has grown beyond this; trimming deletes closed files. At most an eighth of `budget` is used.
    pub segment_bytes: u64,
    /// Closed segment files of changes; beyond it `append` waits until something is trimmed. Up to one more segment and `in_flight` may be
    /// added to it on disk.
    pub budget: u64,
    /// Changes that were appended and are not durable yet; beyond it `append` waits. A larger record passes alone.
    pub in_flight: usize,
    /// Newest durable changes kept in memory.
    pub recent: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions {
            bulk_memory: 64 << 20,
            segment_bytes: 64 << 20,
            budget: 20 << 30,
            in_flight: 16 << 20,
            recent: 8 << 20,
        }
    }
}

/// The log of one migration in one process.
pub struct LocalLog {
    changes: Arc<changes::Owner>,
    bulk: Arc<bulk::Bulk>,
    /// What the destination holds; of this life only.
    applied: Mutex<Option<Position>>,
}

/// How long the predecessor in the same folder (a process that is just ending) may keep its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

impl LocalLog {
    /// Opens the log in `dir`, which is made if missing and belongs to one migration and one process at a time. Cuts off what a crash
    /// left half-written. Errors: LOG if another migration's, damaged or in use; STATE if the disk fails.
    pub async fn open(dir: &Path, migration: MigrationId, options: LocalOptions) -> Result<LocalLog> {
        let dir = dir.to_owned();
        blocking(move || Self::open_now(&dir, migration, options)).await?
    }

    fn open_now(dir: &Path, migration: MigrationId, options: LocalOptions) -> Result<LocalLog> {
        fs::create_dir_all(dir).map_err(|e| disk("make the log's folder", dir, e))?;
        let lock = lock(&dir.join("lock"))?;
        let changes = changes::Owner::open(dir.join("changes"), migration, options.clone(), lock)?;
        let life = segment::next_life(&dir.join("life"))?;
        let bulk = bulk::Bulk::open(dir.join("bulk"), life, options.bulk_memory)?;
        Ok(LocalLog { changes: Arc::new(changes), bulk: Arc::new(bulk), applied: Mutex::default() })
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| disk("open the log's lock", path, e))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    codes::LOG,
                    Fault::User,
                    Retry::Never,
                    format!("the log {} is in use by another process", path.display()),
                )
                .remedy("stop the other drover that uses this state folder, or use another folder"));
            }
            Err(TryLockError::Error(e)) => return Err(disk("lock the log", path, e)),
        }
    }
}

#[async_trait]
impl Log for LocalLog {
    async fn open(&self, bulk: u32) -> Result<()> {
        let changes = self.changes.shared();
        blocking(move || changes.restore()).await??;
        self.bulk.partitions(bulk);
        Ok(())
    }

    async fn appender(&self, stream: Stream) -> Result<Box<dyn Appender>> {
        match stream {
            Stream::Changes => {
                let changes = self.changes.shared();
                blocking(move || changes.restore()).await??;
                Ok(Box::new(changes::ChangesAppender::new(self.changes.clone())))
            }
            Stream::Bulk(partition) => Ok(Box::new(bulk::BulkAppender::new(self.bulk.clone(), partition)?)),
        }
    }

    async fn reader(&self, stream: Stream, from: Offset) -> Result<Box<dyn Reader>> {
        match stream {
            Stream::Changes => Ok(Box::new(changes::ChangesReader::new(self.changes.clone(), from)?)),
            Stream::Bulk(partition) => Ok(Box::new(bulk::BulkReader::new(self.bulk.clone(), partition, from)?)),
        }
    }

    async fn span(&self, stream: Stream) -> Result<Span> {
        match stream {
            Stream::Changes => Ok(self.changes.span()),
            Stream::Bulk(partition) => self.bulk.span(partition),
        }
    }

    async fn last(&self, stream: Stream) -> Result<Option<(Offset, Bytes)>> {
        let span = self.span(stream).await?;
        if span.next == span.first {
            return Ok(None);
        }
        self.reader(stream, span.next - 1).await?.next().await.map(Some)
    }

    async fn trim(&self, stream: Stream, before: Offset) -> Result<()> {
        match stream {
            Stream::Changes => {
                let changes = self.changes.shared();
                blocking(move || changes.trim(before)).await?
            }
            Stream::Bulk(partition) => {
                let bulk = self.bulk.clone();
                blocking(move || bulk.trim(partition, before)).await?
            }
        }
    }

    async fn bytes(&self, stream: Stream) -> Result<u64> {
        match stream {
            Stream::Changes => Ok(self.changes.bytes()),
            Stream::Bulk(partition) => self.bulk.bytes(partition),
        }
    }

    fn note_applied(&self, position: &Position) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.clone());
    }

    fn applied(&self) -> Option<Position> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn remove(&self) -> Result<()> {
        let (changes, bulk) = (self.changes.shared(), self.bulk.clone());
        blocking(move || {
            bulk.remove()?;
            changes.remove()
        })
        .await?
    }
}

/// Whether an error says that bulk records are gone: trimmed, or of a former process. The chunk must be copied again.
pub fn is_bulk_lost(error: &Error) -> bool {
    error.code == codes::LOG && error.causes.iter().any(|c| c == BULK_LOST)
}

const BULK_LOST: &str = "bulk records are gone";

/// Runs file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("file work of the log ended early").cause(e))
}

/// The disk under the log failed; `what` completes "cannot …".
fn disk(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Other, format!("cannot {what} {}", path.display()))
        .remedy("check the disk of the state folder: free space, permissions, health")
        .cause(error)
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, format!("the log file {} is damaged: {what}", path.display()))
        .remedy("restore the state folder, or begin the migration again; nothing that follows the damage was applied")
}

fn trimmed(from: Offset, first: Offset) -> Error {
    Error::new(
        codes::LOG,
        Fault::Log,
        Retry::Never,
        format!("the log no longer has record {from}: it begins at {first}"),
    )
    .remedy(crate::BEGIN_AGAIN)
}

fn beyond(from: Offset, next: Offset) -> Error {
    Error::new(
        codes::LOG,
        Fault::Log,
        Retry::Never,
        format!("the log has lost its end: record {from} is wanted, it ends before {next}"),
    )
    .remedy(crate::BEGIN_AGAIN)
}

/// A folder's entries survive a power loss only after this.
fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| disk("sync the folder", dir, e))
}

fn remove_dir(dir: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(disk("remove", dir, e)),
        _ => Ok(()),
    }
}
