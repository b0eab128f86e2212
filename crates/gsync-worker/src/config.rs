//! What a worker is told at its start, by the monitor.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::brake::Limits;

/// Everything that a worker needs to know; the monitor writes it as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Identity of the session (UUID text).
    pub session: String,
    /// Name of the session, for messages.
    pub session_name: String,
    /// Name of the node of the brick, for messages.
    pub node: String,
    /// Number of the replica set in the volume, from 0.
    pub replica_set: u32,
    /// Identity of the brick (UUID text).
    pub brick: String,
    /// The brick's directory, for messages only: the worker reaches the brick through its recorder.
    pub brick_path: PathBuf,
    /// Fencing number of this ACTIVE.
    pub epoch: u64,
    /// Socket of the brick's recorder.
    pub recorder_socket: PathBuf,
    /// Where the worker answers [`control`](crate::control) requests.
    pub control_socket: PathBuf,
    /// A directory of the worker's own for short-lived files (ssh control socket, links to open files); its path
    /// should be short, as a Unix socket's may have 107 bytes.
    pub run_dir: PathBuf,
    /// The secondary.
    pub secondary: SecondaryConfig,
    /// Settings of the session.
    pub settings: Settings,
}

/// Where the secondary is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SecondaryConfig {
    /// A directory on this machine; the agent is started as a child process.
    Local {
        /// The secondary's root.
        path: PathBuf,
        /// The program `gsync-agent`.
        agent: PathBuf,
    },
    /// A directory on another machine, whose sshd starts the agent as a forced command.
    Ssh {
        /// User over there.
        user: Option<String>,
        /// Host name or address.
        host: String,
        /// The secondary's root over there; the agent has to serve this one.
        path: PathBuf,
        /// Port of sshd.
        port: u16,
        /// Private key.
        identity: Option<PathBuf>,
        /// The file with the pinned host key.
        known_hosts: Option<PathBuf>,
        /// Further options, each passed as it is.
        options: Vec<String>,
        /// The ssh program.
        command: PathBuf,
    },
}

impl SecondaryConfig {
    /// The secondary's root.
    pub fn path(&self) -> &std::path::Path {
        match self {
            SecondaryConfig::Local { path, .. } | SecondaryConfig::Ssh { path, .. } => path,
        }
    }
}

/// Which engine carries file data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// rsync on both ends: sends differences.
    Rsync,
    /// tar streams: sends whole files.
    Tar,
    /// rsync for large files of which the secondary has an older content, tar streams for all others.
    Auto,
}

/// Settings of the session that a worker heeds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which engine carries file data.
    pub sync_engine: EngineKind,
    /// Parallel data transfers, 1 to 8.
    pub sync_jobs: u32,
    /// The rsync program.
    pub rsync_command: PathBuf,
    /// The brake: percent of the secondary's objects.
    pub brake_share: u32,
    /// The brake: number of objects.
    pub brake_count: u32,
}

impl Settings {
    /// Limits of the brake.
    pub fn brake(&self) -> Limits {
        Limits { share: self.brake_share, count: self.brake_count.into(), free: None }
    }
}
