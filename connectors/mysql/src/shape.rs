//! What the destination's own catalogue says about a table that is written: its columns' types, character sets and collations, and the index by
//! which its rows are looked up. Read there and not taken from the plan, because tables may have been created by somebody else.

use crate::catalog;
use crate::connect::Session;
use crate::encode::Encoder;
use crate::sql;
use crate::types::{Kind, MyType};
use drover_model::error::codes;
use drover_model::plan::RowFormat;
use drover_model::row::Cell;
use drover_model::schema::{DataType, TableName};
use drover_model::{Error, Fault, Result, Retry, TablePlan};

/// A column that is written.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// Quoted.
    pub name: String,
    pub kind: Kind,
    pub unsigned: bool,
    /// Of text, ENUM and SET columns.
    pub charset: Option<String>,
    pub collation: Option<String>,
    pub encoder: Encoder,
    /// Character set of the plan's cells, where they are text.
    pub source: Option<MyType>,
    /// What the values of canonical cells are.
    pub canonical: Option<DataType>,
}

/// A table that is written.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub name: TableName,
    /// Quoted, with its database.
    pub table: String,
    /// In the plan's order.
    pub columns: Vec<Column>,
    /// Columns of the plan's key, in its order.
    pub key: Vec<usize>,
    /// The unique index (quoted name) over just the key's columns.
    pub index: Option<String>,
    /// Columns whose values may become others.
    pub changing: Vec<usize>,
    /// Statements on this table warn about deprecated character sets, whatever they do.
    pub noisy: bool,
}

/// Looks a table up.
///
/// # Errors
/// TABLE_CHANGED where it, or a column of the plan, does not exist.
pub(crate) async fn load(session: &mut Session, plan: &TablePlan) -> Result<Shape> {
    let name = &plan.destination;
    let missing = |what: String| {
        Error::new(codes::TABLE_CHANGED, Fault::Destination, Retry::Never, what)
            .table(name)
            .remedy("restore the table's shape, or leave it out")
    };
    let mut found = catalog::shapes(session, std::slice::from_ref(name)).await?;
    let Some(found) = found.remove(name) else {
        return Err(catalog::unseen(session, name, missing("a table does not exist".into())).await);
    };
    let canonical = plan.format == RowFormat::Canonical;
    let mut columns = Vec::with_capacity(plan.columns.len());
    for column in &plan.columns {
        let name = &column.destination;
        let there = found.iter().find(|c| same_name(&c.name, name));
        let there = there.ok_or_else(|| missing(format!("column {name} does not exist")).column(name))?;
        let to = there
            .my_type
            .clone()
            .ok_or_else(|| missing(format!("column {name} has the unknown type {}", there.origin_type)).column(name))?;
        columns.push(Column {
            name: sql::name(name),
            encoder: Encoder::new(column, &plan.format, &to),
            source: MyType::parse(&column.origin_type).filter(|_| !canonical),
            canonical: canonical.then(|| column.data_type.clone()),
            kind: to.kind,
            unsigned: to.unsigned,
            charset: to.charset,
            collation: there.collation.clone(),
        });
    }
    let key: Vec<usize> = plan.key.iter().map(|&k| usize::from(k)).collect();
    key.iter().for_each(|&k| columns[k].encoder.identifies());
    let index = key_index(session, plan).await?;
    let old = |c: &Column| matches!(c.charset.as_deref(), Some("utf8" | "utf8mb3" | "ucs2"));
    let noisy = session.version.mysql(80_000) && columns.iter().any(old);
    let changing = (0..columns.len()).filter(|i| columns[*i].encoder.changing().is_some()).collect();
    Ok(Shape { name: name.clone(), table: sql::qualified(name), columns, key, index, changing, noisy })
}

/// The names of columns are compared without case in this family.
fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// The unique index over just the key's columns, in whatever order; the primary key first.
async fn key_index(session: &mut Session, plan: &TablePlan) -> Result<Option<String>> {
    if plan.key.is_empty() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
         AND NON_UNIQUE = 0 ORDER BY INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX",
        sql::text(&plan.destination.schema),
        sql::text(&plan.destination.name)
    );
    let rows: Vec<(String, Option<String>)> = session.all(sql, "cannot read a table's keys").await?;
    let mut wanted: Vec<String> =
        plan.key.iter().map(|&k| plan.columns[usize::from(k)].destination.to_lowercase()).collect();
    wanted.sort_unstable();
    let mut indexes: Vec<(String, Vec<String>)> = Vec::new();
    for (index, column) in rows {
        let column = column.unwrap_or_default().to_lowercase();
        match indexes.last_mut().filter(|(name, _)| *name == index) {
            Some((_, columns)) => columns.push(column),
            None => indexes.push((index, vec![column])),
        }
    }
    let found = indexes.into_iter().find(|(_, columns)| {
        let mut columns = columns.clone();
        columns.sort_unstable();
        columns == wanted
    });
    Ok(found.map(|(name, _)| sql::name(&name)))
}

/// An index (quoted name) that begins with these columns of the plan, in whatever order.
pub(crate) async fn leading_index(
    session: &mut Session,
    plan: &TablePlan,
    columns: &[usize],
) -> Result<Option<String>> {
    let sql = format!(
        "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
         AND INDEX_TYPE = 'BTREE' AND SEQ_IN_INDEX <= {} ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        sql::text(&plan.destination.schema),
        sql::text(&plan.destination.name),
        columns.len()
    );
    let rows: Vec<(String, Option<String>)> = session.all(sql, "cannot read a table's indexes").await?;
    let mut wanted: Vec<String> = columns.iter().map(|&c| plan.columns[c].destination.to_lowercase()).collect();
    wanted.sort_unstable();
    let names: Vec<&String> = rows.iter().map(|r| &r.0).collect();
    let found = names.iter().find(|name| {
        let mut columns: Vec<String> =
            rows.iter().filter(|r| r.0 == ***name).map(|r| r.1.as_deref().unwrap_or_default().to_lowercase()).collect();
        columns.sort_unstable();
        columns == wanted
    });
    Ok(found.map(|name| sql::name(name)))
}

impl Column {
    /// The expression of a key's value, made of its literal: of the column's own type, so that the server compares like the column's index
    /// and can look it up there. `single`: the literal itself, else a column of many literals.
    pub fn comparable(&self, literal: &str, single: bool) -> String {
        let cast = |to: &str| if single { literal.to_owned() } else { format!("CAST({literal} AS {to})") };
        match &self.kind {
            Kind::Int { .. } | Kind::Bit { .. } if self.unsigned || matches!(self.kind, Kind::Bit { .. }) => {
                cast("UNSIGNED")
            }
            Kind::Int { .. } => cast("SIGNED"),
            Kind::Year => format!("CAST({literal} AS UNSIGNED)"),
            Kind::Decimal { precision, scale } => cast(&format!("DECIMAL({precision},{scale})")),
            Kind::Float { .. } | Kind::Double { .. } => literal.to_owned(),
            Kind::Date => format!("CAST({literal} AS DATE)"),
            Kind::Time { digits } => format!("CAST({literal} AS TIME({digits}))"),
            Kind::DateTime { digits } | Kind::Timestamp { digits } => format!("CAST({literal} AS DATETIME({digits}))"),
            Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } | Kind::Enum { .. } | Kind::Set { .. } => {
                let charset = self.charset.as_deref().unwrap_or("utf8mb4");
                let value = self.encoder.value(literal);
                match &self.collation {
                    Some(collation) => format!("CONVERT({value} USING {charset}) COLLATE {collation}"),
                    None => value,
                }
            }
            Kind::Uuid => format!("CAST({} AS UUID)", self.encoder.value(literal)),
            Kind::Inet4 => format!("CAST({} AS INET4)", self.encoder.value(literal)),
            Kind::Inet6 => format!("CAST({} AS INET6)", self.encoder.value(literal)),
            _ => self.encoder.value(literal),
        }
    }

    /// The expression that shows the column as its cell's bytes.
    pub fn shown(&self, column: &str) -> String {
        match &self.kind {
            Kind::Float { .. } => format!("CAST({column} AS DOUBLE)"),
            Kind::Bit { length } => format!("LPAD(BIN({column}), {length}, '0')"),
            Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } => {
                let from = self.source.as_ref().and_then(|s| s.charset.as_deref()).unwrap_or("utf8mb4");
                match self.charset.as_deref() == Some(from) {
                    true => column.to_owned(),
                    false => format!("CONVERT({column} USING {from})"),
                }
            }
            Kind::Enum { .. } | Kind::Set { .. } | Kind::Json => format!("CONVERT({column} USING utf8mb4)"),
            _ => column.to_owned(),
        }
    }
}

impl Shape {
    /// Says of which row of the plan an error is, by the cells of its key.
    pub fn of_row(&self, error: Error, row: &[u8]) -> Error {
        if error.key.is_some() || self.key.is_empty() {
            return error;
        }
        error.key(self.key_of(row))
    }

    fn key_of(&self, row: &[u8]) -> String {
        let all: Vec<Cell<'_>> = drover_model::row::cells(row).collect();
        let parts = self.key.iter().map(|&k| {
            let name = self.columns[k].name.trim_matches('`');
            format!("{name}={}", show(all.get(k).copied().unwrap_or(Cell::Null)))
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    /// A row of the plan has been written: values of it that became others get its key.
    #[inline]
    pub fn written(&self, row: &[u8]) {
        for &i in &self.changing {
            if let Some(fit) = self.columns[i].encoder.changing() {
                fit.name(|| self.key_of(row));
            }
        }
    }
}

/// A value for people, cut where it is long.
pub(crate) fn show(cell: Cell<'_>) -> String {
    let Some(value) = cell.value() else { return "null".to_owned() };
    let text = String::from_utf8_lossy(&value[..value.len().min(200)]);
    if value.len() > 200 { format!("{text}…") } else { text.into_owned() }
}
