//! Statements in the log: what steers transactions, what changes tables, and what should have been rows.
//!
//! Guarantee: no statement is taken for harmless that is not known to be so. What cannot be told comes out as [`Statement::Unknown`] with all names in it.

use super::event::{Query, Xid};
use super::lex::{Token, tokens};
use drover_model::schema::TableName;

/// What a statement is to the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    XaStart(Xid),
    XaCommit(Xid),
    XaRollback(Xid),
    /// Emptied.
    Truncate(TableName),
    /// A schema change of these tables.
    Schema(SchemaChange),
    /// A view or a routine is made, anew or again.
    Object {
        kind: &'static str,
        name: TableName,
    },
    /// What new tables of a database take over: other defaults.
    Database {
        /// `None`: the session's.
        name: Option<String>,
        charset: Option<String>,
        collation: Option<String>,
    },
    /// Row changes in statement form; all names that stand in it.
    Rows {
        verb: String,
        names: Vec<TableName>,
    },
    /// Touches no table's columns or rows: accounts, views, routines, indexes, maintenance …
    Other {
        verb: String,
    },
    /// Not known; all names that stand in it.
    Unknown {
        verb: String,
        names: Vec<TableName>,
    },
    /// Nothing to do, and not worth counting.
    Nothing,
}

/// A statement that changes tables. This is what a schema-change item of the stream will be made of: the text as it was written, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// `ALTER TABLE`, `DROP TABLE` …
    pub verb: &'static str,
    /// The session's default database.
    pub database: String,
    pub text: String,
    pub tables: Vec<TableName>,
    /// A whole database goes.
    pub drops_database: Option<String>,
    /// The columns, the rows or the existence of the tables are concerned; else only indexes, options and the like.
    pub deep: bool,
}

/// Tells what a statement is. `text` is the statement in UTF-8.
pub fn classify(query: &Query<'_>, database: &str, text: &str) -> Statement {
    match query.text {
        b"BEGIN" => return Statement::Begin,
        b"COMMIT" => return Statement::Commit,
        _ => {}
    }
    let tokens = tokens(text, query.ansi_quotes, query.no_backslash);
    let mut words = Walk { tokens: &tokens, at: 0, database };
    let Some(first) = tokens.first() else { return Statement::Nothing };
    // A query in parentheses.
    let Token::Word(first) = first else { return unknown("(", &tokens, database) };
    let verb = first.to_ascii_uppercase();
    words.at = 1;
    let read = match verb.as_str() {
        "BEGIN" => Some(Statement::Begin),
        "COMMIT" => Some(Statement::Commit),
        "START" if words.take("TRANSACTION") => Some(Statement::Begin),
        "ROLLBACK" => Some(words.rollback()),
        "SAVEPOINT" => words.name_only().map(Statement::Savepoint),
        "RELEASE" => Some(Statement::Nothing),
        "XA" => words.xa(),
        "TRUNCATE" => {
            words.take("TABLE");
            words.table().map(Statement::Truncate)
        }
        "ALTER" => words.alter(text),
        "CREATE" => words.create(text),
        "DROP" => words.drop(text),
        "RENAME" => words.rename(text),
        "INSERT" | "REPLACE" | "UPDATE" | "DELETE" | "LOAD" | "WITH" | "SELECT" | "DO" | "CALL" => {
            Some(Statement::Rows { verb: verb.clone(), names: names(&tokens, database) })
        }
        "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "CHECKSUM" | "FLUSH" | "GRANT" | "REVOKE" | "SET" | "CACHE"
        | "INSTALL" | "UNINSTALL" | "RESET" | "PURGE" | "CHANGE" | "LOCK" | "UNLOCK" | "KILL" | "SHUTDOWN" => {
            Some(Statement::Other { verb: verb.clone() })
        }
        _ => None,
    };
    read.unwrap_or_else(|| unknown(&verb, &tokens, database))
}

fn unknown(verb: &str, tokens: &[Token<'_>], database: &str) -> Statement {
    Statement::Unknown { verb: verb.to_owned(), names: names(tokens, database) }
}

/// Everything in a statement that may be the name of a table.
fn names(tokens: &[Token<'_>], database: &str) -> Vec<TableName> {
    let mut out = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let Some(name) = token.name() else { continue };
        out.push(TableName::new(database, name));
        if let [dot, second, ..] = &tokens[i + 1..]
            && dot.is_mark('.')
            && let Some(second) = second.name()
        {
            out.push(TableName::new(name, second));
        }
    }
    out
}

/// Reads on from token to token.
struct Walk<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    database: &'a str,
}

impl<'a> Walk<'a> {
    fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.at)
    }
    /// Passes over a keyword if it is next.
    fn take(&mut self, word: &str) -> bool {
        let there = self.peek().is_some_and(|t| t.is(word));
        self.at += usize::from(there);
        there
    }
    fn take_any(&mut self, words: &[&str]) -> Option<&'a str> {
        let Some(Token::Word(next)) = self.peek() else { return None };
        let found = words.iter().any(|w| w.eq_ignore_ascii_case(next));
        self.at += usize::from(found);
        found.then_some(next)
    }
    fn take_mark(&mut self, mark: char) -> bool {
        let there = self.peek().is_some_and(|t| t.is_mark(mark));
        self.at += usize::from(there);
        there
    }
    fn name_only(&mut self) -> Option<String> {
        let name = self.peek()?.name()?.to_owned();
        self.at += 1;
        Some(name)
    }
    /// `table` or `database.table`.
    fn table(&mut self) -> Option<TableName> {
        // `.table` is an old way of writing.
        let leading = self.take_mark('.');
        let first = self.name_only()?;
        if !leading && self.take_mark('.') {
            return Some(TableName::new(first, self.name_only()?));
        }
        Some(TableName::new(self.database, first))
    }
    fn exists(&mut self) {
        if self.take("IF") {
            self.take("NOT");
            self.take("EXISTS");
        }
    }
    /// MariaDB: how long to wait for a lock.
    fn patience(&mut self) {
        if self.take("WAIT") {
            self.at += 1;
        } else {
            self.take("NOWAIT");
        }
    }

    fn change(&self, verb: &'static str, text: &str, tables: Vec<TableName>, deep: bool) -> Statement {
        let (database, text) = (self.database.to_owned(), text.to_owned());
        Statement::Schema(SchemaChange { verb, database, text, tables, drops_database: None, deep })
    }

    fn rollback(&mut self) -> Statement {
        self.take("WORK");
        if !self.take("TO") {
            return Statement::Rollback;
        }
        self.take("SAVEPOINT");
        self.name_only().map_or(Statement::Rollback, Statement::RollbackTo)
    }

    fn xa(&mut self) -> Option<Statement> {
        let verb = self.take_any(&["START", "BEGIN", "END", "COMMIT", "ROLLBACK", "PREPARE"])?.to_ascii_uppercase();
        let xid = self.xid()?;
        Some(match verb.as_str() {
            "START" | "BEGIN" => Statement::XaStart(xid),
            "COMMIT" => Statement::XaCommit(xid),
            "ROLLBACK" => Statement::XaRollback(xid),
            _ => Statement::Nothing,
        })
    }

    /// `X'6162',X'',1`; the server writes it so.
    fn xid(&mut self) -> Option<Xid> {
        let mut parts = [Vec::new(), Vec::new()];
        for (i, part) in parts.iter_mut().enumerate() {
            if i > 0 && !self.take_mark(',') {
                break;
            }
            let hex = self.take("X");
            let Some(Token::Text(text)) = self.peek() else { return None };
            self.at += 1;
            *part = if hex { from_hex(text)? } else { text.as_bytes().to_vec() };
        }
        let format = if self.take_mark(',') { self.name_only()?.parse().ok()? } else { 1 };
        let [gtrid, bqual] = parts;
        Some(Xid { format, gtrid, bqual })
    }

    fn create(&mut self, text: &str) -> Option<Statement> {
        let replaces = self.take("OR") && self.take("REPLACE");
        if self.take("TEMPORARY") {
            return Some(Statement::Nothing);
        }
        if self.take("TABLE") {
            self.exists();
            let table = self.table()?;
            // One that exists stays as it is, unless it is replaced.
            return Some(self.change("CREATE TABLE", text, vec![table], replaces));
        }
        if let Some(index) = self.index() {
            return index.map(|table| self.change("CREATE INDEX", text, vec![table], false));
        }
        if let Some(object) = self.object() {
            return Some(object);
        }
        Some(Statement::Other { verb: self.verb("CREATE") })
    }

    /// `[OR REPLACE] [ALGORITHM = …] [DEFINER = …] [SQL SECURITY …] VIEW name`, and likewise routines.
    fn object(&mut self) -> Option<Statement> {
        const AHEAD: usize = 16;
        let kinds = [("VIEW", "view"), ("FUNCTION", "function"), ("PROCEDURE", "procedure")];
        let found = |t: &Token<'_>| kinds.iter().find(|(word, _)| t.is(word)).map(|(_, kind)| *kind);
        let (at, kind) =
            self.tokens.iter().enumerate().skip(1).take(AHEAD).find_map(|(at, t)| Some((at, found(t)?)))?;
        let known = |t: &Token<'_>| {
            let words = [
                "OR",
                "REPLACE",
                "ALGORITHM",
                "DEFINER",
                "SQL",
                "SECURITY",
                "INVOKER",
                "UNDEFINED",
                "MERGE",
                "TEMPTABLE",
            ];
            !matches!(t, Token::Word(_)) || words.iter().any(|w| t.is(w))
        };
        let definer = self.tokens[1..at].iter().any(|t| t.is("DEFINER"));
        if !definer && !self.tokens[1..at].iter().all(known) {
            return None;
        }
        // A function of a library.
        if self.tokens.iter().any(|t| t.is("SONAME")) {
            return None;
        }
        self.at = at + 1;
        self.exists();
        self.table().map(|name| Statement::Object { kind, name })
    }

    /// `[UNIQUE …] INDEX name … ON table`: `None` if it is no index, `Some(None)` if it cannot be read.
    fn index(&mut self) -> Option<Option<TableName>> {
        let start = self.at;
        while self.take_any(&["ONLINE", "OFFLINE", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR"]).is_some() {}
        if !self.take("INDEX") {
            self.at = start;
            return None;
        }
        while let Some(token) = self.peek() {
            self.at += 1;
            if token.is("ON") {
                return Some(self.table());
            }
        }
        Some(None)
    }

    fn drop(&mut self, text: &str) -> Option<Statement> {
        if self.take("TEMPORARY") {
            return Some(Statement::Nothing);
        }
        if self.take_any(&["TABLE", "TABLES"]).is_some() {
            self.exists();
            let mut tables = vec![self.table()?];
            while self.take_mark(',') {
                tables.push(self.table()?);
            }
            return Some(self.change("DROP TABLE", text, tables, true));
        }
        if self.take_any(&["DATABASE", "SCHEMA"]).is_some() {
            self.exists();
            let gone = self.name_only()?;
            let Statement::Schema(change) = self.change("DROP DATABASE", text, Vec::new(), true) else { return None };
            return Some(Statement::Schema(SchemaChange { drops_database: Some(gone), ..change }));
        }
        if let Some(index) = self.index() {
            return index.map(|table| self.change("DROP INDEX", text, vec![table], false));
        }
        Some(Statement::Other { verb: self.verb("DROP") })
    }

    fn rename(&mut self, text: &str) -> Option<Statement> {
        if self.take_any(&["TABLE", "TABLES"]).is_none() {
            return Some(Statement::Other { verb: self.verb("RENAME") });
        }
        self.exists();
        let mut tables = Vec::new();
        loop {
            tables.push(self.table()?);
            self.patience();
            if !self.take("TO") {
                return None;
            }
            tables.push(self.table()?);
            if !self.take_mark(',') {
                return Some(self.change("RENAME TABLE", text, tables, true));
            }
        }
    }

    fn alter(&mut self, text: &str) -> Option<Statement> {
        let mut deep = false;
        while let Some(word) = self.take_any(&["ONLINE", "OFFLINE", "IGNORE"]) {
            // Rows that a new unique key has no room for are thrown away, and the log has them not.
            deep |= word.eq_ignore_ascii_case("IGNORE");
        }
        if self.take_any(&["DATABASE", "SCHEMA"]).is_some() {
            return Some(self.database_defaults());
        }
        if !self.take("TABLE") {
            return Some(match self.object() {
                Some(object @ Statement::Object { kind: "view", .. }) => object,
                _ => Statement::Other { verb: self.verb("ALTER") },
            });
        }
        self.exists();
        let mut tables = vec![self.table()?];
        self.patience();
        let (mut first, mut depth) = (self.at, 0usize);
        for i in self.at..=self.tokens.len() {
            match self.tokens.get(i) {
                Some(t) if t.is_mark('(') => depth += 1,
                Some(t) if t.is_mark(')') => depth = depth.saturating_sub(1),
                Some(t) if !t.is_mark(',') || depth > 0 => {}
                _ => {
                    let part = &self.tokens[first..i];
                    deep |= !is_shallow(part);
                    // EXCHANGE PARTITION … WITH TABLE other; RENAME [TO] other.
                    let other = part.windows(2).position(|w| w[0].is("WITH") && w[1].is("TABLE")).map(|at| at + 2);
                    let of_parts = |t: &Token<'_>| t.is("COLUMN") || t.is("INDEX") || t.is("KEY");
                    let renamed = match part {
                        [rename, next, ..] if rename.is("RENAME") && !of_parts(next) => {
                            Some(1 + usize::from(next.is("TO") || next.is("AS") || next.is_mark('=')))
                        }
                        _ => None,
                    };
                    if let Some(at) = other.or(renamed) {
                        let mut walk = Walk { tokens: part, at, database: self.database };
                        tables.extend(walk.table());
                    }
                    first = i + 1;
                }
            }
        }
        Some(self.change("ALTER TABLE", text, tables, deep))
    }

    /// `[name] [[DEFAULT] {CHARACTER SET | CHARSET | COLLATE} [=] value] …`
    fn database_defaults(&mut self) -> Statement {
        const OPTIONS: [&str; 8] =
            ["DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "ENCRYPTION", "READ", "COMMENT", "UPGRADE"];
        let unnamed = matches!(self.peek(), Some(Token::Word(w)) if OPTIONS.iter().any(|o| o.eq_ignore_ascii_case(w)));
        let name = if unnamed { None } else { self.name_only() };
        let (mut charset, mut collation) = (None, None);
        while self.peek().is_some() {
            let place = if self.take("CHARSET") || self.take("CHARACTER") && self.take("SET") {
                &mut charset
            } else if self.take("COLLATE") {
                &mut collation
            } else {
                self.at += 1;
                continue;
            };
            self.take_mark('=');
            *place = match self.peek() {
                Some(Token::Word(word) | Token::Text(word)) => Some((*word).to_owned()),
                Some(Token::Name(name)) => Some(name.clone()),
                _ => None,
            };
            self.at += 1;
        }
        Statement::Database { name, charset, collation }
    }

    /// The verb with the words that follow it, for people.
    fn verb(&self, first: &str) -> String {
        let words = self.tokens[1..].iter().take(3).map_while(|t| match t {
            Token::Word(w) if w.chars().all(|c| c.is_ascii_alphabetic()) => Some(w.to_ascii_uppercase()),
            _ => None,
        });
        let known =
            |w: &String| !matches!(w.as_str(), "DEFINER" | "SQL" | "IF" | "OR" | "REPLACE" | "ALGORITHM" | "AGGREGATE");
        words.filter(known).take(1).fold(first.to_owned(), |verb, word| format!("{verb} {word}"))
    }
}

/// Whether a part of an ALTER TABLE leaves columns, rows and the table's name alone.
fn is_shallow(part: &[Token<'_>]) -> bool {
    let word = |i: usize| match part.get(i) {
        Some(Token::Word(w)) => w.to_ascii_uppercase(),
        _ => String::new(),
    };
    let second = word(1);
    match word(0).as_str() {
        "" => part.is_empty(),
        "ADD" => matches!(
            second.as_str(),
            "INDEX"
                | "KEY"
                | "UNIQUE"
                | "PRIMARY"
                | "FULLTEXT"
                | "SPATIAL"
                | "VECTOR"
                | "CONSTRAINT"
                | "FOREIGN"
                | "CHECK"
                | "PARTITION"
        ),
        "DROP" => matches!(second.as_str(), "INDEX" | "KEY" | "FOREIGN" | "CHECK" | "CONSTRAINT"),
        // Defaults, visibility.
        "ALTER" => true,
        "RENAME" => matches!(second.as_str(), "INDEX" | "KEY"),
        "WITH" | "WITHOUT" => second == "VALIDATION",
        "DEFAULT" => matches!(second.as_str(), "CHARACTER" | "CHARSET" | "COLLATE"),
        "REMOVE" => second == "PARTITIONING",
        "ORDER"
        | "ENGINE"
        | "TYPE"
        | "COMMENT"
        | "AUTO_INCREMENT"
        | "ROW_FORMAT"
        | "KEY_BLOCK_SIZE"
        | "STATS_PERSISTENT"
        | "STATS_AUTO_RECALC"
        | "STATS_SAMPLE_PAGES"
        | "CHECKSUM"
        | "AVG_ROW_LENGTH"
        | "MAX_ROWS"
        | "MIN_ROWS"
        | "PACK_KEYS"
        | "DELAY_KEY_WRITE"
        | "INSERT_METHOD"
        | "TABLESPACE"
        | "COMPRESSION"
        | "ENCRYPTION"
        | "DATA"
        | "INDEX"
        | "CONNECTION"
        | "PASSWORD"
        | "CHARACTER"
        | "CHARSET"
        | "COLLATE"
        | "FORCE"
        | "ALGORITHM"
        | "LOCK"
        | "ENABLE"
        | "DISABLE"
        | "SECONDARY_ENGINE"
        | "SECONDARY_LOAD"
        | "SECONDARY_UNLOAD"
        | "AUTOEXTEND_SIZE"
        | "ENGINE_ATTRIBUTE"
        | "SECONDARY_ENGINE_ATTRIBUTE"
        | "TRANSACTIONAL"
        | "PAGE_CHECKSUM"
        | "TABLE_CHECKSUM"
        | "PAGE_COMPRESSED"
        | "PAGE_COMPRESSION_LEVEL"
        | "ENCRYPTED"
        | "ENCRYPTION_KEY_ID"
        | "COALESCE"
        | "REORGANIZE"
        | "REBUILD"
        | "OPTIMIZE"
        | "ANALYZE"
        | "CHECK"
        | "REPAIR"
        | "PARTITION" => true,
        _ => false,
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Statement {
        let query = Query {
            database: b"d",
            text: text.as_bytes(),
            ansi_quotes: false,
            no_backslash: false,
            mode: 0,
            zone: None,
            micros: None,
            collation: None,
            steps: false,
            explicit_timestamps: None,
            defaults: Default::default(),
        };
        classify(&query, "d", text)
    }

    fn change(text: &str) -> (String, bool) {
        match of(text) {
            Statement::Schema(c) => {
                let tables: Vec<String> = c.tables.iter().map(ToString::to_string).collect();
                (format!("{}: {}", c.verb, tables.join(" ")), c.deep)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn transactions() {
        assert_eq!(of("BEGIN"), Statement::Begin);
        assert_eq!(of("ROLLBACK"), Statement::Rollback);
        assert_eq!(of("SAVEPOINT `a b`"), Statement::Savepoint("a b".into()));
        assert_eq!(of("ROLLBACK TO `a b`"), Statement::RollbackTo("a b".into()));
        assert_eq!(of("ROLLBACK TO SAVEPOINT x"), Statement::RollbackTo("x".into()));
        let xid = Xid { format: 1, gtrid: b"ab".to_vec(), bqual: vec![] };
        assert_eq!(of("XA START X'6162',X'',1"), Statement::XaStart(xid.clone()));
        assert_eq!(xid.to_string(), "X'6162',X'',1");
        assert_eq!(of("XA COMMIT X'6162',X'',1"), Statement::XaCommit(xid));
        assert_eq!(of("XA END X'6162',X'',1"), Statement::Nothing);
        assert_eq!(of("# Dummy event replacing event type 160"), Statement::Nothing);
    }

    #[test]
    fn changes_of_columns_and_rows() {
        for text in [
            "alter table t add column c int",
            "ALTER TABLE t ADD (c int, e int)",
            "ALTER TABLE t ADD `index` int",
            "alter table t drop c",
            "alter table t drop primary key",
            "alter table t add index (a), modify c bigint",
            "alter table t rename column a to b",
            "alter table t convert to character set utf8mb4",
            "alter table t drop partition p0",
            "alter table t truncate partition p0",
            "alter ignore table t add unique (a)",
            "alter table t add system versioning",
            "ALTER TABLE IF EXISTS t NOWAIT DROP COLUMN x",
            "alter table t import tablespace",
        ] {
            assert_eq!(change(text), ("ALTER TABLE: d.t".into(), true), "{text}");
        }
        assert_eq!(change("alter table t rename to e.u"), ("ALTER TABLE: d.t e.u".into(), true));
        assert_eq!(
            change("alter table t exchange partition p with table u without validation"),
            ("ALTER TABLE: d.t d.u".into(), true)
        );
        assert_eq!(change("DROP TABLE `a`,`e`.`b` /* generated by server */"), ("DROP TABLE: d.a e.b".into(), true));
        assert_eq!(change("rename table a to b, x.c to x.`d``e`"), ("RENAME TABLE: d.a d.b x.c x.d`e".into(), true));
        assert_eq!(change("create or replace table t (a int)"), ("CREATE TABLE: d.t".into(), true));
        assert_eq!(of("TRUNCATE TABLE e.t"), Statement::Truncate(TableName::new("e", "t")));
        assert_eq!(of("truncate t"), Statement::Truncate(TableName::new("d", "t")));
        let Statement::Schema(gone) = of("drop database if exists `e`") else { panic!() };
        assert_eq!(gone.drops_database.as_deref(), Some("e"));
    }

    #[test]
    fn what_leaves_them_alone() {
        for text in [
            "alter table t add index i (a), add constraint c foreign key (a) references u (a)",
            "alter table t engine=InnoDB comment='drop column a'",
            "alter table t alter column a set default 5",
            "alter table t default charset = latin1, auto_increment = 7",
            "alter table t rename index a to b, drop key c",
            "alter table t partition by hash(a) partitions 4",
            "alter table t reorganize partition p into (partition p1 values less than (5), partition p2 values less than maxvalue)",
            "alter table t",
        ] {
            assert_eq!(change(text), ("ALTER TABLE: d.t".into(), false), "{text}");
        }
        assert_eq!(change("create unique index i using btree on e.t (a)"), ("CREATE INDEX: e.t".into(), false));
        assert_eq!(change("drop index `on` on t"), ("DROP INDEX: d.t".into(), false));
        assert_eq!(change("create table if not exists t like u"), ("CREATE TABLE: d.t".into(), false));
        assert_eq!(of("create temporary table t (a int)"), Statement::Nothing);
        assert_eq!(of("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS t"), Statement::Nothing);
        for (text, verb) in [
            ("create trigger x before insert on t for each row set @a = 1", "CREATE TRIGGER"),
            ("create user a", "CREATE USER"),
            ("grant all on t to a", "GRANT"),
            ("alter event e disable", "ALTER EVENT"),
            ("flush tables", "FLUSH"),
        ] {
            assert_eq!(of(text), Statement::Other { verb: verb.into() }, "{text}");
        }
    }

    #[test]
    fn views_and_routines() {
        for (text, kind, name) in [
            ("create definer=`a`@`b` view v as select 1", "view", TableName::new("d", "v")),
            (
                "create or replace algorithm = merge sql security invoker view e.v as select 1",
                "view",
                TableName::new("e", "v"),
            ),
            ("alter view v as select 1", "view", TableName::new("d", "v")),
            ("CREATE DEFINER=`r`@`%` FUNCTION `f`(n int) RETURNS int RETURN n", "function", TableName::new("d", "f")),
            ("create procedure if not exists p() begin end", "procedure", TableName::new("d", "p")),
        ] {
            assert_eq!(of(text), Statement::Object { kind, name }, "{text}");
        }
        assert_eq!(
            of("create function f returns string soname 'x'"),
            Statement::Other { verb: "CREATE FUNCTION".into() }
        );
    }

    #[test]
    fn names_in_what_is_not_rows() {
        let has = |text: &str, name: TableName| match of(text) {
            Statement::Rows { names, .. } | Statement::Unknown { names, .. } => names.contains(&name),
            other => panic!("{other:?}"),
        };
        assert!(has("insert into t values (1)", TableName::new("d", "t")));
        assert!(has("update `e`.`t`, u set a = 1", TableName::new("e", "t")));
        assert!(has("(select 1)", TableName::new("d", "select")));
        assert!(!has("insert into u values ('t')", TableName::new("d", "t")));
        assert!(has("frobnicate e . t", TableName::new("e", "t")));
        assert!(has("drop table", TableName::new("d", "table")));
    }

    proptest! {
        #[test]
        fn any_text_is_something(text in "(alter|drop|create|rename|xa|truncate|rollback)?[ a-z`'\"(),.*/!#-]{0,50}") {
            let _ = of(&text);
        }
    }
}
