//! Comparison of two databases, row by row and in both directions, and of their structure.
//!
//! Each side's rows come as texts in one order; the two streams are merged. Every row of one side must meet one equal row of the
//! other: a row that is there twice needs a partner twice. The comparison shares no code with drover's own `validate`.

use std::fmt;

use anyhow::{Result, bail};
use bytes::Bytes;

use crate::server::Session;

mod cross;
mod mysql;
mod postgres;

/// How many examples of each kind are kept.
const EXAMPLES: usize = 5;

/// What differs in one table (or query). A changed row counts on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The table's name, both names if they differ.
    pub table: String,
    /// Rows that only the source has.
    pub missing: u64,
    /// Rows that only the destination has.
    pub extra: u64,
    /// Some of each, or the reason why rows could not be compared.
    pub examples: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} rows missing, {} too many", self.table, self.missing, self.extra)?;
        self.examples.iter().try_for_each(|example| write!(f, "\n    {example}"))
    }
}

/// A column: its name as SQL writes it, and the expression whose text is compared.
type Column = (String, String);

/// The rows of a query as texts, in one order.
enum Rows {
    Postgres(postgres::Rows),
    MySql(std::vec::IntoIter<Bytes>),
}

impl Rows {
    async fn open(session: &mut Session, query: &str) -> Result<Rows> {
        Ok(match session {
            Session::Postgres(client) => Rows::Postgres(postgres::Rows::open(client, query).await?),
            Session::MySql(conn) => Rows::MySql(mysql::rows(conn, query).await?.into_iter()),
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Rows::Postgres(rows) => rows.next().await,
            Rows::MySql(rows) => Ok(rows.next()),
        }
    }
}

/// All tables that users own, sorted, as SQL writes them: of PostgreSQL `schema.table` (a partitioned table stands for its
/// partitions), of MySQL those of the session's database. drover's own tables are left out.
pub async fn user_tables(session: &mut Session) -> Result<Vec<String>> {
    let sql = match session {
        Session::Postgres(_) => postgres::TABLES,
        Session::MySql(_) => mysql::TABLES,
    };
    Ok(session.rows(sql).await?.into_iter().flatten().flatten().collect())
}

async fn columns(session: &mut Session, table: &str, signless: bool) -> Result<Option<Vec<Column>>> {
    match session {
        Session::Postgres(client) => postgres::columns(client, table).await,
        Session::MySql(conn) => mysql::columns(conn, table, signless).await,
    }
}

/// Whether the server stores zero for minus zero: then nobody can keep its sign there.
async fn signless(session: &mut Session) -> Result<bool> {
    match session {
        Session::Postgres(_) => Ok(false),
        Session::MySql(conn) => mysql::signless(conn).await,
    }
}

/// Opens a transaction on one snapshot in which values are printed the same way whatever the server's settings are.
async fn begin(session: &mut Session) -> Result<()> {
    let sql = match session {
        Session::Postgres(_) => postgres::BEGIN,
        Session::MySql(_) => mysql::BEGIN,
    };
    session.run(sql).await
}

async fn end(session: &mut Session) -> Result<()> {
    let sql = match session {
        Session::Postgres(_) => "COMMIT",
        Session::MySql(_) => mysql::END,
    };
    session.run(sql).await
}

/// Rows of different engines have no common text form here.
fn comparable(source: &Session, destination: &Session) -> Result<()> {
    if source.dialect() != destination.dialect() {
        bail!("{:?} and {:?} print values in different ways", source.dialect(), destination.dialect());
    }
    Ok(())
}

/// Compares tables by pairs of names (as SQL writes them): equal column names, equal rows. Empty result: no difference. Each
/// side is read in one transaction, so that all tables of a side show one state.
pub async fn tables(
    source: &mut Session,
    destination: &mut Session,
    pairs: &[(&str, &str)],
) -> Result<Vec<Difference>> {
    comparable(source, destination)?;
    begin(source).await?;
    begin(destination).await?;
    let signless = signless(source).await? || signless(destination).await?;
    let mut found = Vec::new();
    for (from, to) in pairs {
        let name = if from == to { (*from).to_owned() } else { format!("{from} → {to}") };
        let (ours, theirs) = (columns(source, from, signless).await?, columns(destination, to, signless).await?);
        let (Some(ours), Some(theirs)) = (&ours, &theirs) else {
            let example = format!("no such table at the {}", if ours.is_none() { "source" } else { "destination" });
            found.push(Difference { table: name, examples: vec![example], ..Difference::default() });
            continue;
        };
        let names = |of: &[Column]| of.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        if names(ours) != names(theirs) {
            let example = format!("columns {} at the source, {} at the destination", names(ours), names(theirs));
            found.push(Difference { table: name, examples: vec![example], ..Difference::default() });
            continue;
        }
        let query = |of: &[Column], table: &str| {
            format!("SELECT {} FROM {table}", of.iter().map(|(_, sql)| sql.as_str()).collect::<Vec<_>>().join(", "))
        };
        found.extend(merge(&name, source, destination, &query(ours, from), &query(theirs, to)).await?);
    }
    end(source).await?;
    end(destination).await?;
    Ok(found)
}

/// Compares the rows of two queries (columns dropped, renamed or filtered on the way), in any order.
pub async fn queries(
    source: &mut Session,
    destination: &mut Session,
    pairs: &[(&str, &str)],
) -> Result<Vec<Difference>> {
    comparable(source, destination)?;
    begin(source).await?;
    begin(destination).await?;
    let mut found = Vec::new();
    for (from, to) in pairs {
        found.extend(merge(from, source, destination, from, to).await?);
    }
    end(source).await?;
    end(destination).await?;
    Ok(found)
}

/// Compares all user tables of two databases by name; a table that one side lacks is a difference, too. Between two MySQL servers
/// of one release, the servers' own checksums must agree as well.
pub async fn databases(source: &mut Session, destination: &mut Session) -> Result<Vec<Difference>> {
    if source.dialect() != destination.dialect() {
        return cross::databases(source, destination).await;
    }
    let mut names = user_tables(source).await?;
    names.extend(user_tables(destination).await?);
    names.sort();
    names.dedup();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let mut found = tables(source, destination, &pairs).await?;
    if let (Session::MySql(source), Session::MySql(destination), true) = (source, destination, found.is_empty()) {
        found.extend(mysql::checksums(source, destination, &names).await?);
    }
    Ok(found)
}

/// Takes any difference for an error that lists them all; a comparison of no table at all is an error as well.
pub async fn expect_equal(source: &mut Session, destination: &mut Session) -> Result<()> {
    if source.dialect() == destination.dialect() && user_tables(source).await?.is_empty() {
        bail!("nothing to compare: the source has no table");
    }
    expect_none(&databases(source, destination).await?)
}

/// Takes any difference for an error that lists them all.
pub fn expect_none(found: &[Difference]) -> Result<()> {
    if !found.is_empty() {
        let list: Vec<String> = found.iter().map(Difference::to_string).collect();
        bail!("the sides differ\n{}", list.join("\n"));
    }
    Ok(())
}

/// What the two catalogs say beyond the columns' names: types, nullability, defaults, keys, constraints, indexes; of MySQL views,
/// triggers and routines, too. Lines that only one side has are the error. Numbers that counters have reached are left out, and who
/// defined an object. Between different releases only what both can say is compared.
pub async fn same_structure(source: &mut Session, destination: &mut Session) -> Result<()> {
    same_structure_but(source, destination, "").await
}

/// The same without the things of one kind (`trigger`, say), which the destination may have or not.
pub async fn same_structure_but(source: &mut Session, destination: &mut Session, kind: &str) -> Result<()> {
    let (ours, theirs) = match (&mut *source, &mut *destination) {
        (Session::Postgres(_), Session::Postgres(_)) => {
            (lines(source, postgres::STRUCTURE).await?, lines(destination, postgres::STRUCTURE).await?)
        }
        (Session::MySql(source), Session::MySql(destination)) => mysql::structures(source, destination).await?,
        _ => bail!("structures of different engines cannot be compared"),
    };
    if ours.is_empty() {
        bail!("nothing to compare: the source has no table");
    }
    let only = |one: &[String], other: &[String], what: &str| {
        let lines = one.iter().filter(|line| !other.contains(line));
        let lines = lines.filter(|line| line.split(' ').next().is_none_or(|word| !word.eq_ignore_ascii_case(kind)));
        lines.map(|line| format!("{what}: {line}")).collect::<Vec<String>>()
    };
    let mut found = only(&ours, &theirs, "missing");
    found.extend(only(&theirs, &ours, "too much"));
    if !found.is_empty() {
        bail!("the structures differ\n{}", found.join("\n"));
    }
    Ok(())
}

async fn lines(session: &mut Session, sql: &str) -> Result<Vec<String>> {
    Ok(session.rows(sql).await?.into_iter().flatten().flatten().collect())
}

async fn merge(
    name: &str,
    source: &mut Session,
    destination: &mut Session,
    ours: &str,
    theirs: &str,
) -> Result<Option<Difference>> {
    let mut left = Rows::open(source, ours).await?;
    let mut right = Rows::open(destination, theirs).await?;
    let mut found = Difference { table: name.to_owned(), ..Difference::default() };
    let (mut a, mut b) = (left.next().await?, right.next().await?);
    loop {
        let order = match (&a, &b) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        if order.is_lt() {
            found.missing += 1;
            if found.missing <= EXAMPLES as u64 {
                found.examples.push(format!("missing: {}", shown(a.as_deref())));
            }
        }
        if order.is_gt() {
            found.extra += 1;
            if found.extra <= EXAMPLES as u64 {
                found.examples.push(format!("too many: {}", shown(b.as_deref())));
            }
        }
        if order.is_le() {
            a = left.next().await?;
        }
        if order.is_ge() {
            b = right.next().await?;
        }
    }
    Ok((found.missing + found.extra > 0).then_some(found))
}

fn shown(row: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(row.unwrap_or_default());
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
