//! Creating a schema at the destination, step by step.
//!
//! Guarantee: DDL commits by itself here, so each statement is preceded by a look whether its object is there; a step that is repeated, whole or
//! after a break anywhere, ends the same. What exists already is not touched; a table that exists must have the columns that the plan
//! needs. What cannot be carried is never guessed: it is left out, and [`left_out`] names it before the start.
//!
//! Order: databases, tables with the key that rows are found by (InnoDB stores them by it), routines, views (`Base`); the other indexes of one
//! table, all in one pass over it (`Table`); foreign keys (`Final`); triggers (`Cutover`): they cannot be silenced here, and the
//! source's log already has their effects.

pub mod change;
pub mod foreign;
mod present;
pub mod rewrite;
mod table;
pub mod work;

use crate::connect::Session;
use crate::errors;
use crate::sql;
use crate::typemap::Known;
use drover_connectors_api::SchemaStep;
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::schema::{Catalog, Object, Table, TableName};
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use foreign::Foreign;
use mysql_async::prelude::Queryable;
use present::Present;
pub use present::misfit;
use std::collections::BTreeSet;
use work::{Statement, Work};

/// Executes a step on a session that nothing else uses meanwhile. Gives the names of what it created (not of what was there).
/// `existing_allowed`: tables that were there before may stay, whatever the shape of columns that do not move.
///
/// # Errors
/// The first object that cannot be created, with its name and definition; what was created before it stays.
pub async fn apply(
    session: &mut Session,
    known: &Known,
    step: &SchemaStep,
    catalog: &Catalog,
    plans: &[TablePlan],
    objects: &[Object],
    existing_allowed: bool,
) -> Result<Vec<String>> {
    let mut work = Schema::new(catalog, plans, objects, known);
    prepare(session).await?;
    let databases = work.databases();
    let mut created = Vec::new();
    let statements = match step {
        SchemaStep::Base => {
            let present = Present::read(session, known, &databases).await?;
            for (plan, _) in work.tables() {
                if present.table(&plan.destination) {
                    fits(session, plan, existing_allowed).await?;
                }
            }
            work.base()
        }
        SchemaStep::Table { id } => {
            let Some((plan, table)) = work.tables().into_iter().find(|(p, _)| p.id == *id) else {
                return Err(Error::internal(format!("no plan has number {id}")));
            };
            let wanted = work.table(plan, table);
            return indexes(session, plan, wanted).await;
        }
        SchemaStep::Final => work.last(),
        SchemaStep::Cutover => work.cutover(),
    };
    let present = Present::read(session, known, &databases).await?;
    let mut open: Vec<Statement> = statements.into_iter().filter(|s| !present.has(s)).collect();
    // What fails because something is missing is tried again as long as anything else succeeds.
    while !open.is_empty() {
        let before = open.len();
        let mut again = Vec::new();
        let mut first = None;
        for statement in open {
            match execute(session, &statement).await {
                Ok(()) => created.push(format!("{} {}", statement.kind, statement.name)),
                Err(e) if is_missing(&e) => {
                    first.get_or_insert_with(|| failed(&statement, &e));
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

/// The compiled schema of a source: one of the family's, or another kind's.
enum Schema<'a> {
    Own(Box<Work<'a>>),
    Other(Foreign<'a>),
}

impl<'a> Schema<'a> {
    fn new(catalog: &'a Catalog, plans: &'a [TablePlan], objects: &'a [Object], known: &'a Known) -> Schema<'a> {
        match Work::new(catalog, plans, objects, known) {
            Some(work) => Schema::Own(Box::new(work)),
            None => Schema::Other(Foreign::new(catalog, plans, objects, known)),
        }
    }

    fn databases(&self) -> BTreeSet<String> {
        match self {
            Schema::Own(work) => work.databases(),
            Schema::Other(work) => work.databases(),
        }
    }

    fn tables(&self) -> Vec<(&'a TablePlan, &'a Table)> {
        match self {
            Schema::Own(work) => work.tables.clone(),
            Schema::Other(work) => work.tables.clone(),
        }
    }

    fn base(&mut self) -> Vec<Statement> {
        match self {
            Schema::Own(work) => work.base(),
            Schema::Other(work) => work.base(),
        }
    }

    fn table(&mut self, plan: &TablePlan, table: &Table) -> Vec<table::Added> {
        match self {
            Schema::Own(work) => work.table(plan, table),
            Schema::Other(work) => work.table(plan, table),
        }
    }

    fn last(&mut self) -> Vec<Statement> {
        match self {
            Schema::Own(work) => work.last(),
            Schema::Other(work) => work.last(),
        }
    }

    fn cutover(&mut self) -> Vec<Statement> {
        match self {
            Schema::Own(work) => work.cutover(),
            Schema::Other(_) => Vec::new(),
        }
    }
}

/// Settings for creating: foreign keys are not looked at (their tables may not be there yet, and rows come as they are), and nothing
/// is added by itself. Some need a right that the account may lack; then what the server has stands, and the check says so.
pub(crate) async fn prepare(session: &mut Session) -> Result<()> {
    let what = "preparing a session for schema";
    // Texts of definitions are UTF-8, whatever the session was for.
    session.run("SET NAMES utf8mb4, SESSION foreign_key_checks = 0, SESSION unique_checks = 1", what).await?;
    let v = session.version.clone();
    let mut wishes = vec!["explicit_defaults_for_timestamp = 1"];
    if v.mysql(80_013) {
        wishes.push("sql_require_primary_key = 0");
    }
    if v.mysql(80_030) {
        wishes.push("sql_generate_invisible_primary_key = 0");
    }
    if v.mysql(80_400) {
        wishes.push("restrict_fk_on_non_standard_key = 0");
    }
    if v.is_mariadb() {
        // A check or default that another server printed may be longer or older than what is usual here.
        wishes.push("innodb_strict_mode = 1");
    }
    for wish in wishes {
        match session.query_drop(format!("SET SESSION {wish}")).await {
            Ok(()) | Err(mysql_async::Error::Server(_)) => {}
            Err(e) => return Err(errors::classify(&e, session.fault, what)),
        }
    }
    Ok(())
}

/// Adds the indexes that are missing: all plain ones in one statement, so that the rows are read once.
async fn indexes(session: &mut Session, plan: &TablePlan, wanted: Vec<table::Added>) -> Result<Vec<String>> {
    let present = present::indexes(session, &plan.destination).await?;
    let missing: Vec<table::Added> = wanted.into_iter().filter(|a| !present.contains(&a.name.to_lowercase())).collect();
    let (alone, together): (Vec<table::Added>, Vec<table::Added>) = missing.into_iter().partition(|a| a.alone);
    let mut groups: Vec<Vec<table::Added>> = if together.is_empty() { Vec::new() } else { vec![together] };
    groups.extend(alone.into_iter().map(|a| vec![a]));
    let mut created = Vec::new();
    for group in groups {
        let clauses: Vec<String> = group.iter().map(|a| format!("ADD {}", a.clause)).collect();
        let statement = format!("ALTER TABLE {} {}", sql::qualified(&plan.destination), clauses.join(", "));
        let done = session.query_drop(&statement).await;
        done.map_err(|e| {
            let what = format!("creating indexes: {statement}");
            errors::classify(&e, Fault::Destination, what).table(&plan.destination)
        })?;
        created.extend(group.iter().map(|a| format!("index {}.{}", plan.destination, a.name)));
    }
    Ok(created)
}

async fn execute(session: &mut Session, statement: &Statement) -> std::result::Result<(), mysql_async::Error> {
    let mut restore = Vec::new();
    if matches!(statement.kind.as_str(), "view" | "procedure" | "function" | "package" | "package body" | "trigger") {
        // Functions in views are printed without their database: it is the view's.
        session.query_drop(format!("USE {}", sql::name(&statement.name.schema))).await?;
    }
    for (name, value) in &statement.settings {
        session
            .query_drop(format!("SET @drover_{name} = @@SESSION.{name}, SESSION {name} = {}", sql::text(value)))
            .await?;
        restore.push(format!("SESSION {name} = @drover_{name}"));
    }
    let done = match statement.kind.as_str() {
        "trigger" => trigger(session, statement).await,
        _ => session.query_drop(&statement.sql).await,
    };
    if !restore.is_empty() {
        session.query_drop(format!("SET {}", restore.join(", "))).await?;
    }
    match done {
        // Somebody (an order given out twice) was quicker.
        Err(e) if is_doubled(&e) && statement.kind != "foreign key" => Ok(()),
        done => done,
    }
}

/// A trigger acts with the rights of an account: that of the source, if the destination has it, else drover's.
async fn trigger(session: &mut Session, statement: &Statement) -> std::result::Result<(), mysql_async::Error> {
    if let Some((user, host)) = &statement.definer {
        let account = format!("{}@{}", sql::name(user), sql::name(host));
        let find = format!("SELECT 1 FROM mysql.user WHERE user = {} AND host = {}", sql::text(user), sql::text(host));
        // Whoever may not look lacks the right to name another account as well.
        let there = match session.query_first::<u8, _>(find).await {
            Ok(found) => found.is_some(),
            Err(mysql_async::Error::Server(_)) => false,
            Err(e) => return Err(e),
        };
        if there {
            match session.query_drop(format!("CREATE DEFINER={account} {}", statement.sql)).await {
                Err(mysql_async::Error::Server(e)) if e.code == 1227 => {}
                done => return done,
            }
        }
    }
    session.query_drop(format!("CREATE {}", statement.sql)).await
}

fn failed(statement: &Statement, e: &mysql_async::Error) -> Error {
    let what = format!("creating {} {}: {}", statement.kind, statement.name, statement.sql);
    let mut error = errors::classify(e, Fault::Destination, what);
    if error.remedy.is_none() && error.code == codes::STATEMENT {
        error = error.remedy(match statement.kind.as_str() {
            "table" => "change the table at the source, leave it out by exclude in [[objects]], or create it at the destination by hand",
            "foreign key" => "mend what the server complains about, or create the key by hand after the migration",
            _ => "leave it out by exclude in [[objects]], or create it at the destination by hand under its name: what exists is left as it is",
        });
    }
    match &statement.on {
        Some(table) => error.table(table),
        None => error,
    }
}

/// No such database, table, function, or a view that lacks something.
fn is_missing(e: &mysql_async::Error) -> bool {
    errors::number(e).is_some_and(|n| matches!(n, 1049 | 1146 | 1305 | 1356))
}

/// Database, table, view, trigger, routine exists.
fn is_doubled(e: &mysql_async::Error) -> bool {
    errors::number(e).is_some_and(|n| matches!(n, 1007 | 1050 | 1304 | 1359))
}

/// A table that exists must have every column that moves, of a type that holds its values.
async fn fits(session: &mut Session, plan: &TablePlan, existing_allowed: bool) -> Result<()> {
    if let Some(why) = misfit(session, plan).await? {
        let advice = if existing_allowed {
            "rename or change the table there"
        } else {
            "rename or drop the table there, or map to another name"
        };
        return Err(Error::new(codes::STATEMENT, Fault::Destination, Retry::Never, why)
            .table(&plan.destination)
            .remedy(advice));
    }
    Ok(())
}

/// What will be left out of the migration's schema, and why: warnings K5, K18, K19, K20. Pure.
pub fn left_out(catalog: &Catalog, plans: &[TablePlan], objects: &[Object], known: &Known) -> Vec<CheckItem> {
    let Some(mut work) = Work::new(catalog, plans, objects, known) else {
        let mut work = Foreign::new(catalog, plans, objects, known);
        work.base();
        for (plan, table) in work.tables.clone() {
            work.table(plan, table);
        }
        work.last();
        return work.left_out.iter().map(item).collect();
    };
    work.base();
    for (plan, table) in work.tables.clone() {
        work.table(plan, table);
    }
    work.last();
    let triggers = work.cutover();
    let mut out: Vec<CheckItem> = work.left_out.iter().map(item).collect();
    out.extend(work.doubtful().iter().map(|l| {
        let remedy = "change its body at the destination, or keep the names";
        CheckItem::warning(
            "K20",
            format!("{} {}", l.kind, l.name),
            format!("{}: it may fail when it runs", l.reason),
            remedy,
        )
    }));
    for t in triggers {
        let account = t.definer.as_ref().map_or(String::new(), |(u, h)| format!("{u}@{h}"));
        let cause = format!(
            "it is created at the switch, and acts with the rights of {account} if the destination has that account, else of drover's"
        );
        out.push(CheckItem::warning(
            "K19",
            format!("trigger {}", t.name),
            cause,
            "create the account at the destination beforehand, or keep drover's",
        ));
    }
    out
}

fn item(l: &work::LeftOut) -> CheckItem {
    let object = format!("{} {}", l.kind, l.name);
    if let Some(what) = l.kind.strip_prefix("attribute ") {
        let cause = format!("{what} is left out: {}", l.reason);
        return CheckItem::warning("K5", &l.name, cause, "see to it that the application can live without it");
    }
    let hard =
        ["event", "sequence", "package", "package body", "table", "procedure", "function"].contains(&l.kind.as_str());
    let (number, remedy) = if hard {
        ("K18", "create it at the destination by hand")
    } else {
        ("K20", "select what it needs under its own name, or create it by hand afterwards")
    };
    CheckItem::warning(number, object, format!("it is left out: {}", l.reason), remedy)
}

/// The source's auto-increment and sequence values (see [`catalog::auto_increments`]) under the destination's names: pairs of the source's
/// name and what [`set_auto_increments`] takes. Values of what does not move are left out. Pure.
pub fn map_auto_increments(
    catalog: &Catalog,
    plans: &[TablePlan],
    objects: &[Object],
    known: &Known,
    values: &[SequenceValue],
) -> Vec<(String, SequenceValue)> {
    let Some(work) = Work::new(catalog, plans, objects, known) else {
        return foreign::map_counters(catalog, plans, values);
    };
    let mapped = values.iter().filter_map(|(schema, name, value, called)| {
        let source = TableName::new(schema.as_str(), name.as_str());
        let to = match plans.iter().find(|p| p.source == source) {
            Some(plan) => plan.destination.clone(),
            None => {
                let moves = known.version.is_mariadb()
                    && objects.iter().any(|o| o.kind == "sequence" && o.schema == *schema && o.name == *name);
                work.renames.of(moves.then_some(&source)?)
            }
        };
        Some((source.to_string(), (to.schema, to.name, *value, *called)))
    });
    mapped.collect()
}

/// Schema, name, next value, false.
type SequenceValue = (String, String, i64, bool);

/// Sets the next values of auto-increment columns and sequences, where they exist. An auto-increment value that is not beyond the largest one
/// in the table changes nothing: the server keeps to the larger.
///
/// # Errors
/// As [`errors::classify`] says, with the destination at fault.
pub async fn set_auto_increments(session: &mut Session, values: &[SequenceValue]) -> Result<()> {
    let what = "setting an auto-increment value";
    for (schema, name, value, _) in values {
        let table = TableName::new(schema.clone(), name.clone());
        let find = format!(
            "SELECT table_type, EXISTS (SELECT 1 FROM information_schema.columns c WHERE c.table_schema = t.table_schema \
             AND c.table_name = t.table_name AND c.extra LIKE '%auto_increment%') \
             FROM information_schema.tables t WHERE t.table_schema = {} AND t.table_name = {}",
            sql::text(schema),
            sql::text(name)
        );
        let found: Option<(String, bool)> = session.first(find, what).await?;
        let statement = match found {
            Some((kind, _)) if kind == "SEQUENCE" => format!("DO SETVAL({}, {value}, 0)", sql::qualified(&table)),
            // The bits of an unsigned number, see `catalog::auto_increments`.
            Some((_, true)) => format!("ALTER TABLE {} AUTO_INCREMENT = {}", sql::qualified(&table), *value as u64),
            _ => continue,
        };
        session.run(statement, what).await.map_err(|e| e.table(&table))?;
    }
    Ok(())
}
