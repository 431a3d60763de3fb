//! The comparison against stand-ins for both ends.

mod any;
mod flowing;
mod stand_in;
mod still;
