//! Looking at a source's rows before a migration starts, for values that the destination has no place for. The server does the looking: one
//! statement for each range of a table's key counts all doubts at once, and only where it counted some are their keys asked for. Guarantee: what is
//! counted is what the destination refuses (and bytes that are no characters, which the server would convert to question marks); keys that collide are
//! told by the destination's own collation, or else by one that takes more for equal. Each statement is a transaction of its own.

use crate::chunks::range::{KeyColumn, above, at_least, below, key_columns};
use crate::connect::Session;
use crate::doubts::foldings;
use crate::reader::{filtered, is_no_text};
use crate::sql;
use crate::types::{Kind, MyType};
use drover_model::doubt::{Alike, Doubt, EXAMPLES, Folding, KeyDoubt, Scanned, TableDoubts};
use drover_model::plan::PlanColumn;
use drover_model::schema::DataType;
use drover_model::{Result, TablePlan};
use mysql_async::{Row, Value};

const WHAT: &str = "cannot look at the rows of a table";
/// Rows of a range.
const ROWS: u64 = 100_000;
/// Character sets in which a byte of 0 may be part of another character.
const WIDE: [&str; 4] = ["ucs2", "utf16", "utf16le", "utf32"];

/// Whether a column can hold such values at all.
pub(crate) fn may_hold(column: &PlanColumn, doubt: &Doubt) -> bool {
    predicate(column, doubt).is_some()
}

/// A condition that is true for the values in doubt.
fn predicate(column: &PlanColumn, doubt: &Doubt) -> Option<String> {
    let c = sql::name(&column.source);
    let t = MyType::parse(&column.origin_type)?;
    let dated = matches!(t.kind, Kind::Date | Kind::DateTime { .. } | Kind::Timestamp { .. });
    Some(match doubt {
        Doubt::NoText if t.is_text() => no_text(&c, t.charset.as_deref().unwrap_or("utf8mb4")),
        Doubt::ZeroInJson if t.kind == Kind::Json || t.is_text() && column.data_type == DataType::Json => {
            // What is escaped is no escape.
            let plain = format!(r"REPLACE(CAST(CAST({c} AS CHAR CHARACTER SET utf8mb4) AS BINARY), X'5c5c', '')");
            format!("LOCATE(X'5c7530303030', {plain})")
        }
        Doubt::NoDate if dated => format!(
            "(YEAR({c}) = 0 OR MONTH({c}) = 0 OR DAY({c}) = 0 OR DAY({c}) > 28 AND (MONTH({c}) IN (4, 6, 9, 11) AND DAY({c}) > 30 \
             OR MONTH({c}) = 2 AND DAY({c}) > 28 + (YEAR({c}) % 4 = 0 AND (YEAR({c}) % 100 <> 0 OR YEAR({c}) % 400 = 0))))"
        ),
        Doubt::FarDate if dated => format!("YEAR({c}) = 0"),
        Doubt::NoTimeOfDay if matches!(t.kind, Kind::Time { .. }) => {
            format!("({c} < TIME'00:00:00' OR {c} > TIME'24:00:00')")
        }
        Doubt::Digits { precision, scale } if matches!(t.kind, Kind::Decimal { .. }) => {
            let whole = precision.saturating_sub(*scale);
            format!("(ABS({c}) >= 1{} OR {c} <> ROUND({c}, {scale}))", "0".repeat(whole as usize))
        }
        Doubt::Chars(n) if t.is_text() => format!("CHAR_LENGTH({c}) > {n}"),
        Doubt::Bytes(n) if t.is_text() || matches!(column.data_type, DataType::Bytes { .. }) => {
            format!("LENGTH({c}) > {n}")
        }
        _ => return None,
    })
}

fn no_text(c: &str, charset: &str) -> String {
    let bytes = format!("CAST({c} AS BINARY)");
    let unicode = format!("CAST(CONVERT({c} USING utf8mb4) AS BINARY)");
    // In the collations of Unicode the character of number 0 counts for nothing: bytes are looked through.
    let zero = format!("LOCATE(X'00', {})", if WIDE.contains(&charset) { &unicode } else { &bytes });
    format!("({c} IS NOT NULL AND ({zero} OR {}))", is_no_text(c, charset))
}

struct Scan<'a> {
    session: &'a mut Session,
    plan: &'a TablePlan,
    key: Vec<KeyColumn>,
}

type Bound = Vec<String>;

/// Looks at a table. See [`drover_connectors_api::Source::scan`].
pub(crate) async fn scan(
    session: &mut Session,
    plan: &TablePlan,
    doubts: &TableDoubts,
    told: &(dyn Fn(u64) + Send + Sync),
) -> Result<Scanned> {
    let key = key_columns(plan);
    let mut scan = Scan { session, plan, key };
    let mut found = Scanned::none(doubts);
    scan.values(doubts, &mut found, told).await?;
    for doubt in &doubts.keys {
        found.keys.push(scan.alike(doubt).await?);
    }
    Ok(found)
}

impl Scan<'_> {
    async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<Vec<u8>>>>> {
        let rows: Vec<Row> = self.session.all(sql, WHAT).await.map_err(|e| e.table(&self.plan.source))?;
        let bytes = |v: Value| if let Value::Bytes(b) = v { Some(b) } else { None };
        Ok(rows.into_iter().map(|r| r.unwrap().into_iter().map(bytes).collect()).collect())
    }

    fn from(&self) -> String {
        sql::qualified(&self.plan.source)
    }

    async fn values(
        &mut self,
        doubts: &TableDoubts,
        found: &mut Scanned,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let of = |(column, doubt): &(u16, Doubt)| predicate(self.plan.columns.get(usize::from(*column))?, doubt);
        let asked: Vec<(usize, String)> =
            doubts.values.iter().enumerate().filter_map(|(i, d)| Some((i, of(d)?))).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let counts: String = asked.iter().map(|(_, p)| format!(", COUNT(IF({p}, 1, NULL))")).collect();
        let mut from: Option<Bound> = None;
        loop {
            let mut to = self.next(from.as_ref()).await?;
            let mut row = self.count(&counts, from.as_ref(), to.as_ref()).await?;
            if to.is_some() && row.first() == Some(&0) {
                // Keys that compare as equal: the rest is one range.
                to = None;
                row = self.count(&counts, from.as_ref(), None).await?;
            }
            found.rows += row.first().copied().unwrap_or(0);
            for (i, (place, predicate)) in asked.iter().enumerate() {
                let count = row.get(i + 1).copied().unwrap_or(0);
                let (all, keys) = &mut found.values[*place];
                *all += count;
                if count > 0 && keys.len() < EXAMPLES {
                    let left = EXAMPLES - keys.len();
                    keys.extend(self.examples(self.range(from.as_ref(), to.as_ref())?, predicate, left).await?);
                }
            }
            told(found.rows);
            if to.is_none() {
                return Ok(());
            }
            from = to;
        }
    }

    fn range(&self, from: Option<&Bound>, to: Option<&Bound>) -> Result<Option<String>> {
        let mut parts = Vec::new();
        if let Some(from) = from {
            parts.push(at_least(&self.key, from)?);
        }
        if let Some(to) = to {
            parts.push(below(&self.key, to)?);
        }
        Ok((!parts.is_empty()).then(|| parts.join(" AND ")))
    }

    async fn count(&mut self, counts: &str, from: Option<&Bound>, to: Option<&Bound>) -> Result<Vec<u64>> {
        let within = filtered(self.plan, self.range(from, to)?);
        let rows = self.rows(&format!("SELECT COUNT(*){counts} FROM {}{within}", self.from())).await?;
        let number = |v: Option<Vec<u8>>| String::from_utf8_lossy(&v.unwrap_or_default()).parse().unwrap_or(0);
        Ok(rows.into_iter().next().unwrap_or_default().into_iter().map(number).collect())
    }

    /// The first key of the next range; `None`: there is none.
    async fn next(&mut self, from: Option<&Bound>) -> Result<Option<Bound>> {
        if self.key.is_empty() {
            return Ok(None);
        }
        let behind = from.map(|f| at_least(&self.key, f)).transpose()?;
        let to = self.key_at(behind, ROWS).await?;
        // Many rows have the same first columns of the key.
        if to.is_some() && to.as_ref() == from {
            let behind = from.map(|f| above(&self.key, f)).transpose()?;
            return self.key_at(behind, 0).await;
        }
        Ok(to)
    }

    async fn key_at(&mut self, condition: Option<String>, offset: u64) -> Result<Option<Bound>> {
        // A bound of text is its bytes in the column's own character set.
        let shown = |k: &KeyColumn| match k.charset() {
            Some(_) => format!("CAST({} AS BINARY)", k.name),
            None => k.name.clone(),
        };
        let list: Vec<String> = self.key.iter().map(shown).collect();
        let order: Vec<&str> = self.key.iter().map(|k| k.name.as_str()).collect();
        let condition = condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
        let sql = format!(
            "SELECT {} FROM {}{condition} ORDER BY {} LIMIT 1 OFFSET {offset}",
            list.join(", "),
            self.from(),
            order.join(", ")
        );
        let row = self.rows(&sql).await?.into_iter().next();
        let bound = |row: Vec<Option<Vec<u8>>>| {
            self.key.iter().zip(row).map(|(k, v)| k.bound(v.as_deref().unwrap_or_default())).collect()
        };
        Ok(row.map(bound))
    }

    /// Keys of rows that a condition is true for, for people.
    async fn examples(&mut self, range: Option<String>, predicate: &str, most: usize) -> Result<Vec<String>> {
        let columns: Vec<String> = self
            .plan
            .key
            .iter()
            .filter_map(|k| self.plan.columns.get(usize::from(*k)))
            .map(|c| c.source.clone())
            .collect();
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let list: Vec<String> = columns.iter().map(|c| sql::name(c)).collect();
        let list = list.join(", ");
        let condition = range.map_or_else(|| predicate.to_owned(), |r| format!("{r} AND {predicate}"));
        let within = filtered(self.plan, Some(condition));
        let sql = format!("SELECT {list} FROM {}{within} ORDER BY {list} LIMIT {most}", self.from());
        let named = |row: Vec<Option<Vec<u8>>>| {
            let parts: Vec<String> = columns.iter().zip(row).map(|(c, v)| format!("{c}={}", shown(v))).collect();
            parts.join(", ")
        };
        Ok(self.rows(&sql).await?.into_iter().map(named).collect())
    }

    async fn alike(&mut self, doubt: &KeyDoubt) -> Result<Alike> {
        let all: Vec<String> = self
            .session
            .all("SELECT COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY", WHAT)
            .await?;
        let mut rough = false;
        let mut groups = Vec::new();
        let mut names = Vec::new();
        for (column, folding) in &doubt.columns {
            let Some(column) = self.plan.columns.get(usize::from(*column)) else { continue };
            let name = sql::name(&column.source);
            groups.push(match folding {
                Some(folding) => {
                    let (text, exact) = folded(&name, folding, &all);
                    rough |= !exact;
                    text
                }
                None => name.clone(),
            });
            names.push(name);
        }
        // Nulls are equal to nothing in a unique key.
        let there: Vec<String> = names.iter().map(|n| format!("{n} IS NOT NULL")).collect();
        let from = format!("{}{}", self.from(), filtered(self.plan, Some(there.join(" AND "))));
        let grouped = format!("{from} GROUP BY {} HAVING COUNT(*) > 1", groups.join(", "));
        let count = self.rows(&format!("SELECT COUNT(*) FROM (SELECT 1 FROM {grouped}) g")).await?;
        let count = count.into_iter().next().and_then(|r| r.into_iter().next().flatten());
        let values = count.and_then(|c| String::from_utf8_lossy(&c).parse().ok()).unwrap_or(0);
        if values == 0 {
            return Ok(Alike::default());
        }
        let row = format!("CONCAT_WS(', ', {})", names.join(", "));
        let both = format!("MIN(CAST({row} AS BINARY)), MAX(CAST({row} AS BINARY))");
        let rows = self.rows(&format!("SELECT {both} FROM {grouped} LIMIT {EXAMPLES}")).await?;
        let pair = |r: Vec<Option<Vec<u8>>>| r.into_iter().map(shown).collect::<Vec<_>>().join(" | ");
        Ok(Alike { values, examples: rows.into_iter().map(pair).collect(), rough })
    }
}

/// What of a text counts in a comparison that folds it so, and whether it is that comparison itself.
fn folded(name: &str, folding: &Folding, known: &[String]) -> (String, bool) {
    let collate = |collation: &str| {
        let charset = collation.split('_').next().unwrap_or("utf8mb4");
        format!("CONVERT({name} USING {charset}) COLLATE {collation}")
    };
    let has = |collation: &str| known.iter().any(|k| k.eq_ignore_ascii_case(collation));
    if has(&folding.collation) {
        return (collate(&folding.collation), true);
    }
    let nearest = foldings(folding).into_iter().find(|c| has(c)).unwrap_or_else(|| "utf8mb4_general_ci".into());
    (collate(&nearest), false)
}

/// A value for people.
fn shown(value: Option<Vec<u8>>) -> String {
    let Some(value) = value else { return "null".into() };
    match std::str::from_utf8(&value) {
        Ok(text) if !text.contains('\0') => text.chars().take(60).collect(),
        _ => value.iter().take(30).fold("0x".to_owned(), |out, b| out + &format!("{b:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(origin_type: &str) -> PlanColumn {
        PlanColumn::new("c", MyType::parse(origin_type).unwrap().data_type(), origin_type)
    }

    #[test]
    fn only_what_a_type_can_hold_is_looked_for() {
        for (origin_type, doubt, holds) in [
            ("varchar(9) character set utf8mb4", Doubt::NoText, true),
            ("set('a','b') character set utf8mb4", Doubt::NoText, false),
            ("inet6", Doubt::NoText, false),
            ("json", Doubt::ZeroInJson, true),
            ("datetime(6)", Doubt::NoDate, true),
            ("time", Doubt::NoDate, false),
            ("time", Doubt::NoTimeOfDay, true),
            ("double", Doubt::NoNumber, false),
        ] {
            assert_eq!(may_hold(&column(origin_type), &doubt), holds, "{origin_type} {doubt:?}");
        }
    }

    #[test]
    fn values_for_people() {
        assert_eq!(shown(Some(b"a\xff".to_vec())), "0x61ff");
        assert_eq!(shown(Some("ä".into())), "ä");
        assert_eq!(shown(None), "null");
    }
}
