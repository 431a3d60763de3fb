//! Reading sessions that are kept between chunks, because joining a snapshot costs a connection. An idle session holds a
//! transaction open at the source, so idle ones are closed soon.

use drover_connectors_api::{ChunkReader, Source};
use drover_model::plan::SnapshotRef;
use drover_model::{MigrationId, Result};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Long enough for the next chunk to be assigned, short enough that the source can clean up after the copy.
const IDLE: Duration = Duration::from_secs(10);

type Key = (MigrationId, String);
type Idle = Vec<(Instant, Box<dyn ChunkReader>)>;

/// Idle reading sessions by migration and snapshot.
#[derive(Default)]
pub struct Readers {
    idle: Mutex<HashMap<Key, Idle>>,
}

impl Readers {
    /// A session on the snapshot, an idle one if there is one.
    pub async fn take(
        &self,
        id: MigrationId,
        source: &dyn Source,
        snapshot: &SnapshotRef,
    ) -> Result<Box<dyn ChunkReader>> {
        let kept = self.with(|idle| idle.get_mut(&key(id, snapshot)).and_then(Vec::pop));
        match kept {
            Some((_, reader)) => Ok(reader),
            None => source.reader(snapshot).await,
        }
    }

    /// Gives a session back that works; one that failed is dropped instead.
    pub fn give(&self, id: MigrationId, snapshot: &SnapshotRef, reader: Box<dyn ChunkReader>) {
        self.with(|idle| idle.entry(key(id, snapshot)).or_default().push((Instant::now(), reader)));
    }

    /// Closes sessions that have been idle for long.
    pub fn sweep(&self) {
        self.with(|idle| {
            idle.retain(|_, readers| {
                readers.retain(|(since, _)| since.elapsed() < IDLE);
                !readers.is_empty()
            });
        });
    }

    /// Closes all idle sessions of a migration.
    pub fn close(&self, id: MigrationId) {
        self.with(|idle| idle.retain(|(other, _), _| *other != id));
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Key, Idle>) -> T) -> T {
        f(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Equal proofs at one position are one snapshot, through whichever holder it was joined.
fn key(id: MigrationId, snapshot: &SnapshotRef) -> Key {
    (id, format!("{}/{}", snapshot.position, snapshot.proof))
}
