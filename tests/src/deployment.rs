//! drover in either of its forms, so that one description of a scenario runs in both: `drover run` alone, or a coordinator with
//! extractors and appliers over Kafka.

use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Mutex;

use crate::drover::Finished;
use crate::ports::Port;
use crate::server::{Dialect, Session};
use crate::{Drover, Kafka, Process, Server, wait};

/// How drover is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `drover run`.
    InProcess,
    /// Coordinator, two extractors, two appliers, Kafka.
    Cluster,
}

/// A part of a cluster. In process they are all the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Kind and URL.
    pub source: (String, String),
    pub destination: (String, String),
    /// Lines of `[migrate]`.
    pub migrate: String,
    /// Whole further sections.
    pub more: String,
    /// Bootstrap servers, for the cluster.
    pub brokers: Option<String>,
}

impl Plan {
    /// Goes by way of other ports to the source and to the destination.
    pub fn by_way_of(mut self, ports: [(u16, u16); 2]) -> Plan {
        for (url, (server, relay)) in [&mut self.source.1, &mut self.destination.1].into_iter().zip(ports) {
            *url = url.replace(&format!("127.0.0.1:{server}/"), &format!("127.0.0.1:{relay}/"));
        }
        self
    }

    /// Between the databases in which tests keep their data; `migrate` and `more` go into the file as they are.
    pub fn between(source: &Server, destination: &Server, migrate: &str, more: &str) -> Plan {
        let end = |server: &Server| {
            let engine = server.engine();
            // Names stay the same, so the source's database is the destination's.
            let within = [source, destination].iter().all(|s| s.engine().dialect() == Dialect::MySql);
            let database = if within { source.engine().database() } else { engine.database() };
            (engine.kind().to_owned(), server.url(database))
        };
        Plan {
            source: end(source),
            destination: end(destination),
            migrate: migrate.to_owned(),
            more: more.to_owned(),
            brokers: None,
        }
    }
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
    store: String,
    source: String,
    started: usize,
    /// What all runs together have written to standard error (in process only).
    earlier: String,
}

/// How long anything may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

impl Deployment {
    /// A migration between two servers as [`Plan::between`] puts it, with the shared broker. Nothing is started.
    pub async fn new(
        form: Form,
        source: &Server,
        destination: &Server,
        migrate: &str,
        more: &str,
    ) -> Result<Deployment> {
        Deployment::with(form, Plan::between(source, destination, migrate, more)).await
    }

    /// The same from a plan.
    pub async fn with(form: Form, mut plan: Plan) -> Result<Deployment> {
        let kafka = if form == Form::Cluster { Some(shared_kafka().await?) } else { None };
        plan.brokers = kafka.as_ref().map(|k| k.brokers());
        let mut deployment = Deployment::of(form, &plan)?;
        deployment._kafka = kafka;
        Ok(deployment)
    }

    /// The same with the plan's own brokers (addresses with commas between), if it has any.
    pub fn of(form: Form, plan: &Plan) -> Result<Deployment> {
        let drover = Drover::new()?;
        let ports = [Port::reserve()?, Port::reserve()?];
        // The broker may be shared: names must differ.
        let name = format!("e2e-{}", ports[0].number());
        let brokers = |b: &String| format!("[log]\nkafka = {{ brokers = [\"{}\"] }}\n", b.replace(',', "\", \""));
        let log = plan.brokers.as_ref().map_or_else(String::new, brokers);
        let text = format!(
            "name = \"{name}\"\n[source]\nkind = \"{}\"\nurl = \"{}\"\n[destination]\nkind = \"{}\"\nurl = \"{}\"\n[migrate]\n{}\n{log}{}\n",
            plan.source.0, plan.source.1, plan.destination.0, plan.destination.1, plan.migrate, plan.more
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
            source: plan.source.1.clone(),
            started: 0,
            earlier: String::new(),
            store: "store".into(),
        })
    }

    /// Sets an environment variable for all later starts.
    pub fn env(mut self, name: &str, value: &str) -> Deployment {
        self.drover = self.drover.env(name, value);
        self
    }

    /// Where the coordinator of a cluster serves.
    pub fn coordinator_port(&self) -> u16 {
        self.ports[0].number()
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

    /// Starts `run`, which ends itself when it comes to this failpoint (`name`, or `name:N` for the N-th time), and waits until it has.
    pub async fn dies_at(&mut self, failpoint: &str) -> Result<()> {
        ensure!(self.form == Form::InProcess, "a cluster has many processes, which come to it in any order");
        self.start_with(&[("DROVER_FAILPOINT", failpoint)]).await?;
        self.main()?.expect_abort(PATIENCE).await.with_context(|| failpoint.to_owned())
    }

    /// Waits until the only worker of a role has ended itself at a failpoint that it was started with; the role has none then.
    pub async fn died(&mut self, role: Role, failpoint: &str) -> Result<()> {
        let only = self.workers(role)?;
        ensure!(only.len() == 1, "{} workers", only.len());
        let ended = only.remove(0).expect_abort(PATIENCE).await;
        ended.with_context(|| format!("{failpoint}\n{}", self.tails(20)))
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
        let mut arguments = vec!["run", &file, "--http", "127.0.0.1:0"];
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
                    self.main = Some(self.coordinator(environment)?);
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
                let mut arguments = vec![verb, "--name", &name, "--http", "127.0.0.1:0"];
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

    fn coordinator(&self, environment: &[(&str, &str)]) -> Result<Process> {
        let (grpc, http) = (self.address(0), self.address(1));
        let arguments = ["coordinator", "--listen", &grpc, "--http", &http, "--store", &self.store];
        self.drover.spawn_env(&arguments, environment)
    }

    /// Keeps the coordinator's state there (a folder or a url) in place of a folder beside the migration file.
    pub fn store(mut self, store: String) -> Deployment {
        self.store = store;
        self
    }

    /// One more coordinator at the same addresses, which waits until it can lead.
    pub fn second_coordinator(&self) -> Result<Process> {
        self.coordinator(&[])
    }

    /// From now on this is the coordinator; the former one is given back.
    pub fn led_by(&mut self, process: Process) -> Option<Process> {
        self.main.replace(process)
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
                        Ok(Some(Err(anyhow!("drover ended with {status}: {}", main.tail(90)))))
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

    /// Waits until a cluster's migration is in this state, whatever that means, and gives what `migration show` says.
    pub async fn wait_state(&self, state: &str) -> Result<Value> {
        wait::until(state, PATIENCE, || async move {
            let view = self.show().await?;
            if view["state"] == state { Ok(Some(view)) } else { Err(anyhow!("{view}")) }
        })
        .await
    }

    /// The ends of what all processes have written.
    pub fn tails(&mut self, lines: usize) -> String {
        self.processes().map(|p| p.tail(lines)).collect()
    }

    /// Waits until everything that the source has committed by now is at the destination. In one process this ends the present
    /// `run` (SIGINT, exit status 4) and starts one that ends when it has caught up (exit status 0).
    pub async fn wait_caught_up(&mut self) -> Result<()> {
        match self.form {
            Form::InProcess => self.caught_up_with(0).await,
            Form::Cluster => {
                let now = log_end(&mut Session::connect(&self.source).await?).await?;
                let reached = |v: &Value| {
                    let stage = &v["stages"]["incremental"];
                    stage["consistent"] == true && stage["position"].as_str().and_then(place).is_some_and(|p| p >= now)
                };
                self.wait_shown("caught up", reached).await.map(drop)
            }
        }
    }

    /// The same where these tables are not followed any more: exit status 1, and the last lines name them.
    pub async fn wait_caught_up_but(&mut self, stopped: &[&str]) -> Result<()> {
        self.caught_up_with(1).await?;
        let said = self.main()?.stderr();
        let last: Vec<&str> = said.trim_end().lines().rev().take(stopped.len()).collect();
        let named =
            |table: &&str| last.iter().any(|l| l.starts_with(&format!("drover: {table} is not followed any more: ")));
        ensure!(stopped.iter().all(named), "{stopped:?} are not named at the end:\n{said}");
        Ok(())
    }

    async fn caught_up_with(&mut self, status: i32) -> Result<()> {
        if self.main.as_mut().is_some_and(Process::running) {
            self.interrupt().await?;
        }
        self.run(&[], true)?;
        self.main()?.expect_exit(PATIENCE, status).await
    }

    /// Ends `run` by SIGINT: exit status 4, since there is more to do.
    pub async fn interrupt(&mut self) -> Result<()> {
        let main = self.main()?;
        // A signal in the first milliseconds ends a program that has not asked for signals yet; what it says first, it says after that.
        wait::until("it says something", PATIENCE, || {
            let said = !main.stderr().is_empty();
            std::future::ready(main.try_exit().map(|ended| (said || ended.is_some()).then_some(())))
        })
        .await?;
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
pub async fn log_end(session: &mut Session) -> Result<Place> {
    let text = match session {
        Session::Postgres(_) => session.text("SELECT pg_current_wal_insert_lsn()").await?.context("no position")?,
        Session::MySql(_) => {
            let version = session.text("SELECT version()").await?.context("a version")?;
            let sql = if version.contains("MariaDB") { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" };
            let row = session.row(sql).await?;
            let [Some(file), Some(at), ..] = &row[..] else { bail!("no binary log: {row:?}") };
            format!("{file}:{at}")
        }
    };
    place(&text).with_context(|| format!("no position: {text}"))
}

/// A position as two numbers, the first of more weight: both halves of an LSN, or a binary log's file and place in it.
pub type Place = (u64, u64);

/// The position in a text: `X/Y` or `binlog.N:M`, which may stand among other words.
pub fn place(text: &str) -> Option<Place> {
    text.split(|c: char| c.is_whitespace() || c == ',').find_map(|word| {
        if let Some((high, low)) = word.split_once('/') {
            return Some((u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?));
        }
        let (file, at) = word.split_once(':')?;
        Some((file.rsplit_once('.')?.1.parse().ok()?, at.parse().ok()?))
    })
}
