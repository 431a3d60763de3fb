//! A guess at what lies in the middle between two key values. It need not be a value that exists, nor right about the server's
//! order: it is only where the server is asked to look.

use super::range::KeyColumn;
use crate::types::Kind;

/// How texts are taken to be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Digits before letters, upper and lower case alike, everything else around them: as most collations have it.
    Words,
    /// By bytes.
    Bytes,
}

/// The styles to try for a column, the most promising first.
pub fn styles(column: &KeyColumn) -> &'static [Style] {
    if column.charset().is_some() { &[Style::Words, Style::Bytes] } else { &[Style::Bytes] }
}

/// A bound between two; `None` where none can be guessed.
pub fn between(column: &KeyColumn, low: &str, high: &str, style: Style) -> Option<String> {
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
        Kind::Time { .. } => {
            let (low, high) = (seconds(low)?, seconds(high)?);
            let middle = low + (high - low) / 2;
            let sign = if middle < 0 { "-" } else { "" };
            let n = middle.unsigned_abs();
            (middle > low).then(|| format!("{sign}{:02}:{:02}:{:02}", n / 3600, n / 60 % 60, n % 60))
        }
        Kind::Uuid => {
            let (low, high) = (uuid::Uuid::parse_str(low).ok()?, uuid::Uuid::parse_str(high).ok()?);
            // They are ordered as stored: from the last group to the first, but for those that begin with a time.
            let plain = low.get_version_num() >= 6 && high.get_version_num() >= 6;
            let turn = |u: u128| if plain { u } else { turned(u) };
            let (a, b) = (turn(low.as_u128()), turn(high.as_u128()));
            let middle = a / 2 + b / 2;
            let back = if plain { middle } else { turned_back(middle) };
            (middle > a).then(|| uuid::Uuid::from_u128(back).to_string())
        }
        Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. } => {
            let middle = string(&column.bytes(low)?, &column.bytes(high)?, &BYTES)?;
            Some(column.bound(&middle))
        }
        Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } => {
            let charset = column.charset()?;
            let single = SINGLE.contains(&charset);
            if !single && !crate::reader::is_utf8(charset) {
                return None;
            }
            let alphabet = match style {
                Style::Words => &WORDS,
                Style::Bytes if single => &BYTES,
                Style::Bytes => &ASCII,
            };
            let middle = string(&column.bytes(low)?, &column.bytes(high)?, alphabet)?;
            (single || std::str::from_utf8(&middle).is_ok()).then(|| column.bound(&middle))
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

/// A TIME as seconds.
fn seconds(text: &str) -> Option<i64> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |t| (-1, t));
    let mut parts = text.split([':', '.']).map(|n| n.parse::<i64>().ok());
    Some(sign * ((parts.next()?? * 60 + parts.next()??) * 60 + parts.next()??))
}

/// The groups of a UUID from the last to the first.
fn turned(u: u128) -> u128 {
    let group = |shift: u32, bits: u32| (u >> shift) & ((1 << bits) - 1);
    group(0, 48) << 80 | group(48, 16) << 64 | group(64, 16) << 48 | group(80, 16) << 32 | group(96, 32)
}

fn turned_back(u: u128) -> u128 {
    let group = |shift: u32, bits: u32| (u >> shift) & ((1 << bits) - 1);
    group(80, 48) | group(64, 16) << 48 | group(48, 16) << 64 | group(32, 16) << 80 | group(0, 32) << 96
}

/// Character sets in which each byte is a character.
const SINGLE: [&str; 22] = [
    "latin1", "latin2", "latin5", "latin7", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866", "greek",
    "hebrew", "koi8r", "koi8u", "macce", "macroman", "armscii8", "hp8", "dec8", "keybcs2", "tis620",
];

/// Characters that guesses are made of, in their order.
struct Alphabet {
    /// Their number.
    size: u64,
    /// Whether two bytes count as the same.
    fold: bool,
    /// The place of a byte among them, from 1; 0: before all.
    rank: fn(u8) -> u64,
    /// The byte at a place from 1.
    at: fn(u64) -> u8,
}

const BYTES: Alphabet = Alphabet { size: 256, fold: false, rank: |b| u64::from(b) + 1, at: |n| (n - 1) as u8 };
/// From the blank to the tilde; what cannot be guessed about counts as the last.
const ASCII: Alphabet = Alphabet {
    size: 95,
    fold: false,
    rank: |b| (u64::from(b) + 1).saturating_sub(u64::from(b' ')).min(95),
    at: |n| b' ' + (n - 1) as u8,
};
const WORDS: Alphabet = Alphabet {
    size: 36,
    fold: true,
    rank: |b| match b.to_ascii_lowercase() {
        digit @ b'0'..=b'9' => u64::from(digit - b'0') + 1,
        letter @ b'a'..=b'z' => u64::from(letter - b'a') + 11,
        0x80.. => 36,
        _ => 0,
    },
    at: |n| if n <= 10 { b'0' + (n - 1) as u8 } else { b'a' + (n - 11) as u8 },
};

/// A string between two: their common start, then characters in the middle of the two.
fn string(low: &[u8], high: &[u8], alphabet: &Alphabet) -> Option<Vec<u8>> {
    let alike = |(a, b): &(&u8, &u8)| a == b || (alphabet.fold && a.eq_ignore_ascii_case(b));
    let same = low.iter().zip(high).take_while(alike).count();
    let mut out = low.get(..same)?.to_vec();
    let base = alphabet.size + 1;
    // A digit 0 says that the string has ended; three more digits are as fine as anybody needs.
    let digits = |s: &[u8]| (0..4).fold(0, |n, i| n * base + s.get(same + i).map_or(0, |b| (alphabet.rank)(*b)));
    let (low, high) = (digits(low), digits(high));
    let middle = low + high.checked_sub(low)? / 2;
    if middle == low {
        return None;
    }
    let mut rest = middle;
    let mut tail = [0u64; 4];
    for place in tail.iter_mut().rev() {
        *place = rest % base;
        rest /= base;
    }
    out.extend(tail.into_iter().take_while(|d| *d > 0).map(alphabet.at));
    (out.len() > same).then_some(out)
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
    fn times_and_uuids() {
        assert_eq!((seconds("-01:00:01.5"), seconds("838:59:59"), seconds("1")), (Some(-3601), Some(3_020_399), None));
        let u = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128;
        assert_eq!(turned(u), 0xaabb_ccdd_eeff_8899_6677_4455_0011_2233);
        assert_eq!(turned_back(turned(u)), u);
    }

    #[test]
    fn strings() {
        assert_eq!(string(b"aaa", b"c", &ASCII).unwrap()[0], b'b');
        assert_eq!(string(b"user1000", b"user1002", &WORDS).unwrap(), b"user1001");
        assert_eq!(string(b"a", b"a", &ASCII), None);
        let word = |t: &str| KeyColumn::new("k", &crate::types::MyType::parse(t).unwrap());
        let hex = |s: &[u8]| s.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let utf8 = |a: &str, b: &str| {
            between(&word("varchar(9) character set utf8mb4"), &hex(a.as_bytes()), &hex(b.as_bytes()), Style::Words)
        };
        // Half a character is none, but what both begin with is.
        assert_eq!(utf8("ä", "ö"), None);
        assert_eq!(utf8("öa", "öc"), Some(hex("öb".as_bytes())));
        assert_eq!(utf8("a", "C"), Some(hex(b"b")));
        // Whatever the case of the two.
        assert_eq!(utf8("Key1", "kEy5"), Some(hex(b"Key3")));
        assert_eq!(string(b"p 1", b"p 2", &WORDS).unwrap()[..4], *b"p 1h");
        let latin = word("varchar(9) character set latin1");
        assert_eq!(between(&latin, &hex(b"\xe4a"), &hex(b"\xe8"), Style::Bytes).unwrap()[..2], *"e6");
        assert_eq!(between(&word("varchar(9) character set utf16"), &hex(b"\0a"), &hex(b"\0c"), Style::Words), None);
    }

    proptest! {
        #[test]
        fn binary_strings_lie_between(mut a in prop::collection::vec(any::<u8>(), 0..8), mut b in prop::collection::vec(any::<u8>(), 0..8)) {
            if a > b { std::mem::swap(&mut a, &mut b); }
            if let Some(m) = string(&a, &b, &BYTES) {
                prop_assert!(m.as_slice() <= b.as_slice(), "{m:?}");
                // It may be cut after four bytes, and then lie a little before `a` where both begin alike.
                prop_assert!(m.len() >= 4 || m > a, "{m:?}");
            }
        }
    }
}
