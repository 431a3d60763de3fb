//! A database in memory, with everything that drover asks of one: transactions, unique keys, a log, exact snapshots that can be
//! joined and lost, streams that fence their former holder, and at a destination marks, progress and epochs. It is the
//! simplest thing that is a connector: the suite is tried on it, and simulations run on it.
//!
//! Databases are found by the host name of the url (`memory://name`), within the process. A test reaches the same one by
//! [`database`], to write to the source or to make something go wrong.
//!
//! It can also be read without a snapshot: [`woven`].
//!
//! What it does not have: locks that wait. A destination's transaction works on the rows as they were when it began and is
//! carried out again on the rows of now when it commits, if others committed between; what no longer fits then fails.

mod apply;
mod blur;
mod catalog;
mod database;
mod destination;
mod read;
mod source;
mod stream;
mod table;
mod visible;
pub mod woven;

pub use database::{Broken, Commit, CommitFault, Database, ForeignKey, Logged, Note, Savepoint, Transaction};
pub use table::{Place, Row, TableData, Value};

use async_trait::async_trait;
use drover_connectors_api::{Abilities, About, Connector, Destination, Source, Target};
use drover_model::Result;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

static DATABASES: LazyLock<Mutex<HashMap<String, Database>>> = LazyLock::new(Mutex::default);

/// The database of this name; made if there is none.
pub fn database(name: &str) -> Database {
    DATABASES.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
}

/// Forgets the database of this name; those who hold it keep it.
pub fn forget(name: &str) {
    DATABASES.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
}

/// The `kind` of the migration file.
pub const KIND: &str = "memory";

const ABILITIES: Abilities = Abilities {
    exact_snapshot: true,
    shared_snapshot: true,
    new_snapshot: true,
    transactions: true,
    transactional_ddl: true,
    rounds_floats: false,
};

static ABOUT: About = About {
    kind: KIND,
    title: "a database in memory",
    default_port: 0,
    source: Some(ABILITIES),
    destination: Some(ABILITIES),
};

/// The connector.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory;

#[async_trait]
impl Connector for Memory {
    fn about(&self) -> &About {
        &ABOUT
    }
    async fn source(&self, target: Target) -> Result<Box<dyn Source>> {
        let db = database(&target.endpoint.url.host);
        Ok(Box::new(source::MemorySource { db, target }))
    }
    async fn destination(&self, target: Target) -> Result<Box<dyn Destination>> {
        let db = database(&target.endpoint.url.host);
        Ok(Box::new(destination::MemoryDestination { db }))
    }
}
