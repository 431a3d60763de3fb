//! Statements of applications in the form that servers print: one way of quoting, no comments. Guarantee: nothing in a literal or a comment is
//! ever taken for a part of the statement, whatever modes the session had.

use crate::catalog::lex;
use crate::sql;

/// How the session that wrote a statement read quotes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modes {
    /// Double quotes enclose names.
    pub ansi_quotes: bool,
    /// A backslash in a text stands for itself.
    pub no_backslash: bool,
    /// REAL is FLOAT.
    pub real_is_float: bool,
}

/// The statement without comments (those for the server are opened), names that are quoted in backquotes, texts in single quotes with
/// backslash escapes. Any text gives a text; it can be read a second time.
pub fn plain(text: &str, modes: Modes) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut inside = false;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '/' if rest.starts_with("/*!") || rest.starts_with("/*M!") => {
                let opening = if rest.starts_with("/*!") { 3 } else { 4 };
                inside = true;
                out.push(' ');
                opening + rest[opening..].chars().take_while(char::is_ascii_digit).count()
            }
            '/' if rest.starts_with("/*") => {
                out.push(' ');
                rest[2..].find("*/").map_or(rest.len(), |end| end + 4)
            }
            '*' if inside && rest.starts_with("*/") => {
                inside = false;
                out.push(' ');
                2
            }
            '#' => line(rest, &mut out),
            '-' if rest.starts_with("--") && rest[2..].chars().next().is_none_or(|c| c <= ' ') => line(rest, &mut out),
            '`' => name(rest, '`', &mut out),
            '"' if modes.ansi_quotes => name(rest, '"', &mut out),
            '\'' | '"' => literal(rest, c, modes.no_backslash, &mut out),
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken.min(rest.len())..];
    }
    out
}

fn line(rest: &str, out: &mut String) -> usize {
    out.push(' ');
    rest.find('\n').map_or(rest.len(), |end| end + 1)
}

/// What stands between quotes of which two stand for one, and the length with the quotes.
fn enclosed(rest: &str, quote: char, escapes: bool) -> (usize, usize) {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return (at, at + 1);
        }
    }
    (rest.len(), rest.len())
}

fn name(rest: &str, quote: char, out: &mut String) -> usize {
    let (end, length) = enclosed(rest, quote, false);
    let doubled: String = [quote, quote].iter().collect();
    out.push_str(&sql::name(&rest[1..end].replace(&doubled, &quote.to_string())));
    length
}

fn literal(rest: &str, quote: char, no_backslash: bool, out: &mut String) -> usize {
    let (end, length) = enclosed(rest, quote, !no_backslash);
    let inside = &rest[1..end];
    if quote == '\'' && !no_backslash {
        out.push('\'');
        out.push_str(inside);
        out.push('\'');
        return length;
    }
    let doubled: String = [quote, quote].iter().collect();
    let mut value = inside.replace(&doubled, &quote.to_string());
    if no_backslash {
        value = value.replace('\\', "\\\\");
    }
    out.push('\'');
    let mut escaped = false;
    for c in value.chars() {
        // A quote of the other kind needs no escape where it stood.
        if c == '\'' && !escaped {
            out.push('\'');
        }
        escaped = c == '\\' && !escaped;
        out.push(c);
    }
    out.push('\'');
    length
}

/// An expression with the names of these columns in backquotes.
pub fn quoted<'a>(text: &str, columns: impl Iterator<Item = &'a str> + Clone) -> String {
    let tokens = lex::tokens(text);
    let mut out = String::with_capacity(text.len() + 8);
    for (i, token) in tokens.iter().enumerate() {
        let next = tokens[i + 1..].iter().find(|t| t.kind != lex::Kind::Space);
        let word = token.kind == lex::Kind::Word && !next.is_some_and(|n| n.is("("));
        match columns.clone().find(|c| word && c.eq_ignore_ascii_case(token.text)) {
            Some(_) => out.push_str(&sql::name(token.text)),
            None => out.push_str(token.text),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_way_of_quoting() {
        let ansi = Modes { ansi_quotes: true, no_backslash: true, real_is_float: false };
        assert_eq!(
            plain("alter table \"a`b\" -- x\nadd c /*!80000 int */ # y", ansi),
            "alter table `a``b`  add c   int    "
        );
        assert_eq!(plain(r"'a\b' 'it''s'", ansi), r"'a\\b' 'it''s'");
        assert_eq!(
            plain(r#""it's \" a ""text""" 'x\'y' `b"`"#, Modes::default()),
            r#"'it''s \" a "text"' 'x\'y' `b"`"#
        );
        assert_eq!(plain("a /* 'x */ b '-- c'", Modes::default()), "a   b '-- c'");
        assert_eq!(quoted("(a + `b`) > abs(a) and 'a'", ["A", "b"].into_iter()), "(`a` + `b`) > abs(`a`) and 'a'");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_text(text in "\\PC{0,60}", ansi in any::<bool>(), plain_ones in any::<bool>()) {
            let _ = plain(&text, Modes { ansi_quotes: ansi, no_backslash: plain_ones, real_is_float: false });
        }
    }
}
