//! The cutover: the last act of a migration. Pure, like all of the machine.
//!
//! It promises: when it is done, the destination held, table by table, the rows that the source held at the barrier, and nothing
//! selected had changed at the source between the barrier's mark and another one, written after the comparison. If anything
//! speaks against that it fails, says what, and the migration goes on as before.
//!
//! ```text
//! ZeroLag ──▶ Barrier ──▶ Sequences ──▶ Validating ──▶ Closing ──▶ Switching ──▶ Done
//!    ▲  mark, applied  mark, applied  read, set    digests of both   sequences    what waits for
//!    │                                             sides agree       again, mark, the switch,
//!    │                                                               applied      nothing is applied
//!    └── the applier was replaced after the barrier: nobody saw all changes since it
//! ```
//!
//! The applier tells with every news which tables changed last; as it notes a change before it applies it, hearing that the closing mark is
//! applied means having heard of every change before that. An applier that began after the barrier has not seen what the one before it
//! applied, so marks are taken anew. The first mark (zero lag) has its reason: a batch is known by its end, and may reach across a
//! mark; what was committed before zero lag lies in batches that end before the barrier.
//!
//! A cutover goes on only as long as somebody asks for it (see the desk): an operator who has left does not find the migration
//! ended at a moment of its own choice.

use crate::event::Event;
use crate::key::OrderKey;
use crate::machine::{Phase, State};
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Retry};
use drover_proto::order::{Outcome, Side};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Values of sequences: schema, name, last value, whether that was given out.
pub type Sequences = Vec<(String, String, i64, bool)>;

/// How far a cutover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    ZeroLag,
    Barrier,
    Sequences,
    Validating,
    Closing,
    /// It was right; appliers are shut out for good, and what waits for the switch (triggers, where drover's own writes would fire them) is made.
    Switching,
    Done,
    Failed,
}

impl Step {
    /// As JSON writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::ZeroLag => "zero_lag",
            Step::Barrier => "barrier",
            Step::Sequences => "sequences",
            Step::Validating => "validating",
            Step::Closing => "closing",
            Step::Switching => "switching",
            Step::Done => "done",
            Step::Failed => "failed",
        }
    }
}

/// The rows of one side of a table, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summed {
    pub rows: u64,
    pub sum: String,
}

/// A cutover, under way or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cutover {
    /// Which one of the migration's it is, from 1: who asked for it knows it by that.
    pub number: u32,
    /// Raised whenever marks are taken anew; unique over all cutovers of the migration.
    pub attempt: u32,
    pub step: Step,
    pub zero: Option<Position>,
    pub barrier: Option<Position>,
    pub closing: Option<Position>,
    pub sequences: Option<Sequences>,
    /// Names of those that were set.
    pub sequences_set: Option<BTreeSet<String>>,
    /// The sequences stood still until the comparison was over.
    pub sequences_stood: bool,
    /// Tables that are compared, and by table what each side holds.
    pub compared: BTreeSet<u32>,
    pub source: BTreeMap<u32, Summed>,
    pub destination: BTreeMap<u32, Summed>,
    /// How often tables that differed were looked at again.
    pub looks: u32,
    pub error: Option<Error>,
}

impl Cutover {
    fn new(number: u32, attempt: u32) -> Cutover {
        Cutover {
            number,
            attempt,
            step: Step::ZeroLag,
            zero: None,
            barrier: None,
            closing: None,
            sequences: None,
            sequences_set: None,
            sequences_stood: false,
            compared: BTreeSet::new(),
            source: BTreeMap::new(),
            destination: BTreeMap::new(),
            looks: 0,
            error: None,
        }
    }

    /// Neither done nor failed.
    pub fn is_running(&self) -> bool {
        self.step < Step::Done
    }

    /// Both sides of the table were summed up and are the same; `None`: not both yet.
    pub fn equal(&self, table: u32) -> Option<bool> {
        Some(self.source.get(&table)? == self.destination.get(&table)?)
    }

    fn differing(&self) -> impl Iterator<Item = u32> + '_ {
        self.compared.iter().copied().filter(|t| self.equal(*t) == Some(false))
    }
}

/// What can happen to a cutover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    Begun {
        number: u32,
        attempt: u32,
    },
    /// The mark of the present step (zero lag, barrier, closing) was written.
    Marked {
        position: Position,
    },
    /// The mark of zero lag, or of the barrier, is applied.
    Passed {
        compared: BTreeSet<u32>,
    },
    SequencesRead {
        values: Sequences,
    },
    SequencesSet {
        names: BTreeSet<String>,
    },
    SequencesStood,
    Summed {
        table: u32,
        side: Side,
        summed: Summed,
    },
    /// These tables differed: they are looked at again.
    LookAgain {
        tables: BTreeSet<u32>,
    },
    Compared,
    /// Marks are taken anew.
    Again {
        attempt: u32,
        why: String,
    },
    Failed {
        error: Error,
    },
    /// Nothing changed, and nothing differs.
    Agreed,
    Done,
}

/// Looks that a table which differs is given. A commit may be in the source's log before the source itself shows it.
const LOOKS: u32 = 3;

/// The marks' numbers in keys of orders.
const ZERO: u32 = 0;
const BARRIER: u32 = 1;
const CLOSING: u32 = 2;

/// What the applier tells of itself.
pub struct Applied<'a> {
    pub applied: &'a Position,
    pub from: Option<&'a Position>,
    pub changed: &'a [(u32, Position)],
}

fn failure(code: &str, retry: Retry, text: impl Into<String>) -> Error {
    Error::new(code, Fault::Source, retry, text)
}

impl State {
    /// The cutover under way.
    pub fn cutting_over(&self) -> Option<&Cutover> {
        self.cutover.as_ref().filter(|c| c.is_running() && self.phase == Phase::Migrating)
    }

    /// Begins a cutover. One that is under way takes its marks anew: whoever asks now means the source as it is now.
    ///
    /// # Errors
    /// The migration is not in a state for it; the message says which it is in.
    pub fn begin_cutover(&self) -> Result<Vec<Event>, Error> {
        let refuse = |why: String, remedy: &str| {
            let text = format!("cannot cut {:?} over: {why}", self.name);
            Err(Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text).remedy(remedy))
        };
        if !self.settings.incremental {
            return refuse(
                "it has no incremental stage and ends by itself".into(),
                "compare with `drover validate`, then switch",
            );
        }
        if let Some((table, why)) = self.stopped_tables().next_back() {
            return refuse(
                format!("{table} is not followed any more ({why})"),
                "migrate that table anew, or leave it out and begin again",
            );
        }
        match self.phase {
            Phase::Migrating => {
                let (number, attempt) = self.cutover.as_ref().map_or((0, 0), |c| (c.number, c.attempt));
                let attempt = attempt + 1;
                let change = match self.cutting_over() {
                    Some(_) => Change::Again { attempt, why: "it was asked for again".into() },
                    None => Change::Begun { number: number + 1, attempt },
                };
                Ok(vec![Event::Cutover { change }])
            }
            Phase::Completed if self.cutover.as_ref().is_some_and(|c| c.step == Step::Done) => Ok(Vec::new()),
            Phase::Completed => refuse("it was stopped".into(), "create it again to migrate again"),
            _ => refuse(format!("it is {}", self.label()), "resume it and let it catch up"),
        }
    }

    /// Ends a cutover under way, and nothing else.
    pub fn fail_cutover(&self, error: Error) -> Vec<Event> {
        match self.cutting_over() {
            Some(_) => vec![Event::Cutover { change: Change::Failed { error } }],
            None => Vec::new(),
        }
    }

    /// Everything is applied that will be.
    pub(crate) fn is_switching(&self) -> bool {
        self.cutting_over().is_some_and(|c| c.step == Step::Switching)
    }

    /// The operator calls it off, or is gone. While it switches it is too late for that.
    pub fn call_off(&self, why: &str) -> Vec<Event> {
        if self.is_switching() {
            return Vec::new();
        }
        let error = Error::new(codes::CUTOVER, Fault::User, Retry::Other, format!("the cutover was called off: {why}"));
        self.fail_cutover(error.remedy("the migration goes on; call `drover cutover` again"))
    }

    /// Orders of a cutover that the state wants.
    pub(crate) fn cutover_wants(&self, key: &OrderKey) -> bool {
        let Some(c) = self.cutting_over() else { return false };
        match key {
            OrderKey::CutoverMark { attempt, mark } => {
                *attempt == c.attempt
                    && match c.step {
                        Step::ZeroLag => *mark == ZERO && c.zero.is_none() && self.at_zero_lag_soon(),
                        Step::Barrier => *mark == BARRIER && c.barrier.is_none(),
                        Step::Closing => *mark == CLOSING && c.closing.is_none() && c.sequences_stood,
                        _ => false,
                    }
            }
            OrderKey::CutoverRead { attempt, again } => {
                *attempt == c.attempt
                    && match c.step {
                        Step::Sequences => !*again && c.sequences.is_none(),
                        Step::Closing => *again && !c.sequences_stood,
                        _ => false,
                    }
            }
            OrderKey::CutoverSet { attempt } => {
                *attempt == c.attempt && c.step == Step::Sequences && c.sequences.is_some() && c.sequences_set.is_none()
            }
            OrderKey::CutoverSchema { attempt } => *attempt == c.attempt && c.step == Step::Switching,
            OrderKey::CutoverSum { attempt, look, side, table } => {
                let of = if *side == Side::Source { &c.source } else { &c.destination };
                *attempt == c.attempt
                    && *look == c.looks
                    && c.step == Step::Validating
                    && c.compared.contains(table)
                    && !of.contains_key(table)
            }
            _ => false,
        }
    }

    /// All that has to be done once is done; what remains is to follow the changes.
    fn at_zero_lag_soon(&self) -> bool {
        self.consistent && (!self.settings.schema || self.final_done)
    }

    /// Keys of the orders that a cutover could want now.
    pub(crate) fn cutover_keys(&self) -> Vec<OrderKey> {
        let Some(c) = self.cutting_over() else { return Vec::new() };
        let attempt = c.attempt;
        let mut keys: Vec<OrderKey> =
            [ZERO, BARRIER, CLOSING].map(|mark| OrderKey::CutoverMark { attempt, mark }).into();
        keys.extend([false, true].map(|again| OrderKey::CutoverRead { attempt, again }));
        keys.extend([OrderKey::CutoverSet { attempt }, OrderKey::CutoverSchema { attempt }]);
        // The largest first: they take longest. Tables that the source has made since the copy have no size; their numbers follow the others'.
        let made = c.compared.range(self.plans.len() as u32..);
        for &table in self.by_size.iter().filter(|t| c.compared.contains(t)).chain(made) {
            for side in [Side::Source, Side::Destination] {
                keys.push(OrderKey::CutoverSum { attempt, look: c.looks, side, table });
            }
        }
        keys
    }

    /// What the outcome of a cutover's order means; `None`: it is of another kind than the order.
    pub(crate) fn on_cutover_outcome(&self, key: &OrderKey, outcome: Outcome) -> Option<Vec<Event>> {
        let c = self.cutting_over()?;
        let change = match (key, outcome) {
            (OrderKey::CutoverMark { .. }, Outcome::Marked { position }) => Change::Marked { position },
            (OrderKey::CutoverRead { again: false, .. }, Outcome::Sequences { values }) => {
                Change::SequencesRead { values }
            }
            (OrderKey::CutoverRead { again: true, .. }, Outcome::Sequences { values }) => {
                let before: BTreeSet<_> = c.sequences.iter().flatten().collect();
                let ours = |name: &String| c.sequences_set.as_ref().is_some_and(|set| set.contains(name));
                let moved = values.iter().filter(|v| !before.contains(v)).map(|(s, n, ..)| format!("{s}.{n}"));
                let moved: Vec<String> = moved.filter(ours).collect();
                if moved.is_empty() {
                    Change::SequencesStood
                } else {
                    return Some(self.fail_cutover(self.still_changes(&moved, "sequences")));
                }
            }
            (OrderKey::CutoverSet { .. }, Outcome::Done { what }) => {
                Change::SequencesSet { names: what.into_iter().collect() }
            }
            (OrderKey::CutoverSchema { .. }, Outcome::Done { .. }) => Change::Done,
            (OrderKey::CutoverSum { side, table, .. }, Outcome::Digested { rows, sum }) => {
                Change::Summed { table: *table, side: *side, summed: Summed { rows, sum } }
            }
            _ => return None,
        };
        Some(vec![Event::Cutover { change }])
    }

    fn still_changes(&self, names: &[String], what: &str) -> Error {
        let list = names.join(", ");
        failure(
            codes::CUTOVER,
            Retry::Other,
            format!("the source is still written to: {what} {list} changed after the barrier"),
        )
        .remedy("stop all writes to the source, then call `drover cutover` again; the migration goes on meanwhile")
    }

    /// News of the applier: marks that are passed now, and changes that must not be.
    pub fn on_applied(&self, news: &Applied<'_>) -> Vec<Event> {
        let Some(c) = self.cutting_over() else { return Vec::new() };
        let passed = |mark: &Option<Position>| mark.as_ref().is_some_and(|m| news.applied >= m);
        let change = match c.step {
            Step::ZeroLag if passed(&c.zero) => Change::Passed { compared: BTreeSet::new() },
            Step::Barrier if passed(&c.barrier) => {
                let whole = |p: &&drover_model::TablePlan| {
                    let o = p.operations;
                    o.insert && o.update && o.delete && o.truncate
                };
                Change::Passed { compared: self.present().iter().filter(whole).map(|p| p.id).collect() }
            }
            Step::Sequences | Step::Validating | Step::Closing => {
                let Some(barrier) = &c.barrier else { return Vec::new() };
                let late = news.changed.iter().filter(|(_, at)| at > barrier);
                let late: Vec<String> = late.map(|(table, _)| self.table_name(*table)).collect();
                if !late.is_empty() {
                    return self.fail_cutover(self.still_changes(&late, "tables"));
                }
                if news.from.is_none_or(|from| from > barrier) {
                    let why = "another applier took over after the barrier".to_owned();
                    Change::Again { attempt: c.attempt + 1, why }
                } else if c.step == Step::Closing && passed(&c.closing) {
                    self.cutover_result(c)
                } else {
                    return Vec::new();
                }
            }
            _ => return Vec::new(),
        };
        vec![Event::Cutover { change }]
    }

    /// What follows by itself.
    pub(crate) fn cutover_follow_up(&self) -> Option<Event> {
        let c = self.cutting_over().filter(|c| c.step == Step::Validating)?;
        if c.compared.iter().any(|t| c.equal(*t).is_none()) {
            return None;
        }
        let tables: BTreeSet<u32> = c.differing().collect();
        // Tables that still differ are judged at the end: were they written to meanwhile, that is what is wrong.
        let again = !tables.is_empty() && c.looks + 1 < LOOKS;
        let change = if again { Change::LookAgain { tables } } else { Change::Compared };
        Some(Event::Cutover { change })
    }

    /// Nothing changed since the barrier: what the comparison found is the result.
    fn cutover_result(&self, c: &Cutover) -> Change {
        let names: Vec<String> = c.differing().map(|t| self.table_name(t)).collect();
        if names.is_empty() {
            return Change::Agreed;
        }
        let text = format!("source and destination differ in {}", names.join(", "));
        let error = Error::new(codes::DIFFERENT, Fault::Destination, Retry::Never, text);
        let remedy =
            "`drover validate FILE` names the keys; the migration goes on, and `drover cutover` may be called again";
        Change::Failed { error: error.remedy(remedy) }
    }

    /// Folds a change in.
    pub(crate) fn apply_cutover(&mut self, change: &Change) {
        if let Change::Begun { number, attempt } = change {
            self.cutover = Some(Cutover::new(*number, *attempt));
            return;
        }
        let Some(c) = &mut self.cutover else { return };
        match change {
            Change::Begun { .. } => {}
            Change::Marked { position } => {
                let place = match c.step {
                    Step::ZeroLag => &mut c.zero,
                    Step::Barrier => &mut c.barrier,
                    _ => &mut c.closing,
                };
                *place = Some(position.clone());
            }
            Change::Passed { compared } => {
                c.step = if c.step == Step::ZeroLag { Step::Barrier } else { Step::Sequences };
                c.compared = compared.clone();
            }
            Change::SequencesRead { values } => c.sequences = Some(values.clone()),
            Change::SequencesSet { names } => {
                c.sequences_set = Some(names.clone());
                c.step = Step::Validating;
            }
            Change::SequencesStood => c.sequences_stood = true,
            Change::Summed { table, side, summed } => {
                let of = if *side == Side::Source { &mut c.source } else { &mut c.destination };
                of.insert(*table, summed.clone());
            }
            Change::LookAgain { tables } => {
                c.looks += 1;
                c.source.retain(|t, _| !tables.contains(t));
                c.destination.retain(|t, _| !tables.contains(t));
            }
            Change::Compared => c.step = Step::Closing,
            Change::Agreed => c.step = Step::Switching,
            Change::Again { attempt, .. } => *c = Cutover::new(c.number, *attempt),
            Change::Failed { error } => {
                c.step = Step::Failed;
                c.error = Some(error.clone());
            }
            Change::Done => {
                c.step = Step::Done;
                self.complete_stopped();
            }
        }
    }

    /// A migration that pauses, fails or stops is not cut over.
    pub(crate) fn drop_cutover(&mut self, why: &str) {
        if let Some(c) = self.cutover.as_mut().filter(|c| c.is_running()) {
            c.step = Step::Failed;
            let text = format!("the migration {why} during the cutover");
            c.error = Some(Error::new(codes::CUTOVER, Fault::User, Retry::Other, text));
        }
    }
}
