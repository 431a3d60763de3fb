//! From the bytes of a value in a row image to its cell. Nothing is allocated per value; texts in JSON go through a buffer that is used again.

use super::bytes::{big, little, little_signed};
use super::json;
use super::table_map::{Column, code};
use crate::cells;
use crate::charset::Charset;
use crate::round::Rounding;
use crate::types::{Kind, MyType};
use drover_model::row::put_varint;
use std::io::Read;

/// How many bytes a value of a column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Fixed(usize),
    /// The length stands ahead, in so many bytes.
    Counted(usize),
}

/// `None` for types whose values cannot be told apart from what follows.
pub fn width(column: &Column) -> Option<Width> {
    use Width::{Counted, Fixed};
    use code::*;
    let fraction = |digits: u8| usize::from(digits.min(6).div_ceil(2));
    let by_length = || Counted(if column.length() > 255 { 2 } else { 1 });
    let prefix = || (1..=4).contains(&column.meta[0]).then_some(Counted(usize::from(column.meta[0])));
    Some(match column.code {
        NULL => Fixed(0),
        TINY | YEAR => Fixed(1),
        SHORT => Fixed(2),
        INT24 | DATE | NEWDATE | TIME => Fixed(3),
        LONG | FLOAT | TIMESTAMP => Fixed(4),
        LONGLONG | DOUBLE | DATETIME => Fixed(8),
        TIMESTAMP2 => Fixed(4 + fraction(column.meta[0])),
        DATETIME2 => Fixed(5 + fraction(column.meta[0])),
        TIME2 => Fixed(3 + fraction(column.meta[0])),
        NEWDECIMAL => Fixed(cells::decimal_length(column.meta[0], column.meta[1])?),
        BIT => Fixed(usize::from(column.meta[1]) + usize::from(column.meta[0] > 0)),
        ENUM | SET => Fixed(usize::from(column.meta[0])),
        STRING | VARCHAR | VAR_STRING | MARIADB_VARCHAR_COMPRESSED => by_length(),
        BLOB | TINY_BLOB | MEDIUM_BLOB | LONG_BLOB | MARIADB_BLOB_COMPRESSED | GEOMETRY | JSON | VECTOR => prefix()?,
        _ => return None,
    })
}

/// How a value becomes a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decode {
    Signed,
    Unsigned,
    Year,
    Float,
    Double,
    /// The same, rounded as the server would.
    RoundedFloat(Rounding),
    RoundedDouble(Rounding),
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
        /// UTC is said behind it.
        zone: bool,
    },
    /// The forms of before 5.6, which live on in tables from then.
    OldTime,
    OldDateTime,
    OldTimestamp {
        zone: bool,
    },
    Bit {
        length: u8,
    },
    Enum {
        labels: Vec<String>,
    },
    Set {
        labels: Vec<String>,
    },
    Plain,
    /// In another character set than UTF-8, to which it goes.
    Text {
        charset: Charset,
        compressed: bool,
    },
    /// A year as a number.
    Number,
    /// The log leaves trailing zeros out.
    Padded {
        length: usize,
    },
    Compressed,
    Json,
    Uuid,
    Inet4,
    Inet6,
}

impl Decode {
    /// How values of a column of this type are read that the log describes so; `None` if the two do not agree.
    pub fn of(column: &Column, my: &MyType) -> Option<Decode> {
        let code = column.code;
        let is = |wanted: bool, decode: Decode| wanted.then_some(decode);
        let compressed = matches!(code, code::MARIADB_VARCHAR_COMPRESSED | code::MARIADB_BLOB_COMPRESSED);
        let plain = if compressed { Decode::Compressed } else { Decode::Plain };
        // A compressed text has a byte that says how it is compressed.
        let head = u32::from(code == code::MARIADB_VARCHAR_COMPRESSED);
        let length = u32::from(column.length()).saturating_sub(head);
        // Characters take 1 to 4 bytes, by the character set.
        let characters = |n: u32| length >= n && length <= 4 * n.max(1);
        let blob = |prefix: u8| {
            let blob = matches!(
                code,
                code::BLOB | code::TINY_BLOB | code::MEDIUM_BLOB | code::LONG_BLOB | code::MARIADB_BLOB_COMPRESSED
            );
            blob && column.meta[0] == prefix
        };
        let varchar = matches!(code, code::VARCHAR | code::MARIADB_VARCHAR_COMPRESSED);
        let fraction = |new: u8, old: u8, digits: u8, decode: Decode, before: Decode| match code {
            c if c == new && column.meta[0] == digits => Some(decode),
            c if c == old && digits == 0 => Some(before),
            _ => None,
        };
        if column.unsigned.is_some_and(|unsigned| unsigned != my.unsigned) {
            return None;
        }
        match &my.kind {
            Kind::Int { bytes } => {
                let same = matches!(
                    (bytes, code),
                    (1, code::TINY) | (2, code::SHORT) | (3, code::INT24) | (4, code::LONG) | (8, code::LONGLONG)
                );
                is(same, if my.unsigned { Decode::Unsigned } else { Decode::Signed })
            }
            Kind::Float { .. } => is(code == code::FLOAT, Decode::Float),
            Kind::Double { .. } => is(code == code::DOUBLE, Decode::Double),
            Kind::Decimal { precision, scale } => {
                let same = code == code::NEWDECIMAL && column.meta == [*precision, *scale];
                is(same, Decode::Decimal { precision: *precision, scale: *scale })
            }
            Kind::Bit { length } => {
                let bits = u16::from(column.meta[1]) * 8 + u16::from(column.meta[0]);
                is(code == code::BIT && bits == u16::from(*length), Decode::Bit { length: *length })
            }
            Kind::Year => is(code == code::YEAR, Decode::Year),
            Kind::Date => is(matches!(code, code::DATE | code::NEWDATE), Decode::Date),
            &Kind::Time { digits } => {
                fraction(code::TIME2, code::TIME, digits, Decode::Time { digits }, Decode::OldTime)
            }
            &Kind::DateTime { digits } => {
                fraction(code::DATETIME2, code::DATETIME, digits, Decode::DateTime { digits }, Decode::OldDateTime)
            }
            &Kind::Timestamp { digits } => fraction(
                code::TIMESTAMP2,
                code::TIMESTAMP,
                digits,
                Decode::Timestamp { digits, zone: false },
                Decode::OldTimestamp { zone: false },
            ),
            Kind::Char { length } => is(code == code::STRING && characters(*length), Decode::Plain),
            Kind::VarChar { length } => is(varchar && characters(*length), plain),
            Kind::Text { prefix } | Kind::Blob { prefix } => is(blob(*prefix), plain),
            Kind::Binary { length: n } => {
                is(code == code::STRING && length == *n, Decode::Padded { length: *n as usize })
            }
            Kind::VarBinary { length: n } => is(varchar && length == *n, plain),
            Kind::Enum { labels } => {
                let bytes = if labels.len() < 256 { 1 } else { 2 };
                is(code == code::ENUM && length == bytes, Decode::Enum { labels: labels.clone() })
            }
            Kind::Set { labels } => {
                let bytes = match labels.len().div_ceil(8) {
                    n @ 0..=4 => n.max(1) as u32,
                    _ => 8,
                };
                is(code == code::SET && length == bytes, Decode::Set { labels: labels.clone() })
            }
            Kind::Json => is(code == code::JSON, Decode::Json),
            Kind::Geometry { .. } => is(code == code::GEOMETRY, Decode::Plain),
            // MariaDB has vectors as binary texts.
            Kind::Vector { .. } => is(code == code::VECTOR || varchar, Decode::Plain),
            Kind::Uuid => is(code == code::STRING && length == 16, Decode::Uuid),
            Kind::Inet4 => is(code == code::STRING && length == 4, Decode::Inet4),
            Kind::Inet6 => is(code == code::STRING && length == 16, Decode::Inet6),
        }
    }

    /// The same for canonical cells. `None`: text in this character set cannot be read.
    pub fn canonical(self, my: &MyType) -> Option<Decode> {
        Some(match self {
            Decode::Timestamp { digits, .. } => Decode::Timestamp { digits, zone: true },
            Decode::OldTimestamp { .. } => Decode::OldTimestamp { zone: true },
            Decode::Year => Decode::Number,
            Decode::Plain | Decode::Compressed if my.is_text() => {
                match Charset::of(my.charset.as_deref().unwrap_or("utf8mb4"))? {
                    Charset::Utf8 => self,
                    charset => Decode::Text { charset, compressed: self == Decode::Compressed },
                }
            }
            other => other,
        })
    }

    /// The same for a column that is read rounded.
    pub fn rounded(self, rounding: Option<Rounding>) -> Decode {
        match (self, rounding) {
            (Decode::Float, Some(rounding)) => Decode::RoundedFloat(rounding),
            (Decode::Double, Some(rounding)) => Decode::RoundedDouble(rounding),
            (other, _) => other,
        }
    }

    /// Appends the cell of a value. `None` if the bytes are none of this type.
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>, bytes: &[u8], scratch: &mut Vec<u8>) -> Option<()> {
        match self {
            Decode::Plain => cells::put_bytes(out, bytes),
            Decode::Signed => cells::put_int(out, little_signed(bytes)),
            Decode::Unsigned => cells::put_uint(out, little(bytes)),
            Decode::Year => {
                let year = *bytes.first()?;
                cells::put_year(out, if year == 0 { 0 } else { 1900 + u16::from(year) });
            }
            Decode::Float => cells::put_float(out, f32::from_le_bytes(*bytes.first_chunk()?)),
            Decode::Double => cells::put_double(out, f64::from_le_bytes(*bytes.first_chunk()?)),
            Decode::RoundedFloat(r) => cells::put_float(out, r.float(f32::from_le_bytes(*bytes.first_chunk()?))),
            Decode::RoundedDouble(r) => cells::put_double(out, r.double(f64::from_le_bytes(*bytes.first_chunk()?))),
            Decode::Decimal { precision, scale } => cells::put_decimal(out, bytes, *precision, *scale)?,
            Decode::Date => {
                let n = little(bytes) as u32;
                cells::put_date(out, n >> 9, n >> 5 & 15, n & 31);
            }
            Decode::Time { digits } => put_time(out, bytes, *digits),
            Decode::DateTime { digits } => put_datetime(out, bytes, *digits)?,
            Decode::Timestamp { digits, zone } => {
                let (seconds, fraction) = bytes.split_first_chunk::<4>()?;
                cells::put_timestamp(out, u32::from_be_bytes(*seconds), micros(fraction), *digits, *zone);
            }
            Decode::Number => {
                let year = *bytes.first()?;
                cells::put_uint(out, if year == 0 { 0 } else { 1900 + u64::from(year) });
            }
            Decode::Text { charset, compressed } => {
                if *compressed {
                    scratch.clear();
                    unpack_column(bytes, scratch)?;
                    charset.put_cell(out, scratch);
                } else {
                    charset.put_cell(out, bytes);
                }
            }
            Decode::OldTime => {
                let n = little_signed(bytes);
                let (negative, n) = (n < 0, n.unsigned_abs() as u32);
                cells::put_time(out, negative, n / 10_000, n / 100 % 100, n % 100, 0, 0);
            }
            Decode::OldDateTime => {
                let n = little(bytes);
                let (date, clock) = (n / 1_000_000, (n % 1_000_000) as u32);
                let date = ((date / 10_000) as u32, (date / 100 % 100) as u32, (date % 100) as u32);
                cells::put_datetime(out, date, (clock / 10_000, clock / 100 % 100, clock % 100), 0, 0);
            }
            Decode::OldTimestamp { zone } => cells::put_timestamp(out, little(bytes) as u32, 0, 0, *zone),
            Decode::Bit { length } => cells::put_bit(out, bytes, *length),
            Decode::Enum { labels } => cells::put_enum(out, little(bytes) as usize, labels)?,
            Decode::Set { labels } => cells::put_set(out, little(bytes), labels)?,
            Decode::Padded { length } => {
                let length = (*length).max(bytes.len());
                put_varint(out, length as u64 + 2);
                out.extend_from_slice(bytes);
                out.resize(out.len() + length - bytes.len(), 0);
            }
            Decode::Compressed => {
                scratch.clear();
                unpack_column(bytes, scratch)?;
                cells::put_bytes(out, scratch);
            }
            Decode::Json => {
                scratch.clear();
                json::put_text(scratch, bytes)?;
                cells::put_bytes(out, scratch);
            }
            Decode::Uuid => cells::put_uuid(out, &padded(bytes)?),
            Decode::Inet4 => cells::put_inet4(out, padded(bytes)?),
            Decode::Inet6 => cells::put_inet6(out, padded(bytes)?),
        }
        Some(())
    }
}

/// Microseconds from the bytes behind the seconds: hundredths, ten-thousandths or millionths.
fn micros(fraction: &[u8]) -> u32 {
    let n = big(fraction) as u32;
    match fraction.len() {
        1 => n * 10_000,
        2 => n * 100,
        _ => n,
    }
}

/// A TIME: a big-endian number that is shifted so that it is never negative, with a fraction that counts upwards even below zero.
fn put_time(out: &mut Vec<u8>, bytes: &[u8], digits: u8) {
    let fraction = bytes.len().saturating_sub(3);
    let bits = 8 * fraction as u32;
    let n = big(bytes) as i64 - (0x80_0000 << bits);
    let (negative, n) = (n < 0, n.unsigned_abs());
    let whole = (n >> bits) as u32;
    let part = (n & ((1 << bits) - 1)) as u32;
    let micros = part * [1, 10_000, 100, 1][fraction.min(3)];
    cells::put_time(out, negative, whole >> 12 & 0x3ff, whole >> 6 & 63, whole & 63, micros, digits);
}

fn put_datetime(out: &mut Vec<u8>, bytes: &[u8], digits: u8) -> Option<()> {
    let (whole, fraction) = bytes.split_at_checked(5)?;
    let n = big(whole) & 0x7f_ffff_ffff;
    let months = (n >> 22) as u32;
    let bits = |shift: u32, count: u32| (n >> shift & ((1 << count) - 1)) as u32;
    let date = (months / 13, months % 13, bits(17, 5));
    cells::put_datetime(out, date, (bits(12, 5), bits(6, 6), bits(0, 6)), micros(fraction), digits);
    Some(())
}

/// Values of a fixed size, of which the log leaves trailing zeros out.
fn padded<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    out.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(out)
}

/// A value of a COMPRESSED column of MariaDB (`compress_zlib` in its sql/field.cc).
fn unpack_column(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let Some((&head, data)) = bytes.split_first() else { return Some(()) };
    if head == 0 {
        out.extend_from_slice(data);
        return Some(());
    }
    if head & 0xf0 != 0x80 {
        return None;
    }
    let (length, data) = data.split_at_checked(usize::from(head & 7))?;
    unpack(data, big(length), head & 8 != 0, out)
}

/// Appends `length` bytes that a zlib stream holds (`bare`: without zlib's own head). Allocates as they come.
pub fn unpack(data: &[u8], length: u64, bare: bool, out: &mut Vec<u8>) -> Option<()> {
    let before = out.len();
    // One byte more shows that there are more.
    let limit = length.checked_add(1)?;
    let read = if bare {
        flate2::read::DeflateDecoder::new(data).take(limit).read_to_end(out)
    } else {
        flate2::read::ZlibDecoder::new(data).take(limit).read_to_end(out)
    };
    read.ok()?;
    ((out.len() - before) as u64 == length).then_some(())
}
