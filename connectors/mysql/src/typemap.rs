//! Mapping a table, purely. Within the family a type stays what it is, or becomes one that holds every value of it and is named in an item;
//! a column for which there is none is refused. Tables of other kinds of databases: [`foreign`].

pub mod collate;
pub mod foreign;

use crate::CELLS;
use crate::connect::Session;
use crate::flavor::{Flavor, Version};
use crate::types::{Kind, MyType};
use drover_connectors_api::MappedTable;
use drover_model::Result;
use drover_model::check::CheckItem;
use drover_model::plan::{Floats, Misfit, PlanColumn, RowFormat, TablePlan};
use drover_model::schema::{Catalog, Column, Identity, Table, TableName, UniqueKey};
use drover_model::selection::TableChoice;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What a destination server knows: read once, so that mapping needs no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub version: Version,
    /// Full names of collations.
    pub collations: BTreeSet<String>,
    pub charsets: BTreeSet<String>,
    /// Default collation by character set.
    pub defaults: BTreeMap<String, String>,
    /// Storage engines in capitals.
    pub engines: BTreeSet<String>,
    /// Names of databases and tables are compared without regard to case.
    pub lower_case: bool,
}

impl Known {
    /// Asks a server.
    ///
    /// # Errors
    /// As [`crate::errors::classify`] says, with the session's side at fault.
    pub async fn read(session: &mut Session) -> Result<Known> {
        let what = "cannot ask what the server knows";
        let mut collations: Vec<String> =
            session.all("SELECT collation_name FROM information_schema.collations", what).await?;
        if session.version.mariadb(101_000) {
            // From here on one collation serves several character sets and has a full name for each.
            let full = "SELECT full_collation_name FROM information_schema.collation_character_set_applicability";
            collations.extend(session.all::<String>(full, what).await?);
        }
        let charsets: Vec<(String, String)> = session
            .all("SELECT character_set_name, default_collate_name FROM information_schema.character_sets", what)
            .await?;
        let engines: Vec<(String, String)> =
            session.all("SELECT engine, support FROM information_schema.engines", what).await?;
        let lower: Option<u8> = session.first("SELECT @@lower_case_table_names", what).await?;
        Ok(Known {
            version: session.version.clone(),
            collations: collations.into_iter().map(|c| c.to_ascii_lowercase()).collect(),
            charsets: charsets.iter().map(|(c, _)| c.to_ascii_lowercase()).collect(),
            defaults: charsets.into_iter().map(|(c, d)| (c.to_ascii_lowercase(), d.to_ascii_lowercase())).collect(),
            engines: engines
                .into_iter()
                .filter(|(_, support)| support == "YES" || support == "DEFAULT")
                .map(|(e, _)| e.to_ascii_uppercase())
                .collect(),
            lower_case: lower.unwrap_or(0) != 0,
        })
    }

    /// The collation that a character set has if none is named.
    pub fn default_collation(&self, charset: &str) -> String {
        self.defaults.get(charset).cloned().unwrap_or_else(|| format!("{charset}_general_ci"))
    }
}

/// A column's type at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeAt {
    /// With ` character set X` behind it where it has one.
    pub text: String,
    /// Set where the type is another one: what the operator should know.
    pub note: Option<String>,
}

/// The type for a column of the family.
///
/// # Errors
/// Why there is none that holds every value.
pub fn type_at(origin_type: &str, known: &Known) -> std::result::Result<TypeAt, String> {
    let Some(my_type) = MyType::parse(origin_type) else {
        return Err(format!("type {origin_type} is not known here"));
    };
    let v = &known.version;
    let (bare, charset) = match origin_type.rfind(" character set ") {
        Some(at) if my_type.charset.is_some() => (&origin_type[..at], my_type.charset.as_deref()),
        _ => (origin_type, None),
    };
    let same = |text: &str| Ok(TypeAt { text: text.to_owned(), note: None });
    let other = |text: &str, why: &str| {
        Ok(TypeAt { text: text.to_owned(), note: Some(format!("type {bare} becomes {text}: {why}")) })
    };
    let unicode = || collate::charset("utf8mb4", known).or_else(|| collate::charset("utf8", known)).unwrap_or_default();
    let lacks = format!("{v} does not have it");
    match &my_type.kind {
        Kind::Json if v.mysql(50_708) => same("json"),
        Kind::Json => other(
            &format!("longtext character set {}", unicode()),
            "JSON is a text here, with a check that it is valid; its order of keys is kept as it comes",
        ),
        Kind::Uuid if !v.mariadb(100_700) => other("char(36) character set ascii", &lacks),
        Kind::Inet4 if !v.mariadb(101_000) => other("varchar(15) character set ascii", &lacks),
        Kind::Inet6 if !v.mariadb(100_500) => other("varchar(45) character set ascii", &lacks),
        Kind::Vector { length } if !v.mariadb(110_700) && !v.mysql(90_000) => {
            other(&format!("varbinary({})", length.saturating_mul(4)), &lacks)
        }
        Kind::Geometry { name } => same(match name.as_str() {
            "geomcollection" | "geometrycollection" if v.mysql(80_011) => "geomcollection",
            "geomcollection" => "geometrycollection",
            name => name,
        }),
        Kind::Time { digits } | Kind::DateTime { digits } | Kind::Timestamp { digits }
            if *digits > 0 && !v.is_mariadb() && !v.mysql(50_604) =>
        {
            Err(format!("{v} has no fractions of seconds"))
        }
        Kind::Year if !v.is_mariadb() => same("year"),
        _ => match charset {
            Some(charset) => match collate::charset(charset, known) {
                Some(here) => same(&format!("{bare} character set {here}")),
                None => Err(format!("{v} does not have the character set {charset}")),
            },
            None => same(bare),
        },
    }
}

/// How floating point numbers are read where the migration file does not say it. All servers send them bit by bit; but MySQL before 5.5 does not
/// read each number back from its shortest text, in which they are written.
fn floats(destination: &Version) -> Floats {
    let exact = destination.flavor == Flavor::MariaDb || destination.number >= 50_500;
    if exact { Floats::Lossless } else { Floats::Round }
}

/// Maps one table. `id` and `version` of the plan are zero, its format is the first of the formats.
pub fn map_table(catalog: &Catalog, table: &Table, choice: &TableChoice, known: &Known) -> MappedTable {
    let object = table.name.to_string();
    let mut items = Vec::new();
    let origin = Flavor::of_origin(&catalog.origin);
    let mut columns: Vec<PlanColumn> = Vec::new();
    let foreign = if origin.is_none() { foreign::types(catalog, table, choice, known) } else { BTreeMap::new() };
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut by_value = Vec::new();
    let mut nearest = BTreeMap::new();
    for chosen in &choice.columns {
        let Some(column) = table.column(&chosen.source) else {
            items.push(CheckItem::failed(
                "K21",
                format!("{object}.{}", chosen.source),
                "the selected column does not exist at the source",
                "correct the name in [[objects]] columns",
            ));
            continue;
        };
        if column.generated.is_some() {
            if origin.is_none() {
                items.push(CheckItem::warning(
                    "K18",
                    format!("{object}.{}", column.name),
                    "its expression is the source's own: the column is left out",
                    "create the table beforehand with an expression of the destination's own",
                ));
            }
            continue;
        }
        let destination_type = match (origin, foreign.get(&column.name)) {
            (Some(origin), _) => of_family(origin, column, known, &object, &mut items, &mut nearest),
            (None, Some(Ok(mapped))) => {
                if let Some(note) = &mapped.note {
                    told.entry(note.clone()).or_default().push(column.name.clone());
                }
                if chosen.misfit == Misfit::Null && !column.nullable {
                    items.push(CheckItem::warning(
                        "K17",
                        format!("{object}.{}", column.name),
                        "the column is not null at the source; with on_misfit = \"null\" it is created without NOT NULL",
                        "take \"clamp\" or \"text\" where the application relies on it",
                    ));
                }
                if mapped.by_value && matches!(chosen.misfit, Misfit::Null | Misfit::Clamp) {
                    items.push(CheckItem::warning(
                        "K17",
                        format!("{object}.{}", column.name),
                        "values that do not fit are changed by its on_misfit: drover_misfit counts them, and the comparison leaves the column out",
                        "see to it that the application can live with it",
                    ));
                } else if mapped.by_value && chosen.misfit != Misfit::Text {
                    by_value.push(column.name.clone());
                }
                Some(mapped.text.clone())
            }
            (None, other) => {
                let why = match other {
                    Some(Err(why)) => why.clone(),
                    _ => format!("type {} of the source has no counterpart here", column.origin_type),
                };
                let drop = format!("leave the column out: columns = {{ drop = [\"{}\"] }}", column.name);
                items.push(CheckItem::failed("K17", format!("{object}.{}", column.name), why, drop));
                None
            }
        };
        let Some(destination_type) = destination_type else { continue };
        columns.push(PlanColumn {
            source: column.name.clone(),
            destination: chosen.destination.clone(),
            data_type: column.data_type.clone(),
            origin_type: column.origin_type.clone(),
            destination_type,
            identity_always: column.identity == Some(Identity::Always),
            ordinal: None,
            misfit: chosen.misfit,
        });
    }
    for (note, columns) in told {
        items.push(CheckItem::warning(
            "K17",
            &object,
            format!("{}: {note}", columns.join(", ")),
            "see to it that the application can live with it",
        ));
    }
    if !by_value.is_empty() {
        let cause = format!(
            "{}: these types have values at the source that the destination's do not (infinity, dates beyond the years 1 to 9999, \
             longer numbers): such a value ends the migration, or becomes what on_misfit says",
            by_value.join(", ")
        );
        items.push(CheckItem { cause, ..CheckItem::passed("K17", format!("{object} values")) });
    }
    for ((from, to), columns) in nearest {
        items.push(CheckItem::warning(
            "K5",
            &object,
            format!("{}: {} does not have the collation {from}; {to} takes its place", columns.join(", "), known.version),
            "what is equal and how rows are sorted may differ for rare characters: compare what matters to the application",
        ));
    }
    if table.options.contains_key("versioned") {
        items.push(CheckItem::failed(
            "K18",
            &object,
            "the table is system-versioned: its history cannot be carried",
            "leave the table out, or ALTER TABLE … DROP SYSTEM VERSIONING at the source",
        ));
    }
    names(&object, choice, &columns, known, &mut items);
    let key = identity(&object, table, &columns, &mut items);
    for column in key.iter().filter_map(|&k| columns.get(usize::from(k))).filter(|c| c.misfit == Misfit::Null) {
        items.push(CheckItem::failed(
            "K17",
            format!("{object}.{}", column.source),
            "on_misfit = \"null\" cannot be for a column of a key that identifies rows",
            "take \"clamp\", \"text\" or \"fail\"",
        ));
    }
    if columns.is_empty() {
        items.push(CheckItem::failed(
            "K21",
            &object,
            "no column of the table is left to be moved",
            "select at least one column",
        ));
    }
    let formats = match origin {
        Some(_) => vec![RowFormat::Native(CELLS.into()), RowFormat::Canonical],
        None => vec![RowFormat::Canonical],
    };
    let left_out =
        table.columns.iter().filter(|c| !columns.iter().any(|p| p.source == c.name)).map(|c| c.name.clone()).collect();
    let plan = TablePlan {
        id: 0,
        version: 0,
        source: table.name.clone(),
        destination: TableName::new(choice.schema.clone(), choice.table.clone()),
        columns,
        left_out,
        key,
        filter: choice.filter.clone(),
        operations: choice.operations,
        floats: choice.floats.unwrap_or_else(|| floats(&known.version)),
        format: formats[0].clone(),
        physical: table.physical.clone(),
        rows: table.rows,
        bytes: table.bytes,
    };
    MappedTable { plan, formats, items }
}

fn of_family(
    origin: Flavor,
    column: &Column,
    known: &Known,
    table: &str,
    items: &mut Vec<CheckItem>,
    nearest: &mut BTreeMap<(String, String), Vec<String>>,
) -> Option<String> {
    let object = format!("{table}.{}", column.name);
    let drop = || format!("leave the column out: columns = {{ drop = [\"{}\"] }}", column.name);
    let at = match type_at(&column.origin_type, known) {
        Ok(at) => at,
        Err(why) => {
            items.push(CheckItem::failed("K17", object, why, drop()));
            return None;
        }
    };
    if let Some(note) = at.note {
        items.push(CheckItem::warning("K17", &object, note, "see to it that the application can live with it"));
    }
    let my_type = MyType::parse(&column.origin_type);
    if origin == Flavor::MariaDb
        && matches!(my_type.as_ref().map(|t| &t.kind), Some(Kind::Text { .. }))
        && column.data_type == drover_model::schema::DataType::JsonText
        && !known.version.is_mariadb()
    {
        let note = "JSON of MariaDB is a text: it stays LONGTEXT with its check, so that every value stays what it is";
        items.push(CheckItem::warning(
            "K17",
            &object,
            note,
            "ALTER TABLE … MODIFY … JSON at the destination, after the switch",
        ));
    }
    if let (Some(collation), Some(charset)) = (&column.collation, MyType::parse(&at.text).and_then(|t| t.charset))
        && let collate::Collation::Nearest(name) = collate::collation(collation, &charset, known)
    {
        nearest.entry((collation.clone(), name)).or_default().push(column.name.clone());
    }
    Some(at.text)
}

/// The columns that name a row: the primary key, else a unique key of not-null columns, all of them moved.
fn identity(object: &str, table: &Table, columns: &[PlanColumn], items: &mut Vec<CheckItem>) -> Vec<u16> {
    let position = |name: &String| columns.iter().position(|c| c.source.eq_ignore_ascii_case(name)).map(|i| i as u16);
    let whole = |k: &&UniqueKey| k.columns.iter().all(|c| position(c).is_some());
    let candidates = || table.keys.iter().filter(|k| k.identifies);
    let best = candidates().find(|k| k.primary && whole(k)).or_else(|| candidates().find(whole));
    let key: Vec<u16> = best.map(|k| k.columns.iter().filter_map(position).collect()).unwrap_or_default();
    if key.is_empty() {
        items.push(match candidates().next() {
            Some(k) => CheckItem::warning(
                "K15",
                object,
                format!(
                    "the columns left out belong to its key {}: rows are identified by the whole row, and rows may become equal",
                    k.name
                ),
                format!("select all of {}", k.columns.join(", ")),
            ),
            None => CheckItem::warning(
                "K15",
                object,
                "it has no primary key and no unique key of not-null columns: rows are identified by the whole row, which is slower, \
                 and a copy that is begun again begins from empty",
                format!("ALTER TABLE {} ADD PRIMARY KEY (…)", crate::sql::qualified(&table.name)),
            ),
        });
    }
    key
}

/// Names at the destination are legal and distinct.
fn names(object: &str, choice: &TableChoice, columns: &[PlanColumn], known: &Known, items: &mut Vec<CheckItem>) {
    let own = [&choice.schema, &choice.table];
    for name in own.into_iter().chain(columns.iter().map(|c| &c.destination)) {
        let length = name.chars().count();
        if length == 0 || length > 64 || name.contains('\0') || name.ends_with(' ') {
            items.push(CheckItem::failed(
                "K21",
                object,
                format!("the name \"{name}\" is not legal here: 1 to 64 characters, no space at the end"),
                "choose another name with rename",
            ));
        }
    }
    if crate::catalog::SYSTEM.contains(&choice.schema.to_lowercase().as_str()) {
        items.push(CheckItem::failed(
            "K21",
            object,
            format!("database {} is reserved at the destination", choice.schema),
            "choose another database with rename",
        ));
    }
    if known.lower_case
        && (choice.schema.chars().any(char::is_uppercase) || choice.table.chars().any(char::is_uppercase))
    {
        items.push(CheckItem::warning(
            "K16",
            object,
            format!(
                "the destination stores names in lower case: {}.{} loses its capitals",
                choice.schema, choice.table
            ),
            "see to it that the application does not depend on them (lower_case_table_names)",
        ));
    }
    let mut seen = HashSet::new();
    for column in columns {
        // Names of columns are compared without regard to case on every server.
        if !seen.insert(column.destination.to_lowercase()) {
            items.push(CheckItem::failed(
                "K21",
                format!("{object}.{}", column.source),
                format!("two columns get the name {}", column.destination),
                "choose another name in columns.rename",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_unasked_only_for_servers_that_misread_their_texts() {
        let read = |version: &str| floats(&Version::parse(version).unwrap());
        assert_eq!(["5.1.73-log", "5.4.0"].map(read), [Floats::Round; 2]);
        assert_eq!(["5.5.62", "9.7.0", "10.3.0-MariaDB", "5.5.5-10.4.2-MariaDB"].map(read), [Floats::Lossless; 4]);
    }
}
