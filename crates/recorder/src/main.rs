//! `gsync-recorder`: the process that writes the changelogs of plain bricks.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use recorder::group::Level;
use recorder::hold::{HoldOptions, hold};
use recorder::keeper::Keepers;
use recorder::keeper::store::Manager;
use recorder::queue::QueueOptions;
use recorder::{Options, Registry, StopSignals, server};
use tracing_subscriber::EnvFilter;

/// Writes the changelogs of plain bricks.
///
/// Bricks are attached and detached through the socket, by the monitor. SIGTERM writes everything down and ends.
#[derive(Parser, Debug)]
#[command(name = "gsync-recorder", version, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Socket to listen on; only the owner of the process can connect.
    #[arg(long, required = true)]
    socket: Option<PathBuf>,
    /// Directory for sockets of processes that hold the queues of events while no recorder runs. Without it the service
    /// manager holds them, if there is one that can; if not, every start crawls.
    #[arg(long)]
    holders: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as recorder=debug.
    #[arg(long, default_value = "info", env = "GSYNC_LOG_LEVEL")]
    log_level: String,
    /// Keep the kernel's limit of 16,384 waiting events, for tests; beyond it bricks are crawled.
    #[arg(long, hide = true)]
    limited_queue: bool,
    /// Room for events that are not written down yet, for tests.
    #[arg(long, hide = true)]
    ring_bytes: Option<u64>,
    /// Ask the kernel for no more than this level, for tests: full or full-moved.
    #[arg(long, hide = true, value_parser = level, default_value = "full")]
    level: Level,
}

fn level(name: &str) -> Result<Level, String> {
    Level::parse(name).ok_or_else(|| "there is no such level".into())
}

#[derive(Subcommand, Debug)]
enum Mode {
    /// Holds the queue of events of one file system (recorders start this by themselves)
    Hold {
        /// Socket to listen on
        #[arg(long)]
        socket: PathBuf,
        /// How many events may wait, for tests
        #[arg(long, hide = true)]
        events_max: Option<u64>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match (&arguments.mode, &arguments.socket) {
        (Some(Mode::Hold { socket, events_max }), _) => {
            let options = HoldOptions::default();
            let options = HoldOptions { events_max: events_max.unwrap_or(options.events_max) };
            hold(socket, options).map_err(Into::into)
        }
        (None, Some(socket)) => run(&arguments, socket),
        // The command line is refused before.
        (None, None) => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            eprintln!(
                "hint: the recorder needs root, a writable socket directory, and no other recorder on the socket"
            );
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, socket: &Path) -> anyhow::Result<()> {
    let keepers = keepers(arguments);
    let filter = EnvFilter::try_new(&arguments.log_level).context("--log-level")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    end_with_threads();
    let signals = StopSignals::block().context("cannot hold back signals")?;
    raise_descriptor_limit();
    let default = QueueOptions::default();
    let ring_bytes = arguments.ring_bytes.unwrap_or(default.ring_bytes);
    let queue = QueueOptions { limited: arguments.limited_queue, ring_bytes, best: arguments.level };
    let registry = Arc::new(Registry::new(Options { keepers, queue }));
    let listener = server::listen(socket)?;
    tracing::info!(socket = %socket.display(), "ready");
    let serving = registry.clone();
    std::thread::Builder::new().name("accept".into()).spawn(move || server::serve(&listener, &serving))?;
    signals.wait();
    tracing::info!("stopping");
    registry.stop();
    drop(std::fs::remove_file(socket));
    Ok(())
}

/// To be called first: what the service manager passed are descriptors with fixed numbers.
fn keepers(arguments: &Arguments) -> Keepers {
    if let Some(dir) = &arguments.holders {
        return Keepers::Holders(dir.clone());
    }
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Keepers::Nobody };
    let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|name| std::env::var(name).ok());
    let passed = Manager::passed(pid.as_deref(), count.as_deref(), names.as_deref());
    Keepers::Store(Arc::new(Manager::new(socket, passed)))
}

/// A recorder of which one thread is dead records nothing and looks alive; one that ended is started again.
fn end_with_threads() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        if std::thread::current().name() != Some("connection") {
            std::process::abort();
        }
    }));
}

/// Every connection may have a batch of open files on its way.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
