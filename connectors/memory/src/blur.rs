//! Blurred snapshots: whose place in the log is not known exactly, as of a source that writes two marks and has its sessions begin between them.
//!
//! Guarantee: what [`Blur`] demands of a source. A session sees one of the states from the snapshot's position up to the end of the blur, each
//! session another; no table was changed between but those named, and those can bear it.

use crate::database::{Broken, Database, Inner, Logged, SnapshotData, Tables, position};
use crate::stream::LARGE;
use drover_model::TablePlan;
use drover_model::plan::Blur;
use drover_model::schema::{OldImage, TableName};
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::watch;

/// States that are kept.
const KEPT: usize = 8;

/// The last states, each with its place in the log, oldest first.
pub(crate) type Recent = VecDeque<(u64, Tables)>;

impl Inner {
    /// Keeps the state of now, where snapshots may be blurred.
    pub fn remember(&mut self) {
        let now = (self.log.len() as u64, self.tables.clone());
        if let Some(recent) = &mut self.recent {
            recent.push_back(now);
            if recent.len() > KEPT {
                recent.pop_front();
            }
        }
    }

    /// What changed is not in the log: there is nothing to be between.
    pub fn forget_recent(&mut self) {
        if let Some(recent) = &mut self.recent {
            recent.clear();
        }
        self.remember();
    }

    /// Whether a change between the marks, applied to what has it already or not, comes out the same for this table.
    fn bears(&self, name: &TableName) -> bool {
        let Some(def) = self.tables.get(name).map(|data| &data.def) else { return false };
        let whole = def.old_image == OldImage::Full || !def.options.contains_key(LARGE);
        let tied = self.foreign_keys.iter().any(|k| !k.logged && (k.child == *name || k.parent == *name));
        whole && !tied && def.keys.len() == 1 && def.identifying_key().is_some()
    }

    /// A snapshot of now, as far back as nothing but what can bear it was changed; exact if nothing was.
    pub fn snapshot(&self, plans: &[TablePlan]) -> SnapshotData {
        let now = self.log.len() as u64;
        let id_of = |name: &TableName| plans.iter().find(|p| p.source == *name).map(|p| p.id);
        let (mut touched, mut moments) = (BTreeSet::new(), vec![self.tables.clone()]);
        let mut low = now;
        for (at, tables) in self.recent.iter().flatten().rev().skip(1) {
            // What made of this state the one behind it.
            let Some(commit) = self.log.get(*at as usize).filter(|_| *at + 1 == low) else { break };
            let mut changed: Vec<&TableName> = Vec::new();
            for change in &commit.changes {
                match change {
                    Logged::Insert { table, .. } | Logged::Update { table, .. } | Logged::Delete { table, .. } => {
                        changed.push(table);
                    }
                    Logged::Truncate { tables } => changed.extend(tables),
                    Logged::AddColumn { after, .. } => changed.push(&after.name),
                }
            }
            let altered = commit.changes.iter().any(|change| matches!(change, Logged::AddColumn { .. }));
            changed.retain(|name| id_of(name).is_some());
            if altered || !changed.iter().all(|name| self.bears(name)) {
                break;
            }
            touched.extend(changed.into_iter().filter_map(id_of));
            moments.push(tables.clone());
            low = *at;
        }
        let blur = (!touched.is_empty())
            .then(|| Blur { until: position(self.lineage, now), tables: touched.into_iter().collect() });
        if blur.is_none() {
            (low, moments) = (now, vec![self.tables.clone()]);
        }
        let blur = blur.filter(|_| self.broken != Some(Broken::Blur));
        SnapshotData { moments, at: low, blur, holders: BTreeSet::new(), lost: watch::Sender::new(false) }
    }
}

impl Database {
    /// From now on snapshots may be blurred: see [`Blur`].
    pub fn blur_snapshots(&self) {
        let mut inner = self.lock();
        inner.recent = Some(Recent::new());
        inner.remember();
    }
}
