//! `drover run`: all roles in one process, with no other service. Whatever ends it, started again it goes on where it was.

use crate::exit::Exit;
use crate::factories::{self, Factories};
use crate::progress::{Bars, Display};
use crate::state::StateDir;
use crate::{Until, check, file, misfits};
use drover_applier::Applier;
use drover_coordinator::Access;
use drover_coordinator::service::Coordinator;
use drover_coordinator::view::SnapshotView;
use drover_extractor::Extractor;
use drover_model::error::codes;
use drover_model::migration::{Migration, Stage};
use drover_model::{Error, Fault, MigrationId, Position, Result, Retry};
use drover_proto::v1::Role;
use drover_runtime::worker::{self, Handler};
use drover_runtime::{CancellationToken, task};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// How often the display is brought up to date and ends are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Chunks copied, and loaded, at once; more only make the two databases wait for each other on a few cores.
fn slots() -> u32 {
    let cores = std::thread::available_parallelism().map_or(2, usize::from) as u32;
    cores.clamp(2, 8)
}

/// Carries the migration out.
pub async fn run(
    path: &Path,
    until: Option<Until>,
    state: Option<PathBuf>,
    http: Option<SocketAddr>,
    adopt: bool,
    bars: Bars,
) -> Result<Exit> {
    // First of all: an interruption in the first moments is one like others.
    let shutdown = CancellationToken::new();
    let signals = crate::cluster::on_signal(shutdown.clone())?;
    let migration = file::read(path)?;
    if until == Some(Until::Done) && migration.has(Stage::Incremental) {
        return Err(Error::new(
            codes::CONFIGURATION,
            Fault::User,
            Retry::Never,
            "--until done does not go with the incremental stage, which never ends",
        )
        .remedy("use --until caught-up, or take \"incremental\" out of stages"));
    }
    let dir = StateDir::lock(&file::state_dir(path, &migration.name, state))?;
    // An address that cannot be used ends it before anything is begun.
    let listener = match http {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let engine = Engine::start(dir, &migration, adopt).await?;
    let numbers = listener.map(|listener| {
        let (coordinator, until) = (engine.coordinator.clone(), engine.stop.clone());
        task::spawn("numbers", async move { coordinator.serve_http_on(listener, &Access::open(), until).await })
    });
    let mut display = Display::new(bars);
    let ended = watch(&engine.coordinator, &migration, until, &mut display, &shutdown).await;
    display.end();
    drop(numbers);
    let stopped = engine.coordinator.snapshot_view(&migration.name).map(|v| v.stopped).unwrap_or_default();
    engine.end().await;
    misfits::tell(&migration).await;
    drop(signals);
    for (table, why) in &stopped {
        // On one line, whatever the statement in it looks like.
        let why = why.split_whitespace().collect::<Vec<&str>>().join(" ");
        eprintln!("drover: {table} is not followed any more: {why}");
    }
    match ended {
        // Caught up, but not with them: the sides differ, or will.
        Ok(Exit::Done) if until == Some(Until::CaughtUp) && !stopped.is_empty() => Ok(Exit::Failed),
        ended => ended,
    }
}

/// Where numbers are served: to this machine only, for there is no encryption and no token.
async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let wrong =
        |what: &str| Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, format!("--http {address}: {what}"));
    if !address.ip().is_loopback() {
        return Err(
            wrong("not an address of this machine alone").remedy("use 127.0.0.1 or ::1, and a proxy for others")
        );
    }
    let refused = |e| wrong("cannot be listened at").cause(e).remedy("choose another port");
    TcpListener::bind(address).await.map_err(refused)
}

/// All roles at work on one migration, and the socket by which verbs reach them.
pub struct Engine {
    pub coordinator: Coordinator,
    stop: CancellationToken,
    door: task::Owned<Result<()>>,
    workers: Vec<task::Owned<Result<()>>>,
    /// Unlocked last.
    _dir: StateDir,
}

impl Engine {
    /// Begins, or goes on with what the state folder has; `adopt`: if it has nothing, with what the destination has.
    pub async fn start(dir: StateDir, migration: &Migration, adopt: bool) -> Result<Engine> {
        let coordinator = Coordinator::open(crate::cluster::options(&dir.path, true)).await?;
        begin(&coordinator, migration, adopt).await?;
        let stop = CancellationToken::new();
        let (socket, control, until) = (dir.listen()?, coordinator.clone(), stop.clone());
        let door = task::spawn("verbs", async move { control.serve_unix(socket, until).await });
        let mut workers = Vec::new();
        let factories = Arc::new(Factories::new(Some(dir.path.clone()), slots() as usize));
        let extractor: Arc<dyn Handler> =
            Arc::new(Extractor::new(factories.clone(), factories.clone(), dir.path.clone()));
        let applier: Arc<dyn Handler> = Arc::new(Applier::new(factories.clone(), factories.clone()));
        for (role, name, handler) in [(Role::Extractor, "extractor", extractor), (Role::Applier, "applier", applier)] {
            let control = Arc::new(coordinator.clone());
            let options = worker::Options { control, role, name: name.into(), slots: slots(), vitals: Arc::default() };
            workers.push(task::spawn(name, worker::run(options, handler, stop.clone())));
        }
        Ok(Engine { coordinator, stop, door, workers, _dir: dir })
    }

    /// Stops all of it.
    pub async fn end(mut self) {
        self.stop.cancel();
        for mut worker in self.workers {
            match worker.join().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a worker ended badly"),
                Err(error) => tracing::warn!(%error, "a worker broke"),
            }
        }
        // Answers under way go out; who stays connected without asking anything is not waited for.
        if let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(2), self.door.join()).await {
            tracing::warn!(%error, "the socket for verbs ended badly");
        }
    }
}

/// Creates the migration, or takes up the one that the state folder has.
async fn begin(coordinator: &Coordinator, migration: &Migration, adopt: bool) -> Result<()> {
    let Ok(view) = coordinator.snapshot_view(&migration.name) else {
        if adopt {
            let id = known_at_destination(migration).await?;
            if id.is_none() {
                tracing::warn!("there is nothing to adopt: the destination knows no migration {}", migration.name);
            }
            return coordinator.create_with(id, migration.clone(), false).await.map(drop);
        }
        refuse_lost_state(migration).await?;
        tracing::info!("begins: {} → {}", migration.source.url.host, migration.destination.url.host);
        return coordinator.create(migration.clone(), false).await.map(drop);
    };
    tracing::info!(state = view.state, "goes on with what the state folder has");
    coordinator.update(migration.clone()).await?;
    match view.state {
        "draft" | "precheck_failed" | "passed" | "paused" | "failed" => {
            coordinator.act(&migration.name, "resume", None).await.map(drop)
        }
        _ => Ok(()),
    }
}

/// The id under which the destination has progress of a migration of this name.
pub async fn known_at_destination(migration: &Migration) -> Result<Option<MigrationId>> {
    let destination = factories::destination(migration, MigrationId::nil()).await?;
    Ok(destination.progress(&migration.name).await?.map(|p| p.migration))
}

/// A destination that knows this migration while the state folder does not would get everything a second time. A destination that
/// cannot be reached is the precheck's to report.
async fn refuse_lost_state(migration: &Migration) -> Result<()> {
    let Ok(destination) = factories::destination(migration, MigrationId::nil()).await else { return Ok(()) };
    match destination.progress(&migration.name).await? {
        None => Ok(()),
        Some(progress) => Err(Error::new(
            codes::STATE_LOST,
            Fault::User,
            Retry::Never,
            format!(
                "the destination has progress of a migration {} ({}), but the state folder knows nothing of it",
                migration.name, progress.migration
            ),
        )
        .remedy(
            "give the state folder that it ran with by --state; or go on with what the destination knows by --adopt; or begin anew after \
             `drover cleanup`",
        )),
    }
}

async fn watch(
    coordinator: &Coordinator,
    migration: &Migration,
    until: Option<Until>,
    display: &mut Display,
    shutdown: &CancellationToken,
) -> Result<Exit> {
    let mut mark: Option<Position> = None;
    let (mut retried, mut consistent, mut paused) = (None, false, false);
    loop {
        let began = Instant::now();
        let view = coordinator.snapshot_view(&migration.name)?;
        display.show(&view);
        // With ten thousand tables a look is work: most of the time belongs to others.
        let pause = LOOK.max(10 * began.elapsed());
        if view.consistent && !std::mem::replace(&mut consistent, true) {
            tracing::info!("the destination is consistent");
        }
        match view.state {
            "precheck_failed" => {
                display.end();
                eprint!("{}", check::render(&view.items));
                return Ok(Exit::Precheck);
            }
            "failed" => {
                let error = view.error.unwrap_or_else(|| Error::internal("the migration failed"));
                eprintln!("drover: the migration failed: {error}");
                return Ok(Exit::Failed);
            }
            // What drover made at the source is dropped first, if it was asked to stop.
            "completed" if !view.cleaning => {
                tracing::info!("completed: {} rows in {} tables", view.rows, view.tables.len());
                for line in drover_model::check::left_behind(&view.items) {
                    tracing::info!("{line}");
                }
                return Ok(Exit::Done);
            }
            _ => {}
        }
        if std::mem::replace(&mut paused, view.state == "paused") != (view.state == "paused") {
            tracing::info!("{}", if paused { "paused; `drover migration resume FILE` goes on" } else { "resumed" });
        }
        if let Some(error) = view.error.as_ref().filter(|e| retried.as_ref() != Some(*e)) {
            tracing::warn!("trying again: {error}");
            retried = Some(error.clone());
        }
        if view.error.is_none() && retried.take().is_some() {
            tracing::info!("goes on: what failed works again");
        }
        if until == Some(Until::CaughtUp) && view.copied {
            // Nothing can have reached it before something is applied.
            if let (None, Some(applied)) = (&mark, &view.applied) {
                mark = try_mark(migration, view.id, applied).await;
            }
            if reached(&view, mark.as_ref()) {
                tracing::info!(
                    "caught up: everything committed before {} is applied",
                    mark.map_or_else(String::new, |m| m.text)
                );
                return Ok(Exit::Done);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {
                tracing::info!("stops; run it again to go on");
                return Ok(Exit::Interrupted);
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A mark in the source's log; if the source is away just now, it is tried again later.
async fn try_mark(migration: &Migration, id: MigrationId, applied: &Position) -> Option<Position> {
    let marked = async { factories::source(migration, id, 0).await?.mark_beside(Some(applied)).await };
    match marked.await {
        Ok(mark) => Some(mark),
        Err(error) => {
            tracing::warn!(%error, "cannot write a mark at the source, trying again");
            None
        }
    }
}

fn reached(view: &SnapshotView, mark: Option<&Position>) -> bool {
    view.consistent && matches!((&view.applied, mark), (Some(applied), Some(mark)) if applied >= mark)
}
