//! Mapping a table to PostgreSQL, purely. Within the kind, types stay what they are; every column is lossless or named in an item.

mod foreign;

use crate::catalog::ORIGIN;
use drover_connectors_api::MappedTable;
use drover_model::check::CheckItem;
use drover_model::plan::{PlanColumn, RowFormat, TablePlan};
use drover_model::schema::{Catalog, DataType, Identity, Table, TableName};

use drover_model::selection::TableChoice;
pub use foreign::type_of as foreign_type;

/// Name of the native row format: COPY's binary form, header and trailer included in the chunk's byte stream.
pub const COPY_BINARY: &str = "postgres-copy-binary";

/// Name of the format of cells that hold each value's own text, for types that are other ones at another server. Canonical cells are for other
/// kinds of databases.
pub const CELLS: &str = "postgres-cells";

/// Columns of type `bit` (and arrays of it), which cannot be followed by changes (R152). The check refuses them when incremental is selected
/// and lets them pass otherwise; [`map_table`] does not know the stages and says nothing about them.
pub fn bit_columns(table: &Table, plan: &TablePlan) -> Vec<String> {
    fn bit(t: &DataType) -> bool {
        match t {
            DataType::Bit { varying, .. } => !varying,
            DataType::Array(of) => bit(of),
            _ => false,
        }
    }
    let moved = table.columns.iter().filter(|c| plan.column_index(&c.name).is_some());
    moved.filter(|c| bit(&c.data_type)).map(|c| c.name.clone()).collect()
}

/// [`map_table`] for a destination of a version that knows all types.
pub fn map(catalog: &Catalog, table: &Table, choice: &TableChoice) -> MappedTable {
    map_table(catalog, table, choice, u32::MAX)
}

/// Maps one table. `id` and `version` of the plan are zero, its format is the first of the formats.
///
/// Native rows are offered iff every moved column is of a built-in type (recursively): those have the same bytes on both sides.
///
/// `version` is the destination's (`server_version_num`): types that are younger than it are named in items.
pub fn map_table(catalog: &Catalog, table: &Table, choice: &TableChoice, version: u32) -> MappedTable {
    let same_kind = catalog.origin == ORIGIN;
    let object = table.name.to_string();
    let mut items = Vec::new();
    let mut columns = Vec::new();
    let mut builtin = same_kind;
    for chosen in &choice.columns {
        let Some(column) = table.column(&chosen.source) else {
            items.push(CheckItem::failed(
                "K21",
                format!("{object}.{}", chosen.source),
                "the selected column does not exist at the source",
                "correct the name in [[objects]] columns",
            ));
            continue;
        };
        if column.generated.is_some() {
            continue;
        }
        let destination_type = if same_kind {
            Some(column.origin_type.clone())
        } else {
            foreign::check(&object, table, column, chosen.misfit, &mut items);
            foreign::type_of(&column.data_type, chosen.misfit)
        };
        let Some(destination_type) = destination_type else {
            items.push(CheckItem::failed(
                "K17",
                format!("{object}.{}", column.name),
                format!("type {} of the source has no counterpart here", column.origin_type),
                format!("leave the column out: columns = {{ drop = [\"{}\"] }}", column.name),
            ));
            continue;
        };
        if same_kind && version < 140_000 && column.origin_type.contains("multirange") {
            items.push(CheckItem::failed(
                "K17",
                format!("{object}.{}", column.name),
                format!("type {} exists from version 14 on", column.origin_type),
                format!("leave the column out: columns = {{ drop = [\"{}\"] }}", column.name),
            ));
        }
        builtin &= column.builtin;
        columns.push(PlanColumn {
            source: column.name.clone(),
            destination: chosen.destination.clone(),
            data_type: column.data_type.clone(),
            origin_type: column.origin_type.clone(),
            destination_type,
            identity_always: column.identity == Some(Identity::Always),
            ordinal: None,
            misfit: chosen.misfit,
        });
    }
    names(&object, choice, &columns, &mut items);
    if !same_kind {
        foreign::keys(&object, table, &mut items);
    }
    let position = |name: &String| columns.iter().position(|c| &c.source == name).map(|i| i as u16);
    let whole = |k: &&drover_model::schema::UniqueKey| k.columns.iter().all(|c| position(c).is_some());
    let candidates = || table.keys.iter().filter(|k| k.identifies);
    let best = candidates().find(|k| k.primary && whole(k)).or_else(|| candidates().find(whole));
    let key: Vec<u16> = best.map(|k| k.columns.iter().filter_map(position).collect()).unwrap_or_default();
    if key.is_empty() {
        items.push(match candidates().next() {
            Some(k) => CheckItem::warning(
                "K15",
                &object,
                format!("the columns left out belong to its key {}: rows are identified by the whole row, and rows may become equal", k.name),
                format!("select all of {}", k.columns.join(", ")),
            ),
            None => CheckItem::warning(
                "K15",
                &object,
                "it has no primary key and no unique key of not-null columns: rows are identified by the whole row, which is slower, \
                 and a copy that is begun again begins from empty",
                format!("ALTER TABLE {} ADD PRIMARY KEY (…)", crate::sql::qualified(&table.name.schema, &table.name.name)),
            ),
        });
    }
    if columns.is_empty() {
        items.push(CheckItem::failed(
            "K21",
            &object,
            "no column of the table is left to be moved",
            "select at least one column",
        ));
    }
    let mut formats = Vec::new();
    if builtin && !columns.is_empty() {
        formats.push(RowFormat::Native(COPY_BINARY.into()));
    }
    if same_kind {
        formats.push(RowFormat::Native(CELLS.into()));
    }
    formats.push(RowFormat::Canonical);
    let left_out =
        table.columns.iter().filter(|c| !columns.iter().any(|p| p.source == c.name)).map(|c| c.name.clone()).collect();
    let plan = TablePlan {
        left_out,
        id: 0,
        version: 0,
        source: table.name.clone(),
        destination: TableName::new(choice.schema.clone(), choice.table.clone()),
        columns,
        key,
        filter: choice.filter.clone(),
        operations: choice.operations,
        floats: choice.floats.unwrap_or_default(),
        format: formats[0].clone(),
        physical: table.physical.clone(),
        rows: table.rows,
        bytes: table.bytes,
    };
    MappedTable { plan, formats, items }
}

/// Names at the destination are legal and distinct.
fn names(object: &str, choice: &TableChoice, columns: &[PlanColumn], items: &mut Vec<CheckItem>) {
    let mut seen = std::collections::HashSet::new();
    let own = [&choice.schema, &choice.table];
    for name in own.into_iter().chain(columns.iter().map(|c| &c.destination)) {
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            items.push(CheckItem::failed(
                "K21",
                object,
                format!("the name \"{name}\" has {} bytes; 1 to 63 are allowed here", name.len()),
                "choose another name with rename",
            ));
        }
    }
    if choice.schema.starts_with("pg_") || choice.schema == "information_schema" || choice.schema == "drover" {
        items.push(CheckItem::failed(
            "K21",
            object,
            format!("schema {} is reserved at the destination", choice.schema),
            "choose another schema with rename",
        ));
    }
    for column in columns {
        if !seen.insert(&column.destination) {
            items.push(CheckItem::failed(
                "K21",
                format!("{object}.{}", column.source),
                format!("two columns get the name {}", column.destination),
                "choose another name in columns.rename",
            ));
        }
    }
}
