//! The catalogue, and mapping a table to one of ours.

use crate::KIND;
use crate::database::Database;
use drover_connectors_api::MappedTable;
use drover_model::plan::{PlanColumn, RowFormat, TablePlan};
use drover_model::schema::{Catalog, Column, OldImage, Table, TableName, UniqueKey};
use drover_model::selection::TableChoice;

/// The catalogue of a database.
pub fn catalog(db: &Database, name: &str) -> Catalog {
    let inner = db.lock();
    let sized = |data: &crate::TableData| {
        let bytes = data.rows.values().map(crate::TableData::size).sum();
        Table { rows: data.rows.len() as u64, bytes, ..data.def.clone() }
    };
    Catalog {
        scope: None,
        home: None,
        origin: KIND.into(),
        version: 1,
        version_text: "1".into(),
        database: name.into(),
        identity: format!("{name}/{}", inner.lineage),
        tables: inner.tables.values().map(|t| sized(t)).collect(),
        objects: Vec::new(),
    }
}

/// Maps a table: everything is a text here, so nothing can get lost.
pub fn map(table: &Table, choice: &TableChoice) -> MappedTable {
    let mut columns = Vec::new();
    for moved in &choice.columns {
        let Some(column) = table.column(&moved.source) else { continue };
        columns.push(PlanColumn {
            destination: moved.destination.clone(),
            ..PlanColumn::new(&column.name, column.data_type.clone(), &column.origin_type)
        });
    }
    let index = |name: &String| columns.iter().position(|c| &c.source == name).map(|i| i as u16);
    let identifying = table.identifying_key().and_then(|k| k.columns.iter().map(index).collect::<Option<Vec<_>>>());
    let plan = TablePlan {
        id: 0,
        version: 1,
        source: table.name.clone(),
        destination: TableName::new(&choice.schema, &choice.table),
        key: identifying.unwrap_or_default(),
        left_out: table.columns.iter().map(|c| &c.name).filter(|n| index(n).is_none()).cloned().collect(),
        columns,
        filter: choice.filter.clone(),
        operations: choice.operations,
        floats: choice.floats.unwrap_or_default(),
        format: RowFormat::Canonical,
        physical: table.physical.clone(),
        rows: table.rows,
        bytes: table.bytes,
    };
    MappedTable { plan, formats: vec![RowFormat::Canonical], items: Vec::new() }
}

/// The definition of a planned table at the destination, without keys.
pub fn definition(plan: &TablePlan, source: Option<&Table>) -> Table {
    let column = |c: &PlanColumn| Column {
        nullable: source.and_then(|t| t.column(&c.source)).is_none_or(|s| s.nullable),
        ..Column::new(&c.destination, c.data_type.clone(), &c.destination_type)
    };
    let columns = plan.columns.iter().map(column).collect();
    let old_image = source.map_or(OldImage::Key, |t| t.old_image);
    Table { physical: "as created".into(), ..Table::new(plan.destination.clone(), columns, old_image) }
}

/// A source's key under the destination's names; `None` if one of its columns does not move.
pub fn key(plan: &TablePlan, key: &UniqueKey) -> Option<UniqueKey> {
    let moved = |name: &String| plan.columns.iter().find(|c| &c.source == name).map(|c| c.destination.clone());
    Some(UniqueKey { columns: key.columns.iter().map(moved).collect::<Option<_>>()?, ..key.clone() })
}
