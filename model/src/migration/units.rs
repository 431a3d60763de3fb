//! Durations (`12h`, `1h30m`) and sizes (`20GiB`, `512MB`) as an operator writes them.

use std::time::Duration;

/// Units of a duration, greatest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of a size in bytes: binary ones with an `i`, decimal ones without.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Splits `12h30m` into the number 12 and the rest `h30m`.
fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Reads a duration: whole numbers with the units d, h, m, s, ms, greater ones first, each once at most.
/// None if the text is none, or too long to be counted.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut units = &DURATION_UNITS[..];
    let mut total = 0u64;
    loop {
        let (count, tail) = number(rest)?;
        let name_len = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let at = units.iter().position(|(name, _)| *name == &tail[..name_len])?;
        total = total.checked_add(count.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = &tail[name_len..];
        if rest.is_empty() {
            return Some(Duration::from_millis(total));
        }
    }
}

/// Writes a duration (to the millisecond) so that [`parse_duration`] reads the same one.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, millis) in DURATION_UNITS {
        if rest >= millis {
            text.push_str(&format!("{}{name}", rest / millis));
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads a size in bytes: a whole number with one of the units B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB,
/// TiB (of 1024). None if the text is none, or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let (count, tail) = number(text.trim())?;
    let unit = tail.trim_start();
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    count.checked_mul(*bytes)
}

/// Writes a size in the greatest unit that holds it without a fraction.
pub fn format_size(bytes: u64) -> String {
    let (name, unit) =
        SIZE_UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)).unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit)
}

/// Stores a duration as text, so that stored migrations can be read by people.
pub(super) mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_duration(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text).ok_or_else(|| D::Error::custom(format!("not a duration: {text}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("12h", 43_200), ("10m", 600), ("0s", 0), ("1h30m", 5_400), ("1d", 86_400), ("90m", 5_400), ("1m5s", 65)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("1s250ms"), Some(Duration::from_millis(1250)));
        for text in
            ["", "12", "h", "1.5h", "-1h", "1h 30m", "30m1h", "1h1h", "12 h", "1w", "1H", "999999999999999d", "1hm"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("20GiB", 20 << 30), ("512MiB", 512 << 20), ("1GB", 1_000_000_000), ("0B", 0), ("3 KiB", 3072)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "20", "20G", "20gib", "1.5GiB", "-1B", "GiB", "99999999999TiB", "1GiB2MiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(format_size(20 << 30), "20GiB");
        assert_eq!(format_size(0), "0B");
        assert_eq!(format_size(1_000_000), "1MB");
    }

    proptest! {
        #[test]
        fn durations_come_back(millis in any::<u32>()) {
            let duration = Duration::from_millis(u64::from(millis));
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn sizes_come_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-zA-Z .ü-]{0,24}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
