//! Canonical cells (see `drover_model::canonical`) as values of a column of this family, and back. Guarantee: a value is written as it is, or in this
//! family's form of the same value, or treated as the column's policy says; whatever is not the value itself is an error or counted and
//! logged with its row.

use crate::types::{Kind, MyType};
use drover_model::doubt::{Changed, Doubt, NAMED};
use drover_model::error::codes;
use drover_model::plan::{Misfit, PlanColumn};
use drover_model::schema::DataType;
use drover_model::{Error, Fault, Result, Retry};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What has to be seen to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    AsIs,
    Bool,
    /// A date, with a time of so many digits if there is one.
    Moment(Option<u8>),
    Decimal {
        precision: u8,
        scale: u8,
    },
    Float {
        single: bool,
    },
    /// At most so many characters.
    Chars(u32),
    /// At most so many bytes.
    Bytes(u64),
    Labels(Vec<String>),
    Json,
}

/// Values that became others: how many, one of them, and those that are to be named. The last of these wait for the keys of their rows.
#[derive(Debug, Default)]
struct Log {
    count: AtomicU64,
    example: OnceLock<String>,
    waiting: AtomicBool,
    values: Mutex<Vec<Changed>>,
}

#[derive(Debug, Clone, Default)]
struct Replaced(Arc<Log>);

impl PartialEq for Replaced {
    fn eq(&self, _: &Replaced) -> bool {
        true
    }
}
impl Eq for Replaced {}

/// Why a value does not fit, and the nearest one that does.
struct Beyond {
    why: &'static str,
    nearest: Option<Vec<u8>>,
}

/// How canonical cells become values of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    rule: Rule,
    /// Spaces at the end are padding.
    padded: bool,
    policy: Misfit,
    column: String,
    replaced: Replaced,
}

impl Fit {
    /// For a plan's column in canonical format that goes into a column of this type.
    pub fn new(column: &PlanColumn, to: &MyType) -> Fit {
        let rule = match (&column.data_type, &to.kind) {
            (DataType::Bool, Kind::Int { .. } | Kind::Bit { .. } | Kind::Decimal { .. }) => Rule::Bool,
            (DataType::Date | DataType::Timestamp { .. }, Kind::Date) => Rule::Moment(None),
            (DataType::Date | DataType::Timestamp { .. }, Kind::DateTime { digits } | Kind::Timestamp { digits }) => {
                Rule::Moment(Some(*digits))
            }
            (DataType::Decimal { .. }, Kind::Decimal { precision, scale }) => {
                Rule::Decimal { precision: *precision, scale: *scale }
            }
            (DataType::Float { .. }, Kind::Float { .. }) => Rule::Float { single: true },
            (DataType::Float { .. }, Kind::Double { .. }) => Rule::Float { single: false },
            (DataType::Bytes { .. }, Kind::Binary { length } | Kind::VarBinary { length }) => {
                Rule::Bytes(u64::from(*length))
            }
            (_, Kind::Char { length } | Kind::VarChar { length }) => Rule::Chars(*length),
            (_, Kind::Text { prefix } | Kind::Blob { prefix }) if *prefix < 4 => {
                Rule::Bytes((1u64 << (8 * u32::from(*prefix))) - 1)
            }
            (DataType::Enum { .. }, Kind::Enum { labels }) => Rule::Labels(labels.clone()),
            (DataType::Json | DataType::JsonText | DataType::Document, Kind::Json) => Rule::Json,
            _ => Rule::AsIs,
        };
        Fit {
            rule,
            padded: matches!(column.data_type, DataType::Text { padded: true, .. }),
            policy: column.misfit,
            column: column.destination.clone(),
            replaced: Replaced::default(),
        }
    }

    /// What of the values of a source's column has no place in it.
    pub(crate) fn doubt(&self, kind: &DataType) -> Option<Doubt> {
        Some(match &self.rule {
            Rule::AsIs | Rule::Bool | Rule::Labels(_) => return None,
            Rule::Moment(_) => Doubt::FarDate,
            Rule::Decimal { precision, scale } => {
                Doubt::Digits { precision: u32::from(*precision), scale: u32::from(*scale) }
            }
            Rule::Float { .. } => Doubt::NoNumber,
            Rule::Chars(most) => match kind {
                DataType::Text { max: Some(n), .. } | DataType::Bit { max: Some(n), .. } if n <= most => return None,
                // Short by nature, and their columns are wide enough.
                DataType::Uuid | DataType::Interval | DataType::Time { .. } | DataType::Enum { .. } => return None,
                _ => Doubt::Chars(*most),
            },
            Rule::Bytes(most) => match kind {
                DataType::Bytes { max: Some(n) } if u64::from(*n) <= *most => return None,
                _ => Doubt::Bytes(*most),
            },
            Rule::Json => Doubt::LongNumberInJson,
        })
    }

    /// The value for the column; `None`: null takes its place.
    ///
    /// # Errors
    /// LOSS with column and value, where it does not fit and the policy says that this ends the migration.
    #[inline]
    pub fn value<'v>(&self, value: &'v [u8]) -> Result<Option<Cow<'v, [u8]>>> {
        let value = if self.padded { trimmed(value) } else { value };
        match self.checked(value) {
            Ok(fits) => Ok(Some(Cow::Borrowed(fits))),
            Err(beyond) => self.replace(value, beyond),
        }
    }

    #[inline]
    fn checked<'v>(&self, value: &'v [u8]) -> std::result::Result<&'v [u8], Beyond> {
        match &self.rule {
            Rule::AsIs => Ok(value),
            Rule::Bool => match value {
                b"t" => Ok(b"1"),
                b"f" => Ok(b"0"),
                other => Ok(other),
            },
            Rule::Moment(digits) => moment(value, *digits),
            Rule::Decimal { precision, scale } => decimal(value, usize::from(*precision), usize::from(*scale)),
            Rule::Float { single } => float(value, *single),
            Rule::Chars(max) => chars(value, *max as usize),
            Rule::Bytes(max) => {
                if value.len() as u64 <= *max {
                    return Ok(value);
                }
                Err(Beyond { why: "it is too long", nearest: usize::try_from(*max).ok().map(|n| value[..n].to_vec()) })
            }
            Rule::Labels(labels) => {
                if labels.iter().any(|l| l.as_bytes() == value) {
                    return Ok(value);
                }
                Err(Beyond { why: "the column's type has no such label", nearest: None })
            }
            Rule::Json => {
                if json_numbers_fit(value) {
                    return Ok(value);
                }
                let why = "a number in it has more digits than a JSON number has here";
                Err(Beyond { why, nearest: Some(value.to_vec()) })
            }
        }
    }

    fn replace(&self, value: &[u8], beyond: Beyond) -> Result<Option<Cow<'static, [u8]>>> {
        let shown = String::from_utf8_lossy(&value[..value.len().min(80)]);
        let (new, what) = match (self.policy, beyond.nearest) {
            (Misfit::Null, _) => (None, "null"),
            (Misfit::Clamp, Some(nearest)) => (Some(Cow::Owned(nearest)), "the nearest value"),
            _ => {
                let text = format!("the destination's column {} cannot hold {shown}: {}", self.column, beyond.why);
                return Err(Error::new(codes::LOSS, Fault::Destination, Retry::Never, text)
                    .column(&self.column)
                    .remedy(format!(
                        "say what becomes of such values, columns = {{ on_misfit = {{ {} = \"null\" }} }} (or \"clamp\", or \"text\" for a column of text), \
                         and migrate the table again; or leave the column out",
                        self.column
                    )));
            }
        };
        let log = &*self.replaced.0;
        let count = log.count.fetch_add(1, Ordering::Relaxed) + 1;
        log.example.get_or_init(|| shown.to_string());
        if count <= NAMED as u64 {
            let after =
                new.as_ref().map(|n: &Cow<'_, [u8]>| String::from_utf8_lossy(&n[..n.len().min(80)]).into_owned());
            let changed = Changed { key: String::new(), before: shown.to_string(), after };
            log.values.lock().unwrap_or_else(PoisonError::into_inner).push(changed);
            log.waiting.store(true, Ordering::Relaxed);
            let column = &self.column;
            tracing::warn!(column, value = %shown, why = beyond.why, "a value does not fit and becomes {what}");
        }
        Ok(new)
    }

    /// How many values have become others so far, and one of them.
    pub fn replaced(&self) -> (u64, &str) {
        (self.replaced.0.count.load(Ordering::Relaxed), self.replaced.0.example.get().map_or("", String::as_str))
    }

    /// Whether values may become others at all.
    pub fn changes(&self) -> bool {
        self.rule != Rule::AsIs && matches!(self.policy, Misfit::Null | Misfit::Clamp)
    }

    /// Gives the values that were replaced since the last call the key of their row.
    #[inline]
    pub fn name(&self, key: impl Fn() -> String) {
        let log = &*self.replaced.0;
        if log.waiting.swap(false, Ordering::Relaxed) {
            let mut values = log.values.lock().unwrap_or_else(PoisonError::into_inner);
            let unnamed = values.iter().rposition(|v| !v.key.is_empty()).map_or(0, |i| i + 1);
            values[unnamed..].iter_mut().for_each(|v| v.key = key());
        }
    }

    /// Takes the values that are to be named.
    pub fn take(&self) -> Vec<Changed> {
        std::mem::take(&mut *self.replaced.0.values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn trimmed(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
    &value[..end]
}

/// A date from the year 1 to 9999, without its zone.
#[inline]
fn moment(value: &[u8], digits: Option<u8>) -> std::result::Result<&[u8], Beyond> {
    let plain = value.strip_suffix(b"+00").filter(|v| v.len() > 10).unwrap_or(value);
    let digit = |i: usize| plain.get(i).is_some_and(u8::is_ascii_digit);
    if (0..4).all(digit) && plain.get(4) == Some(&b'-') && !plain.ends_with(b"C") {
        return Ok(plain);
    }
    let early = value.starts_with(b"-") || value.ends_with(b"BC");
    let known = early || value.starts_with(b"infinity") || value.iter().take(5).all(u8::is_ascii_digit);
    let mut nearest = if early { "0001-01-01".to_owned() } else { "9999-12-31".to_owned() };
    if let Some(digits) = digits {
        nearest.push_str(if early { " 00:00:00" } else { " 23:59:59" });
        if digits > 0 && !early {
            nearest.push('.');
            (0..digits).for_each(|_| nearest.push('9'));
        }
    }
    Err(Beyond { why: "dates reach from year 1 to 9999 here", nearest: known.then(|| nearest.into_bytes()) })
}

#[inline]
fn decimal(value: &[u8], precision: usize, scale: usize) -> std::result::Result<&[u8], Beyond> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        let sign = if value.starts_with(b"-") { "-" } else { "" };
        let infinite = digits.starts_with(b"Inf");
        return Err(Beyond {
            why: "it is no number",
            nearest: infinite.then(|| largest(sign, precision, scale).into_bytes()),
        });
    }
    let point = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let zeros = digits[..point].iter().take_while(|b| **b == b'0').count();
    let fraction = digits.get(point + 1..).unwrap_or_default();
    let kept = fraction.iter().rposition(|b| *b != b'0').map_or(0, |i| i + 1);
    if point - zeros > precision - scale {
        let sign = if value.starts_with(b"-") { "-" } else { "" };
        let nearest = Some(largest(sign, precision, scale).into_bytes());
        return Err(Beyond { why: "it has more digits before the point", nearest });
    }
    if kept > scale {
        return Err(Beyond { why: "it has more digits behind the point", nearest: Some(rounded(value, scale)) });
    }
    // Zeros at the end that the column has no place for are none of the value.
    let excess = fraction.len().saturating_sub(scale.max(kept));
    let end = value.len() - excess;
    Ok(value[..end].strip_suffix(b".").unwrap_or(&value[..end]))
}

fn largest(sign: &str, precision: usize, scale: usize) -> String {
    let whole = if precision > scale { "9".repeat(precision - scale) } else { "0".to_owned() };
    if scale > 0 { format!("{sign}{whole}.{}", "9".repeat(scale)) } else { format!("{sign}{whole}") }
}

/// A number with more digits behind the point than that, rounded half away from zero.
fn rounded(value: &[u8], scale: usize) -> Vec<u8> {
    let Some(point) = value.iter().position(|b| *b == b'.') else { return value.to_vec() };
    let end = point + 1 + scale;
    let up = value.get(end).is_some_and(|b| *b >= b'5');
    let mut out = value[..end].to_vec();
    if out.last() == Some(&b'.') {
        out.pop();
    }
    if up {
        let mut i = out.len();
        loop {
            if i == 0 || out[i - 1] == b'-' {
                out.insert(i, b'1');
                break;
            }
            i -= 1;
            match out[i] {
                b'.' => {}
                b'9' => out[i] = b'0',
                _ => {
                    out[i] += 1;
                    break;
                }
            }
        }
    }
    out
}

#[inline]
fn float(value: &[u8], single: bool) -> std::result::Result<&[u8], Beyond> {
    if value.last().is_some_and(u8::is_ascii_digit) {
        return Ok(value);
    }
    let most = if single { "3.4028234663852886e38" } else { "1.7976931348623157e308" };
    let nearest = match value {
        b"Infinity" => Some(most.to_owned()),
        b"-Infinity" => Some(format!("-{most}")),
        _ => None,
    };
    Err(Beyond { why: "it is no number", nearest: nearest.map(String::into_bytes) })
}

#[inline]
fn chars(value: &[u8], max: usize) -> std::result::Result<&[u8], Beyond> {
    if value.len() <= max {
        return Ok(value);
    }
    let begins = |b: &u8| *b & 0xc0 != 0x80;
    let mut starts = value.iter().enumerate().filter(|(_, b)| begins(b)).map(|(i, _)| i);
    match starts.nth(max) {
        None => Ok(value),
        Some(end) => Err(Beyond { why: "it is too long", nearest: Some(value[..end].to_vec()) }),
    }
}

/// Whether each number in a JSON text is one that the binary form of this family holds: a whole number of 64 bits, or one that a DOUBLE
/// gives back with all of its digits.
fn json_numbers_fit(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| *b == b'"' || b.is_ascii_digit()) {
        if rest[at] == b'"' {
            rest = &rest[at + 1..];
            loop {
                match rest.iter().position(|b| *b == b'"' || *b == b'\\') {
                    Some(i) if rest[i] == b'\\' => rest = rest.get(i + 2..).unwrap_or_default(),
                    Some(i) => {
                        rest = &rest[i + 1..];
                        break;
                    }
                    None => return true,
                }
            }
            continue;
        }
        let number = &rest[at..];
        let negative = at > 0 && rest[at - 1] == b'-';
        let end = number
            .iter()
            .position(|b| !(b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')))
            .unwrap_or(number.len());
        if !number_fits(&number[..end], negative) {
            return false;
        }
        rest = &number[end..];
    }
    true
}

fn number_fits(number: &[u8], negative: bool) -> bool {
    // Fifteen digits always come back.
    if number.len() <= 15 && number.iter().all(|b| b.is_ascii_digit() || *b == b'.') {
        return true;
    }
    let Ok(text) = std::str::from_utf8(number) else { return false };
    if let Ok(n) = text.parse::<u64>() {
        return !negative || n <= 1 << 63;
    }
    let Ok(value) = text.parse::<f64>() else { return false };
    value.is_finite() && significant(text) == significant(&format!("{value:e}"))
}

/// Digits without zeros at either end, and the power of ten of the first.
fn significant(text: &str) -> (String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let digits = format!("{whole}{fraction}");
    let zeros = digits.bytes().take_while(|b| *b == b'0').count();
    let kept = digits[zeros..].trim_end_matches('0');
    if kept.is_empty() {
        return (String::new(), 0);
    }
    (kept.to_owned(), exponent + whole.len() as i64 - zeros as i64)
}

/// What the server shows of a value, as a canonical cell's bytes.
pub fn canonical<'v>(data_type: &DataType, shown: &'v [u8]) -> Cow<'v, [u8]> {
    match data_type {
        DataType::Bool => match shown {
            b"1" => Cow::Borrowed(b"t"),
            b"0" => Cow::Borrowed(b"f"),
            other => Cow::Borrowed(other),
        },
        DataType::Time { .. } | DataType::Timestamp { .. } => {
            let zone = matches!(data_type, DataType::Timestamp { zone: true, .. })
                && shown.len() >= 19
                && !shown.ends_with(b"+00")
                && shown.iter().take(4).all(u8::is_ascii_digit);
            let short = match shown.iter().position(|b| *b == b'.') {
                Some(point) if shown[point + 1..].iter().all(u8::is_ascii_digit) => {
                    let end = shown.iter().rposition(|b| *b != b'0').map_or(0, |i| i + 1);
                    shown[..end].strip_suffix(b".").unwrap_or(&shown[..end])
                }
                _ => shown,
            };
            if !zone {
                return Cow::Borrowed(short);
            }
            let mut out = Vec::with_capacity(short.len() + 3);
            out.extend_from_slice(short);
            out.extend_from_slice(b"+00");
            Cow::Owned(out)
        }
        _ => Cow::Borrowed(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(data_type: DataType, to: &str, misfit: Misfit) -> Fit {
        let column = PlanColumn { destination_type: to.into(), misfit, ..PlanColumn::new("c", data_type, "whatever") };
        Fit::new(&column, &MyType::parse(to).unwrap())
    }

    fn clamped(data_type: DataType, to: &str, value: &str) -> Option<String> {
        let value = fit(data_type, to, Misfit::Clamp).value(value.as_bytes()).ok()??;
        Some(String::from_utf8(value.into_owned()).unwrap())
    }

    #[test]
    fn values_that_fit_and_the_nearest_of_those_that_do_not() {
        let instant = || DataType::Timestamp { precision: 6, zone: true };
        let moment = || DataType::Timestamp { precision: 3, zone: false };
        let numeric = || DataType::Decimal { precision: None, scale: None };
        let text = || DataType::Text { max: None, padded: false };
        for (data_type, to, value, wanted) in [
            (DataType::Bool, "tinyint(1)", "t", "1"),
            (DataType::Bool, "longtext character set utf8mb4", "f", "f"),
            (instant(), "datetime(6)", "2024-02-29 12:00:00.5+00", "2024-02-29 12:00:00.5"),
            (instant(), "datetime(6)", "0044-03-15 00:00:00+00 BC", "0001-01-01 00:00:00"),
            (instant(), "datetime(6)", "infinity", "9999-12-31 23:59:59.999999"),
            (moment(), "datetime(3)", "12024-01-01 00:00:00", "9999-12-31 23:59:59.999"),
            (moment(), "datetime", "-infinity", "0001-01-01 00:00:00"),
            (DataType::Date, "date", "0001-01-01", "0001-01-01"),
            (DataType::Date, "date", "0001-01-01 BC", "0001-01-01"),
            (numeric(), "decimal(5,2)", "123.450000", "123.45"),
            (numeric(), "decimal(5,2)", "-00123.4", "-00123.4"),
            (numeric(), "decimal(5,2)", "1000", "999.99"),
            (numeric(), "decimal(5,2)", "-1.005", "-1.01"),
            (numeric(), "decimal(5,0)", "99.500", "100"),
            (numeric(), "decimal(5,0)", "12.000", "12"),
            (numeric(), "decimal(5,2)", "-Infinity", "-999.99"),
            (DataType::Float { bytes: 4 }, "float", "-Infinity", "-3.4028234663852886e38"),
            (DataType::Float { bytes: 8 }, "double", "1e+20", "1e+20"),
            (DataType::Text { max: Some(5), padded: true }, "char(5) character set utf8mb4", "äb   ", "äb"),
            (text(), "varchar(2) character set utf8mb4", "äöü", "äö"),
            (text(), "varchar(3) character set utf8mb4", "äöü", "äöü"),
            (
                DataType::Json,
                "json",
                r#"{"a": 9007199254740993, "b\"1.00000000000000000001": 0.1}"#,
                r#"{"a": 9007199254740993, "b\"1.00000000000000000001": 0.1}"#,
            ),
        ] {
            assert_eq!(clamped(data_type.clone(), to, value).as_deref(), Some(wanted), "{data_type:?} {to}: {value}");
        }
        let label = DataType::Enum { labels: vec!["a".into()] };
        for (data_type, to, value) in [
            (numeric(), "decimal(5,2)", "NaN"),
            (DataType::Float { bytes: 8 }, "double", "NaN"),
            (label, "enum('5','a') character set utf8mb4", "1"),
        ] {
            assert_eq!(clamped(data_type.clone(), to, value), None, "{data_type:?} {to}: {value}");
            assert_eq!(fit(data_type, to, Misfit::Null).value(value.as_bytes()).unwrap(), None);
        }
        let error = fit(numeric(), "decimal(5,2)", Misfit::Fail).value(b"1.001").unwrap_err();
        assert_eq!((error.code.as_str(), error.column.as_deref()), (codes::LOSS, Some("c")));
    }

    #[test]
    fn numbers_in_json() {
        for (text, fits) in [
            ("18446744073709551615", true),
            ("18446744073709551616", false),
            ("-9223372036854775808", true),
            ("-9223372036854775809", false),
            ("0.1000000000000000055511151231257827", false),
            ("[1e400]", false),
            ("{\"a\": 1.5e300, \"b\": -0.00012345678901234567}", true),
            ("123456789012345678.5", false),
            ("\"123456789012345678.5\"", true),
            ("0.0000000000000000000000", true),
        ] {
            assert_eq!(json_numbers_fit(text.as_bytes()), fits, "{text}");
        }
    }

    #[test]
    fn what_the_server_shows() {
        let instant = DataType::Timestamp { precision: 6, zone: true };
        assert_eq!(&*canonical(&instant, b"2024-01-01 00:00:00.500000"), b"2024-01-01 00:00:00.5+00");
        assert_eq!(&*canonical(&instant, b"2024-01-01 00:00:00"), b"2024-01-01 00:00:00+00");
        assert_eq!(&*canonical(&DataType::Bool, b"1"), b"t");
        assert_eq!(&*canonical(&DataType::Time { precision: 3, zone: false }, b"10:00:00.000"), b"10:00:00");
    }
}
