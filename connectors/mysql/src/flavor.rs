//! Which member of the family a server is: their rules part ways by flavor and version, never by guess.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A member of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    MySql,
    MariaDb,
}

impl Flavor {
    /// The `kind` of migration files, and the origin of catalogues.
    pub fn kind(self) -> &'static str {
        match self {
            Flavor::MySql => "mysql",
            Flavor::MariaDb => "mariadb",
        }
    }
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Flavor::MySql => "MySQL",
            Flavor::MariaDb => "MariaDB",
        }
    }
    /// Which member a catalogue comes from; `None` for another kind of database.
    pub fn of_origin(origin: &str) -> Option<Flavor> {
        [Flavor::MySql, Flavor::MariaDb].into_iter().find(|f| f.kind() == origin)
    }
}

/// Flavor and version of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub flavor: Flavor,
    /// `major * 10000 + minor * 100 + patch`: 80036, 90700, 101119.
    pub number: u32,
    /// As the server says it.
    pub text: String,
}

impl Version {
    /// Reads what `SELECT VERSION()` gives: `9.7.0`, `8.0.36-28`, `10.11.19-MariaDB-log`, `5.5.5-10.11.19-MariaDB`.
    pub fn parse(text: &str) -> Option<Version> {
        let flavor = if text.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
        // Old replication clients demand a 5: MariaDB puts one ahead of its own version.
        let plain = match flavor {
            Flavor::MariaDb => text.strip_prefix("5.5.5-").unwrap_or(text),
            Flavor::MySql => text,
        };
        let mut numbers = plain.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        let patch = numbers.next().flatten().unwrap_or(0);
        Some(Version { flavor, number: major * 10_000 + minor * 100 + patch, text: text.to_owned() })
    }

    pub fn is_mariadb(&self) -> bool {
        self.flavor == Flavor::MariaDb
    }
    /// At least this version of MySQL.
    pub fn mysql(&self, number: u32) -> bool {
        self.flavor == Flavor::MySql && self.number >= number
    }
    /// At least this version of MariaDB.
    pub fn mariadb(&self, number: u32) -> bool {
        self.flavor == Flavor::MariaDb && self.number >= number
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flavor.title(), self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both() {
        let of = |t: &str| Version::parse(t).map(|v| (v.flavor, v.number));
        assert_eq!(of("9.7.0"), Some((Flavor::MySql, 90_700)));
        assert_eq!(of("8.0.36-28.1"), Some((Flavor::MySql, 80_036)));
        assert_eq!(of("5.1.73-log"), Some((Flavor::MySql, 50_173)));
        assert_eq!(of("10.11.19-MariaDB-0+deb12u1-log"), Some((Flavor::MariaDb, 101_119)));
        assert_eq!(of("5.5.5-10.4.2-MariaDB"), Some((Flavor::MariaDb, 100_402)));
        assert_eq!(of("11.8.3-MariaDB"), Some((Flavor::MariaDb, 110_803)));
        assert_eq!(of("no version"), None);
    }
}
