//! What can go wrong, and what is to be done about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a brick cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed. What was recorded before stays valid; a restart crawls.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The index failed. Attach the brick again: it is crawled.
    #[error("the index of the brick failed: {0}")]
    Index(Box<redb::Error>),
    /// A row of the index has a form that this build does not know. Attach again: the index is rebuilt.
    #[error("the index of the brick is damaged: {what}")]
    IndexDamaged {
        /// What does not fit.
        what: &'static str,
    },
    /// The changelog could not be written. Attach the brick again: it is crawled.
    #[error("the changelog of the brick failed")]
    Journal(#[from] changelog::Error),
    /// The brick cannot be recorded as it is. For the operator to change.
    #[error("{0}")]
    Unsuitable(String),
    /// The brick is not there now: nothing can be said about what is in it. It is looked for again and again.
    #[error("the brick {} is not there: {what}; nothing is removed on the secondary, and it goes on when the brick is back", path.display())]
    NotThere {
        /// The brick.
        path: PathBuf,
        /// What is there instead, or what the system says.
        what: String,
    },
    /// What is there would mean that everything was removed. The operator decides.
    #[error(
        "the brick {} is {what} Nothing is removed on the secondary. If it is meant to be as it is now: geo-rep resume \
         SESSION --accept-brick", path.display()
    )]
    NeedsConsent {
        /// The brick.
        path: PathBuf,
        /// What is strange about it.
        what: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }

    pub(crate) fn not_there(path: &Path, what: &str) -> Error {
        Error::NotThere { path: path.to_owned(), what: what.to_owned() }
    }

    pub(crate) fn needs_consent(path: &Path, what: &str) -> Error {
        Error::NeedsConsent { path: path.to_owned(), what: what.to_owned() }
    }

    /// The message with its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

macro_rules! from_redb {
    ($($source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(error: $source) -> Error {
                Error::Index(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);
