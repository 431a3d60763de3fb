//! Two servers with tables of a test's own, and drover between them: for tests that say each statement themselves, where a [`Scene`](crate::Scene) has the
//! workload.

use anyhow::{Context, Result};

use crate::deployment::Plan;
use crate::server::Session;
use crate::{Deployment, Form, Pair, Server, compare, scene};

/// A trial under way.
#[derive(Debug)]
pub struct Trial {
    pub source: Server,
    pub destination: Server,
    pub drover: Deployment,
}

impl Trial {
    /// Two fresh servers, what `tables` makes at the source, and a migration file with `migrate` and `more` in it. Nothing runs yet.
    pub async fn new(pair: Pair, form: Form, tables: &str, migrate: &str, more: &str) -> Result<Trial> {
        Trial::with(pair, form, tables, migrate, more, |plan| plan).await
    }

    /// The same; the plan is altered before the migration file is written.
    pub async fn with(
        pair: Pair,
        form: Form,
        tables: &str,
        migrate: &str,
        more: &str,
        alter: impl FnOnce(Plan) -> Plan,
    ) -> Result<Trial> {
        let (source, destination) = scene::servers(pair).await?;
        source.exec(pair.source.database(), tables).await?;
        let plan = alter(Plan::between(&source, &destination, migrate, more));
        let drover = Deployment::with(form, plan).await?;
        Ok(Trial { source, destination, drover })
    }

    /// The same with drover running and all rows copied.
    pub async fn running(pair: Pair, form: Form, tables: &str, more: &str) -> Result<Trial> {
        Trial::new(pair, form, tables, "", more).await?.begun().await
    }

    /// Starts drover and waits until all rows are copied.
    pub async fn begun(mut self) -> Result<Trial> {
        self.drover.start().await?;
        self.drover.wait_consistent().await?;
        Ok(self)
    }

    /// A session where the data comes from.
    pub async fn from(&self) -> Result<Session> {
        self.source.connect(self.source.engine().database()).await
    }

    /// A session where the data goes to.
    pub async fn to(&self) -> Result<Session> {
        self.destination.connect(scene::there(&self.source, &self.destination)).await
    }

    /// Runs statements at the source.
    pub async fn exec(&self, sql: &str) -> Result<()> {
        self.source.exec(self.source.engine().database(), sql).await.with_context(|| sql.to_owned())
    }

    /// A number that the destination gives.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        self.to().await?.number(sql).await
    }

    /// Lets drover catch up; both sides then hold the same rows.
    pub async fn equal(&mut self) -> Result<()> {
        if let Err(error) = self.drover.wait_caught_up().await {
            return Err(error.context(self.drover.log()));
        }
        scene::equal(&self.source, &self.destination, &mut self.drover).await
    }

    /// Both sides have the same tables, triggers apart.
    pub async fn same_structure(&self) -> Result<()> {
        compare::same_structure_but(&mut self.from().await?, &mut self.to().await?, "trigger").await
    }
}
