//! A source with an application, a destination, and the coordinator's part of woven windows: which chunks there are, new attempts,
//! chunks of owed keys, readers that die and begin anew.

use crate::seen::Seen;
use bytes::Bytes;
use drover_connectors_api::source::Followed;
use drover_connectors_api::{ChangeStream, Connector, Source, StreamSpec, Target};
use drover_connectors_memory::woven::{Blocks, Page, Taken, Weaver, What, Window, Woven};
use drover_connectors_memory::{Broken, Database, Memory, Row, Transaction, Value, database, forget};
use drover_model::Position;
use drover_model::chunk::Bounds;
use drover_model::ddl::Schemas;
use drover_model::handover::woven::Attempt;
use drover_model::migration::{Endpoint, Tls, Url};
use drover_model::plan::{PlanColumn, TablePlan};
use drover_model::schema::{Column, DataType, OldImage, Table, TableName, UniqueKey};
use drover_model::selection::Selection;
use futures::FutureExt;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Small, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habit {
    pub source: Option<Broken>,
    pub destination: Option<Broken>,
    /// High marks are written before the last record is durable.
    pub early_high: bool,
    /// A record is another one than was read.
    pub other_record: bool,
    /// The records of an attempt lie under another one's name.
    pub mixed: bool,
    /// There are no rows at first.
    pub empty: bool,
}

pub struct Reading {
    pub window: Window,
    /// The record that is held back until the high mark is written.
    held: Option<Bytes>,
}

pub struct World {
    migration: Uuid,
    hosts: [String; 2],
    pub source: Database,
    destination: Database,
    connector: Box<dyn Source>,
    table: TableName,
    plan: TablePlan,
    woven: Woven,
    blocks: Blocks,
    batch_bytes: usize,
    habit: Habit,
    start: Position,
    weaver: Option<Weaver>,
    stream: Option<Box<dyn ChangeStream>>,
    /// What each chunk asks for.
    chunks: BTreeMap<u32, What>,
    attempts: u64,
    pub windows: Vec<Reading>,
    /// The source's rows after each transaction, by place in the log.
    history: BTreeMap<Vec<u8>, BTreeSet<Row>>,
    applied: Vec<Position>,
    pub seen: Seen,
}

impl Drop for World {
    fn drop(&mut self) {
        self.hosts.iter().for_each(|h| forget(h));
    }
}

fn text() -> DataType {
    DataType::Text { max: None, padded: false }
}

fn value(text: impl ToString) -> Value {
    Some(text.to_string().into_bytes())
}

/// Keys that rows have.
const KEYS: u64 = 9;

fn key(n: u64) -> Value {
    value(n)
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits in memory")
}

impl World {
    /// A source with some rows, to be read in so many chunks.
    pub fn new(rng: &mut Rng, habit: Habit, chunks: u32) -> World {
        let migration = Uuid::from_u128(u128::from(rng.below(u64::MAX)) << 64 | 1);
        let id = Uuid::new_v4();
        let hosts = [format!("woven-source-{id}"), format!("woven-destination-{id}")];
        let [source, destination] = hosts.clone().map(|h| database(&h));
        let table = TableName::new("s", "t");
        let names = ["k", "a", "large"];
        let image = if !habit.empty && rng.chance(20) { OldImage::Full } else { OldImage::Key };
        let def = Table {
            keys: vec![UniqueKey { name: "pk".into(), primary: true, columns: vec!["k".into()], identifies: true }],
            physical: "as created".into(),
            options: BTreeMap::from([("large".to_owned(), "large".to_owned())]),
            ..Table::new(table.clone(), names.map(|c| Column::new(c, text(), "text")).to_vec(), image)
        };
        source.create(def.clone());
        destination.create(def);
        let columns = names.map(|c| PlanColumn::new(c, text(), "text")).to_vec();
        let plan = TablePlan { key: vec![0], ..TablePlan::new(0, table.clone(), columns) };
        let url = Url {
            scheme: "memory".into(),
            host: hosts[0].clone(),
            port: None,
            user: None,
            database: None,
            params: vec![],
        };
        let endpoint = Endpoint { kind: "memory".into(), url, password: None, tls: Tls::default() };
        let target = Target { endpoint, password: None, migration, name: "woven".into(), readers: 1 };
        let connector = now(Memory.source(target)).unwrap();
        let woven = Woven::new(source.clone(), migration, table.clone()).unwrap();
        let cuts = |n: u32| (n > 0 && n < chunks).then(|| vec![(u64::from(n) * KEYS / u64::from(chunks)).to_string()]);
        let bounds = (0..chunks).map(|n| (n, What::Within(Bounds::Keys { from: cuts(n), to: cuts(n + 1) })));
        let mut world = World {
            migration,
            hosts,
            destination,
            connector,
            table,
            plan,
            woven,
            blocks: Blocks::default(),
            batch_bytes: if rng.chance(50) { 1 } else { 1 << 16 },
            habit,
            start: source.position(),
            source,
            weaver: None,
            stream: None,
            chunks: bounds.collect(),
            attempts: 0,
            windows: Vec::new(),
            history: BTreeMap::new(),
            applied: Vec::new(),
            seen: Seen::default(),
        };
        for n in 0..KEYS {
            if !habit.empty && rng.chance(50) {
                world.commit(rng, |t, table, _| t.insert(table, vec![key(n), value("first"), value("large")])).unwrap();
            }
        }
        world.show_all();
        if let Some(broken) = habit.source {
            world.source.break_promise(broken);
        }
        if let Some(broken) = habit.destination {
            world.destination.break_promise(broken);
        }
        world.start = world.source.position();
        world.open(true).unwrap();
        world
    }

    /// A reader, and the stream that it reads.
    fn open(&mut self, fresh: bool) -> Result<(), String> {
        let (plan, start) = (&self.plan, &self.start);
        let wanted = self.chunks.keys().copied().collect::<Vec<_>>();
        let weaver =
            Weaver::take_over(self.destination.clone(), self.migration, plan, start, wanted, self.blocks.clone());
        let weaver = weaver.map_err(|e| e.to_string())?;
        let tables = weaver.tables();
        let catalog = now(self.connector.catalog()).unwrap();
        let selection = Selection::compile(&[]).unwrap();
        let schemas = Schemas::new(catalog, tables.clone());
        let spec = StreamSpec {
            migration: self.migration,
            name: "woven".into(),
            tables: tables.into(),
            schemas: Some(Followed { schemas, selection, policy: Default::default() }.into()),
            fresh,
            epoch: 1,
            resume: (!fresh).then(|| weaver.begins().clone()),
            may_set_identity: false,
            spill: std::path::PathBuf::new(),
            batch_bytes: self.batch_bytes,
        };
        let opened = now(self.connector.open_stream(spec)).map_err(|e| e.to_string())?;
        self.stream = Some(opened.stream);
        self.weaver = Some(weaver);
        Ok(())
    }

    fn weaver(&mut self) -> &mut Weaver {
        self.weaver.as_mut().unwrap()
    }

    /// The rows of now, for the history.
    fn note(&mut self) {
        let rows = self.source.rows(&self.table).unwrap().into_iter().collect();
        self.history.insert(self.source.position().order, rows);
    }

    fn commit(
        &mut self,
        rng: &mut Rng,
        work: impl FnOnce(&mut Transaction, &TableName, &mut Rng) -> drover_model::Result<()>,
    ) -> drover_model::Result<()> {
        let (source, table) = (self.source.clone(), self.table.clone());
        let done = if rng.chance(25) {
            source.transact_unseen(|t| work(t, &table, rng)).map(drop)
        } else {
            source.transact(|t| work(t, &table, rng))
        };
        self.seen.transactions += u64::from(done.is_ok());
        self.note();
        done
    }

    /// Columns of the table.
    pub fn width(&self) -> usize {
        3 + self.seen.columns as usize
    }

    /// A transaction of the application; what is refused is passed over.
    pub fn write(&mut self, rng: &mut Rng) {
        let (mut moves, mut truncates, width) = (0, 0, self.width());
        let done = self.commit(rng, |t, table, rng| {
            for _ in 0..1 + rng.below(3) {
                let before = t.savepoint();
                let (k, to, stamp) = (key(rng.below(KEYS)), key(rng.below(KEYS)), value(rng.below(1000)));
                let at = std::slice::from_ref(&k);
                let done = match rng.below(24) {
                    0..7 => {
                        let mut row = vec![k, stamp, value("new")];
                        row.resize(width, None);
                        t.insert(table, row)
                    }
                    7..10 => t.update(table, at, &[("a", stamp)]),
                    10..12 => t.update(table, at, &[("large", stamp)]),
                    12..20 => t.update(table, at, &[("k", to), ("a", stamp)]).inspect(|()| moves += 1),
                    20..23 => t.delete(table, at),
                    _ if rng.chance(25) => t.truncate(std::slice::from_ref(table)).inspect(|()| truncates += 1),
                    _ => Ok(()),
                };
                if done.is_err() {
                    t.rollback_to(before);
                }
            }
            Ok(())
        });
        done.unwrap();
        self.seen.moves += moves;
        self.seen.truncates += truncates;
    }

    pub fn insert_unseen(&mut self, k: &str) -> u64 {
        let table = self.table.clone();
        // A row of this key may be there; the new one is to be new.
        let _ = self.source.transact(|t| t.delete(&table, &[value(k)]));
        self.note();
        let row = vec![value(k), value("late"), value("late")];
        let at = self.source.transact_unseen(|t| t.insert(&table, row)).unwrap().1;
        self.note();
        at
    }

    pub fn show(&mut self, at: u64) {
        self.source.show(at);
    }

    pub fn show_one(&mut self, rng: &mut Rng) {
        let unseen = self.source.unseen();
        if !unseen.is_empty() {
            self.source.show(unseen[rng.below(unseen.len() as u64) as usize]);
        }
    }

    pub fn add_column(&mut self) {
        if self.seen.columns < 2 {
            let name = format!("c{}", self.seen.columns);
            self.source
                .add_column(&self.table, Column { nullable: true, ..Column::new(name, text(), "text") })
                .unwrap();
            self.seen.columns += 1;
            self.note();
        }
    }

    /// Another attempt at a chunk, the coordinator's choice; sometimes at one that another reader is still at.
    pub fn begin(&mut self, rng: &mut Rng) {
        self.ask_for_owed();
        let open = |chunk: u32| self.windows.iter().filter(|r| r.window.of.chunk == chunk).count();
        let loaded = self.weaver.as_ref().unwrap().loaded();
        let missing: Vec<u32> = self.chunks.keys().copied().filter(|c| !loaded.contains(c) && open(*c) < 2).collect();
        if !missing.is_empty() {
            self.begin_chunk(missing[rng.below(missing.len() as u64) as usize]);
        }
    }

    pub fn begin_chunk(&mut self, chunk: u32) {
        self.attempts += 1;
        let of = Attempt { chunk, attempt: self.attempts };
        let window = self.woven.begin(of, self.chunks[&chunk].clone()).unwrap();
        self.windows.push(Reading { window, held: None });
    }

    /// All chunks are in, but rows are owed: they become a chunk of their own.
    fn ask_for_owed(&mut self) {
        let weaver = self.weaver.as_mut().unwrap();
        let keys = weaver.owed();
        if keys.is_empty() || self.chunks.keys().any(|c| !weaver.loaded().contains(c)) {
            return;
        }
        let chunk = 100 + self.chunks.len() as u32;
        weaver.want(chunk);
        self.chunks.insert(chunk, What::Keys(keys));
        self.seen.owed_chunks += 1;
    }

    /// A reader of a chunk goes on: a page, or the high mark.
    fn step(&mut self, index: usize, rows: usize, rng: &mut Rng) -> Result<bool, String> {
        let reading = &mut self.windows[index];
        let of = reading.window.of;
        let append = |of: Attempt, mut record: Bytes, rng: &mut Rng| {
            if self.habit.other_record && rng.chance(5) {
                record = Bytes::from([&record[..], &record[..]].concat());
            }
            let mixed = self.habit.mixed && rng.chance(5);
            let of = if mixed { Attempt { attempt: of.attempt - 1, ..of } } else { of };
            self.blocks.append(of, record);
        };
        match reading.window.page(rows).map_err(|e| e.to_string())? {
            Page::Unseen => {
                self.seen.unseen += 1;
                return Ok(false);
            }
            Page::Record(record) if self.habit.early_high => {
                if let Some(before) = reading.held.replace(record) {
                    append(of, before, rng);
                }
            }
            Page::Record(record) => append(of, record, rng),
            Page::End => {
                let reading = self.windows.remove(index);
                reading.window.high().map_err(|e| e.to_string())?;
                if let Some(held) = reading.held {
                    // So late that the reader may have met the mark.
                    if rng.chance(20) {
                        self.take_all()?;
                    }
                    self.blocks.append(of, held);
                }
            }
        }
        Ok(true)
    }

    pub fn read_on(&mut self, rng: &mut Rng) -> Result<(), String> {
        if self.windows.is_empty() {
            return Ok(());
        }
        let index = rng.below(self.windows.len() as u64) as usize;
        let rows = 1 + rng.below(3) as usize;
        self.step(index, rows, rng).map(drop)
    }

    /// The oldest window, one row after the other, as far as it goes.
    pub fn read_to_end(&mut self) -> Result<(), String> {
        let mut rng = Rng(0);
        let before = self.windows.len();
        while before > 0 && self.windows.len() == before && self.step(0, 1, &mut rng)? {}
        Ok(())
    }

    /// One step of the oldest window: a page of one row, or the high mark.
    pub fn read_one(&mut self) -> Result<(), String> {
        if self.windows.is_empty() { Ok(()) } else { self.step(0, 1, &mut Rng(0)).map(drop) }
    }

    /// The reader of a chunk dies.
    pub fn give_up(&mut self, rng: &mut Rng) {
        if !self.windows.is_empty() {
            self.windows.remove(rng.below(self.windows.len() as u64) as usize);
            self.seen.died += 1;
        }
    }

    /// The weaver takes a batch, if there is one.
    pub fn take(&mut self) -> Result<bool, String> {
        let stream = self.stream.as_mut().unwrap();
        let Some(batch) = stream.next().now_or_never() else { return Ok(false) };
        let batch = batch.map_err(|e| e.to_string())?;
        let Taken { won, passed_over, void } = self.weaver().take(&batch).map_err(|e| e.to_string())?;
        self.seen.won += won.len() as u64;
        self.seen.passed_over += passed_over.len() as u64;
        self.seen.void += void.len() as u64;
        let applied = self.weaver().applied().clone();
        if self.applied.last().is_some_and(|last| *last > applied) {
            return Err(format!("applied went back to {applied}"));
        }
        self.applied.push(applied);
        if self.weaver().settled() {
            self.seen.compared += 1;
            self.compare()?;
        }
        Ok(true)
    }

    pub fn take_all(&mut self) -> Result<(), String> {
        while self.take()? {}
        Ok(())
    }

    /// The destination against the source at the applied position, in both directions.
    pub fn compare(&mut self) -> Result<(), String> {
        let applied = self.weaver().applied().clone();
        let state = self.history.range(..=applied.order.clone()).next_back().map(|(_, rows)| rows.clone());
        let (want, got) = (state.unwrap_or_default(), self.destination.rows(&self.table).unwrap());
        let got_set: BTreeSet<Row> = got.iter().cloned().collect();
        let missing: Vec<_> = want.difference(&got_set).map(shown).collect();
        let extra: Vec<_> = got_set.difference(&want).map(shown).collect();
        if !missing.is_empty() || !extra.is_empty() || got.len() != want.len() {
            return Err(format!("at {applied} rows are missing: {missing:?}, too many: {extra:?}"));
        }
        Ok(())
    }

    /// The weaver dies, and another takes its place.
    pub fn restart(&mut self) -> Result<(), String> {
        self.seen.restarts += 1;
        let weaver = self.weaver();
        self.seen.inside += u64::from(weaver.resume_from() < *weaver.applied());
        (self.weaver, self.stream) = (None, None);
        self.open(false)
    }

    /// The source may forget what nobody will go back to.
    pub fn confirm(&mut self) -> Result<(), String> {
        let upto = self.weaver().resume_from();
        let stream = self.stream.as_mut().unwrap();
        now(stream.confirm(&upto)).map_err(|e| e.to_string())
    }

    /// Everything comes to its end: commits are seen, chunks read, owed rows fetched.
    pub fn finish(&mut self, rng: &mut Rng) -> Result<(), String> {
        self.show_all();
        for _ in 0..20 {
            while !self.windows.is_empty() {
                self.read_to_end()?;
            }
            self.take_all()?;
            if self.weaver().settled() {
                break;
            }
            for _ in 0..4 {
                self.begin(rng);
            }
        }
        if !self.weaver().settled() {
            return Err(format!(
                "it does not settle: {:?} are loaded, {:?} owed",
                self.weaver().loaded().clone(),
                self.weaver().owed()
            ));
        }
        // Once more, strictly.
        for _ in 0..3 {
            self.write(rng);
            self.take_all()?;
        }
        let end = self.source.position();
        if *self.weaver().applied() != end {
            return Err(format!("applied is {}, the source is at {}", self.weaver().applied().clone(), end));
        }
        self.compare()
    }

    /// For enumerations: one chunk, and of the rows that there may be only `1`.
    pub fn few() -> World {
        let mut world = World::new(&mut Rng(0), Habit { empty: true, ..Habit::default() }, 1);
        let row = vec![key(1), value("first"), value("large")];
        world.write_one(false, |t, table| t.insert(table, row));
        world
    }

    pub fn show_all(&mut self) {
        self.source.unseen().into_iter().for_each(|at| self.source.show(at));
    }

    /// For enumerations: writes one thing, on few keys.
    pub fn write_one(
        &mut self,
        unseen: bool,
        work: impl FnOnce(&mut Transaction, &TableName) -> drover_model::Result<()>,
    ) {
        let (source, table) = (self.source.clone(), self.table.clone());
        // What is refused is passed over.
        let _ = if unseen {
            source.transact_unseen(|t| work(t, &table)).map(drop)
        } else {
            source.transact(|t| work(t, &table))
        };
        self.note();
    }
}

fn shown(row: &Row) -> String {
    let cell = |v: &Value| v.as_ref().map_or_else(|| "null".into(), |v| String::from_utf8_lossy(v).into_owned());
    row.iter().map(cell).collect::<Vec<_>>().join("|")
}
