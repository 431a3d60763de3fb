//! Reading the parts of a message, each checked against what is left.
//!
//! Guarantee: no read beyond the end, no panic; a failure knows its offset.

use super::view::{Columns, Oids, Tuple};
use super::{DecodeError, DecodeErrorKind as Kind, EPOCH_SHIFT_MICROS, Old, Relation, ReplicaIdentity};
use crate::lsn::Lsn;

pub(super) struct Reader<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
}

type Result<T> = std::result::Result<T, DecodeError>;

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn new(whole: &'a [u8]) -> Self {
        Reader { whole, rest: whole }
    }

    #[inline]
    pub(super) fn offset(&self) -> usize {
        self.whole.len() - self.rest.len()
    }

    #[cold]
    fn fail<T>(&self, kind: Kind) -> Result<T> {
        Err(DecodeError { offset: self.offset(), kind })
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => self.fail(Kind::Short { needed: length, left: self.rest.len() }),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => self.fail(Kind::Short { needed: N, left: self.rest.len() }),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A length or count of 32 bits.
    #[inline]
    pub(super) fn length(&mut self) -> Result<usize> {
        let at = self.offset();
        let value = self.array().map(i32::from_be_bytes)?;
        usize::try_from(value).map_err(|_| DecodeError { offset: at, kind: Kind::Negative(value) })
    }

    /// A count of columns, 16 bits.
    #[inline]
    fn count(&mut self) -> Result<u16> {
        let at = self.offset();
        let value = self.i16()?;
        u16::try_from(value).map_err(|_| DecodeError { offset: at, kind: Kind::Negative(value.into()) })
    }

    #[inline]
    pub(super) fn lsn(&mut self) -> Result<Lsn> {
        self.array().map(u64::from_be_bytes).map(Lsn)
    }

    #[inline]
    pub(super) fn time(&mut self) -> Result<i64> {
        self.array().map(|bytes| i64::from_be_bytes(bytes).saturating_add(EPOCH_SHIFT_MICROS))
    }

    pub(super) fn flags(&mut self, known: u8) -> Result<u8> {
        let at = self.offset();
        let flags = self.u8()?;
        if flags & !known != 0 {
            return Err(DecodeError { offset: at, kind: Kind::UnknownFlags(flags) });
        }
        Ok(flags)
    }

    #[inline]
    pub(super) fn xid(&mut self, in_stream: bool) -> Result<Option<u32>> {
        if in_stream { self.u32().map(Some) } else { Ok(None) }
    }

    pub(super) fn text(&mut self) -> Result<&'a str> {
        let Some(end) = self.rest.iter().position(|&b| b == 0) else { return self.fail(Kind::Unterminated) };
        let Ok(text) = std::str::from_utf8(&self.rest[..end]) else { return self.fail(Kind::NotUtf8) };
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    #[inline]
    pub(super) fn expect_tuple(&mut self, kind: u8) -> Result<()> {
        let at = self.offset();
        match self.u8()? {
            found if found == kind => Ok(()),
            found => Err(DecodeError { offset: at, kind: Kind::UnexpectedTuple(found) }),
        }
    }

    /// The old tuple whose kind has just been read at `at`.
    #[inline]
    pub(super) fn old(&mut self, kind: u8, at: usize) -> Result<Old<'a>> {
        match kind {
            b'K' => self.tuple().map(Old::Key),
            b'O' => self.tuple().map(Old::Full),
            other => Err(DecodeError { offset: at, kind: Kind::UnexpectedTuple(other) }),
        }
    }

    #[inline]
    pub(super) fn tuple(&mut self) -> Result<Tuple<'a>> {
        let columns = self.count()?;
        let start = self.rest;
        for _ in 0..columns {
            let at = self.offset();
            match self.u8()? {
                b't' | b'b' => {
                    let length = self.length()?;
                    self.take(length)?;
                }
                b'n' | b'u' => {}
                other => return Err(DecodeError { offset: at, kind: Kind::UnknownValue(other) }),
            }
        }
        Ok(Tuple { data: &start[..start.len() - self.rest.len()], columns })
    }

    pub(super) fn relation(&mut self, in_stream: bool) -> Result<Relation<'a>> {
        let (xid, oid) = (self.xid(in_stream)?, self.u32()?);
        let (namespace, name) = (self.text()?, self.text()?);
        let at = self.offset();
        let replica_identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => return Err(DecodeError { offset: at, kind: Kind::UnknownIdentity(other) }),
        };
        let count = self.count()?;
        let start = self.rest;
        for _ in 0..count {
            self.flags(1)?;
            self.text()?;
            self.take(8)?;
        }
        let columns = Columns { data: &start[..start.len() - self.rest.len()], count };
        Ok(Relation { xid, oid, namespace, name, replica_identity, columns })
    }

    pub(super) fn oids(&mut self, count: usize) -> Result<Oids<'a>> {
        // A count whose bytes cannot be counted is surely longer than the message.
        self.take(count.saturating_mul(4)).map(|data| Oids { data })
    }

    #[inline]
    pub(super) fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { self.fail(Kind::Trailing(self.rest.len())) }
    }
}
