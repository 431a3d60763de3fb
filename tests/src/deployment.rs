//! drover in either of its forms, so that one description of a scenario runs in both: `drover run` alone, or a coordinator with
//! extractors and appliers over Kafka.

use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::drover::Finished;
use crate::ports::Port;
use crate::{Drover, Kafka, Postgres, Process, postgres, wait};

/// How drover is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `drover run`.
    InProcess,
    /// Coordinator, two extractors, two appliers, Kafka.
    Cluster,
}

/// A part of a cluster. In process they are all the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Coordinator,
    Extractor,
    Applier,
}

/// A broker that all tests of a file share as long as one of them runs.
pub async fn shared_kafka() -> Result<Arc<Kafka>> {
    static SHARED: Mutex<Weak<Kafka>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(kafka) = shared.upgrade() {
        return Ok(kafka);
    }
    let kafka = Arc::new(Kafka::start().await?);
    *shared = Arc::downgrade(&kafka);
    Ok(kafka)
}

/// What a migration file is made of.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub source: String,
    pub destination: String,
    /// Lines of `[migrate]`.
    pub migrate: String,
    /// Whole further sections.
    pub more: String,
    /// Bootstrap servers, for the cluster.
    pub brokers: Option<String>,
}

/// One migration and the processes that carry it out.
#[derive(Debug)]
pub struct Deployment {
    pub form: Form,
    pub drover: Drover,
    pub name: String,
    pub file: PathBuf,
    /// The process of `run`, or the coordinator.
    main: Option<Process>,
    extractors: Vec<Process>,
    appliers: Vec<Process>,
    ports: [Port; 2],
    created: bool,
    /// Keeps a shared broker alive.
    _kafka: Option<Arc<Kafka>>,
    source: String,
    started: usize,
    /// What all runs together have written to standard error (in process only).
    earlier: String,
}

/// How long anything may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

impl Deployment {
    /// A migration between two servers' database `drover`; `migrate` and `more` go into the file as they are. Nothing is started.
    pub async fn new(
        form: Form,
        source: &Postgres,
        destination: &Postgres,
        migrate: &str,
        more: &str,
    ) -> Result<Deployment> {
        let kafka = if form == Form::Cluster { Some(shared_kafka().await?) } else { None };
        let plan = Plan {
            source: source.url("drover"),
            destination: destination.url("drover"),
            migrate: migrate.to_owned(),
            more: more.to_owned(),
            brokers: kafka.as_ref().map(|k| k.brokers()),
        };
        let mut deployment = Deployment::of(form, &plan)?;
        deployment._kafka = kafka;
        Ok(deployment)
    }

    /// The same from a plan.
    pub fn of(form: Form, plan: &Plan) -> Result<Deployment> {
        let drover = Drover::new()?;
        let ports = [Port::reserve()?, Port::reserve()?];
        // The broker may be shared: names must differ.
        let name = format!("e2e-{}", ports[0].number());
        let log =
            plan.brokers.as_ref().map_or_else(String::new, |b| format!("[log]\nkafka = {{ brokers = [\"{b}\"] }}\n"));
        let text = format!(
            "name = \"{name}\"\n[source]\nkind = \"postgres\"\nurl = \"{}\"\n[destination]\nkind = \"postgres\"\nurl = \"{}\"\n[migrate]\n{}\n{log}{}\n",
            plan.source, plan.destination, plan.migrate, plan.more
        );
        let file = drover.write("migration.toml", &text)?;
        Ok(Deployment {
            form,
            drover: drover.env("DROVER_COORDINATOR", &format!("http://127.0.0.1:{}", ports[0].number())),
            name,
            file,
            main: None,
            extractors: Vec::new(),
            appliers: Vec::new(),
            ports,
            created: false,
            _kafka: None,
            source: plan.source.clone(),
            started: 0,
            earlier: String::new(),
        })
    }

    /// Sets an environment variable for all later starts.
    pub fn env(mut self, name: &str, value: &str) -> Deployment {
        self.drover = self.drover.env(name, value);
        self
    }

    fn file(&self) -> String {
        self.file.display().to_string()
    }

    /// Starts everything that does not run. A cluster's migration is created the first time.
    pub async fn start(&mut self) -> Result<()> {
        self.start_with(&[]).await
    }

    /// The same; environment variables for these processes alone.
    pub async fn start_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        match self.form {
            Form::InProcess => self.run(environment, false),
            Form::Cluster => {
                self.start_role(Role::Coordinator, environment).await?;
                while self.extractors.len() < 2 {
                    self.start_role(Role::Extractor, environment).await?;
                }
                while self.appliers.len() < 2 {
                    self.start_role(Role::Applier, environment).await?;
                }
                if self.created { Ok(()) } else { self.create().await }
            }
        }
    }

    /// `migration create`; done by [`Deployment::start`] where that is used.
    pub async fn create(&mut self) -> Result<()> {
        self.call(&["migration", "create", &self.file()]).await?.expect(0)?;
        self.created = true;
        Ok(())
    }

    /// Starts `drover run`, after taking down what ran.
    fn run(&mut self, environment: &[(&str, &str)], to_end: bool) -> Result<()> {
        self.retire()?;
        let file = self.file();
        let mut arguments = vec!["run", &file];
        if to_end {
            arguments.extend(["--until", "caught-up"]);
        }
        self.main = Some(self.drover.spawn_env(&arguments, environment)?);
        self.started += 1;
        Ok(())
    }

    fn retire(&mut self) -> Result<()> {
        if let Some(mut process) = self.main.take() {
            process.kill9()?;
            self.earlier.push_str(&process.stderr());
        }
        Ok(())
    }

    /// Starts one process of a cluster (the coordinator only if it does not run) and gives its place in the list.
    pub async fn start_role(&mut self, role: Role, environment: &[(&str, &str)]) -> Result<usize> {
        ensure!(self.form == Form::Cluster, "there are no roles in one process");
        match role {
            Role::Coordinator => {
                if self.main.as_mut().is_none_or(|p| !p.running()) {
                    let (grpc, http) = (self.address(0), self.address(1));
                    let arguments = ["coordinator", "--listen", &grpc, "--http", &http, "--store", "store"];
                    self.main = Some(self.drover.spawn_env(&arguments, environment)?);
                }
                let main = self.main.as_mut().context("just started")?;
                wait::until("the coordinator answers", PATIENCE, || {
                    if let Ok(Some(status)) = main.try_exit() {
                        return std::future::ready(Ok(Some(Err(anyhow!("it ended with {status}: {}", main.tail(20))))));
                    }
                    let open = std::net::TcpStream::connect(("127.0.0.1", self.ports[0].number())).is_ok();
                    std::future::ready(Ok(open.then_some(Ok(()))))
                })
                .await??;
                Ok(0)
            }
            Role::Extractor | Role::Applier => {
                self.started += 1;
                let name = format!("worker-{}", self.started);
                let verb = if role == Role::Extractor { "extractor" } else { "applier" };
                let mut arguments = vec![verb, "--name", &name];
                if role == Role::Extractor {
                    arguments.extend(["--work-dir", &name]);
                }
                let process = self.drover.spawn_env(&arguments, environment)?;
                let list = self.workers(role)?;
                list.push(process);
                Ok(list.len() - 1)
            }
        }
    }

    fn address(&self, port: usize) -> String {
        format!("127.0.0.1:{}", self.ports[port].number())
    }

    /// The processes of a role.
    pub fn workers(&mut self, role: Role) -> Result<&mut Vec<Process>> {
        match role {
            Role::Extractor => Ok(&mut self.extractors),
            Role::Applier => Ok(&mut self.appliers),
            Role::Coordinator => bail!("the coordinator is no worker"),
        }
    }

    /// All processes that run.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.main.iter_mut().chain(&mut self.extractors).chain(&mut self.appliers)
    }

    /// The process of `run`, or the coordinator.
    pub fn main(&mut self) -> Result<&mut Process> {
        self.main.as_mut().context("it does not run")
    }

    /// SIGKILL to all.
    pub fn kill9_all(&mut self) -> Result<()> {
        self.processes().try_for_each(Process::kill9)?;
        self.extractors.clear();
        self.appliers.clear();
        self.retire()
    }

    /// SIGKILL to the worker at this place of its role's list, or to the coordinator.
    pub fn kill9(&mut self, role: Role, place: usize) -> Result<()> {
        match role {
            Role::Coordinator => self.main()?.kill9(),
            _ => self.workers(role)?.remove(place).kill9(),
        }
    }

    /// Runs a command of drover to its end.
    pub async fn call(&self, arguments: &[&str]) -> Result<Finished> {
        self.drover.run(arguments, PATIENCE).await
    }

    /// `migration show --json`; in a cluster only.
    pub async fn show(&self) -> Result<Value> {
        self.call(&["migration", "show", &self.name, "--json"]).await?.expect(0)?.json()
    }

    /// What the process of `run` has logged in all its lives.
    pub fn log(&self) -> String {
        format!("{}{}", self.earlier, self.main.as_ref().map(Process::stderr).unwrap_or_default())
    }

    /// Waits until drover says that the destination is consistent.
    pub async fn wait_consistent(&mut self) -> Result<()> {
        if self.form == Form::InProcess {
            let main = self.main()?;
            return wait::until("consistent", PATIENCE, || {
                let said = main.stderr().contains("the destination is consistent");
                std::future::ready(match main.try_exit() {
                    Ok(Some(status)) if !said => {
                        Ok(Some(Err(anyhow!("drover ended with {status}: {}", main.tail(30)))))
                    }
                    _ => Ok(said.then_some(Ok(()))),
                })
            })
            .await?;
        }
        self.wait_shown("consistent", |v| v["stages"]["incremental"]["consistent"] == true).await.map(drop)
    }

    /// Waits until `migration show` gives what is wanted; a failed migration ends the wait.
    pub async fn wait_shown(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let wanted = &wanted;
        let this = &*self;
        let found = wait::until(what, PATIENCE, || async move {
            let view = this.show().await?;
            if view["state"] == "failed" || view["state"] == "precheck_failed" {
                return Ok(Some(Err(anyhow!("the migration failed: {view:#}"))));
            }
            if wanted(&view) { Ok(Some(Ok(view))) } else { Err(anyhow!("{view}")) }
        })
        .await
        .and_then(|r| r);
        found.with_context(|| self.tails(12))
    }

    /// The ends of what all processes have written.
    pub fn tails(&mut self, lines: usize) -> String {
        self.processes().map(|p| p.tail(lines)).collect()
    }

    /// Waits until everything that the source has committed by now is at the destination. In one process this ends the present
    /// `run` (SIGINT, exit status 4) and starts one that ends when it has caught up (exit status 0).
    pub async fn wait_caught_up(&mut self) -> Result<()> {
        match self.form {
            Form::InProcess => {
                if self.main.as_mut().is_some_and(Process::running) {
                    self.interrupt().await?;
                }
                self.run(&[], true)?;
                self.main()?.expect_exit(PATIENCE, 0).await
            }
            Form::Cluster => {
                let now = postgres::connect(&self.source).await?;
                let now = lsn(&current_lsn(&now).await?).context("the source's position")?;
                let reached = |v: &Value| {
                    let stage = &v["stages"]["incremental"];
                    stage["consistent"] == true && stage["position"].as_str().and_then(lsn).is_some_and(|p| p >= now)
                };
                self.wait_shown("caught up", reached).await.map(drop)
            }
        }
    }

    /// Ends `run` by SIGINT: exit status 4, since there is more to do.
    pub async fn interrupt(&mut self) -> Result<()> {
        let main = self.main()?;
        main.interrupt()?;
        main.expect_exit(Duration::from_secs(30), 4).await
    }

    /// Takes everything down and removes what drover has made.
    pub async fn cleanup(&mut self) -> Result<()> {
        if self.form == Form::Cluster {
            self.call(&["migration", "stop", &self.name]).await?.expect(0)?;
            self.call(&["migration", "delete", &self.name]).await?.expect(0)?;
            let gone =
                async || Ok((self.call(&["migration", "show", &self.name]).await?.code != Some(0)).then_some(()));
            wait::until("the migration is gone", PATIENCE, gone).await?;
        }
        self.kill9_all()?;
        if self.form == Form::InProcess {
            self.call(&["cleanup", &self.file()]).await?.expect(0)?;
        }
        Ok(())
    }
}

/// Where the source's log ends now.
pub async fn current_lsn(client: &Client) -> Result<String> {
    let now = postgres::query_one_text(client, "SELECT pg_current_wal_insert_lsn()").await?;
    now.context("no position")
}

/// `X/Y` as a number; it may stand anywhere in a text.
pub fn lsn(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '/').find_map(|word| {
        let (high, low) = word.split_once('/')?;
        Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
    })
}
