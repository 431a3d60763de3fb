//! drover-proto
