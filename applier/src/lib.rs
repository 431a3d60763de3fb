//! The writing role: creates schema objects, loads chunks, applies changes. It never touches the source.

pub mod load;
mod roles;
mod survey;

pub use roles::{Applier, DestinationFactory};
pub use survey::{Survey, map, survey};
