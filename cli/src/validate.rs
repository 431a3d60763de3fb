//! placeholder
use crate::exit::Exit;
use drover_model::Result;
use std::path::Path;
pub async fn run(_: &Path, _: &[String], _: bool) -> Result<Exit> {
    Ok(Exit::Done)
}
