//! Reading a partition: whole records in order, everything else refused.
//!
//! A reader is its own consumer with one partition assigned at an offset; it joins no group and commits nothing. It is assigned once: a
//! consumer that is assigned anew may hand out errors of before. Offsets must follow each other without holes, since nothing but deletion
//! of the oldest removes messages here. Brokers that go away are waited for; the caller ends the wait by dropping it.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use drover_model::{Error, Result, Retry};
use drover_runtime::memory::{Account, Taken};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset as KafkaOffset;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{HEADER, Kind, MESSAGE, PART, Shared, blocking, kafka_error, lost, never, topics};
use crate::{Offset, Reader, Span, Stream};

/// Bytes that librdkafka prefetches.
const AHEAD: usize = 8 << 20;
/// Bytes of one fetch; a client refuses less than its largest message.
const FETCH: usize = MESSAGE;
/// Runs that are put together at once: the appender's and a former one's. More are given up and, if they go on after all, read again.
const RUNS: usize = 2;
/// Messages of other appenders that may lie between the parts of a record.
const SLACK: u64 = 8;

/// What librdkafka logs goes where drover logs; it warns about every lost connection, which is expected here.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(facility, "Kafka client: {message}");
        }
        _ => tracing::debug!(facility, "Kafka client: {message}"),
    }
}

pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka consumer");
    }
}
impl ConsumerContext for Quiet {}

pub(super) fn in_span(stream: Stream, from: Offset, span: Span) -> Result<()> {
    if from < span.first {
        return Err(lost(format!("the log no longer has record {from} of {stream:?}: it begins at {}", span.first)));
    }
    if from > span.next {
        return Err(lost(format!(
            "the log has lost its end: record {from} of {stream:?} is wanted, it ends before {}",
            span.next
        )));
    }
    Ok(())
}

/// A message of ours.
struct Got {
    stream: Stream,
    offset: Offset,
    kind: Kind,
    payload: Bytes,
}

/// A consumer on partitions of a topic.
///
/// librdkafka can lose sight of a partition that was without a leader for a moment, and then delivers nothing of it for good, without an error
/// (its issue 5430). So silence is looked into: where the log has more, another consumer reads on.
struct Fetch {
    shared: Arc<Shared>,
    topic: String,
    consumer: Option<StreamConsumer<Quiet>>,
    /// The next message of each partition.
    at: Vec<(Stream, Offset)>,
    /// When the last message came, or the consumer, or an answer.
    heard: Instant,
    patience: Duration,
    /// Where the partitions end.
    asking: Option<JoinHandle<Result<Vec<Span>>>>,
    /// When it last complained, if ever.
    complained: Option<Instant>,
}

/// So much silence is looked into; twice as much of the next consumer, while nothing comes.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_PATIENCE: Duration = Duration::from_secs(60);
/// Complaints come in swarms.
const COMPLAIN: Duration = Duration::from_secs(5);

/// Before another consumer reads what one could not.
const AGAIN: Duration = Duration::from_millis(100);

/// Consumers that are kept for later readers; each has a connection and some threads.
const IDLE: usize = 4;

impl Drop for Fetch {
    fn drop(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        // What it had fetched is thrown away with the assignment. One that cannot even do that is not kept, nor one that complained: it may
        // complain again to the next reader.
        if self.complained.is_none() && consumer.unassign().is_ok() {
            let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(consumer);
                return;
            }
        }
        close(consumer);
    }
}

/// Closing waits for librdkafka's threads.
fn close(consumer: StreamConsumer<Quiet>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(consumer));
    }
}

impl Fetch {
    fn new(shared: Arc<Shared>, at: &[(Stream, Offset)]) -> Result<Fetch> {
        let Some((stream, _)) = at.first() else { return Err(Error::internal("nothing to read")) };
        let topic = shared.topic(*stream);
        let idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut fetch = Fetch {
            shared,
            topic,
            consumer: None,
            at: at.to_vec(),
            heard: Instant::now(),
            patience: PATIENCE,
            asking: None,
            complained: None,
        };
        fetch.assign(idle)?;
        Ok(fetch)
    }

    /// Reads on with this consumer or a new one.
    fn assign(&mut self, consumer: Option<StreamConsumer<Quiet>>) -> Result<()> {
        let consumer = match consumer {
            Some(consumer) => consumer,
            None => Fetch::consumer(&self.shared)?,
        };
        let mut list = TopicPartitionList::new();
        for (stream, offset) in &self.at {
            list.add_partition_offset(&self.topic, Shared::partition(*stream), KafkaOffset::Offset(*offset as i64))
                .map_err(|e| kafka_error("cannot read from Kafka", e))?;
        }
        consumer.assign(&list).map_err(|e| kafka_error("cannot read from Kafka", e))?;
        self.consumer = Some(consumer);
        self.heard = Instant::now();
        Ok(())
    }

    /// Its consumer is of no use to later readers either.
    fn give_up(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            close(consumer);
        }
    }

    fn ask(&self) -> JoinHandle<Result<Vec<Span>>> {
        let (shared, streams) = (self.shared.clone(), self.at.iter().map(|a| a.0).collect::<Vec<_>>());
        tokio::task::spawn_blocking(move || topics::spans(&shared, &streams))
    }

    /// What the answer says of the silence: another consumer, where there is more to read.
    fn answered(&mut self, ends: Result<Vec<Span>>) -> Result<()> {
        // A message came meanwhile: all is well.
        if self.heard.elapsed() < self.patience {
            return Ok(());
        }
        self.heard = Instant::now();
        let ends = match ends {
            Ok(ends) => ends,
            // Brokers that do not answer this either are waited for.
            Err(error) => {
                tracing::debug!(%error, topic = self.topic, "the brokers do not say where the topic ends");
                return Ok(());
            }
        };
        let more = self.at.iter().zip(&ends).find(|((_, at), span)| span.next > *at);
        let Some(((stream, at), span)) = more else { return Ok(()) };
        tracing::warn!(
            topic = self.topic,
            ?stream,
            at,
            end = span.next,
            "the Kafka client does not deliver what the broker has: another one reads on"
        );
        self.patience = (self.patience * 2).min(MOST_PATIENCE);
        self.give_up();
        self.assign(None)
    }

    fn consumer(shared: &Shared) -> Result<StreamConsumer<Quiet>> {
        shared
            .config()
            // The client insists on a name; no group is joined.
            .set("group.id", format!("drover.{}", shared.options.name))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_uncommitted")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", (AHEAD >> 10).to_string())
            .set("queued.min.messages", "1000")
            .set("max.partition.fetch.bytes", FETCH.to_string())
            .set("fetch.max.bytes", FETCH.to_string())
            // A message may be larger than what was asked for.
            .set("receive.message.max.bytes", (2 * MESSAGE).to_string())
            // A fetch that waits at the end of one partition holds back the next reader's first, on another.
            .set("fetch.wait.max.ms", "50")
            // How long a full queue is left alone. The default, a second, is far longer than it takes to empty it.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "100")
            .create_with_context(Quiet)
            .map_err(|e| kafka_error("cannot make a Kafka consumer", e))
    }

    /// The next message of any partition. `None`: librdkafka says that the place cannot be read, ask for the ends. Cancel-safe.
    async fn next(&mut self, kind: Stream) -> Result<Option<Got>> {
        loop {
            let Some(consumer) = &self.consumer else { return Err(Error::internal("a closed Kafka consumer")) };
            let due = self.heard + self.patience;
            let silent = self.asking.is_none();
            let answer = async {
                match self.asking.as_mut() {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            let error = tokio::select! {
                biased;
                message = consumer.recv() => match message {
                    Ok(message) => {
                        let got = self.accept(kind, &message)?;
                        if let Some(place) = self.at.iter_mut().find(|(stream, _)| *stream == got.stream) {
                            place.1 = got.offset + 1;
                        }
                        (self.heard, self.patience) = (Instant::now(), PATIENCE);
                        return Ok(Some(got));
                    }
                    Err(error) => error,
                },
                ends = answer => {
                    self.asking = None;
                    let ends = ends.unwrap_or_else(|e| Err(Error::internal("work of the log ended early").cause(e)));
                    self.answered(ends)?;
                    continue;
                }
                () = tokio::time::sleep_until(due), if silent => {
                    self.asking = Some(self.ask());
                    continue;
                }
            };
            let again = self.complained.is_none_or(|at| at.elapsed() > COMPLAIN);
            if again {
                self.complained = Some(Instant::now());
            }
            use RDKafkaErrorCode as E;
            match error.rdkafka_error_code() {
                Some(
                    E::OffsetOutOfRange
                    | E::AutoOffsetReset
                    | E::UnknownTopicOrPartition
                    | E::UnknownTopic
                    | E::UnknownPartition,
                ) => return Ok(None),
                Some(
                    E::TopicAuthorizationFailed
                    | E::GroupAuthorizationFailed
                    | E::ClusterAuthorizationFailed
                    | E::BadMessage
                    | E::InvalidMessage,
                ) => return Err(kafka_error(format!("cannot read the Kafka topic {}", self.topic), error)),
                _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                    return Err(kafka_error(format!("cannot read the Kafka topic {}", self.topic), error));
                }
                _ if again => tracing::warn!(%error, topic = self.topic, "reading goes on as soon as Kafka answers"),
                _ => {}
            }
        }
    }

    fn accept(&self, kind: Stream, message: &BorrowedMessage<'_>) -> Result<Got> {
        let offset = message.offset().max(0) as Offset;
        let stream = match kind {
            Stream::Changes => Stream::Changes,
            Stream::Bulk(_) => Stream::Bulk(message.partition().max(0) as u32),
        };
        let place = || format!("record {offset} of the Kafka topic {} [{}]", self.topic, message.partition());
        let header = message
            .headers()
            .and_then(|h| h.iter().find(|h| h.key == HEADER))
            .and_then(|h| h.value)
            .and_then(Kind::decode);
        let Some((id, kind)) = header else {
            return Err(
                never(format!("{} was not written by drover", place())).remedy("let nobody else write to this topic")
            );
        };
        if id != self.shared.options.migration {
            return Err(never(format!(
                "{} belongs to the migration {id}, this is {}",
                place(),
                self.shared.options.migration
            ))
            .remedy("give this migration another name, or remove the other one"));
        }
        // librdkafka frees its buffer with the message, so this copies, once.
        let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        self.shared.count(stream, payload.len());
        Ok(Got { stream, offset, kind, payload })
    }
}

/// A record that is being put together.
struct Run {
    run: (u64, u64),
    next: u32,
    data: BytesMut,
    /// Counted as far as the account goes: what has begun to come cannot wait.
    taken: Option<Taken>,
}

enum Placed {
    /// A record is whole.
    Record(Bytes),
    /// Nothing to deliver yet, or ever.
    Nothing,
    /// The beginning of this run was not seen.
    Orphan { run: (u64, u64), index: u32, ends: bool },
}

/// Puts parts together.
struct Assembly {
    account: Arc<Account>,
    runs: Vec<Run>,
}

impl Assembly {
    fn new(shared: &Shared) -> Assembly {
        Assembly { account: shared.parts.clone(), runs: Vec::new() }
    }

    fn place(&mut self, got: Got) -> Result<Placed> {
        let Kind::Part { run, index, count } = got.kind else {
            return Ok(if got.kind == Kind::Whole { Placed::Record(got.payload) } else { Placed::Nothing });
        };
        if index == 0 {
            // A new run of an appender ends its older ones.
            self.runs.retain(|r| r.run.0 != run.0);
            while self.runs.len() >= RUNS {
                self.runs.remove(0);
            }
            // Grows with what arrives: a count alone reserves nothing.
            let data = BytesMut::with_capacity((count as usize).min(10) * PART);
            let taken = self.account.try_hold(data.capacity());
            self.runs.push(Run { run, next: 0, data, taken });
        }
        let Some(at) = self.runs.iter().position(|r| r.run == run) else {
            return Ok(Placed::Orphan { run, index, ends: index + 1 == count });
        };
        let open = &mut self.runs[at];
        if open.next != index {
            return Err(never(format!(
                "part {index} of a large record at {} does not follow part {}",
                got.offset, open.next
            )));
        }
        open.data.extend_from_slice(&got.payload);
        open.next += 1;
        if let Some(taken) = &mut open.taken {
            taken.grow(open.data.capacity());
        }
        Ok(if open.next == count { Placed::Record(self.runs.swap_remove(at).data.freeze()) } else { Placed::Nothing })
    }
}

/// Reads one partition.
pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    stream: Stream,
    fetch: Fetch,
    /// The next message; and what was delivered or is not wanted ends before `deliver`.
    at: Offset,
    deliver: Offset,
    assembly: Assembly,
    /// A run whose beginning is not in the log.
    lost: Option<(u64, u64)>,
    /// What ended the reader for good.
    failed: Option<Error>,
}

impl KafkaReader {
    /// `from` must be within the span.
    pub(super) fn new(shared: Arc<Shared>, stream: Stream, from: Offset) -> Result<Self> {
        let fetch = Fetch::new(shared.clone(), &[(stream, from)])?;
        let assembly = Assembly::new(&shared);
        Ok(KafkaReader { shared, stream, fetch, at: from, deliver: from, assembly, lost: None, failed: None })
    }

    /// Reads on from elsewhere; nothing is delivered twice.
    fn seek(&mut self, to: Offset) -> Result<()> {
        self.fetch = Fetch::new(self.shared.clone(), &[(self.stream, to)])?;
        self.at = to;
        self.assembly = Assembly::new(&self.shared);
        Ok(())
    }

    async fn span(&self) -> Result<Span> {
        let (shared, stream) = (self.shared.clone(), self.stream);
        blocking(move || topics::span(&shared, stream)).await?
    }

    // Cancel-safe: a message that was taken is placed or delivered before the next wait; the waits besides change nothing.
    async fn step(&mut self) -> Result<(Offset, Bytes)> {
        loop {
            let Some(got) = self.fetch.next(self.stream).await? else {
                // Also a place that the consumer complains of for reasons of the past: the ends decide.
                let span = self.span().await?;
                in_span(self.stream, self.at, span)?;
                // What this consumer knows of the topic may be from before the topic was there, on one broker of several: it would
                // complain again. Nothing of it is lost, and a cancelled wait leaves the new one in its place.
                tracing::debug!(stream = ?self.stream, at = self.at, "a consumer cannot read here, another one is tried");
                self.fetch.give_up();
                self.seek(self.at)?;
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let offset = got.offset;
            if offset != self.at {
                return Err(lost(format!("records {} to {offset} of {:?} are missing in Kafka", self.at, self.stream)));
            }
            match self.assembly.place(got)? {
                Placed::Record(record) if offset >= self.deliver => {
                    self.at = offset + 1;
                    self.deliver = self.at;
                    return Ok((offset, record));
                }
                Placed::Record(_) | Placed::Nothing => self.at = offset + 1,
                Placed::Orphan { run, .. } if self.lost == Some(run) => self.at = offset + 1,
                Placed::Orphan { run, index, .. } => {
                    // The reader began amid a record (another appender's message lay between its parts): go back once. The place is
                    // noted before the wait below: if that is cancelled, the run is begun again.
                    let wanted = offset.saturating_sub(u64::from(index) + SLACK);
                    self.seek(offset)?;
                    let first = self.span().await?.first;
                    self.lost = Some(run);
                    tracing::debug!(offset, "going back for the beginning of a large record");
                    self.seek(wanted.max(first))?;
                }
            }
        }
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn next(&mut self) -> Result<(Offset, Bytes)> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.step().await;
        if let Err(error) = &result
            && error.retry == Retry::Never
        {
            self.failed = Some(error.clone());
        }
        result
    }
}

/// Whether the first messages of partitions carry our id. The partitions must not be empty.
pub(super) async fn check_owner(shared: &Arc<Shared>, firsts: Vec<(Stream, Offset)>) -> Result<()> {
    let (changes, bulk): (Vec<_>, Vec<_>) = firsts.into_iter().partition(|(s, _)| *s == Stream::Changes);
    for mut open in [changes, bulk] {
        while let Some((stream, _)) = open.first().copied() {
            let mut fetch = Fetch::new(shared.clone(), &open)?;
            while !open.is_empty() {
                let got = timed(shared, fetch.next(stream)).await?;
                // Trimmed since the ends were asked for, or not known to this consumer yet: ask again.
                let Some(got) = got else {
                    fetch.give_up();
                    tokio::time::sleep(AGAIN).await;
                    break;
                };
                open.retain(|(s, _)| *s != got.stream);
            }
            let asked: Vec<Stream> = open.iter().map(|o| o.0).collect();
            let again = shared.clone();
            let spans = blocking(move || topics::spans(&again, &asked)).await??;
            for (place, span) in open.iter_mut().zip(spans) {
                place.1 = span.first;
            }
        }
    }
    Ok(())
}

async fn timed<T>(shared: &Shared, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| {
        kafka_error(
            "Kafka does not deliver a message that it has",
            KafkaError::Global(RDKafkaErrorCode::OperationTimedOut),
        )
    };
    tokio::time::timeout(shared.options.stall, work).await.map_err(late)?
}

/// The offset from which the record that covers a message can be read whole.
pub(super) async fn begin_of(shared: &Arc<Shared>, stream: Stream, at: Offset) -> Result<Offset> {
    match timed(shared, Fetch::new(shared.clone(), &[(stream, at)])?.next(stream)).await? {
        Some(Got { kind: Kind::Part { index, .. }, .. }) if index > 0 => {
            Ok(at.saturating_sub(u64::from(index) + SLACK))
        }
        _ => Ok(at),
    }
}

/// The last whole record within a span.
pub(super) async fn last(shared: &Arc<Shared>, stream: Stream, span: Span) -> Result<Option<(Offset, Bytes)>> {
    let mut back = 1;
    loop {
        let from = span.next.saturating_sub(back).max(span.first);
        if from >= span.next {
            return Ok(None);
        }
        let mut fetch = Fetch::new(shared.clone(), &[(stream, from)])?;
        let (mut assembly, mut found, mut cut) = (Assembly::new(shared), None, false);
        let mut at = from;
        while at < span.next {
            let Some(got) = timed(shared, fetch.next(stream)).await? else {
                return Err(lost(format!("record {at} of {stream:?} was trimmed while it was read")));
            };
            at = got.offset + 1;
            match assembly.place(got)? {
                Placed::Record(record) => (found, cut) = (Some((at - 1, record)), false),
                Placed::Orphan { ends: true, .. } => cut = true,
                Placed::Orphan { .. } | Placed::Nothing => {}
            }
        }
        // A record that ends here and began earlier: further back, unless the beginning is gone.
        if from == span.first || (found.is_some() && !cut) {
            return Ok(found);
        }
        back = back.saturating_mul(4).max(4);
    }
}

#[cfg(test)]
mod tests;
