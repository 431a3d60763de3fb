//! A real Apache Kafka broker (KRaft, one node) in a temporary folder on free ports. It dies with the test process. Topics are
//! never created by mere use.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{self, Process};
use crate::{Relay, scripts, wait};

/// How long a broker may take to serve: after a kill its old session must run out first.
const PATIENCE: Duration = Duration::from_secs(90);

/// A broker; it is killed and its data removed when the value is dropped.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    port: Port,
    _controller: Port,
    folder: TempDir,
}

impl Kafka {
    /// Starts a fresh broker that besides lets `user` in by SCRAM-SHA-512 over TLS, with a certificate of its own, at a second address,
    /// which is given along. `folder` has `ca.pem`, and `server.pem` with `server.key` for 127.0.0.1.
    pub async fn start_secured(certificates: &Path, user: &str, password: &str) -> Result<(Kafka, Port)> {
        let mut kafka = Kafka::prepare().await?;
        let secured = Port::reserve()?;
        let identity = kafka.folder.path().join("identity.pem");
        let read = |name: &str| std::fs::read_to_string(certificates.join(name)).with_context(|| name.to_owned());
        std::fs::write(&identity, read("server.key")? + &read("server.pem")?)?;
        let path = kafka.folder.path().join("server.properties");
        let text = std::fs::read_to_string(&path)?;
        let listeners = format!(",SECURE://127.0.0.1:{},CONTROLLER://", secured.number());
        let text = text.replacen(",CONTROLLER://", &listeners, 1).replacen(
            "CONTROLLER:PLAINTEXT",
            "CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            1,
        );
        let of = "listener.name.secure";
        let more = format!(
            "{of}.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             {of}.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             {of}.ssl.keystore.type=PEM\n{of}.ssl.keystore.location={}\n\
             {of}.ssl.truststore.type=PEM\n{of}.ssl.truststore.location={}\n{of}.ssl.client.auth=required\n",
            identity.display(),
            certificates.join("ca.pem").display()
        );
        std::fs::write(&path, text + &more)?;
        kafka.serve().await?;
        let add = format!("SCRAM-SHA-512=[password={password}]");
        let arguments = ["--alter", "--add-config", &add, "--entity-type", "users", "--entity-name", user];
        kafka.tool("kafka.admin.ConfigCommand", &arguments).await?;
        Ok((kafka, secured))
    }

    /// Starts a fresh broker; it serves when this returns.
    pub async fn start() -> Result<Kafka> {
        let mut kafka = Kafka::prepare().await?;
        kafka.serve().await?;
        Ok(kafka)
    }

    /// A fresh broker whose address for clients is a relay.
    pub async fn start_relayed() -> Result<(Kafka, Relay)> {
        let mut kafka = Kafka::prepare().await?;
        let relay = Relay::to(kafka.port.number()).await?;
        let path = kafka.folder.path().join("server.properties");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{text}advertised.listeners=PLAINTEXT://127.0.0.1:{}\n", relay.port()))?;
        kafka.serve().await?;
        Ok((kafka, relay))
    }

    async fn prepare() -> Result<Kafka> {
        Kafka::lay(Port::reserve()?, Port::reserve()?, &[]).await
    }

    /// A fresh data folder. `more`: a node's number and the controllers of all nodes, if it is one of several.
    pub(crate) async fn lay(port: Port, controller: Port, more: &[&str]) -> Result<Kafka> {
        let folder = scripts::folder("kafka")?;
        let place = folder.path().to_str().context("the temporary folder's name is not UTF-8")?;
        let ports = [port.number().to_string(), controller.number().to_string()];
        scripts::output("kafka", &[&["init", place, &ports[0], &ports[1]], more].concat()).await?;
        Ok(Kafka { process: None, port, _controller: controller, folder })
    }

    pub(crate) async fn serve(&mut self) -> Result<()> {
        let mut command = Command::new(scripts::path("kafka"));
        command.arg("run").arg(self.folder.path());
        let mut process = Process::spawn("kafka", command, self.folder.path())?;
        let ready = wait::until("Kafka serves", PATIENCE, || {
            // The broker says so itself, once the controller lets clients in.
            let serves = process.stdout().contains("Kafka Server started");
            std::future::ready(match process.try_exit() {
                Ok(Some(status)) => Ok(Some(Err(anyhow!("Kafka ended with {status}")))),
                Ok(None) => Ok(serves.then_some(Ok(()))),
                Err(error) => Err(error),
            })
        })
        .await;
        ready.and_then(|started| started).with_context(|| process.tail(30))?;
        self.process = Some(process);
        Ok(())
    }

    /// Bootstrap servers, `127.0.0.1:PORT`. The same over restarts.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process()?.pid())
    }

    /// The process with its memory, output and signals (`freeze`).
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("Kafka is down")
    }

    /// The same, to send it signals.
    pub fn process_mut(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("Kafka is down")
    }

    /// CPU seconds since its last start.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid()?)
    }

    /// Graceful stop. Nothing happens when it is down.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate()?;
            process.wait_exit(PATIENCE).await?;
        }
        Ok(())
    }

    /// SIGKILL. [`Kafka::restart`] brings it back with its data.
    pub async fn kill9(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Stops it gracefully if it is up, and starts it on the same data and ports.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.serve().await
    }

    /// Runs one of Kafka's own programs by its class name (`org.apache.kafka.tools.TopicCommand`) and returns its output.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let place = self.folder.path().to_str().context("the temporary folder's name is not UTF-8")?;
        scripts::output("kafka", &[&["tool", place, class], arguments].concat()).await
    }
}
