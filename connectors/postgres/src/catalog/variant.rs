//! The catalogue's queries and their variants by server version: a line that ends in `-- @from N` is for servers of at least that
//! version, one that ends in `-- @before N` for older ones.

/// The statement for a server of this version.
pub(super) fn variant(sql: &str, version: u32) -> String {
    let keep = |line: &&str| {
        let bound = |mark: &str| line.rsplit_once(mark).and_then(|(_, n)| n.trim().parse::<u32>().ok());
        match (bound("-- @from "), bound("-- @before ")) {
            (Some(from), _) => version >= from,
            (_, Some(before)) => version < before,
            _ => true,
        }
    };
    sql.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_belong_to_versions() {
        let sql = "a\nb -- @from 120000\nc -- @before 120000\nd";
        assert_eq!(variant(sql, 110_000), "a\nc -- @before 120000\nd");
        assert_eq!(variant(sql, 120_000), "a\nb -- @from 120000\nd");
    }
}
