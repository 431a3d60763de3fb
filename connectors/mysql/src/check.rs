//! The precheck of the MySQL family as source and as destination: every item of the requirements that applies, each with what was found
//! and with the grant, setting or statement that mends it. Nothing here changes a database.
//!
//! [`source`] and [`destination`] are given a session; that there is none is [`connect_failure`]'s matter.

mod destination;
pub mod grants;
mod log;
mod source;
pub(crate) mod variant;

use crate::connect::Session;
use crate::flavor::{Flavor, Version};
use crate::sql;
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::schema::{Catalog, Object};
use drover_model::selection::Selection;
use drover_model::{Error, Result, TablePlan};

pub use destination::check as destination;
pub use source::check as source;
pub(crate) use source::transactional;

/// Which end of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// K2 and K4: versions that drover knows.
pub(crate) fn version(item: &str, object: &str, v: &Version) -> CheckItem {
    // Oldest that works, oldest that is meant to, newest that was tried.
    let (oldest, old, newest) = match v.flavor {
        Flavor::MySql => (50_100, 50_100, 91_000),
        Flavor::MariaDb => (100_000, 100_300, 120_000),
    };
    if v.number < oldest {
        let least = if v.flavor == Flavor::MySql { "5.1" } else { "10.3" };
        let cause = format!("{v} is older than {least}");
        return CheckItem::failed(item, object, cause, format!("upgrade the server to version {least} or later"));
    }
    if v.number < old || v.number >= newest {
        let cause = format!("{v} is not among the versions that drover has been tried with");
        return CheckItem::warning(item, object, cause, "try the migration on a copy first");
    }
    CheckItem { cause: v.to_string(), ..CheckItem::passed(item, object) }
}

/// K16: the database that the destination's `url` names is not where the tables go, for names stay as they are.
pub fn elsewhere(database: &str, plans: &[TablePlan]) -> Option<CheckItem> {
    let mut databases: Vec<String> = plans.iter().map(|p| p.destination.schema.clone()).collect();
    databases.sort_unstable();
    databases.dedup();
    let goes_there = databases.iter().any(|d| d.eq_ignore_ascii_case(database));
    let first = databases.first().filter(|_| !goes_there)?;
    let cause =
        format!("the destination's url names the database {database}, but the tables go to {}", some(&databases));
    let remedy = format!(
        "names stay as they are at the source; for another one: [[objects]] with include = \"{first}.*\" and rename = \"{database}.*\""
    );
    Some(CheckItem::warning("K16", database, cause, remedy))
}

/// K1 or K3: as whom we are here, and from where as the server sees it. `localhost` is what servers call their socket.
async fn connected(session: &mut Session, end: End) -> Result<CheckItem> {
    let (item, object) = named(end);
    let found: Option<String> = session.first("SELECT USER()", "asking who we are").await?;
    let found = found.unwrap_or_default();
    let (account, from) = found.rsplit_once('@').unwrap_or((&found, ""));
    Ok(CheckItem::connected(item, object, account, Some(from).filter(|f| !["localhost", ""].contains(f))))
}

fn named(end: End) -> (&'static str, &'static str) {
    if end == End::Source { ("K1", "source") } else { ("K3", "destination") }
}

/// K1 or K3 for a connection that could not be made, with what most likely is the cause, told by the server's error number and by the
/// kind of error.
pub fn connect_failure(end: End, error: &Error) -> CheckItem {
    let (item, object) = named(end);
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    let number = |n: u16| text.contains(&format!("(error {n},")) || text.contains(&format!("error {n} "));
    let remedy = if number(1045) || number(1698) {
        "the password or the account is wrong, or the account may not come from this address: correct `url` or `password` in the migration \
         file, or look at the account's host (SELECT user, host FROM mysql.user) and CREATE USER 'ACCOUNT'@'ADDRESS'"
            .to_owned()
    } else if number(1130) {
        "the server does not let this address in: CREATE USER 'ACCOUNT'@'ADDRESS', or add the address to its allow list"
            .to_owned()
    } else if number(1129) {
        "the server has blocked this address after failed attempts: FLUSH HOSTS there (mysqladmin flush-hosts)"
            .to_owned()
    } else if number(1049) || number(1044) {
        "the database does not exist, or the account may not see it: correct its name in `url`, or GRANT a privilege on it".to_owned()
    } else if number(1040) || number(1203) || number(1226) {
        "the server has no connection left: raise max_connections (or the account's limit), or end idle sessions"
            .to_owned()
    } else if number(3118) || number(3955) || number(4151) {
        "the account is locked: ALTER USER … ACCOUNT UNLOCK".to_owned()
    } else if number(1820) || number(1862) {
        "the account's password has expired: ALTER USER … IDENTIFIED BY '…'".to_owned()
    } else if number(3159) {
        "the server wants TLS: set `tls` in the migration file".to_owned()
    } else if number(1251) || number(2059) || has("auth") && has("plugin") {
        "the account logs in by a plug-in that is not known here: ALTER USER … IDENTIFIED WITH caching_sha2_password (or mysql_native_password)"
            .to_owned()
    } else if has("refused") {
        "nothing listens at this address and port: is the server up, do bind_address and skip_networking let it listen there, is the port right?"
            .to_owned()
    } else if has("timed out") || has("unreachable") || has("within 10 s") {
        "the address does not answer: check firewall, security group and route from this machine".to_owned()
    } else if has("lookup") || has("resolve") {
        "the host's name is not known here: correct it in `url`".to_owned()
    } else if has("certificate") || has("TLS") || has("tls") || has("SSL") {
        "TLS could not be agreed on: compare `tls` in the migration file with the server's ssl_ca, ssl_cert and have_ssl".to_owned()
    } else {
        error.remedy.clone().unwrap_or_else(|| match error.code.as_str() {
            codes::CONFIGURATION => "correct the endpoint in the migration file".to_owned(),
            _ => "check that the server is up and that this machine can reach it".to_owned(),
        })
    };
    CheckItem::failed(item, object, text, remedy)
}

/// Objects besides tables that the migration selects.
pub(crate) fn selected(migration: &Migration, catalog: &Catalog) -> Vec<Object> {
    // Rules that do not compile have been refused with the file.
    match Selection::compile_within(&migration.objects, catalog.scope.as_deref()) {
        Ok(s) => catalog.objects.iter().filter(|o| s.selects_object(&o.schema, &o.name)).cloned().collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether a host is a managed service's.
pub(crate) fn managed(host: &str) -> bool {
    [".rds.aliyuncs.com", ".rds.amazonaws.com", ".database.azure.com"].iter().any(|s| host.to_lowercase().ends_with(s))
}

/// `user@host` as statements write it.
pub(crate) fn account(current_user: &str) -> String {
    let (user, host) = current_user.rsplit_once('@').unwrap_or((current_user, "%"));
    format!("{}@{}", sql::text(user), sql::text(host))
}

/// A short list for people: the first few, and how many more.
pub(crate) fn some(names: &[String]) -> String {
    match names.len() {
        0..=5 => names.join(", "),
        n => format!("{} and {} more", names[..5].join(", "), n - 5),
    }
}

/// Adds a passed item for each of these that nothing else was said about since.
pub(crate) fn passed(items: &mut Vec<CheckItem>, since: usize, what: &[(&str, String)]) {
    for (item, object) in what {
        if items[since..].iter().all(|i| i.item != *item) {
            items.push(CheckItem::passed(item, object.clone()));
        }
    }
}
