//! Loading chunks against a real server.

mod place;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use drover_connectors_api::{LoadOutcome, Loader};
use drover_connectors_postgres::load::{BINARY, PgLoader};
use drover_connectors_postgres::progress;
use drover_harness::wait;
use drover_model::error::codes;
use drover_model::plan::RowFormat;
use futures::TryStreamExt;
use place::{Place, plan, row, texts};
use std::time::Duration;

const T: &str = "create table t (id int primary key, v text, n numeric(8,2), f float8)";
const COLUMNS: [&str; 4] = ["id", "v", "n", "f"];
const PATIENCE: Duration = Duration::from_secs(60);

fn block(ids: std::ops::Range<u32>) -> Bytes {
    ids.flat_map(|i| row(&[&i.to_string(), "a\t\\b\n", "-", "NaN"])).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn a_chunk_and_its_mark_are_one() -> Result<()> {
    let place = Place::new(T).await?;
    let plan = plan(3, "t", &COLUMNS, &[0]);
    let mut loader = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(loader.begin(&plan, 1, 0).await?, None);
    loader.block(block(0..10)).await?;
    loader.block(block(10..25)).await?;
    assert_eq!(place.all("select count(*) from t").await?, "0");
    assert_eq!(loader.finish(25).await?, LoadOutcome::Loaded { rows: 25 });
    assert_eq!(place.all("select count(*), min(v), min(f) from t").await?, "25|a\t\\b\n|NaN");
    // Again: nothing.
    assert_eq!(loader.begin(&plan, 1, 0).await?, Some(LoadOutcome::AlreadyLoaded));
    // Given up, and rows that do not agree: nothing stays, and the next attempt begins anew.
    assert_eq!(loader.begin(&plan, 1, 1).await?, None);
    loader.block(block(100..110)).await?;
    loader.abort().await?;
    assert_eq!(loader.begin(&plan, 1, 1).await?, None);
    loader.block(block(100..110)).await?;
    assert_eq!(loader.finish(11).await.unwrap_err().code, codes::ROW_COUNT);
    // A row that the server refuses.
    assert_eq!(loader.begin(&plan, 1, 1).await?, None);
    loader.block(block(20..30)).await?;
    let error = loader.finish(10).await.unwrap_err();
    assert_eq!(error.table.as_deref(), Some("public.t"), "{error}");
    assert_eq!(loader.begin(&plan, 1, 1).await?, None);
    assert_eq!(loader.finish(0).await?, LoadOutcome::Loaded { rows: 0 });
    assert_eq!(place.all("select chunk, rows from drover.drover_chunk order by 1").await?, "0|25;1|0");
    assert_eq!(place.all("select count(*) from t").await?, "25");
    Ok(())
}

#[tokio::test]
async fn a_refused_copy_tells_the_servers_reason_and_the_session_goes_on() -> Result<()> {
    let place = Place::new(T).await?;
    let plan = plan(3, "t", &COLUMNS, &[0]);
    let mut loader = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(loader.begin(&plan, 1, 0).await?, None);
    for _ in 0..20 {
        loader.block(block(0..2000)).await?;
    }
    let error = loader.finish(40_000).await.unwrap_err();
    assert!(error.to_string().contains("23505"), "{error}");
    assert_eq!(loader.begin(&plan, 1, 0).await?, None);
    loader.block(block(0..5)).await?;
    assert_eq!(loader.finish(5).await?, LoadOutcome::Loaded { rows: 5 });
    Ok(())
}

#[tokio::test]
async fn binary_rows_pass_as_they_are() -> Result<()> {
    let place = Place::new(&format!("{T}; create table s (like t); insert into s select i, repeat('x', i % 50), i / 7.0, i from generate_series(1, 50000) i")).await?;
    let mut plan = plan(3, "t", &COLUMNS, &[0]);
    plan.format = RowFormat::Native(BINARY.into());
    let mut loader = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(loader.begin(&plan, 1, 0).await?, None);
    let copy = place.sql.copy_out("copy s (id, v, n, f) to stdout (format binary)").await?;
    let mut copy = std::pin::pin!(copy);
    let mut block = BytesMut::new();
    while let Some(data) = copy.try_next().await? {
        block.extend_from_slice(&data);
        if block.len() > 500_000 {
            loader.block(block.split().freeze()).await?;
        }
    }
    loader.block(block.freeze()).await?;
    assert_eq!(loader.finish(50_000).await?, LoadOutcome::Loaded { rows: 50_000 });
    assert_eq!(place.all("select count(*) from (table s except table t) x").await?, "0");
    Ok(())
}

#[tokio::test]
async fn an_older_generation_is_not_loaded() -> Result<()> {
    let place = Place::new(&format!("{T}; create table other (id int references t)")).await?;
    let plan = plan(3, "t", &COLUMNS, &[0]);
    let mut old = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(old.begin(&plan, 1, 0).await?, None);
    old.block(block(0..10)).await?;
    assert_eq!(old.finish(10).await?, LoadOutcome::Loaded { rows: 10 });
    // One is under way, and frozen: starting over does not wait for it for ever.
    assert_eq!(old.begin(&plan, 1, 1).await?, None);
    old.block(block(10..20)).await?;
    progress::restart_table(&place.dialer, place.migration, &plan, 2).await?;
    assert!(old.finish(10).await.is_err());
    assert_eq!(place.all("select count(*) from t").await?, "0");
    let mut new = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(new.begin(&plan, 1, 2).await?, Some(LoadOutcome::OldGeneration));
    assert_eq!(new.begin(&plan, 2, 0).await?, None);
    new.block(block(0..7)).await?;
    assert_eq!(new.finish(7).await?, LoadOutcome::Loaded { rows: 7 });
    // The order to start over comes a second time: what was loaded since stays.
    progress::restart_table(&place.dialer, place.migration, &plan, 2).await?;
    assert_eq!(place.all("select count(*) from t").await?, "7");
    Ok(())
}

#[tokio::test]
async fn of_two_attempts_one_loads() -> Result<()> {
    let place = Place::new(T).await?;
    let plan = plan(3, "t", &COLUMNS, &[0]);
    let mut first = PgLoader::open(&place.dialer, place.migration).await?;
    let mut second = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(first.begin(&plan, 1, 0).await?, None);
    first.block(block(0..10)).await?;
    let watcher = place.server.connect("drover").await?;
    let end = async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        wait::until_eq("the second attempt waits", PATIENCE, "1".to_owned(), async || {
            Ok(texts(&watcher, waiting).await?[0][0].clone().unwrap_or_default())
        })
        .await?;
        anyhow::Ok(first.finish(10).await?)
    };
    let (begun, ended) = futures::join!(second.begin(&plan, 1, 0), end);
    assert_eq!(ended?, LoadOutcome::Loaded { rows: 10 });
    assert_eq!(begun?, Some(LoadOutcome::AlreadyLoaded));
    // The first is frozen: the second ends it, and loads.
    assert_eq!(first.begin(&plan, 1, 1).await?, None);
    first.block(block(10..20)).await?;
    assert_eq!(second.begin(&plan, 1, 1).await?, None);
    second.block(block(10..20)).await?;
    assert_eq!(second.finish(10).await?, LoadOutcome::Loaded { rows: 10 });
    assert!(first.finish(10).await.is_err());
    assert_eq!(place.all("select count(*) from t").await?, "20");
    Ok(())
}

#[tokio::test]
async fn the_outcome_of_a_lost_commit_is_found_out() -> Result<()> {
    let place = Place::new(T).await?;
    let plan = plan(3, "t", &COLUMNS, &[0]);
    let mut loader = PgLoader::open(&place.dialer, place.migration).await?;
    assert_eq!(loader.begin(&plan, 1, 0).await?, None);
    loader.block(block(0..10)).await?;
    place
        .sql
        .batch_execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name like '% load %'")
        .await?;
    let error = loader.finish(10).await.unwrap_err();
    assert_eq!(error.code, codes::CONNECTION, "{error}");
    assert_eq!(place.all("select count(*) from drover.drover_chunk").await?, "0");
    Ok(())
}
