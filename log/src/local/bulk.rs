//! Bulk streams: memory first, then files that are never synced and go with the process.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::{Error, Result};
use drover_runtime::memory::Account;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{BULK_LOST, beyond, damaged, disk, trimmed};
use crate::{Appender, Offset, Reader, Span};

/// A spill file is closed when it has grown beyond this; it is removed with the last of its records.
const SPILL_FILE: u64 = 64 << 20;
/// Offsets of a process begin at its number times this.
const LIFE: u32 = 40;

struct Spill {
    file: File,
    path: PathBuf,
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, file = %self.path.display(), "a spill file was gone already");
        }
    }
}

#[derive(Clone)]
enum Slot {
    Memory(Bytes),
    File { spill: Arc<Spill>, at: u64, len: usize, crc: u32 },
}

impl Slot {
    fn len(&self) -> usize {
        match self {
            Slot::Memory(record) => record.len(),
            Slot::File { len, .. } => *len,
        }
    }
}

struct Partition {
    first: Offset,
    records: VecDeque<Slot>,
    bytes: u64,
    /// File that is being filled, and how far.
    filling: Option<(Arc<Spill>, u64)>,
    next: watch::Sender<Offset>,
}

struct State {
    partitions: Vec<Partition>,
    files: u64,
}

/// All bulk partitions.
pub(super) struct Bulk {
    dir: PathBuf,
    start: Offset,
    memory: Arc<Account>,
    state: Mutex<State>,
}

fn lost(error: Error) -> Error {
    let mut error = error.remedy("the chunk has to be copied again");
    error.causes.push(BULK_LOST.into());
    error
}

impl Bulk {
    /// `life` is the number of the process. Removes what a former one left. Blocks.
    pub(super) fn open(dir: PathBuf, life: u64, limit: usize) -> Result<Bulk> {
        super::remove_dir(&dir)?;
        let state = State { partitions: Vec::new(), files: 0 };
        Ok(Bulk { dir, start: life << LIFE, memory: Account::new("log.bulk", limit), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes at least `count` partitions.
    pub(super) fn partitions(&self, count: u32) {
        let mut state = self.state();
        while state.partitions.len() < count as usize {
            state.partitions.push(Partition {
                first: self.start,
                records: VecDeque::new(),
                bytes: 0,
                filling: None,
                next: watch::Sender::new(self.start),
            });
        }
    }

    fn with<T>(&self, partition: u32, f: impl FnOnce(&mut State, usize) -> T) -> Result<T> {
        let mut state = self.state();
        if partition as usize >= state.partitions.len() {
            return Err(Error::internal(format!("bulk partition {partition} was not opened")));
        }
        Ok(f(&mut state, partition as usize))
    }

    pub(super) fn span(&self, partition: u32) -> Result<Span> {
        self.with(partition, |s, p| {
            let p = &s.partitions[p];
            Span { first: p.first, next: p.first + p.records.len() as u64 }
        })
    }

    pub(super) fn bytes(&self, partition: u32) -> Result<u64> {
        self.with(partition, |s, p| s.partitions[p].bytes)
    }

    /// Forgets records; files go with their last record. Blocks.
    pub(super) fn trim(&self, partition: u32, before: Offset) -> Result<()> {
        let gone = self.with(partition, |s, p| {
            let p = &mut s.partitions[p];
            let count = before.saturating_sub(p.first).min(p.records.len() as u64);
            let gone: Vec<Slot> = p.records.drain(..count as usize).collect();
            p.first += count;
            for slot in &gone {
                p.bytes -= slot.len() as u64;
                if let Slot::Memory(record) = slot {
                    self.memory.give(record.len());
                }
            }
            if p.records.is_empty() {
                p.filling = None;
            }
            gone
        })?;
        drop(gone);
        Ok(())
    }

    /// Forgets everything; offsets go on rising. Blocks.
    pub(super) fn remove(&self) -> Result<()> {
        let count = self.state().partitions.len() as u32;
        for partition in 0..count {
            self.trim(partition, Offset::MAX)?;
        }
        super::remove_dir(&self.dir)
    }

    /// Keeps a record in memory if there is room.
    fn keep(&self, partition: u32, record: &Bytes) -> Result<Option<Offset>> {
        self.with(partition, |s, p| {
            if !self.memory.try_take(record.len()) {
                return None;
            }
            Some(s.partitions[p].push(Slot::Memory(record.clone())))
        })
    }

    /// Writes a record to a file. Blocks.
    fn spill(&self, partition: u32, record: &Bytes) -> Result<Offset> {
        let crc = crc32fast::hash(record);
        let filling = self.with(partition, |s, p| s.partitions[p].filling.take())?;
        let (spill, at) = match filling {
            Some((spill, at)) if at < SPILL_FILE => (spill, at),
            _ => {
                std::fs::create_dir_all(&self.dir).map_err(|e| disk("make the folder", &self.dir, e))?;
                let number = self.with(partition, |s, _| {
                    s.files += 1;
                    s.files
                })?;
                let path = self.dir.join(format!("{partition}-{number}.spill"));
                let file = File::options()
                    .create_new(true)
                    .read(true)
                    .write(true)
                    .open(&path)
                    .map_err(|e| disk("make the spill file", &path, e))?;
                (Arc::new(Spill { file, path }), 0)
            }
        };
        spill.file.write_all_at(record, at).map_err(|e| disk("write to", &spill.path, e))?;
        self.with(partition, |s, p| {
            let p = &mut s.partitions[p];
            p.filling = Some((spill.clone(), at + record.len() as u64));
            p.push(Slot::File { spill, at, len: record.len(), crc })
        })
    }
}

impl Partition {
    fn push(&mut self, slot: Slot) -> Offset {
        let offset = self.first + self.records.len() as u64;
        self.bytes += slot.len() as u64;
        self.records.push_back(slot);
        self.next.send_replace(offset + 1);
        offset
    }
}

/// Appends to a bulk partition; what it accepted counts as durable, see the module above.
pub(super) struct BulkAppender {
    bulk: Arc<Bulk>,
    partition: u32,
    appended: u64,
    since_flush: Option<(Offset, Offset)>,
}

impl BulkAppender {
    pub(super) fn new(bulk: Arc<Bulk>, partition: u32) -> Result<Self> {
        bulk.span(partition)?;
        Ok(BulkAppender { bulk, partition, appended: 0, since_flush: None })
    }
}

#[async_trait]
impl Appender for BulkAppender {
    async fn append(&mut self, record: Bytes) -> Result<()> {
        let offset = match self.bulk.keep(self.partition, &record)? {
            Some(offset) => offset,
            None => {
                let (bulk, partition) = (self.bulk.clone(), self.partition);
                super::blocking(move || bulk.spill(partition, &record)).await??
            }
        };
        self.appended += 1;
        self.since_flush = Some((self.since_flush.map_or(offset, |(first, _)| first), offset));
        Ok(())
    }

    fn durable(&self) -> u64 {
        self.appended
    }

    async fn durable_beyond(&mut self, seen: u64) -> Result<u64> {
        if self.appended > seen {
            return Ok(self.appended);
        }
        // Only an append, which needs this same value, could end the wait.
        std::future::pending().await
    }

    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>> {
        Ok(self.since_flush.take())
    }
}

/// Reads a bulk partition.
pub(super) struct BulkReader {
    bulk: Arc<Bulk>,
    partition: u32,
    at: Offset,
    next: watch::Receiver<Offset>,
    reading: Option<JoinHandle<Result<Bytes>>>,
}

impl BulkReader {
    pub(super) fn new(bulk: Arc<Bulk>, partition: u32, from: Offset) -> Result<Self> {
        let span = bulk.span(partition)?;
        if from < span.first {
            return Err(lost(trimmed(from, span.first)));
        }
        if from > span.next {
            return Err(lost(beyond(from, span.next)));
        }
        let next = bulk.with(partition, |s, p| s.partitions[p].next.subscribe())?;
        Ok(BulkReader { bulk, partition, at: from, next, reading: None })
    }
}

fn read(spill: &Spill, at: u64, len: usize, crc: u32) -> Result<Bytes> {
    let mut record = vec![0; len];
    spill.file.read_exact_at(&mut record, at).map_err(|e| disk("read", &spill.path, e))?;
    if crc32fast::hash(&record) != crc {
        return Err(damaged(&spill.path, format!("checksum of the record at byte {at}")));
    }
    Ok(record.into())
}

#[async_trait]
impl Reader for BulkReader {
    async fn next(&mut self) -> Result<(Offset, Bytes)> {
        loop {
            if let Some(reading) = &mut self.reading {
                let done = reading.await;
                self.reading = None;
                let record = done.map_err(|e| Error::internal("reading the log ended early").cause(e))??;
                self.at += 1;
                return Ok((self.at - 1, record));
            }
            let end = *self.next.borrow_and_update();
            let at = self.at;
            let slot = self.bulk.with(self.partition, |s, p| {
                let p = &s.partitions[p];
                match at.checked_sub(p.first) {
                    Some(index) => Ok(p.records.get(index as usize).cloned()),
                    None => Err(lost(trimmed(at, p.first))),
                }
            })??;
            match slot {
                Some(Slot::Memory(record)) => {
                    self.at += 1;
                    return Ok((at, record));
                }
                Some(Slot::File { spill, at, len, crc }) => {
                    self.reading = Some(tokio::task::spawn_blocking(move || read(&spill, at, len, crc)));
                }
                None => {
                    tracing::trace!(at, end, "waiting for bulk records");
                    if self.next.changed().await.is_err() {
                        return Err(Error::internal("the log's state is gone"));
                    }
                }
            }
        }
    }
}
