//! The log in Kafka, on a real broker: the suite, and a broker that dies.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drover_harness::Kafka;
use drover_log::kafka::{KafkaLog, KafkaOptions};
use drover_log::suite::{Factory, all, expect, fill, record};
use drover_log::{Log, Stream};
use drover_model::error::codes;
use drover_model::{MigrationId, Result};

struct Place {
    brokers: String,
    name: String,
}

#[async_trait]
impl Factory for Place {
    async fn log(&self, migration: MigrationId) -> Result<Arc<dyn Log>> {
        Ok(Arc::new(connect(&self.brokers, &self.name, migration).await?))
    }
    fn bulk_outlives(&self) -> bool {
        true
    }
}

async fn connect(brokers: &str, name: &str, migration: MigrationId) -> Result<KafkaLog> {
    KafkaLog::connect(KafkaOptions::new(vec![brokers.to_owned()], name, migration)).await
}

async fn opened(kafka: &Kafka, name: &str, migration: MigrationId) -> KafkaLog {
    let log = connect(&kafka.brokers(), name, migration).await.unwrap();
    log.open(2).await.unwrap();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn suite() {
    let kafka = Kafka::start().await.unwrap();
    all(|case| {
        let place = Place { brokers: kafka.brokers(), name: case.replace('_', "-") };
        async { Arc::new(place) as Arc<dyn Factory> }
    })
    .await
    .unwrap();
}

/// Killed thrice under an appender, with a reader all the while: everything comes, once, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_costs_nothing_but_time() {
    const RECORDS: u64 = 3000;
    let mut kafka = Kafka::start().await.unwrap();
    let id = MigrationId::new_v4();
    let log = opened(&kafka, "dies", id).await;
    let mut appender = log.appender(Stream::Changes).await.unwrap();
    let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
    let len = |n: u64| if n % 500 == 250 { 9 << 20 } else { 20_000 };
    let (read, mut seen) = tokio::sync::watch::channel(0);
    let appending = async {
        for n in 0..RECORDS {
            appender.append(record(n, len(n))).await?;
        }
        appender.flush().await
    };
    let reading = async {
        for n in 0..RECORDS {
            let (_, got) = reader.next().await?;
            assert!(got == record(n, len(n)), "record {n}");
            read.send_replace(n);
        }
        Ok(())
    };
    let killing = async {
        for at in [300, 1200, 2100] {
            seen.wait_for(|n| *n >= at).await.unwrap();
            kafka.kill9().await.unwrap();
            kafka.restart().await.unwrap();
        }
        Ok(())
    };
    let all = async { tokio::try_join!(appending, reading, killing) };
    tokio::time::timeout(Duration::from_secs(180), all).await.expect("it ends").unwrap();
    assert_eq!(appender.durable(), RECORDS);
    // Once more, from the broker's disk.
    drop(log);
    let log = opened(&kafka, "dies", id).await;
    let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
    for n in 0..RECORDS {
        assert!(reader.next().await.unwrap().1 == record(n, len(n)), "record {n}");
    }
}

/// A broker that stays away ends the appender with an error that may pass; a new one goes on where the log ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_appender_gives_up_and_a_new_one_goes_on() {
    let mut kafka = Kafka::start().await.unwrap();
    let mut options = KafkaOptions::new(vec![kafka.brokers()], "stalls", MigrationId::new_v4());
    options.stall = Duration::from_secs(10);
    let log = KafkaLog::connect(options).await.unwrap();
    log.open(1).await.unwrap();
    fill(&log, Stream::Changes, 0..10, 1000).await.unwrap();
    let mut appender = log.appender(Stream::Changes).await.unwrap();
    kafka.kill9().await.unwrap();
    for n in 10..20 {
        appender.append(record(n, 1000)).await.unwrap();
    }
    let error = appender.flush().await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retry), (codes::LOG, drover_model::Retry::Connection), "{error}");
    assert_eq!(appender.durable(), 0);
    assert!(appender.append(record(20, 1000)).await.is_err(), "it stays failed");
    kafka.restart().await.unwrap();
    fill(&log, Stream::Changes, 10..20, 1000).await.unwrap();
    expect(&mut *log.reader(Stream::Changes, 0).await.unwrap(), 0..20, 1000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_would_forget_and_messages_of_others_are_refused() {
    let kafka = Kafka::start().await.unwrap();
    let id = MigrationId::new_v4();
    let log = opened(&kafka, "checks", id).await;
    fill(&log, Stream::Changes, 0..3, 100).await.unwrap();
    let brokers = kafka.brokers();
    let alter = ["--alter", "--entity-type", "topics", "--entity-name", "drover.checks.changes"];
    let set = |what: &'static str, value: &'static str| [&alter[..], &[what, value]].concat();
    kafka.tool("kafka.admin.ConfigCommand", &set("--add-config", "retention.ms=1000000")).await.unwrap();
    // A process looks at the topics when it begins.
    let started = connect(&brokers, "checks", id).await.unwrap();
    let error = started.open(2).await.unwrap_err();
    assert!(error.code == codes::LOG && error.message.contains("retention.ms"), "{error}");
    kafka.tool("kafka.admin.ConfigCommand", &set("--add-config", "retention.ms=-1")).await.unwrap();
    started.open(2).await.unwrap();

    // Another migration's appender that slipped in: the reader stops there.
    let other = connect(&brokers, "checks", MigrationId::new_v4()).await.unwrap();
    assert!(other.open(2).await.is_err());
    fill(&other, Stream::Changes, 3..4, 100).await.unwrap();
    let mut reader = log.reader(Stream::Changes, 0).await.unwrap();
    expect(&mut *reader, 0..3, 100).await.unwrap();
    let error = reader.next().await.unwrap_err();
    assert!(error.code == codes::LOG && error.retry == drover_model::Retry::Never, "{error}");
    assert!(reader.next().await.is_err(), "it stays an error");
}
