//! The reading side.

use crate::catalog;
use crate::database::{Database, StreamState, place, position};
use crate::read::{MemoryReader, MemoryRows, lost};
use crate::stream::MemoryStream;
use async_trait::async_trait;
use drover_connectors_api::{ChunkReader, Hold, Opened, Rows, Source, StreamSpec, Target};
use drover_model::check::CheckItem;
use drover_model::error::codes;
use drover_model::migration::Migration;
use drover_model::plan::SnapshotRef;
use drover_model::schema::Catalog;
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry, TablePlan};
use tokio::sync::watch;

pub struct MemorySource {
    pub db: Database,
    pub target: Target,
}

/// A hold on a snapshot; the snapshot is gone with the last of them.
struct MemoryHold {
    db: Database,
    id: u64,
    reference: SnapshotRef,
    lost: watch::Receiver<bool>,
}

#[async_trait]
impl Hold for MemoryHold {
    fn snapshot(&self) -> SnapshotRef {
        self.reference.clone()
    }
    async fn lost(&self) -> Error {
        let mut lost_signal = self.lost.clone();
        // An error means that the snapshot's record is gone, and so is the snapshot.
        let _ = lost_signal.wait_for(|lost| *lost).await;
        lost()
    }
}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        let mut inner = self.db.lock();
        if let Some(snapshot) = inner.snapshots.get_mut(&self.id) {
            snapshot.holders.remove(&self.reference.token);
            if snapshot.holders.is_empty() {
                inner.snapshots.remove(&self.id);
            }
        }
    }
}

/// What a session on this snapshot sees itself on.
fn proof(id: u64, at: u64) -> String {
    format!("snapshot {id} at {at}")
}

impl MemorySource {
    /// A new hold on a snapshot.
    fn hold(&self, id: u64) -> Result<MemoryHold> {
        let mut inner = self.db.lock();
        inner.tokens += 1;
        let (token, lineage) = (format!("{id}-{}", inner.tokens), inner.lineage);
        let snapshot = inner.snapshots.get_mut(&id).ok_or_else(lost)?;
        snapshot.holders.insert(token.clone());
        let proof = proof(id, snapshot.at);
        let (position, blur) = (position(lineage, snapshot.at), snapshot.blur.clone());
        let reference = SnapshotRef { position, blur, token, proof, shared: true };
        Ok(MemoryHold { db: self.db.clone(), id, reference, lost: snapshot.lost.subscribe() })
    }

    /// A snapshot of now, blurred where it may be.
    fn take(&self, plans: &[TablePlan]) -> Result<MemoryHold> {
        let id = {
            let mut inner = self.db.lock();
            inner.tokens += 1;
            let id = inner.tokens;
            let snapshot = inner.snapshot(plans);
            inner.snapshots.insert(id, snapshot);
            id
        };
        self.hold(id)
    }

    /// The snapshot that a reference names, if somebody still holds it by that token and it is the one that was meant.
    fn find(&self, reference: &SnapshotRef) -> Result<u64> {
        let inner = self.db.lock();
        let found = inner.snapshots.iter().find(|(_, s)| s.holders.contains(&reference.token));
        let (id, snapshot) = found.ok_or_else(lost)?;
        if proof(*id, snapshot.at) != reference.proof {
            return Err(lost());
        }
        Ok(*id)
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn catalog(&self) -> Result<Catalog> {
        Ok(catalog::catalog(&self.db, &self.target.endpoint.url.host))
    }

    async fn check(&self, _: &Migration, plans: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
        let item = |plan: &TablePlan| match plan.filter {
            Some(_) => {
                CheckItem::failed("K10", plan.source.to_string(), "conditions are not understood here", "drop it")
            }
            None => CheckItem::passed("K10", plan.source.to_string()),
        };
        Ok(plans.iter().map(item).collect())
    }

    async fn open_stream(&self, spec: StreamSpec) -> Result<Opened> {
        let gone = |why: String| Error::new(codes::POSITION_LOST, Fault::Source, Retry::Never, why);
        let (holder, start, begins) = {
            let mut inner = self.db.lock();
            let (end, lineage) = (inner.log.len() as u64, inner.lineage);
            let holder = inner.streams.get(&spec.migration).map_or(0, |s| s.holder) + 1;
            if spec.fresh {
                if inner.streams.get(&spec.migration).is_some_and(|s| s.epoch > spec.epoch) {
                    return Err(Error::new(
                        codes::FENCED,
                        Fault::Drover,
                        Retry::Never,
                        "another extractor made the stream anew",
                    ));
                }
                // What an attempt of before left has no snapshot any more: nothing can have been copied. A blurred snapshot of a moment later lies
                // here, or later.
                let start = inner.snapshot(&spec.tables).at;
                inner.streams.insert(spec.migration, StreamState { holder, epoch: spec.epoch, confirmed: start });
                (holder, start, true)
            } else {
                let stream = inner.streams.get_mut(&spec.migration);
                let stream = stream.ok_or_else(|| gone("there is no stream of this migration".into()))?;
                let at = match &spec.resume {
                    None => stream.confirmed,
                    Some(resume) => {
                        let at = place(resume)?;
                        if resume.lineage != lineage || at < stream.confirmed || at > end {
                            return Err(gone(format!("{resume} is not in this server's log any more")));
                        }
                        at
                    }
                };
                stream.holder = holder;
                (holder, at, false)
            }
        };
        // Wakes the former holder, who finds himself fenced.
        self.db.commits.send_modify(|_| {});
        let (snapshot, start) = if begins {
            let hold = self.take(&spec.tables)?;
            (Some(Box::new(hold) as Box<dyn Hold>), start)
        } else {
            (None, start)
        };
        // Commits between the stream's beginning and the snapshot are in both; the snapshot's position says so.
        let stream = MemoryStream::new(self.db.clone(), spec, holder, start)?;
        let start = position(self.db.lock().lineage, start);
        Ok(Opened { start, snapshot, stream: Box::new(stream) })
    }

    async fn new_snapshot(&self, tables: &[TablePlan]) -> Result<Box<dyn Hold>> {
        Ok(Box::new(self.take(tables)?))
    }

    async fn join_snapshot(&self, snapshot: &SnapshotRef) -> Result<Box<dyn Hold>> {
        let id = self.find(snapshot)?;
        Ok(Box::new(self.hold(id)?))
    }

    async fn reader(&self, snapshot: &SnapshotRef) -> Result<Box<dyn ChunkReader>> {
        let snapshot = self.find(snapshot)?;
        // Each session another moment, and the same ones when all is done again.
        let moment = {
            let mut inner = self.db.lock();
            inner.tokens += 1;
            (inner.tokens.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
        };
        Ok(Box::new(MemoryReader { db: self.db.clone(), snapshot, moment }))
    }

    async fn rows(&self) -> Result<Box<dyn Rows>> {
        Ok(Box::new(MemoryRows { db: self.db.clone() }))
    }

    async fn mark(&self) -> Result<Position> {
        let mut inner = self.db.lock();
        let at = self.db.commit(&mut inner, Vec::new());
        Ok(position(inner.lineage, at))
    }

    async fn clock_skew(&self) -> Result<f64> {
        Ok(0.0)
    }

    async fn cleanup(&self, migration: MigrationId) -> Result<Vec<String>> {
        let stream = self.db.lock().streams.remove(&migration);
        self.db.commits.send_modify(|_| {});
        Ok(stream.map(|_| format!("stream of {migration}")).into_iter().collect())
    }

    async fn sequences(&self) -> Result<Vec<(String, String, i64, bool)>> {
        let inner = self.db.lock();
        Ok(inner.sequences.iter().map(|((s, n), (v, called))| (s.clone(), n.clone(), *v, *called)).collect())
    }
}
