//! `gsync-recorder`: the process that writes the changelogs of plain bricks.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use recorder::{Options, Registry, StopSignals, server};
use tracing_subscriber::EnvFilter;

/// Writes the changelogs of plain bricks.
///
/// Bricks are attached and detached through the socket, by the monitor. SIGTERM writes everything down and ends.
#[derive(Parser, Debug)]
#[command(name = "gsync-recorder", version)]
struct Arguments {
    /// Socket to listen on; only the owner of the process can connect.
    #[arg(long)]
    socket: PathBuf,
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as recorder=debug.
    #[arg(long, default_value = "info", env = "GSYNC_LOG_LEVEL")]
    log_level: String,
    /// Keep the kernel's limit of 16,384 waiting events, for tests; beyond it bricks are crawled.
    #[arg(long, hide = true)]
    limited_queue: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
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

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log_level).context("--log-level")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    end_with_threads();
    let signals = StopSignals::block().context("cannot hold back signals")?;
    raise_descriptor_limit();
    let registry = Arc::new(Registry::new(Options { limited_queue: arguments.limited_queue }));
    let listener = server::listen(&arguments.socket)?;
    tracing::info!(socket = %arguments.socket.display(), "ready");
    let serving = registry.clone();
    std::thread::Builder::new().name("accept".into()).spawn(move || server::serve(&listener, &serving))?;
    signals.wait();
    tracing::info!("stopping");
    registry.stop();
    drop(std::fs::remove_file(&arguments.socket));
    Ok(())
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
