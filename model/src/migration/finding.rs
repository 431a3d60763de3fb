//! What is wrong with a migration file, said so that the operator can put it right: place, cause, remedy.
//!
//! Guarantee: no finding repeats a value that may hold a password.

use std::fmt;

/// One fault of a migration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file as the operator named it.
    pub file: String,
    /// Line of the key or value at fault, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the key, such as `objects[1].include[0]`; empty for a fault of TOML's syntax.
    pub key: String,
    /// What is wrong, one line.
    pub message: String,
    /// What to do about it, one line; may be empty.
    pub remedy: String,
}

impl fmt::Display for Finding {
    /// `shop.toml:12: message; remedy`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Finding {}

/// Line and column (from 1, in characters) of a byte offset of `text`.
pub(super) fn place(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The known word that `word` most likely stands for; none if all of them are far off.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed || is_start(word, candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether one word (of three letters at least) begins the other: `user` and `username`, `operation` and `operations`.
fn is_start(one: &str, other: &str) -> bool {
    one.len().min(other.len()) >= 3 && (one.starts_with(other) || other.starts_with(one))
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Words of a key's length only: nobody misspells a key by a hundred letters, and the table is quadratic.
    if one.len().abs_diff(other.len()) > 8 {
        return usize::MAX;
    }
    let width = other.len() + 1;
    let mut cost = vec![0usize; (one.len() + 1) * width];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            cost[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = usize::from(one[i - 1] != other[j - 1]);
                let mut best = (cost[(i - 1) * width + j] + 1)
                    .min(cost[i * width + j - 1] + 1)
                    .min(cost[(i - 1) * width + j - 1] + changed);
                if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                    best = best.min(cost[(i - 2) * width + j - 2] + 1);
                }
                best
            };
        }
    }
    cost[one.len() * width + other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_the_usual_slips() {
        let known = ["include", "exclude", "rename", "where", "columns", "operations"];
        for (word, wanted) in [
            ("inclued", Some("include")),
            ("includes", Some("include")),
            ("wher", Some("where")),
            ("Rename", Some("rename")),
            ("operation", Some("operations")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), wanted, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(place("a\nbü = 1", 2), (2, 1));
        assert_eq!(place("a\nbü = 1", 5), (2, 3));
        assert_eq!(place("a\nbü", 4), (2, 2), "inside of a character");
        assert_eq!(place("a", 99), (1, 2));
    }
}
