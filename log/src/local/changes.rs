//! The changes of a migration: one thread writes and syncs what has accumulated, readers see what is durable.
//!
//! A failure of the disk ends the **generation**: whatever was not durable is forgotten, its appenders fail, and the next appender begins
//! anew behind the last durable record.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_runtime::memory::{Account, Taken};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::segment::{self, Cursor, Segment};
use super::{LocalOptions, beyond, disk, trimmed};
use crate::{Appender, Offset, Reader, Span};

/// Small records are gathered into writes of about this size.
const WRITE: usize = 256 << 10;

/// What waiting tasks watch.
#[derive(Debug, Clone, Default)]
struct Progress {
    durable: Offset,
    generation: u64,
    failed: Option<Error>,
    /// Rises with every trim, so that appenders who wait for room look again.
    trims: u64,
}

struct State {
    segments: VecDeque<Segment>,
    /// Next offset to give out; the durable ones are in `Progress`.
    next: Offset,
    queue: Vec<Queued>,
    /// Newest durable records, without holes, the last being `durable - 1`.
    recent: VecDeque<(Bytes, Taken)>,
    stop: bool,
    warned: bool,
}

/// A record on its way to the disk, and its bytes of [`Shared::on_the_way`].
struct Queued {
    offset: Offset,
    record: Bytes,
    taken: Taken,
}

/// The files that are written. Taken before `State` wherever both are.
struct Files {
    file: File,
    mark: File,
}

pub(super) struct Shared {
    dir: PathBuf,
    migration: MigrationId,
    options: LocalOptions,
    segment_bytes: u64,
    /// Of records that are queued or in the writer's hands.
    on_the_way: Arc<Account>,
    /// Of [`State::recent`].
    kept: Arc<Account>,
    state: Mutex<State>,
    files: Mutex<Option<Files>>,
    work: Condvar,
    progress: watch::Sender<Progress>,
    /// Held as long as anything may write.
    _lock: File,
}

/// Keeps the writing thread alive; it ends when the log and all its appenders and readers are gone.
pub(super) struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.state().stop = true;
        self.0.work.notify_all();
    }
}

impl Owner {
    pub(super) fn open(dir: PathBuf, migration: MigrationId, options: LocalOptions, lock: File) -> Result<Owner> {
        let shared = Arc::new(Shared {
            dir,
            migration,
            segment_bytes: options.segment_bytes.min(options.budget / 8).max(1),
            on_the_way: Account::new("log.changes", options.in_flight),
            kept: Account::new("log.recent", options.recent),
            options,
            state: Mutex::new(State {
                segments: VecDeque::new(),
                next: 0,
                queue: Vec::new(),
                recent: VecDeque::new(),
                stop: false,
                warned: false,
            }),
            files: Mutex::new(None),
            work: Condvar::new(),
            progress: watch::Sender::new(Progress::default()),
            _lock: lock,
        });
        shared.restore()?;
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("drover-log".into())
            .spawn(move || writer.write_on())
            .map_err(|e| Error::internal("cannot start the log's thread").cause(e))?;
        Ok(Owner(shared))
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.0.clone()
    }

    pub(super) fn span(&self) -> Span {
        let state = self.0.state();
        let next = self.0.progress.borrow().durable;
        Span { first: state.segments.front().map_or(next, |s| s.base), next }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.state().segments.iter().map(|s| s.end).sum()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the files if they are not open: at first, after a failure and after removal. Blocks.
    pub(super) fn restore(&self) -> Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.is_some() {
            return Ok(());
        }
        let found = segment::recover(&self.dir, self.migration)?;
        let mark = segment::open_mark(&self.dir)?;
        segment::write_mark(&mark, self.migration, found.next).map_err(|e| disk("write to", &self.dir, e))?;
        let mut state = self.state();
        state.segments = found.segments.into();
        state.next = found.next;
        state.queue.clear();
        state.recent.clear();
        *files = Some(Files { file: found.file, mark });
        self.progress.send_modify(|p| {
            p.durable = found.next;
            p.generation += 1;
            p.failed = None;
        });
        Ok(())
    }

    /// Ends the generation. The files' guard must be held and emptied by the caller.
    fn end(&self, state: &mut State, error: Error) {
        state.queue.clear();
        self.progress.send_modify(|p| p.failed = Some(error));
    }

    /// Deletes closed segments that lie wholly before an offset, oldest first, so that a crash leaves no hole. Blocks.
    pub(super) fn trim(&self, before: Offset) -> Result<()> {
        let gone: Vec<Segment> = {
            let mut state = self.state();
            let mut gone = Vec::new();
            while state.segments.get(1).is_some_and(|following| following.base <= before) {
                gone.extend(state.segments.pop_front());
            }
            state.warned = false;
            gone
        };
        for segment in &gone {
            std::fs::remove_file(&segment.path).map_err(|e| disk("remove", &segment.path, e))?;
        }
        self.progress.send_modify(|p| p.trims += 1);
        Ok(())
    }

    /// Deletes everything. Blocks.
    pub(super) fn remove(&self) -> Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        *files = None;
        {
            let mut state = self.state();
            self.end(&mut state, Error::new(codes::LOG, Fault::Log, Retry::Never, "the log was removed"));
            state.segments.clear();
            state.recent.clear();
        }
        super::remove_dir(&self.dir)
    }

    /// The thread: takes what has accumulated, writes it, syncs once, tells. What accumulates meanwhile is the next group.
    fn write_on(&self) {
        loop {
            let stopped = {
                let mut state = self.state();
                while state.queue.is_empty() && !state.stop {
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.queue.is_empty()
            };
            if stopped {
                return;
            }
            let mut guard = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            // The queue may have been cleared (removal) before the files could be taken.
            let (group, last) = {
                let mut state = self.state();
                (std::mem::take(&mut state.queue), state.segments.back().cloned())
            };
            let result = match (guard.as_mut(), last) {
                (Some(files), Some(last)) if !group.is_empty() => self.write(files, last, &group),
                _ => continue,
            };
            let mut state = self.state();
            match result {
                Ok(segments) => self.publish(&mut state, segments, group),
                Err(error) => {
                    tracing::error!(%error, "the log cannot be written");
                    *guard = None;
                    // Whoever waits for room looks again when the end is told: it is free by then.
                    drop(group);
                    self.end(&mut state, error);
                }
            }
        }
    }

    /// Writes and syncs a group; gives the segment that was last and those added.
    fn write(&self, files: &mut Files, last: Segment, group: &[Queued]) -> Result<Vec<Segment>> {
        let mut segments = Vec::with_capacity(1);
        let mut last = last;
        let mut buffer =
            Vec::with_capacity(WRITE.min(group.iter().map(|q| q.record.len() + segment::RECORD_HEAD).sum()));
        let spill = |file: &mut File, buffer: &mut Vec<u8>, path: &PathBuf| {
            let written = file.write_all(buffer).map_err(|e| disk("write to", path, e));
            buffer.clear();
            written
        };
        // After recovery the file's own position is at its start.
        std::io::Seek::seek(&mut files.file, std::io::SeekFrom::Start(last.end))
            .map_err(|e| disk("write to", &last.path, e))?;
        for Queued { offset, record, .. } in group {
            if last.end >= self.segment_bytes && last.end > segment::SEGMENT_HEAD {
                spill(&mut files.file, &mut buffer, &last.path)?;
                files.file.sync_data().map_err(|e| disk("sync", &last.path, e))?;
                let (made, file) = segment::create(&self.dir, *offset, self.migration)?;
                files.file = file;
                segments.push(std::mem::replace(&mut last, made));
            }
            buffer.extend_from_slice(&segment::record_head(*offset, record));
            if record.len() < WRITE / 4 {
                buffer.extend_from_slice(record);
            } else {
                spill(&mut files.file, &mut buffer, &last.path)?;
                files.file.write_all(record).map_err(|e| disk("write to", &last.path, e))?;
            }
            if buffer.len() >= WRITE {
                spill(&mut files.file, &mut buffer, &last.path)?;
            }
            last.end += (segment::RECORD_HEAD + record.len()) as u64;
        }
        spill(&mut files.file, &mut buffer, &last.path)?;
        files.file.sync_data().map_err(|e| disk("sync", &last.path, e))?;
        let next = group.last().map_or(0, |q| q.offset + 1);
        segment::write_mark(&files.mark, self.migration, next).map_err(|e| disk("write to", &self.dir, e))?;
        segments.push(last);
        Ok(segments)
    }

    fn publish(&self, state: &mut State, segments: Vec<Segment>, group: Vec<Queued>) {
        if let Some(back) = state.segments.pop_back()
            && segments.first().is_none_or(|s| s.base != back.base)
        {
            state.segments.push_back(back);
        }
        state.segments.extend(segments);
        let durable = group.last().map_or(0, |q| q.offset + 1);
        for Queued { record, taken, .. } in group {
            drop(taken);
            self.keep(state, record);
        }
        self.progress.send_modify(|p| p.durable = durable);
    }

    /// Keeps the newest record for readers in place of the oldest ones; one that is larger than all of the room in place of nothing.
    fn keep(&self, state: &mut State, record: Bytes) {
        if record.len() > self.options.recent {
            return state.recent.clear();
        }
        loop {
            if let Some(taken) = self.kept.try_hold(record.len()) {
                return state.recent.push_back((record, taken));
            }
            if state.recent.pop_front().is_none() {
                return;
            }
        }
    }
}

fn ended(progress: &Progress) -> Error {
    progress.failed.clone().unwrap_or_else(|| {
        Error::new(
            codes::LOG,
            Fault::Log,
            Retry::Connection,
            "the log failed and was opened anew; what was not durable is gone",
        )
    })
}

/// Appends to the changes. Several may live at once (a former epoch's beside the new one's); each counts its own records.
pub(super) struct ChangesAppender {
    owner: Arc<Owner>,
    progress: watch::Receiver<Progress>,
    generation: u64,
    /// Own records that were not durable when last looked at.
    pending: VecDeque<Offset>,
    /// Own durable records before `pending`.
    durable: u64,
    since_flush: Option<(Offset, Offset)>,
}

impl ChangesAppender {
    pub(super) fn new(owner: Arc<Owner>) -> Self {
        let progress = owner.0.progress.subscribe();
        let generation = progress.borrow().generation;
        ChangesAppender { owner, progress, generation, pending: VecDeque::new(), durable: 0, since_flush: None }
    }

    fn alive(&self, progress: &Progress) -> Result<()> {
        if progress.failed.is_some() || progress.generation != self.generation { Err(ended(progress)) } else { Ok(()) }
    }

    /// Waits until at most `pending` own records are left to become durable.
    async fn settle(&mut self, pending: usize) -> Result<()> {
        loop {
            let progress = self.progress.borrow_and_update().clone();
            if progress.generation == self.generation {
                while self.pending.front().is_some_and(|o| *o < progress.durable) {
                    self.pending.pop_front();
                    self.durable += 1;
                }
            }
            if self.pending.len() <= pending {
                return Ok(());
            }
            self.alive(&progress)?;
            self.progress.changed().await.map_err(|_| ended(&progress))?;
        }
    }
}

#[async_trait]
impl Appender for ChangesAppender {
    async fn append(&mut self, record: Bytes) -> Result<()> {
        if u32::try_from(record.len()).is_err() {
            return Err(Error::internal("a log record of more than 4 GiB"));
        }
        loop {
            let seen = self.progress.borrow_and_update().clone();
            self.alive(&seen)?;
            {
                let shared = &self.owner.0;
                let mut state = shared.state();
                // The last segment cannot be trimmed, so it does not count: waiting for it would never end.
                let closed: u64 = state.segments.iter().rev().skip(1).map(|s| s.end).sum();
                if closed >= shared.options.budget / 5 * 4 && !state.warned {
                    state.warned = true;
                    tracing::warn!(
                        bytes = closed,
                        budget = shared.options.budget,
                        "the log nears its budget; appliers lag behind"
                    );
                }
                // Looked at again under the lock: the generation may have ended since.
                let open = closed < shared.options.budget && self.alive(&shared.progress.borrow()).is_ok();
                if open && let Some(taken) = shared.on_the_way.try_hold(record.len()) {
                    let offset = state.next;
                    state.next += 1;
                    state.queue.push(Queued { offset, record, taken });
                    drop(state);
                    shared.work.notify_one();
                    self.pending.push_back(offset);
                    self.since_flush = Some((self.since_flush.map_or(offset, |(first, _)| first), offset));
                    return Ok(());
                }
            }
            self.progress.changed().await.map_err(|_| ended(&seen))?;
        }
    }

    fn durable(&self) -> u64 {
        let progress = self.progress.borrow();
        let more = if progress.generation == self.generation {
            self.pending.partition_point(|o| *o < progress.durable)
        } else {
            0
        };
        self.durable + more as u64
    }

    async fn durable_beyond(&mut self, seen: u64) -> Result<u64> {
        loop {
            self.settle(self.pending.len()).await?;
            let durable = self.durable();
            if durable > seen {
                return Ok(durable);
            }
            let progress = self.progress.borrow().clone();
            self.alive(&progress)?;
            self.progress.changed().await.map_err(|_| ended(&progress))?;
        }
    }

    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>> {
        self.settle(0).await?;
        Ok(self.since_flush.take())
    }
}

type Batch = Result<(Cursor, Vec<(Offset, Bytes)>)>;

/// Reads durable changes: from memory while it keeps up, else from the files.
pub(super) struct ChangesReader {
    owner: Arc<Owner>,
    progress: watch::Receiver<Progress>,
    at: Offset,
    ready: VecDeque<(Offset, Bytes)>,
    cursor: Option<Cursor>,
    /// A read that goes on even if the caller went away meanwhile: so nothing is lost.
    reading: Option<JoinHandle<Batch>>,
}

impl ChangesReader {
    pub(super) fn new(owner: Arc<Owner>, from: Offset) -> Result<Self> {
        let span = owner.span();
        if from < span.first {
            return Err(trimmed(from, span.first));
        }
        if from > span.next {
            return Err(beyond(from, span.next));
        }
        let progress = owner.0.progress.subscribe();
        Ok(ChangesReader { owner, progress, at: from, ready: VecDeque::new(), cursor: None, reading: None })
    }
}

#[async_trait]
impl Reader for ChangesReader {
    async fn next(&mut self) -> Result<(Offset, Bytes)> {
        loop {
            if let Some(reading) = &mut self.reading {
                let done = reading.await;
                self.reading = None;
                let (cursor, batch) = done.map_err(|e| Error::internal("reading the log ended early").cause(e))??;
                self.cursor = Some(cursor);
                self.ready.extend(batch);
            }
            if let Some((offset, record)) = self.ready.pop_front() {
                self.at = offset + 1;
                return Ok((offset, record));
            }
            let durable = self.progress.borrow_and_update().durable;
            if self.at < durable {
                let state = self.owner.0.state();
                let first = state.segments.front().map_or(durable, |s| s.base);
                if self.at < first {
                    return Err(trimmed(self.at, first));
                }
                // Under the lock, for `recent` ends there.
                let durable = self.owner.0.progress.borrow().durable;
                if let Some((record, _)) = (durable - self.at)
                    .try_into()
                    .ok()
                    .and_then(|back: usize| state.recent.len().checked_sub(back))
                    .and_then(|index| state.recent.get(index))
                {
                    let offset = self.at;
                    self.at += 1;
                    return Ok((offset, record.clone()));
                }
                let index = state.segments.partition_point(|s| s.base <= self.at).saturating_sub(1);
                let segments: Vec<Segment> = state.segments.iter().skip(index).take(2).cloned().collect();
                drop(state);
                let (cursor, from) = (self.cursor.take(), self.at);
                self.reading = Some(tokio::task::spawn_blocking(move || segment::read_batch(cursor, &segments, from)));
                continue;
            }
            if self.progress.changed().await.is_err() {
                return Err(Error::internal("the log's state is gone"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{expect, fill, record};
    use crate::{Log, Stream, local::LocalLog};
    use futures::FutureExt;

    #[tokio::test]
    async fn what_is_kept_and_what_is_on_its_way_is_counted() {
        let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
        let options = LocalOptions { recent: 25_000, in_flight: 15_000, ..LocalOptions::default() };
        let log = LocalLog::open(dir.path(), id, options).await.unwrap();
        let shared = log.changes.shared();
        let books = || (shared.state().recent.len(), shared.kept.held(), shared.on_the_way.held());
        fill(&log, Stream::Changes, 0..10, 10_000).await.unwrap();
        assert_eq!(books(), (2, 20_000, 0));
        // Larger than all that may be on its way: it waits for the rest and passes.
        fill(&log, Stream::Changes, 10..11, 40_000).await.unwrap();
        assert_eq!(books(), (0, 0, 0));
        fill(&log, Stream::Changes, 11..12, 10_000).await.unwrap();
        assert_eq!(books(), (1, 10_000, 0));
        let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
        expect(&mut *reader, 0..10, 10_000).await.unwrap();
        expect(&mut *reader, 10..11, 40_000).await.unwrap();
        expect(&mut *reader, 11..12, 10_000).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_way_holds_appenders_back_until_it_is_free_or_ends() {
        let (dir, id) = (tempfile::tempdir().unwrap(), MigrationId::new_v4());
        let options = LocalOptions { in_flight: 15_000, ..LocalOptions::default() };
        let log = LocalLog::open(dir.path(), id, options).await.unwrap();
        let shared = log.changes.shared();
        let mut appender = log.appender(Stream::Changes).await.unwrap();
        for end in [false, true] {
            // The writer stands still.
            let files = shared.files.lock().unwrap();
            appender.append(record(0, 10_000)).now_or_never().unwrap().unwrap();
            assert!(appender.append(record(1, 6_000)).now_or_never().is_none());
            assert_eq!(shared.on_the_way.held(), 10_000);
            drop(files);
            if !end {
                appender.append(record(1, 6_000)).await.unwrap();
                appender.flush().await.unwrap();
            } else {
                shared.remove().unwrap();
                appender.append(record(1, 6_000)).await.unwrap_err();
            }
            assert_eq!(shared.on_the_way.held(), 0);
        }
    }
}
