//! What is measured, and how much of it: from the environment, so that `make bench ROWS=200000` works.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// What can be named in `ONLY`.
pub const PARTS: [&str; 6] = ["pipe", "pgcopydb", "drover", "cluster", "native", "memory"];

/// The choices of one run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rows of each of the two tables.
    pub rows: u64,
    /// Transactions of one updated row each.
    pub singles: u64,
    /// Rows that the bulk transactions update, all together.
    pub bulk: u64,
    /// Rows of one bulk transaction.
    pub bulk_transaction: u64,
    /// Rows of the table that changes.
    pub changing: u64,
    /// How often each thing is measured; the better run counts.
    pub rounds: u32,
    /// Jobs of pgcopydb for tables, and as many for indexes.
    pub jobs: u32,
    /// Major version of both servers.
    pub version: u32,
    /// Extractors and appliers of each cluster that is measured.
    pub clusters: Vec<(u32, u32)>,
    /// Some of [`PARTS`].
    pub parts: Vec<String>,
    /// Where the report goes as JSON.
    pub json: String,
}

impl Options {
    /// Reads them; a value that makes no sense is an error.
    pub fn from_env() -> Result<Options> {
        let quick = text("QUICK").is_some_and(|value| value != "0");
        let by_size = |full: u64, small: u64| if quick { small } else { full };
        let rows = number("ROWS", by_size(2_000_000, 200_000))?;
        let parts: Vec<String> = match text("ONLY") {
            None => PARTS.iter().map(|part| (*part).to_owned()).collect(),
            Some(list) => list.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        };
        if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            bail!("ONLY names {unknown}; there are {}", PARTS.join(", "));
        }
        let clusters = text("CLUSTERS").unwrap_or_else(|| "1+1 1+2".to_owned());
        let shape = |word: &str| -> Result<(u32, u32)> {
            let (extractors, appliers) =
                word.split_once('+').with_context(|| format!("CLUSTERS is a list like 1+1 1+2, not {word}"))?;
            Ok((extractors.parse()?, appliers.parse()?))
        };
        Ok(Options {
            rows,
            singles: number("SINGLES", by_size(500_000, 20_000))?,
            bulk: number("BULK", by_size(1_000_000, 200_000))?,
            bulk_transaction: number::<u64>("BULK_TRANSACTION", by_size(200_000, 100_000))?.max(1),
            changing: number("CHANGING", by_size(1_000_000, 200_000))?,
            rounds: number("ROUNDS", by_size(2, 1))?,
            jobs: number("JOBS", 2)?,
            version: number("VERSION", 15)?,
            clusters: clusters.split_whitespace().map(shape).collect::<Result<_>>()?,
            parts,
            json: text("JSON").unwrap_or_else(|| "target/bench.json".to_owned()),
        })
    }

    /// Whether a part was asked for.
    pub fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|named| named == part)
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: TryFrom<u64>>(name: &str, default: u64) -> Result<T> {
    let value = match text(name) {
        Some(value) => u64::from_str(&value.replace('_', "")).with_context(|| format!("{name}={value}"))?,
        None => default,
    };
    T::try_from(value).ok().with_context(|| format!("{name}={value} is too large"))
}
