//! Two servers, a workload on the first, and drover between them: what most scenarios begin with, and the comparison with which
//! all of them end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::deployment::{Place, log_end, place};
use crate::server::{Dialect, Session, number};
use crate::workload::{self, Options, Running};
use crate::{Deployment, Engine, Form, Pair, Server, compare, wait};

/// A scenario under way.
#[derive(Debug)]
pub struct Scene {
    pub source: Server,
    pub destination: Server,
    /// The database of the data, by the same name on both sides.
    pub database: &'static str,
    pub options: Options,
    pub running: Option<Running>,
    pub drover: Deployment,
}

/// How long the workload may take for what a scenario asks of it.
pub const SOON: Duration = Duration::from_secs(90);

/// Both sides hold the same rows.
pub async fn equal(source: &Server, destination: &Server, drover: &mut Deployment) -> Result<()> {
    let mut from = source.connect(source.engine().database()).await?;
    let mut to = destination.connect(there(source, destination)).await?;
    compare::expect_equal(&mut from, &mut to).await.with_context(|| drover.tails(15))
}

/// `validate` finds no difference.
pub async fn validated(drover: &Deployment) -> Result<()> {
    let file = drover.file.display().to_string();
    drover.call(&["validate", &file]).await?.expect(0)?;
    Ok(())
}

/// Two fresh servers; the source has the database of the data, and nothing that is called after drover lies on either.
pub async fn servers(pair: Pair) -> Result<(Server, Server)> {
    servers_with(pair, &[]).await
}

/// The same with settings of the source.
pub async fn servers_with(pair: Pair, settings: &[(&str, &str)]) -> Result<(Server, Server)> {
    let (source, destination) =
        tokio::try_join!(Server::start(pair.source, settings), Server::start(pair.destination, &[]))?;
    for server in [&source, &destination] {
        if server.dialect() == Dialect::MySql {
            server.exec("mysql", "DROP DATABASE drover").await?;
        }
    }
    prepare(&source, &destination).await?;
    Ok((source, destination))
}

/// Makes the database of the data at the source. Neither server has any yet.
async fn prepare(source: &Server, destination: &Server) -> Result<()> {
    if source.dialect() == Dialect::MySql {
        source.create_database(source.engine().database()).await?;
        if destination.dialect() == Dialect::Postgres {
            // A database becomes a schema: there sessions of the tests shall find its tables.
            let path = format!("ALTER DATABASE drover SET search_path = {}, public", source.engine().database());
            destination.exec("drover", &path).await?;
        }
    }
    Ok(())
}

/// Two servers as [`servers`] gives them, out of such as have served before: all that anybody made there is gone.
pub async fn fresh(source: &Server, destination: &Server) -> Result<()> {
    for server in [source, destination] {
        match server {
            Server::Postgres(server) => {
                let slots = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE active;
                    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'drover'";
                let admin = server.connect("postgres").await?;
                wait::until("no slot is left", SOON, || async {
                    admin.batch_execute(slots).await?;
                    admin.batch_execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await?;
                    Ok(Some(()))
                })
                .await?;
                admin.batch_execute("DROP DATABASE IF EXISTS drover WITH (FORCE)").await?;
                server.create_database("drover").await?;
            }
            Server::MySql(server) => {
                let drop = "SET GLOBAL read_only = 0; DROP DATABASE IF EXISTS drover; DROP DATABASE IF EXISTS app;";
                server.exec("mysql", drop).await?;
            }
        }
    }
    prepare(source, destination).await
}

/// Lines for `[migrate]` that let every table of the source be followed.
pub fn consent(source: Engine) -> &'static str {
    match source {
        Engine::Postgres(_) => "set_identity = true",
        Engine::MySql(_) => "",
    }
}

/// Sections of the migration file that give the workload's values a place at a destination of another kind.
pub fn policies(pair: Pair) -> &'static str {
    match (pair.source.dialect(), pair.destination.dialect()) {
        // Numbers and infinities stay as texts.
        (Dialect::Postgres, Dialect::MySql) => {
            "[[objects]]\ninclude = \"*.*\"\n[[objects]]\ninclude = \"public.kinds\"\n\
             columns = { on_misfit = { n = \"text\", f4 = \"text\" } }\n"
        }
        // Times beyond a day, where there are none.
        (Dialect::MySql, Dialect::Postgres) => {
            "[[objects]]\ninclude = \"*.*\"\n[[objects]]\ninclude = \"app.kinds\"\n\
             columns = { on_misfit = { t = \"text\", t3 = \"text\" } }\n"
        }
        _ => "",
    }
}

/// The database in which the data comes to lie.
pub fn there(source: &Server, destination: &Server) -> &'static str {
    let same = source.dialect() == destination.dialect();
    if same { source.engine().database() } else { destination.engine().database() }
}

impl Scene {
    /// PostgreSQL to itself: two fresh servers with the workload's tables and what `sql` makes at the source. Nothing runs yet.
    pub async fn new(form: Form, sql: &str) -> Result<Scene> {
        Scene::of(Pair::POSTGRES, form, sql).await
    }

    /// The same with lines for `[migrate]` and further sections of the migration file.
    pub async fn with(form: Form, sql: &str, migrate: &str, more: &str) -> Result<Scene> {
        Scene::of_with(Pair::POSTGRES, form, sql, migrate, more).await
    }

    /// Any pair: two fresh servers with the workload's tables and what `sql` makes at the source. Nothing runs yet.
    pub async fn of(pair: Pair, form: Form, sql: &str) -> Result<Scene> {
        Scene::of_with(pair, form, sql, consent(pair.source), "").await
    }

    /// The same with lines for `[migrate]` and further sections of the migration file.
    pub async fn of_with(pair: Pair, form: Form, sql: &str, migrate: &str, more: &str) -> Result<Scene> {
        let (source, destination) = servers(pair).await?;
        let drover = Deployment::new(form, &source, &destination, migrate, more).await?;
        Scene::on(source, destination, sql, drover).await
    }

    /// On two servers as [`servers`] or [`fresh`] leave them.
    pub async fn on(source: Server, destination: Server, sql: &str, drover: Deployment) -> Result<Scene> {
        let options = Options { writers: 3, rate: Some(40.0), ..Options::default() };
        let database = source.engine().database();
        let mut session = source.connect(database).await?;
        workload::create(&mut session, &options).await?;
        if !sql.trim().is_empty() {
            session.run(sql).await?;
        }
        if source.dialect() == Dialect::Postgres {
            session.run("VACUUM ANALYZE").await?;
        }
        Ok(Scene { source, destination, database, options, running: None, drover })
    }

    /// A session where the data comes from.
    pub async fn from(&self) -> Result<Session> {
        self.source.connect(self.database).await
    }

    /// A session where the data goes to.
    pub async fn to(&self) -> Result<Session> {
        self.destination.connect(there(&self.source, &self.destination)).await
    }

    /// Runs statements at the source.
    pub async fn exec(&self, sql: &str) -> Result<()> {
        self.source.exec(self.database, sql).await
    }

    /// An observer at the destination.
    pub async fn observe(&self) -> Result<crate::Observer> {
        crate::Observer::start(&self.destination.url(there(&self.source, &self.destination)), self.options).await
    }

    /// Starts the workload.
    pub async fn load(&mut self) -> Result<()> {
        self.running = Some(workload::start(&self.source.url(self.database), &self.options).await?);
        Ok(())
    }

    /// Waits until the workload has committed so many more transactions.
    pub async fn advance(&self, transactions: u64) -> Result<()> {
        self.running.as_ref().context("no workload")?.advance(transactions, SOON).await
    }

    /// Ends the workload: none of its statements may have failed.
    pub async fn quiet(&mut self) -> Result<u64> {
        match self.running.take() {
            Some(running) => running.stop().await.context("a statement of the application failed"),
            None => Ok(0),
        }
    }

    /// Ends the workload, lets drover catch up, and compares both sides in both directions.
    pub async fn finish(&mut self) -> Result<()> {
        self.quiet().await?;
        self.drover.wait_caught_up().await?;
        self.equal().await
    }

    /// Both sides hold the same, and the workload's invariant holds at the destination.
    pub async fn equal(&mut self) -> Result<()> {
        let (mut from, mut to) = (self.from().await?, self.to().await?);
        compare::expect_equal(&mut from, &mut to).await.with_context(|| self.drover.tails(15))?;
        workload::check(&mut to, &self.options).await
    }

    /// Epoch and applied position at the destination.
    pub async fn progress(&self) -> Result<(i64, Place)> {
        let sql = "SELECT epoch, position_text FROM drover.drover_progress";
        let row = self.destination.admin().await?.row(sql).await?;
        let at = row[1].as_deref().and_then(place).with_context(|| format!("no position: {row:?}"))?;
        Ok((number(&row[0])?, at))
    }

    /// How long it takes until what the source commits from now on is at the destination.
    pub async fn passes(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.at_destination(|at, now| at > now).await?;
        Ok(begin.elapsed())
    }

    /// Waits until all that the source has committed by now is at the destination.
    pub async fn reaches(&self) -> Result<()> {
        self.at_destination(|at, now| at >= now).await
    }

    async fn at_destination(&self, wanted: impl Fn(Place, Place) -> bool) -> Result<()> {
        let now = log_end(&mut self.from().await?).await?;
        let wanted = &wanted;
        wait::until("changes flow", SOON, || async move {
            let (epoch, at) = self.progress().await?;
            if wanted(at, now) {
                return Ok(Some(()));
            }
            Err(anyhow::anyhow!("epoch {epoch}, {at:X?} in place of {now:X?}"))
        })
        .await
    }

    /// Waits until the destination has marks of so many chunks. None of the tables need be complete.
    pub async fn wait_chunks(&self, least: i64) -> Result<()> {
        wait::until("chunks are loaded", SOON, || async {
            let loaded = self.destination.admin().await?.number("SELECT count(*) FROM drover.drover_chunk").await?;
            if loaded >= least { Ok(Some(())) } else { Err(anyhow::anyhow!("{loaded} of {least}")) }
        })
        .await
    }

    /// The marks of loaded chunks.
    pub async fn marks(&self) -> Result<Vec<Mark>> {
        let when = match self.destination.dialect() {
            Dialect::Postgres => "loaded_at::text",
            Dialect::MySql => "CAST(loaded_at AS CHAR)",
        };
        let sql = format!("SELECT table_id, generation, chunk, {when} FROM drover.drover_chunk ORDER BY 1, 2, 3");
        let rows = self.destination.admin().await?.rows(&sql).await?;
        let mark =
            |row: Vec<Option<String>>| Some((row[0].clone()?, row[1].clone()?, row[2].clone()?, row[3].clone()?));
        rows.into_iter().map(mark).collect::<Option<_>>().context("a mark with nulls")
    }
}

/// Tables of many small chunks when a chunk has [`SMALL_CHUNKS`]: one by key ranges, one without a key.
pub fn many(dialect: Dialect) -> String {
    many_rows(dialect, 30_000)
}

/// The same with so many rows.
pub fn many_rows(dialect: Dialect, rows: u64) -> String {
    let (rows, bare) = (dialect.series(rows), dialect.series(rows / 3));
    match dialect {
        Dialect::Postgres => format!(
            "CREATE TABLE many (id bigint PRIMARY KEY, k integer NOT NULL, filler text);
            CREATE INDEX many_k ON many (k);
            INSERT INTO many SELECT i * 3, i % 97, repeat(md5(i::text), 6) FROM {rows} i;
            CREATE TABLE bare (a integer, filler text); ALTER TABLE bare REPLICA IDENTITY FULL;
            INSERT INTO bare SELECT i / 2, repeat(md5((i / 2)::text), 6) FROM {bare} i;"
        ),
        Dialect::MySql => format!(
            "CREATE TABLE many (id bigint PRIMARY KEY, k integer NOT NULL, filler text, KEY many_k (k));
            INSERT INTO many SELECT i * 3, i % 97, repeat(sha2(i, 256), 3) FROM {rows} i;
            CREATE TABLE bare (a integer, filler text);
            INSERT INTO bare SELECT i DIV 2, repeat(sha2(i DIV 2, 256), 3) FROM {bare} i;"
        ),
    }
}

/// Bytes of a chunk with which the tables of [`many`] have some thirty, for `DROVER_CHUNK_BYTES`.
pub const SMALL_CHUNKS: &str = "200000";

/// What the application does to the tables of [`many`], wherever their copy stands. Each round has rows of its own.
pub async fn touch(scene: &Scene, round: u64) -> Result<()> {
    let sql = format!(
        "UPDATE many SET k = k + 1, id = id + 1 WHERE id % 1001 = {round} AND id % 3 = 0 AND id < 100000;
        DELETE FROM many WHERE id % 1003 = {round}; INSERT INTO many VALUES (1000000 + {round}, 1, 'new');
        UPDATE bare SET a = -a WHERE a % 503 = {round}; DELETE FROM bare WHERE a = 7 * {round}"
    );
    scene.exec(&sql).await
}

/// Table, generation, chunk, and when it was loaded.
pub type Mark = (String, String, String, String);

/// Number of the table with the most chunks among `marks`.
pub fn largest(marks: &[Mark]) -> Result<&str> {
    let count = |table: &str| marks.iter().filter(|m| m.0 == table).count();
    let most = marks.iter().map(|m| m.0.as_str()).max_by_key(|t| count(t)).context("no chunk is loaded")?;
    ensure!(count(most) > 1, "no table of several chunks");
    Ok(most)
}
