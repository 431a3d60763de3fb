use super::*;
use crate::flavor::Version;
use crate::typemap::Known;
use drover_model::schema::Catalog;
use std::collections::BTreeSet;

fn follower() -> Follower {
    let known = Known {
        version: Version::parse("9.7.0").unwrap(),
        collations: BTreeSet::new(),
        charsets: ["utf8mb4".to_owned()].into(),
        defaults: BTreeMap::from([("utf8mb4".to_owned(), "utf8mb4_general_ci".to_owned())]),
        engines: BTreeSet::new(),
        lower_case: false,
    };
    let env = Env { known, explicit_timestamps: true, silent: false, modes: Modes::default() };
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
    Follower::new(Schemas::new(catalog, Vec::new()), selection, env, false)
}

impl Follower {
    fn run(&mut self, text: &str) -> Result<Option<SchemaChange>, Refused> {
        let query = Query {
            database: b"d",
            text: text.as_bytes(),
            ansi_quotes: false,
            no_backslash: false,
            mode: 0,
            zone: None,
            micros: None,
            collation: None,
        };
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
}
