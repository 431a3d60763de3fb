//! Global transaction ids and sets of them, of both flavors.
//!
//! A set of MySQL names every transaction that it holds: `uuid:1-5:7`, with tags `uuid:1-5:tag:1-3`. MariaDB's position is the last id of each
//! replication domain: `0-1-15`; everything before it in its domain is behind it.

use crate::flavor::Flavor;
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// One transaction's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// `tag` is empty for ids without one.
    MySql {
        source: Uuid,
        tag: String,
        number: u64,
    },
    MariaDb {
        domain: u32,
        server: u32,
        sequence: u64,
    },
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtid::MySql { source, tag, number } if tag.is_empty() => write!(f, "{source}:{number}"),
            Gtid::MySql { source, tag, number } => write!(f, "{source}:{tag}:{number}"),
            Gtid::MariaDb { domain, server, sequence } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

/// Ids of one source and tag as ranges, both ends included, ascending and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, first: u64, last: u64) {
        // Nearly always the next one.
        if let Some((_, end)) = self.0.last_mut()
            && first == end.saturating_add(1)
        {
            *end = last;
            return;
        }
        let from = self.0.partition_point(|r| r.1.saturating_add(1) < first);
        let to = self.0.partition_point(|r| r.0 <= last.saturating_add(1));
        let (mut first, mut last) = (first, last);
        if let Some(r) = self.0.get(from).filter(|_| from < to) {
            first = first.min(r.0);
        }
        if from < to {
            last = last.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(first, last)]);
    }
    fn holds(&self, first: u64, last: u64) -> bool {
        let at = self.0.partition_point(|r| r.1 < first);
        self.0.get(at).is_some_and(|r| r.0 <= first && last <= r.1)
    }
}

/// Transactions that are behind a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    MySql(MySqlSet),
    MariaDb(MariaDbSet),
}

/// By source and tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MySqlSet(BTreeMap<Uuid, BTreeMap<String, Ranges>>);

/// The last (server, sequence) of each domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MariaDbSet(BTreeMap<u32, (u32, u64)>);

impl GtidSet {
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MySql => GtidSet::MySql(MySqlSet::default()),
            Flavor::MariaDb => GtidSet::MariaDb(MariaDbSet::default()),
        }
    }

    /// Reads what a server prints; `None` if it is no set.
    pub fn parse(flavor: Flavor, text: &str) -> Option<Self> {
        match flavor {
            Flavor::MySql => MySqlSet::parse(text).map(GtidSet::MySql),
            Flavor::MariaDb => MariaDbSet::parse(text).map(GtidSet::MariaDb),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            GtidSet::MySql(set) => set.0.is_empty(),
            GtidSet::MariaDb(set) => set.0.is_empty(),
        }
    }

    /// Adds a transaction that comes after all that the set has of its domain.
    pub fn add(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (GtidSet::MySql(set), Gtid::MySql { source, tag, number }) => set.add(*source, tag, *number, *number),
            (GtidSet::MariaDb(set), Gtid::MariaDb { domain, server, sequence }) => {
                set.0.insert(*domain, (*server, *sequence));
            }
            // A server has one flavor.
            _ => {}
        }
    }

    /// Whether a transaction is in the set.
    pub fn holds(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (GtidSet::MySql(set), Gtid::MySql { source, tag, number }) => {
                set.0.get(source).and_then(|tags| tags.get(tag.as_str())).is_some_and(|r| r.holds(*number, *number))
            }
            (GtidSet::MariaDb(set), Gtid::MariaDb { domain, sequence, .. }) => {
                set.0.get(domain).is_some_and(|(_, last)| sequence <= last)
            }
            _ => false,
        }
    }

    /// MariaDB: whether this is the last id of its domain.
    pub fn is_last(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (GtidSet::MariaDb(set), Gtid::MariaDb { domain, server, sequence }) => {
                set.0.get(domain) == Some(&(*server, *sequence))
            }
            _ => false,
        }
    }

    /// MariaDB: forgets the domain of this id.
    pub fn remove_domain(&mut self, gtid: &Gtid) {
        if let (GtidSet::MariaDb(set), Gtid::MariaDb { domain, .. }) = (self, gtid) {
            set.remove(*domain);
        }
    }

    /// Whether all of `other` is in this set.
    pub fn holds_all(&self, other: &GtidSet) -> bool {
        match (self, other) {
            (GtidSet::MySql(set), GtidSet::MySql(other)) => other.0.iter().all(|(source, tags)| {
                tags.iter().all(|(tag, ranges)| {
                    let ours = set.0.get(source).and_then(|t| t.get(tag));
                    ranges.0.iter().all(|r| ours.is_some_and(|ours| ours.holds(r.0, r.1)))
                })
            }),
            (GtidSet::MariaDb(set), GtidSet::MariaDb(other)) => other
                .0
                .iter()
                .all(|(domain, (_, sequence))| set.0.get(domain).is_some_and(|(_, ours)| sequence <= ours)),
            _ => false,
        }
    }
}

impl MySqlSet {
    fn parse(text: &str) -> Option<Self> {
        let mut set = MySqlSet::default();
        for member in text.split(',').map(str::trim).filter(|m| !m.is_empty()) {
            let mut parts = member.split(':').map(str::trim);
            let source = Uuid::parse_str(parts.next()?).ok()?;
            let mut tag = "";
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
                    if first == 0 || last < first {
                        return None;
                    }
                    set.add(source, tag, first, last);
                } else {
                    tag = part;
                }
            }
        }
        Some(set)
    }

    fn add(&mut self, source: Uuid, tag: &str, first: u64, last: u64) {
        let tags = self.0.entry(source).or_default();
        match tags.get_mut(tag) {
            Some(ranges) => ranges.add(first, last),
            None => {
                tags.insert(tag.to_ascii_lowercase(), Ranges(vec![(first, last)]));
            }
        }
    }
}

impl MariaDbSet {
    fn parse(text: &str) -> Option<Self> {
        let mut set = MariaDbSet::default();
        for gtid in text.split(',').map(str::trim).filter(|m| !m.is_empty()) {
            let (domain, server, sequence) = mariadb_gtid(gtid)?;
            let last = set.0.entry(domain).or_insert((server, sequence));
            if last.1 < sequence {
                *last = (server, sequence);
            }
        }
        Some(set)
    }

    /// Forgets a domain.
    pub fn remove(&mut self, domain: u32) {
        self.0.remove(&domain);
    }

    /// Domain, server and sequence of the last id of each domain.
    pub fn last(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        self.0.iter().map(|(domain, (server, sequence))| (*domain, *server, *sequence))
    }
}

/// `0-1-15`.
pub fn mariadb_gtid(text: &str) -> Option<(u32, u32, u64)> {
    let mut parts = text.trim().splitn(3, '-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GtidSet::MySql(set) => {
                for (i, (source, tags)) in set.0.iter().enumerate() {
                    write!(f, "{}{source}", if i > 0 { "," } else { "" })?;
                    // The empty tag sorts first, as it has to stand.
                    for (tag, ranges) in tags {
                        if !tag.is_empty() {
                            write!(f, ":{tag}")?;
                        }
                        for (first, last) in &ranges.0 {
                            if first == last { write!(f, ":{first}")? } else { write!(f, ":{first}-{last}")? }
                        }
                    }
                }
                Ok(())
            }
            GtidSet::MariaDb(set) => {
                for (i, (domain, (server, sequence))) in set.0.iter().enumerate() {
                    write!(f, "{}{domain}-{server}-{sequence}", if i > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn my(text: &str) -> GtidSet {
        GtidSet::parse(Flavor::MySql, text).unwrap()
    }
    fn one(source: &str, tag: &str, number: u64) -> Gtid {
        Gtid::MySql { source: Uuid::parse_str(source).unwrap(), tag: tag.into(), number }
    }

    #[test]
    fn sets_of_mysql() {
        let set = my(&format!("{A}:1-5:7:11-18,\n{B}:1-27:beta:3:alpha:1-2"));
        assert_eq!(set.to_string(), format!("{A}:1-5:7:11-18,{B}:1-27:alpha:1-2:beta:3"));
        assert!(set.holds(&one(A, "", 7)) && !set.holds(&one(A, "", 6)) && set.holds(&one(B, "alpha", 2)));
        assert!(!set.holds(&one(A, "alpha", 2)));
        assert!(set.holds_all(&my(&format!("{A}:2-3:12,{B}:beta:3"))));
        assert!(!set.holds_all(&my(&format!("{A}:4-7"))));
        assert!(set.holds_all(&my("")) && !my("").holds_all(&set));
        assert_eq!(GtidSet::parse(Flavor::MySql, "no:1"), None);
        assert_eq!(GtidSet::parse(Flavor::MySql, &format!("{A}:5-3")), None);
        let mut set = set;
        for number in [6, 8, 10, 9, 19] {
            set.add(&one(A, "", number));
        }
        set.add(&one(A, "gamma", 1));
        assert_eq!(set.to_string(), format!("{A}:1-19:gamma:1,{B}:1-27:alpha:1-2:beta:3"));
    }

    #[test]
    fn positions_of_mariadb() {
        let parse = |t: &str| GtidSet::parse(Flavor::MariaDb, t).unwrap();
        let mut set = parse("1-2-3,0-1-15");
        assert_eq!(set.to_string(), "0-1-15,1-2-3");
        set.add(&Gtid::MariaDb { domain: 0, server: 9, sequence: 16 });
        assert_eq!(set.to_string(), "0-9-16,1-2-3");
        assert!(set.holds(&Gtid::MariaDb { domain: 0, server: 1, sequence: 15 }));
        assert!(!set.holds(&Gtid::MariaDb { domain: 2, server: 1, sequence: 1 }));
        assert!(set.holds_all(&parse("0-1-16")) && !set.holds_all(&parse("2-1-1")));
        // A server's whole state names each server of a domain: the highest is its last.
        assert_eq!(parse("0-2-7,0-1-15").to_string(), "0-1-15");
        assert_eq!(GtidSet::parse(Flavor::MariaDb, "0-1"), None);
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in prop::collection::vec((1u64..60, 0u64..6), 0..40)) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (first, more) in numbers {
                ranges.add(first, first + more);
                model.extend(first..=first + more);
            }
            prop_assert!(ranges.0.windows(2).all(|w| w[0].1 + 1 < w[1].0));
            for n in 0..70 {
                prop_assert_eq!(ranges.holds(n, n), model.contains(&n));
            }
        }
    }
}
