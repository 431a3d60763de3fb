//! What an earlier drover keeps at a destination is understood by this one, which goes on from there; what a newer one keeps is refused by name.
//!
//! When the tables change: write one more fixture, by the name of the day's version,
//! `DROVER_FIXTURE=0.2 cargo test -p drover-connectors-mysql --test upgrade -- --ignored`; those that are there stay.

mod place;

use anyhow::{Context, Result, ensure};
use drover_connectors_api::LoadOutcome;
use drover_connectors_mysql::load::MyLoader;
use drover_connectors_mysql::progress;
use drover_harness::Release;
use drover_model::MigrationId;
use drover_model::error::codes;
use place::{Place, at, load, row};
use std::path::{Path, PathBuf};

const T: &str = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))";
const MIGRATION: MigrationId = MigrationId::from_u128(0x5115_0000_dead_4bee_8000_0123_4567_89ab);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/home")
}

/// A server on which nothing is prepared.
async fn bare(release: Release) -> Result<Place> {
    let place = Place::start(release).await?;
    place.exec("DROP DATABASE drover").await?;
    place.exec(T).await?;
    Ok(Place { dialer: place::dialer(MIGRATION, place.server.port()), migration: MIGRATION, ..place })
}

/// A table and its rows as statements.
async fn dumped(place: &Place, table: &str) -> Result<String> {
    let made = place.rows(&format!("SHOW CREATE TABLE drover.{table}")).await?;
    let made = made[0][1].clone().context("no statement")?;
    let mut text = format!("{};\n", made.replace(&format!("TABLE `{table}`"), &format!("TABLE drover.`{table}`")));
    let columns = place
        .rows(&format!(
            "SELECT column_name, data_type IN ('blob', 'longblob') FROM information_schema.columns
             WHERE table_schema = 'drover' AND table_name = '{table}' ORDER BY ordinal_position"
        ))
        .await?;
    let shown = |c: &Vec<Option<String>>| {
        let name = c[0].as_deref().unwrap_or_default();
        let bytes = c[1].as_deref() == Some("1");
        let value = if bytes { format!("CONCAT('X''', HEX(`{name}`), '''')") } else { format!("QUOTE(`{name}`)") };
        format!("COALESCE({value}, 'NULL')")
    };
    let shown: Vec<String> = columns.iter().map(shown).collect();
    for values in place.list(&format!("SELECT CONCAT_WS(', ', {}) FROM drover.{table}", shown.join(", "))).await? {
        text.push_str(&format!("INSERT INTO drover.{table} VALUES ({values});\n"));
    }
    Ok(text)
}

#[tokio::test]
#[ignore = "writes a fixture"]
async fn write() -> Result<()> {
    let place = bare(Release::MySql9).await?;
    progress::prepare(&place.dialer, MIGRATION, "shop").await?;
    let taken = progress::take_over(&place.dialer, MIGRATION).await?;
    progress::begin_at(&place.dialer, MIGRATION, taken.epoch, &at(77)).await?;
    progress::note_consistent(&place.dialer, MIGRATION, taken.epoch, &at(70)).await?;
    let plan = place.plan(3, "t", &["id"]).await?;
    let mut loader = MyLoader::open(&place.dialer, MIGRATION).await?;
    let loaded = load(&mut loader, &plan, 2, 5, &[row(&["1", "one"])]).await?;
    ensure!(loaded == LoadOutcome::Loaded { rows: 1 });
    place
        .exec(&format!(
            "INSERT INTO drover.drover_misfit VALUES ('{MIGRATION}', 3, 'v', 'data.t', 'clamp', 7, 'an example')"
        ))
        .await?;
    place.exec(&format!("INSERT INTO drover.drover_misfit_value VALUES ('{MIGRATION}', 3, 'v', 'id=1\\tx')")).await?;
    place
        .exec(&format!(
            "INSERT INTO drover.drover_intent (migration, step, statement, fingerprint_before, session)
             VALUES ('{MIGRATION}', 'change 00 0', 'ALTER TABLE t ADD c INT', REPEAT('a', 32), 7)"
        ))
        .await?;
    let mut text = String::new();
    for table in
        place.list("SELECT table_name FROM information_schema.tables WHERE table_schema = 'drover' ORDER BY 1").await?
    {
        text.push_str(&dumped(&place, &table).await?);
    }
    let version = std::env::var("DROVER_FIXTURE").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    std::fs::create_dir_all(fixtures())?;
    Ok(std::fs::write(fixtures().join(format!("{version}.sql")), text)?)
}

async fn goes_on(release: Release) -> Result<()> {
    let mut versions = 0;
    for file in std::fs::read_dir(fixtures())? {
        let file = file?.path();
        versions += 1;
        let place = bare(release).await?;
        place.exec("INSERT INTO t VALUES (1, 'one')").await?;
        place.exec("CREATE DATABASE drover CHARACTER SET utf8mb4").await?;
        // One server's words for a collation are not another's.
        let text = std::fs::read_to_string(&file)?.replace("utf8mb4_0900_ai_ci", "utf8mb4_general_ci");
        for statement in text.split(";\n").filter(|s| !s.trim().is_empty()) {
            place.exec(statement).await?;
        }
        let known = progress::progress(&place.dialer, "shop").await?.context("no progress")?;
        assert_eq!((known.migration, known.epoch), (MIGRATION, 1), "{file:?}");
        // To the last field: the source is resumed with it.
        assert_eq!(known.position.map(|p| p.to_bytes()), Some(at(77).to_bytes()), "{file:?}");
        assert_eq!(progress::consistent_from(&place.dialer, MIGRATION).await?, Some(at(70)), "{file:?}");
        // It goes on: prepared once more, taken over, what is loaded is not loaded again, what is not is.
        progress::prepare(&place.dialer, MIGRATION, "shop").await?;
        let taken = progress::take_over(&place.dialer, MIGRATION).await?;
        assert_eq!((taken.epoch, taken.position), (2, Some(at(77))), "{file:?}");
        let plan = place.plan(3, "t", &["id"]).await?;
        let mut loader = MyLoader::open(&place.dialer, MIGRATION).await?;
        let rows = [row(&["2", "two"])];
        assert_eq!(load(&mut loader, &plan, 2, 5, &rows).await?, LoadOutcome::AlreadyLoaded, "{file:?}");
        assert_eq!(load(&mut loader, &plan, 1, 6, &rows).await?, LoadOutcome::OldGeneration, "{file:?}");
        assert_eq!(load(&mut loader, &plan, 2, 6, &rows).await?, LoadOutcome::Loaded { rows: 1 }, "{file:?}");
        drop(loader);
        progress::cleanup(&place.dialer, Some(MIGRATION), "shop").await?;
        let left = place.list("SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'drover'").await?;
        assert_eq!(left, ["0"], "{file:?}");
    }
    assert!(versions > 0, "no fixture");
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_drover_keeps_is_understood_by_mysql() -> Result<()> {
    goes_on(Release::MySql9).await
}

#[tokio::test]
async fn what_an_earlier_drover_keeps_is_understood_by_mariadb() -> Result<()> {
    goes_on(Release::MariaDb11).await
}

#[tokio::test]
async fn what_a_newer_drover_keeps_is_refused_and_left_alone() -> Result<()> {
    let place = Place::start(Release::MySql9).await?;
    place.exec("ALTER TABLE drover.drover_progress COMMENT = 'drover 2'").await?;
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
    assert_eq!(place.list("SELECT epoch FROM drover.drover_progress").await?, ["0"]);
    Ok(())
}
