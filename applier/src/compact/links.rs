//! Foreign keys of which the source's log lacks the effects: which table's changes have effects on which, and what they are. Pure.

use drover_model::check::CheckItem;
use drover_model::row::{Cell, cells, put_cell};
use drover_model::schema::{Catalog, DataType, Effect};
use drover_model::{Error, Result, TablePlan};
use std::collections::BTreeSet;

/// A foreign key between two tables that move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub parent: u32,
    pub child: u32,
    /// Columns of the child's plan, and those of the parent's that they refer to, in pairs.
    pub columns: Vec<u16>,
    pub references: Vec<u16>,
    pub on_delete: Option<Effect>,
    pub on_update: Option<Effect>,
    /// Equal values have equal bytes: what concerns other values is apart for certain.
    pub exact: bool,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Links {
    all: Vec<Link>,
    /// By table: links of which it is the parent, and those of which it is the child.
    below: Vec<Vec<usize>>,
    above: Vec<Vec<usize>>,
    /// By link: tables that may be reached from the child onwards.
    deep: Vec<BTreeSet<u32>>,
}

impl Links {
    /// From the source's catalogue and the plans. Foreign keys of tables or columns that do not move have been refused before.
    pub fn new(catalog: &Catalog, plans: &[TablePlan]) -> Links {
        let mut all = Vec::new();
        for child in plans {
            let Some(table) = catalog.table(&child.source) else { continue };
            for key in &table.unlogged {
                let Some(parent) = plans.iter().find(|p| p.source == key.parent) else { continue };
                let places = |plan: &TablePlan, names: &[String]| -> Option<Vec<u16>> {
                    names.iter().map(|n| place(plan, n)).collect()
                };
                let pair = places(child, &key.columns).zip(places(parent, &key.references));
                let Some((columns, references)) = pair else { continue };
                let exact = columns.iter().all(|&c| is_exact(&child.columns[usize::from(c)].data_type));
                all.push(Link {
                    name: key.name.clone(),
                    parent: parent.id,
                    child: child.id,
                    columns,
                    references,
                    on_delete: key.on_delete,
                    on_update: key.on_update,
                    exact,
                });
            }
        }
        let tables = plans.iter().map(|p| p.id as usize + 1).max().unwrap_or(0);
        let (mut below, mut above) = (vec![Vec::new(); tables], vec![Vec::new(); tables]);
        for (n, link) in all.iter().enumerate() {
            below[link.parent as usize].push(n);
            above[link.child as usize].push(n);
        }
        let deep = all.iter().map(|link| reach(&all, link.child)).collect();
        Links { all, below, above, deep }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    pub fn get(&self, link: usize) -> &Link {
        &self.all[link]
    }
    /// Links of which a table is the parent.
    pub fn below(&self, table: u32) -> &[usize] {
        self.below.get(table as usize).map_or(&[], Vec::as_slice)
    }
    /// Links of which a table is the child.
    pub fn above(&self, table: u32) -> &[usize] {
        self.above.get(table as usize).map_or(&[], Vec::as_slice)
    }
    /// Tables that an effect on a link's child may go on to.
    pub fn deep(&self, link: usize) -> &BTreeSet<u32> {
        &self.deep[link]
    }
}

/// What stands in the way of doing again what foreign keys do without a trace: parents whose changes do not come, and columns that are not there.
pub fn obstacles(catalog: &Catalog, plans: &[TablePlan]) -> Vec<CheckItem> {
    let mut items = Vec::new();
    for child in plans {
        for key in catalog.table(&child.source).map_or(&[][..], |t| &t.unlogged) {
            let parent = plans.iter().find(|p| p.source == key.parent);
            let moves = |plan: &TablePlan, names: &[String]| names.iter().all(|n| place(plan, n).is_some());
            let why = match parent {
                None => format!("{} is not selected", key.parent),
                Some(p) if p.filter.is_some() => format!("only some rows of {} move", key.parent),
                Some(p) if !p.operations.delete || !p.operations.update => {
                    format!("deletes or updates of {} do not move", key.parent)
                }
                Some(p) if !moves(p, &key.references) || !moves(child, &key.columns) => {
                    "a column of the foreign key does not move".to_owned()
                }
                Some(_) => continue,
            };
            items.push(CheckItem::failed(
                "K20",
                child.source.to_string(),
                format!(
                    "foreign key {} changes rows together with those of {}, which the source's log does not say, and {why}",
                    key.name, key.parent
                ),
                "select both tables whole, or leave this one out, or copy without the incremental stage",
            ));
        }
    }
    items
}

/// The place of a source's column in a plan; names of columns may differ in case where a foreign key names them.
fn place(plan: &TablePlan, name: &str) -> Option<u16> {
    let found = plan.columns.iter().position(|c| c.source == name);
    found.or_else(|| plan.columns.iter().position(|c| c.source.to_lowercase() == name.to_lowercase())).map(|i| i as u16)
}

fn is_exact(kind: &DataType) -> bool {
    matches!(kind, DataType::Int { .. } | DataType::Uuid | DataType::Date | DataType::Timestamp { .. })
}

/// All tables that are children of this one, or of such.
fn reach(all: &[Link], table: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut next = vec![table];
    while let Some(table) = next.pop() {
        for link in all.iter().filter(|l| l.parent == table) {
            if found.insert(link.child) {
                next.push(link.child);
            }
        }
    }
    found
}

/// The value of some columns of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Cells(Vec<u8>),
    /// Has a null in it: refers to nothing.
    Null,
    /// Not all of it is known.
    Unknown,
}

/// Takes columns out of a row (or out of any run of cells, by place).
pub fn project(row: &[u8], columns: &[u16]) -> Value {
    let all: Vec<Cell<'_>> = cells(row).collect();
    let (mut out, mut null) = (Vec::new(), false);
    for &column in columns {
        match all.get(usize::from(column)) {
            None | Some(Cell::Unknown) => return Value::Unknown,
            Some(Cell::Null) => null = true,
            Some(cell) => put_cell(&mut out, *cell),
        }
    }
    if null { Value::Null } else { Value::Cells(out) }
}

/// `row` with these columns' cells replaced; `None`: by nulls.
pub fn replaced(row: &[u8], places: &[Option<usize>], new: Option<&[u8]>) -> Vec<u8> {
    let new: Vec<Cell<'_>> = new.map(|n| cells(n).collect()).unwrap_or_default();
    let mut out = Vec::new();
    for (cell, place) in cells(row).zip(places) {
        match place {
            Some(n) => put_cell(&mut out, new.get(*n).copied().unwrap_or(Cell::Null)),
            None => put_cell(&mut out, cell),
        }
    }
    out
}

/// A change of a parent that does not tell what children refer to.
pub fn untold(link: &Link) -> Error {
    Error::internal(format!("a change does not tell the values that foreign key {} refers to", link.name))
}

/// What a parent's row was referred to by.
pub fn told(row: &[u8], link: &Link) -> Result<Option<Vec<u8>>> {
    match project(row, &link.references) {
        Value::Cells(value) => Ok(Some(value)),
        Value::Null => Ok(None),
        Value::Unknown => Err(untold(link)),
    }
}
