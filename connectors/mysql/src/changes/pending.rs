//! A transaction that has not ended yet: its changes in memory, or in a file once they are many.
//!
//! Guarantee: memory holds no more than a batch of it, and all of them together no more than [`GATHERED`]; what was rolled back to a savepoint is in neither (a server logs savepoints where it could not
//! simply forget what followed them).

use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_runtime::memory::{Account, Taken};
use drover_runtime::spill::{Spill, SpillReader};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes that are gathered before they are written to a file that exists, at most.
const RUN_BYTES: usize = 256 << 10;

/// Bytes of transactions that are gathered in memory, with those that are prepared and wait; beyond it they go to a file.
const GATHERED: usize = 4 << 20;

/// Where large transactions go, and from which size on.
#[derive(Debug)]
pub(super) struct Room {
    pub folder: PathBuf,
    pub batch_bytes: usize,
    memory: Arc<Account>,
    files: u64,
}

impl Room {
    pub fn new(folder: PathBuf, batch_bytes: usize) -> Self {
        Room { folder, batch_bytes, memory: Account::new("stream.transactions", GATHERED), files: 0 }
    }
    fn file(&mut self) -> Result<Spill> {
        self.files += 1;
        Spill::create(&self.folder.join(format!("transaction-{}", self.files))).map_err(spilled)
    }
}

pub(super) fn spilled(error: std::io::Error) -> Error {
    Error::new(codes::STATE, Fault::Drover, Retry::Other, "cannot spill a large transaction to the work directory")
        .cause(error)
        .remedy("make room there, or give another place by --work-dir (or --state)")
}

/// Changes between two savepoints.
#[derive(Debug, Clone, Copy)]
struct Run {
    number: u32,
    /// Where it begins in the buffer.
    from: usize,
    changes: u64,
}

/// See the module.
pub(super) struct Pending {
    /// Encoded changes that are in no file. Append here, then call [`Pending::added`].
    pub buffer: Vec<u8>,
    /// Of the buffer.
    taken: Option<Taken>,
    runs: Vec<Run>,
    next: u32,
    points: Vec<(String, u32)>,
    aborted: HashSet<u32>,
    file: Option<Spill>,
}

/// What a committed transaction is.
pub(super) enum Whole {
    Memory { bytes: Vec<u8>, changes: u64 },
    File { reader: SpillReader, aborted: HashSet<u32> },
}

impl Pending {
    /// `buffer` is empty, with room from a transaction before.
    pub fn new(buffer: Vec<u8>) -> Self {
        Pending {
            buffer,
            taken: None,
            runs: vec![Run { number: 0, from: 0, changes: 0 }],
            next: 1,
            points: Vec::new(),
            aborted: HashSet::new(),
            file: None,
        }
    }

    /// Says that changes were appended to the buffer, and writes it to a file if it is too large by now.
    pub fn added(&mut self, changes: u64, room: &mut Room) -> Result<()> {
        if let Some(run) = self.runs.last_mut() {
            run.changes += changes;
        }
        let limit = if self.file.is_some() { RUN_BYTES.min(room.batch_bytes) } else { room.batch_bytes };
        if self.buffer.len() >= limit || !Taken::cover(&mut self.taken, &room.memory, self.buffer.len()) {
            if self.file.is_none() {
                self.file = Some(room.file()?);
            }
            self.write_out()?;
        }
        Ok(())
    }

    /// It will wait, perhaps beside many others: no more than a little of it stays in memory.
    pub fn park(&mut self, room: &mut Room) -> Result<()> {
        const LITTLE: usize = 16 << 10;
        self.taken = None;
        if self.buffer.len() <= LITTLE {
            self.taken = room.memory.try_hold(self.buffer.len());
        }
        if self.taken.is_none() {
            if self.file.is_none() {
                self.file = Some(room.file()?);
            }
            self.write_out()?;
        }
        if let Some(file) = &mut self.file {
            file.rest().map_err(spilled)?;
        }
        self.buffer.shrink_to_fit();
        Ok(())
    }

    fn write_out(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut end = self.buffer.len();
        let last = self.runs.last().map_or(0, |r| r.number);
        for i in 0..self.runs.len() {
            let run = self.runs[i];
            end = self.runs.get(i + 1).map_or(self.buffer.len(), |next| next.from).min(self.buffer.len());
            file.add(run.number, &self.buffer[run.from..end], run.changes).map_err(spilled)?;
        }
        debug_assert_eq!(end, self.buffer.len());
        self.buffer.clear();
        self.runs.clear();
        self.runs.push(Run { number: last, from: 0, changes: 0 });
        Ok(())
    }

    fn begin_run(&mut self) -> u32 {
        let number = self.next;
        self.next += 1;
        self.runs.push(Run { number, from: self.buffer.len(), changes: 0 });
        number
    }

    /// A savepoint; one of the same name is forgotten.
    pub fn savepoint(&mut self, name: String) {
        self.points.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        let number = self.begin_run();
        self.points.push((name, number));
    }

    /// What follows the savepoint never was. `false` if there is no such savepoint.
    pub fn roll_back_to(&mut self, name: &str) -> bool {
        let Some(at) = self.points.iter().position(|(known, _)| known.eq_ignore_ascii_case(name)) else { return false };
        self.points.truncate(at + 1);
        let from = self.points[at].1;
        self.aborted.extend(from..self.next);
        let first = self.runs.partition_point(|r| r.number < from);
        if let Some(run) = self.runs.get(first) {
            self.buffer.truncate(run.from);
        }
        self.runs.truncate(first);
        self.points[at].1 = self.begin_run();
        true
    }

    /// The transaction commits.
    pub fn into_whole(mut self) -> Result<Whole> {
        if self.file.is_some() {
            self.write_out()?;
        }
        match self.file {
            Some(file) => Ok(Whole::File { reader: file.into_reader().map_err(spilled)?, aborted: self.aborted }),
            None => Ok(Whole::Memory { changes: self.runs.iter().map(|r| r.changes).sum(), bytes: self.buffer }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn those_that_wait_share_what_memory_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut room = Room::new(dir.path().to_owned(), 1 << 20);
        room.memory = Account::new("test: waiting", 25_000);
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let mut waiting = Vec::new();
        for (n, files_then) in [(10_000, 0), (10_000, 0), (10_000, 1), (20_000, 2), (5_000, 2), (0, 2), (1, 3)] {
            let mut pending = Pending::new(Vec::new());
            pending.buffer.extend(vec![7; n]);
            pending.added(1, &mut room).unwrap();
            pending.park(&mut room).unwrap();
            assert_eq!((files(), pending.buffer.capacity() <= n), (files_then, true), "{n}");
            waiting.push((n, pending));
        }
        assert_eq!(room.memory.held(), 25_000);
        for (n, pending) in waiting {
            let found = match pending.into_whole().unwrap() {
                Whole::Memory { bytes, .. } => bytes.len(),
                Whole::File { mut reader, aborted } => {
                    reader.next_piece(1 << 20, &aborted).unwrap().map_or(0, |(piece, _)| piece.len())
                }
            };
            assert_eq!(found, n);
        }
        assert_eq!((room.memory.held(), files()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Add(u8),
        Point(u8),
        Back(u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0u8..20).prop_map(Act::Add),
            1 => (0u8..3).prop_map(Act::Point),
            1 => (0u8..3).prop_map(Act::Back),
        ]
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_was_not_rolled_back(acts in prop::collection::vec(act(), 0..60), limit in 1usize..200) {
            let dir = tempfile::tempdir().unwrap();
            let mut room = Room::new(dir.path().to_owned(), limit);
            let mut pending = Pending::new(Vec::new());
            let mut model: Vec<u8> = Vec::new();
            let mut points: Vec<(u8, usize)> = Vec::new();
            for (i, act) in acts.iter().enumerate() {
                match act {
                    Act::Add(n) => {
                        let bytes = vec![i as u8; usize::from(*n) + 1];
                        pending.buffer.extend_from_slice(&bytes);
                        pending.added(1, &mut room).unwrap();
                        model.extend_from_slice(&bytes);
                    }
                    Act::Point(name) => {
                        points.retain(|(known, _)| known != name);
                        points.push((*name, model.len()));
                        pending.savepoint(name.to_string());
                    }
                    Act::Back(name) => {
                        let known = points.iter().position(|(n, _)| n == name);
                        prop_assert_eq!(pending.roll_back_to(&name.to_string()), known.is_some());
                        if let Some(at) = known {
                            points.truncate(at + 1);
                            model.truncate(points[at].1);
                        }
                    }
                }
            }
            let found = match pending.into_whole().unwrap() {
                Whole::Memory { bytes, .. } => bytes,
                Whole::File { mut reader, aborted } => {
                    let mut all = Vec::new();
                    while let Some((piece, _)) = reader.next_piece(limit, &aborted).unwrap() {
                        all.extend(piece);
                    }
                    all
                }
            };
            prop_assert_eq!(found, model);
        }
    }
}
