//! Health and metrics over HTTP, for supervisors and scrapers.

use crate::service::Coordinator;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use drover_model::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// `/healthz`: the process answers. `/readyz`: the store takes changes. `/metrics`: numbers.
pub fn routes(coordinator: Coordinator) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(coordinator)
}

async fn ready(State(coordinator): State<Coordinator>) -> impl IntoResponse {
    match coordinator.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the store does not take changes\n"),
    }
}

async fn metrics(State(coordinator): State<Coordinator>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], coordinator.metrics())
}

pub(crate) async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    axum::serve(listener, routes(coordinator))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(|e| Error::internal("the coordinator's HTTP server failed").cause(e))
}
