//! Reading rows for comparison: cells in one form, so that equal values have equal bytes on every member of the family and on both sides.
//!
//! The form is that of canonical cells (see the crate's head): text in UTF-8, numbers without padding, floating point numbers by their
//! shortest text. JSON is taken apart and written anew, with keys in order and numbers by their value, wherever one of the two sides has a type of
//! its own for it: that side does not keep the text. Within the family `-0` is `0`: the servers take them for equal, and MariaDB 10.11 does not keep the sign.

use crate::chunks::range::{key_columns, within};
use crate::connect::Dialer;
use crate::fit::{self, Fit};
use crate::reader::decode::{Decoder, decoders, put_row};
use crate::reader::{Texts, column_list, filtered, lookup};
use crate::sql;
use crate::types::{Kind, MyType};
use crate::wire::{Flow, Wire};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{RowSink, Rows, Side};
use drover_model::canonical;
use drover_model::chunk::Bounds;
use drover_model::plan::{Floats, PlanColumn, RowFormat};
use drover_model::row::{Cell, cells, put_cell, take_cell};
use drover_model::schema::DataType;
use drover_model::{Error, Result, TablePlan};

/// Blocks are about so large.
const BLOCK: usize = 1 << 20;
/// Keys looked up by one statement.
const KEYS_AT_ONCE: usize = 500;

const READING: &str = "cannot read rows for comparison";

/// A session that reads rows for comparison.
pub struct MyRows {
    wire: Wire,
}

/// The plan as a side has it: its table's and columns' names and types in the places of the source's.
fn seen_from(plan: &TablePlan, side: Side) -> TablePlan {
    let mut own = plan.clone();
    if side == Side::Destination {
        own.source = plan.destination.clone();
        own.filter = None;
        // What was rounded is there as it is.
        own.floats = Floats::Lossless;
        for column in &mut own.columns {
            column.source.clone_from(&column.destination);
            column.origin_type.clone_from(&column.destination_type);
        }
    }
    own
}

fn is_json(column: &PlanColumn) -> bool {
    let json = |t: &str| MyType::parse(t).is_some_and(|t| t.kind == Kind::Json);
    json(&column.origin_type) || json(&column.destination_type)
}

impl MyRows {
    pub async fn open(dialer: &Dialer) -> Result<Self> {
        let mut wire = Wire::connect(dialer, "compare").await?;
        // Text comes as it is stored.
        wire.run("SET SESSION character_set_results = NULL", "cannot prepare a session").await?;
        Ok(MyRows { wire })
    }

    async fn give(
        &mut self,
        plan: &TablePlan,
        own: &TablePlan,
        condition: Option<String>,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        let table = &own.source;
        let texts = if own.format == RowFormat::Canonical { Texts::Canonical } else { Texts::Converted };
        let select =
            format!("SELECT {} FROM {}{}", column_list(own, texts), sql::qualified(table), filtered(own, condition));
        let statement = self.wire.prepare(&select, READING).await.map_err(|e| e.table(table))?;
        let decoders = decoders(own, &statement.columns)?;
        let anew: Vec<Anew> = plan.columns.iter().map(anew).collect();
        let any = anew.iter().any(|a| *a != Anew::Nothing);
        let kinds: Option<Vec<&DataType>> =
            (plan.format == RowFormat::Canonical).then(|| plan.columns.iter().map(|c| &c.data_type).collect());
        self.wire.execute(&statement, READING).await.map_err(|e| e.table(table))?;
        let (mut block, mut rows, mut scratch) = (Vec::with_capacity(BLOCK + (BLOCK >> 2)), 0, Vec::new());
        loop {
            let mut put = |row: &[u8]| {
                rows += 1;
                let put = match &kinds {
                    Some(kinds) => put_canonical(row, &decoders, kinds, &mut scratch, &mut block),
                    None => put_normal(row, &decoders, any.then_some(&anew[..]), &mut scratch, &mut block),
                };
                put.ok_or_else(|| Error::internal("the server sent a damaged row"))
            };
            let flow = self.wire.rows(&mut put, READING).await.map_err(|e| e.table(table))?;
            if block.len() >= BLOCK || (flow == Flow::End && rows > 0) {
                let full = std::mem::replace(&mut block, Vec::with_capacity(BLOCK + (BLOCK >> 2)));
                sink.block(std::mem::take(&mut rows), Bytes::from(full))?;
            }
            if flow == Flow::End {
                return self.wire.close(&statement).await;
            }
        }
    }
}

/// What of a column is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anew {
    Nothing,
    Json,
    Zero,
}

fn anew(column: &PlanColumn) -> Anew {
    match column.data_type {
        DataType::Float { .. } => Anew::Zero,
        _ if is_json(column) => Anew::Json,
        _ => Anew::Nothing,
    }
}

/// A row with its JSON and its zeros written anew.
fn put_normal(
    row: &[u8],
    decoders: &[Decoder],
    anew: Option<&[Anew]>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let Some(anew) = anew else { return put_row(row, decoders, out) };
    scratch.clear();
    put_row(row, decoders, scratch)?;
    let mut rest = &scratch[..];
    for anew in anew {
        match take_cell(&mut rest)? {
            Cell::Value(b"-0") if *anew == Anew::Zero => put_cell(out, Cell::Value(b"0")),
            Cell::Value(text) if *anew == Anew::Json => match canonical::json(text) {
                Some(normal) => put_cell(out, Cell::Value(normal.as_bytes())),
                // Whatever it is, it is the same on both sides or it is not.
                None => put_cell(out, Cell::Value(text)),
            },
            cell => put_cell(out, cell),
        }
    }
    Some(())
}

/// Canonical keys in the form that columns of the destination have.
fn own_keys(own: &TablePlan, keys: &[Bytes]) -> Result<Vec<Bytes>> {
    let unknown = |c: &PlanColumn| Error::internal(format!("the type {} is unknown", c.origin_type)).column(&c.source);
    let mut fits = Vec::with_capacity(own.key.len());
    for &k in &own.key {
        let column = &own.columns[usize::from(k)];
        fits.push(Fit::new(column, &MyType::parse(&column.origin_type).ok_or_else(|| unknown(column))?));
    }
    let converted = keys.iter().map(|key| {
        let mut out = Vec::with_capacity(key.len());
        for (cell, fit) in cells(key).zip(&fits) {
            match cell {
                // What does not fit is not there.
                Cell::Value(value) => {
                    put_cell(&mut out, fit.value(value).ok().flatten().as_deref().map_or(Cell::Null, Cell::Value))
                }
                cell => put_cell(&mut out, cell),
            }
        }
        Bytes::from(out)
    });
    Ok(converted.collect())
}

/// A row in the normal form that other kinds of databases give as well.
fn put_canonical(
    row: &[u8],
    decoders: &[Decoder],
    kinds: &[&DataType],
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Option<()> {
    scratch.clear();
    put_row(row, decoders, scratch)?;
    let mut rest = &scratch[..];
    for kind in kinds {
        match take_cell(&mut rest)? {
            Cell::Value(value) => canonical::put_normal(out, kind, &fit::canonical(kind, value)),
            cell => put_cell(out, cell),
        }
    }
    Some(())
}

#[async_trait]
impl Rows for MyRows {
    async fn read(&mut self, plan: &TablePlan, side: Side, bounds: &Bounds, sink: &mut dyn RowSink) -> Result<()> {
        let own = seen_from(plan, side);
        let condition = within(&key_columns(&own), bounds)?;
        self.give(plan, &own, condition, sink).await
    }

    async fn read_keys(&mut self, plan: &TablePlan, side: Side, keys: &[Bytes], sink: &mut dyn RowSink) -> Result<()> {
        if plan.key.is_empty() && !keys.is_empty() {
            return Err(Error::internal("rows of a table without a key were asked for by key").table(&plan.destination));
        }
        let own = seen_from(plan, side);
        let foreign = plan.format == RowFormat::Canonical && side == Side::Destination;
        let keys = if foreign { &own_keys(&own, keys)?[..] } else { keys };
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let conditions: Result<Vec<String>> = keys.iter().map(|key| lookup(&own, key, false)).collect();
            self.give(plan, &own, Some(conditions?.join(" OR ")), sink).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_has_no_sign() {
        let row = |value: f64| [&[0][..], &value.to_le_bytes()].concat();
        let put = |value: f64| {
            let mut out = Vec::new();
            put_normal(&row(value), &[Decoder::Double], Some(&[Anew::Zero]), &mut Vec::new(), &mut out).unwrap();
            out
        };
        assert_eq!(put(-0.0), put(0.0));
        assert_ne!(put(-1.0), put(1.0));
        for kind in ["double", "float"] {
            let column = PlanColumn::new("c", MyType::parse(kind).unwrap().data_type(), kind);
            assert_eq!(anew(&column), Anew::Zero, "{kind}");
        }
    }
}
