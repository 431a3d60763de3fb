//! The row codec that snapshot blocks in canonical form and changes share. A row is a run of cells; a cell is a varint
//! `h` and its bytes: `h = 0` null, `h = 1` unknown (an unchanged large value that the log did not carry), `h >= 2` a value of
//! `h - 2` bytes. Nothing is allocated per value: rows are built into one buffer and read in place.
//!
//! What the bytes of a value mean is said by the block's [`crate::plan::RowFormat`].

/// One cell of a row. Unknown is not null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cell<'a> {
    Null,
    /// The value exists at the source but is not in this image.
    Unknown,
    Value(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// The bytes of a value; `None` for null and unknown.
    pub fn value(self) -> Option<&'a [u8]> {
        match self {
            Cell::Value(v) => Some(v),
            _ => None,
        }
    }
}

/// Appends a varint (LEB128).
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads a varint and advances; `None` when the bytes end or are malformed.
#[inline]
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for (i, &b) in bytes.iter().enumerate().take(10) {
        n |= u64::from(b & 0x7f) << (7 * i);
        if b < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(n);
        }
    }
    None
}

/// Appends one cell.
#[inline]
pub fn put_cell(out: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Null => out.push(0),
        Cell::Unknown => out.push(1),
        Cell::Value(v) => {
            put_value_head(out, v.len());
            out.extend_from_slice(v);
        }
    }
}

/// Appends what stands before the bytes of a value of this length.
#[inline]
pub fn put_value_head(out: &mut Vec<u8>, length: usize) {
    put_varint(out, length as u64 + 2);
}

/// Reads one cell and advances; `None` when the bytes end or are malformed.
#[inline]
pub fn take_cell<'a>(bytes: &mut &'a [u8]) -> Option<Cell<'a>> {
    match take_varint(bytes)? {
        0 => Some(Cell::Null),
        1 => Some(Cell::Unknown),
        h => {
            let (value, rest) = bytes.split_at_checked(usize::try_from(h - 2).ok()?)?;
            *bytes = rest;
            Some(Cell::Value(value))
        }
    }
}

/// Splits a row of `cells` cells off the front; `None` when the bytes end early.
pub fn take_row<'a>(bytes: &mut &'a [u8], cells: usize) -> Option<&'a [u8]> {
    let start = *bytes;
    for _ in 0..cells {
        take_cell(bytes)?;
    }
    Some(&start[..start.len() - bytes.len()])
}

/// Iterates over the cells of an encoded row.
pub fn cells(row: &[u8]) -> Cells<'_> {
    Cells { rest: row }
}

/// The iterator of [`cells`]. It ends at the row's end or at the first malformed cell.
#[derive(Debug, Clone)]
pub struct Cells<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;
    #[inline]
    fn next(&mut self) -> Option<Cell<'a>> {
        if self.rest.is_empty() { None } else { take_cell(&mut self.rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(values in prop::collection::vec(prop_oneof![
            Just(None), Just(Some(None)), prop::collection::vec(any::<u8>(), 0..300).prop_map(|v| Some(Some(v)))], 0..20)) {
            let as_cell = |v: &Option<Option<Vec<u8>>>| -> Option<Option<Vec<u8>>> { v.clone() };
            let mut row = Vec::new();
            for v in &values {
                put_cell(&mut row, match v { None => Cell::Null, Some(None) => Cell::Unknown, Some(Some(b)) => Cell::Value(b) });
            }
            let back: Vec<_> = cells(&row).map(|c| match c { Cell::Null => None, Cell::Unknown => Some(None), Cell::Value(b) => Some(Some(b.to_vec())) }).collect();
            prop_assert_eq!(back, values.iter().map(as_cell).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_ends_quietly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let n = cells(&bytes).count();
            prop_assert!(n <= bytes.len());
        }
    }
}
