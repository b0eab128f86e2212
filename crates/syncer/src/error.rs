//! What can go wrong on the way to the secondary.

use std::io;

use protocol::FrameError;
use protocol::agent::Refusal;
use protocol::hello::Versions;

/// Why something could not be done on the secondary.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A program could not be started. Retry; if it stays, it is not installed.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection did not come up. Retry.
    #[error("cannot reach the secondary: {reason}")]
    Connect {
        /// What ssh or the agent said last.
        reason: String,
    },
    /// The channel broke. Connect again.
    #[error("the channel to the secondary broke: {0}")]
    Channel(#[from] FrameError),
    /// The connection ended. Connect again.
    #[error("the connection to the secondary has ended")]
    Ended,
    /// The agent refuses. For [`Refusal::Fenced`] stop, for others an operator is needed.
    #[error("the secondary refuses: {0}")]
    Refused(#[from] Refusal),
    /// Worker and agent are of releases that do not understand each other. Retry; an operator is needed.
    #[error(
        "gsync-agent over there is release {} (protocol {} to {}), this is release {} (protocol {} to {}): install the \
         same release on both sides",
        there.software, there.min, there.max, here.software, here.min, here.max
    )]
    Version {
        /// What the agent speaks.
        there: Versions,
        /// What the worker speaks.
        here: Versions,
    },
    /// The peer is not an agent of ours.
    #[error("the secondary answered with something that is not our protocol; does a login script print text?")]
    NotOurs,
    /// rsync failed as a whole. Retry.
    #[error("rsync ended with {status}: {message}")]
    Rsync {
        /// How it ended.
        status: String,
        /// What it printed last.
        message: String,
    },
    /// Something on this machine. Retry.
    #[error("{doing}: {source}")]
    Local {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl SyncError {
    /// Names what was tried beside what the system said.
    pub fn local(doing: &'static str) -> impl FnOnce(io::Error) -> SyncError {
        move |source| SyncError::Local { doing, source }
    }
}
