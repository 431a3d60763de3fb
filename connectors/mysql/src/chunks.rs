//! Cutting a table into chunks: ranges of its key, so that chunks outlive their snapshot. The table is not read for it:
//!
//! - A dense integer key is cut by arithmetic between its least and greatest value.
//! - Other keys are cut in halves. A middle is guessed from the texts of two keys ([`middle`]), the server is asked for the first key at or behind
//!   it (one descent of the index), and how many rows lie on either side (`EXPLAIN`, which dives into the index and reads a few pages).
//! - Where no middle can be guessed, or guesses turn out bad, the index is walked through from key to key by `LIMIT 1 OFFSET n`. This reads that
//!   part of the index, and of a primary key the rows with it; it is the last resort.
//!
//! Sizes are estimates of the server and can be off by a factor; bounds are exact, for the server itself compares.

pub mod middle;
pub mod range;

use crate::snapshot::Seat;
use crate::sql;
use crate::wire::text;
use drover_model::chunk::{Bounds, Chunk};
use drover_model::{Error, Result, TablePlan};
use middle::Style;
use range::{KeyColumn, above, at_least, below, equal, key_columns};

const CUTTING: &str = "cannot cut a table into chunks";
/// More are of no use to anybody.
const MOST: u64 = 1_000_000;
/// Guesses for one cut.
const GUESSES: usize = 12;

/// Size of a table as the server estimates it now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    pub rows: u64,
    pub bytes: u64,
}

/// A key's values, as bounds.
type Key = Vec<String>;

/// Cuts a table into chunks of about `target_bytes`. `index`: the name of the key's index.
pub async fn cut(
    seat: &mut Seat,
    plan: &TablePlan,
    index: Option<&str>,
    size: Size,
    target_bytes: u64,
) -> Result<Vec<Chunk>> {
    let count = size.bytes.div_ceil(target_bytes.max(1)).clamp(1, MOST);
    let key = key_columns(plan);
    let mut cuts = Vec::new();
    if count > 1 && !key.is_empty() {
        let hint = index.map(|i| format!(" FORCE INDEX ({})", sql::name(i))).unwrap_or_default();
        let from = format!("{}{hint}", sql::qualified(&plan.source));
        cuts = Cutter { seat, key: &key, from, step: (size.rows / count).max(1), cuts }.cut(size.rows, count).await?;
    }
    let of = cuts.len() as u64 + 1;
    let chunk =
        |number: usize, bounds| Chunk { number: number as u32, bounds, rows: size.rows / of, bytes: size.bytes / of };
    if plan.key.is_empty() {
        return Ok(vec![chunk(0, Bounds::Whole)]);
    }
    let mut from = None;
    let ends = cuts.into_iter().map(Some).chain([None]);
    Ok(ends
        .enumerate()
        .map(|(n, to)| chunk(n, Bounds::Keys { from: std::mem::replace(&mut from, to.clone()), to }))
        .collect())
}

struct Cutter<'a> {
    seat: &'a mut Seat,
    key: &'a [KeyColumn],
    /// The table and its index, for FROM.
    from: String,
    /// Rows of a chunk.
    step: u64,
    cuts: Vec<Key>,
}

impl Cutter<'_> {
    async fn cut(mut self, rows: u64, count: u64) -> Result<Vec<Key>> {
        let (Some(first), Some(last)) = (self.end("ASC").await?, self.end("DESC").await?) else {
            return Ok(Vec::new());
        };
        if let [column] = self.key
            && let Some(cuts) = dense(column, &first, &last, rows, count)
        {
            return Ok(cuts);
        }
        // From left to right; what is cut off on the right waits.
        let mut waiting = vec![(first, last, rows)];
        while let Some((low, high, rows)) = waiting.pop() {
            if rows <= self.step + self.step / 2 {
                self.cuts.push(high);
                continue;
            }
            match self.halve(&low, &high, rows).await? {
                Some((middle, left, right)) => {
                    waiting.push((middle.clone(), high, right));
                    waiting.push((low, middle, left));
                }
                None => {
                    self.walk(&low, &high).await?;
                    self.cuts.push(high);
                }
            }
        }
        // The last key belongs to the last chunk.
        self.cuts.pop();
        Ok(self.cuts)
    }

    fn columns(&self) -> String {
        self.key.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn order(&self, how: &str) -> String {
        self.key.iter().map(|k| format!("{} {how}", k.name)).collect::<Vec<_>>().join(", ")
    }

    async fn key(&mut self, rest: &str) -> Result<Option<Key>> {
        let sql = format!("SELECT {} FROM {} {rest}", self.columns(), self.from);
        let rows = self.seat.all(sql, CUTTING).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(self.key.iter().zip(row).map(|(k, v)| k.bound(v.as_deref().unwrap_or_default())).collect()))
    }

    /// The first or last key.
    async fn end(&mut self, how: &str) -> Result<Option<Key>> {
        let order = self.order(how);
        self.key(&format!("ORDER BY {order} LIMIT 1")).await
    }

    /// About how many rows lie from one key to before another.
    async fn rows(&mut self, low: &Key, high: &Key) -> Result<u64> {
        let condition = format!("{} AND {}", at_least(self.key, low)?, below(self.key, high)?);
        // Newer versions of MySQL print a tree if they are not told otherwise.
        let form = if self.seat.version.mysql(50_700) { "FORMAT=TRADITIONAL " } else { "" };
        // A MySQL that is forced to an index does not estimate any more.
        let from = if self.seat.version.is_mariadb() {
            self.from.clone()
        } else {
            self.from.replace(" FORCE INDEX (", " USE INDEX (")
        };
        let sql = format!("EXPLAIN {form}SELECT 1 FROM {from} WHERE {condition}");
        let rows = self.seat.all(sql, CUTTING).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        // 12 columns since MySQL 5.7, with `partitions` and `filtered`; else 10.
        let place = if row.len() >= 12 { 9 } else { 8 };
        Ok(text(row, place).and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    /// A key in about the middle, and how many rows lie before and behind it. `None` if none was found by guessing.
    async fn halve(&mut self, low: &Key, high: &Key, rows: u64) -> Result<Option<(Key, u64, u64)>> {
        // The first column in which the two differ.
        let Some(mut at) = low.iter().zip(high).position(|(a, b)| a != b) else { return Ok(None) };
        let mut top = high[at].clone();
        let mut best: Option<(Key, u64, u64)> = None;
        let share = |best: &Option<(Key, u64, u64)>| best.as_ref().map_or(0, |b| b.1.min(b.2));
        loop {
            for style in middle::styles(&self.key[at]) {
                self.guess(*style, at, &top, (low, high), rows, &mut best).await?;
                if share(&best) >= rows / 5 {
                    break;
                }
            }
            if share(&best) >= rows / 5 || at + 1 >= self.key.len() {
                break;
            }
            // Many rows may have the same value here: then they are told apart by the next column.
            let condition = format!("{} AND {}", equal(self.key, &low[..=at])?, below(self.key, high)?);
            let order = self.order("DESC");
            let last = self.key(&format!("WHERE {condition} ORDER BY {order} LIMIT 1")).await?;
            at += 1;
            match last {
                Some(last) if last[at] != low[at] => top.clone_from(&last[at]),
                _ => break,
            }
        }
        // A sliver is no half: that way there is no end to it.
        Ok(best.filter(|(_, left, right)| left.min(right) >= &(rows / 50).max(1)))
    }

    /// Looks for a good middle between two keys, by halving what lies between `low` and `top` in column `at`.
    async fn guess(
        &mut self,
        style: Style,
        at: usize,
        top: &str,
        (low, high): (&Key, &Key),
        rows: u64,
        best: &mut Option<(Key, u64, u64)>,
    ) -> Result<()> {
        let (mut from, mut to) = (low[at].clone(), top.to_owned());
        let mut last = false;
        for _ in 0..GUESSES {
            let guess = match middle::between(&self.key[at], &from, &to, style) {
                Some(guess) => guess,
                // Between two neighbours: where the second begins, if more columns follow.
                None if !last && at + 1 < self.key.len() => {
                    last = true;
                    to.clone()
                }
                None => break,
            };
            let mut behind: Key = low[..at].to_vec();
            behind.push(guess.clone());
            // Strictly inside, whatever the server thinks of the guess.
            let condition = format!(
                "{} AND {} AND {}",
                at_least(self.key, &behind)?,
                below(self.key, high)?,
                above(self.key, low)?
            );
            let order = self.order("ASC");
            let found = self.key(&format!("WHERE {condition} ORDER BY {order} LIMIT 1")).await?;
            let mut left_is_small = false;
            if let Some(found) = found {
                let (left, right) = (self.rows(low, &found).await?, self.rows(&found, high).await?);
                let smaller = left.min(right);
                left_is_small = left < right;
                let value = found[at].clone();
                if smaller > best.as_ref().map_or(0, |b| b.1.min(b.2)) {
                    *best = Some((found, left, right));
                }
                if smaller >= rows / 5 {
                    break;
                }
                if left_is_small {
                    // Nothing lies between the guess and what was found.
                    from = value;
                }
            }
            if last {
                break;
            }
            if !left_is_small {
                // Likewise between the guess and the last key before it.
                let condition = format!("{} AND {}", below(self.key, &behind)?, above(self.key, low)?);
                let order = self.order("DESC");
                match self.key(&format!("WHERE {condition} ORDER BY {order} LIMIT 1")).await? {
                    Some(last) => to = last[at].clone(),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Cuts between two keys by counting off rows in the index.
    async fn walk(&mut self, low: &Key, high: &Key) -> Result<()> {
        let mut last = low.clone();
        let order = self.order("ASC");
        while (self.cuts.len() as u64) < MOST {
            let condition = format!("{} AND {}", above(self.key, &last)?, below(self.key, high)?);
            let rest = format!("WHERE {condition} ORDER BY {order} LIMIT 1 OFFSET {}", self.step.saturating_sub(1));
            let Some(next) = self.key(&rest).await? else { break };
            self.cuts.push(next.clone());
            last = next;
        }
        Ok(())
    }
}

/// Cuts of an integer key whose values lie close together, from what its ends are.
fn dense(column: &KeyColumn, first: &Key, last: &Key, rows: u64, count: u64) -> Option<Vec<Key>> {
    if !matches!(column.kind, crate::types::Kind::Int { .. }) {
        return None;
    }
    let (first, last) = (first.first()?.parse::<i128>().ok()?, last.first()?.parse::<i128>().ok()?);
    let width = last - first + 1;
    if width > i128::from(rows).saturating_mul(2) {
        return None;
    }
    let count = i128::from(count).min(width);
    Some((1..count).map(|i| vec![(first + width * i / count).to_string()]).collect())
}

/// The error of a table that is not the planned one any more.
pub fn changed(plan: &TablePlan, how: Error) -> Error {
    let mut error = Error::new(
        drover_model::error::codes::TABLE_CHANGED,
        how.fault,
        drover_model::Retry::Never,
        "the table changed while it was copied",
    )
    .table(&plan.source)
    .remedy("start the migration again, and change no selected table before the changes are flowing");
    error.causes.push(how.message);
    error.causes.extend(how.causes);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::plan::PlanColumn;
    use drover_model::schema::{DataType, TableName};

    fn plan(t: &str) -> TablePlan {
        let column = PlanColumn::new("k", DataType::Other, t);
        TablePlan { key: vec![0], ..TablePlan::new(0, TableName::new("a", "b"), vec![column]) }
    }

    #[test]
    fn dense_keys_are_cut_by_arithmetic_and_sparse_ones_are_not() {
        let key = key_columns(&plan("bigint unsigned"));
        let cut = |first: &str, last: &str, rows, count| {
            let found = dense(&key[0], &vec![first.to_owned()], &vec![last.to_owned()], rows, count);
            found.map(|c| c.into_iter().flatten().collect::<Vec<_>>())
        };
        assert_eq!(cut("0", "99", 100, 4), Some(vec!["25".into(), "50".into(), "75".into()]));
        assert_eq!(cut("-50", "49", 60, 2), Some(vec!["0".into()]));
        assert_eq!(cut("18446744073709551615", "18446744073709551615", 9, 4), Some(vec![]));
        assert_eq!(cut("1", "18446744073709551615", 1000, 4), None);
        // No count of cuts exceeds the values there are.
        assert_eq!(cut("1", "3", 3, 100), Some(vec!["2".into(), "3".into()]));
        let dates = key_columns(&plan("date"));
        assert_eq!(dense(&dates[0], &vec!["1".into()], &vec!["9".into()], 9, 3), None);
    }
}
