//! What a migration's schema consists of, compiled purely: which objects belong to it, under which names, as which statements, and what has
//! to be left out and why.

use super::rewrite::{self, Renames};
use super::table::{Added, crosses};
use crate::catalog::lex;
use crate::flavor::Flavor;
use crate::sql;
use crate::typemap::{Known, collate};
use drover_model::TablePlan;
use drover_model::schema::{Catalog, Object, Table, TableName};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// One object to create. DDL commits by itself: whoever executes it looks first whether the object is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// `database`, `table`, `view`, `foreign key` …
    pub kind: String,
    /// Names at the destination.
    pub name: TableName,
    /// The table that it is a part of.
    pub on: Option<TableName>,
    pub sql: String,
    /// Settings that the object remembers: `sql_mode`, `collation_connection`.
    pub settings: Vec<(String, String)>,
    /// Whose rights it acts with, where that cannot be the caller's.
    pub definer: Option<(String, String)>,
}

/// Something that is left out, or an attribute that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub kind: String,
    pub name: String,
    pub reason: String,
}

impl LeftOut {
    /// Says so, of a schema change that is carried over.
    pub fn tell(&self) {
        let (kind, name, why) = (&self.kind, &self.name, &self.reason);
        tracing::warn!(kind, name, why, "a schema change is carried over without this");
    }
}

/// A table's columns at the destination. Keys are in lower case: names of columns are compared so on every server.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// New names, where they differ.
    pub renamed: HashMap<String, String>,
    pub dropped: BTreeSet<String>,
    all: HashMap<String, String>,
}

impl Columns {
    /// The name at the destination; `None`: it is left out.
    pub fn new_name(&self, name: &str) -> Option<String> {
        self.all.get(&name.to_lowercase()).cloned()
    }
}

/// The compiled schema of a migration.
pub struct Work<'a> {
    pub catalog: &'a Catalog,
    pub known: &'a Known,
    pub origin: Flavor,
    pub tables: Vec<(&'a TablePlan, &'a Table)>,
    objects: Vec<&'a Object>,
    pub renames: Renames,
    pub left_out: Vec<LeftOut>,
    /// Views that are made, for those upon them.
    views: BTreeSet<String>,
    taken: HashSet<(String, String, String)>,
    /// Columns of text name their character set even where it is the table's.
    pub explicit: bool,
}

impl<'a> Work<'a> {
    /// Compiles for a destination that knows `known`. `objects` are the selected ones. `None`: the catalogue is of another family.
    pub fn new(
        catalog: &'a Catalog,
        plans: &'a [TablePlan],
        objects: &'a [Object],
        known: &'a Known,
    ) -> Option<Work<'a>> {
        let origin = Flavor::of_origin(&catalog.origin)?;
        let tables: Vec<_> = plans.iter().filter_map(|p| catalog.table(&p.source).map(|t| (p, t))).collect();
        let mut renames = Renames::default();
        let mut targets: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for (plan, _) in &tables {
            if plan.source != plan.destination {
                renames.relations.insert(plan.source.clone(), plan.destination.clone());
            }
            *targets.entry(&plan.source.schema).or_default().entry(&plan.destination.schema).or_default() += 1;
        }
        for o in catalog.objects.iter().filter(|o| o.kind == "database") {
            // Views and routines go where most of their database's tables go.
            let to =
                targets.get(o.name.as_str()).and_then(|t| t.iter().max_by_key(|(_, n)| **n)).map(|(name, _)| *name);
            renames.databases.insert(o.name.clone(), to.unwrap_or(&o.name).to_owned());
        }
        let objects = objects.iter().filter(|o| o.kind != "database").collect();
        Some(Work {
            catalog,
            known,
            origin,
            tables,
            objects,
            renames,
            left_out: Vec::new(),
            views: BTreeSet::new(),
            taken: HashSet::new(),
            explicit: false,
        })
    }

    pub(super) fn columns(&self, plan: &TablePlan) -> Columns {
        self.catalog.table(&plan.source).map(|table| columns_of(plan, table)).unwrap_or_default()
    }

    pub(super) fn leave_out(&mut self, kind: &str, on: &TableName, name: &str, reason: &str) {
        let name = if name.is_empty() || name == on.name { on.to_string() } else { format!("{on}.{name}") };
        self.left_out.push(LeftOut { kind: kind.into(), name, reason: reason.into() });
    }

    /// An attribute that the destination does not get.
    pub(super) fn note(&mut self, plan: &TablePlan, on: &str, what: &str, why: &str) {
        let name = if on.is_empty() { plan.source.to_string() } else { format!("{}.{on}", plan.source) };
        self.left_out.push(LeftOut { kind: format!("attribute {what}"), name, reason: why.into() });
    }

    /// Takes a name that must be unique in its database; false if it is taken.
    pub(super) fn take_name(&mut self, kind: &str, schema: &str, name: &str) -> bool {
        // In MariaDB names of checks are a table's.
        if kind == "check" && self.known.version.is_mariadb() {
            return true;
        }
        self.taken.insert((kind.to_owned(), schema.to_lowercase(), name.to_lowercase()))
    }

    /// A relation of the source, as the catalogue writes it: servers differ in the case that they print.
    pub(super) fn relation(&self, schema: &str, name: &str) -> TableName {
        let exact = TableName::new(schema, name);
        if self.catalog.table(&exact).is_some() {
            return exact;
        }
        let same = |t: &&Table| t.name.schema.eq_ignore_ascii_case(schema) && t.name.name.eq_ignore_ascii_case(name);
        self.catalog.tables.iter().find(same).map_or(exact, |t| t.name.clone())
    }

    /// Databases at the destination that anything of this migration goes to.
    pub fn databases(&self) -> BTreeSet<String> {
        let tables = self.tables.iter().map(|(p, _)| p.destination.schema.clone());
        tables.chain(self.objects.iter().filter_map(|o| self.renames.databases.get(&o.schema).cloned())).collect()
    }

    pub(super) fn database(&self, name: &str) -> Statement {
        let source = self.renames.databases.iter().find(|(_, to)| *to == name).map(|(from, _)| from.as_str());
        let found = self.catalog.objects.iter().find(|o| o.kind == "database" && Some(o.name.as_str()) == source);
        let mut sql = format!("CREATE DATABASE IF NOT EXISTS {}", sql::name(name));
        let option = |name: &str| found.and_then(|o| o.options.get(name));
        if let (Some(charset), Some(collation)) = (option("charset"), option("collation"))
            && let Some(charset) = collate::charset(charset, self.known)
        {
            let collation = collate::collation(collation, &charset, self.known);
            sql.push_str(&format!(" CHARACTER SET {charset} COLLATE {}", collation.name()));
        }
        statement("database", TableName::new(name, name), None, sql)
    }

    /// Databases, sequences, tables with the key that rows are found by, routines, views.
    pub fn base(&mut self) -> Vec<Statement> {
        let mut out: Vec<Statement> = self.databases().iter().map(|name| self.database(name)).collect();
        let objects = self.objects.clone();
        for o in objects.iter().filter(|o| o.kind == "sequence") {
            if self.known.version.is_mariadb() {
                let name = self.renames.of(&named(o));
                let sql = format!("CREATE SEQUENCE {} {}", sql::qualified(&name), o.definition);
                out.push(statement("sequence", name, None, sql));
            } else {
                self.leave_out("sequence", &named(o), "", "MySQL has no sequences");
            }
        }
        for (plan, table) in self.tables.clone() {
            let sql = self.create_table(plan, table);
            out.push(statement("table", plan.destination.clone(), None, sql));
        }
        for o in objects {
            let made = match o.kind.as_str() {
                "procedure" | "function" => self.routine(o),
                "view" => self.view(o),
                "package" | "package body" => self.package(o),
                "unsupported" => Err(o.options.get("reason").cloned().unwrap_or_default()),
                _ => continue,
            };
            match made {
                Ok(statement) => out.push(statement),
                Err(why) => {
                    let kind = o.options.get("kind").filter(|_| o.kind == "unsupported").unwrap_or(&o.kind).clone();
                    self.leave_out(&kind, &named(o), "", &why);
                }
            }
        }
        out
    }

    /// What is made once a table's rows are in.
    pub fn table(&mut self, plan: &TablePlan, table: &Table) -> Vec<Added> {
        self.later_indexes(plan, table)
    }

    /// Foreign keys of all tables.
    pub fn last(&mut self) -> Vec<Statement> {
        let mut out = Vec::new();
        for (plan, table) in self.tables.clone() {
            for part in table.parts.iter().filter(|p| p.kind == "foreign key") {
                match self.foreign_key(plan, part) {
                    Ok((name, clause)) => {
                        let sql = format!("ALTER TABLE {} ADD {clause}", sql::qualified(&plan.destination));
                        let name = TableName::new(plan.destination.schema.clone(), name);
                        out.push(statement("foreign key", name, Some(plan.destination.clone()), sql));
                    }
                    Err(why) => self.leave_out("foreign key", &plan.source, &part.name, &why),
                }
            }
        }
        out
    }

    /// Triggers of all tables, in the order in which they fire.
    pub fn cutover(&mut self) -> Vec<Statement> {
        let mut out = Vec::new();
        for (plan, table) in self.tables.clone() {
            for part in &table.parts {
                let made = match (part.kind.as_str(), part.options.get("kind").map(String::as_str)) {
                    ("trigger", _) => self.trigger(plan, part),
                    ("unsupported", Some("trigger")) => Err(part.options.get("reason").cloned().unwrap_or_default()),
                    _ => continue,
                };
                match made {
                    Ok(statement) => out.push(statement),
                    Err(why) => self.leave_out("trigger", &plan.source, &part.name, &why),
                }
            }
        }
        out
    }

    fn view(&mut self, o: &Object) -> Result<Statement, String> {
        for need in &o.needs {
            let table = self.catalog.tables.iter().find(|t| t.name.to_string() == *need);
            if let Some(table) = table {
                let plan = self.tables.iter().find(|(p, _)| p.source == table.name).map(|(p, _)| *p);
                let plan = plan.ok_or_else(|| format!("it needs {need}, which is not selected"))?;
                self.untouched(plan, &o.definition)?;
            } else if !self.views.contains(need) && (self.is_view(need) || !self.known.version.is_mariadb()) {
                // (Else it is a sequence.)
                return Err(format!("it needs {need}, which is not selected or is left out"));
            }
        }
        let (algorithm, tail) = rewrite::view(&o.definition).ok_or("its definition is not understood")?;
        let mut known: BTreeSet<TableName> = self.catalog.tables.iter().map(|t| t.name.clone()).collect();
        known.extend(self.catalog.objects.iter().filter(|v| v.kind == "view" || v.kind == "sequence").map(named));
        let tail = rewrite::dialect(&self.renames.query(tail, &known)?, self.known);
        let name = self.renames.of(&named(o));
        let sql = format!("CREATE ALGORITHM={algorithm} SQL SECURITY INVOKER VIEW {} {tail}", sql::qualified(&name));
        self.views.insert(named(o).to_string());
        Ok(Statement { settings: self.settings(o), ..statement("view", name, None, sql) })
    }

    /// A default with MariaDB's sequences under their new names.
    ///
    /// # Errors
    /// It uses one that is not selected.
    pub(super) fn sequences(&self, text: &str) -> Result<String, String> {
        let all = self.catalog.objects.iter().filter(|o| o.kind == "sequence").map(named);
        let used: BTreeSet<TableName> = all.filter(|s| text.contains(&sql::qualified(s))).collect();
        let missing = used.iter().find(|s| !self.objects.iter().any(|o| o.kind == "sequence" && named(o) == **s));
        match missing {
            Some(sequence) => Err(format!("it uses sequence {sequence}, which is not selected")),
            None => self.renames.query(text, &used),
        }
    }

    fn is_view(&self, name: &str) -> bool {
        self.catalog.objects.iter().any(|o| o.kind == "view" && named(o).to_string() == name)
    }

    fn routine(&self, o: &Object) -> Result<Statement, String> {
        let mode = o.options.get("sql_mode").map(String::as_str).unwrap_or_default();
        if !self.known.version.is_mariadb() && mode.split(',').any(|m| m == "ORACLE") && self.origin == Flavor::MariaDb
        {
            return Err("it is written in Oracle's language, which MySQL does not speak".into());
        }
        let (head, tail) = rewrite::routine(&o.definition).ok_or("its definition is not understood")?;
        let head = rewrite::dialect(head, self.known);
        let name = self.renames.of(&named(o));
        let aggregate = o.kind == "function" && lex::words(&o.definition).iter().take(8).any(|t| t.is("AGGREGATE"));
        if aggregate && !self.known.version.is_mariadb() {
            return Err("MySQL has no aggregate functions of users".into());
        }
        let invoker = o.options.get("security").is_some_and(|s| s.eq_ignore_ascii_case("INVOKER"));
        let security = if invoker { "" } else { "\n    SQL SECURITY INVOKER" };
        let kind = format!("{}{}", if aggregate { "AGGREGATE " } else { "" }, o.kind.to_uppercase());
        let sql = format!("CREATE {kind} {}{head}{security}{tail}", sql::qualified(&name));
        Ok(Statement { settings: self.settings(o), ..statement(&o.kind, name, None, sql) })
    }

    /// MariaDB's packages: their text as it is, without the account.
    fn package(&self, o: &Object) -> Result<Statement, String> {
        if !self.known.version.is_mariadb() {
            return Err("MySQL has no packages".into());
        }
        if self.renames.of(&named(o)) != named(o) {
            return Err("its text names its database, which has another name at the destination".into());
        }
        let words = lex::words(&o.definition);
        let at = words.iter().position(|t| t.is("PACKAGE")).ok_or("its definition is not understood")?;
        let behind = if o.kind == "package body" { at + 2 } else { at + 1 };
        let first = words.get(behind + 1).ok_or("its definition is not understood")?;
        let kind = o.kind.to_uppercase();
        let sql =
            format!("CREATE {kind} {} SQL SECURITY INVOKER {}", sql::qualified(&named(o)), &o.definition[first.at..]);
        Ok(Statement { settings: self.settings(o), ..statement(&o.kind, named(o), None, sql) })
    }

    fn trigger(&self, plan: &TablePlan, o: &Object) -> Result<Statement, String> {
        self.untouched(plan, &o.definition)?;
        let body = rewrite::trigger(&o.definition).ok_or("its definition is not understood")?;
        let when = o.options.get("when").ok_or("its definition is not understood")?;
        let name = TableName::new(plan.destination.schema.clone(), o.name.clone());
        let sql = format!(
            "TRIGGER {} {when} ON {} FOR EACH ROW {body}",
            sql::qualified(&name),
            sql::qualified(&plan.destination)
        );
        Ok(Statement {
            settings: self.settings(o),
            definer: rewrite::definer(&o.definition),
            ..statement("trigger", name, Some(plan.destination.clone()), sql)
        })
    }

    /// A definition that names a column which has another name or is left out cannot be used.
    fn untouched(&self, plan: &TablePlan, definition: &str) -> Result<(), String> {
        let columns = self.columns(plan);
        if let Some(column) = rewrite::mentions(definition, &columns.dropped) {
            return Err(format!("it uses column {}.{column}, which is left out", plan.source));
        }
        let renamed: BTreeSet<String> = columns.renamed.keys().cloned().collect();
        match rewrite::mentions(definition, &renamed) {
            Some(column) => {
                Err(format!("it uses column {}.{column}, which has another name at the destination", plan.source))
            }
            None => Ok(()),
        }
    }

    /// What an object remembers of the session that made it, as far as the destination knows it.
    fn settings(&self, o: &Object) -> Vec<(String, String)> {
        let mut out = Vec::new();
        if let Some(mode) = o.options.get("sql_mode") {
            let kept: Vec<&str> = mode.split(',').filter(|m| mode_known(m, self.known)).collect();
            out.push(("sql_mode".to_owned(), kept.join(",")));
        }
        if let Some(collation) = o.options.get("collation_connection") {
            let set = collation.split('_').next().unwrap_or_default();
            if let Some(set) = collate::charset(set, self.known) {
                let name = collate::collation(collation, &set, self.known).name().to_owned();
                out.push(("collation_connection".to_owned(), name));
            }
        }
        out
    }

    /// Objects whose bodies name something that has another name at the destination: they are made, and may fail when they run (C9).
    pub fn doubtful(&self) -> Vec<LeftOut> {
        let mut old: BTreeMap<String, TableName> = BTreeMap::new();
        for (from, to) in &self.renames.relations {
            if from.name != to.name {
                old.insert(from.name.to_lowercase(), to.clone());
            }
        }
        let databases: BTreeSet<String> =
            self.renames.databases.iter().filter(|(a, b)| a != b).map(|(a, _)| a.to_lowercase()).collect();
        let names: BTreeSet<String> = old.keys().cloned().chain(databases).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let triggers = self.tables.iter().flat_map(|(_, t)| t.parts.iter().filter(|p| p.kind == "trigger"));
        let routines = self.objects.iter().copied().filter(|o| o.kind == "procedure" || o.kind == "function");
        let found = routines.chain(triggers).filter_map(|o| {
            let tail = match o.kind.as_str() {
                "trigger" => rewrite::trigger(&o.definition)?,
                _ => rewrite::routine(&o.definition)?.1,
            };
            let name = rewrite::mentions(tail, &names)?;
            let reason = format!("its body names {name}, which has another name at the destination");
            Some(LeftOut { kind: o.kind.clone(), name: named(o).to_string(), reason })
        });
        found.collect()
    }

    /// Whether source and destination are of different flavors.
    pub fn crosses(&self) -> bool {
        crosses(self.origin, self.known.version.flavor)
    }
}

pub(super) fn statement(kind: &str, name: TableName, on: Option<TableName>, sql: String) -> Statement {
    Statement { kind: kind.into(), name, on, sql, settings: Vec::new(), definer: None }
}

fn named(o: &Object) -> TableName {
    TableName::new(o.schema.clone(), o.name.clone())
}

fn columns_of(plan: &TablePlan, table: &Table) -> Columns {
    let mut out = Columns::default();
    for column in &table.columns {
        let key = column.name.to_lowercase();
        match plan.columns.iter().find(|c| c.source == column.name) {
            Some(moved) => {
                if moved.source != moved.destination {
                    out.renamed.insert(key.clone(), moved.destination.clone());
                }
                out.all.insert(key, moved.destination.clone());
            }
            // A generated one comes again by itself.
            None if column.generated.is_some() => {
                out.all.insert(key, column.name.clone());
            }
            None => {
                out.dropped.insert(key);
            }
        }
    }
    out
}

/// Modes that the destination has. (MySQL 8 gave up those that stood for other products.)
fn mode_known(mode: &str, known: &Known) -> bool {
    const BOTH: [&str; 15] = [
        "REAL_AS_FLOAT",
        "PIPES_AS_CONCAT",
        "ANSI_QUOTES",
        "IGNORE_SPACE",
        "ONLY_FULL_GROUP_BY",
        "NO_UNSIGNED_SUBTRACTION",
        "NO_DIR_IN_CREATE",
        "ANSI",
        "NO_AUTO_VALUE_ON_ZERO",
        "NO_BACKSLASH_ESCAPES",
        "STRICT_TRANS_TABLES",
        "STRICT_ALL_TABLES",
        "ALLOW_INVALID_DATES",
        "ERROR_FOR_DIVISION_BY_ZERO",
        "TRADITIONAL",
    ];
    const ALSO: [&str; 6] = [
        "HIGH_NOT_PRECEDENCE",
        "NO_ENGINE_SUBSTITUTION",
        "PAD_CHAR_TO_FULL_LENGTH",
        "NO_ZERO_IN_DATE",
        "NO_ZERO_DATE",
        "TIME_TRUNCATE_FRACTIONAL",
    ];
    const MARIADB: [&str; 13] = [
        "ORACLE",
        "TIME_ROUND_FRACTIONAL",
        "MSSQL",
        "DB2",
        "MAXDB",
        "MYSQL323",
        "MYSQL40",
        "POSTGRESQL",
        "NO_KEY_OPTIONS",
        "NO_TABLE_OPTIONS",
        "NO_FIELD_OPTIONS",
        "EMPTY_STRING_IS_NULL",
        "SIMULTANEOUS_ASSIGNMENT",
    ];
    let v = &known.version;
    let truncate = mode != "TIME_TRUNCATE_FRACTIONAL" || v.mysql(80_000);
    ((BOTH.contains(&mode) || ALSO.contains(&mode)) && truncate)
        || (MARIADB.contains(&mode) && v.is_mariadb())
        || (mode == "NO_AUTO_CREATE_USER" && (v.is_mariadb() || !v.mysql(80_000)))
}
