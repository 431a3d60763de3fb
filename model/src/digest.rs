//! Digests of sets of rows, for comparing two databases. A digest is order-free: equal sets of rows have equal digests
//! whatever order they are read in. Rows are spread over buckets by their key, so that a difference can be drilled down to
//! a few keys by one more pass that keeps only the differing buckets.
//!
//! A difference is missed with a probability of about 2⁻¹²⁸ for each pair of buckets: the sum of 128-bit xxh3 hashes.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Buckets of a table's digest.
pub const BUCKETS: usize = 1024;

/// Count and sum of the rows of one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    pub sum: u128,
}

/// The digest of a set of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    pub buckets: Vec<Sum>,
}

impl Default for Digest {
    fn default() -> Self {
        Digest { buckets: vec![Sum::default(); BUCKETS] }
    }
}

/// Hash of a row's canonical bytes.
pub fn row_hash(row: &[u8]) -> u128 {
    xxh3_128(row)
}

/// The bucket of a key (of the whole row, for tables without a key).
pub fn bucket(key: &[u8]) -> usize {
    (xxh3_64(key) as usize) % BUCKETS
}

impl Digest {
    /// Adds a row.
    pub fn add(&mut self, key: &[u8], row: &[u8]) {
        let sum = &mut self.buckets[bucket(key)];
        sum.rows += 1;
        sum.sum = sum.sum.wrapping_add(row_hash(row));
    }
    /// Adds another set of rows.
    pub fn merge(&mut self, other: &Digest) {
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            a.rows += b.rows;
            a.sum = a.sum.wrapping_add(b.sum);
        }
    }
    pub fn rows(&self) -> u64 {
        self.buckets.iter().map(|b| b.rows).sum()
    }
    /// Buckets that differ.
    pub fn differing(&self, other: &Digest) -> Vec<usize> {
        (0..BUCKETS).filter(|&i| self.buckets[i] != other.buckets[i]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_duplicates_count() {
        let (mut a, mut b) = (Digest::default(), Digest::default());
        a.add(b"1", b"1x");
        a.add(b"2", b"2y");
        b.add(b"2", b"2y");
        b.add(b"1", b"1x");
        assert_eq!(a, b);
        b.add(b"1", b"1x");
        assert_eq!(a.differing(&b), vec![bucket(b"1")]);
    }
}
