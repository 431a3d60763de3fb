//! Rows of PostgreSQL that move to other keys, between ground that is loaded and ground that is not, and whose large values are in no log, since they did not
//! change: drover has to fetch them from the source.

use anyhow::{Context, Result};

use crate::Scene;

/// Tables of many small chunks and the default identity: one with a plain key, one with a key of two columns in an order of its own.
pub const TABLES: &str = "CREATE TABLE tall (id bigint PRIMARY KEY, small integer NOT NULL, large text);
    ALTER TABLE tall ALTER large SET STORAGE EXTERNAL;
    INSERT INTO tall SELECT i, 0, CASE WHEN i % 50 = 0 THEN NULL ELSE repeat(md5(i::text), 100) END FROM generate_series(1, 3000) i;
    CREATE TABLE pairs (large bytea, name text, small integer NOT NULL, part numeric(8,2), PRIMARY KEY (name, part));
    ALTER TABLE pairs ALTER large SET STORAGE EXTERNAL;
    INSERT INTO pairs SELECT decode(repeat(md5(i::text), 100), 'hex'), 'n ' || i % 40, 0, i / 4.0 FROM generate_series(1, 1500) i;";

/// Rows of the ground that is read last move to where all is loaded, in every way; each round others. One transaction a line.
pub async fn moves(scene: &Scene, round: i64) -> Result<()> {
    // The last 60 rows that no round before has touched.
    let (from, to) = (3000 - 60 * round - 59, 3000 - 60 * round);
    let of = |first: i64, last: i64| format!("BETWEEN {} AND {}", from + first, from + last);
    let back = |first: i64, last: i64| format!("BETWEEN {} AND {}", -from - last, -from - first);
    let (a, b) = (from + 50, from + 51);
    let lines = [
        // 1 → 1001, and 1 → 1001 → 2001.
        format!("UPDATE tall SET id = -id, small = 1 WHERE id {}", of(0, 14)),
        format!("UPDATE tall SET id = id - 100000 WHERE id {}", back(5, 14)),
        "UPDATE tall SET id = id - 100000, small = 2 WHERE id < -100000 AND id > -200000 AND id % 2 = 0".to_owned(),
        // Moved and deleted; moved and then given another large value, or a small one.
        format!("UPDATE tall SET id = -id WHERE id {}", of(15, 34)),
        format!("DELETE FROM tall WHERE id {}", back(15, 19)),
        format!("UPDATE tall SET large = repeat('new', 1000) WHERE id {}", back(20, 24)),
        format!("UPDATE tall SET small = 3 WHERE id {}", back(25, 29)),
        // The keys that were left are taken by others, whose large values are unknown as well.
        format!("UPDATE tall SET id = id - 20 WHERE id {}", of(35, 39)),
        format!("INSERT INTO tall SELECT i, 4, 'another' FROM generate_series({}, {}) i", from + 20, from + 22),
        // There and back, in one transaction and in two; two rows exchange their keys.
        format!(
            "UPDATE tall SET id = -id WHERE id {0}; UPDATE tall SET id = -id WHERE id {1}",
            of(40, 44),
            back(40, 44)
        ),
        format!("UPDATE tall SET id = -id WHERE id {}", of(45, 49)),
        format!("UPDATE tall SET id = -id, small = 5 WHERE id {}", back(45, 49)),
        format!(
            "UPDATE tall SET id = 0 WHERE id = {a}; UPDATE tall SET id = {a} WHERE id = {b}; UPDATE tall SET id = {b} WHERE id = 0"
        ),
        // From loaded ground to the end.
        format!("UPDATE tall SET id = {} WHERE id = {}", 10_000 + round, round + 1),
        format!("UPDATE tall SET small = 6 WHERE id = {to}"),
        format!("UPDATE pairs SET name = 'a ' || name, part = part + 0.5 WHERE part % 7 = {round} AND name > 'n 3'"),
        format!("UPDATE pairs SET name = 'b ' || name WHERE part % 7 = {round}.5 AND name < 'n'"),
        "DELETE FROM pairs WHERE name LIKE 'b a n 35%'".to_owned(),
    ];
    for line in lines {
        scene.exec(&line).await.with_context(|| line.clone())?;
    }
    Ok(())
}
