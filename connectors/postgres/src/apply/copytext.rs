//! COPY's text format, both ways, between it and rows of cells. Format: the server manual's page of COPY, "Text Format".

use bytes::{BufMut, BytesMut};
use drover_model::row::{Cell, put_cell, take_cell};
use drover_model::{Error, Result};

/// Appends a row of `width` cells as a line and advances `rows` past it.
pub(crate) fn put_line(out: &mut BytesMut, rows: &mut &[u8], width: usize) -> Result<()> {
    for i in 0..width {
        if i > 0 {
            out.put_u8(b'\t');
        }
        match take_cell(rows) {
            Some(Cell::Value(value)) => put_escaped(out, value),
            Some(Cell::Null) => out.put_slice(b"\\N"),
            Some(Cell::Unknown) => return Err(Error::internal("a row to insert lacks the value of a column")),
            None => return Err(Error::internal("a row to insert is damaged")),
        }
    }
    out.put_u8(b'\n');
    Ok(())
}

fn put_escaped(out: &mut BytesMut, value: &[u8]) {
    let mut from = 0;
    for (i, &b) in value.iter().enumerate() {
        let escaped = match b {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.put_slice(&value[from..i]);
        out.put_slice(&[b'\\', escaped]);
        from = i + 1;
    }
    out.put_slice(&value[from..]);
}

/// Appends a line (without its end) as cells; gives their number. `scratch` is working space.
pub(crate) fn take_line(out: &mut Vec<u8>, line: &[u8], scratch: &mut Vec<u8>) -> usize {
    let mut count = 0;
    for field in line.split(|&b| b == b'\t') {
        count += 1;
        if field == b"\\N" {
            put_cell(out, Cell::Null);
        } else if field.contains(&b'\\') {
            scratch.clear();
            let mut bytes = field.iter();
            while let Some(&b) = bytes.next() {
                scratch.push(match b {
                    b'\\' => match bytes.next() {
                        Some(b'b') => 8,
                        Some(b't') => b'\t',
                        Some(b'n') => b'\n',
                        Some(b'v') => 11,
                        Some(b'f') => 12,
                        Some(b'r') => b'\r',
                        Some(&other) => other,
                        None => b'\\',
                    },
                    b => b,
                });
            }
            put_cell(out, Cell::Value(scratch));
        } else {
            put_cell(out, Cell::Value(field));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::row::cells;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_come_back(values in prop::collection::vec(prop::option::of("[a\\\\\t\n\r\u{8}N.]{0,6}"), 1..5)) {
            let mut row = Vec::new();
            for v in &values {
                put_cell(&mut row, v.as_ref().map_or(Cell::Null, |v| Cell::Value(v.as_bytes())));
            }
            let mut line = BytesMut::new();
            put_line(&mut line, &mut &row[..], values.len()).unwrap();
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            let mut back = Vec::new();
            prop_assert_eq!(take_line(&mut back, &line[..line.len() - 1], &mut Vec::new()), values.len());
            prop_assert_eq!(cells(&back).collect::<Vec<_>>(), cells(&row).collect::<Vec<_>>());
        }
    }
}
