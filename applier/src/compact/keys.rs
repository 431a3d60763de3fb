//! Unique values in their normal form. Guarantee: two rows whose values of a unique index are equal at the destination have
//! the same normalised bytes; values with a null in them never collide and have none.

use drover_connectors_api::{Keys, Norm};
use drover_model::TablePlan;
use drover_model::row::{Cell, cells, put_cell};

/// One unique index, ready for normalising.
#[derive(Debug, Clone)]
pub struct Index {
    /// (column of the plan, normal form) in the index's order.
    pub columns: Vec<(u16, Norm)>,
    /// All columns are compared as bytes: normalised bytes are the cells themselves.
    pub exact: bool,
}

impl Index {
    fn new(columns: Vec<(u16, Norm)>) -> Self {
        let exact = columns.iter().all(|(_, n)| *n == Norm::Exact);
        Index { columns, exact }
    }
}

/// How a table's changes are compacted: made once per apply order from the plan and the destination's catalogue.
#[derive(Debug, Clone)]
pub struct Shape {
    pub table: u32,
    /// Name at the destination, for errors.
    pub name: String,
    /// Cells of a row.
    pub width: usize,
    /// Columns of the plan's key; empty for tables without one.
    pub key: Vec<u16>,
    /// The key's columns follow one another in the row: its cells can be borrowed from the row.
    pub contiguous: bool,
    /// The identifying key in normal forms, in the order of the plan's key.
    pub identity: Index,
    pub others: Vec<Index>,
    /// Apply one by one in the source's order.
    pub serial: bool,
}

impl Shape {
    /// From a plan and what the destination's catalogue says about it.
    pub fn new(plan: &TablePlan, keys: &Keys) -> Self {
        let norm = |column: u16| {
            let known = keys.identity.as_ref().and_then(|i| i.columns.iter().find(|(c, _)| *c == column));
            known.map_or(Norm::Exact, |(_, n)| *n)
        };
        Shape {
            table: plan.id,
            name: plan.destination.to_string(),
            width: plan.columns.len(),
            contiguous: plan.key.windows(2).all(|w| w[1] == w[0] + 1),
            identity: Index::new(plan.key.iter().map(|&c| (c, norm(c))).collect()),
            key: plan.key.clone(),
            others: keys.others.iter().map(|u| Index::new(u.columns.clone())).collect(),
            serial: keys.serial.is_some(),
        }
    }
}

/// Appends a value in its normal form.
pub fn put_normal(out: &mut Vec<u8>, norm: Norm, cell: Cell<'_>) {
    let Cell::Value(value) = cell else { return put_cell(out, cell) };
    let value = match norm {
        Norm::Exact => value,
        Norm::TrimEnd => trim_end(value),
        Norm::Decimal => return put_decimal(out, value),
    };
    put_cell(out, Cell::Value(value));
}

fn trim_end(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|&b| b != b' ').map_or(0, |i| i + 1);
    &value[..end]
}

/// A decimal text without trailing zeros of the fraction; `-0` is `0`. Texts with an exponent or that are no plain decimals
/// (`NaN`, `Infinity`) stay as they are: the canonical form has no exponents.
fn put_decimal(out: &mut Vec<u8>, value: &[u8]) {
    let plain = value.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'));
    if !plain {
        return put_cell(out, Cell::Value(value));
    }
    let (negative, digits) = match value.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, value),
    };
    let (whole, fraction) = match digits.iter().position(|&b| b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &digits[..0]),
    };
    let whole = &whole[whole.iter().position(|&b| b != b'0').unwrap_or(whole.len())..];
    let fraction = &fraction[..fraction.iter().rposition(|&b| b != b'0').map_or(0, |i| i + 1)];
    let zero = whole.is_empty() && fraction.is_empty();
    let sign: &[u8] = if negative && !zero { b"-" } else { b"" };
    let dot: &[u8] = if fraction.is_empty() { b"" } else { b"." };
    let whole: &[u8] = if whole.is_empty() { b"0" } else { whole };
    let len = sign.len() + whole.len() + dot.len() + fraction.len();
    drover_model::row::put_varint(out, len as u64 + 2);
    for part in [sign, whole, dot, fraction] {
        out.extend_from_slice(part);
    }
}

/// Normalises the cells of a key or index value that are given in the index's order.
pub fn put_normal_cells(out: &mut Vec<u8>, index: &Index, value: &[u8]) {
    for (cell, (_, norm)) in cells(value).zip(&index.columns) {
        put_normal(out, *norm, cell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(norm: Norm, text: &str) -> String {
        let mut out = Vec::new();
        put_normal(&mut out, norm, Cell::Value(text.as_bytes()));
        let cell = cells(&out).next().unwrap();
        String::from_utf8(cell.value().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn decimals_lose_what_does_not_count() {
        for (given, wanted) in [
            ("1.500", "1.5"),
            ("1.0", "1"),
            ("-0.00", "0"),
            ("007", "7"),
            ("+3", "3"),
            (".50", "0.5"),
            ("0", "0"),
            ("100", "100"),
            ("NaN", "NaN"),
            ("-12.340", "-12.34"),
        ] {
            assert_eq!(normal(Norm::Decimal, given), wanted, "{given}");
        }
    }

    #[test]
    fn trailing_spaces_only() {
        assert_eq!(normal(Norm::TrimEnd, " a b  "), " a b");
        assert_eq!(normal(Norm::TrimEnd, "   "), "");
        assert_eq!(normal(Norm::Exact, "a "), "a ");
    }
}
