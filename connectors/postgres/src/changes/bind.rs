//! What the log calls tables by, bound to the plans. Guarantee: a row is read by the names and types of the columns that the log gave it last, under
//! the plan of that place, or it is an error; nothing is bound by its place alone. Which table it is of says the table's number: names may be exchanged.

use crate::bytea::{self, is_raw};
use crate::pgoutput::{Message, Old, Relation, Tuple, Value};
use drover_model::change::{self, OldKind};
use drover_model::error::codes;
use drover_model::row::{Cell, put_cell};
use drover_model::schema::TableName;
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use std::collections::HashMap;
use std::sync::Arc;

/// How a relation's tuples become rows of a plan.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    pub table: u32,
    /// For each column of the plan, its place in the tuple.
    columns: Vec<u16>,
    /// For each column of the plan's key, its place in the tuple.
    key: Vec<u16>,
    /// Places of columns whose cells are bytes, where the tuple has digits.
    raw: Vec<u16>,
    /// All key columns belong to the replica identity.
    key_logged: bool,
    pub operations: drover_model::plan::Operations,
}

/// A relation as the log described it.
#[derive(Debug, Clone)]
struct Described {
    number: u32,
    name: (String, String),
    columns: Vec<Field>,
}

#[derive(Debug, Clone)]
struct Field {
    name: String,
    key: bool,
    type_oid: u32,
    modifier: i32,
}

/// What becomes of a relation's rows.
#[derive(Debug, Clone)]
pub(super) enum Bound {
    Rows(Mapping),
    /// None of the tables: a partition, announced beside its root; or one that is not known by its number, under another name.
    Other(String),
    /// It is not what was planned.
    Wrong(Error),
}

/// A relation that was described.
#[derive(Debug, Clone)]
pub(super) struct Known {
    described: Described,
    pub bound: Bound,
}

/// Type and modifier of a column, where they are known.
type Kind = (Option<u32>, Option<i32>);

/// Where a plan is.
#[derive(Debug)]
enum Place {
    /// Among those of the beginning, which are shared with whoever else works on the migration: there may be ten thousand of them.
    Shared(usize),
    /// One that came since.
    Own(Box<TablePlan>),
}

/// The plans of the place that is being read.
#[derive(Debug, Default)]
pub(super) struct Tables {
    shared: Arc<Vec<TablePlan>>,
    plans: HashMap<(String, String), Place>,
    /// Of the plans' columns; by table.
    types: HashMap<u32, Vec<Kind>>,
    /// What the table of each number is called, where numbers are known.
    numbers: HashMap<u32, (String, String)>,
    /// Other names of tables are told: what the log calls one is of no account. A transaction that wrote to a partition while the root was renamed
    /// still calls it by the name before.
    told: bool,
    /// What to do about a table that has changed.
    pub remedy: &'static str,
}

impl Tables {
    /// `types`: of each column of all `plans`, one after the other, where it is known.
    pub fn new(shared: Arc<Vec<TablePlan>>, types: Vec<Option<u32>>) -> Tables {
        let mut types = types.into_iter().map(|t| (t, None));
        let types = shared.iter().map(|p| (p.id, types.by_ref().take(p.columns.len()).collect())).collect();
        let named = shared.iter().enumerate();
        let plans = named.map(|(i, p)| ((p.source.schema.clone(), p.source.name.clone()), Place::Shared(i))).collect();
        let remedy = "schema changes are not carried over for this pair: undo the change at the source, or migrate the table again";
        Tables { shared, plans, types, remedy, ..Tables::default() }
    }

    /// Takes the numbers of the tables in: see [`crate::ddl::follow::Follower::followed`]. `told`: another name of a table is told where it gets it.
    pub fn number<'t>(&mut self, tables: impl Iterator<Item = (&'t TableName, Option<u32>)>, told: bool) {
        self.numbers = tables.filter_map(|(name, n)| Some((n?, (name.schema.clone(), name.name.clone())))).collect();
        self.told = told;
    }

    fn plan<'t>(&'t self, place: &'t Place) -> Option<&'t TablePlan> {
        match place {
            Place::Shared(index) => self.shared.get(*index),
            Place::Own(plan) => Some(plan),
        }
    }

    pub fn of(&self, table: u32) -> Option<&TablePlan> {
        self.plans.values().filter_map(|place| self.plan(place)).find(|p| p.id == table)
    }

    /// Another plan for a table (`None`: there is none any more), with its columns' types. Those that are not known stay what they were.
    pub fn replace(&mut self, table: u32, plan: Option<(TablePlan, Vec<Kind>)>) {
        let former = self.of(table).cloned();
        let shared = &self.shared;
        self.plans.retain(|_, place| match place {
            Place::Shared(index) => shared.get(*index).is_some_and(|p| p.id != table),
            Place::Own(plan) => plan.id != table,
        });
        let known = self.types.remove(&table).unwrap_or_default();
        if let Some((plan, mut types)) = plan {
            for (column, kind) in plan.columns.iter().zip(&mut types).filter(|(_, kind)| kind.0.is_none()) {
                let same = |p: &TablePlan| {
                    p.columns.iter().position(|c| c.source == column.source && c.origin_type == column.origin_type)
                };
                *kind = former.as_ref().and_then(same).and_then(|i| known.get(i)).copied().unwrap_or_default();
            }
            self.types.insert(table, types);
            self.plans.insert((plan.source.schema.clone(), plan.source.name.clone()), Place::Own(Box::new(plan)));
        }
    }

    /// Takes a description in.
    pub fn describe(&mut self, relation: &Relation<'_>) -> Known {
        let field = |c: crate::pgoutput::Column<'_>| Field {
            name: c.name.to_owned(),
            key: c.key,
            type_oid: c.type_oid,
            modifier: c.type_modifier,
        };
        let described = Described {
            number: relation.oid,
            name: (relation.namespace.to_owned(), relation.name.to_owned()),
            columns: relation.columns.iter().map(field).collect(),
        };
        let bound = self.bind(&described);
        Known { described, bound }
    }

    /// Binds relations anew, under other plans.
    pub fn rebind<'k>(&mut self, all: impl Iterator<Item = &'k mut Known>) {
        for known in all {
            known.bound = self.bind(&known.described);
        }
    }

    fn bind(&mut self, relation: &Described) -> Bound {
        let name = || format!("{}.{}", relation.name.0, relation.name.1);
        let known = self.numbers.get(&relation.number);
        let named = |name: &(String, String)| self.plans.get(name).and_then(|place| self.plan(place));
        let plan = match known.and_then(named) {
            Some(plan) if self.told || known == Some(&relation.name) => plan,
            Some(plan) => {
                let what = format!("the table is called {} now", name());
                let error = Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what);
                return Bound::Wrong(error.table(&plan.source).remedy(self.remedy));
            }
            // Another table under the name of one of ours is none of them.
            None if self.numbers.values().any(|name| *name == relation.name) => return Bound::Other(name()),
            None => match named(&relation.name) {
                Some(plan) => plan,
                None => return Bound::Other(name()),
            },
        };
        let mut types = self.types.get(&plan.id).cloned();
        let bound = mapping(plan, relation, types.as_mut());
        let (id, table) = (plan.id, &plan.source);
        let bound = match bound {
            Ok(mapping) => Bound::Rows(mapping),
            Err((how, column)) => {
                let what = format!("the table's columns changed: {how}");
                let error = Error::new(codes::TABLE_CHANGED, Fault::Source, Retry::Never, what);
                Bound::Wrong(error.table(table).column(column).remedy(self.remedy))
            }
        };
        if let Some(types) = types {
            self.types.insert(id, types);
        }
        bound
    }
}

fn mapping(
    plan: &TablePlan,
    relation: &Described,
    types: Option<&mut Vec<Kind>>,
) -> std::result::Result<Mapping, (String, String)> {
    let place = |wanted: &str| relation.columns.iter().position(|c| c.name == wanted).map(|i| i as u16);
    let mut columns = Vec::with_capacity(plan.columns.len());
    for column in &plan.columns {
        let found = place(&column.source);
        columns.push(found.ok_or_else(|| (format!("{} is gone", column.source), column.source.clone()))?);
    }
    for column in &relation.columns {
        let known = plan.columns.iter().any(|c| c.source == column.name) || plan.left_out.contains(&column.name);
        if !known {
            return Err((format!("{} was added", column.name), column.name.clone()));
        }
    }
    let mut types = types.into_iter().flatten();
    for (planned, &place) in plan.columns.iter().zip(&columns) {
        let (Some(column), Some(known)) = (relation.columns.get(usize::from(place)), types.next()) else { continue };
        let same = known.0.is_none_or(|t| t == column.type_oid) && known.1.is_none_or(|m| m == column.modifier);
        if !same {
            let how = format!("{} has another type than {}", planned.source, planned.origin_type);
            return Err((how, planned.source.clone()));
        }
        *known = (Some(column.type_oid), Some(column.modifier));
    }
    let key: Vec<u16> = plan.key.iter().map(|&k| columns[usize::from(k)]).collect();
    let key_logged = key.iter().all(|&k| relation.columns.get(usize::from(k)).is_some_and(|c| c.key));
    let raw = plan.columns.iter().zip(&columns).filter(|(c, _)| is_raw(plan, c)).map(|(_, &place)| place).collect();
    Ok(Mapping { table: plan.id, columns, key, raw, key_logged, operations: plan.operations })
}

fn put_value(out: &mut Vec<u8>, value: Value<'_>, raw: bool) -> Result<()> {
    match value {
        Value::Text(shown) if raw => return bytea::put_raw(out, shown),
        Value::Null => put_cell(out, Cell::Null),
        Value::Unchanged => put_cell(out, Cell::Unknown),
        Value::Text(text) => put_cell(out, Cell::Value(text)),
        Value::Binary(_) => return Err(Error::internal("a binary value in a stream of texts")),
    }
    Ok(())
}

/// Writes the values at these places. Places usually rise one by one, so the tuple is walked once.
fn put_row(out: &mut Vec<u8>, tuple: &Tuple<'_>, places: &[u16], raw: &[u16], base: Option<&Tuple<'_>>) -> Result<()> {
    let mut walk = tuple.iter();
    let mut at = 0u16;
    for &place in places {
        if place < at {
            walk = tuple.iter();
            at = 0;
        }
        let value = walk.nth(usize::from(place - at)).ok_or_else(|| Error::internal("a row with too few values"))?;
        at = place + 1;
        // The full old row has what the new one leaves out.
        let known = match (value, base) {
            (Value::Unchanged, Some(base)) => base.iter().nth(usize::from(place)).unwrap_or(value),
            _ => value,
        };
        put_value(out, known, raw.contains(&place))?;
    }
    Ok(())
}

/// Writes an old image and says of which kind it is.
fn old_kind(mapping: &Mapping, old: &Old<'_>) -> Result<OldKind> {
    match old {
        // Without an old image the key is the same, provided that the server would have told a change of it.
        Old::None if mapping.key_logged && !mapping.key.is_empty() => Ok(OldKind::None),
        Old::Full(_) => Ok(OldKind::Full),
        Old::Key(_) if mapping.key_logged && !mapping.key.is_empty() => Ok(OldKind::Key),
        Old::Key(_) | Old::None => Err(Error::new(
            codes::TABLE_CHANGED,
            Fault::Source,
            Retry::Never,
            "the log names old rows by other columns than the key that drover goes by",
        )
        .remedy("set REPLICA IDENTITY DEFAULT (with a primary key) or FULL, and migrate the table again")),
    }
}

/// Encodes a row change; `false` if the operation is not selected.
pub(super) fn encode(mapping: &Mapping, message: &Message<'_>, out: &mut Vec<u8>) -> Result<bool> {
    let put_old = |out: &mut Vec<u8>, old: &Old<'_>| match old {
        Old::None => Ok(()),
        Old::Key(tuple) => put_row(out, tuple, &mapping.key, &mapping.raw, None),
        Old::Full(tuple) => put_row(out, tuple, &mapping.columns, &mapping.raw, None),
    };
    match message {
        Message::Insert { new, .. } if mapping.operations.insert => {
            change::put_insert(out, mapping.table);
            put_row(out, new, &mapping.columns, &mapping.raw, None)?;
        }
        Message::Update { old, new, .. } if mapping.operations.update => {
            change::put_update(out, mapping.table, old_kind(mapping, old)?);
            put_old(out, old)?;
            let base = if let Old::Full(tuple) = old { Some(tuple) } else { None };
            put_row(out, new, &mapping.columns, &mapping.raw, base)?;
        }
        Message::Delete { old, .. } if mapping.operations.delete => {
            change::put_delete(out, mapping.table, old_kind(mapping, old)?);
            put_old(out, old)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
