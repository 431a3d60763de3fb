//! A schema change as statements for this destination. Made from the structures before and after, not from the source's statement: so names that are
//! mapped, columns that are left out and the other flavor are taken care of as when the schema was created. Pure.
//!
//! Guarantee: executing the statements in their order turns the tables as they were created from the structures before into what would be created
//! from those after, with the rows as the source's statement left them. Each statement is done wholly or not at all.

use super::rewrite;
use super::work::{LeftOut, Work};
use crate::catalog::create::PartKind;
use crate::catalog::lex;
use crate::sql;
use crate::typemap::Known;
use drover_connectors_api::Shift;
use drover_model::TablePlan;
use drover_model::ddl::TableChange;
use drover_model::error::codes;
use drover_model::schema::{Object, Table, TableName};
use drover_model::{Error, Fault, Result, Retry};
use std::collections::BTreeSet;

/// One statement, and the tables by which it can be told whether it was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub sql: String,
    pub tables: Vec<TableName>,
    /// The default database that it wants.
    pub database: Option<String>,
    /// What the server says against it is a warning: as when the schema was created, what it cannot take is left out.
    pub lenient: bool,
    /// It takes an index or a key away: one that is not there is gone already.
    pub drops: bool,
}

impl Made {
    pub(super) fn new(sql: String, tables: Vec<TableName>) -> Made {
        Made { sql, tables, database: None, lenient: false, drops: false }
    }
}

/// A table on both sides of the change.
struct Pair<'a> {
    change: &'a TableChange,
    before: Option<(&'a TablePlan, &'a Table)>,
    after: Option<(&'a TablePlan, &'a Table)>,
}

/// The statements of a schema change.
///
/// # Errors
/// UNSUPPORTED, with the table, when there is no way to do it here.
pub fn statements(shift: &Shift<'_>, known: &Known) -> Result<Vec<Made>> {
    let (before, after) = (shift.before.live(), shift.after.live());
    let compile = |catalog, plans| Work::new(catalog, plans, &[], known);
    let works = compile(&shift.before.catalog, &before).zip(compile(&shift.after.catalog, &after));
    let refused = |table: Option<&TableName>, why: String| {
        let error = Error::new(codes::UNSUPPORTED, Fault::Destination, Retry::Never, why)
            .remedy("undo the change at the source, or migrate the table again");
        table.map_or(error.clone(), |t| error.table(t))
    };
    let Some((mut was, mut is)) = works else { return super::foreign::change::statements(shift, known) };
    let mut pairs = Vec::new();
    for change in shift.change.tables.iter().filter(|c| !c.apart && c.stopped.is_none()) {
        let Some(id) = change.id else { continue };
        let old = before.iter().find(|p| p.id == id).zip(change.before.as_ref());
        let new = after.iter().find(|p| p.id == id).zip(change.after.as_ref());
        pairs.push(Pair { change, before: old, after: new });
    }
    let mut out = Vec::new();
    for pair in &pairs {
        if let (Some((plan, _)), None) = (pair.before, pair.after) {
            let table = &plan.destination;
            out.push(Made::new(format!("DROP TABLE {}", sql::qualified(table)), vec![table.clone()]));
        }
    }
    let databases: BTreeSet<&str> =
        pairs.iter().filter_map(|p| p.after).map(|(p, _)| p.destination.schema.as_str()).collect();
    let there: BTreeSet<&str> = before.iter().map(|p| p.destination.schema.as_str()).collect();
    for database in databases.difference(&there) {
        out.push(Made::new(is.database(database).sql, Vec::new()));
    }
    let moved = |p: &Pair<'_>| Some((p.before?.0.destination.clone(), p.after?.0.destination.clone()));
    out.extend(renames(pairs.iter().filter_map(moved).collect()));
    for pair in &pairs {
        let (Some(old), Some(new)) = (pair.before, pair.after) else { continue };
        // What goes with the table's name has gone with it.
        let present = crate::ddl::shape::renamed(old.1, &new.1.name);
        let old = (old.0, &present);
        // A new default of the table must not change columns by the way.
        let default = |table: &Table| (table.options.get("charset").cloned(), table.options.get("collation").cloned());
        let explicit = default(old.1) != default(new.1);
        (was.explicit, is.explicit) = (explicit, explicit);
        let clauses =
            alteration(&mut was, &mut is, pair.change, old, new).map_err(|why| refused(Some(&new.1.name), why))?;
        if !clauses.is_empty() {
            let table = &new.0.destination;
            let sql = format!("ALTER TABLE {} {}", sql::qualified(table), clauses.join(", "));
            out.push(Made::new(sql, vec![table.clone()]));
        }
        for clause in &pair.change.clauses {
            let table = &new.0.destination;
            let sql = format!("ALTER TABLE {} {clause}", sql::qualified(table));
            out.push(Made::new(sql, vec![table.clone()]));
        }
    }
    is.explicit = false;
    for pair in &pairs {
        if let (None, Some((plan, table))) = (pair.before, pair.after) {
            out.extend(create(&mut is, plan, table));
        }
    }
    for object in &shift.change.objects {
        match object_statements(&is, object) {
            Some(made) => out.extend(made),
            None => {
                tracing::warn!(kind = object.kind, name = object.name, "a definition is not understood and left out")
            }
        }
    }
    is.left_out.iter().for_each(LeftOut::tell);
    Ok(out)
}

/// A view or routine as it was written, for whoever calls it: the account that made it may not be there.
fn object_statements(work: &Work<'_>, object: &Object) -> Option<Vec<Made>> {
    if object.kind == "database" {
        let to = work.renames.databases.get(&object.name)?;
        let sql = work.database(to).sql.replacen("CREATE DATABASE IF NOT EXISTS", "ALTER DATABASE", 1);
        return sql.contains(" COLLATE ").then(|| vec![Made { lenient: true, ..Made::new(sql, Vec::new()) }]);
    }
    let text = &object.definition;
    let t = lex::words(text);
    let word = object.kind.to_uppercase();
    let mut at = t.iter().position(|t| t.is(&word))? + 1;
    if t.get(at)?.is("IF") {
        at += 2 + usize::from(t.get(at + 1)?.is("NOT"));
    }
    at += if t.get(at + 1)?.is(".") { 3 } else { 1 };
    let tail = &text[t.get(at)?.at..];
    let to = work.renames.of(&TableName::new(object.schema.clone(), object.name.clone()));
    let name = sql::qualified(&to);
    let made = |sql: String| Made { database: Some(to.schema.clone()), lenient: true, ..Made::new(sql, Vec::new()) };
    if object.kind == "view" {
        let tail = rewrite::dialect(tail, work.known);
        return Some(vec![made(format!("CREATE OR REPLACE SQL SECURITY INVOKER VIEW {name} {tail}"))]);
    }
    Some(vec![
        made(format!("DROP {word} IF EXISTS {name}")),
        made(format!("CREATE {word} {name} {tail}")),
        made(format!("ALTER {word} {name} SQL SECURITY INVOKER")),
    ])
}

fn create(work: &mut Work<'_>, plan: &TablePlan, table: &Table) -> Vec<Made> {
    let name = &plan.destination;
    let made = |sql: String| Made::new(sql, vec![name.clone()]);
    let mut out = vec![made(work.create_table(plan, table))];
    let mut later: Vec<String> = Vec::new();
    for added in work.table(plan, table) {
        if added.alone {
            out.push(made(format!("ALTER TABLE {} ADD {}", sql::qualified(name), added.clause)));
        } else {
            later.push(format!("ADD {}", added.clause));
        }
    }
    for part in table.parts.iter().filter(|p| p.kind == "foreign key") {
        match work.foreign_key(plan, part) {
            Ok((_, clause)) => later.push(format!("ADD {clause}")),
            Err(why) => work.leave_out("foreign key", &plan.source, &part.name, &why),
        }
    }
    if !later.is_empty() {
        out.push(made(format!("ALTER TABLE {} {}", sql::qualified(name), later.join(", "))));
    }
    out
}

/// Tables under other names (from, to), all in one statement; names may be exchanged.
pub(super) fn renames(mut open: Vec<(TableName, TableName)>) -> Option<Made> {
    open.retain(|(from, to)| from != to);
    if open.is_empty() {
        return None;
    }
    let tables: BTreeSet<TableName> = open.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let mut steps = Vec::new();
    let mut last = Vec::new();
    while !open.is_empty() {
        let free = open.iter().position(|(_, to)| !open.iter().any(|(from, _)| from == to));
        match free {
            Some(at) => steps.push(open.remove(at)),
            None => {
                // All wait for each other: one steps aside.
                let (from, to) = open.remove(0);
                let aside = TableName::new(from.schema.clone(), format!("drover_aside_{}", last.len()));
                steps.push((from, aside.clone()));
                last.push((aside, to));
            }
        }
    }
    steps.extend(last);
    let list: Vec<String> =
        steps.iter().map(|(a, b)| format!("{} TO {}", sql::qualified(a), sql::qualified(b))).collect();
    Some(Made::new(format!("RENAME TABLE {}", list.join(", ")), tables.into_iter().collect()))
}

/// A column at the destination.
struct Line {
    /// Name at the source.
    source: String,
    name: String,
    /// What stands behind the name, to be compared.
    text: String,
    /// The same as a statement has it that sets the table's defaults, too: what is these need not be named.
    written: String,
}

fn lines(work: &mut Work<'_>, plan: &TablePlan, table: &Table) -> Vec<Line> {
    let columns = work.columns(plan);
    let explicit = work.explicit;
    let mut out = Vec::new();
    for column in &table.columns {
        let Some(name) = columns.new_name(&column.name) else { continue };
        let mut text = |explicit: bool| -> Option<String> {
            let before = std::mem::replace(&mut work.explicit, explicit);
            let line = work.column_line(plan, table, column, &columns, true);
            work.explicit = before;
            let line = line?;
            Some(line.strip_prefix(&sql::name(&name)).unwrap_or(&line).trim().to_owned())
        };
        let (Some(compared), Some(written)) = (text(explicit), text(false)) else { continue };
        out.push(Line { source: column.name.clone(), name, text: compared, written });
    }
    out
}

/// The clauses that make the one of the other.
fn alteration(
    was: &mut Work<'_>,
    is: &mut Work<'_>,
    change: &TableChange,
    (old_plan, old): (&TablePlan, &Table),
    (new_plan, new): (&TablePlan, &Table),
) -> std::result::Result<Vec<String>, String> {
    let (mut drops, mut out) = (Vec::new(), Vec::new());
    let before = lines(was, old_plan, old);
    let after = lines(is, new_plan, new);
    // By the name that a column had: an added one has none.
    let had = |source: &str| -> Option<&Line> {
        if change.anew.iter().any(|c| c == source) {
            return None;
        }
        let old = match change.renamed.iter().find(|(_, to)| to == source) {
            Some((from, _)) => from.as_str(),
            None if change.renamed.iter().any(|(from, _)| from == source) => return None,
            None => source,
        };
        before.iter().find(|l| l.source == old)
    };
    let kept: BTreeSet<&str> = after.iter().filter_map(|l| had(&l.source)).map(|l| l.name.as_str()).collect();
    for gone in before.iter().filter(|l| !kept.contains(l.name.as_str())) {
        drops.push(format!("DROP COLUMN {}", sql::name(&gone.name)));
    }
    // Places, as the destination has them while the clauses are done.
    let mut order: Vec<String> =
        before.iter().filter(|l| kept.contains(l.name.as_str())).map(|l| l.name.clone()).collect();
    for (i, line) in after.iter().enumerate() {
        let place = || match i.checked_sub(1).and_then(|i| after.get(i)) {
            Some(previous) => format!(" AFTER {}", sql::name(&previous.name)),
            None => " FIRST".to_owned(),
        };
        let name = sql::name(&line.name);
        match had(&line.source) {
            None => {
                let at_end = i >= order.len();
                let place = if at_end { String::new() } else { place() };
                out.push(format!("ADD COLUMN {name} {}{place}", line.written));
                order.insert(i.min(order.len()), line.name.clone());
            }
            Some(old) => {
                let at = order.iter().position(|n| *n == old.name).ok_or("a column is lost")?;
                let moved = at != i;
                let renamed = old.name != line.name;
                if moved {
                    order.remove(at);
                    order.insert(i.min(order.len()), line.name.clone());
                } else if let Some(place) = order.get_mut(i) {
                    place.clone_from(&line.name);
                }
                if renamed || moved || same_under(&old.text, &before, &after, &had) != line.text {
                    let place = if moved { place() } else { String::new() };
                    out.push(format!("CHANGE COLUMN {} {name} {}{place}", sql::name(&old.name), line.written));
                }
            }
        }
    }
    parts(was, is, (old_plan, old), (new_plan, new), change, &mut drops, &mut out);
    options(was, is, (old_plan, old), (new_plan, new), &mut out);
    drops.extend(out);
    Ok(drops)
}

/// A column's old definition under the new names of the columns that stand in it.
fn same_under<'l>(text: &str, before: &'l [Line], after: &'l [Line], had: &dyn Fn(&str) -> Option<&'l Line>) -> String {
    let mut map = std::collections::HashMap::new();
    for line in after {
        if let Some(old) = had(&line.source).filter(|o| o.name != line.name) {
            map.insert(old.name.to_lowercase(), line.name.clone());
        }
    }
    if map.is_empty() || before.is_empty() {
        return text.to_owned();
    }
    rewrite::columns(text, &map, &BTreeSet::new(), false).unwrap_or_else(|_| text.to_owned())
}

fn is_index(part: &Object) -> bool {
    use PartKind::{FullText, Index, Primary, Spatial, Unique, Vector};
    let kind = PartKind::of_name(&part.kind);
    kind.is_some_and(|k| matches!(k, Primary | Unique | Index | FullText | Spatial | Vector))
}

/// Indexes, foreign keys and checks: those that are gone or other go, those that are new or other come.
fn parts(
    was: &mut Work<'_>,
    is: &mut Work<'_>,
    (old_plan, old): (&TablePlan, &Table),
    (new_plan, new): (&TablePlan, &Table),
    change: &TableChange,
    drops: &mut Vec<String>,
    out: &mut Vec<String>,
) {
    let renamed: std::collections::HashMap<String, String> =
        change.renamed.iter().map(|(a, b)| (a.to_lowercase(), b.clone())).collect();
    let present =
        |text: &str| rewrite::columns(text, &renamed, &BTreeSet::new(), false).unwrap_or_else(|_| text.to_owned());
    let same = |a: &Object, b: &Object| {
        a.kind == b.kind && a.name.eq_ignore_ascii_case(&b.name) && present(&a.definition) == b.definition
    };
    let gone = |a: &&Object| !new.parts.iter().any(|b| same(a, b));
    let come = |b: &&Object| !old.parts.iter().any(|a| same(a, b));
    let columns_before = was.columns(old_plan);
    for part in old.parts.iter().filter(gone) {
        let name = sql::name(&part.name);
        // What was left out is not there.
        if is_index(part) && was.index(old_plan, old, part, &columns_before).is_ok() {
            // The last column of an index takes it along.
            let columns = crate::catalog::create::Index::parse(&part.definition).map(|i| i.parts).unwrap_or_default();
            let lives = columns.iter().any(|p| match p {
                crate::catalog::create::KeyPart::Column { name, .. } => {
                    let now = renamed.get(&name.to_lowercase()).unwrap_or(name);
                    new.columns.iter().any(|c| c.name.eq_ignore_ascii_case(now)) && !change.anew.contains(now)
                }
                crate::catalog::create::KeyPart::Expression { .. } => true,
            });
            if part.kind == "primary key" && lives {
                drops.push("DROP PRIMARY KEY".into());
            } else if lives {
                drops.push(format!("DROP KEY {name}"));
            }
        } else if part.kind == "foreign key" {
            // Under another name of the parent it stays the same key.
            let still = new.parts.iter().any(|p| p.kind == part.kind && p.name == part.name);
            if !still && was.foreign_key(old_plan, part).is_ok() {
                drops.push(format!("DROP FOREIGN KEY {name}"));
            }
        } else if part.kind == "check" && was.check_line(old_plan, part, &columns_before).is_some() {
            drops.push(format!("DROP CONSTRAINT {name}"));
        }
    }
    let columns = is.columns(new_plan);
    for part in new.parts.iter().filter(come) {
        if is_index(part) {
            match is.index(new_plan, new, part, &columns) {
                Ok(added) => out.push(format!("ADD {}", added.clause)),
                Err(why) => is.leave_out(&part.kind, &new_plan.source, &part.name, &why),
            }
        } else if part.kind == "foreign key" {
            if old.parts.iter().any(|p| p.kind == part.kind && p.name == part.name) {
                continue;
            }
            match is.foreign_key(new_plan, part) {
                Ok((_, clause)) => out.push(format!("ADD {clause}")),
                Err(why) => is.leave_out("foreign key", &new_plan.source, &part.name, &why),
            }
        } else if part.kind == "check"
            && let Some(line) = is.check_line(new_plan, part, &columns)
        {
            out.push(format!("ADD {line}"));
        }
    }
}

/// Options of the table, and its partitions.
fn options(
    was: &mut Work<'_>,
    is: &mut Work<'_>,
    (old_plan, old): (&TablePlan, &Table),
    (new_plan, new): (&TablePlan, &Table),
    out: &mut Vec<String>,
) {
    let bare = |table: &Table| {
        let mut table = table.clone();
        table.options.remove("auto_increment");
        table
    };
    let before = was.table_options(old_plan, &bare(old));
    let after = is.table_options(new_plan, &bare(new));
    let comment = |table: &Table| table.options.get("comment").cloned();
    if before != after {
        out.push(after.trim().to_owned());
        if comment(old).is_some() && comment(new).is_none() {
            out.push("COMMENT = ''".into());
        }
    }
    let counter = |table: &Table| table.options.get("auto_increment").cloned();
    if let Some(next) = counter(new).filter(|n| counter(old).as_ref() != Some(n)) {
        out.push(format!("AUTO_INCREMENT = {next}"));
    }
    let columns_before = was.columns(old_plan);
    let columns = is.columns(new_plan);
    let before = was.partitioning(old_plan, old, &columns_before);
    let after = is.partitioning(new_plan, new, &columns);
    match (before, after) {
        (Some(_), None) => out.push("REMOVE PARTITIONING".into()),
        (before, Some(after)) if before.as_deref() != Some(&after) => {
            // Stands behind all other clauses, without a comma.
            match out.last_mut() {
                Some(last) => {
                    last.push(' ');
                    last.push_str(&after);
                }
                None => out.push(after),
            }
        }
        _ => {}
    }
}
