//! From MySQL and MariaDB to PostgreSQL: tables, rows and changes of every type, equal in the end by a comparison that knows nothing of drover; what
//! has no place there is refused or decided by a policy, and counted.

use anyhow::{Context, Result, ensure};
use drover_tests::{Deployment, Dialect, Form, Pair, Server, chinook, compare, mysql_to_postgres, scene};

mysql_to_postgres! {
    the_chinook_sample;
}

/// Both sides hold the same rows.
async fn equal(source: &Server, destination: &Server, drover: &mut Deployment) -> Result<()> {
    let mut from = source.connect(source.engine().database()).await?;
    let mut to = destination.connect(scene::there(source, destination)).await?;
    compare::expect_equal(&mut from, &mut to).await.with_context(|| drover.tails(15))
}

/// `validate` finds no difference.
async fn validated(drover: &Deployment) -> Result<()> {
    let file = drover.file.display().to_string();
    drover.call(&["validate", &file]).await?.expect(0)?;
    Ok(())
}

async fn the_chinook_sample(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    println!("{pair}: {}", chinook::load(&source, database).await?);
    let mut drover = Deployment::new(Form::InProcess, &source, &destination, "", "").await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source.exec(database, chinook::changes(Dialect::MySql)).await?;
    drover.wait_caught_up().await?;
    equal(&source, &destination, &mut drover).await?;
    let (mut from, mut to) =
        (source.connect(database).await?, destination.connect(scene::there(&source, &destination)).await?);
    let ours = from
        .number(
            "SELECT count(*) FROM information_schema.table_constraints WHERE constraint_schema = database()
            AND constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY')",
        )
        .await?;
    let theirs = to
        .number(
            "SELECT count(*) FROM pg_constraint WHERE connamespace = 'app'::regnamespace AND contype IN ('p', 'f') AND convalidated",
        )
        .await?;
    ensure!(ours == theirs && ours >= 18, "{ours} keys and foreign keys became {theirs}");
    validated(&drover).await
}
