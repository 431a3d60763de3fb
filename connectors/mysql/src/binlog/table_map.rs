//! TABLE_MAP events: how the rows that follow lie in their bytes, and, where the server logs it (`binlog_row_metadata`), what the columns are.

use super::bytes::Fields;

/// Type codes of columns, as the log has them.
pub mod code {
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const NULL: u8 = 6;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const NEWDATE: u8 = 14;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP2: u8 = 17;
    pub const DATETIME2: u8 = 18;
    pub const TIME2: u8 = 19;
    pub const TYPED_ARRAY: u8 = 20;
    pub const MARIADB_BLOB_COMPRESSED: u8 = 140;
    pub const MARIADB_VARCHAR_COMPRESSED: u8 = 141;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const TINY_BLOB: u8 = 249;
    pub const MEDIUM_BLOB: u8 = 250;
    pub const LONG_BLOB: u8 = 251;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// Collation number of `binary`.
pub const BINARY: u16 = 63;

/// A column as the event describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Column {
    /// ENUM and SET by their own codes, which the event hides in others.
    pub code: u8,
    /// The first and second byte of the type's metadata; 0 where it has less. For [`code::STRING`], ENUM and SET: the length, low byte first.
    pub meta: [u8; 2],
    pub nullable: bool,
    /// What the optional metadata says.
    pub name: Option<String>,
    pub unsigned: Option<bool>,
    pub collation: Option<u16>,
    /// Of ENUM and SET, in the column's character set.
    pub labels: Option<Vec<Vec<u8>>>,
}

impl Column {
    /// The longest value in bytes, of types whose metadata says it.
    pub fn length(&self) -> u16 {
        u16::from_le_bytes(self.meta)
    }
}

/// Number, database and table of a TABLE_MAP; what one looks at for each, before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    pub id: u64,
    pub database: &'a [u8],
    pub table: &'a [u8],
    /// What [`columns`] reads.
    pub rest: &'a [u8],
}

/// The event's beginning. `head` is the description's `table_map_head`.
#[inline]
pub fn name(body: &[u8], head: u8) -> Option<Name<'_>> {
    let mut f = Fields(body);
    let id = f.uint(if head == 6 { 4 } else { 6 })?;
    f.u16()?;
    let database = f.short()?;
    f.take(1)?;
    let table = f.short()?;
    f.take(1)?;
    Some(Name { id, database, table, rest: f.0 })
}

/// The columns that a TABLE_MAP describes. `mariadb`: the server that wrote it is one, which counts geometries among the texts.
pub fn columns(rest: &[u8], mariadb: bool) -> Option<Vec<Column>> {
    let mut f = Fields(rest);
    let count = usize::try_from(f.length()?).ok()?;
    let codes = f.take(count)?;
    let mut meta = Fields(f.counted()?);
    let nullable = f.take(count.div_ceil(8))?;
    let mut columns = Vec::with_capacity(count);
    for (i, &code) in codes.iter().enumerate() {
        let nullable = nullable[i / 8] >> (i % 8) & 1 == 1;
        let (code, meta) = metadata(code, &mut meta)?;
        columns.push(Column { code, meta, nullable, ..Column::default() });
    }
    while !f.is_empty() {
        let field = f.u8()?;
        optional(&mut columns, field, Fields(f.counted()?), mariadb)?;
    }
    Some(columns)
}

/// The metadata of one type, and the type that it really is.
fn metadata(code: u8, f: &mut Fields<'_>) -> Option<(u8, [u8; 2])> {
    use self::code::*;
    Some(match code {
        STRING | ENUM | SET | VAR_STRING => {
            let (real, length) = (f.u8()?, f.u8()?);
            if real == 0 {
                return Some((code, [length, 0]));
            }
            // Lengths beyond 255 have their upper two bits, inverted, in two bits that all three types have set.
            let high = (real & 0x30 ^ 0x30) >> 4;
            (real | 0x30, [length, high])
        }
        FLOAT
        | DOUBLE
        | TINY_BLOB
        | MEDIUM_BLOB
        | LONG_BLOB
        | BLOB
        | MARIADB_BLOB_COMPRESSED
        | GEOMETRY
        | JSON
        | VECTOR
        | TIMESTAMP2
        | DATETIME2
        | TIME2 => (code, [f.u8()?, 0]),
        VARCHAR | MARIADB_VARCHAR_COMPRESSED | BIT | NEWDECIMAL => (code, [f.u8()?, f.u8()?]),
        TYPED_ARRAY => {
            let of = f.u8()?;
            // A VARCHAR in an array has three bytes of length.
            if of == VARCHAR {
                f.take(3).map(|_| ())?
            } else {
                metadata(of, f).map(|_| ())?
            }
            (code, [of, 0])
        }
        _ => (code, [0, 0]),
    })
}

/// Those that have a bit for their sign.
fn is_number(code: u8) -> bool {
    use self::code::*;
    matches!(code, TINY | SHORT | INT24 | LONG | LONGLONG | NEWDECIMAL | FLOAT | DOUBLE | YEAR)
}

fn is_text(code: u8) -> bool {
    use self::code::*;
    matches!(
        code,
        STRING
            | VAR_STRING
            | VARCHAR
            | MARIADB_VARCHAR_COMPRESSED
            | TINY_BLOB
            | MEDIUM_BLOB
            | LONG_BLOB
            | BLOB
            | MARIADB_BLOB_COMPRESSED
            // A binary string to the server, with the collation of one.
            | VECTOR
    )
}

fn is_labelled(code: u8) -> bool {
    matches!(code, self::code::ENUM | self::code::SET)
}

/// One field of the optional metadata: values in the order of the columns that have such.
fn optional(columns: &mut [Column], field: u8, mut f: Fields<'_>, mariadb: bool) -> Option<()> {
    let is_text = |code: u8| is_text(code) || mariadb && code == code::GEOMETRY;
    match field {
        // Bits, the highest first.
        1 => {
            for (i, column) in columns.iter_mut().filter(|c| is_number(c.code)).enumerate() {
                let unsigned = f.0.get(i / 8)? >> (7 - i % 8) & 1 == 1;
                // A YEAR has a bit, which says nothing.
                column.unsigned = (column.code != code::YEAR).then_some(unsigned);
            }
        }
        2 | 10 => {
            let default = f.length()? as u16;
            let mut chosen =
                columns.iter_mut().filter(|c| if field == 2 { is_text(c.code) } else { is_labelled(c.code) });
            let mut at = 0;
            while !f.is_empty() {
                let (next, collation) = (usize::try_from(f.length()?).ok()?, f.length()? as u16);
                // Those before an exception have the default.
                chosen.by_ref().take(next.checked_sub(at)?).for_each(|c| c.collation = Some(default));
                chosen.next()?.collation = Some(collation);
                at = next + 1;
            }
            chosen.for_each(|c| c.collation = Some(default));
        }
        3 | 11 => {
            for column in columns.iter_mut().filter(|c| if field == 3 { is_text(c.code) } else { is_labelled(c.code) })
            {
                column.collation = Some(f.length()? as u16);
            }
        }
        4 => {
            for column in columns.iter_mut() {
                column.name = Some(std::str::from_utf8(f.counted()?).ok()?.to_owned());
            }
        }
        5 | 6 => {
            let wanted = if field == 5 { code::SET } else { code::ENUM };
            for column in columns.iter_mut().filter(|c| c.code == wanted) {
                let count = usize::try_from(f.length()?).ok()?;
                // A label takes a byte at least.
                let mut labels = Vec::with_capacity(count.min(f.0.len()));
                for _ in 0..count {
                    labels.push(f.counted()?.to_vec());
                }
                column.labels = Some(labels);
            }
        }
        // Kinds of geometries, keys, visibility, dimensions of vectors: not needed.
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_with_all_that_may_be_said() {
        use self::code::*;
        let mut body = vec![42, 0, 0, 0, 0, 0, 1, 0];
        body.extend(b"\x01d\0\x02tt\0");
        let types = [LONG, VARCHAR, STRING, STRING, NEWDECIMAL, BLOB, STRING, TINY];
        body.push(types.len() as u8);
        body.extend(types);
        // varchar(100), char of 1020 bytes, enum of one byte, decimal(10,2), blob of two bytes, set of eight bytes.
        let meta = [100, 0, 0xce, 0xfc, ENUM, 1, 10, 2, 2, SET, 8];
        body.push(meta.len() as u8);
        body.extend(meta);
        body.push(0b0000_0110);
        body.extend([1, 1, 0b1010_0000]);
        // Default 255; the second text (from 0) has 8.
        body.extend([2, 5, 252, 255, 0, 1, 8]);
        body.extend([10, 3, 252, 33, 0]);
        let names = b"\x02id\x01b\x01c\x01d\x01e\x01f\x01g\x01h";
        body.extend([4, names.len() as u8]);
        body.extend(names);
        body.extend([6, 5, 2, 1, b'x', 1, b'y']);
        body.extend([5, 3, 1, 1, b's']);
        let name = name(&body, 8).unwrap();
        assert_eq!((name.id, name.database, name.table), (42, &b"d"[..], &b"tt"[..]));
        let columns = columns(name.rest, false).unwrap();
        let codes: Vec<u8> = columns.iter().map(|c| c.code).collect();
        assert_eq!(codes, [LONG, VARCHAR, STRING, ENUM, NEWDECIMAL, BLOB, SET, TINY]);
        assert_eq!((columns[1].length(), columns[2].length(), columns[3].length()), (100, 1020, 1));
        assert_eq!(columns.iter().map(|c| c.unsigned).collect::<Vec<_>>()[0], Some(true));
        assert_eq!((columns[4].unsigned, columns[7].unsigned, columns[1].unsigned), (Some(false), Some(true), None));
        let collations: Vec<_> = columns.iter().map(|c| c.collation).collect();
        assert_eq!(collations, [None, Some(255), Some(8), Some(33), None, Some(255), Some(33), None]);
        assert_eq!(columns[6].name.as_deref(), Some("g"));
        assert_eq!(columns[3].labels, Some(vec![b"x".to_vec(), b"y".to_vec()]));
        assert_eq!(columns[6].labels, Some(vec![b"s".to_vec()]));
        assert!(columns[1].nullable && columns[2].nullable && !columns[3].nullable);
        for cut in 0..body.len() {
            if let Some(name) = super::name(&body[..cut], 8) {
                let _ = super::columns(name.rest, true);
            }
        }
    }

    /// What servers of both flavors wrote for `(y year, n int, u int unsigned)`.
    #[test]
    fn a_year_has_a_place_among_the_signs() {
        use self::code::*;
        let body = [3, YEAR, LONG, LONG, 0, 0b111, 1, 1, 0b1010_0000, 4, 6, 1, b'y', 1, b'n', 1, b'u'];
        let columns = columns(&body, false).unwrap();
        let signs: Vec<_> = columns.iter().map(|c| c.unsigned).collect();
        assert_eq!(signs, [None, Some(false), Some(true)]);
    }

    proptest! {
        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(name) = name(&bytes, 8) {
                let _ = columns(name.rest, false);
            }
            let _ = columns(&bytes, true);
        }
    }
}
