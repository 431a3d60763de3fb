//! drover-runtime
