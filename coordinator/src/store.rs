//! The store: what must outlive the process. A turn is written as a whole or not at all, and is durable when `commit` returns.
//! Passwords that stand in a migration are not readable in the store without the key file.

mod seal;
mod sqlite;

pub use seal::Seal;
pub use sqlite::Sqlite;

use crate::event::Event;
use crate::turn::{Stored, Turn};
use drover_model::{Error, MigrationId};
use futures::future::BoxFuture;

/// Where the coordinator keeps its state. One process uses a store at a time.
pub trait Store: Send {
    /// Everything, at the start.
    ///
    /// # Errors
    /// The store cannot be read, or is of a newer version.
    fn load(&mut self) -> Result<Vec<Stored>, Error>;
    /// Writes turns as one transaction; durable when it returns.
    ///
    /// # Errors
    /// The disk failed; nothing of the turns is stored then.
    fn commit(&mut self, turns: &[Turn]) -> Result<(), Error>;
    /// The journal of a migration after an event: number, time (milliseconds since the Unix epoch), event.
    ///
    /// # Errors
    /// The store cannot be read.
    fn journal(&mut self, id: MigrationId, after: u64, limit: u32) -> Result<Vec<(u64, u64, Event)>, Error>;
}

/// A store that other coordinators may take over.
pub struct Opened {
    pub store: Box<dyn Store>,
    /// Ends, with the reason, when the store can be written no more: another coordinator may lead now. It has to be kept as long as
    /// this one leads.
    pub lost: BoxFuture<'static, Error>,
}
