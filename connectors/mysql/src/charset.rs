//! Texts in UTF-8, for other kinds of databases. The log and the tables have them in their column's character set; the server would make question marks of
//! what is no character.
//!
//! Guarantee: a character set is known here only if every text of it becomes the characters that the server itself makes of it
//! (`CONVERT(… USING utf8mb4)`); `tests/charsets.rs` asks servers for all of them. Bytes that are no text become [`NONE`], which is no UTF-8: the
//! destination sees it, and does what the column's policy says.

use drover_model::row;
use encoding_rs::{DecoderResult, Encoding};

/// Characters that the servers take for others than the Encoding Standard does, by their bytes.
type Others = &'static [(u16, char)];

/// Stands where bytes are no character of their set.
pub const NONE: u8 = 0xff;

/// A character set that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Its bytes are UTF-8.
    Utf8,
    /// Bytes below 0x80.
    Ascii,
    /// As the Encoding Standard has it.
    Standard(&'static Encoding),
    /// The same but for some characters, of one byte each.
    Nearly(&'static Encoding, Others),
    /// The same but for some characters; those whose first byte is one of Shift JIS' lead bytes have two.
    NearlyWide(&'static Encoding, Others),
    /// Units of two bytes; `little`: the lower one first.
    Utf16 { little: bool },
    /// Characters of four bytes, the highest one first.
    Utf32,
}

impl Charset {
    /// `None`: it cannot be read without loss.
    pub fn of(name: &str) -> Option<Charset> {
        use encoding_rs::*;
        Some(match name {
            "utf8mb4" | "utf8mb3" | "utf8" => Charset::Utf8,
            "ascii" => Charset::Ascii,
            // With the five bytes that windows-1252 leaves open, as the standard and the server have it.
            "latin1" => Charset::Standard(WINDOWS_1252),
            "latin2" => Charset::Standard(ISO_8859_2),
            "latin7" => Charset::Standard(ISO_8859_13),
            "cp1250" => Charset::Standard(WINDOWS_1250),
            "cp1251" => Charset::Standard(WINDOWS_1251),
            "cp1256" => Charset::Standard(WINDOWS_1256),
            "cp1257" => Charset::Standard(WINDOWS_1257),
            "cp866" => Charset::Nearly(IBM866, &[(0xfc, 'ⁿ'), (0xfd, '²')]),
            "koi8r" => Charset::Standard(KOI8_R),
            "koi8u" => Charset::Nearly(KOI8_U, &[(0x95, '•'), (0xae, '╝'), (0xbe, '╬')]),
            "greek" => Charset::Nearly(ISO_8859_7, &[(0xa1, 'ʽ'), (0xa2, 'ʼ')]),
            "hebrew" => Charset::Nearly(ISO_8859_8, &[(0xaf, '\u{203e}')]),
            "cp932" => Charset::Standard(SHIFT_JIS),
            "sjis" => Charset::NearlyWide(
                SHIFT_JIS,
                &[
                    (0x815f, '\\'),
                    (0x8160, '\u{301c}'),
                    (0x8161, '\u{2016}'),
                    (0x817c, '\u{2212}'),
                    (0x8191, '\u{a2}'),
                    (0x8192, '\u{a3}'),
                    (0x81ca, '\u{ac}'),
                ],
            ),
            "gbk" => Charset::Standard(GBK),
            "euckr" => Charset::Standard(EUC_KR),
            "ucs2" | "utf16" => Charset::Utf16 { little: false },
            "utf16le" => Charset::Utf16 { little: true },
            "utf32" => Charset::Utf32,
            // Others differ in many characters (big5, ujis, eucjpms, gb18030), or are known to nobody else.
            _ => return None,
        })
    }

    /// Appends a text in UTF-8, with [`NONE`] for what is no character.
    pub fn put(self, out: &mut Vec<u8>, bytes: &[u8]) {
        match self {
            Charset::Utf8 => out.extend_from_slice(bytes),
            Charset::Ascii => out.extend(bytes.iter().map(|&b| if b.is_ascii() { b } else { NONE })),
            Charset::Standard(encoding) => put_standard(out, encoding, bytes),
            Charset::Nearly(encoding, others) => put_nearly(out, encoding, others, false, bytes),
            Charset::NearlyWide(encoding, others) => put_nearly(out, encoding, others, true, bytes),
            Charset::Utf16 { little } => {
                let (units, rest) = bytes.as_chunks::<2>();
                let unit = |u: &[u8; 2]| if little { u16::from_le_bytes(*u) } else { u16::from_be_bytes(*u) };
                for c in char::decode_utf16(units.iter().map(unit)) {
                    put_char(out, c.ok());
                }
                out.extend((!rest.is_empty()).then_some(NONE));
            }
            Charset::Utf32 => {
                let (units, rest) = bytes.as_chunks::<4>();
                for u in units {
                    put_char(out, char::from_u32(u32::from_be_bytes(*u)));
                }
                out.extend((!rest.is_empty()).then_some(NONE));
            }
        }
    }

    /// Appends the cell of a text.
    pub fn put_cell(self, out: &mut Vec<u8>, bytes: &[u8]) {
        let wide = matches!(self, Charset::Utf16 { .. } | Charset::Utf32);
        if !wide && bytes.is_ascii() {
            return row::put_cell(out, row::Cell::Value(bytes));
        }
        // The cell's head says how long it is: it is written last, and brought to the front.
        let start = out.len();
        self.put(out, bytes);
        let end = out.len();
        row::put_value_head(out, end - start);
        let head = out.len() - end;
        out[start..].rotate_right(head);
    }
}

fn put_standard(out: &mut Vec<u8>, encoding: &'static Encoding, mut bytes: &[u8]) {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    loop {
        let start = out.len();
        let most = decoder.max_utf8_buffer_length_without_replacement(bytes.len());
        out.resize(start + most.unwrap_or(bytes.len()), 0);
        let (result, read, written) = decoder.decode_to_utf8_without_replacement(bytes, &mut out[start..], true);
        out.truncate(start + written);
        bytes = &bytes[read..];
        match result {
            DecoderResult::InputEmpty => return,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => out.push(NONE),
        }
    }
}

fn put_nearly(out: &mut Vec<u8>, encoding: &'static Encoding, others: Others, wide: bool, bytes: &[u8]) {
    let (mut from, mut at) = (0, 0);
    while let Some(&first) = bytes.get(at) {
        let two = wide && matches!(first, 0x81..=0x9f | 0xe0..=0xfc);
        let code = match bytes.get(at + 1) {
            Some(&second) if two => u16::from(first) << 8 | u16::from(second),
            _ => u16::from(first),
        };
        let next = (at + 1 + usize::from(two)).min(bytes.len());
        if let Some((_, c)) = others.iter().find(|(other, _)| *other == code) {
            put_standard(out, encoding, &bytes[from..at]);
            put_char(out, Some(*c));
            from = next;
        }
        at = next;
    }
    put_standard(out, encoding, &bytes[from..]);
}

fn put_char(out: &mut Vec<u8>, c: Option<char>) {
    match c {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.push(NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(charset: &str, bytes: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        Charset::of(charset).unwrap().put(&mut out, bytes);
        String::from_utf8(out).ok()
    }

    /// With `!` for what is no character.
    fn marked(charset: &str, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        Charset::of(charset).unwrap().put(&mut out, bytes);
        out.iter_mut().filter(|b| **b == NONE).for_each(|b| *b = b'!');
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_say_how_long_they_are() {
        let mut out = vec![7];
        let long = [b'x', 0xe4].repeat(100);
        for bytes in [&b""[..], b"plain", b"\xe4", &long] {
            Charset::of("latin1").unwrap().put_cell(&mut out, bytes);
        }
        Charset::of("utf16").unwrap().put_cell(&mut out, b"\x00a");
        let cells: Vec<String> =
            row::cells(&out[1..]).map(|c| String::from_utf8(c.value().unwrap().to_vec()).unwrap()).collect();
        assert_eq!(cells, ["", "plain", "ä", &"xä".repeat(100), "a"]);
    }

    #[test]
    fn texts_and_what_is_none() {
        assert_eq!(text("latin1", b"\xe4\x80\x81").as_deref(), Some("ä€\u{81}"));
        assert_eq!(text("koi8r", b"\xf0\xf2").as_deref(), Some("ПР"));
        assert_eq!(text("sjis", b"\x93\xfa\x96\x7b").as_deref(), Some("日本"));
        assert_eq!(text("sjis", b"a\x81\x5f\x93\xfa\x81\x60").as_deref(), Some("a\\日〜"));
        assert_eq!(text("koi8u", b"\xa4\xae\xf0").as_deref(), Some("є╝П"));
        assert_eq!(text("ucs2", b"\x00\xe4\x65\xe5").as_deref(), Some("ä日"));
        assert_eq!(text("utf16", b"\xd8\x3d\xde\x00").as_deref(), Some("😀"));
        assert_eq!(text("utf16le", b"\x3d\xd8\x00\xde").as_deref(), Some("😀"));
        assert_eq!(text("utf32", b"\x00\x01\xf6\x00").as_deref(), Some("😀"));
        for (charset, bytes) in
            [("gbk", &b"\x81"[..]), ("utf16", b"\xd8\x3d"), ("utf16", b"\x00"), ("utf32", b"\x00\x11\x00\x00")]
        {
            assert_eq!(text(charset, bytes), None, "{charset}");
        }
        // The text around it stays.
        assert_eq!(marked("greek", b"a\xff\xe1"), "a!α");
        assert_eq!(marked("cp932", b"\x93\xfa\x85\x40\x96\x7b\x81"), "日!@本!");
        assert_eq!(marked("sjis", b"\x81\x60\xa0\x93\xfa"), "〜!日");
        assert_eq!(marked("utf16", b"\x00a\xd8\x3d\x00b\x00"), "a!b!");
        assert_eq!(marked("ascii", b"a\xc3\xa4"), "a!!");
        assert_eq!(Charset::of("swe7"), None);
        assert_eq!(Charset::of("big5"), None);
    }
}
