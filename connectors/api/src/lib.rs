//! drover-connectors-api
