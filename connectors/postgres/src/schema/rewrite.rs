//! Definitions under other names. What the server prints (with an empty search path) has qualified names for everything, keywords
//! in capitals, and identifiers in quotes unless they are plain lower case: so tokens tell what is what, and literals and bodies of functions are never touched.

use crate::sql::{ident, literal, qualified};
use drover_model::ddl::Moves;
use drover_model::schema::{Object, TableName};
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Literal,
    Space,
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
}

impl Token<'_> {
    /// The identifier that the token is.
    fn name(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_owned()),
            Kind::Quoted => Some(self.text[1..self.text.len() - 1].replace("\"\"", "\"")),
            _ => None,
        }
    }
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Literal && self.kind != Kind::Quoted && self.text == text
    }
}

/// Length of the token that begins here.
fn scan(text: &str) -> (Kind, usize) {
    let bytes = text.as_bytes();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let quoted = |mut at: usize, quote: u8, escapes: bool| {
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
    };
    match bytes[0] {
        b'\'' => (Kind::Literal, quoted(1, b'\'', false)),
        b'"' => (Kind::Quoted, quoted(1, b'"', false)),
        b'E' | b'B' | b'X' | b'N' if bytes.get(1) == Some(&b'\'') => {
            (Kind::Literal, quoted(2, b'\'', bytes[0] == b'E'))
        }
        b'$' => {
            let tag = text[1..].find('$').map(|i| &text[..i + 2]).filter(|t| t[1..t.len() - 1].chars().all(word));
            match tag.and_then(|t| text[t.len()..].find(t).map(|i| i + 2 * t.len())) {
                Some(len) => (Kind::Literal, len),
                None => (Kind::Other, 1),
            }
        }
        b'-' if text.starts_with("--") => (Kind::Space, text.find('\n').unwrap_or(text.len())),
        b':' if text.starts_with("::") => (Kind::Other, 2),
        c if c.is_ascii_whitespace() => {
            (Kind::Space, text.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(text.len()))
        }
        _ => {
            let first = text.chars().next().unwrap_or(' ');
            if first.is_alphabetic() || first == '_' {
                (Kind::Word, text.find(|c: char| !word(c)).unwrap_or(text.len()))
            } else if first.is_ascii_digit() {
                (Kind::Other, text.find(|c: char| !word(c)).unwrap_or(text.len()))
            } else {
                (Kind::Other, first.len_utf8())
            }
        }
    }
}

fn tokens(mut text: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (kind, len) = scan(text);
        let (head, rest) = text.split_at(len.min(text.len()));
        out.push(Token { kind, text: head });
        text = rest;
    }
    out
}

/// Index of the significant token before or after.
fn before(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    (0..at).rev().find(|i| tokens[*i].kind != Kind::Space)
}
fn after(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    (at + 1..tokens.len()).find(|i| tokens[*i].kind != Kind::Space)
}

/// Other names of relations (tables, partitions, sequences): only those that differ.
#[derive(Debug, Default)]
pub struct Renames(pub HashMap<TableName, TableName>);

impl Renames {
    /// The name at the destination.
    pub fn of(&self, name: &TableName) -> TableName {
        self.0.get(name).cloned().unwrap_or_else(|| name.clone())
    }

    /// The definition with relations under their new names. `alias` keeps the old name as an alias where a query reads from a renamed relation
    /// without one, since its columns are qualified by it.
    pub fn apply(&self, definition: &str, alias: bool) -> String {
        if self.0.is_empty() {
            return definition.to_owned();
        }
        let t = tokens(definition);
        let mut out = String::with_capacity(definition.len() + 32);
        let mut i = 0;
        while i < t.len() {
            let previous = before(&t, i);
            let dotted = previous.is_some_and(|p| t[p].is("."));
            if let (Some(schema), false) = (t[i].name(), dotted)
                && t.get(i + 1).is_some_and(|d| d.is("."))
                && let Some(name) = t.get(i + 2).and_then(Token::name)
                && !t.get(i + 3).is_some_and(|d| d.is("."))
                && let Some(new) = self.0.get(&TableName::new(schema, name.as_str()))
            {
                out.push_str(&qualified(&new.schema, &new.name));
                let reads = previous.is_some_and(|p| ["FROM", "JOIN", "ONLY", ",", "("].iter().any(|w| t[p].is(w)));
                let has_alias = after(&t, i + 2).is_some_and(|n| {
                    t[n].kind == Kind::Quoted || t[n].kind == Kind::Word && t[n].text.chars().any(char::is_lowercase)
                });
                if alias && reads && !has_alias && new.name != name {
                    out.push(' ');
                    out.push_str(&ident(&name));
                }
                i += 3;
                continue;
            }
            if t[i].kind == Kind::Literal
                && t.get(i + 1).is_some_and(|c| c.is("::"))
                && t.get(i + 2).is_some_and(|c| c.is("regclass"))
                && let Some(new) = self.regclass(t[i].text)
            {
                out.push_str(&new);
            } else {
                out.push_str(t[i].text);
            }
            i += 1;
        }
        out
    }

    /// `'schema.name'` of a renamed relation, as a literal.
    fn regclass(&self, text: &str) -> Option<String> {
        let inner = text.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'");
        let t = tokens(&inner);
        let [schema, dot, name] = t.as_slice() else { return None };
        let new = self.0.get(&TableName::new(schema.name()?, name.name()?)).filter(|_| dot.is("."))?;
        Some(literal(&qualified(&new.schema, &new.name)))
    }
}

/// A part of a table that has another name now. Its sequences and triggers go with it, partitions and their parts stay where they are.
pub fn part(part: &mut Object, from: &TableName, to: &TableName) {
    if matches!(part.kind.as_str(), "identity" | "trigger" | "column") && part.schema == from.schema {
        part.schema.clone_from(&to.schema);
    }
    Moves::one(from, to).object(part);
}

/// Words that the server prints in lower case and which may be something else than a column.
const AMBIGUOUS: [&str; 24] = [
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "epoch",
    "dow",
    "doy",
    "week",
    "quarter",
    "century",
    "decade",
    "time",
    "zone",
    "timestamp",
    "varying",
    "precision",
    "character",
    "double",
    "without",
    "with",
    "btree",
    "hash",
];

/// An expression or column list about one table, whose columns stand in it unqualified, under its columns' new names.
///
/// # Errors
/// Why it cannot be rewritten without guessing.
pub fn columns(definition: &str, renamed: &BTreeMap<String, String>) -> Result<String, String> {
    if renamed.iter().all(|(old, new)| old == new) {
        return Ok(definition.to_owned());
    }
    let t = tokens(definition);
    let mut out = String::with_capacity(definition.len() + 32);
    for (i, token) in t.iter().enumerate() {
        let new = token.name().and_then(|n| renamed.get(&n).filter(|new| **new != n).map(|new| (n, new)));
        let Some((old, new)) = new else {
            out.push_str(token.text);
            continue;
        };
        let previous = before(&t, i).map(|p| t[p]);
        let next = after(&t, i).map(|n| t[n]);
        let type_or_collation = previous.is_some_and(|p| p.is("::") || p.is("COLLATE") || p.is("."));
        let called = next.is_some_and(|n| n.is("(") || n.is("."));
        if token.kind == Kind::Word && AMBIGUOUS.contains(&token.text) {
            return Err(format!("the name of its column {old} may mean something else"));
        }
        if called {
            return Err(format!("{old} is a column's and a function's or relation's name"));
        }
        if type_or_collation {
            out.push_str(token.text);
        } else {
            out.push_str(&ident(new));
        }
    }
    Ok(out)
}

/// A definition for comparisons: with all of its names quoted, however they were written.
pub fn normal(definition: &str) -> String {
    let quoted = |t: &Token<'_>| t.name().map_or_else(|| t.text.to_owned(), |name| ident(&name));
    tokens(definition).iter().map(quoted).collect()
}

/// Whether a statement as a client wrote it gives something this name, or moves something to its schema.
pub fn renames_to(statement: &str, name: &TableName) -> bool {
    let all: Vec<Token<'_>> = tokens(statement).into_iter().filter(|t| t.kind != Kind::Space).collect();
    let word = |t: &Token<'_>, text: &str| t.kind == Kind::Word && t.text.eq_ignore_ascii_case(text);
    let means = |t: &Token<'_>, wanted: &str| match t.kind {
        Kind::Word => t.text.to_lowercase() == wanted,
        _ => t.name().is_some_and(|n| n == wanted),
    };
    all.windows(3).any(|w| {
        word(&w[0], "RENAME") && word(&w[1], "TO") && means(&w[2], &name.name)
            || word(&w[0], "SET") && word(&w[1], "SCHEMA") && means(&w[2], &name.schema)
    })
}

/// Whether one of these names stands in the definition as an identifier.
pub fn mentions<'a>(definition: &str, names: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let found: Vec<String> = tokens(definition).iter().filter_map(Token::name).collect();
    names.into_iter().find(|n| found.contains(n)).cloned()
}

/// Splits an index definition into what stands before the columns (`CREATE [UNIQUE] INDEX name ON [ONLY] table`) and `USING …`.
pub fn index_tail(definition: &str) -> Option<&str> {
    let mut at = 0;
    for token in tokens(definition) {
        if token.is("USING") {
            return Some(&definition[at..]);
        }
        at += token.text.len();
    }
    None
}

/// What stands behind the column list of the referenced table of a foreign key, without NOT VALID.
pub fn foreign_key_tail(definition: &str) -> Option<&str> {
    let (mut at, mut depth, mut lists) = (0, 0u32, 0);
    for token in tokens(definition) {
        at += token.text.len();
        if token.is("(") {
            depth += 1;
        } else if token.is(")") {
            depth = depth.saturating_sub(1);
            lists += u32::from(depth == 0);
            if lists == 2 {
                let tail = definition[at..].trim();
                return Some(tail.strip_suffix("NOT VALID").unwrap_or(tail).trim());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames() -> Renames {
        let n = TableName::new;
        Renames(HashMap::from([
            (n("public", "customer"), n("crm", "client")),
            (n("public", "order_id_seq"), n("crm", "order_id_seq")),
        ]))
    }

    #[test]
    fn relations_in_views_keep_their_alias() {
        let r = renames();
        let view = "SELECT customer.id, 'public.customer' FROM (public.customer JOIN public.other o ON (customer.id = o.id)) WHERE true";
        assert_eq!(
            r.apply(view, true),
            "SELECT customer.id, 'public.customer' FROM (\"crm\".\"client\" \"customer\" JOIN public.other o ON (customer.id = o.id)) WHERE true"
        );
        assert_eq!(
            r.apply("FROM public.customer c, \"public\".customer", true),
            "FROM \"crm\".\"client\" c, \"crm\".\"client\" \"customer\""
        );
        assert_eq!(r.apply("NULL::public.customer", true), "NULL::\"crm\".\"client\"");
        assert_eq!(r.apply("$body$ public.customer $body$", true), "$body$ public.customer $body$");
    }

    #[test]
    fn sequences_in_defaults() {
        assert_eq!(
            renames().apply("nextval('public.order_id_seq'::regclass)", false),
            "nextval('\"crm\".\"order_id_seq\"'::regclass)"
        );
    }

    #[test]
    fn columns_but_not_types_or_functions() {
        let renamed = BTreeMap::from([
            ("first_name".to_owned(), "given \"name".to_owned()),
            ("text".to_owned(), "t2".to_owned()),
        ]);
        assert_eq!(
            columns("lower((first_name)::text) = 'first_name'", &renamed).unwrap(),
            "lower((\"given \"\"name\")::text) = 'first_name'"
        );
        let renamed = BTreeMap::from([("lower".to_owned(), "l".to_owned())]);
        assert!(columns("lower(x)", &renamed).is_err());
        let renamed = BTreeMap::from([("year".to_owned(), "y".to_owned())]);
        assert!(columns("EXTRACT(year FROM ts)", &renamed).is_err());
    }

    #[test]
    fn names_that_a_statement_gives() {
        let name = TableName::new("public", "orders");
        for (statement, wanted) in [
            ("BEGIN; alter table orders_new Rename\n to ORDERS;", true),
            ("ALTER TABLE x RENAME TO \"orders\"", true),
            ("ALTER TABLE x RENAME TO \"Orders\"", false),
            ("ALTER TABLE x RENAME c TO orders; ALTER TABLE orders ADD d int", false),
            ("ALTER TABLE s.orders SET SCHEMA public", true),
            ("SELECT 'RENAME TO orders'", false),
        ] {
            assert_eq!(renames_to(statement, &name), wanted, "{statement}");
        }
    }

    #[test]
    fn tails() {
        assert_eq!(index_tail("CREATE INDEX \"USING\" ON ONLY a.b USING btree (c)").unwrap(), "USING btree (c)");
        assert_eq!(
            foreign_key_tail("FOREIGN KEY (a, b) REFERENCES public.t(c, d) ON DELETE SET NULL (a) NOT VALID").unwrap(),
            "ON DELETE SET NULL (a)"
        );
    }
}
