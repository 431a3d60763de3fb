//! From MySQL and MariaDB to PostgreSQL: tables, rows and changes of every type, equal in the end by a comparison that knows nothing of drover; what
//! has no place there is refused or decided by a policy, and counted.

use anyhow::{Result, ensure};
use drover_tests::{Deployment, Dialect, Form, Pair, chinook, mysql_to_postgres, scene};

mysql_to_postgres! {
    the_chinook_sample;
    what_does_not_fit_is_refused_or_decided;
    switched_over;
    bytes_that_are_no_text;
}

/// Values that MySQL's modes of old let in.
const ODD: &str = "SET sql_mode = '', time_zone = '+00:00';
    CREATE TABLE odd (id int PRIMARY KEY, d date, dn date NOT NULL, t time(3), tt time, x varchar(20), ts timestamp NULL, at datetime(6));
    INSERT INTO odd VALUES (1, '2020-02-29', '2020-02-29', '23:59:59.5', '10:00:00', 'plain', '2020-01-01 00:00:00', '2020-01-01 00:00:00.000001'),
        (2, '2020-00-00', '0000-00-00', '-838:59:59', '100:00:00', 'a\0b', '0000-00-00 00:00:00', '0000-00-00 00:00:00');";
const ODD_CHANGES: &str = "SET sql_mode = '', time_zone = '+00:00';
    INSERT INTO odd VALUES (3, '2021-02-00', '0000-00-00', '25:00:00', '-00:00:01', '\0', '0000-00-00 00:00:00', '2021-00-01 01:02:03.5');
    UPDATE odd SET t = '838:59:59' WHERE id = 1; UPDATE odd SET x = 'c' WHERE id = 2;";
const POLICIES: &str = "[[objects]]\ninclude = \"app.odd\"\ncolumns = { on_misfit = { d = \"null\", dn = \"clamp\", t = \"clamp\", \
    tt = \"text\", x = \"clamp\", ts = \"null\", at = \"text\" } }\n";

async fn what_does_not_fit_is_refused_or_decided(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source.exec(database, ODD).await?;
    // By default it stops, and says where and what to do.
    let plain = Deployment::new(Form::InProcess, &source, &destination, "", "").await?;
    let file = plain.file.display().to_string();
    let refused = plain.call(&["run", &file]).await?.expect(1)?;
    for word in ["DR0014", "app.odd", "id=\\\"2\\\"", "2020-00-00", "on_misfit"] {
        ensure!(refused.stderr.replace("id=\"2\"", "id=\\\"2\\\"").contains(word), "{word}: {}", refused.stderr);
    }
    plain.call(&["cleanup", &file]).await?.expect(0)?;
    destination.exec("drover", "DROP SCHEMA app CASCADE").await?;
    // A policy that has no use is refused.
    let wrong = POLICIES.replace("x = \"clamp\"", "x = \"text\"");
    let wrong = Deployment::new(Form::InProcess, &source, &destination, "", &wrong).await?;
    let refused = wrong.call(&["check", &wrong.file.display().to_string()]).await?.expect(3)?;
    ensure!(refused.stdout.contains("app.odd.x"), "{}", refused.stdout);

    let mut drover = Deployment::new(Form::InProcess, &source, &destination, "", POLICIES).await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source.exec(database, ODD_CHANGES).await?;
    drover.wait_caught_up().await?;
    let mut to = destination.connect("drover").await?;
    let rows = to.rows("SELECT concat_ws('|', id, coalesce(d::text, 'null'), dn, t, tt, x, coalesce(ts::text, 'null'), at) FROM odd ORDER BY id").await?;
    let rows: Vec<String> = rows.into_iter().flatten().flatten().collect();
    ensure!(
        rows == [
            "1|2020-02-29|2020-02-29|24:00:00|10:00:00|plain|2020-01-01 00:00:00+00|2020-01-01 00:00:00.000001",
            "2|null|0001-01-01|00:00:00|100:00:00|c|null|0000-00-00 00:00:00.000000",
            "3|null|0001-01-01|24:00:00|-00:00:01||null|2021-00-01 01:02:03.500000",
        ],
        "{rows:#?}"
    );
    let counted = to
        .rows("SELECT concat_ws(' ', table_name, column_name, policy, occurrences) FROM drover.drover_misfit ORDER BY column_name")
        .await?;
    let counted: Vec<String> = counted.into_iter().flatten().flatten().collect();
    // Of each time that such a value was written: by the copy, and by two changes of whole rows.
    let wanted =
        ["app.odd d null 3", "app.odd dn clamp 3", "app.odd t clamp 4", "app.odd ts null 3", "app.odd x clamp 2"];
    ensure!(counted == wanted, "{counted:#?}");
    // The same by drover's own verbs.
    let file = drover.file.display().to_string();
    let listed = drover.call(&["misfits", &file, "--json"]).await?.expect(0)?.json()?;
    let shown = drover.call(&["migration", "show", &file, "--json"]).await?.expect(0)?.json()?;
    ensure!(listed["replaced"] == shown["replaced"], "{listed:#} {:#}", shown["replaced"]);
    let d = &listed["replaced"][0];
    ensure!(d["table"] == "app.odd" && d["column"] == "d" && d["policy"] == "null" && d["count"] == 3, "{listed:#}");
    // Row 2 by the copy, then in the order in which a batch writes: row 2 by the change that touched it, and row 3.
    let of =
        |i: usize| [&d["values"][i]["key"], &d["values"][i]["before"], &d["values"][i]["after"]].map(|v| v.as_str());
    ensure!(of(0) == [Some("id=2"), Some("2020-00-00"), None], "{listed:#}");
    ensure!([1, 2].iter().any(|&i| of(i) == [Some("id=3"), Some("2021-02-00"), None]), "{listed:#}");
    let t = &listed["replaced"][2]["values"][0];
    ensure!(t["before"] == "-838:59:59.000" && t["after"] == "00:00:00", "{listed:#}");
    let report = drover.call(&["validate", &file, "--json"]).await?.expect(0)?.json()?;
    ensure!(report["tables"][0]["not_compared"] == serde_json::json!(["d", "dn", "t", "x", "ts"]), "{report:#}");
    ensure!(
        drover.call(&["validate", &file]).await?.expect(0)?.stdout.contains("not compared: d, dn, t, x, ts"),
        "{report:#}"
    );
    scene::validated(&drover).await
}

/// Counters go on where the source's stood, also such as an identity cannot be.
async fn switched_over(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source
        .exec(
            database,
            "CREATE TABLE a (id int NOT NULL AUTO_INCREMENT PRIMARY KEY, note varchar(20) DEFAULT 'none');
            CREATE TABLE b (id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, at timestamp DEFAULT CURRENT_TIMESTAMP, k binary(2) DEFAULT 'ab');
            INSERT INTO a VALUES (1, 'x'), (70, NULL); INSERT INTO b (id) VALUES (9000000000)",
        )
        .await?;
    let mut drover = Deployment::new(Form::InProcess, &source, &destination, "", "").await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source.exec(database, "INSERT INTO a (note) VALUES ('y')").await?;
    drover.wait_caught_up().await?;
    let file = drover.file.display().to_string();
    let done = drover.call(&["cutover", &file, "--json"]).await?.expect(0)?.json()?;
    ensure!(done["cut_over"] == true && done["equal"] == true, "{done:#}");
    let mut to = destination.connect("drover").await?;
    to.run("INSERT INTO a DEFAULT VALUES; INSERT INTO b DEFAULT VALUES").await?;
    let last = to.text("SELECT concat(max(id), ' ', (array_agg(note ORDER BY id DESC))[1]) FROM a").await?;
    ensure!(last.as_deref() == Some("72 none"), "{last:?}");
    let last =
        to.text("SELECT concat(max(id), ' ', count(at), ' ', (array_agg(k ORDER BY id DESC))[1]) FROM b").await?;
    ensure!(last.as_deref() == Some("9000000001 2 \\x6162"), "{last:?}");
    let file = drover.file.display().to_string();
    drover.call(&["cleanup", &file]).await?.expect(0)?;
    let left = to.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'drover'").await?;
    ensure!(left == 0, "drover's schema is left");
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
    scene::equal(&source, &destination, &mut drover).await?;
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
    scene::validated(&drover).await
}

/// Texts in character sets of old, with bytes that are no character of theirs: `greek` has none for 0xff, the others none for two bytes each.
const TEXTS: &str = "SET NAMES utf8mb4;
    CREATE TABLE texts (id int PRIMARY KEY, l varchar(20) CHARACTER SET latin1, k char(9) CHARACTER SET koi8r, c text CHARACTER SET cp932, s varchar(20) CHARACTER SET sjis,
        e varchar(20) CHARACTER SET euckr, b varchar(20) CHARACTER SET gbk, w varchar(20) CHARACTER SET utf16, a varchar(20) CHARACTER SET ascii, x enum('ä','ö') CHARACTER SET latin1);
    INSERT INTO texts VALUES (1, 'äöü€?', 'Привет', '日本語?', '日本〜', '한국어', '中文', '😀', 'plain', 'ö'), (2, NULL, '', '', NULL, '', NULL, '', '?', NULL);
    INSERT INTO texts (id, l) VALUES (3, X'8182e4');
    CREATE TABLE odd (id int PRIMARY KEY, g varchar(20) CHARACTER SET greek, c varchar(20) CHARACTER SET cp932);
    INSERT INTO odd VALUES (1, 'α?', '?'), (2, X'e1ff', X'93fa859f96?');
    CREATE TABLE old (id int PRIMARY KEY, u varchar(20) CHARACTER SET ujis);
    INSERT INTO old VALUES (1, '日本?'), (2, X'c6fca9a1'), (3, NULL);";

async fn bytes_that_are_no_text(pair: Pair) -> Result<()> {
    let (source, destination) = scene::servers(pair).await?;
    let database = pair.source.database();
    source.exec(database, &TEXTS.replace("96?", "967b")).await?;
    let full = "stages = [\"schema\", \"full\"]";
    // Never a question mark in their place: in the copy, whether drover knows the character set or the server has to convert it.
    for (table, column, bad, policy) in [("odd", "g", "id=2", "null"), ("old", "u", "id=2", "clamp")] {
        let one = format!("[[objects]]\ninclude = \"app.{table}\"\n");
        let plain = Deployment::new(Form::InProcess, &source, &destination, full, &one).await?;
        let file = plain.file.display().to_string();
        let refused = plain.call(&["run", &file]).await?.expect(1)?.stderr.replace(['"', '\\'], "");
        for word in ["DR0014", &format!("app.{table}"), bad, column, "on_misfit"] {
            ensure!(refused.contains(word), "{word}: {refused}");
        }
        plain.call(&["cleanup", &file]).await?.expect(0)?;
        destination.exec("drover", "DROP SCHEMA app CASCADE").await?;
        let decided = format!("{one}columns = {{ on_misfit = {{ {column} = \"{policy}\", c = \"clamp\" }} }}\n");
        let decided = if table == "old" { decided.replace(", c = \"clamp\"", "") } else { decided };
        let decided = Deployment::new(Form::InProcess, &source, &destination, full, &decided).await?;
        let file = decided.file.display().to_string();
        decided.call(&["run", &file]).await?.expect(0)?;
        let mut to = destination.connect("drover").await?;
        let sql = format!("SELECT coalesce({column}, 'null') FROM {table} ORDER BY id");
        let found: Vec<String> = to.rows(&sql).await?.into_iter().flatten().flatten().collect();
        let wanted = if table == "odd" { vec!["α?", "null"] } else { vec!["日本?", "日?\u{fffd}", "null"] };
        ensure!(found == wanted, "{found:?}");
        let listed = decided.call(&["misfits", &file, "--json"]).await?.expect(0)?.json()?;
        let counted = listed["replaced"].as_array().into_iter().flatten().find(|r| r["column"] == column);
        ensure!(counted.is_some_and(|c| c["count"] == 1 && c["values"][0]["key"] == bad), "{listed:#}");
        decided.call(&["cleanup", &file]).await?.expect(0)?;
        destination.exec("drover", "DROP SCHEMA app CASCADE").await?;
    }
    // In the changes; and texts arrive as they are.
    let more = "[[objects]]\ninclude = \"app.*\"\nexclude = [\"app.old\"]\n[[objects]]\ninclude = \"app.odd\"\n\
        columns = { on_misfit = { g = \"null\", c = \"clamp\" } }\n";
    let mut drover = Deployment::new(Form::InProcess, &source, &destination, "", more).await?;
    drover.start().await?;
    drover.wait_consistent().await?;
    source
        .exec(
            database,
            "SET NAMES utf8mb4; INSERT INTO odd VALUES (3, X'ffe1', X'859f'); UPDATE odd SET g = X'ff' WHERE id = 1;
             UPDATE texts SET id = id + 10, l = 'ß', k = 'Ж', c = '語', s = '〜', e = '한', b = '文', w = 'ā', x = 'ä' WHERE id = 1; UPDATE texts SET l = X'9d' WHERE id = 2",
        )
        .await?;
    drover.wait_caught_up().await?;
    let mut to = destination.connect("drover").await?;
    let rows = "SELECT concat_ws('|', id, coalesce(g, 'null'), c) FROM odd ORDER BY id";
    let found: Vec<String> = to.rows(rows).await?.into_iter().flatten().flatten().collect();
    ensure!(found == ["1|null|?", "2|null|日\u{fffd}本", "3|null|\u{fffd}"], "{found:?}");
    let counted =
        "SELECT concat_ws(' ', column_name, policy, occurrences) FROM drover.drover_misfit ORDER BY column_name";
    let counted: Vec<String> = to.rows(counted).await?.into_iter().flatten().flatten().collect();
    ensure!(counted == ["c clamp 2", "g null 3"], "{counted:?}");
    let texts = "SELECT concat_ws('|', id, l, k, c, s, e, b, w, a, x) FROM texts ORDER BY id";
    let found: Vec<String> = to.rows(texts).await?.into_iter().flatten().flatten().collect();
    ensure!(found == ["2|\u{9d}|||||?", "3|\u{81}‚ä", "11|ß|Ж|語|〜|한|文|ā|plain|ä"], "{found:?}");
    scene::validated(&drover).await
}
