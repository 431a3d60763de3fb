//! How the rows of a table, as the log describes them at one place, become rows of its plan.
//!
//! Guarantee: a binding exists only if each column of the plan is where its name says and of the type that the plan knows. Names come from the log where it
//! has them (`binlog_row_metadata = FULL`), else from the plan, which keeps the places that columns had when it was made: every schema change since
//! then is met in the log, and stops the stream or makes another plan, so that they hold at each position.

use super::table_map::{self, BINARY, Column};
use super::values::{Decode, Width, width};
use crate::condition::Condition;
use crate::round::Rounding;
use crate::types::{Kind, MyType};
use drover_model::TablePlan;
use drover_model::plan::RowFormat;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a table's rows do not fit its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// A person's sentence, as what changed.
    pub how: String,
    pub column: Option<String>,
    /// It is not a change of the table: such columns cannot be read at all.
    pub unreadable: bool,
}

fn misfit(how: impl Into<String>, column: Option<&str>) -> Misfit {
    Misfit { how: how.into(), column: column.map(str::to_owned), unreadable: false }
}

/// A table's plan, ready to be bound to what the log says.
#[derive(Debug, Clone)]
pub struct Shape {
    pub plan: TablePlan,
    types: Vec<MyType>,
    /// All columns of the table in their order, from the server's catalogue when the stream began; where the plan does not know the places.
    pub catalogue: Option<Vec<String>>,
    condition: Option<Arc<Condition>>,
}

impl Shape {
    /// `condition` is the plan's. `Err` names a column whose type is not known.
    pub fn new(plan: TablePlan, catalogue: Option<Vec<String>>, condition: Option<Condition>) -> Result<Shape, Misfit> {
        let condition = condition.map(Arc::new);
        let mut types = Vec::with_capacity(plan.columns.len());
        for column in &plan.columns {
            let my = MyType::parse(&column.origin_type).ok_or_else(|| Misfit {
                how: format!(
                    "{} has the type {}, which the log cannot be read with",
                    column.source, column.origin_type
                ),
                column: Some(column.source.clone()),
                unreadable: true,
            })?;
            types.push(my);
        }
        Ok(Shape { plan, types, catalogue, condition })
    }

    /// Whether the plan itself says where its columns are.
    pub fn knows_places(&self) -> bool {
        self.plan.left_out.is_empty() || self.plan.columns.iter().all(|c| c.ordinal.is_some())
    }
}

/// How to read rows of one TABLE_MAP.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The plan's number.
    pub table: u32,
    /// For each column of the table.
    pub widths: Vec<Width>,
    /// The columns whose values may be partial: JSON, in their order.
    pub json: Vec<bool>,
    /// For each column of the plan: its place in the table, and how it is read.
    pub columns: Vec<(usize, Decode)>,
    /// Places of the plan's key columns, with their index in `columns`.
    pub key: Vec<usize>,
    pub operations: drover_model::plan::Operations,
    /// Which rows move.
    pub condition: Option<Arc<Condition>>,
    /// The columns that it reads, like `columns`, in the cells that it knows: not converted for another kind of destination.
    pub tested: Vec<(usize, Decode)>,
}

/// Character sets by the numbers of their collations, as the server lists them.
pub type Collations = HashMap<u16, String>;

/// Binds a plan to the columns of a TABLE_MAP. `mariadb`: the server that wrote it is one.
pub fn bind(shape: &Shape, columns: &[Column], collations: &Collations, mariadb: bool) -> Result<Binding, Misfit> {
    let plan = &shape.plan;
    let places = places(shape, columns)?;
    let mut widths = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let planned = places.iter().position(|&p| p == i);
        let known = planned.is_some_and(|p| !has_fraction(&shape.types[p]));
        let width = width(column).filter(|_| !(mariadb && is_old_temporal(column.code)) || known);
        widths.push(width.ok_or_else(|| {
            let name = column.name.clone().or_else(|| Some(plan.columns[planned?].source.clone()));
            let name = name.unwrap_or_else(|| format!("number {}", i + 1));
            let how = if is_old_temporal(column.code) {
                format!("column {name} is stored in the form of old servers, whose fractions the log does not tell")
            } else {
                format!("column {name} is of a type that cannot be read from the log (code {})", column.code)
            };
            Misfit { how, column: Some(name), unreadable: true }
        })?);
    }
    let mut bound = Vec::with_capacity(places.len());
    let reads: Vec<usize> = shape.condition.iter().flat_map(|c| c.columns()).collect();
    let mut tested: Vec<Option<(usize, Decode)>> = vec![None; reads.len()];
    for ((planned, my), &place) in plan.columns.iter().zip(&shape.types).zip(&places) {
        let column = &columns[place];
        let decode = Decode::of(column, my).filter(|_| same_details(column, my, collations));
        let decode = decode.ok_or_else(|| {
            let how = format!("{} has another type than {}", planned.source, planned.origin_type);
            misfit(how, Some(&planned.source))
        })?;
        for (_, slot) in reads.iter().zip(&mut tested).filter(|(index, _)| **index == bound.len()) {
            *slot = Some((place, decode.clone()));
        }
        let decode = if plan.format == RowFormat::Canonical {
            decode.canonical(my).ok_or_else(|| Misfit {
                how: format!("{} has the type {}, whose text cannot be converted", planned.source, planned.origin_type),
                column: Some(planned.source.clone()),
                unreadable: true,
            })?
        } else {
            decode
        };
        let rounding = Rounding::of(plan, bound.len());
        bound.push((place, decode.rounded(rounding)));
    }
    Ok(Binding {
        table: plan.id,
        widths,
        json: columns.iter().map(|c| c.code == table_map::code::JSON).collect(),
        columns: bound,
        key: plan.key.iter().map(|&k| usize::from(k)).collect(),
        operations: plan.operations,
        condition: shape.condition.clone(),
        tested: tested.into_iter().flatten().collect(),
    })
}

/// Types that MySQL 5.6 and MariaDB 10.1 replaced. Those of MariaDB could have fractions, of which the log says nothing.
fn is_old_temporal(code: u8) -> bool {
    use table_map::code::{DATETIME, TIME, TIMESTAMP};
    matches!(code, TIME | DATETIME | TIMESTAMP)
}

fn has_fraction(my: &MyType) -> bool {
    matches!(my.kind, Kind::Time { digits } | Kind::DateTime { digits } | Kind::Timestamp { digits } if digits > 0)
}

/// Where each column of the plan is in the table.
fn places(shape: &Shape, columns: &[Column]) -> Result<Vec<usize>, Misfit> {
    let plan = &shape.plan;
    let named: Option<Vec<&str>> = columns.iter().map(|c| c.name.as_deref()).collect();
    let listed = || shape.catalogue.as_ref().map(|names| names.iter().map(String::as_str).collect());
    let names = match named.filter(|_| !columns.is_empty()) {
        Some(names) => names,
        None => {
            let known = plan.columns.len() + plan.left_out.len();
            if columns.len() != known {
                return Err(misfit(format!("it has {} columns instead of {known}", columns.len()), None));
            }
            let ordinals: Option<Vec<usize>> = plan.columns.iter().map(|c| c.ordinal.map(usize::from)).collect();
            if let Some(ordinals) = ordinals.filter(|o| o.iter().all(|&i| i < columns.len())) {
                return Ok(ordinals);
            }
            if plan.left_out.is_empty() {
                return Ok((0..columns.len()).collect());
            }
            let listed: Option<Vec<&str>> = listed();
            listed
                .filter(|l| l.len() == columns.len())
                .ok_or_else(|| misfit("its columns cannot be told apart: the log has no names of them", None))?
        }
    };
    let mut places = Vec::with_capacity(plan.columns.len());
    for column in &plan.columns {
        let place = names.iter().position(|n| *n == column.source);
        places.push(place.ok_or_else(|| misfit(format!("{} is gone", column.source), Some(&column.source)))?);
    }
    for name in names {
        if plan.column_index(name).is_none() && !plan.left_out.iter().any(|l| l == name) {
            return Err(misfit(format!("{name} was added"), Some(name)));
        }
    }
    Ok(places)
}

/// Character set and labels, where the log says them.
fn same_details(column: &Column, my: &MyType, collations: &Collations) -> bool {
    if let Some(collation) = column.collation {
        let binary = matches!(my.kind, Kind::Binary { .. } | Kind::VarBinary { .. } | Kind::Blob { .. });
        let same = match collations.get(&collation) {
            Some(set) if binary => set == "binary",
            // Types that have no character set of their own are told as binary ones or ASCII.
            Some(set) => my.charset.as_deref().is_none_or(|ours| same_set(ours, set)),
            None => !binary || collation == BINARY,
        };
        if !same {
            return false;
        }
    }
    let labels = match &my.kind {
        Kind::Enum { labels } | Kind::Set { labels } => labels,
        _ => return true,
    };
    let Some(logged) = &column.labels else { return true };
    // The log has them in the column's character set: what is plain ASCII is the same in nearly all.
    logged.len() == labels.len()
        && logged
            .iter()
            .zip(labels)
            .all(|(logged, ours)| logged == ours.as_bytes() || !ours.is_ascii() || logged.contains(&0))
}

/// `utf8` is the older name of `utf8mb3`.
fn same_set(a: &str, b: &str) -> bool {
    let plain =
        |set: &str| if set.eq_ignore_ascii_case("utf8") { "utf8mb3".to_owned() } else { set.to_ascii_lowercase() };
    plain(a) == plain(b)
}
