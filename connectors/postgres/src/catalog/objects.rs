//! Everything that is not a table: what it is, how it is made, and what it needs.

use super::{PG_CLASS, Reader, Rowed, comment, distinct, json, key, order};
use crate::sql;
use drover_model::schema::{Object, Phase};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio_postgres::Row;

const PG_TYPE: u32 = 1247;
const PG_PROC: u32 = 1255;
const PG_OPERATOR: u32 = 2617;
const PG_EXTENSION: u32 = 3079;

type Node = (u32, u32);

/// Who needs whom, by names that [`Object::needs`] uses.
pub(super) struct Needs {
    names: HashMap<Node, String>,
    edges: HashMap<Node, Vec<(Node, bool, Option<String>)>>,
}

impl Needs {
    pub(super) fn new(reader: &Reader, relations: &HashMap<u32, &Row>) -> Rowed<Needs> {
        let mut names: HashMap<Node, String> = HashMap::new();
        // Partitions count as the table that they belong to.
        for (oid, t) in relations {
            let mut top = *t;
            while top.try_get::<_, bool>("is_partition")? {
                match top.try_get::<_, Vec<u32>>("parents")?.first().and_then(|p| relations.get(p)) {
                    Some(parent) => top = parent,
                    None => break,
                }
            }
            names.insert((PG_CLASS, *oid), named(top)?);
        }
        for (class, rows) in [(PG_CLASS, &reader.views), (PG_TYPE, &reader.types), (PG_EXTENSION, &reader.extensions)] {
            for r in rows {
                names.insert((class, r.try_get("oid")?), named(r)?);
            }
        }
        let mut sequences = BTreeSet::new();
        for r in &reader.sequences {
            let oid: u32 = r.try_get("oid")?;
            sequences.insert(oid);
            if !r.try_get::<_, bool>("is_identity")? {
                names.insert((PG_CLASS, oid), named(r)?);
            }
        }
        for r in &reader.functions {
            names.insert((PG_PROC, r.try_get("oid")?), key(&r.try_get::<_, String>("schema")?, &function_name(r)?));
        }
        for r in &reader.operators {
            names.insert((PG_OPERATOR, r.try_get("oid")?), key(&r.try_get::<_, String>("schema")?, &operator_name(r)?));
        }
        let mut edges: HashMap<Node, Vec<(Node, bool, Option<String>)>> = HashMap::new();
        for r in &reader.depend {
            let from: Node = (r.try_get("class")?, r.try_get("oid")?);
            let to: Node = (r.try_get("ref_class")?, r.try_get("ref_oid")?);
            // A sequence is tied to its column afterwards; the column's default needs it first.
            if from.0 == PG_CLASS && sequences.contains(&from.1) && to.0 == PG_CLASS {
                continue;
            }
            edges.entry(from).or_default().push((to, r.try_get("needs_key")?, r.try_get("column_name")?));
        }
        Ok(Needs { names, edges })
    }

    /// What these nodes, taken as one object, need.
    pub(super) fn of(&mut self, nodes: &[Node]) -> Vec<String> {
        let own: BTreeSet<&String> = nodes.iter().filter_map(|n| self.names.get(n)).collect();
        let found = nodes.iter().filter_map(|n| self.edges.get(n)).flatten();
        let found = found.filter_map(|(to, _, _)| self.names.get(to)).filter(|n| !own.contains(n));
        distinct(found.cloned())
    }

    /// Whether it needs a primary key to be there.
    fn needs_key(&self, node: Node) -> bool {
        self.edges.get(&node).is_some_and(|e| e.iter().any(|(_, key, _)| *key))
    }

    /// Single columns that it uses, by relation.
    fn columns(&self, node: Node) -> BTreeMap<String, BTreeSet<String>> {
        let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (to, _, column) in self.edges.get(&node).into_iter().flatten() {
            if let (Some(name), Some(column)) = (self.names.get(to), column) {
                out.entry(name.clone()).or_default().insert(column.clone());
            }
        }
        out
    }
}

fn named(r: &Row) -> Rowed<String> {
    Ok(key(&r.try_get::<_, String>("schema")?, &r.try_get::<_, String>("name")?))
}

/// Functions may share a name: arguments belong to it.
fn function_name(r: &Row) -> Rowed<String> {
    Ok(format!("{}({})", r.try_get::<_, String>("name")?, r.try_get::<_, String>("arguments")?))
}

fn operator_name(r: &Row) -> Rowed<String> {
    let (name, left, right): (String, String, String) =
        (r.try_get("name")?, r.try_get("left_type")?, r.try_get("right_type")?);
    Ok(format!("{name}({left}, {right})"))
}

/// Something that drover cannot carry: named, so that nothing is left out silently.
pub(super) fn unsupported(schema: &str, name: &str, kind: &str, reason: &str) -> Object {
    let options = BTreeMap::from([("kind".to_owned(), kind.to_owned()), ("reason".to_owned(), reason.to_owned())]);
    Object {
        kind: "unsupported".into(),
        schema: schema.into(),
        name: name.into(),
        phase: Phase::Base,
        definition: String::new(),
        options,
        needs: Vec::new(),
    }
}

/// A sequence: what stands behind its name in CREATE SEQUENCE, and in parentheses behind AS IDENTITY.
pub(super) fn sequence(r: &Row) -> Rowed<Object> {
    let mut options = BTreeMap::new();
    comment(r, &mut options)?;
    options.insert("type".into(), r.try_get("type_text")?);
    if let Some(column) = r.try_get::<_, Option<String>>("owner_column")? {
        options.insert("owner_column".into(), column);
    }
    if r.try_get::<_, String>("persistence")? == "u" {
        options.insert("unlogged".into(), "true".into());
    }
    let definition = format!(
        "INCREMENT BY {} MINVALUE {} MAXVALUE {} START WITH {} CACHE {}{}",
        r.try_get::<_, i64>("increment")?,
        r.try_get::<_, i64>("minimum")?,
        r.try_get::<_, i64>("maximum")?,
        r.try_get::<_, i64>("start")?,
        r.try_get::<_, i64>("cache")?,
        if r.try_get::<_, bool>("cycle")? { " CYCLE" } else { " NO CYCLE" },
    );
    Ok(Object {
        kind: "sequence".into(),
        schema: r.try_get("schema")?,
        name: r.try_get("name")?,
        phase: Phase::Base,
        definition,
        options,
        needs: Vec::new(),
    })
}

/// All objects; parts of tables are not among them.
pub(super) fn all(
    reader: &Reader,
    needs: &mut Needs,
    indexes: &HashMap<u32, Vec<&Row>>,
    triggers: &HashMap<u32, Vec<&Row>>,
) -> Rowed<Vec<Object>> {
    let mut out = Vec::new();
    let plain = |kind: &str, r: &Row, name: String, definition: String, needs: Vec<String>| -> Rowed<Object> {
        let mut options = BTreeMap::new();
        comment(r, &mut options)?;
        let schema = r.try_get("schema")?;
        Ok(Object { kind: kind.into(), schema, name, phase: Phase::Base, definition, options, needs })
    };
    for r in &reader.schemas {
        let name: String = r.try_get("name")?;
        let mut options = BTreeMap::new();
        comment(r, &mut options)?;
        let definition = format!("CREATE SCHEMA {}", sql::ident(&name));
        let (kind, schema) = ("schema".to_owned(), name.clone());
        out.push(Object { kind, schema, name, phase: Phase::Base, definition, options, needs: Vec::new() });
    }
    for r in &reader.extensions {
        let (schema, name): (String, String) = (r.try_get("schema")?, r.try_get("name")?);
        let system = schema.starts_with("pg_");
        let place = if system { String::new() } else { format!(" SCHEMA {}", sql::ident(&schema)) };
        let definition = format!("CREATE EXTENSION {}{place}", sql::ident(&name));
        let options = BTreeMap::from([("version".to_owned(), r.try_get("version")?)]);
        out.push(Object {
            kind: "extension".into(),
            schema,
            name,
            phase: Phase::Base,
            definition,
            options,
            needs: Vec::new(),
        });
    }
    for r in &reader.types {
        let name: String = r.try_get("name")?;
        let node = (PG_TYPE, r.try_get("oid")?);
        let Some(body) = r.try_get::<_, Option<String>>("definition")? else {
            out.push(unsupported(
                &r.try_get::<_, String>("schema")?,
                &name,
                "base type",
                "its functions are written in C",
            ));
            continue;
        };
        let (kind, word) = if r.try_get::<_, String>("kind")? == "d" { ("domain", "DOMAIN") } else { ("type", "TYPE") };
        let definition = format!("CREATE {word} {} {body}", sql::qualified(&r.try_get::<_, String>("schema")?, &name));
        out.push(plain(kind, r, name, definition, needs.of(&[node]))?);
    }
    let mut relations: HashMap<u32, (String, String)> = HashMap::new();
    for t in &reader.tables {
        relations.insert(t.try_get("oid")?, (t.try_get("schema")?, t.try_get("name")?));
    }
    for r in &reader.sequences {
        if r.try_get("is_identity")? {
            continue;
        }
        let mut object = sequence(r)?;
        if let Some((schema, name)) = r.try_get::<_, Option<u32>>("owner_relid")?.and_then(|o| relations.get(&o)) {
            object.options.insert("owner_schema".into(), schema.clone());
            object.options.insert("owner_name".into(), name.clone());
        }
        object.needs = needs.of(&[(PG_CLASS, r.try_get("oid")?)]);
        out.push(object);
    }
    for r in &reader.functions {
        let name = function_name(r)?;
        let node = (PG_PROC, r.try_get("oid")?);
        let kind = match r.try_get::<_, String>("kind")?.as_str() {
            "a" => "aggregate",
            "p" => "procedure",
            _ => "function",
        };
        match r.try_get::<_, Option<String>>("definition")? {
            Some(definition) => {
                let mut object = plain(kind, r, name, definition, needs.of(&[node]))?;
                object.options.insert("language".into(), r.try_get("language")?);
                object.options.insert("columns_used".into(), json(&needs.columns(node)));
                out.push(object);
            }
            None => {
                let schema: String = r.try_get("schema")?;
                out.push(unsupported(
                    &schema,
                    &name,
                    kind,
                    "it is written in C: its library has to be installed at the destination by hand",
                ));
            }
        }
    }
    for r in &reader.operators {
        let needed = needs.of(&[(PG_OPERATOR, r.try_get("oid")?)]);
        // Commutators and negators need each other; the server takes care of that.
        let needed =
            needed.into_iter().filter(|n| !n.ends_with(')') || n.contains(|c: char| c.is_alphanumeric())).collect();
        out.push(plain("operator", r, operator_name(r)?, r.try_get("definition")?, needed)?);
    }
    for r in &reader.views {
        let oid: u32 = r.try_get("oid")?;
        let node = (PG_CLASS, oid);
        let materialized = r.try_get::<_, String>("kind")? == "m";
        let (schema, name): (String, String) = (r.try_get("schema")?, r.try_get("name")?);
        let with = match r.try_get::<_, Option<Vec<String>>>("reloptions")? {
            Some(with) if !with.is_empty() => format!(" WITH ({})", with.join(", ")),
            _ => String::new(),
        };
        let body: String = r.try_get("definition")?;
        let body = body.trim_end().trim_end_matches(';');
        let target = sql::qualified(&schema, &name);
        let definition = if materialized {
            format!("CREATE MATERIALIZED VIEW {target}{with} AS\n{body}\nWITH NO DATA")
        } else {
            format!("CREATE VIEW {target}{with} AS\n{body}")
        };
        let mut view = plain(
            if materialized { "materialized view" } else { "view" },
            r,
            name.clone(),
            definition,
            needs.of(&[node]),
        )?;
        view.options.insert("columns_used".into(), json(&needs.columns(node)));
        if needs.needs_key(node) {
            view.phase = Phase::Final;
            view.options.insert("needs_key".into(), "true".into());
        }
        if materialized && r.try_get::<_, bool>("populated")? {
            view.options.insert("populated".into(), "true".into());
        }
        let on = key(&schema, &name);
        out.push(view);
        for (kind, rows) in [("index", indexes), ("trigger", triggers)] {
            for x in rows.get(&oid).into_iter().flatten() {
                let mut options =
                    BTreeMap::from([("on_schema".to_owned(), schema.clone()), ("on_name".to_owned(), name.clone())]);
                comment(x, &mut options)?;
                if kind == "trigger" {
                    options.insert("enabled".into(), x.try_get("enabled")?);
                }
                out.push(Object {
                    kind: kind.into(),
                    schema: schema.clone(),
                    name: x.try_get("name")?,
                    phase: Phase::Final,
                    definition: x.try_get("definition")?,
                    options,
                    needs: vec![on.clone()],
                });
            }
        }
    }
    for r in &reader.rules {
        let (schema, relation, name): (String, String, String) =
            (r.try_get("schema")?, r.try_get("relation")?, r.try_get("name")?);
        let mut options =
            BTreeMap::from([("on_schema".to_owned(), schema.clone()), ("on_name".to_owned(), relation.clone())]);
        options.insert("enabled".into(), r.try_get("enabled")?);
        comment(r, &mut options)?;
        let needs = vec![key(&schema, &relation)];
        let definition = r.try_get("definition")?;
        out.push(Object { kind: "rule".into(), schema, name, phase: Phase::Base, definition, options, needs });
    }
    Ok(out)
}

/// In an order in which they can be created; views upon late views are late themselves.
pub(super) fn ordered(objects: Vec<Object>) -> Vec<Object> {
    let rank = |o: &Object| match o.kind.as_str() {
        "schema" => 0,
        "extension" => 1,
        "type" | "domain" => 2,
        "sequence" => 3,
        "function" | "procedure" | "aggregate" | "operator" => 4,
        "view" | "materialized view" => 5,
        _ => 6,
    };
    let mut objects = objects;
    objects.sort_by_key(rank);
    let keys: Vec<String> = objects
        .iter()
        .map(|o| match o.kind.as_str() {
            // Parts share names with what they are on; nothing needs them.
            "rule" | "index" | "trigger" => {
                format!("{} of {}", o.name, key(&o.schema, o.options.get("on_name").map_or("", String::as_str)))
            }
            "schema" => format!("schema {}", o.name),
            _ => key(&o.schema, &o.name),
        })
        .collect();
    let needs: Vec<Vec<String>> = objects.iter().map(|o| o.needs.clone()).collect();
    let order = order::creation_order(&keys, &needs);
    let mut late: BTreeSet<String> = BTreeSet::new();
    let mut slots: Vec<Option<Object>> = objects.into_iter().map(Some).collect();
    let mut out = Vec::with_capacity(slots.len());
    for i in order {
        let Some(mut object) = slots[i].take() else { continue };
        if object.needs.iter().any(|n| late.contains(n)) {
            object.phase = object.phase.max(Phase::Final);
        }
        if object.phase == Phase::Final {
            late.insert(keys[i].clone());
        }
        out.push(object);
    }
    out
}
