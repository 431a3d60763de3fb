//! Tables under other names; those of another kind of database with all that is named after them here: keys, indexes, foreign keys and the sequences of
//! counters. Pure.
//!
//! Guarantee: after the statements everything is called as if the table had been created under its new name; names may be exchanged.

use super::change::parts;
use super::foreign::sequence;
use super::work::Work;
use crate::sql::{ident, literal, table};
use drover_connectors_api::Shift;
use drover_model::TablePlan;
use drover_model::ddl::Schemas;
use drover_model::schema::{Table, TableName};

/// Something that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    /// `TABLE`, `INDEX`, `SEQUENCE`: what ALTER calls it. `None`: a constraint of a table.
    kind: Option<&'static str>,
    name: TableName,
    on: TableName,
}

/// All that a table's name or a column's stands in.
fn named(work: &mut Work<'_>, plan: &TablePlan, of: &Table) -> Vec<Named> {
    let on = &plan.destination;
    let mut out = vec![Named { kind: Some("TABLE"), name: on.clone(), on: on.clone() }];
    if work.same_kind {
        // There nothing is named after its table: all keeps its name.
        return out;
    }
    for column in &of.columns {
        let planned = plan.columns.iter().find(|c| c.source == column.name);
        if let Some(planned) = planned.filter(|_| column.identity.is_some()) {
            out.push(Named { kind: Some("SEQUENCE"), name: sequence(plan, planned), on: on.clone() });
        }
    }
    let parts = parts(work, plan, of);
    out.extend(parts.into_iter().map(|s| Named {
        kind: (s.kind != "foreign key").then_some("INDEX"),
        name: s.name,
        on: on.clone(),
    }));
    out
}

/// The statements that give tables, and what is named after them, their new names. `present`: what was there before under the new names.
///
/// # Errors
/// Table and reason, if what is named after it cannot be told.
pub fn renames(shift: &Shift<'_>, present: &Schemas) -> Result<Vec<String>, (TableName, String)> {
    let (old_plans, new_plans) = (shift.before.live(), present.live());
    let mut was = Work::new(&shift.before.catalog, &old_plans, &[]);
    let mut is = Work::new(&present.catalog, &new_plans, &[]);
    let mut out = Vec::new();
    let mut open: Vec<(Named, Named)> = Vec::new();
    for change in shift.change.tables.iter().filter(|c| !c.apart && c.stopped.is_none()) {
        let plan = |plans: &'_ [TablePlan]| plans.iter().position(|p| Some(p.id) == change.id);
        let Some((old, new)) = plan(&old_plans).zip(plan(&new_plans)) else { continue };
        let (old, new) = (&old_plans[old], &new_plans[new]);
        let tables = shift.before.catalog.table(&old.source).zip(present.catalog.table(&new.source));
        let Some((old_table, new_table)) = tables.filter(|_| change.after.is_some()) else { continue };
        let mut from = named(&mut was, old, old_table);
        let to = named(&mut is, new, new_table);
        if from.len() != to.len() || from.iter().zip(&to).any(|(a, b)| a.kind != b.kind) {
            return Err((old.source.clone(), format!("{} has other parts as {}", old.source, new.source)));
        }
        if old.destination.schema != new.destination.schema {
            // Indexes and owned sequences go with it.
            let schema = ident(&new.destination.schema);
            out.push(format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
            out.push(format!("ALTER TABLE {} SET SCHEMA {schema}", table(&old.destination)));
            from.iter_mut().for_each(|n| n.name.schema.clone_from(&new.destination.schema));
        }
        open.extend(from.into_iter().zip(to).filter(|(a, b)| a.name != b.name));
    }
    // Foreign keys have their names within their table, which is renamed by then.
    let (constraints, mut open): (Vec<_>, Vec<_>) = open.into_iter().partition(|(a, _)| a.kind.is_none());
    let step = |kind: Option<&str>, from: &TableName, to: &str| {
        match kind {
            // One that the operator made may have another name.
            Some(kind) if kind != "TABLE" => format!("ALTER {kind} IF EXISTS {} RENAME TO {}", table(from), ident(to)),
            _ => format!("ALTER TABLE {} RENAME TO {}", table(from), ident(to)),
        }
    };
    let mut last = Vec::new();
    while !open.is_empty() {
        match open.iter().position(|(_, to)| !open.iter().any(|(from, _)| from.name == to.name)) {
            Some(at) => {
                let (from, to) = open.remove(at);
                out.push(step(from.kind, &from.name, &to.name.name));
            }
            None => {
                // All wait for each other: one steps aside.
                let (from, to) = open.remove(0);
                let aside = format!("drover_aside_{}", last.len());
                out.push(step(from.kind, &from.name, &aside));
                last.push(step(from.kind, &TableName::new(from.name.schema.clone(), aside), &to.name.name));
            }
        }
    }
    out.append(&mut last);
    for (from, to) in constraints {
        let rename = format!(
            "ALTER TABLE {} RENAME CONSTRAINT {} TO {}",
            table(&to.on),
            ident(&from.name.name),
            ident(&to.name.name)
        );
        // One that the operator made has another name.
        out.push(format!(
            "DO {} ",
            literal(&format!(
                "BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = {}::pg_catalog.regclass AND conname = {}) THEN {rename}; END IF; END",
                literal(&table(&to.on)),
                literal(&from.name.name)
            ))
        ));
    }
    Ok(out)
}
