//! The texts of the statements that apply rows, built into one buffer. A single row is compared with literals; many rows stand in a derived table
//! of literals, `(SELECT … UNION ALL SELECT …) AS m`, which is joined first, and the table is looked up row by row through its
//! key's index: without that, the server may choose to read the whole table, and wait for rows that others hold. Rows to delete by an integer key
//! stand in a plain list, which costs the server a third to a half less: each row of a derived table is a query block.

use crate::encode::put_quoted;
use crate::shape::{Column, Shape};
use crate::types::Kind;
use drover_model::row::{Cell, cells};
use drover_model::{Error, Result};

/// Rows (or keys) of one statement: which cell of each is which column of the table.
pub(super) struct Given<'a, 'f> {
    pub shape: &'a Shape,
    pub rows: &'a [&'f [u8]],
    /// (cell, column) of all that the statement needs.
    pub fields: Vec<(usize, usize)>,
}

impl<'a, 'f> Given<'a, 'f> {
    /// Cells of the plan's key.
    pub fn keys(shape: &'a Shape, rows: &'a [&'f [u8]]) -> Self {
        Given { shape, rows, fields: shape.key.iter().copied().enumerate().collect() }
    }
    /// Whole rows, of which these columns are needed besides the key.
    pub fn rows(shape: &'a Shape, rows: &'a [&'f [u8]], columns: &[usize]) -> Self {
        let mut fields: Vec<(usize, usize)> = shape.key.iter().map(|&k| (k, k)).collect();
        fields.extend(columns.iter().filter(|c| !shape.key.contains(c)).map(|&c| (c, c)));
        Given { shape, rows, fields }
    }

    /// ` AS m` and before it the rows' literals, columns named `c0`, `c1` … by the table's.
    fn put_derived(&self, out: &mut Vec<u8>) -> Result<()> {
        let mut row = Vec::new();
        for (n, bytes) in self.rows.iter().enumerate() {
            out.extend_from_slice(if n == 0 { b"(SELECT " } else { b" UNION ALL SELECT " });
            row.clear();
            row.extend(cells(bytes));
            for (i, &(cell, column)) in self.fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let put = self.column(column).encoder.put_literal(out, at(&row, cell)?);
                put.map_err(|e| self.of(e, bytes))?;
                if n == 0 {
                    out.extend_from_slice(format!(" AS c{column}").as_bytes());
                }
            }
            if self.fields.iter().all(|(cell, column)| cell == column) {
                self.shape.written(bytes);
            }
        }
        out.extend_from_slice(b") AS m");
        Ok(())
    }

    /// Says of which row an error is.
    fn of(&self, error: Error, row: &[u8]) -> Error {
        let whole = self.fields.iter().all(|(cell, column)| cell == column);
        if whole { self.shape.of_row(error, row) } else { error }
    }

    fn column(&self, column: usize) -> &'a Column {
        &self.shape.columns[column]
    }

    /// Where in a row this column of the key stands.
    fn cell_of(&self, column: usize) -> usize {
        self.fields.iter().find(|f| f.1 == column).map_or(column, |f| f.0)
    }

    fn put_join(&self, out: &mut Vec<u8>, join: &str) {
        put(out, &self.join(join));
    }

    /// `DELETE t FROM t FORCE INDEX (…) WHERE t.k IN (7, 9, …)`, where the key is one integer; says whether it is.
    fn put_delete_listed(&self, out: &mut Vec<u8>) -> Result<bool> {
        let shape = self.shape;
        let ([key], Some(index)) = (&shape.key[..], &shape.index) else { return Ok(false) };
        let column = self.column(*key);
        if !matches!(column.kind, Kind::Int { .. }) {
            return Ok(false);
        }
        let cell = self.cell_of(*key);
        let table = &shape.table;
        put(out, &format!("DELETE {table} FROM {table} FORCE INDEX ({index}) WHERE {table}.{} IN (", column.name));
        for (n, bytes) in self.rows.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            let value = cells(bytes).nth(cell).ok_or_else(|| Error::internal("a damaged row"))?;
            column.encoder.put_literal(out, value)?;
        }
        out.push(b')');
        Ok(true)
    }

    /// ` JOIN t FORCE INDEX (…) ON t.k = m.ck AND …`
    pub fn join(&self, join: &str) -> String {
        let shape = self.shape;
        let force = shape.index.as_ref().map_or(String::new(), |i| format!(" FORCE INDEX ({i})"));
        let on: Vec<String> = shape
            .key
            .iter()
            .map(|&k| {
                format!(
                    "{}.{} = {}",
                    shape.table,
                    self.column(k).name,
                    self.column(k).comparable(&format!("m.c{k}"), false)
                )
            })
            .collect();
        format!(" {join} {}{force} ON {}", shape.table, on.join(" AND "))
    }

    /// `t.a = m.c1, t.b = m.c2`
    pub fn set(&self, columns: &[usize]) -> String {
        let table = &self.shape.table;
        let set = columns.iter().map(|&c| {
            let column = self.column(c);
            format!("{table}.{} = {}", column.name, column.encoder.value(&format!("m.c{c}")))
        });
        set.collect::<Vec<_>>().join(", ")
    }

    /// ` WHERE k = 7 AND …` for a single row.
    fn put_where(&self, out: &mut Vec<u8>) -> Result<()> {
        let row: Vec<Cell<'_>> = cells(self.rows[0]).collect();
        for (i, &k) in self.shape.key.iter().enumerate() {
            let cell = self.cell_of(k);
            let mut literal = Vec::new();
            self.column(k).encoder.put_literal(&mut literal, at(&row, cell)?)?;
            out.extend_from_slice(if i == 0 { b" WHERE " } else { b" AND " });
            out.extend_from_slice(self.column(k).name.as_bytes());
            out.extend_from_slice(b" = ");
            self.column(k).put_comparable(out, &literal, true);
        }
        Ok(())
    }

    fn single(&self) -> bool {
        self.rows.len() == 1
    }
}

fn at<'f>(row: &[Cell<'f>], cell: usize) -> Result<Cell<'f>> {
    row.get(cell).copied().ok_or_else(|| Error::internal("a damaged row"))
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Deletes the rows with these keys.
pub(super) fn delete(out: &mut Vec<u8>, given: &Given<'_, '_>) -> Result<()> {
    let table = &given.shape.table;
    if given.single() {
        put(out, &format!("DELETE FROM {table}"));
        return given.put_where(out);
    }
    if given.put_delete_listed(out)? {
        return Ok(());
    }
    put(out, &format!("DELETE {table} FROM "));
    given.put_derived(out)?;
    given.put_join(out, "STRAIGHT_JOIN");
    Ok(())
}

/// Sets these columns of the rows with these keys.
pub(super) fn update(out: &mut Vec<u8>, given: &Given<'_, '_>, set: &[usize]) -> Result<()> {
    let shape = given.shape;
    if given.single() {
        put(out, &format!("UPDATE {} SET ", shape.table));
        put_set(out, shape, given.rows[0], set)?;
        return given.put_where(out);
    }
    put(out, "UPDATE ");
    given.put_derived(out)?;
    given.put_join(out, "STRAIGHT_JOIN");
    put(out, &format!(" SET {}", given.set(set)));
    Ok(())
}

/// `a = 1, b = 'x'`
fn put_set(out: &mut Vec<u8>, shape: &Shape, bytes: &[u8], set: &[usize]) -> Result<()> {
    let row: Vec<Cell<'_>> = cells(bytes).collect();
    for (i, &c) in set.iter().enumerate() {
        put(out, if i == 0 { "" } else { ", " });
        put(out, &shape.columns[c].name);
        put(out, " = ");
        shape.columns[c].encoder.put_value(out, at(&row, c)?).map_err(|e| shape.of_row(e, bytes))?;
    }
    shape.written(bytes);
    Ok(())
}

/// Counts the rows with these keys: an update that has nothing to set.
pub(super) fn count(out: &mut Vec<u8>, given: &Given<'_, '_>) -> Result<()> {
    if given.single() {
        put(out, &format!("SELECT COUNT(*) FROM {}", given.shape.table));
        return given.put_where(out);
    }
    put(out, "SELECT COUNT(*) FROM ");
    given.put_derived(out)?;
    given.put_join(out, "STRAIGHT_JOIN");
    Ok(())
}

/// Of these keys, some that have no row: their literals.
pub(super) fn missing(out: &mut Vec<u8>, given: &Given<'_, '_>, most: usize) -> Result<()> {
    let shape = given.shape;
    let keys: Vec<String> = shape.key.iter().map(|k| format!("m.c{k}")).collect();
    put(out, &format!("SELECT {} FROM ", keys.join(", ")));
    given.put_derived(out)?;
    given.put_join(out, "LEFT JOIN");
    put(out, &format!(" WHERE {}.{} IS NULL LIMIT {most}", shape.table, shape.columns[shape.key[0]].name));
    Ok(())
}

/// Inserts those rows whose key is not there.
pub(super) fn insert_missing(out: &mut Vec<u8>, given: &Given<'_, '_>) -> Result<()> {
    let shape = given.shape;
    let names: Vec<&str> = shape.columns.iter().map(|c| c.name.as_str()).collect();
    let values: Vec<String> =
        shape.columns.iter().enumerate().map(|(i, c)| c.encoder.value(&format!("m.c{i}"))).collect();
    put(out, &format!("INSERT INTO {} ({}) SELECT {} FROM ", shape.table, names.join(", "), values.join(", ")));
    given.put_derived(out)?;
    given.put_join(out, "LEFT JOIN");
    put(out, &format!(" WHERE {}.{} IS NULL", shape.table, shape.columns[shape.key[0]].name));
    Ok(())
}

/// Sets columns, key columns among them, of the row with this old key.
pub(super) fn change_key(out: &mut Vec<u8>, old: &Given<'_, '_>, new: &[u8], set: &[usize]) -> Result<()> {
    put(out, &format!("UPDATE {} SET ", old.shape.table));
    put_set(out, old.shape, new, set)?;
    old.put_where(out)
}

/// Deletes so many rows of which every column has just these bytes.
pub(super) fn delete_whole(out: &mut Vec<u8>, shape: &Shape, row: &[u8], count: u64) -> Result<()> {
    put(out, &format!("DELETE FROM {}", shape.table));
    let mut literal = Vec::new();
    for (i, (cell, column)) in cells(row).zip(&shape.columns).enumerate() {
        put(out, if i == 0 { " WHERE " } else { " AND " });
        let Some(written) = column.encoder.written(cell).map_err(|e| shape.of_row(e, row))? else {
            put(out, &format!("{} IS NULL", column.name));
            continue;
        };
        literal.clear();
        column.encoder.put_literal(&mut literal, cell)?;
        column.put_same(out, &literal, &written);
    }
    put(out, &format!(" LIMIT {count}"));
    Ok(())
}

/// Which rows hold these values (cells of just these columns): the key's cells, then the values', as texts. `index` is over the columns.
pub(super) fn holding(
    out: &mut Vec<u8>,
    shape: &Shape,
    values: &[&[u8]],
    columns: &[usize],
    index: &str,
) -> Result<()> {
    let given = Given { shape, rows: values, fields: columns.iter().copied().enumerate().collect() };
    let here = |c: usize| format!("{}.{}", shape.table, shape.columns[c].name);
    let shown: Vec<String> = shape.key.iter().chain(columns).map(|&c| shape.columns[c].shown(&here(c))).collect();
    put(out, &format!("SELECT {} FROM ", shown.join(", ")));
    given.put_derived(out)?;
    let on: Vec<String> = columns
        .iter()
        .map(|&c| format!("{} = {}", here(c), shape.columns[c].comparable(&format!("m.c{c}"), false)))
        .collect();
    put(out, &format!(" STRAIGHT_JOIN {} FORCE INDEX ({index}) ON {}", shape.table, on.join(" AND ")));
    Ok(())
}

/// Rows of a table of which some columns have one of these values (cells of just these columns); `index` begins with the columns.
pub(super) struct Referring<'a, 'f> {
    given: Given<'a, 'f>,
    columns: &'a [usize],
    index: Option<&'a str>,
}

impl<'a, 'f> Referring<'a, 'f> {
    pub fn new(shape: &'a Shape, values: &'a [&'f [u8]], columns: &'a [usize], index: Option<&'a str>) -> Self {
        let given = Given { shape, rows: values, fields: columns.iter().copied().enumerate().collect() };
        Referring { given, columns, index }
    }

    fn here(&self, column: usize) -> String {
        format!("{}.{}", self.given.shape.table, self.given.column(column).name)
    }

    fn put_from(&self, out: &mut Vec<u8>) -> Result<()> {
        self.given.put_derived(out)?;
        let on: Vec<String> = self
            .columns
            .iter()
            .map(|&c| format!("{} = {}", self.here(c), self.given.column(c).comparable(&format!("m.c{c}"), false)))
            .collect();
        let force = self.index.map_or(String::new(), |i| format!(" FORCE INDEX ({i})"));
        put(out, &format!(" STRAIGHT_JOIN {}{force} ON {}", self.given.shape.table, on.join(" AND ")));
        Ok(())
    }

    /// Reads columns of them, as texts, and locks them.
    pub fn select(&self, out: &mut Vec<u8>, give: &[usize]) -> Result<()> {
        let shown: Vec<String> = give.iter().map(|&c| self.given.column(c).shown(&self.here(c))).collect();
        put(out, &format!("SELECT {} FROM ", shown.join(", ")));
        self.put_from(out)?;
        put(out, " FOR UPDATE");
        Ok(())
    }

    pub fn delete(&self, out: &mut Vec<u8>) -> Result<()> {
        put(out, &format!("DELETE {} FROM ", self.given.shape.table));
        self.put_from(out)
    }

    /// Sets the columns to these cells, or to null.
    pub fn set(&self, out: &mut Vec<u8>, new: Option<&[u8]>) -> Result<()> {
        put(out, "UPDATE ");
        self.put_from(out)?;
        let new: Vec<Cell<'_>> = new.map(|n| cells(n).collect()).unwrap_or_default();
        for (i, &column) in self.columns.iter().enumerate() {
            put(out, &format!("{} {} = ", if i == 0 { " SET" } else { "," }, self.here(column)));
            let cell = new.get(i).copied().unwrap_or(Cell::Null);
            self.given.column(column).encoder.put_value(out, cell)?;
        }
        Ok(())
    }
}

impl Column {
    /// Appends the expression of [`Column::comparable`] around a literal of bytes.
    fn put_comparable(&self, out: &mut Vec<u8>, literal: &[u8], single: bool) {
        // The literal may be any bytes, so it cannot go through a text: a mark holds its place.
        let around = self.comparable("?", single);
        let (before, after) = around.split_once('?').unwrap_or((&around, ""));
        put(out, before);
        out.extend_from_slice(literal);
        put(out, after);
    }

    /// Appends a condition that holds for exactly the value of a cell: what an index can look up, and where equality is coarser than bytes,
    /// the bytes.
    fn put_same(&self, out: &mut Vec<u8>, literal: &[u8], bytes: &[u8]) {
        let name = &self.name;
        let quoted = |out: &mut Vec<u8>| put_quoted(out, bytes);
        match &self.kind {
            Kind::Char { .. } | Kind::VarChar { .. } | Kind::Text { .. } => {
                put(out, &format!("{name} = "));
                self.put_comparable(out, literal, true);
                put(out, &format!(" AND CAST({name} AS BINARY) = "));
                match (self.encoder.converts(), &self.charset) {
                    (true, Some(charset)) => {
                        let around = format!("CAST(CONVERT({} USING {charset}) AS BINARY)", self.encoder.value("?"));
                        let (before, after) = around.split_once('?').unwrap_or((&around, ""));
                        put(out, before);
                        out.extend_from_slice(literal);
                        put(out, after);
                    }
                    _ => out.extend_from_slice(literal),
                }
            }
            Kind::Enum { .. } | Kind::Set { .. } => {
                put(out, &format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY) = "));
                quoted(out);
            }
            // The text was another server's: what counts is the value.
            Kind::Json if self.canonical.is_some() => {
                put(out, &format!("{name} = CAST(CONVERT("));
                quoted(out);
                put(out, " USING utf8mb4) AS JSON)");
            }
            Kind::Json => {
                put(out, &format!("CAST(CAST({name} AS CHAR CHARACTER SET utf8mb4) AS BINARY) = "));
                quoted(out);
            }
            Kind::Geometry { .. } | Kind::Vector { .. } => {
                put(out, &format!("HEX({name}) = HEX("));
                quoted(out);
                put(out, ")");
            }
            _ => {
                put(out, &format!("{name} = "));
                self.put_comparable(out, literal, true);
            }
        }
    }
}
