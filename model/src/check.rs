//! Items of the precheck: each with result, cause and remedy.

use crate::doubt::Found;
use serde::{Deserialize, Serialize};

/// How an item came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Warning,
    Failed,
    Skipped,
}

/// One item of the precheck about one object. `item` is the number of requirement, for example `K25`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckItem {
    pub item: String,
    pub result: Outcome,
    /// What was looked at: an endpoint, a table, a setting.
    pub object: String,
    #[serde(default)]
    pub cause: String,
    #[serde(default)]
    pub remedy: String,
    /// What a look at the rows found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

impl CheckItem {
    pub fn new(item: &str, result: Outcome, object: impl Into<String>) -> Self {
        CheckItem {
            item: item.into(),
            result,
            object: object.into(),
            cause: String::new(),
            remedy: String::new(),
            found: None,
        }
    }
    pub fn passed(item: &str, object: impl Into<String>) -> Self {
        Self::new(item, Outcome::Passed, object)
    }
    /// K1 or K3 of a connection that came about: as whom, and from which address as the server sees it (`None`: by a socket of its machine).
    /// Accounts and allow-list entries that nobody needs after the migration are told from it, see [`left_behind`].
    pub fn connected(item: &str, object: &str, account: &str, from: Option<&str>) -> Self {
        let from = from.map_or_else(|| "by a local socket".to_owned(), |a| format!("from {a}"));
        CheckItem { cause: format!("as {account} {from}"), ..Self::passed(item, object) }
    }
    pub fn failed(item: &str, object: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        CheckItem { cause: cause.into(), remedy: remedy.into(), ..Self::new(item, Outcome::Failed, object) }
    }
    pub fn warning(item: &str, object: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        CheckItem { cause: cause.into(), remedy: remedy.into(), ..Self::new(item, Outcome::Warning, object) }
    }
    pub fn skipped(item: &str, object: impl Into<String>, cause: impl Into<String>) -> Self {
        CheckItem { cause: cause.into(), ..Self::new(item, Outcome::Skipped, object) }
    }
}

/// What the operator may take away when the migration is over, a line a side: the account that was made for it, and the entry that lets its
/// address in. Workers on other machines come from their own addresses.
pub fn left_behind(items: &[CheckItem]) -> Vec<String> {
    let met =
        |i: &&CheckItem| i.result == Outcome::Passed && ["K1", "K3"].contains(&i.item.as_str()) && !i.cause.is_empty();
    items
        .iter()
        .filter(met)
        .map(|i| {
            format!(
                "{}: drover came {}; drop the account and its allow-list entries if nothing else needs them",
                i.object, i.cause
            )
        })
        .collect()
}

/// Whether nothing failed: warnings do not block.
pub fn passed(items: &[CheckItem]) -> bool {
    items.iter().all(|i| i.result != Outcome::Failed)
}
