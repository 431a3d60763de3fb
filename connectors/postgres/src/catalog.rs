//! placeholder
pub async fn physical(_: &tokio_postgres::Client, _: &drover_model::schema::TableName) -> drover_model::Result<String> {
    Err(drover_model::Error::internal("not yet"))
}
