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
use crate::schema::{Catalog, Column, DataType, Object, PlainForeignKey, Table, TableName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// New columns in which rows from before have a value that is not null: the column, and the value as a canonical cell has it, bytes as `\\x` and
    /// hexadecimal digits. For
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
    /// Shared with whoever else works on the migration in this process, as the plans are, until a schema change is folded in.
    pub catalog: Arc<Catalog>,
    /// Index = table id. A table that is gone keeps its number: its plan has no columns ([`TablePlan::is_gone`]).
    pub plans: Arc<Vec<TablePlan>>,
    /// Schema changes folded in so far. A record of changes says with how many its rows were encoded.
    pub version: u64,
}

impl Schemas {
    /// What was planned at the start.
    pub fn new(catalog: impl Into<Arc<Catalog>>, plans: impl Into<Arc<Vec<TablePlan>>>) -> Schemas {
        Schemas { catalog: catalog.into(), plans: plans.into(), version: 0 }
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
        let catalog = Arc::make_mut(&mut self.catalog);
        for name in change.tables.iter().filter_map(|t| t.before.as_ref()).map(|t| &t.name) {
            catalog.tables.retain(|t| t.name != *name);
        }
        // Tables that come take over what is said of their database.
        for object in change.objects.iter().filter(|o| o.kind == "database") {
            let known = catalog.objects.iter_mut().find(|o| o.kind == object.kind && o.name == object.name);
            if let Some(known) = known {
                known.options.clone_from(&object.options);
            }
        }
        self.refer(&change.tables);
        let (catalog, plans) = (Arc::make_mut(&mut self.catalog), Arc::make_mut(&mut self.plans));
        for table in &change.tables {
            catalog.tables.extend(table.after.clone());
            let Some(id) = table.id else { continue };
            match (&table.plan, plans.get_mut(id as usize)) {
                (Some(plan), Some(place)) => *place = plan.clone(),
                (Some(plan), None) => plans.push(plan.clone()),
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

    /// What the tables and objects that are there refer to (foreign keys, the owners of sequences) follows the names of it.
    pub fn refer(&mut self, changes: &[TableChange]) {
        let moves = Moves::of(changes);
        let catalog = Arc::make_mut(&mut self.catalog);
        for table in &mut catalog.tables {
            table.plain_foreign_keys.iter_mut().for_each(|key| moves.refer(key));
            table.parts.iter_mut().for_each(|part| moves.object(part));
        }
        catalog.objects.iter_mut().for_each(|object| moves.object(object));
    }

    /// The plans of the tables that are there.
    pub fn live(&self) -> Arc<Vec<TablePlan>> {
        if !self.plans.iter().any(TablePlan::is_gone) {
            return self.plans.clone();
        }
        Arc::new(self.plans.iter().filter(|p| !p.is_gone()).cloned().collect())
    }
}

/// What an object's options name a table by: `<word>_schema` and `<word>_name`.
const NAMED: [&str; 4] = ["foreign", "on", "owner", "parent"];

/// Names of tables before and after, and of those of their columns that got others.
pub struct Moves(Vec<(TableName, TableName, Vec<(String, String)>)>);

impl Moves {
    pub fn of(changes: &[TableChange]) -> Moves {
        let of = |c: &TableChange| {
            Some((c.before.as_ref()?.name.clone(), c.after.as_ref()?.name.clone(), c.renamed.clone()))
        };
        Moves(changes.iter().filter_map(of).collect())
    }

    /// One table under another name.
    pub fn one(from: &TableName, to: &TableName) -> Moves {
        Moves(vec![(from.clone(), to.clone(), Vec::new())])
    }

    /// The key follows the names of what it refers to.
    pub fn refer(&self, key: &mut PlainForeignKey) {
        let Some((_, name, renamed)) = self.0.iter().find(|(old, ..)| *old == key.parent) else { return };
        key.parent.clone_from(name);
        for column in &mut key.references {
            if let Some((_, new)) = renamed.iter().find(|(old, _)| old == column) {
                column.clone_from(new);
            }
        }
    }

    /// The tables that an object's options name, and their columns, under their new names. What a column owns lies where its table lies.
    pub fn object(&self, object: &mut Object) {
        for word in NAMED {
            let [schema, name] = ["schema", "name"].map(|end| format!("{word}_{end}"));
            let found = object.options.get(&schema).zip(object.options.get(&name));
            let found = found.and_then(|(s, n)| self.0.iter().find(|(old, ..)| old.schema == *s && old.name == *n));
            let Some((old, new, renamed)) = found else { continue };
            let now = |column: &mut String| {
                if let Some((_, new)) = renamed.iter().find(|(old, _)| old == column) {
                    column.clone_from(new);
                }
            };
            if word == "owner" {
                object.options.get_mut("owner_column").into_iter().for_each(now);
                if object.schema == old.schema {
                    object.schema.clone_from(&new.schema);
                }
            }
            if word == "foreign"
                && let Some(json) = object.options.get_mut("foreign_columns")
                && let Ok(mut columns) = serde_json::from_str::<Vec<String>>(json)
            {
                columns.iter_mut().for_each(now);
                *json = serde_json::to_string(&columns).unwrap_or_default();
            }
            object.options.insert(schema, new.schema.clone());
            object.options.insert(name, new.name.clone());
        }
    }
}

/// Whether a column of a plan between kinds of databases may become another: its values stay what they are on both sides. What only the source knows
/// how to write must not have another name either.
pub fn keeps_values(old: &Column, new: &Column) -> bool {
    fn unknown(t: &DataType) -> bool {
        match t {
            DataType::Other => true,
            DataType::Array(of) => unknown(of),
            _ => false,
        }
    }
    widens(&old.data_type, &new.data_type) && (old.origin_type == new.origin_type || !unknown(&new.data_type))
}

/// Whether every value of the one type is the same value in the other, wherever it is converted: between kinds of databases no other conversion is
/// followed. Bytes of a fixed length, which grow with their type, are not told from others here.
pub fn widens(old: &DataType, new: &DataType) -> bool {
    use DataType::{Bytes, Decimal, Enum, Float, Int, Text, Time, Timestamp};
    let digits = |bytes: u8| [0, 3, 5, 8, 10, 13, 15, 17, 20][usize::from(bytes.min(8))];
    match (old, new) {
        _ if old == new => true,
        (Int { bytes: a, unsigned: ua }, Int { bytes: b, unsigned: ub }) => {
            if ua == ub {
                a <= b
            } else {
                *ua && a < b
            }
        }
        (Int { bytes, .. }, Decimal { precision, scale }) => {
            precision.is_none_or(|p| i64::from(p) - i64::from(scale.unwrap_or(0)) >= digits(*bytes))
        }
        (Decimal { precision: Some(p), scale }, Decimal { precision, scale: wider }) => {
            let (s, w) = (scale.unwrap_or(0), wider.unwrap_or(0));
            precision.is_none_or(|q| w >= s && i64::from(q) - i64::from(w) >= i64::from(*p) - i64::from(s))
        }
        (Float { bytes: a }, Float { bytes: b }) => a <= b,
        (Text { max: a, padded: false }, Text { max: b, padded: false }) => b.is_none_or(|b| a.is_some_and(|a| a <= b)),
        (Text { max: a, padded: true }, Text { max: b, padded: true }) => b.is_none_or(|b| a.is_some_and(|a| a <= b)),
        (Bytes { max: a }, Bytes { max: b }) => b.is_none_or(|b| a.is_some_and(|a| a <= b)),
        (Time { precision: a, zone: x }, Time { precision: b, zone: y }) => x == y && a <= b,
        (Timestamp { precision: a, zone: x }, Timestamp { precision: b, zone: y }) => x == y && a <= b,
        (Enum { labels: a }, Enum { labels: b }) => b.starts_with(a),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PlanColumn;
    use crate::schema::{Action, OldImage, Phase};

    fn table(name: &str) -> Table {
        Table::new(TableName::new("d", name), vec![], OldImage::Full)
    }

    fn catalog(tables: Vec<Table>) -> Catalog {
        Catalog {
            origin: "x".into(),
            version: 1,
            version_text: String::new(),
            database: "d".into(),
            scope: None,
            home: None,
            identity: String::new(),
            tables,
            objects: vec![],
        }
    }

    fn plan(id: u32, name: &str, version: u32) -> TablePlan {
        let column = PlanColumn::new("a", DataType::Other, "");
        TablePlan { version, ..TablePlan::new(id, TableName::new("d", name), vec![column]) }
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
        let catalog = catalog(vec![table("t"), table("u")]);
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

    #[test]
    fn foreign_keys_follow_the_names_of_what_they_refer_to() {
        let mut child = table("c");
        child.plain_foreign_keys = ["t", "u"]
            .map(|parent| PlainForeignKey {
                name: parent.into(),
                columns: vec!["a".into()],
                parent: TableName::new("d", parent),
                references: vec!["id".into()],
                on_delete: Action::Restrict,
                on_update: Action::Restrict,
            })
            .to_vec();
        let catalog = catalog(vec![table("t"), table("u"), child]);
        let mut schemas = Schemas::new(catalog, vec![plan(0, "t", 1), plan(1, "u", 1)]);
        // The two exchange their names, and one of them has another column.
        let mut first = one(Some(0), Some("t"), Some("u"), Some(plan(0, "u", 2)));
        first.renamed = vec![("id".into(), "number".into())];
        schemas.apply(&change(vec![first, one(Some(1), Some("u"), Some("t"), Some(plan(1, "t", 2)))]));
        let child = schemas.catalog.table(&TableName::new("d", "c")).unwrap();
        let found: Vec<(&str, &str)> =
            child.plain_foreign_keys.iter().map(|k| (k.parent.name.as_str(), k.references[0].as_str())).collect();
        assert_eq!(found, [("u", "number"), ("t", "id")]);
    }

    #[test]
    fn objects_follow_the_tables_and_columns_that_they_name() {
        let object = |kind: &str, options: &[(&str, &str)]| Object {
            kind: kind.into(),
            schema: "d".into(),
            name: "o".into(),
            phase: Phase::Base,
            definition: String::new(),
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            needs: vec![],
        };
        let (mut child, mut catalog) = (table("c"), catalog(vec![table("t"), table("u")]));
        child.parts = vec![object(
            "foreign key",
            &[
                ("foreign_schema", "d"),
                ("foreign_name", "t"),
                ("foreign_columns", "[\"id\",\"k\"]"),
                ("on_schema", "d"),
                ("on_name", "c"),
            ],
        )];
        catalog.tables.push(child);
        let owned = [("owner_schema", "d"), ("owner_name", "t"), ("owner_column", "id")];
        catalog.objects =
            vec![object("sequence", &owned), object("sequence", &[("owner_schema", "d"), ("owner_name", "u")])];
        let mut schemas = Schemas::new(catalog, vec![plan(0, "t", 1), plan(1, "u", 1)]);
        let mut moved = one(Some(0), Some("t"), Some("v"), Some(plan(0, "v", 2)));
        moved.renamed = vec![("id".into(), "number".into())];
        if let Some(after) = &mut moved.after {
            after.name.schema = "e".into();
        }
        schemas.apply(&change(vec![moved]));
        let part = &schemas.catalog.table(&TableName::new("d", "c")).unwrap().parts[0].options;
        let found =
            ["foreign_schema", "foreign_name", "foreign_columns", "on_schema", "on_name"].map(|k| part[k].as_str());
        assert_eq!(found, ["e", "v", "[\"number\",\"k\"]", "d", "c"]);
        let found: Vec<_> =
            schemas.catalog.objects.iter().map(|o| (o.schema.as_str(), o.options["owner_name"].as_str())).collect();
        assert_eq!(found, [("e", "v"), ("d", "u")]);
        assert_eq!(schemas.catalog.objects[0].options["owner_column"], "number");
    }

    #[test]
    fn only_what_keeps_every_value_widens() {
        let int = |bytes, unsigned| DataType::Int { bytes, unsigned };
        let decimal = |p, s| DataType::Decimal { precision: Some(p), scale: Some(s) };
        let text = |max| DataType::Text { max, padded: false };
        for (old, new, wanted) in [
            (int(4, false), int(8, false), true),
            (int(4, true), int(8, false), true),
            (int(4, true), int(4, false), false),
            (int(8, false), int(4, false), false),
            (int(4, false), decimal(12, 2), true),
            (int(8, false), decimal(12, 2), false),
            (decimal(10, 2), decimal(12, 4), true),
            (decimal(10, 2), decimal(10, 4), false),
            (text(Some(10)), text(None), true),
            (text(Some(10)), text(Some(9)), false),
            (text(None), text(Some(9)), false),
            (DataType::Float { bytes: 8 }, int(8, false), false),
            (DataType::Date, DataType::Timestamp { precision: 6, zone: false }, false),
        ] {
            assert_eq!(widens(&old, &new), wanted, "{old:?} to {new:?}");
        }
    }
}
