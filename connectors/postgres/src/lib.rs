//! drover-connectors-postgres
