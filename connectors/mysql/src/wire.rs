//! A lean session for reading: packets are looked at where they lie in the receive buffer, and nothing is allocated for a row or a value. The
//! client library makes an object of every value, which costs more than all the rest of a copy (measured in docs/decisions).
//!
//! It never connects again by itself, so that a session that holds a transaction is either still in it or broken; every answer of the
//! server says whether a transaction is open ([`Wire::in_transaction`]).
//!
//! Sources: MySQL's "Client/Server Protocol" in its internals manual, MariaDB's "Clientserver Protocol".

mod login;

use crate::connect::Dialer;
use crate::errors::classify;
use crate::flavor::Version;
use bytes::{Buf, Bytes, BytesMut};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use mysql_common::constants::{CapabilityFlags, ColumnFlags, ColumnType, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::Column;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A connection of whatever kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Send + Sync> Stream for T {}

/// The largest payload of one packet; a longer one goes on in the next.
const MAX_PAYLOAD: usize = 0xff_ff_ff;
/// So much is asked of the socket at once.
const READ: usize = 256 << 10;

/// A session of its own protocol.
pub struct Wire {
    stream: Pin<Box<dyn Stream>>,
    /// Received, not yet looked at.
    buffer: BytesMut,
    /// A payload that came in several packets is put together here.
    joined: Vec<u8>,
    sequence: u8,
    capabilities: CapabilityFlags,
    status: StatusFlags,
    stage: Stage,
    /// Number of the last error that the server sent in answer to a command.
    last_error: Option<u16>,
    id: u32,
    pub version: Version,
    pub fault: Fault,
    at: String,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} at {}", self.id, self.at)
    }
}

/// How far the answer to the last command was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To its end.
    Idle,
    /// Not at all.
    First,
    /// The columns are known, or being read; rows follow up to their end.
    Rows,
    /// An answer of another form: its end can be told by nobody who comes later.
    Other,
}

/// A column of a prepared statement's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnDef {
    pub kind: ColumnType,
    pub unsigned: bool,
}

/// A prepared statement.
#[derive(Debug, Clone)]
pub struct Statement {
    id: u32,
    pub columns: Vec<ColumnDef>,
}

/// A row of a text result: small answers to drover's own questions.
pub type TextRow = Vec<Option<Bytes>>;

/// Whether a result has more rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    More,
    End,
}

impl Wire {
    /// A new session with drover's settings, named like all of drover's sessions. Times out after 10 s.
    pub async fn connect(dialer: &Dialer, purpose: &str) -> Result<Wire> {
        let s = dialer.settings();
        let what = || format!("cannot connect to {}:{} as {}", s.host, s.port, s.user);
        let opened = tokio::time::timeout(Duration::from_secs(10), login::open(dialer, purpose)).await;
        let late =
            |_| Error::new(codes::CONNECTION, s.fault, Retry::Connection, what()).remedy("nobody answered within 10 s");
        let mut wire = opened.map_err(late)?.map_err(|e| e.into_error(s.fault, &what()))?;
        wire.run(crate::connect::SETTINGS, "cannot prepare a session").await?;
        wire.run(crate::connect::ISOLATION, "cannot prepare a session").await?;
        if let Some(endless) = crate::connect::endless(&wire.version) {
            wire.run(endless, "cannot prepare a session").await?;
        }
        Ok(wire)
    }

    /// The bare connection and what was read of it, for a dump of the binary log, which speaks another way.
    pub(crate) fn into_parts(self) -> (Pin<Box<dyn Stream>>, BytesMut) {
        (self.stream, self.buffer)
    }

    /// The server's number of this connection.
    pub fn id(&self) -> u32 {
        self.id
    }
    /// Whether the server's last answer said that a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.status.contains(StatusFlags::SERVER_STATUS_IN_TRANS)
    }
    /// The number of the error that the last command ended with, if the server ended it with one.
    pub fn last_error(&self) -> Option<u16> {
        self.last_error
    }
    /// Whether an answer is still to be read: the session cannot be used for anything else before.
    pub fn is_busy(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Asks whether the server is there.
    pub async fn ping(&mut self) -> Result<()> {
        let what = "cannot reach a session";
        let failed = |e: Broken| e.into_error(Fault::Source, what);
        self.command(0x0e, b"", Stage::First).await.map_err(failed)?;
        self.simple().await.map_err(failed)
    }

    /// Runs statements that give no rows (several with `;` between them). `what` is for the error.
    pub async fn run(&mut self, sql: impl AsRef<str>, what: &str) -> Result<()> {
        self.all(sql, what).await.map(drop)
    }

    /// The rows of a statement, as texts. Of several statements those of all, one after the other.
    pub async fn all(&mut self, sql: impl AsRef<str>, what: &str) -> Result<Vec<TextRow>> {
        let results = self.results(sql.as_ref(), what).await?;
        Ok(results.into_iter().flatten().collect())
    }

    /// The rows of several statements with `;` between them, for each its own.
    pub async fn results(&mut self, sql: &str, what: &str) -> Result<Vec<Vec<TextRow>>> {
        let fault = self.fault;
        self.query(sql).await.map_err(|e| e.into_error(fault, what))
    }

    async fn query(&mut self, sql: &str) -> std::result::Result<Vec<Vec<TextRow>>, Broken> {
        self.command(0x03, sql.as_bytes(), Stage::First).await?;
        let mut results = Vec::new();
        loop {
            let first = self.packet().await?;
            let mut rows = Vec::new();
            match first.first() {
                Some(0x00) => self.take_ok(&first)?,
                Some(0xfb) => return Err(Broken::protocol("the server asks for a file")),
                _ => {
                    self.stage = Stage::Rows;
                    let columns =
                        read_lenenc(&mut &first[..]).ok_or_else(|| Broken::protocol("a result without columns"))?;
                    self.definitions(columns as usize).await?;
                    loop {
                        let packet = self.packet().await?;
                        if self.is_end(&packet) {
                            self.take_end(&packet)?;
                            break;
                        }
                        rows.push(
                            text_row(&packet, columns as usize).ok_or_else(|| Broken::protocol("a damaged row"))?,
                        );
                    }
                }
            }
            results.push(rows);
            self.end_result();
            if self.stage == Stage::Idle {
                return Ok(results);
            }
        }
    }

    /// Prepares a statement without parameters.
    pub async fn prepare(&mut self, sql: &str, what: &str) -> Result<Statement> {
        let fault = self.fault;
        self.prepared(sql).await.map_err(|e| e.into_error(fault, what))
    }

    async fn prepared(&mut self, sql: &str) -> std::result::Result<Statement, Broken> {
        self.command(0x16, sql.as_bytes(), Stage::Other).await?;
        let packet = self.packet().await?;
        let mut rest = &packet[..];
        if rest.len() < 12 || rest.get_u8() != 0 {
            return Err(Broken::protocol("a statement was not prepared"));
        }
        let (id, columns, params) = (rest.get_u32_le(), rest.get_u16_le(), rest.get_u16_le());
        if params > 0 {
            return Err(Broken::protocol("a statement with parameters"));
        }
        let columns = self.definitions(usize::from(columns)).await?;
        self.stage = Stage::Idle;
        Ok(Statement { id, columns })
    }

    /// Executes a prepared statement; its rows are then taken by [`Wire::rows`].
    pub async fn execute(&mut self, statement: &Statement, what: &str) -> Result<()> {
        let fault = self.fault;
        self.executed(statement).await.map_err(|e| e.into_error(fault, what))
    }

    async fn executed(&mut self, statement: &Statement) -> std::result::Result<(), Broken> {
        let mut body = statement.id.to_le_bytes().to_vec();
        // No cursor, one execution.
        body.extend_from_slice(&[0, 1, 0, 0, 0]);
        self.command(0x17, &body, Stage::First).await?;
        let first = self.packet().await?;
        self.stage = Stage::Rows;
        let columns = read_lenenc(&mut &first[..]).unwrap_or(0);
        if columns == 0 || columns as usize != statement.columns.len() {
            return Err(Broken::protocol("a statement gave other columns than it was prepared with"));
        }
        let now = self.definitions(columns as usize).await?;
        if now != statement.columns {
            return Err(Broken::protocol("a statement gave columns of other types than it was prepared with"));
        }
        Ok(())
    }

    /// Gives the rows at hand to `take`, in the binary form without its first byte, and waits for more if there are none. Not
    /// cancel-safe: who gives up in the middle leaves the session busy.
    pub async fn rows(&mut self, take: &mut (dyn FnMut(&[u8]) -> Result<()> + Send), what: &str) -> Result<Flow> {
        let fault = self.fault;
        let mut taken = false;
        loop {
            while let Some(length) = self.complete() {
                let whole = length < MAX_PAYLOAD && self.joined.is_empty();
                if !whole {
                    if let Some(flow) = self.long_row(length, take).map_err(|e| e.into_error(fault, what))? {
                        return Ok(flow);
                    }
                    taken = true;
                    continue;
                }
                let payload = &self.buffer[4..4 + length];
                match payload.first() {
                    Some(0x00) => {
                        take(&payload[1..])?;
                        taken = true;
                        self.advance(length);
                    }
                    Some(0xfe | 0xff) => {
                        let end = payload.to_vec();
                        self.advance(length);
                        if end[0] == 0xff {
                            return Err(self.error(&end).into_error(fault, what));
                        }
                        self.take_end(&end).map_err(|e| e.into_error(fault, what))?;
                        self.end_result();
                        return Ok(Flow::End);
                    }
                    _ => return Err(Broken::protocol("a damaged row").into_error(fault, what)),
                }
            }
            if taken {
                return Ok(Flow::More);
            }
            self.fill().await.map_err(|e| e.into_error(fault, what))?;
        }
    }

    /// A packet that is part of a payload of 16 MiB or more.
    fn long_row(
        &mut self,
        length: usize,
        take: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
    ) -> std::result::Result<Option<Flow>, Broken> {
        self.joined.extend_from_slice(&self.buffer[4..4 + length]);
        self.advance(length);
        if length == MAX_PAYLOAD {
            return Ok(None);
        }
        let row = std::mem::take(&mut self.joined);
        match row.first() {
            Some(0x00) => take(&row[1..]).map_err(Broken::Ours)?,
            _ => return Err(Broken::protocol("a damaged row")),
        }
        Ok(None)
    }

    /// Forgets a prepared statement at the server.
    pub async fn close(&mut self, statement: &Statement) -> Result<()> {
        let failed = |e: Broken| e.into_error(Fault::Source, "cannot close a statement");
        self.command(0x19, &statement.id.to_le_bytes(), Stage::Other).await.map_err(failed)?;
        // There is no answer.
        self.stage = Stage::Idle;
        Ok(())
    }

    /// Reads what is left of an answer and throws it away. An error of the server ends the answer, too.
    pub async fn drain(&mut self) -> Result<()> {
        let fault = self.fault;
        let failed = |e: Broken| e.into_error(fault, "cannot read an answer to its end");
        if !self.joined.is_empty() {
            // What follows is the rest of a long row, whatever its first byte is.
            self.joined.clear();
            loop {
                let Some(length) = self.complete() else {
                    self.fill().await.map_err(failed)?;
                    continue;
                };
                self.advance(length);
                if length < MAX_PAYLOAD {
                    break;
                }
            }
        }
        while self.stage != Stage::Idle {
            if self.stage == Stage::Other {
                return Err(failed(Broken::protocol("it was left in the middle of a preparation")));
            }
            let packet = match self.packet().await {
                Ok(packet) => packet,
                Err(Broken::Server(_)) => continue,
                Err(e) => return Err(failed(e)),
            };
            match self.stage {
                Stage::First if packet.first() == Some(&0x00) => {
                    self.take_ok(&packet).map_err(failed)?;
                    self.end_result();
                }
                Stage::First => self.stage = Stage::Rows,
                // Old servers end the columns in the same way as the rows.
                Stage::Rows if self.is_end(&packet) && self.deprecates_eof() => {
                    self.take_end(&packet).map_err(failed)?;
                    self.end_result();
                }
                Stage::Rows if self.is_end(&packet) => {
                    return Err(failed(Broken::protocol("this server does not say what ended")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn end_result(&mut self) {
        let more = self.status.contains(StatusFlags::SERVER_MORE_RESULTS_EXISTS);
        self.stage = if more { Stage::First } else { Stage::Idle };
    }

    // ---- packets ----

    async fn command(&mut self, command: u8, body: &[u8], answer: Stage) -> std::result::Result<(), Broken> {
        if self.stage != Stage::Idle {
            return Err(Broken::protocol("a session was used while an answer was still to be read"));
        }
        self.stage = answer;
        self.last_error = None;
        self.sequence = 0;
        let mut payload = Vec::with_capacity(body.len() + 1);
        payload.push(command);
        payload.extend_from_slice(body);
        self.send(&payload).await
    }

    async fn send(&mut self, mut payload: &[u8]) -> std::result::Result<(), Broken> {
        let mut out = Vec::with_capacity(payload.len() + 8);
        loop {
            let (part, rest) = payload.split_at(payload.len().min(MAX_PAYLOAD));
            out.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            out.push(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            out.extend_from_slice(part);
            payload = rest;
            if part.len() < MAX_PAYLOAD {
                break;
            }
        }
        self.stream.write_all(&out).await.map_err(Broken::Io)?;
        self.stream.flush().await.map_err(Broken::Io)
    }

    /// The length of the packet at the front of the buffer, if all of it is there.
    fn complete(&self) -> Option<usize> {
        let head = self.buffer.get(..4)?;
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        (self.buffer.len() >= 4 + length).then_some(length)
    }

    fn advance(&mut self, length: usize) {
        self.sequence = self.buffer[3].wrapping_add(1);
        self.buffer.advance(4 + length);
    }

    async fn fill(&mut self) -> std::result::Result<(), Broken> {
        self.buffer.reserve(READ);
        match self.stream.read_buf(&mut self.buffer).await.map_err(Broken::Io)? {
            0 => Err(Broken::Io(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// The next payload; an error that the server sends ends the command.
    async fn packet(&mut self) -> std::result::Result<Vec<u8>, Broken> {
        let mut payload = Vec::new();
        loop {
            let Some(length) = self.complete() else {
                self.fill().await?;
                continue;
            };
            payload.extend_from_slice(&self.buffer[4..4 + length]);
            self.advance(length);
            if length < MAX_PAYLOAD {
                break;
            }
        }
        if payload.first() == Some(&0xff) {
            return Err(self.error(&payload));
        }
        Ok(payload)
    }

    /// An answer without rows.
    async fn simple(&mut self) -> std::result::Result<(), Broken> {
        let packet = self.packet().await?;
        self.take_ok(&packet)?;
        self.end_result();
        Ok(())
    }

    async fn definitions(&mut self, count: usize) -> std::result::Result<Vec<ColumnDef>, Broken> {
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            let packet = self.packet().await?;
            let column = ParseBuf(&packet).parse::<Column>(()).map_err(Broken::Io)?;
            let unsigned = column.flags().contains(ColumnFlags::UNSIGNED_FLAG);
            out.push(ColumnDef { kind: column.column_type(), unsigned });
        }
        if count > 0 && !self.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF) {
            let end = self.packet().await?;
            self.take_end(&end)?;
        }
        Ok(out)
    }

    fn is_end(&self, packet: &[u8]) -> bool {
        packet.first() == Some(&0xfe) && packet.len() < MAX_PAYLOAD && (self.deprecates_eof() || packet.len() < 9)
    }

    fn deprecates_eof(&self) -> bool {
        self.capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF)
    }

    /// The end of rows or definitions: an OK in a new server's form, an EOF in an old one's.
    fn take_end(&mut self, packet: &[u8]) -> std::result::Result<(), Broken> {
        if self.deprecates_eof() {
            return self.take_ok(packet);
        }
        let status = packet.get(3..5).ok_or_else(|| Broken::protocol("a short end of rows"))?;
        self.status = StatusFlags::from_bits_truncate(u16::from_le_bytes([status[0], status[1]]));
        Ok(())
    }

    fn take_ok(&mut self, packet: &[u8]) -> std::result::Result<(), Broken> {
        let mut rest = packet.get(1..).unwrap_or_default();
        let status = read_lenenc(&mut rest).and_then(|_| read_lenenc(&mut rest)).and_then(|_| rest.get(..2));
        let status = status.ok_or_else(|| Broken::protocol("a short acknowledgement"))?;
        self.status = StatusFlags::from_bits_truncate(u16::from_le_bytes([status[0], status[1]]));
        Ok(())
    }

    /// The error in a packet. It ends the command.
    fn error(&mut self, packet: &[u8]) -> Broken {
        self.stage = Stage::Idle;
        let mut rest = packet.get(1..).unwrap_or_default();
        if rest.len() < 2 {
            return Broken::protocol("a short error");
        }
        let code = rest.get_u16_le();
        self.last_error = Some(code);
        let mut state = String::new();
        if rest.first() == Some(&b'#') && rest.len() >= 6 {
            state = String::from_utf8_lossy(&rest[1..6]).into_owned();
            rest = &rest[6..];
        }
        let message = String::from_utf8_lossy(rest).into_owned();
        Broken::Server(mysql_async::ServerError { code, message, state })
    }
}

/// What can go wrong on the wire.
enum Broken {
    Io(std::io::Error),
    Server(mysql_async::ServerError),
    Protocol(String),
    /// Who took the rows failed.
    Ours(Error),
}

impl Broken {
    fn protocol(what: &str) -> Broken {
        Broken::Protocol(what.to_owned())
    }

    fn into_error(self, fault: Fault, what: &str) -> Error {
        match self {
            Broken::Io(e) => Error::new(codes::CONNECTION, fault, Retry::Connection, what).cause(e),
            Broken::Server(e) => classify(&mysql_async::Error::Server(e), fault, what),
            Broken::Protocol(why) => {
                let mut error = Error::new(codes::CONNECTION, fault, Retry::Connection, what);
                error.causes.push(why);
                error
            }
            Broken::Ours(error) => error,
        }
    }
}

/// A length of the protocol; `None` for null or when bytes are missing.
#[inline]
pub fn read_lenenc(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    let take = |n: usize| -> Option<(u64, &[u8])> {
        let (head, rest) = rest.split_at_checked(n)?;
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(head);
        Some((u64::from_le_bytes(wide), rest))
    };
    let (n, rest) = match first {
        0..=0xfa => (u64::from(first), rest),
        0xfc => take(2)?,
        0xfd => take(3)?,
        0xfe => take(8)?,
        _ => return None,
    };
    *bytes = rest;
    Some(n)
}

fn text_row(mut packet: &[u8], columns: usize) -> Option<TextRow> {
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        if packet.first() == Some(&0xfb) {
            packet = &packet[1..];
            row.push(None);
            continue;
        }
        let length = usize::try_from(read_lenenc(&mut packet)?).ok()?;
        let (value, rest) = packet.split_at_checked(length)?;
        row.push(Some(Bytes::copy_from_slice(value)));
        packet = rest;
    }
    Some(row)
}

/// A text of an answer, where there is one.
pub fn text(row: &TextRow, column: usize) -> Option<&str> {
    row.get(column)?.as_deref().and_then(|v| std::str::from_utf8(v).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (bytes, n) in [
            (&[0u8][..], 0u64),
            (&[250], 250),
            (&[0xfc, 1, 2], 513),
            (&[0xfd, 1, 0, 1], 65_537),
            (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 1], 1 + (1 << 56)),
        ] {
            let mut rest = bytes;
            assert_eq!(read_lenenc(&mut rest), Some(n));
            assert!(rest.is_empty());
        }
        assert_eq!(read_lenenc(&mut &[0xfb][..]), None);
        assert_eq!(read_lenenc(&mut &[0xfc, 1][..]), None);
    }

    #[test]
    fn rows_of_text() {
        let row = text_row(&[1, b'a', 0xfb, 0], 3).unwrap();
        assert_eq!((text(&row, 0), text(&row, 1), text(&row, 2)), (Some("a"), None, Some("")));
        assert!(text_row(&[5, b'a'], 1).is_none());
    }
}
