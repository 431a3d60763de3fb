//! Bytes in canonical rows: a cell holds the bytes themselves, while the server shows them in hexadecimal digits (`\x00ff`, under drover's
//! session settings). Within the kind, in every other format, cells hold what the server shows.

use drover_model::plan::{PlanColumn, RowFormat};
use drover_model::row::put_varint;
use drover_model::schema::DataType;
use drover_model::{Error, Result, TablePlan};

/// Whether the cells of a column are bytes and not what the server shows of them.
pub(crate) fn is_raw(plan: &TablePlan, column: &PlanColumn) -> bool {
    plan.format == RowFormat::Canonical && matches!(column.data_type, DataType::Bytes { .. })
}

fn digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

/// Appends a cell with the bytes of which the server shows this.
///
/// # Errors
/// INTERNAL for what is no `\x` and pairs of digits.
pub(crate) fn put_raw(out: &mut Vec<u8>, shown: &[u8]) -> Result<()> {
    let wrong = || Error::internal("the server shows bytes in another form than it was told to");
    let digits = shown.strip_prefix(b"\\x").filter(|d| d.len().is_multiple_of(2)).ok_or_else(wrong)?;
    put_varint(out, digits.len() as u64 / 2 + 2);
    out.reserve(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or_else(wrong)?;
        out.push(high << 4 | low);
    }
    Ok(())
}

/// What the server shows of bytes, and takes for them.
pub(crate) fn shown(raw: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(raw.len() * 2 + 2);
    out.push_str("\\x");
    for b in raw {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::row::{Cell, cells};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_back(raw in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut out = Vec::new();
            put_raw(&mut out, shown(&raw).as_bytes()).unwrap();
            prop_assert_eq!(cells(&out).collect::<Vec<_>>(), [Cell::Value(&raw[..])]);
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["", "00", "\\x0", "\\xzz", "\\000"] {
            assert!(put_raw(&mut Vec::new(), text.as_bytes()).is_err(), "{text}");
        }
    }
}
