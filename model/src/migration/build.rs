//! Makes a [`Migration`] of a checked file, and reports what only several keys together show.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::finding::Finding;
use super::keys::{LIMITS, LOG, MIGRATE, RETRY, ROOT, SCHEMA_CHANGES};
use super::read::{Node, Reader};
use super::url::is_loopback;
use super::{
    Endpoint, FullLimits, IncrementalLimits, Kafka, Limits, Log, Migration, Names, OnConflict, RetryWindows, Sasl,
    SaslMechanism, SchemaPolicy, Secret, SecretSource, Stage, Tls, TlsMode, Url,
};
use crate::plan::{Floats, Operations};
use crate::selection::{ColumnRules, ObjectRule, Selection};

/// See [`Migration::parse`].
pub(super) fn parse(text: &str, origin: &Path, kinds: &[&str]) -> Result<Migration, Vec<Finding>> {
    let reader = Reader { text, file: origin.display().to_string(), kinds, findings: RefCell::default() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // The message only: the error's `Display` quotes the line, which may hold a password.
        let message = format!("not TOML: {}", error.message());
        reader.fault(error.span().map_or(0, |span| span.start), "", message, "");
    }
    // What a broken file would mean is guesswork.
    let mut migration = None;
    if errors.is_empty() {
        let root = Node { table: Some(root.get_ref()), section: &ROOT, path: String::new(), at: 0 };
        reader.check(&ROOT, &root);
        let folder = origin.parent().unwrap_or(Path::new(""));
        migration = Build { reader: &reader, folder }.migration(&root);
    }
    let mut findings = reader.findings.into_inner();
    match migration {
        Some(migration) if findings.is_empty() => Ok(migration),
        _ => {
            findings.sort_by_key(|(at, _)| *at);
            Err(findings.into_iter().map(|(_, finding)| finding).collect())
        }
    }
}

/// The windows that a `[retry]` states.
pub(super) fn retry(node: &Node<'_>) -> RetryWindows {
    RetryWindows { connection: node.duration("connection"), other: node.duration("other") }
}

struct Build<'r> {
    reader: &'r Reader<'r>,
    /// Relative paths start here.
    folder: &'r Path,
}

impl Build<'_> {
    fn fault(&self, node: &Node<'_>, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.reader.fault(node.at(key), &node.path_of(key), message, remedy);
    }

    /// Whether a fault of this key or of one within it was reported.
    fn is_at_fault(&self, path: &str) -> bool {
        self.reader.findings.borrow().iter().any(|(_, finding)| finding.key.starts_with(path))
    }

    /// None only where something was reported.
    fn migration(&self, root: &Node<'_>) -> Option<Migration> {
        let source = root.table("source").and_then(|node| self.endpoint(&node));
        let destination = root.table("destination").and_then(|node| self.endpoint(&node));
        let migrate = root.table("migrate").unwrap_or(Node::missing(&MIGRATE));
        let stages = migrate.texts("stages");
        let objects = self.objects(root);
        let limits = limits(&root.table("limits").unwrap_or(Node::missing(&LIMITS)));
        let retry_node = root.table("retry").unwrap_or(Node::missing(&RETRY));
        let retry = retry(&retry_node);
        if !self.is_at_fault("retry") && retry.other >= retry.connection {
            let key = if retry_node.value("other").is_some() { "other" } else { "connection" };
            let message = "retry.other is not shorter than retry.connection";
            self.fault(&retry_node, key, message, "shorten other (10m by default) or lengthen connection (12h)");
        }
        let schema = root.table("schema_changes").unwrap_or(Node::missing(&SCHEMA_CHANGES));
        let log = self.log(&root.table("log").unwrap_or(Node::missing(&LOG)));
        Some(Migration {
            name: root.text("name")?.to_owned(),
            source: source?,
            destination: destination?,
            stages: match stages {
                None => Stage::ALL.to_vec(),
                Some(words) => {
                    let named = ["schema", "full", "incremental"].into_iter().zip(Stage::ALL);
                    named.filter(|(word, _)| words.iter().any(|w| w == word)).map(|(_, stage)| stage).collect()
                }
            },
            set_identity: migrate.flag("set_identity"),
            floats: migrate.text("floats").map(|word| match word {
                "round" => Floats::Round,
                _ => Floats::Lossless,
            }),
            on_conflict: match migrate.text("on_conflict")? {
                "ignore" => OnConflict::Ignore,
                _ => OnConflict::Fail,
            },
            names: match migrate.text("names")? {
                "source" => Names::Source,
                "destination" => Names::Destination,
                _ => Names::Default,
            },
            objects,
            limits,
            retry,
            schema_changes: match schema.text("policy")? {
                "stop_table" => SchemaPolicy::StopTable,
                "stop" => SchemaPolicy::Stop,
                _ => SchemaPolicy::Replicate,
            },
            log,
        })
    }

    fn endpoint(&self, node: &Node<'_>) -> Option<Endpoint> {
        let apart = self.secret(node);
        let (url, inline) = match Url::parse(node.text("url")?) {
            Ok(parsed) => parsed,
            Err((message, remedy)) => {
                self.fault(node, "url", format!("{}: {message}", node.path_of("url")), remedy);
                return None;
            }
        };
        if inline.is_some() && node.value("password").is_some() {
            let message = format!("[{}] has a password in its url and another one beside it", node.path);
            self.fault(node, "password", message, "remove one of them");
        }
        Some(Endpoint {
            kind: node.text("kind")?.to_owned(),
            tls: self.tls(node, url.is_local()),
            url,
            password: apart.or(inline.map(|text| SecretSource::Inline(Secret::new(text)))),
        })
    }

    fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    fn secret(&self, node: &Node<'_>) -> Option<SecretSource> {
        let Some(table) = node.table("password") else {
            return node.text("password").map(|text| SecretSource::Inline(Secret::new(text)));
        };
        match table.text("env") {
            Some(name) if name.contains(['=', '\0']) => {
                self.fault(&table, "env", "an environment variable's name has no \"=\"", "write its name alone");
                None
            }
            Some(name) => Some(SecretSource::Env(name.to_owned())),
            None => table.text("file").map(|file| SecretSource::File(self.path(file))),
        }
    }

    /// The `tls` of an endpoint or of brokers; `local`: what is sent stays on this machine.
    fn tls(&self, owner: &Node<'_>, local: bool) -> Tls {
        let Some(node) = owner.table("tls") else {
            return Tls { mode: if local { TlsMode::Off } else { TlsMode::VerifyFull }, ..Tls::default() };
        };
        let file = |key| node.text(key).map(|text| self.path(text));
        let mode = match node.text("mode") {
            Some("off") => TlsMode::Off,
            Some("require") => TlsMode::Require,
            Some("verify-ca") => TlsMode::VerifyCa,
            _ => TlsMode::VerifyFull,
        };
        let tls = Tls { mode, ca: file("ca"), cert: file("cert"), key: file("key") };
        let path = &node.path;
        match (&tls.cert, &tls.key) {
            (Some(_), None) => {
                self.fault(&node, "cert", format!("{path} has cert without key"), "add key = \"…\", its private key");
            }
            (None, Some(_)) => {
                self.fault(&node, "key", format!("{path} has key without cert"), "add cert = \"…\", its certificate");
            }
            _ => {}
        }
        let unverified = node.flag("unverified");
        if mode == TlsMode::Require && !unverified {
            let message = format!("{path}: mode \"require\" encrypts, but does not verify with whom");
            let remedy = "take \"verify-full\" with ca = \"…\", or add unverified = true if that is meant";
            self.fault(&node, "mode", message, remedy);
        }
        if mode != TlsMode::Require && unverified {
            let message = format!("{path}: unverified = true goes with mode \"require\" only");
            self.fault(&node, "unverified", message, "remove it, or take mode = \"require\"");
        }
        if mode == TlsMode::Off {
            for key in ["ca", "cert", "key"].into_iter().filter(|key| node.value(key).is_some()) {
                self.fault(&node, key, format!("{path}: mode \"off\" has no use for {key}"), "remove one of both");
            }
        } else if mode == TlsMode::Require && tls.ca.is_some() {
            let message = format!("{path}: mode \"require\" does not look at ca");
            self.fault(&node, "ca", message, "take mode = \"verify-full\" or \"verify-ca\"");
        }
        tls
    }

    fn objects(&self, root: &Node<'_>) -> Vec<ObjectRule> {
        let nodes = root.tables("objects");
        let rules: Vec<ObjectRule> = nodes.iter().map(object_rule).collect();
        for error in Selection::compile(&rules).err().unwrap_or_default() {
            let Some(node) = nodes.get(error.rule) else { continue };
            let path = node.path_of(error.key);
            let (path, at) = match (error.key.strip_prefix("columns."), error.item) {
                (Some(key), _) => (path, node.table("columns").map_or(node.at, |columns| columns.at(key))),
                (None, Some(item)) => (format!("{path}[{item}]"), node.at_item(error.key, error.item)),
                (None, None) => (path, node.at(error.key)),
            };
            // A faulty value or a misspelt key reads as missing: what follows from that need not be said as well.
            let follows = match error.key {
                "include" if error.item.is_none() => self.is_at_fault(&node.path),
                _ => self.is_at_fault(&path),
            };
            if !follows {
                self.reader.fault(at, &path, error.message, error.remedy);
            }
        }
        rules
    }

    fn log(&self, node: &Node<'_>) -> Log {
        Log { budget: node.size("budget"), kafka: node.table("kafka").map(|node| self.kafka(&node)) }
    }

    fn kafka(&self, node: &Node<'_>) -> Kafka {
        let brokers = node.texts("brokers").unwrap_or_default();
        for (item, broker) in brokers.iter().enumerate() {
            if broker_host(broker).is_none() {
                let (at, path) = (node.at_item("brokers", Some(item)), format!("{}[{item}]", node.path_of("brokers")));
                self.reader.fault(at, &path, format!("{broker:?} is no broker"), "write \"host:port\"");
            }
        }
        let local = brokers.iter().all(|broker| broker_host(broker).is_some_and(is_loopback));
        let mechanism = match node.text("sasl") {
            Some("plain") => Some(SaslMechanism::Plain),
            Some("scram-sha-256") => Some(SaslMechanism::ScramSha256),
            Some("scram-sha-512") => Some(SaslMechanism::ScramSha512),
            _ => None,
        };
        for key in ["user", "password"] {
            let given = node.value(key).is_some();
            if given && node.value("sasl").is_none() {
                let message = format!("{} has {key} without sasl", node.path);
                self.fault(node, key, message, "add sasl = \"scram-sha-512\" (or plain, scram-sha-256), or remove it");
            } else if !given && node.value("sasl").is_some() {
                let message = format!("{} has sasl without {key}", node.path);
                self.fault(node, "sasl", message, format!("add {key} = …"));
            }
        }
        let sasl = match (mechanism, node.text("user"), self.secret(node)) {
            (Some(mechanism), Some(user), Some(password)) => Some(Sasl { mechanism, user: user.to_owned(), password }),
            _ => None,
        };
        Kafka { brokers, sasl, tls: self.tls(node, local) }
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn broker_host(broker: &str) -> Option<&str> {
    let (host, port) = broker.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            inner
        }
        None => host,
    };
    let bad = |c: char| c.is_whitespace() || c.is_control() || "/,@[]".contains(c);
    let v6 = broker.starts_with('[');
    (!host.is_empty() && !host.contains(bad) && (v6 || !host.contains(':'))).then_some(host)
}

fn limits(node: &Node<'_>) -> Limits {
    let full = node.table("full").map(|full| FullLimits {
        queries_per_second: full.count("queries_per_second"),
        rows_per_second: full.count("rows_per_second"),
        megabytes_per_second: full.count("megabytes_per_second"),
    });
    let incremental = node.table("incremental").map(|incremental| IncrementalLimits {
        rows_per_second: incremental.count("rows_per_second"),
        megabytes_per_second: incremental.count("megabytes_per_second"),
    });
    Limits {
        full: full.unwrap_or_default(),
        incremental: incremental.unwrap_or_default(),
        snapshot: node.duration("snapshot"),
    }
}

fn object_rule(node: &Node<'_>) -> ObjectRule {
    ObjectRule {
        include: node.texts("include").unwrap_or_default(),
        exclude: node.texts("exclude").unwrap_or_default(),
        rename: node.text("rename").map(str::to_owned),
        filter: node.text("where").map(str::to_owned),
        columns: node.table("columns").map(|columns| ColumnRules {
            include: columns.texts("include"),
            drop: columns.texts("drop").unwrap_or_default(),
            rename: columns.text_map("rename"),
            on_misfit: columns.text_map("on_misfit"),
        }),
        operations: node.texts("operations").map(|words| {
            let has = |word: &str| words.iter().any(|w| w == word);
            Operations {
                insert: has("insert"),
                update: has("update"),
                delete: has("delete"),
                truncate: has("truncate"),
                ddl: has("ddl"),
            }
        }),
    }
}
