//! What a comparison found: as the JSON that is promised to others, and for people.

use drover_model::TablePlan;
use drover_model::row::{Cell, cells};
use drover_model::schema::DataType;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;

/// Characters of a value that are shown of a row without a key.
const SHOWN: usize = 60;

/// In what a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// At the source, not at the destination.
    Missing,
    /// At the destination, not at the source.
    Extra,
    /// On both sides, with other values (or, where the destination has no such unique key, more than one row).
    Different,
    /// It kept changing, or nobody applied the changes: nothing can be said.
    Unsettled,
}

impl Difference {
    /// The word of the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Difference::Missing => "missing",
            Difference::Extra => "extra",
            Difference::Different => "different",
            Difference::Unsettled => "unsettled",
        }
    }
}

/// The columns of a key by their names at the source, in the key's order; the whole row, its values shortened, where the table has no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(pub Vec<(String, Value)>);

impl Key {
    /// From the cells of a plan's key.
    pub(crate) fn of_key(plan: &TablePlan, key: &[u8]) -> Key {
        let columns = plan.key.iter().filter_map(|&k| plan.columns.get(usize::from(k)));
        Key(columns.zip(cells(key)).map(|(c, cell)| (c.source.clone(), value(&c.data_type, cell))).collect())
    }
    /// From a whole row.
    pub(crate) fn of_row(plan: &TablePlan, row: &[u8]) -> Key {
        let shown = plan.columns.iter().zip(cells(row));
        Key(shown.map(|(c, cell)| (c.source.clone(), shorten(value(&c.data_type, cell)))).collect())
    }
}

fn value(data_type: &DataType, cell: Cell<'_>) -> Value {
    let Some(bytes) = cell.value() else { return Value::Null };
    let text = String::from_utf8_lossy(bytes);
    let known = match data_type {
        DataType::Bool => match &*text {
            "t" | "true" | "1" => Some(Value::Bool(true)),
            "f" | "false" | "0" => Some(Value::Bool(false)),
            _ => None,
        },
        DataType::Int { .. } => {
            text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok()
        }
        _ => None,
    };
    known.unwrap_or_else(|| Value::String(text.into_owned()))
}

fn shorten(value: Value) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(SHOWN) {
            Some((end, _)) => Value::String(format!("{}…", &text[..end])),
            None => Value::String(text),
        },
        other => other,
    }
}

/// Order of keys for the list: numbers by value, then texts by code point; null first. Not the order of any collation.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        fn rank(value: &Value) -> (u8, i128, &str) {
            match value {
                Value::Bool(b) => (1, i128::from(*b), ""),
                Value::Number(n) => {
                    (2, n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from)).unwrap_or_default(), "")
                }
                Value::String(s) => (3, 0, s),
                _ => (0, 0, ""),
            }
        }
        self.0.iter().map(|(_, v)| rank(v)).cmp(other.0.iter().map(|(_, v)| rank(v)))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// `id=7, name="x"`. Values are written as JSON, so that no control character of a value reaches a terminal.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDifference {
    pub key: Key,
    pub difference: Difference,
}

/// What was found in one table. Counts are of keys; of rows where the table has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableReport {
    pub source: String,
    pub destination: String,
    /// Rows compared, as the source had them.
    pub rows: u64,
    pub missing: u64,
    pub extra: u64,
    pub different: u64,
    pub unsettled: u64,
    /// There are more differing keys than are listed; the counts include them.
    pub truncated: bool,
    /// In the order of [`Key`]; where truncated, any of the differing ones.
    pub keys: Vec<KeyDifference>,
    /// Columns of the source whose values a policy (`on_misfit`) may have changed: nothing is said about them.
    pub not_compared: Vec<String>,
}

impl TableReport {
    pub(crate) fn new(plan: &TablePlan, rows: u64) -> Self {
        TableReport {
            source: plan.source.to_string(),
            destination: plan.destination.to_string(),
            rows,
            missing: 0,
            extra: 0,
            different: 0,
            unsettled: 0,
            truncated: false,
            keys: Vec::new(),
            not_compared: Vec::new(),
        }
    }
    /// Counts a difference and lists its key, so often as `times` says. Without a `key` that could be shown it is counted only.
    pub(crate) fn found(
        &mut self,
        difference: Difference,
        times: u64,
        max_keys: usize,
        key: impl FnOnce() -> Option<Key>,
    ) {
        *match difference {
            Difference::Missing => &mut self.missing,
            Difference::Extra => &mut self.extra,
            Difference::Different => &mut self.different,
            Difference::Unsettled => &mut self.unsettled,
        } += times;
        let room = max_keys.saturating_sub(self.keys.len()).min(usize::try_from(times).unwrap_or(usize::MAX));
        let key = if room == 0 { None } else { key() };
        let listed = key.as_ref().map_or(0, |_| room);
        self.keys
            .extend(key.into_iter().flat_map(|key| std::iter::repeat_n(KeyDifference { key, difference }, listed)));
        self.truncated |= (listed as u64) < times;
    }
    /// No difference, and nothing unsettled.
    pub fn equal(&self) -> bool {
        self.missing + self.extra + self.different + self.unsettled == 0
    }
}

/// What was found. Its serialisation is the JSON document of `validate --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub equal: bool,
    pub tables: Vec<TableReport>,
}

impl Report {
    pub(crate) fn new(mut tables: Vec<TableReport>) -> Self {
        for table in &mut tables {
            table.keys.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Report { equal: tables.iter().all(TableReport::equal), tables }
    }
    /// Exit status of the command: 0 equal, 1 not, or not settled.
    pub fn exit_status(&self) -> u8 {
        u8::from(!self.equal)
    }
}

impl fmt::Display for Report {
    /// For people: a line for each table, the differing keys beneath it, a summary. Ends with a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |t: &TableReport| {
            if t.source == t.destination { t.source.clone() } else { format!("{} → {}", t.source, t.destination) }
        };
        let wide = self.tables.iter().map(|t| name(t).chars().count()).max().unwrap_or(0);
        for table in &self.tables {
            let counts: Vec<String> = [
                (table.missing, Difference::Missing),
                (table.extra, Difference::Extra),
                (table.different, Difference::Different),
                (table.unsettled, Difference::Unsettled),
            ]
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, difference)| format!("{n} {}", difference.as_str()))
            .collect();
            let verdict = if counts.is_empty() { "equal".to_owned() } else { counts.join(", ") };
            writeln!(f, "{:wide$}  {:>12} rows  {verdict}", name(table), table.rows)?;
            for KeyDifference { key, difference } in &table.keys {
                writeln!(f, "    {:<9}  {key}", difference.as_str())?;
            }
            if !table.not_compared.is_empty() {
                let columns = table.not_compared.join(", ");
                writeln!(f, "    not compared: {columns} (on_misfit may have changed their values)")?;
            }
            if table.truncated {
                writeln!(f, "    … only {} of these keys are listed", table.keys.len())?;
            }
        }
        let rows: u64 = self.tables.iter().map(|t| t.rows).sum();
        let unequal = self.tables.iter().filter(|t| !t.equal()).count();
        let tables = if self.tables.len() == 1 { "table" } else { "tables" };
        write!(f, "{} {tables}, {rows} rows compared: ", self.tables.len())?;
        match unequal {
            0 => writeln!(f, "equal.")?,
            n => {
                let sum = |of: fn(&TableReport) -> u64| self.tables.iter().map(of).sum::<u64>();
                writeln!(
                    f,
                    "{n} not equal ({} missing, {} extra, {} different, {} unsettled).",
                    sum(|t| t.missing),
                    sum(|t| t.extra),
                    sum(|t| t.different),
                    sum(|t| t.unsettled)
                )?;
            }
        }
        writeln!(f, "Rows only: sequences and other objects are not part of this comparison.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::row::put_cell;

    #[test]
    fn values_of_keys_as_json() {
        let int = DataType::Int { bytes: 8, unsigned: true };
        let json = |t: &DataType, v: &[u8]| value(t, Cell::Value(v));
        assert_eq!(json(&int, b"-7"), Value::from(-7));
        assert_eq!(json(&int, b"18446744073709551615"), Value::from(u64::MAX));
        assert_eq!(json(&DataType::Bool, b"t"), Value::Bool(true));
        assert_eq!(json(&DataType::Bool, b"0"), Value::Bool(false));
        assert_eq!(json(&DataType::Decimal { precision: None, scale: None }, b"1.50"), Value::from("1.50"));
        assert_eq!(value(&int, Cell::Null), Value::Null);
        assert_eq!(shorten(Value::from("ä".repeat(61))), Value::from(format!("{}…", "ä".repeat(60))));
        let mut row = Vec::new();
        put_cell(&mut row, Cell::Value(b"x\x1b"));
        let key = Key(vec![("a".into(), value(&DataType::Other, cells(&row).next().unwrap()))]);
        assert_eq!(key.to_string(), "a=\"x\\u001b\"");
    }
}
