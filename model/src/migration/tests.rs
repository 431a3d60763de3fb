use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::keys::{Key, Presence, ROOT, Takes};
use super::*;

const KINDS: &[&str] = &["alpha", "beta", "betamax"];
const PAGE: &str = include_str!("../../../docs/guide/migration-file.md");

/// A file that is right, with something appended.
fn with(tail: &str) -> String {
    format!(
        "name = \"shop\"\n[source]\nkind = \"alpha\"\nurl = \"alpha://app@10.0.0.5:5432/shop\"\n\
         [destination]\nkind = \"beta\"\nurl = \"beta://drover@localhost/shop\"\n{tail}"
    )
}

fn parse(text: &str) -> Result<Migration, Vec<String>> {
    Migration::parse(text, Path::new("conf/shop.toml"), KINDS)
        .map_err(|findings| findings.iter().map(ToString::to_string).collect())
}

fn good(tail: &str) -> Migration {
    parse(&with(tail)).unwrap_or_else(|findings| panic!("{findings:#?}"))
}

/// A file with this source, the rest right.
fn source(lines: &str) -> Result<Migration, Vec<String>> {
    parse(&format!(
        "name = \"s\"\n[destination]\nkind = \"beta\"\nurl = \"beta://d@localhost/s\"\n[source]\nkind = \"alpha\"\n{lines}"
    ))
}

/// The `toml` blocks of the guide's page.
fn examples() -> Vec<&'static str> {
    PAGE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// Reads an example of the page, which may name any kind.
fn read_example(text: &str) -> Result<Migration, Vec<Finding>> {
    let kinds: Vec<&str> = text.split("kind = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    Migration::parse(text, Path::new("/etc/drover/shop.toml"), &kinds)
}

#[test]
fn defaults() {
    let migration = good("");
    assert_eq!(migration.stages, Stage::ALL);
    assert_eq!((migration.on_conflict, migration.names), (OnConflict::Fail, Names::Default));
    assert_eq!(migration.retry.connection, Duration::from_secs(12 * 3600));
    assert_eq!(migration.retry.other, Duration::from_secs(600));
    assert_eq!(migration.retry, RetryWindows::default());
    assert_eq!(migration.log, Log { budget: 20 << 30, kafka: None });
    assert_eq!(migration.log, Log::default());
    assert_eq!(migration.limits, Limits::default());
    assert!(migration.objects.is_empty());
    assert_eq!(migration.source.tls.mode, TlsMode::VerifyFull, "far away");
    assert_eq!(migration.destination.tls.mode, TlsMode::Off, "on this machine");
    assert_eq!(migration.source.password, None);
}

#[test]
fn the_guide_s_examples_are_read_to_the_last_key() {
    let examples = examples();
    assert_eq!(examples.len(), 2);
    for example in &examples {
        read_example(example).unwrap_or_else(|findings| panic!("{findings:#?}"));
    }
    let migration = read_example(examples[1]).unwrap();
    assert_eq!(migration.source.url.host, "10.0.0.5");
    assert_eq!(migration.source.url.port, Some(5432));
    assert_eq!(migration.source.url.user.as_deref(), Some("app"));
    assert_eq!(migration.source.password, Some(SecretSource::Env("SOURCE_PASSWORD".to_owned())));
    assert_eq!(migration.source.tls.ca.as_deref(), Some(Path::new("/etc/drover/ca.pem")));
    assert_eq!(migration.destination.tls.mode, TlsMode::Require);
    assert_eq!(migration.objects[0].exclude, ["public.audit_*"]);
    let customer = &migration.objects[1];
    assert_eq!(customer.rename.as_deref(), Some("crm.client"));
    assert_eq!(customer.filter.as_deref(), Some("country_id in (1, 2)"));
    assert_eq!(customer.operations, Some(Operations::ALL));
    let columns = customer.columns.as_ref().unwrap();
    assert_eq!(columns.drop, ["fax"]);
    assert_eq!(columns.rename["first_name"], "given_name");
    let kafka = migration.log.kafka.unwrap();
    assert_eq!(kafka.brokers, ["10.0.0.7:9092"]);
    assert_eq!(kafka.tls.mode, TlsMode::VerifyFull);
    let sasl = kafka.sasl.unwrap();
    assert_eq!((sasl.mechanism, sasl.user.as_str()), (SaslMechanism::ScramSha512, "drover"));
    assert_eq!(sasl.password, SecretSource::Env("KAFKA_PASSWORD".to_owned()));
}

/// The page's part under the heading or line that begins so, up to the next one of its kind.
fn part(start: &str) -> &'static str {
    let from = PAGE.find(&format!("\n{start}")).unwrap_or_else(|| panic!("the guide lacks {start}"));
    let rest = &PAGE[from + 1..];
    let table = rest.find("\n|").unwrap_or_else(|| panic!("no table follows {start}"));
    let end = rest[table..].find("\n\n").map_or(rest.len(), |end| table + end);
    &rest[..end]
}

fn check_rows(keys: &'static [Key], rows: &str, prefix: &str, checked: &mut usize) {
    for key in keys {
        let (name, start) = (key.name, format!("| `{prefix}{}` |", key.name));
        match key.takes {
            Takes::Table(section) if section.name == "tls" => {
                check_rows(section.keys, part("`tls`, if"), "", checked);
            }
            Takes::Table(section) if section.name.starts_with("limits.") => {
                check_rows(section.keys, rows, &format!("{name}."), checked);
                continue;
            }
            Takes::Table(section) if !prefix.is_empty() || section.name.contains('.') => {
                check_rows(section.keys, part(&format!("`{name}`:")), "", checked);
            }
            Takes::Table(section) | Takes::Tables(section) => {
                let heading = match section.name {
                    "source" | "destination" => "## `[source]` and `[destination]`".to_owned(),
                    "objects" => "## `[[objects]]`".to_owned(),
                    name => format!("## `[{name}]`"),
                };
                check_rows(section.keys, part(&heading), "", checked);
                continue;
            }
            Takes::Secret => check_rows(super::keys::SECRET.keys, part("`password`:"), "", checked),
            _ => {}
        }
        let row = rows.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("the guide has no row {start}"));
        let default = match key.presence {
            Presence::Default(value) => value,
            Presence::Required => "required",
            Presence::Optional => "",
        };
        assert!(row.contains(default), "{start}: the guide states another default than {default}");
        *checked += 1;
    }
}

#[test]
fn the_guide_names_every_key_and_its_default() {
    let mut checked = 0;
    check_rows(ROOT.keys, part("## Top level"), "", &mut checked);
    assert!(checked > 45, "{checked}");
}

/// Bad tails of a file (its line 8 onwards), and all that is said about each.
const BAD: &[(&str, &[&str])] = &[
    (
        "[migrate]\nstage = [\"full\"]",
        &[
            "conf/shop.toml:9: unknown key \"stage\" in [migrate]; did you mean \"stages\"? known here: stages, on_conflict, names, set_identity, floats",
        ],
    ),
    (
        "[migrat]",
        &[
            "conf/shop.toml:8: unknown key \"migrat\" in the file's top level; did you mean \"migrate\"? known here: name, source, destination, migrate, objects, limits, retry, schema_changes, log",
        ],
    ),
    (
        "[[objects]]\ninclude = \"a.*\"\n[[objects]]\ninclued = \"a.b\"\ncolumns = { colour = 1 }",
        &[
            "conf/shop.toml:11: unknown key \"inclued\" in [[objects]]; did you mean \"include\"? known here: include, exclude, rename, where, columns, operations",
            "conf/shop.toml:12: unknown key \"colour\" in [objects.columns]; known here: include, drop, rename, on_misfit",
        ],
    ),
    (
        "[migrate]\nstages = [\"schema\", \"ful\", \"schema\", 3]\non_conflict = \"skip\"\nnames = 1",
        &[
            "conf/shop.toml:9: \"ful\" is no value of migrate.stages[1]; did you mean \"full\"? possible: schema, full, incremental",
            "conf/shop.toml:9: \"schema\" stands twice in stages; remove one",
            "conf/shop.toml:9: migrate.stages[3] is no string; possible: schema, full, incremental",
            "conf/shop.toml:10: \"skip\" is no value of migrate.on_conflict; possible: fail, ignore",
            "conf/shop.toml:11: migrate.names is no string; write names = \"default\"",
        ],
    ),
    (
        "[migrate]\nfloats = \"exact\"",
        &["conf/shop.toml:9: \"exact\" is no value of migrate.floats; possible: lossless, round"],
    ),
    ("[migrate]\nstages = []", &["conf/shop.toml:9: migrate.stages is empty; possible: schema, full, incremental"]),
    (
        "[limits]\nfull = { rows_per_second = -1, queries_per_second = 1.5 }\nsnapshot = \"soon\"\nincremental = { queries_per_second = 1 }",
        &[
            "conf/shop.toml:9: limits.full.rows_per_second is no whole number from 0; write rows_per_second = 100",
            "conf/shop.toml:9: limits.full.queries_per_second is no whole number from 0; write queries_per_second = 100",
            "conf/shop.toml:10: limits.snapshot is no duration; write snapshot = \"1h30m\" (units d, h, m, s, ms)",
            "conf/shop.toml:11: unknown key \"queries_per_second\" in [limits.incremental]; known here: rows_per_second, megabytes_per_second",
        ],
    ),
    (
        "[retry]\nconnection = \"25h\"\nother = 10",
        &[
            "conf/shop.toml:9: retry.connection = \"25h\" is out of range; take a duration from 10m to 1d",
            "conf/shop.toml:10: retry.other is no duration; write other = \"1h30m\" (units d, h, m, s, ms)",
        ],
    ),
    (
        "[retry]\nother = \"12h\"",
        &[
            "conf/shop.toml:9: retry.other is not shorter than retry.connection; shorten other (10m by default) or lengthen connection (12h)",
        ],
    ),
    (
        "[retry]\nconnection = \"10m\"",
        &[
            "conf/shop.toml:9: retry.other is not shorter than retry.connection; shorten other (10m by default) or lengthen connection (12h)",
        ],
    ),
    (
        "[log]\nbudget = \"20G\"",
        &[
            "conf/shop.toml:9: log.budget is no size; write budget = \"20GiB\" (units B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)",
        ],
    ),
    ("[log]\nbudget = \"0B\"", &["conf/shop.toml:9: log.budget is 0; take a size above it"]),
    (
        "[log]\nkafka = { brokers = [] }",
        &["conf/shop.toml:9: log.kafka.brokers is empty; name something, or leave the key out"],
    ),
    (
        "[log.kafka]\nbrokers = [\"a:1\", \"b\"]\nsasl = \"gssapi\"\nuser = \"u\"",
        &[
            "conf/shop.toml:9: \"b\" is no broker; write \"host:port\"",
            "conf/shop.toml:10: \"gssapi\" is no value of log.kafka.sasl; possible: plain, scram-sha-256, scram-sha-512",
            "conf/shop.toml:10: log.kafka has sasl without password; add password = …",
        ],
    ),
    (
        "[log.kafka]\nbrokers = [\"a:1\"]\npassword = \"p\"",
        &[
            "conf/shop.toml:10: log.kafka has password without sasl; add sasl = \"scram-sha-512\" (or plain, scram-sha-256), or remove it",
        ],
    ),
    ("[log.kafka]", &["conf/shop.toml:8: key \"brokers\" is missing in [log.kafka]; add brokers = …"]),
    (
        "[[objects]]\ninclude = \"public\"\n[[objects]]\ninclude = [\"a.b\", \"a.b.c\"]\nexclude = 'a.\"b'",
        &[
            "conf/shop.toml:9: \"public\" is no schema.table; write public.* for all of it",
            "conf/shop.toml:11: \"a.b.c\" has 3 parts instead of two; write schema.table, and a part with a dot in it in double quotes",
            "conf/shop.toml:12: \"a.\"b\": a double quote is not closed; write a quote inside of a name twice",
        ],
    ),
    (
        "[[objects]]\ninclude = [\"a.b\", \"a.c\"]\nrename = \"x.y\"\nwhere = \" \"\noperations = [\"upsert\"]",
        &[
            "conf/shop.toml:10: rename needs an include of exactly one table, or of one whole schema; give each table a block of its own, or write include = \"schema.*\" with rename = \"new.*\"",
            "conf/shop.toml:11: the condition is empty; write one, or leave the key out",
            "conf/shop.toml:12: \"upsert\" is no value of objects[0].operations[0]; did you mean \"insert\"? possible: insert, update, delete, truncate, ddl",
        ],
    ),
    ("[[objects]]\nexclude = \"a.b\"", &["conf/shop.toml:8: no block includes anything; add include = \"*.*\""]),
    (
        "[[objects]]\ninclude = \"a.b\"\ncolumns = { drop = [\"x\"], rename = { x = \"y\", z = \"y\" } }",
        &[
            "conf/shop.toml:10: column \"x\" is dropped and also renamed or included; decide for one",
            "conf/shop.toml:10: two columns are renamed to \"y\"; give each a name of its own",
        ],
    ),
    (
        "objects = 3",
        &["conf/shop.toml:8: unknown key \"objects\" in [destination]; known here: kind, url, password, tls"],
    ),
];

#[test]
fn bad_files_are_refused_with_line_and_remedy() {
    for (tail, wanted) in BAD {
        let findings = parse(&with(tail)).expect_err(tail);
        assert_eq!(findings, *wanted, "{tail}");
    }
}

#[test]
fn what_a_file_must_have() {
    assert_eq!(
        parse("").unwrap_err(),
        [
            "conf/shop.toml:1: key \"name\" is missing in the file's top level; add name = …",
            "conf/shop.toml:1: [source] is missing in the file's top level; add [source]",
            "conf/shop.toml:1: [destination] is missing in the file's top level; add [destination]",
        ]
    );
    assert_eq!(
        parse("name = \"A\"\nsource = 1\nobjects = 1\n[destination]\nkind = \"bet\"\n").unwrap_err(),
        [
            "conf/shop.toml:1: \"A\" is no name of a migration; take 1 to 40 of a-z, 0-9 and -, beginning with a letter or digit",
            "conf/shop.toml:2: source is no table; write source = { kind = … }",
            "conf/shop.toml:3: objects is no array of tables; write [[objects]]",
            "conf/shop.toml:4: key \"url\" is missing in [destination]; add url = …",
            "conf/shop.toml:5: \"bet\" is no value of destination.kind; did you mean \"beta\"? possible: alpha, beta, betamax",
        ]
    );
}

#[test]
fn names_of_migrations() {
    let named = |name: &str| parse(&with("").replace("\"shop\"", &format!("{name:?}"))).is_ok();
    for name in ["a", "0", "shop-2", "a-", &"x".repeat(40)] {
        assert!(named(name), "{name}");
    }
    for name in ["", "-a", "A", "a_b", "a.b", "ü", "a b", &"x".repeat(41)] {
        assert!(!named(name), "{name}");
    }
}

#[test]
fn broken_toml_names_the_line_and_no_value() {
    let findings = Migration::parse("name = \"a\"\npassword = hunter2 x\n", Path::new("a.toml"), KINDS).unwrap_err();
    assert!(findings.iter().all(|f| f.line == 2 && f.message.starts_with("not TOML: ")), "{findings:?}");
    assert!(!format!("{findings:?}").contains("hunter2"));
}

#[test]
fn findings_know_their_place_and_key() {
    let text = with("[[objects]]\ninclude = [\"a.b\",\n  \"public\"]");
    let findings = Migration::parse(&text, Path::new("s.toml"), KINDS).unwrap_err();
    assert_eq!((findings[0].line, findings[0].column), (10, 3));
    assert_eq!(findings[0].key, "objects[0].include[1]");
    assert_eq!(findings[0].file, "s.toml");
}

#[test]
fn endpoints() {
    for (lines, wanted) in [
        (
            "url = \"alpha://u:hunter2@h/d\"\npassword = \"x\"",
            "conf/shop.toml:8: [source] has a password in its url and another one beside it; remove one of them",
        ),
        (
            "url = \"alpha://u:hunter2/3@h/d\"",
            "conf/shop.toml:7: source.url: the url's port is no number from 1 to 65535; a \"/\", \"?\" or \":\" in a user or password is written percent-encoded: %2F, %3F, %3A",
        ),
        (
            "url = \"nonsense hunter2\"",
            "conf/shop.toml:7: source.url: the url has no \"://\"; write scheme://user@host:port/database, with special characters percent-encoded",
        ),
        ("url = 5", "conf/shop.toml:7: source.url is no string; write url = \"…\""),
        (
            "url = \"alpha://h\"\npassword = { env = \"A\", file = \"b\" }",
            "conf/shop.toml:8: source.password has to name one place, env or file; write password = { env = \"NAME\" }, { file = \"…\" } or a string",
        ),
        (
            "url = \"alpha://h\"\npassword = \"\"",
            "conf/shop.toml:8: source.password is empty; give it a value, or leave the key out",
        ),
        (
            "url = \"alpha://h\"\npassword = 1234",
            "conf/shop.toml:8: source.password is no password; write password = { env = \"NAME\" }, { file = \"…\" } or a string",
        ),
        (
            "url = \"alpha://h\"\npassword = { env = \"A=hunter2\" }",
            "conf/shop.toml:8: an environment variable's name has no \"=\"; write its name alone",
        ),
        ("url = \"alpha://h\"\ntls = \"off\"", "conf/shop.toml:8: source.tls is no table; write tls = { mode = … }"),
        (
            "url = \"alpha://h\"\ntls = { mode = \"require\" }",
            "conf/shop.toml:8: source.tls: mode \"require\" encrypts, but does not verify with whom; take \"verify-full\" with ca = \"…\", or add unverified = true if that is meant",
        ),
        (
            "url = \"alpha://h\"\ntls = { cert = \"c\" }",
            "conf/shop.toml:8: source.tls has cert without key; add key = \"…\", its private key",
        ),
        (
            "url = \"alpha://h\"\ntls = { key = \"c\" }",
            "conf/shop.toml:8: source.tls has key without cert; add cert = \"…\", its certificate",
        ),
        (
            "url = \"alpha://h\"\ntls = { unverified = true }",
            "conf/shop.toml:8: source.tls: unverified = true goes with mode \"require\" only; remove it, or take mode = \"require\"",
        ),
        (
            "url = \"alpha://h\"\ntls = { mode = \"off\", ca = \"c\" }",
            "conf/shop.toml:8: source.tls: mode \"off\" has no use for ca; remove one of both",
        ),
        (
            "url = \"alpha://h\"\ntls = { mode = \"require\", unverified = true, ca = \"c\" }",
            "conf/shop.toml:8: source.tls: mode \"require\" does not look at ca; take mode = \"verify-full\" or \"verify-ca\"",
        ),
        (
            "url = \"alpha://h\"\ntls = { mode = \"prefer\" }",
            "conf/shop.toml:8: \"prefer\" is no value of source.tls.mode; possible: off, require, verify-ca, verify-full",
        ),
    ] {
        let findings = source(lines).expect_err(lines);
        assert_eq!(findings, [wanted], "{lines}");
        assert!(!findings[0].contains("hunter2"));
    }
}

#[test]
fn passwords_and_paths() {
    let migration = source("url = \"alpha://u:p%40ss@h/d\"").unwrap();
    assert_eq!(migration.source.password, Some(SecretSource::Inline(Secret::new("p@ss"))));
    let migration =
        source("url = \"alpha://u@h/d\"\npassword = { file = \"pw\" }\ntls = { ca = \"/ca\", mode = \"verify-ca\" }");
    let source_end = migration.unwrap().source;
    assert_eq!(source_end.password, Some(SecretSource::File("conf/pw".into())));
    assert_eq!(source_end.tls, Tls { mode: TlsMode::VerifyCa, ca: Some("/ca".into()), cert: None, key: None });
    let local = source("url = \"alpha://u@/d?host=/run/x\"").unwrap().source;
    assert_eq!(local.tls.mode, TlsMode::Off);
    let asked = source("url = \"alpha://u@localhost/d\"\ntls = { ca = \"ca.pem\" }").unwrap().source;
    assert_eq!(asked.tls.mode, TlsMode::VerifyFull, "a tls table asks for TLS");
}

#[test]
fn kafka_on_this_machine_is_not_encrypted_by_default() {
    let migration = good("[log]\nkafka = { brokers = [\"127.0.0.1:9092\", \"[::1]:9093\"] }");
    assert_eq!(migration.log.kafka.unwrap().tls.mode, TlsMode::Off);
    let migration = good("[log]\nkafka = { brokers = [\"127.0.0.1:9092\", \"k2:9092\"], tls = { mode = \"off\" } }");
    assert_eq!(migration.log.kafka.unwrap().tls.mode, TlsMode::Off);
}

#[test]
fn stages_are_put_into_their_order() {
    let migration = good("[migrate]\nstages = [\"incremental\", \"schema\"]");
    assert_eq!(migration.stages, [Stage::Schema, Stage::Incremental]);
    assert!(migration.has(Stage::Schema) && !migration.has(Stage::Full));
}

#[test]
fn no_debug_shows_a_password_and_the_stored_form_keeps_it() {
    let migration = source("url = \"alpha://u:hunter2@h/d\"\n[log.kafka]\nbrokers = [\"h:1\"]\nsasl = \"plain\"\nuser = \"u\"\npassword = \"hunter2\"").unwrap();
    let shown = format!("{migration:?} {migration:#?}");
    assert!(!shown.contains("hunter2"));
    assert!(shown.contains("***"));
    let stored = serde_json::to_value(&migration).unwrap();
    assert_eq!(stored["source"]["password"]["inline"], "hunter2");
    assert_eq!(serde_json::from_value::<Migration>(stored).unwrap(), migration);
}

#[test]
fn the_stored_form_comes_back_whole() {
    let migration = read_example(examples()[1]).unwrap();
    let stored = serde_json::to_string(&migration).unwrap();
    assert!(stored.contains(r#""password":{"env":"SOURCE_PASSWORD"}"#), "{stored}");
    assert!(stored.contains(r#""connection":"12h""#), "{stored}");
    assert_eq!(serde_json::from_str::<Migration>(&stored).unwrap(), migration);
}

#[test]
fn limits_change_one_by_one() {
    let mut limits = Limits::default();
    for key in Limits::KEYS {
        limits.set(key, if key == "snapshot" { "2h" } else { "7" }).unwrap();
    }
    assert_eq!(
        limits,
        Limits {
            full: FullLimits { queries_per_second: 7, rows_per_second: 7, megabytes_per_second: 7 },
            incremental: IncrementalLimits { rows_per_second: 7, megabytes_per_second: 7 },
            snapshot: Duration::from_secs(7200),
        }
    );
    assert!(limits.set("rows_per_second", "7").unwrap_err().contains("full.rows_per_second"));
    assert!(limits.set("full.rows_per_second", "-7").is_err());
    assert!(limits.set("snapshot", "7").is_err());
}

#[test]
fn kinds_come_from_outside() {
    let text = with("").replace("betamax", "beta");
    let findings = Migration::parse(&text, Path::new("s.toml"), &["beta"]).unwrap_err();
    assert_eq!(findings.iter().map(|f| f.key.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(["source.kind"]));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = Migration::parse(&text, Path::new("x.toml"), KINDS);
    }

    #[test]
    fn any_damage_is_read_or_refused_with_a_place(at in any::<prop::sample::Index>(), cut in 0usize..40, put in "[ -~\nü]{0,12}") {
        let whole = examples()[1];
        let at = at.index(whole.len());
        let mut text = whole.as_bytes()[..at].to_vec();
        text.extend_from_slice(put.as_bytes());
        text.extend_from_slice(&whole.as_bytes()[(at + cut).min(whole.len())..]);
        let text = String::from_utf8_lossy(&text);
        if let Err(findings) = read_example(&text) {
            prop_assert!(!findings.is_empty());
            let lines = text.split('\n').count();
            prop_assert!(findings.iter().all(|f| (1..=lines).contains(&f.line) && f.column > 0 && !f.message.is_empty()));
        }
    }

    #[test]
    fn any_values_in_any_places_are_read_or_refused(
        key in prop::sample::select(vec![
            "source.url", "source.password", "source.tls", "source.tls.mode", "migrate.stages", "migrate", "objects",
            "objects.columns", "limits.full", "limits.full.rows_per_second", "limits.snapshot", "retry.other",
            "log.budget", "log.kafka", "log.kafka.brokers", "log.kafka.sasl", "name",
        ]),
        value in prop::sample::select(vec![
            "1", "-1", "1.5", "true", "\"\"", "\"x\"", "[]", "[1]", "[\"x\"]", "[[]]", "[{}]", "{}", "{ x = 1 }",
            "1979-05-27", "99999999999999999999", "nan", "{ env = 1 }", "{ drop = 1, rename = [] }",
        ]),
    ) {
        let _ = Migration::parse(&format!("{key} = {value}\n"), Path::new("x.toml"), KINDS);
    }
}
