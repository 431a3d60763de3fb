//! Names of work orders within a migration. A key names one piece of work under one set of circumstances: whatever makes an
//! order under way meaningless (a new snapshot, a new generation of a table) also gives its successor another key, so that an
//! outcome can never be taken for that of its successor.

use drover_proto::order::{Role, Side};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of an order within its migration; its text form (`copy/3/0/17/1`) travels in leases.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OrderKey {
    Inspect,
    Survey,
    CheckSource,
    SchemaBase,
    SchemaTable {
        table: u32,
    },
    SchemaFinal,
    Stream,
    Snapshot {
        number: u32,
    },
    /// `worker` is the only one that may take it.
    Hold {
        number: u32,
        worker: String,
    },
    Plan {
        table: u32,
        generation: u32,
        snapshot: u32,
    },
    Copy {
        table: u32,
        generation: u32,
        chunk: u32,
        snapshot: u32,
    },
    Load {
        table: u32,
        generation: u32,
        chunk: u32,
    },
    Forget,
    Restart {
        table: u32,
        generation: u32,
    },
    Apply,
    /// Rows that the apply order of this lease owes, on this snapshot.
    Fetch {
        table: u32,
        snapshot: u32,
        lease: u64,
        round: u32,
    },
    ReadSequences,
    SetSequences,
    CutoverMark {
        attempt: u32,
        mark: u32,
    },
    CutoverRead {
        attempt: u32,
        again: bool,
    },
    CutoverSet {
        attempt: u32,
    },
    CutoverSum {
        attempt: u32,
        look: u32,
        side: Side,
        table: u32,
    },
    CutoverSchema {
        attempt: u32,
    },
    CleanSource,
    CleanDestination,
}

impl OrderKey {
    /// Which role carries such orders out.
    pub fn role(&self) -> Role {
        use OrderKey::*;
        match self {
            Inspect
            | CheckSource
            | Stream
            | Snapshot { .. }
            | Hold { .. }
            | Plan { .. }
            | Copy { .. }
            | Fetch { .. }
            | ReadSequences
            | CutoverMark { .. }
            | CutoverRead { .. }
            | CutoverSum { side: Side::Source, .. }
            | CleanSource => Role::Extractor,
            Survey
            | SchemaBase
            | SchemaTable { .. }
            | SchemaFinal
            | Load { .. }
            | Forget
            | Restart { .. }
            | Apply
            | SetSequences
            | CutoverSet { .. }
            | CutoverSchema { .. }
            | CutoverSum { side: Side::Destination, .. }
            | CleanDestination => Role::Applier,
        }
    }

    /// Runs until it is taken back, beside the slots that a worker counts.
    pub fn is_long(&self) -> bool {
        matches!(self, OrderKey::Stream | OrderKey::Snapshot { .. } | OrderKey::Hold { .. } | OrderKey::Apply)
    }

    /// Belongs to a cutover: if it cannot be carried out, the cutover fails and not the migration.
    pub fn is_cutover(&self) -> bool {
        use OrderKey::*;
        matches!(
            self,
            CutoverMark { .. } | CutoverRead { .. } | CutoverSet { .. } | CutoverSum { .. } | CutoverSchema { .. }
        )
    }

    /// The table that the order is about.
    pub fn table(&self) -> Option<u32> {
        use OrderKey::*;
        match self {
            SchemaTable { table }
            | Plan { table, .. }
            | Copy { table, .. }
            | Load { table, .. }
            | Fetch { table, .. }
            | Restart { table, .. }
            | CutoverSum { table, .. } => Some(*table),
            _ => None,
        }
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use OrderKey::*;
        match self {
            Inspect => f.write_str("inspect"),
            Survey => f.write_str("survey"),
            CheckSource => f.write_str("check"),
            SchemaBase => f.write_str("schema/base"),
            SchemaTable { table } => write!(f, "schema/table/{table}"),
            SchemaFinal => f.write_str("schema/final"),
            Stream => f.write_str("stream"),
            Snapshot { number } => write!(f, "snapshot/{number}"),
            Hold { number, worker } => write!(f, "hold/{number}/{worker}"),
            Plan { table, generation, snapshot } => write!(f, "plan/{table}/{generation}/{snapshot}"),
            Copy { table, generation, chunk, snapshot } => write!(f, "copy/{table}/{generation}/{chunk}/{snapshot}"),
            Load { table, generation, chunk } => write!(f, "load/{table}/{generation}/{chunk}"),
            Forget => f.write_str("forget"),
            Restart { table, generation } => write!(f, "restart/{table}/{generation}"),
            Apply => f.write_str("apply"),
            Fetch { table, snapshot, lease, round } => write!(f, "fetch/{table}/{snapshot}/{lease}/{round}"),
            ReadSequences => f.write_str("sequences/read"),
            SetSequences => f.write_str("sequences/set"),
            CutoverMark { attempt, mark } => write!(f, "cutover/mark/{attempt}/{mark}"),
            CutoverRead { attempt, again } => write!(f, "cutover/sequences/{attempt}/{}", u8::from(*again)),
            CutoverSet { attempt } => write!(f, "cutover/set/{attempt}"),
            CutoverSum { attempt, look, side, table } => {
                let side = if *side == Side::Source { "source" } else { "destination" };
                write!(f, "cutover/sum/{attempt}/{look}/{side}/{table}")
            }
            CutoverSchema { attempt } => write!(f, "cutover/schema/{attempt}"),
            CleanSource => f.write_str("clean/source"),
            CleanDestination => f.write_str("clean/destination"),
        }
    }
}

/// A text that names no order.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} names no work order")]
pub struct BadKey(String);

impl FromStr for OrderKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        use OrderKey::*;
        let bad = || BadKey(text.to_owned());
        if let Some(rest) = text.strip_prefix("hold/") {
            let (number, worker) = rest.split_once('/').ok_or_else(bad)?;
            return Ok(Hold { number: number.parse().map_err(|_| bad())?, worker: worker.to_owned() });
        }
        let mut parts = text.split('/');
        let head = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        let number = |i: usize| rest.get(i).and_then(|t| t.parse::<u32>().ok()).ok_or_else(bad);
        let key = match (head, rest.as_slice()) {
            ("inspect", []) => Inspect,
            ("survey", []) => Survey,
            ("check", []) => CheckSource,
            ("schema", ["base"]) => SchemaBase,
            ("schema", ["final"]) => SchemaFinal,
            ("schema", ["table", _]) => SchemaTable { table: number(1)? },
            ("stream", []) => Stream,
            ("snapshot", [_]) => Snapshot { number: number(0)? },
            ("plan", [_, _, _]) => Plan { table: number(0)?, generation: number(1)?, snapshot: number(2)? },
            ("copy", [_, _, _, _]) => {
                Copy { table: number(0)?, generation: number(1)?, chunk: number(2)?, snapshot: number(3)? }
            }
            ("load", [_, _, _]) => Load { table: number(0)?, generation: number(1)?, chunk: number(2)? },
            ("restart", [_, _]) => Restart { table: number(0)?, generation: number(1)? },
            ("forget", []) => Forget,
            ("apply", []) => Apply,
            ("fetch", [_, _, lease, _]) => {
                let lease = lease.parse().map_err(|_| bad())?;
                Fetch { table: number(0)?, snapshot: number(1)?, lease, round: number(3)? }
            }
            ("sequences", ["read"]) => ReadSequences,
            ("sequences", ["set"]) => SetSequences,
            ("cutover", ["mark", _, _]) => CutoverMark { attempt: number(1)?, mark: number(2)? },
            ("cutover", ["sequences", _, again @ ("0" | "1")]) => {
                CutoverRead { attempt: number(1)?, again: *again == "1" }
            }
            ("cutover", ["set", _]) => CutoverSet { attempt: number(1)? },
            ("cutover", ["sum", _, _, side @ ("source" | "destination"), _]) => {
                let side = if *side == "source" { Side::Source } else { Side::Destination };
                CutoverSum { attempt: number(1)?, look: number(2)?, side, table: number(4)? }
            }
            ("cutover", ["schema", _]) => CutoverSchema { attempt: number(1)? },
            ("clean", ["source"]) => CleanSource,
            ("clean", ["destination"]) => CleanDestination,
            _ => return Err(bad()),
        };
        Ok(key)
    }
}

impl From<OrderKey> for String {
    fn from(key: OrderKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for OrderKey {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_their_text() {
        use OrderKey::*;
        for key in [
            Inspect,
            SchemaTable { table: 4 },
            SchemaFinal,
            Snapshot { number: 2 },
            Hold { number: 1, worker: "a/b-7".into() },
            Plan { table: 1, generation: 2, snapshot: 3 },
            Copy { table: 1, generation: 2, chunk: 3, snapshot: 4 },
            Load { table: 1, generation: 2, chunk: 3 },
            Forget,
            Restart { table: 9, generation: 1 },
            Fetch { table: 1, snapshot: 2, lease: u64::MAX, round: 4 },
            ReadSequences,
            CutoverMark { attempt: 3, mark: 2 },
            CutoverRead { attempt: 1, again: true },
            CutoverSet { attempt: 9 },
            CutoverSchema { attempt: 9 },
            CutoverSum { attempt: 1, look: 2, side: Side::Destination, table: 7 },
            CleanDestination,
        ] {
            assert_eq!(key.to_string().parse::<OrderKey>().unwrap(), key);
        }
        for bad in ["", "copy/1/2/3", "copy/1/2/3/x", "hold/1", "stream/1"] {
            assert!(bad.parse::<OrderKey>().is_err(), "{bad}");
        }
    }
}
