//! Tokens of statements as the servers print them: names in backquotes, texts in single quotes with backslash escapes, executable
//! comments (`/*!80023 INVISIBLE */`) opened. Enough to find names and clauses; nothing in a literal is ever taken for one.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyword, a name without quotes, a number.
    Word,
    /// A name in backquotes.
    Quoted,
    /// A text in single or double quotes.
    Literal,
    Space,
    Other,
}

/// A piece of a statement; all tokens together are the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    /// Where it begins.
    pub at: usize,
}

impl Token<'_> {
    /// The keyword or sign that the token is, without regard to case.
    pub fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Other) && self.text.eq_ignore_ascii_case(text)
    }
    /// The name that the token is.
    pub fn name(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_owned()),
            Kind::Quoted => Some(self.text[1..self.text.len() - 1].replace("``", "`")),
            _ => None,
        }
    }
    /// The value of a text.
    pub fn value(&self) -> Option<String> {
        (self.kind == Kind::Literal).then(|| unescape(self.text))
    }
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// The value of a literal with its quotes on.
pub fn unescape(literal: &str) -> String {
    let quote = literal.chars().next().unwrap_or('\'');
    let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('0') => out.push('\0'),
                Some('b') => out.push('\u{8}'),
                Some('Z') => out.push('\u{1a}'),
                Some(other) => out.push(other),
                None => {}
            },
            c if c == quote => {
                chars.next_if_eq(&quote);
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn quoted(bytes: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 2;
        } else if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 2;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Kind and length of the token at the beginning.
fn scan(text: &str) -> (Kind, usize) {
    let bytes = text.as_bytes();
    let until = |end: &str| text.find(end).map_or(text.len(), |i| i + end.len());
    match bytes[0] {
        b'\'' | b'"' => (Kind::Literal, quoted(bytes, bytes[0], true)),
        b'`' => (Kind::Quoted, quoted(bytes, b'`', false)),
        b'#' => (Kind::Space, until("\n")),
        b'-' if text.starts_with("--") && bytes.get(2).is_none_or(u8::is_ascii_whitespace) => {
            (Kind::Space, until("\n"))
        }
        b'/' if text.starts_with("/*") => (Kind::Space, until("*/")),
        c if c.is_ascii_whitespace() => {
            (Kind::Space, text.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(text.len()))
        }
        _ => {
            let first = text.chars().next().unwrap_or(' ');
            if first.is_ascii_digit() {
                // 0.10, 1e10 and 0x00FF are one.
                (Kind::Word, text.find(|c: char| !is_word(c) && c != '.').unwrap_or(text.len()))
            } else if is_word(first) {
                (Kind::Word, text.find(|c: char| !is_word(c)).unwrap_or(text.len()))
            } else {
                (Kind::Other, first.len_utf8())
            }
        }
    }
}

/// All tokens of a statement.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let (kind, mut len) = scan(&text[at..]);
        len = len.min(text.len() - at).max(1);
        while !text.is_char_boundary(at + len) {
            len += 1;
        }
        out.push(Token { kind, text: &text[at..at + len], at });
        at += len;
    }
    out
}

/// Tokens without spaces and comments.
pub fn words(text: &str) -> Vec<Token<'_>> {
    let mut out = tokens(text);
    out.retain(|t| t.kind != Kind::Space);
    out
}

/// Index behind the parenthesis that closes the one at `open`.
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0u32;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.is("(") {
            depth += 1;
        } else if token.is(")") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return i + 1;
            }
        }
    }
    tokens.len()
}

/// Opens executable comments of the server that printed the text (`/*!50100 … */`, `/*M!100301 … */`): what is in them counts. Those of
/// other programs (`/*T! … */`) stay comments.
pub fn opened(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut inside = false;
    while !rest.is_empty() {
        if inside && rest.starts_with("*/") {
            out.push(' ');
            rest = &rest[2..];
            inside = false;
            continue;
        }
        let head = ["/*!", "/*M!"].into_iter().find(|h| rest.starts_with(h));
        if let Some(head) = head {
            out.push(' ');
            rest = rest[head.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
            inside = true;
            continue;
        }
        let (_, mut len) = scan(rest);
        while !rest.is_char_boundary(len) {
            len += 1;
        }
        // A sign of its own never hides the end of the comment.
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out
}

/// What a server prints, as text. Old MariaDB servers print binary defaults raw: such a literal becomes a hexadecimal one.
pub fn decode(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let len = match first {
            b'\'' | b'"' | b'`' => quoted(rest, first, first != b'`').min(rest.len()),
            _ => rest.iter().position(|b| matches!(b, b'\'' | b'"' | b'`')).unwrap_or(rest.len()),
        };
        let (head, tail) = rest.split_at(len);
        match std::str::from_utf8(head) {
            Ok(text) => out.push_str(text),
            Err(_) if first == b'\'' => hex_literal(&head[1..len.max(2) - 1], &mut out),
            Err(_) => out.push_str(&String::from_utf8_lossy(head)),
        }
        rest = tail;
    }
    out
}

/// The bytes of an escaped literal as `0x…`.
fn hex_literal(inner: &[u8], out: &mut String) {
    let mut value = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => match bytes.next() {
                Some(b'0') => value.push(0),
                Some(b'n') => value.push(b'\n'),
                Some(b'r') => value.push(b'\r'),
                Some(b't') => value.push(b'\t'),
                Some(b'Z') => value.push(0x1a),
                Some(b'b') => value.push(8),
                Some(other) => value.push(other),
                None => {}
            },
            b'\'' => {
                bytes.next_if_eq(&b'\'');
                value.push(b'\'');
            }
            b => value.push(b),
        }
    }
    out.push_str("0x");
    for b in value {
        out.push_str(&format!("{b:02X}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_text() {
        let text = "CREATE `a``b` 'it''s \\' `x`' /* c */ 0x0A 1.5 -- e\n\"d\" _utf8mb4'ä'";
        assert_eq!(tokens(text).iter().map(|t| t.text).collect::<String>(), text);
        let w: Vec<_> = words(text).iter().map(|t| t.text).collect();
        assert_eq!(w, ["CREATE", "`a``b`", "'it''s \\' `x`'", "0x0A", "1.5", "\"d\"", "_utf8mb4", "'ä'"]);
        assert_eq!(words(text)[2].value().unwrap(), "it's ' `x`");
    }

    #[test]
    fn executable_comments() {
        assert_eq!(
            opened("`a` int /*!80023 INVISIBLE */ COMMENT '/*!1 x */' /*M!100301 COMPRESSED*/ /*T![x] y */").trim(),
            "`a` int   INVISIBLE   COMMENT '/*!1 x */'   COMPRESSED  /*T![x] y */"
        );
    }

    #[test]
    fn raw_binary_defaults() {
        assert_eq!(
            decode(b"`b` varbinary(9) DEFAULT '\\0\xffA''\\\\', `c` 'x'"),
            "`b` varbinary(9) DEFAULT 0x00FF41275C, `c` 'x'"
        );
        assert_eq!(decode("'ä'".as_bytes()), "'ä'");
    }
}
