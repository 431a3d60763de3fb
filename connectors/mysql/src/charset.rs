//! Texts of row images in UTF-8. The log has them in their column's character set, and nobody converts there but us.
//!
//! Guarantee: a character set is known here only if every text of it becomes the characters that the server itself makes of it
//! (`CONVERT(… USING utf8mb4)`); `tests/charsets.rs` asks servers for all of them. Bytes that are no text are refused, never replaced.

use encoding_rs::Encoding;

/// Characters that the servers take for others than the Encoding Standard does, by their bytes.
type Others = &'static [(u16, char)];

/// A character set that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Its bytes are UTF-8.
    Utf8,
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
            "utf8mb4" | "utf8mb3" | "utf8" | "ascii" => Charset::Utf8,
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

    /// Appends a text in UTF-8. `None` if the bytes are no text; then `out` may have got some of it.
    pub fn put(self, out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
        match self {
            Charset::Utf8 => out.extend_from_slice(bytes),
            Charset::Standard(encoding) => put_standard(out, encoding, bytes)?,
            Charset::Nearly(encoding, others) => put_nearly(out, encoding, others, false, bytes)?,
            Charset::NearlyWide(encoding, others) => put_nearly(out, encoding, others, true, bytes)?,
            Charset::Utf16 { little } => {
                let (units, rest) = bytes.as_chunks::<2>();
                if !rest.is_empty() {
                    return None;
                }
                let unit = |u: &[u8; 2]| if little { u16::from_le_bytes(*u) } else { u16::from_be_bytes(*u) };
                for c in char::decode_utf16(units.iter().map(unit)) {
                    put_char(out, c.ok()?);
                }
            }
            Charset::Utf32 => {
                let (units, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return None;
                }
                for u in units {
                    put_char(out, char::from_u32(u32::from_be_bytes(*u))?);
                }
            }
        }
        Some(())
    }
}

fn put_standard(out: &mut Vec<u8>, encoding: &'static Encoding, bytes: &[u8]) -> Option<()> {
    let text = encoding.decode_without_bom_handling_and_without_replacement(bytes)?;
    out.extend_from_slice(text.as_bytes());
    Some(())
}

fn put_nearly(out: &mut Vec<u8>, encoding: &'static Encoding, others: Others, wide: bool, bytes: &[u8]) -> Option<()> {
    let (mut from, mut at) = (0, 0);
    while let Some(&first) = bytes.get(at) {
        let two = wide && matches!(first, 0x81..=0x9f | 0xe0..=0xfc);
        let code = match bytes.get(at + 1) {
            Some(&second) if two => u16::from(first) << 8 | u16::from(second),
            _ => u16::from(first),
        };
        let next = (at + 1 + usize::from(two)).min(bytes.len());
        if let Some((_, c)) = others.iter().find(|(other, _)| *other == code) {
            put_standard(out, encoding, &bytes[from..at])?;
            put_char(out, *c);
            from = next;
        }
        at = next;
    }
    put_standard(out, encoding, &bytes[from..])
}

fn put_char(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(charset: &str, bytes: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        Charset::of(charset).unwrap().put(&mut out, bytes)?;
        Some(String::from_utf8(out).unwrap())
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
        assert_eq!(Charset::of("swe7"), None);
        assert_eq!(Charset::of("big5"), None);
    }
}
