//! What an account may do, from what `SHOW GRANTS` prints. This needs no right of its own, and tells the grant that is lacking.

use crate::catalog::lex::{self, Kind, Token};
use crate::connect::Session;
use crate::flavor::Version;
use drover_model::Result;
use std::collections::BTreeSet;

/// On what a privilege is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Global,
    /// With `%` and `_` as wildcards, unless behind a backslash.
    Database(String),
    Table(String, String),
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    level: Level,
    /// In capitals.
    privileges: BTreeSet<String>,
    /// Columns of SELECT, where it is on columns.
    columns: BTreeSet<String>,
    /// A REVOKE that takes a part of a global grant back.
    revoked: bool,
}

/// An account's privileges.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// `'user'@'host'`
    pub account: String,
    all: Vec<Grant>,
    renamed: bool,
}

impl Grants {
    /// Those of the session's account with its active roles.
    ///
    /// # Errors
    /// As [`crate::errors::classify`] says, with the session's side at fault.
    pub async fn read(session: &mut Session) -> Result<Grants> {
        let what = "cannot ask what the account may do";
        let current: Option<String> = session.first("SELECT CURRENT_USER()", what).await?;
        let mut lines: Vec<String> = session.all("SHOW GRANTS", what).await?;
        if session.version.mysql(80_000) {
            let roles: Option<String> = session.first("SELECT CURRENT_ROLE()", what).await?;
            if let Some(roles) = roles.filter(|r| r != "NONE" && !r.is_empty()) {
                lines = session.all(format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}"), what).await?;
            }
        }
        Ok(Grants::parse(&super::account(&current.unwrap_or_default()), &lines, &session.version))
    }

    fn parse(account: &str, lines: &[String], version: &Version) -> Grants {
        Grants {
            account: account.to_owned(),
            all: lines.iter().filter_map(|l| grant(l)).collect(),
            renamed: version.mariadb(100_500),
        }
    }

    fn matches(&self, g: &Grant, privilege: &str) -> bool {
        let name = |p: &str| g.privileges.contains(p);
        name(privilege)
            || name("ALL PRIVILEGES")
            || name("ALL")
            || (self.renamed && privilege == "REPLICATION CLIENT" && name("BINLOG MONITOR"))
            || (privilege == "REPLICATION SLAVE" && name("REPLICATION REPLICA"))
    }

    /// On everything.
    pub fn global(&self, privilege: &str) -> bool {
        self.all.iter().any(|g| !g.revoked && g.level == Level::Global && self.matches(g, privilege))
    }

    /// On every table of a database.
    pub fn database(&self, privilege: &str, database: &str) -> bool {
        let here =
            |g: &&Grant| matches!(&g.level, Level::Database(p) if like(p, database)) && self.matches(g, privilege);
        let revoked = self.all.iter().filter(|g| g.revoked).any(|g| here(&g));
        (self.global(privilege) && !revoked) || self.all.iter().filter(|g| !g.revoked).any(|g| here(&g))
    }

    /// On a table; `columns`: on these at least.
    pub fn table(&self, privilege: &str, database: &str, table: &str, columns: &[&str]) -> bool {
        self.database(privilege, database)
            || self.all.iter().filter(|g| !g.revoked).any(|g| {
                let here = matches!(&g.level, Level::Table(d, t) if d.eq_ignore_ascii_case(database) && t.eq_ignore_ascii_case(table));
                here && (self.matches(g, privilege)
                    || (privilege == "SELECT"
                        && !columns.is_empty()
                        && columns.iter().all(|c| g.columns.contains(&c.to_lowercase()))))
            })
    }
}

/// Whether a name matches a pattern of a grant.
fn like(pattern: &str, name: &str) -> bool {
    let p: Vec<char> = pattern.chars().collect();
    let n: Vec<char> = name.chars().collect();
    // reached[i]: the pattern so far matches the first i characters.
    let mut reached = vec![false; n.len() + 1];
    reached[0] = true;
    let mut at = 0;
    while at < p.len() {
        let mut next = vec![false; n.len() + 1];
        let escaped = p[at] == '\\' && at + 1 < p.len();
        if escaped {
            at += 1;
        }
        for i in 0..=n.len() {
            if !reached[i] {
                continue;
            }
            match p[at] {
                '%' if !escaped => next[i..].iter_mut().for_each(|r| *r = true),
                '_' if !escaped => {
                    if i < n.len() {
                        next[i + 1] = true;
                    }
                }
                c => {
                    if i < n.len() && n[i] == c {
                        next[i + 1] = true;
                    }
                }
            }
        }
        reached = next;
        at += 1;
    }
    reached[n.len()]
}

/// Reads one line; `None` for roles and proxies.
fn grant(line: &str) -> Option<Grant> {
    let t = lex::words(line);
    let revoked = t.first()?.is("REVOKE");
    let on = t.iter().position(|t| t.is("ON"))?;
    let mut privileges = BTreeSet::new();
    let mut columns = BTreeSet::new();
    let mut words: Vec<&str> = Vec::new();
    let mut i = 1;
    while i <= on {
        let token = &t[i];
        if i == on || token.is(",") {
            if !words.is_empty() {
                privileges.insert(words.join(" ").to_uppercase());
            }
            words.clear();
        } else if token.is("(") {
            let end = lex::closing(&t, i);
            if words == ["SELECT"] {
                columns.extend(t[i + 1..end - 1].iter().filter_map(Token::name).map(|n| n.to_lowercase()));
            }
            words.clear();
            i = end;
            continue;
        } else if token.kind == Kind::Word {
            words.push(token.text);
        } else {
            return None;
        }
        i += 1;
    }
    let place = &t[on + 1..];
    let name = |i: usize| place.get(i).and_then(Token::name);
    let level = match (place.first(), place.get(2)) {
        (Some(a), Some(b)) if a.is("*") && b.is("*") => Level::Global,
        (Some(a), Some(b)) if a.kind == Kind::Quoted && b.is("*") => Level::Database(name(0)?),
        (Some(a), Some(b)) if a.kind == Kind::Quoted && b.kind == Kind::Quoted => Level::Table(name(0)?, name(2)?),
        _ => Level::Other,
    };
    Some(Grant { level, privileges, columns, revoked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str], version: &str) -> Grants {
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        Grants::parse("'d'@'%'", &lines, &Version::parse(version).unwrap())
    }

    #[test]
    fn levels_and_wildcards() {
        let g = of(
            &[
                "GRANT REPLICATION SLAVE, RELOAD ON *.* TO `d`@`%`",
                "GRANT SELECT, LOCK TABLES ON `shop\\_1`.* TO `d`@`%`",
                "GRANT ALL PRIVILEGES ON `s_x`.* TO `d`@`%` WITH GRANT OPTION",
                "GRANT SELECT (`id`, `Name`), INSERT ON `other`.`t` TO `d`@`%`",
                "GRANT `role`@`%` TO `d`@`%`",
                "GRANT EXECUTE ON PROCEDURE `other`.`p` TO `d`@`%`",
            ],
            "8.0.36",
        );
        assert!(g.global("RELOAD") && !g.global("SELECT") && !g.global("EXECUTE"));
        assert!(g.database("SELECT", "shop_1") && !g.database("SELECT", "shopx1"));
        assert!(g.database("TRIGGER", "sax"));
        assert!(g.table("SELECT", "other", "t", &["id", "name"]) && !g.table("SELECT", "other", "t", &["id", "fax"]));
        assert!(g.table("INSERT", "other", "t", &[]) && !g.table("INSERT", "other", "u", &[]));
    }

    #[test]
    fn partial_revokes_and_new_names() {
        let g = of(&["GRANT SELECT ON *.* TO `d`@`%`", "REVOKE SELECT ON `secret`.* FROM `d`@`%`"], "8.0.36");
        assert!(g.database("SELECT", "a") && !g.database("SELECT", "secret"));
        let g = of(
            &["GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `d`@`%` IDENTIFIED BY PASSWORD '*1'"],
            "10.11.2-MariaDB",
        );
        assert!(g.global("REPLICATION CLIENT") && g.global("REPLICATION SLAVE"));
    }
}
