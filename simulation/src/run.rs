//! One run: a whole system and its faults out of one seed, to the end.

mod operator;

use crate::check::Checker;
use crate::control::{Desk, Disk, SimControl, way};
use crate::databases::Factories;
use crate::log::{self, Broker};
use crate::net::{Link, Net, Peer, Weather};
use crate::node::Node;
use crate::sim::Report;
use crate::workload::Habits;
use crate::{machine, note, sim, workload};
use drover_applier::Applier;
use drover_applier::apply::Options as ApplyOptions;
use drover_connectors_memory::{self as memory, Database};
use drover_coordinator::Tuning;
use drover_extractor::Extractor;
use drover_model::migration::Migration;
use drover_model::schema::TableName;
use drover_proto::v1::Role;
use drover_runtime::CancellationToken;
use drover_runtime::process::Within;
use drover_runtime::worker::{self, Handler};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A promise that is broken on purpose, so that it is known that the checker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    Destination(memory::Broken),
    Source(memory::Broken),
    Log(log::Broken),
    /// The coordinator does not hear which tables changed last.
    Blind,
    /// Every promise is kept.
    None,
}

/// What a run is made of, besides the seed.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seed: u64,
    /// Nothing goes wrong.
    pub calm: bool,
    /// The trace goes to standard output.
    pub print: bool,
    pub sabotage: Sabotage,
}

/// How a run is, decided by its seed.
#[derive(Debug, Clone)]
struct Plan {
    /// All in one process, with its log on the disk.
    alone: bool,
    /// Names of the migrations, each with its tables.
    migrations: Vec<(String, Vec<TableName>)>,
    extractors: usize,
    appliers: usize,
    /// Transactions before drover begins, and while it works.
    before: u64,
    transactions: u64,
    habits: Habits,
    batch: u64,
    /// Bytes of pieces of a huge transaction that an applier has at hand, and of keys of all of them.
    pieces: u64,
    keys: u64,
    /// The copy is limited to so many rows a second; 0: unlimited.
    rate: u64,
    /// A snapshot is given up after so long; zero: never.
    snapshot: Duration,
    tuning: Tuning,
    weather: Weather,
    /// Faults of processes and servers come about so often.
    every: Duration,
    /// Chance, in a million, that a process dies at a failpoint that it passes.
    dies: u64,
}

impl Plan {
    fn new(options: Options) -> Plan {
        let mut plan = Plan::random(options.calm);
        plan.habits.apart = blurred(options);
        if options.sabotage == Sabotage::Destination(memory::Broken::Epoch) {
            // Whoever stands still between two steps of a commit is what this is about.
            plan = Plan { alone: false, extractors: 2, appliers: 3, dies: 150_000, ..plan };
        }
        if options.sabotage == Sabotage::Log(log::Broken::Early) {
            plan = Plan { alone: true, extractors: 1, appliers: 1, ..plan };
        }
        plan
    }

    fn random(calm: bool) -> Plan {
        let often = |n: u64| if calm || sim::chance(300_000) { 0 } else { sim::below(n) };
        let alone = sim::chance(300_000);
        Plan {
            alone,
            migrations: workload::migrations(if !alone && sim::chance(300_000) { 2 } else { 1 }),
            extractors: if alone { 1 } else { sim::between(1, 4) as usize },
            appliers: if alone { 1 } else { sim::between(1, 4) as usize },
            before: sim::between(5, 120),
            transactions: sim::between(20, 150),
            habits: Habits {
                ids: sim::between(10, 150),
                statements: sim::between(1, 8),
                bytes: sim::between(4, 60),
                apart: false,
            },
            rate: if sim::chance(500_000) { 0 } else { sim::between(20, 400) },
            snapshot: if sim::chance(700_000) { Duration::ZERO } else { sim::ms(1_000, 20_000) },
            // Small ones make most transactions come in pieces.
            batch: if sim::chance(500_000) { sim::between(60, 400) } else { sim::between(200, 6_000) },
            pieces: sim::between(50, 3_000),
            keys: if sim::chance(300_000) { sim::between(8, 300) } else { sim::between(300, 5_000) },
            tuning: Tuning {
                chunk_bytes: sim::between(80, 2_500),
                bulk_bytes: sim::between(2_000, 50_000),
                bulk_partitions: sim::between(2, 9) as u32,
                keep_state_every: sim::between(5, 60),
                ..Tuning::default()
            },
            weather: Weather {
                lost: often(8_000),
                slow: often(100_000),
                very_slow: often(10_000),
                slow_disk: often(100_000),
                twice: often(100_000),
            },
            every: Duration::from_millis(if sim::chance(300_000) {
                sim::between(50, 1_000)
            } else {
                sim::between(500, 15_000)
            }),
            dies: often(60_000),
        }
    }
}

/// Whether the source gives snapshots whose place is not known exactly. Nothing is drawn for it: all other seeds are what they were.
fn blurred(options: Options) -> bool {
    !options.calm && options.seed % 5 == 3 || matches!(options.sabotage, Sabotage::Source(_))
}

/// Ends all tasks of a run when it is over.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// All has to be well so long after the faults have ended.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

fn migration(plan: &Plan, name: &str, tables: &[TableName]) -> Migration {
    let objects: String = tables.iter().map(|t| format!("[[objects]]\ninclude = \"{t}\"\n")).collect();
    let kafka = if plan.alone { "" } else { "[log]\nkafka = { brokers = [\"broker:9092\"] }\n" };
    let text = format!(
        "name = \"{name}\"\n[source]\nkind = \"memory\"\nurl = \"memory://u@source:1/a\"\n\
         [destination]\nkind = \"memory\"\nurl = \"memory://u@destination:1/b\"\n{kafka}{objects}"
    );
    match Migration::parse(&text, Path::new("simulation.toml"), &[memory::KIND]) {
        Ok(mut migration) => {
            migration.limits.full.rows_per_second = plan.rate;
            migration.limits.snapshot = plan.snapshot;
            migration
        }
        Err(findings) => panic!("the simulation's own migration file is wrong: {findings:?}"),
    }
}

/// Carries a run out. There is one at a time in a process.
pub fn run(options: Options) -> Report {
    machine::begin(options.seed);
    sim::begin(options.seed, options.print);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(async {
                machine::start_clocks();
                let world = World::new(options);
                if tokio::time::timeout(LIMIT, world.run()).await.is_err() {
                    sim::violated("the run does not end".into());
                }
            });
            // Tasks end before the clocks do.
            drop(runtime);
        }
        Err(error) => sim::violated(format!("there is no runtime: {error}")),
    }
    machine::end();
    sim::end()
}

/// A place for a process: whoever is there is replaced when it dies.
#[derive(Clone, Default)]
struct Seat(Arc<Mutex<Option<(Arc<Node>, CancellationToken)>>>);

impl Seat {
    fn get(&self) -> Option<Arc<Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|s| s.0.clone())
    }
    fn set(&self, who: Option<(Arc<Node>, CancellationToken)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = who;
    }
    /// Asks for a shutdown.
    fn stop(&self) {
        if let Some((_, stop)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            stop.cancel();
        }
    }
}

struct World {
    options: Options,
    plan: Plan,
    net: Arc<Net>,
    source: Database,
    destination: Database,
    /// The log of each migration, by its name.
    brokers: Arc<BTreeMap<String, Arc<Broker>>>,
    desk: Desk,
    disk: Disk,
    checker: Checker,
    /// Whether faults are over.
    calm: watch::Sender<bool>,
    seats: Vec<(String, Option<Role>, Seat)>,
}

impl World {
    fn new(options: Options) -> Arc<World> {
        let plan = Plan::new(options);
        note!("{plan:?}");
        let (source, destination) = (memory::database("source"), memory::database("destination"));
        workload::create(&source);
        destination.may_crash();
        if blurred(options) {
            source.blur_snapshots();
        }
        let log_broken = match options.sabotage {
            Sabotage::Log(broken) => Some(broken),
            _ => None,
        };
        match options.sabotage {
            Sabotage::Destination(broken) => destination.break_promise(broken),
            Sabotage::Source(broken) => source.break_promise(broken),
            _ => {}
        }
        let checker = Checker::new(source.clone(), destination.clone(), &plan.migrations);
        let brokers = plan.migrations.iter().map(|(name, _)| (name.clone(), Broker::new(plan.alone, log_broken)));
        let brokers = brokers.collect();
        let mut seats = vec![("coordinator".to_owned(), None, Seat::default())];
        if plan.alone {
            seats[0].0 = "drover".into();
        } else {
            seats.extend(
                (0..plan.extractors).map(|n| (format!("extractor{n}"), Some(Role::Extractor), Seat::default())),
            );
            seats.extend((0..plan.appliers).map(|n| (format!("applier{n}"), Some(Role::Applier), Seat::default())));
        }
        Arc::new(World {
            options,
            net: Net::new(plan.weather),
            brokers: Arc::new(brokers),
            source,
            destination,
            desk: Desk::default(),
            // Copies that were begun before the limit was reached come to their end: one for each slot, of workers that died meanwhile as well.
            disk: Disk::new(plan.tuning.bulk_bytes + 16 * (plan.tuning.chunk_bytes + 2_000), checker.clone()),
            checker,
            calm: watch::Sender::new(options.calm),
            seats,
            plan,
        })
    }

    fn is_calm(&self) -> bool {
        *self.calm.borrow()
    }

    async fn run(self: Arc<World>) {
        workload::fill(&self.source, self.plan.habits, self.plan.before);
        for (name, role, seat) in &self.seats {
            let (world, name, role, seat) = (self.clone(), name.clone(), *role, seat.clone());
            tokio::spawn(async move { world.keep(&name, role, &seat).await });
        }
        while self.desk.get().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let nemesis = tokio::spawn(nemesis(self.clone()));
        let impatient = !self.options.calm && sim::chance(400_000);
        let operator = impatient.then(|| tokio::spawn(operator::impatient(self.clone())));
        self.work().await;
        if !self.options.calm {
            tokio::time::sleep(sim::ms(0, 30_000)).await;
        }
        self.calm.send_replace(true);
        nemesis.abort();
        if let Some(operator) = operator {
            operator.abort();
        }
        self.net.heal();
        machine::skew(0);
        for (_, _, seat) in &self.seats {
            if let Some(node) = seat.get() {
                node.thaw();
            }
        }
        note!("calm");
        for (name, _) in &self.plan.migrations {
            self.finish(name).await;
        }
        if let Err(error) = self.disk.check() {
            sim::violated(error.to_string());
        }
        note!("at the end after {} steps", sim::steps());
    }

    /// The application's work, for some time.
    async fn work(&self) {
        let quick = sim::chance(500_000);
        for _ in 0..self.plan.transactions {
            workload::transact(&self.source, self.plan.habits);
            self.checker.look();
            self.plan.migrations.iter().for_each(|(name, _)| self.look_at_state(name));
            if sim::is_violated() {
                return;
            }
            let pause = match sim::below(10) {
                0 => sim::ms(0, 8_000),
                1..4 if quick => Duration::ZERO,
                _ => sim::ms(0, 300),
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Keeps a seat taken: a process that died is started again after a while.
    async fn keep(&self, name: &str, role: Option<Role>, seat: &Seat) {
        for life in 1u64.. {
            let node = Node::new(name.to_owned(), if self.is_calm() { 0 } else { self.plan.dies });
            let stop = CancellationToken::new();
            seat.set(Some((node.clone(), stop.clone())));
            note!("{name} starts for the {life}. time");
            let mut tasks = match role {
                None => self.start_coordinator(&node, &stop).await,
                Some(role) => vec![self.start_worker(&node, role, &stop)],
            };
            tokio::select! {
                biased;
                () = node.died() => {}
                // A shutdown that was asked for comes to its end.
                () = async { stop.cancelled().await; ended(&mut tasks).await } => {
                    note!("{name} has shut down");
                    node.kill();
                }
            }
            seat.set(None);
            if role.is_none() {
                self.desk.stop();
                self.brokers.values().for_each(|broker| broker.crash());
            }
            for task in tasks {
                task.abort();
                // However it ends, it has ended.
                let _ = task.await;
            }
            for peer in [Peer::Source, Peer::Destination, Peer::Log, Peer::Coordinator] {
                self.net.disconnect(name, peer);
            }
            tokio::time::sleep(if self.is_calm() { Duration::from_millis(100) } else { sim::ms(10, 12_000) }).await;
        }
    }

    async fn start_coordinator(&self, node: &Arc<Node>, stop: &CancellationToken) -> Vec<tokio::task::JoinHandle<()>> {
        let (alone, tuning) = (self.plan.alone, self.plan.tuning);
        let started = self.desk.start(node.clone(), self.disk.clone(), alone, tuning, self.net.clone()).await;
        if let Err(error) = started {
            sim::violated(format!("the coordinator does not start: {error}"));
            return Vec::new();
        }
        let Some((_, desk)) = self.desk.get() else { return Vec::new() };
        let (plan, who, checker) = (self.plan.clone(), node.clone(), self.checker.clone());
        let create = Within::new(who, async move {
            for (name, tables) in &plan.migrations {
                if desk.snapshot_view(name).is_err() {
                    let created = desk.create(migration(&plan, name, tables), false).await;
                    note!("{name} created: {}", created.is_ok());
                } else if matches!(desk.snapshot_view(name).map(|v| v.state), Ok("paused")) && plan.alone {
                    let resumed = desk.act(name, "resume", None).await;
                    note!("{name} resumed: {}", resumed.is_ok());
                }
                if let Ok(view) = desk.snapshot_view(name) {
                    checker.migration(name, view.id);
                }
            }
        });
        let mut tasks = vec![tokio::spawn(create)];
        if alone {
            tasks.push(self.start_worker(node, Role::Extractor, stop));
            tasks.push(self.start_worker(node, Role::Applier, stop));
        }
        tasks
    }

    fn start_worker(&self, node: &Arc<Node>, role: Role, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let link = Link { peer: Peer::Source, ..way(&self.net, node) };
        let factories = Arc::new(Factories {
            link,
            destination: self.destination.clone(),
            brokers: self.brokers.clone(),
            checker: self.checker.clone(),
            batch: self.plan.batch,
        });
        let handler: Arc<dyn Handler> = match role {
            Role::Applier => {
                let (pieces, keys) = (self.plan.pieces as usize, self.plan.keys as usize);
                let options = ApplyOptions { pieces, keys, ..ApplyOptions::default() };
                Arc::new(Applier::new(factories.clone(), factories).applying(options))
            }
            _ => Arc::new(Extractor::new(factories.clone(), factories, "no-folder".into())),
        };
        let control = Arc::new(SimControl {
            desk: self.desk.clone(),
            link: way(&self.net, node),
            alone: self.plan.alone,
            checker: self.checker.clone(),
            blind: self.options.sabotage == Sabotage::Blind,
        });
        let options = worker::Options { control, role, name: node.name.clone(), slots: 2, vitals: Arc::default() };
        let work = worker::run(options, handler, stop.clone());
        tokio::spawn(Within::new(node.clone(), async move {
            if let Err(error) = work.await {
                note!("a worker ended: {error}");
            }
        }))
    }
}

/// Waits until all tasks have ended, and lets go of each that has.
async fn ended(tasks: &mut Vec<tokio::task::JoinHandle<()>>) {
    while let Some(task) = tasks.last_mut() {
        // However it ends, it has ended.
        let _ = task.await;
        tasks.pop();
    }
}

/// What goes wrong, one after the other.
async fn nemesis(world: Arc<World>) {
    if world.options.calm {
        return;
    }
    loop {
        let every = world.plan.every.as_millis() as u64;
        tokio::time::sleep(sim::ms(every / 4, every * 2)).await;
        let Some((name, _, seat)) = sim::pick(&world.seats) else { return };
        let peers = [Peer::Source, Peer::Destination, Peer::Log, Peer::Coordinator];
        let Some(peer) = sim::pick(&peers).copied() else { return };
        match sim::below(14) {
            13 => {
                sim::fault("process stopped");
                note!("{name} is asked to stop");
                seat.stop();
            }
            0..3 => {
                if let Some(node) = seat.get() {
                    sim::fault("process killed");
                    note!("{name} is killed");
                    node.kill();
                }
            }
            3..5 => {
                if let Some(node) = seat.get() {
                    sim::fault("process frozen");
                    let time = if sim::chance(500_000) { sim::ms(100, 5_000) } else { sim::ms(5_000, 40_000) };
                    note!("{name} is frozen for {time:?}");
                    node.freeze(time);
                }
            }
            5..7 => {
                sim::fault("network cut");
                let time = sim::ms(100, 40_000);
                note!("{name} and {peer:?} are cut off from each other for {time:?}");
                world.net.cut(name, peer, time);
                if sim::chance(500_000) {
                    world.net.disconnect(name, peer);
                }
            }
            7..9 => {
                sim::fault("connections cut");
                note!("connections of {name} to {peer:?} are cut");
                world.net.disconnect(name, peer);
            }
            9 => {
                sim::fault("source restarted");
                note!("the source restarts");
                world.source.lose_snapshots();
                let names: Vec<String> = world.seats.iter().map(|s| s.0.clone()).collect();
                world.net.disconnect_all(Peer::Source, &names);
            }
            10 => {
                sim::fault("destination crashed");
                world.checker.look();
                let left = world.destination.crash(|n| sim::below(n as u64) as usize);
                world.checker.crashed(left);
                let names: Vec<String> = world.seats.iter().map(|s| s.0.clone()).collect();
                world.net.disconnect_all(Peer::Destination, &names);
            }
            11 => {
                sim::fault("clock jumped");
                let by = sim::below(7_200_000) as i64 - 3_600_000;
                note!("wall clocks are off by {by} ms");
                machine::skew(by);
            }
            _ => {
                sim::fault("paused");
                let world = world.clone();
                tokio::spawn(async move {
                    let Some((name, _)) = sim::pick(&world.plan.migrations) else { return };
                    world.act(name, "pause", None).await;
                    tokio::time::sleep(sim::ms(100, 10_000)).await;
                    world.act(name, "resume", None).await;
                });
            }
        }
    }
}
