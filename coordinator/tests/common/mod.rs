//! What the tests share: a small database that exists on paper only, and a worker that does every order at once.
#![allow(dead_code)]

use drover_model::check::CheckItem;
use drover_model::chunk::{Bounds, Chunk};
use drover_model::migration::Migration;
use drover_model::plan::SnapshotRef;
use drover_model::schema::{Catalog, OldImage, Table, TableName, UniqueKey};
use drover_model::{Position, TablePlan};
use drover_proto::order::{Extent, Opening, Order, Outcome, Owes};
use std::path::Path;

/// Tables of the paper database; the last one has no key.
pub const TABLES: u32 = 3;
pub const CHUNKS: u32 = 4;
pub const ROWS: u64 = 10;

pub fn at(place: u64) -> Position {
    Position { lineage: 1, order: place.to_be_bytes().to_vec(), resume: Vec::new(), text: place.to_string() }
}

pub fn migration(name: &str, stages: &str) -> Migration {
    let text = format!(
        "name = \"{name}\"\n[source]\nkind = \"memory\"\nurl = \"memory://u:hush-hush@127.0.0.1:1/a\"\n\
         [destination]\nkind = \"memory\"\nurl = \"memory://u@127.0.0.1:2/b\"\n[migrate]\nstages = {stages}\n"
    );
    Migration::parse(&text, Path::new("test.toml"), &["memory"]).unwrap()
}

fn name(table: u32) -> TableName {
    TableName::new("s", format!("t{table}"))
}

pub fn catalog() -> Catalog {
    let table = |id: u32| Table {
        keys: (id + 1 < TABLES)
            .then(|| UniqueKey { name: "k".into(), primary: true, columns: vec!["a".into()], identifies: true })
            .into_iter()
            .collect(),
        rows: ROWS,
        bytes: 100 + u64::from(id),
        physical: format!("p{id}"),
        ..Table::new(name(id), Vec::new(), OldImage::Key)
    };
    Catalog {
        scope: None,
        home: None,
        origin: "memory".into(),
        version: 1,
        version_text: "1".into(),
        database: "a".into(),
        identity: "x".into(),
        tables: (0..TABLES).map(table).collect(),
        objects: Vec::new(),
    }
}

pub fn plans() -> Vec<TablePlan> {
    let plan = |id: u32| TablePlan {
        key: if id + 1 < TABLES { vec![0] } else { Vec::new() },
        physical: format!("p{id}"),
        rows: ROWS * u64::from(CHUNKS),
        bytes: 100 + u64::from(id),
        ..TablePlan::new(id, name(id), Vec::new())
    };
    (0..TABLES).map(plan).collect()
}

/// Does an order at once. `time` is the source's position, `lease` the epoch.
pub fn answer(order: &Order, worker: &str, time: u64, lease: u64) -> Option<Outcome> {
    answer_as(order, worker, time, lease, true)
}

/// The same for a source whose snapshots only their maker can read (`shared = false`).
pub fn answer_as(order: &Order, worker: &str, time: u64, lease: u64, shared: bool) -> Option<Outcome> {
    let token = || format!("{worker}/{lease}");
    let snapshot = || SnapshotRef { position: at(time), blur: None, token: token(), proof: "p".into(), shared };
    let done = || Outcome::Done { what: vec!["x".into()] };
    Some(match order {
        Order::Inspect => Outcome::Inspected { catalog: catalog().into(), items: vec![CheckItem::passed("K1", "a")] },
        Order::Survey => {
            Outcome::Surveyed { plans: plans().into(), objects: Default::default(), items: Vec::new(), held: None }
        }
        Order::CheckSource => Outcome::Checked { items: Vec::new() },
        Order::Stream { resume, .. } => {
            let opening = Opening { start: at(time), epoch: 0, offset: 0 };
            Outcome::StreamOpened { opening, snapshot: (!resume).then(snapshot), first: None }
        }
        Order::Snapshot { .. } => Outcome::SnapshotTaken { snapshot: snapshot() },
        Order::Hold { snapshot, .. } => {
            Outcome::Joined { snapshot: SnapshotRef { token: token(), ..snapshot.clone() } }
        }
        Order::Plan { table, .. } => {
            let open = |_| Bounds::Keys { from: None, to: None };
            let place = |_| Bounds::Physical { from: None, to: None };
            let bounds = |n| if table + 1 < TABLES { open(n) } else { place(n) };
            let chunk = |number| Chunk { number, bounds: bounds(number), rows: ROWS, bytes: 10 };
            Outcome::Planned { chunks: (0..CHUNKS).map(chunk).collect() }
        }
        Order::Copy { table, partition, .. } => Outcome::Copied {
            extent: Extent { partition: *partition, records: Some((lease, lease)), rows: ROWS, bytes: 10, lease },
            physical: format!("p{table}"),
        },
        Order::Fetch { owes, .. } => Outcome::Fetched { rows: owes.keys.rows },
        Order::Load { .. } => Outcome::Loaded { rows: ROWS },
        Order::ReadSequences => Outcome::Sequences { values: vec![("s".into(), "q".into(), 7, true)] },
        Order::Schema { .. } | Order::Restart { .. } | Order::SetSequences { .. } => done(),
        Order::CleanSource | Order::CleanDestination => done(),
        Order::Forget => Outcome::Forgotten { generation: 4 },
        // What was read from two snapshots owes a row.
        Order::Apply { windows, .. } => {
            let table = windows.iter().position(|w| w.low < w.high)? as u32;
            let keys = Extent { partition: 0, records: Some((lease, lease)), rows: 1, bytes: 9, lease };
            Outcome::Owes { owes: Owes { table, round: 0, keys } }
        }
        Order::Mark => Outcome::Marked { position: at(time) },
        Order::Digest { table, .. } => Outcome::Digested { rows: ROWS, sum: format!("sum {table}") },
    })
}
