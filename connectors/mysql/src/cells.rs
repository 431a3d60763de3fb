//! The bytes of cells, as the table in the crate's head says: one place for both ways in which a row is read, so that a value has one form.
//!
//! Each `put_*` appends one cell (see `drover_model::row`) to `out`; nothing is allocated. Where the server prints a type itself in the very
//! same form, its text is the cell: a reader needs these functions for what the server prints otherwise (FLOAT, BIT, ZEROFILL) and for binary values.

use drover_model::row::{Cell, put_cell};

/// Appends a value of these bytes.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_cell(out, Cell::Value(bytes));
}

/// A short text on the stack. What exceeds it is cut off; sizes below are the longest that each type has.
#[derive(Debug, Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    #[inline]
    pub fn push(&mut self, byte: u8) {
        if self.len < N {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }
    #[inline]
    pub fn push_all(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(N - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&bytes[..n]);
        self.len += n;
    }
    /// A number with leading zeros up to `width` digits (more if it is longer).
    #[inline]
    pub fn push_padded(&mut self, mut n: u64, width: usize) {
        let mut digits = [b'0'; 20];
        let mut at = digits.len();
        while n > 0 {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
        }
        let at = at.min(digits.len() - width.min(20));
        self.push_all(&digits[at..]);
    }
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A signed integer.
#[inline]
pub fn put_int(out: &mut Vec<u8>, n: i64) {
    put_bytes(out, itoa::Buffer::new().format(n).as_bytes());
}

/// An unsigned integer.
#[inline]
pub fn put_uint(out: &mut Vec<u8>, n: u64) {
    put_bytes(out, itoa::Buffer::new().format(n).as_bytes());
}

/// An integer as the server prints a ZEROFILL column: leading zeros go.
#[inline]
pub fn put_zerofilled(out: &mut Vec<u8>, text: &[u8]) {
    let end = text.iter().position(|&b| b == b'.').unwrap_or(text.len()).saturating_sub(1);
    let zeros = text[..end].iter().take_while(|&&b| b == b'0').count();
    put_bytes(out, &text[zeros..]);
}

/// A year: four digits.
#[inline]
pub fn put_year(out: &mut Vec<u8>, year: u16) {
    let mut text = Text::<8>::default();
    text.push_padded(u64::from(year), 4);
    put_bytes(out, text.as_bytes());
}

/// Bytes that hold this many decimal digits.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// Length of a DECIMAL(precision, scale) in its binary form; `None` if there is no such type.
pub fn decimal_length(precision: u8, scale: u8) -> Option<usize> {
    let whole = usize::from(precision.checked_sub(scale)?);
    let scale = usize::from(scale);
    Some(whole / 9 * 4 + DIGIT_BYTES[whole % 9] + scale / 9 * 4 + DIGIT_BYTES[scale % 9])
}

/// Writes the text of a DECIMAL in the server's binary form (groups of nine digits, the top bit inverted, all bits inverted if negative).
/// `None` if the bytes are none.
pub fn decimal_text(bytes: &[u8], precision: u8, scale: u8) -> Option<Text<96>> {
    if precision > 81 || decimal_length(precision, scale)? != bytes.len() {
        return None;
    }
    let negative = bytes.first()? & 0x80 == 0;
    let invert = if negative { 0xff } else { 0 };
    let mut rest = bytes;
    let mut first = 0x80;
    let mut take = |digits: usize| -> Option<u32> {
        let (group, after) = rest.split_at_checked(DIGIT_BYTES[digits])?;
        rest = after;
        let mut n = 0u32;
        for &b in group {
            n = n << 8 | u32::from(b ^ invert ^ first);
            first = 0;
        }
        Some(n)
    };
    let mut text = Text::default();
    if negative {
        text.push(b'-');
    }
    let whole = usize::from(precision - scale);
    let mut shown = false;
    let mut put = |text: &mut Text<96>, n: u32, digits: usize| {
        if shown {
            text.push_padded(u64::from(n), digits);
        } else if n > 0 {
            text.push_padded(u64::from(n), 1);
            shown = true;
        }
    };
    if whole % 9 > 0 {
        put(&mut text, take(whole % 9)?, whole % 9);
    }
    for _ in 0..whole / 9 {
        put(&mut text, take(9)?, 9);
    }
    if !shown {
        text.push(b'0');
    }
    if scale > 0 {
        let scale = usize::from(scale);
        text.push(b'.');
        for _ in 0..scale / 9 {
            text.push_padded(u64::from(take(9)?), 9);
        }
        if scale % 9 > 0 {
            text.push_padded(u64::from(take(scale % 9)?), scale % 9);
        }
    }
    Some(text)
}

/// A DECIMAL in its binary form; `None` if the bytes are none.
#[inline]
pub fn put_decimal(out: &mut Vec<u8>, bytes: &[u8], precision: u8, scale: u8) -> Option<()> {
    put_bytes(out, decimal_text(bytes, precision, scale)?.as_bytes());
    Some(())
}

/// The shortest text that reads back as the same DOUBLE, written as the server writes it: plain for exponents from -14 to 15, else `1.5e20`.
pub fn double_text(value: f64) -> Text<48> {
    if value.is_finite() { shortest(ryu::Buffer::new().format_finite(value)) } else { no_number(value) }
}

/// The same for a FLOAT.
pub fn float_text(value: f32) -> Text<48> {
    if value.is_finite() { shortest(ryu::Buffer::new().format_finite(value)) } else { no_number(f64::from(value)) }
}

/// What no server of the family stores.
fn no_number(value: f64) -> Text<48> {
    let mut text = Text::default();
    text.push_all(if value.is_nan() { b"NaN" } else { b"Infinity" });
    text
}

/// Rewrites a shortest form (`-1.25e-7`, `0.001`, `12.0`) in the server's style (`my_gcvt` in its strings/dtoa.cc).
fn shortest(from: &str) -> Text<48> {
    const PLAIN: i32 = 15;
    let mut text = Text::default();
    let (sign, number) = from.split_at(usize::from(from.starts_with('-')));
    text.push_all(sign.as_bytes());
    let (mantissa, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = Text::<32>::default();
    digits.push_all(whole.as_bytes());
    digits.push_all(fraction.as_bytes());
    let all = digits.as_bytes();
    let zeros = all.iter().take_while(|&&b| b == b'0').count();
    let Some(last) = all.iter().rposition(|&b| b != b'0') else {
        text.push(b'0');
        return text;
    };
    let digits = &all[zeros..=last];
    // The point stands behind so many digits.
    let point = whole.len() as i32 - zeros as i32 + exponent.parse::<i32>().unwrap_or(0);
    let count = digits.len() as i32;
    if !(1 - PLAIN..=PLAIN).contains(&point) {
        text.push(digits[0]);
        if count > 1 {
            text.push(b'.');
            text.push_all(&digits[1..]);
        }
        text.push(b'e');
        if point < 1 {
            text.push(b'-');
        }
        text.push_padded(u64::from((point - 1).unsigned_abs()), 1);
    } else if point <= 0 {
        text.push_all(b"0.");
        (point..0).for_each(|_| text.push(b'0'));
        text.push_all(digits);
    } else if point >= count {
        text.push_all(digits);
        (count..point).for_each(|_| text.push(b'0'));
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        text.push_all(whole);
        text.push(b'.');
        text.push_all(fraction);
    }
    text
}

/// A DOUBLE.
#[inline]
pub fn put_double(out: &mut Vec<u8>, value: f64) {
    put_bytes(out, double_text(value).as_bytes());
}

/// A FLOAT.
#[inline]
pub fn put_float(out: &mut Vec<u8>, value: f32) {
    put_bytes(out, float_text(value).as_bytes());
}

/// Year, month and day as they are, zero or not.
#[inline]
pub fn push_date<const N: usize>(text: &mut Text<N>, year: u32, month: u32, day: u32) {
    text.push_padded(u64::from(year), 4);
    text.push(b'-');
    text.push_padded(u64::from(month), 2);
    text.push(b'-');
    text.push_padded(u64::from(day), 2);
}

/// Hour, minute and second, and `digits` digits of the microseconds.
#[inline]
pub fn push_clock<const N: usize>(text: &mut Text<N>, hour: u32, minute: u32, second: u32, micros: u32, digits: u8) {
    text.push_padded(u64::from(hour), 2);
    text.push(b':');
    text.push_padded(u64::from(minute), 2);
    text.push(b':');
    text.push_padded(u64::from(second), 2);
    if digits > 0 {
        let digits = digits.min(6);
        text.push(b'.');
        text.push_padded(u64::from(micros / 10u32.pow(u32::from(6 - digits))), usize::from(digits));
    }
}

/// A DATE.
#[inline]
pub fn put_date(out: &mut Vec<u8>, year: u32, month: u32, day: u32) {
    let mut text = Text::<16>::default();
    push_date(&mut text, year, month, day);
    put_bytes(out, text.as_bytes());
}

/// A TIME: at least two digits of hours.
#[inline]
pub fn put_time(out: &mut Vec<u8>, negative: bool, hour: u32, minute: u32, second: u32, micros: u32, digits: u8) {
    let mut text = Text::<32>::default();
    if negative {
        text.push(b'-');
    }
    push_clock(&mut text, hour, minute, second, micros, digits);
    put_bytes(out, text.as_bytes());
}

fn datetime(date: (u32, u32, u32), clock: (u32, u32, u32), micros: u32, digits: u8) -> Text<40> {
    let mut text = Text::<40>::default();
    push_date(&mut text, date.0, date.1, date.2);
    text.push(b' ');
    push_clock(&mut text, clock.0, clock.1, clock.2, micros, digits);
    text
}

/// A DATETIME. `date` is (year, month, day), `clock` is (hour, minute, second).
#[inline]
pub fn put_datetime(out: &mut Vec<u8>, date: (u32, u32, u32), clock: (u32, u32, u32), micros: u32, digits: u8) {
    put_bytes(out, datetime(date, clock, micros, digits).as_bytes());
}

/// The same as a moment of UTC in canonical form.
#[inline]
pub fn put_instant(out: &mut Vec<u8>, date: (u32, u32, u32), clock: (u32, u32, u32), micros: u32, digits: u8) {
    let mut text = datetime(date, clock, micros, digits);
    text.push_all(b"+00");
    put_bytes(out, text.as_bytes());
}

/// A TIMESTAMP: seconds since the Unix epoch, in UTC; 0 is the zero date. `zone`: with UTC said behind it.
#[inline]
pub fn put_timestamp(out: &mut Vec<u8>, seconds: u32, micros: u32, digits: u8, zone: bool) {
    let of_day = seconds % 86_400;
    let (date, clock, micros) = match seconds {
        0 => ((0, 0, 0), (0, 0, 0), 0),
        _ => (civil(seconds / 86_400), (of_day / 3600, of_day / 60 % 60, of_day % 60), micros),
    };
    if zone { put_instant(out, date, clock, micros, digits) } else { put_datetime(out, date, clock, micros, digits) }
}

/// The date of a day since the Unix epoch (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u32) -> (u32, u32, u32) {
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u32::from(month <= 2), month, day)
}

/// A BIT(n): big-endian bytes, as results and row images have them.
#[inline]
pub fn put_bit(out: &mut Vec<u8>, bytes: &[u8], bits: u8) {
    let mut n = 0u64;
    for &b in bytes.iter().rev().take(8).rev() {
        n = n << 8 | u64::from(b);
    }
    let mut text = Text::<64>::default();
    for i in (0..bits.min(64)).rev() {
        text.push(b'0' + (n >> i & 1) as u8);
    }
    put_bytes(out, text.as_bytes());
}

/// An ENUM by its number from 1; 0 is the empty error value. `None` if there is no such label.
#[inline]
pub fn put_enum(out: &mut Vec<u8>, number: usize, labels: &[String]) -> Option<()> {
    let label = if number == 0 { "" } else { labels.get(number - 1)? };
    put_bytes(out, label.as_bytes());
    Some(())
}

/// A SET by its bits. `None` if a label is missing.
#[inline]
pub fn put_set(out: &mut Vec<u8>, bits: u64, labels: &[String]) -> Option<()> {
    let chosen = || labels.iter().enumerate().filter(|(i, _)| *i < 64 && bits >> i & 1 == 1).map(|(_, label)| label);
    if bits.count_ones() as usize != chosen().count() {
        return None;
    }
    let length = chosen().map(|l| l.len() + 1).sum::<usize>().saturating_sub(1);
    drover_model::row::put_varint(out, length as u64 + 2);
    for (i, label) in chosen().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(label.as_bytes());
    }
    Some(())
}

/// A UUID by its 16 bytes in the order of its text.
pub fn put_uuid(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    put_bytes(out, uuid::Uuid::from_bytes(*bytes).hyphenated().encode_lower(&mut text).as_bytes());
}

/// An INET4.
pub fn put_inet4(out: &mut Vec<u8>, bytes: [u8; 4]) {
    let mut text = Text::<16>::default();
    push_inet4(&mut text, bytes);
    put_bytes(out, text.as_bytes());
}

fn push_inet4<const N: usize>(text: &mut Text<N>, bytes: [u8; 4]) {
    for (i, b) in bytes.into_iter().enumerate() {
        if i > 0 {
            text.push(b'.');
        }
        text.push_padded(u64::from(b), 1);
    }
}

/// An INET6, as MariaDB prints it (`Inet6::to_string` in its sql/sql_type_inet.cc): the first longest run of zeros is left out, be it a single one, and
/// what looks like an IPv4 address behind zeros is written as one.
pub fn put_inet6(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let words: [u16; 8] = std::array::from_fn(|i| u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]]));
    let (mut gap, mut length) = (8, 0);
    let mut run = 0;
    for (i, &word) in words.iter().enumerate() {
        run = if word == 0 { run + 1 } else { 0 };
        if run > length {
            (gap, length) = (i + 1 - run, run);
        }
    }
    let mut text = Text::<48>::default();
    let mut i = 0;
    while i < 8 {
        if i == gap {
            text.push_all(if i == 0 { b"::" } else { b":" });
            i += length;
            continue;
        }
        if i == 6 && gap == 0 && (length == 6 || length == 5 && words[5] == 0xffff) {
            push_inet4(&mut text, [bytes[12], bytes[13], bytes[14], bytes[15]]);
            break;
        }
        let word = words[i];
        (0..4).rev().filter(|d| *d == 0 || word >> (4 * d) > 0).for_each(|d| {
            text.push(b"0123456789abcdef"[usize::from(word >> (4 * d) & 15)]);
        });
        if i < 7 {
            text.push(b':');
        }
        i += 1;
    }
    put_bytes(out, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        let value = drover_model::row::cells(&out).next().unwrap().value().unwrap().to_vec();
        String::from_utf8(value).unwrap()
    }

    #[test]
    fn doubles_as_the_server_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1e14, "100000000000000"),
            (123456789012345.0, "123456789012345"),
            (1e15, "1e15"),
            (1.5e15, "1.5e15"),
            (-1e16, "-1e16"),
            (1e-10, "0.0000000001"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
            (5e-324, "5e-324"),
            (2.2250738585072014e-308, "2.2250738585072014e-308"),
            (100.25, "100.25"),
        ] {
            assert_eq!(cell(|o| put_double(o, value)), text, "{value:e}");
        }
        assert_eq!(cell(|o| put_float(o, 0.1)), "0.1");
        assert_eq!(cell(|o| put_float(o, f32::MAX)), "3.4028235e38");
        assert_eq!(cell(|o| put_float(o, 16_777_216.0)), "16777216");
    }

    #[test]
    fn decimals() {
        // 1234567890.1234 as DECIMAL(14,4), from the server's documentation of the format; and its negation.
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        assert_eq!(cell(|o| put_decimal(o, &bytes, 14, 4).unwrap()), "1234567890.1234");
        let inverted = bytes.map(|b| !b);
        assert_eq!(cell(|o| put_decimal(o, &inverted, 14, 4).unwrap()), "-1234567890.1234");
        assert_eq!(cell(|o| put_decimal(o, &[0x80, 0x05], 4, 2).unwrap()), "0.05");
        assert_eq!(cell(|o| put_decimal(o, &[0x85], 2, 0).unwrap()), "5");
        assert_eq!(cell(|o| put_decimal(o, &[0x85], 1, 1).unwrap()), "0.5");
        assert!(put_decimal(&mut Vec::new(), &[0x85, 1], 1, 1).is_none());
        assert!(put_decimal(&mut Vec::new(), &[0x85], 1, 2).is_none());
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(cell(|o| put_date(o, 0, 0, 0)), "0000-00-00");
        assert_eq!(cell(|o| put_time(o, true, 838, 59, 59, 999_999, 3)), "-838:59:59.999");
        assert_eq!(cell(|o| put_timestamp(o, 0, 0, 2, false)), "0000-00-00 00:00:00.00");
        assert_eq!(cell(|o| put_timestamp(o, 1, 5, 6, false)), "1970-01-01 00:00:01.000005");
        assert_eq!(cell(|o| put_timestamp(o, 951_782_399, 0, 0, false)), "2000-02-28 23:59:59");
        assert_eq!(cell(|o| put_timestamp(o, 951_782_400, 0, 0, false)), "2000-02-29 00:00:00");
        assert_eq!(cell(|o| put_timestamp(o, i32::MAX as u32, 0, 0, false)), "2038-01-19 03:14:07");
        assert_eq!(cell(|o| put_timestamp(o, u32::MAX, 0, 0, false)), "2106-02-07 06:28:15");
        assert_eq!(cell(|o| put_year(o, 0)), "0000");
    }

    #[test]
    fn labels_bits_and_addresses() {
        let labels = ["a", "b", "c,d"].map(str::to_owned);
        assert_eq!(cell(|o| put_enum(o, 3, &labels).unwrap()), "c,d");
        assert_eq!(cell(|o| put_enum(o, 0, &labels).unwrap()), "");
        assert!(put_enum(&mut Vec::new(), 4, &labels).is_none());
        assert_eq!(cell(|o| put_set(o, 0b101, &labels).unwrap()), "a,c,d");
        assert_eq!(cell(|o| put_set(o, 0, &labels).unwrap()), "");
        assert!(put_set(&mut Vec::new(), 8, &labels).is_none());
        assert_eq!(cell(|o| put_bit(o, &[0x02, 0x01], 10)), "1000000001");
        assert_eq!(cell(|o| put_bit(o, &[0xff; 8], 64)), "1".repeat(64));
        assert_eq!(cell(|o| put_zerofilled(o, b"00042")), "42");
        assert_eq!(cell(|o| put_zerofilled(o, b"00000")), "0");
        assert_eq!(cell(|o| put_zerofilled(o, b"000.50")), "0.50");
        let six = |text: &str| cell(|o| put_inet6(o, text.parse::<std::net::Ipv6Addr>().unwrap().octets()));
        for text in [
            "::",
            "::1",
            "::192.168.1.1",
            "::ffff:1.2.3.4",
            "1:2:3:4:5:6:7:8",
            "fe80::1",
            "1::",
            "2001:db8::ff00:42:8329",
        ] {
            assert_eq!(six(text), text);
        }
        assert_eq!(six("1:0:2:3:4:5:6:7"), "1::2:3:4:5:6:7");
        assert_eq!(six("1:0:0:2:0:0:3:4"), "1::2:0:0:3:4");
        assert_eq!(six("::5:0:0:0:1"), "::5:0:0:0:1");
        assert_eq!(cell(|o| put_inet4(o, [10, 0, 0, 255])), "10.0.0.255");
    }

    proptest! {
        #[test]
        fn doubles_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(cell(|o| put_double(o, value)).parse::<f64>().unwrap().to_bits(), bits);
        }
        #[test]
        fn floats_read_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(cell(|o| put_float(o, value)).parse::<f32>().unwrap().to_bits(), bits);
        }
        #[test]
        fn decimals_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), precision in any::<u8>(), scale in any::<u8>()) {
            let _ = put_decimal(&mut Vec::new(), &bytes, precision, scale);
        }
    }
}
