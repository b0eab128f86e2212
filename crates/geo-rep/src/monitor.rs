//! Reaching the monitor, and starting it when there is none.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use cluster::Session;
use gsync_monitor::api::{Answer, Request};
use gsync_monitor::status::StatusReport;
use gsync_monitor::{Client, ClientError, Programs, RunDir, StateDir};

use crate::address::Declared;
use crate::cli::Global;
use crate::exit::problem;

/// How long a monitor may take to answer after it was started.
const UP_LIMIT: Duration = Duration::from_secs(15);

/// How often a starting monitor is tried.
const UP_POLL: Duration = Duration::from_millis(20);

/// A monitor log that is longer when a monitor is started is put aside.
const LOG_MAX_BYTES: u64 = 50 << 20;

/// The monitor of this machine, running or not.
#[derive(Debug)]
pub struct Monitor {
    /// Its state directory, absolute.
    pub state: StateDir,
    /// Its run directory, absolute.
    pub run: RunDir,
    /// Where programs are.
    pub programs: Programs,
    bin_dir: Option<PathBuf>,
    cluster_file: Option<PathBuf>,
}

impl Monitor {
    /// The monitor of these directories; does nothing yet.
    pub fn new(global: &Global) -> Monitor {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let bin_dir = global.bin_dir.as_deref().map(absolute);
        Monitor {
            state: StateDir::new(absolute(&global.state_dir)),
            run: RunDir::new(absolute(&global.run_dir)),
            programs: bin_dir.clone().map_or_else(Programs::beside_this, Programs::in_dir),
            bin_dir,
            cluster_file: global.cluster_file.as_deref().map(absolute),
        }
    }

    /// Whether there is, or ever was, a monitor here.
    pub fn was_ever_used(&self) -> bool {
        self.state.node().exists()
    }

    /// Connects; starts the monitor if it does not run.
    pub fn reach(&self) -> anyhow::Result<Link> {
        let socket = self.run.monitor_socket();
        if let Some(link) = self.try_reach(&socket)? {
            return Ok(link);
        }
        require_root()?;
        let mut child = self.start()?;
        let deadline = Instant::now() + UP_LIMIT;
        loop {
            if let Some(link) = self.try_reach(&socket)? {
                return Ok(link);
            }
            let ended = child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = self.state.monitor_log();
                let text = format!("the monitor does not start: {}", last_line(&log));
                return Err(problem(text, format!("details are in {}", log.display())));
            }
            std::thread::sleep(UP_POLL);
        }
    }

    /// `None` when there is no monitor, or one that is just ending: it may accept a connection that it never serves.
    fn try_reach(&self, socket: &Path) -> anyhow::Result<Option<Link>> {
        let link = Client::connect(socket).map_err(Into::into).and_then(|client| Link::greet(client, &self.state));
        match link {
            Ok(link) => Ok(Some(link)),
            Err(error) => match error.downcast_ref::<ClientError>() {
                Some(ClientError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    Err(problem("only root may talk to the monitor", "run the command as root"))
                }
                Some(ClientError::Io { .. }) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Connects, and reads what is declared.
    pub fn reach_declared(&self) -> anyhow::Result<(Link, Declared)> {
        let mut link = self.reach()?;
        let declared = link.declared()?;
        Ok((link, declared))
    }

    /// What is declared, without starting anything; empty when no monitor runs.
    pub fn declared_now(&self) -> anyhow::Result<Declared> {
        let link = self.try_reach(&self.run.monitor_socket())?;
        link.map_or_else(|| Ok(Declared::default()), |mut link| link.declared())
    }

    fn start(&self) -> anyhow::Result<Child> {
        for dir in [self.state.path(), &self.state.logs()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let path = self.state.monitor_log();
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_MAX_BYTES) {
            let _ = fs::rename(&path, path.with_extension("log.1"));
        }
        let log = OpenOptions::new().append(true).create(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let program = self.programs.find("gsync-monitor");
        let mut command = Command::new(&program);
        command.arg("--background").arg("--state-dir").arg(self.state.path()).arg("--run-dir").arg(self.run.path());
        if let Some(dir) = &self.bin_dir {
            command.arg("--bin-dir").arg(dir);
        }
        if let Some(file) = &self.cluster_file {
            command.arg("--cluster-file").arg(file);
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {}", program.display()))
    }
}

/// A connection to the running monitor.
#[derive(Debug)]
pub struct Link {
    client: Client,
    /// Name of this node.
    pub node: String,
}

impl Link {
    fn greet(mut client: Client, state: &StateDir) -> anyhow::Result<Link> {
        match client.ask(&Request::Hello)? {
            Answer::Hello { node, state_dir, .. } if same_dir(&state_dir, state.path()) => Ok(Link { client, node }),
            Answer::Hello { state_dir, .. } => {
                let text = format!("the monitor in this run directory has the state directory {}", state_dir.display());
                Err(problem(text, "give --state-dir and --run-dir that belong together"))
            }
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    /// Asks.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.client.ask(request)
    }

    /// What is declared.
    pub fn declared(&mut self) -> anyhow::Result<Declared> {
        match self.ask(&Request::Declared)? {
            Answer::Declared { volumes, sessions } => Ok(Declared { volumes, sessions }),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    /// How one session, or all, are.
    pub fn status(&mut self, session: Option<&str>) -> anyhow::Result<StatusReport> {
        match self.ask(&Request::Status { session: session.map(Into::into) })? {
            Answer::Status(report) => Ok(report),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    /// Asks for something that is answered with the session.
    pub fn change(&mut self, request: &Request) -> anyhow::Result<Session> {
        match self.ask(request)? {
            Answer::Session { session } => Ok(session),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    /// Waits until what was changed before is on the secondary; whether it is, and how much is pending.
    pub fn wait(&mut self, session: &str, limit: Duration) -> Result<(bool, u64), ClientError> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Wait { session: session.into(), timeout_ms })? {
            Answer::Waited { done, pending } => Ok((done, pending)),
            _ => Err(ClientError::Unexpected),
        }
    }
}

/// Refuses to go on without root's rights.
pub fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(problem("this needs root: owners, devices and trusted xattrs are replicated", "run it with sudo"))
}

fn same_dir(a: &Path, b: &Path) -> bool {
    a == b || fs::canonicalize(a).ok().zip(fs::canonicalize(b).ok()).is_some_and(|(a, b)| a == b)
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("it says nothing").trim().to_owned()
}
