//! Goes through blocks of encoded rows in place and sums up, keeps or finds what a pass looks for. Nothing is allocated for a row: keys
//! are slices of the row where they lead it, else gathered into one buffer that is used again.

use bytes::Bytes;
use drover_connectors_api::RowSink;
use drover_model::digest::{BUCKETS, Digest, Sum, bucket, row_hash};
use drover_model::row::take_cell;
use drover_model::{Error, Result, TablePlan};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_128;

/// Parts into which the differing buckets are split further when they hold too many rows for one pass.
pub const FINE: usize = 1 << 16;

/// Where a row's key lies.
#[derive(Debug, Clone)]
enum Place {
    /// No key: the whole row.
    Whole,
    /// The first so many cells, in order.
    Leading(usize),
    /// These cells.
    Gather(Vec<u16>),
}

/// Splits blocks into rows and their keys.
#[derive(Debug, Clone)]
pub struct Scanner {
    columns: usize,
    place: Place,
    cells: Vec<(usize, usize)>,
    gathered: Vec<u8>,
}

impl Scanner {
    pub fn new(plan: &TablePlan) -> Self {
        let place = if plan.key.is_empty() {
            Place::Whole
        } else if plan.key.iter().enumerate().all(|(i, &k)| i == usize::from(k)) {
            Place::Leading(plan.key.len())
        } else {
            Place::Gather(plan.key.clone())
        };
        Scanner { columns: plan.columns.len(), place, cells: Vec::new(), gathered: Vec::new() }
    }

    /// Calls `each` with key and row. Errors when the block is not exactly `rows` rows.
    pub fn scan(&mut self, rows: usize, block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let malformed = || Error::internal("a block for comparison does not hold the rows that it should");
        let mut rest = block;
        for _ in 0..rows {
            let start = rest;
            let mut skip = |cells: usize| -> Result<usize> {
                for _ in 0..cells {
                    take_cell(&mut rest).ok_or_else(malformed)?;
                }
                Ok(start.len() - rest.len())
            };
            match &self.place {
                Place::Whole => {
                    let row = &start[..skip(self.columns)?];
                    each(row, row);
                }
                Place::Leading(key) => {
                    let key_end = skip(*key)?;
                    let end = skip(self.columns - key)?;
                    each(&start[..key_end], &start[..end]);
                }
                Place::Gather(key) => {
                    self.cells.clear();
                    let mut end = 0;
                    for _ in 0..self.columns {
                        let from = end;
                        end = skip(1)?;
                        self.cells.push((from, end));
                    }
                    self.gathered.clear();
                    for &k in key {
                        let (from, to) = *self.cells.get(usize::from(k)).ok_or_else(malformed)?;
                        self.gathered.extend_from_slice(&start[from..to]);
                    }
                    each(&self.gathered, &start[..end]);
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(malformed()) }
    }
}

/// What keys are told apart by.
pub fn key_hash(key: &[u8]) -> u128 {
    xxh3_128(key)
}

/// The finer part of a key; independent of its bucket.
fn fine(hash: u128) -> usize {
    (hash >> 64) as usize % FINE
}

/// First pass: the digest of a table.
pub struct Summing {
    pub scanner: Scanner,
    pub digest: Digest,
    pub key_bytes: u64,
    pub rows: Arc<AtomicU64>,
}

impl RowSink for Summing {
    fn block(&mut self, rows: usize, cells: Bytes) -> Result<()> {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        let Summing { scanner, digest, key_bytes, .. } = self;
        scanner.scan(rows, &cells, |key, row| {
            *key_bytes += key.len() as u64;
            digest.add(key, row);
        })
    }
}

/// The part of a table that a pass looks at.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// By bucket.
    pub coarse: Vec<bool>,
    /// And by finer part.
    pub fine: Option<Vec<bool>>,
}

impl Wanted {
    pub fn buckets(of: &[usize]) -> Self {
        let mut coarse = vec![false; BUCKETS];
        for &b in of {
            coarse[b] = true;
        }
        Wanted { coarse, fine: None }
    }
    pub fn with_fine(&self, of: &[usize]) -> Self {
        let mut parts = vec![false; FINE];
        for &p in of {
            parts[p] = true;
        }
        Wanted { coarse: self.coarse.clone(), fine: Some(parts) }
    }
}

/// The pass between: a finer digest of the wanted buckets.
pub struct Refining {
    pub scanner: Scanner,
    pub wanted: Arc<Wanted>,
    pub parts: Vec<Sum>,
    pub rows: Arc<AtomicU64>,
}

impl RowSink for Refining {
    fn block(&mut self, rows: usize, cells: Bytes) -> Result<()> {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        let Refining { scanner, wanted, parts, .. } = self;
        scanner.scan(rows, &cells, |key, row| {
            if wanted.coarse[bucket(key)] {
                add(&mut parts[fine(key_hash(key))], row);
            }
        })
    }
}

/// Adds a row to a sum.
pub fn add(sum: &mut Sum, row: &[u8]) {
    sum.rows += 1;
    sum.sum = sum.sum.wrapping_add(row_hash(row));
}

/// One kept row.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u128,
    row: u128,
    at: usize,
    len: u32,
}

/// Bytes that a kept row takes apart from its key.
pub const ENTRY: usize = size_of::<Entry>();

/// Second pass: keys and row hashes of the wanted part.
pub struct Keeping {
    pub scanner: Scanner,
    pub wanted: Arc<Wanted>,
    /// Keep the bytes of keys as well; without a key they are the whole row, and looked up later for the few that matter.
    keep_keys: bool,
    entries: Vec<Entry>,
    keys: Vec<u8>,
    pub rows: Arc<AtomicU64>,
}

impl Keeping {
    pub fn new(plan: &TablePlan, wanted: Arc<Wanted>, rows: Arc<AtomicU64>) -> Self {
        Keeping {
            scanner: Scanner::new(plan),
            wanted,
            keep_keys: !plan.key.is_empty(),
            entries: Vec::new(),
            keys: Vec::new(),
            rows,
        }
    }
    fn key(&self, entry: &Entry) -> Bytes {
        Bytes::copy_from_slice(&self.keys[entry.at..entry.at + entry.len as usize])
    }
}

impl RowSink for Keeping {
    fn block(&mut self, rows: usize, cells: Bytes) -> Result<()> {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        let Keeping { scanner, wanted, keep_keys, entries, keys, .. } = self;
        scanner.scan(rows, &cells, |key, row| {
            if !wanted.coarse[bucket(key)] {
                return;
            }
            let hash = key_hash(key);
            if wanted.fine.as_ref().is_some_and(|parts| !parts[fine(hash)]) {
                return;
            }
            let (at, len) = (keys.len(), if *keep_keys { key.len() as u32 } else { 0 });
            if *keep_keys {
                keys.extend_from_slice(key);
            }
            entries.push(Entry { key: hash, row: row_hash(row), at, len });
        })
    }
}

/// A key whose rows differed between two views that may be of different times.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub hash: u128,
    /// Its cells; empty for tables without a key.
    pub key: Bytes,
}

/// The keys whose rows are not the same in both.
pub fn candidates(mut a: Keeping, mut b: Keeping) -> Vec<Candidate> {
    a.entries.sort_unstable_by_key(|e| e.key);
    b.entries.sort_unstable_by_key(|e| e.key);
    let run = |entries: &[Entry], from: &mut usize, hash: u128| {
        let mut sum = Sum::default();
        while let Some(entry) = entries.get(*from).filter(|e| e.key == hash) {
            sum.rows += 1;
            sum.sum = sum.sum.wrapping_add(entry.row);
            *from += 1;
        }
        sum
    };
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while let Some(hash) = match (a.entries.get(i), b.entries.get(j)) {
        (Some(x), Some(y)) => Some(x.key.min(y.key)),
        (x, y) => x.or(y).map(|e| e.key),
    } {
        let (from_a, from_b) = (i, j);
        if run(&a.entries, &mut i, hash) != run(&b.entries, &mut j, hash) {
            let key = if i > from_a { a.key(&a.entries[from_a]) } else { b.key(&b.entries[from_b]) };
            out.push(Candidate { hash, key });
        }
    }
    out
}

/// Reading again: the sum of the rows of each looked-for key.
pub struct Finding<'a> {
    pub scanner: Scanner,
    /// Place in `sums` by key hash.
    pub places: &'a HashMap<u128, usize>,
    pub sums: &'a mut [Sum],
    /// Called with the first row found of each key.
    pub first: &'a mut (dyn FnMut(u128, &[u8]) + Send),
}

impl RowSink for Finding<'_> {
    fn block(&mut self, rows: usize, cells: Bytes) -> Result<()> {
        let Finding { scanner, places, sums, first } = self;
        scanner.scan(rows, &cells, |key, row| {
            let hash = key_hash(key);
            if let Some(&place) = places.get(&hash) {
                if sums[place].rows == 0 {
                    first(hash, row);
                }
                add(&mut sums[place], row);
            }
        })
    }
}
