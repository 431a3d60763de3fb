//! Looking at a source's rows before a migration starts, for values that the destination has no place for. The server does the looking: one
//! statement for each range of a table's key counts all doubts at once, and only where it counted some are their keys asked for. Guarantee: what is
//! counted is what the destination refuses, except that letters' case and accents are folded in PostgreSQL's own way; each statement is a
//! transaction of its own, on what is committed when it begins.

use crate::connect::Session;
use crate::errors::classify;
use crate::snapshot::{condition, from_clause};
use crate::sql::{ident, list};
use drover_model::chunk::Bounds;
use drover_model::doubt::{Alike, Doubt, EXAMPLES, Folding, KeyDoubt, Scanned, TableDoubts};
use drover_model::plan::PlanColumn;
use drover_model::schema::DataType;
use drover_model::{Fault, Result, TablePlan};

/// Rows of a range.
const ROWS: u64 = 100_000;

type Texts = Vec<Option<String>>;

/// Whether a column can hold such values at all.
pub(crate) fn may_hold(column: &PlanColumn, doubt: &Doubt) -> bool {
    predicate(column, doubt, u32::MAX).is_some()
}

/// A condition that is true for the values in doubt. `version` is the server's, in its own numbers.
fn predicate(column: &PlanColumn, doubt: &Doubt, version: u32) -> Option<String> {
    let c = ident(&column.source);
    let kind = &column.data_type;
    let (date, moment) = (*kind == DataType::Date, matches!(kind, DataType::Timestamp { .. }));
    let number = matches!(kind, DataType::Decimal { .. });
    let float = matches!(kind, DataType::Float { .. });
    Some(match doubt {
        // Infinity lies beyond the last year, or before the first.
        Doubt::FarDate if date => format!("({c} < date '0001-01-01' or {c} >= date '10000-01-01')"),
        Doubt::FarDate if moment => {
            format!("({c} < '0001-01-01 00:00:00+00' or {c} >= '10000-01-01 00:00:00+00')")
        }
        Doubt::NoNumber if number || float => format!("{c}::text in ('NaN', 'Infinity', '-Infinity')"),
        // NaN is greater than all numbers here.
        Doubt::Digits { precision, scale } if number => {
            let whole = precision.saturating_sub(*scale);
            format!("case when abs({c}) >= '1e{whole}'::numeric then true else {c} <> round({c}, {scale}) end")
        }
        Doubt::Chars(n) => match kind {
            DataType::Bytes { .. } => return None,
            // What is padded is padded with nothing that counts.
            DataType::Text { padded: true, .. } => format!("char_length({c}) > {n}"),
            _ => format!("char_length({c}::text) > {n}"),
        },
        Doubt::Bytes(n) if matches!(kind, DataType::Bytes { .. }) => format!("octet_length({c}) > {n}"),
        Doubt::Bytes(n) => format!("octet_length({c}::text) > {n}"),
        Doubt::LongNumberInJson if *kind == DataType::Json && version >= 120_000 => {
            // Texts, which are many and fit, are sorted out before any number is converted. The guards keep casts from failing.
            let n = "(v #>> '{}')::numeric";
            format!(
                "{c}::text ~ '[0-9.]{{16}}' and exists (select from jsonb_path_query({c}, 'strict $.** ? (@.type() == \"number\")') as v where not \
                 case when {n} = trunc({n}) and {n} between -9223372036854775808 and 18446744073709551615 and (v #>> '{{}}') !~ '[.]' then true \
                      when {n} = 0 then true when abs({n}) > 1.797693134862315e308 or abs({n}) < 5e-324 then false \
                      else {n}::float8::text::numeric = {n} end)"
            )
        }
        _ => return None,
    })
}

/// What of a text counts in a comparison that folds it so.
fn folded(c: &str, folding: &Folding, version: u32) -> String {
    let mut text = format!("{c}::text");
    if folding.accents && version >= 130_000 {
        text = format!("regexp_replace(normalize({text}, NFKD), '[\\u0300-\\u036f]+', '', 'g')");
    }
    if folding.case {
        text = format!("lower({text})");
    }
    if folding.spaces {
        text = format!("rtrim({text}, ' ')");
    }
    text
}

struct Scan<'a> {
    session: &'a Session,
    plan: &'a TablePlan,
    version: u32,
    fault: Fault,
    key: Vec<String>,
}

/// Looks at a table. See [`drover_connectors_api::Source::scan`].
pub(crate) async fn scan(
    session: &Session,
    version: u32,
    fault: Fault,
    plan: &TablePlan,
    doubts: &TableDoubts,
    told: &(dyn Fn(u64) + Send + Sync),
) -> Result<Scanned> {
    let key = plan.key.iter().map(|&k| ident(&plan.columns[usize::from(k)].source)).collect();
    let scan = Scan { session, plan, version, fault, key };
    let mut found = Scanned::none(doubts);
    scan.values(doubts, &mut found, told).await?;
    for doubt in &doubts.keys {
        found.keys.push(scan.alike(doubt).await?);
    }
    Ok(found)
}

impl Scan<'_> {
    async fn texts(&self, sql: &str) -> Result<Vec<Texts>> {
        let rows = self.session.query(sql, &[]).await;
        let rows =
            rows.map_err(|e| classify(&e, self.fault, "cannot look at the rows of a table").table(&self.plan.source))?;
        Ok(rows.iter().map(|r| (0..r.len()).map(|i| r.get(i)).collect()).collect())
    }

    fn from(&self) -> String {
        from_clause(self.plan)
    }

    /// The key's columns as texts, under names of their own: ORDER BY would take a column's name for its text.
    fn key_texts(&self) -> String {
        list(self.key.iter().enumerate().map(|(i, k)| format!("{k}::text as \"drover key {i}\"")))
    }

    async fn values(
        &self,
        doubts: &TableDoubts,
        found: &mut Scanned,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let of = |(column, doubt): &(u16, Doubt)| {
            let column = self.plan.columns.get(usize::from(*column))?;
            predicate(column, doubt, self.version)
        };
        let predicates: Vec<Option<String>> = doubts.values.iter().map(of).collect();
        if predicates.iter().all(Option::is_none) {
            return Ok(());
        }
        let asked: Vec<&String> = predicates.iter().flatten().collect();
        let counts = asked.iter().map(|p| format!("count(*) filter (where {p})::text"));
        let counts = list([String::from("count(*)::text")].into_iter().chain(counts));
        let places: Vec<usize> = (0..predicates.len()).filter(|i| predicates[*i].is_some()).collect();
        let mut from = None;
        loop {
            let to = self.next(from.as_ref()).await?;
            let bounds = match (&from, &to) {
                (None, None) => Bounds::Whole,
                _ => Bounds::Keys { from: from.clone(), to: to.clone() },
            };
            let within = condition(self.plan, &bounds);
            let row = self.texts(&format!("select {counts} from {}{within}", self.from())).await?;
            let number = |i: usize| -> u64 { row.first().and_then(|r| r.get(i)?.as_ref()?.parse().ok()).unwrap_or(0) };
            found.rows += number(0);
            for (i, place) in places.iter().enumerate() {
                let (count, keys) = &mut found.values[*place];
                *count += number(i + 1);
                if number(i + 1) > 0 && keys.len() < EXAMPLES {
                    let left = EXAMPLES - keys.len();
                    keys.extend(self.examples(&within, asked[i], left).await?);
                }
            }
            told(found.rows);
            if to.is_none() {
                return Ok(());
            }
            from = to;
        }
    }

    /// The first key of the next range; `None`: there is none.
    async fn next(&self, from: Option<&Vec<String>>) -> Result<Option<Vec<String>>> {
        if self.key.is_empty() {
            return Ok(None);
        }
        // The filter would be looked at twice for each row: ranges are those of all rows.
        let all = TablePlan { filter: None, ..self.plan.clone() };
        let within = condition(&all, &Bounds::Keys { from: from.cloned(), to: None });
        let shown = self.key_texts();
        let keys = list(self.key.clone());
        let sql = format!("select {shown} from {}{within} order by {keys} limit 1 offset {ROWS}", self.from());
        let row = self.texts(&sql).await?.into_iter().next();
        Ok(row.map(|r| r.into_iter().map(Option::unwrap_or_default).collect()))
    }

    /// Keys of rows that a condition is true for, for people.
    async fn examples(&self, within: &str, predicate: &str, most: usize) -> Result<Vec<String>> {
        if self.key.is_empty() {
            return Ok(Vec::new());
        }
        let shown = self.key_texts();
        let also = if within.is_empty() { " where " } else { " and " };
        let keys = list(self.key.clone());
        let sql =
            format!("select {shown} from {}{within}{also}({predicate}) order by {keys} limit {most}", self.from());
        Ok(self.texts(&sql).await?.into_iter().map(|r| self.named(&self.plan.key, r)).collect())
    }

    fn named(&self, columns: &[u16], values: Texts) -> String {
        let name = |c: &u16| self.plan.columns.get(usize::from(*c)).map_or("", |c| c.source.as_str());
        let parts = columns.iter().zip(values).map(|(c, v)| {
            let value = v.map_or_else(|| "null".to_owned(), |v| v.chars().take(60).collect());
            format!("{}={value}", name(c))
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    async fn alike(&self, doubt: &KeyDoubt) -> Result<Alike> {
        let name = |c: u16| self.plan.columns.get(usize::from(c)).map_or_else(String::new, |c| ident(&c.source));
        let columns: Vec<u16> = doubt.columns.iter().map(|c| c.0).collect();
        let groups = list(doubt.columns.iter().map(|(c, folding)| match folding {
            Some(folding) => folded(&name(*c), folding, self.version),
            None => name(*c),
        }));
        // Nulls are equal to nothing in a unique key.
        let all = condition(self.plan, &Bounds::Whole);
        let also = if all.is_empty() { " where " } else { " and " };
        let there: Vec<String> = columns.iter().map(|c| format!("{} is not null", name(*c))).collect();
        let from = format!("{}{all}{also}{}", self.from(), there.join(" and "));
        let grouped = format!("{from} group by {groups} having count(*) > 1");
        let count = self.texts(&format!("select count(*)::text from (select from {grouped}) as g")).await?;
        let values = count.first().and_then(|r| r.first()?.as_ref()?.parse().ok()).unwrap_or(0);
        if values == 0 {
            return Ok(Alike::default());
        }
        let row = list(columns.iter().map(|c| format!("{}::text", name(*c))));
        let sql = format!(
            "select array_to_string((array_agg(array_to_string(array[{row}], ', ') order by {row}))[1:2], ' | ') from {grouped} order by 1 limit {EXAMPLES}"
        );
        let examples = self.texts(&sql).await?.into_iter().filter_map(|r| r.into_iter().next().flatten()).collect();
        Ok(Alike { values, examples, rough: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_type_can_hold_is_looked_for() {
        let column = |data_type: DataType| PlanColumn::new("c", data_type, "whatever");
        let far = |t: DataType| may_hold(&column(t), &Doubt::FarDate);
        assert!(far(DataType::Date) && far(DataType::Timestamp { precision: 6, zone: true }));
        assert!(!far(DataType::Text { max: None, padded: false }));
        // No text here has the character of number 0, and each date is one.
        for doubt in [Doubt::NoText, Doubt::NoDate, Doubt::NoTimeOfDay, Doubt::ZeroInJson] {
            assert!(!may_hold(&column(DataType::Json), &doubt), "{doubt:?}");
        }
    }
}
