//! Floating point numbers: bit by bit, or as the source's own ROUND has them where the migration file asks for it; chunks, changes, rows that only their values
//! name, tables and columns that are made while changes are followed, and the comparison.

use anyhow::{Context, Result, ensure};
use drover_tests::{Dialect, Engine, Form, Pair, Random, Release, Session, Trial, scene};

const MARIADB: Pair =
    Pair { source: Engine::MySql(Release::MariaDb11), destination: Engine::MySql(Release::MariaDb11) };
const TO_POSTGRES: Pair = Pair { source: Engine::MySql(Release::MySql9), destination: Engine::Postgres(17) };

/// `keyed` has every kind of floating point number, `bare` no key, and in `by_value` one is the key.
const TABLES: &str = "
    CREATE TABLE keyed (id int PRIMARY KEY, f float, d double, declared float(10,3), fixed double(20,2) unsigned);
    CREATE TABLE bare (f float, d double, n int);
    CREATE TABLE by_value (d double PRIMARY KEY, v double);";

/// How a column of the source is read: name of the table, what tells rows apart, column, decimal places.
const READ: [(&str, &str, &str, u16); 8] = [
    ("keyed", "id", "f", 38),
    ("keyed", "id", "d", 308),
    ("keyed", "id", "declared", 3),
    ("keyed", "id", "fixed", 2),
    ("bare", "n", "f", 38),
    ("bare", "n", "d", 308),
    ("by_value", "v", "v", 308),
    ("later", "id", "g", 308),
];

/// A number as a literal: any bits, or one of those that rounding meets: below one, just above what it keeps, halves.
fn number(random: &mut Random, single: bool) -> String {
    loop {
        let fraction = (random.draw() >> 11) as f64 / (1u64 << 53) as f64;
        let value = match random.below(5) {
            0 => f64::from_bits(random.draw()),
            1 => fraction,
            2 if single => fraction * 1e-37,
            2 => fraction * 1e-300,
            3 => (random.below(20_000) as f64 + 0.5) / 1000.0,
            _ => -fraction * 1e6,
        };
        let value = if single { f64::from(value as f32) } else { value };
        // Servers refuse numbers below the normal ones, or make zero of them.
        let least = if single { f64::from(f32::MIN_POSITIVE) } else { f64::MIN_POSITIVE };
        if value.is_finite() && value.abs() > least {
            return format!("{value:e}");
        }
    }
}

/// Rows with these numbers in each table.
async fn write(session: &mut Session, random: &mut Random, ids: std::ops::Range<i32>) -> Result<()> {
    let (mut keyed, mut bare, mut by_value) = (Vec::new(), Vec::new(), Vec::new());
    for id in ids {
        let (f, d, v) = (number(random, true), number(random, false), number(random, false));
        let (declared, fixed) = (random.below(9_000_000) as f64 / 4e3, random.below(1 << 40) as f64 / 128.0);
        keyed.push(format!("({id}, {f}, {d}, {declared}, {fixed})"));
        bare.push(format!("({f}, {d}, {id})"));
        let key = (random.draw() >> 11) as f64 / (1u64 << 53) as f64;
        by_value.push(format!("({key:e}, {v})"));
    }
    session.run(&format!("INSERT INTO keyed VALUES {}", keyed.join(", "))).await?;
    session.run(&format!("INSERT INTO bare VALUES {}", bare.join(", "))).await?;
    session.run(&format!("INSERT INTO by_value VALUES {}", by_value.join(", "))).await
}

/// The numbers that an expression gives, in order, each by its bits; of a FLOAT as such.
async fn bits(session: &mut Session, expression: &str, table: &str, by: &str, single: bool) -> Result<Vec<u64>> {
    // Texts of FLOAT columns are short of digits on some servers: as a DOUBLE all have enough.
    let expression = match session.dialect() {
        Dialect::Postgres => format!("({expression})::double precision"),
        Dialect::MySql => format!("({expression}) + 0e0"),
    };
    let sql = format!("SELECT {expression} FROM {table} ORDER BY {by}");
    let mut all = Vec::new();
    for row in session.rows(&sql).await? {
        let text = row.into_iter().next().flatten().context("null")?;
        let value: f64 = text.parse().with_context(|| text.clone())?;
        all.push(if single { u64::from((value as f32).to_bits()) } else { value.to_bits() });
    }
    Ok(all)
}

/// Runs a migration with this setting; the destination then has what `read` makes of each column.
async fn carried(pair: Pair, setting: &str, read: impl Fn(&str, u16) -> String) -> Result<Trial> {
    let mut trial = Trial::new(pair, Form::InProcess, TABLES, setting, "").await?;
    let mut random = Random::new(64);
    let mut from = trial.from().await?;
    write(&mut from, &mut random, 0..1500).await?;
    trial.drover = trial.drover.env("DROVER_CHUNK_BYTES", "20000");
    let mut trial = trial.begun().await?;
    write(&mut from, &mut random, 2000..3500).await?;
    from.run(
        "UPDATE keyed SET d = d / 3, f = f / 3 WHERE id % 3 = 0 AND abs(d) > 1e-200 AND abs(f) > 1e-30; UPDATE by_value SET v = v / 7 WHERE v < 1 AND v > 1e-200;
         UPDATE bare SET n = -n WHERE n % 5 = 0; DELETE FROM bare WHERE n % 7 = 0; UPDATE bare SET d = d / 3 WHERE n % 11 = 0 AND abs(d) > 1e-200;
         CREATE TABLE later (id int PRIMARY KEY, f float); INSERT INTO later VALUES (1, 0.1); ALTER TABLE later ADD g double NOT NULL DEFAULT 0.1;",
    )
    .await?;
    for id in 2..200 {
        from.run(&format!("INSERT INTO later VALUES ({id}, 1e-38, {})", number(&mut random, false))).await?;
    }
    trial.drover.wait_caught_up().await.with_context(|| trial.drover.log())?;
    let mut to = trial.to().await?;
    for (table, by, column, places) in READ {
        let single = ["f", "declared"].contains(&column);
        let ours = bits(&mut from, &read(column, places), table, by, single).await?;
        let theirs = bits(&mut to, column, table, by, single).await?;
        ensure!(ours.len() > 100 && ours == theirs, "{table}.{column}: {}", first_difference(&ours, &theirs));
    }
    let keys = "SELECT count(*), count(DISTINCT d) FROM by_value";
    ensure!(to.rows(keys).await? == from.rows(keys).await?, "a key was rounded");
    scene::validated(&trial.drover).await?;
    Ok(trial)
}

fn first_difference(ours: &[u64], theirs: &[u64]) -> String {
    let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
    let shown = at.map(|i| format!("row {i}: {:x} here, {:x} there", ours[i], theirs[i]));
    format!("{} rows and {}; {shown:?}", ours.len(), theirs.len())
}

async fn rounded(pair: Pair) -> Result<()> {
    let trial = carried(pair, "floats = \"round\"", |column, places| format!("ROUND({column}, {places})")).await?;
    let file = trial.drover.file.display().to_string();
    let mut from = trial.from().await?;
    let changed = "SELECT count(*) FROM keyed WHERE d <> ROUND(d, 308)";
    ensure!(from.number(changed).await? > 20, "no number is another one by rounding: nothing was tried");
    let told = trial.drover.call(&["check", &file, "--json"]).await?.stdout;
    for part in
        ["ROUND(`f`, 38)", "ROUND(`d`, 308)", "ROUND(`declared`, 3)", "ROUND(`fixed`, 2)", "d of the key as it is"]
    {
        ensure!(told.contains(part), "{part} is not told: {told}");
    }
    Ok(())
}

async fn lossless(pair: Pair) -> Result<()> {
    let trial = carried(pair, "", |column, _| column.to_owned()).await?;
    let file = trial.drover.file.display().to_string();
    let told = trial.drover.call(&["check", &file, "--json"]).await?.stdout;
    ensure!(
        told.contains("f, d, declared, fixed: read and written without loss") && !told.contains("ROUND("),
        "{told}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounded_within_mysql() -> Result<()> {
    rounded(Pair::MYSQL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounded_within_mariadb() -> Result<()> {
    rounded(MARIADB).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounded_to_postgres() -> Result<()> {
    rounded(TO_POSTGRES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lossless_within_mysql() -> Result<()> {
    lossless(Pair::MYSQL).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lossless_to_postgres() -> Result<()> {
    lossless(TO_POSTGRES).await
}
