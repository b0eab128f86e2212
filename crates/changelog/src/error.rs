//! What can go wrong, and what is to be done about it.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Why a journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed. Retry, with back-off; what was read or written before stays valid.
    #[error("Cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A record handed to the writer cannot be written. Nothing of its batch was. A defect of the caller.
    #[error("Record cannot be encoded: {reason}")]
    Unencodable {
        /// Which rule it breaks.
        reason: Damage,
    },
    /// Another process writes this journal. Fatal: end one of the two.
    #[error("Journal {} is being written by another process", dir.display())]
    Locked {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// An earlier sync failed, so nobody knows what of the slice is on the disk. Drop the writer, open the journal
    /// again and record everything since the last successful sync once more.
    #[error("Journal {} failed to sync earlier and must be opened again", dir.display())]
    Poisoned {
        /// The journal's directory.
        dir: PathBuf,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes the function that wraps an errno for `map_err`.
    pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }
}

/// Why bytes are not a slice of GlusterFS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// The file does not begin with the header's text.
    #[error("not a changelog header")]
    Header,
    /// The header names a version that is neither 1.1 nor 1.2.
    #[error("unknown version")]
    Version,
    /// The header names an encoding that is neither 1 (binary) nor 2 (ASCII).
    #[error("unknown encoding")]
    Encoding,
    /// A record begins with something else than D, E or M.
    #[error("unknown record type")]
    Type,
    /// A GFID is not 36 characters of hexadecimal with dashes.
    #[error("bad GFID")]
    Gfid,
    /// A number is not plain decimal below 2^32.
    #[error("bad number")]
    Number,
    /// Something else stands where a NUL or a `/` belongs.
    #[error("bad separator")]
    Separator,
    /// An E record has an operation that changes no name.
    #[error("unknown entry operation")]
    EntryFop,
    /// A name is empty, longer than 255 bytes, `.`, `..`, or contains `/` or NUL.
    #[error("bad name")]
    Name,
    /// The captured path of a delete is empty, too long, or contains NUL.
    #[error("bad captured path")]
    CapturedPath,
}
