//! Columns as statements define them, as the server's catalogue would tell them. Pure.

use super::text::{Modes, quoted};
use crate::catalog::create::{ColumnDefinition, Part, PartKind};
use crate::catalog::{is_json_check, lex, plain};
use crate::flavor::Flavor;
use crate::sql;
use crate::typemap::Known;
use crate::types::{Kind, MyType};
use drover_model::schema::{Column, DataType, Identity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a definition's meaning depends on.
#[derive(Debug, Clone)]
pub struct Env {
    /// What the source knows: character sets and their default collations.
    pub known: Known,
    /// Names of collations by their numbers.
    pub names: Arc<BTreeMap<u16, String>>,
    /// TIMESTAMP is like other types where nothing is said of NULL and defaults.
    pub explicit_timestamps: bool,
    /// Foreign keys act without a trace in the log.
    pub silent: bool,
    /// Of the session that wrote the statement.
    pub modes: Modes,
}

impl Env {
    pub fn mariadb(&self) -> bool {
        self.known.version.flavor == Flavor::MariaDb
    }

    /// The character set as the server calls it.
    pub fn charset(&self, name: &str) -> String {
        let name = name.to_lowercase();
        if name == "utf8" && self.known.charsets.contains("utf8mb3") { "utf8mb3".into() } else { name }
    }

    pub fn collation(&self, name: &str) -> String {
        let name = name.to_lowercase();
        match name.strip_prefix("utf8_") {
            Some(rest) if self.known.charsets.contains("utf8mb3") => format!("utf8mb3_{rest}"),
            _ => name,
        }
    }

    /// The character set of a collation; collations without one in their name are any set's.
    pub fn charset_of(&self, collation: &str, otherwise: &str) -> String {
        let first = collation.split('_').next().unwrap_or_default();
        if self.known.charsets.contains(first) { first.to_owned() } else { otherwise.to_owned() }
    }
}

/// Character set and collation that text has where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    pub charset: String,
    pub collation: String,
}

/// A column with all that its definition says.
#[derive(Debug, Clone)]
pub struct Defined {
    pub column: Column,
    pub definition: ColumnDefinition,
    /// Keys and constraints that stand in the column's definition.
    pub parts: Vec<Part>,
}

/// The type's text in the catalogue's way, what it says of the character set, and what stands behind it.
struct Typed {
    text: String,
    charset: Option<String>,
    binary: bool,
    serial: bool,
    json: bool,
    rest: usize,
}

fn arguments(text: &str, open: &lex::Token<'_>, last: &lex::Token<'_>) -> String {
    text[open.at..last.end()].to_owned()
}

/// Reads the type.
fn typed(text: &str, t: &[lex::Token<'_>], env: &Env) -> Option<Typed> {
    let is = |i: usize, word: &str| t.get(i).is_some_and(|t| t.is(word));
    let mut i = 1;
    let mut out = Typed { text: String::new(), charset: None, binary: false, serial: false, json: false, rest: 0 };
    let first = t.first()?.text.to_lowercase();
    let mut base = match first.as_str() {
        "national" => {
            out.charset = Some(env.charset("utf8"));
            let varying = is(1, "VARCHAR") || is(2, "VARYING");
            i = if is(2, "VARYING") { 3 } else { 2 };
            if varying { "varchar" } else { "char" }.to_owned()
        }
        "nchar" => {
            out.charset = Some(env.charset("utf8"));
            let varying = is(1, "VARCHAR") || is(1, "VARYING");
            i += usize::from(varying);
            if varying { "varchar" } else { "char" }.to_owned()
        }
        "nvarchar" => {
            out.charset = Some(env.charset("utf8"));
            "varchar".to_owned()
        }
        "char" | "character" => {
            let varying = is(1, "VARYING");
            i += usize::from(varying);
            if varying { "varchar" } else { "char" }.to_owned()
        }
        "varcharacter" => "varchar".to_owned(),
        "long" => {
            let bytes = is(1, "VARBINARY");
            i += usize::from(bytes || is(1, "VARCHAR") || is(1, "VARCHARACTER"));
            if bytes { "mediumblob" } else { "mediumtext" }.to_owned()
        }
        "double" => {
            i += usize::from(is(1, "PRECISION"));
            "double".to_owned()
        }
        "real" => if env.modes.real_is_float { "float" } else { "double" }.to_owned(),
        "float4" => "float".to_owned(),
        "float8" => "double".to_owned(),
        "int1" => "tinyint".to_owned(),
        "int2" => "smallint".to_owned(),
        "int3" | "middleint" => "mediumint".to_owned(),
        "int4" | "integer" => "int".to_owned(),
        "int8" => "bigint".to_owned(),
        "dec" | "numeric" | "fixed" => "decimal".to_owned(),
        "number" if env.mariadb() => "decimal".to_owned(),
        "bool" | "boolean" => "tinyint(1)".to_owned(),
        "serial" => {
            out.serial = true;
            "bigint unsigned".to_owned()
        }
        other => other.to_owned(),
    };
    let mut length = None;
    if is(i, "(") {
        let end = lex::closing(t, i);
        length = t.get(i + 1).and_then(|t| t.text.parse::<u64>().ok());
        base.push_str(&arguments(text, &t[i], t.get(end - 1)?));
        i = end;
    }
    let word: String = base.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
    let has = base.contains('(');
    match word.as_str() {
        "decimal" if !has => base.push_str("(10,0)"),
        "decimal" if !base.contains(',') => base = format!("decimal({},0)", length.unwrap_or(10)),
        "char" | "binary" | "bit" if !has => base.push_str("(1)"),
        "year" => base = "year".into(),
        "float" if has && !base.contains(',') => {
            base = if length.unwrap_or(0) <= 24 { "float" } else { "double" }.into();
        }
        "geometrycollection" if env.known.version.mysql(80_011) => base = "geomcollection".into(),
        "json" if env.mariadb() => {
            out.json = true;
            base = "longtext".into();
        }
        _ => {}
    }
    let text_like =
        |w: &str| matches!(w, "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set");
    let (mut unsigned, mut zerofill, mut bytes) = (base.ends_with("unsigned"), false, false);
    loop {
        if is(i, "UNSIGNED") {
            unsigned = true;
        } else if is(i, "ZEROFILL") {
            zerofill = true;
        } else if is(i, "ASCII") && text_like(&word) {
            out.charset = Some("latin1".into());
        } else if is(i, "UNICODE") && text_like(&word) {
            out.charset = Some("ucs2".into());
        } else if is(i, "BYTE") && text_like(&word) {
            bytes = true;
        } else if is(i, "BINARY") && text_like(&word) {
            out.binary = true;
        } else if !is(i, "SIGNED") {
            break;
        }
        i += 1;
    }
    if bytes {
        out.charset = Some("binary".into());
    }
    if (unsigned || zerofill) && !base.ends_with("unsigned") {
        base.push_str(" unsigned");
    }
    if zerofill {
        base.push_str(" zerofill");
    }
    out.text = base;
    out.rest = i;
    Some(out)
}

/// Bytes of a character at most.
fn widest(charset: &str) -> u64 {
    match charset {
        "utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030" => 4,
        "utf8mb3" | "utf8" | "ujis" | "eucjpms" => 3,
        "ucs2" | "gbk" | "sjis" | "cp932" | "big5" | "euckr" | "gb2312" => 2,
        _ => 1,
    }
}

/// TEXT(n) and BLOB(n): the smallest type with room for so much.
fn sized(text: &str, charset: &str) -> String {
    let Some((word @ ("text" | "blob"), rest)) = text.split_once('(') else { return text.to_owned() };
    let n: u64 = rest.trim_end_matches(')').trim().parse().unwrap_or(65_535);
    let bytes = if word == "text" { n.saturating_mul(widest(charset)) } else { n };
    let size = match bytes {
        0..=255 => "tiny",
        256..=65_535 => "",
        65_536..=16_777_215 => "medium",
        _ => "long",
    };
    format!("{size}{word}")
}

/// Reads a column's definition behind its name. `texts`: the table's. `first_timestamp`: no column before it is a TIMESTAMP.
///
/// # Errors
/// What is not understood.
pub fn define(name: &str, text: &str, texts: &Texts, env: &Env, first_timestamp: bool) -> Result<Defined, String> {
    let tokens = lex::words(text);
    let unknown = || format!("the definition of {name} is not understood: {text}");
    let mut typed = typed(text, &tokens, env).ok_or_else(unknown)?;
    let mut parts = Vec::new();
    let mut rest = String::new();
    let own = format!("({})", sql::name(name));
    if typed.serial {
        rest.push_str("NOT NULL AUTO_INCREMENT ");
        parts.push(Part { kind: PartKind::Unique, name: String::new(), text: own.clone() });
    }
    attributes(text, &tokens[typed.rest..], &own, env, &mut rest, &mut parts).ok_or_else(unknown)?;
    let mut definition = ColumnDefinition::parse(&format!("int {rest}")).ok_or_else(unknown)?;
    // SERIAL DEFAULT VALUE
    if let Some(at) = definition.others.iter().position(|o| o.eq_ignore_ascii_case("SERIAL")) {
        definition.others.remove(at);
        definition.default = None;
        (definition.not_null, definition.auto_increment) = (true, true);
        parts.push(Part { kind: PartKind::Unique, name: String::new(), text: own });
    }
    let stray: Vec<&String> = definition
        .others
        .iter()
        .filter(|o| {
            ![
                "COLUMN_FORMAT",
                "STORAGE",
                "ENGINE_ATTRIBUTE",
                "SECONDARY_ENGINE_ATTRIBUTE",
                "NOT SECONDARY",
                "COMPRESSED",
                "WITHOUT SYSTEM VERSIONING",
            ]
            .iter()
            .any(|k| o.to_uppercase().starts_with(k))
        })
        .collect();
    if let Some(stray) = stray.first() {
        return Err(format!("the definition of {name} is not understood at {stray}"));
    }
    if definition.default.as_deref().is_some_and(|d| d.eq_ignore_ascii_case("TRUE")) {
        definition.default = Some("1".into());
    } else if definition.default.as_deref().is_some_and(|d| d.eq_ignore_ascii_case("FALSE")) {
        definition.default = Some("0".into());
    }
    definition.type_text = typed.text.clone();
    let mut my =
        MyType::parse(&typed.text).ok_or_else(|| format!("{name} has a type that is not known: {}", typed.text))?;
    if typed.json {
        definition.charset = Some("utf8mb4".into());
        definition.collation = Some("utf8mb4_bin".into());
        definition.check = Some(format!("(json_valid({}))", sql::name(name)));
    }
    let labels = matches!(my.kind, Kind::Enum { .. } | Kind::Set { .. });
    let mut collation = None;
    if my.is_text() || labels {
        let said = definition.charset.clone().or(typed.charset.take()).map(|c| env.charset(&c));
        let named = definition.collation.as_deref().map(|c| env.collation(c));
        let charset = match (&said, &named) {
            (Some(said), _) => said.clone(),
            (None, Some(named)) => env.charset_of(named, &texts.charset),
            (None, None) => texts.charset.clone(),
        };
        if charset == "binary" && !labels {
            let bytes = [("varchar", "varbinary"), ("char", "binary"), ("text", "blob")];
            for (from, to) in bytes {
                if typed.text.contains(from) && !typed.text.contains(to) {
                    typed.text = typed.text.replacen(from, to, 1);
                    break;
                }
            }
            typed.text = sized(&typed.text, "binary");
            (definition.charset, definition.collation) = (None, None);
        } else {
            typed.text = sized(&typed.text, &charset);
            collation = Some(match (named, said.clone()) {
                (Some(named), _) => named,
                _ if typed.binary => format!("{charset}_bin"),
                (None, Some(said)) => env.known.default_collation(&said),
                (None, None) => texts.collation.clone(),
            });
            // Servers print it again where it was said.
            if said.is_some() || definition.collation.is_some() {
                definition.charset = Some(charset.clone());
                definition.collation.clone_from(&collation);
            }
            typed.text = format!("{} character set {charset}", typed.text);
        }
        my = MyType::parse(&typed.text).ok_or_else(unknown)?;
        definition.type_text = typed.text.split(" character set ").next().unwrap_or_default().to_owned();
    } else {
        typed.text = sized(&typed.text, "binary");
        definition.type_text.clone_from(&typed.text);
        my = MyType::parse(&typed.text).ok_or_else(unknown)?;
    }
    let silent = !definition.null && !definition.not_null && definition.generated.is_none();
    if matches!(my.kind, Kind::Timestamp { .. }) && !env.explicit_timestamps && silent {
        definition.not_null = true;
        if definition.default.is_none() && definition.on_update.is_none() {
            let now = if let Kind::Timestamp { digits: d @ 1.. } = my.kind {
                format!("CURRENT_TIMESTAMP({d})")
            } else {
                "CURRENT_TIMESTAMP".into()
            };
            definition.default = Some(if first_timestamp { now.clone() } else { "'0000-00-00 00:00:00'".into() });
            definition.on_update = first_timestamp.then_some(now);
        }
    }
    if definition.auto_increment {
        definition.not_null = true;
    }
    Ok(Defined { column: column(name, &typed.text, &my, collation, &definition, env), definition, parts })
}

/// A column by its definition.
fn column(
    name: &str,
    origin_type: &str,
    my: &MyType,
    collation: Option<String>,
    definition: &ColumnDefinition,
    env: &Env,
) -> Column {
    let json = env.mariadb() && is_json_check(definition, name);
    Column {
        name: name.to_owned(),
        data_type: if json { DataType::Json } else { my.data_type() },
        origin_type: origin_type.to_owned(),
        builtin: true,
        nullable: !definition.not_null,
        default: definition.default.clone().filter(|d| !d.eq_ignore_ascii_case("NULL")),
        identity: definition.auto_increment.then_some(Identity::ByDefault),
        generated: definition.generated.clone().map(|(e, _)| e),
        folds: plain::folds(collation.as_deref()),
        collation,
        plain_default: definition
            .default
            .as_deref()
            .filter(|d| !d.eq_ignore_ascii_case("NULL"))
            .and_then(|d| plain::default(d, my)),
        comment: definition.comment.as_deref().map(lex::unescape),
    }
}

/// Splits what stands behind the type into attributes of the column and keys and constraints.
fn attributes(
    text: &str,
    t: &[lex::Token<'_>],
    own: &str,
    env: &Env,
    rest: &mut String,
    parts: &mut Vec<Part>,
) -> Option<()> {
    let is = |i: usize, word: &str| t.get(i).is_some_and(|t| t.is(word));
    let mut part = |kind, name: String, text: String| parts.push(Part { kind, name, text });
    let mut i = 0;
    while i < t.len() {
        if is(i, "PRIMARY") {
            i += 1 + usize::from(is(i + 1, "KEY"));
            part(PartKind::Primary, "PRIMARY".into(), own.to_owned());
        } else if is(i, "UNIQUE") {
            i += 1 + usize::from(is(i + 1, "KEY"));
            part(PartKind::Unique, String::new(), own.to_owned());
        } else if is(i, "KEY") {
            i += 1;
            part(PartKind::Primary, "PRIMARY".into(), own.to_owned());
        } else if is(i, "REFERENCES") {
            let open = (i..t.len()).find(|k| is(*k, "("))?;
            let mut end = lex::closing(t, open);
            while is(end, "ON") || is(end, "MATCH") {
                end += match (is(end, "MATCH"), is(end + 2, "SET") || is(end + 2, "NO")) {
                    (true, _) => 2,
                    (false, true) => 4,
                    (false, false) => 3,
                };
            }
            let end = end.min(t.len());
            // MySQL reads it and does nothing; MariaDB makes a key.
            if env.mariadb() {
                part(PartKind::Foreign, String::new(), format!("{own} {}", &text[t[i].at..t[end - 1].end()]));
            }
            i = end;
        } else if is(i, "CONSTRAINT") || (is(i, "CHECK") && is(i + 1, "(") && !env.mariadb()) {
            let named = is(i, "CONSTRAINT") && !is(i + 1, "CHECK");
            let name = if named { t.get(i + 1)?.name()? } else { String::new() };
            let check = if is(i, "CONSTRAINT") { i + 1 + usize::from(named) } else { i };
            if !is(check, "CHECK") || !is(check + 1, "(") {
                return None;
            }
            let mut end = lex::closing(t, check + 1);
            end += if is(end, "NOT") && is(end + 1, "ENFORCED") { 2 } else { usize::from(is(end, "ENFORCED")) };
            part(PartKind::Check, name, text[t[check + 1].at..t[end - 1].end()].to_owned());
            i = end;
        } else {
            let end = if is(i, "(") { lex::closing(t, i) } else { i + 1 };
            // Spaces as they were: NOW () is not NOW().
            if i == 0 || t[i].at > t[i - 1].end() {
                rest.push(' ');
            }
            rest.push_str(&text[t[i].at..t.get(end - 1)?.end()]);
            i = end;
        }
    }
    Some(())
}

/// Expressions of a definition with the names of these columns in backquotes, as servers print them.
pub fn quote(definition: &mut ColumnDefinition, columns: &[String]) {
    let names = || columns.iter().map(String::as_str);
    if let Some((expression, _)) = &mut definition.generated {
        *expression = quoted(expression, names());
    }
    if let Some(check) = &mut definition.check {
        *check = quoted(check, names());
    }
    if let Some(default) = definition.default.as_mut().filter(|d| d.starts_with('(')) {
        *default = quoted(default, names());
    }
}
