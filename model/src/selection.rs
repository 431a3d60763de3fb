//! Which tables a migration takes, and what they are called at the destination.
//!
//! Selected is the union of the includes less the union of the excludes. Where several blocks match a table, each setting
//! (rename, where, columns, operations) is taken from the block that ranks first among those that state it: a name beats a
//! pattern, a later block an earlier one. Guarantee: a name that an operator wrote either acts or is reported; a column
//! that a named table does not have is an error, a pattern that matches nothing is told by [`Selection::unmatched`], and two
//! tables that would meet in one are told by [`collisions`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::{Floats, Misfit, Operations, PlanColumn, TablePlan};
use crate::schema::TableName;

/// One `[[objects]]` block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRule {
    /// Patterns of selected tables, `schema.table` with `*` and `?`.
    pub include: Vec<String>,
    /// Patterns of tables that are left out, whichever block includes them.
    pub exclude: Vec<String>,
    /// `schema.table` for one named table, `schema.*` for a whole schema.
    pub rename: Option<String>,
    /// Condition in the source's dialect (key `where`).
    pub filter: Option<String>,
    pub columns: Option<ColumnRules>,
    /// None: all that the pair has.
    pub operations: Option<Operations>,
}

/// What becomes of columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRules {
    /// Only these; none: all.
    pub include: Option<Vec<String>>,
    pub drop: Vec<String>,
    /// Name at the source → name at the destination.
    pub rename: BTreeMap<String, String>,
    /// Name at the source → what becomes of values that do not fit at the destination, one of [`Misfit::NAMES`].
    #[serde(default)]
    pub on_misfit: BTreeMap<String, String>,
}

/// A fault of a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {remedy}")]
pub struct RuleError {
    /// Index of the block.
    pub rule: usize,
    /// Key within it, such as `include` or `columns.rename`.
    pub key: &'static str,
    /// Index of the element within the key's array.
    pub item: Option<usize>,
    pub message: String,
    pub remedy: String,
}

/// A block's columns do not fit the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}: {message}; {remedy}")]
pub struct ColumnError {
    /// The table, as the source names it.
    pub table: String,
    pub message: String,
    pub remedy: String,
}

/// A table of the source, as [`Selection::unmatched`] looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub schema: &'a str,
    pub table: &'a str,
    pub columns: &'a [&'a str],
}

/// What becomes of a selected table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChoice {
    /// The table at the source.
    pub source: TableName,
    /// Schema at the destination, before any policy of capitalization.
    pub schema: String,
    /// Name at the destination, before any policy of capitalization.
    pub table: String,
    /// The columns that move, in the source's order.
    pub columns: Vec<ColumnChoice>,
    /// Only rows that satisfy it move; in the source's dialect.
    pub filter: Option<String>,
    pub operations: Operations,
    /// None: as both sides do best.
    #[serde(default)]
    pub floats: Option<Floats>,
}

impl TableChoice {
    /// What a plan was made of.
    pub fn of(plan: &TablePlan) -> TableChoice {
        let column = |c: &PlanColumn| ColumnChoice {
            source: c.source.clone(),
            destination: c.destination.clone(),
            misfit: c.misfit,
        };
        TableChoice {
            source: plan.source.clone(),
            schema: plan.destination.schema.clone(),
            table: plan.destination.name.clone(),
            columns: plan.columns.iter().map(column).collect(),
            filter: plan.filter.clone(),
            operations: plan.operations,
            floats: Some(plan.floats),
        }
    }

    /// Of a table whose columns changed and whose structure does not follow: only columns that move already, as they do. `renamed`: old and new
    /// names at the source.
    #[must_use]
    pub fn kept(mut self, before: &TablePlan, renamed: &[(String, String)]) -> TableChoice {
        let keep = |choice: ColumnChoice| {
            let old = renamed.iter().find(|(_, new)| *new == choice.source).map_or(&choice.source, |(old, _)| old);
            let moves = before.columns.iter().find(|c| c.source == *old)?;
            Some(ColumnChoice { destination: moves.destination.clone(), misfit: moves.misfit, ..choice })
        };
        self.columns = self.columns.into_iter().filter_map(keep).collect();
        self
    }
}

/// A column that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnChoice {
    pub source: String,
    pub destination: String,
    #[serde(default)]
    pub misfit: Misfit,
}

impl ColumnChoice {
    /// A column under its own name.
    pub fn same(name: &str) -> Self {
        ColumnChoice { source: name.to_owned(), destination: name.to_owned(), misfit: Misfit::default() }
    }
}

/// Several tables of the source that would become one at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    pub destination: TableName,
    pub sources: Vec<TableName>,
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Name(String),
    Glob(Vec<char>),
}

impl Part {
    fn matches(&self, name: &str) -> bool {
        match self {
            Part::Name(wanted) => wanted == name,
            Part::Glob(pattern) => glob(pattern, name),
        }
    }

    /// Whether every name matches.
    fn is_all(&self) -> bool {
        matches!(self, Part::Glob(pattern) if pattern.iter().all(|c| *c == '*'))
    }
}

/// Matches in time |pattern| · |name| at most: only the last `*` is ever tried again.
fn glob(pattern: &[char], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// `schema.table`, each part a name or a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    schema: Part,
    table: Part,
    text: String,
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, (String, String)> {
        let parts = split(text)?;
        let count = parts.len();
        match <[Part; 2]>::try_from(parts) {
            Ok([schema, table]) => Ok(Pattern { schema, table, text: text.to_owned() }),
            Err(parts) if count == 1 => {
                let all = if parts[0].is_all() { "*.*".to_owned() } else { format!("{text}.*") };
                Err((format!("\"{text}\" is no schema.table"), format!("write {all} for all of it")))
            }
            Err(_) => Err((
                format!("\"{text}\" has {count} parts instead of two"),
                "write schema.table, and a part with a dot in it in double quotes".to_owned(),
            )),
        }
    }

    fn matches(&self, schema: &str, table: &str) -> bool {
        self.schema.matches(schema) && self.table.matches(table)
    }

    fn is_name(&self) -> bool {
        matches!((&self.schema, &self.table), (Part::Name(_), Part::Name(_)))
    }
}

/// Splits at the dots outside of double quotes.
fn split(text: &str) -> Result<Vec<Part>, (String, String)> {
    let bad = |what: &str, remedy: &str| Err((format!("\"{text}\": {what}"), remedy.to_owned()));
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut tail = quoted;
            loop {
                let Some((before, after)) = tail.split_once('"') else {
                    return bad("a double quote is not closed", "write a quote inside of a name twice");
                };
                name.push_str(before);
                match after.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        tail = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            if name.is_empty() {
                return bad("a part is empty", "write schema.table");
            }
            parts.push(Part::Name(name));
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let part = &rest[..end];
            rest = &rest[end..];
            if part.is_empty() {
                return bad("a part is empty", "write schema.table");
            }
            if part.contains('"') || part.trim() != part {
                return bad("a quote or space stands at a part's edge", "put the whole part in double quotes");
            }
            parts.push(if part.contains(['*', '?']) {
                Part::Glob(part.chars().collect())
            } else {
                Part::Name(part.to_owned())
            });
        }
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(parts),
            None => return bad("something follows a closing quote", "put the whole part in double quotes"),
        }
    }
}

#[derive(Clone, Debug)]
enum Rename {
    Table { schema: String, table: String },
    Schema(String),
}

#[derive(Clone, Debug)]
struct Rule {
    include: Vec<Pattern>,
    rename: Option<Rename>,
    filter: Option<String>,
    columns: Option<ColumnRules>,
    operations: Option<Operations>,
}

/// All blocks, ready to decide about tables.
#[derive(Clone, Debug)]
pub struct Selection {
    rules: Vec<Rule>,
    exclude: Vec<Pattern>,
    floats: Option<Floats>,
}

impl Selection {
    /// Compiles the blocks of a migration. No block at all selects everything.
    ///
    /// # Errors
    /// Every fault of every block.
    pub fn compile(blocks: &[ObjectRule]) -> Result<Selection, Vec<RuleError>> {
        Self::compile_within(blocks, None)
    }

    /// The same, for a migration that says how floating point numbers are read.
    #[must_use]
    pub fn reading(self, floats: Option<Floats>) -> Selection {
        Selection { floats, ..self }
    }

    /// The same, where no block at all selects one schema only (see `Catalog::scope`).
    ///
    /// # Errors
    /// Every fault of every block.
    pub fn compile_within(blocks: &[ObjectRule], scope: Option<&str>) -> Result<Selection, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut selection = Selection { rules: Vec::new(), exclude: Vec::new(), floats: None };
        for (rule, block) in blocks.iter().enumerate() {
            let mut check = Check { rule, errors: &mut errors };
            let include = check.patterns("include", &block.include);
            let exclude = check.patterns("exclude", &block.exclude);
            let settings = block.rename.is_some()
                || block.filter.is_some()
                || block.columns.is_some()
                || block.operations.is_some();
            if block.include.is_empty() && (block.exclude.is_empty() || settings) {
                check.fault("include", None, "the block includes nothing", "add include = \"schema.table\"");
            }
            if block.filter.as_ref().is_some_and(|f| f.trim().is_empty()) {
                check.fault("where", None, "the condition is empty", "write one, or leave the key out");
            }
            if block.operations.is_some_and(|o| o == NO_OPERATIONS) {
                check.fault("operations", None, "no operation is selected", "name one, or exclude the table");
            }
            if let Some(columns) = &block.columns {
                check.columns(columns);
            }
            let rename = block.rename.as_ref().and_then(|name| check.rename(name, block, &include));
            selection.exclude.extend(exclude);
            selection.rules.push(Rule {
                include,
                rename,
                filter: block.filter.clone(),
                columns: block.columns.clone(),
                operations: block.operations,
            });
        }
        if !blocks.is_empty() && errors.is_empty() && selection.rules.iter().all(|r| r.include.is_empty()) {
            let mut check = Check { rule: 0, errors: &mut errors };
            check.fault("include", None, "no block includes anything", "add include = \"*.*\"");
        }
        if blocks.is_empty() {
            let all = Part::Glob(vec!['*']);
            let schema = scope.map_or(all.clone(), |name| Part::Name(name.to_owned()));
            let text = format!("{}.*", scope.unwrap_or("*"));
            selection.rules.push(Rule {
                include: vec![Pattern { schema, table: all, text }],
                rename: None,
                filter: None,
                columns: None,
                operations: None,
            });
        }
        if errors.is_empty() { Ok(selection) } else { Err(errors) }
    }

    /// What becomes of a table, given its columns in the source's order; None if it is not selected.
    ///
    /// # Errors
    /// A block that names the table states a column that it does not have, two columns would get one name, or no column
    /// is left. A block that matches by pattern may state columns that only some of its tables have.
    pub fn decide(&self, schema: &str, table: &str, columns: &[&str]) -> Result<Option<TableChoice>, Vec<ColumnError>> {
        self.choose(schema, table, columns, true)
    }

    /// The same for a table that has changed since: columns that a block states may be gone.
    ///
    /// # Errors
    /// Two columns would get one name, or no column is left.
    pub fn decide_again(
        &self,
        schema: &str,
        table: &str,
        columns: &[&str],
    ) -> Result<Option<TableChoice>, Vec<ColumnError>> {
        self.choose(schema, table, columns, false)
    }

    fn choose(
        &self,
        schema: &str,
        table: &str,
        columns: &[&str],
        strict: bool,
    ) -> Result<Option<TableChoice>, Vec<ColumnError>> {
        let ranked = self.ranked(schema, table);
        if ranked.is_empty() || self.excludes(schema, table) {
            return Ok(None);
        }
        let mut name = (schema, table);
        match ranked.iter().find_map(|(_, rule)| rule.rename.as_ref()) {
            Some(Rename::Table { schema, table }) => name = (schema, table),
            Some(Rename::Schema(schema)) => name.0 = schema,
            None => {}
        }
        let moved = match ranked.iter().find_map(|(named, rule)| Some((*named, rule.columns.as_ref()?))) {
            Some((named, rules)) => choose_columns(&format!("{schema}.{table}"), rules, columns, named && strict)?,
            None => columns.iter().map(|c| ColumnChoice::same(c)).collect(),
        };
        Ok(Some(TableChoice {
            source: TableName::new(schema, table),
            schema: name.0.to_owned(),
            table: name.1.to_owned(),
            columns: moved,
            filter: ranked.iter().find_map(|(_, rule)| rule.filter.clone()),
            operations: ranked.iter().find_map(|(_, rule)| rule.operations).unwrap_or(Operations::ALL),
            floats: self.floats,
        }))
    }

    /// Whether a block gives this very table its name at the destination, rather than its schema or none.
    pub fn gives_name(&self, schema: &str, table: &str) -> bool {
        let first = self.ranked(schema, table).into_iter().find_map(|(_, rule)| rule.rename.as_ref());
        matches!(first, Some(Rename::Table { .. }))
    }

    /// Whether a schema is selected as a whole, so that its views, functions and other objects move, too.
    pub fn matches_whole_schema(&self, schema: &str) -> bool {
        self.includes().any(|p| p.table.is_all() && p.schema.matches(schema))
            && !self.exclude.iter().any(|p| p.table.is_all() && p.schema.matches(schema))
    }

    /// Whether an object other than a table moves: its schema does as a whole, and no exclude matches its name.
    pub fn selects_object(&self, schema: &str, name: &str) -> bool {
        self.matches_whole_schema(schema) && !self.excludes(schema, name)
    }

    /// What a schema's objects other than tables go to: the last renaming of the whole schema, else the same name.
    pub fn destination_schema<'a>(&'a self, schema: &'a str) -> &'a str {
        let renamed = self.rules.iter().rev().find_map(|rule| match &rule.rename {
            Some(Rename::Schema(to)) if rule.include.iter().any(|p| p.schema.matches(schema)) => Some(to.as_str()),
            _ => None,
        });
        renamed.unwrap_or(schema)
    }

    /// What an operator wrote that acts on nothing, one line each: includes and excludes without a table, includes all of
    /// whose tables are excluded, and columns that no table of a pattern has. `all` are the tables of the source.
    pub fn unmatched(&self, all: &[Candidate<'_>]) -> Vec<String> {
        let mut report = Vec::new();
        for rule in &self.rules {
            for pattern in &rule.include {
                let mut found = all.iter().filter(|t| pattern.matches(t.schema, t.table)).peekable();
                if found.peek().is_none() {
                    report.push(format!("include \"{}\" matches no table", pattern.text));
                } else if found.all(|t| self.excludes(t.schema, t.table)) {
                    report.push(format!("include \"{}\" matches only tables that are excluded", pattern.text));
                }
            }
            let Some(columns) = &rule.columns else { continue };
            let mine: Vec<_> =
                all.iter().filter(|t| rule.include.iter().any(|p| p.matches(t.schema, t.table))).collect();
            for column in columns.stated() {
                if !mine.is_empty() && !mine.iter().any(|t| t.columns.contains(&column)) {
                    let texts: Vec<&str> = rule.include.iter().map(|p| p.text.as_str()).collect();
                    report.push(format!("no table of include \"{}\" has a column \"{column}\"", texts.join(", ")));
                }
            }
        }
        for pattern in &self.exclude {
            if !all.iter().any(|t| pattern.matches(t.schema, t.table)) {
                report.push(format!("exclude \"{}\" matches no table", pattern.text));
            }
        }
        report
    }

    fn includes(&self) -> impl Iterator<Item = &Pattern> {
        self.rules.iter().flat_map(|rule| &rule.include)
    }

    fn excludes(&self, schema: &str, name: &str) -> bool {
        self.exclude.iter().any(|p| p.matches(schema, name))
    }

    /// The rules that match, the one that wins first; true: by name.
    fn ranked(&self, schema: &str, table: &str) -> Vec<(bool, &Rule)> {
        let mut ranked: Vec<(bool, &Rule)> = self
            .rules
            .iter()
            .rev()
            .filter_map(|rule| {
                let mut matching = rule.include.iter().filter(|p| p.matches(schema, table)).peekable();
                matching.peek()?;
                Some((matching.any(Pattern::is_name), rule))
            })
            .collect();
        // Stable: among equals the later block, which the reversal put first, stays first.
        ranked.sort_by_key(|(named, _)| !named);
        ranked
    }
}

const NO_OPERATIONS: Operations =
    Operations { insert: false, update: false, delete: false, truncate: false, ddl: false };

/// Tables that would share a name at the destination. Choices may have been through a policy of capitalization before.
pub fn collisions(choices: &[TableChoice]) -> Vec<Collision> {
    let mut by_name: BTreeMap<(&str, &str), Vec<TableName>> = BTreeMap::new();
    for choice in choices {
        by_name.entry((&choice.schema, &choice.table)).or_default().push(choice.source.clone());
    }
    by_name
        .into_iter()
        .filter(|(_, sources)| sources.len() > 1)
        .map(|((schema, table), sources)| Collision { destination: TableName::new(schema, table), sources })
        .collect()
}

impl ColumnRules {
    /// Every column of the source that the rules name.
    fn stated(&self) -> impl Iterator<Item = &str> {
        self.include
            .iter()
            .flatten()
            .chain(&self.drop)
            .chain(self.rename.keys())
            .chain(self.on_misfit.keys())
            .map(String::as_str)
    }
}

/// Applies a block's column rules to a table's columns.
fn choose_columns(
    table: &str,
    rules: &ColumnRules,
    columns: &[&str],
    named: bool,
) -> Result<Vec<ColumnChoice>, Vec<ColumnError>> {
    let mut errors = Vec::new();
    let mut fault = |message: String, remedy: String| {
        errors.push(ColumnError { table: table.to_owned(), message, remedy });
    };
    if named {
        for column in rules.stated().filter(|c| !columns.contains(c)).collect::<BTreeSet<_>>() {
            fault(format!("there is no column \"{column}\""), format!("its columns are {}", columns.join(", ")));
        }
    }
    let moved: Vec<ColumnChoice> = columns
        .iter()
        .filter(|c| rules.include.as_ref().is_none_or(|only| only.iter().any(|o| o == *c)))
        .filter(|c| !rules.drop.iter().any(|d| d == *c))
        .map(|c| ColumnChoice {
            source: (*c).to_owned(),
            destination: rules.rename.get(*c).cloned().unwrap_or_else(|| (*c).to_owned()),
            misfit: rules.on_misfit.get(*c).and_then(|word| Misfit::parse(word)).unwrap_or_default(),
        })
        .collect();
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for column in &moved {
        if let Some(other) = taken.insert(&column.destination, &column.source) {
            fault(
                format!("columns \"{other}\" and \"{}\" would both be \"{}\"", column.source, column.destination),
                "rename or drop one of them".to_owned(),
            );
        }
    }
    if moved.is_empty() && !columns.is_empty() {
        fault("no column is left".to_owned(), "keep one, or exclude the table".to_owned());
    }
    if errors.is_empty() { Ok(moved) } else { Err(errors) }
}

/// Collects the faults of one block.
struct Check<'e> {
    rule: usize,
    errors: &'e mut Vec<RuleError>,
}

impl Check<'_> {
    fn fault(&mut self, key: &'static str, item: Option<usize>, message: impl fmt::Display, remedy: impl fmt::Display) {
        let (message, remedy) = (message.to_string(), remedy.to_string());
        self.errors.push(RuleError { rule: self.rule, key, item, message, remedy });
    }

    fn patterns(&mut self, key: &'static str, texts: &[String]) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for (item, text) in texts.iter().enumerate() {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err((message, remedy)) => self.fault(key, Some(item), message, remedy),
            }
        }
        patterns
    }

    fn columns(&mut self, columns: &ColumnRules) {
        if columns.stated().chain(columns.rename.values().map(String::as_str)).any(str::is_empty) {
            self.fault("columns", None, "a column's name is empty", "write its name");
        }
        if columns.include.as_ref().is_some_and(Vec::is_empty) {
            self.fault("columns.include", None, "no column is included", "name one, or leave the key out");
        }
        for column in &columns.drop {
            if columns.rename.contains_key(column) || columns.include.iter().flatten().any(|c| c == column) {
                let message = format!("column \"{column}\" is dropped and also renamed or included");
                self.fault("columns.drop", None, message, "decide for one");
            }
        }
        for (column, word) in columns.on_misfit.iter().filter(|(_, word)| Misfit::parse(word).is_none()) {
            let message =
                format!("column \"{column}\": \"{word}\" is nothing that becomes of a value that does not fit");
            self.fault("columns.on_misfit", None, message, format!("write one of {}", Misfit::NAMES.join(", ")));
        }
        let mut targets = BTreeSet::new();
        for target in columns.rename.values() {
            if !targets.insert(target) {
                let message = format!("two columns are renamed to \"{target}\"");
                self.fault("columns.rename", None, message, "give each a name of its own");
            }
        }
    }

    fn rename(&mut self, name: &str, block: &ObjectRule, include: &[Pattern]) -> Option<Rename> {
        // Faulty or missing includes have been reported already.
        if include.len() != block.include.len() || include.is_empty() {
            return None;
        }
        let to = match Pattern::parse(name) {
            Ok(to) => to,
            Err((message, _)) => {
                self.fault("rename", None, message, "write the new schema.table");
                return None;
            }
        };
        match (include, to.schema, to.table) {
            ([from], Part::Name(schema), Part::Name(table)) if from.is_name() => Some(Rename::Table { schema, table }),
            ([from], Part::Name(schema), table)
                if table.is_all() && from.table.is_all() && matches!(from.schema, Part::Name(_)) =>
            {
                Some(Rename::Schema(schema))
            }
            ([from], ..) if from.is_name() => {
                self.fault("rename", None, format!("\"{name}\" is no name"), "write the new schema.table");
                None
            }
            _ => {
                self.fault(
                    "rename",
                    None,
                    "rename needs an include of exactly one table, or of one whole schema",
                    "give each table a block of its own, or write include = \"schema.*\" with rename = \"new.*\"",
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
