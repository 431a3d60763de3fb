use super::*;
use crate::ddl::parse::{Statement, parse};
use crate::ddl::text::{Modes, plain};
use crate::flavor::Version;
use crate::typemap::Known;
use std::collections::BTreeSet;

fn env(version: &str) -> Env {
    let sets = ["utf8mb4", "utf8mb3", "latin1", "ascii", "binary", "ucs2"];
    let defaults = sets.iter().map(|s| ((*s).to_owned(), format!("{s}_general_ci"))).collect();
    let known = Known {
        version: Version::parse(version).unwrap(),
        collations: BTreeSet::new(),
        charsets: sets.iter().map(|s| (*s).to_owned()).collect(),
        defaults,
        engines: BTreeSet::new(),
        lower_case: false,
    };
    Env { known, names: Default::default(), explicit_timestamps: true, silent: true, modes: Modes::default() }
}

fn made(text: &str, env: &Env) -> Table {
    let texts = Texts { charset: "utf8mb4".into(), collation: "utf8mb4_general_ci".into() };
    match parse(&plain(text, Modes::default()), "d").unwrap() {
        Statement::Create { table, body, .. } => create(&table, &body, &texts, env).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn altered(table: &Table, text: &str, env: &Env) -> Result<Altered, String> {
    match parse(&plain(text, Modes::default()), "d").unwrap() {
        Statement::Alter { actions, .. } => alter(table, &actions, env),
        other => panic!("{other:?}"),
    }
}

fn types(table: &Table) -> Vec<(&str, &str)> {
    table.columns.iter().map(|c| (c.name.as_str(), c.origin_type.as_str())).collect()
}

fn parts(table: &Table) -> Vec<String> {
    let parts = table.parts.iter().filter(|p| p.kind != "column");
    parts.map(|p| format!("{} {} {}", p.kind, p.name, p.definition)).collect()
}

#[test]
fn types_as_the_catalogue_tells_them() {
    let env = env("9.7.0");
    let t = made(
        "create table t (a integer unsigned zerofill, b bool, c dec, d real, e char, f varchar(5) character set latin1, g text(70000), \
         h nchar(3), i text(100), j varchar(4) character set binary, k enum('x','y'), l bit, m double precision, n float(30), o year(4), p json)",
        &env,
    );
    assert_eq!(
        types(&t),
        [
            ("a", "int unsigned zerofill"),
            ("b", "tinyint(1)"),
            ("c", "decimal(10,0)"),
            ("d", "double"),
            ("e", "char(1) character set utf8mb4"),
            ("f", "varchar(5) character set latin1"),
            ("g", "mediumtext character set utf8mb4"),
            ("h", "char(3) character set utf8mb3"),
            ("i", "text character set utf8mb4"),
            ("j", "varbinary(4)"),
            ("k", "enum('x','y') character set utf8mb4"),
            ("l", "bit(1)"),
            ("m", "double"),
            ("n", "double"),
            ("o", "year"),
            ("p", "json"),
        ]
    );
    assert_eq!(t.columns[5].collation.as_deref(), Some("latin1_general_ci"));
    let json = made("create table t (p json)", &self::env("11.8.2-MariaDB"));
    assert_eq!(types(&json), [("p", "longtext character set utf8mb4")]);
    assert_eq!(json.columns[0].data_type, drover_model::schema::DataType::Json);
}

#[test]
fn columns_keys_and_names_follow() {
    let env = env("9.7.0");
    let t = made(
        "create table t (id int primary key, a int, b varchar(10) unique, g int as (a + 1), key (a), check (a > 0), \
         foreign key (a) references u (id) on delete cascade)",
        &env,
    );
    assert_eq!(
        parts(&t),
        [
            "primary key PRIMARY (`id`)",
            "unique b (`b`)",
            "index a (`a`)",
            "check t_chk_1 (`a` > 0)",
            "foreign key t_ibfk_1 (`a`) REFERENCES `d`.`u` (`id`) on delete cascade"
        ]
    );
    assert!(!t.columns[0].nullable && t.keys[0].identifies && t.unlogged.len() == 1);
    let changed = altered(
        &t,
        "alter table t change a aa bigint first, drop b, add c int default 3 after aa, add index (c)",
        &env,
    )
    .unwrap();
    assert_eq!(types(&changed.table)[..3], [("aa", "bigint"), ("c", "int"), ("id", "int")]);
    assert_eq!(changed.renamed, [("a".to_owned(), "aa".to_owned())]);
    assert_eq!(changed.table.columns[3].generated.as_deref(), Some("(`aa` + 1)"));
    assert_eq!(
        parts(&changed.table),
        [
            "primary key PRIMARY (`id`)",
            "index a (`aa`)",
            "check t_chk_1 (`aa` > 0)",
            "foreign key t_ibfk_1 (`aa`) REFERENCES `d`.`u` (`id`) on delete cascade",
            "index c (`c`)"
        ]
    );
    let converted = altered(&t, "alter table t convert to character set latin1", &env).unwrap();
    assert_eq!(types(&converted.table)[2], ("b", "varchar(10) character set latin1"));
    assert_eq!(converted.table.options["collation"], "latin1_general_ci");
    let again = altered(&t, "alter table t drop g, add g int", &env).unwrap();
    assert_eq!(again.anew, ["g"]);
}

#[test]
fn what_cannot_be_told_is_refused() {
    let env = env("9.7.0");
    let t = made("create table t (id int primary key, a int, key (a))", &env);
    for text in [
        "alter table t add b varchar(40) default (uuid())",
        "alter table t drop nothing",
        "alter table t add a int",
        "alter table t drop a, add a int",
        "alter table t add b frob",
    ] {
        assert!(altered(&t, text, &env).is_err(), "{text}");
    }
    assert!(
        altered(&t, "alter table t add b datetime(3) default now(3), add c json default (json_array())", &env).is_ok()
    );
    assert!(altered(&t, "alter table t drop column if exists nothing", &env).is_ok());
}

#[test]
fn what_exists_is_what_was_there_before_the_statement() {
    let env = env("11.8.0-MariaDB");
    let t = made("create table t (a int, b int)", &env);
    let text = "alter table t add column if not exists c int default 4, modify column if exists c bigint, \
                drop column b, add column if not exists b bigint";
    let after = altered(&t, text, &env).unwrap();
    assert_eq!(types(&after.table), [("a", "int"), ("c", "int")]);
}
