//! The simulated log. Two kinds, as in production: a *broker* (everything acknowledged is durable; producers retry, acknowledgements come
//! late or not at all, records of a producer that died may still arrive) and the log *of one process* (changes are durable once synced, blocks of
//! rows are gone with the process).

use crate::net::{Link, Peer};
use crate::{note, sim};
use async_trait::async_trait;
use bytes::Bytes;
use drover_log::{Appender, Log, Offset, Reader, Span, Stream};
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Result, Retry};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Bytes on their way from one appender.
const IN_FLIGHT: u64 = 64 << 10;
/// A producer gives a record up after so long without an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Topic {
    records: BTreeMap<Offset, Bytes>,
    next: Offset,
    /// What lies before was trimmed.
    first: Offset,
    /// Behind this nothing is durable yet; in one process only.
    durable: Offset,
}

/// What the log breaks on purpose, to see that the checker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A record that was acknowledged is lost.
    Loses,
    /// Records change places.
    Reorders,
    /// Records are acknowledged before they are durable.
    Early,
}

/// The log of a migration, as it lies at the broker or on the disk.
pub struct Broker {
    topics: Mutex<BTreeMap<Stream, Topic>>,
    changed: watch::Sender<u64>,
    /// In one process: raised by every crash, after which nothing of before arrives.
    life: Mutex<u64>,
    local: bool,
    applied: Mutex<Option<Position>>,
    broken: Mutex<Option<Broken>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Broker {
    /// `local`: the log of one process.
    pub fn new(local: bool, broken: Option<Broken>) -> Arc<Broker> {
        Arc::new(Broker {
            topics: Mutex::default(),
            changed: watch::Sender::new(0),
            life: Mutex::default(),
            local,
            applied: Mutex::default(),
            broken: Mutex::new(broken),
        })
    }

    fn push(&self, stream: Stream, record: Bytes) -> Offset {
        let broken = *lock(&self.broken);
        let mut topics = lock(&self.topics);
        let topic = topics.entry(stream).or_default();
        let offset = topic.next;
        // Offsets may have holes.
        topic.next += 1 + u64::from(sim::chance(20_000));
        let hurt = stream == Stream::Changes && offset > 3;
        match broken {
            Some(Broken::Loses) if hurt && sim::chance(100_000) => {
                *lock(&self.broken) = None;
                note!("the log loses {offset}");
                return offset;
            }
            Some(Broken::Reorders) if hurt && sim::chance(200_000) => {
                if let Some(mut last) = topic.records.last_entry() {
                    let before = last.insert(record);
                    topic.records.insert(offset, before);
                    return offset;
                }
            }
            _ => {}
        }
        topic.records.insert(offset, record);
        offset
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Everything before this offset may be read.
    fn end(&self, topic: &Topic, stream: Stream) -> Offset {
        let early = *lock(&self.broken) == Some(Broken::Early);
        if self.local && stream == Stream::Changes && !early { topic.durable } else { topic.next }
    }

    fn sync(&self, stream: Stream, up_to: Offset) {
        let mut topics = lock(&self.topics);
        let topic = topics.entry(stream).or_default();
        topic.durable = topic.durable.max(up_to);
        drop(topics);
        self.tell();
    }

    /// The one process dies: what was not synced is lost, but for a part that made it to the disk, and all blocks of rows.
    pub fn crash(&self) {
        if !self.local {
            return;
        }
        *lock(&self.life) += 1;
        *lock(&self.applied) = None;
        for (stream, topic) in lock(&self.topics).iter_mut() {
            match stream {
                Stream::Changes => {
                    let keep = sim::between(topic.durable, topic.next + 1);
                    topic.records.retain(|offset, _| *offset < keep);
                    topic.next =
                        topic.records.last_key_value().map_or(topic.durable, |(o, _)| o + 1).max(topic.durable);
                    topic.durable = topic.next;
                }
                Stream::Bulk(_) => {
                    topic.records.clear();
                    // Offsets of before never come back.
                    topic.next += 1_000_000;
                    topic.first = topic.next;
                }
            }
        }
        self.tell();
    }

    fn life(&self) -> u64 {
        *lock(&self.life)
    }
}

/// The log as one process reaches it.
pub struct SimLog {
    broker: Arc<Broker>,
    link: Link,
}

impl SimLog {
    pub fn new(broker: Arc<Broker>, mut link: Link) -> SimLog {
        link.peer = Peer::Log;
        SimLog { broker, link }
    }

    /// A question to the broker. In one process there is no way to go.
    async fn ask<T>(&self, answer: impl FnOnce(&Broker) -> Result<T>) -> Result<T> {
        if self.broker.local {
            tokio::task::yield_now().await;
            return answer(&self.broker);
        }
        self.link.cross().await?;
        let answer = answer(&self.broker);
        self.link.cross().await?;
        answer
    }
}

fn trimmed(stream: Stream, from: Offset) -> Error {
    let text = format!("{stream:?} has no record {from} any more");
    Error::new(codes::LOG, Fault::Log, Retry::Never, text)
}

#[async_trait]
impl Log for SimLog {
    async fn open(&self, bulk: u32) -> Result<()> {
        self.ask(|broker| {
            let mut topics = lock(&broker.topics);
            topics.entry(Stream::Changes).or_default();
            for n in 0..bulk {
                topics.entry(Stream::Bulk(n)).or_default();
            }
            Ok(())
        })
        .await
    }

    async fn appender(&self, stream: Stream) -> Result<Box<dyn Appender>> {
        self.ask(|_| Ok(())).await?;
        let (queue, waiting) = mpsc::unbounded_channel();
        let state = Arc::new(watch::Sender::new(Acks::default()));
        // The producer's connection, not a task of the process: what is on its way may arrive after the process has died.
        let wire = Wire { broker: self.broker.clone(), link: self.link.clone(), stream, acks: state.clone() };
        tokio::spawn(wire.carry(waiting, self.broker.life()));
        Ok(Box::new(SimAppender { queue, acks: state.subscribe(), appended: 0, bytes: 0, flushed: 0 }))
    }

    async fn reader(&self, stream: Stream, from: Offset) -> Result<Box<dyn Reader>> {
        self.ask(|broker| {
            let topics = lock(&broker.topics);
            match topics.get(&stream) {
                Some(topic) if from < topic.first => Err(trimmed(stream, from)),
                _ => Ok(()),
            }
        })
        .await?;
        let (broker, link) = (self.broker.clone(), self.link.clone());
        Ok(Box::new(SimReader { broker, link, stream, next: from, ready: None }))
    }

    async fn span(&self, stream: Stream) -> Result<Span> {
        self.ask(|broker| {
            let topics = lock(&broker.topics);
            let Some(topic) = topics.get(&stream) else { return Ok(Span::default()) };
            let next = broker.end(topic, stream);
            Ok(Span { first: topic.records.first_key_value().map_or(next, |(o, _)| *o).min(next), next })
        })
        .await
    }

    async fn last(&self, stream: Stream) -> Result<Option<(Offset, Bytes)>> {
        self.ask(|broker| {
            let topics = lock(&broker.topics);
            let Some(topic) = topics.get(&stream) else { return Ok(None) };
            let end = broker.end(topic, stream);
            Ok(topic.records.range(..end).next_back().map(|(o, r)| (*o, r.clone())))
        })
        .await
    }

    async fn trim(&self, stream: Stream, before: Offset) -> Result<()> {
        self.ask(|broker| {
            if let Some(topic) = lock(&broker.topics).get_mut(&stream) {
                // Perhaps less.
                let before = if sim::chance(300_000) { before.saturating_sub(2) } else { before };
                topic.records = topic.records.split_off(&before);
                topic.first = topic.first.max(before);
            }
            Ok(())
        })
        .await
    }

    async fn bytes(&self, stream: Stream) -> Result<u64> {
        self.ask(|broker| {
            let topics = lock(&broker.topics);
            Ok(topics.get(&stream).map_or(0, |t| t.records.values().map(|r| r.len() as u64).sum()))
        })
        .await
    }

    fn note_applied(&self, position: &Position) {
        if self.broker.local {
            *lock(&self.broker.applied) = Some(position.clone());
        }
    }

    fn applied(&self) -> Option<Position> {
        lock(&self.broker.applied).clone()
    }

    async fn remove(&self) -> Result<()> {
        self.ask(|broker| {
            lock(&broker.topics).clear();
            Ok(())
        })
        .await
    }
}

/// What the producer knows of its records.
#[derive(Default, Clone)]
struct Acks {
    /// Offsets of those that are acknowledged, in order.
    offsets: Vec<Offset>,
    bytes: u64,
    failed: Option<Error>,
}

/// The way of a producer's records to the log, in order.
struct Wire {
    broker: Arc<Broker>,
    link: Link,
    stream: Stream,
    acks: Arc<watch::Sender<Acks>>,
}

impl Wire {
    async fn carry(self, mut waiting: mpsc::UnboundedReceiver<Bytes>, life: u64) {
        while let Some(record) = waiting.recv().await {
            // What was handed over by a process that is dead by now arrives, or nothing behind it does.
            if self.link.node.is_dead() && sim::chance(500_000) {
                return;
            }
            let arrived = if self.broker.local { self.sync(&record, life).await } else { self.send(&record).await };
            match arrived {
                Ok(offset) => self.acks.send_modify(|a| {
                    a.offsets.push(offset);
                    a.bytes += record.len() as u64;
                }),
                Err(error) => {
                    self.acks.send_modify(|a| a.failed = Some(error));
                    return;
                }
            }
        }
    }

    /// To the disk of this machine.
    async fn sync(&self, record: &Bytes, life: u64) -> Result<Offset> {
        let early = *lock(&self.broker.broken) == Some(Broken::Early);
        if self.broker.life() != life {
            return Err(self.link.lost("the process is gone"));
        }
        let offset = self.broker.push(self.stream, record.clone());
        if early && sim::chance(900_000) {
            self.broker.tell();
            // Told to be durable, and lost with the next crash.
            return Ok(offset);
        }
        if self.stream == Stream::Changes {
            let slow = sim::chance(self.link.net.weather().slow_disk);
            tokio::time::sleep(if slow { sim::ms(50, 3_000) } else { sim::ms(0, 4) }).await;
            if self.broker.life() != life {
                return Err(self.link.lost("the process is gone"));
            }
        }
        self.broker.sync(self.stream, offset + 1);
        Ok(offset)
    }

    /// To a broker: sent again until it is acknowledged; the broker takes each record of a producer once.
    async fn send(&self, record: &Bytes) -> Result<Offset> {
        let began = tokio::time::Instant::now();
        let mut offset = None;
        loop {
            let sent = self.link.cross().await;
            if sent.is_ok() && offset.is_none() {
                offset = Some(self.broker.push(self.stream, record.clone()));
                self.broker.tell();
            }
            if sent.is_ok()
                && self.link.cross().await.is_ok()
                && let Some(offset) = offset
            {
                return Ok(offset);
            }
            sim::fault("producer sends again");
            if began.elapsed() >= PATIENCE {
                let error = self.link.lost("the broker has not acknowledged for half a minute");
                return Err(error);
            }
            tokio::time::sleep(sim::ms(50, 500)).await;
        }
    }
}

struct SimAppender {
    queue: mpsc::UnboundedSender<Bytes>,
    acks: watch::Receiver<Acks>,
    appended: u64,
    bytes: u64,
    /// Of the offsets so many were told by a flush.
    flushed: usize,
}

impl SimAppender {
    async fn acked(&mut self, enough: impl Fn(&Acks) -> bool) -> Result<Acks> {
        let ended = || Error::new(codes::LOG, Fault::Log, Retry::Connection, "the producer has ended");
        let acks = self.acks.wait_for(|a| a.failed.is_some() || enough(a)).await.map_err(|_| ended())?;
        match &acks.failed {
            Some(error) if !enough(&acks) => Err(error.clone()),
            _ => Ok(acks.clone()),
        }
    }
}

#[async_trait]
impl Appender for SimAppender {
    async fn append(&mut self, record: Bytes) -> Result<()> {
        let bytes = self.bytes;
        self.acked(|a| bytes - a.bytes < IN_FLIGHT).await?;
        self.appended += 1;
        self.bytes += record.len() as u64;
        // An ended producer shows at the acknowledgements.
        let _ = self.queue.send(record);
        Ok(())
    }

    fn durable(&self) -> u64 {
        self.acks.borrow().offsets.len() as u64
    }

    async fn durable_beyond(&mut self, seen: u64) -> Result<u64> {
        Ok(self.acked(|a| a.offsets.len() as u64 > seen).await?.offsets.len() as u64)
    }

    async fn flush(&mut self) -> Result<Option<(Offset, Offset)>> {
        let appended = self.appended;
        let acks = self.acked(|a| a.offsets.len() as u64 >= appended).await?;
        let new = &acks.offsets[self.flushed..];
        self.flushed = acks.offsets.len();
        Ok(new.first().copied().zip(new.last().copied()))
    }
}

struct SimReader {
    broker: Arc<Broker>,
    link: Link,
    stream: Stream,
    next: Offset,
    /// Fetched, and on its way until then.
    ready: Option<(Offset, Bytes)>,
}

#[async_trait]
impl Reader for SimReader {
    async fn next(&mut self) -> Result<(Offset, Bytes)> {
        let mut changed = self.broker.changed.subscribe();
        while self.ready.is_none() {
            changed.borrow_and_update();
            self.ready = {
                let topics = lock(&self.broker.topics);
                let topic = topics.get(&self.stream);
                if topic.is_some_and(|t| self.next < t.first) {
                    return Err(trimmed(self.stream, self.next));
                }
                let end = topic.map_or(0, |t| self.broker.end(t, self.stream));
                topic.and_then(|t| t.records.range(self.next..end.max(self.next)).next()).map(|(o, r)| (*o, r.clone()))
            };
            if self.ready.is_none() {
                // The broker outlives its readers.
                let _ = changed.changed().await;
            }
        }
        if !self.broker.local {
            // A reader waits for a broker that is away.
            while self.link.cross().await.is_err() {}
        }
        let (offset, record) = self.ready.take().ok_or_else(|| Error::internal("a record was taken twice"))?;
        self.next = offset + 1;
        Ok((offset, record))
    }
}
