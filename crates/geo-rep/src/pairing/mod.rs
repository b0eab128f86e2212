//! Giving a session access to its secondary on another machine, and nothing more.
//!
//! With the operator's own access: look at the other side, append one line to its authorized_keys that lets the
//! session's new key start one command, test it. The key and the pinned host key are kept below the state directory.
//!
//! Layout
//! - `mod`: the steps, each undone when a later one fails
//! - [`ssh`]: command lines of ssh
//! - [`probe`]: scripts for the other side

pub mod probe;
pub mod ssh;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::Context;
use cluster::{Secondary, SessionId, words};
use gsync_monitor::StateDir;
use protocol::check::{Place, Report};

use crate::cli::Create;
use crate::door::{Door, said};
use crate::exit::problem;
use crate::monitor::Monitor;
use probe::Probe;
use ssh::Login;

/// A pairing under way. What it made here is removed when it is dropped without [`Pairing::keep`]; so is the line over
/// there.
#[derive(Debug)]
pub struct Pairing {
    state: StateDir,
    id: SessionId,
    name: String,
    secondary: Secondary,
    operator: Login,
    /// Holds the host key until everything was checked.
    scratch: PathBuf,
    local_agent: PathBuf,
    remote_agent: Option<String>,
    /// What the other side is like, once it was probed.
    probe: Option<Probe>,
    /// The line that was appended over there.
    installed: Option<String>,
    /// Whether the other side was made ready.
    is_prepared: bool,
    is_kept: bool,
}

impl Pairing {
    /// Takes the host keys that the operator knows. Nothing is done over there, nor in the state directory.
    pub fn begin(monitor: &Monitor, wanted: &Create, id: SessionId, secondary: &Secondary) -> anyhow::Result<Pairing> {
        let Secondary::Ssh { host, .. } = secondary else {
            return Err(problem("pairing is for secondaries on other machines", "name one as [user@]host:/directory"));
        };
        if let Some(key) = wanted.ssh_identity.as_ref().filter(|key| !key.is_file()) {
            return Err(problem(format!("there is no key {}", key.display()), "name your own private key"));
        }
        let scratch = std::env::temp_dir().join(format!("geo-rep-{id}"));
        let made = fs::DirBuilder::new().mode(0o700).create(&scratch);
        made.with_context(|| format!("cannot create {}", scratch.display()))?;
        let known_hosts = scratch.join("known_hosts");
        let operator = Login {
            destination: secondary.destination().unwrap_or_default(),
            command: "ssh".into(),
            port: wanted.ssh_port,
            identity: wanted.ssh_identity.clone(),
            known_hosts: known_hosts.clone(),
            accept_new: true,
            options: Vec::new(),
        };
        let pairing = Pairing {
            state: monitor.state.clone(),
            id,
            name: String::new(),
            secondary: secondary.clone(),
            operator,
            scratch,
            local_agent: monitor.programs.find("gsync-agent"),
            remote_agent: wanted.remote_agent.clone(),
            probe: None,
            installed: None,
            is_prepared: false,
            is_kept: false,
        };
        let known = ssh::known_keys(host, wanted.ssh_port);
        fs::write(&known_hosts, known).with_context(|| known_hosts.display().to_string())?;
        Ok(pairing)
    }

    /// Looks at the other side with the operator's access; changes nothing there.
    pub fn probe(&mut self) -> anyhow::Result<Report> {
        let dir = self.secondary.path().to_string_lossy().into_owned();
        let agent = self.remote_agent.clone().unwrap_or_default();
        let here = self.local_agent.to_string_lossy().into_owned();
        let quoted = [words::quote(&dir), words::quote(&agent), words::quote(&here)];
        let command = ["sh", "-s", "--", &quoted[0], &quoted[1], &quoted[2]];
        let output = self.operator.run(&command, probe::SCRIPT.as_bytes())?;
        let Some(found) = Probe::parse(&String::from_utf8_lossy(&output.stdout)) else {
            return Err(self.no_login(&output));
        };
        let to = &self.operator.destination;
        let Some(agent) = &found.agent else {
            let hint = "install this release on the secondary too, or name the program with --remote-agent";
            return Err(problem(format!("there is no gsync-agent on {to}"), hint));
        };
        let Some(report) = found.report.clone() else {
            let ours = protocol::hello::Versions::ours().software;
            let text = format!(
                "{agent} on {to} says '{}' of itself and does not answer as release {ours} does, which is here",
                found.version
            );
            return Err(problem(text, format!("install gsync-agent of release {ours} on {to}")));
        };
        self.probe = Some(found);
        Ok(report)
    }

    /// Makes the key, installs it over there and tests it. Returns the door that it opens.
    pub fn push(&mut self, name: &str) -> anyhow::Result<Door> {
        self.name = name.into();
        let found = self.probe.clone().unwrap_or_default();
        let line = self.make_key(found.agent.as_deref().unwrap_or("gsync-agent"))?;
        let dir = words::quote(&self.secondary.path().to_string_lossy());
        let script = words::quote(probe::INSTALL);
        let input = format!("{line}\n");
        let output = self.operator.run(&["sh", "-c", &script, "sh", &dir], input.as_bytes())?;
        self.installed = Some(line);
        if !output.status.success() {
            let text = format!("the key could not be installed on {}: {}", self.operator.destination, said(&output));
            return Err(problem(text, "check the disk and the rights over there, or use --no-push"));
        }
        self.test()?;
        Ok(self.door())
    }

    /// The other side is made ready: that is to be undone, too.
    pub fn prepared(&mut self) {
        self.is_prepared = true;
    }

    /// Makes the key and pins the host's, without logging in; returns the line for authorized_keys.
    pub fn prepare_unpushed(&mut self, name: &str) -> anyhow::Result<String> {
        self.name = name.into();
        // The host's key is pinned even when the login fails.
        let output = self.operator.run(&["true"], b"")?;
        let pinned = fs::metadata(&self.operator.known_hosts).is_ok_and(|file| file.len() > 0);
        if !pinned {
            return Err(self.no_login(&output));
        }
        let agent = self.remote_agent.clone().unwrap_or_else(|| "gsync-agent".into());
        self.make_key(&agent)
    }

    /// The session is declared: what was made stays.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Makes the session's directory with key and pinned host key.
    fn make_key(&self, agent: &str) -> anyhow::Result<String> {
        let dir = self.state.session(self.id);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("cannot create {}", dir.display()))?;
        fs::copy(&self.operator.known_hosts, self.state.known_hosts(self.id)).context("cannot keep the host key")?;
        let key = self.state.session_key(self.id);
        ssh::make_key(&key, &format!("geo-rep {}", self.name))?;
        let public = fs::read_to_string(key.with_extension("pub"))?;
        authorized_line(agent, self.secondary.path(), &public, &self.name)
    }

    fn door(&self) -> Door {
        Door::Ssh(Login {
            identity: Some(self.state.session_key(self.id)),
            accept_new: false,
            known_hosts: self.state.known_hosts(self.id),
            ..self.operator.clone()
        })
    }

    /// Asks with the new key what the secondary is like.
    fn test(&self) -> anyhow::Result<()> {
        let hint = "look at the log of sshd over there; it says why a key is refused";
        let report = self.door().check().map_err(|error| {
            problem(format!("the new key does not work on {}: {error}", self.operator.destination), hint)
        })?;
        match report.error {
            Some(error) => Err(problem(format!("the secondary {} cannot be used: {error}", self.secondary), hint)),
            None => Ok(()),
        }
    }

    fn no_login(&self, output: &Output) -> anyhow::Error {
        let to = &self.operator.destination;
        let hint = format!(
            "'ssh {to}' has to work without a password now (ssh-copy-id {to}); give --ssh-port and --ssh-identity \
             where they are needed, or use --no-push"
        );
        problem(format!("cannot log in on {to}: {}", said(output)), hint)
    }
}

impl Drop for Pairing {
    fn drop(&mut self) {
        if !self.is_kept {
            self.undo();
        }
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

impl Pairing {
    fn undo(&self) {
        if self.is_prepared {
            let _ = self.door().release(&self.id.to_string());
        }
        if let Some(line) = &self.installed {
            let report = self.probe.as_ref().and_then(|probe| probe.report.as_ref());
            let was_missing = report.is_some_and(|report| report.place == Place::Missing);
            let dir = if was_missing { self.secondary.path().to_string_lossy().into_owned() } else { String::new() };
            let words = ["sh", "-c", &words::quote(probe::REMOVE), "sh", &words::quote(&dir)];
            let _ = self.operator.run(&words, format!("{line}\n").as_bytes());
        }
        let _ = fs::remove_dir_all(self.state.session(self.id));
    }
}

/// The line that lets a key start the door of one directory, and nothing else.
pub fn authorized_line(agent: &str, root: &Path, public: &str, name: &str) -> anyhow::Result<String> {
    let root = root.to_str().filter(|root| !root.contains('\n'));
    let root = root.ok_or_else(|| problem("the secondary's path is no plain text", "name another directory"))?;
    let command = format!("{} door --root {}", words::quote(agent), words::quote(root));
    let key: Vec<&str> = public.split_whitespace().take(2).collect();
    Ok(format!("restrict,command=\"{}\" {} geo-rep {name}", command.replace('"', "\\\""), key.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_allows_one_command() {
        let public = "ssh-ed25519 AAAA comment";
        let line = authorized_line("/usr/bin/gsync-agent", Path::new("/copy"), public, "web").unwrap();
        assert_eq!(line, "restrict,command=\"/usr/bin/gsync-agent door --root /copy\" ssh-ed25519 AAAA geo-rep web");
        let odd = authorized_line("gsync-agent", Path::new("/it's \"x\" $HOME"), public, "web").unwrap();
        assert!(odd.contains(r#"command="gsync-agent door --root '/it'\''s \"x\" $HOME'""#), "{odd}");
    }
}
