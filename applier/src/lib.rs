//! drover-applier
