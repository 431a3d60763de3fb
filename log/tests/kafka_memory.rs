//! What the log in Kafka takes of memory, on a real broker. A program of its own: what the process takes is what is measured, so no
//! other test may run in it.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use drover_harness::Kafka;
use drover_log::kafka::{KafkaLog, KafkaOptions};
use drover_log::suite::record;
use drover_log::{Log, Stream};
use drover_model::MigrationId;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// One appender and two readers that never catch up.
#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_small() {
    let kafka = Kafka::start().await.unwrap();
    let options = KafkaOptions::new(vec![kafka.brokers()], "memory", MigrationId::new_v4());
    let log = KafkaLog::connect(options).await.unwrap();
    log.open(2).await.unwrap();
    let before = resident();
    let mut most = 0;
    let mut appender = log.appender(Stream::Bulk(0)).await.unwrap();
    let mut slow = log.reader(Stream::Bulk(0), 0).await.unwrap();
    let mut slower = log.reader(Stream::Bulk(0), 0).await.unwrap();
    let one = record(0, 2 << 20);
    for n in 0..150 {
        appender.append(one.clone()).await.unwrap();
        if n % 3 == 0 {
            slow.next().await.unwrap();
        }
        if n % 10 == 0 {
            slower.next().await.unwrap();
        }
        most = resident().max(most);
    }
    appender.flush().await.unwrap();
    let more = most.saturating_sub(before) >> 20;
    println!("{more} MiB more for one appender and two readers");
    assert!(more < 120, "{more} MiB");
}
