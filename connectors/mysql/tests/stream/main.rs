//! The change stream of real servers.
#![allow(clippy::unwrap_used)]

mod basics;
mod bench;
mod conditions;
mod json;
mod refusals;
mod servers;
mod values;
mod xa;
