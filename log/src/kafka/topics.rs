//! Making, checking, trimming and deleting topics.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drover_model::{Error, Result};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset as KafkaOffset;

use super::{Shared, TOPIC_MESSAGE, blocking, kafka_error, never};
use crate::{Offset, Span, Stream};

/// How long a new topic may take until every broker knows it.
const APPEARS: Duration = Duration::from_secs(30);

pub(super) fn admin(shared: &Shared) -> Result<Arc<AdminClient<DefaultClientContext>>> {
    shared
        .admin
        .get(|| shared.config().create().map_err(|e| kafka_error("cannot make a Kafka client of the [log] options", e)))
}

fn options(patience: Duration) -> AdminOptions {
    let patience = Some(patience);
    AdminOptions::new().request_timeout(patience).operation_timeout(patience)
}

/// A client that asks and never reads.
fn asker(shared: &Shared) -> Result<Arc<BaseConsumer>> {
    shared.asker.get(|| shared.config().create().map_err(|e| kafka_error("cannot make a Kafka client", e)))
}

/// Topics by name: replicas of each partition.
fn known(shared: &Shared) -> Result<(usize, HashMap<String, Vec<usize>>)> {
    let client = asker(shared)?;
    let names = [shared.topic(Stream::Changes), shared.topic(Stream::Bulk(0))];
    let mut out = HashMap::new();
    let mut brokers = 0;
    for name in names {
        let metadata = client.fetch_metadata(Some(&name), shared.options.stall).map_err(|e| {
            shared.asker.forget(&client);
            kafka_error(format!("cannot ask the Kafka brokers {:?}", shared.options.brokers), e)
        })?;
        brokers = metadata.brokers().len();
        for topic in metadata.topics() {
            if topic.error().is_none() && !topic.partitions().is_empty() {
                out.insert(topic.name().to_owned(), topic.partitions().iter().map(|p| p.replicas().len()).collect());
            }
        }
    }
    Ok((brokers, out))
}

/// Makes what is missing and checks what is there.
pub(super) async fn ensure(shared: &std::sync::Arc<Shared>, bulk: u32) -> Result<()> {
    let admin = admin(shared)?;
    let asking = shared.clone();
    let (brokers, mut topics) = blocking(move || known(&asking)).await??;
    let wanted = [(shared.topic(Stream::Changes), 1), (shared.topic(Stream::Bulk(0)), bulk.max(1))];
    let replicas = brokers.clamp(1, 3);
    let in_sync = if replicas >= 3 { "2" } else { "1" };
    let message = TOPIC_MESSAGE.to_string();
    let mut made = false;
    for (name, count) in &wanted {
        match topics.get(name).map(Vec::len) {
            None => {
                let topic = NewTopic::new(name, *count as i32, TopicReplication::Fixed(replicas as i32))
                    .set("retention.ms", "-1")
                    .set("retention.bytes", "-1")
                    .set("cleanup.policy", "delete")
                    .set("max.message.bytes", &message)
                    .set("min.insync.replicas", in_sync)
                    .set("compression.type", "producer")
                    .set("unclean.leader.election.enable", "false")
                    // The disk of trimmed records is freed by whole segments.
                    .set("segment.bytes", "134217728");
                let done = admin.create_topics([&topic], &options(shared.options.stall)).await;
                outcome(done, RDKafkaErrorCode::TopicAlreadyExists, || format!("cannot make the Kafka topic {name}"))?;
                made = true;
            }
            Some(have) if have < *count as usize => {
                let more = NewPartitions::new(name, *count as usize);
                let done = admin.create_partitions([&more], &options(shared.options.stall)).await;
                // Another worker may just have done it.
                outcome(done, RDKafkaErrorCode::InvalidPartitions, || {
                    format!("cannot add partitions to the Kafka topic {name}")
                })?;
                made = true;
            }
            Some(_) => {}
        }
    }
    let deadline = Instant::now() + APPEARS;
    while made && wanted.iter().any(|(name, count)| topics.get(name).is_none_or(|p| p.len() < *count as usize)) {
        if Instant::now() > deadline {
            return Err(kafka_error(
                "new Kafka topics do not appear",
                KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asking = shared.clone();
        topics = blocking(move || known(&asking)).await??.1;
    }
    check(shared, &admin, &topics, replicas).await
}

/// Topics made by someone else, or changed since, may forget records or refuse ours.
async fn check(
    shared: &Shared,
    admin: &AdminClient<DefaultClientContext>,
    topics: &HashMap<String, Vec<usize>>,
    replicas: usize,
) -> Result<()> {
    for name in [shared.topic(Stream::Changes), shared.topic(Stream::Bulk(0))] {
        let least = topics.get(&name).and_then(|p| p.iter().min()).copied().unwrap_or(0);
        if least < replicas {
            tracing::warn!(topic = name, replicas = least, "the topic has fewer replicas than the cluster allows");
        }
        suits(&name, least, &configuration(admin, &name, APPEARS).await?)?;
    }
    Ok(())
}

/// The settings of a topic, by name.
///
/// A broker that has just started may not know the topic yet. It says so with a code that the client library drops
/// (<https://github.com/fede1024/rust-rdkafka>, `DescribeConfigsFuture`): what is left is an answer without any setting, and that
/// is asked for again until `patience` ends.
async fn configuration(
    admin: &AdminClient<DefaultClientContext>,
    name: &str,
    patience: Duration,
) -> Result<HashMap<String, String>> {
    let what = || format!("cannot read the configuration of the Kafka topic {name}");
    let deadline = Instant::now() + patience;
    loop {
        let told = admin
            .describe_configs([&ResourceSpecifier::Topic(name)], &options(patience))
            .await
            .map_err(|e| kafka_error(what(), e))?;
        let mut settings = HashMap::new();
        for config in told {
            let config = config.map_err(|e| kafka_error(what(), KafkaError::AdminOp(e)))?;
            settings.extend(config.entries.into_iter().filter_map(|e| Some((e.name, e.value?))));
        }
        if !settings.is_empty() {
            return Ok(settings);
        }
        if Instant::now() > deadline {
            return Err(kafka_error(what(), KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition)));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a topic with `least` replicas keeps what is published.
fn suits(name: &str, least: usize, settings: &HashMap<String, String>) -> Result<()> {
    let number = |value: &str| value.parse::<i64>().unwrap_or(i64::MIN);
    let in_sync = if least >= 3 { 2 } else { 1 };
    let rules: [(&str, String, &dyn Fn(&str) -> bool); 5] = [
        ("retention.ms", "-1".into(), &|v| v == "-1"),
        ("retention.bytes", "-1".into(), &|v| v == "-1"),
        ("cleanup.policy", "delete".into(), &|v| v == "delete"),
        ("max.message.bytes", TOPIC_MESSAGE.to_string(), &|v| number(v) >= TOPIC_MESSAGE as i64),
        ("min.insync.replicas", in_sync.to_string(), &|v| number(v) >= in_sync),
    ];
    for (key, wanted, holds) in rules {
        let value = settings.get(key).map_or("", String::as_str);
        if !holds(value) {
            return Err(never(format!("the Kafka topic {name} has {key}={value}; records could be lost or refused"))
                .remedy(format!(
                    "set {key}={wanted} on the topic, and find out who changed it: records may be missing already"
                )));
        }
    }
    Ok(())
}

fn outcome(
    done: Result<Vec<rdkafka::admin::TopicResult>, KafkaError>,
    harmless: RDKafkaErrorCode,
    what: impl Fn() -> String,
) -> Result<()> {
    for result in done.map_err(|e| kafka_error(what(), e))? {
        match result {
            Ok(_) => {}
            Err((_, code)) if code == harmless => {}
            Err((_, code)) => return Err(kafka_error(what(), KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

/// Blocks.
pub(super) fn spans(shared: &Shared, streams: &[Stream]) -> Result<Vec<Span>> {
    let client = asker(shared)?;
    let ask = |stream: &Stream| {
        let topic = shared.topic(*stream);
        // Right after a start or a change of leaders the first answers may be errors that pass.
        let deadline = Instant::now() + shared.options.stall;
        loop {
            match client.fetch_watermarks(&topic, Shared::partition(*stream), shared.options.stall) {
                Ok((low, high)) => return Ok(Span { first: low.max(0) as Offset, next: high.max(0) as Offset }),
                Err(e) if Instant::now() > deadline || passes(&e).is_none() => {
                    shared.asker.forget(&client);
                    return Err(kafka_error(format!("cannot ask for the ends of the Kafka topic {topic}"), e));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    streams.iter().map(ask).collect()
}

fn passes(error: &KafkaError) -> Option<()> {
    use RDKafkaErrorCode as E;
    matches!(
        error.rdkafka_error_code()?,
        E::NotLeaderForPartition
            | E::LeaderNotAvailable
            | E::UnknownTopicOrPartition
            | E::UnknownPartition
            | E::BrokerTransportFailure
            | E::AllBrokersDown
            | E::OffsetNotAvailable
    )
    .then_some(())
}

/// Blocks.
pub(super) fn span(shared: &Shared, stream: Stream) -> Result<Span> {
    Ok(spans(shared, &[stream])?.pop().unwrap_or_default())
}

pub(super) async fn delete_before(shared: &Shared, stream: Stream, before: Offset) -> Result<()> {
    let topic = shared.topic(stream);
    let what = || format!("cannot delete records of the Kafka topic {topic}");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, Shared::partition(stream), KafkaOffset::Offset(before as i64))
        .map_err(|e| kafka_error(what(), e))?;
    let client = admin(shared)?;
    let told = match client.delete_records(&list, &options(shared.options.stall)).await {
        Ok(told) => told,
        Err(error) => {
            shared.admin.forget(&client);
            // Its end waits for its threads.
            blocking(move || drop(client)).await?;
            return Err(kafka_error(what(), error));
        }
    };
    for element in told.elements() {
        element.error().map_err(|e| kafka_error(what(), e))?;
    }
    Ok(())
}

pub(super) async fn delete(shared: &Shared) -> Result<()> {
    let names = [shared.topic(Stream::Changes), shared.topic(Stream::Bulk(0))];
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = admin(shared)?.delete_topics(&asked, &options(shared.options.stall)).await;
    outcome(done, RDKafkaErrorCode::UnknownTopicOrPartition, || "cannot delete the Kafka topics".into())
        .map_err(|e: Error| e.remedy(format!("delete {} by hand", names.join(" and "))))
}

#[cfg(test)]
mod tests;
