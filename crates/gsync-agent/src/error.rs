//! What can go wrong, and what is to be done about it.

use std::io;
use std::path::PathBuf;

use protocol::agent::Outcome;
use protocol::{FrameError, Gfid};
use rustix::io::Errno;

/// Why the agent, a door or a channel cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// `trusted.*` xattrs, owners and devices need root. Run the agent as root.
    #[error("the agent must run as root: it stamps every object with a trusted.* xattr and sets owners")]
    NotRoot,
    /// The root cannot be opened. The operator has to make or mount it.
    #[error("the root {path} of the secondary cannot be opened", path = path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The root is a brick; writing to it behind GlusterFS's back would damage the volume.
    #[error("{path} is a brick of a GlusterFS volume; use the volume as the secondary", path = path.display())]
    GlusterBrick {
        /// The directory.
        path: PathBuf,
    },
    /// Something in `.gsync/` cannot be used.
    #[error("the agent's own {name} below the root cannot be used")]
    Private {
        /// What.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The index failed; the next start makes a new one from the stamps.
    #[error("the index cannot be used")]
    Index(#[from] IndexError),
    /// A channel ended or its peer does not speak our protocol. The worker connects again.
    #[error("a channel ended")]
    Channel(#[from] FrameError),
    /// The comparison with the primary ended. Asked for again, it starts anew.
    #[error("the comparison ended")]
    Manifest(#[from] verify::VerifyError),
    /// What was asked is not on the list of what a door does.
    #[error("not something that this door does: {asked}")]
    NotAllowed {
        /// What was asked, cut.
        asked: String,
    },
    /// No agent could be reached or started.
    #[error("no agent for this root could be reached: {reason}")]
    Unreachable {
        /// What was seen.
        reason: String,
    },
    /// The agent does not know the stage token (any more). The worker gets a new one with a new connection.
    #[error("the stage token is not known")]
    UnknownToken,
    /// The system refused something that has no better place here.
    #[error("{tried} failed")]
    System {
        /// What was tried.
        tried: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The index could not be read or written. Always fatal: what is on the disk and what is in the index may differ now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The store failed.
    #[error(transparent)]
    Store(Box<redb::Error>),
    /// The store was made by another version.
    #[error("format {found} of the index is not known")]
    Format {
        /// The format number in it.
        found: u64,
    },
    /// The crawl that made it did not end.
    #[error("the index is not complete")]
    Incomplete,
    /// A row cannot be understood.
    #[error("the row of {gfid} in the index is damaged")]
    Row {
        /// The object.
        gfid: Gfid,
    },
}

/// Why an item was not carried out.
#[derive(Debug)]
pub enum Trouble {
    /// The item has this outcome; the tree is as it was.
    Answer(Outcome),
    /// The index is broken; nothing further may be done.
    Index(IndexError),
}

/// A step of an item.
pub type Step<T> = Result<T, Trouble>;

impl Trouble {
    /// An outcome for what the system refused.
    pub fn system(tried: &str, errno: Errno) -> Trouble {
        Trouble::Answer(Outcome::Failed { errno: errno.raw_os_error(), reason: format!("{tried}: {errno}") })
    }

    /// An outcome for what the agent refuses.
    pub fn refused(reason: impl Into<String>) -> Trouble {
        Trouble::Answer(Outcome::Failed { errno: 0, reason: reason.into() })
    }
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Trouble {
        Trouble::Index(error)
    }
}

/// Says what was tried when the system refuses.
pub trait Tried<T> {
    /// Turns an error of the system into [`Outcome::Failed`] with what was tried.
    ///
    /// # Errors
    /// The converted one.
    fn tried(self, what: &str) -> Step<T>;
}

impl<T> Tried<T> for rustix::io::Result<T> {
    fn tried(self, what: &str) -> Step<T> {
        self.map_err(|e| Trouble::system(what, e))
    }
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: &str) -> Step<T> {
        self.map_err(|e| {
            Trouble::Answer(Outcome::Failed { errno: e.raw_os_error().unwrap_or(0), reason: format!("{what}: {e}") })
        })
    }
}

macro_rules! from_store {
    ($($error:ty),*) => {$(
        impl From<$error> for IndexError {
            fn from(error: $error) -> IndexError {
                IndexError::Store(Box::new(error.into()))
            }
        }
    )*};
}
from_store!(
    redb::Error,
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);
