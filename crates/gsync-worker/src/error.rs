//! Why a worker had to begin anew.

use std::io;
use std::path::PathBuf;

use protocol::FrameError;
use protocol::agent::Refusal;
use syncer::SyncError;

use crate::control::Halted;

/// An error that ends the connection; the worker begins again from the mark.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The recorder is not there or went away. Retry; the monitor starts it again.
    #[error("cannot ask the brick's recorder at {socket}: {source}")]
    Recorder {
        /// Its socket.
        socket: PathBuf,
        /// What went wrong.
        source: FrameError,
    },
    /// The recorder refuses. Retry: the monitor may not have attached the brick yet.
    #[error("the brick's recorder refuses: {reason}")]
    RecorderRefuses {
        /// Its reason.
        reason: String,
    },
    /// The changelog cannot be read. Retry.
    #[error("cannot read the changelog: {0}")]
    Changelog(#[from] changelog::error::Error),
    /// The secondary is not there or went away. Retry.
    #[error(transparent)]
    Secondary(#[from] SyncError),
    /// The agent answered something that does not belong to the request.
    #[error("the agent's answer does not fit the request")]
    Nonsense,
    /// Too much would be removed. The operator decides.
    #[error("{}", .0.message())]
    Halted(Box<Halted>),
    /// Something on this machine. Retry.
    #[error("{doing}: {source}")]
    Local {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl WorkerError {
    /// Whether another worker took over: this one has to end.
    pub fn is_fenced(&self) -> bool {
        matches!(self, WorkerError::Secondary(SyncError::Refused(Refusal::Fenced { .. })))
    }
}
