//! A schema change of another kind of database as statements for this destination, made from the structures before and after: names that are mapped,
//! columns that are left out and types are taken care of as when the schema was created. Pure.
//!
//! Guarantee: executing the statements in their order turns the tables as they were created from the structures before into what would be created from
//! those after, and rows hold what the source's statement left in them: a new column is filled with what the source told, and a type changes only
//! where every value stays what it is. Everything else is an error. Each statement is done wholly or not at all.

use super::{Definition, Foreign, as_default, counter, index_name, literal, wide};
use crate::encode::Encoder;
use crate::schema::change::{Made, renames};
use crate::schema::work::{LeftOut, Statement};
use crate::sql;
use crate::typemap::Known;
use crate::types::MyType;
use drover_connectors_api::Shift;
use drover_model::TablePlan;
use drover_model::ddl::{Schemas, TableChange, keeps_values};
use drover_model::error::codes;
use drover_model::plan::{Misfit, PlanColumn, RowFormat};
use drover_model::row::Cell;
use drover_model::schema::{Column, DataType, Table, TableName};
use drover_model::{Error, Fault, Result, Retry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A table on both sides of the change. The one before has its columns under the names that they have behind it; those that are dropped have names
/// that no column has.
struct Pair<'a> {
    change: &'a TableChange,
    /// As it is at the destination.
    first: &'a TablePlan,
    old_plan: &'a TablePlan,
    old: &'a Table,
    plan: &'a TablePlan,
    new: &'a Table,
}

/// A column at the destination.
struct Line<'a> {
    planned: &'a PlanColumn,
    column: &'a Column,
    definition: Definition,
}

/// A key or index at the destination.
struct Index {
    /// `None`: the primary key.
    name: Option<String>,
    /// What stands behind ADD.
    clause: String,
    /// Names at the source.
    columns: Vec<String>,
    /// Rows are found by it; it was made with the table.
    base: bool,
}

impl Index {
    /// What it is, whatever it is called.
    fn nature(&self) -> String {
        let name = self.name.as_deref().map(sql::name).unwrap_or_default();
        self.clause.replacen(&name, "", 1)
    }
}

/// The statements of a schema change.
///
/// # Errors
/// UNSUPPORTED, with the table and the statement, when there is no way to do it here.
pub fn statements(shift: &Shift<'_>, known: &Known) -> Result<Vec<Made>> {
    let refused = |name: &TableName, why: String| {
        let told = shift.change.statement.as_deref().map(|s| format!("; the statement: {s}")).unwrap_or_default();
        Error::new(codes::UNSUPPORTED, Fault::Destination, Retry::Never, format!("{why}{told}"))
            .table(name)
            .remedy("undo the change at the source, or migrate the table again")
    };
    let acting: Vec<&TableChange> =
        shift.change.tables.iter().filter(|c| !c.apart && c.stopped.is_none() && c.id.is_some()).collect();
    let present = under_new_names(shift, &acting);
    let (before, old_plans, new_plans) = (shift.before.live(), present.live(), shift.after.live());
    let mut was = Foreign::new(&present.catalog, &old_plans, &[], known);
    let mut is = Foreign::new(&shift.after.catalog, &new_plans, &[], known);
    let of = |plans: &'_ [TablePlan], id: Option<u32>| plans.iter().position(|p| Some(p.id) == id);
    let (mut out, mut open, mut pairs, mut made_anew) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut gone: BTreeSet<&TableName> = BTreeSet::new();
    for change in &acting {
        let first = of(&before, change.id).map(|i| &before[i]);
        let second = of(&new_plans, change.id).map(|i| &new_plans[i]).zip(change.after.as_ref());
        match (first, second) {
            (Some(first), None) => {
                let name = &first.destination;
                gone.insert(name);
                out.push(Made::new(format!("DROP TABLE {}", sql::qualified(name)), vec![name.clone()]));
            }
            (Some(first), Some((plan, new))) => {
                if first.destination.schema != plan.destination.schema {
                    out.push(Made::new(is.database(&plan.destination.schema), Vec::new()));
                }
                open.push((first.destination.clone(), plan.destination.clone()));
                let old_plan = of(&old_plans, change.id).map(|i| &old_plans[i]);
                if let Some((old_plan, old)) = old_plan.and_then(|p| present.catalog.table(&p.source).map(|t| (p, t))) {
                    pairs.push(Pair { change, first, old_plan, old, plan, new });
                }
            }
            (None, Some((plan, new))) => made_anew.push((plan, new)),
            (None, None) => {}
        }
    }
    out.extend(renames(open));
    let followed = |plans: &[TablePlan], s: &Statement| {
        plans.iter().any(|p| Some(&p.destination) == s.on.as_ref() && p.operations.ddl)
    };
    let (old_keys, new_keys) = (was.last(), is.last());
    for key in old_keys.iter().filter(|k| !new_keys.contains(k) && followed(&old_plans, k)) {
        let Some(on) = key.on.as_ref().filter(|on| !gone.contains(on)) else { continue };
        let sql = format!("ALTER TABLE {} DROP FOREIGN KEY {}", sql::qualified(on), sql::name(&key.name.name));
        out.push(Made { drops: true, ..Made::new(sql, vec![on.clone()]) });
    }
    for pair in &pairs {
        alteration(&mut was, &mut is, pair, &mut out).map_err(|why| refused(&pair.new.name, why))?;
    }
    for (plan, new) in made_anew {
        let name = &plan.destination;
        out.push(Made::new(is.database(&name.schema), Vec::new()));
        out.push(Made::new(is.create_table(plan, new), vec![name.clone()]));
        let added: Vec<String> = is.table(plan, new).into_iter().map(|a| format!("ADD {}", a.clause)).collect();
        out.extend(altered(name, &added));
    }
    for key in new_keys.iter().filter(|k| !old_keys.contains(k) && followed(&new_plans, k)) {
        out.push(Made::new(key.sql.clone(), key.on.iter().cloned().collect()));
    }
    was.objects_left_out();
    is.objects_left_out();
    let known: Vec<&LeftOut> = was.left_out.iter().collect();
    is.left_out.iter().filter(|l| !known.contains(l)).for_each(|l| l.tell());
    Ok(out)
}

fn altered(table: &TableName, clauses: &[String]) -> Option<Made> {
    let sql = || format!("ALTER TABLE {} {}", sql::qualified(table), clauses.join(", "));
    (!clauses.is_empty()).then(|| Made::new(sql(), vec![table.clone()]))
}

/// Catalogue and plans before the change, with tables and columns under their new names: what then differs, differs in more than names.
fn under_new_names(shift: &Shift<'_>, changes: &[&TableChange]) -> Schemas {
    let mut out = shift.before.clone();
    let all: Vec<TableChange> = changes.iter().map(|c| (*c).clone()).collect();
    out.refer(&all);
    // Names may be exchanged between tables: places are told before.
    let at =
        |c: &&TableChange| out.catalog.tables.iter().position(|t| Some(&t.name) == c.before.as_ref().map(|b| &b.name));
    let places: Vec<Option<usize>> = changes.iter().map(at).collect();
    for (change, place) in changes.iter().zip(places) {
        let (Some(before), Some(after), Some(id)) = (&change.before, &change.after, change.id) else { continue };
        let now = |name: &String| -> String {
            if let Some((_, new)) = change.renamed.iter().find(|(old, _)| old == name) {
                return new.clone();
            }
            let taken = change.renamed.iter().any(|(_, new)| new == name) || change.anew.contains(name);
            if taken || after.column(name).is_none() { format!("{name}\0") } else { name.clone() }
        };
        let names: BTreeMap<String, String> = before.columns.iter().map(|c| (c.name.clone(), now(&c.name))).collect();
        let renamed = |name: &mut String| {
            if let Some(new) = names.get(name) {
                name.clone_from(new);
            }
        };
        if let Some(table) = place.and_then(|at| Arc::make_mut(&mut out.catalog).tables.get_mut(at)) {
            table.columns.iter_mut().for_each(|c| renamed(&mut c.name));
            table.keys.iter_mut().flat_map(|k| &mut k.columns).for_each(renamed);
            table.plain_indexes.iter_mut().flat_map(|i| &mut i.columns).for_each(|c| renamed(&mut c.name));
            table.plain_foreign_keys.iter_mut().flat_map(|k| &mut k.columns).for_each(renamed);
            let counters: BTreeMap<String, String> = std::mem::take(&mut table.options)
                .into_iter()
                .map(|(key, value)| match key.strip_prefix("counter:").and_then(|c| names.get(c)) {
                    Some(new) => (format!("counter:{new}"), value),
                    None => (key, value),
                })
                .collect();
            table.options = counters;
            table.name = after.name.clone();
        }
        let Some(plan) = Arc::make_mut(&mut out.plans).get_mut(id as usize) else { continue };
        for column in &mut plan.columns {
            renamed(&mut column.source);
        }
        plan.left_out.iter_mut().for_each(renamed);
        plan.source = after.name.clone();
        if let Some(new) = shift.after.plans.get(id as usize) {
            plan.destination = new.destination.clone();
            for column in &mut plan.columns {
                if let Some(now) = new.columns.iter().find(|c| c.source == column.source) {
                    column.destination.clone_from(&now.destination);
                }
            }
        }
    }
    out
}

/// The name that a column of the old plan has at the destination.
fn former<'a>(pair: &Pair<'a>, source: &str) -> Option<&'a str> {
    let at = pair.old_plan.columns.iter().position(|c| c.source == source)?;
    pair.first.columns.get(at).map(|c| c.destination.as_str())
}

fn lines<'a>(work: &mut Foreign<'_>, plan: &'a TablePlan, table: &'a Table) -> Vec<Line<'a>> {
    let counter = counter(plan, table);
    let columns = plan.columns.iter().filter_map(|p| Some((p, table.column(&p.source)?)));
    columns
        .map(|(planned, column)| {
            let definition = work.definition(plan, planned, column, counter == Some(planned.source.as_str()));
            Line { planned, column, definition }
        })
        .collect()
}

fn indexes(work: &mut Foreign<'_>, plan: &TablePlan, table: &Table) -> Vec<Index> {
    let mut out = Vec::new();
    for (clause, columns) in work.base_keys(plan, table) {
        let key = table.keys.iter().find(|k| !k.primary && k.columns == columns);
        let name = key.filter(|_| !clause.starts_with("PRIMARY KEY")).map(|k| index_name(&k.name));
        out.push(Index { name, clause, columns, base: true });
    }
    for added in work.table(plan, table) {
        let plain = table.plain_indexes.iter().find(|i| index_name(&i.name) == added.name);
        let columns = plain.map(|i| i.columns.iter().map(|c| c.name.clone()).collect()).unwrap_or_default();
        out.push(Index { name: Some(added.name), clause: added.clause, columns, base: false });
    }
    out
}

/// The counter, if no key that was made with the table begins with it: it has an index of its own then.
fn lone_counter<'t>(plan: &TablePlan, table: &'t Table, indexes: &[Index]) -> Option<&'t str> {
    let counter = counter(plan, table)?;
    let leads = |i: &Index| i.base && i.columns.first().is_some_and(|c| c == counter);
    (!indexes.iter().any(leads)).then_some(counter)
}

fn alteration(
    was: &mut Foreign<'_>,
    is: &mut Foreign<'_>,
    pair: &Pair<'_>,
    out: &mut Vec<Made>,
) -> std::result::Result<(), String> {
    let table = &pair.plan.destination;
    let (before, after) = (lines(was, pair.old_plan, pair.old), lines(is, pair.plan, pair.new));
    let (old_indexes, new_indexes) = (indexes(was, pair.old_plan, pair.old), indexes(is, pair.plan, pair.new));
    let same = |a: &Index, b: &Index| a.name == b.name && a.clause == b.clause;
    let mut come: Vec<&Index> = new_indexes.iter().filter(|n| !old_indexes.iter().any(|o| same(o, n))).collect();
    let mut main = Vec::new();
    for gone in old_indexes.iter().filter(|o| !new_indexes.iter().any(|n| same(o, n))) {
        match &gone.name {
            Some(name) => out.push(without(is.known, pair, name, gone, &new_indexes, &mut come)),
            None if gone.columns.iter().any(|c| c.ends_with('\0')) => {}
            None => main.push("DROP PRIMARY KEY".to_owned()),
        }
    }
    let had = |line: &Line<'_>| before.iter().find(|b| b.planned.source == line.planned.source);
    let mut dropped: Vec<String> = Vec::new();
    for line in before.iter().filter(|b| !after.iter().any(|a| a.planned.source == b.planned.source)) {
        dropped.push(format!("DROP COLUMN {}", sql::name(&line.planned.destination)));
    }
    if old_indexes.iter().any(|i| i.name.is_none() && i.columns.iter().any(|c| c.ends_with('\0'))) {
        dropped.insert(0, "DROP PRIMARY KEY".into());
    }
    out.extend(altered(table, &dropped));
    let mut behind = Vec::new();
    for line in &after {
        let name = sql::name(&line.planned.destination);
        match had(line) {
            None => add(is.known, pair, line, &mut main, &mut behind)?,
            Some(old) => {
                keeps(old, line)?;
                let former = former(pair, &old.planned.source).unwrap_or(&old.planned.destination);
                if former != line.planned.destination || old.definition != line.definition {
                    main.push(format!("CHANGE COLUMN {} {name} {}", sql::name(former), line.definition.text()));
                }
            }
        }
    }
    main.extend(come.iter().filter(|i| i.base).map(|i| format!("ADD {}", i.clause)));
    let lone = lone_counter(pair.plan, pair.new, &new_indexes);
    if lone != lone_counter(pair.old_plan, pair.old, &old_indexes)
        && let Some(planned) = pair.plan.columns.iter().find(|c| Some(c.source.as_str()) == lone)
    {
        main.push(format!("ADD KEY ({})", sql::name(&planned.destination)));
    }
    let comment = |table: &Table| table.options.get("comment").cloned().unwrap_or_default();
    if comment(pair.old) != comment(pair.new) {
        main.push(format!("COMMENT = {}", sql::text(&comment(pair.new))));
    }
    out.extend(altered(table, &main));
    out.extend(behind);
    let added: Vec<String> = come.iter().filter(|i| !i.base).map(|i| format!("ADD {}", i.clause)).collect();
    out.extend(altered(table, &added));
    Ok(())
}

/// An index goes, or gets another name. A foreign key that leans on it gets one of its own, as when it is made.
fn without(
    known: &Known,
    pair: &Pair<'_>,
    name: &str,
    gone: &Index,
    new_indexes: &[Index],
    come: &mut Vec<&Index>,
) -> Made {
    let table = &pair.plan.destination;
    let own = sql::qualified(table);
    let renames = known.version.mysql(50_700) || known.version.is_mariadb() && known.version.mariadb(100_502);
    let other = come.iter().position(|i| renames && i.name.is_some() && i.nature() == gone.nature());
    if let Some(new) = other.and_then(|at| come.remove(at).name.as_deref().map(sql::name)) {
        let sql = format!("ALTER TABLE {own} RENAME INDEX {} TO {new}", sql::name(name));
        return Made::new(sql, vec![table.clone()]);
    }
    let mut sql = format!("ALTER TABLE {own} DROP INDEX {}", sql::name(name));
    for key in &pair.new.plain_foreign_keys {
        let kept =
            new_indexes.iter().any(|i| i.columns.starts_with(&key.columns) && !come.iter().any(|c| c.name == i.name));
        let planned: Option<Vec<String>> = key.columns.iter().map(|c| former(pair, c).map(sql::name)).collect();
        if let (true, false, Some(columns)) = (gone.columns.starts_with(&key.columns), kept, planned) {
            sql.push_str(&format!(", ADD KEY ({})", columns.join(",")));
        }
    }
    Made { drops: true, ..Made::new(sql, vec![table.clone()]) }
}

/// Whether a column's values stay what they are when it is converted here.
fn keeps(old: &Line<'_>, new: &Line<'_>) -> std::result::Result<(), String> {
    let text_changes = matches!(old.column.data_type, DataType::Float { .. })
        && old.column.data_type != new.column.data_type
        && new.planned.misfit == Misfit::Text;
    if keeps_values(old.column, new.column) && !text_changes {
        return Ok(());
    }
    Err(format!(
        "column {} was converted from {} to {}: its values may have become others than they would here",
        new.column.name, old.column.origin_type, new.column.origin_type
    ))
}

/// A new column, with what rows from before have in it.
fn add(
    known: &Known,
    pair: &Pair<'_>,
    line: &Line<'_>,
    main: &mut Vec<String>,
    behind: &mut Vec<Made>,
) -> std::result::Result<(), String> {
    let table = &pair.plan.destination;
    let name = sql::name(&line.planned.destination);
    let filled = pair.change.filled.iter().find(|(column, _)| *column == line.planned.source);
    let bare = Definition { default: None, ..line.definition.clone() };
    let whole = || altered(table, &[format!("MODIFY COLUMN {name} {}", line.definition.text())]);
    let Some((_, value)) = filled else {
        main.push(format!("ADD COLUMN {name} {}", bare.text()));
        // Behind it: a default would fill the rows that are there.
        behind.extend(line.definition.default.as_ref().and_then(|_| whole()));
        return Ok(());
    };
    let not_here = |why: String| {
        format!("rows from before have {value:?} in the new column {}, which does not fit: {why}", line.planned.source)
    };
    let to = MyType::parse(&line.planned.destination_type).ok_or_else(|| not_here("its type is not known".into()))?;
    let value = if matches!(line.planned.data_type, DataType::Bytes { .. }) {
        value.strip_prefix("\\x").unwrap_or(value)
    } else {
        let encoder = Encoder::new(line.planned, &RowFormat::Canonical, &to);
        encoder.written(Cell::Value(value.as_bytes())).map_err(|e| not_here(e.message.clone()))?;
        if encoder.replaced().0 > 0 {
            return Err(not_here("a policy replaces values one by one only".into()));
        }
        value
    };
    let literal = literal(line.planned, value, &to).map_err(not_here)?;
    let as_written = as_default(literal.clone(), &to);
    if !wide(&to) || known.version.mysql(80_013) || known.version.mariadb(100_201) {
        let filling = Definition { default: Some(as_written), ..line.definition.clone() };
        main.push(format!("ADD COLUMN {name} {}", filling.text()));
        if filling != line.definition {
            behind.extend(whole());
        }
        return Ok(());
    }
    // No default can fill it here.
    main.push(format!("ADD COLUMN {name} {}", Definition { not_null: false, ..bare }.text()));
    behind.push(Made::new(format!("UPDATE {} SET {name} = {literal}", sql::qualified(table)), Vec::new()));
    behind.extend(whole());
    Ok(())
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
