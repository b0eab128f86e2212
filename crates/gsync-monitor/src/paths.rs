//! The files below the state directory, which survive a reboot, and the run directory, which need not.

use std::path::{Path, PathBuf};

use cluster::{BrickId, SessionId};

/// Where the state is unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/gsync";

/// Where sockets and process ids are unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/gsync";

/// Tells how to reach etcd, if it exists.
pub const DEFAULT_CLUSTER_FILE: &str = "/etc/gsync/cluster.toml";

/// The longest run directory in bytes: a Unix socket's path has at most 107, and ssh appends a suffix of its own to that
/// of its control socket below.
pub const RUN_DIR_MAX: usize = 60;

/// What survives a reboot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Files below this directory.
    pub fn new(path: impl Into<PathBuf>) -> StateDir {
        StateDir(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Locked by the one monitor of this directory.
    pub fn lock(&self) -> PathBuf {
        self.0.join("monitor.lock")
    }

    /// Name of this node, one line; written once, so that a new host name does not orphan the bricks.
    pub fn node(&self) -> PathBuf {
        self.0.join("node")
    }

    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// The lease of the monitor in etcd; says that the sessions are there.
    pub fn etcd_lease(&self) -> PathBuf {
        self.0.join("etcd-lease")
    }

    /// The cluster file to be heeded: the one that is given; otherwise the system's, which is only meant for the
    /// system's state directory, so that a trial beside it has nothing to do with the cluster.
    pub fn cluster_file(&self, given: Option<PathBuf>) -> Option<PathBuf> {
        let default = || Path::new(DEFAULT_CLUSTER_FILE);
        given.or_else(|| (self.0 == Path::new(DEFAULT_STATE_DIR) && default().exists()).then(|| default().into()))
    }

    /// Index and journal of a brick.
    pub fn brick(&self, brick: BrickId) -> PathBuf {
        self.0.join("bricks").join(brick.to_string())
    }

    /// Key and pinned host key of a session.
    pub fn session(&self, session: SessionId) -> PathBuf {
        self.0.join("sessions").join(session.to_string())
    }

    /// Private key that was made for a session.
    pub fn session_key(&self, session: SessionId) -> PathBuf {
        self.session(session).join("id_ed25519")
    }

    /// Pinned host key of a session's secondary.
    pub fn known_hosts(&self, session: SessionId) -> PathBuf {
        self.session(session).join("known_hosts")
    }

    /// The logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Log of the monitor.
    pub fn monitor_log(&self) -> PathBuf {
        self.logs().join("monitor.log")
    }

    /// Log of a worker; `number` is that of the brick in its volume, from 0.
    pub fn worker_log(&self, session: &str, number: usize) -> PathBuf {
        self.logs().join(format!("{session}-{number}.log"))
    }

    /// Log of a recorder.
    pub fn recorder_log(&self, device: u64) -> PathBuf {
        self.logs().join(format!("recorder-{device:x}.log"))
    }
}

/// What belongs to the running processes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Files below this directory.
    pub fn new(path: impl Into<PathBuf>) -> RunDir {
        RunDir(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Socket of the monitor.
    pub fn monitor_socket(&self) -> PathBuf {
        self.0.join("monitor.sock")
    }

    /// Process id of the monitor; locked by it.
    pub fn monitor_pid(&self) -> PathBuf {
        self.0.join("monitor.pid")
    }

    /// Socket of the recorder of a file system.
    pub fn recorder_socket(&self, device: u64) -> PathBuf {
        self.0.join(format!("rec-{device:x}.sock"))
    }

    /// Socket of the process that holds the queue of events of a file system.
    pub fn holder_socket(&self, device: u64) -> PathBuf {
        self.0.join(protocol::hold::socket_name(device))
    }

    /// Configuration of a worker.
    pub fn worker_config(&self, session: SessionId, number: usize) -> PathBuf {
        self.0.join(format!("{}.json", short(session, number)))
    }

    /// Control socket of a worker.
    pub fn worker_socket(&self, session: SessionId, number: usize) -> PathBuf {
        self.0.join(format!("{}.sock", short(session, number)))
    }

    /// Directory for the short-lived files of a worker.
    pub fn worker_dir(&self, session: SessionId, number: usize) -> PathBuf {
        self.0.join(short(session, number))
    }
}

/// Names a worker: 12 digits of the session's identity are enough on one node, and sockets need short paths.
fn short(session: SessionId, number: usize) -> String {
    let digits: String = session.to_string().chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("w-{digits}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stay_short() {
        let run = RunDir::new("r".repeat(RUN_DIR_MAX));
        let session = SessionId::random();
        // ssh binds its control socket as `<path>.<16 random characters>` first.
        let ssh = run.worker_dir(session, 9999).join("ssh.0123456789abcdef");
        for path in [run.worker_socket(session, 9999), run.recorder_socket(u64::MAX), run.holder_socket(u64::MAX), ssh]
        {
            assert!(path.as_os_str().len() <= 107, "{}", path.display());
        }
    }
}
