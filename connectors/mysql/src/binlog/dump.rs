//! The transport of the binary log: a session that has been turned into a dump, and what then arrives.
//!
//! Guarantees: reading is cancel safe, what was read stays in the buffer; memory holds one packet (16 MiB) or one event of rows, whichever is larger, for compressed
//! transactions that are larger go to a file; what is not asked for stays in the socket, so the server waits; there is no connecting again.
//!
//! Protocol: MySQL's "Client/Server Protocol" (COM_REGISTER_SLAVE, COM_BINLOG_DUMP). Why not the client library: docs/decisions/0008-binlog-transport.md.

use super::bytes::{Fields, little};
use super::event::{CHECKSUM, HEAD, Head, kind};
use crate::wire::{Stream, Wire};
use bytes::{Buf, Bytes, BytesMut};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Room kept for one read; a read takes as many packets as are there.
const READ_ROOM: usize = 256 << 10;
/// Length of a packet that another one continues.
const FULL: usize = 0xff_ffff;

/// Why the dump ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server closed the connection")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server's own words.
    #[error("{message} (error {number})")]
    Server { number: u16, message: String },
    #[error("{0}")]
    Protocol(&'static str),
    /// The file that a compressed transaction goes to.
    #[error("cannot write {0}")]
    Spill(PathBuf, #[source] io::Error),
}

/// Many whole events in one shared buffer.
#[derive(Debug, Clone)]
pub struct Block {
    bytes: Bytes,
}

impl Block {
    /// The event whose packet begins at an offset, and the offset of the next one; `None` at the end. The packet's status byte is looked at here.
    pub fn event_at(&self, at: usize) -> Result<Option<(&[u8], usize)>, Error> {
        let Some(rest) = self.bytes.get(at..).filter(|r| !r.is_empty()) else { return Ok(None) };
        let length = packet_length(rest).ok_or(Error::Protocol("a packet without a head"))?;
        let payload = rest.get(4..4 + length).ok_or(Error::Protocol("a packet that ends early"))?;
        Ok(Some((event(payload)?, at + 4 + length)))
    }
}

/// The event in a packet of a dump, or what the server says instead.
fn event(payload: &[u8]) -> Result<&[u8], Error> {
    match payload.split_first() {
        Some((0, event)) => Ok(event),
        Some((0xff, _)) => Err(refusal(payload)),
        Some((0xfe, _)) => Err(Error::Closed),
        _ => Err(Error::Protocol("a packet that is no event")),
    }
}

/// An event longer than a packet.
#[derive(Debug)]
pub enum Large {
    Memory(Vec<u8>),
    /// A compressed transaction: the file has the body without checksum, read from its beginning.
    File {
        head: Head,
        file: File,
        expected: u32,
        found: u32,
    },
}

/// What a read brought.
#[derive(Debug)]
pub enum Arrived {
    Block(Block),
    Large(Large),
}

/// An event of several packets that is on its way.
struct Parts {
    /// Bytes of the packet that we are in which have not come yet.
    left: usize,
    /// No packet follows it.
    last: bool,
    taken: usize,
    memory: Vec<u8>,
    file: Option<(Head, File, PathBuf)>,
    hasher: crc32fast::Hasher,
    sum: Vec<u8>,
}

/// A session that gives the binary log.
pub struct Dump {
    stream: Pin<Box<dyn Stream>>,
    input: BytesMut,
    parts: Option<Parts>,
    spill: PathBuf,
    spilled: u64,
}

fn packet_length(bytes: &[u8]) -> Option<usize> {
    Some(little(bytes.get(..4)?.get(..3)?) as usize)
}

/// An error packet.
fn refusal(payload: &[u8]) -> Error {
    let mut f = Fields(payload.get(1..).unwrap_or_default());
    let number = f.u16().unwrap_or(0);
    let text = if f.0.first() == Some(&b'#') { f.0.get(6..).unwrap_or_default() } else { f.0 };
    Error::Server { number, message: String::from_utf8_lossy(text).into_owned() }
}

impl Dump {
    /// Asks for all events from a place on, as a replica of this number. An offset beyond 4 GiB cannot be asked for. What refuses it (a file that
    /// is gone) comes as the first packet. `spill` is the folder for what does not fit into memory.
    pub async fn begin(session: Wire, server_id: u32, file: &str, offset: u32, spill: &Path) -> Result<Dump, Error> {
        let (stream, input) = session.into_parts();
        let mut dump = Dump { stream, input, parts: None, spill: spill.to_owned(), spilled: 0 };
        let mut body = vec![0x15];
        body.extend_from_slice(&server_id.to_le_bytes());
        // No host, user, password, port; no rank; no source.
        body.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
        dump.command(&body).await?;
        let reply = dump.packet().await?;
        match reply.first() {
            Some(0) => {}
            Some(0xff) => return Err(refusal(&reply)),
            _ => return Err(Error::Protocol("no answer to the registration as a replica")),
        }
        let mut body = vec![0x12];
        body.extend_from_slice(&offset.to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        body.extend_from_slice(&server_id.to_le_bytes());
        body.extend_from_slice(file.as_bytes());
        dump.command(&body).await?;
        Ok(dump)
    }

    /// A dump that has begun already.
    #[cfg(test)]
    pub(crate) fn over(stream: Pin<Box<dyn Stream>>, spill: &Path) -> Dump {
        Dump { stream, input: BytesMut::new(), parts: None, spill: spill.to_owned(), spilled: 0 }
    }

    async fn command(&mut self, payload: &[u8]) -> Result<(), Error> {
        let head = (payload.len() as u32).to_le_bytes();
        self.stream.write_all(&[&head, payload].concat()).await?;
        Ok(self.stream.flush().await?)
    }

    async fn packet(&mut self) -> Result<Bytes, Error> {
        loop {
            if let Some(length) = packet_length(&self.input)
                && self.input.len() >= 4 + length
            {
                let mut packet = self.input.split_to(4 + length).freeze();
                packet.advance(4);
                return Ok(packet);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        if self.input.capacity() - self.input.len() < READ_ROOM / 4 {
            self.input.reserve(READ_ROOM);
        }
        if self.stream.read_buf(&mut self.input).await? == 0 { Err(Error::Closed) } else { Ok(()) }
    }

    /// What comes next: as many whole events as one read brought, or one that is longer than a packet. Cancel safe.
    pub async fn next(&mut self) -> Result<Arrived, Error> {
        loop {
            if self.parts.is_some() {
                if let Some(large) = self.more_parts()? {
                    return Ok(Arrived::Large(large));
                }
            } else {
                let mut whole = 0;
                let mut needed = 0;
                while let Some(length) = packet_length(&self.input[whole..]) {
                    if length == FULL && whole == 0 {
                        self.begin_parts();
                        break;
                    }
                    if length == FULL || self.input.len() - whole < 4 + length {
                        needed = 4 + length;
                        break;
                    }
                    whole += 4 + length;
                }
                if whole > 0 {
                    return Ok(Arrived::Block(Block { bytes: self.input.split_to(whole).freeze() }));
                }
                if self.parts.is_some() {
                    continue;
                }
                // One packet of known size: room for it at once, not bit by bit.
                self.input.reserve(needed.saturating_sub(self.input.len()));
            }
            self.fill().await?;
        }
    }

    fn begin_parts(&mut self) {
        self.input.advance(4);
        self.parts = Some(Parts {
            left: FULL,
            last: false,
            taken: 0,
            memory: Vec::new(),
            file: None,
            hasher: crc32fast::Hasher::new(),
            sum: Vec::new(),
        });
    }

    /// Takes what has come of a long event; gives it when it is whole.
    fn more_parts(&mut self) -> Result<Option<Large>, Error> {
        let Some(mut parts) = self.parts.take() else { return Ok(None) };
        loop {
            if parts.left == 0 && !parts.last {
                // The head of the next packet.
                let Some(length) = packet_length(&self.input) else { break };
                self.input.advance(4);
                parts.left = length;
                parts.last = length < FULL;
            }
            let here = parts.left.min(self.input.len());
            if parts.taken == 0 && self.input.len() < (1 + HEAD).min(parts.left) {
                break;
            }
            let mut bytes = &self.input[..here];
            if parts.taken == 0 {
                let inside = event(bytes)?;
                if let Some(head) = Head::parse(inside)
                    && head.kind == kind::TRANSACTION_PAYLOAD
                {
                    self.spilled += 1;
                    let path = self.spill.join(format!("compressed-{}", self.spilled));
                    parts.file = Some((head, new_file(&path).map_err(|e| Error::Spill(path.clone(), e))?, path));
                    parts.hasher.update(&inside[..HEAD]);
                    bytes = &inside[HEAD..];
                } else {
                    bytes = inside;
                }
            }
            parts.take(bytes)?;
            parts.taken += here;
            parts.left -= here;
            self.input.advance(here);
            if parts.last && parts.left == 0 {
                return parts.finish().map(Some);
            }
            if parts.left > 0 {
                break;
            }
        }
        self.parts = Some(parts);
        Ok(None)
    }
}

/// A file without a name: it goes with its handle.
fn new_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

impl Parts {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((_, file, path)) = &mut self.file else {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        };
        // The last four bytes may be the checksum: they wait in `sum`.
        let free = (self.sum.len() + bytes.len()).saturating_sub(CHECKSUM);
        let (of_sum, of_bytes) = (free.min(self.sum.len()), free.saturating_sub(self.sum.len()));
        for part in [&self.sum[..of_sum], &bytes[..of_bytes]] {
            self.hasher.update(part);
            file.write_all(part).map_err(|e| Error::Spill(path.clone(), e))?;
        }
        self.sum.drain(..of_sum);
        self.sum.extend_from_slice(&bytes[of_bytes..]);
        Ok(())
    }

    fn finish(mut self) -> Result<Large, Error> {
        let Some((head, mut file, path)) = self.file else { return Ok(Large::Memory(self.memory)) };
        file.rewind().map_err(|e| Error::Spill(path, e))?;
        self.sum.resize(CHECKSUM, 0);
        let found = u32::from_le_bytes([self.sum[0], self.sum[1], self.sum[2], self.sum[3]]);
        Ok(Large::File { head, file, expected: self.hasher.finalize(), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(spill: &Path) -> Dump {
        Dump::over(Box::pin(io::Cursor::new(Vec::new())), spill)
    }

    fn packets(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = payload;
        loop {
            let (part, after) = rest.split_at(rest.len().min(FULL));
            out.extend_from_slice(&(part.len() as u32).to_le_bytes());
            out.extend_from_slice(part);
            rest = after;
            if part.len() < FULL {
                return out;
            }
        }
    }

    fn large(kind: u8, body: usize) -> Vec<u8> {
        let mut event = vec![0u8; HEAD];
        event[4] = kind;
        event.extend((0..body).map(|i| (i * 7) as u8));
        let length = (event.len() + CHECKSUM) as u32;
        event[9..13].copy_from_slice(&length.to_le_bytes());
        let sum = crc32fast::hash(&event);
        event.extend_from_slice(&sum.to_le_bytes());
        event
    }

    /// Feeds `bytes` in pieces of `step` and gives what arrives.
    fn fed(bytes: &[u8], step: usize) -> Vec<Arrived> {
        let dir = tempfile::tempdir().unwrap();
        let mut dump = dump(dir.path());
        let mut arrived = Vec::new();
        for piece in bytes.chunks(step) {
            dump.input.extend_from_slice(piece);
            while let Some(Ok(one)) = futures::FutureExt::now_or_never(async {
                match dump.next().await {
                    Err(Error::Closed) => std::future::pending().await,
                    other => other,
                }
            }) {
                arrived.push(one);
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        arrived
    }

    #[test]
    fn long_events_come_whole_however_they_are_cut() {
        for extra in [0, CHECKSUM, 70_000] {
            // Exactly full packets are followed by an empty one.
            let body = FULL - 1 - HEAD - CHECKSUM + extra;
            for kind in [kind::WRITE_ROWS, kind::TRANSACTION_PAYLOAD] {
                let event = large(kind, body);
                let mut bytes = packets(&[&[0], &event[..]].concat());
                bytes.extend(packets(&[0, 1, 2]));
                for step in [bytes.len(), 1_048_577] {
                    let arrived = fed(&bytes, step);
                    assert_eq!(arrived.len(), 2);
                    match &arrived[0] {
                        Arrived::Large(Large::Memory(memory)) => assert!(kind == kind::WRITE_ROWS && *memory == event),
                        Arrived::Large(Large::File { head, file, expected, found }) => {
                            assert_eq!((head.kind, head.length as usize), (kind, event.len()));
                            assert_eq!(expected, found);
                            let mut body = Vec::new();
                            io::Read::read_to_end(&mut &*file, &mut body).unwrap();
                            assert!(body == event[HEAD..event.len() - CHECKSUM]);
                        }
                        Arrived::Block(_) => panic!("a block"),
                    }
                    let Arrived::Block(block) = &arrived[1] else { panic!("no block") };
                    assert_eq!(block.event_at(0).unwrap(), Some((&[1u8, 2][..], 7)));
                }
            }
        }
    }

    #[test]
    fn blocks_hold_whole_events_and_errors_are_the_servers() {
        let mut bytes = packets(&[0, 1]);
        bytes.extend(packets(b"\xff\xd4\x04#HY000Could not find first log file"));
        let arrived = fed(&bytes, 3);
        let Arrived::Block(first) = &arrived[0] else { panic!() };
        assert_eq!(first.event_at(0).unwrap(), Some((&[1u8][..], 6)));
        assert!(first.event_at(6).unwrap().is_none());
        let Arrived::Block(second) = &arrived[1] else { panic!() };
        let error = second.event_at(0).unwrap_err();
        assert!(matches!(error, Error::Server { number: 1236, .. }), "{error}");
        assert_eq!(error.to_string(), "Could not find first log file (error 1236)");
    }
}
