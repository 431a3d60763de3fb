//! Format of segment files, and what may be believed of them after a crash.
//!
//! A segment is a head (40 bytes: magic, migration id, offset of its first record, CRC-32) and records: a head of 20 bytes (length u32,
//! CRC-32 of the payload, offset u64, CRC-32 of these sixteen bytes) and the payload; all little-endian. Beside them lies the **mark**: how many
//! records were durable, written after each `fdatasync`. It is not synced itself, so after a power loss it may be old but never says too
//! much: an unreadable record below it is damage, one at or above it was never promised and is cut off.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry};

use super::{damaged, disk, sync_dir};
use crate::Offset;

const MAGIC: &[u8; 8] = b"drvrlog1";
/// What the magic of every version begins with; its last byte is the version.
const FAMILY: &[u8] = b"drvrlog";
/// Bytes of a segment's head.
pub(super) const SEGMENT_HEAD: u64 = 40;
/// Bytes of a record's head.
pub(super) const RECORD_HEAD: usize = 20;
/// What a lagging reader takes from a file at once.
const BATCH: u64 = 1 << 20;

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub base: Offset,
    pub path: PathBuf,
    /// Bytes that may be read: all of a closed segment, the durable ones of the last.
    pub end: u64,
}

fn path_of(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{base:020}.seg"))
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

/// Makes a segment whose existence, head included, is durable.
pub(super) fn create(dir: &Path, base: Offset, migration: MigrationId) -> Result<(Segment, File)> {
    let path = path_of(dir, base);
    let mut head = Vec::with_capacity(SEGMENT_HEAD as usize);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(migration.as_bytes());
    head.extend_from_slice(&base.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    let made = File::options().create(true).truncate(true).read(true).write(true).open(&path).and_then(|mut file| {
        file.write_all(&head)?;
        file.sync_all()?;
        Ok(file)
    });
    let file = made.map_err(|e| disk("make the segment", &path, e))?;
    sync_dir(dir)?;
    Ok((Segment { base, path, end: SEGMENT_HEAD }, file))
}

/// The head before a record.
pub(super) fn record_head(offset: Offset, payload: &[u8]) -> [u8; RECORD_HEAD] {
    let mut head = [0; RECORD_HEAD];
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..8].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    head[8..16].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32fast::hash(&head[..16]);
    head[16..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Length and payload checksum of the record `offset`, if its head is whole.
fn parse_head(head: &[u8], offset: Offset) -> Option<(u64, u32)> {
    let whole =
        head.len() >= RECORD_HEAD && u32_at(head, 16) == crc32fast::hash(&head[..16]) && u64_at(head, 8) == offset;
    whole.then(|| (u64::from(u32_at(head, 0)), u32_at(head, 4)))
}

/// What open found: the segments, oldest first (one at least), the last one's file, and the next record's offset.
pub(super) struct Found {
    pub segments: Vec<Segment>,
    pub file: File,
    pub next: Offset,
}

/// Reads the folder, which is made if missing, and cuts off a torn tail.
pub(super) fn recover(dir: &Path, migration: MigrationId) -> Result<Found> {
    fs::create_dir_all(dir).map_err(|e| disk("make the folder", dir, e))?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent)?;
    }
    let durable = read_mark(dir, migration)?;
    let mut bases = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| disk("read the folder", dir, e))? {
        let path = entry.map_err(|e| disk("read the folder", dir, e))?.path();
        let base = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<Offset>().ok());
        if let (Some(base), Some("seg")) = (base, path.extension().and_then(|e| e.to_str())) {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    let mut segments = Vec::with_capacity(bases.len());
    for (i, &base) in bases.iter().enumerate() {
        let path = path_of(dir, base);
        match check_head(&path, base, migration)? {
            Some(end) => segments.push(Segment { base, path, end }),
            // A crash while the file was made. Its predecessor was synced before, so nothing is lost with it.
            None if i + 1 == bases.len() && base >= durable => {
                fs::remove_file(&path).map_err(|e| disk("remove the unfinished segment", &path, e))?;
            }
            None => return Err(damaged(&path, "its head cannot be read")),
        }
    }
    let Some(last) = segments.last_mut() else {
        if durable > 0 {
            return Err(damaged(dir, format!("{durable} records were durable, no segment is left")));
        }
        let (segment, file) = create(dir, 0, migration)?;
        return Ok(Found { segments: vec![segment], file, next: 0 });
    };
    let file = File::options().read(true).write(true).open(&last.path).map_err(|e| disk("open", &last.path, e))?;
    let (next, end) = scan(&file, last)?;
    if next < durable {
        return Err(damaged(&last.path, format!("record {next} was durable and cannot be read")));
    }
    if end < last.end {
        tracing::warn!(file = %last.path.display(), bytes = last.end - end, "cutting off records that never became durable");
    }
    // Records above the mark that are whole are kept; they become durable now, before anyone reads them.
    file.set_len(end).and_then(|()| file.sync_all()).map_err(|e| disk("cut the tail of", &last.path, e))?;
    last.end = end;
    Ok(Found { segments, file, next })
}

/// Length of the file, or `None` if its head is not whole.
fn check_head(path: &Path, base: Offset, migration: MigrationId) -> Result<Option<u64>> {
    let file = File::open(path).map_err(|e| disk("open", path, e))?;
    let len = file.metadata().map_err(|e| disk("read", path, e))?.len();
    let mut head = [0; SEGMENT_HEAD as usize];
    if len >= MAGIC.len() as u64 {
        let magic = &mut head[..MAGIC.len()];
        file.read_exact_at(magic, 0).map_err(|e| disk("read", path, e))?;
        // Ahead of everything else: what cannot be read may be thrown away further on, and this one can be read, by who wrote it.
        if magic.starts_with(FAMILY) && magic != MAGIC {
            return Err(newer(path, magic[FAMILY.len()]));
        }
    }
    if len < SEGMENT_HEAD {
        return Ok(None);
    }
    file.read_exact_at(&mut head, 0).map_err(|e| disk("read", path, e))?;
    if &head[..8] != MAGIC || u32_at(&head, 36) != crc32fast::hash(&head[..36]) {
        return Ok(None);
    }
    if head[8..24] != migration.as_bytes()[..] {
        return Err(foreign(path));
    }
    if u64_at(&head, 24) != base {
        return Err(damaged(path, "its name and its head differ"));
    }
    Ok(Some(len))
}

fn newer(path: &Path, version: u8) -> Error {
    let (theirs, ours) = (char::from(version), char::from(MAGIC[FAMILY.len()]));
    let text = format!("the log {} has the format {theirs}, this drover knows {ours}", path.display());
    Error::new(codes::LOG, Fault::User, Retry::Never, text).remedy("use the drover that wrote it, or a newer one")
}

fn foreign(path: &Path) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, format!("the log {} belongs to another migration", path.display()))
        .remedy("use the state folder of this migration, or remove the other migration first")
}

/// Reads all records of the last segment: the offset after the last whole one, and where it ends.
fn scan(file: &File, segment: &Segment) -> Result<(Offset, u64)> {
    let (mut at, mut next) = (SEGMENT_HEAD, segment.base);
    let mut window = BytesMut::new();
    loop {
        let left = segment.end - at;
        let mut want = left.min(BATCH);
        read_at(file, segment, at, want, &mut window)?;
        let mut used = 0usize;
        loop {
            let rest = &window[used..];
            let Some((len, crc)) = parse_head(rest, next) else { break };
            let whole = RECORD_HEAD as u64 + len;
            if whole > rest.len() as u64 {
                if used == 0 && whole <= left && whole > want {
                    want = whole;
                    read_at(file, segment, at, want, &mut window)?;
                    continue;
                }
                break;
            }
            if crc32fast::hash(&rest[RECORD_HEAD..whole as usize]) != crc {
                return Ok((next, at + used as u64));
            }
            used += whole as usize;
            next += 1;
        }
        at += used as u64;
        if used == 0 {
            return Ok((next, at));
        }
    }
}

fn read_at(file: &File, segment: &Segment, at: u64, want: u64, window: &mut BytesMut) -> Result<()> {
    window.clear();
    window.resize(want as usize, 0);
    file.read_exact_at(window, at).map_err(|e| disk("read", &segment.path, e))
}

/// A reader's place in the files.
#[derive(Debug)]
pub(super) struct Cursor {
    file: File,
    base: Offset,
    /// Place and offset of the next record in the file.
    at: u64,
    next: Offset,
}

/// Reads records from `from` on, about a MiB of them and at least one. `segments` must hold `from`.
pub(super) fn read_batch(
    cursor: Option<Cursor>,
    segments: &[Segment],
    from: Offset,
) -> Result<(Cursor, Vec<(Offset, Bytes)>)> {
    let index = segments.partition_point(|s| s.base <= from);
    let Some(mut segment) = index.checked_sub(1).and_then(|i| segments.get(i)) else {
        return Err(super::trimmed(from, segments.first().map_or(from, |s| s.base)));
    };
    let mut cursor = match cursor {
        Some(c) if c.base == segment.base && c.next <= from => c,
        _ => open_cursor(segment)?,
    };
    let mut out = Vec::new();
    loop {
        if cursor.at >= segment.end {
            let following = segments.iter().find(|s| s.base > segment.base);
            return match following {
                _ if !out.is_empty() => Ok((cursor, out)),
                Some(f) if f.base == cursor.next => {
                    segment = f;
                    cursor = open_cursor(f)?;
                    continue;
                }
                Some(f) => {
                    Err(damaged(&f.path, format!("records {} to {} before it are missing", cursor.next, f.base)))
                }
                None => Err(damaged(&segment.path, format!("it ends before record {from}"))),
            };
        }
        let mut window = BytesMut::new();
        let left = segment.end - cursor.at;
        read_at(&cursor.file, segment, cursor.at, left.min(BATCH), &mut window)?;
        let bad = |next: Offset, what: &str| damaged(&segment.path, format!("{what} of record {next}"));
        let (len, _) = parse_head(&window, cursor.next).ok_or_else(|| bad(cursor.next, "head"))?;
        let whole = RECORD_HEAD as u64 + len;
        if whole > left {
            return Err(bad(cursor.next, "length"));
        }
        if whole > window.len() as u64 {
            if cursor.next < from {
                // Only passing by.
                cursor.at += whole;
                cursor.next += 1;
                continue;
            }
            read_at(&cursor.file, segment, cursor.at, whole, &mut window)?;
        }
        let mut window = window.freeze();
        while window.len() >= RECORD_HEAD {
            // Records before the damage are delivered first.
            let Some((len, crc)) = parse_head(&window, cursor.next) else {
                return if out.is_empty() { Err(bad(cursor.next, "head")) } else { Ok((cursor, out)) };
            };
            let whole = RECORD_HEAD + len as usize;
            if whole > window.len() {
                break;
            }
            let payload = window.split_to(whole).slice(RECORD_HEAD..);
            if cursor.next >= from {
                if crc32fast::hash(&payload) != crc {
                    return if out.is_empty() { Err(bad(cursor.next, "checksum")) } else { Ok((cursor, out)) };
                }
                out.push((cursor.next, payload));
            }
            cursor.at += whole as u64;
            cursor.next += 1;
        }
        if !out.is_empty() {
            return Ok((cursor, out));
        }
    }
}

fn open_cursor(segment: &Segment) -> Result<Cursor> {
    let file = File::open(&segment.path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => damaged(&segment.path, "it is missing"),
        _ => disk("open", &segment.path, e),
    })?;
    Ok(Cursor { file, base: segment.base, at: SEGMENT_HEAD, next: segment.base })
}

/// Opens the mark for writing.
pub(super) fn open_mark(dir: &Path) -> Result<File> {
    let path = dir.join("durable");
    File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| disk("open", &path, e))
}

/// Notes how many records are durable.
pub(super) fn write_mark(mark: &File, migration: MigrationId, durable: u64) -> std::io::Result<()> {
    mark.write_all_at(&numbered(migration, durable), 0)
}

fn numbered(migration: MigrationId, number: u64) -> [u8; 28] {
    let mut b = [0; 28];
    b[..16].copy_from_slice(migration.as_bytes());
    b[16..24].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&b[..24]);
    b[24..].copy_from_slice(&crc.to_le_bytes());
    b
}

/// Zero if there is none or a power loss tore it.
fn read_mark(dir: &Path, migration: MigrationId) -> Result<u64> {
    read_numbered(&dir.join("durable"), migration).map(|n| n.unwrap_or(0))
}

fn read_numbered(path: &Path, migration: MigrationId) -> Result<Option<u64>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(disk("read", path, e)),
    };
    if bytes.len() != 28 || u32_at(&bytes, 24) != crc32fast::hash(&bytes[..24]) {
        return Ok(None);
    }
    if bytes[..16] != migration.as_bytes()[..] {
        return Err(foreign(path));
    }
    Ok(Some(u64_at(&bytes, 16)))
}

/// Counts the processes that opened this log, whatever their migration; durable when it returns. Written beside and renamed, so that it
/// never goes back.
pub(super) fn next_life(path: &Path) -> Result<u64> {
    let life = match read_numbered(path, MigrationId::nil())? {
        Some(life) => life + 1,
        None if path.exists() => return Err(damaged(path, "it cannot be read")),
        None => 1,
    };
    let beside = path.with_extension("new");
    let written = File::create(&beside).and_then(|mut f| {
        f.write_all(&numbered(MigrationId::nil(), life))?;
        f.sync_all()?;
        fs::rename(&beside, path)
    });
    written.map_err(|e| disk("write", path, e))?;
    if let Some(dir) = path.parent() {
        sync_dir(dir)?;
    }
    Ok(life)
}
