//! What an earlier drover keeps at a destination is understood by this one, which goes on from there; what a newer one keeps is refused by name.
//!
//! When the tables change: write one more fixture, by the name of the day's version,
//! `DROVER_FIXTURE=0.2 cargo test -p drover-connectors-postgres --test upgrade -- --ignored`; those that are there stay.

mod place;

use anyhow::{Context, Result, ensure};
use drover_connectors_api::{Destination, LoadOutcome, Loader};
use drover_connectors_postgres::destination::PgDestination;
use drover_connectors_postgres::load::PgLoader;
use drover_connectors_postgres::progress;
use drover_harness::Postgres;
use drover_model::MigrationId;
use drover_model::error::codes;
use place::{Place, at, dialer, plan, row, texts};
use std::path::{Path, PathBuf};
use std::process::Command;

const T: &str = "create table t (id int primary key, v text)";
const MIGRATION: MigrationId = MigrationId::from_u128(0x5115_0000_dead_4bee_8000_0123_4567_89ab);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/home")
}

#[tokio::test]
#[ignore = "writes a fixture"]
async fn write() -> Result<()> {
    let server = Postgres::start_default().await?;
    let sql = server.connect("drover").await?;
    sql.batch_execute(T).await?;
    let dialer = dialer(server.port(), MIGRATION)?;
    progress::prepare(&dialer, MIGRATION, "shop").await?;
    let taken = progress::take_over(&dialer, MIGRATION).await?;
    progress::begin_at(&dialer, MIGRATION, taken.epoch, &at(77)).await?;
    progress::note_consistent(&dialer, MIGRATION, taken.epoch, &at(70)).await?;
    let mut loader = PgLoader::open(&dialer, MIGRATION).await?;
    ensure!(loader.begin(&plan(3, "t", &["id", "v"], &[0]), 2, 5).await?.is_none());
    loader.block(row(&["1", "one"]).into()).await?;
    loader.finish(1).await?;
    sql.batch_execute(&format!(
        "insert into drover.drover_misfit values ('{MIGRATION}', 3, 'v', 'public.t', 'clamp', 7, 'an example');
         insert into drover.drover_misfit_value values ('{MIGRATION}', 3, 'v', E'id=1\\tx')"
    ))
    .await?;
    let programs = std::fs::read_to_string(server.folder().join("bin"))?;
    let dump = Command::new(Path::new(programs.trim()).join("pg_dump"))
        .args(["--schema=drover", "--inserts", "--no-owner", "--no-privileges", "-d", &server.url("drover")])
        .output()?;
    ensure!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout)?;
    // Settings of the session and commands of psql are not what drover keeps.
    let kept =
        |line: &&str| !line.is_empty() && !["SET ", "SELECT ", "--", "\\"].iter().any(|begin| line.starts_with(begin));
    let text: Vec<&str> = text.lines().filter(kept).collect();
    let version = std::env::var("DROVER_FIXTURE").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    std::fs::create_dir_all(fixtures())?;
    Ok(std::fs::write(fixtures().join(format!("{version}.sql")), text.join("\n") + "\n")?)
}

#[tokio::test]
async fn what_an_earlier_drover_keeps_is_understood_and_gone_on_from() -> Result<()> {
    let mut versions = 0;
    for file in std::fs::read_dir(fixtures())? {
        let file = file?.path();
        versions += 1;
        let server = Postgres::start_default().await?;
        let sql = server.connect("drover").await?;
        sql.batch_execute(&format!("{T}; insert into t values (1, 'one')")).await?;
        sql.batch_execute(&std::fs::read_to_string(&file)?).await?;
        let dialer = dialer(server.port(), MIGRATION)?;
        let known = progress::progress(&dialer, "shop").await?.context("no progress")?;
        assert_eq!((known.migration, known.epoch), (MIGRATION, 1), "{file:?}");
        // To the last field: the source is resumed with it.
        assert_eq!(known.position.map(|p| p.to_bytes()), Some(at(77).to_bytes()), "{file:?}");
        assert_eq!(progress::consistent_from(&dialer, MIGRATION).await?, Some(at(70)), "{file:?}");
        let replaced = PgDestination::open(dialer.clone(), "shop".into()).await?.replaced(MIGRATION).await?;
        let replaced: Vec<_> =
            replaced.iter().map(|r| (r.table.as_str(), r.column.as_str(), r.policy.as_str(), r.count)).collect();
        assert_eq!(replaced, [("public.t", "v", "clamp", 7)], "{file:?}");
        // It goes on: prepared once more, taken over, what is loaded is not loaded again, what is not is.
        progress::prepare(&dialer, MIGRATION, "shop").await?;
        let taken = progress::take_over(&dialer, MIGRATION).await?;
        assert_eq!((taken.epoch, taken.position), (2, Some(at(77))), "{file:?}");
        let plan = plan(3, "t", &["id", "v"], &[0]);
        let mut loader = PgLoader::open(&dialer, MIGRATION).await?;
        assert_eq!(loader.begin(&plan, 2, 5).await?, Some(LoadOutcome::AlreadyLoaded), "{file:?}");
        assert_eq!(loader.begin(&plan, 1, 6).await?, Some(LoadOutcome::OldGeneration), "{file:?}");
        assert_eq!(loader.begin(&plan, 2, 6).await?, None, "{file:?}");
        loader.block(row(&["2", "two"]).into()).await?;
        assert_eq!(loader.finish(1).await?, LoadOutcome::Loaded { rows: 1 });
        progress::cleanup(&dialer, Some(MIGRATION), "shop").await?;
        let left = texts(&sql, "select count(*) from pg_namespace where nspname = 'drover'").await?;
        assert_eq!(left, [[Some("0".to_owned())]], "{file:?}");
    }
    assert!(versions > 0, "no fixture");
    Ok(())
}

#[tokio::test]
async fn what_a_newer_drover_keeps_is_refused_and_left_alone() -> Result<()> {
    let place = Place::new(T).await?;
    let epoch = "select epoch from drover.drover_progress";
    place.sql.batch_execute("comment on table drover.drover_progress is 'drover 2'").await?;
    let refused = [
        progress::prepare(&place.dialer, place.migration, "test").await.err(),
        progress::take_over(&place.dialer, place.migration).await.err(),
        progress::progress(&place.dialer, "test").await.err(),
        progress::cleanup(&place.dialer, Some(place.migration), "test").await.err(),
    ];
    for error in refused {
        let error = error.context("it is taken for its own")?;
        assert_eq!(error.code, codes::STATE, "{error}");
        assert!(error.message.contains("has the format 2, this drover knows 1"), "{error}");
        assert!(error.remedy.as_deref().is_some_and(|r| r.contains("newer")), "{error:?}");
    }
    assert_eq!(place.all(epoch).await?, "0");
    Ok(())
}
