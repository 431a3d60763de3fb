//! Creating a schema at the destination, step by step.
//!
//! Guarantee: each object is created in a transaction of its own, in an order in which it can be; a step that is repeated, whole or
//! after a break anywhere, ends the same. What exists already is not touched; a table that exists must have the columns that the plan
//! needs. What cannot be carried is never guessed: it is left out, and [`left_out`] names it before the start.
//!
//! Order: schemas, extensions, types, sequences, functions, tables without keys, views (`Base`); primary key, unique keys and indexes of one
//! table (`Table`); views that need a primary key, foreign keys (not valid, then validated), triggers (`Final`).

pub(crate) mod change;
pub(crate) mod foreign;
mod late;
mod names;
pub mod rewrite;
pub mod work;

use crate::errors::classify;
use crate::sql::{ident, literal};
use drover_connectors_api::{SchemaStep, SequenceValue};
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::schema::{Catalog, Object, TableName};
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use std::collections::{HashMap, HashSet};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use work::{Statement, Work};

/// Executes a step on a session that nothing else uses meanwhile. Gives the names of what it created (not of what was there).
/// `existing_allowed`: tables that were there before may stay, whatever the shape of columns that do not move.
///
/// # Errors
/// The first object that cannot be created, with its name and definition; what was created before it stays.
pub async fn apply(
    client: &Client,
    step: &SchemaStep,
    catalog: &Catalog,
    plans: &[TablePlan],
    objects: &[Object],
    existing_allowed: bool,
) -> Result<Vec<String>> {
    let setting = |e: tokio_postgres::Error| classify(&e, Fault::Destination, "preparing a session for schema");
    // With an empty path, names mean what they say. Enough memory to sort an index in few runs, little enough for several at once.
    let settings = "SET search_path = ''; SET check_function_bodies = off; SET client_min_messages = warning; \
                    SET maintenance_work_mem = '256MB'; SET default_table_access_method = heap";
    let older = client.batch_execute(settings).await;
    if let Err(e) = older {
        // Before version 12 there is one way of storing tables only.
        if e.code() != Some(&SqlState::UNDEFINED_OBJECT) {
            return Err(setting(e));
        }
        let settings = settings.trim_end_matches("; SET default_table_access_method = heap");
        client.batch_execute(settings).await.map_err(setting)?;
    }
    let done = match step {
        SchemaStep::Table { id } => match Work::of_table(catalog, plans, *id) {
            Some(work) => keys(client, work).await,
            None => Err(Error::internal(format!("no plan has number {id}"))),
        },
        _ => run(client, step, Work::new(catalog, plans, objects), existing_allowed).await,
    };
    let reset = "RESET search_path; RESET check_function_bodies; RESET client_min_messages; RESET maintenance_work_mem";
    let ended = client.batch_execute(reset).await;
    let done = done?;
    ended.map_err(setting)?;
    Ok(done)
}

/// Keys and indexes of the tables in the work, which is one.
async fn keys(client: &Client, mut work: Work<'_>) -> Result<Vec<String>> {
    let statements: Vec<Statement> =
        work.tables.clone().into_iter().flat_map(|(plan, table)| work.keys(plan, table)).collect();
    let present = Present::of(client, &statements).await?;
    create(client, &present, statements).await
}

async fn run(client: &Client, step: &SchemaStep, mut work: Work<'_>, existing_allowed: bool) -> Result<Vec<String>> {
    let mut created = Vec::new();
    let statements = match step {
        SchemaStep::Base => {
            let present = Present::read(client).await?;
            for schema in work.schemas() {
                if !present.schemas.contains(&schema) {
                    let mut sql = format!("CREATE SCHEMA IF NOT EXISTS {}", ident(&schema));
                    let own = work.objects.iter().find(|o| o.kind == "schema" && o.name == schema);
                    if let Some(comment) = own.and_then(|o| o.options.get("comment")) {
                        sql.push_str(&format!(";\nCOMMENT ON SCHEMA {} IS {}", ident(&schema), literal(comment)));
                    }
                    let name = TableName::new(schema.clone(), schema.clone());
                    let statement = Statement { kind: "schema".into(), name, on: None, sql, then: None };
                    execute(client, &statement).await.map_err(|e| failed(&statement, &e))?;
                    created.push(format!("schema {schema}"));
                }
            }
            work.base()
        }
        SchemaStep::Final => work.last(),
        // A table's own is done by itself. Triggers are there already: they do not fire for drover's sessions.
        SchemaStep::Table { .. } | SchemaStep::Cutover => Vec::new(),
    };
    let present = Present::read(client).await?;
    if *step == SchemaStep::Base {
        for (plan, _) in &work.tables {
            if present.relations.contains_key(&plan.destination) {
                fits(client, plan, existing_allowed).await?;
            }
        }
    }
    created.extend(create(client, &present, statements).await?);
    Ok(created)
}

/// Executes what is not there yet; gives what was made.
async fn create(client: &Client, present: &Present, statements: Vec<Statement>) -> Result<Vec<String>> {
    let mut created = Vec::new();
    let mut open: Vec<Statement> = Vec::new();
    for statement in statements {
        match present.find(&statement) {
            Found::No => open.push(statement),
            Found::Unfinished => open.push(Statement { sql: String::new(), ..statement }),
            Found::Yes => {}
        }
    }
    // What fails because something is missing is tried again as long as anything else succeeds.
    while !open.is_empty() {
        let before = open.len();
        let mut again = Vec::new();
        let mut first = None;
        for statement in open {
            match execute(client, &statement).await {
                Ok(()) => {
                    if !matches!(statement.kind.as_str(), "owned by" | "refresh" | "replica identity") {
                        created.push(format!("{} {}", statement.kind, statement.name));
                    }
                }
                Err(e) if is_missing(&e) => {
                    if first.is_none() {
                        first = Some(failed(&statement, &e));
                    }
                    again.push(statement);
                }
                Err(e) => return Err(failed(&statement, &e)),
            }
        }
        if again.len() == before {
            return Err(first.unwrap_or_else(|| Error::internal("objects are left without an error")));
        }
        open = again;
    }
    Ok(created)
}

/// Several statements in one message are one transaction.
async fn execute(client: &Client, statement: &Statement) -> std::result::Result<(), tokio_postgres::Error> {
    if !statement.sql.is_empty() {
        match client.batch_execute(&statement.sql).await {
            // Somebody (an order given out twice) was quicker.
            Err(e) if is_doubled(&e) && statement.kind != "index" => {}
            done => done?,
        }
    }
    match &statement.then {
        Some(then) => client.batch_execute(then).await,
        None => Ok(()),
    }
}

fn failed(statement: &Statement, e: &tokio_postgres::Error) -> Error {
    let what = format!("creating {} {}: {}", statement.kind, statement.name, statement.sql);
    let error = classify(e, Fault::Destination, what);
    match &statement.on {
        Some(table) => error.table(table),
        None => error,
    }
}

fn is_missing(e: &tokio_postgres::Error) -> bool {
    let missing = [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_COLUMN,
        SqlState::INVALID_SCHEMA_NAME,
    ];
    e.code().is_some_and(|c| missing.contains(c))
}

fn is_doubled(e: &tokio_postgres::Error) -> bool {
    let doubled = [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_FUNCTION,
        SqlState::DUPLICATE_SCHEMA,
    ];
    e.code().is_some_and(|c| doubled.contains(c))
}

/// A table that exists must have every column that moves, of the type that the plan says.
async fn fits(client: &Client, plan: &TablePlan, existing_allowed: bool) -> Result<()> {
    if let Some(item) = misfit(client, plan).await? {
        let advice = if existing_allowed {
            "rename or change the table there"
        } else {
            "rename or drop the table there, or map to another name"
        };
        return Err(Error::new(codes::STATEMENT, Fault::Destination, Retry::Never, item)
            .table(&plan.destination)
            .remedy(advice));
    }
    Ok(())
}

/// Why an existing table cannot take the plan's rows; `None`: it can, or it does not exist.
///
/// # Errors
/// As [`classify`] says, with the destination at fault.
pub async fn misfit(client: &Client, plan: &TablePlan) -> Result<Option<String>> {
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attidentity::text FROM pg_attribute a \
               JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let at = |e: tokio_postgres::Error| {
        classify(&e, Fault::Destination, "reading the columns of a table").table(&plan.destination)
    };
    let rows = client.query(sql, &[&plan.destination.schema, &plan.destination.name]).await.map_err(at)?;
    let mut there = HashMap::new();
    for r in &rows {
        let column = (
            r.try_get::<_, String>(1).map_err(at)?,
            r.try_get::<_, bool>(2).map_err(at)?,
            r.try_get::<_, bool>(3).map_err(at)? || !r.try_get::<_, String>(4).map_err(at)?.is_empty(),
        );
        there.insert(r.try_get::<_, String>(0).map_err(at)?, column);
    }
    if there.is_empty() {
        return Ok(None);
    }
    // Qualified or not depends on the session's path.
    let bare = |t: &str| t.rsplit('.').next().unwrap_or(t).to_owned();
    for column in &plan.columns {
        match there.get(&column.destination) {
            None => return Ok(Some(format!("column {} is missing", column.destination))),
            Some((kind, _, _)) if bare(kind) != bare(&column.destination_type) => {
                return Ok(Some(format!(
                    "column {} is of type {kind}, not {}",
                    column.destination, column.destination_type
                )));
            }
            Some(_) => {}
        }
    }
    let unfed = there
        .iter()
        .find(|(name, (_, required, fed))| *required && !*fed && !plan.columns.iter().any(|c| &c.destination == *name));
    Ok(unfed.map(|(name, _)| format!("column {name} demands a value, and no column of the source gives it one")))
}

/// What will be left out of the migration's schema, and why: items K18 and K20, warnings. Pure.
pub fn left_out(catalog: &Catalog, plans: &[TablePlan], objects: &[Object]) -> Vec<CheckItem> {
    let mut work = Work::new(catalog, plans, objects);
    work.base();
    for (plan, table) in work.tables.clone() {
        work.keys(plan, table);
    }
    work.last();
    let item = |l: &work::LeftOut| {
        let hard = ["function", "aggregate", "procedure", "base type", "foreign table", "foreign partition"]
            .contains(&l.kind.as_str());
        let number = if hard { "K18" } else { "K20" };
        let remedy = if number == "K18" {
            "create it at the destination by hand"
        } else {
            "select what it needs under its own name, or create it by hand afterwards"
        };
        CheckItem::warning(number, format!("{} {}", l.kind, l.name), format!("it is left out: {}", l.reason), remedy)
    };
    work.left_out.iter().map(item).collect()
}

/// The selected sequences with their values under the destination's names: those that were chosen, those that selected tables use or own,
/// those of identity columns. Pure.
///
/// # Errors
/// One of them has no value.
pub fn map_sequences(
    catalog: &Catalog,
    plans: &[TablePlan],
    objects: &[Object],
    values: &[SequenceValue],
) -> Result<Vec<(String, SequenceValue)>> {
    let work = Work::new(catalog, plans, objects);
    if !work.same_kind {
        return Ok(foreign_sequences(&work, values));
    }
    let chosen = work.objects.iter().copied().filter(|o| o.kind == "sequence");
    let owned = work.tables.iter().flat_map(|(_, t)| &t.parts).filter(|p| p.kind == "identity");
    let known: HashMap<(&str, &str), &SequenceValue> =
        values.iter().map(|v| ((v.0.as_str(), v.1.as_str()), v)).collect();
    let mut out = Vec::new();
    for o in chosen.chain(owned) {
        let name = format!("{}.{}", o.schema, o.name);
        let Some((_, _, value, called)) = known.get(&(o.schema.as_str(), o.name.as_str())).copied() else {
            let what = format!("the value of the sequence {name} cannot be read at the source");
            return Err(Error::new(codes::PERMISSION, Fault::Source, Retry::Never, what).remedy(format!(
                "GRANT SELECT ON SEQUENCE {} to drover's account; or was it dropped?",
                ident(&o.schema) + "." + &ident(&o.name)
            )));
        };
        let to = work.target(&o.schema, &o.name);
        out.push((name, (to.schema, to.name, *value, *called)));
    }
    Ok(out)
}

/// Of another kind of database: a table's counter, under the table's name, becomes the value of its column's sequence. A table that has no value
/// has not counted yet.
fn foreign_sequences(work: &Work<'_>, values: &[SequenceValue]) -> Vec<(String, SequenceValue)> {
    let counters = work.tables.iter().filter_map(|(plan, table)| {
        let counts =
            |c: &&drover_model::plan::PlanColumn| table.column(&c.source).is_some_and(|c| c.identity.is_some());
        let to = foreign::sequence(plan, plan.columns.iter().find(counts)?);
        let (schema, name, value, called) =
            values.iter().find(|v| v.0 == plan.source.schema && v.1 == plan.source.name)?;
        Some((format!("{schema}.{name}"), (to.schema, to.name, *value, *called)))
    });
    counters.collect()
}

/// Signatures are compared without quotes: the server and we do not set them at the same places.
fn unquoted(name: &TableName) -> TableName {
    TableName::new(name.schema.clone(), name.name.replace('"', ""))
}

enum Found {
    No,
    Yes,
    /// A foreign key that is still to be validated.
    Unfinished,
}

/// What the destination has.
#[derive(Default)]
struct Present {
    schemas: HashSet<String>,
    /// Tables, views, sequences, indexes with their kind and, for indexes, their table.
    relations: HashMap<TableName, (String, Option<TableName>)>,
    types: HashSet<TableName>,
    functions: HashSet<TableName>,
    extensions: HashSet<String>,
    /// Constraints, triggers and rules by relation and name; whether they are valid.
    parts: HashMap<(TableName, String), bool>,
}

/// Relations with their kind and, of an index, its table. A condition follows.
const RELATIONS: &str = "SELECT n.nspname::text, c.relname::text, c.relkind::text, tn.nspname::text, t.relname::text FROM pg_class c \
                         JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index x ON x.indexrelid = c.oid \
                         LEFT JOIN pg_class t ON t.oid = x.indrelid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace WHERE ";

fn unread(e: tokio_postgres::Error) -> Error {
    classify(&e, Fault::Destination, "reading what exists at the destination")
}

fn pair(r: &tokio_postgres::Row) -> std::result::Result<TableName, tokio_postgres::Error> {
    Ok(TableName::new(r.try_get::<_, String>(0)?, r.try_get::<_, String>(1)?))
}

impl Present {
    /// Of keys and indexes, those that these statements would make: not all that there is, which may be much.
    async fn of(client: &Client, statements: &[Statement]) -> Result<Present> {
        let mut out = Present::default();
        let columns = |names: &[&TableName]| -> (Vec<String>, Vec<String>) {
            names.iter().map(|n| (n.schema.clone(), n.name.clone())).unzip()
        };
        let (schemas, names) = columns(&statements.iter().map(|s| &s.name).collect::<Vec<_>>());
        let sql = format!("{RELATIONS} (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))");
        for r in client.query(&sql, &[&schemas, &names]).await.map_err(unread)? {
            out.relation(&r).map_err(unread)?;
        }
        let (schemas, names) = columns(&statements.iter().filter_map(|s| s.on.as_ref()).collect::<Vec<_>>());
        let sql = "SELECT n.nspname::text, c.relname::text, k.conname::text, k.convalidated FROM pg_constraint k \
                   JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))";
        for r in client.query(sql, &[&schemas, &names]).await.map_err(unread)? {
            out.part(&r).map_err(unread)?;
        }
        Ok(out)
    }

    fn relation(&mut self, r: &tokio_postgres::Row) -> std::result::Result<(), tokio_postgres::Error> {
        let schema: Option<String> = r.try_get(3)?;
        let on = schema.zip(r.try_get::<_, Option<String>>(4)?).map(|(s, n)| TableName::new(s, n));
        self.relations.insert(pair(r)?, (r.try_get(2)?, on));
        Ok(())
    }

    fn part(&mut self, r: &tokio_postgres::Row) -> std::result::Result<(), tokio_postgres::Error> {
        self.parts.insert((pair(r)?, r.try_get(2)?), r.try_get(3)?);
        Ok(())
    }

    async fn read(client: &Client) -> Result<Present> {
        let at = unread;
        let mut out = Present::default();
        for r in client.query("SELECT nspname::text FROM pg_namespace", &[]).await.map_err(at)? {
            out.schemas.insert(r.try_get(0).map_err(at)?);
        }
        for r in client.query("SELECT extname::text FROM pg_extension", &[]).await.map_err(at)? {
            out.extensions.insert(r.try_get(0).map_err(at)?);
        }
        let sql = format!("{RELATIONS} n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'");
        for r in client.query(&sql, &[]).await.map_err(at)? {
            out.relation(&r).map_err(at)?;
        }
        let sql = "SELECT n.nspname::text, t.typname::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
                   LEFT JOIN pg_class c ON c.oid = t.typrelid \
                   WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
        for r in client.query(sql, &[]).await.map_err(at)? {
            out.types.insert(pair(&r).map_err(at)?);
        }
        let sql = "SELECT n.nspname::text, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' FROM pg_proc p \
                   JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                   UNION ALL \
                   SELECT n.nspname::text, o.oprname || '(' || CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END || ', ' \
                   || CASE WHEN o.oprright = 0 THEN 'NONE' ELSE format_type(o.oprright, NULL) END || ')' FROM pg_operator o \
                   JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE o.oprcode <> 0 AND n.nspname !~ '^pg_'";
        for r in client.query(sql, &[]).await.map_err(at)? {
            out.functions.insert(unquoted(&pair(&r).map_err(at)?));
        }
        let sql = "SELECT n.nspname::text, c.relname::text, k.name, k.valid FROM ( \
                     SELECT conrelid AS relid, conname::text AS name, convalidated AS valid FROM pg_constraint WHERE conrelid <> 0 \
                     UNION ALL SELECT tgrelid, tgname::text, true FROM pg_trigger WHERE NOT tgisinternal \
                     UNION ALL SELECT ev_class, rulename::text, true FROM pg_rewrite) k \
                   JOIN pg_class c ON c.oid = k.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_'";
        for r in client.query(sql, &[]).await.map_err(at)? {
            out.part(&r).map_err(at)?;
        }
        Ok(out)
    }

    fn find(&self, s: &Statement) -> Found {
        let there = match s.kind.as_str() {
            "extension" => self.extensions.contains(&s.name.name),
            "type" | "domain" => self.types.contains(&s.name),
            "function" | "procedure" | "aggregate" | "operator" => self.functions.contains(&unquoted(&s.name)),
            "index" => self.relations.get(&s.name).is_some_and(|(_, on)| on.is_some() && on == &s.on),
            "owned by" | "replica identity" | "refresh" => false,
            "foreign key" | "check" | "primary key" | "unique" | "exclude" | "trigger" | "rule" => {
                let Some(on) = &s.on else { return Found::No };
                match self.parts.get(&(on.clone(), s.name.name.clone())) {
                    Some(false) if s.then.is_some() => return Found::Unfinished,
                    found => found.is_some(),
                }
            }
            _ => self.relations.contains_key(&s.name),
        };
        if !there { Found::No } else { Found::Yes }
    }
}
