//! The producer that a log's appenders share, and the appender.
//!
//! It is idempotent and never gives up a message by itself; so a partition holds a prefix of what an appender appended, without holes and
//! repetitions, whatever happens. The first failure, or a stall, ends the whole producer with all its appenders: nothing that
//! was appended after a lost record can still arrive. What was on the way then may have been written or not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_runtime::memory::Account;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use tokio::sync::watch;

use super::{HEADER, Kind, PART, Shared, blocking, kafka_error};
use crate::{Appender, Offset, Stream};

/// Bytes that a producer has on the way at most, a message's overhead included.
const ROOM: usize = 24 << 20;
/// What a message costs besides its payload.
const OVERHEAD: usize = 512;
/// How long one look for delivery reports lasts; a dropped producer ends that much later.
const TICK: Duration = Duration::from_millis(100);

/// What comes back with a delivery report.
pub(super) struct Note {
    track: Arc<Track>,
    sequence: u64,
    cost: usize,
    /// The record ends with this message; markers are no records.
    ends: Option<Ends>,
}

struct Ends {
    parts: u64,
}

/// How far an appender's messages have come.
struct Track {
    state: Mutex<Delivered>,
    durable: watch::Sender<u64>,
}

#[derive(Default)]
struct Delivered {
    messages: u64,
    /// Offsets of the parts of the record that is arriving.
    parts: VecDeque<Offset>,
    since_flush: Option<(Offset, Offset)>,
    /// Of the last marker.
    marked: Option<Offset>,
}

impl Track {
    fn state(&self) -> MutexGuard<'_, Delivered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives delivery reports and what librdkafka has to say.
pub(super) struct Reports {
    room: Arc<Account>,
    failed: watch::Sender<Option<Error>>,
    heard: Mutex<Instant>,
}

impl Reports {
    fn fail(&self, error: Error) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::warn!(%error, "the Kafka producer failed");
                *failed = Some(error);
            }
            first
        });
    }

    fn heard(&self) -> MutexGuard<'_, Instant> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::reader::log(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka producer");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Note>;

    fn delivery(&self, result: &DeliveryResult<'_>, note: Box<Note>) {
        self.room.give(note.cost);
        *self.heard() = Instant::now();
        match result {
            Ok(message) => {
                let offset = message.offset().max(0) as Offset;
                let mut state = note.track.state();
                if state.messages != note.sequence {
                    self.fail(Error::internal("Kafka reported deliveries out of order"));
                    return;
                }
                if self.failed.borrow().is_some() {
                    return;
                }
                state.messages += 1;
                let Some(Ends { parts }) = note.ends else {
                    state.parts.push_back(offset);
                    return;
                };
                // Parts of a record whose append was cancelled may lie before.
                let first = match parts {
                    0 | 1 => offset,
                    n => {
                        let skip = state.parts.len().saturating_sub(n as usize - 1);
                        state.parts.get(skip).copied().unwrap_or(offset)
                    }
                };
                state.parts.clear();
                if parts == 0 {
                    state.marked = Offset::try_from(message.offset()).ok();
                } else {
                    state.since_flush = Some((state.since_flush.map_or(first, |(f, _)| f), offset));
                }
                drop(state);
                note.track.durable.send_modify(|durable| *durable += 1);
            }
            Err((error, _)) => {
                self.fail(kafka_error("a record could not be written to Kafka", error.clone()));
            }
        }
    }
}

/// A producer and the thread that serves it.
pub(super) struct Wire {
    producer: Arc<BaseProducer<Reports>>,
    failed: watch::Receiver<Option<Error>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The thread drops the producer, which may wait for a moment.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Wire {
    pub(super) fn new(shared: &Shared) -> Result<Arc<Wire>> {
        let room = Account::new("log.producer", ROOM);
        let (failed, watching) = watch::channel(None);
        let reports = Reports { room, failed, heard: Mutex::new(Instant::now()) };
        let producer: BaseProducer<Reports> = shared
            .config()
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            // Never by itself: a message that is given up must not be followed by others.
            .set("message.timeout.ms", "0")
            .set("linger.ms", "2")
            .set("compression.type", "none")
            .set("batch.size", "1048576")
            .set("queue.buffering.max.kbytes", "32768")
            .set("queue.buffering.max.messages", "100000")
            .set("request.timeout.ms", "30000")
            .create_with_context(reports)
            .map_err(|e| kafka_error("cannot make a Kafka producer", e))?;
        let producer = Arc::new(producer);
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopped, stall) = (producer.clone(), stop.clone(), shared.options.stall);
        std::thread::Builder::new()
            .name("drover-kafka".into())
            .spawn(move || serve(&served, &stopped, stall))
            .map_err(|e| Error::internal("cannot start the Kafka producer's thread").cause(e))?;
        Ok(Arc::new(Wire { producer, failed: watching, stop }))
    }

    /// Why it no longer works, if so.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failed.borrow().clone()
    }

    fn reports(&self) -> &Reports {
        self.producer.context()
    }
}

/// Nobody may wait for a thread that is gone.
struct Served<'a>(&'a Reports);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::internal("the Kafka producer's thread died"));
        }
    }
}

fn serve(producer: &BaseProducer<Reports>, stop: &AtomicBool, stall: Duration) {
    let reports: &Reports = producer.context();
    let _served = Served(reports);
    let mut purged = false;
    while !stop.load(Ordering::Relaxed) {
        producer.poll(TICK);
        if producer.in_flight_count() == 0 {
            *reports.heard() = Instant::now();
        }
        let silent = reports.heard().elapsed();
        if silent > stall {
            let what = format!("Kafka has acknowledged nothing for {} s", silent.as_secs());
            reports.fail(
                Error::new(codes::LOG, Fault::Log, Retry::Connection, what).remedy("check the brokers and the network"),
            );
        }
        if let Some((code, reason)) = producer.client().fatal_error() {
            reports.fail(kafka_error(format!("the Kafka producer failed: {reason}"), KafkaError::Global(code)));
        }
        if !purged && reports.failed.borrow().is_some() {
            producer.purge(PurgeConfig::default().queue().inflight());
            purged = true;
        }
    }
}

/// Appends to a partition.
pub(super) struct KafkaAppender {
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    stream: Stream,
    topic: String,
    track: Arc<Track>,
    durable: watch::Receiver<u64>,
    failed: watch::Receiver<Option<Error>>,
    /// Random: names the runs of this appender.
    id: u64,
    messages: u64,
    /// Records and markers appended.
    records: u64,
    markers: u64,
}

impl KafkaAppender {
    pub(super) fn new(shared: Arc<Shared>, wire: Arc<Wire>, stream: Stream) -> Self {
        let track = Arc::new(Track { state: Mutex::default(), durable: watch::Sender::new(0) });
        KafkaAppender {
            topic: shared.topic(stream),
            durable: track.durable.subscribe(),
            failed: wire.failed.clone(),
            id: uuid::Uuid::new_v4().as_u64_pair().0,
            shared,
            wire,
            stream,
            track,
            messages: 0,
            records: 0,
            markers: 0,
        }
    }

    /// Appends a marker.
    pub(super) async fn mark(&mut self) -> Result<()> {
        self.send(Kind::Marker, Bytes::new(), Some(Ends { parts: 0 })).await?;
        self.records += 1;
        self.markers += 1;
        Ok(())
    }

    /// Where the marker lies; waits until it is durable.
    pub(super) async fn marked(&mut self) -> Result<Option<Offset>> {
        self.flush().await?;
        Ok(self.track.state().marked)
    }

    async fn send(&mut self, kind: Kind, payload: Bytes, ends: Option<Ends>) -> Result<()> {
        let cost = tokio::select! {
            cost = self.wire.reports().room.take(payload.len() + OVERHEAD) => cost,
            failed = self.failed.wait_for(Option::is_some) => return Err(failure(failed.ok().and_then(|f| f.clone()))),
        };
        let header = kind.encode(self.shared.options.migration);
        let note = Note { track: self.track.clone(), sequence: self.messages, cost, ends };
        let mut record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, Box::new(note))
            .partition(Shared::partition(self.stream))
            .payload(&payload[..])
            .headers(OwnedHeaders::new().insert(Header { key: HEADER, value: Some(&header) }));
        let unknown = Instant::now();
        loop {
            if let Some(error) = self.wire.failure() {
                return Err(error);
            }
            match self.wire.producer.send(record) {
                Ok(()) => break,
                // Many small messages: their number is limited as well.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // Partitions that were added since this client last asked.
                Err((
                    KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic),
                    back,
                )) if unknown.elapsed() < self.shared.options.stall => {
                    record = back;
                    let (producer, topic) = (self.wire.producer.clone(), self.topic.clone());
                    let patience = self.shared.options.stall;
                    // An answer or none: sending again decides.
                    let asked = blocking(move || producer.client().fetch_metadata(Some(&topic), patience).map(|_| ()));
                    if let Err(error) = asked.await? {
                        tracing::debug!(%error, topic = self.topic, "cannot ask for the partitions");
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err((error, back)) => {
                    self.wire.reports().room.give(back.delivery_opaque.cost);
                    let error = kafka_error("a record could not be written to Kafka", error);
                    self.wire.reports().fail(error.clone());
                    return Err(error);
                }
            }
        }
        self.messages += 1;
        self.shared.count(self.stream, payload.len());
        Ok(())
    }

    async fn wait(&mut self, beyond: u64) -> Result<u64> {
        tokio::select! {
            // What arrived before a failure counts.
            biased;
            durable = self.durable.wait_for(|d| *d > beyond) =>
                durable.map(|d| *d).map_err(|_| Error::internal("the Kafka producer is gone")),
            failed = self.failed.wait_for(Option::is_some) => Err(failure(failed.ok().and_then(|f| f.clone()))),
        }
    }
}

fn failure(error: Option<Error>) -> Error {
    error.unwrap_or_else(|| Error::internal("the Kafka producer is gone"))
}

#[async_trait]
impl Appender for KafkaAppender {
    async fn append(&mut self, record: Bytes) -> Result<()> {
        if record.len() <= PART {
            self.send(Kind::Whole, record, Some(Ends { parts: 1 })).await?;
        } else {
            let count = record.len().div_ceil(PART) as u32;
            // The number of messages so far is never used twice, not even after a cancelled call.
            let run = (self.id, self.messages);
            for index in 0..count {
                let from = index as usize * PART;
                let part = record.slice(from..record.len().min(from + PART));
                let ends = (index + 1 == count).then_some(Ends { parts: u64::from(count) });
                self.send(Kind::Part { run, index, count }, part, ends).await?;
            }
        }
        self.records += 1;
        Ok(())
    }

    fn durable(&self) -> u64 {
        (*self.durable.borrow()).saturating_sub(self.markers)
    }

    async fn durable_beyond(&mut self, seen: u64) -> Result<u64> {
        Ok(self.wait(seen + self.markers).await? - self.markers)
    }

    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>> {
        if self.records > 0 {
            self.wait(self.records - 1).await?;
        }
        Ok(self.track.state().since_flush.take())
    }
}
