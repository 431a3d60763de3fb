//! Column types of the family, read from the text that the server gives (`COLUMN_TYPE`), with the character set that drover puts
//! behind it: `varchar(20) character set latin1`. This text is a column's `origin_type` and `destination_type` in plans, so that
//! either side can decode and encode values from the plan alone.

use drover_model::schema::DataType;

/// What a column's values are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// 1, 2, 3, 4 or 8 bytes.
    Int {
        bytes: u8,
    },
    /// `declared` are the digits of the deprecated form FLOAT(m, d).
    Float {
        declared: Option<(u8, u8)>,
    },
    Double {
        declared: Option<(u8, u8)>,
    },
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        length: u8,
    },
    Year,
    Date,
    /// Digits of the fraction, 0 to 6; likewise below.
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    Char {
        length: u32,
    },
    VarChar {
        length: u32,
    },
    /// TINYTEXT, TEXT, MEDIUMTEXT, LONGTEXT by the bytes of their length: 1 to 4.
    Text {
        prefix: u8,
    },
    Binary {
        length: u32,
    },
    VarBinary {
        length: u32,
    },
    /// Like [`Kind::Text`].
    Blob {
        prefix: u8,
    },
    Enum {
        labels: Vec<String>,
    },
    Set {
        labels: Vec<String>,
    },
    /// MySQL's own; MariaDB's is a LONGTEXT with a check.
    Json,
    /// `geometry`, `point` …: the name.
    Geometry {
        name: String,
    },
    Vector {
        length: u32,
    },
    /// MariaDB's types with a text form and fixed bytes of their own.
    Uuid,
    Inet4,
    Inet6,
}

/// A type with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MyType {
    pub kind: Kind,
    pub unsigned: bool,
    pub zerofill: bool,
    /// Of text, ENUM and SET columns.
    pub charset: Option<String>,
}

impl MyType {
    /// Reads a type's text; `None` where it is no type known here.
    pub fn parse(text: &str) -> Option<MyType> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        let word = text[..end].to_ascii_lowercase();
        let rest = text[end..].trim_start();
        let (arguments, rest) = if rest.starts_with('(') { arguments(rest)? } else { (Vec::new(), rest) };
        let rest = rest.trim();
        let (attributes, charset) = match rest.to_ascii_lowercase().find("character set ") {
            Some(at) => {
                let charset =
                    rest[at + "character set ".len()..].split_whitespace().next().map(str::to_ascii_lowercase);
                (rest[..at].to_ascii_lowercase(), charset)
            }
            None => (rest.to_ascii_lowercase(), None),
        };
        let has = |word: &str| attributes.split_whitespace().any(|a| a == word);
        let number = |i: usize| arguments.get(i).and_then(|a| a.parse::<u32>().ok());
        let small = |i: usize| number(i).and_then(|n| u8::try_from(n).ok());
        let digits = small(0).unwrap_or(0);
        let declared = || Some((small(0)?, small(1)?));
        let kind = match word.as_str() {
            "tinyint" | "bool" | "boolean" => Kind::Int { bytes: 1 },
            "smallint" => Kind::Int { bytes: 2 },
            "mediumint" => Kind::Int { bytes: 3 },
            "int" | "integer" => Kind::Int { bytes: 4 },
            "bigint" => Kind::Int { bytes: 8 },
            "float" => Kind::Float { declared: declared() },
            "double" | "real" => Kind::Double { declared: declared() },
            "decimal" | "numeric" | "dec" | "fixed" => {
                Kind::Decimal { precision: small(0).unwrap_or(10), scale: small(1).unwrap_or(0) }
            }
            "bit" => Kind::Bit { length: small(0).unwrap_or(1) },
            "year" => Kind::Year,
            "date" => Kind::Date,
            "time" => Kind::Time { digits },
            "datetime" => Kind::DateTime { digits },
            "timestamp" => Kind::Timestamp { digits },
            "char" => Kind::Char { length: number(0).unwrap_or(1) },
            "varchar" => Kind::VarChar { length: number(0)? },
            "tinytext" => Kind::Text { prefix: 1 },
            "text" => Kind::Text { prefix: 2 },
            "mediumtext" => Kind::Text { prefix: 3 },
            "longtext" => Kind::Text { prefix: 4 },
            "binary" => Kind::Binary { length: number(0).unwrap_or(1) },
            "varbinary" => Kind::VarBinary { length: number(0)? },
            "tinyblob" => Kind::Blob { prefix: 1 },
            "blob" => Kind::Blob { prefix: 2 },
            "mediumblob" => Kind::Blob { prefix: 3 },
            "longblob" => Kind::Blob { prefix: 4 },
            "enum" => Kind::Enum { labels: arguments },
            "set" => Kind::Set { labels: arguments },
            "json" => Kind::Json,
            "vector" => Kind::Vector { length: number(0).unwrap_or(2048) },
            "uuid" => Kind::Uuid,
            "inet4" => Kind::Inet4,
            "inet6" => Kind::Inet6,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => Kind::Geometry { name: word },
            _ => return None,
        };
        let zerofill = has("zerofill");
        Some(MyType { kind, unsigned: has("unsigned") || zerofill, zerofill, charset })
    }

    /// Whether values are text in a character set.
    pub fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. })
    }

    /// The same without the family's own names.
    pub fn data_type(&self) -> DataType {
        match &self.kind {
            Kind::Int { bytes } => DataType::Int { bytes: *bytes, unsigned: self.unsigned },
            Kind::Float { .. } => DataType::Float { bytes: 4 },
            Kind::Double { .. } => DataType::Float { bytes: 8 },
            Kind::Decimal { precision, scale } => {
                DataType::Decimal { precision: Some(u32::from(*precision)), scale: Some(i32::from(*scale)) }
            }
            Kind::Bit { length } => DataType::Bit { max: Some(u32::from(*length)), varying: false },
            Kind::Year => DataType::Int { bytes: 2, unsigned: true },
            Kind::Date => DataType::Date,
            // A span of time as much as a time of the day: -838:59:59 to 838:59:59.
            Kind::Time { digits } => DataType::Time { precision: *digits, zone: false },
            Kind::DateTime { digits } => DataType::Timestamp { precision: *digits, zone: false },
            Kind::Timestamp { digits } => DataType::Timestamp { precision: *digits, zone: true },
            Kind::Char { length } => DataType::Text { max: Some(*length), padded: true },
            Kind::VarChar { length } => DataType::Text { max: Some(*length), padded: false },
            Kind::Text { .. } => DataType::Text { max: None, padded: false },
            Kind::Binary { length } | Kind::VarBinary { length } => DataType::Bytes { max: Some(*length) },
            Kind::Blob { .. } => DataType::Bytes { max: None },
            Kind::Enum { labels } => DataType::Enum { labels: labels.clone() },
            Kind::Json => DataType::Json,
            Kind::Uuid => DataType::Uuid,
            // Labels with commas between, addresses.
            Kind::Set { .. } | Kind::Inet4 | Kind::Inet6 => DataType::Text { max: None, padded: false },
            // SRID and WKB as they are stored; numbers as they are stored.
            Kind::Geometry { .. } | Kind::Vector { .. } => DataType::Bytes { max: None },
        }
    }
}

/// Splits `(10,2) rest` or `('a','it''s') rest`; quoted arguments are unquoted.
fn arguments(text: &str) -> Option<(Vec<String>, &str)> {
    let mut out = Vec::new();
    let mut current = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    let mut quoted = false;
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if quoted => {
                if chars.peek().is_some_and(|(_, next)| *next == '\'') {
                    chars.next();
                    current.push('\'');
                } else {
                    quoted = false;
                }
            }
            '\'' => quoted = true,
            // Labels are printed with what has no face escaped.
            '\\' if quoted => current.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'Z' => '\u{1a}',
                'b' => '\u{8}',
                other => other,
            }),
            c if quoted => current.push(c),
            ',' => out.push(std::mem::take(&mut current)),
            ')' => {
                out.push(current);
                return Some((out, &text[at + 1..]));
            }
            c if c.is_whitespace() => {}
            c => current.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> MyType {
        MyType::parse(text).unwrap()
    }

    #[test]
    fn types_with_their_attributes() {
        assert_eq!(parse("int(10) unsigned zerofill").kind, Kind::Int { bytes: 4 });
        assert!(parse("int(10) unsigned zerofill").unsigned && parse("bigint zerofill").unsigned);
        assert_eq!(parse("decimal(65,30)").kind, Kind::Decimal { precision: 65, scale: 30 });
        assert_eq!(parse("float(7,3) unsigned").kind, Kind::Float { declared: Some((7, 3)) });
        assert_eq!(parse("datetime(6)").kind, Kind::DateTime { digits: 6 });
        let text = parse("varchar(20) character set latin1");
        assert_eq!((text.kind, text.charset.as_deref()), (Kind::VarChar { length: 20 }, Some("latin1")));
        let odd = parse("enum('a','it''s, (b)','','unsigned') character set utf8mb4");
        assert_eq!(odd.kind, Kind::Enum { labels: vec!["a".into(), "it's, (b)".into(), "".into(), "unsigned".into()] });
        assert!(!odd.unsigned && odd.charset.as_deref() == Some("utf8mb4"));
        let escaped = parse(r"set('x\\y','line\nbreak')");
        assert_eq!(escaped.kind, Kind::Set { labels: vec!["x\\y".into(), "line\nbreak".into()] });
        assert_eq!(MyType::parse("sys_refcursor"), None);
    }
}
