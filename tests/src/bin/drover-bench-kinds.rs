//! `make bench-kinds`: what a copy between kinds of databases costs with drover, beside the raw pipe of the databases' own clients and pgloader, from one
//! run on one machine.
//!
//! For each pair each round measures every system once, in turns, each into an empty destination; of the rounds the better run counts, by CPU. Every run
//! ends with a look at the rows. The exit status is 0 unless something could not be measured (1).

// The other benchmark uses more of it.
#[allow(dead_code)]
#[path = "drover-bench/meter.rs"]
mod meter;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drover_tests::deployment::{Form, Plan};
use drover_tests::mysql::{MySql, Release};
use drover_tests::{Deployment, Dialect, PgOptions, Postgres, Process, Server, process, scripts};
use meter::{Meter, Role, Sample};

const PATIENCE: Duration = Duration::from_secs(1800);
const DATABASE: &str = "bench";
const VERSION: u32 = 17;
const PAIRS: [&str; 3] = ["mysql-postgres", "mariadb-postgres", "postgres-mysql"];
/// What a round has in turn.
const SYSTEMS: [&str; 3] = ["pipe", "drover", "pgloader"];

struct Options {
    rows: u64,
    rounds: u64,
    pairs: Vec<String>,
    systems: Vec<String>,
    json: String,
}

/// Some words of a list, by default all.
fn words(name: &str, all: &[&str]) -> Result<Vec<String>> {
    let text = std::env::var(name).unwrap_or_else(|_| all.join(" "));
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match words.iter().find(|w| !all.contains(&w.as_str())) {
        Some(unknown) => bail!("{name} names {unknown}; there are {}", all.join(", ")),
        None => Ok(words),
    }
}

impl Options {
    fn from_env() -> Result<Options> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
            Err(_) => Ok(default),
        };
        Ok(Options {
            rows: number("ROWS", 1_000_000)?,
            rounds: number("ROUNDS", 2)?.max(1),
            pairs: words("PAIRS", &PAIRS)?,
            systems: words("ONLY", &SYSTEMS)?,
            json: std::env::var("JSON").unwrap_or_else(|_| "target/bench-kinds.json".into()),
        })
    }
}

/// Two servers, the source filled.
struct Stage {
    source: Server,
    destination: Server,
    psql: String,
}

async fn server(kind: &str) -> Result<Server> {
    // Checkpoints and vacuum would hit one run and spare another.
    let settings = &[("max_wal_size", "8GB"), ("checkpoint_timeout", "1h"), ("autovacuum", "off")];
    let large = &[("max-binlog-size", "1073741824")];
    Ok(match kind {
        "postgres" => Server::Postgres(Postgres::start(PgOptions { version: VERSION, settings }).await?),
        "mysql" => Server::MySql(MySql::start(Release::MySql9, large).await?),
        _ => Server::MySql(MySql::start(Release::MariaDb11, large).await?),
    })
}

/// The tables without secondary keys; `keyed`: with their primary keys.
fn tables(dialect: Dialect, keyed: bool) -> String {
    let key = if keyed { " PRIMARY KEY" } else { "" };
    let moment = if dialect == Dialect::Postgres { "timestamp(0)" } else { "datetime" };
    format!(
        "CREATE TABLE li (id bigint NOT NULL{key}, part int NOT NULL, supplier int NOT NULL, number int NOT NULL, quantity decimal(15,2) NOT NULL, \
         price decimal(15,2) NOT NULL, flag varchar(1) NOT NULL, shipped date NOT NULL, received {moment} NOT NULL, mode varchar(10) NOT NULL, \
         note varchar(60) NOT NULL); \
         CREATE TABLE sb (id bigint NOT NULL{key}, k int NOT NULL, c varchar(120) NOT NULL, pad varchar(60) NOT NULL);"
    )
}

const INDEXES: &str = "CREATE INDEX li_part ON li (part); CREATE INDEX sb_k ON sb (k);";
const KEYS: &str = "ALTER TABLE li ADD PRIMARY KEY (id); ALTER TABLE sb ADD PRIMARY KEY (id);";

fn fill(dialect: Dialect, rows: u64) -> String {
    let from = dialect.series(rows);
    let (day, minute, hash, left) = match dialect {
        Dialect::Postgres => (
            "date '2020-01-01' + (i % 2000)::int",
            "timestamp '2020-01-01' + i * interval '1 minute'",
            "encode(sha256(i::text::bytea), 'hex')",
            "left(encode(sha256(i::text::bytea), 'hex'), 56)",
        ),
        Dialect::MySql => (
            "DATE_ADD('2020-01-01', INTERVAL i % 2000 DAY)",
            "DATE_ADD('2020-01-01', INTERVAL i MINUTE)",
            "sha2(i, 256)",
            "sha2(-i, 224)",
        ),
    };
    let flag = if dialect == Dialect::Postgres { "chr(65 + (i % 3)::int)" } else { "char(65 + i % 3 USING utf8mb4)" };
    format!(
        "INSERT INTO li SELECT i, i * 7919 % 200000, i % 10000, i % 7, i % 50 + 0.25, i % 90000 + 0.5, {flag}, {day}, {minute}, 'TRUCK', \
         left({hash}, 60) FROM {from} i; INSERT INTO sb SELECT i, i * 31 % 1000003, {hash}, {left} FROM {from} i;"
    )
}

/// Sums over all rows, the same text on both.
fn sums(dialect: Dialect, table: &str) -> String {
    let hash = |column: &str| match dialect {
        Dialect::Postgres => {
            format!("sum(('x' || substr(encode(sha256(convert_to({column}, 'UTF8')), 'hex'), 1, 7))::bit(28)::int)")
        }
        Dialect::MySql => format!("sum(cast(conv(substr(sha2({column}, 256), 1, 7), 16, 10) AS unsigned))"),
    };
    // pgloader makes an instant of it.
    let first = match dialect {
        Dialect::Postgres => "left(min(received)::text, 19)",
        Dialect::MySql => "left(min(received), 19)",
    };
    let parts = match table {
        "li" => format!("sum(part), sum(quantity), sum(price), max(shipped), {first}, {}", hash("note")),
        _ => format!("sum(k), {}, {}", hash("c"), hash("pad")),
    };
    format!("SELECT concat_ws(' ', count(*), {parts}) FROM {table}")
}

impl Stage {
    async fn prepare(pair: &str, rows: u64) -> Result<Stage> {
        let (from, to) = pair.split_once('-').context("a pair")?;
        let (source, destination) = (server(from).await?, server(to).await?);
        let programs = scripts::output("postgres", &["bin", &VERSION.to_string()]).await?;
        source.create_database(DATABASE).await?;
        let dialect = source.dialect();
        source.exec(DATABASE, &format!("{}{}{INDEXES}", tables(dialect, true), fill(dialect, rows))).await?;
        Ok(Stage { source, destination, psql: format!("{programs}/psql") })
    }

    /// An empty destination.
    async fn clean(&self) -> Result<()> {
        match self.destination.dialect() {
            Dialect::Postgres => {
                let drop = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
                self.destination.exec("postgres", &drop).await?;
            }
            Dialect::MySql => {
                let drop = format!("DROP DATABASE IF EXISTS {DATABASE}; DROP DATABASE IF EXISTS drover");
                self.destination.exec("mysql", &drop).await?;
            }
        }
        self.destination.create_database(DATABASE).await?;
        if self.destination.dialect() == Dialect::Postgres {
            self.destination.exec("postgres", "CHECKPOINT").await?;
        }
        Ok(())
    }

    fn meter(&self, children: bool) -> Result<Meter> {
        let pid = |server: &Server| match server {
            Server::Postgres(_) => server.postgres()?.pid(),
            Server::MySql(_) => server.mysql()?.pid(),
        };
        let pids =
            [(Role::Source, "source", pid(&self.source)?), (Role::Destination, "destination", pid(&self.destination)?)];
        Meter::start(&pids, children)
    }

    /// The words that log a client program in.
    fn client(&self, server: &Server) -> Result<String> {
        if let Server::Postgres(_) = server {
            return Ok(format!("'{}' -q '{}'", self.psql, server.url(DATABASE)));
        }
        let command = server.mysql()?.client()?;
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Ok(words.map(|w| format!("'{}'", w.to_string_lossy())).collect::<Vec<_>>().join(" "))
    }

    /// Where the tables are; `schema`: with PostgreSQL.
    async fn equal(&self, schema: &str) -> Result<()> {
        for table in ["li", "sb"] {
            let from = sums(self.source.dialect(), table);
            let to = match self.destination.dialect() {
                Dialect::Postgres => sums(Dialect::Postgres, table).replace(" FROM ", &format!(" FROM {schema}.")),
                Dialect::MySql => sums(Dialect::MySql, table),
            };
            let ours = self.source.connect(DATABASE).await?.text(&from).await?;
            let theirs = self.destination.connect(DATABASE).await?.text(&to).await?;
            ensure!(ours == theirs, "the rows of {table} differ: {ours:?} and {theirs:?}");
        }
        Ok(())
    }

    /// Both tables at once, then the keys that drover makes after the rows, too.
    async fn pipe(&self) -> Result<Sample> {
        self.clean().await?;
        let back = self.destination.dialect() == Dialect::MySql;
        // InnoDB keeps its rows in the primary key, so it is there from the beginning.
        self.destination.exec(DATABASE, &tables(self.destination.dialect(), back)).await?;
        let (from, to) = (self.client(&self.source)?, self.client(&self.destination)?);
        let one = |table: &str| {
            if back {
                return format!(
                    "{from} -c 'COPY {table} TO STDOUT' | {to} --local-infile=1 {DATABASE} -e \
                     \"SET unique_checks = 0; LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {table} CHARACTER SET utf8mb4\""
                );
            }
            format!(
                "{from} --quick --batch --skip-column-names --default-character-set=utf8mb4 {DATABASE} -e 'SELECT * FROM {table}' | \
                 {to} -c 'COPY {table} FROM STDIN'"
            )
        };
        let meter = self.meter(true)?;
        shell(&format!("{} & p=$!; {}; wait $p", one("li"), one("sb"))).await?;
        let keys = if back { INDEXES.to_owned() } else { format!("{KEYS}{INDEXES}") };
        self.destination.exec(DATABASE, &keys).await?;
        let sample = meter.finish()?;
        self.equal("public").await?;
        Ok(sample)
    }

    async fn drover(&self) -> Result<Sample> {
        self.clean().await?;
        let kind = |server: &Server| server.engine().kind().to_owned();
        let schema = if self.source.dialect() == Dialect::Postgres { "public" } else { DATABASE };
        let plan = Plan {
            source: (kind(&self.source), self.source.url(DATABASE)),
            destination: (kind(&self.destination), self.destination.url(DATABASE)),
            migrate: "stages = [\"schema\", \"full\"]".into(),
            more: format!("[[objects]]\ninclude = \"{schema}.*\"\n"),
            brokers: None,
        };
        let deployment = Deployment::of(Form::InProcess, &plan)?;
        let meter = self.meter(false)?;
        let file = deployment.file.display().to_string();
        let mut process = deployment.drover.spawn(&["run", &file])?;
        meter.add(Role::Client, "drover", process.pid(), 0.0);
        let cpu = watch(&mut process).await?;
        let mut sample = meter.finish()?;
        sample.cpu_seconds.client = cpu;
        self.equal(schema).await?;
        Ok(sample)
    }

    async fn pgloader(&self) -> Result<Sample> {
        self.clean().await?;
        let script = format!(
            "pgloader --with 'concurrency = 2' mysql://drover@127.0.0.1:{}/{DATABASE} '{}'",
            self.source.port(),
            self.destination.url(DATABASE).replace("postgres://", "postgresql://")
        );
        let meter = self.meter(true)?;
        let said = shell(&script).await?;
        let sample = meter.finish()?;
        // It may copy nothing and yet end well.
        self.equal(DATABASE).await.with_context(|| said.lines().take(4).collect::<Vec<_>>().join(" "))?;
        Ok(sample)
    }
}

/// Waits until it has ended well; gives its CPU seconds, as of the last look.
async fn watch(process: &mut Process) -> Result<f64> {
    let begun = Instant::now();
    let mut cpu = 0.0;
    loop {
        cpu = process::cpu_seconds(process.pid()).unwrap_or(cpu);
        if let Some(status) = process.try_exit()? {
            ensure!(status.success(), "{status}\n{}", process.tail(20));
            return Ok(cpu);
        }
        ensure!(begun.elapsed() < PATIENCE, "too long\n{}", process.tail(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn shell(script: &str) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", script]);
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{}: {said}", done.status);
    Ok(said)
}

/// The part of an error that says most: a line with the word, else its beginning.
fn brief(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let from = text.find("ERROR").or_else(|| text.find("error")).unwrap_or(0);
    text[from..].chars().take(200).collect()
}

/// The better run of each system.
type Best = Vec<(&'static str, Sample)>;

fn take(best: &mut Best, system: &'static str, sample: Sample) {
    eprintln!("  {system}: {:.1} s, {:.1} CPU-s", sample.wall_seconds, sample.cpu_seconds.total());
    match best.iter_mut().find(|(name, _)| *name == system) {
        Some((_, known)) if known.cpu_seconds.total() <= sample.cpu_seconds.total() => {}
        Some((_, known)) => *known = sample,
        None => best.push((system, sample)),
    }
}

async fn measure(pair: &str, options: &Options, notes: &mut Vec<String>, broken: &mut Vec<String>) -> Result<Best> {
    eprintln!("{pair}: starting servers, filling the source");
    let stage = Stage::prepare(pair, options.rows).await?;
    let installed = shell("command -v pgloader").await.is_ok();
    let mut best = Best::new();
    for round in 1..=options.rounds {
        eprintln!("{pair}: round {round} of {}", options.rounds);
        for system in SYSTEMS.into_iter().filter(|s| options.systems.iter().any(|o| o == s)) {
            match system {
                "pipe" => match stage.pipe().await {
                    Ok(sample) => take(&mut best, system, sample),
                    Err(error) => broken.push(format!("{pair}, pipe: {error:#}")),
                },
                "drover" => match stage.drover().await {
                    Ok(sample) => take(&mut best, system, sample),
                    Err(error) => broken.push(format!("{pair}, drover: {error:#}")),
                },
                // It goes one way only, and not to every server.
                _ if round > 1 && !best.iter().any(|(name, _)| *name == system) || pair == "postgres-mysql" => {}
                _ if !installed => notes.push(format!("{pair}: pgloader is not installed: not measured")),
                _ => match stage.pgloader().await {
                    Ok(sample) => take(&mut best, system, sample),
                    Err(error) => notes.push(format!("{pair}: pgloader cannot do it: {}", brief(&error))),
                },
            }
        }
    }
    Ok(best)
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::from_env()?;
    let (mut notes, mut broken, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let mut table = format!(
        "{:17} {:9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}\n",
        "pair",
        "system",
        "rows/s",
        "CPU-s/M",
        "source",
        "client",
        "dest.",
        "others",
        "peak MiB",
        "CPU ratio",
        "wall ratio"
    );
    for pair in &options.pairs {
        let best = measure(pair, &options, &mut notes, &mut broken).await?;
        let pipe = best.iter().find(|(name, _)| *name == "pipe").map(|(_, s)| s.clone());
        for (system, sample) in &best {
            let (rows, cpu) = (2 * options.rows, &sample.cpu_seconds);
            let million = rows as f64 / 1e6;
            let peak = sample.peak_mib.get("drover").map_or(String::new(), |mib| format!("{mib:.0}"));
            let ratio = |of: fn(&Sample) -> f64| {
                pipe.as_ref().map_or(String::new(), |pipe| format!("{:.2}", of(sample) / of(pipe)))
            };
            table.push_str(&format!(
                "{pair:17} {system:9} {:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {peak:>9} {:>9} {:>9}\n",
                rows as f64 / sample.wall_seconds,
                cpu.total() / million,
                cpu.source / million,
                cpu.client / million,
                cpu.destination / million,
                cpu.others / million,
                ratio(|s| s.cpu_seconds.total()),
                ratio(|s| s.wall_seconds),
            ));
            lines.push(serde_json::json!({ "pair": pair, "system": system, "rows": rows, "sample": sample }));
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{} rows in two tables, load at the end {}",
        2 * options.rows,
        load.split_whitespace().next().unwrap_or_default()
    );
    print!("{table}");
    println!("floors: drover within 1.2 of the pipe by CPU, no process above 200 MB");
    notes.iter().for_each(|note| println!("{note}"));
    broken.iter().for_each(|what| println!("BROKEN: {what}"));
    std::fs::write(
        &options.json,
        serde_json::to_string_pretty(&serde_json::json!({ "runs": lines, "notes": notes, "broken": broken }))?,
    )?;
    println!("As JSON: {}", options.json);
    std::process::exit(i32::from(!broken.is_empty()));
}
