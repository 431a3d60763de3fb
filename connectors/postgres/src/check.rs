//! The precheck of PostgreSQL as source and as destination: every item of the requirements that applies, each with what was found and with
//! the grant, setting or statement that mends it. Nothing here changes a database.
//!
//! [`source`] and [`destination`] are given a session; that there is none is [`connect_failure`]'s matter.

mod destination;
mod permissions;
mod settings;
mod tables;

use crate::errors::classify;
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::schema::Catalog;
use drover_model::{Error, Fault, Result, TablePlan};
use tokio_postgres::Client;

pub use destination::check as destination;

/// Which end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// Versions that drover knows.
pub(crate) const OLDEST: u32 = 100_000;
pub(crate) const NEWEST: u32 = 190_000;

/// The source's items. The session must not be within a transaction.
///
/// # Errors
/// When the check itself could not be done.
pub async fn source(
    client: &Client,
    migration: &Migration,
    plans: &[TablePlan],
    catalog: &Catalog,
) -> Result<Vec<CheckItem>> {
    let at = |e: tokio_postgres::Error| classify(&e, Fault::Source, "checking the source");
    let incremental = migration.has(drover_model::migration::Stage::Incremental);
    let mut items = vec![
        connected(client, End::Source).await.map_err(at)?,
        version("K2", "source", catalog.version, &catalog.version_text),
    ];
    items.push(CheckItem::passed("K35", &catalog.database));
    items.push(CheckItem::passed("K53", "retry windows"));
    items.push(CheckItem::passed("K56", "TLS material"));
    permissions::source(client, incremental, plans, catalog, &mut items).await.map_err(at)?;
    if incremental {
        settings::source(client, &mut items).await.map_err(at)?;
        tables::followed(client, migration.set_identity, plans, catalog, &mut items).await.map_err(at)?;
        settings::long_transactions(client, &mut items).await.map_err(at)?;
    }
    tables::filters(client, plans, &mut items).await.map_err(at)?;
    tables::large_objects(client, &mut items).await.map_err(at)?;
    let mut hint = CheckItem::passed("K57", "load");
    hint.cause =
        "the copy reads and writes with all its sessions: below 30 % CPU on both sides is a good time for it".into();
    items.push(hint);
    Ok(items)
}

/// K2 and K4.
fn version(item: &str, object: &str, version: u32, text: &str) -> CheckItem {
    if version < OLDEST {
        CheckItem::failed(
            item,
            object,
            format!("version {text} is older than 10"),
            "upgrade the server to version 10 or later",
        )
    } else if version >= NEWEST {
        CheckItem::warning(
            item,
            object,
            format!("version {text} is newer than what drover has been tried with"),
            "try the migration on a copy first",
        )
    } else {
        CheckItem { cause: format!("version {text}"), ..CheckItem::passed(item, object) }
    }
}

/// K1 or K3: as whom we are here, and from which address as the server sees it.
async fn connected(client: &Client, end: End) -> std::result::Result<CheckItem, tokio_postgres::Error> {
    let (item, object) = named(end);
    let row = client.query_one("SELECT session_user::text, host(inet_client_addr())", &[]).await?;
    Ok(CheckItem::connected(item, object, row.get(0), row.get(1)))
}

fn named(end: End) -> (&'static str, &'static str) {
    if end == End::Source { ("K1", "source") } else { ("K3", "destination") }
}

/// K1 or K3 for a connection that could not be made, with what most likely is the cause, told by SQLSTATE and kind of error.
pub fn connect_failure(end: End, error: &Error) -> CheckItem {
    let (item, object) = named(end);
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    let remedy = if has("28P01") {
        "the password or the account is wrong: correct `url` or `password` in the migration file".to_owned()
    } else if has("28000") {
        "the server refuses this account from this address: add a line such as `host DATABASE ACCOUNT ADDRESS scram-sha-256` to pg_hba.conf \
         (for incremental also with DATABASE `replication`) and SELECT pg_reload_conf()"
            .to_owned()
    } else if has("3D000") {
        "the database does not exist: CREATE DATABASE, or correct its name in `url`".to_owned()
    } else if has("53300") {
        "the server has no connection left: raise max_connections or end idle sessions".to_owned()
    } else if has("57P03") {
        "the server is starting or recovering: try again when it is up".to_owned()
    } else if has("42501") {
        "the account may not connect: GRANT CONNECT ON DATABASE … TO …".to_owned()
    } else if has("refused") {
        "nothing listens at this address and port: is the server up, does listen_addresses contain this address, is the port right?".to_owned()
    } else if has("timed out") || has("unreachable") {
        "the address does not answer: check firewall, security group and route from this machine".to_owned()
    } else if has("lookup") || has("resolve") {
        "the host's name is not known here: correct it in `url`".to_owned()
    } else if has("certificate") || has("TLS") || has("tls") || has("SSL") {
        "TLS could not be agreed on: compare `tls` in the migration file with the server's `ssl` settings and certificate".to_owned()
    } else {
        error.remedy.clone().unwrap_or_else(|| match error.code.as_str() {
            codes::CONFIGURATION => "correct the endpoint in the migration file".to_owned(),
            _ => "check that the server is up and that this machine can reach it".to_owned(),
        })
    };
    CheckItem::failed(item, object, text, remedy)
}

/// A short list for people: the first few, and how many more.
pub(crate) fn some(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        n => format!("{} and {} more", names[..5].join(", "), n - 5),
    }
}
