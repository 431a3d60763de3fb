//! The unique keys of tables, from the server's own catalogue.
//!
//! Values are compared here by their bytes, although this family takes many different bytes for equal (letters' case and accents, trailing
//! spaces, a zero's sign). That is enough: a batch of which the order matters in a way that bytes do not show meets the unique index itself,
//! is refused by it, and runs again in the source's order; see docs/decisions/0007-apply.md. An index over expressions, over
//! parts of values or over columns that do not move is left to the server in the same way.

use crate::connect::Session;
use crate::sql;
use drover_connectors_api::{Keys, Norm, UniqueColumns};
use drover_model::plan::{Misfit, PlanColumn, RowFormat};
use drover_model::schema::DataType;
use drover_model::{Result, TablePlan};
use std::collections::BTreeSet;

struct Index {
    name: String,
    columns: Vec<u16>,
    /// Some of it cannot be seen in rows.
    hidden: bool,
}

/// The keys of these tables, one for each plan, in order.
pub async fn keys(session: &mut Session, plans: &[TablePlan]) -> Result<Vec<Keys>> {
    let mut all = Vec::with_capacity(plans.len());
    for plan in plans {
        let sql = format!(
            "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS \
             WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} AND NON_UNIQUE = 0 \
             ORDER BY INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX",
            sql::text(&plan.destination.schema),
            sql::text(&plan.destination.name)
        );
        let rows: Vec<(String, Option<String>, Option<u64>)> =
            session.all(sql, "cannot read the unique keys of the tables").await?;
        let mut indexes: Vec<Index> = Vec::new();
        for (name, column, part) in rows {
            if indexes.last().is_none_or(|i| i.name != name) {
                indexes.push(Index { name, columns: Vec::new(), hidden: false });
            }
            let Some(index) = indexes.last_mut() else { continue };
            let column = column.map(|c| c.to_lowercase());
            let place = plan.columns.iter().position(|c| Some(c.destination.to_lowercase()) == column);
            match place.filter(|_| part.is_none()) {
                Some(place) => index.columns.push(place as u16),
                None => index.hidden = true,
            }
        }
        all.push(of_table(plan, indexes));
    }
    Ok(all)
}

/// How values that come from another kind of database have to be compared. Within the family equal values have equal bytes.
fn norm(plan: &TablePlan, column: u16) -> Norm {
    let canonical = plan.format == RowFormat::Canonical;
    match plan.columns.get(usize::from(column)).filter(|_| canonical).map(|c| &c.data_type) {
        Some(DataType::Decimal { .. }) => Norm::Decimal,
        Some(DataType::Text { padded: true, .. }) => Norm::TrimEnd,
        _ => Norm::Exact,
    }
}

/// Whether values of another kind of database may be equal here without equal bytes: other texts of one number, values that others take
/// the place of.
fn unlike(plan: &TablePlan, column: &PlanColumn) -> bool {
    plan.format == RowFormat::Canonical
        && (matches!(column.data_type, DataType::Float { .. }) || matches!(column.misfit, Misfit::Null | Misfit::Clamp))
}

fn of_table(plan: &TablePlan, indexes: Vec<Index>) -> Keys {
    let key: BTreeSet<u16> = plan.key.iter().copied().collect();
    let exact = |columns: &[u16]| columns.iter().map(|&c| (c, norm(plan, c))).collect::<Vec<_>>();
    let (mut identity, mut others) = (None, Vec::new());
    for index in indexes.into_iter().filter(|i| !i.hidden) {
        let columns: BTreeSet<u16> = index.columns.iter().copied().collect();
        if !key.is_empty() && columns == key {
            identity.get_or_insert(index.name);
        } else if key.is_empty() || !columns.is_superset(&key) {
            // One that has all columns of the key can only collide where the key collides.
            others.push(UniqueColumns { name: index.name, columns: exact(&index.columns) });
        }
    }
    let serial = if key.is_empty() {
        // Its rows are found by reading the whole table, past rows that others hold.
        Some("rows without a key are deleted by reading the table".to_owned())
    } else {
        identity.is_none().then(|| "no unique index of the table has the columns of its key".to_owned())
    };
    let of_keys = others.iter().flat_map(|u: &UniqueColumns| u.columns.iter().map(|c| c.0)).chain(key.iter().copied());
    let other = of_keys.filter_map(|c| plan.columns.get(usize::from(c))).find(|c| unlike(plan, c));
    let serial = serial.or_else(|| {
        other.map(|c| {
            format!("what this server takes for equal in {} cannot be told from the source's values", c.destination)
        })
    });
    let identity =
        (!key.is_empty()).then(|| UniqueColumns { name: identity.unwrap_or_default(), columns: exact(&plan.key) });
    Keys { table: plan.id, identity, others, serial }
}
