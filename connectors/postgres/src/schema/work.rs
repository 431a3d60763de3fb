//! What a migration's schema consists of, compiled purely: which objects belong to it, under which names, as which statements, and what has
//! to be left out and why.

use super::rewrite::{self, Renames};
use crate::catalog::{ORIGIN, key, list, names, order};
use crate::sql::{ident, literal, qualified};
use drover_model::TablePlan;
use drover_model::schema::{Catalog, Column, Identity, Object, Phase, Table, TableName};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// One object to create, in a transaction of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// `view`, `table`, `index` …
    pub kind: String,
    /// Schema and name at the destination, for finding out whether it exists.
    pub name: TableName,
    /// The relation that it is a part of.
    pub on: Option<TableName>,
    pub sql: String,
    /// What is to be done behind it, outside its transaction (VALIDATE).
    pub then: Option<String>,
}

/// Something that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub kind: String,
    pub name: TableName,
    pub reason: String,
}

/// The compiled schema of a migration.
pub struct Work<'a> {
    pub tables: Vec<(&'a TablePlan, &'a Table)>,
    pub objects: Vec<&'a Object>,
    pub renames: Renames,
    pub left_out: Vec<LeftOut>,
    /// New names of columns, of tables where any differs, and the columns that do not move, by table of the source.
    pub(super) renamed: HashMap<TableName, BTreeMap<String, String>>,
    pub(super) dropped: HashMap<TableName, BTreeSet<String>>,
    pub(super) same_kind: bool,
}

/// Tables by their keys in the catalogue.
type ByKey<'a> = HashMap<String, (&'a TablePlan, &'a Table)>;

/// Kinds that come along with whoever needs them.
const CARRIED: [&str; 8] =
    ["type", "domain", "sequence", "function", "procedure", "aggregate", "operator", "extension"];

impl<'a> Work<'a> {
    /// Compiles. `objects` are the selected ones; what selected tables and objects need comes along.
    pub fn new(catalog: &'a Catalog, plans: &'a [TablePlan], objects: &'a [Object]) -> Work<'a> {
        let mut work = Work::named(catalog, plans);
        if work.same_kind {
            work.choose(catalog, objects);
        } else {
            work.foreign_objects(catalog, objects);
        }
        work
    }

    /// What [`Work::keys`] needs for one table, without looking at everything else: there may be ten thousand of them.
    pub fn of_table(catalog: &'a Catalog, plans: &'a [TablePlan], id: u32) -> Option<Work<'a>> {
        let plain = plans.iter().all(|p| p.source == p.destination);
        let own = plans.iter().find(|p| p.id == id)?;
        let mut work = Work::named(catalog, if plain { std::slice::from_ref(own) } else { plans });
        work.tables.retain(|(p, _)| p.id == id);
        (!work.tables.is_empty()).then_some(work)
    }

    /// Tables, and everything's new names.
    fn named(catalog: &'a Catalog, plans: &'a [TablePlan]) -> Work<'a> {
        let tables: Vec<_> = plans.iter().filter_map(|p| catalog.table(&p.source).map(|t| (p, t))).collect();
        let mut work = Work {
            tables,
            objects: Vec::new(),
            renames: Renames::default(),
            left_out: Vec::new(),
            renamed: HashMap::new(),
            dropped: HashMap::new(),
            same_kind: catalog.origin == ORIGIN,
        };
        if !work.same_kind {
            return work;
        }
        for (plan, table) in &work.tables {
            let mut rename = |from: TableName, to: TableName| {
                if from != to {
                    work.renames.0.insert(from, to);
                }
            };
            rename(plan.source.clone(), plan.destination.clone());
            for part in table.parts.iter().filter(|p| p.kind == "partition" || p.kind == "identity") {
                if part.schema == plan.source.schema {
                    let to = TableName::new(plan.destination.schema.clone(), part.name.clone());
                    rename(TableName::new(part.schema.clone(), part.name.clone()), to);
                }
            }
            let moved: BTreeMap<String, String> =
                plan.columns.iter().map(|c| (c.source.clone(), c.destination.clone())).collect();
            let computed = |c: &&Column| c.generated.is_some();
            let gone = table.columns.iter().filter(|c| !moved.contains_key(&c.name) && !computed(c));
            let gone: BTreeSet<String> = gone.map(|c| c.name.clone()).collect();
            if !gone.is_empty() {
                work.dropped.insert(plan.source.clone(), gone);
            }
            if moved.iter().any(|(a, b)| a != b) {
                work.renamed.insert(plan.source.clone(), moved);
            }
        }
        let moving: HashMap<&TableName, &TablePlan> = work
            .tables
            .iter()
            .filter(|(p, _)| p.source.schema != p.destination.schema)
            .map(|(p, _)| (&p.source, *p))
            .collect();
        for o in catalog.objects.iter().filter(|o| o.kind == "sequence" && !moving.is_empty()) {
            // A sequence that a column owns must lie in its table's schema.
            if let Some(owner) = owner(o)
                && let Some(plan) = moving.get(&owner)
                && plan.source.schema == o.schema
            {
                let to = TableName::new(plan.destination.schema.clone(), o.name.clone());
                work.renames.0.insert(TableName::new(o.schema.clone(), o.name.clone()), to);
            }
        }
        work.whole_schemas(catalog);
        work
    }

    fn by_key(&self) -> ByKey<'a> {
        self.tables.iter().map(|(p, t)| (key(&p.source.schema, &p.source.name), (*p, *t))).collect()
    }

    /// Where all selected tables of a schema move to one other schema under their own names, views and sequences move along. Types and
    /// functions stay: plans and bodies name them.
    fn whole_schemas(&mut self, catalog: &Catalog) {
        let mut to: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for (plan, _) in &self.tables {
            let (from, d) = (plan.source.schema.as_str(), plan.destination.schema.as_str());
            let here = (plan.source.name == plan.destination.name).then_some(d);
            let known = to.entry(from).or_insert(here);
            if *known != here {
                *known = None;
            }
        }
        for o in catalog.objects.iter().filter(|o| matches!(o.kind.as_str(), "view" | "materialized view" | "sequence"))
        {
            if let Some(Some(d)) = to.get(o.schema.as_str()).filter(|d| d.is_some_and(|d| d != o.schema)) {
                let from = TableName::new(o.schema.clone(), o.name.clone());
                self.renames.0.entry(from).or_insert_with(|| TableName::new(*d, o.name.clone()));
            }
        }
    }

    /// The selected objects and what must come along, in the catalogue's order; what lacks something is left out.
    fn choose(&mut self, catalog: &'a Catalog, selected: &'a [Object]) {
        let identity =
            |o: &Object| (o.kind.clone(), o.schema.clone(), o.name.clone(), o.options.get("on_name").cloned());
        let mut chosen: HashSet<_> = selected.iter().map(identity).collect();
        let mut by_key: HashMap<String, Vec<&Object>> = HashMap::new();
        for o in &catalog.objects {
            by_key.entry(key(&o.schema, &o.name)).or_default().push(o);
        }
        let tables = self.by_key();
        let mut open: Vec<String> = self.tables.iter().flat_map(|(_, t)| list(&t.options, "needs")).collect();
        open.extend(selected.iter().flat_map(|o| o.needs.clone()));
        for o in catalog.objects.iter().filter(|o| o.kind == "sequence") {
            if owner(o).is_some_and(|t| tables.contains_key(&key(&t.schema, &t.name))) {
                open.push(key(&o.schema, &o.name));
            }
        }
        let mut seen = HashSet::new();
        while let Some(need) = open.pop() {
            if !seen.insert(need.clone()) {
                continue;
            }
            for o in by_key.get(&need).into_iter().flatten() {
                if CARRIED.contains(&o.kind.as_str()) {
                    chosen.insert(identity(o));
                    open.extend(o.needs.iter().cloned());
                }
            }
        }
        let mut present: HashSet<String> = tables.keys().cloned().collect();
        // In the catalogue's order: what an object needs has been decided before it.
        for o in catalog.objects.iter().filter(|o| chosen.contains(&identity(o))) {
            let name = TableName::new(o.schema.clone(), o.name.clone());
            let reason = if o.kind == "unsupported" {
                Some(o.options.get("reason").cloned().unwrap_or_default())
            } else if let Some(missing) = o.needs.iter().find(|n| !present.contains(*n) && relation_or_part(catalog, n))
            {
                Some(format!("it needs {missing}, which is not selected or is left out"))
            } else {
                self.column_trouble(&tables, o)
            };
            match reason {
                Some(reason) => {
                    let kind = o.options.get("kind").filter(|_| o.kind == "unsupported").unwrap_or(&o.kind).clone();
                    self.left_out.push(LeftOut { kind, name, reason });
                }
                None => {
                    present.insert(key(&o.schema, &o.name));
                    self.objects.push(o);
                }
            }
        }
    }

    /// Why an object cannot live with the new names of columns.
    fn column_trouble(&self, tables: &ByKey<'a>, o: &Object) -> Option<String> {
        let used: BTreeMap<String, Vec<String>> =
            o.options.get("columns_used").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        for (own, columns) in &used {
            let Some((plan, _)) = tables.get(own) else { continue };
            for column in columns {
                let moved = plan.columns.iter().find(|c| &c.source == column);
                let gone = self.dropped.get(&plan.source).is_some_and(|d| d.contains(column));
                if gone {
                    return Some(format!("it uses column {own}.{column}, which is left out"));
                }
                if moved.is_some_and(|c| c.destination != c.source) {
                    return Some(format!("it uses column {own}.{column}, which has another name at the destination"));
                }
            }
        }
        for own in o.needs.iter().filter(|_| o.kind == "rule") {
            let changed = |p: &TablePlan| self.renamed.contains_key(&p.source) || self.dropped.contains_key(&p.source);
            if tables.get(own).is_some_and(|(p, _)| changed(p)) {
                return Some(format!("columns of {own} are renamed or left out"));
            }
        }
        None
    }

    /// Name at the destination.
    pub fn target(&self, schema: &str, name: &str) -> TableName {
        self.renames.of(&TableName::new(schema, name))
    }

    /// All schemas that must exist.
    pub fn schemas(&self) -> BTreeSet<String> {
        let mut out: BTreeSet<String> = self.tables.iter().map(|(p, _)| p.destination.schema.clone()).collect();
        for (plan, table) in &self.tables {
            for part in table.parts.iter().filter(|p| p.kind == "partition") {
                out.insert(self.target(&part.schema, &part.name).schema);
            }
            let _ = plan;
        }
        out.extend(self.objects.iter().map(|o| self.target(&o.schema, &o.name).schema));
        out.retain(|s| !s.starts_with("pg_"));
        out
    }

    /// Types to sequences to tables to views, each in an order in which it can be made.
    pub fn base(&mut self) -> Vec<Statement> {
        let mut out = Vec::new();
        let mut keys = Vec::new();
        let mut needs = Vec::new();
        for o in self.objects.clone() {
            if o.phase == Phase::Base && o.kind != "schema" {
                keys.push(match o.kind.as_str() {
                    "rule" => format!("rule {}", keys.len()),
                    _ => key(&o.schema, &o.name),
                });
                needs.push(o.needs.clone());
                out.push(vec![self.object(o)]);
            }
        }
        for (plan, table) in self.tables.clone() {
            keys.push(key(&plan.source.schema, &plan.source.name));
            let mut need = list(&table.options, "needs");
            need.extend(names(&table.options, "inherits").iter().map(|t| key(&t.schema, &t.name)));
            needs.push(need);
            out.push(if self.same_kind { self.table(plan, table) } else { vec![self.foreign_table(plan, table)] });
        }
        let mut slots: Vec<_> = out.into_iter().map(Some).collect();
        let order = order::creation_order(&keys, &needs);
        let mut statements: Vec<Statement> = order.into_iter().filter_map(|i| slots[i].take()).flatten().collect();
        // Sequences are tied to their columns when both exist.
        let tables = self.by_key();
        for o in self.objects.iter().filter(|o| o.kind == "sequence") {
            let Some((table, column)) = owner(o).zip(o.options.get("owner_column")) else { continue };
            let Some((plan, _)) = tables.get(&key(&table.schema, &table.name)) else { continue };
            let Some(column) = plan.columns.iter().find(|c| &c.source == column) else { continue };
            let name = self.target(&o.schema, &o.name);
            let to = format!(
                "{}.{}",
                qualified(&plan.destination.schema, &plan.destination.name),
                ident(&column.destination)
            );
            let sql = format!("ALTER SEQUENCE {} OWNED BY {to}", qualified(&name.schema, &name.name));
            statements.push(Statement {
                kind: "owned by".into(),
                name,
                on: Some(plan.destination.clone()),
                sql,
                then: None,
            });
        }
        statements
    }

    /// An object that is no table.
    pub(super) fn object(&self, o: &Object) -> Statement {
        let name = self.target(&o.schema, &o.name);
        let on = o.options.get("on_name").map(|n| self.target(&o.schema, n));
        let mut sql = match o.kind.as_str() {
            "sequence" => format!(
                "CREATE {}SEQUENCE {} AS {} {}",
                if o.options.contains_key("unlogged") { "UNLOGGED " } else { "" },
                qualified(&name.schema, &name.name),
                o.options.get("type").map_or("bigint", String::as_str),
                o.definition
            ),
            "view" | "materialized view" | "rule" => self.renames.apply(&o.definition, true),
            _ => self.renames.apply(&o.definition, false),
        };
        if let Some(comment) = o.options.get("comment") {
            let what = match o.kind.as_str() {
                "rule" | "trigger" => {
                    let on = on.clone().unwrap_or_else(|| name.clone());
                    format!("{} {} ON {}", o.kind.to_uppercase(), ident(&o.name), qualified(&on.schema, &on.name))
                }
                "function" | "procedure" | "aggregate" => {
                    let (function, arguments) = o.name.split_once('(').unwrap_or((&o.name, ")"));
                    let arguments = if arguments == ")" && o.kind == "aggregate" { "*)" } else { arguments };
                    format!("{} {}({arguments}", o.kind.to_uppercase(), qualified(&o.schema, function))
                }
                "operator" => {
                    let (operator, arguments) = o.name.split_once('(').unwrap_or((&o.name, ")"));
                    format!("OPERATOR {}.{operator}({arguments}", ident(&o.schema))
                }
                kind => format!("{} {}", kind.to_uppercase(), qualified(&name.schema, &name.name)),
            };
            sql.push_str(&format!(";\nCOMMENT ON {what} IS {}", literal(comment)));
        }
        if let Some(on) = &on {
            sql.push_str(&enabled(&o.kind, &o.name, on, o.options.get("enabled")));
        }
        // Types of arguments have new names too.
        let name = match o.kind.as_str() {
            "function" | "procedure" | "aggregate" => TableName::new(name.schema, self.renames.apply(&o.name, false)),
            _ => name,
        };
        Statement { kind: o.kind.clone(), name, on, sql, then: None }
    }

    pub(super) fn leave_out(&mut self, kind: &str, table: &TableName, name: &str, reason: impl Into<String>) {
        let name = TableName::new(table.schema.clone(), format!("{}.{name}", table.name));
        let out = LeftOut { kind: kind.into(), name, reason: reason.into() };
        if !self.left_out.contains(&out) {
            self.left_out.push(out);
        }
    }

    /// An expression about one table under the destination's names.
    pub(super) fn expression(&self, table: &TableName, text: &str) -> Result<String, String> {
        if let Some(gone) = self.dropped.get(table).and_then(|d| rewrite::mentions(text, d)) {
            return Err(format!("it uses column {gone}, which is left out"));
        }
        let text = match self.renamed.get(table) {
            Some(renamed) => rewrite::columns(text, renamed)?,
            None => text.to_owned(),
        };
        Ok(self.renames.apply(&text, false))
    }

    /// Type and collation of a column, as they stand behind its name.
    pub(super) fn column_type(&self, plan: &TablePlan, column: &Column) -> String {
        let moved = plan.columns.iter().find(|c| c.source == column.name);
        let kind = moved.map_or(column.origin_type.as_str(), |c| c.destination_type.as_str());
        let collation = column.collation.as_ref().map(|c| format!(" COLLATE {c}")).unwrap_or_default();
        format!("{}{collation}", self.renames.apply(kind, false))
    }

    /// What stands behind a column's type: where its values come from, and whether it must have one. `None`: it is left out.
    pub(super) fn column_rest(&mut self, plan: &TablePlan, table: &Table, column: &Column) -> Option<String> {
        let mut line = String::new();
        if let Some(identity) = column.identity {
            let word = if identity == Identity::Always { "ALWAYS" } else { "BY DEFAULT" };
            line.push_str(&format!(" GENERATED {word} AS IDENTITY"));
            let owner = |p: &&Object| p.kind == "identity" && p.options.get("owner_column") == Some(&column.name);
            if let Some(sequence) = table.parts.iter().find(owner) {
                let at = self.target(&sequence.schema, &sequence.name);
                line.push_str(&format!(" (SEQUENCE NAME {} {})", qualified(&at.schema, &at.name), sequence.definition));
            }
        }
        if let Some(generated) = &column.generated {
            let is_it = |p: &&Object| p.kind == "column" && p.name == column.name;
            let part = table.parts.iter().find(is_it);
            let place = if part.is_some_and(|p| p.options.contains_key("virtual")) { "VIRTUAL" } else { "STORED" };
            match self.expression(&plan.source, generated) {
                Ok(expression) => line.push_str(&format!(" GENERATED ALWAYS AS ({expression}) {place}")),
                Err(reason) => {
                    self.leave_out("generated column", &plan.source, &column.name, reason);
                    return None;
                }
            }
        } else if let Some(default) = &column.default {
            line.push_str(&format!(" DEFAULT {}", self.renames.apply(default, false)));
        }
        if !column.nullable {
            line.push_str(" NOT NULL");
        }
        Some(line)
    }

    /// A table without keys and indexes, then its partitions.
    fn table(&mut self, plan: &TablePlan, table: &Table) -> Vec<Statement> {
        let target = qualified(&plan.destination.schema, &plan.destination.name);
        let mut lines = Vec::new();
        let mut after = String::new();
        let selected_parents: Vec<TableName> = names(&table.options, "inherits")
            .into_iter()
            .filter(|p| self.tables.iter().any(|(plan, _)| &plan.source == p))
            .collect();
        for lost in names(&table.options, "inherits").iter().filter(|p| !selected_parents.contains(p)) {
            self.leave_out(
                "inheritance",
                &plan.source,
                &lost.to_string(),
                "its parent is not selected: the table stands alone",
            );
        }
        let inherited =
            if selected_parents.is_empty() { Vec::new() } else { list(&table.options, "inherited_columns") };
        for column in &table.columns {
            let moved = plan.columns.iter().find(|c| c.source == column.name);
            if moved.is_none() && column.generated.is_none() {
                continue;
            }
            let name = moved.map_or(column.name.as_str(), |c| c.destination.as_str());
            if let Some(comment) = &column.comment {
                after.push_str(&format!(";\nCOMMENT ON COLUMN {target}.{} IS {}", ident(name), literal(comment)));
            }
            let part = table.parts.iter().find(|p| p.kind == "column" && p.name == column.name);
            if let Some(part) = part {
                for (option, word) in
                    [("storage", "SET STORAGE"), ("compression", "SET COMPRESSION"), ("statistics", "SET STATISTICS")]
                {
                    if let Some(value) = part.options.get(option) {
                        after.push_str(&format!(";\nALTER TABLE {target} ALTER COLUMN {} {word} {value}", ident(name)));
                    }
                }
            }
            if inherited.contains(&column.name) {
                continue;
            }
            let Some(rest) = self.column_rest(plan, table, column) else { continue };
            let line = format!("{} {}{rest}", ident(name), self.column_type(plan, column));
            lines.push(line);
        }
        let checks: Vec<&Object> = table.parts.iter().filter(|p| p.kind == "check").collect();
        for check in checks {
            if check.options.contains_key("inherited") && !selected_parents.is_empty()
                || !on_itself(check, &plan.source)
            {
                continue;
            }
            match self.expression(&plan.source, &check.definition) {
                Ok(definition) => {
                    let line = format!("CONSTRAINT {} {definition}", ident(&check.name));
                    match line.strip_suffix(" NOT VALID") {
                        // Not valid means: for new rows only. It can be said afterwards only.
                        Some(_) => after.push_str(&format!(";\nALTER TABLE {target} ADD {line}")),
                        None => lines.push(line),
                    }
                    if let Some(comment) = check.options.get("comment") {
                        after.push_str(&format!(
                            ";\nCOMMENT ON CONSTRAINT {} ON {target} IS {}",
                            ident(&check.name),
                            literal(comment)
                        ));
                    }
                }
                Err(reason) => self.leave_out("check", &plan.source, &check.name, reason),
            }
        }
        let unlogged = if table.options.contains_key("unlogged") { "UNLOGGED " } else { "" };
        let mut sql = format!("CREATE {unlogged}TABLE {target} (\n  {}\n)", lines.join(",\n  "));
        if !selected_parents.is_empty() {
            let parents =
                selected_parents.iter().map(|p| self.target(&p.schema, &p.name)).map(|p| qualified(&p.schema, &p.name));
            sql.push_str(&format!(" INHERITS ({})", parents.collect::<Vec<_>>().join(", ")));
        }
        let mut partitioned = false;
        if let Some(by) = table.options.get("partition_by") {
            match self.expression(&plan.source, by) {
                Ok(by) => {
                    sql.push_str(&format!(" PARTITION BY {by}"));
                    partitioned = true;
                }
                Err(reason) => self.leave_out("partitioning", &plan.source, by, reason),
            }
        }
        let with = list(&table.options, "reloptions");
        if !with.is_empty() && !partitioned {
            sql.push_str(&format!(" WITH ({})", with.join(", ")));
        }
        if let Some(comment) = table.options.get("comment") {
            after.push_str(&format!(";\nCOMMENT ON TABLE {target} IS {}", literal(comment)));
        }
        sql.push_str(&after);
        let statement =
            |kind: &str, name: TableName, sql| Statement { kind: kind.into(), name, on: None, sql, then: None };
        let mut out = vec![statement("table", plan.destination.clone(), sql)];
        if partitioned {
            out.extend(self.partitions(plan, table));
        }
        out
    }

    /// The partitions of a table, parents first.
    pub(super) fn partitions(&mut self, plan: &TablePlan, table: &Table) -> Vec<Statement> {
        let mut out = Vec::new();
        for part in table.parts.iter().filter(|p| p.kind == "partition") {
            let option = |name: &str| part.options.get(name).map_or("", String::as_str);
            let name = self.target(&part.schema, &part.name);
            let parent = self.target(option("parent_schema"), option("parent_name"));
            let mut sql = format!(
                "CREATE {}TABLE {} PARTITION OF {} {}",
                if part.options.contains_key("unlogged") { "UNLOGGED " } else { "" },
                qualified(&name.schema, &name.name),
                qualified(&parent.schema, &parent.name),
                part.definition
            );
            if let Some(by) = part.options.get("partition_by") {
                match self.expression(&plan.source, by) {
                    Ok(by) => sql.push_str(&format!(" PARTITION BY {by}")),
                    Err(reason) => {
                        self.leave_out("partitioning", &plan.source, &part.name, reason);
                        continue;
                    }
                }
            }
            let with = list(&part.options, "reloptions");
            if !with.is_empty() {
                sql.push_str(&format!(" WITH ({})", with.join(", ")));
            }
            if let Some(comment) = part.options.get("comment") {
                sql.push_str(&format!(
                    ";\nCOMMENT ON TABLE {} IS {}",
                    qualified(&name.schema, &name.name),
                    literal(comment)
                ));
            }
            out.push(Statement { kind: "partition".into(), name, on: None, sql, then: None });
        }
        out
    }
}

/// The statement that gives a trigger or rule its state, where it is not the usual one.
pub(super) fn enabled(kind: &str, name: &str, on: &TableName, state: Option<&String>) -> String {
    let word = match state.map(String::as_str) {
        Some("D") => "DISABLE",
        Some("R") => "ENABLE REPLICA",
        Some("A") => "ENABLE ALWAYS",
        _ => return String::new(),
    };
    format!(";\nALTER TABLE {} {word} {} {}", qualified(&on.schema, &on.name), kind.to_uppercase(), ident(name))
}

/// The table whose column owns a sequence.
fn owner(o: &Object) -> Option<TableName> {
    Some(TableName::new(o.options.get("owner_schema")?.clone(), o.options.get("owner_name")?.clone()))
}

pub(super) fn on_itself(part: &Object, table: &TableName) -> bool {
    part.options.get("on_schema") == Some(&table.schema) && part.options.get("on_name") == Some(&table.name)
}

/// Whether a needed name is one that this catalogue has at all.
fn relation_or_part(catalog: &Catalog, name: &str) -> bool {
    catalog.tables.iter().any(|t| key(&t.name.schema, &t.name.name) == name)
        || catalog.objects.iter().any(|o| key(&o.schema, &o.name) == name)
}
