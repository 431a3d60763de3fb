//! The publisher with a source that is watched and a log that says of itself how full it is.

use crate::stream::{News, Publisher, Register, begin_of_log, end_of_log};
use async_trait::async_trait;
use bytes::Bytes;
use drover_connectors_api::{Batch, ChangeStream, Piece};
use drover_log::{Appender, Log, Offset, Reader, Span, Stream};
use drover_model::ddl::SchemaChange;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};
use drover_proto::order::Opening;
use drover_proto::record::frame;
use drover_proto::v1::ChangesHead;
use drover_runtime::CancellationToken;
use drover_runtime::rate::Pair;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn at(place: u64) -> Position {
    Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: vec![], text: place.to_string() }
}

/// Keeps nothing.
#[derive(Default)]
struct Full {
    bytes: AtomicU64,
    records: Arc<AtomicU64>,
}

struct Counting(Arc<AtomicU64>);

#[async_trait]
impl Appender for Counting {
    async fn append(&mut self, _: Bytes) -> Result<()> {
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }
    fn durable(&self) -> u64 {
        self.0.load(SeqCst)
    }
    async fn durable_beyond(&mut self, seen: u64) -> Result<u64> {
        if self.durable() <= seen {
            std::future::pending::<()>().await;
        }
        Ok(self.durable())
    }
    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>> {
        Ok(None)
    }
}

#[async_trait]
impl Log for Full {
    async fn open(&self, _: u32) -> Result<()> {
        Ok(())
    }
    async fn appender(&self, _: Stream) -> Result<Box<dyn Appender>> {
        Ok(Box::new(Counting(self.records.clone())))
    }
    async fn reader(&self, _: Stream, _: Offset) -> Result<Box<dyn Reader>> {
        Err(Error::internal("nobody reads"))
    }
    async fn span(&self, _: Stream) -> Result<Span> {
        Ok(Span::default())
    }
    async fn last(&self, _: Stream) -> Result<Option<(Offset, Bytes)>> {
        Ok(None)
    }
    async fn trim(&self, _: Stream, _: Offset) -> Result<()> {
        Ok(())
    }
    async fn bytes(&self, _: Stream) -> Result<u64> {
        Ok(self.bytes.load(SeqCst))
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

/// A change every now and then; pieces of one huge transaction if `pieces`.
#[derive(Default)]
struct Source {
    place: u64,
    pieces: bool,
    read: Arc<AtomicU64>,
    alive: Arc<AtomicU32>,
}

#[async_trait]
impl ChangeStream for Source {
    async fn next(&mut self) -> Result<Batch> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.place += 1;
        self.read.fetch_add(1, SeqCst);
        let (from, to) = if self.pieces { (at(0), at(1000)) } else { (at(self.place - 1), at(self.place)) };
        let piece = self.pieces.then_some(Piece { index: self.place as u32 - 1, last: false });
        let commit_micros = self.place as i64;
        Ok(Batch {
            from,
            to,
            payload: Bytes::from_static(b"x"),
            piece,
            transactions: 1,
            changes: 1,
            commit_micros,
            schema: None,
        })
    }
    async fn confirm(&mut self, _: &Position) -> Result<()> {
        Ok(())
    }
    async fn alive(&mut self) -> Result<()> {
        self.alive.fetch_add(1, SeqCst);
        Ok(())
    }
}

/// Notes the messages of events on this thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Said {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message<'a>(&'a mut Vec<String>);
        impl tracing::field::Visit for Message<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0.push(format!("{value:?}"));
                }
            }
        }
        event.record(&mut Message(&mut self.0.lock().unwrap()));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Said {
    fn times(&self, part: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|m| m.contains(part)).count()
    }
}

async fn until(what: &str, met: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !met() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// There are no schema changes here.
struct Nowhere;

#[async_trait]
impl Register for Nowhere {
    async fn schema_changed(&self, _: &Position, _: &SchemaChange) -> bool {
        false
    }
}

fn publisher(log: &Full) -> Publisher<'_> {
    let limits = Arc::new(Pair::default());
    Publisher {
        log,
        migration: MigrationId::from_u128(1),
        epoch: 1,
        revision: 1,
        budget: 1000,
        limits,
        register: Arc::new(Nowhere),
        followed: &|_| Err(Error::internal("no table is followed here")),
    }
}

#[tokio::test]
async fn a_full_log_is_announced_stops_reading_and_the_source_hears_of_us_meanwhile() {
    let said = Said::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    let (log, cancel) = (Full::default(), CancellationToken::new());
    let mut source = Source::default();
    let (read, alive) = (source.read.clone(), source.alive.clone());
    let publisher = publisher(&log);
    let publishing = publisher.run(&mut source, at(0), 0, |_: News| {}, &cancel);
    let watching = async {
        until("it reads", || read.load(SeqCst) > 10).await;
        assert_eq!(said.times("budget"), 0);
        log.bytes.store(850, SeqCst);
        until("a warning", || said.times("nearly used up") == 1).await;
        let before = read.load(SeqCst);
        until("it reads on", || read.load(SeqCst) > before + 20).await;
        assert_eq!((said.times("nearly used up"), said.times("is used up")), (1, 0), "once");
        log.bytes.store(1000, SeqCst);
        until("it stops", || said.times("is used up") == 1).await;
        let (before, signs) = (read.load(SeqCst), alive.load(SeqCst));
        until("signs of life", || alive.load(SeqCst) >= signs + 2).await;
        assert_eq!((read.load(SeqCst), said.times("is used up")), (before, 1), "nothing is read meanwhile");
        log.bytes.store(100, SeqCst);
        until("it goes on", || read.load(SeqCst) > before + 10).await;
        log.bytes.store(850, SeqCst);
        until("a warning again", || said.times("nearly used up") == 2).await;
        cancel.cancel();
    };
    let (published, ()) = tokio::join!(publishing, watching);
    published.unwrap();
}

#[tokio::test]
async fn a_transaction_in_pieces_is_told_of_before_it_is_complete() {
    let (log, cancel) = (Full::default(), CancellationToken::new());
    let mut source = Source { pieces: true, ..Source::default() };
    let publisher = publisher(&log);
    let told = Mutex::new(None);
    let news = |n: News| *told.lock().unwrap() = Some((n.published, n.reaching));
    let publishing = publisher.run(&mut source, at(0), 0, news, &cancel);
    let watching = async {
        until("news", || told.lock().unwrap().is_some()).await;
        cancel.cancel();
    };
    let (published, ()) = tokio::join!(publishing, watching);
    published.unwrap();
    assert_eq!(told.into_inner().unwrap(), Some((at(0), Some(at(1000)))));
}

/// A log as it is, which the applier (`overtakes`) trims down to its last record while somebody looks for its end, once.
struct Given {
    records: Vec<Bytes>,
    overtakes: bool,
    first: AtomicU64,
}

impl Given {
    fn new(records: impl IntoIterator<Item = Bytes>, overtakes: bool) -> Given {
        Given { records: records.into_iter().collect(), overtakes, first: AtomicU64::new(0) }
    }
}

struct From(Vec<Bytes>, Offset);

#[async_trait]
impl Reader for From {
    async fn next(&mut self) -> Result<(Offset, Bytes)> {
        self.1 += 1;
        Ok((self.1 - 1, self.0[self.1 as usize - 1].clone()))
    }
}

#[async_trait]
impl Log for Given {
    async fn open(&self, _: u32) -> Result<()> {
        Ok(())
    }
    async fn appender(&self, _: Stream) -> Result<Box<dyn Appender>> {
        Err(Error::internal("nobody appends"))
    }
    async fn reader(&self, _: Stream, from: Offset) -> Result<Box<dyn Reader>> {
        if from < self.first.load(SeqCst) {
            return Err(Error::new(codes::LOG, Fault::Log, Retry::Never, "trimmed"));
        }
        Ok(Box::new(From(self.records.clone(), from)))
    }
    async fn span(&self, _: Stream) -> Result<Span> {
        Ok(Span { first: self.first.load(SeqCst), next: self.records.len() as Offset })
    }
    async fn last(&self, _: Stream) -> Result<Option<(Offset, Bytes)>> {
        let last = self.records.len() - 1;
        if self.overtakes {
            self.first.store(last as u64, SeqCst);
        }
        Ok(Some((last as Offset, self.records[last].clone())))
    }
    async fn trim(&self, _: Stream, _: Offset) -> Result<()> {
        Ok(())
    }
    async fn bytes(&self, _: Stream) -> Result<u64> {
        Ok(0)
    }
    async fn remove(&self) -> Result<()> {
        Ok(())
    }
}

fn record(epoch: u64, from: u64, to: u64) -> Bytes {
    let head = ChangesHead {
        version: 1,
        epoch,
        from: at(from).to_bytes().into(),
        to: at(to).to_bytes().into(),
        ..Default::default()
    };
    frame(&head, b"")
}

#[tokio::test]
async fn ends_of_a_log_that_is_trimmed_meanwhile_are_found() {
    let log = || Given::new((0..5).map(|n| record(1, n, n + 1)), true);
    assert_eq!(end_of_log(&log(), None).await.unwrap(), Some(at(5)));
    let opening = Opening { start: at(0), epoch: 1, offset: 0 };
    assert_eq!(end_of_log(&log(), Some(&opening)).await.unwrap(), Some(at(5)));
    assert_eq!(begin_of_log(&log()).await.unwrap(), Some(at(4)));
}

/// An extractor that stood still comes back and hands over everything it has still got, more than anybody would look back for: the
/// applier's gate drops that, so whoever goes on from there leaves a gap.
#[tokio::test]
async fn many_late_records_do_not_hide_the_end() {
    let old = (0..20).map(|n| record(1, n, n + 1));
    let late = (5..3_000).map(|n| record(1, n, n + 1));
    let log = |own: u64| {
        let own = (20..20 + own).map(|n| record(2, n, n + 1));
        Given::new(old.clone().chain(own).chain(late.clone()), false)
    };
    let opening = Opening { start: at(20), epoch: 2, offset: 20 };
    assert_eq!(end_of_log(&log(3), Some(&opening)).await.unwrap(), Some(at(23)));
    // Opened, and nothing published yet.
    assert_eq!(end_of_log(&log(0), Some(&opening)).await.unwrap(), Some(at(20)));
    // Who knows nothing reads everything.
    assert_eq!(end_of_log(&log(3), None).await.unwrap(), Some(at(23)));
    // A log that has been lost and made anew has nothing to do with what was opened.
    let anew = Opening { start: at(20), epoch: 2, offset: 1_000_000 };
    assert_eq!(end_of_log(&log(0), Some(&anew)).await.unwrap(), Some(at(3_000)));
}
