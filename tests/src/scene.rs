//! Two servers, a workload on the first, and drover between them: what most scenarios begin with, and the comparison with which
//! all of them end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use crate::workload::{self, Options, Running};
use crate::{Deployment, Form, PgOptions, Postgres, compare, wait};

/// A scenario under way.
#[derive(Debug)]
pub struct Scene {
    pub source: Postgres,
    pub destination: Postgres,
    pub options: Options,
    pub running: Option<Running>,
    pub drover: Deployment,
}

/// How long the workload may take for what a scenario asks of it.
const SOON: Duration = Duration::from_secs(90);

impl Scene {
    /// Two fresh servers of version 15 with the workload's tables and what `sql` makes at the source. Nothing runs yet.
    pub async fn new(form: Form, sql: &str) -> Result<Scene> {
        Scene::with(form, sql, "set_identity = true", "").await
    }

    /// The same with lines for `[migrate]` and further sections of the migration file.
    pub async fn with(form: Form, sql: &str, migrate: &str, more: &str) -> Result<Scene> {
        let fresh = || Postgres::start(PgOptions::default());
        let (source, destination) = tokio::try_join!(fresh(), fresh())?;
        let options = Options { writers: 3, rate: Some(40.0), ..Options::default() };
        let client = source.connect("drover").await?;
        workload::create(&client, &options).await?;
        client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
        client.batch_execute("VACUUM ANALYZE").await?;
        let drover = Deployment::new(form, &source, &destination, migrate, more).await?;
        Ok(Scene { source, destination, options, running: None, drover })
    }

    /// Starts the workload.
    pub async fn load(&mut self) -> Result<()> {
        self.running = Some(workload::start(&self.source.url("drover"), &self.options).await?);
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
        let (from, to) = (self.source.connect("drover").await?, self.destination.connect("drover").await?);
        compare::expect_equal(&from, &to).await.with_context(|| self.drover.tails(15))?;
        workload::check(&to, &self.options).await
    }

    /// Waits until the destination has marks of so many chunks. None of the tables need be complete.
    pub async fn wait_chunks(&self, least: i64) -> Result<()> {
        wait::until("chunks are loaded", SOON, || async {
            let to = self.destination.connect("drover").await?;
            let loaded = to.query_one("SELECT count(*) FROM drover.drover_chunk", &[]).await?.get::<_, i64>(0);
            if loaded >= least { Ok(Some(())) } else { Err(anyhow::anyhow!("{loaded} of {least}")) }
        })
        .await
    }
}

/// The marks of loaded chunks: table, generation, chunk, and when it was loaded.
pub async fn marks(client: &Client) -> Result<Vec<(i64, i64, i64, String)>> {
    let sql = "SELECT table_id, generation, chunk, loaded_at::text FROM drover.drover_chunk ORDER BY 1, 2, 3";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
}

/// Number of the table with the most chunks among `marks`.
pub fn largest(marks: &[(i64, i64, i64, String)]) -> Result<i64> {
    let count = |table: i64| marks.iter().filter(|m| m.0 == table).count();
    let most = marks.iter().map(|m| m.0).max_by_key(|t| count(*t)).context("no chunk is loaded")?;
    ensure!(count(most) > 1, "no table of several chunks");
    Ok(most)
}
