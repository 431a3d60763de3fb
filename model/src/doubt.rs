//! What a destination wants to know of values before a migration starts, where a column's type alone does not say whether they fit; and what a
//! look at the source's rows found. Neither names a database: the destination says what does not fit, the source finds it in its own words.

use serde::{Deserialize, Serialize};

/// Values that a destination's column has no place for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Bytes that are no text of their character set, and the character of number 0.
    NoText,
    /// Documents with the character of number 0 in a text.
    ZeroInJson,
    /// Documents with a number that neither 64 bits nor a double hold with all of its digits.
    LongNumberInJson,
    /// Dates with a zero in them, or that the calendar does not have.
    NoDate,
    /// Dates before the year 1 or after 9999, and the infinite ones.
    FarDate,
    /// Times below zero or beyond 24 hours.
    NoTimeOfDay,
    /// NaN and the infinities.
    NoNumber,
    /// Numbers with more digits than these (`scale` of them behind the point), NaN and the infinities.
    Digits { precision: u32, scale: u32 },
    /// Texts of more characters.
    Chars(u32),
    /// More bytes.
    Bytes(u64),
}

impl Doubt {
    /// What does not fit, for people: completes "N values: …".
    pub fn what(&self) -> String {
        match self {
            Doubt::NoText => {
                "texts with the character of number 0, or bytes that are no character of their set".to_owned()
            }
            Doubt::ZeroInJson => "JSON that names the character of number 0 (\\u0000)".to_owned(),
            Doubt::LongNumberInJson => "JSON with a number of more digits than the destination keeps".to_owned(),
            Doubt::NoDate => "dates with a zero in them, or that do not exist".to_owned(),
            Doubt::FarDate => "infinity, or years before 1 or after 9999".to_owned(),
            Doubt::NoTimeOfDay => "times below 0 or beyond 24 hours".to_owned(),
            Doubt::NoNumber => "NaN or infinity".to_owned(),
            Doubt::Digits { precision, scale } => format!(
                "NaN, infinity, or more than {} digits before the point or {scale} behind it",
                precision.saturating_sub(*scale)
            ),
            Doubt::Chars(n) => format!("texts of more than {n} characters"),
            Doubt::Bytes(n) => format!("more than {n} bytes"),
        }
    }
}

/// What a destination takes for equal in texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folding {
    /// Its name for that; a source of its family may know it.
    pub collation: String,
    pub case: bool,
    pub accents: bool,
    /// Spaces at the end.
    pub spaces: bool,
}

/// A unique key whose values may be equal at the destination and differ at the source. Columns by their place in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDoubt {
    pub name: String,
    pub columns: Vec<(u16, Option<Folding>)>,
}

/// What is in doubt in a table. Columns by their place in the plan, each at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableDoubts {
    pub values: Vec<(u16, Doubt)>,
    pub keys: Vec<KeyDoubt>,
}

impl TableDoubts {
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.keys.is_empty()
    }
}

/// Examples that a scan gives of each finding.
pub const EXAMPLES: usize = 5;

/// What a look at a table's rows found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scanned {
    pub rows: u64,
    /// For each of the doubts about values, in order: how many rows, and keys of the first few.
    pub values: Vec<(u64, Vec<String>)>,
    /// For each of the doubts about keys, in order.
    pub keys: Vec<Alike>,
}

impl Scanned {
    /// Nothing found yet.
    pub fn none(doubts: &TableDoubts) -> Scanned {
        Scanned { values: vec![(0, Vec::new()); doubts.values.len()], ..Scanned::default() }
    }
}

/// Keys that are equal at the destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alike {
    /// Values that more than one row has there.
    pub values: u64,
    /// Of the first few: two of the keys.
    pub examples: Vec<String>,
    /// Another comparison than the destination's own, which takes more for equal.
    pub rough: bool,
}

/// What a check found in the rows, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// At the source.
    pub table: String,
    pub columns: Vec<String>,
    pub count: u64,
    /// Keys of the first few rows.
    pub keys: Vec<String>,
}

/// Values of a column that its policy (`on_misfit`) changed on their way to the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Of the source.
    pub table: String,
    pub column: String,
    /// As the migration file writes it.
    pub policy: String,
    /// How often such a value was written.
    pub count: u64,
    /// The first such value.
    pub example: String,
    /// The first few with their rows.
    #[serde(default)]
    pub values: Vec<Changed>,
}

/// A value that became another one, for people: long ones are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Of its row; empty if that has none.
    pub key: String,
    pub before: String,
    /// `None`: null.
    pub after: Option<String>,
}

/// Values of a column that are named by one transaction, at most. All that are kept of a column are a few times as many.
pub const NAMED: usize = 20;

impl Changed {
    /// One line for each, as a destination keeps them.
    pub fn lines(all: &[Changed]) -> String {
        all.iter().filter_map(|c| serde_json::to_string(c).ok()).collect::<Vec<_>>().join("\n")
    }

    /// What [`Changed::lines`] wrote.
    pub fn of_lines(text: &str) -> Vec<Changed> {
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl std::fmt::Display for Replaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Replaced { table, column, policy, count, example, .. } = self;
        write!(
            f,
            "{table}.{column}: {count} values did not fit and were changed by on_misfit = \"{policy}\", the first of them {example}"
        )
    }
}
