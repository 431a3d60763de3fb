//! How a cell of a row becomes text for the server: a field of LOAD DATA, or a literal in a statement. Guarantee: whichever of the two ways
//! a value takes, the column ends up with the same value, and it is the source's; whatever the column cannot hold is the server's
//! error or warning, never another value.
//!
//! Literals and fields are bytes (sessions speak character set `binary`), so text goes in undecoded where both columns have the same character
//! set, and through `CONVERT(… USING …)` of the server where they have not. FLOAT is written as the exact DOUBLE of its value: the
//! server parses numbers as DOUBLE and rounds then, and rounding twice is wrong once in a while. BIT is bytes in a field and a
//! number in a literal. Nothing is allocated for a value.

use crate::CELLS;
use crate::fit::Fit;
use crate::types::{Kind, MyType};
use drover_model::plan::{PlanColumn, RowFormat};
use drover_model::row::Cell;
use drover_model::schema::DataType;
use drover_model::{Error, Result};
use mysql_async::Value;
use std::borrow::Cow;
use std::io::Write;

/// What a cell's bytes are, as far as writing them is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Digits, sign, dot.
    Number,
    /// The shortest text of a FLOAT.
    Single,
    Double,
    /// Digits `0` and `1`, for a BIT column of so many bytes; 0: for another column.
    Bits(usize),
    /// The label of an ENUM of which no label is empty, on neither side: an empty one is the error value, which a strict server takes as the text `0` only.
    Label,
    /// Anything.
    Bytes,
}

/// What a parameter is, for a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    Signed,
    Unsigned,
    Double,
    /// In quotes, if it were a literal.
    Bytes,
}

impl Typed {
    /// It makes the parameter of its type, whatever is given.
    pub fn placeholder(self) -> &'static str {
        match self {
            Typed::Signed => "CAST(? AS SIGNED)",
            Typed::Unsigned => "CAST(? AS UNSIGNED)",
            Typed::Double => "CAST(? AS DOUBLE)",
            Typed::Bytes => "?",
        }
    }
}

/// How the values of one column are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoder {
    how: How,
    /// The server converts the bytes from this character set to the column's.
    using: Option<String>,
    /// Of canonical cells.
    fit: Option<Fit>,
}

/// Whether ASCII text has the bytes of ASCII in a character set.
fn holds_ascii(charset: &str) -> bool {
    !matches!(charset, "ucs2" | "utf16" | "utf16le" | "utf32" | "swe7")
}

/// The name by which conversions are asked for: the shorter forms of UTF-8 are deprecated in places, and parts of the whole.
fn plain(charset: &str) -> &str {
    match charset {
        "utf8" | "utf8mb3" => "utf8mb4",
        other => other,
    }
}

/// Whether bytes of one character set are the same text in the other. What only the longer form of UTF-8 has is refused by the server.
fn same_bytes(from: &str, to: &str) -> bool {
    let (from, to) = (plain(from), plain(to));
    from == to || (from == "ascii" && holds_ascii(to))
}

impl Encoder {
    /// For values of a plan's column, in the plan's format, that go into a column of this type.
    pub fn new(column: &PlanColumn, format: &RowFormat, to: &MyType) -> Encoder {
        if *format == RowFormat::Canonical {
            return Encoder::canonical(column, to);
        }
        let from = MyType::parse(&column.origin_type);
        let native = *format == RowFormat::Native(CELLS.to_owned());
        let how = match (from.as_ref().map(|f| &f.kind), &to.kind) {
            (Some(Kind::Bit { .. }), Kind::Bit { length }) => How::Bits(usize::from(*length).div_ceil(8)),
            (Some(Kind::Bit { .. }), _) => How::Bits(0),
            (Some(Kind::Float { .. }), Kind::Float { .. }) => How::Single,
            (_, Kind::Float { .. } | Kind::Double { .. }) => How::Double,
            (_, Kind::Int { .. } | Kind::Decimal { .. }) => How::Number,
            (Some(Kind::Enum { labels: from }), Kind::Enum { labels })
                if !from.iter().chain(labels).any(String::is_empty) && !labels.iter().any(|l| l == "0") =>
            {
                How::Label
            }
            _ => How::Bytes,
        };
        let text =
            match from {
                Some(MyType {
                    kind: Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. }, charset, ..
                }) if native => charset.unwrap_or_else(|| "utf8mb4".to_owned()),
                Some(MyType { kind: Kind::Uuid | Kind::Inet4 | Kind::Inet6, .. }) => "ascii".to_owned(),
                Some(MyType { kind: Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. }, .. }) => {
                    "binary".to_owned()
                }
                _ => "utf8mb4".to_owned(),
            };
        Encoder { how, using: Encoder::using(&text, to), fit: None }
    }

    /// For canonical cells: what they are is said by the data type, whatever the source calls it.
    fn canonical(column: &PlanColumn, to: &MyType) -> Encoder {
        let how = match (&column.data_type, &to.kind) {
            (DataType::Bit { .. }, Kind::Bit { length }) => How::Bits(usize::from(*length).div_ceil(8)),
            (DataType::Float { bytes: 4 }, Kind::Float { .. }) => How::Single,
            (_, Kind::Float { .. } | Kind::Double { .. }) => How::Double,
            (_, Kind::Int { .. } | Kind::Decimal { .. }) => How::Number,
            _ => How::Bytes,
        };
        let binary = matches!(column.data_type, DataType::Bytes { .. })
            || matches!(to.kind, Kind::Geometry { .. } | Kind::Vector { .. });
        let text = match column.data_type {
            _ if binary => "binary",
            DataType::Uuid => "ascii",
            _ => "utf8mb4",
        };
        Encoder { how, using: Encoder::using(text, to), fit: Some(Fit::new(column, to)) }
    }

    /// The character set from which the server has to convert values for a column of this type.
    fn using(text: &str, to: &MyType) -> Option<String> {
        let convert = |to: &str| (text != "binary" && !same_bytes(text, to)).then(|| plain(text).to_owned());
        let theirs = to.charset.as_deref().unwrap_or("utf8mb4");
        match &to.kind {
            Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } => convert(theirs),
            Kind::Enum { labels } | Kind::Set { labels }
                if holds_ascii(theirs) && labels.iter().all(|l| l.is_ascii()) =>
            {
                None
            }
            Kind::Enum { .. } | Kind::Set { .. } => convert(theirs),
            // These take text only, not bytes.
            Kind::Json | Kind::Uuid | Kind::Inet4 | Kind::Inet6 => Some(plain(text).to_owned()),
            _ => None,
        }
    }

    /// The column identifies rows: its values are compared, and are written as they are.
    pub fn identifies(&mut self) {
        if self.how == How::Label {
            self.how = How::Bytes;
        }
    }

    /// What is to be written for a canonical cell's value; `None`: null.
    ///
    /// # Errors
    /// LOSS where it does not fit into the column.
    fn fitted<'v>(&self, value: &'v [u8]) -> Result<Option<Cow<'v, [u8]>>> {
        match &self.fit {
            Some(fit) => fit.value(value),
            None => Ok(Some(Cow::Borrowed(value))),
        }
    }

    /// The cell that is written in the place of this one.
    pub fn written<'c>(&self, cell: Cell<'c>) -> Result<Option<Cow<'c, [u8]>>> {
        cell.value().map_or(Ok(None), |value| self.fitted(value))
    }

    /// How many values that do not fit have become others so far, and one of them.
    pub fn replaced(&self) -> (u64, &str) {
        self.fit.as_ref().map_or((0, ""), Fit::replaced)
    }

    /// The fit of a column whose values may become others.
    pub fn changing(&self) -> Option<&Fit> {
        self.fit.as_ref().filter(|f| f.changes())
    }

    /// Whether LOAD DATA must read the field into a variable and convert it.
    pub fn converts(&self) -> bool {
        self.using.is_some()
    }

    /// The expression of the column's value, made of that of its literal (or of a column of literals).
    pub fn value(&self, literal: &str) -> String {
        match &self.using {
            Some(charset) => format!("CONVERT({literal} USING {charset})"),
            None => literal.to_owned(),
        }
    }

    /// Appends a value as a literal that [`Encoder::value`] may have to be put around.
    ///
    /// # Errors
    /// INTERNAL for a cell that is unknown: it would be written as null.
    pub fn put_literal(&self, out: &mut Vec<u8>, cell: Cell<'_>) -> Result<()> {
        let value = match cell {
            Cell::Null => {
                out.extend_from_slice(b"NULL");
                return Ok(());
            }
            Cell::Unknown => return Err(unknown()),
            Cell::Value(value) => self.fitted(value)?,
        };
        let Some(value) = value.as_deref() else {
            out.extend_from_slice(b"NULL");
            return Ok(());
        };
        match self.how {
            How::Number if is_number(value) => out.extend_from_slice(value),
            How::Single => match single(value) {
                // With an exponent it is a DOUBLE, without one a DECIMAL.
                Some(exact) => write!(out, "{exact:e}").map_err(internal)?,
                None => put_quoted(out, value),
            },
            How::Double if is_number(value) => {
                out.extend_from_slice(value);
                if !value.iter().any(|b| b.eq_ignore_ascii_case(&b'e')) {
                    out.extend_from_slice(b"e0");
                }
            }
            How::Bits(_) => match bits(value) {
                Some(bits) => write!(out, "{bits}").map_err(internal)?,
                None => put_quoted(out, value),
            },
            How::Label if value.is_empty() => put_quoted(out, b"0"),
            _ => put_quoted(out, value),
        }
        Ok(())
    }

    /// What parameters are for the column; `whole`: it holds whole numbers.
    pub fn typed(&self, whole: bool, unsigned: bool) -> Typed {
        match self.how {
            How::Number if whole && unsigned => Typed::Unsigned,
            How::Number if whole => Typed::Signed,
            How::Single | How::Double => Typed::Double,
            How::Bits(_) => Typed::Unsigned,
            How::Number | How::Label | How::Bytes => Typed::Bytes,
        }
    }

    /// A value as a parameter that [`Encoder::value`] may have to be put around; `None` where only a literal can say it.
    ///
    /// # Errors
    /// INTERNAL for a cell that is unknown.
    pub fn parameter(&self, typed: Typed, cell: Cell<'_>) -> Result<Option<Value>> {
        if cell == Cell::Unknown {
            return Err(unknown());
        }
        let Some(value) = self.written(cell)? else { return Ok(Some(Value::NULL)) };
        let text = || std::str::from_utf8(&value).ok();
        Ok(match (typed, self.how) {
            (Typed::Bytes, How::Label) if value.is_empty() => Some(Value::Bytes(b"0".to_vec())),
            (Typed::Bytes, _) => Some(Value::Bytes(value.into_owned())),
            (_, How::Single) => single(&value).map(Value::Double),
            (_, How::Bits(_)) => bits(&value).map(Value::UInt),
            (Typed::Double, _) => {
                let double = text().filter(|t| is_number(t.as_bytes())).and_then(|t| t.parse::<f64>().ok());
                double.filter(|d| d.is_finite()).map(Value::Double)
            }
            (Typed::Signed, _) => text().and_then(|t| t.parse().ok()).map(Value::Int),
            (Typed::Unsigned, _) => text().and_then(|t| t.parse().ok()).map(Value::UInt),
        })
    }

    /// Appends a value as a literal with its conversion.
    pub fn put_value(&self, out: &mut Vec<u8>, cell: Cell<'_>) -> Result<()> {
        let Some(charset) = &self.using else { return self.put_literal(out, cell) };
        out.extend_from_slice(b"CONVERT(");
        self.put_literal(out, cell)?;
        out.extend_from_slice(b" USING ");
        out.extend_from_slice(charset.as_bytes());
        out.push(b')');
        Ok(())
    }

    /// Appends a value as a field of LOAD DATA: tabs between fields, lines end with a newline, a backslash escapes.
    ///
    /// # Errors
    /// INTERNAL for a cell that is unknown.
    pub fn put_field(&self, out: &mut Vec<u8>, cell: Cell<'_>) -> Result<()> {
        let value = match cell {
            Cell::Null => {
                out.extend_from_slice(b"\\N");
                return Ok(());
            }
            Cell::Unknown => return Err(unknown()),
            Cell::Value(value) => self.fitted(value)?,
        };
        let Some(value) = value.as_deref() else {
            out.extend_from_slice(b"\\N");
            return Ok(());
        };
        match self.how {
            How::Number | How::Double if is_number(value) => out.extend_from_slice(value),
            How::Single => match single(value) {
                Some(exact) => write!(out, "{exact:e}").map_err(internal)?,
                None => put_escaped(out, value),
            },
            How::Bits(0) => match bits(value) {
                Some(bits) => write!(out, "{bits}").map_err(internal)?,
                None => put_escaped(out, value),
            },
            How::Bits(bytes) => match bits(value) {
                Some(bits) => put_escaped(out, &bits.to_be_bytes()[8 - bytes.min(8)..]),
                None => put_escaped(out, value),
            },
            How::Label if value.is_empty() => out.push(b'0'),
            _ => put_escaped(out, value),
        }
        Ok(())
    }
}

fn unknown() -> Error {
    Error::internal("a value that is not known cannot be written")
}

fn internal(e: std::io::Error) -> Error {
    Error::internal("a value could not be written").cause(e)
}

/// Whether a text may stand unquoted as a number.
fn is_number(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    digits.first().is_some_and(u8::is_ascii_digit)
        && digits.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'))
}

/// The exact DOUBLE of a FLOAT's shortest text.
fn single(value: &[u8]) -> Option<f64> {
    let single: f32 = std::str::from_utf8(value).ok()?.parse().ok()?;
    single.is_finite().then_some(f64::from(single))
}

fn bits(value: &[u8]) -> Option<u64> {
    if value.len() > 64 || value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |n, b| match b {
        b'0' => Some(n << 1),
        b'1' => Some(n << 1 | 1),
        _ => None,
    })
}

/// Appends bytes in quotes.
pub fn put_quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.reserve(value.len() + 2);
    out.push(b'\'');
    put_with(out, value, |b| matches!(b, b'\'' | b'\\'), |out, b| out.extend_from_slice(&[b'\\', b]));
    out.push(b'\'');
}

fn put_escaped(out: &mut Vec<u8>, value: &[u8]) {
    put_with(
        out,
        value,
        |b| matches!(b, b'\\' | b'\t' | b'\n' | 0),
        |out, b| {
            let escaped = match b {
                b'\t' => b't',
                b'\n' => b'n',
                0 => b'0',
                other => other,
            };
            out.extend_from_slice(&[b'\\', escaped]);
        },
    );
}

/// Copies runs of bytes, with the special ones replaced.
#[inline]
fn put_with(out: &mut Vec<u8>, mut value: &[u8], special: impl Fn(u8) -> bool, put: impl Fn(&mut Vec<u8>, u8)) {
    while let Some(at) = value.iter().position(|&b| special(b)) {
        out.extend_from_slice(&value[..at]);
        put(out, value[at]);
        value = &value[at + 1..];
    }
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoder(from: &str, to: &str) -> Encoder {
        let column = PlanColumn { destination_type: to.into(), ..PlanColumn::new("c", DataType::Other, from) };
        Encoder::new(&column, &RowFormat::Native(CELLS.into()), &MyType::parse(to).unwrap())
    }
    fn literal(e: &Encoder, value: &str) -> String {
        let mut out = Vec::new();
        e.put_value(&mut out, Cell::Value(value.as_bytes())).unwrap();
        String::from_utf8(out).unwrap()
    }
    fn field(e: &Encoder, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        e.put_field(&mut out, Cell::Value(value)).unwrap();
        out
    }

    #[test]
    fn literals() {
        for (from, to, value, wanted) in [
            ("int", "int", "-5", "-5"),
            ("int", "int", "1; drop", "'1; drop'"),
            ("decimal(5,2)", "decimal(5,2)", "-0.10", "-0.10"),
            ("float", "float", "0.1", "1.0000000149011612e-1"),
            ("double", "double", "0.1", "0.1e0"),
            ("double", "double", "1e-7", "1e-7"),
            ("bit(10)", "bit(10)", "1000000001", "513"),
            ("bit(64)", "bit(64)", &"1".repeat(64), "18446744073709551615"),
            ("date", "date", "0000-00-00", "'0000-00-00'"),
            ("year", "year", "0000", "'0000'"),
            ("varchar(9) character set utf8mb3", "varchar(9) character set utf8mb4", "it's \\", "'it\\'s \\\\'"),
            ("varchar(9) character set latin1", "varchar(9) character set utf8mb4", "x", "CONVERT('x' USING latin1)"),
            ("varchar(9) character set ascii", "varchar(9) character set latin1", "x", "'x'"),
            ("json", "json", "{}", "CONVERT('{}' USING utf8mb4)"),
            ("json", "longtext character set utf8mb4", "{}", "'{}'"),
            ("enum('a','b') character set latin1", "enum('a','b') character set latin1", "a", "'a'"),
            ("enum('ä') character set latin1", "enum('ä') character set latin1", "ä", "CONVERT('ä' USING utf8mb4)"),
            ("enum('a','0')", "enum('a','b')", "", "'0'"),
            ("enum('a','b')", "enum('a','0')", "", "''"),
            ("enum('a','')", "enum('a')", "", "''"),
            ("enum('a')", "enum('a','')", "", "''"),
            ("set('a','b')", "set('a','b')", "", "''"),
            ("uuid", "uuid", "x", "CONVERT('x' USING ascii)"),
            ("uuid", "char(36) character set utf8mb4", "x", "'x'"),
            ("varbinary(3)", "varbinary(3)", "x", "'x'"),
        ] {
            assert_eq!(literal(&encoder(from, to), value), wanted, "{from} to {to}: {value}");
        }
    }

    #[test]
    fn fields() {
        assert_eq!(field(&encoder("bit(10)", "bit(10)"), b"1000000001"), b"\x02\x01");
        assert_eq!(field(&encoder("bit(4)", "bit(4)"), b"1001"), b"\\t");
        assert_eq!(field(&encoder("enum('a')", "enum('a')"), b""), b"0");
        let mut key = encoder("enum('a')", "enum('a')");
        key.identifies();
        assert_eq!(field(&key, b""), b"");
        assert_eq!(field(&encoder("blob", "blob"), b"a\tb\nc\\d\0\r'"), b"a\\tb\\nc\\\\d\\0\r'");
        let mut out = Vec::new();
        encoder("int", "int").put_field(&mut out, Cell::Null).unwrap();
        assert_eq!(out, b"\\N");
        assert!(encoder("int", "int").put_field(&mut out, Cell::Unknown).is_err());
    }

    proptest! {
        /// Rounding to DOUBLE and then to FLOAT gives the value again, for every FLOAT.
        #[test]
        fn floats_come_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = literal(&encoder("float", "float"), &value.to_string());
            let back: f64 = text.parse().unwrap();
            prop_assert_eq!(back as f32, value);
            prop_assert_eq!(back, f64::from(value));
        }
    }
}
