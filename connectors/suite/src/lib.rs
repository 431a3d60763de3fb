//! drover-connectors-suite
