//! The `url` of an endpoint: `scheme://user:password@host:port/database?key=value`.
//!
//! Guarantee: an error names the part at fault, never its text: with a stray `/` or `@` in a password, a piece of the
//! password may have landed in any part.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where an endpoint listens and what is opened there. It holds no password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// What stood before `://`, in lower case. Whether it fits the kind, the connector decides.
    pub scheme: String,
    /// Host name, IP address (IPv6 without brackets), or folder or path of a socket, which begins with `/`.
    pub host: String,
    /// None: the connector's default.
    pub port: Option<u16>,
    /// Account; None if it is not given.
    pub user: Option<String>,
    /// What stood behind the host's `/`; None if it is not given.
    pub database: Option<String>,
    /// Further parameters in their order, but for `host`, `port` and `user`, which are put into their places above.
    pub params: Vec<(String, String)>,
}

impl Url {
    /// Whether `host` is the path of a socket of this machine.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whether what is sent stays on this machine: a socket, `localhost` or a loopback address.
    pub fn is_local(&self) -> bool {
        self.is_socket() || is_loopback(&self.host)
    }

    /// The last parameter of that name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Takes a url apart; gives the password that stood in it apart from the rest. Parts may be percent-encoded. The
    /// parameters `host` (a socket's folder), `port` and `user` win over the same parts before them.
    ///
    /// # Errors
    /// What is wrong, and the remedy.
    pub fn parse(text: &str) -> Result<(Url, Option<String>), (&'static str, &'static str)> {
        const FORM: &str = "write scheme://user@host:port/database, with special characters percent-encoded";
        let (scheme, rest) = text.split_once("://").ok_or(("the url has no \"://\"", FORM))?;
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return Err(("the url does not begin with a scheme", FORM));
        }
        if rest.contains('#') {
            return Err(("the url has a \"#\"", "write it as %23"));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let (account, address) =
            authority.rsplit_once('@').map_or((None, authority), |(account, address)| (Some(account), address));

        let mut user = None;
        let mut password = None;
        if let Some(account) = account {
            let (name, secret) = account.split_once(':').map_or((account, None), |(n, s)| (n, Some(s)));
            user = non_empty(decode(name)?);
            password = secret.map(decode).transpose()?.and_then(non_empty);
        }

        let (host, port) = split_port(address)?;
        let mut host = decode(host)?;
        let mut port = port.map(parse_port).transpose()?;
        let database = path.map(decode).transpose()?.and_then(non_empty);

        let mut params = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            match name.as_str() {
                "host" => host = value,
                "port" => port = Some(parse_port(&value)?),
                "user" => user = non_empty(value),
                "password" => {
                    return Err((
                        "the url has a password among its parameters",
                        "write it as password = { env = \"…\" } beside the url",
                    ));
                }
                _ => params.push((name, value)),
            }
        }
        if host.is_empty() {
            return Err(("the url names no host", "name one; for a socket append ?host=/folder/of/the/socket"));
        }
        let bad = |c: char| c.is_whitespace() || c.is_control() || ",@[]".contains(c);
        if !host.starts_with('/') && host.contains(bad) {
            return Err(("the url's host is none", "name exactly one host; an IPv6 address stands in [ ]"));
        }
        Ok((Url { scheme: scheme.to_ascii_lowercase(), host, port, user, database, params }, password))
    }
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Splits `host:port`, `[v6]:port` and `host`.
fn split_port(address: &str) -> Result<(&str, Option<&str>), (&'static str, &'static str)> {
    const BRACKETS: (&str, &str) = ("the url's IPv6 address is none", "write it in brackets: [::1]:5000");
    if let Some(inner) = address.strip_prefix('[') {
        let (host, tail) = inner.split_once(']').ok_or(BRACKETS)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| BRACKETS)?;
        return match tail.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if tail.is_empty() => Ok((host, None)),
            None => Err(BRACKETS),
        };
    }
    match address.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(BRACKETS),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((address, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, (&'static str, &'static str)> {
    text.parse().ok().filter(|port| *port > 0).ok_or((
        "the url's port is no number from 1 to 65535",
        "a \"/\", \"?\" or \":\" in a user or password is written percent-encoded: %2F, %3F, %3A",
    ))
}

/// Replaces each `%XX`; the outcome has to be UTF-8.
fn decode(text: &str) -> Result<String, (&'static str, &'static str)> {
    const BAD: (&str, &str) =
        ("the url has a \"%\" that begins no percent-encoded UTF-8 character", "write a \"%\" itself as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(BAD) };
        let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(BAD);
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| BAD)
}

/// Whether a host name or address means this machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.to_ipv4_mapped().is_some_and(|a| a.is_loopback()),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> (Url, Option<String>) {
        Url::parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}"))
    }

    #[test]
    fn every_part() {
        let (url, password) = url("Db://app%40x:p%2Fq%3a@db.example:6000/sh%20op?a=1&b=%26&c");
        assert_eq!(url.scheme, "db");
        assert_eq!(url.user.as_deref(), Some("app@x"));
        assert_eq!(password.as_deref(), Some("p/q:"));
        assert_eq!((url.host.as_str(), url.port), ("db.example", Some(6000)));
        assert_eq!(url.database.as_deref(), Some("sh op"));
        assert_eq!(url.params, [("a", "1"), ("b", "&"), ("c", "")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(!url.is_local());
        assert_eq!(url.param("b"), Some("&"));
    }

    #[test]
    fn addresses() {
        assert_eq!(url("db://[::1]:7/x").0.host, "::1");
        assert_eq!(url("db://[fe80::1]").0.port, None);
        assert_eq!(url("db://a:b@c@h/x").0.host, "h", "the last @ ends the account");
        let socket = url("db://app@/shop?host=/run/db&port=7").0;
        assert_eq!((socket.host.as_str(), socket.port), ("/run/db", Some(7)));
        assert!(socket.is_socket() && socket.params.is_empty());
        assert!(url("db://%2Frun%2Fdb/shop").0.is_socket());
        for local in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(url(&format!("db://{local}/x")).0.is_local(), "{local}");
        }
        for far in ["10.0.0.5", "0.0.0.0", "[::]", "localhost.example", "128.0.0.1"] {
            assert!(!url(&format!("db://{far}/x")).0.is_local(), "{far}");
        }
        assert_eq!(url("db://h/").0.database, None);
        assert_eq!(url("db://h:1").1, None);
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "shop",
            "://h",
            "1db://h",
            "db://",
            "db:///x",
            "db://h:x/",
            "db://h:0",
            "db://h:65536",
            "db://::1/x",
            "db://[::1/x",
            "db://[::1]x",
            "db://[x]",
            "db://a,b/x",
            "db://h/%zz",
            "db://h/%f",
            "db://%ff/x",
            "db://h/x?password=hunter2",
            "db://h/x#y",
            "db://a b/x",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(db://)?[a-z0-9:/@?&=%\\[\\]. ü-]{0,40}") {
            let _ = Url::parse(&text);
        }

        #[test]
        fn any_password_comes_back(password in "\\PC{1,20}") {
            let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
            let (_, read) = url(&format!("db://u:{encoded}@h/x"));
            prop_assert_eq!(read, Some(password));
        }
    }
}
