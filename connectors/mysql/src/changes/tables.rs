//! The selected tables, and what the log calls them by at each place.

use crate::binlog::bind::{Binding, Collations, Misfit, Shape, bind};
use crate::binlog::table_map;
use drover_model::schema::TableName;
use std::collections::HashMap;
use std::sync::Arc;

/// Numbers of tables that are kept at most; the log repeats what was forgotten.
const NUMBERS: usize = 10_000;

/// A number that a TABLE_MAP gave out.
struct Mapped {
    /// The event itself: the same again needs no other look.
    event: Vec<u8>,
    /// `None`: not selected.
    binding: Option<Arc<Binding>>,
}

/// See the module.
pub(super) struct Tables {
    shapes: Vec<Shape>,
    /// By database, a zero, and name.
    names: HashMap<Vec<u8>, usize>,
    /// By names without regard to case, as statements are written on servers that fold them.
    folded: Option<HashMap<String, usize>>,
    collations: Collations,
    mapped: HashMap<u64, Mapped>,
    key: Vec<u8>,
}

/// A table that does not fit its plan.
pub(super) struct NoFit {
    pub table: TableName,
    pub misfit: Misfit,
}

fn folded(name: &TableName) -> String {
    format!("{}\0{}", name.schema, name.name).to_lowercase()
}

impl Tables {
    /// The tables have other shapes from here on.
    pub fn reshape(&mut self, shapes: Vec<Shape>) {
        *self = Tables::new(shapes, std::mem::take(&mut self.collations), self.folded.is_some());
    }

    /// `folds`: the server's names have no case (`lower_case_table_names`).
    pub fn new(shapes: Vec<Shape>, collations: Collations, folds: bool) -> Self {
        let key = |name: &TableName| [name.schema.as_bytes(), b"\0", name.name.as_bytes()].concat();
        let names = shapes.iter().enumerate().map(|(i, s)| (key(&s.plan.source), i)).collect();
        let folded = folds.then(|| shapes.iter().enumerate().map(|(i, s)| (folded(&s.plan.source), i)).collect());
        Tables { shapes, names, folded, collations, mapped: HashMap::new(), key: Vec::new() }
    }

    /// The plan of a table by the name that a statement has for it.
    pub fn selected(&self, name: &TableName) -> Option<&drover_model::TablePlan> {
        let at = match &self.folded {
            Some(names) => names.get(&folded(name)),
            None => self.names.get(&[name.schema.as_bytes(), b"\0", name.name.as_bytes()].concat()),
        };
        at.map(|&i| &self.shapes[i].plan)
    }

    /// The selected tables of a database.
    pub fn of_database<'a>(&'a self, database: &'a str) -> impl Iterator<Item = &'a TableName> {
        let same = |a: &str, b: &str| if self.folded.is_some() { a.eq_ignore_ascii_case(b) } else { a == b };
        self.shapes.iter().map(|s| &s.plan.source).filter(move |t| same(&t.schema, database))
    }

    pub fn plan(&self, table: u32) -> Option<&drover_model::TablePlan> {
        self.shapes.iter().map(|s| &s.plan).find(|p| p.id == table)
    }

    /// Takes a TABLE_MAP in. `None` if it is damaged.
    pub fn map(&mut self, body: &[u8], head: u8, mariadb: bool) -> Option<Result<(), NoFit>> {
        let name = table_map::name(body, head)?;
        if self.mapped.get(&name.id).is_some_and(|m| m.event == body) {
            return Some(Ok(()));
        }
        self.key.clear();
        self.key.extend_from_slice(name.database);
        self.key.push(0);
        self.key.extend_from_slice(name.table);
        let binding = match self.names.get(&self.key) {
            None => None,
            Some(&at) => {
                let shape = &self.shapes[at];
                match bind(shape, &table_map::columns(name.rest, mariadb)?, &self.collations, mariadb) {
                    Ok(binding) => Some(Arc::new(binding)),
                    Err(misfit) => return Some(Err(NoFit { table: shape.plan.source.clone(), misfit })),
                }
            }
        };
        self.mapped.insert(name.id, Mapped { event: body.to_vec(), binding });
        Some(Ok(()))
    }

    /// The binding of a number: `None` if the log has not described it, `Some(None)` if it is not selected.
    pub fn binding(&self, number: u64) -> Option<Option<&Arc<Binding>>> {
        self.mapped.get(&number).map(|m| m.binding.as_ref())
    }

    /// Character set of a collation.
    pub fn charset(&self, collation: u16) -> Option<&str> {
        self.collations.get(&collation).map(String::as_str)
    }

    /// Between transactions: keeps memory bounded.
    pub fn trim(&mut self) {
        if self.mapped.len() > NUMBERS {
            self.mapped.clear();
        }
    }

    /// Numbers begin anew with each file.
    pub fn forget(&mut self) {
        self.mapped.clear();
    }
}
