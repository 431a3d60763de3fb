//! MySQL's binary JSON (the server's `sql-common/json_binary.h`) and the text that the server prints of it.
//!
//! Guarantee: the text of a document is what `SELECT` gives for it. Damaged bytes are refused: nesting is bounded, and the work is in proportion to the
//! bytes, also where they refer to each other in circles.

use super::bytes::{Fields, little_signed};
use crate::cells::{Text, decimal_text, double_text, push_clock, push_date};
use base64::Engine;

/// The server allows 100.
const DEPTH: usize = 120;

pub(super) mod tag {
    pub const SMALL_OBJECT: u8 = 0;
    pub const LARGE_OBJECT: u8 = 1;
    pub const SMALL_ARRAY: u8 = 2;
    pub const LARGE_ARRAY: u8 = 3;
    pub const LITERAL: u8 = 4;
    pub const INT16: u8 = 5;
    pub const UINT16: u8 = 6;
    pub const INT32: u8 = 7;
    pub const UINT32: u8 = 8;
    pub const INT64: u8 = 9;
    pub const UINT64: u8 = 10;
    pub const DOUBLE: u8 = 11;
    pub const STRING: u8 = 12;
    pub const OPAQUE: u8 = 15;
}

/// Appends the text of a document. `None` if the bytes are none.
pub fn put_text(out: &mut Vec<u8>, document: &[u8]) -> Option<()> {
    // What an old ALTER TABLE left in NOT NULL columns; the server reads it so.
    let Some((&tag, data)) = document.split_first() else {
        out.extend_from_slice(b"null");
        return Some(());
    };
    let mut budget = Budget(document.len());
    put_value(out, tag, data, &mut budget, 0)
}

/// Bytes that may still be looked at: each byte of a sound document belongs to one value.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Budget(bytes)
    }
    pub(super) fn spend(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.checked_sub(bytes)?;
        Some(())
    }
}

fn put_value(out: &mut Vec<u8>, tag: u8, data: &[u8], budget: &mut Budget, depth: usize) -> Option<()> {
    let Some(container) = Container::open(tag, data)? else {
        let used = put_scalar(out, tag, data)?;
        return budget.spend(used);
    };
    if depth > DEPTH {
        return None;
    }
    out.push(if container.object { b'{' } else { b'[' });
    for i in 0..container.count {
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        if container.object {
            let key = container.key(i)?;
            budget.spend(key.len())?;
            put_string(out, key);
            out.extend_from_slice(b": ");
        }
        let (tag, data) = container.value(i)?;
        // An inlined value is part of its entry, which is what is spent here.
        budget.spend(if container.inlined(tag) { 0 } else { 1 })?;
        put_value(out, tag, data, budget, depth + 1)?;
    }
    out.push(if container.object { b'}' } else { b']' });
    Some(())
}

/// An object or array: counts and offsets of two bytes each, or of four in the large forms.
pub(super) struct Container<'a> {
    pub(super) object: bool,
    wide: usize,
    pub(super) count: usize,
    bytes: &'a [u8],
}

impl<'a> Container<'a> {
    /// `Some(None)` for scalars.
    pub(super) fn open(tag: u8, data: &'a [u8]) -> Option<Option<Container<'a>>> {
        let (object, wide) = match tag {
            tag::SMALL_OBJECT => (true, 2),
            tag::LARGE_OBJECT => (true, 4),
            tag::SMALL_ARRAY => (false, 2),
            tag::LARGE_ARRAY => (false, 4),
            _ => return Some(None),
        };
        let mut f = Fields(data);
        let count = f.uint(wide)? as usize;
        let size = f.uint(wide)? as usize;
        let bytes = data.get(..size)?;
        let container = Container { object, wide, count, bytes };
        // All entries are there.
        (container.entries(count)? <= size).then_some(Some(container))
    }

    /// Where the entry of a value begins.
    fn entries(&self, i: usize) -> Option<usize> {
        let keys = if self.object { self.count.checked_mul(self.wide + 2)? } else { 0 };
        i.checked_mul(1 + self.wide)?.checked_add(2 * self.wide + keys)
    }

    pub(super) fn key(&self, i: usize) -> Option<&'a [u8]> {
        let mut f = Fields(self.bytes.get(2 * self.wide + i * (self.wide + 2)..)?);
        let (offset, length) = (f.uint(self.wide)? as usize, f.uint(2)? as usize);
        self.bytes.get(offset..)?.get(..length)
    }

    /// Whether values of this type stand in the entry itself.
    pub(super) fn inlined(&self, tag: u8) -> bool {
        match tag {
            tag::LITERAL | tag::INT16 | tag::UINT16 => true,
            tag::INT32 | tag::UINT32 => self.wide == 4,
            _ => false,
        }
    }

    /// The type of a value, and its bytes with what follows them.
    pub(super) fn value(&self, i: usize) -> Option<(u8, &'a [u8])> {
        let entry = self.bytes.get(self.entries(i)?..)?;
        let (&tag, place) = entry.split_first()?;
        let place = place.get(..self.wide)?;
        if self.inlined(tag) {
            return Some((tag, place));
        }
        let offset = Fields(place).uint(self.wide)? as usize;
        // Behind the head at least, or a container could hold itself.
        if offset < 2 * self.wide {
            return None;
        }
        Some((tag, self.bytes.get(offset..)?))
    }
}

/// A length in groups of seven bits, and what follows it.
fn counted<'a>(f: &mut Fields<'a>) -> Option<&'a [u8]> {
    let mut length = 0usize;
    for i in 0..5 {
        let b = f.u8()?;
        length |= usize::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return f.take(length);
        }
    }
    None
}

/// Bytes of a scalar at the front of `data`.
pub(super) fn scalar_length(tag: u8, data: &[u8]) -> Option<usize> {
    let mut f = Fields(data);
    match tag {
        tag::LITERAL => f.take(1).map(|_| ()),
        tag::INT16 | tag::UINT16 => f.take(2).map(|_| ()),
        tag::INT32 | tag::UINT32 => f.take(4).map(|_| ()),
        tag::INT64 | tag::UINT64 | tag::DOUBLE => f.take(8).map(|_| ()),
        tag::STRING => counted(&mut f).map(|_| ()),
        tag::OPAQUE => f.u8().and_then(|_| counted(&mut f)).map(|_| ()),
        _ => None,
    }?;
    Some(data.len() - f.0.len())
}

/// Appends a scalar; gives the bytes that it took.
pub(super) fn put_scalar(out: &mut Vec<u8>, tag: u8, data: &[u8]) -> Option<usize> {
    let used = scalar_length(tag, data)?;
    let data = &data[..used];
    match tag {
        tag::LITERAL => out.extend_from_slice(match data.first()? {
            0 => b"null",
            1 => b"true",
            2 => b"false",
            _ => return None,
        }),
        tag::INT16 | tag::INT32 | tag::INT64 => {
            out.extend_from_slice(itoa::Buffer::new().format(little_signed(data)).as_bytes());
        }
        tag::UINT16 | tag::UINT32 | tag::UINT64 => {
            out.extend_from_slice(itoa::Buffer::new().format(Fields(data).uint(used)?).as_bytes());
        }
        tag::DOUBLE => {
            let text = double_text(f64::from_bits(Fields(data).u64()?));
            out.extend_from_slice(text.as_bytes());
            if text.as_bytes().iter().all(|b| b.is_ascii_digit() || *b == b'-') {
                out.extend_from_slice(b".0");
            }
        }
        tag::STRING => put_string(out, counted(&mut Fields(data))?),
        tag::OPAQUE => {
            let mut f = Fields(data);
            let kind = f.u8()?;
            put_opaque(out, kind, counted(&mut f)?)?;
        }
        _ => return None,
    }
    Some(used)
}

/// A value of an SQL type that JSON has not.
fn put_opaque(out: &mut Vec<u8>, kind: u8, data: &[u8]) -> Option<()> {
    use super::table_map::code;
    match kind {
        code::NEWDECIMAL => {
            let (&[precision, scale], digits) = data.split_first_chunk::<2>()?;
            out.extend_from_slice(decimal_text(digits, precision, scale)?.as_bytes());
        }
        code::DATE | code::DATETIME | code::TIMESTAMP | code::TIME => {
            let packed = i64::from_le_bytes(*data.first_chunk::<8>()?);
            let mut text = Text::<48>::default();
            if kind == code::TIME && packed < 0 {
                text.push(b'-');
            }
            let packed = packed.unsigned_abs();
            let (whole, micros) = (packed >> 24, (packed & 0xff_ffff) as u32);
            let bits = |shift: u32, count: u32| (whole >> shift & ((1 << count) - 1)) as u32;
            if kind != code::TIME {
                let months = (whole >> 22) as u32;
                push_date(&mut text, months / 13, months % 13, bits(17, 5));
            }
            match kind {
                code::DATE => {}
                code::TIME => push_clock(&mut text, bits(12, 10), bits(6, 6), bits(0, 6), micros, 6),
                _ => {
                    text.push(b' ');
                    push_clock(&mut text, bits(12, 5), bits(6, 6), bits(0, 6), micros, 6);
                }
            }
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
        }
        kind => {
            out.extend_from_slice(b"\"base64:type");
            out.extend_from_slice(itoa::Buffer::new().format(kind).as_bytes());
            out.push(b':');
            // The server's encoder breaks lines, and the line ends are escaped like others.
            for (i, line) in data.chunks(57).enumerate() {
                if i > 0 {
                    out.extend_from_slice(b"\\n");
                }
                let mut text = [0; 76];
                let length = base64::engine::general_purpose::STANDARD.encode_slice(line, &mut text).ok()?;
                out.extend_from_slice(&text[..length]);
            }
            out.push(b'"');
        }
    }
    Some(())
}

/// A text in double quotes.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut from = 0;
    for (i, &b) in text.iter().enumerate() {
        if b >= 0x20 && b != b'"' && b != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[from..i]);
        from = i + 1;
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
        }
    }
    out.extend_from_slice(&text[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(document: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        put_text(&mut out, document)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn scalars() {
        assert_eq!(text(&[]).unwrap(), "null");
        assert_eq!(text(&[tag::LITERAL, 1]).unwrap(), "true");
        assert_eq!(text(&[tag::INT16, 0xff, 0xff]).unwrap(), "-1");
        assert_eq!(text(&[tag::UINT64, 255, 255, 255, 255, 255, 255, 255, 255]).unwrap(), u64::MAX.to_string());
        assert_eq!(text(&[&[tag::DOUBLE][..], &1f64.to_le_bytes()].concat()).unwrap(), "1.0");
        assert_eq!(text(&[&[tag::DOUBLE][..], &1e20f64.to_le_bytes()].concat()).unwrap(), "1e20");
        assert_eq!(text(b"\x0c\x05a\"\n\x01\x7f").unwrap(), "\"a\\\"\\n\\u0001\x7f\"");
        assert_eq!(text(&[tag::OPAQUE, 246, 4, 1, 2, 0x85, 5]), None);
        assert_eq!(text(&[tag::OPAQUE, 246, 4, 2, 1, 0x85, 5]).unwrap(), "5.5");
        assert_eq!(text(&[tag::OPAQUE, 252, 3, b'a', b'b', b'c']).unwrap(), "\"base64:type252:YWJj\"");
    }

    #[test]
    fn containers() {
        // {"a": 1, "bc": [true, "x"]}, as the server lays it out.
        let inner = [2, 0, 12, 0, 4, 1, 0, 12, 10, 0, 1, b'x'];
        let mut document = vec![tag::SMALL_OBJECT, 2, 0, 33, 0, 18, 0, 1, 0, 19, 0, 2, 0, 5, 1, 0, 2, 21, 0];
        document.extend(b"abc");
        document.extend(inner);
        assert_eq!(text(&document).unwrap(), r#"{"a": 1, "bc": [true, "x"]}"#);
        for cut in 1..document.len() {
            assert_eq!(text(&document[..cut]), None);
        }
    }

    #[test]
    fn circles_and_bombs_are_refused() {
        // An array whose only element is the array itself.
        assert_eq!(text(&[tag::SMALL_ARRAY, 1, 0, 7, 0, tag::SMALL_ARRAY, 0, 0]), None);
        // Many elements that are the same text.
        let mut bomb = vec![tag::LARGE_ARRAY];
        let (count, long) = (1000u32, 4000u32);
        bomb.extend(count.to_le_bytes());
        bomb.extend((8 + count * 5 + long + 2).to_le_bytes());
        for _ in 0..count {
            bomb.push(tag::STRING);
            bomb.extend((8 + count * 5).to_le_bytes());
        }
        bomb.extend([0xa0, 0x1f]);
        bomb.extend(vec![b'x'; long as usize]);
        assert_eq!(text(&bomb), None);
    }

    proptest! {
        #[test]
        fn garbage_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 1..400), tag in 0u8..16) {
            bytes[0] = tag;
            let mut out = Vec::new();
            let _ = put_text(&mut out, &bytes);
            prop_assert!(out.len() <= 40 * bytes.len() + 100);
        }
    }
}
