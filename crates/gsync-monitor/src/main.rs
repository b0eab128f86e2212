//! `gsync-monitor`: one per node; started by `geo-rep` or by the system.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cluster::LogLevel;
use gsync_monitor::paths::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use gsync_monitor::{MonitorConfig, MonitorError, Programs, RunDir, StateDir};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Another monitor has the state directory.
const EXIT_RUNNING: u8 = 3;

/// Keeps the processes of this node's geo-replication sessions running.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Where sessions, indexes and logs are kept
    #[arg(long, env = "GSYNC_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Where sockets are
    #[arg(long, env = "GSYNC_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Where gsync-recorder, gsync-worker and gsync-agent are [default: beside this program, then PATH]
    #[arg(long, env = "GSYNC_BIN_DIR")]
    bin_dir: Option<PathBuf>,
    /// File that tells how to reach etcd [default: /etc/gsync/cluster.toml, where there is one]
    #[arg(long, env = "GSYNC_CLUSTER_FILE")]
    cluster_file: Option<PathBuf>,
    /// Least severe messages that are logged: error, warn, info or debug
    #[arg(long, default_value = "info")]
    log_level: String,
    /// Leave the terminal that it was started from
    #[arg(long)]
    background: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = LogLevel::parse(&arguments.log_level.to_uppercase());
    let filter = EnvFilter::new(level.to_string());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    if arguments.background {
        // It fails for the leader of a process group, which has left the terminal already or was started by hand.
        let _ = rustix::process::setsid();
    }
    let state = StateDir::new(arguments.state_dir);
    let config = MonitorConfig {
        cluster_file: state.cluster_file(arguments.cluster_file),
        state,
        run: RunDir::new(arguments.run_dir),
        programs: arguments.bin_dir.map_or_else(Programs::beside_this, Programs::in_dir),
        log_level: level,
        seed: fastrand::u64(..),
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            match error.downcast_ref() {
                Some(MonitorError::Running { .. }) => ExitCode::from(EXIT_RUNNING),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// One thread: the children are bound to it (see the library's `sys`), and there is little to do.
#[tokio::main(flavor = "current_thread")]
async fn run(config: MonitorConfig) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopper = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopper.cancel();
    });
    Ok(gsync_monitor::run(config, shutdown).await?)
}
