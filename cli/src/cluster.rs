//! The processes of a cluster: coordinator, extractor, applier.

use crate::access::{Protection, ToCoordinator};
use crate::exit::Exit;
use crate::factories::Factories;
use clap::Args;
use drover_applier::Applier;
use drover_connectors_all::{STORE_FORM, STORE_PLACE};
use drover_coordinator::service::{Coordinator, Options};
use drover_coordinator::store::Opened;
use drover_extractor::Extractor;
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use drover_proto::v1::Role;
use drover_runtime::worker::{self, Handler};
use drover_runtime::{CancellationToken, http, task};
use futures::future::BoxFuture;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub struct CoordinatorArgs {
    /// Where workers and the command line find it (gRPC).
    #[arg(long, default_value = "127.0.0.1:7440")]
    listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, default_value = "127.0.0.1:7441")]
    http: SocketAddr,
    #[arg(long, default_value = "drover-store", value_name = "DIR|URL", help = format!("Its store: a folder, or {STORE_FORM}"))]
    store: String,
    #[arg(long, default_value = "secret.key", env = "DROVER_SECRET_KEY", value_name = "FILE", help = format!(
        "With a store in {STORE_PLACE}: the file whose key seals the secrets in it, made if missing. The same file for all coordinators of a store"
    ))]
    secret_key: PathBuf,
    #[command(flatten)]
    protection: Protection,
}

#[derive(Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    coordinator: ToCoordinator,
    /// Name for people (default: the host's name).
    #[arg(long)]
    name: Option<String>,
    /// Where large transactions spill (default: drover-NAME in the system's folder for temporary files).
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Chunks in work at once.
    #[arg(long, default_value_t = 2)]
    slots: u32,
    /// Where its /metrics, /healthz and /readyz are served, for example 127.0.0.1:7442 (default: nowhere).
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
}

/// Cancels the token at the first SIGINT or SIGTERM; the second ends the process at once.
pub fn on_signal(token: CancellationToken) -> Result<task::Owned<()>> {
    let failed =
        |e: std::io::Error| Error::new(codes::STATE, Fault::Drover, Retry::Never, "cannot listen to signals").cause(e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(task::spawn("signals", async move {
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                std::process::exit(4);
            }
            token.cancel();
        }
    }))
}

/// How a coordinator is opened. For tests `DROVER_CHUNK_BYTES` makes chunks smaller, so that few rows give many of them, and
/// `DROVER_LEASE_MS` makes leases run out earlier.
pub fn options(folder: &Path, alone: bool) -> Options {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let mut options = Options::new(folder, alone);
    if alone {
        // Chunks wait in this process's memory: what is being copied and what waits must fit beside everything else.
        options.tuning.chunk_bytes = 16 << 20;
        options.tuning.bulk_bytes = 32 << 20;
    }
    options.tuning.chunk_bytes = number("DROVER_CHUNK_BYTES").unwrap_or(options.tuning.chunk_bytes);
    options.tuning.lease_ms = number("DROVER_LEASE_MS").unwrap_or(options.tuning.lease_ms);
    options
}

/// `drover coordinator`.
pub async fn coordinator(args: CoordinatorArgs) -> Result<Exit> {
    let shutdown = CancellationToken::new();
    let _signals = on_signal(shutdown.clone())?;
    let access = args.protection.access()?;
    access.permit(args.listen)?;
    access.permit(args.http)?;
    let options = options(Path::new(&args.store), false);
    let opened = tokio::select! {
        // Others lead, and it was told to end.
        () = shutdown.cancelled() => return Ok(Exit::Done),
        opened = drover_connectors_all::open_store(&args.store, &args.secret_key) => opened?,
    };
    // Kept until all is answered: whoever waits may lead once it is gone.
    let (coordinator, mut lost): (_, BoxFuture<'static, Error>) = match opened {
        Some(Opened { store, lost }) => (Coordinator::with_store(store, false, options.tuning).await?, lost),
        None => (Coordinator::open(options).await?, Box::pin(std::future::pending())),
    };
    // An address that cannot be used ends all, and so does a store that others may lead in now.
    tokio::try_join!(
        coordinator.serve_grpc(args.listen, &access, shutdown.clone()),
        coordinator.serve_http(args.http, &access, shutdown.clone()),
        async {
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                error = &mut lost => Err(error),
            }
        }
    )?;
    Ok(Exit::Done)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "worker".into(), |n| n.trim().to_owned())
}

async fn work(args: WorkerArgs, role: Role) -> Result<Exit> {
    let shutdown = CancellationToken::new();
    let _signals = on_signal(shutdown.clone())?;
    let name = args.name.unwrap_or_else(host_name);
    let control = Arc::new(args.coordinator.remote()?);
    let factories = Arc::new(Factories::new(None, args.slots.max(1) as usize));
    let handler: Arc<dyn Handler> = match role {
        Role::Extractor => {
            let work_dir = args.work_dir.unwrap_or_else(|| std::env::temp_dir().join(format!("drover-{name}")));
            Arc::new(Extractor::new(factories.clone(), factories, work_dir))
        }
        _ => Arc::new(Applier::new(factories.clone(), factories)),
    };
    tracing::info!(name, coordinator = args.coordinator.address(), "works");
    let vitals = Arc::default();
    let serves = async {
        match args.http {
            Some(address) => http::serve(Arc::clone(&vitals), address, shutdown.clone()).await,
            None => Ok(()),
        }
    };
    let options = worker::Options { control, role, name, slots: args.slots.max(1), vitals: Arc::clone(&vitals) };
    // An address that cannot be used ends both.
    tokio::try_join!(serves, worker::run(options, handler, shutdown.clone()))?;
    Ok(Exit::Done)
}

/// `drover extractor`.
pub async fn extractor(args: WorkerArgs) -> Result<Exit> {
    work(args, Role::Extractor).await
}

/// `drover applier`.
pub async fn applier(args: WorkerArgs) -> Result<Exit> {
    work(args, Role::Applier).await
}
