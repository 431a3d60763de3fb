use proptest::prelude::*;

use super::*;
use crate::plan::PlanColumn;
use crate::schema::DataType;

fn block(include: &[&str]) -> ObjectRule {
    ObjectRule { include: include.iter().map(|s| (*s).to_owned()).collect(), ..ObjectRule::default() }
}

fn excluding(mut block: ObjectRule, exclude: &[&str]) -> ObjectRule {
    block.exclude = exclude.iter().map(|s| (*s).to_owned()).collect();
    block
}

fn renamed(mut block: ObjectRule, rename: &str) -> ObjectRule {
    block.rename = Some(rename.to_owned());
    block
}

fn columns(drop: &[&str], rename: &[(&str, &str)]) -> Option<ColumnRules> {
    Some(ColumnRules {
        include: None,
        drop: drop.iter().map(|s| (*s).to_owned()).collect(),
        rename: rename.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        ..ColumnRules::default()
    })
}

fn compile(blocks: &[ObjectRule]) -> Selection {
    Selection::compile(blocks).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn destination(selection: &Selection, schema: &str, table: &str) -> Option<String> {
    selection.decide(schema, table, &["id"]).unwrap().map(|c| format!("{}.{}", c.schema, c.table))
}

#[test]
fn no_block_selects_everything_as_it_is() {
    let selection = compile(&[]);
    let choice = selection.decide("s", "t", &["b", "a"]).unwrap().unwrap();
    assert_eq!((choice.schema.as_str(), choice.table.as_str()), ("s", "t"));
    let names: Vec<_> = choice.columns.iter().map(|c| (c.source.as_str(), c.destination.as_str())).collect();
    assert_eq!(names, [("b", "b"), ("a", "a")]);
    assert_eq!((choice.filter, choice.operations), (None, Operations::ALL));
    assert!(selection.matches_whole_schema("s") && selection.selects_object("s", "view"));
    assert_eq!(selection.unmatched(&[Candidate { schema: "s", table: "t", columns: &[] }]), [] as [String; 0]);
}

#[test]
fn excludes_of_any_block_take_from_all() {
    let selection = compile(&[
        excluding(block(&["public.*"]), &["public.audit_*"]),
        block(&["public.audit_login", "other.t?"]),
        excluding(block(&[]), &["other.t2"]),
    ]);
    let selected = |schema, table| destination(&selection, schema, table).is_some();
    assert!(selected("public", "orders"));
    assert!(!selected("public", "audit_x"));
    assert!(!selected("public", "audit_login"), "a name does not outdo an exclude");
    assert!(selected("other", "t1") && !selected("other", "t2") && !selected("other", "t11"));
    assert!(!selected("Public", "orders"), "names are exact");
}

#[test]
fn a_name_beats_a_pattern_and_a_later_block_an_earlier_one() {
    let with_filter = |include: &str, filter: &str| ObjectRule { filter: Some(filter.to_owned()), ..block(&[include]) };
    let selection = compile(&[
        with_filter("a.b", "first name"),
        with_filter("a.b", "second name"),
        with_filter("a.*", "first pattern"),
        with_filter("*.*", "second pattern"),
    ]);
    let filter = |schema, table| selection.decide(schema, table, &["id"]).unwrap().unwrap().filter.unwrap();
    assert_eq!(filter("a", "b"), "second name");
    assert_eq!(filter("a", "c"), "second pattern");
    assert_eq!(filter("x", "c"), "second pattern");
}

#[test]
fn each_setting_comes_from_the_best_block_that_states_it() {
    let inserts = Operations { insert: true, ..NO_OPERATIONS };
    let mut schema = renamed(block(&["public.*"]), "crm.*");
    schema.operations = Some(inserts);
    let mut table = block(&["public.customer"]);
    table.filter = Some("x > 1".to_owned());
    let choice = compile(&[table, schema]).decide("public", "customer", &["id"]).unwrap().unwrap();
    assert_eq!((choice.schema.as_str(), choice.table.as_str()), ("crm", "customer"));
    assert_eq!(choice.filter.as_deref(), Some("x > 1"));
    assert_eq!(choice.operations, inserts);
}

#[test]
fn renames() {
    let selection = compile(&[
        renamed(block(&["public.*"]), "crm.*"),
        renamed(block(&["public.customer"]), "sales.client"),
        renamed(block(&["x.\"a.b\""]), "y.\"c.*\""),
    ]);
    assert_eq!(destination(&selection, "public", "customer").as_deref(), Some("sales.client"));
    assert_eq!(destination(&selection, "public", "orders").as_deref(), Some("crm.orders"));
    assert_eq!(destination(&selection, "x", "a.b").as_deref(), Some("y.c.*"));
    assert_eq!(destination(&selection, "x", "a"), None);
    assert_eq!(selection.destination_schema("public"), "crm");
    assert_eq!(selection.destination_schema("x"), "x");
}

#[test]
fn faulty_blocks() {
    let cases = [
        (block(&["public"]), "\"public\" is no schema.table; write public.* for all of it"),
        (block(&["*"]), "\"*\" is no schema.table; write *.* for all of it"),
        (block(&[".t"]), "\".t\": a part is empty; write schema.table"),
        (block(&["s."]), "\"s.\": a part is empty; write schema.table"),
        (block(&[""]), "\"\": a part is empty; write schema.table"),
        (block(&["s.\"\""]), "\"s.\"\"\": a part is empty; write schema.table"),
        (block(&["s. t"]), "\"s. t\": a quote or space stands at a part's edge; put the whole part in double quotes"),
        (
            block(&["s.a\"b\""]),
            "\"s.a\"b\"\": a quote or space stands at a part's edge; put the whole part in double quotes",
        ),
        (block(&["s.\"a\"*"]), "\"s.\"a\"*\": something follows a closing quote; put the whole part in double quotes"),
        (block(&[]), "the block includes nothing; add include = \"schema.table\""),
        (renamed(block(&["s.t"]), "client"), "\"client\" is no schema.table; write the new schema.table"),
        (renamed(block(&["s.t"]), "s.*"), "\"s.*\" is no name; write the new schema.table"),
        (
            renamed(block(&["s.a*"]), "s.b"),
            "rename needs an include of exactly one table, or of one whole schema; give each table a block of its own, or \
             write include = \"schema.*\" with rename = \"new.*\"",
        ),
        (
            renamed(block(&["*.*"]), "s.*"),
            "rename needs an include of exactly one table, or of one whole schema; give each table a block of its own, or \
             write include = \"schema.*\" with rename = \"new.*\"",
        ),
        (
            ObjectRule { columns: columns(&["a"], &[("a", "b")]), ..block(&["s.t"]) },
            "column \"a\" is dropped and also renamed or included; decide for one",
        ),
        (ObjectRule { columns: columns(&[""], &[]), ..block(&["s.t"]) }, "a column's name is empty; write its name"),
        (
            ObjectRule { operations: Some(NO_OPERATIONS), ..block(&["s.t"]) },
            "no operation is selected; name one, or exclude the table",
        ),
    ];
    for (rule, wanted) in cases {
        let errors = Selection::compile(std::slice::from_ref(&rule)).unwrap_err();
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [wanted], "{rule:?}");
    }
}

#[test]
fn quoted_parts_are_names() {
    let selection = compile(&[block(&["\"a.b\".\"x*\"", "s.\"say \"\"hi\"\"\""])]);
    assert!(destination(&selection, "a.b", "x*").is_some());
    assert!(destination(&selection, "a.b", "xy").is_none());
    assert!(destination(&selection, "s", "say \"hi\"").is_some());
}

#[test]
fn columns_move_in_the_source_s_order() {
    let rule = ObjectRule { columns: columns(&["fax"], &[("first", "given")]), ..block(&["s.t"]) };
    let choice = compile(&[rule]).decide("s", "t", &["id", "fax", "first"]).unwrap().unwrap();
    let names: Vec<_> = choice.columns.iter().map(|c| (c.source.as_str(), c.destination.as_str())).collect();
    assert_eq!(names, [("id", "id"), ("first", "given")]);
    let mut rules = columns(&[], &[]).unwrap();
    rules.include = Some(vec!["b".to_owned(), "a".to_owned()]);
    let rule = ObjectRule { columns: Some(rules), ..block(&["s.t"]) };
    let choice = compile(&[rule]).decide("s", "t", &["a", "b", "c"]).unwrap().unwrap();
    assert_eq!(choice.columns.iter().map(|c| c.source.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn columns_that_do_not_fit() {
    let errors = |rules: Option<ColumnRules>, include: &str, names: &[&str]| -> Vec<String> {
        let rule = ObjectRule { columns: rules, ..block(&[include]) };
        let errors = compile(&[rule]).decide("s", "t", names).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        errors(columns(&["fax"], &[("a", "b")]), "s.t", &["id"]),
        ["s.t: there is no column \"a\"; its columns are id", "s.t: there is no column \"fax\"; its columns are id"]
    );
    assert_eq!(
        errors(columns(&["fax"], &[("a", "b")]), "s.*", &["id"]),
        [] as [String; 0],
        "a pattern's tables differ"
    );
    assert_eq!(
        errors(columns(&[], &[("a", "b")]), "s.t", &["a", "b"]),
        ["s.t: columns \"a\" and \"b\" would both be \"b\"; rename or drop one of them"]
    );
    assert_eq!(
        errors(columns(&[], &[("a", "b"), ("b", "a")]), "s.t", &["a", "b"]),
        [] as [String; 0],
        "a swap is fine"
    );
    assert_eq!(errors(columns(&["a"], &[]), "s.t", &["a"]), ["s.t: no column is left; keep one, or exclude the table"]);
}

#[test]
fn what_acts_on_nothing_is_reported() {
    let rule = |include: &str, drop: &str| ObjectRule { columns: columns(&[drop], &[]), ..block(&[include]) };
    let selection = compile(&[
        excluding(block(&["public.*", "gone.*"]), &["public.audit_*", "public.log"]),
        block(&["public.log"]),
        rule("public.o*", "fax"),
        rule("public.*", "id"),
    ]);
    let all = [
        Candidate { schema: "public", table: "orders", columns: &["id"] },
        Candidate { schema: "public", table: "log", columns: &["id"] },
    ];
    assert_eq!(
        selection.unmatched(&all),
        [
            "include \"gone.*\" matches no table",
            "include \"public.log\" matches only tables that are excluded",
            "no table of include \"public.o*\" has a column \"fax\"",
            "exclude \"public.audit_*\" matches no table",
        ]
    );
}

#[test]
fn tables_that_meet_in_one_are_found() {
    let selection = compile(&[block(&["*.*"]), renamed(block(&["a.t"]), "b.u")]);
    let tables = [("a", "t"), ("b", "u"), ("b", "t")];
    let choices: Vec<_> = tables.iter().filter_map(|(s, t)| selection.decide(s, t, &["id"]).unwrap()).collect();
    assert_eq!(choices.len(), 3);
    assert_eq!(
        collisions(&choices),
        [Collision {
            destination: TableName::new("b", "u"),
            sources: vec![TableName::new("a", "t"), TableName::new("b", "u")],
        }]
    );
    assert_eq!(collisions(&choices[1..]), []);
}

#[test]
fn whole_schemas() {
    let selection =
        compile(&[block(&["a.*", "b.t*", "c.t", "d_?.**"]), excluding(block(&["e.*", "f.*"]), &["a.v_*", "e.*"])]);
    for (schema, wanted) in
        [("a", true), ("b", false), ("c", false), ("d_1", true), ("e", false), ("f", true), ("g", false)]
    {
        assert_eq!(selection.matches_whole_schema(schema), wanted, "{schema}");
    }
    assert!(selection.selects_object("a", "fn"));
    assert!(!selection.selects_object("a", "v_x") && !selection.selects_object("b", "tx"));
}

#[test]
fn columns_stay_as_they_move() {
    let moves = |source: &str, destination: &str, misfit| PlanColumn {
        destination: destination.to_owned(),
        misfit,
        ..PlanColumn::new(source, DataType::Other, "")
    };
    let before = TablePlan {
        destination: TableName::new("d", "t"),
        left_out: vec!["left".into()],
        key: vec![0],
        ..TablePlan::new(
            0,
            TableName::new("s", "t"),
            vec![
                moves("a", "a", Misfit::Fail),
                moves("b", "x", Misfit::Null),
                moves("gone", "gone", Misfit::Fail),
                moves("p", "p", Misfit::Clamp),
                moves("q", "q", Misfit::Text),
            ],
        )
    };
    // One is new, one was left out, one has another name, and two have exchanged theirs.
    let names = ["new", "a", "left", "c", "p", "q"];
    let choice = compile(&[]).decide("s", "t", &names).unwrap().unwrap();
    let renamed = [("b", "c"), ("p", "q"), ("q", "p")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let kept = choice.clone().kept(&before, &renamed);
    let columns = kept.columns.iter().map(|c| (c.source.as_str(), c.destination.as_str(), c.misfit));
    assert_eq!(
        columns.collect::<Vec<_>>(),
        [("a", "a", Misfit::Fail), ("c", "x", Misfit::Null), ("p", "q", Misfit::Text), ("q", "p", Misfit::Clamp)]
    );
    assert_eq!(TableChoice { columns: choice.columns.clone(), ..kept }, choice, "nothing else changes");
}

/// The definition of the two wildcards, by recursion.
fn naive(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => naive(rest, name) || name.split_first().is_some_and(|(_, more)| naive(pattern, more)),
        (Some((p, rest)), Some((n, more))) => (*p == '?' || p == n) && naive(rest, more),
        _ => false,
    }
}

#[test]
fn long_patterns_take_no_long_time() {
    let pattern: Vec<char> = "*a".repeat(200).chars().chain(['b']).collect();
    assert!(!glob(&pattern, &"a".repeat(5_000)));
}

proptest! {
    #[test]
    fn matching_is_as_defined(pattern in "[ab*?ü]{0,8}", name in "[abü]{0,10}") {
        let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
        prop_assert_eq!(glob(&p, &name), naive(&p, &n), "{} {}", pattern, name);
    }

    #[test]
    fn any_quoted_name_is_found(schema in "\\PC{1,8}", table in "\\PC{1,8}") {
        let quote = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
        let selection = compile(&[block(&[&format!("{}.{}", quote(&schema), quote(&table))])]);
        prop_assert!(destination(&selection, &schema, &table).is_some());
        let other = format!("{}x", table);
        prop_assert!(destination(&selection, &schema, &other).is_none());
    }

    #[test]
    fn any_pattern_is_compiled_or_refused(text in "[a.*?\" ü]{0,12}", rename in "[a.*?\" ]{0,6}") {
        if let Ok(selection) = Selection::compile(&[renamed(block(&[&text]), &rename)]) {
            let _ = selection.decide("a", "a", &["a"]);
        }
    }
}
