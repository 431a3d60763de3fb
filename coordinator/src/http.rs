//! Health and metrics over HTTP, for supervisors and scrapers; encrypted where the coordinator is.

use crate::access::Access;
use crate::service::Coordinator;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use drover_model::Error;
use drover_runtime::task;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long a caller may take to agree on a key.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once.
const HANDSHAKES: usize = 64;

#[derive(Clone)]
struct Http {
    coordinator: Coordinator,
    access: Access,
}

/// `/healthz`: the process answers. `/readyz`: the store takes changes. `/metrics`: numbers, for those with the token.
pub fn routes(coordinator: Coordinator, access: Access) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Http { coordinator, access })
}

async fn ready(State(http): State<Http>) -> impl IntoResponse {
    match http.coordinator.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the store does not take changes\n"),
    }
}

async fn metrics(State(http): State<Http>, headers: HeaderMap) -> Response {
    if !http.access.admits(headers.get(header::AUTHORIZATION).map(|v| v.as_bytes())) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "the token is missing or wrong\n").into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], http.coordinator.metrics()).into_response()
}

pub(crate) async fn serve(
    coordinator: Coordinator,
    listener: TcpListener,
    access: Access,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let acceptor = access.http()?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serves /metrics, /healthz and /readyz");
    }
    let routes = routes(coordinator, access);
    let ended = shutdown.cancelled_owned();
    let served = match acceptor {
        None => axum::serve(listener, routes).with_graceful_shutdown(ended).await,
        Some(acceptor) => axum::serve(Encrypted::new(listener, acceptor)?, routes).with_graceful_shutdown(ended).await,
    };
    served.map_err(|e| Error::internal("the coordinator's HTTP server failed").cause(e))
}

type Greeted = (TlsStream<TcpStream>, SocketAddr);

/// Encrypted connections. Each handshake runs by itself: one that hangs holds nobody up.
struct Encrypted {
    greeted: mpsc::Receiver<Greeted>,
    address: SocketAddr,
    _task: task::Owned<()>,
}

impl Encrypted {
    fn new(listener: TcpListener, acceptor: TlsAcceptor) -> Result<Self, Error> {
        let address =
            listener.local_addr().map_err(|e| Error::internal("a listening socket has no address").cause(e))?;
        let (sender, greeted) = mpsc::channel(HANDSHAKES);
        Ok(Encrypted { greeted, address, _task: task::spawn("http handshakes", greet(listener, acceptor, sender)) })
    }
}

async fn greet(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<Greeted>) {
    let mut handshakes = Vec::new();
    loop {
        handshakes.retain(|h: &task::Owned<()>| !h.is_finished());
        let accepted = if handshakes.len() < HANDSHAKES { listener.accept().await.ok() } else { None };
        let Some((stream, from)) = accepted else {
            // Out of file descriptors, or too many callers: somebody has to go first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        handshakes.push(task::spawn("http handshake", async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Nobody listens any more when the server ends.
                let _ = sender.send((stream, from)).await;
            }
        }));
    }
}

impl axum::serve::Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Greeted {
        match self.greeted.recv().await {
            Some(greeted) => greeted,
            // The task that greets ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
