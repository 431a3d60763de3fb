//! Services that speak MySQL's protocol and are something else behind it, with the rules that hold for migrations to them: K6 and K7. They are known by
//! what the server says of itself and by the names of the services' hosts.
//!
//! Nothing but the check has been tried with them; a server that calls itself by their versions plays them in the tests. What the check cannot see it says.
//!
//! Sources: the form of versions (`5.6.29-TDDL-5.3.2-1658858`, from 5.4.13 on PolarDB-X 2) and `SHOW DATASOURCES` in Alibaba Cloud's manuals of DRDS and PolarDB-X.

use crate::connect::Session;
use crate::flavor::Version;
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::{Migration, Stage};
use drover_model::{Error, Fault, Result, Retry, TablePlan};
use mysql_async::Row;
use std::collections::BTreeMap;

const WHAT: &str = "checking what the server is";

/// A service of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// DRDS: a proxy that spreads tables over several MySQL servers.
    Drds,
    /// PolarDB-X 2, which grew out of it and stores rows itself.
    PolarDbX,
    /// HybridDB for MySQL, formerly PetaData.
    HybridDb,
    /// AnalyticDB for MySQL.
    AnalyticDb,
}

impl Variant {
    fn title(self) -> &'static str {
        match self {
            Variant::Drds => "DRDS",
            Variant::PolarDbX => "PolarDB-X",
            Variant::HybridDb => "HybridDB for MySQL",
            Variant::AnalyticDb => "AnalyticDB for MySQL",
        }
    }

    /// Tables have to be there before, and only rows are carried.
    fn takes_rows_only(self) -> bool {
        matches!(self, Variant::Drds | Variant::HybridDb)
    }

    /// What a server is that calls itself so, at this address. `None`: MySQL or MariaDB.
    pub(super) fn of(version: &str, comment: &str, host: &str) -> Option<Variant> {
        let (version, host) = (version.to_uppercase(), host.to_lowercase());
        let says = |word: &str| version.contains(word) || comment.to_uppercase().contains(word);
        if let Some((_, own)) = version.split_once("-TDDL-") {
            let mut parts = own.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
            let mut next = || parts.next().unwrap_or(0);
            return Some(if (next(), next(), next()) > (5, 4, 12) { Variant::PolarDbX } else { Variant::Drds });
        }
        let hosts = [
            (".drds.aliyuncs.com", Variant::Drds),
            (".polarx.rds.aliyuncs.com", Variant::PolarDbX),
            (".petadata.rds.aliyuncs.com", Variant::HybridDb),
            (".ads.aliyuncs.com", Variant::AnalyticDb),
        ];
        if let Some((_, variant)) = hosts.iter().find(|(suffix, _)| host.ends_with(suffix)) {
            return Some(*variant);
        }
        let words = [("PETADATA", Variant::HybridDb), ("ANALYTICDB", Variant::AnalyticDb)];
        words.iter().find(|(word, _)| says(word)).map(|(_, variant)| *variant)
    }
}

/// Whether the server can be a source at all.
///
/// # Errors
/// UNSUPPORTED: it is a service of its own, which gives no log that could be followed.
pub(crate) fn can_be_source(version: &Version) -> Result<()> {
    let Some(variant) = Variant::of(&version.text, "", "") else { return Ok(()) };
    let cause = format!("the source is {} ({}), which cannot be one", variant.title(), version.text);
    Err(Error::new(codes::UNSUPPORTED, Fault::Source, Retry::Never, cause)
        .remedy("point `url` at a MySQL or MariaDB server itself"))
}

/// K6 and K7 of a destination that is a service of its own; nothing for MySQL and MariaDB.
pub(super) async fn check(
    session: &mut Session,
    variables: &BTreeMap<String, String>,
    migration: &Migration,
    plans: &[TablePlan],
    items: &mut Vec<CheckItem>,
) -> Result<()> {
    let comment = variables.get("version_comment").map_or("", String::as_str);
    let found = Variant::of(&session.version.text, comment, &migration.destination.url.host);
    let Some(variant) = found else { return Ok(()) };
    offered(variant, migration, plans, items);
    if variant == Variant::Drds {
        items.push(Backing::read(session).await?.item());
    }
    Ok(())
}

/// K6: what can be migrated to it.
fn offered(variant: Variant, migration: &Migration, plans: &[TablePlan], items: &mut Vec<CheckItem>) {
    let (title, since) = (variant.title(), items.len());
    if !variant.takes_rows_only() {
        let cause = format!(
            "the destination is {title}: it is given what a MySQL is given, and what it does not take ends the migration by name; drover has not been tried with it"
        );
        items.push(CheckItem::warning("K6", "destination", cause, "try the migration on a copy first"));
        return;
    }
    if migration.has(Stage::Schema) {
        let cause = format!("the destination is {title}: its tables are not created by a migration");
        let remedy = "create databases and tables there, and set stages = [\"full\", \"incremental\"] in [migrate]";
        items.push(CheckItem::failed("K6", "stages", cause, remedy));
    }
    let more = |p: &&TablePlan| p.operations.ddl || p.operations.truncate;
    if let Some(plan) = plans.iter().find(more).filter(|_| migration.has(Stage::Incremental)) {
        let cause = format!(
            "the destination is {title}: of changes it takes rows only, and {} would have schema changes carried as well",
            plan.source
        );
        let remedy = "set operations = [\"insert\", \"update\", \"delete\"] in each block of [[objects]]";
        items.push(CheckItem::failed("K6", "operations", cause, remedy));
    }
    super::passed(items, since, &[("K6", format!("rows to {title}"))]);
}

/// The servers behind a DRDS, as far as it shows them.
#[derive(Debug, Default)]
struct Backing {
    hosts: Vec<String>,
    /// Version of the first one; `None`: not shown.
    version: Option<String>,
}

impl Backing {
    async fn read(session: &mut Session) -> Result<Backing> {
        let mut backing = Backing::default();
        match session.all::<Row>("SHOW DATASOURCES", WHAT).await {
            Ok(rows) => {
                let texts = rows.iter().flat_map(|row| (0..row.len()).filter_map(|i| row.get_opt(i)?.ok()));
                backing.hosts = texts.filter_map(|text: String| host_of(&text)).collect();
                backing.hosts.sort();
                backing.hosts.dedup();
            }
            Err(e) if e.code == codes::CONNECTION => return Err(e),
            Err(_) => {}
        }
        match session.first::<String>("/*+TDDL:node(0)*/ SELECT VERSION()", WHAT).await {
            Ok(version) => backing.version = version.filter(|v| !v.to_uppercase().contains("TDDL")),
            Err(e) if e.code == codes::CONNECTION => return Err(e),
            Err(_) => {}
        }
        Ok(backing)
    }

    /// K7: which servers may stand behind a DRDS.
    fn item(&self) -> CheckItem {
        let object = "servers behind DRDS";
        let remedy = "take a DRDS over MySQL 5.x instances that were bought for it";
        if let Some(host) = self.hosts.iter().find(|h| h.contains(".polardb.") || h.starts_with("pc-")) {
            return CheckItem::failed("K7", object, format!("{host} is a PolarDB"), remedy);
        }
        match &self.version {
            Some(version) if !version.starts_with("5.") => {
                CheckItem::failed("K7", object, format!("they are of version {version}"), remedy)
            }
            Some(version) => CheckItem::warning(
                "K7",
                object,
                format!("they are of version {version}; whether they were bought for DRDS cannot be seen"),
                "see to it that no private RDS is behind it",
            ),
            None => CheckItem::warning(
                "K7",
                object,
                "it does not show what they are",
                "see to it that they are MySQL 5.x instances bought for DRDS: MySQL 8.0, private RDS and PolarDB are not taken",
            ),
        }
    }
}

/// The host in `jdbc:mysql://host:port/database`.
fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("mysql://")?;
    let host = rest.split([':', '/', '?']).next()?;
    (!host.is_empty()).then(|| host.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::check::Outcome;

    #[test]
    fn services_are_known_by_version_comment_or_host() {
        let of = |version: &str, comment: &str, host: &str| Variant::of(version, comment, host);
        assert_eq!(of("5.6.29-TDDL-5.3.2-1658858", "", "10.0.0.1"), Some(Variant::Drds));
        assert_eq!(of("5.6.29-TDDL-5.4.12-16327949", "", ""), Some(Variant::Drds));
        assert_eq!(of("5.7.25-TDDL-5.4.19-20251031", "", ""), Some(Variant::PolarDbX));
        assert_eq!(of("5.6.16", "", "DrdsXyz.drds.aliyuncs.com"), Some(Variant::Drds));
        assert_eq!(of("5.1.31", "", "am-x.ads.aliyuncs.com"), Some(Variant::AnalyticDb));
        assert_eq!(of("5.1.31", "AnalyticDB 3.0", ""), Some(Variant::AnalyticDb));
        assert_eq!(of("5.6.16", "", "x.petadata.rds.aliyuncs.com"), Some(Variant::HybridDb));
        for plain in ["9.7.0", "8.0.36-28.1", "11.8.3-MariaDB-log", "5.6.16-log"] {
            assert_eq!(of(plain, "MySQL Community Server - GPL", "rm-x.mysql.rds.aliyuncs.com"), None, "{plain}");
        }
    }

    #[test]
    fn what_stands_behind_a_drds() {
        let result = |hosts: &[&str], version: Option<&str>| {
            let hosts = hosts.iter().filter_map(|url| host_of(url)).collect();
            Backing { hosts, version: version.map(str::to_owned) }.item().result
        };
        let own = "jdbc:mysql://rds1ur80kcv8g3t6p3ol.mysql.rds.aliyuncs.com:3306/shop_0000?x=y";
        assert_eq!(result(&[own], Some("5.7.25-log")), Outcome::Warning);
        assert_eq!(result(&[own], None), Outcome::Warning);
        assert_eq!(result(&[own], Some("8.0.28")), Outcome::Failed);
        assert_eq!(
            result(&[own, "jdbc:mysql://pc-x.mysql.polardb.rds.aliyuncs.com/a"], Some("5.6.16")),
            Outcome::Failed
        );
        assert_eq!(host_of("shop_0000"), None);
    }

    #[test]
    fn a_proxy_is_no_source() {
        let source = |text: &str| can_be_source(&Version::parse(text).unwrap());
        assert_eq!(source("5.6.29-TDDL-5.3.2-1658858").unwrap_err().code, codes::UNSUPPORTED);
        assert!(source("5.6.29-log").is_ok() && source("10.11.19-MariaDB").is_ok());
    }
}
