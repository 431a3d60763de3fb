//! Generated tables that put every type of an engine into every place: as a key, with nulls, with a default, in tables with keys of
//! all sorts and with none; with rows at the edges of each type, and changes to them. The same each time.
//!
//! `t0`, `t1` … have one type each: `k` as the key (where the type can be one, else a number), `v` with nulls, `d` not null with a
//! default. `m0`, `m1` … mix six types: key of two columns, unique key alone, unique key with nulls, none.

use crate::Pair;
use crate::server::Dialect;

mod mysql;
mod postgres;

/// A type and what can be put into it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As it stands in a definition.
    pub sql: &'static str,
    /// Expressions for values, the edges among them.
    pub values: &'static [&'static str],
    /// An expression that gives another key for each number from 1 to 120, which stands in it as `{}`; empty: no key.
    pub key: &'static str,
    /// How the key's column stands in a key's definition, when not by its name alone.
    pub prefix: &'static str,
    /// Whether `DEFAULT` takes a literal.
    pub default: bool,
}

/// Kinds of one engine; `prefix` is for keys on the beginnings of texts.
const fn kind(sql: &'static str, key: &'static str, values: &'static [&'static str]) -> Kind {
    Kind { sql, values, key, prefix: "", default: true }
}

impl Kind {
    const fn no_default(mut self) -> Kind {
        self.default = false;
        self
    }

    const fn prefix(mut self, prefix: &'static str) -> Kind {
        self.prefix = prefix;
        self
    }

    fn value(&self, n: usize) -> &'static str {
        self.values[n % self.values.len()]
    }

    fn key(&self, n: usize) -> String {
        if self.key.is_empty() { n.to_string() } else { self.key.replace("{}", &n.to_string()) }
    }
}

/// Rows of each table at the beginning, and what is added later.
const ROWS: usize = 40;
const MORE: usize = 12;

/// What a source has to run.
#[derive(Clone, Debug, Default)]
pub struct Generated {
    /// Tables and rows.
    pub create: Vec<String>,
    /// Changes to them.
    pub change: Vec<String>,
    /// How many tables there are.
    pub tables: usize,
    /// Sections of a migration file: between engines, what becomes of values that only one of them has.
    pub objects: String,
}

/// The tables for a pair: its source has all their types and its destination, too.
pub fn generate(pair: Pair) -> Generated {
    let kinds = match pair.source.dialect() {
        Dialect::Postgres => postgres::kinds(),
        Dialect::MySql => mysql::kinds(pair),
    };
    let mut made = Generated::default();
    if pair.source.dialect() == Dialect::MySql {
        // Dates that are none, too.
        let session = "SET sql_mode = 'NO_ENGINE_SUBSTITUTION', time_zone = '+00:00'";
        made.create.push(session.into());
        made.change.push(session.into());
    }
    if pair.source.dialect() != pair.destination.dialect() {
        made.objects = "[[objects]]\ninclude = \"*.*\"\n".into();
    }
    for (number, kind) in kinds.iter().enumerate() {
        single(&mut made, &format!("t{number}"), kind);
    }
    // Whatever can stand in a key can be compared, so that rows without a key can be found.
    let plain: Vec<&Kind> = kinds.iter().filter(|kind| !kind.key.is_empty() && kind.prefix.is_empty()).collect();
    for (number, start) in (0..plain.len()).step_by(2).enumerate() {
        // Strides that share no factor with most lengths bring other types together each time.
        let six: Vec<&Kind> = (0..6).map(|place| plain[(start + place * 7) % plain.len()]).collect();
        mixed(&mut made, number, &six);
    }
    made
}

/// The policy for values of a type that only one engine has.
fn policy(kind: &Kind) -> Option<&'static str> {
    let word = kind.sql.split(['(', ' ']).next().unwrap_or_default();
    match word {
        "date" | "time" | "datetime" | "timestamp" => Some("text"),
        // The character of number 0.
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Some("clamp"),
        _ => None,
    }
}

fn policies<'k>(made: &mut Generated, table: &str, columns: impl IntoIterator<Item = (String, &'k Kind)>) {
    if made.objects.is_empty() {
        return;
    }
    let named = columns.into_iter().filter_map(|(name, kind)| Some(format!("{name} = \"{}\"", policy(kind)?)));
    let named = named.collect::<Vec<_>>().join(", ");
    if !named.is_empty() {
        made.objects
            .push_str(&format!("[[objects]]\ninclude = \"app.{table}\"\ncolumns = {{ on_misfit = {{ {named} }} }}\n"));
    }
}

fn single(made: &mut Generated, table: &str, kind: &Kind) {
    let typed = if kind.key.is_empty() { &["v", "d"][..] } else { &["k", "v", "d"] };
    policies(made, table, typed.iter().map(|c| ((*c).to_owned(), kind)));
    let key = if kind.key.is_empty() { "int" } else { kind.sql };
    let default = if kind.default { format!("DEFAULT {}", kind.value(0)) } else { String::new() };
    let prefix = kind.prefix;
    made.tables += 1;
    made.create.push(format!(
        "CREATE TABLE {table} (k {key} NOT NULL, v {kind} NULL, d {kind} NOT NULL {default}, n int, PRIMARY KEY (k{prefix}))",
        kind = kind.sql
    ));
    let row = |n: usize| {
        let value = if n.is_multiple_of(4) { "NULL" } else { kind.value(n) };
        format!("({}, {value}, {}, {n})", kind.key(n), kind.value(n / 2))
    };
    let rows = |from: usize, to: usize| (from..=to).map(row).collect::<Vec<_>>().join(", ");
    made.create.push(format!("INSERT INTO {table} VALUES {}", rows(1, ROWS)));
    made.change.push("BEGIN".into());
    made.change.push(format!("INSERT INTO {table} VALUES {}", rows(ROWS + 1, ROWS + MORE)));
    if kind.default {
        made.change.push(format!("INSERT INTO {table} (k, n) VALUES ({}, 70)", kind.key(70)));
    }
    for n in (1..=ROWS + MORE).step_by(3) {
        made.change.push(format!("UPDATE {table} SET v = {}, d = {} WHERE n = {n}", kind.value(n + 1), kind.value(n)));
    }
    made.change.push(format!("UPDATE {table} SET v = NULL WHERE n = 2"));
    made.change.push(format!("UPDATE {table} SET k = {} WHERE n = 5", kind.key(80)));
    made.change.push(format!("UPDATE {table} SET n = -n WHERE n > 20 AND n < 30"));
    made.change.push(format!("DELETE FROM {table} WHERE n > 30 AND n < 37"));
    made.change.push("COMMIT".into());
}

fn mixed(made: &mut Generated, number: usize, six: &[&Kind]) {
    let keyed = number % 4;
    let key = match keyed {
        0 => ", PRIMARY KEY (c0, c1)",
        1 => ", UNIQUE (c0)",
        2 => ", UNIQUE (c1)",
        _ => "",
    };
    // The unique column alone stands for a key when it has no nulls.
    let null = |place: usize| if place == 0 && keyed < 2 || place == 1 && keyed == 0 { "NOT NULL" } else { "NULL" };
    let columns = six.iter().enumerate().map(|(place, kind)| format!("c{place} {} {}", kind.sql, null(place)));
    let columns = columns.collect::<Vec<_>>().join(", ");
    let table = format!("m{number}");
    policies(made, &table, six.iter().enumerate().map(|(place, kind)| (format!("c{place}"), *kind)));
    made.tables += 1;
    made.create.push(format!("CREATE TABLE {table} ({columns}, n int{key})"));
    let row = |n: usize| {
        let mut values: Vec<String> =
            six.iter().enumerate().map(|(place, kind)| kind.value(n + place).into()).collect();
        values[0] = six[0].key(n);
        values[1] = if keyed == 2 && n.is_multiple_of(3) { "NULL".into() } else { six[1].key(n) };
        if n.is_multiple_of(5) {
            values[5] = "NULL".into();
        }
        // Without a key, rows come twice.
        let row = format!("({}, {n})", values.join(", "));
        if keyed == 3 && n.is_multiple_of(2) { format!("{row}, {row}") } else { row }
    };
    let rows = |from: usize, to: usize| (from..=to).map(row).collect::<Vec<_>>().join(", ");
    made.create.push(format!("INSERT INTO {table} VALUES {}", rows(1, ROWS)));
    made.change.push("BEGIN".into());
    made.change.push(format!("INSERT INTO {table} VALUES {}", rows(ROWS + 1, ROWS + MORE)));
    for n in (1..=ROWS).step_by(3) {
        made.change.push(format!("UPDATE {table} SET c4 = {}, n = n + 1000 WHERE n = {n}", six[4].value(n + 3)));
    }
    if keyed < 3 {
        made.change.push(format!("UPDATE {table} SET c0 = {}, c1 = {} WHERE n = 3", six[0].key(80), six[1].key(80)));
    }
    made.change.push(format!("DELETE FROM {table} WHERE n > 20 AND n < 27"));
    made.change.push(format!("UPDATE {table} SET c5 = NULL, c3 = {} WHERE n < 3", six[3].value(2)));
    made.change.push("COMMIT".into());
}
