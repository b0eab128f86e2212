//! `gsync-agent`: the door that ssh starts, and the agent that it leads to.
//!
//! Exit codes: 0 done; 1 refused or failed, with one line on stderr (a door) or the causes (the agent); 2 wrong
//! usage.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use gsync_agent::channel::Stopper;
use gsync_agent::serve::{ServeOptions, Served, serve};
use gsync_agent::{AgentError, applier, door, sys};

/// Applies what a worker sends below one directory of the secondary.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Does what the other side of an ssh connection asks, if it is on the list
    Door {
        /// Directory of the secondary
        #[arg(long)]
        root: PathBuf,
        /// What is asked, instead of SSH_ORIGINAL_COMMAND
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Says as JSON what a directory is like that is to become a secondary; changes nothing
    Check {
        /// Directory of the secondary, which need not be there yet
        #[arg(long)]
        root: PathBuf,
    },
    /// Serves a directory until nobody needs it any more (doors start this by themselves)
    Serve {
        /// Directory of the secondary
        #[arg(long)]
        root: PathBuf,
        /// Ends after so many seconds without a connection
        #[arg(long, default_value_t = 30)]
        idle_exit_seconds: u64,
        /// Leaves the session of whoever started it
        #[arg(long)]
        detach: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Door { root, words } => run_door(&root, words),
        Command::Check { root } => door::say(&door::check::check(&root)),
        Command::Serve { root, idle_exit_seconds, detach } => run_serve(&root, idle_exit_seconds, detach),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", applier::explain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run_door(root: &std::path::Path, words: Vec<String>) -> Result<(), AgentError> {
    let words = if words.is_empty() {
        let asked = std::env::var("SSH_ORIGINAL_COMMAND").unwrap_or_default();
        asked.split_ascii_whitespace().map(String::from).collect()
    } else {
        words
    };
    let program = std::env::current_exe();
    let program = program.map_err(|source| AgentError::System { tried: "finding this program", source })?;
    door::run(root, &words, &program)
}

fn run_serve(root: &std::path::Path, idle_exit_seconds: u64, detach: bool) -> Result<(), AgentError> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    if detach {
        // Fails for the leader of a process group, which is detached as far as we need.
        let _ = rustix::process::setsid();
    }
    sys::block_stop_signals();
    let stop = Stopper::new().map_err(|source| AgentError::System { tried: "making an event", source })?;
    let signalled = stop.clone();
    std::thread::spawn(move || {
        sys::wait_for_stop_signal();
        signalled.stop();
    });
    let options = ServeOptions { idle_exit: Duration::from_secs(idle_exit_seconds) };
    match serve(root, options, &stop)? {
        Served::AlreadyServed | Served::Clean => Ok(()),
        Served::Unclean => {
            Err(AgentError::System { tried: "stopping cleanly", source: std::io::Error::other("see the lines above") })
        }
    }
}
