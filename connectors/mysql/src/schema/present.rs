//! What the destination has.

use super::work::Statement;
use crate::catalog;
use crate::connect::Session;
use crate::sql;
use crate::typemap::Known;
use crate::types::{Kind, MyType};
use drover_model::schema::TableName;
use drover_model::{Result, TablePlan};
use std::collections::{BTreeSet, HashSet};

/// Databases, relations and their parts. Names are folded as the server compares them.
pub(super) struct Present {
    fold: bool,
    databases: HashSet<String>,
    relations: HashSet<(String, String)>,
    foreign: HashSet<(String, String, String)>,
    /// With the kind in lower case.
    routines: HashSet<(String, String, String)>,
    triggers: HashSet<(String, String)>,
}

impl Present {
    /// Reads what is in these databases.
    pub(super) async fn read(session: &mut Session, known: &Known, databases: &BTreeSet<String>) -> Result<Present> {
        let what = "reading what exists at the destination";
        let fold = known.lower_case;
        let f = |name: &str| if fold { name.to_lowercase() } else { name.to_owned() };
        let list: Vec<String> = databases.iter().map(|d| sql::text(&f(d))).collect();
        let list = if list.is_empty() { "''".to_owned() } else { list.join(", ") };
        let schemata: Vec<String> = session.all("SELECT schema_name FROM information_schema.schemata", what).await?;
        let pairs = |rows: Vec<(String, String)>| rows.into_iter().map(|(s, n)| (f(&s), f(&n))).collect();
        let triples = |rows: Vec<(String, String, String)>| -> HashSet<(String, String, String)> {
            rows.into_iter().map(|(s, t, n)| (f(&s), f(&t), n.to_lowercase())).collect()
        };
        let relations =
            format!("SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN ({list})");
        let foreign = format!(
            "SELECT table_schema, table_name, constraint_name FROM information_schema.table_constraints \
             WHERE constraint_type = 'FOREIGN KEY' AND table_schema IN ({list})"
        );
        let routines = format!(
            "SELECT routine_schema, routine_name, routine_type FROM information_schema.routines WHERE routine_schema IN ({list})"
        );
        let triggers = format!(
            "SELECT trigger_schema, trigger_name FROM information_schema.triggers WHERE trigger_schema IN ({list})"
        );
        Ok(Present {
            fold,
            databases: schemata.iter().map(|d| f(d)).collect(),
            relations: pairs(session.all(relations, what).await?),
            foreign: triples(session.all(foreign, what).await?),
            // Names of routines are compared without regard to case.
            routines: session
                .all::<(String, String, String)>(routines, what)
                .await?
                .into_iter()
                .map(|(s, n, k)| (f(&s), n.to_lowercase(), k.to_lowercase()))
                .collect(),
            triggers: pairs(session.all(triggers, what).await?),
        })
    }

    fn name(&self, name: &str) -> String {
        if self.fold { name.to_lowercase() } else { name.to_owned() }
    }

    fn pair(&self, name: &TableName) -> (String, String) {
        (self.name(&name.schema), self.name(&name.name))
    }

    pub(super) fn table(&self, name: &TableName) -> bool {
        self.relations.contains(&self.pair(name))
    }

    pub(super) fn has(&self, statement: &Statement) -> bool {
        let name = &statement.name;
        match statement.kind.as_str() {
            "database" => self.databases.contains(&self.name(&name.name)),
            "table" | "view" | "sequence" => self.table(name),
            "foreign key" => {
                let on = statement.on.as_ref().unwrap_or(name);
                let (schema, table) = self.pair(on);
                self.foreign.contains(&(schema, table, name.name.to_lowercase()))
            }
            "trigger" => self.triggers.contains(&self.pair(name)),
            kind => {
                let schema = self.name(&name.schema);
                self.routines.contains(&(schema, name.name.to_lowercase(), kind.to_owned()))
            }
        }
    }
}

/// Names of a table's indexes, in lower case: they are compared without regard to case.
pub(super) async fn indexes(session: &mut Session, table: &TableName) -> Result<HashSet<String>> {
    let sql = format!(
        "SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = {} AND table_name = {}",
        sql::text(&table.schema),
        sql::text(&table.name)
    );
    let names: Vec<String> = session.all(sql, "reading the indexes of a table").await?;
    Ok(names.into_iter().map(|n| n.to_lowercase()).collect())
}

/// Why an existing table cannot take the plan's rows; `None`: it can, or it does not exist.
///
/// # Errors
/// As [`crate::errors::classify`] says, with the session's side at fault.
pub async fn misfit(session: &mut Session, plan: &TablePlan) -> Result<Option<String>> {
    let table = std::slice::from_ref(&plan.destination);
    let found = catalog::shapes(session, table).await?;
    // A server that folds names gives them in lower case.
    let Some(there) = found.into_values().next() else { return Ok(None) };
    for column in &plan.columns {
        let name = column.destination.to_lowercase();
        let Some(found) = there.iter().find(|c| c.name.to_lowercase() == name) else {
            return Ok(Some(format!("column {} is missing", column.destination)));
        };
        if found.generated.is_some() {
            return Ok(Some(format!("column {} is generated there", column.destination)));
        }
        let wanted = MyType::parse(&column.destination_type);
        let holds = match (&found.my_type, &wanted) {
            (Some(there), Some(wanted)) => holds(there, wanted),
            _ => false,
        };
        if !holds {
            return Ok(Some(format!(
                "column {} is of type {}, not {}",
                column.destination, found.origin_type, column.destination_type
            )));
        }
    }
    let required = there.iter().filter(|c| !c.nullable && c.generated.is_none() && !c.auto_increment);
    let unfed: Vec<&str> = required
        .filter(|c| !plan.columns.iter().any(|p| p.destination.eq_ignore_ascii_case(&c.name)))
        .map(|c| c.name.as_str())
        .collect();
    if unfed.is_empty() {
        return Ok(None);
    }
    // Those with a default feed themselves.
    let sql = format!(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = {} AND table_name = {} AND column_default IS NULL",
        sql::text(&plan.destination.schema),
        sql::text(&plan.destination.name)
    );
    let bare: Vec<String> = session.all(sql, "reading the columns of a table").await?;
    let unfed = unfed.into_iter().find(|name| bare.iter().any(|b| b == name));
    Ok(unfed.map(|name| format!("column {name} demands a value, and no column of the source gives it one")))
}

/// Whether a column holds every value of another type, with the same bytes.
fn holds(there: &MyType, wanted: &MyType) -> bool {
    let charset = match (there.charset.as_deref(), wanted.charset.as_deref()) {
        (a, b) if a == b => true,
        (Some(a), Some(b)) => {
            let unicode = |c: &str| matches!(c, "utf8" | "utf8mb3" | "utf8mb4");
            // Rows come as bytes in the source's character set: the same bytes must mean the same.
            (unicode(a) && matches!(b, "utf8" | "utf8mb3")) || (b == "ascii" && (unicode(a) || a == "latin1"))
        }
        _ => false,
    };
    let kind = match (&there.kind, &wanted.kind) {
        (Kind::Int { bytes: a }, Kind::Int { bytes: b }) => {
            (a >= b && there.unsigned == wanted.unsigned) || (a > b && wanted.unsigned)
        }
        (Kind::VarChar { length: a }, Kind::VarChar { length: b })
        | (Kind::VarBinary { length: a }, Kind::VarBinary { length: b }) => a >= b,
        (Kind::Text { prefix: a }, Kind::Text { prefix: b }) | (Kind::Blob { prefix: a }, Kind::Blob { prefix: b }) => {
            a >= b
        }
        (Kind::Text { prefix: 4 }, Kind::VarChar { .. }) | (Kind::Blob { prefix: 4 }, Kind::VarBinary { .. }) => true,
        (Kind::Enum { labels: a }, Kind::Enum { labels: b }) => a.starts_with(b),
        (Kind::Set { labels: a }, Kind::Set { labels: b }) => a.starts_with(b),
        (Kind::Geometry { name: a }, Kind::Geometry { name: b }) => {
            let plain = |n: &str| if n == "geomcollection" { "geometrycollection".to_owned() } else { n.to_owned() };
            a == "geometry" || plain(a) == plain(b)
        }
        (a, b) => a == b && there.unsigned == wanted.unsigned,
    };
    kind && charset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_what() {
        let t = |text: &str| MyType::parse(text).unwrap();
        assert!(holds(&t("bigint(20)"), &t("int")));
        assert!(holds(&t("bigint"), &t("int unsigned")) && !holds(&t("int unsigned"), &t("int")));
        assert!(holds(&t("varchar(20) character set utf8mb4"), &t("varchar(10) character set utf8mb3")));
        assert!(!holds(&t("varchar(20) character set utf8mb4"), &t("varchar(10) character set latin1")));
        assert!(holds(&t("enum('a','b','c') character set utf8mb4"), &t("enum('a','b') character set utf8mb4")));
        assert!(!holds(&t("datetime"), &t("datetime(6)")) && !holds(&t("decimal(10,2)"), &t("decimal(12,2)")));
    }
}
