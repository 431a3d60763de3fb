//! The writing role of a migration: maps and creates tables, loads chunks, applies changes. It never touches the source.
//!
//! What a change passes through: [`consume`] takes records in (each transaction once, in order, no gap), [`windows`] says which tables
//! a change concerns, [`compact`] makes few statements of many changes, [`schedule`] decides what runs beside what, [`apply`]
//! executes and commits in the source's order. Everything but `apply`, `load` and `worker` is pure.

pub mod apply;
pub mod compact;
pub mod consume;
pub mod load;
pub mod orders;
pub mod schedule;
mod session;
mod survey;
pub mod windows;
pub mod worker;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod loop_tests;
