//! Definitions under other names, and in the dialect of the other flavor. What the servers print has names of columns in backquotes and
//! qualified names of relations in views, so that tokens tell what is what; literals and bodies are never touched.

use crate::catalog::lex::{self, Kind, Token};
use crate::sql;
use crate::typemap::{Known, collate};
use drover_model::schema::TableName;
use std::collections::{BTreeSet, HashMap};

/// Other names of relations: only those that differ.
#[derive(Debug, Default)]
pub struct Renames {
    pub relations: HashMap<TableName, TableName>,
    /// Databases of the source as they are called at the destination, for objects that are not selected one by one.
    pub databases: HashMap<String, String>,
}

impl Renames {
    /// The name at the destination.
    pub fn of(&self, name: &TableName) -> TableName {
        self.relations.get(name).cloned().unwrap_or_else(|| {
            let schema = self.databases.get(&name.schema).unwrap_or(&name.schema);
            TableName::new(schema.clone(), name.name.clone())
        })
    }

    fn any(&self) -> bool {
        !self.relations.is_empty() || self.databases.iter().any(|(a, b)| a != b)
    }

    /// A view's query with relations and routines under their new names.
    ///
    /// # Errors
    /// Why it cannot be rewritten without guessing.
    pub fn query(&self, text: &str, known: &BTreeSet<TableName>) -> Result<String, String> {
        if !self.any() {
            return Ok(text.to_owned());
        }
        let t = lex::tokens(text);
        let significant: Vec<usize> = (0..t.len()).filter(|i| t[*i].kind != Kind::Space).collect();
        let at = |k: usize| significant.get(k).map(|i| &t[*i]);
        let dot = |k: usize| at(k).is_some_and(|t| t.is("."));
        // An alias that is called like a database makes `a`.`b` ambiguous.
        let quoted = |k: usize| at(k).filter(|t| t.kind == Kind::Quoted).and_then(Token::name);
        for k in 0..significant.len() {
            if let (Some(name), false, false) = (quoted(k), dot(k + 1), k > 0 && dot(k - 1))
                && self.databases.contains_key(&name)
            {
                return Err(format!("{name} is the name of a database and of something else in it"));
            }
        }
        let mut out = String::with_capacity(text.len() + 32);
        let mut copied = 0;
        let mut k = 0;
        while k < significant.len() {
            let begins = !(k > 0 && dot(k - 1)) && dot(k + 1);
            let pair = begins.then(|| Some(TableName::new(quoted(k)?, quoted(k + 2)?))).flatten();
            let Some(pair) = pair.filter(|p| self.databases.contains_key(&p.schema)) else {
                k += 1;
                continue;
            };
            let (Some(first), Some(last)) = (at(k), at(k + 2)) else { break };
            let relation = known.contains(&pair);
            let function = at(k + 3).is_some_and(|t| t.is("("));
            if !relation && !function {
                k += 3;
                continue;
            }
            let new = self.of(&pair);
            out.push_str(&text[copied..first.at]);
            copied = last.end();
            if dot(k + 3) {
                // database.table.column: a table under another name keeps its old one as an alias.
                if new.name == pair.name {
                    out.push_str(&sql::qualified(&new));
                } else {
                    out.push_str(&sql::name(&pair.name));
                }
            } else {
                out.push_str(&sql::qualified(&new));
                let aliased = at(k + 3).is_some_and(|t| t.kind == Kind::Quoted || t.is("as"));
                if relation && new.name != pair.name && !aliased {
                    out.push(' ');
                    out.push_str(&sql::name(&pair.name));
                }
            }
            k += 3;
        }
        out.push_str(&text[copied..]);
        Ok(out)
    }
}

/// An expression or column list about one table under its columns' new names. `bare`: names may stand without backquotes (partitions).
///
/// # Errors
/// It names a column that does not move.
pub fn columns(
    text: &str,
    renamed: &HashMap<String, String>,
    dropped: &BTreeSet<String>,
    bare: bool,
) -> Result<String, String> {
    let t = lex::tokens(text);
    let mut out = String::with_capacity(text.len() + 16);
    for (i, token) in t.iter().enumerate() {
        let next = t[i + 1..].iter().find(|t| t.kind != Kind::Space);
        let word = bare && token.kind == Kind::Word && !next.is_some_and(|n| n.is("("));
        let name = if token.kind == Kind::Quoted || word { token.name() } else { None };
        let key = name.map(|n| n.to_lowercase()).unwrap_or_default();
        if dropped.contains(&key) {
            return Err(format!("it uses column {key}, which is left out"));
        }
        match renamed.get(&key) {
            Some(new) => out.push_str(&sql::name(new)),
            None => out.push_str(token.text),
        }
    }
    Ok(out)
}

/// Whether one of these names (lower case) stands in the text as an identifier.
pub fn mentions(text: &str, names: &BTreeSet<String>) -> Option<String> {
    lex::words(text).iter().filter_map(Token::name).map(|n| n.to_lowercase()).find(|n| names.contains(n))
}

/// Names of collations behind COLLATE, of character sets behind CHARSET and CHARACTER SET, as the destination calls them. MariaDB gets
/// no `_utf8mb4'…'`: it stores such a literal without its escapes and cannot read it again; in drover's sessions the plain one is the same.
pub fn dialect(text: &str, known: &Known) -> String {
    let words = lex::words(text);
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (i, word) in words.iter().enumerate().skip(1) {
        let before = &words[i - 1];
        let unicode = ["_utf8mb4", "_utf8mb3", "_utf8"].iter().any(|w| before.is(w));
        if known.version.is_mariadb() && unicode && word.kind == Kind::Literal {
            out.push_str(&text[copied..before.at]);
            copied = word.at;
            continue;
        }
        let name = match word.name() {
            Some(name) => name,
            None => continue,
        };
        let new = if before.is("COLLATE") {
            let set = name.split('_').next().unwrap_or_default();
            let set = collate::charset(set, known).unwrap_or_else(|| set.to_owned());
            Some(collate::collation(&name, &set, known).name().to_owned())
        } else if before.is("CHARSET") || (before.is("SET") && i > 1 && words[i - 2].is("CHARACTER")) {
            collate::charset(&name, known)
        } else {
            None
        };
        if let Some(new) = new.filter(|n| !n.eq_ignore_ascii_case(&name)) {
            out.push_str(&text[copied..word.at]);
            out.push_str(&new);
            copied = word.end();
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// A view's definition taken apart: algorithm, what stands behind VIEW and its name (`(columns) AS select …`).
pub fn view(text: &str) -> Option<(String, &str)> {
    let words = lex::words(text);
    let at = words.iter().position(|t| t.is("VIEW"))?;
    let algorithm = words[..at].iter().position(|t| t.is("ALGORITHM")).and_then(|i| words.get(i + 2));
    let algorithm = algorithm.map_or("UNDEFINED".to_owned(), |t| t.text.to_owned());
    // `database`.`name`, or `name`
    let behind = if words.get(at + 2)?.is(".") { at + 4 } else { at + 2 };
    Some((algorithm, &text[words.get(behind)?.at..]))
}

/// A routine's definition taken apart: what stands behind its name up to the characteristics, and the rest.
/// `CREATE DEFINER=`a`@`b` PROCEDURE `p`(IN x int)\n    COMMENT 'c'\nBEGIN … END`.
pub fn routine(text: &str) -> Option<(&str, &str)> {
    let words = lex::words(text);
    let kind = words.iter().position(|t| t.is("PROCEDURE") || t.is("FUNCTION"))?;
    let open = words.iter().skip(kind).position(|t| t.is("("))? + kind;
    let end = lex::closing(&words, open);
    let close = words.get(end - 1)?.end();
    // Characteristics and body begin on a line of their own; a type behind RETURNS has no line break outside of its labels.
    let mut at = close;
    for token in lex::tokens(&text[close..]) {
        if token.kind == Kind::Space && token.text.contains('\n') {
            at = close + token.at;
            break;
        }
        at = close + token.end();
    }
    Some((&text[words[open].at..at], &text[at..]))
}

/// A trigger's body: what stands behind FOR EACH ROW.
pub fn trigger(text: &str) -> Option<&str> {
    let words = lex::words(text);
    let at = words.windows(3).position(|w| w[0].is("FOR") && w[1].is("EACH") && w[2].is("ROW"))? + 3;
    let order = words.get(at)?.is("FOLLOWS") || words.get(at)?.is("PRECEDES");
    Some(&text[words.get(if order { at + 2 } else { at })?.at..])
}

/// The account behind DEFINER=, as printed.
pub fn definer(text: &str) -> Option<(String, String)> {
    let words = lex::words(text);
    let at = words.iter().position(|t| t.is("DEFINER"))?;
    let part = |i: usize| words.get(i).and_then(|t| t.value().or_else(|| t.name()));
    Some((part(at + 2)?, words.get(at + 3).filter(|t| t.is("@")).and_then(|_| part(at + 4)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(schema: &str, name: &str) -> TableName {
        TableName::new(schema, name)
    }

    #[test]
    fn views_under_other_names() {
        let known = BTreeSet::from([n("shop", "v1"), n("shop", "customer")]);
        let database = Renames { relations: HashMap::new(), databases: HashMap::from([("shop".into(), "s2".into())]) };
        let view = "AS select `shop`.`v1`.`id` AS `id`,'`shop`.`v1`' AS `l`,`shop`.`f`(`c`.`x`) AS `f` from (`shop`.`v1` join `shop`.`customer` `c`)";
        assert_eq!(
            database.query(view, &known).unwrap(),
            "AS select `s2`.`v1`.`id` AS `id`,'`shop`.`v1`' AS `l`,`s2`.`f`(`c`.`x`) AS `f` from (`s2`.`v1` join `s2`.`customer` `c`)"
        );
        let table = Renames {
            relations: HashMap::from([(n("shop", "v1"), n("shop", "w"))]),
            databases: HashMap::from([("shop".into(), "shop".into())]),
        };
        assert_eq!(
            table.query(view, &known).unwrap(),
            "AS select `v1`.`id` AS `id`,'`shop`.`v1`' AS `l`,`shop`.`f`(`c`.`x`) AS `f` from (`shop`.`w` `v1` join `shop`.`customer` `c`)"
        );
        assert!(database.query("select `shop`.`id` from `shop`.`v1` `shop`", &known).is_err());
    }

    #[test]
    fn definitions_taken_apart() {
        let (algorithm, tail) = view(
            "CREATE ALGORITHM=MERGE DEFINER=`root`@`localhost` SQL SECURITY DEFINER VIEW `shop`.`a` (`x`) AS select 1",
        )
        .unwrap();
        assert_eq!((algorithm.as_str(), tail), ("MERGE", "(`x`) AS select 1"));
        let f = "CREATE DEFINER=`root`@`localhost` FUNCTION `f1`(a int, b varchar(20)) RETURNS varchar(50) CHARSET utf8mb4\n    DETERMINISTIC\nBEGIN RETURN 'x'; END";
        let (head, tail) = routine(f).unwrap();
        assert_eq!(head, "(a int, b varchar(20)) RETURNS varchar(50) CHARSET utf8mb4");
        assert!(tail.starts_with("\n    DETERMINISTIC\nBEGIN"));
        let (head, tail) = routine("CREATE DEFINER=\"r\"@\"%\" PROCEDURE \"p\"()\nselect 1").unwrap();
        assert_eq!((head, tail), ("()", "\nselect 1"));
        let t = "CREATE DEFINER=`root`@`localhost` TRIGGER tr2 BEFORE INSERT ON orders FOR EACH ROW FOLLOWS tr1 SET @x = 'FOR'";
        assert_eq!(trigger(t), Some("SET @x = 'FOR'"));
        assert_eq!(definer(t), Some(("root".into(), "localhost".into())));
    }

    #[test]
    fn columns_of_expressions() {
        let renamed = HashMap::from([("a".to_owned(), "b`".to_owned())]);
        let dropped = BTreeSet::from(["gone".to_owned()]);
        assert_eq!(columns("(`A` > 'a') or a(`c`)", &renamed, &dropped, false).unwrap(), "(`b``` > 'a') or a(`c`)");
        assert_eq!(columns("PARTITION BY KEY (a,c)", &renamed, &dropped, true).unwrap(), "PARTITION BY KEY (`b```,c)");
        assert!(columns("`gone` + 1", &renamed, &dropped, false).is_err());
    }
}
