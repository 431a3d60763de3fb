//! How snapshot and stream meet: every rule about which changes a copied row already has, which it still needs, and what
//! becomes of a table when the two no longer fit. Pure: applier and coordinator ask here and nowhere else.
//!
//! Guarantee: a destination that obeys these rules holds, once the applied position has reached [`exact::consistent_from`] (or
//! the last high mark of woven windows) and nothing is owed, exactly what the source held at that position. The tests
//! enumerate all interleavings of small histories.
//!
//! - [`exact`]: tables read from snapshots whose positions are known. Dropped, tolerant, strict.
//! - [`loss`]: what is kept of a table after its snapshot is gone.
//! - [`tolerant`]: applying a change to ground of which some rows are older and some newer than the change; owed rows.
//! - [`woven`]: tables read without a snapshot, between marks in the source's log.
//!
//! **What the rules rest on** (a connector that cannot promise one of them must refuse the table):
//! 1. Changes come in commit order, and the identifying key is unique at every single change (not only at commit): a key
//!    that a row moves to is vacant at that moment.
//! 2. A column that a change leaves out was not changed by it. Inserts carry all columns.
//! 3. A snapshot at P has exactly the transactions up to P; a woven chunk sees every transaction committed before its low mark.
//!
//! Positions, keys and cells are type parameters: the rules compare positions and test keys for equality, and know nothing
//! of what is in a cell. Keys are ordered only to be stored; that order decides nothing.

pub mod exact;
pub mod loss;
pub mod tolerant;
pub mod woven;

#[cfg(test)]
mod history;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod weavings;
