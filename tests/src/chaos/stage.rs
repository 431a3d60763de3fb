//! The servers of a pair, with a relay before each. They are kept from run to run; databases are not.

use std::path::Path;

use anyhow::Result;

use crate::deployment::Plan;
use crate::{Deployment, Form, Kafka, Pair, Relay, Scene, Server, owed, scene};

use super::plan::{Phase, Run};

/// A broker serves so many runs before another takes its place, since topics of runs stay.
const RUNS_OF_A_BROKER: u32 = 40;

/// Servers that runs of a pair share, one after the other.
#[derive(Debug)]
pub struct Stage {
    pub pair: Pair,
    pub(super) source: Relay,
    pub(super) destination: Relay,
    pub(super) broker: Option<(Kafka, Relay)>,
    runs: u32,
    servers: Option<(Server, Server)>,
}

/// Rows of the larger table of a run, and bytes of a chunk, so that some thirty chunks come of it.
const ROWS: u64 = 9_000;
const CHUNKS: &str = "60000";

impl Stage {
    /// Fresh servers.
    pub async fn new(pair: Pair) -> Result<Stage> {
        let (source, destination) = scene::servers(pair).await?;
        Ok(Stage {
            pair,
            source: Relay::to(source.port()).await?,
            destination: Relay::to(destination.port()).await?,
            broker: None,
            runs: 0,
            servers: Some((source, destination)),
        })
    }

    /// The scene of a run, with nothing left of the one before; and the relay before its coordinator. `None`: the servers are out.
    pub(super) async fn set(&mut self, run: &Run) -> Result<Option<(Scene, Option<Relay>)>> {
        let Some((source, destination)) = self.servers.take() else { return Ok(None) };
        if self.runs > 0 {
            scene::fresh(&source, &destination).await?;
        }
        self.runs += 1;
        let mut plan =
            Plan::between(&source, &destination, scene::consent(self.pair.source), scene::policies(self.pair))
                .by_way_of([(source.port(), self.source.port()), (destination.port(), self.destination.port())]);
        let cluster = run.form == Form::Cluster;
        if cluster {
            if self.broker.is_none() || self.runs.is_multiple_of(RUNS_OF_A_BROKER) {
                self.broker = None;
                self.broker = Some(Kafka::start_relayed().await?);
            }
            plan.brokers = self.broker.as_ref().map(|(_, relay)| format!("127.0.0.1:{}", relay.port()));
        }
        let owed = run.faults.iter().any(|f| f.phase == Phase::Owed);
        let chunks = if owed { "200000" } else { CHUNKS };
        let mut drover =
            Deployment::of(run.form, &plan)?.env("DROVER_CHUNK_BYTES", chunks).env("DROVER_LEASE_MS", "3000");
        let mut coordinator = None;
        if cluster {
            let relay = Relay::to(drover.coordinator_port()).await?;
            drover = drover.env("DROVER_COORDINATOR", &format!("http://127.0.0.1:{}", relay.port()));
            coordinator = Some(relay);
        }
        let tables = if owed { owed::TABLES.to_owned() } else { scene::many_rows(self.pair.source.dialect(), ROWS) };
        let sql = format!(
            "{tables} CREATE TABLE big (id bigint PRIMARY KEY, v bigint NOT NULL, filler text);
            CREATE TABLE side (id integer PRIMARY KEY, v integer); INSERT INTO side VALUES (1, 1)"
        );
        Ok(Some((Scene::on(source, destination, &sql, drover).await?, coordinator)))
    }

    /// Takes the servers of a scene back.
    pub(super) fn clear(&mut self, scene: Scene) {
        self.servers = Some((scene.source, scene.destination));
    }

    /// Copies what all have logged to `folder`.
    pub(super) fn keep(&self, scene: &Scene, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for (name, from) in [
            ("drover", scene.drover.drover.folder()),
            ("source", scene.source.folder()),
            ("destination", scene.destination.folder()),
        ] {
            for entry in std::fs::read_dir(from)?.flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                if ["err", "out", "toml"].iter().any(|end| file.ends_with(&format!(".{end}"))) {
                    std::fs::copy(entry.path(), folder.join(format!("{name}-{file}")))?;
                }
            }
        }
        Ok(())
    }
}
