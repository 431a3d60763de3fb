//! drover-connectors-all
