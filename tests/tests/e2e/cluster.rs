//! Faults that only a cluster has: parts that die one by one while the others go on, a broker that dies, an applier that stands
//! still and comes back, records that come twice and late. A dead worker's work moves within 15 seconds.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use drover_tests::deployment::Plan;
use drover_tests::scene::{self, SMALL_CHUNKS};
use drover_tests::{Deployment, Form, Kafka, Pair, Role, Scene, suite, wait};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// The promise: so long may the work of a dead or frozen worker lie.
const MOVES_WITHIN: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(60);

suite! {
    both a_frozen_applier_is_replaced_and_commits_nothing_when_it_comes_back;
    main the_work_of_dead_workers_moves;
    both every_part_dies_in_turn;
    main records_that_come_again_and_late_change_nothing;
}

/// A cluster of one worker each that has come to consistency under load, with the usual term of leases; then a second of each.
async fn one_and_one(pair: Pair) -> Result<Scene> {
    let mut scene = Scene::of(pair, Form::Cluster, "").await?;
    scene.load().await?;
    scene.drover.start_role(Role::Coordinator, &[]).await?;
    for role in [Role::Extractor, Role::Applier] {
        scene.drover.start_role(role, &[]).await?;
    }
    scene.drover.create().await?;
    scene.drover.wait_consistent().await?;
    for role in [Role::Extractor, Role::Applier] {
        scene.drover.start_role(role, &[]).await?;
    }
    Ok(scene)
}

async fn a_frozen_applier_is_replaced_and_commits_nothing_when_it_comes_back(pair: Pair) -> Result<()> {
    let mut scene = one_and_one(pair).await?;
    let observer = scene.observe().await?;
    scene.passes().await?;
    let (before, _) = scene.progress().await?;
    scene.drover.workers(Role::Applier)?[0].freeze()?;
    let took = scene.passes().await?;
    println!("a frozen applier's work moved within {took:?}");
    ensure!(took < MOVES_WITHIN, "{took:?}");
    let (after, _) = scene.progress().await?;
    ensure!(after == before + 1, "epoch {before}, then {after}: nobody took over");
    scene.drover.workers(Role::Applier)?[0].thaw()?;
    // Had the first one its way back, it would raise the epoch, or commit beside the second one and break the order.
    scene.advance(240).await?;
    scene.passes().await?;
    let (now, _) = scene.progress().await?;
    ensure!(now == after, "epoch {after}, then {now}");
    ensure!(scene.drover.workers(Role::Applier)?.iter_mut().all(|p| p.running()), "{}", scene.drover.tails(10));
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

async fn the_work_of_dead_workers_moves(pair: Pair) -> Result<()> {
    let mut scene = one_and_one(pair).await?;
    let observer = scene.observe().await?;
    for role in [Role::Applier, Role::Extractor] {
        scene.passes().await?;
        // The first one has the work: the second came later.
        scene.drover.kill9(role, 0)?;
        let took = scene.passes().await?;
        println!("the work of a dead {role:?} moved within {took:?}");
        ensure!(took < MOVES_WITHIN, "{role:?}: {took:?}");
    }
    for (role, buffer) in [(Role::Extractor, "drover_buffer_limit_bytes{buffer=\"log.producer\"}"), (Role::Applier, "")]
    {
        let worker = &scene.drover.workers(role)?[0];
        for (path, wanted) in [
            ("/healthz", "ok"),
            ("/readyz", "ready"),
            ("/metrics", "drover_worker_coordinator_silent_seconds "),
            ("/metrics", buffer),
        ] {
            let answer = worker.answer(path).await?;
            ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains(wanted), "{role:?} {path}: {answer}");
        }
    }
    // Without a coordinator those who have work go on with it.
    scene.drover.kill9(Role::Coordinator, 0)?;
    let took = scene.passes().await?;
    ensure!(took < MOVES_WITHIN, "without a coordinator: {took:?}");
    let worker = &scene.drover.workers(Role::Applier)?[0];
    wait::until("a worker says that it is on its own", SOON, || async {
        let answer = worker.answer("/readyz").await?;
        if answer.starts_with("HTTP/1.1 503") { Ok(Some(())) } else { Err(anyhow!(answer)) }
    })
    .await?;
    scene.advance(60).await?;
    scene.drover.start_role(Role::Coordinator, &[]).await?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

async fn every_part_dies_in_turn(pair: Pair) -> Result<()> {
    let mut kafka = Kafka::start().await?;
    let mut scene = Scene::of(pair, Form::InProcess, &scene::many(pair.source.dialect())).await?;
    let mut plan = Plan::between(&scene.source, &scene.destination, scene::consent(pair.source), "");
    plan.brokers = Some(kafka.brokers());
    let drover = Deployment::of(Form::Cluster, &plan)?;
    scene.drover = drover.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS).env("DROVER_LEASE_MS", "3000");
    scene.load().await?;
    scene.drover.start().await?;
    // In the copy.
    for (chunks, role) in [(4, Role::Coordinator), (9, Role::Extractor), (14, Role::Applier)] {
        scene.wait_chunks(chunks).await?;
        scene.drover.kill9(role, 0)?;
        scene.drover.start().await?;
    }
    scene.wait_chunks(18).await?;
    kafka.kill9().await?;
    kafka.restart().await?;
    scene.drover.wait_consistent().await?;
    // In the changes.
    let observer = scene.observe().await?;
    for role in [Role::Coordinator, Role::Extractor, Role::Applier] {
        scene.passes().await?;
        scene.drover.kill9(role, 0)?;
        scene.advance(20).await?;
        scene.drover.start().await?;
    }
    kafka.kill9().await?;
    scene.advance(20).await?;
    kafka.restart().await?;
    scene.passes().await?;
    kafka.restart().await?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

/// Appends the first `count` records of a topic to its end once more, byte for byte.
fn repeat(brokers: &str, topic: &str, count: usize) -> Result<usize> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .create()?;
    let (low, high) = consumer.fetch_watermarks(topic, 0, SOON)?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Offset(low))?;
    consumer.assign(&from)?;
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("message.max.bytes", "5000000").create()?;
    let begin = Instant::now();
    let mut copied = 0;
    while copied < count && begin.elapsed() < SOON {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message?.detach();
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(message.payload().unwrap_or_default());
        if let Some(headers) = message.headers() {
            record = record.headers(headers.clone());
        }
        producer.send(record).map_err(|(error, _)| error)?;
        copied += 1;
        if message.offset() + 1 >= high {
            break;
        }
    }
    producer.flush(SOON)?;
    Ok(copied)
}

async fn records_that_come_again_and_late_change_nothing(pair: Pair) -> Result<()> {
    let kafka = drover_tests::deployment::shared_kafka().await?;
    let mut scene = one_and_one(pair).await?;
    let observer = scene.observe().await?;
    let topic = format!("drover.{}.changes", scene.drover.name);
    for _ in 0..3 {
        scene.advance(100).await?;
        scene.passes().await?;
        let (brokers, topic) = (kafka.brokers(), topic.clone());
        let copied = tokio::task::spawn_blocking(move || repeat(&brokers, &topic, 60)).await??;
        ensure!(copied >= 5, "only {copied} records");
    }
    // Late records stand at the very end of the log when another extractor looks where it ends.
    scene.quiet().await?;
    scene.drover.wait_caught_up().await?;
    scene.drover.workers(Role::Extractor)?.iter_mut().try_for_each(|p| p.kill9())?;
    let brokers = kafka.brokers();
    tokio::task::spawn_blocking(move || repeat(&brokers, &topic, 20)).await??;
    scene.drover.workers(Role::Extractor)?.clear();
    scene.drover.start_role(Role::Extractor, &[]).await?;
    scene.load().await?;
    scene.passes().await?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}
