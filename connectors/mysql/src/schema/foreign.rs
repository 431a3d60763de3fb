//! The schema of another kind of database, compiled purely from what the catalogue says in no dialect: tables with columns, keys, indexes, foreign
//! keys, counters and plain defaults. Guarantee: what is in the source's own language is not guessed at; it is left out and named.

pub(super) mod change;

use super::table::Added;
use super::work::{LeftOut, Statement, statement};
use crate::encode::Encoder;
use crate::sql;
use crate::typemap::Known;
use crate::typemap::foreign::{KEY_BYTES, binary_collation, index_bytes};
use crate::types::{Kind, MyType};
use drover_model::plan::PlanColumn;
use drover_model::row::Cell;
use drover_model::schema::{Action, Catalog, Column, DataType, Object, PlainDefault, PlainIndex, Table, TableName};
use drover_model::{TablePlan, plan};
use std::collections::{BTreeSet, HashSet};

/// Characters of a long text that an index takes, at most.
const PREFIX: u32 = 191;

/// The compiled schema of a migration from another kind of database.
pub struct Foreign<'a> {
    catalog: &'a Catalog,
    known: &'a Known,
    pub tables: Vec<(&'a TablePlan, &'a Table)>,
    objects: &'a [Object],
    pub left_out: Vec<LeftOut>,
    taken: HashSet<(String, String)>,
}

impl<'a> Foreign<'a> {
    /// `objects` are the selected ones.
    pub fn new(catalog: &'a Catalog, plans: &'a [TablePlan], objects: &'a [Object], known: &'a Known) -> Foreign<'a> {
        let tables = plans.iter().filter_map(|p| catalog.table(&p.source).map(|t| (p, t))).collect();
        Foreign { catalog, known, tables, objects, left_out: Vec::new(), taken: HashSet::new() }
    }

    /// Databases at the destination that anything of this migration goes to.
    pub fn databases(&self) -> BTreeSet<String> {
        self.tables.iter().map(|(p, _)| p.destination.schema.clone()).collect()
    }

    fn leave_out(&mut self, kind: &str, on: &TableName, name: &str, reason: &str) {
        let name = if name.is_empty() { on.to_string() } else { format!("{on}.{name}") };
        self.left_out.push(LeftOut { kind: kind.into(), name, reason: reason.into() });
    }

    fn note(&mut self, plan: &TablePlan, on: &str, what: &str, why: &str) {
        let name = if on.is_empty() { plan.source.to_string() } else { format!("{}.{on}", plan.source) };
        self.left_out.push(LeftOut { kind: format!("attribute {what}"), name, reason: why.into() });
    }

    fn database(&self, name: &str) -> String {
        let charset = format!("CHARACTER SET utf8mb4 COLLATE {}", binary_collation("utf8mb4", self.known));
        format!("CREATE DATABASE IF NOT EXISTS {} {charset}", sql::name(name))
    }

    /// Databases and tables with the key that rows are found by.
    pub fn base(&mut self) -> Vec<Statement> {
        let database = |name: &String| statement("database", TableName::new(name, name), None, self.database(name));
        let mut out: Vec<Statement> = self.databases().iter().map(database).collect();
        for (plan, table) in self.tables.clone() {
            let sql = self.create_table(plan, table);
            out.push(statement("table", plan.destination.clone(), None, sql));
        }
        self.objects_left_out();
        out
    }

    /// What has no form of its own here.
    fn objects_left_out(&mut self) {
        let dialect = format!("it is written in the language of {}", self.catalog.origin);
        let counters: HashSet<String> = self.tables.iter().flat_map(|(_, t)| counters(t)).map(|(_, s)| s).collect();
        for o in self.objects {
            let name = format!("{}.{}", o.schema, o.name);
            let reason = match o.kind.as_str() {
                "sequence" if counters.contains(&name) => continue,
                "sequence" => "no counter of a selected table stands for it".to_owned(),
                "unsupported" => o.options.get("reason").cloned().unwrap_or_default(),
                "view" | "materialized view" | "function" | "procedure" | "aggregate" | "rule" | "operator"
                | "event" | "package" => dialect.clone(),
                // Databases, schemas and types come with the tables' columns.
                _ => continue,
            };
            let kind = o.options.get("kind").filter(|_| o.kind == "unsupported").unwrap_or(&o.kind).clone();
            self.left_out.push(LeftOut { kind, name, reason });
        }
        for (plan, table) in self.tables.clone() {
            if table.parts.iter().any(|p| p.kind == "partition") {
                self.note(plan, "", "partitioning", "its rows stand in one table here");
            }
            let plain = |p: &&Object| {
                table.plain_indexes.iter().any(|i| i.name == p.name)
                    || table.plain_foreign_keys.iter().any(|f| f.name == p.name)
            };
            let own = |p: &&Object| {
                matches!(p.kind.as_str(), "check" | "exclude" | "trigger" | "unique" | "index" | "foreign key")
            };
            for part in table.parts.iter().filter(own).filter(|p| !plain(p)) {
                let why = match part.kind.as_str() {
                    "index" | "unique" => {
                        "it is no index of plain columns: conditions, expressions and other methods are the source's own"
                    }
                    "foreign key" => "nothing here means the same",
                    _ => dialect.as_str(),
                };
                self.leave_out(&part.kind, &plan.source, &part.name, why);
            }
        }
    }

    fn create_table(&mut self, plan: &TablePlan, table: &Table) -> String {
        let counter = counter(plan, table);
        let mut lines = Vec::new();
        for column in &plan.columns {
            if let Some(source) = table.column(&column.source) {
                let definition = self.definition(plan, column, source, counter == Some(column.source.as_str()));
                lines.push(format!("{} {}", sql::name(&column.destination), definition.text()));
            }
        }
        let keys = self.base_keys(plan, table);
        let leads = |columns: &[String]| columns.first().map(String::as_str) == counter;
        if let Some(counter) = counter
            && !keys.iter().any(|(_, columns)| leads(columns))
            && let Some(column) = plan.columns.iter().find(|c| c.source == counter)
        {
            lines.push(format!("KEY ({})", sql::name(&column.destination)));
        }
        lines.extend(keys.into_iter().map(|(clause, _)| clause));
        let comment = table.options.get("comment").map(|c| format!(" COMMENT={}", sql::text(c))).unwrap_or_default();
        format!(
            "CREATE TABLE {} (\n  {}\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {}{comment}",
            sql::qualified(&plan.destination),
            lines.join(",\n  "),
            binary_collation("utf8mb4", self.known)
        )
    }

    /// What stands behind a column's name.
    fn definition(&mut self, plan: &TablePlan, column: &PlanColumn, source: &Column, counts: bool) -> Definition {
        let text = &column.destination_type;
        let my_type = MyType::parse(text);
        let kind = match my_type.as_ref().and_then(|t| t.charset.as_deref()) {
            Some(charset) => {
                let bare = &text[..text.rfind(" character set ").unwrap_or(text.len())];
                format!("{bare} CHARACTER SET {charset} COLLATE {}", binary_collation(charset, self.known))
            }
            None => text.clone(),
        };
        let mut default = None;
        if counts {
        } else if source.identity.is_some() {
            self.note(plan, &source.name, "identity", "a table has one counter here, of a type of whole numbers");
        } else if let Some(theirs) = &source.default {
            let made = match (&source.plain_default, &my_type) {
                (Some(plain), Some(t)) => self.default(column, plain, t),
                _ => Err("it is an expression of the source's own".to_owned()),
            };
            match made {
                Ok(made) => default = Some(made),
                Err(why) => self.note(plan, &source.name, &format!("DEFAULT {theirs}"), &why),
            }
        }
        let not_null = !source.nullable && column.misfit != plan::Misfit::Null;
        Definition { kind, not_null, counts, default, comment: source.comment.clone() }
    }

    /// A default as it is written here.
    ///
    /// # Errors
    /// Why there is none.
    fn default(&self, column: &PlanColumn, default: &PlainDefault, to: &MyType) -> Result<String, String> {
        let v = &self.known.version;
        let expressions = v.mysql(80_013) || v.mariadb(100_201);
        let no_expressions = || format!("{v} has no expressions as defaults");
        let value = match default {
            PlainDefault::Now => {
                let Kind::DateTime { digits } = to.kind else {
                    return Err("the moment at which a row is made is a default for dates with a time only".to_owned());
                };
                let digits = if digits > 0 { format!("({digits})") } else { "()".to_owned() };
                return match column.data_type {
                    // Instants are in UTC here.
                    DataType::Timestamp { zone: true, .. } if expressions => Ok(format!("(UTC_TIMESTAMP{digits})")),
                    DataType::Timestamp { zone: true, .. } => Err(no_expressions()),
                    _ => Ok(format!("CURRENT_TIMESTAMP{digits}")),
                };
            }
            PlainDefault::Value(value) => value,
        };
        if wide(to) && !expressions {
            return Err(no_expressions());
        }
        literal(column, value, to).map(|literal| as_default(literal, to))
    }

    /// The primary key or else the key that identifies rows, with its columns' names at the source.
    fn base_keys(&mut self, plan: &TablePlan, table: &Table) -> Vec<(String, Vec<String>)> {
        let primary = table.keys.iter().find(|k| k.primary);
        let named: Vec<String> =
            plan.key.iter().filter_map(|&k| plan.columns.get(usize::from(k))).map(|c| c.source.clone()).collect();
        let (clause, columns) = match primary {
            Some(k) if k.columns.iter().all(|c| plan.column_index(c).is_some()) => {
                ("PRIMARY KEY".to_owned(), k.columns.clone())
            }
            _ if named.is_empty() => return Vec::new(),
            _ => match table.keys.iter().find(|k| k.identifies && k.columns == named) {
                Some(k) => (format!("UNIQUE KEY {}", sql::name(&index_name(&k.name))), named),
                None => return Vec::new(),
            },
        };
        match whole(plan, &columns) {
            Ok(list) => vec![(format!("{clause} ({list})"), columns)],
            Err(why) => {
                self.leave_out("primary key", &plan.source, "", &why);
                Vec::new()
            }
        }
    }

    /// The indexes that are made when the rows are in.
    pub fn table(&mut self, plan: &TablePlan, table: &Table) -> Vec<Added> {
        let base: Vec<Vec<String>> = self.base_keys(plan, table).into_iter().map(|(_, columns)| columns).collect();
        let mut names: HashSet<String> = HashSet::new();
        let mut out = Vec::new();
        for index in &table.plain_indexes {
            let columns: Vec<String> = index.columns.iter().map(|c| c.name.clone()).collect();
            if index.unique && base.contains(&columns) {
                continue;
            }
            let made = if index.unique { whole(plan, &columns) } else { parts(plan, index) };
            let list = match made {
                Ok(list) => list,
                Err(why) => {
                    self.leave_out("index", &plan.source, &index.name, &why);
                    continue;
                }
            };
            let mut name = index_name(&index.name);
            while !names.insert(name.to_lowercase()) {
                name = format!("{}_", name.chars().take(63).collect::<String>());
            }
            let word = if index.unique { "UNIQUE KEY" } else { "KEY" };
            out.push(Added { clause: format!("{word} {} ({list})", sql::name(&name)), name, alone: false });
        }
        out
    }

    /// Foreign keys of all tables.
    pub fn last(&mut self) -> Vec<Statement> {
        let mut out = Vec::new();
        for (plan, table) in self.tables.clone() {
            for key in &table.plain_foreign_keys {
                let clause = match self.foreign_key(plan, key) {
                    Ok(clause) => clause,
                    Err(why) => {
                        self.leave_out("foreign key", &plan.source, &key.name, &why);
                        continue;
                    }
                };
                // Their names are a database's here.
                let mut name = key.name.clone();
                let schema = plan.destination.schema.to_lowercase();
                while !self.taken.insert((schema.clone(), name.to_lowercase())) {
                    name = format!("{}_{name}", plan.destination.name).chars().take(64).collect();
                    if self.taken.contains(&(schema.clone(), name.to_lowercase())) {
                        name = format!("{}_", name.chars().take(63).collect::<String>());
                    }
                }
                let on = sql::qualified(&plan.destination);
                let sql = format!("ALTER TABLE {on} ADD CONSTRAINT {} {clause}", sql::name(&name));
                let name = TableName::new(plan.destination.schema.clone(), name);
                out.push(statement("foreign key", name, Some(plan.destination.clone()), sql));
            }
        }
        out
    }

    fn foreign_key(&self, plan: &TablePlan, key: &drover_model::schema::PlainForeignKey) -> Result<String, String> {
        let parent = self.tables.iter().find(|(p, _)| p.source == key.parent).map(|(p, _)| *p);
        let parent = parent.ok_or_else(|| format!("it references {}, which is not selected", key.parent))?;
        let own = whole(plan, &key.columns)?;
        let theirs = whole(parent, &key.references)?;
        for (a, b) in key.columns.iter().zip(&key.references) {
            let type_of = |plan: &TablePlan, name: &String| {
                let column = plan.columns.iter().find(|c| c.source == *name);
                column.and_then(|c| MyType::parse(&c.destination_type))
            };
            let (mine, other) = (type_of(plan, a), type_of(parent, b));
            let texts = |t: &Option<MyType>| {
                t.as_ref().is_some_and(|t| t.is_text() || matches!(t.kind, Kind::VarBinary { .. }))
            };
            let enums = |t: &Option<MyType>| matches!(t.as_ref().map(|t| &t.kind), Some(Kind::Enum { .. }));
            if mine != other && !(texts(&mine) && texts(&other)) && !(enums(&mine) && enums(&other)) {
                return Err(format!("columns {a} and {b} are of different types, which no foreign key here may be"));
            }
        }
        let action = |action: Action| match action {
            Action::Restrict => Ok(""),
            Action::Cascade => Ok("CASCADE"),
            Action::SetNull => Ok("SET NULL"),
            Action::SetDefault => Err("no foreign key here sets defaults".to_owned()),
        };
        let mut actions = String::new();
        for (word, what) in [("DELETE", action(key.on_delete)?), ("UPDATE", action(key.on_update)?)] {
            if !what.is_empty() {
                actions.push_str(&format!(" ON {word} {what}"));
            }
        }
        Ok(format!("FOREIGN KEY ({own}) REFERENCES {} ({theirs}){actions}", sql::qualified(&parent.destination)))
    }
}

/// What stands behind a column's name, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Definition {
    kind: String,
    not_null: bool,
    /// It is the table's counter.
    counts: bool,
    default: Option<String>,
    comment: Option<String>,
}

impl Definition {
    fn text(&self) -> String {
        let mut out = self.kind.clone();
        out.push_str(if self.not_null { " NOT NULL" } else { "" });
        out.push_str(if self.counts { " AUTO_INCREMENT" } else { "" });
        out.extend(self.default.iter().map(|d| format!(" DEFAULT {d}")));
        out.extend(self.comment.iter().map(|c| format!(" COMMENT {}", sql::text(c))));
        out
    }
}

/// Types whose default is an expression, if they may have one.
fn wide(to: &MyType) -> bool {
    matches!(to.kind, Kind::Text { .. } | Kind::Blob { .. } | Kind::Json)
}

/// A canonical value as a literal for a column of this type; bytes come as hexadecimal digits.
///
/// # Errors
/// Why there is none.
fn literal(column: &PlanColumn, value: &str, to: &MyType) -> Result<String, String> {
    let mut literal = Vec::new();
    if matches!(column.data_type, DataType::Bytes { .. }) {
        if !value.len().is_multiple_of(2) || !value.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("it is no row of bytes".to_owned());
        }
        literal.extend_from_slice(format!("X'{value}'").as_bytes());
    } else {
        let encoder = Encoder::new(column, &plan::RowFormat::Canonical, to);
        let put = encoder.put_value(&mut literal, Cell::Value(value.as_bytes()));
        put.map_err(|e| e.message.clone())?;
    }
    String::from_utf8(literal).map_err(|_| "it is no text".to_owned())
}

/// A literal as it stands behind DEFAULT.
fn as_default(literal: String, to: &MyType) -> String {
    if wide(to) || literal.starts_with("CONVERT(") { format!("({literal})") } else { literal }
}

/// Which column of a table takes its values from which counter (`schema.name`), by the table's options `counter:<column>`.
fn counters(table: &Table) -> impl Iterator<Item = (&str, String)> {
    table.options.iter().filter_map(|(key, sequence)| Some((key.strip_prefix("counter:")?, sequence.clone())))
}

/// The one column that can count: the one that leads the primary key, if there are several.
fn counter<'t>(plan: &TablePlan, table: &'t Table) -> Option<&'t str> {
    let counts = |c: &&Column| {
        let planned = plan.columns.iter().find(|p| p.source == c.name);
        let whole = planned.and_then(|p| MyType::parse(&p.destination_type));
        (c.identity.is_some() || counters(table).any(|(name, _)| name == c.name))
            && whole.is_some_and(|t| matches!(t.kind, Kind::Int { .. }))
    };
    let leads = |c: &&&Column| table.keys.iter().any(|k| k.primary && k.columns.first() == Some(&c.name));
    let all: Vec<&Column> = table.columns.iter().filter(counts).collect();
    all.iter().find(leads).or(all.first()).map(|c| c.name.as_str())
}

/// Columns of a key, whole, under their names at the destination.
///
/// # Errors
/// Why they cannot stand in one.
fn whole(plan: &TablePlan, columns: &[String]) -> Result<String, String> {
    let mut list = Vec::new();
    let mut bytes = 0u32;
    for name in columns {
        let column = plan.columns.iter().find(|c| c.source == *name);
        let column = column.ok_or_else(|| format!("column {name} is left out"))?;
        let own = index_bytes(&column.destination_type);
        bytes = bytes.saturating_add(own.ok_or_else(|| format!("no key here has whole values like those of {name}"))?);
        list.push(sql::name(&column.destination));
    }
    if bytes > KEY_BYTES {
        return Err(format!("its values may take {bytes} bytes, and a key here {KEY_BYTES}"));
    }
    Ok(list.join(","))
}

/// Columns of an index, long ones by their first characters.
fn parts(plan: &TablePlan, index: &PlainIndex) -> Result<String, String> {
    let mut list = Vec::new();
    let mut room = KEY_BYTES;
    let count = index.columns.len() as u32;
    for (i, part) in index.columns.iter().enumerate() {
        let column = plan.columns.iter().find(|c| c.source == part.name);
        let column = column.ok_or_else(|| format!("column {} is left out", part.name))?;
        let share = room / (count - i as u32).max(1);
        let t = MyType::parse(&column.destination_type);
        let per = match t.as_ref().map(|t| &t.kind) {
            Some(Kind::Json | Kind::Geometry { .. }) | None => {
                return Err(format!("no index here has values like those of {}", part.name));
            }
            Some(Kind::Blob { .. } | Kind::Binary { .. } | Kind::VarBinary { .. }) => 1,
            _ => 4,
        };
        let whole = index_bytes(&column.destination_type).filter(|bytes| *bytes <= share && part.prefix.is_none());
        let name = sql::name(&column.destination);
        let order = if part.descending { " DESC" } else { "" };
        match whole {
            Some(bytes) => {
                room -= bytes;
                list.push(format!("{name}{order}"));
            }
            None => {
                let length = part.prefix.unwrap_or(PREFIX * 4 / per).min(share / per);
                room = room.saturating_sub(length * per);
                list.push(format!("{name}({length}){order}"));
            }
        }
    }
    Ok(list.join(","))
}

/// A name that an index may have.
fn index_name(name: &str) -> String {
    if name.eq_ignore_ascii_case("primary") { format!("{name}_key") } else { name.chars().take(64).collect() }
}

/// The source's sequences that stand behind counters of moved tables: pairs of the source's name and (database, table, next value, false).
pub fn map_counters(
    catalog: &Catalog,
    plans: &[TablePlan],
    values: &[super::SequenceValue],
) -> Vec<(String, super::SequenceValue)> {
    let mut out = Vec::new();
    for (schema, name, value, called) in values {
        let sequence = format!("{schema}.{name}");
        for plan in plans {
            let Some(table) = catalog.table(&plan.source) else { continue };
            let counter = counter(plan, table);
            if counters(table).any(|(column, s)| s == sequence && Some(column) == counter) {
                let next = if *called { value.saturating_add(1) } else { *value };
                let to = &plan.destination;
                out.push((sequence.clone(), (to.schema.clone(), to.name.clone(), next, false)));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typemap::foreign::tests::{all, catalog, column, known, table};
    use crate::typemap::map_table;
    use drover_model::schema::{IndexColumn, PlainForeignKey};

    #[test]
    fn tables_without_a_dialect() {
        let int = |bytes| DataType::Int { bytes, unsigned: false };
        let text = |max| DataType::Text { max, padded: false };
        let mut parent = table("parent", vec![column("id", int(4)), column("name", text(None))], &[&["id"], &["name"]]);
        parent.columns[0].nullable = false;
        parent.columns[0].default = Some("the next one".into());
        parent.options.insert("counter:id".into(), "s.parent_id_seq".into());
        let mut child = table(
            "child",
            vec![
                column("id", int(8)),
                column("parent", text(None)),
                column("by", int(8)),
                column("Odd`", text(Some(9))),
            ],
            &[&["id"]],
        );
        child.columns[3].default = Some("its own".into());
        child.columns[3].plain_default = Some(PlainDefault::Value("it's \\".into()));
        child.columns[1].default = Some("an expression".into());
        let index = |name: &str, columns: &[&str]| PlainIndex {
            name: name.into(),
            unique: false,
            columns: columns
                .iter()
                .map(|c| IndexColumn { name: (*c).into(), prefix: None, descending: *c == "by" })
                .collect(),
        };
        parent.plain_indexes = vec![PlainIndex { unique: true, ..index("parent_name_key", &["name"]) }];
        child.plain_indexes = vec![index("PRIMARY", &["by", "Odd`"])];
        let key = |name: &str, own: &str, theirs: &str| PlainForeignKey {
            name: name.into(),
            columns: vec![own.into()],
            parent: parent.name.clone(),
            references: vec![theirs.into()],
            on_delete: Action::Cascade,
            on_update: Action::Restrict,
        };
        child.plain_foreign_keys = vec![key("to_name", "parent", "name"), key("to_id", "by", "id")];
        let tables = [parent, child];
        let (catalog, known) = (catalog(&tables), known("9.7.0"));
        let plans: Vec<TablePlan> = tables
            .iter()
            .enumerate()
            .map(|(i, t)| TablePlan { id: i as u32, ..map_table(&catalog, t, &all(t), &known).plan })
            .collect();
        let mut work = Foreign::new(&catalog, &plans, &[], &known);
        let made: Vec<String> = work.base().into_iter().map(|s| s.sql).collect();
        let text = "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin";
        assert_eq!(
            made[1],
            format!(
                "CREATE TABLE `s`.`parent` (\n  `id` int NOT NULL AUTO_INCREMENT,\n  `name` varchar(768) {text},\n  PRIMARY KEY (`id`)\n) \
                 ENGINE=InnoDB DEFAULT {text}"
            )
        );
        assert!(
            made[2].contains("`Odd``` varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin DEFAULT 'it\\'s \\\\'"),
            "{}",
            made[2]
        );
        let indexes: Vec<String> = work.table(&plans[0], &tables[0]).into_iter().map(|a| a.clause).collect();
        assert_eq!(indexes, ["UNIQUE KEY `parent_name_key` (`name`)"]);
        let indexes: Vec<String> = work.table(&plans[1], &tables[1]).into_iter().map(|a| a.clause).collect();
        assert_eq!(indexes, ["KEY `PRIMARY_key` (`by` DESC,`Odd```)"]);
        let foreign: Vec<String> = work.last().into_iter().map(|s| s.sql).collect();
        assert_eq!(
            foreign,
            [
                "ALTER TABLE `s`.`child` ADD CONSTRAINT `to_name` FOREIGN KEY (`parent`) REFERENCES `s`.`parent` (`name`) ON DELETE CASCADE"
            ]
        );
        let out: Vec<&str> = work.left_out.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(out, ["s.child.parent", "s.child.to_id"], "a default and a key between int and bigint");
        let values =
            [("s".to_owned(), "parent_id_seq".to_owned(), 7, true), ("s".to_owned(), "other".to_owned(), 1, true)];
        let mapped = map_counters(&catalog, &plans, &values);
        assert_eq!(mapped, [("s.parent_id_seq".to_owned(), ("s".to_owned(), "parent".to_owned(), 8, false))]);
    }
}
