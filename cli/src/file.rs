//! Reading the migration file.

use drover_model::error::codes;
use drover_model::migration::{Floats, Migration};
use drover_model::{Error, Fault, Result, Retry};
use std::path::{Path, PathBuf};

/// Reads and checks a migration file. All its faults are in the error's text, one line each.
pub fn read(path: &Path) -> Result<Migration> {
    let usage = |what: String| Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, what);
    let text = std::fs::read_to_string(path)
        .map_err(|e| usage(format!("cannot read the migration file {}", path.display())).cause(e))?;
    let origin = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let unusable = |lines: String| usage(format!("the migration file cannot be used\n{lines}"));
    let migration = Migration::parse(&text, &origin, &drover_connectors_all::kinds()).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        unusable(lines.join("\n"))
    })?;
    match unable(&migration) {
        Some(fault) => Err(unusable(format!("{}: {fault}", origin.display()))),
        None => Ok(migration),
    }
}

/// What the file asks for and the connectors state that they cannot do.
fn unable(migration: &Migration) -> Option<String> {
    let connector = drover_connectors_all::find(&migration.source.kind)?;
    let (about, rounds) = (connector.about(), migration.floats == Some(Floats::Round));
    (rounds && !about.source.as_ref().is_some_and(|s| s.rounds_floats)).then(|| {
        format!(
            "migrate.floats is \"round\", which {} as source does not know; remove it: its floating point numbers are read with all their digits",
            about.title
        )
    })
}

/// Where `run` keeps its state, unless told otherwise.
pub fn state_dir(file: &Path, name: &str, given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| file.parent().unwrap_or(Path::new("")).join(".drover").join(name))
}
