//! What ssh (or a local worker) starts: looks at what is asked, and hands it to the one who does it.
//!
//! Layout:
//! - `mod`: what is asked for, and that it is done
//! - [`words`]: the words of a forced command, checked (pure)
//! - [`asked`]: what a door says to the agent
//! - [`connect`]: reaching the agent, starting it when there is none
//! - [`rsync`]: becoming the rsync server
//! - [`check`], [`features`]: what the secondary is like, for the operator
//! - [`prepare`], [`census`]: making it ready for a session

pub mod asked;
pub mod census;
pub mod check;
pub mod connect;
pub mod features;
pub mod prepare;
pub mod rsync;
pub mod words;

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use crate::error::AgentError;
use asked::{Asked, DoorAnswer};
use words::Task;

/// Does what is asked; returns when it is over.
///
/// # Errors
/// [`AgentError`] with what the operator on the other side has to know.
pub fn run(root: &Path, asked: &[String], program: &Path) -> Result<(), AgentError> {
    match words::parse(asked)? {
        Task::Control => pass(root, program, Asked::Control),
        Task::Stage => pass(root, program, Asked::Stage),
        Task::Rsync { token, options } => rsync::run(root, &token, &options),
        // Reads only, so it needs no agent.
        Task::Manifest => Ok(verify::serve(root, std::io::stdin().lock(), std::io::stdout().lock())?),
        Task::Check => say(&check::check(root)),
        Task::Prepare => say(&prepare::prepare(root, std::io::stdin().lock())),
        Task::Release => say(&prepare::release(root, std::io::stdin().lock())),
    }
}

/// Writes one JSON object to stdout.
///
/// # Errors
/// [`AgentError::System`].
pub fn say(answer: &impl serde::Serialize) -> Result<(), AgentError> {
    let system = |source| AgentError::System { tried: "writing the answer", source };
    let line = serde_json::to_string(answer).map_err(|e| system(e.into()))? + "\n";
    std::io::stdout().write_all(line.as_bytes()).map_err(system)
}

/// Hands stdin and stdout to the agent and waits until it is done with them.
fn pass(root: &Path, program: &Path, asked: Asked) -> Result<(), AgentError> {
    let mut agent = connect::connect(root, program, &asked)?;
    // The agent has its own copies. Ours would keep ssh from seeing the end.
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|source| AgentError::System { tried: "opening /dev/null", source })?;
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    // Nothing is said any more: the end is what is waited for.
    let _ = agent.read(&mut [0]);
    Ok(())
}

/// Turns the agent's refusal into the door's.
fn accepted(answer: DoorAnswer) -> Result<(), AgentError> {
    match answer {
        DoorAnswer::Accepted => Ok(()),
        DoorAnswer::Refused(reason) => Err(AgentError::Unreachable { reason }),
    }
}

/// A path to a name below an open directory: the socket's own path may be longer than a socket address.
fn path_below(dir: &impl AsFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd())
}
