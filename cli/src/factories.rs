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
use drover_runtime::secret;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

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
const BULK_MEMORY: usize = 80 << 20;

/// The factories that workers are given.
pub struct Factories {
    /// Where logs without a broker lie.
    state: Option<PathBuf>,
    /// Chunks read at once.
    readers: usize,
    logs: tokio::sync::Mutex<HashMap<MigrationId, Arc<dyn Log>>>,
}

impl Factories {
    /// `state` is the folder of `drover run`; a cluster's worker has none and needs a broker. `readers`: chunks that will be read
    /// at once.
    pub fn new(state: Option<PathBuf>, readers: usize) -> Self {
        Factories { state, readers, logs: tokio::sync::Mutex::default() }
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

fn kafka_options(kafka: &Kafka, name: &str, id: MigrationId) -> Result<KafkaOptions> {
    let mut options = KafkaOptions::new(kafka.brokers.clone(), name, id);
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
        if let Some(log) = logs.get(&description.id) {
            return Ok(log.clone());
        }
        let log = self.open_log(&description.migration, description.id).await?;
        logs.insert(description.id, log.clone());
        Ok(log)
    }
}
