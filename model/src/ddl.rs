//! Schema changes of a source while its changes are followed.
//!
//! A [`SchemaChange`] stands in the stream at its exact position, alone in its record: rows before it are encoded with the plans before it,
//! rows after it with those that it brings. It carries the structures of its tables before and after, so that a destination of any kind
//! can do the same; the statement stands beside them for those of the origin's own kind, and for people.
//!
//! Guarantee: folding the changes up to a position over what was planned at the start gives the plans of exactly that position
//! ([`Schemas`]), whoever folds and whenever.

use crate::plan::TablePlan;
use crate::position::Position;
use crate::schema::{Catalog, Object, Table, TableName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One schema change of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchemaChange {
    /// `ALTER TABLE`, for people.
    pub verb: String,
    /// As the source wrote it, if it did, in the origin's dialect.
    #[serde(default)]
    pub statement: Option<String>,
    /// What the statement's meaning depends on, in the origin's own words: default database, modes, character sets.
    #[serde(default)]
    pub context: BTreeMap<String, String>,
    /// The tables concerned, in the order in which they are changed.
    #[serde(default)]
    pub tables: Vec<TableChange>,
    /// Objects besides tables that were made anew or replaced (views, routines), in the origin's dialect.
    #[serde(default)]
    pub objects: Vec<Object>,
}

impl SchemaChange {
    /// Whether the destination has anything to do: tables that do not move only have to be known.
    pub fn acts(&self) -> bool {
        !self.objects.is_empty() || self.tables.iter().any(|t| t.id.is_some() && t.stopped.is_none() && !t.apart)
    }

    /// The first table that it is about, for messages.
    pub fn table(&self) -> Option<&TableName> {
        self.tables.iter().find_map(|t| t.after.as_ref().or(t.before.as_ref())).map(|t| &t.name)
    }
}

/// What becomes of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableChange {
    /// Its number in the migration; `None`: it does not move and is only known by name, for what may become of it (the helper tables of tools
    /// that change schemas online).
    pub id: Option<u32>,
    /// `None`: it comes into being.
    pub before: Option<Table>,
    /// `None`: it is dropped, or does not belong to the migration any more.
    pub after: Option<Table>,
    /// How its rows are encoded from here on, as the source's side knows it: names at the destination are those of the selection, types of
    /// the destination are its own matter. `None` with `after`.
    #[serde(default)]
    pub plan: Option<TablePlan>,
    /// Columns that have another name now: before, after.
    #[serde(default)]
    pub renamed: Vec<(String, String)>,
    /// Columns that are new though one of the same name was there before.
    #[serde(default)]
    pub anew: Vec<String>,
    /// New columns in which rows from before have a value that is not null: the column, and the value as a cell of the plan's rows shows it. For
    /// origins that tell it; a destination of the origin's own kind may come to it by the column's definition.
    #[serde(default)]
    pub filled: Vec<(String, String)>,
    /// What else is done to it that its structure does not tell, as clauses in the origin's dialect.
    #[serde(default)]
    pub clauses: Vec<String>,
    /// The destination's table stays as it is: schema changes of this table are not selected.
    #[serde(default)]
    pub apart: bool,
    /// The table is not followed any more from here on, and why. The destination keeps what it has of it.
    #[serde(default)]
    pub stopped: Option<String>,
}

/// A schema change with its place: everything up to `position`, the change included, is behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dated {
    pub position: Position,
    pub change: SchemaChange,
}

/// Catalogue and plans of a migration at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Schemas {
    pub catalog: Catalog,
    /// Index = table id. A table that is gone keeps its number: its plan has no columns ([`TablePlan::is_gone`]).
    pub plans: Vec<TablePlan>,
    /// Schema changes folded in so far. A record of changes says with how many its rows were encoded.
    pub version: u64,
}

impl Schemas {
    /// What was planned at the start.
    pub fn new(catalog: Catalog, plans: Vec<TablePlan>) -> Schemas {
        Schemas { catalog, plans, version: 0 }
    }

    /// The same with all changes up to a position (`None`: all there are).
    pub fn folded(mut self, changes: &[Dated], upto: Option<&Position>) -> Schemas {
        for dated in changes.iter().filter(|d| upto.is_none_or(|upto| d.position <= *upto)) {
            self.apply(&dated.change);
        }
        self
    }

    /// Folds one change in.
    pub fn apply(&mut self, change: &SchemaChange) {
        self.version += 1;
        // All that goes first: names may be exchanged.
        for name in change.tables.iter().filter_map(|t| t.before.as_ref()).map(|t| &t.name) {
            self.catalog.tables.retain(|t| t.name != *name);
        }
        for table in &change.tables {
            self.catalog.tables.extend(table.after.clone());
            let Some(id) = table.id else { continue };
            match (&table.plan, self.plans.get_mut(id as usize)) {
                (Some(plan), Some(place)) => *place = plan.clone(),
                (Some(plan), None) => self.plans.push(plan.clone()),
                (None, Some(place)) => {
                    place.columns.clear();
                    place.key.clear();
                    place.left_out.clear();
                    place.version += 1;
                }
                (None, None) => {}
            }
        }
    }

    /// The plans of the tables that are there.
    pub fn live(&self) -> Vec<TablePlan> {
        self.plans.iter().filter(|p| !p.is_gone()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Operations, PlanColumn, RowFormat};
    use crate::schema::{DataType, OldImage};

    fn table(name: &str) -> Table {
        Table::new(TableName::new("d", name), vec![], OldImage::Full)
    }

    fn plan(id: u32, name: &str, version: u32) -> TablePlan {
        let column = PlanColumn::new("a", DataType::Other, "");
        TablePlan {
            id,
            version,
            source: TableName::new("d", name),
            destination: TableName::new("d", name),
            columns: vec![column],
            left_out: vec![],
            key: vec![],
            filter: None,
            operations: Operations::ALL,
            format: RowFormat::Canonical,
            physical: String::new(),
            rows: 0,
            bytes: 0,
        }
    }

    fn change(tables: Vec<TableChange>) -> SchemaChange {
        SchemaChange { verb: "X".into(), statement: None, context: BTreeMap::new(), tables, objects: vec![] }
    }

    fn one(id: Option<u32>, before: Option<&str>, after: Option<&str>, plan: Option<TablePlan>) -> TableChange {
        let (before, after) = (before.map(table), after.map(table));
        TableChange {
            id,
            before,
            after,
            plan,
            renamed: vec![],
            anew: vec![],
            filled: vec![],
            clauses: vec![],
            apart: false,
            stopped: None,
        }
    }

    fn names(s: &Schemas) -> Vec<&str> {
        let mut names: Vec<&str> = s.catalog.tables.iter().map(|t| t.name.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn changes_are_folded_up_to_a_position() {
        let at = |n: u8| Position { lineage: 0, order: vec![n], resume: vec![], text: n.to_string() };
        let catalog = Catalog {
            origin: "x".into(),
            version: 1,
            version_text: String::new(),
            database: "d".into(),
            scope: None,
            home: None,
            identity: String::new(),
            tables: vec![table("t"), table("u")],
            objects: vec![],
        };
        let base = Schemas::new(catalog, vec![plan(0, "t", 1), plan(1, "u", 1)]);
        let changes = [
            Dated { position: at(1), change: change(vec![one(Some(2), None, Some("v"), Some(plan(2, "v", 1)))]) },
            // The two exchange their names.
            Dated {
                position: at(2),
                change: change(vec![
                    one(Some(0), Some("t"), Some("u"), Some(plan(0, "u", 2))),
                    one(Some(1), Some("u"), Some("t"), Some(plan(1, "t", 2))),
                ]),
            },
            Dated { position: at(3), change: change(vec![one(Some(0), Some("u"), None, None)]) },
        ];
        let first = base.clone().folded(&changes, Some(&at(1)));
        assert_eq!((first.version, names(&first), first.plans.len()), (1, vec!["t", "u", "v"], 3));
        let second = base.clone().folded(&changes, Some(&at(2)));
        assert_eq!((names(&second), second.plans[0].source.name.as_str()), (vec!["t", "u", "v"], "u"));
        let all = base.folded(&changes, None);
        assert_eq!((all.version, names(&all)), (3, vec!["t", "v"]));
        assert!(all.plans[0].is_gone() && all.live().len() == 2);
    }
}
