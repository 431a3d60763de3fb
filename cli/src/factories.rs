//! Where connectors, secrets and logs come together: opening the databases and the log of a migration.

use async_trait::async_trait;
use drover_applier::DestinationFactory;
use drover_connectors_api::{Connector, Destination, Source, Target};
use drover_extractor::SourceFactory;
use drover_log::kafka::{KafkaLog, KafkaOptions, Sasl, Tls, Verify};
use drover_log::local::{LocalLog, LocalOptions};
use drover_log::{Log, LogFactory};
use drover_model::error::codes;
use drover_model::migration::{Endpoint, Kafka, Migration, SaslMechanism, TlsMode};
use drover_model::{Error, Fault, MigrationId, Result, Retry};
use drover_proto::order::Description;
use drover_runtime::{secret, task};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

fn connector(kind: &str) -> Result<Arc<dyn Connector>> {
    drover_connectors_all::find(kind).ok_or_else(|| {
        let text = format!("this build has no connector for {kind:?}");
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
            .remedy(format!("kinds: {}", drover_connectors_all::kinds().join(", ")))
    })
}

fn target(endpoint: &Endpoint, id: MigrationId, name: &str, readers: usize) -> Result<Target> {
    let password = endpoint.password.as_ref().map(secret::resolve).transpose()?;
    Ok(Target { endpoint: endpoint.clone(), password, migration: id, name: name.to_owned(), readers })
}

/// Opens the source of a migration; `readers` is how many chunks will be read at once.
pub async fn source(migration: &Migration, id: MigrationId, readers: usize) -> Result<Box<dyn Source>> {
    connector(&migration.source.kind)?.source(target(&migration.source, id, &migration.name, readers)?).await
}

/// Opens the destination of a migration.
pub async fn destination(migration: &Migration, id: MigrationId) -> Result<Box<dyn Destination>> {
    connector(&migration.destination.kind)?.destination(target(&migration.destination, id, &migration.name, 0)?).await
}

/// Blocks of chunks in memory: more than `run` lets lie between copying and loading, so that they are written to disk only when
/// estimates were far off.
const BULK_MEMORY: usize = 78 << 20;

/// The factories that workers are given.
pub struct Factories {
    /// Where logs without a broker lie.
    state: Option<PathBuf>,
    /// Chunks read at once.
    readers: usize,
    logs: Arc<tokio::sync::Mutex<Kept<dyn Log>>>,
    /// Ends with the factories.
    sweeper: OnceLock<task::Owned<()>>,
}

/// A log that nobody has used for so long is closed: its migration has ended, or works elsewhere. Opening it again takes a second.
const IDLE: Duration = Duration::from_secs(300);

/// What is open for migrations, until nobody needs it any more.
struct Kept<T: ?Sized>(HashMap<MigrationId, (Arc<T>, Instant)>);

impl<T: ?Sized> Kept<T> {
    fn get(&mut self, id: MigrationId, now: Instant) -> Option<Arc<T>> {
        let (kept, asked) = self.0.get_mut(&id)?;
        *asked = now;
        Some(kept.clone())
    }

    fn put(&mut self, id: MigrationId, kept: Arc<T>, now: Instant) {
        self.0.insert(id, (kept, now));
    }

    /// Forgets what nobody holds and nobody has asked for within [`IDLE`].
    fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, (kept, asked)| Arc::strong_count(kept) > 1 || now.duration_since(*asked) < IDLE);
    }
}

impl Factories {
    /// `state` is the folder of `drover run`; a cluster's worker has none and needs a broker. `readers`: chunks that will be read
    /// at once.
    pub fn new(state: Option<PathBuf>, readers: usize) -> Self {
        let logs = Arc::new(tokio::sync::Mutex::new(Kept(HashMap::new())));
        Factories { state, readers, logs, sweeper: OnceLock::new() }
    }

    /// Closes logs that nobody uses, from now on. A log within this process keeps blocks in memory, so it stays open.
    fn sweeps(&self) {
        if self.state.is_some() {
            return;
        }
        self.sweeper.get_or_init(|| {
            let logs = self.logs.clone();
            task::spawn("idle logs", async move {
                loop {
                    tokio::time::sleep(IDLE / 5).await;
                    logs.lock().await.sweep(Instant::now());
                }
            })
        });
    }

    async fn open_log(&self, migration: &Migration, id: MigrationId) -> Result<Arc<dyn Log>> {
        if let Some(kafka) = &migration.log.kafka {
            return Ok(Arc::new(KafkaLog::connect(kafka_options(kafka, &migration.name, id)?).await?));
        }
        let state = self.state.as_ref().ok_or_else(|| {
            let text = "a migration of a cluster needs a broker for its log, and the migration file names none";
            Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, text)
                .remedy("add [log] kafka = { brokers = [\"host:9092\"] } to the file, or use `drover run`")
        })?;
        let options =
            LocalOptions { budget: migration.log.budget, bulk_memory: BULK_MEMORY, ..LocalOptions::default() };
        Ok(Arc::new(LocalLog::open(&state.join("log"), id, options).await?))
    }
}

/// For tests `DROVER_STALL_MS` makes brokers count as away earlier.
fn kafka_options(kafka: &Kafka, name: &str, id: MigrationId) -> Result<KafkaOptions> {
    let mut options = KafkaOptions::new(kafka.brokers.clone(), name, id);
    if let Some(stall) = std::env::var("DROVER_STALL_MS").ok().and_then(|ms| ms.parse().ok()) {
        options.stall = Duration::from_millis(stall);
    }
    if let Some(sasl) = &kafka.sasl {
        let mechanism = match sasl.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        let password = secret::resolve(&sasl.password)?;
        options.sasl = Some(Sasl { mechanism: mechanism.into(), user: sasl.user.clone(), password });
    }
    let identity = kafka.tls.cert.clone().zip(kafka.tls.key.clone());
    let tls = |verify| Some(Tls { ca: kafka.tls.ca.clone(), identity: identity.clone(), verify });
    options.tls = match kafka.tls.mode {
        TlsMode::Off => None,
        TlsMode::VerifyFull => tls(Verify::Full),
        TlsMode::VerifyCa => tls(Verify::Signer),
        TlsMode::Require => tls(Verify::Nothing),
    };
    Ok(options)
}

#[async_trait]
impl SourceFactory for Factories {
    async fn source(&self, description: &Description) -> Result<Box<dyn Source>> {
        source(&description.migration, description.id, self.readers).await
    }
}

#[async_trait]
impl DestinationFactory for Factories {
    async fn destination(&self, description: &Description) -> Result<Box<dyn Destination>> {
        destination(&description.migration, description.id).await
    }
}

#[async_trait]
impl LogFactory for Factories {
    async fn log(&self, description: &Description) -> Result<Arc<dyn Log>> {
        let mut logs = self.logs.lock().await;
        if let Some(log) = logs.get(description.id, Instant::now()) {
            return Ok(log);
        }
        let log = self.open_log(&description.migration, description.id).await?;
        logs.put(description.id, log.clone(), Instant::now());
        self.sweeps();
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_forgotten_and_what_is_in_use_stays() {
        let (a, b, c) = (MigrationId::from_u128(1), MigrationId::from_u128(2), MigrationId::from_u128(3));
        let begun = Instant::now();
        let mut kept: Kept<str> = Kept(HashMap::new());
        let used: Arc<str> = "used".into();
        kept.put(a, used.clone(), begun);
        kept.put(b, "idle".into(), begun);
        kept.put(c, "asked for".into(), begun);
        kept.sweep(begun + IDLE / 2);
        assert_eq!(kept.0.len(), 3);
        assert_eq!(kept.get(c, begun + IDLE / 2).as_deref(), Some("asked for"));
        kept.sweep(begun + IDLE);
        assert!(kept.get(a, begun + IDLE).is_some() && kept.get(c, begun + IDLE).is_some());
        assert!(kept.get(b, begun + IDLE).is_none());
        drop(used);
        kept.sweep(begun + IDLE * 3);
        assert!(kept.0.is_empty());
    }
}
