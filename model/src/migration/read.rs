//! Walks a parsed file along the table of keys: [`Reader::check`] reports what can be said of each key by itself, and a
//! [`Node`] gives the checked values. A value that is at fault reads as missing, so that all faults are found in one go.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, nearest, place};
use super::keys::{Key, Presence, SECRET, Section, Takes};
use super::units::{format_duration, parse_duration, parse_size};

/// Longest name of a migration: topics, slots and progress rows are called by it.
const NAME_LENGTH: usize = 40;

/// What all nodes of a file share.
pub(super) struct Reader<'f> {
    pub text: &'f str,
    pub file: String,
    pub kinds: &'f [&'f str],
    pub findings: RefCell<Vec<(usize, Finding)>>,
}

impl Reader<'_> {
    /// Notes a fault at a byte offset.
    pub fn fault(&self, at: usize, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let (line, column) = place(self.text, at);
        let finding = Finding {
            file: self.file.clone(),
            line,
            column,
            key: key.to_owned(),
            message: message.into(),
            remedy: remedy.into(),
        };
        self.findings.borrow_mut().push((at, finding));
    }

    /// Checks each key of a table, and of the tables within it.
    pub fn check(&self, section: &'static Section, node: &Node<'_>) {
        let Some(table) = node.table else { return };
        for (name, value) in table {
            match section.key(name.get_ref()) {
                Some(key) => self.check_value(key, &node.path_of(key.name), value),
                None => self.unknown(section, node, name),
            }
        }
        for key in section.keys.iter().filter(|key| matches!(key.presence, Presence::Required)) {
            if node.value(key.name).is_none() {
                let message = format!("{} is missing in {}", quoted(key), section_text(section));
                let remedy = match key.takes {
                    Takes::Table(_) => format!("add [{}]", key.name),
                    _ => format!("add {} = …", key.name),
                };
                self.fault(node.at, &node.path_of(key.name), message, remedy);
            }
        }
    }

    fn unknown(&self, section: &'static Section, node: &Node<'_>, name: &Spanned<Cow<'_, str>>) {
        let word = name.get_ref();
        let known: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        let list = format!("known here: {}", known.join(", "));
        let remedy = match nearest(word, known) {
            Some(near) => format!("did you mean \"{near}\"? {list}"),
            None => list,
        };
        let message = format!("unknown key {word:?} in {}", section_text(section));
        self.fault(name.span().start, &node.path_of(word), message, remedy);
    }

    fn check_value(&self, key: &'static Key, path: &str, value: &Spanned<DeValue<'_>>) {
        let at = value.span().start;
        let wrong_type = |wanted: &str| {
            self.fault(at, path, format!("{path} is no {wanted}"), format!("write {}", example(key)));
        };
        let text = value.get_ref().as_str();
        match (&key.takes, value.get_ref()) {
            (Takes::Table(section), DeValue::Table(table)) => {
                self.check(section, &Node { table: Some(table), section, path: path.to_owned(), at });
            }
            (Takes::Table(_), _) => wrong_type("table"),
            (Takes::Tables(section), DeValue::Array(array)) => {
                for (index, item) in array.iter().enumerate() {
                    let (path, at) = (format!("{path}[{index}]"), item.span().start);
                    match item.get_ref() {
                        DeValue::Table(table) => {
                            self.check(section, &Node { table: Some(table), section, path, at });
                        }
                        _ => self.fault(at, &path, format!("{path} is no table"), format!("write [[{}]]", key.name)),
                    }
                }
            }
            (Takes::Tables(_), _) => {
                self.fault(at, path, format!("{path} is no array of tables"), format!("write [[{}]]", key.name));
            }
            (Takes::Secret, DeValue::Table(table)) => {
                let node = Node { table: Some(table), section: &SECRET, path: path.to_owned(), at };
                self.check(&SECRET, &node);
                if table.len() != 1 {
                    let message = format!("{path} has to name one place, env or file");
                    self.fault(at, path, message, format!("write {}", example(key)));
                }
            }
            (Takes::Secret | Takes::Text, DeValue::String(text)) if text.is_empty() => {
                self.fault(at, path, format!("{path} is empty"), "give it a value, or leave the key out");
            }
            (Takes::Secret, DeValue::String(_)) => {}
            (Takes::Secret, _) => wrong_type("password"),
            (Takes::Name, DeValue::String(name)) if !is_name(name) => {
                let message = format!("{name:?} is no name of a migration");
                let remedy = format!("take 1 to {NAME_LENGTH} of a-z, 0-9 and -, beginning with a letter or digit");
                self.fault(at, path, message, remedy);
            }
            (Takes::Kind, DeValue::String(kind)) => self.check_word(path, at, kind, self.kinds),
            (Takes::Choice(words), DeValue::String(word)) => self.check_word(path, at, word, words),
            (Takes::Choices(words), DeValue::Array(array)) => {
                let mut seen: Vec<&str> = Vec::new();
                for (index, item) in array.iter().enumerate() {
                    let (path, at) = (format!("{path}[{index}]"), item.span().start);
                    match item.get_ref().as_str() {
                        Some(word) if seen.contains(&word) => {
                            self.fault(at, &path, format!("{word:?} stands twice in {}", key.name), "remove one");
                        }
                        Some(word) => {
                            self.check_word(&path, at, word, words);
                            seen.push(word);
                        }
                        None => self.fault(at, &path, format!("{path} is no string"), one_of(words)),
                    }
                }
                if array.is_empty() {
                    self.fault(at, path, format!("{path} is empty"), one_of(words));
                }
            }
            (Takes::Choices(_), _) => wrong_type("array of strings"),
            (Takes::Texts, DeValue::String(_)) => {}
            (Takes::Texts | Takes::List, DeValue::Array(array)) => {
                for (index, item) in array.iter().enumerate().filter(|(_, item)| !item.get_ref().is_str()) {
                    let path = format!("{path}[{index}]");
                    self.fault(item.span().start, &path, format!("{path} is no string"), "put it in quotes");
                }
                if array.is_empty() {
                    self.fault(at, path, format!("{path} is empty"), "name something, or leave the key out");
                }
            }
            (Takes::Texts, _) => wrong_type("string or array of strings"),
            (Takes::List, _) => wrong_type("array of strings"),
            (Takes::TextMap, DeValue::Table(table)) => {
                for (name, item) in table.iter().filter(|(_, item)| !item.get_ref().is_str()) {
                    let path = format!("{path}.{}", name.get_ref());
                    self.fault(item.span().start, &path, format!("{path} is no string"), "put it in quotes");
                }
            }
            (Takes::TextMap, _) => wrong_type("table of strings"),
            (Takes::Count, DeValue::Integer(_)) if count(value.get_ref()).is_some() => {}
            (Takes::Count, _) => wrong_type("whole number from 0"),
            (Takes::Flag, DeValue::Boolean(_)) => {}
            (Takes::Flag, _) => wrong_type("true or false"),
            (Takes::Duration(least, most), _) => match text.and_then(parse_duration) {
                None => wrong_type("duration"),
                Some(given) if given < *least || given > *most => {
                    let message = format!("{path} = {:?} is out of range", text.unwrap_or_default());
                    let range = format!("from {} to {}", format_duration(*least), format_duration(*most));
                    self.fault(at, path, message, format!("take a duration {range}"));
                }
                Some(_) => {}
            },
            (Takes::Size, _) => match text.and_then(parse_size) {
                None => wrong_type("size"),
                Some(0) => self.fault(at, path, format!("{path} is 0"), "take a size above it"),
                Some(_) => {}
            },
            (_, DeValue::String(_)) => {}
            (Takes::Name | Takes::Kind | Takes::Text | Takes::Url | Takes::Choice(_), _) => wrong_type("string"),
        }
    }

    fn check_word(&self, path: &str, at: usize, word: &str, known: &[&str]) {
        if known.contains(&word) {
            return;
        }
        let remedy = match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"? {}", one_of(known)),
            None => one_of(known),
        };
        self.fault(at, path, format!("{word:?} is no value of {path}"), remedy);
    }
}

/// A table of the file, known to belong to a section; a missing one gives the defaults.
pub(super) struct Node<'f> {
    pub table: Option<&'f DeTable<'f>>,
    pub section: &'static Section,
    pub path: String,
    /// Byte offset of its header or brace.
    pub at: usize,
}

impl<'f> Node<'f> {
    /// A section of which nothing is stated.
    pub fn missing(section: &'static Section) -> Node<'f> {
        Node { table: None, section, path: section.name.to_owned(), at: 0 }
    }

    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn value(&self, key: &str) -> Option<&'f Spanned<DeValue<'f>>> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Byte offset of a key's value, or of the table where the key is missing.
    pub fn at(&self, key: &str) -> usize {
        self.value(key).map_or(self.at, |value| value.span().start)
    }

    fn span(&self, key: &str) -> Option<Range<usize>> {
        Some(self.value(key)?.span())
    }

    /// Byte offset of an array's element, or of the key.
    pub fn at_item(&self, key: &str, item: Option<usize>) -> usize {
        let found = item.and_then(|item| self.value(key)?.get_ref().as_array()?.get(item).map(|i| i.span()));
        found.or_else(|| self.span(key)).map_or(self.at, |span| span.start)
    }

    /// A string; the default if it is missing.
    pub fn text(&self, key: &str) -> Option<&'f str> {
        match self.value(key) {
            Some(value) => value.get_ref().as_str(),
            None => self.default(key),
        }
    }

    fn default(&self, key: &str) -> Option<&'static str> {
        match self.section.key(key)?.presence {
            Presence::Default(text) => Some(text),
            _ => None,
        }
    }

    pub fn duration(&self, key: &str) -> Duration {
        self.text(key).and_then(parse_duration).unwrap_or_default()
    }

    pub fn size(&self, key: &str) -> u64 {
        self.text(key).and_then(parse_size).unwrap_or_default()
    }

    pub fn count(&self, key: &str) -> u64 {
        match self.value(key) {
            Some(value) => count(value.get_ref()).unwrap_or_default(),
            None => self.default(key).and_then(|text| text.parse().ok()).unwrap_or_default(),
        }
    }

    pub fn flag(&self, key: &str) -> bool {
        self.value(key).and_then(|value| value.get_ref().as_bool()).unwrap_or_default()
    }

    /// A string or the strings of an array; None if the key is missing.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        Some(match self.value(key)?.get_ref() {
            DeValue::String(text) => vec![text.to_string()],
            DeValue::Array(array) => {
                array.iter().filter_map(|item| item.get_ref().as_str()).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        })
    }

    pub fn text_map(&self, key: &str) -> BTreeMap<String, String> {
        let table = self.value(key).and_then(|value| value.get_ref().as_table());
        table
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.get_ref().to_string(), value.get_ref().as_str()?.to_owned())))
            .collect()
    }

    /// A table within this one; None if it is missing.
    pub fn table(&self, key: &str) -> Option<Node<'f>> {
        let section = match self.section.key(key)?.takes {
            Takes::Table(section) => section,
            Takes::Secret => &SECRET,
            _ => return None,
        };
        let value = self.value(key)?;
        let table = value.get_ref().as_table()?;
        Some(Node { table: Some(table), section, path: self.path_of(key), at: value.span().start })
    }

    /// The tables of an array within this one.
    pub fn tables(&self, key: &str) -> Vec<Node<'f>> {
        let Some(Takes::Tables(section)) = self.section.key(key).map(|key| &key.takes) else { return Vec::new() };
        let array = self.value(key).and_then(|value| value.get_ref().as_array());
        let items = array.into_iter().flat_map(|array| array.iter()).enumerate();
        items
            .map(|(index, item)| Node {
                table: item.get_ref().as_table(),
                section,
                path: format!("{}[{index}]", self.path_of(key)),
                at: item.span().start,
            })
            .collect()
    }
}

fn count(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Whether a text may name a migration.
fn is_name(name: &str) -> bool {
    (1..=NAME_LENGTH).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
}

fn one_of(words: &[&str]) -> String {
    format!("possible: {}", words.join(", "))
}

fn quoted(key: &Key) -> String {
    match key.takes {
        Takes::Table(_) => format!("[{}]", key.name),
        _ => format!("key \"{}\"", key.name),
    }
}

fn section_text(section: &Section) -> String {
    match section.name {
        "" => "the file's top level".to_owned(),
        "objects" => "[[objects]]".to_owned(),
        name => format!("[{name}]"),
    }
}

/// How a key is written.
fn example(key: &Key) -> String {
    let value = match &key.takes {
        Takes::Secret => "{ env = \"NAME\" }, { file = \"…\" } or a string",
        Takes::Choice(words) => return format!("{} = \"{}\"", key.name, words[0]),
        Takes::Choices(words) => return format!("{} = [\"{}\"]", key.name, words.join("\", \"")),
        Takes::List | Takes::Texts => "[\"…\"]",
        Takes::TextMap => "{ old = \"new\" }",
        Takes::Count => "100",
        Takes::Duration(..) => "\"1h30m\" (units d, h, m, s, ms)",
        Takes::Size => "\"20GiB\" (units B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)",
        Takes::Flag => "true",
        Takes::Table(section) => return format!("{} = {{ {} = … }}", key.name, section.keys[0].name),
        Takes::Name | Takes::Kind | Takes::Text | Takes::Url | Takes::Tables(_) => "\"…\"",
    };
    format!("{} = {value}", key.name)
}
