//! The writing role of a migration: maps and creates tables, loads chunks, applies changes. It never touches the source.
//!
//! What a change passes through: [`consume`] takes records in (each transaction once, in order, no gap), [`windows`] says which
//! tables a change concerns, [`compact`] makes few statements of many changes, [`schedule`] decides what runs beside what, [`apply`]
//! executes and commits in the source's order. What a batch owes (`owed`) is fetched from the source by way of an extractor.

pub mod apply;
mod changed;
pub mod compact;
pub mod consume;
mod evolve;
pub mod load;
mod owed;
mod roles;
pub mod schedule;
mod session;
mod survey;
mod trim;
pub mod windows;

pub use owed::Creditor;
pub use roles::{Applier, DestinationFactory};
pub use survey::{Survey, map, renamed, survey};

#[cfg(test)]
mod barrier_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod huge_tests;
#[cfg(test)]
mod loop_tests;
#[cfg(test)]
mod owed_tests;
