//! A schema change as statements for this destination, made from the structures before and after: names that are mapped, columns that are left out and
//! tables of another kind are taken care of as when the schema was created. Pure.
//!
//! Guarantee: executing the statements in their order turns the tables as they were created from the structures before into what would be created from
//! those after, and rows hold what the source's statement left in them; what cannot be done so is an error.

use super::foreign;
use super::names;
use super::rewrite;
use super::work::{Statement, Work, on_itself};
use crate::sql::{ident, literal, qualified, table};
use drover_connectors_api::Shift;
use drover_model::TablePlan;
use drover_model::ddl::{Schemas, TableChange, widens};
use drover_model::error::codes;
use drover_model::schema::{Column, DataType, PlainDefault, Table, TableName};
use drover_model::{Error, Fault, Result, Retry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A column at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    source: String,
    name: String,
    /// Type and collation.
    kind: String,
    default: Option<String>,
    not_null: bool,
    /// The whole clause of a column that makes its values itself.
    computed: Option<String>,
}

/// The statements of a schema change, in their order; they belong into one transaction.
///
/// # Errors
/// UNSUPPORTED, with the table, when there is no way to do it here.
pub fn statements(shift: &Shift<'_>) -> Result<Vec<String>> {
    let refused = |name: &TableName, why: String| {
        Error::new(codes::UNSUPPORTED, Fault::Destination, Retry::Never, why)
            .table(name)
            .remedy("undo the change at the source, or migrate the table again")
    };
    let acting = || shift.change.tables.iter().filter(|c| !c.apart && c.stopped.is_none() && c.id.is_some());
    let present = under_new_names(shift, acting());
    let (old_plans, new_plans) = (present.live(), shift.after.live());
    let mut was = Work::new(&present.catalog, &old_plans, &[]);
    let mut is = Work::new(&shift.after.catalog, &new_plans, &[]);
    let mut first_of_all = names::renames(shift, &present).map_err(|(name, why)| refused(&name, why))?;
    let (mut out, mut last) = (Vec::new(), Vec::new());
    for change in acting() {
        let of = |schemas: &Schemas| {
            let id = change.id? as usize;
            schemas.plans.get(id).filter(|p| !p.is_gone()).cloned()
        };
        let (Some(first), second) = (of(shift.before), of(shift.after)) else {
            if let (Some(plan), Some(new)) = (of(shift.after), &change.after) {
                out.extend(create(&mut is, &plan, new).map_err(|why| refused(&new.name, why))?);
            }
            continue;
        };
        let Some(second) = second.filter(|_| change.after.is_some()) else {
            out.push(format!("DROP TABLE {}", table(&first.destination)));
            continue;
        };
        let (Some(before), Some(after)) = (&change.before, &change.after) else { continue };
        let renamed = of(&present).zip(present.catalog.table(&after.name));
        let Some((old_plan, old)) = renamed else { continue };
        let pair = Pair { change, first: &first, before, old_plan: &old_plan, old, plan: &second, new: after };
        let mut steps = Steps { first: &mut first_of_all, then: &mut out, last: &mut last };
        alteration(&mut was, &mut is, &pair, &mut steps).map_err(|why| refused(&before.name, why))?;
    }
    for left in &is.left_out {
        tracing::warn!(kind = left.kind, name = %left.name, why = left.reason, "a schema change is carried over without this");
    }
    first_of_all.append(&mut out);
    first_of_all.append(&mut last);
    Ok(first_of_all)
}

/// Statements about several tables: what refers to other tables goes before all else, and comes behind it.
struct Steps<'a> {
    first: &'a mut Vec<String>,
    then: &'a mut Vec<String>,
    last: &'a mut Vec<String>,
}

/// A table on both sides of the change.
struct Pair<'a> {
    change: &'a TableChange,
    /// As it is at the destination.
    first: &'a TablePlan,
    before: &'a Table,
    /// The same with its columns under the names that they have behind the change.
    old_plan: &'a TablePlan,
    old: &'a Table,
    plan: &'a TablePlan,
    new: &'a Table,
}

/// Catalogue and plans before the change, with tables and columns under their new names: what then differs, differs in more than names.
fn under_new_names<'c>(shift: &Shift<'_>, changes: impl Iterator<Item = &'c TableChange>) -> Schemas {
    let mut out = shift.before.clone();
    let changes: Vec<&TableChange> = changes.collect();
    let all: Vec<TableChange> = changes.iter().map(|c| (*c).clone()).collect();
    out.refer(&all);
    // Names may be exchanged between tables: places are told before.
    let place = |c: &&TableChange| {
        let name = &c.before.as_ref()?.name;
        out.catalog.tables.iter().position(|t| t.name == *name)
    };
    let places: Vec<Option<usize>> = changes.iter().map(place).collect();
    for (change, place) in changes.into_iter().zip(places) {
        let (Some(before), Some(after), Some(id)) = (&change.before, &change.after, change.id) else { continue };
        let names: BTreeMap<String, String> = change.renamed.iter().cloned().collect();
        let renamed = |name: &mut String| {
            if let Some(new) = names.get(name) {
                name.clone_from(new);
            }
        };
        let text = |text: &mut String| {
            if let Ok(new) = rewrite::columns(text, &names) {
                *text = new;
            }
        };
        if let Some(table) = place.and_then(|at| Arc::make_mut(&mut out.catalog).tables.get_mut(at)) {
            table.name = after.name.clone();
            for column in &mut table.columns {
                renamed(&mut column.name);
                column.generated.iter_mut().for_each(text);
            }
            table.keys.iter_mut().flat_map(|k| &mut k.columns).for_each(renamed);
            table.plain_indexes.iter_mut().flat_map(|i| &mut i.columns).for_each(|c| renamed(&mut c.name));
            table.plain_foreign_keys.iter_mut().flat_map(|k| &mut k.columns).for_each(renamed);
            for part in &mut table.parts {
                rewrite::part(part, &before.name, &after.name);
                text(&mut part.definition);
                if let Some(columns) = part.options.get_mut("columns") {
                    let mut list: Vec<String> = serde_json::from_str(columns).unwrap_or_default();
                    list.iter_mut().for_each(renamed);
                    *columns = serde_json::to_string(&list).unwrap_or_default();
                }
            }
        }
        let Some(plan) = Arc::make_mut(&mut out.plans).get_mut(id as usize) else { continue };
        plan.source = after.name.clone();
        if let Some(new) = shift.after.plans.get(id as usize).filter(|p| !p.is_gone()) {
            plan.destination = new.destination.clone();
        }
        for column in &mut plan.columns {
            renamed(&mut column.source);
            let now =
                shift.after.plans.get(id as usize).and_then(|p| p.columns.iter().find(|c| c.source == column.source));
            if let Some(now) = now {
                column.destination.clone_from(&now.destination);
            }
        }
        plan.left_out.iter_mut().for_each(renamed);
    }
    out
}

fn create(work: &mut Work<'_>, plan: &TablePlan, new: &Table) -> std::result::Result<Vec<String>, String> {
    if work.same_kind {
        return Err("tables that are new are not carried over".into());
    }
    let mut out = vec![format!("CREATE SCHEMA IF NOT EXISTS {}", ident(&plan.destination.schema))];
    let first = work.foreign_table(plan, new);
    out.extend(std::iter::once(first).chain(parts(work, plan, new)).flat_map(|s| std::iter::once(s.sql).chain(s.then)));
    Ok(out)
}

/// Keys, indexes, checks and foreign keys of a table.
pub(super) fn parts(work: &mut Work<'_>, plan: &TablePlan, table: &Table) -> Vec<Statement> {
    let mut out = work.keys(plan, table);
    if !work.same_kind {
        out.extend(work.foreign_references(plan, table));
        return out;
    }
    let own = qualified(&plan.destination.schema, &plan.destination.name);
    for check in table.parts.iter().filter(|p| p.kind == "check" && on_itself(p, &plan.source)) {
        match work.expression(&plan.source, &check.definition) {
            Ok(definition) => out.push(Statement {
                kind: "check".into(),
                name: TableName::new(plan.destination.schema.clone(), check.name.clone()),
                on: Some(plan.destination.clone()),
                sql: format!("ALTER TABLE {own} ADD CONSTRAINT {} {definition}", ident(&check.name)),
                then: None,
            }),
            Err(reason) => work.leave_out("check", &plan.source, &check.name, reason),
        }
    }
    for part in table.parts.iter().filter(|p| p.kind == "foreign key") {
        match work.foreign_key(plan, table, part) {
            Ok(statement) => out.push(statement),
            Err(reason) => work.leave_out("foreign key", &plan.source, &part.name, reason),
        }
    }
    out
}

/// The columns that a table has at the destination.
fn lines(work: &mut Work<'_>, plan: &TablePlan, table: &Table) -> Vec<Line> {
    let mut out = Vec::new();
    for column in &table.columns {
        let planned = plan.columns.iter().find(|c| c.source == column.name);
        if !work.same_kind {
            let Some(planned) = planned else { continue };
            let default = match foreign::default(column, planned) {
                // Its counter feeds it, and was made with the table.
                _ if column.identity.is_some() => None,
                Ok(default) => default,
                Err(reason) => {
                    work.leave_out("default", &plan.source, &column.name, reason);
                    None
                }
            };
            out.push(Line {
                source: column.name.clone(),
                name: planned.destination.clone(),
                kind: planned.destination_type.clone(),
                default,
                not_null: !foreign::nullable(plan, column, planned),
                computed: None,
            });
            continue;
        }
        if planned.is_none() && column.generated.is_none() {
            continue;
        }
        let computes = column.generated.is_some() || column.identity.is_some();
        let bare = Column { nullable: true, ..column.clone() };
        let Some(rest) = work.column_rest(plan, table, &bare) else { continue };
        let default = column.default.as_ref().map(|d| work.renames.apply(d, false));
        out.push(Line {
            source: column.name.clone(),
            name: planned.map_or_else(|| column.name.clone(), |c| c.destination.clone()),
            kind: work.column_type(plan, column),
            default: default.filter(|_| !computes),
            not_null: !column.nullable,
            computed: computes.then_some(rest),
        });
    }
    out
}

fn alteration(
    was: &mut Work<'_>,
    is: &mut Work<'_>,
    pair: &Pair<'_>,
    steps: &mut Steps<'_>,
) -> std::result::Result<(), String> {
    let own = table(&pair.plan.destination);
    let (before, after) = (lines(was, pair.old_plan, pair.old), lines(is, pair.plan, pair.new));
    let (old_parts, new_parts) = (parts(was, pair.old_plan, pair.old), parts(is, pair.plan, pair.new));
    // A name that was changed in it may be quoted otherwise than the server writes it.
    let normal = |s: &Statement| {
        let then = s.then.as_deref().map(rewrite::normal);
        Statement { sql: rewrite::normal(&s.sql), then, ..s.clone() }
    };
    let had: Vec<Statement> = old_parts.iter().map(normal).collect();
    let has: Vec<Statement> = new_parts.iter().map(normal).collect();
    let come: Vec<&Statement> = new_parts.iter().filter(|s| !had.contains(&normal(s))).collect();
    for part in old_parts.iter().filter(|s| !has.contains(&normal(s))) {
        let out = if part.kind == "foreign key" { &mut *steps.first } else { &mut *steps.then };
        match part.kind.as_str() {
            "index" => out.push(format!("DROP INDEX IF EXISTS {}", table(&part.name))),
            "replica identity" => {}
            _ => {
                let on = part.on.as_ref().map_or_else(|| own.clone(), table);
                out.push(format!("ALTER TABLE {on} DROP CONSTRAINT IF EXISTS {}", ident(&part.name.name)));
            }
        }
    }
    let out = &mut *steps.then;
    let is_new = |l: &Line| pair.change.anew.contains(&l.source) || !before.iter().any(|b| b.source == l.source);
    let mut dropped: Vec<&Line> = before
        .iter()
        .filter(|l| pair.change.anew.contains(&l.source) || !after.iter().any(|a| a.source == l.source))
        .collect();
    // What is computed from others goes before them.
    dropped.sort_by_key(|l| l.computed.is_none());
    for line in dropped {
        out.push(format!(
            "ALTER TABLE {own} DROP COLUMN IF EXISTS {}",
            ident(&name_before(pair, &line.source, &line.name))
        ));
    }
    renames(pair, &own, &after, out);
    for line in &after {
        if is_new(line) {
            add(pair, &own, line, is.same_kind, out)?;
        } else if let Some(old) = before.iter().find(|b| b.source == line.source) {
            alter(pair, &own, old, line, is.same_kind, out)?;
        }
    }
    if is.same_kind {
        let known: BTreeSet<(&str, &str)> = partitions(pair.old).collect();
        let fresh: BTreeSet<TableName> =
            partitions(pair.new).filter(|p| !known.contains(p)).map(|(schema, name)| is.target(schema, name)).collect();
        out.extend(is.partitions(pair.plan, pair.new).into_iter().filter(|s| fresh.contains(&s.name)).map(|s| s.sql));
        // Their indexes come from those of the table.
        let on_known = |s: &&&Statement| s.on.as_ref().is_none_or(|on| !fresh.contains(on));
        come.iter().filter(on_known).for_each(|s| add_part(s, steps));
    } else {
        come.iter().for_each(|s| add_part(s, steps));
    }
    Ok(())
}

fn add_part(part: &Statement, steps: &mut Steps<'_>) {
    let out = if part.kind == "foreign key" { &mut *steps.last } else { &mut *steps.then };
    out.push(part.sql.clone());
    out.extend(part.then.clone());
}

fn partitions(table: &Table) -> impl Iterator<Item = (&str, &str)> {
    table.parts.iter().filter(|p| p.kind == "partition").map(|p| (p.schema.as_str(), p.name.as_str()))
}

/// The name that a column has at the destination before the change, by its name at the source behind it.
fn name_before(pair: &Pair<'_>, source: &str, otherwise: &str) -> String {
    let former = pair.change.renamed.iter().find(|(_, new)| new == source).map_or(source, |(old, _)| old.as_str());
    let planned = pair.first.columns.iter().find(|c| c.source == former).map(|c| c.destination.clone());
    let computed = || pair.before.column(former).filter(|c| c.generated.is_some()).map(|c| c.name.clone());
    planned.or_else(computed).unwrap_or_else(|| otherwise.to_owned())
}

/// Columns under their new names, which may be exchanged.
fn renames(pair: &Pair<'_>, own: &str, after: &[Line], out: &mut Vec<String>) {
    let mut open: Vec<(String, String)> = after
        .iter()
        .filter(|l| !pair.change.anew.contains(&l.source))
        .map(|l| (name_before(pair, &l.source, &l.name), l.name.clone()))
        .filter(|(from, to)| from != to)
        .collect();
    let mut step = |from: &str, to: &str| {
        out.push(format!("ALTER TABLE {own} RENAME COLUMN {} TO {}", ident(from), ident(to)));
    };
    let mut last = Vec::new();
    while !open.is_empty() {
        match open.iter().position(|(_, to)| !open.iter().any(|(from, _)| from == to)) {
            Some(at) => {
                let (from, to) = open.remove(at);
                step(&from, &to);
            }
            None => {
                // All wait for each other: one steps aside.
                let (from, to) = open.remove(0);
                let aside = format!("drover_aside_{}", last.len());
                step(&from, &aside);
                last.push((aside, to));
            }
        }
    }
    for (from, to) in last {
        step(&from, &to);
    }
}

fn add(
    pair: &Pair<'_>,
    own: &str,
    line: &Line,
    same_kind: bool,
    out: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let name = ident(&line.name);
    let not_null = if line.not_null { " NOT NULL" } else { "" };
    if let Some(computed) = &line.computed {
        out.push(format!("ALTER TABLE {own} ADD COLUMN {name} {}{computed}{not_null}", line.kind));
        return Ok(());
    }
    let told = pair.change.filled.iter().find(|(column, _)| *column == line.source).map(|(_, value)| value.clone());
    let value = match told {
        Some(value) => Some(value),
        None if same_kind => None,
        None => implied(pair.new, &line.source)?,
    };
    let value = value.map(|v| format!("{}::{}", literal(&v), bare_type(&line.kind)));
    let filled = value.as_ref().map(|v| format!(" DEFAULT {v}")).unwrap_or_default();
    out.push(format!("ALTER TABLE {own} ADD COLUMN {name} {}{filled}{not_null}", line.kind));
    if value != line.default {
        out.push(default(own, &name, line.default.as_deref()));
    }
    Ok(())
}

/// A type without its collation, for a cast.
fn bare_type(kind: &str) -> &str {
    kind.split_once(" COLLATE ").map_or(kind, |(kind, _)| kind)
}

fn default(own: &str, name: &str, default: Option<&str>) -> String {
    match default {
        Some(default) => format!("ALTER TABLE {own} ALTER COLUMN {name} SET DEFAULT {default}"),
        None => format!("ALTER TABLE {own} ALTER COLUMN {name} DROP DEFAULT"),
    }
}

/// What rows of another kind's table from before have in a new column: its default, or what that kind takes for a column that must not be null and has none.
fn implied(table: &Table, column: &str) -> std::result::Result<Option<String>, String> {
    let Some(column) = table.column(column) else { return Ok(None) };
    let unknown = || format!("it is not known here what rows from before have in the new column {}", column.name);
    if column.identity.is_some() {
        return Err(unknown());
    }
    match (&column.default, &column.plain_default) {
        (Some(_), Some(PlainDefault::Value(value))) => match column.data_type {
            DataType::Bytes { .. } => Ok(Some(format!("\\x{value}"))),
            _ => Ok(Some(value.clone())),
        },
        (Some(_), _) => Err(unknown()),
        (None, _) if column.nullable => Ok(None),
        (None, _) => match &column.data_type {
            DataType::Bytes { .. } if fixed(column) => Err(unknown()),
            DataType::Int { .. } | DataType::Float { .. } | DataType::Decimal { .. } => Ok(Some("0".into())),
            DataType::Text { .. } | DataType::Bytes { .. } => Ok(Some(String::new())),
            DataType::Enum { labels } => labels.first().cloned().map(Some).ok_or_else(unknown),
            _ => Err(unknown()),
        },
    }
}

fn alter(
    pair: &Pair<'_>,
    own: &str,
    old: &Line,
    new: &Line,
    same_kind: bool,
    out: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let name = ident(&new.name);
    let kinds = |t: &Table| t.column(&new.source).map(|c| c.data_type.clone());
    let (was, is) = (kinds(pair.old), kinds(pair.new));
    let pads = |t: &Table| t.column(&new.source).is_some_and(fixed);
    if !same_kind
        && let (Some(was), Some(is)) = (&was, &is)
        && (!widens(was, is) || was != is && (pads(pair.old) || pads(pair.new)))
    {
        return Err(format!(
            "column {} was converted from {was:?} to {is:?}: its values may have become others than they would here",
            new.source
        ));
    }
    let mut fed = old.default.clone();
    if old.kind != new.kind {
        if fed.take().is_some() {
            // It may have no form in the new type.
            out.push(default(own, &name, None));
        }
        let cast = if same_kind { String::new() } else { format!(" USING {name}::{}", bare_type(&new.kind)) };
        out.push(format!("ALTER TABLE {own} ALTER COLUMN {name} TYPE {}{cast}", new.kind));
    }
    if old.computed.as_deref().map(rewrite::normal) != new.computed.as_deref().map(rewrite::normal) {
        return Err(format!("the clause that computes column {} was changed", new.source));
    }
    if fed != new.default {
        out.push(default(own, &name, new.default.as_deref()));
    }
    match (old.not_null, new.not_null) {
        (false, true) => out.push(format!("ALTER TABLE {own} ALTER COLUMN {name} SET NOT NULL")),
        (true, false) => out.push(format!("ALTER TABLE {own} ALTER COLUMN {name} DROP NOT NULL")),
        _ => {}
    }
    Ok(())
}

/// Bytes of a fixed length: their values grow with the type.
fn fixed(column: &Column) -> bool {
    matches!(column.data_type, DataType::Bytes { .. }) && column.origin_type.to_ascii_lowercase().starts_with("binary")
}
