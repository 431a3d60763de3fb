//! How values of each type compare with what a condition says.

use crate::types::{Kind, MyType};
use drover_model::plan::PlanColumn;
use std::cmp::Ordering;

/// How a column is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Number {
        /// An integer.
        whole: bool,
    },
    /// Bytes. `padded`: spaces at the end do not count.
    Text { padded: bool },
    /// The labels of an ENUM.
    Label(Vec<String>),
    /// A DATE (no digits of a fraction, no clock), DATETIME or TIMESTAMP.
    Moment { clock: bool, digits: u8, utc: bool },
    /// It cannot be compared: why.
    Nothing(String),
}

/// Character sets of which texts are read: those whose letters of ASCII are ASCII's bytes.
const SETS: [&str; 5] = ["utf8mb4", "utf8mb3", "utf8", "ascii", "latin1"];

impl Way {
    /// `collation`: the one that counts. `named`: by the condition.
    pub fn of(column: &PlanColumn, collation: Option<&str>, named: bool) -> Way {
        let nothing = |why: &str| Way::Nothing(why.to_owned());
        let Some(my) = MyType::parse(&column.origin_type) else { return nothing("its type is not known") };
        let text = my.is_text();
        if named && !text {
            return nothing("COLLATE is read for texts only");
        }
        match my.kind {
            Kind::Int { .. } => Way::Number { whole: true },
            Kind::Decimal { .. } => Way::Number { whole: false },
            Kind::Enum { labels } => Way::Label(labels),
            Kind::Date => Way::Moment { clock: false, digits: 0, utc: false },
            Kind::DateTime { digits } => Way::Moment { clock: true, digits, utc: false },
            Kind::Timestamp { digits } => Way::Moment { clock: true, digits, utc: true },
            _ if text => {
                if !my.charset.as_deref().is_some_and(|set| SETS.contains(&set)) {
                    return nothing("texts of this character set are not compared on changes");
                }
                match collation {
                    Some(c) if c.ends_with("_nopad_bin") || c == "utf8mb4_0900_bin" => Way::Text { padded: false },
                    Some(c) if c.ends_with("_bin") => Way::Text { padded: true },
                    Some(c) => Way::Nothing(format!("its collation {c} takes different texts for equal")),
                    None => nothing("its collation is not known"),
                }
            }
            _ => nothing("values of this type are not compared on changes"),
        }
    }

    /// What to write instead.
    pub fn remedy(&self) -> &'static str {
        match self {
            Way::Number { .. } => "compare it with a number without quotes and exponent",
            Way::Text { .. } => "compare it with texts in quotes by =, <> or IN",
            Way::Label(_) => "compare it with its labels as they are defined by =, <> or IN",
            Way::Moment { clock: false, .. } => "compare it with dates in quotes as '2024-01-31'",
            Way::Moment { clock: true, .. } => "compare it with moments in quotes as '2024-01-31 12:00:00'",
            Way::Nothing(_) => {
                "for a text name a collation that compares bytes (column COLLATE utf8mb4_bin = 'x'; that of the column's character set); else write the \
                 condition otherwise, or migrate this table without \"incremental\""
            }
        }
    }

    /// A text of the condition, in the form in which [`Way`] compares.
    pub fn operand(&self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Way::Text { .. } if text.is_ascii() => Ok(text.as_bytes().to_vec()),
            Way::Text { .. } => Err("texts beyond ASCII are not compared on changes".to_owned()),
            Way::Label(labels) => {
                let lower = text.to_lowercase();
                let alike = labels.iter().filter(|l| l.to_lowercase() == lower).count();
                if alike == 1 && labels.iter().any(|l| l == text) {
                    return Ok(text.as_bytes().to_vec());
                }
                Err("that is none of its labels".to_owned())
            }
            Way::Moment { clock, digits, utc } => moment(text, *clock, *digits, *utc),
            Way::Number { .. } | Way::Nothing(_) => Err("they cannot be compared".to_owned()),
        }
    }
}

/// Names that are functions where they are not quoted.
pub(super) fn is_function(name: &str) -> bool {
    const FUNCTIONS: [&str; 9] = [
        "UTC_DATE",
        "UTC_TIME",
        "UTC_TIMESTAMP",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "CURRENT_DATE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
    ];
    FUNCTIONS.iter().any(|f| f.eq_ignore_ascii_case(name))
}

/// A decimal number: `-12.50`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Number<'a> {
    negative: bool,
    /// Without zeros at its beginning.
    whole: &'a [u8],
    /// Without zeros at its end.
    fraction: &'a [u8],
}

impl<'a> Number<'a> {
    pub fn of(text: &'a [u8]) -> Number<'a> {
        let (negative, digits) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            _ => (false, text),
        };
        let point = digits.iter().position(|&b| b == b'.').unwrap_or(digits.len());
        let (mut whole, mut fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
        while let [b'0', rest @ ..] = whole {
            whole = rest;
        }
        while let [rest @ .., b'0'] = fraction {
            fraction = rest;
        }
        Number { negative: negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction }
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = |a: &Self, b: &Self| {
            let whole = a.whole.len().cmp(&b.whole.len()).then_with(|| a.whole.cmp(b.whole));
            whole.then_with(|| a.fraction.cmp(b.fraction))
        };
        match (self.negative, other.negative) {
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => size(self, other),
            (true, true) => size(other, self),
        }
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A number as the condition writes it.
pub(super) fn number(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || digits.len() < 1 || digits == "." {
        return Err("it has an exponent, or is none".to_owned());
    }
    // DECIMAL has no more digits on either side.
    if whole.len() > 35 || fraction.len() > 30 {
        return Err("it has too many digits".to_owned());
    }
    Ok(text.as_bytes().to_vec())
}

/// A whole number in quotes: below 2⁵³ it does not matter whether the server compares as integers or as DOUBLE.
pub(super) fn whole_number(text: &str) -> Result<Vec<u8>, String> {
    let n: i64 = text.parse().map_err(|_| "a text in quotes that is no whole number".to_owned())?;
    if n.to_string() != text || n.unsigned_abs() >= 1 << 53 {
        return Err("a number in quotes is read only as plain digits below 2^53".to_owned());
    }
    Ok(text.as_bytes().to_vec())
}

/// Without the spaces at its end.
pub(super) fn unpadded(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' '] = text {
        text = rest;
    }
    text
}

/// Moments by their texts: what the shorter one lacks is zero. In canonical cells an instant says that it is in UTC.
pub(super) fn moments(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (a.strip_suffix(b"+00").unwrap_or(a), b.strip_suffix(b"+00").unwrap_or(b));
    const ZERO: &[u8; 26] = b"0000-00-00 00:00:00.000000";
    let n = a.len().min(b.len());
    a[..n].cmp(&b[..n]).then_with(|| {
        let rest = |text: &[u8]| text[n..].iter().zip(&ZERO[n.min(26)..]).any(|(digit, zero)| digit != zero);
        rest(a).cmp(&rest(b))
    })
}

/// Reads `YYYY-MM-DD`, or `YYYY-MM-DD HH:MM:SS` with up to `digits` digits of a fraction.
fn moment(text: &str, clock: bool, digits: u8, utc: bool) -> Result<Vec<u8>, String> {
    let form = || "it is not written in full, or does not exist".to_owned();
    let bytes = text.as_bytes();
    let number = |at: usize, length: usize| -> Option<u32> {
        let part = text.get(at..at + length).filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?;
        part.parse().ok()
    };
    let sign = |at: usize, sign: u8| bytes.get(at) == Some(&sign);
    let day = || {
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (sign(4, b'-') && sign(7, b'-') && year >= 1000 && (1..=last).contains(&day)).then_some(year)
    };
    let year = day().ok_or_else(form)?;
    if utc && !(1971..=2037).contains(&year) {
        return Err("no TIMESTAMP comes near it".to_owned());
    }
    if bytes.len() == 10 {
        return Ok(bytes.to_vec());
    }
    let time = || {
        let fits = sign(10, b' ') && sign(13, b':') && sign(16, b':');
        let fits = fits && number(11, 2)? < 24 && number(14, 2)? < 60 && number(17, 2)? < 60;
        let fraction = match bytes.len() {
            19 => true,
            21..=26 => {
                sign(19, b'.') && number(20, bytes.len() - 20).is_some() && bytes.len() - 20 <= usize::from(digits)
            }
            _ => false,
        };
        Some(fits && fraction)
    };
    if clock && time() == Some(true) { Ok(bytes.to_vec()) } else { Err(form()) }
}
