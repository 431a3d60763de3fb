//! Three real Kafka nodes, each broker and controller: what leads one partition can die while another takes over. They die with the
//! test process.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use crate::ports::Port;
use crate::{Kafka, wait};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const NODES: usize = 3;
/// Until all replicas of a topic have caught up.
const SOON: Duration = Duration::from_secs(90);

/// Where a partition stands: numbers of nodes, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub leader: usize,
    pub in_sync: usize,
}

/// The nodes of one cluster.
#[derive(Debug)]
pub struct Brokers {
    pub nodes: Vec<Kafka>,
}

impl Brokers {
    /// Starts them; all serve when this returns.
    pub async fn start() -> Result<Brokers> {
        let ports: Vec<(Port, Port)> =
            (0..NODES).map(|_| Ok((Port::reserve()?, Port::reserve()?))).collect::<Result<_>>()?;
        let voters: Vec<String> =
            ports.iter().enumerate().map(|(i, p)| format!("{}@127.0.0.1:{}", i + 1, p.1.number())).collect();
        let voters = voters.join(",");
        let lay = ports.into_iter().enumerate().map(|(i, (port, controller))| {
            let (id, voters) = ((i + 1).to_string(), voters.clone());
            async move { Kafka::lay(port, controller, &[&id, &voters]).await }
        });
        let mut nodes = try_join_all(lay).await?;
        // None serves before most of them are there.
        try_join_all(nodes.iter_mut().map(Kafka::serve)).await?;
        Ok(Brokers { nodes })
    }

    /// Bootstrap servers, with commas between.
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",")
    }

    /// Leader and count of replicas in sync of a topic's first partition, asked of a node that is up.
    pub async fn standing(&self, topic: &str) -> Result<Standing> {
        let up = self.nodes.iter().find(|n| n.process().is_ok()).context("all nodes are down")?;
        let told = up.tool(TOPICS, &["--describe", "--topic", topic]).await?;
        let line =
            told.lines().find(|l| l.contains("Partition: 0")).with_context(|| format!("no partition in {told}"))?;
        let field = |name: &str| {
            let mut words = line.split_whitespace().skip_while(|w| *w != name);
            words.nth(1).map(str::to_owned).with_context(|| format!("no {name} in {line}"))
        };
        let leader = field("Leader:")?.parse().with_context(|| format!("no leader in {line}"))?;
        Ok(Standing { leader, in_sync: field("Isr:")?.split(',').count() })
    }

    /// Waits until all replicas of a topic have what its leader has.
    pub async fn whole(&self, topic: &str) -> Result<Standing> {
        wait::until("all replicas are in sync", SOON, || async {
            let standing = self.standing(topic).await?;
            ensure!(standing.in_sync == NODES, "{standing:?}");
            Ok(Some(standing))
        })
        .await
    }
}
