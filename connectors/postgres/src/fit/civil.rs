//! Dates and times that other kinds of databases hold and this one does not. Each function gives `None` for a value that exists here (or that is
//! written in some way that only the server can judge), else the nearest one that does.

use std::borrow::Cow;

type Nearest<'a> = Option<Cow<'a, [u8]>>;

/// Decimal digits, at most nine; `None` if there are others.
fn number(digits: &[u8]) -> Option<u32> {
    let plain = !digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0')))
}

fn days(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The year, month and day that the first part of a value names, and whether they exist.
fn parts(date: &[u8]) -> Option<(u32, u32, u32, bool)> {
    let (year, rest) = date.split_at_checked(date.len().checked_sub(6)?)?;
    let [b'-', m1, m2, b'-', d1, d2] = *rest else { return None };
    let (year, month, day) = (number(year)?, number(&[m1, m2])?, number(&[d1, d2])?);
    let exists = year > 0 && (1..=12).contains(&month) && day > 0 && day <= days(year, month);
    Some((year, month, day, exists))
}

fn nearest(year: u32, month: u32, day: u32) -> String {
    let year = year.max(1);
    let month = month.clamp(1, 12);
    format!("{year:04}-{month:02}-{:02}", day.clamp(1, days(year, month)))
}

/// A date.
pub(super) fn date(value: &[u8]) -> Nearest<'_> {
    match parts(value)? {
        (_, _, _, true) => None,
        (year, month, day, false) => Some(nearest(year, month, day).into_bytes().into()),
    }
}

/// A date with a time, perhaps with a zone.
pub(super) fn timestamp(value: &[u8]) -> Nearest<'_> {
    let space = value.iter().position(|b| *b == b' ')?;
    match parts(&value[..space])? {
        (_, _, _, true) => None,
        (year, month, day, false) => {
            let mut text = nearest(year, month, day).into_bytes();
            text.extend_from_slice(&value[space..]);
            Some(text.into())
        }
    }
}

/// A time of the day: 00:00:00 to 24:00:00.
pub(super) fn time(value: &[u8]) -> Nearest<'_> {
    if value.first() == Some(&b'-') {
        // Minus zero is zero.
        let zero = value.iter().all(|b| matches!(b, b'-' | b'0' | b':' | b'.'));
        return Some(if zero { value[1..].into() } else { b"00:00:00"[..].into() });
    }
    let colon = value.iter().position(|b| *b == b':')?;
    let hours = number(&value[..colon])?;
    let beyond = hours > 24 || hours == 24 && value[colon..].iter().any(|b| b.is_ascii_digit() && *b != b'0');
    beyond.then(|| b"24:00:00"[..].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(nearest: Nearest<'_>) -> Option<String> {
        nearest.map(|n| String::from_utf8(n.into_owned()).unwrap())
    }

    #[test]
    fn dates_that_exist_and_others() {
        for there in ["2024-02-29", "0001-01-01", "9999-12-31", "infinity", "-infinity", "0044-03-15 BC", "12024-01-01"]
        {
            assert_eq!(shown(date(there.as_bytes())), None, "{there}");
        }
        for (value, wanted) in [
            ("0000-00-00", "0001-01-01"),
            ("2023-02-30", "2023-02-28"),
            ("1900-02-29", "1900-02-28"),
            ("2023-00-15", "2023-01-15"),
            ("0000-05-05", "0001-05-05"),
        ] {
            assert_eq!(shown(date(value.as_bytes())).as_deref(), Some(wanted));
        }
        assert_eq!(shown(timestamp(b"2023-01-00 10:11:12.5+00")).as_deref(), Some("2023-01-01 10:11:12.5+00"));
        assert_eq!(shown(timestamp(b"2023-01-01 10:11:12")), None);
    }

    #[test]
    fn times_within_a_day_and_others() {
        for there in ["00:00:00", "23:59:59.999999", "24:00:00", "24:00:00.000", "10:00:00+02"] {
            assert_eq!(shown(time(there.as_bytes())), None, "{there}");
        }
        for (value, wanted) in [
            ("24:00:00.001", "24:00:00"),
            ("838:59:59", "24:00:00"),
            ("-00:00:01", "00:00:00"),
            ("-00:00:00.000", "00:00:00.000"),
        ] {
            assert_eq!(shown(time(value.as_bytes())).as_deref(), Some(wanted));
        }
    }
}
