//! What the bytes of a cell are in [`crate::plan::RowFormat::Canonical`], by the [`crate::schema::DataType`] of its column at the source: the form
//! in which rows pass between different kinds of databases, in blocks and in changes. The source's connector writes it, the destination's reads it; neither
//! knows the other.
//!
//! | data type | bytes of a cell |
//! |---|---|
//! | bool | `t` or `f` |
//! | integers | decimal digits, `-` if negative |
//! | float | the shortest decimal text that reads back as the same value; `NaN`, `Infinity`, `-Infinity` |
//! | decimal | digits with `.`, as many after it as the source shows; `NaN`, `Infinity`, `-Infinity` |
//! | text, enum | UTF-8 |
//! | bytes | the bytes themselves |
//! | date | `YYYY-MM-DD`; years have four digits or more; ` BC` behind those before year 1; `infinity`, `-infinity` |
//! | time | `HH:MM:SS[.ffffff]`, hours may exceed 23 and be negative; with a zone `+HH[:MM[:SS]]` behind it |
//! | timestamp | `YYYY-MM-DD HH:MM:SS[.ffffff]`, as date; an instant (zone) is in UTC with `+00` behind it |
//! | interval | ISO 8601, or what the source's own kind shows |
//! | uuid | 36 characters in small letters |
//! | json, json text | its text |
//! | bit | digits `0` and `1` |
//! | array, other | the source's own text form |
//!
//! A value that its type has at the source and not here (a date with a zero month, an instant out of range) keeps the source's text: whether there
//! is a place for it is the destination's to say.

use crate::row::{Cell, put_cell};
use crate::schema::DataType;
use serde_json::Value;

/// Appends a cell with the normal form of a value of this type: equal values have equal bytes, whatever kind of database they were read from. For
/// comparing rows of two kinds; `value` is in the form of the table above. What cannot be read stays as it is.
///
/// Numbers lose their padding (`1.50` is `1.5`, `-0.0` of a decimal is `0`), floating point numbers are written by their value, fractions of seconds lose zeros at the
/// end, texts of a fixed length lose spaces at the end, JSON gets its keys in order and its numbers by value.
pub fn put_normal(out: &mut Vec<u8>, kind: &DataType, value: &[u8]) {
    let bytes = |out: &mut Vec<u8>, bytes: &[u8]| put_cell(out, Cell::Value(bytes));
    match kind {
        DataType::Float { bytes: size } => match float(value, *size) {
            Some(text) => bytes(out, text.as_bytes()),
            None => bytes(out, value),
        },
        DataType::Decimal { .. } => bytes(out, decimal(value)),
        DataType::Text { padded: true, .. } => bytes(out, trimmed(value, b' ')),
        DataType::Time { .. } | DataType::Timestamp { .. } => match fraction(value) {
            Some((kept, rest)) => {
                crate::row::put_varint(out, (kept.len() + rest.len()) as u64 + 2);
                out.extend_from_slice(kept);
                out.extend_from_slice(rest);
            }
            None => bytes(out, value),
        },
        DataType::Json | DataType::Document => match json(value) {
            Some(text) => bytes(out, text.as_bytes()),
            None => bytes(out, value),
        },
        _ => bytes(out, value),
    }
}

fn trimmed(value: &[u8], byte: u8) -> &[u8] {
    let end = value.iter().rposition(|b| *b != byte).map_or(0, |i| i + 1);
    &value[..end]
}

fn float(value: &[u8], size: u8) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    if size == 4 {
        let number: f32 = text.parse().ok()?;
        number.is_finite().then(|| format!("{number:e}"))
    } else {
        let number: f64 = text.parse().ok()?;
        number.is_finite().then(|| format!("{number:e}"))
    }
}

fn decimal(value: &[u8]) -> &[u8] {
    let mut out = value;
    if value.contains(&b'.') {
        out = trimmed(out, b'0');
        out = out.strip_suffix(b".").unwrap_or(out);
    }
    match out {
        b"-0" => b"0",
        _ => out,
    }
}

/// What is kept before the zeros at the end of a fraction, and what follows them; `None` where nothing changes.
fn fraction(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let point = value.iter().position(|b| *b == b'.')?;
    let digits = value[point + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
    let end = point + 1 + digits;
    let kept = trimmed(&value[..end], b'0');
    if kept.len() == end {
        return None;
    }
    let kept = kept.strip_suffix(b".").unwrap_or(kept);
    Some((kept, &value[end..]))
}

/// The normal form of a JSON text: keys in order, no blanks, numbers by their value, characters as they are; `None` if it is no JSON (or nested
/// deeper than 127).
pub fn json(text: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let mut out = String::with_capacity(text.len());
    put_json(&value, &mut out);
    Some(out)
}

fn put_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
            (Some(n), _, _) => out.push_str(&n.to_string()),
            (_, Some(n), _) => out.push_str(&n.to_string()),
            // 2^64: from there on, and below -2^63, whole numbers are only this precise.
            (_, _, Some(n)) if n.fract() == 0.0 && n.abs() < 1e15 => out.push_str(&(n as i64).to_string()),
            (_, _, Some(n)) => out.push_str(&format!("{n:e}")),
            _ => out.push_str(&n.to_string()),
        },
        Value::String(s) => quoted(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put_json(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                quoted(key, out);
                out.push(':');
                put_json(item, out);
            }
            out.push('}');
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(kind: &DataType, value: &str) -> String {
        let mut out = Vec::new();
        put_normal(&mut out, kind, value.as_bytes());
        let cell = crate::row::cells(&out).next().unwrap();
        String::from_utf8(cell.value().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn equal_values_have_equal_bytes() {
        let decimal = DataType::Decimal { precision: None, scale: None };
        for (one, other) in [("1.50", "1.5"), ("100", "100.00"), ("-0.00", "0"), ("0", "-0"), ("NaN", "NaN")] {
            assert_eq!(normal(&decimal, one), normal(&decimal, other));
        }
        assert_ne!(normal(&decimal, "100"), normal(&decimal, "1"));
        let double = DataType::Float { bytes: 8 };
        for (one, other) in [("1e20", "1e+20"), ("0.1", "1e-1"), ("100000", "1e5"), ("Infinity", "Infinity")] {
            assert_eq!(normal(&double, one), normal(&double, other));
        }
        assert_ne!(normal(&double, "0"), normal(&double, "-0"));
        assert_eq!(
            normal(&DataType::Float { bytes: 4 }, "3.4028235e38"),
            normal(&DataType::Float { bytes: 4 }, "3.4028235e+38")
        );
        let instant = DataType::Timestamp { precision: 6, zone: true };
        assert_eq!(normal(&instant, "2024-01-01 10:00:00.500000+00"), "2024-01-01 10:00:00.5+00");
        assert_eq!(normal(&instant, "2024-01-01 10:00:00.000000+00"), "2024-01-01 10:00:00+00");
        assert_eq!(normal(&instant, "2024-01-01 10:00:00+00"), "2024-01-01 10:00:00+00");
        assert_eq!(normal(&DataType::Time { precision: 3, zone: false }, "-10:00:00.010"), "-10:00:00.01");
        assert_eq!(normal(&DataType::Text { max: Some(5), padded: true }, "ab   "), "ab");
        assert_eq!(normal(&DataType::Text { max: Some(5), padded: false }, "ab "), "ab ");
    }

    #[test]
    fn one_form_for_one_document() {
        let same = [
            (r#"{"b": 1, "aa": [1.50, 2]}"#, r#"{"aa":[1.5e0,2],"b":1}"#),
            (r#""\u00e9\ud83d\ude00""#, "\"\u{e9}\u{1f600}\""),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.0", "1"),
            ("1e2", "100"),
            ("18446744073709551616", "1.8446744073709552e19"),
            (" [ ] ", "[]"),
        ];
        for (text, wanted) in same {
            assert_eq!(json(text.as_bytes()).as_deref(), Some(wanted));
        }
        assert_eq!(json(b"{"), None);
        assert_ne!(json(br#""a\nb""#), json(br#""a\\nb""#));
        assert_ne!(json(b"\"1\""), json(b"1"));
    }
}
