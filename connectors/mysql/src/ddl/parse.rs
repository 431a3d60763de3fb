//! Statements that change tables, taken apart. The grammar is that of MySQL 5.6 to 9 and MariaDB 10 and 11: a list of clauses, each of which begins
//! with its own keywords. Guarantee: what is not understood is an error that names it; no clause is passed over.
//!
//! Why a reader of our own: see docs/decisions/0012-schema-changes.md.

use crate::catalog::create::{self, Part, PartKind};
use crate::catalog::lex::{self, Kind, Token};
use crate::sql;
use drover_model::schema::TableName;

/// Where a column goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    First,
    After(String),
}

/// A column's definition as written, behind its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub name: String,
    pub text: String,
    pub place: Option<Place>,
}

/// One clause of an ALTER TABLE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    AddColumn {
        column: Written,
        /// IF NOT EXISTS.
        lenient: bool,
    },
    DropColumn {
        name: String,
        lenient: bool,
    },
    /// CHANGE and MODIFY.
    Redefine {
        old: String,
        column: Written,
        lenient: bool,
    },
    RenameColumn {
        old: String,
        new: String,
        lenient: bool,
    },
    /// `None`: DROP DEFAULT.
    Default {
        column: String,
        value: Option<String>,
        lenient: bool,
    },
    Visible {
        column: String,
        visible: bool,
    },
    /// A key, index or constraint; an empty name: it gets one.
    Add {
        part: Part,
        lenient: bool,
    },
    /// `kind`: what the clause calls it; `None`: DROP CONSTRAINT, whatever it is.
    Drop {
        kind: Option<PartKind>,
        name: String,
        lenient: bool,
    },
    RenameIndex {
        old: String,
        new: String,
        lenient: bool,
    },
    RenameTable(TableName),
    /// All text columns and the default. No charset: that of the database.
    Convert {
        charset: Option<String>,
        collation: Option<String>,
    },
    Option {
        name: String,
        value: String,
    },
    /// The whole clause; `None`: REMOVE PARTITIONING.
    Partitioning(Option<String>),
    /// Done as it is written: what it changes is not told by a table's structure.
    Verbatim(String),
    /// Changes nothing that lasts.
    Nothing,
}

/// What a new table is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Body {
    pub columns: Vec<Written>,
    pub parts: Vec<Part>,
    pub options: Vec<(String, String)>,
    pub partitioning: Option<String>,
    /// Rows of the same transaction follow (CREATE … SELECT).
    pub rows_follow: bool,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Alter { table: TableName, lenient: bool, actions: Vec<Action> },
    Create { table: TableName, lenient: bool, replaces: bool, body: Body },
    CreateLike { table: TableName, lenient: bool, replaces: bool, like: TableName },
    Drop { tables: Vec<TableName>, lenient: bool },
    Rename { pairs: Vec<(TableName, TableName)>, lenient: bool },
}

/// Why a statement is not understood: the place in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not understood at: {0}")]
pub struct Unread(pub String);

type Result<T> = std::result::Result<T, Unread>;

/// Reads a statement in plain form (see [`super::text::plain`]). `database` is the default one.
///
/// # Errors
/// Where it is not understood.
pub fn parse(text: &str, database: &str) -> Result<Statement> {
    let tokens = lex::words(text);
    let mut tokens = &tokens[..];
    while tokens.last().is_some_and(|t| t.is(";")) {
        tokens = &tokens[..tokens.len() - 1];
    }
    let mut r = Reader { text, tokens, at: 0, database };
    let statement = if r.take("ALTER") {
        r.alter()?
    } else if r.take("CREATE") {
        r.create()?
    } else if r.take("DROP") {
        r.drop()?
    } else if r.take("RENAME") {
        r.rename()?
    } else {
        return Err(r.unread());
    };
    if r.at < r.tokens.len() { Err(r.unread()) } else { Ok(statement) }
}

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token<'a>],
    at: usize,
    database: &'a str,
}

impl<'a> Reader<'a> {
    fn unread(&self) -> Unread {
        let at = self.peek().or(self.tokens.last()).map_or(self.text.len(), |t| t.at);
        Unread(self.text[at..].chars().take(80).collect())
    }
    fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.at)
    }
    fn is(&self, word: &str) -> bool {
        self.peek().is_some_and(|t| t.is(word))
    }
    fn are(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, w)| self.tokens.get(self.at + i).is_some_and(|t| t.is(w)))
    }
    fn take(&mut self, word: &str) -> bool {
        let there = self.is(word);
        self.at += usize::from(there);
        there
    }
    fn take_all(&mut self, words: &[&str]) -> bool {
        let there = self.are(words);
        self.at += if there { words.len() } else { 0 };
        there
    }
    fn take_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|w| self.take(w))
    }
    fn need(&mut self, word: &str) -> Result<()> {
        if self.take(word) { Ok(()) } else { Err(self.unread()) }
    }
    fn name(&mut self) -> Result<String> {
        let name = self.peek().and_then(Token::name).ok_or_else(|| self.unread())?;
        self.at += 1;
        Ok(name)
    }
    fn table(&mut self) -> Result<TableName> {
        self.take(".");
        let first = self.name()?;
        if self.take(".") { Ok(TableName::new(first, self.name()?)) } else { Ok(TableName::new(self.database, first)) }
    }
    /// A column's name, maybe with its table in front.
    fn column(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.take(".") {
            name = self.name()?;
        }
        Ok(name)
    }
    fn exists(&mut self) -> bool {
        self.take_all(&["IF", "EXISTS"])
    }
    fn not_exists(&mut self) -> bool {
        self.take_all(&["IF", "NOT", "EXISTS"])
    }
    /// MariaDB: how long to wait for a lock.
    fn patience(&mut self) {
        if self.take("WAIT") {
            self.at += 1;
        } else {
            self.take("NOWAIT");
        }
    }
    fn ended(&self) -> bool {
        self.at >= self.tokens.len()
    }
    /// The text of the tokens from one to the end.
    fn rest_from(&self, from: usize) -> String {
        match (self.tokens.get(from), self.tokens.last()) {
            (Some(first), Some(last)) => self.text[first.at..last.end()].to_owned(),
            _ => String::new(),
        }
    }

    fn alter(&mut self) -> Result<Statement> {
        let mut ignore = false;
        loop {
            if self.take("IGNORE") {
                ignore = true;
            } else if !self.take_any(&["ONLINE", "OFFLINE"]) {
                break;
            }
        }
        if ignore {
            // Rows for which a new unique key has no room are thrown away, and the log does not have them.
            return Err(self.unread());
        }
        self.need("TABLE")?;
        let lenient = self.exists();
        let table = self.table()?;
        self.patience();
        let mut actions = Vec::new();
        let rest = &self.tokens[self.at..];
        let partition = at_depth_zero(rest, |w| w[0].is("PARTITION") && w[1].is("BY")).unwrap_or(rest.len());
        for clause in create::split(&rest[..partition]) {
            let mut one = Reader { text: self.text, tokens: clause, at: 0, database: self.database };
            one.action(&mut actions)?;
            if !one.ended() {
                return Err(one.unread());
            }
        }
        if partition < rest.len() {
            let from = self.at + partition;
            actions.push(Action::Partitioning(Some(self.rest_from(from))));
        }
        self.at = self.tokens.len();
        Ok(Statement::Alter { table, lenient, actions })
    }

    fn action(&mut self, out: &mut Vec<Action>) -> Result<()> {
        let start = self.at;
        let verbatim = |r: &mut Self| {
            let text = r.rest_from(start);
            r.at = r.tokens.len();
            Action::Verbatim(text)
        };
        let action = if self.take("ADD") {
            return self.add(start, out);
        } else if self.take("DROP") {
            self.dropped(start)?
        } else if self.take("MODIFY") {
            self.take("COLUMN");
            let lenient = self.exists();
            let old = self.column()?;
            Action::Redefine { column: self.definition(old.clone())?, old, lenient }
        } else if self.take("CHANGE") {
            self.take("COLUMN");
            let lenient = self.exists();
            let old = self.column()?;
            let new = self.column()?;
            Action::Redefine { old, column: self.definition(new)?, lenient }
        } else if self.take("ALTER") {
            self.altered()?
        } else if self.take("RENAME") {
            if self.take("COLUMN") {
                let lenient = self.exists();
                let old = self.name()?;
                self.need("TO")?;
                Action::RenameColumn { old, new: self.name()?, lenient }
            } else if self.take_any(&["INDEX", "KEY"]) {
                let lenient = self.exists();
                let old = self.name()?;
                self.need("TO")?;
                Action::RenameIndex { old, new: self.name()?, lenient }
            } else {
                self.take_any(&["TO", "AS", "="]);
                Action::RenameTable(self.table()?)
            }
        } else if self.take("CONVERT") {
            self.need("TO")?;
            if !self.take("CHARSET") {
                self.need("CHARACTER")?;
                self.need("SET")?;
            }
            self.take("=");
            let charset = if self.take("DEFAULT") { None } else { Some(self.word()?) };
            let collation = if self.take("COLLATE") {
                self.take("=");
                Some(self.word()?)
            } else {
                None
            };
            Action::Convert { charset, collation }
        } else if self.take_all(&["REMOVE", "PARTITIONING"]) {
            Action::Partitioning(None)
        } else if self.take_any(&["FORCE"])
            || self.take_all(&["WITH", "VALIDATION"])
            || self.take_all(&["WITHOUT", "VALIDATION"])
            || self.take_all(&["ENABLE", "KEYS"])
            || self.take_all(&["DISABLE", "KEYS"])
        {
            Action::Nothing
        } else if self.take_any(&["ALGORITHM", "LOCK"]) {
            self.take("=");
            self.word()?;
            Action::Nothing
        } else if self.take("ORDER") {
            // Rows have no order that is told.
            self.need("BY")?;
            self.at = self.tokens.len();
            Action::Nothing
        } else if ["REBUILD", "OPTIMIZE", "ANALYZE", "CHECK", "REPAIR"].iter().any(|w| self.are(&[w, "PARTITION"])) {
            self.at = self.tokens.len();
            Action::Nothing
        } else if ["COALESCE", "REORGANIZE", "TRUNCATE"].iter().any(|w| self.are(&[w, "PARTITION"])) {
            verbatim(self)
        } else if self.is_option() {
            for (name, value) in create::options(self.text, &self.tokens[self.at..]) {
                out.push(Action::Option { name, value });
            }
            self.at = self.tokens.len();
            return Ok(());
        } else {
            return Err(self.unread());
        };
        out.push(action);
        Ok(())
    }

    /// Whether a table's option begins here, of those that are known.
    fn is_option(&self) -> bool {
        const BEGINNINGS: [&str; 4] = ["DATA", "INDEX", "CHARACTER", "DEFAULT"];
        create::VALUED.iter().chain(&BEGINNINGS).any(|o| self.is(o))
    }

    /// A word or a text: names of character sets are written either way.
    fn word(&mut self) -> Result<String> {
        let token = self.peek().ok_or_else(|| self.unread())?;
        let word = token.name().or_else(|| token.value()).ok_or_else(|| self.unread())?;
        self.at += 1;
        Ok(word.to_lowercase())
    }

    fn add(&mut self, start: usize, out: &mut Vec<Action>) -> Result<()> {
        if self.is("PARTITION") {
            out.push(Action::Verbatim(self.rest_from(start)));
            self.at = self.tokens.len();
            return Ok(());
        }
        if self.begins_part() {
            let (part, lenient) = self.part()?;
            out.push(Action::Add { part, lenient });
            return Ok(());
        }
        if self.is("SYSTEM") && self.tokens.get(self.at + 1).is_some_and(|t| t.is("VERSIONING")) || self.is("PERIOD") {
            return Err(self.unread());
        }
        self.take("COLUMN");
        let lenient = self.not_exists();
        if !self.is("(") {
            let name = self.column()?;
            out.push(Action::AddColumn { column: self.definition(name)?, lenient });
            return Ok(());
        }
        let end = lex::closing(self.tokens, self.at);
        for item in create::split(&self.tokens[self.at + 1..end - 1]) {
            let mut one = Reader { text: self.text, tokens: item, at: 0, database: self.database };
            if one.begins_part() {
                let (part, lenient) = one.part()?;
                out.push(Action::Add { part, lenient });
            } else {
                let name = one.column()?;
                out.push(Action::AddColumn { column: one.definition(name)?, lenient });
            }
            if !one.ended() {
                return Err(one.unread());
            }
        }
        self.at = end;
        Ok(())
    }

    fn dropped(&mut self, start: usize) -> Result<Action> {
        let named = |r: &mut Self, kind: Option<PartKind>| -> Result<Action> {
            let lenient = r.exists();
            Ok(Action::Drop { kind, name: r.name()?, lenient })
        };
        if self.take_all(&["PRIMARY", "KEY"]) {
            return Ok(Action::Drop { kind: Some(PartKind::Primary), name: "PRIMARY".into(), lenient: false });
        }
        if self.take_all(&["FOREIGN", "KEY"]) {
            return named(self, Some(PartKind::Foreign));
        }
        if self.is("PARTITION") {
            let text = self.rest_from(start);
            self.at = self.tokens.len();
            return Ok(Action::Verbatim(text));
        }
        // What follows may be the name of a column, too.
        let alone = self.tokens.len() == self.at + 1;
        if !alone && self.take_any(&["INDEX", "KEY"]) {
            return named(self, Some(PartKind::Index));
        }
        if !alone && self.take("CHECK") {
            return named(self, Some(PartKind::Check));
        }
        if !alone && self.take("CONSTRAINT") {
            return named(self, None);
        }
        if !alone && (self.are(&["SYSTEM", "VERSIONING"]) || self.is("PERIOD")) {
            return Err(self.unread());
        }
        if !alone {
            self.take("COLUMN");
        }
        let lenient = self.exists();
        let name = self.column()?;
        self.take_any(&["RESTRICT", "CASCADE"]);
        Ok(Action::DropColumn { name, lenient })
    }

    fn altered(&mut self) -> Result<Action> {
        if self.take_any(&["INDEX", "KEY", "CHECK", "CONSTRAINT"]) {
            // Visibility and enforcement: carried as written, names of indexes and checks are the same.
            self.name()?;
            let text = self.rest_from(0);
            self.at = self.tokens.len();
            return Ok(Action::Verbatim(text));
        }
        self.take("COLUMN");
        let lenient = self.exists();
        let column = self.column()?;
        if self.take_all(&["DROP", "DEFAULT"]) {
            return Ok(Action::Default { column, value: None, lenient });
        }
        self.need("SET")?;
        if self.take("VISIBLE") {
            return Ok(Action::Visible { column, visible: true });
        }
        if self.take("INVISIBLE") {
            return Ok(Action::Visible { column, visible: false });
        }
        self.need("DEFAULT")?;
        let value = self.rest_from(self.at);
        self.at = self.tokens.len();
        Ok(Action::Default { column, value: Some(value), lenient })
    }

    /// What stands behind a column's name, up to its place.
    fn definition(&mut self, name: String) -> Result<Written> {
        let from = self.at;
        let mut end = self.tokens.len();
        let mut place = None;
        let last = |i: usize| end.checked_sub(i).and_then(|i| self.tokens.get(i));
        if end > from + 1 && last(1).is_some_and(|t| t.is("FIRST")) {
            place = Some(Place::First);
            end -= 1;
        } else if end > from + 2 && last(2).is_some_and(|t| t.is("AFTER")) {
            place = last(1).and_then(Token::name).map(Place::After);
            end -= 2;
        }
        let (Some(first), Some(last)) = (self.tokens.get(from), self.tokens.get(end.saturating_sub(1))) else {
            return Err(self.unread());
        };
        if end <= from {
            return Err(self.unread());
        }
        let text = self.text[first.at..last.end()].to_owned();
        self.at = self.tokens.len();
        Ok(Written { name, text, place })
    }

    /// Whether a key, index or constraint begins here, not a column that is called like a keyword.
    fn begins_part(&self) -> bool {
        let next = |words: &[&str]| words.iter().any(|w| self.tokens.get(self.at + 1).is_some_and(|t| t.is(w)));
        let Some(token) = self.peek().filter(|t| t.kind == Kind::Word) else { return false };
        let open = self.tokens.iter().skip(self.at + 1).take(6).any(|t| t.is("("));
        (token.is("PRIMARY") && next(&["KEY"]))
            || (token.is("FOREIGN") && next(&["KEY"]))
            || token.is("CONSTRAINT")
            || (token.is("CHECK") && next(&["("]))
            || (["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR"].iter().any(|w| token.is(w)) && open)
    }

    /// What an index is besides one.
    fn kind_of_index(&mut self) -> Option<PartKind> {
        let kinds = [
            ("UNIQUE", PartKind::Unique),
            ("FULLTEXT", PartKind::FullText),
            ("SPATIAL", PartKind::Spatial),
            ("VECTOR", PartKind::Vector),
        ];
        kinds.into_iter().find_map(|(word, kind)| self.take(word).then_some(kind))
    }

    fn part(&mut self) -> Result<(Part, bool)> {
        let mut name = String::new();
        let mut constraint = false;
        if self.take("CONSTRAINT") {
            constraint = true;
            if !["PRIMARY", "UNIQUE", "FOREIGN", "CHECK"].iter().any(|w| self.is(w)) {
                name = self.name()?;
            }
        }
        let kind = if self.take("PRIMARY") {
            PartKind::Primary
        } else if let Some(kind) = self.kind_of_index() {
            kind
        } else if self.take("FOREIGN") {
            PartKind::Foreign
        } else if self.is("CHECK") {
            PartKind::Check
        } else if !constraint && (self.is("INDEX") || self.is("KEY")) {
            PartKind::Index
        } else {
            return Err(self.unread());
        };
        if kind == PartKind::Check {
            self.need("CHECK")?;
            let text = self.rest_from(self.at);
            self.at = self.tokens.len();
            return Ok((Part { kind, name, text }, false));
        }
        self.take_any(&["KEY", "INDEX"]);
        let lenient = self.not_exists();
        if !self.is("(") && !self.is("USING") && !self.is("TYPE") {
            let own = self.name()?;
            // Of a foreign key, that is the index's; the constraint's beats the index's elsewhere, too.
            if name.is_empty() || kind != PartKind::Foreign {
                name = own;
            }
        }
        if kind == PartKind::Primary {
            name = "PRIMARY".into();
        }
        let text = self.rest_from(self.at);
        self.at = self.tokens.len();
        let text = if kind == PartKind::Foreign { self.foreign(&text)? } else { self.index(&text)? };
        Ok((Part { kind, name, text }, lenient))
    }

    /// An index's text as servers print it.
    fn index(&self, text: &str) -> Result<String> {
        let index = create::Index::parse(text).filter(|i| !i.parts.is_empty()).ok_or_else(|| Unread(text.into()))?;
        Ok(printed_index(&index))
    }

    fn foreign(&self, text: &str) -> Result<String> {
        let key = create::Foreign::parse(text).ok_or_else(|| Unread(text.into()))?;
        let names = |names: &[String]| names.iter().map(|n| sql::name(n)).collect::<Vec<_>>().join(",");
        let schema = key.schema.clone().unwrap_or_else(|| self.database.to_owned());
        let text = format!(
            "({}) REFERENCES {} ({}) {}",
            names(&key.columns),
            sql::qualified(&TableName::new(schema, key.table.clone())),
            names(&key.foreign_columns),
            key.actions
        );
        Ok(text.trim_end().to_owned())
    }

    fn create(&mut self) -> Result<Statement> {
        let replaces = self.take_all(&["OR", "REPLACE"]);
        if !self.take("TABLE") {
            if replaces {
                // MariaDB: CREATE OR REPLACE INDEX.
                return self.create_index(true);
            }
            return self.create_index(false);
        }
        let lenient = self.not_exists();
        let table = self.table()?;
        if self.take("LIKE") {
            return Ok(Statement::CreateLike { table, lenient, replaces, like: self.table()? });
        }
        if self.are(&["(", "LIKE"]) {
            self.at += 2;
            let like = self.table()?;
            self.need(")")?;
            return Ok(Statement::CreateLike { table, lenient, replaces, like });
        }
        if !self.is("(") {
            return Err(self.unread());
        }
        let end = lex::closing(self.tokens, self.at);
        let mut body = Body::default();
        for item in create::split(&self.tokens[self.at + 1..end - 1]) {
            let mut one = Reader { text: self.text, tokens: item, at: 0, database: self.database };
            if one.begins_part() {
                body.parts.push(one.part()?.0);
            } else if one.is("PERIOD") && one.tokens.get(1).is_some_and(|t| t.is("FOR")) {
                return Err(one.unread());
            } else {
                let name = one.column()?;
                body.columns.push(one.definition(name)?);
            }
            if !one.ended() {
                return Err(one.unread());
            }
        }
        self.at = end;
        let rest = &self.tokens[end..];
        if rest.iter().any(|t| t.is("SELECT")) {
            // Rows come with it, whether the log tells them apart or not.
            return Err(self.unread());
        }
        let partition = at_depth_zero(rest, |w| w[0].is("PARTITION") && w[1].is("BY")).unwrap_or(rest.len());
        let mut options = &rest[..partition];
        if let [.., start, transaction] = options
            && start.is("START")
            && transaction.is("TRANSACTION")
        {
            body.rows_follow = true;
            options = &options[..options.len() - 2];
        }
        body.options = create::options(self.text, &without_commas(options));
        if partition < rest.len() {
            body.partitioning = Some(self.rest_from(end + partition));
        }
        self.at = self.tokens.len();
        Ok(Statement::Create { table, lenient, replaces, body })
    }

    /// `CREATE [UNIQUE …] INDEX name ON table (…)`, which is an ALTER TABLE.
    fn create_index(&mut self, replaces: bool) -> Result<Statement> {
        self.take_any(&["ONLINE", "OFFLINE"]);
        let kind = self.kind_of_index().unwrap_or(PartKind::Index);
        self.need("INDEX")?;
        let lenient = self.not_exists();
        let name = self.name()?;
        let mut before = String::new();
        if self.take_any(&["USING", "TYPE"]) {
            before = format!("USING {} ", self.word()?.to_uppercase());
        }
        self.need("ON")?;
        let table = self.table()?;
        self.patience();
        // What follows the options says how to do it, not what.
        let rest = &self.tokens[self.at..];
        let how = rest.iter().position(|t| t.is("ALGORITHM") || t.is("LOCK") || t.is("WAIT") || t.is("NOWAIT"));
        let last = rest.get(how.unwrap_or(rest.len()).wrapping_sub(1)).ok_or_else(|| self.unread())?;
        let first = rest.first().ok_or_else(|| self.unread())?;
        let text = self.index(&format!("{before}{}", &self.text[first.at..last.end()]))?;
        self.at = self.tokens.len();
        let mut actions = Vec::new();
        if replaces {
            actions.push(Action::Drop { kind: Some(PartKind::Index), name: name.clone(), lenient: true });
        }
        actions.push(Action::Add { part: Part { kind, name, text }, lenient });
        Ok(Statement::Alter { table, lenient: false, actions })
    }

    fn drop(&mut self) -> Result<Statement> {
        self.take_any(&["ONLINE", "OFFLINE"]);
        if self.take("INDEX") {
            let lenient = self.exists();
            let name = self.name()?;
            self.need("ON")?;
            let table = self.table()?;
            self.at = self.tokens.len();
            let kind = if name.eq_ignore_ascii_case("PRIMARY") { PartKind::Primary } else { PartKind::Index };
            let actions = vec![Action::Drop { kind: Some(kind), name, lenient }];
            return Ok(Statement::Alter { table, lenient: false, actions });
        }
        if !self.take_any(&["TABLE", "TABLES"]) {
            return Err(self.unread());
        }
        let lenient = self.exists();
        let mut tables = vec![self.table()?];
        while self.take(",") {
            tables.push(self.table()?);
        }
        self.patience();
        self.take_any(&["RESTRICT", "CASCADE"]);
        Ok(Statement::Drop { tables, lenient })
    }

    fn rename(&mut self) -> Result<Statement> {
        if !self.take_any(&["TABLE", "TABLES"]) {
            return Err(self.unread());
        }
        let lenient = self.exists();
        let mut pairs = Vec::new();
        loop {
            let from = self.table()?;
            self.patience();
            self.need("TO")?;
            pairs.push((from, self.table()?));
            if !self.take(",") {
                return Ok(Statement::Rename { pairs, lenient });
            }
        }
    }
}

/// The first pair of tokens outside of parentheses that is so.
fn at_depth_zero(tokens: &[Token<'_>], is: impl Fn(&[Token<'_>]) -> bool) -> Option<usize> {
    let mut depth = 0u32;
    for (i, token) in tokens.iter().enumerate() {
        if token.is("(") {
            depth += 1;
        } else if token.is(")") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && tokens.len() > i + 1 && is(&tokens[i..]) {
            return Some(i);
        }
    }
    None
}

/// Options may stand with commas between them.
fn without_commas<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut depth = 0u32;
    let keep = tokens.iter().filter(|t| {
        depth = if t.is("(") { depth + 1 } else { depth };
        depth = if t.is(")") { depth.saturating_sub(1) } else { depth };
        depth > 0 || !t.is(",")
    });
    keep.copied().collect()
}

/// An index as servers print it.
pub fn printed_index(index: &create::Index) -> String {
    let parts = index.parts.iter().map(|p| match p {
        create::KeyPart::Column { name, prefix, descending } => {
            let prefix = prefix.map(|n| format!("({n})")).unwrap_or_default();
            format!("{}{prefix}{}", sql::name(name), if *descending { " DESC" } else { "" })
        }
        create::KeyPart::Expression { text } => text.clone(),
    });
    let text = format!("({}) {}", parts.collect::<Vec<_>>().join(","), index.options);
    text.trim_end().to_owned()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
