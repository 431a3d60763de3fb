//! State machines checked exhaustively, on production's own code: every interleaving to the bound that each test states. Each model has
//! broken variants, which have to be found out.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

use drover_applier::consume::{Gate, Verdict};
use drover_coordinator::key::OrderKey;
use drover_coordinator::lease::{Grant, Leases, Standing};
use drover_extractor::End;
use drover_model::{MigrationId, Position};
use drover_proto::order::Order;
use drover_proto::v1::ChangesHead;
use drover_simulation::explore::{Model, explore};

const ID: MigrationId = MigrationId::from_u128(7);

fn at(place: u64) -> Position {
    Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
}

// ---- taking the stream over ----

/// A record on its way or in the log. A transaction in two pieces has the same interval in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Record {
    epoch: u64,
    from: u64,
    to: u64,
    piece: Option<(u32, bool)>,
}

fn head(r: Record) -> ChangesHead {
    ChangesHead {
        version: 1,
        migration: ID.as_bytes().to_vec().into(),
        epoch: r.epoch,
        from: at(r.from).to_bytes().into(),
        to: at(r.to).to_bytes().into(),
        pieces: r.piece.is_some(),
        piece: r.piece.map_or(0, |p| p.0),
        last_piece: r.piece.is_some_and(|p| p.1),
        ..Default::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reader {
    epoch: u64,
    /// It has read, and put on its way, everything up to here.
    at: u64,
    /// Sent and not arrived yet, in order.
    wire: Vec<Record>,
    /// The next transaction is in pieces, of which the first is sent.
    half: bool,
}

/// Extractors that take the stream over from each other. Each goes on where the log ends; what a former one had on its way arrives
/// at any time later, or never. The applier reads along.
#[derive(Clone)]
struct TakeOver {
    /// The source has so many transactions; the one before the last is a large one.
    transactions: u64,
    extractors: u64,
    readers: Vec<Reader>,
    log: Vec<Record>,
    gate: Gate,
    handed: Vec<u64>,
    pieces: Vec<(u64, u32)>,
    /// Where the log ends is taken from its last record alone.
    last_only: bool,
    /// The applier does not look at epochs.
    no_epochs: bool,
}

#[derive(Debug, Clone)]
enum Stream {
    Open,
    Read(u64),
    Piece(bool),
    Arrives(usize),
}

impl TakeOver {
    fn new(transactions: u64, extractors: u64) -> TakeOver {
        TakeOver {
            transactions,
            extractors,
            readers: Vec::new(),
            log: Vec::new(),
            gate: Gate::new(ID, at(0)),
            handed: Vec::new(),
            pieces: Vec::new(),
            last_only: false,
            no_epochs: false,
        }
    }

    fn large(&self) -> u64 {
        self.transactions - 1
    }

    fn arrive(&mut self, record: Record) -> Result<(), String> {
        self.log.push(record);
        let seen = Record { epoch: if self.no_epochs { 1 } else { record.epoch }, ..record };
        let admitted = self.gate.admit(&head(seen)).map_err(|e| format!("the applier stops: {e}"))?;
        if admitted.discard {
            self.pieces.clear();
        }
        match admitted.verdict {
            Verdict::Drop => {}
            Verdict::Whole => {
                let have = self.handed.last().copied().unwrap_or(0);
                self.handed.extend(have + 1..=record.to);
            }
            Verdict::Piece { first, last } => {
                if first {
                    self.pieces.clear();
                }
                self.pieces.push((record.epoch, record.piece.unwrap().0));
                if last {
                    if self.pieces != [(record.epoch, 0), (record.epoch, 1)] {
                        return Err(format!("a transaction was put together of {:?}", self.pieces));
                    }
                    self.pieces.clear();
                    self.handed.push(record.to);
                }
            }
        }
        let wanted: Vec<u64> = (1..=self.handed.len() as u64).collect();
        if self.handed != wanted { Err(format!("handed on: {:?}", self.handed)) } else { Ok(()) }
    }
}

impl Model for TakeOver {
    type Step = Stream;
    type Key = (Vec<Reader>, Vec<Record>);

    fn steps(&self) -> Vec<Stream> {
        let mut steps = Vec::new();
        if (self.readers.len() as u64) < self.extractors {
            steps.push(Stream::Open);
        }
        if let Some(reader) = self.readers.last().filter(|r| r.wire.len() < 2) {
            let large = self.large();
            if reader.at + 1 == large {
                steps.push(Stream::Piece(reader.half));
            } else {
                let most = if reader.at < large { large - 1 } else { self.transactions };
                steps.extend((reader.at + 1..=most).map(Stream::Read));
            }
        }
        steps.extend((0..self.readers.len()).filter(|&i| !self.readers[i].wire.is_empty()).map(Stream::Arrives));
        steps
    }

    fn step(&mut self, step: &Stream) -> Result<(), String> {
        match step {
            Stream::Open => {
                let mut end = End::default();
                let from = if self.last_only { self.log.len().saturating_sub(1) } else { 0 };
                for record in &self.log[from..] {
                    end.take(&head(*record)).unwrap();
                }
                let at = end.position().map_or(0, |p| p.text.parse().unwrap());
                let epoch = self.readers.len() as u64 + 1;
                self.readers.push(Reader { epoch, at, wire: Vec::new(), half: false });
            }
            Stream::Read(to) => {
                let reader = self.readers.last_mut().unwrap();
                reader.wire.push(Record { epoch: reader.epoch, from: reader.at, to: *to, piece: None });
                reader.at = *to;
            }
            Stream::Piece(last) => {
                let reader = self.readers.last_mut().unwrap();
                let (epoch, from, to) = (reader.epoch, reader.at, reader.at + 1);
                reader.wire.push(Record { epoch, from, to, piece: Some((u32::from(*last), *last)) });
                reader.half = !last;
                reader.at += u64::from(*last);
            }
            Stream::Arrives(i) => {
                let record = self.readers[*i].wire.remove(0);
                self.arrive(record)?;
            }
        }
        Ok(())
    }

    fn key(&self) -> Self::Key {
        (self.readers.clone(), self.log.clone())
    }

    fn end(&self) -> Result<(), String> {
        let done = self.handed.len() as u64 == self.transactions;
        if done { Ok(()) } else { Err(format!("handed on in the end: {:?}", self.handed)) }
    }
}

/// Three extractors, four transactions of which one is in two pieces, up to two records of each on their way.
#[test]
fn whoever_takes_the_stream_over_leaves_no_gap_and_nothing_twice() {
    let explored = explore(&TakeOver::new(4, 3)).unwrap();
    println!("{explored:?}");
    assert!(explored.states > 10_000 && explored.ends > 100, "{explored:?}");
}

#[test]
fn an_end_taken_from_the_last_record_alone_is_found_out() {
    let broken = explore(&TakeOver { last_only: true, ..TakeOver::new(4, 3) }).unwrap_err();
    assert!(broken.contains("gap"), "{broken}");
}

#[test]
fn an_applier_that_does_not_look_at_epochs_is_found_out() {
    let broken = explore(&TakeOver { no_epochs: true, ..TakeOver::new(4, 3) }).unwrap_err();
    assert!(broken.contains("put together") || broken.contains("piece"), "{broken}");
}

// ---- lease, epoch, ordered commit, taking the applying over ----

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A lease is renewed though its term is over.
    Revives,
    /// The destination does not look at the epoch.
    Epoch,
    /// Who takes over reads the progress first and raises the epoch then.
    ReadsFirst,
    /// The same, and the destination does not look where the progress stands.
    Order,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Applier {
    /// The lease that it believes in.
    lease: Option<u64>,
    /// What it found when it took over at the destination: epoch and position. Without an epoch it has only read.
    stands: Option<(Option<u64>, u64)>,
    /// On its way to the destination: epoch, previous, next.
    commit: Option<(u64, u64, u64)>,
}

/// Two appliers, the coordinator's leases, and a destination that commits batches `n → n + 1`. Any of the appliers may stand still
/// at any moment and go on later, and its commits arrive late.
#[derive(Clone)]
struct Lease {
    leases: Leases,
    epoch: u64,
    now: u64,
    ticks: u64,
    batches: u64,
    appliers: Vec<Applier>,
    /// At the destination.
    fence: u64,
    position: u64,
    broken: Broken,
}

#[derive(Debug, Clone)]
enum Act {
    /// Half a term passes.
    Tick,
    Poll(usize),
    TakeOver(usize),
    Send(usize),
    Arrives(usize),
}

const TERM: u64 = 2;

fn name(i: usize) -> String {
    format!("applier{i}")
}

impl Lease {
    fn new(broken: Broken) -> Lease {
        let applier = Applier { lease: None, stands: None, commit: None };
        Lease {
            leases: Leases::new(TERM),
            epoch: 0,
            now: 0,
            ticks: 7,
            batches: 2,
            appliers: vec![applier.clone(), applier],
            fence: 0,
            position: 0,
            broken,
        }
    }

    fn valid(&self, i: usize) -> bool {
        let standing = |epoch| self.leases.standing(ID, &OrderKey::Apply, epoch, &name(i), self.now);
        self.appliers[i].lease.is_some_and(|epoch| standing(epoch) == Standing::Valid)
    }

    /// As the desk does it: renew what is listed, free what has run out, give what is free.
    fn poll(&mut self, i: usize) -> Result<(), String> {
        for (id, key) in self.leases.expired(self.now) {
            if self.broken != Broken::Revives || self.appliers[i].lease.is_none() {
                self.leases.end(id, &key, false);
            }
        }
        if let Some(epoch) = self.appliers[i].lease {
            let revived = self.broken == Broken::Revives && !self.valid(i);
            if revived || self.leases.renew(ID, &OrderKey::Apply, epoch, &name(i), self.now) {
                if revived {
                    self.give(i, epoch);
                }
                return Ok(());
            }
            self.appliers[i] = Applier { lease: None, stands: None, commit: self.appliers[i].commit };
        }
        if !self.leases.is_held(ID, &OrderKey::Apply) {
            self.epoch += 1;
            let epoch = self.epoch;
            self.give(i, epoch);
            self.appliers[i].lease = Some(epoch);
        }
        Ok(())
    }

    fn give(&mut self, i: usize, epoch: u64) {
        let (key, order) = (OrderKey::Apply, Order::Inspect);
        self.leases.grant(Grant { migration: ID, key, epoch, worker: name(i), order }, self.now);
    }

    fn check(&self) -> Result<(), String> {
        // An older lease that is taken for good again shows as an epoch that went back.
        let held = self.leases.get(ID, &OrderKey::Apply).map(|h| h.grant.epoch);
        if held.is_some_and(|epoch| epoch < self.epoch) {
            return Err(format!("lease {held:?} is valid after {}", self.epoch));
        }
        if (0..2).all(|i| self.valid(i)) { Err("two hold the lease".into()) } else { Ok(()) }
    }
}

impl Model for Lease {
    type Step = Act;
    type Key = (String, Vec<Applier>, u64, u64, u64, u64);

    fn steps(&self) -> Vec<Act> {
        let mut steps = Vec::new();
        if self.ticks > 0 {
            steps.push(Act::Tick);
        }
        for (i, a) in self.appliers.iter().enumerate() {
            if self.ticks > 0 {
                steps.push(Act::Poll(i));
            }
            if a.lease.is_some() && a.stands.is_none_or(|s| s.0.is_none()) {
                steps.push(Act::TakeOver(i));
            }
            if let Some((Some(_), position)) = a.stands
                && a.commit.is_none()
                && position < self.batches
            {
                steps.push(Act::Send(i));
            }
            if a.commit.is_some() {
                steps.push(Act::Arrives(i));
            }
        }
        steps
    }

    fn step(&mut self, step: &Act) -> Result<(), String> {
        match *step {
            Act::Tick => (self.now, self.ticks) = (self.now + 1, self.ticks - 1),
            Act::Poll(i) => self.poll(i)?,
            Act::TakeOver(i) => {
                let read = self.appliers[i].stands.map(|s| s.1);
                if matches!(self.broken, Broken::ReadsFirst | Broken::Order) && read.is_none() {
                    self.appliers[i].stands = Some((None, self.position));
                } else {
                    self.fence += 1;
                    self.appliers[i].stands = Some((Some(self.fence), read.unwrap_or(self.position)));
                }
            }
            Act::Send(i) => {
                let Some((Some(epoch), position)) = self.appliers[i].stands else { return Ok(()) };
                self.appliers[i].commit = Some((epoch, position, position + 1));
            }
            Act::Arrives(i) => {
                let Some((epoch, previous, next)) = self.appliers[i].commit.take() else { return Ok(()) };
                let fenced = epoch != self.fence && self.broken != Broken::Epoch;
                if fenced {
                    self.appliers[i].stands = None;
                    self.appliers[i].lease = None;
                } else if self.position == previous || self.broken == Broken::Order {
                    if epoch != self.fence {
                        return Err(format!(
                            "a commit of epoch {epoch} was taken, the destination's is {}",
                            self.fence
                        ));
                    }
                    if next != self.position + 1 {
                        return Err(format!("batch {next} was committed at {}", self.position));
                    }
                    self.position = next;
                    self.appliers[i].stands = Some((Some(epoch), next));
                } else if self.appliers[i].stands.is_some_and(|s| s.0 == Some(epoch)) {
                    return Err(format!(
                        "the holder of epoch {epoch} goes on from {previous}, the progress is {}",
                        self.position
                    ));
                }
            }
        }
        self.check()
    }

    fn key(&self) -> Self::Key {
        let held = self.leases.get(ID, &OrderKey::Apply);
        let held = held.map(|h| (h.grant.epoch, &h.grant.worker, h.expires_ms));
        (format!("{held:?}"), self.appliers.clone(), self.now, self.ticks, self.fence, self.position)
    }

    fn end(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Two appliers, three and a half terms of time, two batches.
#[test]
fn one_holds_the_lease_and_batches_are_committed_once_in_order() {
    let explored = explore(&Lease::new(Broken::Nothing)).unwrap();
    println!("{explored:?}");
    assert!(explored.states > 10_000, "{explored:?}");
}

#[test]
fn broken_leases_and_fences_are_found_out() {
    for (broken, what) in [
        (Broken::Revives, "lease"),
        (Broken::Epoch, "was taken"),
        (Broken::Order, "batch"),
        (Broken::ReadsFirst, "goes on from"),
    ] {
        let found = explore(&Lease::new(broken)).unwrap_err();
        assert!(found.contains(what), "{broken:?}: {found}");
    }
}
