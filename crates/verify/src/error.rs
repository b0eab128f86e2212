//! Why there is no result.

use std::io;
use std::path::PathBuf;

use protocol::FrameError;

use crate::TreePath;

/// Why a comparison could not be made. What differs or cannot be read *in* a tree is never an error, see
/// [`What`](crate::What).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The root of a tree cannot be opened: it must exist and be a directory.
    #[error("Cannot open the root {path:?}")]
    Root {
        /// The root.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No thread could be started for a walk.
    #[error("Cannot start a thread")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
    /// A walk ended before its end; a bug.
    #[error("The walk below {path:?} broke off")]
    WalkBroke {
        /// The root.
        path: PathBuf,
    },
    /// The channel to the other side broke or carries something else: try again with a new one.
    #[error("The channel to the other side failed")]
    Channel {
        /// What went wrong.
        #[from]
        source: FrameError,
    },
    /// The peer does not speak this protocol.
    #[error("The other side does not answer as a manifest server, but with {found:02x?}")]
    NotManifest {
        /// What came instead of the magic bytes.
        found: [u8; 8],
    },
    /// The peer is too old or too new.
    #[error("The other side speaks versions {min} to {max} of the manifest protocol")]
    Version {
        /// Its oldest.
        min: u16,
        /// Its newest.
        max: u16,
    },
    /// The peer could not do what was asked.
    #[error("The other side says: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// The peer sent a path that is none, or one out of order.
    #[error("The other side sent an impossible path after {after}")]
    Disorder {
        /// The last good path.
        after: TreePath,
    },
    /// The peer asks for more than a server keeps in memory.
    #[error("A request of more than {limit_bytes} bytes was refused")]
    RequestTooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// A channel was used again after it had failed, or after a comparison that did not come to its end.
    #[error("The channel to the other side is not usable any more")]
    ChannelSpent,
    /// The caller could not wait for what is in flight.
    #[error("Cannot wait for what is in flight")]
    Wait {
        /// What the caller says.
        source: io::Error,
    },
}
