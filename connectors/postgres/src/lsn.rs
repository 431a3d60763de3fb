//! A place in PostgreSQL's write-ahead log.
//!
//! Guarantee: the text form is the server's own (`X/Y`, both halves hexadecimal), and order is the log's order.

use std::fmt;
use std::str::FromStr;

/// A log sequence number: the byte position in the write-ahead log (manual, "pg_lsn Type"). Zero is never a real place;
/// the server reads it as "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// "None": the server begins where the slot stands, and leaves a slot where it is.
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no log sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log sequence number of the form X/Y")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let half = |s: &str| match s.len() {
            1..=8 if s.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(s, 16).ok(),
            _ => None,
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?))))
            .ok_or_else(|| BadLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/15D68C8"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("1/2".parse(), Ok(Lsn(0x1_0000_0002)));
        for bad in ["", "/", "1", "1/", "/1", "+1/2", "1/2/3", "123456789/0", "g/0", " 1/2"] {
            assert_eq!(bad.parse::<Lsn>(), Err(BadLsn(bad.to_owned())));
        }
    }
}
