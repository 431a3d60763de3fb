//! What one call to the desk changed: written to the store as one transaction, before the answer to the call is given.

use crate::event::Event;
use crate::key::OrderKey;
use crate::lease::Grant;
use crate::machine::State;
use drover_model::MigrationId;
use drover_model::migration::Migration;

/// A change to the store.
#[derive(Debug, Clone)]
pub enum Write {
    /// A new migration, or its file changed. Holds secrets: the store encrypts it.
    Migration {
        id: MigrationId,
        name: String,
        migration: Box<Migration>,
    },
    /// `seq` counts the events of a migration from 1.
    Event {
        id: MigrationId,
        seq: u64,
        at_ms: u64,
        event: Box<Event>,
    },
    /// The state after event `state.events`, so that a restart need not fold the whole journal.
    State {
        id: MigrationId,
        state: Box<State>,
    },
    Grant(Box<Grant>),
    Release {
        id: MigrationId,
        key: OrderKey,
    },
    /// A deleted migration: everything of it goes.
    Remove {
        id: MigrationId,
    },
}

/// Changes that become durable together.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    pub writes: Vec<Write>,
}

/// A migration as the store gives it back.
#[derive(Debug, Clone)]
pub struct Stored {
    pub id: MigrationId,
    pub migration: Migration,
    /// The latest kept state, if any, and the events after it.
    pub state: Option<State>,
    pub events: Vec<Event>,
    /// Highest epoch ever given.
    pub epoch: u64,
    pub grants: Vec<Grant>,
}
