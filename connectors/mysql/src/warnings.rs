//! Warnings of the server about values that were written. Guarantee: a statement that changed a value, or left a row out, is an error that
//! says where; only what is said about the statement itself (deprecated words) is let pass.

use crate::connect::Session;
use crate::shape::{Column, Shape};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};

/// Numbers of warnings about words in a statement, not about values: deprecated syntax, aliases of character sets, collations.
const ABOUT_WORDS: [u16; 7] = [1287, 1681, 3135, 3719, 3720, 3778, 3090];

/// How many are named.
const NAMED: usize = 5;

/// One warning.
pub(crate) type Warning = (String, u16, String);

/// The error that these warnings make, if any of them is about a value. `more`: how many there were in all.
pub(crate) fn error(warnings: &[Warning], fault: Fault, shape: &Shape) -> Option<Error> {
    let serious: Vec<&Warning> = warnings.iter().filter(|w| !ABOUT_WORDS.contains(&w.1)).collect();
    let first = serious.first()?;
    // Rows that collide are skipped by LOAD DATA LOCAL with a warning of this number.
    let collided = first.1 == 1062;
    let (code, what, remedy) = if collided {
        (
            codes::STATEMENT,
            "rows collide with others at the destination",
            "empty the table, or see whether a unique key of the destination takes values for equal that differ at the source",
        )
    } else {
        (
            codes::LOSS,
            "the destination would not keep values as they are",
            "give the destination's column a type and character set that holds the source's values, or leave the column out",
        )
    };
    let mut error = Error::new(code, fault, Retry::Other, what).table(&shape.name).remedy(remedy);
    error.causes.extend(serious.iter().take(NAMED).map(|(_, number, text)| format!("{text} (warning {number})")));
    if serious.len() > NAMED {
        error.causes.push(format!("and {} more", serious.len() - NAMED));
    }
    // Only for people: servers write the name in these two ways.
    let says =
        |text: &str, c: &Column| text.contains(&c.name) || text.contains(&format!("'{}'", c.name.trim_matches('`')));
    let column = serious.iter().find_map(|w| shape.columns.iter().find(|c| says(&w.2, c)));
    if let Some(column) = column {
        error = error.column(column.name.trim_matches('`'));
    }
    Some(error)
}

/// Reads the warnings of the statement before, of which there are some, and refuses what it did, unless they are about words only.
pub(crate) async fn refuse(session: &mut Session, shape: &Shape) -> Result<()> {
    let warnings: Vec<Warning> = session.all("SHOW WARNINGS", "cannot read the server's warnings").await?;
    if warnings.is_empty() {
        // The account may not be allowed to set it for its session.
        let what = "the destination may not have kept values as they are: it counts warnings and does not keep them";
        let error = Error::new(codes::LOSS, session.fault, Retry::Other, what).table(&shape.name);
        return Err(error.remedy("SET GLOBAL max_error_count = DEFAULT at the destination, then the values are named"));
    }
    match error(&warnings, session.fault, shape) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
