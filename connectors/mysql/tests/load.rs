//! Loading at real servers: every type's extremes by either way, what must be refused, attempts that meet.

#![allow(clippy::unwrap_used)] // tests may: a panic is their way to fail

mod place;

use anyhow::{Context, Result, ensure};
use drover_connectors_api::{LoadOutcome, Loader};
use drover_connectors_mysql::load::MyLoader;
use drover_connectors_mysql::restart::restart_table;
use drover_connectors_mysql::sessions::{self, Purpose};
use drover_harness::mysql::Release;
use drover_model::Retry;
use drover_model::error::codes;
use place::proxy::Proxy;
use place::{Place, cells, extremes, load, row};

async fn extremes_of_every_type(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    let cases = extremes::cases(release);
    let tables = ["by_infile", "by_insert"];
    let rows = extremes::create(&place, &cases, &tables).await?;
    for (id, table) in [(1, "by_infile"), (2, "by_insert")] {
        let plan = place.plan(id, table, &["id"]).await?;
        place.exec(&format!("SET GLOBAL local_infile = {}", u8::from(table == "by_infile"))).await?;
        let loaded = place.load(&plan, 0, &rows).await.with_context(|| format!("{release:?} {table}"))?;
        ensure!(loaded == LoadOutcome::Loaded { rows: rows.len() as u64 });
    }
    extremes::compare(&place, &cases, &tables).await
}

const T: &str = "CREATE TABLE t (id int primary key, v varchar(20) character set latin1)";

async fn count(place: &Place) -> Result<String> {
    place.text("SELECT count(*) FROM t").await?.context("no count")
}

async fn text_is_converted_or_refused(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec("CREATE TABLE t (id int primary key, l varchar(20) character set latin1, u varchar(20) character set utf8mb4, w char(9) character set utf16, e enum('ä','ö') character set latin1)").await?;
    let mut plan = place.plan(1, "t", &["id"]).await?;
    for (column, from) in [(1, "utf8mb4"), (2, "latin1"), (3, "cp1251")] {
        plan.columns[column].origin_type = format!("varchar(20) character set {from}");
    }
    let good = cells(&[Some(b"1"), Some("ä€\\t".as_bytes()), Some(b"\xe4\t\\"), Some(b"\xe4"), Some("ö".as_bytes())]);
    ensure!(place.load(&plan, 0, &[good]).await? == LoadOutcome::Loaded { rows: 1 });
    let got = place.list("SELECT concat_ws(' ', hex(l), hex(u), hex(w), e + 0) FROM t").await?;
    ensure!(got == ["E4805C74 C3A4095C 0434 2"], "{got:?}");
    for (n, bad) in [
        cells(&[Some(b"2"), Some("☃".as_bytes()), None, None, None]),
        cells(&[Some(b"2"), Some(b"\xff\xfe"), None, None, None]),
        cells(&[Some(b"2"), None, None, None, Some(b"\xe4")]),
    ]
    .into_iter()
    .enumerate()
    {
        let error = place.load(&plan, 1, &[bad]).await.err().with_context(|| format!("{n} was taken"))?;
        ensure!(error.code == codes::LOSS && error.table.as_deref() == Some("data.t"), "{error}");
        ensure!(n > 0 || error.column.as_deref() == Some("l"), "{n}: {error}");
    }
    ensure!(count(&place).await? == "1");
    // Given up is given up: the same chunk loads once it can.
    let fine = cells(&[Some(b"2"), None, None, None, None]);
    ensure!(place.load(&plan, 1, &[fine]).await? == LoadOutcome::Loaded { rows: 1 });
    Ok(())
}

async fn rows_that_collide_are_refused(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec(T).await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    ensure!(place.load(&plan, 0, &[row(&["1", "a"])]).await? == LoadOutcome::Loaded { rows: 1 });
    for infile in [1, 0] {
        place.exec(&format!("SET GLOBAL local_infile = {infile}")).await?;
        let error = place.load(&plan, 1, &[row(&["2", "b"]), row(&["1", "c"])]).await.err().context("overwritten")?;
        ensure!(error.code == codes::STATEMENT && error.causes[0].contains("'1'"), "{error}");
        let error = place.load(&plan, 2, &[row(&["3", "b"]), row(&["3", "b"])]).await.err().context("twice")?;
        ensure!(error.code == codes::STATEMENT, "{error}");
    }
    ensure!(place.list("SELECT concat(id, v) FROM t").await? == ["1a"]);
    // Nor where the server forgets what it warned of.
    place.exec("SET GLOBAL local_infile = 1; SET GLOBAL max_error_count = 0").await?;
    let error = place.load(&plan, 3, &[row(&["4", "b"]), row(&["1", "c"])]).await.err().context("nothing was said")?;
    ensure!(
        error.code == codes::LOSS && error.remedy.as_ref().is_some_and(|r| r.contains("max_error_count")),
        "{error}"
    );
    ensure!(place.list("SELECT concat(id, v) FROM t").await? == ["1a"]);
    Ok(())
}

/// An attempt that stands still is ended by the one that waits for it; whoever else loads is left alone.
async fn a_frozen_attempt_is_ended_by_the_next(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec(T).await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    for infile in [1, 0] {
        place.exec(&format!("SET GLOBAL local_infile = {infile}")).await?;
        let mut frozen = MyLoader::open(&place.dialer, place.migration).await?;
        let mut beside = MyLoader::open(&place.dialer, place.migration).await?;
        let chunk = 10 * infile;
        ensure!(frozen.begin(&plan, 0, chunk).await?.is_none());
        frozen.block(row(&[&format!("{chunk}1"), "frozen"]).into()).await?;
        ensure!(beside.begin(&plan, 0, chunk + 1).await?.is_none());
        beside.block(row(&[&format!("{chunk}2"), "beside"]).into()).await?;
        let rows = [row(&[&format!("{chunk}1"), "second"])];
        ensure!(place.load(&plan, chunk, &rows).await? == LoadOutcome::Loaded { rows: 1 });
        let late = frozen.finish(1).await;
        ensure!(!matches!(late, Ok(LoadOutcome::Loaded { .. })), "the frozen one loaded as well: {late:?}");
        ensure!(beside.finish(1).await? == LoadOutcome::Loaded { rows: 1 }, "an innocent was ended");
    }
    let all = place.list("SELECT concat(id, v) FROM t ORDER BY id").await?;
    ensure!(all == ["1second", "2beside", "101second", "102beside"], "{all:?}");
    Ok(())
}

async fn a_restarted_table_refuses_who_comes_late(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec(T).await?;
    place.exec("CREATE TABLE c (id int primary key, t int, FOREIGN KEY (t) REFERENCES t (id))").await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    ensure!(place.load(&plan, 0, &[row(&["1", "old"])]).await? == LoadOutcome::Loaded { rows: 1 });
    // In the middle of a chunk of the old generation, with the generation's lock held.
    let mut zombie = MyLoader::open(&place.dialer, place.migration).await?;
    ensure!(zombie.begin(&plan, 0, 1).await?.is_none());
    zombie.block(row(&["2", "zombie"]).into()).await?;
    restart_table(&place.dialer, place.migration, &plan, 1).await?;
    ensure!(!matches!(zombie.finish(1).await, Ok(LoadOutcome::Loaded { .. })), "a zombie's chunk was loaded");
    ensure!(count(&place).await? == "0");
    let mut loader = MyLoader::open(&place.dialer, place.migration).await?;
    ensure!(load(&mut loader, &plan, 0, 2, &[row(&["3", "x"])]).await? == LoadOutcome::OldGeneration);
    ensure!(load(&mut loader, &plan, 1, 0, &[row(&["1", "new"])]).await? == LoadOutcome::Loaded { rows: 1 });
    restart_table(&place.dialer, place.migration, &plan, 1).await?;
    restart_table(&place.dialer, place.migration, &plan, 0).await?;
    ensure!(count(&place).await? == "1", "emptied by a repetition");
    // Somebody raised the generation and froze before the table was empty: what it had left to do is done, and it cannot do it later.
    let (mut stuck, number) = sessions::open(&place.dialer, place.migration, Purpose::Restart).await?;
    place.exec(&format!("UPDATE drover.drover_table SET generation = 2, session = {number}")).await?;
    restart_table(&place.dialer, place.migration, &plan, 2).await?;
    ensure!(count(&place).await? == "0");
    ensure!(load(&mut loader, &plan, 2, 0, &[row(&["1", "newer"])]).await? == LoadOutcome::Loaded { rows: 1 });
    ensure!(stuck.run("TRUNCATE TABLE data.t", "test").await.is_err(), "who froze woke up");
    ensure!(count(&place).await? == "1");
    Ok(())
}

async fn the_outcome_of_a_lost_commit_is_found_out(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec(T).await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    let proxy = Proxy::start(place.server.port()).await?;
    let through = place::dialer(place.migration, proxy.port);
    let mut loader = MyLoader::open(&through, place.migration).await?;
    // The load has ended when the row's mark is written: what comes next is the commit.
    for (chunk, after) in [(0, true), (1, false)] {
        ensure!(loader.begin(&plan, 0, chunk).await?.is_none());
        loader.block(row(&[&chunk.to_string(), "x"]).into()).await?;
        match after {
            true => proxy.cut_commit_after(),
            false => proxy.cut_commit_before(),
        }
        let outcome = loader.finish(1).await;
        if after {
            ensure!(outcome? == LoadOutcome::Loaded { rows: 1 });
        } else {
            let error = outcome.err().context("it was not committed")?;
            ensure!(error.retry == Retry::Connection, "{error}");
        }
    }
    ensure!(load(&mut loader, &plan, 0, 0, &[row(&["0", "x"])]).await? == LoadOutcome::AlreadyLoaded);
    ensure!(load(&mut loader, &plan, 0, 1, &[row(&["1", "x"])]).await? == LoadOutcome::Loaded { rows: 1 });
    // Cut before and in the middle of the rows: nothing stays, the loader can be used again.
    for middle in [false, true] {
        if !middle {
            proxy.cut_load();
        }
        ensure!(loader.begin(&plan, 0, 2).await?.is_none());
        if middle {
            proxy.cut_before();
        }
        let broken = async {
            for i in 0..2000 {
                loader.block(row(&[&(i + 10).to_string(), "y"]).into()).await?;
            }
            loader.finish(2000).await
        }
        .await;
        ensure!(broken.err().is_some_and(|e| e.retry == Retry::Connection));
    }
    ensure!(load(&mut loader, &plan, 0, 2, &[row(&["2", "x"])]).await? == LoadOutcome::Loaded { rows: 1 });
    ensure!(count(&place).await? == "3");
    Ok(())
}

async fn sessions_that_are_dropped_or_aborted_leave_nothing(release: Release) -> Result<()> {
    let place = Place::start(release).await?;
    place.exec(T).await?;
    let plan = place.plan(1, "t", &["id"]).await?;
    let mut loader = MyLoader::open(&place.dialer, place.migration).await?;
    ensure!(loader.begin(&plan, 0, 0).await?.is_none());
    loader.block(row(&["1", "x"]).into()).await?;
    loader.abort().await?;
    ensure!(count(&place).await? == "0");
    // The task that loads is dropped in the middle, as when an order is taken back.
    ensure!(loader.begin(&plan, 0, 0).await?.is_none());
    loader.block(row(&["1", "x"]).into()).await?;
    drop(loader);
    ensure!(place.load(&plan, 0, &[row(&["1", "y"])]).await? == LoadOutcome::Loaded { rows: 1 });
    ensure!(place.list("SELECT concat(id, v) FROM t").await? == ["1y"]);
    // Fewer rows than were read.
    let mut loader = MyLoader::open(&place.dialer, place.migration).await?;
    ensure!(loader.begin(&plan, 0, 1).await?.is_none());
    loader.block(row(&["2", "x"]).into()).await?;
    let error = loader.finish(2).await.err().context("one of two was enough")?;
    ensure!(error.code == codes::ROW_COUNT, "{error}");
    ensure!(count(&place).await? == "1");
    Ok(())
}

on_each!(
    extremes_of_every_type,
    text_is_converted_or_refused,
    rows_that_collide_are_refused,
    a_frozen_attempt_is_ended_by_the_next,
    a_restarted_table_refuses_who_comes_late,
    the_outcome_of_a_lost_commit_is_found_out,
    sessions_that_are_dropped_or_aborted_leave_nothing,
);
