//! A place in a source's log: an order key that the core compares and stores without knowing the database, and apart
//! from it what the connector resumes with. Byte order of the order key is log order; the connector encodes it so.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// A position. Everything that the source committed up to and including it is *behind* it: an interval of positions is
/// always `(from, to]`. Equality and order look at lineage and order key only; `resume` and `text` ride along.
#[derive(Clone, Serialize, Deserialize)]
pub struct Position {
    /// Raised when the identity check accepts a new server (new timeline, promoted replica).
    pub lineage: u32,
    /// Place in the log, big-endian or otherwise byte-comparable; one length for all positions of a source.
    pub order: Vec<u8>,
    /// What the connector resumes with; opaque.
    pub resume: Vec<u8>,
    /// The same for people, for example `0/16B3748`.
    pub text: String,
}

/// Bytes that are no encoded position.
#[derive(Debug, thiserror::Error)]
#[error("these {0} bytes are no encoded position")]
pub struct BadPosition(usize);

impl Position {
    /// Encodes all fields into one byte string (stored in progress rows and records).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.order.len() + self.resume.len() + self.text.len());
        out.extend_from_slice(&self.lineage.to_be_bytes());
        out.extend_from_slice(&(self.order.len() as u16).to_be_bytes());
        out.extend_from_slice(&self.order);
        out.extend_from_slice(&(self.resume.len() as u16).to_be_bytes());
        out.extend_from_slice(&self.resume);
        out.extend_from_slice(self.text.as_bytes());
        out
    }

    /// The reverse of [`Position::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadPosition> {
        let bad = || BadPosition(bytes.len());
        let (lineage, rest) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
        let (order_len, rest) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let (order, rest) = rest.split_at_checked(u16::from_be_bytes(*order_len) as usize).ok_or_else(bad)?;
        let (resume_len, rest) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let (resume, text) = rest.split_at_checked(u16::from_be_bytes(*resume_len) as usize).ok_or_else(bad)?;
        Ok(Position {
            lineage: u32::from_be_bytes(*lineage),
            order: order.to_vec(),
            resume: resume.to_vec(),
            text: std::str::from_utf8(text).map_err(|_| bad())?.to_owned(),
        })
    }
}

impl PartialEq for Position {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Position {}
impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.lineage, &self.order).cmp(&(other.lineage, &other.order))
    }
}
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.text, self.lineage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lineage: u32, place: u64) -> Position {
        Position { lineage, order: place.to_be_bytes().to_vec(), resume: vec![7], text: format!("{place}") }
    }

    #[test]
    fn order_is_lineage_then_place() {
        assert!(at(1, 5) < at(1, 6) && at(1, 300) < at(2, 1) && at(1, 255) < at(1, 256));
    }

    #[test]
    fn bytes_come_back() {
        let p = at(3, 77);
        let bytes = p.to_bytes();
        let q = Position::from_bytes(&bytes).unwrap();
        assert_eq!((q.lineage, q.order, q.resume, q.text), (p.lineage, p.order, p.resume, p.text));
        for cut in 0..6 {
            assert!(Position::from_bytes(&bytes[..cut]).is_err());
        }
    }
}
