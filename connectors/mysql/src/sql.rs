//! Names and literals in statements. Every session runs without ANSI_QUOTES and NO_BACKSLASH_ESCAPES (see
//! [`crate::connect`]), so that one way of quoting is right everywhere.

use drover_model::schema::TableName;

/// A name in backquotes.
pub fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A database's table.
pub fn qualified(table: &TableName) -> String {
    format!("{}.{}", name(&table.schema), name(&table.name))
}

/// A text literal.
pub fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('\'');
    for c in value.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// A hexadecimal literal of any bytes, for appending to a statement: `X'0aff'`.
pub fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"X'");
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)]);
        out.push(DIGITS[usize::from(b & 15)]);
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(qualified(&TableName::new("a`b", "Großer Tisch")), "`a``b`.`Großer Tisch`");
        assert_eq!(text("it's \\ \0"), r"'it''s \\ \0'");
        let mut out = Vec::new();
        put_hex(&mut out, &[0, 0xfe]);
        assert_eq!(out, b"X'00fe'");
    }
}
