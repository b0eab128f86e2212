//! Asking the agent of a secondary: on this machine as a child, elsewhere through ssh.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context;
use cluster::Session;
use gsync_monitor::StateDir;
use protocol::check::{Prepare, Prepared, Release, Report};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::problem;
use crate::pairing::ssh::Login;

/// How a door of a root is reached.
#[derive(Clone, Debug)]
pub enum Door {
    /// On this machine.
    Local {
        /// The program `gsync-agent`.
        agent: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// Through the session's key, whose forced command knows the root.
    Ssh(Login),
}

impl Door {
    /// The door of a session's secondary.
    pub fn of_session(session: &Session, state: &StateDir, agent: PathBuf) -> anyhow::Result<Door> {
        Ok(match Login::of_session(session, state)? {
            Some(login) => Door::Ssh(login),
            None => Door::Local { agent, root: session.secondary.path().to_path_buf() },
        })
    }

    /// What the root is like.
    pub fn check(&self) -> anyhow::Result<Report> {
        parse(&self.run("check", b"")?)
    }

    /// Makes the root ready for a session; returns where its holdings went.
    pub fn prepare(&self, asked: &Prepare) -> anyhow::Result<Option<String>> {
        let Prepared { error, quarantine } = self.ask("prepare", asked)?;
        match error {
            None => Ok(quarantine),
            Some(error) => Err(problem(
                format!("the secondary could not be made ready: {error}"),
                "nothing was changed; mend it and try again",
            )),
        }
    }

    /// Gives the root free.
    pub fn release(&self, session: &str) -> anyhow::Result<()> {
        let Prepared { error, .. } = self.ask("release", &Release { session: session.into() })?;
        error.map_or(Ok(()), |error| Err(anyhow::anyhow!(error)))
    }

    fn ask<A: DeserializeOwned>(&self, verb: &str, asked: &impl Serialize) -> anyhow::Result<A> {
        parse(&self.run(verb, &serde_json::to_vec(asked)?)?)
    }

    fn run(&self, verb: &str, input: &[u8]) -> anyhow::Result<Output> {
        match self {
            Door::Ssh(login) => login.run(&["gsync", verb], input),
            Door::Local { agent, root } => {
                let mut command = Command::new(agent);
                command.arg("door").arg("--root").arg(root).args(["--", "gsync", verb]);
                talk(command, input).with_context(|| format!("cannot start {}", agent.display()))
            }
        }
    }
}

/// What a directory of this machine is like; it need not be there yet.
pub fn check_here(agent: &Path, root: &Path) -> anyhow::Result<Report> {
    let mut command = Command::new(agent);
    command.arg("check").arg("--root").arg(root);
    let output = talk(command, b"").map_err(|error| {
        let text = format!("gsync-agent ({}) cannot be started: {error}", agent.display());
        problem(text, "install all programs of one release into one directory")
    })?;
    parse(&output).map_err(|error| {
        let text = format!("{} is not the gsync-agent of this release: {error}", agent.display());
        problem(text, "install all programs of one release into one directory")
    })
}

fn talk(mut command: Command, input: &[u8]) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A peer that ends early says why on its stderr.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

fn parse<A: DeserializeOwned>(output: &Output) -> anyhow::Result<A> {
    serde_json::from_slice(&output.stdout).map_err(|_| anyhow::anyhow!(said(output)))
}

/// The last thing that a program said, or how it ended.
pub fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let interesting = |line: &&&str| !line.starts_with("Warning: Permanently added");
    match lines.iter().rev().find(interesting) {
        Some(line) => (*line).to_owned(),
        None => format!("it ended with {}", output.status),
    }
}
