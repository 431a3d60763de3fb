//! The texts of the statements that apply rows. Each comes in two forms: one row (parameters are texts) and many rows
//! (parameters are arrays of texts, one for each column, unnested side by side).

use super::shape::Shape;
use crate::sql;
use drover_connectors_api::apply::Follow;
use tokio_postgres::types::Type;

/// A statement and the columns whose values it takes, in the order of its parameters.
pub(crate) struct Text {
    pub sql: String,
    pub types: Vec<Type>,
}

/// Where the values of a statement come from.
struct Values {
    many: bool,
    count: usize,
}

impl Values {
    /// The expression of parameter `i` (from 0).
    fn at(&self, i: usize) -> String {
        if self.many { format!("v.c{i}") } else { format!("${}", i + 1) }
    }
    /// `unnest(…) as v(…)`, with an ordinal column `i` if asked.
    fn unnest(&self, ordinal: bool) -> String {
        let arrays = sql::list((1..=self.count).map(|i| format!("${i}::text[]")));
        let names = sql::list((0..self.count).map(|i| format!("c{i}")));
        if ordinal {
            format!("unnest({arrays}) with ordinality as v({names}, i)")
        } else {
            format!("unnest({arrays}) as v({names})")
        }
    }
    fn types(&self) -> Vec<Type> {
        vec![if self.many { Type::TEXT_ARRAY } else { Type::TEXT }; self.count]
    }
}

/// `d.k = value and …` over the key, whose values are parameters from `first` on.
fn on_key(shape: &Shape, values: &Values, first: usize) -> String {
    let parts = shape.key.iter().enumerate().map(|(i, &k)| {
        let column = &shape.columns[k];
        format!("d.{} {} {}::{}", column.name, column.equals, values.at(first + i), column.cast)
    });
    parts.collect::<Vec<_>>().join(" and ")
}

fn assignments(shape: &Shape, values: &Values, first: usize, set: &[usize]) -> String {
    sql::list(set.iter().enumerate().map(|(i, &c)| {
        let column = &shape.columns[c];
        format!("{} = {}::{}", column.name, values.at(first + i), column.cast)
    }))
}

/// Sets columns of the rows with these keys. Parameters: key columns, then `set`.
pub(crate) fn update(shape: &Shape, set: &[usize], many: bool) -> Text {
    let values = Values { many, count: shape.key.len() + set.len() };
    let assigned = assignments(shape, &values, shape.key.len(), set);
    let from = if many { format!(" from {}", values.unnest(false)) } else { String::new() };
    let sql = format!("update {} as d set {assigned}{from} where {}", shape.only, on_key(shape, &values, 0));
    Text { sql, types: values.types() }
}

/// Counts the rows with these keys: an update that has nothing to set. Parameters: key columns.
pub(crate) fn count(shape: &Shape, many: bool) -> Text {
    let values = Values { many, count: shape.key.len() };
    let from = if many { format!(", {}", values.unnest(false)) } else { String::new() };
    let sql = format!("select 1 from {} as d{from} where {}", shape.only, on_key(shape, &values, 0));
    Text { sql, types: values.types() }
}

/// Deletes the rows with these keys. One row: affected rows tell. Many: one row with the number of deleted rows and, where that is not
/// the number of keys, their ordinals (a deleted key cannot be asked for afterwards).
pub(crate) fn delete(shape: &Shape, many: bool) -> Text {
    let values = Values { many, count: shape.key.len() };
    let sql = if many {
        format!(
            "with x as (delete from {} as d using {} where {} returning v.i) select count(*), \
             case when count(*) <> cardinality($1) then array_agg(x.i) end from x",
            shape.only,
            values.unnest(true),
            on_key(shape, &values, 0)
        )
    } else {
        format!("delete from {} as d where {}", shape.only, on_key(shape, &values, 0))
    };
    Text { sql, types: values.types() }
}

/// Inserts rows. Parameters: all columns.
pub(crate) fn insert(shape: &Shape, many: bool) -> Text {
    let values = Values { many, count: shape.columns.len() };
    let names = sql::list(shape.columns.iter().map(|c| c.name.clone()));
    let casts = sql::list(shape.columns.iter().enumerate().map(|(i, c)| format!("{}::{}", values.at(i), c.cast)));
    let rows = if many { format!("select {casts} from {}", values.unnest(false)) } else { format!("values ({casts})") };
    let sql = format!("insert into {} ({names}) overriding system value {rows}", shape.table);
    Text { sql, types: values.types() }
}

/// Inserts rows or, where the identity is there already, overwrites them. Only the identifying key decides: a collision with
/// another unique key is an error. Parameters: all columns.
pub(crate) fn upsert(shape: &Shape, many: bool) -> Text {
    let mut text = insert(shape, many);
    let key = sql::list(shape.key.iter().map(|&k| shape.columns[k].name.clone()));
    let set = sql::list(settable(shape, &[]).into_iter().map(|c| {
        let name = &shape.columns[c].name;
        format!("{name} = excluded.{name}")
    }));
    // A row that is all key is already what it shall be.
    let action = if set.is_empty() { "do nothing".to_owned() } else { format!("do update set {set}") };
    text.sql.push_str(&format!(" on conflict ({key}) {action}"));
    text
}

/// Inserts those rows whose identity is not there. For keys that cannot decide a conflict (deferrable ones); run after an update.
pub(crate) fn insert_missing(shape: &Shape, many: bool) -> Text {
    let values = Values { many, count: shape.columns.len() };
    let names = sql::list(shape.columns.iter().map(|c| c.name.clone()));
    let casts = sql::list(shape.columns.iter().enumerate().map(|(i, c)| format!("{}::{}", values.at(i), c.cast)));
    let on = shape.key.iter().map(|&k| {
        let column = &shape.columns[k];
        format!("d.{} {} {}::{}", column.name, column.equals, values.at(k), column.cast)
    });
    let on = on.collect::<Vec<_>>().join(" and ");
    let from = if many { format!(" from {}", values.unnest(false)) } else { String::new() };
    let sql = format!(
        "insert into {} ({names}) overriding system value select {casts}{from} where not exists (select from {} as d where {on})",
        shape.table, shape.only
    );
    Text { sql, types: values.types() }
}

/// Changes the key of one row. Parameters: the old key, then `set`.
pub(crate) fn move_key(shape: &Shape, set: &[usize]) -> Text {
    update(shape, set, false)
}

/// Deletes as many rows equal to each given row as said; gives (ordinal, deleted rows). Parameters: all columns, then the counts.
/// Rows are compared by the text of the whole row, which both sides get from the server: null equals null, and any type can be compared.
pub(crate) fn delete_whole(shape: &Shape) -> Text {
    let columns = shape.columns.len();
    let values = Values { many: true, count: columns };
    let arrays = sql::list((1..=columns).map(|i| format!("${i}::text[]")));
    let names = sql::list((0..columns).map(|i| format!("c{i}")));
    let here = sql::list(shape.columns.iter().map(|c| format!("d.{}", c.name)));
    let given = sql::list(shape.columns.iter().enumerate().map(|(i, c)| format!("v.c{i}::{}", c.full)));
    let sql = format!(
        "with x as (select d.ctid as c, d.tableoid as o, v.i, v.n, row_number() over (partition by v.i) as r \
         from {only} as d join unnest({arrays}, ${}::int8[]) with ordinality as v({names}, n, i) \
         on row({here})::text = row({given})::text), \
         g as (delete from {only} as d using x where d.ctid = x.c and d.tableoid = x.o and x.r <= x.n returning x.i) \
         select i, count(*) from g group by i",
        columns + 1,
        only = shape.only
    );
    let mut types = values.types();
    types.push(Type::INT8_ARRAY);
    Text { sql, types }
}

/// Of these keys, those that have not exactly one row: (ordinal, rows). Parameters: key columns, always as arrays.
pub(crate) fn wrong_counts(shape: &Shape) -> Text {
    let values = Values { many: true, count: shape.key.len() };
    let sql = format!(
        "select v.i, count(d.ctid) from {} left join {} as d on {} group by v.i having count(d.ctid) <> 1 order by v.i limit 20",
        values.unnest(true),
        shape.only,
        on_key(shape, &values, 0)
    );
    Text { sql, types: values.types() }
}

/// Of these rows, those whose identity-always columns differ from the row there. Parameters: key columns, then `always`; arrays.
pub(crate) fn identity_differs(shape: &Shape, always: &[usize]) -> Text {
    let values = Values { many: true, count: shape.key.len() + always.len() };
    let differs = always.iter().enumerate().map(|(i, &c)| {
        let column = &shape.columns[c];
        format!("d.{} is distinct from v.c{}::{}", column.name, shape.key.len() + i, column.cast)
    });
    let sql = format!(
        "select 1 from {} join {} as d on {} where {} limit 1",
        values.unnest(false),
        shape.only,
        on_key(shape, &values, 0),
        differs.collect::<Vec<_>>().join(" or ")
    );
    Text { sql, types: values.types() }
}

/// Which rows hold these values of some columns: the key's texts, then the values'. Parameters: the columns, as arrays.
pub(crate) fn holders(shape: &Shape, columns: &[usize]) -> Text {
    let values = Values { many: true, count: columns.len() };
    // `concat` gives the type's own output form, unlike a cast to text (boolean, inet, character).
    let shown = shape.key.iter().chain(columns).map(|&c| format!("concat(d.{})", shape.columns[c].name));
    let on = columns.iter().enumerate().map(|(i, &c)| {
        let column = &shape.columns[c];
        format!("d.{} {} v.c{i}::{}", column.name, column.equals, column.cast)
    });
    let sql = format!(
        "select {} from {} join {} as d on {}",
        sql::list(shown),
        values.unnest(false),
        shape.only,
        on.collect::<Vec<_>>().join(" and ")
    );
    Text { sql, types: values.types() }
}

/// Does to the rows of which `columns` hold one of the given values what a foreign key did, and gives columns `give` of them as they were.
/// Parameters: the columns' values as arrays; to set, their new values as texts.
pub(crate) fn follow(shape: &Shape, columns: &[usize], what: Follow<'_>, give: &[usize]) -> Text {
    let values = Values { many: true, count: columns.len() };
    let on = columns.iter().enumerate().map(|(i, &c)| {
        let column = &shape.columns[c];
        format!("d.{} {} v.c{i}::{}", column.name, column.equals, column.cast)
    });
    let on = on.collect::<Vec<_>>().join(" and ");
    let shown = give.iter().enumerate().map(|(i, &c)| {
        let name = &shape.columns[c].name;
        format!("case when d.{name} is not distinct from null then null else concat(d.{name}) end as g{i}")
    });
    let found = sql::list(["d.ctid as c".into(), "d.tableoid as o".into()].into_iter().chain(shown));
    let place = "d.ctid = x.c and d.tableoid = x.o";
    let act = match what {
        Follow::Delete => format!("delete from {} as d using x where {place}", shape.only),
        Follow::SetNull | Follow::Set(_) => {
            let set = sql::list(columns.iter().enumerate().map(|(i, &c)| {
                let column = &shape.columns[c];
                match what {
                    Follow::Set(_) => format!("{} = ${}::{}", column.name, columns.len() + i + 1, column.cast),
                    _ => format!("{} = null", column.name),
                }
            }));
            format!("update {} as d set {set} from x where {place}", shape.only)
        }
    };
    let given = sql::list((0..give.len().max(1)).map(|i| if give.is_empty() { "1".into() } else { format!("x.g{i}") }));
    let sql = format!(
        "with x as materialized (select {found} from {} as d join {} on {on} for update of d), y as ({act}) select {given} from x",
        shape.only,
        values.unnest(false)
    );
    let mut types = values.types();
    if matches!(what, Follow::Set(_)) {
        types.extend(vec![Type::TEXT; columns.len()]);
    }
    Text { sql, types }
}

/// `copy t (…) from stdin` in text or binary format.
pub(crate) fn copy_in(table: &str, columns: &str, binary: bool) -> String {
    format!("copy {table} ({columns}) from stdin with (format {})", if binary { "binary" } else { "text" })
}

/// Columns that an update may set: not of the key, not generated always, not unknown.
pub(crate) fn settable(shape: &Shape, unknown: &[u16]) -> Vec<usize> {
    (0..shape.columns.len())
        .filter(|c| !shape.key.contains(c) && !shape.columns[*c].identity_always && !unknown.contains(&(*c as u16)))
        .collect()
}
