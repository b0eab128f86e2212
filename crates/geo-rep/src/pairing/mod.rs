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

use crate::checks;
use crate::cli::Create;
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
    local_agent: PathBuf,
    remote_agent: Option<String>,
    /// What the other side is like, once it was probed.
    probe: Option<Probe>,
    /// The line that was appended over there.
    installed: Option<String>,
    is_kept: bool,
}

impl Pairing {
    /// Makes the session's directory with the host keys that the operator knows. Nothing is done over there.
    pub fn begin(
        monitor: &Monitor,
        wanted: &Create,
        id: SessionId,
        name: &str,
        secondary: &Secondary,
    ) -> anyhow::Result<Pairing> {
        let Secondary::Ssh { host, .. } = secondary else {
            return Err(problem("pairing is for secondaries on other machines", "name one as [user@]host:/directory"));
        };
        if let Some(key) = wanted.ssh_identity.as_ref().filter(|key| !key.is_file()) {
            return Err(problem(format!("there is no key {}", key.display()), "name your own private key"));
        }
        let dir = monitor.state.session(id);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("cannot create {}", dir.display()))?;
        let operator = Login {
            destination: secondary.destination().unwrap_or_default(),
            command: "ssh".into(),
            port: wanted.ssh_port,
            identity: wanted.ssh_identity.clone(),
            known_hosts: monitor.state.known_hosts(id),
            accept_new: true,
            options: Vec::new(),
        };
        let pairing = Pairing {
            state: monitor.state.clone(),
            id,
            name: name.into(),
            secondary: secondary.clone(),
            operator,
            local_agent: monitor.programs.find("gsync-agent"),
            remote_agent: wanted.remote_agent.clone(),
            probe: None,
            installed: None,
            is_kept: false,
        };
        let known = monitor.state.known_hosts(id);
        fs::write(&known, ssh::known_keys(host, wanted.ssh_port)).with_context(|| known.display().to_string())?;
        Ok(pairing)
    }

    /// Looks at the other side with the operator's access and refuses what cannot work.
    pub fn probe(&mut self, primary: &Path, force: bool) -> anyhow::Result<()> {
        let shown = self.secondary.to_string();
        let dir = self.secondary.path().to_string_lossy().into_owned();
        let agent = self.remote_agent.clone().unwrap_or_default();
        let here = self.local_agent.to_string_lossy().into_owned();
        let quoted = [words::quote(&dir), words::quote(&agent), words::quote(&here)];
        let command = ["sh", "-s", "--", &quoted[0], &quoted[1], &quoted[2]];
        let output = self.operator.run(&command, probe::SCRIPT.as_bytes())?;
        let Some(found) = Probe::parse(&String::from_utf8_lossy(&output.stdout)) else {
            return Err(self.no_login(&output));
        };
        if !found.is_root && !force {
            let hint = "name the user root, as root@host:/directory, or use --force where only your own files matter";
            return Err(problem(format!("the user of {shown} is not root and could not set owners"), hint));
        }
        if found.agent.is_none() {
            let hint = "install this release on the secondary too, or name the program with --remote-agent";
            return Err(problem(format!("there is no gsync-agent on {}", self.operator.destination), hint));
        }
        let Some(place) = found.place else {
            let hint = "create it, or mount the file system that it is on";
            let text = if found.is_parent_missing {
                format!("neither the secondary {shown} nor the directory above it exists")
            } else {
                format!("the secondary {shown} is not a directory")
            };
            return Err(problem(text, hint));
        };
        checks::is_usable(place, &shown, force)?;
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        if !machine.trim().is_empty() && machine.trim() == found.machine && !force {
            checks::are_apart(primary, Path::new(&found.path))?;
        }
        self.probe = Some(found);
        Ok(())
    }

    /// Makes the key, installs it over there and tests it.
    pub fn push(&mut self) -> anyhow::Result<()> {
        let found = self.probe.clone().unwrap_or_default();
        let line = self.make_key(found.agent.as_deref().unwrap_or("gsync-agent"))?;
        let dir = words::quote(&self.secondary.path().to_string_lossy());
        let script = words::quote(probe::INSTALL);
        let input = format!("{line}\n");
        let output = self.operator.run(&["sh", "-c", &script, "sh", &dir], input.as_bytes())?;
        if !output.status.success() {
            let text = format!("the key could not be installed on {}: {}", self.operator.destination, said(&output));
            return Err(problem(text, "check the disk and the rights over there, or use --no-push"));
        }
        self.installed = Some(line);
        self.test()
    }

    /// Makes the key and pins the host's, without logging in; returns the line for authorized_keys.
    pub fn prepare_unpushed(&mut self) -> anyhow::Result<String> {
        // The host's key is pinned even when the login fails.
        let output = self.operator.run(&["true"], b"")?;
        let pinned = fs::metadata(self.state.known_hosts(self.id)).is_ok_and(|file| file.len() > 0);
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

    fn make_key(&self, agent: &str) -> anyhow::Result<String> {
        let key = self.state.session_key(self.id);
        ssh::make_key(&key, &format!("geo-rep {}", self.name))?;
        let public = fs::read_to_string(key.with_extension("pub"))?;
        authorized_line(agent, self.secondary.path(), &public, &self.name)
    }

    /// Asks with the new key what the secondary is like.
    fn test(&self) -> anyhow::Result<()> {
        let login =
            Login { identity: Some(self.state.session_key(self.id)), accept_new: false, ..self.operator.clone() };
        let output = login.run(&["gsync", "check"], b"")?;
        let answer = serde_json::from_slice::<serde_json::Value>(&output.stdout);
        let hint = "look at the log of sshd over there; it says why a key is refused";
        match answer {
            Ok(answer) => match answer.get("error").and_then(|error| error.as_str()) {
                Some(error) => Err(problem(format!("the secondary {} cannot be used: {error}", self.secondary), hint)),
                None => Ok(()),
            },
            Err(_) => {
                let text = format!("the new key does not work on {}: {}", self.operator.destination, said(&output));
                Err(problem(text, hint))
            }
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
        if self.is_kept {
            return;
        }
        if let Some(line) = &self.installed {
            let script = words::quote(probe::REMOVE);
            let _ = self.operator.run(&["sh", "-c", &script], format!("{line}\n").as_bytes());
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

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let interesting = |line: &&&str| !line.starts_with("Warning: Permanently added");
    match lines.iter().rev().find(interesting) {
        Some(line) => (*line).to_owned(),
        None => format!("it ended with {}", output.status),
    }
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
