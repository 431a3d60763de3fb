//! Events of the binary log: their head, their checksum, and the contents of those that steer the stream. Formats: the servers' sources,
//! MySQL's `libs/mysql/binlog/event`, MariaDB's `sql/log_event.h`. Numbers are little-endian.

use super::bytes::Fields;
use crate::gtid::Gtid;
use uuid::Uuid;

/// Bytes of an event's head, in every version since 5.0.
pub const HEAD: usize = 19;
/// Bytes of a checksum behind an event.
pub const CHECKSUM: usize = 4;

/// Kinds of events that are looked at.
pub mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const LOAD: u8 = 6;
    pub const APPEND_BLOCK: u8 = 9;
    pub const EXEC_LOAD: u8 = 10;
    pub const DELETE_FILE: u8 = 11;
    pub const NEW_LOAD: u8 = 12;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    /// Rows of MySQL 5.1 before its first release.
    pub const OLD_ROWS: std::ops::RangeInclusive<u8> = 20..=22;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const TAGGED_GTID: u8 = 42;
    pub const MARIADB_ANNOTATE_ROWS: u8 = 160;
    pub const MARIADB_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const MARIADB_START_ENCRYPTION: u8 = 164;
    pub const MARIADB_QUERY_COMPRESSED: u8 = 165;
    pub const MARIADB_WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const MARIADB_UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub const MARIADB_DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const MARIADB_WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const MARIADB_UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub const MARIADB_DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// The server made it for this stream alone; it is in no file.
pub const ARTIFICIAL: u16 = 0x20;
/// Who does not know it may pass over it.
pub const MAY_BE_IGNORED: u16 = 0x80;
/// The file is being written; the flag is not part of the checksum.
const IN_USE: u16 = 0x01;

/// The head of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Seconds since the Unix epoch.
    pub timestamp: u32,
    pub kind: u8,
    pub server_id: u32,
    /// Of the whole event, with head and checksum.
    pub length: u32,
    /// Offset of the event's end in its file, its lower 32 bits. 0 where it is in no file.
    pub end: u32,
    pub flags: u16,
}

impl Head {
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let mut f = Fields(bytes.get(..HEAD)?);
        Some(Head {
            timestamp: f.u32()?,
            kind: f.u8()?,
            server_id: f.u32()?,
            length: f.u32()?,
            end: f.u32()?,
            flags: f.u16()?,
        })
    }
}

/// An event: its head, and its body without checksum.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub head: Head,
    pub body: &'a [u8],
}

/// Why bytes are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("an event of {0} bytes that says it has {1}")]
    Length(usize, u32),
    #[error("an event of kind {kind} with checksum {found:08x} instead of {expected:08x}")]
    Checksum { kind: u8, expected: u32, found: u32 },
    #[error("an event of kind {0} that cannot be read")]
    Body(u8),
}

/// Whether events carry checksums, as the description at each file's beginning says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// No description has come yet: the few events before it are looked at one by one.
    #[default]
    Unknown,
    None,
    Crc32,
}

impl<'a> Event<'a> {
    /// Takes whole bytes apart and verifies their checksum.
    pub fn parse(bytes: &'a [u8], checksums: Checksums) -> Result<Event<'a>, Bad> {
        let head = Head::parse(bytes).ok_or(Bad::Length(bytes.len(), 0))?;
        if bytes.len() != head.length as usize {
            return Err(Bad::Length(bytes.len(), head.length));
        }
        let body = &bytes[HEAD..];
        // A description states itself whether checksums follow; it has one in any case where it can state that.
        let summed = match head.kind {
            kind::FORMAT_DESCRIPTION => Description::parse(body).is_some_and(|d| d.states_checksums),
            _ if checksums == Checksums::Unknown => bytes
                .split_last_chunk::<CHECKSUM>()
                .is_some_and(|(rest, sum)| rest.len() >= HEAD && crc32fast::hash(rest) == u32::from_le_bytes(*sum)),
            _ => checksums == Checksums::Crc32,
        };
        if !summed {
            return Ok(Event { head, body });
        }
        let end = bytes.len().checked_sub(HEAD + CHECKSUM).ok_or(Bad::Length(bytes.len(), head.length))?;
        let (body, sum) = body.split_at(end);
        let found = u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]);
        let expected = checksum(bytes, &head);
        // A server that keeps no checksums puts none behind the description either, or zero.
        if found != expected && !(head.kind == kind::FORMAT_DESCRIPTION && checksums_of(body) == Checksums::None) {
            return Err(Bad::Checksum { kind: head.kind, expected, found });
        }
        Ok(Event { head, body })
    }

    /// An event inside of a compressed transaction: it has no checksum of its own.
    pub fn inner(bytes: &'a [u8]) -> Result<Event<'a>, Bad> {
        let head = Head::parse(bytes).ok_or(Bad::Length(bytes.len(), 0))?;
        if bytes.len() != head.length as usize {
            return Err(Bad::Length(bytes.len(), head.length));
        }
        Ok(Event { head, body: &bytes[HEAD..] })
    }

    pub fn bad(&self) -> Bad {
        Bad::Body(self.head.kind)
    }
}

fn checksum(bytes: &[u8], head: &Head) -> u32 {
    let summed = &bytes[..bytes.len() - CHECKSUM];
    if head.flags & IN_USE == 0 {
        return crc32fast::hash(summed);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&summed[..HEAD - 2]);
    hasher.update(&(head.flags & !IN_USE).to_le_bytes());
    hasher.update(&summed[HEAD..]);
    hasher.finalize()
}

/// What a description that has already lost its checksum says about those of other events.
fn checksums_of(body: &[u8]) -> Checksums {
    if body.last() == Some(&1) { Checksums::Crc32 } else { Checksums::None }
}

/// The description that stands at the beginning of each file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub version: u16,
    pub server: String,
    pub mariadb: bool,
    /// Bytes that rows and table maps begin with: 6 in early 5.1, else 8 (10 for rows with extra data).
    pub table_map_head: u8,
    /// The server is new enough to say whether events carry checksums.
    pub states_checksums: bool,
}

impl Description {
    /// From a body with or without checksum: what is read here stands before.
    pub fn parse(body: &[u8]) -> Option<Description> {
        let mut f = Fields(body);
        let version = f.u16()?;
        let server = f.take(50)?;
        let _created = f.u32()?;
        let head = f.u8()?;
        if usize::from(head) != HEAD {
            return None;
        }
        let lengths = f.0;
        let server = String::from_utf8_lossy(server.split(|&b| b == 0).next().unwrap_or_default()).into_owned();
        let mut numbers = server.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
        let number = [numbers.next(), numbers.next(), numbers.next()].map(|n| n.unwrap_or(0));
        // Since 5.6.1 in MySQL, 5.3 in MariaDB.
        let mariadb = server.contains("MariaDB");
        let since = if mariadb { [5, 3, 0] } else { [5, 6, 1] };
        let table_map_head = *lengths.get(usize::from(kind::TABLE_MAP) - 1)?;
        Some(Description { version, server, mariadb, table_map_head, states_checksums: number >= since })
    }

    /// Whether the events that follow carry checksums; `body` as [`Event::parse`] gives it, without its own.
    pub fn checksums(&self, body: &[u8]) -> Checksums {
        if self.states_checksums { checksums_of(body) } else { Checksums::None }
    }
}

/// The next file and the offset in it.
pub fn rotate(body: &[u8]) -> Option<(String, u64)> {
    let mut f = Fields(body);
    let offset = f.u64()?;
    Some((std::str::from_utf8(f.0).ok()?.trim_end_matches('\0').to_owned(), offset))
}

/// File and offset of a heartbeat. The first form has the offset's lower bits in its head only.
pub fn heartbeat<'a>(event: &Event<'a>) -> Option<(&'a str, Option<u64>)> {
    if event.head.kind == kind::HEARTBEAT {
        return Some((std::str::from_utf8(event.body).ok()?.trim_end_matches('\0'), None));
    }
    let mut f = Fields(event.body);
    let (mut file, mut offset) = (None, None);
    while let Some(field) = f.length() {
        if field == 0 {
            break;
        }
        let value = f.counted()?;
        match field {
            1 => file = std::str::from_utf8(value).ok(),
            2 => offset = Fields(value).length(),
            _ => {}
        }
    }
    Some((file?, offset))
}

/// How a transaction begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub gtid: Option<Gtid>,
    /// Commit time at this server, microseconds since the Unix epoch, where it is said.
    pub micros: Option<i64>,
    /// MariaDB: a schema change that has only begun; its effect comes with another transaction, or never.
    pub half: bool,
    /// MariaDB: the event itself begins the transaction, no BEGIN follows.
    pub begins: bool,
    /// MariaDB: it will be prepared under this id. MySQL says so by XA START.
    pub xid: Option<Xid>,
}

impl Start {
    fn plain(gtid: Option<Gtid>, micros: Option<i64>) -> Self {
        Start { gtid, micros, half: false, begins: false, xid: None }
    }

    /// Of servers that do not mark where transactions begin.
    pub fn unmarked() -> Self {
        Start::plain(None, None)
    }
}

/// GTID events of MySQL: plain, anonymous and tagged.
pub fn gtid(event: &Event<'_>) -> Option<Start> {
    let mut f = Fields(event.body);
    if event.head.kind == kind::TAGGED_GTID {
        return tagged(f);
    }
    let _flags = f.u8()?;
    let source = Uuid::from_slice(f.take(16)?).ok()?;
    let number = f.u64()?;
    let mut micros = None;
    // From 5.7 on logical timestamps follow, from 8.0 on times.
    if f.u8() == Some(2) {
        f.take(16)?;
        micros = f.uint(7).map(|m| (m & !(1 << 55)) as i64);
    }
    let known = event.head.kind == kind::GTID;
    let gtid = known.then(|| Gtid::MySql { source, tag: String::new(), number });
    Some(Start::plain(gtid, micros))
}

/// Fields of a tagged GTID, in the form of MySQL's serialization library: each its number and its value.
fn tagged(mut f: Fields<'_>) -> Option<Start> {
    let whole = f.0.len();
    // Version of the form; 1 as the library writes it.
    f.varlen()?;
    let size = usize::try_from(f.varlen()?).ok()?;
    let needed = f.varlen()?;
    let mut f = Fields(f.0.get(..size.checked_sub(whole - f.0.len())?)?);
    let (mut source, mut number, mut tag, mut micros) = (None, None, None, None);
    while !f.is_empty() {
        match f.varlen()? {
            1 => {
                let mut bytes = [0; 16];
                for b in &mut bytes {
                    *b = u8::try_from(f.varlen()?).ok()?;
                }
                source = Some(Uuid::from_bytes(bytes));
            }
            // Signed numbers have their sign in the lowest bit.
            2 => number = Some(f.varlen()? >> 1),
            3 => {
                let length = usize::try_from(f.varlen()?).ok()?;
                tag = Some(std::str::from_utf8(f.take(length)?).ok()?.to_owned());
            }
            6 => micros = Some(f.varlen()? as i64),
            0 | 4 | 5 | 7..=11 => {
                f.varlen()?;
            }
            unknown if unknown <= needed => return None,
            _ => break,
        }
    }
    let gtid = Gtid::MySql { source: source?, tag: tag?, number: number? };
    Some(Start::plain(Some(gtid), micros))
}

/// The GTID event of MariaDB.
pub fn mariadb_gtid(event: &Event<'_>) -> Option<Start> {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT: u8 = 2;
    const PREPARED: u8 = 64;
    const COMPLETED: u8 = 128;
    const START_ALTER: u8 = 2;
    const ROLLBACK_ALTER: u8 = 8;
    let mut f = Fields(event.body);
    let (sequence, domain, flags) = (f.u64()?, f.u32()?, f.u8()?);
    if flags & GROUP_COMMIT != 0 {
        f.u64()?;
    }
    let mut xid = None;
    if flags & (PREPARED | COMPLETED) != 0 {
        let format = f.u32()?;
        let (gtrid, bqual) = (usize::from(f.u8()?), usize::from(f.u8()?));
        let named = Xid { format, gtrid: f.take(gtrid)?.to_vec(), bqual: f.take(bqual)?.to_vec() };
        xid = Some(named).filter(|_| flags & PREPARED != 0);
    }
    let extra = f.u8().unwrap_or(0);
    let gtid = Gtid::MariaDb { domain, server: event.head.server_id, sequence };
    let half = extra & (START_ALTER | ROLLBACK_ALTER) != 0;
    // A standalone one is one statement, without an end.
    Some(Start { gtid: Some(gtid), micros: None, half, begins: flags & STANDALONE == 0, xid })
}

/// Id of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Xid {
    pub format: u32,
    pub gtrid: Vec<u8>,
    pub bqual: Vec<u8>,
}

impl std::fmt::Display for Xid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        write!(f, "X'{}',X'{}',{}", hex(&self.gtrid), hex(&self.bqual), self.format)
    }
}

/// The end of an XA transaction's preparation: whether it is its commit at the same time, and its id.
pub fn xa_prepare(body: &[u8]) -> Option<(bool, Xid)> {
    let mut f = Fields(body);
    let one_phase = f.u8()? != 0;
    let format = f.u32()?;
    let (gtrid, bqual) = (f.u32()? as usize, f.u32()? as usize);
    Some((one_phase, Xid { format, gtrid: f.take(gtrid)?.to_vec(), bqual: f.take(bqual)?.to_vec() }))
}

/// A statement in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    pub database: &'a [u8],
    pub text: &'a [u8],
    /// Double quotes enclose names.
    pub ansi_quotes: bool,
    /// A backslash in a text stands for itself.
    pub no_backslash: bool,
    /// The session's sql_mode as the server's bits.
    pub mode: u64,
    /// The session's time zone, and the fraction of its clock's second, where they mattered.
    pub zone: Option<&'a [u8]>,
    pub micros: Option<u32>,
    /// Number of the collation that the client wrote in.
    pub collation: Option<u16>,
    /// Numbers of AUTO_INCREMENT do not begin at 1, or not each is given.
    pub steps: bool,
    /// The session's `explicit_defaults_for_timestamp`, where a MySQL says it.
    pub explicit_timestamps: Option<bool>,
    /// See [`Query::defaults`].
    pub(crate) defaults: Defaults<'a>,
}

/// As the log has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Defaults<'a> {
    /// Of MySQL, whose other character sets have one each.
    pub utf8mb4: Option<u16>,
    /// Of MariaDB: two numbers each, of the collation that a character set came with and of the session's.
    pub pairs: &'a [u8],
}

impl Query<'_> {
    /// Numbers of the collations that character sets have in this session where none is named, as far as the log says.
    pub fn defaults(&self) -> impl Iterator<Item = u16> {
        let pairs = self.defaults.pairs.chunks_exact(4).map(|p| u16::from_le_bytes([p[2], p[3]]));
        self.defaults.utf8mb4.into_iter().chain(pairs)
    }
}

/// Reads a QUERY event, or an EXECUTE_LOAD_QUERY, which has 13 bytes more. `text` is as it stands: still packed in a compressed one.
pub fn query<'a>(event: &Event<'a>) -> Option<Query<'a>> {
    const ANSI_QUOTES: u64 = 4;
    const NO_BACKSLASH_ESCAPES: u64 = 0x100000;
    let mut f = Fields(event.body);
    f.take(8)?;
    let database_length = f.u8()?;
    f.take(2)?;
    let status_length = f.u16()?;
    if event.head.kind == kind::EXECUTE_LOAD_QUERY {
        f.take(13)?;
    }
    let status = f.take(usize::from(status_length))?;
    let database = f.take(usize::from(database_length))?;
    f.take(1)?;
    let Variables { mode, collation, zone, micros, steps, explicit_timestamps, defaults } = variables(status);
    let mode = mode.unwrap_or(0);
    Some(Query {
        database,
        text: f.0,
        ansi_quotes: mode & ANSI_QUOTES != 0,
        no_backslash: mode & NO_BACKSLASH_ESCAPES != 0,
        mode,
        zone,
        micros,
        collation,
        steps,
        explicit_timestamps,
        defaults,
    })
}

/// What a statement depended on.
#[derive(Default)]
struct Variables<'a> {
    mode: Option<u64>,
    collation: Option<u16>,
    zone: Option<&'a [u8]>,
    micros: Option<u32>,
    steps: bool,
    explicit_timestamps: Option<bool>,
    defaults: Defaults<'a>,
}

/// From variables that stand before any that are not known here.
fn variables(status: &[u8]) -> Variables<'_> {
    let mut f = Fields(status);
    let mut out = Variables::default();
    while let Some(code) = f.u8() {
        let read = match code {
            0 => f.take(4).map(|_| ()),
            // The step and the first number.
            3 => f.take(4).map(|n| out.steps = n != [1, 0, 1, 0]),
            1 => f.u64().map(|m| out.mode = Some(m)),
            2 => f.short().and_then(|_| f.take(1)).map(|_| ()),
            4 => f.take(6).map(|c| out.collation = Some(u16::from_le_bytes([c[0], c[1]]))),
            5 => f.short().map(|zone| out.zone = Some(zone).filter(|z| !z.is_empty())),
            6 => f.short().map(|_| ()),
            7 | 8 => f.take(2).map(|_| ()),
            18 => f.u16().map(|utf8mb4| out.defaults.utf8mb4 = Some(utf8mb4)),
            9 | 17 | 129 => f.take(8).map(|_| ()),
            10 => f.take(4).map(|_| ()),
            11 => f.short().and_then(|_| f.short()).map(|_| ()),
            // Names of databases that were changed, each with a zero behind it; 254: too many to be named.
            12 => f.u8().and_then(|n| {
                (0..if n == 254 { 0 } else { n }).try_for_each(|_| {
                    let end = f.0.iter().position(|b| *b == 0)?;
                    f.take(end + 1).map(|_| ())
                })
            }),
            13 | 128 => {
                f.take(3).map(|m| out.micros = Some(u32::from(m[0]) | u32::from(m[1]) << 8 | u32::from(m[2]) << 16))
            }
            16 => f.u8().map(|on| out.explicit_timestamps = Some(on != 0)),
            19 | 20 | 130 => f.take(1).map(|_| ()),
            131 => f.u8().and_then(|n| f.take(usize::from(n) * 4)).map(|pairs| out.defaults.pairs = pairs),
            _ => None,
        };
        if read.is_none() {
            break;
        }
    }
    out
}

/// The number and the message of an INCIDENT: the server lost something that belongs into the log.
pub fn incident(body: &[u8]) -> (u16, String) {
    let mut f = Fields(body);
    let number = f.u16().unwrap_or(0);
    (number, String::from_utf8_lossy(f.short().unwrap_or_default()).into_owned())
}
