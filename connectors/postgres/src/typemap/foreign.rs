//! Types for columns of other kinds of databases, and what the operator should know about them before the start.

use drover_model::check::CheckItem;
use drover_model::plan::Misfit;
use drover_model::schema::{Column, DataType, Table};

/// The type that holds every value of a column, or all but those that its policy is for; `None` where there is none.
pub fn type_of(t: &DataType, misfit: Misfit) -> Option<String> {
    if misfit == Misfit::Text && !matches!(t, DataType::Bytes { .. }) {
        return Some("text".into());
    }
    Some(match t {
        DataType::Bool => "boolean".into(),
        DataType::Int { bytes: 1 | 2, unsigned: false } | DataType::Int { bytes: 1, unsigned: true } => {
            "smallint".into()
        }
        DataType::Int { bytes: 3 | 4, unsigned: false } | DataType::Int { bytes: 2 | 3, unsigned: true } => {
            "integer".into()
        }
        DataType::Int { bytes: 8, unsigned: false } | DataType::Int { bytes: 4, unsigned: true } => "bigint".into(),
        DataType::Int { bytes: 8, unsigned: true } => "numeric(20,0)".into(),
        DataType::Int { .. } => "numeric".into(),
        DataType::Float { bytes: 4 } => "real".into(),
        DataType::Float { .. } => "double precision".into(),
        DataType::Decimal { precision: Some(p), scale } if (1..=1000).contains(p) => {
            format!("numeric({p},{})", scale.unwrap_or(0))
        }
        DataType::Decimal { .. } => "numeric".into(),
        // Of a fixed length, too: whoever reads it elsewhere gets it without spaces at the end, and so it stays.
        DataType::Text { max: Some(n), .. } if (1..=10_485_760).contains(n) => format!("character varying({n})"),
        DataType::Text { .. } => "text".into(),
        DataType::Bytes { .. } => "bytea".into(),
        DataType::Date => "date".into(),
        DataType::Time { precision, zone } if *precision <= 6 => {
            format!("time({precision}) with{} time zone", if *zone { "" } else { "out" })
        }
        DataType::Timestamp { precision, zone } if *precision <= 6 => {
            format!("timestamp({precision}) with{} time zone", if *zone { "" } else { "out" })
        }
        // Finer than microseconds.
        DataType::Time { .. } | DataType::Timestamp { .. } => return None,
        DataType::Interval => "interval".into(),
        DataType::Uuid => "uuid".into(),
        DataType::Json | DataType::Document => "jsonb".into(),
        // As it was written: order and repetition of keys, blanks.
        DataType::JsonText => "json".into(),
        DataType::Bit { max, varying } => {
            let length = max.map(|n| format!("({n})")).unwrap_or_default();
            format!("bit{}{length}", if *varying { " varying" } else { "" })
        }
        DataType::Enum { .. } => "text".into(),
        DataType::Array(of) => format!("{}[]", type_of(of, Misfit::Fail)?),
        DataType::Other => return None,
    })
}

/// K17: a policy that cannot be, or that changes the table.
pub(super) fn check(object: &str, table: &Table, column: &Column, misfit: Misfit, items: &mut Vec<CheckItem>) {
    let name = format!("{object}.{}", column.name);
    let text = matches!(
        column.data_type,
        DataType::Text { .. } | DataType::Enum { .. } | DataType::JsonText | DataType::Bytes { .. } | DataType::Other
    );
    let key = table.keys.iter().any(|k| (k.primary || k.identifies) && k.columns.contains(&column.name));
    match misfit {
        Misfit::Text if text => items.push(CheckItem::failed(
            "K17",
            &name,
            "on_misfit = \"text\" has no use for a column that is a text (or bytes) anyway",
            "take \"null\", \"clamp\" or \"fail\"",
        )),
        Misfit::Null if key => items.push(CheckItem::failed(
            "K17",
            &name,
            "on_misfit = \"null\" cannot be for a column of a key that identifies rows",
            "take \"clamp\", \"text\" or \"fail\"",
        )),
        Misfit::Null if !column.nullable => items.push(CheckItem::warning(
            "K17",
            &name,
            "the column is not null at the source; with on_misfit = \"null\" it is created without NOT NULL",
            "take \"clamp\" or \"text\" where the application relies on it",
        )),
        _ => {}
    }
    if matches!(misfit, Misfit::Null | Misfit::Clamp) && !key {
        let cause = "values that do not fit are changed by its on_misfit: drover.drover_misfit counts them, and the comparison leaves the column out";
        let remedy = "look at its values by hand where they matter";
        items.push(CheckItem::warning("K17", name, cause, remedy));
    }
}

/// K17: texts that are equal at the source and not here.
pub(super) fn keys(object: &str, table: &Table, items: &mut Vec<CheckItem>) {
    let folds = |name: &String| table.column(name).is_some_and(|c| c.folds && is_text(&c.data_type));
    let mut named: Vec<&str> = Vec::new();
    let unique = table.plain_indexes.iter().filter(|i| i.unique).flat_map(|i| i.columns.iter().map(|c| &c.name));
    for name in table.keys.iter().flat_map(|k| &k.columns).chain(unique).filter(|n| folds(n)) {
        if !named.contains(&name.as_str()) {
            named.push(name);
        }
    }
    if !named.is_empty() {
        items.push(CheckItem::warning(
            "K17",
            object,
            format!(
                "unique values of {}: the source takes texts for equal that differ in case, accents or spaces at the end; here they are told apart",
                named.join(", ")
            ),
            "see to it that the application does not rely on it, or make the index on lower(…) after the switch",
        ));
    }
    let referring: Vec<&str> =
        table.plain_foreign_keys.iter().filter(|k| k.columns.iter().any(folds)).map(|k| k.name.as_str()).collect();
    if !referring.is_empty() {
        items.push(CheckItem::warning(
            "K20",
            object,
            format!(
                "foreign keys {} refer by texts that the source compares without regard to case: here they must agree to the letter, or the key \
                 cannot be validated",
                referring.join(", ")
            ),
            "make the texts agree at the source",
        ));
    }
}

fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Text { .. } | DataType::Enum { .. })
}
