//! Structures with everything that an engine has: generated tables with every type in every place, and the well-known sample. Copied,
//! changed meanwhile, equal in the end, rows and definitions.

use anyhow::{Context, Result, ensure};
use drover_tests::{Deployment, Form, Pair, Server, chinook, compare, mysql_to_postgres, scene, schemas, suite};

suite! {
    everywhere every_type_in_every_place;
    wide the_chinook_sample;
}

mysql_to_postgres! {
    every_type_between_kinds;
}

async fn every_type_between_kinds(pair: Pair) -> Result<()> {
    every_type_in_every_place(pair).await
}

/// Migrates what the source has; it changes once the destination is consistent.
async fn carried(
    pair: Pair,
    source: &Server,
    destination: &Server,
    changes: &str,
    tables: usize,
    more: &str,
) -> Result<()> {
    let database = pair.source.database();
    let mut drover = Deployment::new(Form::InProcess, source, destination, scene::consent(pair.source), more).await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source.exec(database, changes).await?;
    drover.wait_caught_up().await?;
    let there = scene::there(source, destination);
    let (mut from, mut to) = (source.connect(database).await?, destination.connect(there).await?);
    let found = compare::user_tables(&mut from).await?.len();
    ensure!(found == tables, "{found} tables in place of {tables}");
    compare::expect_equal(&mut from, &mut to).await.with_context(|| drover.tails(10))?;
    if from.dialect() == to.dialect() { compare::same_structure(&mut from, &mut to).await } else { Ok(()) }
}

async fn every_type_in_every_place(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let made = schemas::generate(pair);
    source.exec(pair.source.database(), &made.create.join(";\n")).await?;
    carried(pair, &source, &destination, &made.change.join(";\n"), made.tables, &made.objects).await
}

async fn the_chinook_sample(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let origin = chinook::load(&source, pair.source.database()).await?;
    println!("{pair}: {origin}");
    carried(pair, &source, &destination, chinook::changes(pair.source.dialect()), chinook::TABLES, "").await
}
