//! Against a real broker.

use super::*;
use crate::Log;
use crate::kafka::{KafkaLog, KafkaOptions};
use drover_harness::Kafka;
use drover_model::error::codes;
use drover_model::{MigrationId, Retry};

/// A broker that does not know a topic is asked again: nothing is concluded from an answer without settings. A topic that is not
/// there stands in for a broker that has just started; it answers the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_know_a_topic_yet_is_asked_again() {
    let kafka = Kafka::start().await.unwrap();
    let options = KafkaOptions::new(vec![kafka.brokers()], "unknown", MigrationId::new_v4());
    let log = KafkaLog::connect(options).await.unwrap();
    let client = admin(&log.shared).unwrap();
    let topic = log.shared.topic(Stream::Changes);

    let refused = configuration(&client, &topic, Duration::from_millis(300)).await.unwrap_err();
    assert!(refused.code == codes::LOG && refused.retry != Retry::Never, "{refused:?}");

    let (asked, opened) = tokio::join!(configuration(&client, &topic, APPEARS), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        log.open(0).await
    });
    opened.unwrap();
    let asked = asked.unwrap();
    suits(&topic, 1, &asked).unwrap();
    assert_eq!(asked["retention.ms"], "-1");
    log.remove().await.unwrap();
}

/// What a broker does tell is taken at its word.
#[test]
fn a_topic_that_forgets_is_refused() {
    let mut settings: HashMap<String, String> = [
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("cleanup.policy", "delete"),
        ("max.message.bytes", "5242880"),
        ("min.insync.replicas", "2"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    suits("t", 3, &settings).unwrap();
    for (key, bad) in [
        ("retention.ms", "604800000"),
        ("retention.bytes", "1"),
        ("cleanup.policy", "compact"),
        ("max.message.bytes", "1048576"),
        ("min.insync.replicas", "1"),
    ] {
        let good = settings.insert(key.to_owned(), bad.to_owned()).unwrap();
        let refused = suits("t", 3, &settings).unwrap_err();
        assert!(refused.retry == Retry::Never && refused.message.contains(key), "{refused:?}");
        settings.insert(key.to_owned(), good);
    }
}
