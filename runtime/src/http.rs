//! Health and metrics of a worker over HTTP, for supervisors and scrapers: `/healthz` (the process answers), `/readyz` (the coordinator answered it
//! lately), `/metrics` (numbers in the text form that scrapers read, version 0.0.4).

use crate::memory;
use crate::worker::Vitals;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A coordinator that has been silent for so long has given the leases to others.
const SILENT: Duration = Duration::from_secs(15);

/// One metric: `HELP` and `TYPE`, then a line for each set of labels (`{role="applier"}`, or nothing).
pub fn put_metric(out: &mut String, name: &str, kind: &str, help: &str, lines: &[(String, f64)]) {
    // Writing to a String cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in lines {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

/// Memory of this process: as the system sees it, and by buffer.
pub fn put_memory(out: &mut String) {
    if let Some((now, most)) = memory::resident() {
        let one = |n: u64| [(String::new(), n as f64)];
        put_metric(out, "process_resident_memory_bytes", "gauge", "Resident memory.", &one(now));
        put_metric(out, "drover_resident_memory_peak_bytes", "gauge", "The most it has been.", &one(most));
    }
    let held = memory::held();
    let each = |f: fn(&memory::Held) -> usize| -> Vec<(String, f64)> {
        held.iter().map(|h| (format!("{{buffer=\"{}\"}}", h.name), f(h) as f64)).collect()
    };
    put_metric(out, "drover_buffer_bytes", "gauge", "Bytes that buffers hold.", &each(|h| h.now));
    put_metric(out, "drover_buffer_peak_bytes", "gauge", "The most they have held.", &each(|h| h.most));
    put_metric(out, "drover_buffer_limit_bytes", "gauge", "Bytes that they may hold.", &each(|h| h.limit));
}

fn metrics(vitals: &Vitals) -> String {
    let mut out = String::new();
    let one = |n: f64| [(String::new(), n)];
    let (silent, running) = (vitals.silent(), vitals.running() as f64);
    put_metric(&mut out, "drover_worker_orders", "gauge", "Orders under way.", &one(running));
    let ended = [
        ("{result=\"done\"}".to_owned(), vitals.done() as f64),
        ("{result=\"failed\"}".to_owned(), vitals.failed() as f64),
    ];
    put_metric(&mut out, "drover_worker_orders_ended_total", "counter", "Orders that have ended.", &ended);
    let silent = one(silent.map_or(-1.0, |s| s.as_secs_f64()));
    let help = "Seconds since the coordinator last answered; -1 before the first time.";
    put_metric(&mut out, "drover_worker_coordinator_silent_seconds", "gauge", help, &silent);
    put_memory(&mut out);
    out
}

/// The endpoints of a worker.
pub fn routes(vitals: Arc<Vitals>) -> Router {
    let ready = async |State(vitals): State<Arc<Vitals>>| match vitals.silent() {
        Some(silent) if silent < SILENT => (StatusCode::OK, "ready\n".to_owned()),
        Some(silent) => {
            let text = format!("the coordinator has not answered for {} s\n", silent.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "the coordinator has not answered yet\n".to_owned()),
    };
    let numbers = async |State(vitals): State<Arc<Vitals>>| {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics(&vitals)).into_response()
    };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(numbers))
        .with_state(vitals)
}

/// Serves the endpoints of a worker at an address until `shutdown`.
///
/// # Errors
/// CONFIGURATION if the address cannot be listened at.
pub async fn serve(vitals: Arc<Vitals>, address: SocketAddr, shutdown: CancellationToken) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
        Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, format!("cannot listen at {address}"))
            .cause(e)
            .remedy("choose another address with --http")
    })?;
    tracing::info!(address = %listener.local_addr().unwrap_or(address), "serves /metrics, /healthz and /readyz");
    axum::serve(listener, routes(vitals))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(|e| Error::internal("the worker's HTTP server failed").cause(e))
}
