//! `gsync-worker`: replicates one brick of one session. Started by the monitor.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use gsync_worker::config::WorkerConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Another worker took over: there is no sense in starting this one again.
const EXIT_FENCED: u8 = 3;

/// Replicates one brick of one session.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// What to replicate where, as the monitor wrote it (JSON)
    #[arg(long)]
    config: PathBuf,
    /// Least severe messages that are logged: error, warn, info or debug
    #[arg(long, default_value = "info")]
    log_level: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_new(arguments.log_level.to_lowercase()).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match work(arguments) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn work(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let text = std::fs::read(&arguments.config)
        .with_context(|| format!("cannot read the configuration {}", arguments.config.display()))?;
    let config: WorkerConfig = serde_json::from_slice(&text)
        .with_context(|| format!("cannot understand the configuration {}", arguments.config.display()))?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopper.cancel();
    });
    match gsync_worker::run::run(config, stop).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) if e.is_fenced() => {
            tracing::warn!(error = %e, "another worker took over");
            Ok(ExitCode::from(EXIT_FENCED))
        }
        Err(e) => Err(e.into()),
    }
}
