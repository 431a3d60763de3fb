//! placeholder
use serde::{Deserialize, Serialize};
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Migration {
    pub name: String,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    pub kind: String,
}
