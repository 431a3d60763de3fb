//! Column types for a table of another kind of database, purely: from what its values are, never from what the source calls them. Guarantee: a type
//! holds every value of its column, or an item says which values it does not hold, and those end the migration or become what the operator
//! said (`on_misfit`); two values that differ at the source stay different here, in keys too.
//!
//! Text compares byte by byte and spaces at its end count (`utf8mb4_0900_bin`, `utf8mb4_nopad_bin`). A key takes 3072 bytes here at most, so text
//! without a limit that belongs to a unique or foreign key becomes as long a VARCHAR as its keys have room for.

use super::Known;
use crate::types::{Kind, MyType};
use drover_model::plan::Misfit;
use drover_model::schema::{Catalog, Column, DataType, Table};
use drover_model::selection::TableChoice;
use std::collections::{BTreeMap, HashMap};

/// Bytes of all columns of a key, at most.
pub(crate) const KEY_BYTES: u32 = 3072;
/// Bytes of a row apart from what is stored beside it, at most; some are left for the columns' heads.
const ROW_BYTES: u64 = 60_000;
/// Text in a key gets no shorter than this.
const LEAST: u32 = 32;
/// Values with a digit more than these become another type.
const DIGITS: (u32, u32) = (65, 30);

/// What a column becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// With ` character set X` behind it where it has one.
    pub text: String,
    /// What the operator should know.
    pub note: Option<String>,
    /// Only the data can say whether all values fit.
    pub by_value: bool,
}

/// The collation in which only equal bytes are equal.
pub fn binary_collation(charset: &str, known: &Known) -> String {
    let candidates = [format!("{charset}_0900_bin"), format!("{charset}_nopad_bin"), format!("{charset}_bin")];
    let found = candidates.iter().find(|c| known.collations.contains(*c));
    found.cloned().unwrap_or_else(|| format!("{charset}_bin"))
}

/// What a column becomes apart from keys: a type of a fixed size, or one with a length.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Natural {
    /// Its text and bytes in a key.
    Fixed(String, u32),
    Chars(Option<u32>),
    Bytes(Option<u32>),
}

fn utf8() -> &'static str {
    " character set utf8mb4"
}

/// Labels of an ENUM, if they are ones: at most 255 characters, no spaces at the end (they would go), not too many.
fn labels(labels: &[String]) -> Option<String> {
    let fine = |l: &String| l.chars().count() <= 255 && !l.ends_with(' ') && !l.contains('\0');
    if labels.is_empty() || labels.len() > 65_535 || !labels.iter().all(fine) {
        return None;
    }
    let list: Vec<String> = labels.iter().map(|l| crate::sql::text(l)).collect();
    Some(format!("enum({})", list.join(",")))
}

fn fraction(name: &str, digits: u8) -> String {
    if digits == 0 { name.to_owned() } else { format!("{name}({})", digits.min(6)) }
}

fn natural(t: &DataType, known: &Known) -> (Natural, Option<String>, bool) {
    let fixed = |text: &str, bytes: u32| (Natural::Fixed(text.to_owned(), bytes), None, false);
    let signed = |name: &str, bytes: u32, unsigned: bool| {
        (Natural::Fixed(format!("{name}{}", if unsigned { " unsigned" } else { "" }), bytes), None, false)
    };
    let v = &known.version;
    match t {
        DataType::Bool => fixed("tinyint(1)", 1),
        DataType::Int { bytes: 1, unsigned } => signed("tinyint", 1, *unsigned),
        DataType::Int { bytes: 2, unsigned } => signed("smallint", 2, *unsigned),
        DataType::Int { bytes: 3, unsigned } => signed("mediumint", 3, *unsigned),
        DataType::Int { bytes: 4, unsigned } => signed("int", 4, *unsigned),
        DataType::Int { unsigned, .. } => signed("bigint", 8, *unsigned),
        DataType::Float { bytes: 4 } => (Natural::Fixed("float".into(), 4), None, true),
        DataType::Float { .. } => (Natural::Fixed("double".into(), 8), None, true),
        DataType::Decimal { precision: Some(p), scale } => {
            let scale = scale.unwrap_or(0);
            // A negative scale stands for zeros ahead of the point, one beyond the precision for zeros behind it.
            let precision = if scale < 0 { p.saturating_add(scale.unsigned_abs()) } else { (*p).max(scale as u32) };
            let scale = scale.max(0) as u32;
            if precision <= DIGITS.0 && scale <= DIGITS.1 {
                return (Natural::Fixed(format!("decimal({precision},{scale})"), 30), None, true);
            }
            let text = format!("decimal({},{})", DIGITS.0, scale.min(DIGITS.1));
            let note = format!("becomes {text}: numbers have no more digits here, and values that do would not fit");
            (Natural::Fixed(text, 30), Some(note), true)
        }
        DataType::Decimal { precision: None, .. } => {
            let text = format!("decimal({},{})", DIGITS.0, DIGITS.1);
            let note = format!(
                "becomes {text}: values with more than {} digits before the point or {} behind it would not fit",
                DIGITS.0 - DIGITS.1,
                DIGITS.1
            );
            (Natural::Fixed(text, 30), Some(note), true)
        }
        DataType::Text { max: Some(n), padded: true } if *n <= 255 => {
            (Natural::Fixed(format!("char({n}){}", utf8()), n * 4), None, false)
        }
        DataType::Text { max, .. } => (Natural::Chars(*max), None, false),
        DataType::Bytes { max } => (Natural::Bytes(*max), None, false),
        DataType::Date => (Natural::Fixed("date".into(), 3), None, true),
        DataType::Time { precision, zone: false } => fixed(&fraction("time", *precision), 6),
        DataType::Time { zone: true, .. } => {
            let note = "becomes a text: no type here has a time with a zone";
            (Natural::Chars(Some(32)), Some(note.to_owned()), false)
        }
        DataType::Timestamp { precision, zone } => {
            let text = fraction("datetime", *precision);
            let note = zone.then(|| format!("an instant becomes {text} in UTC: TIMESTAMP ends in 2038"));
            (Natural::Fixed(text, 8), note, true)
        }
        DataType::Interval => {
            (Natural::Chars(Some(255)), Some("becomes a text: no type here has intervals".to_owned()), false)
        }
        // UUID of MariaDB refuses what has a version without its variant.
        DataType::Uuid => fixed("char(36) character set ascii", 36),
        DataType::Json | DataType::Document if v.mysql(50_708) => {
            (Natural::Fixed("json".into(), KEY_BYTES + 1), None, true)
        }
        DataType::JsonText if v.mysql(50_708) => {
            let note = "becomes a text, so that it stays what it is: JSON here keeps values only";
            (Natural::Chars(None), Some(note.to_owned()), false)
        }
        DataType::Json | DataType::JsonText | DataType::Document => (Natural::Chars(None), None, false),
        DataType::Bit { max: Some(n), varying: false } if (1..=64).contains(n) => fixed(&format!("bit({n})"), 8),
        DataType::Bit { max, .. } => {
            (Natural::Chars(*max), Some("becomes a text of the digits 0 and 1".to_owned()), false)
        }
        DataType::Enum { labels: all } => match labels(all) {
            Some(text) => (Natural::Fixed(format!("{text}{}", utf8()), 2), None, false),
            None => {
                let note = "becomes a text: its labels cannot be those of an ENUM";
                (Natural::Chars(None), Some(note.to_owned()), false)
            }
        },
        DataType::Array(_) => {
            (Natural::Chars(None), Some("an array becomes a text, as the source writes it".into()), false)
        }
        DataType::Other => (Natural::Chars(None), Some("becomes a text, as the source writes it".into()), false),
    }
}

/// Sets of columns that have to be whole in an index: unique keys, and foreign keys on either side.
fn whole_keys(catalog: &Catalog, table: &Table) -> Vec<Vec<String>> {
    let mut sets: Vec<Vec<String>> = table.keys.iter().map(|k| k.columns.clone()).collect();
    sets.extend(
        table.plain_indexes.iter().filter(|i| i.unique).map(|i| i.columns.iter().map(|c| c.name.clone()).collect()),
    );
    sets.extend(table.plain_foreign_keys.iter().map(|f| f.columns.clone()));
    let referring = catalog.tables.iter().flat_map(|t| &t.plain_foreign_keys).filter(|f| f.parent == table.name);
    sets.extend(referring.map(|f| f.references.clone()));
    sets.sort();
    sets.dedup();
    sets
}

/// What the chosen columns of a table become, by their names at the source; an error says why there is no type.
pub fn types(
    catalog: &Catalog,
    table: &Table,
    choice: &TableChoice,
    known: &Known,
) -> BTreeMap<String, Result<Mapped, String>> {
    let policy: HashMap<&str, Misfit> = choice.columns.iter().map(|c| (c.source.as_str(), c.misfit)).collect();
    let chosen: Vec<&Column> = table.columns.iter().filter(|c| policy.contains_key(c.name.as_str())).collect();
    let naturals: HashMap<&str, (Natural, Option<String>, bool)> = chosen
        .iter()
        .map(|c| {
            let as_text = policy.get(c.name.as_str()) == Some(&Misfit::Text);
            let found = natural(&c.data_type, known);
            let kept = match found.0 {
                Natural::Chars(_) | Natural::Bytes(_) => true,
                Natural::Fixed(ref text, _) => text.contains(" character set "),
            };
            (c.name.as_str(), if as_text && !kept { (Natural::Chars(None), None, false) } else { found })
        })
        .collect();
    // How long text may be in the keys that it belongs to.
    let mut limits: HashMap<String, u32> = HashMap::new();
    for set in whole_keys(catalog, table) {
        let all: Option<Vec<(&String, &Natural)>> =
            set.iter().map(|name| Some((name, &naturals.get(name.as_str())?.0))).collect();
        let Some(all) = all else { continue };
        let mut room = KEY_BYTES;
        let mut wide: Vec<(&String, u32)> = Vec::new();
        for (name, natural) in &all {
            let need = match natural {
                Natural::Fixed(_, bytes) => *bytes,
                Natural::Chars(Some(n)) => n.saturating_mul(4),
                Natural::Bytes(Some(n)) => *n,
                Natural::Chars(None) | Natural::Bytes(None) => u32::MAX,
            };
            match natural {
                Natural::Fixed(..) => room = room.saturating_sub(need + 1),
                _ => wide.push((name, need)),
            }
        }
        // The short ones get what they need, the others share the rest.
        wide.sort_by_key(|w| w.1);
        let count = wide.len() as u32;
        for (i, (name, need)) in wide.into_iter().enumerate() {
            let share = room / (count - i as u32).max(1);
            let bytes = need.min(share);
            room -= bytes;
            let limit = limits.entry(name.clone()).or_insert(u32::MAX);
            *limit = (*limit).min(bytes);
        }
    }
    let mut out = BTreeMap::new();
    let mut size = 0u64;
    let mut movable: Vec<(u64, String, bool)> = Vec::new();
    for column in &chosen {
        let Some((natural, note, by_value)) = naturals.get(column.name.as_str()).cloned() else { continue };
        let limit = limits.get(&column.name).copied();
        let mut mapped = Mapped { text: String::new(), note, by_value };
        match (natural, limit) {
            (Natural::Fixed(text, bytes), _) => {
                size += u64::from(bytes.min(1100));
                mapped.text = text;
            }
            (Natural::Chars(max), Some(bytes)) => {
                let chars = max.unwrap_or(u32::MAX).min(bytes / 4);
                if max != Some(chars) {
                    if chars < LEAST {
                        out.insert(column.name.clone(), Err(too_wide()));
                        continue;
                    }
                    mapped.note = Some(limited(&format!("varchar({chars})"), &mapped.note, "characters"));
                    mapped.by_value = true;
                }
                size += u64::from(chars) * 4 + 2;
                mapped.text = format!("varchar({chars}){}", utf8());
            }
            (Natural::Bytes(max), Some(bytes)) => {
                let length = max.unwrap_or(u32::MAX).min(bytes);
                if max != Some(length) {
                    if length < LEAST {
                        out.insert(column.name.clone(), Err(too_wide()));
                        continue;
                    }
                    mapped.note = Some(limited(&format!("varbinary({length})"), &mapped.note, "bytes"));
                    mapped.by_value = true;
                }
                size += u64::from(length) + 2;
                mapped.text = format!("varbinary({length})");
            }
            (Natural::Chars(Some(n)), None) if n <= 16_000 => {
                let bytes = u64::from(n) * 4 + 2;
                size += bytes;
                movable.push((bytes, column.name.clone(), true));
                mapped.text = format!("varchar({n}){}", utf8());
            }
            (Natural::Bytes(Some(n)), None) if n <= 60_000 => {
                let bytes = u64::from(n) + 2;
                size += bytes;
                movable.push((bytes, column.name.clone(), false));
                mapped.text = format!("varbinary({n})");
            }
            (Natural::Chars(_), None) => {
                size += 12;
                mapped.text = format!("longtext{}", utf8());
            }
            (Natural::Bytes(_), None) => {
                size += 12;
                mapped.text = "longblob".to_owned();
            }
        }
        out.insert(column.name.clone(), Ok(mapped));
    }
    // What a row has no room for is stored beside it.
    movable.sort_by_key(|m| std::cmp::Reverse(m.0));
    for (bytes, name, text) in movable {
        if size <= ROW_BYTES {
            break;
        }
        size = size - bytes + 12;
        if let Some(Ok(mapped)) = out.get_mut(&name) {
            mapped.text = if text { format!("longtext{}", utf8()) } else { "longblob".to_owned() };
        }
    }
    out
}

fn too_wide() -> String {
    format!(
        "its key has no room for it: {KEY_BYTES} bytes are all that a key takes here, and each character counts for four"
    )
}

fn limited(text: &str, before: &Option<String>, unit: &str) -> String {
    let because =
        format!("becomes {text}, because a key here takes {KEY_BYTES} bytes; longer values ({unit}) would not fit");
    match before {
        Some(before) => format!("{before}; {because}"),
        None => because,
    }
}

/// Bytes of a column of this type in an index; `None`: it cannot stand there whole.
pub(crate) fn index_bytes(text: &str) -> Option<u32> {
    let t = MyType::parse(text)?;
    let per = if t.charset.as_deref() == Some("ascii") { 1 } else { 4 };
    Some(match t.kind {
        Kind::Char { length } | Kind::VarChar { length } => length.saturating_mul(per),
        Kind::Binary { length } | Kind::VarBinary { length } => length,
        Kind::Text { .. } | Kind::Blob { .. } | Kind::Json | Kind::Geometry { .. } | Kind::Vector { .. } => {
            return None;
        }
        Kind::Decimal { .. } => 30,
        Kind::Uuid | Kind::Inet6 => 16,
        _ => 8,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::flavor::Version;
    use drover_model::plan::Operations;
    use drover_model::schema::{OldImage, TableName, UniqueKey};
    use drover_model::selection::ColumnChoice;
    use std::collections::BTreeSet;

    pub(crate) fn known(version: &str) -> Known {
        Known {
            version: Version::parse(version).unwrap(),
            collations: BTreeSet::from(["utf8mb4_0900_bin".to_owned(), "ascii_bin".to_owned()]),
            charsets: BTreeSet::from(["utf8mb4".to_owned()]),
            defaults: BTreeMap::new(),
            engines: BTreeSet::new(),
            lower_case: false,
        }
    }

    pub(crate) fn column(name: &str, data_type: DataType) -> Column {
        Column::new(name, data_type, "its own")
    }

    pub(crate) fn table(name: &str, columns: Vec<Column>, keys: &[&[&str]]) -> Table {
        let keys = keys.iter().enumerate().map(|(i, k)| UniqueKey {
            name: format!("{name}_{i}"),
            primary: i == 0,
            columns: k.iter().map(|c| (*c).to_owned()).collect(),
            identifies: true,
        });
        Table { keys: keys.collect(), ..Table::new(TableName::new("s", name), columns, OldImage::Key) }
    }

    pub(crate) fn catalog(tables: &[Table]) -> Catalog {
        Catalog {
            origin: "elsewhere".into(),
            version: 0,
            version_text: String::new(),
            database: String::new(),
            scope: None,
            home: Some("s".into()),
            identity: String::new(),
            tables: tables.to_vec(),
            objects: vec![],
        }
    }

    pub(crate) fn all(table: &Table) -> TableChoice {
        let column =
            |c: &Column| ColumnChoice { source: c.name.clone(), destination: c.name.clone(), misfit: Misfit::Fail };
        TableChoice {
            source: table.name.clone(),
            schema: table.name.schema.clone(),
            table: table.name.name.clone(),
            columns: table.columns.iter().map(column).collect(),
            filter: None,
            operations: Operations::ALL,
            floats: None,
        }
    }

    fn text(max: Option<u32>) -> DataType {
        DataType::Text { max, padded: false }
    }

    fn mapped(table: &Table) -> BTreeMap<String, Result<String, String>> {
        let found = types(&catalog(std::slice::from_ref(table)), table, &all(table), &known("9.7.0"));
        found.into_iter().map(|(name, m)| (name, m.map(|m| m.text))).collect()
    }

    #[test]
    fn columns_of_a_key_share_its_bytes() {
        let int = DataType::Int { bytes: 4, unsigned: false };
        let columns = vec![
            column("a", text(None)),
            column("b", text(Some(20))),
            column("c", text(None)),
            column("n", int),
            column("free", text(None)),
        ];
        let found = mapped(&table("t", columns, &[&["a", "b", "c", "n"], &["c"]]));
        // 3072 - 5 for the number, 80 for the short text, the rest in two.
        assert_eq!(found["a"].as_deref(), Ok("varchar(373) character set utf8mb4"));
        assert_eq!(found["b"].as_deref(), Ok("varchar(20) character set utf8mb4"));
        assert_eq!(
            found["c"].as_deref(),
            Ok("varchar(373) character set utf8mb4"),
            "the smallest room of all its keys"
        );
        assert_eq!(found["free"].as_deref(), Ok("longtext character set utf8mb4"));
        let many: Vec<Column> = (0..30).map(|i| column(&format!("c{i}"), text(None))).collect();
        let names: Vec<String> = many.iter().map(|c| c.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(mapped(&table("t", many, &[&names]))["c0"].is_err(), "no room for text worth the name");
    }

    #[test]
    fn a_row_has_room_for_all_of_its_columns() {
        let columns =
            vec![column("a", text(Some(12_000))), column("b", text(Some(8_000))), column("c", text(Some(100)))];
        let found = mapped(&table("t", columns, &[]));
        assert_eq!(found["a"].as_deref(), Ok("longtext character set utf8mb4"));
        assert_eq!(found["b"].as_deref(), Ok("varchar(8000) character set utf8mb4"));
        assert_eq!(found["c"].as_deref(), Ok("varchar(100) character set utf8mb4"));
    }

    #[test]
    fn labels_that_no_enum_can_have() {
        let label = |l: &str| DataType::Enum { labels: vec![l.to_owned()] };
        let columns =
            vec![column("a", label("it's \\")), column("b", label("a ")), column("c", label(&"x".repeat(300)))];
        let found = mapped(&table("t", columns, &[]));
        assert_eq!(found["a"].as_deref(), Ok("enum('it''s \\\\') character set utf8mb4"));
        assert_eq!(found["b"].as_deref(), Ok("longtext character set utf8mb4"));
        assert_eq!(found["c"].as_deref(), Ok("longtext character set utf8mb4"));
    }
}
