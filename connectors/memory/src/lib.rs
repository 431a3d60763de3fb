//! drover-connectors-memory
