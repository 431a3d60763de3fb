//! What Kafka alone can do to a migration: its nodes go down one after the other, its records are deleted or whole topics are made
//! anew under it. Nothing is lost then, or the migration stops and says so.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use drover_tests::brokers::NODES;
use drover_tests::deployment::{Plan, shared_kafka};
use drover_tests::scene::{self, SMALL_CHUNKS};
use drover_tests::{Brokers, Deployment, Form, Kafka, Pair, Role, Scene, wait};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

const SOON: Duration = Duration::from_secs(60);

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

/// The offset after a topic's last record. A broker may say for a moment that it does not lead what it leads.
async fn end(brokers: &str, topic: &str) -> Result<i64> {
    wait::until("the topic's end is told", SOON, || async {
        let (asker, topic): (BaseConsumer, String) = (client(brokers).create()?, topic.to_owned());
        let ends = tokio::task::spawn_blocking(move || asker.fetch_watermarks(&topic, 0, SOON)).await??;
        Ok(Some(ends.1))
    })
    .await
}

/// Number of the node that leads a topic, counted from 1, and count of the replicas in sync.
async fn standing(kafka: &Brokers, topic: &str) -> Result<(usize, usize)> {
    let (asker, topic): (BaseConsumer, String) = (client(&kafka.addresses()).create()?, topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let told = asker.fetch_metadata(Some(&topic), SOON)?;
        let partition = told.topics().first().and_then(|t| t.partitions().first()).context("no partition")?;
        Ok((usize::try_from(partition.leader()).context("no leader")?, partition.isr().len()))
    })
    .await?
}

/// Waits until all replicas have what the leader has; its number.
async fn whole(kafka: &Brokers, topic: &str) -> Result<usize> {
    wait::until("all replicas are in sync", SOON, || async {
        let (leader, in_sync) = standing(kafka, topic).await?;
        ensure!(in_sync == NODES, "{in_sync} with {leader} ahead");
        Ok(Some(leader))
    })
    .await
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(client(brokers).create()?)
}

/// A cluster under load whose destination is consistent, over the shared broker.
async fn consistent(pair: Pair) -> Result<(Scene, std::sync::Arc<Kafka>, String)> {
    let kafka = shared_kafka().await?;
    let mut scene = Scene::of(pair, Form::Cluster, "").await?;
    scene.drover.start().await?;
    scene.load().await?;
    scene.drover.wait_consistent().await?;
    let topic = format!("drover.{}.changes", scene.drover.name);
    Ok((scene, kafka, topic))
}

/// Leaves the extractors without appliers until the log holds records that are not applied; then nothing is published any more.
async fn pile_up(scene: &mut Scene, brokers: &str, topic: &str) -> Result<i64> {
    scene.drover.workers(Role::Applier)?.iter_mut().try_for_each(|p| p.kill9())?;
    scene.drover.workers(Role::Applier)?.clear();
    let before = end(brokers, topic).await?;
    scene.advance(40).await?;
    wait::until("changes are published", SOON, || async {
        let now = end(brokers, topic).await?;
        if now >= before + 3 { Ok(Some(now)) } else { Err(anyhow!("{before}, then {now}")) }
    })
    .await?;
    scene.quiet().await?;
    scene.drover.workers(Role::Extractor)?.iter_mut().try_for_each(|p| p.kill9())?;
    scene.drover.workers(Role::Extractor)?.clear();
    end(brokers, topic).await
}

async fn applied(scene: &Scene) -> Result<Option<String>> {
    scene.destination.admin().await?.text("SELECT position_text FROM drover.drover_progress").await
}

/// The migration stops and says why; what is at the destination stays as it was.
async fn stops(scene: &mut Scene, why: &str) -> Result<()> {
    let before = applied(scene).await?;
    scene.drover.start_role(Role::Extractor, &[]).await?;
    scene.drover.start_role(Role::Applier, &[]).await?;
    let view = scene.drover.wait_state("failed").await.with_context(|| scene.drover.tails(20))?;
    let (message, remedy) = (&view["error"]["message"], &view["error"]["remedy"]);
    ensure!(message.as_str().is_some_and(|m| m.contains(why)), "{view:#}");
    ensure!(remedy.as_str().is_some_and(|r| r.contains("drover cleanup")), "no way on: {view:#}");
    let after = applied(scene).await?;
    ensure!(after == before, "{before:?}, then {after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_gone_are_not_read_past() -> Result<()> {
    let (mut scene, kafka, topic) = consistent(Pair::POSTGRES).await?;
    let brokers = kafka.brokers();
    let end = pile_up(&mut scene, &brokers, &topic).await?;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&topic, 0, Offset::Offset(end - 1))?;
    admin(&brokers)?.delete_records(&before, &AdminOptions::new()).await?;
    stops(&mut scene, "the log has a gap").await
}

async fn forgotten(scene: &mut Scene, kafka: &Kafka, topic: &str) -> Result<()> {
    let brokers = kafka.brokers();
    pile_up(scene, &brokers, topic).await?;
    let bulk = topic.replace(".changes", ".bulk");
    for done in admin(&brokers)?.delete_topics(&[topic, &bulk], &AdminOptions::new()).await? {
        done.map_err(|(topic, code)| anyhow!("{topic}: {code}"))?;
    }
    let tool = "org.apache.kafka.tools.TopicCommand";
    wait::until("the topics are gone", SOON, async || {
        Ok((!kafka.tool(tool, &["--list"]).await?.lines().any(|t| t == topic)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_gone_stop_what_the_source_no_longer_has() -> Result<()> {
    let (mut scene, kafka, topic) = consistent(Pair::POSTGRES).await?;
    forgotten(&mut scene, &kafka, &topic).await?;
    // The slot was told that all of it lies in the log.
    stops(&mut scene, "changes between are lost").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_gone_are_published_anew_where_the_source_has_all() -> Result<()> {
    let (mut scene, kafka, topic) = consistent(Pair::MYSQL).await?;
    forgotten(&mut scene, &kafka, &topic).await?;
    scene.drover.start().await?;
    scene.load().await?;
    scene.advance(40).await?;
    scene.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_go_down_one_after_the_other() -> Result<()> {
    let mut kafka = Brokers::start().await?;
    let sql = scene::many(Pair::POSTGRES.source.dialect());
    let mut scene = Scene::of(Pair::POSTGRES, Form::InProcess, &sql).await?;
    let mut plan = Plan::between(&scene.source, &scene.destination, scene::consent(Pair::POSTGRES.source), "");
    plan.brokers = Some(kafka.addresses());
    scene.drover = Deployment::of(Form::Cluster, &plan)?.env("DROVER_CHUNK_BYTES", SMALL_CHUNKS);
    let topic = format!("drover.{}.changes", scene.drover.name);
    scene.load().await?;
    scene.drover.start().await?;
    // In the copy: whoever leads the changes.
    if let Err(error) = scene.wait_chunks(6).await {
        let shown = scene.drover.show().await?;
        return Err(error.context(format!("{shown:#}\n{}", scene.drover.tails(20))));
    }
    let first = whole(&kafka, &topic).await?;
    kafka.nodes[first - 1].kill9().await?;
    scene.drover.wait_consistent().await?;
    kafka.nodes[first - 1].restart().await?;
    let observer = scene.observe().await?;
    // In the changes: the leader by SIGKILL. Two of three are enough to go on.
    let leader = whole(&kafka, &topic).await?;
    kafka.nodes[leader - 1].kill9().await?;
    scene.advance(60).await?;
    scene.drover.wait_caught_up().await.context("with one node down changes do not pass")?;
    let now = standing(&kafka, &topic).await?;
    ensure!(now.0 != leader && now.1 == 2, "{leader} is dead: {now:?}");
    kafka.nodes[leader - 1].restart().await?;
    // All in good order, one after the other.
    for node in 0..NODES {
        whole(&kafka, &topic).await?;
        kafka.nodes[node].restart().await?;
        scene.advance(20).await?;
    }
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}

/// How long the broker stays away, at least, in seconds (`DROVER_OUTAGE`); without it until every timeout that can be shortened has run out a few
/// times. Those that cannot be: the windows of `[retry]`, which `coordinator/tests/sim` runs through.
fn outage() -> Duration {
    Duration::from_secs(std::env::var("DROVER_OUTAGE").ok().and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// Beyond what an appender waits for an acknowledgement, beyond leases, and beyond the source's patience with a silent reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stays_away_is_waited_for() -> Result<()> {
    let mut kafka = Kafka::start().await?;
    let mut scene = Scene::of(Pair::POSTGRES, Form::InProcess, "").await?;
    for sql in [
        "ALTER SYSTEM SET wal_sender_timeout = '3s'",
        "ALTER SYSTEM SET max_slot_wal_keep_size = '2GB'",
        "SELECT pg_reload_conf()",
    ] {
        scene.source.admin().await?.run(sql).await?;
    }
    let windows = "[retry]\nother = \"1m\"\n";
    let mut plan = Plan::between(&scene.source, &scene.destination, scene::consent(Pair::POSTGRES.source), windows);
    plan.brokers = Some(kafka.brokers());
    let drover = Deployment::of(Form::Cluster, &plan)?;
    scene.drover = drover.env("DROVER_LEASE_MS", "3000").env("DROVER_STALL_MS", "3000");
    scene.load().await?;
    scene.drover.start().await?;
    scene.drover.wait_consistent().await?;
    let observer = scene.observe().await?;

    let begin = std::time::Instant::now();
    kafka.kill9().await?;
    let failed = |log: &str| log.matches("stream failed and is tried again").count();
    let drover = &scene.drover;
    wait::until("it fails, waits and fails again", SOON.max(outage() + SOON), || async {
        let log = drover.call(&["migration", "log", &drover.name]).await?.expect(0)?.stdout;
        let view = drover.show().await?;
        ensure!(view["state"] != "failed", "{view:#}");
        let long = begin.elapsed() >= outage() && failed(&log) >= 3;
        if long && view["state"] == "retrying" { Ok(Some(())) } else { Err(anyhow!("{view}\n{log}")) }
    })
    .await?;
    println!("away for {} s so far", begin.elapsed().as_secs());
    // Whoever watches is told why nothing comes, and what the source keeps meanwhile; the application does not notice.
    let error = scene.drover.show().await?["error"].to_string();
    ensure!(error.contains("DR0012") && error.contains("Kafka"), "{error}");
    let log = scene.drover.call(&["migration", "log", &scene.drover.name]).await?.expect(0)?.stdout;
    ensure!(log.contains("MB of its log for it, and throws that away after"), "{log}");
    scene.advance(60).await?;
    let slot =
        "SELECT restart_lsn IS NOT NULL AND wal_status <> 'lost' FROM pg_replication_slots WHERE slot_name LIKE 'dts%'";
    ensure!(scene.from().await?.text(slot).await?.as_deref() == Some("t"), "the slot keeps nothing");
    for process in scene.drover.processes() {
        let (name, peak) = (process.name().to_owned(), process.peak_kib()? >> 10);
        println!("{name}: {peak} MiB at most");
        ensure!(peak < 200, "{name} needs {peak} MiB");
    }
    kafka.restart().await?;
    scene.finish().await?;
    observer.stop().await?;
    Ok(())
}
