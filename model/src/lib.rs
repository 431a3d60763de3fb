//! drover-model
