//! Where a large transaction waits for its commit: a file of runs of changes, each run with the subtransaction that it
//! belongs to, so that a rolled back subtransaction's runs are left out in the end. The file goes when its owner does.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Length, subtransaction and number of changes stand before each run.
const HEAD: usize = 4 + 4 + 8;
/// Small runs are gathered into writes of this size.
const WRITE: usize = 64 << 10;

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // A file that stays is overwritten by the next run of the same name, or swept with the work directory.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A transaction being written.
pub struct Spill {
    file: File,
    /// What is not in the file yet.
    buffer: Vec<u8>,
    empty: bool,
    path: Removed,
}

impl Spill {
    /// Creates the file (and its folder); a file of that name from an earlier run is overwritten.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Spill { file, buffer: Vec::new(), empty: true, path: Removed(path.to_owned()) })
    }

    /// Adds a run of whole changes of one subtransaction.
    pub fn add(&mut self, sub: u32, bytes: &[u8], changes: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a run of more than 4 GiB"))?;
        self.empty = false;
        if self.buffer.len() + HEAD > WRITE {
            self.flush()?;
        }
        self.buffer.reserve_exact(WRITE.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&sub.to_le_bytes());
        self.buffer.extend_from_slice(&changes.to_le_bytes());
        if self.buffer.len() + bytes.len() <= WRITE {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush()?;
        self.file.write_all(bytes)
    }

    /// Whether nothing was ever added.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Nothing is added for a while: no memory is kept for it. There may be many such transactions.
    pub fn rest(&mut self) -> io::Result<()> {
        self.flush()?;
        self.buffer = Vec::new();
        Ok(())
    }

    /// Turns to reading, from the first run.
    pub fn into_reader(mut self) -> io::Result<SpillReader> {
        self.flush()?;
        io::Seek::rewind(&mut self.file)?;
        Ok(SpillReader { file: BufReader::with_capacity(256 << 10, self.file), _path: self.path })
    }
}

/// A transaction being read.
pub struct SpillReader {
    file: BufReader<File>,
    _path: Removed,
}

impl SpillReader {
    /// The next runs that were not rolled back, at least `target` bytes of them unless the end comes before; with the number of changes. `None`
    /// at the end.
    pub fn next_piece(&mut self, target: usize, aborted: &HashSet<u32>) -> io::Result<Option<(Vec<u8>, u64)>> {
        let mut piece = Vec::with_capacity(target + target / 4);
        let mut count = 0;
        while piece.len() < target {
            let mut head = [0; HEAD];
            match self.file.read_exact(&mut head) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(e),
            }
            let [l0, l1, l2, l3, s0, s1, s2, s3, changes @ ..] = head;
            let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            if aborted.contains(&u32::from_le_bytes([s0, s1, s2, s3])) {
                self.file.seek_relative(length as i64)?;
                continue;
            }
            let at = piece.len();
            piece.resize(at + length, 0);
            self.file.read_exact(&mut piece[at..])?;
            count += u64::from_le_bytes(changes);
        }
        Ok((!piece.is_empty()).then_some((piece, count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_any_size_are_whole_and_one_that_rests_has_no_buffer() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::create(&dir.path().join("t")).unwrap();
        let mut all = Vec::new();
        spill.add(1, &[], 1).unwrap();
        assert!(spill.is_empty());
        for (n, size) in [1, WRITE - HEAD, WRITE, 10, WRITE - 2 * HEAD - 10, 1, 3 * WRITE, 0, 5].into_iter().enumerate()
        {
            let run = vec![n as u8; size];
            spill.add(1, &run, 1).unwrap();
            all.extend(run);
            assert!(!spill.is_empty() && spill.buffer.capacity() <= WRITE);
            if n % 3 == 2 {
                spill.rest().unwrap();
                assert_eq!(spill.buffer.capacity(), 0);
            }
        }
        let mut reader = spill.into_reader().unwrap();
        assert_eq!(reader.next_piece(1 << 20, &HashSet::new()).unwrap(), Some((all, 8)));
    }

    #[test]
    fn runs_come_back_without_the_aborted_ones_and_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/t");
        let mut spill = Spill::create(&path).unwrap();
        for (sub, text) in [(1, "aa"), (2, "bb"), (1, "cc"), (3, "dd")] {
            spill.add(sub, text.as_bytes(), 1).unwrap();
        }
        let mut reader = spill.into_reader().unwrap();
        let aborted = HashSet::from([2]);
        assert_eq!(reader.next_piece(3, &aborted).unwrap(), Some((b"aacc".to_vec(), 2)));
        assert_eq!(reader.next_piece(3, &aborted).unwrap(), Some((b"dd".to_vec(), 1)));
        assert_eq!(reader.next_piece(3, &aborted).unwrap(), None);
        assert!(path.exists());
        drop(reader);
        assert!(!path.exists());
    }
}
