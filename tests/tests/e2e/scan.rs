//! `drover check --scan`: values and keys that the destination has no place for are found at the source before anything starts, counted, and named.

use anyhow::{Context, Result, ensure};
use drover_tests::{Deployment, Form, Pair, mysql_to_postgres, postgres_to_mysql, scene};
use serde_json::Value;

mysql_to_postgres! {
    values_that_mysql_lets_in;
}

postgres_to_mysql! {
    values_and_keys_that_only_postgresql_has;
}

/// What was found in a column (or a key of one column): count and keys.
fn found<'v>(report: &'v Value, object: &str) -> Result<(&'v str, u64, Vec<&'v str>)> {
    let mut items =
        report["items"].as_array().into_iter().flatten().filter(|i| i["object"] == object && i["found"].is_object());
    let item = items.next().with_context(|| format!("nothing is said about {object}: {report:#}"))?;
    ensure!(items.next().is_none(), "two items about {object}: {report:#}");
    let keys = item["found"]["keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let result = item["result"].as_str().unwrap_or_default();
    ensure!(item["remedy"].as_str().is_some_and(|r| !r.is_empty()), "no remedy: {item}");
    Ok((result, item["found"]["count"].as_u64().unwrap_or_default(), keys))
}

/// Objects of which a scan found something.
fn objects(report: &Value) -> Vec<&str> {
    let items = report["items"].as_array().into_iter().flatten().filter(|i| i["found"].is_object());
    items.filter_map(|i| i["object"].as_str()).collect()
}

const ODD: &str = r#"SET sql_mode = '', time_zone = '+00:00';
    CREATE TABLE odd (id int PRIMARY KEY, d date, t time(3), x varchar(20) CHARACTER SET utf8mb4, w varchar(20) CHARACTER SET utf16, l varchar(9) CHARACTER SET greek,
        ts timestamp NULL, j json, at datetime, plain int unsigned, s set('a','b'), fine date, kept text);
    INSERT INTO odd VALUES
        (1, '2020-02-29', '23:59:59.5', 'plain?', 'w?', '?', '2020-01-01 00:00:00', '[1]', '2020-12-31 10:00:00', 4294967295, 'a', '2020-01-01', 'ä'),
        (2, '2020-00-00', '-838:59:59', 'a\0b', 'a\0b', X'ff', '0000-00-00 00:00:00', '{"a": "\\u0000"}', '0000-00-00 00:00:00', 1, 'b', '2020-02-28', ''),
        (3, '0000-01-01', '24:00:00', 'ā', 'ā', 'a', '2020-01-01 00:00:00', '"\\\\u0000"', '2021-00-01 00:00:00', 1, 'a', '9999-12-31', NULL),
        (4, NULL, '24:00:00.001', '\0', '', 'a', NULL, NULL, NULL, 1, 'a,b', NULL, NULL);
    SET sql_mode = 'ALLOW_INVALID_DATES';
    INSERT INTO odd (id, d, at) VALUES (5, '2023-02-29', '2023-04-31 00:00:00'), (6, '2024-02-29', '1900-02-29 00:00:00');
    CREATE TABLE keyless (x text CHARACTER SET utf8mb4);
    INSERT INTO keyless VALUES ('\0'), ('\0'), ('fine');
    CREATE TABLE many (a varchar(20) COLLATE utf8mb4_bin, b int, x varchar(9), PRIMARY KEY (a, b));"#;
const MANY: &str = "INSERT INTO many SELECT CONCAT('k', n % 7), n, IF(n % 50000 = 0, '\\0', 'x') FROM
    (SELECT a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n + 100000 * f.n AS n FROM
        (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) a,
        (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) b,
        (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) c,
        (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) d,
        (SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) e,
        (SELECT 0 n UNION SELECT 1) f) g";

async fn values_that_mysql_lets_in(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source.exec(database, ODD).await?;
    source.exec(database, MANY).await?;
    let plain = Deployment::new(Form::InProcess, &source, &destination, "", "").await?;
    let file = plain.file.display().to_string();
    // Without a look at the rows it says where one is worth while, and for which columns.
    let advised = plain.call(&["check", &file]).await?.expect(0)?.stdout;
    ensure!(advised.contains("d, t, x, w, l, ts,") && advised.contains("--scan"), "{advised}");
    ensure!(!advised.contains("plain,") && !advised.contains(" s,"), "{advised}");

    let report = plain.call(&["check", &file, "--scan", "--json"]).await?.expect(3)?.json()?;
    ensure!(report["passed"] == false, "{report:#}");
    let wanted: [(&str, u64, &[&str]); 7] = [
        ("app.odd.d", 3, &["id=2", "id=3", "id=5"]),
        ("app.odd.t", 2, &["id=2", "id=4"]),
        ("app.odd.x", 2, &["id=2", "id=4"]),
        ("app.odd.w", 1, &["id=2"]),
        ("app.odd.l", 1, &["id=2"]),
        ("app.odd.ts", 1, &["id=2"]),
        ("app.odd.at", 4, &["id=2", "id=3", "id=5", "id=6"]),
    ];
    for (object, count, keys) in wanted {
        let found = found(&report, object)?;
        ensure!(found == ("failed", count, keys.to_vec()), "{object}: {found:?}");
    }
    ensure!(found(&report, "app.keyless.x")? == ("failed", 2, vec![]), "{report:#}");
    // Over several ranges of a key of text and number.
    let (result, count, keys) = found(&report, "app.many.x")?;
    ensure!((result, count, keys.len()) == ("failed", 4, 4), "{count} {keys:?}");
    ensure!(keys.contains(&"a=k0, b=0") && keys.contains(&"a=k6, b=50000"), "{keys:?}");
    // MariaDB's JSON is a text here, and stays one.
    let documents = objects(&report).contains(&"app.odd.j");
    ensure!(documents == (pair.source.kind() == "mysql"), "{:?}", objects(&report));
    ensure!(!objects(&report).iter().any(|o| o.ends_with("fine") || o.ends_with("kept")), "{:?}", objects(&report));

    // What a policy decides does not stand in the way, and is told.
    let policies = "[[objects]]\ninclude = \"app.odd\"\ncolumns = { drop = [\"j\", \"l\"], on_misfit = { d = \"null\", t = \"text\", x = \"clamp\", \
        w = \"clamp\", ts = \"null\", at = \"text\" } }\n";
    let decided = Deployment::new(Form::InProcess, &source, &destination, "", policies).await?;
    let file = decided.file.display().to_string();
    let report = decided.call(&["check", &file, "--scan", "--json"]).await?.expect(0)?.json()?;
    ensure!(report["passed"] == true, "{report:#}");
    ensure!(found(&report, "app.odd.d")?.0 == "warning" && found(&report, "app.odd.x")?.1 == 2, "{report:#}");
    ensure!(objects(&report).len() == 4, "{:?}", objects(&report));
    Ok(())
}

const ODDER: &str = r#"
    CREATE TABLE odd (id integer PRIMARY KEY, at timestamptz, d date, n numeric(10,2), big numeric, f double precision, c char(5), jb jsonb, long text UNIQUE, a integer[], i integer);
    INSERT INTO odd VALUES (1, '2024-01-01', '0001-01-01', 1.5, 1.5, 1.5, 'ab', '{"a": [1.50, 18446744073709551615, "123456789012345678901"]}', 'x', '{1}', 1),
        (2, 'infinity', '-infinity', 'NaN', 1e35, 'NaN', 'ab', '[123456789012345678901234]', repeat('ü', 769), '{1}', 1),
        (3, '12024-01-01', '0044-03-15 BC', NULL, 1e-31, '-Infinity', NULL, '1e400', repeat('ü', 768), NULL, NULL),
        (4, '9999-12-31 23:59:59.999999+00', '9999-12-31', 99999999.99, -99999999999999999999999999999999999.5, 1e308, 'abcde', '0.1000000000000000055511151231257827', 'y', '{}', 2);
    CREATE TABLE named (name text PRIMARY KEY, note varchar(20) UNIQUE);
    INSERT INTO named VALUES ('a', 'Rene'), ('A', 'René'), ('b ', NULL), ('b', NULL), ('c', 'other');
    CREATE TABLE many (id integer PRIMARY KEY, f double precision);
    INSERT INTO many SELECT i, CASE WHEN i % 60000 = 1 THEN float8 'NaN' ELSE i END FROM generate_series(1, 250000) i;
"#;

async fn values_and_keys_that_only_postgresql_has(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source.exec(database, ODDER).await?;
    let stages = "stages = [\"schema\", \"full\"]\non_conflict = \"ignore\"";
    let plain = Deployment::new(Form::InProcess, &source, &destination, stages, "").await?;
    let file = plain.file.display().to_string();
    let advised = plain.call(&["check", &file]).await?.expect(0)?.stdout;
    ensure!(advised.contains("at, d, n, big, f,") && advised.contains("--scan"), "{advised}");
    let report = plain.call(&["check", &file, "--scan", "--json"]).await?.expect(3)?.json()?;
    let wanted: [(&str, u64, &[&str]); 6] = [
        ("public.odd.at", 2, &["id=2", "id=3"]),
        ("public.odd.d", 2, &["id=2", "id=3"]),
        ("public.odd.n", 1, &["id=2"]),
        ("public.odd.big", 2, &["id=2", "id=3"]),
        ("public.odd.f", 2, &["id=2", "id=3"]),
        ("public.odd.long", 1, &["id=2"]),
    ];
    for (object, count, keys) in wanted {
        let found = found(&report, object)?;
        ensure!(found == ("failed", count, keys.to_vec()), "{object}: {found:?}");
    }
    if pair.destination.kind() == "mysql" {
        let found = found(&report, "public.odd.jb")?;
        ensure!(found == ("failed", 3, vec!["id=2", "id=3", "id=4"]), "{found:?}");
    }
    let (_, count, keys) = found(&report, "public.many.f")?;
    ensure!(count == 5 && keys == ["id=1", "id=60001", "id=120001", "id=180001", "id=240001"], "{count} {keys:?}");
    // Texts that are told apart here and there.
    ensure!(!objects(&report).contains(&"public.named"), "{report:#}");

    // The same table, made by hand with the server's usual way of comparing.
    let there = scene::there(&source, &destination);
    destination.create_database(there).await?;
    destination
        .exec(
            there,
            "CREATE TABLE named (name varchar(768) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci PRIMARY KEY,
                note varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci UNIQUE)",
        )
        .await?;
    let report = plain.call(&["check", &file, "--scan", "--json"]).await?.expect(3)?.json()?;
    let items = report["items"].as_array().into_iter().flatten();
    let named: Vec<&Value> = items.filter(|i| i["object"] == "public.named" && i["found"].is_object()).collect();
    ensure!(named.len() == 2, "{named:#?}");
    let key = |column: &str| named.iter().find(|i| i["found"]["columns"][0] == column).context("a key is not named");
    let (name, note) = (key("name")?, key("note")?);
    ensure!(name["found"]["count"] == 2 && note["found"]["count"] == 1, "{named:#?}");
    let keys = name["found"]["keys"].to_string();
    ensure!(keys.contains("A | a") && keys.contains("b | b "), "{keys}");
    ensure!(note["found"]["keys"].to_string().contains("Rene | René"), "{note}");
    Ok(())
}
