//! `make bench-mysql`: what drover costs between two servers of the MySQL family beside mydumper and myloader, the raw pipe of SELECT into LOAD DATA, and native
//! replication with parallel workers, from one run on one machine.
//!
//! Each round measures every system once, in turns, each with a fresh destination; of the rounds the better run counts. Every run ends with a look at
//! the rows. The exit status is 0 unless something could not be measured (1).

// The other benchmark uses more of it.
#[allow(dead_code)]
#[path = "drover-bench/meter.rs"]
mod meter;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drover_tests::deployment::{Form, Plan};
use drover_tests::mysql::{MySql, Release};
use drover_tests::{Deployment, Server, wait};
use meter::{Meter, Role, Sample};

const PATIENCE: Duration = Duration::from_secs(1800);
const DATABASE: &str = "bench";
/// What a round has in turn.
const PARTS: [&str; 4] = ["pipe", "mydumper", "drover", "native"];

struct Options {
    rows: u64,
    singles: u64,
    bulk: u64,
    rounds: u64,
    release: Release,
    parts: Vec<String>,
    json: String,
}

impl Options {
    fn from_env() -> Result<Options> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
            Err(_) => Ok(default),
        };
        let release = match std::env::var("SERVER").as_deref() {
            Err(_) | Ok("mysql") => Release::MySql9,
            Ok("mariadb") => Release::MariaDb11,
            Ok(other) => bail!("SERVER is mysql or mariadb, not {other}"),
        };
        let parts = std::env::var("ONLY").unwrap_or_else(|_| PARTS.join(" "));
        let parts: Vec<String> = parts.split_whitespace().map(str::to_owned).collect();
        if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            bail!("ONLY names {unknown}; there are {}", PARTS.join(", "));
        }
        Ok(Options {
            rows: number("ROWS", 1_000_000)?,
            singles: number("SINGLES", 100_000)?,
            bulk: number("BULK", 1_000_000)?,
            rounds: number("ROUNDS", 2)?.max(1),
            release,
            parts,
            json: std::env::var("JSON").unwrap_or_else(|_| "target/bench-mysql.json".into()),
        })
    }
}

/// The tables fit into memory and no run waits for a checkpoint that spares another one; each commit is on the disk, as it is by a server's defaults and
/// not by those of the harness.
fn settings(release: Release) -> &'static [(&'static str, &'static str)] {
    const POOL: (&str, &str) = ("innodb-buffer-pool-size", "2G");
    const BINLOG: (&str, &str) = ("max-binlog-size", "1073741824");
    const SYNC: (&str, &str) = ("sync-binlog", "1");
    const FLUSH: (&str, &str) = ("innodb-flush-log-at-trx-commit", "1");
    match release.is_mariadb() {
        true => &[BINLOG, POOL, SYNC, FLUSH, ("innodb-log-file-size", "2G")],
        false => &[BINLOG, POOL, SYNC, FLUSH, ("innodb-redo-log-capacity", "4G")],
    }
}

/// The source, filled, and where its log stood before that.
struct Stage {
    options: Options,
    source: Server,
    begin: (String, String),
    /// A run's changes differ from those before.
    salt: u64,
}

impl Stage {
    async fn prepare(options: Options) -> Result<Stage> {
        let source = Server::MySql(MySql::start(options.release, settings(options.release)).await?);
        let mariadb = options.release.is_mariadb();
        let sql = if mariadb { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" };
        let place = source.admin().await?.row(sql).await?;
        let begin = (place[0].clone().context("a place")?, place[1].clone().context("a place")?);
        source.create_database(DATABASE).await?;
        let rows = source.dialect().series(options.rows);
        let fill = format!(
            "CREATE TABLE li (id bigint PRIMARY KEY, part int NOT NULL, supplier int NOT NULL, number int NOT NULL, quantity decimal(15,2) NOT NULL, \
             price decimal(15,2) NOT NULL, flag char(1) NOT NULL, shipped date NOT NULL, received datetime NOT NULL, mode char(10) NOT NULL, note varchar(60) NOT NULL, \
             KEY li_part (part)); \
             INSERT INTO li SELECT i, i * 7919 % 200000, i % 10000, i % 7, i % 50 + 0.25, i % 90000 + 0.5, char(65 + i % 3), \
               DATE_ADD('2020-01-01', INTERVAL i % 2000 DAY), DATE_ADD('2020-01-01', INTERVAL i MINUTE), 'TRUCK', repeat(sha2(i, 256), 1) FROM {rows} i; \
             CREATE TABLE sb (id bigint PRIMARY KEY, k int NOT NULL, c char(120) NOT NULL, pad char(60) NOT NULL, KEY sb_k (k)); \
             INSERT INTO sb SELECT i, i * 31 % 1000003, repeat(sha2(i, 256), 1), sha2(-i, 224) FROM {rows} i"
        );
        // A note has no more than 60 characters.
        let fill = fill.replace("'TRUCK', repeat(sha2(i, 256), 1)", "'TRUCK', left(sha2(i, 256), 60)");
        source.exec(DATABASE, &fill).await?;
        Ok(Stage { options, source, begin, salt: 0 })
    }

    async fn destination(&self) -> Result<Server> {
        Ok(Server::MySql(MySql::start(self.options.release, settings(self.options.release)).await?))
    }

    fn meter(&self, destination: &Server, children: bool) -> Result<Meter> {
        let pids = [
            (Role::Source, "source", self.source.mysql()?.pid()?),
            (Role::Destination, "destination", destination.mysql()?.pid()?),
        ];
        Meter::start(&pids, children)
    }

    /// A client program of the server's release, or another program that logs in with the same words.
    fn client(&self, server: &Server) -> Result<String> {
        let command = server.mysql()?.client()?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Ok(words.map(|w| format!("'{}'", w.to_string_lossy())).collect::<Vec<_>>().join(" "))
    }

    async fn equal(&self, destination: &Server) -> Result<()> {
        for sql in [
            "SELECT count(*), sum(part), sum(quantity), sum(crc32(note)), sum(unix_timestamp(received)) FROM li",
            "SELECT count(*), sum(k), sum(crc32(c)), sum(crc32(pad)) FROM sb",
        ] {
            let (from, to) = (
                self.source.connect(DATABASE).await?.row(sql).await?,
                destination.connect(DATABASE).await?.row(sql).await?,
            );
            ensure!(from == to, "the rows differ: {from:?} and {to:?}");
        }
        Ok(())
    }

    /// Tables with their keys first, as a dump has them.
    async fn tables(&self, destination: &Server) -> Result<()> {
        destination.create_database(DATABASE).await?;
        for table in ["li", "sb"] {
            let made = self.source.connect(DATABASE).await?.row(&format!("SHOW CREATE TABLE {table}")).await?;
            destination.exec(DATABASE, made[1].as_deref().context("a table")?).await?;
        }
        Ok(())
    }

    async fn pipe(&self) -> Result<Sample> {
        let destination = self.destination().await?;
        self.tables(&destination).await?;
        let (from, to) = (self.client(&self.source)?, self.client(&destination)?);
        let one = |table: &str| {
            format!(
                "{from} --quick --batch --skip-column-names {DATABASE} -e 'SELECT * FROM {table}' | {to} --local-infile=1 {DATABASE} -e \
                 \"SET unique_checks = 0; LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {table} CHARACTER SET utf8mb4\""
            )
        };
        let meter = self.meter(&destination, true)?;
        shell(&format!("{} & p=$!; {}; wait $p", one("li"), one("sb"))).await?;
        let sample = meter.finish()?;
        self.equal(&destination).await?;
        Ok(sample)
    }

    async fn mydumper(&self) -> Result<Sample> {
        let destination = self.destination().await?;
        let folder = tempfile::tempdir()?;
        let (dump, threads) = (folder.path().display(), 4);
        let port = |server: &Server| server.port();
        let meter = self.meter(&destination, true)?;
        shell(&format!(
            "mydumper -h 127.0.0.1 -P {} -u drover -B {DATABASE} -t {threads} -r 100000 -o {dump} && \
             myloader -h 127.0.0.1 -P {} -u drover -B {DATABASE} -t {threads} -d {dump}",
            port(&self.source),
            port(&destination)
        ))
        .await?;
        let sample = meter.finish()?;
        self.equal(&destination).await?;
        Ok(sample)
    }

    /// The copy; then, stopped meanwhile, single changes and bulk ones.
    async fn drover(&mut self) -> Result<[Sample; 3]> {
        let destination = self.destination().await?;
        let kind = self.source.engine().kind().to_owned();
        let plan = Plan {
            source: (kind.clone(), self.source.url(DATABASE)),
            destination: (kind, destination.url(DATABASE)),
            migrate: String::new(),
            more: format!("[[objects]]\ninclude = \"{DATABASE}.*\"\n"),
            brokers: None,
        };
        let deployment = Deployment::of(Form::InProcess, &plan)?;
        let mut samples = Vec::new();
        for changes in [None, Some(false), Some(true)] {
            if let Some(bulk) = changes {
                self.change(bulk).await?;
            }
            let meter = self.meter(&destination, false)?;
            let file = deployment.file.display().to_string();
            let mut process = deployment.drover.spawn(&["run", &file, "--until", "caught-up"])?;
            meter.add(Role::Client, "drover", process.pid(), 0.0);
            let cpu = watch(&mut process).await?;
            let mut sample = meter.finish()?;
            sample.cpu_seconds.client = cpu;
            samples.push(sample);
            self.equal(&destination).await?;
        }
        <[Sample; 3]>::try_from(samples).map_err(|_| anyhow::anyhow!("three samples"))
    }

    /// A replica that has followed up to now, stopped during the changes.
    async fn native(&mut self) -> Result<[Sample; 2]> {
        let destination = self.destination().await?;
        let mariadb = self.options.release.is_mariadb();
        let (file, at) = &self.begin;
        let port = self.source.port();
        let setup = if mariadb {
            format!(
                "SET GLOBAL slave_parallel_threads = 4, GLOBAL slave_parallel_mode = 'optimistic'; CHANGE MASTER TO MASTER_HOST = '127.0.0.1', \
                 MASTER_PORT = {port}, MASTER_USER = 'drover', MASTER_LOG_FILE = '{file}', MASTER_LOG_POS = {at}, MASTER_USE_GTID = no"
            )
        } else {
            format!(
                "SET GLOBAL replica_parallel_workers = 4; CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, \
                 SOURCE_USER = 'drover', SOURCE_LOG_FILE = '{file}', SOURCE_LOG_POS = {at}, SOURCE_AUTO_POSITION = 0, GET_SOURCE_PUBLIC_KEY = 1"
            )
        };
        destination.exec("mysql", &setup).await?;
        self.follow(&destination).await?;
        let mut samples = Vec::new();
        for bulk in [false, true] {
            self.change(bulk).await?;
            let meter = self.meter(&destination, false)?;
            self.follow(&destination).await?;
            samples.push(meter.finish()?);
            self.equal(&destination).await?;
        }
        <[Sample; 2]>::try_from(samples).map_err(|_| anyhow::anyhow!("two samples"))
    }

    /// Lets the replica catch up, and stops it.
    async fn follow(&self, destination: &Server) -> Result<()> {
        let word = if self.options.release.is_mariadb() { "SLAVE" } else { "REPLICA" };
        let wanted = format!("SELECT max(salt) FROM {DATABASE}.done");
        let salt = self.source.admin().await?.number(&wanted).await.unwrap_or(0);
        destination.exec("mysql", &format!("START {word}")).await?;
        wait::until("the replica follows", PATIENCE, || async {
            let found = destination.admin().await?.number(&wanted).await?;
            Ok((found >= salt).then_some(()))
        })
        .await
        .with_context(|| destination.log_tail(5))?;
        destination.exec("mysql", &format!("STOP {word}")).await
    }

    /// Transactions of one row by four sessions, or of 100,000 rows by one.
    async fn change(&mut self, bulk: bool) -> Result<()> {
        self.salt += 1;
        let (salt, rows) = (self.salt, self.options.rows);
        let mut tasks = Vec::new();
        if bulk {
            let size = 100_000.min(rows);
            for part in 0..self.options.bulk.div_ceil(size) {
                let from = part * size % rows;
                let sql = format!(
                    "UPDATE sb SET k = k + {salt}, c = sha2(id + {salt}, 256) WHERE id > {from} AND id <= {from} + {size}"
                );
                self.source.exec(DATABASE, &sql).await?;
            }
        } else {
            for writer in 0..4 {
                let mut session = self.source.connect(DATABASE).await?;
                let each = self.options.singles / 4;
                tasks.push(tokio::spawn(async move {
                    let mut sql = String::new();
                    for i in 0..each {
                        let id = (i * 4 + writer) * 7919 % rows + 1;
                        sql.push_str(&format!("UPDATE sb SET k = k + {salt} WHERE id = {id};"));
                        if i % 500 == 499 || i + 1 == each {
                            session.run(&std::mem::take(&mut sql)).await?;
                        }
                    }
                    anyhow::Ok(())
                }));
            }
        }
        for task in tasks {
            task.await??;
        }
        self.source.exec(DATABASE, &format!("INSERT INTO done VALUES ({salt})")).await
    }
}

/// Waits until it has ended well; gives its CPU seconds, as of the last look.
async fn watch(process: &mut drover_tests::Process) -> Result<f64> {
    let begun = Instant::now();
    let mut cpu = 0.0;
    loop {
        cpu = drover_tests::process::cpu_seconds(process.pid()).unwrap_or(cpu);
        if let Some(status) = process.try_exit()? {
            ensure!(status.success(), "{status}\n{}", process.tail(20));
            return Ok(cpu);
        }
        ensure!(begun.elapsed() < PATIENCE, "too long\n{}", process.tail(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn shell(script: &str) -> Result<()> {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", script]);
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// The better runs by work and system.
type Best = BTreeMap<(&'static str, &'static str), (u64, Sample)>;

fn take(best: &mut Best, work: &'static str, system: &'static str, rows: u64, sample: Sample) {
    eprintln!("  {work}, {system}: {:.1} s, {:.1} CPU-s", sample.wall_seconds, sample.cpu_seconds.total());
    match best.get(&(work, system)) {
        Some((_, known)) if known.wall_seconds <= sample.wall_seconds => {}
        _ => drop(best.insert((work, system), (rows, sample))),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::from_env()?;
    let (rows, singles, bulk, json) = (options.rows, options.singles, options.bulk, options.json.clone());
    let (parts, rounds) = (options.parts.clone(), options.rounds);
    let has = |part: &str| parts.iter().any(|p| p == part);
    let (mut best, mut broken) = (Best::new(), Vec::new());
    eprintln!("starting servers, filling the source");
    let mut stage = Stage::prepare(options).await?;
    stage.source.exec(DATABASE, "CREATE TABLE done (salt bigint PRIMARY KEY); INSERT INTO done VALUES (0)").await?;
    let installed = shell("command -v mydumper && command -v myloader").await.is_ok();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        if has("pipe") {
            match stage.pipe().await {
                Ok(sample) => take(&mut best, "copy", "pipe", 2 * rows, sample),
                Err(error) => broken.push(format!("pipe: {error:#}")),
            }
        }
        if has("mydumper") && installed {
            match stage.mydumper().await {
                Ok(sample) => take(&mut best, "copy", "mydumper", 2 * rows, sample),
                Err(error) => broken.push(format!("mydumper: {error:#}")),
            }
        }
        if has("native") {
            match stage.native().await {
                Ok([one, many]) => {
                    take(&mut best, "single", "native", singles, one);
                    take(&mut best, "bulk", "native", bulk, many);
                }
                Err(error) => broken.push(format!("native: {error:#}")),
            }
        }
        if has("drover") {
            match stage.drover().await {
                Ok([copy, one, many]) => {
                    take(&mut best, "copy", "drover run", 2 * rows, copy);
                    take(&mut best, "single", "drover run", singles, one);
                    take(&mut best, "bulk", "drover run", bulk, many);
                }
                Err(error) => broken.push(format!("drover: {error:#}")),
            }
        }
    }
    if has("mydumper") && !installed {
        println!("mydumper and myloader are not installed: not measured");
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{:?}, load at the end {}", stage.options.release, load.split_whitespace().next().unwrap_or_default());
    println!(
        "{:8} {:12} {:>9} {:>11} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "work", "system", "rows", "rows/s", "CPU-s/M", "source", "client", "dest.", "peak MiB"
    );
    let mut lines = Vec::new();
    for ((work, system), (rows, sample)) in &best {
        let (million, cpu) = (*rows as f64 / 1e6, &sample.cpu_seconds);
        let rate = *rows as f64 / sample.wall_seconds;
        let peak = sample.peak_mib.get("drover").map_or(String::new(), |mib| format!("{mib:.0}"));
        println!(
            "{work:8} {system:12} {rows:>9} {rate:>11.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {peak:>9}",
            cpu.total() / million,
            cpu.source / million,
            cpu.client / million,
            cpu.destination / million
        );
        lines.push(serde_json::json!({ "work": work, "system": system, "rows": rows, "sample": sample }));
    }
    for what in &broken {
        println!("BROKEN: {what}");
    }
    std::fs::write(&json, serde_json::to_string_pretty(&serde_json::json!({ "runs": lines, "broken": broken }))?)?;
    println!("As JSON: {json}");
    std::process::exit(i32::from(!broken.is_empty()));
}
