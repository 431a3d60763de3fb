//! Tables and their rows. Unique keys are enforced by every single statement; a null never collides.

use drover_model::plan::TablePlan;
use drover_model::row::{Cell, cells, put_cell};
use drover_model::schema::{Column, Table, UniqueKey};
use drover_model::{Error, Fault, Retry, error::codes};
use std::collections::BTreeMap;

/// A value is its canonical text; `None` is null.
pub type Value = Option<Vec<u8>>;
/// A row, in the order of the table's columns.
pub type Row = Vec<Value>;
/// Where a row lies: never used twice, so it is the row's physical place.
pub type Place = u64;

/// A table's definition and rows. Clones are snapshots.
#[derive(Debug, Clone)]
pub struct TableData {
    pub def: Table,
    pub rows: BTreeMap<Place, Row>,
    next: Place,
    /// One for each key of the definition.
    indexes: Vec<BTreeMap<Vec<Vec<u8>>, Place>>,
}

fn refused(def: &Table, message: String) -> Error {
    Error::new(codes::STATEMENT, Fault::Destination, Retry::Other, message).table(&def.name)
}

fn shown(values: &[Vec<u8>]) -> String {
    values.iter().map(|v| String::from_utf8_lossy(v).into_owned()).collect::<Vec<_>>().join(", ")
}

impl TableData {
    pub fn new(def: Table) -> Self {
        let indexes = vec![BTreeMap::new(); def.keys.len()];
        TableData { def, rows: BTreeMap::new(), next: 1, indexes }
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.def.columns.iter().position(|c| c.name == name)
    }

    /// A row's values in the columns of a key; `None` if one is null.
    pub fn key_values(&self, key: &UniqueKey, row: &Row) -> Option<Vec<Vec<u8>>> {
        key.columns.iter().map(|name| row.get(self.column(name)?)?.clone()).collect()
    }

    /// Adds a unique key; refused if rows collide.
    pub fn add_key(&mut self, key: UniqueKey) -> Result<(), Error> {
        if self.def.keys.iter().any(|k| k.name == key.name) {
            return Ok(());
        }
        let mut index = BTreeMap::new();
        for (&place, row) in &self.rows {
            if let Some(values) = self.key_values(&key, row)
                && let Some(_other) = index.insert(values.clone(), place)
            {
                return Err(refused(&self.def, format!("two rows have {} = ({})", key.name, shown(&values))));
            }
        }
        self.def.keys.push(key);
        self.indexes.push(index);
        Ok(())
    }

    /// Adds a column behind the others; rows that are there have null in it. One that is there already is kept.
    pub fn add_column(&mut self, column: Column) {
        if self.column(&column.name).is_none() {
            self.def.columns.push(column);
            self.rows.values_mut().for_each(|row| row.push(None));
        }
    }

    pub fn clear(&mut self) {
        self.rows.clear();
        self.indexes.iter_mut().for_each(BTreeMap::clear);
    }

    /// Bytes of a row, for sizes.
    pub fn size(row: &Row) -> u64 {
        row.iter().map(|v| v.as_ref().map_or(1, |v| v.len() as u64 + 1)).sum()
    }

    pub fn insert(&mut self, row: Row) -> Result<Place, Error> {
        let place = self.next;
        self.index(place, &row)?;
        self.next += 1;
        self.rows.insert(place, row);
        Ok(place)
    }

    pub fn delete(&mut self, place: Place) -> Option<Row> {
        let row = self.rows.remove(&place)?;
        for (key, index) in self.def.keys.iter().zip(&mut self.indexes) {
            let values: Option<Vec<Vec<u8>>> = key
                .columns
                .iter()
                .map(|name| row.get(self.def.columns.iter().position(|c| &c.name == name)?)?.clone())
                .collect();
            if let Some(values) = values {
                index.remove(&values);
            }
        }
        Some(row)
    }

    /// Puts another row in the place of one.
    pub fn update(&mut self, place: Place, row: Row) -> Result<Row, Error> {
        let Some(old) = self.delete(place) else {
            return Err(refused(&self.def, "a row to update is gone".into()));
        };
        if let Err(error) = self.index(place, &row) {
            self.index(place, &old)?;
            self.rows.insert(place, old);
            return Err(error);
        }
        self.rows.insert(place, row);
        Ok(old)
    }

    fn index(&mut self, place: Place, row: &Row) -> Result<(), Error> {
        let values: Vec<_> = self.def.keys.iter().map(|key| self.key_values(key, row)).collect();
        for ((key, index), values) in self.def.keys.iter().zip(&self.indexes).zip(&values) {
            match values {
                Some(values) if index.contains_key(values) => {
                    let message = format!("another row has {} = ({}) already", key.name, shown(values));
                    return Err(refused(&self.def, message));
                }
                None if key.primary => {
                    return Err(refused(&self.def, format!("null in a column of the primary key {}", key.name)));
                }
                _ => {}
            }
        }
        for (index, values) in self.indexes.iter_mut().zip(values) {
            if let Some(values) = values {
                index.insert(values, place);
            }
        }
        Ok(())
    }

    /// The places of the rows with these values, by an index on exactly these columns if there is one.
    pub fn find(&self, columns: &[usize], values: &[Value]) -> Vec<Place> {
        let wanted: Option<Vec<Vec<u8>>> = values.iter().cloned().collect();
        if let Some(wanted) = &wanted {
            for (key, index) in self.def.keys.iter().zip(&self.indexes) {
                if key.columns.iter().map(|name| self.column(name)).eq(columns.iter().map(|c| Some(*c))) {
                    return index.get(wanted).copied().into_iter().collect();
                }
            }
        }
        let same = |row: &Row| columns.iter().zip(values).all(|(&c, v)| row.get(c) == Some(v));
        self.rows.iter().filter(|(_, row)| same(row)).map(|(place, _)| *place).collect()
    }
}

/// Where a plan's columns lie in a table.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// For each column of the plan its index in the table.
    pub columns: Vec<usize>,
    /// For each column of the plan's key its index in the table.
    pub key: Vec<usize>,
}

impl Mapping {
    /// `source`: by the plan's names at the source, else by those at the destination.
    pub fn new(plan: &TablePlan, data: &TableData, source: bool) -> Result<Self, Error> {
        let columns = plan.columns.iter().map(|c| {
            let name = if source { &c.source } else { &c.destination };
            data.column(name).ok_or_else(|| refused(&data.def, format!("there is no column {name}")).column(name))
        });
        let columns = columns.collect::<Result<Vec<_>, Error>>()?;
        let key = plan.key.iter().filter_map(|&k| columns.get(usize::from(k)).copied()).collect();
        Ok(Mapping { columns, key })
    }
}

/// Appends the values in these columns as cells.
pub fn encode(out: &mut Vec<u8>, row: &Row, columns: &[usize]) {
    for &column in columns {
        match row.get(column).and_then(Option::as_ref) {
            Some(value) => put_cell(out, Cell::Value(value)),
            None => put_cell(out, Cell::Null),
        }
    }
}

/// Cells as values; the outer `None` is unknown.
pub fn decode(encoded: &[u8]) -> Vec<Option<Value>> {
    let value = |cell: Cell<'_>| match cell {
        Cell::Unknown => None,
        Cell::Null => Some(None),
        Cell::Value(v) => Some(Some(v.to_vec())),
    };
    cells(encoded).map(value).collect()
}

/// Cells of which none may be unknown.
pub fn known(encoded: &[u8]) -> Result<Vec<Value>, Error> {
    let values: Option<Vec<Value>> = decode(encoded).into_iter().collect();
    values.ok_or_else(|| Error::internal("an unknown cell where all must be known"))
}
