//! Views over the checked bytes of a message.
//!
//! Guarantee: they yield exactly as many items as they say, borrow only, and cannot panic even over unchecked bytes
//! (they would end early).

use std::fmt;

/// One column's value in a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL (or, in [`super::Old::Key`], a column outside of the key).
    Null,
    /// A large value stored out of line that the change did not touch: unknown here, not null.
    Unchanged,
    /// The type's text form, in UTF-8 as the session asks for.
    Text(&'a [u8]),
    /// The type's binary form (as its send function writes it).
    Binary(&'a [u8]),
}

/// A row's values, in the order of its relation's columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    pub(super) data: &'a [u8],
    pub(super) columns: u16,
}

impl<'a> Tuple<'a> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.columns.into()
    }

    /// A row of a table without columns.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The bytes behind the count of columns, as they came.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.data
    }

    /// The values.
    #[inline]
    pub fn iter(&self) -> TupleIter<'a> {
        TupleIter { rest: self.data, left: self.columns }
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Value<'a>;
    type IntoIter = TupleIter<'a>;
    fn into_iter(self) -> TupleIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Walks a [`Tuple`].
#[derive(Clone, Debug)]
pub struct TupleIter<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for TupleIter<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (&kind, rest) = self.rest.split_first()?;
        match kind {
            b'n' | b'u' => {
                self.rest = rest;
                Some(if kind == b'n' { Value::Null } else { Value::Unchanged })
            }
            _ => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.rest = rest;
                Some(if kind == b't' { Value::Text(value) } else { Value::Binary(value) })
            }
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for TupleIter<'_> {}

/// A column of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Whether it belongs to the replica identity (all do under REPLICA IDENTITY FULL).
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`, −1 for none.
    pub type_modifier: i32,
}

/// The columns of a relation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Columns<'a> {
    pub(super) data: &'a [u8],
    pub(super) count: u16,
}

impl<'a> Columns<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in order.
    pub fn iter(&self) -> ColumnIter<'a> {
        ColumnIter { rest: self.data, left: self.count }
    }
}

impl<'a> IntoIterator for Columns<'a> {
    type Item = Column<'a>;
    type IntoIter = ColumnIter<'a>;
    fn into_iter(self) -> ColumnIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Walks [`Columns`].
#[derive(Clone, Debug)]
pub struct ColumnIter<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for ColumnIter<'a> {
    type Item = Column<'a>;

    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (&flags, rest) = self.rest.split_first()?;
        let end = rest.iter().position(|&b| b == 0)?;
        let name = std::str::from_utf8(&rest[..end]).ok()?;
        let (type_oid, rest) = rest[end + 1..].split_first_chunk::<4>()?;
        let (modifier, rest) = rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(Column {
            key: flags & 1 != 0,
            name,
            type_oid: u32::from_be_bytes(*type_oid),
            type_modifier: i32::from_be_bytes(*modifier),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for ColumnIter<'_> {}

/// The relations of a TRUNCATE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Oids<'a> {
    pub(super) data: &'a [u8],
}

impl<'a> Oids<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.data.len() / 4
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// `pg_class.oid` of each.
    pub fn iter(&self) -> OidIter<'a> {
        OidIter { rest: self.data }
    }
}

impl<'a> IntoIterator for Oids<'a> {
    type Item = u32;
    type IntoIter = OidIter<'a>;
    fn into_iter(self) -> OidIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Oids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Walks [`Oids`].
#[derive(Clone, Debug)]
pub struct OidIter<'a> {
    rest: &'a [u8],
}

impl Iterator for OidIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (oid, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*oid))
    }
}
