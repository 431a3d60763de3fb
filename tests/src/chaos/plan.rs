//! What there is to fail, and what a run consists of: a pure function of its seed.

use std::fmt;

use crate::{Dialect, Form, Pair, Random, Role, pairs};

/// When in the life of a migration a failpoint is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Rows are copied; changes flow beside.
    Copy,
    /// Rows that were moved are fetched from the source, after a lost snapshot.
    Owed,
    /// Changes are followed.
    Changes,
    /// A table changes while changes are followed.
    Schema,
    /// The cutover.
    Cutover,
}

/// A failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    pub name: &'static str,
    /// Who passes it.
    pub role: Role,
    pub phase: Phase,
}

const fn point(name: &'static str, role: Role, phase: Phase) -> Point {
    Point { name, role, phase }
}

/// Every failpoint. A test compares them with drover's text.
pub const POINTS: [Point; 15] = [
    point("copied-not-reported", Role::Extractor, Phase::Copy),
    point("loaded-not-reported", Role::Applier, Phase::Copy),
    point("owed-not-fetched", Role::Extractor, Phase::Owed),
    point("fetched-not-reported", Role::Extractor, Phase::Owed),
    point("owed-not-paid", Role::Applier, Phase::Owed),
    point("before-commit", Role::Applier, Phase::Changes),
    point("committed-not-reported", Role::Applier, Phase::Changes),
    point("published-not-confirmed", Role::Extractor, Phase::Changes),
    point("schema-change-stored", Role::Extractor, Phase::Schema),
    point("schema-intent-written", Role::Applier, Phase::Schema),
    point("schema-executed", Role::Applier, Phase::Schema),
    point("schema-made-not-noted", Role::Applier, Phase::Schema),
    point("marked-not-reported", Role::Extractor, Phase::Cutover),
    point("sequences-set-not-reported", Role::Applier, Phase::Cutover),
    point("digested-not-reported", Role::Applier, Phase::Cutover),
];

/// Whether a migration between this pair comes by what happens in this phase.
pub fn allowed(phase: Phase, pair: Pair) -> bool {
    match phase {
        // Logs of the others hold whole rows.
        Phase::Owed => pair.source.dialect() == Dialect::Postgres,
        // Schema changes are carried over between these alone.
        Phase::Schema => pair.source.dialect() == Dialect::MySql && pair.destination.dialect() == Dialect::MySql,
        _ => true,
    }
}

/// Where the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At a failpoint.
    At(Point),
    /// A process of this role, at any moment. In one process it is that one.
    Anywhere(Role),
    /// The broker, at any moment.
    Broker,
}

impl Place {
    /// Who is struck.
    pub fn role(self) -> Option<Role> {
        match self {
            Place::At(point) => Some(point.role),
            Place::Anywhere(role) => Some(role),
            Place::Broker => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::At(point) => f.write_str(point.name),
            Place::Anywhere(Role::Coordinator) => f.write_str("coordinator"),
            Place::Anywhere(Role::Extractor) => f.write_str("extractor"),
            Place::Anywhere(Role::Applier) => f.write_str("applier"),
            Place::Broker => f.write_str("broker"),
        }
    }
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT later, when somebody else may have its work.
    Freeze,
    /// Connections end.
    Cut,
    /// What it sends arrives and no answer comes back; then connections end.
    Deafen,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Kill, Kind::Freeze, Kind::Cut, Kind::Deafen];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill",
            Kind::Freeze => "freeze",
            Kind::Cut => "cut",
            Kind::Deafen => "deafen",
        })
    }
}

/// One fault of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub phase: Phase,
    pub kind: Kind,
    /// The how manyth time that a failpoint is passed; elsewhere: tens of transactions of the application before it strikes.
    pub hit: u64,
    /// How long a process is frozen or deaf, in milliseconds.
    pub millis: u64,
    /// Which connections are cut: bits for source, destination, coordinator, broker.
    pub peers: u8,
    /// In a cluster: whether another process of the role stands beside the one that is struck.
    pub beside: bool,
}

impl Fault {
    /// At this failpoint, with all else drawn. Leases of runs end after three seconds: some freezes outlast them.
    pub fn at(point: Point, kind: Kind, random: &mut Random) -> Fault {
        let most = match point.phase {
            Phase::Copy => 6,
            Phase::Changes => 5,
            Phase::Schema => 2,
            Phase::Owed | Phase::Cutover => 1,
        };
        let hit = 1 + random.below(if point.name == "marked-not-reported" { 2 } else { most });
        Fault { hit, ..Fault::drawn(Place::At(point), point.phase, kind, random) }
    }

    /// At any moment.
    pub fn anywhere(role: Role, phase: Phase, kind: Kind, random: &mut Random) -> Fault {
        Fault::drawn(Place::Anywhere(role), phase, kind, random)
    }

    fn drawn(place: Place, phase: Phase, kind: Kind, random: &mut Random) -> Fault {
        let millis = match kind {
            Kind::Freeze if random.once_in(2) => 3_500 + random.below(2_500),
            Kind::Freeze => 100 + random.below(1_500),
            _ => 50 + random.below(1_000),
        };
        // Now and then one peer alone, else all.
        let peers = if random.once_in(3) { 0b1111 } else { 1 << random.below(4) | 1 << random.below(4) };
        Fault { place, phase, kind, hit: 1 + random.below(20), millis, peers, beside: random.once_in(2) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.place, self.hit, self.kind)?;
        if matches!(self.place, Place::Anywhere(_) | Place::Broker) {
            write!(f, " ({:?})", self.phase)?;
        }
        Ok(())
    }
}

/// A migration with its faults, in the order in which they strike; at most one of them in the cutover, which is the end.
#[derive(Clone, Debug)]
pub struct Run {
    pub seed: u64,
    /// Its name in the table of pairs.
    pub name: &'static str,
    pub pair: Pair,
    pub form: Form,
    pub faults: Vec<Fault>,
    /// A transaction larger than any batch comes in the middle of the changes.
    pub large: bool,
}

/// So many seeds in succession have the same pair, whose servers are kept.
const BLOCK: u64 = 10;

impl Run {
    /// The run of a seed; pair and form are given, or follow from it.
    pub fn of(seed: u64, pair: Option<(&'static str, Pair)>, form: Option<Form>) -> Run {
        let all = pairs::all();
        let (name, pair) = pair.unwrap_or_else(|| *Random::new(!(seed / BLOCK)).pick(&all));
        let form = form.unwrap_or_else(|| *Random::new(seed ^ 0x5eed).pick(&[Form::InProcess, Form::Cluster]));
        let mut random = Random::new(seed);
        let mut run = Run { seed, name, pair, form, faults: Vec::new(), large: random.once_in(3) };
        let owed = allowed(Phase::Owed, pair) && random.once_in(4);
        for phase in [Phase::Copy, Phase::Owed, Phase::Changes, Phase::Schema, Phase::Cutover] {
            let most = match phase {
                Phase::Copy if !owed => 3,
                // What is fetched is fetched soon: few of its failpoints are left after the first.
                Phase::Owed if owed => 2,
                Phase::Changes => 3,
                Phase::Schema if allowed(phase, pair) => 2,
                Phase::Cutover => 1,
                _ => 0,
            };
            for _ in 0..random.below(most + 1) {
                let fault = run.draw(phase, &mut random);
                run.faults.push(fault);
            }
        }
        if run.faults.is_empty() {
            let fault = run.draw(Phase::Changes, &mut random);
            run.faults.push(fault);
        }
        run
    }

    fn draw(&self, phase: Phase, random: &mut Random) -> Fault {
        let kind = *random.pick(&Kind::ALL);
        if matches!(phase, Phase::Copy | Phase::Changes) && random.once_in(4) {
            let places = [
                Place::Anywhere(Role::Extractor),
                Place::Anywhere(Role::Applier),
                Place::Anywhere(Role::Coordinator),
                Place::Broker,
            ];
            // In one process all are the same.
            let places = if self.form == Form::Cluster { &places[..] } else { &places[..1] };
            return Fault::drawn(*random.pick(places), phase, kind, random);
        }
        let points: Vec<Point> = POINTS.into_iter().filter(|p| p.phase == phase).collect();
        Fault::at(*random.pick(&points), kind, random)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
        write!(f, "seed {} {} {} {}", self.seed, self.name, form_name(self.form), faults.join(", "))
    }
}

/// As the command line names it.
pub fn form_name(form: Form) -> &'static str {
    match form {
        Form::InProcess => "run",
        Form::Cluster => "cluster",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_run_follows_from_its_seed_and_all_cells_come() {
        let mut cells = BTreeSet::new();
        let mut pairs = BTreeSet::new();
        for seed in 0..4000 {
            let run = Run::of(seed, None, None);
            assert_eq!(run.to_string(), Run::of(seed, Some((run.name, run.pair)), Some(run.form)).to_string());
            pairs.insert(run.name);
            for fault in &run.faults {
                assert!(allowed(fault.phase, run.pair), "{run}");
                cells.insert(format!("{} {} {:?}", fault.place, fault.kind, run.form));
            }
        }
        assert_eq!(pairs.len(), super::pairs::all().len());
        for point in POINTS {
            for kind in Kind::ALL {
                for form in [Form::InProcess, Form::Cluster] {
                    assert!(cells.contains(&format!("{} {kind} {form:?}", point.name)), "{} {kind}", point.name);
                }
            }
        }
    }
}
