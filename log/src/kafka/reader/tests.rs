//! Against a real broker.

use super::*;
use crate::Log;
use crate::kafka::{KafkaLog, KafkaOptions};
use drover_harness::Kafka;
use drover_model::MigrationId;

/// A paused partition stands in for one that librdkafka has lost sight of: it delivers nothing and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_delivers_nothing_is_replaced() {
    let kafka = Kafka::start().await.unwrap();
    let options = KafkaOptions::new(vec![kafka.brokers()], "silent", MigrationId::new_v4());
    let log = KafkaLog::connect(options).await.unwrap();
    log.open(0).await.unwrap();
    let mut appender = log.appender(Stream::Changes).await.unwrap();
    appender.append(Bytes::from_static(b"one")).await.unwrap();
    appender.flush().await.unwrap();

    let from = log.span(Stream::Changes).await.unwrap().first;
    let mut reader = KafkaReader::new(log.shared.clone(), Stream::Changes, from).unwrap();
    assert_eq!(reader.next().await.unwrap().1, "one");
    // An end that is silent for longer than the patience is only asked about.
    let quiet = reader.fetch.patience + Duration::from_secs(1);
    assert!(tokio::time::timeout(quiet, reader.next()).await.is_err());
    let before = reader.fetch.consumer.as_ref().map(|c| c.client().native_ptr());
    assert!(before.is_some() && reader.fetch.patience == PATIENCE);

    let consumer = reader.fetch.consumer.as_ref().unwrap();
    consumer.pause(&consumer.assignment().unwrap()).unwrap();
    for record in ["two", "three"] {
        appender.append(Bytes::from_static(record.as_bytes())).await.unwrap();
    }
    appender.flush().await.unwrap();
    for record in ["two", "three"] {
        // Callers give up waiting again and again; that must not put the look off.
        let got = async {
            loop {
                if let Ok(got) = tokio::time::timeout(Duration::from_millis(50), reader.next()).await {
                    return got.unwrap().1;
                }
            }
        };
        assert_eq!(tokio::time::timeout(4 * PATIENCE, got).await.expect("another client reads on"), record);
    }
    assert_ne!(before, reader.fetch.consumer.as_ref().map(|c| c.client().native_ptr()));
    log.remove().await.unwrap();
}

#[test]
fn a_record_in_parts_is_counted_while_it_is_put_together() {
    let account = Account::new("test: parts", 10 * PART);
    let mut assembly = Assembly { account: account.clone(), runs: Vec::new() };
    let part = |index: u32| {
        let kind = Kind::Part { run: (1, 2), index, count: 3 };
        Got { stream: Stream::Changes, offset: index.into(), kind, payload: Bytes::from(vec![7; PART]) }
    };
    for index in 0..2 {
        assert!(matches!(assembly.place(part(index)).unwrap(), Placed::Nothing));
        assert!(account.held() >= 3 * PART);
    }
    assert!(matches!(assembly.place(part(2)).unwrap(), Placed::Record(record) if record.len() == 3 * PART));
    assert_eq!(account.held(), 0);
}
