//! Statements cut into tokens, as far as telling verbs and names needs it. Any bytes give tokens; nothing is refused.

/// A piece of a statement. Comments are gone, but what stands in `/*! … */` is part of the statement, as it is for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or a plain name.
    Word(&'a str),
    /// A name in backquotes (or double quotes under ANSI_QUOTES), unquoted.
    Name(String),
    /// A text literal; hexadecimal ones (`X'0a'`) as written between the quotes.
    Text(&'a str),
    Mark(char),
}

impl Token<'_> {
    /// Whether this is a keyword.
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(w) if w.eq_ignore_ascii_case(word))
    }
    pub fn is_mark(&self, mark: char) -> bool {
        *self == Token::Mark(mark)
    }
    /// As a name, quoted or not.
    pub fn name(&self) -> Option<&str> {
        match self {
            Token::Word(w) => Some(w),
            Token::Name(n) => Some(n),
            _ => None,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$') || c as u32 >= 0x80
}

/// The tokens of a statement.
pub fn tokens(text: &str, ansi_quotes: bool, no_backslash: bool) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        at += match c {
            c if c.is_whitespace() => c.len_utf8(),
            '#' => line(rest),
            '-' if rest.starts_with("--") && rest[2..].chars().next().is_none_or(|c| c <= ' ') => line(rest),
            '/' if rest.starts_with("/*") => match ["/*!", "/*M!"].iter().find(|p| rest.starts_with(**p)) {
                Some(opening) => {
                    let version = rest[opening.len()..].chars().take_while(char::is_ascii_digit).count();
                    opening.len() + version
                }
                None => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            },
            // The end of such a comment; between an operator and a division it would make no sense either.
            '*' if rest.starts_with("*/") => 2,
            '`' => quoted(rest, '`', false, &mut out),
            '"' if ansi_quotes => quoted(rest, '"', false, &mut out),
            '\'' | '"' => quoted(rest, c, !no_backslash, &mut out),
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                out.push(Token::Word(&rest[..end]));
                end
            }
            c => {
                out.push(Token::Mark(c));
                c.len_utf8()
            }
        };
    }
    out
}

fn line(rest: &str) -> usize {
    rest.find('\n').map_or(rest.len(), |end| end + 1)
}

/// A name or a text in quotes; gives its length with them. One that does not end goes to the statement's end.
fn quoted<'a>(rest: &'a str, quote: char, backslash: bool, out: &mut Vec<Token<'a>>) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    let mut end = rest.len();
    let mut doubled = false;
    while let Some((i, c)) = chars.next() {
        if c == '\\' && backslash {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
                doubled = true;
            } else {
                end = i;
                break;
            }
        }
    }
    let inside = &rest[1..end];
    out.push(match quote {
        '\'' => Token::Text(inside),
        '"' if backslash => Token::Text(inside),
        _ if doubled => Token::Name(inside.replace(&format!("{quote}{quote}"), &quote.to_string())),
        '`' => Token::Name(inside.to_owned()),
        _ => Token::Name(inside.to_owned()),
    });
    (end + 1).min(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(text: &str) -> String {
        let show = |t: &Token<'_>| match t {
            Token::Word(w) => (*w).to_owned(),
            Token::Name(n) => format!("<{n}>"),
            Token::Text(t) => format!("'{t}'"),
            Token::Mark(c) => c.to_string(),
        };
        tokens(text, false, false).iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pieces() {
        assert_eq!(joined("a.`b``c` -- no\n= 'it''s \\' x'"), "a . <b`c> = 'it''s \\' x'");
        assert_eq!(
            joined("drop /*!40005 TEMPORARY */ table /* x */ if exists t # y"),
            "drop TEMPORARY table if exists t"
        );
        assert_eq!(joined("/*M!100301 a*/ b --c"), "a b - - c");
        assert_eq!(joined("größe \"text\" `offen"), "größe 'text' <offen>");
        assert_eq!(
            tokens("\"n\" 'a\\' b", true, true),
            [Token::Name("n".into()), Token::Text("a\\"), Token::Word("b")]
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_tokens(text in "\\PC{0,60}", ansi in any::<bool>(), plain in any::<bool>()) {
            let _ = tokens(&text, ansi, plain);
        }
    }
}
