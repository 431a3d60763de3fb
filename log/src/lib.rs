//! drover-log
