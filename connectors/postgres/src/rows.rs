//! Reading rows for comparison, as canonical texts: equal values have equal bytes on every version of the server.
//!
//! A value is shown by its type's output form under drover's session settings. Floating point numbers are shown by the bits that the server
//! sends, in hexadecimal, for versions before 12 print other digits; `NaN` is one value whatever its bits.

use crate::apply::copytext;
use crate::apply::params::Param;
use crate::apply::shape::{self, Shape, Wanted};
use crate::bytea::{is_raw, put_raw};
use crate::connect::{Dialer, Session};
use crate::errors::classify;
use crate::fit::{Fit, fitted_values};
use crate::sql;
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use drover_connectors_api::{RowSink, Rows, Side};
use drover_model::canonical;
use drover_model::chunk::Bounds;
use drover_model::plan::RowFormat;
use drover_model::row::{Cell, cells, put_cell};
use drover_model::{Error, Result, TablePlan};
use futures::TryStreamExt;
use std::pin::pin;
use tokio_postgres::types::Type;

/// Blocks are about so large.
const BLOCK: usize = 1 << 20;

/// A session that reads rows for comparison.
pub struct PgRows {
    dialer: Dialer,
    session: Session,
}

impl PgRows {
    pub async fn open(dialer: &Dialer) -> Result<Self> {
        Ok(PgRows { dialer: dialer.clone(), session: dialer.session("compare").await? })
    }

    async fn shape(&self, plan: &TablePlan, side: Side) -> Result<Shape> {
        let (name, columns): (_, Vec<&str>) = match side {
            Side::Source => (&plan.source, plan.columns.iter().map(|c| c.source.as_str()).collect()),
            Side::Destination => (&plan.destination, plan.columns.iter().map(|c| c.destination.as_str()).collect()),
        };
        let key = plan.key.iter().map(|&k| usize::from(k)).collect();
        let shapes = shape::load(&self.session, &[Wanted { name, columns, key }], self.dialer.fault()).await?;
        shapes.into_iter().next().ok_or_else(|| Error::internal("a table was looked up in vain"))
    }
}

/// The canonical form of a column, where it is not its output form: its value as text.
fn special(plan: &TablePlan, column: &shape::Column) -> Option<String> {
    if plan.format == RowFormat::Canonical {
        // Between kinds of databases there is a form for all of them.
        return None;
    }
    let name = format!("d.{}", column.name);
    match column.type_name.as_str() {
        float @ ("float4" | "float8") => {
            Some(format!("case when {name} = 'NaN' then 'NaN' else encode({float}send({name}), 'hex') end"))
        }
        "_float4" | "_float8" => Some(format!("encode(array_send({name}), 'hex')")),
        _ => None,
    }
}

/// A row as the server shows it, in the normal form that other kinds of databases give as well.
fn put_normal(plan: &TablePlan, row: &[u8], out: &mut Vec<u8>) -> Result<()> {
    for (cell, column) in cells(row).zip(&plan.columns) {
        match cell {
            Cell::Value(shown) if is_raw(plan, column) => put_raw(out, shown)?,
            Cell::Value(shown) => canonical::put_normal(out, &column.data_type, shown),
            cell => put_cell(out, cell),
        }
    }
    Ok(())
}

fn tuple(items: impl Iterator<Item = String>) -> String {
    format!("row({})", sql::list(items))
}

/// The condition that a row lies within the bounds and the plan's filter.
fn condition(plan: &TablePlan, shape: &Shape, side: Side, bounds: &Bounds) -> Result<String> {
    let mut parts = Vec::new();
    let mut within = |operator: &str, bound: &Option<Vec<String>>| -> Result<()> {
        let Some(bound) = bound else { return Ok(()) };
        if bound.len() != shape.key.len() {
            return Err(Error::internal("a chunk's bounds do not fit its table's key").table(&shape.name));
        }
        let names = tuple(shape.key.iter().map(|&k| format!("d.{}", shape.columns[k].name)));
        let values =
            tuple(shape.key.iter().zip(bound).map(|(&k, v)| format!("{}::{}", sql::literal(v), shape.columns[k].cast)));
        parts.push(format!("{names} {operator} {values}"));
        Ok(())
    };
    match bounds {
        Bounds::Whole => {}
        Bounds::Keys { from, to } => {
            within(">=", from)?;
            within("<", to)?;
        }
        Bounds::Physical { from, to } => {
            for (operator, bound) in [(">=", from), ("<", to)] {
                parts.extend(bound.iter().map(|b| format!("d.ctid {operator} {}::tid", sql::literal(b))));
            }
        }
    }
    if let (Side::Source, Some(filter)) = (side, &plan.filter) {
        parts.push(format!("({filter})"));
    }
    Ok(if parts.is_empty() { "true".to_owned() } else { parts.join(" and ") })
}

#[async_trait]
impl Rows for PgRows {
    async fn read(&mut self, plan: &TablePlan, side: Side, bounds: &Bounds, sink: &mut dyn RowSink) -> Result<()> {
        let shape = self.shape(plan, side).await?;
        let failed = |e: tokio_postgres::Error| {
            classify(&e, self.dialer.fault(), "cannot read rows for comparison").table(&shape.name)
        };
        let columns = shape.columns.iter().map(|c| special(plan, c).unwrap_or_else(|| format!("d.{}", c.name)));
        let copy = format!(
            "copy (select {} from {} as d where {}) to stdout",
            sql::list(columns),
            shape.only,
            condition(plan, &shape, side, bounds)?
        );
        let stream = self.session.copy_out(&copy).await.map_err(failed)?;
        let mut stream = pin!(stream);
        let (mut block, mut rows, mut scratch) = (Vec::with_capacity(BLOCK + (BLOCK >> 3)), 0, Vec::new());
        let (canonical, mut row) = (plan.format == RowFormat::Canonical, Vec::new());
        while let Some(data) = stream.try_next().await.map_err(failed)? {
            // The server sends each line as one message.
            let line =
                data.chunk().strip_suffix(b"\n").ok_or_else(|| Error::internal("a COPY message is not a line"))?;
            let cells = if canonical {
                row.clear();
                let cells = copytext::take_line(&mut row, line, &mut scratch);
                put_normal(plan, &row, &mut block)?;
                cells
            } else {
                copytext::take_line(&mut block, line, &mut scratch)
            };
            if cells != plan.columns.len() {
                return Err(Error::internal("a COPY line has another number of columns").table(&shape.name));
            }
            rows += 1;
            if block.len() >= BLOCK {
                let full = std::mem::replace(&mut block, Vec::with_capacity(BLOCK + (BLOCK >> 3)));
                sink.block(std::mem::take(&mut rows), Bytes::from(full))?;
            }
        }
        if rows > 0 {
            sink.block(rows, Bytes::from(block))?;
        }
        Ok(())
    }

    async fn read_keys(&mut self, plan: &TablePlan, side: Side, keys: &[Bytes], sink: &mut dyn RowSink) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        if plan.key.is_empty() {
            return Err(Error::internal("rows of a table without a key were asked for by key").table(&plan.destination));
        }
        let shape = self.shape(plan, side).await?;
        let failed = |e: tokio_postgres::Error| {
            classify(&e, self.dialer.fault(), "cannot read rows by key for comparison").table(&shape.name)
        };
        let keys: Vec<&[u8]> = keys.iter().map(|k| &k[..]).collect();
        let keys = fitted_values(Fit::of(plan).as_ref(), &plan.key, &keys)?;
        let grid = keys.grid(plan.key.len())?;
        // `concat` gives the output form; nulls are told apart without regard to what is within a composite.
        let shown = shape.columns.iter().map(|c| {
            special(plan, c).unwrap_or_else(|| {
                format!("case when d.{0} is not distinct from null then null else concat(d.{0}) end", c.name)
            })
        });
        let on = shape.key.iter().enumerate().map(|(i, &k)| {
            let column = &shape.columns[k];
            match special(plan, column) {
                Some(form) => format!("{form} = v.c{i}"),
                None => format!("d.{} {} v.c{i}::{}", column.name, column.equals, column.cast),
            }
        });
        let sql = format!(
            "select {} from unnest({}) as v({}) join {} as d on {} where {}",
            sql::list(shown),
            sql::list((1..=shape.key.len()).map(|i| format!("${i}::text[]"))),
            sql::list((0..shape.key.len()).map(|i| format!("c{i}"))),
            shape.only,
            on.collect::<Vec<_>>().join(" and "),
            condition(plan, &shape, side, &Bounds::Whole)?
        );
        let statement =
            self.session.prepare_typed(&sql, &vec![Type::TEXT_ARRAY; shape.key.len()]).await.map_err(failed)?;
        let params: Vec<Param<'_>> = (0..shape.key.len()).map(|k| grid.array(k)).collect();
        let stream = self.session.query_raw(&statement, params).await.map_err(failed)?;
        let mut stream = pin!(stream);
        let (mut block, mut rows) = (Vec::new(), 0);
        let (canonical, mut cells) = (plan.format == RowFormat::Canonical, Vec::new());
        while let Some(row) = stream.try_next().await.map_err(failed)? {
            cells.clear();
            let out = if canonical { &mut cells } else { &mut block };
            for c in 0..shape.columns.len() {
                put_cell(out, row.get::<_, Option<&str>>(c).map_or(Cell::Null, |v| Cell::Value(v.as_bytes())));
            }
            if canonical {
                put_normal(plan, &cells, &mut block)?;
            }
            rows += 1;
            if block.len() >= BLOCK {
                sink.block(std::mem::take(&mut rows), Bytes::from(std::mem::take(&mut block)))?;
            }
        }
        if rows > 0 {
            sink.block(rows, Bytes::from(block))?;
        }
        Ok(())
    }
}
