//! A guess at what lies in the middle between two key values. It need not be a value that exists, nor right about the server's
//! order: it is only where the server is asked to look.

use super::range::KeyColumn;
use crate::types::Kind;

/// A bound between two; `None` where none can be guessed.
pub fn between(column: &KeyColumn, low: &str, high: &str) -> Option<String> {
    match &column.kind {
        Kind::Int { .. } | Kind::Year | Kind::Bit { .. } => {
            let (low, high) = (low.parse::<i128>().ok()?, high.parse::<i128>().ok()?);
            let middle = low + (high - low) / 2;
            (middle > low).then(|| middle.to_string())
        }
        Kind::Decimal { scale, .. } => {
            let (low, high) = (scaled(low, *scale)?, scaled(high, *scale)?);
            let middle = low + (high - low) / 2;
            (middle > low).then(|| unscaled(middle, *scale))
        }
        Kind::Date => {
            let middle = halfway(moment(low)?, moment(high)?)?;
            Some(shown(middle)[..10].to_owned())
        }
        Kind::DateTime { .. } | Kind::Timestamp { .. } => Some(shown(halfway(moment(low)?, moment(high)?)?)),
        Kind::Uuid => {
            let (low, high) = (uuid(low)?, uuid(high)?);
            let middle = low / 2 + high / 2;
            Some(uuid::Uuid::from_u128(middle).to_string())
        }
        Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. } => {
            let middle = bytes(&column.bytes(low)?, &column.bytes(high)?, 0, 255)?;
            Some(column.bound(&middle))
        }
        Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } => {
            // Only what surely is a text: digits and letters and what is near them, in character sets that extend ASCII.
            let wide = ["ucs2", "utf16", "utf16le", "utf32"];
            if column.charset().is_none_or(|c| wide.contains(&c)) {
                return None;
            }
            let middle = bytes(&column.bytes(low)?, &column.bytes(high)?, b' ', b'~')?;
            Some(column.bound(&middle))
        }
        _ => None,
    }
}

/// `-1.50` with scale 2 → -150.
fn scaled(text: &str, scale: u8) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |d| (-1, d));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut all = whole.to_owned();
    all.push_str(fraction);
    all.extend(std::iter::repeat_n('0', usize::from(scale).checked_sub(fraction.len())?));
    // Larger numbers than fit cannot be halved here.
    all.parse::<i128>().ok().filter(|n| *n < i128::MAX / 4).map(|n| sign * n)
}

fn unscaled(number: i128, scale: u8) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let width = usize::from(scale) + 1;
    let digits = format!("{:0width$}", number.unsigned_abs());
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// A date and time on a line that is even enough for halving: months of 31 days.
fn moment(text: &str) -> Option<i64> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<i64>);
    let mut next = || numbers.next().map_or(Some(0), std::result::Result::ok);
    let (year, month, day) = (next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    Some(((((year * 13 + month) * 32 + day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn halfway(low: i64, high: i64) -> Option<i64> {
    let middle = low + (high - low) / 2;
    (middle > low).then_some(middle)
}

/// A date and time that exists.
fn shown(moment: i64) -> String {
    let (rest, second) = (moment / 60, moment % 60);
    let (rest, minute) = (rest / 60, rest % 60);
    let (rest, hour) = (rest / 24, rest % 24);
    let (rest, day) = (rest / 32, rest % 32);
    let (year, month) = (rest / 13, rest % 13);
    let (month, day) = (month.max(1), day.clamp(1, 28));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn uuid(text: &str) -> Option<u128> {
    Some(uuid::Uuid::parse_str(text).ok()?.as_u128())
}

/// A string between two: their common start, then digits between `least` and `most` in the middle of the two.
fn bytes(low: &[u8], high: &[u8], least: u8, most: u8) -> Option<Vec<u8>> {
    let same = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let mut out = low.get(..same)?.to_vec();
    if !out.iter().all(|b| (least..=most).contains(b)) {
        return None;
    }
    let width = u64::from(most - least) + 2;
    // A digit 0 says that the string has ended; three more digits are as fine as anybody needs.
    let digits = |s: &[u8]| -> Option<u64> {
        (0..4).try_fold(0u64, |n, i| match s.get(same + i) {
            None => Some(n * width),
            Some(b) if (least..=most).contains(b) => Some(n * width + u64::from(b - least) + 1),
            // What cannot be guessed about counts as the largest.
            Some(_) if least > 0 => Some(n * width + width - 1),
            Some(_) => None,
        })
    };
    let (low, high) = (digits(low)?, digits(high)?);
    let middle = if high > low { low + (high - low) / 2 } else { return None };
    if middle == low {
        return None;
    }
    let mut rest = middle;
    let mut tail = [0u64; 4];
    for place in tail.iter_mut().rev() {
        *place = rest % width;
        rest /= width;
    }
    for digit in tail.into_iter().take_while(|d| *d > 0) {
        out.push(least + (digit - 1) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        assert_eq!(
            (scaled("-1.50", 2), unscaled(-5, 2), unscaled(-150, 2)),
            (Some(-150), "-0.05".into(), "-1.50".into())
        );
        assert_eq!((scaled("7", 3), unscaled(7, 0)), (Some(7000), "7".into()));
        assert_eq!(scaled(&"9".repeat(65), 0), None);
    }

    #[test]
    fn moments() {
        let (low, high) = (moment("2020-01-31 00:00:00").unwrap(), moment("2024-12-31 23:59:59.999999").unwrap());
        assert_eq!(&shown(halfway(low, high).unwrap())[..4], "2022");
        assert_eq!(shown(moment("0000-00-00").unwrap()), "0000-01-01 00:00:00");
        assert_eq!(halfway(7, 8), None);
    }

    #[test]
    fn strings() {
        assert_eq!(bytes(b"aaa", b"c", b' ', b'~').unwrap()[0], b'b');
        assert_eq!(bytes(b"user1000", b"user1002", b' ', b'~').unwrap(), b"user1001");
        assert_eq!(bytes(b"a", b"a", b' ', b'~'), None);
        assert_eq!(bytes("ä".as_bytes(), "ö".as_bytes(), b' ', b'~'), None);
    }

    proptest! {
        #[test]
        fn binary_strings_lie_between(mut a in prop::collection::vec(any::<u8>(), 0..8), mut b in prop::collection::vec(any::<u8>(), 0..8)) {
            if a > b { std::mem::swap(&mut a, &mut b); }
            if let Some(m) = bytes(&a, &b, 0, 255) {
                prop_assert!(m.as_slice() <= b.as_slice(), "{m:?}");
                // It may be cut after four bytes, and then lie a little before `a` where both begin alike.
                prop_assert!(m.len() >= 4 || m > a, "{m:?}");
            }
        }
    }
}
