//! `CREATE TABLE` and indexes for a destination of either flavor. What it cannot carry is left out and named.

use super::rewrite;
use super::work::{Columns, Work};
use crate::catalog::create::{ColumnDefinition, Foreign, Index, KeyPart, PartKind};
use crate::catalog::lex::{self, Kind as Token};
use crate::flavor::Flavor;
use crate::sql;
use crate::typemap::{collate, type_at};
use crate::types::{Kind, MyType};
use drover_model::TablePlan;
use drover_model::schema::{Column, Object, Table};
use std::collections::BTreeSet;

/// An index to add behind the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    pub name: String,
    /// `UNIQUE KEY `n` (…) …`
    pub clause: String,
    /// InnoDB builds one of these at a time.
    pub alone: bool,
}

impl Work<'_> {
    /// The statement that makes a table, with the key that rows are clustered or found by.
    pub(super) fn create_table(&mut self, plan: &TablePlan, table: &Table) -> String {
        let columns = self.columns(plan);
        let mut lines = Vec::new();
        let mut made = BTreeSet::new();
        let keys = self.base_keys(plan, table, &columns);
        let counted = keys.iter().any(|(_, has)| *has);
        for column in &table.columns {
            if let Some(line) = self.column_line(plan, table, column, &columns, counted) {
                lines.push(line);
                made.insert(column.name.to_lowercase());
            }
        }
        lines.extend(keys.into_iter().map(|(clause, _)| clause));
        for part in &table.parts {
            match PartKind::of_name(&part.kind) {
                Some(PartKind::Check) => {
                    if let Some(line) = self.check_line(plan, part, &columns) {
                        lines.push(line);
                    }
                }
                Some(PartKind::Period | PartKind::Other) => {
                    self.leave_out(&part.kind, &plan.source, &part.name, "it is not carried to another server");
                }
                _ => {}
            }
        }
        let mut sql = format!("CREATE TABLE {} (\n  {}\n)", sql::qualified(&plan.destination), lines.join(",\n  "));
        let partitioning = self.partitioning(plan, table, &columns);
        sql.push_str(&self.table_options(plan, table));
        if let Some(partitioning) = partitioning {
            sql.push('\n');
            sql.push_str(&partitioning);
        }
        sql
    }

    pub(super) fn column_line(
        &mut self,
        plan: &TablePlan,
        table: &Table,
        column: &Column,
        columns: &Columns,
        counted: bool,
    ) -> Option<String> {
        let name = columns.new_name(&column.name)?;
        let part = table.parts.iter().find(|p| p.kind == "column" && p.name == column.name);
        let definition = part.and_then(|p| ColumnDefinition::parse(&p.definition)).unwrap_or_default();
        let planned = plan.columns.iter().find(|c| c.source == column.name);
        let type_text = match planned {
            Some(c) => c.destination_type.clone(),
            None => match type_at(&column.origin_type, self.known) {
                Ok(at) => at.text,
                Err(why) => {
                    self.leave_out("column", &plan.source, &column.name, &why);
                    return None;
                }
            },
        };
        let my_type = MyType::parse(&type_text)?;
        let v = self.known.version.clone();
        let packed = definition.others.iter().any(|o| o.eq_ignore_ascii_case("COMPRESSED"))
            && v.is_mariadb()
            && self.origin == Flavor::MariaDb;
        let named = definition.charset.is_some() || self.explicit;
        let mut out =
            format!("{} {}", sql::name(&name), self.typed(table, column, &type_text, &my_type, packed, named));
        let note = |work: &mut Self, what: &str, why: &str| work.note(plan, &column.name, what, why);
        if let Some((expression, stored)) = &definition.generated {
            let expression = match rewrite::columns(expression, &columns.renamed, &columns.dropped, false) {
                Ok(e) => rewrite::dialect(&e, self.known),
                Err(why) => {
                    self.leave_out("column", &plan.source, &column.name, &why);
                    return None;
                }
            };
            out.push_str(&format!(" GENERATED ALWAYS AS {expression} {}", if *stored { "STORED" } else { "VIRTUAL" }));
            // MariaDB knows generated columns without NOT NULL only.
            if definition.not_null && !v.is_mariadb() {
                out.push_str(" NOT NULL");
            } else if definition.not_null {
                note(self, "NOT NULL", "a generated column of MariaDB cannot be NOT NULL");
            }
        } else if !column.nullable {
            out.push_str(" NOT NULL");
        } else if matches!(my_type.kind, Kind::Timestamp { .. }) {
            out.push_str(" NULL");
        }
        if definition.invisible {
            let fed = column.nullable || column.default.is_some() || column.identity.is_some();
            if v.is_mariadb() && !fed && definition.generated.is_none() {
                note(self, "INVISIBLE", "an invisible column of MariaDB needs a default");
            } else if v.mysql(80_023) || v.is_mariadb() {
                out.push_str(" INVISIBLE");
            } else {
                note(self, "INVISIBLE", "the destination has no invisible columns");
            }
        }
        if let Some(default) = definition.default.as_deref().filter(|_| definition.generated.is_none()) {
            match self.default(default, &my_type, columns) {
                Ok(default) => out.push_str(&format!(" DEFAULT {default}")),
                Err(why) => note(self, &format!("DEFAULT {default}"), &why),
            }
        }
        if let Some(update) = &definition.on_update {
            out.push_str(&format!(" ON UPDATE {update}"));
        }
        if definition.auto_increment {
            if counted {
                out.push_str(" AUTO_INCREMENT");
            } else {
                note(self, "AUTO_INCREMENT", "the index that it needs is left out");
            }
        }
        if let Some(comment) = &definition.comment {
            out.push_str(&format!(" COMMENT {comment}"));
        }
        if let Some(srid) = &definition.srid {
            if v.mysql(80_003) {
                out.push_str(&format!(" SRID {srid}"));
            } else {
                note(self, &format!("SRID {srid}"), "the destination does not check it");
            }
        }
        for other in definition.others.iter().filter(|o| !packed || !o.eq_ignore_ascii_case("COMPRESSED")) {
            let same = self.origin == v.flavor && !other.to_uppercase().starts_with("GENERATED");
            if same {
                out.push_str(&format!(" {other}"));
            } else {
                note(self, other, "the other flavor has nothing like it");
            }
        }
        if let Some(check) = self.column_check(plan, column, &definition, &name, columns) {
            out.push_str(&format!(" CHECK {check}"));
        }
        Some(out)
    }

    /// Character set and collation of a table at the destination: named always, for defaults differ from server to server.
    fn table_charset(&self, table: &Table) -> Option<(String, String)> {
        let collation = table.options.get("collation")?;
        let set = table.options.get("charset").map(String::as_str).or(collation.split('_').next())?;
        let set = collate::charset(set, self.known)?;
        let collation = collate::collation(collation, &set, self.known).name().to_owned();
        Some((set, collation))
    }

    /// The type, with character set and collation where they are not the table's, or the source `named` them.
    fn typed(
        &self,
        table: &Table,
        column: &Column,
        type_text: &str,
        my_type: &MyType,
        packed: bool,
        named: bool,
    ) -> String {
        let bare = match my_type.charset {
            Some(_) => &type_text[..type_text.rfind(" character set ").unwrap_or(type_text.len())],
            None => type_text,
        };
        // Belongs to the type.
        let bare = if packed { format!("{bare} COMPRESSED") } else { bare.to_owned() };
        let Some(charset) = &my_type.charset else { return bare };
        let own = MyType::parse(&column.origin_type).and_then(|t| t.charset);
        let collation = match (&column.collation, own) {
            (Some(collation), Some(_)) => collate::collation(collation, charset, self.known).name().to_owned(),
            // A type that was replaced: JSON compares byte by byte, the others without regard to case.
            _ if charset == "ascii" => "ascii_general_ci".to_owned(),
            _ => format!("{charset}_bin"),
        };
        if !named && self.table_charset(table).is_some_and(|(s, c)| s == *charset && c == collation) {
            return bare;
        }
        format!("{bare} CHARACTER SET {charset} COLLATE {collation}")
    }

    /// A default in the destination's dialect.
    fn default(&self, default: &str, my_type: &MyType, columns: &Columns) -> Result<String, String> {
        let v = &self.known.version;
        let words = lex::words(default);
        let first = words.first().ok_or("it is empty")?;
        if words.iter().any(|t| t.is("NEXTVAL") || t.is("NEXT")) && !v.is_mariadb() {
            return Err("MySQL has no sequences".into());
        }
        let (literal, now) = (is_literal(&words), is_now(first));
        let text = rewrite::columns(default, &columns.renamed, &columns.dropped, false)?;
        let text = self.sequences(&rewrite::dialect(&text, self.known))?;
        let wide = is_wide(my_type);
        let is_null = words.len() == 1 && first.is("NULL");
        if literal && wide && !is_null && !v.is_mariadb() {
            // MySQL takes an expression here, but no literal.
            return if v.mysql(80_013) { Ok(format!("({text})")) } else { Err(format!("{v} has no defaults for it")) };
        }
        if literal || now {
            return Ok(text);
        }
        if v.mysql(80_013) {
            let enclosed = first.is("(") && lex::closing(&words, 0) == words.len();
            return Ok(if enclosed { text } else { format!("({text})") });
        }
        if v.mariadb(100_201) { Ok(text) } else { Err(format!("{v} has no expressions as defaults")) }
    }

    /// A column's own check, and MariaDB's for JSON.
    fn column_check(
        &mut self,
        plan: &TablePlan,
        column: &Column,
        definition: &ColumnDefinition,
        name: &str,
        columns: &Columns,
    ) -> Option<String> {
        let v = &self.known.version;
        let json = matches!(MyType::parse(&column.origin_type).map(|t| t.kind), Some(Kind::Json));
        if json && (v.mysql(50_708) || !v.is_mariadb()) {
            return None;
        }
        if json {
            return Some(format!("(json_valid({}))", sql::name(name)));
        }
        let check = definition.check.as_deref()?;
        match rewrite::columns(check, &columns.renamed, &columns.dropped, false) {
            Ok(text) => Some(rewrite::dialect(&text, self.known)),
            Err(why) => {
                self.note(plan, &column.name, &format!("CHECK {check}"), &why);
                None
            }
        }
    }

    pub(super) fn check_line(&mut self, plan: &TablePlan, part: &Object, columns: &Columns) -> Option<String> {
        let text = match rewrite::columns(&part.definition, &columns.renamed, &columns.dropped, false) {
            Ok(text) => rewrite::dialect(&text, self.known),
            Err(why) => {
                self.leave_out("check", &plan.source, &part.name, &why);
                return None;
            }
        };
        let v = &self.known.version;
        let unenforced = lex::words(&text).windows(2).any(|w| w[0].is("NOT") && w[1].is("ENFORCED"));
        if unenforced && v.is_mariadb() {
            self.leave_out("check", &plan.source, &part.name, "it is not enforced, and MariaDB enforces every check");
            return None;
        }
        // Names of MariaDB's checks are a table's, those of MySQL's a database's.
        let numbered = part.name.strip_prefix("CONSTRAINT_").is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()));
        let nameless = part.name.is_empty() || (numbered && !v.is_mariadb());
        if nameless || !self.take_name("check", &plan.destination.schema, &part.name) {
            return Some(format!("CHECK {text}"));
        }
        Some(format!("CONSTRAINT {} CHECK {text}", sql::name(&part.name)))
    }

    /// Keys that must be there with the table, and whether each carries the auto-increment column.
    fn base_keys(&mut self, plan: &TablePlan, table: &Table, columns: &Columns) -> Vec<(String, bool)> {
        let counter = table.columns.iter().find(|c| c.identity.is_some()).map(|c| c.name.as_str());
        let mut out = Vec::new();
        for part in self.base_parts(plan, table) {
            let carries = |name: &str| {
                Index::parse(&part.definition)
                    .is_some_and(|x| x.parts.iter().any(|p| matches!(p, KeyPart::Column { name: n, .. } if n == name)))
            };
            match self.index(plan, table, part, columns) {
                Ok(added) => out.push((added.clause, counter.is_some_and(carries))),
                Err(why) => self.leave_out(&part.kind, &plan.source, &part.name, &why),
            }
        }
        out
    }

    /// The primary key or else the key that identifies rows; and the index that an auto-increment column needs.
    fn base_parts<'t>(&self, plan: &TablePlan, table: &'t Table) -> Vec<&'t Object> {
        let index = |p: &Object| matches!(p.kind.as_str(), "primary key" | "unique" | "index");
        let whole = |p: &Object| Index::parse(&p.definition).and_then(|x| x.whole_columns());
        let key: Vec<&str> =
            plan.key.iter().filter_map(|i| plan.columns.get(usize::from(*i))).map(|c| c.source.as_str()).collect();
        let mut out: Vec<&Object> = table.parts.iter().filter(|p| p.kind == "primary key").collect();
        if out.is_empty() && !key.is_empty() {
            let identifies = |p: &&Object| p.kind == "unique" && whole(p).is_some_and(|names| names == key);
            out.extend(table.parts.iter().find(identifies));
        }
        if let Some(counter) = table.columns.iter().find(|c| c.identity.is_some()) {
            let parts_of = |p: &Object| Index::parse(&p.definition).map(|x| x.parts).unwrap_or_default();
            let named = |p: &KeyPart| matches!(p, KeyPart::Column { name, .. } if *name == counter.name);
            if !out.iter().any(|p| parts_of(p).first().is_some_and(named)) {
                let first = table.parts.iter().filter(|p| index(p)).find(|p| parts_of(p).first().is_some_and(named));
                let any = || table.parts.iter().filter(|p| index(p)).find(|p| parts_of(p).iter().any(named));
                if let Some(found) = first.or_else(any).filter(|p| !out.contains(p)) {
                    out.push(found);
                }
            }
        }
        out
    }

    /// The indexes that are made when the rows are in.
    pub(super) fn later_indexes(&mut self, plan: &TablePlan, table: &Table) -> Vec<Added> {
        let columns = self.columns(plan);
        let base: Vec<&Object> = self.base_parts(plan, table);
        let mut out = Vec::new();
        for part in &table.parts {
            let Some(kind) = PartKind::of_name(&part.kind) else { continue };
            use PartKind::{FullText, Index as Plain, Primary, Spatial, Unique, Vector};
            if !matches!(kind, Primary | Unique | Plain | FullText | Spatial | Vector) || base.contains(&part) {
                continue;
            }
            match self.index(plan, table, part, &columns) {
                Ok(added) => out.push(added),
                Err(why) => self.leave_out(&part.kind, &plan.source, &part.name, &why),
            }
        }
        out
    }

    /// An index's clause.
    ///
    /// # Errors
    /// Why it is left out.
    pub(super) fn index(
        &mut self,
        plan: &TablePlan,
        table: &Table,
        part: &Object,
        columns: &Columns,
    ) -> Result<Added, String> {
        let kind = PartKind::of_name(&part.kind).ok_or("its kind is not understood")?;
        let index = Index::parse(&part.definition).ok_or("its definition is not understood")?;
        let v = self.known.version.clone();
        let mut parts = Vec::new();
        for p in &index.parts {
            match p {
                KeyPart::Column { name, prefix, descending } => {
                    let column = table.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name));
                    let new = columns.new_name(name).ok_or_else(|| format!("column {name} is left out"))?;
                    let planned = plan.columns.iter().find(|c| c.source.eq_ignore_ascii_case(name));
                    let text = planned.map(|c| &c.destination_type).or(column.map(|c| &c.origin_type));
                    let wide = text
                        .and_then(|t| MyType::parse(t))
                        .is_some_and(|t| matches!(t.kind, Kind::Text { .. } | Kind::Blob { .. } | Kind::Json));
                    if wide
                        && prefix.is_none()
                        && !v.is_mariadb()
                        && matches!(kind, PartKind::Unique | PartKind::Primary)
                    {
                        return Err(format!("MySQL has no unique keys over whole values as long as those of {name}"));
                    }
                    let virtual_one = || {
                        let mut parts = table.parts.iter().filter(|p| p.kind == "column");
                        let definition = parts.find(|p| p.name.eq_ignore_ascii_case(name));
                        let parsed = definition.and_then(|p| ColumnDefinition::parse(&p.definition));
                        parsed.and_then(|d| d.generated).is_some_and(|(_, stored)| !stored)
                    };
                    if !v.is_mariadb() && !self.is_innodb(table) && virtual_one() {
                        return Err(format!("this engine of MySQL has no indexes over virtual columns such as {name}"));
                    }
                    let prefix = prefix.map(|n| format!("({n})")).unwrap_or_default();
                    let mut order = if *descending { " DESC" } else { "" };
                    if *descending && !v.is_mariadb() && !self.is_innodb(table) {
                        self.note(plan, &part.name, "DESC", "this engine of MySQL has ascending indexes only");
                        order = "";
                    }
                    parts.push(format!("{}{prefix}{order}", sql::name(&new)));
                }
                KeyPart::Expression { text } if text.starts_with('(') => {
                    if !v.mysql(80_013) {
                        return Err(format!("{v} has no indexes over expressions"));
                    }
                    let text = rewrite::columns(text, &columns.renamed, &columns.dropped, false)?;
                    parts.push(rewrite::dialect(&text, self.known));
                }
                // `p` WITHOUT OVERLAPS: the table is made without its period.
                KeyPart::Expression { .. } if v.is_mariadb() => {
                    return Err("its period is not carried to another server".into());
                }
                KeyPart::Expression { .. } => return Err("MySQL has no periods".into()),
            }
        }
        if matches!(kind, PartKind::FullText | PartKind::Spatial)
            && table.parts.iter().any(|p| p.kind == "partitioning")
        {
            return Err("servers have no such indexes over partitioned tables".into());
        }
        let options = self.index_options(plan, part, &index.options);
        let word = match kind {
            PartKind::Primary => "PRIMARY KEY".to_owned(),
            PartKind::Unique => format!("UNIQUE KEY {}", sql::name(&part.name)),
            PartKind::FullText => format!("FULLTEXT KEY {}", sql::name(&part.name)),
            PartKind::Spatial => format!("SPATIAL KEY {}", sql::name(&part.name)),
            PartKind::Vector if v.mariadb(110_700) => format!("VECTOR KEY {}", sql::name(&part.name)),
            PartKind::Vector => return Err(format!("{v} has no vector indexes")),
            _ => format!("KEY {}", sql::name(&part.name)),
        };
        let options = if options.is_empty() { options } else { format!(" {options}") };
        Ok(Added {
            name: part.name.clone(),
            clause: format!("{word} ({}){options}", parts.join(",")),
            alone: matches!(kind, PartKind::FullText | PartKind::Spatial | PartKind::Vector),
        })
    }

    /// Options of an index, one by one.
    fn index_options(&mut self, plan: &TablePlan, part: &Object, text: &str) -> String {
        let v = self.known.version.clone();
        let words = lex::words(text);
        let mut out: Vec<String> = Vec::new();
        let mut i = 0;
        while i < words.len() {
            let from = i;
            let w = &words[i];
            let next = |k: usize, word: &str| words.get(i + k).is_some_and(|t| t.is(word));
            i += if w.is("USING") || w.is("COMMENT") {
                2
            } else if w.is("WITH") {
                3
            } else if w.is("NOT") || w.text.to_uppercase().ends_with("ENGINE_ATTRIBUTE") {
                if next(1, "=") { 3 } else { 2 }
            } else if next(1, "=") {
                3
            } else {
                1
            };
            let clause = &text[w.at..words.get(i.min(words.len()) - 1).map_or(text.len(), |t| t.end())];
            let hidden = w.is("INVISIBLE") || w.is("IGNORED");
            if hidden && (v.mysql(80_000) || v.mariadb(100_600)) {
                out.push(if v.is_mariadb() { "IGNORED" } else { "INVISIBLE" }.to_owned());
            } else if w.is("COMMENT")
                || w.is("KEY_BLOCK_SIZE")
                || (w.is("USING") && words.get(from + 1).is_some_and(|t| t.is("HASH") || t.is("BTREE")))
                || (self.origin == v.flavor && !hidden)
            {
                out.push(clause.to_owned());
            } else if w.is("NOT") || w.is("VISIBLE") {
                // The rule.
            } else {
                self.note(plan, &part.name, clause, "the destination has nothing like it");
            }
        }
        out.join(" ")
    }

    pub(super) fn table_options(&mut self, plan: &TablePlan, table: &Table) -> String {
        let option = |name: &str| table.options.get(name).map(String::as_str);
        let engine = self.engine_at(table);
        let own = option("engine").unwrap_or("InnoDB");
        if !engine.eq_ignore_ascii_case(own) {
            self.note(plan, "", &format!("ENGINE={own}"), "the destination cannot use it here: InnoDB takes its place");
        }
        let mut out = format!(" ENGINE={engine}");
        if let Some((set, collation)) = self.table_charset(table) {
            out.push_str(&format!(" DEFAULT CHARSET={set} COLLATE={collation}"));
        }
        let others: Vec<(String, String)> =
            option("options").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        const COMMON: [&str; 11] = [
            "ROW_FORMAT",
            "KEY_BLOCK_SIZE",
            "MAX_ROWS",
            "MIN_ROWS",
            "AVG_ROW_LENGTH",
            "CHECKSUM",
            "DELAY_KEY_WRITE",
            "PACK_KEYS",
            "STATS_PERSISTENT",
            "STATS_AUTO_RECALC",
            "STATS_SAMPLE_PAGES",
        ];
        const PLACE: [&str; 5] = ["TABLESPACE", "STORAGE", "DATA DIRECTORY", "INDEX DIRECTORY", "SECONDARY_ENGINE"];
        let same = self.origin == self.known.version.flavor;
        for (name, value) in others {
            let everywhere = COMMON.contains(&name.as_str()) && !value.eq_ignore_ascii_case("PAGE");
            if (everywhere || same) && !PLACE.contains(&name.as_str()) {
                out.push_str(&format!(" {name}"));
                if !value.is_empty() {
                    out.push_str(&format!("={value}"));
                }
            } else {
                let why = if PLACE.contains(&name.as_str()) {
                    "places are this server's own"
                } else {
                    "the other flavor has nothing like it"
                };
                self.note(plan, "", &format!("{name}={value}"), why);
            }
        }
        if let Some(comment) = option("comment") {
            out.push_str(&format!(" COMMENT={}", sql::text(comment)));
        }
        out
    }

    /// The engine that a table gets: InnoDB where the destination lacks the source's, or has it without partitions or computed defaults.
    fn engine_at<'t>(&self, table: &'t Table) -> &'t str {
        let engine = table.options.get("engine").map_or("InnoDB", String::as_str);
        let upper = engine.to_uppercase();
        let mysql = self.known.version.mysql(80_000);
        let partitioned = table.parts.iter().any(|p| p.kind == "partitioning");
        // Of MySQL's engines these two take expressions as defaults (tried with 9.7; the others answer with error 3774).
        let computes = !matches!(&upper[..], "INNODB" | "MYISAM") && has_computed_default(table);
        let has = self.known.engines.contains(&upper);
        if has && !(mysql && (partitioned || computes)) { engine } else { "InnoDB" }
    }

    fn is_innodb(&self, table: &Table) -> bool {
        self.engine_at(table).eq_ignore_ascii_case("InnoDB")
    }

    pub(super) fn partitioning(&mut self, plan: &TablePlan, table: &Table, columns: &Columns) -> Option<String> {
        let part = table.parts.iter().find(|p| p.kind == "partitioning")?;
        let words = lex::words(&part.definition);
        let leave = |work: &mut Self, why: &str| {
            work.leave_out("partitioning", &plan.source, &plan.source.name, why);
            None
        };
        let mysql = !self.known.version.is_mariadb();
        let default = words
            .windows(2)
            .any(|w| w[0].text == "," && w[1].is("DEFAULT") || w[1].is("DEFAULT") && w[0].kind == Token::Quoted);
        if mysql && default {
            return leave(self, "MySQL has no DEFAULT partitions");
        }
        let mut types = table.columns.iter().filter_map(|c| MyType::parse(&c.origin_type));
        // MariaDB takes such a table, but not its own definition of it.
        if types.any(|t| matches!(t.kind, Kind::Geometry { .. })) {
            return leave(self, "servers do not partition tables that have geometry");
        }
        if words.get(2).is_some_and(|t| t.is("SYSTEM_TIME")) {
            return leave(self, "the table's history is not carried");
        }
        // Columns stand in front of the list of partitions.
        let list =
            words.windows(2).find(|w| w[0].is("(") && w[1].is("PARTITION")).map_or(part.definition.len(), |w| w[0].at);
        let (head, tail) = part.definition.split_at(list);
        let head = match rewrite::columns(head, &columns.renamed, &columns.dropped, true) {
            Ok(head) => head,
            Err(why) => return leave(self, &why),
        };
        let mut out = head;
        // Engines and places of partitions.
        let engine = self.engine_at(table);
        let tokens = lex::words(tail);
        let (mut copied, mut i) = (0, 0);
        while i < tokens.len() {
            let value = |k: usize| if tokens.get(k).is_some_and(|t| t.is("=")) { k + 1 } else { k };
            let t = &tokens[i];
            if t.is("ENGINE") {
                let at = value(i + 1);
                let Some(name) = tokens.get(at) else { break };
                out.push_str(&tail[copied..name.at]);
                out.push_str(engine);
                copied = name.end();
                i = at + 1;
            } else if t.is("TABLESPACE")
                || ((t.is("DATA") || t.is("INDEX")) && tokens.get(i + 1).is_some_and(|t| t.is("DIRECTORY")))
            {
                let at = value(if t.is("TABLESPACE") { i + 1 } else { i + 2 });
                let Some(last) = tokens.get(at) else { break };
                out.push_str(&tail[copied..t.at]);
                copied = last.end();
                let clause = tail[t.at..last.end()].to_owned();
                self.note(plan, "", &clause, "places are this server's own");
                i = at + 1;
            } else {
                i += 1;
            }
        }
        out.push_str(&tail[copied..]);
        Some(out)
    }

    /// The clause behind ADD of a foreign key.
    ///
    /// # Errors
    /// Why it is left out.
    pub(super) fn foreign_key(&mut self, plan: &TablePlan, part: &Object) -> Result<(String, String), String> {
        let foreign = Foreign::parse(&part.definition).ok_or("its definition is not understood")?;
        let to = self.relation(foreign.schema.as_deref().unwrap_or(&plan.source.schema), &foreign.table);
        let parent = self.tables.iter().find(|(p, _)| p.source == to).map(|(p, _)| *p);
        let Some(parent) = parent else {
            return Err(format!("it references {to}, which is not selected"));
        };
        let list = |plan: &TablePlan, columns: &Columns, names: &[String]| -> Result<String, String> {
            let new = names.iter().map(|n| {
                columns
                    .new_name(n)
                    .map(|n| sql::name(&n))
                    .ok_or_else(|| format!("column {}.{n} is left out", plan.source))
            });
            Ok(new.collect::<Result<Vec<_>, _>>()?.join(","))
        };
        let own = list(plan, &self.columns(plan), &foreign.columns)?;
        let theirs = list(parent, &self.columns(parent), &foreign.foreign_columns)?;
        let mut name = part.name.clone();
        if !self.take_name("foreign key", &plan.destination.schema, &name) {
            // Names of foreign keys are a database's.
            name = format!("{}_{name}", plan.destination.name).chars().take(64).collect();
            self.take_name("foreign key", &plan.destination.schema, &name);
        }
        let clause = format!(
            "CONSTRAINT {} FOREIGN KEY ({own}) REFERENCES {} ({theirs}) {}",
            sql::name(&name),
            sql::qualified(&parent.destination),
            foreign.actions
        );
        Ok((name, clause.trim_end().to_owned()))
    }
}

/// Whether the flavors differ.
pub(super) fn crosses(origin: Flavor, to: Flavor) -> bool {
    origin != to
}

/// A constant, as far as MySQL takes it for a default without parentheses.
fn is_literal(words: &[lex::Token<'_>]) -> bool {
    let Some(first) = words.first() else { return false };
    let number = first.kind == Token::Word && first.text.starts_with(|c: char| c.is_ascii_digit());
    let sign = first.is("-") || first.is("+");
    let bits = words.len() == 2 && words[1].kind == Token::Literal && first.kind == Token::Word;
    (words.len() == 1 && (first.kind == Token::Literal || number || first.is("NULL")))
        || (words.len() == 2 && sign)
        || bits
}

fn is_now(first: &lex::Token<'_>) -> bool {
    ["CURRENT_TIMESTAMP", "NOW", "LOCALTIME", "LOCALTIMESTAMP"].iter().any(|w| first.is(w))
}

/// Types whose defaults MySQL takes as expressions only.
fn is_wide(my_type: &MyType) -> bool {
    matches!(my_type.kind, Kind::Text { .. } | Kind::Blob { .. } | Kind::Json | Kind::Geometry { .. })
}

/// Whether some column's default would be an expression at a MySQL.
fn has_computed_default(table: &Table) -> bool {
    table.parts.iter().filter(|p| p.kind == "column").any(|part| {
        let Some(definition) = ColumnDefinition::parse(&part.definition) else { return false };
        let Some(default) = definition.default.as_deref().filter(|_| definition.generated.is_none()) else {
            return false;
        };
        let words = lex::words(default);
        let column = table.columns.iter().find(|c| c.name == part.name);
        let wide = column.and_then(|c| MyType::parse(&c.origin_type)).is_some_and(|t| is_wide(&t));
        words.first().is_some_and(|first| {
            let constant = is_literal(&words) || is_now(first);
            !constant || (wide && !(words.len() == 1 && first.is("NULL")))
        })
    })
}
