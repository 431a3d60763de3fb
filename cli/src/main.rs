//! `drover`: moves a live database to another one, of the same or another kind, without stopping it.

mod access;
mod check;
mod cleanup;
mod cluster;
mod cutover;
mod exit;
mod factories;
mod file;
mod misfits;
mod progress;
mod reach;
mod run;
mod scan;
mod state;
mod validate;
mod verbs;

use clap::{Parser, Subcommand, ValueEnum};
use drover_runtime::telemetry::{self, LogFormat};
use exit::Exit;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Moves a live database to another one without stopping it: schema, then all rows, then every change until you switch over.
///
/// Begin with `drover check FILE`, then `drover run FILE`. docs/guide explains the migration file and each step.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Exit status: 0 done; 1 the migration failed or the sides differ; \
2 wrong usage or configuration; 3 the precheck failed; 4 interrupted or could not be carried out, run it again to go on."
)]
struct Cli {
    /// Form of log lines on standard error.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// When `run` ends.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// When all stages have ended (not with the incremental stage, which never ends).
    Done,
    /// When everything that the source had committed before a mark is applied; the mark is written once the copy has ended.
    CaughtUp,
}

#[derive(Subcommand)]
enum Command {
    /// Connect to both sides and say what stands in the way: every item with result, cause and remedy.
    Check {
        /// The migration file.
        file: PathBuf,
        /// Look at the rows, too: at the source, in each column of which the type alone does not say whether its values fit at the destination, and
        /// in unique keys that the destination compares otherwise. Status 3 if a value does not fit and on_misfit does not say what becomes of it.
        #[arg(long)]
        scan: bool,
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Carry the migration out in this process, with no other service. Started again it goes on where it was.
    Run {
        /// The migration file.
        file: PathBuf,
        /// End earlier than on being interrupted.
        #[arg(long, value_enum)]
        until: Option<Until>,
        /// Where the state is kept (default: .drover/NAME beside the file).
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// A loopback address at which /metrics, /healthz and /readyz are served, for example 127.0.0.1:7441 (default: nowhere).
        #[arg(long, value_name = "ADDRESS")]
        http: Option<SocketAddr>,
        /// The state is lost: take id and position from the destination and go on from there. What cannot go on is emptied and
        /// copied again.
        #[arg(long)]
        adopt: bool,
    },
    /// List the values that did not fit and that on_misfit changed: how many in which table and column, and one of each.
    Misfits {
        /// The migration file.
        file: PathBuf,
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Compare both sides row by row; correct while changes flow. Status 1 if they differ.
    Validate {
        /// The migration file.
        file: PathBuf,
        /// Only this table of the source (schema.table); may be repeated.
        #[arg(long, value_name = "T")]
        table: Vec<String>,
        /// Where `run` keeps its state, which knows of renamed tables (default: .drover/NAME beside the file).
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// One JSON document on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Switch over: catch up, set the sequences, compare every row, and end the migration; only if nothing selected changes at the
    /// source meanwhile, so stop its writers first. Status 1 if the sides differ; 4 if the source is still written to.
    Cutover(cutover::CutoverArgs),
    /// Drop all that drover created on either side, and the state. The migrated data stay.
    Cleanup {
        /// The migration file.
        file: PathBuf,
        /// Where `run` kept its state (default: .drover/NAME beside the file).
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Start the coordinator of a cluster.
    Coordinator(cluster::CoordinatorArgs),
    /// Start an extractor: it reads sources. Any number may join and leave.
    Extractor(cluster::WorkerArgs),
    /// Start an applier: it writes destinations. Any number may join and leave.
    Applier(cluster::WorkerArgs),
    /// Create migrations of a cluster; show and steer these, or the one that `run` carries out.
    Migration {
        #[command(flatten)]
        coordinator: access::ToCoordinator,
        /// Where the `run` of a FILE keeps its state (default: .drover/NAME beside the file).
        #[arg(long, value_name = "DIR", global = true)]
        state: Option<PathBuf>,
        #[command(subcommand)]
        verb: verbs::Verb,
    },
}

fn main() -> ExitCode {
    // One provider for the whole process; a second call (there is none) would only say so.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let format = match cli.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    let bars = progress::Bars::new(matches!(
        cli.command,
        Command::Run { .. } | Command::Validate { .. } | Command::Check { scan: true, .. }
    ));
    telemetry::init(format, "info", bars.writer());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("drover: cannot start: {error}");
            return ExitCode::from(4);
        }
    };
    let exit = runtime.block_on(async {
        match cli.command {
            Command::Check { file, scan, json } => check::run(&file, scan, json, bars).await,
            Command::Run { file, until, state, http, adopt } => run::run(&file, until, state, http, adopt, bars).await,
            Command::Misfits { file, json } => misfits::run(&file, json).await,
            Command::Validate { file, table, state, json } => validate::run(&file, &table, state, json, bars).await,
            Command::Cutover(args) => cutover::run(args).await,
            Command::Cleanup { file, state } => cleanup::run(&file, state).await,
            Command::Coordinator(args) => cluster::coordinator(args).await,
            Command::Extractor(args) => cluster::extractor(args).await,
            Command::Applier(args) => cluster::applier(args).await,
            Command::Migration { coordinator, state, verb } => verbs::carry_out(&coordinator, state, verb).await,
        }
    });
    // Blocking threads (file writers) end with the process.
    runtime.shutdown_background();
    match exit {
        Ok(exit) => exit.code(),
        Err(error) => {
            eprintln!("drover: {error}");
            Exit::of(&error).code()
        }
    }
}
