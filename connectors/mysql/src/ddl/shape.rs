//! What a statement makes of a table's structure. Pure. Guarantee: the structure afterwards is the one that the server's catalogue would show
//! then, as far as rows, their keys and their encoding go; what cannot be told is an error that says why.

use super::column::{self, Defined, Env, Texts};
use super::parse::{Action, Body, Place, Written, printed_index};
use super::text::quoted;
use crate::catalog::create::{ColumnDefinition, Definition, Foreign, Index, KeyPart, Part, PartKind};
use crate::catalog::{lex, plain, unique_key, unlogged};
use crate::sql;
use crate::types::{Kind, MyType};
use drover_model::schema::{Column, Object, OldImage, Phase, Table, TableName};
use std::collections::BTreeMap;

/// A table that is being changed.
#[derive(Debug, Clone)]
struct Draft {
    columns: Vec<(Column, ColumnDefinition)>,
    parts: Vec<Part>,
    partitioning: Option<String>,
    /// Triggers, and what else is not of the structure.
    others: Vec<Object>,
    table: Table,
}

/// A table after an ALTER TABLE.
#[derive(Debug, Clone)]
pub struct Altered {
    pub table: Table,
    /// Columns that have another name now.
    pub renamed: Vec<(String, String)>,
    /// Columns that are new though one of the same name was there before.
    pub anew: Vec<String>,
    /// Clauses to be done as written.
    pub clauses: Vec<String>,
}

fn texts_of(table: &Table, env: &Env) -> Texts {
    let collation = table.options.get("collation").cloned().unwrap_or_else(|| "utf8mb4_general_ci".into());
    let charset = table.options.get("charset").map(|c| env.charset(c));
    let charset = charset.unwrap_or_else(|| env.charset_of(&collation, "utf8mb4"));
    Texts { charset, collation }
}

impl Draft {
    fn of(table: &Table) -> Draft {
        let (mut parts, mut others, mut partitioning) = (Vec::new(), Vec::new(), None);
        let mut definitions = BTreeMap::new();
        for part in &table.parts {
            match part.kind.as_str() {
                "column" => {
                    let definition = ColumnDefinition::parse(&part.definition).unwrap_or_default();
                    definitions.insert(part.name.clone(), definition);
                }
                "partitioning" => partitioning = Some(part.definition.clone()),
                kind => match PartKind::of_name(kind) {
                    Some(kind) => {
                        parts.push(Part { kind, name: part.name.clone(), text: part.definition.clone() });
                    }
                    None => others.push(part.clone()),
                },
            }
        }
        let columns = table.columns.iter();
        let columns = columns.map(|c| (c.clone(), definitions.remove(&c.name).unwrap_or_default())).collect();
        Draft { columns, parts, partitioning, others, table: table.clone() }
    }

    fn finish(mut self, env: &Env) -> Table {
        let primary = self.parts.iter().find(|p| p.kind == PartKind::Primary).and_then(|p| Index::parse(&p.text));
        for part in primary.iter().flat_map(|p| &p.parts) {
            let KeyPart::Column { name, .. } = part else { continue };
            if let Some((column, definition)) = self.columns.iter_mut().find(|(c, _)| c.name.eq_ignore_ascii_case(name))
            {
                column.nullable = false;
                (definition.not_null, definition.null) = (true, false);
                definition.default = definition.default.take().filter(|d| !d.eq_ignore_ascii_case("NULL"));
            }
        }
        let name = self.table.name.clone();
        let object = |kind: &str, of: &str, phase: Phase, text: &str| Object {
            kind: kind.into(),
            schema: name.schema.clone(),
            name: of.into(),
            phase,
            definition: text.into(),
            options: BTreeMap::new(),
            needs: Vec::new(),
        };
        let mut parts: Vec<Object> =
            self.columns.iter().map(|(c, d)| object("column", &c.name, Phase::Base, &d.printed())).collect();
        // The primary key is printed first.
        self.parts.sort_by_key(|p| p.kind != PartKind::Primary);
        let definition = Definition {
            columns: self.columns.iter().map(|(c, d)| (c.name.clone(), d.clone())).collect(),
            parts: self.parts.clone(),
            ..Definition::default()
        };
        let columns: Vec<Column> = self.columns.into_iter().map(|(c, _)| c).collect();
        let mut keys = Vec::new();
        for p in &self.parts {
            let phase = match p.kind {
                PartKind::Primary | PartKind::Check | PartKind::Period | PartKind::Other => Phase::Base,
                PartKind::Foreign => Phase::Final,
                _ => Phase::Table,
            };
            parts.push(object(p.kind.name(), &p.name, phase, &p.text));
            if matches!(p.kind, PartKind::Primary | PartKind::Unique) {
                keys.push(unique_key(p, &columns));
            }
        }
        if let Some(partitioning) = &self.partitioning {
            parts.push(object("partitioning", &name.name, Phase::Base, partitioning));
        }
        parts.extend(self.others);
        let unlogged = if env.silent { unlogged::read(&name, &self.parts) } else { Vec::new() };
        let plain_indexes = plain::indexes(&definition);
        let plain_foreign_keys = plain::foreign_keys(&name, &definition);
        Table { columns, keys, parts, unlogged, plain_indexes, plain_foreign_keys, ..self.table }
    }

    fn at(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(c, _)| c.name.eq_ignore_ascii_case(name))
    }

    fn need(&self, name: &str) -> Result<usize, String> {
        self.at(name).ok_or_else(|| format!("the table has no column {name} here"))
    }

    fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(c, _)| c.name.clone()).collect()
    }

    fn define(&mut self, written: &Written, texts: &Texts, env: &Env, at: usize) -> Result<Defined, String> {
        let first = !self.columns[..at.min(self.columns.len())]
            .iter()
            .any(|(c, _)| matches!(MyType::parse(&c.origin_type).map(|t| t.kind), Some(Kind::Timestamp { .. })));
        column::define(&written.name, &written.text, texts, env, first)
    }

    fn place(&self, place: Option<&Place>, otherwise: usize) -> Result<usize, String> {
        match place {
            None => Ok(otherwise),
            Some(Place::First) => Ok(0),
            Some(Place::After(name)) => self.need(name).map(|at| at + 1),
        }
    }

    fn add_column(&mut self, written: &Written, texts: &Texts, env: &Env) -> Result<(), String> {
        if self.at(&written.name).is_some() {
            return Err(format!("the table has a column {} already", written.name));
        }
        let at = self.place(written.place.as_ref(), self.columns.len())?;
        let defined = self.define(written, texts, env, at)?;
        self.columns.insert(at, (defined.column, defined.definition));
        for part in defined.parts {
            self.add_part(part, env)?;
        }
        Ok(())
    }

    fn redefine(&mut self, old: &str, written: &Written, texts: &Texts, env: &Env) -> Result<(), String> {
        let from = self.need(old)?;
        let defined = self.define(written, texts, env, from)?;
        self.rename_in_parts(old, &written.name);
        self.columns[from] = (defined.column, defined.definition);
        if let Some(place) = &written.place {
            let moved = self.columns.remove(from);
            // A column cannot be put behind itself.
            let at = self.place(Some(place), from)?;
            self.columns.insert(at, moved);
        }
        for part in defined.parts {
            self.add_part(part, env)?;
        }
        Ok(())
    }

    fn drop_column(&mut self, name: &str) -> Result<(), String> {
        let at = self.need(name)?;
        self.columns.remove(at);
        let mut kept = Vec::new();
        for mut part in std::mem::take(&mut self.parts) {
            use PartKind::{Foreign, FullText, Primary, Spatial, Unique, Vector};
            if !matches!(part.kind, Primary | Unique | PartKind::Index | FullText | Spatial | Vector) {
                if part.kind != Foreign || !mentions(&part, name) {
                    kept.push(part);
                }
                continue;
            }
            let Some(mut index) = Index::parse(&part.text) else {
                kept.push(part);
                continue;
            };
            let before = index.parts.len();
            index.parts.retain(|p| !matches!(p, KeyPart::Column { name: n, .. } if n.eq_ignore_ascii_case(name)));
            if index.parts.len() < before {
                part.text = printed_index(&index);
            }
            if !index.parts.is_empty() {
                kept.push(part);
            }
        }
        self.parts = kept;
        Ok(())
    }

    /// A column's new name in indexes, keys and expressions.
    fn rename_in_parts(&mut self, old: &str, new: &str) {
        if old == new {
            return;
        }
        let rename = |text: &str| {
            let map = std::collections::HashMap::from([(old.to_lowercase(), new.to_owned())]);
            crate::schema::rewrite::columns(text, &map, &std::collections::BTreeSet::new(), false)
                .unwrap_or_else(|_| text.to_owned())
        };
        for part in &mut self.parts {
            if part.kind == PartKind::Foreign {
                // Only the columns of this side.
                if let Some(at) = part.text.to_uppercase().find(") REFERENCES") {
                    part.text = format!("{}{}", rename(&part.text[..at]), &part.text[at..]);
                }
            } else {
                part.text = rename(&part.text);
            }
        }
        for (column, definition) in &mut self.columns {
            if let Some((expression, _)) = &mut definition.generated {
                *expression = rename(expression);
                column.generated = Some(expression.clone());
            }
            if let Some(check) = &mut definition.check {
                *check = rename(check);
            }
        }
        if let Some(partitioning) = &mut self.partitioning {
            *partitioning = rename(partitioning);
        }
    }

    fn add_part(&mut self, mut part: Part, env: &Env) -> Result<(), String> {
        let table = self.table.name.name.clone();
        let names = self.names();
        match part.kind {
            PartKind::Check => {
                part.text = quoted(&part.text, names.iter().map(String::as_str));
                if part.name.is_empty() {
                    let prefix = if env.mariadb() { "CONSTRAINT_".to_owned() } else { format!("{table}_chk_") };
                    part.name = self.numbered(PartKind::Check, &prefix);
                }
            }
            PartKind::Foreign => {
                let key = Foreign::parse(&part.text).ok_or("a foreign key is not understood")?;
                if part.name.is_empty() {
                    part.name = self.numbered(PartKind::Foreign, &format!("{table}_ibfk_"));
                }
                self.index_of_foreign_key(&part.name, &key);
            }
            _ => {
                let mut index = Index::parse(&part.text).ok_or("an index is not understood")?;
                for p in &mut index.parts {
                    match p {
                        // As the column is written.
                        KeyPart::Column { name, .. } => {
                            let column = self.at(name).map(|at| self.columns[at].0.name.clone());
                            *name = column.ok_or_else(|| format!("the table has no column {name} here"))?;
                        }
                        KeyPart::Expression { text } => *text = quoted(text, names.iter().map(String::as_str)),
                    }
                }
                part.text = printed_index(&index);
                if part.name.is_empty() {
                    part.name = self.index_name(&index);
                }
            }
        }
        if self.parts.iter().any(|p| same_part(p, &part)) {
            return Err(format!("the table has {} {} already", part.kind.name(), part.name));
        }
        self.parts.push(part);
        Ok(())
    }

    /// Names that servers give: a prefix and the number behind the highest.
    fn numbered(&self, kind: PartKind, prefix: &str) -> String {
        let numbers = self.parts.iter().filter(|p| p.kind == kind);
        let highest = numbers.filter_map(|p| p.name.strip_prefix(prefix)?.parse::<u32>().ok()).max().unwrap_or(0);
        format!("{prefix}{}", highest + 1)
    }

    /// The first column's name, with a number where that is taken.
    fn index_name(&self, index: &Index) -> String {
        let base = match index.parts.first() {
            Some(KeyPart::Column { name, .. }) if !name.eq_ignore_ascii_case("PRIMARY") => name.clone(),
            Some(KeyPart::Column { name, .. }) => format!("{name}_2"),
            _ => "functional_index".to_owned(),
        };
        let taken = |name: &str| self.parts.iter().any(|p| is_index(p.kind) && p.name.eq_ignore_ascii_case(name));
        let more = (2..100).map(|n| format!("{base}_{n}"));
        std::iter::once(base.clone()).chain(more).find(|n| !taken(n)).unwrap_or(base)
    }

    /// A foreign key needs an index; the server makes one where there is none.
    fn index_of_foreign_key(&mut self, name: &str, key: &Foreign) {
        let leads = |p: &Part| {
            let names: Vec<String> = Index::parse(&p.text)
                .map(|i| i.parts)
                .unwrap_or_default()
                .into_iter()
                .map_while(|p| match p {
                    KeyPart::Column { name, prefix: None, .. } => Some(name.to_lowercase()),
                    _ => None,
                })
                .take(key.columns.len())
                .collect();
            let wanted: Vec<String> = key.columns.iter().map(|c| c.to_lowercase()).collect();
            names == wanted
        };
        if !self.parts.iter().any(|p| is_index(p.kind) && leads(p)) {
            let text = format!("({})", key.columns.iter().map(|c| sql::name(c)).collect::<Vec<_>>().join(","));
            self.parts.push(Part { kind: PartKind::Index, name: name.to_owned(), text });
        }
    }

    fn drop_part(&mut self, kind: Option<PartKind>, name: &str, lenient: bool) -> Result<(), String> {
        let fits = |p: &Part| match kind {
            Some(PartKind::Index) => is_index(p.kind) && p.name.eq_ignore_ascii_case(name),
            Some(kind) => p.kind == kind && (kind == PartKind::Primary || p.name.eq_ignore_ascii_case(name)),
            None => {
                matches!(p.kind, PartKind::Foreign | PartKind::Check | PartKind::Unique | PartKind::Primary)
                    && p.name.eq_ignore_ascii_case(name)
            }
        };
        match self.parts.iter().position(fits) {
            Some(at) => {
                self.parts.remove(at);
                Ok(())
            }
            None if lenient => Ok(()),
            None => Err(format!("the table has no index or constraint {name} here")),
        }
    }

    fn convert(&mut self, charset: Option<&str>, collation: Option<&str>, env: &Env) -> Result<(), String> {
        let charset = match (charset, collation) {
            (Some(charset), _) => env.charset(charset),
            (None, Some(collation)) => env.charset_of(&env.collation(collation), "utf8mb4"),
            (None, None) => return Err("the default character set of the database is not known here".into()),
        };
        let collation = collation.map_or_else(|| env.known.default_collation(&charset), |c| env.collation(c));
        for (column, definition) in &mut self.columns {
            let Some(my) = MyType::parse(&column.origin_type) else { continue };
            let labels = matches!(my.kind, Kind::Enum { .. } | Kind::Set { .. });
            if my.charset.is_none() || !(my.is_text() || labels) || my.charset.as_deref() == Some("binary") {
                continue;
            }
            if charset == "binary" && !labels {
                return Err("text becomes bytes".into());
            }
            let bare = column.origin_type.split(" character set ").next().unwrap_or_default().to_owned();
            // Texts of a size by bytes get the room that the new characters need.
            let bare = wider(&bare, my.charset.as_deref().unwrap_or_default(), &charset);
            column.origin_type = format!("{bare} character set {charset}");
            column.collation = Some(collation.clone());
            definition.type_text = bare;
            // It is the table's own from here on: servers do not name it with the column.
            (definition.charset, definition.collation) = (None, None);
        }
        self.default_text(charset, collation);
        Ok(())
    }

    fn default_text(&mut self, charset: String, collation: String) {
        self.table.options.insert("charset".into(), charset);
        self.table.options.insert("collation".into(), collation);
    }

    fn option(&mut self, name: &str, value: &str, env: &Env) {
        let bare = value.trim_matches(|c| c == '\'' || c == '`').to_owned();
        match name {
            "ENGINE" | "TYPE" => {
                self.table.options.insert("engine".into(), bare);
            }
            "COMMENT" => {
                let comment = crate::catalog::lex::unescape(value);
                if comment.is_empty() {
                    self.table.options.remove("comment");
                } else {
                    self.table.options.insert("comment".into(), comment);
                }
            }
            "CHARSET" => {
                let charset = env.charset(&bare);
                let collation = env.known.default_collation(&charset);
                self.default_text(charset, collation);
            }
            "COLLATE" => {
                let collation = env.collation(&bare);
                let now = texts_of(&self.table, env).charset;
                self.default_text(env.charset_of(&collation, &now), collation);
            }
            "AUTO_INCREMENT" => {
                self.table.options.insert("auto_increment".into(), bare);
            }
            _ => {
                let known = self.table.options.get("options").and_then(|o| serde_json::from_str(o).ok());
                let mut pairs: Vec<(String, String)> = known.unwrap_or_default();
                pairs.retain(|(n, _)| n != name);
                pairs.push((name.to_owned(), value.to_owned()));
                self.table.options.insert("options".into(), serde_json::to_string(&pairs).unwrap_or_default());
            }
        }
    }
}

/// A conversion to a character set with wider characters makes larger texts of texts.
fn wider(bare: &str, from: &str, to: &str) -> String {
    let width = |set: &str| match set {
        "utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030" => 4u32,
        "utf8mb3" | "utf8" | "ujis" | "eucjpms" => 3,
        "ucs2" | "gbk" | "sjis" | "cp932" | "big5" | "euckr" | "gb2312" => 2,
        _ => 1,
    };
    if width(to) <= width(from) {
        return bare.to_owned();
    }
    match bare {
        "tinytext" => "text".into(),
        "text" => "mediumtext".into(),
        "mediumtext" => "longtext".into(),
        other => other.to_owned(),
    }
}

fn is_index(kind: PartKind) -> bool {
    use PartKind::{FullText, Primary, Spatial, Unique, Vector};
    matches!(kind, Primary | Unique | PartKind::Index | FullText | Spatial | Vector)
}

fn same_part(a: &Part, b: &Part) -> bool {
    let same_space = is_index(a.kind) == is_index(b.kind) && (is_index(a.kind) || a.kind == b.kind);
    same_space && a.name.eq_ignore_ascii_case(&b.name)
}

fn in_index(part: &Object, name: &str) -> bool {
    let parts = Index::parse(&part.definition).map(|i| i.parts).unwrap_or_default();
    parts.iter().any(|p| matches!(p, KeyPart::Column { name: n, .. } if n.eq_ignore_ascii_case(name)))
}

fn mentions(part: &Part, name: &str) -> bool {
    Foreign::parse(&part.text).is_some_and(|f| f.columns.iter().any(|c| c.eq_ignore_ascii_case(name)))
}

/// The table behind the clauses of an ALTER TABLE, but for its name.
///
/// # Errors
/// Why it cannot be told.
pub fn alter(table: &Table, actions: &[Action], env: &Env) -> Result<Altered, String> {
    let mut draft = Draft::of(table);
    let (mut renamed, mut anew, mut clauses) = (Vec::new(), Vec::new(), Vec::new());
    // Defaults of the table hold for columns of the same statement, wherever they stand in it.
    for action in actions {
        if let Action::Option { name, value } = action {
            draft.option(name, value, env);
        }
    }
    let texts = texts_of(&draft.table, env);
    // What goes makes room for what comes, wherever it stands in the statement.
    for action in actions {
        match action {
            Action::DropColumn { name, lenient } if draft.at(name).is_some() || !lenient => draft.drop_column(name)?,
            Action::Drop { kind, name, lenient } => draft.drop_part(*kind, name, *lenient)?,
            _ => {}
        }
    }
    let there = |name: &str| table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(name));
    let mut parts = Vec::new();
    for action in actions {
        match action {
            Action::AddColumn { column, lenient } => {
                // Servers look for what there is before the statement.
                if !(*lenient && (there(&column.name) || draft.at(&column.name).is_some())) {
                    if !table.columns.is_empty() {
                        repeatable(column)?;
                    }
                    draft.add_column(column, &texts, env)?;
                    if table.columns.iter().any(|c| c.name.eq_ignore_ascii_case(&column.name)) {
                        let indexed = |p: &Object| {
                            let goes = actions
                                .iter()
                                .any(|a| matches!(a, Action::Drop { name, .. } if name.eq_ignore_ascii_case(&p.name)));
                            !goes && PartKind::of_name(&p.kind).is_some_and(is_index) && in_index(p, &column.name)
                        };
                        if table.parts.iter().any(indexed) {
                            return Err(format!("{} is dropped and added again, and stands in an index", column.name));
                        }
                        anew.push(column.name.clone());
                    }
                }
            }
            Action::Redefine { old, column, lenient } => {
                if *lenient && !there(old) {
                    continue;
                }
                let was = draft.columns[draft.need(old)?].0.name.clone();
                draft.redefine(old, column, &texts, env)?;
                if was != column.name {
                    renamed.push((was, column.name.clone()));
                }
            }
            Action::RenameColumn { old, new, lenient } => {
                let Some(at) = draft.at(old) else {
                    if *lenient {
                        continue;
                    }
                    return Err(format!("the table has no column {old} here"));
                };
                let was = draft.columns[at].0.name.clone();
                draft.rename_in_parts(&was, new);
                draft.columns[at].0.name.clone_from(new);
                renamed.push((was, new.clone()));
            }
            Action::Default { column, value, lenient } => {
                let Some(at) = draft.at(column) else {
                    if *lenient {
                        continue;
                    }
                    return Err(format!("the table has no column {column} here"));
                };
                let names = draft.names();
                let (column, definition) = &mut draft.columns[at];
                definition.default.clone_from(value);
                column::quote(definition, &names);
                column.default = definition.default.clone().filter(|d| !d.eq_ignore_ascii_case("NULL"));
            }
            Action::Visible { column, visible } => {
                let at = draft.need(column)?;
                draft.columns[at].1.invisible = !visible;
            }
            Action::Add { part, lenient } => parts.push((part, *lenient)),
            Action::RenameIndex { old, new, lenient } => {
                let found = draft.parts.iter_mut().find(|p| is_index(p.kind) && p.name.eq_ignore_ascii_case(old));
                match found {
                    Some(part) => part.name.clone_from(new),
                    None if *lenient => {}
                    None => return Err(format!("the table has no index {old} here")),
                }
            }
            Action::Convert { charset, collation } => draft.convert(charset.as_deref(), collation.as_deref(), env)?,
            Action::Partitioning(text) => draft.partitioning.clone_from(text),
            Action::Verbatim(text) => clauses.push(text.clone()),
            Action::DropColumn { .. } | Action::Drop { .. } | Action::RenameTable(_) => {}
            Action::Option { .. } | Action::Nothing => {}
        }
    }
    for (part, lenient) in parts {
        let there = lenient && draft.parts.iter().any(|p| same_part(p, part));
        if !there {
            draft.add_part(part.clone(), env)?;
        }
    }
    let names = draft.names();
    for (column, definition) in &mut draft.columns {
        column::quote(definition, &names);
        column.generated = definition.generated.clone().map(|(e, _)| e);
    }
    Ok(Altered { table: draft.finish(env), renamed, anew, clauses })
}

/// Rows that are there get the default of a column that is added: it must be the same wherever it is computed. The clock is, since the statement's
/// time is known.
fn repeatable(column: &Written) -> Result<(), String> {
    const SAME: [&str; 22] = [
        "CURRENT_TIMESTAMP",
        "NOW",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "CURRENT_DATE",
        "CURDATE",
        "CURRENT_TIME",
        "CURTIME",
        "JSON_ARRAY",
        "JSON_OBJECT",
        "JSON_QUOTE",
        "CONCAT",
        "LOWER",
        "UPPER",
        "REPEAT",
        "CAST",
        "CONVERT",
        "ABS",
        "JSON_VALID",
        "COALESCE",
        "IFNULL",
        "POINT",
    ];
    let words = lex::words(&column.text);
    let Some(at) = words.iter().position(|t| t.is("DEFAULT")) else { return Ok(()) };
    let types = ["CHAR", "BINARY", "DECIMAL", "DATETIME", "TIME", "CHECK", "COMMENT"];
    let called = words[at..].windows(2).find(|w| {
        let name = w[0].kind == lex::Kind::Word && w[1].is("(");
        name && !SAME.iter().chain(&types).any(|s| w[0].is(s)) && !w[0].is("DEFAULT") && !w[0].is("AS")
    });
    match called {
        Some(w) => Err(format!(
            "rows that are there get a value of {}() in the new column {}, which cannot be repeated elsewhere",
            w[0].text, column.name
        )),
        None => Ok(()),
    }
}

/// A new table. `texts`: of its database.
///
/// # Errors
/// Why it cannot be told.
pub fn create(name: &TableName, body: &Body, texts: &Texts, env: &Env) -> Result<Table, String> {
    let mut options = BTreeMap::new();
    options.insert("charset".to_owned(), texts.charset.clone());
    options.insert("collation".to_owned(), texts.collation.clone());
    options.insert("engine".to_owned(), "InnoDB".to_owned());
    let empty = Table { options, ..Table::new(name.clone(), Vec::new(), OldImage::Full) };
    let mut actions: Vec<Action> =
        body.options.iter().map(|(name, value)| Action::Option { name: name.clone(), value: value.clone() }).collect();
    actions.extend(body.columns.iter().map(|c| Action::AddColumn { column: c.clone(), lenient: false }));
    actions.extend(body.parts.iter().map(|p| Action::Add { part: p.clone(), lenient: false }));
    actions.extend(body.partitioning.iter().map(|p| Action::Partitioning(Some(p.clone()))));
    alter(&empty, &actions, env).map(|a| a.table)
}

/// The same table under another name; foreign keys of a copy (LIKE) do not come along.
pub fn renamed(table: &Table, name: &TableName) -> Table {
    let old = table.name.name.clone();
    let mut table = Table { name: name.clone(), ..table.clone() };
    for part in &mut table.parts {
        part.schema.clone_from(&name.schema);
        // Names that the server gave go with the table's.
        let given =
            matches!(part.kind.as_str(), "check" | "foreign key").then(|| part.name.strip_prefix(&old)).flatten();
        let numbered = given.filter(|rest| {
            let number = rest.strip_prefix("_chk_").or(rest.strip_prefix("_ibfk_"));
            number.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
        });
        if let Some(rest) = numbered {
            part.name = format!("{}{rest}", name.name);
        }
    }
    table
}

/// CREATE TABLE … LIKE.
pub fn like(table: &Table, name: &TableName, env: &Env) -> Table {
    let mut table = renamed(table, name);
    table.parts.retain(|p| p.kind != "foreign key" && p.kind != "trigger" && p.kind != "unsupported");
    // MySQL gives checks names of their own; MariaDB's are a table's.
    let checks = table.parts.iter_mut().filter(|p| p.kind == "check" && !env.mariadb());
    for (i, check) in checks.enumerate() {
        check.name = format!("{}_chk_{}", name.name, i + 1);
    }
    table.unlogged.clear();
    table.plain_foreign_keys.clear();
    table.options.remove("auto_increment");
    (table.rows, table.bytes) = (0, 0);
    table
}

/// A table that refers to one with another name now; `None`: it does not refer to it.
pub fn referring(table: &Table, from: &TableName, to: &TableName) -> Option<Table> {
    let mut changed = table.clone();
    let mut any = false;
    for part in changed.parts.iter_mut().filter(|p| p.kind == "foreign key") {
        let Some(key) = Foreign::parse(&part.definition) else { continue };
        let schema = key.schema.clone().unwrap_or_else(|| table.name.schema.clone());
        if schema.eq_ignore_ascii_case(&from.schema) && key.table.eq_ignore_ascii_case(&from.name) {
            let list = |names: &[String]| names.iter().map(|n| sql::name(n)).collect::<Vec<_>>().join(",");
            let text = format!(
                "({}) REFERENCES {} ({}) {}",
                list(&key.columns),
                sql::qualified(to),
                list(&key.foreign_columns),
                key.actions
            );
            part.definition = text.trim_end().to_owned();
            any = true;
        }
    }
    for key in changed.unlogged.iter_mut().filter(|k| k.parent == *from) {
        key.parent = to.clone();
        any = true;
    }
    any.then_some(changed)
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
