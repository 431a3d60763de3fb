//! What all of a run share: the seeded choices, the trace and its hash, what was reached, and the first promise that was seen broken.

use crate::machine;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Arguments, Write as _};
use std::time::Duration;

/// Lines of the trace that are kept for a failure's report.
const KEPT: usize = 400;

/// See the module.
#[derive(Default)]
pub struct Sim {
    state: u64,
    hash: u64,
    steps: u64,
    line: String,
    print: bool,
    last: VecDeque<String>,
    reached: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    comparisons: u64,
    violation: Option<String>,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub hash: u64,
    pub steps: u64,
    /// Failpoints that were passed, and how often.
    pub reached: BTreeMap<String, u64>,
    /// What went wrong on purpose, and how often.
    pub faults: BTreeMap<&'static str, u64>,
    /// States of the destination that were compared with the source's.
    pub comparisons: u64,
    /// The first broken promise.
    pub violation: Option<String>,
    /// The end of the trace.
    pub last: VecDeque<String>,
}

thread_local! {
    static SIM: RefCell<Sim> = RefCell::default();
}

fn with<T>(f: impl FnOnce(&mut Sim) -> T) -> T {
    SIM.with_borrow_mut(f)
}

/// Begins a run. `print`: the trace goes to standard output.
pub fn begin(seed: u64, print: bool) {
    let (state, _) = machine::mix(seed ^ 0x5eed);
    with(|s| *s = Sim { state, print, hash: seed, ..Sim::default() });
}

/// Ends it.
pub fn end() -> Report {
    with(|s| {
        let s = std::mem::take(s);
        Report {
            hash: s.hash,
            steps: s.steps,
            reached: s.reached,
            faults: s.faults,
            comparisons: s.comparisons,
            violation: s.violation,
            last: s.last,
        }
    })
}

/// A number below `n`; 0 if that is 0.
pub fn below(n: u64) -> u64 {
    with(|s| {
        let (state, value) = machine::mix(s.state);
        s.state = state;
        if n == 0 { 0 } else { value % n }
    })
}

/// A number from `from` up to and without `to`.
pub fn between(from: u64, to: u64) -> u64 {
    from + below(to.saturating_sub(from))
}

/// Whether something of this probability, in a million, happens.
pub fn chance(in_a_million: u64) -> bool {
    in_a_million > 0 && below(1_000_000) < in_a_million
}

/// One of these.
pub fn pick<T>(all: &[T]) -> Option<&T> {
    all.get(below(all.len() as u64) as usize)
}

/// Milliseconds from `from` up to and without `to`.
pub fn ms(from: u64, to: u64) -> Duration {
    Duration::from_millis(between(from, to))
}

/// A step of the run: it belongs to the trace.
pub fn note(what: Arguments<'_>) {
    let at = machine::elapsed() / 1_000;
    with(|s| {
        s.steps += 1;
        let mut line = std::mem::take(&mut s.line);
        line.clear();
        // Writing to a String does not fail.
        let _ = write!(line, "{:>12.6} {what}", at as f64 / 1e6);
        s.hash = xxhash_rust::xxh3::xxh3_64_with_seed(line.as_bytes(), s.hash);
        if s.print {
            println!("{line}");
        }
        if s.last.len() >= KEPT {
            s.line = s.last.pop_front().unwrap_or_default();
        }
        s.last.push_back(line);
    });
}

/// [`note`] with a format.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::sim::note(format_args!($($arg)*)) };
}

/// Something goes wrong on purpose.
pub fn fault(name: &'static str) {
    with(|s| *s.faults.entry(name).or_default() += 1);
}

/// A failpoint is passed.
pub fn reach(name: &str) {
    with(|s| match s.reached.get_mut(name) {
        Some(n) => *n += 1,
        None => drop(s.reached.insert(name.to_owned(), 1)),
    });
}

/// A state of the destination was compared with the source's.
pub fn compared() {
    with(|s| s.comparisons += 1);
}

/// A promise is broken. The first one counts.
pub fn violated(what: String) {
    note(format_args!("BROKEN: {what}"));
    with(|s| s.violation = s.violation.take().or(Some(what)));
}

/// Whether a promise was broken.
pub fn is_violated() -> bool {
    with(|s| s.violation.is_some())
}

/// So many steps were made.
pub fn steps() -> u64 {
    with(|s| s.steps)
}
