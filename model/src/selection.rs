//! placeholder
#[derive(Debug, Clone)]
pub struct TableChoice {
    pub schema: String,
}
