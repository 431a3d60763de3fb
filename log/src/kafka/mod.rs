//! The log in Apache Kafka, for migrations that span machines.
//!
//! Two topics a migration, `drover.<name>.changes` (one partition) and `drover.<name>.bulk`. A record is durable when the partition's leader
//! and its in-sync replicas have it (`acks=all`); offsets are Kafka's.
//!
//! **Whose topic it is**: every message carries the migration's id in a header, which every read checks; `open` writes a marker message into
//! each empty partition and checks the first message of each other one. Trimming always keeps a partition's last message, so there is
//! always one to check: a topic's configuration could not carry the id, and names are given again.
//!
//! **Large records** are split into parts of 4 MiB (a broker pays for larger messages with memory). A part names its run, its place and
//! how many there are; a record's offset is that of its last part. A run that a dying producer left unfinished is never delivered.
//!
//! Memory, librdkafka's included: the producer that all appenders of a [`KafkaLog`] share holds at most 24 MiB; a reader prefetches at most
//! 8 MiB, plus one fetch of 4 MiB, plus the record that it puts together. Measured: one appender and two readers that lag, with records of
//! 2 MiB, cost 80 MiB, what the allocator keeps included. The producer's part is in the accounts of `drover_runtime::memory` (`log.producer`),
//! and so are records that are put together (`log.parts`). What a reader has prefetched is not: librdkafka bounds it by
//! `queued.max.messages.kbytes`, and tells of it by events that gather where a client rests and nobody polls it.

mod producer;
mod reader;
mod topics;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_model::error::codes;
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_runtime::memory::Account;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{Appender, Log, Offset, Reader, Span, Stream};

/// Payload of a message at most; larger records are split.
const PART: usize = 4 << 20;
/// Bytes of a message at most, headers and framing included.
const MESSAGE: usize = PART + (64 << 10);
/// What a topic must allow.
const TOPIC_MESSAGE: usize = 5 << 20;
/// Bytes of records that readers put together, as far as they are counted; a record of several messages is rare.
const TOGETHER: usize = 16 << 20;

/// How to log in.
#[derive(Clone)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`, in any case.
    pub mechanism: String,
    pub user: String,
    pub password: String,
}

/// Encryption, and what of the brokers' certificates is verified.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates that are trusted, as a PEM file; the system's if `None`.
    pub ca: Option<PathBuf>,
    /// Certificate that we show, and its key, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub verify: Verify,
}

/// What of a broker's certificate is verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Who signed it, and that it is for this host.
    #[default]
    Full,
    /// Who signed it.
    Signer,
    /// Nothing.
    Nothing,
}

/// Where the brokers are and who owns the topics.
#[derive(Clone)]
pub struct KafkaOptions {
    /// `host:port`; some of them are enough.
    pub brokers: Vec<String>,
    pub sasl: Option<Sasl>,
    pub tls: Option<Tls>,
    /// The migration's name: topics are called `drover.<name>.…`.
    pub name: String,
    pub migration: MigrationId,
    /// Without any acknowledgement for so long, an appender fails (with `Retry::Connection`): what is on the way is given up. A question to the brokers
    /// has as long.
    pub stall: Duration,
}

/// A broker that dies and comes back is silent for up to 15 s; a client that has got stuck over it is replaced after this. Much less, and slow
/// brokers would be given up for nothing; much more, and changes would stand still for as long.
const STALL: Duration = Duration::from_secs(30);

impl KafkaOptions {
    /// Without login or encryption, and a stall of half a minute.
    pub fn new(brokers: Vec<String>, name: impl Into<String>, migration: MigrationId) -> Self {
        KafkaOptions { brokers, sasl: None, tls: None, name: name.into(), migration, stall: STALL }
    }
}

/// A client that all share until it fails: a client whose view of the cluster has gone astray fails for good, another one may not
/// (librdkafka issue 5430: a partition that was without a leader for a moment can stay so for this client).
struct Kept<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(Mutex::new(None))
    }
}

impl<T> Kept<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut kept = self.lock();
        if let Some(client) = kept.as_ref() {
            return Ok(client.clone());
        }
        Ok(kept.insert(Arc::new(make()?)).clone())
    }

    /// The next one to ask gets another.
    fn forget(&self, client: &Arc<T>) {
        let mut kept = self.lock();
        if kept.as_ref().is_some_and(|k| Arc::ptr_eq(k, client)) {
            *kept = None;
        }
    }
}

/// What all parts share.
struct Shared {
    options: KafkaOptions,
    /// Messages and bytes seen, for estimates.
    seen: [(AtomicU64, AtomicU64); 2],
    /// Clients cost connections and threads, so one asks, one rules, and consumers that have done their work wait for more.
    asker: Kept<BaseConsumer>,
    admin: Kept<AdminClient<DefaultClientContext>>,
    idle: Mutex<Vec<StreamConsumer<reader::Quiet>>>,
    /// Of records that readers put together.
    parts: Arc<Account>,
    /// Bulk partitions that `open` has seen to, plus one; zero before.
    opened: AtomicU32,
}

impl Shared {
    fn topic(&self, stream: Stream) -> String {
        let kind = if stream == Stream::Changes { "changes" } else { "bulk" };
        format!("drover.{}.{kind}", self.options.name)
    }

    fn partition(stream: Stream) -> i32 {
        match stream {
            Stream::Changes => 0,
            Stream::Bulk(n) => n as i32,
        }
    }

    fn config(&self) -> ClientConfig {
        let o = &self.options;
        let mut c = ClientConfig::new();
        c.set("bootstrap.servers", o.brokers.join(","))
            .set("client.id", format!("drover.{}", o.name))
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            .set("message.max.bytes", MESSAGE.to_string());
        let protocol = match (&o.tls, &o.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        c.set("security.protocol", protocol);
        if let Some(tls) = &o.tls {
            encrypt(&mut c, tls);
        }
        if let Some(sasl) = &o.sasl {
            c.set("sasl.mechanisms", sasl.mechanism.to_uppercase())
                .set("sasl.username", &sasl.user)
                .set("sasl.password", &sasl.password);
        }
        c
    }

    fn count(&self, stream: Stream, bytes: usize) {
        let (messages, sum) = &self.seen[usize::from(stream != Stream::Changes)];
        messages.fetch_add(1, Ordering::Relaxed);
        sum.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn encrypt(c: &mut ClientConfig, tls: &Tls) {
    if let Some(ca) = &tls.ca {
        c.set("ssl.ca.location", ca.to_string_lossy());
    }
    if let Some((cert, key)) = &tls.identity {
        c.set("ssl.certificate.location", cert.to_string_lossy()).set("ssl.key.location", key.to_string_lossy());
    }
    // librdkafka's own default is to check both.
    if tls.verify != Verify::Full {
        c.set("ssl.endpoint.identification.algorithm", "none");
    }
    if tls.verify == Verify::Nothing {
        c.set("enable.ssl.certificate.verification", "false");
    }
}

/// What a message is, in its one header `drover`: version 1, kind, migration id, and for parts the run, the index and the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Says whose partition it is; readers pass over it.
    Marker,
    Whole,
    Part {
        /// The appender and its number of the record: a new number ends an older run of the same appender.
        run: (u64, u64),
        index: u32,
        count: u32,
    },
}

const HEADER: &str = "drover";

impl Kind {
    fn encode(self, migration: MigrationId) -> Vec<u8> {
        let mut b = Vec::with_capacity(42);
        b.push(1);
        b.push(match self {
            Kind::Marker => 0,
            Kind::Whole => 1,
            Kind::Part { .. } => 2,
        });
        b.extend_from_slice(migration.as_bytes());
        if let Kind::Part { run, index, count } = self {
            b.extend_from_slice(&run.0.to_le_bytes());
            b.extend_from_slice(&run.1.to_le_bytes());
            b.extend_from_slice(&index.to_le_bytes());
            b.extend_from_slice(&count.to_le_bytes());
        }
        b
    }

    fn decode(b: &[u8]) -> Option<(MigrationId, Kind)> {
        let id = MigrationId::from_slice(b.get(2..18)?).ok()?;
        let u64_at = |at: usize| Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?));
        let kind = match (b[0], b[1]) {
            (1, 0) => Kind::Marker,
            (1, 1) => Kind::Whole,
            (1, 2) => {
                let (index, count) = (u32_at(34)?, u32_at(38)?);
                (index < count).then_some(Kind::Part { run: (u64_at(18)?, u64_at(26)?), index, count })?
            }
            _ => return None,
        };
        Some((id, kind))
    }
}

/// The log of one migration in Kafka.
pub struct KafkaLog {
    shared: Arc<Shared>,
    producer: Mutex<Option<Arc<producer::Wire>>>,
    /// Held by who opens: others of this process wait for its result.
    opening: tokio::sync::Mutex<()>,
}

impl KafkaLog {
    /// Prepares the clients; the brokers are first spoken to in [`Log::open`]. Errors: options that no client accepts.
    pub async fn connect(options: KafkaOptions) -> Result<KafkaLog> {
        let shared = Arc::new(Shared {
            options,
            seen: Default::default(),
            asker: Kept::default(),
            admin: Kept::default(),
            idle: Mutex::default(),
            parts: Account::new("log.parts", TOGETHER),
            opened: AtomicU32::new(0),
        });
        topics::admin(&shared)?;
        Ok(KafkaLog { shared, producer: Mutex::new(None), opening: tokio::sync::Mutex::default() })
    }

    /// The producer of all appenders; a new one if the former failed.
    fn wire(&self) -> Result<Arc<producer::Wire>> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wire) = producer.as_ref().filter(|w| w.failure().is_none()) {
            return Ok(wire.clone());
        }
        let wire = producer::Wire::new(&self.shared)?;
        *producer = Some(wire.clone());
        Ok(wire)
    }

    async fn watermarks(&self, stream: Stream) -> Result<Span> {
        let shared = self.shared.clone();
        blocking(move || topics::span(&shared, stream)).await?
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn open(&self, bulk: u32) -> Result<()> {
        if self.shared.opened.load(Ordering::Acquire) > bulk {
            return Ok(());
        }
        let _opening = self.opening.lock().await;
        if self.shared.opened.load(Ordering::Acquire) > bulk {
            return Ok(());
        }
        topics::ensure(&self.shared, bulk).await?;
        let partitions = std::iter::once(Stream::Changes).chain((0..bulk).map(Stream::Bulk));
        let shared = self.shared.clone();
        let streams: Vec<Stream> = partitions.collect();
        let asked = streams.clone();
        let spans = blocking(move || topics::spans(&shared, &asked)).await??;
        let (mut marked, mut firsts) = (Vec::new(), Vec::new());
        for (stream, span) in streams.into_iter().zip(spans) {
            if span.first == span.next {
                let appender = producer::KafkaAppender::new(self.shared.clone(), self.wire()?, stream);
                marked.push((stream, span.first, appender));
            } else {
                firsts.push((stream, span.first));
            }
        }
        for (_, _, appender) in &mut marked {
            appender.mark().await?;
        }
        for (stream, first, mut appender) in marked {
            // Of two who marked at once, the first is the owner.
            if appender.marked().await? != Some(first) {
                firsts.push((stream, first));
            }
        }
        reader::check_owner(&self.shared, firsts).await?;
        self.shared.opened.fetch_max(bulk + 1, Ordering::AcqRel);
        Ok(())
    }

    async fn appender(&self, stream: Stream) -> Result<Box<dyn Appender>> {
        Ok(Box::new(producer::KafkaAppender::new(self.shared.clone(), self.wire()?, stream)))
    }

    async fn reader(&self, stream: Stream, from: Offset) -> Result<Box<dyn Reader>> {
        let span = self.watermarks(stream).await?;
        reader::in_span(stream, from, span)?;
        Ok(Box::new(reader::KafkaReader::new(self.shared.clone(), stream, from)?))
    }

    async fn span(&self, stream: Stream) -> Result<Span> {
        self.watermarks(stream).await
    }

    async fn last(&self, stream: Stream) -> Result<Option<(Offset, Bytes)>> {
        let span = self.watermarks(stream).await?;
        reader::last(&self.shared, stream, span).await
    }

    async fn trim(&self, stream: Stream, before: Offset) -> Result<()> {
        let span = self.watermarks(stream).await?;
        let all = before >= span.next;
        // The last message stays, see above.
        let before = before.min(span.next.saturating_sub(1));
        if before <= span.first {
            return Ok(());
        }
        // The record at `before` may have begun earlier; where nothing is to stay it does not matter.
        let before = match stream {
            Stream::Bulk(_) if all => before,
            _ => reader::begin_of(&self.shared, stream, before).await?,
        };
        if before <= span.first {
            return Ok(());
        }
        topics::delete_before(&self.shared, stream, before).await
    }

    async fn bytes(&self, stream: Stream) -> Result<u64> {
        let span = self.watermarks(stream).await?;
        let (messages, bytes) = &self.shared.seen[usize::from(stream != Stream::Changes)];
        let mean = match messages.load(Ordering::Relaxed) {
            0 => self.last(stream).await?.map_or(0, |(_, record)| record.len().min(PART) as u64),
            n => bytes.load(Ordering::Relaxed) / n,
        };
        Ok((span.next - span.first) * mean)
    }

    async fn remove(&self) -> Result<()> {
        self.shared.opened.store(0, Ordering::Release);
        topics::delete(&self.shared).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("work of the log ended early").cause(e))
}

/// A LOG error of a code, with what to expect from trying again.
fn kafka_error(what: impl Into<String>, error: KafkaError) -> Error {
    use RDKafkaErrorCode as E;
    let retry = match error.rdkafka_error_code() {
        Some(
            E::TopicAuthorizationFailed
            | E::GroupAuthorizationFailed
            | E::ClusterAuthorizationFailed
            | E::Authentication
            | E::SaslAuthenticationFailed
            | E::MessageSizeTooLarge
            | E::UnknownTopicOrPartition
            | E::UnknownTopic
            | E::UnknownPartition
            | E::PolicyViolation
            | E::InvalidConfig
            | E::InvalidArgument,
        ) => Retry::Other,
        _ if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) => Retry::Other,
        _ => Retry::Connection,
    };
    Error::new(codes::LOG, Fault::Log, retry, what).cause(error)
}

fn never(what: impl Into<String>) -> Error {
    Error::new(codes::LOG, Fault::Log, Retry::Never, what)
}

/// Records that were acknowledged are gone.
fn lost(what: impl Into<String>) -> Error {
    never(what).remedy(crate::BEGIN_AGAIN)
}
