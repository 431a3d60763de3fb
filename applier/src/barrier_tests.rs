//! Barriers, explored: the loop of [`crate::apply`] as it is, with its sessions, over a destination of which each answer waits until the
//! explorer gives it. Every order of answers is tried; one call at any place gets lost, the destination crashes with or without its last
//! commits, the oldest batch waits too long, and another applier takes over while the first one goes on.
//!
//! Promised, and looked at with every call: a schema change is made where everything before it is committed and durable and no session of its
//! holder is at work, once; no row is written under another schema than its own; at each commit the destination shows whole transactions up to the
//! position that it claims; and all comes to its end.

mod world;

use self::world::{Entry, Fate, Nothing, State, Watched, place, written};
use crate::apply::{Hasty, Options, Task, apply};
use crate::fake::at;
use drover_model::error::codes;
use drover_model::{Error, Retry};
use drover_proto::order::Progress as News;
use drover_runtime::CancellationToken;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Faults {
    lost: u32,
    crashes: u32,
    successors: u32,
    impatience: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Answer((u64, u64, &'static str), Fate),
    Crash {
        loses: bool,
    },
    /// Another applier takes over; the one before goes on.
    Successor,
    /// So much time passes that the oldest batch has waited too long.
    Impatience,
}

struct Explorer {
    entries: Vec<Entry>,
    faults: Faults,
    hasty: Hasty,
    /// Bytes of pieces that are kept.
    pieces: usize,
    seen: HashSet<String>,
    runs: usize,
    ends: usize,
}

const PATIENCE: Duration = Duration::from_secs(3);

impl Explorer {
    fn new(entries: &[Entry], faults: Faults) -> Explorer {
        let (entries, seen) = (entries.to_vec(), HashSet::new());
        Explorer { entries, faults, hasty: Hasty::No, pieces: 3 << 20, seen, runs: 0, ends: 0 }
    }

    /// All of it.
    fn explore(&mut self) -> std::result::Result<(), String> {
        // By depth: which of how many events was taken.
        let mut path: Vec<(usize, usize)> = Vec::new();
        loop {
            self.runs += 1;
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let mut history = Vec::new();
            let ended = runtime.block_on(self.run(&mut path, &mut history));
            ended.map_err(|what| format!("{what}, after {history:?}"))?;
            while path.pop_if(|(taken, of)| *taken + 1 == *of).is_some() {}
            match path.last_mut() {
                Some((taken, _)) => *taken += 1,
                None => return Ok(()),
            }
        }
    }

    fn events(state: &State, left: Faults) -> Vec<Event> {
        let mut events = Vec::new();
        for &call in state.asked.keys() {
            events.push(Event::Answer(call, Fate::Done));
            if left.lost > 0 {
                events.push(Event::Answer(call, Fate::Lost));
                if call.2 == "schema" {
                    events.push(Event::Answer(call, Fate::AnswerLost));
                }
            }
        }
        if left.crashes > 0 {
            events.push(Event::Crash { loses: false });
            if state.now != state.durable {
                events.push(Event::Crash { loses: true });
            }
        }
        if left.successors > 0 {
            events.push(Event::Successor);
        }
        if left.impatience > 0 && state.asked.keys().any(|(.., what)| *what == "execute") {
            events.push(Event::Impatience);
        }
        events
    }

    /// One run along a path, and from its end on along the first event each time.
    async fn run(
        &mut self,
        path: &mut Vec<(usize, usize)>,
        history: &mut Vec<Event>,
    ) -> std::result::Result<(), String> {
        let (log, description) = written(&self.entries);
        let destination = Watched::default();
        destination.state().entries = self.entries.clone();
        let begin = || {
            let told = destination.clone();
            let task = Task {
                description: description.clone(),
                destination: Arc::new(destination.clone()),
                log: Arc::new(log.clone()),
                start: at(0),
                windows: vec![],
                options: Options {
                    sessions: 2,
                    batch_changes: 1,
                    patience: PATIENCE,
                    hasty: self.hasty,
                    pieces: self.pieces,
                    ..Options::default()
                },
                tell: Arc::new(move |news| {
                    if let News::Apply { applied, .. } = news {
                        let mut state = told.state();
                        state.told = state.told.take().max(Some(applied));
                    }
                }),
                lease: 1,
                creditor: Arc::new(Nothing),
            };
            tokio::spawn(apply(task, CancellationToken::new()))
        };
        let mut appliers = vec![begin()];
        let (mut left, mut depth, mut waited) = (self.faults, 0, 0);
        let last = at(self.entries.len() as u64);
        loop {
            // Time passes only when there is nothing else to do.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if appliers.last().is_some_and(|a| a.is_finished()) {
                let ended = appliers.pop().unwrap().await;
                let passing = |e: &Error| e.retry != Retry::Never || e.code == codes::FENCED;
                if left == self.faults || !ended.as_ref().is_ok_and(|e| e.as_ref().is_err_and(passing)) {
                    return Err(format!("it ended by itself: {ended:?}"));
                }
                appliers.push(begin());
                continue;
            }
            let (events, key) = {
                let mut state = destination.state();
                if state.told > state.durable.position {
                    let (told, there) = (place(state.told.as_ref()), place(state.durable.position.as_ref()));
                    state.wrong(format!("{told} is told to be applied for good, and {there} is"));
                }
                if let Some(broken) = state.broken.take() {
                    return Err(broken);
                }
                if state.durable.position.as_ref() == Some(&last) && state.told.as_ref() == Some(&last) {
                    self.ends += 1;
                    return Ok(());
                }
                let calls: BTreeSet<_> = state.asked.keys().collect();
                let sessions: Vec<_> =
                    state.sessions.values().map(|w| (w.epoch, w.open, &w.written, w.ended)).collect();
                let faults: Vec<_> = history.iter().filter(|e| !matches!(e, Event::Answer(_, Fate::Done))).collect();
                let data = (&state.now, &state.durable, &state.told, state.epoch);
                (Self::events(&state, left), format!("{data:?} {calls:?} {sessions:?} {faults:?}"))
            };
            if !events.iter().any(|e| matches!(e, Event::Answer(..))) {
                // Nothing is under way: whatever goes on now goes on with time.
                waited += 1;
                if waited > 100 {
                    return Err("it does not go on".into());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            waited = 0;
            if depth == path.len() {
                if !self.seen.insert(key) {
                    return Ok(());
                }
                path.push((0, events.len()));
            }
            let (taken, of) = path[depth];
            if of != events.len() {
                return Err(format!("the same path leads elsewhere: {events:?}"));
            }
            depth += 1;
            let event = events[taken].clone();
            history.push(event.clone());
            match event {
                Event::Answer(call, fate) => {
                    left.lost -= u32::from(fate != Fate::Done);
                    let mut state = destination.state();
                    let answer = state.asked.remove(&call).unwrap();
                    answer(&mut state, fate);
                }
                Event::Crash { loses } => {
                    left.crashes -= 1;
                    destination.state().crash(loses);
                }
                Event::Successor => {
                    left.successors -= 1;
                    appliers.push(begin());
                }
                Event::Impatience => {
                    left.impatience -= 1;
                    tokio::time::sleep(PATIENCE + Duration::from_millis(200)).await;
                }
            }
        }
    }
}

use Entry::{Pieces, Schema, Transaction};

const CALM: Faults = Faults { lost: 0, crashes: 0, successors: 0, impatience: 0 };

/// Two sessions; up to four transactions, also in pieces, which are kept or read again, around one or two schema changes; each fault alone, and a lost call
/// with a crash or a successor.
#[test]
fn a_schema_change_is_made_behind_everything_before_it_and_before_everything_behind_it() {
    let lost = Faults { lost: 1, ..CALM };
    let crash = Faults { crashes: 1, ..CALM };
    let successor = Faults { successors: 1, ..CALM };
    let impatience = Faults { impatience: 1, ..CALM };
    let cases: &[(&[Entry], &[Faults])] = &[
        (&[Transaction, Transaction, Schema, Transaction, Transaction], &[CALM, lost, crash, impatience]),
        (&[Transaction, Transaction, Schema, Transaction], &[successor]),
        (&[Transaction, Schema, Transaction], &[Faults { lost: 1, successors: 1, ..CALM }]),
        (
            &[Transaction, Schema, Schema, Transaction],
            &[lost, crash, successor, Faults { lost: 1, crashes: 1, ..CALM }],
        ),
        (&[Pieces(2), Schema, Pieces(2)], &[lost, crash, successor]),
        (&[Pieces(2), Pieces(2), Schema, Transaction], &[CALM, lost, crash, impatience]),
        (&[Pieces(2), Pieces(2), Schema], &[successor]),
        (&[Pieces(2), Transaction, Schema, Pieces(2)], &[lost, impatience]),
    ];
    let (mut runs, mut states, mut ends) = (0, 0, 0);
    for (entries, faults) in cases {
        let huge = entries.iter().any(|e| matches!(e, Pieces(_)));
        for pieces in [3 << 20, 1].iter().take(if huge { 2 } else { 1 }) {
            for faults in *faults {
                let mut explorer = Explorer { pieces: *pieces, ..Explorer::new(entries, *faults) };
                explorer.explore().unwrap_or_else(|what| panic!("{entries:?}, {pieces}, {faults:?}: {what}"));
                assert!(explorer.ends > 0);
                (runs, states, ends) = (runs + explorer.runs, states + explorer.seen.len(), ends + explorer.ends);
            }
        }
    }
    println!("{runs} runs, {states} states, {ends} ends");
    assert!(states > 500, "{states}");
}

#[test]
fn a_schema_change_that_does_not_wait_is_found_out() {
    for (hasty, entries, what) in [
        (Hasty::Work, &[Transaction, Transaction, Schema, Transaction][..], "is made"),
        (Hasty::Durability, &[Transaction, Schema, Transaction][..], "durable"),
    ] {
        let mut explorer = Explorer { hasty, ..Explorer::new(entries, CALM) };
        let found = explorer.explore().unwrap_err();
        assert!(found.contains(what), "{hasty:?}: {found}");
    }
}
