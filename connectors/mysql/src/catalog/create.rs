//! What `SHOW CREATE TABLE` prints, taken apart. It is the only truth about expressions, index parsers, partitions and engine options:
//! information_schema cuts binary defaults at their first zero byte and prints expressions with broken quotes and characters.

use super::lex::{self, Kind, Token};
use std::fmt;

/// A table's definition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    pub columns: Vec<(String, ColumnDefinition)>,
    pub parts: Vec<Part>,
    /// Table options in their order, names in capitals, values as printed; `DEFAULT CHARSET` is called `CHARSET`.
    pub options: Vec<(String, String)>,
    /// `PARTITION BY …`, without the comment around it.
    pub partitioning: Option<String>,
}

/// A column behind its name. Texts are as printed, in the dialect of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColumnDefinition {
    /// Type with length, labels, UNSIGNED and ZEROFILL, without character set.
    pub type_text: String,
    pub charset: Option<String>,
    pub collation: Option<String>,
    /// Expression with its parentheses, and whether it is stored.
    pub generated: Option<(String, bool)>,
    pub not_null: bool,
    /// `NULL` was printed: of weight for TIMESTAMP.
    pub null: bool,
    pub default: Option<String>,
    pub on_update: Option<String>,
    pub auto_increment: bool,
    pub invisible: bool,
    /// The literal.
    pub comment: Option<String>,
    /// Expression with its parentheses.
    pub check: Option<String>,
    pub srid: Option<String>,
    /// Anything else, each a clause of its own (`COLUMN_FORMAT FIXED`, `COMPRESSED`, `WITHOUT SYSTEM VERSIONING` …).
    pub others: Vec<String>,
}

/// What a part of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    Primary,
    Unique,
    Index,
    FullText,
    Spatial,
    Vector,
    Foreign,
    Check,
    /// MariaDB's periods.
    Period,
    /// Not understood: printed as it is.
    Other,
}

impl PartKind {
    /// The kind of the object in the catalogue.
    pub fn name(self) -> &'static str {
        match self {
            PartKind::Primary => "primary key",
            PartKind::Unique => "unique",
            PartKind::Index => "index",
            PartKind::FullText => "fulltext index",
            PartKind::Spatial => "spatial index",
            PartKind::Vector => "vector index",
            PartKind::Foreign => "foreign key",
            PartKind::Check => "check",
            PartKind::Period => "period",
            PartKind::Other => "clause",
        }
    }
    pub fn of_name(name: &str) -> Option<PartKind> {
        use PartKind::*;
        [Primary, Unique, Index, FullText, Spatial, Vector, Foreign, Check, Period, Other]
            .into_iter()
            .find(|k| k.name() == name)
    }
}

/// A key, an index or a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub kind: PartKind,
    /// Empty: it has none.
    pub name: String,
    /// What stands behind its name: `(`a`,`b`(10)) USING BTREE`, `(expression) NOT ENFORCED`, `(`a`) REFERENCES …`.
    pub text: String,
}

/// A column or expression of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    Column {
        name: String,
        prefix: Option<u32>,
        descending: bool,
    },
    /// With its parentheses.
    Expression {
        text: String,
    },
}

/// An index's text, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    pub parts: Vec<KeyPart>,
    /// `USING BTREE`, `COMMENT '…'`, `KEY_BLOCK_SIZE=8`, `INVISIBLE`, `WITH PARSER `ngram`` …
    pub options: String,
}

/// Why a definition is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread(pub String);

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the definition that the server prints is not understood at: {}", self.0)
    }
}

/// The text between the beginning of a token and the end of another.
fn between<'a>(text: &'a str, first: &Token<'_>, last: &Token<'_>) -> &'a str {
    &text[first.at..last.end()]
}

/// Splits tokens at commas outside of parentheses.
pub(crate) fn split<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let (mut depth, mut from, mut out) = (0u32, 0, Vec::new());
    for (i, t) in tokens.iter().enumerate() {
        if t.is("(") {
            depth += 1;
        } else if t.is(")") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && t.is(",") {
            out.push(&tokens[from..i]);
            from = i + 1;
        }
    }
    out.push(&tokens[from..]);
    out.retain(|s| !s.is_empty());
    out
}

impl Definition {
    /// Reads `CREATE TABLE … ( … ) …`.
    pub fn parse(printed: &str) -> Result<Definition, Unread> {
        let text = lex::opened(printed);
        let tokens = lex::words(&text);
        let unread =
            |t: Option<&Token<'_>>| Unread(t.map_or_else(String::new, |t| text[t.at..].chars().take(60).collect()));
        let open = tokens.iter().position(|t| t.is("(")).ok_or_else(|| unread(tokens.first()))?;
        let end = lex::closing(&tokens, open);
        let mut out = Definition::default();
        for line in split(&tokens[open + 1..end - 1]) {
            if line[0].kind == Kind::Quoted {
                let name = line[0].name().unwrap_or_default();
                out.columns.push((name, column(&text, &line[1..]).ok_or_else(|| unread(line.first()))?));
            } else {
                out.parts.push(part(&text, line).ok_or_else(|| unread(line.first()))?);
            }
        }
        let rest = &tokens[end..];
        let partition = rest.windows(2).position(|w| w[0].is("PARTITION") && w[1].is("BY")).unwrap_or(rest.len());
        if let (Some(first), Some(last)) = (rest.get(partition), rest.last()) {
            out.partitioning = Some(between(&text, first, last).to_owned());
        }
        out.options = options(&text, &rest[..partition]);
        Ok(out)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Table options that have a value, whether an equals sign stands before it (as the server shows them) or not (as statements may write them).
pub(crate) const VALUED: [&str; 34] = [
    "ENGINE",
    "TYPE",
    "COMMENT",
    "AUTO_INCREMENT",
    "ROW_FORMAT",
    "KEY_BLOCK_SIZE",
    "STATS_PERSISTENT",
    "STATS_AUTO_RECALC",
    "STATS_SAMPLE_PAGES",
    "CHECKSUM",
    "AVG_ROW_LENGTH",
    "MAX_ROWS",
    "MIN_ROWS",
    "PACK_KEYS",
    "DELAY_KEY_WRITE",
    "INSERT_METHOD",
    "TABLESPACE",
    "COMPRESSION",
    "ENCRYPTION",
    "CONNECTION",
    "PASSWORD",
    "CHARSET",
    "COLLATE",
    "SECONDARY_ENGINE",
    "AUTOEXTEND_SIZE",
    "ENGINE_ATTRIBUTE",
    "SECONDARY_ENGINE_ATTRIBUTE",
    "TRANSACTIONAL",
    "PAGE_CHECKSUM",
    "TABLE_CHECKSUM",
    "PAGE_COMPRESSED",
    "PAGE_COMPRESSION_LEVEL",
    "ENCRYPTED",
    "ENCRYPTION_KEY_ID",
];

/// Table options: `NAME=value`, `NAME value`, and words without a value.
pub(crate) fn options(text: &str, tokens: &[Token<'_>]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let mut name = tokens[i].name().unwrap_or_else(|| tokens[i].text.to_owned()).to_uppercase();
        let next_is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| t.is(word));
        if tokens[i].is("DEFAULT") {
            i += 1;
            name = tokens.get(i).map_or(String::new(), |t| t.text.to_uppercase());
        }
        if name == "CHARACTER" && next_is(i + 1, "SET") {
            i += 1;
            name = "CHARSET".into();
        } else if (name == "DATA" || name == "INDEX") && next_is(i + 1, "DIRECTORY") {
            i += 1;
            name.push_str(" DIRECTORY");
        } else if name == "WITH" && next_is(i + 1, "SYSTEM") {
            out.push(("WITH SYSTEM VERSIONING".into(), String::new()));
            i += 3;
            continue;
        }
        i += 1;
        let equals = next_is(i, "=");
        if equals {
            i += 1;
        }
        let valued = VALUED.contains(&name.as_str()) || name == "STORAGE" || name.ends_with(" DIRECTORY");
        if !equals && !valued {
            out.push((name, String::new()));
            continue;
        }
        let end = if next_is(i, "(") { lex::closing(tokens, i) } else { i + 1 };
        let value = match (tokens.get(i), tokens.get(end.min(tokens.len()) - 1)) {
            (Some(first), Some(last)) => between(text, first, last).to_owned(),
            _ => String::new(),
        };
        out.push((name, value));
        i = end;
    }
    out
}

fn part(text: &str, line: &[Token<'_>]) -> Option<Part> {
    let last = line.last()?;
    let at = |i: usize| line.get(i);
    let is = |i: usize, word: &str| at(i).is_some_and(|t| t.is(word));
    let tail = |i: usize| at(i).map_or(String::new(), |t| between(text, t, last).to_owned());
    let named = |kind: PartKind, i: usize| -> Option<Part> {
        let name = at(i)?;
        Some(match name.kind {
            Kind::Quoted => Part { kind, name: name.name()?, text: tail(i + 1) },
            _ => Part { kind, name: String::new(), text: tail(i) },
        })
    };
    let word = at(0)?;
    Some(if word.is("PRIMARY") {
        Part { kind: PartKind::Primary, name: "PRIMARY".into(), text: tail(2) }
    } else if word.is("UNIQUE") {
        named(PartKind::Unique, if is(1, "KEY") || is(1, "INDEX") { 2 } else { 1 })?
    } else if word.is("KEY") || word.is("INDEX") {
        named(PartKind::Index, 1)?
    } else if word.is("FULLTEXT") {
        named(PartKind::FullText, 2)?
    } else if word.is("SPATIAL") {
        named(PartKind::Spatial, 2)?
    } else if word.is("VECTOR") {
        named(PartKind::Vector, 2)?
    } else if word.is("PERIOD") {
        // PERIOD FOR SYSTEM_TIME (…) or PERIOD FOR `p` (…)
        Part { kind: PartKind::Period, name: at(2)?.name()?, text: tail(3) }
    } else if word.is("CONSTRAINT") {
        let (name, i) = match at(1)?.kind {
            Kind::Quoted => (at(1)?.name()?, 2),
            _ => (String::new(), 1),
        };
        if is(i, "FOREIGN") {
            Part { kind: PartKind::Foreign, name, text: tail(i + 2) }
        } else if is(i, "CHECK") {
            Part { kind: PartKind::Check, name, text: tail(i + 1) }
        } else if is(i, "UNIQUE") {
            Part { kind: PartKind::Unique, name, text: tail(if is(i + 1, "KEY") { i + 2 } else { i + 1 }) }
        } else {
            Part { kind: PartKind::Other, name: String::new(), text: tail(0) }
        }
    } else if word.is("FOREIGN") {
        Part { kind: PartKind::Foreign, name: String::new(), text: tail(2) }
    } else if word.is("CHECK") {
        Part { kind: PartKind::Check, name: String::new(), text: tail(1) }
    } else {
        Part { kind: PartKind::Other, name: String::new(), text: tail(0) }
    })
}

impl ColumnDefinition {
    /// Reads what stands behind a column's name.
    pub fn parse(printed: &str) -> Option<ColumnDefinition> {
        let text = lex::opened(printed);
        column(&text, &lex::words(&text))
    }
}

impl ColumnDefinition {
    /// The same as a text that [`ColumnDefinition::parse`] reads again.
    pub fn printed(&self) -> String {
        let mut out = self.type_text.clone();
        let mut add = |word: &str, value: &str| {
            out.push(' ');
            out.push_str(word);
            if !word.is_empty() && !value.is_empty() {
                out.push(' ');
            }
            out.push_str(value);
        };
        let optional = [("CHARACTER SET", &self.charset), ("COLLATE", &self.collation)];
        for (word, value) in optional {
            if let Some(value) = value {
                add(word, value);
            }
        }
        if let Some((expression, stored)) = &self.generated {
            add("GENERATED ALWAYS AS", expression);
            add(if *stored { "STORED" } else { "VIRTUAL" }, "");
        }
        if self.not_null {
            add("NOT NULL", "");
        }
        if self.null {
            add("NULL", "");
        }
        if self.invisible {
            add("INVISIBLE", "");
        }
        if let Some(default) = &self.default {
            add("DEFAULT", default);
        }
        if let Some(update) = &self.on_update {
            add("ON UPDATE", update);
        }
        if self.auto_increment {
            add("AUTO_INCREMENT", "");
        }
        if let Some(comment) = &self.comment {
            add("COMMENT", comment);
        }
        if let Some(srid) = &self.srid {
            add("SRID", srid);
        }
        for other in &self.others {
            add(other, "");
        }
        if let Some(check) = &self.check {
            add("CHECK", check);
        }
        out
    }
}

fn column(text: &str, t: &[Token<'_>]) -> Option<ColumnDefinition> {
    let mut out = ColumnDefinition::default();
    let is = |i: usize, word: &str| t.get(i).is_some_and(|t| t.is(word));
    // The type: a word, perhaps with parentheses, perhaps `double precision`, then attributes.
    let mut i = 1;
    t.first()?;
    if is(i, "PRECISION") || is(i, "VARYING") {
        i += 1;
    }
    if is(i, "(") {
        i = lex::closing(t, i);
    }
    while is(i, "UNSIGNED") || is(i, "SIGNED") || is(i, "ZEROFILL") {
        i += 1;
    }
    out.type_text = between(text, &t[0], t.get(i - 1)?).to_owned();
    while i < t.len() {
        let word = &t[i];
        let rest = |from: usize, to: usize| -> Option<String> {
            Some(between(text, t.get(from)?, t.get(to.max(from + 1) - 1)?).to_owned())
        };
        if word.is("CHARACTER") && is(i + 1, "SET") {
            out.charset = Some(t.get(i + 2)?.name()?);
            i += 3;
        } else if word.is("CHARSET") {
            out.charset = Some(t.get(i + 1)?.name()?);
            i += 2;
        } else if word.is("COLLATE") {
            out.collation = Some(t.get(i + 1)?.name()?);
            i += 2;
        } else if (word.is("GENERATED") && is(i + 1, "ALWAYS") && is(i + 2, "AS") && is(i + 3, "("))
            || (word.is("AS") && is(i + 1, "("))
        {
            let open = if word.is("AS") { i + 1 } else { i + 3 };
            let end = lex::closing(t, open);
            let stored = is(end, "STORED") || is(end, "PERSISTENT");
            out.generated = Some((rest(open, end)?, stored));
            i = end + usize::from(stored || is(end, "VIRTUAL"));
        } else if word.is("NOT") && is(i + 1, "NULL") {
            out.not_null = true;
            i += 2;
        } else if word.is("NULL") {
            out.null = true;
            i += 1;
        } else if word.is("DEFAULT") {
            let end = default_end(t, i + 1);
            out.default = Some(rest(i + 1, end)?);
            i = end;
        } else if word.is("ON") && is(i + 1, "UPDATE") {
            let end = if is(i + 3, "(") { lex::closing(t, i + 3) } else { i + 3 };
            out.on_update = Some(rest(i + 2, end)?);
            i = end;
        } else if word.is("AUTO_INCREMENT") {
            out.auto_increment = true;
            i += 1;
        } else if word.is("INVISIBLE") {
            out.invisible = true;
            i += 1;
        } else if word.is("VISIBLE") {
            i += 1;
        } else if word.is("COMMENT") {
            out.comment = Some(t.get(i + 1)?.text.to_owned());
            i += 2;
        } else if word.is("CHECK") && is(i + 1, "(") {
            let end = lex::closing(t, i + 1);
            out.check = Some(rest(i + 1, end)?);
            i = end;
        } else if word.is("SRID") {
            out.srid = Some(t.get(i + 1)?.text.to_owned());
            i += 2;
        } else if word.is("REF_SYSTEM_ID") {
            out.srid = Some(t.get(i + 2)?.text.to_owned());
            i += 3;
        } else {
            // A clause that is carried as it is: its words up to the next one that is known.
            let mut end = i + 1;
            if word.is("GENERATED") || word.is("WITHOUT") {
                // GENERATED ALWAYS AS ROW START, WITHOUT SYSTEM VERSIONING
                end = i + if word.is("GENERATED") { 5 } else { 3 };
            } else if is(end, "=") {
                end += 2;
            } else if ["COLUMN_FORMAT", "STORAGE", "ENGINE_ATTRIBUTE", "SECONDARY_ENGINE_ATTRIBUTE", "NOT"]
                .iter()
                .any(|w| word.is(w))
            {
                end += 1;
            }
            end = end.min(t.len());
            out.others.push(rest(i, end)?);
            i = end;
        }
    }
    Some(out)
}

/// Index behind a default's expression, which MariaDB prints without parentheses.
fn default_end(t: &[Token<'_>], from: usize) -> usize {
    const FOLLOW: [&str; 14] = [
        "ON",
        "COMMENT",
        "CHECK",
        "AUTO_INCREMENT",
        "INVISIBLE",
        "VISIBLE",
        "COLUMN_FORMAT",
        "STORAGE",
        "SRID",
        "REF_SYSTEM_ID",
        "WITHOUT",
        "COLLATE",
        "ENGINE_ATTRIBUTE",
        "COMPRESSED",
    ];
    let mut i = from;
    while i < t.len() {
        if t[i].is("(") {
            i = lex::closing(t, i);
            continue;
        }
        if i > from && FOLLOW.iter().any(|w| t[i].is(w)) {
            break;
        }
        i += 1;
    }
    i
}

impl Index {
    /// Reads the text of an index.
    pub fn parse(text: &str) -> Option<Index> {
        let t = lex::words(text);
        // MySQL may print USING ahead of the columns.
        let open = t.iter().position(|t| t.is("("))?;
        let end = lex::closing(&t, open);
        let mut out = Index::default();
        for item in split(&t[open + 1..end - 1]) {
            let descending = item.last().is_some_and(|t| t.is("DESC"));
            let item =
                if descending || item.last().is_some_and(|t| t.is("ASC")) { &item[..item.len() - 1] } else { item };
            let first = item.first()?;
            if first.is("(") {
                out.parts.push(KeyPart::Expression {
                    text: text[first.at..item.last()?.end()].to_owned() + if descending { " DESC" } else { "" },
                });
            } else {
                let prefix =
                    item.get(1).filter(|t| t.is("(")).and_then(|_| item.get(2)).and_then(|t| t.text.parse().ok());
                if item.len() > 1 && prefix.is_none() {
                    // `p` WITHOUT OVERLAPS
                    out.parts.push(KeyPart::Expression { text: text[first.at..item.last()?.end()].to_owned() });
                } else {
                    out.parts.push(KeyPart::Column { name: first.name()?, prefix, descending });
                }
            }
        }
        let before = if open > 0 { text[t[0].at..t[open - 1].end()].trim() } else { "" };
        let after = t.get(end).map_or("", |t| text[t.at..].trim());
        out.options = [before, after].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(" ");
        Some(out)
    }

    /// Its columns, if it consists of whole columns only.
    pub fn whole_columns(&self) -> Option<Vec<String>> {
        let whole = self.parts.iter().map(|p| match p {
            KeyPart::Column { name, prefix: None, .. } => Some(name.clone()),
            _ => None,
        });
        whole.collect()
    }
}

/// A foreign key's text, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub columns: Vec<String>,
    /// Database (if another one) and table.
    pub schema: Option<String>,
    pub table: String,
    pub foreign_columns: Vec<String>,
    /// `ON DELETE CASCADE ON UPDATE …`
    pub actions: String,
}

impl Foreign {
    pub fn parse(text: &str) -> Option<Foreign> {
        let t = lex::words(text);
        let list = |open: usize, end: usize| -> Option<Vec<String>> {
            split(&t[open + 1..end - 1]).iter().map(|i| i.first().and_then(Token::name)).collect()
        };
        let open = t.iter().position(|t| t.is("("))?;
        let end = lex::closing(&t, open);
        let columns = list(open, end)?;
        if !t.get(end)?.is("REFERENCES") {
            return None;
        }
        let mut i = end + 1;
        let mut table = t.get(i)?.name()?;
        let mut schema = None;
        i += 1;
        if t.get(i)?.is(".") {
            schema = Some(std::mem::replace(&mut table, t.get(i + 1)?.name()?));
            i += 2;
        }
        let end = lex::closing(&t, i);
        let foreign_columns = list(i, end)?;
        let actions = t.get(end).map_or(String::new(), |t| text[t.at..].trim().to_owned());
        Some(Foreign { columns, schema, table, foreign_columns, actions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MYSQL: &str = "CREATE TABLE `t` (
  `id` bigint unsigned NOT NULL AUTO_INCREMENT,
  `n` varchar(50) CHARACTER SET latin1 COLLATE latin1_german2_ci DEFAULT 'a, (b' COMMENT 'x, y',
  `e` enum('a,)','b''') DEFAULT 'b''',
  `dt` datetime(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  `g` int GENERATED ALWAYS AS ((`id` + 1)) VIRTUAL /*!80023 INVISIBLE */,
  `x` varchar(30) DEFAULT (concat(_utf8mb4'a',uuid())),
  `p` point NOT NULL /*!80003 SRID 4326 */,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u` (`n`(10) DESC,(lower(`e`))) USING BTREE COMMENT 'c' /*!80000 INVISIBLE */,
  FULLTEXT KEY `ft` (`n`) /*!50100 WITH PARSER `ngram` */ ,
  CONSTRAINT `f``k` FOREIGN KEY (`g`) REFERENCES `o`.`p` (`x`,`y`) ON DELETE CASCADE,
  CONSTRAINT `c` CHECK ((`id` > 0)) /*!80016 NOT ENFORCED */
) ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci ROW_FORMAT=DYNAMIC COMMENT='it''s'
/*!50100 PARTITION BY RANGE (`id`)
(PARTITION p0 VALUES LESS THAN (10) ENGINE = InnoDB) */";

    #[test]
    fn a_table_of_mysql() {
        let d = Definition::parse(MYSQL).unwrap();
        for (name, c) in &d.columns {
            assert_eq!(ColumnDefinition::parse(&c.printed()).as_ref(), Some(c), "{name}");
        }
        let c = |name: &str| &d.columns.iter().find(|(n, _)| n == name).unwrap().1;
        assert!(c("id").auto_increment && c("id").not_null && c("id").type_text == "bigint unsigned");
        assert_eq!((c("n").default.as_deref(), c("n").comment.as_deref()), (Some("'a, (b'"), Some("'x, y'")));
        assert_eq!(
            (c("n").charset.as_deref(), c("n").collation.as_deref()),
            (Some("latin1"), Some("latin1_german2_ci"))
        );
        assert_eq!((c("e").type_text.as_str(), c("e").default.as_deref()), ("enum('a,)','b''')", Some("'b'''")));
        assert_eq!(c("dt").default.as_deref(), Some("CURRENT_TIMESTAMP(6)"));
        assert_eq!(c("dt").on_update.as_deref(), Some("CURRENT_TIMESTAMP(6)"));
        assert_eq!(c("g").generated, Some(("((`id` + 1))".into(), false)));
        assert!(c("g").invisible);
        assert_eq!(c("x").default.as_deref(), Some("(concat(_utf8mb4'a',uuid()))"));
        assert_eq!(c("p").srid.as_deref(), Some("4326"));
        let kinds: Vec<_> = d.parts.iter().map(|p| (p.kind, p.name.as_str())).collect();
        use PartKind as P;
        assert_eq!(
            kinds,
            [(P::Primary, "PRIMARY"), (P::Unique, "u"), (P::FullText, "ft"), (P::Foreign, "f`k"), (P::Check, "c")]
        );
        let u = Index::parse(&d.parts[1].text).unwrap();
        assert_eq!(u.parts[0], KeyPart::Column { name: "n".into(), prefix: Some(10), descending: true });
        assert_eq!(u.parts[1], KeyPart::Expression { text: "(lower(`e`))".into() });
        assert!(u.options.starts_with("USING BTREE COMMENT 'c'") && u.options.ends_with("INVISIBLE"));
        assert_eq!(Index::parse(&d.parts[2].text).unwrap().options, "WITH PARSER `ngram`");
        let f = Foreign::parse(&d.parts[3].text).unwrap();
        assert_eq!((f.schema.as_deref(), f.table.as_str(), f.foreign_columns.len()), (Some("o"), "p", 2));
        assert_eq!(f.actions, "ON DELETE CASCADE");
        assert!(d.parts[4].text.starts_with("((`id` > 0))") && d.parts[4].text.ends_with("NOT ENFORCED"));
        assert_eq!(
            (d.option("ENGINE"), d.option("AUTO_INCREMENT"), d.option("CHARSET")),
            (Some("InnoDB"), Some("7"), Some("utf8mb4"))
        );
        assert_eq!((d.option("COMMENT"), d.option("ROW_FORMAT")), (Some("'it''s'"), Some("DYNAMIC")));
        assert!(d.partitioning.unwrap().starts_with("PARTITION BY RANGE (`id`)"));
    }

    #[test]
    fn a_table_of_mariadb() {
        let d = Definition::parse(
            "CREATE TABLE `t` (
  `a` uuid NOT NULL DEFAULT uuid(),
  `j` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`j`)),
  `n` int(11) DEFAULT (`b` + 1) * 2 COMMENT 'c' CHECK (`n` > 0),
  `c` varchar(10) /*M!100301 COMPRESSED*/ DEFAULT 'x',
  `s` timestamp(6) GENERATED ALWAYS AS ROW START,
  `g` point REF_SYSTEM_ID=4326 DEFAULT NULL,
  `k` bigint(20) DEFAULT nextval(`d`.`s`),
  PERIOD FOR SYSTEM_TIME (`s`, `e`),
  UNIQUE KEY `o` (`a`,`p` WITHOUT OVERLAPS)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci PAGE_COMPRESSED=1 `ENCRYPTED`=YES WITH SYSTEM VERSIONING
 PARTITION BY KEY (`a`)
PARTITIONS 3",
        )
        .unwrap();
        let c = |name: &str| &d.columns.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(c("a").default.as_deref(), Some("uuid()"));
        assert_eq!((c("j").default.as_deref(), c("j").check.as_deref()), (Some("NULL"), Some("(json_valid(`j`))")));
        assert_eq!((c("n").default.as_deref(), c("n").check.as_deref()), (Some("(`b` + 1) * 2"), Some("(`n` > 0)")));
        assert_eq!(
            (c("c").others.as_slice(), c("c").default.as_deref()),
            (["COMPRESSED".to_owned()].as_slice(), Some("'x'"))
        );
        assert_eq!(c("s").others, ["GENERATED ALWAYS AS ROW START"]);
        assert_eq!((c("g").srid.as_deref(), c("g").default.as_deref()), (Some("4326"), Some("NULL")));
        assert_eq!(c("k").default.as_deref(), Some("nextval(`d`.`s`)"));
        assert_eq!((d.parts[0].kind, d.parts[0].name.as_str()), (PartKind::Period, "SYSTEM_TIME"));
        assert_eq!(Index::parse(&d.parts[1].text).unwrap().whole_columns(), None);
        assert_eq!((d.option("ENCRYPTED"), d.option("WITH SYSTEM VERSIONING")), (Some("YES"), Some("")));
        assert_eq!(d.partitioning.as_deref(), Some("PARTITION BY KEY (`a`)\nPARTITIONS 3"));
    }
}
