//! A real sshd on this machine, with keys of its own and a forced command.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::{need, proc};

/// The home directory of its sessions, below the temporary directory.
const HOME: &str = "home";

/// The keys that are let in, below the temporary directory.
const AUTHORIZED_KEYS: &str = "home/.ssh/authorized_keys";

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How often another port is tried when somebody was faster.
const PORT_TRIES: usize = 5;

/// A running sshd that listens on 127.0.0.1 only; stopped with all its sessions on drop.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    port: u16,
    user: String,
    dir: tempfile::TempDir,
}

impl Sshd {
    /// Whether this machine can run one.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn available() -> Result<(), String> {
        need::root()?;
        ["sshd", "ssh", "ssh-keygen"].iter().try_for_each(|name| need::program(name).map(|_| ()))
    }

    /// Starts one. Whoever logs in with [`Sshd::identity`] gets `forced_command`, whatever was asked for.
    ///
    /// # Errors
    /// When a program fails, with what it said.
    pub fn start(forced_command: &str) -> anyhow::Result<Sshd> {
        let command = forced_command.replace('\\', "\\\\").replace('"', "\\\"");
        Sshd::start_with(&format!("restrict,command=\"{command}\" "))
    }

    /// Starts one in which [`Sshd::identity`] may do anything, as an operator's own key: for pairing. The home
    /// directory of its sessions is a temporary one, so that keys are appended to [`Sshd::authorized_keys`].
    ///
    /// # Errors
    /// As [`Sshd::start`].
    pub fn start_open() -> anyhow::Result<Sshd> {
        Sshd::start_with("restrict ")
    }

    fn start_with(key_options: &str) -> anyhow::Result<Sshd> {
        let dir = tempfile::Builder::new().prefix("gsync-sshd-").tempdir()?;
        let keygen = |name: &str| -> anyhow::Result<String> {
            let key = dir.path().join(name);
            let mut program = Command::new("ssh-keygen");
            program.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key);
            let output = program.output().context("cannot start ssh-keygen")?;
            ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
            Ok(fs::read_to_string(key.with_extension("pub"))?)
        };
        let (host_key, user_key) = (keygen("host")?, keygen("user")?);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir.path().join(AUTHORIZED_KEYS).with_file_name(""))?;
        fs::write(dir.path().join(AUTHORIZED_KEYS), format!("{key_options}{user_key}"))?;
        // sshd separates its privileges in this directory and refuses to start without it.
        fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd")?;
        let user = String::from_utf8(Command::new("id").arg("-un").output()?.stdout)?.trim().to_owned();
        for _ in 0..PORT_TRIES {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            fs::write(dir.path().join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}"))?;
            if let Some(child) = start_on(port, dir.path(), &user)? {
                return Ok(Sshd { child, port, user, dir });
            }
        }
        bail!("no port could be had: {}", log(dir.path()))
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The user to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The private key that is let in.
    pub fn identity(&self) -> PathBuf {
        self.dir.path().join("user")
    }

    /// The public key that is let in.
    pub fn identity_public(&self) -> PathBuf {
        self.dir.path().join("user.pub")
    }

    /// The known_hosts file with its host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// The file with the keys that are let in; sshd reads it at each login.
    pub fn authorized_keys(&self) -> PathBuf {
        self.dir.path().join(AUTHORIZED_KEYS)
    }

    /// An ssh that logs in here, without anybody's own configuration; the command is still to be added.
    pub fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p", &self.port.to_string()]);
        ssh.arg("-i").arg(self.identity());
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.known_hosts().display()));
        ssh.arg(format!("{}@127.0.0.1", self.user));
        ssh
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        log(self.dir.path())
    }

    /// The processes of its sessions: what serves a connection, and what runs in it.
    pub fn sessions(&self) -> Vec<proc::Process> {
        let own = self.child.id() as i32;
        proc::tree(own).into_iter().filter(|process| process.pid != own).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for process in self.sessions() {
            process.kill();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None` when the port was taken meanwhile.
fn start_on(port: u16, dir: &Path, user: &str) -> anyhow::Result<Option<Child>> {
    let config = dir.join("sshd_config");
    let at = |name: &str| dir.join(name).display().to_string();
    let lines = [
        format!("Port {port}"),
        "ListenAddress 127.0.0.1".into(),
        format!("HostKey {}", at("host")),
        format!("AuthorizedKeysFile {}", at(AUTHORIZED_KEYS)),
        format!("SetEnv HOME={}", at(HOME)),
        "PidFile none".into(),
        // Without PAM a locked account cannot log in, not even with a key; with it a container may lack its rules.
        format!("UsePAM {}", if is_locked(user) { "yes" } else { "no" }),
        "PermitRootLogin prohibit-password".into(),
        "PasswordAuthentication no".into(),
        "KbdInteractiveAuthentication no".into(),
        // The keys are in a temporary directory, below one that all may write to.
        "StrictModes no".into(),
        "UseDNS no".into(),
        "PrintMotd no".into(),
        "MaxSessions 100".into(),
        "MaxStartups 200".into(),
    ];
    fs::write(&config, lines.join("\n") + "\n")?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
    let program = need::program("sshd").map_err(anyhow::Error::msg)?;
    let mut child = Command::new(program)
        .args(["-D", "-f"])
        .arg(&config)
        .arg("-E")
        .arg(dir.join("log"))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start sshd")?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let log = log(dir);
            if log.contains("Address already in use") {
                return Ok(None);
            }
            bail!("sshd ended, {status}: {log}");
        }
        if answers(port) {
            return Ok(Some(child));
        }
        if start.elapsed() > START_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            bail!("sshd does not answer: {}", log(dir));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut banner = [0; 4];
    stream.set_read_timeout(Some(START_LIMIT)).is_ok() && stream.read_exact(&mut banner).is_ok() && banner == *b"SSH-"
}

fn is_locked(user: &str) -> bool {
    let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
    shadow.lines().any(|line| line.strip_prefix(user).is_some_and(|rest| rest.starts_with(":!")))
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_gets_the_forced_command() {
        crate::require!(Sshd::available());
        let sshd = Sshd::start("echo \"forced: $SSH_ORIGINAL_COMMAND\"; cat").unwrap();
        let mut ssh = sshd.ssh();
        let mut child = ssh.arg("do as I say").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"bytes").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "forced: do as I say\nbytes", "{}", sshd.log());
    }

    #[test]
    fn sessions_end_with_it() {
        crate::require!(Sshd::available());
        let sshd = Sshd::start("sleep 1000").unwrap();
        let mut ssh = sshd.ssh().stdin(Stdio::null()).spawn().unwrap();
        let limit = Duration::from_secs(10);
        crate::wait::wait_until("the session", limit, || sshd.sessions().iter().any(|p| p.name() == "sleep"));
        let (sessions, port) = (sshd.sessions(), sshd.port());
        drop(sshd);
        ssh.wait().unwrap();
        crate::wait::wait_until("the sessions' end", limit, || sessions.iter().all(|p| !proc::is_running(p.pid)));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn an_open_one_lets_its_own_home_be_changed() {
        crate::require!(Sshd::available());
        let (sshd, other) = (Sshd::start_open().unwrap(), Sshd::start("true").unwrap());
        let key = fs::read_to_string(other.identity_public()).unwrap();
        let script = format!("echo '{}' >> ~/.ssh/authorized_keys && echo $HOME", key.trim());
        let output = sshd.ssh().arg(script).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), sshd.dir.path().join(HOME).to_str().unwrap());
        fs::copy(other.identity(), sshd.identity()).unwrap();
        fs::remove_file(sshd.identity_public()).unwrap();
        assert!(sshd.ssh().arg("true").output().unwrap().status.success(), "{}", sshd.log());
    }

    #[test]
    fn other_keys_are_refused() {
        crate::require!(Sshd::available());
        let (sshd, other) = (Sshd::start("true").unwrap(), Sshd::start("true").unwrap());
        fs::copy(other.identity(), sshd.identity()).unwrap();
        fs::remove_file(sshd.identity_public()).unwrap();
        assert!(!sshd.ssh().output().unwrap().status.success());
    }
}
