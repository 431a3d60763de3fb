//! Collations and character sets under the names that a destination knows.
//!
//! Both flavors share the old ones. Those of Unicode 9 (MySQL 8, `utf8mb4_0900_*`) and of Unicode 14 (MariaDB 10.10,
//! `utf8mb4_uca1400_*`) stand for each other: they agree in what is equal for all but rare characters. Newer MariaDB knows most of MySQL's by
//! name.

use super::Known;

/// What becomes of a collation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collation {
    /// The destination has it (perhaps under the other name of utf8mb3).
    Same(String),
    /// The nearest one that it has.
    Nearest(String),
}

impl Collation {
    pub fn name(&self) -> &str {
        match self {
            Collation::Same(name) | Collation::Nearest(name) => name,
        }
    }
}

/// A character set at the destination; `None`: it does not have it.
pub fn charset(name: &str, known: &Known) -> Option<String> {
    let name = name.to_ascii_lowercase();
    if known.charsets.contains(&name) {
        return Some(name);
    }
    let other = match name.as_str() {
        "utf8" => "utf8mb3",
        "utf8mb3" => "utf8",
        _ => return None,
    };
    known.charsets.contains(other).then(|| other.to_owned())
}

/// Languages of MySQL's Unicode 9 collations as MariaDB calls them.
const LANGUAGES: [(&str, &str); 21] = [
    ("de_pb", "german2"),
    ("is", "icelandic"),
    ("lv", "latvian"),
    ("ro", "romanian"),
    ("sl", "slovenian"),
    ("pl", "polish"),
    ("et", "estonian"),
    ("es", "spanish"),
    ("sv", "swedish"),
    ("tr", "turkish"),
    ("cs", "czech"),
    ("da", "danish"),
    ("lt", "lithuanian"),
    ("sk", "slovak"),
    ("es_trad", "spanish2"),
    ("la", "roman"),
    ("eo", "esperanto"),
    ("hu", "hungarian"),
    ("hr", "croatian"),
    ("vi", "vietnamese"),
    ("nb", "danish"),
];

/// The same or nearest collation. `charset` is the destination's name of the character set.
pub fn collation(name: &str, charset: &str, known: &Known) -> Collation {
    let name = name.to_ascii_lowercase();
    let has = |n: &str| known.collations.contains(n);
    if has(&name) {
        return Collation::Same(name);
    }
    // utf8_x and utf8mb3_x are one.
    let set = name.split('_').next().unwrap_or_default().to_owned();
    let tail = name.strip_prefix(set.as_str()).unwrap_or_default().trim_start_matches('_').to_owned();
    let here = |tail: &str| format!("{charset}_{tail}");
    if matches!(set.as_str(), "utf8" | "utf8mb3") && has(&here(&tail)) {
        return Collation::Same(here(&tail));
    }
    let nearest = candidates(&tail).into_iter().map(|t| here(&t)).find(|n| has(n));
    Collation::Nearest(nearest.unwrap_or_else(|| known.default_collation(charset)))
}

/// Names without the character set, nearest first.
fn candidates(tail: &str) -> Vec<String> {
    let words: Vec<&str> = tail.split('_').collect();
    let ends = |end: &str| tail.ends_with(end);
    let sense = ["as_cs", "as_ci", "ai_cs", "ai_ci"].into_iter().find(|s| tail.trim_end_matches("_ks").ends_with(s));
    let mut out = Vec::new();
    let language = |of: fn(&(&'static str, &'static str)) -> &'static str, wanted: &str| {
        LANGUAGES.iter().find(|l| of(l) == wanted).copied()
    };
    if tail == "0900_bin" || tail == "nopad_bin" {
        out.extend(["0900_bin".into(), "nopad_bin".into()]);
    } else if let (Some(at), Some(sense)) = (words.iter().position(|w| *w == "0900"), sense) {
        if let Some((_, theirs)) = language(|l| l.0, &words[..at].join("_")) {
            out.push(format!("uca1400_{theirs}_nopad_{sense}"));
        }
        out.push(format!("uca1400_nopad_{sense}"));
    } else if let (Some("uca1400"), Some(sense)) = (words.first().copied(), sense) {
        let middle = words.get(1).copied().filter(|w| !matches!(*w, "nopad" | "ai" | "as"));
        // Unicode 9 has no "accents do not count, case does".
        let theirs = if sense == "ai_cs" { "as_cs" } else { sense };
        if let Some((ours, _)) = middle.and_then(|m| language(|l| l.1, m)) {
            out.push(format!("{ours}_0900_{theirs}"));
        }
        out.push(format!("0900_{theirs}"));
        if let Some(middle) = middle {
            out.push(format!("{middle}_ci"));
        }
    } else if let Some(plain) = tail.strip_suffix("_nopad_ci") {
        // Those that do not ignore trailing spaces are MariaDB's.
        out.push(format!("{plain}_ci"));
    } else if ends("1400_as_ci") {
        out.push("0900_as_ci".into());
    }
    match sense {
        // Where accents or case count, what is different must stay different: unique keys would refuse rows.
        Some("as_cs" | "ai_cs") => out.extend(["0900_as_cs".into(), "uca1400_nopad_as_cs".into()]),
        Some("as_ci") => out.extend(["0900_as_ci".into(), "uca1400_nopad_as_ci".into()]),
        _ => {}
    }
    if sense.is_some_and(|s| s != "ai_ci") || ends("bin") {
        out.extend(["nopad_bin".into(), "0900_bin".into(), "bin".into()]);
    }
    out.extend(["unicode_520_nopad_ci", "unicode_520_ci", "unicode_ci", "general_ci"].map(String::from));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flavor::Version;

    fn known(version: &str, collations: &[&str]) -> Known {
        Known {
            version: Version::parse(version).unwrap(),
            collations: collations.iter().map(|c| (*c).to_owned()).collect(),
            defaults: [("utf8mb4".to_owned(), "utf8mb4_general_ci".to_owned())].into(),
            charsets: ["utf8mb4", "utf8mb3", "latin1"].map(String::from).into(),
            engines: ["INNODB".to_owned()].into(),
            lower_case: false,
        }
    }

    #[test]
    fn between_the_flavors() {
        let maria = known(
            "10.11.1-MariaDB",
            &[
                "utf8mb4_uca1400_nopad_ai_ci",
                "utf8mb4_uca1400_german2_nopad_as_cs",
                "utf8mb4_uca1400_nopad_as_cs",
                "utf8mb4_nopad_bin",
                "utf8mb3_general_ci",
                "utf8mb4_unicode_ci",
            ],
        );
        let to = |n: &str, k: &Known| collation(n, "utf8mb4", k);
        let near = |n: &str| Collation::Nearest(n.to_owned());
        assert_eq!(to("utf8mb4_0900_ai_ci", &maria), near("utf8mb4_uca1400_nopad_ai_ci"));
        assert_eq!(to("utf8mb4_de_pb_0900_as_cs", &maria), near("utf8mb4_uca1400_german2_nopad_as_cs"));
        assert_eq!(to("utf8mb4_ja_0900_as_cs_ks", &maria), near("utf8mb4_uca1400_nopad_as_cs"));
        assert_eq!(to("utf8mb4_0900_bin", &maria), near("utf8mb4_nopad_bin"));
        assert_eq!(collation("utf8_general_ci", "utf8mb3", &maria), Collation::Same("utf8mb3_general_ci".into()));
        let old = known("10.3.1-MariaDB", &["utf8mb4_unicode_520_ci", "utf8mb4_bin"]);
        assert_eq!(to("utf8mb4_0900_ai_ci", &old), near("utf8mb4_unicode_520_ci"));
        assert_eq!(to("utf8mb4_0900_as_cs", &old), near("utf8mb4_bin"));
        let my =
            known("8.0.36", &["utf8mb4_0900_ai_ci", "utf8mb4_is_0900_as_cs", "utf8mb4_0900_bin", "utf8mb4_general_ci"]);
        assert_eq!(to("utf8mb4_uca1400_ai_ci", &my), near("utf8mb4_0900_ai_ci"));
        assert_eq!(to("utf8mb4_uca1400_icelandic_nopad_as_cs", &my), near("utf8mb4_is_0900_as_cs"));
        assert_eq!(to("utf8mb4_nopad_bin", &my), near("utf8mb4_0900_bin"));
        assert_eq!(to("utf8mb4_general_nopad_ci", &my), near("utf8mb4_general_ci"));
        assert_eq!(charset("utf8", &my).as_deref(), Some("utf8mb3"));
        assert_eq!(charset("gb18030", &maria), None);
    }
}
