use super::*;
use crate::binlog::event::Defaults;
use crate::flavor::Version;
use crate::typemap::Known;
use drover_model::schema::Catalog;
use std::collections::BTreeSet;

fn follower() -> Follower {
    let known = Known {
        version: Version::parse("9.7.0").unwrap(),
        collations: BTreeSet::new(),
        charsets: ["utf8mb4".to_owned(), "latin1".to_owned()].into(),
        defaults: BTreeMap::from([("utf8mb4".to_owned(), "utf8mb4_general_ci".to_owned())]),
        engines: BTreeSet::new(),
        lower_case: false,
    };
    let names = [(45, "utf8mb4_general_ci"), (255, "utf8mb4_0900_ai_ci")].map(|(n, name)| (n, name.to_owned()));
    let env = Env {
        known,
        names: std::sync::Arc::new(names.into()),
        explicit_timestamps: true,
        silent: false,
        modes: Modes::default(),
    };
    let database = Object {
        kind: "database".into(),
        schema: "d".into(),
        name: "d".into(),
        phase: Phase::Base,
        definition: String::new(),
        options: BTreeMap::from([
            ("charset".to_owned(), "utf8mb4".to_owned()),
            ("collation".to_owned(), "utf8mb4_general_ci".to_owned()),
        ]),
        needs: Vec::new(),
    };
    let catalog = Catalog {
        origin: "mysql".into(),
        version: 90_700,
        version_text: String::new(),
        database: "d".into(),
        scope: Some("d".into()),
        home: None,
        identity: String::new(),
        tables: Vec::new(),
        objects: vec![database],
    };
    let selection = Selection::compile_within(&[], Some("d")).unwrap();
    Follower::new(Schemas::new(catalog, Vec::<drover_model::TablePlan>::new()), selection, env, false)
}

fn query_of(text: &str) -> Query<'_> {
    Query {
        database: b"d",
        text: text.as_bytes(),
        ansi_quotes: false,
        no_backslash: false,
        mode: 0,
        zone: None,
        micros: None,
        collation: None,
        steps: false,
        explicit_timestamps: None,
        defaults: Default::default(),
    }
}

impl Follower {
    fn run(&mut self, text: &str) -> Result<Option<SchemaChange>, Refused> {
        let query = query_of(text);
        let query::Statement::Schema(change) = query::classify(&query, "d", text) else { panic!("{text}") };
        let followed = self.follow(&change, &Written::default())?;
        if let Some(change) = &followed {
            self.apply(change);
        }
        Ok(followed)
    }

    fn sources(&self) -> Vec<(u32, String, usize)> {
        let live = self.schemas.plans.iter().filter(|p| !p.is_gone());
        live.map(|p| (p.id, p.source.name.clone(), p.columns.len())).collect()
    }
}

#[test]
fn tables_come_change_and_go() {
    let mut f = follower();
    f.run("create table t (id int primary key, a int)").unwrap().unwrap();
    assert!(f.run("create table e.other (a int)").unwrap().is_none());
    f.run("alter table t add b int first").unwrap().unwrap();
    f.run("create table u like t").unwrap().unwrap();
    assert_eq!(f.sources(), [(0, "t".into(), 3), (1, "u".into(), 3)]);
    assert_eq!((f.schemas.plans[0].version, f.schemas.plans[0].key.clone()), (2, vec![1]));
    let exchanged = f.run("rename table t to x, u to t, x to u").unwrap().unwrap();
    assert_eq!(exchanged.tables.len(), 2);
    assert_eq!(f.sources(), [(0, "u".into(), 3), (1, "t".into(), 3)]);
    f.run("drop table if exists u, nothing").unwrap().unwrap();
    assert_eq!(f.sources(), [(1, "t".into(), 3)]);
    assert!(f.run("rename table t to e.t").is_err());
    assert!(f.run("rename table e.x to y").is_err());
    assert!(f.run("drop database d").is_err());
    assert!(f.run("alter table e.x frobnicate").unwrap().is_none());
    assert!(f.run("alter table t frobnicate").is_err());
}

#[test]
fn an_online_tool_exchanges_the_structure_only() {
    let mut f = follower();
    f.run("create table t (id int primary key, a int)").unwrap();
    let helper = f.run("create table _t_gho like t").unwrap().unwrap();
    assert!(!helper.acts());
    f.run("alter table _t_gho add b int, modify a bigint").unwrap();
    let exchanged = f.run("rename table t to _t_del, _t_gho to t").unwrap().unwrap();
    assert!(exchanged.acts());
    assert_eq!(f.sources(), [(0, "t".into(), 3)]);
    f.run("drop table _t_del").unwrap();
    assert_eq!(f.schemas.catalog.tables.len(), 1);
    f.run("create table _t_new like t").unwrap();
    f.run("alter table _t_new rename column a to c").unwrap();
    assert!(f.run("rename table t to _t_old, _t_new to t").is_err());
    f.run("drop table _t_new").unwrap();
    // What the tool's INSERT … SELECT put into a new column is in no event of the table.
    for (kind, computed) in [
        ("datetime default current_timestamp", true),
        ("char(36) default (uuid())", true),
        ("int auto_increment unique", true),
        ("int default 7", false),
        ("varchar(5) default null", false),
    ] {
        f.run("create table _t_new like t").unwrap();
        // Some are refused at once.
        let mut g = f.clone();
        let refused = g.run(&format!("alter table _t_new add z {kind}")).is_err();
        assert_eq!(refused || g.run("rename table t to _t_old, _t_new to t").is_err(), computed, "{kind}");
        f.run("drop table _t_new").unwrap();
    }
}

#[test]
fn foreign_keys_follow_what_they_refer_to() {
    let mut f = follower();
    f.run("create table p (id int primary key)").unwrap();
    f.run("create table c (id int primary key, p int, constraint k foreign key (p) references p (id))").unwrap();
    f.run("alter table p rename column id to number").unwrap();
    let key = |f: &Follower, name: &str| {
        let key = f.schemas.catalog.table(&TableName::new("d", name)).unwrap().plain_foreign_keys[0].clone();
        (key.parent.name, key.references[0].clone())
    };
    assert_eq!(key(&f, "c"), ("p".into(), "number".into()));
    // Both in one statement.
    f.run("rename table p to x, c to p, x to c").unwrap();
    assert_eq!(key(&f, "p"), ("c".into(), "number".into()));
}

#[test]
fn the_present_moment_is_the_statements() {
    let mut f = follower();
    f.run("create table t (id int primary key)").unwrap();
    let text = "alter table t add a datetime(3) default now(3), add b timestamp default current_timestamp, add c datetime, add d int default 1";
    let query = query_of(text);
    let query::Statement::Schema(change) = query::classify(&query, "d", text) else { panic!("{text}") };
    let mut written =
        Written { seconds: 1_700_000_000, micros: 123_456, zone: Some("-01:30".into()), ..Written::default() };
    let filled = f.follow(&change, &written).unwrap().unwrap().tables[0].filled.clone();
    let wanted = [("a", "2023-11-14 20:43:20.123"), ("b", "2023-11-14 22:13:20+00")];
    assert_eq!(filled, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())));
    written.zone = Some("Europe/Berlin".into());
    let filled = f.follow(&change, &written).unwrap().unwrap().tables[0].filled.clone();
    assert_eq!(filled.len(), 1, "an instant needs no zone");
}

/// A statement of a session in this zone, at this second, where the server's own zone is two hours ahead until second 1000.
fn in_zone(f: &Follower, text: &str, zone: Option<&str>, seconds: u32) -> Result<SchemaChange, Refused> {
    let query = query_of(text);
    let query::Statement::Schema(change) = query::classify(&query, "d", text) else { panic!("{text}") };
    let written = Written { seconds, zone: zone.map(str::to_owned), ..Written::default() };
    Ok(f.follow(&change, &written)?.unwrap())
}

#[test]
fn what_hangs_on_a_zone_is_made_in_it_or_refused() {
    let mut f = follower();
    let options = &mut std::sync::Arc::make_mut(&mut f.schemas.catalog).objects[0].options;
    options.insert("server.zone_seconds".into(), "7200".into());
    options.insert("server.zone_until".into(), "1000".into());
    f.run("create table t (id int primary key, d datetime, s timestamp null)").unwrap();
    let convert = "alter table t modify d timestamp null";
    let literal = "alter table t add m timestamp not null default '2026-10-25 02:30:00'";
    let moment = "alter table t add n datetime default current_timestamp";
    let none =
        "alter table t add x int default 7, add y timestamp default current_timestamp, modify s timestamp(3) null";
    let needed = |change: SchemaChange| change.context.contains_key(super::zone::NEEDED);
    for text in [convert, literal, moment, none] {
        assert!(!needed(in_zone(&f, text, Some("+02:00"), 2000).unwrap()), "{text}");
        assert!(!needed(in_zone(&f, text, Some("UTC"), 2000).unwrap()), "{text}");
        // By a name: at the destination as well, or not at all.
        assert_eq!(needed(in_zone(&f, text, Some("Europe/Berlin"), 2000).unwrap()), text != none, "{text}");
        // The server's own: what is known of it is its distance to UTC before the change of clocks.
        let refused = |seconds| in_zone(&f, text, Some("SYSTEM"), seconds).is_err();
        assert_eq!((refused(999), refused(1000)), (text == convert || text == literal, text != none), "{text}");
        assert_eq!(refused(1000), in_zone(&f, text, None, 1000).is_err(), "{text}");
    }
    let change = in_zone(&f, moment, Some("SYSTEM"), 999).unwrap();
    assert_eq!(change.context.get("time_zone").map(String::as_str), Some("+02:00"));
    assert_eq!(change.tables[0].filled, [("n".to_owned(), "1970-01-01 02:16:39".to_owned())]);
    assert_eq!(in_zone(&f, none, None, 1000).unwrap().context.get("time_zone"), None);
    // Another kind of database is told the default as the statement has it.
    std::sync::Arc::make_mut(&mut f.schemas.plans)[0].format = RowFormat::Canonical;
    let why = in_zone(&f, literal, Some("+02:00"), 1).unwrap_err().why;
    assert!(why.contains("column m") && why.contains("SET time_zone"), "{why}");
    assert!(in_zone(&f, literal, Some("Europe/Berlin"), 1).is_err());
    assert!(in_zone(&f, literal, Some("+00:00"), 1).is_ok());
}

#[test]
fn another_kind_converts_nothing() {
    let mut f = follower();
    f.run("create table t (id int primary key, a int, b varchar(9))").unwrap();
    f.run("alter table t modify a smallint").unwrap().unwrap();
    std::sync::Arc::make_mut(&mut f.schemas.plans)[0].format = RowFormat::Canonical;
    f.run("alter table t modify a bigint, change b c varchar(20)").unwrap().unwrap();
    let refused = f.run("alter table t modify a int").unwrap_err();
    assert!(refused.why.contains("column a was converted from bigint to int"), "{}", refused.why);
    assert!(f.run("alter table t change c b varchar(9)").is_err());
    f.run("alter table t drop column a, add column a int").unwrap().unwrap();
    let refused = f.run("alter table t modify c varchar(20) character set latin1").unwrap_err();
    assert!(refused.why.contains("column c was converted"), "{}", refused.why);
}

#[test]
fn numbers_of_rows_that_are_there_are_the_same_or_refused() {
    let add = |table: &str, steps: bool| {
        let mut f = follower();
        f.run(table).unwrap();
        let text = "alter table t add n int not null auto_increment first, add key (n)";
        let query = query_of(text);
        let query::Statement::Schema(change) = query::classify(&query, "d", text) else { panic!("{text}") };
        f.follow(&change, &Written { steps, ..Written::default() }).map(|c| c.unwrap().tables.len()).map_err(|e| e.why)
    };
    assert_eq!(add("create table t (a int, b varbinary(9), primary key (b, a))", false), Ok(1));
    assert_eq!(
        add("create table t (a varchar(9) character set utf8mb4 collate utf8mb4_bin primary key)", false),
        Ok(1)
    );
    for (table, steps, why) in [
        ("create table t (a int primary key)", true, "by steps of the session"),
        ("create table t (a int)", false, "happen to be stored"),
        ("create table t (a int not null unique)", false, "happen to be stored"),
        ("create table t (a varchar(9) primary key)", false, "the order of the texts in a"),
    ] {
        let refused = add(table, steps).unwrap_err();
        assert!(refused.contains(why) && refused.contains("column n"), "{table}: {refused}");
    }
    // Columns that have their values already.
    let mut f = follower();
    f.run("create table t (a int not null unique, b int)").unwrap();
    f.run("alter table t modify a int auto_increment").unwrap().unwrap();
    f.run("alter table t rename column a to c").unwrap().unwrap();
    f.run("create table u (a int auto_increment primary key)").unwrap().unwrap();
}

#[test]
fn a_table_without_transactions_is_refused() {
    let mut f = follower();
    assert!(f.run("create table t (a int primary key) engine = myisam").unwrap_err().why.contains("myisam"));
    f.run("create table t (a int primary key) engine = innodb").unwrap().unwrap();
    assert!(f.run("alter table t engine = MEMORY").unwrap_err().why.contains("no transactions"));
    f.run("alter table t engine = InnoDB, add b int").unwrap().unwrap();
    // Its engine is no matter to another kind of database.
    std::sync::Arc::make_mut(&mut f.schemas.plans)[0].format = RowFormat::Canonical;
    f.run("alter table t engine = MyISAM").unwrap();
}

#[test]
fn new_tables_have_the_defaults_of_their_database() {
    let mut f = follower();
    let alter = |f: &mut Follower, text: &str| {
        let query = query_of(text);
        let query::Statement::Database { name, charset, collation } = query::classify(&query, "d", text) else {
            panic!("{text}")
        };
        let name = name.unwrap_or_else(|| "d".into());
        let change = f.database(&name, charset, collation, text, &Written::default());
        if let Some(change) = &change {
            f.apply(change);
        }
        change.is_some()
    };
    let now = |f: &mut Follower| {
        f.run("create table t (a varchar(5) primary key)").unwrap();
        let table = f.schemas.catalog.tables[0].clone();
        f.run("drop table t").unwrap();
        (table.columns[0].origin_type.clone(), table.columns[0].collation.clone().unwrap_or_default())
    };
    for (text, changes, charset, collation) in [
        ("alter database d default character set = latin1", true, "latin1", "latin1_general_ci"),
        ("alter schema `d` collate 'utf8mb4_bin'", true, "utf8mb4", "utf8mb4_bin"),
        ("alter database collate utf8mb4_bin", false, "utf8mb4", "utf8mb4_bin"),
        ("alter database other charset latin1", false, "utf8mb4", "utf8mb4_bin"),
        ("alter database d encryption = 'Y' read only = 0", false, "utf8mb4", "utf8mb4_bin"),
        ("ALTER DATABASE d CHARSET latin1 COLLATE = latin1_bin", true, "latin1", "latin1_bin"),
    ] {
        assert_eq!(alter(&mut f, text), changes, "{text}");
        assert_eq!(now(&mut f), (format!("varchar(5) character set {charset}"), collation.to_owned()), "{text}");
    }
}

#[test]
fn what_the_session_said_of_defaults_holds() {
    let made = |written: &Written| {
        let mut f = follower();
        let text = "create table t (a varchar(5) character set utf8mb4, b timestamp, c timestamp)";
        let query = query_of(text);
        let query::Statement::Schema(change) = query::classify(&query, "d", text) else { panic!("{text}") };
        f.follow(&change, written).map(|c| f.apply(&c.unwrap())).map_err(|e| e.why).unwrap();
        let columns = f.schemas.catalog.tables[0].columns.clone();
        (columns[0].collation.clone().unwrap(), columns[1].nullable, columns[2].nullable)
    };
    assert_eq!(made(&Written::default()), ("utf8mb4_general_ci".to_owned(), true, true));
    let query = Query {
        defaults: Defaults { utf8mb4: Some(255), pairs: &[45, 0, 9, 0] },
        explicit_timestamps: Some(false),
        ..query_of("")
    };
    assert_eq!(made(&Written::of(&query, 0)), ("utf8mb4_0900_ai_ci".to_owned(), false, false));
    let query = Query {
        defaults: Defaults { utf8mb4: None, pairs: &[9, 0, 45, 0] },
        explicit_timestamps: Some(true),
        ..query_of("")
    };
    assert_eq!(made(&Written::of(&query, 0)), ("utf8mb4_general_ci".to_owned(), true, true));
}
