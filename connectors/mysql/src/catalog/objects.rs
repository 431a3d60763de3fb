//! Everything that is not a table: databases, sequences, routines, views; triggers as parts of their tables; events by name only.

use super::{READING, Relation, lex, shows, system_list};
use crate::connect::Session;
use crate::sql;
use drover_model::Result;
use drover_model::schema::{Object, Phase, TableName};
use std::collections::{BTreeMap, BTreeSet, HashMap};

fn object(kind: &str, schema: &str, name: &str, phase: Phase, definition: String) -> Object {
    Object {
        kind: kind.into(),
        schema: schema.into(),
        name: name.into(),
        phase,
        definition,
        options: BTreeMap::new(),
        needs: Vec::new(),
    }
}

/// Something that drover cannot carry: named, so that nothing is left out silently.
pub(super) fn unsupported(schema: &str, name: &str, kind: &str, reason: &str) -> Object {
    let mut out = object("unsupported", schema, name, Phase::Base, String::new());
    out.options.insert("kind".into(), kind.into());
    out.options.insert("reason".into(), reason.into());
    out
}

pub(super) async fn databases(session: &mut Session) -> Result<Vec<Object>> {
    let sql = format!(
        "SELECT schema_name, default_character_set_name, default_collation_name FROM information_schema.schemata \
         WHERE schema_name NOT IN {} ORDER BY 1",
        system_list()
    );
    let rows: Vec<(String, String, String)> = session.all(sql, READING).await?;
    let server: Option<(String, u64)> =
        session.first("SELECT @@GLOBAL.sql_mode, @@GLOBAL.max_allowed_packet", READING).await?;
    let zone: Option<i64> = session.first::<Option<i64>>(super::ZONE, READING).await?.flatten();
    let until: Option<i64> = session.first::<Option<i64>>(super::ZONE_UNTIL, READING).await?.flatten();
    let out = rows.into_iter().map(|(name, charset, collation)| {
        let mut o = object("database", &name, &name, Phase::Base, String::new());
        if let Some((mode, packet)) = &server {
            o.options.insert("server.sql_mode".into(), mode.clone());
            o.options.insert("server.max_allowed_packet".into(), packet.to_string());
        }
        if let Some(zone) = zone {
            o.options.insert("server.zone_seconds".into(), zone.to_string());
        }
        if let Some(until) = until {
            o.options.insert("server.zone_until".into(), until.to_string());
        }
        o.options.insert("charset".into(), charset);
        o.options.insert("collation".into(), collation);
        o
    });
    Ok(out.collect())
}

/// MariaDB's sequences: what stands behind the name.
pub(super) async fn sequences(session: &mut Session, found: &[&Relation]) -> Result<Vec<Object>> {
    let shown =
        shows::all(session, found.iter().map(|r| format!("SHOW CREATE SEQUENCE {}", sql::qualified(&r.name))), 1)
            .await?;
    let mut out = Vec::new();
    for (relation, shown) in found.iter().zip(shown) {
        let name = &relation.name;
        out.push(match shown {
            Ok(text) => {
                let words = lex::words(&text);
                // CREATE SEQUENCE `s` start with …
                let tail = words.iter().position(|t| t.kind == lex::Kind::Quoted).and_then(|i| words.get(i + 1));
                let tail = tail.map_or(String::new(), |t| text[t.at..].to_owned());
                object("sequence", &name.schema, &name.name, Phase::Base, tail)
            }
            Err(refused) => unsupported(&name.schema, &name.name, "sequence", &refused.reason),
        });
    }
    Ok(out)
}

/// Procedures, functions, and MariaDB's packages.
pub(super) async fn routines(session: &mut Session) -> Result<Vec<Object>> {
    let sql = format!(
        "SELECT routine_schema, routine_name, routine_type, security_type FROM information_schema.routines \
         WHERE routine_schema NOT IN {} ORDER BY 1, 3, 2",
        system_list()
    );
    let found: Vec<(String, String, String, String)> = session.all(sql, READING).await?;
    let statements = found.iter().map(|(schema, name, kind, _)| {
        format!("SHOW CREATE {kind} {}", sql::qualified(&TableName::new(schema.as_str(), name.as_str())))
    });
    let shown = shows::rows(session, statements.collect()).await?;
    let mut out = Vec::new();
    for ((schema, name, kind, security), shown) in found.into_iter().zip(shown) {
        let kind = kind.to_lowercase();
        let definition = shown.and_then(|row| Ok((shows::text(&row, 2).ok_or_else(shows::not_shown)?, row)));
        out.push(match definition {
            Ok((text, row)) => {
                let mut o = object(&kind, &schema, &name, Phase::Base, text);
                for (option, at) in [("sql_mode", 1), ("collation_connection", 4), ("database_collation", 5)] {
                    if let Some(value) = shows::text(&row, at) {
                        o.options.insert(option.into(), value);
                    }
                }
                o.options.insert("security".into(), security);
                o
            }
            Err(refused) => unsupported(&schema, &name, &kind, &refused.reason),
        });
    }
    Ok(out)
}

/// "View references invalid table(s) or column(s) or function(s) or definer/invoker of view lack rights to use them". Of a view whose
/// definer is gone servers say something else: it can be created elsewhere.
const INVALID_VIEW: &str = "1356";
const NOT_WORKING: &str = "it does not work at the source: it refers to tables, columns or functions that are not there, or that it may not use";

/// Views, with the relations that they need.
pub(super) async fn views(session: &mut Session, found: &[&Relation], known: &[&Relation]) -> Result<Vec<Object>> {
    // What the server warns of stands behind each: that it prints a view is no sign that it works. The first may be about its definer.
    let with_warnings = |r: &&Relation| {
        let warning = |n: u8| format!("SHOW WARNINGS LIMIT {n}, 1");
        [format!("SHOW CREATE VIEW {}", sql::qualified(&r.name)), warning(0), warning(1)]
    };
    let mut shown = shows::rows(session, found.iter().flat_map(with_warnings).collect()).await?.into_iter();
    let known: BTreeSet<&TableName> = known.iter().map(|r| &r.name).collect();
    let mut out = Vec::new();
    for relation in found {
        let (Some(shown), Some(first), Some(second)) = (shown.next(), shown.next(), shown.next()) else { break };
        let name = &relation.name;
        let invalid = [first, second].iter().flatten().any(|row| shows::text(row, 1).as_deref() == Some(INVALID_VIEW));
        if shown.is_ok() && invalid {
            out.push(unsupported(&name.schema, &name.name, "view", NOT_WORKING));
            continue;
        }
        let definition = shown.and_then(|row| Ok((shows::text(&row, 1).ok_or_else(shows::not_shown)?, row)));
        out.push(match definition {
            Ok((text, row)) => {
                let needs = mentioned(&text, &known);
                let mut o = object("view", &name.schema, &name.name, Phase::Base, text);
                o.needs = needs.into_iter().filter(|n| *n != name).map(ToString::to_string).collect();
                if let Some(collation) = shows::text(&row, 3) {
                    o.options.insert("collation_connection".into(), collation);
                }
                o
            }
            Err(refused) => unsupported(&name.schema, &name.name, "view", &refused.reason),
        });
    }
    Ok(out)
}

/// Relations whose qualified names stand in a definition.
fn mentioned<'a>(text: &str, known: &BTreeSet<&'a TableName>) -> BTreeSet<&'a TableName> {
    let words = lex::words(text);
    let mut out = BTreeSet::new();
    for w in words.windows(3).filter(|w| w[1].is(".")) {
        if let (Some(schema), Some(name)) = (w[0].name(), w[2].name())
            && let Some(found) = known.get(&TableName::new(schema, name))
        {
            out.insert(*found);
        }
    }
    out
}

/// Triggers by table, in the order in which they fire.
pub(super) async fn triggers(session: &mut Session) -> Result<HashMap<TableName, Vec<Object>>> {
    let sql = format!(
        "SELECT trigger_schema, trigger_name, event_object_schema, event_object_table, action_timing, event_manipulation, action_order \
         FROM information_schema.triggers WHERE trigger_schema NOT IN {} ORDER BY 3, 4, 5, 6, 7, 2",
        system_list()
    );
    let found: Vec<(String, String, String, String, String, String, i64)> = session.all(sql, READING).await?;
    let statements = found.iter().map(|(schema, name, ..)| {
        format!("SHOW CREATE TRIGGER {}", sql::qualified(&TableName::new(schema.as_str(), name.as_str())))
    });
    let shown = shows::rows(session, statements.collect()).await?;
    let mut out: HashMap<TableName, Vec<Object>> = HashMap::new();
    for ((schema, name, on_schema, on, timing, event, order), shown) in found.into_iter().zip(shown) {
        let definition = shown.and_then(|row| Ok((shows::text(&row, 2).ok_or_else(shows::not_shown)?, row)));
        let mut o = match definition {
            Ok((text, row)) => {
                let mut o = object("trigger", &schema, &name, Phase::Cutover, text);
                for (option, at) in [("sql_mode", 1), ("collation_connection", 4)] {
                    if let Some(value) = shows::text(&row, at) {
                        o.options.insert(option.into(), value);
                    }
                }
                o
            }
            Err(refused) => unsupported(&schema, &name, "trigger", &refused.reason),
        };
        o.options.insert("when".into(), format!("{timing} {event}"));
        o.options.insert("order".into(), order.to_string());
        out.entry(TableName::new(on_schema, on)).or_default().push(o);
    }
    Ok(out)
}

/// Events stay where they are.
pub(super) async fn events(session: &mut Session) -> Result<Vec<Object>> {
    let sql = format!(
        "SELECT event_schema, event_name FROM information_schema.events WHERE event_schema NOT IN {} ORDER BY 1, 2",
        system_list()
    );
    let rows: Vec<(String, String)> = session.all(sql, READING).await?;
    let reason = "events are not moved: they would run at both sides";
    Ok(rows.into_iter().map(|(schema, name)| unsupported(&schema, &name, "event", reason)).collect())
}

/// In an order in which they can be created: databases, sequences, routines, then views after the views that they need.
pub(super) fn ordered(mut objects: Vec<Object>) -> Vec<Object> {
    let rank = |o: &Object| match o.kind.as_str() {
        "database" => 0,
        "sequence" => 1,
        "package" => 2,
        "package body" | "function" | "procedure" => 3,
        "view" => 4,
        _ => 5,
    };
    objects.sort_by_key(|o| (rank(o), o.kind == "package body"));
    let from = objects.iter().position(|o| o.kind == "view").unwrap_or(objects.len());
    let to = objects.iter().rposition(|o| o.kind == "view").map_or(from, |i| i + 1);
    let mut open: Vec<Object> = objects.drain(from..to).collect();
    let mut views = Vec::with_capacity(open.len());
    let mut missing: BTreeSet<String> = open.iter().map(|o| format!("{}.{}", o.schema, o.name)).collect();
    while !open.is_empty() {
        let (ready, waiting): (Vec<Object>, Vec<Object>) =
            open.into_iter().partition(|o| !o.needs.iter().any(|n| missing.contains(n)));
        if ready.is_empty() {
            views.extend(waiting);
            break;
        }
        for o in &ready {
            missing.remove(&format!("{}.{}", o.schema, o.name));
        }
        views.extend(ready);
        open = waiting;
    }
    objects.splice(from..from, views);
    objects
}
