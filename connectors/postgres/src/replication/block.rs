//! Many messages of the stream in one shared buffer.
//!
//! Guarantee: a block holds whole messages only, checked once, in the order of the wire; walking it neither fails nor
//! allocates.

use bytes::Bytes;

use super::Error;
use super::wire::first;
use crate::lsn::Lsn;
use crate::pgoutput::EPOCH_SHIFT_MICROS;

/// One message of the stream. Times are microseconds since the Unix epoch, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the plug-in: see [`crate::pgoutput::decode`].
    Data {
        /// Where the record lies that it stems from (zero for some).
        start: Lsn,
        /// How far the server has sent or read when it sent it.
        wal_end: Lsn,
        server_time: i64,
        bytes: &'a [u8],
    },
    /// A sign of life. All that commits at or before `wal_end` came before it. A requested reply is already on its way.
    Keepalive { wal_end: Lsn, server_time: i64, reply_requested: bool },
}

/// What one read brought.
#[derive(Clone, Debug)]
pub struct Block {
    bytes: Bytes,
}

impl Block {
    pub(super) fn new(bytes: Bytes) -> Self {
        Block { bytes }
    }

    /// The messages in order.
    pub fn frames(&self) -> Frames<'_> {
        Frames { rest: &self.bytes }
    }

    /// The messages from an offset on that [`Frames::offset`] gave.
    pub fn frames_at(&self, offset: usize) -> Frames<'_> {
        Frames { rest: self.bytes.get(offset..).unwrap_or_default() }
    }

    /// Bytes on the wire, the messages' heads included.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Holds a part of a message beyond the block's borrow, without a copy. It keeps the whole block's memory: copy
    /// what shall be kept for long. `part` must lie within this block (it panics otherwise).
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }
}

/// Walks a [`Block`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

fn u64_at(body: &[u8], at: usize) -> Option<u64> {
    body.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

fn time_at(body: &[u8], at: usize) -> Option<i64> {
    u64_at(body, at).map(|time| (time as i64).saturating_add(EPOCH_SHIFT_MICROS))
}

/// A frame from the body of a CopyData message; none where it is malformed.
#[inline]
fn frame(body: &[u8]) -> Option<Frame<'_>> {
    match body.first()? {
        b'w' => Some(Frame::Data {
            start: Lsn(u64_at(body, 1)?),
            wal_end: Lsn(u64_at(body, 9)?),
            server_time: time_at(body, 17)?,
            bytes: body.get(25..)?,
        }),
        b'k' => Some(Frame::Keepalive {
            wal_end: Lsn(u64_at(body, 1)?),
            server_time: time_at(body, 9)?,
            reply_requested: *body.get(17)? != 0,
        }),
        _ => None,
    }
}

impl Frames<'_> {
    /// Where in its block the next message begins, for going on later.
    pub fn offset(&self, block: &Block) -> usize {
        block.bytes.len().saturating_sub(self.rest.len())
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        loop {
            let (tag, length) = first(self.rest).ok()??;
            let (message, rest) = self.rest.split_at_checked(length)?;
            self.rest = rest;
            if tag == b'd' {
                return frame(&message[5..]);
            }
        }
    }
}

/// What is at the head of the read buffer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scan {
    /// Bytes of whole messages that belong into a block.
    pub(super) length: usize,
    /// The greatest place among them.
    pub(super) wal_end: Lsn,
    /// Whether one of them asks for a status.
    pub(super) reply_requested: bool,
    /// The kind of the whole message behind them that ends the stream.
    pub(super) terminal: Option<u8>,
}

/// Finds the whole messages at the head of `input` and checks their heads.
pub(super) fn scan(input: &[u8]) -> Result<Scan, Error> {
    let mut scan = Scan::default();
    // Notices before the first frame belong to no block of their own: a block has at least one frame.
    let mut length = 0;
    while let Some((tag, size)) = first(&input[length..])? {
        let Some(message) = input[length..].get(..size) else { break };
        match tag {
            b'd' => {
                let wal_end = match frame(&message[5..]) {
                    Some(Frame::Data { wal_end, .. }) => wal_end,
                    Some(Frame::Keepalive { wal_end, reply_requested, .. }) => {
                        scan.reply_requested |= reply_requested;
                        wal_end
                    }
                    None => return Err(Error::Protocol("an unreadable frame of the stream".into())),
                };
                scan.wal_end = scan.wal_end.max(wal_end);
                length += size;
                scan.length = length;
            }
            // Notice, parameter, notification.
            b'N' | b'S' | b'A' => length += size,
            _ => {
                scan.terminal = Some(tag);
                break;
            }
        }
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
        message(b'd', &[&b"k"[..], &wal_end.to_be_bytes(), &0i64.to_be_bytes(), &[reply]].concat())
    }

    fn data(wal_end: u64, bytes: &[u8]) -> Vec<u8> {
        message(b'd', &[&b"w"[..], &7u64.to_be_bytes(), &wal_end.to_be_bytes(), &0i64.to_be_bytes(), bytes].concat())
    }

    #[test]
    fn whole_messages_only_and_a_terminal_behind_them() {
        let all =
            [message(b'N', b"note\0"), data(9, b"xyz"), keepalive(12, 1), message(b'S', b"a\0b\0"), message(b'c', b"")]
                .concat();
        let whole = scan(&all).unwrap();
        assert_eq!((whole.wal_end, whole.reply_requested, whole.terminal), (Lsn(12), true, Some(b'c')));
        let block = Block::new(Bytes::copy_from_slice(&all[..whole.length]));
        let frames: Vec<_> = block.frames().collect();
        assert_eq!(
            frames,
            [
                Frame::Data { start: Lsn(7), wal_end: Lsn(9), server_time: EPOCH_SHIFT_MICROS, bytes: b"xyz" },
                Frame::Keepalive { wal_end: Lsn(12), server_time: EPOCH_SHIFT_MICROS, reply_requested: true },
            ]
        );
        let first_two = scan(&all[..whole.length - 1]).unwrap();
        assert_eq!((first_two.wal_end, first_two.reply_requested, first_two.terminal), (Lsn(9), false, None));
    }

    #[test]
    fn unreadable_frames_are_errors() {
        assert!(scan(&message(b'd', b"k123")).is_err());
        assert!(scan(&message(b'd', b"?")).is_err());
        assert!(scan(&[b'd', 0, 0, 0, 3]).is_err());
        assert!(scan(&[b'd', 0xff, 0, 0, 3]).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(scan) = scan(&bytes) {
                let block = Block::new(Bytes::copy_from_slice(&bytes[..scan.length]));
                prop_assert!(block.frames().count() <= scan.length / 5);
            }
        }
    }
}
