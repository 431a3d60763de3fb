//! Statement parameters that are written to the wire straight from the cells of rows: nothing is allocated for a value.
//! Array layout: the server's `array_recv` (dimensions, flags, element type, length, lower bound, elements).

use bytes::{BufMut, BytesMut};
use drover_model::row::{self, Cell};
use drover_model::{Error, Result};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The cells of some rows, side by side.
#[derive(Clone)]
pub(crate) struct Grid<'a> {
    cells: Arc<Vec<Cell<'a>>>,
    width: usize,
}

impl<'a> Grid<'a> {
    /// Reads rows of `width` cells each.
    pub(crate) fn read(rows: &[&'a [u8]], width: usize) -> Result<Self> {
        let mut cells = Vec::with_capacity(rows.len() * width);
        for (i, row) in rows.iter().enumerate() {
            cells.extend(row::cells(row));
            if cells.len() != (i + 1) * width {
                return Err(Error::internal(format!(
                    "a row of {} cells came where {width} were expected",
                    cells.len().saturating_sub(i * width)
                )));
            }
        }
        Ok(Grid { cells: Arc::new(cells), width })
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.cells.len().checked_div(self.width).unwrap_or(0)
    }

    pub(crate) fn cell(&self, row: usize, column: usize) -> Cell<'a> {
        self.cells[row * self.width + column]
    }

    /// A column as an array parameter, or as a plain text where there is one row only.
    pub(crate) fn param(&self, column: usize) -> Param<'a> {
        if self.rows() == 1 { Param::Text(self.cell(0, column).value()) } else { self.array(column) }
    }

    /// A column as an array parameter.
    pub(crate) fn array(&self, column: usize) -> Param<'a> {
        Param::Column { grid: self.clone(), column }
    }
}

/// A parameter of a statement.
#[derive(Clone)]
pub(crate) enum Param<'a> {
    Text(Option<&'a [u8]>),
    Column { grid: Grid<'a>, column: usize },
    Numbers(Vec<i64>),
}

impl fmt::Debug for Param<'_> {
    /// Values of the user never go to a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Param::Text(v) => write!(f, "text({:?} bytes)", v.map(<[u8]>::len)),
            Param::Column { grid, .. } => write!(f, "text[{}]", grid.rows()),
            Param::Numbers(n) => write!(f, "int8[{}]", n.len()),
        }
    }
}

fn put_len(out: &mut BytesMut, len: usize) -> Result<(), Box<dyn StdError + Sync + Send>> {
    out.put_i32(i32::try_from(len)?);
    Ok(())
}

fn put_head(out: &mut BytesMut, len: usize, element: &Type) -> Result<(), Box<dyn StdError + Sync + Send>> {
    out.put_i32(i32::from(len > 0));
    out.put_i32(1);
    out.put_u32(element.oid());
    if len > 0 {
        put_len(out, len)?;
        out.put_i32(1);
    }
    Ok(())
}

impl ToSql for Param<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Param::Text(None) => return Ok(IsNull::Yes),
            Param::Text(Some(value)) => out.put_slice(value),
            Param::Column { grid, column } => {
                put_head(out, grid.rows(), &Type::TEXT)?;
                for cell in grid.cells.iter().skip(*column).step_by(grid.width) {
                    match cell {
                        Cell::Value(value) => {
                            put_len(out, value.len())?;
                            out.put_slice(value);
                        }
                        Cell::Null | Cell::Unknown => out.put_i32(-1),
                    }
                }
            }
            Param::Numbers(numbers) => {
                put_head(out, numbers.len(), &Type::INT8)?;
                for n in numbers {
                    out.put_i32(8);
                    out.put_i64(*n);
                }
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        [Type::TEXT, Type::TEXT_ARRAY, Type::INT8_ARRAY].contains(ty)
    }

    to_sql_checked!();
}
