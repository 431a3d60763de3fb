//! The connection below a dump of the binary log: login, the few statements ahead of it, and what then arrives.
//!
//! Guarantees: reading is cancel safe, what was read stays in the buffer; memory holds one packet (16 MiB) or one event of rows, whichever is larger, for compressed
//! transactions that are larger go to a file; what is not asked for stays in the socket, so the server waits.
//!
//! Protocol: MySQL's "Client/Server Protocol" (connection phase, COM_QUERY, COM_REGISTER_SLAVE, COM_BINLOG_DUMP). Methods of login are those that
//! the other sessions of drover have, too. Why not the client library: docs/decisions/0008-binlog-transport.md.

use super::bytes::{Fields, little};
use super::event::{CHECKSUM, HEAD, Head, kind};
use crate::connect::Settings;
use aws_lc_rs::digest;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use bytes::{Buf, Bytes, BytesMut};
use drover_model::migration::TlsMode;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Room kept for one read; a read takes as many packets as are there.
const READ_ROOM: usize = 256 << 10;
/// Length of a packet that another one continues.
const FULL: usize = 0xff_ffff;

mod capability {
    pub const LONG_PASSWORD: u32 = 1;
    pub const LONG_FLAG: u32 = 4;
    pub const PROTOCOL_41: u32 = 0x200;
    pub const SSL: u32 = 0x800;
    pub const TRANSACTIONS: u32 = 0x2000;
    pub const SECURE_CONNECTION: u32 = 0x8000;
    pub const PLUGIN_AUTH: u32 = 0x8_0000;
    pub const CONNECT_ATTRS: u32 = 0x10_0000;
    pub const LONG_AUTH_DATA: u32 = 0x20_0000;
}

/// Why the connection ended or never was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server closed the connection")]
    Closed,
    #[error("nobody answered in time")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server's own words.
    #[error("{message} (error {number})")]
    Server { number: u16, message: String },
    #[error("login: {0}")]
    Login(String),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("TLS: {0}")]
    Tls(String),
    /// The file that a compressed transaction goes to.
    #[error("cannot write {0}")]
    Spill(PathBuf, #[source] io::Error),
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Socket for T {}

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

/// A logged-in connection.
pub struct Wire {
    socket: Box<dyn Socket>,
    input: BytesMut,
    sequence: u8,
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

impl Wire {
    /// Connects, encrypts as asked and logs in as `program`. `spill` is the folder for what does not fit into memory.
    pub async fn connect(settings: &Settings, program: &str, spill: &Path) -> Result<Wire, Error> {
        let local = settings.host.starts_with('/');
        let socket: Box<dyn Socket> = if local {
            Box::new(UnixStream::connect(&settings.host).await?)
        } else {
            let socket = TcpStream::connect((settings.host.as_str(), settings.port)).await?;
            socket.set_nodelay(true)?;
            Box::new(socket)
        };
        let mut wire =
            Wire { socket, input: BytesMut::new(), sequence: 0, parts: None, spill: spill.to_owned(), spilled: 0 };
        wire.log_in(settings, program, local).await?;
        Ok(wire)
    }

    async fn log_in(&mut self, settings: &Settings, program: &str, local: bool) -> Result<(), Error> {
        let hello = self.packet().await?;
        let hello = Hello::parse(&hello)?;
        let encrypt = settings.tls.mode != TlsMode::Off && !local;
        let wanted = capability::LONG_PASSWORD
            | capability::LONG_FLAG
            | capability::PROTOCOL_41
            | capability::TRANSACTIONS
            | capability::SECURE_CONNECTION
            | capability::PLUGIN_AUTH
            | capability::CONNECT_ATTRS
            | capability::LONG_AUTH_DATA
            | if encrypt { capability::SSL } else { 0 };
        let capabilities = wanted & hello.capabilities;
        let mut head = capabilities.to_le_bytes().to_vec();
        head.extend_from_slice(&(1u32 << 30).to_le_bytes());
        // utf8: every version knows it.
        head.push(33);
        head.extend_from_slice(&[0; 23]);
        if encrypt {
            if capabilities & capability::SSL == 0 {
                return Err(Error::Tls("the server does not offer it".into()));
            }
            self.send(&head).await?;
            self.encrypt(settings).await?;
        }
        let password = settings.password.as_deref().unwrap_or_default().as_bytes();
        let mut method = hello.method.clone();
        let mut challenge = hello.challenge.clone();
        let mut answer = head;
        answer.extend_from_slice(settings.user.as_bytes());
        answer.push(0);
        let first = proof(&method, password, &challenge).unwrap_or_default();
        // Proofs are shorter than the longest length that takes one byte in either form.
        answer.push(first.len() as u8);
        answer.extend_from_slice(&first);
        if capabilities & capability::PLUGIN_AUTH != 0 {
            answer.extend_from_slice(method.as_bytes());
            answer.push(0);
        }
        if capabilities & capability::CONNECT_ATTRS != 0 {
            let mut attributes = Vec::new();
            for text in ["program_name", program] {
                let text = &text.as_bytes()[..text.len().min(200)];
                attributes.push(text.len() as u8);
                attributes.extend_from_slice(text);
            }
            // Less than 251 bytes, so the length takes one.
            answer.push(attributes.len() as u8);
            answer.extend_from_slice(&attributes);
        }
        self.send(&answer).await?;
        loop {
            let reply = self.packet().await?;
            match reply.first() {
                Some(0) => return Ok(()),
                Some(0xff) => return Err(refusal(&reply)),
                Some(0xfe) if reply.len() == 1 => {
                    return Err(Error::Login("the server asks for passwords of before 4.1".into()));
                }
                Some(0xfe) => {
                    let mut f = Fields(&reply[1..]);
                    let named = f.zero_ended().ok_or(Error::Protocol("a change of login that ends early"))?;
                    method = String::from_utf8_lossy(named).into_owned();
                    challenge = f.0.strip_suffix(&[0]).unwrap_or(f.0).to_vec();
                    let proof = proof(&method, password, &challenge).ok_or_else(|| {
                        Error::Login(format!("the server asks for the method {method}, which is not supported"))
                    })?;
                    self.send(&proof).await?;
                }
                Some(1) if method == CACHING_SHA2 => match reply.get(1) {
                    Some(3) => {}
                    Some(4) if encrypt || local => self.send(&[password, &[0]].concat()).await?,
                    Some(4) => {
                        // The server's key, then the password under it.
                        self.send(&[2]).await?;
                        let key = self.packet().await?;
                        let hidden = under_key(key.get(1..).unwrap_or_default(), password, &challenge)?;
                        self.send(&hidden).await?;
                    }
                    _ => return Err(Error::Login("an unknown step of caching_sha2_password".into())),
                },
                _ => return Err(Error::Login(format!("an unknown step of {method}"))),
            }
        }
    }

    async fn encrypt(&mut self, settings: &Settings) -> Result<(), Error> {
        let config = drover_runtime::tls::client_config(&settings.tls).map_err(|e| Error::Tls(e.to_string()))?;
        if !self.input.is_empty() {
            return Err(Error::Protocol("clear text ahead of the encryption"));
        }
        let name = rustls::pki_types::ServerName::try_from(settings.host.clone())
            .map_err(|e| Error::Tls(format!("{}: {e}", settings.host)))?;
        // A socket that is nobody's until the encrypted one takes its place.
        let plain = std::mem::replace(&mut self.socket, Box::new(tokio::io::empty()));
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let secured = connector.connect(name, plain).await.map_err(|e| Error::Tls(e.to_string()))?;
        self.socket = Box::new(secured);
        Ok(())
    }

    async fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        let mut packet = (payload.len() as u32).to_le_bytes();
        packet[3] = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&[&packet, payload].concat()).await?;
        Ok(self.socket.flush().await?)
    }

    async fn fill(&mut self) -> Result<(), Error> {
        if self.input.capacity() - self.input.len() < READ_ROOM / 4 {
            self.input.reserve(READ_ROOM);
        }
        if self.socket.read_buf(&mut self.input).await? == 0 { Err(Error::Closed) } else { Ok(()) }
    }

    /// One packet, outside of a dump.
    async fn packet(&mut self) -> Result<Bytes, Error> {
        loop {
            if let Some(length) = packet_length(&self.input)
                && self.input.len() >= 4 + length
            {
                self.sequence = self.input[3].wrapping_add(1);
                let mut packet = self.input.split_to(4 + length).freeze();
                packet.advance(4);
                return Ok(packet);
            }
            self.fill().await?;
        }
    }

    async fn command(&mut self, code: u8, body: &[u8]) -> Result<(), Error> {
        self.sequence = 0;
        self.send(&[&[code], body].concat()).await
    }

    /// A statement that gives no rows.
    pub async fn run(&mut self, sql: &str) -> Result<(), Error> {
        self.command(3, sql.as_bytes()).await?;
        self.acknowledged().await
    }

    async fn acknowledged(&mut self) -> Result<(), Error> {
        let reply = self.packet().await?;
        match reply.first() {
            Some(0) => Ok(()),
            Some(0xff) => Err(refusal(&reply)),
            _ => Err(Error::Protocol("rows where none are expected")),
        }
    }

    /// Asks for all events from a place on, as a replica of this number. An offset beyond 4 GiB cannot be asked for.
    pub async fn dump(&mut self, server_id: u32, file: &str, offset: u32) -> Result<(), Error> {
        let mut body = server_id.to_le_bytes().to_vec();
        // No host, user, password, port; no rank; no source.
        body.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
        self.command(0x15, &body).await?;
        self.acknowledged().await?;
        let mut body = offset.to_le_bytes().to_vec();
        body.extend_from_slice(&0u16.to_le_bytes());
        body.extend_from_slice(&server_id.to_le_bytes());
        body.extend_from_slice(file.as_bytes());
        self.command(0x12, &body).await
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

const NATIVE: &str = "mysql_native_password";
const CACHING_SHA2: &str = "caching_sha2_password";

/// The server's first packet.
struct Hello {
    capabilities: u32,
    challenge: Vec<u8>,
    method: String,
}

impl Hello {
    fn parse(payload: &[u8]) -> Result<Hello, Error> {
        if payload.first() == Some(&0xff) {
            return Err(refusal(payload));
        }
        Self::fields(payload).ok_or(Error::Protocol("no greeting of a server of this family"))
    }

    fn fields(payload: &[u8]) -> Option<Hello> {
        let mut f = Fields(payload);
        if f.u8()? != 10 {
            return None;
        }
        f.zero_ended()?;
        f.u32()?;
        let mut challenge = f.take(8)?.to_vec();
        f.u8()?;
        let mut capabilities = u32::from(f.u16()?);
        let mut method = NATIVE.to_owned();
        if !f.is_empty() {
            f.take(3)?;
            capabilities |= u32::from(f.u16()?) << 16;
            let length = usize::from(f.u8()?);
            f.take(10)?;
            let more = f.take(length.saturating_sub(8).max(13).min(f.0.len()))?;
            challenge.extend_from_slice(more.strip_suffix(&[0]).unwrap_or(more));
            if capabilities & capability::PLUGIN_AUTH != 0 {
                let name = f.zero_ended().unwrap_or(f.0);
                method = String::from_utf8_lossy(name).into_owned();
            }
        }
        Some(Hello { capabilities, challenge, method })
    }
}

/// The proof of knowing the password: `None` for methods that are not known here.
fn proof(method: &str, password: &[u8], challenge: &[u8]) -> Option<Vec<u8>> {
    let mixed = |algorithm: &'static digest::Algorithm, challenge_first: bool| {
        let once = digest::digest(algorithm, password);
        let twice = digest::digest(algorithm, once.as_ref());
        let parts = if challenge_first { [challenge, twice.as_ref()] } else { [twice.as_ref(), challenge] };
        let mask = digest::digest(algorithm, &parts.concat());
        once.as_ref().iter().zip(mask.as_ref()).map(|(a, b)| a ^ b).collect()
    };
    match method {
        NATIVE | CACHING_SHA2 if password.is_empty() => Some(Vec::new()),
        NATIVE => Some(mixed(&digest::SHA1_FOR_LEGACY_USE_ONLY, true)),
        CACHING_SHA2 => Some(mixed(&digest::SHA256, false)),
        _ => None,
    }
}

/// The password, mixed with the challenge, under the server's public key.
fn under_key(pem: &[u8], password: &[u8], challenge: &[u8]) -> Result<Vec<u8>, Error> {
    let wrong = |what: &str| Error::Login(format!("the server's public key: {what}"));
    let key = match rustls_pemfile::read_one_from_slice(pem) {
        Ok(Some((rustls_pemfile::Item::SubjectPublicKeyInfo(key), _))) => key,
        _ => return Err(wrong("it is none")),
    };
    let key = PublicEncryptingKey::from_der(&key).map_err(|e| wrong(&e.to_string()))?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|e| wrong(&e.to_string()))?;
    let clear: Vec<u8> = password.iter().chain(&[0]).zip(challenge.iter().cycle()).map(|(a, b)| a ^ b).collect();
    let mut hidden = vec![0; key.ciphertext_size()];
    let hidden = key.encrypt(&OAEP_SHA1_MGF1SHA1, &clear, &mut hidden, None).map_err(|e| wrong(&e.to_string()))?;
    Ok(hidden.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(input: &[u8], spill: &Path) -> Wire {
        let socket = Box::new(io::Cursor::new(Vec::new()));
        Wire { socket, input: input.into(), sequence: 0, parts: None, spill: spill.to_owned(), spilled: 0 }
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
        let mut wire = wire(&[], dir.path());
        let mut arrived = Vec::new();
        for piece in bytes.chunks(step) {
            wire.input.extend_from_slice(piece);
            while let Some(Ok(one)) = futures::FutureExt::now_or_never(async {
                match wire.next().await {
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
        for extra in [0, 1, CHECKSUM, 70_000] {
            // Exactly full packets are followed by an empty one.
            let body = FULL - 1 - HEAD - CHECKSUM + extra;
            for kind in [kind::WRITE_ROWS, kind::TRANSACTION_PAYLOAD] {
                let event = large(kind, body);
                let mut bytes = packets(&[&[0], &event[..]].concat());
                bytes.extend(packets(&[0, 1, 2]));
                for step in [bytes.len(), 1 << 20, 65_537] {
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

    #[test]
    fn proofs_of_the_documentation() {
        assert_eq!(proof(NATIVE, b"", b"x"), Some(vec![]));
        assert_eq!(proof("sha256_password", b"x", b"x"), None);
        assert_eq!(proof(NATIVE, b"secret", b"01234567890123456789").map(|p| p.len()), Some(20));
        assert_eq!(proof(CACHING_SHA2, b"secret", b"01234567890123456789").map(|p| p.len()), Some(32));
    }
}
