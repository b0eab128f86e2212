//! Command lines of ssh.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context;
use cluster::{Session, Settings};
use gsync_monitor::StateDir;

/// How to log in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// `[user@]host`
    pub destination: String,
    /// The ssh program.
    pub command: PathBuf,
    /// Port of sshd; ssh's own choice when absent.
    pub port: Option<u16>,
    /// Private key; ssh's own choice when absent.
    pub identity: Option<PathBuf>,
    /// File with the pinned host key.
    pub known_hosts: PathBuf,
    /// Whether a host whose key is not pinned yet is trusted, and pinned.
    pub accept_new: bool,
    /// Further arguments.
    pub options: Vec<String>,
}

impl Login {
    /// How the worker of a session logs in; `None` for a local secondary.
    pub fn of_session(session: &Session, state: &StateDir) -> anyhow::Result<Option<Login>> {
        let Some(destination) = session.secondary.destination() else { return Ok(None) };
        let settings = Settings::resolve(&session.settings)?;
        Ok(Some(Login {
            destination,
            command: settings.ssh_command,
            port: Some(settings.ssh_port),
            identity: Some(settings.ssh_identity.unwrap_or_else(|| state.session_key(session.id))),
            known_hosts: state.known_hosts(session.id),
            accept_new: false,
            options: settings.ssh_options,
        }))
    }

    /// Program and arguments that ask for `words`.
    pub fn line(&self, words: &[&str]) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![self.command.clone().into()];
        let mut option = |text: String| line.extend([OsString::from("-o"), text.into()]);
        option("BatchMode=yes".into());
        option("ConnectTimeout=10".into());
        option("ServerAliveInterval=5".into());
        option("ServerAliveCountMax=3".into());
        option("ClearAllForwardings=yes".into());
        option(format!("UserKnownHostsFile={}", option_value(&self.known_hosts)));
        option(format!("StrictHostKeyChecking={}", if self.accept_new { "accept-new" } else { "yes" }));
        if let Some(port) = self.port {
            option(format!("Port={port}"));
        }
        if let Some(identity) = &self.identity {
            option("IdentitiesOnly=yes".into());
            option(format!("IdentityFile={}", option_value(identity)));
        }
        line.extend(self.options.iter().map(OsString::from));
        line.extend([OsString::from("--"), self.destination.clone().into()]);
        line.extend(words.iter().map(OsString::from));
        line
    }

    /// Runs `words` over there and returns what they say.
    pub fn run(&self, words: &[&str], input: &[u8]) -> anyhow::Result<Output> {
        let line = self.line(words);
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.command.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A peer that ends early says why on its stderr.
            let _ = stdin.write_all(input);
        }
        Ok(child.wait_with_output()?)
    }
}

/// A path as the value of an option of ssh, which splits at blanks and expands what follows a per cent sign.
fn option_value(path: &Path) -> String {
    let escaped = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{escaped}\"")
}

/// The known keys of a host in the operator's own file, so that a pinned host is not trusted anew.
pub fn known_keys(host: &str, port: Option<u16>) -> Vec<u8> {
    let Some(home) = std::env::home_dir() else { return Vec::new() };
    let file = home.join(".ssh/known_hosts");
    let name = match port {
        Some(port) if port != 22 => format!("[{host}]:{port}"),
        _ => host.to_owned(),
    };
    keygen(&["-F", &name, "-f"], &file).map(|output| output.stdout).unwrap_or_default()
}

/// Makes a key pair without a passphrase.
pub fn make_key(path: &Path, comment: &str) -> anyhow::Result<()> {
    let output = keygen(&["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"], path)?;
    anyhow::ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn keygen(args: &[&str], path: &Path) -> anyhow::Result<Output> {
    let output = Command::new("ssh-keygen").args(args).arg(path).stdin(Stdio::null()).output();
    output.context("cannot start ssh-keygen (package openssh-client)")
}
