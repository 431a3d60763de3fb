//! Values of other kinds of databases, from canonical cells (`drover_model::canonical`) to the texts that this server reads, and back.
//!
//! Guarantee: a value arrives as it is, or its column's policy ([`Misfit`]) decides, which is counted; by default it is an error that names the row.
//! What cannot be told from a column's type alone is decided here: characters of number 0 in texts and JSON, bytes that are no text, dates with a zero
//! in them or that do not exist, times of the day beyond 24 hours.

mod civil;

use crate::apply::params::Grid;
use drover_connectors_api::Step;
use drover_model::doubt::{Changed, Doubt, NAMED};
use drover_model::error::codes;
use drover_model::plan::{Misfit, PlanColumn, RowFormat};
use drover_model::row::{Cell, put_cell, put_varint, take_cell};
use drover_model::schema::DataType;
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// What has to be looked at in the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Every value of the type is one here.
    Same,
    Text,
    Bytes,
    Json,
    Date,
    Time,
    Timestamp,
}

/// The rules of a table.
#[derive(Debug)]
pub(crate) struct Fit {
    plan: TablePlan,
    rules: Vec<(Rule, Misfit)>,
}

/// Values that a policy changed, by table and column.
pub(crate) type Misfits = BTreeMap<(u32, u16), Noted>;

/// Of one column: how many, one of them, and the first few with their rows.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    pub count: u64,
    pub example: String,
    pub values: Vec<Changed>,
}

fn rule(column: &PlanColumn) -> Rule {
    if column.misfit == Misfit::Text && !matches!(column.data_type, DataType::Bytes { .. }) {
        // A text that holds whatever the source shows.
        return Rule::Text;
    }
    match &column.data_type {
        DataType::Text { .. } | DataType::Enum { .. } | DataType::Other | DataType::JsonText => Rule::Text,
        DataType::Bytes { .. } => Rule::Bytes,
        DataType::Json | DataType::Document => Rule::Json,
        DataType::Date => Rule::Date,
        DataType::Time { .. } => Rule::Time,
        DataType::Timestamp { .. } => Rule::Timestamp,
        _ => Rule::Same,
    }
}

/// What of a column's values has no place here.
pub(crate) fn doubt(column: &PlanColumn) -> Option<Doubt> {
    match rule(column) {
        // A column that was made a text for its values' sake holds them all; labels are what they are.
        _ if column.misfit == Misfit::Text || matches!(column.data_type, DataType::Enum { .. }) => None,
        Rule::Same | Rule::Bytes => None,
        Rule::Text => Some(Doubt::NoText),
        Rule::Json => Some(Doubt::ZeroInJson),
        Rule::Date | Rule::Timestamp => Some(Doubt::NoDate),
        Rule::Time => Some(Doubt::NoTimeOfDay),
    }
}

/// Whether a value has no place in a column.
pub(crate) fn misfits(column: &PlanColumn, value: &[u8]) -> bool {
    let nearest = match rule(column) {
        Rule::Same | Rule::Bytes => None,
        Rule::Text => text(value),
        Rule::Json => json(value),
        Rule::Date => civil::date(value),
        Rule::Time => civil::time(value),
        Rule::Timestamp => civil::timestamp(value),
    };
    nearest.is_some()
}

impl Fit {
    /// `None`: rows of this plan are of this kind of database already.
    pub(crate) fn of(plan: &TablePlan) -> Option<Arc<Fit>> {
        (plan.format == RowFormat::Canonical).then(|| {
            let rules = plan.columns.iter().map(|c| (rule(c), c.misfit)).collect();
            Arc::new(Fit { plan: plan.clone(), rules })
        })
    }

    /// Appends the next row of `rows` as this server's texts, and moves `rows` past it.
    pub(crate) fn row(&self, rows: &mut &[u8], out: &mut Vec<u8>, misfits: &mut Misfits) -> Result<()> {
        let row = *rows;
        for column in 0..self.rules.len() {
            self.cell(column, take(rows)?, Some(row), out, misfits)?;
        }
        Ok(())
    }

    /// The same for a run of cells of these columns.
    pub(crate) fn cells(
        &self,
        columns: impl IntoIterator<Item = u16>,
        mut cells: &[u8],
        out: &mut Vec<u8>,
        misfits: &mut Misfits,
    ) -> Result<()> {
        for column in columns {
            self.cell(usize::from(column), take(&mut cells)?, None, out, misfits)?;
        }
        Ok(())
    }

    #[inline]
    fn cell(
        &self,
        column: usize,
        cell: Cell<'_>,
        row: Option<&[u8]>,
        out: &mut Vec<u8>,
        misfits: &mut Misfits,
    ) -> Result<()> {
        let Cell::Value(value) = cell else {
            put_cell(out, cell);
            return Ok(());
        };
        let (rule, policy) = self.rules[column];
        let nearest = match rule {
            Rule::Same => None,
            Rule::Bytes => {
                put_hex(out, value);
                return Ok(());
            }
            Rule::Text => text(value),
            Rule::Json => json(value),
            Rule::Date => civil::date(value),
            Rule::Time => civil::time(value),
            Rule::Timestamp => civil::timestamp(value),
        };
        let Some(nearest) = nearest else {
            put_cell(out, cell);
            return Ok(());
        };
        match policy {
            Misfit::Fail => return Err(self.refused(column, value, row)),
            Misfit::Null => put_cell(out, Cell::Null),
            // A text of this column's type holds what the type does not; what no text holds is left out of it.
            Misfit::Clamp | Misfit::Text => put_cell(out, Cell::Value(&nearest)),
        }
        let noted = misfits.entry((self.plan.id, column as u16)).or_default();
        noted.count += 1;
        if noted.example.is_empty() {
            noted.example = shown(value);
        }
        if noted.values.len() < NAMED {
            let key = row.map(|row| self.key_of(row, cut)).unwrap_or_default();
            let after = (policy != Misfit::Null).then(|| cut(&nearest));
            noted.values.push(Changed { key, before: cut(value), after });
        }
        Ok(())
    }

    #[cold]
    fn refused(&self, column: usize, value: &[u8], row: Option<&[u8]>) -> Error {
        let name = &self.plan.columns[column].source;
        let what =
            format!("{} has no place in a column of type {}", shown(value), self.plan.columns[column].destination_type);
        let error = Error::new(codes::LOSS, Fault::Source, Retry::Never, what).table(&self.plan.source).column(name);
        let remedy = format!(
            "correct the value at the source, or decide what becomes of such values: columns = {{ on_misfit = {{ {name} = \"null\" }} }} (or \"clamp\", \"text\")"
        );
        match row.map(|row| self.key_of(row, shown)).filter(|k| !k.is_empty()) {
            Some(key) => error.key(key),
            None => error,
        }
        .remedy(remedy)
    }

    /// The key of a row, for people; empty where it has none.
    fn key_of(&self, row: &[u8], shown: fn(&[u8]) -> String) -> String {
        let cells: Vec<Cell<'_>> = drover_model::row::cells(row).take(self.rules.len()).collect();
        let of = |k: &u16| {
            let value = cells.get(usize::from(*k)).and_then(|c| c.value()).map_or("null".into(), shown);
            format!("{}={value}", self.plan.columns[usize::from(*k)].source)
        };
        self.plan.key.iter().map(of).collect::<Vec<_>>().join(", ")
    }
}

fn take<'a>(rows: &mut &'a [u8]) -> Result<Cell<'a>> {
    take_cell(rows).ok_or_else(|| Error::internal("a row to write is damaged"))
}

/// A value, cut where it is long.
fn cut(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A value for people.
fn shown(value: &[u8]) -> String {
    format!("{:?}", cut(value))
}

/// `\x` and two digits for each byte.
fn put_hex(out: &mut Vec<u8>, value: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    put_varint(out, 2 * value.len() as u64 + 4);
    out.extend_from_slice(b"\\x");
    out.reserve(2 * value.len());
    for b in value {
        out.extend_from_slice(&[DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    }
}

/// `Some`: it is no text here, but this is.
#[inline]
fn text(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.as_bytes().contains(&0) => None,
        _ => Some(String::from_utf8_lossy(value).replace('\0', "").into_bytes().into()),
    }
}

/// `Some`: it names the character of number 0, which no document here may hold; it is left out.
fn json(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    const ZERO: &[u8] = b"u0000";
    let mut out: Option<Vec<u8>> = None;
    let (mut at, mut from) = (0, 0);
    while let Some(n) = value[at..].iter().position(|b| *b == b'\\') {
        let escape = at + n;
        at = (escape + 2).min(value.len());
        if value[escape + 1..].starts_with(ZERO) {
            out.get_or_insert_default().extend_from_slice(&value[from..escape]);
            at = escape + 1 + ZERO.len();
            from = at;
        }
    }
    let mut out = out?;
    out.extend_from_slice(&value[from..]);
    Some(out.into())
}

/// Appends a cell: what this server shows of a value of a column, in canonical form.
pub(crate) fn put_canonical(out: &mut Vec<u8>, column: &PlanColumn, shown: &[u8]) -> Result<()> {
    match &column.data_type {
        DataType::Bytes { .. } => return crate::bytea::put_raw(out, shown),
        _ => put_cell(out, Cell::Value(shown)),
    }
    Ok(())
}

/// The same with as many digits of a second's fraction as the source shows, so that the cells of equal values are equal.
pub(crate) fn put_like_source(out: &mut Vec<u8>, column: &PlanColumn, shown: &[u8]) -> Result<()> {
    let digits = match &column.data_type {
        DataType::Time { precision, .. } | DataType::Timestamp { precision, .. } if column.misfit != Misfit::Text => {
            usize::from(*precision)
        }
        _ => return put_canonical(out, column, shown),
    };
    let point = shown.iter().position(|b| *b == b'.');
    let seconds_end = point.unwrap_or_else(|| {
        let clock = shown.iter().position(|b| *b == b':').map_or(0, |i| (i + 6).min(shown.len()));
        if clock == 0 { shown.len() } else { clock }
    });
    let fraction = point.map_or(&b""[..], |p| {
        let n = shown[p + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        &shown[p + 1..p + 1 + n]
    });
    let tail = &shown[seconds_end + point.map_or(0, |_| 1 + fraction.len())..];
    let mut text = shown[..seconds_end].to_vec();
    if digits > 0 {
        text.push(b'.');
        text.extend_from_slice(fraction);
        text.resize(seconds_end + 1 + digits.max(fraction.len()), b'0');
    }
    text.extend_from_slice(tail);
    put_cell(out, Cell::Value(&text));
    Ok(())
}

/// Rows of steps in this server's texts.
#[derive(Default)]
pub(crate) struct Fitted {
    cells: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl Fitted {
    /// Writes the rows of all steps on tables of other kinds anew. `None`: there are none.
    pub(crate) fn of(
        fits: &HashMap<u32, Option<Arc<Fit>>>,
        steps: &[Step<'_>],
        misfits: &mut Misfits,
    ) -> Result<Option<Fitted>> {
        let fit = |table: &u32| fits.get(table).and_then(Option::as_ref);
        let foreign = |step: &Step<'_>| match step {
            Step::Delete { table, .. }
            | Step::Update { table, .. }
            | Step::Move { table, .. }
            | Step::Insert { table, .. }
            | Step::DeleteWhole { table, .. } => fit(table).is_some(),
            Step::Truncate { .. } => false,
        };
        if !steps.iter().any(foreign) {
            return Ok(None);
        }
        let mut out = Fitted::default();
        for step in steps.iter().filter(|s| foreign(s)) {
            match step {
                Step::Delete { table, keys, .. } => {
                    for key in keys {
                        out.put(fit(table), true, key, misfits)?;
                    }
                }
                Step::Update { table, rows, .. } | Step::Insert { table, rows, .. } => {
                    for row in rows {
                        out.put(fit(table), false, row, misfits)?;
                    }
                }
                Step::Move { table, old, new } => {
                    out.put(fit(table), true, old, misfits)?;
                    out.put(fit(table), false, new, misfits)?;
                }
                Step::DeleteWhole { table, rows } => {
                    for (row, _) in rows {
                        out.put(fit(table), false, row, misfits)?;
                    }
                }
                Step::Truncate { .. } => {}
            }
        }
        Ok(Some(out))
    }

    fn put(&mut self, fit: Option<&Arc<Fit>>, key: bool, mut row: &[u8], misfits: &mut Misfits) -> Result<()> {
        let from = self.cells.len();
        if let Some(fit) = fit {
            if key {
                // Whatever a policy did to a key was counted with its row.
                fit.cells(fit.plan.key.iter().copied(), row, &mut self.cells, &mut Misfits::new())?;
            } else {
                fit.row(&mut row, &mut self.cells, misfits)?;
            }
        }
        self.ranges.push(from..self.cells.len());
        Ok(())
    }

    /// The steps with these rows; `steps` are the ones that they were made of.
    pub(crate) fn steps<'f>(&'f self, fits: &HashMap<u32, Option<Arc<Fit>>>, steps: &[Step<'f>]) -> Vec<Step<'f>> {
        let mut ranges = self.ranges.iter();
        let mut next = || ranges.next().map_or(&b""[..], |r| &self.cells[r.clone()]);
        let foreign = |table: &u32| fits.get(table).is_some_and(Option::is_some);
        let mut out = steps.to_vec();
        for step in &mut out {
            match step {
                Step::Delete { table, keys: rows, .. }
                | Step::Update { table, rows, .. }
                | Step::Insert { table, rows, .. }
                    if foreign(table) =>
                {
                    rows.iter_mut().for_each(|row| *row = next());
                }
                Step::Move { table, old, new } if foreign(table) => {
                    *old = next();
                    *new = next();
                }
                Step::DeleteWhole { table, rows } if foreign(table) => {
                    rows.iter_mut().for_each(|row| row.0 = next());
                }
                _ => {}
            }
        }
        out
    }
}

/// Values of some columns, as [`Grid`] takes them: of another kind of database in this server's texts.
pub(crate) fn fitted_values(fit: Option<&Arc<Fit>>, columns: &[u16], values: &[&[u8]]) -> Result<Fitted> {
    let mut out = Fitted::default();
    for value in values {
        let from = out.cells.len();
        match fit {
            Some(fit) => fit.cells(columns.iter().copied(), value, &mut out.cells, &mut Misfits::new())?,
            None => out.cells.extend_from_slice(value),
        }
        out.ranges.push(from..out.cells.len());
    }
    Ok(out)
}

impl Fitted {
    /// As a grid of this many columns.
    pub(crate) fn grid(&self, width: usize) -> Result<Grid<'_>> {
        let rows: Vec<&[u8]> = self.ranges.iter().map(|r| &self.cells[r.clone()]).collect();
        Grid::read(&rows, width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_with_the_character_of_number_0() {
        assert_eq!(json(br#"{"a": "b"}"#), None);
        assert_eq!(json(br#"{"a": "\\u0000"}"#), None);
        assert_eq!(json(br#"{"a": "x\u0000y\\\u0000"}"#).as_deref(), Some(&br#"{"a": "xy\\"}"#[..]));
        assert_eq!(json(b"\"\\"), None);
    }

    #[test]
    fn texts() {
        assert_eq!(text("aä".as_bytes()), None);
        assert_eq!(text(b"a\0b").as_deref(), Some(&b"ab"[..]));
        assert_eq!(text(b"a\xffb").as_deref(), Some("a\u{fffd}b".as_bytes()));
    }

    #[test]
    fn fractions_as_the_source_shows_them() {
        let column = |data_type: DataType| PlanColumn::new("c", data_type, "");
        let like = |data_type: DataType, text: &str| {
            let mut out = Vec::new();
            put_like_source(&mut out, &column(data_type), text.as_bytes()).unwrap();
            let cell = drover_model::row::cells(&out).next().unwrap();
            cell.value().unwrap().to_vec()
        };
        let instant = DataType::Timestamp { precision: 6, zone: true };
        assert_eq!(like(instant.clone(), "2024-01-01 10:00:00.5+00"), b"2024-01-01 10:00:00.500000+00");
        assert_eq!(like(instant, "2024-01-01 10:00:00+00"), b"2024-01-01 10:00:00.000000+00");
        assert_eq!(like(DataType::Time { precision: 3, zone: false }, "10:00:00"), b"10:00:00.000");
        assert_eq!(like(DataType::Time { precision: 0, zone: false }, "10:00:00"), b"10:00:00");
        assert_eq!(like(DataType::Bytes { max: None }, "\\x00ff"), [0, 255]);
    }
}
