//! What of another kind's values may have no place here. The same as [`crate::fit`] refuses, said before the start.

use crate::fit;
use drover_model::TablePlan;
use drover_model::doubt::TableDoubts;
use drover_model::plan::RowFormat;

/// The doubts about a table. Keys have none: texts are told apart to the letter here.
pub(crate) fn of(plan: &TablePlan) -> TableDoubts {
    if plan.format != RowFormat::Canonical {
        return TableDoubts::default();
    }
    let columns = plan.columns.iter().enumerate();
    let values = columns.filter_map(|(i, c)| Some((i as u16, fit::doubt(c)?))).collect();
    TableDoubts { values, keys: Vec::new() }
}
