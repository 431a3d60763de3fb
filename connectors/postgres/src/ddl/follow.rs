//! What a schema change means for the migration. Pure. Guarantee: the difference between a table of the migration before and after becomes a
//! [`SchemaChange`] from which a destination comes to the same rows, or an error that says why not; a change that leaves no difference is none.
//!
//! Columns are known by their numbers, so that a new name is told from a new column. What values became is not in the log: a statement that writes
//! rows anew is carried over only where it follows from the types alone (see [`converts`]), and a new column only where it is told what rows
//! from before have in it.
//!
//! A table is known by its number as well: what the migration file says of it is what it said of the name that it was selected under, whatever it
//! is called by now.

use super::told::{Named, Told};
use crate::catalog::{NUMBERS, OID, SELECTED_AS};
use crate::schema::rewrite;
use crate::typemap;
use drover_model::TablePlan;
use drover_model::ddl::{SchemaChange, Schemas, TableChange, keeps_values};
use drover_model::plan::RowFormat;
use drover_model::schema::{Column, DataType, Object, PlainDefault, Table, TableName};
use drover_model::selection::Selection;
use std::collections::{BTreeMap, HashMap};

/// Why a schema change cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The table of the migration that it is about.
    pub table: TableName,
    pub why: String,
}

/// Reasons for which rows are written anew, as the server numbers them.
const BY_DEFAULT: i32 = 2;
const BY_TYPE: i32 = 4;

/// Kinds of a table's parts that are carried over: the others do nothing to rows while changes are followed.
const PARTS: [&str; 6] = ["check", "primary key", "unique", "exclude", "index", "foreign key"];

/// Follows the structures of the migration's tables.
#[derive(Debug, Clone)]
pub struct Follower {
    pub schemas: Schemas,
    selection: Selection,
}

/// A table on both sides of a change.
struct Pair<'a> {
    before: &'a Table,
    after: Table,
    told: &'a Told,
    /// Why its rows were written anew.
    rewritten: i32,
    /// The rows go to another kind of database.
    canonical: bool,
}

/// The columns of a pair, put together.
struct Columns {
    renamed: Vec<(String, String)>,
    anew: Vec<String>,
    filled: Vec<(String, String)>,
    /// Anything about columns that rows depend on.
    deep: bool,
    differ: bool,
}

impl Follower {
    pub fn new(schemas: Schemas, selection: Selection) -> Follower {
        Follower { schemas, selection }
    }

    /// Takes a change in: what follows is read with it.
    pub fn apply(&mut self, change: &SchemaChange) {
        self.schemas.apply(change);
    }

    /// The tables that are followed, each with its number where that is known.
    pub fn followed(&self) -> impl Iterator<Item = (&TableName, Option<u32>)> {
        let known: HashMap<&TableName, &Table> = self.schemas.catalog.tables.iter().map(|t| (&t.name, t)).collect();
        let live = self.schemas.plans.iter().filter(|p| !p.is_gone());
        live.map(move |p| (&p.source, known.get(&p.source).and_then(|t| number(t))))
    }

    fn plan_of(&self, name: &TableName) -> Option<&TablePlan> {
        self.schemas.plans.iter().find(|p| !p.is_gone() && p.source == *name)
    }

    fn table(&self, oid: &str, name: &TableName) -> Option<&Table> {
        let tables = &self.schemas.catalog.tables;
        let by_number = tables.iter().find(|t| t.options.get(OID).is_some_and(|o| o == oid));
        by_number.or_else(|| tables.iter().find(|t| t.name == *name && !t.options.contains_key(OID)))
    }

    /// What was told, as a change of the migration; `None`: nothing of it concerns the migration. With the change comes whether it touches columns,
    /// rows or existence. `rewritten`: tables whose rows the statement wrote anew, and why.
    ///
    /// # Errors
    /// It cannot be followed.
    pub fn follow(
        &self,
        told: &Told,
        found: Vec<Table>,
        rewritten: &HashMap<u32, i32>,
    ) -> Result<Option<(SchemaChange, bool)>, Refused> {
        let mut tables = Vec::new();
        let mut deep = false;
        for after in found {
            let oid = after.options.get(OID).cloned().unwrap_or_default();
            let Some(before) = self.table(&oid, &after.name) else { continue };
            let Some(plan) = self.plan_of(&before.name) else { continue };
            let refused = |why: String| Refused { table: before.name.clone(), why };
            if before.name != after.name && !self.selects(&after.name) {
                return Err(refused(format!("it was renamed to {}, which is not selected", after.name)));
            }
            if let Some(why) = self.brought_along(&after, before, told) {
                return Err(refused(why));
            }
            let why = oid.parse().ok().and_then(|oid: u32| rewritten.get(&oid)).copied().unwrap_or(0);
            let canonical = plan.format == RowFormat::Canonical;
            let pair = Pair { before, after: kept_parts(after, before), told, rewritten: why, canonical };
            if let Some((change, is_deep)) = self.changed(plan, pair).map_err(refused)? {
                deep |= is_deep;
                tables.push(change);
            }
        }
        if let Some(refused) = told.strange.iter().find_map(|s| self.takes_a_place(s, told)) {
            return Err(refused);
        }
        for gone in &told.dropped {
            let name = TableName::new(gone.schema.clone(), gone.name.clone());
            if gone.kind == "index" {
                tables.extend(self.without_index(&name, &tables));
                continue;
            }
            if let Some(root) = self.schemas.catalog.tables.iter().find(|t| has_partition(t, &name)) {
                let why = format!("its partition {name} was dropped: the log does not tell its rows");
                return Err(Refused { table: root.name.clone(), why });
            }
            let Some(before) = self.table(&gone.oid.to_string(), &name) else { continue };
            let Some(plan) = self.plan_of(&before.name) else { continue };
            deep = true;
            let mut change = blank(plan.id, before);
            change.apart = !plan.operations.ddl;
            tables.push(change);
        }
        if tables.is_empty() {
            return Ok(None);
        }
        let change = SchemaChange {
            verb: told.tag.clone(),
            statement: Some(told.statement.clone()),
            context: BTreeMap::new(),
            tables,
            objects: Vec::new(),
        };
        Ok(Some((change, deep)))
    }

    /// The table is not followed any more.
    pub fn stopped(&self, table: &TableName, statement: &str, why: &str) -> Option<SchemaChange> {
        let plan = self.plan_of(table)?;
        let before = self.schemas.catalog.table(table)?;
        let mut change = blank(plan.id, before);
        change.apart = true;
        change.stopped = Some(if statement.is_empty() { why.to_owned() } else { format!("{why}: {statement}") });
        Some(SchemaChange {
            verb: "ALTER TABLE".into(),
            statement: (!statement.is_empty()).then(|| statement.to_owned()),
            context: BTreeMap::new(),
            tables: vec![change],
            objects: Vec::new(),
        })
    }

    /// An index that is dropped by itself: the server does not tell of which table it was.
    fn without_index(&self, name: &TableName, others: &[TableChange]) -> Option<TableChange> {
        let is_it = |p: &Object| p.kind == "index" && p.name == name.name;
        let of = |t: &&Table| t.name.schema == name.schema && t.parts.iter().any(is_it);
        let before = self.schemas.catalog.tables.iter().find(of)?;
        let plan = self.plan_of(&before.name)?;
        if others.iter().any(|c| c.id == Some(plan.id)) {
            return None;
        }
        let mut after = before.clone();
        after.parts.retain(|p| !is_it(p));
        after.keys.retain(|k| k.name != name.name);
        after.plain_indexes.retain(|i| i.name != name.name);
        let mut change = blank(plan.id, before);
        change.apart = !plan.operations.ddl;
        change.plan = self.plan(plan, &before.name, &after, &[]).ok();
        change.after = Some(after);
        Some(change)
    }

    /// A table that does not belong to the migration takes the name that one of its tables was selected under.
    fn takes_a_place(&self, stranger: &Named, told: &Told) -> Option<Refused> {
        let name = TableName::new(stranger.schema.clone(), stranger.name.clone());
        let had = |t: &&Table| t.name != name && selected_as(t) == name && self.plan_of(&t.name).is_some();
        let table = self.schemas.catalog.tables.iter().find(had)?.name.clone();
        rewrite::renames_to(&told.statement, &name).then(|| {
            let why = format!("another table, whose rows were never copied, took the name {name} from it");
            Refused { table, why }
        })
    }

    /// Why the rows of a new partition cannot be followed: it had some before it was one.
    fn brought_along(&self, after: &Table, before: &Table, told: &Told) -> Option<String> {
        let is_new = |p: &&Object| p.kind == "partition" && !before.parts.iter().any(|b| same_object(b, p));
        after.parts.iter().filter(is_new).find_map(|p| {
            let name = TableName::new(p.schema.clone(), p.name.clone());
            let lost = |b: &&Object| b.kind == p.kind && !after.parts.iter().any(|a| same_object(a, b));
            if let Some(former) = before.parts.iter().find(|b| lost(b) && b.definition == p.definition) {
                return Some(format!("its partition {}.{} was renamed to {name}", former.schema, former.name));
            }
            if told.filled.iter().any(|f| f.schema == p.schema && f.name == p.name) {
                return Some(format!("its partition {name} was attached with rows in it: the log does not tell them"));
            }
            let own = self.schemas.catalog.tables.iter().any(|t| t.name == name);
            own.then(|| format!("its partition {name} was a table of its own before"))
        })
    }

    fn changed(&self, plan: &TablePlan, pair: Pair<'_>) -> Result<Option<(TableChange, bool)>, String> {
        let columns = columns(&pair)?;
        let Pair { before, after, rewritten, told, .. } = pair;
        if rewritten & BY_TYPE != 0 && !told.plain {
            return Err("its rows were written anew by an expression that the log does not tell".into());
        }
        let part = |p: &Object| (p.kind.clone(), p.name.clone(), p.definition.clone());
        let of = |t: &Table| -> Vec<_> {
            let mut parts: Vec<_> = t
                .parts
                .iter()
                .filter(|p| PARTS.contains(&p.kind.as_str()) || p.kind == "partition")
                .map(part)
                .collect();
            parts.sort_unstable();
            parts
        };
        let gone =
            before.parts.iter().find(|p| p.kind == "partition" && !after.parts.iter().any(|a| same_object(a, p)));
        if let Some(gone) = gone {
            return Err(format!(
                "its partition {}.{} was taken from it: the log does not tell its rows",
                gone.schema, gone.name
            ));
        }
        let moved = before.name != after.name;
        if !moved && !columns.differ && of(before) == of(&after) {
            return Ok(None);
        }
        if let Some(filter) = plan.filter.as_ref().filter(|_| moved)
            && rewrite::mentions(filter, [&before.name.name]).is_some()
        {
            return Err(format!("the condition on its rows names {}, which is {} now", before.name, after.name));
        }
        if let Some(filter) = &plan.filter
            && let Some(name) = rewrite::mentions(filter, columns.renamed.iter().map(|(old, _)| old))
        {
            return Err(format!("the condition on its rows names {name}, which has another name now"));
        }
        let mut change = blank(plan.id, before);
        change.apart = !plan.operations.ddl;
        change.plan = Some(self.plan(plan, &before.name, &after, &columns.renamed)?);
        change.after = Some(after);
        change.renamed = columns.renamed;
        change.anew = columns.anew;
        change.filled = columns.filled;
        Ok(Some((change, columns.deep || moved)))
    }

    fn selects(&self, name: &TableName) -> bool {
        !matches!(self.selection.decide_again(&name.schema, &name.name, &[]), Ok(None))
    }

    /// Where a table goes that has another name now, or none. One to which the file gives a name keeps it, as does one whose schema changes are not
    /// selected.
    fn destination(&self, old: &TablePlan, before: &TableName, table: &Table) -> TableName {
        let (now, selected) = (&table.name, selected_as(table));
        if before == now || !old.operations.ddl || self.selection.gives_name(&selected.schema, &selected.name) {
            return old.destination.clone();
        }
        let schema = match before.schema == now.schema {
            true => old.destination.schema.as_str(),
            false => self.selection.destination_schema(&now.schema),
        };
        TableName::new(schema, now.name.clone())
    }

    /// The plan of a table as it is now; `before`: what it was called.
    fn plan(
        &self,
        old: &TablePlan,
        before: &TableName,
        table: &Table,
        renamed: &[(String, String)],
    ) -> Result<TablePlan, String> {
        let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let selected = selected_as(table);
        let choice = match self.selection.decide_again(&selected.schema, &selected.name, &names) {
            Ok(Some(choice)) => choice,
            Ok(None) => return Err(format!("{selected} is not selected")),
            Err(errors) => return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        };
        let choice = if old.operations.ddl { choice } else { choice.kept(old, renamed) };
        let mapped = typemap::map(&self.schemas.catalog, table, &choice);
        if mapped.plan.columns.is_empty() {
            return Err("no column of it is left".into());
        }
        // Rows that are copied or compared from here on may hold what the former form cannot.
        let format = if mapped.formats.contains(&old.format) {
            old.format.clone()
        } else {
            mapped.formats.into_iter().find(|f| *f != RowFormat::Canonical).unwrap_or(RowFormat::Canonical)
        };
        Ok(TablePlan {
            id: old.id,
            version: old.version + 1,
            destination: self.destination(old, before, table),
            physical: old.physical.clone(),
            format,
            ..mapped.plan
        })
    }
}

fn blank(id: u32, before: &Table) -> TableChange {
    TableChange {
        id: Some(id),
        before: Some(before.clone()),
        after: None,
        plan: None,
        renamed: Vec::new(),
        anew: Vec::new(),
        clauses: Vec::new(),
        filled: Vec::new(),
        apart: false,
        stopped: None,
    }
}

/// The number that a table keeps whatever its name.
pub fn number(table: &Table) -> Option<u32> {
    table.options.get(OID)?.parse().ok()
}

/// The name that a table was selected under.
fn selected_as(table: &Table) -> TableName {
    let kept = table.options.get(SELECTED_AS).and_then(|json| serde_json::from_str::<(String, String)>(json).ok());
    kept.map_or_else(|| table.name.clone(), |(schema, name)| TableName::new(schema, name))
}

fn same_object(a: &Object, b: &Object) -> bool {
    a.kind == b.kind && a.schema == b.schema && a.name == b.name
}

fn has_partition(table: &Table, name: &TableName) -> bool {
    table.parts.iter().any(|p| p.kind == "partition" && p.schema == name.schema && p.name == name.name)
}

/// The table as told, with what is told by other queries as it was.
fn kept_parts(mut after: Table, before: &Table) -> Table {
    after.physical.clone_from(&before.physical);
    (after.rows, after.bytes) = (before.rows, before.bytes);
    let of_others = |p: &&Object| p.kind == "trigger" || p.kind == "identity" || p.kind == "column";
    let mut others: Vec<Object> = before.parts.iter().filter(of_others).cloned().collect();
    after.parts.retain(|p| !matches!(p.kind.as_str(), "trigger" | "identity" | "column"));
    // Parts of partitions that do not come along.
    let on_known = |p: &Object| match (p.options.get("on_schema"), p.options.get("on_name")) {
        (Some(schema), Some(name)) => {
            let on = TableName::new(schema.clone(), name.clone());
            on == after.name || has_partition(&after, &on)
        }
        _ => true,
    };
    others.iter_mut().for_each(|part| rewrite::part(part, &before.name, &after.name));
    after.parts = after.parts.iter().filter(|p| on_known(p)).cloned().chain(others).collect();
    if before.name != after.name {
        let selected = selected_as(before);
        let json = serde_json::to_string(&(selected.schema, selected.name)).unwrap_or_default();
        after.options.insert(SELECTED_AS.into(), json);
    }
    for (key, value) in &before.options {
        let told = key.starts_with("counter:")
            || [OID, NUMBERS, "replica_identity", "replica_index", "leaves", "comment", "unlogged", "reloptions"]
                .contains(&key.as_str());
        if !told {
            after.options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    after
}

/// Puts the columns of both sides together.
fn columns(pair: &Pair<'_>) -> Result<Columns, String> {
    let Pair { before, after, told, rewritten, canonical } = pair;
    let numbers = |t: &Table| -> Vec<i16> {
        t.options.get(NUMBERS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    };
    let (old_numbers, new_numbers) = (numbers(before), numbers(after));
    // Tables that were planned by an earlier version have no numbers.
    let numbered = old_numbers.len() == before.columns.len() && new_numbers.len() == after.columns.len();
    let former = |at: usize| -> Option<&Column> {
        if !numbered {
            return before.column(&after.columns[at].name);
        }
        old_numbers.iter().position(|n| *n == new_numbers[at]).and_then(|i| before.columns.get(i))
    };
    let mut out = Columns { renamed: vec![], anew: vec![], filled: vec![], deep: false, differ: false };
    let mut stayed = 0;
    for (at, new) in after.columns.iter().enumerate() {
        let Some(old) = former(at) else {
            (out.deep, out.differ) = (true, true);
            if before.column(&new.name).is_some() {
                out.anew.push(new.name.clone());
            }
            out.filled.extend(filled(new, pair)?.map(|value| (new.name.clone(), value)));
            continue;
        };
        stayed += 1;
        if old.name != new.name {
            (out.deep, out.differ) = (true, true);
            out.renamed.push((old.name.clone(), new.name.clone()));
        }
        if old.origin_type != new.origin_type || old.collation != new.collation {
            (out.deep, out.differ) = (true, true);
            if rewritten & BY_TYPE != 0 && !told.plain {
                return Err(format!("column {} was converted by an expression that the log does not tell", new.name));
            }
            if rewritten & BY_TYPE != 0 && !converts(&old.data_type, &new.data_type) {
                return Err(format!(
                    "column {} was converted from {} to {}: what became of its values depends on the session",
                    new.name, old.origin_type, new.origin_type
                ));
            }
            if *canonical && !keeps_values(old, new) {
                return Err(format!(
                    "column {} was converted from {} to {}: what became of its values is not told to another kind of database",
                    new.name, old.origin_type, new.origin_type
                ));
            }
        }
        if old.identity != new.identity {
            return Err(format!("column {} became an identity, or is none any more", new.name));
        }
        let expression = |c: &Column| c.generated.is_some();
        if expression(old) != expression(new) || rewritten & BY_TYPE != 0 && old.generated != new.generated {
            return Err(format!("the expression of the generated column {} was changed", new.name));
        }
        out.differ |= old.default != new.default || old.nullable != new.nullable;
    }
    if stayed < before.columns.len() {
        (out.deep, out.differ) = (true, true);
    }
    Ok(out)
}

/// What rows from before have in a new column: a cell's text; `None`: null, or what the column computes itself.
fn filled(column: &Column, pair: &Pair<'_>) -> Result<Option<String>, String> {
    if column.generated.is_some() {
        return Ok(None);
    }
    let unknown = || {
        format!("column {} was added with a value of its own for each row, which the log does not tell", column.name)
    };
    if column.identity.is_some() {
        return Err(unknown());
    }
    let oid = pair.after.options.get(OID).and_then(|o| o.parse().ok()).unwrap_or(0u32);
    if let Some(known) = pair.told.missing.iter().find(|m| m.relid == oid && m.name == column.name) {
        return Ok(known.value.clone());
    }
    match (&column.default, &column.plain_default) {
        (None, _) if pair.rewritten & BY_DEFAULT != 0 => Err(unknown()),
        (None, _) => Ok(None),
        (Some(_), Some(PlainDefault::Value(value))) => match column.data_type {
            DataType::Bytes { .. } => Ok(Some(format!("\\x{value}"))),
            _ => Ok(Some(value.clone())),
        },
        (Some(text), _) if text.starts_with("NULL::") => Ok(None),
        // A table without rows has nothing written anew, and nothing missing.
        (Some(_), _) => Err(unknown()),
    }
}

/// Whether values of one type become the other's the same way on every server, whatever its session is set to.
fn converts(old: &DataType, new: &DataType) -> bool {
    use DataType::{Bytes, Decimal, Float, Int, Json, JsonText, Text, Uuid};
    let number = |t: &DataType| matches!(t, Int { .. } | Decimal { .. } | Float { .. });
    let text = |t: &DataType| matches!(t, Text { .. });
    number(old) && number(new)
        || (text(old) || matches!(old, Int { .. } | Decimal { .. } | Uuid | Json | JsonText)) && text(new)
        || matches!((old, new), (Bytes { .. }, Bytes { .. }) | (Json, JsonText) | (JsonText, Json))
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
