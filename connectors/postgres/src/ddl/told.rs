//! What an event trigger told: the statement, and the structure of its tables right behind it. The structure comes as the rows of the catalogue's own
//! queries; they are made rows again by a session at the source, so that there is one reader of the catalogue only.

use crate::catalog;
use crate::connect::Session;
use drover_model::schema::Table;
use drover_model::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;

/// A message in the log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Told {
    /// `ALTER TABLE`.
    pub tag: String,
    /// What the client sent: it may hold more than this statement.
    pub statement: String,
    /// The statement stands alone, and holds no expression that the values of a column could come from.
    pub plain: bool,
    /// The statement ends with it: it has nothing more to tell.
    pub ended: bool,
    /// The tables whose structure came along.
    pub relids: Vec<u32>,
    pub dropped: Vec<Dropped>,
    pub missing: Vec<Missing>,
    /// Partitions of these tables that hold rows.
    pub filled: Vec<Named>,
    /// Tables that are not published, under their present names, which they may have got by this statement.
    pub strange: Vec<Named>,
    /// Nothing else stands in the message then: rows of a table are being written anew.
    pub rewritten: Option<Rewritten>,
    /// It could not be told, and why.
    pub failed: Option<String>,
    rows: serde_json::Value,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Dropped {
    /// `table` or `index`.
    pub kind: String,
    pub oid: u32,
    pub schema: String,
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Named {
    pub schema: String,
    pub name: String,
}

/// A value that rows from before have in a column that was added.
#[derive(Debug, Clone, Deserialize)]
pub struct Missing {
    pub relid: u32,
    /// The column.
    pub name: String,
    pub value: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Rewritten {
    pub relid: u32,
    /// See `pg_event_trigger_table_rewrite_reason`.
    pub reason: i32,
}

/// Type and modifier of each column of a table, by name.
pub type Types = HashMap<String, (u32, i32)>;

impl Told {
    /// # Errors
    /// INTERNAL for a message that drover's triggers did not write.
    pub fn read(content: &[u8]) -> Result<Told> {
        serde_json::from_slice(content)
            .map_err(|e| Error::internal("the source tells a schema change in a form that is not understood").cause(e))
    }

    /// The tables, as they were right behind the statement.
    ///
    /// # Errors
    /// As [`crate::errors::classify`] says.
    pub async fn tables(&self, session: &Session) -> Result<Vec<Table>> {
        if self.relids.is_empty() {
            return Ok(Vec::new());
        }
        catalog::told(session, &self.rows.to_string()).await
    }

    /// Types of the columns of one of the tables.
    pub fn types(&self, relid: u32) -> Types {
        let number = |v: &serde_json::Value| match v {
            serde_json::Value::String(text) => text.parse::<i64>().ok(),
            other => other.as_i64(),
        };
        let columns = self.rows.get("columns").and_then(|c| c.as_array()).into_iter().flatten();
        columns
            .filter_map(|c| {
                let of = number(c.get("relid")?)?;
                let name = c.get("name")?.as_str()?.to_owned();
                let (kind, modifier) = (number(c.get("type")?)?, number(c.get("typmod")?)?);
                (of == i64::from(relid)).then_some((name, (u32::try_from(kind).ok()?, i32::try_from(modifier).ok()?)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let told = Told::read(
            br#"{"tag": "ALTER TABLE", "plain": true, "relids": [17], "statement": "ALTER", "dropped": [],
                "missing": [{"relid": 17, "name": "c", "value": "5"}], "rows": {"columns": [{"relid": "17", "name": "c", "type": "23", "typmod": -1},
                {"relid": "18", "name": "d", "type": 23, "typmod": -1}]}}"#,
        )
        .unwrap();
        assert_eq!(told.types(17), Types::from([("c".to_owned(), (23, -1))]));
        assert!(told.plain && told.rewritten.is_none() && told.missing[0].value.as_deref() == Some("5"));
        let told = Told::read(br#"{"rewritten": {"relid": 17, "reason": 4}}"#).unwrap();
        assert_eq!(told.rewritten.map(|r| r.reason), Some(4));
        assert!(Told::read(b"x").is_err());
    }
}
