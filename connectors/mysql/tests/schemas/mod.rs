//! Servers with schemas, and what maps and describes them.
#![allow(dead_code, clippy::unwrap_used)]

use drover_connectors_api::SchemaStep;
use drover_connectors_mysql::connect::{Dialer, Session, Settings, Tls};
use drover_connectors_mysql::typemap::{self, Known};
use drover_connectors_mysql::{catalog, schema};
use drover_harness::{MySql, Release};
use drover_model::check::CheckItem;
use drover_model::migration::TlsMode;
use drover_model::schema::{Catalog, Object, TableName};
use drover_model::selection::{ObjectRule, Selection};
use drover_model::{Fault, MigrationId, TablePlan};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use std::collections::BTreeMap;

/// A server with the schema that both flavors have, and with its own.
pub async fn rich(release: Release) -> MySql {
    let server = MySql::start(release, &[]).await.unwrap();
    server.exec("mysql", include_str!("../fixtures/common.sql")).await.unwrap();
    let own = if release.is_mariadb() {
        include_str!("../fixtures/mariadb.sql")
    } else {
        include_str!("../fixtures/mysql.sql")
    };
    server.exec("mysql", own).await.unwrap();
    server
}

pub async fn server(release: Release) -> MySql {
    MySql::start(release, &[]).await.unwrap()
}

pub fn dialer_as(server: &MySql, user: &str, password: Option<&str>, fault: Fault) -> Dialer {
    let tls = Tls { mode: TlsMode::Off, ca: None, cert: None, key: None };
    Dialer::new(Settings {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: user.into(),
        password: password.map(str::to_owned),
        database: None,
        tls,
        migration: MigrationId::nil(),
        fault,
    })
}

pub async fn session(server: &MySql, fault: Fault) -> Session {
    dialer_as(server, "drover", None, fault).session("test").await.unwrap()
}

pub async fn read(server: &MySql) -> Catalog {
    catalog::read(&mut session(server, Fault::Source).await, None).await.unwrap()
}

pub fn rule(include: &str, rename: Option<&str>) -> ObjectRule {
    ObjectRule { include: vec![include.into()], rename: rename.map(Into::into), ..ObjectRule::default() }
}

/// What rules select, mapped to a destination.
pub struct Chosen {
    pub plans: Vec<TablePlan>,
    pub objects: Vec<Object>,
    pub items: Vec<CheckItem>,
}

pub fn choose(catalog: &Catalog, rules: &[ObjectRule], known: &Known) -> Chosen {
    let selection = Selection::compile(rules).unwrap();
    let (mut plans, mut items) = (Vec::new(), Vec::new());
    for table in &catalog.tables {
        let columns: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        if let Some(choice) = selection.decide(&table.name.schema, &table.name.name, &columns).unwrap() {
            let mut mapped = typemap::map_table(catalog, table, &choice, known);
            mapped.plan.id = plans.len() as u32;
            plans.push(mapped.plan);
            items.extend(mapped.items);
        }
    }
    let objects: Vec<Object> =
        catalog.objects.iter().filter(|o| selection.selects_object(&o.schema, &o.name)).cloned().collect();
    items.extend(schema::left_out(catalog, &plans, &objects, known));
    Chosen { plans, objects, items }
}

/// All steps, each of them twice: the second time must create nothing.
pub async fn apply_all(session: &mut Session, known: &Known, catalog: &Catalog, chosen: &Chosen) {
    let mut steps = vec![SchemaStep::Base];
    steps.extend(chosen.plans.iter().map(|p| SchemaStep::Table { id: p.id }));
    steps.extend([SchemaStep::Final, SchemaStep::Cutover]);
    for step in steps {
        let (plans, objects) = (&chosen.plans, &chosen.objects);
        let done = schema::apply(session, known, &step, catalog, plans, objects, false).await;
        done.unwrap_or_else(|e| panic!("{step:?}: {e}"));
        let again = schema::apply(session, known, &step, catalog, plans, objects, false).await;
        let again = again.unwrap_or_else(|e| panic!("{step:?} again: {e}"));
        assert!(again.is_empty(), "{step:?} repeated made {again:?}");
    }
}

/// Reads a source and makes what the rules select at a destination.
pub async fn recreate(from: &MySql, to: &MySql, rules: &[ObjectRule]) -> (Catalog, Chosen) {
    let catalog = read(from).await;
    let mut session = session(to, Fault::Destination).await;
    let known = Known::read(&mut session).await.unwrap();
    let chosen = choose(&catalog, rules, &known);
    apply_all(&mut session, &known, &catalog, &chosen).await;
    for plan in &chosen.plans {
        assert_eq!(schema::misfit(&mut session, plan).await.unwrap(), None, "{}", plan.destination);
    }
    (catalog, chosen)
}

async fn column(session: &mut Conn, sql: &str) -> Vec<String> {
    session.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn shown(session: &mut Conn, sql: &str, at: usize) -> String {
    let row: Option<Row> = session.query_first(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let bytes: Vec<u8> = row.unwrap().get(at).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A database as the server itself prints it, one text an object, without accounts, counters and the order of indexes. `events`: those too.
pub async fn dump(server: &MySql, database: &str) -> Vec<String> {
    let mut s = server.connect("mysql").await.unwrap();
    s.query_drop("SET NAMES utf8mb4").await.unwrap();
    let quoted = |name: &str| format!("`{}`.`{}`", database.replace('`', "``"), name.replace('`', "``"));
    let literal = database.replace('\'', "''");
    let list = |what: &str, table: &str, at: &str| {
        format!("SELECT {what} FROM information_schema.{table} WHERE {at} = '{literal}' ORDER BY 1")
    };
    let mut out = Vec::new();
    let base = format!(
        "{} ",
        list("table_name", "tables", "table_schema").replace("ORDER", "AND table_type = 'BASE TABLE' ORDER")
    );
    for name in column(&mut s, &base).await {
        out.push(table(&shown(&mut s, &format!("SHOW CREATE TABLE {}", quoted(&name)), 1).await));
    }
    for name in column(&mut s, &list("table_name", "views", "table_schema")).await {
        out.push(shown(&mut s, &format!("SHOW CREATE VIEW {}", quoted(&name)), 1).await);
    }
    for (kind, at) in [("PROCEDURE", 2), ("FUNCTION", 2)] {
        let sql = list("routine_name", "routines", "routine_schema")
            .replace("ORDER", &format!("AND routine_type = '{kind}' ORDER"));
        for name in column(&mut s, &sql).await {
            out.push(shown(&mut s, &format!("SHOW CREATE {kind} {}", quoted(&name)), at).await);
            out.push(format!("{name}: {}", shown(&mut s, &format!("SHOW CREATE {kind} {}", quoted(&name)), 1).await));
        }
    }
    let order = "CONCAT(event_object_table, ' ', action_timing, ' ', event_manipulation, ' ', action_order, ' ', trigger_name, ' ', action_statement)";
    out.extend(column(&mut s, &list(order, "triggers", "trigger_schema")).await);
    s.disconnect().await.unwrap();
    out.iter().map(|text| nobody(text)).collect()
}

/// A table's text with its indexes sorted and without its counter.
pub fn table(text: &str) -> String {
    let (mut head, mut keys, mut tail) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        let plain = line.trim().trim_end_matches(',').to_owned();
        let is_key = ["UNIQUE KEY", "KEY", "FULLTEXT KEY", "SPATIAL KEY", "VECTOR KEY", "CONSTRAINT"]
            .iter()
            .any(|k| plain.starts_with(&format!("{k} ")));
        if is_key {
            keys.push(plain);
        } else if line.starts_with(')') || !tail.is_empty() {
            tail.push(plain);
        } else {
            head.push(plain);
        }
    }
    keys.sort();
    let mut text = [head, keys, tail].concat().join("\n");
    if let Some(at) = text.find(" AUTO_INCREMENT=") {
        let end = at + 16 + text[at + 16..].find(' ').unwrap_or(text.len() - at - 16);
        text.replace_range(at..end, "");
    }
    text
}

/// Without the account, and without what a client puts behind a body.
fn nobody(text: &str) -> String {
    let text = text.trim_end_matches(';');
    match text.find("DEFINER=") {
        Some(at) if at < 40 => {
            let end = at + text[at..].find(' ').unwrap_or(0);
            format!("{}{}", &text[..at], &text[end..])
        }
        _ => text.to_owned(),
    }
}

/// Columns and keys of each table in words that both flavors share.
pub async fn described(server: &MySql, database: &str) -> BTreeMap<String, Vec<String>> {
    let mut s = server.connect("mysql").await.unwrap();
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let sql = format!(
        "SELECT c.table_name, CONCAT_WS('/', column_name, IF(column_type = 'json', 'longtext', data_type), \
           IF(column_type LIKE '%unsigned%', 'unsigned', ''), IF(column_type LIKE '%zerofill%', 'zerofill', ''), is_nullable, \
           IF(column_type = 'json' OR data_type = 'longtext' OR character_set_name = 'binary', '', COALESCE(character_set_name, '')), \
           IF(data_type IN ('enum', 'set'), column_type, ''), COALESCE(IF(data_type = 'varchar', character_maximum_length, ''), ''), \
           COALESCE(IF(data_type = 'decimal', CONCAT(numeric_precision, ',', numeric_scale), ''), ''), COALESCE(datetime_precision, ''), \
           IF(extra LIKE '%auto_increment%', 'counter', ''), IF(extra LIKE '%on update%', 'on update', ''), \
           IF(extra LIKE '%VIRTUAL%', 'virtual', ''), IF(extra LIKE '%STORED%', 'stored', ''), IF(extra LIKE '%INVISIBLE%', 'invisible', ''), column_comment) \
         FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name) \
         WHERE table_schema = '{database}' AND table_type = 'BASE TABLE' ORDER BY table_name, ordinal_position"
    );
    for (table, text) in s.query::<(String, String), _>(sql).await.unwrap() {
        out.entry(table).or_default().push(text.replace("/geomcollection/", "/geometrycollection/"));
    }
    let sql = format!(
        "SELECT table_name, CONCAT_WS('/', index_name, non_unique, seq_in_index, COALESCE(column_name, '?'), COALESCE(sub_part, ''), IF(index_type = 'BTREE', COALESCE(collation, ''), ''), index_type) \
         FROM information_schema.statistics WHERE table_schema = '{database}' ORDER BY table_name, index_name, seq_in_index"
    );
    for (table, text) in s.query::<(String, String), _>(sql).await.unwrap() {
        out.entry(table).or_default().push(text);
    }
    let sql = format!(
        "SELECT table_name, CONCAT_WS('/', constraint_name, referenced_table_name, update_rule, delete_rule) FROM information_schema.referential_constraints \
         WHERE constraint_schema = '{database}' ORDER BY table_name, constraint_name"
    );
    for (table, text) in s.query::<(String, String), _>(sql).await.unwrap() {
        // Two words for one thing.
        out.entry(table).or_default().push(text.replace("NO ACTION", "RESTRICT"));
    }
    s.disconnect().await.unwrap();
    out
}

/// A row of `customer` and one of `hidden` that are left to their defaults, in hexadecimal digits.
pub async fn filled(server: &MySql, database: &str) -> Vec<String> {
    let mut s = server.connect("mysql").await.unwrap();
    let sql = format!(
        "SET NAMES utf8mb4, SESSION sql_mode = 'ALLOW_INVALID_DATES'; USE {database}; \
         REPLACE INTO customer (id, email, pt, name) VALUES (1, 'x', ST_GeomFromText('POINT(1 2)'), 'n'); \
         REPLACE INTO hidden (a) VALUES (1)"
    );
    s.query_drop(sql).await.unwrap();
    let customer =
        "id, email, name, nick, `empty`, q, born, price, d, bits, yr, t, ti, z, e, s, lat, bin, b16, g1, g2, pt";
    let list = customer.split(", ").map(|c| format!("HEX({c})")).collect::<Vec<_>>().join(", ' ', ");
    let mut out: Vec<String> = s.query(format!("SELECT CONCAT({list}) FROM {database}.customer")).await.unwrap();
    out.extend(
        s.query::<String, _>(format!("SELECT CONCAT(a, ' ', b, ' ', ex, ' ', ej) FROM {database}.hidden"))
            .await
            .unwrap(),
    );
    s.disconnect().await.unwrap();
    out
}

pub fn name(schema: &str, table: &str) -> TableName {
    TableName::new(schema, table)
}
