//! The parts of `make demo` that are not drover: data, an application that writes, a reader with an invariant, and a comparison
//! that shares no code with drover. `deploy/demo/run` puts them together.

use std::time::Duration;

use anyhow::{Context, Result};
use drover_tests::ports::Port;
use drover_tests::{Session, bulk, compare, postgres, workload};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage:
    drover-demo ports N                free ports of 127.0.0.1, one a line
    drover-demo load URL LI SB         the two large generated tables with so many rows each, and the application's tables
    drover-demo write URL PER-SECOND   the application: transactions over nine tables until SIGTERM; prints how many it committed
    drover-demo watch URL              reads the application's invariant until SIGTERM; prints how often it held. Status 1 when
                                       it was ever broken
    drover-demo compare SOURCE DESTINATION
                                       every user table, every row, both ways. Status 1 on a difference
    drover-demo rows URL               the number of user tables and of their rows";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["ports", count] => ports(count.parse()?),
        ["load", url, li, sb] => load(url, li.parse()?, sb.parse()?).await,
        ["write", url, rate] => write(url, rate.parse()?).await,
        ["watch", url] => watch(url).await,
        ["compare", source, destination] => compare(source, destination).await,
        ["rows", url] => {
            let (tables, rows) = count(url).await?;
            println!("{tables} {rows}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

/// One application for the whole demo: who writes and who checks must agree.
fn application() -> workload::Options {
    workload::Options { writers: 2, accounts: 1_000, rows: 500, ..workload::Options::default() }
}

fn ports(count: usize) -> Result<()> {
    // All are held until all are known, so that they differ.
    let held = (0..count).map(|_| Port::reserve()).collect::<Result<Vec<Port>>>()?;
    held.iter().for_each(|port| println!("{}", port.number()));
    Ok(())
}

async fn load(url: &str, li: u64, sb: u64) -> Result<()> {
    let large = async {
        let client = postgres::connect(url).await?;
        bulk::create_li(&client, li).await
    };
    let wide = async {
        bulk::create_sb(&postgres::connect(url).await?, sb).await?;
        workload::create(&mut Session::connect(url).await?, &application()).await
    };
    tokio::try_join!(large, wide).map(|_| ())
}

async fn write(url: &str, per_second: f64) -> Result<()> {
    let mut options = application();
    options.rate = Some(per_second / f64::from(options.writers));
    // The same transactions again would be a dull application.
    options.seed = u64::from(std::process::id());
    let mut end = signal(SignalKind::terminate())?;
    let running = workload::start(url, &options).await?;
    end.recv().await;
    println!("{}", running.stop().await.context("a statement of the application failed")?);
    Ok(())
}

async fn watch(url: &str) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let mut session = Session::connect(url).await?;
    let options = application();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let mut held = 0_u64;
    loop {
        tokio::select! {
            biased;
            _ = end.recv() => break,
            _ = pace.tick() => {}
        }
        workload::check(&mut session, &options).await.with_context(|| format!("broken after {held} good readings"))?;
        held += 1;
    }
    println!("{held}");
    Ok(())
}

async fn compare(source: &str, destination: &str) -> Result<()> {
    let (mut from, mut to) = (Session::connect(source).await?, Session::connect(destination).await?);
    compare::expect_equal(&mut from, &mut to).await
}

async fn count(url: &str) -> Result<(usize, i64)> {
    let mut session = Session::connect(url).await?;
    let tables = compare::user_tables(&mut session).await?;
    let mut rows = 0;
    for table in &tables {
        rows += session.number(&format!("SELECT count(*) FROM {table}")).await?;
    }
    Ok((tables.len(), rows))
}
