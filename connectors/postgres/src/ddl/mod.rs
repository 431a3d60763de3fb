//! Schema changes at the source. [`watch`] puts event triggers there that tell each one in the log, in the statement's own transaction; [`told`] reads
//! what they told; [`follow`] says what it means for the migration.

pub mod follow;
pub mod told;
pub mod watch;
