//! Every key that a migration file may have, with what it takes and its default. Reading, the refusal of unknown keys and
//! the test of the guide's page all go by this table.

use std::time::Duration;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// As a message names it.
    pub name: &'static str,
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub takes: Takes,
    pub presence: Presence,
}

/// Whether a key may be left out.
#[derive(Debug)]
pub enum Presence {
    Required,
    Optional,
    /// Optional, with this value in place of a missing one.
    Default(&'static str),
}

/// What a key takes.
#[derive(Debug)]
pub enum Takes {
    /// The name of a migration.
    Name,
    /// One of the kinds of database that this build knows.
    Kind,
    /// A text that is not empty.
    Text,
    /// A text, maybe empty; never repeated in a message.
    Url,
    /// A string, or a table of [`SECRET`].
    Secret,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An array of some of these words, each once at most, one at least.
    Choices(&'static [&'static str]),
    /// A string or an array of strings.
    Texts,
    /// An array of strings, one at least.
    List,
    /// A table of strings.
    TextMap,
    /// A whole number from 0.
    Count,
    /// A duration between these two.
    Duration(Duration, Duration),
    /// A size above 0.
    Size,
    Flag,
    Table(&'static Section),
    /// An array of tables.
    Tables(&'static Section),
}

impl Section {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn required(name: &'static str, takes: Takes) -> Key {
    Key { name, takes, presence: Presence::Required }
}
const fn optional(name: &'static str, takes: Takes) -> Key {
    Key { name, takes, presence: Presence::Optional }
}
const fn default(name: &'static str, takes: Takes, value: &'static str) -> Key {
    Key { name, takes, presence: Presence::Default(value) }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The whole file.
pub static ROOT: Section = Section {
    name: "",
    keys: &[
        required("name", Takes::Name),
        required("source", Takes::Table(&ENDPOINT_SOURCE)),
        required("destination", Takes::Table(&ENDPOINT_DESTINATION)),
        optional("migrate", Takes::Table(&MIGRATE)),
        optional("objects", Takes::Tables(&OBJECTS)),
        optional("limits", Takes::Table(&LIMITS)),
        optional("retry", Takes::Table(&RETRY)),
        optional("schema_changes", Takes::Table(&SCHEMA_CHANGES)),
        optional("log", Takes::Table(&LOG)),
    ],
};

const ENDPOINT: &[Key] = &[
    required("kind", Takes::Kind),
    required("url", Takes::Url),
    optional("password", Takes::Secret),
    optional("tls", Takes::Table(&TLS)),
];
static ENDPOINT_SOURCE: Section = Section { name: "source", keys: ENDPOINT };
static ENDPOINT_DESTINATION: Section = Section { name: "destination", keys: ENDPOINT };

/// Where a password is taken from.
pub static SECRET: Section =
    Section { name: "password", keys: &[optional("env", Takes::Text), optional("file", Takes::Text)] };

static TLS: Section = Section {
    name: "tls",
    keys: &[
        optional("mode", Takes::Choice(&["off", "require", "verify-ca", "verify-full"])),
        optional("ca", Takes::Text),
        optional("cert", Takes::Text),
        optional("key", Takes::Text),
        optional("unverified", Takes::Flag),
    ],
};

pub(super) static MIGRATE: Section = Section {
    name: "migrate",
    keys: &[
        optional("stages", Takes::Choices(&["schema", "full", "incremental"])),
        default("on_conflict", Takes::Choice(&["fail", "ignore"]), "fail"),
        default("names", Takes::Choice(&["default", "source", "destination"]), "default"),
        optional("set_identity", Takes::Flag),
        optional("floats", Takes::Choice(&["lossless", "round"])),
    ],
};

static OBJECTS: Section = Section {
    name: "objects",
    keys: &[
        optional("include", Takes::Texts),
        optional("exclude", Takes::Texts),
        optional("rename", Takes::Text),
        optional("where", Takes::Text),
        optional("columns", Takes::Table(&COLUMNS)),
        optional("operations", Takes::Choices(&["insert", "update", "delete", "truncate", "ddl"])),
    ],
};

static COLUMNS: Section = Section {
    name: "objects.columns",
    keys: &[
        optional("include", Takes::List),
        optional("drop", Takes::List),
        optional("rename", Takes::TextMap),
        optional("on_misfit", Takes::TextMap),
    ],
};

pub(super) static LIMITS: Section = Section {
    name: "limits",
    keys: &[
        optional("full", Takes::Table(&LIMITS_FULL)),
        optional("incremental", Takes::Table(&LIMITS_INCREMENTAL)),
        default("snapshot", Takes::Duration(Duration::ZERO, Duration::MAX), "0s"),
    ],
};

static LIMITS_FULL: Section = Section {
    name: "limits.full",
    keys: &[
        default("queries_per_second", Takes::Count, "0"),
        default("rows_per_second", Takes::Count, "0"),
        default("megabytes_per_second", Takes::Count, "0"),
    ],
};

static LIMITS_INCREMENTAL: Section = Section {
    name: "limits.incremental",
    keys: &[default("rows_per_second", Takes::Count, "0"), default("megabytes_per_second", Takes::Count, "0")],
};

pub(super) static RETRY: Section = Section {
    name: "retry",
    keys: &[
        default("connection", Takes::Duration(Duration::from_secs(10 * MINUTE), Duration::from_secs(24 * HOUR)), "12h"),
        default("other", Takes::Duration(Duration::from_secs(MINUTE), Duration::from_secs(24 * HOUR)), "10m"),
    ],
};

pub(super) static SCHEMA_CHANGES: Section = Section {
    name: "schema_changes",
    keys: &[default("policy", Takes::Choice(&["replicate", "stop_table", "stop"]), "replicate")],
};

pub(super) static LOG: Section =
    Section { name: "log", keys: &[default("budget", Takes::Size, "20GiB"), optional("kafka", Takes::Table(&KAFKA))] };

static KAFKA: Section = Section {
    name: "log.kafka",
    keys: &[
        required("brokers", Takes::List),
        optional("sasl", Takes::Choice(&["plain", "scram-sha-256", "scram-sha-512"])),
        optional("user", Takes::Text),
        optional("password", Takes::Secret),
        optional("tls", Takes::Table(&TLS)),
    ],
};
