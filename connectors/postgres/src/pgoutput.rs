//! Decoder of the `pgoutput` plug-in's messages, protocol versions 1 and 2 (manual, "Logical Replication Message
//! Formats").
//!
//! Guarantee: a pure function from bytes to a message that borrows from them, without an allocation. Every byte is
//! accounted for: what is missing, unknown or left over is a [`DecodeError`] with its offset, never a panic and never a
//! guess. Lengths are checked once, while decoding; the views ([`Tuple`], [`Columns`], [`Oids`]) only walk what was
//! checked.
//!
//! Within a stream block (from [`Message::StreamStart`] to [`Message::StreamStop`]) most messages carry the id of the
//! (sub)transaction that they belong to, and nothing in the bytes says so: the caller does, or [`Decoder`] keeps count.

use std::fmt;

use crate::lsn::Lsn;

mod read;
#[cfg(test)]
mod tests;
mod view;

use read::Reader;
pub use view::{Column, ColumnIter, Columns, OidIter, Oids, Tuple, TupleIter, Value};

/// Microseconds from the Unix epoch to 2000-01-01 00:00 UTC, where the server's clock values begin.
pub(crate) const EPOCH_SHIFT_MICROS: i64 = 946_684_800_000_000;

/// What an UPDATE or DELETE says about the row before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Old<'a> {
    /// Nothing: an update that did not touch the replica identity.
    None,
    /// The columns of the replica identity; the others read as [`Value::Null`] *without being null*: only columns with
    /// [`Column::key`] say anything.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// How a table's rows are identified in the log (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// A unique index.
    Index,
}

/// A table as the following changes see it. Sent before its first change and after each change of its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relation<'a> {
    /// The (sub)transaction, within a stream block.
    pub xid: Option<u32>,
    /// `pg_class.oid`.
    pub oid: u32,
    /// The schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// The table.
    pub name: &'a str,
    /// The identity of its rows.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of the tuples' values.
    pub columns: Columns<'a>,
}

/// One message of the stream. Times are microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    /// A transaction begins; all of it follows, up to its `Commit`.
    Begin { final_lsn: Lsn, commit_time: i64, xid: u32 },
    /// It ends. `end_lsn` is the place to confirm and to resume at; `commit_lsn` is `Begin`'s `final_lsn`.
    Commit { flags: u8, commit_lsn: Lsn, end_lsn: Lsn, commit_time: i64 },
    /// The transaction was itself replicated to the source, from the named origin.
    Origin { lsn: Lsn, name: &'a str },
    /// A table's shape.
    Relation(Relation<'a>),
    /// A type that is not built in.
    Type { xid: Option<u32>, oid: u32, namespace: &'a str, name: &'a str },
    /// A new row.
    Insert { xid: Option<u32>, oid: u32, new: Tuple<'a> },
    /// A changed row.
    Update { xid: Option<u32>, oid: u32, old: Old<'a>, new: Tuple<'a> },
    /// A removed row; `old` is never [`Old::None`].
    Delete { xid: Option<u32>, oid: u32, old: Old<'a> },
    /// Tables emptied by one statement.
    Truncate { xid: Option<u32>, oids: Oids<'a>, cascade: bool, restart_identity: bool },
    /// `pg_logical_emit_message`. One that is not transactional stands outside of any transaction.
    Message { xid: Option<u32>, transactional: bool, lsn: Lsn, prefix: &'a str, content: &'a [u8] },
    /// A part of a transaction in progress follows; `first` at its first part.
    StreamStart { xid: u32, first: bool },
    /// The part ends.
    StreamStop,
    /// A streamed transaction commits.
    StreamCommit { xid: u32, flags: u8, commit_lsn: Lsn, end_lsn: Lsn, commit_time: i64 },
    /// A streamed transaction (`subxid == xid`) or one of its subtransactions is rolled back.
    StreamAbort { xid: u32, subxid: u32 },
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {kind}")]
pub struct DecodeError {
    /// Where, counted from the message's first byte.
    pub offset: usize,
    /// What.
    pub kind: DecodeErrorKind,
}

/// What is wrong at the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    /// The message ends too early.
    #[error("{needed} bytes are needed and {left} are left")]
    Short { needed: usize, left: usize },
    /// A text without its final zero.
    #[error("a text without an end")]
    Unterminated,
    /// A text that is not UTF-8, though the session asks for it.
    #[error("a name that is not UTF-8")]
    NotUtf8,
    /// A length or count below zero.
    #[error("a negative length {0}")]
    Negative(i32),
    /// An unknown kind of message.
    #[error("unknown message {}", Tag(*.0))]
    UnknownMessage(u8),
    /// Another kind of tuple than the message may have here.
    #[error("unexpected tuple {}", Tag(*.0))]
    UnexpectedTuple(u8),
    /// An unknown kind of value.
    #[error("unknown kind of value {}", Tag(*.0))]
    UnknownValue(u8),
    /// An unknown replica identity.
    #[error("unknown replica identity {}", Tag(*.0))]
    UnknownIdentity(u8),
    /// Bits that the protocol's versions 1 and 2 do not know.
    #[error("unknown flags {0:#x}")]
    UnknownFlags(u8),
    /// A message that cannot stand within a stream block, or only there.
    #[error("message {} {} a stream block", Tag(*.tag), if *.in_stream { "within" } else { "outside of" })]
    Misplaced { tag: u8, in_stream: bool },
    /// Bytes after the message's end.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
}

struct Tag(u8);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' ({:#04x})", self.0.escape_ascii(), self.0)
    }
}

/// Keeps whether the stream is within a block, and decodes accordingly. One for each `START_REPLICATION`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    in_stream: bool,
}

impl Decoder {
    /// Of a stream at its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next message stands within a stream block.
    pub fn in_stream(&self) -> bool {
        self.in_stream
    }

    /// Decodes the next message. An error leaves the state as it was.
    #[inline]
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, DecodeError> {
        let message = decode(bytes, self.in_stream)?;
        match message {
            Message::StreamStart { .. } => self.in_stream = true,
            Message::StreamStop => self.in_stream = false,
            _ => {}
        }
        Ok(message)
    }
}

/// Decodes one message; `in_stream` says whether it stands within a stream block. `bytes` is what a data frame carries,
/// from the kind's byte to the end.
#[inline]
pub fn decode(bytes: &[u8], in_stream: bool) -> Result<Message<'_>, DecodeError> {
    let mut r = Reader::new(bytes);
    let tag = r.u8()?;
    let misplaced = match tag {
        b'B' | b'C' | b'S' | b'c' | b'A' => in_stream,
        b'E' => !in_stream,
        _ => false,
    };
    if misplaced {
        return Err(DecodeError { offset: 0, kind: DecodeErrorKind::Misplaced { tag, in_stream } });
    }
    let message = match tag {
        b'I' => {
            let (xid, oid) = (r.xid(in_stream)?, r.u32()?);
            r.expect_tuple(b'N')?;
            Message::Insert { xid, oid, new: r.tuple()? }
        }
        b'U' => {
            let (xid, oid) = (r.xid(in_stream)?, r.u32()?);
            let at = r.offset();
            let old = match r.u8()? {
                b'N' => Old::None,
                kind => r.old(kind, at)?,
            };
            if old != Old::None {
                r.expect_tuple(b'N')?;
            }
            Message::Update { xid, oid, old, new: r.tuple()? }
        }
        b'D' => {
            let (xid, oid) = (r.xid(in_stream)?, r.u32()?);
            let at = r.offset();
            let kind = r.u8()?;
            Message::Delete { xid, oid, old: r.old(kind, at)? }
        }
        b'B' => Message::Begin { final_lsn: r.lsn()?, commit_time: r.time()?, xid: r.u32()? },
        b'C' => Message::Commit { flags: r.flags(0)?, commit_lsn: r.lsn()?, end_lsn: r.lsn()?, commit_time: r.time()? },
        b'O' => Message::Origin { lsn: r.lsn()?, name: r.text()? },
        b'R' => Message::Relation(r.relation(in_stream)?),
        b'Y' => Message::Type { xid: r.xid(in_stream)?, oid: r.u32()?, namespace: r.text()?, name: r.text()? },
        b'T' => {
            let xid = r.xid(in_stream)?;
            let count = r.length()?;
            let flags = r.flags(3)?;
            Message::Truncate { xid, oids: r.oids(count)?, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 }
        }
        b'M' => {
            let xid = r.xid(in_stream)?;
            let flags = r.flags(1)?;
            let (lsn, prefix) = (r.lsn()?, r.text()?);
            let length = r.length()?;
            Message::Message { xid, transactional: flags & 1 != 0, lsn, prefix, content: r.take(length)? }
        }
        b'S' => Message::StreamStart { xid: r.u32()?, first: r.flags(1)? == 1 },
        b'E' => Message::StreamStop,
        b'c' => Message::StreamCommit {
            xid: r.u32()?,
            flags: r.flags(0)?,
            commit_lsn: r.lsn()?,
            end_lsn: r.lsn()?,
            commit_time: r.time()?,
        },
        b'A' => Message::StreamAbort { xid: r.u32()?, subxid: r.u32()? },
        other => return Err(DecodeError { offset: 0, kind: DecodeErrorKind::UnknownMessage(other) }),
    };
    r.finish()?;
    Ok(message)
}
