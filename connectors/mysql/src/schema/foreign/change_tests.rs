use super::*;
use crate::typemap::foreign::tests::{all, catalog, column, known, table};
use crate::typemap::map_table;
use drover_model::Position;
use drover_model::ddl::SchemaChange;
use drover_model::schema::{Action, IndexColumn, PlainDefault, PlainForeignKey, PlainIndex};

fn int(bytes: u8) -> DataType {
    DataType::Int { bytes, unsigned: false }
}

fn text(max: Option<u32>) -> DataType {
    DataType::Text { max, padded: false }
}

/// What is done here for tables that become others; `renamed` and `filled` are of the first.
fn made(before: &[&Table], after: &[&Table], renamed: &[(&str, &str)], filled: &[(&str, &str)]) -> Result<Vec<String>> {
    let known = known("9.7.0");
    let all_of = |tables: &[&Table]| tables.iter().map(|t| (*t).clone()).collect::<Vec<Table>>();
    let (before, after) = (&all_of(before), &all_of(after));
    let schemas = |tables: &[Table]| {
        let catalog = catalog(tables);
        let plans = tables.iter().zip(0..).map(|(t, id)| {
            let plan = map_table(&catalog, t, &all(t), &known).plan;
            TablePlan { id, ..plan }
        });
        let plans: Vec<TablePlan> = plans.collect();
        Schemas::new(catalog, plans)
    };
    let owned = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let (mut before_all, after_all) = (schemas(before), schemas(after));
    for (b, a) in std::sync::Arc::make_mut(&mut before_all.plans).iter_mut().zip(after_all.plans.iter()) {
        b.destination = a.destination.clone();
    }
    let change = TableChange {
        id: Some(0),
        before: before.first().cloned(),
        after: after.first().cloned(),
        plan: after_all.plans.first().cloned(),
        renamed: owned(renamed),
        anew: vec![],
        filled: owned(filled),
        clauses: vec![],
        apart: false,
        stopped: None,
    };
    let change = SchemaChange {
        verb: "ALTER TABLE".into(),
        statement: Some("ALTER TABLE it".into()),
        context: BTreeMap::new(),
        tables: vec![change],
        objects: vec![],
    };
    let at = Position { lineage: 0, order: vec![], resume: vec![], text: String::new() };
    let shift = Shift { change: &change, before: &before_all, after: &after_all, previous: &at, next: &at };
    Ok(statements(&shift, &known)?.into_iter().map(|m| m.sql).collect())
}

fn index(name: &str, columns: &[&str]) -> PlainIndex {
    let part = |c: &&str| IndexColumn { name: (*c).into(), prefix: None, descending: false };
    PlainIndex { name: name.into(), unique: false, columns: columns.iter().map(part).collect() }
}

#[test]
fn columns_come_go_and_change() {
    let old = table("t", vec![column("id", int(4)), column("a", int(4)), column("b", text(Some(9)))], &[&["id"]]);
    let mut new = table(
        "t",
        vec![column("id", int(4)), column("b", int(8)), column("c", text(Some(3))), column("d", text(None))],
        &[&["id"]],
    );
    new.columns[2].default = Some("'x'".into());
    new.columns[2].plain_default = Some(PlainDefault::Value("x".into()));
    new.columns[2].nullable = false;
    // The old b goes, a takes its name.
    let found = made(&[&old], &[&new], &[("a", "b")], &[("c", "it'"), ("d", "long")]).unwrap();
    let utf8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin";
    let wanted = [
        "ALTER TABLE `s`.`t` DROP COLUMN `b`".to_owned(),
        format!(
            "ALTER TABLE `s`.`t` CHANGE COLUMN `a` `b` bigint, ADD COLUMN `c` varchar(3) {utf8} NOT NULL DEFAULT 'it\\'', \
             ADD COLUMN `d` longtext {utf8} DEFAULT ('long')"
        ),
        format!("ALTER TABLE `s`.`t` MODIFY COLUMN `c` varchar(3) {utf8} NOT NULL DEFAULT 'x'"),
        format!("ALTER TABLE `s`.`t` MODIFY COLUMN `d` longtext {utf8}"),
    ];
    assert_eq!(found[..3], wanted[..3], "{found:#?}");
    assert!(made(&[&old], &[&old], &[], &[]).unwrap().is_empty());
    let mut narrower = old.clone();
    narrower.columns[2].data_type = text(Some(5));
    let refused = made(&[&old], &[&narrower], &[], &[]).unwrap_err();
    assert!(refused.to_string().contains("converted") && refused.to_string().contains("ALTER TABLE it"), "{refused}");
}

#[test]
fn indexes_and_foreign_keys() {
    let parent = table("p", vec![column("id", int(4))], &[&["id"]]);
    let mut old = table("t", vec![column("id", int(4)), column("a", int(4))], &[&["id"]]);
    old.plain_indexes = vec![index("by_a", &["a"])];
    old.plain_foreign_keys = vec![PlainForeignKey {
        name: "to_p".into(),
        columns: vec!["a".into()],
        parent: parent.name.clone(),
        references: vec!["id".into()],
        on_delete: Action::Cascade,
        on_update: Action::Restrict,
    }];
    let mut renamed = old.clone();
    renamed.plain_indexes = vec![index("on_a", &["a"])];
    let found = made(&[&old, &parent], &[&renamed, &parent], &[], &[]).unwrap();
    assert_eq!(found, ["ALTER TABLE `s`.`t` RENAME INDEX `by_a` TO `on_a`"]);
    let mut without = old.clone();
    without.plain_indexes.clear();
    let found = made(&[&old, &parent], &[&without, &parent], &[], &[]).unwrap();
    assert_eq!(found, ["ALTER TABLE `s`.`t` DROP INDEX `by_a`, ADD KEY (`a`)"], "the foreign key needs one");
    // A parent of another type has no foreign key here.
    let mut wider = parent.clone();
    wider.columns[0].data_type = int(8);
    let found = made(&[&parent, &old], &[&wider, &old], &[], &[]).unwrap();
    assert_eq!(
        found,
        ["ALTER TABLE `s`.`t` DROP FOREIGN KEY `to_p`", "ALTER TABLE `s`.`p` CHANGE COLUMN `id` `id` bigint"]
    );
    // A renamed column stays what it was to others.
    let mut other = parent.clone();
    other.columns[0].name = "number".into();
    other.keys[0].columns = vec!["number".into()];
    let mut follows = old.clone();
    follows.plain_foreign_keys[0].references = vec!["number".into()];
    let found = made(&[&parent, &old], &[&other, &follows], &[("id", "number")], &[]).unwrap();
    assert_eq!(found, ["ALTER TABLE `s`.`p` CHANGE COLUMN `id` `number` int"]);
}

#[test]
fn keys_and_counters() {
    let mut old = table("t", vec![column("id", int(4)), column("a", int(4))], &[&["id"]]);
    old.options.insert("counter:id".into(), "s.seq".into());
    let mut new = old.clone();
    new.keys[0].columns = vec!["a".into()];
    let found = made(&[&old], &[&new], &[], &[]).unwrap();
    assert_eq!(found, ["ALTER TABLE `s`.`t` DROP PRIMARY KEY, ADD PRIMARY KEY (`a`), ADD KEY (`id`)"]);
    let mut gone = table("t", vec![column("a", int(4))], &[]);
    gone.options.clear();
    let found = made(&[&old], &[&gone], &[], &[]).unwrap();
    assert_eq!(found, ["ALTER TABLE `s`.`t` DROP PRIMARY KEY, DROP COLUMN `id`"]);
}
