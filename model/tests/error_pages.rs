//! Every error code has a page that an operator can read, and no page speaks of a code that is gone.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The codes as `model/src/error.rs` declares them, in order: constants cannot be listed at run time.
fn declared() -> Vec<String> {
    let source = fs::read_to_string(root().join("model/src/error.rs")).expect("the module of the codes");
    let (_, codes) = source.split_once("pub mod codes").expect("a module of codes");
    let lines = codes.lines().filter(|l| l.trim_start().starts_with("pub const "));
    lines.map(|l| l.split('"').nth(1).expect("a code in quotes").to_owned()).collect()
}

fn pages() -> BTreeSet<String> {
    let files = fs::read_dir(root().join("docs/errors")).expect("the folder of the pages");
    let names = files.map(|f| f.expect("a file").file_name().into_string().expect("a readable name"));
    names.filter(|n| n != "README.md").map(|n| n.trim_end_matches(".md").to_owned()).collect()
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let declared = declared();
    let codes: BTreeSet<String> = declared.iter().cloned().collect();
    assert_eq!(codes.len(), declared.len(), "a code is given twice: {declared:?}");
    assert!(codes.contains(drover_model::error::codes::INTERNAL) && codes.contains(drover_model::error::codes::STATE));
    for code in &codes {
        let number = code.strip_prefix("DR").unwrap_or_default();
        assert!(number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()), "{code} is not of the form DR0000");
    }
    assert_eq!(codes, pages());
}

#[test]
fn pages_are_titled_listed_and_say_what_to_do() {
    let index = fs::read_to_string(root().join("docs/errors/README.md")).expect("the index");
    for code in pages() {
        let page = fs::read_to_string(root().join(format!("docs/errors/{code}.md"))).expect("the page");
        assert!(page.starts_with(&format!("# {code}: ")), "the title of {code}");
        for part in ["\n- Whose matter: ", "Tried again: ", "\n## "] {
            assert!(page.contains(part), "{code} does not have {part:?}");
        }
        assert!(index.contains(&format!("[{code}]({code}.md)")), "{code} is not in the index");
    }
}
