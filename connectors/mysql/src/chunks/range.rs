//! Ranges of keys as conditions. Comparisons of several columns are written out (`a > x OR (a = x AND b >= y)`), because neither
//! optimiser uses an index for row constructors. Text is compared with its own bytes under its own character set, so that neither
//! side of a comparison is converted and the index serves.
//!
//! Whatever order the server has: `at_least(x)` and `below(x)` split the rows of a table exactly, as no key column is null.

use crate::sql;
use crate::types::{Kind, MyType};
use drover_model::chunk::Bounds;
use drover_model::{Error, Result, TablePlan};

/// A column that chunks are cut by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// Quoted.
    pub name: String,
    pub kind: Kind,
    /// Of text.
    charset: Option<String>,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Less,
    Equal,
    Greater,
    AtLeast,
}

/// The columns of a plan's key by which ranges can be told, from its first one on: those whose values have a text that compares.
/// Rows with equal values of these are never parted.
pub fn key_columns(plan: &TablePlan) -> Vec<KeyColumn> {
    let columns = plan.key.iter().filter_map(|&k| plan.columns.get(usize::from(k)));
    columns
        .map_while(|c| {
            let t = MyType::parse(&c.origin_type)?;
            let comparable = !matches!(
                t.kind,
                Kind::Float { .. }
                    | Kind::Double { .. }
                    | Kind::Set { .. }
                    | Kind::Json
                    | Kind::Geometry { .. }
                    | Kind::Vector { .. }
            );
            comparable.then(|| KeyColumn::new(&c.source, &t))
        })
        .collect()
}

impl KeyColumn {
    pub fn new(name: &str, t: &MyType) -> KeyColumn {
        let charset = t.charset.clone().filter(|_| t.is_text());
        KeyColumn { name: sql::name(name), kind: t.kind.clone(), charset }
    }

    /// Whether its bounds are bytes, written in hexadecimal.
    fn is_bytes(&self) -> bool {
        matches!(
            self.kind,
            Kind::Char { .. }
                | Kind::VarChar { .. }
                | Kind::Text { .. }
                | Kind::Binary { .. }
                | Kind::VarBinary { .. }
                | Kind::Blob { .. }
        )
    }

    /// The character set of its text; `None`: it is bytes, or something else.
    pub fn charset(&self) -> Option<&str> {
        self.charset.as_deref()
    }

    /// A bound from what the server shows of a value.
    pub fn bound(&self, shown: &[u8]) -> String {
        if self.is_bytes() {
            return shown.iter().map(|b| format!("{b:02x}")).collect();
        }
        if let Kind::Bit { .. } = self.kind {
            return shown.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)).to_string();
        }
        String::from_utf8_lossy(shown).into_owned()
    }

    /// The bytes of a bound that are bytes.
    pub fn bytes(&self, bound: &str) -> Option<Vec<u8>> {
        if !self.is_bytes() || !bound.len().is_multiple_of(2) {
            return None;
        }
        (0..bound.len()).step_by(2).map(|i| u8::from_str_radix(bound.get(i..i + 2)?, 16).ok()).collect()
    }

    /// A bound as a literal of the column's own type.
    fn literal(&self, bound: &str) -> Result<String> {
        let wrong = || Error::internal(format!("{bound:?} is no bound of {}", self.name));
        if self.is_bytes() {
            self.bytes(bound).ok_or_else(wrong)?;
            let introducer = self.charset.as_ref().map(|c| format!("_{c} ")).unwrap_or_default();
            return Ok(format!("{introducer}X'{bound}'"));
        }
        match self.kind {
            Kind::Int { .. } | Kind::Year | Kind::Decimal { .. } | Kind::Bit { .. } => {
                let digits = bound.strip_prefix('-').unwrap_or(bound);
                let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                if number { Ok(bound.to_owned()) } else { Err(wrong()) }
            }
            _ => Ok(sql::text(bound)),
        }
    }

    fn compare(&self, op: Op, bound: &str) -> Result<String> {
        if let Kind::Enum { labels } = &self.kind {
            return self.compare_label(op, bound, labels);
        }
        let operator = match op {
            Op::Less => "<",
            Op::Equal => "=",
            Op::Greater => ">",
            Op::AtLeast => ">=",
        };
        Ok(format!("{} {operator} {}", self.name, self.literal(bound)?))
    }

    /// Labels are ordered by their definition in an index, but as texts by an operator: so they are listed. The empty value of a failed
    /// conversion is number 0, before all.
    fn compare_label(&self, op: Op, bound: &str, labels: &[String]) -> Result<String> {
        let at = labels.iter().position(|l| l == bound);
        if at.is_none() && !bound.is_empty() {
            return Err(Error::internal(format!("{bound:?} is no label of {}", self.name)));
        }
        // Numbers from 1; 0 is the empty one.
        let number = at.map_or(0, |i| i + 1);
        let chosen = match op {
            Op::Less => 0..number,
            Op::Equal => number..number + 1,
            Op::Greater => number + 1..labels.len() + 1,
            Op::AtLeast => number..labels.len() + 1,
        };
        if chosen.is_empty() {
            return Ok("FALSE".into());
        }
        let list: Vec<String> = chosen.map(|n| n.to_string()).collect();
        // A number is compared with the label's number.
        Ok(format!("{} IN ({})", self.name, list.join(", ")))
    }
}

/// `key >= bound`; bounds may be of the first columns only.
pub fn at_least(key: &[KeyColumn], bound: &[String]) -> Result<String> {
    beyond(key, bound, Op::Greater, Op::AtLeast)
}

/// `key > bound`.
pub fn above(key: &[KeyColumn], bound: &[String]) -> Result<String> {
    beyond(key, bound, Op::Greater, Op::Greater)
}

/// `key < bound`.
pub fn below(key: &[KeyColumn], bound: &[String]) -> Result<String> {
    beyond(key, bound, Op::Less, Op::Less)
}

/// `key = bound`.
pub fn equal(key: &[KeyColumn], bound: &[String]) -> Result<String> {
    let parts: Result<Vec<String>> = key.iter().zip(bound).map(|(k, b)| k.compare(Op::Equal, b)).collect();
    Ok(parts?.join(" AND "))
}

fn beyond(key: &[KeyColumn], bound: &[String], strict: Op, last: Op) -> Result<String> {
    let (Some(column), Some(value)) = (key.first(), bound.first()) else {
        return Err(Error::internal("a chunk's bounds do not fit its table's key"));
    };
    if bound.len() == 1 {
        return column.compare(last, value);
    }
    let here = column.compare(strict, value)?;
    let equal = column.compare(Op::Equal, value)?;
    let deeper = beyond(key.get(1..).unwrap_or_default(), &bound[1..], strict, last)?;
    Ok(format!("({here} OR ({equal} AND {deeper}))"))
}

/// The condition that a row lies within bounds; `None` where all do.
pub fn within(key: &[KeyColumn], bounds: &Bounds) -> Result<Option<String>> {
    let (from, to) = match bounds {
        Bounds::Whole => return Ok(None),
        Bounds::Keys { from, to } => (from, to),
        Bounds::Physical { .. } => return Err(Error::internal("rows have no physical places here")),
    };
    let mut parts = Vec::new();
    if let Some(from) = from {
        parts.push(at_least(key, from)?);
    }
    if let Some(to) = to {
        parts.push(below(key, to)?);
    }
    Ok((!parts.is_empty()).then(|| parts.join(" AND ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, t: &str) -> KeyColumn {
        KeyColumn::new(name, &MyType::parse(t).unwrap())
    }

    fn texts(bound: &[&str]) -> Vec<String> {
        bound.iter().map(|b| (*b).to_owned()).collect()
    }

    #[test]
    fn several_columns_are_written_out() {
        let key = [column("a", "int"), column("b", "varchar(9) character set latin1"), column("c", "binary(2)")];
        let bound = texts(&["5", "c4", "00ff"]);
        assert_eq!(
            at_least(&key, &bound).unwrap(),
            "(`a` > 5 OR (`a` = 5 AND (`b` > _latin1 X'c4' OR (`b` = _latin1 X'c4' AND `c` >= X'00ff'))))"
        );
        assert_eq!(below(&key[..2], &bound[..2]).unwrap(), "(`a` < 5 OR (`a` = 5 AND `b` < _latin1 X'c4'))");
        assert_eq!(at_least(&key, &bound[..1]).unwrap(), "`a` >= 5");
    }

    #[test]
    fn labels_go_by_their_numbers() {
        let key = [column("e", "enum('z','a','m') character set utf8mb4")];
        assert_eq!(at_least(&key, &texts(&["a"])).unwrap(), "`e` IN (2, 3)");
        assert_eq!(below(&key, &texts(&["a"])).unwrap(), "`e` IN (0, 1)");
        assert_eq!(above(&key, &texts(&["m"])).unwrap(), "FALSE");
        assert_eq!(below(&key, &texts(&[""])).unwrap(), "FALSE");
        assert!(below(&key, &texts(&["q"])).is_err());
    }

    #[test]
    fn bounds_are_no_way_into_a_statement() {
        for (kind, bound) in
            [("int", "1 or 1=1"), ("varbinary(9)", "0a'--"), ("varchar(9)", "0"), ("decimal(5,2)", "-")]
        {
            assert!(at_least(&[column("k", kind)], &texts(&[bound])).is_err(), "{bound}");
        }
        assert_eq!(at_least(&[column("k", "datetime")], &texts(&["it's"])).unwrap(), "`k` >= 'it''s'");
    }

    #[test]
    fn what_the_server_shows_becomes_a_bound() {
        assert_eq!(column("b", "bit(12)").bound(&[0x0a, 0x01]), "2561");
        assert_eq!(column("t", "text character set utf8mb4").bound("é".as_bytes()), "c3a9");
        assert_eq!(column("d", "date").bound(b"2024-01-31"), "2024-01-31");
    }
}
