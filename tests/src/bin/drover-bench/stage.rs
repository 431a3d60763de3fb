//! The stage: two servers, a broker, clean databases between the runs, and drover in both of its forms.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use drover_tests::ports::Port;
use drover_tests::{Drover, Kafka, PgOptions, Postgres, Process, bulk, postgres, wait};
use tokio_postgres::Client;

use crate::meter::{Meter, Role};
use crate::options::Options;

/// How long any one thing may take.
pub const PATIENCE: Duration = Duration::from_secs(1_200);

/// The database of either side.
pub const DATABASE: &str = "bench";

/// The same for both servers. Checkpoints and vacuum would hit one run and spare another; a native apply worker that is enabled
/// again would otherwise begin up to 5 s late. All else is as it comes, fsync too.
const SETTINGS: &[(&str, &str)] = &[
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("wal_retrieve_retry_interval", "10ms"),
];

/// Servers and options of the whole program.
pub struct Stage {
    pub options: Options,
    pub source: Postgres,
    pub destination: Postgres,
    pub kafka: Option<Kafka>,
    programs: PathBuf,
    runs: u32,
}

impl Stage {
    /// Starts the servers and fills the source.
    pub async fn prepare(options: Options) -> Result<Stage> {
        let version = options.version;
        let start = || Postgres::start(PgOptions { version, settings: SETTINGS });
        let (source, destination) = (start().await?, start().await?);
        let programs = PathBuf::from(drover_tests::scripts::output("postgres", &["bin", &version.to_string()]).await?);
        source.create_database(DATABASE).await?;
        let client = source.connect(DATABASE).await?;
        bulk::create_li(&client, options.rows).await?;
        bulk::create_sb(&client, options.rows).await?;
        let kafka = if options.has("cluster") { Some(Kafka::start().await?) } else { None };
        Ok(Stage { options, source, destination, kafka, programs, runs: 0 })
    }

    /// A program of the servers' version (`psql`).
    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// A new empty destination, no trace of an earlier run at the source, and nothing left to be written by a checkpoint.
    pub async fn clean(&mut self) -> Result<()> {
        self.runs += 1;
        let source = self.source.connect(DATABASE).await?;
        source
            .batch_execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid > 0")
            .await?;
        let slots = "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active";
        wait::until_eq("no replication slot is left", Duration::from_secs(30), 0_i64, || async {
            source.batch_execute(slots).await?;
            Ok(source.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0))
        })
        .await?;
        let publications = "SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication";
        for row in source.query(publications, &[]).await? {
            source.batch_execute(row.get(0)).await?;
        }
        source.batch_execute("DROP SCHEMA IF EXISTS drover CASCADE").await?;
        let destination = self.destination.connect("postgres").await?;
        destination.batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).await?;
        destination.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        source.batch_execute("CHECKPOINT").await?;
        destination.batch_execute("CHECKPOINT").await?;
        Ok(())
    }

    /// A measurement of both servers, and of the broker if it takes part.
    pub fn meter(&self, kafka: bool, children: bool) -> Result<Meter> {
        let mut processes = vec![
            (Role::Source, "source", self.source.pid()?),
            (Role::Destination, "destination", self.destination.pid()?),
        ];
        if let (true, Some(broker)) = (kafka, &self.kafka) {
            processes.push((Role::Kafka, "Kafka", broker.pid()?));
        }
        Meter::start(&processes, children)
    }

    /// A name that no earlier run had.
    pub fn name(&self) -> String {
        format!("bench-{}", self.runs)
    }

    /// A migration file for the table names (`li`, `sb`, …); over the broker when `kafka`.
    pub fn migration(&self, stages: &str, tables: &[&str], kafka: bool) -> Result<String> {
        let include: Vec<String> = tables.iter().map(|table| format!("\"public.{table}\"")).collect();
        let log = match (kafka, &self.kafka) {
            (false, _) => String::new(),
            (true, Some(broker)) => format!("\n[log]\nkafka = {{ brokers = [\"{}\"] }}\n", broker.brokers()),
            (true, None) => bail!("no broker was started"),
        };
        Ok(format!(
            "name = \"{}\"\n\n[source]\nkind = \"postgres\"\nurl = \"{}\"\n\n[destination]\nkind = \"postgres\"\nurl = \"{}\"\n\n\
            [migrate]\nstages = [{stages}]\n\n[[objects]]\ninclude = [{}]\n{log}",
            self.name(),
            self.source.url(DATABASE),
            self.destination.url(DATABASE),
            include.join(", ")
        ))
    }

    /// Runs a shell script of clients to its end; `meter` counts their memory under `name`, and their CPU as ended children.
    pub async fn shell(&self, name: &str, script: &str, meter: &Meter) -> Result<()> {
        let logs = tempfile::tempdir()?;
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -e -o pipefail; {script}")]);
        let mut process = Process::spawn(name, command, logs.path())?;
        meter.add(Role::Client, name, process.pid(), 0.0);
        process.expect_exit(PATIENCE, 0).await.with_context(|| script.to_owned())
    }

    /// An error unless both sides have as many rows, and the destination all the keys.
    pub async fn judge(&self, tables: &[&str], indexes: i64) -> Result<()> {
        let (from, to) = (self.source.connect(DATABASE).await?, self.destination.connect(DATABASE).await?);
        for table in tables {
            let sql = format!("SELECT count(*) FROM {table}");
            let (a, b): (i64, i64) = (from.query_one(&sql, &[]).await?.get(0), to.query_one(&sql, &[]).await?.get(0));
            if a != b {
                bail!("{table}: {a} rows at the source, {b} at the destination");
            }
        }
        let sql = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'";
        let found: i64 = to.query_one(sql, &[]).await?.get(0);
        if found != indexes {
            bail!("{found} indexes at the destination in place of {indexes}");
        }
        Ok(())
    }
}

/// Waits until the value of a row arrives at the destination: what was written to the source last, so all before it is there.
pub async fn arrives(destination: &Client, sql: &str, value: i64, process: Option<&mut Process>) -> Result<()> {
    let mut process = process;
    let arrived = wait::until("the last change arrives", PATIENCE, || {
        let ended = process.as_mut().and_then(|process| (!process.running()).then(|| process.tail(20)));
        async move {
            if let Some(tail) = ended {
                return Ok(Some(Err(anyhow::anyhow!("it ended before the last change arrived\n{tail}"))));
            }
            let row = destination.query_opt(sql, &[]).await?;
            Ok(row.is_some_and(|row| row.get::<_, i64>(0) == value).then_some(Ok(())))
        }
    });
    arrived.await?
}

/// The cluster form: a coordinator and its workers, each a process.
pub struct Cluster {
    pub drover: Drover,
    pub processes: Vec<(&'static str, Process)>,
}

impl Cluster {
    /// Starts all of them; the coordinator answers when this returns.
    pub async fn start(extractors: u32, appliers: u32) -> Result<Cluster> {
        let (grpc, http) = (Port::reserve()?, Port::reserve()?);
        let (listen, http) = (format!("127.0.0.1:{}", grpc.number()), format!("127.0.0.1:{}", http.number()));
        let drover = Drover::new()?.env("DROVER_COORDINATOR", &format!("http://{listen}"));
        let mut processes = vec![(
            "coordinator",
            drover.spawn(&["coordinator", "--listen", &listen, "--http", &http, "--store", "store"])?,
        )];
        for (role, count) in [("extractor", extractors), ("applier", appliers)] {
            for number in 1..=count {
                let name = format!("{role}-{number}");
                processes.push((role, drover.spawn(&[role, "--name", &name, "--work-dir", &name])?));
            }
        }
        let mut cluster = Cluster { drover, processes };
        wait::until("the coordinator answers", Duration::from_secs(30), || async {
            let listed = cluster.drover.run(&["migration", "list", "--json"], Duration::from_secs(10)).await?;
            listed.expect(0).map(Some)
        })
        .await?;
        // Workers join within moments; a run should not pay for it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.alive()?;
        Ok(cluster)
    }

    /// An error when one of the processes has ended.
    pub fn alive(&mut self) -> Result<()> {
        for (role, process) in &mut self.processes {
            if !process.running() {
                bail!("the {role} has ended\n{}", process.tail(20));
            }
        }
        Ok(())
    }

    /// Lets `meter` count them.
    pub fn metered(&self, meter: &Meter) -> Result<()> {
        for (role, process) in &self.processes {
            meter.add(Role::Client, role, process.pid(), process.cpu_seconds()?);
        }
        Ok(())
    }

    /// A verb that must succeed.
    pub async fn verb(&self, arguments: &[&str]) -> Result<()> {
        self.drover.run(arguments, PATIENCE).await?.expect(0).map(|_| ())
    }

    /// The same as [`arrives`]; a migration that fails meanwhile is an error.
    pub async fn arrives(&mut self, name: &str, destination: &Client, sql: &str, value: i64) -> Result<()> {
        let begin = std::time::Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for look in 1_u64.. {
            pace.tick().await;
            let row = destination.query_opt(sql, &[]).await?;
            if row.is_some_and(|row| row.get::<_, i64>(0) == value) {
                break;
            }
            if look % 250 == 0 {
                self.until("the last change arrives", name, |shown| shown["state"] != "failed").await?;
            }
            if begin.elapsed() > PATIENCE {
                bail!("the last change did not arrive within {PATIENCE:?}");
            }
        }
        self.alive()
    }

    /// Waits until `done` likes what `migration show` says; a failed migration is an error.
    pub async fn until(&mut self, what: &str, name: &str, done: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let begin = std::time::Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(200));
        loop {
            pace.tick().await;
            self.alive()?;
            let shown = self.drover.run(&["migration", "show", name, "--json"], PATIENCE).await?.expect(0)?.json()?;
            if done(&shown) {
                return Ok(());
            }
            let state = shown["state"].as_str().context("no state")?;
            if ["failed", "precheck_failed"].contains(&state) || begin.elapsed() > PATIENCE {
                let tails: Vec<String> = self.processes.iter().map(|(_, process)| process.tail(10)).collect();
                bail!("{what}: {shown}\n{}", tails.join(""));
            }
        }
    }
}

/// A session at the destination's database.
pub async fn destination(stage: &Stage) -> Result<Client> {
    postgres::connect(&stage.destination.url(DATABASE)).await
}
