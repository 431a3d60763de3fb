//! placeholder
use drover_model::{Result, TablePlan, check::CheckItem, migration::Migration, schema::Catalog};
pub async fn source(_: &tokio_postgres::Client, _: &Migration, _: &[TablePlan], _: &Catalog) -> Result<Vec<CheckItem>> {
    Ok(vec![])
}
pub async fn destination(
    _: &tokio_postgres::Client,
    _: &Migration,
    _: &[TablePlan],
    _: &Catalog,
) -> Result<Vec<CheckItem>> {
    Ok(vec![])
}
