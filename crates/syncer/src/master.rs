//! The one ssh connection that carries all channels.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::channel::LastLine;
use crate::error::SyncError;
use crate::target::SshTarget;

/// How long the connection may take: ssh gives up after `ConnectTimeout` (10 s) by itself; this is for what comes
/// after (key exchange with a host that does not answer).
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked whether the control socket is there.
const POLL: Duration = Duration::from_millis(20);

/// A running ssh master; the connection ends when it is dropped.
#[derive(Debug)]
pub struct Master {
    child: Child,
}

impl Master {
    /// Connects and returns when channels can be opened.
    ///
    /// # Errors
    /// [`SyncError::Connect`] with what ssh said.
    pub async fn connect(target: &SshTarget) -> Result<Master, SyncError> {
        // A control socket left by a master that was killed would make ssh refuse to listen.
        match std::fs::remove_file(&target.control_path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(SyncError::Local { doing: "removing a stale ssh control socket", source: e });
            }
            _ => {}
        }
        let line = target.base();
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .args(["-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-N", "--"])
            .arg(target.destination())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SyncError::Start { program: target.command.display().to_string(), source })?;
        let said = LastLine::follow(child.stderr.take(), "ssh");
        let deadline = tokio::time::Instant::now() + CONNECT_LIMIT;
        loop {
            if target.control_path.exists() {
                return Ok(Master { child });
            }
            if let Ok(Some(status)) = child.try_wait() {
                tokio::time::sleep(POLL).await;
                return Err(SyncError::Connect { reason: said.or(&format!("ssh ended with {status}")) });
            }
            if tokio::time::Instant::now() > deadline {
                return Err(SyncError::Connect { reason: said.or("ssh did not connect in time") });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Returns when the connection has ended.
    pub async fn ended(&mut self) {
        let _ = self.child.wait().await;
    }
}
