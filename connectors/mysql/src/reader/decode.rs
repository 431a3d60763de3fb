//! Rows of the server's binary form, into cells.
//!
//! Source: MySQL's "Binary Protocol Resultset Row" in its internals manual.

use crate::cells;
use crate::charset::Charset;
use crate::types::{Kind, MyType};
use crate::wire::{ColumnDef, read_lenenc};
use drover_model::plan::RowFormat;
use drover_model::row::{Cell, put_cell};
use drover_model::{Error, Result, TablePlan};
use mysql_common::constants::ColumnType;

/// How the values of one column are sent, and which form their cells have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoder {
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Year,
    Float,
    Double,
    /// A FLOAT that is sent as a DOUBLE, since the server computed it.
    Narrowed,
    /// Bytes with their length, as they are.
    Bytes,
    /// Text as it is stored, which becomes UTF-8.
    Text(Charset),
    /// A number as text, perhaps with leading zeros.
    Digits,
    Bit {
        length: u8,
    },
    Date,
    DateTime {
        digits: u8,
    },
    /// A moment of UTC, with that said behind it.
    Instant {
        digits: u8,
    },
    Time {
        digits: u8,
    },
}

/// The decoders of a statement's columns: those of the plan, perhaps more of plain types behind them.
pub fn decoders(plan: &TablePlan, sent: &[ColumnDef]) -> Result<Vec<Decoder>> {
    if sent.len() < plan.columns.len() {
        return Err(Error::internal("a statement gives fewer columns than its table's plan has").table(&plan.source));
    }
    let canonical = plan.format == RowFormat::Canonical;
    let mut out = Vec::with_capacity(sent.len());
    for (i, def) in sent.iter().enumerate() {
        let column = plan.columns.get(i);
        let wanted = match column {
            Some(column) => Some(MyType::parse(&column.origin_type).ok_or_else(|| {
                let text = format!("the type {:?} is unknown", column.origin_type);
                Error::internal(text).table(&plan.source).column(&column.source)
            })?),
            None => None,
        };
        let decoder = decoder(*def, wanted.as_ref()).map(|d| match (canonical, d, wanted.as_ref().map(|t| &t.kind)) {
            (true, Decoder::DateTime { digits }, Some(Kind::Timestamp { .. })) => Decoder::Instant { digits },
            (true, Decoder::Year, _) => Decoder::Int { bytes: 2, unsigned: true },
            (true, Decoder::Bytes, Some(_)) => wanted.as_ref().and_then(own_charset).map_or(d, Decoder::Text),
            _ => d,
        });
        out.push(decoder.ok_or_else(|| {
            let text = format!("values are sent as {:?}, which is not what the plan says", def.kind);
            Error::internal(text).table(&plan.source).column(column.map_or("", |c| &c.source))
        })?);
    }
    Ok(out)
}

/// The character set of a text that is read as it is stored and becomes UTF-8 here, for other kinds of databases; `None`: it is UTF-8 as it comes.
pub fn own_charset(t: &MyType) -> Option<Charset> {
    let set = t.charset.as_deref().filter(|_| t.is_text())?;
    Charset::of(set).filter(|c| *c != Charset::Utf8)
}

fn decoder(sent: ColumnDef, wanted: Option<&MyType>) -> Option<Decoder> {
    use ColumnType::*;
    let digits = |kind: Option<&Kind>| match kind {
        Some(Kind::Time { digits } | Kind::DateTime { digits } | Kind::Timestamp { digits }) => Some(*digits),
        _ => None,
    };
    let kind = wanted.map(|t| &t.kind);
    let unsigned = sent.unsigned;
    Some(match sent.kind {
        MYSQL_TYPE_TINY => Decoder::Int { bytes: 1, unsigned },
        MYSQL_TYPE_SHORT => Decoder::Int { bytes: 2, unsigned },
        MYSQL_TYPE_INT24 | MYSQL_TYPE_LONG => Decoder::Int { bytes: 4, unsigned },
        MYSQL_TYPE_LONGLONG => Decoder::Int { bytes: 8, unsigned },
        MYSQL_TYPE_YEAR => Decoder::Year,
        MYSQL_TYPE_FLOAT => Decoder::Float,
        MYSQL_TYPE_DOUBLE if matches!(kind, Some(Kind::Float { .. })) => Decoder::Narrowed,
        MYSQL_TYPE_DOUBLE => Decoder::Double,
        MYSQL_TYPE_DATE | MYSQL_TYPE_NEWDATE => Decoder::Date,
        MYSQL_TYPE_DATETIME | MYSQL_TYPE_TIMESTAMP | MYSQL_TYPE_DATETIME2 | MYSQL_TYPE_TIMESTAMP2 => {
            Decoder::DateTime { digits: digits(kind)? }
        }
        MYSQL_TYPE_TIME | MYSQL_TYPE_TIME2 => Decoder::Time { digits: digits(kind)? },
        MYSQL_TYPE_BIT => match kind {
            Some(Kind::Bit { length }) => Decoder::Bit { length: *length },
            _ => return None,
        },
        MYSQL_TYPE_DECIMAL | MYSQL_TYPE_NEWDECIMAL => Decoder::Digits,
        _ => Decoder::Bytes,
    })
}

/// Appends the cells of a row (without its first byte) to `out`; `None` if it is damaged.
#[inline]
pub fn put_row(row: &[u8], decoders: &[Decoder], out: &mut Vec<u8>) -> Option<()> {
    // The first two bits of the map of nulls belong to nobody.
    let (nulls, mut rest) = row.split_at_checked((decoders.len() + 9) / 8)?;
    for (i, decoder) in decoders.iter().enumerate() {
        let bit = i + 2;
        if nulls[bit / 8] >> (bit % 8) & 1 == 1 {
            put_cell(out, Cell::Null);
        } else {
            put_value(*decoder, &mut rest, out)?;
        }
    }
    rest.is_empty().then_some(())
}

#[inline]
fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(n)?;
    *from = rest;
    Some(head)
}

#[inline]
fn array<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

#[inline]
fn sized<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_lenenc(from)?).ok()?;
    take(from, length)
}

#[inline]
fn put_value(decoder: Decoder, rest: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    match decoder {
        Decoder::Bytes => put_cell(out, Cell::Value(sized(rest)?)),
        Decoder::Text(charset) => charset.put_cell(out, sized(rest)?),
        Decoder::Int { bytes, unsigned } => {
            let (signed, plain) = match bytes {
                1 => {
                    let b = array::<1>(rest)?;
                    (i64::from(i8::from_le_bytes(b)), u64::from(b[0]))
                }
                2 => {
                    let b = array::<2>(rest)?;
                    (i64::from(i16::from_le_bytes(b)), u64::from(u16::from_le_bytes(b)))
                }
                4 => {
                    let b = array::<4>(rest)?;
                    (i64::from(i32::from_le_bytes(b)), u64::from(u32::from_le_bytes(b)))
                }
                _ => {
                    let b = array::<8>(rest)?;
                    (i64::from_le_bytes(b), u64::from_le_bytes(b))
                }
            };
            if unsigned { cells::put_uint(out, plain) } else { cells::put_int(out, signed) }
        }
        Decoder::Digits => cells::put_zerofilled(out, sized(rest)?),
        Decoder::Float => cells::put_float(out, f32::from_le_bytes(array(rest)?)),
        Decoder::Double => cells::put_double(out, f64::from_le_bytes(array(rest)?)),
        Decoder::Narrowed => cells::put_float(out, f64::from_le_bytes(array(rest)?) as f32),
        Decoder::Year => cells::put_year(out, u16::from_le_bytes(array(rest)?)),
        Decoder::Bit { length } => cells::put_bit(out, sized(rest)?, length),
        Decoder::Date => {
            let ((year, month, day), _, _) = date_time(sized(rest)?)?;
            cells::put_date(out, year, month, day);
        }
        Decoder::DateTime { digits } => {
            let (date, clock, micros) = date_time(sized(rest)?)?;
            cells::put_datetime(out, date, clock, micros, digits);
        }
        Decoder::Instant { digits } => {
            let (date, clock, micros) = date_time(sized(rest)?)?;
            cells::put_instant(out, date, clock, micros, digits);
        }
        Decoder::Time { digits } => {
            let bytes = sized(rest)?;
            if bytes.is_empty() {
                cells::put_time(out, false, 0, 0, 0, 0, digits);
                return Some(());
            }
            let mut bytes = bytes;
            let negative = array::<1>(&mut bytes)?[0] != 0;
            let days = u32::from_le_bytes(array(&mut bytes)?);
            let [hour, minute, second] = array(&mut bytes)?;
            let micros = if bytes.is_empty() { 0 } else { u32::from_le_bytes(array(&mut bytes)?) };
            let hours = days * 24 + u32::from(hour);
            cells::put_time(out, negative, hours, u32::from(minute), u32::from(second), micros, digits);
        }
    }
    Some(())
}

type Triple = (u32, u32, u32);

/// A date with or without a time; parts that are zero at the end are not sent.
#[inline]
fn date_time(mut bytes: &[u8]) -> Option<(Triple, Triple, u32)> {
    let (mut date, mut clock, mut micros) = ((0, 0, 0), (0, 0, 0), 0);
    if !bytes.is_empty() {
        let year = u16::from_le_bytes(array(&mut bytes)?);
        let [month, day] = array(&mut bytes)?;
        date = (u32::from(year), u32::from(month), u32::from(day));
    }
    if !bytes.is_empty() {
        let [hour, minute, second] = array(&mut bytes)?;
        clock = (u32::from(hour), u32::from(minute), u32::from(second));
    }
    if !bytes.is_empty() {
        micros = u32::from_le_bytes(array(&mut bytes)?);
    }
    Some((date, clock, micros))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::row;

    fn shown(decoders: &[Decoder], bytes: &[u8]) -> Vec<Option<String>> {
        let mut out = Vec::new();
        put_row(bytes, decoders, &mut out).unwrap();
        row::cells(&out).map(|c| c.value().map(|v| String::from_utf8(v.to_vec()).unwrap())).collect()
    }

    #[test]
    fn values_of_each_kind() {
        let int = |bytes, unsigned| Decoder::Int { bytes, unsigned };
        let one = |decoder, bytes: &[u8]| shown(&[decoder], &[&[0], bytes].concat())[0].clone().unwrap();
        assert_eq!(one(int(1, false), &[0xff]), "-1");
        assert_eq!(one(int(1, true), &[0xff]), "255");
        assert_eq!(one(int(8, true), &[0xff; 8]), "18446744073709551615");
        assert_eq!(one(int(8, false), &[0, 0, 0, 0, 0, 0, 0, 0x80]), "-9223372036854775808");
        assert_eq!(one(int(4, false), &[0, 0, 0x80, 0xff]), "-8388608");
        assert_eq!(one(Decoder::Year, &[0, 0]), "0000");
        assert_eq!(one(Decoder::Date, &[0]), "0000-00-00");
        assert_eq!(one(Decoder::Date, &[4, 0xe8, 7, 2, 0]), "2024-02-00");
        assert_eq!(one(Decoder::DateTime { digits: 3 }, &[4, 0xe8, 7, 2, 9]), "2024-02-09 00:00:00.000");
        assert_eq!(
            one(Decoder::DateTime { digits: 6 }, &[11, 0xe8, 7, 2, 9, 1, 2, 3, 1, 0, 0, 0]),
            "2024-02-09 01:02:03.000001"
        );
        assert_eq!(one(Decoder::Time { digits: 0 }, &[0]), "00:00:00");
        assert_eq!(one(Decoder::Time { digits: 0 }, &[8, 1, 34, 0, 0, 0, 22, 59, 59]), "-838:59:59");
        assert_eq!(one(Decoder::Digits, &[6, b'0', b'0', b'0', b'.', b'5', b'0']), "0.50");
        assert_eq!(one(Decoder::Bit { length: 3 }, &[1, 5]), "101");
        assert_eq!(one(Decoder::Bytes, &[2, b'h', b'i']), "hi");
    }

    #[test]
    fn nulls_and_damage() {
        // Nine columns: the map of nulls takes two bytes.
        let decoders = [Decoder::Int { bytes: 1, unsigned: true }; 9];
        let row = shown(&decoders, &[0b0000_1100, 0b0000_0100, 1, 2, 3, 4, 5, 6]);
        assert_eq!(
            (row[0].as_deref(), row[1].as_deref(), row[2].as_deref(), row[8].as_deref()),
            (None, None, Some("1"), None)
        );
        for bytes in [&[0u8][..], &[0, 5, b'x'], &[0, 1, b'x', b'y'], &[]] {
            assert!(put_row(bytes, &[Decoder::Bytes], &mut Vec::new()).is_none(), "{bytes:?}");
        }
    }
}
