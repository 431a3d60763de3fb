//! Three real Kafka nodes, each broker and controller: what leads one partition can die while another takes over. They die with the
//! test process.

use anyhow::Result;
use futures::future::try_join_all;

use crate::Kafka;
use crate::ports::Port;

/// How many there are.
pub const NODES: usize = 3;
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
}
